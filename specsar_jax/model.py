"""SpecSAR-Former: Sentinel-2 and Sentinel-1 tiles in, logits of the nine land-cover classes out.

Enters: standardised float tiles `s2` [batch, height, width, s2_band] and `s1` [batch, height, width, s1_band] on one
10 m grid, any height and width of at least 32 pixels. Leaves: float32 logits [batch, height, width, class].

Two branches, spectral and SAR, go through four stages side by side. In a stage each branch attends to itself and to the
other one (DMEM, Dual Modal Enhancement Module); after a stage the two are re-weighted by channel and joined (MMAM,
Mutual Modal Aggregation Module); an all-MLP decoder joins the four stages at a quarter of the resolution.

Source: Yu et al., SpecSAR-Former, arXiv 2410.03962 (LULC-Former, IEEE JSTARS 19, 2026). The paper publishes the modules
and the size; widths, depths and the order inside a block are this project's choice (a SegFormer-B2 pyramid, Xie et al.
2021, split 3/4 to 1/4). The README lists which is which.

Only this file imports flax: all else sees `init_params` and `apply`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from specsar_jax import layers
from specsar_jax.config import Model

Variables = dict[str, Any]
"""What a network holds: `{"params": ..., "batch_stats": ...}`, trained weights and BatchNorm's running moments."""

SMALLEST_SIZE_PX = 32
"""Below this the fourth stage has no pixel of its own."""


def init_params(config: Model, rng: Array) -> Variables:
    """Initial variables of the network. Pure; also under `jax.jit` and `jax.eval_shape`.

    Kernels are drawn from normal distributions cut at two standard deviations: 0.02 for dense ones, sqrt(2 / fan-out) for
    convolutions, after SegFormer (Xie et al. 2021); scales are one, biases zero.

    Args:
        config: sizes of the network.
        rng: random key; the same key gives the same variables.

    Returns:
        float32 arrays in `{"params": ..., "batch_stats": ...}`.
    """
    abstract = abstract_params(config)
    leaves, structure = jax.tree.flatten_with_path(abstract["params"])
    # One draw for all weights: a draw each would be a program each to compile.
    draws = jax.random.truncated_normal(rng, -2.0, 2.0, (sum(leaf.size for _, leaf in leaves),))
    if not isinstance(draws, jax.core.Tracer):
        draws = np.asarray(draws)  # cut and scaled by numpy, which compiles nothing
    ends = np.cumsum([leaf.size for _, leaf in leaves])
    params = [
        _initial_value(path, draws[end - leaf.size : end].reshape(leaf.shape))
        for (path, leaf), end in zip(leaves, ends, strict=True)
    ]
    moments = {"mean": np.zeros(config.decoder_width, np.float32), "var": np.ones(config.decoder_width, np.float32)}
    variables = {"params": structure.unflatten(params), "batch_stats": {"decoder": {"norm": moments}}}
    return jax.tree.map(jnp.asarray, variables)


def for_inference(variables: Variables, config: Model) -> Variables:
    """The variables in the form that maps and scores are computed from: blocks apart, and weights in the type that they are computed with.

    `apply` takes both forms, with the same results; `apply_train` and all files take that of `init_params`. Where the weights of
    a stage are one array, a program for a GPU spends 140 kernels on cutting out and converting them, each time it runs.

    Args:
        variables: as `init_params` returns them.
        config: of the network.
    """

    def converted(path: Any, leaf: Array) -> Array:
        of_norm = path[-2].key.endswith("norm")  # computed in float32
        return leaf if of_norm else leaf.astype(config.compute_dtype)

    params = dict(variables["params"])
    for name, part in params.items():
        if name != "decoder":  # whose matrices are multiplied with each other first
            part = jax.tree_util.tree_map_with_path(converted, part)
        if "blocks" in part:
            count = config.blocks[int(name.removeprefix("stage")) - 1]
            part = part | {
                "blocks": tuple(jax.tree.map(lambda leaf, i=i: leaf[i], part["blocks"]) for i in range(count))
            }
        params[name] = part
    return variables | {"params": params}


def abstract_params(config: Model) -> Variables:
    """Shapes and types of what `init_params` returns, without a computation."""
    size = SMALLEST_SIZE_PX
    s2 = jax.ShapeDtypeStruct((1, size, size, config.s2_channels), jnp.float32)
    s1 = jax.ShapeDtypeStruct((1, size, size, config.s1_channels), jnp.float32)
    return jax.eval_shape(SpecSARFormer(config).init, jax.random.key(0), s2, s1)


def _initial_value(path: tuple[Any, ...], draw: Array | np.ndarray) -> Array | np.ndarray:
    """The initial value of the weight at `path`, from standard normal draws of its shape."""
    names = [key.key for key in path]
    if names[-1] == "scale":
        return np.ones(draw.shape, np.float32)
    if names[-1].endswith("bias"):
        return np.zeros(draw.shape, np.float32)
    kernel_shape = draw.shape[1:] if "blocks" in names else draw.shape
    if names[-2] == "depthwise":
        return draw * (2.0 / 9.0) ** 0.5
    if len(kernel_shape) == 4:
        rows, columns, _, channels_out = kernel_shape
        return draw * (2.0 / (rows * columns * channels_out)) ** 0.5
    return draw * 0.02


def apply(
    variables: Variables,
    s2: Array | None,
    s1: Array | None,
    *,
    config: Model,
) -> Float[Array, "batch height width class"]:
    """Logits of a batch of standardised tiles, with BatchNorm's running moments. Pure.

    Args:
        variables: as `init_params` or `for_inference` returns them.
        s2: float [batch, height, width, s2_channels]; anything, None too, for a network that does not read it.
        s1: float [batch, height, width, s1_channels]; likewise.
        config: of the network.

    Returns:
        float32 logits.

    Raises:
        ValueError: a sensor in use is missing, its channels do not match `config`, or a side is under 32 pixels.
    """
    size = _checked_size(s2, s1, config)
    return layers.resize_bilinear(SpecSARFormer(config).apply(variables, s2, s1), size)


def apply_train(
    variables: Variables,
    s2: Array | None,
    s1: Array | None,
    *,
    config: Model,
    rng: Array,
) -> tuple[Float[Array, "batch height width class"], dict[str, Any]]:
    """Like `apply`, with the batch's own moments in BatchNorm and with dropout from `rng`.

    Returns:
        the logits, and the `batch_stats` to carry to the next step.
    """
    size = _checked_size(s2, s1, config)
    logits, updates = SpecSARFormer(config, train=True).apply(
        variables, s2, s1, rngs={"dropout": rng}, mutable=["batch_stats"]
    )
    return layers.resize_bilinear(logits, size), updates["batch_stats"]


def _checked_size(s2: Array | None, s1: Array | None, config: Model) -> tuple[Any, Any]:
    """Height and width of the sensors in use; a ValueError if they do not fit."""
    s2_shape, s1_shape = (None if x is None else tuple(x.shape) for x in (s2, s1))
    check_inputs(s2_shape, s1_shape, config)
    return (s2_shape if "s2" in config.sensors else s1_shape)[1:3]


def check_inputs(s2_shape: tuple[Any, ...] | None, s1_shape: tuple[Any, ...] | None, config: Model) -> None:
    """Raises a ValueError unless the shapes of the sensors that the network reads fit each other and `config`."""
    given = {"s2": (s2_shape, config.s2_channels), "s1": (s1_shape, config.s1_channels)}
    shapes = {}
    for sensor in config.sensors:
        shape, channels = given[sensor]
        expected = (
            f"expected [batch, height, width, {channels}] with height and width of at least {SMALLEST_SIZE_PX} pixels"
        )
        if shape is None or len(shape) != 4 or shape[-1] != channels:
            raise ValueError(f"{sensor} has shape {shape}, {expected}")
        if any(side < SMALLEST_SIZE_PX for side in shape[1:3]):  # not their minimum: in an export sides are symbols
            raise ValueError(f"{sensor} has shape {shape}, {expected}; pad it")
        shapes[sensor] = shape[:3]
    if len(set(shapes.values())) > 1:
        raise ValueError(f"s2 has shape {s2_shape} and s1 {s1_shape}: batch, height and width must agree")


class SpecSARFormer(nn.Module):
    """The whole network, up to logits at a quarter of the resolution."""

    config: Model
    train: bool = False

    @nn.compact
    def __call__(self, s2: Array | None, s1: Array | None) -> Array:
        config = self.config
        compute = jnp.dtype(config.compute_dtype)
        read = tuple({"s2": s2, "s1": s1}[sensor].astype(compute) for sensor in config.sensors)
        maps = (jnp.concatenate(read, axis=-1),) if config.branches == "stacked" else read
        features = []
        for stage in range(len(config.widths)):
            maps = Stage(config, stage, self.train, name=f"stage{stage + 1}")(maps)
            features.append(Aggregation(config, stage, name=f"mmam{stage + 1}")(maps))
        return Decoder(config, self.train, name="decoder")(tuple(features))


class Stage(nn.Module):
    """Patch embedding of each branch, then DMEM blocks, then a LayerNorm of each branch."""

    config: Model
    stage: int
    train: bool

    @nn.compact
    def __call__(self, maps: tuple[Array, ...]) -> tuple[Array, ...]:
        config, stage = self.config, self.stage
        widths = config.branch_widths(stage)
        patch, stride = (7, 4) if stage == 0 else (3, 2)
        maps = tuple(
            _norm(config, f"{name}_embed_norm")(PatchEmbedding(width, patch, stride, name=f"{name}_embed")(branch))
            for name, width, branch in zip(config.branch_names, widths, maps, strict=True)
        )
        maps = self._blocks(maps)
        return tuple(
            _norm(config, f"{name}_norm")(branch) for name, branch in zip(config.branch_names, maps, strict=True)
        )

    def _blocks(self, maps: tuple[Array, ...]) -> tuple[Array, ...]:
        """The blocks of a stage are equal, so their weights are one tree with a leading axis: a quarter of the tensors to
        trace, to save and to update.
        """
        config, count = self.config, self.config.blocks[self.stage]
        block = DMEMBlock(config, self.stage, self.train, parent=None)
        if self.is_initializing():
            one = jax.eval_shape(block.init, jax.random.key(0), maps, 0.0)["params"]
            self.param("blocks", lambda _: jax.tree.map(lambda w: jnp.zeros((count, *w.shape), w.dtype), one))
            return maps  # of the same shapes, which is all that is asked for
        stacked = self.get_variable("params", "blocks")

        def apply_block(maps: tuple[Array, ...], of: tuple[Any, Array, Array | None]) -> tuple[tuple[Array, ...], None]:
            weights, rate, rng = of
            return block.apply({"params": weights}, maps, rate, rngs={} if rng is None else {"dropout": rng}), None

        if config.rematerialise:
            apply_block = jax.checkpoint(apply_block)
        rates = config.drop_path_rates(self.stage)
        rngs = jax.random.split(self.make_rng("dropout"), count) if self.train and config.drop_path else None
        if self.train and count >= config.loop_blocks_from and layers.loops_are_cheap():
            return jax.lax.scan(apply_block, maps, (stacked, rates, rngs))[0]
        apply_block = jax.jit(apply_block)  # traced once for all blocks
        for i in range(count):
            weights = stacked[i] if isinstance(stacked, tuple) else jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
            maps, _ = apply_block(maps, (weights, rates[i], None if rngs is None else rngs[i]))
        return maps


class DMEMBlock(nn.Module):
    """Self-attention in each branch, attention of each branch to the other, Mix-FFN; residual around each."""

    config: Model
    stage: int
    train: bool

    @nn.compact
    def __call__(self, maps: tuple[Array, ...], drop_rate: Array) -> tuple[Array, ...]:
        config, stage = self.config, self.stage
        names = config.branch_names

        def attend(kind: str, queries: tuple[Array, ...], contexts: tuple[Array, ...]) -> tuple[Array, ...]:
            return tuple(
                self._drop_path(Attention(config, stage, name=f"{name}_{kind}")(query, context), drop_rate)
                for name, query, context in zip(names, queries, contexts, strict=True)
            )

        def norms(kind: str, maps: tuple[Array, ...]) -> tuple[Array, ...]:
            return tuple(_norm(config, f"{name}_{kind}_norm")(m) for name, m in zip(names, maps, strict=True))

        side = config.reductions[stage]
        if self._in_patches(maps[0]):
            # Attention does not ask for the order of the queries: norms write patches, residuals are added from them.
            def arrange(maps: tuple[Array, ...]) -> tuple[Array, ...]:
                return tuple(layers.to_patches(m, side) for m in maps)

            def restore(maps: tuple[Array, ...]) -> tuple[Array, ...]:
                return tuple(layers.from_patches(m) for m in maps)
        else:
            arrange = restore = tuple

        normed = arrange(norms("self", maps))
        maps = _add(maps, restore(attend("self", normed, normed)))
        if len(maps) == 2 and config.cross_attention:
            normed = arrange(norms("cross", maps))
            maps = _add(maps, restore(attend("cross", normed, normed[::-1])))
        normed = norms("ffn", maps)
        mixed = tuple(
            self._drop_path(MixFFN(config, name=f"{name}_ffn")(m), drop_rate)
            for name, m in zip(names, normed, strict=True)
        )
        return _add(maps, mixed)

    def _in_patches(self, maps: Array) -> bool:
        """Whether attention takes the pixels patch by patch: for a GPU, which else turns each map in a kernel of its own."""
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
    """Multi-head attention of every pixel of `query` to a spatially reduced `context`; both as maps or as patches of them."""

    config: Model
    stage: int

    @nn.compact
    def __call__(self, query: Array, context: Array) -> Array:
        config = self.config
        channels, heads, reduction = query.shape[-1], config.heads[self.stage], config.reductions[self.stage]
        if reduction > 1:
            patches = context if context.ndim == 5 else layers.to_patches(context, reduction)
            context = _norm(config, "reduce_norm")(PatchReduction(reduction, name="reduce")(patches))
        elif layers.accelerator() is not None:
            # Seen to be the queries' own map, XLA would join the two products, and make two more kernels of the biases on a GPU.
            context = jax.lax.optimization_barrier(context)
        query = Dense(channels, name="query")(query)
        key_value = Dense(2 * channels, name="key_value")(context)
        return Dense(channels, name="output")(layers.attend(query, key_value, heads))


class PatchReduction(nn.Module):
    """One pixel for each patch of `side` x `side`: a convolution whose stride is its kernel's size."""

    side: int

    @nn.compact
    def __call__(self, patches: Array) -> Array:
        channels = patches.shape[-1]
        kernel = self.param("kernel", _shape_only, (self.side, self.side, channels, channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        return layers.reduce_patches(patches, kernel, bias)


class MixFFN(nn.Module):
    """Dense, depthwise 3x3, GELU, Dense (SegFormer's Mix-FFN: the 3x3 tells the position)."""

    config: Model

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden = Dense(x.shape[-1] * self.config.mlp_ratio, name="expand")(x)
        hidden = DepthwiseConv(self.config, name="depthwise")(hidden)
        return Dense(x.shape[-1], name="project")(layers.gelu(hidden))


class DepthwiseConv(nn.Module):
    """3x3 convolution of each channel on its own, zero padding."""

    config: Model

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        kernel = self.param("kernel", _shape_only, (3, 3, channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        return layers.depthwise_3x3(x, kernel, bias)


class LayerNorm(nn.Module):
    """LayerNorm over the channels of each pixel."""

    config: Model

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return layers.layer_norm(x, scale, bias, self.config.layer_norm_epsilon)


class Aggregation(nn.Module):
    """MMAM: weighs the channels of both branches by what the whole tile holds, then joins the branches."""

    config: Model
    stage: int

    @nn.compact
    def __call__(self, maps: tuple[Array, ...]) -> Array:
        config = self.config
        if len(maps) == 1:
            return maps[0]
        width = config.widths[self.stage]
        if config.channel_reweighting:
            wide = jnp.promote_types(maps[0].dtype, jnp.float32)
            means = jnp.concatenate([m.mean(axis=(1, 2), dtype=wide) for m in maps], axis=-1)
            means = means.astype(maps[0].dtype)
            maps = tuple(
                m * self._gate(means, m.shape[-1], name) for name, m in zip(config.branch_names, maps, strict=True)
            )
        return Dense(width, name="join")(jnp.concatenate(maps, axis=-1))

    def _gate(self, means: Array, channels: int, name: str) -> Array:
        hidden_width = self.config.mmam_ratio * self.config.widths[self.stage]
        hidden = nn.relu(Dense(hidden_width, name=f"{name}_squeeze")(means))
        return nn.sigmoid(Dense(channels, name=f"{name}_gate")(hidden))[:, None, None, :]


class Decoder(nn.Module):
    """All-MLP decoder: project each stage, bring it to H/4, join, classify.

    Nothing non-linear stands between a stage's projection and the joining Dense, and upsampling is linear per channel,
    so the two matrices are multiplied first and only one product per stage runs at that stage's own resolution:

        concat_i(up(F_i W_i + b_i)) W = sum_i up(F_i (W_i V_i) + b_i V_i),   W = [V_1; V_2; V_3; V_4]

    Parameters, outputs and gradients are those of the plain form (`tests/test_model.py` holds it).
    """

    config: Model
    train: bool

    @nn.compact
    def __call__(self, features: tuple[Array, ...]) -> Array:
        config, compute = self.config, features[0].dtype
        width = config.decoder_width
        kernels, bias = [], 0.0
        for stage, feature in enumerate(features, start=1):
            join = self.param(f"join{stage}_kernel", _shape_only, (width, width))
            project = self.param(f"project{stage}_kernel", _shape_only, (feature.shape[-1], width))
            project_bias = self.param(f"project{stage}_bias", _shape_only, (width,))
            # Of weights with weights: in full precision, for it costs nothing, and their product is rounded once more.
            kernels.append(jnp.matmul(project, join, precision="highest"))
            bias += jnp.matmul(project_bias, join, precision="highest")
        norm = BatchNorm(config, self.train, name="norm")
        classify = self.param("classify_kernel", _shape_only, (width, config.classes))
        classify_bias = self.param("classify_bias", _shape_only, (config.classes,))

        if not self.train:
            # Factor and offset are known beforehand: they go into the weights, in float32.
            factor, offset = norm(None)
            first, *others = ((kernel * factor).astype(compute) for kernel in kernels)
            maps = tuple(feature @ kernel for feature, kernel in zip(features[1:], others, strict=True))
            logits = layers.join_and_classify(
                features[0], first, maps, bias * factor + offset, classify.astype(compute)
            )
            return logits + classify_bias
        size = features[0].shape[1:3]
        maps = tuple(layers.dense(feature, kernel) for feature, kernel in zip(features[1:], kernels[1:], strict=True))
        joined = layers.dense(features[0], kernels[0], bias) + layers.sum_resized(maps, size)
        factor, offset = norm(joined)
        hidden = nn.relu(layers.scale_and_shift(joined, factor, offset))
        hidden = nn.Dropout(config.dropout, deterministic=False)(hidden)
        return layers.dense(hidden, classify, classify_bias, jnp.promote_types(compute, jnp.float32))


class BatchNorm(nn.Module):
    """BatchNorm as the factor and the offset of each channel, float32.

    In training from the moments of the batch, which are also averaged for later; else from those averages, so that the
    factor can go into the weights before.
    """

    config: Model
    train: bool

    @nn.compact
    def __call__(self, x: Array | None) -> tuple[Array, Array]:
        shape = (self.config.decoder_width,)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        if self.train:
            pixels = tuple(range(x.ndim - 1))
            wide = x.astype(scale.dtype)
            mean = wide.mean(axis=pixels)
            # Both sums in one pass over the largest map there is.
            var = jnp.maximum(jnp.square(wide).mean(axis=pixels) - jnp.square(mean), 0.0)
            running_mean.value = 0.9 * running_mean.value + 0.1 * mean
            running_var.value = 0.9 * running_var.value + 0.1 * var
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * jax.lax.rsqrt(var + self.config.batch_norm_epsilon)
        return factor, bias - mean * factor


# Modules state shapes; `init_params` draws the values.
_shape_only = nn.initializers.zeros


class Dense(nn.Module):
    """Each pixel's channels times a matrix, plus a bias."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", _shape_only, (x.shape[-1], self.width))
        return layers.dense(x, kernel, self.param("bias", _shape_only, (self.width,)))


class PatchEmbedding(nn.Module):
    """Convolution with patches that overlap, `side` pixels wide."""

    width: int
    side: int
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", _shape_only, (self.side, self.side, x.shape[-1], self.width))
        return layers.embed_patches(x, kernel, self.param("bias", _shape_only, (self.width,)), self.stride)


def _norm(config: Model, name: str) -> "LayerNorm":
    return LayerNorm(config, name=name)


def _add(maps: tuple[Array, ...], residuals: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(m + r for m, r in zip(maps, residuals, strict=True))
