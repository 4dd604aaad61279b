"""What is common to all archives: which imagery is wanted, choice of a scene, and reading a raster on a label's grid.

Enters: metadata of scenes, rasters by path or URL. Leaves: pixels on a label's 10 m grid, bilinear: Sentinel-2 as digital
numbers (reflectance x 10000), Sentinel-1 as linear power.

Backscatter is always interpolated as linear power, whatever unit the archive stores. The conversion comes between reading
and resampling. So rasters are read by rasterio, one window of one band at a time, and not by odc-stac, which resamples the
stored numbers. The archives themselves are in `stac` and `earth_engine`.
"""

import dataclasses
import datetime
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import rasterio
from jaxtyping import Bool, Float32, Shaped, UInt16
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import geometry_mask
from rasterio.warp import transform_geom
from rasterio.windows import Window

from tfds_dwplus import bands
from tfds_dwplus.imagery.grids import Grid, warp
from tfds_dwplus.labels.published import LabelTile

ARCHIVE_UNITS = ("db", "power", "scaled")
"""Units in which archives store backscatter; see `rasters.S1_UNITS`."""


class ArchiveError(OSError):
    """The archive did not answer, or gave a wrong answer. Trying again may help."""


class NoImageryError(ValueError):
    """The archive has no scene for this tile. Trying again does not help."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The imagery that a data set wants, from any archive."""

    s2_level: str = "L2A"
    """L1C or L2A. The paper does not say. The label workbook names L2A products, and every archive has them."""
    s2_bands: tuple[str, ...] = bands.S2_BANDS
    s2_window_days: int = 0
    """Days between the label's date and a Sentinel-2 scene, at most, if the product is not known."""
    s2_offset: int | None = None
    """Digital numbers to subtract from Sentinel-2. None: use each scene's metadata."""
    s1_orbit: str = "descending"
    """descending (as in the paper), ascending or both."""
    s1_mean: str = "dB"
    """dB: mean of decibels, as `.mean()` of Earth Engine's collection. power: mean of linear power, then converted to dB."""
    s1_window_days: int = 180
    """Days between the label's date and a Sentinel-1 scene, at most (as in the paper)."""


@dataclasses.dataclass(frozen=True)
class Imagery:
    """The imagery of a tile. Nodata is 0 in `s2` and NaN in `s1`."""

    s2: UInt16[np.ndarray, "height width s2_band"]
    s1: Float32[np.ndarray, "height width 2"]
    columns: dict[str, str]
    """Values for tiles.csv: s2_item, s2_level, s1_source, s1_unit, s1_orbit, s1_mean, s1_scenes, s1_dates."""
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class SceneMetadata:
    """Metadata of a Sentinel-2 scene, known before its pixels are read."""

    names: str
    """Item id and product names, separated by spaces."""
    time: datetime.datetime
    cloud_percent: float
    geometry: dict[str, Any] | None
    """Footprint as GeoJSON in degrees."""


def common_columns(wanted: Wanted, dates: Sequence[str]) -> dict[str, str]:
    """Values for tiles.csv that do not depend on the archive. `dates` has one entry for each Sentinel-1 scene."""
    return {
        "s2_level": wanted.s2_level,
        "s1_orbit": wanted.s1_orbit,
        "s1_mean": wanted.s1_mean,
        "s1_scenes": str(len(dates)),
        "s1_dates": " ".join(dates),
    }


def choose_scene(scenes: Sequence[SceneMetadata], tile: LabelTile, grid: Grid, window_days: int) -> int:
    """Chooses the Sentinel-2 scene of a label, and gives its index.

    Scenes of the acquisition that the tile names are preferred, at any processing level. Among the rest, the scene with the
    largest cover of the tile is chosen (99 % counts as all), then the least cloudy, the nearest in time, the first by name.

    Raises:
        NoImageryError: there is no scene, or none covers any part of the tile.
    """
    products = [place for place, scene in enumerate(scenes) if is_product(scene.names, tile.s2_product_id)]
    ranks = []
    for place in products or range(len(scenes)):
        scene = scenes[place]
        share = covered_share(scene.geometry, grid)
        noon = datetime.datetime.fromisoformat(f"{tile.date}T12:00:00+00:00")
        distance = abs((scene.time - noon).total_seconds()) // 86400
        if share:
            ranks.append((-min(round(share, 2), 0.99), scene.cloud_percent, distance, scene.names, place))
    if not ranks:
        raise NoImageryError(
            f"no Sentinel-2 scene within {window_days} days of {tile.date} at {tile.lon:g}, {tile.lat:g}; "
            "widen --s2_window_days, or use another --s2_collection or archive"
        )
    return min(ranks)[-1]


def is_product(names: str, product_id: str) -> bool:
    """Whether a scene's names belong to the same acquisition as a product.

    They do if the sensing time (or day, if the name has no time) and the MGRS tile are equal. All else may differ with
    processing: `S2A_MSIL2A_20200604T054639_N0214_R048_T43RCP_...`, `20200604T054639_20200604T054831_T43RCP` and
    `S2A_43RCP_20200604_0_L2A` are the same acquisition.
    """
    wanted = re.search(r"^(S2\w)_.*?_(\d{8})T(\d{6})_.*_T(\d{2}[A-Z]{3})_", product_id)
    if not wanted:
        return False
    platform, day, time, place = wanted.groups()
    if f"{day}T{time}" in names:
        return place in names
    return bool(re.search(rf"{platform}_T?{place}_{day}(?!\d|T\d)", names))


def covered_share(geometry: dict[str, Any] | None, grid: Grid) -> float:
    """Share of the grid inside a GeoJSON geometry in degrees. 1 if the geometry is unknown or crosses the antimeridian,
    where archives write it in different ways.
    """
    if geometry is None or _crosses_antimeridian(geometry):
        return 1.0
    coarse = max(1, grid.height // 32)
    transform = grid.transform @ rasterio.Affine.scale(coarse)
    shape = (grid.height // coarse, grid.width // coarse)
    outside = geometry_mask([transform_geom("EPSG:4326", grid.crs, geometry)], shape, transform)
    return float(1 - outside.mean())


def to_power(
    values: Shaped[np.ndarray, "h w"], unit: str, nodata: float | None, name: str
) -> Float32[np.ndarray, "h w"]:
    """Converts stored backscatter to linear power, NaN where there is no data.

    Raises:
        ValueError: the values are not in this unit.
    """
    low, high = bands.S1_DB_RANGE
    values = values.astype(np.float64)
    valid = np.isfinite(values) & (values != nodata) & ((values != 0) | (unit == "db"))
    given = values[valid]
    if not given.size:
        return np.full(values.shape, np.nan, np.float32)
    if unit == "power" and given.min() < 0:
        said, hint = "linear power, never below 0", "db"
    elif unit == "scaled" and (given.min() < 0 or (given % 1).any()):
        said, hint = "digital numbers with dB = 20 log10(DN) - 83", "db, or power"
    else:
        decibels = {
            "db": lambda x: x,
            "power": lambda x: 10 * np.log10(x),
            "scaled": lambda x: 20 * np.log10(x) - 83,
        }[unit](given)
        # Power below the plausible range is below the noise of any scene: no data.
        measured = decibels >= low if unit == "power" else np.ones(decibels.shape, bool)
        if (
            decibels.min(initial=low, where=measured) >= low
            and decibels.max() <= high
            and (given.size < 100 or np.median(decibels) < 0)
        ):
            power = np.full(values.shape, np.nan, np.float32)
            power[valid] = np.where(measured, 10 ** (decibels / 10), np.nan)
            return power
        said, hint = f"backscatter of {low:g} to {high:g} dB, in the middle below 0", "db, power or scaled"
    raise ValueError(
        f"Sentinel-1 scene {name} holds values from {given.min():g} to {given.max():g}, expected {said} (--s1_unit {unit}); "
        f"is its unit another one? Say --s1_unit {hint}"
    )


def read_on_grid(
    href: str,
    grid: Grid,
    to_value: Callable[[np.ndarray, float | None], Float32[np.ndarray, "h w"]],
    resampling: Resampling = Resampling.bilinear,
) -> Float32[np.ndarray, "height width"]:
    """Reads a one-band raster, resampled to a grid; NaN where it has no value.

    Args:
        href: path or URL.
        grid: the target.
        to_value: converts stored pixels and the nodata value to values that may be interpolated.
        resampling: method of interpolation.

    Raises:
        ArchiveError: the file cannot be fetched, or is cut short.
        ValueError: it has several bands or no map grid.
    """
    place = href.partition("?")[0]  # without the signature, which is secret
    # GDAL caches a URL's answer, even a refusal. A fragment is not sent to the server, and makes every URL new to GDAL.
    address = f"/vsicurl/{href}#{next(_request_numbers)}" if href.startswith(("http://", "https://")) else href
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # reported below, in one line
            raster = rasterio.open(address)
        with raster:
            if raster.count != 1 or not raster.crs:
                what = f"{raster.count} bands" if raster.crs else "no map grid (it is in radar geometry)"
                raise ValueError(f"{place} has {what}, expected one band on a map grid; use another collection")
            source = Grid.of(raster)
            needed = source.part_for(grid)
            if needed is None:
                return np.full(grid.shape, np.nan, np.float32)
            stored, nodata = raster.read(1, window=Window.from_slices(*needed)), raster.nodata
    except RasterioError as error:
        raise ArchiveError(f"cannot read {place}: {_reason(error, address)}") from None
    return warp(to_value(stored, nodata), source.window(*needed), grid, resampling)


def check_not_empty(what: str, valid: Bool[np.ndarray, "height width band"], names: tuple[str, ...]) -> None:
    """Raises a NoImageryError if a band has no valid pixel. `what` starts the message."""
    empty = [name for name, some in zip(names, valid.any(axis=(0, 1)), strict=True) if not some]
    if empty:
        raise NoImageryError(f"{what}: no valid pixel of {', '.join(empty)} on this tile")


def _crosses_antimeridian(geometry: dict[str, Any]) -> bool:
    west, _, east, _ = rasterio.features.bounds(geometry)
    return east - west > 180


_request_numbers = itertools.count()


def _reason(error: Exception, address: str) -> str:
    said = first_line(error).replace(address, "").strip("'` :")
    # For a refused file, GDAL says that it does not exist, has an unknown format or is cut short.
    if re.search(r"\b(401|403)\b", " ".join(str(cause).replace(address, "") for cause in _causes(error))):
        return f"{said}; its signature has expired or the archive needs an account (Planetary Computer: PC_SDK_SUBSCRIPTION_KEY)"
    return said


def first_line(error: BaseException) -> str:
    """Message of an error's original cause, in one line of at most 300 characters. Outer errors tell less."""
    cause = list(_causes(error))[-1]
    return " ".join(str(cause).split())[:300] or type(cause).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Gives the error, its cause, the cause of that, and so on."""
    while error:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
