"""Assign tiles to splits: select subsets, cut a validation split out of train by location, and shuffle.

Enters: rows of tiles.csv. Leaves: the rows of each split, in a fixed random order. Pure functions.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from tfds_dwplus import bands
from tfds_dwplus.tiles.labelling.annotators import NETWORK
from tfds_dwplus.tiles.tile_files import TileRecord

NEIGHBOURS_KM = 10.0
"""Tiles of 5.1 km whose centres are nearer than this overlap, touch or nearly touch."""

CELL_DEGREES = 1.0
"""Side of the cells by which tiles are drawn for validation."""

_EARTH_RADIUS_KM = 6371.0


def subset(
    records: Sequence[TileRecord], annotators: Sequence[str], hemispheres: Sequence[str], biomes: Sequence[int]
) -> list[TileRecord]:
    """Selects tiles by annotator, hemisphere and biome; () selects all. Held-out tiles count for every annotator, and 'network' is any
    network.

    Raises:
        ValueError: a wanted value does not occur, or no tile is left. The message lists the values that occur.
    """
    chosen = [
        record
        for record in records
        if (not annotators or _kind(record.annotator, annotators) in (*annotators, bands.HELD_OUT))
        and (not hemispheres or record.hemisphere in hemispheres)
        and (not biomes or record.biome in biomes)
    ]
    for option, wanted, column in (
        ("--annotators", annotators, "annotator"),
        ("--hemispheres", hemispheres, "hemisphere"),
        ("--biomes", biomes, "biome"),
    ):
        there = {getattr(record, column) for record in records}
        there |= {_kind(name, wanted) for name in there} if column == "annotator" else set()
        absent = [str(value) for value in wanted if value not in there]
        if absent:
            found = ", ".join(str(value or "none given") for value in sorted(there))
            raise ValueError(f"{option} {','.join(absent)}: no tile has it in tiles.csv, whose {column}s are: {found}")
    if not chosen:
        raise ValueError("no tile is of all the given annotators, hemispheres and biomes; give fewer of them")
    return chosen


def _kind(annotator: str, wanted: Sequence[str]) -> str:
    """'network' for a network that is not asked for by its whole name; else the annotator."""
    return NETWORK.rstrip(": ") if annotator.startswith(NETWORK) and annotator not in wanted else annotator


def cut_validation(records: Sequence[TileRecord], fraction: float, seed: int) -> dict[str, str]:
    """Divides the split 'train' into train and validation. Gives the new split of each of its tiles by tile id.

    Cells of one degree are drawn by a hash of their place and the seed, so that a cell's split does not depend on other
    tiles of the folder. Tiles within `NEIGHBOURS_KM` of each other, directly or through other tiles, form a group. A group
    takes the split of its first tile by id. So no train tile touches a validation tile.

    Raises:
        ValueError: `fraction` is not between 0 and 1, or leaves a split empty; the folder has a validation split already; a
            tile has no longitude and latitude.
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
    """Shuffles the tiles. The order depends on the split and the tile ids only."""
    return sorted(records, key=lambda record: hashlib.sha256(f"{split} {record.tile_id}".encode()).digest())


def _neighbours(records: Sequence[TileRecord]) -> list[int]:
    """Gives each tile the number of its group of neighbours."""
    if not records:
        return []
    lon, lat = np.radians([(record.lon, record.lat) for record in records]).T
    places = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    first, second = cKDTree(places).query_pairs(NEIGHBOURS_KM / _EARTH_RADIUS_KM, output_type="ndarray").T
    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(records),) * 2)
    return connected_components(links, directed=False)[1].tolist()


def _uniform(text: str) -> float:
    """Hashes a text to a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
