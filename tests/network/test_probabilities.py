"""Probabilities, as they are, averaged over flips and turns, and at a temperature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config

from specsar_jax.network import model
from specsar_jax.network.probabilities import log_probabilities


def network(config) -> model.Variables:
    """Weights of which something can be told: as drawn, all classes are equally probable."""
    noise = iter(jax.random.split(jax.random.key(9), 999))
    variables = model.init_params(config.model, jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.uniform(next(noise), leaf.shape), variables)


@pytest.mark.parametrize("size", [(32, 32), (32, 40)])
def test_average_over_turns_turns_with_its_input(tmp_path, size):
    plain = small_config(tmp_path, "model.s2_channels=2")
    averaged = small_config(tmp_path, "model.s2_channels=2", "predict.average_turns=true")
    variables = network(plain)
    s2, s1 = (jax.random.normal(jax.random.key(i), (1, *size, 2)) for i in range(2))

    @jax.jit
    def probabilities(s2: jax.Array, s1: jax.Array) -> jax.Array:
        return jnp.exp(log_probabilities(variables, s2, s1, config=averaged.model, average_turns=True))

    given = probabilities(s2, s1)
    np.testing.assert_allclose(given.sum(axis=-1), 1.0, rtol=1e-5)
    half = probabilities(*(jnp.rot90(x, 2, axes=(1, 2)) for x in (s2, s1)))
    np.testing.assert_allclose(jnp.rot90(half, 2, axes=(1, 2)), given, atol=1e-5)
    once = jnp.exp(log_probabilities(variables, s2, s1, config=plain.model))
    assert np.abs(once - given).max() > 1e-5  # the network itself does not turn with its input


@pytest.mark.parametrize("averaged", ["false", "true"])
def test_a_temperature_flattens_what_comes_out_last(tmp_path, averaged):
    config = small_config(tmp_path, "model.s2_channels=2", f"predict.average_turns={averaged}")
    variables = network(config)
    s2, s1 = (jax.random.normal(jax.random.key(i), (1, 32, 32, 2)) for i in range(2))
    run = jax.jit(log_probabilities, static_argnames=("config", "average_turns", "temperature"))
    plain, flat = (
        run(variables, s2, s1, config=config.model, average_turns=config.predict.average_turns, temperature=of)
        for of in (1.0, 2.0)
    )
    expected = jnp.sqrt(jnp.exp(plain))
    np.testing.assert_allclose(jnp.exp(flat), expected / expected.sum(axis=-1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(flat.argmax(axis=-1), plain.argmax(axis=-1))
