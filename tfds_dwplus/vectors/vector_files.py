"""Read vector files: GeoPackage, Shapefile, GeoJSON, FlatGeobuf and GeoParquet; others, whatever GDAL reads, when told to.

Enters: a path, a layer and the field of the classes. Leaves: geometries as WKB, values as text, and the CRS. GDAL finds out what a file
is by its content, and some kinds lead to other files, to servers, or run a pipeline (VRT, WFS, GML schemas, GDALG). So without the user's
word only files are read that begin as those do that hold what they have. `pyogrio` has a GDAL of its own, without Parquet: that is read
by pyarrow.
"""

import dataclasses
import difflib
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError

from tfds_dwplus.files.strangers import MOST_JSON_BYTES, a_text, an_object, one_line, parse_json, read_bytes
from tfds_dwplus.imagery.grids import parse_crs

FLAG = "--any_vector_file"
FLAG_HELP = (
    "read --labels whatever it is that GDAL reads (GML, KML, MapInfo, geodatabase ...); a stranger's may lead elsewhere"
)

MOST_FEATURES = 5_000_000
MOST_BYTES = 2 << 30
"""Of the columns that are read of a GeoParquet file, unpacked."""

_POINTS, _LINES, _POLYGONS = ((kind, f"Multi{kind}") for kind in ("Point", "LineString", "Polygon"))
_GEOJSON = frozenset(("FeatureCollection", "Feature", "GeometryCollection", *_POINTS, *_LINES, *_POLYGONS))


@dataclasses.dataclass(frozen=True)
class Vectors:
    """The features of a layer."""

    wkb: np.ndarray
    """Geometry of each feature as bytes, None if it has none; [feature], objects."""
    values: list[str]
    """Value of the field, as `text_of` writes it; '' for NULL."""
    crs: CRS
    """Coordinates are x and y, longitude before latitude."""


def read_vectors(
    path: Path, layer: str, field: str, crs: str = "", *, anything: bool = False, option: str = "--labels"
) -> tuple[Vectors, list[str]]:
    """Reads the geometries of a layer and one field.

    Args:
        path: the file.
        layer: its name; '' for the only one that there is.
        field: the field of the classes; '' for none, then all values are ''.
        crs: goes before what the file says; '' if it says it itself.
        anything: whether a file is read whatever it is.
        option: of the command line that named the file, for messages; that of its CRS is `option`_crs.

    Returns:
        The features, and lines that the user should read.

    Raises:
        ValueError: it is no vector file, has no such layer or field, no feature or no CRS.
    """
    given = _parsed(crs, f"{option}_crs") if crs else None
    try:
        if not path.exists():
            raise ValueError(f"no file {path}; expected a vector file such as a GeoPackage")
        kind = "" if anything else _kind(path)
        if kind == "parquet" or (anything and path.is_file() and _start(path).startswith(b"PAR1")):
            wkb, found, said, notes = _read_parquet(path, layer, field)
        else:
            wkb, found, said, notes = _read_by_gdal(path, layer, field)
    except ModuleNotFoundError as error:
        raise ValueError(f"{option} needs {error.name}: pip install 'specsar_jax[vectors]'") from None
    if not len(found):
        raise ValueError(f"{path} has no feature; expected polygons or points")
    if given and said and given != said:
        notes.append(f"{path} is taken to be in {crs}, as given; it says {one_line(said.to_string(), 60)} itself")
    if not (given or said):
        raise ValueError(
            f"{path} does not say its CRS; give it: {option}_crs EPSG:4326 if its coordinates are longitude and latitude"
        )
    return Vectors(wkb, found, given or said), notes


def text_of(value: Any) -> str:
    """Writes a value of a field as text: whole numbers without a point, '' for NULL and for blank text."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    text = " ".join(str(value).split())
    return "" if text == "NaT" else text


def nearest(name: str, names: list[str], what: str) -> str:
    """Says of a name that is not there which ones are, the nearest first: "; did you mean 'class'? Its fields are a, b"."""
    lower = {other.casefold(): other for other in reversed(names)}
    near = difflib.get_close_matches(name.casefold(), lower, n=1)
    hint = f"; did you mean {one_line(repr(lower[near[0]]), 60)}?" if near else ";"
    listed = ", ".join(one_line(other, 40) for other in names[:20]) + (", ..." if len(names) > 20 else "")
    return f"{hint} Its {what} are {listed}" if near else f"{hint} its {what} are {listed or 'none'}"


def _kind(path: Path) -> str:
    """Returns 'parquet' or 'gdal'. Raises a ValueError if a file begins as none that holds all that it has."""
    kinds = f"a GeoPackage, Shapefile, GeoJSON, FlatGeobuf or GeoParquet file; {FLAG} reads what else GDAL knows"
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected {kinds}")
    start = _start(path)
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith((b"SQLite format 3\0", b"\0\0\x27\x0a", b"fgb")):
        return "gdal"
    if start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{"):
        kind = an_object(parse_json(read_bytes(path, MOST_JSON_BYTES), str(path)), str(path)).get("type")
        if kind in _GEOJSON:
            return "gdal"
        raise ValueError(f"{path} is JSON of the type {one_line(repr(kind), 40)}, expected GeoJSON or {kinds}")
    if start.startswith(b"PK"):
        raise ValueError(f"{path} is a zip, expected {kinds}; unpack it first")
    beside = (
        f", which begins otherwise; the .shp beside {path.name}?" if path.suffix.lower() in (".dbf", ".shx") else ""
    )
    raise ValueError(f"{path} is not a vector file that is known{beside}, expected {kinds}")


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(256)


def _parsed(text: str, what: str) -> CRS:
    try:
        return parse_crs(text)
    except CRSError as error:
        raise ValueError(
            f"{what} {one_line(text, 60)!r} is no CRS ({one_line(error, 120)}); expected one as EPSG:4326"
        ) from None


def _read_by_gdal(path: Path, layer: str, field: str) -> tuple[np.ndarray, list[str], CRS | None, list[str]]:
    import pyogrio
    from pyogrio import errors

    faults = (
        errors.DataSourceError,
        errors.DataLayerError,
        errors.GeometryError,
        errors.FieldError,
        errors.FeatureError,
    )
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            layers = [str(name) for name, geometry in pyogrio.list_layers(path) if geometry is not None]
            name = _layer(path, layers, layer)
            info = pyogrio.read_info(path, layer=name)
            if field and field not in (fields := [str(one) for one in info["fields"]]):
                raise ValueError(f"{path} has no field {one_line(repr(field), 60)}{nearest(field, fields, 'fields')}")
            if info["features"] > MOST_FEATURES:
                raise ValueError(f"{path} has {info['features']:,} features, expected {MOST_FEATURES:,} at most")
            meta, _, wkb, read = pyogrio.raw.read(
                path, layer=name, columns=[field] if field else [], force_2d=True, max_features=MOST_FEATURES
            )
            values = read[0] if field else [None] * len(wkb)
    except (*faults, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from None
    notes = list(dict.fromkeys(f"{path}: {one_line(each.message)}" for each in caught))[:3]
    return wkb, [text_of(value) for value in values], _parsed(meta["crs"], str(path)) if meta["crs"] else None, notes


def _layer(path: Path, layers: list[str], wanted: str) -> str:
    """Chooses a layer. Raises a ValueError if there is none of the name, or several and none is named."""
    if not layers:
        raise ValueError(f"{path} has no layer with geometries; expected polygons or points")
    if not wanted and len(layers) > 1:
        names = ", ".join(one_line(name, 40) for name in layers[:20])
        raise ValueError(f"{path} has {len(layers)} layers; give --layer with one of {names}")
    if wanted and wanted not in layers:
        raise ValueError(f"{path} has no layer {one_line(repr(wanted), 60)}{nearest(wanted, layers, 'layers')}")
    return wanted or layers[0]


def _read_parquet(path: Path, layer: str, field: str) -> tuple[np.ndarray, list[str], CRS | None, list[str]]:
    """Reads GeoParquet, versions 1.0 and 1.1 (https://geoparquet.org), with geometries as WKB."""
    import pyarrow
    from pyarrow import parquet

    if layer:
        raise ValueError(f"{path} is GeoParquet, which has no layers; leave out --layer")
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            geo = (file.schema_arrow.metadata or {}).get(b"geo")
            if geo is None:
                raise ValueError("no GeoParquet: it has no metadata 'geo'; write it by geopandas or ogr2ogr")
            column, crs = _geometry_column(geo)
            if field and field not in (fields := [name for name in names if name != column]):
                raise ValueError(f"no field {one_line(repr(field), 60)}{nearest(field, fields, 'fields')}")
            if names.count(field) > bool(field) or names.count(column) != 1:
                raise ValueError(
                    f"not one column {field} and one {column}, but {len(names)} of the names {one_line(names, 100)}"
                )
            wanted = (column, field) if field else (column,)
            _check_size(file, wanted)
            table = file.read(columns=list(wanted))
        geometries = table.column(column)
        kind = getattr(geometries.type, "storage_type", geometries.type)
        if not (pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
            raise ValueError(f"geometries of the type {one_line(kind, 60)}, expected WKB")
        if field and pyarrow.types.is_nested(table.column(field).type):
            raise ValueError(
                f"the field {field} of the type {one_line(table.column(field).type, 60)}, expected text or numbers"
            )
        wkb = np.empty(len(table), object)
        wkb[:] = [None if one is None else bytes(one) for one in geometries.to_pylist()]
        values = table.column(field).to_pylist() if field else [None] * len(wkb)
        return wkb, [text_of(value) for value in values], crs, []
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _geometry_column(geo: bytes) -> tuple[str, CRS | None]:
    """Reads which column holds the geometries, and their CRS; None if it is said not to be known."""
    tree = an_object(parse_json(geo, "its metadata 'geo'"), "its metadata 'geo'")
    name = a_text(tree.get("primary_column"), "primary_column")
    column = an_object(an_object(tree.get("columns"), "columns").get(name), f"column {name}")
    if column.get("encoding") != "WKB":
        found = one_line(repr(column.get("encoding")), 40)
        raise ValueError(
            f"geometries encoded as {found}, expected WKB: write it by geopandas' to_parquet, or as GeoPackage"
        )
    if "crs" not in column:  # longitude and latitude, says the standard
        return name, CRS.from_user_input("OGC:CRS84")
    crs = column["crs"]
    return name, None if crs is None else _parsed(json.dumps(an_object(crs, "crs")), "its CRS")


def _check_size(file: Any, columns: tuple[str, ...]) -> None:
    metadata = file.metadata
    if metadata.num_rows > MOST_FEATURES:
        raise ValueError(f"{metadata.num_rows:,} features, expected {MOST_FEATURES:,} at most")
    parts = (metadata.row_group(group) for group in range(metadata.num_row_groups))
    columns_of = (part.column(place) for part in parts for place in range(part.num_columns))
    size = sum(one.total_uncompressed_size for one in columns_of if one.path_in_schema.partition(".")[0] in columns)
    if size > MOST_BYTES:
        raise ValueError(
            f"{size / 2**20:,.0f} MB in the columns {', '.join(columns)}, expected {MOST_BYTES >> 20:,} MB at most"
        )
