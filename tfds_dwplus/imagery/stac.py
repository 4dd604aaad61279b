"""Fetch the imagery of a label tile from a STAC API.

Enters: a `LabelTile`, its `Grid`, what is `Wanted`, and a `StacArchive`. Leaves: `Imagery`: one Sentinel-2 take as digital
numbers, without the offset of processing baseline 04.00, and the mean in dB of all Sentinel-1 passes around the label's
date, with the names and dates of the scenes. Or `Coverage`, before any pixel is read.

A scene that cannot be read costs that scene: the next best one is taken, with a warning.
"""

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt16
from rasterio.warp import transform_bounds

from tfds_dwplus import bands
from tfds_dwplus.imagery.acquisitions import (
    ArchiveError,
    Imagery,
    ItemError,
    NoImageryError,
    SceneMetadata,
    Wanted,
    check_not_empty,
    common_columns,
    is_of_product,
    not_used,
    other_day,
    parse_product,
    ranked_takes,
)
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.items.footprints import SAMPLES, covered
from tfds_dwplus.imagery.items.stac_assets import REFUSED_KIND
from tfds_dwplus.imagery.items.stac_items import baseline_note, directions, passes, scene_metadata, usable
from tfds_dwplus.imagery.stac_api import StacArchive, search
from tfds_dwplus.imagery.stac_reading import mean_backscatter, read_sentinel2
from tfds_dwplus.labels.published import LabelTile

Pass = tuple[str, list[Any]]
"""Date and items of a Sentinel-1 pass."""

Read = tuple[Any, SceneMetadata, str]
"""A Sentinel-2 item, its metadata, and what was subtracted from its digital numbers."""


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What an archive has for a tile, by the metadata."""

    s2: int
    """Number of Sentinel-2 scenes that can be used."""
    labelled: bool | None
    """Whether the labelled product is among them; None if the tile does not name one."""
    s1: dict[str, int]
    """Number of Sentinel-1 passes by orbit direction, 'descending' and 'ascending'; and 'both', also those that do not tell."""


@dataclasses.dataclass(frozen=True)
class Found:
    """Sentinel-2 scenes of a tile."""

    items: list[Any]
    scenes: list[SceneMetadata]
    """Their metadata."""
    takes: list[list[int]]
    """Their indexes: takes, the best first, and in each its scenes."""
    notes: list[str]


def stac_imagery(tile: LabelTile, grid: Grid, wanted: Wanted, archive: StacArchive) -> Imagery:
    """Finds, reads and combines the scenes of a tile.

    Raises:
        NoImageryError: no scene in the time window, or a band without a valid pixel.
        ArchiveError: the API or a file server did not answer.
        ValueError: no scene can be read.
    """
    # Both searches come before the first pixel, so that nothing is read for a tile that lacks the other sensor.
    found = find_sentinel2(tile, grid, wanted, archive)
    by_orbit, notes = find_sentinel1(tile, grid, wanted, archive)
    try:
        s2, s2_columns, s2_notes = sentinel2(found, tile, grid, wanted, archive)
        s1, s1_columns, s1_notes = sentinel1(by_orbit, tile, grid, wanted, archive)
    except ItemError as error:
        if error.kind != REFUSED_KIND:
            raise
        # Where no scene is left, another search may bring signatures that are not expired.
        raise ArchiveError(str(error), error.kind) from None
    columns = common_columns(wanted, s1_columns["s1_dates"].split()) | s2_columns | s1_columns
    return Imagery(s2, s1, columns, (*found.notes, *s2_notes, *notes, *s1_notes))


def coverage(tile: LabelTile, grid: Grid, wanted: Wanted, archive: StacArchive) -> Coverage:
    """Counts the scenes of a tile by their metadata. Raises an ArchiveError if the API does not answer."""
    product = parse_product(tile.s2_product_id)
    try:
        found = find_sentinel2(tile, grid, wanted, archive)
        places = [place for take in found.takes for place in take]
    except NoImageryError:
        places = []
    labelled = any(is_of_product(found.scenes[place], product) for place in places) if product else None
    items, _ = search_sentinel1(tile, grid, dataclasses.replace(wanted, s1_orbit="both"), archive)
    return Coverage(
        len(places), labelled, {orbit: len(passes(items, orbit)) for orbit in ("descending", "ascending", "both")}
    )


def find_sentinel2(tile: LabelTile, grid: Grid, wanted: Wanted, archive: StacArchive) -> Found:
    """Searches the Sentinel-2 scenes of a tile: about the label's date, and about the time of its product.

    Raises:
        NoImageryError: there is none.
        ArchiveError: the API did not answer.
    """
    product, notes = parse_product(tile.s2_product_id), []
    items: dict[str, Any] = {}
    for when in _intervals(tile.date, wanted.s2_window_days, product.time if product else None):
        found = search(archive.s2, archive.timeout_s, _bounds(grid), when, left_out=notes)
        items |= {item.id: item for item in found}
    scenes = [scene_metadata(item) for item in items.values()]
    takes = ranked_takes(scenes, tile, grid, wanted.s2_window_days)
    return Found(list(items.values()), scenes, takes, notes)


def sentinel2(
    found: Found, tile: LabelTile, grid: Grid, wanted: Wanted, archive: StacArchive
) -> tuple[UInt16[np.ndarray, "height width s2_band"], dict[str, str], list[str]]:
    """Reads the digital numbers of the best take that can be read; also gives columns of tiles.csv, and warnings.

    Raises:
        NoImageryError: no scene has a valid pixel.
        ValueError: none can be read.
    """
    notes: list[str] = []
    failed: list[ItemError] = []
    empty: list[str] = []
    for take in found.takes:
        pixels, read = np.zeros((*grid.shape, len(wanted.s2_bands)), np.uint16), []
        for place in take:
            item, missing = found.items[place], pixels[..., 0] == bands.S2_NODATA
            if not (_cells(missing) & covered(found.scenes[place].geometry, grid)).any():
                continue
            try:
                scene = read_sentinel2([item], grid, wanted, archive)
            except ItemError as error:
                failed.append(error)
                continue
            more = missing & (scene.s2[..., 0] != bands.S2_NODATA)
            if more.any():
                pixels[more] = scene.s2[more]
                read.append((item, found.scenes[place], scene.offset))
                notes += [*scene.notes, *filter(None, [baseline_note(item)])]
            elif not read:
                empty.append(f"Sentinel-2 scene {item.id} has no valid pixel on this tile")
        if read:
            notes += [*map(not_used, failed), *empty]
            item, scene, _ = read[0]
            notes += other_day(tile, item.id, scene, found.scenes, take, archive.s2.name)
            return pixels, _sentinel2_columns(read), notes
    if failed:
        more = f" (and {len(failed) - 1} other scenes cannot be used)" if failed[1:] else ""
        raise ItemError(f"{failed[0]}{more}", failed[0].kind)
    raise NoImageryError(empty[0], "Sentinel-2 scenes without a pixel")


def find_sentinel1(
    tile: LabelTile, grid: Grid, wanted: Wanted, archive: StacArchive
) -> tuple[dict[str, list[Pass]], list[str]]:
    """Searches the Sentinel-1 passes of a tile, by orbit direction, the preferred one first; also gives warnings.

    Raises:
        NoImageryError: there is none.
        ArchiveError: the API did not answer.
    """
    items, notes = search_sentinel1(tile, grid, wanted, archive)
    found = {orbit: passes(items, orbit) for orbit in directions(wanted.s1_orbit)}
    if any(found.values()):
        return {orbit: some for orbit, some in found.items() if some}, notes
    others = {orbit: len(passes(items, orbit)) for orbit in ("descending", "ascending")}
    other = next((orbit for orbit, count in others.items() if count), "")
    if other:
        hint = f"it has {others[other]} {other}: say --s1_orbit {wanted.s1_orbit}_or_{other} to take those where there are no others"
    else:
        hint = notes[0] if notes else "widen --s1_window_days, or take another --s1_stac_url, with another --output"
    named = _named(wanted.s1_orbit)
    raise NoImageryError(f"0{named} {_window(tile, wanted, archive)}; {hint}", f"no{named} Sentinel-1 scene")


def sentinel1(
    by_orbit: dict[str, list[Pass]], tile: LabelTile, grid: Grid, wanted: Wanted, archive: StacArchive
) -> tuple[Float32[np.ndarray, "height width 2"], dict[str, str], list[str]]:
    """Reads the mean backscatter in dB of the first orbit direction that has data; also gives columns of tiles.csv, and warnings.

    Raises:
        NoImageryError: no pass has a valid pixel.
        ItemError: none can be read.
    """
    notes: list[str] = []
    problem: ValueError | None = None
    for orbit, found in by_orbit.items():
        try:
            mean, used, more = mean_backscatter(found, grid, wanted, archive)
            scenes = f"{len(found)}{_named(orbit)} {_window(tile, wanted, archive)}"
            check_not_empty(scenes, np.isfinite(mean), bands.S1_BANDS)
        except (ItemError, NoImageryError) as error:
            problem = problem or error
        else:
            break
    else:
        raise problem
    notes += more
    if orbit != directions(wanted.s1_orbit)[0]:
        why = str(problem or f"0 {directions(wanted.s1_orbit)[0]} {_window(tile, wanted, archive)}")
        notes.append(f"{len(used)} {orbit} Sentinel-1 passes are used: {why}")
    columns = {
        "s1_source": f"{archive.s1.name} {archive.s1_quantity}",
        "s1_unit": f"{archive.s1_quantity} dB",
        "s1_orbit": orbit,
        "s1_dates": " ".join(date for date, _ in used),
        "s1_items": " ".join(item.id for _, slices in used for item in slices),
    }
    return mean, columns, notes


def search_sentinel1(tile: LabelTile, grid: Grid, wanted: Wanted, archive: StacArchive) -> tuple[list[Any], list[str]]:
    """Searches the Sentinel-1 items about a tile's date that can be used; also gives warnings. Raises an ArchiveError."""
    notes: list[str] = []
    (when,) = _intervals(tile.date, wanted.s1_window_days)
    items = search(archive.s1, archive.timeout_s, _bounds(grid), when, left_out=notes)
    chosen, more = usable(items, wanted.s1_orbit, archive.s1)
    return chosen, notes + more


def _sentinel2_columns(read: Sequence[Read]) -> dict[str, str]:
    """Columns of tiles.csv; where the items of a take differ, the values of all, separated by spaces."""
    baselines = ["" if scene.baseline is None else f"{scene.baseline:05.2f}" for _, scene, _ in read]
    return {
        "s2_item": " ".join(item.id for item, _, _ in read),
        "s2_baseline": " ".join(filter(None, dict.fromkeys(baselines))),
        "s2_offset": "; ".join(dict.fromkeys(offset for *_, offset in read)),
        "s2_date": read[0][1].time.astimezone(datetime.UTC).date().isoformat(),
    }


def _cells(missing: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "row column"]:
    """Marks the cells of `footprints.covered` whose middle pixel is missing."""
    rows, columns = (((np.arange(SAMPLES) + 0.5) / SAMPLES * size).astype(int) for size in missing.shape)
    return missing[np.ix_(rows, columns)]


def _named(orbit: str) -> str:
    return "" if orbit == "both" else f" {orbit.replace('_', ' ')}"


def _window(tile: LabelTile, wanted: Wanted, archive: StacArchive) -> str:
    return f"Sentinel-1 scenes of {archive.s1.name} within {wanted.s1_window_days} days of {tile.date}"


def _bounds(grid: Grid) -> tuple[float, float, float, float]:
    return transform_bounds(grid.crs, "EPSG:4326", *grid.bounds)


def _intervals(date: str, days: int, product: datetime.datetime | None = None) -> list[str]:
    """Intervals in STAC's notation: some days before to some days after a date, and a day before to a day after a product's day.

    They are one interval if they touch.
    """
    day = datetime.date.fromisoformat(date)
    spans = [(day, days)] + ([(product.date(), 1)] if product else [])
    ranges = sorted(
        (middle - datetime.timedelta(days=span), middle + datetime.timedelta(days=span)) for middle, span in spans
    )
    if len(ranges) > 1 and ranges[1][0] <= ranges[0][1] + datetime.timedelta(days=1):
        ranges = [(ranges[0][0], max(ranges[0][1], ranges[1][1]))]
    return [f"{first}T00:00:00Z/{last}T23:59:59.999Z" for first, last in ranges]
