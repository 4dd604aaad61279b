"""A page of areas by zone: a map of the zones in SVG, tables, and how far the figures reach. Nothing is fetched by it.

Enters: zones and their areas. Leaves: HTML, from the template `areas.html`.
"""

import dataclasses
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from jaxtyping import Float64
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points

from specsar_jax.pages.templates import template
from specsar_jax.version import __version__
from specsar_jax.zones.counting import Counted
from specsar_jax.zones.map_parts import Mapped
from specsar_jax.zones.polygons import Zones
from tfds_dwplus.bands import Classes

MOST_DRAWN, MOST_ROWS = 5000, 2000
"""Zones on the map and rows of the table; of more, the largest."""

_WIDTH, _TALLEST = 1000.0, 1200.0
"""Of the map, in the units of its SVG."""

_FAINTEST = 0.2
"""Opacity of a zone whose largest class has next to nothing of it."""


@dataclasses.dataclass(frozen=True)
class _Row:
    """A zone in the table, or all of them together."""

    name: str
    classes: list[float]
    nodata: float
    outside: float
    total: float


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """A zone on the map."""

    path: str
    colour: str
    opacity: float
    title: str


def render(
    mapped: Mapped,
    zones: Zones,
    counted: Counted,
    together: Counted,
    estimates: dict[str, Any] | None,
    lines: Sequence[str],
    command: Sequence[str],
) -> str:
    """Renders the page.

    Args:
        mapped: the map.
        zones: its zones.
        counted: areas of the zones.
        together: areas of all zones together, as one.
        estimates: corrected areas of `correcting.corrected`; None if there are none.
        lines: what a reader should know.
        command: that made the page.
    """
    filters = {
        "ha": hectares,
        "percent": lambda share: f"{100 * share:.1f} %",
        "shell": shlex.join,
        "plain": plain,
    }
    order = np.argsort(-counted.total, kind="stable")
    shown = np.sort(order[:MOST_ROWS]).tolist()
    size, drawn = _map(zones, counted, mapped.classes, np.sort(order[:MOST_DRAWN]))
    rows = _rows(zones.names, counted)
    (whole,) = _rows(["all zones together"], together)
    area = float(together.mapped[0])
    return template(Path(__file__).with_name("areas.html"), filters).render(
        name=mapped.path.resolve().name,
        classes=[
            (name, f"#{colour}") for name, colour in zip(mapped.classes.names, mapped.classes.colours, strict=True)
        ],
        size=size,
        drawn=drawn,
        rows=[rows[place] for place in shown],
        whole=whole,
        overlap=float(counted.total.sum()) > 1.00001 * float(together.total[0]),
        zones=len(zones.names),
        shares=[part / area if area else 0.0 for part in whole.classes],
        mapped=area,
        estimates=estimates,
        lines=lines,
        command=command,
        version=__version__,
    )


def hectares(area: float) -> str:
    """Writes hectares with one decimal, so that the figures of a row add up."""
    return f"{area:,.1f}"


def plain(name: str) -> str:
    """Writes the name of a class as words."""
    return name.replace("_", " ")


def _rows(names: Sequence[str], counted: Counted) -> list[_Row]:
    parts = (counted.classes.tolist(), counted.nodata.tolist(), counted.outside.tolist(), counted.total.tolist())
    return [_Row(*row) for row in zip(names, *parts, strict=True)]


def _map(
    zones: Zones, counted: Counted, classes: Classes, chosen: np.ndarray
) -> tuple[tuple[float, float], list[_Drawn]]:
    """Draws zones by their largest class; degrees of longitude have their length at the middle latitude."""
    degrees = CRS.from_epsg(4326)

    def moved(xy: Float64[np.ndarray, "point 2"]) -> Float64[np.ndarray, "point 2"]:
        if zones.crs == degrees:
            return xy
        return np.stack(transform_points(zones.crs, degrees, xy[:, 0], xy[:, 1]), axis=-1)

    placed = shapely.transform(zones.geometries[chosen], moved)
    west, south, east, north = shapely.total_bounds(placed).tolist()
    shortened = max(math.cos(math.radians((south + north) / 2)), 0.05)
    scale = min(_WIDTH / ((east - west) * shortened), _TALLEST / (north - south))

    def on_page(xy: Float64[np.ndarray, "point 2"]) -> Float64[np.ndarray, "point 2"]:
        return np.stack([(xy[:, 0] - west) * shortened * scale, (north - xy[:, 1]) * scale], axis=-1)

    # As neighbours are simplified one by one, by half a unit, gaps between them stay below a pixel.
    outlines = shapely.simplify(shapely.transform(placed, on_page), 0.4)
    drawn = [
        _drawn(outline, zones.names[place], counted.classes[place], float(counted.total[place]), classes)
        for outline, place in zip(outlines, chosen.tolist(), strict=True)
    ]
    return ((east - west) * shortened * scale, (north - south) * scale), drawn


def _drawn(
    outline: shapely.Geometry, name: str, areas: Float64[np.ndarray, " class"], total: float, classes: Classes
) -> _Drawn:
    mapped = float(areas.sum())
    path = "".join(
        "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in shapely.get_coordinates(ring)[:-1].tolist()) + "Z"
        for ring in shapely.get_rings(outline)
    )
    if not mapped:
        return _Drawn(path, "none", 1.0, f"{name}: nothing mapped of {hectares(total)} ha")
    largest = np.argsort(-areas, kind="stable")
    share = float(areas[largest[0]]) / mapped
    words = ", ".join(f"{100 * areas[i] / mapped:.0f} % {plain(classes.names[i])}" for i in largest[:3] if areas[i] > 0)
    opacity = round(_FAINTEST + (1 - _FAINTEST) * share, 3)
    return _Drawn(path, f"#{classes.colours[largest[0]]}", opacity, f"{name}: {words}; {hectares(total)} ha")
