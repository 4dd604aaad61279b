"""Geometry of overlapping windows over a scene, and the weights that blend them. Pure.

Along one axis, a scene of 1000 pixels, windows of 512, at least a quarter shared:

    step      3/4 of 512 = 384; the last window is drawn back until it just reaches the edge
    windows   [0, 512)  [384, 896)  [512, 1024)          24 pixels past the edge are mirrored from inside

Starts are multiples of 32, the network's coarsest stride, so that every window sees the pixels of the scene in the same
phase: a pixel's class does not depend on which windows it happens to fall into.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Shaped

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


def plan(size: int, window_px: int, overlap: float) -> Axis:
    """Windows that cover an axis.

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
    step = max(int(window * (1 - overlap)) // STRIDE_PX * STRIDE_PX, STRIDE_PX)
    last = _round_up(max(size - window, 0))
    return Axis(size, window, window - step, (*range(0, last, step), last))


def blend_weights(axis: Axis) -> Float[np.ndarray, " window"]:
    """Weight of each pixel of a window along one axis: 1 inside, falling as a squared sine to nearly 0 at both ends.

    Where two windows meet by exactly the overlap, their weights add to one; elsewhere the sum is divided out.
    """
    distance = np.minimum(np.arange(axis.window), np.arange(axis.window)[::-1]) + 0.5
    # Not 0, so that a corner of the scene that only one window sees has a weight to divide by.
    return np.maximum(np.sin(np.pi / 2 * np.minimum(distance / max(axis.overlap, 1), 1)) ** 2, 1e-6).astype(np.float32)


def read_mirrored(
    scene: Shaped[np.ndarray, "rows columns band"], height: int, width: int
) -> Shaped[np.ndarray, "height width band"]:
    """The part of a scene that a window reaches, filled up to the window's size by mirroring at the edge."""
    rows, columns = scene.shape[:2]
    return np.pad(scene, ((0, height - rows), (0, width - columns), (0, 0)), mode="symmetric")


def strips(rows: Axis) -> Iterator[tuple[int, int]]:
    """For each row of windows: its start, and how many rows of the scene from there on no later window touches."""
    for start, following in zip(rows.starts, (*rows.starts[1:], rows.size), strict=True):
        yield start, following - start


def _round_up(size: int) -> int:
    return -(-size // STRIDE_PX) * STRIDE_PX
