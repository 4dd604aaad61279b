"""SpecSAR-Former in JAX: land-cover maps from Sentinel-2 and Sentinel-1."""

from pathlib import Path
from typing import Any

from specsar_jax.version import __version__ as __version__


def load(workdir_or_bundle: str | Path, checkpoint: str = "best") -> Any:
    """Loads a trained network that maps xarray data: `specsar_jax.load("runs/quickstart").predict(s2, s1)`.

    Loads a workdir, an exported bundle or folder, or an address on a model hub, "hub:owner/name". Needs the extra `xarray`.
    """
    try:
        from specsar_jax.maps import arrays  # here, so that JAX and xarray are loaded only if needed
    except ModuleNotFoundError as error:
        if error.name != "xarray":
            raise
        raise ImportError("specsar_jax.load needs xarray: pip install 'specsar_jax[xarray]'") from None
    return arrays.load(workdir_or_bundle, checkpoint)
