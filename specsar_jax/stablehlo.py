"""A trained network as a StableHLO program of `jax.export`: digital numbers and decibels in, probabilities and classes out.

    program = jax.export.deserialize(bytearray(Path("specsar.stablehlo").read_bytes()))
    probabilities, classes = program.call(s2, s1)

Enters: a `Trained` network. Leaves: a file that JAX alone reads and compiles for CPU, CUDA or TPU, for any batch, and any height
and width from 32 pixels up. Statistics and temperature are inside, and the weights, unless they are wanted in a file beside it:
then they are the first argument, arrays by name. `predict.average_turns` is not: the program is one pass of the network.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Float32, UInt8

from specsar_jax import model, preprocess
from specsar_jax.bundle import Trained, named_weights, unnamed
from specsar_jax.inference import log_probabilities
from tfds_dwplus import bands
from tfds_dwplus.command_line import written_whole

PLATFORMS = ("cpu", "cuda", "tpu")

Result = tuple[Float32[Array, "batch height width class"], UInt8[Array, "batch height width"]]


def write_stablehlo(trained: Trained, path: Path, *, weights_inside: bool = True) -> None:
    """Writes the program, whole or not at all.

    Args:
        trained: the network.
        path: to be written.
        weights_inside: else the first argument of the program is a dictionary of float32 arrays, named as in a bundle.

    Raises:
        ValueError: `flatbuffers` is not installed.
    """
    variables = named_weights(trained.variables)
    of = program(trained)
    if weights_inside:
        exported = export_program(lambda *pixels: of(variables, *pixels), trained)
    else:
        exported = export_program(of, trained, jax.tree.map(jax.typeof, variables))
    try:
        content = exported.serialize()
    except ModuleNotFoundError as error:
        raise ValueError(f"a StableHLO file needs {error.name}: pip install 'specsar_jax[stablehlo]'") from None
    with written_whole(path) as part:
        part.write_bytes(content)


def program(trained: Trained) -> Callable[..., Result]:
    """A pure function of weights by name, and of the pixels of each sensor in use, `s2` before `s1`, as they come.

    `s2` is uint16 [batch, height, width, band], digital numbers, 0 without data; `s1` float32 of the same, sigma0 in dB, NaN without
    data. It returns probabilities, and the likeliest classes, 255 where a band of a sensor has no data.
    """
    sensors = trained.config.model.sensors
    config = dataclasses.replace(
        trained.config, predict=dataclasses.replace(trained.config.predict, average_turns=False)
    )

    def call(weights: dict[str, Array], *pixels: Array) -> Result:
        given = dict(zip(sensors, pixels, strict=True))
        valid = jnp.ones(pixels[0].shape[:3], bool)
        if "s2" in given:
            valid &= (given["s2"] != bands.S2_NODATA).all(axis=-1)
        if "s1" in given:
            valid &= jnp.isfinite(given["s1"]).all(axis=-1)
        none = jnp.zeros((*pixels[0].shape[:3], 0))
        s2, s1 = preprocess.standardise(given.get("s2", none), given.get("s1", none), trained.statistics)
        variables = unnamed(weights, config.model)
        log_p = log_probabilities(variables, s2, s1, config=config, temperature=trained.temperature)
        return jnp.exp(log_p), jnp.where(valid, jnp.argmax(log_p, axis=-1), bands.IGNORE).astype(jnp.uint8)

    return call


def export_program(of: Callable[..., Result], trained: Trained, *before: Any) -> export.Exported:
    """`of` as a program for pixels of any batch, height and width.

    Args:
        of: a function of `before` and of the pixels of each sensor in use.
        trained: tells sensors and bands.
        before: shapes and types of what comes before the pixels.
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
    return export.export(jax.jit(of), platforms=PLATFORMS)(*before, *pixels)
