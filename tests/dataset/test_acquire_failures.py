"""What becomes of a tile whose scenes are lost, of another day, in parts or of the other orbit; and of a folder of such tiles."""

import csv
import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openpyxl
import pytest
import rasterio
from local_archive import Archive, files_served, stac, stac_served, tile

from tfds_dwplus import acquire
from tfds_dwplus.command_line import run
from tfds_dwplus.imagery.acquisitions import ItemError, NoImageryError, Wanted
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.stac import coverage, stac_imagery
from tfds_dwplus.tiles.tile_files import list_tiles, provenance

CRS, LEFT, TOP = "EPSG:32633", 500000.0, 4700000.0
GRID = Grid.parse(CRS, (10.0, 0.0, LEFT, 0.0, -10.0, TOP), 64, 64)
TAKE = "2019-06-05T10:00:31Z"
PRODUCT = "S2A_MSIL2A_20190605T100031_N0212_R122_T33TVG_20190605T123456"
WANTED = Wanted(s2_bands=("B2", "B3"))


class Scenes(Archive):
    """Scenes of 10 m, in collections of their own for each test."""

    def s2(
        self, collection, name, value, when=TAKE, columns=slice(None), crs=CRS, left=LEFT - 100, top=TOP + 100, **known
    ):
        """A Sentinel-2 scene of 84 x 84 pixels of one number in some of its columns, and of 0 in the others."""
        values = np.zeros((84, 84), np.uint16)
        values[:, columns] = value
        place = rasterio.Affine(10, 0, left, 0, -10, top), crs, 0
        rasters = {key: (values, *place) for key in ("B02", "B03")}
        known = {"eo:cloud_cover": 5.0, "platform": "sentinel-2a", "s2:processing_baseline": "02.12"} | known
        self.add(collection, name, when, rasters, **known)
        return self.items[-1]

    def s1(self, collection, name, power, day="2019-06-04", **known):
        place = rasterio.Affine(10, 0, LEFT - 100, 0, -10, TOP + 100), CRS, -32768
        rasters = {key: (np.full((84, 84), power, np.float32), *place) for key in ("vv", "vh")}
        known = {"sat:orbit_state": "descending", "platform": "sentinel-1a"} | known
        self.add(collection, name, f"{day}T05:00:00Z", rasters, **known)
        return self.items[-1]


def lose(scenes: Scenes, item: dict, key: str) -> None:
    (scenes.folder / item["collection"] / item["id"] / f"{key}.tif").unlink()


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("archive")
    with files_served(folder, tmp_path_factory.mktemp("control")) as files:
        scenes = Scenes(folder, files)
        scenes.s1("s1", "S1A_1", 0.1)
        lose(scenes, scenes.s2("lost", "a_clearest", 1500, **{"eo:cloud_cover": 1.0}), "B03")
        scenes.s2("lost", "b_next", 1600)
        lose(scenes, scenes.s2("lost_all", "a", 1500), "B03")
        lose(scenes, scenes.s2("lost_all", "b", 1500, "2019-06-05T11:40:00Z"), "B03")
        scenes.s2("empty", "a_empty", 0, **{"eo:cloud_cover": 1.0})
        scenes.s2("empty", "b_next", 1600, "2019-06-05T11:40:00Z")
        scenes.s2("blank", "a_blank", 0)
        for sides in ("told", "untold"):  # whether the footprints tell that the scenes are parts
            for part, (name, columns) in enumerate((("a_left", slice(0, 45)), ("b_right", slice(35, 84)))):
                item = scenes.s2(f"parts_{sides}", name, 1500 + 100 * part, columns=columns)
                if sides == "told":
                    ring = item["geometry"]["coordinates"][0]
                    west, middle, east = ring[0][0], ring[0][0] * 0.46 + ring[1][0] * 0.54, ring[1][0]
                    ends = (west, middle) if part == 0 else (middle - 0.001, east)
                    ring[:] = [[ends[0] if x == west else ends[1], y] for x, y in ring]
        scenes.s2("baselines", "a_old", 1500, **{"eo:cloud_cover": 1.0})
        scenes.s2("baselines", "b_new", 2600, **{"s2:processing_baseline": "05.00", "eo:cloud_cover": 1.1})
        (x,), (y,) = rasterio.warp.transform(CRS, "EPSG:32634", [LEFT + 320], [TOP - 320])
        beside = {"crs": "EPSG:32634", "left": round(x, -1) - 420, "top": round(y, -1) + 420}
        scenes.s2("zones", "S2A_34TBM_20190605_0_L2A", 1500, **beside, **{"eo:cloud_cover": 1.0})
        scenes.s2("zones", "S2A_33TVG_20190605_0_L2A", 1600)
        scenes.s2("days", "S2B_other", 1500, "2019-06-10T10:00:00Z", platform="sentinel-2b")
        scenes.s2("days", "S2A_33TVG_20190606_0_L2A", 1600, "2019-06-06T00:10:00Z")
        scenes.s2("doubt", "a_bright", 3000, **{"s2:processing_baseline": None})
        lose(scenes, scenes.s1("s1_lost", "S1A_1", 0.1), "vh")
        scenes.s1("s1_lost", "S1A_2", 0.01, "2019-06-16")
        scenes.s1("s1_up", "S1A_1", 0.1, **{"sat:orbit_state": "ascending"})
        scenes.s1("s1_both", "S1A_1", 0.1, **{"sat:orbit_state": "ascending"})
        scenes.s1("s1_both", "S1A_2", 0.01, "2019-06-16")
        with stac_served(scenes.items, tmp_path_factory.mktemp("api")) as served:
            yield served


def fetched(url: str, s2: str, s1: str = "s1", date="2019-06-05", product="", **wanted):
    place = tile(date, GRID, product=product)
    return stac_imagery(place, GRID, dataclasses.replace(WANTED, **wanted), stac(url, s2, s1, "power"))


def test_a_lost_file_costs_its_scene(url):
    found = fetched(url, "lost")
    assert (found.s2 == 1600).all() and found.columns["s2_item"] == "b_next"
    assert len(found.warnings) == 1 and re.match(
        r"not used \(a file is missing\): a_clearest: .*B03\.tif: HTTP 404", found.warnings[0]
    )
    with pytest.raises(ItemError, match=r"a: .*HTTP 404 \(and 1 other scenes cannot be used\)"):
        fetched(url, "lost_all")
    found = fetched(url, "lost", "s1_lost")
    np.testing.assert_allclose(found.s1, -20, atol=1e-4)  # of the other pass alone
    assert found.columns["s1_items"] == "S1A_2" and "S1A_1" in found.warnings[1]


def test_a_scene_without_a_pixel_here_costs_that_scene(url):
    found = fetched(url, "empty")
    assert (found.s2 == 1600).all() and "a_empty has no valid pixel" in found.warnings[0]
    with pytest.raises(NoImageryError, match="a_blank has no valid pixel"):
        fetched(url, "blank")


@pytest.mark.parametrize("sides", ["told", "untold"])
def test_parts_of_a_take_are_put_together(url, sides):
    """The label's first column is the 11th of the scenes."""
    found = fetched(url, f"parts_{sides}")
    assert set(found.columns["s2_item"].split()) == {"a_left", "b_right"} and not found.warnings
    assert (found.s2 > 0).all()
    assert (found.s2[:, :25] == 1500).all() and (found.s2[:, 35:] == 1600).all()


def test_the_newest_baseline_and_the_own_zone(url):
    found = fetched(url, "baselines")
    assert (found.s2 == 1600).all()
    assert [found.columns[f"s2_{name}"] for name in ("item", "baseline", "offset", "date")] == [
        "b_new",
        "05.00",
        "1000",
        "2019-06-05",
    ]
    assert fetched(url, "zones").columns["s2_item"] == "S2A_33TVG_20190605_0_L2A"


def test_the_labelled_product_and_what_stands_in_its_place(url):
    late = "S2A_MSIL2A_20190605T235531_N0212_R122_T33TVG_20190606T023456"
    found = fetched(url, "days", product=late)  # its tile was seen after midnight
    assert (found.s2 == 1600).all() and found.columns["s2_date"] == "2019-06-06" and not found.warnings
    found = fetched(url, "days", product=PRODUCT, s2_window_days=5)
    assert found.columns["s2_date"] == "2019-06-06"
    assert found.warnings == (
        f"the labelled product {PRODUCT} is not in days; S2A_33TVG_20190606_0_L2A of 2019-06-06 is used in its place",
    )
    found = fetched(url, "days", s2_window_days=5)
    assert found.warnings == ("S2A_33TVG_20190606_0_L2A is of 2019-06-06, 1 days from the label's date",)
    with pytest.raises(NoImageryError, match=f"neither the labelled product {PRODUCT} nor another"):
        fetched(url, "days", product=PRODUCT)


def test_the_other_orbit_where_one_is_missing(url):
    with pytest.raises(NoImageryError, match="it has 1 ascending: say --s1_orbit descending_or_ascending"):
        fetched(url, "baselines", "s1_up")
    found = fetched(url, "baselines", "s1_up", s1_orbit="descending_or_ascending")
    np.testing.assert_allclose(found.s1, -10, atol=1e-4)
    assert (
        found.columns["s1_orbit"] == "ascending"
        and "1 ascending Sentinel-1 passes are used: 0 descending" in found.warnings[0]
    )
    for orbit, mean in (("descending_or_ascending", -20), ("ascending_or_descending", -10)):
        found = fetched(url, "baselines", "s1_both", s1_orbit=orbit)
        np.testing.assert_allclose(found.s1, mean, atol=1e-4)
        assert found.columns["s1_orbit"] == orbit.split("_")[0] and not found.warnings


def test_coverage_reads_no_pixel(url):
    place, archive = tile("2019-06-05", GRID, product=PRODUCT), stac(url, "lost_all", "s1_both", "power")
    found = coverage(place, GRID, WANTED, archive)
    assert (found.s2, found.labelled, found.s1) == (2, True, {"descending": 1, "ascending": 1, "both": 2})
    none = coverage(tile("2019-06-01", GRID), GRID, WANTED, archive)
    assert (none.s2, none.labelled) == (0, None)


# The command.


@pytest.fixture
def labels(tmp_path):
    folder = tmp_path / "labels" / "Experts" / "EH" / "4"
    folder.mkdir(parents=True)
    return folder


def write_label(folder: Path, date: str) -> str:
    name = f"dw_15.0_42.4-{date}"
    place = {"crs": CRS, "transform": rasterio.Affine(10, 0, LEFT, 0, -10, TOP)}
    with rasterio.open(
        folder / f"{name}.tif", "w", driver="GTiff", height=510, width=510, count=1, dtype="uint8", **place
    ) as raster:
        raster.write(np.ones((510, 510), np.uint8), 1)
    return name


def acquired(url: str, labels: Path, *more: object, s2="days", s1="s1_both") -> None:
    fixed = (
        "--s2_collection",
        s2,
        "--s1_collection",
        s1,
        "--s1_unit",
        "power",
        "--s1_quantity",
        "gamma0",
        "--s2_bands",
        "B2,B3",
    )
    output = labels.parents[3] / "tiles"
    acquire.main(
        [
            *map(
                str,
                ("--labels", labels.parents[2], "--output", output, "--stac_url", url, "--retries", 0, *fixed, *more),
            )
        ]
    )


def rows(labels: Path) -> list[dict[str, str]]:
    with (labels.parents[3] / "tiles" / "tiles.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_skipped_tiles_are_tried_again_with_other_settings(url, labels, capsys):
    write_label(labels, "20190606")
    acquired(url, labels)
    write_label(labels, "20190612")
    acquired(url, labels)
    said = capsys.readouterr().out
    assert "2 tiles: 1 done, 1 skipped, 0 failed, 0 not yet tried (1 from before)" in said
    assert (
        "1 skipped, no Sentinel-2 scene; the first one is dw_15.0_42.4-20190612: no Sentinel-2 scene within 0 days"
        in said
    )
    acquired(url, labels, "--s2_window_days", 3)
    said = capsys.readouterr().out
    assert "2 tiles: 2 done" in said and "S2B_other is of 2019-06-10, 2 days from the label's date" in said
    assert [row["s2_date"] for row in rows(labels)] == ["2019-06-06", "2019-06-10"]


def test_the_orbit_may_change_where_the_finished_tiles_stay_the_same(url, labels, capsys):
    write_label(labels, "20190606")
    acquired(url, labels, "--s1_window_days", 20)
    with pytest.raises(
        ValueError, match=r"with wanted\.s1_orbit 'descending', and is now to be with 'ascending'; tiles of two kinds"
    ):
        acquired(url, labels, "--s1_orbit", "ascending")
    write_label(labels, "20190610")
    with pytest.raises(ValueError, match=r"wanted\.s1_mean 'dB', and is now to be with 'power'; tiles"):
        acquired(url, labels, "--s1_mean", "power", "--s1_window_days", 6)
    acquired(url, labels, "--s1_orbit", "descending_or_ascending", "--s1_window_days", 6)
    orbits = [row["s1_orbit"] for row in rows(labels)]
    assert orbits == ["descending_or_ascending: descending"] * 2
    records = list_tiles(labels.parents[3] / "tiles")
    assert provenance(records)["s1_orbit"] == "descending_or_ascending"
    acquired(url, labels, "--s1_orbit", "descending")
    assert [row["s1_orbit"] for row in rows(labels)] == ["descending"] * 2
    assert "(2 from before)" in capsys.readouterr().out


def test_a_run_without_any_imagery_fails_with_the_reasons(url, labels, monkeypatch, capsys):
    for date in ("20190601", "20190602", "20190605"):
        write_label(labels, date)
    fixed = (
        "--s2_collection",
        "lost_all",
        "--s1_collection",
        "s1",
        "--s1_unit",
        "power",
        "--s1_quantity",
        "gamma0",
        "--limit",
        "2",
    )
    output = labels.parents[3] / "tiles"
    monkeypatch.setattr(
        sys, "argv", ["acquire", "--labels", str(labels.parents[2]), "--output", str(output), "--stac_url", url, *fixed]
    )
    with pytest.raises(SystemExit) as end:
        run(acquire.main)
    said = capsys.readouterr()
    assert end.value.code == 2 and "error: no tile of 2 has imagery, the first one dw_15.0_42.4-20190601: " in said.err
    assert (
        "  2 skipped, no Sentinel-2 scene; the first one is dw_15.0_42.4-20190601: no Sentinel-2 scene within"
        in said.out
    )
    with pytest.raises(
        ValueError, match=r"^1 of 3 tiles failed, the first one dw_15\.0_42\.4-20190605: a: cannot read .* HTTP 404"
    ):
        acquired(url, labels, s2="lost_all", s1="s1")
    said = capsys.readouterr().out
    assert "3 tiles: 0 done, 2 skipped, 1 failed" in said and "  1 failed, a file is missing; the first one is" in said


def test_a_tile_in_doubt_is_done_again_once_the_number_is_given(url, labels):
    name = write_label(labels, "20190605")
    acquired(url, labels, s2="doubt")
    path = labels.parents[3] / "tiles" / "s2" / f"{name}.tif"
    with rasterio.open(path) as raster:
        assert raster.read(1)[:64, :64].min() == 3000
    acquired(url, labels, "--s2_offset_in_doubt", 1000, s2="doubt")
    with rasterio.open(path) as raster:
        assert raster.read(1)[:64, :64].max() == 2000
    assert rows(labels)[0]["s2_offset"] == "1000"
    lines = (labels.parents[3] / "tiles" / "manifest.jsonl").read_text().splitlines()
    acquired(url, labels, "--s2_offset_in_doubt", 1000, s2="doubt")
    assert (labels.parents[3] / "tiles" / "manifest.jsonl").read_text().splitlines() == lines
    with pytest.raises(ValueError, match=r"wanted\.s2_offset_in_doubt 1000, and is now to be with 0"):
        acquired(url, labels, "--s2_offset_in_doubt", 0, s2="doubt")


def test_dry_run_tells_the_coverage_and_writes_nothing(url, labels, tmp_path, capsys):
    names = [write_label(labels, date) for date in ("20190605", "20190610", "20190620")]
    book = openpyxl.Workbook()
    book.active.title = "expert"
    book.active.append(["dw_id", "hemisphere", "biome", "S2_PRODUCT_ID"])
    book.active.append([names[0], "EH", 4, PRODUCT])
    book.save(tmp_path / "w.xlsx")
    acquired(url, labels, "--workbook", tmp_path / "w.xlsx", "--s2_window_days", 1, "--s1_window_days", 5, "--dry_run")
    assert capsys.readouterr().out.splitlines() == [
        "3 tiles; nothing is fetched, and this is what the archive has by its metadata:",
        "Sentinel-2, days, within 1 days: 2 tiles have scenes, 1 have none; scenes a tile: 0 to 1, mean 0.7",
        "  the labelled product is there for 0 of the 1 tiles that name one",
        "Sentinel-1, s1_both, within 5 days, descending: 1 tiles have scenes, 2 have none; scenes a tile: 0 to 1, mean 0.3",
        "Sentinel-1, s1_both, within 5 days, ascending: 1 tiles have scenes, 2 have none; scenes a tile: 0 to 1, mean 0.3",
        "Sentinel-1, s1_both, within 5 days, both: 2 tiles have scenes, 1 have none; scenes a tile: 0 to 1, mean 0.7",
        "both sensors, with --s1_orbit descending: 0 of 3 tiles",
    ]
    assert not (labels.parents[3] / "tiles").exists()


def test_a_manifest_of_an_older_version_is_read(url, labels):
    """Its settings lack what is new, and its entries have no kind of reason."""
    write_label(labels, "20190606")
    acquired(url, labels)
    path = labels.parents[3] / "tiles" / "manifest.jsonl"
    settings, *entries = map(json.loads, path.read_text().splitlines())
    del settings["settings"]["wanted"]["s2_offset_in_doubt"]
    skipped = {"tile_id": write_label(labels, "20190612"), "status": "skipped", "reason": "nothing"}
    path.write_text("".join(json.dumps(line) + "\n" for line in (settings, *entries, skipped)))
    acquired(url, labels)
    assert len(rows(labels)) == 1
