"""Writes class maps of the tiles of a split as `<tile_id>.tif`, in a folder that appears when all are written."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jaxtyping import UInt8
from rasterio.errors import NotGeoreferencedWarning

from tfds_dwplus import bands
from tfds_dwplus.files.outputs import sync, write_whole
from tfds_dwplus.files.raster_files import geotiff
from tfds_dwplus.files.strangers import fault_of_name, one_line
from tfds_dwplus.files.workplaces import beside, take_place, workplace
from tfds_dwplus.imagery.grids import parse_crs


@contextlib.contextmanager
def whole_folder(folder: Path | None) -> Iterator[Path | None]:
    """Yields a temporary folder, whose files are moved to `folder` if the block raises no error; yields None for None.

    Raises:
        ValueError: `folder` is a file, its parent folder does not exist, or another process is writing maps to it.
    """
    if folder is None:
        yield None
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--maps {folder} is a file, expected a folder to write <tile_id>.tif to")
    if not folder.absolute().parent.is_dir():
        raise ValueError(f"no folder {folder.absolute().parent} for --maps {folder}; make it first")
    folder = folder.resolve()
    with workplace(beside(folder), folder, "--maps") as work:
        maps = work / "maps"
        maps.mkdir()
        yield maps
        if not folder.exists():
            return take_place(maps, folder, work)
        for path in sorted(maps.iterdir()):  # the folder may hold other files, which stay
            path.replace(folder / path.name)
        sync(folder)


def write_tile_map(
    folder: Path, tile: dict[str, Any], class_id: UInt8[np.ndarray, "height width"], classes: bands.Classes
) -> None:
    """Writes `<tile_id>.tif` in the colours of the classes, 255 nodata; georeferenced only if the record has a CRS."""
    if fault := fault_of_name(tile["tile_id"]):
        raise ValueError(
            f"tile id {one_line(repr(tile['tile_id']), 80)} {fault} and is no name of a file, so its map cannot be written; "
            "leave out --maps"
        )
    place = {"crs": parse_crs(tile["crs"]), "transform": rasterio.Affine(*tile["transform"])} if tile.get("crs") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        content = geotiff(
            class_id[None],
            descriptions=["land cover"],
            tags={f"class_{i}": name for i, name in enumerate(classes.names)},
            colours={i: (*rgb, 255) for i, rgb in enumerate(classes.rgb())},
            nodata=bands.IGNORE,
            compress="deflate",
            **place,
        )
    write_whole(folder / f"{tile['tile_id']}.tif", content)
