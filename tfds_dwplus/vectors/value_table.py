"""Which class a value of the field is: by a table of the user's, value, name, colour; or by the names of Dynamic World's classes.

Enters: values as `vector_files.text_of` writes them, and perhaps a table. Leaves: the classes, and the class id of each value. Several
values may be of one class; a value whose row has no name is left without a label.
"""

import collections
import colorsys
import csv
import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from tfds_dwplus import bands
from tfds_dwplus.files.strangers import one_line, read_csv

COLUMNS = ("value", "name", "colour")

LEFT_OUT = -1
"""Class id of a feature that has no value, or one whose row has no name."""

MOST_VALUES = 1000
"""Different values of a field that may be one of classes."""

_LISTED = 8


@dataclasses.dataclass(frozen=True)
class ValueTable:
    """The classes, and which values are of which."""

    classes: bands.Classes
    class_id: dict[str, int]
    """By value; `LEFT_OUT` for one that is left without a label."""


def read_table(path: Path) -> ValueTable:
    """Reads a table with the columns value, name, colour.

    Raises:
        ValueError: another header, a value twice, a class without a colour or with two, or no classes as `bands.Classes` takes them.
    """
    if not path.is_file():
        raise ValueError(
            f"no file {path}; expected a table of {', '.join(COLUMNS)}, as --write_classes {path} draws one up"
        )
    header, rows = read_csv(path)
    names = {name.strip().lower().replace("color", "colour"): name for name in header}
    if missing := [name for name in COLUMNS if name not in names]:
        raise ValueError(
            f"{path} has no column {missing[0]}; its header is {one_line(','.join(header), 80)}, expected {','.join(COLUMNS)}"
        )
    colours: dict[str, str] = {}
    name_of: dict[str, str] = {}
    for row in rows:
        value, name, colour = (" ".join(row.get(names[column], "").split()) for column in COLUMNS)
        told = one_line(repr(value), 40)
        if value in name_of or not value:
            raise ValueError(f"{path} lists the value {told} twice" if value else f"{path} has a row without a value")
        name_of[value] = name
        if not name:
            continue
        colour = colour.removeprefix("#").lower()
        if not re.fullmatch(r"[0-9a-f]{6}", colour):
            found = f"the colour {one_line(repr(colour), 20)}" if colour else "no colour"
            raise ValueError(
                f"{path}: class {one_line(repr(name), 60)} of the value {told} has {found}, expected one such as 419bdf"
            )
        if colours.setdefault(name, colour) != colour:
            raise ValueError(
                f"{path}: class {one_line(repr(name), 60)} has the colours {colours[name]} and {colour}, expected one"
            )
    try:
        classes = bands.Classes(tuple(colours), tuple(colours.values()))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    ids = {name: number for number, name in enumerate(classes.names)}
    return ValueTable(classes, {value: ids.get(name, LEFT_OUT) for value, name in name_of.items()})


def dynamic_world_table(values: Sequence[str]) -> ValueTable:
    """The table of values that are names of Dynamic World's classes; upper and lower case, spaces, hyphens and underscores are alike."""
    ids = {name: number for number, name in enumerate(bands.CLASSES)}
    found = {value: ids[_plain(value)] for value in set(values) if _plain(value) in ids}
    return ValueTable(bands.DYNAMIC_WORLD, found)


def class_ids(
    values: Sequence[str], table: ValueTable, field: str, given: Path | None
) -> tuple[Int64[np.ndarray, " feature"], list[str]]:
    """Returns the class id of each feature, `LEFT_OUT` for none, and lines on those that have none.

    Args:
        values: of the features, '' for NULL.
        table: the classes.
        field: of the values, for messages.
        given: the file of the table; None if there is none.

    Raises:
        ValueError: a value is not in the table, and what to do.
    """
    counts = collections.Counter(values)
    null = counts.pop("", 0)
    if unknown := {value: number for value, number in counts.most_common() if value not in table.class_id}:
        listed = ", ".join(
            f"{one_line(repr(value), 40)} ({number})" for value, number in list(unknown.items())[:_LISTED]
        )
        listed += f" and {len(unknown) - _LISTED} more" * (len(unknown) > _LISTED)
        example = f"{next(iter(unknown))},NAME,{colour_at(len(table.classes))}"
        if given:
            advice = f"add a row for each to {given}, such as {one_line(example, 60)}; one without a name leaves it unlabelled"
        else:
            advice = f"--write_classes classes.csv draws up a table of {','.join(COLUMNS)}, such as {one_line(example, 60)}; give it as --classes"
        where = f"no row of {given}" if given else "no class of Dynamic World's"
        raise ValueError(f"--field {field} has {len(unknown)} values that are {where}: {listed}; {advice}")
    lines = [f"{null} of {len(values)} features have no value of {field}, and no label"] * bool(null)
    for value, number in counts.items():
        if table.class_id[value] == LEFT_OUT:
            lines.append(f"{number} features of the value {one_line(repr(value), 40)} have no label, as {given} says")
    return np.array([table.class_id.get(value, LEFT_OUT) for value in values], np.int64), lines


def drawn_up(values: Sequence[str], field: str) -> str:
    """Draws up a table for values, one class each, the most frequent first, as text. Raises a ValueError if they are too many or none."""
    counts = collections.Counter(value for value in values if value)
    if not counts or len(counts) > MOST_VALUES:
        what = f"{len(counts):,} different values" if counts else "no value"
        raise ValueError(f"--field {field} has {what}, expected those of some classes; is it the field of the classes?")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    of_dynamic_world = dict(zip(bands.CLASSES, bands.CLASS_COLOURS, strict=True))
    for place, (value, _) in enumerate(counts.most_common()):
        table.writerow((value, value[:60], of_dynamic_world.get(_plain(value), colour_at(place))))
    return text.getvalue()


def colour_at(place: int) -> str:
    """A colour for each place; hues step by the golden section, which keeps any number of them apart, in three shades."""
    rgb = colorsys.hls_to_rgb((0.57 + 0.618034 * place) % 1, (0.5, 0.35, 0.68)[place % 3], 0.6)
    return "".join(f"{round(255 * part):02x}" for part in rgb)


def _plain(value: str) -> str:
    return re.sub(r"[\s_-]+", "_", value.casefold().replace("&", " and ").strip())
