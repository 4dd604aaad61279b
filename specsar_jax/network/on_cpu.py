"""Forms for a CPU, in a forward pass alone, of what takes most of its time there: attention and Mix-FFN, each with its dense layers.

Enters: maps [batch, row, column, channel] of float32 and the weights of the layers. Leaves: what the textbook order in `layers.py`
gives, but for rounding. They save passes over large maps, and keep what they must write in the processor's cache.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Weights = tuple[Array, Array]
"""Kernel and bias."""

BAND_BYTES = 2**22
"""Of a band of Mix-FFN's wide map. It lives in the cache between three passes, and programs whose memory stays under 32 MB, for all
they hold at once, get it back from one call to the next: above, glibc asks the system for new pages each time, 80 MB a tile."""

SMALL_MAP = 2**11
"""Pixels. The border of a smaller map is so long that padding it while it is narrow costs more than it saves."""

PIXELS_AT_ONCE = 2**18
"""Of the tiles that go through the network together. The memory of two tiles of 510 pixels is new pages in each call: a third more time."""


def some_at_once(
    forward: Callable[[Any], Float[Array, "_ height width class"]], tiles: Any
) -> Float[Array, "batch height width class"]:
    """`forward(tiles)`, of as many tiles at once as are fast, one group after the other; of all where devices share them.

    Args:
        forward: function of tiles, independent of each other.
        tiles: a tree of arrays [batch, height, width, channel].
    """
    batch, height, width, _ = jax.tree.leaves(tiles)[0].shape
    if not all(isinstance(size, int) for size in (batch, height, width)) or jax.sharding.get_abstract_mesh().size > 1:
        return forward(tiles)
    most = max(PIXELS_AT_ONCE // (height * width), 1)
    at_once = next((count for count in range(min(batch, most), 0, -1) if batch % count == 0), batch)
    if at_once == batch:
        return forward(tiles)
    grouped = jax.tree.map(lambda x: x.reshape(-1, at_once, *x.shape[1:]), tiles)
    computed = jax.lax.map(forward, grouped)
    return computed.reshape(batch, *computed.shape[2:])


def attend(
    query: Float[Array, "batch height width channel"],
    key_value: Float[Array, "batch *keys two_channel"],
    into: Weights,
    out: Weights,
    heads: int,
) -> Float[Array, "batch height width channel"]:
    """Multi-head attention with the dense layers of its queries, `into`, and of its result, `out`.

    The scale goes to the keys, which are few. A single head needs no dense layers on its maps: the keys are multiplied by the one, the
    values by the other.

    Args:
        query: map that the queries are made of.
        key_value: channels of the keys, then of the values, those of a head side by side.
        into: [channel, channel] and [channel].
        out: likewise.
        heads: number of heads; they share the channels evenly.
    """
    batch, channels = query.shape[0], query.shape[-1]
    width = channels // heads

    def split(x: Array) -> Array:
        return jnp.swapaxes(x.reshape(batch, -1, heads, width), 1, 2)

    keys, values = jnp.split(key_value.reshape(batch, -1, 2 * channels), 2, axis=-1)
    keys, values = jnp.swapaxes(split(keys * np.float32(width**-0.5)), 2, 3), split(values)
    if heads == 1:
        logits = split(query) @ (into[0] @ keys) + (into[1] @ keys)[..., None, :]
        values = values @ out[0]
    else:
        logits = split(query @ into[0] + into[1]) @ keys
    weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    attended = (weights @ values) / weights.sum(axis=-1, keepdims=True)
    attended = jnp.swapaxes(attended, 1, 2).reshape(query.shape)
    return (attended if heads == 1 else attended @ out[0]) + out[1]


def mix_ffn(
    x: Float[Array, "batch height width channel"], expand: Weights, depthwise: Weights, project: Weights
) -> Float[Array, "batch height width channel"]:
    """Mix-FFN: dense layer, depthwise 3x3 convolution, GELU, dense layer; some rows at a time if the map between is large.

    A large map is padded while it is narrow. A channel that is 1 inside and 0 in the padding carries the bias of the first layer, so
    that its result is 0 in the padding, as the convolution wants it.

    Args:
        x: map.
        expand: [channel, wide] and [wide].
        depthwise: [3, 3, wide] and [wide].
        project: [wide, channel] and [channel].
    """
    batch, height, width, _ = x.shape
    size = batch * height * width * expand[0].shape[1] * x.dtype.itemsize
    bands = min(max(size // BAND_BYTES, 1), height)
    rows = -(-height // bands)
    padding = ((0, 0), (1, 1 + bands * rows - height), (1, 1), (0, 0))

    def mixed(hidden: Array) -> Array:
        shifts = np.ndindex(3, 3)
        y = sum(
            hidden[:, row : row + rows, column : column + width] * depthwise[0][row, column] for row, column in shifts
        )
        y += depthwise[1]
        # Below -6 this is 0 anyway, in float32. Without the choice XLA may make the convolution part of what follows, by a library that
        # does not know shifted maps: it would write nine of them first.
        y = jnp.where(y < -6, 0, 0.5 * y * (1 + jax.lax.erf(y * np.float32(0.5**0.5))))
        return y @ project[0] + project[1]

    if bands == 1 and height * width < SMALL_MAP:
        return mixed(jnp.pad(x @ expand[0] + expand[1], padding))
    padded = jnp.pad(jnp.concatenate([x, jnp.ones((batch, height, width, 1), x.dtype)], axis=-1), padding)
    kernel = jnp.concatenate([expand[0], expand[1][None]])
    if bands == 1:
        return mixed(padded @ kernel)

    def band(first: Array) -> Array:
        return mixed(jax.lax.dynamic_slice_in_dim(padded, first, rows + 2, axis=1) @ kernel)

    joined = jnp.moveaxis(jax.lax.map(band, rows * jnp.arange(bands)), 0, 1)
    return joined.reshape(batch, bands * rows, width, -1)[:, :height]
