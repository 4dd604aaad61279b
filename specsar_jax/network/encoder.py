"""Stages of the encoder: maps of the spectral and the SAR branch in, smaller maps with more channels out.

Enters: a map [batch, row, column, channel] of each branch, or one map where the network has one branch. `Stage`
computes the branches side by side; `Aggregation` joins them into the map that the decoder reads. Parameters are
declared as zeros, to state their shapes; `model.init_params` draws their values.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from specsar_jax.config import Model
from specsar_jax.network import layers, on_cpu

_zeros = nn.initializers.zeros


class Stage(nn.Module):
    """Patch embedding of each branch, then DMEM blocks, then a LayerNorm of each branch."""

    config: Model
    stage: int
    train: bool

    @nn.compact
    def __call__(self, maps: tuple[Array, ...]) -> tuple[Array, ...]:
        config, stage = self.config, self.stage
        patch, stride = (7, 4) if stage == 0 else (3, 2)
        maps = tuple(
            LayerNorm(config, name=f"{name}_embed_norm")(
                PatchEmbedding(width, patch, stride, name=f"{name}_embed")(branch)
            )
            for name, width, branch in zip(config.branch_names, config.branch_widths(stage), maps, strict=True)
        )
        return _norms(config, "norm", self._blocks(maps))

    def _blocks(self, maps: tuple[Array, ...]) -> tuple[Array, ...]:
        """Applies the blocks of the stage.

        The blocks are equal, so their weights are one tree with a leading axis: a quarter of the tensors to trace, save
        and update.
        """
        config, count = self.config, self.config.blocks[self.stage]
        block = DMEMBlock(config, self.stage, self.train, parent=None)
        if self.is_initializing():
            one = jax.eval_shape(block.init, jax.random.key(0), maps, 0.0)["params"]
            self.param("blocks", lambda _: jax.tree.map(lambda w: jnp.zeros((count, *w.shape), w.dtype), one))
            return maps  # of the right shapes, which is all that initialisation needs
        stacked = self.get_variable("params", "blocks")

        def apply_block(maps: tuple[Array, ...], of: tuple[Any, Array, Array | None]) -> tuple[tuple[Array, ...], None]:
            weights, rate, rng = of
            return block.apply({"params": weights}, maps, rate, rngs={} if rng is None else {"dropout": rng}), None

        if config.rematerialise:
            apply_block = jax.checkpoint(apply_block)
        rates = config.drop_path_rates(self.stage)
        rngs = jax.random.split(self.make_rng("dropout"), count) if self.train and config.drop_path else None
        if self.train and 0 < config.loop_blocks_from <= count and layers.loops_are_cheap():
            return jax.lax.scan(apply_block, maps, (stacked, rates, rngs))[0]
        apply_block = jax.jit(apply_block)  # traced once for all blocks
        for i in range(count):
            weights = stacked[i] if isinstance(stacked, tuple) else jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
            maps, _ = apply_block(maps, (weights, rates[i], None if rngs is None else rngs[i]))
        return maps


class DMEMBlock(nn.Module):
    """Self-attention in each branch, attention of each branch to the other, Mix-FFN; each with a residual connection."""

    config: Model
    stage: int
    train: bool

    @nn.compact
    def __call__(self, maps: tuple[Array, ...], drop_rate: Array) -> tuple[Array, ...]:
        config, stage = self.config, self.stage
        names = config.branch_names

        def attend(kind: str, queries: tuple[Array, ...], contexts: tuple[Array, ...]) -> tuple[Array, ...]:
            return tuple(
                self._drop_path(Attention(config, stage, self.train, name=f"{name}_{kind}")(query, context), drop_rate)
                for name, query, context in zip(names, queries, contexts, strict=True)
            )

        side = config.reductions[stage]
        if self._in_patches(maps[0]):
            # Attention does not depend on the order of its queries, so norms and residuals can be in patches.
            def arrange(maps: tuple[Array, ...]) -> tuple[Array, ...]:
                return tuple(layers.to_patches(m, side) for m in maps)

            def restore(maps: tuple[Array, ...]) -> tuple[Array, ...]:
                return tuple(layers.from_patches(m) for m in maps)
        else:
            arrange = restore = tuple

        normed = arrange(_norms(config, "self_norm", maps))
        maps = _add(maps, restore(attend("self", normed, normed)))
        if len(maps) == 2 and config.cross_attention:
            normed = arrange(_norms(config, "cross_norm", maps))
            maps = _add(maps, restore(attend("cross", normed, normed[::-1])))
        normed = _norms(config, "ffn_norm", maps)
        mixed = tuple(
            self._drop_path(MixFFN(config, self.train, name=f"{name}_ffn")(m), drop_rate)
            for name, m in zip(names, normed, strict=True)
        )
        return _add(maps, mixed)

    def _in_patches(self, maps: Array) -> bool:
        """Whether attention takes its pixels in patches: on a GPU, which would otherwise transpose each map in a kernel."""
        side = self.config.reductions[self.stage]
        whole = all(isinstance(n, int) and n % side == 0 for n in maps.shape[1:3])
        return layers.accelerator() == "cuda" and side > 1 and whole

    def _drop_path(self, residual: Array, rate: Array) -> Array:
        """Stochastic depth: in training, drops the residual of a whole tile with probability `rate`."""
        if not self.train or self.config.drop_path == 0.0:
            return residual
        of_tile = (residual.shape[0], *[1] * (residual.ndim - 1))
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - rate, of_tile)
        return jnp.where(keep, residual / (1.0 - rate).astype(residual.dtype), 0)


class Attention(nn.Module):
    """Multi-head attention of every pixel of `query` to a spatially reduced `context`; both are maps, or both patches."""

    config: Model
    stage: int
    train: bool

    @nn.compact
    def __call__(self, query: Array, context: Array) -> Array:
        config = self.config
        channels, heads, reduction = query.shape[-1], config.heads[self.stage], config.reductions[self.stage]
        if reduction > 1:
            patches = context if context.ndim == 5 else layers.to_patches(context, reduction)
            context = LayerNorm(config, name="reduce_norm")(PatchReduction(reduction, name="reduce")(patches))
        elif layers.accelerator() is not None:
            # Without the barrier XLA sees that query and context are one map and joins their two products; on a GPU the
            # biases then take two more kernels.
            context = jax.lax.optimization_barrier(context)
        key_value = Dense(2 * channels, name="key_value")(context)
        into, out = (Weights((channels, channels), name=name)() for name in ("query", "output"))

        def whole(query: Array, key_value: Array, into: Any, out: Any) -> Array:
            return layers.dense(layers.attend(layers.dense(query, *into), key_value, heads), *out)

        alone = functools.partial(on_cpu.attend, heads=heads)
        return layers.forward_form(alone, whole, self.train or self.is_initializing(), query, key_value, into, out)


class MixFFN(nn.Module):
    """SegFormer's Mix-FFN: Dense, depthwise 3x3, GELU, Dense. The convolution takes the place of position encodings."""

    config: Model
    train: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels, wide = x.shape[-1], x.shape[-1] * self.config.mlp_ratio
        shapes = {"expand": (channels, wide), "depthwise": (3, 3, wide), "project": (wide, channels)}
        weights = tuple(Weights(shape, name=name)() for name, shape in shapes.items())

        def whole(x: Array, expand: Any, depthwise: Any, project: Any) -> Array:
            hidden = layers.depthwise_3x3(layers.dense(x, *expand), *depthwise)
            return layers.dense(layers.gelu(hidden), *project)

        return layers.forward_form(on_cpu.mix_ffn, whole, self.train or self.is_initializing(), x, *weights)


class Aggregation(nn.Module):
    """MMAM: weighs the channels of both branches by their means over the whole tile, then joins the branches."""

    config: Model
    stage: int

    @nn.compact
    def __call__(self, maps: tuple[Array, ...]) -> Array:
        config = self.config
        if len(maps) == 1:
            return maps[0]
        if config.channel_reweighting:
            wide = jnp.promote_types(maps[0].dtype, jnp.float32)
            means = jnp.concatenate([m.mean(axis=(1, 2), dtype=wide) for m in maps], axis=-1)
            means = means.astype(maps[0].dtype)
            maps = tuple(
                m * self._gate(means, m.shape[-1], name) for name, m in zip(config.branch_names, maps, strict=True)
            )
        return Dense(config.widths[self.stage], name="join")(jnp.concatenate(maps, axis=-1))

    def _gate(self, means: Array, channels: int, name: str) -> Array:
        hidden_width = self.config.mmam_ratio * self.config.widths[self.stage]
        hidden = nn.relu(Dense(hidden_width, name=f"{name}_squeeze")(means))
        return nn.sigmoid(Dense(channels, name=f"{name}_gate")(hidden))[:, None, None, :]


class PatchEmbedding(nn.Module):
    """Convolution with overlapping patches, `side` pixels wide."""

    width: int
    side: int
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", _zeros, (self.side, self.side, x.shape[-1], self.width))
        return layers.embed_patches(x, kernel, self.param("bias", _zeros, (self.width,)), self.stride)


class PatchReduction(nn.Module):
    """Reduces each patch of `side` x `side` pixels to one: a convolution whose stride is the side of its kernel."""

    side: int

    @nn.compact
    def __call__(self, patches: Array) -> Array:
        channels = patches.shape[-1]
        kernel = self.param("kernel", _zeros, (self.side, self.side, channels, channels))
        return layers.reduce_patches(patches, kernel, self.param("bias", _zeros, (channels,)))


class Dense(nn.Module):
    """Each pixel's channels times a matrix, plus a bias."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", _zeros, (x.shape[-1], self.width))
        return layers.dense(x, kernel, self.param("bias", _zeros, (self.width,)))


class Weights(nn.Module):
    """Kernel and bias of a layer that is computed together with its neighbours."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        return self.param("kernel", _zeros, self.shape), self.param("bias", _zeros, self.shape[-1:])


class LayerNorm(nn.Module):
    """LayerNorm over the channels of each pixel."""

    config: Model

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", _zeros, x.shape[-1:])
        return layers.layer_norm(x, scale, bias, self.config.layer_norm_epsilon)


def _norms(config: Model, kind: str, maps: tuple[Array, ...]) -> tuple[Array, ...]:
    """A LayerNorm of each branch."""
    return tuple(LayerNorm(config, name=f"{name}_{kind}")(m) for name, m in zip(config.branch_names, maps, strict=True))


def _add(maps: tuple[Array, ...], residuals: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(m + r for m, r in zip(maps, residuals, strict=True))
