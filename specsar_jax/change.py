"""Command: what changed between two class maps of one place: a raster of changes, and hectares of each.

    python -m specsar_jax.change before.tif after.tif --output change.tif
    python -m specsar_jax.change maps/2023 maps/2024 --zones districts.gpkg --zone_field name --output change
    python -m specsar_jax.change a.tif b.tif --confidence 0.8 --before_probabilities pa.tif --after_probabilities pb.tif --output change.tif

Enters: two class maps of `predict`, or two regions' folders of `map_region`, of the same classes. Leaves: a raster of changes on the grid of
the first one, and beside it `change.csv`, `change.json` and, with zones, `change.zones.csv`; of maps with several UTM zones a folder with a
raster for each. `changes.pairs` lays the maps over each other.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rasterio

from specsar_jax.version import __version__
from specsar_jax.zones import options
from tfds_dwplus.command_line import Parser, path, progress, run
from tfds_dwplus.files.opening import FLAG, FLAG_HELP
from tfds_dwplus.files.outputs import check_output, write_together
from tfds_dwplus.files.workplaces import beside, check_new_folder, take_place, workplace

if TYPE_CHECKING:
    from specsar_jax.changes.pairs import Pair
    from specsar_jax.zones.correcting import Evaluation
    from specsar_jax.zones.polygons import Zones

_MOST_SUMS = 20_000_000
"""Areas of changes by zone that are kept in memory: 160 MB."""


def main(argv: list[str]) -> None:
    """Parses the arguments, compares and writes the raster and its tables."""
    args = _parser().parse_args(argv)
    _check(args)
    options.need_libraries()
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
    from specsar_jax.changes import pairs
    from specsar_jax.zones.map_parts import read_parts
    from specsar_jax.zones.polygons import read_zones

    before, after = (read_parts(place, anywhere=args.any_vrt_source) for place in (args.before, args.after))
    sure = None
    if args.confidence is not None:
        sure = pairs.Sure(args.confidence, args.before_probabilities, args.after_probabilities)
    pair, lines = pairs.paired(before, after, sure)
    evaluated, more = _read_evaluations(args, pair)
    lines += more
    zones = None
    if args.zones is not None:
        zones, more = read_zones(args.zones, options.options_of(args))
        lines += more
        if len(zones.names) * pair.kinds > _MOST_SUMS:
            raise ValueError(
                f"{args.zones} has {len(zones.names):,} zones, each of {pair.kinds:,} kinds of change; give "
                f"{_MOST_SUMS // pair.kinds:,} zones at most"
            )
    whole = not args.output.suffix
    if len(pair.parts) > 1 and not whole:
        raise ValueError(
            f"{before.path} has {len(pair.parts)} rasters, of UTM zones of their own, --output {args.output} is one; give a folder, whose "
            "name has no ending"
        )
    _note(*lines)
    (check_new_folder if whole else check_output)(args.output, "--output")
    target = args.output if whole else args.output.resolve()
    if target in [part.path.resolve() for mapped in (before, after) for part in mapped.parts]:
        raise ValueError(f"--output {args.output} is one of the maps; give another name")
    with workplace(beside(target), target, "--output") as work:
        _write(args, pair, zones, evaluated, lines, work, target)


def _read_evaluations(args: argparse.Namespace, pair: "Pair") -> tuple["list[Evaluation]", list[str]]:
    """Reads the evaluations of both maps, or none; returns them, and what a reader should know."""
    from specsar_jax.changes.estimating import ASSUMPTION
    from specsar_jax.zones.correcting import read_evaluation

    if args.before_evaluation is None:
        return [], []
    first, lines = read_evaluation(args.before_evaluation, pair.before, "--before_evaluation")
    second, more = read_evaluation(args.after_evaluation, pair.after, "--after_evaluation")
    lines += [*more, ASSUMPTION]
    if first.labels and first.labels == second.labels and not _alike(args):
        lines.append(
            "both evaluations are of the same labels, but the intervals take them for two samples, and may be too narrow"
        )
    lines.append(
        "the intervals take the labelled pixels for a random sample of each map; those of a tile resemble each other, so the intervals are "
        "too narrow"
    )
    return [first, second], lines


def _alike(args: argparse.Namespace) -> bool:
    """Whether both evaluations are one."""
    return args.before_evaluation.read_bytes() == args.after_evaluation.read_bytes()


def _write(
    args: argparse.Namespace,
    pair: "Pair",
    zones: "Zones | None",
    evaluated: "list[Evaluation]",
    lines: list[str],
    work: Path,
    target: Path,
) -> None:
    """Compares the maps in a folder of work and gives what is finished its name."""
    from specsar_jax.changes import comparing, estimating, tables
    from specsar_jax.changes.change_files import Raster
    from specsar_jax.zones.counting import count_codes

    rasters, sums, of_zones, estimated = [], [], None, None
    pixels = sum(part.grid.height * part.grid.width for part in pair.parts)
    with progress(total=pixels * (2 if zones else 1), desc="comparing", unit="px", unit_scale=True) as bar:
        for number, part in enumerate(pair.parts):
            rasters.append(Raster(work / f"raster_{number}", part.grid, pair.classes, _tags(pair)))
            with rasters[-1].written() as write:
                sums.append(comparing.compare(pair, part, write, bar.update))
        compared = comparing.added(sums)
        if not compared.total:
            raise ValueError(f"no pixel has a class in both {args.before} and {args.after}; give two maps of one place")
        if zones:
            counted, _ = count_codes(pair.codes, zones, bar.update)
            of_zones = zones.names, counted
    late = options.told_of_cover(counted, args.zones) if zones else []
    if compared.before_alone or compared.after_alone:
        late.append(
            f"{compared.before_alone:,.1f} ha have a class in {args.before} alone and {compared.after_alone:,.1f} ha in {args.after} alone: "
            "they are not compared"
        )
    if evaluated:
        matrices = [evaluation.confusion for evaluation in evaluated]
        estimated = estimating.estimates(compared.mapped, *matrices, one_sample=_alike(args))
        if estimated["unsampled_share"] > 0:
            late.append(
                f"{100 * estimated['unsampled_share']:.3g} % of the compared area is not in the estimates: fewer than two labelled pixels are "
                "mapped as one of its classes"
            )
    _note(*late)
    unsure = pair.sure is not None
    texts = {
        ".csv": tables.change_csv(compared, pair.classes, estimated, unsure=unsure),
        ".json": tables.change_json(compared, pair.classes, of_zones, estimated, _facts(pair, [*lines, *late])),
    }
    if of_zones:
        texts[".zones.csv"] = tables.zones_csv(*of_zones, pair.classes, unsure=unsure)
    whole = not args.output.suffix
    folder, stem = (work / target.name, "change") if whole else (target.parent, target.stem)
    if whole:
        folder.mkdir()
    shown = set().union(*(raster.found for raster in rasters))
    for part, raster in zip(pair.parts, rasters, strict=True):
        zone = f"_{part.utm_zone}" if part.utm_zone else ""
        raster.publish(folder / f"{stem}{zone}.tif" if whole else target, shown)
    write_together({folder / f"{stem}{ending}": text for ending, text in texts.items()})
    if whole:
        take_place(folder, target, work)
    print(tables.told(compared, pair.classes, estimated, args.confidence))
    print(f"{args.output}: {'with ' if whole else 'and '}{', '.join(f'{stem}{ending}' for ending in texts)}")


def _tags(pair: "Pair") -> dict[str, str]:
    """Tags of the rasters: what the codes mean, and of which maps they are."""
    number = len(pair.classes)
    tags = {
        "software": f"specsar_jax {__version__}",
        "codes": f"class before x {number} + class after; {number**2}: a change that is not sure enough",
        "before": pair.before.path.resolve().name,
        "after": pair.after.path.resolve().name,
    }
    for when, mapped in (("before", pair.before), ("after", pair.after)):
        if mapped.weights_sha256:
            tags[f"{when}_weights_sha256"] = mapped.weights_sha256
    if pair.sure:
        tags["confidence"] = str(pair.sure.least)
    return tags


def _facts(pair: "Pair", lines: list[str]) -> dict[str, Any]:
    """What the tables are of."""
    facts: dict[str, Any] = {"before": str(pair.before.path), "after": str(pair.after.path)}
    if pair.sure:
        facts |= {
            "confidence": pair.sure.least,
            "probability": "of the class before in the earlier map x of the class after in the later one",
        }
    return facts | {"notes": lines}


def _note(*lines: str) -> None:
    for line in lines:
        print(f"note: {line}", file=sys.stderr)


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
