"""Second colours of classes, which readers tell apart who see red and green, or blue and yellow, alike.

Enters: classes. Leaves: colours in their order, hexadecimal as theirs. Distances are those of Oklab, between colours as each reader sees them.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from tfds_dwplus import bands

SAFE_COLOURS = ("3067b6", "0e412b", "b5eba7", "22a8c0", "e4a800", "9b9d79", "dd2d16", "6c6a69", "f0eaf3")
"""Of Dynamic World's classes, in their order. Two of them are 16 apart or more to any reader (CAM02-UCS); of Dynamic World's own colours some
are 5 apart. Found by simulated annealing, in a range of hue, chroma and lightness for each class, such as blue for water.
"""

_SIGHTS = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)
"""What becomes of linear red, green and blue to a reader with all cones, and without the long, middle and short ones. Source: Machado,
Oliveira and Fernandes 2009, IEEE TVCG 15(6), severity 1.0.
"""

_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
"""Source: Ottosson 2020, A perceptual color space for image processing, https://bottosson.github.io/posts/oklab."""

_APART = tuple(0.13 * 0.9**step for step in range(32))
"""Distances in Oklab that are tried, from the largest. Black and white are 1 apart; more than the first would cost colours their own hue."""

_LIGHTNESS = (0.25, 0.95)
"""Of colours that stand out from white and black paper."""


def safe_colours(classes: bands.Classes) -> tuple[str, ...]:
    """Returns a second colour of each class, hexadecimal without `#`.

    Classes of Dynamic World have chosen ones. Others get, class by class, the colour most like their own among those that are far enough from
    the earlier ones to every reader; how far is the most for which all get one. Up to 12 classes are told apart with ease; of more than 24
    some look alike to anyone.
    """
    if set(classes.names) <= set(bands.CLASSES):
        return tuple(SAFE_COLOURS[bands.CLASSES.index(name)] for name in classes.names)
    own = np.array(classes.rgb(), np.uint8)
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness = _as_seen(grid)[0, :, 0]
    candidates = np.concatenate([own, grid[(lightness >= _LIGHTNESS[0]) & (lightness <= _LIGHTNESS[1])]])
    seen = _as_seen(candidates)
    chosen = next(found for apart in _APART if (found := _choose(seen, len(classes), apart)))
    return tuple(candidates[place].tobytes().hex() for place in chosen)


def _choose(seen: Float[np.ndarray, "sight colour 3"], count: int, apart: float) -> Sequence[int]:
    """Returns `count` colours that are `apart`, each most like the one at its own place; none if there are too few."""
    chosen: list[int] = []
    nearest = np.full(seen.shape[1], np.inf)
    for own in range(count):
        free = np.flatnonzero(nearest >= apart)
        if not free.size:
            return ()
        chosen.append(int(free[np.argmin(_distance(seen[:1, free], seen[:1, own]))]))
        nearest = np.minimum(nearest, _distance(seen, seen[:, chosen[-1]]))
    return chosen


def _distance(
    seen: Float[np.ndarray, "sight colour 3"], other: Float[np.ndarray, "sight 3"]
) -> Float[np.ndarray, " colour"]:
    """Returns the distance of colours from another one, to the reader for whom it is least."""
    return np.linalg.norm(seen - other[:, None], axis=-1).min(axis=0)


def _as_seen(rgb: UInt8[np.ndarray, "colour 3"]) -> Float[np.ndarray, "sight colour 3"]:
    """Returns colours in Oklab as each reader sees them."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1
    sights = np.clip(np.einsum("sij,cj->sci", _SIGHTS, linear), 0, 1)
    return np.cbrt(sights @ _TO_CONES.T) @ _TO_OKLAB.T
