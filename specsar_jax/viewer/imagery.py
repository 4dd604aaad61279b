"""Sentinel-2 in natural colour.

Enters: the scene of a map. Leaves: pictures of tiles.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from specsar_jax.viewer.mercator import TILE_PX, tile_bounds
from specsar_jax.viewer.rasters import on_earth, part
from tfds_dwplus import bands
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.rasters import Layer, check_can_be_warped
from tfds_dwplus.imagery.scenes import Reading, open_scene


@dataclasses.dataclass(frozen=True)
class Channel:
    """A band of the imagery with its contrast stretch."""

    address: str
    index: int
    low: float
    """Digital number shown as black."""
    high: float
    """Digital number shown as white."""
    mean: int
    """What it shows on average, 0..255."""


@dataclasses.dataclass(frozen=True)
class Imagery:
    """Red, green and blue of a scene."""

    channels: tuple[Channel, ...]
    anywhere: bool = False
    """Whether its files may take their pixels from anywhere."""

    @property
    def mean(self) -> str:
        """Returns the colour that it has on average, for the swatches of a map that lies over it."""
        return "#" + bytes(channel.mean for channel in self.channels).hex()

    def tile(self, place: tuple[int, int, int]) -> UInt8[np.ndarray, "height width 4"]:
        """Returns a picture of a tile, transparent where it has no data."""
        bounds = tile_bounds(*place)
        read = {}
        for address in {channel.address for channel in self.channels}:
            indexes = [channel.index for channel in self.channels if channel.address == address]
            found = part(address, indexes, bounds, (TILE_PX, TILE_PX), self.anywhere)
            read |= {(address, index): band for index, band in zip(indexes, found, strict=True)}
        numbers = [(channel, read[channel.address, channel.index]) for channel in self.channels]
        seen = np.all([~np.ma.getmaskarray(n) & (n.data != bands.S2_NODATA) for _, n in numbers], axis=0)
        light = [_light(n.data, channel.low, channel.high) for channel, n in numbers]
        return (np.stack([*light, seen], axis=-1) * 255).astype(np.uint8)


def open_imagery(s2: Sequence[str], reading: Reading, grid: Grid) -> Imagery:
    """Opens red, green and blue of a scene that covers a part of a map's grid. Raises a ValueError as `open_scene`."""
    # What is decided of scale and offset does not matter, as the contrast stretch removes both.
    with open_scene(s2, (), ("B4", "B3", "B2"), (), reading, tell=lambda _: None) as scene:
        channels = []
        for layer in scene.s2.layers:
            check_can_be_warped(layer.address, layer.grid, grid)
            low, high, mean = _stretch(layer)
            channels.append(Channel(on_earth(layer.raster, layer.raster.name), layer.index, low, high, mean))
    return Imagery(tuple(channels), reading.any_vrt_source)


def _light(numbers: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns 0 for black to 1 for white. The square root brightens dark pixels, as in `tfds_dwplus.look`."""
    return np.sqrt(np.clip((numbers.astype(np.float32) - low) / (high - low), 0, 1))


def _stretch(layer: Layer) -> tuple[float, float, int]:
    """Returns the stored numbers to show as black and white, 96 % of the pixels lie between them, and the mean of what is shown."""
    values = layer.sample
    if not values.size:  # the sample holds no data
        return 0.0, 3000.0, 128
    low, high = (float(number) for number in np.percentile(values, (2, 98)))
    high = max(high, low + 1)
    return low, high, round(255 * float(_light(values, low, high).mean()))
