"""Gives a finished raster its final name, so that no reader ever sees half of it, or an older file's mask, overviews or statistics.

Enters: a whole raster elsewhere, with the `.aux.xml` that GDAL made beside it. Leaves: the raster under its final name, with that file
and a style for QGIS; what GDAL would read with it of an older file of that name is gone. Links are followed and stay.
"""

import contextlib
import os
import shutil
import sys
from pathlib import Path

from tfds_dwplus.files.outputs import NAME_BYTES, hidden_name, written_whole
from tfds_dwplus.imagery.inputs.sidecars import sidecars


def check_place(path: Path) -> None:
    """Raises a ValueError if no file can be written to a path: a folder or a device, no parent folder, a link to nowhere."""
    if len(os.fsencode(path.name)) > NAME_BYTES:
        raise ValueError(
            f"{path.name[:40]}... is a name of {len(os.fsencode(path.name))} bytes, expected {NAME_BYTES} at most; give a shorter one"
        )
    if not path.parent.is_dir():
        raise ValueError(f"no folder {path.parent.resolve()} to write {path.name} to")
    try:
        final = path.resolve()
        round_about = final.is_symlink()
    except (OSError, RuntimeError):
        round_about = True
    if round_about:
        raise ValueError(f"{path} is a link that leads back to itself; remove it, or give another name")
    if not final.parent.is_dir():
        raise ValueError(
            f"{path} is a link to {final}, but there is no folder {final.parent}; make it, or remove the link"
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected the name of a file to write")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is a device, expected the name of a file to write")


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
    part = place.with_name(hidden_name(place.name, f".{os.getpid()}.part"))
    beside = {".qml": style.encode()} if style else {}
    if (names := whole.with_name(whole.name + ".aux.xml")).exists():
        beside[".aux.xml"] = names.read_bytes()
    try:
        shutil.move(whole, part)
        for name in (place, *links):
            for old in sidecars(name):
                old.unlink(missing_ok=True)
            # Beside a link they are a convenience: its folder may be read-only.
            with contextlib.suppress(*([OSError] if name != place else [])):
                _write_beside(name, beside)
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)


def _write_beside(raster: Path, files: dict[str, bytes]) -> None:
    """Writes `.qml` and `.aux.xml` of a raster, each whole or not at all."""
    for kind, content in files.items():
        path = raster.with_suffix(kind) if kind == ".qml" else raster.with_name(raster.name + kind)
        if len(os.fsencode(path.name)) > NAME_BYTES:
            print(f"note: the name is too long for a file *{kind} beside the map; it has none", file=sys.stderr)
            continue
        with written_whole(path) as part:
            part.write_bytes(content)


def _names(path: Path) -> list[Path]:
    """Returns a path and, if it is a link, all that it leads to, one after the other; the last one is no link."""
    names = [path.parent.resolve() / path.name]
    while names[-1].is_symlink():
        there = names[-1].parent / names[-1].readlink()
        names.append(there.parent.resolve() / there.name)
    return names
