"""A model hub on loopback: what huggingface_hub asks when it makes a repository, uploads a folder and downloads a file."""

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Hub:
    """Files of its repositories, by name, and what was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        self.address = ""


@contextlib.contextmanager
def served() -> Iterator[Hub]:
    """A hub at `address`, as long as it lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.hub.asked.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = self.path.split("?")[0].strip("/").split("/")
        if self.headers.get("Authorization") != "Bearer hf_owner":
            return self._answer(401, {"error": "who are you?"})
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization', 'owner')}/{asked['name']}"
            self.hub.repositories.setdefault(name, {})
            self.hub.private[name] = asked.get("private", False) or asked.get("visibility") == "private"
            return self._answer(200, {"url": f"{self.hub.address}/{name}", "name": name})
        if parts == ["api", "validate-yaml"]:
            return self._answer(200, {"errors": [], "warnings": []})
        name = "/".join(parts[2:4])
        if parts[4] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        assert parts[4] == "commit", self.path
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.hub.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        oid = self._commit(name)
        return self._answer(
            200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.address}/{name}/commit/{oid}"}
        )

    def do_GET(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        owner, name, *rest = self.path.split("?")[0].strip("/").split("/")
        name = f"{owner}/{name}"
        files = self.hub.repositories.get(name)
        if files is None or rest[:1] != ["resolve"]:
            return self._answer(404, {"error": "no such repository"}, {"X-Error-Code": "RepoNotFound"})
        if rest[1] not in ("main", self._commit(name)):
            return self._answer(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        if rest[2] not in files:
            return self._answer(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})
        content = files[rest[2]]
        etag = hashlib.sha256(content).hexdigest()
        return self._answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": self._commit(name)})

    do_HEAD = do_GET  # noqa: N815 (as http.server wants it)

    def _commit(self, name: str) -> str:
        """The revision of what is there."""
        files = self.hub.repositories[name]
        return hashlib.sha1(b"".join(path.encode() + files[path] for path in sorted(files))).hexdigest()

    def _answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""
