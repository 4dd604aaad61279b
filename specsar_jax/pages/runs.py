"""Reads the runs of a report from the files of their workdirs.

Enters: workdirs, or exported bundles, with an evaluation of a split. Leaves: config, statistics, figures, sums of the tiles and run log of each. Figures
come from `evaluation_<split>.json`, sums from `tiles_<split>.npz`; `without_sums` finds the runs that lack the latter. Figures of
another data set or split, and sums of another evaluation, are refused.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from specsar_jax.accuracy import evaluation_files
from specsar_jax.accuracy.evaluation_files import (
    Files,
    best_step,
    check_together,
    files_of,
    is_own_dataset,
    name_of,
    other_than,
    read_figures,
)
from specsar_jax.accuracy.figures import classes_of
from specsar_jax.accuracy.tally import Tally
from specsar_jax.batches.preprocess import Statistics
from specsar_jax.config import Config
from specsar_jax.trained.bundle import read_bundle
from specsar_jax.trained.loading import find_bundle
from specsar_jax.trained.run_files import log_event, read_config
from tfds_dwplus.bands import Classes
from tfds_dwplus.files.strangers import one_line, read_bytes, read_object
from tfds_dwplus.tiles.labelling import annotators
from tfds_dwplus.tiles.prepared import open_dataset

_MOST_RUNS = 6

_MOST_LOG_BYTES = 1 << 30
"""Of a run log: some 300 bytes a line."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run and one of its evaluations, as read from its workdir."""

    name: str
    workdir: Path
    config: Config
    statistics: Statistics
    figures: dict[str, Any]
    """Content of `evaluation_<split>.json`."""
    tally: Tally
    journal: dict[str, list[dict[str, float]]]
    """The run log: events of `metrics.jsonl` by kind, numbers only."""
    started: dict[str, Any]
    """Content of `run.json`: versions, devices, command; empty if the file is missing."""
    dataset: tfds.core.DatasetBuilder | None
    dataset_missing: str
    """Reason why the data set, and with it pictures, are missing; else empty."""
    best: int | None = None
    """Step of the best checkpoint; None if none is kept."""
    weights_origin: str = ""
    weights_licence: str = ""
    """Who made the weights, and their licence, as a bundle tells it; '' if not known."""

    def interval(self, path: str) -> list[float] | None:
        """Returns the 95 % interval of a figure by its dotted path."""
        return self.figures.get("intervals", {}).get(path)

    @property
    def classes(self) -> Classes:
        """Returns the classes of the evaluation."""
        return classes_of(self.figures)

    @property
    def dataset_name(self) -> str:
        """Returns the NAME of the data set dynamic_world_plus/NAME of the evaluation."""
        return name_of(self.figures["dataset"])

    @property
    def origin(self) -> dict[str, Any]:
        """Returns the origin of the data, from the metadata of the data set."""
        return (self.dataset.info.metadata.get("origin") if self.dataset else None) or {}

    @property
    def agreement(self) -> str:
        """Returns a sentence if the labels that were scored are of a network, so that the figures are no accuracy; else ''."""
        return annotators.not_accuracy(self.figures.get("labelled_by", {}))

    @property
    def taught(self) -> str:
        """Returns a sentence if networks labelled tiles that the run learned from; else ''."""
        return annotators.taught(self.statistics.labelled_by)

    @property
    def simulated(self) -> bool:
        """Returns whether the tiles are simulated."""
        return str(self.origin.get("source", "")).startswith("SIMULATED") or self.config.data.name == "simulated"


def read_runs(workdirs: Sequence[Path], split: str, data_dir: Path | str | None = None, dataset: str = "") -> list[Run]:
    """Reads the runs of several workdirs.

    Args:
        workdirs: of the runs.
        split: that was evaluated.
        data_dir: folder of prepared data sets; if not given, that of each run's config.
        dataset: NAME of the data set that was evaluated; if not given, each run's own.

    Raises:
        ValueError: not a workdir, no evaluation of the split or one of something else, or runs with different classes; no data set in
            `data_dir`, if given.
    """
    names = _names(workdirs)
    runs = [read_run(*of, split, data_dir, dataset) for of in zip(workdirs, names, strict=True)]
    first = runs[0]
    for other in runs[1:]:
        if other.figures["classes"] != first.figures["classes"]:
            names = "; ".join(one_line(", ".join(run.figures["classes"]), 200) for run in (first, other))
            raise ValueError(
                f"{first.workdir} and {other.workdir} have different classes ({names}) and cannot be compared; report on each by itself"
            )
    return runs


def mixtures(runs: Sequence[Run]) -> list[str]:
    """Returns a line for each run whose figures are of another checkpoint than its best, or of other data than the first run's."""
    said = [line for run in runs if (line := not_of_the_best(run))]
    for run in runs[1:]:
        if not of_same_data(run, runs[0]):
            said.append(
                f"{run.name} was evaluated on {run.figures['dataset']}, {runs[0].name} on "
                f"{'another' if (first := runs[0].figures['dataset']) == run.figures['dataset'] else first}: not to be compared"
            )
    return said


def not_of_the_best(run: Run) -> str:
    """Returns a line if a run was not evaluated with its best checkpoint; '' if it was, or if that is not known."""
    if run.best in (None, run.figures["step"]):
        return ""
    return f"{run.name} was evaluated at step {run.figures['step']}, but its best checkpoint is of step {run.best}: evaluate again"


def of_same_data(run: Run, other: Run) -> bool:
    """Returns whether two runs were evaluated on one data set, as far as is known: two folders may hold other ones of one name."""
    digests = {run.figures.get("data_sha256"), other.figures.get("data_sha256")}
    return run.figures["dataset"] == other.figures["dataset"] and (None in digests or len(digests) == 1)


def without_sums(
    workdirs: Sequence[Path], split: str, data_dir: Path | str | None = None, dataset: str = ""
) -> list[tuple[Path, list[str]]]:
    """Returns the file of the sums of tiles, and arguments of `specsar_jax.evaluate` that write it, for each run that has figures of a
    split, but not that file.

    Raises:
        ValueError: a workdir is given twice, there are too many, one is not a workdir or has no figures of the split.
    """
    if len(set(workdirs)) < len(workdirs):
        raise ValueError("a --workdir is given twice; give each run once")
    if len(workdirs) > _MOST_RUNS:
        raise ValueError(f"{len(workdirs)} workdirs are given, expected {_MOST_RUNS} at most")
    missing = []
    for workdir in workdirs:
        found = _find(workdir, split, data_dir, dataset)
        _read_figures(found, split)
        if not found.files.tiles.is_file():
            place = ("--data_dir", found.folder, "--dataset", found.name)
            missing.append((found.files.tiles, ["--workdir", str(workdir), "--split", split, *place]))
    return missing


def read_run(workdir: Path, name: str, split: str, data_dir: Path | str | None = None, dataset: str = "") -> Run:
    """Reads the run of a workdir. Raises ValueError as `read_runs`."""
    found = _find(workdir, split, data_dir, dataset)
    figures = _read_figures(found, split)
    tally = Tally.read(found.files.tiles)
    check_together(found.files, figures, tally)
    return Run(
        name,
        workdir,
        found.config,
        found.statistics,
        figures,
        tally,
        read_journal(workdir / "metrics.jsonl"),
        _read_started(workdir / "run.json"),
        found.dataset,
        found.missing,
        best_step(workdir),
        found.weights_origin,
        found.weights_licence,
    )


class _Found(NamedTuple):
    """A run, and where its evaluation on a data set lies."""

    workdir: Path
    config: Config
    statistics: Statistics
    weights_origin: str
    weights_licence: str
    folder: str
    """Of prepared data sets."""
    name: str
    """NAME of the data set."""
    dataset: tfds.core.DatasetBuilder | None
    missing: str
    """Reason why there is no `dataset`; else empty."""
    own: bool
    """Whether it is the run's own."""
    files: Files


def _find(workdir: Path, split: str, data_dir: Path | str | None, dataset: str) -> _Found:
    """Finds the evaluation of a run, or of a bundle. Raises ValueError if it is neither, or `data_dir` is given and lacks the data set."""
    bundle, made_by = find_bundle(workdir), ("", "")
    if bundle is None:
        config, statistics = read_config(workdir), Statistics.read(workdir / "statistics.json")
    else:
        trained = read_bundle(bundle)
        config, statistics, made_by = trained.config, trained.statistics, (trained.origin, trained.licence)
    folder, name = data_dir if data_dir is not None else config.data.data_dir, dataset or config.data.name
    try:
        builder, missing = open_dataset(folder, name), ""
        own = is_own_dataset(config, statistics, builder)
    except ValueError as error:
        if data_dir is not None:
            raise
        builder, missing = None, str(error)
        own = name == config.data.name
    files = files_of(workdir, split) if own else files_of(workdir, split, name, "" if bundle else "best")
    return _Found(workdir, config, statistics, *made_by, str(folder), name, builder, missing, own, files)


def read_journal(path: Path) -> dict[str, list[dict[str, float]]]:
    """Reads the numbers of a run log (`metrics.jsonl`) by kind of event; skips truncated lines; empty if the file is missing."""
    events: dict[str, list[dict[str, float]]] = {"train": [], "eval": [], "skipped": []}
    if not path.is_file():
        return events
    for line in read_bytes(path, _MOST_LOG_BYTES).decode(errors="replace").splitlines():
        if event := log_event(line):
            numbers = {key: float(x) for key, x in event.items() if isinstance(x, int | float) and abs(x) < 1e300}
            events.setdefault(event["kind"], []).append(numbers)
    return events


def _read_figures(found: _Found, split: str) -> dict[str, Any]:
    """Reads the figures of an evaluation. Raises ValueError if they are missing, incomplete, or of another split or data set."""
    path = found.files.figures
    again = evaluation_files.again(
        found.workdir, split, *(() if found.own else ("--data_dir", found.folder, "--dataset", found.name))
    )
    if not path.is_file():
        there = ", ".join(sorted(file.name for file in found.workdir.glob("evaluation_*.json"))) or "none"
        on = "" if found.own else f" on {found.name} of {found.folder}"
        raise ValueError(
            f"{found.workdir} has no evaluation of split {split!r}{on} (found: {there}); make it with {again}"
        )
    figures = read_figures(path)
    needed = (
        *("dataset", "split", "step", "tiles", "labelled_pixels"),
        *("classes", "confusion_matrix", "per_class", "mean_iou", "overall_accuracy"),
    )
    missing = [key for key in needed if key not in figures]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}; write it again with {again}")
    classes, keys = figures["classes"], {"iou", "f1", "precision", "recall", "pixels"}
    complete = all(keys <= set(figures["per_class"].get(name, ())) for name in classes)
    if not classes or len(figures["confusion_matrix"]) != len(classes) or not complete:
        raise ValueError(f"{path} lacks figures of some of its {len(classes)} classes; write it again with {again}")
    if other := other_than(figures, dataset=found.name, split=split, builder=found.dataset):
        raise ValueError(f"{path} is {other}; write it again with {again}")
    if not figures["labelled_pixels"]:
        raise ValueError(f"{path} has no labelled pixel, so there is no figure to report; give another --split")
    return figures


def _read_started(path: Path) -> dict[str, Any]:
    """Reads `run.json`; leaves out entries whose type is not the one that training writes."""
    kinds = {"started": str, "step": int, "command": list, "python": str, "platform": str, "devices": str}
    kinds |= {"processes": int, "versions": dict, "earlier": list}
    tree = read_object(path, finite=False, unpaired=True) if path.is_file() else {}
    return {name: tree[name] for name, kind in kinds.items() if isinstance(tree.get(name), kind)}


def _names(workdirs: Sequence[Path]) -> list[str]:
    """Returns the shortest path endings that differ, as names of the runs."""
    paths = [workdir.resolve().parts for workdir in workdirs]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    raise ValueError("a --workdir is given twice; give each run once")
