"""Draws where tiles are: land, a graticule, and a dot for each tile or for several, coloured by quantiles of their accuracy.

Enters: tiles with coordinates and scores. Leaves: SVG as `Markup`. Colours of scores, `s0` to `s4`, are those of the page's CSS.
"""

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from specsar_jax.accuracy.tally import Tally
from specsar_jax.pages import svg

MOST_PLACES = 2000
"""Largest number of dots on the map, one per tile; more tiles are grouped in cells."""

COLOURS = 5
"""Colours of scores, `s0` for the lowest."""

LEAST_LAND_DEGREES = 8.0
"""Width of a map on which the outlines of land, of 1:110 million, are still good enough to be drawn."""

_DEGREES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0)


class Place(NamedTuple):
    """A dot on the map, for one tile or several."""

    name: str
    lon: float
    lat: float
    score: float
    """Score, 0 to 1."""
    radius: float = 6.0
    target: str = ""
    """Id of the element of the page that the dot links to."""


class Step(NamedTuple):
    """Scores that have a colour in common."""

    colour: str
    """CSS class."""
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class PlaceMap:
    """The map, and what explains it."""

    drawn: Markup
    steps: list[Step]
    locator: Markup | None
    """The world, with a mark where the map is; None if the map is large enough to show it."""


def map_of_places(tally: Tally, scores: Float[np.ndarray, " tile"], targets: dict[int, str]) -> PlaceMap | None:
    """Draws the map of the tiles that have coordinates and a score; None if there are none. `targets` are ids of the page, by row."""
    lon, lat = (np.asarray(tally.columns.get(name, np.full(len(tally), np.nan)), np.float64) for name in ("lon", "lat"))
    known = np.flatnonzero(np.isfinite(lon) & np.isfinite(lat) & np.isfinite(scores))
    if not len(known):
        return None
    title = f"Places of {len(known):,} tiles, coloured by their overall accuracy"
    if len(known) <= MOST_PLACES:
        radius = 6.0 if len(known) <= 100 else 4.0
        shown = [
            Place(str(tally.tile_id[i]), *map(float, (lon[i], lat[i], scores[i])), radius, targets.get(i, ""))
            for i in known
        ]
        return places(shown, title)
    # Too many dots for a page: one dot per cell, about 60 cells across.
    size = max(np.ptp(lon[known]), np.ptp(lat[known]), 1e-6) / 60
    cells: dict[tuple[int, int], list[int]] = {}
    for i in known:
        cells.setdefault((int(lon[i] // size), int(lat[i] // size)), []).append(i)
    shown = []
    for tiles in cells.values():
        confusion = tally.confusion[tiles].sum(axis=0)
        score = float(confusion.trace() / confusion.sum())
        middle, radius = (float(lon[tiles].mean()), float(lat[tiles].mean())), 2.5 + 1.5 * math.log10(len(tiles))
        shown.append(Place(f"{len(tiles)} tiles", *middle, score, radius))
    return places(shown, f"{title}, those of a cell together")


def places(points: Sequence[Place], title: str) -> PlaceMap:
    """Draws places on a graticule; degrees of longitude have their length at the middle latitude."""
    width, margin = 900.0, 44.0
    west, east = _padded([point.lon for point in points], 180.0)
    south, north = _padded([point.lat for point in points], 90.0)
    shortened = max(math.cos(math.radians((south + north) / 2)), 0.2)
    # If the map is too flat or too tall, the shorter side is extended.
    if (north - south) < 0.45 * (east - west) * shortened:
        south, north = _widened(south, north, 0.45 * (east - west) * shortened)
    if (north - south) > 0.75 * (east - west) * shortened:
        west, east = _widened(west, east, (north - south) / 0.75 / shortened)
    scale = (width - 2 * margin) / ((east - west) * shortened)
    height = (north - south) * scale + 2 * margin
    step = next((degrees for degrees in _DEGREES if (east - west) / degrees <= 9), 60.0)

    def across(lon: float) -> float:
        return margin + (lon - west) * shortened * scale

    def down(lat: float) -> float:
        return margin + (north - lat) * scale

    frame = {"x": margin, "y": margin, "width": width - 2 * margin, "height": height - 2 * margin}
    drawn = []
    if east - west >= LEAST_LAND_DEGREES:
        clip = svg.element("clipPath", svg.element("rect", **frame), id="frame")
        drawn += [clip, svg.element("g", _land(across, down, (west, south, east, north)), clip_path="url(#frame)")]
    for lon in _multiples(west, east, step):
        kind = "graticule zero" if lon == 0 else "graticule"
        drawn.append(svg.element("line", class_=kind, x1=across(lon), x2=across(lon), y1=margin, y2=height - margin))
        for y in (margin - 9, height - margin + 19):
            drawn.append(svg.text(_degrees(lon, "E", "W"), across(lon), y, "middle"))
    for lat in _multiples(south, north, step):
        kind = "graticule zero" if lat == 0 else "graticule"
        drawn.append(svg.element("line", class_=kind, x1=margin, x2=width - margin, y1=down(lat), y2=down(lat)))
        rotated = (
            (margin - 9, f"rotate(-90 {margin - 9:.1f} {down(lat):.1f})"),
            (width - margin + 9, f"rotate(90 {width - margin + 9:.1f} {down(lat):.1f})"),
        )
        drawn += [svg.text(_degrees(lat, "N", "S"), x, down(lat), "middle", transform=how) for x, how in rotated]
    drawn.append(svg.element("rect", class_="neatline", **frame))
    steps = score_steps(np.array([point.score for point in points]))
    for point in sorted(points, key=lambda point: -point.score):  # poor scores are drawn last, on top
        colour = next(step.colour for step in steps if point.score <= step.high)
        tip = f"{point.name}: {100 * point.score:.1f} %"
        dot = svg.dot(f"place {colour}", across(point.lon), down(point.lat), point.radius, tip)
        drawn.append(svg.element("a", dot, href=f"#{point.target}", aria_label=tip) if point.target else dot)
    # A picture has no links in it: with them it is a group of them.
    group = {"role": "group"} if any(point.target for point in points) else {}
    locator = None if east - west >= LEAST_LAND_DEGREES else _locator((west + east) / 2, (south + north) / 2)
    return PlaceMap(svg.whole(width, height, title, drawn, "map", **group), steps, locator)


def score_steps(scores: Float[np.ndarray, " place"]) -> list[Step]:
    """Returns up to COLOURS steps of about as many scores each, from the lowest; equal scores are in one step."""
    values, counts = np.unique(scores, return_counts=True)
    step = (COLOURS * (counts.cumsum() - counts / 2) / len(scores)).astype(int)  # by the middle rank of equal scores
    groups = [values[step == place] for place in np.unique(step)]
    # Few steps take colours that are far apart: two the first and the last, one the middle.
    colours = [round(place * (COLOURS - 1) / (len(groups) - 1)) for place in range(len(groups))] if groups[1:] else [2]
    return [
        Step(f"s{colour}", float(group.min()), float(group.max()))
        for colour, group in zip(colours, groups, strict=True)
    ]


def _land(
    across: Callable[[float], float], down: Callable[[float], float], seen: tuple[float, float, float, float]
) -> Markup:
    """Draws land as a path; `seen` are the west, south, east and north of the map."""
    parts = []
    for ring in _rings():
        west, south, east, north = *ring.min(axis=0), *ring.max(axis=0)
        if west <= seen[2] and east >= seen[0] and south <= seen[3] and north >= seen[1]:
            points = ((round(across(lon)), round(down(lat))) for lon, lat in ring.tolist())
            parts.append("M" + " ".join(f"{x},{y}" for (x, y), _ in itertools.groupby(points)) + "Z")
    return svg.element("path", class_="land", d="".join(parts))


@functools.cache
def _rings() -> list[Float[np.ndarray, "point 2"]]:
    """Reads the outlines of land, in degrees of longitude and latitude. The file says where they come from."""
    tenths = json.loads(Path(__file__).with_name("land.json").read_text())["tenths_of_degrees"]
    return [np.array(ring, np.float64).reshape(-1, 2) / 10 for ring in tenths]


def _locator(lon: float, lat: float) -> Markup:
    """Draws the world, small, with a mark at a place."""
    width, height = 300.0, 150.0
    scale = width / 360

    def across(east: float) -> float:
        return (east + 180) * scale

    def down(north: float) -> float:
        return (90 - north) * scale

    x, y = across(lon), down(lat)
    drawn = [
        _land(across, down, (-180.0, -90.0, 180.0, 90.0)),
        svg.element("rect", class_="neatline", x=0, y=0, width=width, height=height),
        svg.element("circle", class_="here", cx=x, cy=y, r=7.0),
        svg.element("circle", class_="here middle", cx=x, cy=y, r=1.6),
    ]
    where = f"{_degrees(round(lat, 1), 'N', 'S')} {_degrees(round(lon, 1), 'E', 'W')}"
    return svg.whole(width, height, f"The map is at {where}", drawn, "locator")


def _padded(values: list[float], limit: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = max(0.06 * (high - low), 0.02)
    return max(low - pad, -limit), min(high + pad, limit)


def _widened(low: float, high: float, span: float) -> tuple[float, float]:
    middle = (low + high) / 2
    return middle - span / 2, middle + span / 2


def _multiples(low: float, high: float, step: float) -> list[float]:
    return [round(place * step, 6) for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _degrees(value: float, positive: str, negative: str) -> str:
    return f"{abs(value):g}°{positive if value > 0 else negative if value < 0 else ''}"
