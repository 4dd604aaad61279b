"""Geometry of the overlapping windows that cover a scene, and the weights that blend them. Pure functions.

Windows start on a fixed grid, whose origin is that of the CRS, not of the scene. So the class of a pixel does not depend on the
extent of the scene, except near its edges. Example along one axis: a scene of 1100 pixels that starts 1000 pixels from the
origin, with windows of 512 pixels that overlap by a quarter:

    grid      a window every 384 pixels: ..., 768, 1152, 1536, ... from the origin; those inside the scene start at 152 and 536
    windows   [0, 512)  [152, 664)  [536, 1048)  [588, 1100)          the first and the last one lie at the edges

The step is a multiple of 32, the network's coarsest stride, so that a pixel has the same phase in all windows of the grid.

A network that sees no further than a margin, 24 pixels for Dynamic World's, whose stride is 2, needs no blending: where a pixel is
nearer than that to the side of a window, not of the scene, another window has its class exactly as the whole scene would have it.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float32, Shaped

from specsar_jax.config import SMALLEST_SIZE_PX

STRIDE_PX = SMALLEST_SIZE_PX
"""Stride of the network's fourth stage."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """The windows along one axis of a scene."""

    size: int
    """Length of the scene, pixels."""
    window: int
    """Length of a window, pixels, a multiple of the stride; a scene that is shorter is mirrored at its edge."""
    overlap: int
    """Pixels over which the weight of a window falls at both ends: the overlap of neighbours on the fixed grid."""
    starts: tuple[int, ...]
    margin: int = 0
    """Pixels at the ends of a window, not of the scene, whose values do not count."""

    @property
    def padded(self) -> int:
        """Returns the length of the scene including its mirrored part, pixels."""
        return self.starts[-1] + self.window

    @property
    def counts(self) -> tuple[int, ...]:
        """Returns for each window the number of pixels from its start to the next window's start, or to the scene's end."""
        return tuple(after - start for start, after in itertools.pairwise((*self.starts, self.size)))


def side_and_step(window_px: int, overlap: float, stride_px: int = STRIDE_PX) -> tuple[int, int]:
    """Returns the size and the step of the windows on the fixed grid, pixels, both multiples of the stride.

    Args:
        window_px: wanted size of a window, rounded up to a multiple of the stride.
        overlap: least share of a window that it has in common with the next, 0 to 0.75.
        stride_px: of the network.

    Raises:
        ValueError: the size is not positive, or the overlap is out of range.
    """
    if window_px < 1:
        raise ValueError(f"window of {window_px} pixels, expected a positive number")
    if not 0 <= overlap <= 0.75:
        raise ValueError(f"overlap is {overlap}, expected a share of a window from 0 to 0.75")
    window = -(-window_px // stride_px) * stride_px
    return window, max(int(window * (1 - overlap)) // stride_px, 1) * stride_px


def plan(
    size: int, window_px: int, overlap: float, origin: int = 0, *, stride_px: int = STRIDE_PX, margin_px: int = 0
) -> Axis:
    """Returns the windows that cover an axis: those of the fixed grid that lie inside the scene, and one at each edge.

    Args:
        size: length of the scene along the axis, pixels.
        window_px: wanted size of a window; reduced if the scene is smaller.
        overlap: least share of a window that it has in common with the next, 0 to 0.75.
        origin: first pixel of the scene, counted from the origin of the grid, as in `Grid.first_pixel`.
        stride_px: of the network.
        margin_px: how far the network sees; 0 if to the ends of the window. Windows then start at multiples of the stride from the
            scene's first pixel, so that they see it in the phase of the whole, and a scene that fits into one is one, of any length.

    Raises:
        ValueError: a size is not positive, or the overlap is out of range.
    """
    if size < 1:
        raise ValueError(f"scene of {size} pixels, expected a positive number")
    window, step = side_and_step(min(window_px, size), overlap, stride_px)
    first = -origin % step
    if margin_px:
        first -= first % stride_px
        window = max(size, SMALLEST_SIZE_PX) if size <= max(window_px, SMALLEST_SIZE_PX) else window
    last = max(size - window, 0)
    starts = {0, *range(first, last, step), last}
    overlap_px = max(window - step, 0)
    return Axis(size, window, overlap_px, tuple(sorted(starts)), min(margin_px, overlap_px // 2))


def blend_weights(axis: Axis) -> list[Float32[np.ndarray, " window"]]:
    """Returns the weights of the pixels of each window along one axis; the weights of a pixel in all its windows sum to 1.

    The weight is highest in the middle of a window and falls as a squared sine to nearly 0 over the overlap at both ends; with a
    margin, over what the overlap has beside the margins, and not at the ends of the scene.
    """
    ramp = max(axis.overlap - 2 * axis.margin, 1)
    total, weights = np.zeros(axis.padded), []
    for start in axis.starts:
        from_left = np.arange(axis.window) + 0.5 - axis.margin
        from_right = from_left[::-1]
        if axis.margin and start == 0:
            from_left = np.full(axis.window, np.inf)
        if axis.margin and start + axis.window >= axis.size:
            from_right = np.full(axis.window, np.inf)
        distance = np.clip(np.minimum(from_left, from_right) / ramp, 0, 1)
        # Never 0: the total, by which the weights are divided, must not be 0 where only one window covers a pixel.
        weights.append(np.maximum(np.sin(np.pi / 2 * distance) ** 2, 1e-6))
        total[start : start + axis.window] += weights[-1]
    return [
        (weight / total[start : start + axis.window]).astype(np.float32)
        for start, weight in zip(axis.starts, weights, strict=True)
    ]


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
