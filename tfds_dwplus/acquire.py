"""Command: fetch Sentinel-2 and Sentinel-1 imagery, for Dynamic World labels or for places in a region, into a folder of tiles.

python -m tfds_dwplus.acquire --labels pangaea/ --workbook v1_dw_tile_metadata_for_public_release.xlsx --output tiles/
python -m tfds_dwplus.acquire --region area.geojson --tiles 500 --dates 2023-01-01 2023-12-31 --output tiles/

Enters: the published labels, or polygons in which places are drawn by lot; and an archive (a STAC API or Earth Engine). Leaves: a
folder of tiles in the layout of `tiles.tile_files`, and `manifest.jsonl`: one line per tile, done, skipped (the archive has no imagery)
or failed, with the reason. Tiles of a region have no `label/`: `label` makes it. A rerun does only what is not done. `tiles.acquiring`
does the work; `--dry_run` is done by `tiles.coverage`.
"""

import argparse
import shlex
from collections.abc import Sequence

from tfds_dwplus import bands
from tfds_dwplus.command_line import Parser, path, run
from tfds_dwplus.imagery.acquisitions import Wanted
from tfds_dwplus.imagery.archive_options import add_archive_options, s2_offset, stac_archive
from tfds_dwplus.imagery.earth_engine import EarthEngineArchive
from tfds_dwplus.labels.published import LabelTile, survey
from tfds_dwplus.places import region_options
from tfds_dwplus.tiles.acquiring import Task, acquire
from tfds_dwplus.tiles.coverage import describe_coverage


def main(argv: list[str]) -> None:
    """Parses the arguments and acquires the tiles."""
    args = _parser().parse_args(argv)
    region, choice = region_options.region_of(args) or (None, None)
    window = args.s2_window_days
    if window is None:
        window = choice.window_days if choice else Wanted.s2_window_days
    if min(args.workers, args.retries + 1, args.limit or 1, window + 1, args.s1_window_days + 1) < 1:
        raise ValueError("--workers and --limit are positive, --retries and the windows not negative")
    s2_bands = tuple(bands.canonical_band(name) for name in args.s2_bands.split(",") if name)
    if not s2_bands or set(s2_bands) - set(bands.S2_ALL_BANDS) or len(set(s2_bands)) < len(s2_bands):
        raise ValueError(f"--s2_bands is {args.s2_bands!r}, expected some of {','.join(bands.S2_ALL_BANDS)}")
    if args.s2_level == "L2A" and "B10" in s2_bands:
        raise ValueError(
            "--s2_bands has B10, which Sentinel-2 has at level L1C only; say --s2_level L1C or leave it out"
        )
    wanted = Wanted(
        args.s2_level,
        s2_bands,
        window,
        s2_offset(args),
        args.s1_orbit,
        args.s1_mean,
        args.s1_window_days,
        args.s2_offset_in_doubt,
    )
    sensors = choice.sensors if choice else ("s2", "s1")
    archive = stac_archive(args, sensors) if args.source == "stac" else EarthEngineArchive(args.earth_engine_project)
    task = Task(archive, wanted, args.retries + 1, choice=choice)
    tiles = _labelled(args) if choice is None else region_options.drawn(region, args.tiles, choice)
    tiles = tiles[: args.limit or None]
    if args.dry_run:
        print(describe_coverage(tiles, task, workers=args.workers))
        return
    beam_arguments = shlex.split(args.beam_args) if args.runner == "beam" else None
    acquire(tiles, task, args.output, workers=args.workers, beam_arguments=beam_arguments)


def _labelled(args: argparse.Namespace) -> Sequence[LabelTile]:
    found = survey(args.labels, args.workbook)
    if found.skipped:
        path, reason = found.skipped[0]
        print(f"{len(found.skipped)} files are not label tiles and are skipped, the first one {path}: {reason}")
    return found.tiles


def _parser() -> Parser:
    parser = Parser(
        "Fetches Sentinel-2 and Sentinel-1 for Dynamic World's labels, or for places drawn in a region. Started again, it does what is "
        "missing.",
        "python -m tfds_dwplus.acquire --region area.geojson --tiles 500 --dates 2023-01-01 2023-12-31 --output tiles/ --workers 16",
    )
    add = parser.add_argument
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--labels", type=path, nargs="+", help="zips of PANGAEA 933475 or Zenodo 4766508, or folders of them"
    )
    where.add_argument(
        "--region", type=path, help="GeoJSON file of polygons, degrees; tiles in it are drawn, without labels"
    )
    add("--workbook", type=path, help="v1_dw_tile_metadata_for_public_release.xlsx: Sentinel-2 products")
    add("--output", type=path, required=True, help="folder of tiles")
    region_options.add_region_options(parser)
    add("--source", choices=("stac", "earthengine"), default="stac", help="kind of archive")
    add_archive_options(parser)
    add("--s2_bands", default=",".join(Wanted.s2_bands), help="bands to fetch")
    add(
        "--s2_window_days",
        type=int,
        help="days between a label's date and a scene if its product is not known or not there, 0 if not given; days between the day "
        f"that is drawn for a tile of --region and a scene, {region_options.WINDOW_DAYS} if not given",
    )
    add("--s1_window_days", type=int, default=Wanted.s1_window_days, help="days before and after the tile's date")
    add("--earth_engine_project", default="", help="Google Cloud project, for --source earthengine")
    add("--workers", type=int, default=4, help="tiles at a time; threads mostly wait for the network")
    add("--retries", type=int, default=3, help="further attempts if the archive does not answer")
    add("--limit", type=int, help="acquire only this many tiles")
    add(
        "--dry_run",
        action="store_true",
        help="only count the scenes that the archive has, by sensor and orbit; reads no pixel",
    )
    add("--runner", choices=("threads", "beam"), default="threads", help="this machine, or Apache Beam")
    add("--beam_args", default="", help="pipeline options, as --beam_args='--runner=FlinkRunner --parallelism=50'")
    return parser


if __name__ == "__main__":
    run(main)
