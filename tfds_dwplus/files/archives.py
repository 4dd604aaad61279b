"""Bounded reading of zips that strangers made, and of NumPy's .npz, which are zips of arrays.

Enters: a path. Leaves: names of members that stay in their folder, and contents whose size was checked before they were unpacked. A
zip declares the size of a member, which may lie: no more than it declares, and no more than is allowed, is unpacked.
"""

import contextlib
import lzma
import math
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from tfds_dwplus.files.strangers import one_line

MOST_MEMBERS = 200_000
"""Of a zip. All published labels are some 50,000 files."""

MOST_RATIO = 1100
"""Most bytes out of one: deflate makes 1032 at most."""

_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, KeyError, NotImplementedError, RuntimeError, UnicodeError, ValueError, OverflowError),
)
"""What `zipfile` raises of a broken file. RuntimeError: it is encrypted; NotImplementedError: packed in a way that it does not know."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens a zip; errors of reading it inside the `with` are of one line.

    Raises:
        ValueError: it is no whole zip, or has more than `MOST_MEMBERS` files.
        OSError: it cannot be read.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _BROKEN as error:
        raise ValueError(f"{path} is not a whole zip file ({one_line(error)}); is it cut short?") from None
    with archive:
        if len(archive.infolist()) > MOST_MEMBERS:
            raise ValueError(f"{path} has {len(archive.infolist())} files, expected {MOST_MEMBERS} at most")
        yield archive


def fault_of_member(member: zipfile.ZipInfo) -> str:
    """Returns why a file of a zip is not to be read, 'is a link'; '' if it is."""
    name = member.filename
    if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts or name[1:2] == ":":
        return "its name leads out of the zip"
    if not name.isprintable():
        return "its name cannot be printed"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "it is a link"
    if member.file_size > MOST_RATIO * max(member.compress_size, 1):
        return "it claims more than can be packed into it"
    return ""


def read_member(archive: zipfile.ZipFile, member: str | zipfile.ZipInfo, most: int) -> bytes:
    """Unpacks a file of a zip into memory.

    Args:
        archive: the zip.
        member: the file, or its name.
        most: bytes that it may have.

    Raises:
        ValueError: it is larger, is missing or broken, or its name leads out of the zip.
    """
    name = member if isinstance(member, str) else member.filename
    what = f"{one_line(name, 100)} of {archive.filename}"
    try:
        info = archive.getinfo(member) if isinstance(member, str) else member
        if fault := fault_of_member(info):
            raise ValueError(fault)
        if info.file_size > most:
            raise ValueError(f"it has {info.file_size} bytes, expected {most} at most")
        with archive.open(info) as file:
            content = file.read(info.file_size + 1)
    except _BROKEN as error:
        raise ValueError(f"{what} cannot be read: {one_line(error)}") from None
    if len(content) != info.file_size:
        raise ValueError(f"{what} is not of the size that the zip declares, {info.file_size} bytes")
    return content


def read_arrays(path: Path, most: int) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz of numbers and texts; nothing in it is executed.

    Args:
        path: of the file.
        most: bytes that its arrays may take together.

    Raises:
        ValueError: it is damaged, holds something else than arrays, or takes more.
        OSError: it cannot be read.
    """
    arrays: dict[str, np.ndarray] = {}
    left = most
    try:
        with opened(path) as archive:
            for info in archive.infolist():
                if fault := fault_of_member(info):
                    raise ValueError(f"{one_line(info.filename, 60)}: {fault}")
                if info.file_size > left:
                    raise ValueError(f"its arrays take more than {most} bytes")
                left -= info.file_size
                with archive.open(info) as file:
                    _check_array(file, info)
                with archive.open(info) as file:
                    arrays[info.filename.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy parses the header as Python, with all that this raises
        raise ValueError(f"{path} is damaged or no file of arrays ({one_line(error, 120)})") from None
    return arrays


def _check_array(file: zipfile.ZipExtFile, info: zipfile.ZipInfo) -> None:
    """Raises ValueError unless the array that a header declares fits the size of its file: it is allocated before it is read."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"{one_line(info.filename, 60)} is of version {version}, expected 1.0 or 2.0")
    shape, _, dtype = readers[version](file)
    if (
        not all(type(side) is int and side >= 0 for side in shape)
        or dtype.hasobject
        or not dtype.itemsize * len(shape) >= 0
    ):
        raise ValueError(f"{one_line(info.filename, 60)} holds no numbers or texts")
    if math.prod(shape) * max(dtype.itemsize, 1) > info.file_size:
        raise ValueError(f"{one_line(info.filename, 60)} claims the shape {shape}, more than it holds")
