"""Search a STAC API for scenes, and the settings of known APIs.

Enters: a collection, a box in degrees, an interval of times. Leaves: STAC items, sorted by time.
"""

import contextlib
import dataclasses
import datetime
import email.utils
import itertools
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urljoin

from tfds_dwplus.files import hosts
from tfds_dwplus.files.addresses import shown, shown_in
from tfds_dwplus.files.strangers import one_line
from tfds_dwplus.imagery.acquisitions import ArchiveError, first_line
from tfds_dwplus.imagery.items.item_checks import checked_item

Answer = TypeVar("Answer")

BACK_OFF_S = (0.5, 1.0, 2.0, 4.0)
"""Seconds to wait before an API is asked again; each times 0.7 to 1.3 at random, so that many clients do not come together."""

LONGEST_WAIT_S = 60.0
"""An API that asks for a longer wait (Retry-After) is asked again after this one."""

PAGE = 100
"""Items of a page. A page of 250 is refused by some APIs, and is longer than AWS Lambda's 6 MB: an item of Sentinel-2 has 27 kB."""

_CONFORMS_TO = tuple(
    f"https://api.stacspec.org/v1.0.0/{part}" for part in ("core", "collections", "ogcapi-features", "item-search")
)


@dataclasses.dataclass(frozen=True)
class Collection:
    """A collection of a STAC API."""

    url: str
    name: str
    assets: tuple[tuple[str, str], ...] = ()
    """Pairs of a band and its asset, for assets whose name is not the band's."""
    signed: bool = False
    """Whether the package planetary-computer must sign the items."""


@dataclasses.dataclass(frozen=True)
class StacArchive:
    """The collections of both sensors, and how backscatter is stored there."""

    s2: Collection
    s1: Collection
    s1_unit: str
    """One of `decoder.backscatter.UNITS`."""
    s1_quantity: str
    """sigma0 or gamma0."""
    timeout_s: float = 60.0
    """How long to wait for an answer."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """Settings of a known STAC API."""

    url: str
    s2_collections: dict[str, str]
    """Name of the collection by processing level."""
    s2_assets: dict[str, str]
    s1: tuple[str, str, str] | None
    """Collection, unit and quantity; None if its Sentinel-1 cannot be used."""
    description: str
    """What it serves, for --help."""
    signed: bool = False


_EARTH_SEARCH_ASSETS = {
    "B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "rededge1", "B6": "rededge2", "B7": "rededge3", "B8": "nir",
    "B8A": "nir08", "B9": "nir09", "B10": "cirrus", "B11": "swir16", "B12": "swir22",
}  # fmt: skip


PRESETS = {
    "planetary_computer": Preset(
        "https://planetarycomputer.microsoft.com/api/stac/v1",
        {"L2A": "sentinel-2-l2a"},
        {},
        ("sentinel-1-rtc", "power", "gamma0"),
        "Sentinel-2 L2A; Sentinel-1 RTC: gamma0, terrain corrected, linear power",
        signed=True,
    ),
    "earth_search": Preset(
        "https://earth-search.aws.element84.com/v1",
        {"L2A": "sentinel-2-l2a", "L1C": "sentinel-2-l1c"},
        _EARTH_SEARCH_ASSETS,
        None,
        "Sentinel-2 L2A, and L1C with an AWS account that pays; its Sentinel-1 GRD are uncalibrated numbers in radar geometry, "
        "so use another archive by --s1_stac_url",
    ),
}


def preset_of(url: str) -> Preset | None:
    """The preset of a name or a URL. Case, a slash at the end, and http instead of https do not matter. None if there is none."""
    plain = url.strip().rstrip("/").lower()
    named = plain.replace("-", "_")
    if named in PRESETS:
        return PRESETS[named]
    place = plain.partition("://")[2] or plain
    return next((one for one in PRESETS.values() if one.url.partition("://")[2] == place), None)


def check_collections(archive: StacArchive) -> None:
    """Raises a ValueError if an API does not answer or lacks its collection. A collection without a name is not checked."""
    for collection in filter(lambda one: one.name, (archive.s2, archive.s1)):
        try:
            client, name = _api(collection, archive.timeout_s).client, collection.name
            found = _asked(lambda _, client=client, name=name: client.get_collection(name))
        except ArchiveError as error:
            raise ValueError(f"{error}; check --stac_url, --s1_stac_url and the network") from None
        except Exception as error:
            raise ValueError(f"{shown(collection.url)} does not answer: {_message(error)}; try again later") from None
        if found is None:
            raise ValueError(
                f"{shown(collection.url)} has no collection {collection.name!r}; say --s2_collection or --s1_collection"
            )


YEARS = range(1950, 2200)
"""Of acquisitions; about the ends of what Python counts, a day more is an error."""

MOST_ITEMS = 100_000
"""Of a search. A server could go on giving pages without an end."""


def item_time(item: Any) -> datetime.datetime:
    """Acquisition time of an item, UTC unless it says otherwise."""
    time = item.datetime or datetime.datetime.fromisoformat(item.properties["start_datetime"].replace("Z", "+00:00"))
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)


def search(
    collection: Collection,
    timeout_s: float,
    bounds: tuple[float, float, float, float],
    when: str,
    most: int | None = None,
    left_out: list[str] | None = None,
) -> list[Any]:
    """Lists the items that intersect a box, sorted by time and id.

    Args:
        collection: the collection to search.
        timeout_s: how long to wait for an answer.
        bounds: west, south, east, north in degrees; west > east across the antimeridian. Such a box is searched in two
            parts, because not every API accepts it.
        when: interval of times in STAC's notation.
        most: maximum number of items in each part of the box; None: all.
        left_out: takes a line for each item that is no valid STAC.

    Raises:
        ArchiveError: the API does not answer, or not with items.
    """
    west, south, east, north = bounds
    boxes = [bounds] if west <= east else [(west, south, 180.0, north), (-180.0, south, east, north)]
    api = _api(collection, timeout_s)
    found = {}
    for box in boxes:
        wanted = {"collections": [collection.name], "bbox": box, "datetime": when, "max_items": most}
        try:
            answer = _asked(lambda page, wanted=wanted: _items(api, wanted, page), min(most or PAGE, PAGE))
        except Exception as error:
            raise ArchiveError(f"the search of {shown(collection.url)} failed: {_message(error)}") from None
        for known in answer:
            try:
                item = parsed_item(known, api.client)
            except ValueError as error:
                if left_out is not None:
                    named = one_line(ascii(known.get("id")), 80) if isinstance(known, dict) else "which is no object"
                    left_out.append(f"an item of {collection.name}, {named}, is no valid STAC: {error}")
            else:
                found[item.id] = item
    return sorted(found.values(), key=lambda item: (item_time(item), item.id))


def parsed_item(known: Any, root: Any = None) -> Any:
    """Returns the `pystac.Item` of an item as JSON, of the catalogue `root`. Raises a ValueError if it is no item that can be used."""
    import pystac

    try:
        checked = checked_item(known)
        checked["properties"].pop("deprecated", None)  # pystac would warn on the screen
        item = pystac.Item.from_dict(checked, root=root, preserve_dict=False)
        if item_time(item).year not in YEARS:
            raise ValueError(f"its time is {item_time(item)}")
    except Exception as error:  # whatever pystac raises for what is no item
        raise ValueError(one_line(first_line(error))) from None
    return item


def _message(error: Exception) -> str:
    """Explains an error of the API's client in one line."""
    if isinstance(error, json.JSONDecodeError):
        return "its answer is not JSON, so not that of a STAC API"
    said, status = first_line(error), getattr(error, "status_code", None)
    return (f"HTTP {status}: " if status else "") + ("a page of HTML" if said.startswith("<") else shown_in(said))


@dataclasses.dataclass
class _Api:
    """An opened API."""

    client: Any
    """A `pystac_client.Client`."""
    method: str = "POST"
    """How it is searched."""


def _asked(question: Callable[[int], Answer], page: int = 1) -> Answer:
    """Asks an API; asks again where that may help. This is the one place for it.

    A busy or faulty server (429, 5xx) is asked again after a while, up to `BACK_OFF_S` times, and one that does not answer two
    times. A page of items may be too long for a server (AWS Lambda sends 6 MB, gateways wait half a minute), which shows as
    400, 408, 413, 422 or 5xx: the page is halved, down to one item.

    Args:
        question: takes the number of items of a page.
        page: the first such number.
    """
    from pystac_client.exceptions import APIError

    for attempt in itertools.count():
        try:
            return question(page)
        except APIError as error:
            status = getattr(error, "status_code", None)
            faulty = status is not None and status >= 500
            too_long = page > 1 and (faulty or status in (400, 408, 413, 422))
            waits = BACK_OFF_S if status else BACK_OFF_S[:2]
            if not too_long and (attempt >= len(waits) or not (faulty or status in (None, 408, 425, 429))):
                raise
            if status not in (400, 413, 422):
                time.sleep(_retry_after() or BACK_OFF_S[min(attempt, len(BACK_OFF_S) - 1)] * random.uniform(0.7, 1.3))
            if too_long:
                page //= 2
    raise AssertionError("the loop ends by itself")


def _retry_after() -> float:
    """Seconds that the last answer asks to wait, at most `LONGEST_WAIT_S`; 0 if it does not say."""
    said = getattr(_apis, "retry_after", "")
    with contextlib.suppress(ValueError):
        return min(float(said), LONGEST_WAIT_S) if float(said) > 0 else 0.0
    with contextlib.suppress(ValueError, TypeError):
        wait = email.utils.parsedate_to_datetime(said) - datetime.datetime.now(datetime.UTC)
        return min(max(wait.total_seconds(), 0.0), LONGEST_WAIT_S)
    return 0.0


def _items(api: _Api, wanted: dict[str, Any], page: int) -> list[dict[str, Any]]:
    """All items of a search as JSON; by GET where the API refuses POST, as older and static ones do."""

    def found(method: str) -> list[dict[str, Any]]:
        items = api.client.search(method=method, limit=page, **wanted).items_as_dicts()
        some = list(itertools.islice(items, MOST_ITEMS + 1))
        if len(some) > MOST_ITEMS:
            raise ValueError(f"it gives more than {MOST_ITEMS} items")
        return some

    try:
        return found(api.method)
    except Exception as refusal:
        # AWS's gateway says 403 or 404 of a method that it does not know.
        if api.method == "GET" or getattr(refusal, "status_code", None) not in (403, 404, 405, 501):
            raise
        try:
            items = found("GET")
        except Exception:
            raise refusal from None
        api.method = "GET"
        return items


_apis = threading.local()


def _api(collection: Collection, timeout_s: float) -> _Api:
    """Opens a STAC API. Each thread has its own, because sessions must not be shared."""
    known = _apis.__dict__.setdefault("by_url", {})
    if collection.url not in known:
        try:
            known[collection.url] = _Api(_asked(lambda _: _opened(collection, timeout_s)))
        except ImportError as error:
            raise ValueError(f"acquiring from STAC needs {error.name}: pip install 'specsar_jax[acquire]'") from None
        except Exception as error:
            raise ArchiveError(f"no STAC API answers at {shown(collection.url)}: {_message(error)}") from None
    return known[collection.url]


def _opened(collection: Collection, timeout_s: float) -> Any:
    """Reads the landing page of an API. What older ones leave out is put in, so that pystac-client neither warns nor falls back."""
    from pystac_client.stac_api_io import StacApiIO

    if collection.signed:
        import planetary_computer
    files = StacApiIO(max_retries=None, timeout=timeout_s)
    files.session.hooks["response"].append(_keep_retry_after)
    _check_requests(files.session, collection.url)
    landing = files.read_json(collection.url)
    if (
        not isinstance(landing, dict)
        or not isinstance(landing.get("links"), list)
        or landing.get("type", "Catalog") != "Catalog"
    ):
        raise ValueError("its answer is not the landing page of a STAC API")
    landing = {"type": "Catalog", "id": "api", "description": "api", "stac_version": "1.0.0"} | landing
    landing["conformsTo"] = [*(landing.get("conformsTo") or ()), *_CONFORMS_TO]
    for relation, place in (("search", "search"), ("data", "collections")):
        links = [link for link in landing["links"] if link.get("rel") == relation and link.get("href")]
        # The kinds of links that pystac-client knows
        links.sort(key=lambda link: "json" not in str(link.get("type")))
        href = urljoin(f"{collection.url}/", links[0]["href"]) if links else f"{collection.url}/{place}"
        landing["links"] = [link for link in landing["links"] if link.get("rel") != relation]
        landing["links"] += [
            {"rel": relation, "href": href, "type": "application/geo+json", "method": method}
            for method in ("POST", "GET")
        ]
    client = files.stac_object_from_dict(landing, href=collection.url)
    client.modifier = planetary_computer.sign_inplace if collection.signed else None
    return client


def _check_requests(session: Any, home: str) -> None:
    """Makes a session refuse requests, also of redirects and of pages, that lead from an API on the internet to this machine."""
    send = session.send

    def checked(request: Any, **settings: Any) -> Any:
        hosts.check_not_inward(request.url, home)
        return send(request, **settings)

    session.send = checked


def _keep_retry_after(response: Any, **_: Any) -> None:
    _apis.retry_after = response.headers.get("Retry-After", "")
