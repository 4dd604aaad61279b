"""The folder of a process that stands for places in buckets: what is downloaded into it, and what of it is sent. See `__init__`."""

import contextlib
import fcntl
import functools
import os
import re
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from tfds_dwplus.files import addresses
from tfds_dwplus.files.buckets.places import Place, Sign, cache_folder, fault_of, folders_of, guarded, remove_left
from tfds_dwplus.files.buckets.servers import BucketError, Entry, Server, connect, download, tried, upload
from tfds_dwplus.files.buckets.store import Store

EVERY_S = 2.0
"""Seconds between two looks at what has changed; more if looking takes long."""

SENDING = ".sending"
"""Name of the object that a folder holds while its files are sent."""

_NOT_SENT = re.compile(r".*\.lock|\..+\.partial|.*\.orbax-checkpoint-tmp.*|\..+\.removed")
"""Names of locks, of files and checkpoints that are being written, and of folders that are being removed."""

_AT_WORK = re.compile(r"(?:^|/)\.[^/]+\.unfinished/(?:work|aside)$")
"""Folders in which `workplaces` makes outputs."""

_FIRST = re.compile(r"metrics\.jsonl|.*tfevents.*")
"""Logs that may tell more than there is, but not less: of a run, lines of later steps are dropped when it goes on."""

_GROWS = re.compile(r".*\.(?:jsonl|log|csv)|.*tfevents.*")
"""Files that are written in place. They have no part in the store, and what is added after a look is sent after the next."""

_SMALL = 1 << 20
"""Bytes below which an object is not kept in the store."""

_SLOW = 64 << 20
"""Bytes of which downloading is shown."""

_MOST_OBJECTS = 2_000_000

_AT_ONCE = 8
"""Downloads and uploads at the same time."""


class Mirror:
    """The folder of this process, and what is known of the buckets."""

    def __init__(self) -> None:
        """Makes the folder, removes those of processes that were killed, and begins to send."""
        cache = cache_folder()
        for name in ("work", "store"):
            (cache / name).mkdir(mode=0o700, exist_ok=True)
        self._cache = cache
        with guarded(cache / "work.lock"):
            remove_left(cache / "work")
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
        self._one_pass = threading.RLock()
        self._stop, self._closed = threading.Event(), False
        self._thread = threading.Thread(target=self._keep_sending, daemon=True, name="buckets")
        self._thread.start()

    def path_of(self, place: Place) -> Path:
        """Returns the path that stands for a place. There are folders for it: a bucket has any."""
        path = self._root.joinpath(place.scheme, place.bucket, *filter(None, place.name.split("/")))
        with self._one_pass:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._know_folders(path)
        return path

    def place_of(self, path: Path) -> Place | None:
        """Returns the place that a path stands for; None for any other path."""
        try:
            scheme, bucket, *parts = Path(os.path.abspath(path)).relative_to(self._root).parts  # noqa: PTH100 (a link is not followed: it is what stands there)
        except ValueError:
            return None
        return Place(scheme, bucket, "/".join(parts))

    # Downloading.

    def fetch(self, place: Place, only: str) -> None:
        """Downloads what the bucket holds at a place and was not changed here; removes here what was removed there."""
        with self._one_pass:
            server = self._server(place)
            wanted = self._wanted(server, place, only)
            todo = []
            for name, entry in wanted.items():
                path, (sign, tag) = self._path(place, name), self._sent.get(self._inside(place, name), (None, ""))
                if sign is None if not path.exists() else tag != entry.tag and sign == Sign.of(path.stat()):
                    todo.append((name, entry, path))
            self._store.make_room(sum(entry.size for _, entry, _ in todo), place.address)
            self._download(server, place, todo)
            for name, entry, path in todo:
                self._sent[self._inside(place, name)] = (Sign.of(path.stat()), entry.tag)
                self._know_folders(path)
            if not only:
                self._forget_removed(place, wanted)

    def _forget_removed(self, place: Place, wanted: dict[str, Entry]) -> None:
        own = self._inside(place, place.name)
        held = {self._inside(place, name) for name in wanted}
        for inside in [of for of in self._sent if (of == own or of.startswith(f"{own}/")) and of not in held]:
            path = self._root / inside
            if path.exists() and self._sent[inside][0] == Sign.of(path.stat()):
                path.unlink()
                del self._sent[inside]

    def _wanted(self, server: Server, place: Place, only: str) -> dict[str, Entry]:
        """Returns the objects of a place, and of the unfinished work beside it, without those of folders that are being sent."""
        from tfds_dwplus.files.workplaces import beside  # as in `cache_folder`

        own = PurePosixPath(place.name)
        prefixes = [f"{place.name}/" if place.name else ""]
        if place.name:
            prefixes.append(f"{own.with_name(beside(Path(own.name)).name)}/")

        def listed() -> dict[str, Entry]:
            found = {}
            for prefix in prefixes:
                found |= server.list(prefix)
            if place.name and place.name in server.list(place.name, 1):  # a file, and those beside it: .aux.xml, .dbf
                of_file = server.list(f"{own.with_suffix('')}." if own.suffix else place.name)
                found |= {name: entry for name, entry in of_file.items() if "/" not in name[len(str(own.parent)) + 1 :]}
            return found

        found: dict[str, Entry] = tried(place.address, listed)
        if len(found) > _MOST_OBJECTS:
            raise ValueError(f"{place.address} holds {len(found)} objects, expected {_MOST_OBJECTS} at most")
        sending = sorted(name.removesuffix(SENDING) for name in found if name.endswith(f"/{SENDING}"))
        for folder in sending:
            what = Place(place.scheme, place.bucket, folder.rstrip("/")).address
            print(f"note: {what} is not read: it is being sent, or who sent it was stopped before it was whole", file=sys.stderr)  # fmt: skip
        wanted = {
            name: entry
            for name, entry in found.items()
            if not name.endswith("/")  # which tools make to show a folder
            and not any(name.startswith(folder) for folder in sending)
            and (not only or re.fullmatch(only, name.removeprefix(place.name).lstrip("/")))
        }
        if odd := [name for name in wanted if fault_of(name)]:
            print(f"note: {place.address}: {fault_of(odd[0])}; {len(odd)} such objects are not read", file=sys.stderr)
        return {name: entry for name, entry in wanted.items() if name not in odd}

    def _download(self, server: Server, place: Place, todo: list[tuple[str, Entry, Path]]) -> None:
        size, often = sum(entry.size for _, entry, _ in todo), 0.2 if sys.stderr.isatty() else 10.0
        shown = {"unit": "B", "unit_scale": True, "leave": False, "mininterval": often, "disable": size < _SLOW}
        bar = tqdm(total=size, desc=f"reading {place.address}", **shown)

        def one(name: str, entry: Entry, path: Path) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            address, part = (
                f"{place.scheme}://{place.bucket}/{name}",
                path.with_name(f".{secrets.token_hex(8)}.partial"),
            )
            try:
                if entry.size < _SMALL or _GROWS.fullmatch(path.name):
                    tried(address, lambda: download(server, name, entry, part))
                else:
                    self._store.link(server, name, entry, address, part)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
            bar.update(entry.size)

        with bar, ThreadPoolExecutor(_AT_ONCE) as threads:
            waiting = [threads.submit(one, *of) for of in todo]
            try:
                for future in waiting:
                    future.result()
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
        wait = EVERY_S
        while not self._stop.wait(wait):
            began = time.monotonic()
            try:
                self._send()
                self.failed = None
            except BucketError as error:
                self.failed = None if error.passing else error
            except (OSError, RuntimeError) as error:  # of this disk; or Python ends and starts no more threads
                print(f"note: what is to be sent to a bucket cannot be read: {error}", file=sys.stderr)
            wait = max(EVERY_S, 10 * (time.monotonic() - began))

    def _send(self) -> bool:
        """Sends what has changed since the last time. Returns whether there was anything. Raises OSError."""
        with self._one_pass:
            if self._closed or not self._root.is_dir():  # its files are being removed, here alone
                return False
            files, folders = self._look()
            changed = [name for name, sign in files.items() if name not in self._sent or self._sent[name][0] != sign]
            gone = [name for name in self._sent if name not in files]
            for folder, names in self._in_order(changed, files, folders):
                self._send_folder(folder, names, files) if folder else self._send_file(names[0], files[names[0]])
            self._folders |= folders
            if gone and self._look()[0].keys() == files.keys():
                self._remove(gone, folders)
            return bool(changed or gone)

    def _look(self) -> tuple[dict[str, Sign], dict[str, int]]:
        """Returns all files to be sent, and the inodes of their folders, by path below the root."""
        files, folders, waiting = dict[str, Sign](), dict[str, int](), [""]
        while waiting:
            folder = waiting.pop()
            with contextlib.suppress(FileNotFoundError), os.scandir(self._root / folder) as entries:
                for entry in entries:
                    inside = f"{folder}/{entry.name}".lstrip("/")
                    if _NOT_SENT.fullmatch(entry.name) or _AT_WORK.search(inside):
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        if entry.is_dir(follow_symlinks=False):
                            folders[inside] = entry.inode()
                            waiting.append(inside)
                        elif entry.is_file(follow_symlinks=False):
                            files[inside] = Sign.of(entry.stat(follow_symlinks=False))
        return files, folders

    def _in_order(
        self, changed: list[str], files: dict[str, Sign], folders: dict[str, int]
    ) -> Iterator[tuple[str, list[str]]]:
        """Yields what is to be sent in the order in which it took its name: a new folder and its files, or '' and a file."""
        units, is_new = dict[tuple[str, str], list[str]](), functools.cache(self._is_new)
        for name in changed:
            new = [of for of in folders_of(name) if is_new(of, folders[of])]
            units.setdefault((new[0], "") if new else ("", name), []).append(name)

        def when(unit: tuple[str, str]) -> tuple[bool, int]:
            named_ns = max(files[name].named_ns for name in units[unit])
            return not _FIRST.fullmatch(PurePosixPath(unit[1]).name), named_ns

        for unit in sorted(units, key=when):
            yield unit[0], units[unit]

    def _is_new(self, folder: str, inode: int) -> bool:
        """Whether a folder is not in the bucket, or not whole, or is another than the one that is there."""
        if folder not in self._folders:
            server, place = self._of(folder)
            there = tried(place.address, lambda: server.list(f"{place.name}/", 1))
            marked = tried(place.address, lambda: server.list(f"{place.name}/{SENDING}", 1))
            if not there or f"{place.name}/{SENDING}" in marked:
                return True
            self._folders[folder] = inode
        return self._folders[folder] != inode

    def _send_folder(self, folder: str, names: list[str], files: dict[str, Sign]) -> None:
        """Sends the files of a new folder; nobody reads it before it is whole."""
        server, place = self._of(folder)
        left = tried(place.address, lambda: server.list(f"{place.name}/{SENDING}", 1))
        left = tried(place.address, lambda: server.list(f"{place.name}/")) if left else {}
        with self._marked(server, place):
            with ThreadPoolExecutor(_AT_ONCE) as threads:
                for _ in threads.map(lambda name: self._send_file(name, files[name]), names):
                    pass
            # Of who was stopped while it sent this folder, and of the folder that this one took the place of.
            old = {self._inside(place, name) for name in left} | set(self._sent)
            for name in [of for of in old if of.startswith(f"{folder}/") and of not in files and not of.endswith(f"/{SENDING}")]:  # fmt: skip
                self._remove_one(name)

    @contextlib.contextmanager
    def _marked(self, server: Server, folder: Place) -> Iterator[None]:
        """Marks a folder as one that is being sent; an error leaves the mark."""
        marker, empty = f"{folder.name}/{SENDING}", self._folder / "empty"
        empty.touch()
        tried(folder.address, lambda: upload(server, empty, None, marker))
        yield
        tried(folder.address, lambda: server.remove(marker))

    def _send_file(self, name: str, sign: Sign) -> None:
        server, place = self._of(name)
        path = self._root / name
        size = sign.size if _GROWS.fullmatch(path.name) else None
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile; if it was sent before, the next look finds that
            entry = tried(place.address, lambda: upload(server, path, size, place.name))
            self._sent[name] = (sign, entry.tag)

    def _remove(self, gone: list[str], folders: dict[str, int]) -> None:
        """Removes objects whose files are gone; a folder that is gone is marked before, so that nobody reads half of it."""
        lost = {name for name in self._folders if name.count("/") > 1 and name not in folders}
        for folder in sorted(name for name in lost if str(PurePosixPath(name).parent) not in lost):
            inside = [name for name in gone if name.startswith(f"{folder}/")]
            with self._marked(*self._of(folder)) if inside else contextlib.nullcontext():
                for name in inside:
                    self._remove_one(name)
        for name in lost:
            del self._folders[name]
        for name in gone:
            if name in self._sent:
                self._remove_one(name)

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
        self._stop.set()
        with self._one_pass:
            self._closed = True
        files, _ = self._look()
        unsent = [name for name, sign in files.items() if name not in self._sent or self._sent[name][0] != sign]
        if unsent and self.failed is not None:
            kept = self._cache / "unsent" / self._folder.name
            kept.parent.mkdir(mode=0o700, exist_ok=True)
            for name in files:
                if name not in unsent:
                    (self._root / name).unlink(missing_ok=True)
            self._root.rename(kept)
            print(f"note: {len(unsent)} files were not sent; they are kept in {kept}, under their names in the bucket", file=sys.stderr)  # fmt: skip
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._held)
