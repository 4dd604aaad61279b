"""Ground of splits: blocks that do not touch, the same for every date, every class in train and in test."""

import numpy as np
import pytest
import shapely
from rasterio.crs import CRS

from tfds_dwplus.vectors.split_blocks import Lattice, assign, middle_of

SHARES = (("train", 0.7), ("validation", 0.15), ("test", 0.15))
UTM, DEGREES = CRS.from_epsg(32643), CRS.from_epsg(4326)


def blocks_of(count: int, classes: int, seed: int = 0) -> dict:
    draws = np.random.default_rng(seed)
    pixels = {
        ("EPSG:32643", x, x // 7): draws.integers(0, 1000, classes) * draws.integers(0, 2, classes)
        for x in range(count)
    }
    return {block: counts for block, counts in pixels.items() if counts.any()}


def assigned(pixels: dict, seed: int = 0, shares=SHARES) -> dict:
    return assign(pixels, {block: (70.0, 30.0) for block in pixels}, shares, 5220.0, seed)


@pytest.mark.parametrize(
    ("crs", "bounds"), [(UTM, (300000.0, 3390000.0, 330000.0, 3410000.0)), (DEGREES, (-0.2, 59.9, 0.2, 60.2))]
)
def test_blocks_lie_apart(crs, bounds):
    found = list(Lattice(crs, 5120.0, 100.0).blocks(bounds))
    inner, outer = (np.array([shapely.box(*block[place]) for block in found]) for place in (1, 2))
    assert shapely.covers(shapely.union_all(outer).buffer(1e-9), shapely.box(*bounds))
    metres = 1.0 if crs == UTM else 111195.0
    apart = shapely.distance(inner[:, None], inner[None]) * metres
    np.fill_diagonal(apart, np.inf)
    least = 100
    assert least <= apart.min() * 1.001 < 1.1 * least
    widths = shapely.bounds(inner)[:, 2] - shapely.bounds(inner)[:, 0]
    assert widths == pytest.approx(5120 / metres * (1 if crs == UTM else 2), rel=0.02)


def test_a_block_is_the_same_whatever_scene_it_is_of():
    lattice = Lattice(UTM, 640.0, 20.0)
    one, other = (
        dict((block, square) for block, square, _ in lattice.blocks(box))
        for box in ((0.0, 0.0, 5000.0, 5000.0), (3000.0, 1000.0, 9000.0, 2000.0))
    )
    assert one.keys() & other.keys() and all(one[block] == other[block] for block in one.keys() & other.keys())


@pytest.mark.parametrize("seed", range(5))
def test_every_class_is_in_each_split_and_shares_are_near(seed):
    pixels = blocks_of(60, 5, seed)
    split = assigned(pixels, seed)
    total = sum(pixels.values())
    for name, share in SHARES:
        held = sum(counts for block, counts in pixels.items() if split[block] == name)
        np.testing.assert_allclose(held / total, share, atol=0.08)
    assert split == assigned(dict(reversed(pixels.items())), seed)


def test_seeds_differ():
    pixels = blocks_of(60, 5)
    assert assigned(pixels, 1) != assigned(pixels, 2)


def test_a_rare_class_is_in_train_first_and_then_in_test():
    common = {("a", x, 0): np.array([100, 90, 0, 0]) for x in range(20)}
    pixels = common | {
        ("a", 3, 1): np.array([0, 0, 5, 0]),
        ("a", 5, 1): np.array([0, 50, 0, 7]),
        ("a", 9, 1): np.array([0, 0, 0, 7]),
    }
    for seed in range(5):
        split = assigned(pixels, seed)
        assert split["a", 3, 1] == "train"
        assert {split["a", 5, 1], split["a", 9, 1]} == {"train", "test"}
    alone = assigned(pixels, shares=(("train", 1.0),))
    assert set(alone.values()) == {"train"}


def test_blocks_of_two_crss_that_touch_are_of_one_split():
    """At the border of two zones of UTM."""
    pixels, middles = {}, {}
    for zone in (43, 44):
        crs = CRS.from_epsg(32600 + zone)
        left = 785000.0 if zone == 43 else 209000.0
        for block, square, _ in Lattice(crs, 5120.0, 100.0).blocks((left, 3380000.0, left + 12000.0, 3420000.0)):
            pixels[block], middles[block] = np.array([10, 10]), middle_of(crs, square)
    pixels |= {("EPSG:32643", 30, row): np.array([10, 10]) for row in range(9)}
    middles |= {
        ("EPSG:32643", 30, row): middle_of(UTM, (156600.0, row * 5220.0, 161720.0, row * 5220.0 + 5120.0))
        for row in range(9)
    }
    split = assign(pixels, middles, SHARES, 5220.0, 0)
    assert set(split.values()) == {"train", "validation", "test"}
    near = [
        (one, other)
        for one in pixels
        for other in pixels
        if one[0] < other[0] and _km(middles[one], middles[other]) < 5
    ]
    assert near and all(split[one] == split[other] for one, other in near)


def _km(one: tuple[float, float], other: tuple[float, float]) -> float:
    east = (one[0] - other[0]) * np.cos(np.radians(one[1]))
    return float(np.hypot(east, one[1] - other[1]) * 111.2)
