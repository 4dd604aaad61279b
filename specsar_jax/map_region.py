"""Command: a region and dates to a map, block by block, out of an archive.

    python -m specsar_jax.map_region --workdir runs/a --bbox 103.5 12.9 104.4 13.6 --dates 2024-01-01 2024-03-31 --output maps/siem_reap

Enters: a box or the polygons of a GeoJSON file, a STAC API, a trained network. Leaves: the folder that `region_files` describes: a map
and a STAC item for each block of a fixed UTM grid, a mosaic a zone, areas per class. Blocks run on Dask's workers, which must all
see the output folder. Started again, it does what is missing.
"""

import argparse
import dataclasses
import datetime
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

import specsar_jax
from specsar_jax.checkpoints import Trained, load_trained
from tfds_dwplus.archive_options import add_archive_options, s2_offset, stac_archive
from tfds_dwplus.command_line import Parser, progress, run
from tfds_dwplus.imagery import ArchiveError, Wanted
from tfds_dwplus.stac import StacArchive, check_collections, search

MISSING = ""
try:
    from specsar_jax import blocks, cluster, region_files
    from specsar_jax.composites import Recipe, interval
    from specsar_jax.region_files import Job
except ModuleNotFoundError as error:
    MISSING, Job = error.name, None


def main(argv: list[str]) -> None:
    """Parses the arguments and maps the region."""
    args = _parser().parse_args(argv)
    if MISSING:
        raise ValueError(f"map_region needs {MISSING}: pip install 'specsar_jax[region]'")
    jax.config.update("jax_platforms", "cpu")  # accelerators are for the workers
    job = _job(args)
    asked = _asked(job, args.block_px)
    with region_files.opened(job.output, asked):
        summary = map_region(job, args.block_px, args.scheduler, args.workers, args.retries + 1)
    print(region_files.table(summary))
    print(f"wrote {job.output}: summary.json, a mosaic a UTM zone, and blocks with their STAC items")


def map_region(job: Job, block_px: int, scheduler: str, workers: int, attempts: int) -> dict[str, Any]:
    """Maps what is missing of a region, in a folder that this process holds.

    Args:
        job: what is wanted.
        block_px: side of a block.
        scheduler: address of a Dask cluster; "" for processes of this machine.
        workers: how many of those.
        attempts: for each block.

    Returns:
        the summary.

    Raises:
        ValueError: the archive or the scheduler is not there, blocks failed, or none has imagery; what is done stays.
    """
    wanted = list(blocks.blocks_of(job.region, block_px))
    todo = [block for block in wanted if not region_files.is_done(job.output, block)]
    zones = sorted({block.zone for block in wanted})
    print(f"{len(wanted)} blocks of {block_px / 100:g} km in {', '.join(zones)}; {len(wanted) - len(todo)} are there")
    failed = _do(job, todo, len(wanted), scheduler, workers, attempts) if todo else {}
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
            f"no pixel of the region has data of {' and '.join(job.recipe.sensors)}: take other --dates, --max_cloud_percent or --s1_orbit"
        )
    return summary


def _do(job: Job, todo: list, total: int, scheduler: str, workers: int, attempts: int) -> dict[str, str]:
    """Maps blocks and gives those that failed, with the reason."""
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
    """Raises a ValueError if the archive has nothing for the region, before anything is started."""
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


def _job(args: argparse.Namespace) -> Job:
    """What the arguments ask for. Raises a ValueError where they do not fit together."""
    if args.bbox:
        region = blocks.box(*args.bbox)
    else:
        try:
            region = blocks.from_geojson(args.geojson.read_text(encoding="utf-8-sig"), str(args.geojson))
        except UnicodeDecodeError:
            raise ValueError(f"{args.geojson} is not text; expected GeoJSON") from None
    for name, low, high in (("block_px", 32, 16384), ("workers", 1, 1024), ("retries", 0, 100), ("s2_scenes", 1, 100)):
        if not low <= getattr(args, name) <= high:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected {low} to {high}")
    if not 0 <= args.max_cloud_percent <= 100:
        raise ValueError(f"--max_cloud_percent is {args.max_cloud_percent:g}, expected 0 to 100")
    if args.overlap is not None and not 0 <= args.overlap <= 0.75:
        raise ValueError(f"--overlap is {args.overlap:g}, expected a share of a square from 0 to 0.75")
    s2_dates, s1_dates = (_dates(given, option) for given, option in (
        (args.dates, "--dates"), (args.s1_dates or args.dates, "--s1_dates"),
    ))  # fmt: skip
    trained = load_trained(args.workdir, args.checkpoint)
    trained = _with_overlap(trained, args.overlap)
    sensors = tuple(trained.config.model.sensors)
    recipe = Recipe(
        sensors,
        Wanted(args.s2_level, trained.statistics.s2.bands, 0, s2_offset(args), args.s1_orbit, args.s1_mean, 0),
        s2_dates,
        s1_dates,
        args.s2_scenes if args.composite == "median" else 1,
        args.max_cloud_percent,
        args.cloud_mask == "scl",
    )
    tags = {
        "software": f"specsar_jax {specsar_jax.__version__}",
        "weights_sha256": trained.sha256,
        "trained_on": trained.config.data.name,
        "trained_steps": str(trained.step),
    }
    return Job(region, recipe, stac_archive(args, sensors), trained, tags, args.output.resolve())


def _with_overlap(trained: Trained, overlap: float | None) -> Trained:
    """The network as numpy arrays, which go to other processes, and with another overlap if one is given."""
    config = trained.config
    if overlap is not None:
        config = dataclasses.replace(config, predict=dataclasses.replace(config.predict, overlap=overlap))
    return dataclasses.replace(trained, config=config, variables=jax.tree.map(np.asarray, trained.variables))


def _dates(given: list[str], option: str) -> tuple[str, str]:
    try:
        first, last = (datetime.date.fromisoformat(text) for text in given)
    except ValueError:
        raise ValueError(f"{option} is {' '.join(given)!r}, expected two days such as 2024-06-01 2024-08-31") from None
    if first > last:
        raise ValueError(f"{option} is {first} {last}, expected the first day first")
    return str(first), str(last)


def _asked(job: Job, block_px: int) -> dict[str, Any]:
    """Whatever decides on a pixel, as JSON has it."""
    import shapely

    def chosen(archive: StacArchive) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(archive).items() if name != "timeout_s"}

    return {
        "region": shapely.geometry.mapping(job.region),
        "block_px": block_px,
        "weights_sha256": job.tags["weights_sha256"],
        "overlap": job.trained.config.predict.overlap,
        **dataclasses.asdict(job.recipe),
        **chosen(job.archive),
    }


def _parser() -> Parser:
    parser = Parser(
        "Maps a region out of an archive. Started again, it does what is missing.",
        "python -m specsar_jax.map_region --workdir runs/a --bbox 103.5 12.9 104.4 13.6 --dates 2024-01-01 2024-03-31 "
        "--output maps/siem_reap",
    )
    add = parser.add_argument
    add("--workdir", type=Path, required=True, help="of specsar_jax.train, or an exported bundle")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--bbox", type=float, nargs=4, metavar=("WEST", "SOUTH", "EAST", "NORTH"), help="degrees")
    where.add_argument("--geojson", type=Path, help="file of polygons, degrees")
    add("--dates", nargs=2, required=True, metavar=("FIRST", "LAST"), help="days of Sentinel-2, YYYY-MM-DD")
    add("--s1_dates", nargs=2, metavar=("FIRST", "LAST"), help="the same of Sentinel-1, where they are others")
    add("--output", type=Path, required=True, help="folder to write to")
    add("--composite", choices=("median", "least_cloudy"), default="median", help="of Sentinel-2")
    add("--s2_scenes", type=int, default=5, help="clear observations that a median takes, those of the clearest scenes")
    add("--max_cloud_percent", type=float, default=80.0, help="scenes with more are not looked at")
    add("--cloud_mask", choices=("scl", "none"), default="scl", help="what says which pixels are clear; none for L1C")
    add_archive_options(parser)
    add("--block_px", type=int, default=2048, help="side of a block, in pixels of 10 m; the map does not depend on it")
    add("--overlap", type=float, help="of neighbouring squares, 0 to 0.75; the run's if not given")
    add(
        "--scheduler",
        default="",
        metavar="ADDRESS",
        help="of a Dask cluster, tcp://..., or its file .json; else this machine",
    )
    add("--workers", type=int, default=max((os.cpu_count() or 1) // 4, 1), help="processes of this machine")
    add("--retries", type=int, default=2, help="further attempts for a block that failed")
    add("--checkpoint", choices=("best", "latest"), default="best")
    return parser


if __name__ == "__main__":
    run(main)
