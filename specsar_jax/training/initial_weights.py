"""The weights a run starts from: random, a public SegFormer's, or those of a network that this project has trained.

Fine-tuning takes over all that fits. Weights go by name and shape, channels of the first convolutions by the name of their band, and
those of the classifier by the name of their class.
"""

from collections.abc import Iterable, Sequence
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


def initial_weights(
    config: Config, workdir: Path, classes: bands.Classes, s1_unit: str = ""
) -> tuple[Variables | None, Carried | None]:
    """Reads the weights that `train.pretrained` or `train.finetune` names, and says what was taken over.

    Args:
        config: of the run to be.
        workdir: of the run to be.
        classes: of its data set.
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
        given = load_finetuned(hub.place_of(config.train.finetune), drawn, config, classes, s1_unit)
    say(given[1].summary())
    return given


def load_finetuned(
    path: Path, drawn: Variables, config: Config, classes: bands.Classes, s1_unit: str = ""
) -> tuple[Variables, Carried]:
    """Reads the weights to fine-tune.

    Args:
        path: workdir of a run, or exported bundle.
        drawn: variables of the network to be trained; float32.
        config: of the run to be, with its bands.
        classes: of its data set; said which of them the network knows, if it has others.
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
    known = _known_classes(trained.classes, classes)
    new = [name for name in classes.names if name not in known]
    if trained.classes.names != classes.names:
        say(f"note: {_of_classes(known, new)}")
    given = {name: np.asarray(leaf) for name, leaf in named_weights(trained.variables).items()}
    given = _as_branch_of(config, trained.config, given)
    places, structure = jax.tree.flatten_with_path(drawn)
    leaves, used, kept = [], set(), []
    for place, leaf in places:
        name, values = ".".join(key.key for key in place), np.asarray(leaf)
        theirs = given.get(name)
        branch = _embedded_branch(place)
        if branch and theirs is not None and _same_but_channels(theirs, values):
            ours_held, theirs_held = (
                _channels(branch, config),
                _channels(_only_branch(trained.config) or branch, trained.config),
            )
            missing = [band for band in ours_held if band not in theirs_held]
            values = values.copy()
            for i, band in enumerate(ours_held):
                if band in theirs_held:
                    values[:, :, i] = theirs[:, :, theirs_held.index(band)]
            if len(missing) < len(ours_held):
                used.add(name)
            if missing:
                kept.append(f"{name}[{', '.join(missing)}]")
        elif theirs is not None and _of_classifier(place) and theirs.shape[:-1] == values.shape[:-1]:
            values = values.copy()
            for column, class_name in enumerate(classes.names):
                if class_name in known:
                    values[..., column] = theirs[..., known[class_name]]
            if known:
                used.add(name)
            if new:
                kept.append(f"{name}[{', '.join(new)}]" if known else name)
        elif theirs is not None and theirs.shape == values.shape:
            values = theirs
            used.add(name)
        else:
            kept.append(name)
        leaves.append(values)
    if not used:
        raise ValueError(f"nothing of {path} fits this network; is it of another preset?")
    return structure.unflatten(leaves), Carried(tuple(sorted(used)), tuple(sorted(given.keys() - used)), tuple(kept))


def _known_classes(theirs: bands.Classes, ours: bands.Classes) -> dict[str, int]:
    """Of each of our classes that a network knows, its id there, by our name; upper and lower case of names are alike."""
    places = {name.casefold(): place for place, name in enumerate(theirs.names)}
    return {name: places[name.casefold()] for name in ours.names if name.casefold() in places}


def _of_classes(known: Iterable[str], new: Sequence[str]) -> str:
    """Says in a line of which classes the classifier keeps its weights."""
    known, total = list(known), len(list(known)) + len(new)
    if not known:
        return f"none of the {total} classes is known to the network; the classifier starts anew"
    drawn = f"; new: {', '.join(new)}" if new else ""
    return f"{len(known)} of {total} classes are known: {', '.join(known)}{drawn}"


def _of_classifier(place: tuple[Any, ...]) -> bool:
    """Whether a weight is of the classifier: its last axis is that of the classes."""
    names = [key.key for key in place]
    return names in (
        ["params", "decoder", "classify_kernel"],
        ["params", "decoder", "classify_bias"],
        ["params", "classify", "kernel"],  # of dynamic_world
        ["params", "classify", "bias"],
        ["params", "sar", "kernel"],
        ["params", "sar", "bias"],
    )


def _only_branch(config: Config) -> str:
    """The name of the branch of a network that has one; '' for one of two."""
    names = config.model.branch_names
    return names[0] if len(names) == 1 else ""


def _as_branch_of(ours: Config, theirs: Config, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights of a network of one branch, by the names that another one of one branch has: what Sentinel-2 alone has taught goes on with
    both sensors in one branch.
    """
    before, now = _only_branch(theirs), _only_branch(ours)
    if not (before and now) or before == now or "stacked" not in (before, now):
        return given  # of two sensors, or of both: names are as they are
    return {
        ".".join(
            now + part.removeprefix(before) if part.startswith(f"{before}_") else part for part in name.split(".")
        ): leaf
        for name, leaf in given.items()
    }


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
