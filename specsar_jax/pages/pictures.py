"""Draws pictures of a few tiles side by side (Sentinel-2, Sentinel-1, label and prediction), and a confusion matrix."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from specsar_jax.batches import dataset, pipeline
from specsar_jax.maps.compiled import make_probabilities
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands
from tfds_dwplus.files.outputs import written_whole
from tfds_dwplus.tiles import tile_pictures
from tfds_dwplus.tiles.prepared import read_split

Panels = dict[str, np.ndarray]
"""Pictures of a tile, by title."""

_PATCH_INCH, _LETTER_INCH = 0.55, 0.062
"""Width of a legend's entry: of its patch and the gaps, and of a letter of its name."""

_MOST_SHOWN = 24
"""Letters of a class name beside a confusion matrix."""


def make_classifier(
    trained: Trained, builder: tfds.core.DatasetBuilder
) -> Callable[[dict[str, Any]], tuple[np.ndarray, np.ndarray]]:
    """Returns a function that maps a record of a data set to class ids and their probabilities.

    Class ids are uint8 [height, width], 255 where a sensor that the network reads has no data. Probabilities are calibrated,
    float32, 0 where there is no data.

    Raises:
        ValueError: the data set lacks a band that the network reads.
    """
    data, sensors = trained.config.data, trained.config.model.sensors
    may_miss = trained.config.may_miss
    rasters = pipeline.select(data.s2_bands, dataset.dataset_bands(builder), sensors, may_miss=may_miss)
    network = make_probabilities(trained)

    def classify(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        tile = rasters(record)
        valid = bands.valid_pixels(tile["s2"], tile["s1"], sensors, may_miss)
        (probability,) = np.asarray(network(tile["s2"][None], tile["s1"][None]))
        class_id = np.where(valid, probability.argmax(axis=-1), bands.IGNORE).astype(np.uint8)
        return class_id, np.where(valid, probability.max(axis=-1), np.float32(0.0))

    return classify


def draw_examples(trained: Trained, builder: tfds.core.DatasetBuilder, split: str, path: Path, most: int = 6) -> None:
    """Writes a PNG of the first tiles of a split, one row per tile: S2 in true colour, S1, label, prediction. Sensors of the data
    set are drawn even if the network does not read them.
    """
    source = pipeline.Readable(read_split(builder, split), trained.config.data.corrupt_records)
    classify, s2_bands = make_classifier(trained, builder), dataset.dataset_bands(builder)
    records = [source[place] for place in range(min(most, len(source)))]
    classes = trained.classes
    rows = [(record["tile_id"].decode(), panels(record, s2_bands, classify(record)[0], classes)) for record in records]
    figure = examples(rows, f"{builder.info.full_name}, {split}", classes)
    with written_whole(path) as part, tile_pictures.any_letters():
        figure.savefig(part, dpi=110, format="png")


def panels(
    record: dict[str, Any],
    s2_bands: tuple[str, ...],
    prediction: UInt8[np.ndarray, "height width"],
    classes: bands.Classes,
) -> Panels:
    """Returns the pictures of a record from `tile_pictures.panels`, and one of the prediction."""
    shown = tile_pictures.panels(record, s2_bands, classes)
    height, width = shown["label"].shape[:2]
    return shown | {"prediction": tile_pictures.class_colour(prediction[:height, :width], classes)}


def examples(rows: list[tuple[str, Panels]], title: str, classes: bands.Classes) -> Figure:
    """Returns a figure with one row per tile and a legend of the classes."""
    columns = len(rows[0][1])
    abreast = _legend_columns([*classes.names, "no label"], 2.6 * columns)
    lines = -(-(len(classes) + 1) // abreast)
    figure = _figure(2.6 * columns, 2.6 * len(rows) + 1.1 + 0.2 * max(0, lines - 2))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (tile_id, shown) in enumerate(rows):
        for axis, (name, panel) in zip(axes[row], shown.items(), strict=True):
            axis.imshow(panel, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(name, fontsize=9)
        axes[row, 0].set_ylabel(tile_id[-24:], fontsize=6)
    legend = [
        Patch(color=f"#{colour}", label=tile_pictures.drawn_name(name))
        for name, colour in zip(classes.names, classes.colours, strict=True)
    ]
    legend.append(Patch(facecolor="white", edgecolor="grey", label="no label"))
    figure.legend(handles=legend, loc="outside lower center", ncols=abreast, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    return figure


def _legend_columns(labels: list[str], width_inch: float) -> int:
    """Returns how many columns of a legend fit side by side, 5 at most; matplotlib fills one column after the other."""
    for columns in range(5, 1, -1):
        down = -(-len(labels) // columns)
        longest = [max(map(len, labels[start : start + down])) for start in range(0, len(labels), down)]
        if sum(_PATCH_INCH + _LETTER_INCH * letters for letters in longest) <= width_inch:
            return columns
    return 1


def confusion(matrix: Int[np.ndarray, "label prediction"], classes: bands.Classes) -> Figure:
    """Returns a figure of a confusion matrix, each row in percent of the label's pixels."""
    shares = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    larger = 0.3 * max(0, len(classes) - 12)
    figure = _figure(6.4 + larger, 5.6 + larger)
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        if matrix[row, column]:
            axis.text(
                column,
                row,
                f"{share:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share > 60 else "black",
            )
    shortened = (name if len(name) <= _MOST_SHOWN else f"{name[: _MOST_SHOWN - 1]}…" for name in classes.names)
    names = [tile_pictures.drawn_name(name) for name in shortened]
    axis.set_xticks(range(len(classes)), names, rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(classes)), names, fontsize=8)
    axis.set_xlabel("prediction")
    axis.set_ylabel("label, % of its pixels")
    return figure


def pixels(figure: Figure) -> UInt8[np.ndarray, "height width 3"]:
    """Renders a figure to pixels, for TensorBoard."""
    canvas: Any = figure.canvas
    with tile_pictures.any_letters():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _figure(width_inch: float, height_inch: float) -> Figure:
    figure = Figure(figsize=(width_inch, height_inch), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
