"""Which patches join which, strip by strip.

Patches are the pixels of one class that are connected by their sides, as the map has them. Of those that are smaller than a minimum, the
smallest one joins the neighbour with which it has the longest border, and so on; areas and borders of what has joined are added up.
Of equal areas the one whose first pixel comes first is the smallest, row by row; of equal borders the one that begins first is the longest.
What has no class is no neighbour: a patch that has no other stays.

This order is not that of the work. Where a patch goes depends on its own neighbours alone, and nothing about them changes until its turn, if
all of them are larger: they only grow. So all patches that are smaller than each of their neighbours join at once, round by round, as
soon as they are known whole; the outcome is that of one after the other. So it does not depend on the strips, and what is
decided is forgotten but for a byte: the class that a piece of a strip gets.

Enters: class ids of strips from the top. Leaves: a class for each piece of `pieces.pieces_of`. `tests/patches` has the rule above literally.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

from specsar_jax.patches.pieces import NONE, Pieces, continued, of_pixels
from tfds_dwplus import bands


@dataclasses.dataclass
class _Borders:
    """Borders between two things, one or several for a pair."""

    one: Int64[np.ndarray, " border"]
    other: Int64[np.ndarray, " border"]
    length: Int64[np.ndarray, " border"]
    """Sides of pixels."""
    begins: Int64[np.ndarray, " border"]
    """First side of a pixel, row by row: twice the number of the pixel left of it or above, and 1 if above."""

    def __getitem__(self, chosen: np.ndarray) -> "_Borders":
        return _Borders(self.one[chosen], self.other[chosen], self.length[chosen], self.begins[chosen])

    def and_also(self, more: "_Borders") -> "_Borders":
        names = [field.name for field in dataclasses.fields(self)]
        return _Borders(*(np.concatenate([getattr(self, name), getattr(more, name)]) for name in names))

    def between(self, to: np.ndarray) -> "_Borders":
        """Returns the borders of what these things have become, without those within one."""
        one, other = to[self.one], to[self.other]
        outside = one != other
        return _Borders(one[outside], other[outside], self.length[outside], self.begins[outside])

    def added_up(self) -> "_Borders":
        """Returns one border for each ordered pair, sorted by it."""
        if not len(self.one):
            return self
        key = self.one * (int(self.other.max()) + 1) + self.other
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[order], prepend=-1))
        chosen = order[starts]
        length = np.add.reduceat(self.length[order], starts)
        begins = np.minimum.reduceat(self.begins[order], starts)
        return _Borders(self.one[chosen], self.other[chosen], length, begins)


class Joining:
    """What is known of a map down to a row: of patches that go on below, and of small ones whose turn has not come."""

    def __init__(self, width: int, minimum: float) -> None:
        """Begins at the top of a map.

        Args:
            width: of the map, pixels.
            minimum: area below which a patch is small, in the unit of the areas of `Pieces`.
        """
        self._minimum = minimum
        self._rows, self._pieces = 0, 0
        self._table = np.empty(1 << 16, np.uint8)
        # What there is: patches, with those that have joined them.
        self._area = np.empty(0)
        self._first = np.empty(0, np.int64)
        self._class = np.empty(0, np.uint8)
        nothing = np.empty(0, np.int64)
        self._borders = _Borders(nothing, nothing, nothing, nothing)
        # Pieces whose class is not known yet, and what they belong to.
        self._waiting, self._belongs = nothing, nothing
        self._above = np.full(width, NONE, np.int32)
        self._above_ids = np.full(width, bands.IGNORE, np.uint8)

    @property
    def classes(self) -> UInt8[np.ndarray, " piece"]:
        """Returns the class that each piece gets, of all strips; known when the last one was added."""
        return self._table[: self._pieces]

    def add(self, ids: UInt8[np.ndarray, "rows columns"], pieces: Pieces, *, last: bool) -> None:
        """Adds the next strip below; `last` if the map ends with it."""
        known, width = len(self._area), ids.shape[1]
        to = continued(self._above, self._above_ids == ids[0], pieces, known)
        number = int(to.max(initial=-1)) + 1
        self._area = np.bincount(to, np.concatenate([self._area, pieces.area]), number)
        first = np.full(number, np.iinfo(np.int64).max)
        np.minimum.at(first, to, np.concatenate([self._first, pieces.first + self._rows * width]))
        self._first = first
        classes = np.empty(number, np.uint8)
        classes[to] = np.concatenate([self._class, pieces.class_id])
        self._class = classes
        self._keep(pieces.class_id)
        own = to[known:].astype(np.int64)
        numbers = np.vstack([of_pixels(to, self._above), of_pixels(to[known:], pieces.number)])
        small = np.flatnonzero(self._area[own] < self._minimum)
        self._waiting = np.concatenate([self._waiting, self._pieces - len(pieces) + small])
        self._belongs = np.concatenate([to[self._belongs], own[small]])
        self._borders = self._borders.between(to.astype(np.int64)).and_also(self._new_borders(numbers)).added_up()
        is_open = np.zeros(number, bool)
        if not last:
            is_open[numbers[-1][numbers[-1] != NONE]] = True
        self._above, self._above_ids = numbers[-1], ids[-1].copy()
        self._rows += len(ids)
        self._forget(self._join(is_open), is_open)

    def _keep(self, classes: UInt8[np.ndarray, " piece"]) -> None:
        """Adds pieces to the table."""
        end = self._pieces + len(classes)
        if end > len(self._table):
            self._table.resize(max(end, len(self._table) * 3 // 2), refcheck=False)
        self._table[self._pieces : end] = classes
        self._pieces = end

    def _new_borders(self, numbers: Int32[np.ndarray, "rows columns"]) -> _Borders:
        """Returns the borders of a strip that small things have; its first row is the one above, of which only the lower border is new."""
        small = np.append(self._area < self._minimum, False)  # the last one for NONE
        is_small, width = small[numbers], numbers.shape[1]
        origin = (self._rows - 1) * width
        found = []
        for one, other, here, there, skipped, below in (
            (numbers[1:, :-1], numbers[1:, 1:], is_small[1:, :-1], is_small[1:, 1:], width, 0),
            (numbers[:-1], numbers[1:], is_small[:-1], is_small[1:], 0, 1),
        ):
            rows, columns = np.nonzero((one != other) & (here | there) & (one != NONE) & (other != NONE))
            pair = one[rows, columns].astype(np.int64), other[rows, columns].astype(np.int64)
            begins = 2 * (origin + skipped + rows * width + columns) + below
            found.append(_Borders(np.minimum(*pair), np.maximum(*pair), np.ones_like(begins), begins))
        return found[0].and_also(found[1])

    def _join(self, is_open: Bool[np.ndarray, " thing"]) -> Int64[np.ndarray, " thing"]:
        """Joins all that can be joined; returns what each thing has become."""
        become = np.arange(len(self._area))
        borders = self._borders
        while True:
            small = self._area < self._minimum
            borders = borders[small[borders.one] | small[borders.other]]
            one, other = borders.one, borders.other
            turn = small & ~is_open
            turn[np.where(self._less(one, other), other, one)] = False
            mine, theirs = turn[one], turn[other]
            asked = borders[mine].and_also(
                _Borders(other[theirs], one[theirs], borders.length[theirs], borders.begins[theirs])
            )
            smallest, target = self._decided(asked.added_up(), is_open)
            if not len(smallest):
                self._borders = borders
                return become
            np.add.at(self._area, target, self._area[smallest])
            np.minimum.at(self._first, target, self._first[smallest])
            into = np.arange(len(become))
            into[smallest] = target
            become, borders = into[become], borders.between(into)

    def _less(
        self, one: Int64[np.ndarray, " border"], other: Int64[np.ndarray, " border"]
    ) -> Bool[np.ndarray, " border"]:
        area, other_area = self._area[one], self._area[other]
        return (area < other_area) | ((area == other_area) & (self._first[one] < self._first[other]))

    def _decided(
        self, borders: _Borders, is_open: Bool[np.ndarray, " thing"]
    ) -> tuple[Int64[np.ndarray, " decided"], Int64[np.ndarray, " decided"]]:
        """Returns things and what they join; of those whose turn it is, `one`, the ones for which nothing below can change it.

        Two neighbours of one class that both go on below may turn out to be one, whose border is the sum.
        """
        order = np.lexsort((borders.begins, -borders.length, borders.one))
        best = order[np.flatnonzero(np.diff(borders.one[order], prepend=-1))]
        smallest, target, longest = borders.one[best], borders.other[best], borders.length[best]
        unsure = np.flatnonzero(is_open[borders.other])
        if not len(unsure):
            return smallest, target
        key = borders.one[unsure] * 256 + self._class[borders.other[unsure]]
        pairs, inverse, times = np.unique(key, return_inverse=True, return_counts=True)
        together = np.bincount(inverse, borders.length[unsure], len(pairs))
        place = np.searchsorted(smallest, pairs >> 8)
        own = is_open[target[place]] & (self._class[target[place]] == (pairs & 255))
        wait = (times > 1) & ~own & (together >= longest[place])
        sure = np.ones(len(smallest), bool)
        sure[place[wait]] = False
        return smallest[sure], target[sure]

    def _forget(self, become: Int64[np.ndarray, " thing"], is_open: Bool[np.ndarray, " thing"]) -> None:
        """Notes the classes that are known now, and drops what no longer matters."""
        belongs = become[self._belongs]
        has_border = np.zeros(len(become), bool)
        has_border[self._borders.one] = has_border[self._borders.other] = True
        undecided = (self._area < self._minimum) & (is_open | has_border)
        wait = undecided[belongs]
        self._table[self._waiting[~wait]] = self._class[belongs[~wait]]
        kept = np.flatnonzero(is_open | has_border)
        place = np.full(len(become), NONE)
        place[kept] = np.arange(len(kept))
        self._waiting, self._belongs = self._waiting[wait], place[belongs[wait]]
        self._area, self._first, self._class = self._area[kept], self._first[kept], self._class[kept]
        borders = self._borders
        self._borders = _Borders(place[borders.one], place[borders.other], borders.length, borders.begins)
        self._above = of_pixels(place[become].astype(np.int32), self._above)
