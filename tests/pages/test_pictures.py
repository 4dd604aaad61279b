"""Pictures of predictions show the map that an evaluation counts."""

import dataclasses

import numpy as np
import rasterio

from specsar_jax.config import override
from specsar_jax.pages import pictures
from specsar_jax.trained.loading import load_trained
from specsar_jax.training import evaluation
from tfds_dwplus import bands
from tfds_dwplus.tiles import tile_pictures
from tfds_dwplus.tiles.prepared import open_dataset, read_split


def test_the_classifier_gives_the_map_that_is_counted(small_run, tmp_path):
    trained = load_trained(small_run / "run")
    config = override(trained.config, ["predict.average_turns=true"])
    trained = dataclasses.replace(trained, config=config, temperature=2.0)
    evaluation.score_tiles(trained, str(small_run / "data"), "mine", "test", tmp_path)
    builder = open_dataset(small_run / "data", "mine")
    classify = pictures.make_classifier(trained, builder)
    for record in read_split(builder, "test"):
        class_id, probability = classify(record)
        with rasterio.open(tmp_path / f"{record['tile_id'].decode()}.tif") as raster:
            assert (class_id == raster.read(1)).mean() > 0.999  # but for ties
        assert ((probability == 0.0) == (class_id == bands.IGNORE)).all() and probability.max() <= 1.0
        shown = pictures.panels(record, bands.S2_BANDS, class_id, bands.DYNAMIC_WORLD)
        np.testing.assert_array_equal(shown["prediction"], tile_pictures.class_colour(class_id, bands.DYNAMIC_WORLD))
        assert list(shown) == [*tile_pictures.panels(record, bands.S2_BANDS, bands.DYNAMIC_WORLD), "prediction"]
