"""Geometry of overlapping windows over a scene, and the weights that blend them. Pure.

Along one axis, a scene of 1100 pixels, windows of 512, at least a quarter shared:

    step      at most 3/4 of 512 = 384; two steps do, and the last window must begin at 608 to reach the edge: 304 each
    windows   [0, 512)  [288, 800)  [608, 1120)          20 pixels past the edge are mirrored from inside

Starts are multiples of 32, the network's coarsest stride, so that every window sees the pixels of the scene in the same
phase: a pixel's class does not depend on which windows it happens to fall into.
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
    """Pixels of each window, a multiple of 32; the part past the scene's edge is mirrored."""
    overlap: int
    """Pixels over which neighbouring windows are blended."""
    starts: tuple[int, ...]

    @property
    def padded(self) -> int:
        """Pixels of the scene with what is mirrored past its edge."""
        return self.starts[-1] + self.window

    @property
    def counts(self) -> tuple[int, ...]:
        """Of each window, the pixels of the scene from its start on that no later window touches."""
        return tuple(after - start for start, after in itertools.pairwise((*self.starts, self.size)))


def plan(size: int, window_px: int, overlap: float) -> Axis:
    """The fewest windows that cover an axis, at steps as equal as may be.

    Args:
        size: pixels of the scene along the axis.
        window_px: wanted size of a window; rounded up to a multiple of 32, and no larger than the scene needs.
        overlap: least share of a window that it has in common with the next, 0 to 0.75.

    Raises:
        ValueError: a size that is not positive, or an overlap outside its range.
    """
    if min(size, window_px) < 1:
        raise ValueError(f"scene of {size} and window of {window_px} pixels, expected positive numbers")
    if not 0 <= overlap <= 0.75:
        raise ValueError(f"overlap is {overlap}, expected a share of a window from 0 to 0.75")
    window = _round_up(min(window_px, size))
    step = max(int(window * (1 - overlap)) // STRIDE_PX, 1)
    last = _round_up(max(size - window, 0)) // STRIDE_PX
    steps = -(-last // step)
    # Rounded down, no two are further apart than `step`, a whole number itself.
    starts = [STRIDE_PX * (place * last // steps) for place in range(steps)]
    return Axis(size, window, window - STRIDE_PX * step, (*starts, STRIDE_PX * last))


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
