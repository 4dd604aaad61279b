"""Statistics against numpy, and parts merged against the whole."""

import numpy as np
import pytest

from tfds_dwplus import bands
from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.tiles.statistics import BandStatistics, TileStatistics


def test_against_numpy_with_nodata():
    rng = np.random.default_rng(0)
    values = rng.integers(1, 9000, (3, 40, 50, 2)).astype(np.uint16)
    values[:, :7] = 0
    statistics = BandStatistics(("B2", "B3"), 0.0, 65535.0, 1.0)
    for tile in values:
        statistics.update(tile, tile != 0)
    summary = statistics.summary("DN")
    for band in range(2):
        valid = values[..., band][values[..., band] > 0].astype(np.float64)
        assert summary["pixels"][band] == valid.size
        np.testing.assert_allclose(summary["mean"][band], valid.mean(), rtol=1e-12)
        np.testing.assert_allclose(summary["std"][band], valid.std(), rtol=1e-12)
        for key, percent in (("p1", 1), ("p99", 99)):
            assert summary[key][band] == np.percentile(valid, percent, method="inverted_cdf")


def test_backscatter_percentiles_to_a_hundredth_of_a_db():
    values = np.random.default_rng(1).normal(-12, 4, (64, 64, 2)).astype(np.float32)
    statistics = BandStatistics(bands.S1_BANDS, *bands.S1_DB_RANGE, 0.01)
    statistics.update(values, np.isfinite(values))
    expected = np.percentile(values.reshape(-1, 2), 99, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(statistics.percentile(99.0), expected, atol=0.0051)


def test_merged_parts_equal_the_whole():
    tiles = [simulated_tile(3, "train", index, 48) for index in range(5)]
    whole, left, right = (TileStatistics(bands.S2_BANDS, bands.S1_BANDS, bands.DYNAMIC_WORLD) for _ in range(3))
    for place, tile in enumerate(tiles):
        for statistics in (whole, left if place < 2 else right):
            statistics.update(tile.s2, tile.s1, tile.label)
    left.add_arrays(right.arrays())
    one, two = whole.summary(), left.summary()
    assert one["label_pixels"] == two["label_pixels"]
    for sensor in ("s2", "s1"):
        for key in ("pixels", "mean", "std", "p1", "p99"):
            np.testing.assert_allclose(one[sensor][key], two[sensor][key], rtol=1e-9)


def test_band_without_a_valid_pixel_is_refused():
    statistics = BandStatistics(("B2", "B3"), 0.0, 65535.0, 1.0)
    values = np.ones((4, 4, 2), np.uint16)
    statistics.update(values, np.stack([np.ones((4, 4), bool), np.zeros((4, 4), bool)], axis=-1))
    with pytest.raises(ValueError, match="B3"):
        statistics.summary("DN")
