"""Class probabilities of standardised tiles, for maps and for scores alike."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from specsar_jax.config import Model
from specsar_jax.network import model


def log_probabilities(
    variables: model.Variables,
    s2: Array,
    s1: Array,
    *,
    config: Model,
    average_turns: bool = False,
    temperature: float = 1.0,
) -> Float[Array, "batch height width class"]:
    """Logarithms of the class probabilities, float32.

    Args:
        variables: of the network.
        s2: standardised, [batch, height, width, s2_band].
        s1: standardised, [batch, height, width, s1_band].
        config: of the network.
        average_turns: take the mean of the probabilities over all flips and rotations of the tile.
        temperature: of `specsar_jax.accuracy.calibration`; 1 leaves the probabilities as the network gives them.
    """
    if average_turns:
        return tempered(_mean_over_rotations(variables, s2, s1, config), temperature)
    return tempered(jax.nn.log_softmax(model.apply(variables, s2, s1, config=config)), temperature)


def tempered(log_p: Float[Array, "*batch class"], temperature: float) -> Float[Array, "*batch class"]:
    """Logarithms of the probabilities at a temperature: above 1 they are closer to each other, below 1 further apart."""
    return log_p if temperature == 1.0 else jax.nn.log_softmax(log_p / temperature)


def _mean_over_rotations(
    variables: model.Variables, s2: Array, s1: Array, config: Model
) -> Float[Array, "batch height width class"]:
    """Logarithms of the mean probabilities over flips and rotations; of a rectangle over those that keep its shape."""
    square = s2.shape[1] == s2.shape[2]
    rotations = [(quarters, flip) for quarters in (range(4) if square else (0, 2)) for flip in (False, True)]

    def rotate(x: Array, quarters: int, flip: bool) -> Array:
        x = jnp.rot90(x, quarters, axes=(1, 2))
        return jnp.flip(x, 2) if flip else x

    def back(x: Array, quarters: int, flip: bool) -> Array:
        return jnp.rot90(jnp.flip(x, 2) if flip else x, -quarters, axes=(1, 2))

    # A loop in one program: the network is compiled once, and memory is that of one rotation.
    rotated = tuple(jnp.stack([rotate(x, *how) for how in rotations]) for x in (s2, s1))
    all_of = jax.lax.map(lambda pair: jax.nn.softmax(model.apply(variables, *pair, config=config)), rotated)
    mean = sum(back(p, *how) for p, how in zip(all_of, rotations, strict=True)) / len(rotations)
    return jnp.log(jnp.maximum(mean, 1e-30))
