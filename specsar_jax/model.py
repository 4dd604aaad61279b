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
    # One draw for all weights: a compiled program per weight takes half a minute.
    draws = jax.random.truncated_normal(rng, -2.0, 2.0, (sum(leaf.size for _, leaf in leaves),))
    if not isinstance(draws, jax.core.Tracer):
        draws = np.asarray(draws)  # cut by numpy, which compiles nothing
    ends = np.cumsum([leaf.size for _, leaf in leaves])
    params = [
        _initial_value(path, draws[end - leaf.size : end].reshape(leaf.shape))
        for (path, leaf), end in zip(leaves, ends, strict=True)
    ]
    moments = {"mean": jnp.zeros(config.decoder_width), "var": jnp.ones(config.decoder_width)}
    return {"params": structure.unflatten(params), "batch_stats": {"decoder": {"norm": moments}}}


def abstract_params(config: Model) -> Variables:
    """Shapes and types of what `init_params` returns, without a computation."""
    size = SMALLEST_SIZE_PX
    s2 = jax.ShapeDtypeStruct((1, size, size, config.s2_channels), jnp.float32)
    s1 = jax.ShapeDtypeStruct((1, size, size, config.s1_channels), jnp.float32)
    return jax.eval_shape(SpecSARFormer(config).init, jax.random.key(0), s2, s1)


def _initial_value(path: tuple[Any, ...], draw: Array | np.ndarray) -> Array:
    """The initial value of the weight at `path`, from standard normal draws of its shape."""
    names = [key.key for key in path]
    if names[-1] == "scale":
        return jnp.ones(draw.shape)
    if names[-1].endswith("bias"):
        return jnp.zeros(draw.shape)
    kernel_shape = draw.shape[1:] if "blocks" in names else draw.shape
    if names[-2] == "depthwise":
        return jnp.asarray(draw * (2.0 / 9.0) ** 0.5)
    if len(kernel_shape) == 4:
        rows, columns, _, channels_out = kernel_shape
        return jnp.asarray(draw * (2.0 / (rows * columns * channels_out)) ** 0.5)
    return jnp.asarray(draw * 0.02)


def apply(
    variables: Variables,
    s2: Float[Array, "batch height width s2_band"],
    s1: Float[Array, "batch height width s1_band"],
    *,
    config: Model,
) -> Float[Array, "batch height width class"]:
    """Logits of a batch of standardised tiles, with BatchNorm's running moments. Pure.

    Raises:
        ValueError: channels that do not match `config`, or a side under 32 pixels.
    """
    check_inputs(s2.shape, s1.shape, config)
    logits = SpecSARFormer(config).apply(variables, s2, s1)
    return resize_bilinear(logits, s2.shape[1:3])


def apply_train(
    variables: Variables,
    s2: Float[Array, "batch height width s2_band"],
    s1: Float[Array, "batch height width s1_band"],
    *,
    config: Model,
    rng: Array,
) -> tuple[Float[Array, "batch height width class"], dict[str, Any]]:
    """Like `apply`, with the batch's own moments in BatchNorm and with dropout from `rng`.

    Returns:
        the logits, and the `batch_stats` to carry to the next step.
    """
    check_inputs(s2.shape, s1.shape, config)
    logits, updates = SpecSARFormer(config, train=True).apply(
        variables, s2, s1, rngs={"dropout": rng}, mutable=["batch_stats"]
    )
    return resize_bilinear(logits, s2.shape[1:3]), updates["batch_stats"]


def check_inputs(s2_shape: tuple[int, ...], s1_shape: tuple[int, ...], config: Model) -> None:
    """Raises a ValueError unless the shapes fit each other and `config`."""
    for sensor, shape, channels in (("s2", s2_shape, config.s2_channels), ("s1", s1_shape, config.s1_channels)):
        if len(shape) != 4 or shape[-1] != channels:
            raise ValueError(f"{sensor} has shape {shape}, expected [batch, height, width, {channels}]")
        if min(shape[1:3]) < SMALLEST_SIZE_PX:
            raise ValueError(
                f"{sensor} has shape {shape}: height and width must be at least {SMALLEST_SIZE_PX} pixels; pad it"
            )
    if s2_shape[:3] != s1_shape[:3]:
        raise ValueError(f"s2 has shape {s2_shape} and s1 {s1_shape}: batch, height and width must agree")


class SpecSARFormer(nn.Module):
    """The whole network, up to logits at a quarter of the resolution."""

    config: Model
    train: bool = False

    @nn.compact
    def __call__(self, s2: Array, s1: Array) -> Array:
        config = self.config
        compute = jnp.dtype(config.compute_dtype)
        maps = {
            "both": (s2, s1),
            "spectral": (s2,),
            "sar": (s1,),
            "stacked": (jnp.concatenate([s2, s1], axis=-1),),
        }[config.branches]
        maps = tuple(m.astype(compute) for m in maps)
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
            _norm(config, f"{name}_embed_norm")(
                _conv(config, width, patch, stride, patch // 2, f"{name}_embed")(branch)
            )
            for name, width, branch in zip(config.branch_names, widths, maps, strict=True)
        )
        # The blocks of a stage are equal: their weights are stacked on a leading axis, whether the loop is unrolled
        # or compiled once.
        blocks = nn.scan(
            DMEMBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=0,
            length=config.blocks[stage],
            unroll=config.blocks[stage] if config.unroll_blocks else 1,
        )
        maps, _ = blocks(config, stage, self.train, name="blocks")(maps, config.drop_path_rates(stage))
        return tuple(
            _norm(config, f"{name}_norm")(branch) for name, branch in zip(config.branch_names, maps, strict=True)
        )


class DMEMBlock(nn.Module):
    """Self-attention in each branch, attention of each branch to the other, Mix-FFN; residual around each."""

    config: Model
    stage: int
    train: bool

    @nn.compact
    def __call__(self, maps: tuple[Array, ...], drop_rate: Array) -> tuple[tuple[Array, ...], None]:
        config, stage = self.config, self.stage
        names = config.branch_names

        def attend(kind: str, queries: tuple[Array, ...], contexts: tuple[Array, ...]) -> tuple[Array, ...]:
            return tuple(
                self._drop_path(Attention(config, stage, name=f"{name}_{kind}")(query, context), drop_rate)
                for name, query, context in zip(names, queries, contexts, strict=True)
            )

        def norms(kind: str, maps: tuple[Array, ...]) -> tuple[Array, ...]:
            return tuple(_norm(config, f"{name}_{kind}_norm")(m) for name, m in zip(names, maps, strict=True))

        normed = norms("self", maps)
        maps = _add(maps, attend("self", normed, normed))
        if len(maps) == 2 and config.cross_attention:
            normed = norms("cross", maps)
            maps = _add(maps, attend("cross", normed, normed[::-1]))
        normed = norms("ffn", maps)
        mixed = tuple(
            self._drop_path(MixFFN(config, name=f"{name}_ffn")(m), drop_rate)
            for name, m in zip(names, normed, strict=True)
        )
        return _add(maps, mixed), None

    def _drop_path(self, residual: Array, rate: Array) -> Array:
        """Stochastic depth: in training, drops the residual of a whole tile with probability `rate`."""
        if not self.train or self.config.drop_path == 0.0:
            return residual
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - rate, (residual.shape[0], 1, 1, 1))
        return jnp.where(keep, residual / (1.0 - rate).astype(residual.dtype), 0)


class Attention(nn.Module):
    """Multi-head attention of every pixel of `query` to a spatially reduced `context`."""

    config: Model
    stage: int

    @nn.compact
    def __call__(self, query: Array, context: Array) -> Array:
        config = self.config
        batch, height, width, channels = query.shape
        heads, reduction = config.heads[self.stage], config.reductions[self.stage]
        if reduction > 1:
            context = _conv(config, context.shape[-1], reduction, reduction, 0, "reduce")(context)
            context = _norm(config, "reduce_norm")(context)

        def split(x: Array, name: str) -> Array:
            return _dense(config, channels, name)(x).reshape(batch, -1, heads, channels // heads)

        # Softmax in float32 whatever the compute type, scale 1 / sqrt(head width).
        attended = jax.nn.dot_product_attention(split(query, "query"), split(context, "key"), split(context, "value"))
        return _dense(config, channels, "output")(attended.reshape(batch, height, width, channels))


class MixFFN(nn.Module):
    """Dense, depthwise 3x3, GELU, Dense (SegFormer's Mix-FFN: the 3x3 tells the position)."""

    config: Model

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden = _dense(self.config, x.shape[-1] * self.config.mlp_ratio, "expand")(x)
        hidden = DepthwiseConv(self.config, name="depthwise")(hidden)
        return _dense(self.config, x.shape[-1], "project")(nn.gelu(hidden, approximate=False))


class DepthwiseConv(nn.Module):
    """3x3 convolution of each channel on its own, zero padding."""

    config: Model

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        kernel = self.param("kernel", _shape_only, (3, 3, channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        return depthwise_3x3(x, kernel.astype(x.dtype)) + bias.astype(x.dtype)


@jax.custom_vjp
def depthwise_3x3(x: Array, kernel: Array) -> Array:
    """Depthwise convolution as nine shifted products: XLA's grouped convolution is 30 times slower on a CPU."""
    return sum(shifted * kernel[place] for place, shifted in _shifts(x))


def _shifts(x: Array) -> list[tuple[tuple[int, int], Array]]:
    """The nine places (row, column) of a 3x3 kernel, each with the zero-padded map as that place sees it."""
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [((row, column), padded[:, row : row + height, column : column + width]) for row, column in np.ndindex(3, 3)]


def _depthwise_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return depthwise_3x3(x, kernel), (x, kernel)


def _depthwise_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    """Gradients of `depthwise_3x3`.

    The kernel's nine sums share one pass over the rows (one reduction with nine operands): left to itself, XLA makes
    nine passes on a CPU, 5 times slower at 128 x 128 x 192.
    """
    x, kernel = residuals
    batch, height, width, channels = x.shape
    products = tuple(
        (shifted * gradient).astype(jnp.float32).reshape(batch * height, width * channels) for _, shifted in _shifts(x)
    )
    sums = jax.lax.reduce(
        products, (np.float32(0),) * 9, lambda a, b: tuple(p + q for p, q in zip(a, b, strict=True)), (0,)
    )
    kernel_gradient = jnp.stack(sums).reshape(3, 3, width, channels).sum(axis=2).astype(kernel.dtype)
    return depthwise_3x3(gradient, kernel[::-1, ::-1]), kernel_gradient


depthwise_3x3.defvjp(_depthwise_forward, _depthwise_backward)


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
            means = jnp.concatenate([m.mean(axis=(1, 2), dtype=jnp.float32) for m in maps], axis=-1)
            means = means.astype(maps[0].dtype)
            maps = tuple(
                m * self._gate(means, m.shape[-1], name) for name, m in zip(config.branch_names, maps, strict=True)
            )
        return _dense(config, width, "join")(jnp.concatenate(maps, axis=-1))

    def _gate(self, means: Array, channels: int, name: str) -> Array:
        hidden_width = self.config.mmam_ratio * self.config.widths[self.stage]
        hidden = nn.relu(_dense(self.config, hidden_width, f"{name}_squeeze")(means))
        return nn.sigmoid(_dense(self.config, channels, f"{name}_gate")(hidden))[:, None, None, :]


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
        config = self.config
        width = config.decoder_width
        join = self.param("join", _shape_only, (len(features), width, width))
        size = features[0].shape[1:3]
        joined = 0.0
        for stage, feature in enumerate(features):
            kernel = self.param(f"project{stage + 1}_kernel", _shape_only, (feature.shape[-1], width))
            bias = self.param(f"project{stage + 1}_bias", nn.initializers.zeros, (width,))
            product = (kernel @ join[stage]).astype(feature.dtype)
            offset = (bias @ join[stage]).astype(feature.dtype)
            joined += resize_bilinear(feature @ product + offset, size)
        normed = nn.BatchNorm(
            use_running_average=not self.train,
            momentum=0.9,
            epsilon=config.batch_norm_epsilon,
            dtype=joined.dtype,
            name="norm",
        )(joined)
        hidden = nn.Dropout(config.dropout, deterministic=not self.train)(nn.relu(normed))
        # Logits in float32: loss and arg max must not depend on bfloat16's three digits.
        return _dense(config, config.classes, "classify")(hidden).astype(jnp.float32)


def resize_bilinear(x: Array, size: tuple[int, int]) -> Array:
    """Bilinear resize of [batch, height, width, channel], half-pixel centres, no antialias."""
    if x.shape[1:3] == tuple(size):
        return x
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), method="bilinear", antialias=False)


# Modules state shapes; `init_params` draws the values.
_shape_only = nn.initializers.zeros


def _dense(config: Model, width: int, name: str) -> nn.Dense:
    return nn.Dense(width, dtype=config.compute_dtype, kernel_init=_shape_only, name=name)


def _conv(config: Model, width: int, kernel: int, stride: int, padding: int, name: str) -> nn.Conv:
    return nn.Conv(
        width,
        (kernel, kernel),
        strides=stride,
        padding=padding,
        dtype=config.compute_dtype,
        kernel_init=_shape_only,
        name=name,
    )


def _norm(config: Model, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=config.layer_norm_epsilon, dtype=config.compute_dtype, name=name)


def _add(maps: tuple[Array, ...], residuals: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(m + r for m, r in zip(maps, residuals, strict=True))
