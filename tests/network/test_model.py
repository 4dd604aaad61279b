"""The network: size, the decoder against its plain form, what reaches what."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specsar_jax.config import PRESETS, Model, model_preset
from specsar_jax.network import model, on_cpu, resizing
from specsar_jax.network.decoder import Decoder

# Two stages hold every kind of part and compile in seconds.
SIZES = {"widths": (16, 32), "blocks": (1, 2), "heads": (1, 2), "reductions": (4, 2), "decoder_width": 16}
SMALL = Model(**SIZES)


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
def test_work_of_a_tile(monkeypatch):
    monkeypatch.setattr(on_cpu, "BAND_BYTES", 2**60)  # no loops over bands
    config = model_preset("specsar_former", loop_blocks_from=99)  # of a loop, one turn would be counted
    shapes = [jax.ShapeDtypeStruct((1, 510, 510, bands), jnp.float32) for bands in (9, 2)]
    compiled = logits_of.lower(model.abstract_params(config), *shapes, config=config).compile()
    assert compiled.cost_analysis()["flops"] <= 60e9  # the paper states 109.59


def test_initial_values_have_the_shapes_stated_and_follow_the_key(variables):
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables)
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), model.abstract_params(SMALL))
    traced = jax.jit(model.init_params, static_argnums=0)(SMALL, jax.random.key(0))
    for one, two in zip(jax.tree.leaves(variables), jax.tree.leaves(traced), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-8)  # of values near 0.02
    kernel = variables["params"]["stage2"]["blocks"]["spectral_ffn"]["expand"]["kernel"]
    assert kernel.shape[0] == 2 and 0.01 < kernel.std() < 0.025
    assert not np.array_equal(kernel[0], kernel[1])
    other = model.init_params(SMALL, jax.random.key(1))
    one, two = (v["params"]["decoder"]["join1_kernel"] for v in (variables, other))
    assert not np.array_equal(one, two)


def plain_decoder(params: dict, features: tuple[jax.Array, ...]) -> jax.Array:
    """The decoder as the paper's text has it: project, upsample, concatenate, join. Up to the BatchNorm."""
    size = features[0].shape[1:3]
    projected = [
        resizing.resize_bilinear(f @ params[f"project{i}_kernel"] + params[f"project{i}_bias"], size)
        for i, f in enumerate(features, start=1)
    ]
    return jnp.concatenate(projected, axis=-1) @ jnp.concatenate([params[f"join{i}_kernel"] for i in (1, 2, 3, 4)])


@pytest.mark.parametrize("train", [False, True])
def test_factored_decoder_equals_its_plain_twin_in_outputs_and_gradients(train):
    config = Model(widths=(8, 16, 24, 32), heads=(1, 1, 1, 1), decoder_width=24)
    keys = jax.random.split(jax.random.key(0), 8)
    features = tuple(
        jax.random.normal(keys[i], (2, s, s, c)) for i, (s, c) in enumerate(((32, 8), (16, 16), (8, 24), (4, 32)))
    )
    decoder = Decoder(config, train)
    initial = Decoder(config, train=False).init(keys[4], features)
    params = jax.tree.map(lambda leaf: jax.random.normal(keys[5], leaf.shape), initial["params"])
    # Running moments that are not 0 and 1: they go into the weights.
    moments = {"mean": jax.random.normal(keys[6], (24,)), "var": 1 + jax.random.uniform(keys[7], (24,))}
    batch_stats = {"norm": moments}

    def factored(params, features):
        variables = {"params": params, "batch_stats": batch_stats}
        return decoder.apply(variables, features, mutable=["batch_stats"], rngs={"dropout": keys[0]})[0]

    def plain(params, features):
        norm, joined = params["norm"], plain_decoder(params, features)
        mean, var = (joined.mean((0, 1, 2)), joined.var((0, 1, 2))) if train else (moments["mean"], moments["var"])
        hidden = jax.nn.relu((joined - mean) / jnp.sqrt(var + 1e-5) * norm["scale"] + norm["bias"])
        return hidden @ params["classify_kernel"] + params["classify_bias"]

    def close(one, two):
        largest = max(np.abs(b).max() for b in jax.tree.leaves(two))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            # Where the true gradient is zero (biases that BatchNorm takes out again) there is only rounding.
            assert np.abs(a - b).max() < 1e-5 * max(np.abs(b).max(), 1e-2 * largest)

    with jax.default_matmul_precision("highest"):
        close(factored(params, features), plain(params, features))
        gradients = [
            jax.grad(lambda p, f, g=g: (g(p, f) ** 2).mean(), argnums=(0, 1))(params, features)
            for g in (factored, plain)
        ]
    close(*gradients)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 70), (120, 61)])
def test_any_size_from_32(variables, height, width):
    shape = jax.eval_shape(lambda a, b: model.apply(variables, a, b, config=SMALL), *inputs(height, width))
    assert (shape.shape, shape.dtype) == ((2, height, width, 9), jnp.float32)


def test_an_odd_size_runs_and_is_finite(variables):
    assert np.isfinite(logits_of(variables, *inputs(33, 70))).all()


def test_wrong_shapes_are_named_with_what_was_expected():
    for s2, s1, named, expected in (
        ((1, 64, 64, 8), (1, 64, 64, 2), "s2 has shape (1, 64, 64, 8)", "[batch, height, width, 9]"),
        ((1, 64, 64, 9), (1, 64, 64, 1), "s1 has shape (1, 64, 64, 1)", "[batch, height, width, 2]"),
        ((1, 31, 64, 9), (1, 31, 64, 2), "s2 has shape (1, 31, 64, 9)", "at least 32 pixels"),
        ((1, 40, 64, 9), (1, 64, 64, 2), "s2 has shape (1, 40, 64, 9) and s1 (1, 64, 64, 2)", "must agree"),
        ((64, 64, 9), (64, 64, 2), "s2 has shape (64, 64, 9)", "[batch, height, width, 9]"),
        ((1, 64, 64, 9), None, "s1 has shape None", "[batch, height, width, 2]"),
    ):
        with pytest.raises(ValueError) as error:
            model.check_inputs(s2, s1, SMALL)
        assert named in str(error.value) and expected in str(error.value)


def test_a_sensor_that_is_not_read_may_be_absent():
    s2, s1 = inputs(32, 32, 1)
    for name, given in (("spectral_only", (s2, None)), ("sar_only", (None, s1))):
        config = dataclasses.replace(PRESETS[name], **SIZES)
        variables = model.init_params(config, jax.random.key(0))
        np.testing.assert_array_equal(logits_of(variables, *given, config), logits_of(variables, s2, s1, config))


def test_tiles_of_a_batch_do_not_mix(variables):
    s2, s1 = inputs()
    np.testing.assert_allclose(logits_of(variables, s2[::-1], s1[::-1]), logits_of(variables, s2, s1)[::-1], atol=1e-6)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "tiny"])
def test_presets_read_the_sensors_that_they_say(name):
    config = PRESETS[name] if name.startswith("dynamic_world") else dataclasses.replace(PRESETS[name], **SIZES)
    variables = model.init_params(config, jax.random.key(0))
    if "sar" in variables["params"]:  # drawn as zeros
        variables["params"]["sar"]["kernel"] += 0.1 * np.arange(config.classes)
    s2, s1 = inputs(32, 32, 1)
    logits = logits_of(variables, s2, s1, config)
    for sensor, moved in (
        ("s2", logits_of(variables, s2 + 1, s1, config)),
        ("s1", logits_of(variables, s2, s1 + 1, config)),
    ):
        change = np.abs(moved - logits).max() / np.abs(logits).max()
        assert change > 0.01 if sensor in config.sensors else change == 0, sensor


@functools.partial(jax.jit, static_argnames="config")
def gradient_of(
    params: dict, batch_stats: dict, s2: jax.Array, s1: jax.Array, config: Model = SMALL
) -> tuple[jax.Array, dict]:
    """A loss that no symmetry makes blind, and its gradient."""
    pattern = jnp.sin(jnp.arange(s2.size // s2.shape[-1] * config.classes, dtype=s2.dtype))

    def loss(params: dict) -> jax.Array:
        variables = {"params": params, "batch_stats": batch_stats}
        logits, _ = model.apply_train(variables, s2, s1, config=config, rng=jax.random.key(0))
        return (logits**2).mean() + (logits.ravel() * pattern).mean()

    return jax.value_and_grad(loss)(params)


def seen(path: tuple, gradient: np.ndarray) -> np.ndarray:
    """The part of a gradient that can be other than zero: a key's bias moves all logits of a softmax alike; a
    projection's bias is taken out again by BatchNorm.
    """
    names = [key.key for key in path]
    if names[-2:] == ["key_value", "bias"]:
        return np.split(gradient, 2, axis=-1)[1]
    return gradient[:0] if names[0] == "decoder" and re.fullmatch(r"project\d_bias", names[-1]) else gradient


# Of dynamic_world, BatchNorm takes away the biases of the convolutions before it: their gradients are 0 but for rounding.
@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("dynamic_world")])
def test_every_weight_has_a_finite_gradient(name):
    config = dataclasses.replace(PRESETS[name], **SIZES)
    variables = model.init_params(config, jax.random.key(0))
    # Ten times the initial weights: at first attention hardly chooses, and its gradients drown in rounding.
    params = jax.tree.map(lambda leaf: 10 * leaf, variables["params"])
    _, gradient = gradient_of(params, variables["batch_stats"], *inputs(64, 64, 2), config)
    gradients = jax.tree.leaves_with_path(gradient)
    largest = max(np.abs(leaf).max() for _, leaf in gradients)
    for path, leaf in gradients:
        assert np.isfinite(leaf).all(), path
        leaf = seen(path, leaf)
        if leaf.size:
            assert np.abs(leaf).max() > 1e-12 * largest, path


def test_gradients_agree_with_finite_differences():
    with jax.enable_x64(True):
        config = dataclasses.replace(SMALL, decoder_width=8)
        object.__setattr__(config, "compute_dtype", "float64")  # not a user's choice: accelerators have none
        variables = jax.tree.map(
            lambda leaf: np.asarray(leaf, np.float64), model.init_params(config, jax.random.key(0))
        )
        rng = np.random.default_rng(0)
        params = jax.tree.map(lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape), variables["params"])
        s2, s1 = (np.asarray(x, np.float64) for x in inputs(40, 36, 2))

        def loss(params: dict) -> tuple[float, dict]:
            value, gradient = gradient_of(params, variables["batch_stats"], s2, s1, config)
            return float(value), gradient

        _, gradient = loss(params)
        leaves, structure = jax.tree.flatten(params)
        for place, (path, slope) in enumerate(jax.tree.leaves_with_path(gradient)):
            direction = rng.normal(size=slope.shape)

            def moved(step: float, place: int = place, direction: np.ndarray = direction) -> float:
                there = [leaf + step * direction if i == place else leaf for i, leaf in enumerate(leaves)]
                return loss(structure.unflatten(there))[0]

            difference = (moved(1e-6) - moved(-1e-6)) / 2e-6
            assert float((slope * direction).sum()) == pytest.approx(difference, rel=1e-4, abs=1e-7), path


@pytest.mark.parametrize(
    "change", [{"rematerialise": True}, {"loop_blocks_from": 1}, {"rematerialise": True, "loop_blocks_from": 1}]
)
def test_how_blocks_are_compiled_does_not_change_the_gradient(variables, change):
    config = dataclasses.replace(SMALL, drop_path=0.3)
    params, batch_stats = variables["params"], variables["batch_stats"]
    wanted = gradient_of(params, batch_stats, *inputs(), config)
    given = gradient_of(params, batch_stats, *inputs(), dataclasses.replace(config, **change))
    for one, two in zip(jax.tree.leaves(given), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-6)


def test_stochastic_depth_and_dropout_are_off_at_evaluation(variables):
    config = dataclasses.replace(SMALL, drop_path=0.5, dropout=0.5)
    s2, s1 = inputs()
    np.testing.assert_array_equal(logits_of(variables, s2, s1, config), logits_of(variables, s2, s1))

    @functools.partial(jax.jit, static_argnames="config")
    def trained(rng: jax.Array, config: Model) -> jax.Array:
        return model.apply_train(variables, s2, s1, config=config, rng=rng)[0]

    for field in ("drop_path", "dropout"):
        config = dataclasses.replace(SMALL, **{field: 0.5})
        one, again, other = (trained(jax.random.key(seed), config) for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, again)
        assert np.abs(one - other).max() > 1e-6, field


def test_bfloat16_computes_near_float32_and_gives_float32(variables):
    s2, s1 = inputs()
    full = logits_of(variables, s2, s1)
    half = logits_of(variables, s2, s1, dataclasses.replace(SMALL, compute_dtype="bfloat16"))
    assert half.dtype == jnp.float32
    assert 0 < np.abs(full - half).max() < 0.05 * np.abs(full).max()


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_variables_for_inference_give_the_same_logits(variables, compute_dtype):
    config = dataclasses.replace(SMALL, compute_dtype=compute_dtype)
    apart = model.for_inference(variables, config)
    assert len(apart["params"]["stage2"]["blocks"]) == 2
    one, two = (logits_of(of, *inputs(), config) for of in (variables, apart))
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5 * np.abs(one).max())
