"""The area on the ellipsoid (WGS 84) of the pixels of any grid, and of polygons in any CRS. Pure.

The nominal size of a pixel is not its area: in UTM it is off by -0.08 % to 0.2 %, in web Mercator by a factor of four at 60 degrees, and
in degrees it says nothing. So corners are put into an equal-area projection, about the longitude of the window or polygon, so that none
is cut at the antimeridian.
"""

import math

import numpy as np
import shapely
from jaxtyping import Float, Float64, Int64
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points

from tfds_dwplus.imagery.grids import Grid

_DEGREES = CRS.from_epsg(4326)

_CELL_M, _MOST_CELL_PX = 1000.0, 64
"""Side of the cells whose corners are projected: over a kilometre the scale of web Mercator changes by some ten-thousandths, on a line."""

_POLAR = 80.0
"""Latitude beyond which a grid that is not in degrees is measured in a polar projection: in a cylindrical one the pole is a line."""

_FINE_DEGREES, _FINE_M = 0.01, 1000.0
"""Distance of the points that are put into an edge before it is projected."""

_MOST_INSERTED = 2_000_000
"""Points that are put into a polygon: a file of a stranger may have a million edges from pole to pole."""


def pixel_hectares(grid: Grid, rows: range, columns: range) -> Float[np.ndarray, "rows columns"]:
    """Returns the area of each pixel of a window in hectares: means of cells of a kilometre, and between their middles on a line."""
    step = _cell_px(grid)
    row_edges, column_edges = _edges(rows, step), _edges(columns, step)
    column, row = np.meshgrid(column_edges, row_edges)
    x, y = grid.transform @ (column.ravel().astype(np.float64), row.ravel().astype(np.float64))
    middle = grid.transform @ ((columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2)
    x, y = transform_points(grid.crs, _equal_area_at(grid.crs, *middle), x, y)
    x, y = np.reshape(x, row.shape), np.reshape(y, row.shape)
    # The area of a quadrangle is half the cross product of its diagonals.
    across = (x[1:, 1:] - x[:-1, :-1]) * (y[:-1, 1:] - y[1:, :-1]) - (x[:-1, 1:] - x[1:, :-1]) * (
        y[1:, 1:] - y[:-1, :-1]
    )
    cells = np.abs(across) / 2e4 / np.outer(np.diff(row_edges), np.diff(column_edges))
    return _between(_between(cells, row_edges).T, column_edges).T


def polygon_hectares(geometries: np.ndarray, crs: CRS) -> Float[np.ndarray, " polygon"]:
    """Returns the area of polygons in hectares; their edges are straight in their CRS.

    Args:
        geometries: shapely polygons, [polygon], objects.
        crs: of their coordinates.
    """
    fine = _FINE_DEGREES if crs.is_geographic else _FINE_M / crs.linear_units_factor[1]
    steps = np.maximum(fine, shapely.length(geometries) / _MOST_INSERTED).tolist()
    return np.array(
        [_hectares(shapely.segmentize(one, step), crs) for one, step in zip(geometries, steps, strict=True)], np.float64
    )


def _hectares(polygon: shapely.Geometry, crs: CRS) -> float:
    xy = shapely.get_coordinates(polygon)
    middle = (xy.min(axis=0) + xy.max(axis=0)) / 2
    to = _equal_area_at(crs, *middle.tolist())
    moved = shapely.transform(polygon, lambda xy: np.stack(transform_points(crs, to, xy[:, 0], xy[:, 1]), axis=-1))
    return float(shapely.area(moved)) / 1e4


def _equal_area_at(crs: CRS, x: float, y: float) -> CRS:
    """Returns an equal-area projection for what lies about a point: cylindrical as EPSG:6933, polar near a pole.

    Meridians and parallels are straight in the cylindrical one, so of a grid in degrees its areas are exact.
    """
    if crs.is_geographic:
        lon, lat = x, 0.0
    else:
        (lon,), (lat,) = transform_points(crs, _DEGREES, [x], [y])
    if abs(lat) > _POLAR:
        return CRS.from_proj4(f"+proj=laea +lat_0={math.copysign(90, lat):g} +lon_0={lon:.6f} +datum=WGS84 +units=m")
    return CRS.from_proj4(f"+proj=cea +lat_ts=30 +lon_0={lon:.6f} +datum=WGS84 +units=m")


def _cell_px(grid: Grid) -> int:
    """Side of a cell in pixels, 1 for pixels of a kilometre and more."""
    a, b, _, d, e, _ = grid.transform[:6]
    metres = 111_000.0 if grid.crs.is_geographic else grid.crs.linear_units_factor[1]
    side = max(math.hypot(a, d), math.hypot(b, e)) * metres
    return int(min(max(_CELL_M // side, 1), _MOST_CELL_PX))


def _edges(pixels: range, step: int) -> Int64[np.ndarray, " edge"]:
    """Edges of cells of about `step` pixels; two cells at least, between which there is a line, unless there is one pixel alone."""
    cells = min(max(-(-len(pixels) // step), 2), len(pixels))
    return np.linspace(pixels.start, pixels.stop, cells + 1).round().astype(np.int64)


def _between(
    cells: Float[np.ndarray, "cell other"], edges: Int64[np.ndarray, " edge"]
) -> Float64[np.ndarray, "pixel other"]:
    """Values at each pixel, on a line through the middles of the nearest two cells, also beyond the last one."""
    pixel = np.arange(edges[0], edges[-1]) + 0.5
    middle = (edges[1:] + edges[:-1]) / 2
    if len(middle) == 1:
        return cells.repeat(len(pixel), axis=0)
    left = np.clip(np.searchsorted(middle, pixel) - 1, 0, len(middle) - 2)
    share = ((pixel - middle[left]) / (middle[left + 1] - middle[left]))[:, None]
    return cells[left] * (1 - share) + cells[left + 1] * share  # no matrix product: it waits for threads of others
