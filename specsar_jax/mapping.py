"""A scene to class probabilities, window by window, in memory that grows with its width only, and little with that.

Enters: something that reads a part of a scene, and a network. Leaves: finished blocks of probabilities, from left to right and
from the top down. Kept between them are what the windows above and to the left have begun, not whole rows of windows. The next
part is read, and the last one blended, while the network is at work.
"""

import collections
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from jaxtyping import Array, Bool, Float, Float32, UInt16
from tqdm import tqdm

from specsar_jax import model, preprocess, sharding, windows
from specsar_jax.checkpoints import Trained
from specsar_jax.config import Config
from specsar_jax.inference import log_probabilities
from tfds_dwplus import bands
from tfds_dwplus.command_line import progress

Probabilities = Callable[[np.ndarray, np.ndarray], Float[Array, "batch height width class"]]
Read = Callable[[slice, slice], tuple[np.ndarray, np.ndarray, Bool[np.ndarray, "rows columns"]]]
"""Digital numbers, dB, and which pixels are to be mapped, of some rows and columns of a scene."""

READ_PX = 2048
"""Of a row, pixels of windows that are read together: bands that must be warped cost three times as much 300 pixels at a time."""


class Block(NamedTuple):
    """A finished part of a map."""

    strip: int
    """Which row of windows it belongs to."""
    rows: slice
    columns: slice
    probability: Float32[np.ndarray, "height width class"]
    valid: Bool[np.ndarray, "height width"]
    """Which pixels are to be mapped; what stands in `probability` of others means nothing."""


class _Part(NamedTuple):
    """Windows beside each other that go through the network together."""

    strip: int
    places: range
    """Of these windows in their row."""
    batch: tuple[np.ndarray, np.ndarray]
    needed: list[int]
    """Which of `places` hold a pixel to map; the batch begins with them."""
    valid: Bool[np.ndarray, "rows columns"]


def make_probabilities(trained: Trained, devices: Sequence[jax.Device] | None = None) -> Probabilities:
    """The network as a compiled function from physical values to calibrated class probabilities, float32.

    Args:
        trained: the network.
        devices: a batch is split over them, so its size must be a multiple of their number; None: one.
    """
    mesh = Mesh(np.array(devices or jax.local_devices()[:1]), ("data",), axis_types=(AxisType.Auto,))

    def probabilities(variables: model.Variables, s2: Array, s1: Array) -> Array:
        s2, s1 = preprocess.standardise(s2, s1, trained.statistics)
        return jnp.exp(log_probabilities(variables, s2, s1, config=trained.config, temperature=trained.temperature))

    compiled = jax.jit(sharding.for_mesh(probabilities, mesh))
    variables = model.for_inference(trained.variables, trained.config.model)
    variables = jax.device_put(variables, sharding.replicated(mesh))
    return lambda s2, s1: compiled(variables, *jax.device_put((s2, s1), sharding.by_tile(mesh)))


class Timed:
    """A network that tells how long it was at work. The seconds are whole when the `with` block is left."""

    def __init__(self, network: Probabilities) -> None:
        self.seconds = 0.0
        """Of all batches, each from when it was handed over, or the one before it was done, until its results were there."""
        self._network, self._done, self._waiting = network, 0.0, ThreadPoolExecutor(1)

    def __call__(self, s2: Any, s1: Any) -> Any:
        """As the network."""
        computed = self._network(s2, s1)
        # From now on: the first call compiles before it returns.
        self._waiting.submit(self._wait, computed, time.perf_counter())
        return computed

    def __enter__(self) -> "Timed":
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.shutdown()

    def _wait(self, computed: Any, given: float) -> None:
        jax.block_until_ready(computed)
        done = time.perf_counter()
        self.seconds += done - max(given, self._done)
        self._done = done


def windows_at_once(columns: windows.Axis, config: Config, devices: int = 1) -> int:
    """How many windows of a row go through the network together: `predict.window_px` of a row on each device."""
    wanted = max(config.predict.window_px // columns.window, 1) * devices
    return min(wanted, -(-len(columns.starts) // devices) * devices)


def probability_blocks(
    read: Read,
    network: Probabilities,
    rows: windows.Axis,
    columns: windows.Axis,
    at_once: int,
    strips: range,
    bar: tqdm,
) -> Iterator[Block]:
    """Blended class probabilities of some strips of a scene: of the rows from one window's start to the next one's.

    A pixel's value does not depend on which strips are asked for: windows above the first that reach into it are mapped again.

    Args:
        read: gives a part of the scene; called from another thread, by one at a time.
        network: of `make_probabilities`.
        rows: windows along the height.
        columns: the same along the width.
        at_once: windows that go through the network together.
        strips: which of the strips, in the order of `rows.starts`.
        bar: counts windows.
    """
    down, across = windows.blend_weights(rows), windows.blend_weights(columns)
    first = windows.first_to_reach(rows, strips.start)
    # What windows above have begun, of which the first rows count. The same memory takes what this strip begins, from the left
    # as the other is used up: at the edge of a scene, where windows lie close, two of them would be the most that a map holds.
    carried = np.zeros((rows.window - min(rows.counts), columns.padded, len(bands.CLASSES)), np.float32)
    begun, beside = 0, None
    for part, computed in _ahead_of(_parts(read, rows, columns, at_once, range(first, strips.stop)), network):
        if part.places.start == 0:
            beside = np.zeros((rows.window, 0, len(bands.CLASSES)), np.float32)
        left = columns.starts[part.places.start]
        right = columns.starts[part.places[-1]] + columns.window
        sums = np.zeros((rows.window, right - left, len(bands.CLASSES)), np.float32)
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
            inside = sums[:height, : stop - left], part.valid[:height, : stop - left]
            yield Block(part.strip, slice(top, top + height), slice(left, stop), *inside)


def count_windows(rows: windows.Axis, columns: windows.Axis, strips: range) -> int:
    """How many windows `probability_blocks` goes through for some strips."""
    return (strips.stop - windows.first_to_reach(rows, strips.start)) * len(columns.starts)


def map_pixels(
    network: Probabilities,
    s2: UInt16[np.ndarray, "height width s2_band"],
    s1: Float32[np.ndarray, "height width s1_band"],
    rows: windows.Axis,
    columns: windows.Axis,
    config: Config,
) -> Float32[np.ndarray, "height width class"]:
    """Blended class probabilities of pixels in memory.

    Args:
        network: of `make_probabilities`, on one device.
        s2: digital numbers, 0 where there are none; without bands where the network does not read them.
        s1: dB, NaN where there is none.
        rows: windows along the height, of `windows.plan`.
        columns: the same along the width.
        config: of the run.

    Returns:
        probabilities; NaN where a band has no data.
    """
    valid = preprocess.valid_pixels(s2, s1, config.model.sensors)

    def read(rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return s2[rows, columns], s1[rows, columns], valid[rows, columns]

    whole = np.empty((*valid.shape, len(bands.CLASSES)), np.float32)
    strips = range(len(rows.starts))
    at_once = windows_at_once(columns, config)
    for block in probability_blocks(read, network, rows, columns, at_once, strips, progress(disable=True)):
        whole[block.rows, block.columns] = block.probability
    whole[~valid] = np.nan
    return whole


def _parts(read: Read, rows: windows.Axis, columns: windows.Axis, at_once: int, strips: range) -> Iterator[_Part]:
    """All parts of some strips in order; several at a time are read in a thread of their own while those before are at work."""

    def together(strip: int, places: range) -> list[_Part]:
        left, top = columns.starts[places.start], rows.starts[strip]
        width = columns.starts[places[-1]] + columns.window - left
        here = slice(top, min(top + rows.window, rows.size)), slice(left, min(left + width, columns.size))
        *sensors, valid = read(*here)
        sensors = [windows.mirrored(pixels, rows.window, width) for pixels in sensors]
        return [one(strip, group, left, sensors, valid) for group in _groups(places, at_once)]

    def one(strip: int, places: range, left: int, sensors: list[np.ndarray], valid: np.ndarray) -> _Part:
        cuts = {place: columns.starts[place] - left for place in places}
        needed = [place for place, at in cuts.items() if valid[:, at : at + columns.window].any()]
        batch = []
        for pixels in sensors:
            cut = np.zeros((at_once, rows.window, columns.window, pixels.shape[-1]), pixels.dtype)
            for row, place in enumerate(needed):
                cut[row] = pixels[:, cuts[place] : cuts[place] + columns.window]
            batch.append(cut)
        return _Part(
            strip, places, tuple(batch), needed, valid[:, cuts[places.start] : cuts[places[-1]] + columns.window]
        )

    wide = at_once * max(READ_PX // (at_once * columns.window), 1)
    reads = _groups(range(len(columns.starts)), wide)
    for parts in ahead(together, itertools.product(strips, reads)):
        yield from parts


def _groups(places: range, size: int) -> list[range]:
    """So many places at a time."""
    return [places[first : first + size] for first in range(0, len(places), size)]


def ahead(work: Callable[..., Any], arguments: Iterable[tuple]) -> Iterator[Any]:
    """What `work` returns for each of `arguments`, in order, worked out in another thread, one ahead of what is asked for."""
    with ThreadPoolExecutor(1) as thread:
        waiting: collections.deque[Future] = collections.deque()
        try:
            for one in arguments:
                waiting.append(thread.submit(work, *one))
                if len(waiting) > 1:
                    yield waiting.popleft().result()
            yield from (future.result() for future in waiting)
        finally:
            for future in waiting:
                future.cancel()


def _ahead_of(parts: Iterator[_Part], network: Probabilities) -> Iterator[tuple[_Part, Array | None]]:
    """Parts with their probabilities; JAX computes those of the next while this one is looked at. None: no pixel asks for them."""
    before = None
    for part in parts:
        now = part, network(*part.batch) if part.needed else None
        if before:
            yield before
        before = now
    if before:
        yield before
