"""Finds clouds in Sentinel-2, so that a network that knows none does not label them as snow, built or bare land. Pure.

Enters: digital numbers of a tile. Leaves: a mask of clouds with a margin. Brightness alone decides: bright clouds are found, thin ones
and shadows are not. Bright sand and salt, which are red rather than blue, and snow, which is dark at 1.6 um, are left.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Num
from scipy import ndimage

NEEDED = ("B3", "B4")
"""Bands without which there is no test."""

USED = ("B2", *NEEDED, "B11")
"""Bands of the test. Without B2 bright fields and streets may count as cloud, without B11 snow does."""

GREEN, BRIGHT_GREEN, SWIR = 0.175, 0.39, 0.2
"""Reflectance of B3 above which a pixel is cloud if it is not redder than green, or in any case; and of B11, below which it is snow.

Sources: Braaten, Cohen and Yang 2015, Remote Sensing of Environment 169, 128 (for Landsat MSS); on Sentinel-2, with B11, Sentinel Hub's
custom script "Braaten-Cohen-Yang cloud detector", whose text has 0.2 and whose script 0.1: snow of a tundra in winter reached 0.13.
"""

HAZE = 0.08
"""B2 - B4 / 2 of a cloud is above this. Source: the haze optimised transformation of Zhang et al. 2002, as in Fmask, Zhu and Woodcock
2012, Remote Sensing of Environment 118, 83, eq. 3. Bright fields, streets and most roofs are below."""

CORE_PX = 5
"""Least height and width of the core of a cloud, pixels; what is smaller is a roof or a ship. Braaten et al. leave out patches of fewer
than nine pixels of 60 m."""

MARGIN_PX = 5
"""What is taken around a cloud, pixels: its thin edge, and the neighbours that the network saw it with."""


def cloud_mask(numbers: Mapping[str, Num[np.ndarray, "height width"]]) -> Bool[np.ndarray, "height width"]:
    """Marks clouds: bright patches with a core of `CORE_PX`, all bright pixels that hang together with it, and a margin.

    Args:
        numbers: digital numbers, reflectance x 10000, of the bands of `USED` that there are, by name; 0 where there is no data.
    """
    bright = bright_pixels(numbers)
    core = ndimage.binary_opening(bright, np.ones((CORE_PX, CORE_PX), bool))
    return with_margin(ndimage.binary_propagation(core, structure=np.ones((3, 3), bool), mask=bright))


def bright_pixels(numbers: Mapping[str, Num[np.ndarray, "height width"]]) -> Bool[np.ndarray, "height width"]:
    """Marks the pixels that are as bright and as white as a cloud, each by itself. `numbers` as of `cloud_mask`."""
    blue, green, red, swir = (numbers[name].astype(np.float32) / 1e4 if name in numbers else None for name in USED)
    cloud = (green > BRIGHT_GREEN) | ((green > GREEN) & (green > red))
    if swir is not None:
        cloud &= swir > SWIR
    if blue is not None:
        cloud &= blue - red / 2 > HAZE
    return cloud


def with_margin(cloud: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Marks also the pixels within `MARGIN_PX` of a marked one."""
    if not cloud.any():
        return cloud
    return ndimage.distance_transform_edt(~cloud) <= MARGIN_PX


def in_doubt(names: tuple[str, ...]) -> str:
    """Says in a line what a test with these bands cannot tell; '' if it has all of `USED`."""
    if missing := [name for name in NEEDED if name not in names]:
        return f"the tiles have no {' and '.join(missing)}, so clouds are not looked for and get a class"
    wrong = {"B11": "snow", "B2": "bright fields and streets"}
    if missing := [name for name in USED if name not in names]:
        return (
            f"the tiles have no {' and '.join(missing)}, so {' and '.join(wrong[name] for name in missing)} may count as cloud and stay "
            "unlabelled; --keep_clouds gives them a class, and clouds too"
        )
    return ""
