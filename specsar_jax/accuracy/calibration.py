"""Calibration of the class probabilities: how good it is, and the temperature that improves it.

Enters: sums over labelled pixels. Leaves: expected calibration error, Brier score and reliability curve of a `Tally`, and the
temperature fitted on a validation split. Source: Guo et al. 2017, On Calibration of Modern Neural Networks, sections 2 and 4.2.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer
from scipy.interpolate import CubicHermiteSpline

from specsar_jax.accuracy.tally import Tally
from tfds_dwplus import bands

TEMPERATURES = tuple(2.0 ** np.linspace(-3.0, 3.0, 13))
"""Temperatures at which the loss is computed; in between it is interpolated by a cubic in log(temperature)."""


def summarise(tally: Tally, temperature: float = 1.0) -> dict[str, Any] | None:
    """Returns the calibration figures of a split; None for a map without probabilities.

    Args:
        tally: sums of the tiles of the split.
        temperature: the one that the probabilities were computed with; it is reported, not applied again.

    Returns:
        `ece`, the expected calibration error: mean distance of confidence and accuracy of the bins, weighted by their pixels;
        `brier`: mean squared distance of probabilities and label, 0 to 2; `nll`: mean of -log of the label's
        probability, in nats; `temperature`; `bins`, from the least confident to the most: `low`, `high`, `pixels`, mean
        `confidence`, `accuracy`. A figure without pixels is None.
    """
    if tally.reliability is None or tally.brier is None or tally.nll is None:
        return None
    bins = tally.reliability.sum(axis=0)
    pixels, confidence, right = bins.T
    edges, labelled = np.linspace(0.0, 1.0, len(bins) + 1), pixels.sum()

    def mean(total: float, count: float) -> float | None:
        return float(total / count) if count else None

    return {
        "ece": mean(np.abs(right - confidence).sum(), labelled),
        "brier": mean(tally.brier.sum(), labelled),
        "nll": mean(tally.nll.sum(), labelled),
        "temperature": temperature,
        "bins": [
            {
                "low": float(edges[i]),
                "high": float(edges[i + 1]),
                "pixels": int(pixels[i]),
                "confidence": mean(confidence[i], pixels[i]),
                "accuracy": mean(right[i], pixels[i]),
            }
            for i in range(len(bins))
        ],
    }


def temperature_sums(
    label: Integer[Array, "tile height width"], log_p: Float[Array, "tile height width class"]
) -> dict[str, Array]:
    """Computes the sums of each tile that `best_temperature` needs.

    Args:
        label: class ids; pixels of 255 are left out.
        log_p: logarithms of the class probabilities, at temperature 1.

    Returns:
        `pixels`: number of labelled pixels, int32 [tile]; `nll`: sum of -log of the label's probability over the labelled pixels
        of a row, and `slope`: its derivative by the logarithm of the temperature, both float32 [tile, temperature, height].
    """
    labelled = label != bands.IGNORE
    ids = jnp.where(labelled, label, 0).astype(jnp.int32)
    # One class at a time: on a CPU, XLA is slow in summing over a short last axis.
    below = [log_p[..., i] - log_p.max(axis=-1) for i in range(log_p.shape[-1])]
    of_label = sum(jnp.where(ids == i, plane, 0.0) for i, plane in enumerate(below))

    def at(temperature: Array) -> tuple[Array, Array]:
        shares = [jnp.exp(plane / temperature) for plane in below]
        total = sum(shares)
        mean = sum(share * plane for share, plane in zip(shares, below, strict=True)) / total
        nll = jnp.log(total) - of_label / temperature
        slope = (of_label - mean) / temperature
        return tuple(jnp.sum(values, axis=-1, where=labelled) for values in (nll, slope))

    nll, slope = jax.lax.map(at, jnp.asarray(TEMPERATURES, jnp.float32))
    pixels = labelled.sum(axis=(1, 2), dtype=jnp.int32)
    return {"pixels": pixels, "nll": jnp.moveaxis(nll, 0, 1), "slope": jnp.moveaxis(slope, 0, 1)}


def best_temperature(
    pixels: Int[np.ndarray, ""] | int,
    nll: Float[np.ndarray, " temperature"],
    slope: Float[np.ndarray, " temperature"],
) -> dict[str, Any]:
    """Finds the temperature that minimises the mean -log of the label's probability.

    Args:
        pixels: number of labelled pixels.
        nll: sum of -log of the label's probability over them, at each of `TEMPERATURES`.
        slope: its derivatives by the logarithm of the temperature.

    Returns:
        `temperature`, 1 if no pixel is labelled; `nll_before`, at temperature 1, and `nll_after`, nats per pixel, to 1e-4.
    """
    if not pixels or not np.isfinite(nll).all() or not np.isfinite(slope).all():
        return {"temperature": 1.0, "nll_before": None, "nll_after": None}
    logs = np.log(TEMPERATURES)
    curve = CubicHermiteSpline(logs, nll / pixels, slope / pixels)
    flat = curve.derivative().roots(extrapolate=False)  # NaN where the curve is level
    best = min([0.0, *logs[[0, -1]], *flat[np.isfinite(flat)]], key=curve)
    return {
        "temperature": float(np.exp(best)),
        "nll_before": float(curve(0.0)),
        "nll_after": float(curve(best)),
    }
