"""Pictures for the eye: Sentinel-2, Sentinel-1 (as far as there), label and prediction of a few tiles side by side."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from specsar_jax import model, pipeline, preprocess
from specsar_jax.checkpoints import Trained
from tfds_dwplus import bands
from tfds_dwplus.command_line import written_whole
from tfds_dwplus.look import class_colour, sar_colour, true_colour
from tfds_dwplus.prepared import read_split


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
        panels = {"label": class_colour(tile["label"]), "prediction": class_colour(prediction)}
        if record["s1"].size:
            panels = {"Sentinel-1, VV VH VV": sar_colour(record["s1"])} | panels
        if record["s2"].size:
            panels = {"Sentinel-2, true colour": true_colour(record["s2"], pipeline.dataset_bands(builder))} | panels
        rows.append((record["tile_id"].decode(), panels))
    columns = len(rows[0][1])
    figure = Figure(figsize=(2.6 * columns, 2.6 * len(rows) + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (tile_id, panels) in enumerate(rows):
        for axis, (title, panel) in zip(axes[row], panels.items(), strict=True):
            axis.imshow(panel, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(title, fontsize=9)
        axes[row, 0].set_ylabel(tile_id[-24:], fontsize=6)
    legend = [
        Patch(color=f"#{colour}", label=name) for name, colour in zip(bands.CLASSES, bands.CLASS_COLOURS, strict=True)
    ]
    legend.append(Patch(facecolor="white", edgecolor="grey", label="no label"))
    figure.legend(handles=legend, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.suptitle(f"{builder.info.full_name}, {split}", fontsize=10)
    with written_whole(path) as part:
        figure.savefig(part, dpi=110, format="png")
