"""Command: cut tiles with labels out of scenes, by polygons and points of a vector file.

python -m tfds_dwplus.cut --s2 june/ --s1 june_s1/ --labels fields.gpkg --field class --classes classes.csv --output tiles/
python -m tfds_dwplus.cut --labels fields.gpkg --field class --write_classes classes.csv

Enters: scenes as `predict` reads them, and a vector file with a field of classes. Leaves: a folder of tiles in the layout of
`tiles.tile_files`, for `prepare`, whole or not at all; or a first table of the classes. Ground of one split never touches that of another.
`vectors.cutting` does the work.
"""

import argparse

import numpy as np

from tfds_dwplus import bands
from tfds_dwplus.command_line import Parser, note, path, path_or_address, progress, run, whole_numbers
from tfds_dwplus.files.opening import FLAG, FLAG_HELP
from tfds_dwplus.files.outputs import output_claimed, write_whole
from tfds_dwplus.files.strangers import one_line
from tfds_dwplus.files.workplaces import check_new_folder, folder_written_whole
from tfds_dwplus.imagery.decoder.backscatter import UNITS
from tfds_dwplus.imagery.scenes import Reading
from tfds_dwplus.places.region_options import splits_of
from tfds_dwplus.vectors import value_table, vector_files
from tfds_dwplus.vectors.acquisitions import chosen_bands, paired
from tfds_dwplus.vectors.vector_files import read_vectors

TILE_SIZE_PX, BLOCK_M, GAP_M = 256, 5120.0, 100.0
"""Two tiles a side of a block of 10 m pixels; and a gap of the size of a field."""


def main(argv: list[str]) -> None:
    """Parses the arguments, and cuts the tiles or draws up a table."""
    args = _parser().parse_args(argv)
    try:
        import pyogrio  # noqa: F401
        import shapely  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(f"this command needs {error.name}: pip install 'specsar_jax[vectors]'") from None
    if args.write_classes:
        _draw_up(args)
    else:
        _cut(args)


def _draw_up(args: argparse.Namespace) -> None:
    if args.write_classes.exists():
        raise ValueError(f"{args.write_classes} is there already; remove it, or give another --write_classes")
    with output_claimed(args.write_classes, "--write_classes") as final:
        crs = args.labels_crs or "EPSG:4326"  # of no matter here
        vectors, _ = read_vectors(args.labels, args.layer, args.field, crs, anything=args.any_vector_file)
        write_whole(final, value_table.drawn_up(vectors.values, args.field))
    print(f"wrote {args.write_classes}; edit its names and colours, and give it as --classes")


def _cut(args: argparse.Namespace) -> None:
    from tfds_dwplus.vectors import cutting, telling  # which need shapely
    from tfds_dwplus.vectors.geometries import shapes_of

    _check(args)
    given = ("s2_offset", "s1_unit", "s2_bands", "s1_bands", "cloud_values", "any_vrt_source")
    reading = Reading(**{name: getattr(args, name) for name in given})
    acquisitions = paired(args.s2, args.s1, args.cloud_mask, args.date, reading)
    shares = splits_of(args.splits)
    if "train" not in dict(shares):
        raise ValueError(f"--splits {args.splits} has no train, from which a network learns; expected it among them")
    check_new_folder(args.output, "--output")
    table = value_table.read_table(args.classes) if args.classes else None
    vectors, lines = read_vectors(args.labels, args.layer, args.field, args.labels_crs, anything=args.any_vector_file)
    table = table or value_table.dynamic_world_table(vectors.values)
    class_id, more = value_table.class_ids(vectors.values, table, args.field, args.classes)
    there = np.flatnonzero(class_id != value_table.LEFT_OUT)
    if not len(there):
        raise ValueError(f"no feature of {args.labels} has a value of {args.field} that is a class; {'; '.join(more)}")
    shapes, odd = shapes_of(vectors.wkb, there, vectors.crs, str(args.labels), mend=args.mend)
    for line in (*lines, *more, *odd):
        note(line)
    if args.radius_m and not shapes.has_points:
        raise ValueError(f"--radius_m is of points, and {args.labels} has none with a class; leave it out")
    labels = cutting.Labels(shapes, class_id[shapes.feature], table.classes, args.radius_m)
    how = cutting.Cutting(
        args.tile_size_px,
        args.block_m,
        args.gap_m,
        shares,
        args.seed,
        one_line(args.annotator),
        chosen_bands(acquisitions, args.keep_bands),
    )
    with folder_written_whole(args.output, "--output") as folder:
        found = cutting.survey(acquisitions, labels, how, note)
        for line in telling.survey_lines(found, labels, how.gap_m):
            note(line)
        windows = sum(map(len, found.windows))
        with progress(total=windows, desc="cutting", unit="tile") as bar:
            summary = cutting.cut(acquisitions, labels, how, found, folder, bar)
    for line in telling.summary_lines(summary, labels.classes):
        note(line)
    print(telling.split_table(summary, labels.classes))
    blocks = sum(summary.blocks.values())
    print(f"{args.output}: {len(summary.records)} tiles of {blocks} blocks, {len(labels.classes)} classes")
    size = "" if summary.largest_px == 510 else f" --tile_size_px {max(summary.largest_px, 16)}"
    print(f"to pack them: python -m tfds_dwplus.prepare --tiles {args.output} --name NAME --data_dir data{size}")


def _check(args: argparse.Namespace) -> None:
    """Raises a ValueError if a number is out of its range, or something is missing."""
    if args.output is None:
        raise ValueError("--output is not given; expected the folder of tiles to make")
    for name, low, high in (
        ("tile_size_px", 16, 10_980),
        ("block_m", 10, 1_000_000),
        ("gap_m", 0, 1_000_000),
        ("radius_m", 0, 10_000),
        ("seed", 0, 2**32 - 1),
    ):
        if not low <= getattr(args, name) <= high:  # a NaN is not
            raise ValueError(f"--{name} is {getattr(args, name):g}, expected {low} to {high}")
    unknown = [name for name in args.keep_bands if name not in bands.S2_ALL_BANDS]
    if unknown or len(set(args.keep_bands)) < len(args.keep_bands):
        raise ValueError(
            f"--keep_bands is {','.join(args.keep_bands)}, expected some of {','.join(bands.S2_ALL_BANDS)}"
        )


def _parser() -> Parser:
    parser = Parser(
        "Cuts tiles with labels out of scenes, by polygons and points of a vector file.",
        "python -m tfds_dwplus.cut --s2 june/ --s1 june_s1/ --labels fields.gpkg --field class --classes classes.csv --output tiles/",
    )
    add = parser.add_argument
    scene = {"type": path_or_address, "nargs": "+", "action": "append", "default": [], "metavar": "PATH"}
    add(
        "--s2",
        **scene,
        help="Sentinel-2 of a day: file, or one per band; folder; SAFE folder or zip; URL. Again for each further day",
    )
    add(
        "--s1", **scene, help="Sentinel-1, likewise: the n-th --s1 belongs to the n-th --s2; one sensor alone is enough"
    )
    add(
        "--labels",
        type=path,
        required=True,
        help="GeoPackage, Shapefile, GeoJSON, FlatGeobuf or GeoParquet, polygons and points, any CRS",
    )
    add("--field", required=True, help="field of the classes")
    add("--layer", default="", help="layer of --labels, if it has several")
    add("--labels_crs", default="", help="CRS of --labels, as EPSG:4326, if the file does not say it, or wrongly")
    add(
        "--classes",
        type=path,
        help="table of value,name,colour; if not given, values are names of Dynamic World's classes",
    )
    add("--write_classes", type=path, help="only draw up such a table, of the values that there are, to be edited")
    add("--output", type=path, help="folder of tiles to make")
    add(
        "--radius_m",
        type=float,
        default=0.0,
        help="radius of the circles that points become; 0: a point is the pixel that it lies in",
    )
    add(
        "--mend",
        action="store_true",
        help="mend polygons that are not valid, such as those that cross themselves, by the even-odd rule",
    )
    add("--tile_size_px", type=int, default=TILE_SIZE_PX, help="largest side of a tile; blocks are divided evenly")
    add("--block_m", type=float, default=BLOCK_M, help="side of the squares of ground that are of one split, metres")
    add(
        "--gap_m",
        type=float,
        default=GAP_M,
        help="metres between two of them that are in no tile, so that splits do not touch",
    )
    add(
        "--splits",
        default="train=0.7,validation=0.15,test=0.15",
        help="splits, and their shares of the labelled pixels",
    )
    add("--seed", type=int, default=0, help="random seed of the splits")
    add(
        "--annotator",
        default="",
        help="who labelled, for tiles.csv: expert, non_expert or a name; 'unknown' if not given",
    )
    add(
        "--date",
        action="append",
        default=[],
        help="day of a scene, as 2023-06-30, once for each; from names of files if not given",
    )
    add(
        "--keep_bands",
        type=_bands,
        default=(),
        help="bands of Sentinel-2 to write; of Dynamic World+'s nine those there are if not given",
    )
    add(
        "--s2_offset",
        type=int,
        help="digital numbers to subtract, 1000 for baseline 04.00 and later; from the metadata if not given",
    )
    add("--s1_unit", choices=UNITS, default="db", help="unit of Sentinel-1; scaled: dB = 20 log10(DN) - 83")
    add(
        "--s2_bands",
        type=_bands,
        default=(),
        help="names of the bands of --s2, for files without names: B2,B3,-,B4; - skips a band",
    )
    add("--s1_bands", type=_bands, default=(), help="names of the bands of --s1, likewise: VV,VH")
    mask = "cloud mask of a scene, once for each: a raster on any grid, or a SAFE product with SCL; '' for none"
    add("--cloud_mask", type=path_or_address, action="append", default=[], help=mask)
    add(
        "--cloud_values",
        type=whole_numbers,
        default=(),
        help="values of cloud; default 3,8,9,10 for SCL, else all but 0",
    )
    add(FLAG, action="store_true", help=FLAG_HELP)
    add(vector_files.FLAG, action="store_true", help=vector_files.FLAG_HELP)
    return parser


def _bands(text: str) -> tuple[str, ...]:
    return tuple(bands.canonical_band(name) for name in text.split(",") if name.strip())


if __name__ == "__main__":
    run(main)
