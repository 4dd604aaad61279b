"""Legends of land-cover maps: the codes of each map, and which class each code stands for.

Those of public maps are of Dynamic World's nine classes; a map of a network of ours has its own, and `read_table` reads one of any
map for any classes. Enters: codes of a raster. Leaves: class ids, and 255 where there is nothing to score. A code is left out if none
of our classes matches it, or if several do and the map does not distinguish them; the reason stands beside it and is printed with
every result. Two codes of a legend may become one class. Where one code covers two of our classes, the legend merges these two, in
map and labels alike.
"""

import csv
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Integer, UInt8

from tfds_dwplus import bands
from tfds_dwplus.command_line import local_path
from tfds_dwplus.files.strangers import one_line

OWN = "own"
"""Name of the legend of a map that a network of the labels' classes made."""

_MOST_BYTES = 1 << 20
"""Of a table of codes."""


@dataclasses.dataclass(frozen=True)
class Code:
    """One code of a legend."""

    code: int
    called: str
    """Name of the code in the map's documentation."""
    becomes: str = ""
    """Name of our class that it stands for; empty if the code is left out."""
    reason: str = ""
    """Reason for a choice that is not obvious."""
    colour: str = ""
    """Hexadecimal red, green, blue of a table that gives it; to look at only."""


class Legend(NamedTuple):
    """The meaning of the codes of a map."""

    name: str
    title: str
    source: str
    codes: tuple[Code, ...]
    nodata: tuple[int, ...]
    """Codes for nodata, in addition to the nodata value that a file declares."""
    band_names: tuple[str, ...] = ()
    """Descriptions, in lower case, of the band to read from a file of several bands."""
    merged: tuple[tuple[str, str], ...] = ()
    """Pairs of our classes that the map does not distinguish: the second is counted as the first."""
    of_ids: bool = False
    """Whether the codes are class ids, as in our own maps."""


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


def _coded(*lines: tuple) -> tuple[Code, ...]:
    return tuple(Code(*line) for line in lines)


DYNAMIC_WORLD = Legend(
    "dynamic_world",
    "Dynamic World product, or a map of ours",
    "band `label` of GOOGLE/DYNAMICWORLD/V1 in the Earth Engine catalogue; Brown et al. 2022",
    tuple(Code(place, name, name) for place, name in enumerate(bands.CLASSES)),
    nodata=(bands.IGNORE,),
    band_names=("label", "land cover"),
    of_ids=True,
)

DYNAMIC_WORLD_LABELS = Legend(
    "dynamic_world_labels",
    "Label files of Dynamic World",
    "Tait et al. 2021, PANGAEA 10.1594/PANGAEA.933475",
    (
        Code(0, "unmarked", "", "not labelled"),
        *(Code(place + 1, name, name) for place, name in enumerate(bands.CLASSES)),
        Code(10, "cloud", "", "not a land cover"),
    ),
    nodata=(bands.IGNORE,),
    band_names=("lulc", "label"),
)

OF_DYNAMIC_WORLD = (DYNAMIC_WORLD, DYNAMIC_WORLD_LABELS)
"""Legends whose codes are the same numbers but for their base, which `check_base` looks at."""

WORLDCOVER = Legend(
    "worldcover",
    "ESA WorldCover 10 m, v100 (2020) and v200 (2021)",
    "Zanaga et al. 2022, 10.5281/zenodo.7254221; WorldCover Product User Manual v2.0, table 2",
    _coded(
        (10, "tree cover", "trees"),
        (20, "shrubland", "shrub_and_scrub"),
        (30, "grassland", "grass"),
        (40, "cropland", "crops"),
        (50, "built-up", "built"),
        (60, "bare / sparse vegetation", "bare"),
        (70, "snow and ice", "snow_and_ice"),
        (80, "permanent water bodies", "water"),
        (90, "herbaceous wetland", "flooded_vegetation"),
        (95, "mangroves", "flooded_vegetation", "they stand in tidal water"),
        (100, "moss and lichen", "", "no matching class"),
    ),
    nodata=(0, 255),
    band_names=("map",),
)

_ESRI = (
    (1, "water", "water"),
    (2, "trees", "trees"),
    (4, "flooded vegetation", "flooded_vegetation"),
    (5, "crops", "crops"),
    (7, "built area", "built"),
    (8, "bare ground", "bare"),
    (9, "snow / ice", "snow_and_ice"),
    (10, "clouds", "", "not a land cover"),
)

ESRI = Legend(
    "esri",
    "Esri / Impact Observatory 10 m, nine classes (2017 on)",
    "Karra et al. 2021; class definitions of arcgis.com item cfcb7609de5f478eb7666240902d4d3d",
    _coded(*_ESRI, (11, "rangeland", "grass", "grass and scrub in one; see below")),
    nodata=(0, 255),
    merged=(("grass", "shrub_and_scrub"),),
)

ESRI_2020 = Legend(
    "esri_2020",
    "Esri / Impact Observatory 10 m of 2020, the first edition, ten classes",
    "Karra et al. 2021, Global land use / land cover with Sentinel-2 and deep learning, IGARSS",
    tuple(
        sorted(
            _coded(*_ESRI, (3, "grass", "grass"), (6, "scrub / shrub", "shrub_and_scrub")), key=lambda code: code.code
        )
    ),
    nodata=(0, 255),
)

_CLC = (
    (111, "continuous urban fabric", "built"),
    (112, "discontinuous urban fabric", "built"),
    (121, "industrial or commercial units", "built"),
    (122, "road and rail networks and associated land", "built"),
    (123, "port areas", "built"),
    (124, "airports", "", "runways in grass"),
    (131, "mineral extraction sites", "bare", "open pits and quarries"),
    (132, "dump sites", "", "bare, built or grass"),
    (133, "construction sites", "", "bare or built, by the day"),
    (141, "green urban areas", "", "grass and trees in one"),
    (142, "sport and leisure facilities", "", "grass, trees and built in one"),
    (211, "non-irrigated arable land", "crops"),
    (212, "permanently irrigated land", "crops"),
    (213, "rice fields", "", "crops or flooded vegetation, by the season"),
    (221, "vineyards", "crops"),
    (222, "fruit trees and berry plantations", "", "crops by use, trees by cover"),
    (223, "olive groves", "", "crops by use, trees by cover"),
    (231, "pastures", "", "grass by cover, crops where fields are laid out"),
    (241, "annual crops associated with permanent crops", "crops"),
    (242, "complex cultivation patterns", "crops"),
    (243, "agriculture with significant areas of natural vegetation", "", "a mixture"),
    (244, "agro-forestry areas", "", "crops under trees"),
    (311, "broad-leaved forest", "trees"),
    (312, "coniferous forest", "trees"),
    (313, "mixed forest", "trees"),
    (321, "natural grasslands", "grass"),
    (322, "moors and heathland", "shrub_and_scrub"),
    (323, "sclerophyllous vegetation", "shrub_and_scrub"),
    (324, "transitional woodland-shrub", "shrub_and_scrub"),
    (331, "beaches, dunes, sands", "bare"),
    (332, "bare rocks", "bare"),
    (333, "sparsely vegetated areas", "", "vegetation on 10 to 50 %: bare, or scrub"),
    (334, "burnt areas", "", "the burnt cover is not given"),
    (335, "glaciers and perpetual snow", "snow_and_ice"),
    (411, "inland marshes", "flooded_vegetation"),
    (412, "peat bogs", "flooded_vegetation"),
    (421, "salt marshes", "flooded_vegetation"),
    (422, "salines", "", "water or bare, by the season"),
    (423, "intertidal flats", "", "water or bare, by the tide"),
    (511, "water courses", "water"),
    (512, "water bodies", "water"),
    (521, "coastal lagoons", "water"),
    (522, "estuaries", "water"),
    (523, "sea and ocean", "water"),
)

CORINE = Legend(
    "corine",
    "CORINE Land Cover, grid codes 1 to 44 or codes 111 to 523",
    "Kosztra et al. 2019, Updated CLC illustrated nomenclature guidelines; the grid codes are the classes counted through",
    (
        *(Code(place, *line[1:]) for place, line in enumerate(_CLC, start=1)),
        *_coded(*_CLC),
    ),
    # 48 to 50 are NODATA and two kinds of 'unclassified' as grid codes, 999, 990 and 995 the same.
    nodata=(0, 48, 49, 50, 128, 255, 990, 995, 999),
)

NLCD = Legend(
    "nlcd",
    "NLCD, United States",
    "Multi-Resolution Land Characteristics Consortium, National Land Cover Database class legend and description",
    _coded(
        (11, "open water", "water"),
        (12, "perennial ice / snow", "snow_and_ice"),
        (21, "developed, open space", "", "less than 20 % sealed: lawns, parks, large plots"),
        (22, "developed, low intensity", "built"),
        (23, "developed, medium intensity", "built"),
        (24, "developed, high intensity", "built"),
        (31, "barren land", "bare"),
        (41, "deciduous forest", "trees"),
        (42, "evergreen forest", "trees"),
        (43, "mixed forest", "trees"),
        (51, "dwarf scrub", "shrub_and_scrub"),
        (52, "shrub / scrub", "shrub_and_scrub"),
        (71, "grassland / herbaceous", "grass"),
        (72, "sedge / herbaceous", "grass"),
        (73, "lichens", "", "no matching class"),
        (74, "moss", "", "no matching class"),
        (81, "pasture / hay", "", "grass by cover, crops where fields are laid out"),
        (82, "cultivated crops", "crops"),
        (90, "woody wetlands", "", "trees or flooded vegetation, as the canopy hides the water"),
        (95, "emergent herbaceous wetlands", "flooded_vegetation"),
    ),
    nodata=(0, 127, 250, 255),
)

LEGENDS = {
    legend.name: legend for legend in (DYNAMIC_WORLD, DYNAMIC_WORLD_LABELS, WORLDCOVER, ESRI, ESRI_2020, CORINE, NLCD)
}
