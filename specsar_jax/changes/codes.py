"""The numbers of changes: a pixel that was of class `before` and is of class `after` has the code before x n + after, of n classes. Pure.

    0 ... n x n - 1         from-to; those of 0, n + 1, 2 n + 2 ... are unchanged ground
    n x n                   in the raster: a change that is not sure enough
    n x n ... 2 n x n - 1   when counting: the same, n x n + its from-to
    255 or 65535            in the raster: a pixel without a class in one of the maps

With up to 15 classes codes fit into a byte; with more, up to 64, into two.
"""

import numpy as np
from jaxtyping import Bool, Int32, UInt, UInt8

from tfds_dwplus import bands
from tfds_dwplus.bands import Classes

UNSURE = "change, not sure"
"""Name of the code of changes that are not sure enough."""

_UNSURE_GREY = (128, 128, 128)

_PALE = 0.75
"""Share of white in the colour of unchanged ground."""

_FROM = 0.3
"""Share of the class of before in the colour of a change; the rest is of the class of after."""


def coded(
    before: UInt8[np.ndarray, "rows columns"],
    after: UInt8[np.ndarray, "rows columns"],
    sure: Bool[np.ndarray, "rows columns"] | None,
    classes: int,
) -> Int32[np.ndarray, "rows columns"]:
    """Returns codes as they are counted, 0 to `kinds` - 1, and `kinds` where one of the maps has no class.

    Args:
        before: class ids, 255 for none.
        after: likewise.
        sure: which changes are sure enough; None if that is not asked.
        classes: number of classes.
    """
    codes = before.astype(np.int32) * classes + after
    if sure is not None:
        codes[(before != after) & ~sure] += classes**2
    codes[(before == bands.IGNORE) | (after == bands.IGNORE)] = kinds(classes, unsure=sure is not None)
    return codes


def kinds(classes: int, *, unsure: bool) -> int:
    """Returns how many codes are counted."""
    return classes**2 * (2 if unsure else 1)


def stored(codes: Int32[np.ndarray, "rows columns"], classes: int, *, unsure: bool) -> UInt[np.ndarray, "rows columns"]:
    """Returns codes as the raster has them."""
    found = np.minimum(codes, classes**2)
    found[codes == kinds(classes, unsure=unsure)] = nodata(classes)
    return found.astype(dtype(classes))


def dtype(classes: int) -> str:
    """Returns the type of the raster."""
    return "uint8" if classes**2 < bands.IGNORE else "uint16"


def nodata(classes: int) -> int:
    """Returns the raster's nodata."""
    return int(np.iinfo(dtype(classes)).max)


def names(classes: Classes) -> list[str]:
    """Returns the names of the raster's codes from 0 to n x n."""
    found = [
        f"{one}, unchanged" if one == other else f"{one} to {other}" for one in classes.names for other in classes.names
    ]
    return [*found, UNSURE]


def colours(classes: Classes) -> list[tuple[int, int, int]]:
    """Returns the colours of these codes: unchanged ground pale, a change as the class that it became, tinged with what it was."""
    rgb = np.array(classes.rgb(), np.float64)
    mixed = _FROM * rgb[:, None] + (1 - _FROM) * rgb[None]
    places = np.arange(len(classes))
    mixed[places, places] = _PALE * 255 + (1 - _PALE) * rgb
    return [*map(tuple, np.rint(mixed).astype(int).reshape(-1, 3).tolist()), _UNSURE_GREY]
