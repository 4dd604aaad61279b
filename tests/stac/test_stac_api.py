"""Searching a STAC API that is busy, old, or sends less than was asked for."""

import time

import pytest

pytest.importorskip("pystac_client", reason="the extra acquire is not installed")

from small_api import SmallApi, api_served, item

from tfds_dwplus.imagery import stac_api
from tfds_dwplus.imagery.acquisitions import ArchiveError
from tfds_dwplus.imagery.stac_api import PRESETS, Collection, StacArchive, check_collections, preset_of, search

ITEMS = [item(f"i{number:03d}") for number in range(130)]
NAMES = [one["id"] for one in ITEMS]


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Seconds that were waited, in the order of waiting."""
    seconds: list[float] = []
    monkeypatch.setattr(stac_api.time, "sleep", seconds.append)
    monkeypatch.setattr(stac_api.random, "uniform", lambda low, high: 1.0)
    return seconds


@pytest.fixture
def api():
    with api_served(list(ITEMS)) as served:
        yield served


def found(api: SmallApi, **more) -> list[str]:
    items = search(Collection(api.url, "c"), 10.0, (15.0, 42.0, 16.0, 43.0), "2019-06-01T00:00:00Z/..", **more)
    return [one.id for one in items]


def limits(api: SmallApi) -> list[int]:
    return [int(asked["limit"]) for _, path, asked in api.asked if path == "/search"]


def test_pages_have_a_hundred_items(api, waits):
    assert found(api) == NAMES and limits(api) == [100, 100] and not waits


@pytest.mark.parametrize("status", [400, 413, 422, 500, 502, 503])
def test_a_page_that_is_too_long_is_halved(api, status):
    api.hook = lambda method, path, asked: status if path == "/search" and int(asked["limit"]) > 30 else None
    assert found(api) == NAMES
    assert limits(api)[:3] == [100, 50, 25]


def test_a_page_halved_to_one_item_in_the_middle(api):
    """The second page is too long, whatever its length, but of one item."""
    api.hook = lambda method, path, asked: 502 if asked.get("token", 0) and int(asked["limit"]) > 1 else None
    assert found(api) == NAMES and min(limits(api)) == 1


def test_a_request_that_is_wrong_is_told_in_the_end(api, waits):
    api.hook = lambda method, path, asked: 400 if path == "/search" else None
    with pytest.raises(ArchiveError, match=r"the search of .* failed: HTTP 400"):
        found(api)
    assert limits(api) == [100, 50, 25, 12, 6, 3, 1] and not waits


def busy(times, where, said=429):
    left = [times]

    def hook(method, path, asked):
        if path != where or not left[0]:
            return None
        left[0] -= 1
        return said

    return hook


@pytest.mark.parametrize("where", ["/", "/collections/c", "/search"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_api_is_asked_again_after_a_while(api, waits, where, status):
    api.hook = busy(2, where, status)
    collection = Collection(api.url, "c")
    check_collections(StacArchive(collection, collection, "", "", 10.0))
    assert found(api) == NAMES
    assert waits == [0.5, 1.0]


def test_the_wait_that_is_asked_for_is_kept(api, waits):
    api.hook = busy(1, "/search", (429, {"Retry-After": "7"}))
    assert found(api) == NAMES
    api.hook = busy(1, "/search", (503, {"Retry-After": "86400"}))
    assert found(api) == NAMES
    api.hook = busy(
        1, "/search", (429, {"Retry-After": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))})
    )
    assert found(api) == NAMES
    assert waits[:2] == [7.0, stac_api.LONGEST_WAIT_S] and 25 < waits[2] <= 30


def test_an_api_that_stays_busy_is_left(api, waits):
    api.hook = lambda method, path, asked: 429
    with pytest.raises(ArchiveError, match=r"no STAC API answers at .*: HTTP 429"):
        found(api)
    assert len(api.asked) == 5 and waits == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize("status", [403, 404, 405, 501])
def test_an_api_that_knows_get_alone(api, status):
    api.hook = lambda method, path, asked: status if method == "POST" else None
    assert found(api) == NAMES
    assert found(api) == NAMES
    assert [method for method, path, _ in api.asked if path == "/search"] == ["POST", "GET", "GET", "GET", "GET"]


def test_where_get_is_refused_too_the_first_refusal_is_told(api):
    api.hook = lambda method, path, asked: (405 if method == "POST" else 404) if path == "/search" else None
    with pytest.raises(ArchiveError, match="HTTP 405"):
        found(api)


@pytest.mark.filterwarnings("error")
def test_a_landing_page_without_conformance_or_links(api, capfd):
    api.landing, api.links = {}, ()
    collection = Collection(api.url, "c")
    check_collections(StacArchive(collection, collection, "", "", 10.0))
    assert found(api) == NAMES
    assert capfd.readouterr() == ("", "")


def test_what_is_no_stac_api_is_told(api):
    api.landing = {"links": None}
    with pytest.raises(ArchiveError, match="its answer is not the landing page of a STAC API"):
        found(api)


def test_an_item_that_is_no_valid_stac_costs_that_item(api):
    api.items = [
        ITEMS[0],
        item("timeless", properties={"datetime": None}),
        {"id": "odd"},
        ITEMS[1] | {"geometry": None},
    ]
    notes: list[str] = []
    assert found(api, left_out=notes) == ["i000", "i001"]
    assert len(notes) == 2 and "'timeless', is no valid STAC" in notes[0] and "'odd'" in notes[1]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("planetary_computer", "planetary_computer"),
        ("planetary-computer", "planetary_computer"),
        ("https://planetarycomputer.microsoft.com/api/stac/v1", "planetary_computer"),
        ("http://PlanetaryComputer.microsoft.com/api/stac/v1/", "planetary_computer"),
        ("planetarycomputer.microsoft.com/api/stac/v1", "planetary_computer"),
        ("https://earth-search.aws.element84.com/v1/", "earth_search"),
        ("https://earth-search.aws.element84.com/v0", None),
        ("https://example.com/stac", None),
    ],
)
def test_a_preset_is_known_by_its_address(url, name):
    assert preset_of(url) is (PRESETS[name] if name else None)
