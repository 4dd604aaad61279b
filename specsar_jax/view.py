"""Command: a map in the browser, over the imagery it was made of.

    python -m specsar_jax.view map.tif
    python -m specsar_jax.view map.tif --s2 s2.tif --probabilities probabilities.tif

Enters: a class map of `specsar_jax.predict`; as far as given, the scene and the class probabilities. Leaves: a local web page
with the classes, their areas in view and the probabilities of a pixel that is clicked, until Ctrl-C. The page asks nobody but
this server, and this server gives nothing but the files it was told. rio-tiler cuts the pictures, Leaflet moves them.

A map that does not know its place is shown too, as if its pixels of 10 m lay on the equator; areas are in pixels then.
Needs the extra `view`.
"""

import importlib.resources
import json
import math
import re
import sys
import webbrowser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import rasterio
from rasterio.errors import RasterioError

from specsar_jax.viewed import OpenMap, open_map
from tfds_dwplus.command_line import Parser, run

PORT = 8617
"""Where the page is if no port is asked for and this one is free."""

CACHE_BYTES = 256 * 2**20
"""What GDAL may keep of the files; its own choice is a twentieth of the machine's memory. In rasterio, and only there, in bytes."""


def main(argv: list[str]) -> None:
    """Parses the arguments and serves the page."""
    parser = Parser(
        "Shows a map in the browser, over its imagery, until Ctrl-C.",
        "python -m specsar_jax.view map.tif --s2 s2.tif --probabilities probabilities.tif",
    )
    parser.add_argument("map", help="class map of specsar_jax.predict")
    parser.add_argument(
        "--s2", nargs="+", default=[], metavar="PATH", help="Sentinel-2: files, one or one a band; a SAFE folder or zip"
    )
    parser.add_argument("--s2_bands", default="", help="names of the bands, of files that do not tell: B2,B3,B4")
    parser.add_argument("--probabilities", metavar="PATH", help="class probabilities of the map")
    parser.add_argument("--port", type=int, help=f"of the page; if not given {PORT}, or a free one; 0 for a free one")
    parser.add_argument("--host", default="127.0.0.1", help="whom to serve; 0.0.0.0 serves all who reach this machine")
    parser.add_argument("--open", action="store_true", help="open the browser")
    args = parser.parse_args(argv)
    if args.port is not None and not 0 <= args.port < 2**16:
        raise ValueError(f"--port is {args.port}, expected 0 to 65535")
    names = tuple(name.strip() for name in args.s2_bands.split(",") if name.strip())
    files = _files()
    with (
        rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES),
        open_map(args.map, args.s2, args.probabilities, names) as shown,
        _listen(shown, files, args.host, args.port) as server,
    ):
        host = "127.0.0.1" if args.host in ("0.0.0.0", "") else args.host
        address = f"http://{host}:{server.server_port}/"
        print(f"{args.map}: {address} (Ctrl-C ends)", flush=True)
        if args.open:
            webbrowser.open(address)
        server.serve_forever()


def answer(shown: OpenMap, files: dict[str, tuple[str, bytes]], target: str) -> tuple[str, bytes] | None:
    """Type and body of what is at an address of the server; None if nothing is.

    Args:
        shown: the map.
        files: of the page, by path: type and body.
        target: path and query.

    Raises:
        ValueError: the query is not one.
    """
    path, _, query = target.partition("?")
    if path in files:
        return files[path]
    if path == "/about.json":
        return _json(shown.about())
    if path == "/point.json":
        return _json(shown.point(*_numbers(query, "lon", "lat")))
    if path == "/areas.json":
        return _json(shown.areas(_numbers(query, "west", "south", "east", "north")))
    if tile := re.fullmatch(r"/(map/(?P<hidden>\d{1,3})|imagery)/(\d{1,2})/(\d{1,8})/(\d{1,8})\.png", path):
        z, x, y = map(int, tile.groups()[2:])
        if z <= 24 and max(x, y) < 2**z and (tile["hidden"] or shown.imagery):
            picture = shown.map_tile(z, x, y, int(tile["hidden"])) if tile["hidden"] else shown.imagery_tile(z, x, y)
            return "image/png", picture
    return None


class _Handler(BaseHTTPRequestHandler):
    """Gives what `answer` gives."""

    protocol_version = "HTTP/1.1"  # tiles come over few connections
    server: "_Server"

    def do_GET(self) -> None:
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if self.server.local and host not in ("127.0.0.1", "localhost"):
            # A page of the web that has its own name point to this machine is not to read the map.
            return self._send(403, "text/plain", b"ask for 127.0.0.1 or localhost")
        try:
            found = answer(self.server.shown, self.server.files, self.path)
        except ValueError as error:
            return self._send(400, "text/plain", str(error).encode())
        except (RasterioError, OSError) as error:
            print(f"note: {self.server.shown.name} cannot be read any more: {error}", file=sys.stderr)
            return self._send(500, "text/plain", b"a file cannot be read any more")
        return self._send(200, *found) if found else self._send(404, "text/plain", b"nothing here")

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, text in (*_HEADERS, ("Content-Type", kind), ("Content-Length", str(len(body)))):
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: a line a tile is of no use."""


_HEADERS = (
    ("Cache-Control", "no-store"),  # the next map may have the same port
    ("X-Content-Type-Options", "nosniff"),
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)


class _Server(ThreadingHTTPServer):
    def __init__(self, address: tuple[str, int], shown: OpenMap, files: dict[str, tuple[str, bytes]]) -> None:
        super().__init__(address, _Handler)
        self.shown, self.files, self.local = shown, files, address[0] in ("127.0.0.1", "localhost")

    def handle_error(self, *_: Any) -> None:
        """Browsers hang up on tiles that they no longer need."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*_)


def _listen(shown: OpenMap, files: dict[str, tuple[str, bytes]], host: str, port: int | None) -> _Server:
    try:
        return _Server((host, PORT if port is None else port), shown, files)
    except OSError as error:
        if port is None:
            return _listen(shown, files, host, 0)
        raise ValueError(
            f"cannot listen on {host}, port {port}: {error.strerror}; give another --port, or none for a free one"
        ) from None


def _files() -> dict[str, tuple[str, bytes]]:
    """The page and Leaflet. Raises a ValueError if the extra is not installed."""
    try:
        import rio_tiler.reader  # noqa: F401

        leaflet = importlib.resources.files("xstatic.pkg.leaflet") / "data"
    except ImportError as error:
        raise ValueError(f"specsar_jax.view needs {error.name}: pip install 'specsar_jax[view]'") from None
    own = importlib.resources.files("specsar_jax")
    kinds = {
        "html": "text/html; charset=utf-8",
        "js": "text/javascript; charset=utf-8",
        "css": "text/css; charset=utf-8",
    }
    pages = {
        "/": own / "view.html",
        "/view.js": own / "view.js",
        "/view.css": own / "view.css",
        "/leaflet.js": leaflet / "leaflet.js",
        "/leaflet.css": leaflet / "leaflet.css",
    }
    return {path: (kinds[file.name.rpartition(".")[2]], file.read_bytes()) for path, file in pages.items()}


def _json(value: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(value).encode()


def _numbers(query: str, *names: str) -> tuple[float, ...]:
    given = parse_qs(query)
    values = tuple(float(given.get(name, ["nan"])[0]) for name in names)
    if not all(map(math.isfinite, values)):
        raise ValueError(f"expected {', '.join(names)} as numbers")
    return values


if __name__ == "__main__":
    run(main)
