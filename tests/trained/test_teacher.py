"""A network that labels the crops of a run: its labels, where it gives none, what does not fit, and a whole run."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config
from finished_runs import losses, weights

from specsar_jax.batches.preprocess import Statistics, standardise
from specsar_jax.config import Config, Data, Model, Train
from specsar_jax.network import model
from specsar_jax.network.probabilities import log_probabilities
from specsar_jax.trained.loading import load_trained
from specsar_jax.trained.teacher import load_teacher
from specsar_jax.training import loop
from tfds_dwplus import bands


@pytest.fixture(scope="module")
def run(small_run, tmp_path_factory):
    """A finished run of two steps that learnt from the network of `small_run`."""
    workdir = tmp_path_factory.mktemp("taught") / "run"
    loop.train(taught(small_run), workdir)
    return workdir


def taught(small_run, *more: str) -> Config:
    return small_config(
        small_run, f"train.teacher={small_run / 'run'}", "train.steps=2", "loss.name=soft", "loss.sharpness=4",
        "data.mosaic=0.5", "data.haze=300", "data.scaling=log", "train.teacher_confidence=0", *more,
    )  # fmt: skip


def teacher_of(small_run, confidence: float):
    config = load_trained(small_run / "run").config
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, s2_bands=config.data.s2_bands[::-1]),
        train=dataclasses.replace(config.train, teacher_confidence=confidence),
    )
    statistics = Statistics.read(small_run / "run" / "statistics.json")
    return load_teacher(small_run / "run", config, statistics, bands.S2_BANDS)


def test_labels_are_the_teachers_in_its_order_of_bands_and_only_where_there_are_data(small_run):
    rng = np.random.default_rng(0)
    s2 = rng.integers(200, 4000, (1, 64, 64, 9)).astype(np.uint16)
    s1 = rng.normal(-12, 3, (1, 64, 64, 2)).astype(np.float32)
    s2[0, 0, 0, 3], s1[0, 0, 1, 1] = 0, np.nan
    batch = {"s2": s2[..., ::-1], "s1": s1, "label": np.full((1, 64, 64), bands.IGNORE)}
    batch = jax.tree.map(jnp.asarray, batch)
    teacher = teacher_of(small_run, 0.0)
    trained = teacher.trained
    log_p = log_probabilities(
        trained.variables, *standardise(s2, s1, trained.statistics), config=trained.config.model,
        temperature=trained.temperature,
    )  # fmt: skip
    made = teacher.label(trained.variables, batch, ("s2",))
    np.testing.assert_allclose(made["probability"], np.exp(log_p), atol=1e-6)
    expected = np.array(log_p).argmax(-1)
    expected[0, 0, :2] = bands.IGNORE
    np.testing.assert_array_equal(made["label"], expected)
    assert made["label"].dtype == np.uint8

    best = float(np.exp(log_p).max())
    sure = teacher_of(small_run, best).label(trained.variables, batch, ("s2",))
    assert (np.asarray(sure["label"]) != bands.IGNORE).sum() <= 2


def test_a_run_says_who_labelled_and_is_the_same_again(run, small_run, tmp_path):
    statistics = json.loads((run / "statistics.json").read_text())
    (name,) = statistics["labelled_by"]
    assert name.startswith("network: specsar_former ") and load_trained(small_run / "run").sha256[:12] in name
    loop.train(taught(small_run), tmp_path / "again")
    assert losses(tmp_path / "again") == losses(run)
    for one, two in zip(weights(tmp_path / "again"), weights(run), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("model_config", "held", "said"),
    [
        (Model(branches="spectral"), bands.S2_BANDS, "reads s1, which the network to be trained does not read"),
        (Model(), bands.S2_BANDS[:4], "reads B6, B7, B8, B11, B12, which the data set lacks"),
    ],
)
def test_a_teacher_that_reads_what_the_run_does_not_hold(small_run, model_config, held, said):
    config = Config(model=model_config, data=Data(s2_bands=held))
    statistics = Statistics.read(small_run / "run" / "statistics.json")
    with pytest.raises(ValueError, match=said):
        load_teacher(small_run / "run", config, statistics, held)


def test_a_teacher_reads_bands_that_the_student_does_not(small_run, tmp_path):
    """Whoever has four bands learns from a network of nine, on tiles of nine."""
    few = ("B8", "B2", "B4", "B3")
    config = taught(small_run, f"data.s2_bands=({','.join(few)})")
    statistics = Statistics.read(small_run / "run" / "statistics.json")
    teacher = load_teacher(small_run / "run", config, statistics, bands.S2_BANDS)
    assert teacher.s2_bands[:4] == few and sorted(teacher.s2_bands) == sorted(bands.S2_BANDS)
    rng = np.random.default_rng(0)
    s2 = rng.integers(200, 4000, (1, 64, 64, 9)).astype(np.uint16)
    s1 = jnp.asarray(rng.normal(-12, 3, (1, 64, 64, 2)), jnp.float32)
    batch = {"s1": s1, "label": jnp.full((1, 64, 64), bands.IGNORE, jnp.uint8)}
    order = [bands.S2_BANDS.index(name) for name in teacher.s2_bands]
    made = teacher.label(teacher.trained.variables, batch | {"s2": jnp.asarray(s2[..., order])}, ("s2", "s1"))
    whole = teacher_of(small_run, 0.0).label(
        teacher.trained.variables, batch | {"s2": jnp.asarray(s2[..., ::-1])}, ("s2", "s1")
    )
    np.testing.assert_array_equal(made["label"], whole["label"])
    np.testing.assert_array_equal(made["s2"], s2[..., order[:4]])

    loop.train(config, tmp_path / "few")
    trained = load_trained(tmp_path / "few")
    assert trained.bands["s2"] == few and trained.statistics.s2.bands == few


def test_no_band_is_dropped_before_a_teacher():
    with pytest.raises(ValueError, match=r"data\.band_drop and data\.sensor_drop take data away from train\.teacher"):
        Config(train=Train(teacher="a"), data=Data(band_drop=0.1))


def test_a_teacher_that_is_not_there(small_run, tmp_path):
    with pytest.raises(ValueError, match="no workdir or bundle"):
        loop.train(small_config(small_run, f"train.teacher={tmp_path / 'none'}"), tmp_path / "run")


def test_the_tree_of_weights_is_no_constant_of_the_program(small_run):
    teacher = teacher_of(small_run, 0.0)
    batch = {"s2": jnp.ones((1, 64, 64, 9), jnp.uint16), "s1": jnp.zeros((1, 64, 64, 2))}
    batch["label"] = jnp.full((1, 64, 64), bands.IGNORE, jnp.uint8)
    zero = jax.tree.map(np.zeros_like, model.for_inference(teacher.trained.variables, teacher.trained.config.model))
    made = jax.jit(lambda variables: teacher.label(variables, batch, ("s2",)))(zero)
    np.testing.assert_allclose(made["probability"], 1 / 9, atol=1e-6)


def test_what_the_labels_of_the_tiles_call_water_stays_water(small_run):
    """Dynamic World's network takes the darkest water for trees; its labels on disk do not, by `labelling.water`."""
    rng = np.random.default_rng(0)
    s2 = rng.integers(200, 4000, (1, 64, 64, 9)).astype(np.uint16)
    label = np.full((1, 64, 64), bands.IGNORE, np.uint8)
    label[0, :8] = bands.CLASSES.index("water")
    label[0, 8:16] = bands.CLASSES.index("built")
    batch = {"s2": s2, "s1": rng.normal(-12, 4, (1, 64, 64, 2)).astype(np.float32), "label": label}
    teacher = teacher_of(small_run, 0.5)
    made, free = (
        teacher.label(teacher.trained.variables, jax.tree.map(jnp.asarray, of), ("s2", "s1"))
        for of in (batch, batch | {"label": np.full_like(label, bands.IGNORE)})
    )
    assert (np.asarray(made["label"])[0, :8] == 0).all()
    np.testing.assert_array_equal(np.asarray(made["probability"])[0, :8], np.broadcast_to(np.eye(9)[0], (8, 64, 9)))
    np.testing.assert_array_equal(made["label"][0, 8:], free["label"][0, 8:])
