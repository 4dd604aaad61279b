"""Attention kernels for GPUs and TPUs, forward and backward, in Pallas. They never write the logits to main memory.

Enters: queries [batch, ..., channel], a map or patches of one; and keys and values side by side [batch, key, 2
channel]. The channels of the heads follow each other. Leaves: the result, in the shape of the queries.

XLA writes logits and weights [batch, head, query, key] to main memory and reads them again: half of what the network's
forward pass moved. There are few keys here (a hundredth of the pixels), so a kernel holds all it needs of them.

GPU: a program takes some queries of one head and goes through the keys block by block (Dao et al. 2022). The backward
pass is two kernels, one for the queries, one for keys and values. TPU: pixels lie along the lanes and channels along
the sublanes, so that sixteen channels of the SAR branch fill the registers. One kernel does the whole backward pass.
Softmax is always float32.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

GPU_QUERIES, GPU_KEYS, GPU_WARPS = 64, 64, 4
"""Of a program: logits of 64 queries and 64 keys stay in the registers of four warps."""

GPU_PROGRAMS = 256
"""Programs that sum the gradient of the keys: two for each multiprocessor of a large GPU. Queries are split accordingly."""

TPU_LOGITS = 2**18
"""Most logits of a block: 1 MB in float32, of the 16 MB for all maps of a kernel. Twice as many do not compile."""

MOST_KEYS = 2**12
"""Most keys of a kernel, as in windows of 2,048 pixels; with more, a block on a TPU would have too few queries."""


def supports(query: Any, key_value: Any, heads: int, platform: str) -> bool:
    """Whether the kernel of a platform ('cuda', 'tpu') supports arrays of these shapes and types."""
    sizes = (*query.shape, *key_value.shape)
    if not all(isinstance(size, int) for size in sizes):  # symbols, in an exported program
        return False
    if key_value.shape[1] > MOST_KEYS:
        return False
    channels_per_register = 32 // query.dtype.itemsize  # of a TPU
    return platform == "cuda" or (query.shape[-1] // heads) % channels_per_register == 0


def attend(
    query: Float[Array, "batch *pixels channel"],
    key_value: Float[Array, "batch key two_channel"],
    heads: int,
    platform: str,
    interpret: bool = False,
) -> Float[Array, "batch *pixels channel"]:
    """Multi-head attention as `layers.attend` defines it, with its gradient, by a kernel.

    Args:
        query: channels of all heads, one head after the other.
        key_value: channels of the keys, then of the values, in the same order.
        heads: number of heads; they share the channels evenly.
        platform: 'cuda' or 'tpu', which kernel to use.
        interpret: whether to run the kernel step by step in JAX, on any device, for tests.
    """
    # On a TPU, XLA lays whole rows of a map along the lanes; flattening them to one line would copy the map.
    rows = query.shape[1] if query.ndim == 4 and platform == "tpu" and query.shape[2] % 128 == 0 else 1
    lines = query.reshape(query.shape[0], rows, -1, query.shape[-1])
    return _attend(lines, key_value, heads, platform, interpret).reshape(query.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _attend(
    query: Float[Array, "batch line pixel channel"], key_value: Array, heads: int, platform: str, interpret: bool
) -> Float[Array, "batch line pixel channel"]:
    return _forward(query, key_value, heads, platform, interpret)[0]


def _forward(query: Array, key_value: Array, heads: int, platform: str, interpret: bool) -> tuple[Array, Array]:
    """The result, and the logarithm of the sum in each softmax, float32."""
    return {"cuda": _gpu_forward, "tpu": _tpu_forward}[platform](query, key_value, heads, interpret)


def _attend_forward(
    query: Array, key_value: Array, heads: int, platform: str, interpret: bool
) -> tuple[Array, tuple[Array, ...]]:
    attended, log_sum = _forward(query, key_value, heads, platform, interpret)
    return attended, (query, key_value, attended, log_sum)


def _attend_backward(
    heads: int, platform: str, interpret: bool, residuals: tuple[Array, ...], gradient: Array
) -> tuple[Array, Array]:
    backward = {"cuda": _gpu_backward, "tpu": _tpu_backward}[platform]
    return backward(*residuals, gradient, heads, interpret)


_attend.defvjp(_attend_forward, _attend_backward)


def _product(one: Array, two: Array, contract: tuple[int, int]) -> Array:
    """Matrix product over one axis of each operand, summed in float32."""
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(one, two, dimensions, preferred_element_type=jnp.float32)


def _cost(query: Array, key_value: Array, heads: int, products: int, moved: int) -> pl.CostEstimate:
    """Cost of a kernel, for XLA: `products` matrix products of the size of the logits, `moved` bytes in and out."""
    products_of = query.size * key_value.shape[1]
    logits = products_of // query.shape[-1] * heads
    return pl.CostEstimate(flops=products * 2 * products_of, transcendentals=logits, bytes_accessed=moved)


# GPU: blocks [query, channel] of one head; its width is padded to a power of two.


class _Head:
    """Loads and stores blocks of pixels of one head, for the program that computes it."""

    def __init__(self, batch: Any, head: Any, width: int) -> None:
        self.batch, self.head, self.width = batch, head, width
        self.padded = max(16, pl.next_power_of_2(width))

    def load(self, ref: Any, start: Any, count: int, first_channel: int = 0) -> Array:
        """Pixels from `start`, [count, padded]; 0 beyond the last one and beyond the head."""
        return plgpu.load(self._at(ref, start, count, first_channel), mask=self._mask(ref, start, count), other=0.0)

    def store(self, ref: Any, start: Any, values: Array, first_channel: int = 0) -> None:
        """The inverse of `load`."""
        count = values.shape[0]
        place = self._at(ref, start, count, first_channel)
        plgpu.store(place, values.astype(ref.dtype), mask=self._mask(ref, start, count))

    def _at(self, ref: Any, start: Any, count: int, first_channel: int) -> Any:
        channel = first_channel + self.head * self.width
        return ref.at[self.batch, pl.ds(start, count), pl.ds(channel, self.padded)]

    def _mask(self, ref: Any, start: Any, count: int) -> Array:
        rows, channels = start + jnp.arange(count), jnp.arange(self.padded)
        return (rows < ref.shape[1])[:, None] & (channels < self.width)[None, :]


def _gpu_call(kernel: Any, name: str, grid: tuple[int, ...], out_shape: Any, cost: Any, interpret: bool) -> Any:
    parameters = plgpu.CompilerParams(num_warps=GPU_WARPS, num_stages=2)
    return pl.pallas_call(
        kernel, grid=grid, out_shape=out_shape, compiler_params=parameters, cost_estimate=cost, interpret=interpret, name=name
    )  # fmt: skip


def _gpu_logits(query: Array, key: Array, start: Any, keys: int, scale: float) -> Array:
    """Logits of queries and a block of keys; minus infinity beyond the last key."""
    logits = _product(query, key, (1, 1)) * scale
    return jnp.where((start + jnp.arange(key.shape[0]) < keys)[None, :], logits, -jnp.inf)


def _gpu_forward(query: Array, key_value: Array, heads: int, interpret: bool) -> tuple[Array, Array]:
    query, shape = query[:, 0], query.shape
    batch, queries, channels = query.shape
    keys, width = key_value.shape[1], channels // heads
    scale = width**-0.5

    def kernel(query_ref: Any, key_value_ref: Any, out_ref: Any, log_sum_ref: Any) -> None:
        start = pl.program_id(0) * GPU_QUERIES
        head = _Head(pl.program_id(2), pl.program_id(1), width)
        query = head.load(query_ref, start, GPU_QUERIES)

        def add(block: Any, carried: tuple[Array, ...]) -> tuple[Array, ...]:
            attended, largest, total = carried
            first = block * GPU_KEYS
            logits = _gpu_logits(query, head.load(key_value_ref, first, GPU_KEYS), first, keys, scale)
            new = jnp.maximum(largest, logits.max(axis=1))
            weights, shrink = jnp.exp(logits - new[:, None]), jnp.exp(largest - new)
            value = head.load(key_value_ref, first, GPU_KEYS, channels)
            attended = attended * shrink[:, None] + _product(weights.astype(value.dtype), value, (1, 0))
            return attended, new, total * shrink + weights.sum(axis=1)

        begin = (
            jnp.zeros((GPU_QUERIES, head.padded), jnp.float32),
            jnp.full(GPU_QUERIES, -jnp.inf, jnp.float32),
            jnp.zeros(GPU_QUERIES, jnp.float32),
        )
        attended, largest, total = jax.lax.fori_loop(0, pl.cdiv(keys, GPU_KEYS), add, begin)
        head.store(out_ref, start, attended / total[:, None])
        rows = start + jnp.arange(GPU_QUERIES)
        place = log_sum_ref.at[pl.program_id(2), pl.program_id(1), pl.ds(start, GPU_QUERIES)]
        plgpu.store(place, largest + jnp.log(total), mask=rows < queries)

    out_shape = (
        jax.ShapeDtypeStruct(query.shape, query.dtype),
        jax.ShapeDtypeStruct((batch, heads, queries), jnp.float32),
    )
    cost = _cost(query, key_value, heads, 2, 2 * query.nbytes + key_value.nbytes)
    grid = (pl.cdiv(queries, GPU_QUERIES), heads, batch)
    attended, log_sum = _gpu_call(kernel, "attend", grid, out_shape, cost, interpret)(query, key_value)
    return attended.reshape(shape), log_sum


def _gpu_backward(
    query: Array, key_value: Array, attended: Array, log_sum: Array, gradient: Array, heads: int, interpret: bool
) -> tuple[Array, Array]:
    query, attended, gradient = (x[:, 0] for x in (query, attended, gradient))
    batch, queries, channels = query.shape
    keys, width = key_value.shape[1], channels // heads
    scale = width**-0.5
    blocks = pl.cdiv(queries, GPU_QUERIES)
    segments = min(max(GPU_PROGRAMS // (batch * heads * pl.cdiv(keys, GPU_KEYS)), 1), blocks)
    blocks_each = pl.cdiv(blocks, segments)

    def rows_of(log_sum_ref: Any, head: _Head, start: Any) -> Array:
        rows = start + jnp.arange(GPU_QUERIES)
        place = log_sum_ref.at[head.batch, head.head, pl.ds(start, GPU_QUERIES)]
        # Infinity makes all weights 0 beyond the last query.
        return plgpu.load(place, mask=rows < queries, other=jnp.inf)

    def by_query(
        query_ref: Any, kv_ref: Any, out_ref: Any, log_sum_ref: Any, gradient_ref: Any, d_query_ref: Any
    ) -> None:
        start = pl.program_id(0) * GPU_QUERIES
        head = _Head(pl.program_id(2), pl.program_id(1), width)
        query, gradient, attended = (head.load(ref, start, GPU_QUERIES) for ref in (query_ref, gradient_ref, out_ref))
        along = (gradient.astype(jnp.float32) * attended.astype(jnp.float32)).sum(axis=1)
        log_sum = rows_of(log_sum_ref, head, start)

        def add(block: Any, d_query: Array) -> Array:
            first = block * GPU_KEYS
            key, value = (head.load(kv_ref, first, GPU_KEYS, channel) for channel in (0, channels))
            weights = jnp.exp(_gpu_logits(query, key, first, keys, scale) - log_sum[:, None])
            d_logits = weights * (_product(gradient, value, (1, 1)) - along[:, None]) * scale
            return d_query + _product(d_logits.astype(key.dtype), key, (1, 0))

        begin = jnp.zeros((GPU_QUERIES, head.padded), jnp.float32)
        head.store(d_query_ref, start, jax.lax.fori_loop(0, pl.cdiv(keys, GPU_KEYS), add, begin))

    def by_key(query_ref: Any, kv_ref: Any, out_ref: Any, log_sum_ref: Any, gradient_ref: Any, d_kv_ref: Any) -> None:
        segment, first = pl.program_id(0) % segments, pl.program_id(0) // segments * GPU_KEYS
        head = _Head(pl.program_id(2), pl.program_id(1), width)
        key, value = (head.load(kv_ref, first, GPU_KEYS, channel) for channel in (0, channels))

        def add(block: Any, carried: tuple[Array, Array]) -> tuple[Array, Array]:
            d_key, d_value = carried
            start = (segment * blocks_each + block) * GPU_QUERIES
            query, gradient, attended = (
                head.load(ref, start, GPU_QUERIES) for ref in (query_ref, gradient_ref, out_ref)
            )
            along = (gradient.astype(jnp.float32) * attended.astype(jnp.float32)).sum(axis=1)
            weights = jnp.exp(_gpu_logits(query, key, first, keys, scale) - rows_of(log_sum_ref, head, start)[:, None])
            d_value += _product(weights.astype(gradient.dtype), gradient, (0, 0))
            d_logits = weights * (_product(gradient, value, (1, 1)) - along[:, None]) * scale
            return d_key + _product(d_logits.astype(query.dtype), query, (0, 0)), d_value

        begin = jnp.zeros((GPU_KEYS, head.padded), jnp.float32)
        d_key, d_value = jax.lax.fori_loop(0, blocks_each, add, (begin, begin))
        of_batch = _Head(segment * batch + head.batch, head.head, width)
        of_batch.store(d_kv_ref, first, d_key)
        of_batch.store(d_kv_ref, first, d_value, channels)

    arguments = (query, key_value, attended, log_sum, gradient)
    moved = 4 * query.nbytes + key_value.nbytes
    d_query = _gpu_call(
        by_query, "attend_by_query", (blocks, heads, batch), jax.ShapeDtypeStruct(query.shape, query.dtype),
        _cost(query, key_value, heads, 3, moved), interpret,
    )(*arguments)  # fmt: skip
    d_key_value = _gpu_call(
        by_key, "attend_by_key", (segments * pl.cdiv(keys, GPU_KEYS), heads, batch),
        jax.ShapeDtypeStruct((segments * batch, keys, 2 * channels), jnp.float32),
        _cost(query, key_value, heads, 4, moved), interpret,
    )(*arguments)  # fmt: skip
    return d_query[:, None], d_key_value.reshape(segments, *key_value.shape).sum(axis=0).astype(key_value.dtype)


# TPU: blocks [line, channel, pixel] of all heads.


def _tpu_block(query: Array, key_value: Array) -> tuple[int, int]:
    """Lines of a block, and pixels of a line: several whole lines, or a multiple of the 128 lanes of one line, or all of it."""
    _, lines, pixels, _ = query.shape
    most = max(TPU_LOGITS // key_value.shape[1] // 128, 1) * 128
    if lines > 1 and pixels <= most:
        return min(most // pixels, lines, 16), pixels
    return 1, min(most, 2048, pixels)


def _tpu_call(
    kernel: Any,
    name: str,
    query: Array,
    key_value: Array,
    heads: int,
    kinds: tuple[str, str],
    types: Any,
    cost: Any,
    interpret: bool,
) -> Any:
    """Calls a kernel over blocks of queries.

    `kinds` has a letter for each argument and for each result: 'q' for queries [batch, line, channel, pixel], 'k' for
    keys and values [batch, 2 channel, key], 's' for the logarithms of the softmax sums [batch, line, head, pixel].
    """
    batch, lines, pixels, channels = query.shape
    keys = key_value.shape[1]
    lines_each, pixels_each = _tpu_block(query, key_value)
    shapes = {"q": (lines, channels, pixels), "k": (2 * channels, keys), "s": (lines, heads, pixels)}
    blocks = {
        "q": pl.BlockSpec((None, lines_each, channels, pixels_each), lambda b, i, j: (b, i, 0, j)),
        "k": pl.BlockSpec((None, 2 * channels, keys), lambda b, i, j: (b, 0, 0)),
        "s": pl.BlockSpec((None, lines_each, heads, pixels_each), lambda b, i, j: (b, i, 0, j)),
    }
    return pl.pallas_call(
        kernel,
        grid=(batch, pl.cdiv(lines, lines_each), pl.cdiv(pixels, pixels_each)),
        in_specs=[blocks[kind] for kind in kinds[0]],
        out_specs=[blocks[kind] for kind in kinds[1]],
        out_shape=[jax.ShapeDtypeStruct((batch, *shapes[kind]), of) for kind, of in zip(kinds[1], types, strict=True)],
        # Blocks of one tile run one after the other, because they add to the same gradient of the keys.
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary")),
        cost_estimate=cost,
        interpret=interpret,
        name=name,
    )


def _transposed(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)


def _tpu_forward(query: Array, key_value: Array, heads: int, interpret: bool) -> tuple[Array, Array]:
    channels = query.shape[-1]
    width = channels // heads
    scale = width**-0.5
    lines, _ = _tpu_block(query, key_value)

    def kernel(query_ref: Any, kv_ref: Any, out_ref: Any, log_sum_ref: Any) -> None:
        for line, head in itertools.product(range(lines), range(heads)):
            of, of_value = (slice(first, first + width) for first in (head * width, channels + head * width))
            value = kv_ref[of_value]
            logits = _product(kv_ref[of], query_ref[line, of], (0, 0)) * scale
            largest = logits.max(axis=0, keepdims=True)
            weights = jnp.exp(logits - largest)
            total = weights.sum(axis=0, keepdims=True)
            attended = _product(value, weights.astype(value.dtype), (1, 0)) / total
            out_ref[line, of] = attended.astype(out_ref.dtype)
            log_sum_ref[line, pl.ds(head, 1)] = largest + jnp.log(total)

    cost = _cost(query, key_value, heads, 2, 2 * query.nbytes + key_value.nbytes)
    call = _tpu_call(
        kernel, "attend", query, key_value, heads, ("qk", "qs"), (query.dtype, jnp.float32), cost, interpret
    )  # fmt: skip
    attended, log_sum = call(_transposed(query), _transposed(key_value))
    return _transposed(attended), log_sum


def _tpu_backward(
    query: Array, key_value: Array, attended: Array, log_sum: Array, gradient: Array, heads: int, interpret: bool
) -> tuple[Array, Array]:
    _, all_lines, all_pixels, channels = query.shape
    width = channels // heads
    scale = width**-0.5
    lines, pixels = _tpu_block(query, key_value)

    def kernel(
        query_ref: Any, kv_ref: Any, out_ref: Any, log_sum_ref: Any, gradient_ref: Any, d_query_ref: Any, d_kv_ref: Any
    ) -> None:
        first_line, first_pixel = pl.program_id(1) * lines, pl.program_id(2) * pixels

        @pl.when(first_line + first_pixel == 0)
        def _() -> None:
            d_kv_ref[...] = jnp.zeros_like(d_kv_ref)

        # Beyond the last line and the last pixel a block holds arbitrary numbers.
        in_line = first_pixel + jax.lax.broadcasted_iota(jnp.int32, (1, pixels), 1) < all_pixels
        for line, head in itertools.product(range(lines), range(heads)):
            inside = in_line & (first_line + line < all_lines)
            of, of_value = (slice(first, first + width) for first in (head * width, channels + head * width))
            query, gradient, attended = (
                jnp.where(inside, ref[line, of].astype(jnp.float32), 0.0) for ref in (query_ref, gradient_ref, out_ref)
            )
            along = (gradient * attended).sum(axis=0, keepdims=True)
            query, gradient = query.astype(query_ref.dtype), gradient.astype(gradient_ref.dtype)
            key, value = kv_ref[of], kv_ref[of_value]
            logits = _product(key, query, (0, 0)) * scale
            weights = jnp.where(inside, jnp.exp(logits - log_sum_ref[line, pl.ds(head, 1)]), 0.0)
            d_logits = weights * (_product(value, gradient, (0, 0)) - along) * scale
            d_logits = d_logits.astype(query.dtype)
            d_query_ref[line, of] = _product(key, d_logits, (1, 0)).astype(d_query_ref.dtype)
            d_kv_ref[of] += _product(query, d_logits, (1, 1))
            d_kv_ref[of_value] += _product(gradient, weights.astype(gradient.dtype), (1, 1))

    cost = _cost(query, key_value, heads, 5, 4 * query.nbytes + 3 * key_value.nbytes)
    call = _tpu_call(
        kernel, "attend_backward", query, key_value, heads, ("qkqsq", "qk"), (query.dtype, jnp.float32), cost, interpret
    )  # fmt: skip
    d_query, d_key_value = call(*map(_transposed, (query, key_value, attended)), log_sum, _transposed(gradient))
    return _transposed(d_query), _transposed(d_key_value).astype(key_value.dtype)
