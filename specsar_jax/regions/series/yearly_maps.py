"""Filters the maps of a series to one map of each year, block by block on this machine.

Enters: the folders of the maps, with class probabilities for a hidden Markov filter. Leaves: a folder of a region for each year, whose
blocks name what they were made of, so that only those are made again whose maps are new.

A pixel has a class in a year if it was observed in one of its periods; the other years of the series only help to find which. The
memory it takes is that of `WINDOW_PX` squared pixels of all maps, not of a block.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jaxtyping import UInt8
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from specsar_jax.maps.final_files import CACHE_BYTES
from specsar_jax.regions import mosaics, region_files
from specsar_jax.regions.block_rasters import PROBABILITIES, Rasters
from specsar_jax.regions.composites import Composite
from specsar_jax.regions.region_files import Job
from specsar_jax.regions.region_map import with_orbit
from specsar_jax.regions.series import filters
from specsar_jax.regions.series.periods import Period, years
from specsar_jax.regions.series.series_files import Series
from specsar_jax.regions.series.transitions import Filter
from tfds_dwplus import bands
from tfds_dwplus.command_line import progress
from tfds_dwplus.files.raster_files import GDAL_ERRORS
from tfds_dwplus.files.strangers import read_object
from tfds_dwplus.places import blocks
from tfds_dwplus.places.blocks import Block

WINDOW_PX = 512
"""Side of the windows that are read: that of the tiles of the files."""

VALUES = 2**17
"""Probabilities that are filtered at a time, of all classes and periods: a megabyte in each of a handful of arrays, which caches hold."""

MADE_OF = "filter_inputs_sha256"
"""Tag of a block: digest of the STAC items that it was made of."""


def jobs(series: Series) -> dict[int, Job]:
    """Returns the job of the map of each year."""
    whole, of_years = list(series.maps()), {}
    for year, part in years(whole).items():
        job = series.part(f"{series.filter.kind}_{year}", whole[part][0].first, whole[part][-1].last)
        tags = job.tags | series.filter.tags() | {"filter_every": series.every}
        of_years[year] = dataclasses.replace(job, tags=tags, probabilities=False)
    return of_years


def check_folders(series: Series) -> None:
    """Raises a ValueError if the folder of a year holds the map of another filter, or another process is at work on it; or if there are
    maps of the year that the series leaves out, so that its map would be made of a part of them.
    """
    names, output = {period.name for period in series.maps()}, series.job.output
    for year, job in jobs(series).items():
        maps = sorted(path.parent.name for path in output.glob(f"{year}*/region.json"))
        if left_out := [name for name in maps if re.fullmatch(r"\d{4}(-Q?\d+)?", name) and name not in names]:
            raise ValueError(
                f"{output} has maps of {left_out[0]} to {left_out[-1]} that are not of these --dates, without which the map of {year} would be "
                "another one; give --dates with all of them, or another --output"
            )
        if job.output.exists():
            with _opened_folder(series, job):
                pass


def write_yearly(series: Series, maps: dict[Period, Job], wanted: Sequence[Block]) -> dict[str, dict[str, Any]]:
    """Filters the blocks of a series that are not filtered yet.

    Args:
        series: settings, with a filter.
        maps: the jobs of the maps that are made, whose folders hold all blocks.
        wanted: all blocks of the region.

    Returns:
        The summary of the map of each year, by the name of its folder.

    Raises:
        ValueError: a file is damaged, or a folder holds a map of another filter.
        OSError: the disk is full, or cannot be written for another reason; what is done is kept.
    """
    whole = list(series.maps())
    folders = [maps[period].output if period in maps else None for period in whole]
    orbit = next(iter(maps.values())).recipe.wanted.s1_orbit
    of_years = {year: with_orbit(job, orbit) for year, job in jobs(series).items()}
    with contextlib.ExitStack() as held:
        for job in of_years.values():
            held.enter_context(_opened_folder(series, job))
        made_of = {block: _digest(block, whole, folders) for block in wanted}
        todo = [
            block for block in wanted if not all(_is_made_of(job, block, made_of[block]) for job in of_years.values())
        ]
        with progress(total=len(wanted), initial=len(wanted) - len(todo), desc="filtering", unit="block") as bar:
            for block in todo:
                _filter_block(block, series.filter, whole, folders, of_years, made_of[block])
                bar.update()
        summaries = {}
        for job in of_years.values():
            mosaics.write_mosaics(job.output, wanted, job.trained.classes)
            summaries[job.output.name] = region_files.write_summary(job.output, job, wanted, {})
            region_files.write_collection(job.output, job, wanted)
    return summaries


def _opened_folder(series: Series, job: Job) -> contextlib.AbstractContextManager[None]:
    asked = series.asked() | {"filter": dataclasses.asdict(series.filter)}
    return region_files.opened(job.output, asked, f"remove the folder {job.output.name}, and it is made again")


def _digest(block: Block, whole: Sequence[Period], folders: Sequence[Path | None]) -> str:
    digest = hashlib.sha256()
    for period, folder in zip(whole, folders, strict=True):
        item = folder / "blocks" / f"{block.name}.json" if folder else None
        digest.update(f"{period}".encode() + (item.read_bytes() if item else b""))
    return digest.hexdigest()


def _is_made_of(job: Job, block: Block, made_of: str) -> bool:
    if not region_files.is_done(job.output, block):
        return False
    try:
        item = job.output / "blocks" / f"{block.name}.json"
        tree = read_object(item, finite=False)
        rasters = [item.parent / asset["href"] for asset in tree["assets"].values()]
        return tree["properties"][f"specsar:{MADE_OF}"] == made_of and all(raster.is_file() for raster in rasters)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _filter_block(
    block: Block,
    by: Filter,
    whole: Sequence[Period],
    folders: Sequence[Path | None],
    jobs: dict[int, Job],
    made_of: str,
) -> None:
    """Writes the map of a block in each year."""
    classes = next(iter(jobs.values())).trained.classes
    within = years(whole)
    kind, count = (PROBABILITIES, len(classes)) if by.needs_probabilities else ("blocks", 1)
    class_id = {year: np.full(block.grid.shape, bands.IGNORE, np.uint8) for year in within}
    changed = {year: class_id[year].copy() for year in within} if by.needs_probabilities else {}
    with contextlib.ExitStack() as files:
        files.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES))
        rasters = [
            files.enter_context(_opened(folder / kind / f"{block.name}.tif", block, count)) if folder else None
            for folder in folders
        ]
        for window in _windows(block.size_px):
            values = np.full((len(whole), count, window.height, window.width), bands.IGNORE, np.uint8)
            for place, raster in enumerate(rasters):
                if raster:
                    values[place] = _read(raster, window)
            rows, columns = window.toslices()
            for year, (ids, months) in _filtered(values, by, whole, len(classes), classes.names).items():
                class_id[year][rows, columns] = ids
                if changed:
                    changed[year][rows, columns] = months
        made = {year: _made(rasters[part], jobs[year]) for year, part in within.items()}
    inside, area = blocks.inside(block, jobs[whole[0].year].region), blocks.pixel_hectares(block)
    for year, job in jobs.items():
        job = dataclasses.replace(job, tags=job.tags | {MADE_OF: made_of})
        hectares = np.bincount(class_id[year][inside], area[inside], minlength=bands.IGNORE + 1)
        rasters_of = Rasters(class_id[year], changed=changed.get(year))
        region_files.write_block(block, job, rasters_of, made[year], hectares)


def _filtered(
    values: UInt8[np.ndarray, "period band rows columns"],
    by: Filter,
    whole: Sequence[Period],
    classes: int,
    names: Sequence[str],
) -> dict[int, tuple[UInt8[np.ndarray, "rows columns"], UInt8[np.ndarray, "rows columns"]]]:
    """Filters a window; returns the class and the month of the last change in each year."""
    shape, within = values.shape[2:], years(whole)
    values = values.reshape(*values.shape[:2], -1)
    found = {year: np.full((2, values.shape[2]), bands.IGNORE, np.uint8) for year in within}
    (pixels,) = np.nonzero(filters.observed(values).any(axis=0))
    months = np.array([period.month for period in whole], np.uint8)
    cover = names.index(by.cover) if by.cover else None
    for part in np.array_split(pixels, -(-pixels.size * len(whole) * classes // VALUES) or 1):
        some = values[..., part]
        if not by.needs_probabilities:
            for year, place in within.items():
                found[year][0, part] = filters.mode(some[place, 0], classes)
            continue
        state = filters.smoothed(filters.emissions(some, cover), by.matrix)
        seen = filters.observed(some)
        for year, place in within.items():
            before = max(place.start - 1, 0)
            change = filters.last_change(state[before : place.stop])
            found[year][0, part] = ids = filters.yearly(state[place], seen[place])
            month = np.where(change > 0, months[before + change], 0)
            found[year][1, part] = np.where(ids == bands.IGNORE, bands.IGNORE, month)
    return {year: (ids.reshape(shape), months_.reshape(shape)) for year, (ids, months_) in found.items()}


def _windows(size_px: int) -> list[Window]:
    starts = range(0, size_px, WINDOW_PX)
    sides = {start: min(WINDOW_PX, size_px - start) for start in starts}
    return [Window(left, top, sides[left], sides[top]) for top in starts for left in starts]


def _opened(path: Path, block: Block, count: int) -> rasterio.DatasetReader:
    """Opens a raster of a map. Raises a ValueError if it is not that of the block."""
    try:
        with warnings.catch_warnings(
            action="error", category=NotGeoreferencedWarning
        ):  # the end of the file is missing
            raster = rasterio.open(path, driver="GTiff")
    except (*GDAL_ERRORS, NotGeoreferencedWarning):
        raise _damaged(path) from None
    if (raster.count, raster.shape, set(raster.dtypes)) != (count, block.grid.shape, {"uint8"}):
        raster.close()
        raise _damaged(path)
    return raster


def _read(raster: rasterio.DatasetReader, window: Window) -> UInt8[np.ndarray, "band rows columns"]:
    try:
        return raster.read(window=window)
    except GDAL_ERRORS:
        raise _damaged(Path(raster.name)) from None


def _damaged(path: Path) -> ValueError:
    return ValueError(f"{path} is missing or damaged; remove it, and the same command maps its block again")


def _made(rasters: Sequence[rasterio.DatasetReader | None], job: Job) -> Composite:
    """Returns what the maps of a year were made of, as their tags tell, without pixels."""
    told = [raster.tags() for raster in rasters if raster]

    def of(what: str) -> dict[str, tuple[str, ...]]:
        names = {sensor: [tags.get(f"{sensor}_{what}", "").split() for tags in told] for sensor in job.recipe.sensors}
        return {sensor: tuple(dict.fromkeys(itertools.chain(*lists))) for sensor, lists in names.items()}

    empty = np.zeros((0, 0, 0))
    return Composite(empty.astype(np.uint16), empty.astype(np.float32), of("items"), of("dates"), ())
