"""A recipe for BigEarthNet chips beside a random forest, in folds of the train chips that look unlike each other.

    python benchmarks/chip_folds.py --data_dir data --change loss.alpha_power=0.4 --change "data.sensor_drop=()"

Chips are grouped by k-means of their median optical spectrum, and the groups put together to four folds of about equal size: what is
held out looks unlike what is learnt from, as another season or place does. The confusion is pooled over the folds. The test split is
not read. Standardisation and class weights are of the whole train split. Some minutes a recipe and seed on two cores.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from results import REPOSITORY, forest
from sklearn.cluster import KMeans

from specsar_jax import config as configs
from specsar_jax import metrics, pipeline
from specsar_jax.compilation import keep_compiled_programs
from specsar_jax.config import Config
from specsar_jax.evaluate import make_score
from specsar_jax.preprocess import Statistics
from specsar_jax.sharding import make_mesh, of_state
from specsar_jax.train import make_program, resolve
from specsar_jax.train_state import init_state
from tfds_dwplus.prepared import open_dataset

FOLDS, GROUPS = 4, 8


def folds_by_look(records: list[dict[str, Any]]) -> np.ndarray:
    """The fold of each record."""
    spectra = [np.median(record["s2"].reshape(-1, record["s2"].shape[-1]), axis=0) for record in records]
    looks = np.log(np.maximum(spectra, 30.0))  # below 0.003 reflectance it is noise
    looks = (looks - looks.mean(axis=0)) / looks.std(axis=0)
    group = KMeans(GROUPS, n_init=30, random_state=0).fit_predict(looks)
    fold, held = np.zeros(GROUPS, int), np.zeros(FOLDS, int)
    for one in np.argsort(-np.bincount(group)):
        fold[one] = held.argmin()
        held[fold[one]] += np.sum(group == one)
    return fold[group]


def network(
    config: Config, statistics: Statistics, s2_bands: tuple[str, ...], learnt: list[Any], scored: list[Any]
) -> np.ndarray:
    """Confusion on the records `scored` of the network after its last step on the records `learnt`."""
    mesh = make_mesh(config.mesh)
    state = init_state(config)
    shardings = of_state(jax.eval_shape(lambda: init_state(config)), mesh, config.mesh)
    state = jax.device_put(state, shardings)
    program = make_program(config, statistics, mesh, shardings)
    rasters = pipeline.select(config.data.s2_bands, s2_bands, config.model.sensors)
    batches = pipeline.train_batches(learnt, rasters, config, 0)
    for _ in range(config.train.steps):
        batch = next(batches)
        state, _ = program(state, {name: batch[name] for name in ("s2", "s1", "label", "expert")})
    batches.close()
    score = make_score(config, statistics, mesh, shardings.variables(config))
    held_out = pipeline.evaluation_batches(scored, rasters, config, config.train.eval_batch_size)
    return np.array(score(state.variables(config), held_out)["confusion_matrix"])


def main() -> None:
    """Trains in each fold, prints a row for the forest and one for the network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--config", type=Path, default=REPOSITORY / "configs" / "ben_mini.py")
    parser.add_argument("--change", action="append", default=[], help="section.field=value; may be given again")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    keep_compiled_programs()
    config = configs.override(configs.load(args.config), args.change)
    builder = open_dataset(args.data_dir, config.data.name)
    config, statistics = resolve(config, builder)
    records = list(builder.as_data_source("train"))
    fold = folds_by_look(records)
    print("| seed | what | mIoU | overall accuracy |\n|---|---|---|---|")
    for seed in args.seeds:
        seeded = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
        confusion = dict.fromkeys(("forest", "network"), 0)
        for held_out in range(FOLDS):
            learnt, scored = (
                [r for r, f in zip(records, fold, strict=True) if (f == held_out) == out] for out in (0, 1)
            )
            confusion["forest"] += forest(learnt, scored, seed)
            confusion["network"] += network(seeded, statistics, pipeline.dataset_bands(builder), learnt, scored)
        for what, of in confusion.items():
            figures = metrics.summarise(of)
            print(f"| {seed} | {what} | {100 * figures['mean_iou']:.1f} | {100 * figures['overall_accuracy']:.1f} |")


if __name__ == "__main__":
    main()
