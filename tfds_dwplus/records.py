"""How a tile lies on disk: one record of an ArrayRecord file, its rasters compressed by Blosc.

Enters: a tile. Leaves: a serialised tf.train.Example in which every feature is one string of bytes, and the same features
back. The files are those of TFDS: `features.json` names the classes below, so that
`tfds.load`, `tfds.data_source` and `tfds.builder_from_directory` find them wherever this package is installed.

Blosc's shuffle takes the bytes of a pixel apart, so that those of one band lie together, and LZ4 in its slow mode packs
them. Of what `benchmarks/reading.py --codecs` compares, this is the fastest to read besides not packing at all, and near the
smallest: zstd and ArrayRecord's own compression take off a little more and twice the time.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_data_source, array_record_module
from tensorflow_datasets.core import file_adapters
from tensorflow_datasets.proto import tf_example_pb2

from tfds_dwplus import bands
from tfds_dwplus.tile_files import Tile

CODEC = {"cname": "lz4hc", "clevel": 5, "shuffle": 1, "blocksize": 2**19}
"""Settings of numcodecs.Blosc. Records tell their reader how they were packed: they may be changed."""

_LARGEST_SHUFFLE_BYTES = 255
"""Blosc shuffles over the bytes of an item, and an item has one byte for its size."""


class Raster(tfds.features.Tensor):
    """An array of pixels, all bands of a pixel side by side; stored compressed, without loss. Made with `raster`."""

    def encode_example(self, example_data: np.ndarray) -> bytes:
        """The array as compressed bytes. Raises ValueError if it is not of the feature's shape and type."""
        return _packed(
            super().encode_example(example_data), math.prod(self.shape[2:]) * np.dtype(self.np_dtype).itemsize
        )

    def decode_example_np(self, example_data: bytes | memoryview) -> np.ndarray:
        """The array of `encode_example`."""
        from numcodecs import blosc  # here: a fifth of a second that most commands need not wait for

        values = np.empty(self.shape, self.np_dtype)
        if values.size:
            blosc.decompress(example_data, values)
        return values

    def decode_example(self, tfexample_data: Any) -> Any:
        """The same for a string tensor of TensorFlow."""
        import tensorflow as tf

        values = tf.numpy_function(self.decode_example_np, [tfexample_data], self.tf_dtype, stateful=False)
        return tf.ensure_shape(values, self.shape)


class Record(tfds.features.FeaturesDict):
    """The features of a tile. Reads a serialised record in place, where protobuf copies the pixels twice."""

    def serialize_example(self, example_data: dict[str, Any]) -> bytes:
        """A tf.train.Example: the same bytes for the same tile, where protobuf's order of features changes from run to run."""
        message = tf_example_pb2.Example.FromString(super().serialize_example(example_data))
        return message.SerializeToString(deterministic=True)

    def deserialize_example_np(self, serialized_example: bytes | memoryview, *, decoders: Any = None) -> dict[str, Any]:
        """Features as numpy values: arrays, numbers, bytes for text."""
        if decoders:
            return super().deserialize_example_np(serialized_example, decoders=decoders)
        stored = dict(_stored_bytes(memoryview(serialized_example)))
        return {
            name: feature.decode_example_np(stored[name] if isinstance(feature, Raster) else bytes(stored[name]))
            for name, feature in self.items()
        }


def record_features(size_px: int, s2_bands: int, s1_bands: int) -> Record:
    """The features of a record."""

    def number(dtype: type, shape: tuple[int, ...] = ()) -> tfds.features.Tensor:
        # TFDS's default rounds float64 to float32: metres, in a UTM northing.
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")

    return Record(
        {
            "s2": raster((size_px, size_px, s2_bands), np.uint16),
            "s1": raster((size_px, size_px, s1_bands), np.float32),
            "label": raster((size_px, size_px), np.uint8),
            "tile_id": tfds.features.Text(),
            "lon": number(np.float64),
            "lat": number(np.float64),
            "date": tfds.features.Text(),
            "annotator": tfds.features.Text(),
            "hemisphere": tfds.features.Text(),
            "biome": number(np.int64),
            "s2_item": tfds.features.Text(),
            "s1_scenes": number(np.int64),
            "s1_dates": tfds.features.Text(),
            "crs": tfds.features.Text(),
            "transform": number(np.float64, (6,)),
        }
    )


def example(tile: Tile, size_px: int) -> dict[str, Any]:
    """A tile as features, padded with nodata to `size_px`. Raises ValueError if the tile is larger."""
    height, width = tile.label.shape
    record = tile.record
    if max(height, width) > size_px:
        raise ValueError(
            f"tile {record.tile_id!r} is {height} x {width} pixels, larger than the data set's tile size of "
            f"{size_px}; give --tile_size_px {max(height, width)}, or --cut to have it cut"
        )
    pad = ((0, size_px - height), (0, size_px - width))
    return {
        "s2": np.pad(tile.s2, (*pad, (0, 0)), constant_values=bands.S2_NODATA),
        "s1": np.pad(tile.s1, (*pad, (0, 0)), constant_values=np.nan),
        "label": np.pad(tile.label, pad, constant_values=bands.IGNORE),
        "tile_id": record.tile_id,
        "lon": np.float64(record.lon),
        "lat": np.float64(record.lat),
        "date": record.date,
        "annotator": record.annotator,
        "hemisphere": record.hemisphere,
        "biome": np.int64(record.biome),
        "s2_item": record.s2_item,
        "s1_scenes": np.int64(record.s1_scenes),
        "s1_dates": record.s1_dates,
        "crs": tile.crs,
        "transform": np.asarray(tile.transform, np.float64),
    }


def squares(tile: Tile, size_px: int) -> Iterator[Tile]:
    """Squares of `size_px` that cover a tile, row by row; the last of a row or column may be smaller.

    Square 0, 1 of tile 'a' is called 'a_0_1'; `lon` and `lat` stay those of the whole tile, `transform` is its own.
    """
    height, width = tile.label.shape
    a, b, c, d, e, f = tile.transform
    for row in range(0, height, size_px):
        for column in range(0, width, size_px):
            part = np.s_[row : row + size_px, column : column + size_px]
            tile_id = f"{tile.record.tile_id}_{row // size_px}_{column // size_px}"
            yield dataclasses.replace(
                tile,
                record=dataclasses.replace(tile.record, tile_id=tile_id),
                s2=tile.s2[part],
                s1=tile.s1[part],
                label=tile.label[part],
                transform=(a, b, c + a * column + b * row, d, e, f + d * column + e * row),
            )


def raster(shape: tuple[int, ...], dtype: type) -> Raster:
    """A feature of pixels, `shape` (height, width) or (height, width, band)."""
    return Raster(shape=shape, dtype=dtype, encoding="bytes")


def write_records(path: os.PathLike, examples: Iterable[dict[str, Any]], features: Record) -> int:
    """Writes one ArrayRecord file and gives the number of its records.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    try:
        # Groups of one record: what is read at random is read alone.
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        count = 0
        for example_data in examples:
            writer.write(features.serialize_example(example_data))
            count += 1
        writer.close()
    except RuntimeError as error:  # of ArrayRecord, for all that goes wrong; what follows the ';' is its own places
        raise OSError(f"cannot write {os.fspath(path)}: {str(error).partition(';')[0]}") from None
    return count


class TfDataArrayRecord(file_adapters.ArrayRecordFileAdapter):
    """ArrayRecord files as tf.data, which TFDS 4.9.10 does not give: `tfds.load` says NotImplementedError."""

    SUPPORTS_TF_DATA = True

    @classmethod
    def make_tf_data(cls, filename: Any, buffer_size: int | None = None) -> Any:
        """A tf.data.Dataset of the serialised records of a file; `filename` may be a string tensor."""
        import tensorflow as tf

        del buffer_size  # a record is read whole, in one piece
        count = tf.numpy_function(_count_records, [filename], tf.int64, stateful=False)

        def read(place: Any) -> Any:
            return tf.ensure_shape(tf.numpy_function(_read_record, [filename, place], tf.string, stateful=False), ())

        return tf.data.Dataset.range(count).map(read)


if not file_adapters.ArrayRecordFileAdapter.SUPPORTS_TF_DATA:
    file_adapters.ADAPTER_FOR_FORMAT[file_adapters.FileFormat.ARRAY_RECORD] = TfDataArrayRecord


@functools.lru_cache(maxsize=64)
def _open_file(path: bytes) -> array_record_data_source.ArrayRecordDataSource:
    return array_record_data_source.ArrayRecordDataSource([path.decode()])


def _count_records(path: bytes) -> np.int64:
    _open_file.cache_clear()  # the file may be another one than at the last pass
    return np.int64(len(_open_file(path)))


def _read_record(path: bytes, place: np.int64) -> bytes:
    return _open_file(path)[int(place)]


def _packed(values: bytes, pixel_bytes: int) -> bytes:
    from numcodecs import blosc

    if not values:
        return b""
    item = np.dtype((np.void, pixel_bytes if 0 < pixel_bytes <= _LARGEST_SHUFFLE_BYTES else 1))
    return bytes(blosc.Blosc(**CODEC).encode(np.frombuffer(values, item)))


def _stored_bytes(record: memoryview) -> Iterator[tuple[str, memoryview]]:
    """Name and bytes of each feature of a serialised tf.train.Example of bytes.

    Source: protobuf's wire format, and tensorflow/core/example/{example,feature}.proto. Example{features = 1},
    Features{feature = 1, a map: entries of key = 1, value = 2}, Feature{bytes_list = 1}, BytesList{value = 1}; every one
    of them is of wire type 2, that is a tag (field << 3 | 2), a length and as many bytes.
    """
    for features in _messages(record, 1):
        for entry in _messages(features, 1):
            name, feature = _messages(entry, 1, 2)
            for bytes_list in _messages(feature, 1):
                for value in _messages(bytes_list, 1):
                    yield bytes(name).decode(), value


def _messages(message: memoryview, *fields: int) -> Iterator[memoryview]:
    """The bytes of the fields of a message. Raises ValueError for one that is not among `fields`."""
    place = 0
    while place < len(message):
        tag = message[place]
        if tag & 7 != 2 or tag >> 3 not in fields:
            raise ValueError(f"a record holds a field of tag {tag}, expected bytes; it was not written by tfds_dwplus")
        length, shift = 0, 0
        while True:
            place += 1
            length |= (message[place] & 127) << shift
            shift += 7
            if message[place] < 128:
                break
        place += 1
        yield message[place : place + length]
        place += length
