"""Standardisation, validity, and the cutting and turning of tiles."""

import numpy as np
import pytest
from conftest import squares

from specsar_jax.batches import preprocess
from specsar_jax.batches.preprocess import SensorStatistics, Statistics
from specsar_jax.config import Data
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
    assert bands.valid_pixels(s2, s1, ("s2", "s1")).tolist() == [[True, False, False]]
    assert bands.valid_pixels(s2, s1, ("s1",)).tolist() == [[True, True, False]]


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
        turned = preprocess.flip_and_rotate(tile, rng)
        np.testing.assert_array_equal(turned["s2"][..., 0], turned["label"])
        np.testing.assert_array_equal(turned["s1"][..., 0], turned["label"])
        seen.add(turned["label"].tobytes())
    assert len(seen) == 8


def random_crop(tile: dict[str, np.ndarray], size_px: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A square as training draws it."""
    return preprocess.augment(tile, Data(crop_px=size_px, flips=False), rng)


def test_cuts_of_a_padded_tile_hold_its_labels():
    label = np.full((64, 64), bands.IGNORE, np.uint8)
    label[:24, :40] = 1
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(50):
        piece = random_crop(tile_of(label), 32, rng)
        assert piece["label"].shape == (32, 32)
        assert (piece["label"][:24] == 1).all()  # 24 rows are labelled, 40 columns have room for 32
        starts.add(int(piece["s2"][0, :, 0].argmin()))
    unlabelled = tile_of(np.full((64, 64), bands.IGNORE, np.uint8))
    assert random_crop(unlabelled, 32, rng)["label"].shape == (32, 32)


def test_statistics_of_chosen_bands_and_round_trip():
    assert STATISTICS.s2.choose(("B3",)).mean == (200.0,)
    with pytest.raises(ValueError, match="no band B9"):
        STATISTICS.s2.choose(("B9",))
    assert Statistics.from_dict(STATISTICS.to_dict()) == STATISTICS


def augmented(seed: int = 0, **settings: object) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A tile of 64 pixels, whole and unturned but for the settings, before and after."""
    rng = np.random.default_rng(9)
    tile = {
        "s2": rng.integers(500, 3000, (64, 64, 9)).astype(np.uint16),
        "s1": rng.uniform(-25, -5, (64, 64, 2)).astype(np.float32),
        "label": squares(64),
    }
    tile["s2"][:3], tile["s1"][:3] = bands.S2_NODATA, np.nan
    config = Data(**({"crop_px": 64, "flips": False} | settings))
    return tile, preprocess.augment(dict(tile), config, np.random.default_rng(seed))


def test_nothing_is_augmented_unless_asked_for():
    for name, values in (pair := augmented())[0].items():
        np.testing.assert_array_equal(pair[1][name], values)


def test_band_jitter_is_one_gain_a_band_and_leaves_nodata():
    before, after = augmented(band_jitter=0.2)
    gain = after["s2"][3:] / before["s2"][3:]
    assert np.ptp(gain, axis=(0, 1)).max() < 2e-3 and np.ptp(gain[0, 0]) > 0.1
    assert (after["s2"][:3] == bands.S2_NODATA).all() and after["s2"].dtype == np.uint16


def test_brightness_is_one_gain_of_all_bands():
    gains = []
    for seed in range(40):
        before, after = augmented(seed, brightness=0.2)
        gain = after["s2"][3:] / before["s2"][3:]
        assert np.ptp(gain) < 2e-3 and (after["s2"][:3] == bands.S2_NODATA).all()
        np.testing.assert_array_equal(after["s1"], before["s1"])
        gains.append(gain.mean())
    assert 0.12 < np.std(np.log(gains)) < 0.28


def test_speckle_has_the_variance_of_its_looks_and_keeps_the_mean_power():
    before, after = augmented(speckle_looks=4.0)
    factor = 10 ** ((after["s1"][3:] - before["s1"][3:]) / 10)
    assert abs(factor.mean() - 1.0) < 0.03 and abs(factor.var() - 0.25) < 0.03
    assert np.isnan(after["s1"][:3]).all() and after["s1"].dtype == np.float32


def test_bands_are_dropped_but_never_all_of_a_sensor():
    dropped = []
    for seed in range(200):
        _, after = augmented(seed, band_drop=0.5)
        dropped.append((after["s2"] == bands.S2_NODATA).all(axis=(0, 1)).sum())
        assert dropped[-1] < 9 and not np.isnan(after["s1"]).all()
    assert 4.0 < np.mean(dropped) < 5.0


def test_a_sensor_is_dropped_as_often_as_asked_for_and_never_both():
    lost = []
    for seed in range(300):
        before, after = augmented(seed, sensor_drop=(0.5, 0.2))
        lost.append(((after["s2"] == bands.S2_NODATA).all(), np.isnan(after["s1"]).all()))
        np.testing.assert_array_equal(after["label"], before["label"])
        assert after["s2"].dtype == np.uint16 and after["s1"].dtype == np.float32
    assert not any(s2 and s1 for s2, s1 in lost)
    np.testing.assert_allclose(np.mean(lost, axis=0), (0.5, 0.2), atol=0.1)


def test_the_only_sensor_is_not_dropped():
    tile = {name: values[..., :0] if name == "s1" else values for name, values in tile_of(squares(32)).items()}
    config = Data(crop_px=32, flips=False, sensor_drop=(1.0, 0.0))
    after = preprocess.augment(dict(tile), config, np.random.default_rng(0))
    np.testing.assert_array_equal(after["s2"], tile["s2"])


def test_zoom_keeps_the_size_and_makes_up_no_label():
    sides = set()
    for seed in range(40):
        _, after = augmented(seed, crop_px=32, zoom=2.0)
        assert after["s2"].shape == (32, 32, 9) and set(np.unique(after["label"])) <= {0, 1, 4, 6}
        sides.add(len(np.unique(after["s1"][8:, :, 0])))  # of a larger crop fewer pixels are left, of a smaller all
    assert len(sides) > 10


def test_no_zoom_is_0_or_1_and_draws_nothing():
    """A draw for no zoom would move the crops of runs that go on."""
    one, none = (augmented(5, zoom=zoom)[1] for zoom in (1.0, 0.0))
    np.testing.assert_array_equal(one["s2"], none["s2"])
    rng = np.random.default_rng(5)
    before, _ = augmented(5, zoom=0.0)
    start = rng.integers(0, before["label"].shape[0] - 32 + 1), rng.integers(0, before["label"].shape[1] - 32 + 1)
    cut = augmented(5, zoom=1.0, crop_px=32)[1]["s2"]
    np.testing.assert_array_equal(cut, before["s2"][start[0] : start[0] + 32, start[1] : start[1] + 32])


def test_gaps_are_patches_of_one_sensor_and_no_pixel_loses_both():
    shares = []
    for seed in range(60):
        before, after = augmented(seed, sensor_gaps=(0.5, 0.4), sensor_drop=(0.2, 0.2))
        seen = bands.s2_seen(after["s2"]), bands.s1_seen(after["s1"])
        assert (seen[0] | seen[1])[3:].all()  # above neither has data before
        shares.append([1 - mask[3:].mean() for mask in seen])
        np.testing.assert_array_equal(after["label"], before["label"])
    partly = (np.array(shares) > 0) & (np.array(shares) < 1)
    assert (partly.mean(axis=0) > 0.15).all()


def test_a_sensor_that_may_be_missed_counts_where_all_its_bands_have_data():
    rng = np.random.default_rng(0)
    s2 = rng.integers(1, 4000, (4, 4, len(STATISTICS.s2.bands))).astype(np.uint16)
    s1 = rng.uniform(-20, 0, (4, 4, len(STATISTICS.s1.bands))).astype(np.float32)
    s2[0, 0, 0], s1[1, 1, 0] = 0, np.nan
    whole = preprocess.standardise(s2, s1, STATISTICS, "standard", ("s2", "s1"))
    parts = preprocess.standardise(s2, s1, STATISTICS)
    assert (np.asarray(whole[0])[0, 0] == 0).all() and (np.asarray(whole[1])[1, 1] == 0).all()
    for sensor, hole in ((0, (0, 0)), (1, (1, 1))):
        differ = (np.asarray(whole[sensor]) != np.asarray(parts[sensor])).any(axis=-1)
        assert not differ[[k for k in range(4) if k != hole[0]]].any()
    valid = bands.valid_pixels(s2, s1, ("s2", "s1"), ("s2", "s1"))
    assert valid.all() and bands.valid_pixels(s2, s1, ("s2", "s1")).sum() == 14
    assert bands.valid_pixels(s2, s1, ("s2", "s1"), ("s2",)).sum() == 15


def test_a_band_without_numbers_for_log_scaling_is_named_on_one_line():
    with pytest.raises(ValueError, match=r"^band X\?Y has no numbers for data.scaling=log, expected bands of B1, B2"):
        preprocess.log_low_high(("B2", "X\x1bY"))
