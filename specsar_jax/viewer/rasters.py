"""Rasters of the viewer: opened anew for each picture, with overviews in a temporary folder and a place on earth where they lack them.

Enters: addresses that the user names. Leaves: addresses to open by `reopened`: the same, or those of virtual rasters (VRT) of them; and
pixels of any rectangle of web Mercator, by rio-tiler.
"""

import contextlib
import io
import sys
import time
import xml.etree.ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from jaxtyping import UInt8
from PIL import Image
from rasterio.enums import Resampling

from specsar_jax.viewer.mercator import MERCATOR, TILE_PX, Bounds, overlap_px
from tfds_dwplus.files.addresses import is_remote
from tfds_dwplus.files.opening import open_raster, opened
from tfds_dwplus.imagery.grids import Grid

LARGE_PX = 2048
"""Rasters with more rows or columns get overviews if they have none; without, a zoomed-out tile would read the whole file."""


class _Virtual(str):
    """Path of a VRT that is made here, of one raster that was checked."""

    source = ""
    """GDAL's path of that raster if it is remote."""


@contextlib.contextmanager
def reopened(address: str, anywhere: bool) -> Iterator[rasterio.DatasetReader]:
    """Opens a raster again. Raises an OSError if that is not possible any more."""
    with contextlib.ExitStack() as stack:
        if isinstance(address, _Virtual):
            if address.source:  # what may lie beside it on the server is not asked for
                stack.enter_context(rasterio.Env(CPL_VSIL_CURL_ALLOWED_FILENAME=address.source))
            yield stack.enter_context(opened(str(address), ("VRT",)))
            return
        try:
            raster = open_raster(address, anywhere=anywhere)
        except ValueError as error:
            raise OSError(str(error)) from None
        yield stack.enter_context(raster)


def _virtual(raster: rasterio.DatasetReader, path: str) -> _Virtual:
    """Writes a VRT of a raster."""
    rasterio.shutil.copy(raster, path, driver="VRT")
    made = _Virtual(path)
    made.source = raster.files[0] if is_remote(raster.name) and raster.files else ""
    return made


def placed_grid(grid: Grid) -> Grid:
    """Returns the grid, or if it is not georeferenced one of its size at the equator."""
    if grid.placed:
        return grid
    at = rasterio.Affine(10, 0, -5 * grid.width, 0, -10, 5 * grid.height)
    return Grid(MERCATOR, at, grid.height, grid.width)


def on_earth(raster: rasterio.DatasetReader, address: str) -> str:
    """Returns the address of a raster with the grid of `placed_grid`: its own, or that of a VRT in memory."""
    grid = Grid.of(raster)
    if grid.placed:
        return str(address)
    made = _virtual(raster, f"/vsimem/specsar_jax_view/{abs(hash(str(address)))}.vrt")
    with rasterio.open(str(made), "r+", driver="VRT") as virtual:
        virtual.crs, virtual.transform = (placed := placed_grid(grid)).crs, placed.transform
    return made


def with_overviews(
    address: str, anywhere: bool, indexes: Sequence[int], how: Resampling, path: Path, name: str
) -> tuple[str, dict[int, int]]:
    """Returns the address of some bands of a raster, and the numbers that the bands have there. That is the raster itself if it has
    overviews or is small, else a VRT of it at `path`, whose overviews are made here.
    """
    with reopened(address, anywhere) as raster:
        size = max(raster.shape)
        if size <= LARGE_PX or raster.overviews(indexes[0]):
            return address, {index: index for index in indexes}
        print(f"note: {name} has no overviews; makes them in a temporary folder", end="", file=sys.stderr, flush=True)
        started = time.perf_counter()
        made = _virtual(raster, str(path))
        if isinstance(address, _Virtual):
            made.source = address.source
    tree = xml.etree.ElementTree.parse(path)
    root = tree.getroot()
    places = {index: place for place, index in enumerate(dict.fromkeys(indexes), start=1)}
    found = {int(band.attrib["band"]): band for band in root.findall("VRTRasterBand")}
    for band in found.values():
        root.remove(band)
    for index, place in places.items():
        found[index].set("band", str(place))
        root.append(found[index])
    tree.write(path)
    # An overview of half the size would cost most of the time and disk space and save little: a tile reads 512 x 512 pixels.
    factors = [2**power for power in range(2, size.bit_length()) if size >> power >= TILE_PX // 2]
    settings = {"COMPRESS_OVERVIEW": "DEFLATE", "BIGTIFF_OVERVIEW": "IF_SAFER", "GDAL_NUM_THREADS": "ALL_CPUS"}
    if made.source:
        settings["CPL_VSIL_CURL_ALLOWED_FILENAME"] = made.source
    with rasterio.Env(**settings), rasterio.open(path, "r+", driver="VRT") as raster:
        raster.build_overviews(factors, how)
    print(f": {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return made, places


def part(
    address: str,
    indexes: Sequence[int],
    bounds: Bounds,
    size: tuple[int, int],
    anywhere: bool = False,
    nodata: float | None = None,
) -> np.ma.MaskedArray:
    """Reads some bands of a raster, resampled to a rectangle of web Mercator by the nearest pixel, masked where there is none.

    Args:
        address: to open by `reopened`.
        indexes: bands, from 1.
        bounds: of the rectangle, metres of web Mercator.
        size: rows and columns.
        anywhere: as `reopened`.
        nodata: taken for the file's own: with a number that it does not hold, nothing but what lies outside of it is masked.

    Returns:
        [band, row, column].
    """
    from rio_tiler import reader

    height, width = size
    with reopened(address, anywhere) as raster:
        found = np.ma.array(np.zeros((len(indexes), height, width), raster.dtypes[indexes[0] - 1]), mask=True)
        # Beyond its edge nothing is read: GDAL would warp nothing for minutes, at the resolution of the file.
        if (window := overlap_px(Grid.of(raster).bounds_in(MERCATOR), bounds, height, width)) is None:
            return found
        (top, bottom), (left, right) = window
        x_px, y_px = (bounds[2] - bounds[0]) / width, (bounds[3] - bounds[1]) / height
        inside = (bounds[0] + left * x_px, bounds[3] - bottom * y_px, bounds[0] + right * x_px, bounds[3] - top * y_px)
        rows, columns = bottom - top, right - left
        crs = {"dst_crs": MERCATOR, "bounds_crs": MERCATOR}
        read = reader.part(raster, inside, rows, columns, indexes=list(indexes), nodata=nodata, **crs)
        found[:, top:bottom, left:right] = read.array
        return found


def png(picture: UInt8[np.ndarray, "height width 4"]) -> bytes:
    """Encodes a picture, fast rather than small."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png", compress_level=1)
    return file.getvalue()
