"""Changes of light and air, and mosaics: what they leave, what they change, and that the seed alone decides."""

import numpy as np
import pytest

from specsar_jax.batches import light, preprocess
from specsar_jax.config import Data
from tfds_dwplus import bands

NAMES = bands.S2_BANDS
S2 = np.random.default_rng(3).integers(500, 4000, (8, 8, 9)).astype(np.uint16)
S2[0] = bands.S2_NODATA


def changed(seed: int = 0, s2: np.ndarray = S2, names: tuple[str, ...] = NAMES, **settings: float) -> np.ndarray:
    return light.change_light(s2, names, Data(**settings), np.random.default_rng(seed))


def test_haze_is_an_offset_that_falls_with_wavelength_both_up_and_down():
    blue = []
    for seed in range(40):
        offset = changed(seed, haze=400.0)[1:].astype(int) - S2[1:]
        mean = np.abs(offset.mean(axis=(0, 1)))
        assert np.ptp(offset, axis=(0, 1)).max() <= 1 and (np.diff(mean) <= 0.51).all() and mean[-1] < 0.3 * mean[0] + 1
        blue.append(offset[0, 0, 0])
    assert min(blue) < -200 and max(blue) > 200 and np.abs(blue).max() <= 400


def test_tilt_is_one_smooth_gain_of_the_bands():
    for seed in range(20):
        gain = changed(seed, tilt=0.2)[1:] / S2[1:]
        assert np.ptp(gain, axis=(0, 1)).max() < 3e-3
        near = np.log(gain[0, 0])
        assert np.abs(near[6] - near[5]) < 0.25 * np.ptp(near) + 5e-3  # B7 and B8 are neighbours


def test_contrast_keeps_the_mean_of_each_band():
    after = changed(1, contrast=0.4).astype(float)
    np.testing.assert_allclose(after[1:].mean(axis=(0, 1)), S2[1:].mean(axis=(0, 1)), atol=1.0)
    factor = after[1:].std(axis=(0, 1)) / S2[1:].std(axis=(0, 1))
    assert np.ptp(factor) < 1e-2 and abs(factor[0] - 1.0) > 0.05


def test_nodata_stays_and_nothing_else_becomes_it():
    for seed in range(20):
        after = changed(seed, haze=9000.0, contrast=1.0, brightness=3.0)
        assert (after[0] == bands.S2_NODATA).all() and (after[1:] > 0).all() and after.dtype == np.uint16
    assert not changed(s2=np.zeros_like(S2), contrast=1.0, haze=9.0).any()


def test_some_crops_are_left_as_they_are():
    same = [np.array_equal(changed(seed, haze=400.0, unchanged_light=0.3), S2) for seed in range(300)]
    assert 0.2 < np.mean(same) < 0.4


def test_other_bands_and_none():
    assert changed(names=("b02", "B08", "VRE"), s2=S2[..., :3], brightness=0.1).any()
    with pytest.raises(ValueError, match=r"band VRE has no known wavelength.*or 0 for both"):
        changed(names=("B2", "B8", "VRE"), s2=S2[..., :3], haze=100.0)
    assert changed(s2=S2[..., :0], tilt=0.1, haze=100.0, band_jitter=0.1).shape == (8, 8, 0)


def test_a_mosaic_takes_all_rasters_of_a_pixel_from_one_tile():
    def tile(value: int) -> dict[str, np.ndarray]:
        return {
            "s2": np.full((32, 32, 2), value, np.uint16),
            "s1": np.full((32, 32, 1), value, np.float32),
            "label": np.full((32, 32), value, np.uint8),
        }

    shares, rng = [], np.random.default_rng(0)
    for _ in range(40):
        made = preprocess.mosaic(tile(1), tile(2), rng)
        assert (made["s2"] == made["label"][..., None]).all() and (made["s1"] == made["label"][..., None]).all()
        assert {name: (of.dtype, of.shape) for name, of in made.items()} == {
            name: (of.dtype, of.shape) for name, of in tile(1).items()
        }
        shares.append((made["label"] == 2).mean())
    assert 0.3 < np.mean(shares) < 0.7
