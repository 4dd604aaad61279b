"""Imagery out of a STAC API.

Enters: a `LabelTile`, its `Grid`, what is `Wanted`, and a `StacArchive`. Leaves: `Imagery`: one Sentinel-2 scene as digital numbers, the
offset of processing baseline 04.00 removed by its metadata, and the mean of all Sentinel-1 scenes about the label's date in
dB, with the names and dates of the scenes they are made from.
"""

import dataclasses
import datetime
import json
import math
import re
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import rasterio
from jaxtyping import Float32, UInt16
from rasterio.enums import Resampling
from rasterio.warp import transform_bounds

from tfds_dwplus import bands
from tfds_dwplus.imagery import (
    ArchiveError,
    Grid,
    Imagery,
    Scene,
    Wanted,
    check_not_empty,
    choose_scene,
    common_columns,
    first_line,
    on_grid,
    to_power,
)
from tfds_dwplus.labels import LabelTile

OFFSET_DN = 1000
"""Added to every digital number from baseline 04.00 on. Source: Sentinel-2 Products Specification, RADIO_ADD_OFFSET."""


@dataclasses.dataclass(frozen=True)
class Collection:
    """A collection of a STAC API."""

    url: str
    name: str
    assets: tuple[tuple[str, str], ...] = ()
    """Pairs of a band and its asset, where the asset is not called as the band is."""
    signed: bool = False
    """Whether planetary-computer signs the items."""


@dataclasses.dataclass(frozen=True)
class StacArchive:
    """Where scenes come from, and the unit of the backscatter there."""

    s2: Collection
    s1: Collection
    s1_unit: str
    """One of `S1_UNITS`."""
    s1_quantity: str
    """sigma0 or gamma0."""
    timeout_s: float = 60.0


@dataclasses.dataclass(frozen=True)
class Preset:
    """A STAC API that is known."""

    url: str
    s2_collections: dict[str, str]
    """By level."""
    s2_assets: dict[str, str]
    s1: tuple[str, str, str] | None
    """Collection, unit and quantity; None where its Sentinel-1 cannot be used."""
    says: str
    """What it serves, in a line."""
    signed: bool = False


_EARTH_SEARCH_ASSETS = {
    "B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "rededge1", "B6": "rededge2", "B7": "rededge3", "B8": "nir",
    "B8A": "nir08", "B9": "nir09", "B10": "cirrus", "B11": "swir16", "B12": "swir22",
}  # fmt: skip

PRESETS = {
    "planetary_computer": Preset(
        "https://planetarycomputer.microsoft.com/api/stac/v1",
        {"L2A": "sentinel-2-l2a"},
        {},
        ("sentinel-1-rtc", "power", "gamma0"),
        "Sentinel-2 L2A; Sentinel-1 RTC: gamma0, terrain corrected, linear power",
        signed=True,
    ),
    "earth_search": Preset(
        "https://earth-search.aws.element84.com/v1",
        {"L2A": "sentinel-2-l2a", "L1C": "sentinel-2-l1c"},
        _EARTH_SEARCH_ASSETS,
        None,
        "Sentinel-2 L2A, and L1C where the AWS account pays; its Sentinel-1 GRD are uncalibrated numbers in radar geometry, "
        "so take those of another archive by --s1_stac_url",
    ),
}


def stac_imagery(tile: LabelTile, grid: Grid, wanted: Wanted, archive: StacArchive) -> Imagery:
    """Finds, reads and combines the scenes of a tile.

    Raises:
        NoImageryError: no scene in a window, or none with a valid pixel in each band.
        ArchiveError: the API or a file did not answer.
        ValueError: a scene is not what it should be: a band missing, another unit, no map grid.
    """
    with rasterio.Env(**gdal_settings(archive.timeout_s)):
        s2, s2_item, doubts = sentinel2(tile, grid, wanted, archive)
        s1, dates = sentinel1(tile, grid, wanted, archive)
    columns = {
        "s2_item": s2_item,
        "s1_source": f"{archive.s1.name} {archive.s1_quantity}",
        "s1_unit": f"{archive.s1_quantity} dB",
    }
    return Imagery(s2, s1, columns | common_columns(wanted, dates), doubts)


def sentinel2(
    tile: LabelTile, grid: Grid, wanted: Wanted, archive: StacArchive
) -> tuple[UInt16[np.ndarray, "height width s2_band"], str, tuple[str, ...]]:
    """Digital numbers of the tile's Sentinel-2 scene, the scene's id, and warnings."""
    items = search(archive.s2, archive.timeout_s, _bounds(grid), _about(tile, wanted.s2_window_days))
    item = items[choose_scene([scene(item) for item in items], tile, grid, wanted.s2_window_days)]
    doubts: list[str] = []
    result, told = digital_numbers(item, grid, wanted, archive)
    valid = result != bands.S2_NODATA
    check_not_empty(f"Sentinel-2 scene {item.id}", valid, wanted.s2_bands)
    if not told and result[valid].min() >= OFFSET_DN:
        doubts.append(
            f"nothing in the metadata of {item.id} tells whether {OFFSET_DN} was added to its digital numbers, and none is below; "
            f"they are left as they are: say --s2_offset {OFFSET_DN} or --s2_offset 0"
        )
    return result, item.id, tuple(doubts)


def sentinel1(
    tile: LabelTile, grid: Grid, wanted: Wanted, archive: StacArchive
) -> tuple[Float32[np.ndarray, "height width 2"], list[str]]:
    """The mean backscatter in dB, and the date of each scene that has a valid pixel. Slices of one pass are one scene."""
    items = search(archive.s1, archive.timeout_s, _bounds(grid), _about(tile, wanted.s1_window_days))
    there = passes(items, wanted.s1_orbit)
    mean, used = mean_backscatter(there, grid, wanted, archive)
    check_not_empty(_no_scene(wanted, archive.s1, tile, len(there)), np.isfinite(mean), bands.S1_BANDS)
    return mean, [date for date, _ in used]


def digital_numbers(
    item: Any, grid: Grid, wanted: Wanted, archive: StacArchive
) -> tuple[UInt16[np.ndarray, "height width s2_band"], bool]:
    """A Sentinel-2 scene on a grid, its offset taken off, 0 where it has no data; and whether anything tells the offset."""
    result = np.zeros((grid.height, grid.width, len(wanted.s2_bands)), np.uint16)
    told = True
    for place, band in enumerate(wanted.s2_bands):
        key, asset = _asset(item, band, archive.s2)
        offset = wanted.s2_offset if wanted.s2_offset is not None else baseline_offset(item, asset)
        told &= offset is not None
        result[..., place] = _sentinel2_band(
            item.id, key, asset.href, band, grid, offset or 0, wanted.s2_offset is None
        )
    return result, told


def scene_classes(item: Any, grid: Grid, archive: StacArchive) -> Float32[np.ndarray, "height width"]:
    """The scene classification (SCL) of a Sentinel-2 scene on a grid, of the nearest pixel each; NaN where it has none."""
    _, asset = _asset(item, "SCL", archive.s2)
    return on_grid(
        asset.href,
        grid,
        lambda stored, nodata: np.where(stored != (nodata or 0), stored, np.nan).astype(np.float32),
        Resampling.nearest,
    )


def passes(items: Sequence[Any], orbit: str) -> list[tuple[str, list[Any]]]:
    """Sentinel-1 items of the orbit asked for by pass, in the order of time: its date, and its slices."""
    by_pass: dict[tuple[str, str, str], list[Any]] = {}
    for item in items:
        if _of_interest(item, orbit):
            known = item.properties
            key = (_time(item).date().isoformat(), str(known.get("sat:orbit_state")), str(known.get("platform")))
            by_pass.setdefault(key, []).append(item)
    return [(date, slices) for (date, *_), slices in sorted(by_pass.items())]


def mean_backscatter(
    passes: Sequence[tuple[str, list[Any]]], grid: Grid, wanted: Wanted, archive: StacArchive
) -> tuple[Float32[np.ndarray, "height width 2"], list[tuple[str, list[Any]]]]:
    """The mean of Sentinel-1 passes on a grid, pixel by pixel, in dB, NaN where there is none; and which have a valid pixel."""
    total = np.zeros((grid.height, grid.width, len(bands.S1_BANDS)))
    count = np.zeros(total.shape, np.int64)
    used = []
    for date, slices in passes:
        power = np.full(total.shape, np.nan, np.float32)
        for item in slices:
            for place, band in enumerate(bands.S1_BANDS):
                _, asset = _asset(item, band, archive.s1)
                more = _sentinel1_band(item.id, asset.href, grid, archive.s1_unit)
                power[..., place] = np.where(np.isnan(power[..., place]), more, power[..., place])
        valid = power > 0
        if valid.any():
            used.append((date, slices))
            measure = np.where(valid, power, 1.0)
            total += np.where(valid, 10 * np.log10(measure) if wanted.s1_mean == "dB" else measure, 0.0)
            count += valid
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / count
        mean = mean if wanted.s1_mean == "dB" else 10 * np.log10(mean)
    return mean.astype(np.float32), used


def baseline_offset(item: Any, asset: Any) -> int | None:
    """Digital numbers that were added to a Sentinel-2 asset, by its item's metadata; None if they do not tell.

    Earth Search says whether it took the offset off; before baseline 04.00 there was none; else the asset's own offset counts,
    and the baseline where the asset gives none.
    """
    known = item.properties
    if known.get("earthsearch:boa_offset_applied") or known.get("sentinel:boa_offset_applied"):
        return 0
    baseline = (
        known.get("s2:processing_baseline") or known.get("processing:baseline") or known.get("processing:version")
    )
    named = re.search(r"_N(\d{2})(\d{2})_", " ".join([_names(item), asset.href.partition("?")[0]]))
    if baseline is None and named:
        baseline = f"{named[1]}.{named[2]}"
    old = baseline is not None and float(baseline) < 4
    if old:
        return 0
    fields = asset.to_dict()
    band = next(iter(fields.get("raster:bands") or fields.get("bands") or ()), {})
    offset = band.get("offset", band.get("raster:offset", fields.get("raster:offset")))
    if offset is not None:
        scale = band.get("scale", band.get("raster:scale", fields.get("raster:scale"))) or 0.0001
        return round(-offset / scale)
    return None if baseline is None else OFFSET_DN


def check_collections(archive: StacArchive) -> None:
    """Raises a ValueError if an API is not there or does not have its collection; one without a name is not looked for."""
    for collection in filter(lambda one: one.name, (archive.s2, archive.s1)):
        try:
            found = _client(collection, archive.timeout_s).get_collection(collection.name)
        except ArchiveError as error:
            raise ValueError(f"{error}; check --stac_url, --s1_stac_url and the network") from None
        except Exception as error:
            if getattr(error, "status_code", None) != 404:
                raise ValueError(f"{collection.url} does not answer: {_said(error)}; try again later") from None
            found = None
        if found is None:
            raise ValueError(
                f"{collection.url} has no collection {collection.name!r}; say --s2_collection or --s1_collection"
            )


def _sentinel2_band(
    name: str, key: str, href: str, band: str, grid: Grid, offset: int, by_metadata: bool
) -> UInt16[np.ndarray, "height width"]:
    def to_reflectance(stored: np.ndarray, nodata: float | None) -> Float32[np.ndarray, "h w"]:
        valid = (stored != bands.S2_NODATA) & (stored != (nodata or 0))
        # A dark scene has a few numbers below the offset, not most of them: then it was taken off already.
        if by_metadata and offset and valid.any() and np.median(stored[valid]) < offset - 100:
            raise ValueError(
                f"the metadata of {name} say that {offset} was added to its digital numbers, but half of those of {band} ({key}) "
                f"are below {np.median(stored[valid]):g}; if the archive took it off, say --s2_offset 0"
            )
        return np.where(valid, np.maximum(stored.astype(np.float32) - offset, 1), np.nan).astype(np.float32)

    values = on_grid(href, grid, to_reflectance)
    return np.nan_to_num(np.rint(values), nan=bands.S2_NODATA).clip(0, 65535).astype(np.uint16)


def _sentinel1_band(name: str, href: str, grid: Grid, unit: str) -> Float32[np.ndarray, "height width"]:
    return on_grid(href, grid, lambda stored, nodata: to_power(stored, unit, nodata, name))


def _no_scene(wanted: Wanted, collection: Collection, tile: LabelTile, passes: int) -> str:
    orbit = "" if wanted.s1_orbit == "both" else f" {wanted.s1_orbit}"
    return f"{passes}{orbit} Sentinel-1 scenes of {collection.name} within {wanted.s1_window_days} days of {tile.date}"


def _of_interest(item: Any, orbit: str) -> bool:
    """Whether a Sentinel-1 item is IW with both polarisations, of the orbit asked for."""
    known = item.properties
    if known.get("sar:instrument_mode", "IW") != "IW":
        return False
    if not set(bands.S1_BANDS) <= set(known.get("sar:polarizations", bands.S1_BANDS)):
        return False
    if orbit == "both":
        return True
    if "sat:orbit_state" not in known:
        raise ValueError(
            f"Sentinel-1 item {item.id} has no sat:orbit_state, so is not known to be {orbit}; say --s1_orbit both"
        )
    return str(known["sat:orbit_state"]).lower() == orbit


def _asset(item: Any, band: str, collection: Collection) -> tuple[str, Any]:
    """The asset of a band: as the collection's mapping says, else the one that is called as the band is."""
    key = dict(collection.assets).get(band) or next((k for k in item.assets if bands.canonical_band(k) == band), "")
    if key not in item.assets:
        raise ValueError(
            f"item {item.id} of {collection.name} has no asset {key or f'for band {band}'}; it has {', '.join(sorted(item.assets))}; "
            "name assets by --s2_assets or --s1_assets"
        )
    return key, item.assets[key]


def scene(item: Any) -> Scene:
    """What an item says of its Sentinel-2 scene; one that tells no cloud cover counts as covered."""
    cloud = item.properties.get("eo:cloud_cover")
    return Scene(_names(item), _time(item), 100.0 if cloud is None else float(cloud), item.geometry)


def _names(item: Any) -> str:
    keys = ("s2:product_uri", "s2:product_id", "s2:granule_id", "s2:tile_id", "title")
    return " ".join([item.id, *(str(item.properties[key]) for key in keys if key in item.properties)])


def _time(item: Any) -> datetime.datetime:
    time = item.datetime or datetime.datetime.fromisoformat(item.properties["start_datetime"].replace("Z", "+00:00"))
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)


def search(
    collection: Collection,
    timeout_s: float,
    bounds: tuple[float, float, float, float],
    when: str,
    most: int | None = None,
) -> list[Any]:
    """Items that meet a box, in the order of their time and id.

    Args:
        collection: where to look.
        timeout_s: for an answer.
        bounds: west, south, east, north in degrees; west > east across the antimeridian, where it is asked for in two parts, as
            not every API knows such a box.
        when: interval of times, as STAC has it.
        most: items of each part of the box; None: all.

    Raises:
        ArchiveError: the API does not answer, or not with items.
    """
    west, south, east, north = bounds
    boxes = [bounds] if west <= east else [(west, south, 180.0, north), (-180.0, south, east, north)]
    client = _client(collection, timeout_s)
    try:
        found = {
            item.id: item
            for bbox in boxes
            for item in client.search(
                collections=[collection.name], bbox=bbox, datetime=when, limit=min(most or 250, 250), max_items=most
            ).items()
        }
    except Exception as error:
        raise ArchiveError(f"the search of {collection.url} failed: {_said(error)}") from None
    return sorted(found.values(), key=lambda item: (_time(item), item.id))


def _bounds(grid: Grid) -> tuple[float, float, float, float]:
    return transform_bounds(grid.crs, "EPSG:4326", *grid.bounds)


def _about(tile: LabelTile, days: int) -> str:
    """An interval of some days before and after the tile's date."""
    date, span = datetime.date.fromisoformat(tile.date), datetime.timedelta(days=days)
    return f"{date - span}T00:00:00Z/{date + span}T23:59:59Z"


def _said(error: Exception) -> str:
    """What an error of an API's client means, in a line."""
    if isinstance(error, json.JSONDecodeError):
        return "its answer is not JSON, so not that of a STAC API"
    said, status = first_line(error), getattr(error, "status_code", None)
    return (f"HTTP {status}: " if status else "") + ("a page of HTML" if said.startswith("<") else said)


_clients = threading.local()


def _client(collection: Collection, timeout_s: float) -> Any:
    """A client of a STAC API; each thread keeps its own, as sessions are not to be shared."""
    try:
        import pystac_client
        from pystac_client.stac_api_io import StacApiIO

        if collection.signed:
            import planetary_computer
    except ImportError as error:
        raise ValueError(f"acquiring from STAC needs {error.name}: pip install 'specsar_jax[acquire]'") from None
    known = _clients.__dict__.setdefault("by_url", {})
    if collection.url not in known:
        try:
            known[collection.url] = pystac_client.Client.open(
                collection.url,
                modifier=planetary_computer.sign_inplace if collection.signed else None,
                stac_io=StacApiIO(max_retries=None),
                timeout=timeout_s,
            )
        except Exception as error:
            raise ArchiveError(f"no STAC API answers at {collection.url}: {_said(error)}") from None
    return known[collection.url]


def gdal_settings(timeout_s: float) -> dict[str, Any]:
    """GDAL's settings while it reads from an archive."""
    return {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # an archive has no list of files to offer
        "GDAL_HTTP_TIMEOUT": math.ceil(timeout_s),
        "GDAL_HTTP_CONNECTTIMEOUT": math.ceil(min(timeout_s, 20)),
        "GDAL_INGESTED_BYTES_AT_OPEN": 32768,  # a whole COG header in one request
    }
