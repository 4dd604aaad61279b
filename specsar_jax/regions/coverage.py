"""Finds out what an archive has of a region, before a pixel is read: scenes by sensor and orbit direction, days, clouds, cover.

Enters: a `Job`. Leaves: a `Coverage`, the lines that tell it, and the orbit direction to use; or an error in one line, where the map
could only fail. One direction is chosen for the whole region: chosen block by block, it would show at their borders.
"""

import dataclasses
import datetime
from collections.abc import Iterator, Sequence
from typing import Any

import shapely

from specsar_jax.regions.composites import cloud_percent, interval
from specsar_jax.regions.region_files import Job
from tfds_dwplus.imagery.acquisitions import ArchiveError, ItemError
from tfds_dwplus.imagery.items import stac_items
from tfds_dwplus.imagery.stac_api import check_collections, item_time, search
from tfds_dwplus.places import blocks

DAYS_OF_A_SEARCH = 16
"""Items of so many days are held at a time: those of a country and a year would not fit into memory."""

Placed = tuple[Any, shapely.Geometry]
"""A STAC item, and its footprint within the region, degrees."""


@dataclasses.dataclass
class Found:
    """Scenes of one kind over a region."""

    scenes: int = 0
    days: set[str] = dataclasses.field(default_factory=set)
    ground: shapely.Geometry = dataclasses.field(default_factory=shapely.MultiPolygon)
    """Union of their footprints, degrees."""

    def add(self, placed: list[Placed]) -> None:
        """Adds items."""
        self.scenes += len(placed)
        self.days |= {item_time(item).date().isoformat() for item, _ in placed}
        self.ground = shapely.unary_union([self.ground, *(ground for _, ground in placed)])

    def share(self, region: shapely.Geometry) -> float:
        """Returns the share of a region that they cover, 0 to 1, measured in degrees."""
        return shapely.intersection(self.ground, region).area / region.area

    def told(self, region: shapely.Geometry) -> str:
        """Says how many there are, and where."""
        if not self.scenes:
            return "no scene"
        first, last = min(self.days), max(self.days)
        when = f"{len(self.days)} days, {first} to {last}" if self.days - {first} else first
        return f"{_scenes(self.scenes)} on {when}, over {100 * self.share(region):.0f} % of the region"


@dataclasses.dataclass
class Coverage:
    """What an archive has of a region."""

    s2: Found = dataclasses.field(default_factory=Found)
    """Sentinel-2 scenes that are clear enough."""
    clouds: list[float] = dataclasses.field(default_factory=list)
    """Cloud covers that scenes tell, clear enough or not, percent."""
    cloudy: int = 0
    """Sentinel-2 scenes with more cloud than is wanted."""
    s2_lacks: str = ""
    """What the first of the clear scenes lacks, if none has all assets."""
    s1: dict[str, Found] = dataclasses.field(
        default_factory=lambda: {"descending": Found(), "ascending": Found(), "": Found()}
    )
    """Sentinel-1 scenes of mode IW with both polarisations, by orbit direction, "" if it is not known."""
    s1_others: int = 0
    """Sentinel-1 scenes of other modes or polarisations, or without assets."""
    s1_lacks: str = ""
    """What the first of them lacks, if it lacks an asset."""


def coverage(job: Job) -> Coverage:
    """Searches the archive for all scenes of a region.

    Raises:
        ValueError: the archive does not answer, or lacks a collection.
    """
    check_collections(job.archive)
    found = Coverage()
    complete = False
    for placed in _searched(job, "s2"):
        clear = []
        for item, ground in placed:
            cloud = cloud_percent(item)
            found.clouds += [] if cloud is None else [cloud]
            if (cloud or 0.0) > job.recipe.max_cloud_percent:
                found.cloudy += 1
                continue
            clear.append((item, ground))
            if not complete:
                lacks = _lacks(item, job)
                complete = not lacks
                found.s2_lacks = "" if complete else found.s2_lacks or lacks
        found.s2.add(clear)
    for placed in _searched(job, "s1"):
        usable, notes = stac_items.usable([item for item, _ in placed], "both", job.archive.s1)
        found.s1_others += len(placed) - len(usable)
        found.s1_lacks = found.s1_lacks or next(iter(notes), "")
        ids = {item.id for item in usable}
        for direction, kind in found.s1.items():
            kind.add([one for one in placed if one[0].id in ids and stac_items.direction(one[0]) == direction])
    return found


def lines(found: Coverage, job: Job) -> list[str]:
    """Returns what the archive has of a region as text, a line for each sensor and orbit direction."""
    told = []
    if "s2" in job.recipe.sensors:
        clouds = f"; cloud {min(found.clouds):.0f} to {max(found.clouds):.0f} %" if found.clouds else ""
        limit = f"--max_cloud_percent {job.recipe.max_cloud_percent:g}"
        more = f"; {_scenes(found.cloudy)} more with more cloud than {limit}" if found.cloudy else ""
        untold = found.s2.scenes + found.cloudy - len(found.clouds)
        told_not = f"; {_scenes(untold)} without a cloud cover, used all the same" if untold else ""
        told.append(f"Sentinel-2 of {job.archive.s2.name}: {found.s2.told(job.region)}{clouds}{more}{told_not}")
    if "s1" in job.recipe.sensors:
        for direction, kind in found.s1.items():
            if direction or kind.scenes:
                name = direction or "of unknown orbit"
                told.append(f"Sentinel-1 of {job.archive.s1.name}, {name}: {kind.told(job.region)}")
    return told


def check(found: Coverage, job: Job) -> None:
    """Raises a ValueError, with what there is and the option that takes it, if no pixel of a region can be mapped."""
    for reason in lacking(found, job).values():
        raise ValueError(reason)


def lacking(found: Coverage, job: Job) -> dict[str, str]:
    """Returns why a sensor sees no pixel of a region, with what there is and the option that takes it, by sensor; empty if all see some."""
    checks = {"s2": _check_sentinel2, "s1": _check_sentinel1}
    reasons = {}
    for sensor in job.recipe.sensors:
        try:
            checks[sensor](found, job)
        except ValueError as error:
            reasons[sensor] = str(error)
    return reasons


def chosen_orbit(found: Sequence[Coverage], job: Job) -> tuple[str, str]:
    """Returns the orbit direction for the whole region, and a line that tells it if it is not the first wish, or leaves gaps.

    Of 'descending_or_ascending', descending is taken unless ascending passes cover more than a hundredth of the region more. Of the
    coverages of several periods the mean counts.
    """
    wish = job.recipe.wanted.s1_orbit
    if "s1" not in job.recipe.sensors or wish == "both":
        return wish, ""
    wishes = stac_items.directions(wish)
    shares = {
        name: sum(one.s1[name].share(job.region) for one in found) / len(found) for name in ("descending", "ascending")
    }
    first = wishes[0]
    taken = next(name for name in wishes if shares[name] >= max(shares[one] for one in wishes) - 0.01)
    other = next(name for name in shares if name != taken)
    if taken != first:
        return taken, (
            f"Sentinel-1: {first} passes cover {100 * shares[first]:.0f} % of the region, {taken} ones {100 * shares[taken]:.0f} %; "
            f"{taken} passes are used"
        )
    if shares[other] > shares[taken] + 0.01:
        return taken, (
            f"Sentinel-1: {taken} passes cover {100 * shares[taken]:.0f} % of the region, {other} ones {100 * shares[other]:.0f} %; "
            f"--s1_orbit {taken}_or_{other} takes those that cover more, --s1_orbit both takes all"
        )
    return taken, ""


def _check_sentinel2(found: Coverage, job: Job) -> None:
    collection, (first, last) = job.archive.s2, job.recipe.s2_dates
    if not found.s2.scenes and not found.cloudy:
        raise ValueError(
            f"{collection.name} of {collection.url} has no item in the region from {first} to {last}; "
            "take other --dates or another collection"
        )
    if not found.s2.scenes:
        raise ValueError(
            f"all {found.cloudy} scenes of {collection.name} in the region from {first} to {last} have more cloud than "
            f"--max_cloud_percent {job.recipe.max_cloud_percent:g}, the clearest {min(found.clouds):.3g} %; raise it, or take other --dates"
        )
    if found.s2_lacks:
        raise ValueError(found.s2_lacks)


def _check_sentinel1(found: Coverage, job: Job) -> None:
    collection, (first, last), orbit = job.archive.s1, job.recipe.s1_dates, job.recipe.wanted.s1_orbit
    there = f"{collection.name} of {collection.url}"
    if not any(kind.scenes for kind in found.s1.values()):
        if found.s1_lacks:
            raise ValueError(found.s1_lacks)
        others = (
            f"; {_scenes(found.s1_others)} of another mode than IW or of one polarisation" if found.s1_others else ""
        )
        raise ValueError(
            f"{there} has no item in the region from {first} to {last}{others}; take other --s1_dates or another collection"
        )
    if orbit != "both" and not any(found.s1[name].scenes for name in stac_items.directions(orbit)):
        has = {name or "unknown": kind for name, kind in found.s1.items() if kind.scenes}
        said = ", ".join(f"{_scenes(kind.scenes)} of {name} orbit" for name, kind in has.items())
        take = next((name for name in has if name != "unknown"), "both")
        raise ValueError(
            f"{there} has no {' or '.join(stac_items.directions(orbit))} pass over the region from {first} to {last}, but {said}; "
            f"say --s1_orbit {take}"
        )


def _searched(job: Job, sensor: str) -> Iterator[list[Placed]]:
    """Yields the items of a sensor over the region, those of some days at a time; nothing if the sensor is not read."""
    if sensor not in job.recipe.sensors:
        return
    where = blocks.search_bounds(job.region)
    for dates in _parts(getattr(job.recipe, f"{sensor}_dates")):
        try:
            items = search(getattr(job.archive, sensor), job.archive.timeout_s, where, interval(dates))
        except ArchiveError as error:
            raise ValueError(f"{error}; try again later") from None
        placed = ((item, _ground(item, job.region)) for item in items)
        yield [(item, ground) for item, ground in placed if not ground.is_empty]


def _ground(item: Any, region: shapely.Geometry) -> shapely.Geometry:
    """Returns the part of a region that an item covers; all, if its footprint is not known."""
    ground = blocks.footprint_of(item.geometry)
    return region if ground is None or ground.is_empty else shapely.intersection(ground, region)


def _parts(dates: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Yields the first and last day of parts of some days: ('2024-05-01', '2024-05-31') is 16 days and 15."""
    first, last = map(datetime.date.fromisoformat, dates)
    while first <= last:
        end = min(first + datetime.timedelta(days=DAYS_OF_A_SEARCH - 1), last)
        yield str(first), str(end)
        first = end + datetime.timedelta(days=1)


def _lacks(item: Any, job: Job) -> str:
    """Returns what a Sentinel-2 item lacks of the assets that are read; "" if nothing."""
    try:
        for band in job.recipe.wanted.s2_bands:
            stac_items.asset_of(item, band, job.archive.s2)
    except ItemError as error:
        return str(error)
    try:
        if job.recipe.cloud_mask:
            stac_items.asset_of(item, "SCL", job.archive.s2)
    except ItemError:
        return (
            f"item {item.id} of {job.archive.s2.name} has no scene classification SCL, which level L2A has; "
            "say --cloud_mask none, or name its asset by --s2_assets SCL=..."
        )
    return ""


def _scenes(number: int) -> str:
    return f"{number} scene{'' if number == 1 else 's'}"
