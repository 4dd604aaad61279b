"""What the commands that measure zones have in common: their arguments, and what they tell.

Enters: the arguments of a command. Leaves: how its vector file is read; lines on how the zones lie in the map. The libraries of the extra
`areas` are imported when they are needed.
"""

import argparse
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from tfds_dwplus.command_line import Parser, path
from tfds_dwplus.vectors import vector_files

if TYPE_CHECKING:
    from specsar_jax.zones.counting import Counted
    from specsar_jax.zones.polygons import Options


def add_zones(parser: Parser, *, required: bool) -> None:
    """Adds the arguments of zones."""
    add = parser.add_argument
    add(
        "--zones",
        type=path,
        required=required,
        help="polygons of any CRS: GeoPackage, Shapefile, GeoJSON, FlatGeobuf or GeoParquet. They may overlap",
    )
    add(
        "--zone_field",
        default="",
        metavar="NAME",
        help="field of the zones' names; if not given, they are numbered from 1",
    )
    add("--layer", default="", help="layer of --zones, if it has several")
    add("--zones_crs", default="", help="CRS of --zones, as EPSG:4326, in place of what the file says")
    add(
        "--mend",
        action="store_true",
        help="mend polygons that are not valid, by the even-odd rule, rather than refuse them",
    )
    add(vector_files.FLAG, action="store_true", help=vector_files.FLAG_HELP.replace("--labels", "--zones"))


def need_libraries(*names: str) -> None:
    """Raises a ValueError if a library of the extra `areas` is missing, of those that are named, or any."""
    for needed in names or ("exactextract", "pyogrio", "pyarrow", "shapely"):
        try:
            importlib.import_module(needed)
        except ModuleNotFoundError as error:
            raise ValueError(f"this command needs {error.name}: pip install 'specsar_jax[areas]'") from None


def options_of(args: argparse.Namespace) -> "Options":
    """Returns how the vector file of zones is read."""
    from specsar_jax.zones.polygons import Options

    return Options(args.layer, args.zone_field, args.zones_crs, args.mend, args.any_vector_file)


def told_of_cover(counted: "Counted", zones: Path) -> list[str]:
    """Tells how many zones the map does not cover."""
    away = int((counted.mapped + counted.nodata == 0).sum())
    partly = int((counted.outside > 0).sum()) - away
    number = len(counted.outside)
    lines = [f"{away} of {number} zones of {zones} have no part in the map"] * bool(away)
    return lines + [
        f"{partly} of {number} zones of {zones} lie in the map in part; the rest of them counts as outside"
    ] * bool(partly)
