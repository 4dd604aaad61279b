"""Bilinear resizing of maps, and the decoder's steps that join maps of several sizes.

Enters: maps [batch, row, column, channel] and the size wanted. Leaves: maps of that size, with half-pixel centres and
no antialias, from the form that suits the hardware; `layers.py` says how it is chosen.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from specsar_jax.network.layers import matmul_float32


def resize_bilinear(x: Float[Array, "batch _ _ channel"], size: tuple[Any, Any]) -> Float[Array, "batch _ _ channel"]:
    """`x` resized to `size` (rows, columns)."""
    if x.shape[1:3] == tuple(size):
        return x
    if not all(isinstance(side, int) for side in (*x.shape, *size)):  # symbols, in an exported program
        return _resize_by_products(x, size)
    return _resize_static(x, size)


def _resize_by_products(x: Array, size: tuple[Any, Any]) -> Array:
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), method="bilinear", antialias=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _resize_static(x: Array, size: tuple[int, int]) -> Array:
    """On a GPU from the four neighbours of each pixel, in one kernel; elsewhere, and in the gradient, as two products."""
    products = functools.partial(_resize_by_products, size=size)
    return jax.lax.platform_dependent(x, cuda=functools.partial(_resize_by_neighbours, size=size), default=products)


def _resize_by_neighbours(x: Array, size: tuple[int, int]) -> Array:
    for axis, wanted in enumerate(size, start=1):
        low, high, share = _neighbours(x.shape[axis], wanted)
        share = jnp.asarray(share.reshape(-1, *[1] * (3 - axis)), x.dtype)
        x = jnp.take(x, low, axis) * (1 - share) + jnp.take(x, high, axis) * share
    return x


def _resize_forward(x: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    return _resize_static(x, size), x


def _resize_backward(size: tuple[int, int], x: Array, gradient: Array) -> tuple[Array]:
    return jax.linear_transpose(functools.partial(_resize_by_products, size=size), x)(gradient)


_resize_static.defvjp(_resize_forward, _resize_backward)


def _neighbours(size: Any, wanted: Any) -> tuple[Any, Any, Any]:
    """For each of `wanted` pixels on a line of `size`: its lower and its upper neighbour, and the share of the upper one.

    Computed in whole numbers up to the last division, so that it stays exact where sizes are symbols, in an exported
    program.
    """
    xp = np if isinstance(size, int) and isinstance(wanted, int) else jnp
    # The pixel centre (i + 0.5) * size / wanted - 0.5, clipped to the line, in units of 1 / (2 * wanted).
    centre = ((2 * xp.arange(wanted) + 1) * size - wanted).clip(0, 2 * wanted * (size - 1))
    low = (centre // (2 * wanted)).astype(np.int32)
    share = (centre - 2 * wanted * low).astype(np.float32) / xp.asarray(2 * wanted).astype(np.float32)
    return low, xp.minimum(low + 1, size - 1), share


def sum_resized(
    maps: tuple[Float[Array, "batch _rows _columns channel"], ...], size: tuple[Any, Any]
) -> Float[Array, "batch height width channel"]:
    """The sum of `maps`, each resized to `size` (rows, columns)."""
    if not all(isinstance(side, int) for m in maps for side in (*m.shape, *size)):
        return _sum_by_products(maps, size)
    return _sum_static(maps, size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _sum_static(maps: tuple[Array, ...], size: tuple[int, int]) -> Array:
    """The resized sum for sizes that are numbers.

    On a GPU from neighbours, in float32, inside the kernel that uses the sum; matrix products would first write each
    map at full width. Elsewhere, and in the gradient, as matrix products.
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
    """The resized sum as matrix products: a matrix of rows times the map times a matrix of columns.

    With the columns first, all maps share one product of rows, which also sums them, and nothing has to be transposed.
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
    low, high, share = (x[:, None] for x in _neighbours(size, wanted))
    xp = np if isinstance(size, int) and isinstance(wanted, int) else jnp
    places = xp.arange(size)
    return ((places == low) * (1 - share) + (places == high) * share).astype(np.float32)


def join_and_classify(
    first: Float[Array, "batch height width first_channel"],
    first_kernel: Float[Array, "first_channel channel"],
    maps: tuple[Float[Array, "batch _rows _columns channel"], ...],
    bias: Float[Array, " channel"],
    classify_kernel: Float[Array, "channel class"],
) -> Float[Array, "batch height width class"]:
    """relu(first x first_kernel + the sum of `maps`, each resized to the size of `first`, + bias) x classify_kernel.

    The result is float32. On a CPU it is computed row by row, so that the joined map, 50 MB for a tile of 510 pixels,
    is never written to memory.
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
    columns = [_neighbours(m.shape[2], width) for m in maps]

    def join_row(row: tuple[Array, list[tuple[Array, Array, Array]]]) -> Array:
        first, places = row
        joined = matmul_float32(first, first_kernel) + bias
        for source, (above, below, down), (left, right, across) in zip(maps, places, columns, strict=True):
            line = source[:, above] * (1 - down) + source[:, below] * down
            joined += line[:, left] * (1 - across[:, None]) + line[:, right] * across[:, None]
        return matmul_float32(jax.nn.relu(joined).astype(first.dtype), classify_kernel)

    places = [tuple(jnp.asarray(x) for x in _neighbours(m.shape[1], height)) for m in maps]
    return jnp.moveaxis(jax.lax.map(join_row, (jnp.moveaxis(first, 1, 0), places)), 0, 1)
