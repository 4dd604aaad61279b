"""Products of few digits, as accelerators make them of float32 by default, against float64: classes and gradients."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rasterio
from rounded_products import on_platform

from specsar_jax.accuracy import metrics
from specsar_jax.batches import preprocess
from specsar_jax.config import Config, Loss, Model
from specsar_jax.network import model
from specsar_jax.trained.bundle import read_bundle
from specsar_jax.training import losses
from tfds_dwplus import bands

BUNDLE = Path(__file__).parents[1] / "bundles" / "bundle_1.safetensors"
"""A trained network, whose weights are the same however the tests compile."""

SQUARE_PX = 64


@pytest.fixture(scope="module")
def squares(real) -> tuple[np.ndarray, np.ndarray]:
    """Sentinel-2 and Sentinel-1 of real tiles, cut into squares."""
    cut: dict[str, list[np.ndarray]] = {"s2": [], "s1": []}
    for path in sorted((real / "dwplus_mini" / "s2").glob("*.tif")):
        for sensor, squares in cut.items():
            with rasterio.open(real / "dwplus_mini" / sensor / path.name) as file:
                raster = np.moveaxis(file.read(), 0, -1)
            rows, columns = (side // SQUARE_PX for side in raster.shape[:2])
            raster = raster[: rows * SQUARE_PX, : columns * SQUARE_PX]
            raster = raster.reshape(rows, SQUARE_PX, columns, SQUARE_PX, -1).swapaxes(1, 2)
            squares += list(raster.reshape(-1, SQUARE_PX, SQUARE_PX, raster.shape[-1]))
    return np.stack(cut["s2"]), np.stack(cut["s1"])


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_classes_of_real_tiles_are_those_of_float64(squares, platform, compute_dtype):
    trained = read_bundle(BUNDLE)
    valid = bands.valid_pixels(*squares, trained.config.model.sensors)
    inputs = preprocess.standardise(*squares, trained.statistics)
    rounded = on_platform(apply_in(trained.config, compute_dtype), platform)(trained.variables, *inputs)
    with jax.enable_x64(True):
        exact = jax.jit(apply_in(trained.config, "float64"))(*doubled((trained.variables, *inputs)))
    assert exact.dtype == jnp.float64 and valid.mean() > 0.9
    agreed = (np.asarray(rounded).argmax(axis=-1) == np.asarray(exact).argmax(axis=-1))[valid].mean()
    assert 0.995 <= agreed < 1.0  # all alike would mean that nothing was rounded


def computed_in(config: Model, compute_dtype: str) -> Model:
    """The config with another type, also with float64, which is none that a user may ask for."""
    config = dataclasses.replace(config)
    object.__setattr__(config, "compute_dtype", compute_dtype)
    return config


def apply_in(config: Config, compute_dtype: str) -> Callable:
    network = computed_in(config.model, compute_dtype)
    return lambda variables, s2, s1: model.apply(variables, s2, s1, config=network)


def doubled(tree: object) -> object:
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), tree)


@pytest.mark.parametrize(("platform", "tolerance"), [("cuda", 0.02), ("tpu", 0.04)])
def test_gradients_are_near_those_of_float64(platform, tolerance):
    """In the norm of the whole gradient. Factors have relative errors of 2^-12 and 2^-9; what they make of the gradient is mostly in
    the few channels of the decoder that come to lie on the other side of ReLU's bend.
    """
    config = Model(widths=(16, 32), blocks=(1, 2), heads=(1, 2), reductions=(4, 2), decoder_width=16)
    variables = model.init_params(config, jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 3)
    s2, s1 = (jax.random.normal(key, (2, 64, 64, bands)) for key, bands in zip(keys, (9, 2), strict=False))
    label = jax.random.randint(keys[2], (2, 64, 64), 0, 9)

    def gradient(compute_dtype: str) -> Callable:
        network = computed_in(config, compute_dtype)

        def loss(params: dict, batch_stats: dict, s2: jax.Array, s1: jax.Array) -> jax.Array:
            tree = {"params": params, "batch_stats": batch_stats}
            logits, _ = model.apply_train(tree, s2, s1, config=network, rng=jax.random.key(2))
            return losses.pixel_loss(logits, label, (1.0,) * 9, config=Loss())

        return jax.grad(loss)

    arguments = (variables["params"], variables["batch_stats"], s2, s1)
    rounded = on_platform(gradient("float32"), platform)(*arguments)
    with jax.enable_x64(True):
        exact = jax.jit(gradient("float64"))(*doubled(arguments))
    difference = norm(jax.tree.map(lambda one, two: np.asarray(one, np.float64) - np.asarray(two), rounded, exact))
    assert 0 < difference < tolerance * norm(exact)


def norm(tree: object) -> float:
    return float(np.sqrt(sum(np.square(np.asarray(leaf, np.float64)).sum() for leaf in jax.tree.leaves(tree))))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_scores_and_losses_are_the_same_in_the_forms_for_accelerators(platform):
    keys = jax.random.split(jax.random.key(0), 3)
    log_p = jax.nn.log_softmax(3 * jax.random.normal(keys[0], (2, 40, 30, 9)))
    label = jnp.where(
        jax.random.bernoulli(keys[1], 0.9, (2, 40, 30)), jax.random.randint(keys[2], (2, 40, 30), 0, 9), 255
    )
    arguments = (label.astype(jnp.uint8), log_p, label % 7 > 0)
    sums, wanted = (
        metrics.on_host(jax.device_get(form(*arguments)))
        for form in (on_platform(metrics.tile_sums, platform), jax.jit(metrics.tile_sums))
    )
    for name, values in sums.items():
        np.testing.assert_allclose(values, wanted[name], rtol=1e-6, err_msg=name)  # of counts that is equality

    def loss(logits: jax.Array) -> jax.Array:
        return losses.pixel_loss(logits, label, tuple(map(float, range(1, 10))), config=Loss(smoothing_expert=0.1))

    for given, wanted in zip(
        on_platform(jax.value_and_grad(loss), platform)(log_p), jax.value_and_grad(loss)(log_p), strict=True
    ):
        np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-8)
