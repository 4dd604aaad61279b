"""Probabilities, as they are and averaged over flips and turns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config

from specsar_jax import model
from specsar_jax.inference import log_probabilities


@pytest.mark.parametrize("size", [(32, 32), (32, 40)])
def test_average_over_turns_turns_with_its_input(tmp_path, size):
    plain = small_config(tmp_path, "model.s2_channels=2")
    averaged = small_config(tmp_path, "model.s2_channels=2", "predict.average_turns=true")
    variables = model.init_params(plain.model, jax.random.key(0))
    noise = iter(jax.random.split(jax.random.key(9), 999))  # as drawn, all classes are equally probable
    variables = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.uniform(next(noise), leaf.shape), variables)
    s2, s1 = (jax.random.normal(jax.random.key(i), (1, *size, 2)) for i in range(2))

    @jax.jit
    def probabilities(s2: jax.Array, s1: jax.Array) -> jax.Array:
        return jnp.exp(log_probabilities(variables, s2, s1, config=averaged))

    given = probabilities(s2, s1)
    np.testing.assert_allclose(given.sum(axis=-1), 1.0, rtol=1e-5)
    half = probabilities(*(jnp.rot90(x, 2, axes=(1, 2)) for x in (s2, s1)))
    np.testing.assert_allclose(jnp.rot90(half, 2, axes=(1, 2)), given, atol=1e-5)
    once = jnp.exp(log_probabilities(variables, s2, s1, config=plain))
    assert np.abs(once - given).max() > 1e-5  # the network itself does not turn with its input
