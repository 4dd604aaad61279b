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
import shapely
from jaxtyping import Bool, Float32, Int, UInt16
from rasterio.warp import transform_bounds

from tfds_dwplus import bands
from tfds_dwplus.imagery import stac_api, stac_reading
from tfds_dwplus.imagery.acquisitions import ItemError, SceneMetadata, Wanted, by_take, mgrs_tile, not_used
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.items import stac_items
from tfds_dwplus.imagery.items.footprints import footprint
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
    s2_read: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    """What was subtracted from the digital numbers of each Sentinel-2 item, and its baseline, "" if not known."""
    s1_pixels: dict[str, int] = dataclasses.field(default_factory=dict)
    """Number of pixels read that are no backscatter, by reason."""


def composite(grid: Grid, recipe: Recipe, archive: StacArchive, may_miss: tuple[str, ...] = ()) -> Composite:
    """Searches, reads and combines the scenes that cover a grid. A scene that cannot be used is left out, and told. A sensor of
    `may_miss` of which none can be used has no bands.

    Raises:
        acquisitions.ArchiveError: the API or a file server did not answer; another attempt may help.
        ValueError: scenes cannot be used, and none is left.
    """
    bounds = transform_bounds(grid.crs, "EPSG:4326", *grid.bounds)
    s2, s1 = (np.zeros((*grid.shape, 0), dtype) for dtype in (np.uint16, np.float32))
    items: dict[str, tuple[str, ...]] = {}
    dates: dict[str, tuple[str, ...]] = {}
    doubts: list[str] = []
    pixels: dict[str, int] = {}
    read: dict[str, tuple[str, str]] = {}
    if "s2" in recipe.sensors:
        found = stac_api.search(archive.s2, archive.timeout_s, bounds, interval(recipe.s2_dates), None, doubts)
        try:
            s2, used, offsets, more = _sentinel2(found, grid, recipe, archive)
        except ItemError as error:
            if "s2" not in may_miss:
                raise
            used, offsets, more = [], [], [str(error)]
        doubts += more
        known = [stac_items.scene_metadata(item) for item in used]
        items["s2"] = tuple(item.id for item in used)
        dates["s2"] = tuple(sorted({str(scene.time.date()) for scene in known}))
        read = {
            item.id: (offset, f"{scene.baseline:05.2f}" if scene.baseline else "")
            for item, offset, scene in zip(used, offsets, known, strict=True)
        }
    if "s1" in recipe.sensors:
        found = stac_api.search(archive.s1, archive.timeout_s, bounds, interval(recipe.s1_dates), None, doubts)
        passes, more = _passes(found, recipe.wanted.s1_orbit, archive)
        doubts += more
        try:
            s1, passed, more = stac_reading.mean_backscatter(passes, grid, recipe.wanted, archive, pixels)
        except ItemError as error:
            if "s1" not in may_miss:
                raise
            passed, more = [], [str(error)]
        doubts += more
        items["s1"] = tuple(item.id for _, slices in passed for item in slices)
        dates["s1"] = tuple(sorted({date for date, _ in passed}))
    return Composite(s2, s1, items, dates, tuple(doubts), read, pixels)


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
) -> tuple[UInt16[np.ndarray, "height width s2_band"], list[Any], list[str], list[str]]:
    """Returns the composite, the items that it is made from with what was subtracted from each, and warnings.

    Reads no more scenes than it needs. Items of one take are one observation, cut into overlapping tiles; it counts once for a
    pixel. Where an item of a newer baseline has data, the older ones of the same take and tile are not used.
    """
    median = Median(grid.shape, len(recipe.wanted.s2_bands), recipe.s2_scenes)
    used, offsets, doubts = [], [], []
    failed: list[ItemError] = []
    seen: dict[int, np.ndarray] = {}
    held: dict[tuple, np.ndarray] = {}
    for item, take, tile in _in_order(items, recipe.max_cloud_percent):
        if not median.missing.any():
            break
        if not _touches(item.geometry, grid):
            continue
        taken_before = seen.setdefault(take, np.zeros(grid.shape, bool))
        newer = held.setdefault((take, tile), np.zeros(grid.shape, bool))
        free = median.missing & ~taken_before & ~newer
        if not free.any():
            continue
        try:
            if recipe.cloud_mask:
                classes = stac_reading.scene_classes(item, grid, archive)
                data = ~np.isnan(classes)
                free &= data & ~np.isin(classes, NOT_CLEAR)
            if free.any():
                scene = stac_reading.read_sentinel2([item], grid, recipe.wanted, archive)
                taken = median.add(scene.s2, free)
                taken_before |= taken
                if not recipe.cloud_mask:
                    data = (scene.s2 != bands.S2_NODATA).all(axis=-1)
                doubts += scene.notes
                if taken.any():
                    doubts += filter(None, [stac_items.baseline_note(item)])
                    used.append(item)
                    offsets.append(scene.offset)
            newer |= data
        except ItemError as error:
            failed.append(error)
    return median.result(), used, offsets, doubts + _left_out(failed, used, "Sentinel-2")


def _passes(
    items: Sequence[Any], orbit: str, archive: StacArchive
) -> tuple[list[tuple[str, list[Any]]], tuple[str, ...]]:
    """Returns the Sentinel-1 passes of the first orbit direction that has any, and warnings."""
    usable, notes = stac_items.usable(items, orbit, archive.s1)
    found = [stac_items.passes(usable, direction) for direction in stac_items.directions(orbit)]
    return next(filter(None, found), []), tuple(notes)


def _left_out(failed: Sequence[ItemError], used: Sequence[Any], sensor: str) -> list[str]:
    """Returns a line for each scene that is left out. Raises an ItemError if no other one was used."""
    if failed and not used:
        more = f" (and {len(failed) - 1} other scenes cannot be used)" if failed[1:] else ""
        raise ItemError(f"no scene of {sensor} is left: {failed[0]}{more}", failed[0].kind)
    return list(map(not_used, failed))


def _in_order(items: Sequence[Any], max_cloud_percent: float) -> list[tuple[Any, int, Any]]:
    """Returns the items that are clear enough, each with its take and its tile, the clearest first.

    Items that do not tell their cloud cover come last. Of the items of one take and tile, that of the newest baseline stands first,
    and decides their place.
    """
    known = [(item, stac_items.scene_metadata(item)) for item in items]
    known = [(item, scene) for item, scene in known if not (cloud_percent(item) or 0) > max_cloud_percent]
    groups: dict[tuple[int, Any], list[tuple[Any, SceneMetadata]]] = {}
    for take, members in enumerate(by_take([scene for _, scene in known])):
        for place in members:
            item, scene = known[place]
            groups.setdefault((take, mgrs_tile(scene.names) or _bounds(item)), []).append((item, scene))
    ordered = []
    for (take, tile), members in groups.items():
        members.sort(key=lambda member: (member[1].baseline or 0.0, member[1].made), reverse=True)
        first, scene = members[0]
        cloud = cloud_percent(first)
        rank = cloud is None, cloud or 0.0, scene.time, first.id
        ordered.append((rank, [(item, take, tile) for item, _ in members]))
    return [entry for _, entries in sorted(ordered, key=lambda group: group[0]) for entry in entries]


def cloud_percent(item: Any) -> float | None:
    """Returns the cloud cover that an item tells; None if it tells none."""
    told = stac_items.known(item.properties, "cloudcover", "cloudypixelpercentage", "cloudcoverage")
    return None if told is None else stac_items.scene_metadata(item).cloud_percent


def _bounds(item: Any) -> tuple | None:
    """Returns about where an item lies, to tell it from others whose names tell no tile."""
    return tuple(round(value, 1) for value in item.bbox) if item.bbox else None


def _touches(geometry: dict[str, Any] | None, grid: Grid) -> bool:
    """Returns whether a footprint intersects a grid, however little; True also if it is not known."""
    polygons = footprint(geometry, grid)
    if polygons is None:
        return True
    parts = [shapely.make_valid(shapely.Polygon(rings[0], rings[1:])) for rings in polygons]
    return bool(shapely.intersects(parts, shapely.box(*grid.bounds)).any())
