"""Sums of maps made elsewhere, on labels, and of each two of them, pixel by pixel.

Enters: maps, and labels tile by tile: of a prepared data set, or the published label tiles with the votes of their experts. Leaves:
of each map a `Tally`. All maps of a call are scored on the same pixels: those where every one of them has a class.
"""

import collections
import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int, UInt8

from specsar_jax import accuracy, legends, metrics, pipeline
from specsar_jax.class_maps import Map, Raw, Target, read_map, tile_files
from specsar_jax.figures import pixel_area_ha
from specsar_jax.legends import Legend
from specsar_jax.tally import Tally
from tfds_dwplus import bands
from tfds_dwplus.imagery import Grid
from tfds_dwplus.labels import LabelTile, read_label
from tfds_dwplus.tile_files import class_ids, open_raster


@dataclasses.dataclass
class Pair:
    """Two maps, pixel by pixel."""

    agreement: Int[np.ndarray, "a b"] = dataclasses.field(default_factory=lambda: np.zeros((9, 9), np.int64))
    """Pixels by class of the one and of the other, labelled or not."""
    only_a_right: Counter = dataclasses.field(default_factory=Counter)
    """Labelled pixels by vote."""
    only_b_right: Counter = dataclasses.field(default_factory=Counter)


@dataclasses.dataclass
class Scored:
    """What `score` counted."""

    tallies: dict[str, dict[str, Tally]]
    """By map, then by vote."""
    raw: dict[str, Raw]
    """By map."""
    pairs: dict[tuple[str, str], Pair]
    labelled_pixels: Counter
    """By vote, of all tiles, with a class of every map or without."""


def dataset_targets(source: Sequence[dict[str, Any]], vote: str = "label") -> Iterator[Target]:
    """The labels of a split of a prepared data set; `vote` is what they are called."""
    for record in source:
        columns = pipeline.columns(record)
        grid = Grid(columns.pop("crs"), tuple(map(float, record["transform"])), *record["label"].shape)
        yield Target(columns.pop("tile_id"), grid, {vote: record["label"]}, columns)


def label_targets(tiles: Iterable[LabelTile]) -> Iterator[Target]:
    """Published label tiles; of a held-out one a label by vote, of another one its 'label'."""
    for tile in tiles:
        label = read_label(tile)
        by_vote = label.votes or {"label": label.codes}
        columns = {name: getattr(tile, name) for name in ("lon", "lat", "date", "annotator", "hemisphere")}
        grid = Grid(label.crs, label.transform, *label.codes.shape)
        yield Target(
            tile.tile_id,
            grid,
            {vote: class_ids(codes) for vote, codes in by_vote.items()},
            columns | {"biome": tile.biome or 0},
        )


def score(maps: Sequence[Map], targets: Iterable[Target]) -> Scored:
    """Reads every tile once and counts.

    Args:
        maps: of different names.
        targets: tiles; one at a time is in memory.

    Raises:
        ValueError: a raster that cannot be read, or has codes that its legend does not have; a Dynamic World map that counts from
            another number than its legend; a map without a pixel at the tiles, or no labelled pixel where all maps have one.
    """
    names = [of.name for of in maps]
    merged = merged_classes(of.legend for of in maps)
    files = {of.name: tile_files(of.path) for of in maps}
    raw = {name: Raw() for name in names}
    pairs = {pair: Pair() for pair in itertools.combinations(names, 2)}
    labelled: Counter = Counter()
    rows: dict[tuple[str, str], list[tuple[str, dict[str, Any], dict[str, np.ndarray]]]] = collections.defaultdict(list)
    tiles = 0
    for target in targets:
        tiles += 1
        labelled.update({vote: int((label != bands.IGNORE).sum()) for vote, label in target.labels.items()})
        read = [read_map(of, files[of.name], target, raw[of.name]) for of in maps]
        ids = {of.name: _merge(of_map, merged) for of, of_map in zip(maps, read, strict=True) if of_map is not None}
        everywhere = np.all([of_map != bands.IGNORE for of_map in ids.values()], axis=0)
        if len(ids) < len(maps) or not everywhere.any():
            continue
        labels = {
            vote: np.where(everywhere, _merge(label, merged), np.uint8(bands.IGNORE))
            for vote, label in target.labels.items()
        }
        for (name, of_map), (vote, label) in itertools.product(ids.items(), labels.items()):
            about = target.columns | {accuracy.PIXEL_AREA: pixel_area_ha(target.grid.crs, target.grid.transform)}
            rows[name, vote].append((target.tile_id, about, _sums(label, of_map, everywhere)))
        for (a, b), pair in pairs.items():
            _add_pair(pair, ids[a], ids[b], everywhere, labels)
    for of in maps:
        _check_overlap(of, raw[of.name].without, tiles)
        legends.check_base(raw[of.name].joint, of.legend, str(of.path))
    if not rows:
        raise ValueError(
            f"no pixel of the {tiles} tiles has a class in each of {', '.join(names)}; score them one by one"
        )
    tallies: dict[str, dict[str, Tally]] = {name: {} for name in names}
    for (name, vote), of_tiles in rows.items():
        tallies[name][vote] = _tally(of_tiles)
    if not any(tally.confusion.any() for tally in tallies[names[0]].values()):
        raise ValueError(
            f"no labelled pixel where {' and '.join(names)} {'have' if len(names) > 1 else 'has'} a class: the labels of the {tiles} tiles "
            "are empty, or the legend leaves out all that is there"
        )
    return Scored(tallies, raw, pairs, labelled)


def merged_classes(of: Iterable[Legend]) -> tuple[tuple[str, str], ...]:
    """Pairs of classes that any of the legends takes as one."""
    return tuple(dict.fromkeys(pair for legend in of for pair in legend.merged))


def merge_tally(tally: Tally, merged: Sequence[tuple[str, str]]) -> Tally:
    """A tally in which the second class of each pair counts as the first. Boundaries and probabilities cannot be merged afterwards:
    they are gone.
    """
    if not merged:
        return tally
    confusion, mapped = tally.confusion.copy(), tally.mapped.copy()
    for first, second in [[bands.CLASSES.index(name) for name in pair] for pair in merged]:
        for sums in (confusion, np.swapaxes(confusion, 1, 2), mapped):
            sums[:, first] += sums[:, second]
            sums[:, second] = 0
    gone = {"boundary": np.zeros_like(tally.boundary), "reliability": None, "brier": None, "nll": None}
    return dataclasses.replace(tally, confusion=confusion, mapped=mapped, **gone)


def _merge(
    ids: UInt8[np.ndarray, "height width"], merged: Sequence[tuple[str, str]]
) -> UInt8[np.ndarray, "height width"]:
    for first, second in merged:
        ids = np.where(ids == bands.CLASSES.index(second), np.uint8(bands.CLASSES.index(first)), ids)
    return ids


@functools.cache
def _compiled() -> Any:
    return jax.jit(metrics.map_sums)


def _sums(
    label: UInt8[np.ndarray, "height width"],
    prediction: UInt8[np.ndarray, "height width"],
    valid: Bool[np.ndarray, "height width"],
) -> dict[str, np.ndarray]:
    return metrics.on_host(jax.device_get(_compiled()(label[None], prediction[None], valid[None])))


def _add_pair(
    pair: Pair,
    a: UInt8[np.ndarray, "h w"],
    b: UInt8[np.ndarray, "h w"],
    valid: Bool[np.ndarray, "h w"],
    labels: dict[str, UInt8[np.ndarray, "h w"]],
) -> None:
    pair.agreement += np.bincount(a[valid].astype(np.int64) * 9 + b[valid], minlength=81).reshape(9, 9)
    for vote, label in labels.items():
        pair.only_a_right[vote] += int(((a == label) & (b != label) & valid).sum())
        pair.only_b_right[vote] += int(((b == label) & (a != label) & valid).sum())


def _check_overlap(of: Map, missing: list[str], tiles: int) -> None:
    if len(missing) == tiles:
        if of.path.is_dir():
            raise ValueError(
                f"{of.path} has no file of the {tiles} tiles with a pixel there, the first one {missing[0]}.tif; expected "
                "<tile_id>.tif of the split"
            )
        with open_raster(of.path) as raster:
            where = f"{tuple(round(side, 5) for side in raster.bounds)} in {raster.crs or 'no CRS'}"
        raise ValueError(
            f"{of.path} does not overlap any of the {tiles} tiles, the first one {missing[0]}; it covers {where}"
        )


def _tally(of_tiles: list[tuple[str, dict[str, Any], dict[str, np.ndarray]]]) -> Tally:
    tile_ids, about, sums = zip(*of_tiles, strict=True)
    return Tally(
        tile_id=np.array(tile_ids),
        columns={name: np.array([columns[name] for columns in about]) for name in about[0]},
        **{name: np.concatenate([of[name] for of in sums]) for name in sums[0]},
    )
