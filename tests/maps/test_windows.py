"""Windows: small scenes seen by eye, and what holds for every size."""

import numpy as np
import pytest

from specsar_jax.maps import windows


def test_the_worked_example():
    axis = windows.plan(1100, 510, 0.25, 1000)
    assert (axis.window, axis.starts, axis.counts) == (512, (0, 152, 536, 588), (152, 384, 52, 512))


def test_a_scene_of_one_window_is_not_cut():
    assert windows.plan(510, 510, 0.25, 77).starts == (0,)
    assert windows.plan(100, 510, 0.25) == windows.Axis(100, 128, 32, (0,))
    assert windows.plan(7, 510, 0.25).window == 32


@pytest.mark.parametrize("size", [1, 31, 33, 255, 256, 257, 510, 1000, 1068, 4097])
@pytest.mark.parametrize("origin", [0, -420001])
@pytest.mark.parametrize(("window", "overlap"), [(256, 0.5), (510, 0.25), (64, 0.0), (160, 0.6), (32, 0.5)])
def test_every_pixel_is_covered_and_blended_to_one(size, origin, window, overlap):
    axis = windows.plan(size, window, overlap, origin)
    total = np.zeros(axis.padded)
    for start, weights in zip(axis.starts, windows.blend_weights(axis), strict=True):
        total[start : start + axis.window] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert axis.padded == max(size, axis.window)  # nothing is mirrored but what a window is larger than the scene
    step = windows.side_and_step(axis.window, overlap)[1]
    assert step % 32 == 0 and step <= max(axis.window * (1 - overlap), 32)
    assert all((start + origin) % step == 0 for start in axis.starts[1:-1])
    assert all(apart <= step for apart in np.diff(axis.starts))
    assert len(axis.starts) <= 2 + -(-axis.starts[-1] // step)
    assert sum(axis.counts) == size


def test_windows_belong_to_the_ground():
    """Two scenes that share ground: but near their edges it is seen by the same windows, with the same weights."""

    def weights_by_place(origin: int) -> dict[int, np.ndarray]:
        axis = windows.plan(1000, 128, 0.25, origin)
        return {
            start + origin: weights for start, weights in zip(axis.starts, windows.blend_weights(axis), strict=True)
        }

    one, other = weights_by_place(41234), weights_by_place(41334)
    inner = range(41334 + 128, 42234 - 2 * 128)
    assert {start for start in one if start in inner} == {start for start in other if start in inner} != set()
    for start in one.keys() & inner:
        np.testing.assert_array_equal(one[start], other[start])


def test_weights_of_two_windows_cross_in_the_middle():
    axis = windows.Axis(size=224, window=128, overlap=32, starts=(0, 96))
    one, two = windows.blend_weights(axis)
    np.testing.assert_allclose(one[96:] + two[:32], 1, atol=1e-6)
    assert one[96] > 0.99 and abs(one[111] - one[112]) < 0.1 and one[127] < 0.01


def test_parts_of_a_scene():
    assert [list(windows.share_of(5, part, 3)) for part in (1, 2, 3)] == [[0], [1, 2], [3, 4]]
    assert list(windows.runs([0, 1, 2, 5, 6])) == [range(3), range(5, 7)]
    axis = windows.Axis(size=224, window=128, overlap=32, starts=(0, 32, 64, 96))
    assert [windows.first_to_reach(axis, place) for place in range(4)] == [0, 0, 0, 0]
    assert windows.first_to_reach(windows.plan(1100, 510, 0.0), 2) == 1  # from 0, 512 and 588


def test_mirrored_edge():
    scene = np.arange(4).reshape(2, 2, 1)
    np.testing.assert_array_equal(windows.mirrored(scene, 3, 4)[..., 0], [[0, 1, 1, 0], [2, 3, 3, 2], [2, 3, 3, 2]])


def test_wrong_cutting_is_refused():
    with pytest.raises(ValueError, match=r"0 to 0\.75"):
        windows.plan(1000, 256, 0.9)
    with pytest.raises(ValueError, match="positive"):
        windows.plan(1000, 0, 0.25)
