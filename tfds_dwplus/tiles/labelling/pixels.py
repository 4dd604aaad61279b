"""Decides the label of a pixel from a network's class probabilities, and stores the probabilities in bytes. Pure.

| pixel | label code | shares |
|---|---|---|
| a band that the network reads has no data; of a network that works without a sensor, no sensor has data in all bands | 0 | 0 |
| cloud | 0 | 0 |
| dark water, see `water`; of Dynamic World's classes | 1 | stored |
| top probability below the confidence | 0 | stored |
| else | the top class, its id + 1 | stored |
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

WHOLE = 255
"""Sum of the shares of a pixel, so probability = share / 255; 0 of a pixel whose probabilities are not known."""

_BLOCK = 1 << 20
"""Pixels that are converted at once."""


@dataclasses.dataclass(frozen=True)
class Counts:
    """Pixels of one or more tiles; each is counted once."""

    nodata: int = 0
    cloud: int = 0
    unsure: int = 0
    """Below the confidence."""
    classes: tuple[int, ...] = ()
    """Labelled pixels of each class; empty of no tile."""
    water: int = 0
    """Those of water that the network saw otherwise or was unsure of, but that are as dark as only water is."""

    @property
    def labelled(self) -> int:
        """Returns the number of labelled pixels."""
        return sum(self.classes)

    @property
    def pixels(self) -> int:
        """Returns the number of all pixels."""
        return self.nodata + self.cloud + self.unsure + self.labelled

    def __add__(self, other: "Counts") -> "Counts":
        classes = tuple(map(sum, itertools.zip_longest(self.classes, other.classes, fillvalue=0)))
        sums = (getattr(self, name) + getattr(other, name) for name in ("nodata", "cloud", "unsure"))
        return Counts(*sums, classes, self.water + other.water)

    def text(self, confidence: float, names: tuple[str, ...]) -> str:
        """Tells the shares of the pixels, and of the classes among the labelled ones, of these `names`, in two lines."""

        def share(part: int, whole: int) -> str:
            return f"{100 * part / max(whole, 1):.1f} %"

        parts = {
            "labelled": self.labelled,
            f"unsure (below {confidence:g})": self.unsure,
            "cloud": self.cloud,
            "without data": self.nodata,
        }
        counts = itertools.zip_longest(names, self.classes, fillvalue=0)
        classes = [f"{name} {share(number, self.labelled)}" for name, number in counts]
        pixels = ", ".join(f"{share(number, self.pixels)} {name}" for name, number in parts.items())
        dark = f" ({share(self.water, self.labelled)} by its darkness, not by the network)" if self.water else ""
        classes[0] += dark  # that of water
        return f"{self.pixels:,} pixels: {pixels}\nof the labelled: {', '.join(classes)}"


def label_codes(
    probability: Float32[np.ndarray, "height width class"],
    seen: Bool[np.ndarray, "height width"],
    confidence: float,
) -> UInt8[np.ndarray, "height width"]:
    """Returns the label codes of pixels: class id + 1, 0 where the top probability is below `confidence` or the pixel is not `seen`.

    Of equal probabilities the first class counts, as in a map.
    """
    sure = seen & (probability.max(axis=-1) >= np.float32(confidence))  # a NaN is not sure
    return np.where(sure, probability.argmax(axis=-1) + 1, 0).astype(np.uint8)


def shares(
    probability: Float32[np.ndarray, "height width class"], seen: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width class"]:
    """Returns probabilities as bytes that sum to 255 in each pixel, 0 where it is not `seen`.

    Each is rounded down, and what is missing to 255 goes, one each, to those that lost most, the first of equal ones. So none is off by
    1/255 or more, and no class overtakes another.
    """
    stored = np.zeros(probability.shape, np.uint8)
    flat, given, mask = stored.reshape(-1, stored.shape[-1]), probability.reshape(-1, stored.shape[-1]), seen.ravel()
    for start in range(0, len(mask), _BLOCK):
        there = np.flatnonzero(mask[start : start + _BLOCK]) + start
        part = given[there].astype(np.float64)
        part *= WHOLE / part.sum(axis=-1, keepdims=True)
        whole = np.floor(part)
        lost = np.argsort(np.argsort(whole - part, axis=-1, kind="stable"), axis=-1, kind="stable")
        whole += lost < WHOLE - whole.sum(axis=-1, keepdims=True)
        flat[there] = whole
    return stored


def counted(
    codes: UInt8[np.ndarray, "height width"],
    valid: Bool[np.ndarray, "height width"],
    cloud: Bool[np.ndarray, "height width"],
    classes: int,
    water: int = 0,
) -> Counts:
    """Counts the pixels of a tile: label codes, where the bands have data, where there is a cloud, by so many `classes`, and
    `Counts.water`.
    """
    by_code: Int64[np.ndarray, " code"] = np.bincount(codes.ravel(), minlength=classes + 1)
    clouded = int((valid & cloud).sum())
    return Counts(
        int((~valid).sum()),
        clouded,
        int(valid.sum()) - clouded - int(by_code[1:].sum()),
        tuple(by_code[1:].tolist()),
        water,
    )
