"""One network of both sensors against one for each case: both sensors, Sentinel-2 alone, Sentinel-1 alone, a third under clouds.

    python benchmarks/any_sensor.py [--steps 600] [--seeds 0,1,2] [--rows any,both,s2,s1]
    python benchmarks/any_sensor.py --table

`configs/quickstart.py` on its SIMULATED tiles, which says nothing about real land. A row changes some fields of it, and nothing else; all
rows of a seed see the same tiles. The network of any sensor does the work of three, and takes as many steps as these three together.
It has one branch: of two, the smaller one alone would have to do what is seen by radar alone. Each network is scored once, on the test split, in each case that it can map. In `clouds`, patches
over a third of each tile lack Sentinel-2; all their pixels are scored, those of a network that needs both as wrong where it maps none.
`clouds, mapped` scores the same maps only where every network maps: with both sensors, beside clouds.

Each run is a line of RESULTS once it is scored; a benchmark that was stopped goes on where it stopped.
"""

import argparse
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import kept_runs
import numpy as np

from specsar_jax import config as configs
from specsar_jax.accuracy import metrics
from specsar_jax.batches import pipeline, preprocess
from specsar_jax.batches.dataset import dataset_bands, open_or_simulate
from specsar_jax.devices.compilation import keep_compiled_programs
from specsar_jax.maps.compiled import make_probabilities
from specsar_jax.trained.loading import load_trained
from specsar_jax.trained.trained_network import Trained
from specsar_jax.training.loop import train
from tfds_dwplus import bands
from tfds_dwplus.tiles.prepared import read_split

REPOSITORY = Path(__file__).parent.parent

ANY = ("data.sensor_drop=0.33,0.33", "data.sensor_gaps=0.2,0.1")

ROWS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "any": ("one network of any sensor", 3, ("model.branches=stacked", *ANY)),
    "both": ("of both sensors", 1, ()),
    "s2": ("of Sentinel-2", 1, ("model.branches=spectral",)),
    "s1": ("of Sentinel-1", 1, ("model.branches=sar",)),
    "any_two": ("of any sensor, two branches", 3, ANY),
}
"""By its name, what a network is, how many times the steps it takes, and what it changes of the quickstart."""

CASES = ("both", "s2", "s1", "clouds", "clouds, mapped")

CLOUDED = 1 / 3


def cases(tile: dict[str, np.ndarray], number: int) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yields the name of each case with digital numbers, dB and a mask of the pixels to score, of a test tile."""
    s2, s1 = tile["s2"], tile["s1"]
    all_of = np.ones(tile["label"].shape, bool)
    yield "both", s2, s1, all_of
    yield "s2", s2, np.full_like(s1, np.nan), all_of
    yield "s1", np.zeros_like(s2), s1, all_of
    cloud = clouds(len(all_of), number)
    clouded = np.where(cloud[..., None], np.uint16(bands.S2_NODATA), s2)
    yield "clouds", clouded, s1, all_of
    yield "clouds, mapped", clouded, s1, ~cloud


def clouds(size_px: int, seed: int) -> np.ndarray:
    """Marks patches over a third of a tile, the same for every network."""
    rng = np.random.default_rng(seed)
    while True:
        patches = preprocess.random_patches(size_px, rng)
        if abs(patches.mean() - CLOUDED) < 0.05:
            return patches


def scores(trained: Trained, split: str) -> dict[str, dict[str, float]]:
    """Returns mIoU and overall accuracy of each case that the network can map."""
    config, network = trained.config, make_probabilities(trained)
    builder = open_or_simulate(config.data)
    sensors, may_miss = config.model.sensors, config.may_miss
    rasters = pipeline.select(config.data.s2_bands, dataset_bands(builder), ("s2", "s1"))
    classes, confusion = len(trained.classes), {}
    for number, record in enumerate(read_split(builder, split)):
        tile = rasters(record)
        for name, s2, s1, scored in cases(tile, number):
            lost = {"s2": "s1", "s1": "s2"}.get(name)
            if lost in sensors and lost not in may_miss:
                continue
            given = [pixels if sensor in sensors else pixels[..., :0] for sensor, pixels in (("s2", s2), ("s1", s1))]
            mapped = bands.valid_pixels(*given, sensors, may_miss)
            (probability,) = np.asarray(network(*(pixels[None] for pixels in given)))
            label, scored = tile["label"], scored & (tile["label"] != bands.IGNORE)
            # A pixel without a class is as wrong as one of another class.
            wrong = (label + 1) % classes
            found = np.where(mapped, probability.argmax(axis=-1), wrong)
            counts = np.bincount(label[scored].astype(int) * classes + found[scored], minlength=classes**2)
            confusion[name] = confusion.get(name, 0) + counts.reshape(classes, classes)
    return {
        name: {key: float(metrics.headline(counts)[key]) for key in ("mean_iou", "overall_accuracy")}
        for name, counts in confusion.items()
    }


def one_run(work: Path, row: str, seed: int, steps: int) -> dict[str, Any]:
    """Trains and scores; returns the line of the results."""
    workdir = work / f"{row}_{seed}_{steps}"
    _, times, changes = ROWS[row]
    own = (f"data.data_dir={work / 'data'}", f"train.steps={times * steps}", f"train.seed={seed}")
    config = configs.override(configs.load(REPOSITORY / "configs" / "quickstart.py"), [*changes, *own])
    began = time.monotonic()
    train(config, workdir)
    seconds = time.monotonic() - began
    found = scores(load_trained(workdir), "test")
    shutil.rmtree(workdir)
    jax.clear_caches()
    return {
        "row": row, "seed": seed, "steps": steps, "scores": found, "seconds": round(seconds, 1),
    }  # fmt: skip


def table(results: list[dict[str, Any]]) -> str:
    """The Markdown table: mIoU in percent, mean over the seeds, with the standard deviation where there are more than one."""
    lines = [f"| network | steps | seeds | {' | '.join(CASES)} |", "|---" * (len(CASES) + 3) + "|"]
    for row, (about, times, _) in ROWS.items():
        runs = [run for run in results if run["row"] == row]
        cells = []
        for case in CASES:
            values = [100 * run["scores"][case]["mean_iou"] for run in runs if case in run["scores"]]
            spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.1f}{spread}" if values else "-")
        if runs:
            steps = ", ".join(f"{times * steps:,}" for steps in sorted({run["steps"] for run in runs}))
            lines.append(f"| {about} | {steps} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"mIoU, %. {kept_runs.machines(results)}."])


def main() -> None:
    """Trains what is not trained yet, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/any_sensor"), help="data set and runs")
    parser.add_argument("--results", type=Path, default=Path("runs/any_sensor.jsonl"))
    parser.add_argument("--rows", type=kept_runs.some_of(ROWS), default="any,both,s2,s1")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--table", action="store_true", help="print the table of the results, and train nothing")
    args = parser.parse_args()
    keep_compiled_programs()
    args.work.mkdir(parents=True, exist_ok=True)
    for seed in () if args.table else map(int, args.seeds.split(",")):
        for row in args.rows:
            done = kept_runs.read(args.results)
            if not any((row, seed, args.steps) == (run["row"], run["seed"], run["steps"]) for run in done):
                line = one_run(args.work, row, seed, args.steps)
                kept_runs.keep(args.results, line)
    print(table(kept_runs.read(args.results)))


if __name__ == "__main__":
    main()
