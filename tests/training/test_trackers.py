"""A tracker of experiments: what it is given, and that it never ends a run. Both packages are fakes."""

import json
import sys
import threading
import types

import pytest
from conftest import small_config

from specsar_jax.training import loop, trackers


@pytest.fixture
def fake(monkeypatch):
    """A module like wandb and like mlflow that notes what it is told."""
    told = types.SimpleNamespace(starts=[], logged=[], ended=0, fails_at=None)

    def log(figures, step):
        if step == told.fails_at:
            raise ConnectionError("no route to\nhost")
        told.logged.append((step, figures))

    def end():
        told.ended += 1

    def start(**how):
        told.starts.append(how)
        return types.SimpleNamespace(id="abc", info=types.SimpleNamespace(run_id="abc"), log=log, finish=end)

    module = types.SimpleNamespace(
        init=start,
        start_run=start,
        log_metrics=log,
        end_run=end,
        set_experiment=lambda name: None,
        log_params=lambda params: told.starts[-1].update(params=params),
    )
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, module)
    return told


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_is_given_the_figures_of_the_run_log(small_run, tmp_path, fake, name):
    config = small_config(small_run, f"train.tracker={name}", "train.steps=2", "train.eval_every=1", "data.test_split=")
    loop.train(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for kind in ("train", "eval"):
        expected = [(line["step"], line["loss"]) for line in lines if line["kind"] == kind]
        assert [(step, of[f"{kind}/loss"]) for step, of in fake.logged if f"{kind}/loss" in of] == expected
        assert len(expected) == 2
    assert fake.ended == 1
    (start,) = fake.starts
    if name == "wandb":
        assert start["config"]["train"]["steps"] == 2 and start["id"] is None
    else:
        assert start["params"]["train.steps"] == 2
    loop.train(small_config(small_run, f"train.tracker={name}", "train.steps=3", "data.test_split="), tmp_path)
    assert fake.starts[1]["id" if name == "wandb" else "run_id"] == "abc"  # the same run there


def test_a_tracker_that_fails_does_not_end_the_run(small_run, tmp_path, fake, capsys):
    fake.fails_at = 2
    loop.train(small_config(small_run, "train.tracker=wandb", "train.steps=3", "data.test_split="), tmp_path)
    notes = [line for line in capsys.readouterr().err.splitlines() if "note: wandb" in line]
    assert len(notes) == 1 and "failed at step 2 (ConnectionError: no route to host)" in notes[0]
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][-1] == 3


def test_a_tracker_that_hangs_is_waited_for_some_seconds_only(tmp_path, small_run, fake, monkeypatch, capsys):
    monkeypatch.setattr(trackers, "WAIT_S", 0.2)
    forever = threading.Event()
    monkeypatch.setattr(sys.modules["wandb"], "init", lambda **_: forever.wait())
    tracker = trackers.Tracker(small_config(small_run, "train.tracker=wandb"), tmp_path)
    tracker.write(1, "train", {"loss": 1.0})
    tracker.close()
    assert "has not taken all figures" in capsys.readouterr().err


def test_a_missing_package_is_one_line_before_training(small_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(
        ValueError, match=r"^train.tracker=mlflow needs the package mlflow .*pip install 'specsar_jax\[mlflow\]'"
    ):
        loop.train(small_config(small_run, "train.tracker=mlflow"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
