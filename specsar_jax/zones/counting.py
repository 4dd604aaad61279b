"""Hectares of each class in each zone: a pixel that a zone covers in part counts by that share.

Enters: a map, or other codes of pixels, and zones in any CRS. Leaves: sums. The map is cut into quarters, and zones with it, until a
window has at most `LEAF_PX` a side: each window is read once, whatever the number of zones, and memory does not grow with the map. Shares
of pixels are those of exactextract; a pixel counts with its area on the ellipsoid.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio
import shapely
from jaxtyping import Float64, Integer, UInt8
from rasterio.windows import Window

from specsar_jax.zones.map_parts import Mapped, Part
from specsar_jax.zones.polygons import Zones
from tfds_dwplus import bands
from tfds_dwplus.bands import Classes
from tfds_dwplus.files.opening import open_raster
from tfds_dwplus.files.raster_files import GDAL_ERRORS
from tfds_dwplus.files.strangers import one_line
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.places import blocks
from tfds_dwplus.places.true_areas import pixel_hectares, polygon_hectares
from tfds_dwplus.vectors.geometries import Shapes, bounds_told, grid_told, on_grid

LEAF_PX = 512
"""Side of a window that is read at once."""

CACHE_BYTES = 128 << 20
"""Of GDAL, for blocks that several windows lie in: set before the first pixel is read, or it takes a twentieth of the machine's memory."""

_ROUNDING = 2e-6
"""Share of a zone outside of the map that is taken for none: by so much two ways to an area may differ."""

_EDGE_PX = 1e-6
"""A zone that reaches beyond the map by less lies in it."""


@dataclasses.dataclass(frozen=True)
class Counted:
    """Areas by zone, in hectares. Those of the classes, `nodata` and `outside` together are the zone."""

    classes: Float64[np.ndarray, "zone class"]
    nodata: Float64[np.ndarray, " zone"]
    """In the map, but of no class."""
    outside: Float64[np.ndarray, " zone"]
    """Not in the map."""

    @property
    def mapped(self) -> Float64[np.ndarray, " zone"]:
        """Area with a class."""
        return self.classes.sum(axis=-1)

    @property
    def total(self) -> Float64[np.ndarray, " zone"]:
        """Area of the zone."""
        return self.mapped + self.nodata + self.outside

    def __getitem__(self, chosen: slice) -> "Counted":
        """Returns some of the zones."""
        return Counted(self.classes[chosen], self.nodata[chosen], self.outside[chosen])


Reader = Callable[[range, range], Integer[np.ndarray, "rows columns"]]
"""Returns the codes of some rows and columns of a raster."""


@dataclasses.dataclass(frozen=True)
class Codes:
    """What is counted in zones: a code of each pixel of some rasters, 0 to `kinds` - 1, or `kinds` for nodata."""

    name: Path | str
    """Of the map, for messages."""
    parts: tuple[Part, ...]
    kinds: int
    opened: Callable[[Part], contextlib.AbstractContextManager[Reader]]


def count(mapped: Mapped, zones: Zones, done: Callable[[int], object] = lambda pixels: None) -> tuple[Counted, Counted]:
    """Measures the classes of a map in each zone, and in all zones together, where each place counts once.

    Args:
        mapped: the map.
        zones: may overlap; each is measured by itself.
        done: is called with numbers of pixels as they are dealt with, of all rasters of the map together.

    Returns:
        Areas of the zones, and those of all together, as one zone.

    Raises:
        ValueError: no zone has a part in the map; the map has codes of no class, or cannot be read.
    """

    @contextlib.contextmanager
    def opened(part: Part) -> Iterator[Reader]:
        with open_raster(part.path, anywhere=mapped.anywhere) as raster:
            yield lambda rows, columns: _ids(raster, rows, columns, mapped, part)

    return count_codes(Codes(mapped.path, mapped.parts, len(mapped.classes), opened), zones, done)


def count_codes(
    codes: Codes, zones: Zones, done: Callable[[int], object] = lambda pixels: None
) -> tuple[Counted, Counted]:
    """Measures codes in each zone, as `count` does the classes of a map: `Counted.classes` has a column for each code.

    Raises:
        ValueError: no zone has a part in the rasters; or what `codes` raise.
    """
    shapes = zones.with_union()
    number, kinds = len(shapes.geometries), codes.kinds
    sums, covered = np.zeros((number, kinds + 1)), np.zeros(number)
    inside = np.zeros(number, bool)
    for part in codes.parts:
        if part.utm_zone:
            pixels, places, cut = _at_border(shapes, part)
            of_part = _sums(part, codes, [*zip(places, pixels, strict=True), *cut], 2 * number, done)
            sums += of_part[:number]
            areas = of_part.sum(axis=1)
            covered += np.where(
                np.isin(np.arange(number), [place - number for place, _ in cut]), areas[number:], areas[:number]
            )
        else:
            pixels, places = on_grid(shapes, part.grid)
            frame = shapely.box(0, 0, part.grid.width, part.grid.height)
            inside[places] = shapely.covered_by(pixels, frame.buffer(_EDGE_PX))
            sums += _sums(part, codes, list(zip(places.tolist(), _mended(pixels), strict=True)), number, done)
            covered = sums.sum(axis=1)
    if not covered.any():
        grid = max(codes.parts, key=lambda part: part.grid.height * part.grid.width).grid
        raise ValueError(
            f"no zone has a part in the map: the zones lie at {bounds_told(shapes)}, {codes.name} at {grid_told(grid)}; is the CRS of the "
            "zones right?"
        )
    whole = polygon_hectares(shapes.geometries, zones.crs)
    outside = whole - covered
    outside[inside | (outside < _ROUNDING * whole)] = 0.0
    classes = sums[:, :kinds]
    # Where UTM zones meet, the mapped pixels of both sides cover the ground but for what cancels out; no hole is made of that.
    nodata = np.maximum(covered - classes.sum(axis=1), 0.0)
    nodata[sums[:, kinds] == 0] = 0.0
    counted = Counted(classes, nodata, outside)
    return counted[:-1], counted[-1:]


def check_ids(ids: UInt8[np.ndarray, "height width"], classes: Classes, path: Path | str) -> None:
    """Raises a ValueError if pixels of a map are of no class, and not nodata."""
    known = np.zeros(bands.IGNORE + 1, bool)
    known[[*range(len(classes)), bands.IGNORE]] = True
    if not known[ids].all():
        raise ValueError(
            f"{path} holds {ids[~known[ids]][0]}, expected ids of its {len(classes)} classes, 0 to {len(classes) - 1}, and nodata 255"
        )


def _ids(
    raster: rasterio.DatasetReader, rows: range, columns: range, mapped: Mapped, part: Part
) -> Integer[np.ndarray, "rows columns"]:
    """Reads class ids, and the number of classes for nodata."""
    try:
        ids = raster.read(mapped.band, window=Window(columns.start, rows.start, len(columns), len(rows)))
    except GDAL_ERRORS as error:
        raise ValueError(
            f"cannot read the pixels of {part.path}; is the file cut short? ({one_line(error.__cause__ or error)})"
        ) from None
    if mapped.coding:
        ids = mapped.coding.ids(ids)
    check_ids(ids, mapped.classes, part.path)
    return np.where(ids == bands.IGNORE, np.uint8(len(mapped.classes)), ids)


def _at_border(shapes: Shapes, part: Part) -> tuple[np.ndarray, list[int], list[tuple[int, shapely.Geometry]]]:
    """Puts zones on the grid of a mosaic, where each pixel with a class lies in its UTM zone by its centre.

    So classes are counted in whole zones: cut at the border, half a pixel would be missing along it. The ground that a mosaic covers
    ends at the border, beyond which the next one covers it.

    Returns:
        Zones in pixels, and their places; and of zones that reach beyond the border the part within it, by place + number of zones.
    """
    pixels, places = on_grid(shapes, part.grid)
    pixels, outline = _mended(pixels), _zone_outline(part)
    beyond = ~shapely.covered_by(pixels, outline)
    within = shapely.intersection(pixels[beyond], outline)
    number = len(shapes.geometries)
    return pixels, places.tolist(), list(zip((places[beyond] + number).tolist(), within, strict=True))


def _sums(
    part: Part,
    codes: Codes,
    pieces: list[tuple[int, shapely.Geometry | None]],
    number: int,
    done: Callable[[int], object],
) -> Float64[np.ndarray, "piece code_and_nodata"]:
    """Adds up the hectares of the codes of a raster, and last those of nodata, in pieces of ground.

    Args:
        part: the raster.
        codes: of its pixels.
        pieces: row of the sums, and polygons in pixels.
        number: of rows.
        done: is called with numbers of pixels.
    """
    sums = np.zeros((number, codes.kinds + 1))
    with codes.opened(part) as read:
        for rows, columns, there in _windows(range(part.grid.height), range(part.grid.width), pieces, done):
            values = read(rows, columns)
            for place, areas in _measured(values, codes.kinds + 1, part.grid, rows, columns, there):
                sums[place] += areas
            done(values.size)
    return sums


def _windows(
    rows: range, columns: range, pieces: list[tuple[int, shapely.Geometry | None]], done: Callable[[int], object]
) -> Iterator[tuple[range, range, list[tuple[int, shapely.Geometry | None]]]]:
    """Yields the windows that zones have a part in, and these parts in pixels; None for a zone that covers the whole window."""
    inside = _cut(rows, columns, pieces)
    if not inside:
        done(len(rows) * len(columns))
    elif max(len(rows), len(columns)) <= LEAF_PX:
        yield rows, columns, inside
    else:
        for one in _halves(rows):
            for other in _halves(columns):
                yield from _windows(one, other, inside, done)


def _cut(
    rows: range, columns: range, pieces: list[tuple[int, shapely.Geometry | None]]
) -> list[tuple[int, shapely.Geometry | None]]:
    """Cuts parts of zones to a window, and drops those that have none in it."""
    window = shapely.box(columns.start, rows.start, columns.stop, rows.stop)
    cut = [(place, None) for place, geometry in pieces if geometry is None]
    partial = [(place, geometry) for place, geometry in pieces if geometry is not None]
    if partial:
        places, geometries = zip(*partial, strict=True)
        inside = shapely.intersection(np.array(geometries, object), window)
        areas = shapely.area(inside)
        whole = areas >= window.area * (1 - 1e-12)
        cut += [
            (place, None if full else geometry)
            for place, geometry, area, full in zip(places, inside, areas, whole, strict=True)
            if area > 0
        ]
    return cut


def _halves(pixels: range) -> list[range]:
    """Cuts a range in two at a multiple of `LEAF_PX`; one that is short enough stays."""
    if len(pixels) <= LEAF_PX:
        return [pixels]
    leaves = -(-len(pixels) // LEAF_PX)
    middle = pixels.start + leaves // 2 * LEAF_PX
    return [range(pixels.start, middle), range(middle, pixels.stop)]


def _measured(
    codes: Integer[np.ndarray, "height width"],
    number: int,
    grid: Grid,
    rows: range,
    columns: range,
    pieces: list[tuple[int, shapely.Geometry | None]],
) -> Iterator[tuple[int, Float64[np.ndarray, " code"]]]:
    """Yields the hectares of each of a number of codes in each zone of a window."""
    from exactextract import exact_extract
    from exactextract.feature import JSONFeatureSource
    from exactextract.raster import NumPyRasterSource

    hectares = pixel_hectares(grid, rows, columns)
    if any(geometry is None for _, geometry in pieces):
        everywhere = np.bincount(codes.ravel(), hectares.ravel(), number)
        yield from ((place, everywhere) for place, geometry in pieces if geometry is None)
    partial = [(place, _polygons(geometry)) for place, geometry in pieces if geometry is not None]
    if not partial:
        return
    # exactextract counts rows from the largest y downwards, here y is the row.
    codes, hectares = codes[::-1], hectares[::-1].ravel()
    source = NumPyRasterSource(codes, columns.start, rows.start, columns.stop, rows.stop)
    codes = codes.ravel()
    for place, geometry in partial:
        feature = {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(geometry)}
        (found,) = exact_extract(source, JSONFeatureSource([feature]), ["cell_id", "coverage"])
        cell, share = found["properties"]["cell_id"], found["properties"]["coverage"]
        yield place, np.bincount(codes[cell], share * hectares[cell], number)


def _zone_outline(part: Part) -> shapely.Geometry:
    """Returns the outline of a mosaic's UTM zone in its pixels."""
    back = ~part.grid.transform
    return shapely.transform(
        blocks.zone_outline(part.utm_zone), lambda xy: np.stack(back @ (xy[:, 0], xy[:, 1]), axis=-1)
    )


def _mended(geometries: np.ndarray) -> np.ndarray:
    """Mends polygons, valid in their own CRS, that projecting has made touch themselves."""
    wrong = ~shapely.is_valid(geometries)
    if wrong.any():
        geometries = geometries.copy()
        geometries[wrong] = shapely.make_valid(geometries[wrong])
    return geometries


def _polygons(geometry: shapely.Geometry) -> shapely.Geometry:
    """Returns the polygons of a geometry: where a zone touches a window, lines and points are left of it."""
    if isinstance(geometry, shapely.Polygon | shapely.MultiPolygon):
        return geometry
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return shapely.multipolygons(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON])
