"""Acquire imagery for label tiles or for drawn ones: fetch, write and record each tile, on threads or on Apache Beam.

Enters: label tiles, or tiles drawn in a region, and a `Task` that names the archive and the wanted imagery. Leaves: a folder in the
layout of `tile_files`, with further columns in tiles.csv, and the manifest.

A rerun does what is missing, failed or was skipped, as the archive may have got it since. The folder ends up the same, however
often a run was stopped. `acquire_tile` does one tile; threads or Beam's workers call it.
"""

import dataclasses
import json
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rasterio.errors import NotGeoreferencedWarning

from tfds_dwplus import bands
from tfds_dwplus.command_line import progress
from tfds_dwplus.files.addresses import compared_tree, shown_in
from tfds_dwplus.imagery.acquisitions import ArchiveError, Imagery, ItemError, NoImageryError, Wanted
from tfds_dwplus.imagery.earth_engine import EarthEngineArchive, check_login, earth_engine_imagery
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.stac import stac_imagery
from tfds_dwplus.imagery.stac_api import StacArchive, check_collections
from tfds_dwplus.labels.label_files import read_label
from tfds_dwplus.labels.published import LabelTile
from tfds_dwplus.places.clear_imagery import clear_imagery
from tfds_dwplus.places.drawn_tile import Choice, DrawnTile
from tfds_dwplus.tiles.labelling.class_table import NAME, read_classes
from tfds_dwplus.tiles.manifest import (
    collect_entry_files,
    is_complete,
    open_manifest,
    write_entry_file,
    write_rasters,
    write_table,
)

STATUSES = ("done", "skipped", "failed")

Answer = TypeVar("Answer")


@dataclasses.dataclass(frozen=True)
class Task:
    """How to acquire tiles; the same for a whole folder."""

    archive: StacArchive | EarthEngineArchive
    wanted: Wanted
    attempts: int = 4
    """How often to ask an archive that does not answer."""
    back_off_s: float = 2.0
    """Seconds to wait before the second attempt, times 0.5 to 1.5 at random. Doubles with each further attempt."""
    choice: Choice | None = None
    """How the tiles were drawn and their scenes are chosen; None for label tiles."""

    @property
    def sensors(self) -> tuple[str, ...]:
        """Returns the sensors to fetch, s2 and s1."""
        return self.choice.sensors if self.choice else ("s2", "s1")


def acquire(
    tiles: Sequence[LabelTile],
    task: Task,
    output: Path,
    *,
    workers: int = 1,
    beam_arguments: Sequence[str] | None = None,
) -> None:
    """Acquires the missing tiles of a folder, writes tiles.csv and prints the counts, by status and by reason.

    Args:
        tiles: the tiles that the folder should hold.
        task: how to acquire them.
        output: the folder; it is created if it does not exist.
        workers: number of threads.
        beam_arguments: pipeline options. If given, Beam does the work; its machines must all see `output` and the labels.

    Raises:
        ValueError: the archive does not answer, the folder was made with other settings, has other classes than the labels or is in
            use, tiles failed, or no tile has imagery. Finished tiles are kept.
        OSError: the folder cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    if task.choice is None and read_classes(output) != bands.DYNAMIC_WORLD:
        raise ValueError(
            f"{output / NAME} has other classes than Dynamic World's, of which the labels are; give another --output"
        )
    with open_manifest(output, _settings(task)) as (entries, add_entry):
        in_doubt = task.wanted.s2_offset_in_doubt
        kinds = (*task.sensors, *(() if task.choice else ("label",)))
        missing = [tile for tile in tiles if not is_complete(output, tile, entries.get(tile.tile_id), in_doubt, kinds)]
        if missing:
            check_archive(task)
        before = len(tiles) - len(missing)
        try:
            # Warnings are filtered here for all threads: a thread that restores its own filter would undo another's.
            with warnings.catch_warnings(), progress(total=len(tiles), initial=before, unit="tile") as line:
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                results = _by_beam if beam_arguments is not None else _by_threads
                for entry in results(missing, task, output, beam_arguments or workers):
                    add_entry(entry)
                    line.update()
                    for warning in entry.get("warnings", ()):
                        line.write(f"warning: tile {entry['tile_id']}: {warning}")
        finally:
            # Also if the run is stopped, so that the finished tiles can be used.
            chosen = [entries[tile.tile_id] for tile in tiles if tile.tile_id in entries]
            write_table(output, list(entries.values()), task.wanted.s1_orbit if "s1" in task.sensors else "")
            print(_summary(chosen, len(tiles), before))
    failed = [entry for entry in chosen if entry["status"] == "failed"]
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(tiles)} tiles failed, the first one {failed[0]['tile_id']}: {failed[0]['reason']}; all are "
            f"listed in {output / 'manifest.jsonl'}, what is done is kept: run the same command again to try them again"
        )
    if chosen and all(entry["status"] == "skipped" for entry in chosen):
        raise ValueError(
            f"no tile of {len(chosen)} has imagery, the first one {chosen[0]['tile_id']}: {chosen[0]['reason']}"
        )


def acquire_tile(tile: LabelTile, task: Task, output: Path) -> dict[str, Any]:
    """Acquires one tile, writes its rasters, and gives its entry for the manifest.

    Errors of the tile or the archive go into the entry and are not raised.

    Raises:
        OSError: the folder cannot be written, which affects all tiles.
    """
    entry = {"tile_id": tile.tile_id}

    def failed(kind: str, reason: str) -> dict[str, Any]:
        return entry | {"status": "failed", "kind": kind, "reason": shown_in(" ".join(reason.split()))}

    try:
        label = None if isinstance(tile, DrawnTile) else read_label(tile)
    except ValueError as error:
        return failed("the label cannot be read", str(error))
    try:
        grid = Grid.parse(label.crs, label.transform, *label.codes.shape) if label else tile.grid
        imagery = with_retries(task, lambda: _imagery(tile, grid, task))
    except NoImageryError as error:
        return entry | {"status": "skipped", "kind": error.kind, "reason": str(error)}
    except (ArchiveError, ItemError) as error:
        return failed(error.kind, str(error))
    except ValueError as error:
        return failed("the settings do not fit the archive", str(error))
    except Exception as error:  # an unexpected error of one tile must not stop the others
        return failed(f"unexpected: {type(error).__name__}", f"{type(error).__name__}: {error}")
    write_rasters(output, tile, grid, label, imagery, task.wanted.s2_bands)
    entry |= {"status": "done", "columns": _columns(tile, grid) | imagery.columns}
    return entry | ({"warnings": list(map(shown_in, imagery.warnings))} if imagery.warnings else {})


def check_archive(task: Task) -> None:
    """Raises a ValueError if the archive does not answer, or lacks what is wanted."""
    if isinstance(task.archive, EarthEngineArchive):
        check_login(task.archive)
    else:
        check_collections(task.archive)


def _imagery(tile: LabelTile, grid: Grid, task: Task) -> Imagery:
    if isinstance(tile, DrawnTile):
        return clear_imagery(tile, task.wanted, task.choice, task.archive)
    if isinstance(task.archive, EarthEngineArchive):
        return earth_engine_imagery(tile, grid, task.wanted, task.archive)
    return stac_imagery(tile, grid, task.wanted, task.archive)


def with_retries(task: Task, fetch: Callable[[], Answer]) -> Answer:
    """Asks an archive; again if it does not answer. Raises an ArchiveError after the last attempt."""
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
    """Gives entries as tiles finish. Only `workers` tiles are submitted at a time, so that stopping is quick."""
    pool = ThreadPoolExecutor(workers)
    running: set[Future] = set()
    try:
        for tile in tiles:
            running.add(pool.submit(acquire_tile, tile, task, output))
            if len(running) >= workers:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        yield from (future.result() for future in wait(running).done)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _by_beam(
    tiles: Sequence[LabelTile], task: Task, output: Path, arguments: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Gives entries after the pipeline has run. Its workers write them to files, so that a failed pipeline loses none."""
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise ValueError("--runner beam needs apache-beam: pip install 'specsar_jax[beam]'") from None
    folder = output.resolve()
    try:
        with beam.Pipeline(options=PipelineOptions(list(arguments))) as pipeline:
            # Without a reshuffle the runner gives all tiles to the worker that lists them.
            _ = pipeline | beam.Create(tiles) | beam.Reshuffle() | beam.Map(_acquire_to_entry_file, task, folder)
    finally:
        yield from collect_entry_files(folder)


def _acquire_to_entry_file(tile: LabelTile, task: Task, output: Path) -> None:
    write_entry_file(output, acquire_tile(tile, task, output))


def _settings(task: Task) -> dict[str, Any]:
    """All settings that affect a pixel, as JSON stores them; of addresses, what `addresses.compared` keeps."""
    archive = {k: v for k, v in dataclasses.asdict(task.archive).items() if k not in ("timeout_s", "project")}
    settings = {"source": type(task.archive).__name__, "archive": archive, "wanted": dataclasses.asdict(task.wanted)}
    settings |= {"region": dataclasses.asdict(task.choice)} if task.choice else {}
    return compared_tree(json.loads(json.dumps(settings)))


def _summary(entries: Sequence[dict], wanted: int, before: int) -> str:
    count = Counter(entry["status"] for entry in entries)
    parts = [f"{count[status]} {status}" for status in STATUSES] + [f"{wanted - len(entries)} not yet tried"]
    done = [entry["columns"] for entry in entries if entry["status"] == "done"]
    scenes = [int(columns["s1_scenes"]) for columns in done if columns.get("s1_source")]
    per_tile = (
        f"; Sentinel-1 scenes a tile: {min(scenes)} to {max(scenes)}, mean {np.mean(scenes):.1f}" if scenes else ""
    )
    lines = [f"{wanted} tiles: {', '.join(parts)} ({before} from before){per_tile}"]
    reasons = [(entry["status"], entry.get("kind", "other reasons")) for entry in entries if entry["status"] != "done"]
    for (status, kind), number in Counter(reasons).most_common():
        first = next(
            entry for entry in entries if (entry["status"], entry.get("kind", "other reasons")) == (status, kind)
        )
        lines.append(f"  {number} {status}, {kind}; the first one is {first['tile_id']}: {first['reason']}")
    return "\n".join(lines)
