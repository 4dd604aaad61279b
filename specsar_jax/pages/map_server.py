"""The local web server of `specsar_jax.view`: serves the page, tiles of the map and its imagery, and figures of a pixel or a view.

The page requests nothing from other servers, and this server serves only the given map and the files of the page.
"""

import importlib.resources
import json
import math
import re
from typing import Any
from urllib.parse import parse_qs

from specsar_jax.pages.local_server import LocalServer
from specsar_jax.pages.viewed import OpenMap

PORT = 8617
"""Default port, used if it is free and none is given."""

CACHE_BYTES = 256 * 2**20
"""Size of GDAL's block cache, bytes (for rasterio; GDAL itself counts megabytes). Its default is a twentieth of the memory."""


def answer(shown: OpenMap, files: dict[str, tuple[str, bytes]], target: str) -> tuple[str, bytes] | None:
    """Returns content type and body of the response to a request; None if there is nothing at that address.

    Args:
        shown: the map.
        files: content type and body of the files of the page, by path.
        target: path and query of the request.

    Raises:
        ValueError: the query is malformed.
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
    if tile := re.fullmatch(r"/(map/(?P<hidden>\d{1,20})|imagery)/(\d{1,2})/(\d{1,8})/(\d{1,8})\.png", path):
        z, x, y = map(int, tile.groups()[2:])
        low, high = shown.zooms
        if low <= z <= high and max(x, y) < 2**z and (tile["hidden"] or shown.imagery):
            picture = shown.map_tile(z, x, y, int(tile["hidden"])) if tile["hidden"] else shown.imagery_tile(z, x, y)
            return "image/png", picture
    return None


_HEADERS = (
    ("Cache-Control", "no-store"),  # the next map may have the same port
    ("X-Content-Type-Options", "nosniff"),
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)


def listen(shown: OpenMap, files: dict[str, tuple[str, bytes]], host: str, port: int | None) -> LocalServer:
    """Opens the server of a map, by default on PORT, or on a free port if that is taken. Raises ValueError if it cannot listen."""
    try:
        return LocalServer(lambda target: answer(shown, files, target), host, PORT if port is None else port, _HEADERS)
    except OSError as error:
        if port is None:
            return listen(shown, files, host, 0)
        raise ValueError(
            f"cannot listen on {host}, port {port}: {error.strerror}; give another --port, or none for a free one"
        ) from None


def page_files() -> dict[str, tuple[str, bytes]]:
    """Reads the files of the page and of Leaflet. Raises a ValueError if the extra `view` is not installed."""
    try:
        import rio_tiler.reader  # noqa: F401

        leaflet = importlib.resources.files("xstatic.pkg.leaflet") / "data"
    except ImportError as error:
        raise ValueError(f"specsar_jax.view needs {error.name}: pip install 'specsar_jax[view]'") from None
    own = importlib.resources.files("specsar_jax.pages")
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
