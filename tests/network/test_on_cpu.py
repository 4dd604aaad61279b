"""The forms for a CPU against those that training uses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specsar_jax.config import model_preset
from specsar_jax.network import layers, model, on_cpu


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def weights(seed: int, *shape: int) -> tuple[jax.Array, jax.Array]:
    return normal(seed, *shape), normal(seed + 1, shape[-1])


@pytest.mark.parametrize(("heads", "size"), [(1, 1.0), (3, 1.0), (1, 20.0)])
def test_attention_with_its_dense_layers_equals_them_one_by_one(heads, size):
    """Also with logits in the thousands."""
    query, key_value = size * normal(0, 2, 5, 7, 12), normal(1, 2, 2, 3, 24)
    into, out = weights(2, 12, 12), weights(4, 12, 12)
    given = on_cpu.attend(query, key_value, into, out, heads)
    wanted = layers.dense(layers.attend(layers.dense(query, *into), key_value, heads), *out)
    np.testing.assert_allclose(given, wanted, rtol=2e-4, atol=2e-4 if size > 1 else 2e-5)


@pytest.mark.parametrize("small", [0, 1000])
@pytest.mark.parametrize("band_bytes", [2**22, 4000, 1])
@pytest.mark.parametrize("height", [8, 11])
def test_mix_ffn_equals_its_layers_one_by_one(monkeypatch, height, band_bytes, small):
    """In bands of rows, of one row, and whole, padded before and after; also where bands do not divide the height."""
    monkeypatch.setattr(on_cpu, "BAND_BYTES", band_bytes)
    monkeypatch.setattr(on_cpu, "SMALL_MAP", small)
    x, parts = 3 * normal(0, 2, height, 6, 5), (weights(1, 5, 20), weights(3, 3, 3, 20), weights(5, 20, 5))
    hidden = layers.depthwise_3x3(layers.dense(x, *parts[0]), *parts[1])
    wanted = layers.dense(layers.gelu(hidden), *parts[2])
    np.testing.assert_allclose(on_cpu.mix_ffn(x, *parts), wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_mix_ffn_keeps_what_is_no_number():
    x = normal(0, 1, 6, 6, 4).at[0, 3, 3, 0].set(jnp.nan)
    mixed = on_cpu.mix_ffn(x, weights(1, 4, 8), weights(3, 3, 3, 8), weights(5, 8, 4))
    assert np.isnan(mixed).any(axis=-1)[0].sum() == 9  # the neighbours


def test_the_widest_map_is_never_whole_in_memory():
    """The first stage's of `specsar_former`: 12.6 MB, three times."""
    shapes = ((1, 128, 128, 48), ((48, 192), (192,)), ((3, 3, 192), (192,)), ((192, 48), (48,)))
    given = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda node: all(isinstance(size, int) for size in node),
    )
    memory = jax.jit(on_cpu.mix_ffn).lower(*given).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 16e6


@pytest.mark.parametrize(("batch", "at_once"), [(1, 1), (2, 2), (6, 2), (7, 1)])
def test_a_batch_goes_through_in_equal_groups_that_fit(monkeypatch, batch, at_once):
    monkeypatch.setattr(on_cpu, "PIXELS_AT_ONCE", 2 * 4 * 5)
    seen = []

    def forward(tiles):
        seen.append(len(tiles[0]))
        return tiles[0] * 2 + tiles[0].mean()

    tiles = normal(0, batch, 4, 5, 3)
    given = on_cpu.some_at_once(forward, (tiles, None))
    groups = tiles.reshape(-1, at_once, 4, 5, 3)
    wanted = groups * 2 + groups.mean(axis=(1, 2, 3, 4), keepdims=True)
    np.testing.assert_allclose(given, wanted.reshape(tiles.shape), rtol=1e-5, atol=1e-6)
    assert set(seen) == {at_once}


def test_these_forms_are_for_a_forward_pass_alone(monkeypatch):
    config, used = model_preset("tiny"), []
    variables = model.abstract_params(config)
    for name in ("attend", "mix_ffn"):
        form = getattr(on_cpu, name)
        monkeypatch.setattr(on_cpu, name, lambda *of, form=form, name=name, **kw: used.append(name) or form(*of, **kw))
    pixels = [
        jax.ShapeDtypeStruct((1, 64, 64, count), jnp.float32) for count in (config.s2_channels, config.s1_channels)
    ]
    jax.eval_shape(lambda *of: model.apply_train(*of, config=config, rng=jax.random.key(0)), variables, *pixels)
    assert not used
    jax.eval_shape(lambda *of: model.apply(*of, config=config), variables, *pixels)
    assert set(used) == {"attend", "mix_ffn"}
