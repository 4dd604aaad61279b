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
import safetensors.numpy
from conftest import REPOSITORY, small_config, small_flags
from finished_runs import journal, losses, weights
from segformer_files import hub_tensors

from specsar_jax.trained import loading
from specsar_jax.training import loop, run_log


@pytest.fixture
def unbroken(small_run):
    """Workdir of a run of six steps without a stop."""
    return small_run / "run"


def test_workdir_holds_what_is_promised(unbroken):
    names = {path.name for path in unbroken.iterdir()}
    assert names == {
        "config.json", "statistics.json", "metrics.jsonl", "checkpoints", "tensorboard",
        "evaluation_test.json", "examples_test.png", "tiles_test.npz", "calibration.json", "run.json", ".lock",
    }  # fmt: skip
    lines = journal(unbroken)
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [2, 4, 6]
    assert {
        "step", "kind", "loss", "gradient_norm", "skipped", "learning_rate", "tiles_per_second", "data_wait_share", "memory_gb",
    } <= lines[0].keys()  # fmt: skip
    (spent,) = [line for line in lines if line["kind"] == "time"]
    parts = [spent[f"{what}_s"] for what in ("compile", "evaluate", "checkpoint", "data")]
    assert min(parts) > 0 and sum(parts) < spent["total_s"]
    run = json.loads((unbroken / "run.json").read_text())
    assert run["versions"]["jax"] == jax.__version__ and run["step"] == 0 and run["earlier"] == []
    figures = json.loads((unbroken / "evaluation_test.json").read_text())
    assert {"dataset", "split", "step", "tiles", "labelled_pixels", "mean_iou", "overall_accuracy", "macro_f1", "kappa",
            "classes", "confusion_matrix", "per_class"} <= figures.keys()  # fmt: skip
    assert figures["tiles"] == 2 and np.sum(figures["confusion_matrix"]) == figures["labelled_pixels"]
    # Told once, at the end.
    whole = {
        "boundary_iou",
        "calibration",
        "groups",
        "area",
        "intervals",
        "data_sha256",
        "weights_sha256",
        "tiles_sha256",
    }
    assert figures.keys() - whole <= next(line for line in lines if line["kind"] == "eval").keys()
    best = max((line for line in lines if line["kind"] == "eval"), key=lambda line: line["mean_iou"])
    assert figures["step"] == best["step"]
    (events,) = (unbroken / "tensorboard").iterdir()
    content = events.read_bytes()
    assert content.count(b"eval/tiles") == content.count(b"eval/confusion") == 3
    assert content.count(b"\x89PNG") == 6


def test_same_seed_same_curve_and_same_weights(unbroken, small_run, tmp_path):
    loop.train(small_config(small_run), tmp_path / "again")
    assert losses(tmp_path / "again") == losses(unbroken)
    for one, two in zip(weights(tmp_path / "again"), weights(unbroken), strict=True):
        np.testing.assert_array_equal(one, two)


def test_killed_and_started_again_ends_as_if_unbroken(unbroken, small_run, tmp_path, monkeypatch):
    step = run_log.RunLog.write

    def killed(self, number, kind, figures):
        step(self, number, kind, figures)
        if number == 5:
            raise ZeroDivisionError  # after the checkpoint of step 4, before that of step 6

    monkeypatch.setattr(run_log.RunLog, "write", killed)
    with pytest.raises(ZeroDivisionError):
        loop.train(small_config(small_run), tmp_path)
    monkeypatch.undo()
    assert loading.load_trained(tmp_path, "latest").step == 4
    loop.train(small_config(small_run), tmp_path)
    assert losses(tmp_path) == losses(unbroken)
    for one, two in zip(weights(tmp_path), weights(unbroken), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_finished_run_started_again_only_scores(unbroken, small_run):
    before = (unbroken / "metrics.jsonl").read_text()
    loop.train(small_config(small_run), unbroken)
    assert (unbroken / "metrics.jsonl").read_text() == before


def test_one_device_has_the_losses_of_eight(unbroken, small_run, tmp_path):
    loop.train(small_config(small_run, "mesh.devices=1"), tmp_path)
    np.testing.assert_allclose(losses(tmp_path), losses(unbroken), rtol=1e-4)


def test_workdir_of_another_config_is_refused(unbroken, small_run):
    with pytest.raises(ValueError, match=r"optimizer.learning_rate: 0.0005, 0.1"):
        loop.train(small_config(small_run, "optimizer.learning_rate=0.1"), unbroken)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal_saves_and_says_so(small_run, tmp_path, number, code):
    workdir = tmp_path / "run"
    endless = ("--config.train.steps=100000", "--config.train.eval_every=100000")
    process = subprocess.Popen(
        [sys.executable, "-m", "specsar_jax.train", "--workdir", str(workdir), *small_flags(small_run), *endless],
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
    assert loading.load_trained(workdir, "latest").step >= 1


def test_a_run_starts_from_pretrained_weights_and_says_which(small_run, tmp_path, capsys):
    config = small_config(
        small_run, "train.steps=1", "train.eval_every=1", f"train.pretrained={tmp_path / 'mit.safetensors'}"
    )
    with pytest.raises(ValueError, match=r"mit\.safetensors"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    tensors = hub_tensors(config.model, channels=3)
    (tmp_path / "mit.safetensors").write_bytes(safetensors.numpy.save(tensors))
    loop.train(config, tmp_path / "run")
    carried = json.loads((tmp_path / "run" / "pretrained.json").read_text())
    assert sorted(carried["used"] + carried["unused"]) == sorted(tensors)
    assert f"tensors of the file used: {len(carried['used'])} " in capsys.readouterr().out
    # One step of AdamW moves no weight by more than the learning rate, 5e-4.
    kernel = loading.load_trained(tmp_path / "run", "latest").variables["params"]["stage2"]["spectral_embed"]["kernel"]
    given = tensors["segformer.encoder.patch_embeddings.1.proj.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(kernel, given[:, :, : kernel.shape[2], : kernel.shape[3]], atol=1e-3)
