"""Records on disk: nothing is lost, and the quick reader gives what protobuf gives."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.tiles.records import Record, example, raster, record_features, write_records


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((7, 5, 9), np.uint16),
        ((7, 5, 2), np.float32),
        ((7, 5), np.uint8),
        ((7, 5, 0), np.uint16),
        ((3, 3, 200), np.uint16),
    ],
)
def test_rasters_come_back_bit_by_bit(shape, dtype):
    values = np.random.default_rng(0).integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8).view(dtype)[..., 0]
    feature = raster(shape, dtype)
    back = feature.decode_example_np(feature.encode_example(values))
    assert back.dtype == dtype and back.flags.writeable
    np.testing.assert_array_equal(back.view(np.uint8), values.view(np.uint8))  # NaNs of every kind among them


def test_wrong_shape_or_type_is_refused():
    with pytest.raises(ValueError, match="does not match"):
        raster((4, 4), np.uint8).encode_example(np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match="do not match"):
        raster((4, 4), np.uint8).encode_example(np.zeros((4, 4), np.uint16))


def test_the_quick_reader_gives_what_protobuf_gives():
    features = record_features(48, 9, 2)
    record = features.serialize_example(example(simulated_tile(0, "train", 3, 40), 48))
    quick, plain = features.deserialize_example_np(record), super(Record, features).deserialize_example_np(record)
    assert quick.keys() == plain.keys()
    for name, value in plain.items():
        assert type(quick[name]) is type(value)
        np.testing.assert_array_equal(quick[name], value)
    assert len(record) < 0.8 * sum(np.asarray(value).nbytes for value in plain.values())


def test_a_record_of_another_kind_is_refused():
    other = tfds.features.FeaturesDict({"lon": np.float32})
    with pytest.raises(ValueError, match="not written by tfds_dwplus"):
        record_features(8, 1, 0).deserialize_example_np(other.serialize_example({"lon": 3.0}))


def test_the_same_tile_gives_the_same_bytes_whatever_the_order_of_its_features(tmp_path):
    features, tile = record_features(40, 9, 2), example(simulated_tile(0, "train", 3, 40), 40)
    turned = dict(reversed(tile.items()))
    for name, one in (("a", tile), ("b", turned)):
        assert write_records(tmp_path / name, [one, one], features) == 2
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_data_sets_made_before_the_module_moved_are_read():
    """Their features.json names the classes by their old place."""
    features = record_features(4, 2, 2)
    written = json.dumps(features.to_json()).replace("tfds_dwplus.tiles.records", "tfds_dwplus.records")
    assert "tfds_dwplus.records.Raster" in written
    read = tfds.features.FeatureConnector.from_json(json.loads(written))
    assert isinstance(read, Record) and read.to_json() == features.to_json()
