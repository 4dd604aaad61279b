"""Small networks with weights out of a hat, tiles for them, and what `model.apply` says: for the tests of exported files."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import rasterio

from specsar_jax.batches import preprocess
from specsar_jax.batches.preprocess import SensorStatistics, Statistics
from specsar_jax.config import PRESETS, Config, Data, Model
from specsar_jax.network import model
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands

# Two stages hold every kind of part and compile in seconds.
SIZES = {"widths": (16, 32), "blocks": (1, 2), "heads": (1, 2), "reductions": (4, 2), "decoder_width": 16}

SMALL_PRESETS = {
    name: preset if preset.architecture == "dynamic_world" else dataclasses.replace(preset, **SIZES)
    for name, preset in PRESETS.items()
    if name != "tiny"
}
"""All presets, this small; `tiny` would be `specsar_former` again, and Dynamic World's have one size."""

TWO_SENSORS = ("specsar_former", "early_fusion", "dynamic_world_sar")
"""Presets that may miss a sensor."""


@functools.partial(jax.jit, static_argnames="config")
def _logits(variables: model.Variables, s2: jax.Array, s1: jax.Array, config: Model) -> jax.Array:
    return model.apply(variables, s2, s1, config=config)


def drawn(
    config: Model,
    temperature: float = 1.5,
    *,
    scaling: str = "standard",
    sensor_drop: tuple[float, ...] = (),
    classes: bands.Classes = bands.DYNAMIC_WORLD,
) -> Trained:
    """A network in which no weight is zero or one and every class is somewhere the likeliest; its statistics clip some of
    what `tiles` gives.
    """
    config, rng = dataclasses.replace(config, classes=len(classes)), np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.1 * rng.standard_normal(leaf.shape, np.float32),
        model.init_params(config, jax.random.key(0)),
    )
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])

    def sensor(names: tuple[str, ...], mean: float, std: float, low: float, high: float) -> SensorStatistics:
        spread = np.linspace(0.9, 1.1, len(names))
        return SensorStatistics(names, *(tuple(spread * v) for v in (mean, std, low, high)), "", (1,) * len(names))

    statistics = Statistics(
        sensor(bands.S2_BANDS, 2000.0, 900.0, 300.0, 4000.0),
        sensor(bands.S1_BANDS, -14.0, 5.0, -24.0, -3.0),
        (1,) * len(classes),
        classes,
    )
    logits = _logits(variables, *preprocess.standardise(*tiles(2, 64, 49), statistics, scaling), config=config)
    mean, std = (np.asarray(x) for x in (logits.mean(axis=(0, 1, 2)), logits.std(axis=(0, 1, 2))))
    layer, kernel, bias = variables["params"].get("decoder"), "classify_kernel", "classify_bias"
    if layer is None:
        layer, kernel, bias = variables["params"]["classify"], "kernel", "bias"
    layer[bias] = (layer[bias] - mean) / std
    layer[kernel] = layer[kernel] / std
    variables = jax.tree.map(jax.numpy.asarray, variables)
    config = Config(model=config, data=Data(scaling=scaling, sensor_drop=sensor_drop))
    return Trained(config, statistics, variables, 7, temperature, "CC-BY-4.0")


OWN = bands.Classes(
    ("wheat & barley", "forêt <dense>", 'the "old" town', "désert's_edge"), ("e8c547", "1b5e20", "c0392b", "d7ccc8")
)
"""Four classes with all that a name may hold."""


def many(count: int) -> bands.Classes:
    """So many classes, each with a colour of its own."""
    names, colours = zip(*((f"class {i}", f"{3 * i:02x}40{255 - 3 * i:02x}") for i in range(count)), strict=True)
    return bands.Classes(names, colours)


def tiles(batch: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Digital numbers and dB, with pixels that lack a band."""
    rng = np.random.default_rng(height)
    s2 = rng.integers(1, 6000, (batch, height, width, 9)).astype(np.uint16)
    s1 = rng.uniform(-30, 0, (batch, height, width, 2)).astype(np.float32)
    s2[0, 3, 4, 2] = 0
    s1[0, 5, 6, 1] = np.nan
    s1[0, 7, 8, 0] = -np.inf
    return s2, s1


def gaps(s2: np.ndarray, s1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same where rows 0 to 15 lack Sentinel-2, columns 0 to 15 Sentinel-1, and some pixels one band of either."""
    s2, s1 = s2.copy(), s1.copy()
    s2[:, :16], s1[:, :, :16] = 0, np.nan
    s2[:, 20, ::3, 4], s1[:, 24, ::3, 1] = 0, np.inf
    return s2, s1


def real_tile(real: Path) -> tuple[np.ndarray, np.ndarray]:
    """The tile of 510 x 510 pixels of `dwplus_mini`, as a batch of one."""
    for path in (real / "dwplus_mini" / "s2").glob("*.tif"):
        with rasterio.open(path) as s2, rasterio.open(real / "dwplus_mini" / "s1" / path.name) as s1:
            if s2.width == 510:
                return tuple(np.moveaxis(file.read(), 0, -1)[None] for file in (s2, s1))
    raise AssertionError("no tile of 510 pixels")


def expected(trained: Trained, s2: np.ndarray, s1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and class map by `model.apply`."""
    seen = (s2 != bands.S2_NODATA).all(axis=-1), np.isfinite(s1).all(axis=-1)
    if trained.config.may_miss == ("s2", "s1"):
        valid = seen[0] | seen[1]
        s2 = np.where(seen[0][..., None], s2, np.uint16(bands.S2_NODATA))
        s1 = np.where(seen[1][..., None], s1, np.float32(np.nan))
    else:
        valid = bands.valid_pixels(s2, s1, trained.config.model.sensors)
    logits = _logits(
        trained.variables,
        *preprocess.standardise(s2, s1, trained.statistics, trained.config.data.scaling),
        config=trained.config.model,
    )
    probabilities = np.asarray(jax.nn.softmax(logits / trained.temperature))
    return probabilities, np.where(valid, probabilities.argmax(-1), bands.IGNORE)
