"""Speed of training: where the time of a step goes, and the same in PyTorch.

    python benchmarks/training.py [--cases tiny:128:8,specsar_former:256:2] [--steps 60] [--rounds 3] [--tiles 24] [--json FILE]

A case is PRESET:CROP:BATCH[:TYPE]. Simulated tiles of 510 x 510, prepared, and the same as GeoTIFF. In each round every form
takes its turn, for so many steps:

- the compiled step of `specsar_jax.train` alone, on one batch that lies on the device;
- `specsar_jax.train` on batches that are in memory, and on the prepared tiles, with a checkpoint half-way;
- SegFormer-B2 of transformers on PyTorch, eager, with AdamW, on one batch in memory, and fed by a DataLoader with as many
  workers as this project has reading threads, whose data set reads the crop alone from the GeoTIFFs (`pip install -e '.[bench]'`).
"""

import argparse
import contextlib
import dataclasses
import io
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from reading import SIZE_PX, machine, simulated, table, write_folder

from specsar_jax.batches import dataset, pipeline
from specsar_jax.config import Config, Data, Mesh, Optimizer, Train, model_preset
from specsar_jax.devices.compilation import compile_ahead
from specsar_jax.devices.sharding import make_mesh, of_state, put
from specsar_jax.training import loop, train_state
from specsar_jax.training.train_state import init_state
from tfds_dwplus import DynamicWorldPlusConfig, bands
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles.prepared import open_dataset, read_split

THREADS = 2
BARE, MEMORY, TILES = "compiled step alone", "train, batches in memory", "train, prepared tiles"
TORCH_MEMORY, TORCH_TILES = "SegFormer-B2, batch in memory", "SegFormer-B2, DataLoader, GeoTIFF"
NOTES = """
Tiles/s: median over {rounds} rounds of {steps} steps (slowest-fastest), without those up to the first log line
(of the compiled step alone and of SegFormer, without the first). x alone: over the compiled step alone of the same round, median;
below 1 is slower. Waiting for data: share of the same time. Checkpoints: share of the time between the first step and the end
(`metrics.jsonl`, lines `time`), without compiling and evaluating; they are written in the background, of two in a round it is the
time in which steps stood still. Compile: of the first start, with an empty cache, seconds.
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained, on crops of which side, how many at a time."""

    preset: str
    crop_px: int
    batch: int
    dtype: str = "float32"

    @classmethod
    def parse(cls, text: str) -> "Case":
        """From PRESET:CROP:BATCH[:TYPE]."""
        preset, crop, batch, *dtype = text.split(":")
        return cls(preset, int(crop), int(batch), *dtype)

    def config(self, folder: Path, steps: int) -> Config:
        """Of a run of so many steps, looking at the validation split at its end only."""
        return Config(
            data=Data(
                name="tiles",
                data_dir=str(folder / "data"),
                crop_px=self.crop_px,
                validation_split="train[:1]",
                test_split="",
            ),
            model=model_preset(self.preset, compute_dtype=self.dtype),
            optimizer=Optimizer(warmup_steps=5),
            train=Train(
                steps=steps, batch_size=self.batch, eval_every=steps, save_every=steps // 2 + 1, eval_batch_size=1
            ),
            mesh=Mesh(),
        )


class Again:
    """A few batches over and over, in place of the pipeline."""

    def __init__(self, batches: list[pipeline.Batch]) -> None:
        self._batches = itertools.cycle(batches)

    def __next__(self) -> pipeline.Batch:
        return next(self._batches)

    def close(self) -> None:
        """As the pipeline has it."""


def run(config: Config, workdir: Path, batches: list[pipeline.Batch] | None) -> dict[str, float]:
    """Tiles a second and shares of `specsar_jax.train`, fed by its own pipeline or by `batches`."""
    pipelined = pipeline.train_batches
    if batches is not None:
        pipeline.train_batches = lambda *_, **__: Again(batches)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            loop.train(config, workdir)
    finally:
        pipeline.train_batches = pipelined
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    # Not the first: the first step of a program takes several times as long, and that of the compiled step alone is not timed either.
    logged = [line for line in lines if line["kind"] == "train"][1:]
    rates = [line["tiles_per_second"] for line in logged]
    (spent,) = [line for line in lines if line["kind"] == "time"]
    stepping_s = spent["total_s"] - spent["compile_s"] - spent["evaluate_s"]
    return {
        "tiles_per_second": len(rates) / sum(1 / rate for rate in rates),
        "data": sum(line["data_wait_share"] / line["tiles_per_second"] for line in logged)
        / sum(1 / rate for rate in rates),
        "checkpoint": spent["checkpoint_s"] / stepping_s,
        "compile_s": spent["compile_s"],
    }


def prepared_step(config: Config, batch: pipeline.Batch) -> Callable[[], float]:
    """Tiles a second of the compiled step alone, as a function."""
    builder = open_dataset(config.data.data_dir, config.data.name)
    config, statistics = dataset.resolve(config, builder)
    mesh = make_mesh()
    shardings = of_state(jax.eval_shape(lambda: init_state(config)), mesh, config.mesh)
    state, placed = jax.device_put(init_state(config), shardings), put(batch, mesh)
    compiled = compile_ahead(train_state.make_program(config, statistics, mesh, shardings), state, placed)

    def rate() -> float:
        nonlocal state
        state, _ = jax.block_until_ready(compiled(state, placed))
        started = time.perf_counter()
        for _ in range(config.train.steps):
            state, _ = jax.block_until_ready(compiled(state, placed))
        return config.train.steps * config.train.batch_size / (time.perf_counter() - started)

    return rate


def batches_of(config: Config, count: int) -> list[pipeline.Batch]:
    """The first batches of a run."""
    builder = open_dataset(config.data.data_dir, config.data.name)
    config, _ = dataset.resolve(config, builder)
    rasters = pipeline.select(config.data.s2_bands, dataset.dataset_bands(builder), config.model.sensors)
    source = read_split(builder, config.data.train_split)
    with contextlib.closing(
        pipeline.train_batches(source, rasters, config.data, batch_size=config.train.batch_size, seed=config.train.seed)
    ) as batches:
        return list(itertools.islice(batches, count))


def torch_rate(folder: Path, case: Case, steps: int, form: str) -> float:
    """Tiles a second of PyTorch's loop, in a process of its own."""
    command_line = [
        sys.executable,
        __file__,
        "--torch",
        json.dumps([str(folder), dataclasses.astuple(case), steps, form]),
    ]
    done = subprocess.run(command_line, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"PyTorch's loop failed: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.split()[-1])


def torch_loop(folder: Path, case: Case, steps: int, form: str) -> float:
    """The loop that a user of PyTorch would write: SegFormer-B2, AdamW, clipping, flips and turns, workers."""
    import rasterio
    import torch
    from rasterio.windows import Window
    from torch.utils.data import DataLoader, Dataset
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_float32_matmul_precision("high")
    paths = sorted((folder / "tiles" / "label").glob("*.tif"))

    class Crops(Dataset):
        def __len__(self) -> int:
            return case.batch * (steps + 2)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            rng = np.random.default_rng(index)
            name = paths[index % len(paths)].name
            row, column = rng.integers(0, SIZE_PX - case.crop_px + 1, 2)
            rasters = []
            for kind in ("s2", "s1", "label"):
                with rasterio.open(folder / "tiles" / kind / name) as raster:
                    rasters.append(raster.read(window=Window(int(column), int(row), case.crop_px, case.crop_px)))
            s2, s1, label = rasters
            bands = np.concatenate([(s2 / 10000.0 - 0.2) / 0.15, np.nan_to_num((s1 + 15.0) / 5.0)]).astype(np.float32)
            target = np.where((label == 0) | (label > 9), 255, label.astype(np.int64) - 1)[0]
            quarters = int(rng.integers(4))
            return (
                torch.from_numpy(np.rot90(bands, quarters, (1, 2)).copy()),
                torch.from_numpy(np.rot90(target, quarters).copy()),
            )

    sizes = {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768}
    network = SegformerForSemanticSegmentation(
        SegformerConfig(num_channels=11, num_labels=len(bands.CLASSES), **sizes)
    ).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4)
    loader = DataLoader(
        Crops(), batch_size=case.batch, num_workers=THREADS, pin_memory=device.type == "cuda", drop_last=True
    )
    feed: Iterator[Any] = iter(loader)
    if form == TORCH_MEMORY:
        feed = itertools.repeat(next(feed))

    def step() -> None:
        x, target = (part.to(device, non_blocking=True) for part in next(feed))
        with torch.autocast(device.type, torch.bfloat16, enabled=case.dtype == "bfloat16"):
            logits = network(pixel_values=x).logits
        logits = torch.nn.functional.interpolate(logits.float(), size=target.shape[1:], mode="bilinear")
        loss = torch.nn.functional.cross_entropy(logits, target, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        loss.item()

    step()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return steps * case.batch / (time.perf_counter() - started)


def measure(case: Case, folder: Path, steps: int, rounds: int, *, peers: bool) -> dict[str, list[dict[str, float]]]:
    """Figures of each form, a round at a time."""
    config = case.config(folder, steps)
    batches = batches_of(config, 4)
    # Compiled once anew, then loaded, as by a user's second start.
    jax.config.update(
        "jax_compilation_cache_dir", str(folder / f"cache_{case.preset}_{case.crop_px}_{case.batch}_{case.dtype}")
    )
    first = run(config, folder / "first", None)
    shutil.rmtree(folder / "first")
    bare = prepared_step(config, batches[0])
    forms: dict[str, Callable[[Path], dict[str, float]]] = {
        BARE: lambda _: {"tiles_per_second": bare()},
        MEMORY: lambda workdir: run(config, workdir, batches),
        TILES: lambda workdir: run(config, workdir, None),
    }
    if peers:
        for form in (TORCH_MEMORY, TORCH_TILES):
            forms[form] = lambda _, form=form: {"tiles_per_second": torch_rate(folder, case, steps, form)}
    figures: dict[str, list[dict[str, float]]] = {form: [] for form in forms}
    for number in range(rounds):
        for form, start in forms.items():
            with tempfile.TemporaryDirectory(dir=folder) as workdir:
                figures[form].append(start(Path(workdir) / "run"))
            rate = figures[form][-1]["tiles_per_second"]
            print(f"{case.preset}, round {number + 1}: {form} {rate:.2f} tiles/s", file=sys.stderr)
    figures[TILES][0]["first_compile_s"] = first["compile_s"]
    return figures


def rows_of(case: Case, figures: dict[str, list[dict[str, float]]]) -> list[list[str]]:
    """Lines of the table."""
    rows = []
    of_bare = [figure["tiles_per_second"] for figure in figures[BARE]]
    for form, rounds in figures.items():
        rates = [figure["tiles_per_second"] for figure in rounds]
        share = {
            name: f"{100 * np.median([figure[name] for figure in rounds]):.1f} %" if name in rounds[0] else "-"
            for name in ("data", "checkpoint")
        }
        compiled = rounds[0].get("first_compile_s")
        rows.append(
            [
                f"{case.preset}, {case.crop_px} px, {case.batch} x {case.dtype}",
                form,
                f"{np.median(rates):.2f} ({min(rates):.2f}-{max(rates):.2f})",
                f"{np.median(np.divide(rates, of_bare)):.3f}",
                share["data"],
                share["checkpoint"],
                "-" if compiled is None else f"{compiled:.1f}",
            ]
        )
    return rows


def main() -> None:
    """Measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cases", default="tiny:128:8,specsar_former:256:2", help="PRESET:CROP:BATCH[:TYPE], by commas"
    )
    parser.add_argument("--steps", type=int, default=60, help="of a round, 20 or more")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiles", type=int, default=24)
    parser.add_argument("--no_peers", action="store_true", help="without PyTorch")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    parser.add_argument("--torch", help=argparse.SUPPRESS)  # PyTorch's loop, started by the other one
    args = parser.parse_args()
    if args.torch:
        folder, case, steps, form = json.loads(args.torch)
        print(torch_loop(Path(folder), Case(*case), steps, form))
        return
    names = ["jax", "flax", "grain", "orbax-checkpoint"] + ([] if args.no_peers else ["torch", "transformers"])
    all_figures, rows = {}, []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "tiles").mkdir()
        tiles = write_folder(folder / "tiles", simulated(args.tiles))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            prepare(DynamicWorldPlusConfig(name="tiles", tiles=tiles, tile_size_px=SIZE_PX), folder / "data")
        for case in map(Case.parse, args.cases.split(",")):
            figures = measure(case, folder, args.steps, args.rounds, peers=not args.no_peers)
            all_figures[str(case)] = figures
            rows += rows_of(case, figures)
    print(f"\n{machine()}, {jax.devices()[0].device_kind}, Python {platform.python_version()}  ")
    print(", ".join(f"{name} {version(name)}" for name in names) + f"; tiles of {SIZE_PX} x {SIZE_PX} px\n")
    print(table(["case", "form", "tiles/s", "x alone", "waiting for data", "checkpoints", "compile s"], rows))
    print(NOTES.format(rounds=args.rounds, steps=args.steps))
    if args.json:
        args.json.write_text(json.dumps(all_figures, indent=1))


if __name__ == "__main__":
    main()
