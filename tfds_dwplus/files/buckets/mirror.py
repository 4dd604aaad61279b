"""The folder of a process that stands for places in buckets: what is downloaded into it, and what of it is sent. See `__init__`."""

import contextlib
import errno
import fcntl
import functools
import io
import os
import re
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from tfds_dwplus.files import addresses
from tfds_dwplus.files.buckets import servers
from tfds_dwplus.files.buckets.listing import SENDING, listed
from tfds_dwplus.files.buckets.look import Looked, Sign, look
from tfds_dwplus.files.buckets.places import (
    BACKLOG,
    Place,
    cache_folder,
    fault_of,
    folders_of,
    guarded,
    remove_left,
)
from tfds_dwplus.files.buckets.servers import BucketError, Entry, GoneError, Server, connect, download, tried, upload
from tfds_dwplus.files.buckets.store import Store
from tfds_dwplus.files.strangers import one_line

EVERY_S = 2.0
"""Seconds between two looks at what has changed; more if looking takes long."""

_FIRST = re.compile(r"metrics\.jsonl|.*tfevents.*")
"""Logs that may tell more than there is, but not less: of a run, lines of later steps are dropped when it goes on."""

_GROWS = re.compile(r".*\.(?:jsonl|log)|.*tfevents.*")
"""Files that are written in place. They have no part in the store, and what is added after a look is sent after the next."""

_SMALL = 1 << 20
"""Bytes below which an object is not kept in the store."""

_SLOW = 64 << 20
"""Bytes of which downloading is shown."""

_AT_ONCE = 8
"""Downloads and uploads at the same time."""


class Mirror:
    """The folder of this process, and what is known of the buckets."""

    def __init__(self) -> None:
        """Makes the folder, removes those of processes that were killed, and begins to send."""
        self._cache = cache = cache_folder()
        for name in ("work", "store"):
            (cache / name).mkdir(mode=0o700, exist_ok=True)
        with guarded(cache / "work.lock"):
            remove_left(cache / "work", cache / "unsent")
            self._folder = cache / "work" / f"{os.getpid()}-{secrets.token_hex(4)}"
            self._folder.mkdir(0o700)
            self._held = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._held, fcntl.LOCK_EX)
        self._root = self._folder / "buckets"
        self._root.mkdir()
        addresses.stands_for_addresses(str(self._root))
        self.failed: OSError | None = None
        """Why nothing can be sent, if it will not pass by itself."""
        self._store = Store(cache / "store")
        self._servers: dict[tuple[str, str], Server] = {}
        self._sent: dict[str, tuple[Sign, str]] = {}  # what the buckets hold, and its tag, by path below the root
        self._folders: dict[str, int] = {}  # folders that they hold, and their inodes here
        self._marked: set[str] = set()  # folders that were not whole when the last file was sent
        self._one_pass = threading.RLock()
        self._stop, self._closed = threading.Event(), False
        servers.ending.clear()
        self._thread = threading.Thread(target=self._keep_sending, daemon=True, name="buckets")
        self._thread.start()

    def path_of(self, place: Place) -> Path:
        """Returns the path that stands for a place. There are folders for it: a bucket has any."""
        path = self._root.joinpath(place.scheme, place.bucket, *filter(None, place.name.split("/")))
        with self._one_pass:
            (path.parent if place.name else path).mkdir(parents=True, exist_ok=True)
            self._know_folders(path)
        return path

    def place_of(self, path: Path) -> Place | None:
        """Returns the place that a path stands for; None for any other path."""
        try:
            scheme, bucket, *parts = Path(os.path.abspath(path)).relative_to(self._root).parts  # noqa: PTH100 (a link is not followed)
        except ValueError:
            return None
        return Place(scheme, bucket, "/".join(parts))

    # Downloading.

    def fetch(self, place: Place, only: str) -> None:
        """Downloads what the bucket holds at a place and was not changed here; removes here what was removed there."""
        with self._one_pass:
            server = self._server(place)
            for _ in range(5):  # what another process replaces or removes meanwhile is looked up again
                wanted = listed(server, place, only)
                todo = {name: entry for name, entry in wanted.items() if self._is_to_be_read(place, name, entry)}
                large = {f"{place.scheme}://{place.bucket}/{name}": entry for name, entry in todo.items()}
                self._store.make_room(large, place.address)
                whole = self._download(server, place, todo)
                if not only:
                    self._forget_removed(place, wanted)
                if whole:
                    return
            raise BucketError(errno.EAGAIN, "it changes all the time; try again", place.address, passing=True)

    def _is_to_be_read(self, place: Place, name: str, entry: Entry) -> bool:
        path, (sign, tag) = self._path(place, name), self._sent.get(self._inside(place, name), (None, ""))
        if sign is None:
            return not path.exists()
        return tag != entry.tag and path.exists() and sign == Sign.of(path.stat())

    def _forget_removed(self, place: Place, wanted: dict[str, Entry]) -> None:
        own = self._inside(place, place.name).rstrip("/")
        held = {self._inside(place, name) for name in wanted}
        for inside in [of for of in self._sent if (of == own or of.startswith(f"{own}/")) and of not in held]:
            path, (sign, _) = self._root / inside, self._sent[inside]
            if path.exists() and sign == Sign.of(path.stat()):
                del self._sent[inside]  # before the file: else it would be removed there too
                path.unlink()

    def _download(self, server: Server, place: Place, todo: dict[str, Entry]) -> bool:
        """Downloads objects. Returns whether all were there still, as they had been listed."""
        size, often = sum(entry.size for entry in todo.values()), 0.2 if sys.stderr.isatty() else 10.0
        shown = {"unit": "B", "unit_scale": True, "leave": False, "mininterval": often, "disable": size < _SLOW}
        bar = tqdm(total=size, desc=f"reading {place.address}", **shown)

        def one(name: str) -> bool:
            path, entry, inside = self._path(place, name), todo[name], self._inside(place, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            address = f"{place.scheme}://{place.bucket}/{name}"
            part = path.with_name(f".{secrets.token_hex(8)}.partial")
            try:
                if entry.size < _SMALL or _GROWS.fullmatch(path.name):
                    got = tried(address, lambda: download(server, name, entry, part))
                else:
                    got = self._store.link(server, name, entry, address, part)
                self._sent[inside] = (Sign.of(part.stat()), got.tag)  # first: what is here is known to be there
                part.replace(path)
                self._know_folders(path)
            except GoneError:
                return False
            finally:
                part.unlink(missing_ok=True)
                if not path.exists():  # stopped in between: a file that is known and not here would be removed there
                    self._sent.pop(inside, None)
            bar.update(entry.size)
            return got == entry

        with bar:
            return all(self._each(one, list(todo)))

    @staticmethod
    def _each(act: Callable[[Any], Any], given: Iterable[Any]) -> list[Any]:
        """`[act(one) for one in given]`, some at once; one by one where Python ends, and starts no more threads."""
        given = list(given)
        if len(given) < 2 or not threading.main_thread().is_alive():
            return [act(one) for one in given]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            waiting = [threads.submit(act, one) for one in given]
            try:
                return [future.result() for future in waiting]
            finally:
                for future in waiting:
                    future.cancel()

    # Sending.

    def flush(self) -> None:
        """Sends all that has changed. Raises OSError if it cannot be sent, also for something that may pass."""
        self.failed = None  # what was wrong may have been mended
        try:
            while self._send():
                pass
        except OSError as error:
            self.failed = error
            raise

    def _keep_sending(self) -> None:
        wait, backlog = EVERY_S, self._folder / BACKLOG
        while not self._stop.wait(wait):
            began = time.monotonic()
            try:
                self._send()
                self.failed = None
                backlog.unlink(missing_ok=True)
            except Exception as error:  # this thread must not end
                with contextlib.suppress(OSError):
                    backlog.touch()
                if not (isinstance(error, BucketError) and error.passing):
                    own = isinstance(error, OSError)
                    self.failed = (
                        error if own else OSError(errno.EIO, one_line(f"{type(error).__name__}: {error}", 160))
                    )
            wait = max(EVERY_S, 10 * (time.monotonic() - began))

    def _send(self) -> bool:
        """Sends what has changed since the last time. Returns whether there was anything. Raises OSError."""
        with self._one_pass:
            if self._closed or not self._root.is_dir():  # its files are being removed, here alone
                return False
            now = look(self._root)
            changed = [
                name for name, sign in now.files.items() if name not in self._sent or self._sent[name][0] != sign
            ]
            gone = [name for name in self._sent if name not in now.files]
            for folder, names in self._in_order(changed, now):
                self._send_folder(folder, names, now) if folder else self._send_file(names[0], now.files[names[0]])
            for name, (inode, _) in now.folders.items():
                if name not in self._marked:
                    self._folders[name] = inode
            if (gone or self._marked) and look(self._root).files.keys() == now.files.keys():
                self._remove(gone, now)
            return bool(changed or gone)

    def _in_order(self, changed: list[str], now: Looked) -> Iterator[tuple[str, list[str]]]:
        """Yields what is to be sent in the order in which it took its name: a folder that was renamed and its files, or '' and a file."""
        units, is_new = dict[tuple[str, str], list[str]](), functools.cache(self._is_new)
        for name in changed:
            new = [of for of in folders_of(name) if now.folders[of][1] and is_new(of, now.folders[of][0])]
            units.setdefault((new[0], "") if new else ("", name), []).append(name)

        def when(unit: tuple[str, str]) -> tuple[bool, int]:
            named_ns = max(now.files[name].named_ns for name in units[unit])
            return not _FIRST.fullmatch(PurePosixPath(unit[1]).name), named_ns

        for unit in sorted(units, key=when):
            yield unit[0], units[unit]

    def _is_new(self, folder: str, inode: int) -> bool:
        """Whether a folder is not in the bucket, or not whole, or is another than the one that is there."""
        if folder not in self._folders:
            server, place = self._of(folder)
            there = tried(place.address, lambda: server.list(f"{place.name}/", 2))
            if not any(not name.endswith("/") for name in there) or self._is_marked(server, place):
                return True
            self._folders[folder] = inode
        return self._folders[folder] != inode

    def _is_marked(self, server: Server, folder: Place) -> bool:
        mark = f"{folder.name}/{SENDING}"
        return mark in tried(folder.address, lambda: server.list(mark, 1))

    def _send_folder(self, folder: str, names: list[str], now: Looked) -> None:
        """Sends the files of a folder that took its name whole; nobody reads it before it is whole there too."""
        server, place = self._of(folder)
        # Of who was stopped while it sent this folder, and of the folder that this one took the place of.
        old = {of for of in self._sent if of.startswith(f"{folder}/")}
        if self._is_marked(server, place):
            old |= {self._inside(place, name) for name in tried(place.address, lambda: server.list(f"{place.name}/"))}
        self._mark(server, place)
        self._marked.add(folder)
        self._each(lambda name: self._send_file(name, now.files[name]), names)
        for name in old - now.files.keys() - {f"{folder}/{SENDING}"}:
            self._remove_one(name)
        self._unmark(folder, now)

    def _mark(self, server: Server, folder: Place) -> None:
        tried(folder.address, lambda: upload(server, io.BytesIO(b""), 0, f"{folder.name}/{SENDING}"))

    def _unmark(self, folder: str, now: Looked) -> None:
        """Takes the mark off a folder, if it is there as it was looked at."""
        inside = {name: sign for name, sign in now.files.items() if name.startswith(f"{folder}/")}
        sent = all(name in self._sent and self._sent[name][0] == sign for name, sign in inside.items())
        with contextlib.suppress(FileNotFoundError):
            if sent and (self._root / folder).stat().st_ino == now.folders[folder][0]:
                server, place = self._of(folder)
                tried(place.address, lambda: server.remove(f"{place.name}/{SENDING}"))
                self._marked.discard(folder)

    def _send_file(self, name: str, sign: Sign) -> None:
        """Sends a file as it was looked at; one that has changed or gone since is found by the next look."""
        server, place = self._of(name)
        if fault := fault_of(place.name):
            raise BucketError(
                errno.EINVAL, f"a file cannot be sent: {fault}", place.address.rpartition("/")[0], passing=False
            )
        with contextlib.suppress(FileNotFoundError), (self._root / name).open("rb") as file:
            now = Sign.of(os.fstat(file.fileno()))
            if now != sign and not (_GROWS.fullmatch(PurePosixPath(name).name) and now.inode == sign.inode):
                return
            content = io.BytesIO(file.read(sign.size)) if now != sign else file
            entry = tried(place.address, lambda: upload(server, content, sign.size, place.name))
            self._sent[name] = (sign, entry.tag)

    def _remove(self, gone: list[str], now: Looked) -> None:
        """Removes objects whose files are gone; a folder that is gone is marked before, so that nobody reads half of it."""
        lost = {name for name in {*self._folders, *self._marked} if name.count("/") > 1 and name not in now.folders}
        for folder in sorted(name for name in lost if str(PurePosixPath(name).parent) not in lost):
            inside = [name for name in gone if name.startswith(f"{folder}/")]
            if inside or folder in self._marked:
                server, place = self._of(folder)
                self._mark(server, place)
                for name in inside:
                    self._remove_one(name)
                tried(place.address, lambda server=server, place=place: server.remove(f"{place.name}/{SENDING}"))
        for name in lost:
            self._folders.pop(name, None)
            self._marked.discard(name)
        for name in gone:
            if name in self._sent:
                self._remove_one(name)
        for folder in self._marked & now.folders.keys():
            self._unmark(folder, now)

    def _remove_one(self, name: str) -> None:
        server, place = self._of(name)
        tried(place.address, lambda: server.remove(place.name))
        self._sent.pop(name, None)

    # Names.

    def _of(self, inside: str) -> tuple[Server, Place]:
        scheme, bucket, name = inside.split("/", 2)
        place = Place(scheme, bucket, name)
        return self._server(place), place

    def _server(self, place: Place) -> Server:
        key = (place.scheme, place.bucket)
        if key not in self._servers:
            self._servers[key] = connect(*key)
        return self._servers[key]

    def _inside(self, place: Place, name: str) -> str:
        return f"{place.scheme}/{place.bucket}/{name}"

    def _path(self, place: Place, name: str) -> Path:
        return self._root / self._inside(place, name)

    def _know_folders(self, path: Path) -> None:
        """Notes that the bucket has the folders in which a path is."""
        for folder in folders_of(str(path.relative_to(self._root))):
            self._folders.setdefault(folder, (self._root / folder).stat().st_ino)

    # The end.

    def close(self) -> None:
        """Removes the folder; what could not be sent is kept elsewhere, which is said."""
        servers.ending.set()
        self._stop.set()
        with self._one_pass:
            self._closed = True
        files = look(self._root).files
        unsent = {name for name, sign in files.items() if name not in self._sent or self._sent[name][0] != sign}
        if unsent:
            kept = self._cache / "unsent" / self._folder.name
            kept.parent.mkdir(mode=0o700, exist_ok=True)
            for name in files.keys() - unsent:
                (self._root / name).unlink(missing_ok=True)
            self._root.rename(kept)
            print(f"note: {len(unsent)} files were not sent; they are kept in {kept}, under their names in the bucket", file=sys.stderr)  # fmt: skip
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._held)
