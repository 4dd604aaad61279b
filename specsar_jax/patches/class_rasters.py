"""Class maps as files, read and written strip by strip.

Enters: a raster of class ids that is our own. Leaves: its strips; and a raster in which small patches have joined others.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import UInt8
from rasterio.windows import Window

from specsar_jax.patches.generalising import generalised
from specsar_jax.patches.pixel_areas import minimum_on
from tfds_dwplus import bands
from tfds_dwplus.files.opening import open_raster
from tfds_dwplus.files.raster_files import GDAL_ERRORS, check_whole
from tfds_dwplus.files.strangers import one_line
from tfds_dwplus.imagery.grids import Grid

STRIP_PX = 1 << 20
"""Pixels of a strip, about: they take some four hundred bytes each at worst, in noise, where hardly a pixel is like its neighbours."""

_ROWS = 64
"""Strips have a multiple of these, as pixels are measured by so many rows."""

CACHE_BYTES = 32 << 20
"""Of GDAL, for blocks that several strips lie in."""


def strips(
    path: Path, rows: int = 0, done: Callable[[int], object] = lambda pixels: None
) -> Iterator[UInt8[np.ndarray, "rows columns"]]:
    """Yields the class ids of a raster in strips of whole rows from the top.

    Args:
        path: of the raster.
        rows: of a strip; 0 for about `STRIP_PX`.
        done: is called with numbers of pixels.

    Raises:
        ValueError: its pixels cannot be read.
    """
    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES), open_raster(path) as raster:
        rows = rows or max(STRIP_PX // raster.width // _ROWS, 1) * _ROWS
        for top in range(0, raster.height, rows):
            try:
                ids = raster.read(1, window=Window(0, top, raster.width, min(rows, raster.height - top)))
            except GDAL_ERRORS as error:
                raise ValueError(f"cannot read {path} ({one_line(error.__cause__ or error)})") from None
            yield ids
            done(ids.size)


def grid_of(path: Path) -> Grid:
    """Returns the grid of a raster."""
    with open_raster(path) as raster:
        return Grid.of(raster)


def generalise(
    source: Path, final: Path, minimum_ha: float, rows: int = 0, done: Callable[[int], object] = lambda pixels: None
) -> None:
    """Writes a raster of class ids in which small patches have joined others.

    Args:
        source: raster of class ids.
        final: GeoTIFF to write, of ids alone: without names and colours.
        minimum_ha: area below which a patch is small, hectares.
        rows: of a strip, as in `strips`.
        done: is called with numbers of pixels, each twice.

    Raises:
        ValueError: the pixels cannot be read.
        OSError: the raster cannot be written.
    """
    grid = grid_of(source)
    minimum, areas = minimum_on(grid, minimum_ha)
    profile = {"height": grid.height, "width": grid.width, "count": 1, "dtype": "uint8", "nodata": bands.IGNORE}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 64, "compress": "deflate", "zlevel": 1}
    made = generalised(lambda: strips(source, rows, done), grid.height, minimum, areas)
    with _written(final):
        with (
            rasterio.open(
                final, "w", driver="GTiff", crs=grid.crs, transform=grid.transform, bigtiff="if_safer", **profile
            ) as raster,
            contextlib.closing(made),  # before the raster, as the settings of GDAL that were made last end first
        ):
            top = 0
            for ids in made:
                raster.write(ids, 1, window=Window(0, top, *ids.shape[::-1]))
                top += len(ids)
        with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
            check_whole(final)


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    """Raises an OSError that asks for the disk in place of GDAL's own errors, and of that of `check_whole`."""
    try:
        yield
    except (*GDAL_ERRORS, OSError) as error:
        reason = getattr(error, "strerror", None) or error.__cause__ or error
        raise OSError(f"cannot write in {path.parent} ({one_line(reason)}): is the disk full?") from None
