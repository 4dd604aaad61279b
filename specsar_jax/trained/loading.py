"""Loads a trained network from the workdir of a run, an exported bundle, or a model hub.

A bundle is read without JAX and Orbax, which take a second to import: `workdirs` is imported for a workdir only.
"""

from pathlib import Path

from specsar_jax.config import Config
from specsar_jax.trained import hub
from specsar_jax.trained.bundle import read_bundle
from specsar_jax.trained.trained_network import Trained


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
    from specsar_jax.trained.workdirs import load_workdir

    return load_workdir(path, which)


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
    if (bundle := find_bundle(path)) is not None:
        return read_bundle(bundle).config
    from specsar_jax.trained.run_files import read_config

    return read_config(path)
