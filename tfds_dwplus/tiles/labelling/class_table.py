"""The classes of a folder of tiles, where they are not Dynamic World's: `classes.csv`, beside `tiles.csv`.

Enters: a file with the columns code, name and colour. Leaves: `bands.Classes`. The code of a class is its value in label files, its
id + 1; 0 is a pixel without a label. In such a folder there is no code of cloud.
"""

import csv
from pathlib import Path
from typing import Any

from tfds_dwplus import bands
from tfds_dwplus.files.outputs import written_whole
from tfds_dwplus.files.strangers import one_line, texts

NAME = "classes.csv"

_COLUMNS = ["code", "name", "colour"]
_MOST_BYTES = 2**16


def read_classes(folder: Path) -> bands.Classes:
    """Returns the classes of a folder of tiles: Dynamic World's if it has no `classes.csv`.

    Raises:
        ValueError: the file has other columns, a code out of order, or no classes as `bands.Classes` takes them; it names the file.
    """
    path = folder / NAME
    if not path.exists():
        return bands.DYNAMIC_WORLD
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, expected at most {_MOST_BYTES:,}")
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
        if not rows or [text.strip().lower() for text in rows[0]] != _COLUMNS:
            found = one_line(",".join(rows[0] if rows else []), 80)
            raise ValueError(f"its columns are {found}, expected {','.join(_COLUMNS)}")
        rows = [[text.strip() for text in row] for row in rows[1:] if row]
        for place, row in enumerate(rows):
            if len(row) != len(_COLUMNS) or row[0] != str(place + 1):
                raise ValueError(f"row {place + 1} is {one_line(','.join(row), 80)}, expected {place + 1},name,colour")
        colours = tuple(row[2].removeprefix("#").lower() for row in rows)
        return bands.Classes(tuple(row[1] for row in rows), colours)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def classes_from(names: Any, colours: Any, what: str) -> bands.Classes:
    """Returns the classes of a tree of JSON: Dynamic World's, by name, where it has no colours (None).

    Args:
        names: of the classes, a list.
        colours: likewise.
        what: holds them, for the error message.

    Raises:
        ValueError: they are no lists of texts, none that `bands.Classes` takes, or others than Dynamic World's without colours.
    """
    found = tuple(texts(names, f"classes of {what}"))
    if colours is None:
        if found != bands.CLASSES:
            told = one_line(", ".join(found), 80)
            raise ValueError(f"{what} has the classes {told} without class_colours, expected a colour for each")
        return bands.DYNAMIC_WORLD
    try:
        return bands.Classes(found, tuple(texts(colours, f"class_colours of {what}")))
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def colours_of(classes: bands.Classes) -> dict[str, list[str]]:
    """Returns what stands in a tree of JSON beside the names: `class_colours`, or nothing for Dynamic World's, whose trees are as ever."""
    return {} if classes == bands.DYNAMIC_WORLD else {"class_colours": list(classes.colours)}


def write_classes(folder: Path, classes: bands.Classes) -> None:
    """Writes the classes of a folder of tiles; nothing for Dynamic World's."""
    if classes == bands.DYNAMIC_WORLD:
        return
    with written_whole(folder / NAME) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        table.writerows(zip(range(1, len(classes) + 1), classes.names, classes.colours, strict=True))
