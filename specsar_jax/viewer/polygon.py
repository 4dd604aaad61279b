"""Areas of the classes in a drawn polygon, by the same sums as `specsar_jax.areas`: of a saved polygon that command gives the same.

Enters: corners in degrees. Leaves: hectares.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import shapely

from specsar_jax.viewer.class_map import ClassMap
from specsar_jax.viewer.mercator import WGS84
from specsar_jax.viewer.shares import percentages
from specsar_jax.zones.counting import count
from specsar_jax.zones.map_parts import Mapped, Part
from specsar_jax.zones.polygons import Zones
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.places.true_areas import polygon_hectares
from tfds_dwplus.vectors.geometries import on_grid

MOST_CORNERS = 200

DIGITS = 7
"""Of a corner's degrees, as in the file that the page saves: a centimetre."""


def drawn(corners: Sequence[tuple[float, float]]) -> Zones:
    """Returns a polygon of corners, longitude and latitude in degrees.

    Raises:
        ValueError: there are too few or too many, one is no place, or its lines cross.
    """
    if not 3 <= len(corners) <= MOST_CORNERS:
        raise ValueError(f"a polygon of {len(corners)} corners, expected 3 to {MOST_CORNERS}")
    for lon, lat in corners:
        if not (math.isfinite(lon) and math.isfinite(lat) and abs(lon) <= 540 and abs(lat) <= 90):
            raise ValueError(f"a corner at {lat:g}, {lon:g}, expected latitude and longitude in degrees")
    polygon = shapely.Polygon(np.round(np.array(corners, np.float64), DIGITS))
    if not polygon.is_valid or not polygon.area:
        raise ValueError("the lines of the polygon cross or touch; move or remove a corner")
    geometries = np.empty(1, object)
    geometries[0] = shapely.MultiPolygon(list(_turned(polygon)))
    return Zones(("polygon",), geometries, WGS84)


def areas(shown: ClassMap, zones: Zones) -> dict[str, Any]:
    """Measures a map in a polygon.

    Returns:
        `areas` of the classes, `nodata` and `outside` of the map, all in hectares, and their `shares` in percent, in that order.

    """
    number = len(shown.classes)
    if not _reaches(zones, shown.grid):
        whole = float(polygon_hectares(zones.geometries, zones.crs)[0])
        return {"areas": [0.0] * number, "nodata": 0.0, "outside": whole, "shares": [0.0] * (number + 1) + [100.0]}
    mapped = Mapped(
        *(shown.source, (Part(shown.source, shown.grid, ""),), shown.classes, "", shown.anywhere),
        *(shown.coding, shown.source_band),
    )
    counted, _ = count(mapped, zones)
    parts = [*counted.classes[0].tolist(), float(counted.nodata[0]), float(counted.outside[0])]
    return {"areas": parts[:-2], "nodata": parts[-2], "outside": parts[-1], "shares": percentages(parts)}


def _turned(polygon: shapely.Polygon) -> Iterator[shapely.Polygon]:
    """Cuts a polygon at the antimeridian, beyond which the page counts on, and yields its parts within -180 to 180 degrees, as GeoJSON has it
    (RFC 7946, 3.1.9).
    """
    for turn in (-360, 0, 360):
        part = shapely.intersection(polygon, shapely.box(turn - 180, -90, turn + 180, 90))
        for one in shapely.get_parts(part):
            if isinstance(one, shapely.Polygon) and one.area:
                yield shapely.transform(one, lambda xy, turn=turn: xy - (turn, 0))


def _reaches(zones: Zones, grid: Grid) -> bool:
    """Returns whether zones have a part in a grid."""
    pixels, _ = on_grid(zones.with_union(), grid)
    inside = shapely.intersection(shapely.make_valid(pixels), shapely.box(0, 0, grid.width, grid.height))
    return bool(shapely.area(inside).sum() > 0)
