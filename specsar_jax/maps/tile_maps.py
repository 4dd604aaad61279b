"""Writes class maps of the tiles of a split as `<tile_id>.tif`, in a folder that appears when all are written."""

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jaxtyping import UInt8
from rasterio.errors import NotGeoreferencedWarning

from tfds_dwplus import bands


@contextlib.contextmanager
def whole_folder(folder: Path | None) -> Iterator[Path | None]:
    """Yields a temporary folder, whose files are moved to `folder` if the block raises no error; yields None for None.

    Raises:
        ValueError: `folder` is a file, or its parent folder does not exist.
    """
    if folder is None:
        yield None
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--maps {folder} is a file, expected a folder to write <tile_id>.tif to")
    if not folder.absolute().parent.is_dir():
        raise ValueError(f"no folder {folder.absolute().parent} for --maps {folder.name}; make it first")
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.absolute().parent) as unfinished:
        yield Path(unfinished)
        folder.mkdir(exist_ok=True)
        for path in Path(unfinished).iterdir():
            path.replace(folder / path.name)


def write_tile_map(folder: Path, tile: dict[str, Any], class_id: UInt8[np.ndarray, "height width"]) -> None:
    """Writes `<tile_id>.tif` in Dynamic World's colours, 255 nodata; georeferenced only if the record has a CRS."""
    if "/" in tile["tile_id"]:
        raise ValueError(
            f"tile id {tile['tile_id']!r} is no name of a file, so its map cannot be written; leave out --maps"
        )
    height, width = class_id.shape
    place = {"crs": tile["crs"], "transform": rasterio.Affine(*tile["transform"])} if tile.get("crs") else {}
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": "uint8",
        "nodata": bands.IGNORE,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(folder / f"{tile['tile_id']}.tif", "w", compress="deflate", **profile, **place) as raster:
            raster.write(class_id, 1)
            raster.write_colormap(1, {i: (*rgb, 255) for i, rgb in enumerate(bands.class_rgb())})
            raster.set_band_description(1, "land cover")
            raster.update_tags(**{f"class_{i}": name for i, name in enumerate(bands.CLASSES)})
