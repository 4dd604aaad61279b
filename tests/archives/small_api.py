"""A STAC API in a thread, of which each answer can be made to fail; for what `rustac` would not do."""

import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CONFORMS = [f"https://api.stacspec.org/v1.0.0/{part}" for part in ("core", "item-search", "collections")]


class SmallApi:
    """Items by collection, and a hook that may answer in place of the API: status, or status and headers, or None."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items, self.url = items, ""
        self.hook: Callable[[str, str, dict], int | tuple[int, dict[str, str]] | None] = lambda method, path, asked: (
            None
        )
        self.landing: dict[str, Any] = {"conformsTo": CONFORMS}
        self.links = (
            {"rel": "search", "href": "search", "type": "application/geo+json"},
            {"rel": "data", "href": "collections"},
        )
        self.asked: list[tuple[str, str, dict]] = []
        """Method, path and parameters of each request."""

    def answer(self, method: str, path: str, asked: dict) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON."""
        self.asked.append((method, path, asked))
        said = self.hook(method, path, asked)
        if said:
            status, headers = said if isinstance(said, tuple) else (said, {})
            return status, headers, {"message": "Internal server error"}
        if path == "/":
            tree = {
                "type": "Catalog",
                "id": "c",
                "description": "c",
                "stac_version": "1.0.0",
                "links": list(self.links),
            }
            return 200, {}, tree | self.landing
        if path.startswith("/collections/"):
            extent = {
                "spatial": {"bbox": [[-180, -90, 180, 90]]},
                "temporal": {"interval": [["2015-01-01T00:00:00Z", None]]},
            }
            known = {"type": "Collection", "id": path.split("/")[2], "stac_version": "1.0.0", "description": "c"}
            return 200, {}, known | {"license": "x", "links": [], "extent": extent}
        first = int(asked.get("token", 0))
        last = first + int(asked["limit"])
        link = {"rel": "next", "href": f"{self.url}/search", "method": "POST", "merge": True, "body": {"token": last}}
        if method == "GET":
            link = {"rel": "next", "href": f"{self.url}/search?{urllib.parse.urlencode(asked | {'token': last})}"}
        links = [link] if last < len(self.items) else []
        return 200, {}, {"type": "FeatureCollection", "features": self.items[first:last], "links": links}


@contextmanager
def api_served(items: list[dict[str, Any]]) -> Iterator[SmallApi]:
    api = SmallApi(items)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            place = urllib.parse.urlsplit(self.path)
            self.send("GET", place.path, dict(urllib.parse.parse_qsl(place.query)))

        def do_POST(self):
            self.send("POST", self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def send(self, method, path, asked):
            status, headers, tree = api.answer(method, path, asked)
            content = json.dumps(tree).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        api.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()


def item(name: str, when: str = "2019-06-05T10:00:00Z", **more: Any) -> dict[str, Any]:
    """An item of one square degree."""
    ring = [[15, 42], [16, 42], [16, 43], [15, 43], [15, 42]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "c",
        "bbox": [15, 42, 16, 43],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"datetime": when},
        "links": [],
        "assets": {},
    } | more
