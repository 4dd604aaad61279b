"""SpecSAR-Former: Sentinel-2 and Sentinel-1 tiles in, logits of the nine land-cover classes out.

Enters: standardised float tiles `s2` [batch, height, width, s2_band] and `s1` [batch, height, width, s1_band] on one
10 m grid, any height and width of at least 32 pixels. Leaves: float32 logits [batch, height, width, class].

Two branches, spectral and SAR, pass through four stages. In the blocks of a stage each branch attends to itself and to
the other one (DMEM, Dual Modal Enhancement Module). After a stage the branches are re-weighted by channel and joined
(MMAM, Mutual Modal Aggregation Module). An all-MLP decoder joins the four stages at a quarter of the resolution.

Source: Yu et al., SpecSAR-Former, arXiv 2410.03962 (LULC-Former, IEEE JSTARS 19, 2026). The paper publishes the modules
and the size; widths, depths and the order inside a block are this project's choice (a SegFormer-B2 pyramid, Xie et al.
2021, split 3/4 to 1/4). The README lists which is which.

The rest of the project uses the pure functions of this file, and never sees flax.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from specsar_jax.config import SMALLEST_SIZE_PX, Model
from specsar_jax.network import decoder, dynamic_world, encoder, layers, on_cpu, resizing

Variables = dict[str, Any]
"""The state of a network: `{"params": ..., "batch_stats": ...}`, trained weights and BatchNorm's running moments."""


def init_params(config: Model, rng: Array) -> Variables:
    """Draws the initial variables of the network. Pure; works under `jax.jit` and `jax.eval_shape`.

    Kernels are drawn from normal distributions truncated at two standard deviations. The standard deviation is 0.02 for
    dense kernels and sqrt(2 / fan-out) for convolutions, as in SegFormer (Xie et al. 2021). Scales are one, biases
    zero.

    Args:
        config: sizes of the network.
        rng: random key; the same key gives the same variables.

    Returns:
        float32 arrays by collection, `params` and `batch_stats`.
    """
    if config.architecture == "dynamic_world":
        return dynamic_world.init_params(config, rng)
    abstract = abstract_params(config)
    leaves, structure = jax.tree.flatten_with_path(abstract["params"])
    # One draw for all weights, because a draw for each would compile a program for each.
    draws = jax.random.truncated_normal(rng, -2.0, 2.0, (sum(leaf.size for _, leaf in leaves),))
    if not isinstance(draws, jax.core.Tracer):
        draws = np.asarray(draws)  # numpy slices and scales without compiling
    ends = np.cumsum([leaf.size for _, leaf in leaves])
    params = [
        _initial_value(path, draws[end - leaf.size : end].reshape(leaf.shape))
        for (path, leaf), end in zip(leaves, ends, strict=True)
    ]
    moments = {"mean": np.zeros(config.decoder_width, np.float32), "var": np.ones(config.decoder_width, np.float32)}
    variables = {"params": structure.unflatten(params), "batch_stats": {"decoder": {"norm": moments}}}
    return jax.tree.map(jnp.asarray, variables)


def for_inference(variables: Variables, config: Model) -> Variables:
    """Prepares variables for `apply`: splits the stacked blocks of each stage, converts weights to the compute type.

    `apply` takes both forms, with the same results; `apply_train` and all files take the form of `init_params`. From
    stacked weights, a program for a GPU spends 140 kernels on slicing and converting them, each time it runs.

    Args:
        variables: as `init_params` returns them.
        config: sizes of the network.

    Returns:
        the variables, with a tuple of trees, one for each block, under `blocks` of each stage; of `dynamic_world`, convolutions
        that do the work of BatchNorm.
    """
    if config.architecture == "dynamic_world":
        return dynamic_world.for_inference(variables, config)

    def converted(path: Any, leaf: Array | np.ndarray) -> Array | np.ndarray:
        of_norm = path[-2].key.endswith("norm")  # computed in float32
        return leaf if of_norm else leaf.astype(config.compute_dtype)

    params = dict(variables["params"])
    for name, part in params.items():
        if name != "decoder":  # it multiplies its matrices with each other in float32 first
            part = jax.tree_util.tree_map_with_path(converted, part)
        if "blocks" in part:
            count = config.blocks[int(name.removeprefix("stage")) - 1]
            part = part | {
                "blocks": tuple(jax.tree.map(lambda leaf, i=i: leaf[i], part["blocks"]) for i in range(count))
            }
        params[name] = part
    return variables | {"params": params}


def abstract_params(config: Model) -> Variables:
    """Shapes and types of what `init_params` returns, without computing it."""
    if config.architecture == "dynamic_world":
        return dynamic_world.abstract_params(config)
    size = SMALLEST_SIZE_PX
    s2 = jax.ShapeDtypeStruct((1, size, size, config.s2_channels), jnp.float32)
    s1 = jax.ShapeDtypeStruct((1, size, size, config.s1_channels), jnp.float32)
    return jax.eval_shape(SpecSARFormer(config).init, jax.random.key(0), s2, s1)


def _initial_value(path: tuple[Any, ...], draw: Array | np.ndarray) -> Array | np.ndarray:
    """The initial value of the weight at `path`, from truncated standard normal draws of its shape."""
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
    """Logits of a batch of standardised tiles. Pure; BatchNorm uses its running moments.

    Args:
        variables: as `init_params` or `for_inference` returns them.
        s2: float [batch, height, width, s2_channels]; ignored, and may be None, if the network does not read it.
        s1: float [batch, height, width, s1_channels]; likewise.
        config: sizes of the network.

    Returns:
        float32 logits.

    Raises:
        ValueError: a sensor in use is missing, its channels do not match `config`, or a side is under 32 pixels.
    """
    size = _checked_size(s2, s1, config)
    if config.architecture == "dynamic_world":
        return dynamic_world.apply(variables, s2, s1, config=config)

    def forward(tiles: dict[str, Array]) -> Array:
        logits = SpecSARFormer(config).apply(variables, tiles.get("s2"), tiles.get("s1"))
        return resizing.resize_bilinear(logits, size)

    given = {"s2": s2, "s1": s1}
    tiles = {sensor: given[sensor] for sensor in config.sensors}
    return on_cpu.some_at_once(forward, tiles) if layers.accelerator() is None else forward(tiles)


def apply_train(
    variables: Variables,
    s2: Array | None,
    s1: Array | None,
    *,
    config: Model,
    rng: Array,
    fixed: frozenset[str] = frozenset(),
) -> tuple[Float[Array, "batch height width class"], dict[str, Any]]:
    """Like `apply`, for training: BatchNorm uses the moments of the batch, and dropout draws from `rng`.

    Layers whose names are among `fixed`, as they stand in `batch_stats` (`decoder`, `block1.point1`), use their running moments, and
    keep them.

    Returns:
        the logits, and the `batch_stats` for the next step.
    """
    size = _checked_size(s2, s1, config)
    if config.architecture == "dynamic_world":
        return dynamic_world.apply_train(variables, s2, s1, config=config, fixed=fixed)
    logits, updates = SpecSARFormer(config, train=True, fixed_norm="decoder" in fixed).apply(
        variables, s2, s1, rngs={"dropout": rng}, mutable=["batch_stats"]
    )
    return resizing.resize_bilinear(logits, size), updates["batch_stats"]


def stride_and_margin(config: Model) -> dict[str, int]:
    """Returns how a scene is cut into windows, for `maps.windows.plan`: the stride of the network, and how far it sees if that is less
    than a window, else 0.
    """
    if config.architecture == "dynamic_world":
        return {"stride_px": dynamic_world.STRIDE_PX, "margin_px": dynamic_world.MARGIN_PX}
    return {"stride_px": SMALLEST_SIZE_PX, "margin_px": 0}


def _checked_size(s2: Array | None, s1: Array | None, config: Model) -> tuple[Any, Any]:
    """Height and width of the tiles; checks the inputs first."""
    s2_shape, s1_shape = (None if x is None else tuple(x.shape) for x in (s2, s1))
    check_inputs(s2_shape, s1_shape, config)
    return (s2_shape if "s2" in config.sensors else s1_shape)[1:3]


def check_inputs(s2_shape: tuple[Any, ...] | None, s1_shape: tuple[Any, ...] | None, config: Model) -> None:
    """Raises ValueError unless the shapes of the sensors that the network reads match each other and `config`."""
    given = {"s2": (s2_shape, config.s2_channels), "s1": (s1_shape, config.s1_channels)}
    shapes = {}
    for sensor in config.sensors:
        shape, channels = given[sensor]
        expected = (
            f"expected [batch, height, width, {channels}] with height and width of at least {SMALLEST_SIZE_PX} pixels"
        )
        if shape is None or len(shape) != 4 or shape[-1] != channels:
            raise ValueError(f"{sensor} has shape {shape}, {expected}")
        if any(side < SMALLEST_SIZE_PX for side in shape[1:3]):  # not min(): in an exported program sides are symbols
            raise ValueError(f"{sensor} has shape {shape}, {expected}; pad it")
        shapes[sensor] = shape[:3]
    if len(set(shapes.values())) > 1:
        raise ValueError(f"s2 has shape {s2_shape} and s1 {s1_shape}: batch, height and width must agree")


class SpecSARFormer(nn.Module):
    """The whole network; its logits have a quarter of the resolution."""

    config: Model
    train: bool = False
    fixed_norm: bool = False
    """Whether BatchNorm uses its running moments in training too."""

    @nn.compact
    def __call__(self, s2: Array | None, s1: Array | None) -> Array:
        """Logits [batch, row, column, class]; arguments as for `apply`."""
        config = self.config
        compute = jnp.dtype(config.compute_dtype)
        read = tuple({"s2": s2, "s1": s1}[sensor].astype(compute) for sensor in config.sensors)
        maps = (jnp.concatenate(read, axis=-1),) if config.branches == "stacked" else read
        features = []
        for stage in range(len(config.widths)):
            maps = encoder.Stage(config, stage, self.train, name=f"stage{stage + 1}")(maps)
            features.append(encoder.Aggregation(config, stage, name=f"mmam{stage + 1}")(maps))
        return decoder.Decoder(config, self.train, self.fixed_norm, name="decoder")(tuple(features))
