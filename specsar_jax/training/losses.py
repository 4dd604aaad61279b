"""Losses over labelled pixels: cross-entropy, also with the shares of a network, and the alpha-balanced focal loss."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, Num

from specsar_jax.accuracy.metrics import of_class
from specsar_jax.config import Loss, check_alpha
from tfds_dwplus import bands


def class_alpha(label_pixels: tuple[int, ...], config: Loss, *, taught: bool = False) -> tuple[float, ...]:
    """Returns the weight of each class: as given, or (mean count / its count) ** alpha_power, scaled so that the mean over labelled pixels
    is one. With power 0 all classes have the same weight, with power 1 all contribute the same sum.

    Args:
        label_pixels: labelled pixels of each class in the train split.
        config: the weights, or the power.
        taught: a teacher labels the batches, so that classes without a labelled pixel may occur.

    Returns:
        a weight for each class; for a class without a labelled pixel 0, or 1 if taught.

    Raises:
        ValueError: no labelled pixel, or weights of more or fewer classes.
    """
    check_alpha(config, len(label_pixels))
    if config.alpha:
        return config.alpha
    counts = np.asarray(label_pixels, np.float64)
    if taught and not counts.any():
        return (1.0,) * len(counts)
    if not counts.any():
        raise ValueError(f"the train split has no labelled pixel; are the label codes 1 to {len(counts)}?")
    present = counts > 0
    alpha = np.where(present, (counts[present].mean() / np.maximum(counts, 1)) ** config.alpha_power, 0.0)
    alpha = alpha * counts.sum() / (alpha * counts).sum()
    return tuple((np.where(present, alpha, 1.0) if taught else alpha).tolist())


def pixel_loss(
    logits: Float[Array, "batch *pixels class"],
    label: Integer[Array, " batch *pixels"],
    alpha: tuple[float, ...],
    *,
    config: Loss,
    expert: Bool[Array, " batch"] | None = None,
    pixels: Integer[Array, ""] | None = None,
    probability: Num[Array, "batch *pixels class"] | None = None,
) -> Float[Array, ""]:
    """Mean loss over labelled pixels; 0 if there is none.

    The focal loss of a pixel is the sum over the classes of -q alpha (1 - p)^gamma log p, with p the probability of a class
    and q its share of the target; cross-entropy is the same with gamma 0. q is 1 for the label's class; smoothed by e,
    1 - e + e / classes, and e / classes for the others. Sources: Lin et al. 2017, eq. 5, with softmax in place of the
    sigmoid; Szegedy et al. 2016 for the smoothing; Hinton et al. 2015 for targets from another network.

    The soft loss is cross-entropy in which q is the share that another network gave the class, to the power `sharpness` and normalised
    again, where it is known, else as above. It too counts labelled pixels only: one whose label is missing because that network was less
    sure than `--confidence` of `tfds_dwplus.label` teaches nothing. Whoever wants those too labels with --confidence 0.

    Args:
        logits: float32.
        label: class ids; 255 is left out.
        alpha: weight of each class.
        config: which loss, gamma, and the smoothing.
        expert: whether experts labelled the tile, which sets its smoothing; None takes them to be experts.
        pixels: what to divide the sum by; None takes the number of labelled pixels.
        probability: shares of the classes of any sum, 0 where they are not known; for the soft loss alone. None: known nowhere, as in an
            evaluation, whose loss is against the labels.
    """
    labelled = label != bands.IGNORE
    ids = jnp.where(labelled, label, 0).astype(jnp.int32)
    weights, log_p = jnp.asarray(alpha, logits.dtype), jax.nn.log_softmax(logits)

    def cost(log_p: Array, weight: Array) -> Array:
        cost = -weight * log_p
        if config.name == "focal":
            # 1 - p from log p without cancellation; kept from 0, where a power below one has no derivative.
            cost *= jnp.maximum(-jnp.expm1(log_p), 1e-7) ** config.gamma
        return cost

    loss = cost(of_class(log_p, ids), of_class(weights, ids))
    if config.name == "soft" and probability is not None:
        shares = probability.astype(logits.dtype)
        known = shares.max(axis=-1, keepdims=True)
        shares = shares / jnp.where(known > 0, known, 1.0)  # so that no power of them vanishes altogether
        shares = shares if config.sharpness == 1.0 else shares**config.sharpness
        soft = (shares * cost(log_p, weights)).sum(axis=-1) / jnp.maximum(shares.sum(axis=-1), 1.0)
        loss = jnp.where(known[..., 0] > 0, soft, loss)
    if config.smoothing_expert or config.smoothing_non_expert:
        smoothing = jnp.asarray(config.smoothing_expert, logits.dtype)
        if expert is not None:
            smoothing = jnp.where(expert, config.smoothing_expert, config.smoothing_non_expert)
            smoothing = smoothing.reshape(-1, *[1] * (label.ndim - 1))
        loss = (1.0 - smoothing) * loss + smoothing * cost(log_p, weights).mean(axis=-1)
    return jnp.sum(loss, where=labelled) / (jnp.maximum(labelled.sum(), 1) if pixels is None else pixels)
