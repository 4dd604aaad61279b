"""The costly functions against their plain forms, outputs and gradients."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specsar_jax.network import layers, resizing


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def same(given: Callable, wanted: Callable, *arguments: jax.Array) -> None:
    """Both give the same output and the same gradients, to rounding."""
    out, pull = jax.vjp(given, *arguments)
    plain, pull_plain = jax.vjp(wanted, *arguments)
    gradient = normal(9, *out.shape)
    for one, two in zip((out, *pull(gradient)), (plain, *pull_plain(gradient)), strict=True):
        assert one.shape == two.shape and one.dtype == two.dtype
        assert np.abs(one - two).max() < 2e-5 * max(1.0, np.abs(two).max())


def attend_plainly(query: jax.Array, key_value: jax.Array, heads: int) -> jax.Array:
    """JAX's own attention."""
    query, key, value = (x.reshape(*x.shape[:2], heads, -1) for x in (query, *jnp.split(key_value, 2, axis=-1)))
    return jax.nn.dot_product_attention(query, key, value).reshape(*query.shape[:2], -1)


def test_attention_equals_jaxs_own():
    given, wanted = (functools.partial(form, heads=3) for form in (layers.attend, attend_plainly))
    same(given, wanted, 4 * normal(0, 2, 21, 24), 4 * normal(1, 2, 5, 48))


def test_attention_bears_large_logits_and_keeps_the_type():
    query, key_value = normal(0, 1, 4, 8), normal(1, 1, 6, 16)
    assert np.isfinite(layers.attend(1e4 * query, key_value, 1)).all()
    assert layers.attend(*(x.astype(jnp.bfloat16) for x in (query, key_value)), 1).dtype == jnp.bfloat16


def test_layer_norm_equals_what_jax_derives_from_its_formula():
    def plain(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * scale + bias

    x, scale, bias = 3 * normal(0, 2, 3, 5, 16) + 7, normal(1, 16), normal(2, 16)
    same(lambda x, scale, bias: layers.layer_norm(x, scale, bias, 1e-5), plain, x, scale, bias)


def test_layer_norm_of_bfloat16_has_float32_statistics():
    x = (normal(0, 4, 64) + 50).astype(jnp.bfloat16)  # a mean of which bfloat16 keeps no digit behind the point
    half = layers.layer_norm(x, jnp.ones(64), jnp.zeros(64), 1e-6)
    full = layers.layer_norm(x.astype(jnp.float32), jnp.ones(64), jnp.zeros(64), 1e-6)
    assert half.dtype == jnp.bfloat16
    assert np.abs(half.astype(jnp.float32) - full).max() < 0.02


def test_depthwise_equals_grouped_convolution():
    def grouped(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return convolved(x, kernel[:, :, None], 1, "SAME", groups=5) + bias

    same(layers.depthwise_3x3, grouped, normal(0, 2, 7, 9, 5), normal(1, 3, 3, 5), normal(2, 5))


def convolved(x: jax.Array, kernel: jax.Array, stride: int, padding: object, groups: int = 1) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=numbers, feature_group_count=groups
    )


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_patch_reduction_equals_a_convolution_of_the_same_stride(size):
    def convolution(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return convolved(x, kernel, 2, "VALID") + bias

    def reduction(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return layers.reduce_patches(layers.to_patches(x, 2), kernel, bias)

    same(reduction, convolution, normal(0, 2, *size, 5), normal(1, 2, 2, 5, 6), normal(2, 6))


def test_patches_put_together_are_the_map():
    x = normal(0, 2, 6, 9, 4)
    np.testing.assert_array_equal(layers.from_patches(layers.to_patches(x, 3)), x)
    assert (layers.to_patches(x, 3)[1, 1, 2] == x[1, 3:, 6:].reshape(9, 4)).all()


@pytest.mark.parametrize(("side", "stride"), [(7, 4), (3, 2)])
def test_patch_embedding_equals_a_convolution(side, stride):
    def convolution(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return convolved(x, kernel, stride, [(side // 2, side // 2)] * 2) + bias

    def embedding(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return layers.embed_patches(x, kernel, bias, stride)

    same(embedding, convolution, normal(0, 2, 17, 16, 5), normal(1, side, side, 5, 6), normal(2, 6))


def test_dense_and_scale_equal_what_jax_derives_from_their_formulas():
    x, kernel, bias = normal(0, 2, 5, 6, 7), normal(1, 7, 4), normal(2, 4)
    same(layers.dense, lambda x, kernel, bias: x @ kernel + bias, x, kernel, bias)
    same(layers.scale_and_shift, lambda x, a, b: x * a + b, x, normal(3, 7), normal(4, 7))


def test_weights_of_a_bfloat16_network_get_gradients_that_were_summed_in_float32():
    """A thousand pixels of gradient 1 and two of 1/256: a sum in bfloat16 would lose the two."""
    gradient = jnp.ones((2, 500, 1)).at[0, 0].add(2**-8).at[1, 0].add(2**-8).astype(jnp.bfloat16)
    x, one = jnp.ones((2, 500, 1), jnp.bfloat16), jnp.ones(1)
    image, kernel = jnp.ones((2, 20, 25, 1), jnp.bfloat16), jnp.zeros((1, 1, 1, 1))
    exact = gradient.astype(jnp.float32).sum()
    for form, *arguments in (
        (layers.dense, x, one[:, None], one),
        (layers.scale_and_shift, x, one, one),
        (lambda *of: layers.embed_patches(*of, 1), image, kernel, one),
    ):
        out, pull = jax.vjp(form, *arguments)
        for by_weight in pull(gradient.reshape(out.shape))[1:]:
            assert by_weight.dtype == jnp.float32 and by_weight.ravel() == exact


def test_sums_over_pixels_are_the_same_in_both_forms():
    maps = tuple(normal(i, 2, 7, 9, 5) for i in range(3))
    for given, m in zip(layers.sums_over_pixels(*maps), maps, strict=True):
        np.testing.assert_allclose(given, m.sum(axis=(0, 1, 2)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (9, 18)])
def test_joining_row_by_row_equals_joining_whole_maps(height, width):
    """The form for a CPU against the one for accelerators, also where the sizes do not divide."""
    maps = tuple(normal(i, 2, -(-height // step), -(-width // step), 12) for i, step in enumerate((2, 4, 8)))
    arguments = (normal(5, 2, height, width, 6), normal(6, 6, 12), maps, normal(7, 12), normal(8, 12, 4))
    for form in (resizing._join_rows, resizing.join_and_classify):
        np.testing.assert_allclose(form(*arguments), resizing._join_whole(*arguments), rtol=1e-4, atol=1e-4)


def test_maps_summed_while_resized_equal_jaxs_own_resizes():
    maps = tuple(normal(i, 2, *size, 6) for i, size in enumerate([(8, 9), (5, 5), (1, 2)]))

    def plain(*maps: jax.Array) -> jax.Array:
        return sum(resizing.resize_bilinear(m, (16, 18)) for m in maps)

    same(lambda *maps: resizing.sum_resized(maps, (16, 18)), plain, *maps)


@pytest.mark.parametrize("size", [(16, 18), (7, 30)])
def test_neighbours_resize_as_products_do(size):
    """The form for a GPU against the one for all else."""
    x = normal(0, 2, 8, 9, 6)
    given, wanted = resizing._resize_by_neighbours(x, size), resizing._resize_by_products(x, size)
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5)


def test_gelu_equals_jaxs_own():
    same(layers.gelu, lambda x: jax.nn.gelu(x, approximate=False), 4 * normal(0, 3, 40))
