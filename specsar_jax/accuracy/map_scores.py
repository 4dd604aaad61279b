"""Counts how third-party maps agree with labels, and with each other, pixel by pixel.

Enters: maps, and labels tile by tile: of a prepared data set, or the published label tiles with the votes of their experts. Leaves:
a `Tally` of each map. All maps of a call are scored on the same pixels: those where every map has a class.
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

from specsar_jax.accuracy import intervals, legends, metrics
from specsar_jax.accuracy.class_maps import Map, Raw, Target, read_map, tile_files
from specsar_jax.accuracy.figures import pixel_area_ha
from specsar_jax.accuracy.legends import Legend
from specsar_jax.accuracy.tally import Tally
from specsar_jax.batches import pipeline
from tfds_dwplus import bands
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.scene_files import open_raster
from tfds_dwplus.labels.label_files import read_label
from tfds_dwplus.labels.published import LabelTile
from tfds_dwplus.tiles.tile_files import class_ids


@dataclasses.dataclass
class Pair:
    """Counts of two maps, a and b, pixel by pixel."""

    agreement: Int[np.ndarray, "a b"]
    """Number of pixels, labelled or not, by class in a and class in b."""
    only_a_right: Counter = dataclasses.field(default_factory=Counter)
    """Number of labelled pixels, by vote, where a is right and b is wrong."""
    only_b_right: Counter = dataclasses.field(default_factory=Counter)


@dataclasses.dataclass
class Scored:
    """The counts of `score`."""

    tallies: dict[str, dict[str, Tally]]
    """Tally by name of the map, then by vote."""
    raw: dict[str, Raw]
    """Counts of codes by name of the map."""
    pairs: dict[tuple[str, str], Pair]
    labelled_pixels: Counter
    """Labelled pixels of all tiles by vote, also where a map has no class."""
    classes: bands.Classes
    """Of labels and tallies."""


def dataset_targets(source: Sequence[dict[str, Any]], vote: str = "label") -> Iterator[Target]:
    """Yields the labels of a split of a prepared data set, under the name `vote`."""
    for record in source:
        columns = pipeline.columns(record)
        grid = Grid.parse(columns.pop("crs"), tuple(map(float, record["transform"])), *record["label"].shape)
        yield Target(columns.pop("tile_id"), grid, {vote: record["label"]}, columns)


def label_targets(tiles: Iterable[LabelTile]) -> Iterator[Target]:
    """Yields the labels of published label tiles: by vote for held-out tiles, as 'label' for the others."""
    for tile in tiles:
        label = read_label(tile)
        by_vote = label.votes or {"label": label.codes}
        columns = {name: getattr(tile, name) for name in ("lon", "lat", "date", "annotator", "hemisphere")}
        grid = Grid.parse(label.crs, label.transform, *label.codes.shape)
        yield Target(
            tile.tile_id,
            grid,
            {vote: class_ids(codes, bands.DYNAMIC_WORLD) for vote, codes in by_vote.items()},
            columns | {"biome": tile.biome or 0},
        )


def score(maps: Sequence[Map], targets: Iterable[Target], classes: bands.Classes) -> Scored:
    """Reads all maps at every tile, once, and counts their agreement with the labels and with each other.

    Args:
        maps: the maps, each with a different name.
        targets: labelled tiles; only one at a time is in memory.
        classes: of the labels.

    Raises:
        ValueError: a raster cannot be read, or has codes that its legend does not have; the codes of a Dynamic World map start at
            another number than in its legend; a map has no pixel at the tiles; no pixel is both labelled and in all maps.
    """
    names = [scored.name for scored in maps]
    merged = merged_classes(scored.legend for scored in maps)
    files = {scored.name: tile_files(scored.path, anywhere=scored.any_vrt_source) for scored in maps}
    raw = {name: Raw() for name in names}
    pairs = {pair: Pair(np.zeros((len(classes), len(classes)), np.int64)) for pair in itertools.combinations(names, 2)}
    labelled: Counter = Counter()
    rows: dict[tuple[str, str], list[tuple[str, dict[str, Any], dict[str, np.ndarray]]]] = collections.defaultdict(list)
    tiles = 0
    for target in targets:
        tiles += 1
        labelled.update({vote: int((label != bands.IGNORE).sum()) for vote, label in target.labels.items()})
        read = [read_map(scored, files[scored.name], target, raw[scored.name], classes) for scored in maps]
        ids = {
            name: _merge(found, merged, classes) for name, found in zip(names, read, strict=True) if found is not None
        }
        everywhere = np.all([class_id != bands.IGNORE for class_id in ids.values()], axis=0)
        if len(ids) < len(maps) or not everywhere.any():
            continue
        labels = {
            vote: np.where(everywhere, _merge(label, merged, classes), np.uint8(bands.IGNORE))
            for vote, label in target.labels.items()
        }
        for (name, class_id), (vote, label) in itertools.product(ids.items(), labels.items()):
            crs = target.grid.crs.to_string() if target.grid.crs else ""
            columns = target.columns | {intervals.PIXEL_AREA: pixel_area_ha(crs, tuple(target.grid.transform))}
            rows[name, vote].append((target.tile_id, columns, _sums(label, class_id, everywhere, len(classes))))
        for (a, b), pair in pairs.items():
            _add_pair(pair, ids[a], ids[b], everywhere, labels)
    for scored in maps:
        _check_overlap(scored, raw[scored.name].without, tiles)
        legends.check_base(raw[scored.name].joint, scored.legend, str(scored.path))
    if not rows:
        raise ValueError(
            f"no pixel of the {tiles} tiles has a class in each of {', '.join(names)}; score them one by one"
        )
    tallies: dict[str, dict[str, Tally]] = {name: {} for name in names}
    for (name, vote), tile_rows in rows.items():
        tallies[name][vote] = _tally(tile_rows)
    if not any(tally.confusion.any() for tally in tallies[names[0]].values()):
        raise ValueError(
            f"no labelled pixel where {' and '.join(names)} {'have' if len(names) > 1 else 'has'} a class: the labels of the "
            f"{tiles} tiles are empty, or the legend leaves out all codes there"
        )
    return Scored(tallies, raw, pairs, labelled, classes)


def merged_classes(used: Iterable[Legend]) -> tuple[tuple[str, str], ...]:
    """Returns the pairs of classes that at least one of the legends merges."""
    return tuple(dict.fromkeys(pair for legend in used for pair in legend.merged))


def merge_tally(tally: Tally, merged: Sequence[tuple[str, str]], classes: bands.Classes) -> Tally:
    """Returns a tally in which the second class of each pair is counted as the first. Sums of boundaries and probabilities cannot
    be merged afterwards and are left out.
    """
    if not merged:
        return tally
    confusion, mapped = tally.confusion.copy(), tally.mapped.copy()
    for first, second in [[classes.names.index(name) for name in pair] for pair in merged]:
        for sums in (confusion, np.swapaxes(confusion, 1, 2), mapped):
            sums[:, first] += sums[:, second]
            sums[:, second] = 0
    left_out = {"boundary": np.zeros_like(tally.boundary), "reliability": None, "brier": None, "nll": None}
    return dataclasses.replace(tally, confusion=confusion, mapped=mapped, **left_out)


def _merge(
    ids: UInt8[np.ndarray, "height width"], merged: Sequence[tuple[str, str]], classes: bands.Classes
) -> UInt8[np.ndarray, "height width"]:
    for first, second in merged:
        ids = np.where(ids == classes.names.index(second), np.uint8(classes.names.index(first)), ids)
    return ids


@functools.cache
def _compiled() -> Any:
    return jax.jit(metrics.map_sums, static_argnums=3)


def _sums(
    label: UInt8[np.ndarray, "height width"],
    prediction: UInt8[np.ndarray, "height width"],
    valid: Bool[np.ndarray, "height width"],
    classes: int,
) -> dict[str, np.ndarray]:
    return metrics.on_host(jax.device_get(_compiled()(label[None], prediction[None], valid[None], classes)))


def _add_pair(
    pair: Pair,
    a: UInt8[np.ndarray, "h w"],
    b: UInt8[np.ndarray, "h w"],
    valid: Bool[np.ndarray, "h w"],
    labels: dict[str, UInt8[np.ndarray, "h w"]],
) -> None:
    classes = len(pair.agreement)
    both = a[valid].astype(np.int64) * classes + b[valid]
    pair.agreement += np.bincount(both, minlength=classes**2).reshape(classes, classes)
    for vote, label in labels.items():
        pair.only_a_right[vote] += int(((a == label) & (b != label) & valid).sum())
        pair.only_b_right[vote] += int(((b == label) & (a != label) & valid).sum())


def _check_overlap(scored: Map, missing: list[str], tiles: int) -> None:
    if len(missing) == tiles:
        if scored.path.is_dir():
            raise ValueError(
                f"{scored.path} has no file of the {tiles} tiles with a pixel there, the first one {missing[0]}.tif; expected "
                "<tile_id>.tif of the split"
            )
        with open_raster(scored.path, anywhere=scored.any_vrt_source) as raster:
            where = f"{tuple(round(side, 5) for side in raster.bounds)} in {raster.crs or 'no CRS'}"
        raise ValueError(
            f"{scored.path} does not overlap any of the {tiles} tiles, the first one {missing[0]}; it covers {where}"
        )


def _tally(rows: list[tuple[str, dict[str, Any], dict[str, np.ndarray]]]) -> Tally:
    tile_ids, columns, sums = zip(*rows, strict=True)
    return Tally(
        tile_id=np.array(tile_ids),
        columns={name: np.array([of_tile[name] for of_tile in columns]) for name in columns[0]},
        **{name: np.concatenate([of_tile[name] for of_tile in sums]) for name in sums[0]},
    )
