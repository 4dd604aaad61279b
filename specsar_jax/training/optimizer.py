"""AdamW with gradient clipping, a learning-rate schedule with warm-up, and factors of the rate by group and depth."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from specsar_jax.config import Mesh, Optimizer


def learning_rate(config: Optimizer, steps: int) -> optax.Schedule:
    """The schedule: from 0 up to the peak in `warmup_steps`, then down to `final_fraction` of it at `steps`, or constant."""
    warmup, peak = min(config.warmup_steps, steps - 1), config.learning_rate
    final, falling = peak * config.final_fraction, max(steps, 1) - warmup
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, 1), final)
    fall = {
        "polynomial": optax.polynomial_schedule(peak, final, config.power, falling),
        "constant": optax.constant_schedule(peak),
    }[config.schedule]
    return optax.join_schedules([optax.linear_schedule(0.0, peak, max(warmup, 1)), fall], [warmup])


def make_optimizer(
    config: Optimizer, mesh: Mesh, *, steps: int, blocks: tuple[int, ...], learning: tuple[str, ...] = ()
) -> optax.GradientTransformation:
    """The whole chain: clip, AdamW; weight decay on kernels only (not on biases and norms: Loshchilov and Hutter 2019).

    Where every device holds all weights, norm and moments are those of one long vector: as 373 tensors, the same sums
    compile to thousands of kernels. Where weights are split, each moment is split as its weight is.

    Args:
        config: rates, decay, clipping.
        mesh: says whether weights are split.
        steps: of the run, which the schedule ends with.
        blocks: of each stage of the network, for `optimizer.layer_decay`.
        learning: `train.trainable`; all other weights stay as they are.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    norm_and_moments = optax.chain(clip, optax.scale_by_adam())
    parts = [
        optax.flatten(norm_and_moments) if are_whole(mesh) else norm_and_moments,
        optax.add_decayed_weights(config.weight_decay, mask=kernels),
    ]
    if config.group_rates or config.layer_decay != 1.0:

        def scale(updates: Any, _: Any) -> Any:
            return jax.tree.map(lambda u, f: u * f, updates, rate_factors(updates, config, blocks))

        parts.append(optax.stateless(scale))
    if learning:

        def keep(updates: Any, _: Any) -> Any:
            # Weight decay too would move what does not learn.
            return jax.tree.map(
                lambda u, learns: u if learns else jnp.zeros_like(u), updates, trainable(updates, learning)
            )

        parts.append(optax.stateless(keep))
    return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate(config, steps)))


def check_names(params: Any, config: Optimizer, blocks: tuple[int, ...], learning: tuple[str, ...]) -> None:
    """Raises a ValueError if `optimizer.group_rates` or `train.trainable` names a part that no weight belongs to."""
    rate_factors(params, config, blocks)
    trainable(params, learning)


def are_whole(config: Mesh) -> bool:
    """Whether every device holds all weights."""
    return config.parameters == "replicated" and config.model == 1


def gradient_norm(gradient: Any, config: Mesh) -> Float[Array, ""]:
    """Returns the norm of the whole gradient: of one long vector where every device holds all of it, else weight by weight."""
    return jnp.linalg.norm(ravel_pytree(gradient)[0]) if are_whole(config) else optax.tree.norm(gradient)


def kernels(params: Any) -> Any:
    """A tree of bools: True at matrices and convolutions. By name: stacked blocks give biases two axes."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)


def rate_factors(params: Any, config: Optimizer, blocks: tuple[int, ...]) -> Any:
    """Returns the factor of the learning rate of each weight, as a tree of float32 arrays that broadcast over the weights.

    Layer decay counts blocks, over all stages: the decoder and what follows the last block have 1, each block before has
    `layer_decay` times the next one's, an embedding that of the block behind it (after Bao et al. 2022, BEiT).

    Raises:
        ValueError: a group that no weight belongs to.
    """
    depths = np.cumsum([0, *blocks])
    groups = {name: float(factor) for name, _, factor in (text.partition("=") for text in config.group_rates)}
    met: set[str] = set()
    parts: set[str] = set()

    def one(path: Any, leaf: Any) -> np.ndarray:
        names = [key.key for key in path]
        parts.update(names)
        stage = re.fullmatch(r"(?:stage|mmam)(\d+)", names[0])
        depth = depths[-1]
        if stage:
            first, behind = depths[int(stage[1]) - 1], depths[int(stage[1])]
            depth = first if names[1].endswith(("_embed", "_embed_norm")) else behind
            if "blocks" in names:
                depth = np.arange(first, behind).reshape(-1, *[1] * (len(leaf.shape) - 1))
        chosen = [group for group in groups if group in names]
        met.update(chosen)
        factor = np.prod([groups[group] for group in chosen])
        return np.asarray(factor * config.layer_decay ** (depths[-1] - depth), np.float32)

    factors = jax.tree_util.tree_map_with_path(one, params)
    if unmet := groups.keys() - met:
        raise ValueError(
            f"optimizer.group_rates names {', '.join(sorted(unmet))}, of which there are no weights; "
            f"parts of their paths are {', '.join(sorted(parts))}"
        )
    return factors


def trainable(params: Any, learning: tuple[str, ...]) -> Any:
    """Returns which weights learn, as a tree of bools: those with one of the names `learning` in their path, or all if there are none.

    A name stands for what begins with it and `_` too: `classify` for `classify_kernel`, `sar` for `sar_embed`, `sar_ffn` and so on.

    Raises:
        ValueError: a name that no weight has in its path.
    """
    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    if unmet := [name for name in learning if not any(_learns(path, (name,)) for path in paths)]:
        names = sorted({key.key for path in paths for key in path})
        raise ValueError(
            f"train.trainable names {', '.join(unmet)}, of which there are no weights; parts of their paths are {', '.join(names)}"
        )
    return jax.tree_util.tree_map_with_path(lambda path, _: _learns(path, learning), params)


def fixed_layers(batch_stats: Any, learning: tuple[str, ...]) -> frozenset[str]:
    """Returns the layers, as `block1.point1`, whose BatchNorm does not learn, so that its running moments stay."""
    paths = [path for path, _ in jax.tree.leaves_with_path(batch_stats)]  # layer, norm, mean or var
    return frozenset(".".join(key.key for key in path[:-2]) for path in paths if not _learns(path, learning))


def _learns(path: Any, learning: tuple[str, ...]) -> bool:
    return not learning or any(f"{key.key}_".startswith(f"{name}_") for key in path for name in learning)
