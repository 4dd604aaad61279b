"""Combines many scenes into a composite: the median or the least cloudy value of Sentinel-2, the mean of Sentinel-1.

Enters: a grid, a `Recipe` and a STAC archive. Leaves: a `Composite` of digital numbers and dB on that grid, with the names and
dates of the scenes it is made from.

The value of a pixel depends only on the scenes that cover it, in the order of their cloudiness, not on the pixels around it. So the
composite of a region does not depend on how the region is divided into blocks.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import rasterio
import shapely
from jaxtyping import Bool, Float32, Int, UInt16
from rasterio.warp import transform_bounds, transform_geom

from tfds_dwplus import bands
from tfds_dwplus.imagery import stac, stac_api
from tfds_dwplus.imagery.acquisitions import Wanted
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.scenes import CLOUD_CLASSES
from tfds_dwplus.imagery.stac_api import StacArchive

NOT_CLEAR = (0, 1, *CLOUD_CLASSES)
"""Values of the scene classification (SCL) that are not clear: no data, saturated or defective, and cloud as in `scenes`."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of a composite."""

    sensors: tuple[str, ...]
    """Sensors that the network reads, of 's2' and 's1'; only these are fetched."""
    wanted: Wanted
    """Bands, offset and level of Sentinel-2, orbit and averaging of Sentinel-1. Its time windows around a date are not used."""
    s2_dates: tuple[str, str]
    """First and last day of Sentinel-2, YYYY-MM-DD."""
    s1_dates: tuple[str, str]
    s2_scenes: int = 5
    """Number of clear observations of a pixel to take the median of, those of the clearest scenes first; 1 takes the clearest."""
    max_cloud_percent: float = 80.0
    """Scenes with a higher cloud cover are not used."""
    cloud_mask: bool = True
    """Whether the scene classification (of level L2A) decides which pixels are clear; if not, all pixels with data are."""


@dataclasses.dataclass(frozen=True)
class Composite:
    """A composite; nodata is 0 in `s2` and NaN in `s1`. A sensor that is not read has no bands."""

    s2: UInt16[np.ndarray, "height width s2_band"]
    s1: Float32[np.ndarray, "height width s1_band"]
    items: dict[str, tuple[str, ...]]
    """Names of the scenes used, by sensor."""
    dates: dict[str, tuple[str, ...]]
    """Dates of these scenes, YYYY-MM-DD, without repetitions, by sensor."""
    doubts: tuple[str, ...]
    """Warnings, one line each."""


def composite(grid: Grid, recipe: Recipe, archive: StacArchive) -> Composite:
    """Searches, reads and combines the scenes that cover a grid.

    Raises:
        acquisitions.ArchiveError: the API or a file did not answer; another attempt may help.
        ValueError: a scene lacks a band, has another unit, or is not on a map grid.
    """
    bounds = transform_bounds(grid.crs, "EPSG:4326", *grid.bounds)
    s2, s1 = (np.zeros((*grid.shape, 0), dtype) for dtype in (np.uint16, np.float32))
    items: dict[str, tuple[str, ...]] = {}
    dates: dict[str, tuple[str, ...]] = {}
    doubts: tuple[str, ...] = ()
    with rasterio.Env(**stac.gdal_settings(archive.timeout_s)):
        if "s2" in recipe.sensors:
            found = stac_api.search(archive.s2, archive.timeout_s, bounds, interval(recipe.s2_dates))
            s2, used, doubts = _sentinel2(found, grid, recipe, archive)
            items["s2"] = tuple(item.id for item in used)
            dates["s2"] = tuple(sorted({str(stac.scene_metadata(item).time.date()) for item in used}))
        if "s1" in recipe.sensors:
            found = stac_api.search(archive.s1, archive.timeout_s, bounds, interval(recipe.s1_dates))
            passes = stac.passes(found, recipe.wanted.s1_orbit)
            s1, used = stac.mean_backscatter(passes, grid, recipe.wanted, archive)
            items["s1"] = tuple(item.id for _, slices in used for item in slices)
            dates["s1"] = tuple(sorted({date for date, _ in used}))
    return Composite(s2, s1, items, dates, doubts)


def interval(dates: tuple[str, str]) -> str:
    """Returns the STAC time interval from the first day to the last, both included."""
    return f"{dates[0]}T00:00:00Z/{dates[1]}T23:59:59Z"


class Median:
    """The median of the first `most` observations of each pixel. Only these are kept in memory, however many scenes are added."""

    def __init__(self, shape: tuple[int, int], s2_bands: int, most: int) -> None:
        """Allocates memory for `most` observations of each pixel."""
        self._seen = np.zeros((most, *shape, s2_bands), np.uint16)
        self._count = np.zeros(shape, np.int64)

    @property
    def missing(self) -> Bool[np.ndarray, "height width"]:
        """Returns a mask of the pixels that have fewer than `most` observations."""
        return self._count < len(self._seen)

    def add(
        self, s2: UInt16[np.ndarray, "height width s2_band"], clear: Bool[np.ndarray, "height width"]
    ) -> Bool[np.ndarray, "height width"]:
        """Adds the clear pixels of a scene that have data in all bands, where observations are missing; returns a mask of them."""
        taken = clear & self.missing & (s2 != bands.S2_NODATA).all(axis=-1)
        rows, columns = np.nonzero(taken)
        self._seen[self._count[rows, columns], rows, columns] = s2[rows, columns]
        self._count[rows, columns] += 1
        return taken

    def result(self) -> UInt16[np.ndarray, "height width s2_band"]:
        """Returns the median of the observations, band by band; 0 where there are none."""
        if len(self._seen) == 1:
            return self._seen[0]
        middle = np.empty(self._seen.shape[1:], np.uint16)
        for band in range(middle.shape[-1]):
            middle[..., band] = _middle(self._seen[..., band], self._count)
        return middle


def _middle(
    values: UInt16[np.ndarray, "most height width"], count: Int[np.ndarray, "height width"]
) -> UInt16[np.ndarray, "height width"]:
    order = np.sort(np.where(np.arange(len(values))[:, None, None] < count, values, np.uint16(65535)), axis=0)
    low, high = (
        np.take_along_axis(order, np.maximum(place // 2, 0)[None], axis=0)[0].astype(np.float32)
        for place in (count - 1, count)
    )
    return np.where(count > 0, np.rint((low + high) / 2), bands.S2_NODATA).astype(np.uint16)


def _sentinel2(
    items: Sequence[Any], grid: Grid, recipe: Recipe, archive: StacArchive
) -> tuple[UInt16[np.ndarray, "height width s2_band"], list[Any], tuple[str, ...]]:
    """Returns the composite, the items that it is made from, and warnings. Reads no more scenes than it needs.

    Items of one satellite and day are one acquisition, cut into overlapping tiles; it counts once for a pixel.
    """
    scenes = [(stac.scene_metadata(item), item) for item in items]
    known = [
        (s.cloud_percent, s.time, item.id, item) for s, item in scenes if s.cloud_percent <= recipe.max_cloud_percent
    ]
    median = Median((grid.height, grid.width), len(recipe.wanted.s2_bands), recipe.s2_scenes)
    used, doubts = [], []
    acquisitions: dict[tuple[str, str], np.ndarray] = {}
    for *_, item in sorted(known, key=lambda scene: scene[:3]):
        if not median.missing.any():
            break
        if not _touches(item.geometry, grid):
            continue
        acquisition = str(item.properties.get("platform")), str(stac.scene_metadata(item).time.date())
        seen = acquisitions.setdefault(acquisition, np.zeros((grid.height, grid.width), bool))
        clear = np.ones((grid.height, grid.width), bool)
        if recipe.cloud_mask:
            classes = stac.scene_classes(item, grid, archive)
            clear = ~np.isnan(classes) & ~np.isin(classes, NOT_CLEAR)
        clear &= ~seen
        if not (clear & median.missing).any():
            continue
        numbers, offset_known = stac.digital_numbers(item, grid, recipe.wanted, archive)
        taken = median.add(numbers, clear)
        seen |= taken
        if taken.any():
            used.append(item)
            if not offset_known:
                doubts.append(
                    f"nothing in the metadata of {item.id} tells whether {bands.OFFSET_DN} was added to its digital numbers; "
                    f"they are used unchanged: give --s2_offset {bands.OFFSET_DN} or --s2_offset 0"
                )
    return median.result(), used, tuple(doubts)


def _touches(geometry: dict[str, Any] | None, grid: Grid) -> bool:
    """Returns whether a GeoJSON geometry in degrees intersects a grid; True also if it is missing, or crosses the antimeridian,
    where archives do not agree on how to write it.
    """
    if geometry is None:
        return True
    west, _, east, _ = shapely.geometry.shape(geometry).bounds
    if east - west > 180:
        return True
    there = shapely.make_valid(shapely.geometry.shape(transform_geom("EPSG:4326", grid.crs, geometry)))
    return bool(shapely.intersects(there, shapely.box(*grid.bounds)))
