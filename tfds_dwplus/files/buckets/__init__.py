"""Folders and files in buckets, `gs://...` and `s3://...`: each stands on this machine's disk while a command works on it.

Enters: an address. Leaves: a local path that stands for it, with what the bucket holds; what is written there is sent to the bucket.

A bucket has no locks, no renaming and no appending, on which every promise of `outputs` and `workplaces` rests. So a command works on
this disk, and a thread sends what has changed, every few seconds and at the end, in the order in which files took their names: whenever
the process is killed, the bucket holds what the disk held a few seconds before.

    an object           replaced in one step: readers see the old or the new one
    a folder that took its name whole, by renaming: while its files are sent, it holds an object `.sending`, and is not read
    what is removed     removed from the bucket when all that is new is there, and nothing has changed meanwhile
    locks, partial files and what is at work in a workplace (`workplaces`) are not sent

A process has a folder of its own, CACHE/work/..., which it removes at its end. Large objects that it reads lie in CACHE/store, which
all processes of a user share by hard links: each is downloaded once, with its checksum, and the longest unused go when there are too many.

    SPECSAR_CACHE       CACHE is the folder `buckets-USERID` in it; ~/.cache/specsar_jax if not set
    SPECSAR_CACHE_GB    how large the store may be; four fifths of what is free if not set

Two processes of one machine that write the same place are kept apart by a lock, as on a disk; two machines are not.
"""

import atexit
import contextlib
import hashlib
import os
import re
import threading
from pathlib import Path

from tfds_dwplus.files import addresses
from tfds_dwplus.files.buckets.mirror import Mirror
from tfds_dwplus.files.buckets.places import Place, cache_folder, fault_of, is_sent
from tfds_dwplus.files.strangers import one_line

_ADDRESS = re.compile(r"(gs|s3):/{1,2}([^/]+)(?:/+(.*))?", re.IGNORECASE | re.DOTALL)
"""Also with one slash, which is what `Path` makes of two."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")

_current: Mirror | None = None
"""Of this process, from the first address on."""


_making = threading.Lock()


def is_address(given: str | Path) -> bool:
    """Whether this is an address in a bucket; also what `Path` makes of one."""
    return re.match("(gs|s3):/", str(given), re.IGNORECASE) is not None


def here(address: str | Path, *, whole: bool = True) -> Path:
    """Returns the local path that stands for an address.

    Args:
        address: of an object or of a folder, `gs://BUCKET/NAME` or `s3://BUCKET/NAME`; there may be nothing yet.
        whole: downloads what is there. Else `fetch` does later, a part of it.

    Raises:
        ValueError: it is no such address, the client is not installed, or what is there is larger than the cache.
        OSError: the bucket cannot be read, or there is none.
    """
    global _current
    text = one_line(addresses.shown(str(address)), 200)
    if (found := _ADDRESS.fullmatch(str(address))) is None:
        raise ValueError(f"{text} is no address, expected gs://BUCKET/FOLDER or s3://BUCKET/FOLDER")
    scheme, bucket = found[1].lower(), found[2]
    name = "/".join(part for part in (found[3] or "").split("/") if part)
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"{text} names no bucket, expected {scheme}://BUCKET/FOLDER")
    if not is_sent(name):
        raise ValueError(f"{text} has a part that is kept for locks and unfinished work; give another name")
    if fault := fault_of(name):
        raise ValueError(f"{text}: {fault}, expected {scheme}://BUCKET/FOLDER")
    with _making:
        if _current is None:
            _current = Mirror()
    path = _current.path_of(Place(scheme, bucket, name))
    if whole:
        fetch(path)
    return path


def fetch(path: Path, only: str = "") -> None:
    """Downloads what a bucket holds at a local path that stands for an address, and the unfinished work beside it; nothing for any other
    path. What this process has written there stays.

    Args:
        path: of a file or a folder.
        only: pattern of the names, below `path`, that are wanted; all if empty.

    Raises:
        ValueError, OSError: as `here`.
    """
    if _current is not None and (place := _current.place_of(path)) is not None:
        _current.fetch(place, only)


def refresh(path: Path) -> None:
    """Sends what has changed, and downloads what others have sent, at a local path that stands for an address; else nothing."""
    if _current is not None and _current.place_of(path) is not None:
        flush()
        fetch(path)


def given(path: str | Path) -> str:
    """Returns the address that a local path stands for, or the path as it is: for what is recorded and shown."""
    place = None if _current is None else _current.place_of(Path(path))
    return str(path) if place is None else place.address


def check(path: Path) -> None:
    """Raises the OSError with which sending has failed for good, if `path` stands for a place in a bucket: as that of a full disk."""
    if _current is not None and _current.failed is not None and _current.place_of(path) is not None:
        raise _current.failed


def lock_path(path: Path) -> Path:
    """Returns where a lock is: of a place in a bucket, in a folder that all processes of this machine share."""
    if _current is None or (place := _current.place_of(path)) is None:
        return path
    parent, _, name = place.address.rpartition("/")
    folder = cache_folder() / "locks" / hashlib.sha256(parent.encode()).hexdigest()[:40]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / name


def flush() -> None:
    """Sends all that has changed, and returns when it is there.

    Raises:
        OSError: it cannot be sent. `close` keeps on this disk what was not.
    """
    if _current is not None:
        _current.flush()


def close() -> None:
    """Removes the folder of this process. What could not be sent is kept, which is said."""
    global _current
    if _current is not None:
        _current.close()
        _current = None


def _at_exit() -> None:
    """Sends what a program has left that uses the functions, not the commands."""
    if _current is not None:
        with contextlib.suppress(OSError, RuntimeError):
            flush()
        close()


def _forget() -> None:
    """A process that was forked has no part in the folder of its parent."""
    global _current
    _current = None


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_forget)
