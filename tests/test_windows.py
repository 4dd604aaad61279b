"""Windows: small scenes seen by eye, and what holds for every size."""

import numpy as np
import pytest

from specsar_jax import windows


def test_the_worked_example():
    axis = windows.plan(1000, 510, 0.25)
    assert (axis.window, axis.starts) == (512, (0, 384, 512))


def test_a_scene_of_one_window_is_not_cut():
    assert windows.plan(510, 510, 0.25).starts == (0,)
    assert windows.plan(100, 510, 0.25) == windows.Axis(100, 128, 32, (0,))
    assert windows.plan(7, 510, 0.25).window == 32


@pytest.mark.parametrize("size", [1, 31, 33, 255, 256, 257, 510, 1000, 1068, 4097])
@pytest.mark.parametrize(("window", "overlap"), [(256, 0.5), (510, 0.25), (64, 0.0), (160, 0.6), (32, 0.5)])
def test_every_pixel_is_covered_and_blended_to_one(size, window, overlap):
    axis = windows.plan(size, window, overlap)
    weights, total = windows.blend_weights(axis), np.zeros(axis.starts[-1] + axis.window)
    for start in axis.starts:
        assert start % 32 == 0
        total[start : start + axis.window] += weights
    assert total[:size].min() > 0
    assert axis.starts[-1] + axis.window - size < 32  # no more than a stride is mirrored
    shared = [a + axis.window - b for a, b in zip(axis.starts, axis.starts[1:], strict=False)]
    assert all(found >= min(overlap * axis.window, axis.window - 32) for found in shared)
    assert sum(count for _, count in windows.strips(axis)) == size


def test_weights_of_two_windows_that_share_the_overlap_add_to_one():
    axis = windows.Axis(size=224, window=128, overlap=32, starts=(0, 96))
    weights = windows.blend_weights(axis)
    np.testing.assert_allclose(weights[96:] + weights[:32], 1, atol=1e-5)


def test_mirrored_edge():
    scene = np.arange(4).reshape(2, 2, 1)
    np.testing.assert_array_equal(
        windows.read_mirrored(scene, 3, 4)[..., 0], [[0, 1, 1, 0], [2, 3, 3, 2], [2, 3, 3, 2]]
    )


def test_wrong_cutting_is_refused():
    with pytest.raises(ValueError, match=r"0 to 0\.75"):
        windows.plan(1000, 256, 0.9)
    with pytest.raises(ValueError, match="positive"):
        windows.plan(1000, 0, 0.25)
