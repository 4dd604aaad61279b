"""Burn shapes into windows of a scene, as label codes. Pure.

A pixel belongs to a polygon if its centre lies in it. A pixel in polygons of two classes has no label.
"""

import collections

import numpy as np
import rasterio
import shapely
from jaxtyping import Int64, UInt8
from rasterio.features import rasterize

_MANY_POINTS = 1000
"""Of a polygon that is cut to the window before it is burnt, for else it would be gone through as a whole again and again."""

Overlaps = collections.Counter[tuple[int, int]]
"""Pixels by the two lowest classes that they are of."""


class Burner:
    """The shapes of a scene."""

    def __init__(self, shapes: np.ndarray, class_id: Int64[np.ndarray, " shape"]) -> None:
        """Takes polygons in pixels of the scene, objects, and the class of each."""
        self.shapes, self._class_id = shapes, class_id
        self._tree = shapely.STRtree(shapes)

    def codes(self, rows: slice, columns: slice) -> tuple[UInt8[np.ndarray, "rows columns"], Overlaps]:
        """Returns label codes of a window, class id + 1, 0 where no or two classes are, and the pixels of two classes."""
        shape = rows.stop - rows.start, columns.stop - columns.start
        codes, twice = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        window = shapely.box(columns.start, rows.start, columns.stop, rows.stop)
        touched = self._tree.query(window)
        for number in np.unique(self._class_id[touched]):
            burnt = self._burnt(np.sort(touched[self._class_id[touched] == number]), window, shape)
            twice[burnt & (codes > 0) & (twice == 0)] = number + 1
            codes[burnt & (codes == 0)] = number + 1
        both, pixels = np.unique(np.stack([codes[twice > 0], twice[twice > 0]]), axis=1, return_counts=True)
        overlaps = {(int(one) - 1, int(other) - 1): int(count) for one, other, count in zip(*both, pixels, strict=True)}
        codes[twice > 0] = 0
        return codes, collections.Counter(overlaps)

    def touches(self, rows: slice, columns: slice) -> bool:
        """Returns whether a shape may be in a window, by its box."""
        return self._tree.query(shapely.box(columns.start, rows.start, columns.stop, rows.stop)).size > 0

    def without_pixel(self) -> int:
        """Returns how many small shapes cover the centre of no pixel, and so are in no label."""
        small = self.shapes[shapely.area(self.shapes) < 4]
        return sum(not _covers_a_centre(shape) for shape in small)

    def _burnt(self, places: np.ndarray, window: shapely.Geometry, shape: tuple[int, int]) -> np.ndarray:
        shapes = self.shapes[places]
        large = shapely.get_num_coordinates(shapes) > _MANY_POINTS
        if large.any():
            shapes = shapes.copy()
            shapes[large] = [_cut(each, window) for each in shapes[large]]
        corner = rasterio.Affine.translation(window.bounds[0], window.bounds[1])
        burnable = [each for each in shapes if not each.is_empty]
        if not burnable:
            return np.zeros(shape, bool)
        return rasterize(burnable, shape, transform=corner, dtype=np.uint8, all_touched=False) > 0


def _cut(shape: shapely.Geometry, window: shapely.Geometry) -> shapely.Geometry:
    """Cuts a polygon to a window and a margin; as it is where projecting has made it one that GEOS does not cut."""
    try:
        parts = shapely.get_parts(shapely.get_parts(shapely.intersection(shape, shapely.buffer(window, 2))))
    except shapely.errors.GEOSException:
        return shape
    return shapely.multipolygons(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON])


def _covers_a_centre(shape: shapely.Geometry) -> bool:
    left, top, right, bottom = shape.bounds
    columns, rows = np.arange(np.ceil(left - 0.5), right) + 0.5, np.arange(np.ceil(top - 0.5), bottom) + 0.5
    return bool(shapely.contains_xy(shape, *np.meshgrid(columns, rows)).any())
