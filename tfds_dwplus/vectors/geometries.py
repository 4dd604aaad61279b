"""Check geometries of vector files, and put them on the grid of a scene. Pure.

Enters: WKB that anyone may have made, in any CRS. Leaves: shapes in pixels of a scene, x the column and y the row, from its upper left
corner. WKB is taken apart here, not by GEOS, which walks down into collections without end.

A polygon's edge is straight in the CRS of its file: it is given points before it is projected. A point is a circle on the ground, of a
radius in metres on the ellipsoid, and in any case the pixel that it lies in.
"""

import collections
import dataclasses
import math
import struct
from collections.abc import Iterator

import numpy as np
import shapely
from jaxtyping import Float64, Int64
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_bounds

from tfds_dwplus.files.strangers import one_line
from tfds_dwplus.imagery.grids import Grid

MOST_POINTS = 20_000_000
"""Of all geometries together."""

_LARGEST = 1e9
"""Of a coordinate, as in `files.shapes`."""

_DEGREES = CRS.from_epsg(4326)

_FINE = 0.01, 1000.0
"""Distance of the points inserted into an edge before it is projected, degrees and metres. Between them an edge bends by centimetres."""

_CIRCLE = 64
"""Corners of a circle: its area is 0.2 % too small."""

_SEMI_MAJOR_M, _ECCENTRICITY_SQUARED = 6378137.0, 0.00669437999014
"""Of WGS 84."""

_KINDS = {1: "Point", 2: "LineString", 3: "Polygon", 4: "MultiPoint", 5: "MultiLineString", 6: "MultiPolygon"}
_KINDS |= {7: "GeometryCollection", 8: "CircularString", 9: "CompoundCurve", 10: "CurvePolygon", 12: "MultiSurface"}


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Geometries that can be burnt: MultiPolygons, and MultiPoints."""

    geometries: np.ndarray
    """shapely geometries in the CRS, [shape], objects."""
    feature: Int64[np.ndarray, " shape"]
    """Place in the file of each one's feature, from 0."""
    crs: CRS

    @property
    def has_points(self) -> bool:
        """Returns whether there is a point among them."""
        return bool((shapely.get_type_id(self.geometries) == shapely.GeometryType.MULTIPOINT).any())


def shapes_of(
    wkb: np.ndarray,
    chosen: Int64[np.ndarray, " chosen"],
    crs: CRS,
    what: str,
    *,
    mend: bool = False,
    option: str = "--labels",
    wanted: str = "polygon and no point with a class",
) -> tuple[Shapes, list[str]]:
    """Returns the geometries of features that can be burnt, and lines on the others, which the user should read.

    Args:
        wkb: of each feature, None for none, [feature], objects.
        chosen: places of the features that have a class.
        crs: of the coordinates.
        what: holds them, for messages.
        mend: whether polygons that are not valid are mended, by the even-odd rule, rather than refused.
        option: of the command line that named the file, for messages.
        wanted: of which the file has none if nothing is left, for messages.

    Raises:
        ValueError: one is no WKB, not valid, or has coordinates that are none of the CRS; all together have too many points; or none is
            left.
    """
    found, places, odd = [], [], collections.Counter()
    empty, left = 0, MOST_POINTS
    for place in chosen.tolist():
        content = wkb[place]
        try:
            kind, parts = ("", []) if content is None else _parts(content)
            if kind and kind not in ("Point", "MultiPoint", "Polygon", "MultiPolygon"):
                odd[kind] += 1
                continue
            left -= sum(len(ring) for rings in parts for ring in rings)
            if left < 0:
                raise ValueError(
                    f"with those before it more than {MOST_POINTS:,} points, expected fewer: simplify them"
                )
            if not parts:
                empty += 1
                continue
            for rings in parts:
                _check_coordinates(np.concatenate(rings), crs, option)
            if "Point" in kind:
                found.append(shapely.multipoints([rings[0][0] for rings in parts]))
            else:
                found.append(shapely.multipolygons([shapely.Polygon(rings[0], rings[1:]) for rings in parts]))
            places.append(place)
        except (ValueError, shapely.errors.ShapelyError) as error:
            raise ValueError(f"{what}: feature {place + 1} of {len(wkb)} has {one_line(error)}") from None
    geometries = np.empty(len(found), object)
    geometries[:] = found
    geometries, mended = _valid(geometries, places, len(wkb), what, mend=mend)
    lines = [f"{empty} of {len(wkb)} features of {what} have no geometry"] * bool(empty)
    lines += [
        f"{number} of {len(wkb)} features of {what} are of the type {kind}, and left out: polygons and points are taken"
        for kind, number in odd.items()
    ]
    lines += [f"{mended} polygons of {what} were not valid, and are mended"] * bool(mended)
    if not len(geometries):
        raise ValueError(f"{what} has no {wanted}" + f" ({lines[0]})" * bool(lines))
    return Shapes(geometries, np.array(places, np.int64), crs), lines


def on_grid(shapes: Shapes, grid: Grid, radius_m: float = 0.0) -> tuple[np.ndarray, Int64[np.ndarray, " inside"]]:
    """Puts shapes on the grid of a scene.

    Args:
        shapes: in any CRS.
        grid: of the scene.
        radius_m: of the circles that points become, 0 for the pixel alone.

    Returns:
        Polygons in pixels of the grid, objects, of the shapes that have a part in the scene; and the place of each among the shapes.
    """
    near = _near(shapes, grid, radius_m)
    is_point = shapely.get_type_id(shapes.geometries[near]) == shapely.GeometryType.MULTIPOINT
    pixels = np.empty(len(near), object)
    areas = near[~is_point]
    if len(areas):
        pixels[~is_point] = shapely.transform(
            _fine(shapes.geometries[areas], shapes.crs, grid), lambda xy: _pixels(xy, shapes.crs, grid)
        )
    if is_point.any():
        pixels[is_point] = _discs(shapes.geometries[near[is_point]], shapes.crs, grid, radius_m)
    there = shapely.intersects(pixels, shapely.box(0, 0, grid.width, grid.height))
    return pixels[there], near[there]


def _parts(content: bytes) -> tuple[str, list[list[Float64[np.ndarray, "point 2"]]]]:
    """Takes WKB or EWKB apart: its kind, and its polygons as lists of rings; a point is a ring of one. Other kinds have no parts."""
    reader = _Wkb(content)
    kind = reader.header()
    if kind in ("Point", "Polygon"):
        parts = [list(reader.rings(kind))]
    elif kind in ("MultiPoint", "MultiPolygon"):
        parts = []
        for _ in range(reader.count(5)):
            if (inner := reader.header()) != kind.removeprefix("Multi"):
                raise ValueError(f"a {inner} in a {kind}")
            parts.append(list(reader.rings(inner)))
    else:
        return kind, []
    if kind.endswith("Point"):
        return kind, [rings for rings in parts if not np.isnan(rings[0]).all()]  # POINT EMPTY
    return kind, [rings for rings in parts if rings and len(rings[0])]


class _Wkb:
    """Reads WKB from its start. Source: OGC 06-103r4, 8.2; the three high bits of EWKB as PostGIS writes them."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at, self._order, self._size = content, 0, "<", 2

    def header(self) -> str:
        order = self._take(1)[0]
        if order > 1:
            raise ValueError("no WKB")
        self._order = "<" if order else ">"
        code = self._number()
        flags, kind = code >> 29, code & 0x1FFFFFFF
        if flags & 1:
            self._number()  # SRID
        self._size = 2 + bool(flags & 4) + bool(flags & 2) + (0, 1, 1, 2)[min(kind // 1000, 3)]
        return _KINDS.get(kind % 1000, f"type {kind % 1000}")

    def count(self, least_bytes: int) -> int:
        """A number of members that take so many bytes at least."""
        number = self._number()
        if number * least_bytes > len(self._content) - self._at:
            raise ValueError("WKB that is cut short")
        return number

    def rings(self, kind: str) -> Iterator[Float64[np.ndarray, "point 2"]]:
        for _ in range(1 if kind == "Point" else self.count(4)):
            points = 1 if kind == "Point" else self.count(8 * self._size)
            numbers = np.frombuffer(self._take(8 * self._size * points), f"{self._order}f8")
            ring = numbers.reshape(points, self._size)[:, :2].astype(np.float64)
            if kind == "Polygon" and 0 < points < 3:
                raise ValueError(f"a ring of {points} points, expected 3 or more")
            yield ring

    def _number(self) -> int:
        return struct.unpack(f"{self._order}I", self._take(4))[0]

    def _take(self, count: int) -> bytes:
        part = self._content[self._at : self._at + count]
        if len(part) < count:
            raise ValueError("WKB that is cut short")
        self._at += count
        return part


def _check_coordinates(xy: Float64[np.ndarray, "point 2"], crs: CRS, option: str) -> None:
    if not np.isfinite(xy).all():
        raise ValueError("a coordinate that is no number")
    x, y = np.abs(xy).max(axis=0)
    if crs.is_geographic and (x > 540 or y > 90.0001):
        raise ValueError(
            f"the coordinates {x:g} {y:g}, but its CRS is {crs.to_string()[:40]}, of degrees; give the right one as {option}_crs"
        )
    if max(x, y) > _LARGEST:
        raise ValueError(f"the coordinates {x:g} {y:g}, expected less than {_LARGEST:g}")


def _valid(
    geometries: np.ndarray, places: list[int], features: int, what: str, *, mend: bool
) -> tuple[np.ndarray, int]:
    """Mends polygons that are not valid, and returns how many they were. Raises a ValueError if there are some and they are not to be."""
    wrong = np.flatnonzero(~shapely.is_valid(geometries))
    if not len(wrong):
        return geometries, 0
    if not mend:
        reason = one_line(shapely.is_valid_reason(geometries[wrong[0]]), 120)
        raise ValueError(
            f"{what}: {len(wrong)} of {features} features are not valid, the first one number {places[wrong[0]] + 1}, {reason}; mend them "
            "(QGIS: Fix geometries), or give --mend to have it done here"
        )
    geometries = geometries.copy()
    for place in wrong:
        parts = shapely.get_parts(shapely.get_parts(shapely.make_valid(geometries[place])))
        geometries[place] = shapely.multipolygons(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON])
    return geometries, len(wrong)


def _near(shapes: Shapes, grid: Grid, radius_m: float) -> Int64[np.ndarray, " near"]:
    """Places of the shapes that may have a part in a scene, by boxes in their own CRS."""
    boxes = _boxes(grid, shapes.crs, radius_m)
    return np.unique(shapely.STRtree(shapes.geometries).query(boxes)[1])


def _boxes(grid: Grid, crs: CRS, radius_m: float = 0.0) -> np.ndarray:
    """Boxes about a scene in another CRS, with a margin; two across the antimeridian. Raises a ValueError if it has no place there."""
    bounds = grid.bounds_in(crs)
    if bounds is None:
        raise ValueError(
            f"the scene, in {grid.crs.to_string()[:60]}, has no place in the CRS of the vector file, {crs.to_string()[:60]}; reproject that"
        )
    left, bottom, right, top = bounds
    unit = 1 / 111_000 if crs.is_geographic else 1 / crs.linear_units_factor[1]
    margin = 0.02 * (top - bottom) + 4 * radius_m * unit
    pairs = [(left, right)] if left <= right else [(left, 180.0), (-180.0, right)]
    return np.array([shapely.box(one - margin, bottom - margin, other + margin, top + margin) for one, other in pairs])


def _fine(geometries: np.ndarray, crs: CRS, grid: Grid) -> np.ndarray:
    """Cuts polygons to the surroundings of a scene in another CRS, and inserts points into their edges."""
    if crs == grid.crs:
        return geometries
    about = shapely.union_all(_boxes(grid, crs))
    inside = shapely.covered_by(geometries, about)
    cut = geometries.copy()
    cut[~inside] = shapely.intersection(geometries[~inside], about)
    return shapely.segmentize(cut, _FINE[0] if crs.is_geographic else _FINE[1] / crs.linear_units_factor[1])


def _pixels(xy: Float64[np.ndarray, "point 2"], crs: CRS, grid: Grid) -> Float64[np.ndarray, "point 2"]:
    x, y = _projected(xy[:, 0], xy[:, 1], crs, grid.crs)
    return np.stack(~grid.transform @ (x, y), axis=-1)


def _discs(geometries: np.ndarray, crs: CRS, grid: Grid, radius_m: float) -> np.ndarray:
    """Points as the pixels that they lie in, and circles about them; those of one feature together."""
    xy, owner = shapely.get_coordinates(geometries, return_index=True)
    column, row = np.floor(_pixels(xy, crs, grid)).T
    discs = shapely.box(column, row, column + 1, row + 1)
    if radius_m:
        rings = _circles(xy, crs, grid, radius_m)
        discs = shapely.union(discs, shapely.polygons(rings))
    starts = np.searchsorted(owner, np.arange(len(geometries)))
    joined = np.empty(len(geometries), object)
    joined[:] = [
        shapely.union_all(discs[one:other]) for one, other in zip(starts, [*starts[1:], len(owner)], strict=True)
    ]
    return joined


def _circles(
    xy: Float64[np.ndarray, "point 2"], crs: CRS, grid: Grid, radius_m: float
) -> Float64[np.ndarray, "point corner 2"]:
    """Corners of circles on the ellipsoid, in pixels, by its two radii of curvature at each point."""
    lon, lat = _projected(xy[:, 0], xy[:, 1], crs, _DEGREES)
    squeezed = 1 - _ECCENTRICITY_SQUARED * np.sin(np.radians(lat)) ** 2
    meridian = _SEMI_MAJOR_M * (1 - _ECCENTRICITY_SQUARED) / squeezed**1.5
    parallel = _SEMI_MAJOR_M / np.sqrt(squeezed) * np.maximum(np.cos(np.radians(lat)), 1e-6)
    angle = 2 * math.pi * np.arange(_CIRCLE) / _CIRCLE
    north = lat[:, None] + np.degrees(radius_m * np.sin(angle) / meridian[:, None])
    east = lon[:, None] + np.degrees(radius_m * np.cos(angle) / parallel[:, None])
    corners = np.stack([east.ravel(), north.ravel()], axis=-1)
    return _pixels(corners, _DEGREES, grid).reshape(len(xy), _CIRCLE, 2)


def _projected(x: np.ndarray, y: np.ndarray, crs: CRS, to: CRS) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in another CRS. Raises a ValueError if they have none there."""
    if crs == to:
        return x, y
    try:
        east, north = map(np.asarray, transform_points(crs, to, x, y))
    except (CRSError, RasterioError, CPLE_BaseError) as error:
        raise ValueError(
            f"the vector file has no place in {to.to_string()[:60]} ({one_line(error, 100)}); reproject it"
        ) from None
    if not (np.isfinite(east).all() and np.isfinite(north).all()):
        raise ValueError(f"the vector file has no place in {to.to_string()[:60]}; reproject it")
    return east, north


def bounds_told(shapes: Shapes) -> str:
    """Tells where shapes lie, 'longitude 72.1 to 72.3, latitude 30.1 to 30.2', for messages."""
    return _told(shapes.crs, tuple(shapely.total_bounds(shapes.geometries)))


def grid_told(grid: Grid) -> str:
    """The same of a scene."""
    return _told(grid.crs, grid.bounds)


def _told(crs: CRS, bounds: tuple[float, float, float, float]) -> str:
    try:
        west, south, east, north = transform_bounds(crs, _DEGREES, *bounds)
    except (CRSError, RasterioError, CPLE_BaseError):
        return f"{', '.join(f'{v:.7g}' for v in bounds)} of {crs.to_string()[:60]}"
    return f"longitude {west:.4f} to {east:.4f}, latitude {south:.4f} to {north:.4f}"
