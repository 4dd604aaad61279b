"""Encode tiles as records of ArrayRecord files, with rasters compressed by Blosc, and decode them.

Enters: a tile. Leaves: a serialised tf.train.Example in which every feature is one byte string, and the same features
decoded. TFDS reads the files: `features.json` names the classes below, so that `tfds.load`, `tfds.data_source` and
`tfds.builder_from_directory` find them where this package is installed.

Blosc first reorders the bytes of pixels, so that bytes of one band lie together, then compresses them with LZ4 in its slow
mode. In the comparison of `benchmarks/reading.py --codecs` only uncompressed records are read faster, and the size is close
to the smallest: zstd and ArrayRecord's own compression save a little more space but take twice the time. Large rasters are
compressed in blocks, by `blocks`; `lazily` makes a source that reads and decodes only the parts that are asked for.
"""

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_data_source, array_record_module
from tensorflow_datasets.core import file_adapters
from tensorflow_datasets.proto import tf_example_pb2

from tfds_dwplus import bands
from tfds_dwplus.tiles.layout import blocks
from tfds_dwplus.tiles.layout.record_parts import PartlyRead, RecordFile
from tfds_dwplus.tiles.tile_files import Tile, too_large


class Raster(tfds.features.Tensor):
    """Feature of an array of pixels, with all bands of a pixel together, compressed without loss. Made by `raster`."""

    ALIASES = ["tfds_dwplus.records.Raster"]  # in features.json of data sets that were made before the module moved

    def encode_example(self, example_data: np.ndarray) -> bytes:
        """Compresses an array. Raises a ValueError if its shape or type is not that of the feature."""
        values = np.frombuffer(super().encode_example(example_data), self.np_dtype)
        return blocks.encode(values.reshape(self.shape))

    def decode_example_np(self, example_data: bytes | memoryview) -> np.ndarray:
        """Decompresses an array, of either layout of `blocks`."""
        return blocks.decode(example_data, self.shape, self.np_dtype)

    def decode_example(self, tfexample_data: Any) -> Any:
        """Decompresses a string tensor of TensorFlow."""
        import tensorflow as tf

        values = tf.numpy_function(self.decode_example_np, [tfexample_data], self.tf_dtype, stateful=False)
        return tf.ensure_shape(values, self.shape)


class Record(tfds.features.FeaturesDict):
    """Features of a tile. Decodes a serialised record in place, while protobuf would copy the pixels twice."""

    ALIASES = ["tfds_dwplus.records.Record"]

    def serialize_example(self, example_data: dict[str, Any]) -> bytes:
        """Serialises a tile as tf.train.Example, with a fixed order of features; protobuf's order changes between runs."""
        message = tf_example_pb2.Example.FromString(super().serialize_example(example_data))
        return message.SerializeToString(deterministic=True)

    def deserialize_example_np(self, serialized_example: bytes | memoryview, *, decoders: Any = None) -> dict[str, Any]:
        """Decodes a record to numpy values: arrays, numbers, bytes for text."""
        if decoders:
            return super().deserialize_example_np(serialized_example, decoders=decoders)
        stored = dict(_stored_bytes(memoryview(serialized_example)))
        return {
            name: feature.decode_example_np(stored[name] if isinstance(feature, Raster) else bytes(stored[name]))
            for name, feature in self.items()
        }

    def places(self, record: PartlyRead) -> np.ndarray:
        """Where the features lie in a record: uint32 [feature, 2], first byte and the one after the last."""
        stored = dict(_stored_bytes(record))
        return np.array([stored[name].place_in(record) for name in self], np.uint32)

    def deserialize_lazily(self, record: PartlyRead, places: np.ndarray) -> dict[str, Any] | None:
        """Decodes a record but for its rasters, which are decoded where they are sliced. None if one is not in blocks."""
        stored = {name: record[start:stop] for name, (start, stop) in zip(self, places.tolist(), strict=True)}
        values = {}
        for name, feature in self.items():
            if not isinstance(feature, Raster):
                values[name] = feature.decode_example_np(bytes(stored[name]))
            elif 0 in feature.shape:
                values[name] = feature.decode_example_np(b"")
            elif blocks.is_in_blocks(stored[name]):
                values[name] = blocks.InBlocks(stored[name], feature.shape, feature.np_dtype)
            else:
                return None
        return values


class LazyRecords:
    """The records of a data source of TFDS, of which no more is read and decoded than is sliced.

    Records that are not in blocks come whole, as from the source itself: those made before there were blocks, and small tiles.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._files: dict[str, RecordFile | None] = {}
        self._places: dict[int, np.ndarray] = {}  # they are found out byte by byte, so only once
        instructions = source.dataset_info.splits[source.split].file_instructions
        self._starts = np.cumsum([0, *(one.take for one in instructions)])
        self._instructions = instructions

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        if not 0 <= number < len(self._instructions):
            raise IndexError(index)
        instruction = self._instructions[number]
        file = self._opened(os.fspath(instruction.filename), instruction.examples_in_shard)
        if not file:
            return self._source[index]
        features, stored = (
            self._source.dataset_info.features,
            file[instruction.skip + index - int(self._starts[number])],
        )
        if index not in self._places:
            self._places[index] = features.places(stored)
        return features.deserialize_lazily(stored, self._places[index]) or self._source[index]

    def _opened(self, path: str, count: int) -> RecordFile | None:
        if path not in self._files:
            try:
                self._files[path] = RecordFile(path, count)
            except (
                OSError,
                ValueError,
            ):  # in a bucket, or of another kind, or damaged: the library reads it or says so
                self._files[path] = None
        return self._files[path]


def lazily(source: Any) -> Any:
    """A source of records with rasters that are decoded where they are sliced; the source itself if it is not TFDS's of ours."""
    features = getattr(getattr(source, "dataset_info", None), "features", None)
    whole = isinstance(features, Record) and not source.decoders
    return LazyRecords(source) if whole and getattr(source, "split", None) is not None else source


def record_features(size_px: int, s2_bands: int, s1_bands: int, *, shares: int = 0) -> Record:
    """Makes the features of a record for tiles of `size_px` pixels and a number of bands, with the `shares` of as many classes; 0: none."""

    def number(dtype: type, shape: tuple[int, ...] = ()) -> tfds.features.Tensor:
        # TFDS's default rounds float64 to float32, which is an error of metres in a UTM northing.
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")

    return Record(
        {
            "s2": raster((size_px, size_px, s2_bands), np.uint16),
            "s1": raster((size_px, size_px, s1_bands), np.float32),
            "label": raster((size_px, size_px), np.uint8),
            **({"probability": raster((size_px, size_px, shares), np.uint8)} if shares else {}),
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
    """Makes the feature values of a tile, padded with nodata to `size_px`. Raises a ValueError if the tile is larger."""
    height, width = tile.label.shape
    record = tile.record
    if max(height, width) > size_px:
        raise too_large(record.tile_id, height, width, size_px)
    pad = ((0, size_px - height), (0, size_px - width))
    return {
        "s2": np.pad(tile.s2, (*pad, (0, 0)), constant_values=bands.S2_NODATA),
        "s1": np.pad(tile.s1, (*pad, (0, 0)), constant_values=np.nan),
        "label": np.pad(tile.label, pad, constant_values=bands.IGNORE),
        **({} if tile.probability is None else {"probability": np.pad(tile.probability, (*pad, (0, 0)))}),
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
    """Cuts a tile into squares of `size_px`, row by row. The last of a row or column may be smaller.

    Square 0, 1 of tile 'a' is called 'a_0_1'. It has its own `transform`, but `lon` and `lat` of the whole tile.
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
                probability=None if tile.probability is None else tile.probability[part],
                transform=(a, b, c + a * column + b * row, d, e, f + d * column + e * row),
            )


def raster(shape: tuple[int, ...], dtype: type) -> Raster:
    """Makes a feature of pixels of `shape` (height, width) or (height, width, band)."""
    return Raster(shape=shape, dtype=dtype, encoding="bytes")


def write_records(path: os.PathLike, examples: Iterable[dict[str, Any]], features: Record) -> int:
    """Writes one ArrayRecord file, and gives the number of its records.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    try:
        # Groups of one record, so that random access reads only one record.
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        count = 0
        for example_data in examples:
            writer.write(features.serialize_example(example_data))
            count += 1
        writer.close()
    except RuntimeError as error:  # ArrayRecord's only error type; after the ';' it names lines of its own source
        raise OSError(f"cannot write {os.fspath(path)}: {str(error).partition(';')[0]}") from None
    return count


class TfDataArrayRecord(file_adapters.ArrayRecordFileAdapter):
    """Reads ArrayRecord files as tf.data. In TFDS 4.9.10 `tfds.load` raises NotImplementedError without it."""

    SUPPORTS_TF_DATA = True

    @classmethod
    def make_tf_data(cls, filename: Any, buffer_size: int | None = None) -> Any:
        """Makes a tf.data.Dataset of the serialised records of a file. `filename` may be a string tensor."""
        import tensorflow as tf

        del buffer_size  # a record is read in one piece
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
    _open_file.cache_clear()  # the file may have been replaced since the last pass
    return np.int64(len(_open_file(path)))


def _read_record(path: bytes, place: np.int64) -> bytes:
    return _open_file(path)[int(place)]


def _stored_bytes(record: Any) -> Iterator[tuple[str, Any]]:
    """Parses a serialised tf.train.Example to the name and bytes of each feature.

    Source: protobuf's wire format, and tensorflow/core/example/{example,feature}.proto. Example{features = 1},
    Features{feature = 1, a map: entries of key = 1, value = 2}, Feature{bytes_list = 1}, BytesList{value = 1}. All have
    wire type 2: a tag (field << 3 | 2), a length, and that many bytes.
    """
    for features in _messages(record, 1):
        for entry in _messages(features, 1):
            name, feature = _messages(entry, 1, 2)
            for bytes_list in _messages(feature, 1):
                for value in _messages(bytes_list, 1):
                    yield bytes(name).decode(), value


_LONGEST_HEAD = 11
"""Bytes of a tag and a length of 64 bits."""


def _messages(message: Any, *fields: int) -> Iterator[Any]:
    """Gives the bytes of the fields of a message. Raises a ValueError for a field that is not in `fields`."""
    place = 0
    while place < len(message):
        head = bytes(message[place : place + _LONGEST_HEAD])
        tag = head[0]
        if tag & 7 != 2 or tag >> 3 not in fields:
            raise ValueError(f"a record holds a field of tag {tag}, expected bytes; it was not written by tfds_dwplus")
        length = 0
        for used, byte in enumerate(head[1:], 2):
            length |= (byte & 127) << 7 * (used - 2)
            if byte < 128:
                break
        else:
            raise ValueError("a record ends within the length of a field; it is damaged")
        place += used
        yield message[place : place + length]
        place += length
