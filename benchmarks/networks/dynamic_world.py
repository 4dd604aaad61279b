"""Dynamic World's network in JAX and in TensorFlow: seconds of a tile, in turns, and how far the probabilities of real tiles differ.

    cd benchmarks
    python -m networks.dynamic_world --saved_model dynamicworld/model/forward [--tensorflow PYTHON] [--size 510] [--turns 10]
    python -m networks.dynamic_world --saved_model dynamicworld/model/forward [--tensorflow PYTHON] --real ../../shared/real

Speed: both get the same random tile, already scaled, and give logits. Of each the least and the median are told, of the clock and of
the processor; on a busy machine only the least of the processor's says something. Numbers: both get the same digital numbers of all
tiles and scenes of nine bands in `--real`, whole; those larger than a window are mapped in windows too, as they are and with one row
and column less, which makes them odd. `--tensorflow` is a Python that has TensorFlow, if this one has not.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import rasterio

_THEIRS = """
import os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow as tf
network = tf.saved_model.load(sys.argv[1])
size = int(sys.argv[2])
tile = tf.constant(np.random.default_rng(0).random((1, size, size, 9), np.float32))
for _ in sys.stdin:
    clock, processor = time.perf_counter(), time.process_time()
    network(tile).numpy()
    print(time.perf_counter() - clock, time.process_time() - processor, flush=True)
"""

_THEIR_NUMBERS = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow as tf
network, tiles = tf.saved_model.load(sys.argv[1]), np.load(sys.argv[2])
low, high = np.array(eval(sys.argv[4]))
def probabilities(numbers):
    x = np.exp(5 * (np.log(numbers[None] * 0.005 + 1) - low) / high - 1)
    return tf.nn.softmax(network((x / (x + 1)).astype(np.float32))).numpy()[0]
np.savez(sys.argv[3], **{name: probabilities(tiles[name]) for name in tiles.files})
"""


def compare(saved_model: Path, size: int = 510, turns: int = 10, tensorflow: str = sys.executable) -> dict[str, float]:
    """Returns least and median seconds of `jax` and `tensorflow`: `jax_least_s`, `jax_median_s`, `jax_processor_s`, and so on.

    Raises:
        ValueError: the interpreter `tensorflow` cannot run the SavedModel.
    """
    ours = _ours(saved_model, size)
    theirs = subprocess.Popen(
        [tensorflow, "-c", _THEIRS, str(saved_model), str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def their_turn() -> tuple[float, float]:
        try:
            theirs.stdin.write("\n")
            theirs.stdin.flush()
            clock, processor = theirs.stdout.readline().split()
        except (BrokenPipeError, ValueError):
            raise ValueError(
                f"{tensorflow} does not run {saved_model}; give --tensorflow a Python that has it"
            ) from None
        return float(clock), float(processor)

    try:
        for _ in range(2):  # compile, and warm up
            ours(), their_turn()
        times = {"jax": [], "tensorflow": []}
        for _ in range(turns):
            times["jax"].append(ours())
            times["tensorflow"].append(their_turn())
    finally:
        theirs.stdin.close()
        theirs.wait()
    figures = {}
    for name, taken in times.items():
        clocks, processors = zip(*taken, strict=True)
        figures |= {f"{name}_least_s": min(clocks), f"{name}_median_s": statistics.median(clocks)}
        figures |= {f"{name}_processor_s": min(processors)}
    return figures


def _ours(saved_model: Path, size: int) -> Callable[[], tuple[float, float]]:
    import jax

    from specsar_jax.import_dynamic_world import read_published
    from specsar_jax.network import model

    trained = read_published(saved_model)
    config = trained.config.model
    variables = model.for_inference(trained.variables, config)
    tile = np.random.default_rng(0).random((1, size, size, 9), np.float32)
    network = jax.jit(lambda variables, tile: model.apply(variables, tile, None, config=config))

    def turn() -> tuple[float, float]:
        clock, processor = time.perf_counter(), time.process_time()
        np.asarray(network(variables, tile))
        return time.perf_counter() - clock, time.process_time() - processor

    return turn


def differences(saved_model: Path, real: Path, work: Path, tensorflow: str) -> Iterator[tuple[str, float, int, int]]:
    """Yields of each tile: how it was computed, the largest difference of a probability, pixels of another class, and pixels."""
    from real_land import write_chips

    from specsar_jax.batches.preprocess import log_low_high
    from specsar_jax.import_dynamic_world import read_published
    from specsar_jax.maps import windows
    from specsar_jax.maps.compiled import make_probabilities
    from specsar_jax.maps.mapping import map_pixels
    from specsar_jax.network import model
    from tfds_dwplus import bands

    tiles = {}
    for name in write_chips(real, real / "land", work):
        with rasterio.open(work / "s2" / f"{name}.tif") as raster:
            tiles[name] = np.moveaxis(raster.read(), 0, -1)
    trained = read_published(saved_model)
    network, config = make_probabilities(trained), trained.config
    large = {name: tile for name, tile in tiles.items() if max(tile.shape) > config.data.crop_px}
    tiles |= {f"{name} odd": tile[:-1, :-1] for name, tile in large.items()}
    np.savez(work / "tiles.npz", **tiles)
    files, numbers = (work / "tiles.npz", work / "theirs.npz"), log_low_high(trained.bands["s2"])
    subprocess.run([tensorflow, "-c", _THEIR_NUMBERS, str(saved_model), *map(str, files), repr(numbers)], check=True)
    with np.load(files[1]) as theirs:
        for name, tile in tiles.items():
            none = np.zeros((*tile.shape[:2], 0), np.float32)
            found = {"whole": np.asarray(network(tile[None], none[None]))[0]}
            if max(tile.shape) > config.data.crop_px:
                how = config.data.crop_px, config.predict.overlap, 0
                cut = (windows.plan(size, *how, **model.stride_and_margin(config.model)) for size in tile.shape[:2])
                found["windows"] = map_pixels(
                    network, tile, none, bands.s2_seen(tile), *cut, config.predict.window_px, trained.classes
                )
            for form, ours in found.items():
                seen = ~np.isnan(ours[..., 0])
                other = (ours.argmax(axis=-1) != theirs[name].argmax(axis=-1)) & seen
                kind = f"{form}, odd" if name.endswith(" odd") else form
                yield kind, float(np.abs(ours - theirs[name])[seen].max()), int(other.sum()), int(seen.sum())


def main() -> None:
    """Prints one of the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saved_model", type=Path, required=True)
    parser.add_argument("--tensorflow", default=sys.executable, help="Python that has TensorFlow")
    parser.add_argument("--size", type=int, default=510, help="side of the tile, pixels")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--real", type=Path, help="folder of real tiles, to compare numbers instead of seconds")
    args = parser.parse_args()
    if args.real:
        by_form: dict[str, list[tuple[float, int, int]]] = {}
        with tempfile.TemporaryDirectory() as work:
            for form, *told in differences(args.saved_model, args.real, Path(work), args.tensorflow):
                by_form.setdefault(form, []).append(tuple(told))
        print(
            "| | tiles | pixels | largest difference of a probability | pixels of another class |\n|---|---:|---:|---:|---:|"
        )
        for form, told in by_form.items():
            largest, others, pixels = zip(*told, strict=True)
            print(f"| {form} | {len(told)} | {sum(pixels):,} | {max(largest):.1e} | {sum(others):,} |")
        return
    figures = compare(args.saved_model, args.size, args.turns, args.tensorflow)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, jax {version('jax')}")
    print(
        f"{args.size} x {args.size} px, {args.turns} turns\n\n| | least ms | median ms | least of the processor, ms |\n|---|---:|---:|---:|"
    )
    for name in ("jax", "tensorflow"):
        milliseconds = (f"{1e3 * figures[f'{name}_{kind}_s']:.0f}" for kind in ("least", "median", "processor"))
        print(f"| {name} | " + " | ".join(milliseconds) + " |")


if __name__ == "__main__":
    main()
