"""Reads parts of the records of an ArrayRecord file, where the library reads, checks and copies whole ones.

Enters: a file that `records.write_records` wrote, and the number of its records. Leaves: bytes that are read when they are asked for.

Such a file is one of Riegeli: a header every 64 KiB, between them chunks, here of one uncompressed record each. Source: the
specification, https://github.com/google/riegeli/blob/master/doc/riegeli_records_file_format.md. The hash of a chunk covers all of
it, so it is not checked here: who reads parts has to check them.
"""

import os
import struct
import weakref
from typing import Any

_BLOCK, _BLOCK_HEADER = 1 << 16, 24
_USABLE = _BLOCK - _BLOCK_HEADER
_CHUNK_HEADER = struct.Struct("<8xQ8xB7sQ")
"""Size of the data, type of the chunk, number of records, size of the records; and two hashes."""
_SIMPLE = ord("r")
_WINDOW = 4096
"""Bytes that are read at once, for the names and lengths of features."""


class PartlyRead:
    """A sequence of bytes in a file: slices are such sequences, `bytes()` reads one. Raises OSError if it cannot be read."""

    def __init__(self, window: "_Window", start: int, stop: int) -> None:
        self._window, self._start, self._stop = window, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, place: Any) -> Any:  # an int or a slice, as of bytes
        if isinstance(place, slice):
            start, stop, _ = place.indices(len(self))
            return PartlyRead(self._window, self._start + start, self._start + max(start, stop))
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self._window.read(self._start + place, self._start + place + 1)[0]

    def __bytes__(self) -> bytes:
        return self._window.read(self._start, self._stop)

    def place_in(self, whole: "PartlyRead") -> tuple[int, int]:
        """Where this part of `whole` begins and ends in it."""
        return self._start - whole._start, self._stop - whole._start


class RecordFile:
    """A file of `count` records, opened. Raises a ValueError if it is of another kind than the above, OSError as `open`."""

    def __init__(self, path: os.PathLike | str, count: int) -> None:
        self._path, self._file = os.fspath(path), os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._records: list[tuple[int, int]] = []
        place, end = 0, _without_headers(os.fstat(self._file).st_size)
        while len(self._records) < count:
            if place + _CHUNK_HEADER.size > end:
                raise ValueError(f"{self._path} ends before record {len(self._records)} of {count}")
            size, kind, held, decoded = _CHUNK_HEADER.unpack(self.read(place, place + _CHUNK_HEADER.size))
            place += _CHUNK_HEADER.size
            if place + size > end:
                raise ValueError(f"{self._path} ends within record {len(self._records)} of {count}")
            if kind == _SIMPLE:
                # In front of the record: no compression, and how long its length is.
                if int.from_bytes(held, "little") != 1 or size <= decoded or self.read(place, place + 1) != b"\0":
                    raise ValueError(f"{self._path} has compressed records or groups of them")
                self._records.append((place + size - decoded, place + size))
            place += size  # no padding: a chunk of one record is longer than their number

    def __getitem__(self, index: int) -> PartlyRead:
        return PartlyRead(_Window(self), *self._records[index])

    def read(self, start: int, stop: int) -> bytes:
        """Bytes by their place in the file without its headers."""
        if stop <= start:
            return b""
        first = _with_headers(start)
        wanted = _with_headers(stop - 1) + 1 - first
        content = os.pread(self._file, wanted, first)
        if len(content) < wanted:
            raise OSError(f"{self._path} ends at byte {first + len(content)}, expected {first + wanted}")
        header = -first % _BLOCK
        if header >= wanted:
            return content
        pieces = [content[:header]]
        pieces += [content[at + _BLOCK_HEADER : at + _BLOCK] for at in range(header, wanted, _BLOCK)]
        return b"".join(pieces)


class _Window:
    """Reads a file, and keeps what it read last, because names and lengths of features are asked for byte by byte."""

    def __init__(self, file: RecordFile) -> None:
        self._file, self._start, self._content = file, 0, b""

    def read(self, start: int, stop: int) -> bytes:
        if self._start <= start and stop <= self._start + len(self._content):
            return self._content[start - self._start : stop - self._start]
        if stop - start >= _WINDOW:
            return self._file.read(start, stop)
        try:
            self._content = self._file.read(start, start + _WINDOW)
        except OSError:  # the end of the file
            return self._file.read(start, stop)
        self._start = start
        return self._content[: stop - start]


def _without_headers(place: int) -> int:
    return place // _BLOCK * _USABLE + max(place % _BLOCK - _BLOCK_HEADER, 0)


def _with_headers(place: int) -> int:
    return place // _USABLE * _BLOCK + _BLOCK_HEADER + place % _USABLE
