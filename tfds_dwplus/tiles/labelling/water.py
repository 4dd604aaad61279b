"""Finds water by its darkness alone, which a network may take for trees: at level L2A deep water is as good as black. Pure.

Enters: digital numbers of a tile. Leaves: a mask of what only water can be. Of 761,000 such pixels of real land, Dynamic World's network
saw 65 % as water, 16 % as trees, and was unsure of the others.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Num

USED = ("B3", "B8", "B11")
"""Bands of the test; without one of them there is none."""

DARK = 0.03
"""Reflectance below which B8 and B11 are dark. Trees in deep shade may be as dark, but are brighter in B8 than in B3, which water never
is: NDWI, McFeeters 1996, International Journal of Remote Sensing 17, 1425; with B11, Xu 2006, same journal 27, 3025."""


def dark_water(numbers: Mapping[str, Num[np.ndarray, "height width"]]) -> Bool[np.ndarray, "height width"]:
    """Marks pixels that are dark in near and short-wave infrared, and not darker in green.

    Args:
        numbers: digital numbers, reflectance x 10000, of the bands of `USED`, by name; 0 where there is no data.
    """
    green, infrared, shortwave = (numbers[name].astype(np.float32) / 1e4 for name in USED)
    return (infrared < DARK) & (shortwave < DARK) & (green >= infrared) & (infrared > 0) & (shortwave > 0)
