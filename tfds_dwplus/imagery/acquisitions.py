"""What is common to all archives: which imagery is wanted, and the choice of a scene.

Enters: metadata of scenes. Leaves: the scenes of a label, the best first. The archives themselves are in `stac` and `earth_engine`.
"""

import dataclasses
import datetime
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8, UInt16

from tfds_dwplus import bands
from tfds_dwplus.files.addresses import shown_in
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.items.footprints import covered
from tfds_dwplus.labels.published import LabelTile

S1_ORBITS = ("descending", "ascending", "both", "descending_or_ascending", "ascending_or_descending")
"""Orbit directions of the passes to use. `_or_`: of the first direction, or where it has none, of the second."""


class ArchiveError(OSError):
    """The archive did not answer, or gave a wrong answer. Trying again may help. Its message has no secrets of addresses."""

    def __init__(self, message: str, kind: str = "the archive does not answer") -> None:
        """Keeps the kind of the reason, one for many tiles, beside the message."""
        super().__init__(shown_in(message))
        self.kind = kind


class ItemError(ValueError):
    """A scene of the archive cannot be used. Another one may do in its place."""

    def __init__(self, message: str, kind: str = "it cannot be used") -> None:
        """Keeps the kind of the reason, one for many scenes, beside the message."""
        super().__init__(shown_in(message))
        self.kind = kind


def not_used(error: ItemError) -> str:
    """A warning that a scene is left out, with the kind of the reason in parentheses."""
    return f"not used ({error.kind}): {error}"


class NoImageryError(ValueError):
    """The archive has no scene for this tile. Trying again helps if it gets one, or is asked for more."""

    def __init__(self, message: str, kind: str = "no imagery") -> None:
        """Keeps the kind of the reason, one for many tiles, beside the message."""
        super().__init__(shown_in(message))
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The imagery that a data set wants, from any archive."""

    s2_level: str = "L2A"
    """L1C or L2A. The paper does not say. The label workbook names L2A products, and every archive has them."""
    s2_bands: tuple[str, ...] = bands.S2_BANDS
    s2_window_days: int = 0
    """Days between the label's date and a Sentinel-2 scene, at most, if the labelled product is not known or not there."""
    s2_offset: int | None = None
    """Digital numbers to subtract from Sentinel-2. None: use each scene's metadata."""
    s1_orbit: str = "descending"
    """One of `S1_ORBITS`. The paper takes descending passes."""
    s1_mean: str = "dB"
    """dB: mean of decibels, as `.mean()` of Earth Engine's collection. power: mean of linear power, then converted to dB."""
    s1_window_days: int = 180
    """Days between the label's date and a Sentinel-1 scene, at most (as in the paper)."""
    s2_offset_in_doubt: int | None = None
    """Digital numbers to subtract from a Sentinel-2 scene where neither its metadata nor its pixels decide. None: as the metadata say,
    or if they say nothing 0, with a warning; a scene whose only word is a flag that is often wrong is left out."""


@dataclasses.dataclass(frozen=True)
class Imagery:
    """The imagery of a tile. Nodata is 0 in `s2` and NaN in `s1`."""

    s2: UInt16[np.ndarray, "height width s2_band"]
    s1: Float32[np.ndarray, "height width s1_band"]
    """VV and VH, or no band where only Sentinel-2 is wanted."""
    columns: dict[str, str]
    """Values for tiles.csv: s2_item, s2_baseline, s2_offset, s2_date, s2_level, s1_source, s1_unit, s1_orbit, s1_mean, s1_scenes,
    s1_dates, s1_items.
    """
    warnings: tuple[str, ...] = ()
    cloud: UInt8[np.ndarray, "height width"] | None = None
    """Cloud and its shadow by the scene classification (SCL) of the Sentinel-2 scene: its class, 0 elsewhere. None: it was not read."""


@dataclasses.dataclass(frozen=True)
class SceneMetadata:
    """Metadata of a Sentinel-2 scene, known before its pixels are read."""

    names: str
    """Item id and product names, separated by spaces."""
    time: datetime.datetime
    cloud_percent: float
    geometry: dict[str, Any] | None
    """Footprint as GeoJSON in degrees."""
    platform: str = ""
    """As 'sentinel-2a'; empty if not known."""
    datatake: str = ""
    """Id of the take, without the baseline; empty if not known."""
    epsg: int | None = None
    """CRS of its pixels."""
    baseline: float | None = None
    """Processing baseline."""
    made: str = ""
    """When it was processed, in digits that sort; empty if not known."""


@dataclasses.dataclass(frozen=True)
class Product:
    """What the id of a Sentinel-2 product tells of its acquisition."""

    platform: str
    """As 'sentinel-2a'."""
    time: datetime.datetime
    """Start of the take."""
    place: str
    """Tile of the military grid, as '33TVG'; empty for products of before December 2016, which hold many."""


def common_columns(wanted: Wanted, dates: Sequence[str]) -> dict[str, str]:
    """Values for tiles.csv that do not depend on the archive. `dates` has one entry for each Sentinel-1 scene."""
    return {
        "s2_level": wanted.s2_level,
        "s1_orbit": wanted.s1_orbit,
        "s1_mean": wanted.s1_mean,
        "s1_scenes": str(len(dates)),
        "s1_dates": " ".join(dates),
    }


def ranked_takes(scenes: Sequence[SceneMetadata], tile: LabelTile, grid: Grid, window_days: int) -> list[list[int]]:
    """Ranks the Sentinel-2 scenes of a label, and gives their indexes: takes, the best first, and in each its scenes.

    The take that was labelled goes first, if the tile names its product: whatever day it is filed under, at any processing
    level. Then come the takes within the window of days about the label's date: the one with the largest cover of the tile
    by all its scenes together (99 % counts as all), then the least cloudy, the nearest in time, the first by name.

    The scenes of a take are parts of the tile, or the same ground again: on the grids of two zones, or processed again.
    Largest cover first, then the tile's own zone, the newest baseline, the last made, the least cloudy, the first by name.

    Raises:
        NoImageryError: there is no scene, or none covers any part of the tile.
    """
    product = parse_product(tile.s2_product_id)
    labelled = {place for place, scene in enumerate(scenes) if product and is_of_product(scene, product)}
    cover = {place: covered(scene.geometry, grid) for place, scene in enumerate(scenes)}
    noon = datetime.datetime.fromisoformat(f"{tile.date}T12:00:00+00:00")
    zone = grid.crs.to_epsg()

    def scene_rank(place: int) -> tuple:
        scene = scenes[place]
        return (
            -_rounded(cover[place]),
            (scene.epsg or mgrs_epsg(mgrs_tile(scene.names))) not in (None, zone),
            place not in labelled,
            -(scene.baseline or 0.0),
            -int(scene.made or 0),
            scene.cloud_percent,
            scene.names,
        )

    ranked = []
    for group in by_take(scenes):
        is_labelled = not labelled.isdisjoint(group)
        if not is_labelled and all(days_apart(scenes[place].time, tile.date) > window_days for place in group):
            continue
        take = sorted((place for place in group if cover[place].any()), key=scene_rank)
        if not take:
            continue
        best = scenes[take[0]]
        apart = abs((best.time - noon).total_seconds()) // 86400
        together = _rounded(np.logical_or.reduce([cover[place] for place in take]))
        from_product = abs((best.time - product.time).total_seconds()) // 3600 if product and is_labelled else 0
        ranked.append((not is_labelled, from_product, -together, best.cloud_percent, apart, best.names, take))
    if not ranked:
        missing = f"neither the labelled product {tile.s2_product_id} nor another" if product else "no"
        raise NoImageryError(
            f"{missing} Sentinel-2 scene within {window_days} days of {tile.date} at {tile.lon:g}, {tile.lat:g}; "
            "widen --s2_window_days, or take another --s2_collection or archive, with another --output",
            "no Sentinel-2 scene",
        )
    return [take for *_, take in sorted(ranked)]


def by_take(scenes: Sequence[SceneMetadata]) -> list[list[int]]:
    """Groups scenes by the take they were cut from, and gives the indexes of each, in the order of time.

    A satellite sees the same ground again after an orbit of 99 minutes at the soonest. So scenes of one satellite are of one take
    if less than ten minutes lie between them, also about midnight, or if they name the same datatake.
    """
    order = sorted(range(len(scenes)), key=lambda place: (_platform(scenes[place]), scenes[place].time))
    takes: list[list[int]] = []
    for place in order:
        last = scenes[takes[-1][-1]] if takes else None
        if last is not None and _same_take(last, scenes[place]):
            takes[-1].append(place)
        else:
            takes.append([place])
    return takes


def _platform(scene: SceneMetadata) -> str:
    return scene.platform or platform_of(scene.names)


def _same_take(one: SceneMetadata, other: SceneMetadata) -> bool:
    if _platform(one) != _platform(other):
        return False
    if one.datatake and other.datatake:
        return one.datatake == other.datatake
    return abs(one.time - other.time) <= datetime.timedelta(minutes=10)


def parse_product(product_id: str) -> Product | None:
    """Reads a product id, as 'S2A_MSIL2A_20190605T100031_N0212_R122_T33TVG_20190605T123456'. None if it is no such id."""
    platform, place = platform_of(product_id), mgrs_tile(product_id)
    times = re.search(r"_V(\d{8}T\d{6})_", product_id) or re.search(r"(\d{8}T\d{6})", product_id)
    if not times or not platform.startswith("sentinel-2"):
        return None
    try:
        return Product(platform, datetime.datetime.strptime(f"{times[1]}+0000", "%Y%m%dT%H%M%S%z"), place)
    except ValueError:
        return None


def is_of_product(scene: SceneMetadata, product: Product) -> bool:
    """Whether a scene is the labelled one, by sensing time, satellite and tile of the military grid; all else may differ with processing.

    Archives tell the time of the take, or that of the tile, up to half an hour later. Where a scene has no time of day, its
    names or its day decide.
    """
    place, platform = mgrs_tile(scene.names), _platform(scene)
    if (place and product.place and place != product.place) or (platform and platform != product.platform):
        return False
    if f"{product.time:%Y%m%dT%H%M%S}" in scene.names:
        return True
    if scene.time.time() == datetime.time():
        return scene.time.date() == product.time.date() and bool(place or not product.place)
    return abs(scene.time - product.time) <= datetime.timedelta(minutes=45)


def other_day(
    tile: LabelTile,
    name: str,
    scene: SceneMetadata,
    scenes: Sequence[SceneMetadata],
    take: Sequence[int],
    collection: str,
) -> list[str]:
    """Tells, in a line, if the scene that is used is not of the take that was labelled, or of another day than the label.

    Args:
        tile: the label.
        name: of the scene that is used.
        scene: its metadata.
        scenes: those that were found.
        take: indexes of those of the same take.
        collection: where they were looked for.
    """
    product, day = parse_product(tile.s2_product_id), scene.time.astimezone(datetime.UTC).date()
    if not product:
        apart = days_apart(scene.time, tile.date)
        return [f"{name} is of {day}, {apart} days from the label's date"] if apart else []
    labelled = {place for place, one in enumerate(scenes) if is_of_product(one, product)}
    if not labelled.isdisjoint(take):
        return []
    lacking = "cannot be used" if labelled else f"is not in {collection}"
    return [f"the labelled product {tile.s2_product_id} {lacking}; {name} of {day} is used in its place"]


def platform_of(text: str) -> str:
    """Finds the satellite in a name: 'Sentinel-2A', 'SENTINEL2A' and 'S2A_MSIL2A_...' are 'sentinel-2a'. Empty if there is none."""
    found = re.search(r"(?<![a-z0-9])(?:sentinel[-_ ]?|s)([12])[-_ ]?([a-d])(?![a-z0-9])", text.lower())
    return f"sentinel-{found[1]}{found[2]}" if found else ""


def mgrs_tile(text: str) -> str:
    """Finds the tile of the military grid in names: 'T33TVG', 'MGRS-33TVG' and '_33TVG_' are '33TVG'. Empty if there is none."""
    for word in re.split(r"[^A-Za-z0-9]+", text):
        found = re.fullmatch(r"T?(\d{1,2})([C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V])", word)
        if found and 1 <= int(found[1]) <= 60:
            return f"{int(found[1]):02d}{found[2]}"
    return ""


def mgrs_epsg(tile: str) -> int | None:
    """CRS of a tile of the military grid: UTM, north of the equator from band N on. '33TVG' is 32633. None for an empty one."""
    return (32600 if tile[2] >= "N" else 32700) + int(tile[:2]) if tile else None


def days_apart(time: datetime.datetime, date: str) -> int:
    """Days between the UTC day of a time and a date, 0 if they are the same."""
    return abs((time.astimezone(datetime.UTC).date() - datetime.date.fromisoformat(date)).days)


def _rounded(mask: Bool[np.ndarray, "row column"]) -> float:
    return min(round(float(mask.mean()), 2), 0.99)


def check_not_empty(what: str, valid: Bool[np.ndarray, "height width band"], names: tuple[str, ...]) -> None:
    """Raises a NoImageryError if a band has no valid pixel. `what` starts the message."""
    empty = [name for name, some in zip(names, valid.any(axis=(0, 1)), strict=True) if not some]
    if empty:
        raise NoImageryError(f"{what}: no valid pixel of {', '.join(empty)} on this tile", "scenes without a pixel")


def first_line(error: BaseException) -> str:
    """Message of an error's original cause, in one line of at most 300 characters. Outer errors tell less."""
    cause = list(causes(error))[-1]
    return " ".join(str(cause).split())[:300] or type(cause).__name__


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Gives the error, its cause, the cause of that, and so on."""
    while error:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
