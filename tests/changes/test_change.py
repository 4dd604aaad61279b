"""The command of change: codes, colours and names, areas by independent counts, other grids, and the dates of a real scene."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from compared_maps import (
    BUILT,
    CROPS,
    NONE,
    TREES,
    WATER,
    codes_of,
    entries_of,
    evaluation,
    matrix_of,
    random_ids,
    rows_of,
    run,
    small_pair,
    write_shares,
)
from conftest import REPOSITORY, command, refused
from drawn_zones import UTM, box, shapely, write_map, write_zones
from exactextract import exact_extract
from exactextract.raster import NumPyRasterSource
from pyproj import Geod
from rasterio.warp import Resampling, reproject

from specsar_jax.areas import main as measure_areas
from specsar_jax.changes import codes as change_codes
from tfds_dwplus import bands


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """To be read only."""
    return small_pair(tmp_path_factory.mktemp("change"))


def test_a_raster_that_is_read_at_a_glance(folder, tmp_path, capsys):
    run(folder / "before.tif", folder / "after.tif", "--output", tmp_path / "change.tif")
    with rasterio.open(tmp_path / "change.tif", driver="GTiff") as raster:
        stay, gone, built = 10, 1 * 9 + 4, 1 * 9 + 6
        expected = [[0, 0, gone, built], [0, 255, gone, stay], [60, 255, stay, stay]]
        np.testing.assert_array_equal(raster.read(1), expected)
        assert raster.nodata == 255 and raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        tags, colours = raster.tags(), raster.colormap(1)
    assert tags["class_13"] == "trees to crops" and tags["class_10"] == "trees, unchanged"
    assert tags["codes"].startswith("class before x 9 + class after") and tags["before"] == "before.tif"
    assert colours[10][:3] == (206, 222, 210)  # 397d49 with three quarters of white
    names = ElementTree.parse(tmp_path / "change.tif.aux.xml").getroot().findall(".//Category")
    assert len(names) == 82 and names[13].text == "trees to crops" and names[81].text == "change, not sure"
    style = entries_of(tmp_path / "change.qml")
    assert [(entry["value"], entry["label"]) for entry in style] == [
        *(("0", "water, unchanged"), ("10", "trees, unchanged"), ("13", "trees to crops"), ("15", "trees to built")),
        ("60", "built, unchanged"),
    ]
    assert style[2]["color"] == "#" + bytes(colours[13][:3]).hex()
    areas = matrix_of(tmp_path / "change.csv")
    pixel = areas[TREES, BUILT]
    assert pixel == pytest.approx(0.01, rel=2e-3)
    assert areas[WATER, WATER] == pytest.approx(3 * pixel, rel=1e-5) and areas[TREES, CROPS] == pytest.approx(2 * pixel)
    assert len(rows_of(tmp_path / "change.csv")) == 81 and list(rows_of(tmp_path / "change.csv")[0])[-1] == "hectares"
    tree = json.loads((tmp_path / "change.json").read_text())
    assert tree["changed_hectares"] == pytest.approx(3 * pixel, rel=1e-4) and tree[
        "compared_hectares"
    ] == pytest.approx(10 * pixel, rel=1e-4)
    assert [tree[f"{name}_alone_hectares"] for name in ("before", "after")] == pytest.approx([pixel] * 2, rel=1e-4)
    told = capsys.readouterr()
    assert "trees to crops" in told.out and "change.tif: and change.csv, change.json" in told.out
    assert "0.0 ha have a class in" in told.err and "are not compared" in told.err
    assert {path.name for path in tmp_path.iterdir()} == {
        *("change.tif", "change.tif.aux.xml", "change.qml", "change.csv", "change.json")
    }


def test_areas_are_those_of_geodesics(tmp_path):
    """Two random maps in degrees, of which each row has pixels of one size, by pyproj."""
    one, two = random_ids(1, (530, 700)), random_ids(2, (530, 700))
    transform = rasterio.Affine(2e-4, 0, 15, 0, -2e-4, 60)
    maps = [
        write_map(tmp_path / f"{name}.tif", ids, "EPSG:4326", transform) for name, ids in (("one", one), ("two", two))
    ]
    run(*maps, "--output", tmp_path / "change.tif")
    geod, expected = Geod(ellps="WGS84"), np.zeros((256, 256))
    for row in range(530):
        pixel = shapely.segmentize(shapely.box(15, 60 - 2e-4 * (row + 1), 15 + 2e-4, 60 - 2e-4 * row), 5e-5)
        hectares = abs(geod.geometry_area_perimeter(pixel)[0]) / 1e4
        np.add.at(expected, (one[row], two[row]), hectares)
    assert matrix_of(tmp_path / "change.csv") == pytest.approx(expected[:9, :9], rel=1e-5)
    np.testing.assert_array_equal(
        codes_of(tmp_path / "change.tif"), np.where((one == NONE) | (two == NONE), NONE, one * 9 + two)
    )


def test_areas_by_zone_are_those_of_exactextract(tmp_path, capsys):
    one, two = random_ids(3, (600, 800)), random_ids(4, (600, 800))
    transform = rasterio.Affine(10, 0, 1_000_000, 0, -10, 5_000_000)
    maps = [write_map(tmp_path / f"{k}.tif", ids, "EPSG:6933", transform) for k, ids in enumerate((one, two))]
    zones = [
        box(3.3, 4.4, 655.5, 455.7, transform),
        shapely.Point(transform @ (500, 350)).buffer(1234.5),
        box(700, 500, 900, 650, transform),
    ]
    path = write_zones(tmp_path / "zones.gpkg", zones, ["Nord", "=Süd", "Rand"], crs="EPSG:6933")
    run(*maps, "--zones", path, "--zone_field", "name", "--output", tmp_path / "change.tif")
    codes = np.where((one == NONE) | (two == NONE), NONE, one * 9 + two)
    left, bottom, right, top = rasterio.transform.array_bounds(*codes.shape, transform)
    features = [{"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(zone)} for zone in zones]
    found = exact_extract(NumPyRasterSource(codes, left, bottom, right, top), features, ["unique", "frac", "count"])
    tree = json.loads((tmp_path / "change.json").read_text())
    for name, feature, row in zip(("Nord", "=Süd", "Rand"), found, tree["zones"], strict=True):
        of, expected = feature["properties"], np.zeros(256)
        expected[of["unique"].astype(int)] = of["frac"] * of["count"] * 0.01
        areas = matrix_of(tmp_path / "change.zones.csv", zone=name)
        assert areas.ravel() == pytest.approx(expected[:81], rel=1e-6, abs=1e-6)
        assert row["nodata_hectares"] == pytest.approx(expected[255], rel=1e-6) and row["zone"] == name
        assert row["compared_hectares"] == pytest.approx(areas.sum()) and "hectares" not in row
    assert tree["zones"][2]["outside_hectares"] == pytest.approx(0.01 * (200 * 150 - 100 * 100), rel=1e-6)
    assert "1 of 3 zones of" in capsys.readouterr().err


def test_another_grid_is_resampled_by_nearest_neighbour_and_told(tmp_path, capsys):
    one = write_map(tmp_path / "one.tif", random_ids(6, (300, 400)))
    transform = rasterio.Affine(1.2e-4, 0, 73.0, 0, -1.1e-4, 30.7)
    ids = random_ids(7, (400, 500))
    with rasterio.open(one, driver="GTiff") as raster:
        (west, _, _, north) = rasterio.warp.transform_bounds(raster.crs, "EPSG:4326", *raster.bounds)
    transform = rasterio.Affine(1.2e-4, 0, west + 0.004, 0, -1.1e-4, north + 0.003)
    two = write_map(tmp_path / "two.tif", ids, "EPSG:4326", transform)
    run(one, two, "--output", tmp_path / "change.tif")
    expected = np.full((300, 400), NONE, np.uint8)
    how = {"src_nodata": NONE, "dst_nodata": NONE, "resampling": Resampling.nearest, "tolerance": 0.01}
    reproject(
        ids, expected, src_transform=transform, src_crs="EPSG:4326", dst_transform=UTM, dst_crs="EPSG:32643", **how
    )
    before = codes_of(one)
    both = np.where((before == NONE) | (expected == NONE), NONE, before * 9 + expected)
    assert (codes_of(tmp_path / "change.tif") == both).mean() > 0.999
    assert "two.tif is on another grid than" in (told := capsys.readouterr().err) and "by nearest neighbour" in told
    assert "ha have a class in" in told
    # Another part of the same pixels is only moved, and nothing is said of resampling.
    moved = UTM @ rasterio.Affine.translation(-30, 550 - 512)
    shifted = write_map(tmp_path / "shifted.tif", random_ids(8, (280, 350)), transform=moved)
    run(one, shifted, "--output", tmp_path / "other.tif")
    expected[:] = NONE
    expected[38:, :320] = random_ids(8, (280, 350))[:262, 30:]
    both = np.where((before == NONE) | (expected == NONE), NONE, before * 9 + expected)
    np.testing.assert_array_equal(codes_of(tmp_path / "other.tif"), both)
    assert "another grid" not in capsys.readouterr().err


@pytest.mark.parametrize(("west", "resampled"), [(-180.02, False), (-180.0204, True)])
def test_maps_across_the_antimeridian_are_one_place_a_full_turn_apart(tmp_path, capsys, west, resampled):
    before, after = random_ids(1, (60, 50)), random_ids(2, (60, 50))
    for name, ids, left in (("one", before, 179.98), ("two", after, west)):
        write_map(tmp_path / f"{name}.tif", ids, "EPSG:4326", rasterio.Affine(0.001, 0, left, 0, -0.001, 65))
    run(tmp_path / "one.tif", tmp_path / "two.tif", "--output", tmp_path / "change.tif")
    expected = np.where((before == NONE) | (after == NONE), NONE, before * 9 + after)
    np.testing.assert_array_equal(codes_of(tmp_path / "change.tif"), expected)
    assert ("another grid" in capsys.readouterr().err) is resampled


def test_sixty_four_classes_take_two_bytes(tmp_path):
    classes = bands.Classes(
        tuple(f"class {k}" for k in range(64)), tuple(f"{k * 4:02x}80{255 - k * 4:02x}" for k in range(64))
    )
    rng = np.random.default_rng(9)
    one, two = rng.integers(0, 64, (2, 90, 120)).astype(np.uint8)
    one[0] = NONE
    maps = [write_map(tmp_path / f"{k}.tif", ids, classes=classes) for k, ids in enumerate((one, two))]
    shares = [write_shares(tmp_path / f"p{k}.tif", np.full((1, 90, 120), 0.5)) for k in range(2)]
    given = (*maps, "--before_probabilities", shares[0], "--after_probabilities", shares[1], "--output")
    run(*given, tmp_path / "c.tif", "--confidence", 0.25)
    with rasterio.open(tmp_path / "c.tif", driver="GTiff") as raster:
        codes, colours = raster.read(1), raster.colormap(1)
        assert raster.nodata == 65535 and raster.dtypes == ("uint16",)
        assert raster.tags()["class_4094"] == "class 63 to class 62"
    np.testing.assert_array_equal(codes[1:], one[1:].astype(int) * 64 + two[1:])
    assert (codes[0] == 65535).all() and colours[1][:3] == (3, 128, 252)  # 0480fb with a third of 0080ff
    run(*given, tmp_path / "d.tif", "--confidence", 0.26)
    codes = codes_of(tmp_path / "d.tif")
    assert set(np.unique(codes[1:][one[1:] != two[1:]])) == {4096}
    assert entries_of(tmp_path / "d.qml")[-1]["label"] == "change, not sure"


def test_of_few_classes_it_is_a_class_map_whose_areas_an_evaluation_of_change_corrects(tmp_path):
    """As Olofsson et al. 2014 want it: labelled pixels of a sample of the map of change; names are not those of variables."""
    classes = bands.Classes(("forêt & <bois>", "blé d'hiver"), ("1b5e20", "e8c547"))
    one, two = np.zeros((40, 50), np.uint8), np.zeros((40, 50), np.uint8)
    one[:, 40:], two[:, 30:] = 1, 1
    maps = [write_map(tmp_path / f"{k}.tif", ids, classes=classes) for k, ids in enumerate((one, two))]
    run(*maps, "--output", tmp_path / "change.tif")
    names = [row["label"] for row in entries_of(tmp_path / "change.qml")]
    assert names == ["forêt & <bois>, unchanged", "forêt & <bois> to blé d'hiver", "blé d'hiver, unchanged"]
    changes = bands.Classes(
        tuple(change_codes.names(classes)), tuple(bytes(colour).hex() for colour in change_codes.colours(classes))
    )
    sample = np.zeros((5, 5), np.int64)  # of 20 pixels mapped as stable forest two were felled
    sample[0, 0], sample[1, 0], sample[1, 1], sample[3, 3] = 18, 2, 20, 20
    zones = write_zones(tmp_path / "zones.gpkg", [box(0, 0, 50, 40)])
    by = evaluation(tmp_path / "by.json", sample, changes)
    measure_areas(
        [*map(str, (tmp_path / "change.tif", "--zones", zones, "--evaluation", by, "--output", tmp_path / "areas.csv"))]
    )
    rows = {row["class"]: row for row in rows_of(tmp_path / "areas.corrected.csv")}
    felled = rows["forêt & <bois> to blé d'hiver"]
    assert float(felled["mapped_hectares"]) == pytest.approx(4, rel=2e-3)
    assert float(felled["hectares"]) == pytest.approx(4 + 12 / 10, rel=2e-3)


@pytest.fixture(scope="module")
def dates(real, tmp_path_factory) -> Path:
    """Maps of both dates of `scene_pakistan`, with probabilities."""
    folder, scene = tmp_path_factory.mktemp("dates"), real / "scene_pakistan"
    bundle = REPOSITORY / "tests" / "bundles" / "bundle_1.safetensors"
    for name, s2, s1 in (("june", "20200604*", "*_20200607T*"), ("august", "20200813*", "*_20200903T*")):
        sensors = ("--s2", next((scene / "s2_l2a").glob(s2)), "--s1", next((scene / "s1").glob(s1)))
        outputs = (
            "--output",
            f"{name}.tif",
            "--probabilities",
            f"{name}.shares.tif",
            "--confidence",
            f"{name}.sure.tif",
        )
        result = command("specsar_jax.predict", "--workdir", bundle, *sensors, *outputs, cwd=folder)
        assert result.returncode == 0, result.stderr
    return folder


def test_two_dates_of_a_real_scene(dates, tmp_path):
    """As a user runs it; the box of the scene, less its nodata, is compared, and areas are those of geodesics by row."""
    maps = dates / "june.tif", dates / "august.tif"
    result = command("specsar_jax.change", *maps, "--output", "change.tif", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    one, two = map(codes_of, maps)
    with rasterio.open(maps[0], driver="GTiff") as raster:
        transform = raster.transform
    expected = np.zeros((256, 256))
    for row in range(len(one)):
        (west, north), (east, south) = transform @ (0, row), transform @ (1, row + 1)
        pixel = shapely.segmentize(shapely.box(west, south, east, north), 2e-5)
        np.add.at(expected, (one[row], two[row]), abs(Geod(ellps="WGS84").geometry_area_perimeter(pixel)[0]) / 1e4)
    areas = matrix_of(tmp_path / "change.csv")
    assert areas == pytest.approx(expected[:9, :9], rel=1e-4) and np.count_nonzero(areas) == 4
    for kind in ("shares", "sure"):
        shares = [
            f"--{when}_probabilities={dates / f'{name}.{kind}.tif'}"
            for when, name in (("before", "june"), ("after", "august"))
        ]
        run(*maps, *shares, "--confidence", 0.0126, "--output", tmp_path / f"{kind}.tif")
    assert (tmp_path / "shares.csv").read_bytes() == (tmp_path / "sure.csv").read_bytes()
    assert 0 < matrix_of(tmp_path / "sure.csv", "unsure_hectares").sum() < areas.sum() - np.trace(areas)
    swapped = refused(
        command(
            *("specsar_jax.change", *maps, "--confidence", 0.8, "--before_probabilities", dates / "august.sure.tif"),
            *("--after_probabilities", dates / "june.sure.tif", "--output", "swapped.tif"),
            cwd=tmp_path,
        )
    )
    assert "is of another map: its s2_files is 20200813T" in swapped


def test_the_same_maps_give_the_same_bytes(folder, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run(folder / "before.tif", folder / "after.tif", "--output", tmp_path / name / "change.tif")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
