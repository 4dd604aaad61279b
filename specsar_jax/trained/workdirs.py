"""Loads a trained network from the workdir of a run: its best or its latest checkpoint, or the next one if that is damaged."""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from specsar_jax.batches.statistics import Statistics
from specsar_jax.config import Config
from specsar_jax.devices.sharding import is_first
from specsar_jax.trained.run_files import (
    checkpoint_folder,
    none_whole,
    read_calibration,
    read_config,
    read_part,
    saved_scores,
    why,
)
from specsar_jax.trained.trained_network import Trained, chosen_weights
from specsar_jax.trained.weights import shapes, unnamed


def load_workdir(path: Path, which: str) -> Trained:
    """As `loading.load_trained`, of a workdir."""
    config = read_config(path)
    statistics = Statistics.read(path / "statistics.json")
    if config.model.classes != len(statistics.classes):
        raise ValueError(
            f"{path}: the network of config.json has {config.model.classes} classes, statistics.json {len(statistics.classes)}; they are not "
            "of one run, take its own files"
        )
    step, variables = _restored(path, which, config)
    calibration = read_calibration(path, step)
    return Trained(config, statistics, variables, step, 1.0 if calibration is None else calibration["temperature"])


def _restored(path: Path, which: str, config: Config) -> tuple[int, dict[str, Any]]:
    """Returns the chosen checkpoint of a workdir, step and variables; the next best, or the one before, of one that is damaged."""
    scores = saved_scores(path)
    if not scores:
        raise ValueError(f"{path} has no checkpoint yet; let specsar_jax.train run until its first evaluation")
    damaged = {step: "its score cannot be read" for step, score in scores.items() if score is None}
    whole = [step for step in scores if step not in damaged]
    for step in sorted(whole, key=lambda step: (scores[step] if which == "best" else 0.0, step), reverse=True):
        try:
            variables = _variables(path, step, config)
        except Exception as error:  # of the system, of TensorStore, of Orbax, each in its own words
            if isinstance(error, _OtherNetworkError):
                raise
            damaged[step] = why(error)
            continue
        if which == "latest":
            damaged = {late: reason for late, reason in damaged.items() if late > step}
        for late, reason in damaged.items():
            if is_first():
                print(
                    f"note: checkpoint {late} of {path} is damaged ({reason}); used that of step {step}",
                    file=sys.stderr,
                )
        return step, variables
    raise ValueError(none_whole(path, damaged))


class _OtherNetworkError(ValueError):
    """A checkpoint that can be read, but holds other tensors than the network of the config."""


def _variables(path: Path, step: int, config: Config) -> dict[str, Any]:
    """Reads the variables to evaluate and export of a checkpoint of a workdir, onto one device."""
    weights = chosen_weights(config)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    leaves = {
        name: jax.ShapeDtypeStruct(shape, np.float32, sharding=device) for name, shape in shapes(config.model).items()
    }
    abstract = unnamed(leaves, config.model)
    target = {weights: abstract["params"], "batch_stats": abstract["batch_stats"]}
    restored = read_part(checkpoint_folder(path, step), target)
    for (place, leaf), wanted in zip(jax.tree.leaves_with_path(restored), jax.tree.leaves(target), strict=True):
        if not isinstance(leaf, jax.Array) or leaf.shape != wanted.shape:
            found = leaf.shape if isinstance(leaf, jax.Array) else "nothing"
            name = ".".join(key.key for key in place)
            raise _OtherNetworkError(
                f"checkpoint {step} of {path}: tensor {name} should have shape {wanted.shape}, found {found}; "
                "was it written by another version of specsar_jax?"
            )
    return {"params": restored[weights], "batch_stats": restored["batch_stats"]}
