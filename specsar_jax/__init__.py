"""SpecSAR-Former in JAX: land-cover maps from Sentinel-2 and Sentinel-1."""

import importlib.util
from pathlib import Path
from typing import Any

from specsar_jax.version import __version__ as __version__


def load(workdir_or_bundle: str | Path, checkpoint: str = "best") -> Any:
    """Loads a trained network that maps xarray data: `specsar_jax.load("runs/quickstart").predict(s2, s1)`.

    Loads a workdir, an exported bundle or folder, or an address on a model hub, "hub:owner/name". Needs the extra `xarray`. A bundle is
    read and checked in half a second; JAX and what else maps are imported by the first `predict`.
    """
    if importlib.util.find_spec("xarray") is None:
        raise ImportError("specsar_jax.load needs xarray: pip install 'specsar_jax[xarray]'")
    from specsar_jax.maps import loaded  # here, so that numpy and all else are loaded only if needed

    return loaded.load(workdir_or_bundle, checkpoint)
