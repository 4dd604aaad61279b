"""Command: maps a region from the imagery of a STAC archive, block by block.

    python -m specsar_jax.map_region --workdir runs/a --bbox 103.5 12.9 104.4 13.6 --dates 2024-01-01 2024-03-31 --output maps/a

Enters: a box or the polygons of a GeoJSON file, a range of dates, a STAC API, a trained network. Leaves: the folder that
`region_files` describes: a map for each block of a fixed UTM grid, a mosaic for each zone, a STAC collection of them, the area of each class;
with `--every` one such folder for each month, quarter or year, as `series_files` describes, and with `--filter` one for each year made of them.
Blocks run on Dask workers, which must all see the output folder. Started again, the command maps the missing blocks.
"""

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from specsar_jax.patches.asked import Asked, add_options
from specsar_jax.trained import hub
from specsar_jax.trained.loading import load_trained
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus.bands import DYNAMIC_WORLD
from tfds_dwplus.command_line import Parser, path, path_or_address, run
from tfds_dwplus.files import buckets
from tfds_dwplus.files.strangers import MOST_JSON_BYTES, read_bytes
from tfds_dwplus.imagery.acquisitions import Wanted
from tfds_dwplus.imagery.archive_options import add_archive_options, dates, s2_offset, stac_archive
from tfds_dwplus.imagery.decoder.backscatter import quantity_named
from tfds_dwplus.imagery.stac_api import StacArchive

MISSING = ""
try:
    from specsar_jax.regions import region_files, stac_files
    from specsar_jax.regions.composites import Recipe
    from specsar_jax.regions.region_files import Job
    from specsar_jax.regions.region_map import map_region, plan
    from specsar_jax.regions.series import series_files, series_map, transitions, yearly_maps
    from specsar_jax.regions.series.series_files import Series
    from specsar_jax.regions.vectors import GENERALISED, claimed, write_vectors
    from tfds_dwplus.places import blocks
except ModuleNotFoundError as error:
    MISSING, Job, Series, GENERALISED = error.name, None, None, "generalised"


def main(argv: list[str]) -> None:
    """Parses the arguments and maps the region."""
    args = _parser().parse_args(argv)
    if MISSING:
        raise ValueError(f"map_region needs {MISSING}: pip install 'specsar_jax[region]'")
    wanted = Asked(args.polygons, args.output / GENERALISED if args.generalised else None, args.minimum_area_ha)
    wanted.check()
    jax.config.update("jax_platforms", "cpu")  # accelerators are for the workers
    job = _job(args)
    for given in (job.output, args.workdir):
        if args.scheduler and buckets.given(given) != str(given):
            raise ValueError(
                f"{buckets.given(given)} with --scheduler: workers on other machines need a folder that all see; mount the bucket as a "
                "folder, on every machine under the same path"
            )
    if note := _other_quantity(job):
        print(f"warning: {note}", file=sys.stderr)
    if args.every:
        _map_series(args, job, wanted)
        return
    if args.dry_run:
        plan(job, args.block_px)
        return
    asked = _asked(job, args.block_px)
    with region_files.opened(job.output, asked), claimed(wanted, args.geojson) as wanted:
        summary = map_region(job, args.block_px, args.scheduler, args.workers, args.retries + 1)
        written = write_vectors(job, sorted(job.output.glob("mosaic_*.vrt")), wanted)
    print(region_files.table(summary))
    print(f"wrote {job.output}: summary.json, a mosaic a UTM zone, and blocks, with a STAC collection")
    if written:
        print(f"wrote {', '.join(map(str, written))}")


def _map_series(args: argparse.Namespace, job: Job, wanted: Asked) -> None:
    """Maps the series that the arguments describe, or prints what there is of it."""
    series = Series(job, args.every, args.block_px, _filter(args, job), lambda one: _asked(one, args.block_px))
    if args.dry_run:
        series_map.plan(series)
        return
    with series_files.opened(job.output, series.asked()), _claimed_of_years(series, wanted, args.geojson) as of_years:
        summaries = series_map.map_series(series, args.scheduler, args.workers, args.retries + 1)
        written = [
            path
            for job, asked in of_years
            for path in write_vectors(job, sorted(job.output.glob("mosaic_*.vrt")), asked)
        ]
    filtered = {name: summary for name, summary in summaries.items() if "filter" in summary}
    for name, summary in filtered.items():
        print(f"{name}:\n{region_files.table(summary)}")
    maps = len(summaries) - len(filtered)
    print(
        f"wrote {job.output}: {maps} map{'' if maps == 1 else 's'}, each in a folder of its own{', and ' * bool(filtered)}{', '.join(filtered)}"
    )
    if written:
        print(f"wrote {', '.join(map(str, written))}")


@contextlib.contextmanager
def _claimed_of_years(series: Series, wanted: Asked, region: Path | None) -> Iterator[list[tuple[Job, Asked]]]:
    """Claims what is asked of the map of each year; with several years, polygons are to be in `map_2024.gpkg` and so on. Yields their jobs too."""
    jobs = yearly_maps.jobs(series) if wanted.paths else {}
    with contextlib.ExitStack() as held:
        of_years = []
        for year, job in jobs.items():
            polygons = wanted.polygons
            if polygons and len(jobs) > 1:
                polygons = polygons.with_stem(f"{polygons.stem}_{year}")
            generalised = job.output / GENERALISED if wanted.generalised else None
            asked = Asked(polygons, generalised, wanted.minimum_area_ha)
            of_years.append((job, held.enter_context(claimed(asked, region))))
        yield of_years


def _filter(args: argparse.Namespace, job: Job) -> Any:
    """Returns the filter that the arguments describe; None if there is none."""
    if args.filter == "hmm":
        return transitions.hidden_markov(job.trained.classes, args.every, args.stay, args.transitions, args.cover_class)
    return transitions.Filter(args.filter) if args.filter else None


def _check_series(args: argparse.Namespace) -> None:
    """Raises a ValueError if options of a series are given that do not go together."""
    of_hmm = [name for name in ("stay", "transitions", "cover_class") if getattr(args, name) is not None]
    if args.filter and not args.every:
        raise ValueError("--filter is given without --every; it filters a series of maps, such as --every month")
    if of_hmm and args.filter != "hmm":
        raise ValueError(f"--{of_hmm[0]} is given without --filter hmm; add that, or leave it out")
    if args.stay is not None and args.transitions:
        raise ValueError(
            "--stay and --transitions are both given; a table of transitions says what stays: leave --stay out"
        )
    if args.every and args.s1_dates:
        raise ValueError("--s1_dates is given with --every; each map takes the passes of its own days: leave it out")
    if args.every and not args.filter and (args.polygons or args.generalised):
        raise ValueError(
            "--polygons and --generalised of a series are those of its map of each year; add --filter hmm or --filter mode, or map "
            "without --every"
        )


def _job(args: argparse.Namespace) -> Job:
    """Returns the job that the arguments describe. Raises a ValueError if they do not fit together."""
    _check_series(args)
    if args.bbox:
        region = blocks.box(*args.bbox)
    else:
        region = blocks.from_geojson(read_bytes(args.geojson, MOST_JSON_BYTES), str(args.geojson))
    for name, low, high in (("block_px", 32, 16384), ("workers", 1, 1024), ("retries", 0, 100), ("s2_scenes", 1, 100)):
        if not low <= getattr(args, name) <= high:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected {low} to {high}")
    if not 0 <= args.max_cloud_percent <= 100:
        raise ValueError(f"--max_cloud_percent is {args.max_cloud_percent:g}, expected 0 to 100")
    if args.overlap is not None and not 0 <= args.overlap <= 0.75:
        raise ValueError(f"--overlap is {args.overlap:g}, expected a share of a window from 0 to 0.75")
    stac_files.check_license(args.license)
    s2_dates, s1_dates = (dates(given, option) for given, option in (
        (args.dates, "--dates"), (args.s1_dates or args.dates, "--s1_dates"),
    ))  # fmt: skip
    trained = load_trained(args.workdir, args.checkpoint)
    trained = _with_overlap(trained, args.overlap)
    sensors = _sensors(trained, args.sensors)
    recipe = Recipe(
        sensors,
        Wanted(
            args.s2_level,
            trained.statistics.s2.bands,
            0,
            s2_offset(args),
            args.s1_orbit,
            args.s1_mean,
            0,
            args.s2_offset_in_doubt,
        ),
        s2_dates,
        s1_dates,
        args.s2_scenes if args.composite == "median" else 1,
        args.max_cloud_percent,
        args.cloud_mask == "scl",
    )
    return Job(
        region,
        recipe,
        stac_archive(args, sensors),
        trained,
        trained.provenance(),
        args.output.resolve(),
        license=args.license,
    )


def _sensors(trained: Trained, text: str | None) -> tuple[str, ...]:
    """Returns the sensors to fetch: those that the network reads, or the chosen ones of a network that works without the others."""
    sensors = tuple(trained.config.model.sensors)
    if text is None:
        return sensors
    chosen = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in chosen if name not in sensors]:
        raise ValueError(f"--sensors is {text!r}, expected {' or '.join(sensors)}, not {unknown[0]!r}")
    for sensor in sensors:
        trained.check_sensor(sensor, chosen, f"--sensors is {text}")
    return tuple(sensor for sensor in sensors if sensor in chosen)


def _other_quantity(job: Job) -> str:
    """Returns a line if the archive's backscatter is another quantity than the network was trained on; "" if not, or not known."""
    trained = quantity_named([job.trained.statistics.s1.unit]) if "s1" in job.recipe.sensors else ""
    if not trained or trained == job.archive.s1_quantity:
        return ""
    return (
        f"the network was trained on {trained}, but {job.archive.s1.name} holds {job.archive.s1_quantity}, which differs by the slope of "
        f"the ground and its angle to the satellite; take an archive of {trained}, or a network of {job.archive.s1_quantity}"
    )


def _with_overlap(trained: Trained, overlap: float | None) -> Trained:
    """Returns the network with numpy arrays, which can be sent to other processes, and with another overlap if one is given."""
    config = trained.config
    if overlap is not None:
        config = dataclasses.replace(config, predict=dataclasses.replace(config.predict, overlap=overlap))
    return dataclasses.replace(trained, config=config, variables=jax.tree.map(np.asarray, trained.variables))


def _asked(job: Job, block_px: int) -> dict[str, Any]:
    """Returns all settings that affect the map, ready for JSON."""
    import shapely

    def chosen(archive: StacArchive) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(archive).items() if name != "timeout_s"}

    classes = {} if job.trained.classes == DYNAMIC_WORLD else {"classes": dataclasses.asdict(job.trained.classes)}
    return {
        "region": shapely.geometry.mapping(job.region),
        "block_px": block_px,
        "weights_sha256": job.tags["weights_sha256"],
        "overlap": job.trained.config.predict.overlap,
        **dataclasses.asdict(job.recipe),
        **chosen(job.archive),
        **classes,
    }


def _parser() -> Parser:
    parser = Parser(
        "Maps a region from the imagery of a STAC archive. Started again, it maps the missing blocks.",
        "python -m specsar_jax.map_region --workdir runs/a --bbox 103.5 12.9 104.4 13.6 --dates 2024-01-01 2024-03-31 "
        "--output maps/siem_reap",
    )
    add = parser.add_argument
    add("--workdir", type=hub.network, required=True, help="workdir of a run, or an exported bundle")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--bbox", type=float, nargs=4, metavar=("WEST", "SOUTH", "EAST", "NORTH"), help="region as a box, degrees"
    )
    where.add_argument("--geojson", type=path, help="region as a GeoJSON file of polygons, degrees")
    add("--dates", nargs=2, required=True, metavar=("FIRST", "LAST"), help="first and last day of imagery, YYYY-MM-DD")
    add("--s1_dates", nargs=2, metavar=("FIRST", "LAST"), help="first and last day of Sentinel-1; --dates if not given")
    add(
        "--every",
        choices=("month", "quarter", "year"),
        help="a series: one map for each month, quarter or year of --dates, in a folder of its own",
    )
    add(
        "--filter",
        choices=("hmm", "mode"),
        help="of a series also a map of each year: by a hidden Markov model of the class probabilities, which keeps the land under snow and "
        "tells the month of the last change; or the most frequent class of each pixel",
    )
    add(
        "--stay",
        type=float,
        help="of --filter hmm: probability that a class stays from month to month; 0.98 if not given",
    )
    add(
        "--transitions",
        type=path,
        help="of --filter hmm, in place of --stay: CSV with the probability of each class (columns) in the next map after each class (rows, "
        "named by the first column)",
    )
    add(
        "--cover_class",
        help="of --filter hmm: class that comes and goes over the land and hides it, or none; snow_and_ice if not given, where there is it",
    )
    add(
        "--sensors",
        help="s2 or s1 alone, for a network of both that is trained with data.sensor_drop; all that it reads if not given",
    )
    add("--output", type=path, required=True, help="folder to write to")
    add(
        "--license",
        default="other",
        help="licence of the map, for its STAC collection: an identifier of SPDX such as CC-BY-4.0",
    )
    add(
        "--generalised",
        action="store_true",
        help=f"write the mosaics with patches below --minimum_area_ha joined to others too, {GENERALISED}/<zone>.tif in the folder",
    )
    add_options(parser)
    add("--composite", choices=("median", "least_cloudy"), default="median", help="how to combine Sentinel-2 scenes")
    add("--s2_scenes", type=int, default=5, help="clear observations in the median of a pixel, clearest scenes first")
    add("--max_cloud_percent", type=float, default=80.0, help="Sentinel-2 scenes with more cloud are not used")
    add("--cloud_mask", choices=("scl", "none"), default="scl", help="which pixels are clear: by SCL, or all (for L1C)")
    add_archive_options(parser)
    add("--block_px", type=int, default=2048, help="side of a block, in pixels of 10 m; the map does not depend on it")
    add("--overlap", type=float, help="overlap of windows, 0 to 0.75; the run's if not given")
    add(
        "--scheduler",
        type=path_or_address,
        default="",
        metavar="ADDRESS",
        help="Dask scheduler, tls://..., tcp://... or a .json file; else this machine. Who can reach a scheduler runs code as its "
        "owner, for it is sent pickles: tcp:// only in a network of your own, else tls:// with the certificates of Dask's "
        "configuration (distributed.comm.tls)",
    )
    add("--workers", type=int, default=max((os.cpu_count() or 1) // 4, 1), help="number of processes on this machine")
    add("--retries", type=int, default=2, help="further attempts for a block that failed")
    add("--dry_run", action="store_true", help="print which scenes the archive has of the region, and end")
    add("--checkpoint", choices=("best", "latest"), default="best")
    return parser


if __name__ == "__main__":
    run(main)
