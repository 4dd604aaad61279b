"""Writes a trained network as a StableHLO program: digital numbers and dB in, probabilities and classes out.

    program = jax.export.deserialize(bytearray(Path("specsar.stablehlo").read_bytes()))
    probabilities, classes = program.call(s2, s1)

Enters: a `Trained` network. Leaves: a file that JAX reads without this package and compiles for CPU, CUDA or TPU, for
any batch, and any height and width from 32 pixels up. The file contains statistics, temperature and weights. Weights
kept in a file of their own are the first argument of the program instead, arrays by name. The program is one pass of
the network, without the mean over flips and rotations (`predict.average_turns`).
"""

import functools
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Float32, UInt8

from specsar_jax.batches import preprocess
from specsar_jax.network import model
from specsar_jax.network.probabilities import log_probabilities
from specsar_jax.trained.trained_network import Trained, named_weights, unnamed
from tfds_dwplus import bands
from tfds_dwplus.files.outputs import write_whole

PLATFORMS = ("cpu", "cuda", "tpu")

Result = tuple[Float32[Array, "batch height width class"], UInt8[Array, "batch height width"]]


def write_stablehlo(trained: Trained, path: Path, *, weights_inside: bool = True) -> None:
    """Writes the program; the file appears only when it is complete.

    Args:
        trained: the network.
        path: the file to write.
        weights_inside: whether the file contains the weights; otherwise the first argument of the program is a
            dictionary of float32 arrays, named as in a bundle.

    Raises:
        ValueError: `flatbuffers` is not installed.
    """
    variables = named_weights(trained.variables)
    function = program(trained)
    if weights_inside:
        exported = export_program(lambda *pixels: function(variables, *pixels), trained)
    else:
        exported = export_program(function, trained, jax.tree.map(jax.typeof, variables))
    try:
        content = exported.serialize()
    except ImportError:  # JAX's own, which names no module
        raise ValueError("a StableHLO file needs flatbuffers: pip install 'specsar_jax[stablehlo]'") from None
    write_whole(path, bytes(content))


def program(trained: Trained) -> Callable[..., Result]:
    """The network as a pure function of its weights by name and of the pixels of each sensor it reads, `s2` before `s1`.

    `s2` is uint16 [batch, height, width, band], digital numbers, 0 without data. `s1` is float32 of the same shape,
    sigma0 in dB, NaN without data. The function returns probabilities, and the most probable class; 255 where a band
    has no data, or, of sensors that the network may miss, where none has all its bands.
    """
    config, may_miss = trained.config.model, trained.config.may_miss

    def call(weights: dict[str, Any], *pixels: Array) -> Result:
        given = dict(zip(config.sensors, pixels, strict=True))
        seen = {}
        if "s2" in given:
            seen["s2"] = (given["s2"] != bands.S2_NODATA).all(axis=-1)
        if "s1" in given:
            seen["s1"] = jnp.isfinite(given["s1"]).all(axis=-1)
        valid = functools.reduce(operator.or_, seen.values())
        for sensor in seen.keys() - set(may_miss):
            valid &= seen[sensor]
        none = jnp.zeros((*pixels[0].shape[:3], 0))
        s2, s1 = preprocess.standardise(
            given.get("s2", none), given.get("s1", none), trained.statistics, trained.config.data.scaling, may_miss
        )
        variables = jax.tree.map(jnp.asarray, unnamed(weights, config))  # of a bundle they are numpy arrays
        log_p = log_probabilities(variables, s2, s1, config=config, temperature=trained.temperature)
        return jnp.exp(log_p), jnp.where(valid, jnp.argmax(log_p, axis=-1), bands.IGNORE).astype(jnp.uint8)

    return call


def export_program(function: Callable[..., Result], trained: Trained, *before: Any) -> export.Exported:
    """Exports a function as a program for pixels of any batch, height and width.

    Args:
        function: takes `before`, then the pixels of each sensor that the network reads.
        trained: the network; its sensors and bands are used.
        before: shapes and types of the arguments before the pixels.
    """
    least = model.SMALLEST_SIZE_PX
    batch, height, width = export.symbolic_shape(
        "batch, height, width", constraints=[f"height >= {least}", f"width >= {least}"]
    )
    types = {"s2": jnp.uint16, "s1": jnp.float32}
    pixels = [
        jax.ShapeDtypeStruct((batch, height, width, len(names)), types[sensor])
        for sensor, names in trained.bands.items()
    ]
    return export.export(jax.jit(function), platforms=PLATFORMS)(*before, *pixels)
