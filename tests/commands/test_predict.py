"""Maps: the grid, colours and nodata of the file; no seams; scenes of any size; bundle and workdir alike."""

import dataclasses
import json
import re
import time

import numpy as np
import pytest
import rasterio
from conftest import write_folder
from small_scenes import files_of, scene

from specsar_jax import config as configs
from specsar_jax import evaluate, export, predict
from specsar_jax.batches import preprocess
from specsar_jax.config import Predict
from specsar_jax.maps import compiled, mapping, scene_map, windows
from specsar_jax.maps.map_files import Outputs
from specsar_jax.network import model
from specsar_jax.trained.bundle import write_bundle
from specsar_jax.trained.loading import load_trained
from specsar_jax.trained.trained_network import Trained
from specsar_jax.training import evaluation
from tfds_dwplus import DynamicWorldPlusConfig, bands
from tfds_dwplus.command_line import progress
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.scenes import open_scene
from tfds_dwplus.prepare import prepare
from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.tiles.tile_files import write_tile


@pytest.fixture
def run(small_run):
    """A workdir."""
    return small_run / "run"


def map_of(trained: Trained, folder, **cutting) -> np.ndarray:
    output = folder / "map.tif"
    scene_map.map_scene(trained, *files_of(folder), Outputs(output), Predict(**cutting))
    with rasterio.open(output) as raster:
        return raster.read(1)


def test_a_network_of_simulated_tiles_is_told(run, tmp_path, capsys):
    scene(tmp_path, 40, 40)
    (s2,), (s1,) = files_of(tmp_path)
    trained = load_trained(run)
    for name, noted in (("simulated", True), ("mine", False)):
        config = dataclasses.replace(trained.config, data=dataclasses.replace(trained.config.data, name=name))
        write_bundle(dataclasses.replace(trained, config=config), tmp_path / "net.safetensors")
        given = ["--workdir", tmp_path / "net.safetensors", "--s2", s2, "--s1", s1, "--output", tmp_path / "map.tif"]
        predict.main(list(map(str, given)))
        assert ("trained on SIMULATED tiles" in capsys.readouterr().err) is noted


def test_files_are_as_promised(run, tmp_path):
    tile = scene(tmp_path, 90, 140)
    output, shares, sure = (tmp_path / name for name in ("map.tif", "p.tif", "sure.tif"))
    scene_map.map_scene(
        load_trained(run), *files_of(tmp_path), Outputs(output, shares, sure), Predict(window_px=64, overlap=0.5)
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "label",
        "map.qml",
        "map.tif",
        "map.tif.aux.xml",
        "p.tif",
        "s1",
        "s2",
        "sure.tif",
    ]
    nodata = (tile.s2 == 0).all(axis=-1) | np.isnan(tile.s1).any(axis=-1)
    with rasterio.open(output) as raster:
        ids = raster.read(1)
        assert (raster.shape, raster.crs.to_string(), tuple(raster.transform)[:6]) == (
            (90, 140),
            tile.crs,
            tile.transform,
        )
        assert (raster.count, raster.dtypes[0], raster.nodata) == (1, "uint8", 255)
        assert [raster.colormap(1)[i][:3] for i in range(9)] == bands.DYNAMIC_WORLD.rgb()
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert raster.tags()["class_3"] == "flooded_vegetation"
    assert nodata.any() and ((ids == 255) == nodata).all() and ids[~nodata].max() <= 8
    for name in bands.CLASSES:
        assert f"<Category>{name}</Category>" in (tmp_path / "map.tif.aux.xml").read_text()
    with rasterio.open(shares) as raster:
        values = raster.read().astype(np.float64)
        assert raster.descriptions == bands.CLASSES and raster.scales == (0.004,) * 9 and raster.nodata == 255
    assert (values[:, nodata] == 255).all()
    np.testing.assert_allclose((values[:, ~nodata] * 0.004).sum(axis=0), 1, atol=0.02)
    sure = np.sort(values, axis=0)[-1] - np.sort(values, axis=0)[-2] > 1
    assert (values.argmax(axis=0) == ids)[sure & ~nodata].all()


def test_what_gdal_keeps_is_told_in_bytes(tmp_path):
    """Rasterio takes GDAL_CACHEMAX as bytes: 128 of them, meant as megabytes, made JPEG 2000 ten times slower."""
    scene(tmp_path, 64, 64)
    with open_scene(*files_of(tmp_path), bands.S2_BANDS, bands.S1_BANDS) as opened:
        assert opened.row_of_blocks == sum(
            raster.block_shapes[0][0] * 64 * (9 * 2 if raster.count == 9 else 2 * 4)
            for raster in (opened.s2.layers[0].raster, opened.s1.layers[0].raster)
        )
        with rasterio.Env(GDAL_CACHEMAX=scene_map.cache_bytes(opened)):
            opened.read(slice(0, 64), slice(0, 64))
            assert rasterio.env.get_gdal_config("GDAL_CACHEMAX") >= 100 * 2**20


def test_large_map_has_overviews(run, tmp_path):
    scene(tmp_path, 600, 40)
    map_of(load_trained(run), tmp_path)
    with rasterio.open(tmp_path / "map.tif") as raster:
        assert raster.overviews(1) == [2]


@pytest.mark.parametrize(("height", "width"), [(20, 20), (64, 64), (33, 150)])
def test_any_size_and_one_window_equals_the_network(run, tmp_path, height, width):
    tile, trained = scene(tmp_path, height, width), load_trained(run)
    trained = dataclasses.replace(trained, config=configs.override(trained.config, ["data.crop_px=510"]))
    ids = map_of(trained, tmp_path)
    rows, columns = (-(-size // 32) * 32 for size in (height, width))
    pad = ((0, rows - height), (0, columns - width), (0, 0))
    s2, s1 = (np.pad(values, pad, mode="symmetric")[None] for values in (tile.s2, tile.s1))
    logits = model.apply(
        trained.variables, *preprocess.standardise(s2, s1, trained.statistics), config=trained.config.model
    )
    expected = np.asarray(logits).argmax(axis=-1)[0, :height, :width]
    valid = bands.valid_pixels(tile.s2, tile.s1, ("s2", "s1"))
    assert (ids[valid] == expected[valid]).mean() > 0.98  # an untrained network has near ties
    assert (ids[~valid] == 255).all()


def test_map_does_not_depend_on_the_window(run, tmp_path):
    scene(tmp_path, 100, 300)
    maps = [map_of(load_trained(run), tmp_path, window_px=window) for window in (32, 128, 510)]
    assert max((other != maps[0]).mean() for other in maps[1:]) < 0.01  # rounding of batches of another size


def test_the_map_does_not_depend_on_how_much_is_read_together(monkeypatch):
    tile = simulated_tile(1, "scene", 0, 150)
    rows, columns = windows.plan(40, 32, 0.25), windows.plan(150, 32, 0.25)
    config = configs.override(configs.Config(), ["predict.window_px=64"])

    def network(s2, s1):
        share = (s2[..., :1] % 100 / 100).astype(np.float32)
        return np.concatenate([share, 1 - share] + [0 * share] * 7, axis=-1)

    maps = []
    for read_px in (1, 100, 2048):
        monkeypatch.setattr(mapping, "READ_PX", read_px)
        maps.append(
            mapping.map_pixels(
                network,
                tile.s2[:40],
                tile.s1[:40],
                bands.valid_pixels(tile.s2[:40], tile.s1[:40], ("s2", "s1")),
                rows,
                columns,
                window_px=config.predict.window_px,
                classes=bands.DYNAMIC_WORLD,
            )
        )
    assert not np.isnan(maps[0]).all()
    for other in maps[1:]:
        np.testing.assert_array_equal(other, maps[0])


def test_one_file_a_band_equals_one_file(run, tmp_path):
    tile = scene(tmp_path, 64, 64)
    together = map_of(load_trained(run), tmp_path)
    paths = []
    for place, name in enumerate(bands.S2_BANDS):
        paths.append(tmp_path / f"T30SXH_B{int(name[1:]):02d}_10m.tif")
        grid = {"crs": tile.crs, "transform": rasterio.Affine(*tile.transform), "height": 64, "width": 64}
        with rasterio.open(paths[-1], "w", driver="GTiff", count=1, dtype="uint16", **grid) as raster:
            raster.write(tile.s2[..., place], 1)
    output = tmp_path / "apart.tif"
    scene_map.map_scene(load_trained(run), paths[::-1], files_of(tmp_path)[1], Outputs(output), Predict())
    with rasterio.open(output) as raster:
        np.testing.assert_array_equal(raster.read(1), together)


def test_the_map_does_not_depend_on_where_the_scene_is_cut(run, tmp_path):
    """A part of the scene, cut at no round number: but near its edges the map is that of the whole, for windows are counted from the origin of the CRS."""
    trained, down, right = load_trained(run), 37, 23
    tile = scene(tmp_path, 300, 300)
    whole = map_of(trained, tmp_path)
    moved = rasterio.Affine(*tile.transform) @ rasterio.Affine.translation(right, down)
    cut = {name: getattr(tile, name)[down:, right:] for name in ("s2", "s1", "label")}
    (tmp_path / "cut").mkdir()
    write_tile(tmp_path / "cut", dataclasses.replace(tile, **cut, transform=tuple(moved)[:6]), bands.S2_BANDS)
    part, edge = map_of(trained, tmp_path / "cut"), trained.config.data.crop_px
    assert (whole[down:, right:] != part).any(), "near the edges other windows see the ground"
    inner = whole[down:, right:][edge:-edge, edge:-edge], part[edge:-edge, edge:-edge]
    assert inner[0].size > 10_000
    # Rounding may tip a pixel whose classes are as good as equal: a batch holds other windows.
    assert np.mean(inner[0] != inner[1]) < 1e-4


def test_blending_leaves_no_seam(tmp_path):
    """A network that only knows its own window, the worst case: constant in each, another in every window."""
    size, calls = 200, iter(range(1000))
    tile = simulated_tile(1, "scene", 0, size)
    write_tile(tmp_path, tile, bands.S2_BANDS)
    s2, s1 = files_of(tmp_path)

    def network(s2, s1):
        share = np.array([next(calls) % 2 for _ in s2], np.float32)[:, None, None, None]
        return np.broadcast_to(np.concatenate([share, 1 - share] + [0 * share] * 7, axis=-1), (*s2.shape[:3], 9))

    axis = windows.plan(size, 96, 0.65)
    whole, seen = np.zeros((size, size, 9)), np.zeros((size, size), int)
    with open_scene(s2, s1, bands.S2_BANDS, bands.S1_BANDS) as scene:
        strips, bar = range(len(axis.starts)), progress(disable=True)
        for block in mapping.probability_blocks(scene.read, network, axis, axis, 1, strips, bar, bands.DYNAMIC_WORLD):
            whole[block.rows, block.columns] = block.probability
            seen[block.rows, block.columns] += 1
    assert (seen == 1).all()
    np.testing.assert_allclose(whole.sum(axis=-1), 1, atol=1e-6)
    # No jump between neighbours: over a blend of 64 pixels none is larger than a twentieth.
    assert max(np.abs(np.diff(whole[..., 0], axis=axis)).max() for axis in (0, 1)) < 0.05


def test_what_a_map_took_is_told(run, tmp_path, capsys):
    scene(tmp_path, 90, 140)
    map_of(load_trained(run), tmp_path)
    # 90 x 140 pixels of 10 m.
    (told,) = re.findall(r"note: (1\.26 km2 in .*)", capsys.readouterr().err)
    share = re.search(r"the network was at work (\d+)% of the time; \d+\.\d\d GB of memory", told)
    assert 0 <= int(share[1]) <= 100
    unplaced = Grid(None, rasterio.Affine.identity(), 2000, 500)
    assert scene_map.speed(unplaced, 1000, 0.1, 0.05, 1.0).startswith("0.50 megapixels in 0.1 s, 5.00 megapixels/s")


def test_time_of_the_network_counts_no_moment_twice():
    """Batches are handed over before the one before is done: three at once that take 50 ms one after the other are 150 ms."""

    class Slow:
        """A result that is there at a time."""

        def __init__(self, at: float) -> None:
            self.at = at

        def block_until_ready(self) -> "Slow":
            time.sleep(max(self.at - time.perf_counter(), 0))
            return self

    started = time.perf_counter()
    with compiled.Timed(lambda s2, s1: Slow(started + s2)) as network:
        for done in (0.05, 0.1, 0.15):
            network(done, None)
        time.sleep(0.3)  # in which it has nothing to do
    assert 0.14 < network.seconds < 0.25


def test_bundle_stands_in_for_the_workdir(run, tmp_path, capsys):
    bundle = tmp_path / "b.safetensors"
    export.main(["--workdir", str(run), "--format", "safetensors", "--output", str(bundle)])
    one, two = load_trained(run), load_trained(bundle)
    assert (one.config, one.statistics, one.step) == (two.config, two.statistics, two.step)
    scene(tmp_path, 64, 64)
    np.testing.assert_array_equal(map_of(one, tmp_path), map_of(two, tmp_path))
    evaluate.main(["--workdir", str(bundle), "--split", "test"])
    evaluate.main(["--workdir", str(run), "--split", "test"])
    assert "overall accuracy" in capsys.readouterr().out
    figures = [json.loads(p.read_text()) for p in (tmp_path / "b.evaluation_test.json", run / "evaluation_test.json")]
    assert figures[0] == figures[1]


def test_evaluation_on_another_data_set(run, tmp_path):
    tiles = write_folder(tmp_path / "tiles", {"test": 3}, size_px=64)
    prepare(DynamicWorldPlusConfig(name="elsewhere", tiles=tiles, tile_size_px=64), tmp_path / "data")
    figures = evaluation.evaluate(load_trained(run), str(tmp_path / "data"), "elsewhere", "test")
    assert (figures["dataset"], figures["tiles"]) == ("dynamic_world_plus/elsewhere/1.0.0", 3)
