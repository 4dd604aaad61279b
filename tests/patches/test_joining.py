"""Small patches join their neighbours: by hand, by the rule followed literally, and alike in strips of any height."""

import numpy as np
import pytest
from drawn_patches import NODATA, drawn_map, joined_one_by_one, strips_of
from hypothesis import given, settings
from hypothesis import strategies as st

from specsar_jax.patches.generalising import generalised


def joined(ids: np.ndarray, minimum: float, rows: int = 3, areas: np.ndarray | None = None) -> np.ndarray:
    of_rows = None if areas is None else lambda chosen: areas[chosen.start : chosen.stop]
    return np.concatenate(list(generalised(lambda: strips_of(ids, rows), len(ids), float(minimum), of_rows)))


def a_map(*rows: str) -> np.ndarray:
    """A map drawn as digits; `.` is nodata."""
    return np.array([[NODATA if sign == "." else int(sign) for sign in row] for row in rows], np.uint8)


@pytest.mark.parametrize(
    ("before", "minimum", "after"),
    [
        pytest.param(("1112", "1312", "1112"), 2, ("1112", "1112", "1112"), id="the neighbour all round"),
        pytest.param(("1122", "1332", "1122"), 3, ("1122", "1112", "1122"), id="of borders as long the one that begins first"),
        pytest.param(("1122", "1332", "1222"), 3, ("1122", "1222", "1222"), id="the longest border"),
        pytest.param(("1111", "2.44", "2.44"), 3, ("1111", "1.44", "1.44"), id="nodata is no neighbour"),
        pytest.param(("111.", "1...", "1.22"), 3, ("111.", "1...", "1.22"), id="none but nodata: it stays"),
        pytest.param(("11311", "11211", "11311"), 2, ("11111", "11111", "11111"), id="corners do not connect"),
        pytest.param(("1122", "1342", "1122"), 3, ("1122", "1122", "1122"), id="two that are small, first pixel first"),
    ],
)  # fmt: skip
def test_maps_seen_at_a_glance(before, minimum, after):
    for rows in (1, 2, 3):
        np.testing.assert_array_equal(joined(a_map(*before), minimum, rows), a_map(*after))
    np.testing.assert_array_equal(joined_one_by_one(a_map(*before), minimum), a_map(*after))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_it_is_the_rule_followed_literally_in_strips_of_any_height(seed):
    rng = np.random.default_rng(seed)
    ids = drawn_map(rng, 9)
    minimum = int(rng.choice([2, 3, 5, 9, 40]))
    expected = joined_one_by_one(ids, minimum)
    for rows in {1, 2, 5, len(ids)}:
        np.testing.assert_array_equal(joined(ids, minimum, rows), expected)


def test_pixels_of_unequal_areas():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        ids = drawn_map(rng, 9)
        areas = np.cumsum(rng.integers(1, 4, ids.shape), axis=0) / 8.0
        expected = joined_one_by_one(ids, 3.0, areas)
        for rows in (1, 2, len(ids)):
            np.testing.assert_array_equal(joined(ids, 3.0, rows, areas), expected)


def test_a_neighbour_whose_parts_meet_further_down():
    """The 3 borders on one 1, whose arms meet below, by 4 sides, and on the 2 by 3: what is seen of the arms first is 2 and 2."""
    ids = a_map("0122210", "0133310", "0133310", "0111110")
    ids[2] = a_map("0122210")[0]
    assert (joined(ids, 4, 1) == joined(ids, 4, 4)).all()
    for minimum in (4, 6, 9):
        expected = joined_one_by_one(ids, minimum)
        for rows in (1, 2, 3):
            np.testing.assert_array_equal(joined(ids, minimum, rows), expected)


def test_nothing_small_is_left_and_nothing_else_is_forgotten():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 5, (300, 200)).astype(np.uint8)
    ids[:40, :30] = NODATA
    one, other = joined(ids, 30, 7), joined(ids, 30, 64)
    np.testing.assert_array_equal(one, other)
    assert ((one == NODATA) == (ids == NODATA)).all()
    np.testing.assert_array_equal(joined(one, 30), one)


def test_what_is_held_does_not_grow_with_the_map():
    """Noise, in which every patch is small: what waits at a row is what lies about it."""
    from specsar_jax.patches.joining import Joining
    from specsar_jax.patches.pieces import pieces_of

    ids = np.random.default_rng(0).integers(0, 9, (2000, 100)).astype(np.uint8)
    joining, held = Joining(100, 50.0), []
    for place, strip in enumerate(strips_of(ids, 100)):
        joining.add(strip, pieces_of(strip), last=place == 19)
        held.append(len(joining._area) + len(joining._waiting) + len(joining._borders.one))
    assert max(held[10:]) < 1.5 * max(held[:10]) and held[-1] == 0
    assert len(joining.classes) > 100_000
