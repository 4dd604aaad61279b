"""Areas of the classes in a drawn polygon, by the same sums as `specsar_jax.areas`: of a saved polygon that command gives the same.

Enters: corners in degrees. Leaves: hectares.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely

from specsar_jax.viewer.class_map import ClassMap
from specsar_jax.viewer.mercator import WGS84
from specsar_jax.viewer.shares import percentages
from specsar_jax.zones.counting import count
from specsar_jax.zones.map_parts import Mapped, Part
from specsar_jax.zones.polygons import Zones

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
    geometries[0] = shapely.MultiPolygon([polygon])
    return Zones(("polygon",), geometries, WGS84)


def areas(shown: ClassMap, zones: Zones) -> dict[str, Any]:
    """Measures a map in a polygon.

    Returns:
        `areas` of the classes, `nodata` and `outside` of the map, all in hectares, and their `shares` in percent, in that order.

    Raises:
        ValueError: the polygon lies outside of the map.
    """
    mapped = Mapped(
        *(shown.source, (Part(shown.source, shown.grid, ""),), shown.classes, "", shown.anywhere),
        *(shown.coding, shown.source_band),
    )
    try:
        counted, _ = count(mapped, zones)
    except ValueError as error:
        if "no zone has a part" in str(error):
            raise ValueError(f"the polygon lies outside of {shown.name}") from None
        raise
    parts = [*counted.classes[0].tolist(), float(counted.nodata[0]), float(counted.outside[0])]
    return {"areas": parts[:-2], "nodata": parts[-2], "outside": parts[-1], "shares": percentages(parts)}
