"""Generalises a map: patches smaller than a minimum join their neighbours, by the rule of `joining`.

Enters: class ids as strips, which are read twice. Leaves: the same strips with the new classes.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float64, UInt8

from specsar_jax.patches.joining import Joining
from specsar_jax.patches.pieces import pieces_of
from tfds_dwplus import bands

Strips = Callable[[], Iterator[UInt8[np.ndarray, "rows columns"]]]
"""Gives the class ids of a map, 255 without a class, in strips of whole rows from the top."""


def generalised(
    strips: Strips,
    height: int,
    minimum: float,
    areas: Callable[[range], Float64[np.ndarray, "rows columns"]] | None = None,
) -> Iterator[UInt8[np.ndarray, "rows columns"]]:
    """Yields the strips of a map in which small patches have joined others.

    Args:
        strips: of the map.
        height: of the map, rows.
        minimum: area below which a patch is small; in pixels, or in the unit of `areas`.
        areas: of the pixels of some rows; None to count pixels.
    """
    row, joining = 0, None
    for ids in strips():
        below = row + len(ids)
        joining = joining or Joining(ids.shape[1], minimum)
        joining.add(ids, pieces_of(ids, areas and areas(range(row, below))), last=below == height)
        row = below
    place = 0
    for ids in strips():
        pieces = pieces_of(ids)
        classes = np.append(
            joining.classes[place : place + len(pieces)], np.uint8(bands.IGNORE)
        )  # the last one for NONE, -1
        yield classes[pieces.number]
        place += len(pieces)
