"""Rasters as outputs: GDAL does not say that it could not write the end of a file, so nothing of it is trusted unread.

Enters: pixels. Leaves: bytes of a GeoTIFF, for `outputs.write_whole`. A raster too large for memory is read again with `check_whole`.
"""

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jaxtyping import Shaped
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

GDAL_ERRORS = (RasterioError, CPLE_BaseError)
"""All that rasterio raises: its own errors, and those of GDAL that it hands on as they are."""


def geotiff(
    values: Shaped[np.ndarray, "band height width"],
    *,
    descriptions: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    colours: Mapping[int, tuple[int, int, int, int]] | None = None,
    driver: str = "GTiff",
    **profile: Any,
) -> bytes:
    """Makes a GeoTIFF in memory, a cloud-optimised one if `driver` is COG. Python then writes it and reports a full disk, which GDAL would not.

    Args:
        values: the pixels.
        descriptions: names of the bands.
        tags: of the file.
        colours: of the classes of the first band, red, green, blue and alpha.
        driver: of GDAL.
        **profile: further settings of `rasterio.open`, such as crs, transform, nodata and compress.
    """
    count, height, width = values.shape
    size = {"count": count, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver=driver, **size, **profile) as raster:
            raster.write(values)
            raster.update_tags(**tags or {})
            if descriptions:
                raster.descriptions = tuple(descriptions)
            if colours:
                raster.write_colormap(1, colours)
        return memory.read()


def check_whole(path: Path) -> None:
    """Reads a GeoTIFF that GDAL wrote, overviews too. Raises an OSError if a block of it is missing or cannot be read."""
    try:
        with rasterio.open(path, driver="GTiff") as raster:
            for level in (None, *range(len(raster.overviews(1)))):
                which = {} if level is None else {"overview_level": level}
                with rasterio.open(path, driver="GTiff", **which) as smaller:
                    for (row, column), window in smaller.block_windows(1):
                        smaller.read(window=window)
                        # A block that was never written reads as nodata.
                        if raster.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=1, ovr=level) is None:
                            raise RasterioError(f"no block {column}, {row}")
    except GDAL_ERRORS as error:
        reason = error.__cause__ or error
        raise OSError(errno.EIO, f"written, but not whole: {reason}", str(path)) from None
