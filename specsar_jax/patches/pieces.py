"""Pieces of a strip of rows: its pixels of one class that are connected by their sides. Pure functions.

Enters: class ids of some rows of a map, over its whole width. Leaves: the number of each pixel's piece, and how the pieces go on from the row above.

Runs of equal pixels along the rows are the nodes of a graph, so that the time depends on them more than on the pixels.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt8
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tfds_dwplus import bands

NONE = -1
"""Number of a pixel without a class."""


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The pieces of a strip, numbered by their first pixels from the upper left, row by row."""

    number: Int32[np.ndarray, "rows columns"]
    """Of each pixel's piece; `NONE` without a class."""
    class_id: UInt8[np.ndarray, " piece"]
    first: Int64[np.ndarray, " piece"]
    """First pixel, counted row by row from the strip's first one."""
    bottom: Int64[np.ndarray, " piece"]
    """Last row, from 0."""
    area: Float64[np.ndarray, " piece"]
    """Sum over the pixels: their number, if no areas are given."""

    def __len__(self) -> int:
        return len(self.class_id)


def pieces_of(
    ids: UInt8[np.ndarray, "rows columns"], areas: Float64[np.ndarray, "rows columns"] | None = None
) -> Pieces:
    """Finds the pieces of a strip; `areas` are those of its pixels."""
    columns = ids.shape[1]
    begins = np.ones(ids.shape, bool)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = np.flatnonzero(begins)
    run = (np.cumsum(begins, dtype=np.int32) - 1).reshape(ids.shape)
    of_run = ids.ravel()[starts]
    # Where two runs lie above each other, one of them begins: a link at each such column, and none twice.
    meet = (ids[1:] == ids[:-1]) & (begins[1:] | begins[:-1]) & (ids[1:] != bands.IGNORE)
    group = _connected(len(starts), run[:-1][meet], run[1:][meet])
    group[of_run == bands.IGNORE] = NONE
    known, first_run, numbered = np.unique(group, return_index=True, return_inverse=True)
    without = int(len(known) > 0 and known[0] == NONE)
    order = np.argsort(first_run[without:], kind="stable")
    place = np.full(len(known), NONE, np.int32)
    place[without:][order] = np.arange(len(order), dtype=np.int32)
    of_piece, first_run = place[numbered], first_run[without:][order]
    valid = of_piece != NONE
    lengths = np.diff(starts, append=ids.size).astype(np.float64)
    weights = lengths if areas is None else np.add.reduceat(areas.ravel(), starts)
    bottom = np.zeros(len(order), np.int64)
    np.maximum.at(bottom, of_piece[valid], starts[valid] // columns)
    return Pieces(
        of_piece[run],
        of_run[first_run],
        starts[first_run],
        bottom,
        np.bincount(of_piece[valid], weights[valid], len(order)).astype(
            np.float64
        ),  # of nothing they are whole numbers
    )


def continued(
    above: Int32[np.ndarray, " column"], same: Bool[np.ndarray, " column"], pieces: Pieces, number: int
) -> Int32[np.ndarray, " node"]:
    """Numbers what was there above a strip and its pieces anew, so that what is connected is one.

    Args:
        above: number of what lies in each column of the row above the strip, below `number`; `NONE` for nothing.
        same: whether the column has the same class in that row and in the first one of the strip.
        pieces: of the strip; piece `i` is node `number + i`.
        number: of the things above.

    Returns:
        The new number of each node, from 0 without gaps.
    """
    linked = same & (above != NONE)
    return _connected(number + len(pieces), above[linked], number + pieces.number[0][linked])


def of_pixels(numbers: Int32[np.ndarray, " piece"], pixels: Int32[np.ndarray, "*shape"]) -> Int32[np.ndarray, "*shape"]:
    """Returns the number of each pixel's piece, given by piece; `NONE` for `NONE`."""
    return np.append(numbers, np.int32(NONE))[pixels]  # the last one for NONE, -1


def _connected(number: int, one: np.ndarray, other: np.ndarray) -> Int32[np.ndarray, " node"]:
    links = coo_array((np.ones(len(one), bool), (one, other)), shape=(number, number))
    return connected_components(links, directed=False)[1].astype(np.int32)
