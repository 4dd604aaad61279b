"""The network: size, the decoder against its plain form, what reaches what."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specsar_jax import model
from specsar_jax.config import PRESETS, Model, model_preset

# Two stages hold every kind of part and compile in seconds.
SMALL = Model(widths=(16, 32), blocks=(1, 2), heads=(1, 2), reductions=(4, 2), decoder_width=16)


def inputs(height: int = 64, width: int = 64, batch: int = 2) -> tuple[jax.Array, jax.Array]:
    one, two = jax.random.split(jax.random.key(1))
    return jax.random.normal(one, (batch, height, width, 9)), jax.random.normal(two, (batch, height, width, 2))


@pytest.fixture(scope="module")
def variables() -> model.Variables:
    return model.init_params(SMALL, jax.random.key(0))


@functools.partial(jax.jit, static_argnames="config")
def logits_of(variables: model.Variables, s2: jax.Array, s1: jax.Array, config: Model = SMALL) -> jax.Array:
    return model.apply(variables, s2, s1, config=config)


def count(config: Model) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(model.abstract_params(config)["params"]))


def test_parameters_of_the_paper():
    assert count(model_preset("specsar_former")) == pytest.approx(26.70e6, rel=0.005)
    # To the last one, those of an independent PyTorch form of the same text.
    assert count(model_preset("specsar_former")) == 26_758_681


@pytest.mark.slow
def test_work_of_a_tile():
    config = model_preset("specsar_former")
    shapes = [jax.ShapeDtypeStruct((1, 510, 510, bands), jnp.float32) for bands in (9, 2)]
    compiled = logits_of.lower(model.abstract_params(config), *shapes, config=config).compile()
    assert compiled.cost_analysis()["flops"] <= 60e9  # the paper states 109.59


def test_initial_values_have_the_shapes_stated_and_follow_the_key(variables):
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables)
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), model.abstract_params(SMALL))
    traced = jax.jit(model.init_params, static_argnums=0)(SMALL, jax.random.key(0))
    for one, two in zip(jax.tree.leaves(variables), jax.tree.leaves(traced), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)
    kernel = variables["params"]["stage2"]["blocks"]["spectral_ffn"]["expand"]["kernel"]
    assert kernel.shape[0] == 2 and 0.01 < kernel.std() < 0.025
    assert not np.array_equal(kernel[0], kernel[1])
    other = model.init_params(SMALL, jax.random.key(1))
    assert not np.array_equal(other["params"]["decoder"]["join"], variables["params"]["decoder"]["join"])


def plain_decoder(params: dict, features: tuple[jax.Array, ...]) -> jax.Array:
    """The decoder as the paper's text has it: project, upsample, concatenate, join. Up to the BatchNorm."""
    size = features[0].shape[1:3]
    projected = [
        model.resize_bilinear(f @ params[f"project{i}_kernel"] + params[f"project{i}_bias"], size)
        for i, f in enumerate(features, start=1)
    ]
    return jnp.concatenate(projected, axis=-1) @ params["join"].reshape(-1, params["join"].shape[-1])


def test_factored_decoder_equals_its_plain_twin_in_outputs_and_gradients():
    config = Model(widths=(8, 16, 24, 32), decoder_width=24)
    keys = jax.random.split(jax.random.key(0), 8)
    features = tuple(
        jax.random.normal(keys[i], (2, s, s, c)) for i, (s, c) in enumerate(((32, 8), (16, 16), (8, 24), (4, 32)))
    )
    decoder = model.Decoder(config, train=False)
    initial = decoder.init(keys[4], features)
    params = jax.tree.map(lambda leaf: jax.random.normal(keys[5], leaf.shape), initial["params"])

    def factored(params, features):
        return decoder.apply({"params": params, "batch_stats": initial["batch_stats"]}, features)

    def plain(params, features):
        norm, classify = params["norm"], params["classify"]
        hidden = jax.nn.relu(plain_decoder(params, features) / jnp.sqrt(1 + 1e-5) * norm["scale"] + norm["bias"])
        return hidden @ classify["kernel"] + classify["bias"]

    def close(one, two):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            assert np.abs(a - b).max() < 1e-5 * np.abs(b).max()

    with jax.default_matmul_precision("highest"):
        close(factored(params, features), plain(params, features))
        gradients = [
            jax.grad(lambda p, f, g=g: (g(p, f) ** 2).mean(), argnums=(0, 1))(params, features)
            for g in (factored, plain)
        ]
    close(*gradients)


def test_depthwise_equals_grouped_convolution_and_its_gradients():
    x = jax.random.normal(jax.random.key(0), (2, 7, 9, 5))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 5))

    def grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        kernel = kernel[:, :, None]
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=5)

    np.testing.assert_allclose(model.depthwise_3x3(x, kernel), grouped(x, kernel), rtol=1e-4, atol=1e-5)
    gradient = jax.random.normal(jax.random.key(2), x.shape)
    given, wanted = (jax.vjp(f, x, kernel)[1](gradient) for f in (model.depthwise_3x3, grouped))
    for one, two in zip(given, wanted, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 70), (120, 61)])
def test_any_size_from_32(variables, height, width):
    shape = jax.eval_shape(lambda a, b: model.apply(variables, a, b, config=SMALL), *inputs(height, width))
    assert (shape.shape, shape.dtype) == ((2, height, width, 9), jnp.float32)


def test_an_odd_size_runs_and_is_finite(variables):
    assert np.isfinite(logits_of(variables, *inputs(33, 70))).all()


def test_wrong_shapes_are_named():
    for s2, s1 in (
        ((1, 64, 64, 8), (1, 64, 64, 2)),
        ((1, 64, 64, 9), (1, 64, 64, 1)),
        ((1, 31, 64, 9), (1, 31, 64, 2)),
        ((1, 40, 64, 9), (1, 64, 64, 2)),
        ((64, 64, 9), (64, 64, 2)),
    ):
        with pytest.raises(ValueError, match="shape"):
            model.check_inputs(s2, s1, SMALL)


def test_tiles_of_a_batch_do_not_mix(variables):
    s2, s1 = inputs()
    np.testing.assert_allclose(logits_of(variables, s2[::-1], s1[::-1]), logits_of(variables, s2, s1)[::-1], atol=1e-6)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "tiny"])
def test_presets_read_the_sensors_that_they_say(name):
    sizes = {field: getattr(SMALL, field) for field in ("widths", "blocks", "heads", "reductions", "decoder_width")}
    config = dataclasses.replace(PRESETS[name], **sizes)
    variables = model.init_params(config, jax.random.key(0))
    s2, s1 = inputs(32, 32, 1)
    logits = logits_of(variables, s2, s1, config)
    for sensor, moved in (
        ("s2", logits_of(variables, s2 + 1, s1, config)),
        ("s1", logits_of(variables, s2, s1 + 1, config)),
    ):
        change = np.abs(moved - logits).max() / np.abs(logits).max()
        assert change > 0.01 if sensor in config.sensors else change == 0, sensor


def test_every_weight_has_a_finite_gradient(variables):
    s2, s1 = inputs(64, 64, 2)

    @jax.jit
    def gradient(params: dict) -> dict:
        def loss(params: dict) -> jax.Array:
            logits, _ = model.apply_train(
                {"params": params, "batch_stats": variables["batch_stats"]}, s2, s1, config=SMALL, rng=jax.random.key(0)
            )
            return (logits**2).mean()

        return jax.grad(loss)(params)

    # Ten times the initial weights: at first attention hardly chooses, and its gradients drown in rounding.
    gradients = jax.tree.leaves_with_path(gradient(jax.tree.map(lambda leaf: 10 * leaf, variables["params"])))
    largest = max(np.abs(leaf).max() for _, leaf in gradients)
    for path, leaf in gradients:
        assert np.isfinite(leaf).all(), path
        names = [key.key for key in path]
        # A key's bias moves all logits of a softmax alike; a projection's bias is taken out again by BatchNorm.
        if names[-2:] == ["key", "bias"] or (names[0] == "decoder" and names[-1].endswith("_bias")):
            continue
        assert np.abs(leaf).max() > 1e-12 * largest, path


def test_bfloat16_computes_near_float32_and_gives_float32(variables):
    s2, s1 = inputs()
    full = logits_of(variables, s2, s1)
    half = logits_of(variables, s2, s1, dataclasses.replace(SMALL, compute_dtype="bfloat16"))
    assert half.dtype == jnp.float32
    assert 0 < np.abs(full - half).max() < 0.05 * np.abs(full).max()
