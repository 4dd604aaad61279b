"""Draws the charts of the report.

Enters: plain numbers. Leaves: SVG as `Markup`. Charts take their colours from the page's CSS: the classes `r0`, `r1`, ... stand for runs.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from specsar_jax.pages import svg

MOST_POINTS = 240
"""Largest number of points of a curve; more are averaged."""

_DIVISIONS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve of a run; `run` is the run's number in the report."""

    name: str
    run: int
    steps: Sequence[float]
    values: Sequence[float]
    dashed: bool = False


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
        drawn.append(svg.element("line", class_="grid", x1=left, x2=width - right, y1=down(tick), y2=down(tick)))
        drawn.append(svg.text(text, left - 7, down(tick) + 4, "end"))
    for tick, text in zip(x_ticks, _texts(x_ticks, False), strict=True):
        if tick <= last:
            drawn.append(
                svg.element("line", class_="tick", x1=across(tick), x2=across(tick), y1=height - 34, y2=height - 29)
            )
            drawn.append(svg.text(text, across(tick), height - 16, "middle"))
    drawn.append(svg.text("step", width - right, height - 3, "end"))
    for curve, shown in zip(curves, points, strict=True):
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in shown)
        kind = f"curve r{curve.run}" + (" dashed" if curve.dashed else "")
        drawn.append(svg.element("polyline", svg.element("title", curve.name), class_=kind, points=path))
        if len(shown) <= 12:
            drawn += [
                svg.dot(f"dot r{curve.run}", across(x), down(y), 2.5, f"{curve.name}: step {x:,.0f}, {y:.4g}")
                for x, y in shown
            ]
    label = "; ".join(
        f"{curve.name} from {_value_text(curve.values[0], percent)} at step {curve.steps[0]:,.0f} "
        f"to {_value_text(curve.values[-1], percent)} at step {curve.steps[-1]:,.0f}"
        for curve in curves
    )
    return svg.whole(width, height, f"{title}: {label}", drawn, "chart")


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
        drawn.append(svg.element("line", class_="grid", x1=left, x2=left + side, y1=y, y2=y))
        drawn.append(svg.element("line", class_="grid", x1=x, x2=x, y1=top, y2=floor))
        drawn.append(svg.text(f"{tick:.0%}".replace("%", ""), left - 7, y + 4, "end"))
        drawn.append(svg.text(f"{tick:.0%}".replace("%", ""), x, floor + deep + 15, "middle"))
    drawn.append(svg.element("line", class_="ideal", x1=left, y1=floor, x2=left + side, y2=top))
    filled = [row for row in bins if row["pixels"]]
    path = " ".join(f"{left + row['confidence'] * side:.1f},{floor - row['accuracy'] * side:.1f}" for row in filled)
    drawn.append(svg.element("polyline", class_=f"curve r{run}", points=path))
    for row in filled:
        confidence, accuracy, share = row["confidence"], row["accuracy"], row["pixels"] / total
        tip = f"confidence {100 * confidence:.1f} %, accuracy {100 * accuracy:.1f} %, {row['pixels']:,.0f} pixels"
        x, y = left + confidence * side, floor - accuracy * side
        drawn.append(svg.dot(f"dot r{run}", x, y, max(2.5, 18 * math.sqrt(share)), tip))
    for row in bins:
        tall = row["pixels"] / most * (deep - 8)
        x, wide = left + row["low"] * side, (row["high"] - row["low"]) * side
        drawn.append(
            svg.element(
                "rect",
                svg.element("title", f"{row['pixels'] / total:.1%} of the pixels"),
                class_=f"bar r{run}",
                x=x + 1,
                y=floor + deep - tall,
                width=max(wide - 2, 1),
                height=tall,
            )
        )
    drawn.append(svg.element("line", class_="axis", x1=left, x2=left + side, y1=floor + deep, y2=floor + deep))
    middle = f"rotate(-90 12 {top + side / 2:.1f})"
    drawn.append(svg.text("accuracy, %", 12.0, top + side / 2, "middle", transform=middle))
    drawn.append(svg.text("confidence, %", left + side / 2, height - 4, "middle"))
    label = "; ".join(f"{100 * row['confidence']:.0f} % sure, {100 * row['accuracy']:.0f} % right" for row in filled)
    return svg.whole(width, height, f"Reliability of {name}: {label}", drawn, "chart square")


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
