"""Dynamic World's network on a CPU: a few rows at a time, so that its maps stay in the processor's cache.

Enters: weights of `dynamic_world.for_inference`, by the name of the layer, and scaled tiles of even height and width. Leaves: what
`dynamic_world.apply` computes otherwise, with other roundings, in less than half of the time.

A depthwise convolution needs the row below. So each one is a row late, and keeps the last two rows that it was given for the next
turn; whatever joins a late map waits as long. Example of three rows a turn, and one convolution:

    turn 1    given rows 0 1 2,    made rows -1 0 1,    kept rows 1 2
    turn 2    given rows 3 4 5,    made rows 2 3 4,     kept rows 4 5

Rows beyond the tile are zeros wherever a convolution reads them, as around the whole.

The features of a pixel are a mixture of those of four neighbours, c, and its length follows from the products of neighbours:
|sum w c|^2 = sum w w' <c, c'>. So the features, of 144 channels, are not resized, but their nine logits and five products.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from specsar_jax.network.layers import mish

Layers = dict[str, dict[str, Any]]

_PIXELS = 2048
"""Of half resolution, in a turn: a map of 144 channels has 1.2 MB then. Matrix products are half as fast again as of whole maps."""

_LATE = 10
"""Rows of delay: three of each block, and one of the products of neighbours."""

_AT_A_TIME = 16
"""Channels of a product that are added up as one vector."""


def logits(layers: Layers, x: Array) -> Array:
    """Returns float32 logits [batch, height, width, class] of tiles [batch, height, width, band] of even height and width."""
    half = _halved_stem(layers["stem"], x)
    scores, products = _blocks(layers, half)
    return _doubled(scores, products, layers["classify"]["bias"])


def _rows_of_a_turn(batch: int, width: int) -> int:
    return min(max(_PIXELS // (batch * width), 4), 32)


def _halved_stem(stem: dict[str, Any], x: Array) -> Array:
    """The first layer, halved by the weights 1 3 3 1 / 8, of which those beyond the edge are left out and the others enlarged."""
    batch, height, width, _ = x.shape
    rows = max(_rows_of_a_turn(batch, width // 2) // 2, 4)
    turns = -(-height // (2 * rows))
    padded = jnp.pad(x, ((0, 0), (2, 2 + 2 * rows * turns - height), (0, 0), (0, 0)))
    numbers = ("NHWC", "HWIO", "NHWC")

    def turn(number: Array) -> Array:
        first = 2 * rows * number
        band = jax.lax.dynamic_slice_in_dim(padded, first, 2 * rows + 4, 1)
        y = jax.lax.conv_general_dilated(
            band, stem["kernel"].astype(x.dtype), (1, 1), ((0, 0), (1, 1)), dimension_numbers=numbers
        )
        y = mish(_made(y) + stem["bias"].astype(x.dtype)) * _inside(first - 1, 2 * rows + 2, height, x.dtype)
        y = _made(jnp.pad(y, ((0, 0), (0, 0), (1, 1), (0, 0))))
        y = _made(0.125 * (y[:, 0:-3:2] + y[:, 3::2]) + 0.375 * (y[:, 1:-2:2] + y[:, 2:-1:2]))
        y = 0.125 * (y[:, :, 0:-3:2] + y[:, :, 3::2]) + 0.375 * (y[:, :, 1:-2:2] + y[:, :, 2:-1:2])
        here = rows * number + jnp.arange(rows)
        at_edge = (here == 0) | (here == height // 2 - 1)
        return y * jnp.where(at_edge, 8 / 7, 1.0).astype(x.dtype)[:, None, None] * _at_ends(width // 2, x.dtype)

    return _joined(jax.lax.map(turn, jnp.arange(turns)), height // 2)


def _blocks(layers: Layers, half: Array) -> tuple[Array, tuple[Array, ...]]:
    """Scores of the classes [batch, row, column, class] without bias, and the products of neighbours' features [batch, row, column]:
    of each with itself, with the right one, with the lower one, with the lower right one, and of the right with the lower one.
    """
    batch, height, width, channels = half.shape
    rows = _rows_of_a_turn(batch, width)
    turns = -(-(height + _LATE) // rows)
    given = jnp.pad(half, ((0, 0), (0, turns * rows - height), (0, 0), (0, 0)))
    given = given.reshape(batch, turns, rows, width, channels).swapaxes(0, 1)

    def turn(kept: dict[str, Array], given: tuple[Array, Array]) -> tuple[dict[str, Array], Any]:
        number, half = given
        keep: dict[str, Array] = {}

        def with_kept(name: str, x: Array) -> Array:
            both = jnp.concatenate([kept[name], x], axis=1)
            keep[name] = both[:, rows:]
            return both

        def late(name: str, x: Array) -> Array:
            return with_kept(name, x)[:, :rows]

        def point(name: str, x: Array) -> Array:
            return mish(x @ layers[name]["kernel"].astype(x.dtype) + layers[name]["bias"].astype(x.dtype))

        def depth(name: str, x: Array, first: Array) -> Array:
            kernel, bias = (layers[name][of].astype(x.dtype) for of in ("kernel", "bias"))
            x = jnp.pad(x * _inside(first, rows, height, x.dtype), ((0, 0), (0, 0), (1, 1), (0, 0)))
            x = _made(with_kept(name, x))
            shifted = (x[:, i : i + rows, j : j + width] * kernel[i, j] for i in range(3) for j in range(3))
            return mish(_made(sum(shifted)) + bias)

        def block(name: str, x: Array, first: Array) -> Array:
            deep = x
            for pair in (1, 2, 3):
                deep = depth(f"{name}.depth{pair}", point(f"{name}.point{pair}", deep), first - pair + 1)
            return _made(deep + point(f"{name}.skip", late(f"{name}.skip", x)))

        first = rows * number
        deep = block("block2", block("block1", half, first), first - 3)
        low = late("low", depth("low.depth", point("low.point", half), first))
        deep = block("block3", _made(jnp.concatenate([deep, low], axis=-1)), first - 6)
        features = _made(with_kept("end", deep).astype(jnp.float32))
        return keep, _scores_and_products(features, layers["classify"]["kernel"].astype(jnp.float32))

    _, made = jax.lax.scan(turn, _nothing_kept(layers, half), (jnp.arange(turns), given))
    scores, *products = (_joined(each, height, _LATE) for each in made)
    return scores, tuple(products)


def _nothing_kept(layers: Layers, half: Array) -> dict[str, Array]:
    """What each layer keeps from turn to turn, of no rows yet: zeros."""
    batch, _, width, _ = half.shape
    kept = {}
    for name, layer in layers.items():
        channels = layer["kernel"].shape
        if len(channels) == 3:
            kept[name] = (2, width + 2, channels[-1])
        elif name.endswith("skip"):
            kept[name] = (3, width, channels[0])
    kept |= {"low": (5, width, layers["low.depth"]["kernel"].shape[-1])}
    kept |= {"end": (1, width, layers["classify"]["kernel"].shape[0])}
    return {name: jnp.zeros((batch, *shape), half.dtype) for name, shape in kept.items()}


def _scores_and_products(features: Array, kernel: Array) -> tuple[Array, ...]:
    """Of all rows but the last, which has no lower neighbour; products beyond the last column are 0."""
    upper, lower = features[:, :-1], features[:, 1:]

    def product(one: Array, two: Array) -> Array:
        both = one * two
        # Vectors first: XLA adds up along the last axis one by one.
        parts = (both[..., i : i + _AT_A_TIME] for i in range(0, both.shape[-1], _AT_A_TIME))
        summed = _made(sum(parts)).sum(axis=-1)
        return jnp.pad(summed, ((0, 0), (0, 0), (0, upper.shape[2] - summed.shape[2])))

    left, right = np.s_[:, :, :-1], np.s_[:, :, 1:]
    return (
        upper @ kernel,
        product(upper, upper),
        product(upper[left], upper[right]),
        product(upper, lower),
        product(upper[left], lower[right]),
        product(upper[right], lower[left]),
    )


def _doubled(scores: Array, products: tuple[Array, ...], bias: Array) -> Array:
    """Logits at twice the resolution, from each pixel and its neighbours in the four directions, 9 3 3 1 / 16.

    Beyond the edge the nearest pixel stands: products of two like these are the products with themselves.
    """
    batch, height, width, classes = scores.shape
    own, right, lower, falling, rising = products
    right, lower = right[:, :, :-1], lower[:, :-1]
    falling, rising = falling[:, :-1, :-1], rising[:, :-1, :-1]

    # After this, place 1 + i is of the pair that begins at pixel i.
    ends = right[:, :1], right[:, -1:]
    sides = lower[:, :, :1], lower[:, :, -1:]
    right = jnp.concatenate([own[:, :, :1], right, own[:, :, -1:]], axis=2)
    right = _made(jnp.pad(right, ((0, 0), (1, 1), (0, 0)), mode="edge"))
    lower = jnp.concatenate([own[:, :1], lower, own[:, -1:]], axis=1)
    lower = _made(jnp.pad(lower, ((0, 0), (0, 0), (1, 1)), mode="edge"))
    corner = own[:, :1, :1], own[:, :1, -1:], own[:, -1:, :1], own[:, -1:, -1:]
    tops = jnp.concatenate([corner[0], ends[0], corner[1]], axis=2)
    bottoms = jnp.concatenate([corner[2], ends[1], corner[3]], axis=2)

    def cells(x: Array) -> Array:
        x = jnp.concatenate([sides[0], x, sides[1]], axis=2)
        return _made(jnp.concatenate([tops, x, bottoms], axis=1))

    falling, rising = cells(falling), cells(rising)
    own = _made(jnp.pad(own, ((0, 0), (1, 1), (1, 1)), mode="edge"))
    scores = _made(jnp.pad(jnp.moveaxis(scores, -1, 0), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge"))

    def at(x: Array, row: int, column: int) -> Array:
        return x[..., 1 + row : 1 + row + height, 1 + column : 1 + column + width]

    lines = []
    for i in (-1, 1):
        pixels = []
        for j in (-1, 1):
            top, left = min(i, 0), min(j, 0)
            score = (9 * at(scores, 0, 0) + 3 * at(scores, i, 0) + 3 * at(scores, 0, j) + at(scores, i, j)) / 16
            across, beside = (
                at(falling, top, left),
                at(rising, top, left),
            )  # of this pixel with the farthest; of the other two
            if i != j:
                across, beside = beside, across
            squares = 81 * at(own, 0, 0) + 9 * at(own, i, 0) + 9 * at(own, 0, j) + at(own, i, j)
            mixed = 27 * (at(right, 0, left) + at(lower, top, 0)) + 9 * (across + beside)
            mixed += 3 * (at(right, i, left) + at(lower, top, j))
            length = jax.lax.rsqrt(jnp.maximum((squares + 2 * mixed) / 256, 1e-12))
            pixels.append(_made(score * _made(length) + bias[:, None, None, None]))
        lines.append(jnp.stack(pixels, axis=-1))
    doubled = jnp.stack(lines, axis=3)  # class, batch, row, 2, column, 2
    return doubled.transpose(1, 2, 3, 4, 5, 0).reshape(batch, 2 * height, 2 * width, classes)


def _joined(turns: Array, height: int, late: int = 0) -> Array:
    """Maps of all turns [turn, batch, row, column, ...] as one, of `height` rows, the first `late` of which left out."""
    whole = jnp.moveaxis(turns, 0, 1).reshape(turns.shape[1], -1, *turns.shape[3:])
    return whole[:, late : late + height]


def _inside(first: Any, rows: int, height: int, dtype: Any) -> Array:
    """1 for each of `rows` rows from `first` on that is one of the tile, else 0; [row, 1, 1]."""
    here = first + jnp.arange(rows)
    return ((here >= 0) & (here < height)).astype(dtype)[:, None, None]


def _at_ends(width: int, dtype: Any) -> Array:
    """8 / 7 for the first and the last column, else 1; [column, 1]."""
    factor = np.ones((width, 1), np.float32)
    factor[[0, -1]] = 8 / 7
    return jnp.asarray(factor, dtype)


def _made(x: Array) -> Array:
    """Keeps XLA from joining what makes `x` with what reads it: it would be computed anew for each of nine neighbours."""
    return jax.lax.optimization_barrier(x)
