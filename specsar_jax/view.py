"""Command: shows a map in the browser, over the imagery it was made from.

    python -m specsar_jax.view map.tif
    python -m specsar_jax.view map.tif --s2 s2.tif --probabilities probabilities.tif

Enters: a class map of `specsar_jax.predict`; optionally the scene and the class probabilities. Leaves: a local web page with the
classes, their areas in view and the probabilities of a clicked pixel, until Ctrl-C. The page loads nothing from other servers, and
the server serves only the given files. rio-tiler reads the picture tiles, Leaflet shows them.

A map that is not georeferenced is shown as if its pixels of 10 m lay on the equator; its areas are in pixels.
Needs the extra `view`.
"""

import webbrowser

import rasterio

from specsar_jax.pages.map_server import CACHE_BYTES, PORT, listen, page_files
from specsar_jax.pages.viewed import open_map
from tfds_dwplus.command_line import Parser, path_or_address, run
from tfds_dwplus.files.addresses import shown as shown_address
from tfds_dwplus.files.opening import FLAG, FLAG_HELP


def main(argv: list[str]) -> None:
    """Parses the arguments and serves the page."""
    parser = Parser(
        "Shows a map in the browser, over its imagery, until Ctrl-C.",
        "python -m specsar_jax.view map.tif --s2 s2.tif --probabilities probabilities.tif",
    )
    parser.add_argument("map", type=path_or_address, help="class map of specsar_jax.predict")
    parser.add_argument(
        "--s2",
        type=path_or_address,
        nargs="+",
        default=[],
        metavar="PATH",
        help="Sentinel-2: a file, or one per band; a SAFE folder or zip",
    )
    parser.add_argument("--s2_bands", default="", help="names of the bands of --s2, for files without names: B2,B3,B4")
    parser.add_argument(
        "--probabilities", type=path_or_address, metavar="PATH", help="raster of the map's class probabilities"
    )
    parser.add_argument("--port", type=int, help=f"port of the page; if not given {PORT} or a free one; 0: a free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on; 0.0.0.0 lets other machines connect")
    parser.add_argument("--open", action="store_true", help="open the browser")
    parser.add_argument(FLAG, action="store_true", help=FLAG_HELP)
    args = parser.parse_args(argv)
    if args.port is not None and not 0 <= args.port < 2**16:
        raise ValueError(f"--port is {args.port}, expected 0 to 65535")
    names = tuple(name.strip() for name in args.s2_bands.split(",") if name.strip())
    files = page_files()
    with (
        rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES),
        open_map(args.map, args.s2, args.probabilities, names, any_vrt_source=args.any_vrt_source) as shown,
        listen(shown, files, args.host, args.port) as server,
    ):
        host = "127.0.0.1" if args.host in ("0.0.0.0", "") else args.host
        address = f"http://{host}:{server.server_port}/"
        print(f"{shown_address(args.map)}: {address} (Ctrl-C ends)", flush=True)
        if args.open:
            webbrowser.open(address)
        server.serve_forever()


if __name__ == "__main__":
    run(main)
