"""Share of its time that an evaluation of whole tiles spends in the network.

    python benchmarks/evaluating.py [--tiles 24] [--batch_size 4] [--rounds 3] [--preset specsar_former] [--json FILE]

Simulated tiles of 510 x 510 pixels, nine bands of Sentinel-2 and two of Sentinel-1; weights as drawn, for a trained network takes as
long. In each round the compiled network alone goes over as many batches as the split has, again and again the same one, which
lies on the device; and `specsar_jax.evaluate` goes over the split and over its first batch: tiles read from disk, put on the
device, network, sums of each tile, figures with intervals by bootstrap. What both evaluations cost besides tiles, tracing and
loading the compiled programs above all, is taken from the two of them, and so is a split of 299 tiles: that is extrapolated.
About five minutes on two cores.
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from specsar_jax import config as configs
from specsar_jax.batches import dataset, pipeline, preprocess
from specsar_jax.network import model
from specsar_jax.network.probabilities import log_probabilities
from specsar_jax.trained.trained_network import Trained
from specsar_jax.training import evaluation, losses
from specsar_jax.training.evaluation import evaluation_step
from tfds_dwplus import DynamicWorldPlusConfig
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles.prepared import open_dataset, read_split

SIZE_PX = 510
PAPER_TILES = 299
"""Test patches of Dynamic World+."""


def simulated(folder: Path, tiles: int, batch_size: int, preset: str) -> Trained:
    """A network with drawn weights, and a data set of simulated tiles under `folder`."""
    splits = (("train", 1), ("test", tiles))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        prepare(DynamicWorldPlusConfig(name="simulated", simulated_tiles=splits, tile_size_px=SIZE_PX), folder)
    builder = open_dataset(folder, "simulated")
    config = configs.override(configs.Config(), [f"model={preset}", f"train.eval_batch_size={batch_size}"])
    data = dataclasses.replace(config.data, data_dir=str(folder), s2_bands=dataset.dataset_bands(builder))
    config = dataclasses.replace(config, data=data)
    variables = model.init_params(config.model, jax.random.key(0))
    return Trained(config, dataset.dataset_statistics(builder), variables, 0, temperature=1.25)


def ways(trained: Trained, tiles: int) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; each once over all tiles, or over the first batch. Compiled programs are kept by JAX's cache."""
    config = trained.config
    source = read_split(open_dataset(config.data.data_dir, "simulated"), "test")
    rasters = pipeline.select(config.data.s2_bands, config.data.s2_bands, config.model.sensors)
    read = functools.partial(pipeline.evaluation_batches, source, rasters, config.data, config.train.eval_batch_size)
    batch = {name: jax.device_put(of) for name, of in next(read()).items() if of.dtype.kind != "S"}
    variables = jax.device_put(trained.variables)
    batches = range(-(-tiles // config.train.eval_batch_size))

    @jax.jit
    def network(variables: model.Variables, s2: jax.Array, s1: jax.Array) -> jax.Array:
        return log_probabilities(
            variables,
            *preprocess.standardise(s2, s1, trained.statistics, config.data.scaling),
            config=config.model,
            average_turns=config.predict.average_turns,
        )

    alpha = losses.class_alpha(trained.statistics.label_pixels, config.loss)
    sums = jax.jit(functools.partial(evaluation_step, config=config.loss, alpha=alpha, temperature=trained.temperature))
    log_p = network(variables, batch["s2"], batch["s1"])
    evaluate = functools.partial(evaluation.evaluate, trained, config.data.data_dir, "simulated")
    return {
        "network": lambda: [jax.block_until_ready(network(variables, batch["s2"], batch["s1"])) for _ in batches],
        "sums": lambda: [jax.block_until_ready(sums(batch, log_p)) for _ in batches],
        "reading": lambda: list(map(len, read())),
        "evaluation": lambda: evaluate("test"),
        "first batch": lambda: evaluate(f"test[:{config.train.eval_batch_size}]"),
    }


def seconds(of: Callable[[], Any]) -> float:
    """Of one call."""
    started = time.perf_counter()
    of()
    return time.perf_counter() - started


def shares(times: dict[str, list[float]], tiles: int, batch_size: int) -> dict[str, list[float]]:
    """Share of the network round by round: of a tile more, of the split as it is, and of one of the paper's size."""
    of = {name: np.array(values) for name, values in times.items()}
    a_tile = (of["evaluation"] - of["first batch"]) / (tiles - batch_size)
    besides = of["evaluation"] - tiles * a_tile
    network = of["network"] / tiles
    return {
        "a tile more": list(network / a_tile),
        f"{tiles} tiles": list(tiles * network / of["evaluation"]),
        f"{PAPER_TILES} tiles, extrapolated": list(PAPER_TILES * network / (besides + PAPER_TILES * a_tile)),
    }


def spread(values: list[float], scale: float, digits: int) -> str:
    """Median (lowest-highest)."""
    shown = [f"{scale * value:.{digits}f}" for value in (np.median(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]}-{shown[2]})"


def machine() -> str:
    """Device, processor and cores."""
    device = jax.devices()[0]
    name = "" if device.platform == "cpu" else f"{device.device_kind}, "
    with contextlib.suppress(OSError):
        if found := re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()):
            return f"{name}{platform.machine()}, {found[1]}, {os.cpu_count()} cores"
    return f"{name}{platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    """Measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=24, help="a multiple of the batch size, two batches at least")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", choices=configs.PRESETS, default="specsar_former")
    parser.add_argument("--json", type=Path, help="also write all times, in seconds, here")
    args = parser.parse_args()
    if args.tiles < 2 * args.batch_size or args.tiles % args.batch_size:
        parser.error(f"--tiles {args.tiles}, expected a multiple of {args.batch_size} and two batches at least")
    if args.json and not args.json.parent.is_dir():  # told now, not after the measurement
        parser.error(f"no folder {args.json.parent.resolve()} to write {args.json.name} to")
    names = ("jax", "flax", "numpy", "grain")
    print(f"\n{machine()}, Python {platform.python_version()}  ")
    print(
        ", ".join(f"{name} {version(name)}" for name in names) + f"; {args.preset}, {SIZE_PX} x {SIZE_PX} px, ", end=""
    )
    print(f"batches of {args.batch_size}\n")
    with tempfile.TemporaryDirectory() as folder:
        if not jax.config.jax_compilation_cache_dir:
            jax.config.update("jax_compilation_cache_dir", f"{folder}/xla")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        timed = ways(simulated(Path(folder) / "data", args.tiles, args.batch_size, args.preset), args.tiles)
        timed["first batch"]()
        timed["sums"]()
        times: dict[str, list[float]] = {name: [] for name in timed}
        for _ in range(args.rounds):
            for name, of in timed.items():
                times[name].append(seconds(of))
    print("| over | seconds | ms a tile |\n|---|---:|---:|")
    for name, values in times.items():
        tiles = args.batch_size if name == "first batch" else args.tiles
        print(f"| {name}, {tiles} tiles | {spread(values, 1, 2)} | {spread(values, 1e3 / tiles, 0)} |")
    print("\n| in the network, of the evaluation of | % |\n|---|---:|")
    for name, values in shares(times, args.tiles, args.batch_size).items():
        print(f"| {name} | {spread(values, 100, 1)} |")
    print(f"\nMedian over {args.rounds} rounds (lowest-highest).")
    if args.json:
        args.json.write_text(json.dumps(times, indent=1))


if __name__ == "__main__":
    main()
