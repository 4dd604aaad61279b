"""Hectares of each change, window by window, while the raster of changes is written.

Enters: two maps laid over each other. Leaves: sums over all of their common ground; codes of pixels go to whoever writes them. A pixel
counts with its area on the ellipsoid, as in `zones.counting`; memory does not grow with the maps.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import shapely
from jaxtyping import Bool, Float64, UInt
from rasterio.features import geometry_mask

from specsar_jax.changes import codes
from specsar_jax.changes.pairs import Pair
from specsar_jax.zones.counting import LEAF_PX
from specsar_jax.zones.map_parts import Part
from tfds_dwplus import bands
from tfds_dwplus.places import blocks
from tfds_dwplus.places.true_areas import pixel_hectares

Write = Callable[[range, range, UInt[np.ndarray, "rows columns"]], object]
"""Takes codes of some rows and columns, as the raster has them."""


@dataclasses.dataclass(frozen=True)
class Compared:
    """Areas of changes, in hectares."""

    told: Float64[np.ndarray, "before after"]
    """Of ground that is unchanged, and of changes that are sure enough, or all if that is not asked."""
    unsure: Float64[np.ndarray, "before after"]
    """Of changes that are left out, as not sure enough."""
    before_alone: float
    """Of ground that has a class in the earlier map alone."""
    after_alone: float
    """Of ground within the rasters of the earlier map that has a class in the later one alone."""

    @property
    def mapped(self) -> Float64[np.ndarray, "before after"]:
        """What the two maps say, sure or not."""
        return self.told + self.unsure

    @property
    def total(self) -> float:
        """Area that has a class in both maps."""
        return float(self.mapped.sum())


def of_kinds(
    hectares: Float64[np.ndarray, "*zone kind"], classes: int
) -> Float64[np.ndarray, "*zone sure before after"]:
    """Returns areas by code as matrices: first of what is told, then of what is left out."""
    shape = (*hectares.shape[:-1], 2, classes, classes)
    return np.concatenate([hectares, np.zeros_like(hectares)], axis=-1)[..., : 2 * classes**2].reshape(shape)


def compare(pair: Pair, part: Part, write: Write, done: Callable[[int], object] = lambda pixels: None) -> Compared:
    """Compares two maps on the grid of a raster of the earlier one.

    Args:
        pair: the maps.
        part: one of `pair.parts`.
        write: is called with the codes of each window, from the upper left row by row.
        done: is called with numbers of pixels as they are dealt with.

    Raises:
        ValueError: as `Pair.opened`.
    """
    classes, unsure = len(pair.classes), pair.sure is not None
    sums, alone = np.zeros(pair.kinds + 1), np.zeros(2)
    with pair.opened(part) as read:
        for rows, columns in _windows(part.grid.height, part.grid.width):
            before, after, sure = read(rows, columns)
            found = codes.coded(before, after, sure, classes)
            hectares = pixel_hectares(part.grid, rows, columns)
            sums += np.bincount(found.ravel(), hectares.ravel(), pair.kinds + 1)
            has = before != bands.IGNORE, after != bands.IGNORE
            after_alone = has[1] & ~has[0]
            if part.utm_zone and after_alone.any():  # beyond its zone the next mosaic has the ground
                after_alone &= _in_zone(part, rows, columns)
            alone += [hectares[has[0] & ~has[1]].sum(), hectares[after_alone].sum()]
            write(rows, columns, codes.stored(found, classes, unsure=unsure))
            done(found.size)
    told, left_out = of_kinds(sums[:-1], classes)
    return Compared(told, left_out, *alone.tolist())


def added(all_of_them: list[Compared]) -> Compared:
    """Adds up the areas of several rasters."""
    return Compared(*(sum(getattr(one, field.name) for one in all_of_them) for field in dataclasses.fields(Compared)))


def _in_zone(part: Part, rows: range, columns: range) -> Bool[np.ndarray, "rows columns"]:
    """Returns which pixels of a region's mosaic lie in its UTM zone by their centre."""
    grid = part.grid.window(slice(rows.start, rows.stop), slice(columns.start, columns.stop))
    outline = shapely.geometry.mapping(blocks.zone_outline(part.utm_zone))
    return geometry_mask([outline], grid.shape, grid.transform, invert=True)


def _windows(height: int, width: int) -> Iterator[tuple[range, range]]:
    for top in range(0, height, LEAF_PX):
        for left in range(0, width, LEAF_PX):
            yield range(top, min(top + LEAF_PX, height)), range(left, min(left + LEAF_PX, width))
