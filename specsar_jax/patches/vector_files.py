"""Vector files of the patches of a map: GeoPackage, GeoParquet 1.1 or GeoJSON, written as the polygons come.

    class_id    id of the class, as in the raster
    class       its name
    hectares    area on the ellipsoid of the pixels of the patch, as `specsar_jax.areas` measures it
    pixels      their number
    zone        UTM zone, in the file of a region

Enters: rasters of class ids. Leaves: a file. A GeoPackage has a layer for each raster, in its CRS; GeoParquet is in the CRS of the map, that of a
region in degrees, as GeoJSON always is (WGS 84, RFC 7946).
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyogrio
import shapely
from jaxtyping import Float64
from pyarrow import parquet
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points

from specsar_jax.patches.class_rasters import grid_of, strips
from specsar_jax.patches.pixel_areas import PixelHectares
from specsar_jax.patches.polygons import Place, polygons_of
from tfds_dwplus.bands import Classes
from tfds_dwplus.files.strangers import one_line
from tfds_dwplus.imagery.grids import Grid

LAYER = "land_cover"
"""Name of the layer; that of a raster of a region has its UTM zone behind it."""

_DEGREES = CRS.from_epsg(4326)

_AT_ONCE = 1 << 20
"""Corners that are projected at once: they are lists of Python meanwhile."""

_DIGITS = 6
"""Of hectares behind the point, as in the tables of `specsar_jax.areas`."""

_NO_TIME = "1970-01-01T00:00:00.000Z"
"""In place of the time of writing in a GeoPackage, so that the same map gives the same bytes."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A raster of class ids."""

    path: Path
    utm_zone: str = ""
    """Of a region's mosaic, as '33N'; '' for the map of a scene."""


def write_polygons(
    path: Path,
    ending: str,
    sources: Sequence[Source],
    classes: Classes,
    rows: int = 0,
    done: Callable[[int], object] = lambda pixels: None,
) -> int:
    """Writes a vector file, in which each patch is a polygon.

    Args:
        path: file to write; there is none yet.
        ending: which kind it is of, as in `asked.KINDS`.
        sources: rasters; one, or those of the UTM zones of a region.
        classes: their classes.
        rows: of a strip, as in `strips`.
        done: is called with numbers of pixels.

    Returns:
        The number of polygons.

    Raises:
        ValueError: a raster cannot be read.
        OSError: the file cannot be written.
    """
    degrees = ending == ".geojson" or (ending == ".parquet" and any(source.utm_zone for source in sources))
    tables = [_Tables(source, classes, degrees, rows, done) for source in sources]
    try:
        if ending == ".parquet":
            _write_parquet(path, tables)
        elif ending == ".gpkg":
            for table in tables:
                _write_by_gdal(path, "GPKG", [table])
        else:
            _write_by_gdal(path, "GeoJSON", tables, RFC7946="YES")
        number = sum(table.number for table in tables)
        if (found := _found(path, ending, tables)) != number:
            raise OSError(f"{found:,} of {number:,} polygons are in the file")
    except (RuntimeError, OSError, pyarrow.ArrowException) as error:
        if failed := next((table.failed for table in tables if table.failed), None):
            raise failed from None
        raise OSError(
            f"cannot write the polygons in {path.parent} ({one_line(getattr(error, 'strerror', None) or error, 200)}): is the disk full?"
        ) from None
    return number


class _Tables:
    """The polygons of a raster as tables of Arrow, one for each strip."""

    def __init__(
        self, source: Source, classes: Classes, degrees: bool, rows: int, done: Callable[[int], object]
    ) -> None:
        self.source, self.grid = source, grid_of(source.path)
        self.crs = _DEGREES if degrees else self.grid.crs
        self.number = 0
        self.bounds: list[np.ndarray] = []
        self.failed: Exception | None = None
        self._classes, self._degrees, self._rows, self._done = classes, degrees, rows, done

    @property
    def layer(self) -> str:
        return f"{LAYER}_{self.source.utm_zone}" if self.source.utm_zone else LAYER

    @property
    def schema(self) -> pyarrow.Schema:
        fields = {
            "class_id": pyarrow.uint8(),
            "class": pyarrow.string(),
            "hectares": pyarrow.float64(),
            "pixels": pyarrow.int64(),
        }
        zone = {"zone": pyarrow.string()} if self.source.utm_zone else {}
        return pyarrow.schema(list((fields | zone | {"geometry": pyarrow.binary()}).items()))

    def __iter__(self) -> Iterator[pyarrow.RecordBatch]:
        try:
            yield from self._batches()
        except Exception as error:  # Arrow would make a text of it
            self.failed = error
            raise

    def _batches(self) -> Iterator[pyarrow.RecordBatch]:
        turned = self.grid.transform.determinant > 0  # rows go up: what went round to the left goes round to the right
        names = np.array(self._classes.names, object)
        ids = strips(self.source.path, self._rows, self._done)
        for some in polygons_of(ids, self.grid.height, PixelHectares(self.grid), _place(self.grid, self._degrees)):
            if not len(some.class_id):
                continue
            geometries = shapely.reverse(some.geometries) if turned else some.geometries
            self.number += len(geometries)
            self.bounds.append(shapely.total_bounds(geometries))
            columns = [some.class_id, names[some.class_id], np.round(some.area, _DIGITS), some.pixels]
            columns += [np.full(len(geometries), self.source.utm_zone, object)] * bool(self.source.utm_zone)
            columns.append(shapely.to_wkb(geometries, byte_order=1))
            arrays = [pyarrow.array(of, kind) for of, kind in zip(columns, self.schema.types, strict=True)]
            yield pyarrow.record_batch(arrays, schema=self.schema)


def _place(grid: Grid, degrees: bool) -> Place:
    """Returns what gives the coordinates of corners: in the CRS of the grid, or in degrees, which run on beyond 180 then."""

    def in_crs(column: np.ndarray, row: np.ndarray) -> Float64[np.ndarray, "corner 2"]:
        return np.stack(grid.transform @ (column, row), axis=-1)

    if not degrees:
        return in_crs
    middle = _degrees_of(grid.crs, in_crs(np.array([grid.width / 2]), np.array([grid.height / 2])))[0, 0]

    def in_degrees(column: np.ndarray, row: np.ndarray) -> Float64[np.ndarray, "corner 2"]:
        xy = _degrees_of(grid.crs, in_crs(column, row))
        xy[:, 0] = (xy[:, 0] - middle + 180) % 360 - 180 + middle
        return xy

    return in_degrees


def _degrees_of(crs: CRS, xy: Float64[np.ndarray, "corner 2"]) -> Float64[np.ndarray, "corner 2"]:
    parts = [
        np.stack(transform_points(crs, _DEGREES, *xy[at : at + _AT_ONCE].T), axis=-1)
        for at in range(0, len(xy), _AT_ONCE)
    ]
    return np.concatenate([np.empty((0, 2)), *parts])


def _write_by_gdal(path: Path, driver: str, tables: Sequence[_Tables], **options: str) -> None:
    """Writes a layer of all tables, which have one schema and CRS; a GeoPackage that is there gets one more."""
    batches = (batch for table in tables for batch in table)
    reader = pyarrow.RecordBatchReader.from_batches(tables[0].schema, batches)
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": _NO_TIME})
    try:
        pyogrio.write_arrow(
            reader,
            path,
            layer=tables[0].layer if driver == "GPKG" else LAYER,
            driver=driver,
            geometry_name="geometry",
            # GeoJSON cuts what crosses the antimeridian in two, as RFC 7946 demands.
            geometry_type="Polygon" if driver == "GPKG" else "Unknown",
            crs=tables[0].crs.to_wkt(),
            **options,
        )
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})


def _write_parquet(path: Path, tables: Sequence[_Tables]) -> None:
    # Where a schema of Arrow is stored, readers look for `geo` in it, and it is known at the end only.
    with parquet.ParquetWriter(path, tables[0].schema, compression="zstd", store_schema=False) as writer:
        for table in tables:
            for batch in table:
                writer.write_batch(batch)
        writer.add_key_value_metadata({"geo": json.dumps(_geo(tables))})


def _geo(tables: Sequence[_Tables]) -> dict[str, Any]:
    """Returns the metadata of GeoParquet 1.1. Source: https://geoparquet.org/releases/v1.1.0."""
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": tables[0].crs.to_dict(projjson=True),
    }
    if bounds := [of for table in tables for of in table.bounds]:
        low, high = np.min(bounds, axis=0)[:2], np.max(bounds, axis=0)[2:]
        column["bbox"] = [*low.tolist(), *high.tolist()]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _found(path: Path, ending: str, tables: Sequence[_Tables]) -> int:
    """Returns how many polygons a file has, as what reads it says; GDAL may not have said that a disk is full.

    Raises:
        OSError: what GDAL writes last is missing: the index of a GeoPackage, the brackets of GeoJSON.
    """
    if ending == ".parquet":
        return parquet.read_metadata(path).num_rows
    if ending == ".gpkg":
        layers = [pyogrio.read_info(path, layer=table.layer) for table in tables]
        if not all(layer["capabilities"]["fast_spatial_filter"] for layer in layers):
            raise OSError("the index of a layer is not in the file")
        return sum(layer["features"] for layer in layers)
    number, line = 0, b""
    with path.open("rb") as file:
        for line in file:
            number += line.startswith(b'{ "type": "Feature", ')
    if line.strip() != b"}":
        raise OSError("the end is not in the file")
    return number
