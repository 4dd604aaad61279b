"""SpecSAR-Former in JAX: land-cover maps from Sentinel-2 and Sentinel-1."""

from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def load(workdir_or_bundle: str | Path, checkpoint: str = "best") -> Any:
    """A trained network that maps xarray data: `specsar_jax.load("runs/quickstart").predict(s2, s1)`.

    A workdir, an exported bundle or folder, or its address on a model hub, "hub:owner/name". See `specsar_jax.arrays.Network`. Needs the extra `xarray`.
    """
    try:
        from specsar_jax import arrays  # JAX and xarray are loaded when they are asked for
    except ModuleNotFoundError as error:
        if error.name != "xarray":
            raise
        raise ImportError("specsar_jax.load needs xarray: pip install 'specsar_jax[xarray]'") from None
    return arrays.load(workdir_or_bundle, checkpoint)
