"""Read and write tiles in a folder of GeoTIFFs.

Enters: a folder with `s2/<tile_id>.tif`, `s1/<tile_id>.tif`, `label/<tile_id>.tif` and `tiles.csv`. The folder `s1/` or `s2/`
may be missing as a whole. `classes.csv` has the classes where they are not Dynamic World's, see `labelling.class_table`;
`probability/<tile_id>.tif` may hold the shares of a network that made the label. Leaves: a `Tile` of aligned arrays. A mismatch of size, CRS, grid, type, band names, label codes
or units is a ValueError that names the file, what it holds and what was expected. Nothing is resampled. What the numbers mean
is read by the rules of `imagery.decoder`, as everywhere.
"""

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Float32, UInt8, UInt16
from rasterio.warp import transform as transform_coordinates

from tfds_dwplus import bands
from tfds_dwplus.files.outputs import write_whole
from tfds_dwplus.files.raster_files import geotiff
from tfds_dwplus.files.strangers import a_name, check_raster_bytes, one_line, read_csv
from tfds_dwplus.imagery.decoder.backscatter import quantity_named
from tfds_dwplus.imagery.scene_files import open_raster
from tfds_dwplus.tiles.labelling.annotators import NETWORK
from tfds_dwplus.tiles.labelling.pixels import WHOLE
from tfds_dwplus.tiles.tile_pixels import (
    check_same_grid,
    decibels,
    descriptions_of,
    digital_numbers,
    label_codes,
    named_bands,
    read_bands,
)

COLUMNS = ("tile_id", "split", "lon", "lat", "date", "annotator", "height", "width")
"""Basic columns of tiles.csv; `tile_id` and `split` are required. The other fields of `TileRecord` may be columns too."""

PROVENANCE = ("s2_level", "s1_source", "s1_unit", "s1_orbit", "s1_mean")
"""Columns of tiles.csv that must have one value in a data set, so that it does not mix different quantities."""


PROBABILITY = "probability"
"""Folder of the shares of the classes that a network gave: a band of uint8 for each that sum to 255, or to 0 where they are not known."""

LABELLED_BY = "labelled_by"
"""Tag of a label file that a network made: the annotator of its tile."""

MOST_TILE_BYTES = 8 << 30
"""Of the pixels of a tile in memory. A granule of Sentinel-2, to be cut, is 120 million pixels of 27 bytes: 3 GB."""


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
    """expert, non_expert, held_out (labelled by several people), or 'network: ' and the name of one, see `labelling.annotators`."""
    hemisphere: str = ""
    """EH or WH, as in the published labels."""
    biome: int = 0
    """1 to 14, numbered as in the published labels; 0 if not known."""
    s2_item: str = ""
    """Id of the Sentinel-2 item; of several parts of one take, separated by spaces."""
    s2_baseline: str = ""
    """Its processing baseline, as '05.10'; empty if not known."""
    s2_offset: str = ""
    """What was subtracted from its digital numbers, or how they were scaled; empty if not known."""
    s2_date: str = ""
    """Its date, YYYY-MM-DD. Where it is not that of the label, another day's scene is in its place."""
    s2_level: str = ""
    """L1C or L2A."""
    s1_source: str = ""
    """Collection and quantity, such as 'sentinel-1-rtc gamma0'."""
    s1_unit: str = ""
    """'sigma0 dB' or 'gamma0 dB'."""
    s1_orbit: str = ""
    """descending, ascending or both; or what was asked for and what was used, as 'descending_or_ascending: ascending'."""
    s1_mean: str = ""
    """Quantity that was averaged: dB or power."""
    s1_scenes: int = 0
    """Number of Sentinel-1 scenes in the mean; 0 if not known."""
    s1_dates: str = ""
    """Their dates, YYYY-MM-DD, separated by spaces."""
    s1_items: str = ""
    """Ids of their items, separated by spaces."""


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
    """Class ids from 0."""
    crs: str
    """Authority code or WKT; empty if not georeferenced."""
    transform: tuple[float, ...]
    """Affine coefficients a, b, c, d, e, f: x = a column + b row + c, y = d column + e row + f."""
    notes: tuple[str, ...] = ()
    """What was decided of the numbers, and what is in doubt, one line each."""
    probability: UInt8[np.ndarray, "height width class"] | None = None
    """Shares of the classes, as in `PROBABILITY`; None if they were not asked for."""


def list_tiles(folder: Path) -> list[TileRecord]:
    """Reads the rows of `folder/tiles.csv`, in file order.

    Raises:
        ValueError: a missing folder, file or column, no row, a repeated tile id or one that is no name of a file, or text where a
            number is expected.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}; expected a folder of tiles with s2/, s1/, label/ and tiles.csv")
    path = folder / "tiles.csv"
    if not path.is_file():
        raise ValueError(f"no file {path}; expected a table with the columns {', '.join(COLUMNS)}")
    header, rows = read_csv(path)
    missing = {"tile_id", "split"} - set(header)
    if missing:
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}; its header is {one_line(header)}")
    records = [_record(path, row) for row in rows]
    if not records:
        raise ValueError(f"{path} lists no tile")
    seen = set()
    for record in records:
        if record.tile_id in seen:
            raise ValueError(f"{path} lists tile id {record.tile_id!r} twice; ids must be unique")
        seen.add(record.tile_id)
    return records


def _record(path: Path, row: dict[str, str]) -> TileRecord:
    fields = {}
    for field in dataclasses.fields(TileRecord):
        text = row.get(field.name, "").strip()
        try:
            value = field.type(text) if text or field.type is str else field.default
            if (field.type is float and abs(value) > 360) or (field.type is int and abs(value) >= 2**31):
                raise ValueError("out of range")
        except ValueError:
            expected = "degrees" if field.type is float else "a whole number"
            raise ValueError(
                f"{path}: {field.name} of tile {one_line(repr(row['tile_id']))} is {one_line(repr(text), 80)}, expected {expected}"
            ) from None
        fields[field.name] = value
    if not fields["tile_id"] or not fields["split"]:
        raise ValueError(f"{path}: a row without tile_id or split: {one_line(row)}")
    a_name(fields["tile_id"], f"{path}: tile_id")
    a_name(fields["split"], f"{path}: split of tile {fields['tile_id']}")
    return TileRecord(**fields)


def provenance(records: Sequence[TileRecord]) -> dict[str, str]:
    """Gives the common value of each column of `PROVENANCE`, "" if the tiles have none.

    Raises:
        ValueError: two tiles have different values.
    """
    common = {}
    for column in PROVENANCE:
        # 'descending_or_ascending: ascending' begins with what is common.
        first = {getattr(record, column).partition(": ")[0]: record.tile_id for record in reversed(records)}
        if len(first) > 1:
            said = " and ".join(
                f"{one_line(repr(value or 'nothing'), 80)} (tile {one_line(tile_id, 80)})"
                for value, tile_id in sorted(first.items())[:2]
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
        names = named_bands(path, descriptions_of(raster))
        return tuple(name for name in names if name != "ALPHA")


def s1_unit(folder: Path, record: TileRecord) -> str:
    """Unit of a tile's backscatter, 'sigma0 dB' or 'gamma0 dB', from names and tags of its file; sigma0 if they do not tell."""
    path = folder / "s1" / f"{record.tile_id}.tif"
    with open_raster(path) as raster:
        tags = [f"{key} {value}" for key, value in raster.tags().items()]
        quantity = quantity_named([*(text or "" for text in raster.descriptions), *tags])
    return f"{quantity} dB" if quantity else bands.S1_UNIT


def read_tile(
    folder: Path,
    record: TileRecord,
    s2_bands: tuple[str, ...],
    s1_bands: tuple[str, ...] = bands.S1_BANDS,
    *,
    labels: str = "label",
    probabilities: bool = False,
    most_px: int | None = None,
    classes: bands.Classes = bands.DYNAMIC_WORLD,
) -> Tile:
    """Reads the rasters of a tile.

    Args:
        folder: the folder of tiles.
        record: the tile's row of tiles.csv.
        s2_bands: Sentinel-2 bands in the wanted order; () reads none.
        s1_bands: the same for Sentinel-1.
        labels: name of the folder of labels; "" reads none, and no pixel has a label.
        probabilities: whether to read the shares of the classes too. A tile without a file of them has none.
        most_px: most pixels of a side, in which a larger tile is refused before it is read; None: as memory allows, `MOST_TILE_BYTES`.
        classes: of the folder, as `class_table.read_classes` reads them.

    Raises:
        ValueError: a file is missing, cut short or of the wrong type, lacks a band, is on another grid than the first
            file, has a band without data, a label code of no class, shares that do not sum to 255 or backscatter that is not in dB.
    """
    dtypes = {
        "s2": ("uint16", "int16", "uint32", "int32", "float32", "float64"),
        "s1": ("float32", "float64"),
        "label": ("uint8",),
        PROBABILITY: ("uint8",),
    }
    paths = {kind: folder / (labels if kind == "label" else kind) / f"{record.tile_id}.tif" for kind in dtypes}
    wanted = {
        "s2": s2_bands,
        "s1": s1_bands,
        "label": labels,
        PROBABILITY: probabilities and paths[PROBABILITY].is_file(),
    }
    kinds = [kind for kind in dtypes if wanted[kind]]
    with contextlib.ExitStack() as files:
        rasters = {kind: files.enter_context(open_raster(paths[kind])) for kind in kinds}
        for kind, raster in rasters.items():
            if set(raster.dtypes) - set(dtypes[kind]):
                raise ValueError(f"{paths[kind]} is {raster.dtypes[0]}, expected {dtypes[kind][0]}")
        grid = rasters[kinds[0]]
        for kind, raster in rasters.items():
            check_same_grid(paths[kind], raster, paths[kinds[0]], grid)
        _check_size(record, paths[kinds[0]], grid, 2 * len(s2_bands) + 4 * len(s1_bands) + 1, most_px)
        codes = label_codes(paths["label"], rasters["label"], classes) if labels else np.zeros(grid.shape, np.uint8)
        shares = _shares(paths[PROBABILITY], rasters.get(PROBABILITY), codes, classes) if probabilities else None
        s2, s1 = np.empty((*grid.shape, 0), np.uint16), np.empty((*grid.shape, 0), np.float32)
        notes: tuple[str, ...] = ()
        if s2_bands:
            s2, notes = digital_numbers(paths["s2"], rasters["s2"], s2_bands, final=bool(record.s2_offset))
        if s1_bands:
            s1, more = decibels(paths["s1"], rasters["s1"], s1_bands)
            notes += more
        crs = grid.crs.to_string() if grid.crs else ""
        record = _with_centre(record, grid) if math.isnan(record.lon) or math.isnan(record.lat) else record
        transform = tuple(grid.transform)[:6]
        maker = rasters["label"].tags().get(LABELLED_BY, "") if labels else ""
    # The file knows it better: tiles.csv may have been written again since. A person named there corrected the label.
    if maker.startswith(NETWORK) and (not record.annotator or record.annotator.startswith(NETWORK)):
        record = dataclasses.replace(record, annotator=one_line(maker))
    return Tile(record, s2, s1, class_ids(codes, classes), crs, transform, notes, shares)


def _shares(
    path: Path, raster: rasterio.DatasetReader | None, codes: UInt8[np.ndarray, "height width"], classes: bands.Classes
) -> UInt8[np.ndarray, "height width class"]:
    """Reads the shares of the classes; 0 without a file, and where the label is another class than that of the largest share.

    Such a label was corrected, by somebody or by a rule of `labelling`, and counts as it is.
    """
    if raster is None:
        return np.zeros((*codes.shape, len(classes)), np.uint8)
    named = [name for name in raster.descriptions if name]
    if raster.count != len(classes) or (classes != bands.DYNAMIC_WORLD and named not in ([], list(classes.names))):
        told = f" ({one_line(', '.join(named), 200)})" if named else ""
        raise ValueError(
            f"{path} has {raster.count} bands{told}, expected the shares of {one_line(', '.join(classes.names), 200)}; make it again"
        )
    shares = read_bands(path, raster, tuple(range(1, raster.count + 1)))
    sums = shares.sum(axis=-1, dtype=np.int64)
    if (wrong := (sums != 0) & (sums != WHOLE)).any():
        raise ValueError(
            f"{path} holds shares that sum to {sums[wrong][0]}, expected {WHOLE}, or 0 without any; make it again"
        )
    labelled = (codes >= 1) & (codes <= len(classes))
    own = np.take_along_axis(shares, np.where(labelled, codes - 1, 0)[..., None].astype(np.int64), axis=-1)[..., 0]
    return np.where((labelled & (own < shares.max(axis=-1)))[..., None], np.uint8(0), shares)


def _check_size(
    record: TileRecord, path: Path, grid: rasterio.DatasetReader, pixel_bytes: int, most_px: int | None
) -> None:
    """Raises a ValueError if a tile is too large, by the header of its first file."""
    check_raster_bytes(path, grid.width, grid.height, 1, pixel_bytes, MOST_TILE_BYTES)
    if most_px is not None and max(grid.shape) > most_px:
        raise too_large(record.tile_id, grid.height, grid.width, most_px)


def too_large(tile_id: str, height: int, width: int, most_px: int) -> ValueError:
    """Returns the error of a tile that is larger than the data set's tiles."""
    return ValueError(
        f"tile {tile_id!r} is {height} x {width} pixels, larger than the data set's tile size of {most_px}; "
        f"give --tile_size_px {max(height, width)}, or --cut to have it cut"
    )


def class_ids(codes: UInt8[np.ndarray, "height width"], classes: bands.Classes) -> UInt8[np.ndarray, "height width"]:
    """Converts label codes to class ids: 1 to the number of classes -> 0 on; unmarked (0) and Dynamic World's cloud (10) -> 255."""
    return np.where((codes >= 1) & (codes <= len(classes)), codes - 1, bands.IGNORE).astype(np.uint8)


def write_tile(folder: Path, tile: Tile, s2_bands: tuple[str, ...]) -> None:
    """Writes the rasters of a tile where `read_tile` finds them, none of a sensor without bands. Does not write tiles.csv."""
    for place, content in tile_contents(tile, s2_bands).items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        write_whole(folder / place, content)


def tile_contents(tile: Tile, s2_bands: tuple[str, ...]) -> dict[str, bytes]:
    """Makes the rasters of a tile in memory, by their paths in the folder."""
    codes = np.where(tile.label == bands.IGNORE, 0, tile.label + 1).astype(np.uint8)
    how = {"crs": tile.crs or None, "transform": rasterio.Affine(*tile.transform), "compress": "deflate"}
    return {
        f"{kind}/{tile.record.tile_id}.tif": geotiff(np.moveaxis(values, -1, 0), descriptions=descriptions, **how)
        for kind, values, descriptions in (
            ("s2", tile.s2, s2_bands),
            ("s1", tile.s1, bands.S1_BANDS),
            ("label", codes[..., None], ("label",)),
        )
        if values.shape[-1]
    }


def _with_centre(record: TileRecord, raster: rasterio.DatasetReader) -> TileRecord:
    """Sets longitude and latitude to the raster's centre, if the raster is georeferenced."""
    if not raster.crs:
        return record
    left, bottom, right, top = raster.bounds
    (lon,), (lat,) = transform_coordinates(raster.crs, "EPSG:4326", [(left + right) / 2], [(bottom + top) / 2])
    return dataclasses.replace(record, lon=lon, lat=lat)
