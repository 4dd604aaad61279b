"""Areas of change by two evaluations: margins that are Olofsson's, a perfect score, variances against draws, and what is not sampled."""

import numpy as np
import pytest

from specsar_jax.accuracy.intervals import area_estimates
from specsar_jax.changes.estimating import estimates
from tfds_dwplus import bands

BEFORE = np.array([[180, 12, 3], [15, 90, 10], [5, 18, 67]])
"""Rows = label, columns = mapped."""
AFTER = np.array([[95, 10, 9], [4, 130, 11], [1, 20, 40]])
MAPPED = np.array([[5000.0, 800, 300], [150, 2500, 90], [20, 60, 1200]])
CLASSES = bands.Classes(("water", "forest", "field"), ("419bdf", "397d49", "e49635"))


def values(found: dict, key: str = "value") -> np.ndarray:
    return np.array([[cell[key] for cell in row] for row in found["area_ha"]])


def test_summed_over_the_other_map_they_are_those_of_olofsson():
    found = estimates(MAPPED, BEFORE, AFTER, one_sample=False)
    for axis, confusion in ((1, BEFORE), (0, AFTER)):
        one = area_estimates(confusion, MAPPED.sum(axis=axis), 1.0, CLASSES)
        expected = [row["area_ha"]["value"] for row in one["per_class"].values()]
        assert values(found).sum(axis=axis) == pytest.approx(expected)
    changed = values(found).sum() - np.trace(values(found))
    assert found["changed_ha"]["value"] == pytest.approx(changed) and not found["unsampled_share"]


def test_where_one_map_is_perfect_the_errors_are_those_of_olofsson():
    """A later map of one class without an error: change is then what the classes of the earlier one are."""
    mapped = np.zeros((3, 3))
    mapped[:, 0] = MAPPED.sum(axis=1)
    found = estimates(mapped, BEFORE, 50 * np.eye(3, dtype=np.int64), one_sample=False)
    rows = area_estimates(BEFORE, mapped[:, 0], 1.0, CLASSES)["per_class"].values()
    assert values(found, "standard_error")[:, 0] == pytest.approx([row["area_ha"]["standard_error"] for row in rows])
    assert not values(found)[:, 1:].any()
    assert found["changed_ha"]["standard_error"] == pytest.approx(values(found, "standard_error")[0, 0])


def test_perfect_evaluations_give_the_mapped_areas_and_no_interval():
    perfect = np.diag([40, 30, 20])
    found = estimates(MAPPED, perfect, perfect, one_sample=True)
    assert values(found) == pytest.approx(MAPPED)
    assert not values(found, "standard_error").any() and not found["changed_ha"]["standard_error"]
    assert found["changed_ha"]["interval"] == [found["changed_ha"]["value"]] * 2


@pytest.mark.parametrize("one_sample", [False, True])
def test_intervals_hold_the_truth_in_95_of_100_draws(one_sample):
    """A thousand labelled pixels of each class are drawn from shares that are known, for both maps or once for both.

    With fewer, intervals of rare changes hold it less often, as those of shares near 0 do: of 200 pixels, in 91 of 100 draws.
    """
    rng, rounds = np.random.default_rng(0), 600
    true = [confusion / confusion.sum(axis=0) for confusion in (BEFORE, BEFORE if one_sample else AFTER)]
    truth = true[0] @ MAPPED @ true[1].T
    held, changed, spread, told = np.zeros((3, 3)), 0, [], []
    for _ in range(rounds):
        drawn = [
            np.stack([rng.multinomial(1000, shares[:, place]) for place in range(3)], axis=1)
            for shares in true[: 1 if one_sample else 2]
        ]
        found = estimates(MAPPED, drawn[0], drawn[-1], one_sample=one_sample)
        low, high = np.moveaxis(np.array([[cell["interval"] for cell in row] for row in found["area_ha"]]), -1, 0)
        held += (low <= truth) & (truth <= high)
        low, high = found["changed_ha"]["interval"]
        changed += low <= truth.sum() - np.trace(truth) <= high
        spread.append(values(found))
        told.append(values(found, "standard_error"))
    assert held / rounds == pytest.approx(0.95, abs=0.03) and changed / rounds == pytest.approx(0.95, abs=0.03)
    assert np.std(spread, axis=0) == pytest.approx(np.mean(told, axis=0), rel=0.06)


def test_one_sample_taken_for_two_would_be_too_sure():
    """Twice the same errors: of ground that stays forest the interval is almost the root of two wider."""
    mapped = np.diag([0.0, 1000.0, 0.0])
    one, two = (
        values(estimates(mapped, BEFORE, BEFORE, one_sample=same), "standard_error")[1, 1] for same in (True, False)
    )
    assert one / two == pytest.approx(2**0.5)


def test_classes_without_labelled_pixels_are_left_out():
    confusion = BEFORE.copy()
    confusion[:, 2] = [0, 0, 1]
    found = estimates(MAPPED, confusion, AFTER, one_sample=False)
    assert found["unsampled_share"] == pytest.approx(MAPPED[2].sum() / MAPPED.sum())
    assert values(found).sum() == pytest.approx(MAPPED[:2].sum())
