"""Command: shows maps in the browser, over the imagery they were made from.

    python -m specsar_jax.view map.tif --s2 s2.tif --probabilities shares.tif
    python -m specsar_jax.view june.tif --compare august.tif
    python -m specsar_jax.view map.tif --compare worldcover.tif --compare_legend worldcover

Enters: a class map of `specsar_jax.predict`, or one of another legend; optionally a second map on any grid, the scene, the class
probabilities or confidences. Leaves: a local web page until Ctrl-C, with a line to swipe, where two maps agree, the areas in view and in a
drawn polygon, and how the map was made. The page loads nothing from other servers, and the server serves only the given files. rio-tiler
reads the picture tiles, Leaflet shows them.

A map that is not georeferenced is shown as if its pixels of 10 m lay on the equator; its areas are in pixels.
Needs the extra `view`.
"""

import importlib
import webbrowser

import rasterio

from specsar_jax.viewer import PORT
from tfds_dwplus.command_line import Parser, path_or_address, run
from tfds_dwplus.files.addresses import shown as shown_address
from tfds_dwplus.files.opening import FLAG, FLAG_HELP

_LEGENDS = "worldcover, esri, corine, nlcd and so on as evaluate --legend, or codes.csv with the columns value,name and perhaps colour"


def main(argv: list[str]) -> None:
    """Parses the arguments and serves the page."""
    args = _parser().parse_args(argv)
    if args.port is not None and not 0 <= args.port < 2**16:
        raise ValueError(f"--port is {args.port}, expected 0 to 65535")
    if args.compare_legend and not args.compare:
        raise ValueError(f"--compare_legend {args.compare_legend} is of a second map; give that too, --compare PATH")
    for needed in ("rio_tiler", "xstatic.pkg.leaflet", "exactextract", "shapely"):
        try:
            importlib.import_module(needed)
        except ModuleNotFoundError as error:
            raise ValueError(f"specsar_jax.view needs {error.name}: pip install 'specsar_jax[view]'") from None
    from specsar_jax.viewer.map_server import CACHE_BYTES, listen, page_files  # which need shapely
    from specsar_jax.viewer.opening import Given, open_shown

    given = Given(
        map=args.map,
        legend=args.legend,
        compare=args.compare,
        compare_legend=args.compare_legend,
        s2=args.s2,
        s2_bands=tuple(name.strip() for name in args.s2_bands.split(",") if name.strip()),
        probabilities=args.probabilities,
        confidence=args.confidence,
        any_vrt_source=args.any_vrt_source,
    )
    with (
        rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES),
        open_shown(given) as shown,
        listen(shown, page_files(), args.host, args.port) as server,
    ):
        host = "127.0.0.1" if args.host in ("0.0.0.0", "") else args.host
        address = f"http://{host}:{server.server_port}/"
        print(f"{shown_address(args.map)}: {address} (Ctrl-C ends)", flush=True)
        if args.open:
            webbrowser.open(address)
        server.serve_forever()


def _parser() -> Parser:
    parser = Parser(
        "Shows maps in the browser, over their imagery, until Ctrl-C.",
        "python -m specsar_jax.view map.tif --s2 s2.tif --probabilities shares.tif",
    )
    add = parser.add_argument
    add("map", type=path_or_address, help="class map of specsar_jax.predict, or with --legend any other")
    add("--legend", default="", metavar="NAME_OR_CSV", help=f"legend of another kind of map: {_LEGENDS}")
    add("--compare", type=path_or_address, metavar="PATH", help="a second map, on any grid, to swipe to")
    add("--compare_legend", default="", metavar="NAME_OR_CSV", help="legend of --compare, as --legend")
    add(
        "--s2",
        type=path_or_address,
        nargs="+",
        default=[],
        metavar="PATH",
        help="Sentinel-2: a file, or one per band; a SAFE folder or zip",
    )
    add("--s2_bands", default="", help="names of the bands of --s2, for files without names: B2,B3,B4")
    add(
        "--probabilities",
        type=path_or_address,
        metavar="PATH",
        help="raster of the map's class probabilities: fades unsure pixels, shows a class as a heat map",
    )
    add(
        "--confidence",
        type=path_or_address,
        metavar="PATH",
        help="raster of the map's confidence: fades unsure pixels",
    )
    add("--port", type=int, help=f"port of the page; if not given {PORT} or a free one; 0: a free one")
    add("--host", default="127.0.0.1", help="address to serve on; 0.0.0.0 lets other machines connect")
    add("--open", action="store_true", help="open the browser")
    add(FLAG, action="store_true", help=FLAG_HELP)
    return parser


if __name__ == "__main__":
    run(main)
