"""Label codes of small windows, seen by eye."""

import numpy as np
import shapely

from tfds_dwplus.vectors.burning import Burner


def burner(*shapes: tuple[shapely.Geometry, int]) -> Burner:
    geometries = np.empty(len(shapes), object)
    geometries[:] = [shapely.multipolygons(shapely.get_parts(shape)) for shape, _ in shapes]
    return Burner(geometries, np.array([class_id for _, class_id in shapes]))


def test_a_pixel_is_in_a_polygon_if_its_centre_is():
    codes, overlaps = burner((shapely.box(0.6, 0, 2.6, 2.4), 0), (shapely.box(3, 3, 4, 4), 2)).codes(
        slice(0, 4), slice(0, 4)
    )
    assert codes.tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 3]]
    assert not overlaps


def test_a_window_is_a_part_of_the_whole():
    shapes = burner((shapely.Point(10, 10).buffer(7, quad_segs=400), 1), (shapely.box(12, 0, 30, 30), 0))
    whole, overlaps = shapes.codes(slice(0, 30), slice(0, 30))
    part, fewer = shapes.codes(slice(5, 17), slice(8, 20))
    np.testing.assert_array_equal(part, whole[5:17, 8:20])
    assert 0 < fewer[0, 1] < overlaps[0, 1]
    assert not shapes.touches(slice(20, 30), slice(0, 5)) and shapes.touches(slice(20, 30), slice(0, 15))


def test_a_pixel_of_two_classes_has_no_label_and_is_counted():
    two = (
        (shapely.box(0, 0, 3, 1), 5),
        (shapely.box(1, 0, 4, 1), 3),
        (shapely.box(2, 0, 4, 1), 3),
        (shapely.box(2, 0, 3, 1), 9),
    )
    codes, overlaps = burner(*two).codes(slice(0, 1), slice(0, 4))
    assert codes.tolist() == [[6, 0, 0, 4]]
    assert overlaps == {(3, 5): 2}


def test_polygons_of_one_class_may_overlap():
    codes, overlaps = burner((shapely.box(0, 0, 3, 1), 1), (shapely.box(1, 0, 4, 1), 1)).codes(slice(0, 1), slice(0, 4))
    assert codes.tolist() == [[2, 2, 2, 2]] and not overlaps


def test_what_covers_no_centre_is_counted():
    assert burner((shapely.box(0.6, 0.6, 1.4, 1.4), 0), (shapely.box(0.4, 0.4, 0.6, 0.6), 0)).without_pixel() == 1
