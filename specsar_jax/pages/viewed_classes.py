"""The classes of a map for the viewer, from its tags and its colour table.

Enters: the open raster of a map, or of class probabilities. Leaves: the classes; a ValueError if it is another kind of raster.
"""

import re

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from tfds_dwplus import bands
from tfds_dwplus.files.strangers import one_line
from tfds_dwplus.imagery.grids import Grid


def classes_of_map(path: str, raster: rasterio.DatasetReader) -> bands.Classes:
    """Returns the classes of a map, Dynamic World's where its tags name none. Raises ValueError if it is no class map."""
    expected = "expected a class map of specsar_jax.predict: one band of uint8, class ids and nodata 255"
    if raster.count != 1 or raster.dtypes[0] != "uint8" or raster.nodata != bands.IGNORE:
        kind = f"{raster.count} bands" if raster.count != 1 else f"{raster.dtypes[0]} with nodata {raster.nodata}"
        raise ValueError(f"{path} holds {kind}, {expected}")
    try:
        classes = _named(raster)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; give the map as specsar_jax.predict wrote it") from None
    try:
        look = raster.read(1, out_shape=tuple(min(size, 1024) for size in raster.shape))
    except RasterioError as error:
        raise ValueError(f"cannot read the pixels of {path}; is the file cut short? ({error})") from None
    other = np.setdiff1d(look, [*range(len(classes)), bands.IGNORE])
    if other.size:
        found, most = ", ".join(map(str, other[:5])), len(classes) - 1
        raise ValueError(
            f"{path} holds {found}, expected ids of its {len(classes)} classes, 0 to {most}, and nodata 255"
        )
    return classes


def check_probabilities(
    path: str, raster: rasterio.DatasetReader, map_path: str, grid: Grid, classes: bands.Classes
) -> None:
    """Raises a ValueError unless a raster holds the probabilities of the classes of a map, on its grid."""
    names = [text or name for text, name in zip(raster.descriptions, classes.names, strict=False)]
    if raster.count != len(classes) or names != list(classes.names):
        raise ValueError(
            f"{path} holds {raster.count} bands ({one_line(', '.join(names), 200)}), expected the probabilities of the classes of "
            f"{map_path}, {one_line(', '.join(classes.names), 200)}"
        )
    if not Grid.of(raster).same(grid):
        raise ValueError(f"{path} is not on the grid of {map_path}; give the probabilities that were written with it")


def _named(raster: rasterio.DatasetReader) -> bands.Classes:
    """Returns the classes that the tags class_0, class_1 and so on name, with the colours of the colour table."""
    named = {int(key[6:]): text for key, text in raster.tags().items() if re.fullmatch(r"class_\d{1,3}", key)}
    if not named:
        return bands.DYNAMIC_WORLD
    names = tuple(text for _, text in sorted(named.items()))
    try:
        table = raster.colormap(1)
    except ValueError:  # rasterio's, of a file without one
        if names == bands.CLASSES:
            return bands.DYNAMIC_WORLD
        raise ValueError("its tags name classes of its own, but it has no colour table") from None
    if lacking := [place for place in range(len(named)) if not (place in named and place in table)]:
        raise ValueError(f"class {lacking[0]} of {len(named)} has no name among its tags, or no colour")
    return bands.Classes(names, tuple(bytes(table[place][:3]).hex() for place in range(len(named))))
