"""Whether probabilities mean what they say, and the temperature that makes them.

Enters: sums over labelled pixels. Leaves: expected calibration error, Brier score and reliability curve of a `Tally`, and the
temperature of a validation split. Source: Guo et al. 2017, On Calibration of Modern Neural Networks, sections 2 and 4.2.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer
from scipy.interpolate import CubicHermiteSpline

from specsar_jax.tally import Tally
from tfds_dwplus import bands

TEMPERATURES = tuple(2.0 ** np.linspace(-3.0, 3.0, 13))
"""Where the loss is computed; between two of them it is a cubic in the logarithm. The best one is sought from first to last."""


def summarise(tally: Tally, temperature: float = 1.0) -> dict[str, Any] | None:
    """Figures of the probabilities of a split; None of a map that has none.

    Args:
        tally: of the tiles.
        temperature: that the probabilities were made with; told, not applied.

    Returns:
        `ece`, the expected calibration error, mean distance of confidence and accuracy of the bins, weighted by their pixels;
        `brier`, mean squared distance of probabilities and label, 0 to 2; `nll`, mean of -log of the label's
        probability, in nats; `temperature`; `bins`, from the least confident to the most: `low`, `high`, `pixels`, mean
        `confidence`, `accuracy`. None of what has no pixel.
    """
    if tally.reliability is None or tally.brier is None or tally.nll is None:
        return None
    bins = tally.reliability.sum(axis=0)
    pixels, confidence, right = bins.T
    edges, labelled = np.linspace(0.0, 1.0, len(bins) + 1), pixels.sum()

    def over(total: float, count: float) -> float | None:
        return float(total / count) if count else None

    return {
        "ece": over(np.abs(right - confidence).sum(), labelled),
        "brier": over(tally.brier.sum(), labelled),
        "nll": over(tally.nll.sum(), labelled),
        "temperature": temperature,
        "bins": [
            {
                "low": float(edges[i]),
                "high": float(edges[i + 1]),
                "pixels": int(pixels[i]),
                "confidence": over(confidence[i], pixels[i]),
                "accuracy": over(right[i], pixels[i]),
            }
            for i in range(len(bins))
        ],
    }


def temperature_sums(
    label: Integer[Array, "tile height width"], log_p: Float[Array, "tile height width class"]
) -> dict[str, Array]:
    """What `best_temperature` needs of each tile, row by row.

    Args:
        label: class ids; 255 is left out.
        log_p: logarithms of the class probabilities, at temperature 1.

    Returns:
        `pixels` int32 [tile], labelled ones, and float32 [tile, temperature, height] over the labelled pixels of a row,
        `nll`: the sum of -log of the label's probability, and `slope`: its derivative by the logarithm of the temperature.
    """
    labelled = label != bands.IGNORE
    ids = jnp.where(labelled, label, 0).astype(jnp.int32)
    # A class at a time: XLA's sums over a short last axis are slow on a CPU.
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
    """The temperature of the smallest mean -log of the label's probability.

    Args:
        pixels: labelled ones.
        nll: sums over them at `TEMPERATURES`.
        slope: of its derivatives.

    Returns:
        `temperature`, 1 where no pixel is labelled; in nats a pixel, `nll_before`, at temperature 1, and `nll_after`, to 1e-4.
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
