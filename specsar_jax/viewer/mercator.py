"""Web Mercator: its tiles, where a raster lies in a view, and true areas of its pixels. Pure."""

import math

import numpy as np
from jaxtyping import Float64
from rasterio.crs import CRS

EARTH_M, FLATTENING = 6378137.0, 1 / 298.257223563
"""Equatorial radius of WGS 84, which is also the radius of web Mercator's sphere, and flattening of WGS 84."""

TILE_PX = 256

MERCATOR, WGS84 = CRS.from_epsg(3857), CRS.from_epsg(4326)

Bounds = tuple[float, float, float, float]
"""Left, bottom, right, top."""


def to_mercator(bounds: Bounds) -> Bounds:
    """Converts west, south, east, north from degrees to metres of web Mercator."""
    west, south, east, north = map(math.radians, bounds)
    return EARTH_M * west, EARTH_M * math.asinh(math.tan(south)), EARTH_M * east, EARTH_M * math.asinh(math.tan(north))


def tile_bounds(z: int, x: int, y: int) -> Bounds:
    """Returns the bounds of a tile in metres of web Mercator."""
    half = math.pi * EARTH_M
    side = 2 * half / 2**z
    return x * side - half, half - (y + 1) * side, (x + 1) * side - half, half - y * side


def overlap_px(
    raster: Bounds | None, view: Bounds, height: int, width: int
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Returns the first and the end of the rows, and of the columns, of a view that a raster reaches; None if there are none.

    Args:
        raster: bounds in metres of web Mercator; left is greater than right across the antimeridian. None: not known, so all.
        view: bounds in metres of web Mercator.
        height: rows of the view.
        width: columns of the view.
    """
    if raster is None or not all(map(math.isfinite, raster)):
        return (0, height), (0, width)
    left, bottom, right, top = raster
    half = math.pi * EARTH_M
    sides = [(left, right)] if left <= right else [(left, half), (-half, right)]
    sides = [
        (a + turn, b + turn) for a, b in sides for turn in (-2 * half, 0.0, 2 * half)
    ]  # views reach beyond 180 degrees
    sides = [(max(a, view[0]), min(b, view[2])) for a, b in sides if a < view[2] and b > view[0]]
    if not sides or bottom >= view[3] or top <= view[1]:
        return None

    def pixels(first: float, last: float, start: float, extent: float, size: int) -> tuple[int, int]:
        # A pixel more, as bounds are those of the corners and edges
        low, high = (first - start) / extent * size, (last - start) / extent * size
        return max(math.floor(low) - 1, 0), min(math.ceil(high) + 1, size)

    rows = pixels(view[3] - top, view[3] - bottom, 0.0, view[3] - view[1], height)
    columns = pixels(min(a for a, _ in sides), max(b for _, b in sides), view[0], view[2] - view[0], width)
    return rows, columns


def row_areas_m2(bottom: float, top: float, rows: int, column_m: float) -> Float64[np.ndarray, " rows"]:
    """Returns the area on the ellipsoid of a pixel in each row of a raster in web Mercator, from the top.

    Args:
        bottom: lower edge of the raster, metres of web Mercator.
        top: upper edge of the raster, metres of web Mercator.
        rows: number of rows.
        column_m: width of a pixel, metres of web Mercator.

    Source: Snyder 1987, Map Projections, a Working Manual, equation 3-12: area between the equator and a parallel.
    """
    sine = np.tanh(np.linspace(top, bottom, rows + 1) / EARTH_M)  # sine of the latitude
    eccentricity = math.sqrt(FLATTENING * (2 - FLATTENING))
    polar = EARTH_M * (1 - FLATTENING)
    to_equator = sine / (1 - (eccentricity * sine) ** 2) + np.arctanh(eccentricity * sine) / eccentricity
    return -np.diff(to_equator) * polar**2 / 2 * column_m / EARTH_M
