"""A series over the drawn year in one process, with an archive and a network whose answers are known: maps, filters, and going on."""

import contextlib
import dataclasses
import itertools
import json

import numpy as np
import pytest
import rasterio

pytest.importorskip("shapely", reason="extra 'region'")
pytest.importorskip("distributed", reason="extra 'region'")

from drawn_year import BARE, LAND, SNOW, TREES, truth

from specsar_jax import map_region
from specsar_jax.batches.preprocess import SensorStatistics, Statistics
from specsar_jax.config import Config, Data
from specsar_jax.regions import block_maps, composites, coverage, region_map
from specsar_jax.regions.composites import Composite, Recipe
from specsar_jax.regions.region_files import Job
from specsar_jax.regions.series import series_files, series_map, yearly_maps
from specsar_jax.regions.series.series_files import Series
from specsar_jax.regions.series.transitions import Filter, hidden_markov
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands
from tfds_dwplus.imagery.acquisitions import ItemError, Wanted
from tfds_dwplus.imagery.stac_api import Collection, StacArchive
from tfds_dwplus.places import blocks

BOX = (15.0, 42.4, 15.006, 42.405)
SIZE = 80
BLOCKS = list(blocks.blocks_of(blocks.box(*BOX), SIZE))
HMM = hidden_markov(bands.DYNAMIC_WORLD, "month")
PLACES = list(LAND)
"""Stripes of 10 pixels of the zone, one after the other."""


class Archive:
    """Says what it has, and in which months it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.without = {"2024-04"}
        """Months without scenes; in August all are cloud."""
        self.ascending = {f"{year}-{month:02d}" for year in (2023, 2024) for month in range(1, 13)}
        self.descending = set(self.ascending)
        self.broken = ""

    def coverage(self, job: Job) -> coverage.Coverage:
        month = job.recipe.s2_dates[0][:7]
        self.asked.append(month)
        found = coverage.Coverage()
        if month not in self.without:
            one = coverage.Found(1, {f"{month}-05"}, job.region)
            found.s2 = one
            for direction in ("ascending", "descending"):
                if month in getattr(self, direction):
                    found.s1[direction] = one
        return found

    def composite(self, grid, recipe, archive, may_miss=()) -> Composite:
        """Its first band is the class to be seen, and one."""
        month = recipe.s2_dates[0][:7]
        if month == self.broken:
            raise ItemError(f"no scene of {month} can be read", "a file is refused")
        first = round(grid.transform.c / 10)
        stripe = np.arange(first, first + grid.width) // 10 % len(PLACES)
        seen = [truth(place, (int(month[:4]) - 2024) * 12 + int(month[5:]) - 1) for place in PLACES]
        s2 = np.where(month == "2024-08", 0, np.array(seen)[stripe] + 1)
        s2 = np.broadcast_to(s2[:, None], (*grid.shape, len(bands.S2_BANDS))).astype(np.uint16)
        names = {"s2": (f"S2_{month}",), "s1": (f"S1_{month}",)}
        return Composite(
            s2, np.full((*grid.shape, 2), -12, np.float32), names, {"s2": (f"{month}-05",), "s1": (f"{month}-06",)}, ()
        )


def network(s2: np.ndarray, s1: np.ndarray) -> np.ndarray:
    """Says the class that stands in the first band, quite surely."""
    return np.eye(10, 9, dtype=np.float32)[s2[..., 0].astype(int) - 1] * np.float32(0.82) + np.float32(0.02)


@pytest.fixture
def archive(monkeypatch):
    found = Archive()
    monkeypatch.setattr(coverage, "coverage", found.coverage)
    monkeypatch.setattr(composites, "composite", found.composite)
    monkeypatch.setattr(region_map.cluster, "connected", lambda *_: contextlib.nullcontext())
    mapped = lambda _, job, todo, __: (block_maps.map_block(block, job, network) for block in todo)  # noqa: E731
    monkeypatch.setattr(region_map.cluster, "entries", mapped)
    monkeypatch.setattr(yearly_maps, "WINDOW_PX", 48)  # so that a block has several
    monkeypatch.setattr(yearly_maps, "VALUES", 20_000)
    return found


def series(
    folder, by: Filter | None, first: str = "2024-01-01", last: str = "2024-12-31", orbit: str = "descending"
) -> Series:
    s2, s1 = (
        SensorStatistics(names, *((0.0,) * len(names),) * 4, "", (1,) * len(names))
        for names in (bands.S2_BANDS, bands.S1_BANDS)
    )
    trained = Trained(Config(data=Data(crop_px=32)), Statistics(s2, s1, (1,) * 9), {}, 0)
    tags = {"software": "x", "weights_sha256": "0"}
    source = StacArchive(Collection("http://x", "s2"), Collection("http://x", "s1"), "power", "sigma0")
    recipe = Recipe(("s2", "s1"), Wanted(s1_orbit=orbit), (first, last), (first, last))
    job = Job(blocks.box(*BOX), recipe, source, trained, tags, folder)
    return Series(job, "month", SIZE, by, lambda one: map_region._asked(one, SIZE))


def made(of: Series) -> dict:
    with series_files.opened(of.job.output, of.asked()):
        return series_map.map_series(of, "", 1, 1)


def pixels(folder, kind: str = "blocks") -> dict[str, list[int]]:
    """Values that a raster of a region has in each stripe; nodata in the region too."""
    found: dict[str, set[int]] = {place: set() for place in PLACES}
    for block in BLOCKS:
        inside = blocks.inside(block, blocks.box(*BOX))
        stripe = np.broadcast_to(np.array(block.columns) // 10 % len(PLACES), inside.shape)
        with rasterio.open(folder / kind / f"{block.name}.tif") as raster:
            values = raster.read(1)
        assert (values[~inside] == bands.IGNORE).all()
        for index, place in enumerate(PLACES):
            found[place] |= set(values[inside & (stripe == index)].tolist())
    return {place: sorted(values) for place, values in found.items()}


def times(folder) -> dict:
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/blocks/*.json")}


def test_a_year_of_snow_and_felling(archive, tmp_path, capsys):
    summaries = made(series(tmp_path, HMM))
    told = capsys.readouterr().out
    assert (
        "2024-04 counts as not observed: s2 of http://x has no item in the region from 2024-04-01 to 2024-04-30" in told
    )
    assert "no pixel has clear data: it counts as not observed" in told  # August
    months = [f"2024-{month:02d}" for month in range(1, 13) if month != 4]
    assert list(summaries) == [*months, "hmm_2024"] and not (tmp_path / "2024-04").exists()
    assert pixels(tmp_path / "2024-01")["forest"] == [SNOW] and pixels(tmp_path / "2024-05")["felled"] == [TREES]

    year = tmp_path / "hmm_2024"
    expected = {place: [BARE if place == "felled" else land] for place, land in LAND.items()}
    assert pixels(year) == expected
    assert pixels(year, "changed") == {place: [6 if place == "felled" else 0] for place in PLACES}
    summary = json.loads((year / "summary.json").read_text())
    assert summary["no_data_hectares"] == 0 and not summary["blocks_missing"]
    assert sum(summary["hectares"].values()) == pytest.approx(summary["region_hectares"], rel=0.02)
    assert summary["scenes_used"] == {"s2": 11, "s1": 11}
    with (
        rasterio.open(year / "mosaic_33N.vrt") as mosaic,
        rasterio.open(year / "changed" / f"{BLOCKS[0].name}.tif") as raster,
    ):
        assert set(np.unique(mosaic.read(1))) == {*itertools.chain(*expected.values()), 255}
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and raster.nodata == 255
        assert raster.tags().items() >= {"filter": "hmm", "filter_stay": "0.98", "filter_cover": "snow_and_ice"}.items()
    item = json.loads((year / "blocks" / f"{BLOCKS[0].name}.json").read_text())
    assert item["assets"].keys() == {"map", "changed"}
    assert item["properties"]["specsar:items"]["s1"] == [f"S1_{month}" for month in months]
    assert item["properties"]["processing:lineage"].endswith("; maps of each month, filtered in time (hmm)")
    links = json.loads((tmp_path / "collection.json").read_text())["links"]
    children = [link["href"] for link in links if link["rel"] == "child"]
    assert children == [f"./{name}/collection.json" for name in summaries]
    assert len({json.loads((tmp_path / child).read_text())["id"] for child in children}) == len(children)

    # Once more: only the month without a map is asked for, and nothing is made again.
    before, archive.asked[:] = times(tmp_path), []
    assert made(series(tmp_path, HMM)).keys() == summaries.keys()
    assert archive.asked == ["2024-04"] and times(tmp_path) == before

    # A raster that was removed is made again.
    removed = year / "changed" / f"{BLOCKS[0].name}.tif"
    whole = removed.read_bytes()
    removed.unlink()
    made(series(tmp_path, HMM))
    assert removed.read_bytes() == whole
    before = times(tmp_path)

    # A map that is made again makes its block of the year again, and no other one.
    name = BLOCKS[0].name
    (tmp_path / "2024-06" / "blocks" / f"{name}.json").unlink()
    archive.without = set()
    made(series(tmp_path, HMM))
    changed = {path.relative_to(tmp_path) for path, time in times(tmp_path).items() if before.get(path) != time}
    folders = {path.parts[0] for path in changed}
    assert folders == {"2024-04", "2024-06", "hmm_2024"}
    assert [path for path in changed if path.parts[0] == "2024-06"] == [
        (tmp_path / "2024-06/blocks" / f"{name}.json").relative_to(tmp_path)
    ]


def test_the_most_frequent_class_takes_any_series(archive, tmp_path):
    made(series(tmp_path, None))
    assert not list(tmp_path.glob("*/probabilities"))
    before = times(tmp_path)
    made(series(tmp_path, Filter("mode")))
    assert {path: time for path, time in times(tmp_path).items() if path in before} == before
    assert pixels(tmp_path / "mode_2024") == {
        place: [BARE if place == "felled" else land] for place, land in LAND.items()
    }
    assert not (tmp_path / "mode_2024" / "changed").exists()


def test_maps_without_probabilities_are_made_again_for_a_filter_that_reads_them(archive, tmp_path, capsys):
    made(series(tmp_path, None, "2024-05-10", "2024-06-20"))
    capsys.readouterr()
    assert list(made(series(tmp_path, HMM, "2024-05-10", "2024-06-20"))) == ["2024-05", "2024-06", "hmm_2024"]
    assert f"{2 * len(BLOCKS)} blocks were mapped without probabilities" in capsys.readouterr().out
    assert json.loads((tmp_path / "2024-06" / "region.json").read_text())["s2_dates"] == ["2024-06-01", "2024-06-20"]


def test_a_series_may_be_continued_but_not_be_cut_otherwise(archive, tmp_path):
    """What comes later adds to the years before, and what lies under the snow of January is known from the autumn."""
    made(series(tmp_path, HMM, "2023-10-01", "2024-02-29"))
    assert pixels(tmp_path / "hmm_2023")["felled"] == pixels(tmp_path / "hmm_2024")["felled"] == [TREES]
    made(series(tmp_path, HMM, "2023-10-01", "2024-12-31"))
    assert pixels(tmp_path / "hmm_2023")["felled"] == [TREES] and pixels(tmp_path / "hmm_2024")["felled"] == [BARE]
    for folder, month in (("hmm_2023", 0), ("hmm_2024", 6)):
        assert pixels(tmp_path / folder, "changed")["felled"] == [month]
    with pytest.raises(
        ValueError, match=r'2023-10 was made with s1_dates .*"2023-10-01", .* now to be with .*"2023-10-15"'
    ):
        made(series(tmp_path, HMM, "2023-10-15", "2024-12-31"))
    before = times(tmp_path)
    with pytest.raises(
        ValueError, match=r"has maps of 2024-01 to 2024-06 that are not of these --dates.*the map of 2024"
    ):
        made(series(tmp_path, HMM, "2024-07-01", "2024-12-31"))
    assert times(tmp_path) == before


def test_one_orbit_for_all_months(archive, tmp_path, capsys):
    """Ascending passes are in all months, descending ones in one: that month too is of ascending ones."""
    archive.descending = {"2024-05"}
    wish = "descending_or_ascending"
    made(series(tmp_path, None, "2024-05-01", "2024-07-31", wish))
    assert (
        "in the mean of the series, Sentinel-1: descending passes cover 33 % of the region, ascending ones 100 %"
        in capsys.readouterr().out
    )
    for month in ("2024-05", "2024-06", "2024-07"):
        assert json.loads((tmp_path / month / "region.json").read_text())["s1_orbit_taken"] == "ascending"
    # What comes later is of the same one; a month without it counts as not observed.
    archive.ascending, archive.descending = set(), {"2024-08", "2024-09"}
    assert list(made(series(tmp_path, None, "2024-05-01", "2024-09-30", wish))) == ["2024-05", "2024-06", "2024-07"]
    assert "2024-09 counts as not observed: s1 of http://x has no ascending pass" in capsys.readouterr().out


def test_a_month_that_fails_does_not_hold_up_the_others(archive, tmp_path):
    archive.broken = "2024-06"
    with pytest.raises(
        ValueError, match=f"^2024-06: {len(BLOCKS)} of {len(BLOCKS)} blocks failed .*no scene of 2024-06 can be read"
    ):
        made(series(tmp_path, HMM, "2024-05-01", "2024-07-31"))
    assert (
        len(list((tmp_path / "2024-07" / "blocks").glob("*.json"))) == len(BLOCKS)
        and not (tmp_path / "hmm_2024").exists()
    )
    archive.broken, archive.asked[:] = "", []
    made(series(tmp_path, HMM, "2024-05-01", "2024-07-31"))
    assert archive.asked == ["2024-06"] and (tmp_path / "hmm_2024" / "summary.json").exists()


def test_the_plan_of_a_series(archive, tmp_path, capsys):
    series_map.plan(series(tmp_path / "out", HMM, "2024-03-01", "2024-05-31"))
    told = capsys.readouterr().out
    assert "in each of 3 months" in told and "2024-03: Sentinel-2 of s2: 1 scene on 2024-03-05, over 100 %" in told
    assert "2024-04 counts as not observed" in told and "keeps the class probabilities of 2 maps: at most" in told
    assert not (tmp_path / "out").exists()


def test_what_a_series_refuses(archive, tmp_path):
    spring = series(tmp_path / "out", HMM, "2024-05-01", "2024-06-30")
    archive.without = {"2024-05", "2024-06"}
    with pytest.raises(ValueError, match="no map of the series can be made; of 2024-05: s2 of http://x has no item"):
        made(spring)
    archive.without = set()
    with pytest.raises(ValueError, match="in each of 1 month: no pixel of the region has clear data"):
        made(series(tmp_path / "cloudy", None, "2024-08-01", "2024-08-31"))
    made(series(tmp_path / "cloudy", None, "2024-05-01", "2024-08-31", "ascending"))  # which has no class yet
    assert json.loads((tmp_path / "cloudy" / "series.json").read_text())["wanted"]["s1_orbit"] == "ascending"
    made(spring)
    for other, message in (
        (dataclasses.replace(spring, every="quarter"), 'made with every "month", and is now to be with "quarter"; one folder holds one series'),
        (dataclasses.replace(spring, filter=hidden_markov(bands.DYNAMIC_WORLD, "month", stay=0.9)), "hmm_2024 was made with filter.*; remove the folder hmm_2024"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            made(other)
    path = tmp_path / "out" / "2024-05" / "probabilities" / f"{BLOCKS[0].name}.tif"
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], (tmp_path / "out" / "2024-05" / "blocks" / path.name).read_bytes()):
        path.write_bytes(broken)
        (tmp_path / "out" / "hmm_2024" / "blocks" / f"{BLOCKS[0].name}.json").unlink(missing_ok=True)
        with pytest.raises(ValueError, match=r"probabilities/.*\.tif is missing or damaged; remove it"):
            made(spring)
    path.unlink()
    made(spring)  # as advised
    (tmp_path / "out" / "series.json").write_text("{")
    with pytest.raises(ValueError, match=r"series\.json is damaged"):
        made(spring)


@pytest.mark.parametrize("size", [512, 700])
def test_windows_are_a_division_of_a_block(size):
    count = np.zeros((size, size), int)
    for window in yearly_maps._windows(size):
        count[window.toslices()] += 1
    assert (count == 1).all()
