"""What bad input gets: exit code 2, one line that says what to do, and nothing half-written."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import command, refused, small_flags, write_folder

from specsar_jax import evaluate, export, predict, train
from tfds_dwplus import bands, prepare
from tfds_dwplus.command_line import run
from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.tiles.tile_files import write_tile


@pytest.fixture
def error_of(monkeypatch, capsys):
    """Runs a command's `main` as its process would, and gives the line that it prints when it refuses."""

    def call(module, *arguments: object) -> str:
        monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            run(module.main)
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if "error: " in line]
        assert exit_.value.code == 2, captured
        assert len(lines) == 1, captured.err
        return lines[0]

    return call


def edit(path: Path, values=None, **profile) -> None:
    """Writes a raster again with other pixels or another profile."""
    with rasterio.open(path) as raster:
        old, pixels, names = raster.profile, raster.read(), raster.descriptions
    values = pixels if values is None else values(pixels)
    old.update(profile, height=values.shape[1], width=values.shape[2], count=values.shape[0])
    old.setdefault("dtype", values.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        raster = rasterio.open(path, "w", **old | {"dtype": profile.get("dtype", values.dtype)})
    with raster:
        raster.write(values.astype(profile.get("dtype", values.dtype)))
        raster.descriptions = names[: values.shape[0]]


def first(folder: Path, kind: str) -> Path:
    return sorted((folder / kind).glob("*.tif"))[0]


def prepared(data_dir: Path) -> list[Path]:
    """Whatever stands under a data set's name; `.config` is TFDS's own note of which configs it has met."""
    return [path for path in data_dir.glob("dynamic_world_plus/*") if path.name != ".config"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rename_bands(path: Path, names: tuple[str, ...]) -> None:
    with rasterio.open(path, "r+") as raster:
        raster.descriptions = names


TILE_FAULTS = {
    "missing file": (lambda f: first(f, "s1").unlink(), "no such file"),
    "missing band": (lambda f: edit(sorted((f / "s2").glob("*"))[1], lambda p: p[:-1]), "no band B12"),
    "other names": (lambda f: rename_bands(sorted((f / "s2").glob("*"))[1], tuple("abcdefghi")), "no band B2"),
    "no names": (lambda f: rename_bands(first(f, "s2"), ("",) * 9), "without a name"),
    "other size": (lambda f: edit(first(f, "s1"), lambda p: p[:, :60]), "has size"),
    "other CRS": (lambda f: edit(first(f, "s1"), crs="EPSG:4326"), "has CRS"),
    "other grid": (lambda f: edit(first(f, "label"), transform=rasterio.Affine(10, 0, 5, 0, -10, 5)), "has transform"),
    "wrong dtype": (lambda f: edit(first(f, "s2"), dtype="uint8"), "is uint8, expected uint16"),
    "NaN-only band": (lambda f: edit(first(f, "s1"), lambda p: p * np.array([1, np.nan], p.dtype)[:, None, None]), "all nodata in band VH"),
    "label code": (lambda f: edit(first(f, "label"), lambda p: p + 11), "label code"),
    "not dB": (lambda f: edit(first(f, "s1"), lambda p: p - 9999), "expected backscatter in dB"),
    "truncated": (lambda f: truncate(first(f, "s2")), "cut short|not a raster"),
    "no table": (lambda f: (f / "tiles.csv").unlink(), "no file"),
    "table without a column": (lambda f: (f / "tiles.csv").write_text("tile_id,lon\na,1\n"), "no column split"),
    "empty table": (lambda f: (f / "tiles.csv").write_text("tile_id,split\n"), "lists no tile"),
    "duplicate": (lambda f: (f / "tiles.csv").write_text((f / "tiles.csv").read_text() * 1 + (f / "tiles.csv").read_text().splitlines()[1]), "twice"),
    "no folder": (lambda f: shutil.rmtree(f), "no folder"),
    "no sensor": (lambda f: (shutil.rmtree(f / "s1"), shutil.rmtree(f / "s2")), "neither s2/ nor s1/"),
    "no file of a sensor": (lambda f: [path.unlink() for path in (f / "s1").iterdir()], "no such file"),
    "other grid than S1": (lambda f: (shutil.rmtree(f / "s2"), edit(first(f, "label"), crs="EPSG:4326")), "has CRS"),
}  # fmt: skip


@pytest.mark.parametrize("fault", TILE_FAULTS)
def test_prepare_refuses(error_of, tile_folder, tmp_path, fault):
    break_it, message = TILE_FAULTS[fault]
    break_it(tile_folder)
    line = error_of(
        prepare, "--tiles", tile_folder, "--name", "x", "--data_dir", tmp_path / "data", "--tile_size_px", 64
    )
    assert any(part in line for part in message.split("|")), line
    assert not prepared(tmp_path / "data")


def test_prepare_refuses_a_tile_larger_than_the_size(error_of, tile_folder, tmp_path):
    line = error_of(
        prepare, "--tiles", tile_folder, "--name", "x", "--data_dir", tmp_path / "data", "--tile_size_px", 48
    )
    assert "64 x 64" in line and "--tile_size_px 64" in line
    assert not prepared(tmp_path / "data")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--simulated", "--name", "a/b"], "--name"),
        (["--simulated", "--name", "a", "--tiles_per_split", "train"], "train=64,test=16"),
        (["--simulated", "--name", "a", "--tile_size_px", "-5"], "positive"),
        (["--name", "a"], "--tiles --simulated is required"),
    ],
)
def test_prepare_refuses_arguments(error_of, tmp_path, arguments, message):
    assert message in error_of(prepare, *arguments, "--data_dir", tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.optimizer.learning_rat=1"], "did you mean 'learning_rate'"),
        (["--config.train.steps=many"], "expected int"),
        (["--config", "no_such.py"], "no config file"),
        (["--stepz=3"], "unknown argument --stepz"),
        (["--config.data.name=yours"], "no data set dynamic_world_plus/yours"),
        (["--config.data.train_split=training"], "'training' of dynamic_world_plus/mine/1.0.0 is unknown or empty"),
        (["--config.data.train_split=train[:0]"], "unknown or empty"),
        (["--config.data.s2_bands=B2,B9"], "no band B9"),
        (["--config.data.crop_px=100"], "data.crop_px is 100"),
        (["--config.train.batch_size=3"], "multiple of the 8 devices"),
        (["--config.model=sar_onyl"], "did you mean 'sar_only'"),
    ],
)
def test_train_refuses(error_of, small_run, tmp_path, arguments, message):
    assert message in error_of(train, "--workdir", tmp_path / "run", *small_flags(small_run), *arguments)
    assert not (tmp_path / "run").exists()


def test_train_refuses_the_workdir_of_another_config(error_of, small_run):
    line = error_of(train, "--workdir", small_run / "run", *small_flags(small_run), "--config.train.seed=5")
    assert "train.seed: 0, 5" in line


def test_evaluate_refuses(error_of, small_run, tmp_path):
    assert "no workdir or bundle" in error_of(evaluate, "--workdir", tmp_path / "none")
    assert "no config.json" in error_of(evaluate, "--workdir", tmp_path)
    assert "unknown or empty" in error_of(evaluate, "--workdir", small_run / "run", "--split", "testing")
    tiles = write_folder(tmp_path / "tiles", {"test": 1})
    four = ["--tile_size_px", "64", "--s2_bands", "B2,B3,B4,B8"]
    prepare.main(["--tiles", str(tiles), "--name", "four", "--data_dir", str(tmp_path), *four])
    line = error_of(evaluate, "--workdir", small_run / "run", "--data_dir", tmp_path, "--dataset", "four")
    assert "no band B5" in line
    assert [path.name for path in (small_run / "run").glob("evaluation*")] == ["evaluation_test.json"]


def test_a_network_of_both_sensors_is_refused_on_tiles_of_one(error_of, small_run, tile_folder, tmp_path):
    shutil.rmtree(tile_folder / "s2")
    common = ["--tiles", str(tile_folder), "--data_dir", str(tmp_path), "--tile_size_px", "64"]
    prepare.main([*common, "--name", "one"])
    here = ["--config.data.name=one", f"--config.data.data_dir={tmp_path}"]
    line = error_of(
        train, "--workdir", tmp_path / "run", *small_flags(small_run), *here, "--config.data.s2_bands=B2,B3"
    )
    assert "dynamic_world_plus/one/1.0.0 holds s1 only" in line and "--config.model=sar_only" in line
    assert not (tmp_path / "run").exists()
    line = error_of(evaluate, "--workdir", small_run / "run", "--data_dir", tmp_path, "--dataset", "one")
    assert "holds s1 only" in line


def test_export_refuses(error_of, small_run, tmp_path):
    line = error_of(export, "--workdir", small_run / "run", "--format", "pickle", "--output", tmp_path / "x")
    assert "invalid choice: 'pickle'" in line
    line = error_of(
        export, "--workdir", small_run / "run", "--format", "safetensors", "--output", tmp_path / "no" / "x"
    )
    assert "no folder" in line


def test_broken_bundle_is_refused(error_of, small_run, tmp_path):
    whole, part = tmp_path / "whole.safetensors", tmp_path / "part.safetensors"
    export.main(["--workdir", str(small_run / "run"), "--format", "safetensors", "--output", str(whole)])
    part.write_bytes(whole.read_bytes()[:-100])
    assert "not a whole safetensors file" in error_of(evaluate, "--workdir", part)
    part.write_text("hello")
    assert "not a whole safetensors file" in error_of(evaluate, "--workdir", part)


def shifted(path: Path, east: float) -> rasterio.Affine:
    with rasterio.open(path) as raster:
        return rasterio.Affine.translation(east, 0) @ raster.transform


def left_half_only(values):
    """Data on the left only, which a shift to the west takes out of the scene."""
    return np.where(np.arange(values.shape[2]) < 30, values, np.float32(np.nan))


def in_radar_geometry(path: Path) -> None:
    edit(path, crs=None, transform=None)
    corners = [
        rasterio.control.GroundControlPoint(row, column, 1 + column, 2 - row) for row in (0, 9) for column in (0, 9)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        raster = rasterio.open(path, "r+")
    with raster:
        raster.gcps = corners, rasterio.CRS.from_epsg(4326)


SCENE_FAULTS = {
    "missing file": (lambda f: first(f, "s2").unlink(), "no such file"),
    "missing band": (lambda f: edit(first(f, "s2"), lambda p: p[:4]), "no band B6, B7, B8, B11, B12"),
    "no names": (lambda f: rename_bands(first(f, "s2"), ("",) * 9), "without a name"),
    "no place": (lambda f: edit(first(f, "s1"), lambda p: p[:, :50], crs=None, transform=None), "has size 50 x 64"),
    "other place": (lambda f: edit(first(f, "s1"), transform=rasterio.Affine(10, 0, 5e6, 0, -10, 5)), "does not overlap"),
    "other CRS": (lambda f: edit(first(f, "s1"), crs="EPSG:4326"), "does not overlap"),
    "beside": (lambda f: edit(first(f, "s1"), transform=shifted(first(f, "s2"), 640)), "does not overlap"),
    "together nowhere": (lambda f: edit(first(f, "s1"), left_half_only, transform=shifted(first(f, "s2"), -320)), "no pixel to map"),
    "power as dB": (lambda f: edit(first(f, "s1"), lambda p: 10 ** (p / 10)), "--s1_unit power"),
    "radar geometry": (lambda f: in_radar_geometry(first(f, "s1")), "radar geometry"),
    "wrong dtype": (lambda f: edit(first(f, "s2"), dtype="uint8"), "is uint8, expected uint16"),
    "NaN-only band": (lambda f: edit(first(f, "s1"), lambda p: p * np.array([np.nan, 1], p.dtype)[:, None, None]), "all nodata in band VV"),
    "no power": (lambda f: edit(first(f, "s1"), lambda p: p - np.array([np.inf, 0], p.dtype)[:, None, None]), "all nodata in band VV"),
    "empty band": (lambda f: edit(first(f, "s2"), lambda p: p * (np.arange(9) != 4)[:, None, None].astype(p.dtype)), "all nodata in band B6"),
    "not dB": (lambda f: edit(first(f, "s1"), lambda p: p + 90), "expected backscatter in dB"),
    "truncated": (lambda f: truncate(first(f, "s2")), "cut short|not a raster"),
}  # fmt: skip


@pytest.mark.parametrize("fault", SCENE_FAULTS)
def test_predict_refuses(error_of, small_run, tmp_path, fault):
    write_tile(tmp_path, simulated_tile(0, "scene", 1, 64), bands.S2_BANDS)
    s2, s1 = first(tmp_path, "s2"), first(tmp_path, "s1")
    break_it, message = SCENE_FAULTS[fault]
    break_it(tmp_path)
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "map.tif"
    line = error_of(predict, "--workdir", small_run / "run", "--s2", s2, "--s1", s1, "--output", output)
    assert any(part in line for part in message.split("|")), line
    assert not list((tmp_path / "out").iterdir())


def test_predict_refuses_arguments(error_of, small_run, tmp_path):
    write_tile(tmp_path, simulated_tile(0, "scene", 1, 64), bands.S2_BANDS)
    common = ["--workdir", small_run / "run", "--s2", first(tmp_path, "s2")]
    assert "no --s1 is given" in error_of(predict, *common, "--output", tmp_path / "map.tif")
    common += ["--s1", first(tmp_path, "s1")]
    assert "no folder" in error_of(predict, *common, "--output", tmp_path / "no" / "map.tif")
    assert "is a folder" in error_of(predict, *common, "--output", tmp_path)
    assert "--output" in error_of(predict, *common)
    line = error_of(predict, *common, "--output", tmp_path / "map.tif", "--window_px", 0)
    assert "window_px is 0, expected 1 to 16384" in line


def test_a_process_ends_with_code_2_and_no_traceback(tmp_path):
    arguments = ("--workdir", tmp_path / "none", "--s2", "a.tif", "--output", "b.tif")
    assert "no workdir or bundle" in refused(command("specsar_jax.predict", *arguments, cwd=tmp_path))
    arguments = ("--tiles", tmp_path / "none", "--name", "a", "--data_dir", tmp_path / "data")
    assert "no folder" in refused(command("tfds_dwplus.prepare", *arguments, cwd=tmp_path))


def test_checkpoint_of_another_network(small_run, tmp_path, error_of):
    """As if an older version of the network had written it: weights are missing."""
    workdir = shutil.copytree(small_run / "run", tmp_path / "run")
    config = (workdir / "config.json").read_text()
    (workdir / "config.json").write_text(config.replace('"branches": "both"', '"branches": "stacked"'))
    said = error_of(evaluate, "--workdir", workdir)
    assert "tensor averaged_params." in said and "should have shape" in said and "found nothing" in said
    said = error_of(train, "--workdir", workdir, *small_flags(small_run), "--config.model.branches=stacked")
    assert "of another network or version" in said and "train in another --workdir" in said
    assert any((workdir / "checkpoints").iterdir())  # nothing is moved where nothing is whole


@pytest.mark.parametrize("module", ["specsar_jax.train", "specsar_jax.evaluate", "specsar_jax.report"])
def test_devices_that_jax_cannot_start(module, small_run, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    workdir = tmp_path / "run" if module == "specsar_jax.train" else small_run / "run"
    line = refused(command(module, "--workdir", workdir, cwd=tmp_path))
    assert "JAX cannot start its devices, JAX_PLATFORMS=cuda" in line
    assert not list(tmp_path.iterdir())
