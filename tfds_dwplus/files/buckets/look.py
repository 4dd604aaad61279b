"""What lies in the folder of a process that stands for places in buckets."""

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

from tfds_dwplus.files.buckets.places import is_sent


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


class Looked(NamedTuple):
    """Files and folders, by their path below the root."""

    files: dict[str, Sign]
    folders: dict[str, tuple[int, bool]]
    """The inode, and whether the folder was renamed since its last name was added: it took its name with all that is in it. Linux notes
    the time of a renaming in the folder that was renamed, as POSIX allows."""


def look(root: Path) -> Looked:
    """Looks at all files to be sent, and their folders; again, if a folder took the place of another meanwhile."""
    while True:
        found = _looked(root)
        with contextlib.suppress(FileNotFoundError):
            if all((root / folder).stat().st_ino == inode for folder, (inode, _) in found.folders.items()):
                return found


def _looked(root: Path) -> Looked:
    files, folders, waiting = dict[str, Sign](), dict[str, tuple[int, bool]](), [""]
    while waiting:
        folder = waiting.pop()
        with contextlib.suppress(FileNotFoundError), os.scandir(root / folder) as entries:
            for entry in entries:
                inside = f"{folder}/{entry.name}".lstrip("/")
                if not is_sent(inside):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    stat = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        folders[inside] = (stat.st_ino, stat.st_ctime_ns > stat.st_mtime_ns)
                        waiting.append(inside)
                    elif entry.is_file(follow_symlinks=False):
                        files[inside] = Sign.of(stat)
    return Looked(files, folders)
