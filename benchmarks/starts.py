"""How long a network takes to load: seconds of a fresh process from its start to a loaded bundle, imports included.

    python benchmarks/starts.py BUNDLE ... [--rounds 9]

`python benchmarks/mapping.py --work DIR` leaves bundles with drawn weights in DIR. One process before the rounds is not counted: files
are in the system's memory then.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from network import machine, table

DONE = {"load": "import specsar_jax, sys; specsar_jax.load(sys.argv[1])", "Python alone": "pass"}


def seconds(code: str, bundle: Path) -> float:
    """Of a process that ends well."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(bundle)], check=True)
    return time.perf_counter() - began


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "safetensors"))
    print(
        f"{machine()}, load before the run {os.getloadavg()[0]:.1f}  \nPython {platform.python_version()}, {versions}\n"
    )
    rows = []
    for bundle in args.bundles:
        for what, code in DONE.items():
            seconds(code, bundle)
            taken = [seconds(code, bundle) for _ in range(args.rounds)]
            figures = (bundle.stat().st_size / 1e6, statistics.median(taken), min(taken), max(taken))
            rows.append([bundle.stem, what, *(f"{of:.3g}" for of in figures)])
    print(table(["network", "what", "MB", "median s", "fastest", "slowest"], rows))


if __name__ == "__main__":
    main()
