"""Training: same seed, same curve; stopped and started again, the same weights; one device or eight, the same losses."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import REPOSITORY, SMALL, write_folder

from specsar_jax import checkpoints, evaluate, train
from specsar_jax import config as configs
from specsar_jax.config import Config
from tfds_dwplus import DynamicWorldPlusConfig
from tfds_dwplus.prepare import prepare


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    tiles = write_folder(folder / "tiles", {"train": 8, "validation": 2, "test": 2}, size_px=64)
    prepare(DynamicWorldPlusConfig(name="mine", tiles=tiles, tile_size_px=64), folder / "data")
    return folder / "data"


def config_of(data_dir, *more: str) -> Config:
    fixed = ["data.name=mine", "train.steps=6", "train.eval_every=2", "train.ema_decay=0.9", "train.eval_batch_size=8"]
    small = [flag.removeprefix("--config.") for flag in SMALL]
    return configs.override(Config(), [f"data.data_dir={data_dir}", *small, *fixed, *more])


def journal(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir) -> list[float]:
    return [line["loss"] for line in journal(workdir) if line["kind"] == "train"]


def weights(workdir) -> list[np.ndarray]:
    return jax.tree.leaves(checkpoints.load_trained(workdir, "latest").variables)


@pytest.fixture(scope="module")
def unbroken(data_dir, tmp_path_factory):
    """Workdir of a run of six steps without a stop."""
    workdir = tmp_path_factory.mktemp("unbroken")
    train.train(config_of(data_dir), workdir)
    return workdir


def test_workdir_holds_what_is_promised(unbroken):
    names = {path.name for path in unbroken.iterdir()}
    assert names == {
        "config.json", "statistics.json", "metrics.jsonl", "checkpoints", "tensorboard",
        "evaluation_test.json", "examples_test.png",
    }  # fmt: skip
    lines = journal(unbroken)
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [2, 4, 6]
    assert {"step", "kind", "loss", "learning_rate", "tiles_per_second"} <= lines[0].keys()
    figures = json.loads((unbroken / "evaluation_test.json").read_text())
    assert {"dataset", "split", "step", "tiles", "labelled_pixels", "mean_iou", "overall_accuracy", "macro_f1", "kappa",
            "classes", "confusion_matrix", "per_class"} <= figures.keys()  # fmt: skip
    assert figures["tiles"] == 2 and np.sum(figures["confusion_matrix"]) == figures["labelled_pixels"]
    best = max((line for line in lines if line["kind"] == "eval"), key=lambda line: line["mean_iou"])
    assert figures["step"] == best["step"]


def test_same_seed_same_curve_and_same_weights(unbroken, data_dir, tmp_path):
    train.train(config_of(data_dir), tmp_path / "again")
    assert losses(tmp_path / "again") == losses(unbroken)
    for one, two in zip(weights(tmp_path / "again"), weights(unbroken), strict=True):
        np.testing.assert_array_equal(one, two)


def test_killed_and_started_again_ends_as_if_unbroken(unbroken, data_dir, tmp_path, monkeypatch):
    step = train.Journal.write

    def killed(self, number, kind, figures):
        step(self, number, kind, figures)
        if number == 5:
            raise ZeroDivisionError  # after the checkpoint of step 4, before that of step 6

    monkeypatch.setattr(train.Journal, "write", killed)
    with pytest.raises(ZeroDivisionError):
        train.train(config_of(data_dir), tmp_path)
    monkeypatch.undo()
    assert checkpoints.load_trained(tmp_path, "latest").step == 4
    train.train(config_of(data_dir), tmp_path)
    assert losses(tmp_path) == losses(unbroken)
    for one, two in zip(weights(tmp_path), weights(unbroken), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_finished_run_started_again_only_scores(unbroken, data_dir):
    before = (unbroken / "metrics.jsonl").read_text()
    train.train(config_of(data_dir), unbroken)
    assert (unbroken / "metrics.jsonl").read_text() == before


def test_one_device_has_the_losses_of_eight(unbroken, data_dir, tmp_path, monkeypatch):
    axes = (jax.sharding.AxisType.Auto,) * 2
    one = jax.make_mesh((1, 1), ("data", "model"), axis_types=axes, devices=jax.devices()[:1])
    for module in (train, evaluate):
        monkeypatch.setattr(module, "make_mesh", lambda: one)
    train.train(config_of(data_dir), tmp_path)
    np.testing.assert_allclose(losses(tmp_path), losses(unbroken), rtol=1e-4)


def test_workdir_of_another_config_is_refused(unbroken, data_dir):
    with pytest.raises(ValueError, match=r"optimizer.learning_rate: 0.0005, 0.1"):
        train.train(config_of(data_dir, "optimizer.learning_rate=0.1"), unbroken)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal_saves_and_says_so(data_dir, tmp_path, number, code):
    workdir = tmp_path / "run"
    overrides = [
        f"--config.{k}"
        for k in (f"data.data_dir={data_dir}", "data.name=mine", "train.steps=100000", "train.eval_every=100000")
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "specsar_jax.train", "--workdir", str(workdir), *SMALL, *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    deadline = time.monotonic() + 200
    while not (workdir / "metrics.jsonl").exists() or not journal(workdir):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == code, errors
    assert "Traceback" not in errors and "stopped at step" in errors
    assert checkpoints.load_trained(workdir, "latest").step >= 1
