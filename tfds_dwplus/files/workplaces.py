"""Folders of unfinished work, and outputs that are folders.

Enters: the name that a folder is to have, and another one beside it for the work, hidden. Leaves: the finished folder under its name.

A folder of work is of our own user and closed to others (0700): in a folder that many may write to, anybody could have made it
first, with links in it that lead elsewhere.
"""

import contextlib
import ctypes
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tfds_dwplus.files.outputs import check_output, hidden_name, locked, sync

ASIDE = "aside"
"""Folder of a workplace that holds an older output while a new one takes its name, under the name that it had."""

_AT_THIS_FOLDER, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux's fcntl.h."""


def private_folder(path: Path) -> None:
    """Makes a folder of unfinished work, or takes over one that our user made before. Only our user can enter it then.

    Raises:
        ValueError: it belongs to another user, or is a link or a file.
        OSError: it cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        return path.mkdir(0o700)
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError:
        raise ValueError(_not_ours(path, path.lstat().st_uid)) from None
    except NotADirectoryError:  # a link too
        kind = "a link" if path.is_symlink() else "no folder"
        raise ValueError(
            f"{path} is {kind}, expected a folder of unfinished work of our own; look who made it, and remove it"
        ) from None
    try:
        found = os.fstat(folder)
        if found.st_uid != os.geteuid() and found.st_uid != _owner_given_to_us(path.parent):
            raise ValueError(_not_ours(path, found.st_uid))
        if stat.S_IMODE(found.st_mode) & 0o077:  # made before, when such folders were open
            with contextlib.suppress(PermissionError):  # a file system without modes
                os.fchmod(folder, 0o700)
    finally:
        os.close(folder)


@contextlib.contextmanager
def folder_written_whole(path: Path, option: str) -> Iterator[Path]:
    """Gives an empty folder to write to, and renames it to `path` at the end. On an error it is removed.

    Raises:
        ValueError: something is at `path`, or another process is writing it.
    """
    check_new_folder(path, option)
    with workplace(beside(path), path, option) as work:
        (work / path.name).mkdir()
        yield work / path.name
        take_place(work / path.name, path, work)


def check_new_folder(path: Path, option: str) -> None:
    """Raises a ValueError if a new folder cannot be made at `path`, or something is there."""
    if path.name:  # not `.`, which is there
        recover(beside(path), path.parent)
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} is there already; remove it, or give another {option}")
    check_output(path, option)


@contextlib.contextmanager
def files_written_together(paths: Sequence[Path], option: str) -> Iterator[Path]:
    """Gives an empty folder to write files of one folder to, under their names; at the end they take their places, the first one last.

    Raises:
        ValueError: another process is writing the first of them.
    """
    with workplace(beside(paths[0]), paths[0], option) as work:
        yield work
        _sync_all(work)
        for path in reversed(paths):
            (work / path.name).replace(path)
        sync(paths[0].parent)


def beside(path: Path) -> Path:
    """Returns the workplace of an output."""
    return path.with_name(hidden_name(path.name, ".unfinished"))


@contextlib.contextmanager
def workplace(folder: Path, target: Path, option: str = "") -> Iterator[Path]:
    """Makes a private folder, on the disk of `target`, for this process alone, and yields an empty one in it. It is removed at the end.

    What a killed process left there is removed, but an older `target` that it had set aside takes its place again.

    Raises:
        ValueError: another process is at work on the target; or as `private_folder`.
    """
    advice = f"wait for it, or give another {option}" if option else "wait for it, or stop it"
    with contextlib.ExitStack() as stack:
        while True:
            private_folder(folder)
            with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                stack.enter_context(locked(folder / "lock", target, advice=advice))
                break
        try:
            _clear(folder, target.parent)
            (folder / "work").mkdir()
            yield folder / "work"
        except OSError as error:  # the user knows the output, not where it is made
            if error.errno and str(error.filename).startswith(str(folder)):
                error.filename, error.filename2 = str(target), None
            raise
        finally:
            _leave(folder, target.parent)


def take_place(new: Path, target: Path, work: Path) -> None:
    """Renames a finished folder to `target`, in the place of an older one if there is one.

    Linux exchanges both in one step. Elsewhere there are two, and whatever happens between them, `workplace` and `recover` undo the
    first. So at every instant the old or the new one stands, or is found again.

    Args:
        new: the folder.
        target: its name.
        work: what `workplace` yielded.
    """
    _sync_all(new)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        new.rename(target)
    elif not _exchanged(new, target):
        aside = work.parent / ASIDE
        aside.mkdir(exist_ok=True)
        target.rename(aside / target.name)
        new.rename(target)
    sync(target.parent)


def recover(folder: Path, parent: Path) -> None:
    """Undoes what a process that was killed left in a workplace: an output of `parent` that it had set aside has its place again, and
    unfinished work is removed. A process that lives keeps its own.
    """
    with contextlib.suppress(OSError, ValueError):  # nothing was left, or it is not ours, or another works there
        left = [place.name for place in folder.iterdir()]
        private_folder(folder)
        # Where something is set aside a process that lives is about to put the new one there.
        with locked(folder / "lock", parent, wait=ASIDE in left):
            _leave(folder, parent)


def _sync_all(folder: Path) -> None:
    """Syncs all files of a folder to the disk, and their names."""
    for place, _, names in os.walk(folder):
        for name in names:
            sync(Path(place, name))
        sync(Path(place))


def _put_back(folder: Path, parent: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        for old in (folder / ASIDE).iterdir():
            if not (parent / old.name).exists():
                parent.mkdir(parents=True, exist_ok=True)
                old.rename(parent / old.name)


def _clear(folder: Path, parent: Path) -> None:
    """Empties a workplace of what a process left, after all that was set aside has its place again."""
    _put_back(folder, parent)
    for left in folder.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)


def _leave(folder: Path, parent: Path) -> None:
    """Removes a workplace whose lock is held."""
    _clear(folder, parent)
    # The lock last: who comes next works in this folder as soon as it is gone.
    (folder / "lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _exchanged(one: Path, other: Path) -> bool:
    """Exchanges two folders in one step; False if the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = (_AT_THIS_FOLDER, os.fsencode(one), _AT_THIS_FOLDER, os.fsencode(other))
    return rename is not None and rename(*names, _EXCHANGE) == 0


def _owner_given_to_us(folder: Path) -> int:
    """Returns the user that a new file of ours belongs to: network shares and bind mounts may give it to one of their own."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_uid


def _not_ours(path: Path, user: int) -> str:
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = str(user)
    return (
        f"{path} belongs to user {name}; unfinished work is continued, also in parts (--shard), by processes of one user only: remove the "
        "folder, or give another --output"
    )
