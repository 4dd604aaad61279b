"""A year of class probabilities as a network gives them of a valley: snow comes and goes, a forest is felled in June."""

import numpy as np

from specsar_jax.maps.final_files import SCALE
from tfds_dwplus import bands

WATER, TREES, GRASS, CROPS, BARE, SNOW = (
    bands.CLASSES.index(name) for name in ("water", "trees", "grass", "crops", "bare", "snow_and_ice")
)

LAND = {"forest": TREES, "felled": TREES, "fields": CROPS, "glacier": SNOW, "lake": WATER}
"""What the parts of the valley are in January."""

PIXELS = 400
"""Of each part."""

WINTER = (0, 1, 11)
"""Months of snow: January, February and December."""

FELLED = 5
"""The first month without the forest: June."""


def truth(place: str, month: int) -> int:
    """Class that is to be seen of a part of the valley, months counted from the January before the felling; those before are below 0."""
    if month % 12 in WINTER and place in ("forest", "felled", "fields"):
        return SNOW
    return BARE if place == "felled" and month >= FELLED else LAND[place]


def year(place: str, seed: int, *, wrong: float = 0.05, cloudy: float = 0.1) -> np.ndarray:
    """Shares of the twelve months, (12, 9, pixels): most of what is to be seen, in some months of another class or not observed."""
    rng = np.random.default_rng(seed)
    seen = np.repeat([[truth(place, month)] for month in range(12)], PIXELS, axis=1)
    other = (seen + rng.integers(1, 9, seen.shape)) % 9
    told = np.where(rng.random(seen.shape) < wrong, other, seen)
    logits = rng.normal(0, 0.7, (12, 9, PIXELS)) + 4.0 * (told[:, None] == np.arange(9)[:, None])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    stored = np.rint(shares / SCALE).astype(np.uint8)
    cloud = rng.random(seen.shape) < cloudy
    return np.where(cloud[:, None], np.uint8(bands.IGNORE), stored)
