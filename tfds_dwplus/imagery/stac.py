"""Fetch the imagery of a label tile from a STAC API.

Enters: a `LabelTile`, its `Grid`, what is `Wanted`, and a `StacArchive`. Leaves: `Imagery`: one Sentinel-2 scene as digital
numbers, without the offset of processing baseline 04.00, and the mean in dB of all Sentinel-1 scenes around the label's
date, with the names and dates of the scenes.
"""

import datetime
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import rasterio
from jaxtyping import Float32, UInt16
from rasterio.enums import Resampling
from rasterio.warp import transform_bounds

from tfds_dwplus import bands
from tfds_dwplus.imagery.acquisitions import (
    Imagery,
    SceneMetadata,
    Wanted,
    check_not_empty,
    choose_scene,
    common_columns,
    read_on_grid,
    to_power,
)
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.stac_api import Collection, StacArchive, item_time, search
from tfds_dwplus.labels.published import LabelTile


def stac_imagery(tile: LabelTile, grid: Grid, wanted: Wanted, archive: StacArchive) -> Imagery:
    """Finds, reads and combines the scenes of a tile.

    Raises:
        NoImageryError: no scene in the time window, or a band without a valid pixel.
        ArchiveError: the API or a file server did not answer.
        ValueError: a scene lacks a band or a map grid, or has another unit.
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
    """Reads the digital numbers of the tile's Sentinel-2 scene; also gives the scene's id, and warnings."""
    items = search(archive.s2, archive.timeout_s, _bounds(grid), _interval(tile, wanted.s2_window_days))
    item = items[choose_scene([scene_metadata(item) for item in items], tile, grid, wanted.s2_window_days)]
    doubts: list[str] = []
    result, told = digital_numbers(item, grid, wanted, archive)
    valid = result != bands.S2_NODATA
    check_not_empty(f"Sentinel-2 scene {item.id}", valid, wanted.s2_bands)
    if not told and result[valid].min() >= bands.OFFSET_DN:
        doubts.append(
            f"nothing in the metadata of {item.id} tells whether {bands.OFFSET_DN} was added to its digital numbers, and none is "
            f"below; they are left as they are: say --s2_offset {bands.OFFSET_DN} or --s2_offset 0"
        )
    return result, item.id, tuple(doubts)


def sentinel1(
    tile: LabelTile, grid: Grid, wanted: Wanted, archive: StacArchive
) -> tuple[Float32[np.ndarray, "height width 2"], list[str]]:
    """Reads the mean backscatter in dB; also gives the date of each scene with a valid pixel. A pass counts as one scene."""
    items = search(archive.s1, archive.timeout_s, _bounds(grid), _interval(tile, wanted.s1_window_days))
    found = passes(items, wanted.s1_orbit)
    mean, used = mean_backscatter(found, grid, wanted, archive)
    orbit = "" if wanted.s1_orbit == "both" else f" {wanted.s1_orbit}"
    scenes = (
        f"{len(found)}{orbit} Sentinel-1 scenes of {archive.s1.name} within {wanted.s1_window_days} days of {tile.date}"
    )
    check_not_empty(scenes, np.isfinite(mean), bands.S1_BANDS)
    return mean, [date for date, _ in used]


def digital_numbers(
    item: Any, grid: Grid, wanted: Wanted, archive: StacArchive
) -> tuple[UInt16[np.ndarray, "height width s2_band"], bool]:
    """Reads a Sentinel-2 scene on a grid, offset subtracted, 0 where it has no data; also whether the offset is known."""
    result = np.zeros((*grid.shape, len(wanted.s2_bands)), np.uint16)
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
    """Reads the scene classification (SCL) of a Sentinel-2 scene on a grid, nearest neighbour; NaN where it has no data."""
    _, asset = _asset(item, "SCL", archive.s2)
    return read_on_grid(
        asset.href,
        grid,
        lambda stored, nodata: np.where(stored != (nodata or 0), stored, np.nan).astype(np.float32),
        Resampling.nearest,
    )


def passes(items: Sequence[Any], orbit: str) -> list[tuple[str, list[Any]]]:
    """Groups the Sentinel-1 items of an orbit direction by pass, sorted by time. Gives the date and the slices of each."""
    by_pass: dict[tuple[str, str, str], list[Any]] = {}
    for item in items:
        if _is_usable(item, orbit):
            known = item.properties
            key = (item_time(item).date().isoformat(), str(known.get("sat:orbit_state")), str(known.get("platform")))
            by_pass.setdefault(key, []).append(item)
    return [(date, slices) for (date, *_), slices in sorted(by_pass.items())]


def mean_backscatter(
    passes: Sequence[tuple[str, list[Any]]], grid: Grid, wanted: Wanted, archive: StacArchive
) -> tuple[Float32[np.ndarray, "height width 2"], list[tuple[str, list[Any]]]]:
    """Averages Sentinel-1 passes on a grid, in dB, NaN where there is no data; also gives the passes with a valid pixel."""
    total = np.zeros((*grid.shape, len(bands.S1_BANDS)))
    count = np.zeros(total.shape, np.int64)
    used = []
    for date, slices in passes:
        power = np.full(total.shape, np.nan, np.float32)
        for item in slices:
            for place, band in enumerate(bands.S1_BANDS):
                _, asset = _asset(item, band, archive.s1)
                more = read_on_grid(
                    asset.href,
                    grid,
                    lambda stored, nodata, name=item.id: to_power(stored, archive.s1_unit, nodata, name),
                )
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
    """Finds the offset that was added to the digital numbers of a Sentinel-2 asset. None if its metadata do not tell.

    Earth Search tells if it has subtracted the offset. Before processing baseline 04.00 there was none. Otherwise the
    asset's own offset is used, or without one the baseline.
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
    if baseline is not None and float(baseline) < 4:
        return 0
    fields = asset.to_dict()
    band = next(iter(fields.get("raster:bands") or fields.get("bands") or ()), {})
    offset = band.get("offset", band.get("raster:offset", fields.get("raster:offset")))
    if offset is not None:
        scale = band.get("scale", band.get("raster:scale", fields.get("raster:scale"))) or 0.0001
        return round(-offset / scale)
    return None if baseline is None else bands.OFFSET_DN


def _sentinel2_band(
    name: str, key: str, href: str, band: str, grid: Grid, offset: int, by_metadata: bool
) -> UInt16[np.ndarray, "height width"]:
    def to_reflectance(stored: np.ndarray, nodata: float | None) -> Float32[np.ndarray, "h w"]:
        valid = (stored != bands.S2_NODATA) & (stored != (nodata or 0))
        # A dark scene has a few numbers below the offset. If most are, the offset was subtracted before.
        if by_metadata and offset and valid.any() and np.median(stored[valid]) < offset - 100:
            raise ValueError(
                f"the metadata of {name} say that {offset} was added to its digital numbers, but half of those of {band} ({key}) "
                f"are below {np.median(stored[valid]):g}; if the archive has subtracted it, say --s2_offset 0"
            )
        return np.where(valid, np.maximum(stored.astype(np.float32) - offset, 1), np.nan).astype(np.float32)

    values = read_on_grid(href, grid, to_reflectance)
    return np.nan_to_num(np.rint(values), nan=bands.S2_NODATA).clip(0, 65535).astype(np.uint16)


def _is_usable(item: Any, orbit: str) -> bool:
    """Whether a Sentinel-1 item has mode IW, both polarisations and the wanted orbit direction."""
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
    """Finds the asset of a band: by the collection's mapping, or else by its name."""
    key = dict(collection.assets).get(band) or next((k for k in item.assets if bands.canonical_band(k) == band), "")
    if key not in item.assets:
        raise ValueError(
            f"item {item.id} of {collection.name} has no asset {key or f'for band {band}'}; it has {', '.join(sorted(item.assets))}; "
            "name assets by --s2_assets or --s1_assets"
        )
    return key, item.assets[key]


def scene_metadata(item: Any) -> SceneMetadata:
    """Reads the metadata of a Sentinel-2 item. Without a cloud cover it counts as fully cloudy."""
    cloud = item.properties.get("eo:cloud_cover")
    return SceneMetadata(_names(item), item_time(item), 100.0 if cloud is None else float(cloud), item.geometry)


def _names(item: Any) -> str:
    keys = ("s2:product_uri", "s2:product_id", "s2:granule_id", "s2:tile_id", "title")
    return " ".join([item.id, *(str(item.properties[key]) for key in keys if key in item.properties)])


def _bounds(grid: Grid) -> tuple[float, float, float, float]:
    return transform_bounds(grid.crs, "EPSG:4326", *grid.bounds)


def _interval(tile: LabelTile, days: int) -> str:
    """Interval from some days before to some days after the tile's date, in STAC's notation."""
    date, span = datetime.date.fromisoformat(tile.date), datetime.timedelta(days=days)
    return f"{date - span}T00:00:00Z/{date + span}T23:59:59Z"


def gdal_settings(timeout_s: float) -> dict[str, Any]:
    """GDAL settings for reading from an archive."""
    return {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # web servers do not list folders
        "GDAL_HTTP_TIMEOUT": math.ceil(timeout_s),
        "GDAL_HTTP_CONNECTTIMEOUT": math.ceil(min(timeout_s, 20)),
        "GDAL_INGESTED_BYTES_AT_OPEN": 32768,  # a whole COG header in one request
    }
