"""Places in buckets, the files that stand for them, and the folder in which those are kept."""

import contextlib
import dataclasses
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tfds_dwplus.files.strangers import one_line


@dataclasses.dataclass(frozen=True)
class Place:
    """A place in a bucket."""

    scheme: str
    bucket: str
    name: str
    """Of the object, or of the folder without a slash at its end; '' is the whole bucket."""

    @property
    def address(self) -> str:
        """Returns it as a user writes it."""
        return f"{self.scheme}://{self.bucket}/{self.name}".rstrip("/")


@dataclasses.dataclass(frozen=True)
class Sign:
    """What tells whether a file has changed, and when it took its name."""

    size: int
    modified_ns: int
    inode: int
    named_ns: int = dataclasses.field(compare=False)

    @classmethod
    def of(cls, stat: os.stat_result) -> "Sign":
        """Takes it from what the system tells of a file."""
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns)


def fault_of(name: str) -> str:
    """Says why the name of an object is no path on a disk; '' if it is one."""
    if any(part in ("", ".", "..") or len(part.encode()) > 255 for part in name.split("/")) and name:
        return f"{one_line(name, 80)!r} is no path of files"
    return "" if name.isprintable() else f"{one_line(name, 80)!r} has signs that cannot be printed"


def cache_folder() -> Path:
    """Returns the folder of the cache, made for our user alone. Raises ValueError if it is another user's."""
    from tfds_dwplus.files.workplaces import (
        private_folder,
    )  # which works on outputs, and these ask for places in buckets

    folder = Path(os.environ.get("SPECSAR_CACHE") or Path.home() / ".cache" / "specsar_jax")
    folder.parent.mkdir(parents=True, exist_ok=True)
    private_folder(folder)
    return folder.resolve()


def folders_of(inside: str) -> list[str]:
    """Returns the folders in a bucket that a path is in, the outermost first: 'gs/box/a/b/c.tif' -> ['gs/box/a', 'gs/box/a/b']."""
    return [str(folder) for folder in PurePosixPath(inside).parents][-4::-1]


@contextlib.contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Holds a lock, so that no process removes the folder of one that is about to lock it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def remove_left(folder: Path) -> None:
    """Removes the folders of processes that were killed."""
    for left in folder.iterdir():
        with contextlib.suppress(OSError):
            file = os.open(left / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
            finally:
                os.close(file)
