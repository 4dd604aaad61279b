"""Class probabilities of standardised tiles, for maps and for scores alike."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from specsar_jax import model
from specsar_jax.config import Config


def log_probabilities(
    variables: model.Variables, s2: Array, s1: Array, *, config: Config, temperature: float = 1.0
) -> Float[Array, "batch height width class"]:
    """Logarithms of the class probabilities, float32; with `predict.average_turns` of their mean over flips and turns.

    Args:
        variables: of the network.
        s2: standardised, [batch, height, width, s2_band].
        s1: standardised, [batch, height, width, s1_band].
        config: of the run.
        temperature: of `specsar_jax.calibration`, for probabilities that mean what they say.
    """
    return tempered(_mean_over_turns(variables, s2, s1, config), temperature)


def tempered(log_p: Float[Array, "*batch class"], temperature: float) -> Float[Array, "*batch class"]:
    """Logarithms of the probabilities at a temperature: above 1 they are closer to each other, below 1 further apart."""
    return log_p if temperature == 1.0 else jax.nn.log_softmax(log_p / temperature)


def _mean_over_turns(
    variables: model.Variables, s2: Array, s1: Array, config: Config
) -> Float[Array, "batch height width class"]:
    if not config.predict.average_turns:
        return jax.nn.log_softmax(model.apply(variables, s2, s1, config=config.model))
    # A quarter turn of a rectangle would be a map of another shape.
    square = s2.shape[1] == s2.shape[2]
    turns = [(quarters, flip) for quarters in (range(4) if square else (0, 2)) for flip in (False, True)]

    def turn(x: Array, quarters: int, flip: bool) -> Array:
        x = jnp.rot90(x, quarters, axes=(1, 2))
        return jnp.flip(x, 2) if flip else x

    def back(x: Array, quarters: int, flip: bool) -> Array:
        return jnp.rot90(jnp.flip(x, 2) if flip else x, -quarters, axes=(1, 2))

    # One after the other, as one program: the network is compiled once, and memory is that of one turn.
    turned = tuple(jnp.stack([turn(x, *how) for how in turns]) for x in (s2, s1))
    all_of = jax.lax.map(lambda pair: jax.nn.softmax(model.apply(variables, *pair, config=config.model)), turned)
    return jnp.log(jnp.maximum(sum(back(p, *how) for p, how in zip(all_of, turns, strict=True)) / len(turns), 1e-30))
