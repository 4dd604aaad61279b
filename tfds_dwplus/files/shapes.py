"""Checks polygons of GeoJSON, from regions of users and footprints of archives, before a library sees them.

Enters: a geometry, of any JSON. Leaves: its rings as arrays. A library that walks down into coordinates goes wrong where they are
texts or nested without end: `rasterio.features.bounds` ends the process.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64

from tfds_dwplus.files.strangers import a_list, a_number, an_object, one_line

Ring = Float64[np.ndarray, "point 2"]

_LARGEST = 1e9
"""Of a coordinate: metres of any projection are less, and squares of it are numbers still."""


def rings_of(geometry: Any, most_points: int) -> list[list[Ring]]:
    """Returns the polygons of a Polygon or MultiPolygon, each a list of rings, of which the first is the outer one.

    Args:
        geometry: of any JSON.
        most_points: of all rings together.

    Raises:
        ValueError: it is another geometry, has more points, a ring of fewer than three, or something else than numbers of less than
            1e9 for coordinates.
    """
    tree = an_object(geometry, "a geometry")
    kind = tree.get("type")
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"a {one_line(kind, 40)}, expected Polygon or MultiPolygon")
    coordinates = a_list(tree.get("coordinates"), "its coordinates")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    left = most_points
    found = []
    for polygon in polygons:
        rings = []
        for ring in a_list(polygon, "a polygon"):
            left -= len(a_list(ring, "a ring"))
            if left < 0:
                raise ValueError(f"it has more than {most_points} points")
            if len(ring) < 3:
                raise ValueError(f"a ring of {len(ring)} points, expected 3 or more")
            rings.append(np.array([_point(point) for point in ring], np.float64))
        if rings:
            found.append(rings)
    return found


def _point(point: Any) -> tuple[float, float]:
    numbers = a_list(point, "a point")
    if not 2 <= len(numbers) <= 4:  # some write heights and measures too
        raise ValueError(f"a point of {len(numbers)} numbers, expected longitude and latitude")
    x, y = a_number(numbers[0], "a coordinate"), a_number(numbers[1], "a coordinate")
    if abs(x) > _LARGEST or abs(y) > _LARGEST:
        raise ValueError(f"the coordinates {x:g} {y:g}, expected degrees")
    return x, y
