"""Reads the tiles to label from a folder, and writes their labels, so that a run that was stopped goes on.

Enters: a folder in the layout of `tile_files`, with or without `label/`; it may hold `cloud/<tile_id>.tif`, uint8 on the tile's grid,
0 where the sky is clear. Leaves: `label/<tile_id>.tif`, `probability/<tile_id>.tif` on request, and the annotator in tiles.csv.

A label file says in its tags who made it, with what settings, and a digest of its codes. So no manifest can get lost: a rerun
reads what is done from the files, and a file without such tags, or whose codes somebody changed, is a label made by people.
"""

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jaxtyping import Bool, UInt8
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from tfds_dwplus import bands
from tfds_dwplus.files.outputs import locked, remove_partials, write_together, write_whole
from tfds_dwplus.files.raster_files import geotiff
from tfds_dwplus.files.strangers import a_count, an_object, one_line, parse_json, read_csv
from tfds_dwplus.imagery.grids import parse_crs
from tfds_dwplus.imagery.scene_files import open_raster
from tfds_dwplus.tiles.labelling import clouds, water
from tfds_dwplus.tiles.labelling.annotators import NETWORK
from tfds_dwplus.tiles.labelling.class_table import NAME, read_classes
from tfds_dwplus.tiles.labelling.pixels import WHOLE, Counts
from tfds_dwplus.tiles.tile_files import LABELLED_BY, PROBABILITY, Tile, TileRecord
from tfds_dwplus.tiles.tile_pixels import check_same_grid, read_bands

CLOUD = "cloud"
"""Folder of cloud masks."""

_SETTINGS, _COUNTS, _DIGEST = "label_settings", "label_counts", "label_sha256"
"""Tags of a label file, beside `LABELLED_BY`."""

_OWN = "classes"
"""Key of the counts by class, where they are not Dynamic World's."""


@dataclasses.dataclass(frozen=True)
class Labelled:
    """What a label file says of itself."""

    labelled_by: str
    settings: dict[str, Any]
    """All that decides a pixel."""
    counts: Counts
    digest: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be done in a folder."""

    todo: list[TileRecord]
    done: list[Labelled]
    kept: int
    """Tiles with labels of people, which are left alone."""


def check_folder_classes(folder: Path, classes: bands.Classes) -> None:
    """Raises a ValueError if labels of a network of these classes would stand beside labels of others in a folder of tiles.

    It does if its `classes.csv` names others, or if it has none, so that they are Dynamic World's, and labels.
    """
    there = read_classes(folder)
    if there.names == classes.names:
        return
    ours, theirs = (one_line(", ".join(of.names), 200) for of in (classes, there))
    if there != bands.DYNAMIC_WORLD:
        raise ValueError(
            f"{folder / NAME} has the classes {theirs}, the network has {ours}; take a network of the same classes, or label a copy of the "
            f"folder without {NAME} and label/"
        )
    if any((folder / "label").glob("*.tif")):
        raise ValueError(
            f"{folder} has labels of the classes {theirs}, the network has {ours}; move {folder / 'label'} away, or label a copy of the folder "
            "without it"
        )


@contextlib.contextmanager
def folder_claimed(folder: Path) -> Iterator[None]:
    """Keeps other processes from labelling a folder, or acquiring tiles into it, and removes what killed ones left.

    Raises:
        ValueError: another process is at work there.
        OSError: nothing can be written there.
    """
    with contextlib.ExitStack() as stack:
        if (folder / "manifest.jsonl").is_file():  # `acquire` writes tiles.csv too
            stack.enter_context(locked(folder / "manifest.jsonl", folder))
        stack.enter_context(locked(folder / ".label.lock", folder, temporary=True))
        for place in (folder, folder / "label", folder / PROBABILITY):
            if place.is_dir():
                remove_partials(place)
        yield


def plan(
    folder: Path,
    records: Sequence[TileRecord],
    labelled_by: str,
    settings: dict[str, Any],
    *,
    overwrite: bool = False,
    only_unlabelled: bool = False,
) -> Plan:
    """Finds out which tiles of a folder are still to be labelled.

    Args:
        folder: the folder.
        records: its tiles.
        labelled_by: the network, as it is to stand in the column annotator.
        settings: all that decides a pixel.
        overwrite: whether labels that networks made with other settings are made again.
        only_unlabelled: whether tiles with labels of people are left as they are; if not, they are an error.

    Raises:
        ValueError: a tile has a label of people, or one of a network with other settings, and nothing is said about it.
    """
    todo, done, people, others = [], [], [], []
    for record in records:
        path = _label_path(folder, record)
        if not path.exists():
            todo.append(record)
            continue
        found = read_facts(path) if _by_a_network(record) else None
        if found is None:
            people.append(path)
        elif found.settings == settings and _has_shares(folder, record, settings):
            done.append(found)
        elif not overwrite:
            others.append((path, found))
        elif found.digest != _digest(_codes(path)):
            people.append(path)
        else:
            todo.append(record)
    if people and not only_unlabelled:
        raise ValueError(
            f"{len(people)} of {len(records)} tiles have labels that this command did not make, or that were changed since, the first one "
            f"{people[0]}; they are never overwritten: give --only_unlabelled to label the other tiles, or move {folder / 'label'} away"
        )
    if others:
        path, found = others[0]
        raise ValueError(
            f"{len(others)} of {len(records)} tiles are labelled already, the first one {path} by {found.labelled_by}"
            f"{_differences(found.settings, settings)}; give --overwrite to label them again by {labelled_by}, or use the same settings"
        )
    return Plan(todo, done, len(people))


def read_facts(path: Path) -> Labelled | None:
    """Reads what a label file says of itself; None if it says nothing, or something else than `write_labels` writes."""
    try:
        with open_raster(path) as raster:
            tags = raster.tags()
        settings = an_object(parse_json(tags[_SETTINGS], _SETTINGS), _SETTINGS)
        numbers = an_object(parse_json(tags[_COUNTS], _COUNTS), _COUNTS)
        by_class = (
            an_object(numbers[_OWN], _OWN) if _OWN in numbers else {name: numbers[name] for name in bands.CLASSES}
        )
        counts = Counts(
            *(a_count(numbers[name], name) for name in ("nodata", "cloud", "unsure")),
            tuple(a_count(number, name[:40]) for name, number in by_class.items()),
            a_count(numbers.get("dark_water", 0), "dark_water"),
        )
        labelled_by = tags[LABELLED_BY]
    except (KeyError, ValueError, RasterioError):
        return None
    return Labelled(labelled_by, settings, counts, tags.get(_DIGEST, "")) if labelled_by.startswith(NETWORK) else None


def is_of_a_network(path: Path) -> bool:
    """Whether a label file is one that `write_labels` wrote, and nobody has changed its codes since."""
    found = read_facts(path) if path.is_file() else None
    return found is not None and found.digest == _digest(_codes(path))


def write_labels(
    folder: Path,
    tile: Tile,
    codes: UInt8[np.ndarray, "height width"],
    shares: UInt8[np.ndarray, "height width class"] | None,
    labelled_by: str,
    settings: dict[str, Any],
    counts: Counts,
    classes: bands.Classes,
) -> None:
    """Writes the label of a tile, and its shares if there are some, on the tile's grid. The label comes last: with it the tile is done."""
    numbers = {"nodata": counts.nodata, "cloud": counts.cloud, "unsure": counts.unsure, "dark_water": counts.water}
    by_class = dict(zip(classes.names, counts.classes, strict=True))
    tags = {
        LABELLED_BY: labelled_by,
        _SETTINGS: json.dumps(settings),
        # Apart, for a class may be named cloud.
        _COUNTS: json.dumps(numbers | (by_class if classes == bands.DYNAMIC_WORLD else {_OWN: by_class})),
        _DIGEST: _digest(codes),
    }
    place: dict[str, Any] = {"crs": parse_crs(tile.crs)} if tile.crs else {}
    if not rasterio.Affine(*tile.transform).is_identity:
        place["transform"] = rasterio.Affine(*tile.transform)
    name, how = f"{tile.record.tile_id}.tif", {"compress": "deflate", **place}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        colours = {code: (*rgb, 255) for code, rgb in enumerate(classes.rgb(), 1)} | {0: (0, 0, 0, 0)}
        contents = {
            folder / "label" / name: geotiff(codes[None], descriptions=["label"], tags=tags, colours=colours, **how)
        }
        if shares is not None:
            scale = {"unit": f"probability x {WHOLE}", LABELLED_BY: labelled_by}
            contents[folder / PROBABILITY / name] = geotiff(
                np.moveaxis(shares, -1, 0), descriptions=classes.names, tags=scale, interleave="band", **how
            )
    for path in contents:
        path.parent.mkdir(exist_ok=True)
    if shares is None:  # of an earlier labelling
        (folder / PROBABILITY / name).unlink(missing_ok=True)
    write_together(contents)


def write_annotators(folder: Path, tile_ids: Iterable[str], annotator: str) -> None:
    """Sets the column annotator of some tiles in tiles.csv; all else in it stays. The file is written whole, if anything changes."""
    path, wanted = folder / "tiles.csv", set(tile_ids)
    header, rows = read_csv(path)
    changed = [
        row
        for row in rows
        if row.get("tile_id", "").strip() in wanted and row.get("annotator", "").strip() != annotator
    ]
    if not changed:
        return
    for row in changed:
        row["annotator"] = annotator
    columns = header if "annotator" in header else [*header, "annotator"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row.get(name, "") for name in columns] for row in rows)
    write_whole(path, text.getvalue())


def clouds_of(folder: Path, tile: Tile, s2_bands: tuple[str, ...]) -> Bool[np.ndarray, "height width"]:
    """Marks clouds of a tile with a margin: by its mask in `cloud/` where there is one, else by `clouds.cloud_mask`.

    Raises:
        ValueError: the mask is on another grid, or cannot be read.
    """
    path = folder / CLOUD / f"{tile.record.tile_id}.tif"
    if not path.is_file():
        testable = set(clouds.NEEDED) <= set(s2_bands)
        return clouds.cloud_mask(_numbers(tile, s2_bands, clouds.USED)) if testable else _none(tile)
    sensor = "s2" if tile.s2.shape[-1] else "s1"
    imagery = folder / sensor / path.name
    with open_raster(path) as mask, open_raster(imagery) as raster:
        check_same_grid(path, mask, imagery, raster)
        return clouds.with_margin(read_bands(path, mask, (1,))[..., 0] != 0)


def water_of(tile: Tile, s2_bands: tuple[str, ...]) -> Bool[np.ndarray, "height width"]:
    """Marks what only water can be, by `water.dark_water`; nothing without its bands."""
    testable = set(water.USED) <= set(s2_bands)
    return water.dark_water(_numbers(tile, s2_bands, water.USED)) if testable else _none(tile)


def _numbers(tile: Tile, s2_bands: tuple[str, ...], wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {name: tile.s2[..., place] for place, name in enumerate(s2_bands) if name in wanted}


def _none(tile: Tile) -> Bool[np.ndarray, "height width"]:
    return np.zeros(tile.label.shape, bool)


def _label_path(folder: Path, record: TileRecord) -> Path:
    return folder / "label" / f"{record.tile_id}.tif"


def _by_a_network(record: TileRecord) -> bool:
    """Whether tiles.csv leaves it open that a network labelled the tile: it names one, or nobody."""
    return not record.annotator or record.annotator.startswith(NETWORK)


def _has_shares(folder: Path, record: TileRecord, settings: dict[str, Any]) -> bool:
    return not settings.get("probabilities") or (folder / PROBABILITY / f"{record.tile_id}.tif").is_file()


def _codes(path: Path) -> UInt8[np.ndarray, "height width"]:
    with open_raster(path) as raster:
        return read_bands(path, raster, (1,))[..., 0]


def _digest(codes: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(codes)).hexdigest()


def _differences(made: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Says in what settings differ, but for the network, which is named beside."""
    differ = [name for name in wanted if name != "weights_sha256" and made.get(name) != wanted[name]]
    return "".join(f", {name.replace('_', ' ')} {made.get(name)!r} and now {wanted[name]!r}" for name in differ)
