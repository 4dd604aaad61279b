"""What a run bears: records that cannot be read, a full disk, being killed at any moment, an end before its steps are done."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, small_config, small_flags
from finished_runs import journal, losses, weights

from specsar_jax.config import Config, override
from specsar_jax.trained import loading, run_files
from specsar_jax.training import checkpoints, loop, stopping


def test_a_corrupt_record_is_named_and_ends_the_run(corrupt):
    with pytest.raises(ValueError, match=r"record \d of 8 of the split cannot be read .*data.corrupt_records=skip"):
        loop.train(small_config(corrupt), corrupt / "run")


def test_a_corrupt_record_is_skipped_if_so_wished(corrupt, capfd):
    config = small_config(corrupt, "data.corrupt_records=skip", "data.test_split=train", "train.steps=2")
    figures = loop.train(config, corrupt / "run")
    named = [line for line in capfd.readouterr().err.splitlines() if "cannot be read" in line]
    assert named and all(line.endswith("skipped") for line in named)
    assert figures["labelled_pixels"] <= 7 * 64 * 64  # not counted, nor another one twice in its place
    assert len(losses(corrupt / "run")) == 2


def test_a_second_run_on_a_workdir_at_work_is_refused(small_run, tmp_path):
    config = run_files.read_config(small_run / "run")
    statistics = loading.load_trained(small_run / "run").statistics
    at_work = pytest.raises(ValueError, match="another process is at work")
    with checkpoints.claimed(tmp_path, config, statistics), at_work:
        loop.train(small_config(small_run), tmp_path)
    with checkpoints.claimed(tmp_path, config, statistics):
        pass  # let go of when the first one ended


@pytest.mark.parametrize(
    ("scores", "best_by", "over"),
    [([1, 2], "kappa", False), ([2, 1], "kappa", False), ([2, 1, 2], "kappa", True), ([1, 2, 3], "loss", True), ([], "loss", False)],
)  # fmt: skip
def test_patience_counts_evaluations_since_the_best(scores, best_by, over):
    config = override(Config(), ["train.patience=2", f"train.best_by={best_by}"])
    assert stopping.out_of_patience([{best_by: float(score)} for score in scores], config.train) is over


def test_a_run_out_of_patience_stays_ended(small_run, tmp_path, capsys):
    config = small_config(small_run, "train.patience=1", "optimizer.learning_rate=10.0", "train.steps=40")
    loop.train(config, tmp_path)
    ended = journal(tmp_path)[-1]["step"]
    assert ended < 40
    loop.train(config, tmp_path)
    assert journal(tmp_path)[-1]["step"] == ended
    assert capsys.readouterr().out.count(f"the run ends at step {ended}") == 2


def test_a_full_disk_ends_the_run_with_a_line_and_keeps_the_last_checkpoint(small_run, tmp_path):
    """No file of the process may grow beyond 6 KiB: for its checkpoints the disk is as good as full."""
    shutil.copytree(small_run / "run", tmp_path / "run", ignore=shutil.ignore_patterns("6", "evaluation*", "examples*"))
    before = loading.load_trained(tmp_path / "run", "latest").step
    command = [sys.executable, "-m", "specsar_jax.train", "--workdir", str(tmp_path / "run"), *small_flags(small_run)]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 6; exec "$@"', "bash", *command],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        check=False,
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert loading.load_trained(tmp_path / "run", "latest").step == before


@pytest.mark.slow
def test_killed_twenty_times_ends_as_if_unbroken(small_run, tmp_path):
    settings = ("--config.train.steps=60", "--config.train.save_every=1", "--config.train.eval_every=20")

    def run(workdir: Path, seconds: float) -> int | None:
        """Exit status of the command; None if it was killed after so many seconds."""
        command = [sys.executable, "-m", "specsar_jax.train", "--workdir", str(workdir), *small_flags(small_run)]
        with contextlib.suppress(subprocess.TimeoutExpired):  # by which `run` kills it: SIGKILL
            return subprocess.run(
                [*command, *settings],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=seconds,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
                check=False,
            ).returncode
        return None

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(whole, 300) == 0
    chance, steps = random.Random(0), set()
    # From any moment of starting to any of training and saving.
    for _ in range(20):
        if run(broken, chance.uniform(4.0, 14.0)) == 0:
            break
        steps.add(max((int(path.name) for path in broken.glob("checkpoints/*") if path.name.isdigit()), default=0))
    assert len(steps) > 2, "it was never killed while it trained"
    assert run(broken, 300) == 0
    assert losses(broken) == losses(whole)
    for one, two in zip(weights(broken), weights(whole), strict=True):
        np.testing.assert_array_equal(one, two)
    assert (broken / "evaluation_test.json").read_text() == (whole / "evaluation_test.json").read_text()
