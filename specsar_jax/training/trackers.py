"""An optional tracker of experiments, Weights & Biases or MLflow, that is given the figures of the run log too.

It works in a thread of its own and can neither end nor hold up a run: what it raises is told in one line, and from then on the run goes
on without it. The run log has all that it was given.
"""

import importlib
import math
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any

from specsar_jax import config as configs
from specsar_jax.config import Config
from tfds_dwplus.files.addresses import shown_in
from tfds_dwplus.files.outputs import write_json
from tfds_dwplus.files.strangers import read_object

PROJECT = "specsar_jax"
"""Project of Weights & Biases, experiment of MLflow; WANDB_PROJECT and MLFLOW_EXPERIMENT_NAME name another one."""

WAIT_S = 20.0
"""Longest wait, when a run ends, for a tracker to send what is left."""


def check_tracker(name: str) -> None:
    """Raises a ValueError unless the package of the tracker, 'wandb' or 'mlflow', can be imported; 'none' needs none."""
    if name == "none":
        return
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"train.tracker={name} needs the package {name} ({error}): pip install 'specsar_jax[{name}]', "
            "or leave it out: --config.train.tracker=none"
        ) from None


class Tracker:
    """Gives figures to a tracker, in a thread. A run that goes on is the same run there: `WORKDIR/tracker.json` keeps its id."""

    def __init__(self, config: Config, workdir: Path) -> None:
        self._name = config.train.tracker
        self._queue: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()
        self._failed = False
        self._thread = threading.Thread(target=self._work, args=(config, workdir), name=self._name, daemon=True)
        self._thread.start()

    def write(self, step: int, kind: str, figures: dict[str, Any]) -> None:
        """Hands over the numbers among the figures of a step, as 'train/loss'; those that are not finite are left out."""
        numbers = {
            f"{kind}/{name}": float(value)
            for name, value in figures.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        }
        if numbers and not self._failed:
            self._queue.put((step, numbers))

    def close(self) -> None:
        """Ends the thread once all is sent, or after some seconds."""
        self._queue.put(None)
        self._thread.join(WAIT_S)
        if self._thread.is_alive():
            self._tell(f"has not taken all figures within {WAIT_S:.0f} s")

    def _work(self, config: Config, workdir: Path) -> None:
        step = None
        try:
            module = importlib.import_module(self._name)
            log, end = {"wandb": _wandb, "mlflow": _mlflow}[self._name](module, config, workdir)
            while (event := self._queue.get()) is not None:
                step, numbers = event
                log(step, numbers)
            end()
        except BaseException as error:  # of the package, of the network, of a login that is missing
            self._failed = True
            where = "at its start" if step is None else f"at step {step}"
            self._tell(f"failed {where} ({type(error).__name__}: {shown_in(' '.join(str(error).split()))[:200]})")

    def _tell(self, what: str) -> None:
        print(
            f"note: {self._name} {what}; the run goes on without it, and metrics.jsonl has all figures", file=sys.stderr
        )


def _wandb(wandb: Any, config: Config, workdir: Path) -> tuple[Any, Any]:
    before = _kept(workdir, "wandb")
    run = wandb.init(
        project=_unless_set("WANDB_PROJECT"),
        name=workdir.resolve().name,
        dir=str(workdir),
        config=configs.to_dict(config),
        id=before,
        resume="allow" if before else None,
    )
    _keep(workdir, "wandb", run.id)
    return (lambda step, numbers: run.log(numbers, step=step)), run.finish


def _mlflow(mlflow: Any, config: Config, workdir: Path) -> tuple[Any, Any]:
    before = _kept(workdir, "mlflow")
    if experiment := _unless_set("MLFLOW_EXPERIMENT_NAME"):
        mlflow.set_experiment(experiment)
    run = mlflow.start_run(run_id=before, run_name=None if before else workdir.resolve().name)
    _keep(workdir, "mlflow", run.info.run_id)
    if before is None:  # MLflow refuses another value of a parameter
        tree = configs.to_dict(config)
        mlflow.log_params({f"{section}.{name}": of for section, fields in tree.items() for name, of in fields.items()})
    return (lambda step, numbers: mlflow.log_metrics(numbers, step=step)), mlflow.end_run


def _unless_set(variable: str) -> str | None:
    return None if os.environ.get(variable) else PROJECT


def _kept(workdir: Path, name: str) -> str | None:
    """The id of this run at the tracker, from an earlier start."""
    path = workdir / "tracker.json"
    try:
        known = read_object(path).get(name)
    except (OSError, ValueError):
        return None
    return known if isinstance(known, str) else None


def _keep(workdir: Path, name: str, run_id: str) -> None:
    write_json(workdir / "tracker.json", {name: run_id})
