"""Losses over labelled pixels: cross-entropy and the alpha-balanced focal loss."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from specsar_jax.config import Loss
from tfds_dwplus import bands


def class_alpha(label_pixels: tuple[int, ...], power: float) -> tuple[float, ...]:
    """Weight of each class: (mean count / its count) ** power, scaled so that the mean over labelled pixels is one.

    Args:
        label_pixels: labelled pixels of each class in the train split.
        power: 0 weighs all classes alike, 1 makes all classes count the same in sum.

    Returns:
        a weight a class; 0 for a class without a pixel, which never occurs in the loss.
    """
    counts = np.asarray(label_pixels, np.float64)
    if not counts.any():
        raise ValueError("the train split has no labelled pixel; are the label codes 1 to 9?")
    present = counts > 0
    alpha = np.where(present, (counts[present].mean() / np.maximum(counts, 1)) ** power, 0.0)
    return tuple((alpha * counts.sum() / (alpha * counts).sum()).tolist())


def pixel_loss(
    logits: Float[Array, "*batch class"], label: Integer[Array, "*batch"], alpha: tuple[float, ...], *, config: Loss
) -> Float[Array, ""]:
    """Mean loss over labelled pixels; 0 if there is none.

    The focal loss of a pixel whose class has probability p is -alpha (1 - p)^gamma log p; cross-entropy is the same with
    gamma 0. Source: Lin et al. 2017, eq. 5, with softmax in place of the sigmoid.

    Args:
        logits: float32.
        label: class ids; 255 is left out.
        alpha: weight of each class.
        config: which loss, and gamma.
    """
    labelled = label != bands.IGNORE
    ids = jnp.where(labelled, label, 0).astype(jnp.int32)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], axis=-1)[..., 0]
    loss = -jnp.asarray(alpha, logits.dtype)[ids] * log_p
    if config.name == "focal":
        # 1 - p from log p without cancellation; kept from 0, where a power below one has no derivative.
        loss *= jnp.maximum(-jnp.expm1(log_p), 1e-7) ** config.gamma
    return jnp.sum(loss, where=labelled) / jnp.maximum(labelled.sum(), 1)
