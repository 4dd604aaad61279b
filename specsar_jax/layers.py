"""The costly functions of the network, each in the form that measured fastest, or moves least: attention, dense layers,
convolutions, LayerNorm, resizing, and the joining of four resolutions.

Pure functions of arrays; `model.py` holds the weights. Where the form depends on the hardware, XLA is given several and takes
the one of the platform that it compiles for (`jax.lax.platform_dependent`), so that an exported program suits each. Forms for a CPU were
chosen by time on 2 cores (`benchmarks/network.py`; `benchmarks/plain.py` holds the plain ones), those for GPUs and TPUs by the
traffic and the collectives of the compiled program (`benchmarks/accelerator.py`); no time was measured there.

Precision. Factors of products have JAX's default precision (on a GPU TF32, on a TPU bfloat16, for float32), sums are float32: the
classes of real tiles are those of float64 on 99.5 % of pixels and more (`tests/test_precision.py`). In full precision are products of
weights with weights in the decoder, and the resizing of logits, which cost nothing. LayerNorm, BatchNorm, softmax, loss, optimizer
and running moments are float32 and have no products. Gradients of weights are summed in float32 over pixels and devices, whatever
the type of the maps.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def accelerator() -> str | None:
    """'cuda' or 'tpu' if that is what a program is traced for: the devices of the mesh in use, else JAX's default ones."""
    of_mesh = jax.sharding.get_abstract_mesh().abstract_device
    platform = jax.default_backend() if of_mesh is None else of_mesh.platform
    return {"gpu": "cuda", "cuda": "cuda", "tpu": "tpu"}.get(platform)


def loops_are_cheap() -> bool:
    """Whether equal blocks may be compiled as a loop, where gradients are wanted; a forward pass alone is built fast enough.

    Not on a GPU, where each turn cuts its weights and maps out of larger arrays, in kernels of their own: a tenth of all traffic, and
    half of the kernels. Nor on many devices, which would sum the gradients of each turn by themselves.
    """
    return accelerator() != "cuda" and jax.sharding.get_abstract_mesh().size <= 1


def tile_axes(mesh: Any, size: int) -> tuple[str, ...]:
    """Axes of a mesh over which a batch of `size` tiles is computed: all, or the first where they cannot share it."""
    return mesh.axis_names if size % mesh.size == 0 else mesh.axis_names[:1]


def attend(
    query: Float[Array, "batch *pixels channel"], key_value: Float[Array, "batch *keys two_channel"], heads: int
) -> Float[Array, "batch *pixels channel"]:
    """Softmax of query times key over the square root of the head's width, times value. Source: Vaswani et al. 2017.

    Logits and softmax are float32 whatever the type of the arguments; the result has theirs. A program for a GPU or a TPU takes the
    kernels of `attention.py`, which never write the logits; one that is exported, or is for a CPU, two matrix products.

    Args:
        query: the channels of the heads, one head behind the other.
        key_value: keys, and behind them values, likewise.
        heads: how many; they share the channels evenly.
    """
    platform = accelerator()
    if platform is None:
        return _attend_whole(query, key_value, heads)
    from specsar_jax import attention  # only where it is used: Pallas takes half a second to import

    key_value = key_value.reshape(key_value.shape[0], -1, key_value.shape[-1])
    if not attention.takes(query, key_value, heads, platform):
        return _attend_whole(query, key_value, heads)

    def kernel(query: Array, key_value: Array) -> Array:
        return attention.attend(query, key_value, heads, platform)

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size > 1:  # XLA cannot split a kernel; each device maps its own tiles
        by_tile = jax.P(tile_axes(mesh, query.shape[0]))
        kernel = jax.shard_map(kernel, mesh=mesh, in_specs=by_tile, out_specs=by_tile, check_vma=False)
    whole = functools.partial(_attend_whole, heads=heads)
    # Traced for an accelerator, the program may still be compiled for the CPU beside it.
    return jax.lax.platform_dependent(query, key_value, default=whole, **{platform: kernel})


def _attend_whole(query: Array, key_value: Array, heads: int) -> Array:
    """With the heads in front the two products are plain matrix products, and only the small operands are turned;
    `jax.nn.dot_product_attention`, which keeps the heads inside, has XLA turn the logits on a CPU. Dividing after the second
    product, not before, spares the gradient a pass over the weights.
    """
    batch, channels = query.shape[0], query.shape[-1]

    def split(x: Array) -> Array:
        return jnp.swapaxes(x.reshape(batch, -1, heads, channels // heads), 1, 2)

    shape, (key, value) = query.shape, jnp.split(key_value, 2, axis=-1)
    query, key, value = split(query * (channels // heads) ** -0.5), split(key), split(value)
    logits = matmul_float32(query, jnp.swapaxes(key, 2, 3))
    # The result does not depend on what is subtracted, so neither does the gradient.
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    attended = matmul_float32(weights.astype(value.dtype), value) / weights.sum(axis=-1, keepdims=True)
    return jnp.swapaxes(attended, 1, 2).astype(query.dtype).reshape(shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def dense(
    x: Float[Array, "*batch channel"],
    kernel: Float[Array, "channel wide"],
    bias: Float[Array, " wide"] | None = None,
    out_type: Any = None,
) -> Float[Array, "*batch wide"]:
    """Each pixel's channels times the kernel, plus the bias, in the type of `x`, or summed and given in `out_type`.

    The gradients of kernel and bias are summed in float32, over pixels and devices alike, whatever the type of `x`: left to
    JAX, devices would add up bfloat16 numbers.
    """
    out = jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=out_type)
    return out if bias is None else out + bias.astype(out.dtype)


def _dense_forward(x: Array, kernel: Array, bias: Array | None, out_type: Any) -> tuple[Array, tuple[Any, ...]]:
    return dense(x, kernel, bias, out_type), (x, kernel, bias)


def _dense_backward(out_type: Any, residuals: tuple[Any, ...], gradient: Array) -> tuple[Any, ...]:
    del out_type
    x, kernel, bias = residuals
    pixels = tuple(range(x.ndim - 1))
    by_bias = None if bias is None else gradient.sum(axis=pixels, dtype=bias.dtype)
    gradient = gradient.astype(x.dtype)
    by_x = jnp.matmul(gradient, kernel.astype(x.dtype).T)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    product = functools.partial(
        jax.lax.dot_general, dimension_numbers=((pixels, pixels), ((), ())), preferred_element_type=wide
    )
    # Of nine classes: half the time of the other order on a CPU. Of wider maps that one is the faster.
    by_kernel = product(gradient, x).T if gradient.shape[-1] < 16 else product(x, gradient)
    return by_x, by_kernel.astype(kernel.dtype), by_bias


dense.defvjp(_dense_forward, _dense_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def embed_patches(
    x: Float[Array, "batch height width channel"],
    kernel: Float[Array, "side side channel wide"],
    bias: Float[Array, " wide"],
    stride: int,
) -> Float[Array, "batch _ _ wide"]:
    """Convolution whose patches overlap, zero padding of half a patch; gradients of the weights are summed in float32."""
    return _convolve(x, kernel.astype(x.dtype), stride) + bias.astype(x.dtype)


def _convolve(x: Array, kernel: Array, stride: int) -> Array:
    padding = [(kernel.shape[0] // 2,) * 2] * 2
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=numbers)


def _embed_forward(x: Array, kernel: Array, bias: Array, stride: int) -> tuple[Array, tuple[Array, ...]]:
    return embed_patches(x, kernel, bias, stride), (x, kernel, bias)


def _embed_backward(stride: int, residuals: tuple[Array, ...], gradient: Array) -> tuple[Array, Array, Array]:
    x, kernel, bias = residuals
    (by_x,) = jax.linear_transpose(lambda x: _convolve(x, kernel.astype(x.dtype), stride), x)(gradient)
    wide = x.astype(kernel.dtype)
    (by_kernel,) = jax.linear_transpose(lambda kernel: _convolve(wide, kernel, stride), kernel)(
        gradient.astype(wide.dtype)
    )
    return by_x, by_kernel, gradient.sum(axis=(0, 1, 2), dtype=bias.dtype)


embed_patches.defvjp(_embed_forward, _embed_backward)


@jax.custom_vjp
def depthwise_3x3(
    x: Float[Array, "batch height width channel"], kernel: Float[Array, "3 3 channel"], bias: Float[Array, " channel"]
) -> Float[Array, "batch height width channel"]:
    """Depthwise convolution as nine shifted products: XLA has no fast grouped convolution on a CPU."""
    return _shifted_products(x, kernel.astype(x.dtype)) + bias.astype(x.dtype)


def _shifted_products(x: Array, kernel: Array) -> Array:
    return sum(shifted * kernel[place] for place, shifted in _shifts(x))


def _shifts(x: Array) -> list[tuple[tuple[int, int], Array]]:
    """The nine places (row, column) of a 3x3 kernel, each with the zero-padded map as that place sees it."""
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [((row, column), padded[:, row : row + height, column : column + width]) for row, column in np.ndindex(3, 3)]


def _depthwise_forward(x: Array, kernel: Array, bias: Array) -> tuple[Array, tuple[Array, ...]]:
    return depthwise_3x3(x, kernel, bias), (x, kernel, bias)


def _depthwise_backward(residuals: tuple[Array, ...], gradient: Array) -> tuple[Array, Array, Array]:
    """Gradients of `depthwise_3x3`. The kernel's nine sums share one pass over the rows: left to itself, XLA makes nine. The bias's
    sum is a pass of its own on a CPU, where ten at once took longer.
    """
    x, kernel, bias = residuals
    batch, height, width, channels = x.shape
    wide = jnp.promote_types(x.dtype, jnp.float32)
    products = [(shifted * gradient).astype(wide) for _, shifted in _shifts(x)]
    maps = products if accelerator() is None else [*products, gradient.astype(wide)]
    by_kernel = sums_over_pixels(*(m.reshape(batch, height, width * channels) for m in maps))
    if accelerator() is None:
        by_bias = gradient.sum(axis=(0, 1, 2), dtype=bias.dtype)
    else:
        *by_kernel, by_bias = by_kernel
        by_bias = by_bias.reshape(width, channels).sum(axis=0).astype(bias.dtype)
    by_kernel = jnp.stack(by_kernel).reshape(3, 3, width, channels).sum(axis=2).astype(kernel.dtype)
    return _shifted_products(gradient, kernel[::-1, ::-1].astype(gradient.dtype)), by_kernel, by_bias


def sums_over_pixels(*maps: Float[Array, "batch *pixels channel"]) -> tuple[Float[Array, " channel"], ...]:
    """The sum of each map over all but its last axis.

    In one pass, as far as the platform allows. On a CPU as one reduction with many operands. It leaves the first axis, over which
    batches are split, for a second sum, because XLA's partitioner cannot sum such a reduction over devices and would gather all
    maps on each. On a GPU as one reduction of the maps behind each other: many operands do not fit a kernel's shared memory,
    and sums one by one read what the maps are made of again and again.
    """

    def in_one_pass(*maps: Array) -> tuple[Array, ...]:
        zeros = tuple(np.zeros((), m.dtype) for m in maps)
        of_tile = jax.lax.reduce(
            maps, zeros, lambda a, b: tuple(p + q for p, q in zip(a, b, strict=True)), tuple(range(1, maps[0].ndim - 1))
        )
        return tuple(m.sum(axis=0) for m in of_tile)

    def stacked(*maps: Array) -> tuple[Array, ...]:
        return tuple(jnp.stack(maps).sum(axis=tuple(range(1, maps[0].ndim))))

    def one_by_one(*maps: Array) -> tuple[Array, ...]:
        return tuple(m.sum(axis=tuple(range(m.ndim - 1))) for m in maps)

    return jax.lax.platform_dependent(*maps, cpu=in_one_pass, cuda=stacked, default=one_by_one)


depthwise_3x3.defvjp(_depthwise_forward, _depthwise_backward)


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """The input times the normal distribution's integral up to it. Source: Hendrycks & Gimpel 2016.

    Its gradient keeps x alone: what JAX derives keeps three maps of the widest layer there is.
    """
    return jax.nn.gelu(x, approximate=False)


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return gelu(x), x


def _gelu_backward(x: Array, gradient: Array) -> tuple[Array]:
    density = jnp.exp(-0.5 * jnp.square(x)) * np.asarray((2 * np.pi) ** -0.5, x.dtype)
    integral = 0.5 + 0.5 * jax.lax.erf(x * np.asarray(0.5**0.5, x.dtype))  # erfc would be dearer here
    return (gradient * (integral + x * density),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def to_patches(x: Float[Array, "batch height width channel"], side: int) -> Float[Array, "batch _ _ pixel channel"]:
    """Whole patches of `side` x `side` pixels, [batch, rows, columns, side * side, channel]; what is left over is not there."""
    batch, height, width, channels = x.shape
    rows, columns = height // side, width // side
    x = x[:, : rows * side, : columns * side].reshape(batch, rows, side, columns, side, channels)
    return jnp.swapaxes(x, 2, 3).reshape(batch, rows, columns, side * side, channels)


def from_patches(patches: Float[Array, "batch rows columns pixel channel"]) -> Float[Array, "batch _ _ channel"]:
    """The inverse of `to_patches`, of a map without anything left over."""
    batch, rows, columns, pixels, channels = patches.shape
    side = math.isqrt(pixels)
    x = jnp.swapaxes(patches.reshape(batch, rows, columns, side, side, channels), 2, 3)
    return x.reshape(batch, rows * side, columns * side, channels)


def reduce_patches(
    patches: Float[Array, "batch rows columns pixel channel"],
    kernel: Float[Array, "side side channel wide"],
    bias: Float[Array, " wide"],
) -> Float[Array, "batch rows columns wide"]:
    """Each of `to_patches` times the kernel, plus the bias.

    As one matrix product: XLA's convolution has a gradient that inside a loop took a hundred times as long on a CPU.
    """
    return dense(patches.reshape(*patches.shape[:3], -1), kernel.reshape(-1, kernel.shape[-1]), bias)


def join_and_classify(
    first: Float[Array, "batch height width first_channel"],
    first_kernel: Float[Array, "first_channel channel"],
    maps: tuple[Float[Array, "batch _rows _columns channel"], ...],
    bias: Float[Array, " channel"],
    classify_kernel: Float[Array, "channel class"],
) -> Float[Array, "batch height width class"]:
    """relu(first x first_kernel + the sum of `maps`, each resized to height x width, + bias) x classify_kernel, float32.

    On a CPU row by row: a map of all channels at full size, 50 MB for a tile of 510 pixels, is never written.
    """
    return jax.lax.platform_dependent(
        first, first_kernel, maps, bias, classify_kernel, cpu=_join_rows, default=_join_whole
    )


def _join_whole(
    first: Array, first_kernel: Array, maps: tuple[Array, ...], bias: Array, classify_kernel: Array
) -> Array:
    joined = first @ first_kernel + bias.astype(first.dtype) + sum_resized(maps, first.shape[1:3])
    return matmul_float32(jax.nn.relu(joined), classify_kernel)


def _join_rows(
    first: Array, first_kernel: Array, maps: tuple[Array, ...], bias: Array, classify_kernel: Array
) -> Array:
    height, width = first.shape[1:3]
    columns = [_bilinear(m.shape[2], width) for m in maps]

    def one(row: tuple[Array, list[tuple[Array, Array, Array]]]) -> Array:
        first, places = row
        joined = matmul_float32(first, first_kernel) + bias
        for source, (above, below, down), (left, right, across) in zip(maps, places, columns, strict=True):
            line = source[:, above] * (1 - down) + source[:, below] * down
            joined += line[:, left] * (1 - across[:, None]) + line[:, right] * across[:, None]
        return matmul_float32(jax.nn.relu(joined).astype(first.dtype), classify_kernel)

    places = [tuple(jnp.asarray(x) for x in _bilinear(m.shape[1], height)) for m in maps]
    return jnp.moveaxis(jax.lax.map(one, (jnp.moveaxis(first, 1, 0), places)), 0, 1)


def matmul_float32(one: Array, two: Array) -> Array:
    """A matrix product that sums, and stays, in float32 (float64 for float64)."""
    return jnp.matmul(one, two, preferred_element_type=jnp.promote_types(one.dtype, jnp.float32))


def _bilinear(size: Any, wanted: Any) -> tuple[Any, Any, Any]:
    """Where `wanted` half-pixel centres lie among `size`: the neighbour below, the one above, and the latter's share.

    In whole numbers up to the last division, so that it is exact too where sizes are symbols, in an exported program.
    """
    xp = np if isinstance(size, int) and isinstance(wanted, int) else jnp
    # Twice `wanted` times the centre, (i + 0.5) * size / wanted - 0.5, kept within the line.
    centre = ((2 * xp.arange(wanted) + 1) * size - wanted).clip(0, 2 * wanted * (size - 1))
    low = (centre // (2 * wanted)).astype(np.int32)
    share = (centre - 2 * wanted * low).astype(np.float32) / xp.asarray(2 * wanted).astype(np.float32)
    return low, xp.minimum(low + 1, size - 1), share


def resize_bilinear(x: Float[Array, "batch _ _ channel"], size: tuple[Any, Any]) -> Float[Array, "batch _ _ channel"]:
    """Bilinear resize, half-pixel centres, no antialias."""
    if x.shape[1:3] == tuple(size):
        return x
    if not all(isinstance(side, int) for side in (*x.shape, *size)):  # symbols, in an exported program
        return _resize_by_products(x, size)
    return _resize_static(x, size)


def _resize_by_products(x: Array, size: tuple[Any, Any]) -> Array:
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), method="bilinear", antialias=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _resize_static(x: Array, size: tuple[int, int]) -> Array:
    """On a GPU each pixel from its four neighbours, one kernel; elsewhere as two matrix products, and so is the gradient."""
    products = functools.partial(_resize_by_products, size=size)
    return jax.lax.platform_dependent(x, cuda=functools.partial(_resize_by_neighbours, size=size), default=products)


def _resize_by_neighbours(x: Array, size: tuple[int, int]) -> Array:
    for axis, wanted in enumerate(size, start=1):
        low, high, share = _bilinear(x.shape[axis], wanted)
        share = jnp.asarray(share.reshape(-1, *[1] * (3 - axis)), x.dtype)
        x = jnp.take(x, low, axis) * (1 - share) + jnp.take(x, high, axis) * share
    return x


def _resize_forward(x: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    return _resize_static(x, size), x


def _resize_backward(size: tuple[int, int], x: Array, gradient: Array) -> tuple[Array]:
    return jax.linear_transpose(functools.partial(_resize_by_products, size=size), x)(gradient)


_resize_static.defvjp(_resize_forward, _resize_backward)


def sum_resized(
    maps: tuple[Float[Array, "batch _rows _columns channel"], ...], size: tuple[Any, Any]
) -> Float[Array, "batch height width channel"]:
    """The sum of `maps`, each resized to `size`: bilinear, half-pixel centres, no antialias."""
    if not all(isinstance(side, int) for m in maps for side in (*m.shape, *size)):
        return _sum_by_products(maps, size)
    return _sum_static(maps, size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _sum_static(maps: tuple[Array, ...], size: tuple[int, int]) -> Array:
    """On a GPU from neighbours, in float32, within the kernel that goes on with the sum: products would write each map at full
    width before. Elsewhere, and in the gradient, as products.
    """

    def by_neighbours(*maps: Array) -> Array:
        wide = jnp.promote_types(maps[0].dtype, jnp.float32)
        return sum(_resize_by_neighbours(m.astype(wide), size) for m in maps).astype(maps[0].dtype)

    return jax.lax.platform_dependent(*maps, cuda=by_neighbours, default=lambda *maps: _sum_by_products(maps, size))


def _sum_forward(maps: tuple[Array, ...], size: tuple[int, int]) -> tuple[Array, tuple[Array, ...]]:
    return _sum_static(maps, size), maps


def _sum_backward(size: tuple[int, int], maps: tuple[Array, ...], gradient: Array) -> tuple[tuple[Array, ...]]:
    return jax.linear_transpose(functools.partial(_sum_by_products, size=size), maps)(gradient)


_sum_static.defvjp(_sum_forward, _sum_backward)


def _sum_by_products(maps: tuple[Array, ...], size: tuple[Any, Any]) -> Array:
    """A resize is a matrix of rows times the map times a matrix of columns. With the columns first, all maps share one product
    of rows, which sums them, and nothing is turned, forward or backward.
    """
    batch, _, _, channels = maps[0].shape
    height, width = size
    wide = []
    for m in maps:
        columns = jnp.asarray(_bilinear_matrix(m.shape[2], width), m.dtype)
        wide.append(jnp.matmul(jnp.broadcast_to(columns, (*m.shape[:2], *columns.shape)), m))
    rows = jnp.concatenate([jnp.asarray(_bilinear_matrix(m.shape[1], height), m.dtype) for m in maps], axis=1)
    stacked = jnp.concatenate(wide, axis=1).reshape(batch, -1, width * channels)
    rows = jnp.broadcast_to(rows, (batch, *rows.shape))
    return jnp.matmul(rows, stacked).reshape(batch, height, width, channels)


def _bilinear_matrix(size: Any, wanted: Any) -> Any:
    """The float32 matrix [wanted, size] that resizes a line of `size` pixels."""
    low, high, share = (x[:, None] for x in _bilinear(size, wanted))
    xp = np if isinstance(size, int) and isinstance(wanted, int) else jnp
    places = xp.arange(size)
    return ((places == low) * (1 - share) + (places == high) * share).astype(np.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*batch channel"], scale: Float[Array, " channel"], bias: Float[Array, " channel"], epsilon: float
) -> Float[Array, "*batch channel"]:
    """Each pixel's channels to mean 0 and variance 1, times scale, plus bias; statistics in float32. Source: Ba et al. 2016.

    With its gradient written out: what JAX derives compiles to more kernels, and there are 160 such norms.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, tuple[Array, ...]]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = wide.mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(wide - mean).mean(axis=-1, keepdims=True) + epsilon)
    return ((wide - mean) * inverse * scale + bias).astype(x.dtype), (x, scale, mean, inverse)


def _layer_norm_backward(epsilon: float, residuals: tuple[Array, ...], gradient: Array) -> tuple[Array, Array, Array]:
    del epsilon
    x, scale, mean, inverse = residuals
    wide = gradient.astype(mean.dtype)
    normed = (x.astype(mean.dtype) - mean) * inverse
    scaled = wide * scale
    along = (scaled * normed).mean(axis=-1, keepdims=True)
    by_x = inverse * (scaled - scaled.mean(axis=-1, keepdims=True) - normed * along)
    return by_x.astype(x.dtype), *sums_over_pixels(wide * normed, wide)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.custom_vjp
def scale_and_shift(
    x: Float[Array, "batch *pixels channel"], factor: Float[Array, " channel"], offset: Float[Array, " channel"]
) -> Float[Array, "batch *pixels channel"]:
    """Each channel times its factor, plus its offset, in the type of `x`; gradients of the two are summed in theirs."""
    return x * factor.astype(x.dtype) + offset.astype(x.dtype)


def _scale_forward(x: Array, factor: Array, offset: Array) -> tuple[Array, tuple[Array, Array]]:
    return scale_and_shift(x, factor, offset), (x, factor)


def _scale_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array, Array]:
    x, factor = residuals
    wide, pixels = gradient.astype(factor.dtype), tuple(range(x.ndim - 1))
    by_factor = (wide * x.astype(factor.dtype)).sum(axis=pixels)
    return gradient * factor.astype(gradient.dtype), by_factor, wide.sum(axis=pixels)


scale_and_shift.defvjp(_scale_forward, _scale_backward)
