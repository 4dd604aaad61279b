"""Batches: a function of seed and step alone, and no tile dropped in evaluation."""

import dataclasses

import numpy as np
import pytest
from conftest import write_folder

from specsar_jax.batches import dataset, pipeline
from specsar_jax.config import Config, Data, Train
from tfds_dwplus import DynamicWorldPlusConfig, bands
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles.prepared import open_dataset, read_split


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    tiles = write_folder(folder / "tiles", {"train": 5, "test": 2}, size_px=48)
    prepare(DynamicWorldPlusConfig(name="mine", tiles=tiles, tile_size_px=48), folder / "data")
    return open_dataset(str(folder / "data"), "mine")


CONFIG = Config(data=Data(name="mine", crop_px=32), train=Train(batch_size=2))


def take(builder, count: int, start: int = 0, config: Config = CONFIG) -> list[pipeline.Batch]:
    rasters = pipeline.select(bands.S2_BANDS, dataset.dataset_bands(builder), ("s2", "s1"))
    batches = pipeline.train_batches(
        read_split(builder, "train"), rasters, config.data, batch_size=2, seed=config.train.seed, start_step=start
    )
    return [next(batches) for _ in range(count)]


def test_batches_from_a_step_on_are_those_of_the_unbroken_run(builder):
    whole = take(builder, 9)  # 18 tiles: into the fourth epoch of 5
    other_readers = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, read_threads=1))
    for start, config in ((4, CONFIG), (7, other_readers)):
        for one, two in zip(whole[start:], take(builder, 9 - start, start, config), strict=True):
            for name in ("s2", "s1", "label"):
                np.testing.assert_array_equal(one[name], two[name])
    shapes = {name: (values.shape, values.dtype.name) for name, values in whole[0].items()}
    assert shapes == {
        "s2": ((2, 32, 32, 9), "uint16"),
        "s1": ((2, 32, 32, 2), "float32"),
        "label": ((2, 32, 32), "uint8"),
        "expert": ((2,), "bool"),
        "tile_id": ((2,), whole[0]["tile_id"].dtype.name),
    }


def test_epochs_and_seeds_differ(builder):
    other_seed = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, seed=1))
    labels = [batch["label"].tobytes() for batch in take(builder, 9) + take(builder, 9, config=other_seed)]
    assert len(set(labels)) == 18


def test_evaluation_sees_every_tile_once_and_pads_with_nothing(builder):
    rasters = pipeline.select(bands.S2_BANDS, dataset.dataset_bands(builder), ("s2", "s1"))
    source = read_split(builder, "train")
    batches = list(pipeline.evaluation_batches(source, rasters, CONFIG.data, 2))
    assert [len(batch["label"]) for batch in batches] == [2, 2, 2]
    labels = np.concatenate([batch["label"] for batch in batches])
    for place in range(5):
        np.testing.assert_array_equal(labels[place], rasters(source[place])["label"])
    assert (labels[5] == bands.IGNORE).all()


def test_bands_in_the_order_asked_for(builder):
    record = read_split(builder, "train")[0]
    rasters = pipeline.select(("B8", "B2"), dataset.dataset_bands(builder), ("s2",))
    np.testing.assert_array_equal(rasters(record)["s2"], record["s2"][..., [6, 0]])
    with pytest.raises(ValueError, match="no band B9"):
        pipeline.select(("B9",), dataset.dataset_bands(builder), ("s2",))


def test_pixels_without_data_lose_their_label(builder):
    record = dict(read_split(builder, "train")[0])
    record["label"] = np.zeros_like(record["label"])
    record["s2"], record["s1"] = np.ones_like(record["s2"]), np.ones_like(record["s1"])
    record["s2"][0, 0, 3], record["s1"][5, 5, 1] = 0, np.nan
    for sensors, lost in ((("s2", "s1"), [[0, 0], [5, 5]]), (("s2",), [[0, 0]]), (("s1",), [[5, 5]])):
        label = pipeline.select(bands.S2_BANDS, bands.S2_BANDS, sensors)(record)["label"]
        assert np.argwhere(label == bands.IGNORE).tolist() == lost


@pytest.mark.parametrize(("sensor", "channels"), [("s2", (9, 0)), ("s1", (0, 2))])
def test_a_sensor_that_is_not_read_is_not_carried(builder, sensor, channels):
    rasters = pipeline.select(bands.S2_BANDS, dataset.dataset_bands(builder), (sensor,))
    source = read_split(builder, "train")
    batch = next(pipeline.train_batches(source, rasters, CONFIG.data, batch_size=2, seed=0))
    assert (batch["s2"].shape[-1], batch["s1"].shape[-1]) == channels
    *_, last = pipeline.evaluation_batches(source, rasters, CONFIG.data, 2)
    assert (last["s2"].shape, last["s1"].shape) == ((2, 48, 48, channels[0]), (2, 48, 48, channels[1]))


def test_a_data_set_from_before_there_were_sensors_has_both(builder, monkeypatch):
    monkeypatch.delitem(builder.info.metadata, "sensors")
    dataset.check_sensors(builder, ("s2", "s1"))


def test_validation_is_held_out_of_train_where_the_data_set_has_none(builder):
    data = dataset.choose_splits(builder, CONFIG.data)
    assert (data.train_split, data.validation_split) == ("train[:-1]", "train[-1:]")
    train, held_out = (read_split(builder, split) for split in ("train[:-1]", "train[-1:]"))
    assert {r["tile_id"] for r in train} | {r["tile_id"] for r in held_out} == {
        r["tile_id"] for r in read_split(builder, "train")
    }
    assert (len(train), len(held_out)) == (4, 1)


def test_unknown_data_set_names_those_there_are(builder, tmp_path):
    with pytest.raises(ValueError, match="found: mine"):
        open_dataset(str(builder.data_path.parents[2]), "yours")
    with pytest.raises(ValueError, match="found: none"):
        open_dataset(tmp_path, "yours")


@pytest.mark.parametrize("setting", [{"zoom": 0.0}, {"brightness": -1.0}, {"band_jitter": -0.1}, {"band_drop": -1.0}])
def test_augmentation_without_sense_is_refused(builder, setting):
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, **setting))
    with pytest.raises(ValueError, match="zoom must be positive"):
        pipeline.check_crop(read_split(builder, "train"), config.data)


@pytest.mark.parametrize("drop", [(0.3,), (0.3, -0.1), (0.7, 0.4)])
def test_a_sensor_drop_without_sense_is_refused(builder, drop):
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, sensor_drop=drop))
    with pytest.raises(ValueError, match="sensor_drop is"):
        pipeline.check_crop(read_split(builder, "train"), config.data)
