"""Reads the variables of a TensorFlow SavedModel without TensorFlow; the files may come from strangers.

Enters: the folder `variables`, and the shape that each variable must have. Leaves: float32 arrays.

`variables.index` is a table of LevelDB: blocks of sorted keys, each followed by one byte, 1 if it is packed by Snappy, and a checksum.
The key of a variable gives its type, shape, place in `variables.data-00000-of-00001` and checksum, as a protocol buffer. No array is
made before its size is known to be as expected and to lie in the file; every fault is a one-line ValueError.

Sources: table_format.md of google/leveldb, format_description.txt of google/snappy, tensor_bundle.proto of tensorflow/tensorflow.
"""

import itertools
import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tfds_dwplus.files.strangers import one_line

_INDEX, _DATA = "variables.index", "variables.data-00000-of-00001"

_MOST_INDEX_BYTES = 4 << 20
_MOST_BLOCK_BYTES = 4 << 20
"""Of the index, as it is stored, and of a block of it when unpacked. That of 146 variables has 9 kB in one block."""

_MOST_DATA_BYTES = 64 << 20

_MAGIC = 0xDB4775248B80FB57
_FLOAT32 = 1
_KEY = "variables/{}/.ATTRIBUTES/VARIABLE_VALUE"


def read_variables(folder: Path, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Returns the variables of a SavedModel in their order.

    Args:
        folder: the SavedModel, which holds `variables/`.
        shapes: that they must have.

    Raises:
        ValueError: no SavedModel; files that are cut short, altered or of another format; or variables of other number, type or shape.
    """
    index, data = (folder / "variables" / name for name in (_INDEX, _DATA))
    for path, most in ((index, _MOST_INDEX_BYTES), (data, _MOST_DATA_BYTES)):
        if not path.is_file():
            raise ValueError(f"no file {path}; expected the folder of a SavedModel, which holds variables/{path.name}")
        if path.stat().st_size > most:
            raise ValueError(
                f"{path} has {path.stat().st_size:,} bytes, expected {most:,} at most; is it another network?"
            )
    try:
        entries = dict(_entries(index.read_bytes()))
    # What reading beyond the end raises.
    except (IndexError, struct.error, ValueError, OverflowError) as error:
        raise ValueError(f"{index} is not a whole index of variables ({one_line(error, 100)})") from None
    stored = sorted(name for name in entries if name.startswith("variables/"))
    if len(stored) != len(shapes):
        raise ValueError(f"{index} names {len(stored)} variables, expected {len(shapes)}; it is another network")
    size, arrays, places = data.stat().st_size, [], []
    for number, shape in enumerate(shapes):
        try:
            dtype, found, shard, offset, length, checksum = _described(entries[_KEY.format(number)])
        except (KeyError, IndexError, struct.error, ValueError):
            raise ValueError(f"{index} describes no variable {number}; is it whole?") from None
        if dtype != _FLOAT32 or found != shape:
            kind = "" if dtype == _FLOAT32 else f" of type {dtype}"
            raise ValueError(
                f"{index}: variable {number} has the shape {one_line(found, 100)}{kind}, expected float32 {shape}; it is another network"
            )
        if shard or length != 4 * math.prod(shape):
            raise ValueError(
                f"{index}: variable {number} has {length} bytes in file {shard}, expected {4 * math.prod(shape)} in file 0"
            )
        if offset + length > size:
            raise ValueError(
                f"{data} has {size:,} bytes, variable {number} ends at {offset + length:,}; was it cut short?"
            )
        places.append((offset, length, checksum))
    if (last := max(map(_end, entries.values()))) > size:  # what is no variable lies there too
        raise ValueError(f"{data} has {size:,} bytes, its index tells of {last:,}; was it cut short?")
    content = data.read_bytes()
    for number, ((offset, length, checksum), shape) in enumerate(zip(places, shapes, strict=True)):
        part = content[offset : offset + length]
        if _masked(crc32c(part)) != checksum:
            raise ValueError(
                f"{data}: variable {number} is not what was written, for its checksum differs; get the file again"
            )
        array = np.frombuffer(part, "<f4").reshape(shape).astype(np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"{data}: variable {number} holds numbers that are not finite")
        arrays.append(array)
    return arrays


def _entries(index: bytes) -> Iterator[tuple[str, bytes]]:
    """Keys and values of a LevelDB table. Raises ValueError, IndexError or struct.error if it is none."""
    footer = index[-48:]
    if len(footer) < 48 or struct.unpack("<Q", footer[40:])[0] != _MAGIC:
        raise ValueError("its end is not that of a LevelDB table; was it cut short?")
    place = 0
    handle = []
    for _ in range(4):  # offset and size of the index of metadata, which is empty, and of the index of blocks
        number, place = _varint(footer, place)
        handle.append(number)
    for _, value in _block(index, *handle[2:]):
        offset, place = _varint(value, 0)
        size, _ = _varint(value, place)
        for key, entry in _block(index, offset, size):
            yield key.decode("utf-8"), entry


def _block(index: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; of each key only what differs from the one before is stored."""
    if offset + size + 5 > len(index):
        raise ValueError(f"a block ends at {offset + size + 5}, the file at {len(index)}")
    stored = index[offset : offset + size]
    packed = index[offset + size]
    if _masked(crc32c(index[offset : offset + size + 1])) != struct.unpack_from("<I", index, offset + size + 1)[0]:
        raise ValueError("the checksum of a block differs")
    if packed not in (0, 1):
        raise ValueError(f"a block is packed in way {packed}, expected 0 or 1, Snappy")
    block = unpack_snappy(stored) if packed else stored
    restarts = struct.unpack("<I", block[-4:])[0]
    end, place, key = len(block) - 4 - 4 * restarts, 0, b""
    if end < 0:
        raise ValueError("a block is shorter than it says")
    while place < end:
        shared, place = _varint(block, place)
        fresh, place = _varint(block, place)
        length, place = _varint(block, place)
        if shared > len(key) or place + fresh + length > end:
            raise ValueError("an entry ends beyond its block")
        key = key[:shared] + block[place : place + fresh]
        place += fresh
        yield key, block[place : place + length]
        place += length


def _described(entry: bytes) -> tuple[int, tuple[int, ...], int, int, int, int]:
    """Type, shape, file, offset, bytes and checksum of a variable, from a BundleEntryProto."""
    fields = dict(_fields(entry))
    shape = [dict(_fields(side)).get(1, 0) for number, side in _fields(fields.get(2, b"")) if number == 2]
    if not all(isinstance(side, int) for side in shape):
        raise ValueError("a side that is no number")
    numbers = [fields.get(number, 0) for number in (1, 3, 4, 5)]
    if not all(isinstance(number, int) for number in numbers):
        raise ValueError("a text in place of a number")
    dtype, shard, offset, size = numbers
    return dtype, tuple(shape), shard, offset, size, struct.unpack("<I", fields[6])[0]


def _end(entry: bytes) -> int:
    """The place behind what an entry describes; 0 if it describes nothing."""
    try:
        *_, offset, size, _ = _described(entry)
    except (KeyError, IndexError, struct.error, ValueError):
        return 0
    return offset + size


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of the fields of a protocol buffer; whole numbers as such, all others as bytes."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, place = _varint(message, place)
        elif kind in (1, 5):
            length = {1: 8, 5: 4}[kind]
        else:
            raise ValueError(f"a field of kind {kind}")
        if place + length > len(message):
            raise ValueError("a field ends beyond its message")
        yield tag >> 3, message[place : place + length]
        place += length


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and the place behind it."""
    number = 0
    for shift in range(0, 64, 7):
        byte = content[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
    raise ValueError("a number of more than 64 bits")


def unpack_snappy(packed: bytes) -> bytes:
    """Unpacks a block of Snappy. Raises ValueError or IndexError if it is none, or more than 4 MiB."""
    size, place = _varint(packed, 0)
    if size > _MOST_BLOCK_BYTES:
        raise ValueError(f"a block of {size:,} bytes, expected {_MOST_BLOCK_BYTES:,} at most")
    out = bytearray()
    while place < len(packed):
        tag = packed[place]
        place += 1
        if tag & 3 == 0:
            length = (tag >> 2) + 1
            if length > 60:
                more = length - 60
                length = int.from_bytes(packed[place : place + more], "little") + 1
                place += more
            if place + length > len(packed):
                raise ValueError("a literal ends beyond its block")
            out += packed[place : place + length]
            place += length
        else:
            if tag & 3 == 1:
                length, back = (tag >> 2 & 7) + 4, tag >> 5 << 8 | packed[place]
                place += 1
            else:
                wide = 2 if tag & 3 == 2 else 4
                length, back = (tag >> 2) + 1, int.from_bytes(packed[place : place + wide], "little")
                place += wide
            if not 0 < back <= len(out):
                raise ValueError("a copy from before the block")
            repeated = out[-back:]
            out += bytes(itertools.islice(itertools.cycle(repeated), length))  # it may overlap what it makes
        if len(out) > size:
            raise ValueError("more than it says")
    if len(out) != size:
        raise ValueError("less than it says")
    return bytes(out)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC_TABLE = _crc_table()


def crc32c(content: bytes) -> int:
    """Returns the CRC-32C (Castagnoli; RFC 3720, appendix B.4) of some bytes."""
    crc = 0xFFFFFFFF
    table = _CRC_TABLE
    for byte in content:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _masked(crc: int) -> int:
    """A checksum as LevelDB and TensorFlow store it, so that a checksum of checksums is none of the same kind."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
