"""The README's first line, and real chips and tiles, to the accuracies and pictures promised; each preset, and tiles of one
sensor, through all commands.
"""

import dataclasses
import json
import shutil

import numpy as np
import onnx
import pytest
import rasterio
from conftest import REPOSITORY, command, small_config, small_flags, write_folder
from drawn_labels import FOUR_CLASSES, draw_over
from matplotlib.image import imread

from specsar_jax import evaluate, export, predict, train
from specsar_jax.batches import dataset, pipeline
from specsar_jax.config import PRESETS, load
from specsar_jax.maps import compiled
from specsar_jax.trained.loading import load_trained
from specsar_jax.training import evaluation, loop
from tfds_dwplus import bands, prepare
from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.tiles.prepared import open_dataset, read_split
from tfds_dwplus.tiles.tile_files import write_tile


def figures_of(workdir) -> dict:
    return json.loads((workdir / "evaluation_test.json").read_text())


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """Where `python -m specsar_jax.train` was run, without an argument, in an empty folder."""
    folder = tmp_path_factory.mktemp("quickstart")
    result = command("specsar_jax.train", cwd=folder, timeout=900)
    assert result.returncode == 0, result.stderr
    assert "SIMULATED" in result.stdout
    return folder


@pytest.mark.parametrize(("sensor", "other", "preset"), [("s2", "s1", "spectral_only"), ("s1", "s2", "sar_only")])
def test_tiles_of_one_sensor_to_a_map(small_run, tmp_path, sensor, other, preset):
    tiles = write_folder(tmp_path / "tiles", {"train": 8, "validation": 1, "test": 1})
    shutil.rmtree(tiles / other)
    common = ["--name", "mine", "--data_dir", str(tmp_path / "data"), "--tile_size_px", "64"]
    prepare.main(["--tiles", str(tiles), *common])
    run, bundle = tmp_path / "run", tmp_path / "run.safetensors"
    flags = [f"--config.model={preset}", *small_flags(tmp_path), "--config.train.steps=2"]
    train.main(["--workdir", str(run), *flags])
    # Three panels of 2.6 inches: the sensor, label, prediction.
    assert imread(run / "examples_test.png").shape[1] == round(3 * 2.6 * 110)
    export.main(["--workdir", str(run), "--format", "safetensors", "--output", str(bundle)])
    figures, maps = [], []
    for workdir in (run, bundle):
        output = tmp_path / f"{workdir.name}.tif"
        scene = next((tiles / sensor).glob("*_test_*.tif"))
        evaluate.main(["--workdir", str(workdir), "--output", str(tmp_path / "figures.json")])
        predict.main(["--workdir", str(workdir), f"--{sensor}", str(scene), "--output", str(output)])
        figures.append((tmp_path / "figures.json").read_text())
        with rasterio.open(output) as raster:
            maps.append(raster.read(1))
    assert figures[0] == figures[1]
    np.testing.assert_array_equal(*maps)
    assert maps[0].shape == (64, 64) and (maps[0] != bands.IGNORE).any()
    # Where both sensors are there, it leaves the other one alone.
    assert evaluation.evaluate(load_trained(bundle), str(small_run / "data"), "mine", "test")["tiles"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_through_the_commands(small_run, tmp_path, preset):
    run, bundle = tmp_path / "run", tmp_path / "b.safetensors"
    figures = loop.train(small_config(small_run, "train.steps=2", preset=preset), run)
    export.main(["--workdir", str(run), "--format", "safetensors", "--output", str(bundle)])
    assert evaluation.evaluate(load_trained(bundle), str(small_run / "data"), "mine", "test") == figures


@pytest.mark.slow
def test_quickstart_reaches_its_accuracy_and_draws(quickstart):
    workdir = quickstart / "runs" / "quickstart"
    figures = figures_of(workdir)
    assert figures["mean_iou"] >= 0.60
    assert None not in [row["iou"] for row in figures["per_class"].values()]
    picture = imread(workdir / "examples_test.png")
    assert picture.shape[0] > 500 and picture.std() > 0.1


@pytest.mark.slow
def test_map_hardly_depends_on_the_window(quickstart, tmp_path):
    write_tile(tmp_path, simulated_tile(5, "scene", 3, 510), bands.S2_BANDS)
    maps = []
    for window in (510, 384, 256):
        files = [next((tmp_path / kind).glob("*.tif")) for kind in ("s2", "s1")]
        arguments = ("--workdir", quickstart / "runs" / "quickstart", "--s2", files[0], "--s1", files[1])
        output = tmp_path / f"{window}.tif"
        result = command("specsar_jax.predict", *arguments, "--output", output, "--window_px", window, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        with rasterio.open(output) as raster:
            maps.append(raster.read(1))
    for other in maps[1:]:
        assert (other != maps[0]).mean() < 0.01


@pytest.fixture(scope="module")
def chips(real, tmp_path_factory):
    """Where `configs/ben_mini.py` was trained on real chips."""
    folder = tmp_path_factory.mktemp("chips")
    arguments = ("--tiles", real / "ben_mini", "--name", "ben_mini", "--data_dir", "data", "--tile_size_px", 120)
    assert command("tfds_dwplus.prepare", *arguments, cwd=folder).returncode == 0
    result = command("specsar_jax.train", "--config", REPOSITORY / "configs" / "ben_mini.py", cwd=folder, timeout=900)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.slow
def test_real_chips_reach_their_accuracy(chips):
    figures = figures_of(chips / "runs" / "ben_mini")
    # Three seeds had 0.705 to 0.734, and 0.304 to 0.338; the largest class everywhere has 0.434.
    assert figures["overall_accuracy"] >= 0.67 and figures["mean_iou"] >= 0.28


@pytest.mark.slow
def test_bfloat16_maps_real_chips_as_float32_does(chips):
    trained = load_trained(chips / "runs" / "ben_mini")
    builder = open_dataset(str(chips / "data"), "ben_mini")
    rasters = pipeline.select(trained.config.data.s2_bands, dataset.dataset_bands(builder), ("s2", "s1"))

    def classes(compute_dtype: str, tile: dict) -> np.ndarray:
        model = dataclasses.replace(trained.config.model, compute_dtype=compute_dtype)
        config = dataclasses.replace(trained.config, model=model)
        network = compiled.make_probabilities(dataclasses.replace(trained, config=config))
        return np.asarray(network(tile["s2"], tile["s1"])).argmax(axis=-1)

    source = read_split(builder, "test")
    tiles = [rasters(source[place]) for place in range(len(source))]
    batch = {name: np.stack([tile[name] for tile in tiles]) for name in ("s2", "s1")}
    differs = classes("float32", batch) != classes("bfloat16", batch)
    assert 0 < differs[bands.valid_pixels(batch["s2"], batch["s1"], ("s2", "s1"))].mean() < 0.005


@pytest.mark.slow
def test_own_labels_in_four_commands(real, tmp_path):
    """Polygons drawn over a real scene, of four classes of their own, become a map; it, its style, the report and ONNX have them."""
    place = real / "scene_pakistan"
    s2, s1 = next((place / "s2_l2a").glob("20200813*")), next((place / "s1").glob("*_20200903T*"))
    draw_over(s2, tmp_path / "fields.geojson")
    (tmp_path / "classes.csv").write_text(FOUR_CLASSES)
    names = [row.split(",")[1] for row in FOUR_CLASSES.splitlines()[1:]]
    colours = [tuple(bytes.fromhex(row.split(",")[2])) for row in FOUR_CLASSES.splitlines()[1:]]
    small = ("widths=(8,16)", "blocks=(1,1)", "heads=(1,1)", "reductions=(4,2)", "decoder_width=16")
    settings = [f"--config.model.{setting}" for setting in small]
    settings += ["--config.data.name=own", "--config.data.crop_px=32", "--config.optimizer.learning_rate=5e-3"]
    settings += ["--config.train.steps=300", "--config.train.batch_size=16", "--config.train.eval_every=100"]
    cutting = ("--block_m", 320, "--gap_m", 20, "--tile_size_px", 33)
    scene = ("--s2", s2, "--s1", s1)
    labels = ("--labels", "fields.geojson", "--field", "cover", "--classes", "classes.csv")
    for module, *arguments in (
        ("tfds_dwplus.cut", *scene, *labels, "--output", "tiles", *cutting),
        ("tfds_dwplus.prepare", "--tiles", "tiles", "--name", "own", "--data_dir", "data", "--tile_size_px", 33),
        ("specsar_jax.train", "--workdir", "run", *settings),
        ("specsar_jax.predict", "--workdir", "run", *scene, "--output", "map.tif"),
        ("specsar_jax.report", "--workdir", "run", "--data_dir", "data", "--output", "report.html"),
        ("specsar_jax.export", "--workdir", "run", "--format", "onnx", "--output", "own.onnx"),
    ):
        result = command(module, *arguments, cwd=tmp_path, timeout=900)
        assert result.returncode == 0, result.stderr
    figures = figures_of(tmp_path / "run")
    assert list(figures["per_class"]) == names and figures["overall_accuracy"] >= 0.6
    with rasterio.open(tmp_path / "map.tif") as made:
        assert [made.colormap(1)[place][:3] for place in range(4)] == colours
        assert [made.tags()[f"class_{place}"] for place in range(4)] == names
        assert set(np.unique(made.read(1))) <= {0, 1, 2, 3, bands.IGNORE}
    style, report = ((tmp_path / name).read_text() for name in ("map.qml", "report.html"))
    stored = {each.key: each.value for each in onnx.load(tmp_path / "own.onnx").metadata_props}
    for name, colour in zip(names, colours, strict=True):
        assert f'color="#{bytes(colour).hex()}" alpha="255" label="{name}"' in style
        assert name in report and bytes(colour).hex() in report
    assert json.loads(stored["classes"]) == names


@pytest.mark.slow
def test_real_full_size_tile_to_a_map(real, tmp_path):
    """Real tiles of two sizes are packed, a small network takes a step on them, the test tile is mapped on its own grid."""
    arguments = ("--tiles", real / "dwplus_mini", "--name", "dwplus_mini", "--data_dir", "data")
    assert command("tfds_dwplus.prepare", *arguments, cwd=tmp_path).returncode == 0
    config = REPOSITORY / "configs" / "dwplus_mini.py"
    assert load(config).data.name == "dwplus_mini"
    small = ("widths=(8,16)", "blocks=(1,1)", "heads=(1,1)", "reductions=(4,2)", "decoder_width=16")
    settings = [f"--config.model.{setting}" for setting in small]
    settings += ["--config.train.steps=2", "--config.train.eval_every=2", "--workdir", "run"]
    result = command("specsar_jax.train", "--config", config, *settings, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert figures_of(tmp_path / "run")["tiles"] == 1
    s2, s1 = (real / "dwplus_mini" / kind / "Spain_7370579.tif" for kind in ("s2", "s1"))
    result = command(
        "specsar_jax.predict", "--workdir", "run", "--s2", s2, "--s1", s1, "--output", "map.tif", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    with rasterio.open(tmp_path / "map.tif") as made, rasterio.open(s2) as given:
        assert (made.shape, made.crs, made.transform) == (given.shape, given.crs, given.transform)
        assert made.read(1).max() <= 8


def test_chips_without_a_place_are_read(real, tmp_path):
    """BigEarthNet's samples have no CRS: that is no reason to refuse or to warn about them."""
    from tfds_dwplus.tiles.tile_files import list_tiles, read_tile, s2_band_names

    record = list_tiles(real / "ben_mini")[0]
    tile = read_tile(real / "ben_mini", record, s2_band_names(real / "ben_mini", record))
    assert tile.crs == "" and np.isnan(tile.record.lon)
