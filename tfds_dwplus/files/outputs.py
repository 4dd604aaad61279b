"""Writes outputs whole: beside their final name, synced to the disk, then renamed."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME_BYTES = 255
"""Longest name of a file on usual file systems, in bytes, of which a letter beyond ASCII takes two to four in UTF-8."""


def check_output(path: Path, option: str) -> None:
    """Checks that a file can be written at `path`, before the work starts.

    Raises:
        ValueError: `path` is a folder, or its folder does not exist. The message names the command line's `option`.
    """
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder, expected a file to write")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"no folder {path.absolute().parent} for {option} {path.name}; make it first")


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Writes a JSON file. It appears complete or not at all."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(tree, indent=1) + "\n")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to, and renames it to `path` at the end. On an error it is removed.

    Raises:
        OSError: the disk is full or similar; its `filename` is `path`.
    """
    partial = path.with_name(hidden_name(path.name, f".{os.getpid()}.partial"))
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.errno:  # without a number the error has only a text, which a file name would replace
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def hidden_name(name: str, ending: str) -> str:
    """Returns `.NAME` and an ending, for what is kept beside a file for a while; if that is too long, a hash stands for the name."""
    whole = f".{name}{ending}"
    if len(os.fsencode(whole)) <= NAME_BYTES:
        return whole
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}{ending}"
