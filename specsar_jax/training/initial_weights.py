"""The weights a run starts from: random, a public SegFormer's, or those of a network that this project has trained.

Fine-tuning takes over all that fits. Weights go by name and shape; channels of the first convolutions by the name of their band; a
classifier of another number of classes stays random.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from specsar_jax.config import Config
from specsar_jax.devices.sharding import say
from specsar_jax.network import model
from specsar_jax.network.model import Variables
from specsar_jax.network.segformer import Carried, load_segformer
from specsar_jax.trained import hub
from specsar_jax.trained.loading import load_trained
from specsar_jax.trained.run_files import any_saved
from specsar_jax.trained.trained_network import named_weights
from tfds_dwplus import bands
from tfds_dwplus.command_line import local_path
from tfds_dwplus.imagery.decoder.backscatter import other_quantity, quantity_named


def initial_weights(config: Config, workdir: Path, s1_unit: str = "") -> tuple[Variables | None, Carried | None]:
    """Reads the weights that `train.pretrained` or `train.finetune` names, and says what was taken over.

    Args:
        config: of the run to be.
        workdir: of the run to be.
        s1_unit: of its data set, 'sigma0 dB' or 'gamma0 dB'; a network trained on the other one is told.

    Returns:
        variables, and an account of them; None and None if the run starts from random weights, or has a checkpoint already.

    Raises:
        ValueError: both are given, or the file is not one of these or does not fit the network.
    """
    if config.train.pretrained and config.train.finetune:
        raise ValueError("both train.pretrained and train.finetune are given; a run starts from one of them")
    if not (config.train.pretrained or config.train.finetune) or any_saved(workdir):
        return None, None
    drawn = model.init_params(config.model, jax.random.key(config.train.seed))
    if config.train.pretrained:
        given = load_segformer(local_path(config.train.pretrained), drawn, config.model, config.data.s2_bands)
    else:
        given = load_finetuned(hub.place_of(config.train.finetune), drawn, config, s1_unit)
    say(given[1].summary())
    return given


def load_finetuned(path: Path, drawn: Variables, config: Config, s1_unit: str = "") -> tuple[Variables, Carried]:
    """Reads the weights to fine-tune.

    Args:
        path: workdir of a run, or exported bundle.
        drawn: variables of the network to be trained; float32.
        config: of the run to be, with its bands.
        s1_unit: of its data set, "" if not known; said if the network was trained on another one.

    Returns:
        variables like `drawn`, and which tensors were used, which not, and which weights stay as drawn.

    Raises:
        ValueError: neither a workdir nor a bundle, or nothing of it fits the network.
    """
    trained = load_trained(path)
    both_read_s1 = "s1" in config.model.sensors and "s1" in trained.config.model.sensors
    if both_read_s1 and (other := other_quantity(quantity_named([s1_unit]), trained.statistics.s1.unit)):
        say(f"note: {path}: {other}")
    given = {name: np.asarray(leaf) for name, leaf in named_weights(trained.variables).items()}
    places, structure = jax.tree.flatten_with_path(drawn)
    leaves, used, kept = [], set(), []
    for place, leaf in places:
        name, values = ".".join(key.key for key in place), np.asarray(leaf)
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


def _embedded_branch(place: tuple[Any, ...]) -> str:
    """The branch whose first convolution's kernel this is; '' for any other weight."""
    names = [key.key for key in place]
    if names == ["params", "stem", "kernel"]:  # of dynamic_world
        return "spectral"
    if names[0] == "params" and names[1] == "stage1" and names[-1] == "kernel" and names[2].endswith("_embed"):
        return names[2].removesuffix("_embed")
    return ""


def _same_but_channels(one: np.ndarray, two: np.ndarray) -> bool:
    return one.ndim == two.ndim and one.shape[:2] == two.shape[:2] and one.shape[3:] == two.shape[3:]


def _channels(branch: str, config: Config) -> tuple[str, ...]:
    """What a branch reads, by name."""
    s2, s1 = config.data.s2_bands, bands.S1_BANDS[: config.model.s1_channels]
    return {"spectral": s2, "sar": s1}.get(branch, (*s2, *s1))
