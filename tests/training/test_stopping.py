"""When a run stops: signals, their repetition, an agreement of many processes by time, scores that are not finite."""

import math
import signal
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config

from specsar_jax.config import Config, load, override
from specsar_jax.trained import run_files
from specsar_jax.training import checkpoints, loop, stopping
from specsar_jax.training.train_state import TrainState


def test_a_second_sigterm_is_the_same_wish(capfd):
    with stopping.StopRequest() as stop:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        stop._answered -= 10  # seconds
        signal.raise_signal(signal.SIGTERM)
    assert capfd.readouterr().err.count("stopping") == 1


def test_a_second_interrupt_ends_at_once_only_two_seconds_after_the_answer():
    with stopping.StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        stop._answered = time.monotonic() - 1.9
        signal.raise_signal(signal.SIGINT)
        stop._answered = time.monotonic() - 2.1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT


def test_training_works_in_a_thread(small_run, tmp_path):
    """Where Python sets no handlers."""
    config = small_config(small_run, "train.steps=1", "data.test_split=")
    run = threading.Thread(target=loop.train, args=(config, tmp_path))
    run.start()
    run.join()
    assert run_files.saved_steps(tmp_path) == [1]


@pytest.mark.parametrize("pace", [400.0, 0.2])
def test_many_processes_ask_each_other_by_time_at_the_same_steps(monkeypatch, pace):
    """Steps per second; the other process is half as fast by its own clock, and is told to stop."""
    clock, asked, other = [0.0], [], {"signal": 0}
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(stopping.time, "monotonic", lambda: clock[0])

    def gather(mine: np.ndarray) -> np.ndarray:
        asked.append(clock[0])
        return np.stack([mine, [other["signal"], 0, mine[-1] // 2 if mine[-1] < -1 else mine[-1]]])

    monkeypatch.setattr(stopping.multihost_utils, "process_allgather", gather)
    agreement = stopping.Agreement(0)
    for step in range(1, 10_000):
        clock[0] += 1 / pace
        other["signal"] = 15 if clock[0] > 20 else 0
        stopping_by, _ = agreement.largest(step, 0, 0)
        if stopping_by:
            break
    assert stopping_by == 15 and clock[0] < 20 + max(2.1, 2 / pace)
    assert len(asked) < 40  # not at each of 8000 steps


def test_a_checkpoint_is_saved_by_time(small_run, tmp_path):
    config = small_config(small_run, "train.eval_every=100", "train.save_every_minutes=1e-9", "data.test_split=")
    saved = []
    keep = checkpoints.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "save", lambda *of: (saved.append(int(of[1].step)), keep(*of)))
        loop.train(config, tmp_path)
    assert saved == [1, 2, 3, 4, 5, 6]
    assert stopping.Timer(0.0).due() is False


NAN = float("nan")


@pytest.mark.parametrize(
    ("losses", "best", "over"),
    [
        ((1.0, NAN, 0.9, 0.8), 4, False),
        ((NAN, 1.0, 0.9), 3, False),
        ((1.0, 0.9, NAN), 2, False),
        ((0.9, NAN, NAN), 1, True),
        ((1.0, math.inf), 1, False),
    ],
)
@pytest.mark.parametrize("restarted", [False, True])
def test_a_loss_that_is_not_finite_is_the_worst(tmp_path, losses, best, over, restarted):
    """In the run log, so after a restart, it is null."""
    settings = override(Config(), ["train.best_by=loss", "train.patience=2"]).train
    seen = [{"loss": None if restarted and not math.isfinite(of) else of} for of in losses]
    assert stopping.out_of_patience(seen, settings) is over
    for end in range(1, len(seen)):
        assert not stopping.out_of_patience(seen[:end], settings)
    with run_files.open_checkpoints(tmp_path, clean_up=True) as manager:
        for step, figures in enumerate(seen, 1):
            checkpoints.save(manager, state_of(step), stopping.score_of(figures, "loss"))
        checkpoints.finish(manager)
        assert manager.best_step() == best
    scores = run_files.saved_scores(tmp_path)
    assert max(scores, key=lambda step: (scores[step], step)) == best
    with run_files.open_checkpoints(tmp_path, clean_up=True) as manager:
        assert manager.best_step() == best


def test_what_cannot_be_read_back_is_not_believed(tmp_path, monkeypatch):
    def lost(*_: object) -> None:
        raise ValueError("nothing there")

    monkeypatch.setattr(checkpoints, "read_part", lost)
    refused = pytest.raises(ValueError, match=r"checkpoint 1 was written to .* cannot be read .*nothing there")
    with run_files.open_checkpoints(tmp_path, clean_up=True) as manager, refused:
        checkpoints.save(manager, state_of(1), 0.0)


def state_of(step: int) -> TrainState:
    """A state of a few numbers."""
    ones = {"kernel": jnp.ones(3)}
    return TrainState(
        jnp.int32(step), ones, {"mean": jnp.ones(1)}, None, {"a": jnp.ones(2)}, jnp.int32(0), jnp.int32(0)
    )


def test_the_paper_s_config_saves_by_time():
    config = load(Path(__file__).parents[2] / "configs" / "specsar_former.py")
    assert 0 < config.train.save_every_minutes <= 30
