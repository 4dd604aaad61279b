"""Command: what changed between two class maps of one place: a raster of changes, and hectares of each.

    python -m specsar_jax.change before.tif after.tif --output change.tif
    python -m specsar_jax.change maps/2023 maps/2024 --zones districts.gpkg --zone_field name --output change
    python -m specsar_jax.change a.tif b.tif --confidence 0.8 --before_probabilities pa.tif --after_probabilities pb.tif --output change.tif

Enters: two class maps of `predict`, or two regions' folders of `map_region`, of the same classes. Leaves: a raster of changes on the grid of
the first one, and beside it `change.csv`, `change.json` and, with zones, `change.zones.csv`; of maps with several UTM zones a folder with a
raster for each. `changes.pairs` lays the maps over each other.
"""

import argparse
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import rasterio

from specsar_jax.zones import options
from tfds_dwplus.command_line import Parser, note, path, run
from tfds_dwplus.files.opening import FLAG, FLAG_HELP, open_raster
from tfds_dwplus.files.workplaces import beside, workplace
from tfds_dwplus.vectors import vector_files

if TYPE_CHECKING:
    from specsar_jax.changes.outcome import Scored
    from specsar_jax.changes.pairs import Pair
    from specsar_jax.zones.map_parts import Mapped
    from specsar_jax.zones.polygons import Zones

_MOST_SUMS = 20_000_000
"""Areas of changes by zone that are kept in memory: 160 MB."""


def main(argv: list[str]) -> None:
    """Parses the arguments, compares and writes the raster and its tables."""
    args = _parser().parse_args(argv)
    _check(args)
    # Without zones the others are not used, and take 100 MB when they are imported.
    options.need_libraries(*["shapely"] * (args.zones is None))
    from specsar_jax.zones.counting import CACHE_BYTES  # which needs shapely

    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
        _compare(args)


def _check(args: argparse.Namespace) -> None:
    """Raises a ValueError if options do not go together."""
    if args.output.suffix.lower() not in (".tif", ".tiff", ""):
        raise ValueError(
            f"--output {args.output} ends in {args.output.suffix!r}, expected change.tif, or a folder, whose name has no ending"
        )
    if args.confidence is not None and not 0 <= args.confidence <= 1:
        raise ValueError(f"--confidence {args.confidence:g} is no probability, expected 0 to 1, such as 0.8")
    given = {
        "--zone_field": args.zone_field,
        "--layer": args.layer,
        "--zones_crs": args.zones_crs,
        "--mend": args.mend,
        vector_files.FLAG: args.any_vector_file,
    }
    if args.zones is None and any(given.values()):
        first = next(option for option, value in given.items() if value)
        raise ValueError(f"{first} is of --zones, which are not given; give --zones districts.gpkg, or leave it out")
    shares = (args.before_probabilities, args.after_probabilities)
    if args.confidence is not None and None in shares:
        raise ValueError(
            "--confidence asks how probable a change is; give --before_probabilities and --after_probabilities, rasters of predict "
            "--probabilities or --confidence"
        )
    if args.confidence is None and shares != (None, None):
        raise ValueError("probabilities are used with --confidence alone; give it, such as --confidence 0.8")
    if (args.before_evaluation is None) != (args.after_evaluation is None):
        raise ValueError(
            "one evaluation alone says nothing of change; give --before_evaluation and --after_evaluation, the same file twice if one "
            "network made both maps"
        )


def _compare(args: argparse.Namespace) -> None:
    from specsar_jax.changes import outcome, pairs  # which need shapely
    from specsar_jax.zones.map_parts import read_parts

    before, after = (read_parts(place, anywhere=args.any_vrt_source) for place in (args.before, args.after))
    shares = args.before_probabilities, args.after_probabilities
    sure = None if args.confidence is None else pairs.Sure(args.confidence, *shares)
    pair, lines = pairs.paired(before, after, sure)
    scored, of_scores = _read_evaluations(args, pair)
    zones, of_zones = _read_zones(args, pair)
    lines += [*of_scores, *of_zones]
    places = outcome.Places(args.output, pair, args.zones)
    given = (*shares, args.zones, args.before_evaluation, args.after_evaluation)
    read = [*filter(None, given), *itertools.chain(*map(_files, (before, after)))]
    places.check({place.resolve() for place in read})
    note(*lines)
    with workplace(beside(places.target), places.target, "--output") as work:
        told, more = outcome.write(pair, zones, scored, lines, work, places)
    note(*more)
    print(told)
    print(f"{args.output}: {'with' if places.folder else 'and'} {', '.join(places.tables.values())}")


def _files(mapped: "Mapped") -> list[Path]:
    """Returns the rasters of a map, and of virtual ones those that they are made of."""
    found = []
    for part in mapped.parts:
        with open_raster(part.path, anywhere=mapped.anywhere) as raster:
            found += [part.path, *map(Path, raster.files)]
    return found


def _read_zones(args: argparse.Namespace, pair: "Pair") -> tuple["Zones | None", list[str]]:
    if args.zones is None:
        return None, []
    from specsar_jax.zones.polygons import read_zones

    zones, lines = read_zones(args.zones, options.options_of(args))
    if len(zones.names) * pair.kinds > _MOST_SUMS:
        raise ValueError(
            f"{args.zones} has {len(zones.names):,} zones, each of {pair.kinds:,} kinds of change; give {_MOST_SUMS // pair.kinds:,} zones at "
            "most"
        )
    return zones, lines


def _read_evaluations(args: argparse.Namespace, pair: "Pair") -> tuple["Scored | None", list[str]]:
    """Reads the evaluations of both maps, if there are any; returns them, and what a reader should know."""
    if args.before_evaluation is None:
        return None, []
    from specsar_jax.changes.estimating import ASSUMPTION  # which brings JAX
    from specsar_jax.changes.outcome import Scored
    from specsar_jax.zones.correcting import read_evaluation

    first, lines = read_evaluation(args.before_evaluation, pair.before, "--before_evaluation")
    second, more = read_evaluation(args.after_evaluation, pair.after, "--after_evaluation")
    one_sample = first.path.read_bytes() == second.path.read_bytes()
    lines += [*more, ASSUMPTION]
    if first.labels and first.labels == second.labels and not one_sample:
        lines.append(
            "both evaluations are of the same labels, but the intervals take them for two samples, and may be too narrow"
        )
    lines.append(
        "the intervals take the labelled pixels for a random sample of each map; those of a tile resemble each other, so the intervals are "
        "too narrow"
    )
    return Scored(first.confusion, second.confusion, one_sample), lines


def _parser() -> Parser:
    parser = Parser(
        "Compares two class maps of one place: which class became which, where, and on how much ground.",
        "python -m specsar_jax.change before.tif after.tif --output change.tif",
    )
    add = parser.add_argument
    kinds = "class map of predict, mosaic_<zone>.vrt of map_region, or the folder of one of its regions"
    add("before", type=path, help=f"the earlier map, on whose grid they are compared: {kinds}")
    add("after", type=path, help="the later map, likewise, of the same classes")
    add(
        "--output",
        type=path,
        required=True,
        help="change.tif, a raster of changes with change.csv, change.json and others beside it; or a new folder for all of them",
    )
    options.add_zones(parser, required=False)
    add(
        "--confidence",
        type=float,
        help="probability that a change must have to be told, 0 to 1: that of the class before in the earlier map x that of the class "
        "after in the later one. The others are a code of their own and are counted",
    )
    add(
        "--before_probabilities", type=path, help="raster of predict --probabilities or --confidence of the earlier map"
    )
    add("--after_probabilities", type=path, help="that of the later map")
    add(
        "--before_evaluation",
        type=path,
        help="evaluation_<split>.json of the network that made the earlier map: with --after_evaluation areas of change are estimated, with "
        "95 %% intervals, if the errors of both maps are independent",
    )
    add("--after_evaluation", type=path, help="that of the later map; the same file if one network made both")
    add(FLAG, action="store_true", help=FLAG_HELP)
    return parser


if __name__ == "__main__":
    run(main)
