"""The files of an evaluation of a network: their names, and whether what is read belongs together.

Enters: figures, and the sums of the tiles that they were computed from. Leaves: two files in the workdir, or beside the bundle:

| scored on | figures | sums of tiles |
|---|---|---|
| the run's own data set, with its best checkpoint | `evaluation_test.json` | `tiles_test.npz` |
| another data set, or another checkpoint | `evaluation_test-other-best.json` | `tiles_test-other-best.npz` |

The figures name the data set, the split and the step, and digests of the data, the weights and the sums. Evaluations made before name
no digests.
"""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from specsar_jax.accuracy.figures import check_types, classes_of
from specsar_jax.accuracy.tally import Tally
from specsar_jax.batches.dataset import data_sha256, dataset_statistics
from specsar_jax.batches.preprocess import Statistics
from specsar_jax.config import Config
from specsar_jax.trained.run_files import saved_scores, split_file
from tfds_dwplus.files.outputs import remove_partials, write_together
from tfds_dwplus.files.strangers import one_line, read_object


class Files(NamedTuple):
    """The two files of an evaluation."""

    figures: Path
    tiles: Path


def files_of(network: Path, split: str, dataset: str = "", checkpoint: str = "") -> Files:
    """Returns the files of an evaluation, in a workdir or beside a bundle.

    Args:
        network: workdir or bundle.
        split: in TFDS's notation.
        dataset: NAME of the data set; '' for the run's own with the best checkpoint.
        checkpoint: 'best' or 'latest' of another data set or checkpoint; '' for a bundle.
    """
    names = []
    for what, ending in (("evaluation", "json"), ("tiles", "npz")):
        name = split_file(what, split, ending)
        if dataset:
            name = "-".join(part for part in (name.removesuffix(f".{ending}"), dataset, checkpoint) if part)
            name = f"{name}.{ending}"
        names.append(network / name if network.is_dir() else network.with_name(f"{network.stem}.{name}"))
    return Files(*names)


def is_own_dataset(config: Config, statistics: Statistics, builder: tfds.core.DatasetBuilder) -> bool:
    """Returns whether a network was trained on this data set: it has the name, and the statistics that the network was trained with.

    A data set of the same name in another folder is not the run's own, a copy of it is.
    """
    if name_of(builder.info.full_name) != config.data.name:
        return False
    try:
        found = dataset_statistics(builder)
        return dataclasses.replace(found, s2=found.s2.choose(statistics.s2.bands)) == statistics
    except ValueError:  # no train split, or other bands
        return False


def best_step(workdir: Path) -> int | None:
    """Returns the step of the best checkpoint of a workdir; None for a bundle, and where no checkpoint is kept."""
    scores = {step: score for step, score in saved_scores(workdir).items() if score is not None}
    return max(scores, key=lambda step: (scores[step], step), default=None)


def read_figures(path: Path) -> dict[str, Any]:
    """Reads the figures of an evaluation, of which any may be missing. Raises ValueError if one is of a wrong type."""
    try:
        tree = read_object(path, finite=False)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    try:
        check_types(tree)
    except ValueError as error:
        raise ValueError(f"{path} is no evaluation: {error}") from None
    return tree


def check_free(path: Path, split: str) -> None:
    """Raises a ValueError if a file to be written holds another split: 'test[-5:]' and 'test[:5%]' give the same name."""
    try:
        there = read_figures(path).get("split", split) if path.is_file() else split
    except ValueError:
        return  # damaged: to be replaced
    if there != split:
        raise ValueError(f"{path} is of split {there!r}, whose file has the same name; give --output, or remove it")


def other_than(
    figures: dict[str, Any],
    *,
    dataset: str,
    split: str,
    step: int | None = None,
    builder: tfds.core.DatasetBuilder | None = None,
) -> str:
    """Returns in what an evaluation differs from the one that is wanted, 'of data set other, not mine'; '' if in nothing.

    Args:
        figures: of the evaluation.
        dataset: NAME of the data set.
        split: of the data set.
        step: of the checkpoint; None if any will do.
        builder: of the data set; None if it is not there.
    """
    if (name := name_of(figures.get("dataset", ""))) != dataset:
        return f"of data set {one_line(name)}, not {dataset}"
    if builder is not None and figures.get("data_sha256", digest := data_sha256(builder)) != digest:
        return f"of other data than {builder.data_path} holds"
    if figures.get("split") != split:
        return f"of split {one_line(figures.get('split'))!r}, not {split!r}"
    if step is not None and figures.get("step") != step:
        return f"of step {figures.get('step')}, but the best checkpoint is of step {step}"
    return ""


def check_together(files: Files, figures: dict[str, Any], tally: Tally) -> None:
    """Raises a ValueError if figures and sums of tiles are not of one evaluation."""
    digest, pixels = figures.get("tiles_sha256"), int(tally.confusion.sum())
    if (named := len(classes_of(figures))) != tally.confusion.shape[1]:
        differ = f"{named} and {tally.confusion.shape[1]} classes"
    elif pixels != figures.get("labelled_pixels"):
        differ = f"{figures.get('labelled_pixels', 'no')} and {pixels} labelled pixels"
    elif digest is not None and digest != tally.sha256:
        differ = "the sums are not those that the figures were computed from"
    else:
        return
    raise ValueError(
        f"{files.figures.parent}: {files.figures.name} and {files.tiles.name} are not of one evaluation ({differ}); write both again "
        "with python -m specsar_jax.evaluate"
    )


def write(files: Files, figures: dict[str, Any], tally: Tally) -> None:
    """Writes figures and sums of tiles: both, or none if one cannot be written. `check_together` notices a kill between them."""
    for path in files:
        remove_partials(path.parent, path.name)
    write_together({files.figures: json.dumps(figures, indent=1) + "\n", files.tiles: tally.to_bytes()})


def again(network: Path, split: str, *more: str) -> str:
    """Returns the command that evaluates a network on a split."""
    return shlex.join(("python", "-m", "specsar_jax.evaluate", "--workdir", str(network), "--split", split, *more))


def name_of(full_name: str) -> str:
    """Returns the NAME of a data set: 'dynamic_world_plus/mine/1.0.0' -> 'mine'."""
    parts = str(full_name).split("/")
    return parts[1] if len(parts) > 1 else parts[0]
