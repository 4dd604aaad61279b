"""Command: a contact sheet of a prepared data set, a PNG with tiles drawn by lot and the classes of their split.

python -m tfds_dwplus.look --data_dir data --name mine --split train --output sheet.png

Enters: records. Leaves: for each tile Sentinel-2 in true colour and Sentinel-1 as VV VH VV, as far as there, and the label;
below them a histogram of the labelled pixels of the whole split, whose colours are the legend. The colouring functions are
pure: bands in, red, green, blue out.
"""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Float, Int64, Num, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tfds_dwplus import bands
from tfds_dwplus.command_line import Parser, progress, run, written_whole
from tfds_dwplus.describe import check_output, record_sums
from tfds_dwplus.prepared import open_dataset, read_split

_PANEL_INCHES = 1.7
_GAP_INCHES = 0.06
_CAPTION_INCHES = 0.2
_HEADER_INCHES = 0.7
_FOOTER_INCHES = 1.95
_DOTS_PER_INCH = 150
_MOST_TILES = 100

_LEAST_SPAN_DN = 400.0
"""Of a picture's stretch: calm water has no contrast, only noise."""
_LEAST_SPAN_DB = 8.0


def main(argv: list[str]) -> None:
    """Parses the arguments and draws the sheet."""
    parser = Parser(
        "Draws some tiles of a prepared data set, and the histogram of its classes.",
        "python -m tfds_dwplus.look --data_dir data --name mine --split train --output sheet.png",
    )
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of prepared data sets")
    parser.add_argument("--name", required=True, help="of the data set dynamic_world_plus/NAME")
    parser.add_argument("--split", default="train", help="split, or a part of one as in train[:10%%]")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    parser.add_argument("--tiles", type=int, default=12, help=f"number of tiles to draw, 1 to {_MOST_TILES}")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other tiles")
    args = parser.parse_args(argv)
    if not 1 <= args.tiles <= _MOST_TILES:
        raise ValueError(f"--tiles is {args.tiles}, expected 1 to {_MOST_TILES}")
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}, expected 0 or a positive number")
    check_output(args.output, "--output")
    builder = open_dataset(args.data_dir, args.name)
    source = read_split(builder, args.split)
    figure = contact_sheet(builder, args.split, source, choose(len(source), args.tiles, args.seed))
    with written_whole(args.output) as partial:
        figure.savefig(partial, dpi=_DOTS_PER_INCH, format="png")
    print(f"{args.output}: {min(args.tiles, len(source))} of the {len(source)} tiles of {args.split}")


def choose(count: int, most: int, seed: int) -> list[int]:
    """Places of `most` of `count` tiles, drawn by lot, in their order; of all if there are no more."""
    return sorted(np.random.default_rng(seed).permutation(count)[:most].tolist())


def class_pixels(builder: tfds.core.DatasetBuilder, split: str, source: Any) -> Int64[np.ndarray, "9"]:
    """Labelled pixels of a split by class: as its statistics tell them of the train split, else counted."""
    stored = builder.info.metadata.get("statistics") if split == "train" else None
    if stored:
        return np.array([stored["label_pixels"][name] for name in bands.CLASSES], np.int64)
    total = np.zeros(len(bands.CLASSES), np.int64)
    with progress(total=len(source), desc="counting", unit="tile") as line:
        for place in range(len(source)):
            total += record_sums(source[place]).class_pixels
            line.update()
    return total


def contact_sheet(builder: tfds.core.DatasetBuilder, split: str, source: Any, places: list[int]) -> Figure:
    """The figure of the tiles at some places of a split: two cards a row, one panel a raster, the histogram below."""
    names = tuple(builder.info.metadata["s2_bands"])
    cards = [(caption(record), panels(record, names)) for record in (source[place] for place in places)]
    across, wide = min(2, len(cards)), max(len(card) for _, card in cards)
    down = -(-len(cards) // across)
    card_inches = (wide * (_PANEL_INCHES + _GAP_INCHES) + 2 * _GAP_INCHES, _PANEL_INCHES + _CAPTION_INCHES)
    width, height = (
        max(5.5, across * card_inches[0] + _GAP_INCHES),
        down * card_inches[1] + _HEADER_INCHES + _FOOTER_INCHES,
    )
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)

    def axes_at(left: float, top: float, across: float, down: float) -> Axes:
        """Axes placed in inches from the upper left corner."""
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
    _draw_histogram(axes_at(0.45, top, width - 0.6, 1.35), class_pixels(builder, split, source), split)
    return figure


def panels(record: dict[str, Any], s2_bands: tuple[str, ...]) -> dict[str, Num[np.ndarray, "height width 3"]]:
    """Pictures of a record's rasters by title, without the padding."""
    inside = _inside(record)
    record = {kind: record[kind][inside] for kind in ("s2", "s1", "label")}
    pictures = {}
    if record["s2"].size:
        pictures["Sentinel-2, true colour"] = true_colour(record["s2"], s2_bands)
    if record["s1"].size:
        pictures["Sentinel-1, VV VH VV"] = sar_colour(record["s1"])
    return pictures | {"label": class_colour(record["label"])}


def caption(record: dict[str, Any]) -> str:
    """Tile id, date and annotator of a record."""
    texts = (record[name].decode() for name in ("tile_id", "date", "annotator"))
    return " · ".join(text for text in texts if text)


def true_colour(
    s2: Num[np.ndarray, "height width band"], names: tuple[str, ...]
) -> Float[np.ndarray, "height width 3"]:
    """Red, green, blue of a tile, 0..1, stretched from the 2nd to the 98th percentile and brightened as screens expect;
    its first bands if it lacks one.
    """
    chosen = [names.index(name) if name in names else None for name in ("B4", "B3", "B2")]
    places = chosen if None not in chosen else [min(place, s2.shape[-1] - 1) for place in range(3)]
    return np.sqrt(_stretch(s2[..., places].astype(np.float32), (s2 != bands.S2_NODATA).all(axis=-1), _LEAST_SPAN_DN))


def sar_colour(s1: Float[np.ndarray, "height width 2"]) -> Float[np.ndarray, "height width 3"]:
    """VV, VH, VV as red, green, blue, 0..1, stretched alike."""
    return _stretch(s1[..., [0, 1, 0]], np.isfinite(s1).all(axis=-1), _LEAST_SPAN_DB)


def class_colour(class_id: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Dynamic World's colours; white where there is no class."""
    palette = np.full((256, 3), 255, np.uint8)
    palette[: len(bands.CLASSES)] = bands.class_rgb()
    return palette[class_id]


def _stretch(
    values: Float[np.ndarray, "height width channel"], valid: Bool[np.ndarray, "height width"], least_span: float
) -> Float[np.ndarray, "height width channel"]:
    if not valid.any():
        return np.zeros(values.shape, np.float32)
    low, high = np.percentile(values[valid], (2, 98), axis=0)
    stretched = np.clip((values - low) / np.maximum(high - low, least_span), 0, 1)
    return np.where(valid[..., None], stretched, 0).astype(np.float32)


def _inside(record: dict[str, Any]) -> tuple[slice, slice]:
    """Rows and columns up to the last one that holds anything: padding is at the right and at the bottom."""
    seen = (record["label"] != bands.IGNORE) | (record["s2"] != bands.S2_NODATA).any(axis=-1)
    seen |= np.isfinite(record["s1"]).any(axis=-1)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return (slice(0, rows[-1] + 1), slice(0, columns[-1] + 1)) if rows.size else (slice(None), slice(None))


def _draw_panel(axes: Axes, picture: Num[np.ndarray, "height width 3"], title: str) -> None:
    # Classes have no colours between them.
    axes.imshow(picture, interpolation="nearest" if picture.dtype == np.uint8 else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(color="0.8", linewidth=0.5)
    axes.set_title(title, fontsize=7, pad=11)


def _draw_histogram(axes: Axes, pixels: Int64[np.ndarray, "9"], split: str) -> None:
    total = int(pixels.sum())
    percent = 100 * pixels / max(total, 1)
    colours = [f"#{colour}" for colour in bands.CLASS_COLOURS]
    bars = axes.bar([name.replace("_", "\n", 1).replace("_", " ") for name in bands.CLASSES], percent, color=colours)
    axes.bar_label(bars, [_percent(value) for value in percent], fontsize=7, padding=2)
    axes.margins(y=0.15)
    axes.tick_params(labelsize=7, length=0)
    axes.set_title(f"{total:,} labelled pixels of {split}, percent", fontsize=8, loc="left", pad=8)
    axes.spines[["top", "right"]].set_visible(False)
    patches = [Patch(facecolor="white", edgecolor="0.6", label="no label"), Patch(color="black", label="no data")]
    axes.legend(handles=patches, fontsize=7, frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))


def _percent(value: float) -> str:
    return "0" if value == 0 else "< 0.1 %" if value < 0.1 else f"{value:.1f} %"


if __name__ == "__main__":
    run(main)
