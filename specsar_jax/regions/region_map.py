"""Maps the missing blocks of a region on the workers of a cluster, then writes mosaics, the summary and the STAC collection."""

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from specsar_jax.regions import cluster, coverage, mosaics, region_files
from specsar_jax.regions.region_files import Job
from tfds_dwplus.command_line import progress
from tfds_dwplus.places import blocks
from tfds_dwplus.places.blocks import Block


class BlocksFailedError(ValueError):
    """Blocks of a region failed; the others are kept."""


def plan(job: Job, block_px: int) -> None:
    """Prints what would be mapped, and from what. No pixel is read, nothing is written.

    Raises:
        ValueError: the archive does not answer, or no pixel could be mapped.
    """
    wanted = list(blocks.blocks_of(job.region, block_px))
    print(counted(wanted, block_px))
    _with_coverage(job)


def map_region(job: Job, block_px: int, scheduler: str, workers: int, attempts: int) -> dict[str, Any]:
    """Maps the missing blocks of a region; its folder must be held by `region_files.opened`.

    Args:
        job: settings of the region.
        block_px: side of a block, pixels.
        scheduler: address of a Dask scheduler; "" for processes on this machine.
        workers: number of processes on this machine.
        attempts: number of attempts for each block.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        ValueError: the archive or the scheduler does not answer, blocks failed, or none has imagery; finished blocks are kept.
    """
    wanted = list(blocks.blocks_of(job.region, block_px))
    todo = [block for block in wanted if not region_files.is_done(job.output, block)]
    print(f"{counted(wanted, block_px)}; {len(wanted) - len(todo)} are there")
    if todo:
        if orbit := region_files.taken_orbit(job.output):
            job = with_orbit(job, orbit)
        job = _with_coverage(job)
        region_files.keep_orbit(job.output, job.recipe.wanted.s1_orbit)
    with connection(scheduler, workers) as connected:
        summary = map_blocks(job, wanted, todo, connected, attempts)
    if not any(summary["hectares"].values()):
        raise ValueError(nothing_mapped(summary))
    return summary


@contextlib.contextmanager
def connection(scheduler: str, workers: int) -> Iterator[Callable[[], Any]]:
    """Yields a function that gives the client of a cluster, always the same; the cluster is started when it is first called."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda: stack.enter_context(cluster.connected(scheduler, workers)))


def map_blocks(
    job: Job, wanted: Sequence[Block], todo: Sequence[Block], connected: Callable[[], Any], attempts: int
) -> dict[str, Any]:
    """Maps the blocks of a region that are to be done, and writes its mosaics and summary.

    Args:
        job: settings of the region, with one orbit direction.
        wanted: all its blocks.
        todo: those that are missing.
        connected: gives the client of a cluster, see `connection`.
        attempts: number of attempts for each block.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        BlocksFailedError: some blocks failed; the others are kept.
        ValueError: the scheduler does not answer.
    """
    failed = _map_missing(job, todo, len(wanted), connected(), attempts) if todo else {}
    done = [block for block in wanted if region_files.is_done(job.output, block)]
    mosaics.write_mosaics(job.output, done, job.trained.classes)
    summary = region_files.write_summary(
        job.output, job, wanted, {name: reason for name, (reason, _) in failed.items()}
    )
    region_files.write_collection(job.output, job, done)
    for line in region_files.left_out(summary):
        print(line)
    if failed:
        name, (reason, _) = next(iter(failed.items()))
        kinds = ", ".join(
            f"{number}: {kind}" for kind, number in Counter(kind for _, kind in failed.values()).most_common()
        )
        raise BlocksFailedError(
            f"{len(failed)} of {len(wanted)} blocks failed ({kinds}), the first one {name}: {reason}; all are listed in "
            f"{job.output / 'summary.json'}, what is done is kept: run the same command again to try them again"
        )
    return summary


def counted(wanted: Sequence[Block], block_px: int) -> str:
    """Says how many blocks there are, and where."""
    zones = sorted({block.zone for block in wanted})
    return f"{len(wanted)} block{'' if len(wanted) == 1 else 's'} of {block_px / 100:g} km in {', '.join(zones)}"


def _with_coverage(job: Job) -> Job:
    """Prints what the archive has of the region, and returns the job with one orbit direction for all blocks.

    Raises:
        ValueError: the archive does not answer, or no pixel could be mapped.
    """
    found = coverage.coverage(job)
    for line in coverage.lines(found, job):
        print(line)
    coverage.check(found, job)
    orbit, said = coverage.chosen_orbit([found], job)
    if said:
        print(said)
    return with_orbit(job, orbit)


def with_orbit(job: Job, orbit: str) -> Job:
    """Returns the job with one orbit direction."""
    wanted = dataclasses.replace(job.recipe.wanted, s1_orbit=orbit)
    return dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, wanted=wanted))


def nothing_mapped(summary: dict[str, Any]) -> str:
    """Says why no pixel of a region has a class, and what to do."""
    options = {"s2": "other --dates or a higher --max_cloud_percent", "s1": "other --s1_dates or another --s1_orbit"}
    names = {"s2": "Sentinel-2", "s1": "Sentinel-1"}
    without = [sensor for sensor, number in summary["scenes_used"].items() if not number] or list(
        summary["scenes_used"]
    )
    both = " and " if without == list(summary["scenes_used"]) else " or "
    return (
        f"no pixel of the region has clear data of {both.join(names[sensor] for sensor in without)}: "
        f"take {', and '.join(options[sensor] for sensor in without)}"
    )


def _map_missing(job: Job, todo: Sequence[Block], total: int, client: Any, attempts: int) -> dict[str, tuple[str, str]]:
    """Maps blocks; returns the reason and its kind of those that failed, by name of the block."""
    failed: dict[str, tuple[str, str]] = {}
    said: set[str] = set()
    with progress(total=total, initial=total - len(todo), desc="mapping", unit="block") as bar:
        for entry in cluster.entries(client, job, todo, attempts):
            bar.update()
            if entry["status"] == "failed":
                failed[entry["block"]] = entry["reason"], entry["kind"]
                bar.write(f"block {entry['block']} failed: {entry['reason']}")
            for doubt in set(entry["doubts"]) - said:
                bar.write(f"warning: {doubt}")
                said.add(doubt)
    lost = [
        block.name
        for block in todo
        if block.name not in failed and not region_files.is_done(job.output, block, probabilities=job.probabilities)
    ]
    reason = f"a worker did it, but {job.output} does not hold it; do the workers see that folder?"
    return failed | dict.fromkeys(lost, (reason, "a worker failed"))
