"""Accuracy tables of the README: trains what is not trained yet, scores on test splits, prints Markdown.

    python benchmarks/results.py [--real ../shared/real]

Simulated tiles: both sensors against Sentinel-2 alone. Real chips (BigEarthNet with CORINE labels), three seeds each: the
network from scratch and from weights learnt on simulated tiles, and a random forest on means over 9 x 9 pixels. About half an
hour on two cores; runs are kept in `runs/` and reused.
"""

import argparse
import dataclasses
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier

from specsar_jax import config as configs
from specsar_jax.accuracy import metrics
from specsar_jax.devices.compilation import keep_compiled_programs
from specsar_jax.training.loop import train
from tfds_dwplus import DynamicWorldPlusConfig, bands
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles.prepared import open_dataset

SEEDS = (0, 1, 2)
REPOSITORY = Path(__file__).parent.parent


def trained(name: str, workdir: str, *flags: str) -> dict[str, Any]:
    """Figures of the test split of a config with some fields changed."""
    config = configs.override(configs.load(REPOSITORY / "configs" / f"{name}.py"), flags)
    return train(config, Path("runs") / workdir)


def forest(learnt: Iterable[dict[str, Any]], scored: list[list[dict[str, Any]]], seed: int) -> list[np.ndarray]:
    """Confusion on each list of records in `scored` of a random forest on the means of all bands over 9 x 9 pixels of `learnt`."""

    def pixels(records: Iterable[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        features, labels = [], []
        for record in records:
            stacked = np.concatenate([record["s2"].astype(np.float32), record["s1"]], axis=-1)
            means = ndimage.uniform_filter(stacked, (9, 9, 1))
            kept = bands.valid_pixels(record["s2"], record["s1"], ("s2", "s1")) & (record["label"] != bands.IGNORE)
            features.append(means[kept])
            labels.append(record["label"][kept])
        return np.concatenate(features), np.concatenate(labels)

    features, labels = pixels(learnt)
    chosen = np.random.default_rng(seed).choice(len(labels), min(len(labels), 60_000), replace=False)
    model = RandomForestClassifier(200, min_samples_leaf=5, n_jobs=-1, random_state=seed)
    model.fit(features[chosen], labels[chosen])
    confusions = []
    for records in scored:
        features, labels = pixels(records)
        confusions.append(np.zeros((len(bands.CLASSES),) * 2, np.int64))
        np.add.at(confusions[-1], (labels, model.predict(features)), 1)
    return confusions


def row(name: str, of: str, runs: list[dict[str, Any]]) -> str:
    """A line of a Markdown table, in percent: the mean of the runs, and their standard deviation where there are several."""
    cells = []
    for key in ("mean_iou", "overall_accuracy", "macro_f1", "kappa"):
        values = [100 * run[key] for run in runs]
        cells.append(f"{np.mean(values):.1f}" + (f" ({np.std(values, ddof=1):.1f})" if len(values) > 1 else ""))
    return f"| {name} | {of} | " + " | ".join(cells) + " |"


def spread(of: str, run: dict[str, Any]) -> str:
    """The bootstrap intervals of a run, in percent."""
    low_high = {
        key: [f"{100 * limit:.0f}" for limit in run["intervals"][key]] for key in ("overall_accuracy", "mean_iou")
    }
    told = (f"{' to '.join(limits)} ({key})" for key, limits in low_high.items())
    return f"{of}: in 95 % of draws of its {run['tiles']} test tiles with replacement {', '.join(told)}."


def main() -> None:
    """Trains, scores, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=REPOSITORY.parent / "shared" / "real")
    args = parser.parse_args()
    keep_compiled_programs()
    rows, notes = [], []
    for name, what in (("quickstart", "both sensors"), ("quickstart_s2", "Sentinel-2 alone")):
        rows.append(row(f"simulated (`configs/{name}.py`)", what, [trained(name, name)]))
    if args.real.is_dir():
        config = configs.load(REPOSITORY / "configs" / "ben_mini.py")
        tiles = DynamicWorldPlusConfig(
            name=config.data.name, description="BigEarthNet chips", tiles=args.real / "ben_mini", tile_size_px=120
        )
        prepare(tiles, Path(config.data.data_dir))
        chips = "BigEarthNet chips (`configs/ben_mini.py`)"
        runs = [trained("ben_mini", f"ben_mini_{seed}", f"train.seed={seed}") for seed in SEEDS]
        rows.append(row(chips, "both sensors, from scratch", runs))
        notes.append(spread(f"Chips, from scratch, seed {SEEDS[0]}", runs[0]))
        network = [f"model.{field}={value}" for field, value in dataclasses.asdict(config.model).items()]
        trained(
            "quickstart",
            "simulated_4_bands",
            *network,
            f"optimizer.learning_rate={config.optimizer.learning_rate}",
            "data.s2_bands=B2,B3,B4,B8",
        )
        runs = [
            trained(
                "ben_mini",
                f"ben_mini_from_simulated_{seed}",
                f"train.seed={seed}",
                "train.finetune=runs/simulated_4_bands",
            )
            for seed in SEEDS
        ]
        rows.append(row(chips, "both sensors, from weights learnt on simulated tiles", runs))
        builder = open_dataset(config.data.data_dir, config.data.name)
        learnt, scored = (list(builder.as_data_source(split)) for split in ("train", "test"))
        runs = [metrics.summarise(forest(learnt, [scored], seed)[0], bands.DYNAMIC_WORLD) for seed in SEEDS]
        rows.append(row("BigEarthNet chips", "both sensors, random forest on 9 x 9 means", runs))
    names = ("jax", "flax", "optax", "grain", "scikit-learn")
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, Python {platform.python_version()}"
    )
    print(", ".join(f"{name} {version(name)}" for name in names) + "\n")
    print("| test split | input and model | mIoU | overall accuracy | macro F1 | kappa |\n|---|---|---|---|---|---|")
    print("\n".join(rows))
    print("\n" + "\n".join(notes))


if __name__ == "__main__":
    main()
