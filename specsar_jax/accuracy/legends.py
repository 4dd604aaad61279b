"""Legends of land-cover maps: the codes of each map, and which class each code stands for.

Those of public maps are of Dynamic World's nine classes; a map of a network of ours has its own, and `read_table` reads one of any
map for any classes. Enters: codes of a raster. Leaves: class ids, and 255 where there is nothing to score. A code is left out if none
of our classes matches it, or if several do and the map does not distinguish them; the reason stands beside it and is printed with
every result. Two codes of a legend may become one class. Where one code covers two of our classes, the legend merges these two, in
map and labels alike.
"""

import csv
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int, Integer, UInt8

from specsar_jax.accuracy.public_legends import (
    DYNAMIC_WORLD,
    DYNAMIC_WORLD_LABELS,
    ESRI,
    ESRI_2020,
    LEGENDS,
    OF_DYNAMIC_WORLD,
    WORLDCOVER,
    Code,
    Legend,
)
from tfds_dwplus import bands
from tfds_dwplus.command_line import local_path
from tfds_dwplus.files.strangers import one_line

__all__ = [
    "DYNAMIC_WORLD",
    "DYNAMIC_WORLD_LABELS",
    "ESRI",
    "ESRI_2020",
    "LEGENDS",
    "OF_DYNAMIC_WORLD",
    "OWN",
    "WORLDCOVER",
    "Code",
    "Legend",
    "check_base",
    "class_ids",
    "find",
    "read_table",
    "table",
    "told_unknown",
]

OWN = "own"
"""Name of the legend of a map that a network of the labels' classes made."""

_MOST_BYTES = 1 << 20
"""Of a table of codes."""


def class_ids(
    codes: Integer[np.ndarray, "height width"], legend: Legend, classes: bands.Classes, name: str = "the raster"
) -> UInt8[np.ndarray, "height width"]:
    """Converts the codes of a map to class ids; 255 where a code is left out or nodata.

    Args:
        codes: codes of the raster; the file's own nodata value must be in `legend.nodata`, or be replaced by one of those.
        legend: legend of the map.
        classes: the classes, whose names the legend has.
        name: name of the raster for the error message.

    Raises:
        ValueError: a code is not in the legend.
    """
    known = {
        code.code: classes.names.index(code.becomes) if code.becomes else bands.IGNORE for code in legend.codes
    } | dict.fromkeys(legend.nodata, bands.IGNORE)
    found, places = np.unique(codes, return_inverse=True)
    unknown = [int(code) for code in found if int(code) not in known]
    if unknown:
        raise ValueError(f"{name} holds {told_unknown(unknown, legend)}")
    ids = np.array([known[int(code)] for code in found], np.uint8)
    return ids[places].reshape(codes.shape)


def check_base(joint: Int[np.ndarray, "code label"], legend: Legend, name: str) -> None:
    """Raises a ValueError if the codes of a Dynamic World map seem to start at 0 though its legend says 1, or the reverse.

    Codes of the product start at 0, those of a label file at 1, and both have codes 1 to 8. Only missing codes and the labels
    tell them apart. Refused are: a map read from 0 without water though the labels have some, and a map read from 1 that has
    zeros but neither snow nor cloud; both only if they agree with more labels when read the other way.

    Args:
        joint: labelled pixels by code of the map, 0 to 10, and class id of the label.
        legend: legend of the map; only the two of Dynamic World are checked.
        name: name of the raster for the error message.
    """
    right = {DYNAMIC_WORLD.name: int(np.trace(joint[:9])), DYNAMIC_WORLD_LABELS.name: int(np.trace(joint[1:10]))}
    if legend is DYNAMIC_WORLD:
        missing, is_missing, other = (
            "code 0 (water)",
            joint[0].sum() == 0 and joint[:, 0].sum() > 0,
            DYNAMIC_WORLD_LABELS,
        )
    elif legend is DYNAMIC_WORLD_LABELS:
        missing, is_missing, other = "codes 9 and 10", joint[9:].sum() == 0 and joint[0].sum() > 0, DYNAMIC_WORLD
    else:
        return
    if is_missing and right[other.name] > right[legend.name]:
        raise ValueError(
            f"{name} is without {missing}, and agrees with {right[other.name]} labelled pixels if it is read as {other.name}, with "
            f"{right[legend.name]} as {legend.name}; it seems to count from {0 if other is DYNAMIC_WORLD else 1}: "
            f"give --legend {other.name}"
        )


def find(name: str, classes: bands.Classes) -> Legend:
    """Returns a legend for the classes of the labels.

    Args:
        name: one of `LEGENDS`, `OWN` for a map of a network of these classes, or a file of `read_table`, which ends in .csv.
        classes: of the labels.

    Raises:
        ValueError: there is none of that name; it is of Dynamic World's classes, and the labels have others.
    """
    if name.lower().endswith(".csv"):
        return read_table(local_path(name), classes)
    if name != OWN and name not in LEGENDS:
        raise ValueError(
            f"no legend {name!r}, expected one of {', '.join(LEGENDS)}, {OWN} or a table of codes, codes.csv"
        )
    if classes.names == bands.CLASSES:
        return LEGENDS.get(name, DYNAMIC_WORLD)
    if name != OWN:
        raise ValueError(
            f"legend {name} is of Dynamic World's classes, the labels have {one_line(', '.join(classes.names), 200)}; give --legend "
            f"{OWN} for a map of a network of these classes, or a table of the map's codes, --legend codes.csv with the columns value,name"
        )
    codes = tuple(Code(place, text, text) for place, text in enumerate(classes.names))
    what = "Map of a network of these classes"
    return Legend(OWN, what, "", codes, (bands.IGNORE,), DYNAMIC_WORLD.band_names, of_ids=True)


def read_table(path: Path, classes: bands.Classes | None) -> Legend:
    """Reads the legend of a map from a table with the columns value and name: codes, and the class that each stands for.

    A code without a name is left out of the score. Upper and lower case of names are alike. There may be a third column, colour.

    Args:
        path: the table.
        classes: whose names may stand in it; None for any names.

    Raises:
        ValueError: no such file, other columns, a value that is no whole number or is there twice, a name that is no class, a colour that
            is none.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, expected at most {_MOST_BYTES:,}")
        rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if row]
        header = [text.strip().lower().replace("colour", "color") for text in rows[0]] if rows else []
        if header not in (["value", "name"], ["value", "name", "color"]):
            raise ValueError(f"its columns are {one_line(','.join(rows[0] if rows else []), 80)}, expected value,name")
        folded = {name.casefold(): name for name in classes.names} if classes else None
        becomes, colours = dict[int, str](), dict[int, str]()
        for row in rows[1:]:
            value, name, *more = (text.strip() for text in row) if len(row) == len(header) else ("", "")
            if not value.removeprefix("-").isdecimal() or len(value) > 9 or int(value) in becomes:
                raise ValueError(f"row {one_line(','.join(row), 80)}, expected a whole number, each once, and a name")
            if name and folded is not None and name.casefold() not in folded:
                there = one_line(", ".join(folded.values()), 200)
                raise ValueError(
                    f"{one_line(name, 60)!r} is no class of the labels; they have {there}, or leave it empty"
                )
            colour = "".join(more).removeprefix("#").lower()
            if colour and not re.fullmatch(r"[0-9a-f]{6}", colour):
                raise ValueError(f"value {value} has the colour {one_line(colour, 20)!r}, expected one such as 419bdf")
            becomes[int(value)], colours[int(value)] = (folded or {}).get(name.casefold(), name), colour
        if not any(becomes.values()):
            raise ValueError("no value stands for a class")
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"table of a legend {path}: {told}") from None
    nodata = next(value for value in (bands.IGNORE, *range(-1, -len(becomes) - 2, -1)) if value not in becomes)
    codes = tuple(
        Code(value, name or "(left out)", name, "", colours[value]) for value, name in sorted(becomes.items())
    )
    return Legend(path.name, f"Map with the codes of {path.name}", str(path), codes, (nodata,))


def table(legend: Legend, pixels: Mapping[int, int]) -> str:
    """Formats a legend as text: one line for each code that occurs, with its meaning, its class and its share of the pixels.

    Args:
        legend: legend of the map.
        pixels: number of pixels of each code.
    """
    lines, total = [f"{legend.title}, read as:"], max(sum(pixels.values()), 1)
    for code in legend.codes:
        if pixels.get(code.code):
            share = 100 * pixels[code.code] / total
            lines.append(
                f"  {code.code:4d}  {code.called:56s} {code.becomes or '(left out)':19s} {share:5.1f} %  {code.reason}"
            )
    nothing = sum(pixels.get(code, 0) for code in legend.nodata)
    lines += [f"  no data {100 * nothing / total:80.1f} %"] * (nothing > 0)
    lines += [f"  {first} and {second} are counted as one class, {first}" for first, second in legend.merged]
    return "\n".join(line.rstrip() for line in lines)


def told_unknown(unknown: list[int], legend: Legend) -> str:
    """Says which codes of a map its legend lacks, and what to do, after the words "FILE holds"."""
    codes = sorted(code.code for code in legend.codes)
    known = (
        f"{codes[0]} to {codes[-1]}" if codes == list(range(codes[0], codes[-1] + 1)) else ", ".join(map(str, codes))
    )
    named = ", ".join(map(str, unknown[:9])) + ", ..." * (len(unknown) > 9)
    line = (
        f"the code{'s' * (len(unknown) > 1)} {named}, which legend {legend.name} does not have; it has {known}, and "
        f"{', '.join(map(str, legend.nodata))} for nodata"
    )
    if legend is DYNAMIC_WORLD and set(unknown) <= {9, 10}:
        return (
            f"{line}. Label files of Dynamic World count from 1: give --legend {DYNAMIC_WORLD_LABELS.name} if it is one"
        )
    if legend.name not in LEGENDS:
        to_table = "" if legend.name == OWN else ", add them to it (without a name they are left out)"
        return f"{line}. Give another --legend{to_table}, or declare the file's nodata"
    return f"{line}. Give another --legend ({', '.join(LEGENDS)}), or declare the file's nodata"
