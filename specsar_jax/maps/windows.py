"""Geometry of the overlapping windows that cover a scene, and the weights that blend them. Pure functions.

Windows start on a fixed grid, whose origin is that of the CRS, not of the scene. So the class of a pixel does not depend on the
extent of the scene, except near its edges. Example along one axis: a scene of 1100 pixels that starts 1000 pixels from the
origin, with windows of 512 pixels that overlap by a quarter:

    grid      a window every 384 pixels: ..., 768, 1152, 1536, ... from the origin; those inside the scene start at 152 and 536
    windows   [0, 512)  [152, 664)  [536, 1048)  [588, 1100)          the first and the last one lie at the edges

The step is a multiple of 32, the network's coarsest stride, so that a pixel has the same phase in all windows of the grid.
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
    """The windows along one axis of a scene."""

    size: int
    """Length of the scene, pixels."""
    window: int
    """Length of a window, pixels, a multiple of 32; a scene that is shorter is mirrored at its edge."""
    overlap: int
    """Pixels over which the weight of a window falls at both ends: the overlap of neighbours on the fixed grid."""
    starts: tuple[int, ...]

    @property
    def padded(self) -> int:
        """Returns the length of the scene including its mirrored part, pixels."""
        return self.starts[-1] + self.window

    @property
    def counts(self) -> tuple[int, ...]:
        """Returns for each window the number of pixels from its start to the next window's start, or to the scene's end."""
        return tuple(after - start for start, after in itertools.pairwise((*self.starts, self.size)))


def side_and_step(window_px: int, overlap: float) -> tuple[int, int]:
    """Returns the size and the step of the windows on the fixed grid, pixels, both multiples of 32.

    Args:
        window_px: wanted size of a window, rounded up to a multiple of 32.
        overlap: least share of a window that it has in common with the next, 0 to 0.75.

    Raises:
        ValueError: the size is not positive, or the overlap is out of range.
    """
    if window_px < 1:
        raise ValueError(f"window of {window_px} pixels, expected a positive number")
    if not 0 <= overlap <= 0.75:
        raise ValueError(f"overlap is {overlap}, expected a share of a window from 0 to 0.75")
    window = _round_up(window_px)
    return window, max(int(window * (1 - overlap)) // STRIDE_PX, 1) * STRIDE_PX


def plan(size: int, window_px: int, overlap: float, origin: int = 0) -> Axis:
    """Returns the windows that cover an axis: those of the fixed grid that lie inside the scene, and one at each edge.

    Args:
        size: length of the scene along the axis, pixels.
        window_px: wanted size of a window; reduced if the scene is smaller.
        overlap: least share of a window that it has in common with the next, 0 to 0.75.
        origin: first pixel of the scene, counted from the origin of the grid, as in `Grid.first_pixel`.

    Raises:
        ValueError: a size is not positive, or the overlap is out of range.
    """
    if size < 1:
        raise ValueError(f"scene of {size} pixels, expected a positive number")
    window, step = side_and_step(min(window_px, size), overlap)
    last = max(size - window, 0)
    starts = {0, *range(-origin % step, last, step), last}
    return Axis(size, window, window - step, tuple(sorted(starts)))


def blend_weights(axis: Axis) -> list[Float32[np.ndarray, " window"]]:
    """Returns the weights of the pixels of each window along one axis; the weights of a pixel in all its windows sum to 1.

    The weight is highest in the middle of a window and falls as a squared sine to nearly 0 over the overlap at both ends.
    """
    distance = np.minimum(np.arange(axis.window), np.arange(axis.window)[::-1]) + 0.5
    # Never 0: the total, by which the weights are divided, must not be 0 where only one window covers a pixel.
    weight = np.maximum(np.sin(np.pi / 2 * np.minimum(distance / max(axis.overlap, 1), 1)) ** 2, 1e-6)
    total = np.zeros(axis.padded)
    for start in axis.starts:
        total[start : start + axis.window] += weight
    return [(weight / total[start : start + axis.window]).astype(np.float32) for start in axis.starts]


def mirrored(
    scene: Shaped[np.ndarray, "rows columns band"], height: int, width: int
) -> Shaped[np.ndarray, "height width band"]:
    """Pads a part of a scene to a given size by mirroring it at its lower and right edge."""
    rows, columns = scene.shape[:2]
    return np.pad(scene, ((0, height - rows), (0, width - columns), (0, 0)), mode="symmetric")


def first_to_reach(axis: Axis, place: int) -> int:
    """Returns the number of the first window that reaches beyond the start of window `place`."""
    return next(k for k, start in enumerate(axis.starts) if start + axis.window > axis.starts[place])


def share_of(count: int, part: int, parts: int) -> range:
    """Returns part number `part`, from 1, of `range(count)` divided into `parts` nearly equal parts."""
    return range((part - 1) * count // parts, part * count // parts)


def runs(places: Iterable[int]) -> Iterator[range]:
    """Groups ascending numbers into ranges without gaps: 0 1 2 5 6 gives [0, 3) and [5, 7)."""
    for _, run in itertools.groupby(enumerate(places), key=lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in run]
        yield range(numbers[0], numbers[-1] + 1)


def _round_up(size: int) -> int:
    return -(-size // STRIDE_PX) * STRIDE_PX
