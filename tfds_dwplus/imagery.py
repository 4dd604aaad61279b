"""What the imagery of a tile is, whoever serves it: the grid, the choice of a scene, units, and how a raster comes onto the grid.

Enters: rasters by address, scenes by their metadata. Leaves: pixels on a label's own 10 m grid, bilinear; Sentinel-2 as digital
numbers (reflectance x 10000), Sentinel-1 as linear power, in which it is interpolated whatever unit the archive stores.

That step lies between reading and warping, so rasters are read by rasterio, a window and a band at a time, not by odc-stac,
which warps what is stored. `stac` and `earth_engine` are the archives.
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
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import geometry_mask
from rasterio.warp import transform_bounds, transform_geom

from tfds_dwplus import bands, grids
from tfds_dwplus.labels import LabelTile

S1_UNITS = ("db", "power", "scaled")
"""What an archive stores: dB; linear power; integers with dB = 20 log10(DN) - 83 (WorldCereal, JAXA's PALSAR convention)."""


class ArchiveError(OSError):
    """The archive did not answer, or not with what it should: another try may help."""


class NoImageryError(ValueError):
    """The archive has no scene for this tile: another try does not help."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """The grid of a label."""

    crs: str
    transform: tuple[float, ...]
    """Affine coefficients a, b, c, d, e, f, metres."""
    height: int
    width: int

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top in the grid's CRS."""
        return rasterio.transform.array_bounds(self.height, self.width, rasterio.Affine(*self.transform))


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the imagery of a data set is to be, whoever serves it."""

    s2_level: str = "L2A"
    """L1C or L2A. The paper does not say; the label workbook names L2A products, and every archive serves them."""
    s2_bands: tuple[str, ...] = bands.S2_BANDS
    s2_window_days: int = 0
    """How far from the label's date a Sentinel-2 scene may be where its product is not known."""
    s2_offset: int | None = None
    """Digital numbers to subtract; None: by each scene's metadata."""
    s1_orbit: str = "descending"
    """descending (the paper's), ascending or both."""
    s1_mean: str = "dB"
    """dB: a mean of decibels, as a plain `.mean()` on Earth Engine's collection gives; power: of linear power, then dB."""
    s1_window_days: int = 180
    """The paper's."""


@dataclasses.dataclass(frozen=True)
class Imagery:
    """Imagery of a tile; nodata is 0 in `s2` and NaN in `s1`."""

    s2: UInt16[np.ndarray, "height width s2_band"]
    s1: Float32[np.ndarray, "height width 2"]
    columns: dict[str, str]
    """Of tiles.csv: s2_item, s2_level, s1_source, s1_unit, s1_orbit, s1_mean, s1_scenes, s1_dates."""
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Scene:
    """What is known of a Sentinel-2 scene before it is read."""

    names: str
    """Item id and product names, joined by spaces."""
    time: datetime.datetime
    cloud_percent: float
    geometry: dict[str, Any] | None
    """GeoJSON, degrees."""


def common_columns(wanted: Wanted, dates: Sequence[str]) -> dict[str, str]:
    """Columns of tiles.csv that say the same of any archive; `dates` has one entry a Sentinel-1 scene."""
    return {
        "s2_level": wanted.s2_level,
        "s1_orbit": wanted.s1_orbit,
        "s1_mean": wanted.s1_mean,
        "s1_scenes": str(len(dates)),
        "s1_dates": " ".join(dates),
    }


def choose_scene(scenes: Sequence[Scene], tile: LabelTile, grid: Grid, window_days: int) -> int:
    """Place of the Sentinel-2 scene that was marked: that of the tile's product, at whatever level and processing, else of those
    that cover the tile (to a hundredth, or best) the clearest, the nearest in time, the first by name.

    Raises:
        NoImageryError: there is none, or none covers any of the tile.
    """
    products = [place for place, scene in enumerate(scenes) if is_product(scene.names, tile.s2_product_id)]
    ranks = []
    for place in products or range(len(scenes)):
        scene = scenes[place]
        share = covered(scene.geometry, grid)
        noon = datetime.datetime.fromisoformat(f"{tile.date}T12:00:00+00:00")
        distance = abs((scene.time - noon).total_seconds()) // 86400
        if share:
            ranks.append((-min(round(share, 2), 0.99), scene.cloud_percent, distance, scene.names, place))
    if not ranks:
        raise NoImageryError(
            f"no Sentinel-2 scene within {window_days} days of {tile.date} at {tile.lon:g}, {tile.lat:g}; "
            "widen --s2_window_days, or take another --s2_collection or archive"
        )
    return min(ranks)[-1]


def is_product(names: str, product_id: str) -> bool:
    """Whether names of a scene are of the take of a product: the same sensing time (or day, where only that is named) and
    MGRS tile. Levels, baselines and reprocessings differ in all else: `S2A_MSIL2A_20200604T054639_N0214_R048_T43RCP_...`,
    `20200604T054639_20200604T054831_T43RCP` and `S2A_43RCP_20200604_0_L2A` are one take.
    """
    wanted = re.search(r"^(S2\w)_.*?_(\d{8})T(\d{6})_.*_T(\d{2}[A-Z]{3})_", product_id)
    if not wanted:
        return False
    platform, day, time, place = wanted.groups()
    if f"{day}T{time}" in names:
        return place in names
    return bool(re.search(rf"{platform}_T?{place}_{day}(?!\d|T\d)", names))


def covered(geometry: dict[str, Any] | None, grid: Grid) -> float:
    """Share of the grid within a GeoJSON geometry in degrees; 1 where it is not known, or lies on both sides of the
    antimeridian, where archives draw it in ways of their own.
    """
    if geometry is None or _around_the_globe(geometry):
        return 1.0
    coarse = max(1, grid.height // 32)
    a, b, c, d, e, f = grid.transform
    transform = rasterio.Affine(a * coarse, b * coarse, c, d * coarse, e * coarse, f)
    shape = (grid.height // coarse, grid.width // coarse)
    outside = geometry_mask([transform_geom("EPSG:4326", grid.crs, geometry)], shape, transform)
    return float(1 - outside.mean())


def to_power(
    values: Shaped[np.ndarray, "h w"], unit: str, nodata: float | None, name: str
) -> Float32[np.ndarray, "h w"]:
    """Stored backscatter as linear power; NaN where there is none.

    Raises:
        ValueError: the values are not of this unit.
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
        # Less power than the range starts with is below the noise of any scene: nothing was measured.
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


def on_grid(
    href: str,
    grid: Grid,
    to_value: Callable[[np.ndarray, float | None], Float32[np.ndarray, "h w"]],
    resampling: Resampling = Resampling.bilinear,
) -> Float32[np.ndarray, "height width"]:
    """A one-band raster on the grid, bilinear if nothing else is said; NaN where it has no value. `to_value` turns stored pixels,
    given the nodata value, into what is interpolated.

    Raises:
        ArchiveError: the file does not answer or is cut short.
        ValueError: it has several bands or no map grid.
    """
    place = href.partition("?")[0]  # what follows is a signature, and secret
    # GDAL remembers how a file answered, a refusal too. A fragment is not sent, and makes each asking a new one.
    address = f"/vsicurl/{href}#{next(_askings)}" if href.startswith(("http://", "https://")) else href
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # refused below, in a line
            raster = rasterio.open(address)
        with raster:
            if raster.count != 1 or not raster.crs:
                what = f"{raster.count} bands" if raster.crs else "no map grid (it is in radar geometry)"
                raise ValueError(f"{place} has {what}, expected one band on a map grid; take another collection")
            bounds = transform_bounds(grid.crs, raster.crs, *grid.bounds)
            (top, left), (bottom, right) = raster.index(bounds[0], bounds[3]), raster.index(bounds[2], bounds[1])
            rows, columns = (
                (max(top - 3, 0), min(bottom + 4, raster.height)),
                (max(left - 3, 0), min(right + 4, raster.width)),
            )
            if rows[0] >= rows[1] or columns[0] >= columns[1]:
                return np.full((grid.height, grid.width), np.nan, np.float32)
            window = rasterio.windows.Window.from_slices(rows, columns)
            stored, nodata = raster.read(1, window=window), raster.nodata
            here = grids.Grid.of(raster).window(slice(*rows), slice(*columns))
    except RasterioError as error:
        raise ArchiveError(f"cannot read {place}: {_reason(error, address)}") from None
    onto = grids.Grid(CRS.from_user_input(grid.crs), rasterio.Affine(*grid.transform), grid.height, grid.width)
    return grids.warp(to_value(stored, nodata), here, onto, resampling)


def check_not_empty(what: str, valid: Bool[np.ndarray, "height width band"], names: tuple[str, ...]) -> None:
    """Raises a NoImageryError that starts with `what` if a band has no valid pixel."""
    empty = [name for name, some in zip(names, valid.any(axis=(0, 1)), strict=True) if not some]
    if empty:
        raise NoImageryError(f"{what}: no valid pixel of {', '.join(empty)} on this tile")


def _around_the_globe(geometry: dict[str, Any]) -> bool:
    west, _, east, _ = rasterio.features.bounds(geometry)
    return east - west > 180


_askings = itertools.count()


def _reason(error: Exception, address: str) -> str:
    said = first_line(error).replace(address, "").strip("'` :")
    # GDAL calls a file that it may not have one that is not there, or not of a format it knows, or cut short.
    if re.search(r"\b(401|403)\b", " ".join(str(cause).replace(address, "") for cause in _causes(error))):
        return f"{said}; its signature has expired or the archive wants an account (Planetary Computer: PC_SDK_SUBSCRIPTION_KEY)"
    return said


def first_line(error: BaseException) -> str:
    """What the first cause of an error says, in a line of at most 300 signs: libraries wrap it in less and less."""
    cause = list(_causes(error))[-1]
    return " ".join(str(cause).split())[:300] or type(cause).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it came of, what that came of."""
    while error:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
