"""Batches: a function of seed and step alone, and no tile dropped in evaluation."""

import dataclasses
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import write_folder

from specsar_jax.batches import dataset, pipeline, preprocess
from specsar_jax.config import Config, Data, Train
from tfds_dwplus import DynamicWorldPlusConfig, bands
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles.layout import blocks
from tfds_dwplus.tiles.prepared import open_dataset, read_split
from tfds_dwplus.tiles.records import lazily
from tfds_dwplus.tiles.tile_files import list_tiles, read_tile, write_tile


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


def of_splits(**tiles: int) -> tfds.core.DatasetBuilder:
    """Stands for a builder whose splits hold so many tiles."""
    builder = mock.create_autospec(tfds.core.DatasetBuilder, instance=True)
    splits = {name: SimpleNamespace(num_examples=count) for name, count in tiles.items()}
    builder.info = SimpleNamespace(splits=splits, full_name="dynamic_world_plus/mine")
    builder.as_data_source = lambda split: range({"train[:50%]": 4}.get(split) or tiles[split])
    return builder


@pytest.mark.parametrize("name", ["validation", "val", "valid"])
def test_a_validation_split_of_any_usual_name_is_used(name):
    data = dataset.choose_splits(of_splits(train=20, test=2, **{name: 2}), Data())
    assert (data.train_split, data.validation_split) == ("train", name)


def test_a_single_train_tile_is_told_with_advice_that_works():
    line = r"no split validation, val, valid, and none is held out of the one tile of 'train'.*validation_split=train$"
    with pytest.raises(ValueError, match=line):
        dataset.choose_splits(of_splits(train=1), Data())
    with pytest.raises(ValueError, match=r"of the 4 tiles of 'train\[:50%\]'.*validation_split='train\[:50%\]'$"):
        dataset.choose_splits(of_splits(train=8), Data(train_split="train[:50%]"))
    followed = Data(validation_split="train")
    assert dataset.choose_splits(of_splits(train=1), followed) == followed
    with pytest.raises(ValueError, match=r"split 'trian' .* is unknown or empty"):
        dataset.choose_splits(of_splits(train=8), Data(train_split="trian"))


@pytest.mark.parametrize(("epochs", "batch_size", "steps"), [(1, 2, 3), (4, 2, 10), (1, 8, 1), (0, 2, 600)])
def test_epochs_become_steps(builder, epochs, batch_size, steps):
    """Five tiles: one epoch in batches of two takes three steps, four epochs twenty tiles."""
    train = Train(epochs=epochs, batch_size=batch_size)
    config = dataclasses.replace(CONFIG, data=Data(name="mine", crop_px=32, validation_split="test"), train=train)
    resolved, _ = dataset.resolve(config, builder)
    assert (resolved.train.steps, resolved.train.epochs) == (steps, epochs)
    assert dataset.resolve(resolved, builder)[0] == resolved


LARGE_PX = 320


@pytest.fixture(scope="module")
def both_layouts(tmp_path_factory):
    """The same six tiles, which lack data in their own ways, in blocks and as they were stored before there were blocks."""
    folder = tmp_path_factory.mktemp("layouts")
    tiles = write_folder(folder / "tiles", {"train": 6}, size_px=LARGE_PX)

    def lacking(tile):
        number = int(tile.record.tile_id.rpartition("_")[2])
        s2, s1, label = tile.s2.copy(), tile.s1.copy(), tile.label.copy()
        if number == 1:
            s2, s1, label = s2[:300, :130], s1[:300, :130], label[:300, :130]  # padded by `prepare`
        elif number == 2:
            s1[:100], s2[:, 250:, 3] = np.nan, 0
        elif number == 3:
            s2[np.tril_indices(LARGE_PX)] = 0
        elif number == 4:
            label[:] = bands.IGNORE
            label[100:180, 40:300], s1[:, :200, 1] = 2, np.nan
        elif number == 5:
            s2[:-1] = 0
        return dataclasses.replace(tile, s2=s2, s1=s1, label=label)

    for record in list_tiles(tiles):
        write_tile(tiles, lacking(read_tile(tiles, record, bands.S2_BANDS)), bands.S2_BANDS)
    builders = []
    for name, smallest in (("blocks", blocks.SMALLEST_SIZE_PX), ("before", LARGE_PX + 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "SMALLEST_SIZE_PX", smallest)
            prepare(DynamicWorldPlusConfig(name=name, tiles=tiles, tile_size_px=LARGE_PX), folder / "data")
        builders.append(open_dataset(str(folder / "data"), name))
    return builders


@pytest.mark.parametrize("sensors", [("s2", "s1"), ("s2",), ("s1",)])
def test_crops_do_not_depend_on_the_layout(both_layouts, sensors):
    for names in (bands.S2_BANDS, ("B8", "B2")):
        rasters = pipeline.select(names, bands.S2_BANDS, sensors)
        for data in (Data(crop_px=64), Data(crop_px=96, zoom=1.6, band_jitter=0.1), Data(crop_px=LARGE_PX)):
            one, two = (
                pipeline.train_batches(read_split(builder, "train"), rasters, data, batch_size=3, seed=1)
                for builder in both_layouts
            )
            for _ in range(4):
                first, second = next(one), next(two)
                for name, values in first.items():
                    np.testing.assert_array_equal(values, second[name])


def test_records_of_both_layouts_are_the_same(both_layouts):
    one, two = (read_split(builder, "train") for builder in both_layouts)
    rasters = pipeline.select(bands.S2_BANDS, bands.S2_BANDS, ("s2", "s1"))
    lazy = lazily(read_split(both_layouts[0], "train[2:]"))
    for index in range(6):
        for name, value in one[index].items():
            np.testing.assert_array_equal(value, two[index][name])
        whole = preprocess.labelled_box(rasters(one[index])["label"])
        if index >= 2:
            assert isinstance(lazy[index - 2]["s2"], blocks.InBlocks)
            assert pipeline.labelled_box(lazy[index - 2], rasters) == whole


def test_where_a_complete_tile_is_labelled_takes_its_label_only(both_layouts, monkeypatch):
    decoded = []
    read = blocks.InBlocks.__getitem__
    monkeypatch.setattr(blocks.InBlocks, "__getitem__", lambda self, part: decoded.append(part) or read(self, part))
    source = lazily(read_split(both_layouts[0], "train"))
    record = next(record for record in source if not record["s2"].incomplete() and not record["s1"].incomplete())
    rasters = pipeline.select(bands.S2_BANDS, bands.S2_BANDS, ("s2", "s1"))
    assert pipeline.labelled_box(record, rasters) == np.s_[0:LARGE_PX, 0:LARGE_PX]
    assert decoded == [pipeline.WHOLE]  # the label


def test_a_damaged_block_counts_as_a_record_that_cannot_be_read(both_layouts, monkeypatch):
    source, rasters = (
        read_split(both_layouts[0], "train"),
        pipeline.select(bands.S2_BANDS, bands.S2_BANDS, ("s2", "s1")),
    )
    read = blocks.InBlocks.__getitem__

    def damaged(self, part):
        if self.dtype == np.uint16 and self._index["complete"].all():
            raise ValueError("block 0, 0 of a raster is damaged")
        return read(self, part)

    monkeypatch.setattr(blocks.InBlocks, "__getitem__", damaged)
    for corrupt, ends in (("stop", True), ("skip", False)):
        data = Data(crop_px=64, corrupt_records=corrupt)
        batches = pipeline.train_batches(source, rasters, data, batch_size=6, seed=0)
        if ends:
            with pytest.raises(ValueError, match=r"record \d of 6 of the split cannot be read .*block 0, 0"):
                next(batches)
        else:
            assert len(set(next(batches)["tile_id"])) < 6


def test_classes_are_those_of_the_data_set(builder):
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, classes=4))
    assert dataset.resolve(config, builder)[0].model.classes == 9


@pytest.mark.parametrize("lost", ["s2", "s1"])
def test_records_of_one_sensor_for_a_network_that_may_miss_the_other(lost):
    rng = np.random.default_rng(0)
    record = {
        "s2": rng.integers(1, 4000, (4, 4, 9 * (lost != "s2"))).astype(np.uint16),
        "s1": rng.uniform(-20, 0, (4, 4, 2 * (lost != "s1"))).astype(np.float32),
        "label": np.zeros((4, 4), np.uint8),
        "annotator": b"",
        "tile_id": b"a",
    }
    held = bands.S2_BANDS if lost != "s2" else ()
    taken = pipeline.select(bands.S2_BANDS, held, ("s2", "s1"), may_miss=("s2", "s1"))(record)
    assert taken["s2"].shape == (4, 4, 9) and taken["s1"].shape == (4, 4, 2)
    assert bands.s2_seen(taken["s2"]).all() == (lost != "s2") and bands.s1_seen(taken["s1"]).all() == (lost != "s1")
    assert (taken["label"] == 0).all()  # the other sensor explains it
    if lost == "s2":
        with pytest.raises(ValueError, match="no band B2"):
            pipeline.select(bands.S2_BANDS, held, ("s2", "s1"))
