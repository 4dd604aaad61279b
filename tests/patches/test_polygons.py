"""Polygons of patches: valid, without gaps and overlaps, as large as their pixels, alike in strips of any height."""

import numpy as np
import pytest
from drawn_patches import NODATA, drawn_map, patches_of, strips_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize, shapes

pytest.importorskip("shapely", reason="extra 'polygons'")

import shapely

from specsar_jax.patches.polygons import polygons_of


def polygons(ids: np.ndarray, rows: int) -> list[tuple[int, int, bytes]]:
    """Class, pixels and polygon of each patch; columns and rows are the coordinates."""
    found = polygons_of(
        strips_of(ids, rows),
        len(ids),
        lambda of: np.ones((len(of), ids.shape[1])),
        lambda x, y: np.stack([x, y], axis=1),
    )
    return [
        one
        for some in found
        for one in zip(
            some.class_id.tolist(), some.pixels.tolist(), shapely.to_wkb(some.geometries).tolist(), strict=True
        )
    ]


def check(ids: np.ndarray, found: list[tuple[int, int, bytes]]) -> None:
    geometries = shapely.from_wkb([wkb for *_, wkb in found])
    assert shapely.is_valid(geometries).all()
    assert shapely.area(geometries).tolist() == [pixels for _, pixels, _ in found]
    assert sum(pixels for _, pixels, _ in found) == (ids != NODATA).sum()
    if len(found):
        assert shapely.coverage_is_valid(geometries)  # neighbours have the same corners, none overlaps
        burnt = rasterize(
            zip(geometries, [kind for kind, *_ in found], strict=True), ids.shape, fill=NODATA, dtype="uint8"
        )
        np.testing.assert_array_equal(burnt, ids)
    assert len(found) == patches_of(ids).max() + 1


CORNERS = np.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], np.uint8)
"""A patch with two holes that touch at a corner."""

TOUCHING = np.array([[0, 0, 1], [0, 1, 0], [0, 0, 0]], np.uint8)
"""A hole that touches the outer ring at a corner."""

NESTED = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]], np.uint8)


@pytest.mark.parametrize(
    "ids", [CORNERS, TOUCHING, NESTED, np.full((3, 2), NODATA, np.uint8), np.zeros((1, 1), np.uint8)]
)
def test_maps_seen_at_a_glance(ids):
    for rows in (1, 2, 5):
        check(ids, polygons(ids, rows))


def test_holes():
    holes = {len(shapely.from_wkb(wkb).interiors) for _, pixels, wkb in polygons(CORNERS, 2) if pixels == 14}
    assert holes == {2}
    (touching,) = [shapely.from_wkb(wkb) for _, pixels, wkb in polygons(TOUCHING, 1) if pixels == 7]
    assert len(touching.interiors) == 1 and touching.area == 7


def test_straight_sides_have_no_corner_but_where_three_patches_meet():
    ids = np.zeros((6, 4), np.uint8)
    (alone,) = polygons(ids, 1)
    assert shapely.get_num_coordinates(shapely.from_wkb(alone[2])) == 5
    ids[3:, :] = 1
    ids[3:, 2:] = 2
    upper = next(shapely.from_wkb(wkb) for kind, _, wkb in polygons(ids, 2) if kind == 0)
    assert shapely.get_coordinates(upper).tolist() == [[0, 0], [0, 3], [2, 3], [4, 3], [4, 0], [0, 0]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
@example(7)
def test_drawn_maps_in_strips_of_any_height(seed):
    ids = drawn_map(np.random.default_rng(seed), 12, 3)
    whole = polygons(ids, len(ids))
    check(ids, whole)
    for rows in (1, 2, 3):
        assert polygons(ids, rows) == whole


def test_they_are_those_of_gdal():
    ids = np.random.default_rng(0).integers(0, 3, (60, 50)).astype(np.uint8)
    ids[10:30, 20:40] = NODATA
    ours = shapely.from_wkb([wkb for *_, wkb in polygons(ids, 8)])
    found = shapes(ids, ids != NODATA, connectivity=4)
    theirs = shapely.make_valid([shapely.geometry.shape(shape) for shape, _ in found])  # where they touch themselves

    def sorted_parts(geometries):
        return sorted(shapely.to_wkb(shapely.normalize(shapely.simplify(geometries, 0))).tolist())

    assert sorted_parts(ours) == sorted_parts(theirs)
