"""A recipe for BigEarthNet chips beside a random forest, in folds of the train chips that look unlike each other.

    python benchmarks/chip_folds.py --data_dir data --change loss.alpha_power=0.4 --change data.brightness=0

Chips are grouped by k-means of their median optical spectrum, and the groups put together to four folds of about equal size: what is
held out looks unlike what is learnt from, as another season or place does. The chips that are held out are scored as they are, and
once more "in another season": Sentinel-2 of each chip times a random gain common to its bands (standard deviation of its logarithm
0.35) and one a band (0.12), Sentinel-1 plus a random offset of each polarisation (0.5 dB). The confusion is pooled over the folds. The
test split is not read. Standardisation and class weights are of the whole train split. Some minutes a recipe and seed on two cores.
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
from specsar_jax.accuracy import metrics
from specsar_jax.batches import dataset, pipeline
from specsar_jax.batches.dataset import resolve
from specsar_jax.batches.preprocess import Statistics
from specsar_jax.config import Config
from specsar_jax.devices.compilation import keep_compiled_programs
from specsar_jax.devices.sharding import make_mesh, of_state
from specsar_jax.training.evaluation import make_score
from specsar_jax.training.train_state import init_state, make_program
from tfds_dwplus import bands
from tfds_dwplus.tiles.prepared import open_dataset

FOLDS, GROUPS = 4, 8
GAIN, BAND_GAIN, OFFSET_DB = 0.35, 0.12, 0.5


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


def in_another_season(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with other brightness, the same for every recipe and seed."""
    rng = np.random.default_rng(0)
    changed = []
    for record in records:
        gain = np.exp(rng.normal(0.0, GAIN) + rng.normal(0.0, BAND_GAIN, record["s2"].shape[-1]))
        s2 = np.where(record["s2"] != bands.S2_NODATA, np.clip(np.rint(record["s2"] * gain), 1, 65535), bands.S2_NODATA)
        s1 = record["s1"] + rng.normal(0.0, OFFSET_DB, record["s1"].shape[-1]).astype(np.float32)
        changed.append(record | {"s2": s2.astype(np.uint16), "s1": s1})
    return changed


def network(
    config: Config, statistics: Statistics, s2_bands: tuple[str, ...], learnt: list[Any], scored: list[list[Any]]
) -> list[np.ndarray]:
    """Confusion on each list of records in `scored` of the network after its last step on the records `learnt`."""
    mesh = make_mesh(config.mesh)
    state = init_state(config)
    shardings = of_state(jax.eval_shape(lambda: init_state(config)), mesh, config.mesh)
    state = jax.device_put(state, shardings)
    program = make_program(config, statistics, mesh, shardings)
    rasters = pipeline.select(config.data.s2_bands, s2_bands, config.model.sensors)
    batches = pipeline.train_batches(
        learnt, rasters, config.data, batch_size=config.train.batch_size, seed=config.train.seed
    )
    for _ in range(config.train.steps):
        batch = next(batches)
        state, _ = program(state, {name: batch[name] for name in ("s2", "s1", "label", "expert")})
    batches.close()
    score = make_score(config, statistics, mesh, shardings.variables(config))

    def confusion(records: list[Any]) -> np.ndarray:
        held_out = pipeline.evaluation_batches(records, rasters, config.data, config.train.eval_batch_size)
        return np.array(score(state.variables(config), held_out)["confusion_matrix"])

    return [confusion(records) for records in scored]


def main() -> None:
    """Trains in each fold, prints a row for the forest and one for the network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--config", type=Path, default=REPOSITORY / "configs" / "ben_mini.py")
    parser.add_argument("--change", action="append", default=[], help="section.field=value; may be given again")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    keep_compiled_programs()
    try:
        config = configs.override(configs.load(args.config), args.change)
        builder = open_dataset(args.data_dir, config.data.name)
    except ValueError as error:
        parser.error(str(error))
    config, statistics = resolve(config, builder)
    records = list(builder.as_data_source("train"))
    fold, seasons = folds_by_look(records), (records, in_another_season(records))
    print(
        "| seed | what | mIoU | overall accuracy | another season: mIoU | overall accuracy |\n|---|---|---|---|---|---|"
    )
    for seed in args.seeds:
        seeded = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
        confusion = {
            what: np.zeros((len(seasons), *[len(bands.CLASSES)] * 2), np.int64) for what in ("forest", "network")
        }
        for held_out in range(FOLDS):
            learnt = [r for r, f in zip(records, fold, strict=True) if f != held_out]
            scored = [[r for r, f in zip(season, fold, strict=True) if f == held_out] for season in seasons]
            confusion["forest"] += forest(learnt, scored, seed)
            confusion["network"] += network(seeded, statistics, dataset.dataset_bands(builder), learnt, scored)
        for what, of in confusion.items():
            figures = [metrics.summarise(season, bands.DYNAMIC_WORLD) for season in of]
            told = (f"{100 * f['mean_iou']:.1f} | {100 * f['overall_accuracy']:.1f}" for f in figures)
            print(f"| {seed} | {what} | {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()
