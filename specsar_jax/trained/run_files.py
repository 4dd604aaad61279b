"""Reads the files of a run: config, checkpoints and calibration.

A workdir holds `config.json`, `statistics.json`, `metrics.jsonl` (the run log), `checkpoints/` (Orbax: the two latest, and the best
on the validation split) and `calibration.json`, the temperature of the probabilities.
"""

import json
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from specsar_jax import config as configs
from specsar_jax.config import Config


def read_config(workdir: Path) -> Config:
    """Reads the config of a workdir. Raises ValueError if the folder is not a workdir."""
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"{workdir} is not a workdir of specsar_jax.train: it has no config.json")
    try:
        return configs.from_dict(json.loads(path.read_text()))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def open_checkpoints(workdir: Path, *, clean_up: bool) -> ocp.CheckpointManager:
    """Opens the checkpoints of a workdir: the two latest and the best.

    Args:
        workdir: folder of a run.
        clean_up: removes unfinished checkpoints of a killed run. Only for the run itself: a reader cannot tell them from a
            checkpoint that is being saved.
    """

    def score(saved: dict[str, float]) -> float:
        return saved["score"]

    return ocp.CheckpointManager(
        (workdir / "checkpoints").resolve(),
        options=ocp.CheckpointManagerOptions(
            best_fn=score,
            best_mode="max",
            cleanup_tmp_directories=clean_up,
            enable_async_checkpointing=True,
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(
                [
                    ocp.checkpoint_managers.LatestN(2),
                    ocp.checkpoint_managers.BestN(get_metric_fn=score, reverse=False, n=1),
                ]
            ),
        ),
    )


def any_saved(workdir: Path) -> bool:
    """Returns whether the workdir holds a complete checkpoint."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))


def read_calibration(workdir: Path, step: int) -> dict[str, Any] | None:
    """Reads the calibration of the weights of a step; None if the file is missing or is of another step. Raises ValueError if it
    is damaged.
    """
    path = workdir / "calibration.json"
    if not path.is_file():
        return None
    try:
        calibration = json.loads(path.read_text())
        if not float(calibration["temperature"]) > 0.0:
            raise ValueError("a temperature that is not positive")
        return calibration if calibration["step"] == step else None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} holds no temperature of probabilities ({type(error).__name__}: {error}); remove it, and "
            "specsar_jax.train, started again, fits it again"
        ) from None


def split_file(what: str, split: str, ending: str) -> str:
    """Returns the name of a file about a split, 'evaluation_test.json'; every character but letters and digits becomes '_'."""
    return f"{what}_{''.join(c if c.isalnum() else '_' for c in split)}.{ending}"
