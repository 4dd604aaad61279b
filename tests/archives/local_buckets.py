"""Buckets of Google Cloud Storage and S3 on loopback, behind a proxy that can be told to fail: `gs://box` and `s3://box`.

The servers are gcp-storage-emulator and moto, in processes of their own, so that commands that are started and stopped reach them.
"""

import contextlib
import http.client
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import portpicker

_GOOGLE = """
import sys
from gcp_storage_emulator.server import create_server
create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="box").run()
"""
_S3 = """
import sys
from moto.server import main
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"""


@dataclass
class Fault:
    """What happens to some requests."""

    method: str
    """Pattern of their method."""
    path: str
    """Pattern that is found in their path."""
    kind: int | str
    """HTTP code that is answered, or 'cut': the connection ends in the middle of the answer, 'refused': at once."""
    times: int = 1_000_000
    body: str = ""


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server, but for `faults`; keeps method and path of each."""

    daemon_threads = True

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", portpicker.pick_unused_port()), _Handler)
        self.upstream, self.faults, self.requests = upstream, list[Fault](), list[str]()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and re.fullmatch(fault.method, method) and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        server: Proxy = self.server  # type: ignore[assignment]
        server.requests.append(f"{self.command} {self.path}")
        body = self._body()
        fault = server.fault(self.command, self.path)
        if fault and fault.kind == "refused":
            self.close_connection = True
            return
        if fault and isinstance(fault.kind, int):
            self._answer(fault.kind, {"Content-Type": "text/plain"}, fault.body.encode())
            return
        upstream = http.client.HTTPConnection("127.0.0.1", server.upstream, timeout=60)
        headers = {
            k: v for k, v in self.headers.items() if k.lower() not in ("transfer-encoding", "content-length", "expect")
        }
        upstream.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
        answer = upstream.getresponse()
        content = answer.read()
        told = {
            k: v
            for k, v in answer.getheaders()
            if k.lower() not in ("content-length", "transfer-encoding", "connection")
        }
        for name in ("Location", "location"):  # of resumable uploads: back through here
            if name in told:
                told[name] = told[name].replace(f":{server.upstream}", f":{server.server_port}")
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        upstream.close()
        self._answer(answer.status, told, content, cut=bool(fault), length=length)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # of any method
            return self._pass_on
        raise AttributeError(name)

    def _body(self) -> bytes:
        if self.headers.get("Expect"):
            self.send_response_only(100)
            self.end_headers()
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(
        self, code: int, told: dict[str, str], content: bytes, *, cut: bool = False, length: str | None = None
    ) -> None:
        self.send_response_only(code)
        for name, value in told.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Buckets:
    """Both servers."""

    google: Proxy
    s3: Proxy

    def proxy(self, scheme: str) -> Proxy:
        return self.google if scheme == "gs" else self.s3

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which clients find them."""
        return {
            "STORAGE_EMULATOR_HOST": self.google.address,
            "AWS_ENDPOINT_URL": self.s3.address,
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextlib.contextmanager
def serving() -> Iterator[Buckets]:
    """Starts both servers, each with an empty bucket `box`."""
    ports, started = [portpicker.pick_unused_port() for _ in range(2)], []
    try:
        for script, port in zip((_GOOGLE, _S3), ports, strict=True):
            command = [sys.executable, "-W", "ignore", "-c", script, str(port)]
            started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        for port in ports:
            _wait_for(port)
        make = http.client.HTTPConnection("127.0.0.1", ports[1])
        make.request(
            "PUT",
            "/box",
            headers={"Authorization": "AWS4-HMAC-SHA256 Credential=someone/20260101/us-east-1/s3/aws4_request"},
        )
        make.getresponse().read()
        yield Buckets(Proxy(ports[0]), Proxy(ports[1]))
    finally:
        for process in started:
            process.kill()
            process.wait()


def _wait_for(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/")
            connection.getresponse().read()
            return
        time.sleep(0.1)
    raise TimeoutError(f"no server on port {port}")


def environ(buckets: Buckets) -> dict[str, str]:
    """The environment of a command that uses them."""
    return os.environ | buckets.environment
