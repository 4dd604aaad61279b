"""The main jobs with everything in a bucket on loopback: the same, bit for bit, as on disk, killed or not."""

import json
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import rasterio
from conftest import SMALL, command, refused, write_folder
from forked_commands import Commands
from local_buckets import Fault, serving

import specsar_jax
from specsar_jax.trained.bundle import read_bundle
from tfds_dwplus.files import buckets
from tfds_dwplus.files.buckets import servers

pytest.importorskip("google.cloud.storage")
pytest.importorskip("boto3")

MODULES = [
    "specsar_jax.train",
    "specsar_jax.predict",
    "specsar_jax.evaluate",
    "specsar_jax.export",
    "tfds_dwplus.prepare",
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Both servers; commands find them by the environment."""
    with serving() as both, pytest.MonkeyPatch.context() as patch:
        for name, value in (both.environment | {"SPECSAR_CACHE": str(tmp_path_factory.mktemp("cache"))}).items():
            patch.setenv(name, value)
        yield both


@pytest.fixture(scope="module")
def commands(served, tmp_path_factory):
    """What starts commands."""
    started = Commands(tmp_path_factory.mktemp("commands"), MODULES)
    yield started
    started.close()


def training(folder: str) -> tuple[str, ...]:
    """A short training on the data set of a folder, on disk or in a bucket, in its `run`."""
    settings = ("data.name=mine", "train.steps=4", "train.eval_every=2", f"data.data_dir={folder}/data")
    return ("specsar_jax.train", "--workdir", f"{folder}/run", *SMALL, *(f"--config.{of}" for of in settings))


def prepared(commands: Commands, folder: str, cwd: Path) -> None:
    """Makes the data set of a folder from its tiles."""
    data = ("--tiles", f"{folder}/tiles", "--name", "mine", "--data_dir", f"{folder}/data")
    assert commands.start("tfds_dwplus.prepare", *data, cwd=cwd).wait().code == 0


@pytest.fixture(scope="module")
def on_disk(commands, tmp_path_factory) -> Path:
    """A folder with `tiles`, `data` and a finished `run`."""
    folder = tmp_path_factory.mktemp("on_disk")
    write_folder(folder / "tiles", {"train": 8, "validation": 2, "test": 2})
    prepared(commands, str(folder), folder)
    ended = commands.start(*training(str(folder)), cwd=folder).wait()
    assert ended.code == 0, ended.said
    return folder


@pytest.fixture(scope="module", params=["gs", pytest.param("s3", marks=pytest.mark.slow)])
def place(request, served) -> str:
    """A folder in a bucket that holds the tiles of `on_disk`."""
    here = buckets.here(f"{request.param}://box/all")
    here.mkdir()
    write_folder(here / "tiles", {"train": 8, "validation": 2, "test": 2})
    buckets.flush()
    buckets.close()
    return f"{request.param}://box/all"


@pytest.fixture(scope="module")
def trained(place, commands, tmp_path_factory) -> str:
    """A run in the bucket, killed when its first checkpoint was there, and started again."""
    folder = tmp_path_factory.mktemp("elsewhere")
    prepared(commands, place, folder)
    train = training(place)
    running = commands.start(*train, cwd=folder)
    server = servers.connect(place[:2], "box")
    for _ in range(4000):
        names = server.list("all/run/checkpoints/")
        if any("/2/" in name for name in names) and not any(name.endswith(".sending") for name in names):
            break
        time.sleep(0.1)
    running.send(signal.SIGKILL, 0)
    assert running.wait().code == -signal.SIGKILL
    ended = commands.start(*train, cwd=folder).wait()
    assert ended.code == 0, ended.said
    assert "going on from step" in ended.said and "/cache" not in ended.said and f"workdir {place}/run" in ended.said
    assert not list(folder.iterdir())
    return f"{place}/run"


def here(address: str) -> Path:
    """What another machine reads."""
    buckets.close()
    return buckets.here(address)


def test_a_run_that_was_killed_ends_as_on_disk(trained, place, on_disk):
    run = here(trained)
    there, own = (
        json.loads((run / "evaluation_test.json").read_text()),
        (on_disk / "run" / "evaluation_test.json").read_text(),
    )
    assert there == json.loads(own)
    weights = specsar_jax.load(trained).trained.variables, specsar_jax.load(on_disk / "run").trained.variables
    for one, other in zip(*map(jax.tree.leaves, weights), strict=True):
        np.testing.assert_array_equal(one, other)
    config = json.loads((run / "config.json").read_text())
    assert config["data"]["data_dir"] == f"{place}/data"
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [of["step"] for of in events if of["kind"] == "train"] == list(range(1, 5))
    (records,) = (here(f"{place}/data")).rglob("*train*array_record*")
    (on_disk,) = (on_disk / "data").rglob("*train*array_record*")
    assert records.read_bytes() == on_disk.read_bytes()


def test_maps_exports_and_evaluations_are_as_on_disk(trained, place, on_disk, commands, tmp_path):
    scene = [f"--{sensor}={sorted((on_disk / 'tiles' / sensor).iterdir())[0]}" for sensor in ("s2", "s1")]
    scene = [part for flag in scene for part in flag.split("=", 1)]
    (tmp_path / "disk").mkdir()
    for workdir, data, out in ((trained, place, f"{place}/out"), (on_disk / "run", on_disk, tmp_path / "disk")):
        for asked in (
            ("specsar_jax.predict", "--workdir", workdir, *scene, "--s2_offset", 0, "--output", f"{out}/map.tif"),
            ("specsar_jax.export", "--workdir", workdir, "--format", "safetensors", "--output", f"{out}/net.safetensors"),
            ("specsar_jax.evaluate", "--workdir", f"{out}/net.safetensors", "--split", "validation",
             "--data_dir", f"{data}/data", "--dataset", "mine"),
        ):  # fmt: skip
            ended = commands.start(*asked, cwd=tmp_path).wait()
            assert ended.code == 0, ended.said
    there = here(f"{place}/out")
    names = {path.name for path in there.iterdir()}
    assert names == {path.name for path in (tmp_path / "disk").iterdir() if path.suffix != ".lock"}
    # Its config names the data set's place, and a digest of all that.
    assert read_bundle(there / "net.safetensors").sha256 == read_bundle(tmp_path / "disk" / "net.safetensors").sha256
    for name in names - {"net.safetensors"}:
        assert (there / name).read_bytes() == (tmp_path / "disk" / name).read_bytes(), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk"]


def test_a_scene_in_a_bucket_is_read_by_gdal(trained, place, on_disk, commands, tmp_path):
    tile = sorted((on_disk / "tiles" / "s2").iterdir())[0].name
    for name, folder in (("near", on_disk / "tiles"), ("far", f"{place}/tiles")):
        scene = ("--s2", f"{folder}/s2/{tile}", "--s1", f"{folder}/s1/{tile}", "--s2_offset", 0)
        output = tmp_path / f"{name}.tif"
        ended = commands.start("specsar_jax.predict", "--workdir", on_disk / "run", *scene, "--output", output, cwd=tmp_path).wait()  # fmt: skip
        assert ended.code == 0, ended.said
    with rasterio.open(tmp_path / "near.tif") as near, rasterio.open(tmp_path / "far.tif") as far:
        assert (near.read() == far.read()).all()


def test_a_bucket_that_cannot_be_written_ends_a_run_before_it_begins(place, served, commands, on_disk, tmp_path):
    fault = Fault("POST|PUT", "refused|uploadType=multipart", 403)
    served.proxy(place[:2]).faults.append(fault)
    flags = [f"--config.{of}" for of in ("data.name=mine", f"data.data_dir={on_disk / 'data'}", "train.steps=6")]
    try:
        train = ("specsar_jax.train", "--workdir", f"{place}/refused", *SMALL, *flags)
        ended = commands.start(*train, cwd=tmp_path).wait()
    finally:
        fault.times = 0
    assert ended.code == 2 and f"{place}/refused" in ended.said, ended.said
    (line,) = [line for line in ended.said.splitlines() if line.startswith("error: ")]
    assert "no permission" in line and "Traceback" not in ended.said and "step 2" not in ended.said
    assert not list(tmp_path.iterdir())


def test_what_is_not_there_is_told_by_its_address(served, tmp_path):
    line = refused(command("specsar_jax.evaluate", "--workdir", "gs://box/nothing", cwd=tmp_path))
    assert "gs://box/nothing" in line and "/cache" not in line
    line = refused(command("tfds_dwplus.describe", "--data_dir", "gs://box/nothing", "--name", "a", cwd=tmp_path))
    assert "no data set dynamic_world_plus/a under gs://box/nothing" in line
