"""Which tile goes where: subsets of a folder of tiles, and a validation split cut out of train by location.

Enters: rows of tiles.csv. Leaves: rows of each split, in an order that is random but always the same. Pure functions.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from tfds_dwplus import bands
from tfds_dwplus.tile_files import TileRecord

NEIGHBOURS_KM = 10.0
"""Tiles of 5.1 km whose centres are nearer than this touch, nearly touch or lie on each other."""

CELL_DEGREES = 1.0

_EARTH_RADIUS_KM = 6371.0


def subset(
    records: Sequence[TileRecord], annotators: Sequence[str], hemispheres: Sequence[str], biomes: Sequence[int]
) -> list[TileRecord]:
    """The tiles that are wanted; () wants all. Annotators are not asked of the held-out tiles, which have several.

    Raises:
        ValueError: none is left; the message says what there is.
    """
    chosen = [
        record
        for record in records
        if (not annotators or record.annotator in (*annotators, bands.HELD_OUT))
        and (not hemispheres or record.hemisphere in hemispheres)
        and (not biomes or record.biome in biomes)
    ]
    for option, wanted, column in (
        ("--annotators", annotators, "annotator"),
        ("--hemispheres", hemispheres, "hemisphere"),
        ("--biomes", biomes, "biome"),
    ):
        there = {getattr(record, column) for record in records}
        absent = [str(value) for value in wanted if value not in there]
        if absent:
            found = ", ".join(str(value or "none given") for value in sorted(there))
            raise ValueError(f"{option} {','.join(absent)}: no tile has it in tiles.csv, whose {column}s are: {found}")
    if not chosen:
        raise ValueError("no tile is of all the annotators, hemispheres and biomes asked for; ask for fewer of them")
    return chosen


def cut_validation(records: Sequence[TileRecord], fraction: float, seed: int) -> dict[str, str]:
    """Which tiles of the split 'train' become validation: tile id -> split, for those of train.

    Cells of one degree are drawn by a hash of their place and the seed, so that a tile falls on the same side whatever
    else the folder holds. Tiles within `NEIGHBOURS_KM` of each other, over any number of steps, stay together on the
    side of the first of them by id: none of train touches one of validation.

    Raises:
        ValueError: `fraction` is not between 0 and 1, or leaves a side empty; the folder has a validation split; a tile
            has no place.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"--validation_fraction is {fraction:g}, expected a share between 0 and 1")
    if any(record.split == "validation" for record in records):
        raise ValueError(
            "--validation_fraction is given, but tiles.csv has a split 'validation'; leave out one of the two"
        )
    train = sorted((record for record in records if record.split == "train"), key=lambda record: record.tile_id)
    for record in train:
        if math.isnan(record.lon) or math.isnan(record.lat):
            raise ValueError(
                f"tile {record.tile_id!r} has no lon and lat in tiles.csv; --validation_fraction needs them"
            )
    chosen: dict[int, str] = {}
    splits = {}
    for record, group in zip(train, _neighbours(train), strict=True):
        if group not in chosen:
            cell = (math.floor(record.lon / CELL_DEGREES), math.floor(record.lat / CELL_DEGREES))
            chosen[group] = "validation" if _uniform(f"{seed} {cell}") < fraction else "train"
        splits[record.tile_id] = chosen[group]
    if set(splits.values()) != {"train", "validation"}:
        raise ValueError(
            f"--validation_fraction {fraction:g} of {len(train)} train tiles in {len(chosen)} places gives "
            f"{' and '.join(sorted(set(splits.values()))) or 'nothing'} only; give another fraction or --seed"
        )
    return splits


def shuffled(records: Sequence[TileRecord], split: str) -> list[TileRecord]:
    """The tiles in an order that looks random and is a function of their ids alone."""
    return sorted(records, key=lambda record: hashlib.sha256(f"{split} {record.tile_id}".encode()).digest())


def _neighbours(records: Sequence[TileRecord]) -> list[int]:
    """For each tile the number of its group of neighbours."""
    if not records:
        return []
    lon, lat = np.radians([(record.lon, record.lat) for record in records]).T
    places = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    first, second = cKDTree(places).query_pairs(NEIGHBOURS_KM / _EARTH_RADIUS_KM, output_type="ndarray").T
    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(records),) * 2)
    return connected_components(links, directed=False)[1].tolist()


def _uniform(text: str) -> float:
    """A number in [0, 1) that is a function of the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
