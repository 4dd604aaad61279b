"""The patches of a map as polygons, strip by strip: one for each, however many strips it lies in.

Enters: class ids of strips from the top. Leaves: tables of polygons, a patch in that of the strip in which it ends, sorted by last row and
first pixel. Memory holds the outlines of patches that go on below, and no other pixels than the strip's.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import shapely
from jaxtyping import Float64, Int32, Int64, UInt8

from specsar_jax.patches.outlines import Outlining, Rings
from specsar_jax.patches.pieces import NONE, continued, of_pixels, pieces_of
from tfds_dwplus import bands


@dataclasses.dataclass(frozen=True)
class Polygons:
    """Some patches of a map."""

    class_id: UInt8[np.ndarray, " patch"]
    pixels: Int64[np.ndarray, " patch"]
    area: Float64[np.ndarray, " patch"]
    """Sum over its pixels, in the unit that was given."""
    geometries: np.ndarray
    """Polygons; [patch], objects."""


Place = Callable[[Float64[np.ndarray, " corner"], Float64[np.ndarray, " corner"]], Float64[np.ndarray, "corner 2"]]
"""Gives the coordinates x and y of corners by column and row, counted from the upper left corner of the map."""


def polygons_of(
    strips: Iterable[UInt8[np.ndarray, "rows columns"]],
    height: int,
    areas: Callable[[range], Float64[np.ndarray, "rows columns"]],
    place: Place,
) -> Iterator[Polygons]:
    """Yields the patches of a map.

    Args:
        strips: class ids, 255 without a class, in whole rows from the top.
        height: of the map, rows.
        areas: of the pixels of some rows.
        place: of the corners.
    """
    row, patches = 0, None
    for ids in strips:
        below = row + len(ids)
        patches = patches or _Patches(ids.shape[1], place)
        yield patches.add(ids, areas(range(row, below)), last=below == height)
        row = below


class _Patches:
    """What is known of a map down to a row: the patches that go on below it."""

    def __init__(self, width: int, place: Place) -> None:
        self._outlining, self._place = Outlining(width), place
        self._above = np.full(width, NONE, np.int32)
        self._above_ids = np.full(width, bands.IGNORE, np.uint8)
        self._row = 0
        self._class = np.empty(0, np.uint8)
        self._held: dict[int, list[_Held]] = {}
        self._pixels, self._area = np.empty(0), np.empty(0)
        self._first = np.empty(0, np.int64)

    def add(self, ids: UInt8[np.ndarray, "rows columns"], areas: np.ndarray, *, last: bool) -> Polygons:
        """Adds the next strip below, `last` if the map ends with it; returns the patches that have ended."""
        rows, width = ids.shape
        pieces = pieces_of(ids, areas)
        known = len(self._class)
        to = continued(self._above, self._above_ids == ids[0], pieces, known)
        number = int(to.max(initial=-1)) + 1
        above, here = of_pixels(to, self._above), of_pixels(to[known:], pieces.number)
        pixels = np.bincount(pieces.number[pieces.number != NONE], minlength=len(pieces))
        self._pixels = np.bincount(to, np.concatenate([self._pixels, pixels]), number)
        self._area = np.bincount(to, np.concatenate([self._area, pieces.area]), number)
        first, bottom = np.full(number, np.iinfo(np.int64).max), np.full(number, self._row - 1)
        np.minimum.at(first, to, np.concatenate([self._first, pieces.first + self._row * width]))
        np.maximum.at(bottom, to[known:], pieces.bottom + self._row)
        classes = np.empty(number, np.uint8)
        classes[to] = np.concatenate([self._class, pieces.class_id])
        goes_on = np.zeros(number, bool)
        if not last:
            goes_on[here[-1][here[-1] != NONE]] = True
        rings = self._outlining.add(ids, last=last)
        of_ring = np.vstack([above, here]).ravel()[rings.inside]
        ended = np.flatnonzero(~goes_on)
        ended = ended[np.lexsort((first[ended], bottom[ended]))]
        kept = np.flatnonzero(goes_on)
        place = np.full(number, NONE, np.int32)
        place[kept] = np.arange(len(kept))
        whole = self._sorted_rings(rings, of_ring, to[:known], ended, place)
        polygons = Polygons(
            classes[ended],
            self._pixels[ended].astype(np.int64),
            self._area[ended].astype(np.float64),
            _polygons(*whole, self._place),
        )
        self._class, self._first = classes[kept], first[kept]
        self._pixels, self._area = self._pixels[kept], self._area[kept]
        self._above, self._above_ids = of_pixels(place, here[-1]), ids[-1].copy()
        self._row += rows
        return polygons

    def _sorted_rings(
        self,
        rings: Rings,
        of_ring: Int32[np.ndarray, " ring"],
        to: Int32[np.ndarray, " before"],
        ended: Int64[np.ndarray, " ended"],
        place: Int32[np.ndarray, " patch"],
    ) -> tuple["_Held", Int64[np.ndarray, " ended"]]:
        """Keeps the rings of patches that go on; returns those of patches that have ended, sorted, the outer one of each first.

        Args:
            rings: of the strip.
            of_ring: the patch of each, as numbered in this strip.
            to: number in this strip of each patch that was there before.
            ended: patches in order.
            place: number in the next strip of each that goes on; `NONE` if it does not.

        Returns:
            The rings, and how many there are of each patch that has ended.
        """
        rank = np.full(len(place), NONE, np.int64)
        rank[ended] = np.arange(len(ended))
        parts, ranks = [_chosen(rings, np.flatnonzero(place[of_ring] == NONE))], [rank[of_ring[place[of_ring] == NONE]]]
        held: dict[int, list[_Held]] = {}
        for before, after in enumerate(to.tolist()):
            for part in self._held.get(before, ()):
                if place[after] == NONE:
                    parts.append(part)
                    ranks.append(np.full(len(part.lengths), rank[after]))
                else:
                    held.setdefault(int(place[after]), []).append(part)
        going = np.flatnonzero(place[of_ring] != NONE)
        going = going[np.argsort(of_ring[going], kind="stable")]
        for some in np.split(going, np.flatnonzero(np.diff(of_ring[going])) + 1):
            if len(some):
                held.setdefault(int(place[of_ring[some[0]]]), []).append(_chosen(rings, some))
        self._held = held
        return _in_order(parts, np.concatenate(ranks), len(ended))


@dataclasses.dataclass(frozen=True)
class _Held:
    """Rings of a patch that goes on."""

    corners: Int32[np.ndarray, "corner 2"]
    lengths: Int64[np.ndarray, " ring"]


def _chosen(rings: Rings, some: Int64[np.ndarray, " chosen"]) -> _Held:
    lengths = np.diff(rings.starts, append=len(rings.corners))[some]
    return _Held(rings.corners[_ranges(rings.starts[some], lengths)], lengths)


def _in_order(
    parts: list[_Held], patch: Int64[np.ndarray, " ring"], patches: int
) -> tuple[_Held, Int64[np.ndarray, " patch"]]:
    """Puts rings into the order of their patches, of a patch the outer one first and holes by their first corners; also counts them."""
    corners = np.concatenate([part.corners for part in parts])
    lengths = np.concatenate([part.lengths for part in parts])
    starts = np.cumsum(lengths) - lengths
    row, column = corners[starts].T
    is_hole = corners[starts + 1, 0] == row
    order = np.lexsort((column, row, is_hole, patch))
    return _Held(corners[_ranges(starts[order], lengths[order])], lengths[order]), np.bincount(patch, minlength=patches)


def _polygons(rings: _Held, number: Int64[np.ndarray, " patch"], place: Place) -> np.ndarray:
    """Makes polygons of rings in order, of which each has a number."""
    ends = np.cumsum(rings.lengths)
    closed = _ranges(ends - rings.lengths, rings.lengths + 1)
    ring_ends = np.cumsum(rings.lengths + 1)
    closed[ring_ends - 1] = ends - rings.lengths
    offsets = np.append(0, ring_ends), np.append(0, np.cumsum(number))
    xy = place(rings.corners[closed, 1].astype(np.float64), rings.corners[closed, 0].astype(np.float64))
    return shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy, offsets)


def _ranges(starts: Int64[np.ndarray, " range"], lengths: Int64[np.ndarray, " range"]) -> Int64[np.ndarray, " place"]:
    """Returns the numbers of ranges, one range after the other."""
    return np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
