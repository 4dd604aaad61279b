"""Finds a clear Sentinel-2 scene of a drawn tile in a STAC archive, and the Sentinel-1 mean about its day.

Enters: a `DrawnTile`, what is `Wanted`, the `Choice`, a `StacArchive`. Leaves: `Imagery`, or a `NoImageryError` that tells why there is none.

About each drawn day, and at last in the whole range of dates, the takes are tried in the order of `acquisitions.ranked_takes`: those
that cover most, then the least cloudy by their metadata. A take is clear if the scene classification (SCL) of the tile's own pixels has few of `CLOUD_CLASSES`; it is read
first, being one band of 20 m. Where an archive has none, as of L1C, the cloud cover of the whole scene decides.
"""

import dataclasses
import datetime
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from tfds_dwplus import bands
from tfds_dwplus.imagery import stac
from tfds_dwplus.imagery.acquisitions import (
    ArchiveError,
    Imagery,
    ItemError,
    NoImageryError,
    Wanted,
    common_columns,
    not_used,
)
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.items.footprints import covered
from tfds_dwplus.imagery.items.stac_assets import REFUSED_KIND
from tfds_dwplus.imagery.items.stac_items import asset_of, passes
from tfds_dwplus.imagery.scenes import CLOUD_CLASSES
from tfds_dwplus.imagery.stac import Coverage, Found
from tfds_dwplus.imagery.stac_api import StacArchive
from tfds_dwplus.imagery.stac_reading import scene_classes
from tfds_dwplus.places.drawn_tile import Choice, DrawnTile

MOST_LOOKS = 5
"""Takes whose pixels are looked at, about each day."""

_COARSE = 0.03
"""Share of a tile, a row of `footprints.covered`'s points, by which a footprint may mistake its cover."""

ADVICE = (
    "widen --dates or --s2_window_days, or raise --max_cloud_percent or --max_nodata_percent, with another --output"
)


def clear_imagery(tile: DrawnTile, wanted: Wanted, choice: Choice, archive: StacArchive) -> Imagery:
    """Finds, reads and combines the scenes of a tile. Its column `date` is the day of its Sentinel-2 scene.

    Raises:
        NoImageryError: no scene about its days is clear and whole, or there is no Sentinel-1.
        ArchiveError: the API or a file server did not answer.
        ValueError: no scene can be read.
    """
    grid = tile.grid
    refusals: list[tuple[float, NoImageryError]] = []
    failed: list[ItemError] = []
    windows = [*_drawn_windows(tile, choice), _all_dates(choice)]
    for found in _takes(tile, grid, wanted, choice, archive, windows, MOST_LOOKS):
        about = dataclasses.replace(tile, date=_day(found, found.takes[0]))
        try:
            cloud = _cloud(found, about, grid, choice, archive)
            # Both searches come before the first band, so that none is read for a tile that lacks the other sensor.
            radar = stac.find_sentinel1(about, grid, wanted, archive) if "s1" in choice.sensors else None
            s2, columns, notes = _sentinel2(found, about, grid, wanted, choice, archive)
        except _ShareError as error:
            refusals.append((error.share, error))
            continue
        except ItemError as error:
            failed.append(error)
            continue
        s1 = np.empty((*grid.shape, 0), np.float32)
        columns |= common_columns(wanted, ()) | {"date": about.date, "s1_orbit": "", "s1_mean": ""}
        notes = [*found.notes, *map(not_used, failed), *notes]
        if radar:
            s1, more, s1_notes = _sentinel1(radar[0], about, grid, wanted, archive)
            _check_sentinel1(s1, choice.max_nodata, about.date)
            columns |= common_columns(wanted, more["s1_dates"].split()) | more
            notes += [*radar[1], *s1_notes]
        return Imagery(s2, s1, columns, tuple(notes), cloud)
    if refused := [error for error in failed if error.kind == REFUSED_KIND]:
        raise _to_retry(refused[0])
    if refusals:
        _, best = min(refusals, key=lambda pair: pair[0])
        others = f" (and {len(refusals) - 1} other scenes are no better)" if refusals[1:] else ""
        raise NoImageryError(f"{best}{others}; {ADVICE}", best.kind)
    if failed:
        more = f" (and {len(failed) - 1} other scenes cannot be used)" if failed[1:] else ""
        raise ItemError(f"{failed[0]}{more}", failed[0].kind)
    raise NoImageryError(
        f"no Sentinel-2 scene of {archive.s2.name} from {choice.dates[0]} to {choice.dates[1]} at {tile.lon:g}, {tile.lat:g}; "
        "give other --dates, another --region or archive, with another --output",
        "no Sentinel-2 scene",
    )


def drawn_coverage(tile: DrawnTile, wanted: Wanted, choice: Choice, archive: StacArchive) -> Coverage:
    """Counts the takes about a tile's days, or else of all dates, and the Sentinel-1 passes about the best one, by their metadata.

    Raises:
        ArchiveError: the API does not answer.
    """
    grid = tile.grid
    takes = list(_takes(tile, grid, wanted, choice, archive, _drawn_windows(tile, choice)))
    takes = takes or list(_takes(tile, grid, wanted, choice, archive, [_all_dates(choice)]))
    both = dataclasses.replace(wanted, s1_orbit="both")
    about = dataclasses.replace(tile, date=_day(takes[0], takes[0].takes[0])) if takes else tile
    items = stac.search_sentinel1(about, grid, both, archive)[0] if "s1" in choice.sensors else []
    return Coverage(
        len(takes), None, {orbit: len(passes(items, orbit)) for orbit in ("descending", "ascending", "both")}
    )


class _ShareError(NoImageryError):
    """A scene has too much cloud, or sees too little of the tile."""

    def __init__(self, message: str, kind: str, share: float) -> None:
        super().__init__(message, kind)
        self.share = share


def _check_share(what: str, share: float, most: float, date: str) -> None:
    if share > most:
        said = f"the best Sentinel-2 scene, of {date}, has {share:.0%} {what}, more than {most:.0%}"
        raise _ShareError(said, f"too much {what}", share)


def _check_sentinel1(s1: Float32[np.ndarray, "height width 2"], most: float, date: str) -> None:
    """Raises a NoImageryError if the mean has too much nodata: another Sentinel-2 scene would not help."""
    share = float(np.isnan(s1).any(axis=-1).mean())
    if share > most:
        raise NoImageryError(
            f"the mean of Sentinel-1 about {date} has {share:.0%} nodata, more than {most:.0%}; widen --s1_window_days, give another "
            "--s1_orbit or raise --max_nodata_percent, with another --output",
            "too much nodata of Sentinel-1",
        )


def _sentinel2(
    found: Found, about: DrawnTile, grid: Grid, wanted: Wanted, choice: Choice, archive: StacArchive
) -> tuple[UInt16[np.ndarray, "height width s2_band"], dict[str, str], list[str]]:
    """As `stac.sentinel2`, but a take with too few valid pixels is a _ShareError."""
    try:
        s2, columns, notes = stac.sentinel2(found, about, grid, wanted, archive)
    except NoImageryError as error:
        raise _ShareError(str(error), "too much nodata", 1.0) from None
    _check_share("nodata", float((s2[..., 0] == bands.S2_NODATA).mean()), choice.max_nodata, about.date)
    return s2, columns, notes


def _sentinel1(
    by_orbit: dict[str, list[stac.Pass]], about: DrawnTile, grid: Grid, wanted: Wanted, archive: StacArchive
) -> tuple[Float32[np.ndarray, "height width 2"], dict[str, str], list[str]]:
    try:
        return stac.sentinel1(by_orbit, about, grid, wanted, archive)
    except ItemError as error:
        raise _to_retry(error) if error.kind == REFUSED_KIND else error from None


def _to_retry(error: ItemError) -> ArchiveError:
    """Returns the error of a refused file as one after which another search may bring signatures that are not expired."""
    return ArchiveError(str(error), error.kind)


def _drawn_windows(tile: DrawnTile, choice: Choice) -> list[tuple[str, int]]:
    return [(date, choice.window_days) for date in tile.dates]


def _all_dates(choice: Choice) -> tuple[str, int]:
    """Returns a day in the middle of the dates, and a number of days about it that are all of them."""
    first, last = map(datetime.date.fromisoformat, choice.dates)
    half = (last - first).days // 2 + 1
    return (first + datetime.timedelta(days=half)).isoformat(), half


def _takes(
    tile: DrawnTile,
    grid: Grid,
    wanted: Wanted,
    choice: Choice,
    archive: StacArchive,
    windows: Sequence[tuple[str, int]],
    most: int | None = None,
) -> Iterator[Found]:
    """Gives the takes in windows of days about dates, each take once: the `most` best of each window that are within the choice's dates."""
    first, last = choice.dates
    seen: set[str] = set()
    for date, days in windows:
        about = dataclasses.replace(tile, date=date)
        try:
            found = stac.find_sentinel2(about, grid, dataclasses.replace(wanted, s2_window_days=days), archive)
        except NoImageryError:
            continue
        inside = (take for take in found.takes if first <= _day(found, take) <= last)
        new = (take for take in inside if found.scenes[take[0]].names not in seen)
        for take in itertools.islice(new, most):
            seen.add(found.scenes[take[0]].names)
            yield dataclasses.replace(found, takes=[take])


def _day(found: Found, take: Sequence[int]) -> str:
    return found.scenes[take[0]].time.astimezone(datetime.UTC).date().isoformat()


def _cloud(
    found: Found, about: DrawnTile, grid: Grid, choice: Choice, archive: StacArchive
) -> UInt8[np.ndarray, "height width"] | None:
    """Reads the cloud of a take: the classes of SCL that are cloud, 0 elsewhere. None if its scenes have no SCL.

    Raises:
        _ShareError: it has too much cloud or nodata.
        ItemError: it cannot be read.
        ArchiveError: the server does not answer, or is busy.
    """
    scenes = [found.scenes[place] for place in found.takes[0]]
    seen = np.logical_or.reduce([covered(scene.geometry, grid) for scene in scenes])
    _check_share("nodata", 1 - float(seen.mean()) - _COARSE, choice.max_nodata, about.date)
    items = [found.items[place] for place in found.takes[0]]
    try:
        for item in items:
            asset_of(item, "SCL", archive.s2)
    except ItemError:
        _check_share("cloud", scenes[0].cloud_percent / 100, choice.max_cloud, about.date)
        return None
    classes = np.full(grid.shape, np.nan, np.float32)
    for item in items:
        if (missing := np.isnan(classes)).any():
            classes[missing] = scene_classes(item, grid, archive)[missing]
    valid = ~np.isnan(classes)
    _check_share("nodata", float(1 - valid.mean()), choice.max_nodata, about.date)
    cloud = np.where(np.isin(classes, CLOUD_CLASSES), classes, 0).astype(np.uint8)
    _check_share("cloud", float((cloud != 0).sum() / max(valid.sum(), 1)), choice.max_cloud, about.date)
    return cloud
