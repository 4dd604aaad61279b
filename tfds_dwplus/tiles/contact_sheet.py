"""Draw a contact sheet: pictures of some tiles of a split, and a histogram of its classes.

Enters: records of a prepared data set. Leaves: a matplotlib figure. Each tile shows Sentinel-2 in true colour, Sentinel-1 as
VV VH VV (the sensors that the data set has) and the label. The histogram counts the labelled pixels of the whole split;
its colours are the legend.
"""

import re
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int64, Num
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tfds_dwplus import bands
from tfds_dwplus.tiles.contents import class_pixels
from tfds_dwplus.tiles.prepared import dataset_classes
from tfds_dwplus.tiles.tile_pictures import caption, drawn_name, panels

_PANEL_INCHES = 1.7
_GAP_INCHES = 0.06
_CAPTION_INCHES = 0.2
_HEADER_INCHES = 0.7
_FOOTER_INCHES = 1.95
_BAR_INCHES, _LETTER_INCHES = 0.16, 0.06
_MOST_ABREAST = 12
"""Classes, and letters of a name's line, that stand side by side below the histogram."""


def contact_sheet(builder: tfds.core.DatasetBuilder, split: str, source: Any, places: list[int]) -> Figure:
    """Draws the tiles at some indexes of a split: two tiles per row, one panel per raster, the histogram below."""
    names = tuple(builder.info.metadata["s2_bands"])
    classes = dataset_classes(builder)
    cards = [(caption(record), panels(record, names, classes)) for record in (source[place] for place in places)]
    across, wide = min(2, len(cards)), max(len(card) for _, card in cards)
    down = -(-len(cards) // across)
    card_inches = (wide * (_PANEL_INCHES + _GAP_INCHES) + 2 * _GAP_INCHES, _PANEL_INCHES + _CAPTION_INCHES)
    upright = _too_wide(classes.names)
    below = max(map(len, classes.names)) * _LETTER_INCHES if upright else 0.0
    width, height = (
        max(5.5, len(classes) * _BAR_INCHES if upright else 0.0, across * card_inches[0] + _GAP_INCHES),
        down * card_inches[1] + _HEADER_INCHES + _FOOTER_INCHES + below,
    )
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)

    def axes_at(left: float, top: float, across: float, down: float) -> Axes:
        """Adds axes, placed in inches from the upper left corner."""
        return figure.add_axes((left / width, 1 - (top + down) / height, across / width, down / height))

    origin = (builder.info.metadata.get("origin") or {}).get("source", "")
    simulated = ", SIMULATED" if str(origin).startswith("SIMULATED") else ""
    title = f"{builder.info.full_name}{simulated}: {len(cards)} of the {len(source)} tiles of {split}"
    figure.text(0.5, 1 - 0.22 / height, title, ha="center", va="center", fontsize=10)
    for index, (text, card) in enumerate(cards):
        left = 2 * _GAP_INCHES + index % across * card_inches[0]
        top = _HEADER_INCHES + index // across * card_inches[1]
        figure.text(left / width, 1 - (top - 0.03) / height, text, va="bottom", fontsize=6, color="0.3")
        for place, (kind, picture) in enumerate(card.items()):
            axes = axes_at(left + place * (_PANEL_INCHES + _GAP_INCHES), top, _PANEL_INCHES, _PANEL_INCHES)
            _draw_panel(axes, picture, kind if index < across else "")
    top = _HEADER_INCHES + down * card_inches[1] + 0.2
    _draw_histogram(axes_at(0.45, top, width - 0.6, 1.35), class_pixels(builder, split, source), split, classes)
    return figure


def _draw_panel(axes: Axes, picture: Num[np.ndarray, "height width 3"], title: str) -> None:
    # Class colours must not be interpolated.
    axes.imshow(picture, interpolation="nearest" if picture.dtype == np.uint8 else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(color="0.8", linewidth=0.5)
    axes.set_title(title, fontsize=7, pad=11)


def _too_wide(names: tuple[str, ...]) -> bool:
    """Whether names of classes stand upright below the bars, for there is no room for them side by side."""
    return len(names) > _MOST_ABREAST or max(len(part) for name in names for part in _in_two(name)) > _MOST_ABREAST


def _in_two(name: str) -> list[str]:
    """A class name in two lines: 'shrub_and_scrub' -> 'shrub', 'and scrub'."""
    return [part.replace("_", " ") for part in re.split("[_ ]", name, maxsplit=1)]


def _draw_histogram(axes: Axes, pixels: Int64[np.ndarray, " class"], split: str, classes: bands.Classes) -> None:
    total = int(pixels.sum())
    percent = 100 * pixels / max(total, 1)
    colours = [f"#{colour}" for colour in classes.colours]
    upright = _too_wide(classes.names)
    names = [drawn_name(name if upright else "\n".join(_in_two(name))) for name in classes.names]
    bars = axes.bar(range(len(classes)), percent, tick_label=names, color=colours)
    axes.bar_label(bars, [_percent(value) for value in percent], fontsize=7, padding=2, rotation=90 if upright else 0)
    axes.margins(x=0.01 if upright else None, y=0.6 if upright else 0.15)
    axes.tick_params(labelsize=7, length=0)
    if upright:
        axes.tick_params(axis="x", labelrotation=90)
    axes.set_title(f"{total:,} labelled pixels of {split}, percent", fontsize=8, loc="left", pad=8)
    axes.spines[["top", "right"]].set_visible(False)
    patches = [Patch(facecolor="white", edgecolor="0.6", label="no label"), Patch(color="black", label="no data")]
    axes.legend(handles=patches, fontsize=7, frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))


def _percent(value: float) -> str:
    return "0" if value == 0 else "< 0.1 %" if value < 0.1 else f"{value:.1f} %"
