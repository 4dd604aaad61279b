"""Maps a region in each month, quarter or year of a series, then filters the maps to one of each year.

Enters: a `Series`. Leaves: the folder that `series_files` describes. A period without clear imagery is told and counts as not observed.
All maps are of one orbit direction of Sentinel-1: slopes look other from the other side, which a filter would take for a change.
"""

import contextlib
from typing import Any

from specsar_jax.regions import coverage, region_files, region_map, stac_files
from specsar_jax.regions.coverage import Coverage
from specsar_jax.regions.region_files import Job
from specsar_jax.regions.series import series_files, yearly_maps
from specsar_jax.regions.series.periods import Period
from specsar_jax.regions.series.series_files import Series
from tfds_dwplus.places import blocks
from tfds_dwplus.places.blocks import Block


def plan(series: Series) -> None:
    """Prints what would be mapped, and from what, for each period. No pixel is read, nothing is written.

    Raises:
        ValueError: the archive does not answer, or no pixel could be mapped in any period.
    """
    wanted = list(blocks.blocks_of(series.job.region, series.block_px))
    print(f"{region_map.counted(wanted, series.block_px)}, in each of {_number(series)}")
    maps = series.maps()
    _, unseen = _with_coverage(maps, none_there=True)
    _tell_disk(series, len(maps) - len(unseen))


def map_series(series: Series, scheduler: str, workers: int, attempts: int) -> dict[str, dict[str, Any]]:
    """Maps what is missing of a series, then filters it; its folder must be held by `series_files.opened`.

    Args:
        series: settings.
        scheduler: address of a Dask scheduler; "" for processes on this machine.
        workers: number of processes on this machine.
        attempts: number of attempts for each block.

    Returns:
        The summary of each folder, as in its `summary.json`, by its name: the maps, then the filtered ones.

    Raises:
        ValueError: the archive or the scheduler does not answer, blocks failed, a folder holds a map with other settings, or no period
            has clear imagery; what is done is kept.
    """
    wanted = list(blocks.blocks_of(series.job.region, series.block_px))
    maps = series.maps()
    if series.filter:
        yearly_maps.check_folders(series)
    summaries, failures = {}, []
    with (
        contextlib.ExitStack() as held,
        region_map.connection(scheduler, workers) as connected,
    ):
        for job in maps.values():
            if job.output.exists():  # those of other settings are refused before any work
                held.enter_context(region_files.opened(job.output, series.settings(job)))
        todo = {period: _missing(job, wanted) for period, job in maps.items()}
        there = len(maps) * len(wanted) - sum(map(len, todo.values()))
        print(f"{region_map.counted(wanted, series.block_px)}, in each of {_number(series)}; {there} are there")
        jobs = _prepared(series, maps, todo)
        for period, job in jobs.items():
            print(f"{period.name}:" + (f" {len(todo[period])} blocks to map" if todo[period] else " complete"))
            if not job.output.exists():
                held.enter_context(region_files.opened(job.output, series.settings(maps[period])))
            if todo[period]:
                region_files.keep_orbit(job.output, job.recipe.wanted.s1_orbit)
            try:
                summary = region_map.map_blocks(job, wanted, todo[period], connected, attempts)
            except region_map.BlocksFailedError as failure:  # the other periods do not wait for a server of this one
                failures.append(f"{period.name}: {failure}")
                continue
            print(_told(summary))
            summaries[period.name] = summary
    if failures:
        others = f" (and blocks of {len(failures) - 1} other maps)" if failures[1:] else ""
        raise ValueError(f"{failures[0]}{others}")
    if not any(any(summary["hectares"].values()) for summary in summaries.values()):
        raise ValueError(f"in each of {_number(series)}: {region_map.nothing_mapped(next(iter(summaries.values())))}")
    summaries |= yearly_maps.write_yearly(series, jobs, wanted) if series.filter else {}
    # With those of other days and filters, for a series may be continued.
    there = sorted(path.parent.name for path in series.job.output.glob(f"*/{stac_files.NAME}"))
    stac_files.write_series(series.job.output, there)
    return summaries


def _number(series: Series) -> str:
    number = len(series.maps())
    return f"{number} {series.every}{'' if number == 1 else 's'}"


def _missing(job: Job, wanted: list[Block]) -> list[Block]:
    return [block for block in wanted if not region_files.is_done(job.output, block, probabilities=job.probabilities)]


def _prepared(series: Series, maps: dict[Period, Job], todo: dict[Period, list[Block]]) -> dict[Period, Job]:
    """Tells what the archive has for the maps that are not complete, and returns those that can be made, all of one orbit direction."""
    output = series.job.output
    if orbit := series_files.taken_orbit(output):
        maps = {period: region_map.with_orbit(job, orbit) for period, job in maps.items()}
    if not any(todo.values()):
        return maps
    again = sum(region_files.is_done(job.output, block) for period, job in maps.items() for block in todo[period])
    if again:
        print(f"{again} blocks were mapped without probabilities, which --filter hmm reads: they are mapped again")
    unfinished = {period: job for period, job in maps.items() if todo[period]}
    orbit, unseen = _with_coverage(unfinished, none_there=len(unfinished) == len(maps))
    series_files.keep_orbit(output, orbit)
    _tell_disk(series, len(unfinished) - len(unseen))
    return {period: region_map.with_orbit(job, orbit) for period, job in maps.items() if period not in unseen}


def _with_coverage(maps: dict[Period, Job], *, none_there: bool) -> tuple[str, set[Period]]:
    """Prints what the archive has of the region in each period, and returns one orbit direction for all of them, and the periods in
    which no pixel can be mapped.

    Args:
        maps: the jobs.
        none_there: whether no other map of the series is made yet.

    Raises:
        ValueError: the archive does not answer, or no pixel could be mapped in any period.
    """
    found: dict[Period, Coverage] = {}
    for period, job in maps.items():
        found[period] = coverage.coverage(job)
        for line in coverage.lines(found[period], job):
            print(f"{period.name}: {line}")
    first = next(iter(maps.values()))
    orbit, said = coverage.chosen_orbit(list(found.values()), first)
    if said:
        print(f"in the mean of the series, {said}" if len(maps) > 1 else said)
    unseen = {period: _unseen(found[period], region_map.with_orbit(job, orbit)) for period, job in maps.items()}
    unseen = {period: reason for period, reason in unseen.items() if reason}
    if none_there and len(unseen) == len(maps):
        reason = next(iter(unseen.values()))
        raise ValueError(f"no map of the series can be made; of {next(iter(unseen)).name}: {reason}")
    for period, reason in unseen.items():
        print(f"{period.name} counts as not observed: {reason}")
    return orbit, set(unseen)


def _unseen(found: Coverage, job: Job) -> str:
    """Returns why no pixel of a region can be mapped; "" if some can, with the sensors that the network cannot miss."""
    reasons = coverage.lacking(found, job)
    needed = [reason for sensor, reason in reasons.items() if sensor not in job.trained.config.may_miss]
    none = list(reasons.values()) if len(reasons) == len(job.recipe.sensors) else []
    return next(iter(needed + none), "")


def _tell_disk(series: Series, maps: int) -> None:
    """Says what the class probabilities of some maps take on the disk at most; overviews are a third of it."""
    if series.filter and series.filter.needs_probabilities and maps:
        size = blocks.region_hectares(series.job.region) * 100 * len(series.job.trained.classes) * maps * 4 / 3
        print(
            f"--filter hmm keeps the class probabilities of {maps} maps: at most {size / 1e9:.2g} GB before compression"
        )


def _told(summary: dict[str, Any]) -> str:
    """Formats the areas of a map in one line, the largest classes first."""
    areas = {name: area for name, area in summary["hectares"].items() if area}
    mapped = sum(areas.values())
    if not mapped:
        return "no pixel has clear data: it counts as not observed"
    largest = sorted(areas.items(), key=lambda area: -area[1])[:3]
    shares = ", ".join(f"{name} {100 * area / mapped:.1f} %" for name, area in largest)
    return f"{mapped:,.1f} ha mapped, {summary['no_data_hectares']:,.1f} ha without imagery; {shares}"
