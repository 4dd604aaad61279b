"""Gives a finished raster its final name, so that no reader ever sees half of it, or an older file's mask, overviews or statistics.

Enters: a whole raster elsewhere, with the `.aux.xml` that GDAL made beside it. Leaves: the raster under its final name, with that file
and a style for QGIS; what GDAL would read with it of an older file of that name is gone. Links are followed and stay.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import sys
from pathlib import Path

from tfds_dwplus.files.outputs import NAME_BYTES, remove_partials, write_whole, written_whole
from tfds_dwplus.imagery.inputs.sidecars import sidecars


def publish(whole: Path, final: Path, style: str = "") -> None:
    """Moves a raster to its final name, also to another file system.

    The older file keeps its name until the new one takes it; its sidecars go before. So if the process is killed in between, there is
    an older map without them, or the new one with its own, but never the new one with those of the older.

    Args:
        whole: the raster; `.aux.xml` beside it is moved too.
        final: its name. If this is a link, the file is written to where it leads, and what lies beside is written beside both.
        style: text of the `.qml`; none is written if empty.

    Raises:
        OSError: the disk is full, or an older file cannot be removed.
    """
    *links, place = _names(final)
    beside = {".qml": style.encode()} if style else {}
    if (names := whole.with_name(whole.name + ".aux.xml")).exists():
        beside[".aux.xml"] = names.read_bytes()
    remove_partials(place.parent, place.name)
    with whole.open("rb") as file, written_whole(place) as part:
        _move(whole, part, file.fileno())
        for name in (place, *links):
            for old in sidecars(name):
                old.unlink(missing_ok=True)
            # Beside a link they are a convenience: its folder may be read-only.
            with contextlib.suppress(*([OSError] if name != place else [])):
                _write_beside(name, beside)


def publish_file(whole: Path, final: Path) -> None:
    """Moves a file of another kind to its final name, also to another file system; if that is a link, to where it leads.

    What a program that was killed left beside an older GeoPackage of that name goes before: SQLite would take it for changes of the new one.

    Raises:
        OSError: the disk is full, or what is beside an older file cannot be removed.
    """
    place = final.resolve()
    remove_partials(place.parent, place.name)
    with whole.open("rb") as file, written_whole(place) as part:
        _move(whole, part, file.fileno())
        for kind in ("-wal", "-shm", "-journal") if place.suffix.lower() == ".gpkg" else ():
            place.with_name(place.name + kind).unlink(missing_ok=True)


def _move(whole: Path, part: Path, file: int) -> None:
    """Puts a file in the place of an empty one that is to be written, and onto the disk; `file` is the open file."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as `written_whole` locks what it gives
    try:
        whole.replace(part)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copyfile(whole, part)
    with part.open("rb") as there:
        os.fsync(there)


def _write_beside(raster: Path, files: dict[str, bytes]) -> None:
    """Writes `.qml` and `.aux.xml` of a raster, each whole or not at all."""
    for kind, content in files.items():
        path = raster.with_suffix(kind) if kind == ".qml" else raster.with_name(raster.name + kind)
        if len(os.fsencode(path.name)) > NAME_BYTES:
            print(f"note: the name is too long for a file *{kind} beside the map; it has none", file=sys.stderr)
            continue
        remove_partials(path.parent, path.name)
        write_whole(path, content)


def _names(path: Path) -> list[Path]:
    """Returns a path and, if it is a link, all that it leads to, one after the other; the last one is no link."""
    names = [path.parent.resolve() / path.name]
    while names[-1].is_symlink():
        there = names[-1].parent / names[-1].readlink()
        names.append(there.parent.resolve() / there.name)
    return names
