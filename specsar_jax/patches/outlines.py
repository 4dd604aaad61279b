"""Outlines of the patches of a map, strip by strip, as closed rings along the sides of pixels.

A ring has the patch on its left, as seen with rows going down: an outer ring goes down from its first corner, upper left, the ring of a
hole goes right from there. Corners are where the outline turns, and where two other patches meet on a straight part of it, so that neighbours
share all corners between them: projected, they still have no gap. Where a patch touches itself at a corner, rings end there, so that
none touches itself; these are polygons as OGC has them.

Enters: class ids of strips from the top. Leaves: rings, each from the strip in which it closes. They do not depend on the strips.

    a side of pixels   goes east, north, west or south, whichever has the patch on its left
    a chain            sides that follow each other, from one that comes up from below the strip to one that goes down there
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int16, Int32, Int64, UInt8

from tfds_dwplus import bands

_EAST, _NORTH, _WEST, _SOUTH = range(4)
"""Each turned to the left of the one before."""

_NOTHING = -1
"""In place of a class."""


@dataclasses.dataclass(frozen=True)
class Rings:
    """Closed rings, one after the other; the last corner of each is joined to its first."""

    corners: Int32[np.ndarray, "corner 2"]
    """Row and column: 0, 0 is the upper left corner of the map's first pixel. Each ring begins with its first one, row by row."""
    starts: Int64[np.ndarray, " ring"]
    """Place of the first corner of each ring."""
    inside: Int64[np.ndarray, " ring"]
    """A pixel of its patch, counted row by row from the row above the strip."""


class Outlining:
    """What is known of a map down to a row: the chains that go on below it."""

    def __init__(self, width: int) -> None:
        """Begins at the top of a map of some columns."""
        self._above = np.full(width, _NOTHING, np.int16)
        self._row = 0
        self._heads: dict[int, _Chain] = {}
        self._tails: dict[int, _Chain] = {}

    def add(self, ids: UInt8[np.ndarray, "rows columns"], *, last: bool) -> Rings:
        """Adds the next strip below, `last` if the map ends with it; returns the rings that are closed now."""
        rows, columns = ids.shape
        classes = np.full((rows + 1 + last, columns + 2), _NOTHING, np.int16)
        classes[0, 1:-1] = self._above
        classes[1 : rows + 1, 1:-1] = np.where(ids == bands.IGNORE, _NOTHING, ids.astype(np.int16))
        sides = _sides(classes, rows)
        sides.start[:, 0] += self._row
        rings = self._follow(sides)
        self._above, self._row = classes[rows, 1:-1].copy(), self._row + rows
        return _canonical(*_untouched(*rings, columns + 1), columns + 1)

    def _follow(self, sides: "_Sides") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Follows all sides of a strip, and joins what comes of it to the chains that were there. Returns corners, starts and `inside`."""
        order, ends, paths = _followed(sides.next.tolist(), np.flatnonzero(sides.comes).tolist())
        heads, tails, self._heads, self._tails = self._heads, self._tails, {}, {}
        rings, inside, begin = [], [], 0
        for end in ends[:paths]:
            one, final = order[begin], order[end - 1]
            column, to_column = int(sides.column[one]), int(sides.column[final])
            if sides.way[one] == _SOUTH:
                chain = tails.pop(column)
            else:
                chain = self._heads[column] = _Chain()
            if end - begin > 1:
                chain.parts.append(sides.start[order[begin + 1 : end]])
            begin = end
            if sides.way[final] == _SOUTH:
                self._tails[to_column] = chain
                chain.tail = self._tails, to_column
            elif (other := heads.pop(to_column)) is chain:
                rings.append(np.concatenate(chain.parts))
                inside.append(int(sides.inside[final]))
            else:
                chain.parts += other.parts
                chain.tail = other.tail
                chain.tail[0][chain.tail[1]] = chain
        cycles = np.array(ends[paths:], np.int64)
        first = np.append(begin, cycles[:-1])[: len(cycles)]
        lengths = np.append(np.array([len(ring) for ring in rings], np.int64), cycles - first)
        corners = np.concatenate([*rings, sides.start[order[begin:]]])
        return corners, np.cumsum(lengths) - lengths, np.append(np.array(inside, np.int64), sides.inside[order[first]])


@dataclasses.dataclass
class _Chain:
    """Sides that follow each other through strips, from one that comes up from below to one that goes down."""

    parts: list[Int32[np.ndarray, "corner 2"]] = dataclasses.field(default_factory=list)
    """Their corners."""
    tail: tuple[dict[int, "_Chain"], int] | None = None
    """Where the chain stands among those that go down: the dictionary, and its column; None until it does."""


@dataclasses.dataclass(frozen=True)
class _Sides:
    """Straight parts of outlines, from corner to corner."""

    way: UInt8[np.ndarray, " side"]
    start: Int32[np.ndarray, "side 2"]
    """Row and column of its first corner; none if it comes from another strip."""
    column: Int32[np.ndarray, " side"]
    """Of a side that goes down or up."""
    comes: Bool[np.ndarray, " side"]
    """Whether it comes from another strip."""
    inside: Int64[np.ndarray, " side"]
    """A pixel on its left."""
    next: Int32[np.ndarray, " side"]
    """The side that follows; -1 if it goes on in another strip."""


def _sides(classes: Int16[np.ndarray, "rows columns"], rows: int) -> _Sides:
    """Finds the sides of a strip.

    Args:
        classes: of the row above the strip, and of its rows; a column of nothing on each side, and a row of it below if the map ends.
        rows: of the strip.
    """
    last = len(classes) > rows + 1
    columns = classes.shape[1] - 2
    # Lines between rows: line i lies under row i of `classes`. A part begins where what is above or below it changes.
    line, left, right = _parts(classes[:-1, 1:-1], classes[1:, 1:-1])
    above, below = classes[line, left + 1], classes[line + 1, left + 1]
    # Lines between columns: line i lies left of column i of the map.
    column, top, bottom = _parts(classes[:, :-1].T, classes[:, 1:].T)
    before, behind = classes[top, column], classes[top, column + 1]
    up, down = top - 1, bottom - 1  # the lines at both ends
    enters, leaves = top == 0, (bottom == rows + 1) & (not last)
    no = np.zeros(len(line), bool)
    kinds = (
        # way, is there, corners: from row and column, to row and column, pixel: row and column, comes, goes
        (_EAST, above, line, left, line, right, line, left, no, no),
        (_WEST, below, line, right, line, left, line + 1, left, no, no),
        (_SOUTH, behind, up, column, down, column, bottom - 1, column, enters, leaves),
        (_NORTH, before, down, column, up, column, top, column - 1, leaves, enters),
    )
    found = []
    for way, class_id, *values in kinds:
        there = class_id != _NOTHING
        found.append([np.full(there.sum(), way), class_id[there], *(of[there] for of in values)])
    way, class_id, row, col, to_row, to_col, in_row, in_col, comes, goes = map(np.concatenate, zip(*found, strict=True))
    begins = np.full((4, len(classes) - 1, columns + 1), -1, np.int32)
    here = np.flatnonzero(~comes)
    begins[way[here], row[here], col[here]] = here
    ends = np.flatnonzero(~goes)
    follows = np.full(len(way), -1, np.int32)
    turned = _turned(classes, way[ends], class_id[ends], to_row[ends], to_col[ends])
    follows[ends] = begins[turned, to_row[ends], to_col[ends]]
    start = np.stack([row, col], axis=1).astype(np.int32)
    return _Sides(way.astype(np.uint8), start, col.astype(np.int32), comes, in_row * columns + in_col, follows)


def _parts(
    one: Int16[np.ndarray, "line place"], other: Int16[np.ndarray, "line place"]
) -> tuple[Int64[np.ndarray, " part"], Int64[np.ndarray, " part"], Int64[np.ndarray, " part"]]:
    """Returns the straight parts of lines that have one class on one side and another one on the other: line, begin and end."""
    differ = one != other
    same = (one[:, 1:] == one[:, :-1]) & (other[:, 1:] == other[:, :-1])
    begins, ends = differ.copy(), differ.copy()
    begins[:, 1:] &= ~same
    ends[:, :-1] &= ~same
    line, begin = np.nonzero(begins)
    return line, begin, np.nonzero(ends)[1] + 1


def _turned(
    classes: Int16[np.ndarray, "rows columns"],
    way: np.ndarray,
    class_id: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
) -> Int64[np.ndarray, " side"]:
    """Returns the ways of the sides that follow sides which end at corners: around the same pixel if nothing is ahead of it.

    Pixels that meet at a corner alone are not connected there, whether or not they are elsewhere.
    """
    # Rows and columns, from the corner, of the pixel ahead on the left and of the one ahead on the right, by way.
    ahead_left = np.array([(0, 1), (0, 0), (1, 0), (1, 1)])
    ahead_right = np.array([(1, 1), (0, 1), (0, 0), (1, 0)])
    left, right = (classes[row + of[way, 0], column + of[way, 1]] == class_id for of in (ahead_left, ahead_right))
    return np.where(~left, way + 1, np.where(right, way - 1, way)) % 4


def _followed(follows: list[int], comes: list[int]) -> tuple[Int64[np.ndarray, " place"], list[int], int]:
    """Follows sides, first those that come from elsewhere, then round and round.

    Returns:
        The sides in the order in which they follow each other, the end of each path and cycle in it, and the number of paths.
    """
    order, ends = [], []
    seen = bytearray(len(follows))
    for side in comes:
        while side >= 0:
            seen[side] = 1
            order.append(side)
            side = follows[side]
        ends.append(len(order))
    side = seen.find(0)
    while side >= 0:
        first = side
        while not seen[side]:
            seen[side] = 1
            order.append(side)
            side = follows[side]
        ends.append(len(order))
        side = seen.find(0, first)
    return np.array(order, np.int64), ends, len(comes)


def _untouched(
    corners: Int32[np.ndarray, "corner 2"],
    starts: Int64[np.ndarray, " ring"],
    inside: Int64[np.ndarray, " ring"],
    width: int,
) -> tuple[Int32[np.ndarray, "corner 2"], Int64[np.ndarray, " cut_ring"], Int64[np.ndarray, " cut_ring"]]:
    """Cuts rings that come to a corner twice into rings that do not; `width` is the number of columns of corners."""
    ring = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(corners)))
    key = corners[:, 0].astype(np.int64) * width + corners[:, 1]
    order = np.lexsort((key, ring))
    again = (np.diff(key[order], prepend=-1) == 0) & (np.diff(ring[order], prepend=-1) == 0)
    if not again.any():
        return corners, starts, inside
    twice = np.sort(np.concatenate([order[again], order[np.flatnonzero(again) - 1]]))
    touching = np.unique(ring[twice])
    whole = np.ones(len(starts), bool)
    whole[touching] = False
    ends = np.append(starts[1:], len(corners))
    places, lengths, pixels = [np.flatnonzero(whole[ring])], (ends - starts)[whole].tolist(), inside[whole].tolist()
    cuts = np.split(twice, np.searchsorted(ring[twice], touching[1:]))
    for place, cut in zip(touching.tolist(), cuts, strict=True):
        for loop in _loops(int(starts[place]), int(ends[place]), cut.tolist(), key[cut].tolist()):
            places += [np.arange(begin, end) for begin, end in loop]
            lengths.append(sum(end - begin for begin, end in loop))
            pixels.append(int(inside[place]))
    return corners[np.concatenate(places)], np.cumsum(lengths) - lengths, np.array(pixels, np.int64)


def _loops(start: int, end: int, cuts: list[int], keys: list[int]) -> Iterator[list[tuple[int, int]]]:
    """Yields the loops of a ring from `start` to `end`, as ranges, that comes to the same corners at pairs of `cuts`: one in another, as brackets."""
    loops: list[list[tuple[int, int]]] = [[]]
    waiting: list[int] = []
    for cut, key in zip(cuts, keys, strict=True):
        loops[-1].append((start, cut))
        start = cut
        if waiting and waiting[-1] == key:
            waiting.pop()
            yield loops.pop()
        else:
            waiting.append(key)
            loops.append([])
    yield [*loops[0], (start, end)]


def _canonical(
    corners: Int32[np.ndarray, "corner 2"],
    starts: Int64[np.ndarray, " ring"],
    inside: Int64[np.ndarray, " ring"],
    width: int,
) -> Rings:
    """Turns rings so that each begins with its first corner, row by row."""
    if not len(starts):
        return Rings(corners, starts, inside)
    lengths = np.diff(starts, append=len(corners))
    key = corners[:, 0].astype(np.int64) * width + corners[:, 1]
    first = np.flatnonzero(key == np.repeat(np.minimum.reduceat(key, starts), lengths)) - starts
    place = np.arange(len(corners)) - np.repeat(starts, lengths)
    place = (place + np.repeat(first, lengths)) % np.repeat(lengths, lengths) + np.repeat(starts, lengths)
    return Rings(corners[place], starts, inside)
