"""Command: hectares of each class of a map in each polygon of a vector file, with uncertainty if there is an evaluation.

    python -m specsar_jax.areas map.tif --zones districts.gpkg --zone_field name --output areas.csv
    python -m specsar_jax.areas maps/region --zones districts.gpkg --evaluation runs/a/evaluation_test.json --output areas.html

Enters: a class map of `predict`, or a region's folder of `map_region`, and polygons in any CRS. Leaves: a table of the zones, CSV or
GeoParquet, or a page with a map of them. `zones.counting` does the work.
"""

import argparse
from pathlib import Path

import rasterio

from specsar_jax.zones import options
from tfds_dwplus.command_line import Parser, note, path, progress, run
from tfds_dwplus.files.addresses import shown_in
from tfds_dwplus.files.opening import FLAG, FLAG_HELP
from tfds_dwplus.files.outputs import output_claimed, write_together

ENDINGS = (".csv", ".parquet", ".html")


def main(argv: list[str]) -> None:
    """Parses the arguments, measures and writes the table or page."""
    args = _parser().parse_args(argv)
    if args.output.suffix.lower() not in ENDINGS:
        raise ValueError(
            f"--output {args.output} ends in {args.output.suffix or 'nothing'!r}, expected one of {', '.join(ENDINGS)}: a table, GeoParquet or a page"
        )
    options.need_libraries()
    from specsar_jax.zones.counting import CACHE_BYTES  # which needs shapely

    with output_claimed(args.output, "--output") as final, rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
        _measure(args, final, argv)


def _measure(args: argparse.Namespace, final: Path, argv: list[str]) -> None:
    from specsar_jax.zones import correcting, counting, tables  # which need shapely
    from specsar_jax.zones.map_parts import read_parts
    from specsar_jax.zones.polygons import read_zones

    mapped = read_parts(args.map, anywhere=args.any_vrt_source)
    evaluation, lines = (
        correcting.read_evaluation(args.evaluation, mapped) if args.evaluation is not None else (None, [])
    )
    zones, more = read_zones(args.zones, options.options_of(args))
    note(*lines, *more)
    pixels = sum(part.grid.height * part.grid.width for part in mapped.parts)
    with progress(total=pixels, desc="measuring", unit="px", unit_scale=True) as bar:
        counted, together = counting.count(mapped, zones, bar.update)
    lines, estimates = options.told_of_cover(counted, args.zones), None
    if evaluation:
        estimates, more = correcting.corrected(together.classes[0], evaluation, mapped, len(zones.names))
        lines += more
    note(*lines)
    written: dict[Path, str | bytes] = {}
    ending = args.output.suffix.lower()
    if ending == ".html":
        from specsar_jax.zones import page

        made = ["python", "-m", "specsar_jax.areas", *map(shown_in, argv)]
        written[final] = page.render(mapped, zones, counted, together, estimates, lines, made)
    else:
        written[final] = (
            tables.zones_csv(zones.names, counted, mapped.classes)
            if ending == ".csv"
            else tables.geoparquet(zones, counted, mapped.classes)
        )
        if estimates:
            written[final.with_name(f"{final.stem}.corrected.csv")] = tables.corrected_csv(estimates)
    write_together(written)
    print(tables.told(together, mapped.classes, estimates))
    others = "".join(f", and {place.name} for all of them together" for place in list(written)[1:])
    print(f"{args.output}: {len(zones.names)} zone{'s' * (len(zones.names) != 1)}{others}")


def _parser() -> Parser:
    parser = Parser(
        "Measures the area of each class of a map in each zone.",
        "python -m specsar_jax.areas map.tif --zones districts.gpkg --zone_field name --output areas.csv",
    )
    add = parser.add_argument
    add(
        "map",
        type=path,
        help="class map of predict, mosaic_<zone>.vrt of map_region, or the folder of one of its regions",
    )
    options.add_zones(parser, required=True)
    add(
        "--evaluation",
        type=path,
        help="evaluation_<split>.json of the network that made the map: corrects the areas of all zones together, with 95 %% intervals",
    )
    add(
        "--output",
        type=path,
        required=True,
        help="areas.csv, areas.parquet (GeoParquet) or areas.html; with --evaluation a table gets another one beside it, areas.corrected.csv",
    )
    add(FLAG, action="store_true", help=FLAG_HELP)
    return parser


if __name__ == "__main__":
    run(main)
