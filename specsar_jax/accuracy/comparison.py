"""Scores third-party maps against labels, and compares maps with each other.

Enters: class maps, and a split of a prepared data set or published label tiles. Leaves: the accuracy figures of each map, and
for each pair of maps whether they differ significantly.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from specsar_jax.accuracy import evaluation_files, intervals, legends
from specsar_jax.accuracy.class_maps import Map
from specsar_jax.accuracy.comparison_text import text
from specsar_jax.accuracy.evaluation_files import (
    best_step,
    check_together,
    files_of,
    is_own_dataset,
    name_of,
    other_than,
    read_figures,
)
from specsar_jax.accuracy.figures import GROUPS, check_groups, classes_of, figures_of
from specsar_jax.accuracy.map_scores import Scored, dataset_targets, label_targets, merge_tally, merged_classes, score
from specsar_jax.accuracy.tally import Tally
from specsar_jax.batches import pipeline
from specsar_jax.batches.preprocess import Statistics
from specsar_jax.trained.bundle import read_bundle
from specsar_jax.trained.loading import config_of, find_bundle
from specsar_jax.trained.run_files import read_config, split_file
from tfds_dwplus import bands
from tfds_dwplus.command_line import progress
from tfds_dwplus.files.outputs import output_claimed, write_json
from tfds_dwplus.labels.published import survey
from tfds_dwplus.tiles.prepared import dataset_classes, open_dataset, read_split

PUBLISHED = {
    "strict": {"overall_accuracy": 0.884, "mean_iou": 0.685, "macro_f1": 0.791},
    "consensus": {"overall_accuracy": 0.738, "mean_iou": 0.536, "macro_f1": 0.670},
    "majority": {"overall_accuracy": 0.713, "mean_iou": 0.519, "macro_f1": 0.657},
}
"""Google's Dynamic World model on its 409 held-out tiles, by vote of `tfds_dwplus.labels.label_files.votes`. Source: Brown et al.
2022, Sci. Data 9:251, Technical Validation; mean IoU and F1 were computed from the confusion matrices given there."""

PUBLISHED_CEILING = 0.778
"""Overall accuracy of a non-expert against the experts' consensus. Source: Brown et al. 2022."""


class Network(NamedTuple):
    """A network's sums on a split, as `specsar_jax.evaluate --workdir` wrote them."""

    name: str
    """Name of its workdir or bundle."""
    tally: Tally
    temperature: float
    """Temperature that its probabilities were computed with."""


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
    any_vrt_source: bool = False,
) -> None:
    """Scores maps, prints the figures and writes them as JSON; called by `python -m specsar_jax.evaluate --prediction`.

    Args:
        predictions: rasters, or folders of rasters, one entry per map.
        legend_names: one legend for all maps, or one for each.
        split: split of the data set; for published labels 'test' (the held-out tiles) or 'train'.
        data_dir: folder of prepared data sets; if not given, the one in the workdir's config.
        dataset: NAME of dynamic_world_plus/NAME; if not given, the one in the workdir's config.
        labels: files or folders of published label tiles, to be used instead of a data set.
        workdir: workdir of a network, whose `tiles_<split>.npz` is added to the comparison.
        output: JSON file; `comparison_<split>.json` beside the first prediction if not given.
        groups: columns of the labels to group accuracy by.
        any_vrt_source: whether a prediction that is a VRT may take its pixels from anywhere.

    Raises:
        ValueError: as `score`; no such split, legend or data set; arguments that do not fit together.
    """
    _check_legends(predictions, legend_names)
    beside = predictions[0] if predictions[0].is_dir() else predictions[0].parent
    output = output or beside / split_file("comparison", split, "json")
    ours, classes = None, bands.DYNAMIC_WORLD
    if labels:
        if dataset or data_dir or workdir:
            raise ValueError(
                "--labels takes the place of --dataset, --data_dir and --workdir; to score a network on them, give the maps that "
                "specsar_jax.predict made as --prediction, or a data set that was prepared with the vote as --dataset"
            )
        tiles = [tile for tile in survey(labels).tiles if tile.split == split]
        if not tiles:
            given = ", ".join(map(str, labels))
            raise ValueError(f"no label tile of split {split!r} in {given}; expected 'train' or 'test'")
        named, targets, count = "published labels", label_targets(tiles), len(tiles)
    else:
        if workdir is not None:
            find_bundle(workdir)  # raises if it is neither a workdir nor a bundle
        if workdir is not None and not (data_dir and dataset):
            config = config_of(workdir)
            data_dir, dataset = data_dir or config.data.data_dir, dataset or config.data.name
        if not data_dir or not dataset:
            raise ValueError("no labels: give --data_dir and --dataset of a prepared data set, or --labels")
        builder = open_dataset(data_dir, dataset)
        check_groups(builder, groups)
        classes = dataset_classes(builder)
        source = read_split(builder, split)
        named, targets, count = builder.info.full_name, dataset_targets(source, _vote(builder, source)), len(source)
        if workdir is not None:
            ours = read_workdir(workdir, split, builder)
    maps = _maps(predictions, legend_names, classes, any_vrt_source)
    with output_claimed(output, "--output") as final:
        with progress(iterable=targets, total=count, desc="scoring", unit="tile", leave=False, disable=None) as line:
            scored = score(maps, iter(line), classes)
        figures = {"dataset": named, "split": split} | summarise(maps, scored, ours, groups)
        write_json(final, figures)
    print(text(figures, maps))


def summarise(
    maps: Sequence[Map], scored: Scored, ours: Network | None = None, groups: Sequence[str] = GROUPS
) -> dict[str, Any]:
    """Computes the figures of the comparison from the counts, as plain numbers for JSON.

    Args:
        maps: the scored maps.
        scored: their counts, from `score`.
        ours: sums of a network that was scored on the same split, if any.
        groups: columns of the tiles to group accuracy by.

    Returns:
        `maps`, by name: `path`, `legend`, `codes` (the meaning and number of pixels of each), `warped_tiles`, `tiles_without`, and
        `labels`, by vote: the keys of `evaluation_<split>.json`. `labelled_pixels` of all tiles, by vote. `merged`: classes counted
        as one. `pairs`: for each two maps `agreement_matrix` (pixels, rows = a), `agreement`, and by vote `mcnemar` and
        `difference`; a pair with a network has only `difference`, as its pixels are not kept. `published`: with labels by vote.
    """
    merged = merged_classes(scored_map.legend for scored_map in maps)
    tallies = {name: dict(by_vote) for name, by_vote in scored.tallies.items()}
    rows = {scored_map.name: _map_row(scored_map, scored) for scored_map in maps}
    if ours is not None:
        name = f"{ours.name} (network)" if ours.name in tallies else ours.name
        ((vote, first_tally),) = tallies[maps[0].name].items()
        tile_ids = set(first_tally.tile_id.tolist())
        tally = ours.tally.choose(np.array([tile_id in tile_ids for tile_id in ours.tally.tile_id.tolist()], bool))
        if not len(tally):
            raise ValueError(f"{name} has no tile of those that {maps[0].path} covers; score both on one split")
        tallies = {name: {vote: merge_tally(tally, merged, scored.classes)}} | tallies
        rows = {name: {"path": None, "legend": None, "labels": {}}} | rows
    for name, by_vote in tallies.items():
        temperature = ours.temperature if ours is not None else 1.0  # maps have no probabilities
        rows[name]["labels"] = {
            vote: {"tiles": len(tally)} | figures_of(tally, scored.classes, temperature, groups)
            for vote, tally in by_vote.items()
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


def read_workdir(workdir: Path, split: str, builder: tfds.core.DatasetBuilder) -> Network:
    """Reads the sums that `specsar_jax.evaluate --workdir` wrote into a workdir or beside a bundle.

    Raises:
        ValueError: `evaluate` was not run on this split of this data set with these weights, or the files are not of one evaluation.
    """
    dataset, bundle = name_of(builder.info.full_name), find_bundle(workdir)
    trained = read_bundle(bundle) if bundle is not None else None
    if trained is not None:
        own = is_own_dataset(trained.config, trained.statistics, builder)
    else:
        statistics = workdir / "statistics.json"  # without it the folder holds nothing but evaluations
        own = not statistics.is_file() or is_own_dataset(read_config(workdir), Statistics.read(statistics), builder)
    files = files_of(workdir, split) if own else files_of(workdir, split, dataset, "" if trained else "best")
    place = () if own else ("--data_dir", str(builder.data_path.parents[2]), "--dataset", dataset)
    again = f"run {evaluation_files.again(workdir, split, *place)}"
    if missing := [path for path in files if not path.is_file()]:
        raise ValueError(f"no {missing[0]}; {again} before it is compared")
    figures = read_figures(files.figures)
    step = best_step(workdir) if trained is None else None
    if other := other_than(figures, dataset=dataset, split=split, step=step, builder=builder):
        raise ValueError(f"{files.figures} is {other}; {again}")
    if trained is not None and figures.get("weights_sha256", trained.sha256) != trained.sha256:
        raise ValueError(f"{files.figures} is of other weights than those of {bundle}; {again}")
    tally = Tally.read(files.tiles)
    check_together(files, figures, tally)
    if classes_of(figures).names != dataset_classes(builder).names:
        raise ValueError(f"{files.figures} is of other classes than {builder.info.full_name}; {again}")
    return Network(workdir.resolve().stem, tally, figures.get("calibration", {}).get("temperature", 1.0))


def _vote(builder: tfds.core.DatasetBuilder, source: Sequence[dict[str, Any]]) -> str:
    """Returns the vote that a split of held-out tiles was prepared with; 'label' for any other split."""
    vote = (builder.info.metadata.get("origin") or {}).get("vote")
    return vote if vote and pipeline.columns(source[0])["annotator"] == bands.HELD_OUT else "label"


def _check_legends(predictions: Sequence[Path], legend_names: Sequence[str]) -> None:
    """Raises a ValueError unless there is one legend for all maps, or one for each."""
    if len(legend_names) not in (1, len(predictions)):
        raise ValueError(
            f"{len(predictions)} --prediction and {len(legend_names)} --legend; expected one --legend for all, or one for each in turn "
            f"({', '.join(legends.LEGENDS)}, {legends.OWN}, codes.csv)"
        )


def _maps(
    predictions: Sequence[Path], legend_names: Sequence[str], classes: bands.Classes, any_vrt_source: bool
) -> list[Map]:
    legend_of_each = list(legend_names) * len(predictions) if len(legend_names) == 1 else legend_names
    maps = [
        Map(path, legends.find(name, classes), any_vrt_source)
        for path, name in zip(predictions, legend_of_each, strict=True)
    ]
    twice = [name for name, count in Counter(given.name for given in maps).items() if count > 1]
    if twice:
        raise ValueError(f"two --prediction are called {twice[0]}; rename one, as tables identify them by name")
    return maps


def _map_row(scored_map: Map, scored: Scored) -> dict[str, Any]:
    known = {code.code: code for code in scored_map.legend.codes}
    raw, codes = scored.raw[scored_map.name], {}
    for number, pixels in sorted(raw.codes.items()):
        code = known.get(number, legends.Code(number, "no data"))
        codes[str(number)] = {
            "called": code.called,
            "becomes": code.becomes or None,
            "reason": code.reason,
            "pixels": pixels,
        }
    return {
        "path": str(scored_map.path),
        "legend": scored_map.legend.name,
        "codes": codes,
        "warped_tiles": raw.warped,
        "tiles_without": raw.without,
        "labels": {},
    }


def _pair(a: str, b: str, tallies: dict[str, dict[str, Tally]], scored: Scored) -> dict[str, Any]:
    votes = [vote for vote in tallies[a] if vote in tallies[b]]
    figures: dict[str, Any] = {"a": a, "b": b, "difference": {}}
    for vote in votes:
        figures["difference"][vote] = intervals.paired_difference(tallies[a][vote], tallies[b][vote])
    if (a, b) in scored.pairs:
        pair = scored.pairs[a, b]
        figures["agreement_matrix"] = pair.agreement.tolist()
        figures["agreement"] = float(np.trace(pair.agreement) / pair.agreement.sum())
        figures["mcnemar"] = {
            vote: intervals.mcnemar(pair.only_a_right[vote], pair.only_b_right[vote]) for vote in votes
        }
    return figures
