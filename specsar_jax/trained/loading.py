"""Loads a trained network from the workdir of a run, an exported bundle, or a model hub."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from specsar_jax.batches.preprocess import Statistics
from specsar_jax.config import Config
from specsar_jax.network import model
from specsar_jax.trained import hub
from specsar_jax.trained.bundle import read_bundle
from specsar_jax.trained.run_files import open_checkpoints, read_calibration, read_config
from specsar_jax.trained.trained_network import Trained, chosen_weights


def load_trained(path: Path, which: str = "best") -> Trained:
    """Loads a trained network from a workdir or an exported bundle.

    Args:
        path: workdir of a run; or an exported bundle, a folder with one, or its address on a hub, 'hub:owner/name'.
        which: checkpoint of a workdir: 'best' on the validation split, or 'latest'.

    Raises:
        ValueError: none of these, a workdir without a checkpoint, or a bundle that is truncated, altered or not a bundle.
    """
    if (bundle := find_bundle(path)) is not None:
        return read_bundle(bundle)
    config = read_config(path)
    statistics = Statistics.read(path / "statistics.json")
    with open_checkpoints(path, clean_up=False) as manager:
        step = manager.best_step() if which == "best" else manager.latest_step()
        if step is None:
            raise ValueError(f"{path} has no checkpoint yet; let specsar_jax.train run until its first evaluation")
        weights = chosen_weights(config)
        abstract = model.abstract_params(config.model)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            {weights: abstract["params"], "batch_stats": abstract["batch_stats"]},
        )
        restored = manager.restore(
            step,
            args=ocp.args.PyTreeRestore(
                item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
            ),
        )
    for (place, leaf), wanted in zip(jax.tree.leaves_with_path(restored), jax.tree.leaves(target), strict=True):
        if not isinstance(leaf, jax.Array) or leaf.shape != wanted.shape:
            found = leaf.shape if isinstance(leaf, jax.Array) else "nothing"
            name = ".".join(key.key for key in place)
            raise ValueError(
                f"checkpoint {step} of {path}: tensor {name} should have shape {wanted.shape}, found {found}; "
                "was it written by another version of specsar_jax?"
            )
    variables = {"params": restored[weights], "batch_stats": restored["batch_stats"]}
    calibration = read_calibration(path, step)
    return Trained(config, statistics, variables, step, 1.0 if calibration is None else calibration["temperature"])


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
