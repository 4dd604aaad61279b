"""Command: Dynamic World label tiles to a folder of tiles with imagery.

python -m tfds_dwplus.acquire --labels pangaea/ --workbook v1_dw_tile_metadata_for_public_release.xlsx --output tiles/

Enters: the published labels, and an archive (a STAC API, or Earth Engine). Leaves: the layout of `tile_files`, with further columns
in tiles.csv, and `manifest.jsonl`: a line a tile, done, skipped (the archive has nothing) or failed, and why.

The manifest makes the work resumable: a rerun does what is missing or failed, and however often it was killed the folder ends
up the same. One function, `acquire_tile`, does a tile; threads map it here, and Apache Beam on many machines.
"""

import dataclasses
import json
import random
import shlex
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.errors import NotGeoreferencedWarning

from tfds_dwplus import bands
from tfds_dwplus.archive_options import add_archive_options, s2_offset, stac_archive
from tfds_dwplus.command_line import Parser, progress, run
from tfds_dwplus.earth_engine import EarthEngineArchive, check_login, earth_engine_imagery
from tfds_dwplus.imagery import ArchiveError, Grid, Imagery, NoImageryError, Wanted
from tfds_dwplus.labels import LabelTile, read_label, survey
from tfds_dwplus.manifest import is_there, leave_entry, left_entries, opened, write_rasters, write_table
from tfds_dwplus.stac import StacArchive, check_collections, stac_imagery

STATUSES = ("done", "skipped", "failed")


@dataclasses.dataclass(frozen=True)
class Task:
    """How every tile is acquired."""

    archive: StacArchive | EarthEngineArchive
    wanted: Wanted
    attempts: int = 4
    back_off_s: float = 2.0
    """Wait before the second attempt; it doubles with each further one, and is drawn from half to one and a half of that."""


def main(argv: list[str]) -> None:
    """Parses the arguments and acquires the tiles."""
    args = _parser().parse_args(argv)
    if min(args.workers, args.retries + 1, args.limit or 1, args.s2_window_days + 1, args.s1_window_days + 1) < 1:
        raise ValueError("--workers and --limit are positive, --retries and the windows not negative")
    s2_bands = tuple(bands.canonical_band(name) for name in args.s2_bands.split(",") if name)
    if not s2_bands or set(s2_bands) - set(bands.S2_ALL_BANDS) or len(set(s2_bands)) < len(s2_bands):
        raise ValueError(f"--s2_bands is {args.s2_bands!r}, expected some of {','.join(bands.S2_ALL_BANDS)}")
    if args.s2_level == "L2A" and "B10" in s2_bands:
        raise ValueError(
            "--s2_bands has B10, which Sentinel-2 has at level L1C only; say --s2_level L1C or leave it out"
        )
    wanted = Wanted(
        args.s2_level,
        s2_bands,
        args.s2_window_days,
        s2_offset(args),
        args.s1_orbit,
        args.s1_mean,
        args.s1_window_days,
    )
    archive = stac_archive(args) if args.source == "stac" else EarthEngineArchive(args.earth_engine_project)
    found = survey(args.labels, args.workbook)
    if found.skipped:
        path, reason = found.skipped[0]
        print(f"{len(found.skipped)} files are no label tile of ours, the first one {path}: {reason}")
    task = Task(archive, wanted, args.retries + 1)
    tiles = found.tiles[: args.limit or None]
    beam_arguments = shlex.split(args.beam_args) if args.runner == "beam" else None
    acquire(tiles, task, args.output, workers=args.workers, beam_arguments=beam_arguments)


def acquire(
    tiles: Sequence[LabelTile],
    task: Task,
    output: Path,
    *,
    workers: int = 1,
    beam_arguments: Sequence[str] | None = None,
) -> None:
    """Acquires what is missing in `output`, writes tiles.csv and prints the counts.

    Args:
        tiles: what the folder is to hold.
        task: how each is acquired; the same for the whole folder.
        output: made where it is not there.
        workers: threads.
        beam_arguments: pipeline options; the work is then Beam's, whose machines must all see `output` and the labels.

    Raises:
        ValueError: the archive is not there, the folder was made otherwise or is in use, or tiles failed; what is done stays.
        OSError: the folder cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    with opened(output, _settings(task)) as (entries, note):
        missing = [tile for tile in tiles if not is_there(output, tile, entries.get(tile.tile_id))]
        if missing:
            _check_archive(task)
        before = len(tiles) - len(missing)
        try:
            # Here, for all threads: what one ignores for a moment, as rasterio does when it writes, another one takes back.
            with warnings.catch_warnings(), progress(total=len(tiles), initial=before, unit="tile") as line:
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                results = _by_beam if beam_arguments is not None else _by_threads
                for entry in results(missing, task, output, beam_arguments or workers):
                    note(entry)
                    line.update()
                    for warning in entry.get("warnings", ()):
                        line.write(f"warning: tile {entry['tile_id']}: {warning}")
        finally:
            # Also where it is stopped: what is done can be used.
            chosen = [entries[tile.tile_id] for tile in tiles if tile.tile_id in entries]
            write_table(output, list(entries.values()))
            print(_summary(chosen, len(tiles), before))
    failed = [entry for entry in chosen if entry["status"] == "failed"]
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(tiles)} tiles failed, the first one {failed[0]['tile_id']}: {failed[0]['reason']}; all are "
            f"listed in {output / 'manifest.jsonl'}, what is done is kept: run the same command again to try them again"
        )


def acquire_tile(tile: LabelTile, task: Task, output: Path) -> dict[str, Any]:
    """Acquires one tile and writes its rasters; gives its entry of the manifest. No fault of a tile or an archive is raised.

    Raises:
        OSError: the folder cannot be written, which concerns all tiles.
    """
    entry = {"tile_id": tile.tile_id}
    try:
        label = read_label(tile)
        grid = Grid(label.crs, label.transform, *label.codes.shape)
        imagery = _with_retries(task, lambda: _imagery(tile, grid, task))
    except NoImageryError as reason:
        return entry | {"status": "skipped", "reason": str(reason)}
    except (ValueError, ArchiveError) as reason:
        return entry | {"status": "failed", "reason": " ".join(str(reason).split())}
    except Exception as fault:  # whatever a library throws at one tile, the others go on
        return entry | {"status": "failed", "reason": " ".join(f"{type(fault).__name__}: {fault}".split())}
    write_rasters(output, tile, grid, label, imagery, task.wanted.s2_bands)
    entry |= {"status": "done", "columns": _columns(tile, grid) | imagery.columns}
    return entry | ({"warnings": list(imagery.warnings)} if imagery.warnings else {})


def _check_archive(task: Task) -> None:
    if isinstance(task.archive, EarthEngineArchive):
        check_login(task.archive)
    else:
        check_collections(task.archive)


def _imagery(tile: LabelTile, grid: Grid, task: Task) -> Imagery:
    if isinstance(task.archive, EarthEngineArchive):
        return earth_engine_imagery(tile, grid, task.wanted, task.archive)
    return stac_imagery(tile, grid, task.wanted, task.archive)


def _with_retries(task: Task, fetch: Callable[[], Imagery]) -> Imagery:
    for attempt in range(task.attempts):
        try:
            return fetch()
        except ArchiveError:
            if attempt + 1 == task.attempts:
                raise
            time.sleep(task.back_off_s * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("attempts is positive")


def _columns(tile: LabelTile, grid: Grid) -> dict[str, str]:
    return {
        "tile_id": tile.tile_id,
        "split": tile.split,
        "lon": repr(tile.lon),
        "lat": repr(tile.lat),
        "date": tile.date,
        "annotator": tile.annotator,
        "height": str(grid.height),
        "width": str(grid.width),
        "hemisphere": tile.hemisphere,
        "biome": "" if tile.biome is None else str(tile.biome),
    }


def _by_threads(tiles: Sequence[LabelTile], task: Task, output: Path, workers: int) -> Iterator[dict[str, Any]]:
    """Entries as they come. A few tiles are in flight, so that stopping does not wait for all."""
    pool = ThreadPoolExecutor(workers)
    flying: set[Future] = set()
    try:
        for tile in tiles:
            flying.add(pool.submit(acquire_tile, tile, task, output))
            if len(flying) >= workers:
                landed, flying = wait(flying, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in landed)
        yield from (future.result() for future in wait(flying).done)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _by_beam(
    tiles: Sequence[LabelTile], task: Task, output: Path, arguments: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Entries after the pipeline has run. Its workers leave them as files, so that a pipeline that breaks loses none."""
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise ValueError("--runner beam needs apache-beam: pip install 'specsar_jax[beam]'") from None
    folder = output.resolve()
    try:
        with beam.Pipeline(options=PipelineOptions(list(arguments))) as pipeline:
            # Reshuffled, or the runner fuses all tiles onto the worker that lists them.
            _ = pipeline | beam.Create(tiles) | beam.Reshuffle() | beam.Map(_acquire_and_leave_entry, task, folder)
    finally:
        yield from left_entries(folder)


def _acquire_and_leave_entry(tile: LabelTile, task: Task, output: Path) -> None:
    leave_entry(output, acquire_tile(tile, task, output))


def _settings(task: Task) -> dict[str, Any]:
    """Whatever decides on a pixel, as JSON has it."""
    archive = {k: v for k, v in dataclasses.asdict(task.archive).items() if k not in ("timeout_s", "project")}
    settings = {"source": type(task.archive).__name__, "archive": archive, "wanted": dataclasses.asdict(task.wanted)}
    return json.loads(json.dumps(settings))


def _summary(entries: Sequence[dict], wanted: int, before: int) -> str:
    count = Counter(entry["status"] for entry in entries)
    parts = [f"{count[status]} {status}" for status in STATUSES] + [f"{wanted - len(entries)} not yet tried"]
    scenes = [int(entry["columns"]["s1_scenes"]) for entry in entries if entry["status"] == "done"]
    per_tile = (
        f"; Sentinel-1 scenes a tile: {min(scenes)} to {max(scenes)}, mean {np.mean(scenes):.1f}" if scenes else ""
    )
    return f"{wanted} tiles: {', '.join(parts)} ({before} from before){per_tile}"


def _parser() -> Parser:
    parser = Parser(
        "Fetches Sentinel-2 and Sentinel-1 for Dynamic World's labels. Started again, it does what is missing.",
        "python -m tfds_dwplus.acquire --labels pangaea/ --output tiles/ --workers 16",
    )
    add = parser.add_argument
    add(
        "--labels",
        type=Path,
        nargs="+",
        required=True,
        help="zips of PANGAEA 933475 or Zenodo 4766508, or folders of them",
    )
    add("--workbook", type=Path, help="v1_dw_tile_metadata_for_public_release.xlsx: Sentinel-2 products")
    add("--output", type=Path, required=True, help="folder of tiles")
    add("--source", choices=("stac", "earthengine"), default="stac", help="kind of archive")
    add_archive_options(parser)
    add("--s2_bands", default=",".join(Wanted.s2_bands), help="bands to fetch")
    add(
        "--s2_window_days",
        type=int,
        default=Wanted.s2_window_days,
        help="about the label's date, if its product is not known",
    )
    add("--s1_window_days", type=int, default=Wanted.s1_window_days, help="before and after the label's date")
    add("--earth_engine_project", default="", help="Google Cloud project, for --source earthengine")
    add("--workers", type=int, default=4, help="tiles at a time, as threads that mostly wait for the network")
    add("--retries", type=int, default=3, help="further attempts where the archive does not answer")
    add("--limit", type=int, help="only the first so many tiles")
    add("--runner", choices=("threads", "beam"), default="threads", help="this machine, or Apache Beam")
    add("--beam_args", default="", help="pipeline options, as --beam_args='--runner=FlinkRunner --parallelism=50'")
    return parser


if __name__ == "__main__":
    run(main)
