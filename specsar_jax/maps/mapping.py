"""Computes class probabilities of a scene, window by window; memory grows only with the scene's width, and slowly.

Enters: a function that reads a part of a scene, and a network. Leaves: finished blocks of probabilities, from left to right and
from top to bottom. In between, only the unfinished sums of the windows above and to the left are kept, not whole rows of windows.
While the network computes, the next part is read and the last one is blended.
"""

import collections
import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Shaped, UInt16
from tqdm import tqdm

from specsar_jax.maps import windows
from tfds_dwplus import bands
from tfds_dwplus.command_line import progress

Probabilities = Callable[[np.ndarray, np.ndarray], Any]
"""A network: batches of digital numbers and dB in, probabilities [batch, height, width, class] out, which may not be computed yet. See
`compiled.make_probabilities`; nothing here imports JAX, so that reading need not wait for it.
"""
Read = Callable[[slice, slice], tuple[np.ndarray, np.ndarray, Shaped[np.ndarray, "rows columns"]]]
"""Reads some rows and columns of a scene: digital numbers, dB, and what is 0 or False where a pixel is not to be mapped, such as the
sensors of `bands.seen_pixels`.
"""

READ_PX = 2048
"""Pixels of a row to read at once. Reading 300 at a time would take three times as long for bands that must be resampled."""


class MadeAhead:
    """A network that was made before the scene was known."""

    def __init__(self, batch: tuple[int, int, int], network: Probabilities) -> None:
        """Windows, height and width of the batches that it takes, on one device, and the network."""
        self._batch, self._network = batch, network

    def taken(self, batch: tuple[int, int, int]) -> Probabilities | None:
        """Returns the network, once, if it takes such batches. Whoever still holds this holds no weights then."""
        network, self._network = self._network, None
        return network if batch == self._batch else None


class Block(NamedTuple):
    """A finished part of a map."""

    strip: int
    """Number of the row of windows that it belongs to."""
    rows: slice
    columns: slice
    probability: Float32[np.ndarray, "height width class"]
    seen: Shaped[np.ndarray, "height width"]
    """What `read` gave: 0 or False where a pixel is not to be mapped; `probability` has no meaning there."""


class _Part(NamedTuple):
    """Neighbouring windows that go through the network in one batch."""

    strip: int
    places: range
    """Numbers of these windows in their row."""
    batch: tuple[np.ndarray, np.ndarray]
    needed: list[int]
    """Those of `places` with a pixel to map; they come first in the batch."""
    seen: Shaped[np.ndarray, "rows columns"]


def windows_at_once(columns: windows.Axis, window_px: int, devices: int = 1) -> int:
    """Returns the number of windows in a batch: as many as fit into `window_px` pixels of a row, on each device."""
    wanted = max(window_px // columns.window, 1) * devices
    return min(wanted, -(-len(columns.starts) // devices) * devices)


def probability_blocks(
    read: Read,
    network: Probabilities,
    rows: windows.Axis,
    columns: windows.Axis,
    at_once: int,
    strips: range,
    bar: tqdm,
    classes: bands.Classes,
) -> Generator[Block, None, None]:
    """Yields blended class probabilities of some strips of a scene; a strip is the rows from one window's start to the next.

    A pixel's value does not depend on the choice of strips: windows of earlier strips that reach into the first are computed again.

    Args:
        read: reads a part of the scene; called from one other thread.
        network: result of `compiled.make_probabilities`.
        rows: windows along the height.
        columns: windows along the width.
        at_once: number of windows in a batch.
        strips: numbers of the strips, in the order of `rows.starts`.
        bar: progress bar, which counts windows.
        classes: those of the network.

    To be closed, as by `contextlib.closing`, before what `read` reads from: an error, or a signal, keeps the frames that it passed
    through, and so the other thread would read on.
    """
    down, across = windows.blend_weights(rows), windows.blend_weights(columns)
    first = windows.first_to_reach(rows, strips.start)
    # Sums from the strips above; the first `begun` rows are in use. The sums for the strips below overwrite them from left to
    # right, as they are used up: at the edge of a scene, where windows lie close, a second array would double the peak memory.
    carried = np.zeros((rows.window - min(rows.counts), columns.padded, len(classes)), np.float32)
    begun, beside = 0, None
    parts = _parts(read, rows, columns, at_once, range(first, strips.stop))
    with contextlib.closing(_ahead_of(parts, network)) as computed_parts:
        for part, computed in computed_parts:
            if part.places.start == 0:
                beside = np.zeros((rows.window, 0, len(classes)), np.float32)
            left = columns.starts[part.places.start]
            right = columns.starts[part.places[-1]] + columns.window
            sums = np.zeros((rows.window, right - left, len(classes)), np.float32)
            sums[:, : beside.shape[1]] = beside
            sums[:begun, beside.shape[1] :] = carried[:begun, left + beside.shape[1] : right]
            for place, probability in zip(part.needed, () if computed is None else np.asarray(computed), strict=False):
                at = columns.starts[place] - left
                blend = (down[part.strip][:, None] * across[place])[..., None]
                sums[:, at : at + columns.window] += probability * blend
            whole = part.places.stop == len(columns.starts)
            end = (right if whole else columns.starts[part.places.stop]) - left
            height = rows.counts[part.strip]
            carried[: rows.window - height, left : left + end] = sums[height:, :end]
            beside = sums[:, end:].copy()
            if whole:
                begun = rows.window - height
            bar.update(len(part.places))
            if part.strip in strips:
                top, stop = rows.starts[part.strip], min(left + end, columns.size)
                inside = sums[:height, : stop - left], part.seen[:height, : stop - left]
                yield Block(part.strip, slice(top, top + height), slice(left, stop), *inside)


def count_windows(rows: windows.Axis, columns: windows.Axis, strips: range) -> int:
    """Returns the number of windows that `probability_blocks` computes for some strips."""
    return (strips.stop - windows.first_to_reach(rows, strips.start)) * len(columns.starts)


def map_pixels(
    network: Probabilities,
    s2: UInt16[np.ndarray, "height width s2_band"],
    s1: Float32[np.ndarray, "height width s1_band"],
    seen: Shaped[np.ndarray, "height width"],
    rows: windows.Axis,
    columns: windows.Axis,
    window_px: int,
    classes: bands.Classes,
) -> Float32[np.ndarray, "height width class"]:
    """Returns blended class probabilities of pixels in memory.

    Args:
        network: result of `compiled.make_probabilities`, on one device.
        s2: digital numbers, 0 where there is no data; has no bands if the network does not read Sentinel-2.
        s1: backscatter in dB, NaN where there is no data; has no bands if the network does not read Sentinel-1.
        seen: as `Read` gives it.
        rows: windows along the height, from `windows.plan`.
        columns: windows along the width.
        window_px: pixels of a row to map at once.
        classes: those of the network.

    Returns:
        Probabilities; NaN where a pixel is not to be mapped.
    """

    def read(rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return s2[rows, columns], s1[rows, columns], seen[rows, columns]

    whole = np.empty((*seen.shape, len(classes)), np.float32)
    strips = range(len(rows.starts))
    at_once = windows_at_once(columns, window_px)
    blocks = probability_blocks(read, network, rows, columns, at_once, strips, progress(disable=True), classes)
    with contextlib.closing(blocks):
        for block in blocks:
            whole[block.rows, block.columns] = block.probability
    whole[seen == 0] = np.nan
    return whole


def _parts(
    read: Read, rows: windows.Axis, columns: windows.Axis, at_once: int, strips: range
) -> Generator[_Part, None, None]:
    """Yields all parts of some strips in order; another thread reads the next ones while the network computes."""

    def read_parts(strip: int, places: range) -> list[_Part]:
        left, top = columns.starts[places.start], rows.starts[strip]
        width = columns.starts[places[-1]] + columns.window - left
        here = slice(top, min(top + rows.window, rows.size)), slice(left, min(left + width, columns.size))
        *sensors, seen = read(*here)
        sensors = [windows.mirrored(pixels, rows.window, width) for pixels in sensors]
        return [cut_part(strip, group, left, sensors, seen) for group in _groups(places, at_once)]

    def cut_part(strip: int, places: range, left: int, sensors: list[np.ndarray], seen: np.ndarray) -> _Part:
        cuts = {place: columns.starts[place] - left for place in places}
        needed = [place for place, at in cuts.items() if seen[:, at : at + columns.window].any()]
        batch = []
        for pixels in sensors:
            cut = np.zeros((at_once, rows.window, columns.window, pixels.shape[-1]), pixels.dtype)
            for row, place in enumerate(needed):
                cut[row] = pixels[:, cuts[place] : cuts[place] + columns.window]
            batch.append(cut)
        return _Part(
            strip, places, tuple(batch), needed, seen[:, cuts[places.start] : cuts[places[-1]] + columns.window]
        )

    wide = at_once * max(READ_PX // (at_once * columns.window), 1)
    reads = _groups(range(len(columns.starts)), wide)
    with contextlib.closing(ahead(read_parts, itertools.product(strips, reads))) as read_ahead:
        for parts in read_ahead:
            yield from parts


def _groups(places: range, size: int) -> list[range]:
    """Splits a range into ranges of at most `size` numbers."""
    return [places[first : first + size] for first in range(0, len(places), size)]


def ahead(work: Callable[..., Any], arguments: Iterable[tuple]) -> Generator[Any, None, None]:
    """Yields the results of `work` for each of `arguments`, in order, computed by another thread, one in advance."""
    with ThreadPoolExecutor(1) as thread:
        waiting: collections.deque[Future] = collections.deque()
        try:
            for given in arguments:
                waiting.append(thread.submit(work, *given))
                if len(waiting) > 1:
                    yield waiting.popleft().result()
            yield from (future.result() for future in waiting)
        finally:
            for future in waiting:
                future.cancel()


def _ahead_of(parts: Generator[_Part, None, None], network: Probabilities) -> Generator[tuple[_Part, Any], None, None]:
    """Yields parts with their probabilities (None if no pixel is to be mapped); JAX already computes those of the next part."""
    before = None
    with contextlib.closing(parts):
        for part in parts:
            now = part, network(*part.batch) if part.needed else None
            if before:
                yield before
            before = now
    if before:
        yield before
