"""Recipes for BigEarthNet chips beside each other, in folds of the train chips that look unlike each other.

    python benchmarks/chip_folds.py --data_dir data [--rows forest,pretrained] [--seeds 0 1 2]
    python benchmarks/chip_folds.py --data_dir data --rows config --config configs/ben_mini.py --change loss.alpha_power=0.4
    python benchmarks/chip_folds.py --table

Chips are grouped by k-means of their median optical spectrum, and the groups put together to four folds of about equal size: what is
held out looks unlike what is learnt from, as another season or place does. The chips that are held out are scored as they are, and
once more "in another season": Sentinel-2 of each chip times a random gain common to its bands (standard deviation of its logarithm
0.35) and one a band (0.12), Sentinel-1 plus a random offset of each polarisation (0.5 dB). The confusion is pooled over the folds. The
test split is not read. Standardisation and class weights are of the whole train split.

`pretrained` is `configs/ben_mini_pretrained.py`, from a run of `configs/land_four_bands.py` for each seed, `--pretrained
runs/land_four_bands_{seed}`; `pretrained_s2` is the same without Sentinel-1. The other networks start from random weights: `early` is `configs/ben_mini.py`, `two` is `configs/ben_mini_branches.py`,
`segformer` is SegFormer-B0 over all bands, which `early_fusion` is at its sizes (tests/network compares it with the original), and
`unet` is a U-Net of segmentation_models_pytorch; these two have the augmentation, loss, rate and steps of `ben_mini`.

Each row and seed is a line of RESULTS once it is scored; a benchmark that was stopped goes on where it stopped.
"""

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import kept_runs
import numpy as np
from results import REPOSITORY, forest
from sklearn.cluster import KMeans

from specsar_jax import config as configs
from specsar_jax.accuracy import metrics
from specsar_jax.batches import pipeline
from specsar_jax.batches.dataset import dataset_bands, resolve
from specsar_jax.batches.preprocess import Statistics, standardise
from specsar_jax.config import Config
from specsar_jax.devices.compilation import keep_compiled_programs
from specsar_jax.devices.sharding import make_mesh, of_state
from specsar_jax.training.evaluation import make_score
from specsar_jax.training.initial_weights import initial_weights
from specsar_jax.training.train_state import init_state, make_program
from tfds_dwplus import bands
from tfds_dwplus.tiles.prepared import open_dataset

FOLDS, GROUPS = 4, 8
GAIN, BAND_GAIN, OFFSET_DB = 0.35, 0.12, 0.5

SEGFORMER_B0 = (
    "model.widths=(32,64,160,256)", "model.blocks=(2,2,2,2)", "model.heads=(1,2,5,8)", "model.decoder_width=256",
)  # fmt: skip
"""Its sizes. Source: Xie et al. 2021, table 6."""

ROWS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "forest": ("random forest on 9 x 9 means, both sensors", "ben_mini", ()),
    "pretrained": (
        "Dynamic World's network on four bands, of which the classifiers learn, both sensors",
        "ben_mini_pretrained",
        (),
    ),
    "pretrained_s2": (
        "the same, Sentinel-2",
        "ben_mini_pretrained",
        ("model.branches=spectral", "train.trainable=(classify,)"),
    ),
    "early": ("early fusion, both sensors", "ben_mini", ()),
    "two": ("two branches, both sensors", "ben_mini_branches", ()),
    "segformer": ("SegFormer-B0, both sensors", "ben_mini", SEGFORMER_B0),
    "unet": ("U-Net of segmentation_models_pytorch, both sensors", "ben_mini", ()),
    "config": ("as --config and --change say", "", ()),
}
"""By its name, what a row is, the config of its recipe, and what it changes of that."""

Records = list[dict[str, Any]]


def folds_by_look(records: Records) -> np.ndarray:
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


def in_another_season(records: Records) -> Records:
    """The records with other brightness, the same for every recipe and seed."""
    rng = np.random.default_rng(0)
    changed = []
    for record in records:
        gain = np.exp(rng.normal(0.0, GAIN) + rng.normal(0.0, BAND_GAIN, record["s2"].shape[-1]))
        s2 = np.where(record["s2"] != bands.S2_NODATA, np.clip(np.rint(record["s2"] * gain), 1, 65535), bands.S2_NODATA)
        s1 = record["s1"] + rng.normal(0.0, OFFSET_DB, record["s1"].shape[-1]).astype(np.float32)
        changed.append(record | {"s2": s2.astype(np.uint16), "s1": s1})
    return changed


def train_batches(config: Config, held: tuple[str, ...], learnt: Records) -> Iterator[pipeline.Batch]:
    """Batches of a recipe, one for each step."""
    rasters = pipeline.select(config.data.s2_bands, held, config.model.sensors)
    batches = pipeline.train_batches(
        learnt, rasters, config.data, batch_size=config.train.batch_size, seed=config.train.seed
    )
    for _ in range(config.train.steps):
        yield next(batches)
    batches.close()


def network(
    config: Config, statistics: Statistics, held: tuple[str, ...], learnt: Records, scored: list[Records]
) -> list[np.ndarray]:
    """Confusion on each list of records in `scored` of the network after its last step on the records `learnt`."""
    mesh = make_mesh(config.mesh)
    variables, _ = initial_weights(config, Path("no run"), statistics.classes)
    state = init_state(config, variables)
    shardings = of_state(jax.eval_shape(lambda: init_state(config)), mesh, config.mesh)
    state = jax.device_put(state, shardings)
    program = make_program(config, statistics, mesh, shardings)
    for batch in train_batches(config, held, learnt):
        state, _ = program(state, {name: batch[name] for name in ("s2", "s1", "label", "expert")})
    score = make_score(config, statistics, mesh, shardings.variables(config))
    rasters = pipeline.select(config.data.s2_bands, held, config.model.sensors)

    def confusion(records: Records) -> np.ndarray:
        held_out = pipeline.evaluation_batches(records, rasters, config.data, config.train.eval_batch_size)
        return np.array(score(state.variables(config), held_out)["confusion_matrix"])

    return [confusion(records) for records in scored]


def unet(
    config: Config, statistics: Statistics, held: tuple[str, ...], learnt: Records, scored: list[Records]
) -> list[np.ndarray]:
    """The same of a U-Net on a ResNet of ten layers, 0.5 M weights, where `ben_mini` has 0.7 M; its optimizer is PyTorch's AdamW."""
    import segmentation_models_pytorch as smp  # of the extra `bench`
    import torch

    from specsar_jax.training.losses import class_alpha

    torch.manual_seed(config.train.seed)
    net = smp.Unet(
        "tu-resnet10t",  # one that weighs channels by their mean over the map, as MobileNetV3 does, fails on chips larger than its crops
        encoder_weights=None,
        in_channels=config.model.s2_channels + config.model.s1_channels,
        classes=config.model.classes,
        encoder_depth=3,
        decoder_channels=(64, 32, 16),
    )
    weight = torch.tensor(class_alpha(statistics.label_pixels, config.loss))
    settings, steps = config.optimizer, config.train.steps
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, steps, pct_start=settings.warmup_steps / steps, cycle_momentum=False
    )

    def inputs(batch: pipeline.Batch) -> Any:
        scaled = standardise(batch["s2"], batch["s1"], statistics, config.data.scaling)
        return torch.from_numpy(np.concatenate([np.asarray(x) for x in scaled], axis=-1)).permute(0, 3, 1, 2)

    for batch in train_batches(config, held, learnt):
        label = torch.from_numpy(batch["label"].astype(np.int64))
        every = torch.nn.functional.cross_entropy(
            net(inputs(batch)), label, weight, ignore_index=bands.IGNORE, reduction="none"
        )
        loss = every.sum() / (label != bands.IGNORE).sum().clamp(min=1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), settings.clip_norm)
        optimizer.step()
        rate.step()
    net.eval()

    def probabilities(x: Any) -> Any:
        """Mean over the eight flips and rotations, as of our networks; sides are made multiples of 8."""
        pad = [(-x.shape[3]) % 8, (-x.shape[2]) % 8]
        total = 0
        for turn in range(4):
            for flip in ((), (3,)):
                turned = torch.flip(torch.rot90(x, turn, (2, 3)), flip)
                turned = torch.nn.functional.pad(turned, (0, pad[0], 0, pad[1]), mode="reflect")
                p = net(turned).softmax(dim=1)[:, :, : x.shape[2], : x.shape[3]]
                total = total + torch.rot90(torch.flip(p, flip), -turn, (2, 3))
        return total

    def confusion(records: Records) -> np.ndarray:
        counts = np.zeros((config.model.classes,) * 2, np.int64)
        rasters = pipeline.select(config.data.s2_bands, held, config.model.sensors)
        for record in records:
            tile = rasters(record)
            with torch.no_grad():
                found = (
                    probabilities(inputs({name: tile[name][None] for name in ("s2", "s1")})).argmax(dim=1).numpy()[0]
                )
            kept = tile["label"] != bands.IGNORE
            np.add.at(counts, (tile["label"][kept], found[kept]), 1)
        return counts

    return [confusion(records) for records in scored]


def one_run(row: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Trains and scores in each fold; returns the line of the results."""
    config = recipe(row, args)
    start = str(args.pretrained).format(seed=seed) if row.startswith("pretrained") else config.train.finetune
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed, finetune=start))
    builder = open_dataset(config.data.data_dir, config.data.name)
    config, statistics = resolve(config, builder)
    records = list(builder.as_data_source("train"))
    fold, seasons = folds_by_look(records), (records, in_another_season(records))
    confusion = np.zeros((len(seasons), *[len(bands.CLASSES)] * 2), np.int64)
    ours = functools.partial(unet if row == "unet" else network, config, statistics, dataset_bands(builder))
    scores: Callable[..., list[np.ndarray]] = functools.partial(forest, seed=seed) if row == "forest" else ours
    began = time.monotonic()
    for held_out in range(FOLDS):
        learnt = [r for r, f in zip(records, fold, strict=True) if f != held_out]
        scored = [[r for r, f in zip(season, fold, strict=True) if f == held_out] for season in seasons]
        confusion += np.array(scores(learnt, scored))
    figures = [metrics.headline(of) for of in confusion]
    return {
        "row": row, "seed": seed, "changes": args.change, "seconds": round(time.monotonic() - began, 1),
        **{
            name: [float(of[key]) for of in figures]
            for name, key in (("mean_iou", "mean_iou"), ("overall_accuracy", "overall_accuracy"))
        },
    }  # fmt: skip


def recipe(row: str, args: argparse.Namespace) -> Config:
    """The config of a row."""
    _, name, changes = ROWS[row]
    path = REPOSITORY / "configs" / f"{name}.py" if name else args.config
    changes = (*changes, *args.change) if row == "config" else changes
    return configs.override(configs.load(path), [*changes, f"data.data_dir={args.data_dir}"])


def table(results: list[dict[str, Any]]) -> str:
    """The Markdown table: percent, mean over the seeds, with the standard deviation where there are more than one."""
    lines = [
        "| network | seeds | mIoU | overall accuracy | another season: mIoU | overall accuracy |",
        "|---" * 6 + "|",
    ]
    for row, (about, *_) in ROWS.items():
        for changes in {tuple(run["changes"]) for run in results if run["row"] == row}:
            runs = [run for run in results if (run["row"], tuple(run["changes"])) == (row, changes)]
            cells = []
            for season in (0, 1):
                for key in ("mean_iou", "overall_accuracy"):
                    values = [100 * run[key][season] for run in runs]
                    spread = f" ({np.std(values, ddof=1):.1f})" if len(values) > 1 else ""
                    cells.append(f"{np.mean(values):.1f}{spread}")
            lines.append(f"| {' '.join([about, *changes])} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{kept_runs.machines(results)}."])


def main() -> None:
    """Trains in each fold what is not trained yet, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--rows", type=kept_runs.some_of(ROWS), default="forest,pretrained,early,two,segformer,unet")
    parser.add_argument("--config", type=Path, default=REPOSITORY / "configs" / "ben_mini.py", help="of the row config")
    parser.add_argument("--change", action="append", default=[], help="of it: section.field=value; may be given again")
    parser.add_argument(
        "--pretrained", default="runs/land_four_bands_{seed}", help="what the row pretrained starts from"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=Path("runs/chip_folds.jsonl"))
    parser.add_argument("--table", action="store_true", help="print the table of the results, and train nothing")
    args = parser.parse_args()
    keep_compiled_programs()
    args.results.parent.mkdir(parents=True, exist_ok=True)
    for seed in () if args.table else args.seeds:
        for row in args.rows:
            done = kept_runs.read(args.results)
            if any((row, seed, args.change) == (run["row"], run["seed"], run["changes"]) for run in done):
                continue
            try:
                line = one_run(row, seed, args)
            except ValueError as error:
                parser.error(str(error))
            kept_runs.keep(args.results, line)
    print(table(kept_runs.read(args.results)))


if __name__ == "__main__":
    main()
