"""The filters in time: by enumeration, over a drawn year of snow and felling, and by hand."""

import itertools

import numpy as np
import pytest
from drawn_year import BARE, CROPS, FELLED, LAND, SNOW, TREES, WATER, year

from specsar_jax.regions.series import filters, transitions
from tfds_dwplus import bands

STAY = transitions.evenly(9, transitions.STAY, "month")


def hidden(share: np.ndarray) -> np.ndarray:
    return filters.smoothed(filters.emissions(share, SNOW), STAY)


def test_smoothing_is_what_an_enumeration_of_all_paths_gives():
    rng = np.random.default_rng(0)
    likelihood = rng.uniform(0.05, 1, (4, 3, 2))
    matrix = rng.dirichlet(np.ones(3), 3)
    expected = np.zeros_like(likelihood)
    for path in itertools.product(range(3), repeat=4):
        probability = np.prod([likelihood[month, state] for month, state in enumerate(path)], axis=0)
        probability = probability * np.prod([matrix[pair] for pair in itertools.pairwise(path)])
        for month, state in enumerate(path):
            expected[month, state] += probability
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(filters.smoothed(likelihood, matrix), expected, rtol=1e-12)


@pytest.mark.parametrize("place", LAND)
def test_the_map_of_a_year_has_the_land_under_the_snow(place):
    share = year(place, 1)
    class_id = filters.yearly(hidden(share), filters.observed(share))
    expected = BARE if place == "felled" else LAND[place]
    assert (class_id == expected).mean() > 0.97
    assert place == "glacier" or not (class_id == SNOW).any()


def test_a_felled_forest_changes_once_in_its_month():
    state = hidden(year("felled", 2, wrong=0, cloudy=0))
    expected = np.where(np.arange(12) < FELLED, TREES, BARE)[:, None]
    assert (state.argmax(axis=1) == expected).all(axis=0).mean() > 0.99
    assert (filters.last_change(state) == FELLED).mean() > 0.99


def test_a_felled_forest_does_not_change_to_and_fro():
    """Even if a twentieth of the months is wrong and a tenth is cloud. Where the few months of forest after the snow are, none may be told."""
    state = hidden(year("felled", 2))
    class_id = state.argmax(axis=1)
    changes = (class_id[1:] != class_id[:-1]).sum(axis=0)
    assert (changes == 1).mean() > 0.8 and (changes <= 1).mean() > 0.99
    month = filters.last_change(state)[changes == 1]
    assert (month == FELLED).mean() > 0.8 and (np.abs(month - FELLED) <= 1).mean() > 0.95


@pytest.mark.parametrize("place", ["forest", "fields", "glacier", "lake"])
def test_what_stays_is_not_told_to_change(place):
    assert (filters.last_change(hidden(year(place, 3))) == 0).mean() > 0.98


@pytest.mark.parametrize("month", [0, 4, 11])
def test_one_month_changes_nothing(month):
    """Whether it is wrong, as sure as can be, or not observed."""
    share = year("forest", 4, wrong=0, cloudy=0)
    share[month] = 0
    share[month, BARE] = 250
    state = hidden(share)
    assert (state.argmax(axis=1) == TREES).all()
    share[month] = bands.IGNORE
    assert (hidden(share).argmax(axis=1) == TREES).all()


def test_without_a_cover_snow_is_a_class_like_any():
    share = year("forest", 5, wrong=0, cloudy=0)
    share[2:4] = share[:2]  # four months of winter
    assert (hidden(share).argmax(axis=1) == TREES).all()
    state = filters.smoothed(filters.emissions(share, None), STAY)
    assert (state.argmax(axis=1)[:11] == np.where(np.arange(11) < 4, SNOW, TREES)[:, None]).all()


def test_what_was_never_observed_has_no_class():
    share = np.full((12, 9, 1), bands.IGNORE, np.uint8)
    state = hidden(share)
    np.testing.assert_allclose(state, 1 / 9)
    assert filters.yearly(state, filters.observed(share)) == [bands.IGNORE]


def test_long_series_of_sure_maps_do_not_run_out_of_numbers():
    """Twenty years that change half-way, by a matrix that forbids all change: the class of the more months is left."""
    share = np.zeros((240, 9, 1), np.uint8)
    share[:100, TREES], share[100:, WATER] = 250, 250
    state = filters.smoothed(filters.emissions(share, SNOW), np.eye(9))
    assert np.isfinite(state).all() and (state.argmax(axis=1) == WATER).all()


def test_the_most_frequent_class():
    none = bands.IGNORE
    class_id = np.array([[1, 1, none], [4, 1, none], [4, 4, none], [1, 4, none], [none, 1, none]], np.uint8)
    assert filters.mode(class_id, 9).tolist() == [1, 1, none]
    assert filters.mode(class_id[:3], 9).tolist() == [4, 1, none]
    assert filters.mode(class_id[:4], 9).tolist() == [1, 4, none]  # ties: what was seen last
    assert filters.mode(np.full((3, 1), CROPS, np.uint8), 9) == [CROPS]
