"""Starting from a network that this project has trained, for other bands, classes or sizes.

Enters: a workdir or an exported bundle, and freshly drawn weights. Leaves: those weights, with all that fits taken over,
and an account of it. Weights go by name and shape; channels of the first convolutions by the name of their band; a
classifier of another number of classes stays as drawn.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from specsar_jax.checkpoints import load_trained
from specsar_jax.config import Config
from specsar_jax.model import Variables
from specsar_jax.pretrained import Carried
from tfds_dwplus import bands


def load_finetuned(path: Path, drawn: Variables, config: Config) -> tuple[Variables, Carried]:
    """Weights to fine-tune.

    Args:
        path: workdir of a run, or exported bundle.
        drawn: variables of the network to be trained; float32.
        config: of the run to be, with its bands.

    Returns:
        variables like `drawn`, and which tensors were used, which not, and which weights stay as drawn.

    Raises:
        ValueError: neither a workdir nor a bundle, or nothing of it fits the network.
    """
    trained = load_trained(path)
    given = {_name(place): np.asarray(leaf) for place, leaf in jax.tree.leaves_with_path(trained.variables)}
    places, structure = jax.tree.flatten_with_path(drawn)
    leaves, used, kept = [], set(), []
    for place, leaf in places:
        name, values = _name(place), np.asarray(leaf)
        theirs = given.get(name)
        branch = _embedded_branch(place)
        if branch and theirs is not None and _same_but_channels(theirs, values):
            ours_held, theirs_held = _channels(branch, config), _channels(branch, trained.config)
            missing = [band for band in ours_held if band not in theirs_held]
            values = values.copy()
            for i, band in enumerate(ours_held):
                if band in theirs_held:
                    values[:, :, i] = theirs[:, :, theirs_held.index(band)]
            if len(missing) < len(ours_held):
                used.add(name)
            if missing:
                kept.append(f"{name}[{', '.join(missing)}]")
        elif theirs is not None and theirs.shape == values.shape:
            values = theirs
            used.add(name)
        else:
            kept.append(name)
        leaves.append(values)
    if not used:
        raise ValueError(f"nothing of {path} fits this network; is it of another preset?")
    return structure.unflatten(leaves), Carried(tuple(sorted(used)), tuple(sorted(given.keys() - used)), tuple(kept))


def _name(place: tuple[Any, ...]) -> str:
    return ".".join(key.key for key in place)


def _embedded_branch(place: tuple[Any, ...]) -> str:
    """The branch whose first convolution's kernel this is; '' for any other weight."""
    names = [key.key for key in place]
    if names[0] == "params" and names[1] == "stage1" and names[-1] == "kernel" and names[2].endswith("_embed"):
        return names[2].removesuffix("_embed")
    return ""


def _same_but_channels(one: np.ndarray, two: np.ndarray) -> bool:
    return one.ndim == two.ndim and one.shape[:2] == two.shape[:2] and one.shape[3:] == two.shape[3:]


def _channels(branch: str, config: Config) -> tuple[str, ...]:
    """What a branch reads, by name."""
    s2, s1 = config.data.s2_bands, bands.S1_BANDS[: config.model.s1_channels]
    return {"spectral": s2, "sar": s1}.get(branch, (*s2, *s1))
