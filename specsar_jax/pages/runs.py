"""Reads the runs of a report from the files of their workdirs.

Enters: workdirs with an evaluation of a split. Leaves: config, statistics, figures, sums of the tiles and run log of each. Figures
come from `evaluation_<split>.json`, sums from `tiles_<split>.npz`; `without_sums` finds the runs that lack the latter.
"""

import dataclasses
import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from specsar_jax.accuracy.tally import Tally
from specsar_jax.batches.preprocess import Statistics
from specsar_jax.config import Config
from specsar_jax.trained.run_files import read_config, split_file
from tfds_dwplus.tiles.prepared import open_dataset

_MOST_RUNS = 6


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

    def interval(self, path: str) -> list[float] | None:
        """Returns the 95 % interval of a figure by its dotted path."""
        return self.figures.get("intervals", {}).get(path)

    @property
    def dataset_name(self) -> str:
        """Returns the NAME of the data set dynamic_world_plus/NAME of the evaluation."""
        return _dataset_name(self.figures)

    @property
    def origin(self) -> dict[str, Any]:
        """Returns the origin of the data, from the metadata of the data set."""
        return (self.dataset.info.metadata.get("origin") if self.dataset else None) or {}

    @property
    def simulated(self) -> bool:
        """Returns whether the tiles are simulated."""
        return str(self.origin.get("source", "")).startswith("SIMULATED") or self.config.data.name == "simulated"


def read_runs(workdirs: Sequence[Path], split: str, data_dir: str | None = None) -> list[Run]:
    """Reads the runs of several workdirs.

    Raises:
        ValueError: not a workdir, no evaluation of the split, or runs with different classes; no data set in `data_dir`, if given.
    """
    names = _names(workdirs)
    runs = [read_run(workdir, name, split, data_dir) for workdir, name in zip(workdirs, names, strict=True)]
    first = runs[0]
    for other in runs[1:]:
        if other.figures["classes"] != first.figures["classes"]:
            raise ValueError(
                f"{first.workdir} and {other.workdir} have different classes ({', '.join(first.figures['classes'])}; "
                f"{', '.join(other.figures['classes'])}) and cannot be compared; report on each by itself"
            )
    return runs


def without_sums(workdirs: Sequence[Path], split: str, data_dir: str | None = None) -> list[list[str]]:
    """Returns arguments of `specsar_jax.evaluate` for each run that has figures of a split, but not the sums of its tiles.

    Raises:
        ValueError: a workdir is given twice, there are too many, one is not a workdir or has no figures of the split.
    """
    if len(set(workdirs)) < len(workdirs):
        raise ValueError("a --workdir is given twice; give each run once")
    if len(workdirs) > _MOST_RUNS:
        raise ValueError(f"{len(workdirs)} workdirs are given, expected {_MOST_RUNS} at most")
    arguments = []
    for workdir in workdirs:
        folder = data_dir if data_dir is not None else read_config(workdir).data.data_dir
        figures = _read_figures(workdir, split)
        if not (workdir / split_file("tiles", split, "npz")).is_file():
            data = ("--split", split, "--data_dir", str(folder), "--dataset", _dataset_name(figures))
            arguments.append(["--workdir", str(workdir), *data])
    return arguments


def read_run(workdir: Path, name: str, split: str, data_dir: str | None = None) -> Run:
    """Reads the run of a workdir. Raises ValueError as `read_runs`."""
    config = read_config(workdir)
    statistics = Statistics.read(workdir / "statistics.json")
    figures = _read_figures(workdir, split)
    folder = data_dir if data_dir is not None else config.data.data_dir
    tiles = workdir / split_file("tiles", split, "npz")
    try:
        dataset, missing = open_dataset(folder, _dataset_name(figures)), ""
    except ValueError as error:
        if data_dir is not None:
            raise
        dataset, missing = None, str(error)
    tally = Tally.read(tiles)
    if int(tally.confusion.sum()) != figures["labelled_pixels"]:
        raise ValueError(
            f"{workdir}: {split_file('evaluation', split, 'json')} and {tiles.name} are not of one evaluation ("
            f"{figures['labelled_pixels']} and {int(tally.confusion.sum())} labelled pixels); write both again with "
            "python -m specsar_jax.evaluate"
        )
    return Run(
        name,
        workdir,
        config,
        statistics,
        figures,
        tally,
        read_journal(workdir / "metrics.jsonl"),
        _read_started(workdir / "run.json"),
        dataset,
        missing,
    )


def read_journal(path: Path) -> dict[str, list[dict[str, float]]]:
    """Reads the numbers of a run log (`metrics.jsonl`) by kind of event; skips truncated lines; empty if the file is missing."""
    events: dict[str, list[dict[str, float]]] = {"train": [], "eval": [], "skipped": []}
    if not path.is_file():
        return events
    with path.open() as file:
        for line in file:
            try:
                event = json.loads(line)
                kind, step = event["kind"], float(event["step"])
            except (ValueError, KeyError, TypeError):
                continue
            numbers = {key: float(x) for key, x in event.items() if isinstance(x, int | float) and math.isfinite(x)}
            events.setdefault(kind, []).append(numbers | {"step": step})
    return events


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds a {type(tree).__name__}, expected an object")
    return tree


def _read_figures(workdir: Path, split: str) -> dict[str, Any]:
    """Reads `evaluation_<split>.json` of a workdir. Raises ValueError if it is missing, incomplete, or of another split."""
    path = workdir / split_file("evaluation", split, "json")
    if not path.is_file():
        found = ", ".join(sorted(file.name for file in workdir.glob("evaluation_*.json"))) or "none"
        raise ValueError(
            f"{workdir} has no evaluation of split {split!r} (found: {found}); make it with python -m specsar_jax.evaluate "
            f"--workdir {shlex.quote(str(workdir))} --split {shlex.quote(split)}"
        )
    figures = _read_json(path)
    needed = (
        *("dataset", "split", "step", "tiles", "labelled_pixels"),
        *("classes", "confusion_matrix", "per_class", "mean_iou", "overall_accuracy"),
    )
    missing = [key for key in needed if key not in figures]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}; write it again with python -m specsar_jax.evaluate")
    classes, keys = figures["classes"], {"iou", "f1", "precision", "recall", "pixels"}
    complete = all(keys <= set(figures["per_class"].get(name, ())) for name in classes)
    if np.shape(figures["confusion_matrix"]) != (len(classes), len(classes)) or not complete:
        raise ValueError(
            f"{path} lacks figures of some of its {len(classes)} classes; write it again with specsar_jax.evaluate"
        )
    if figures["split"] != split:  # 'test[-5:]' and 'test[:5%]' give the same file name
        raise ValueError(
            f"{path} is of split {figures['split']!r}, not {split!r}; make that with python -m specsar_jax.evaluate --split"
        )
    if not figures["labelled_pixels"]:
        raise ValueError(f"{path} has no labelled pixel, so there is no figure to report; give another --split")
    return figures


def _read_started(path: Path) -> dict[str, Any]:
    """Reads `run.json`; leaves out entries whose type is not the one that training writes."""
    kinds = {"started": str, "step": int, "command": list, "python": str, "platform": str, "devices": str}
    kinds |= {"processes": int, "versions": dict, "earlier": list}
    tree = _read_json(path) if path.is_file() else {}
    return {name: tree[name] for name, kind in kinds.items() if isinstance(tree.get(name), kind)}


def _dataset_name(figures: dict[str, Any]) -> str:
    """Returns the name of the data set: 'dynamic_world_plus/mine/1.0.0' -> 'mine'."""
    return str(figures["dataset"]).split("/")[1] if "/" in str(figures["dataset"]) else str(figures["dataset"])


def _names(workdirs: Sequence[Path]) -> list[str]:
    """Returns the shortest path endings that differ, as names of the runs."""
    paths = [workdir.resolve().parts for workdir in workdirs]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    raise ValueError("a --workdir is given twice; give each run once")
