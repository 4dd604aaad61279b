"""The local web server of `specsar_jax.view`: serves the page, tiles of the map and its imagery, and figures of a pixel or a view.

The page requests nothing from other servers, and this server serves only what is shown and the files of the page.
"""

import importlib.resources
import json
import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from specsar_jax.pages.local_server import LocalServer
from specsar_jax.viewer import PORT
from specsar_jax.viewer.shown import Drawing, Shown

CACHE_BYTES = 256 * 2**20
"""Size of GDAL's block cache, bytes (for rasterio; GDAL itself counts megabytes). Its default is a twentieth of the memory."""


def answer(shown: Shown, files: dict[str, tuple[str, bytes]], target: str) -> tuple[str, bytes] | None:
    """Returns content type and body of the response to a request; None if there is nothing at that address.

    Args:
        shown: what the page shows.
        files: content type and body of the files of the page, by path.
        target: path and query of the request.

    Raises:
        ValueError: the query is malformed.
    """
    path, _, query = target.partition("?")
    if path in files:
        return files[path]
    asked = {name: texts[0] for name, texts in parse_qs(query).items()}
    if path == "/about.json":
        return _json(shown.about())
    if path == "/pixel.json":
        return _json(shown.pixel(*_numbers(asked, "lon", "lat")))
    if path == "/areas.json":
        (sure,) = _numbers({"sure": "0"} | asked, "sure")
        return _json(shown.areas(_numbers(asked, "west", "south", "east", "north"), sure / 100))
    if path == "/polygon.json":
        return _json(shown.in_polygon(_corners(asked.get("corners", ""))))
    if tile := re.fullmatch(r"/tiles/([a-z]{1,20})/(\d{1,2})/(\d{1,8})/(\d{1,8})\.png", path):
        layer, *place = tile.groups()
        picture = shown.tile(layer, tuple(map(int, place)), _drawing(asked))
        return None if picture is None else ("image/png", picture)
    return None


_KINDS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
}

_HEADERS = (
    ("Cache-Control", "no-store"),  # the next map may have the same port
    ("X-Content-Type-Options", "nosniff"),
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)


def listen(shown: Shown, files: dict[str, tuple[str, bytes]], host: str, port: int | None) -> LocalServer:
    """Opens the server of what is shown, by default on PORT, or on a free port if that is taken. Raises ValueError if it cannot listen."""
    try:
        return LocalServer(lambda target: answer(shown, files, target), host, PORT if port is None else port, _HEADERS)
    except OSError as error:
        if port is None:
            return listen(shown, files, host, 0)
        raise ValueError(
            f"cannot listen on {host}, port {port}: {error.strerror}; give another --port, or none for a free one"
        ) from None


def page_files() -> dict[str, tuple[str, bytes]]:
    """Reads the files of the page and of Leaflet, by path."""
    leaflet = importlib.resources.files("xstatic.pkg.leaflet") / "data"
    own = importlib.resources.files("specsar_jax.viewer") / "page"
    pages = {f"/{file.name}": file for file in own.iterdir()} | {
        "/": own / "index.html",
        "/leaflet.js": leaflet / "leaflet.js",
        "/leaflet.css": leaflet / "leaflet.css",
    }
    return {path: (_KINDS[file.name.rpartition(".")[2]], file.read_bytes()) for path, file in pages.items()}


def _json(value: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(value).encode()


def _drawing(asked: Mapping[str, str]) -> Drawing:
    hidden, class_id = asked.get("hidden", "0"), asked.get("class", "0")
    if not re.fullmatch(r"\d{1,20}", hidden, re.ASCII) or not re.fullmatch(r"\d{1,2}", class_id, re.ASCII):
        raise ValueError("expected hidden and class as whole numbers")
    (sure,) = _numbers({"sure": "0"} | asked, "sure")
    return Drawing(int(hidden), sure / 100, asked.get("colours") == "safe", int(class_id))


def _corners(text: str) -> list[tuple[float, float]]:
    """Parses 'lon,lat;lon,lat;...'."""
    corners = [part.split(",") for part in text.split(";")]
    if any(len(corner) != 2 for corner in corners):
        raise ValueError("expected corners as lon,lat;lon,lat;lon,lat")
    return [(float(lon), float(lat)) for lon, lat in corners]


def _numbers(asked: Mapping[str, str], *names: str) -> tuple[float, ...]:
    values = tuple(float(asked.get(name, "nan")) for name in names)
    if not all(map(math.isfinite, values)):
        raise ValueError(f"expected {', '.join(names)} as numbers")
    return values
