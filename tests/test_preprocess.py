"""Standardisation, validity, and the cutting and turning of tiles."""

import numpy as np
import pytest
from conftest import squares

from specsar_jax import preprocess
from specsar_jax.preprocess import SensorStatistics, Statistics
from tfds_dwplus import bands

STATISTICS = Statistics(
    s2=SensorStatistics(
        ("B2", "B3"), (100.0, 200.0), (10.0, 50.0), (80.0, 100.0), (130.0, 300.0), bands.S2_UNIT, (9, 9)
    ),
    s1=SensorStatistics(("VV", "VH"), (-10.0, -20.0), (2.0, 4.0), (-16.0, -30.0), (-6.0, -10.0), bands.S1_UNIT, (9, 9)),
    label_pixels=(1,) * 9,
)


def test_standardise_by_hand():
    s2 = np.array([[[110, 0], [9000, 250]]], np.uint16)
    s1 = np.array([[[-12.0, np.nan], [-40.0, -16.0]]], np.float32)
    s2, s1 = preprocess.standardise(s2, s1, STATISTICS)
    np.testing.assert_allclose(s2, [[[1.0, 0.0], [3.0, 1.0]]], rtol=1e-6)  # 0 is nodata, 9000 is clipped to 130
    np.testing.assert_allclose(s1, [[[-1.0, 0.0], [-3.0, 1.0]]], rtol=1e-6)


def test_a_sensor_without_channels_stays_one():
    s2, s1 = preprocess.standardise(np.ones((1, 2, 2), np.uint16), np.ones((1, 2, 0), np.float32), STATISTICS)
    assert (s2.shape, s1.shape, s1.dtype) == ((1, 2, 2), (1, 2, 0), np.float32)


def test_valid_only_where_all_sensors_in_use_have_data():
    s2 = np.array([[[1, 1], [0, 1], [1, 1]]], np.uint16)
    s1 = np.array([[[1, 1], [1, 1], [1, np.nan]]], np.float32)
    assert preprocess.valid_pixels(s2, s1, ("s2", "s1")).tolist() == [[True, False, False]]
    assert preprocess.valid_pixels(s2, s1, ("s1",)).tolist() == [[True, True, False]]


def tile_of(label: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "s2": np.repeat(label[..., None], 2, axis=-1).astype(np.uint16),
        "s1": label[..., None].astype(np.float32),
        "label": label,
    }


def test_the_three_rasters_move_together_through_all_eight_turns():
    tile, seen = tile_of(squares(8)), set()
    rng = np.random.default_rng(0)
    for _ in range(60):
        turned = preprocess.turn(tile, rng)
        np.testing.assert_array_equal(turned["s2"][..., 0], turned["label"])
        np.testing.assert_array_equal(turned["s1"][..., 0], turned["label"])
        seen.add(turned["label"].tobytes())
    assert len(seen) == 8


def test_cuts_of_a_padded_tile_hold_its_labels():
    label = np.full((64, 64), bands.IGNORE, np.uint8)
    label[:24, :40] = 1
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(50):
        piece = preprocess.cut(tile_of(label), 32, rng)
        assert piece["label"].shape == (32, 32)
        assert (piece["label"][:24] == 1).all()  # 24 rows are labelled, 40 columns have room for 32
        starts.add(int(piece["s2"][0, :, 0].argmin()))
    assert preprocess.cut(tile_of(np.full((64, 64), bands.IGNORE, np.uint8)), 32, rng)["label"].shape == (32, 32)


def test_statistics_of_chosen_bands_and_round_trip():
    assert STATISTICS.s2.choose(("B3",)).mean == (200.0,)
    with pytest.raises(ValueError, match="no band B9"):
        STATISTICS.s2.choose(("B9",))
    assert Statistics.from_dict(STATISTICS.to_dict()) == STATISTICS
