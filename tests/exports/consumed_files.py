"""Exported files in a process of their own, in which neither we nor JAX, if so wished, can be imported."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CONSUMERS = Path(__file__).parents[1] / "consumers"


def consumed(
    script: str,
    exported: Sequence[Path],
    folder: Path,
    sizes: dict[str, dict[str, np.ndarray]],
    without: tuple[str, ...] = (),
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Runs a script of `consumers` on pixels of two sizes, by sensor, where neither we nor `without` can be imported.

    Returns probabilities and classes of each size.
    """
    np.savez(folder / "tile.npz", **{f"{size}_{s}": v for size, given in sizes.items() for s, v in given.items()})
    missing = ("specsar_jax", "tfds_dwplus", *without)
    code = f"import runpy, sys; sys.modules |= dict.fromkeys({missing}); runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    arguments = [CONSUMERS / script, exported[0], folder / "tile.npz", folder / "out.npz", *exported[1:]]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    found = np.load(folder / "out.npz")
    return {size: (found[f"{size}_probabilities"], found[f"{size}_classes"]) for size in sizes}
