"""Labels with predictions of known quality, and the sums of their tiles."""

import jax
import numpy as np
from scipy import ndimage

from specsar_jax.accuracy import metrics
from specsar_jax.accuracy.tally import Tally
from tfds_dwplus import bands


def tiles(classes: tuple[int, ...] = tuple(range(9)), share: float = 0.6, labelled: float = 0.8, size: int = 40):
    """Labels of three tiles, and log-probabilities that are right for about a `share`."""
    rng = np.random.default_rng(0)
    label = ndimage.zoom(rng.choice(classes, (3, size // 8, size // 8)), (1, 8, 8), order=0).astype(np.uint8)
    logits = rng.standard_normal((3, size, size, 9)) * 2 + 3 * (rng.random(label.shape) < share)[..., None] * (
        label[..., None] == np.arange(9)
    )
    label[rng.random(label.shape) >= labelled] = bands.IGNORE
    return label, np.asarray(jax.nn.log_softmax(logits.astype(np.float32)))


def tally_of(label: np.ndarray, log_p: np.ndarray, valid: np.ndarray | None = None) -> Tally:
    valid = np.ones(label.shape, bool) if valid is None else valid
    sums = jax.device_get(jax.jit(metrics.tile_sums)(label, log_p, valid))
    return Tally(np.arange(len(label)).astype(str), {}, **metrics.on_host(sums))
