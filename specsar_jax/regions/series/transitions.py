"""Defines how a series is filtered: the kind of filter, and for the hidden Markov model its transition matrix and its cover.

Enters: the options of the command. Leaves: a `Filter`.

A matrix as a table: the first column names the class before, the others the class in the next period.

    from,water,trees,bare
    water,0.98,0.01,0.01
    trees,0,0.95,0.05
    bare,0.01,0.01,0.98
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from specsar_jax.regions.series.periods import MONTHS
from tfds_dwplus.bands import Classes
from tfds_dwplus.files.strangers import one_line, read_csv

KINDS = ("hmm", "mode")

STAY = 0.98
"""Probability that the class of a pixel stays from one month to the next. All others are as probable, 0.0025 each of Dynamic World's. So
one month that says otherwise must do so by more than 150,000 to 1 to be believed and then taken back, which `filters.FLOOR` keeps it
from; a change that stays needs 400 to 1 in all: two or three months that are sure, on both sides of it. Land changes less often, but
a filter that held to that would see a felling of autumn only in the next year. Fitted to no data; over the year that
`tests/regions/series/drawn_year.py` draws, 0.95 tells of more changes that were none, and 0.99 misses more."""

SNOW = "snow_and_ice"
"""Name of Dynamic World's class that comes and goes over the land."""

SUM_TO = 1e-3
"""By how much a row of a table may miss 1, as numbers in it are rounded; it is then divided by its sum."""


@dataclasses.dataclass(frozen=True)
class Filter:
    """How the maps of a series become one of each year."""

    kind: str
    """'hmm', a hidden Markov model of the class probabilities, or 'mode', the most frequent class."""
    transitions: tuple[tuple[float, ...], ...] = ()
    """Of 'hmm': probability of a class in the next period (column) after a class (row)."""
    cover: str = ""
    """Of 'hmm': the class that comes and goes over the land and says nothing of it; '' for none."""

    @property
    def needs_probabilities(self) -> bool:
        """Returns whether it reads the class probabilities of each map, rather than its classes."""
        return self.kind == "hmm"

    @property
    def matrix(self) -> Float[np.ndarray, "class class"]:
        """Returns the transitions as an array."""
        return np.array(self.transitions)

    def tags(self) -> dict[str, str]:
        """Returns tags that tell it: of the transitions the probability to stay, of each class if they differ, and a digest."""
        if self.kind != "hmm":
            return {"filter": self.kind}
        stay = [f"{probability:.6g}" for probability in self.matrix.diagonal()]
        told = stay[0] if len(set(stay)) == 1 else " ".join(stay)
        digest = hashlib.sha256(json.dumps(self.transitions).encode()).hexdigest()
        cover = self.cover or "none"
        return {"filter": self.kind, "filter_stay": told, "filter_transitions_sha256": digest, "filter_cover": cover}


def hidden_markov(
    classes: Classes, every: str, stay: float | None = None, table: Path | None = None, cover: str | None = None
) -> Filter:
    """Returns the filter of a hidden Markov model.

    Args:
        classes: of the network.
        every: 'month', 'quarter' or 'year'.
        stay: probability that a class stays from one month to the next; `STAY` if None.
        table: CSV of the matrix from one period to the next, in place of `stay`; None for none.
        cover: class that comes and goes over the land, 'none' for none; if None, `SNOW` if there is such a class.

    Raises:
        ValueError: a probability is not between 0 and 1, there is no such class, or the table is not as above.
    """
    if stay is not None and not 0 < stay < 1:
        raise ValueError(f"--stay is {stay:g}, expected a probability between 0 and 1, such as {STAY}")
    if cover not in (None, "none", *classes.names):
        raise ValueError(
            f"--cover_class is {one_line(cover, 60)!r}, expected none, or one of {', '.join(classes.names)}"
        )
    if cover is None:
        cover = SNOW if SNOW in classes.names else "none"
    matrix = read_matrix(table, classes) if table else evenly(len(classes), STAY if stay is None else stay, every)
    rows = np.round(matrix, 12).tolist()  # as they stand in the settings of a folder
    return Filter("hmm", tuple(map(tuple, rows)), "" if cover == "none" else cover)


def evenly(classes: int, stay: float, every: str) -> Float[np.ndarray, "class class"]:
    """Returns the matrix of classes that stay by a probability from month to month, else become any other, over the months of a period."""
    others = (1 - stay) / (classes - 1)
    return np.linalg.matrix_power(
        np.full((classes, classes), others) + np.eye(classes) * (stay - others), MONTHS[every]
    )


def read_matrix(path: Path, classes: Classes) -> Float[np.ndarray, "class class"]:
    """Reads a matrix from a table, in any order of rows and columns.

    Raises:
        ValueError: a class is missing, unknown or named twice, a field is no number from 0 to 1, or a row does not add up to 1.
        OSError: it cannot be read.
    """
    header, rows = read_csv(path)
    first, *columns = header or [""]
    _check_names(path, "its columns", columns, classes)
    _check_names(path, "its rows", [row.get(first, "") for row in rows], classes)
    found = {row[first]: [_probability(path, row, first, name) for name in classes.names] for row in rows}
    for name, row in found.items():
        if abs(sum(row) - 1) > SUM_TO:
            raise ValueError(f"{path}: the row of {name} adds up to {sum(row):.6g}, expected 1")
    matrix = np.array([found[name] for name in classes.names])
    return matrix / matrix.sum(axis=1, keepdims=True)


def _check_names(path: Path, what: str, names: Sequence[str], classes: Classes) -> None:
    expected = f"expected each of {', '.join(classes.names)} once"
    for name in names:
        if name not in classes.names:
            raise ValueError(f"{path}: {what} name {one_line(name, 60)!r}, {expected}")
        if names.count(name) > 1:
            raise ValueError(f"{path}: {what} name {name} twice, {expected}")
    if lacking := [name for name in classes.names if name not in names]:
        raise ValueError(f"{path}: {what} lack {lacking[0]}, {expected}")


def _probability(path: Path, row: dict[str, str], first: str, column: str) -> float:
    text = row.get(column, "")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError(
            f"{path}: from {row[first]} to {column} is {one_line(text, 40)!r}, expected a probability from 0 to 1"
        )
    return value
