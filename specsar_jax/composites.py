"""Many scenes to one picture of a place: the median or the least cloudy of Sentinel-2, the mean of Sentinel-1.

Enters: a grid, a `Recipe`, and a STAC archive. Leaves: a `Composite` of digital numbers and dB on that grid, with the names and dates
of what it is made from.

What a pixel becomes depends on the scenes that hold it, in the order of their cloudiness, and on nothing about it: however a region
is cut up, its composite is the same.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import rasterio
import shapely
from jaxtyping import Bool, Float32, Int, UInt16
from rasterio.warp import transform_bounds, transform_geom

from specsar_jax.scenes import CLOUD_CLASSES
from tfds_dwplus import bands, stac
from tfds_dwplus.grids import Grid
from tfds_dwplus.imagery import Grid as ImageryGrid
from tfds_dwplus.imagery import Wanted
from tfds_dwplus.stac import StacArchive

NOT_CLEAR = (0, 1, *CLOUD_CLASSES)
"""Of the scene classification SCL: no data, saturated or defective, and what `scenes` takes for cloud."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a composite is made of."""

    sensors: tuple[str, ...]
    """Those that the network reads, of 's2' and 's1'; of another one nothing is fetched."""
    wanted: Wanted
    """Bands, offset and level of Sentinel-2, orbit and mean of Sentinel-1. Its windows about a date are not used."""
    s2_dates: tuple[str, str]
    """First and last day, YYYY-MM-DD."""
    s1_dates: tuple[str, str]
    s2_scenes: int = 5
    """Of so many clear observations of a pixel, the clearest scenes' first, the median is taken; 1 is the least cloudy one."""
    max_cloud_percent: float = 80.0
    """Scenes with more are not looked at."""
    cloud_mask: bool = True
    """Whether pixels are clear by the scene classification, which level L2A has; else all with data are."""


@dataclasses.dataclass(frozen=True)
class Composite:
    """A picture of a place; nodata is 0 in `s2` and NaN in `s1`. A sensor that is not read has no bands."""

    s2: UInt16[np.ndarray, "height width s2_band"]
    s1: Float32[np.ndarray, "height width s1_band"]
    items: dict[str, tuple[str, ...]]
    """By sensor, the names of the scenes that were used."""
    dates: dict[str, tuple[str, ...]]
    """Their dates, YYYY-MM-DD, each once."""
    doubts: tuple[str, ...]
    """What is not known, in a line each."""


def composite(grid: Grid, recipe: Recipe, archive: StacArchive) -> Composite:
    """Searches, reads and combines the scenes of a place.

    Raises:
        imagery.ArchiveError: the API or a file did not answer: another try may help.
        ValueError: a scene is not what it should be: a band missing, another unit, no map grid.
    """
    bounds = transform_bounds(grid.crs, "EPSG:4326", *grid.bounds)
    place = ImageryGrid(grid.crs.to_string(), tuple(grid.transform)[:6], grid.height, grid.width)
    s2, s1 = (np.zeros((*grid.shape, 0), dtype) for dtype in (np.uint16, np.float32))
    items: dict[str, tuple[str, ...]] = {}
    dates: dict[str, tuple[str, ...]] = {}
    doubts: tuple[str, ...] = ()
    with rasterio.Env(**stac.gdal_settings(archive.timeout_s)):
        if "s2" in recipe.sensors:
            found = stac.search(archive.s2, archive.timeout_s, bounds, interval(recipe.s2_dates))
            s2, used, doubts = _sentinel2(found, place, recipe, archive)
            items["s2"] = tuple(item.id for item in used)
            dates["s2"] = tuple(sorted({str(stac.scene(item).time.date()) for item in used}))
        if "s1" in recipe.sensors:
            found = stac.search(archive.s1, archive.timeout_s, bounds, interval(recipe.s1_dates))
            passes = stac.passes(found, recipe.wanted.s1_orbit)
            s1, used = stac.mean_backscatter(passes, place, recipe.wanted, archive)
            items["s1"] = tuple(item.id for _, slices in used for item in slices)
            dates["s1"] = tuple(sorted({date for date, _ in used}))
    return Composite(s2, s1, items, dates, doubts)


def interval(dates: tuple[str, str]) -> str:
    """Two days, both of them included, as STAC writes an interval of times."""
    return f"{dates[0]}T00:00:00Z/{dates[1]}T23:59:59Z"


class Median:
    """The median of the first few observations of each pixel. Memory is that of those few, however many scenes there are."""

    def __init__(self, shape: tuple[int, int], s2_bands: int, most: int) -> None:
        """Room for `most` observations a pixel."""
        self._seen = np.zeros((most, *shape, s2_bands), np.uint16)
        self._count = np.zeros(shape, np.int64)

    @property
    def missing(self) -> Bool[np.ndarray, "height width"]:
        """Pixels with room for more observations."""
        return self._count < len(self._seen)

    def add(
        self, s2: UInt16[np.ndarray, "height width s2_band"], clear: Bool[np.ndarray, "height width"]
    ) -> Bool[np.ndarray, "height width"]:
        """Takes the clear pixels of a scene where there is room, and says which; those without data in a band are not clear."""
        taken = clear & self.missing & (s2 != bands.S2_NODATA).all(axis=-1)
        rows, columns = np.nonzero(taken)
        self._seen[self._count[rows, columns], rows, columns] = s2[rows, columns]
        self._count[rows, columns] += 1
        return taken

    def result(self) -> UInt16[np.ndarray, "height width s2_band"]:
        """Band by band the middle of the observations, of an even number the mean of the two in the middle; 0 where there are none."""
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
    items: Sequence[Any], grid: ImageryGrid, recipe: Recipe, archive: StacArchive
) -> tuple[UInt16[np.ndarray, "height width s2_band"], list[Any], tuple[str, ...]]:
    """The composite, the items that it is made from, and doubts. Reads no more scenes than it needs.

    Items of one satellite and day are one take, cut into tiles that overlap: of a take a pixel counts once.
    """
    scenes = [(stac.scene(item), item) for item in items]
    known = [
        (s.cloud_percent, s.time, item.id, item) for s, item in scenes if s.cloud_percent <= recipe.max_cloud_percent
    ]
    median = Median((grid.height, grid.width), len(recipe.wanted.s2_bands), recipe.s2_scenes)
    used, doubts = [], []
    takes: dict[tuple[str, str], np.ndarray] = {}
    for *_, item in sorted(known, key=lambda one: one[:3]):
        if not median.missing.any():
            break
        if not _touches(item.geometry, grid):
            continue
        take = str(item.properties.get("platform")), str(stac.scene(item).time.date())
        seen = takes.setdefault(take, np.zeros((grid.height, grid.width), bool))
        clear = np.ones((grid.height, grid.width), bool)
        if recipe.cloud_mask:
            classes = stac.scene_classes(item, grid, archive)
            clear = ~np.isnan(classes) & ~np.isin(classes, NOT_CLEAR)
        clear &= ~seen
        if not (clear & median.missing).any():
            continue
        numbers, told = stac.digital_numbers(item, grid, recipe.wanted, archive)
        taken = median.add(numbers, clear)
        seen |= taken
        if taken.any():
            used.append(item)
            if not told:
                doubts.append(
                    f"nothing in the metadata of {item.id} tells whether {stac.OFFSET_DN} was added to its digital numbers; "
                    f"they are left as they are: say --s2_offset {stac.OFFSET_DN} or --s2_offset 0"
                )
    return median.result(), used, tuple(doubts)


def _touches(geometry: dict[str, Any] | None, grid: ImageryGrid) -> bool:
    """Whether a GeoJSON geometry in degrees has anything of a grid, however little; so if it is not known, or lies on both sides of
    the antimeridian, where archives draw it in ways of their own.
    """
    if geometry is None:
        return True
    west, _, east, _ = shapely.geometry.shape(geometry).bounds
    if east - west > 180:
        return True
    there = shapely.make_valid(shapely.geometry.shape(transform_geom("EPSG:4326", grid.crs, geometry)))
    return bool(shapely.intersects(there, shapely.box(*grid.bounds)))
