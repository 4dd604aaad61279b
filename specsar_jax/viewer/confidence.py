"""How sure the network was: pixels to fade, and one class as a heat map.

Enters: the rasters of `predict --probabilities` and `--confidence`. Leaves: shares, 0 to 1, in any rectangle, and pictures of tiles.
"""

import dataclasses

import matplotlib
import numpy as np
from jaxtyping import Bool, Float32, UInt8
from rasterio.windows import Window

from specsar_jax.viewer.class_map import Pixel
from specsar_jax.viewer.mercator import TILE_PX, Bounds, tile_bounds
from specsar_jax.viewer.rasters import part, reopened

_RAMP = matplotlib.colormaps["cividis"]
"""From 0 to 1; told apart by readers who see fewer colours, and in grey."""

RAMP = tuple(matplotlib.colors.to_hex(_RAMP(step / 8)) for step in range(9))
"""Colours of the page's scale."""


_AT_ONCE = 8
"""Bands that are read together."""


@dataclasses.dataclass(frozen=True)
class Shares:
    """A raster of shares on the grid of a map: of all classes, or of the mapped class alone."""

    address: str
    indexes: tuple[int, ...]
    """Its bands, from 1."""
    scale: float
    """Share of one step of the stored numbers."""
    anywhere: bool = False
    """Whether its file may take its pixels from anywhere."""

    def largest(self, bounds: Bounds, size: tuple[int, int]) -> Float32[np.ndarray, "rows columns"]:
        """Returns the largest share of each pixel of a rectangle of web Mercator, 0 where there is none."""
        most = np.zeros(size, np.float32)
        for first in range(
            0, len(self.indexes), _AT_ONCE
        ):  # of many classes all together would take hundreds of megabytes
            stored = part(self.address, self.indexes[first : first + _AT_ONCE], bounds, size, self.anywhere)
            most = np.maximum(most, stored.filled(0).max(axis=0))
        return (most * self.scale).astype(np.float32)

    def below(self, least: float, bounds: Bounds, size: tuple[int, int]) -> Bool[np.ndarray, "rows columns"]:
        """Returns the pixels of which no share reaches `least`."""
        return self.largest(bounds, size) < np.float32(least - self.scale / 2)

    def heat_tile(self, place: tuple[int, int, int], class_id: int) -> UInt8[np.ndarray, "height width 4"]:
        """Returns a picture of the share of one class, transparent where there is none."""
        [stored] = part(self.address, [self.indexes[class_id]], tile_bounds(*place), (TILE_PX, TILE_PX), self.anywhere)
        picture = _RAMP(np.clip(stored.filled(0) * self.scale, 0, 1), bytes=True)
        picture[..., 3] = np.where(np.ma.getmaskarray(stored), 0, 255)
        return picture

    def at(self, pixel: Pixel) -> list[float]:
        """Returns the shares of a pixel."""
        with reopened(self.address, self.anywhere) as raster:
            window = Window(pixel.column, pixel.row, 1, 1)
            stored = raster.read(list(self.indexes), window=window, masked=True)[:, 0, 0]
        return (stored.filled(0) * self.scale).tolist()
