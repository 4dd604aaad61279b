"""When a run ends before its last step: a signal, or too many evaluations without a better one."""

import signal
from typing import Any

import jax
import numpy as np

from specsar_jax.config import Train
from specsar_jax.devices.sharding import largest_of_all


class StopRequest:
    """Catches Ctrl-C and SIGTERM, so that the loop can save and stop between two steps. A second signal ends the run at once."""

    signal = 0

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self, step: int, every: int) -> int:
        """Returns the signal that any process of the run has received, or 0.

        Several processes ask each other only every `every` steps, for asking takes time.
        """
        if jax.process_count() > 1 and step % every:
            return 0
        return largest_of_all(self.signal)

    def _ask(self, number: int, _: object) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number


def score_of(figures: dict[str, Any], best_by: str) -> float:
    """The score that the best checkpoint is chosen by: the larger, the better.

    Args:
        figures: of an evaluation.
        best_by: the key in `figures`, `train.best_by`.
    """
    value = figures[best_by]
    if value is None:
        return 0.0  # without a labelled pixel, one is as good as the other
    return -value if best_by == "loss" else value


def out_of_patience(evaluations: list[dict[str, Any]], config: Train) -> bool:
    """Whether `train.patience` evaluations have passed since the best one."""
    scores = [score_of(figures, config.best_by) for figures in evaluations]
    return bool(config.patience and scores) and len(scores) - 1 - int(np.argmax(scores)) >= config.patience
