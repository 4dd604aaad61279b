"""Geometry of overlapping windows over a scene, and the weights that blend them. Pure.

Windows lie on a lattice that belongs to the ground, not to the scene: it begins at the origin of the CRS. So the class of a
pixel does not depend on where the scene was cut out, but near the cut. Along one axis, a scene of 1100 pixels that begins 1000
pixels from the origin, windows of 512, a quarter shared:

    lattice   a window every 384 pixels: ..., 768, 1152, 1536, ... from the origin; those that lie within begin at 152 and 536
    windows   [0, 512)  [152, 664)  [536, 1048)  [588, 1100)          the first and the last one lie at the edges

Steps of the lattice are multiples of 32, the network's coarsest stride, so that all its windows see a pixel in the same phase.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float32, Shaped

STRIDE_PX = 32
"""Stride of the network's fourth stage."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """Windows along one axis of a scene."""

    size: int
    """Pixels of the scene."""
    window: int
    """Pixels of each window, a multiple of 32; where the scene is smaller, the part past its edge is mirrored."""
    overlap: int
    """Pixels over which a window fades at both ends: what neighbours on the lattice have in common."""
    starts: tuple[int, ...]

    @property
    def padded(self) -> int:
        """Pixels of the scene with what is mirrored past its edge."""
        return self.starts[-1] + self.window

    @property
    def counts(self) -> tuple[int, ...]:
        """Of each window, the pixels of the scene from its start on that no later window touches."""
        return tuple(after - start for start, after in itertools.pairwise((*self.starts, self.size)))


def lattice(window_px: int, overlap: float) -> tuple[int, int]:
    """Size and step of the windows of a lattice, pixels, both multiples of 32.

    Args:
        window_px: wanted size of a window, rounded up.
        overlap: least share of a window that it has in common with the next, 0 to 0.75.

    Raises:
        ValueError: a size that is not positive, or an overlap outside its range.
    """
    if window_px < 1:
        raise ValueError(f"window of {window_px} pixels, expected a positive number")
    if not 0 <= overlap <= 0.75:
        raise ValueError(f"overlap is {overlap}, expected a share of a window from 0 to 0.75")
    window = _round_up(window_px)
    return window, max(int(window * (1 - overlap)) // STRIDE_PX, 1) * STRIDE_PX


def plan(size: int, window_px: int, overlap: float, origin: int = 0) -> Axis:
    """Windows that cover an axis: all of the lattice that lie within, and one at each edge.

    Args:
        size: pixels of the scene along the axis.
        window_px: wanted size of a window; no larger than the scene needs.
        overlap: least share of a window that it has in common with the next, 0 to 0.75.
        origin: where on the lattice the scene begins, pixels, as in `Grid.first_pixel`.

    Raises:
        ValueError: a size that is not positive, or an overlap outside its range.
    """
    if size < 1:
        raise ValueError(f"scene of {size} pixels, expected a positive number")
    window, step = lattice(min(window_px, size), overlap)
    last = max(size - window, 0)
    starts = {0, *range(-origin % step, last, step), last}
    return Axis(size, window, window - step, tuple(sorted(starts)))


def blend_weights(axis: Axis) -> list[Float32[np.ndarray, " window"]]:
    """Weights of the pixels of each window along one axis; those of all windows that see a pixel add to one.

    A window weighs most inside, and falls as a squared sine to nearly 0 over the overlap at both ends.
    """
    distance = np.minimum(np.arange(axis.window), np.arange(axis.window)[::-1]) + 0.5
    # Not 0, so that a corner of the scene that only one window sees has a weight to divide by.
    one = np.maximum(np.sin(np.pi / 2 * np.minimum(distance / max(axis.overlap, 1), 1)) ** 2, 1e-6)
    total = np.zeros(axis.padded)
    for start in axis.starts:
        total[start : start + axis.window] += one
    return [(one / total[start : start + axis.window]).astype(np.float32) for start in axis.starts]


def mirrored(
    scene: Shaped[np.ndarray, "rows columns band"], height: int, width: int
) -> Shaped[np.ndarray, "height width band"]:
    """The part of a scene that a window reaches, filled up to the window's size by mirroring at the edge."""
    rows, columns = scene.shape[:2]
    return np.pad(scene, ((0, height - rows), (0, width - columns), (0, 0)), mode="symmetric")


def first_to_reach(axis: Axis, place: int) -> int:
    """The first window that has pixels from the start of window `place` on."""
    return next(k for k, start in enumerate(axis.starts) if start + axis.window > axis.starts[place])


def share_of(count: int, part: int, parts: int) -> range:
    """Part `part` of `parts`, from 1, of `count` things in a row, as equal as may be."""
    return range((part - 1) * count // parts, part * count // parts)


def runs(places: Iterable[int]) -> Iterator[range]:
    """Ascending numbers as ranges without gaps: 0 1 2 5 6 as [0, 3) and [5, 7)."""
    for _, run in itertools.groupby(enumerate(places), key=lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in run]
        yield range(numbers[0], numbers[-1] + 1)


def _round_up(size: int) -> int:
    return -(-size // STRIDE_PX) * STRIDE_PX
