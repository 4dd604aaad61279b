"""Record which tiles of a folder are acquired, so that an interrupted run can be resumed; write their files.

Enters: entries, one dictionary per tile: `tile_id`, `status` (done, skipped, failed), and `reason` or the `columns` of
tiles.csv. Leaves: `manifest.jsonl` with the settings in the first line and an entry in each further line (the last entry
of a tile counts, and the last settings); the rasters; tiles.csv. Files appear under their names when they are complete.
"""

import contextlib
import csv
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from tfds_dwplus import bands
from tfds_dwplus.files.addresses import compared_tree
from tfds_dwplus.files.outputs import locked, remove_partials, write_whole, written_whole
from tfds_dwplus.files.raster_files import geotiff
from tfds_dwplus.files.strangers import a_name, a_text, an_object, one_line, parse_json, read_csv, read_object, texts
from tfds_dwplus.imagery.acquisitions import Imagery
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.labels.label_files import Label
from tfds_dwplus.labels.published import LabelTile
from tfds_dwplus.tiles.labelling.folder import CLOUD, is_of_a_network
from tfds_dwplus.tiles.tile_files import COLUMNS, PROBABILITY, TileRecord

MOST_LINE = 4 << 20
"""Characters of a line: a tile may name hundreds of scenes, and warn of each."""


@contextlib.contextmanager
def open_manifest(output: Path, settings: dict[str, Any]) -> Iterator[tuple[dict[str, dict], Callable[[dict], None]]]:
    """Opens and locks the manifest of a folder. Gives the entries by tile id, and a function that adds an entry.

    Raises:
        ValueError: another process uses the folder, or it was made with other settings.
    """
    path = output / "manifest.jsonl"
    # A log, to which each tile adds a line, and so not written whole: a line that was cut goes when it is opened again.
    with (
        locked(path, output, advice="wait for it, or give another --output") as opened,
        os.fdopen(os.dup(opened), "a+", encoding="utf-8") as file,
    ):
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

        for folder in (output, *(path for path in output.iterdir() if path.is_dir() and not path.is_symlink())):
            remove_partials(folder)
        for entry in collect_entry_files(output):
            add_entry(entry)
        yield entries, add_entry


def is_complete(
    output: Path,
    tile: LabelTile,
    entry: dict | None,
    s2_offset_in_doubt: int | None = None,
    kinds: Sequence[str] = ("s2", "s1", "label"),
) -> bool:
    """Whether a tile needs no more work: it is done and its rasters are on disk.

    A skipped one is asked for again, and one that was done in doubt about its offset once `s2_offset_in_doubt` is given.
    """
    if entry is None or entry["status"] != "done":
        return False
    if s2_offset_in_doubt is not None and any("--s2_offset_in_doubt" in line for line in entry.get("warnings", ())):
        return False
    return all((output / kind / f"{tile.tile_id}.tif").is_file() for kind in kinds)


def write_rasters(
    output: Path, tile: LabelTile, grid: Grid, label: Label | None, imagery: Imagery, s2_bands: tuple[str, ...]
) -> None:
    """Writes the rasters of a tile in the layout of `tile_files`, and each vote in a folder of its own. Raises OSError.

    Without a label, one that a network made of older pixels of the tile is removed; one of people stays. A sensor without bands has
    no file. A cloud mask is written where `labelling` looks for it.
    """
    codes = {}
    if label is None:
        if is_of_a_network(output / "label" / f"{tile.tile_id}.tif"):
            for kind in ("label", PROBABILITY):
                (output / kind / f"{tile.tile_id}.tif").unlink(missing_ok=True)
    else:
        codes = {"label": label.codes} | {f"label_{vote}": codes for vote, codes in label.votes.items()}
    codes |= {} if imagery.cloud is None else {CLOUD: imagery.cloud}
    for kind, values, names in (
        ("s2", imagery.s2, s2_bands),
        ("s1", imagery.s1, bands.S1_BANDS),
        *((kind, values[..., None], (kind.partition("_")[0],)) for kind, values in codes.items()),
    ):
        if not values.shape[-1]:
            continue
        (output / kind).mkdir(exist_ok=True)
        predictor = 3 if values.dtype.kind == "f" else 2
        content = geotiff(
            np.moveaxis(values, -1, 0),
            descriptions=names,
            crs=grid.crs,
            transform=grid.transform,
            compress="deflate",
            predictor=predictor,
            interleave="band",
        )
        write_whole(output / kind / f"{tile.tile_id}.tif", content)


def write_table(output: Path, entries: Sequence[dict], s1_orbit: str) -> None:
    """Writes tiles.csv: one row per finished tile, sorted by tile id.

    Where the wanted `s1_orbit` leaves a choice, as 'descending_or_ascending', its column tells that and what was taken. A tile that
    came without a label, and has one now, keeps the annotator that the table names.
    """
    rows = [dict(entry["columns"]) for entry in entries if entry["status"] == "done"]
    if "_or_" in s1_orbit:
        rows = [row | {"s1_orbit": f"{s1_orbit}: {row.get('s1_orbit', '')}"} for row in rows]
    if later := [row for row in rows if not row.get("annotator") and _label(output, row).is_file()]:
        named = {row["tile_id"]: row.get("annotator", "") for row in _table(output)}
        for row in later:
            row["annotator"] = named.get(row["tile_id"], "")
    known = [field.name for field in dataclasses.fields(TileRecord)]
    columns = (*COLUMNS, *(name for name in known if name not in COLUMNS))
    with written_whole(output / "tiles.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["tile_id"]))


def _label(output: Path, row: dict[str, str]) -> Path:
    return output / "label" / f"{row['tile_id']}.tif"


def _table(output: Path) -> list[dict[str, str]]:
    path = output / "tiles.csv"
    header, rows = read_csv(path) if path.is_file() else ([], [])
    return rows if "tile_id" in header else []


def write_entry_file(output: Path, entry: dict[str, Any]) -> None:
    """Writes an entry to a file of its own, while another process holds the manifest."""
    (output / "entries").mkdir(exist_ok=True)
    write_whole(output / "entries" / f"{entry['tile_id']}.json", json.dumps(entry))


def collect_entry_files(output: Path) -> Iterator[dict[str, Any]]:
    """Reads the entry files of Beam's workers, and removes each after it is used."""
    for path in sorted((output / "entries").glob("*.json")):
        try:
            entry = read_object(path)
            _check_line(entry)
            a_name(entry.get("tile_id"), "tile_id")
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged ({one_line(error)}); remove it, and its tile is acquired again"
            ) from None
        yield entry
        path.unlink()
    with contextlib.suppress(OSError):
        (output / "entries").rmdir()


def _whole_lines(file: TextIO) -> list[dict]:
    """Reads the manifest. Removes an incomplete last line from the file."""
    file.seek(0)
    lines, end = [], 0
    while True:
        try:
            line = file.readline(MOST_LINE + 1)
            if len(line) > MOST_LINE:
                raise ValueError(f"more than {MOST_LINE} characters")
            if not line.endswith("\n"):
                break
            tree = an_object(parse_json(line, "it"), "it")
            _check_line(tree)
        except ValueError as error:  # one that is no UTF-8 is of these too
            raise ValueError(
                f"{file.name} is damaged at line {len(lines) + 1} ({one_line(error, 120)}); remove that line"
            ) from None
        lines.append(tree)
        end = file.tell()
    file.truncate(end)
    file.seek(0, os.SEEK_END)
    return lines


def _check_line(line: dict[str, Any]) -> None:
    """Raises ValueError unless a line has the types that are read of it: settings, or the entry of a tile."""
    if "settings" in line:
        an_object(line["settings"], "settings")
    if "tile_id" not in line:
        return
    a_name(line["tile_id"], "tile_id")
    status = a_text(line.get("status"), "status")
    for key in ("kind", "reason"):
        a_text(line.get(key, ""), key)
    texts(line.get("warnings", []), "warnings")
    if status in ("failed", "skipped") and "reason" not in line:
        raise ValueError(f"a {status} tile has no reason")
    if status == "done":
        columns = an_object(line.get("columns"), "columns")
        for key, value in columns.items():
            a_text(value, key)
        if columns.get("tile_id") != line["tile_id"] or not re.fullmatch(r"\d{1,9}", columns.get("s1_scenes", "")):
            raise ValueError("a finished tile has not its own id and number of scenes")


def _add_line(file: TextIO, line: dict) -> None:
    file.write(json.dumps(line) + "\n")
    file.flush()


def _check_settings(output: Path, made: dict, given: dict, done: Sequence[dict]) -> None:
    """Raises a ValueError that names the different settings: one folder must not mix tiles of two sources.

    What decides only which tiles are skipped may change, if the finished tiles would be the same.
    """
    if ("region" in made) != ("region" in given):
        kinds = ("a region", "labels") if "region" in made else ("labels", "a region")
        raise ValueError(f"{output} holds tiles of {kinds[0]}, not of {kinds[1]}; give another --output")
    made, given = _flat(compared_tree(made)), _flat(given)  # older manifests have whole addresses
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
