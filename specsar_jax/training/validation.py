"""Scores a run on its validation split while it trains: figures, a confusion matrix and a few predicted tiles for the run log."""

import functools
from typing import Any

import jax
import numpy as np

from specsar_jax.batches import pipeline
from specsar_jax.batches.preprocess import Statistics
from specsar_jax.config import Config
from specsar_jax.devices.sharding import is_first, shared_batch
from specsar_jax.network.model import Variables
from specsar_jax.pages import pictures
from specsar_jax.training.evaluation import make_score
from specsar_jax.training.run_log import RunLog
from tfds_dwplus import bands

TILES_SHOWN = 3
"""Of the validation split, on TensorBoard."""


class Validation:
    """The validation split and the compiled program that scores it."""

    def __init__(
        self,
        source: Any,
        rasters: Any,
        config: Config,
        statistics: Statistics,
        mesh: jax.sharding.Mesh,
        shardings: Any,
        dataset: str,
    ) -> None:
        """Args:
        source: records of the validation split.
        rasters: of `pipeline.select`.
        config: of the run.
        statistics: of the bands.
        mesh: devices.
        shardings: where the variables lie.
        dataset: full name of the data set.
        """
        self._source, self._rasters, self._config, self._mesh, self._dataset = source, rasters, config, mesh, dataset
        self._classes = statistics.classes
        self._score = make_score(config, statistics, mesh, shardings)

    def score(self, step: int, variables: Variables, log: RunLog) -> dict[str, Any]:
        """Scores the weights of a step, writes the figures and a few predicted tiles into the run log, returns the figures."""
        data, train = self._config.data, self._config.train
        held_out = pipeline.evaluation_batches(
            self._source, self._rasters, data, *shared_batch(train.eval_batch_size, self._mesh)
        )
        with log.spent("evaluate"):
            figures = self._score(variables, held_out, functools.partial(self._show_tiles, step, log))
        named = {"dataset": self._dataset, "split": data.validation_split, "tiles": len(self._source)}
        log.write(step, "eval", named | figures)
        return figures

    def show(self, step: int, figures: dict[str, Any], log: RunLog) -> None:
        """Draws the confusion matrix for the run log, and prints the headline."""
        confusion = pictures.confusion(np.array(figures["confusion_matrix"]), self._classes)
        log.show_picture(step, "confusion", pictures.pixels(confusion))
        shown = {"mIoU": figures["mean_iou"], "overall accuracy": figures["overall_accuracy"]}
        percent = {name: "-" if value is None else f"{100 * value:.1f} %" for name, value in shown.items()}
        log.say(f"step {step}: validation {', '.join(f'{name} {value}' for name, value in percent.items())}")
        log.show(mIoU=percent["mIoU"])

    def _show_tiles(self, step: int, log: RunLog, batch: pipeline.Batch, log_p: jax.Array) -> None:
        """Puts the first tiles, as far as this process holds them, onto TensorBoard."""
        if not is_first():
            return
        parts = {part.index[0].start or 0: part.data for part in log_p.addressable_shards}
        class_ids = np.concatenate([np.asarray(parts[start]) for start in sorted(parts)]).argmax(axis=-1)
        rows = []
        for tile, class_id in enumerate(class_ids[:TILES_SHOWN].astype(np.uint8)):
            if batch["about"][tile]:
                record = {name: batch[name][tile] for name in pipeline.RASTERS}
                may_miss = self._config.may_miss
                valid = bands.valid_pixels(record["s2"], record["s1"], self._config.model.sensors, may_miss)
                class_id = np.where(valid, class_id, np.uint8(bands.IGNORE))
                panels = pictures.panels(record, self._config.data.s2_bands, class_id, self._classes)
                rows.append((batch["tile_id"][tile].decode(), panels))
        if rows:
            drawn = pictures.examples(rows, f"validation, step {step}", self._classes)
            log.show_picture(step, "tiles", pictures.pixels(drawn))
