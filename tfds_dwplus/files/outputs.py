"""Writes outputs whole: beside their final name, synced to the disk, then renamed. One process at a time writes an output.

    a file              `written_whole`, `write_whole`, `write_json`; several that belong together, `write_together`
    a raster            `raster_files.geotiff`, then as a file
    a folder            `workplaces.folder_written_whole`
    a file that a user names: within `output_claimed`, so that a second process is refused

At every instant, whatever ends the process, the old file stands under its name or the new one, and what is left beside it is removed
by the next process that writes it. Not so written are logs alone, which are read while they grow: `metrics.jsonl`, `manifest.jsonl`,
the logs of a sweep and TensorBoard's; their readers drop a last line that was cut. Orbax writes checkpoints whole by itself.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfds_dwplus.files import buckets
from tfds_dwplus.files.addresses import as_addresses

NAME_BYTES = 255
"""Longest name of a file on usual file systems, in bytes, of which a letter beyond ASCII takes two to four in UTF-8."""

_UNSUPPORTED = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems answer that cannot lock files or sync folders, such as some of networks."""


def check_output(path: Path, option: str) -> None:
    """Checks that a file can be written at `path`, or where it leads if it is a link, before the work starts.

    Raises:
        ValueError: it is a folder or a device, its name is too long, there is no folder for it, or it is a link to nowhere. The message
            names the command line's `option`.
    """
    if len(os.fsencode(path.name)) > NAME_BYTES:
        raise ValueError(
            f"{option} {path.name[:40]}... is a name of {len(os.fsencode(path.name))} bytes, expected {NAME_BYTES} at most; give a "
            "shorter one"
        )
    if not path.absolute().parent.is_dir():
        raise ValueError(f"no folder {path.absolute().parent} for {option} {path.name}; make it first")
    try:
        final = path.resolve()
        round_about = final.is_symlink()
    except (OSError, RuntimeError):
        round_about = True
    if round_about:
        raise ValueError(f"{option} {path} is a link that leads back to itself; remove it, or give another name")
    if not final.parent.is_dir():
        raise ValueError(
            f"{option} {path} is a link to {final}, but there is no folder {final.parent}; make it, or remove the link"
        )
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder, expected a file to write")
    if path.exists() and not path.is_file():
        raise ValueError(f"{option} {path} is a device, expected a file to write")


@contextlib.contextmanager
def output_claimed(path: Path, option: str) -> Iterator[Path]:
    """Keeps other processes from writing an output that the user named. Yields where to write it: where `path` leads if it is a link.

    What a killed process left of it is removed.

    Raises:
        ValueError: as `check_output`; or another process is writing it.
        OSError: nothing can be written there.
    """
    check_output(path, option)
    final = path.resolve()
    with contextlib.ExitStack() as stack:
        with _named(path):
            lock = final.with_name(hidden_name(final.name, ".lock"))
            stack.enter_context(locked(lock, path, advice=f"wait for it, or give another {option}", temporary=True))
        remove_partials(final.parent, final.name)
        yield final


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file, text as UTF-8. It appears complete or not at all. Raises OSError, with the path as its `filename`."""
    write_together({path: content})


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Writes a JSON file. It appears complete or not at all."""
    write_whole(path, json.dumps(tree, indent=1) + "\n")


def write_together(contents: Mapping[Path, bytes | str]) -> None:
    """Writes files that belong together: none takes its name before all are on the disk, and the first takes it last.

    A kill between two renames can still leave files of two times, so what must match is to be compared when it is read.
    """
    with contextlib.ExitStack() as stack:
        parts = {}
        for path, content in contents.items():
            with _named(path):
                parts[path] = stack.enter_context(_partial(path))
                parts[path].write_bytes(as_addresses(content).encode() if isinstance(content, str) else content)
                sync(parts[path])
        for path, part in reversed(parts.items()):
            with _named(path):
                part.replace(path)
                sync(path.parent)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives an empty file beside `path` to write to, and at the end syncs it and renames it to `path`. On an error it is removed.

    A link at `path` is replaced, not followed. No link is followed beside it either: the file is new, under a name that nobody knew.

    Raises:
        OSError: the disk is full or similar; its `filename` is `path`.
    """
    with _named(path), _partial(path) as partial:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)


def remove_partials(folder: Path, name: str = "") -> None:
    """Removes what killed processes left of a file in a folder, or of all files. That of a process that is alive is locked, and stays."""
    stem = re.escape(hidden_name(name, _ending("0")).removesuffix(_ending("0"))) if name else r"\..+"
    for entry in list(os.scandir(folder)):
        if not re.fullmatch(stem + r"\.[0-9a-f]+\.partial", entry.name) or not entry.is_file(follow_symlinks=False):
            continue
        with contextlib.suppress(OSError):  # of another user, or just renamed
            file = os.open(entry.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Path(entry.path).unlink()
            finally:
                os.close(file)


@contextlib.contextmanager
def locked(
    path: Path, what: object, *, advice: str = "wait for it", wait: bool = False, temporary: bool = False
) -> Iterator[int]:
    """Holds a lock, which ends with the process even if that is killed. Yields the open lock file, to which lines may be added.

    Args:
        path: the lock file, made if it is not there. It is never emptied, and no link is followed.
        what: that is worked on, for the message.
        advice: end of the message.
        wait: waits for another process instead of raising.
        temporary: removes the lock file at the end.

    Raises:
        ValueError: another process, or another part of this one, holds the lock; or something else is there than a file.
        FileNotFoundError: there is no folder for it.
    """
    path = buckets.lock_path(path)
    while True:
        file = _open_own(path)
        try:
            if not _lock(file, path, wait=wait):
                raise ValueError(f"another process is at work on {what}; {advice}")
            if not _is_at(file, path):  # the process that held it has removed it
                continue
            try:
                yield file
            finally:
                if temporary:
                    path.unlink(missing_ok=True)
            return
        finally:
            os.close(file)


def is_locked(path: Path) -> bool:
    """Returns whether another process, or another part of this one, holds a lock. Raises a ValueError if it is no plain file."""
    file = _open_own(path := buckets.lock_path(path))
    try:
        return not _lock(file, path, wait=False)
    finally:
        os.close(file)


def open_log(path: Path) -> int:
    """Opens a new log for a process to write into; the older one goes, and if that was a link, what it leads to stays."""
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)


def sync(path: Path) -> None:
    """Syncs a file, or the names in a folder, to the disk, so that it outlasts a loss of power. Raises OSError if that fails."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(file)


def hidden_name(name: str, ending: str) -> str:
    """Returns `.NAME` and an ending, for what is kept beside a file for a while; if that is too long, a hash stands for the name."""
    whole = f".{name}{ending}"
    if len(os.fsencode(whole)) <= NAME_BYTES:
        return whole
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}{ending}"


def _ending(sign: str = "") -> str:
    """Returns the ending of a file that is being written, with a number that is like no other, or with 16 times a sign."""
    return f".{sign * 16 or secrets.token_hex(8)}.partial"


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """Yields an empty file beside `path`, locked, so that `remove_partials` lets it be. It is removed at the end, if it is there."""
    while True:
        partial = path.with_name(hidden_name(path.name, _ending()))
        file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks: then nobody removes it either
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(file, partial):
            break
        os.close(file)  # removed before it was locked
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)
        os.close(file)


def _open_own(path: Path) -> int:
    """Opens a lock file without following a link. Raises a ValueError if it is no plain file."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise ValueError(f"{path} is a link, expected a file of our own; look who made it, and remove it") from None
        raise
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    raise ValueError(f"{path} is no file, expected one of our own; look who made it, and remove it")


def _lock(file: int, path: Path, *, wait: bool) -> bool:
    """Locks an open file; False if another process holds it. Says so where the file system has no locks, and goes on."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        print(
            f"note: the file system of {path.parent} has no locks, so a second process at work there is not noticed",
            file=sys.stderr,
        )
    return True


def _is_at(file: int, path: Path) -> bool:
    """Returns whether an open file is the one under this name."""
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Names the output in an error of the system: Python names the file beside it, or none. Raises that of a bucket that takes no more."""
    try:
        buckets.check(path)
        yield
    except OSError as error:
        if error.errno:  # without a number the error has only a text, which a file name would replace
            error.filename, error.filename2 = str(path), None
        raise
