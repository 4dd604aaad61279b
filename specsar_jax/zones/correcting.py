"""The areas of all zones together, corrected for the errors of the map by an evaluation, with 95 % intervals.

Enters: `evaluation_<split>.json`, and the mapped areas. Leaves: the estimates of `accuracy.intervals.area_estimates`, and lines on how
far they reach. An evaluation does not say where its labelled pixels lie, so that no zone is corrected by itself: that would take labelled
pixels of each mapped class in each zone.

Source: Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57, equations 8 to 11.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from specsar_jax.accuracy import intervals
from specsar_jax.accuracy.figures import check_types, classes_of
from specsar_jax.zones.map_parts import Mapped
from tfds_dwplus.files.strangers import one_line, read_object


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation tells of a map's errors."""

    path: Path
    confusion: Int64[np.ndarray, "label prediction"]
    """Labelled pixels."""
    labels: str = ""
    """Digest of the data set and split that these are of; '' if the evaluation does not tell."""


def read_evaluation(path: Path, mapped: Mapped, option: str = "--evaluation") -> tuple[Evaluation, list[str]]:
    """Reads an evaluation of a map's network; returns it, and lines that the user should read. Messages name the `option`.

    Raises:
        ValueError: it is none, is without a confusion matrix or a labelled pixel, or of other classes than the map.
    """
    try:
        tree = read_object(path, finite=False)
        check_types(tree)
        classes = classes_of(tree)
        matrix = tree.get("confusion_matrix")
        if matrix is None:
            raise ValueError("it has no confusion_matrix")
        if len(matrix) != len(classes):
            raise ValueError(f"its confusion matrix is of {len(matrix)} classes, its names are {len(classes)}")
    except OSError as error:
        raise ValueError(f"{option} {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(
            f"{option} {path} is no evaluation of specsar_jax.evaluate: {one_line(error)}; expected an evaluation_<split>.json"
        ) from None
    if classes.names != mapped.classes.names:
        raise ValueError(
            f"{option} {path} is of the classes {one_line(', '.join(classes.names), 200)}, the map has "
            f"{one_line(', '.join(mapped.classes.names), 200)}; give an evaluation of the network that made the map"
        )
    confusion = np.array(matrix, np.int64)
    if not confusion.any():
        raise ValueError(f"{option} {path} has no labelled pixel, so that nothing can be corrected by it")
    digest = tree.get("weights_sha256", "")
    lines = []
    if digest and mapped.weights_sha256 and digest != mapped.weights_sha256:
        lines.append(
            f"{path} is of other weights than those that made {mapped.path} (weights_sha256); its errors may be others"
        )
    labels = f"{tree['data_sha256']} {tree.get('split', '')}" if tree.get("data_sha256") else ""
    return Evaluation(path, confusion, labels), lines


def corrected(
    hectares: Float64[np.ndarray, " class"], evaluation: Evaluation, mapped: Mapped, zones: int
) -> tuple[dict[str, Any], list[str]]:
    """Corrects areas by an evaluation.

    Args:
        hectares: of the classes as mapped, in all zones together.
        evaluation: of the map.
        mapped: the map.
        zones: number of zones.

    Returns:
        `area_estimates`, in which an area is None if neither map nor labels have the class; and lines on how far they reach.
    """
    classes = mapped.classes
    estimates = intervals.area_estimates(evaluation.confusion, hectares, 1.0, classes)
    labelled = evaluation.confusion.sum(axis=0)
    lines = [
        "the intervals take the labelled pixels for a random sample of the map; those of a tile resemble each other, so the intervals are "
        "too narrow (report and evaluation have some that resample tiles)"
    ]
    few = [
        f"{name} ({int(labelled[place])})"
        for place, name in enumerate(classes.names)
        if hectares[place] > 0 and labelled[place] < 2
    ]
    if few:
        lines.append(
            f"{100 * estimates['unsampled_share']:.3g} % of the mapped area is not in the estimates: fewer than two labelled pixels are mapped "
            f"as {one_line(', '.join(few), 200)}"
        )
    if zones > 1:
        lines.append(
            f"the {zones} zones are as mapped: the evaluation does not say in which of them its {int(labelled.sum()):,} labelled pixels lie, "
            "so that none has enough of its own for an estimate; the areas of all together are corrected"
        )
    return estimates, lines
