"""Maps made elsewhere as rasters: other grids, nodata, tiles without a place, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from other_maps import WORLDCOVER_OF, World, expected_confusion, predicted, run, write
from rasterio.warp import transform as transform_coordinates
from sklearn.metrics import confusion_matrix

from specsar_jax.accuracy import legends
from specsar_jax.accuracy.class_maps import read_codes
from tfds_dwplus.imagery.grids import Grid


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
    codes_there, warped = read_codes(mosaic, legends.WORLDCOVER, Grid.parse(tile.crs, tile.transform, 64, 64))
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
    found, warped = read_codes(path, legends.WORLDCOVER, Grid.parse(tile.crs, tile.transform, 64, 64))
    expected = codes[((north - lat) / step).astype(int), ((lon - west) / step).astype(int)]
    assert warped and (found == expected).mean() > 0.999


def test_grids_are_compared_by_shares_of_a_pixel(tmp_path):
    """In degrees a pixel is 0.00009, so that one of 1 % more is 0.64 pixels aside after 64 of them. In metres, 5 cm are nothing."""
    step, codes = 9e-5, np.tile(np.arange(64, dtype=np.uint8) // 2 % 9, (64, 1))
    tile = Grid.parse("EPSG:4326", (step, 0.0, -0.78, 0.0, -step, 38.1), 64, 64)
    larger = write(tmp_path / "x.tif", codes, "EPSG:4326", (step * 1.01, 0, -0.78, 0, -step * 1.01, 38.1))
    found, warped = read_codes(larger, legends.DYNAMIC_WORLD, tile)
    # Centre 63.5 of the last column lies at 62.87 pixels of 1.01: in column 62.
    there = codes[:, ((np.arange(64) + 0.5) / 1.01).astype(int)]
    assert warped and there[0, 63] == codes[0, 62]
    np.testing.assert_array_equal(found, there)
    for metres, other in ((0.05, False), (0.2, True)):
        moved = write(tmp_path / "y.tif", codes, "EPSG:32630", (10, 0, 5e5 + metres, 0, -10, 4.2e6))
        grid = Grid.parse("EPSG:32630", (10.0, 0.0, 5e5, 0.0, -10.0, 4.2e6), 64, 64)
        assert read_codes(moved, legends.DYNAMIC_WORLD, grid)[1] == other


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("nodata", [None, 100])
def test_beyond_a_raster_is_nodata_in_every_type(world, tmp_path, dtype, nodata):
    tile = world.tiles[0]
    left, top = tile.transform[2], tile.transform[5]
    values = predicted(tile, 1)
    values[:, 40:50] = 100 if nodata else 0
    path = write(tmp_path / "x.tif", values.astype(dtype), tile.crs, (10, 0, left + 320, 0, -10, top), nodata=nodata)
    codes, warped = read_codes(path, legends.DYNAMIC_WORLD, Grid.parse(tile.crs, tile.transform, 64, 64))
    assert warped and (codes[:, :32] == 255).all()
    np.testing.assert_array_equal(codes[:, 32:], np.where(values == 100, 255, values)[:, :32])
    for crs, easting in ((tile.crs, left + 6400), ("EPSG:32601", left)):
        elsewhere = Grid.parse(crs, (10.0, 0.0, easting, 0.0, -10.0, top), 64, 64)
        assert read_codes(path, legends.DYNAMIC_WORLD, elsewhere)[0] is None


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
    codes, warped = read_codes(smaller, legends.DYNAMIC_WORLD, Grid.parse(tile.crs, tile.transform, 64, 64))
    assert not warped and (codes[20:] == 255).all() and (codes[:20] == predicted(tile, 1)[:20]).all()


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
