"""A workdir that is gone on with: checkpoints that are damaged, settings that have changed."""

import gc
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import small_config
from finished_runs import losses, weights

from specsar_jax import export
from specsar_jax.trained import loading, run_files
from specsar_jax.training import loop


def empty_data(step: Path) -> None:
    for path in (step / "default").glob("ocdbt*/d/*"):
        path.write_bytes(b"")


def no_manifest(step: Path) -> None:
    (step / "default" / "manifest.ocdbt").unlink()


def empty_metadata(step: Path) -> None:
    (step / "default" / "_METADATA").write_bytes(b"")


def empty_metrics(step: Path) -> None:
    (step / "metrics" / "metrics").write_bytes(b"")


# TensorStore's threads find the event loop of a read that failed closed; commands keep quiet about it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def reads_forgotten():
    """Collects what is left of reads that failed while their warnings are ignored."""
    yield
    gc.collect()


DAMAGES = (empty_data, no_manifest, empty_metadata, empty_metrics)


@pytest.fixture
def run(small_run, tmp_path) -> Path:
    """A copy of the finished run, with checkpoints of steps 4 and 6, and perhaps the best before."""
    shutil.copytree(small_run / "run", tmp_path / "run")
    assert run_files.saved_steps(tmp_path / "run")[-2:] == [4, 6]
    return tmp_path / "run"


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_used_and_the_run_says_so(run, small_run, capsys, damage: Callable):
    damage(run / "checkpoints" / "6")
    assert loading.load_trained(run, "latest").step == 4
    assert re.search(r"note: checkpoint 6 of \S+ is damaged \(.+\); used that of step 4", capsys.readouterr().err)
    assert loading.load_trained(run).step <= 4
    assert (run / "checkpoints" / "6").exists()  # a reader moves nothing
    loop.train(small_config(small_run), run)
    out, err = capsys.readouterr()
    assert "going on from step 4" in out and f"it is now {run / 'damaged' / '6'}" in err
    assert run_files.saved_steps(run)[-2:] == [4, 6]
    assert losses(run) == losses(small_run / "run")
    for one, two in zip(weights(run), weights(small_run / "run"), strict=True):
        np.testing.assert_array_equal(one, two)


def test_export_takes_the_next_best_of_a_damaged_one(run, tmp_path, capsys):
    best = loading.load_trained(run).step
    empty_metadata(run / "checkpoints" / str(best))
    export.main(["--workdir", str(run), "--format", "safetensors", "--output", str(tmp_path / "a.safetensors")])
    assert f"checkpoint {best} of" in capsys.readouterr().err
    assert loading.load_trained(tmp_path / "a.safetensors").step != best


@pytest.mark.parametrize("damage", [empty_metadata, empty_metrics])
def test_no_whole_checkpoint_is_a_line_whose_advice_works(run, small_run, damage: Callable):
    for step in run_files.saved_steps(run):
        damage(run / "checkpoints" / str(step))
    with pytest.raises(ValueError, match=r"no checkpoint of .* can be read, .*step 6: "):
        loading.load_trained(run)
    with pytest.raises(ValueError, match=rf"step 4: .*remove {run / 'checkpoints'} to start from the first step"):
        loop.train(small_config(small_run), run)
    shutil.rmtree(run / "checkpoints")
    loop.train(small_config(small_run), run)
    assert losses(run) == losses(small_run / "run")


def test_what_does_not_change_a_step_may_change_and_is_kept(run, small_run, tmp_path, capsys):
    shutil.copytree(small_run / "data", tmp_path / "moved")
    settings = (
        "train.steps=7",
        "train.log_every=1",
        "train.patience=9",
        "train.save_every=1",
        "train.eval_batch_size=2",
    )
    moved = f"data.data_dir={tmp_path / 'moved'}"
    loop.train(small_config(small_run, *settings, moved, "data.corrupt_records=skip"), run)
    assert "from step 6 on, changed: data.data_dir from" in capsys.readouterr().out
    assert len(losses(run)) == 7
    assert run_files.read_config(run).data.data_dir == str(tmp_path / "moved")
    started = json.loads((run / "run.json").read_text())
    assert {"step": 6, "setting": "train.steps", "before": 6, "after": 7} in started["changes"]
    assert len(started["changes"]) == 6 and started["earlier"][0]["changes"] == []


def test_the_learning_rate_changes_if_asked(run, small_run):
    lower = small_config(small_run, "optimizer.learning_rate=0.0001", "train.steps=7")
    with pytest.raises(ValueError, match=r"optimizer.learning_rate: 0.0005, 0.0001, there .* or go on .*: --change$"):
        loop.train(lower, run)
    with pytest.raises(ValueError, match=r"model.dropout: 0.0, 0.1, there and here\); .*it was started with$"):
        loop.train(small_config(small_run, "model.dropout=0.1"), run, change=True)
    loop.train(lower, run, change=True)
    changes = json.loads((run / "run.json").read_text())["changes"]
    assert {"step": 6, "setting": "optimizer.learning_rate", "before": 0.0005, "after": 0.0001} in changes
    loop.train(lower, run)  # it is the run's own now


def test_clipping_may_be_taken_away_from_a_run(run, small_run):
    loop.train(small_config(small_run, "optimizer.clip_norm=0.0", "train.steps=7"), run, change=True)
    assert run_files.saved_steps(run)[-1] == 7


def test_steps_that_are_not_finite_say_what_works(small_run, tmp_path):
    alpha = f"loss.alpha=({','.join(['1e38'] * 9)})"
    config = small_config(small_run, alpha, "train.most_skipped=2", "train.eval_every=0")
    with pytest.raises(ValueError, match=r"no checkpoint is left. .*--change --config\.optimizer\.learning_rate=5e-05"):
        loop.train(config, tmp_path)
