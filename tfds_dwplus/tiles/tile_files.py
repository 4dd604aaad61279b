"""Read and write tiles in a folder of GeoTIFFs.

Enters: a folder with `s2/<tile_id>.tif`, `s1/<tile_id>.tif`, `label/<tile_id>.tif` and `tiles.csv`. The folder `s1/` or `s2/`
may be missing as a whole. Leaves: a `Tile` of aligned arrays. A mismatch of size, CRS, grid, type, band names, label codes
or units is a ValueError that names the file, what it holds and what was expected. Nothing is resampled or guessed.
"""

import contextlib
import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Float32, Shaped, UInt8, UInt16
from rasterio.errors import RasterioError
from rasterio.warp import transform as transform_coordinates

from tfds_dwplus import bands
from tfds_dwplus.imagery.rasters import check_backscatter
from tfds_dwplus.imagery.scene_files import open_raster

COLUMNS = ("tile_id", "split", "lon", "lat", "date", "annotator", "height", "width")
"""Basic columns of tiles.csv; `tile_id` and `split` are required. The other fields of `TileRecord` may be columns too."""

PROVENANCE = ("s2_level", "s1_source", "s1_unit", "s1_orbit", "s1_mean")
"""Columns of tiles.csv that must have one value in a data set, so that it does not mix different quantities."""


@dataclasses.dataclass(frozen=True)
class TileRecord:
    """A row of tiles.csv."""

    tile_id: str
    split: str
    lon: float = math.nan
    """Longitude of the tile's centre in degrees; NaN if not known."""
    lat: float = math.nan
    """Latitude, likewise."""
    date: str = ""
    """Date of the label, YYYY-MM-DD; empty if not known."""
    annotator: str = ""
    """expert, non_expert, or held_out (labelled by several people)."""
    hemisphere: str = ""
    """EH or WH, as in the published labels."""
    biome: int = 0
    """1 to 14, numbered as in the published labels; 0 if not known."""
    s2_item: str = ""
    """Id of the Sentinel-2 product."""
    s2_level: str = ""
    """L1C or L2A."""
    s1_source: str = ""
    """Collection and quantity, such as 'sentinel-1-rtc gamma0'."""
    s1_unit: str = ""
    """'sigma0 dB' or 'gamma0 dB'."""
    s1_orbit: str = ""
    """descending, ascending or both."""
    s1_mean: str = ""
    """Quantity that was averaged: dB or power."""
    s1_scenes: int = 0
    """Number of Sentinel-1 scenes in the mean; 0 if not known."""
    s1_dates: str = ""
    """Their dates, YYYY-MM-DD, separated by spaces."""


@dataclasses.dataclass(frozen=True)
class Tile:
    """The pixels of a tile. Nodata is 0 in `s2` and NaN in `s1`; a pixel without a label is 255 in `label`.

    A missing sensor has zero bands.
    """

    record: TileRecord
    s2: UInt16[np.ndarray, "height width s2_band"]
    """Digital numbers, reflectance x 10000."""
    s1: Float32[np.ndarray, "height width s1_band"]
    """VV and VH backscatter in dB."""
    label: UInt8[np.ndarray, "height width"]
    """Class ids 0 to 8."""
    crs: str
    """Authority code or WKT; empty if not georeferenced."""
    transform: tuple[float, ...]
    """Affine coefficients a, b, c, d, e, f: x = a column + b row + c, y = d column + e row + f."""


def list_tiles(folder: Path) -> list[TileRecord]:
    """Reads the rows of `folder/tiles.csv`, in file order.

    Raises:
        ValueError: a missing folder, file or column, no row, a repeated tile id, or text where a number is expected.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}; expected a folder of tiles with s2/, s1/, label/ and tiles.csv")
    path = folder / "tiles.csv"
    if not path.is_file():
        raise ValueError(f"no file {path}; expected a table with the columns {', '.join(COLUMNS)}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = {"tile_id", "split"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path} has no column {', '.join(sorted(missing))}; its header is {reader.fieldnames}")
        records = [_record(path, row) for row in reader]
    if not records:
        raise ValueError(f"{path} lists no tile")
    seen = set()
    for record in records:
        if record.tile_id in seen:
            raise ValueError(f"{path} lists tile id {record.tile_id!r} twice; ids must be unique")
        seen.add(record.tile_id)
    return records


def _record(path: Path, row: dict[str, str | None]) -> TileRecord:
    fields = {}
    for field in dataclasses.fields(TileRecord):
        text = (row.get(field.name) or "").strip()
        try:
            fields[field.name] = field.type(text) if text or field.type is str else field.default
        except ValueError:
            expected = "degrees" if field.type is float else "a whole number"
            raise ValueError(
                f"{path}: {field.name} of tile {row['tile_id']!r} is {text!r}, expected {expected}"
            ) from None
    if not fields["tile_id"] or not fields["split"]:
        raise ValueError(f"{path}: a row without tile_id or split: {row}")
    return TileRecord(**fields)


def provenance(records: Sequence[TileRecord]) -> dict[str, str]:
    """Gives the common value of each column of `PROVENANCE`, "" if the tiles have none.

    Raises:
        ValueError: two tiles have different values.
    """
    common = {}
    for column in PROVENANCE:
        first = {getattr(record, column): record.tile_id for record in reversed(records)}
        if len(first) > 1:
            said = " and ".join(
                f"{value or 'nothing'!r} (tile {tile_id})" for value, tile_id in sorted(first.items())[:2]
            )
            raise ValueError(
                f"tiles.csv mixes {column} {said}; one data set holds one, make a folder of tiles for each"
            )
        common[column] = next(iter(first), "")
    return common


def sensors(folder: Path) -> tuple[str, ...]:
    """Lists which of the folders 's2' and 's1' exist. Raises a ValueError if neither does."""
    found = tuple(sensor for sensor in ("s2", "s1") if (folder / sensor).is_dir())
    if not found:
        raise ValueError(
            f"{folder} has neither s2/ nor s1/; expected tiles of both sensors, or of one, and their label/"
        )
    return found


def s2_band_names(folder: Path, record: TileRecord) -> tuple[str, ...]:
    """Reads the Sentinel-2 band names of a tile, in file order. Raises a ValueError if they are missing."""
    path = folder / "s2" / f"{record.tile_id}.tif"
    with open_raster(path) as raster:
        return named_bands(path, raster.descriptions)


def read_tile(
    folder: Path,
    record: TileRecord,
    s2_bands: tuple[str, ...],
    s1_bands: tuple[str, ...] = bands.S1_BANDS,
    *,
    labels: str = "label",
) -> Tile:
    """Reads the rasters of a tile.

    Args:
        folder: the folder of tiles.
        record: the tile's row of tiles.csv.
        s2_bands: Sentinel-2 bands in the wanted order; () reads none.
        s1_bands: the same for Sentinel-1.
        labels: name of the folder of labels.

    Raises:
        ValueError: a file is missing, cut short or of the wrong type, lacks a band, is on another grid than the first
            file, has a band without data, a label code outside 0..10 or backscatter that is not in dB.
    """
    dtypes = {"s2": "uint16", "s1": "float32", "label": "uint8"}
    paths = {kind: folder / (labels if kind == "label" else kind) / f"{record.tile_id}.tif" for kind in dtypes}
    kinds = [kind for kind, wanted in (("s2", s2_bands), ("s1", s1_bands), ("label", True)) if wanted]
    with contextlib.ExitStack() as files:
        rasters = {kind: files.enter_context(open_raster(paths[kind])) for kind in kinds}
        for kind, raster in rasters.items():
            if set(raster.dtypes) != {dtypes[kind]}:
                raise ValueError(f"{paths[kind]} is {raster.dtypes[0]}, expected {dtypes[kind]}")
        grid = rasters[kinds[0]]
        for kind, raster in rasters.items():
            check_same_grid(paths[kind], raster, paths[kinds[0]], grid)

        def pixels(kind: str, names: tuple[str, ...]) -> np.ndarray:
            if not names:
                return np.empty((*grid.shape, 0), dtypes[kind])
            return read_bands(paths[kind], rasters[kind], band_indexes(paths[kind], rasters[kind].descriptions, names))

        codes = read_bands(paths["label"], rasters["label"], (1,))[..., 0]
        s2, s1 = pixels("s2", s2_bands), pixels("s1", s1_bands)
        crs = grid.crs.to_string() if grid.crs else ""
        record = _with_centre(record, grid) if math.isnan(record.lon) or math.isnan(record.lat) else record
        transform = tuple(grid.transform)[:6]
    if codes.max() > max(bands.LABEL_CODES):
        raise ValueError(f"{paths['label']} holds label code {codes.max()}, expected 0 to {max(bands.LABEL_CODES)}")
    check_has_data(paths["s2"], s2 != bands.S2_NODATA, s2_bands)
    check_has_data(paths["s1"], np.isfinite(s1), s1_bands)
    check_backscatter(str(paths["s1"]), s1, "convert linear power by 10 log10, and nodata to NaN")
    return Tile(record, s2, s1, class_ids(codes), crs, transform)


def class_ids(codes: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    """Converts label codes to class ids: 1..9 -> 0..8; unmarked (0) and cloud (10) -> 255."""
    return np.where((codes >= 1) & (codes <= len(bands.CLASSES)), codes - 1, bands.IGNORE).astype(np.uint8)


def write_tile(folder: Path, tile: Tile, s2_bands: tuple[str, ...]) -> None:
    """Writes the three rasters of a tile where `read_tile` finds them. Does not write tiles.csv."""
    height, width = tile.label.shape
    codes = np.where(tile.label == bands.IGNORE, 0, tile.label + 1).astype(np.uint8)
    for kind, values, descriptions in (
        ("s2", tile.s2, s2_bands),
        ("s1", tile.s1, bands.S1_BANDS),
        ("label", codes[..., None], ("label",)),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        with rasterio.open(
            folder / kind / f"{tile.record.tile_id}.tif",
            "w",
            driver="GTiff",
            height=height,
            width=width,
            count=values.shape[2],
            dtype=values.dtype,
            crs=tile.crs or None,
            transform=rasterio.Affine(*tile.transform),
            compress="deflate",
        ) as raster:
            raster.write(np.moveaxis(values, -1, 0))
            raster.descriptions = tuple(descriptions)


def read_bands(
    path: Path, raster: rasterio.DatasetReader, indexes: tuple[int, ...]
) -> Shaped[np.ndarray, "height width band"]:
    """Reads some bands (counted from 1). Raises a ValueError that names the file if it is cut short."""
    try:
        return np.moveaxis(raster.read(list(indexes)), 0, -1)
    except RasterioError as error:
        raise ValueError(
            f"cannot read the pixels of {path}; is the file cut short? ({error.__cause__ or error})"
        ) from None


def named_bands(path: Path, descriptions: tuple[str | None, ...]) -> tuple[str, ...]:
    """Standard band names of a raster's descriptions. Raises a ValueError if one is missing or repeated."""
    if not all(descriptions):
        raise ValueError(
            f"{path} has bands without a name; expected band descriptions such as {', '.join(bands.S2_BANDS)}"
        )
    names = tuple(bands.canonical_band(name) for name in descriptions)
    if len(set(names)) != len(names):
        raise ValueError(f"{path} has two bands of one name: {', '.join(names)}")
    return names


def band_indexes(path: Path, descriptions: tuple[str | None, ...], wanted: tuple[str, ...]) -> tuple[int, ...]:
    """Indexes (from 1) of the `wanted` bands. Raises a ValueError that lists the bands of the file."""
    names = named_bands(path, descriptions)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(
            f"{path} has no band {', '.join(missing)}; it has {', '.join(names)}, expected {', '.join(wanted)}"
        )
    return tuple(names.index(name) + 1 for name in wanted)


def check_same_grid(
    path: Path, raster: rasterio.DatasetReader, reference_path: Path, reference: rasterio.DatasetReader
) -> None:
    """Raises a ValueError unless two rasters have the same size, CRS and transform."""
    for what, given, expected in (
        ("size", raster.shape, reference.shape),
        ("CRS", raster.crs, reference.crs),
        ("transform", raster.transform, reference.transform),
    ):
        same = given.almost_equals(expected, precision=1e-6) if what == "transform" else given == expected
        if not same:
            given, expected = (tuple(v)[:6] if what == "transform" else v for v in (given, expected))
            raise ValueError(f"{path} has {what} {given}, but {reference_path} has {expected}; resample one of them")


def check_has_data(path: Path, valid: Shaped[np.ndarray, "height width band"], names: tuple[str, ...]) -> None:
    """Raises a ValueError if a band has no valid pixel."""
    empty = [name for name, any_valid in zip(names, valid.any(axis=(0, 1)), strict=True) if not any_valid]
    if empty:
        raise ValueError(f"{path} is all nodata in band {', '.join(empty)}")


def _with_centre(record: TileRecord, raster: rasterio.DatasetReader) -> TileRecord:
    """Sets longitude and latitude to the raster's centre, if the raster is georeferenced."""
    if not raster.crs:
        return record
    left, bottom, right, top = raster.bounds
    (lon,), (lat,) = transform_coordinates(raster.crs, "EPSG:4326", [(left + right) / 2], [(bottom + top) / 2])
    return dataclasses.replace(record, lon=lon, lat=lat)
