"""Where two maps have the same class.

Enters: two maps of any grids and legends. Leaves: pictures of tiles, areas and the most frequent differences. Classes are compared by
name: those of a legend by the name of our class that they stand for. Where one of the maps has no class, or one that stands for none of
ours, nothing is compared.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import UInt8

from specsar_jax.viewer.class_map import ClassMap, Sampled
from specsar_jax.viewer.mercator import TILE_PX, Bounds, tile_bounds
from specsar_jax.viewer.shares import percentages
from tfds_dwplus import bands
from tfds_dwplus.files.strangers import one_line

AGREE, DIFFER = "#9fb6c6", "#c2410c"
"""Colours of the layer; far apart in lightness and hue, for readers who see fewer colours too."""

MOST_CHANGES = 6
"""Differences that are listed."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Two maps, and the names by which their classes are compared."""

    one: ClassMap
    other: ClassMap
    names: tuple[str, ...]
    tables: tuple[UInt8[np.ndarray, " 256"], UInt8[np.ndarray, " 256"]]
    """Place among the names of each class id, by map; 255 for none."""

    @property
    def lacking(self) -> list[str]:
        """Says which classes one of the maps has, and the other has not, so that they always differ."""
        lines = []
        for has, lacks, places in ((self.one, self.other, self.tables), (self.other, self.one, self.tables[::-1])):
            alone = sorted({*places[0][: len(has.classes)].tolist()} - {*places[1].tolist(), bands.IGNORE})
            if alone:
                named = one_line(", ".join(self.names[place].replace("_", " ") for place in alone), 200)
                lines.append(f"{lacks.name} has no class {named}.")
        return lines

    def tile(self, place: tuple[int, int, int]) -> UInt8[np.ndarray, "height width 4"]:
        """Returns a picture of a tile, transparent where nothing is compared."""
        one, other = self._read(tile_bounds(*place), (TILE_PX, TILE_PX))
        picture = np.zeros((TILE_PX, TILE_PX, 4), np.uint8)
        both = (one != bands.IGNORE) & (other != bands.IGNORE)
        picture[both & (one == other)] = (*bytes.fromhex(AGREE[1:]), 255)
        picture[both & (one != other)] = (*bytes.fromhex(DIFFER[1:]), 255)
        return picture

    def areas(self, view: Bounds, sampled: Sampled | None) -> dict[str, Any]:
        """Measures a view.

        Args:
            view: west, south, east, north in degrees.
            sampled: samples of the first map in it.

        Returns:
            `agree` and `differ`, areas; `shares` of both in percent; and `changes`, the largest differences.
        """
        if sampled is None:
            return {"agree": 0.0, "differ": 0.0, "shares": [0.0, 0.0], "changes": []}
        one = self.tables[0][sampled.class_id]
        other = self.tables[1][self.other.read(sampled.bounds, sampled.class_id.shape)[0]]
        number = len(self.names)
        compared = (one != bands.IGNORE) & (other != bands.IGNORE)
        pairs = np.where(compared, one.astype(np.int64) * number + other, number**2)
        weights = np.broadcast_to(sampled.areas[:, None], pairs.shape)
        matrix = np.bincount(pairs.ravel(), weights.ravel(), minlength=number**2 + 1)[:-1].reshape(number, number)
        agree, differ = float(np.trace(matrix)), float(matrix.sum() - np.trace(matrix))
        apart = matrix - np.diag(np.diag(matrix))
        order = np.argsort(-apart, axis=None, kind="stable")[:MOST_CHANGES]
        changes = [(int(place) // number, int(place) % number) for place in order if apart.flat[place] > 0]
        return {
            "agree": agree,
            "differ": differ,
            "shares": percentages([agree, differ]),
            "changes": [
                {
                    "from": self._told(a),
                    "to": self._told(b),
                    "area": float(apart[a, b]),
                    "share": 100 * float(apart[a, b]) / (agree + differ),
                }
                for a, b in changes
            ],
        }

    def _read(self, bounds: Bounds, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        one, other = (
            table[shown.read(bounds, size)[0]] for table, shown in zip(self.tables, (self.one, self.other), strict=True)
        )
        return one, other

    def _told(self, place: int) -> str:
        return self.names[place].replace("_", " ")


def compared(one: ClassMap, other: ClassMap) -> Agreement:
    """Compares two maps.

    Raises:
        ValueError: they lie apart, one has a place and the other has none, or no class of one is a class of the other.
    """
    if one.placed != other.placed or (not one.placed and one.grid.shape != other.grid.shape):
        without = one if not one.placed else other
        raise ValueError(
            f"{without.name} has no place on earth, so that it cannot be laid over the other map; give maps that both have a CRS, or both "
            "none and the same size"
        )
    if not one.grid.overlaps(other.grid):
        raise ValueError(f"--compare {other.source} lies elsewhere than {one.source}; give two maps of one place")
    merged = dict((second, first) for first, second in (*one.coding.merged, *other.coding.merged))
    spoken = [
        [merged.get(name, name).casefold() if name else "" for name in shown.coding.stands_for]
        for shown in (one, other)
    ]
    if not {*spoken[0]} & {*spoken[1]} - {""}:
        raise ValueError(
            f"--compare {other.source} has the classes {one_line(', '.join(other.classes.names), 120)}, none of which {one.source} has, "
            f"{one_line(', '.join(one.classes.names), 120)}; give --compare_legend codes.csv, a table value,name with those names"
        )
    names = tuple(dict.fromkeys(name for of_one in spoken for name in of_one if name))
    tables = []
    for of_one in spoken:
        table = np.full(256, bands.IGNORE, np.uint8)
        table[: len(of_one)] = [names.index(name) if name else bands.IGNORE for name in of_one]
        tables.append(table)
    return Agreement(one, other, names, (tables[0], tables[1]))
