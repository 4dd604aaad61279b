"""The run log: `metrics.jsonl`, TensorBoard and the progress line of a run, the time it spends on what, and `run.json`."""

import collections
import contextlib
import datetime
import json
import math
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from tensorboardX import SummaryWriter

from specsar_jax.devices.memory import peak_memory_gb
from specsar_jax.trained.run_files import log_event
from specsar_jax.training.trackers import Tracker
from specsar_jax.version import __version__
from tfds_dwplus.command_line import progress
from tfds_dwplus.files.addresses import shown_in
from tfds_dwplus.files.outputs import write_json, write_whole
from tfds_dwplus.files.strangers import a_list, read_object

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")
"""Their versions go into `run.json`."""


class RunLog:
    """Writes a line of `metrics.jsonl`, and a point of each figure for TensorBoard, for each event; in the first process only."""

    def __init__(
        self, workdir: Path, start: int, steps: int, *, mute: bool = False, tracker: Tracker | None = None
    ) -> None:
        """Opens the log of a run that starts from step `start`, of `steps` in all; `mute` writes nothing; a `tracker` is given the
        figures too.

        Lines of later steps are dropped: the run was killed before the next checkpoint, and does those steps again.
        """
        path = workdir / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= start]
        self.evaluations = [event for line in kept if (event := log_event(line)) and event["kind"] == "eval"]
        """Figures of the evaluations so far, oldest first."""
        self.spent = Stopwatch()
        """Where the time of the run goes."""
        self._mute, self._tracker, self._closed = mute, tracker, False
        self._bar = progress(
            total=steps, initial=start, desc="training", unit="step", smoothing=0.1, disable=mute or None
        )
        self._shown: dict[str, str] = {}
        self._pace = time.monotonic(), start, 0.0  # when, at which step and after how much waiting it was last taken
        if mute:
            return
        if lines != kept:
            write_whole(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a", buffering=1)  # a log, read while it grows: a line that is cut is dropped, above
        self._board = _Board(workdir / "tensorboard", start)

    def write(self, step: int, kind: str, figures: dict[str, Any]) -> None:
        """Writes the figures of a step; `kind` is 'train', 'eval', 'skipped' or 'time'."""
        # JSON has no NaN: of a step that was skipped the loss is null.
        plain = {name: None if isinstance(of, float) and not math.isfinite(of) else of for name, of in figures.items()}
        event = {"step": step, "kind": kind} | plain
        if kind == "eval":
            self.evaluations.append(event)
        if self._mute:
            return
        with _naming(self._file.name):
            self._file.write(json.dumps(event) + "\n")
        if self._tracker is not None:
            self._tracker.write(step, kind, figures)
        for name, value in figures.items():
            if isinstance(value, float):
                self._board.add("scalar", f"{kind}/{name}", value, step)

    def write_train(self, step: int, figures: dict[str, Any], batch_size: int, waited_s: float) -> None:
        """Writes the figures of a training step, with the pace since the last call or `restart_pace`.

        Args:
            step: the step.
            figures: `loss`, `gradient_norm`, `learning_rate` and others of it.
            batch_size: tiles a step.
            waited_s: seconds in which the devices have waited for data since the run began.
        """
        then, before, waited_then_s = self._pace
        seconds = time.monotonic() - then
        figures = figures | {
            "tiles_per_second": batch_size * (step - before) / seconds,
            "data_wait_share": min((waited_s - waited_then_s) / seconds, 1.0),
            "memory_gb": peak_memory_gb(),
        }
        self.write(step, "train", figures)
        self.show(
            loss=f"{figures['loss']:.3f}",
            tiles=f"{figures['tiles_per_second']:.1f}/s",
            data=f"{figures['data_wait_share']:.0%}",
            memory=f"{figures['memory_gb']:.1f} GB",
        )
        self.restart_pace(step, waited_s)

    def restart_pace(self, step: int, waited_s: float) -> None:
        """Measures the pace from here: what took the time since the last step, such as an evaluation, does not count."""
        self._pace = time.monotonic(), step, waited_s

    def show(self, **facts: str) -> None:
        """Puts facts at the end of the progress line, beside those shown before; an empty one goes."""
        self._shown = {name: value for name, value in (self._shown | facts).items() if value}
        self._bar.set_postfix_str(", ".join(f"{name} {value}".strip() for name, value in self._shown.items()))

    def show_picture(self, step: int, name: str, picture: UInt8[np.ndarray, "height width 3"]) -> None:
        """Puts a picture onto TensorBoard."""
        if not self._mute:
            self._board.add("image", f"eval/{name}", picture, step, dataformats="HWC")

    def say(self, text: str) -> None:
        """Prints a line above the progress line."""
        if not self._mute:
            self._bar.write(text)

    def advance(self) -> None:
        """Counts a step."""
        self._bar.update()

    def close(self) -> None:
        """Ends the progress line and the files; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._bar.close()
        if self._tracker is not None:
            self._tracker.close()
        if not self._mute:
            self._board.close()
            with _naming(self._file.name):
                self._file.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Adds the file to an error of writing, such as a full disk, for Python does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or name
        raise


class _Board:
    """TensorBoard's files, written by a thread of tensorboardX. If that ends, on a full disk, the run goes on without them."""

    def __init__(self, folder: Path, start: int) -> None:
        # A queue that is full makes the run wait, for ever if the thread ends meanwhile: one that never is.
        self._writer = SummaryWriter(str(folder), purge_step=start + 1 if start else None, max_queue=10_000)

    def add(self, kind: str, *content: Any, **settings: Any) -> None:
        """Adds a 'scalar' or an 'image'; nothing if the thread has ended."""
        if self._alive():
            getattr(self._writer, f"add_{kind}")(*content, **settings)

    def close(self) -> None:
        """Writes what is left, and ends the thread."""
        if self._alive():
            self._writer.close()
        else:
            self._events()._event_queue.cancel_join_thread()  # else Python waits, when it ends, until someone reads it

    def _alive(self) -> bool:
        return self._events()._worker.is_alive()

    def _events(self) -> Any:
        return self._writer.file_writer.event_writer


class Stopwatch:
    """Where the time of a run goes, in seconds."""

    def __init__(self) -> None:
        self._began, self._seconds = time.monotonic(), collections.Counter[str]()

    @contextlib.contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Adds the time inside to that of `what`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[what] += time.monotonic() - began

    def figures(self) -> dict[str, float]:
        """Since the beginning, and in each kind of work: 'total_s', 'compile_s', ..."""
        return {"total_s": time.monotonic() - self._began} | {f"{what}_s": s for what, s in self._seconds.items()}


def write_start(workdir: Path, step: int, changes: Sequence[dict[str, Any]] = ()) -> None:
    """Writes `run.json`: when, where and with what a run was started, and in 'earlier' the same of each time before.

    Args:
        workdir: of the run.
        step: from which it starts.
        changes: settings that differ from this step on, of `checkpoints.claimed`.
    """
    path = workdir / "run.json"
    earlier = []
    if path.exists():
        before = read_object(path, finite=False, unpaired=True)
        earlier = [*a_list(before.pop("earlier", []), f"earlier of {path}"), before]
    start = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "step": step,
        "changes": [{"step": step} | change for change in changes],
        "command": [Path(word).name if place == 0 else shown_in(word) for place, word in enumerate(sys.orig_argv)],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
        "versions": {"specsar_jax": __version__} | {name: version(name) for name in PACKAGES},
        "earlier": earlier,
    }
    write_json(path, start)


def _step_of(line: str) -> float:
    """The step of a line of `metrics.jsonl`; infinite for a line that was cut short."""
    event = log_event(line)
    return float(event["step"]) if event else float("inf")
