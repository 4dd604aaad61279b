"""Command-line options for tiles that are drawn in a region, instead of those of labels.

Enters: parsed arguments. Leaves: the region and the `Choice` of tiles in it, and the tiles that are drawn.
"""

import argparse
import hashlib
import re
from collections.abc import Sequence
from typing import Any

from tfds_dwplus.files.strangers import MOST_JSON_BYTES, fault_of_name, read_bytes
from tfds_dwplus.imagery.archive_options import dates as dates_of
from tfds_dwplus.places.drawn_tile import Choice, DrawnTile

WINDOW_DAYS = 15
"""Default of --s2_window_days: about six acquisitions, of which the least cloudy is taken."""

_DEFAULTS = {
    "tile_size_px": 510,
    "seed": 0,
    "inside": 1.0,
    "splits": "train=0.8,validation=0.1,test=0.1",
    "sensors": "s2,s1",
    "max_cloud_percent": 10.0,
    "max_nodata_percent": 10.0,
}


def add_region_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options: number, size and splits of tiles, dates, seed, sensors, and which scenes are clear."""
    add = parser.add_argument_group("tiles drawn in --region").add_argument
    add("--tiles", type=int, help="number of tiles; more of them later keep the first ones")
    add("--dates", nargs=2, metavar=("FIRST", "LAST"), help="first and last day of Sentinel-2, YYYY-MM-DD")
    defaults = {name: f"; {value} if not given" for name, value in _DEFAULTS.items()}
    add("--tile_size_px", type=int, help=f"height and width of a tile, pixels of 10 m{defaults['tile_size_px']}")
    add("--seed", type=int, help=f"of the lot that draws places and days{defaults['seed']}")
    add("--inside", type=float, help=f"share of a tile that must lie in the region, above 0{defaults['inside']}")
    add("--splits", help=f"shares of the splits; their ground does not touch{defaults['splits']}")
    add(
        "--sensors",
        choices=("s2,s1", "s2"),
        metavar="SENSORS",
        help=f"s2, for networks that read no Sentinel-1, or s2,s1{defaults['sensors']}",
    )
    add(
        "--max_cloud_percent",
        type=float,
        help="of a tile's pixels, by the scene classification SCL; of the whole scene where an archive has none"
        + defaults["max_cloud_percent"],
    )
    add("--max_nodata_percent", type=float, help=f"of a tile's pixels, for each sensor{defaults['max_nodata_percent']}")


def region_of(args: argparse.Namespace) -> tuple[Any, Choice] | None:
    """Reads the region, a geometry of shapely, and the options. None if tiles are those of labels.

    Raises:
        ValueError: an option is missing or wrong, or does not go with the others; the file holds no region; shapely is not installed.
        OSError: the file cannot be read.
    """
    names = ("tiles", "dates", *_DEFAULTS)
    if args.region is None:
        given = [name for name in names if getattr(args, name) is not None]
        if given:
            raise ValueError(f"--{given[0]} goes with --region, but --labels is given; leave it out")
        return None
    missing = [name for name in ("tiles", "dates") if getattr(args, name) is None]
    if missing:
        raise ValueError(f"--region needs --{missing[0]}, as --tiles 500 --dates 2023-01-01 2023-12-31")
    if args.workbook:
        raise ValueError("--workbook goes with --labels, but --region is given; leave it out")
    if args.source != "stac":
        raise ValueError("--region takes STAC APIs only; leave out --source earthengine")
    for name, value in _DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name, low, high in (
        ("tiles", 1, 1_000_000),
        ("tile_size_px", 16, 10_980),
        ("seed", 0, 2**32 - 1),
        ("max_cloud_percent", 0, 100),
        ("max_nodata_percent", 0, 100),
    ):
        if not low <= getattr(args, name) <= high:
            raise ValueError(f"--{name} is {getattr(args, name):g}, expected {low} to {high}")
    if not 0 < args.inside <= 1:
        raise ValueError(f"--inside is {args.inside:g}, expected a share above 0, 1 at most")
    splits, dates = splits_of(args.splits), dates_of(args.dates, "--dates")
    try:
        import shapely

        from tfds_dwplus.places import blocks
    except ModuleNotFoundError as error:
        raise ValueError(f"--region needs {error.name}: pip install 'specsar_jax[acquire]'") from None
    region = blocks.from_geojson(read_bytes(args.region, MOST_JSON_BYTES), str(args.region))
    text = shapely.to_wkt(shapely.normalize(region), rounding_precision=7)
    return region, Choice(
        hashlib.sha256(text.encode()).hexdigest(),
        args.seed,
        args.tile_size_px,
        args.inside,
        splits,
        dates,
        WINDOW_DAYS if args.s2_window_days is None else args.s2_window_days,
        args.max_cloud_percent / 100,
        args.max_nodata_percent / 100,
        tuple(args.sensors.split(",")),
    )


def splits_of(text: str) -> tuple[tuple[str, float], ...]:
    """'train=0.8,test=0.2' -> (("train", 0.8), ("test", 0.2)). Raises a ValueError if it is not such, or the sum is not 1."""
    pairs = [part.partition("=") for part in text.split(",")]
    good = all(re.fullmatch(r"\w+", name) and not fault_of_name(name) for name, _, _ in pairs)
    good &= all(re.fullmatch(r"0?\.\d+|1(\.0*)?", share) and float(share) > 0 for _, _, share in pairs)
    good &= len({name for name, _, _ in pairs}) == len(pairs)
    if not good or abs(sum(float(share) for _, _, share in pairs) - 1) > 1e-6:
        raise ValueError(f"--splits is {text!r}, expected shares above 0 that make 1 together, as train=0.8,test=0.2")
    return tuple((name, float(share)) for name, _, share in pairs)


def drawn(region: Any, count: int, choice: Choice) -> Sequence[DrawnTile]:
    """Draws tiles, and prints how many were drawn of how many that fit. Raises a ValueError if the region holds none."""
    from tfds_dwplus.places import lots

    lot = lots.draw(region, count, choice)
    size = f"tiles of {choice.size_px} px"
    free = f", {lot.free} of which stay free between the splits" if lot.free else ""
    counts = ", ".join(f"{sum(tile.split == name for tile in lot.tiles)} {name}" for name, _ in choice.splits)
    fewer = f", all there are of the {count} asked for" if len(lot.tiles) < count else ""
    print(f"the region holds {lot.fit} {size}{free}; {len(lot.tiles)} are drawn{fewer}: {counts}")
    return lot.tiles
