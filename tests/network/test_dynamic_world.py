"""Dynamic World's network: its two forms agree, windows equal the whole, and the published weights give what TensorFlow gives."""

import jax
import numpy as np
import pytest
import rasterio
from scipy import ndimage

from specsar_jax.batches.preprocess import log_scaled
from specsar_jax.config import model_preset
from specsar_jax.import_dynamic_world import read_published
from specsar_jax.maps import windows
from specsar_jax.maps.compiled import make_probabilities
from specsar_jax.maps.mapping import map_pixels
from specsar_jax.network import dynamic_world, model
from tfds_dwplus import bands

CONFIG = model_preset("dynamic_world")


@pytest.fixture(scope="module")
def drawn():
    """Variables in which no moment is 0 or 1."""
    rng = np.random.default_rng(0)
    variables = dynamic_world.init_params(CONFIG, jax.random.key(0))
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape, np.float32), variables)
    return moved | {"batch_stats": jax.tree.map(np.abs, moved["batch_stats"])}


@jax.jit
def logits(variables, x):
    return model.apply(variables, x, None, config=CONFIG)


@jax.jit
def by_whole_maps(variables, x):
    params = dynamic_world.for_inference(variables, CONFIG)["params"]
    layers = {name: dynamic_world._get(params, name) for name in dynamic_world.kernel_shapes(CONFIG)}
    return dynamic_world._whole(layers, x)


def tile(*shape, seed=0):
    return np.random.default_rng(seed).random((*shape, 9), np.float32)


def test_rows_are_the_whole(drawn):
    x = tile(2, 66, 44)
    np.testing.assert_allclose(logits(drawn, x), by_whole_maps(drawn, x), atol=2e-5)
    np.testing.assert_allclose(
        logits(dynamic_world.for_inference(drawn, CONFIG), x), by_whole_maps(drawn, x), atol=2e-5
    )


def test_sizes(drawn):
    assert sum(leaf.size for leaf in jax.tree.leaves(drawn["params"])) == CONFIG.parameters == 225_513
    shapes = jax.tree.map(lambda leaf: leaf.shape, (drawn, dynamic_world.abstract_params(CONFIG)))
    assert shapes[0] == shapes[1]
    assert len(list(dynamic_world.variables_in_order(CONFIG))) == 146
    assert logits(drawn, tile(1, 61, 33)).shape == (1, 61, 33, 9)


def test_no_pixel_sees_beyond_the_margin(drawn):
    x, y = tile(1, 96, 64), tile(1, 96, 64, seed=1)
    row = 32
    y[:, : row + dynamic_world.MARGIN_PX] = x[:, : row + dynamic_world.MARGIN_PX]
    one, two = logits(drawn, x), logits(drawn, y)
    np.testing.assert_allclose(one[:, :row], two[:, :row], atol=2e-5)
    assert np.abs(one[:, row + 3 : row + 8] - two[:, row + 3 : row + 8]).max() > 1e-4


def test_training_moves_the_moments(drawn):
    x = tile(2, 32, 32)
    made, moments = jax.jit(lambda v, x: model.apply_train(v, x, None, config=CONFIG, rng=jax.random.key(0)))(drawn, x)
    assert made.shape == (2, 32, 32, 9)
    assert jax.tree.structure(moments) == jax.tree.structure(drawn["batch_stats"])
    before, after = (tree["stem"]["norm"]["mean"] for tree in (drawn["batch_stats"], moments))
    assert np.abs(after - before).max() > 1e-3


def test_backscatter_adds_logits_of_its_mean_around_each_pixel(drawn):
    """From zero weights on, which leave the network of Sentinel-2 alone as it is."""
    config, x = model_preset("dynamic_world_sar"), tile(1, 61, 33)
    s1 = np.random.default_rng(3).normal(0, 1, (1, 61, 33, 2)).astype(np.float32)
    layer = jax.tree.map(np.zeros_like, dynamic_world.init_params(config, jax.random.key(0))["params"]["sar"])
    both = drawn | {"params": drawn["params"] | {"sar": layer}}
    of_both = jax.jit(lambda v, x, s1: model.apply(v, x, s1, config=config))
    np.testing.assert_array_equal(of_both(both, x, s1), logits(drawn, x))

    rng = np.random.default_rng(4)
    layer.update(kernel=rng.normal(0, 1, (2, 9)).astype(np.float32), bias=rng.normal(0, 1, 9).astype(np.float32))
    around = (1, dynamic_world.SAR_MEAN_PX, dynamic_world.SAR_MEAN_PX, 1)
    total, count = (ndimage.uniform_filter(of, around, mode="constant") for of in (s1, np.ones_like(s1)))
    expected = np.asarray(logits(drawn, x)) + (total / count) @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(of_both(both, x, s1), expected, atol=1e-4)


@pytest.fixture(scope="module")
def published(real):
    return read_published(real / "dynamic_world_model")


def test_published_numbers(published):
    """What TensorFlow 2.21 gave of the published SavedModel for this input: probabilities, row 5 of both sizes."""
    for size, column, expected in NUMBERS:
        x = tile(1, size, size, seed=size)
        given = np.asarray(jax.nn.softmax(logits(published.variables, x)))[0, 5, column]
        np.testing.assert_allclose(given, expected, atol=1e-5)


NUMBERS = (
    (64, 40, (0.024102, 0.047934, 0.046594, 0.030929, 0.045857, 0.027353, 0.663488, 0.063148, 0.050597)),
    (61, 60, (0.052296, 0.042425, 0.075279, 0.072003, 0.038313, 0.035274, 0.381564, 0.070887, 0.23196)),
)
"""Size, column and nine probabilities."""


def test_windows_equal_the_whole(published, real):
    dn = largest_tile(real)[:200, :200]
    network, none = make_probabilities(published), np.zeros((200, 200, 0), np.float32)
    whole = np.asarray(network(dn[None], none[None]))[0]
    known = model.stride_and_margin(CONFIG)
    for origin in (0, 5):  # of an odd place on the grid too
        axis = windows.plan(200, 128, 2 * dynamic_world.MARGIN_PX / 128, origin, **known)
        assert len(axis.starts) > 1
        windowed = map_pixels(network, dn, none, bands.s2_seen(dn), axis, axis, 510, published.classes)
        seen = ~np.isnan(windowed[..., 0])
        assert seen.any()
        np.testing.assert_allclose(windowed[seen], whole[seen], atol=1e-5)
    assert windows.plan(377, 512, 0.1, 3, **known).window == 377  # one window, of any length


def largest_tile(real):
    path = max((real / "dwplus_mini" / "s2").glob("*.tif"), key=lambda path: path.stat().st_size)
    with rasterio.open(path) as raster:
        return np.moveaxis(raster.read(), 0, -1)


@pytest.mark.parametrize("infrared", [1, 5, 30])
def test_water_that_is_black_in_the_infrared_is_water(published, infrared):
    """A DN of 1 has data. Where all bands are as dark as that, the published network says trees, at 0.41."""
    dn = np.full((1, 64, 64, 9), infrared, np.uint16)
    dn[..., :4] = 900, 600, 350, 200
    given = make_probabilities(published)(dn, np.zeros((1, 64, 64, 0), np.float32))
    assert (np.asarray(given).argmax(-1) == bands.CLASSES.index("water")).all()


def test_tensorflow_says_the_same(published, real):
    tf = pytest.importorskip("tensorflow", reason="tensorflow, which runs the SavedModel, is not installed")
    saved = tf.saved_model.load(str(real / "dynamic_world_model"))
    for path in sorted((real / "dwplus_mini" / "s2").glob("*.tif")):
        with rasterio.open(path) as raster:
            x = np.asarray(log_scaled(np.moveaxis(raster.read(), 0, -1)[None], bands.S2_BANDS))
        theirs, ours = (np.asarray(jax.nn.softmax(y)) for y in (saved(x).numpy(), logits(published.variables, x)))
        assert np.abs(ours - theirs).max() < 1e-4
        assert (ours.argmax(-1) == theirs.argmax(-1)).mean() >= 0.9999
