"""Clouds by brightness: what is one and what is not, by numbers seen at a glance, and by real land."""

import numpy as np
import pytest

from tfds_dwplus import bands
from tfds_dwplus.imagery.scene_files import open_raster
from tfds_dwplus.tiles.labelling import clouds, water

# Reflectance of B2, B3, B4, B11.
CLOUD, THIN, SNOW, SAND, FIELD, ROOF, WATER = (
    (0.50, 0.48, 0.49, 0.35),
    (0.22, 0.20, 0.19, 0.22),
    (0.60, 0.55, 0.53, 0.12),
    (0.20, 0.28, 0.36, 0.50),
    (0.10, 0.18, 0.10, 0.22),
    (0.45, 0.45, 0.45, 0.40),
    (0.08, 0.06, 0.04, 0.02),
)


def numbers(pixels: np.ndarray, names: tuple[str, ...] = clouds.USED) -> dict[str, np.ndarray]:
    return {name: np.rint(1e4 * pixels[..., clouds.USED.index(name)]).astype(np.uint16) for name in names}


def land(size: int = 40, ground: tuple[float, ...] = FIELD) -> np.ndarray:
    return np.broadcast_to(np.array(ground), (size, size, 4)).copy()


@pytest.mark.parametrize(
    ("what", "expected"),
    [(CLOUD, True), (THIN, True), (SNOW, False), (SAND, False), (FIELD, False), (WATER, False)],
)
def test_a_pixel_by_itself(what, expected):
    assert clouds.bright_pixels(numbers(land(2, what))).all() == expected
    assert not clouds.bright_pixels(numbers(land(2, (0, 0, 0, 0)))).any()  # nodata


def test_bands_that_are_missing():
    assert clouds.bright_pixels(numbers(land(2, SNOW), ("B2", "B3", "B4"))).all()
    assert "snow may count as cloud" in clouds.in_doubt(("B2", "B3", "B4", "B8"))
    assert "not looked for" in clouds.in_doubt(("B8", "B11"))
    assert not clouds.in_doubt(bands.S2_BANDS)


def test_a_cloud_has_a_core_and_a_margin_and_a_roof_has_none():
    scene = land()
    scene[20:28, 20:28] = CLOUD
    scene[28, 28] = THIN  # hangs together with it by a corner
    scene[4:8, 4:8] = ROOF
    mask = clouds.cloud_mask(numbers(scene))
    assert mask[20 - clouds.MARGIN_PX, 24] and not mask[20 - clouds.MARGIN_PX - 1, 24]
    assert mask[28 + clouds.MARGIN_PX, 28] and not mask[:12, :12].any()
    assert not clouds.cloud_mask(numbers(land())).any()


def test_clear_land_keeps_its_pixels_and_clouds_over_it_go(real):
    """Shares of the clear tiles that count as cloud, and of thick clouds that were put over them."""
    names = [f"land/s2/{name}" for name in ("dsen2_000", "rstoolbox_001", "boadella_000")]
    names += [f"dwplus_mini/s2/{name}" for name in ("609U_541L_3_0", "433D_629L_3_1")]  # snow, bare
    rng = np.random.default_rng(0)
    for name in names:
        with open_raster(real / f"{name}.tif") as raster:
            pixels = np.moveaxis(raster.read(), 0, -1)[..., [bands.S2_BANDS.index(band) for band in clouds.USED]] / 1e4
        assert clouds.cloud_mask(numbers(pixels)).mean() < 0.0005, name
        y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
        middle = rng.uniform(40, 160, 2)
        opacity = np.clip(1.3 - np.hypot(y - middle[0], x - middle[1]) / 30, 0, 1)[..., None]
        thick = opacity[..., 0] > 0.7
        mask = clouds.cloud_mask(numbers(pixels * (1 - opacity) + opacity * np.array(CLOUD)))
        assert mask[thick].mean() > 0.999, name


def test_real_clouds(real):
    """A scene of Pakistan of two dates, one with clouds over a third of it."""
    for folder, low, high in (("s2_l1c", 0.3, 0.6), ("s2_l2a", 0.0, 0.001)):
        cloudy = sorted((real / "scene_pakistan" / folder).glob("2*"))[1]
        pixels = {}
        for name in clouds.USED:
            with open_raster(cloudy / f"{name}.tif") as raster:
                pixels[name] = raster.read(1, out_shape=(264, 264))
        assert low <= clouds.cloud_mask(pixels).mean() <= high


@pytest.mark.parametrize(
    ("green", "infrared", "shortwave", "expected"),
    [
        (0.02, 0.006, 0.01, True),
        (0.02, 0.025, 0.01, False),
        (0.06, 0.04, 0.01, False),
        (0.05, 0.02, 0.05, False),
        (0.02, 0, 0.01, False),
    ],
)
def test_dark_water(green, infrared, shortwave, expected):
    """Deep water; trees in deep shade; bright water, left to the network; a wet dark roof; a band without data."""
    given = {
        name: np.full((1, 1), round(1e4 * value), np.uint16)
        for name, value in zip(water.USED, (green, infrared, shortwave), strict=True)
    }
    assert water.dark_water(given).all() == expected
