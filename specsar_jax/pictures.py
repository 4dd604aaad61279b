"""Pictures for the eye: Sentinel-2, Sentinel-1 (as far as there), label and prediction of a few tiles side by side, and a
confusion matrix.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from specsar_jax import model, pipeline, preprocess
from specsar_jax.checkpoints import Trained
from tfds_dwplus import bands
from tfds_dwplus.command_line import written_whole
from tfds_dwplus.look import class_colour, sar_colour, true_colour
from tfds_dwplus.prepared import read_split

Panels = dict[str, np.ndarray]
"""Pictures of a tile by their titles."""


def draw_examples(trained: Trained, builder: tfds.core.DatasetBuilder, split: str, path: Path, most: int = 6) -> None:
    """Writes a PNG of the first tiles of a split, a row a tile: S2 true colour, S1, label, prediction. Draws each sensor that
    the data set has, whether the network reads it or not.
    """
    config = trained.config
    source = pipeline.Readable(read_split(builder, split), config.data.corrupt_records)
    rasters = pipeline.select(config.data.s2_bands, pipeline.dataset_bands(builder), config.model.sensors)

    @jax.jit
    def predict(s2: jax.Array, s1: jax.Array) -> jax.Array:
        s2, s1 = preprocess.standardise(s2[None], s1[None], trained.statistics)
        return jnp.argmax(model.apply(trained.variables, s2, s1, config=config.model), axis=-1)[0].astype(jnp.uint8)

    rows = []
    for place in range(min(most, len(source))):
        record = source[place]
        tile = rasters(record)
        valid = preprocess.valid_pixels(tile["s2"], tile["s1"], config.model.sensors)
        prediction = np.where(valid, np.asarray(predict(tile["s2"], tile["s1"])), np.uint8(bands.IGNORE))
        shown = panels(record["s2"], record["s1"], tile["label"], prediction, pipeline.dataset_bands(builder))
        rows.append((record["tile_id"].decode(), shown))
    figure = examples(rows, f"{builder.info.full_name}, {split}")
    with written_whole(path) as part:
        figure.savefig(part, dpi=110, format="png")


def panels(
    s2: np.ndarray,
    s1: np.ndarray,
    label: UInt8[np.ndarray, "height width"],
    prediction: UInt8[np.ndarray, "height width"],
    s2_bands: tuple[str, ...],
) -> Panels:
    """Pictures of a tile; of a sensor without channels none.

    Args:
        s2: uint16 [height, width, band], digital numbers.
        s1: float32 [height, width, 2], VV and VH in dB.
        label: class ids.
        prediction: class ids.
        s2_bands: names of the bands of `s2`.
    """
    shown = {}
    if s2.size:
        shown["Sentinel-2, true colour"] = true_colour(s2, s2_bands)
    if s1.size:
        shown["Sentinel-1, VV VH VV"] = sar_colour(s1)
    return shown | {"label": class_colour(label), "prediction": class_colour(prediction)}


def examples(rows: list[tuple[str, Panels]], title: str) -> Figure:
    """A figure with a row a tile, and a legend of the classes."""
    columns = len(rows[0][1])
    figure = _figure(2.6 * columns, 2.6 * len(rows) + 1.1)
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
        Patch(color=f"#{colour}", label=name) for name, colour in zip(bands.CLASSES, bands.CLASS_COLOURS, strict=True)
    ]
    legend.append(Patch(facecolor="white", edgecolor="grey", label="no label"))
    figure.legend(handles=legend, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    return figure


def confusion(matrix: Int[np.ndarray, "label prediction"]) -> Figure:
    """A confusion matrix, each row in per cent of the label's pixels."""
    shares = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure = _figure(6.4, 5.6)
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
    axis.set_xticks(range(len(bands.CLASSES)), bands.CLASSES, rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(bands.CLASSES)), bands.CLASSES, fontsize=8)
    axis.set_xlabel("prediction")
    axis.set_ylabel("label, % of its pixels")
    return figure


def pixels(figure: Figure) -> UInt8[np.ndarray, "height width 3"]:
    """A figure as a picture, for TensorBoard."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _figure(width_inch: float, height_inch: float) -> Figure:
    figure = Figure(figsize=(width_inch, height_inch), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
