"""When a run ends before its last step: a signal, or too many evaluations without a better one."""

import contextlib
import os
import signal
import threading
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from specsar_jax.config import Train
from specsar_jax.trained.run_files import comparable

ANSWERED_S = 2.0
"""A second Ctrl-C sooner than this after the first one was answered is taken for the same wish."""

ASKED_EVERY_S = 2.0
"""Time between two askings of all processes; a cluster waits 30 s from SIGTERM to SIGKILL."""


class StopRequest:
    """Catches Ctrl-C and SIGTERM, so that the loop can save and stop between two steps.

    SIGTERM, however often it comes, never ends a save; Ctrl-C does, two seconds after the first one was answered. In a thread
    other than the main one nothing is caught, for Python gives signals to the main thread alone.
    """

    signal = 0
    """The first that came; 0 for none."""

    def __enter__(self) -> "StopRequest":
        numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        self._before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        if not self.signal:
            self.signal = number
            # Not by `print`: the signal may have come while that was at work.
            with contextlib.suppress(OSError):
                os.write(2, b"\nstopping, once this step is saved; Ctrl-C in two seconds or later ends without\n")
            self._answered = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._answered >= ANSWERED_S:
            raise KeyboardInterrupt


class Agreement:
    """Lets all processes of a run decide the same thing at the same step, every two seconds.

    Asking is a collective, which no process may leave out, and their clocks differ. So each asking also agrees on the step of the
    next one: as many steps on as the slowest of them does in two seconds.
    """

    def __init__(self, step: int) -> None:
        self._asked, self._when, self._next = step, time.monotonic(), step + 1

    def largest(self, step: int, *values: int) -> tuple[int, ...]:
        """Returns the largest of each of the `values` over all processes; zeros at a step where nobody asks.

        To be called by all processes after each step. A single process is never kept waiting.
        """
        if jax.process_count() == 1:
            return values
        if step < self._next:
            return (0,) * len(values)
        pace = (step - self._asked) / max(time.monotonic() - self._when, 1e-3)
        interval = min(max(int(pace * ASKED_EVERY_S), 1), 10_000)
        answers = multihost_utils.process_allgather(np.array([*values, -interval], np.int32))
        *largest, negative_interval = map(int, answers.max(axis=0))
        self._asked, self._when, self._next = step, time.monotonic(), step - negative_interval
        return tuple(largest)


class Timer:
    """Says when so many minutes have passed since the last `restart`; never if they are 0."""

    def __init__(self, minutes: float) -> None:
        self._seconds = 60.0 * minutes
        self.restart()

    def restart(self) -> None:
        """Counts from now."""
        self._since = time.monotonic()

    def due(self) -> bool:
        """Returns whether the time has passed."""
        return bool(self._seconds) and time.monotonic() - self._since >= self._seconds


def score_of(figures: dict[str, Any], best_by: str) -> float:
    """The score that the best checkpoint is chosen by: the larger, the better; the worst of all if it is not a number.

    Args:
        figures: of an evaluation.
        best_by: the key in `figures`, `train.best_by`.
    """
    value = figures[best_by]
    if value is None:  # not a number, as it is written into the run log, or no labelled pixel
        return comparable(float("nan"))
    return comparable(-value if best_by == "loss" else value)


def out_of_patience(evaluations: list[dict[str, Any]], config: Train) -> bool:
    """Whether `train.patience` evaluations have passed since the best one."""
    scores = [score_of(figures, config.best_by) for figures in evaluations]
    return bool(config.patience and scores) and len(scores) - 1 - int(np.argmax(scores)) >= config.patience
