"""The kernels for GPUs and TPUs, run step by step on a CPU, against two matrix products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specsar_jax.network import attention, layers

SHAPES = {
    "blocks left over": ((2, 300), 70, 2, 24),
    "one head": ((1, 130), 9, 1, 16),
    "as many keys as queries": ((2, 64), 64, 3, 48),
    "lines of a map": ((2, 9, 128), 70, 2, 16),
    "patches": ((1, 3, 4, 16), 12, 1, 8),
}


def drawn(shape: str, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array, jax.Array, int]:
    """Queries, keys and values, a gradient; and the number of heads."""
    pixels, keys, heads, width = SHAPES[shape]
    one, two, three = jax.random.split(jax.random.key(0), 3)
    query = 2 * jax.random.normal(one, (*pixels, heads * width)).astype(dtype)
    key_value = jax.random.normal(two, (pixels[0], keys, 2 * heads * width)).astype(dtype)
    return query, key_value, jax.random.normal(three, query.shape).astype(dtype), heads


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.02)])
def test_outputs_and_gradients_equal_those_of_two_products(shape, platform, dtype, tolerance):
    query, key_value, gradient, heads = drawn(shape, dtype)
    out, pull = jax.vjp(lambda *of: attention.attend(*of, heads, platform, True), query, key_value)
    wide = [x.astype(jnp.float32) for x in (query, key_value)]
    wanted, pull_wanted = jax.vjp(functools.partial(layers._attend_whole, heads=heads), *wide)
    pairs = zip((out, *pull(gradient)), (wanted, *pull_wanted(gradient.astype(jnp.float32))), strict=True)
    for one, two in pairs:
        assert one.dtype == dtype and one.shape == two.shape
        assert np.abs(one.astype(jnp.float32) - two).max() < tolerance * np.abs(two).max()


def test_large_logits_stay_finite():
    query, key_value, gradient, heads = drawn("one head", jnp.float32)
    for platform in ("cuda", "tpu"):
        out, pull = jax.vjp(
            lambda *of, platform=platform: attention.attend(*of, heads, platform, True), 1e4 * query, key_value
        )
        assert all(np.isfinite(x).all() for x in (out, *pull(gradient)))


def test_what_no_kernel_takes_is_left_to_xla():
    def of(
        keys: int, width: int, dtype: jnp.dtype = jnp.bfloat16
    ) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct, int]:
        return jax.ShapeDtypeStruct((1, 64, width), dtype), jax.ShapeDtypeStruct((1, keys, 2 * width), dtype), 1

    assert attention.supports(*of(256, 16), "tpu") and attention.supports(*of(256, 8), "cuda")
    assert not attention.supports(*of(256, 8), "tpu") and attention.supports(*of(256, 8, jnp.float32), "tpu")
    assert not attention.supports(*of(attention.MOST_KEYS + 1, 16), "cuda")
    (side,) = jax.export.symbolic_shape("n")
    assert not attention.supports(jax.ShapeDtypeStruct((1, side, 16), jnp.float32), *of(256, 16)[1:], "cuda")
