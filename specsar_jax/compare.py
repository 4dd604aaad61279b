"""Scores maps made elsewhere against labels, and maps against each other.

Enters: class maps as rasters of any grid and legend, and labels: a split of a prepared data set, or the published label tiles with
the votes of their experts. Leaves: of each map a `Tally`, its figures, and of each two maps whether they differ.

All maps of a call are scored on the same pixels: those where every one of them has a class. A raster on another grid than the
label is warped to it by nearest neighbour; labels are never resampled.
"""

import collections
import dataclasses
import functools
import itertools
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rasterio
import tensorflow_datasets as tfds
from jaxtyping import Bool, Int, Integer, Shaped, UInt8
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from specsar_jax import accuracy, legends, metrics, pipeline
from specsar_jax.checkpoints import read_bundle, read_config, write_json
from specsar_jax.figures import GROUPS, check_groups, figures_of, pixel_area_ha, split_file
from specsar_jax.legends import Legend
from specsar_jax.tally import Tally
from tfds_dwplus import bands
from tfds_dwplus.command_line import progress
from tfds_dwplus.imagery import Grid
from tfds_dwplus.labels import LabelTile, read_label, survey
from tfds_dwplus.prepared import open_dataset, read_split
from tfds_dwplus.tile_files import class_ids, open_raster

PUBLISHED = {
    "strict": {"overall_accuracy": 0.884, "mean_iou": 0.685, "macro_f1": 0.791},
    "consensus": {"overall_accuracy": 0.738, "mean_iou": 0.536, "macro_f1": 0.670},
    "majority": {"overall_accuracy": 0.713, "mean_iou": 0.519, "macro_f1": 0.657},
}
"""Google's Dynamic World model on its 409 held-out tiles, by vote of `tfds_dwplus.labels.votes`. Source: Brown et al. 2022, Sci. Data
9:251, Technical Validation; mean IoU and F1 are not printed there and were computed from its matrices."""

PUBLISHED_CEILING = 0.778
"""Overall accuracy of a non-expert against the experts' consensus. Source: the same."""


@dataclasses.dataclass(frozen=True)
class Map:
    """Rasters to score."""

    path: Path
    """A raster that covers the tiles, or a folder of `<tile_id>.tif`, in folders or not; `label_<tile_id>.tif` counts as such."""
    legend: Legend

    @property
    def name(self) -> str:
        """What the map is called in tables."""
        return self.path.resolve().stem


@dataclasses.dataclass(frozen=True)
class Target:
    """The labels of a tile."""

    tile_id: str
    grid: Grid
    """Its CRS is empty where nobody knows the place."""
    labels: dict[str, UInt8[np.ndarray, "height width"]]
    """Class ids by vote; 255 where there is no label."""
    columns: dict[str, Any]


@dataclasses.dataclass
class Pair:
    """Two maps, pixel by pixel."""

    agreement: Int[np.ndarray, "a b"] = dataclasses.field(default_factory=lambda: np.zeros((9, 9), np.int64))
    """Pixels by class of the one and of the other, labelled or not."""
    only_a_right: Counter = dataclasses.field(default_factory=Counter)
    """Labelled pixels by vote."""
    only_b_right: Counter = dataclasses.field(default_factory=Counter)


@dataclasses.dataclass
class Raw:
    """What is known of a map besides its score."""

    codes: Counter = dataclasses.field(default_factory=Counter)
    """How often each code occurs."""
    warped: int = 0
    """Tiles whose raster is on another grid."""
    without: list[str] = dataclasses.field(default_factory=list)
    """Tiles of which it has no pixel."""
    joint: Int[np.ndarray, "code label"] = dataclasses.field(default_factory=lambda: np.zeros((11, 9), np.int64))
    """Labelled pixels by code, 0 to 10, and class of the label; of files that do not say what their codes are."""


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


@dataclasses.dataclass(frozen=True)
class Network:
    """What `specsar_jax.evaluate --workdir` left."""

    name: str
    """Of its workdir or bundle."""
    tally: Tally
    temperature: float
    """That its probabilities were made with."""


def command(
    predictions: Sequence[Path],
    legend_names: Sequence[str],
    *,
    split: str,
    data_dir: Path | str | None = None,
    dataset: str | None = None,
    labels: Sequence[Path] = (),
    workdir: Path | None = None,
    output: Path | None = None,
    groups: Sequence[str] = GROUPS,
) -> None:
    """Scores rasters, prints what came out and writes it as JSON; `python -m specsar_jax.evaluate --prediction` calls it.

    Args:
        predictions: rasters, or folders of them.
        legend_names: one for all of them, or one for each.
        split: of the data set; of published labels 'test', the held-out tiles, or 'train'.
        data_dir: folder of prepared data sets; the workdir's own if not given.
        dataset: NAME of dynamic_world_plus/NAME; the workdir's own if not given.
        labels: published label tiles, to be taken instead of a data set.
        workdir: of a network, whose `tiles_<split>.npz` joins the table.
        output: JSON file; `comparison_<split>.json` in the first prediction's folder if not given.
        groups: columns of the labels to tell accuracy by.

    Raises:
        ValueError: as `score`; no such split, legend or data set; arguments that do not fit together.
    """
    maps = _maps(predictions, legend_names)
    beside = predictions[0] if predictions[0].is_dir() else predictions[0].parent
    output = output or beside / split_file("comparison", split, "json")
    ours = None
    if labels:
        if dataset or data_dir or workdir:
            raise ValueError(
                "--labels takes the place of --dataset, --data_dir and --workdir; of a network give the maps that specsar_jax.predict "
                "made as --prediction, or a data set that was prepared with the vote as --dataset"
            )
        tiles = [tile for tile in survey(labels).tiles if tile.split == split]
        if not tiles:
            given = ", ".join(map(str, labels))
            raise ValueError(f"no label tile of split {split!r} in {given}; expected 'train' or 'test'")
        named, targets, count = "published labels", label_targets(tiles), len(tiles)
    else:
        if workdir is not None and not workdir.exists():
            raise ValueError(f"no workdir or bundle {workdir}")
        if workdir is not None and not (data_dir and dataset):
            config = read_config(workdir) if workdir.is_dir() else read_bundle(workdir).config
            data_dir, dataset = data_dir or config.data.data_dir, dataset or config.data.name
        if not data_dir or not dataset:
            raise ValueError("no labels: give --data_dir and --dataset of a prepared data set, or --labels")
        builder = open_dataset(data_dir, dataset)
        check_groups(builder, groups)
        source = read_split(builder, split)
        named, targets, count = builder.info.full_name, dataset_targets(source, _vote(builder, source)), len(source)
        if workdir is not None:
            ours = read_workdir(workdir, split, named)
    with progress(iterable=targets, total=count, desc="scoring", unit="tile", leave=False, disable=None) as line:
        scored = score(maps, iter(line))
    figures = {"dataset": named, "split": split} | summarise(maps, scored, ours, groups)
    write_json(output, figures)
    print(text(figures))


def summarise(
    maps: Sequence[Map], scored: Scored, ours: Network | None = None, groups: Sequence[str] = GROUPS
) -> dict[str, Any]:
    """What was counted as figures, plain numbers for JSON.

    Args:
        maps: the ones scored.
        scored: what `score` counted of them.
        ours: what a network left that was scored on the same split.
        groups: columns of the tiles to tell accuracy by.

    Returns:
        `maps`, by name: `path`, `legend`, `codes` (what each stands for, and how often it occurs), `warped_tiles`,
        `tiles_without`, and `labels`, by vote: the keys of `evaluation_<split>.json`. `labelled_pixels` of all tiles by vote.
        `merged`: classes taken as one. `pairs`: of each two maps `agreement_matrix` (pixels, rows = a), `agreement`, and by vote
        `mcnemar` and `difference`; of a network, whose pixels are not at hand, `difference` alone. `published`, where there are votes.
    """
    merged = merged_classes(of.legend for of in maps)
    tallies = {name: dict(of) for name, of in scored.tallies.items()}
    rows = {of.name: _map_row(of, scored) for of in maps}
    if ours is not None:
        name = f"{ours.name} (network)" if ours.name in tallies else ours.name
        ((vote, of_first),) = tallies[maps[0].name].items()
        there = set(of_first.tile_id.tolist())
        tally = ours.tally.choose(np.array([tile_id in there for tile_id in ours.tally.tile_id.tolist()], bool))
        if not len(tally):
            raise ValueError(f"{name} has no tile of those that {maps[0].path} covers; score both on one split")
        tallies = {name: {vote: merge_tally(tally, merged)}} | tallies
        rows = {name: {"path": None, "legend": None, "labels": {}}} | rows
    for name, of in tallies.items():
        temperature = ours.temperature if ours is not None else 1.0  # maps have no probabilities
        rows[name]["labels"] = {
            vote: {"tiles": len(tally)} | figures_of(tally, temperature, groups) for vote, tally in of.items()
        }
    figures = {
        "merged": [list(pair) for pair in merged],
        "labelled_pixels": dict(scored.labelled_pixels),
        "maps": rows,
        "pairs": [_pair(a, b, tallies, scored) for a, b in itertools.combinations(tallies, 2)],
    }
    if set(scored.labelled_pixels) & set(bands.VOTES):
        figures["published"] = {
            "source": "Brown et al. 2022, Dynamic World's own model on 409 held-out tiles",
            "by_vote": PUBLISHED,
            "non_expert_against_consensus": PUBLISHED_CEILING,
        }
    return figures


def text(figures: dict[str, Any]) -> str:
    """The figures of `summarise` for people."""
    blocks = []
    for name, row in figures["maps"].items():
        if row["legend"]:
            pixels = {int(code): of["pixels"] for code, of in row["codes"].items()}
            lines = [f"{name}: {legends.table(legends.find(row['legend']), pixels)}"]
            if row["warped_tiles"]:
                lines.append(
                    f"  tiles on another grid than the label, warped by nearest neighbour: {row['warped_tiles']}"
                )
            if without := row["tiles_without"]:
                some = ", ".join(without[:3]) + ", ..." * (len(without) > 3)
                lines.append(f"  tiles without a pixel of it: {len(without)} ({some})")
            blocks.append("\n".join(lines))
    if "published" not in figures:
        (vote,) = figures["labelled_pixels"]
        rows = {name: row["labels"][vote] for name, row in figures["maps"].items()}
        blocks.append(_table("map", rows, figures["labelled_pixels"][vote]))
    else:
        for name, row in figures["maps"].items():
            blocks.append(_table(name, row["labels"], figures["labelled_pixels"], figures["published"]["by_vote"]))
        ceiling = figures["published"]["non_expert_against_consensus"]
        blocks.append(
            f"published: {figures['published']['source']}; not computed here. A non-expert agrees with the consensus on {100 * ceiling:.1f} %."
        )
    for name, row in figures["maps"].items():
        vote = "consensus" if "consensus" in row["labels"] else next(iter(row["labels"]))
        blocks.append(f"{name}, against {vote}\n{metrics.table(row['labels'][vote])}")
    blocks += [_pair_text(pair) for pair in figures["pairs"]]
    return "\n\n".join(blocks)


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
    files = {of.name: _tile_files(of.path) for of in maps}
    raw = {name: Raw() for name in names}
    pairs = {pair: Pair() for pair in itertools.combinations(names, 2)}
    labelled: Counter = Counter()
    rows: dict[tuple[str, str], list[tuple[str, dict[str, Any], dict[str, np.ndarray]]]] = collections.defaultdict(list)
    tiles = 0
    for target in targets:
        tiles += 1
        labelled.update({vote: int((label != bands.IGNORE).sum()) for vote, label in target.labels.items()})
        read = [_read_map(of, files[of.name], target, raw[of.name]) for of in maps]
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


def read_workdir(workdir: Path, split: str, dataset: str) -> Network:
    """The sums that `specsar_jax.evaluate --workdir` left, of a workdir or beside a bundle.

    Raises:
        ValueError: it was not run on this split, or on another data set.
    """
    paths = [
        workdir / name if workdir.is_dir() else workdir.with_name(f"{workdir.stem}.{name}")
        for name in (split_file("evaluation", split, "json"), split_file("tiles", split, "npz"))
    ]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"no {missing[0]}; run python -m specsar_jax.evaluate --workdir {shlex.quote(str(workdir))} --split {shlex.quote(split)} before "
            "it is compared"
        )
    figures = json.loads(paths[0].read_text())
    if figures.get("split") != split:  # 'test[-5:]' and 'test[:5%]' are one file name
        raise ValueError(
            f"{paths[0]} is of split {figures.get('split')!r}, not {split!r}; run specsar_jax.evaluate on that one"
        )
    if figures.get("dataset") != dataset:
        raise ValueError(
            f"{workdir} was scored on {figures.get('dataset')}, the maps are to be scored on {dataset}; run specsar_jax.evaluate on that one too"
        )
    temperature = figures.get("calibration", {}).get("temperature", 1.0)
    return Network(workdir.resolve().stem, Tally.read(paths[1]), temperature)


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


def read_codes(
    path: Path, legend: Legend, grid: Grid, tile_id: str = "the tile"
) -> tuple[Integer[np.ndarray, "height width"] | None, bool]:
    """Codes of a raster on a tile's grid, and whether it had to be warped; None if it has no pixel there.

    What the file declares as nodata, what lies beyond it, and what a neighbouring file of Zenodo's has non-finite probabilities for,
    becomes the legend's nodata.

    Raises:
        ValueError: not a raster, cut short, several bands of which none is the one meant, values that are no whole numbers, nodata
            that is a class, a raster or a tile without a place and of another size.
    """
    with open_raster(path) as raster:
        index = _band(path, raster, legend)
        values, valid, warped = _on_grid(path, raster, [index], grid, tile_id)
        declared = raster.nodatavals[index - 1]
    values = values[0]
    if declared is not None and any(code.code == declared and code.becomes for code in legend.codes):
        called = next(code.called for code in legend.codes if code.code == declared)
        raise ValueError(
            f"{path} declares {declared:g} as nodata, which is {called} in legend {legend.name}; give the file another nodata "
            f"(gdal_edit.py -unsetnodata, if it has none) or another --legend"
        )
    if values.dtype.kind == "f":
        valid &= np.isfinite(values)
        values = np.where(valid, values, 0)
        if (values != np.rint(values)).any():
            raise ValueError(
                f"{path} holds {values[values != np.rint(values)][0]:g}, expected codes of legend {legend.name}; are these "
                "probabilities? Give the band of classes"
            )
    probabilities = path.with_name(path.name.replace("label_", "probs_", 1))
    if path.name.startswith("label_") and legend is legends.DYNAMIC_WORLD and probabilities.exists():
        # Where the model gave none, the band of its classes holds one all the same.
        with open_raster(probabilities) as raster:
            shares, known, _ = _on_grid(probabilities, raster, list(raster.indexes), grid, tile_id)
        valid &= known & np.isfinite(shares).all(axis=0)
    return (np.where(valid, values, legend.nodata[0]).astype(np.int64), warped) if valid.any() else (None, warped)


def _tile_files(path: Path) -> dict[str, Path]:
    """Rasters of a folder by tile id; none of a file."""
    if not path.exists():
        raise ValueError(f"no file or folder {path}; expected a raster, or a folder of <tile_id>.tif")
    if not path.is_dir():
        with open_raster(path) as raster:
            if not raster.crs:
                raise ValueError(
                    f"{path} has no CRS, so that nobody knows which tiles it covers; give a folder of <tile_id>.tif"
                )
        return {}
    found: dict[str, Path] = {}
    for file in sorted(file for file in path.rglob("*") if file.suffix.lower() in (".tif", ".tiff")):
        if file.name.startswith("probs_"):
            continue
        tile_id = file.stem.removeprefix("label_")
        if tile_id in found:
            raise ValueError(f"{found[tile_id]} and {file} are both of tile {tile_id}; give one of their folders")
        found[tile_id] = file
    if not found:
        raise ValueError(f"no raster in {path}; expected files <tile_id>.tif")
    return found


def _read_map(of: Map, files: dict[str, Path], target: Target, raw: Raw) -> UInt8[np.ndarray, "height width"] | None:
    """Class ids of a map at a tile, counted in `raw`; None if it has no pixel there."""
    path = files.get(target.tile_id) if of.path.is_dir() else of.path
    if path == of.path and not target.grid.crs:
        raise ValueError(
            f"tile {target.tile_id} has no place, so that {path} cannot be laid over it; give a folder of <tile_id>.tif"
        )
    codes, warped = (None, False) if path is None else read_codes(path, of.legend, target.grid, target.tile_id)
    if codes is None:
        raw.without.append(target.tile_id)
        return None
    _check_size(path, target)
    ids = legends.class_ids(codes, of.legend, str(path))
    raw.warped += warped
    found, counts = np.unique(codes, return_counts=True)
    raw.codes.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    if not (of.legend is legends.DYNAMIC_WORLD and _names_its_codes(path)):
        label = target.labels.get("consensus", next(iter(target.labels.values())))
        counted = (label != bands.IGNORE) & (codes <= 10)
        raw.joint += np.bincount(codes[counted] * 9 + label[counted], minlength=99).reshape(11, 9)
    return ids


def _names_its_codes(path: Path) -> bool:
    """Whether the file says that 0 is water, as maps of ours do: from what number it counts need not be guessed then."""
    with open_raster(path) as raster:
        return raster.tags().get("class_0") == bands.CLASSES[0]


def _check_size(path: Path, target: Target) -> None:
    """Raises a ValueError if a raster without a place is smaller than the labelled part of its tile, which may be padded."""
    with open_raster(path) as raster:
        height, width, placed = *raster.shape, bool(raster.crs and target.grid.crs)
    beyond = any(
        (label[height:] != bands.IGNORE).any() or (label[:, width:] != bands.IGNORE).any()
        for label in target.labels.values()
    )
    if beyond and not placed:
        raise ValueError(
            f"{path} is of {height} x {width} pixels and tile {target.tile_id} is labelled beyond; without a place both must be of one size"
        )


def _band(path: Path, raster: rasterio.DatasetReader, legend: Legend) -> int:
    """The band of classes, counted from 1."""
    names = [(name or "").strip().lower() for name in raster.descriptions]
    for name in legend.band_names:
        if name in names:
            return names.index(name) + 1
    if raster.count > 1:
        wanted = " or ".join(legend.band_names) or "one alone"
        raise ValueError(
            f"{path} has the bands {', '.join(name or '?' for name in names)}, expected {wanted} for legend {legend.name}"
        )
    return 1


def _on_grid(
    path: Path, raster: rasterio.DatasetReader, indexes: list[int], grid: Grid, tile_id: str
) -> tuple[Shaped[np.ndarray, "band height width"], Bool[np.ndarray, "height width"], bool]:
    """Pixels on a grid, where there are any, and whether the raster had to be warped."""
    height, width = grid.height, grid.width
    crs = rasterio.CRS.from_user_input(grid.crs) if grid.crs else None
    placed = raster.crs is not None and crs is not None
    transform = rasterio.Affine(*grid.transform)
    if not placed and max(raster.height - height, raster.width - width) > 0:
        lacking = path if raster.crs is None else f"tile {tile_id}"
        raise ValueError(
            f"{lacking} has no place, and {path} is of {raster.height} x {raster.width} pixels, tile {tile_id} of {height} x {width}; "
            "without a place both must be of one size"
        )
    try:
        if not placed or (raster.crs == crs and raster.transform.almost_equals(transform, precision=1e-6)):
            # A tile may have been padded to the size of the data set, below and to the right.
            window = Window(0, 0, min(width, raster.width), min(height, raster.height))
            pad = ((0, height - window.height), (0, width - window.width))
            values = np.pad(raster.read(indexes, window=window), ((0, 0), *pad))
            valid = np.pad(np.all(raster.read_masks(indexes, window=window), axis=0), pad)
            return values, valid, False
        with WarpedVRT(
            raster,
            crs=crs,
            transform=transform,
            height=height,
            width=width,
            resampling=Resampling.nearest,
            add_alpha=True,  # else what lies beyond the raster reads as 0, which is water
            tolerance=0.01,  # pixels of the raster
        ) as warped:
            # Not its dataset_mask: of other types than uint8 and uint16 GDAL takes no alpha, and all for valid.
            values, valid = warped.read(indexes), warped.read(warped.count) > 0
        for index, of_band in zip(indexes, values, strict=True):
            if raster.nodatavals[index - 1] is not None:
                valid &= of_band != raster.nodatavals[index - 1]
        return values, valid, True
    except RasterioError as error:
        raise ValueError(
            f"cannot read the pixels of {path} at tile {tile_id}; is the file cut short? ({error.__cause__ or error})"
        ) from None


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


def _vote(builder: tfds.core.DatasetBuilder, source: Sequence[dict[str, Any]]) -> str:
    """The vote that the held-out tiles of a data set were prepared with; 'label' of another one, and of other tiles."""
    vote = (builder.info.metadata.get("origin") or {}).get("vote")
    return vote if vote and pipeline.columns(source[0])["annotator"] == bands.HELD_OUT else "label"


def _maps(predictions: Sequence[Path], legend_names: Sequence[str]) -> list[Map]:
    if len(legend_names) not in (1, len(predictions)):
        raise ValueError(
            f"{len(predictions)} --prediction and {len(legend_names)} --legend; expected one --legend for all, or one for each in turn "
            f"({', '.join(legends.LEGENDS)})"
        )
    of_each = list(legend_names) * len(predictions) if len(legend_names) == 1 else legend_names
    maps = [Map(path, legends.find(name)) for path, name in zip(predictions, of_each, strict=True)]
    twice = [name for name, count in Counter(of.name for of in maps).items() if count > 1]
    if twice:
        raise ValueError(f"two --prediction are called {twice[0]}; rename one, tables tell them by their names")
    return maps


def _map_row(of: Map, scored: Scored) -> dict[str, Any]:
    known = {code.code: code for code in of.legend.codes}
    codes = {}
    for number, pixels in sorted(scored.raw[of.name].codes.items()):
        code = known.get(number, legends.Code(number, "no data"))
        codes[str(number)] = {
            "called": code.called,
            "becomes": code.becomes or None,
            "reason": code.reason,
            "pixels": pixels,
        }
    return {
        "path": str(of.path),
        "legend": of.legend.name,
        "codes": codes,
        "warped_tiles": scored.raw[of.name].warped,
        "tiles_without": scored.raw[of.name].without,
        "labels": {},
    }


def _pair(a: str, b: str, tallies: dict[str, dict[str, Tally]], scored: Scored) -> dict[str, Any]:
    votes = [vote for vote in tallies[a] if vote in tallies[b]]
    figures: dict[str, Any] = {"a": a, "b": b, "difference": {}}
    for vote in votes:
        figures["difference"][vote] = accuracy.paired_difference(tallies[a][vote], tallies[b][vote])
    if (a, b) in scored.pairs:
        pair = scored.pairs[a, b]
        figures["agreement_matrix"] = pair.agreement.tolist()
        figures["agreement"] = float(np.trace(pair.agreement) / pair.agreement.sum())
        figures["mcnemar"] = {
            vote: accuracy.mcnemar(pair.only_a_right[vote], pair.only_b_right[vote]) for vote in votes
        }
    return figures


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


_SHOWN = {"mean_iou": "mIoU", "overall_accuracy": "OA", "macro_f1": "macro F1"}


def _table(
    head: str,
    rows: dict[str, dict[str, Any]],
    total: int | dict[str, int],
    published: dict[str, dict[str, float]] | None = None,
) -> str:
    """A line a map, or of one map a line a vote with the published figures of Dynamic World in columns of their own."""
    width = max(map(len, (head, *rows)))
    lines = [f"{head:{width}s}  {'mIoU':20s}  {'OA':20s}  {'macro F1':20s}   kappa  tiles  labelled pixels scored"]
    for name, of in rows.items():
        cells = []
        for key in _SHOWN:
            limits = " to ".join(_percent(limit) for limit in of["intervals"].get(key, ()))
            cells.append(f"{_percent(of[key]):>5s}" + (f" ({limits})" if limits else ""))
        of_all = total[name] if isinstance(total, dict) else total
        shares = f"{'  '.join(f'{cell:20s}' for cell in cells)}  {_percent(of['kappa']):>6s} {of['tiles']:6d}"
        lines.append(f"{name:{width}s}  {shares}  {of['labelled_pixels']:,d} of {of_all:,d}")
    if published is not None:
        length = max(map(len, lines))
        heads = ["| published:  mIoU     OA  macro F1"]
        heads += [
            f"|           {'  '.join(f'{_percent(published.get(vote, {}).get(key)):>5s}' for key in _SHOWN)}"
            for vote in rows
        ]
        lines = [f"{line:{length}s}  {beside}" for line, beside in zip(lines, heads, strict=True)]
    return "\n".join(line.rstrip() for line in lines)


def _pair_text(pair: dict[str, Any]) -> str:
    lines = [f"a = {pair['a']}, b = {pair['b']}"]
    if "agreement" in pair:
        lines[0] += f": one class on {_percent(pair['agreement'])} % of the pixels where both have one"
        matrix = np.array(pair["agreement_matrix"])
        lines.append(
            f"  {'% of pixels, rows = a':22s}" + "".join(f"{name.split('_')[0]:>8s}" for name in bands.CLASSES)
        )
        for name, row in zip(bands.CLASSES, 100 * matrix / matrix.sum(), strict=True):
            lines.append(f"  {name:22s}" + "".join(f"{share:8.2f}" for share in row))
    for vote, of in pair["difference"].items():
        for key, name in _SHOWN.items():
            figure = of["figures"][key]
            line = f"  {vote}: {name} of a - b = {_percent(figure['difference'])}"
            if figure["interval"]:
                low, high = figure["interval"]
                line += f" (95 % of draws of tiles: {_percent(low)} to {_percent(high)}, p = {figure['p_value']:.3g})"
            lines.append(line)
        counts = of["labelled_pixels"]
        if counts["a"] != counts["b"]:
            lines.append(
                f"  {vote}: of a {counts['a']:,d} and of b {counts['b']:,d} labelled pixels of {of['tiles']} tiles were scored; "
                "for the same of both, give the network's maps (specsar_jax.evaluate --workdir ... --maps DIR) as --prediction"
            )
    for vote, test in pair.get("mcnemar", {}).items():
        lines.append(
            f"  {vote}: a alone is right on {test['only_a_right']:,d} pixels, b alone on {test['only_b_right']:,d}; McNemar, {test['test']}, "
            f"p = {test['p_value']:.3g} if pixels were independent"
        )
    return "\n".join(lines)
