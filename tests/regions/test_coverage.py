"""What is told of a region before anything is read, from made-up items: what there is, which orbit is taken, what can only fail."""

import dataclasses
import datetime

import pytest

pytest.importorskip("shapely", reason="extra 'region'")
pytest.importorskip("distributed", reason="extra 'region'")
pytest.importorskip("pystac", reason="extra 'region'")

import pystac

from specsar_jax.batches.preprocess import SensorStatistics, Statistics
from specsar_jax.config import Config
from specsar_jax.regions import coverage, region_map
from specsar_jax.regions.composites import Recipe
from specsar_jax.regions.region_files import Job
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus.imagery.acquisitions import ArchiveError, Wanted
from tfds_dwplus.imagery.stac_api import Collection, StacArchive
from tfds_dwplus.places import blocks

BOX = (15.0, 42.0, 15.2, 42.1)
NAMES = ("B2", "B3")
TRAINED = Trained(Config(), Statistics(*(SensorStatistics((), *((),) * 4, "", ()),) * 2, ()), {}, 0)
ARCHIVE = StacArchive(Collection("http://x", "s2"), Collection("http://x", "s1"), "power", "gamma0")


def job(tmp_path, box=BOX, orbit="descending", **changes) -> Job:
    dates = ("2024-05-01", "2024-05-31")
    recipe = Recipe(("s2", "s1"), Wanted(s2_bands=NAMES, s1_orbit=orbit), dates, dates, **changes)
    return Job(blocks.box(*box), recipe, ARCHIVE, TRAINED, {}, tmp_path)


def item(name: str, day: int, ground=BOX, assets=("B02", "B03", "SCL"), **properties) -> pystac.Item:
    time = datetime.datetime(2024, 5, day, 10, tzinfo=datetime.UTC)
    west, south, east, north = ground
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    made = pystac.Item(name, {"type": "Polygon", "coordinates": [ring]}, list(ground), time, properties)
    for key in assets:
        made.add_asset(key, pystac.Asset(f"http://x/{key}.tif"))
    return made


def s2(name: str, day: int, cloud: float | None = 5.0, **changes) -> pystac.Item:
    return item(name, day, **{"eo:cloud_cover": cloud} | changes)


def s1(name: str, day: int, orbit: str | None = "descending", **changes) -> pystac.Item:
    return item(name, day, **{"assets": ("vv", "vh"), "sat:orbit_state": orbit} | changes)


@pytest.fixture
def archive(monkeypatch):
    """Gives the items of a list that lie in the days that are asked for."""
    items: list[pystac.Item] = []

    def search(collection, timeout_s, where, when):
        first, last = when.split("/")
        kind = "vv" if collection.name == "s1" else "B02"
        return [one for one in items if kind in one.assets and first[:10] <= str(one.datetime)[:10] <= last[:10]]

    monkeypatch.setattr(coverage, "search", search)
    monkeypatch.setattr(coverage, "check_collections", lambda _: None)
    return items


WEST_HALF = (15.0, 42.0, 15.1, 42.1)


def test_what_there_is(archive, tmp_path):
    archive += [s2("a", 5), s2("b", 5, ground=WEST_HALF), s2("c", 20, 7.0), s2("d", 21, 90.0), s2("e", 22, None)]
    archive += [s1("f", 3, ground=WEST_HALF), s1("g", 31, "ascending"), s1("h", 31, "ASCENDING"), s1("i", 4, None)]
    found = coverage.coverage(job(tmp_path))
    assert coverage.lines(found, job(tmp_path)) == [
        "Sentinel-2 of s2: 4 scenes on 3 days, 2024-05-05 to 2024-05-22, over 100 % of the region; cloud 5 to 90 %; "
        "1 scene more with more cloud than --max_cloud_percent 80; 1 scene without a cloud cover, used all the same",
        "Sentinel-1 of s1, descending: 1 scene on 2024-05-03, over 50 % of the region",
        "Sentinel-1 of s1, ascending: 2 scenes on 2024-05-31, over 100 % of the region",
        "Sentinel-1 of s1, of unknown orbit: 1 scene on 2024-05-04, over 100 % of the region",
    ]
    coverage.check(found, job(tmp_path))


@pytest.mark.parametrize(
    ("orbit", "descending", "ascending", "taken", "said"),
    [
        ("descending_or_ascending", BOX, BOX, "descending", ""),
        ("descending_or_ascending", WEST_HALF, BOX, "ascending", "descending passes cover 50 % of the region, ascending ones 100 %"),
        ("descending_or_ascending", None, BOX, "ascending", "descending passes cover 0 % of the region"),
        ("descending_or_ascending", WEST_HALF, None, "descending", ""),
        ("ascending_or_descending", BOX, BOX, "ascending", ""),
        ("descending", WEST_HALF, BOX, "descending", "--s1_orbit descending_or_ascending takes those that cover more"),
        ("descending", BOX, WEST_HALF, "descending", ""),
        ("both", WEST_HALF, BOX, "both", ""),
    ],
)  # fmt: skip
def test_one_orbit_for_the_whole_region(archive, tmp_path, orbit, descending, ascending, taken, said):
    archive += [s2("a", 5)]
    archive += [
        s1(name, 3, name, ground=ground)
        for name, ground in (("descending", descending), ("ascending", ascending))
        if ground
    ]
    found = coverage.coverage(job(tmp_path))
    orbit, line = coverage.chosen_orbit([found], job(tmp_path, orbit=orbit))
    assert orbit == taken and said in line and bool(said) == bool(line)


@pytest.mark.parametrize(
    ("items", "changes", "message"),
    [
        ([s1("f", 3)], {}, r"s2 of http://x has no item in the region from 2024-05-01"),
        ([s2("a", 5, 81.0), s2("b", 6, 95.0), s1("f", 3)], {}, r"all 2 scenes .* more cloud than --max_cloud_percent 80, the clearest 81 %"),
        ([s2("a", 5, assets=("B02", "SCL")), s1("f", 3)], {}, "no asset for band B3.*--s2_assets"),
        ([s2("a", 5, assets=("B02", "B03")), s1("f", 3)], {}, "no scene classification SCL.*--cloud_mask none"),
        ([s2("a", 5)], {}, r"s1 of http://x has no item .*--s1_dates"),
        ([s2("a", 5), s1("f", 3, "ascending"), s1("g", 9, "ascending")], {}, "no descending pass .* but 2 scenes of ascending orbit; say --s1_orbit ascending"),
        ([s2("a", 5), s1("f", 3, None)], {}, "1 scene of unknown orbit; say --s1_orbit both"),
        ([s2("a", 5), s1("f", 3, **{"sar:instrument_mode": "EW"})], {}, "1 scene of another mode"),
        ([s2("a", 5), s1("f", 3, assets=("vv",))], {}, "no asset for band VH"),
        ([s2("a", 5, ground=(16.0, 42.0, 16.1, 42.1)), s1("f", 3)], {}, "s2 of http://x has no item"),
    ],
)  # fmt: skip
def test_what_can_only_fail_is_told_at_once(archive, tmp_path, items, changes, message):
    archive += items
    found = coverage.coverage(job(tmp_path, **changes))
    with pytest.raises(ValueError, match=message):
        coverage.check(found, job(tmp_path, **changes))


def test_a_scene_that_is_whole_is_enough(archive, tmp_path):
    archive += [s2("a", 5, assets=("B02", "SCL")), s2("b", 6), s2("c", 7, assets=("B02", "B03")), s1("f", 3)]
    coverage.check(coverage.coverage(job(tmp_path)), job(tmp_path))
    without = job(tmp_path, cloud_mask=False)
    archive[:] = [s2("a", 5, assets=("B02", "B03")), s1("f", 3)]
    coverage.check(coverage.coverage(without), without)


def test_footprints_over_the_antimeridian(archive, tmp_path):
    """A region over 180 degrees, of which a scene has the western half, written beyond 180, and another the eastern one."""
    across = job(tmp_path, (179.9, -17.0, -179.9, -16.9))
    archive += [s2("west", 5, ground=(178.9, -17.5, 180.0, -16.5)), s1("f", 3, ground=(179.5, -17.5, 180.5, -16.5))]
    found = coverage.coverage(across)
    assert found.s2.share(across.region) == pytest.approx(0.5)
    assert found.s1["descending"].share(across.region) == pytest.approx(1)
    archive += [s2("east", 6, ground=(-180.0, -17.5, -179.0, -16.5))]
    assert coverage.coverage(across).s2.share(across.region) == pytest.approx(1)


def test_an_archive_that_does_not_answer(archive, tmp_path, monkeypatch):
    def search(*_):
        raise ArchiveError("the search of http://x failed: HTTP 503")

    monkeypatch.setattr(coverage, "search", search)
    with pytest.raises(ValueError, match="HTTP 503; try again later"):
        coverage.coverage(job(tmp_path))


def test_days_of_a_search():
    assert list(coverage._parts(("2024-05-01", "2024-05-31"))) == [
        ("2024-05-01", "2024-05-16"), ("2024-05-17", "2024-05-31"),
    ]  # fmt: skip
    assert list(coverage._parts(("2024-02-29", "2024-02-29"))) == [("2024-02-29", "2024-02-29")]


def test_a_plan_writes_nothing(archive, tmp_path, capsys):
    archive += [s2("a", 5), s1("f", 3, "ascending")]
    out = dataclasses.replace(job(tmp_path, orbit="descending_or_ascending"), output=tmp_path / "out")
    region_map.plan(out, 2048)
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("2 blocks of 20.48 km in 33N") and told[-1].endswith("ascending passes are used")
    assert not (tmp_path / "out").exists()
