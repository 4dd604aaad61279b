"""The simulator: reproducible, plausible, and such that neither sensor suffices."""

import numpy as np
import pytest

from tfds_dwplus import bands, simulate
from tfds_dwplus.simulate import BARE, BUILT, FLOODED, TREES, simulated_tile


@pytest.fixture(scope="module")
def pixels() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labelled, valid pixels of some tiles: class id, reflectance, dB."""
    tiles = [simulated_tile(0, "train", index, 128) for index in range(24)]
    label = np.concatenate([tile.label.ravel() for tile in tiles])
    s2 = np.concatenate([tile.s2.reshape(-1, 9) for tile in tiles]) / 10000.0
    s1 = np.concatenate([tile.s1.reshape(-1, 2) for tile in tiles])
    kept = (label != bands.IGNORE) & (s2 > 0).all(axis=1) & np.isfinite(s1).all(axis=1)
    return label[kept], s2[kept], s1[kept]


def test_same_arguments_same_tile_and_other_seed_other_tile():
    one, two, other = (simulated_tile(seed, "train", 3, 64) for seed in (0, 0, 1))
    for name in ("s2", "s1", "label"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert (one.label != other.label).mean() > 0.1
    assert (one.label != simulated_tile(0, "test", 3, 64).label).mean() > 0.1


def test_all_classes_and_means_near_the_table(pixels):
    label, s2, s1 = pixels
    assert np.bincount(label, minlength=9).min() > 0.01 * label.size
    for class_id in range(9):
        own = label == class_id
        # Mixed pixels and strays pull a mean towards its neighbours; it stays within a third.
        np.testing.assert_allclose(s2[own].mean(axis=0), simulate.CLASS_REFLECTANCE[class_id], rtol=0.35, atol=0.03)
        np.testing.assert_allclose(s1[own].mean(axis=0), simulate.CLASS_BACKSCATTER_DB[class_id], atol=1.7)


@pytest.mark.parametrize(("one", "other"), [(BUILT, BARE), (FLOODED, TREES)])
def test_twins_are_told_apart_by_radar_and_not_by_spectrum(pixels, one, other):
    label, s2, s1 = pixels
    kept = np.isin(label, (one, other))
    truth = label[kept] == one

    def accuracy(features: np.ndarray) -> float:
        """Balanced accuracy of the best straight line between the two classes (linear discriminant)."""
        first, second = features[truth], features[~truth]
        axis = np.linalg.solve(np.cov(first.T) + np.cov(second.T), first.mean(axis=0) - second.mean(axis=0))
        middle = axis @ (first.mean(axis=0) + second.mean(axis=0)) / 2
        return ((first @ axis > middle).mean() + (second @ axis <= middle).mean()) / 2

    assert accuracy(s1[kept]) > accuracy(s2[kept]) + 0.03
    assert accuracy(s2[kept]) < 0.85


def test_speckle_has_the_stated_looks():
    classes = np.zeros((256, 256), np.int64)
    patches = np.zeros_like(classes)
    power = 10 ** (simulate._sentinel1(classes, patches, np.random.default_rng(0)) / 10)
    looks = (power.mean(axis=(0, 1)) / power.std(axis=(0, 1))) ** 2
    np.testing.assert_allclose(looks, simulate.LOOKS, rtol=0.05)


def test_nodata_and_clouds_carry_no_label():
    tiles = [simulated_tile(0, "train", index, 64) for index in range(60)]
    without = [tile for tile in tiles if (tile.s2 == 0).any() or np.isnan(tile.s1).any()]
    assert without
    for tile in without:
        assert (tile.label[(tile.s2 == 0).any(axis=-1) | np.isnan(tile.s1).any(axis=-1)] == bands.IGNORE).all()
