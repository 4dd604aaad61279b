"""How much of a grid a scene covers, by its footprint.

Enters: a footprint as GeoJSON in degrees, as archives write it: cut at the antimeridian into parts on both sides, or going on
beyond 180 degrees, or with edges that seem to run round the earth. Leaves: its rings in the CRS of a grid, or the share of
the grid inside. A footprint that is missing or broken counts as covering all: only the pixels can tell.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from rasterio.warp import transform

from tfds_dwplus.files.shapes import Ring, rings_of
from tfds_dwplus.imagery.grids import Grid

MOST_POINTS = 20_000
"""Of a footprint; what archives write has tens to some hundreds."""

SAMPLES = 32
"""Points along each side of a grid at which cover is looked at."""

LEAST_AREA = 1e-9
"""Square degrees, about 10 square metres. A smaller polygon is a left-over of cutting."""


def covered_share(geometry: dict[str, Any] | None, grid: Grid) -> float:
    """Share of the grid inside a footprint, 0 to 1; 1 if it is not known."""
    return float(covered(geometry, grid).mean())


def covered(geometry: dict[str, Any] | None, grid: Grid) -> Bool[np.ndarray, "row column"]:
    """Marks which of `SAMPLES` x `SAMPLES` cells of the grid have their middle inside a footprint; all if it is not known."""
    polygons = footprint(geometry, grid)
    if polygons is None:
        return np.ones((SAMPLES, SAMPLES), bool)
    along = (np.arange(SAMPLES) + 0.5) / SAMPLES
    columns, rows = np.meshgrid(along * grid.width, along * grid.height)
    x, y = grid.transform @ (columns, rows)
    inside = np.zeros(x.shape, bool)
    for rings in polygons:
        inside |= np.logical_xor.reduce([_inside(ring, x, y) for ring in rings])
    return inside


def footprint(geometry: dict[str, Any] | None, grid: Grid) -> list[list[Ring]] | None:
    """The polygons of a footprint in the CRS of a grid, each a list of rings, of which the first is the outer one.

    Returns:
        None if it is not known: it is missing, has no area, crosses itself, goes round a pole, or cannot be projected.
    """
    try:
        parts = [[_points(ring) for ring in rings] for rings in rings_of(geometry, MOST_POINTS)]
    except ValueError:
        return None
    parts = [[_unwrapped(ring) for ring in rings] for rings in parts]
    if any(ring is None for rings in parts for ring in rings):
        return None
    middle = _middle(grid)
    polygons = [[_projected(ring, middle, grid) for ring in rings] for rings in parts if _area(rings[0]) > LEAST_AREA]
    return polygons if polygons and all(np.isfinite(ring).all() for rings in polygons for ring in rings) else None


def _points(points: Ring) -> Float64[np.ndarray, "corner 2"]:
    """Longitudes and latitudes of a ring, the first one not repeated at the end. Raises a ValueError if it is broken."""
    if len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    if len(points) < 3 or not (np.abs(points) <= (540, 90)).all():
        raise ValueError("no ring in degrees")
    return points


def _unwrapped(ring: Ring) -> Ring | None:
    """A ring whose longitudes go on beyond 180 where it crosses the antimeridian. None if it goes round a pole, or is twisted.

    An edge over more than half of the earth is meant to go the other way.
    """
    points = np.stack([np.unwrap(ring[:, 0], period=360), ring[:, 1]], axis=-1)
    return None if abs(points[0, 0] - points[-1, 0]) > 180 or _is_twisted(points) else points


def _projected(ring: Ring, middle: float, grid: Grid) -> Ring:
    """A ring in the CRS of a grid, at the longitudes nearest to the grid's middle."""
    lon, lat = ring.T
    lon = lon + 360 * round((middle - (lon.min() + lon.max()) / 2) / 360)
    if grid.crs.is_geographic:
        return np.stack([lon, lat], axis=-1)
    return np.stack(transform("EPSG:4326", grid.crs, lon, lat), axis=-1)


def _middle(grid: Grid) -> float:
    """Longitude of the middle of a grid."""
    x, y = grid.transform @ (grid.width / 2, grid.height / 2)
    if grid.crs.is_geographic:
        return x
    (lon,), _ = transform(grid.crs, "EPSG:4326", [x], [y])
    return lon


def _inside(
    ring: Ring, x: Float64[np.ndarray, "row column"], y: Float64[np.ndarray, "row column"]
) -> Bool[np.ndarray, "row column"]:
    """Marks points inside a ring: those from which a ray to the right crosses an odd number of edges."""
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def _area(ring: Ring) -> float:
    following = np.roll(ring, -1, axis=0)
    return abs(float((ring[:, 0] * following[:, 1] - following[:, 0] * ring[:, 1]).sum())) / 2


def _is_twisted(ring: Ring) -> bool:
    """Whether a ring crosses itself so that its parts turn both ways, as one whose corners are in a wrong order.

    The area by its corners then is less than what it encloses. Small knots, which many footprints have, do no harm.
    """
    (west, south), (east, north) = ring.min(axis=0), ring.max(axis=0)
    along = (np.arange(2 * SAMPLES) + 0.5) / (2 * SAMPLES)
    x, y = np.meshgrid(west + along * (east - west), south + along * (north - south))
    enclosed = _inside(ring, x, y).mean() * (east - west) * (north - south)
    return bool(_area(ring) < enclosed / 2)
