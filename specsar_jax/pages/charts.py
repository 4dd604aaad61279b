"""Draws the charts and pictures of the report, as SVG and as data URIs for an HTML page.

Enters: plain numbers, and rasters of a tile. Leaves: SVG as `Markup`, in which every text is escaped, and WebP pictures as data
URIs. Charts take their colours from the page's CSS: the classes `r0`, `r1`, ... stand for runs, `s0` to `s4` for scores.
"""

import base64
import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Num, UInt8
from markupsafe import Markup, escape
from PIL import Image

from tfds_dwplus.bands import Classes

SCORE_EDGES = (0.4, 0.55, 0.7, 0.85)
"""Limits between the five colours of a score."""

MOST_POINTS = 240
"""Largest number of points of a curve; more are averaged."""

CONFIDENCE_RAMP = tuple(
    matplotlib.colors.to_hex(matplotlib.colormaps["cividis"](level)) for level in (0.0, 0.25, 0.5, 0.75, 1.0)
)
"""Colours of `confidence_map`, from the lowest possible confidence to 1."""

_CONFIDENCE_LEVELS = 32
_WRONG, _RIGHT = (209, 67, 43, 255), (128, 148, 164, 80)
_DIVISIONS = (1.0, 2.0, 2.5, 5.0, 10.0)
_DEGREES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0)


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve of a run; `run` is the run's number in the report."""

    name: str
    run: int
    steps: Sequence[float]
    values: Sequence[float]
    dashed: bool = False


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


def score_class(score: float) -> str:
    """Returns the CSS class of a score, from 's0' below 0.4 to 's4' from 0.85 on."""
    return f"s{sum(score >= edge for edge in SCORE_EDGES)}"


def thinned(steps: Sequence[float], values: Sequence[float], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Reduces a curve to at most `most` points, each the mean of an equal number of points."""
    points = list(zip(steps, values, strict=True))
    size = -(-len(points) // most) or 1
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def lines(curves: Sequence[Line], title: str, *, percent: bool = False) -> Markup:
    """Draws curves over steps; `percent` shows 0..1 as 0 to 100 %. A curve of one point is a dot."""
    width, height, left, right, top, bottom = 420.0, 230.0, 52.0, 14.0, 10.0, 34.0
    points = [thinned(curve.steps, curve.values) for curve in curves]
    xs, ys = [x for curve in points for x, _ in curve], [y for curve in points for _, y in curve]
    x_ticks, y_ticks = ticks(0.0, max(xs), 5), ticks(min(ys), max(ys), 5)
    low, high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))
    last = max(xs)

    def across(x: float) -> float:
        return left + x / (last or 1.0) * (width - left - right)

    def down(y: float) -> float:
        return top + (high - y) / (high - low) * (height - top - bottom)

    drawn = []
    for tick, text in zip(y_ticks, _texts(y_ticks, percent), strict=True):
        drawn.append(_element("line", class_="grid", x1=left, x2=width - right, y1=down(tick), y2=down(tick)))
        drawn.append(_text(text, left - 7, down(tick) + 4, "end"))
    for tick, text in zip(x_ticks, _texts(x_ticks, False), strict=True):
        if tick <= last:
            drawn.append(
                _element("line", class_="tick", x1=across(tick), x2=across(tick), y1=height - 34, y2=height - 29)
            )
            drawn.append(_text(text, across(tick), height - 16, "middle"))
    drawn.append(_text("step", width - right, height - 3, "end"))
    for curve, shown in zip(curves, points, strict=True):
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in shown)
        kind = f"curve r{curve.run}" + (" dashed" if curve.dashed else "")
        drawn.append(_element("polyline", _element("title", curve.name), class_=kind, points=path))
        if len(shown) <= 12:
            drawn += [
                _dot(f"dot r{curve.run}", across(x), down(y), 2.5, f"{curve.name}: step {x:,.0f}, {y:.4g}")
                for x, y in shown
            ]
    label = "; ".join(
        f"{curve.name} from {_value_text(curve.values[0], percent)} at step {curve.steps[0]:,.0f} "
        f"to {_value_text(curve.values[-1], percent)} at step {curve.steps[-1]:,.0f}"
        for curve in curves
    )
    return _svg(width, height, f"{title}: {label}", drawn, "chart")


def reliability(bins: Sequence[dict[str, Any]], run: int, name: str) -> Markup:
    """Draws accuracy over confidence, a dot for each bin with its share of the pixels as area, and bars of these shares below."""
    width, height, left, right, top = 360.0, 402.0, 46.0, 12.0, 10.0
    side = width - left - right
    floor, deep = top + side, 46.0
    total = sum(row["pixels"] for row in bins) or 1
    most = max((row["pixels"] for row in bins), default=0) or 1
    drawn = []
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        x, y = left + tick * side, floor - tick * side
        drawn.append(_element("line", class_="grid", x1=left, x2=left + side, y1=y, y2=y))
        drawn.append(_element("line", class_="grid", x1=x, x2=x, y1=top, y2=floor))
        drawn.append(_text(f"{tick:.0%}".replace("%", ""), left - 7, y + 4, "end"))
        drawn.append(_text(f"{tick:.0%}".replace("%", ""), x, floor + deep + 15, "middle"))
    drawn.append(_element("line", class_="ideal", x1=left, y1=floor, x2=left + side, y2=top))
    filled = [row for row in bins if row["pixels"]]
    path = " ".join(f"{left + row['confidence'] * side:.1f},{floor - row['accuracy'] * side:.1f}" for row in filled)
    drawn.append(_element("polyline", class_=f"curve r{run}", points=path))
    for row in filled:
        confidence, accuracy, share = row["confidence"], row["accuracy"], row["pixels"] / total
        tip = f"confidence {100 * confidence:.1f} %, accuracy {100 * accuracy:.1f} %, {row['pixels']:,.0f} pixels"
        x, y = left + confidence * side, floor - accuracy * side
        drawn.append(_dot(f"dot r{run}", x, y, max(2.5, 18 * math.sqrt(share)), tip))
    for row in bins:
        tall = row["pixels"] / most * (deep - 8)
        x, wide = left + row["low"] * side, (row["high"] - row["low"]) * side
        drawn.append(
            _element(
                "rect",
                _element("title", f"{row['pixels'] / total:.1%} of the pixels"),
                class_=f"bar r{run}",
                x=x + 1,
                y=floor + deep - tall,
                width=max(wide - 2, 1),
                height=tall,
            )
        )
    drawn.append(_element("line", class_="axis", x1=left, x2=left + side, y1=floor + deep, y2=floor + deep))
    middle = f"rotate(-90 12 {top + side / 2:.1f})"
    drawn.append(_text("accuracy, %", 12.0, top + side / 2, "middle", transform=middle))
    drawn.append(_text("confidence, %", left + side / 2, height - 4, "middle"))
    label = "; ".join(f"{100 * row['confidence']:.0f} % sure, {100 * row['accuracy']:.0f} % right" for row in filled)
    return _svg(width, height, f"Reliability of {name}: {label}", drawn, "chart square")


def places(points: Sequence[Place], title: str) -> Markup:
    """Draws places on a graticule, coloured by score; degrees of longitude have their length at the middle latitude."""
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

    drawn = []
    for lon in _multiples(west, east, step):
        kind = "graticule zero" if lon == 0 else "graticule"
        drawn.append(_element("line", class_=kind, x1=across(lon), x2=across(lon), y1=margin, y2=height - margin))
        for y in (margin - 9, height - margin + 19):
            drawn.append(_text(_degrees(lon, "E", "W"), across(lon), y, "middle"))
    for lat in _multiples(south, north, step):
        kind = "graticule zero" if lat == 0 else "graticule"
        drawn.append(_element("line", class_=kind, x1=margin, x2=width - margin, y1=down(lat), y2=down(lat)))
        rotated = (
            (margin - 9, f"rotate(-90 {margin - 9:.1f} {down(lat):.1f})"),
            (width - margin + 9, f"rotate(90 {width - margin + 9:.1f} {down(lat):.1f})"),
        )
        drawn += [_text(_degrees(lat, "N", "S"), x, down(lat), "middle", transform=how) for x, how in rotated]
    frame = {"width": width - 2 * margin, "height": height - 2 * margin}
    drawn.append(_element("rect", class_="neatline", x=margin, y=margin, **frame))
    for point in sorted(points, key=lambda point: -point.score):  # poor scores are drawn last, on top
        dot = _dot(
            f"place {score_class(point.score)}",
            across(point.lon),
            down(point.lat),
            point.radius,
            f"{point.name}: {100 * point.score:.1f} %",
        )
        drawn.append(_element("a", dot, href=f"#{point.target}") if point.target else dot)
    return _svg(width, height, title, drawn, "map")


def shares_in_words(class_id: UInt8[np.ndarray, "height width"], classes: Classes) -> str:
    """Returns the three largest classes with their shares, as text."""
    pixels = np.bincount(class_id.ravel(), minlength=256)[: len(classes)]
    largest = [place for place in np.argsort(-pixels, kind="stable")[:3] if pixels[place]]
    return (
        ", ".join(f"{100 * pixels[i] / pixels.sum():.0f} % {classes.names[i].replace('_', ' ')}" for i in largest)
        or "no class"
    )


def photograph(colour: Num[np.ndarray, "height width 3"], side: int) -> str:
    """Encodes a colour picture with values 0..1 as WebP; a larger one is reduced to `side` pixels by averaging."""
    picture = Image.fromarray(np.rint(255 * np.clip(colour, 0.0, 1.0)).astype(np.uint8))
    if max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.BOX)
    return _data_uri(picture, quality=82, method=4)


def class_map(class_id: UInt8[np.ndarray, "height width"], classes: Classes, side: int) -> str:
    """Encodes a class map in the colours of the classes, transparent where there is no class."""
    palette = np.zeros((256, 4), np.uint8)
    palette[: len(classes)] = [(*rgb, 255) for rgb in classes.rgb()]
    return _drawing(palette[smaller(class_id, side)])


def confidence_map(
    confidence: Float[np.ndarray, "height width"], mapped: Bool[np.ndarray, "height width"], classes: int, side: int
) -> str:
    """Encodes a map of the confidence, from the lowest possible value, 1 / number of `classes`, to 1."""
    lowest = 1.0 / classes
    level = np.clip((confidence - lowest) / (1.0 - lowest), 0.0, 1.0)
    level = np.rint(level * (_CONFIDENCE_LEVELS - 1)) / (_CONFIDENCE_LEVELS - 1)  # few colours keep the file small
    rgba = matplotlib.colormaps["cividis"](smaller(level, side), bytes=True)
    return _drawing(np.where(smaller(mapped, side)[..., None], rgba, 0).astype(np.uint8))


def error_map(judged: Bool[np.ndarray, "height width"], wrong: Bool[np.ndarray, "height width"], side: int) -> str:
    """Encodes a map of the errors: red where wrong, grey where right, transparent where nothing was scored."""
    palette = np.array([(0, 0, 0, 0), _RIGHT, _WRONG], np.uint8)
    return _drawing(palette[smaller(judged.astype(np.uint8) + wrong, side)])


def smaller(values: Any, side: int) -> Any:
    """Resamples a raster to at most `side` pixels by nearest neighbour, so that no new values arise."""
    height, width = values.shape
    largest = max(height, width)
    if largest <= side:
        return values
    rows, columns = (((np.arange(size * side // largest) + 0.5) * largest / side).astype(int) for size in values.shape)
    return values[rows.clip(0, height - 1)][:, columns.clip(0, width - 1)]


def ticks(low: float, high: float, most: int) -> list[float]:
    """Returns about `most` round numbers from `low`, or just below it, to `high`, or just above it."""
    if high - low < 1e-12 * max(abs(high), 1e-12):
        low, high = (low - abs(low) * 0.5, high + abs(high) * 0.5) if high else (0.0, 1.0)
    size = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(factor * size for factor in _DIVISIONS if (high - low) / (factor * size) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def _texts(values: list[float], percent: bool) -> list[str]:
    values = [100 * value if percent else value for value in values]
    step = abs(values[1] - values[0]) if len(values) > 1 else abs(values[0]) or 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if digits > 0 and round(step, digits) != round(step, digits + 3):
        digits += 1  # for steps of 2.5
    if digits > 4:
        return [f"{value:.1e}".replace("e-0", "e-") if value else "0" for value in values]
    return [f"{value:,.{digits if value else 0}f}{' %' if percent else ''}" for value in values]


def _value_text(value: float, percent: bool) -> str:
    return f"{100 * value:.1f} %" if percent else f"{value:.4g}"


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


def _svg(width: float, height: float, label: str, drawn: list[Markup], kind: str) -> Markup:
    return _element(
        "svg",
        *drawn,
        class_=kind,
        viewBox=f"0 0 {width:g} {height:.0f}",
        role="img",
        aria_label=label,
        xmlns="http://www.w3.org/2000/svg",
    )


def _dot(kind: str, x: float, y: float, radius: float, tip: str) -> Markup:
    return _element("circle", _element("title", tip), class_=kind, cx=x, cy=y, r=radius)


def _text(text: str, x: float, y: float, anchor: str, **more: str) -> Markup:
    return _element("text", text, x=x, y=y, text_anchor=anchor, **more)


def _element(tag: str, *children: str | Markup, **attributes: Any) -> Markup:
    parts = (
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), f"{x:.1f}" if isinstance(x, float) else x)
        for name, x in attributes.items()
    )
    inside = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), Markup("").join(parts), inside)


def _drawing(rgba: UInt8[np.ndarray, "height width 4"]) -> str:
    return _data_uri(Image.fromarray(rgba), lossless=True, quality=60, method=4)


def _data_uri(picture: Image.Image, **how: Any) -> str:
    file = io.BytesIO()
    picture.save(file, "WEBP", **how)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
