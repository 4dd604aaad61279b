"""How well a small network agrees with its teacher, Dynamic World's network, on land of which it has seen nothing.

    python benchmarks/real_land.py [--rows plain,taught] [--sources eurosat,ports] [--seeds 0,1,2] [--steps 1500]
    python benchmarks/real_land.py --table

Chips of `real/land` are of nine sources, each of one or a few places, seasons and levels. Each source in turn is left out: the network
learns from the eight others, and is scored on that one, and on scenes of `real/` that no network learns from. Labels are the teacher's,
as `tfds_dwplus.label` makes them, without clouds and without what it is less sure of than 0.35: THE FIGURES ARE AGREEMENT WITH A
NETWORK, NOT ACCURACY. All steps are those of the commands: import, label, prepare (64 px), train, evaluate.

A row changes some fields of `configs/real_land.py`, and nothing else; so `plain` too has its rate, class weights and moving average.
Each run is a line of RESULTS once it is scored; a benchmark that was stopped goes on where it stopped. The table is printed at the
end, and written beside RESULTS as Markdown.

Dynamic World's network in TensorFlow and here, side by side, in speed and numbers: `benchmarks/networks/dynamic_world.py`.
"""

import argparse
import csv
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import kept_runs
import numpy as np
import rasterio

from specsar_jax import config as configs
from specsar_jax.config import Config
from specsar_jax.devices.compilation import keep_compiled_programs
from specsar_jax.import_dynamic_world import read_published
from specsar_jax.trained.bundle import write_bundle
from specsar_jax.trained.loading import load_trained
from specsar_jax.training.evaluation import evaluate
from specsar_jax.training.loop import train
from tfds_dwplus import DynamicWorldPlusConfig, bands, label
from tfds_dwplus.files.raster_files import geotiff
from tfds_dwplus.prepare import prepare

REPOSITORY = Path(__file__).parent.parent

TILE_PX = 64

HARD = ("train.teacher=", "loss.name=cross_entropy")
UNCHANGED = ("brightness", "band_jitter", "tilt", "contrast", "haze", "unchanged_light", "mosaic")
SAME_LIGHT = tuple(f"data.{field}=0" for field in UNCHANGED)
WIDE = ("model.widths=(64,128,192,256)", "model.decoder_width=256")

ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "taught": ("taught after augmentation, log", ()),
    "plain": ("labels, standard, brightness", (*HARD, *SAME_LIGHT, "data.scaling=standard", "data.brightness=0.15")),
    "log": ("labels, log", (*HARD, *SAME_LIGHT)),
    "changed": ("labels, log, augmented", HARD),
    "unchanged": ("taught, log, not augmented", SAME_LIGHT),
    "standard": ("taught after augmentation, standard", ("data.scaling=standard",)),
    "wide": ("taught after augmentation, log, wider", WIDE),
    "wide_plain": (
        "labels, standard, brightness, wider",
        (*HARD, *SAME_LIGHT, "data.scaling=standard", "data.brightness=0.15", *WIDE),
    ),
}
"""By its name, what a row is, and what it changes of `configs/real_land.py`; the first are the most wanted."""


def chips(real: Path, land: Path) -> Iterator[tuple[str, str, Path | list[Path]]]:
    """Name, source and file of each chip; of the scenes elsewhere, source `elsewhere:NAME`, and a file or one a band."""
    with (land / "tiles.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            yield row["tile_id"], row["source"], land / "s2" / f"{row['tile_id']}.tif"
    for path in sorted((real / "dwplus_mini" / "s2").glob("*.tif")):
        yield path.stem, f"elsewhere:{path.stem}", path
    scenes = sorted([*(real / "scene_pakistan").glob("s2_*/*"), *(real / "scene_laos").glob("S2*")])
    for number, folder in enumerate(scenes):
        names = [(band, f"{band[0]}{int(band[1:]):02d}") for band in bands.S2_BANDS]
        files = [next(folder / f"{name}.tif" for name in pair if (folder / f"{name}.tif").exists()) for pair in names]
        place = folder.relative_to(real).parts[0]
        yield f"{place}_{number}", f"elsewhere:{place}", files


def write_chips(real: Path, land: Path, folder: Path) -> dict[str, str]:
    """Writes all chips as one folder of tiles, without labels; returns the source of each. What is there already is left."""
    sources = {}
    (folder / "s2").mkdir(parents=True, exist_ok=True)
    for name, source, given in chips(real, land):
        sources[name], path = source, folder / "s2" / f"{name}.tif"
        if path.exists():
            continue
        if isinstance(given, Path):
            path.symlink_to(given.resolve())
            continue
        values = []
        for file in given:
            with rasterio.open(file) as raster, rasterio.open(given[0]) as finest:
                how = {"out_shape": finest.shape, "resampling": rasterio.enums.Resampling.bilinear}
                values.append(raster.read(1, **how).astype(np.uint16))
        path.write_bytes(
            geotiff(
                np.stack(values),
                descriptions=bands.S2_BANDS,
                crs=None,
                transform=rasterio.Affine.identity(),
                compress="deflate",
            )
        )
    if not (folder / "tiles.csv").exists():
        write_table(folder, dict.fromkeys(sources, "train"))
    return sources


def write_table(folder: Path, splits: dict[str, str], annotator: str = "") -> None:
    """Writes tiles.csv."""
    with (folder / "tiles.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("tile_id", "split", "annotator"), *((name, split, annotator) for name, split in splits.items())]
        )


def data_set(work: Path, sources: dict[str, str], left_out: str) -> list[str]:
    """Prepares the data set without a source: its split `test` is that source. Returns the splits of the scenes elsewhere."""
    folder, all_of = work / f"tiles_{left_out}", work / "tiles"
    folder.mkdir(exist_ok=True)
    for kind in ("s2", "label"):
        if not (folder / kind).exists():
            (folder / kind).symlink_to((all_of / kind).resolve())
    with (all_of / "tiles.csv").open(newline="") as file:
        (annotator,) = {row["annotator"] for row in csv.DictReader(file)}
    elsewhere = sorted({source for source in sources.values() if source.startswith("elsewhere:")})
    named = {source: f"scene{number}" for number, source in enumerate(elsewhere)}
    splits = {name: named.get(source, "test" if source == left_out else "train") for name, source in sources.items()}
    if not (folder / "tiles.csv").exists():
        write_table(folder, splits, annotator)
    prepare(
        DynamicWorldPlusConfig(
            name=f"land_without_{left_out}",
            description=f"Chips of real land, {left_out} left out.",
            tiles=folder,
            tile_size_px=TILE_PX,
            cut=True,
        ),
        work / "data",
    )
    return [named[source] for source in elsewhere]


def one_run(
    work: Path, row: str, source: str, seed: int, args: argparse.Namespace, elsewhere: list[str]
) -> dict[str, Any]:
    """Trains and scores; returns the line of the results."""
    workdir = work / "runs" / f"{row}_{source}_{seed}_{args.steps}"
    config = the_config(row, work, source, seed, args.steps)
    began = time.monotonic()
    figures = train(config, workdir)
    seconds = time.monotonic() - began
    trained = load_trained(workdir)
    name = config.data.name
    scenes = {split: evaluate(trained, config.data.data_dir, name, split)["overall_accuracy"] for split in elsewhere}
    shutil.rmtree(workdir)  # weights of hundreds of runs
    jax.clear_caches()
    return {
        "row": row, "source": source, "seed": seed, "steps": args.steps, "agreement": figures["overall_accuracy"],
        "mean_iou": figures["mean_iou"], "scenes": scenes, "seconds": round(seconds, 1),
    }  # fmt: skip


def the_config(row: str, work: Path, source: str, seed: int, steps: int) -> Config:
    """The config of a run."""
    own = (
        f"train.teacher={work / 'dynamic_world.safetensors'}",
        *ROWS[row][1],
        f"data.name=land_without_{source}",
        f"data.data_dir={work / 'data'}",
        f"train.steps={steps}",
        f"train.seed={seed}",
    )
    return configs.override(configs.load(REPOSITORY / "configs" / "real_land.py"), own)


def table(results: list[dict[str, Any]]) -> str:
    """The Markdown table of all runs."""
    lines = [
        "Agreement with the teacher (Dynamic World's network), not accuracy. Mean over left-out sources; in brackets the lowest.",
        "",
        "| row | steps | sources | seeds | agreement, % | mIoU, % | scenes elsewhere, % | minutes to train |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (row, steps), runs in sorted(
        _grouped(results, "row", "steps").items(), key=lambda item: list(ROWS).index(item[0][0])
    ):
        by_source = {source: [run for run in runs if run["source"] == source] for source in {r["source"] for r in runs}}
        agreement = {source: np.mean([run["agreement"] for run in of]) for source, of in by_source.items()}
        worst = min(agreement, key=agreement.__getitem__)
        mean_iou = np.mean([np.mean([run["mean_iou"] for run in of]) for of in by_source.values()])
        scenes = np.mean([np.mean(list(run["scenes"].values())) for run in runs if run["scenes"]])
        lines.append(
            f"| {ROWS[row][0]} | {steps:,} | {len(by_source)} | {len({run['seed'] for run in runs})} "
            f"| {100 * np.mean(list(agreement.values())):.1f} ({worst} {100 * agreement[worst]:.0f}) | {100 * mean_iou:.1f} "
            f"| {100 * scenes:.1f} | {np.median([run['seconds'] for run in runs]) / 60:.1f} |"
        )
    lines += ["", "| row | " + " | ".join(sources := sorted({run["source"] for run in results})) + " |"]
    lines.append("|---" * (len(sources) + 1) + "|")
    for (row, steps), runs in _grouped(results, "row", "steps").items():
        cells = [[run["agreement"] for run in runs if run["source"] == source] for source in sources]
        told = (f"{100 * np.mean(values):.1f}" if values else "" for values in cells)
        lines.append(f"| {ROWS[row][0]}, {steps:,} steps | {' | '.join(told)} |")
    return "\n".join([*lines, "", f"{kept_runs.machines(results)}."])


def _grouped(results: list[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in results:
        groups.setdefault(tuple(run[key] for key in keys), []).append(run)
    return groups


def main() -> None:
    """Prepares, trains what is not trained yet, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    real = REPOSITORY.parent / "shared" / "real"
    parser.add_argument("--real", type=Path, default=real, help="scenes elsewhere, if there are any")
    parser.add_argument("--land", type=Path, default=real / "land", help="chips, with tiles.csv and its column source")
    parser.add_argument("--saved_model", type=Path, default=real / "dynamic_world_model")
    parser.add_argument("--work", type=Path, default=Path("runs/real_land"), help="tiles, data sets and runs")
    parser.add_argument("--results", type=Path, default=Path("runs/real_land.jsonl"))
    parser.add_argument("--rows", type=kept_runs.some_of(ROWS), default=",".join(ROWS))
    parser.add_argument("--sources", default="", help="all if not given")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--table", action="store_true", help="print the table of the results, and train nothing")
    args = parser.parse_args()
    if args.table:
        print(table(kept_runs.read(args.results)))
        return
    keep_compiled_programs()
    args.work.mkdir(parents=True, exist_ok=True)
    bundle = args.work / "dynamic_world.safetensors"
    if not bundle.exists():
        write_bundle(read_published(args.saved_model), bundle)
    sources = write_chips(args.real, args.land, args.work / "tiles")
    if not all((args.work / "tiles" / "label" / f"{name}.tif").exists() for name in sources):
        label.main(["--network", str(bundle), "--tiles", str(args.work / "tiles")])
    left_out = [of for of in dict.fromkeys(sources.values()) if not of.startswith("elsewhere:")]
    left_out = args.sources.split(",") if args.sources else left_out
    elsewhere = {source: data_set(args.work, sources, source) for source in left_out}
    for seed in map(int, args.seeds.split(",")):
        for row in args.rows:
            for source in left_out:
                done = kept_runs.read(args.results)  # another process may do others of the runs
                if any((row, source, seed, args.steps) == (r["row"], r["source"], r["seed"], r["steps"]) for r in done):
                    continue
                line = one_run(args.work, row, source, seed, args, elsewhere[source])
                kept_runs.keep(args.results, line)
                args.results.with_suffix(".md").write_text(table(kept_runs.read(args.results)) + "\n")
    print(table(kept_runs.read(args.results)))


if __name__ == "__main__":
    main()
