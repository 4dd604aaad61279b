"""Dynamic World's network: scaled Sentinel-2 tiles in, logits of the land-cover classes out.

Enters: float tiles [batch, height, width, band] on the 10 m grid, scaled as `data.scaling=log` does. Leaves: float32 logits.
With `branches=both`, standardised Sentinel-1 enters too: see `_of_backscatter`. That is ours, not Google's.

A convolution at full resolution, three blocks at half of it, and a classifier of the direction of each pixel's features. Every
convolution has a bias, BatchNorm and Mish. A block is three pairs of a pointwise and a depthwise convolution, beside which a
pointwise one takes a short way. Halving is by `floor(size / 2)`, with antialias.

    x -> stem -> halve -+-> block1 -> block2 -+-> block3 -> double -> / length -> classify
                        +---> low (two convolutions) --+

A pixel's logits depend on `MARGIN_PX` pixels around it, and on nothing else where a side is even.

Source: Brown et al. 2022, Scientific Data 9, 251, and the network that Google published with it (google/dynamicworld on GitHub).
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from specsar_jax.config import Model
from specsar_jax.network import dynamic_world_rows
from specsar_jax.network.layers import mish

MARGIN_PX = 24
"""How far the logits of a pixel reach: 1 pixel of the stem, 2 of the halving, 9 convolutions and the doubling at half resolution, 20;
rounded up to even."""

STRIDE_PX = 2
"""A window of a scene equals the whole inside its margin if it starts, and the scene ends, at a multiple of this."""

STEM, BLOCKS, LOW = 64, (96, 144, 144), 48
"""Channels of the published network: of the first convolution, of each block, and of the features that pass by the first two blocks."""

MOMENTUM = 0.9
"""Share of BatchNorm's running moments that stays in a training step."""

SAR_MEAN_PX = 15
"""Side of the square over which backscatter is averaged, which takes the speckle out. Chosen in folds of the train chips of `ben_mini` by
a logistic regression, a driver that was not kept: 9 was as good, 31 was worse."""

WITHOUT_NORM = ("classify", "sar")
"""Layers without BatchNorm and Mish."""

Layer = Callable[[str, Array], Array]
"""Runs a layer by its name: convolution, BatchNorm, Mish."""


def kernel_shapes(config: Model) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each layer's kernel by the layer's name; a depthwise one [row, column, channel], a pointwise one [in, out]."""
    shapes: dict[str, tuple[int, ...]] = {"stem": (3, 3, config.s2_channels, STEM)}
    for block, (given, width) in enumerate(zip((STEM, BLOCKS[0], BLOCKS[1] + LOW), BLOCKS, strict=True), start=1):
        for pair in (1, 2, 3):
            shapes[f"block{block}.point{pair}"] = (given if pair == 1 else width, width)
            shapes[f"block{block}.depth{pair}"] = (3, 3, width)
        shapes[f"block{block}.skip"] = (given, width)
    shapes |= {"low.point": (STEM, LOW), "low.depth": (3, 3, LOW), "classify": (BLOCKS[-1], config.classes)}
    return shapes | ({"sar": (config.s1_channels, config.classes)} if "s1" in config.sensors else {})


def abstract_params(config: Model) -> dict[str, Any]:
    """Returns shapes and types of the variables: `params`, and `batch_stats`, the running moments of BatchNorm."""
    params: dict[str, Any] = {}
    moments: dict[str, Any] = {}
    for name, kernel in kernel_shapes(config).items():
        channels = jax.ShapeDtypeStruct(kernel[-1:], jnp.float32)
        layer = {"kernel": jax.ShapeDtypeStruct(kernel, jnp.float32), "bias": channels}
        if name not in WITHOUT_NORM:
            layer["norm"] = {"scale": channels, "bias": channels}
            _put(moments, name, {"norm": {"mean": channels, "var": channels}})
        _put(params, name, layer)
    return {"params": params, "batch_stats": moments}


def init_params(config: Model, rng: Array) -> dict[str, Any]:
    """Draws initial variables: kernels from normal distributions with variance 2 / fan-in (He et al. 2015), scales and variances 1,
    all else 0; that of `sar` too, so that what Sentinel-2 alone has taught goes on from where it stood.
    """
    names = [".".join(key.key for key in path) for path, _ in jax.tree.leaves_with_path(abstract_params(config))]
    keys = dict(zip(names, jax.random.split(rng, len(names)), strict=True))

    def drawn(path: Any, leaf: Any) -> Array:
        last = path[-1].key
        if last != "kernel" or path[1].key == "sar":
            return (jnp.ones if last in ("scale", "var") else jnp.zeros)(leaf.shape)
        fan_in = np.prod(leaf.shape[:2] if path[-2].key.startswith("depth") else leaf.shape[:-1])
        key = keys[".".join(part.key for part in path)]
        return jax.random.truncated_normal(key, -2.0, 2.0, leaf.shape) * np.float32((2.0 / fan_in) ** 0.5)

    return jax.tree.map_with_path(drawn, abstract_params(config))


def for_inference(variables: dict[str, Any], config: Model) -> dict[str, Any]:
    """Returns variables for `apply` alone, in which the convolutions do the work of BatchNorm: no `norm`, no moments."""
    params: dict[str, Any] = {}
    for name in kernel_shapes(config):
        layer = _get(variables["params"], name)
        if name not in WITHOUT_NORM:
            factor, offset = _from_moments(layer["norm"], **_get(variables["batch_stats"], name)["norm"], config=config)
            layer = {"kernel": layer["kernel"] * factor, "bias": layer["bias"] * factor + offset}
        _put(params, name, layer)
    return {"params": params, "batch_stats": {}}


def apply(
    variables: dict[str, Any], s2: Array, s1: Array | None = None, *, config: Model
) -> Float[Array, "batch height width class"]:
    """Returns the logits of a batch of scaled tiles.

    Args:
        variables: as `init_params` or `for_inference` returns them.
        s2: float [batch, height, width, band].
        s1: float [batch, height, width, 2], of a network that reads it.
        config: sizes of the network.
    """
    if "norm" in variables["params"]["stem"]:
        variables = for_inference(variables, config)
    layers = {name: _get(variables["params"], name) for name in kernel_shapes(config)}
    x = s2.astype(config.compute_dtype)
    if all(isinstance(side, int) and side % 2 == 0 for side in x.shape[1:3]) and isinstance(x.shape[0], int):
        logits = jax.lax.platform_dependent(layers, x, cpu=dynamic_world_rows.logits, default=_whole)
    else:
        logits = _whole(layers, x)  # odd, or a symbol in an exported program
    return logits + _of_backscatter(s1, layers["sar"]) if "s1" in config.sensors else logits


def _whole(layers: dict[str, Any], x: Array) -> Array:
    features = _features(x, lambda name, x: mish(_convolve(layers[name], x)))
    return _classify(features, layers["classify"], x.shape[1:3])


def apply_train(
    variables: dict[str, Any], s2: Array, s1: Array | None = None, *, config: Model, fixed: frozenset[str] = frozenset()
) -> tuple[Float[Array, "batch height width class"], dict[str, Any]]:
    """Returns the logits with BatchNorm by the moments of the batch, and the running moments for the next step. The layers `fixed` use
    and keep their running moments.
    """
    params, running = variables["params"], variables["batch_stats"]
    moments: dict[str, Any] = {}

    def layer(name: str, x: Array) -> Array:
        weights, before = _get(params, name), _get(running, name)["norm"]
        x = _convolve(weights, x)
        now = before
        if name not in fixed:
            wide = x.astype(jnp.float32)
            mean = wide.mean(axis=(0, 1, 2))
            now = {"mean": mean, "var": jnp.maximum(jnp.square(wide).mean(axis=(0, 1, 2)) - jnp.square(mean), 0.0)}
            before = {of: MOMENTUM * before[of] + (1 - MOMENTUM) * now[of] for of in now}
        _put(moments, name, {"norm": before})
        factor, offset = _from_moments(weights["norm"], **now, config=config)
        return mish(x * factor.astype(x.dtype) + offset.astype(x.dtype))

    features = _features(s2.astype(config.compute_dtype), layer)
    logits = _classify(features, params["classify"], s2.shape[1:3])
    return logits + _of_backscatter(s1, params["sar"]) if "s1" in config.sensors else logits, moments


def _features(x: Array, layer: Layer) -> Array:
    """Features of each pixel at half resolution; `layer` runs a layer by its name."""

    def block(name: str, x: Array) -> Array:
        deep = x
        for pair in (1, 2, 3):
            deep = layer(f"{name}.depth{pair}", layer(f"{name}.point{pair}", deep))
        return deep + layer(f"{name}.skip", x)

    half = _halved(layer("stem", x))
    deep = block("block2", block("block1", half))
    low = layer("low.depth", layer("low.point", half))
    return block("block3", jnp.concatenate([deep, low], axis=-1))


def _convolve(layer: dict[str, Any], x: Array) -> Array:
    """A convolution and its bias; zeros stand around the tile."""
    kernel, bias = layer["kernel"].astype(x.dtype), layer["bias"].astype(x.dtype)
    if kernel.ndim == 2:
        return jnp.matmul(x, kernel, precision="highest") + bias  # as on a CPU: a GPU would round factors to TF32
    if kernel.ndim == 4:
        numbers = ("NHWC", "HWIO", "NHWC")
        return (
            jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers, precision="highest")
            + bias
        )
    # As sums of shifted maps, which XLA joins with what follows: on a CPU its depthwise convolution is ten times slower.
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = (
        padded[:, row : row + height, column : column + width] * kernel[row, column]
        for row in range(3)
        for column in range(3)
    )
    return sum(shifted) + bias


def _from_moments(norm: dict[str, Any], mean: Any, var: Any, config: Model) -> tuple[Array, Array]:
    """BatchNorm as a factor and an offset of each channel."""
    factor = jnp.asarray(norm["scale"]) * jax.lax.rsqrt(jnp.asarray(var) + config.batch_norm_epsilon)
    return factor, norm["bias"] - mean * factor


def _halved(x: Array) -> Array:
    """`x` at half the resolution by a triangle of two pixels to each side, which at the edges is cut and divided by its sum."""
    return jax.image.resize(x, (x.shape[0], x.shape[1] // 2, x.shape[2] // 2, x.shape[3]), "linear", antialias=True)


def _classify(features: Array, layer: dict[str, Any], size: tuple[Any, Any]) -> Array:
    """Logits at `size`: features resized bilinearly, divided by their length, times the kernel, plus the bias."""
    features = features.astype(jnp.float32)
    wide = jax.image.resize(features, (features.shape[0], *size, features.shape[3]), "linear", antialias=False)
    length = jnp.maximum(jnp.square(wide).sum(axis=-1, keepdims=True), 1e-12)
    kernel, bias = (layer[of].astype(jnp.float32) for of in ("kernel", "bias"))
    return jnp.matmul(wide * jax.lax.rsqrt(length), kernel, precision="highest") + bias


def _of_backscatter(s1: Array, layer: dict[str, Any]) -> Array:
    """What the mean standardised backscatter around each pixel adds to its logits; a pixel without data counts as the mean of the band.

    Were the sensors independent of each other given the class, their logits would add up.
    """
    s1 = s1.astype(jnp.float32)

    def sums(x: Array) -> Array:
        for side in ((1, SAR_MEAN_PX, 1, 1), (1, 1, SAR_MEAN_PX, 1)):
            x = jax.lax.reduce_window(x, 0.0, jax.lax.add, side, (1, 1, 1, 1), "SAME")
        return x

    mean = sums(s1) / sums(jnp.ones_like(s1[..., :1]))
    return jnp.matmul(mean, layer["kernel"].astype(jnp.float32), precision="highest") + layer["bias"]


def variables_in_order(config: Model) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yields, for each variable of the published SavedModel in its order, layer, what it is of the layer, and its shape there."""
    shapes = kernel_shapes(config)

    def convolution(name: str) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        kernel = shapes[name]
        in_file = {2: (1, 1, *kernel), 3: (*kernel, 1), 4: kernel}[len(kernel)]
        yield from ((name, "kernel", in_file), (name, "bias", kernel[-1:]))

    def norm(name: str) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        for of in ("norm.scale", "norm.bias", "norm.mean", "norm.var"):
            yield name, of, shapes[name][-1:]

    def both(*names: str) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        for name in names:
            yield from convolution(name)
            yield from norm(name)

    yield from both("stem")
    for block in ("block1", "block2", "block3"):
        yield from both(*(f"{block}.{name}" for name in ("point1", "depth1", "point2", "depth2", "point3")))
        if block == "block2":
            yield from both("low.point")
        for part in (convolution, norm):
            yield from part(f"{block}.depth3")
            yield from part(f"{block}.skip")
        if block == "block2":
            yield from both("low.depth")
    yield from convolution("classify")


def from_saved(values: list[np.ndarray], config: Model) -> dict[str, Any]:
    """Returns the variables, float32, from those of the published SavedModel, which have the shapes of `variables_in_order`."""
    tree = abstract_params(config)
    for (name, of, _), value in zip(variables_in_order(config), values, strict=True):
        layer = _get(tree["batch_stats" if of in ("norm.mean", "norm.var") else "params"], name)
        *inside, last = of.split(".")
        for key in inside:
            layer = layer[key]
        layer[last] = jnp.asarray(value, jnp.float32).reshape(layer[last].shape)
    return tree


def _get(tree: dict[str, Any], name: str) -> Any:
    for key in name.split("."):
        tree = tree[key]
    return tree


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *inside, last = name.split(".")
    for key in inside:
        tree = tree.setdefault(key, {})
    tree[last] = value
