"""Places in buckets, the files that stand for them, and the folder in which those are kept."""

import contextlib
import dataclasses
import fcntl
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tfds_dwplus.files.strangers import one_line

BACKLOG = "backlog"
"""File in the folder of a process that could not send, the last time that it tried."""


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


_NOT_SENT = re.compile(
    r"(?:^|/)(?:[^/]*\.lock|\.[^/]+\.partial|[^/]*\.orbax-checkpoint-tmp[^/]*|\.[^/]+\.removed)(?:/|$)"  # locks; files and checkpoints at work
    r"|(?:^|/)\.[^/]+/(?:work|aside)(?:/|$)"  # in which `workplaces` makes outputs
    r"|(?:^|/)\.[^/]+\.unfinished/[^/]+_whole\.tif[^/]*$"  # a map that GDAL writes
)


def is_sent(inside: str) -> bool:
    """Whether a file or folder, by its path, is one that stands in a bucket: neither a lock nor at work. Others are not read from one either."""
    return _NOT_SENT.search(inside) is None


def fault_of(name: str) -> str:
    """Says why the name of an object is no path on a disk; '' if it is one."""
    if not name.isprintable():
        return f"{one_line(ascii(name), 80)} has signs that cannot be printed"
    if name and any(part in ("", ".", "..") or len(part.encode()) > 255 for part in name.split("/")):
        return f"{one_line(name, 80)!r} is no path of files"
    return ""


def cache_folder() -> Path:
    """Returns our user's own folder in that of the cache. Raises ValueError if it is another user's."""
    from tfds_dwplus.files.workplaces import private_folder  # it works on outputs, and these ask for places

    folder = Path(os.environ.get("SPECSAR_CACHE") or Path.home() / ".cache" / "specsar_jax")
    folder.mkdir(parents=True, exist_ok=True)
    private_folder(own := folder.resolve() / f"buckets-{os.geteuid()}")
    return own


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


def remove_left(folder: Path, unsent: Path) -> None:
    """Removes the folders of processes that were killed; what one could not send for a while, with BACKLOG in it, is kept in `unsent`."""
    for left in folder.iterdir():
        with contextlib.suppress(OSError):
            file = os.open(left / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (left / BACKLOG).exists():
                    unsent.mkdir(mode=0o700, exist_ok=True)
                    (left / "buckets").rename(unsent / left.name)
                    told = f"what a process that was killed could not send to a bucket before is kept in {unsent / left.name}"
                    print(f"note: {told}, under the names in the bucket", file=sys.stderr)
                shutil.rmtree(left)
            finally:
                os.close(file)
