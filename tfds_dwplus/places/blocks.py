"""Divides a region of the earth into blocks of a fixed UTM grid, so that each place lies in exactly one block. Pure functions.

Enters: a box, or the polygons of a GeoJSON file, in degrees. Leaves: square blocks of the UTM zones that they touch; for each
block, a mask of its 10 m pixels that belong to the region, and the area of each pixel.

The grid does not depend on the region: block (x, y) of `size_px` pixels starts x and y times its side from the origin of its zone,
so its pixels coincide with those of Sentinel-2's tiles. All zones are six degrees wide, north and south of the equator; the wider
zones of Norway and Svalbard are not used. A block at the border of its zone also covers pixels of the next zone. A pixel belongs to
the block of the zone in which its centre lies, so that nothing is mapped twice.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import rasterio
import shapely
from jaxtyping import Bool, Float
from rasterio.crs import CRS
from rasterio.features import geometry_mask
from rasterio.warp import transform as transform_coordinates

from tfds_dwplus.files.shapes import rings_of
from tfds_dwplus.files.strangers import one_line, parse_json
from tfds_dwplus.imagery.grids import Grid

PIXEL_M = 10
SOUTH, NORTH = -80.0, 84.0
"""Latitudes between which UTM is defined."""

DEGREES = CRS.from_epsg(4326)

MOST_POINTS = 5_000_000
"""Of a region. Coast lines of a continent in full detail have some million."""

_FINE = 0.01
"""Distance of the points inserted into an edge before it is reprojected, degrees. Between them, an edge that is straight in degrees
bends by less than a tenth of a metre."""


@dataclasses.dataclass(frozen=True, order=True)
class Block:
    """A square block of the grid of a UTM zone."""

    zone: str
    """UTM zone, 01N to 60N or 01S to 60S."""
    x: int
    """Column of the block, counted eastwards from easting 0 of the zone."""
    y: int
    """Row of the block, counted northwards from northing 0 of the zone."""
    size_px: int

    @property
    def name(self) -> str:
        """Returns the name of the block, which its files have."""
        return f"{self.zone}_{self.x}_{self.y}"

    @property
    def crs(self) -> CRS:
        """Returns the CRS: UTM on WGS 84."""
        return CRS.from_epsg((32600 if self.zone.endswith("N") else 32700) + int(self.zone[:-1]))

    @property
    def rows(self) -> range:
        """Returns the rows of its pixels, counted over the whole zone southwards from northing 0."""
        return range(-(self.y + 1) * self.size_px, -self.y * self.size_px)

    @property
    def columns(self) -> range:
        """Returns the columns of its pixels, counted over the whole zone eastwards from easting 0."""
        return range(self.x * self.size_px, (self.x + 1) * self.size_px)

    @property
    def grid(self) -> Grid:
        """Returns the grid of its pixels."""
        return self.part(self.rows, self.columns)

    def part(self, rows: range, columns: range) -> Grid:
        """Returns the grid of some rows and columns of the zone."""
        corner = rasterio.Affine(PIXEL_M, 0, columns.start * PIXEL_M, 0, -PIXEL_M, -rows.start * PIXEL_M)
        return Grid(self.crs, corner, len(rows), len(columns))


def box(west: float, south: float, east: float, north: float) -> shapely.Geometry:
    """Returns the region of a box in degrees; west > east means across the antimeridian.

    Raises:
        ValueError: the box has no area, or reaches beyond the globe or UTM.
    """
    if not (-180 <= west <= 180 and -180 <= east <= 180 and west != east and south < north):
        raise ValueError(
            f"the box {west:g} {south:g} {east:g} {north:g} has no area; expected degrees west south east north, "
            "west > east across the antimeridian"
        )
    parts = [(west, east)] if west < east else [(west, 180.0), (-180.0, east)]
    return _checked(
        shapely.unary_union([shapely.box(left, south, right, north) for left, right in parts if left < right])
    )


def from_geojson(text: str | bytes, name: str) -> shapely.Geometry:
    """Returns the region of a GeoJSON text: the union of all its polygons.

    A polygon may cross the antimeridian with longitudes beyond 180, or with an edge longer than half the globe (taken to go the
    short way round), or be cut there, as RFC 7946 demands.

    Raises:
        ValueError: the text is not GeoJSON, has no polygons or other geometries, is not in degrees, or reaches beyond UTM.
    """
    try:
        tree = parse_json(text, name)
    except ValueError as error:
        raise ValueError(f"{error}; expected GeoJSON with polygons") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("type"), str):
        raise ValueError(f"{name} is not GeoJSON; expected an object with a type, of polygons")
    crs = str(tree.get("crs") or "")
    if crs and "CRS84" not in crs and "4326" not in crs:
        raise ValueError(
            f"{name} is in another CRS ({one_line(crs, 80)}); expected degrees, as RFC 7946 has it: reproject it"
        )
    polygons = []
    for geometry in _geometries(tree):
        if geometry.get("type") not in ("Polygon", "MultiPolygon"):
            raise ValueError(f"{name} holds a {one_line(geometry.get('type'), 40)}, expected Polygon or MultiPolygon")
        try:
            polygons += _shapes(geometry)
        except (ValueError, shapely.errors.ShapelyError) as error:
            raise ValueError(f"{name} holds a polygon that is none ({one_line(error)}); expected GeoJSON") from None
    if not polygons or all(polygon.is_empty for polygon in polygons):
        raise ValueError(f"{name} holds no polygon; expected GeoJSON with Polygon or MultiPolygon")
    west, south, east, north = shapely.total_bounds(polygons)
    if west < -360 or east > 360 or south < -90 or north > 90 or not np.isfinite([west, south, east, north]).all():
        raise ValueError(
            f"{name} reaches from {west:g} {south:g} to {east:g} {north:g}, expected longitude and latitude in degrees; reproject it"
        )
    return _checked(_on_globe(polygons))


def footprint_of(geometry: dict[str, Any] | None) -> shapely.Geometry | None:
    """Returns the footprint of a scene, GeoJSON in degrees as `from_geojson` takes it; None if it is not known, or is none."""
    try:
        return _on_globe(_shapes(geometry))
    except (ValueError, shapely.errors.ShapelyError):
        return None


def search_bounds(region: shapely.Geometry) -> tuple[float, float, float, float]:
    """Returns west, south, east, north of a region in degrees, for an archive search; west > east across the antimeridian."""
    west, south, east, north = region.bounds
    if west == -180 and east == 180:
        parts = [shapely.intersection(region, shapely.box(*half)) for half in ((0, -90, 180, 90), (-180, -90, 0, 90))]
        first, last = parts[0].bounds[0], parts[1].bounds[2]
        if first > last:  # otherwise the region goes around the globe
            west, east = first, last
    return west, south, east, north


def region_hectares(region: shapely.Geometry) -> float:
    """Returns the area of a region on the ellipsoid; its edges are straight lines in degrees."""
    return shapely.area(_reprojected(shapely.segmentize(region, _FINE), DEGREES, _equal_area(0))) / 1e4


def blocks_of(region: shapely.Geometry, size_px: int) -> Iterator[Block]:
    """Yields the blocks that a region touches, zone by zone, in each zone from the south west."""
    side = size_px * PIXEL_M
    for zone, part in zone_parts(region):
        shapely.prepare(part)
        left, bottom, right, top = (math.floor(v / side) for v in part.bounds)
        x = np.arange(left, right + 1)
        for y in range(bottom, top + 1):  # row by row: a zone has 60 million blocks of 32 pixels
            touched = shapely.intersects(part, shapely.box(x * side, y * side, (x + 1) * side, (y + 1) * side))
            yield from (Block(zone, int(column), y, size_px) for column in x[touched])


def zone_parts(region: shapely.Geometry) -> Iterator[tuple[str, shapely.Geometry]]:
    """Yields each zone that a region touches, and the part of the region in it, in metres of the zone's CRS."""
    west, _, east, _ = region.bounds
    for number in range(max(_zone_number(west), 1), min(_zone_number(east), 60) + 1):
        for hemisphere in "NS":
            zone = f"{number:02d}{hemisphere}"
            inside = _polygons(shapely.intersection(region, _zone_box(zone)))
            if not inside.is_empty:
                part = _reprojected(shapely.segmentize(inside, _FINE), DEGREES, Block(zone, 0, 0, 1).crs)
                yield zone, shapely.make_valid(part)


@functools.cache
def zone_outline(zone: str) -> shapely.Geometry:
    """Returns the outline of a zone, in metres of its CRS."""
    outline = _reprojected(shapely.segmentize(_zone_box(zone), _FINE), DEGREES, Block(zone, 0, 0, 1).crs)
    shapely.prepare(outline)
    return outline


def degrees_of(crs: CRS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns longitudes and latitudes of coordinates of a CRS."""
    lon, lat = transform_coordinates(crs, DEGREES, x, y)
    return np.array(lon), np.array(lat)


def inside(block: Block, region: shapely.Geometry) -> Bool[np.ndarray, "size size"]:
    """Returns a mask of the pixels of a block whose centre lies in the region and in the block's zone."""
    part = shapely.make_valid(_reprojected(shapely.segmentize(_near(block, region), _FINE), DEGREES, block.crs))
    part = _polygons(part)
    if part.is_empty:
        return np.zeros(block.grid.shape, bool)
    return geometry_mask([shapely.geometry.mapping(part)], block.grid.shape, block.grid.transform, invert=True)


def footprint(block: Block, region: shapely.Geometry) -> shapely.Geometry:
    """Returns the part of a region that lies in a block, in degrees."""
    return _polygons(shapely.intersection(_near(block, region), _outline(block)))


def pixel_hectares(block: Block) -> Float[np.ndarray, "size size"]:
    """Returns the area of each pixel of a block on the ellipsoid; UTM distorts areas by -0.08 % to 0.2 % within a zone.

    Areas are measured in an equal-area projection (that of EPSG:6933, centred on the zone's meridian) for cells of 1/32 of the
    block's side, within which the distortion changes by a hundred-thousandth.
    """
    edges = np.unique(np.linspace(0, block.size_px, 33).round().astype(int))
    column, row = np.meshgrid(edges, edges)
    transform = block.grid.transform
    x, y = transform_coordinates(
        block.crs,
        _equal_area(_meridian(block.zone)),
        (transform.c + PIXEL_M * column).ravel(),
        (transform.f - PIXEL_M * row).ravel(),
    )
    x, y = np.reshape(x, row.shape), np.reshape(y, row.shape)
    # The area of a quadrangle is half the cross product of its diagonals.
    across = (x[1:, 1:] - x[:-1, :-1]) * (y[:-1, 1:] - y[1:, :-1]) - (x[:-1, 1:] - x[1:, :-1]) * (
        y[1:, 1:] - y[:-1, :-1]
    )
    sides = np.diff(edges)
    area = np.abs(across) / 2 / np.outer(sides, sides) / 1e4
    return area.repeat(sides, axis=0).repeat(sides, axis=1)


def _checked(region: shapely.Geometry) -> shapely.Geometry:
    if region.is_empty or not region.area:
        raise ValueError("the region has no area; expected polygons or a box with some")
    _, south, _, north = region.bounds
    if south < SOUTH or north > NORTH:
        raise ValueError(
            f"the region reaches from latitude {south:g} to {north:g}, UTM from {SOUTH:g} to {NORTH:g}; cut it there"
        )
    return region


def _on_globe(polygons: list[shapely.Polygon]) -> shapely.Geometry:
    """Returns the union of polygons, with what lies beyond 180 degrees put on the other side."""
    whole = shapely.unary_union([shapely.make_valid(polygon) for polygon in polygons])
    shifted = [shapely.transform(whole, lambda xy, by=by: np.add(xy, (by, 0))) for by in (-360, 0, 360)]
    world = shapely.box(-180, -90, 180, 90)
    return shapely.unary_union([_polygons(shapely.intersection(copy, world)) for copy in shifted])


def _shapes(geometry: dict[str, Any] | None) -> list[shapely.Polygon]:
    """Returns the polygons of a geometry of GeoJSON. Raises a ValueError or ShapelyError if it is broken."""
    return [_unwrapped(shapely.Polygon(rings[0], rings[1:])) for rings in rings_of(geometry, MOST_POINTS)]


def _geometries(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    inner = {"Feature": "geometry", "FeatureCollection": "features", "GeometryCollection": "geometries"}
    if (kind := str(tree.get("type"))) not in inner:
        yield tree
        return
    found = tree.get(inner[kind])
    for member in found if isinstance(found, list) else [found]:
        if isinstance(member, dict):
            yield from _geometries(member)


def _unwrapped(polygon: shapely.Polygon) -> shapely.Polygon:
    """Makes edges longer than half the globe go the short way round; longitudes may then be beyond 180."""

    def unrolled(ring: shapely.LinearRing) -> np.ndarray:
        xy = np.asarray(ring.coords)[:, :2]
        jump = np.diff(xy[:, 0], prepend=xy[:1, 0])
        turns = np.cumsum(np.where(np.abs(jump) > 180, -np.sign(jump), 0) * (np.abs(jump) < 360))
        if len(turns) and turns[-1]:
            raise ValueError("it goes around a pole; cut it along a meridian")
        return xy + np.stack([360 * turns, np.zeros(len(xy))], axis=1)

    outer = unrolled(polygon.exterior)
    west = outer[:, 0].min(initial=np.inf)
    # A hole may be given in longitudes of the other side of the antimeridian.
    holes = [
        np.add(xy, (360 * math.ceil((west - xy[:, 0].min() - 1e-9) / 360), 0))
        for xy in map(unrolled, polygon.interiors)
    ]
    return shapely.Polygon(outer, holes)


def _polygons(shape: shapely.Geometry) -> shapely.Geometry:
    """Returns only the polygons of a shape, without the lines and points that an intersection may leave."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    return shapely.multipolygons(parts[shapely.get_type_id(parts) == 3])


def _near(block: Block, region: shapely.Geometry) -> shapely.Geometry:
    """Returns the part of a region that lies in the block's zone and near the block."""
    west, south, east, north = _outline(block).bounds
    about = shapely.box(west - _FINE, south - _FINE, east + _FINE, north + _FINE)
    return _polygons(shapely.intersection(shapely.intersection(region, _zone_box(block.zone)), about))


def _outline(block: Block) -> shapely.Geometry:
    """Returns the outline of a block in degrees, with longitudes continuous over its zone: beyond 180 at the antimeridian."""
    corners = shapely.segmentize(shapely.Polygon(block.grid.corners), block.size_px * PIXEL_M / 8)
    middle = _meridian(block.zone)

    def to_degrees(xy: np.ndarray) -> np.ndarray:
        lon, lat = transform_coordinates(block.crs, DEGREES, xy[:, 0], xy[:, 1])
        return np.stack([(np.array(lon) - middle + 180) % 360 - 180 + middle, lat], axis=1)

    return shapely.transform(corners, to_degrees)


def _reprojected(shape: shapely.Geometry, source: CRS, target: CRS) -> shapely.Geometry:
    return shapely.transform(shape, lambda xy: np.stack(transform_coordinates(source, target, *xy.T), axis=1))


def _zone_number(longitude: float) -> int:
    """Returns the number of the UTM zone of a longitude."""
    return math.floor((longitude + 180) / 6) + 1


def _meridian(zone: str) -> int:
    """Returns the longitude of the central meridian of a zone, degrees."""
    return 6 * int(zone[:-1]) - 183


def _zone_box(zone: str) -> shapely.Geometry:
    middle = _meridian(zone)
    south, north = (0.0, NORTH) if zone.endswith("N") else (SOUTH, 0.0)
    return shapely.box(middle - 3, south, middle + 3, north)


@functools.cache
def _equal_area(meridian: int) -> CRS:
    """Returns EPSG:6933 with another central meridian: areas are the same, and a zone at the antimeridian is not cut."""
    return CRS.from_proj4(f"+proj=cea +lat_ts=30 +lon_0={meridian} +datum=WGS84 +units=m")
