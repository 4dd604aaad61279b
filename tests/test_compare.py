"""Maps made elsewhere: grids, nodata, votes, pairs, and what is refused."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import REPOSITORY, command, refused
from rasterio.warp import transform as transform_coordinates
from sklearn.metrics import confusion_matrix

from specsar_jax import accuracy, compare, evaluate, legends, metrics
from specsar_jax.checkpoints import write_json
from specsar_jax.tally import Tally
from tfds_dwplus import DynamicWorldPlusConfig, bands
from tfds_dwplus.imagery import Grid
from tfds_dwplus.labels import votes
from tfds_dwplus.prepare import prepare
from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.tile_files import COLUMNS, Tile, write_tile

OUR_CODES = np.arange(9, dtype=np.uint8)
WORLDCOVER_OF = np.array([80, 10, 30, 90, 40, 20, 50, 60, 70], np.uint8)
DATE_PLACE = "dw_-63.3512901800_-3.9093045532-20190812"


@dataclasses.dataclass
class World:
    """A prepared data set and what is in it."""

    data: Path
    tiles: list[Tile]

    def flags(self, name: str = "mine") -> list[str]:
        return ["--data_dir", str(self.data), "--dataset", name, "--split", "test"]


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """Three test tiles of 64 x 64 with a corner unmarked; and 'placeless', the same of 48 x 48 and nobody knows where, padded to 64."""
    folder = tmp_path_factory.mktemp("world")
    tiles = [simulated_tile(7, "test", index, 64) for index in range(3)]
    for tile in tiles:
        tile.label[:9, :9] = bands.IGNORE
    placeless = [
        dataclasses.replace(tile, s2=tile.s2[:48, :48], s1=tile.s1[:48, :48], label=tile.label[:48, :48], crs="")
        for tile in tiles
    ]
    for name, of in (("mine", tiles), ("placeless", placeless)):
        rows = []
        for split, tile in [
            ("train", simulated_tile(7, "train", 0, len(of[0].label))),
            *(("test", tile) for tile in of),
        ]:
            write_tile(folder / name, tile, bands.S2_BANDS)
            record = tile.record
            place = (record.lon, record.lat) if tile.crs else ("", "")
            rows.append((record.tile_id, split, *place, record.date, record.annotator, *tile.label.shape))
        with (folder / name / "tiles.csv").open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        prepare(DynamicWorldPlusConfig(name=name, tiles=folder / name, tile_size_px=64), folder / "data")
    return World(folder / "data", tiles)


def write(path: Path, values: np.ndarray, crs: str | None, transform, names=(), **profile) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    layers = values[None] if values.ndim == 2 else values
    size = {"height": layers.shape[1], "width": layers.shape[2], "count": len(layers), "dtype": layers.dtype}
    with rasterio.open(
        path, "w", driver="GTiff", crs=crs, transform=rasterio.Affine(*tuple(transform)[:6]), **size, **profile
    ) as raster:
        raster.write(layers)
        if names:
            raster.descriptions = names
    return path


def predicted(tile: Tile, seed: int, right: float = 0.7) -> np.ndarray:
    """A map that is right on a share of the pixels, also where nobody marked them."""
    rng = np.random.default_rng(seed)
    truth = simulated_tile(7, "test", int(tile.record.tile_id.rsplit("_", 1)[-1]), 64).label
    truth = np.where(truth == bands.IGNORE, 1, truth)
    return np.where(rng.random(truth.shape) < right, truth, rng.integers(0, 9, truth.shape)).astype(np.uint8)


def folder_of(world: World, folder: Path, seed: int, right: float = 0.7, codes=OUR_CODES, **profile) -> Path:
    for tile in world.tiles:
        write(
            folder / f"{tile.record.tile_id}.tif",
            codes[predicted(tile, seed, right)],
            tile.crs,
            tile.transform,
            **profile,
        )
    return folder


def run(*arguments: object) -> dict:
    """The command, in this process; gives its JSON file."""
    argv = [str(argument) for argument in arguments]
    evaluate.main(argv)
    first = Path(argv[argv.index("--prediction") + 1])
    return json.loads(((first if first.is_dir() else first.parent) / "comparison_test.json").read_text())


def expected_confusion(world: World, seed: int, right: float = 0.7, only=slice(None)) -> np.ndarray:
    label = np.stack([tile.label for tile in world.tiles])[only].ravel()
    prediction = np.stack([predicted(tile, seed, right) for tile in world.tiles])[only].ravel()
    return confusion_matrix(label[label != 255], prediction[label != 255], labels=np.arange(9))


def test_a_folder_of_tiles(world, tmp_path, capsys):
    found = run("--prediction", folder_of(world, tmp_path / "map", 1), "--legend", "dynamic_world", *world.flags())
    row = found["maps"]["map"]
    figures = row["labels"]["label"]
    confusion = expected_confusion(world, 1)
    np.testing.assert_array_equal(figures["confusion_matrix"], confusion)
    assert figures["mean_iou"] == metrics.summarise(confusion)["mean_iou"]
    assert figures["tiles"] == 3 and figures["labelled_pixels"] == found["labelled_pixels"]["label"] == confusion.sum()
    low, high = figures["intervals"]["overall_accuracy"]
    assert low <= figures["overall_accuracy"] <= high
    assert row["warped_tiles"] == 0 and row["tiles_without"] == []
    assert found["dataset"] == "dynamic_world_plus/mine/1.0.0" and found["pairs"] == [] and "published" not in found
    mapped = sum(np.bincount(predicted(tile, 1).ravel(), minlength=9) for tile in world.tiles)
    assert figures["area"]["per_class"]["water"]["mapped_ha"] == pytest.approx(mapped[0] / 100)
    printed = capsys.readouterr().out
    assert "Dynamic World product, or a map of ours, read as:" in printed and "warped" not in printed


def test_another_grid_is_warped_by_nearest_neighbour(world, tmp_path, capsys):
    tile = world.tiles[0]
    a, _, left, _, _, top = tile.transform
    rng = np.random.default_rng(0)
    codes = WORLDCOVER_OF[rng.integers(0, 9, (150, 140))]
    step, x0, y0 = 7.0, left - 33.0, top + 81.0  # pixels of 7 m that begin elsewhere
    mosaic = write(tmp_path / "wc.tif", codes, tile.crs, (step, 0, x0, 0, -step, y0))
    found = run("--prediction", mosaic, "--legend", "worldcover", *world.flags())
    centre = np.arange(64) * a + a / 2
    expected = codes[np.ix_(((y0 - top + centre) // step).astype(int), ((left + centre - x0) // step).astype(int))]
    codes_there, warped = compare.read_codes(mosaic, legends.WORLDCOVER, Grid(tile.crs, tile.transform, 64, 64))
    assert warped
    np.testing.assert_array_equal(codes_there, expected)
    row = found["maps"]["wc"]
    others = [of.record.tile_id for of in world.tiles[1:]]
    assert row["warped_tiles"] == 1 and row["tiles_without"] == others
    assert {int(code): of["pixels"] for code, of in row["codes"].items()} == dict(
        zip(*(of.tolist() for of in np.unique(expected, return_counts=True)), strict=True)
    )
    ids = np.argsort(WORLDCOVER_OF)[np.searchsorted(np.sort(WORLDCOVER_OF), expected)]
    labelled = tile.label != 255
    np.testing.assert_array_equal(
        row["labels"]["label"]["confusion_matrix"],
        confusion_matrix(tile.label[labelled], ids[labelled], labels=np.arange(9)),
    )
    printed = capsys.readouterr().out
    assert "tiles on another grid than the label, warped by nearest neighbour: 1" in printed
    assert "tiles without a pixel of it: 2 (" in printed and "ESA WorldCover" in printed


def test_another_crs(world, tmp_path):
    """Against a look-up of each pixel's centre, which does not know GDAL's warper."""
    tile = world.tiles[0]
    rows, columns = np.mgrid[:64, :64] + 0.5
    x, y = tile.transform[2] + 10 * columns, tile.transform[5] - 10 * rows
    lon, lat = (
        np.array(of).reshape(64, 64) for of in transform_coordinates(tile.crs, "EPSG:4326", x.ravel(), y.ravel())
    )
    step = 1 / 12000
    west, north = lon.min() - 20.4 * step, lat.max() + 20.7 * step
    codes = WORLDCOVER_OF[np.random.default_rng(0).integers(0, 9, (160, 160))]
    path = write(tmp_path / "wc.tif", codes, "EPSG:4326", (step, 0, west, 0, -step, north), nodata=0)
    found, warped = compare.read_codes(path, legends.WORLDCOVER, Grid(tile.crs, tile.transform, 64, 64))
    expected = codes[((north - lat) / step).astype(int), ((lon - west) / step).astype(int)]
    assert warped and (found == expected).mean() > 0.999


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("nodata", [None, 100])
def test_beyond_a_raster_is_nodata_in_every_type(world, tmp_path, dtype, nodata):
    tile = world.tiles[0]
    left, top = tile.transform[2], tile.transform[5]
    values = predicted(tile, 1)
    values[:, 40:50] = 100 if nodata else 0
    path = write(tmp_path / "x.tif", values.astype(dtype), tile.crs, (10, 0, left + 320, 0, -10, top), nodata=nodata)
    codes, warped = compare.read_codes(path, legends.DYNAMIC_WORLD, Grid(tile.crs, tile.transform, 64, 64))
    assert warped and (codes[:, :32] == 255).all()
    np.testing.assert_array_equal(codes[:, 32:], np.where(values == 100, 255, values)[:, :32])
    for crs, easting in ((tile.crs, left + 6400), ("EPSG:32601", left)):
        elsewhere = Grid(crs, (10.0, 0.0, easting, 0.0, -10.0, top), 64, 64)
        assert compare.read_codes(path, legends.DYNAMIC_WORLD, elsewhere)[0] is None


def test_beyond_a_raster_is_nodata_and_not_water(world, tmp_path):
    tile = world.tiles[0]
    half = write(
        tmp_path / "half.tif",
        predicted(tile, 1)[:, 32:],
        tile.crs,
        (10, 0, tile.transform[2] + 320, 0, -10, tile.transform[5]),
    )
    found = run("--prediction", half, "--legend", "dynamic_world", *world.flags())
    figures = found["maps"]["half"]["labels"]["label"]
    assert figures["labelled_pixels"] == (tile.label[:, 32:] != 255).sum()
    np.testing.assert_array_equal(figures["confusion_matrix"], expected_confusion(world, 1, only=np.s_[:1, :, 32:]))
    assert found["maps"]["half"]["codes"]["255"]["pixels"] == 64 * 32
    smaller = write(tmp_path / "smaller.tif", predicted(tile, 1)[:20], tile.crs, tile.transform)
    codes, warped = compare.read_codes(smaller, legends.DYNAMIC_WORLD, Grid(tile.crs, tile.transform, 64, 64))
    assert not warped and (codes[20:] == 255).all() and (codes[:20] == predicted(tile, 1)[:20]).all()


def test_two_maps_are_scored_on_the_pixels_that_both_have(world, tmp_path, capsys):
    first = folder_of(world, tmp_path / "first", 1, 0.8)
    second = folder_of(world, tmp_path / "second", 2, 0.6, WORLDCOVER_OF)
    gap = second / f"{world.tiles[1].record.tile_id}.tif"
    codes = WORLDCOVER_OF[predicted(world.tiles[1], 2, 0.6)]
    codes[30:] = 100  # moss, which is left out
    write(gap, codes, world.tiles[1].crs, world.tiles[1].transform)
    (second / f"{world.tiles[2].record.tile_id}.tif").unlink()
    found = run(
        "--prediction",
        first,
        "--legend",
        "dynamic_world",
        "--prediction",
        second,
        "--legend",
        "worldcover",
        *world.flags(),
    )
    label = np.concatenate([world.tiles[0].label, world.tiles[1].label[:30]]).ravel()
    a = np.concatenate([predicted(world.tiles[0], 1, 0.8), predicted(world.tiles[1], 1, 0.8)[:30]]).ravel()
    b = np.concatenate([predicted(world.tiles[0], 2, 0.6), predicted(world.tiles[1], 2, 0.6)[:30]]).ravel()
    labelled = label != 255
    for name, prediction in (("first", a), ("second", b)):
        figures = found["maps"][name]["labels"]["label"]
        np.testing.assert_array_equal(
            figures["confusion_matrix"], confusion_matrix(label[labelled], prediction[labelled], labels=np.arange(9))
        )
        assert figures["tiles"] == 2
    (pair,) = found["pairs"]
    np.testing.assert_array_equal(pair["agreement_matrix"], confusion_matrix(a, b, labels=np.arange(9)))
    assert pair["agreement"] == pytest.approx((a == b).mean())
    only_a, only_b = (int((of[0] == label)[labelled & (of[1] != label)].sum()) for of in ((a, b), (b, a)))
    assert pair["mcnemar"]["label"] == accuracy.mcnemar(only_a, only_b)
    difference = pair["difference"]["label"]["figures"]["overall_accuracy"]
    assert difference["difference"] == pytest.approx((a == label)[labelled].mean() - (b == label)[labelled].mean())
    printed = capsys.readouterr().out
    assert "McNemar, chi-squared" in printed and "a = first, b = second: one class on" in printed


def test_rangeland_makes_grass_and_shrub_one_class_for_all(world, tmp_path):
    esri = np.array([1, 2, 11, 4, 5, 11, 7, 8, 9], np.uint8)
    ours = folder_of(world, tmp_path / "ours", 1)
    theirs = folder_of(world, tmp_path / "theirs", 1, codes=esri)
    found = run(
        "--prediction", ours, "--legend", "dynamic_world", "--prediction", theirs, "--legend", "esri", *world.flags()
    )
    assert found["merged"] == [["grass", "shrub_and_scrub"]]
    a, b = (found["maps"][name]["labels"]["label"] for name in ("ours", "theirs"))
    assert a == b and a["per_class"]["shrub_and_scrub"]["iou"] is None
    separate = expected_confusion(world, 1)
    merged = separate.copy()
    merged[2] += merged[5]
    merged[:, 2] += merged[:, 5]
    merged[5], merged[:, 5] = 0, 0
    np.testing.assert_array_equal(a["confusion_matrix"], merged)
    (pair,) = found["pairs"]
    assert pair["agreement"] == 1 and pair["mcnemar"]["label"]["p_value"] == 1


def test_a_workdir_beside_a_raster(world, tmp_path):
    network, workdir = folder_of(world, tmp_path / "network", 5, 0.9), tmp_path / "run"
    workdir.mkdir()
    figures = run("--prediction", network, "--legend", "dynamic_world", *world.flags())["maps"]["network"]["labels"][
        "label"
    ]
    # What a network leaves, here counted from a map: the same sums, the tiles in another order.
    scored = compare.score(
        [compare.Map(network, legends.DYNAMIC_WORLD)],
        compare.dataset_targets(evaluate.read_split(evaluate.open_dataset(world.data, "mine"), "test")),
    )
    scored.tallies["network"]["label"].choose(np.array([2, 0, 1])).write(workdir / "tiles_test.npz")
    scored_on = {"dataset": "dynamic_world_plus/mine/1.0.0", "split": "test", "calibration": {"temperature": 1.5}}
    write_json(workdir / "evaluation_test.json", figures | scored_on)
    raster = folder_of(world, tmp_path / "raster", 6, 0.5, np.array([1, 2, 11, 4, 5, 11, 7, 8, 9], np.uint8))
    both = ("--prediction", raster, "--legend", "esri", "--workdir", workdir)
    found = run(*both, *world.flags())
    assert list(found["maps"]) == ["run", "raster"] and found["maps"]["run"]["path"] is None
    confusion = np.array(found["maps"]["run"]["labels"]["label"]["confusion_matrix"])
    assert confusion[5].sum() == confusion[:, 5].sum() == 0 and confusion.sum() == figures["labelled_pixels"]
    (pair,) = found["pairs"]
    assert pair["difference"]["label"]["figures"]["overall_accuracy"]["difference"] > 0.2
    assert "mcnemar" not in pair and "agreement_matrix" not in pair
    other = {"dataset": "dynamic_world_plus/other/1.0.0", "split": "test"}
    (workdir / "evaluation_test.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match=r"was scored on dynamic_world_plus/other/1.0.0"):
        run(*both, *world.flags())
    (workdir / "evaluation_test.json").write_text(json.dumps(scored_on | {"split": "test[:2]"}))
    with pytest.raises(ValueError, match=r"is of split 'test\[:2\]', not 'test'"):
        run(*both, *world.flags())
    with pytest.raises(ValueError, match=r"no workdir or bundle .*nowhere"):
        run("--prediction", raster, "--legend", "esri", "--workdir", tmp_path / "nowhere", *world.flags())
    (workdir / "tiles_test.npz").unlink()
    with pytest.raises(ValueError, match=r"no .*tiles_test.npz; run python -m specsar_jax.evaluate"):
        run(*both, *world.flags())


@pytest.mark.parametrize("name", ["mine", "placeless"])
def test_the_maps_of_a_network_score_as_the_network_does(world, small_run, tmp_path, name):
    tile_ids = [tile.record.tile_id for tile in world.tiles]
    of_network = ("--workdir", small_run / "run", *world.flags(name), "--output", tmp_path / "of_network.json")
    evaluate.main([*map(str, of_network), "--maps", str(tmp_path / "ours")])
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == sorted(f"{of}.tif" for of in tile_ids)
    expected = json.loads((tmp_path / "of_network.json").read_text())
    with compare.open_raster(tmp_path / "ours" / f"{tile_ids[2]}.tif") as raster:
        assert raster.profile["dtype"] == "uint8" and raster.nodata == 255
        if name == "mine":
            assert raster.crs == world.tiles[2].crs and tuple(raster.transform)[:6] == world.tiles[2].transform
        else:
            assert raster.crs is None and (raster.read(1)[48:] == 255).all() and (raster.read(1)[:48, :48] < 9).all()
    theirs = folder_of(world, tmp_path / "theirs", 3)
    if name == "placeless":
        for path in theirs.iterdir():  # of tiles that nobody knows where they are
            with rasterio.open(path) as raster:
                values = raster.read(1)
            write(path, values[:48, :48], None, (10, 0, 0, 0, -10, 0))
    both = ("--prediction", tmp_path / "ours", "--prediction", theirs, "--legend", "dynamic_world")
    found = run(*both, *world.flags(name))
    figures = found["maps"]["ours"]["labels"]["label"]
    for key in ("confusion_matrix", "labelled_pixels", "mean_iou", "boundary_iou"):
        assert figures[key] == expected[key]
    assert (figures["area"]["mapped_ha"] is None) == (name == "placeless")
    assert found["pairs"][0]["mcnemar"]["label"]["p_value"] <= 1


def test_no_labelled_pixel_is_nothing_to_score(world, small_run, tmp_path):
    empty = dataclasses.replace(world.tiles[0], label=np.full_like(world.tiles[0].label, 255))
    write_tile(tmp_path / "tiles", empty, bands.S2_BANDS)
    write_tile(tmp_path / "tiles", train_tile := simulated_tile(7, "train", 0, 64), bands.S2_BANDS)
    rows = [(train_tile.record.tile_id, "train"), (empty.record.tile_id, "test")]
    with (tmp_path / "tiles/tiles.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("tile_id", "split"), *rows])
    prepare(DynamicWorldPlusConfig(name="empty", tiles=tmp_path / "tiles", tile_size_px=64), tmp_path / "data")
    arguments = ("--workdir", small_run / "run", "--data_dir", tmp_path / "data", "--dataset", "empty")
    with pytest.raises(
        ValueError, match="no labelled pixel where the sensors have data in the 1 tiles of split 'test'"
    ):
        evaluate.main([*map(str, arguments), "--output", str(tmp_path / "x.json"), "--maps", str(tmp_path / "maps")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "tiles"]


def test_groups_of_maps(world, tmp_path):
    path = folder_of(world, tmp_path / "map", 1)
    prediction = ("--prediction", path, "--legend", "dynamic_world", *world.flags(), "--groups")
    groups = run(*prediction, "lon")["maps"]["map"]["labels"]["label"]["groups"]
    assert list(groups) == ["lon"] and [row["tiles"] for row in groups["lon"].values()] == [1, 1, 1]
    with pytest.raises(ValueError, match=r"no column label in .* to group by; it has"):
        run(*prediction, "label")


def test_tiles_without_a_place(world, tmp_path):
    for tile in world.tiles:
        write(tmp_path / "map" / f"{tile.record.tile_id}.tif", predicted(tile, 1)[:48, :48], None, tile.transform)
    found = run("--prediction", tmp_path / "map", "--legend", "dynamic_world", *world.flags("placeless"))
    np.testing.assert_array_equal(
        found["maps"]["map"]["labels"]["label"]["confusion_matrix"],
        expected_confusion(world, 1, only=np.s_[:, :48, :48]),
    )
    mosaic = write(tmp_path / "m.tif", predicted(world.tiles[0], 1), world.tiles[0].crs, world.tiles[0].transform)
    with pytest.raises(ValueError, match=r"has no place, so that .*m.tif cannot be laid over it; give a folder"):
        run("--prediction", mosaic, "--legend", "dynamic_world", *world.flags("placeless"))
    write(
        tmp_path / "map" / f"{world.tiles[0].record.tile_id}.tif",
        np.zeros((99, 48), np.uint8),
        None,
        (10, 0, 0, 0, -10, 0),
    )
    with pytest.raises(ValueError, match=r"no place.* 99 x 48 pixels, tile .* of 64 x 64; .*one size"):
        run("--prediction", tmp_path / "map", "--legend", "dynamic_world", *world.flags("placeless"))


def test_a_raster_without_a_place_must_be_as_large_as_its_tile(world, tmp_path):
    for tile in world.tiles:
        write(tmp_path / "map" / f"{tile.record.tile_id}.tif", predicted(tile, 1)[:40], None, tile.transform)
    for name in ("mine", "placeless"):
        with pytest.raises(ValueError, match=r"is of 40 x 64 pixels|no place.* 40 x 64 pixels"):
            run("--prediction", tmp_path / "map", "--legend", "dynamic_world", *world.flags(name))
    alone = next((tmp_path / "map").iterdir())
    with pytest.raises(ValueError, match="has no CRS, so that nobody knows which tiles it covers"):
        run("--prediction", alone, "--legend", "dynamic_world", *world.flags())


def one_file(world: World, folder: Path, values, **of) -> Path:
    tile = world.tiles[0]
    return write(
        folder / "x.tif", values(predicted(tile, 1, 0.95)), tile.crs, of.pop("transform", tile.transform), **of
    )


FAULTS = {
    "from one": ("dynamic_world", lambda w, f: one_file(w, f, lambda ids: np.minimum(ids + 1, 8).astype(np.uint8)), "give --legend dynamic_world_labels"),
    "from one, with snow": ("dynamic_world", lambda w, f: one_file(w, f, lambda ids: np.full_like(ids, 9)), "count from 1: give --legend dynamic_world_labels"),
    "from zero": ("dynamic_world_labels", lambda w, f: one_file(w, f, lambda ids: ids), "give --legend dynamic_world"),
    "other codes": ("worldcover", lambda w, f: one_file(w, f, lambda ids: ids), "which legend worldcover does not have; it has 10, 20"),
    "nodata is water": ("dynamic_world", lambda w, f: one_file(w, f, lambda ids: ids, nodata=0), "declares 0 as nodata, which is water"),
    "probabilities": ("dynamic_world", lambda w, f: one_file(w, f, lambda ids: (ids / 9).astype(np.float32)), "are these probabilities"),
    "bands": ("worldcover", lambda w, f: one_file(w, f, lambda ids: np.stack([ids, ids]), names=("b1", "b2")), "has the bands b1, b2, expected map for legend"),
    "elsewhere": ("dynamic_world", lambda w, f: one_file(w, f, lambda ids: ids, transform=(10, 0, 166000, 0, -10, 0)), "does not overlap any of the 3 tiles"),
    "other names": ("dynamic_world", lambda w, f: one_file(w, f, lambda ids: ids).parent, "has no file of the 3 tiles"),
    "empty folder": ("dynamic_world", lambda w, f: f, "no raster in"),
    "not there": ("dynamic_world", lambda w, f: f / "nowhere", "no file or folder"),
    "not a raster": ("dynamic_world", lambda w, f: (f / "x.tif").write_text("no") and f / "x.tif", "not a raster"),
    "only moss": ("worldcover", lambda w, f: one_file(w, f, lambda ids: np.full_like(ids, 100)), "has a class"),
    "no legend": ("modis", lambda w, f: one_file(w, f, lambda ids: ids), "no legend 'modis', expected one of"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_refused(world, tmp_path, fault):
    legend, make, message = FAULTS[fault]
    path = make(world, tmp_path)
    with pytest.raises(ValueError) as error:
        run("--prediction", path, "--legend", legend, *world.flags())
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.glob("comparison*"))


def test_no_labelled_pixel(world, tmp_path):
    tile = world.tiles[0]
    corner = write(tmp_path / "corner.tif", np.ones((9, 9), np.uint8), tile.crs, tile.transform)
    with pytest.raises(ValueError, match="no labelled pixel where corner has a class: the labels of the 3 tiles"):
        run("--prediction", corner, "--legend", "dynamic_world", *world.flags())


def test_arguments_that_do_not_fit(world, small_run, tmp_path, capsys):
    path = folder_of(world, tmp_path / "map", 1)
    for arguments, message in (
        (("--legend", "dynamic_world", "--split", "test"), "no labels: give --data_dir and --dataset"),
        (("--legend", "dynamic_world", *world.flags()[:-1], "nosplit"), "split 'nosplit' of .* is unknown or empty"),
        ((*world.flags(),), "1 --prediction and 0 --legend"),
        (("--prediction", path, "--legend", "dynamic_world", *world.flags()), "two --prediction are called map"),
        (("--labels", path, "--legend", "dynamic_world", *world.flags()), "--labels takes the place of"),
        (
            ("--legend", "dynamic_world", "--output", tmp_path / "no/x.json", *world.flags()),
            "no folder .*no for --output x.json",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run("--prediction", path, *arguments)
    for maps, message in ((path / "no" / "maps", "no folder"), (next(path.iterdir()), "is a file")):
        with pytest.raises(ValueError, match=f"{message}.* --maps|--maps .* {message}"):
            evaluate.main(["--workdir", str(small_run / "run"), "--maps", str(maps)])
    with pytest.raises(SystemExit) as exit_:
        run("--prediction", path, "--legend", "dynamic_world", *world.flags(), "--maps", tmp_path)
    assert exit_.value.code == 2 and "error: --maps are of a network" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        evaluate.main(["--legend", "esri"])
    assert exit_.value.code == 2 and "error: give --workdir, or --prediction" in capsys.readouterr().err


def test_exit_code(world, tmp_path):
    path = folder_of(world, tmp_path / "map", 1)
    line = refused(
        command("specsar_jax.evaluate", "--prediction", path, "--legend", "nlcd", *world.flags(), cwd=REPOSITORY)
    )
    assert "which legend nlcd does not have" in line and "/map/" in line


def held_out(seed: int, size_px: int = 510) -> np.ndarray:
    """Codes of one markup, 0 to 10."""
    rng = np.random.default_rng(seed)
    truth = np.tile(simulated_tile(3, "train", 0, 64).label, (8, 8))[:size_px, :size_px] + 1
    codes = np.where(rng.random(truth.shape) < 0.8, truth, rng.integers(1, 10, truth.shape))
    codes = np.where(rng.random(truth.shape) < 0.2, 0, codes)
    codes[:5, :50] = 10
    return codes.astype(np.uint8)


def test_votes_of_experts(tmp_path, capsys):
    markups = [held_out(seed) for seed in range(3)]
    grid = ("EPSG:32720", (10, 0, 460000, 0, -10, 9570000))
    for expert, codes in zip("ABC", markups, strict=True):
        write(tmp_path / f"validation/Expert_{expert}/WH/1/{DATE_PLACE}.tif", codes, *grid)
    ids = np.maximum(held_out(9), 1) - 1
    ids = np.where(ids > 8, 8, ids).astype(np.uint8)
    path = write(tmp_path / "map" / f"{DATE_PLACE}.tif", ids, *grid, names=("label",))
    found = run("--prediction", path.parent, "--legend", "dynamic_world", "--labels", tmp_path / "validation")
    by_vote = found["maps"]["map"]["labels"]
    assert list(by_vote) == list(bands.VOTES)
    for vote, codes in votes(np.stack(markups)).items():
        marked = (codes >= 1) & (codes <= 9)
        expected = confusion_matrix(codes[marked] - 1, ids[marked], labels=np.arange(9))
        np.testing.assert_array_equal(by_vote[vote]["confusion_matrix"], expected)
        assert found["labelled_pixels"][vote] == marked.sum()
    assert found["published"]["by_vote"]["consensus"] == {
        "overall_accuracy": 0.738,
        "mean_iou": 0.536,
        "macro_f1": 0.67,
    }
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if "|" in line}
    assert lines["strict"].split("|")[1].split() == ["68.5", "88.4", "79.1"]
    assert lines["consensus"].split("|")[1].split() == ["53.6", "73.8", "67.0"]
    assert lines["majority"].split("|")[1].split() == ["51.9", "71.3", "65.7"]
    assert lines["simple_majority"].split("|")[1].split() == ["-", "-", "-"]
    assert lines["strict"].split("|")[0].split()[1] == f"{100 * by_vote['strict']['mean_iou']:.1f}"


@pytest.mark.parametrize(
    ("annotator", "vote", "label"), [(bands.HELD_OUT, "strict", "strict"), ("expert", "", "label")]
)
def test_a_data_set_of_one_vote_stands_beside_the_published_figures(world, tmp_path, capsys, annotator, vote, label):
    tiles, rows = tmp_path / "tiles", []
    for tile in world.tiles:
        write_tile(tiles, tile, bands.S2_BANDS)
        record = tile.record
        rows.append((record.tile_id, "test", record.lon, record.lat, record.date, annotator, 64, 64))
    if vote:
        (tiles / "label").rename(tiles / f"label_{vote}")
    with (tiles / "tiles.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    prepare(DynamicWorldPlusConfig(name="x", tiles=tiles, tile_size_px=64, vote=vote), tmp_path / "data")
    path = folder_of(world, tmp_path / "map", 1)
    found = run("--prediction", path, "--legend", "dynamic_world", "--data_dir", tmp_path / "data", "--dataset", "x")
    assert list(found["labelled_pixels"]) == [label] and ("published" in found) == (vote == "strict")
    assert ("published:  mIoU" in capsys.readouterr().out) == (vote == "strict")


def test_zenodo_layout(tmp_path):
    """512 x 512; `lulc` counts from 1, `label` from 0; where no probability is finite, `label` is 0 and means nothing."""
    lulc, model = held_out(0, 512), np.maximum(held_out(1, 512), 1).clip(1, 9) - 1
    shares = np.full((9, 512, 512), 1 / 9, np.float32)
    shares[:, 100:140, 100:300] = np.nan
    shares[4, 300, 300:310] = np.inf
    model[~np.isfinite(shares).all(axis=0)] = 0
    grid = ("EPSG:32720", (10, 0, 460000, 0, -10, 9570000))
    folder = tmp_path / "dw_test"
    write(folder / f"label_{DATE_PLACE}.tif", np.stack([model, lulc]).astype(np.int16), *grid, names=("label", "lulc"))
    write(folder / f"probs_{DATE_PLACE}.tif", shares, *grid)
    found = run("--prediction", folder, "--legend", "dynamic_world", "--labels", folder)
    marked = (lulc >= 1) & (lulc <= 9) & np.isfinite(shares).all(axis=0)
    figures = found["maps"]["dw_test"]["labels"]["consensus"]
    np.testing.assert_array_equal(
        figures["confusion_matrix"], confusion_matrix(lulc[marked] - 1, model[marked], labels=np.arange(9))
    )
    assert found["maps"]["dw_test"]["codes"]["255"]["pixels"] == 40 * 200 + 10
    with pytest.raises(ValueError, match="no label tile of split 'train'"):
        run("--prediction", folder, "--legend", "dynamic_world", "--labels", folder, "--split", "train")
    # The experts' own band, read as a map: all right, and only where they marked.
    own = run("--prediction", folder, "--legend", "dynamic_world_labels", "--labels", folder)
    assert own["maps"]["dw_test"]["labels"]["consensus"]["overall_accuracy"] == 1


def test_zenodo_beside_published_tiles(tmp_path):
    """PANGAEA's 510 x 510 lie within Zenodo's 512 x 512, a pixel from each side: nothing is resampled but places."""
    lulc, model = held_out(0, 512), (np.maximum(held_out(1, 512), 1).clip(1, 9) - 1).astype(np.uint8)
    outer, inner = (10, 0, 460000, 0, -10, 9570000), (10, 0, 460010, 0, -10, 9569990)
    for expert in "ABC":
        write(tmp_path / f"validation/{expert}/WH/1/{DATE_PLACE}.tif", lulc[1:-1, 1:-1], "EPSG:32720", inner)
    folder = tmp_path / "dw_test"
    write(folder / f"label_{DATE_PLACE}.tif", np.stack([lulc, model]), "EPSG:32720", outer, names=("lulc", "label"))
    found = run("--prediction", folder, "--legend", "dynamic_world", "--labels", tmp_path / "validation")
    marked = ((lulc >= 1) & (lulc <= 9))[1:-1, 1:-1]
    expected = confusion_matrix(lulc[1:-1, 1:-1][marked] - 1, model[1:-1, 1:-1][marked], labels=np.arange(9))
    np.testing.assert_array_equal(found["maps"]["dw_test"]["labels"]["strict"]["confusion_matrix"], expected)


def test_merging_takes_away_what_cannot_be_merged():
    confusion = np.arange(81).reshape(1, 9, 9)
    tally = Tally(
        np.array(["a"]),
        {},
        confusion,
        confusion.sum(axis=1),
        np.ones((1, 9, 2), np.int64),
        np.ones((1, 15, 3)),
        np.ones(1),
        np.ones(1),
    )
    merged = compare.merge_tally(tally, [("grass", "shrub_and_scrub")])
    assert (
        merged.confusion.sum() == confusion.sum()
        and merged.confusion[0, 2, 2] == confusion[0][np.ix_([2, 5], [2, 5])].sum()
    )
    np.testing.assert_array_equal(merged.mapped, merged.confusion.sum(axis=1))
    assert merged.reliability is None and not merged.boundary.any()
    assert compare.merge_tally(tally, []) is tally and tally.confusion[0, 5, 5] == 50
