"""The folder that `acquire` fills: who has done what in it, so that work which was stopped goes on.

Enters: entries, a dictionary a tile: `tile_id`, `status` (done, skipped, failed), the `reason` or the `columns` of tiles.csv. Leaves:
`manifest.jsonl`, first the settings, then a line an entry, of which a tile's last one counts; the rasters; tiles.csv.
Files appear under their names when they are whole.
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
from tfds_dwplus.command_line import written_whole
from tfds_dwplus.imagery import Grid, Imagery
from tfds_dwplus.labels import Label, LabelTile
from tfds_dwplus.tile_files import COLUMNS, TileRecord


@contextlib.contextmanager
def opened(output: Path, settings: dict[str, Any]) -> Iterator[tuple[dict[str, dict], Callable[[dict], None]]]:
    """The entries by tile id, and what adds one. Holds the folder for this process alone.

    Raises:
        ValueError: another process has the folder, or it was made with other settings.
    """
    path = output / "manifest.jsonl"
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another acquire is at work on {output}; wait for it, or give another --output") from None
        entries: dict[str, dict] = {}
        lines = _whole_lines(file)
        made = lines[0].get("settings") if lines else None
        if any(output.glob("*/*.tif")) or any(output.glob("entries/*.json")):
            if made is None:
                raise ValueError(
                    f"{output} holds tiles but no {path.name}, so is not known to be of one source; give another --output"
                )
            _check_settings(output, made, settings)
        elif made != settings:  # there is no tile yet that they would not fit
            lines = []
            file.truncate(0)
            _add_line(file, {"settings": settings})
        entries |= {line["tile_id"]: line for line in lines[1:]}

        def note(entry: dict) -> None:
            _add_line(file, entry)
            entries[entry["tile_id"]] = entry

        for left in (*output.glob(".*.partial"), *output.glob("*/.*.partial")):
            left.unlink()  # of a process that was killed
        for entry in left_entries(output):
            note(entry)
        yield entries, note


def is_there(output: Path, tile: LabelTile, entry: dict | None) -> bool:
    """Whether a tile needs no more work: it was skipped, or done and its rasters are on disk."""
    if entry is None or entry["status"] == "failed":
        return False
    kinds = ("s2", "s1", "label")
    return entry["status"] == "skipped" or all((output / kind / f"{tile.tile_id}.tif").is_file() for kind in kinds)


def write_rasters(
    output: Path, tile: LabelTile, grid: Grid, label: Label, imagery: Imagery, s2_bands: tuple[str, ...]
) -> None:
    """Writes the rasters of a tile in the layout of `tile_files`, a held-out tile's votes beside its label. Raises OSError."""
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


def write_table(output: Path, entries: Sequence[dict]) -> None:
    """tiles.csv: a row a tile that is done, by tile id."""
    rows = [entry["columns"] for entry in entries if entry["status"] == "done"]
    known = [field.name for field in dataclasses.fields(TileRecord)]
    columns = (*COLUMNS, *(name for name in known if name not in COLUMNS))
    with written_whole(output / "tiles.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["tile_id"]))


def leave_entry(output: Path, entry: dict[str, Any]) -> None:
    """Leaves an entry for `left_entries`, where another process has the manifest."""
    (output / "entries").mkdir(exist_ok=True)
    with written_whole(output / "entries" / f"{entry['tile_id']}.json") as partial:
        partial.write_text(json.dumps(entry), encoding="utf-8")


def left_entries(output: Path) -> Iterator[dict[str, Any]]:
    """What Beam's workers left; removed once it is taken over."""
    for path in sorted((output / "entries").glob("*.json")):
        yield json.loads(path.read_bytes())
        path.unlink()
    with contextlib.suppress(OSError):
        (output / "entries").rmdir()


def _whole_lines(file: TextIO) -> list[dict]:
    """The manifest so far; a last line that was cut short is taken off the file."""
    file.seek(0)
    lines, end = [], 0
    for line in iter(file.readline, ""):
        if not line.endswith("\n"):
            break
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            raise ValueError(f"{file.name} is damaged at line {len(lines) + 1}; take that line out") from None
        end = file.tell()
    file.truncate(end)
    file.seek(0, os.SEEK_END)
    return lines


def _add_line(file: TextIO, line: dict) -> None:
    file.write(json.dumps(line) + "\n")
    file.flush()


def _check_settings(output: Path, made: dict, given: dict) -> None:
    """Raises a ValueError that names the first setting which differs: tiles of two sources are not one data set."""
    made, given = _flat(made), _flat(given)
    for key in sorted(made.keys() | given.keys()):
        if made.get(key) != given.get(key):
            raise ValueError(
                f"{output} was acquired with {key} {made.get(key)!r}, and is now to be with {given.get(key)!r}; tiles of two kinds are "
                "not mixed: take the same settings or another --output"
            )


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    return {
        name: leaf
        for key, value in tree.items()
        for name, leaf in (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        ).items()
    }


def _geotiff(values: Shaped[np.ndarray, "height width band"], names: tuple[str, ...], grid: Grid) -> bytes:
    """A GeoTIFF in memory: a full disk is then Python's to tell, and GDAL's silence on it does no harm."""
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            height=grid.height,
            width=grid.width,
            count=values.shape[2],
            dtype=values.dtype,
            crs=grid.crs,
            transform=rasterio.Affine(*grid.transform),
            compress="deflate",
            predictor=3 if values.dtype.kind == "f" else 2,
            interleave="band",
        ) as raster:
            raster.write(np.moveaxis(values, -1, 0))
            raster.descriptions = tuple(names)
        return memory.read()
