"""How a series is divided and filtered, as a user says it."""

import numpy as np
import pytest
from drawn_networks import OWN

from specsar_jax.regions.series import transitions
from specsar_jax.regions.series.periods import periods, years
from tfds_dwplus.bands import DYNAMIC_WORLD, Classes

THREE = Classes(("water", "trees", "bare"), ("0000ff", "00ff00", "888888"))

GOOD = "from,bare,water,trees\ntrees,0.05,0,0.95\nbare,0.98,0.01,0.01\nwater,0.01,0.98,0.01\n"
"""Rows and columns in orders of their own."""


def test_periods_are_those_of_the_calendar_cut_to_the_days():
    months = periods(("2023-11-15", "2024-02-10"), "month")
    assert [(one.name, one.first, one.last) for one in months] == [
        ("2023-11", "2023-11-15", "2023-11-30"),
        ("2023-12", "2023-12-01", "2023-12-31"),
        ("2024-01", "2024-01-01", "2024-01-31"),
        ("2024-02", "2024-02-01", "2024-02-10"),
    ]
    assert years(months) == {2023: slice(0, 2), 2024: slice(2, 4)}
    quarters = periods(("2023-11-15", "2024-06-30"), "quarter")
    assert [(one.name, one.first, one.last) for one in quarters] == [
        ("2023-Q4", "2023-11-15", "2023-12-31"),
        ("2024-Q1", "2024-01-01", "2024-03-31"),
        ("2024-Q2", "2024-04-01", "2024-06-30"),
    ]
    assert [one.name for one in periods(("2023-11-15", "2024-02-10"), "year")] == ["2023", "2024"]
    with pytest.raises(ValueError, match="more than 240 periods of a month"):
        periods(("2000-01-01", "2020-01-01"), "month")


def test_a_class_stays_as_probably_over_months_as_over_their_quarter():
    month, quarter = (transitions.evenly(9, 0.98, every) for every in ("month", "quarter"))
    np.testing.assert_allclose(month.diagonal(), 0.98)
    np.testing.assert_allclose(quarter, month @ month @ month)
    np.testing.assert_allclose(quarter.sum(axis=1), 1)


def test_a_table_in_any_order(tmp_path):
    (tmp_path / "matrix.csv").write_text(GOOD)
    found = transitions.hidden_markov(THREE, "month", table=tmp_path / "matrix.csv")
    np.testing.assert_allclose(found.matrix, [[0.98, 0.01, 0.01], [0, 0.95, 0.05], [0.01, 0.01, 0.98]])
    assert found.cover == ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trees,0.05,0,0.95", "trees,0.05,0,0.9", "the row of trees adds up to 0.95, expected 1"),
        ("trees,0.05,0,0.95", "trees,0.05,-0.05,1", "from trees to water is '-0.05', expected a probability"),
        ("trees,0.05,0,0.95", "trees,nan,0,0.95", "from trees to bare is 'nan'"),
        ("trees,0.05,0,0.95", "trees,0.05,0,inf", "from trees to trees is 'inf'"),
        ("trees,0.05,0,0.95", "trees,0.05,0,much", "from trees to trees is 'much'"),
        ("trees,0.05,0,0.95", "trees,0.05,0", "from trees to trees is ''"),
        ("trees,0.05,0,0.95", "trees,0.05,0,0.95,0", "line 2 has 5 fields, its header 4"),
        ("trees,0.05,0,0.95\n", "", "its rows lack trees, expected each of water, trees, bare once"),
        ("trees,0.05", "forest,0.05", "its rows name 'forest', expected"),
        ("trees,0.05", "water,0.05", "its rows name water twice"),
        ("from,bare", "from,snow", "its columns name 'snow'"),
        ("from,bare,water,trees", "from,bare,water,bare", "its columns name bare twice"),
        (GOOD, "from,bare,water\n", "its columns lack trees"),
        (GOOD, "", "its columns lack water"),
    ],
)
def test_a_table_that_is_none(tmp_path, old, new, message):
    (tmp_path / "matrix.csv").write_text(GOOD.replace(old, new))
    with pytest.raises(ValueError, match=r"matrix\.csv: ") as error:
        transitions.read_matrix(tmp_path / "matrix.csv", THREE)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_snow_is_the_cover_where_there_is_it():
    assert transitions.hidden_markov(DYNAMIC_WORLD, "month").cover == "snow_and_ice"
    assert transitions.hidden_markov(DYNAMIC_WORLD, "month", cover="none").cover == ""
    assert transitions.hidden_markov(DYNAMIC_WORLD, "month", cover="water").cover == "water"
    assert transitions.hidden_markov(OWN, "month").cover == ""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"stay": 1.0}, "--stay is 1, expected a probability between 0 and 1"),
        ({"stay": float("nan")}, "--stay is nan"),
        ({"cover": "snow"}, "--cover_class is 'snow', expected none, or one of water, trees"),
    ],
)
def test_what_no_filter_takes(more, message):
    with pytest.raises(ValueError, match=message):
        transitions.hidden_markov(DYNAMIC_WORLD, "month", **more)
