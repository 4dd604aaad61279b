"""Compute statistics of bands and labels in one pass over the tiles.

Enters: tiles with their nodata values. Leaves: for each band count, mean, standard deviation, 1st and 99th percentile of
valid pixels, and pixels per class, as plain numbers for JSON. Memory does not grow with the number of tiles.

Statistics of parts can be merged. Counts and percentiles are then exactly those of the whole. Means and deviations may
differ in the last digits of a double.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Num, Shaped, UInt8

from tfds_dwplus import bands
from tfds_dwplus.tiles.labelling.class_table import colours_of

_COUNTED = ("count", "mean", "squares", "histogram")


class BandStatistics:
    """Running statistics of some bands.

    Means and squares are merged pairwise (Chan, Golub and LeVeque 1979, the parallel form of Welford 1962). Percentiles
    are read from a histogram with bins of width `step`: exact for integers with step 1, otherwise to half a bin.
    """

    def __init__(self, names: tuple[str, ...], low: float, high: float, step: float) -> None:
        """Bins cover `low` to `high`. A value outside is counted in the first or the last bin."""
        self.names, self.low, self.high, self.step = tuple(names), low, high, step
        bins = round((high - low) / step) + 1
        self.count = np.zeros(len(names), np.int64)
        self.mean = np.zeros(len(names))
        self.squares = np.zeros(len(names))  # sum of squared differences from the mean
        self.histogram = np.zeros((len(names), bins), np.int64)

    def update(
        self, values: Num[np.ndarray, "height width band"], valid: Bool[np.ndarray, "height width band"]
    ) -> None:
        """Adds the values of a tile where `valid`."""
        part = BandStatistics(self.names, self.low, self.high, self.step)
        for band in range(len(self.names)):
            chosen = values[..., band][valid[..., band]].astype(np.float64)
            if not chosen.size:
                continue
            part.count[band] = chosen.size
            part.mean[band] = chosen.mean()
            part.squares[band] = np.square(chosen - part.mean[band]).sum()
            bins = np.rint((chosen - self.low) / self.step).astype(np.int64).clip(0, self.histogram.shape[1] - 1)
            part.histogram[band] = np.bincount(bins, minlength=self.histogram.shape[1])
        self.merge(part)

    def merge(self, other: "BandStatistics") -> None:
        """Adds the statistics of another part, with the same bands and bins."""
        total = self.count + other.count
        share = np.divide(other.count, total, out=np.zeros(len(self.names)), where=total > 0)
        difference = other.mean - self.mean
        self.squares += other.squares + difference**2 * self.count * share
        self.mean += difference * share
        self.count = total
        self.histogram += other.histogram

    def percentile(self, percent: float) -> Num[np.ndarray, " band"]:
        """The smallest binned value with at least `percent` of the pixels at or below it (numpy's 'inverted_cdf')."""
        wanted = np.maximum(np.ceil(self.count * (percent / 100.0)), 1)
        below = np.cumsum(self.histogram, axis=1) < wanted[:, None]
        return self.low + below.sum(axis=1) * self.step

    def summary(self, unit: str) -> dict[str, Any]:
        """The statistics as lists in the order of the bands. Raises a ValueError for a band without valid pixels."""
        if not self.count.all():
            empty = [name for name, count in zip(self.names, self.count, strict=True) if not count]
            raise ValueError(f"no valid pixel of band {', '.join(empty)} in the train split; check its nodata values")
        return {
            "bands": list(self.names),
            "unit": unit,
            "pixels": self.count.tolist(),
            "mean": self.mean.tolist(),
            "std": np.sqrt(self.squares / self.count).tolist(),
            "p1": self.percentile(1.0).tolist(),
            "p99": self.percentile(99.0).tolist(),
        }


class TileStatistics:
    """Running statistics of both sensors and of the labels."""

    def __init__(self, s2_bands: tuple[str, ...], s1_bands: tuple[str, ...], classes: bands.Classes) -> None:
        """A missing sensor has no bands."""
        self.classes = classes
        self.s2 = BandStatistics(s2_bands, 0.0, 65535.0, 1.0)
        self.s1 = BandStatistics(s1_bands, *bands.S1_DB_RANGE, 0.01)
        self.label_pixels = np.zeros(len(classes), np.int64)

    def update(
        self, s2: Shaped[np.ndarray, "h w b"], s1: Shaped[np.ndarray, "h w c"], label: UInt8[np.ndarray, "h w"]
    ) -> None:
        """Adds one tile: digital numbers, dB, class ids."""
        self.s2.update(s2, s2 != bands.S2_NODATA)
        self.s1.update(s1, np.isfinite(s1))
        self.label_pixels += np.bincount(label.ravel(), minlength=256)[: len(self.classes)]

    def merge(self, other: "TileStatistics") -> None:
        """Adds the statistics of another part."""
        self.s2.merge(other.s2)
        self.s1.merge(other.s1)
        self.label_pixels += other.label_pixels

    def arrays(self) -> dict[str, np.ndarray]:
        """All counts as arrays, for `add_arrays` in another process."""
        counted = {f"{name} {key}": getattr(getattr(self, name), key) for name in ("s2", "s1") for key in _COUNTED}
        return counted | {"label_pixels": self.label_pixels}

    def add_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Adds the counts that `arrays` gave in another process."""
        other = TileStatistics(self.s2.names, self.s1.names, self.classes)
        for name in ("s2", "s1"):
            for key in _COUNTED:
                setattr(getattr(other, name), key, arrays[f"{name} {key}"])
        other.label_pixels = arrays["label_pixels"]
        self.merge(other)

    def summary(self, s1_unit: str = bands.S1_UNIT) -> dict[str, Any]:
        """`{"s2": ..., "s1": ..., "label_pixels": {class: pixels}}`, ready for JSON, with `class_colours` of other classes than Dynamic
        World's.
        """
        return {
            "s2": self.s2.summary(bands.S2_UNIT),
            "s1": self.s1.summary(s1_unit),
            "label_pixels": dict(zip(self.classes.names, self.label_pixels.tolist(), strict=True)),
            **colours_of(self.classes),
        }
