"""AdamW under a cosine schedule with warm-up, on a gradient cut to a norm."""

from typing import Any

import jax
import optax

from specsar_jax.config import Optimizer


def learning_rate(config: Optimizer, steps: int) -> optax.Schedule:
    """From 0 up to the peak in `warmup_steps`, then down a half cosine to `final_fraction` of it at `steps`."""
    warmup = min(config.warmup_steps, steps - 1)
    return optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup, max(steps, 1), config.learning_rate * config.final_fraction
    )


def make_optimizer(config: Optimizer, steps: int) -> optax.GradientTransformation:
    """The whole chain: clip, AdamW; weight decay on kernels only (not on biases and norms: Loshchilov and Hutter 2019).

    Norm and moments are those of one long vector: as 373 tensors, the same sums compile to thousands of kernels.
    """
    return optax.chain(
        optax.flatten(optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.scale_by_adam())),
        optax.add_decayed_weights(config.weight_decay, mask=kernels),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    )


def kernels(params: Any) -> Any:
    """A tree of bools: True at matrices and convolutions. By name: stacked blocks give biases two axes."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)
