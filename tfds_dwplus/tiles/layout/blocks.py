"""Rasters in square blocks, each compressed by itself, so that a part of a raster decodes little more than itself.

Enters: an array (height, width) or (height, width, band), or the bytes that were made of one. Leaves: the bytes, or the array,
or a part of it.

Layout: `HEAD`; `INDEX` for each block, row by row; then the blocks, each a Blosc buffer. The last of a row or column may be
smaller. Blosc's own buffers begin with another byte, so that both are told from each other.
"""

import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tfds_dwplus.tiles.layout.record_parts import PartlyRead

CODEC = {"cname": "lz4hc", "clevel": 5, "shuffle": 1, "blocksize": 2**19}
"""Settings of numcodecs.Blosc. They may be changed: each buffer stores how it was compressed."""

BLOCK_PX = 64
"""Side of a block of new records; each stores its own. By `benchmarks/reading.py --crops` blocks of 32 px are not quicker for a
crop of 128 px, but larger on disk and slower for whole tiles; those of 128 px are slower for a crop."""

SMALLEST_SIZE_PX = 256
"""Smaller rasters are one Blosc buffer: there is little to leave out, and it is quicker to decode."""

MAGIC = b"BLK1"
HEAD = struct.Struct("<4sII")
"""Magic, side of a block, CRC-32 of the index."""
INDEX = np.dtype([("end", "<u4"), ("crc", "<u4"), ("complete", "?")])
"""Where the block ends, from the end of the index on; its CRC-32; whether no value in it is 0 or, of floats, not finite."""

_LARGEST_SHUFFLE_BYTES = 255
"""Blosc stores the size of an item to shuffle in one byte."""


Bytes = bytes | memoryview | PartlyRead


def encode(values: np.ndarray) -> bytes:
    """Compresses an array: in blocks if it is large, a label of one byte a pixel in a single one; small ones without an index."""
    if not values.size:
        return b""
    if values.ndim < 2 or min(values.shape[:2]) < SMALLEST_SIZE_PX:
        return _compressed(values)
    # A label shrinks to a hundredth, and is wanted whole to see where a crop may lie.
    side = max(values.shape[:2]) if values.ndim == 2 and values.itemsize == 1 else BLOCK_PX
    given = np.isfinite(values) if values.dtype.kind == "f" else values != 0
    blocks, index, end = [], [], 0
    for part in _parts(values.shape, side):
        blocks.append(_compressed(values[part]))
        end += len(blocks[-1])
        index.append((end, zlib.crc32(blocks[-1]), given[part].all()))
    listed = np.array(index, INDEX).tobytes()
    return b"".join([HEAD.pack(MAGIC, side, zlib.crc32(listed)), listed, *blocks])


def decode(stored: bytes | memoryview, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """Decompresses a whole array of either layout."""
    if is_in_blocks(stored):
        return InBlocks(memoryview(stored), shape, dtype)[:, :]
    from numcodecs import blosc  # imported here, because it takes 0.2 s that most commands do not need

    values = np.empty(shape, dtype)
    if values.size:
        blosc.decompress(stored, values)
    return values


def is_in_blocks(stored: Bytes) -> bool:
    """Whether bytes are of the layout above."""
    return bytes(stored[: len(MAGIC)]) == MAGIC


class InBlocks:
    """An array that is decoded where it is sliced: `raster[rows, columns]` gives that part, all bands of it.

    Raises a ValueError, then or when it is made, for bytes that are not what was written.
    """

    def __init__(self, stored: Bytes, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.shape, self.dtype, self._stored = shape, np.dtype(dtype), stored
        magic, self._side, crc = HEAD.unpack(bytes(stored[: HEAD.size]))
        self._grid = tuple(-(-size // max(self._side, 1)) for size in shape[:2])
        self._start = HEAD.size + self._grid[0] * self._grid[1] * INDEX.itemsize
        listed = bytes(stored[HEAD.size : self._start])
        if magic != MAGIC or zlib.crc32(listed) != crc:
            raise ValueError("a raster's index of blocks is damaged")
        self._index = np.frombuffer(listed, INDEX)

    def incomplete(self) -> list[tuple[slice, slice]]:
        """Rows and columns of the blocks in which a value is 0 or, of floats, not finite: where there may be pixels without data."""
        if self._index["complete"].all():
            return []
        parts = list(_parts(self.shape, self._side))
        return [parts[place] for place in np.flatnonzero(~self._index["complete"])]

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        from numcodecs import blosc

        (top, bottom, row_step), (left, right, column_step) = (
            axis.indices(size) for axis, size in zip(part, self.shape[:2], strict=True)
        )
        if row_step != 1 or column_step != 1:
            raise ValueError("a raster in blocks is sliced by step 1 only")
        values = np.empty((max(bottom - top, 0), max(right - left, 0), *self.shape[2:]), self.dtype)
        if not values.size:
            return values
        side, wide = self._side, self._grid[1]
        first, last = left // side, (right - 1) // side
        bands = math.prod(self.shape[2:])
        space = np.empty(min(side, self.shape[0]) * min(side, self.shape[1]) * bands, self.dtype)
        for row in range(top // side, (bottom - 1) // side + 1):
            # Blocks of a row lie side by side: one reading.
            ends = [int(end) for end in self._index["end"][max(row * wide + first - 1, 0) : row * wide + last + 1]]
            ends = ends if row * wide + first else [0, *ends]
            stored = self._stored[self._start + ends[0] : self._start + ends[-1]]
            checked = isinstance(stored, memoryview)  # by the library that read the whole record
            stored = stored if checked else memoryview(bytes(stored))
            for column in range(first, last + 1):
                place = column - first
                packed = stored[ends[place] - ends[0] : ends[place + 1] - ends[0]]
                if not checked and zlib.crc32(packed) != self._index["crc"][row * wide + column]:
                    raise ValueError(f"block {row}, {column} of a raster is damaged")
                up, near = row * side, column * side
                height, width = min(side, self.shape[0] - up), min(side, self.shape[1] - near)
                pixels = space[: height * width * bands].reshape(height, width, *self.shape[2:])
                blosc.decompress(packed, pixels)
                rows = slice(max(up, top), min(up + height, bottom))
                columns = slice(max(near, left), min(near + width, right))
                values[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = pixels[
                    rows.start - up : rows.stop - up, columns.start - near : columns.stop - near
                ]
        return values


def _parts(shape: tuple[int, ...], side: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, shape[0], side):
        for left in range(0, shape[1], side):
            yield slice(top, min(top + side, shape[0])), slice(left, min(left + side, shape[1]))


def _compressed(values: np.ndarray) -> bytes:
    from numcodecs import blosc

    pixel_bytes = values.itemsize * math.prod(values.shape[2:])
    item = np.dtype((np.void, pixel_bytes if 0 < pixel_bytes <= _LARGEST_SHUFFLE_BYTES else 1))
    return bytes(blosc.Blosc(**CODEC).encode(np.frombuffer(values.tobytes(), item)))
