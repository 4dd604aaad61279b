"""Seconds of Dynamic World's network in one run of a tile, in JAX and in TensorFlow, in turns.

    python benchmarks/networks/dynamic_world.py --saved_model dynamicworld/model/forward [--tensorflow PYTHON] [--size 510] [--turns 10]

Both get the same random tile, already scaled, and give logits. Of each the least and the median are told, of the clock and of the
processor; on a busy machine only the least of the processor's says something. `--tensorflow` is a Python that has TensorFlow, if this
one has not. `compare` is what other scripts call.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

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


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saved_model", type=Path, required=True)
    parser.add_argument("--tensorflow", default=sys.executable, help="Python that has TensorFlow")
    parser.add_argument("--size", type=int, default=510, help="side of the tile, pixels")
    parser.add_argument("--turns", type=int, default=10)
    args = parser.parse_args()
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
