"""Loads a trained network from the workdir of a run, an exported bundle, or a model hub."""

import sys
from pathlib import Path

import jax

from specsar_jax.batches.preprocess import Statistics
from specsar_jax.config import Config
from specsar_jax.devices.sharding import is_first
from specsar_jax.network import model
from specsar_jax.network.model import Variables
from specsar_jax.trained import hub
from specsar_jax.trained.bundle import read_bundle
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


def load_trained(path: Path | str, which: str = "best") -> Trained:
    """Loads a trained network from a workdir or an exported bundle.

    Args:
        path: workdir of a run; or an exported bundle, a folder with one, or its address on a hub, 'hub:owner/name'.
        which: checkpoint of a workdir: 'best' on the validation split, or 'latest'. In place of one that is damaged, the next
            best or the one before is taken, which is said.

    Raises:
        ValueError: none of these, a workdir without a checkpoint, or a bundle that is truncated, altered or not a bundle.
    """
    path = hub.place_of(path)
    if (bundle := find_bundle(path)) is not None:
        return read_bundle(bundle)
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


def _restored(path: Path, which: str, config: Config) -> tuple[int, Variables]:
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


def _variables(path: Path, step: int, config: Config) -> Variables:
    """Reads the variables to evaluate and export of a checkpoint of a workdir, onto one device."""
    weights = chosen_weights(config)
    abstract = model.abstract_params(config.model)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        {weights: abstract["params"], "batch_stats": abstract["batch_stats"]},
    )
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


def find_bundle(path: Path) -> Path | None:
    """Returns the bundle that `path` is, holds, or names on a hub; None for any other folder. Raises ValueError if there is none."""
    if hub.is_address(path):
        return hub.pull(path)
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f"no workdir or bundle {path}")
        return path
    inside = path / hub.BUNDLE_NAME
    return inside if inside.is_file() else None


def config_of(path: Path) -> Config:
    """Reads the config of a workdir or bundle. Raises ValueError if `path` is neither."""
    bundle = find_bundle(path)
    return read_config(path) if bundle is None else read_bundle(bundle).config
