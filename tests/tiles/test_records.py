"""Records on disk: nothing is lost, and the quick reader gives what protobuf gives."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.tiles.layout import blocks
from tfds_dwplus.tiles.layout.record_parts import RecordFile
from tfds_dwplus.tiles.records import Record, example, raster, record_features, write_records


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((7, 5, 9), np.uint16),
        ((7, 5, 2), np.float32),
        ((7, 5), np.uint8),
        ((7, 5, 0), np.uint16),
        ((3, 3, 200), np.uint16),
        ((260, 300, 2), np.float32),
        ((260, 300, 0), np.uint16),
        ((260, 300), np.uint8),
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


def of_pixels(shape: tuple[int, ...]) -> np.ndarray:
    """Other values in each pixel, none 0."""
    return (np.arange(np.prod(shape)) % 65521 + 1).astype(np.uint16).reshape(shape)


def test_a_part_of_a_raster_in_blocks():
    values = of_pixels((300, 260, 3))
    stored = memoryview(blocks.encode(values))
    lazy = blocks.InBlocks(stored, values.shape, values.dtype)
    for part in (np.s_[:, :], np.s_[63:65, 0:1], np.s_[64:128, 64:128], np.s_[170:300, 199:260], np.s_[5:5, 3:9]):
        np.testing.assert_array_equal(lazy[part], values[part])
    # 300 x 260 px are 5 x 5 blocks; 16 bytes are Blosc's header.
    assert lazy._index.size == 25 and bytes(stored[:4]) == b"BLK1"
    with pytest.raises(ValueError, match="step 1"):
        lazy[::2, :]


def test_blocks_tell_where_pixels_may_lack_data():
    s2, s1 = of_pixels((260, 260, 2)), np.zeros((260, 260, 2), np.float32)
    s2[130, 70, 1], s1[259, 259, 0] = 0, np.nan
    one, two = (blocks.InBlocks(memoryview(blocks.encode(v)), v.shape, v.dtype) for v in (s2, s1))
    assert one.incomplete() == [np.s_[128:192, 64:128]]
    assert two.incomplete() == [np.s_[256:260, 256:260]]  # 0 dB is a value


def test_what_was_one_buffer_of_blosc_is_read():
    values = of_pixels((300, 260, 3))
    before = blocks._compressed(values)  # as records were before there were blocks
    assert not blocks.is_in_blocks(before) and blocks.is_in_blocks(blocks.encode(values))
    np.testing.assert_array_equal(raster(values.shape, np.uint16).decode_example_np(before), values)
    assert not blocks.is_in_blocks(blocks.encode(values[:255]))


def large_records(folder, count: int = 3) -> tuple[RecordFile, list[bytes]]:
    """A file of records of 300 px, larger than Riegeli's 64 KiB, and what they are."""
    features = record_features(300, 9, 2)
    tiles = [example(simulated_tile(0, "train", index, 300), 300) for index in range(count)]
    write_records(folder / "large", tiles, features)
    return RecordFile(folder / "large", count), [features.serialize_example(tile) for tile in tiles]


def test_parts_of_a_file_are_what_the_library_reads(tmp_path):
    file, records = large_records(tmp_path)
    rng = np.random.default_rng(0)
    for index, record in enumerate(records):
        assert len(record) > 2**17 and bytes(file[index]) == record
        for start in (0, *rng.integers(0, len(record) - 9, 30)):
            stop = int(rng.integers(start, len(record)))
            part = file[index][int(start) : stop + 9]
            assert bytes(part) == record[start : stop + 9] and part[8] == record[start + 8]
    with pytest.raises(ValueError, match="large has compressed"):
        RecordFile(tmp_path / "large", 4)  # the fourth is the library's list of the others


def lazily_read(features, record):
    return features.deserialize_lazily(record, features.places(record))


def test_a_damaged_block_is_an_error_and_other_parts_are_read(tmp_path):
    features = record_features(300, 9, 2)
    file, records = large_records(tmp_path, 1)
    whole = features.deserialize_example_np(records[0])
    content = bytearray((tmp_path / "large").read_bytes())
    place = content.find(bytes(lazily_read(features, file[0])["s2"]._stored[2000:2032]))
    content[place] ^= 1
    (tmp_path / "large").write_bytes(content)
    s2 = lazily_read(features, RecordFile(tmp_path / "large", 1)[0])["s2"]
    np.testing.assert_array_equal(s2[200:300, 10:90], whole["s2"][200:300, 10:90])
    with pytest.raises(ValueError, match="block 0, 0 of a raster is damaged"):
        s2[0:10, 0:10]
