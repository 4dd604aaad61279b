"""Runs as a report tells of them: what stands in the files of a workdir.

Enters: workdirs with an evaluation of a split. Leaves: config, statistics, figures, sums of the tiles and journal of each. Figures
are those of `evaluation_<split>.json`; the network is run only where the sums in `tiles_<split>.npz` are missing.
"""

import dataclasses
import json
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from specsar_jax import checkpoints, evaluate
from specsar_jax.config import Config
from specsar_jax.figures import split_file
from specsar_jax.preprocess import Statistics
from specsar_jax.tally import Tally
from tfds_dwplus.prepared import open_dataset

_MOST_RUNS = 6


@dataclasses.dataclass(frozen=True)
class Run:
    """What the files of a workdir say of a run and of its evaluation."""

    name: str
    workdir: Path
    config: Config
    statistics: Statistics
    figures: dict[str, Any]
    """Of `evaluation_<split>.json`."""
    tally: Tally
    journal: dict[str, list[dict[str, float]]]
    """Events of `metrics.jsonl` by kind, numbers only."""
    started: dict[str, Any]
    """Of `run.json`: versions, devices, command; empty if there is none."""
    dataset: tfds.core.DatasetBuilder | None
    dataset_missing: str
    """Why there is no data set to take pictures from."""

    def interval(self, path: str) -> list[float] | None:
        """The 95 % interval of a figure by its dotted path."""
        return self.figures.get("intervals", {}).get(path)

    @property
    def dataset_name(self) -> str:
        """NAME of dynamic_world_plus/NAME that it was evaluated on."""
        return _dataset_name(self.figures)

    @property
    def origin(self) -> dict[str, Any]:
        """What the data set says it was made from."""
        return (self.dataset.info.metadata.get("origin") if self.dataset else None) or {}

    @property
    def simulated(self) -> bool:
        """Whether no pixel of it was measured."""
        return str(self.origin.get("source", "")).startswith("SIMULATED") or self.config.data.name == "simulated"


def read_runs(workdirs: Sequence[Path], split: str, data_dir: str | None = None) -> list[Run]:
    """The runs of some workdirs.

    Raises:
        ValueError: not a workdir, no evaluation of the split, or runs of different classes; no data set in `data_dir`, where
            that is given.
    """
    if len(set(workdirs)) < len(workdirs):
        raise ValueError("a --workdir is given twice; give each run once")
    if len(workdirs) > _MOST_RUNS:
        raise ValueError(f"{len(workdirs)} workdirs are given, expected {_MOST_RUNS} at most")
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


def read_run(workdir: Path, name: str, split: str, data_dir: str | None = None) -> Run:
    """The run of a workdir. Raises ValueError as `read_runs` does."""
    config = checkpoints.read_config(workdir)
    statistics = Statistics.read(workdir / "statistics.json")
    path = workdir / split_file("evaluation", split, "json")
    if not path.is_file():
        found = ", ".join(sorted(of.name for of in workdir.glob("evaluation_*.json"))) or "none"
        raise ValueError(
            f"{workdir} has no evaluation of split {split!r} (found: {found}); make it with python -m specsar_jax.evaluate "
            f"--workdir {shlex.quote(str(workdir))} --split {shlex.quote(split)}"
        )
    figures = _read_figures(path, split)
    folder = data_dir if data_dir is not None else config.data.data_dir
    tiles = workdir / split_file("tiles", split, "npz")
    if not tiles.is_file():
        print(f"{workdir} has no {tiles.name}: the network is run over {split} again", file=sys.stderr)
        of = ("--split", split, "--data_dir", str(folder), "--dataset", _dataset_name(figures))
        evaluate.main(["--workdir", str(workdir), *of])
        figures = _read_figures(path, split)
    try:
        dataset, missing = open_dataset(folder, _dataset_name(figures)), ""
    except ValueError as error:
        if data_dir is not None:
            raise
        dataset, missing = None, str(error)
    tally = Tally.read(tiles)
    if int(tally.confusion.sum()) != figures["labelled_pixels"]:
        raise ValueError(
            f"{path} and {tiles.name} are not of one evaluation ({figures['labelled_pixels']} and {int(tally.confusion.sum())} "
            "labelled pixels); write both again with python -m specsar_jax.evaluate"
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
    """The numbers of a `metrics.jsonl` by kind of event; a line cut short does not count, nor does a missing file."""
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
            plain = {key: float(of) for key, of in event.items() if isinstance(of, int | float) and math.isfinite(of)}
            events.setdefault(kind, []).append(plain | {"step": step})
    return events


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds a {type(tree).__name__}, expected an object")
    return tree


def _read_figures(path: Path, split: str) -> dict[str, Any]:
    figures = _read_json(path)
    needed = (
        *("dataset", "split", "step", "tiles", "labelled_pixels"),
        *("classes", "confusion_matrix", "per_class", "mean_iou", "overall_accuracy"),
    )
    missing = [key for key in needed if key not in figures]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}; write it again with python -m specsar_jax.evaluate")
    classes, of_class = figures["classes"], {"iou", "f1", "precision", "recall", "pixels"}
    whole = all(of_class <= set(figures["per_class"].get(name, ())) for name in classes)
    if np.shape(figures["confusion_matrix"]) != (len(classes), len(classes)) or not whole:
        raise ValueError(
            f"{path} does not tell all of its {len(classes)} classes; write it again with specsar_jax.evaluate"
        )
    if figures["split"] != split:  # 'test[-5:]' and 'test[:5%]' are one file name
        raise ValueError(
            f"{path} is of split {figures['split']!r}, not {split!r}; make that with python -m specsar_jax.evaluate --split"
        )
    if not figures["labelled_pixels"]:
        raise ValueError(f"{path} has no labelled pixel, so there is no figure to report; give another --split")
    return figures


def _read_started(path: Path) -> dict[str, Any]:
    """What `run.json` says, as far as it is what training writes there."""
    kinds = {"started": str, "step": int, "command": list, "python": str, "platform": str, "devices": str}
    kinds |= {"processes": int, "versions": dict, "earlier": list}
    tree = _read_json(path) if path.is_file() else {}
    return {name: tree[name] for name, kind in kinds.items() if isinstance(tree.get(name), kind)}


def _dataset_name(figures: dict[str, Any]) -> str:
    """'dynamic_world_plus/mine/1.0.0' -> 'mine'."""
    return str(figures["dataset"]).split("/")[1] if "/" in str(figures["dataset"]) else str(figures["dataset"])


def _names(workdirs: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [workdir.resolve().parts for workdir in workdirs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(of[-length:]) for of in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError("a --workdir is given twice; give each run once")
