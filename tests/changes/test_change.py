"""The command of change: codes, colours and names, areas by independent counts, probabilities, other grids, real dates, and what is refused."""

import csv
import json
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from conftest import REPOSITORY, command, refused
from drawn_zones import UTM, box, shapely, write_map, write_zones
from exactextract import exact_extract
from exactextract.raster import NumPyRasterSource
from pyproj import Geod
from rasterio.errors import RasterioIOError
from rasterio.warp import Resampling, reproject

from specsar_jax import change
from tfds_dwplus import bands
from tfds_dwplus.files.outputs import locked
from tfds_dwplus.files.workplaces import beside, private_folder

NUMBER = len(bands.CLASSES)
WATER, TREES, CROPS, BUILT, NONE = 0, 1, 4, 6, bands.IGNORE


def run(*arguments: object) -> None:
    change.main([str(argument) for argument in arguments])


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def matrix_of(path: Path, column: str = "hectares", zone: str | None = None) -> np.ndarray:
    """A table as a matrix [before, after]."""
    found = np.zeros((NUMBER, NUMBER))
    for row in rows_of(path):
        if row.get("zone") == zone:
            found[bands.CLASSES.index(row["before"]), bands.CLASSES.index(row["after"])] = float(row[column])
    return found


def codes_of(path: Path) -> np.ndarray:
    with rasterio.open(path, driver="GTiff") as raster:
        return raster.read(1)


def random_ids(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """A map of squares of ten pixels, some of no class."""
    squares = np.random.default_rng(seed).choice([*range(9), NONE], (-(-shape[0] // 10), -(-shape[1] // 10)))
    return squares.repeat(10, axis=0).repeat(10, axis=1)[: shape[0], : shape[1]].astype(np.uint8)


def write_shares(path: Path, probability: np.ndarray, transform=UTM, *, names=(), scale: float = 0.004, **tags) -> Path:
    """Writes probabilities [band, row, column] as `predict` does; NaN where there is none."""
    steps = np.where(np.isnan(probability), NONE, np.rint(np.nan_to_num(probability) / 0.004)).astype(np.uint8)
    count, height, width = steps.shape
    size = {"count": count, "height": height, "width": width, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", nodata=NONE, crs="EPSG:32643", transform=transform, **size) as raster:
        raster.write(steps)
        raster.scales = [scale] * count
        raster.descriptions = names or [None] * count
        raster.update_tags(**tags)
    return path


def evaluation(path: Path, confusion: np.ndarray, classes: bands.Classes = bands.DYNAMIC_WORLD, **more) -> Path:
    tree = {"classes": list(classes.names), "class_colours": list(classes.colours)}
    path.write_text(json.dumps(tree | {"confusion_matrix": confusion.tolist()} | more))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two maps of 3 x 4 pixels of UTM, to be read only: water stays, trees become crops and built, and corners are without a class."""
    folder = tmp_path_factory.mktemp("change")
    before = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [6, NONE, 1, 1]], np.uint8)
    after = np.array([[0, 0, 4, 6], [0, NONE, 4, 1], [6, 4, 1, 1]], np.uint8)
    write_map(folder / "before.tif", before, weights_sha256="ab" * 32, s2_dates="2020-06-04")
    write_map(folder / "after.tif", after, weights_sha256="ab" * 32, s2_dates="2021-06-04")
    return folder


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
    style = ElementTree.parse(tmp_path / "change.qml").getroot().findall(".//paletteEntry")
    assert [(entry.get("value"), entry.get("label")) for entry in style] == [
        *(("0", "water, unchanged"), ("10", "trees, unchanged"), ("13", "trees to crops"), ("15", "trees to built")),
        ("60", "built, unchanged"),
    ]
    assert style[2].get("color") == "#" + bytes(colours[13][:3]).hex()
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


def test_changes_that_are_not_sure_are_left_out_and_counted(folder, tmp_path, capsys):
    """Trees to crops: 0.9 x 0.9 and 0.9 x 0.8; trees to built: not known of one map."""
    sure, after = np.full((1, 3, 4), 0.9), np.full((1, 3, 4), 0.9)
    after[0, 1, 2], after[0, 0, 3], after[0, 0, 0] = 0.8, np.nan, 0.1
    shares = (
        *("--before_probabilities", write_shares(tmp_path / "p.tif", sure, s2_dates="2020-06-04")),
        *("--after_probabilities", write_shares(tmp_path / "q.tif", after, s2_dates="2021-06-04")),
    )
    given = (folder / "before.tif", folder / "after.tif", *shares, "--output")
    run(*given, tmp_path / "a.tif", "--confidence", 0.8)
    np.testing.assert_array_equal(codes_of(tmp_path / "a.tif"), [[0, 0, 13, 81], [0, 255, 81, 10], [60, 255, 10, 10]])
    told, left_out = (matrix_of(tmp_path / "a.csv", column) for column in ("hectares", "unsure_hectares"))
    pixel = told[TREES, CROPS]
    assert pixel and left_out[TREES, CROPS] == pytest.approx(pixel, rel=1e-4) == pytest.approx(left_out[TREES, BUILT])
    assert np.count_nonzero(left_out) == 2
    run(folder / "before.tif", folder / "after.tif", "--output", tmp_path / "all.tif")
    assert told + left_out == pytest.approx(matrix_of(tmp_path / "all.csv"), abs=2e-6)
    out = capsys.readouterr().out
    assert "+ 0.0 not sure" in out and "of a probability below 0.8" in out
    # A threshold that a probability has to the digit leaves it in: 0.9 x 0.8.
    for least, count in ((0.72, 1), (0.7201, 2), (0, 0), (1, 3)):
        run(*given, tmp_path / "b.tif", "--confidence", least)
        assert (codes_of(tmp_path / "b.tif") == 81).sum() == count
    tree = json.loads((tmp_path / "b.json").read_text())
    assert tree["unsure_change_hectares"] == pytest.approx(3 * pixel, rel=1e-3) and tree["confidence"] == 1
    # By zone it is counted too, and the style names it.
    zones = write_zones(tmp_path / "zones.gpkg", [box(0, 0, 4, 1), box(0, 1, 4, 3)])
    run(*given, tmp_path / "c.tif", "--confidence", 0.8, "--zones", zones)
    first, second = (matrix_of(tmp_path / "c.zones.csv", "unsure_hectares", zone) for zone in "12")
    assert first + second == pytest.approx(left_out, abs=2e-6) and first[TREES, BUILT] and not first[TREES, CROPS]
    assert 'value="81"' in (tmp_path / "c.qml").read_text()


def test_probabilities_of_all_classes_say_what_confidences_say(folder, tmp_path):
    rng = np.random.default_rng(5)
    shares = [rng.dirichlet(np.full(9, 0.3), (3, 4)).transpose(2, 0, 1) for _ in range(2)]
    ids = [codes_of(folder / name) for name in ("before.tif", "after.tif")]
    paths, products = {"all": [], "one": []}, np.ones((3, 4))
    for number, (share, id_) in enumerate(zip(shares, ids, strict=True)):
        paths["all"].append(write_shares(tmp_path / f"all{number}.tif", share, names=bands.CLASSES))
        own = np.take_along_axis(share, np.where(id_ == NONE, 0, id_)[None].astype(int), axis=0)
        paths["one"].append(write_shares(tmp_path / f"one{number}.tif", own))
        products *= own[0]
    least = np.median(products[[0, 1, 0], [2, 2, 3]])
    for name, (one, two) in paths.items():
        given = (
            folder / "before.tif",
            folder / "after.tif",
            "--before_probabilities",
            one,
            "--after_probabilities",
            two,
        )
        run(*given, "--confidence", least + 0.001, "--output", tmp_path / f"{name}.change.tif")
    codes = codes_of(tmp_path / "all.change.tif")
    assert (codes == 81).sum() == 2
    np.testing.assert_array_equal(codes, codes_of(tmp_path / "one.change.tif"))


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
    label = ElementTree.parse(tmp_path / "d.qml").getroot().findall(".//paletteEntry")[-1].get("label")
    assert label == "change, not sure"


def test_evaluations_of_both_maps_give_intervals(folder, tmp_path, capsys):
    """A perfect score gives the mapped areas; errors at both dates make change of ground that did not."""
    given = (folder / "before.tif", folder / "after.tif", "--output", tmp_path / "c.tif")
    perfect = evaluation(tmp_path / "perfect.json", 20 * np.eye(9, dtype=np.int64))
    run(*given, "--before_evaluation", perfect, "--after_evaluation", perfect)
    for row in rows_of(tmp_path / "c.csv"):
        assert row["hectares"] == row["estimated_hectares"] == row["low"] == row["high"] and not float(
            row["standard_error"]
        )
    told = capsys.readouterr()
    assert "take the errors of the two maps for independent" in told.err and "changed, estimated" in told.out
    confusion = 20 * np.eye(9, dtype=np.int64) + 1
    confusion[:, BUILT] = 0
    less = evaluation(tmp_path / "less.json", confusion, data_sha256="cd" * 32, split="test")
    other = evaluation(tmp_path / "other.json", confusion, data_sha256="cd" * 32, split="test", step=7)
    run(*given, "--before_evaluation", less, "--after_evaluation", other)
    tree = json.loads((tmp_path / "c.json").read_text())
    areas = matrix_of(tmp_path / "c.csv")
    left_out = areas[BUILT].sum() + areas[:, BUILT].sum() - areas[BUILT, BUILT]
    assert tree["estimated"]["unsampled_share"] == pytest.approx(left_out / areas.sum(), rel=1e-4)
    kept = np.delete(np.delete(areas, BUILT, 0), BUILT, 1)
    assert matrix_of(tmp_path / "c.csv", "estimated_hectares").sum() == pytest.approx(kept.sum(), abs=1e-4)
    told = capsys.readouterr().err
    assert "both evaluations are of the same labels" in told and "of the compared area is not in the estimates" in told
    assert any("independent" in note for note in tree["notes"])


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


def test_a_full_disk_leaves_the_older_files_as_they_are(folder, tmp_path, monkeypatch):
    given = (folder / "before.tif", folder / "after.tif", "--output", tmp_path / "c.tif")
    run(*given)
    older = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_, **__):
        raise RasterioIOError("No space left on device")

    monkeypatch.setattr(rasterio.shutil, "copy", fail)
    with pytest.raises(
        OSError, match=r"cannot write the raster of changes .No space left on device.: is the disk full"
    ):
        run(folder / "after.tif", *given[1:])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == older


def test_without_the_libraries_or_with_too_many_zones(folder, tmp_path, monkeypatch):
    given = (folder / "before.tif", folder / "after.tif", "--output", tmp_path / "c.tif", "--zones")
    zones = write_zones(tmp_path / "zones.gpkg", [box(0, 0, 4, 1), box(0, 1, 4, 3)])
    monkeypatch.setattr(change, "_MOST_SUMS", 100)
    with pytest.raises(ValueError, match=r"zones.gpkg has 2 zones, each of 81 kinds of change; give 1 zones at most"):
        run(*given, zones)
    monkeypatch.setitem(sys.modules, "exactextract", None)
    with pytest.raises(ValueError, match=r"this command needs exactextract: pip install 'specsar_jax.areas.'"):
        run(*given, zones)
    run(*given[:-1])


def test_what_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, after, out = folder / "before.tif", folder / "after.tif", tmp_path / "c.tif"
    flat = np.full((1, 3, 4), 0.5)
    good = write_shares(tmp_path / "p.tif", flat)
    wide = write_shares(tmp_path / "wide.tif", np.full((1, 3, 5), 0.5))
    coarse = write_shares(tmp_path / "coarse.tif", flat, scale=0.01)
    named = write_shares(tmp_path / "named.tif", flat.repeat(9, axis=0), names=[f"x{k}" for k in range(9)])
    others = write_shares(tmp_path / "others.tif", flat, weights_sha256="cd" * 32)
    away = write_map(
        tmp_path / "away.tif", np.zeros((4, 4), np.uint8), transform=UTM @ rasterio.Affine.translation(900, 0)
    )
    two = bands.Classes(("wet", "dry"), ("0000ff", "ffff00"))
    unlike = write_map(tmp_path / "unlike.tif", np.zeros((3, 4), np.uint8), classes=two)
    empty = write_map(tmp_path / "empty.tif", np.full((3, 4), NONE, np.uint8))
    codes = np.zeros((3000, 4), np.uint8)
    codes[2001, 3] = 77
    strange = write_map(tmp_path / "strange.tif", codes)
    with warnings.catch_warnings(action="ignore"):
        unplaced = write_map(tmp_path / "unplaced.tif", np.zeros((4, 4), np.uint8), "")
    far = write_zones(tmp_path / "far.gpkg", [box(5000, 5000, 6000, 6000)])
    bow = write_zones(tmp_path / "bow.gpkg", [shapely.Polygon([UTM @ at for at in ((0, 0), (4, 3), (4, 0), (0, 3))])])
    other = evaluation(tmp_path / "other.json", np.eye(2, dtype=np.int64), two)
    mine = evaluation(tmp_path / "mine.json", np.eye(9, dtype=np.int64))
    (tmp_path / "there").mkdir()
    sure, at = ("--confidence", 0.8), ("--before_probabilities", good, "--after_probabilities")
    for given, message in (
        ((before, away), "have no ground in common: longitude .*, and longitude .*; give two maps of one place"),
        ((before, empty), "no pixel has a class in both"),
        ((before, unlike), "is of the classes water, trees.* of wet, dry; give two maps of the same classes"),
        ((strange, before), "strange.tif holds 77, expected ids of its 9 classes"),
        ((before, unplaced), "has no place on earth"),
        ((before, good), "holds 125, expected ids"),
        ((before, tmp_path / "x.tif"), "cannot open .*x.tif: no such file"),
        ((before, tmp_path / "there"), "has no mosaic_<zone>.vrt"),
        ((before, after, "--confidence", 1.5), "--confidence 1.5 is no probability, expected 0 to 1"),
        ((before, after, "--confidence", "nan"), "--confidence nan is no probability"),
        ((before, after, *sure), "give --before_probabilities and --after_probabilities"),
        ((before, after, *at, good), "probabilities are used with --confidence alone"),
        ((before, after, *sure, *at, wide), "--after_probabilities .*wide.tif is not on the grid of .*after.tif"),
        ((before, after, *sure, *at, coarse), "coarse.tif is not uint8 in steps of 0.004"),
        ((before, after, *sure, *at, after), "after.tif is not uint8 in steps of 0.004"),
        ((before, after, *sure, *at, named), "named.tif holds 9 bands .x0, x1"),
        ((before, after, *sure, *at, others), "others.tif is of another map: its weights_sha256 is cdcd"),
        ((before, after, "--zones", far), "no zone has a part in the map: the zones lie at"),
        ((before, after, "--zones", bow), "1 of 1 features are not valid"),
        ((before, after, "--before_evaluation", mine), "one evaluation alone says nothing of change"),
        (
            (before, after, "--before_evaluation", mine, "--after_evaluation", other),
            "--after_evaluation .*other.json is of the classes wet, dry, the map has water, trees",
        ),
    ):
        with pytest.raises(ValueError, match=message) as error:
            run(*given, "--output", out)
        assert "\n" not in str(error.value) and not list(tmp_path.glob("c.*"))
    for name, message in (
        ("c.png", "ends in '.png', expected change.tif, or a folder"),
        ("no/c.tif", "no folder"),
        ("there", "is there already; remove it"),
        ("there/../there.tif/x.tif", "no folder"),
    ):
        with pytest.raises(ValueError, match=message):
            run(before, after, "--output", tmp_path / name)
    own = write_map(tmp_path / "own.tif", codes_of(before))
    with pytest.raises(ValueError, match=r"own.tif is read, and --output .* would write it; give another name"):
        run(own, after, "--output", own)
    with pytest.raises(ValueError, match=r"mine.json is read, and --output .*mine.tif would write it"):
        evaluated = ("--before_evaluation", mine, "--after_evaluation", mine)
        run(before, after, *evaluated, "--output", tmp_path / "mine.tif")
    (tmp_path / "taken.csv").mkdir()
    with pytest.raises(ValueError, match=r"taken.csv is a folder, expected a file to write"):
        run(before, after, "--output", tmp_path / "taken.tif")
    private_folder(beside(out))
    with locked(beside(out) / "lock", out), pytest.raises(ValueError, match="another process is at work"):
        run(before, after, "--output", out)
    assert not list(tmp_path.glob("c.*"))
    assert "expected 0 to 1" in refused(
        command("specsar_jax.change", before, after, "--confidence", -1, "--output", "c.tif", cwd=tmp_path)
    )
