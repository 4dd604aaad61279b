"""Maps the missing blocks of a region on the workers of a cluster, then writes mosaics and the summary."""

from typing import Any

from specsar_jax.regions import blocks, cluster, region_files
from specsar_jax.regions.composites import interval
from specsar_jax.regions.region_files import Job
from tfds_dwplus.command_line import progress
from tfds_dwplus.imagery.acquisitions import ArchiveError
from tfds_dwplus.imagery.stac_api import check_collections, search


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
    zones = sorted({block.zone for block in wanted})
    print(f"{len(wanted)} blocks of {block_px / 100:g} km in {', '.join(zones)}; {len(wanted) - len(todo)} are there")
    failed = _map_blocks(job, todo, len(wanted), scheduler, workers, attempts) if todo else {}
    region_files.write_mosaics(job.output, [b for b in wanted if region_files.is_done(job.output, b)])
    summary = region_files.write_summary(job.output, job, wanted, failed)
    if failed:
        name, reason = next(iter(failed.items()))
        raise ValueError(
            f"{len(failed)} of {len(wanted)} blocks failed, the first one {name}: {reason}; all are listed in "
            f"{job.output / 'summary.json'}, what is done is kept: run the same command again to try them again"
        )
    if not any(summary["hectares"].values()):
        raise ValueError(
            f"no pixel of the region has data of {' and '.join(job.recipe.sensors)}: "
            "take other --dates, --max_cloud_percent or --s1_orbit"
        )
    return summary


def _map_blocks(job: Job, todo: list, total: int, scheduler: str, workers: int, attempts: int) -> dict[str, str]:
    """Maps blocks; returns the reasons of those that failed, by name of the block."""
    _check_items(job)
    failed: dict[str, str] = {}
    said: set[str] = set()
    with (
        cluster.connected(scheduler, workers) as client,
        progress(total=total, initial=total - len(todo), desc="mapping", unit="block") as bar,
    ):
        for entry in cluster.entries(client, job, todo, attempts):
            bar.update()
            if entry["status"] == "failed":
                failed[entry["block"]] = entry["reason"]
                bar.write(f"block {entry['block']} failed: {entry['reason']}")
            for doubt in set(entry["doubts"]) - said:
                bar.write(f"warning: {doubt}")
                said.add(doubt)
    lost = [block.name for block in todo if block.name not in failed and not region_files.is_done(job.output, block)]
    return failed | dict.fromkeys(
        lost, f"a worker did it, but {job.output} does not hold it; do the workers see that folder?"
    )


def _check_items(job: Job) -> None:
    """Raises a ValueError if the archive has no scene of the region; called before any worker starts."""
    check_collections(job.archive)
    where = blocks.search_bounds(job.region)
    for sensor in job.recipe.sensors:
        collection, dates = getattr(job.archive, sensor), getattr(job.recipe, f"{sensor}_dates")
        try:
            found = search(collection, job.archive.timeout_s, where, interval(dates), most=1)
        except ArchiveError as error:
            raise ValueError(f"{error}; try again later") from None
        if not found:
            raise ValueError(
                f"{collection.name} of {collection.url} has no item in the region from {dates[0]} to {dates[1]}; "
                "take other dates or another collection"
            )
