"""Record which tiles of a folder are acquired, so that an interrupted run can be resumed; write their files.

Enters: entries, one dictionary per tile: `tile_id`, `status` (done, skipped, failed), and `reason` or the `columns` of
tiles.csv. Leaves: `manifest.jsonl` with the settings in the first line and an entry in each further line (the last entry
of a tile counts, and the last settings); the rasters; tiles.csv. Files appear under their names when they are complete.
"""

import contextlib
import csv
import dataclasses
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import rasterio
from jaxtyping import Shaped

from tfds_dwplus import bands
from tfds_dwplus.files.outputs import written_whole
from tfds_dwplus.imagery.acquisitions import Imagery
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.labels.label_files import Label
from tfds_dwplus.labels.published import LabelTile
from tfds_dwplus.tiles.tile_files import COLUMNS, TileRecord


@contextlib.contextmanager
def open_manifest(output: Path, settings: dict[str, Any]) -> Iterator[tuple[dict[str, dict], Callable[[dict], None]]]:
    """Opens and locks the manifest of a folder. Gives the entries by tile id, and a function that adds an entry.

    Raises:
        ValueError: another process uses the folder, or it was made with other settings.
    """
    path = output / "manifest.jsonl"
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another acquire is at work on {output}; wait for it, or give another --output") from None
        entries: dict[str, dict] = {}
        lines = _whole_lines(file)
        made = next((line["settings"] for line in reversed(lines) if "settings" in line), None)
        entries |= {line["tile_id"]: line for line in lines if "tile_id" in line}
        if any(output.glob("*/*.tif")) or any(output.glob("entries/*.json")):
            if made is None:
                raise ValueError(
                    f"{output} holds tiles but no {path.name}, so is not known to be of one source; give another --output"
                )
            _check_settings(output, made, settings, [entry for entry in entries.values() if entry["status"] == "done"])
            if made != settings:
                _add_line(file, {"settings": settings})
        elif made != settings:  # the folder has no tiles yet, so new settings may replace the old ones
            entries.clear()
            file.truncate(0)
            _add_line(file, {"settings": settings})

        def add_entry(entry: dict) -> None:
            _add_line(file, entry)
            entries[entry["tile_id"]] = entry

        for left in (*output.glob(".*.partial"), *output.glob("*/.*.partial")):
            left.unlink()  # of a killed process
        for entry in collect_entry_files(output):
            add_entry(entry)
        yield entries, add_entry


def is_complete(output: Path, tile: LabelTile, entry: dict | None, s2_offset_in_doubt: int | None = None) -> bool:
    """Whether a tile needs no more work: it is done and its rasters are on disk.

    A skipped one is asked for again, and one that was done in doubt about its offset once `s2_offset_in_doubt` is given.
    """
    if entry is None or entry["status"] != "done":
        return False
    if s2_offset_in_doubt is not None and any("--s2_offset_in_doubt" in line for line in entry.get("warnings", ())):
        return False
    return all((output / kind / f"{tile.tile_id}.tif").is_file() for kind in ("s2", "s1", "label"))


def write_rasters(
    output: Path, tile: LabelTile, grid: Grid, label: Label, imagery: Imagery, s2_bands: tuple[str, ...]
) -> None:
    """Writes the rasters of a tile in the layout of `tile_files`, and each vote in a folder of its own. Raises OSError."""
    votes = {f"label_{vote}": codes[..., None] for vote, codes in label.votes.items()}
    for kind, values, names in (
        ("s2", imagery.s2, s2_bands),
        ("s1", imagery.s1, bands.S1_BANDS),
        ("label", label.codes[..., None], ("label",)),
        *((folder, codes, ("label",)) for folder, codes in votes.items()),
    ):
        (output / kind).mkdir(exist_ok=True)
        with written_whole(output / kind / f"{tile.tile_id}.tif") as partial:
            partial.write_bytes(_geotiff(values, names, grid))


def write_table(output: Path, entries: Sequence[dict], s1_orbit: str) -> None:
    """Writes tiles.csv: one row per finished tile, sorted by tile id.

    Where the wanted `s1_orbit` leaves a choice, as 'descending_or_ascending', its column tells that and what was taken.
    """
    rows = [entry["columns"] for entry in entries if entry["status"] == "done"]
    if "_or_" in s1_orbit:
        rows = [row | {"s1_orbit": f"{s1_orbit}: {row['s1_orbit']}"} for row in rows]
    known = [field.name for field in dataclasses.fields(TileRecord)]
    columns = (*COLUMNS, *(name for name in known if name not in COLUMNS))
    with written_whole(output / "tiles.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["tile_id"]))


def write_entry_file(output: Path, entry: dict[str, Any]) -> None:
    """Writes an entry to a file of its own, while another process holds the manifest."""
    (output / "entries").mkdir(exist_ok=True)
    with written_whole(output / "entries" / f"{entry['tile_id']}.json") as partial:
        partial.write_text(json.dumps(entry), encoding="utf-8")


def collect_entry_files(output: Path) -> Iterator[dict[str, Any]]:
    """Reads the entry files of Beam's workers, and removes each after it is used."""
    for path in sorted((output / "entries").glob("*.json")):
        yield json.loads(path.read_bytes())
        path.unlink()
    with contextlib.suppress(OSError):
        (output / "entries").rmdir()


def _whole_lines(file: TextIO) -> list[dict]:
    """Reads the manifest. Removes an incomplete last line from the file."""
    file.seek(0)
    lines, end = [], 0
    for line in iter(file.readline, ""):
        if not line.endswith("\n"):
            break
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            raise ValueError(f"{file.name} is damaged at line {len(lines) + 1}; remove that line") from None
        end = file.tell()
    file.truncate(end)
    file.seek(0, os.SEEK_END)
    return lines


def _add_line(file: TextIO, line: dict) -> None:
    file.write(json.dumps(line) + "\n")
    file.flush()


def _check_settings(output: Path, made: dict, given: dict, done: Sequence[dict]) -> None:
    """Raises a ValueError that names the different settings: one folder must not mix tiles of two sources.

    What decides only which tiles are skipped may change, if the finished tiles would be the same.
    """
    made, given = _flat(made), _flat(given)
    differ = [
        f"{key} {made.get(key)!r}, and is now to be with {given.get(key)!r}"
        for key in sorted(made.keys() | given.keys())
        if made.get(key) != given.get(key) and not _may_change(key, made.get(key), given.get(key), done)
    ]
    if differ:
        orbit = (
            " (the first direction of --s1_orbit X_or_Y may be that of the folder)" if "s1_orbit" in differ[0] else ""
        )
        raise ValueError(
            f"{output} was acquired with {'; with '.join(differ)}; tiles of two kinds are not mixed: use the same settings or "
            f"another --output{orbit}"
        )


def _may_change(key: str, made: Any, given: Any, done: Sequence[dict]) -> bool:
    """Whether the finished tiles would be the same with another value of a setting."""
    if key == "wanted.s1_orbit":
        return all(entry["columns"].get("s1_orbit") == str(given).partition("_or_")[0] for entry in done)
    # Tiles that were done in doubt are done again, see `is_complete`.
    return key in ("wanted.s2_window_days", "wanted.s1_window_days") or (
        key == "wanted.s2_offset_in_doubt" and made is None
    )


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    return {
        name: leaf
        for key, value in tree.items()
        for name, leaf in (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        ).items()
    }


def _geotiff(values: Shaped[np.ndarray, "height width band"], names: tuple[str, ...], grid: Grid) -> bytes:
    """Makes a GeoTIFF in memory. Python then writes it and reports a full disk, which GDAL would not."""
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            height=grid.height,
            width=grid.width,
            count=values.shape[2],
            dtype=values.dtype,
            crs=grid.crs,
            transform=grid.transform,
            compress="deflate",
            predictor=3 if values.dtype.kind == "f" else 2,
            interleave="band",
        ) as raster:
            raster.write(np.moveaxis(values, -1, 0))
            raster.descriptions = tuple(names)
        return memory.read()
