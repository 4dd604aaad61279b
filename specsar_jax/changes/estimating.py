"""Areas of change with 95 % intervals, by evaluations of both maps. Pure.

Enters: mapped areas by class of before and after, and the confusion matrix of each map. Leaves: estimates, as those of
`accuracy.intervals`.

Each map was scored by itself, so that nothing was labelled that tells how often a *change* is right. From two separate matrices its area
follows under an assumption alone: given the classes that are mapped, the errors of the two maps at a pixel have nothing to do with each
other. Then with mapped areas A[i, j], P the shares p(label k | mapped i) of the earlier map and Q those of the later one

    T[k, l] = sum over i, j of P[k | i] A[i, j] Q[l | j].

Two maps of one network err alike at a place, above all where nothing changed: then errors are taken for change, and the estimate is too
large. Olofsson et al. 2014 want labelled pixels of a sample drawn in the map of *change* itself; these need no such assumption. With up to
seven classes `change.tif` is a class map of its own, whose areas `specsar_jax.areas --evaluation` corrects by such a sample.

Rows of P and Q are shares of labelled pixels in a class of a map, drawn by themselves as in Olofsson et al. 2014, so that of n pixels
p has the variance p (1 - p) / (n - 1), their equation 10, and two of a row the covariance -p q / (n - 1). T is linear in each of P and
Q; its variance is that of its linear part about the estimate (delta method: Rao 1973, Linear Statistical Inference, 6a.2; of a product,
Goodman 1960, Journal of the American Statistical Association 55, 708-713). If both maps have one evaluation, P is Q, one sample, and both
derivatives add up before they are squared. Summed over l, T is Olofsson's estimate of the class before, with its standard error.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from specsar_jax.accuracy.intervals import Z_95

ASSUMPTION = (
    "the estimates take the errors of the two maps for independent of each other, given the mapped classes; where both err alike, as maps "
    "of one network do, change is estimated too large. Labelled pixels drawn in the map of change itself need no such assumption "
    "(Olofsson et al. 2014)"
)


def estimates(
    mapped: Float64[np.ndarray, "before after"],
    confusion_before: Int64[np.ndarray, "label prediction"],
    confusion_after: Int64[np.ndarray, "label prediction"],
    *,
    one_sample: bool,
) -> dict[str, Any]:
    """Estimates areas of change from the mapped ones.

    Intervals are not clipped at 0: one that reaches below shows that the labelled pixels do not tell whether there is such change.

    Args:
        mapped: hectares by class of before and after.
        confusion_before: labelled pixels of the evaluation of the earlier map.
        confusion_after: those of the later one.
        one_sample: whether both are one evaluation.

    Returns:
        `area_ha`, a matrix [before, after] of estimates {"value", "standard_error", "interval"}; `changed_ha`, of all change; and
        `unsampled_share`, that of the mapped area which is not in the estimates, for one of its classes has fewer than two labelled
        pixels in its map.
    """
    sides = [_Side(confusion) for confusion in (confusion_before, confusion_after)]
    area = np.where(np.outer(sides[0].sampled, sides[1].sampled), mapped, 0.0)
    total, number = float(mapped.sum()), len(mapped)
    first, second = sides
    reach = area @ second.shares, first.shares.T @ area  # [mapped before, after] and [before, mapped after]

    def estimate(chosen: Float64[np.ndarray, "before after"]) -> dict[str, Any]:
        value = float((chosen * (first.shares.T @ reach[0])).sum())
        slopes = reach[0] @ chosen.T, (chosen.T @ reach[1]).T
        if one_sample:
            variance = first.variance(slopes[0] + slopes[1])
        else:
            variance = first.variance(slopes[0]) + second.variance(slopes[1])
        error = float(np.sqrt(max(variance, 0.0)))
        return {"value": value, "standard_error": error, "interval": [value - Z_95 * error, value + Z_95 * error]}

    def cell(before: int, after: int) -> Float64[np.ndarray, "before after"]:
        chosen = np.zeros((number, number))
        chosen[before, after] = 1.0
        return chosen

    return {
        "unsampled_share": 1 - float(area.sum()) / total if total else 0.0,
        "changed_ha": estimate(1 - np.eye(number)),
        "area_ha": [[estimate(cell(k, m)) for m in range(number)] for k in range(number)],
    }


class _Side:
    """The evaluation of one map: shares of the labels in each mapped class."""

    def __init__(self, confusion: Int64[np.ndarray, "label prediction"]) -> None:
        pixels = confusion.sum(axis=0).astype(np.float64)
        self.sampled = pixels >= 2
        """Which classes have two labelled pixels."""
        self.shares = np.where(self.sampled, confusion / np.maximum(pixels, 1), 0.0).T
        """[mapped, label]; 0 where a class is not sampled."""
        self.degrees = np.maximum(pixels - 1, 1)

    def variance(self, slope: Float64[np.ndarray, "mapped label"]) -> float:
        """Returns the variance of a sum of shares, each times a slope, from those of multinomial rows."""
        mean = (self.shares * slope).sum(axis=1)
        return float((((self.shares * slope**2).sum(axis=1) - mean**2) / self.degrees).sum())
