"""The area of pixels: hectares on the ellipsoid, and what a minimum area is on a grid. Pure.

In a projection that keeps areas to half a percent, such as UTM in its zone, a patch is as large as its pixels say by their nominal size: 0.5 ha
are 50 pixels of 10 m everywhere. In others, web Mercator or degrees, each pixel counts with its true area.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from tfds_dwplus.files.raster_files import GDAL_ERRORS
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.places.true_areas import pixel_hectares

NOMINAL = 0.005
"""Share by which the true area of pixels may differ from the nominal one, for the nominal one to count."""

_BAND = 64
"""Rows that are measured at once: areas are those of these bands, whichever rows are asked for."""

_STEPS = 20
"""Bits of the area of a pixel: sums of such numbers are exact up to 2 ** (53 - _STEPS) pixels, in any order."""

Areas = Callable[[range], Float64[np.ndarray, "rows columns"]]
"""Gives the area of each pixel of some rows."""


class PixelHectares:
    """The area on the ellipsoid of the pixels of a grid."""

    def __init__(self, grid: Grid) -> None:
        """Takes a grid whose place on earth is known."""
        self._grid = grid
        middle = pixel_hectares(grid, *(range(size // 2, size // 2 + 1) for size in grid.shape))[0, 0]
        self._step = 2.0 ** (math.ceil(math.log2(middle)) - _STEPS)
        self._bands: dict[int, np.ndarray] = {}

    def __call__(self, rows: range) -> Float64[np.ndarray, "rows columns"]:
        """Returns hectares of the pixels of some rows."""
        needed = range(rows.start // _BAND, -(-rows.stop // _BAND))
        self._bands = {band: self._bands[band] if band in self._bands else self._band(band) for band in needed}
        whole = np.concatenate(list(self._bands.values()))
        begin = rows.start - needed.start * _BAND
        return whole[begin : begin + len(rows)]

    def _band(self, band: int) -> Float64[np.ndarray, "rows columns"]:
        rows = range(band * _BAND, min((band + 1) * _BAND, self._grid.height))
        return np.rint(pixel_hectares(self._grid, rows, range(self._grid.width)) / self._step) * self._step


def minimum_on(grid: Grid, hectares: float) -> tuple[float, Areas | None]:
    """Returns what is a small patch on a grid.

    Args:
        grid: whose place on earth is known.
        hectares: area below which a patch is small.

    Returns:
        Pixels and None where the nominal size of a pixel is about its true one; else hectares, and the areas of pixels.
    """
    if not grid.crs.is_geographic:
        nominal = abs(grid.transform.determinant) * grid.crs.linear_units_factor[1] ** 2 / 1e4
        if all(abs(true / nominal - 1) < NOMINAL for true in _samples(grid)):
            return float(math.ceil(hectares / nominal - 1e-6)), None
    return hectares, PixelHectares(grid)


def check_place(grid: Grid, option: str) -> None:
    """Raises a ValueError that names the command line's `option` if areas cannot be measured on a grid."""
    if not grid.placed:
        raise ValueError(f"{option} needs a map with a place on earth; the imagery has no CRS, so give files with one")
    try:
        known = all(map(math.isfinite, _samples(grid)))
    except GDAL_ERRORS:
        known = False
    if not known:
        raise ValueError(f"{option} needs a map with a place on earth; its CRS cannot be put into degrees")


def _samples(grid: Grid) -> list[float]:
    """Returns the true area of nine pixels, from corner to corner."""
    places = [[0, size // 2, size - 1] for size in grid.shape]
    return [
        float(pixel_hectares(grid, range(row, row + 1), range(column, column + 1))[0, 0])
        for row in places[0]
        for column in places[1]
    ]
