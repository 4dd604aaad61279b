"""A region of the earth as blocks of a fixed grid, each place in one of them. Pure.

Enters: a box, or the polygons of a GeoJSON file, in degrees. Leaves: squares of the UTM zones that they touch; of each, which of its
10 m pixels belong to the region, and how much ground a pixel is.

The grid does not depend on the region: block (x, y) of `size_px` pixels begins x and y times its side from the origin of its zone,
so pixels lie on those of Sentinel-2's own tiles. Zones are the plain ones of six degrees (not the wider ones of Norway and
Svalbard, in which it makes no difference to a map of its own), north and south of the equator. A block at the border of its
zone holds pixels of the next one; they belong to the block of the zone in which their centre lies, so that nothing is mapped twice.
"""

import dataclasses
import functools
import json
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

from tfds_dwplus.grids import Grid

PIXEL_M = 10
SOUTH, NORTH = -80.0, 84.0
"""Latitudes at which UTM ends."""

DEGREES = CRS.from_epsg(4326)

_FINE = 0.01
"""Degrees between the points of an edge before it is brought into another CRS. A straight edge in degrees bends by less than a
tenth of a metre between them."""


@dataclasses.dataclass(frozen=True, order=True)
class Block:
    """A square of a zone's grid."""

    zone: str
    """1N to 60N, 1S to 60S; with two digits."""
    x: int
    """How many blocks east of the origin of the zone's eastings."""
    y: int
    """How many blocks north of the origin of the zone's northings."""
    size_px: int

    @property
    def name(self) -> str:
        """As files are called."""
        return f"{self.zone}_{self.x}_{self.y}"

    @property
    def crs(self) -> CRS:
        """UTM on WGS 84."""
        return CRS.from_epsg((32600 if self.zone.endswith("N") else 32700) + int(self.zone[:-1]))

    @property
    def rows(self) -> range:
        """Its rows, counted over the whole zone from the origin of its northings downwards."""
        return range(-(self.y + 1) * self.size_px, -self.y * self.size_px)

    @property
    def columns(self) -> range:
        """Its columns, counted over the whole zone from the origin of its eastings."""
        return range(self.x * self.size_px, (self.x + 1) * self.size_px)

    @property
    def grid(self) -> Grid:
        """That of its pixels."""
        return self.part(self.rows, self.columns)

    def part(self, rows: range, columns: range) -> Grid:
        """The grid of some rows and columns of the zone."""
        corner = rasterio.Affine(PIXEL_M, 0, columns.start * PIXEL_M, 0, -PIXEL_M, -rows.start * PIXEL_M)
        return Grid(self.crs, corner, len(rows), len(columns))


def box(west: float, south: float, east: float, north: float) -> shapely.Geometry:
    """The region of a box in degrees; west > east across the antimeridian.

    Raises:
        ValueError: it has no area, or reaches beyond the globe or UTM.
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


def from_geojson(text: str, name: str) -> shapely.Geometry:
    """The region of a GeoJSON text: of all polygons in it.

    A polygon may cross the antimeridian by longitudes beyond 180, or by an edge of more than half the globe, which is taken to go
    the short way round. RFC 7946 wants it cut there, which is good too.

    Raises:
        ValueError: it is no GeoJSON, holds no polygon or something else, is not in degrees, or reaches beyond UTM.
    """
    try:
        tree = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON ({error}); expected GeoJSON with polygons") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("type"), str):
        raise ValueError(f"{name} is not GeoJSON; expected an object with a type, of polygons")
    crs = str(tree.get("crs") or "")
    if crs and "CRS84" not in crs and "4326" not in crs:
        raise ValueError(f"{name} is in another CRS ({crs[:80]}); expected degrees, as RFC 7946 has it: reproject it")
    polygons = []
    for geometry in _geometries(tree):
        if geometry.get("type") not in ("Polygon", "MultiPolygon"):
            raise ValueError(f"{name} holds a {geometry.get('type')}, expected Polygon or MultiPolygon")
        try:
            shape = shapely.geometry.shape(geometry)
            polygons += [_across(part) for part in getattr(shape, "geoms", [shape])]
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, shapely.errors.ShapelyError) as error:
            raise ValueError(f"{name} holds a polygon that is none ({error}); expected GeoJSON") from None
    if not polygons or all(polygon.is_empty for polygon in polygons):
        raise ValueError(f"{name} holds no polygon; expected GeoJSON with Polygon or MultiPolygon")
    west, south, east, north = shapely.total_bounds(polygons)
    if west < -360 or east > 360 or south < -90 or north > 90 or not np.isfinite([west, south, east, north]).all():
        raise ValueError(
            f"{name} reaches from {west:g} {south:g} to {east:g} {north:g}, expected longitude and latitude in degrees; reproject it"
        )
    whole = shapely.unary_union([shapely.make_valid(polygon) for polygon in polygons])
    turns = [shapely.transform(whole, lambda xy, by=by: np.add(xy, (by, 0))) for by in (-360, 0, 360)]
    world = shapely.box(-180, -90, 180, 90)
    return _checked(shapely.unary_union([_polygons(shapely.intersection(turn, world)) for turn in turns]))


def search_bounds(region: shapely.Geometry) -> tuple[float, float, float, float]:
    """West, south, east, north of a region in degrees, as an archive is asked for it; west > east across the antimeridian."""
    west, south, east, north = region.bounds
    if west == -180 and east == 180:
        parts = [shapely.intersection(region, shapely.box(*half)) for half in ((0, -90, 180, 90), (-180, -90, 0, 90))]
        first, last = parts[0].bounds[0], parts[1].bounds[2]
        if first > last:  # else the region goes around the globe
            west, east = first, last
    return west, south, east, north


def region_hectares(region: shapely.Geometry) -> float:
    """Area of a region on the ellipsoid, whose edges are straight in degrees."""
    return shapely.area(_moved(shapely.segmentize(region, _FINE), DEGREES, _equal_area(0))) / 1e4


def blocks_of(region: shapely.Geometry, size_px: int) -> Iterator[Block]:
    """The blocks that a region touches, zone by zone, from the south west of each."""
    side = size_px * PIXEL_M
    west, _, east, _ = region.bounds
    for number in range(max(_number(west), 1), min(_number(east), 60) + 1):
        for hemisphere in "NS":
            zone = f"{number:02d}{hemisphere}"
            inside = _polygons(shapely.intersection(region, _zone_box(zone)))
            if inside.is_empty:
                continue
            there = _moved(shapely.segmentize(inside, _FINE), DEGREES, Block(zone, 0, 0, size_px).crs)
            there = shapely.make_valid(there)
            shapely.prepare(there)
            left, bottom, right, top = (math.floor(v / side) for v in there.bounds)
            x = np.arange(left, right + 1)
            for y in range(bottom, top + 1):  # not all at once: a zone has 60 million blocks of 32 pixels
                touched = shapely.intersects(there, shapely.box(x * side, y * side, (x + 1) * side, (y + 1) * side))
                yield from (Block(zone, int(column), y, size_px) for column in x[touched])


def inside(block: Block, region: shapely.Geometry) -> Bool[np.ndarray, "size size"]:
    """Which pixels of a block have their centre in the region and in the block's zone."""
    part = shapely.make_valid(_moved(shapely.segmentize(_near(block, region), _FINE), DEGREES, block.crs))
    part = _polygons(part)
    if part.is_empty:
        return np.zeros(block.grid.shape, bool)
    return geometry_mask([shapely.geometry.mapping(part)], block.grid.shape, block.grid.transform, invert=True)


def footprint(block: Block, region: shapely.Geometry) -> shapely.Geometry:
    """What a block holds of a region, in degrees."""
    return _polygons(shapely.intersection(_near(block, region), _outline(block)))


def pixel_hectares(block: Block) -> Float[np.ndarray, "size size"]:
    """Area of each pixel of a block on the ellipsoid: UTM stretches ground by -0.08 % to 0.2 % in a zone.

    Measured in an equal-area projection (that of EPSG:6933, about the zone's own meridian) for squares of 1/32 of the block's
    side, in which it changes by a hundred-thousandth.
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
    # Of a quadrangle, half the cross product of its diagonals.
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


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _geometries(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    inner = {"Feature": "geometry", "FeatureCollection": "features", "GeometryCollection": "geometries"}
    if (kind := str(tree.get("type"))) not in inner:
        yield tree
        return
    found = tree.get(inner[kind])
    for one in found if isinstance(found, list) else [found]:
        if isinstance(one, dict):
            yield from _geometries(one)


def _across(polygon: shapely.Polygon) -> shapely.Polygon:
    """A polygon whose edges of more than half the globe go the short way round; longitudes may then be beyond 180."""

    def unrolled(ring: shapely.LinearRing) -> np.ndarray:
        xy = np.asarray(ring.coords)[:, :2]
        jump = np.diff(xy[:, 0], prepend=xy[:1, 0])
        turns = np.cumsum(np.where(np.abs(jump) > 180, -np.sign(jump), 0) * (np.abs(jump) < 360))
        if len(turns) and turns[-1]:
            raise ValueError("it goes around a pole; cut it along a meridian")
        return xy + np.stack([360 * turns, np.zeros(len(xy))], axis=1)

    outer = unrolled(polygon.exterior)
    west = outer[:, 0].min(initial=np.inf)
    # A hole may be told in longitudes of the other side of the antimeridian.
    holes = [
        np.add(xy, (360 * math.ceil((west - xy[:, 0].min() - 1e-9) / 360), 0))
        for xy in map(unrolled, polygon.interiors)
    ]
    return shapely.Polygon(outer, holes)


def _polygons(shape: shapely.Geometry) -> shapely.Geometry:
    """Without the lines and points that an intersection leaves."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    return shapely.multipolygons(parts[shapely.get_type_id(parts) == 3])


def _near(block: Block, region: shapely.Geometry) -> shapely.Geometry:
    """The part of a region in the block's zone and about the block."""
    west, south, east, north = _outline(block).bounds
    about = shapely.box(west - _FINE, south - _FINE, east + _FINE, north + _FINE)
    return _polygons(shapely.intersection(shapely.intersection(region, _zone_box(block.zone)), about))


def _outline(block: Block) -> shapely.Geometry:
    """The block in degrees, with longitudes near those of its zone, so beyond 180 at the antimeridian."""
    corners = shapely.segmentize(shapely.Polygon(block.grid.corners), block.size_px * PIXEL_M / 8)
    middle = _meridian(block.zone)

    def to_degrees(xy: np.ndarray) -> np.ndarray:
        lon, lat = transform_coordinates(block.crs, DEGREES, xy[:, 0], xy[:, 1])
        return np.stack([(np.array(lon) - middle + 180) % 360 - 180 + middle, lat], axis=1)

    return shapely.transform(corners, to_degrees)


def _moved(shape: shapely.Geometry, source: CRS, target: CRS) -> shapely.Geometry:
    return shapely.transform(shape, lambda xy: np.stack(transform_coordinates(source, target, *xy.T), axis=1))


def _number(longitude: float) -> int:
    """Of the zone of a longitude."""
    return math.floor((longitude + 180) / 6) + 1


def _meridian(zone: str) -> int:
    """Degrees east of the middle of a zone."""
    return 6 * int(zone[:-1]) - 183


def _zone_box(zone: str) -> shapely.Geometry:
    middle = _meridian(zone)
    south, north = (0.0, NORTH) if zone.endswith("N") else (SOUTH, 0.0)
    return shapely.box(middle - 3, south, middle + 3, north)


@functools.cache
def _equal_area(meridian: int) -> CRS:
    """EPSG:6933, but about another meridian: areas are the same, and a zone at the antimeridian is in one piece."""
    return CRS.from_proj4(f"+proj=cea +lat_ts=30 +lon_0={meridian} +datum=WGS84 +units=m")
