"""Large objects that were read from buckets, in a folder that all processes of a user share."""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tfds_dwplus.files.buckets.servers import Entry, Server, download, tried

PART_SECONDS = 86400
"""Age of a part that nobody downloads any more."""


class Store:
    """A folder with objects under names that their address and generation give; they have the time of change that the server told, which
    an altered one has not.
    """

    def __init__(self, folder: Path) -> None:
        """Takes a folder that is there."""
        self._folder = folder

    def make_room(self, wanted: Mapping[str, Entry], what: str) -> None:
        """Removes the longest unused objects until all that are wanted, by address, fit. Raises ValueError if they never will."""
        places = {self._place(address, entry): entry.size for address, entry in wanted.items()}
        kept = sorted(self._held(), key=lambda held: held[1].st_atime_ns)
        size, have = sum(places.values()), sum(stat.st_size for path, stat in kept if path not in places)
        told = os.environ.get("SPECSAR_CACHE_GB", "")
        if told and not re.fullmatch(r"\d+(\.\d+)?", told):
            raise ValueError(f"SPECSAR_CACHE_GB is {told!r}, expected a number of gigabytes such as 100")
        most = float(told) * 1e9 if told else 0.8 * (shutil.disk_usage(self._folder).free + have)
        if size > most:
            raise ValueError(
                f"{what} holds {size / 1e9:.3g} GB to read, the cache {self._folder.parent} takes {most / 1e9:.3g}; set SPECSAR_CACHE_GB, "
                "or SPECSAR_CACHE to a folder on a larger disk, or mount the bucket as a folder"
            )
        for path, stat in kept:
            if have + size <= most:
                break
            if path in places:
                continue
            path.unlink(missing_ok=True)
            have -= stat.st_size

    def link(self, server: Server, name: str, entry: Entry, address: str, path: Path) -> Entry:
        """Puts an object at a path: a link to what is in the store, which is downloaded first if it is not there or was altered.

        Returns:
            What it is: `entry`, or what took its place since it was listed.

        Raises:
            OSError: it cannot be downloaded.
            GoneError: it is not there any more.
        """
        for _ in range(3):
            kept = self._place(address, entry)
            with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                stat = kept.stat()
                if (stat.st_size, stat.st_mtime_ns) == (entry.size, entry.modified_ns):
                    os.utime(kept, ns=(time.time_ns(), entry.modified_ns))
                    _link(kept, path)
                    return entry
                kept.unlink()
            part = self._folder / f".{secrets.token_hex(8)}.partial"
            try:
                entry = tried(address, lambda part=part, entry=entry: download(server, name, entry, part))
                os.utime(part, ns=(time.time_ns(), entry.modified_ns))
                part.replace(self._place(address, entry))
            finally:
                part.unlink(missing_ok=True)
        raise OSError(f"{address} cannot be kept in {self._folder}: another process removes it again and again")

    def _place(self, address: str, entry: Entry) -> Path:
        return self._folder / hashlib.sha256(f"{address} {entry.tag}".encode()).hexdigest()[:40]

    def _held(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Yields what is kept; removes parts of processes that were killed."""
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                if not path.name.endswith(".partial"):
                    yield path, stat
                elif time.time() - stat.st_mtime > PART_SECONDS:
                    path.unlink()


def _link(kept: Path, path: Path) -> None:
    """Links to a file, or copies it where the file system has no links."""
    try:
        os.link(kept, path)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(kept, path)
