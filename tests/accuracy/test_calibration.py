"""Calibration: error, Brier score and loss against plain numpy; a temperature that makes probabilities honest, kept and applied."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from scipy import optimize, special
from scored_tiles import tally_of, tiles

from specsar_jax import export
from specsar_jax.accuracy import calibration
from specsar_jax.maps import compiled
from specsar_jax.trained import loading, run_files
from specsar_jax.training import evaluation
from tfds_dwplus import bands


def fitted(label: np.ndarray, log_p: np.ndarray) -> dict:
    sums = jax.device_get(jax.jit(calibration.temperature_sums)(label, log_p))
    nll, slope = (sums[name].sum(axis=(0, 2), dtype=np.float64) for name in ("nll", "slope"))
    return calibration.best_temperature(int(sums["pixels"].sum()), nll, slope)


@pytest.mark.parametrize("case", [{"size": 160}, {"classes": (3,)}, {"share": 1.0}, {"labelled": 0.01}])
def test_against_plain_numpy(case):
    label, log_p = tiles(**case)
    ours = calibration.summarise(tally_of(label, log_p), 1.5)
    known = label != bands.IGNORE
    p, target = np.float64(np.asarray(jax.jit(jax.numpy.exp)(log_p)))[known], label[known]
    confidence, right = p.max(axis=-1), p.argmax(axis=-1) == target
    place = np.minimum(np.digitize(confidence, np.linspace(0, 1, 16)) - 1, 14)
    apart = [abs(right[place == i].sum() - confidence[place == i].sum()) for i in range(15)]
    assert ours["ece"] == pytest.approx(sum(apart) / len(target), abs=1e-9)
    one_hot = target[:, None] == np.arange(9)
    # A pixel's is float32, rounded up or down.
    expected = np.square(p - one_hot).sum(axis=-1).mean()
    assert ours["brier"] == pytest.approx(expected, abs=max(2.5e-7 / len(target) ** 0.5, 1e-9))
    assert ours["nll"] == pytest.approx(-np.float64(log_p)[known][one_hot].mean(), abs=1e-9)
    assert ours["temperature"] == 1.5
    for i, row in enumerate(ours["bins"]):
        assert row["pixels"] == (place == i).sum()
        assert (row["accuracy"] is None) == (row["confidence"] is None) == (row["pixels"] == 0)
        if row["pixels"]:
            assert row["low"] <= row["confidence"] <= row["high"] + 1e-7
            assert row["accuracy"] == pytest.approx(right[place == i].mean(), abs=1e-12)


def test_certain_and_right_is_perfect():
    label, _ = tiles()
    log_p = np.where(label[..., None] == np.arange(9), 0.0, -200.0).astype(np.float32)
    log_p[label == bands.IGNORE] = 0.0
    ours = calibration.summarise(tally_of(label, log_p))
    assert (ours["ece"], ours["brier"], ours["nll"]) == (0.0, 0.0, 0.0)
    assert ours["bins"][-1]["pixels"] == (label != bands.IGNORE).sum()  # a confidence of 1 is in the last bin


@pytest.mark.parametrize("factor", [3.0, 1.0, 0.4])
def test_temperature_is_the_one_of_the_smallest_loss(factor):
    label, log_p = tiles(size=160)
    log_p = np.asarray(jax.nn.log_softmax(factor * log_p))
    found = fitted(label, log_p)
    known = label != bands.IGNORE
    of = np.float64(log_p)[known], label[known][:, None]

    def nll(log_temperature: float) -> float:
        return -np.take_along_axis(special.log_softmax(of[0] / np.exp(log_temperature), axis=-1), of[1], axis=-1).mean()

    best = optimize.minimize_scalar(nll, bounds=np.log([0.125, 8.0]), method="bounded")
    assert found["temperature"] == pytest.approx(np.exp(best.x), rel=2e-3)
    assert found["nll_before"] == pytest.approx(nll(0.0), abs=1e-6)
    assert found["nll_after"] == pytest.approx(best.fun, abs=1e-4)  # between two temperatures it is a cubic


def test_an_overconfident_network_cools_down_and_is_better_calibrated():
    label, log_p = tiles(size=160)
    log_p = np.asarray(jax.nn.log_softmax(4 * log_p))
    found = fitted(label, log_p)
    assert found["temperature"] > 2 and found["nll_after"] < found["nll_before"]
    before = calibration.summarise(tally_of(label, log_p))
    after = calibration.summarise(tally_of(label, np.asarray(jax.nn.log_softmax(log_p / found["temperature"]))))
    assert after["nll"] == pytest.approx(found["nll_after"], abs=1e-4)
    assert after["ece"] < before["ece"] and after["brier"] < before["brier"]


def test_where_nothing_can_be_fitted_it_is_one():
    label, log_p = tiles(labelled=0.0)
    assert fitted(label, log_p) == {"temperature": 1.0, "nll_before": None, "nll_after": None}
    label, log_p = tiles()
    assert fitted(label, np.full_like(log_p, np.nan))["temperature"] == 1.0
    assert fitted(label, np.full_like(log_p, -np.log(9)))["temperature"] == 1.0  # whatever it is, the loss is the same
    separable = np.asarray(jax.nn.log_softmax(np.where(label[..., None] == np.arange(9), 1.0, 0.0).astype(np.float32)))
    assert fitted(label, separable)["temperature"] == pytest.approx(calibration.TEMPERATURES[0])


def test_it_is_kept_applied_and_exported(small_run, tmp_path):
    run = small_run / "run"
    kept = json.loads((run / "calibration.json").read_text())
    trained = loading.load_trained(run)
    assert (kept["split"], kept["step"]) == ("validation", trained.step)
    assert trained.temperature == kept["temperature"] != 1.0
    assert run_files.read_calibration(run, trained.step + 1) is None  # other weights have another one
    bundle = tmp_path / "b.safetensors"
    export.main(["--workdir", str(run), "--format", "safetensors", "--output", str(bundle)])
    assert loading.load_trained(bundle).temperature == trained.temperature

    data = str(small_run / "data")
    plain = dataclasses.replace(trained, temperature=1.0)
    before, after = (evaluation.evaluate(of, data, "mine", "validation") for of in (plain, trained))
    assert after["calibration"]["temperature"] == kept["temperature"]
    assert before["calibration"]["nll"] == pytest.approx(kept["nll_before"], abs=1e-5)
    assert after["calibration"]["nll"] == pytest.approx(kept["nll_after"], abs=1e-4)
    assert after["calibration"]["nll"] < before["calibration"]["nll"]
    assert after["loss"] == before["loss"]  # that of the training

    s2, s1 = np.ones((1, 64, 64, 9), np.uint16) * 900, np.full((1, 64, 64, 2), -12.0, np.float32)
    one, two = (np.asarray(compiled.make_probabilities(of)(s2, s1), np.float64) for of in (plain, trained))
    expected = one ** (1 / trained.temperature)
    np.testing.assert_allclose(two, expected / expected.sum(axis=-1, keepdims=True), rtol=1e-4)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "calibration.json").write_text('{"temperature": -1, "step": 3}')
    with pytest.raises(ValueError, match=r"calibration\.json holds no temperature .*remove it"):
        run_files.read_calibration(tmp_path, 3)
