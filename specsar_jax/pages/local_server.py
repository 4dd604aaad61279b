"""A small web server for one user of this machine, which strangers on the network may also reach.

Enters: a function that answers a path, and a port to listen on. Leaves: HTTP/1.1 over connections that stay open, as a page loads many
tiles over a few of them.

Connections cost no thread: one event loop holds them, at most `MOST_CONNECTIONS`, and gives requests to `WORKERS` threads; the others
wait. Who says nothing, or reads nothing, is hung up on. `serve_forever` ends when no thread is at work any more, so that no file is read while Python ends.
"""

import asyncio
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tfds_dwplus.files.addresses import shown_in

Answer = tuple[str, bytes]
"""Content type and body."""

WORKERS = min(max(os.cpu_count() or 1, 2), 8)
"""Requests that are answered at once. Each may take some ten megabytes."""

MOST_CONNECTIONS = 128
"""A browser opens six."""

MOST_HEAD_BYTES, MOST_HEADERS = 16 * 2**10, 64
"""Of the request line and the headers together."""

IDLE_S, HEAD_S, ANSWER_S, SEND_S = 60.0, 5.0, 60.0, 30.0
"""How long to wait: for the next request of a connection, for all of its head, for an answer, and for its receiver."""

_ROUNDS = 4
"""Times that connections come in while the server ends; more of them come only if someone knocks without end."""

LOOPBACK = ("127.0.0.1", "localhost")


class RefusedError(ValueError):
    """A request that is not answered."""

    def __init__(self, status: int, message: str) -> None:
        """Keeps the status beside the message."""
        super().__init__(message)
        self.status = status


class Request(NamedTuple):
    """What is read of a request."""

    method: str
    target: str
    """Path and query."""
    stays: bool
    """Whether the connection stays open."""


def request_of(head: bytes, hosts: tuple[str, ...]) -> Request:
    """Parses the head of a request.

    Args:
        head: request line and headers.
        hosts: names that a browser may have asked for; empty for any.

    Raises:
        RefusedError: it is malformed, asks for another host or has a body.
    """
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    parts = re.fullmatch(r"([A-Z]{1,16}) ([!-~]+) HTTP/1\.([01])", first)
    if parts is None:
        raise RefusedError(400, "expected a request such as GET / HTTP/1.1")
    method, target, minor = parts.groups()
    if len(lines) > MOST_HEADERS:
        raise RefusedError(431, "too many headers")
    headers: dict[str, list[str]] = {}
    for line in lines:
        found = re.fullmatch(r"([A-Za-z0-9!#$%&'*+.^_`|~-]+):[ \t]*([^\x00-\x08\x0a-\x1f]*?)[ \t]*", line)
        if found is None:
            raise RefusedError(400, "malformed header")
        headers.setdefault(found[1].lower(), []).append(found[2])
    if method not in ("GET", "HEAD"):
        raise RefusedError(405, "expected GET")
    if headers.keys() & {"transfer-encoding"} or headers.get("content-length", ["0"]) != ["0"]:
        raise RefusedError(400, "a body is not expected")
    asked = headers.get("host", [])
    if len(asked) > 1 or (minor == "1" and not asked):
        raise RefusedError(400, "expected one Host")
    host = asked[0] if asked else ""
    if absolute := re.fullmatch(
        r"(?i:http)://([^/?#]*)(.*)", target
    ):  # its host counts, not the header: RFC 9112, 3.2.2
        host, target = absolute[1], absolute[2] if absolute[2].startswith("/") else f"/{absolute[2]}"
    name = re.fullmatch(r"([\w.~-]*|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?", host, re.ASCII)
    if name is None or not target.startswith("/"):
        raise RefusedError(400, "malformed address")
    if hosts and name[1].lower() not in hosts:
        # Against DNS rebinding: a website whose name resolves to this machine must not read the map.
        raise RefusedError(403, f"ask for {' or '.join(hosts)}")
    return Request(method, target, minor == "1" and "close" not in ",".join(headers.get("connection", [])).lower())


class LocalServer:
    """Listens from the start; answers while `serve_forever` runs. To be closed after use, `with` does."""

    def __init__(self, answer: Callable[[str], Answer | None], host: str, port: int, headers: tuple = ()) -> None:
        """Opens the port.

        Args:
            answer: takes path and query, from any thread; None where there is nothing, a ValueError for a malformed query.
            host: address to listen on.
            port: 0 for a free one.
            headers: pairs of name and text that every response has.

        Raises:
            OSError: the port is taken, or the host is not of this machine.
        """
        self._answer, self._headers = answer, headers
        self._hosts = LOOPBACK if host in LOOPBACK else ()
        self._socket = socket.create_server((host, port), backlog=MOST_CONNECTIONS)
        self.server_port: int = self._socket.getsockname()[1]
        self._waiting: dict[asyncio.StreamWriter, None] = {}  # connections without a request, for longest first
        self._taken: dict[asyncio.Task, asyncio.StreamWriter] = {}  # all connections
        self._open: set[asyncio.Task] = set()  # those that have begun
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = False
        self._signals: list[int] = []

    def __enter__(self) -> "LocalServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.server_close()

    def server_close(self) -> None:
        """Closes the port."""
        self._socket.close()

    def serve_forever(self) -> None:
        """Answers until `shutdown`, or until SIGTERM or SIGINT, whose handler is called then. Threads at work are waited for."""
        self._pool = ThreadPoolExecutor(WORKERS, "answer")
        handlers = {}
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        # A handler that raises would do so anywhere in the loop.
        for number in handlers:
            signal.signal(number, lambda number, _: self._signals.append(number) or self.shutdown())
        try:
            asyncio.run(self._serve())
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self._signals and callable(handlers[self._signals[0]]):
            handlers[self._signals[0]](self._signals[0], None)

    def shutdown(self) -> None:
        """Ends `serve_forever`, from any thread."""
        self._ended = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._take, sock=self._socket.dup(), limit=MOST_HEAD_BYTES)
        try:
            if not self._ended:
                await self._stop.wait()
        finally:
            # What is accepted comes in first: of a server that is closed asyncio would leave it open.
            for _ in range(_ROUNDS):
                await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task(), *self._taken}))
            server.close()
            taken = dict(self._taken)
            for task in taken:
                task.cancel()
            await asyncio.gather(*taken, return_exceptions=True)
            for writer in taken.values():
                writer.transport.abort()  # of a task that was cancelled before it began, nothing is closed yet

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes a connection, and knows of it at once: one that comes while the server ends is closed too."""
        task = self._loop.create_task(self._connection(reader, writer))
        self._taken[task] = writer
        task.add_done_callback(self._taken.pop)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the requests of a connection, one after the other."""
        task = asyncio.current_task()
        if len(self._open) >= MOST_CONNECTIONS:
            if not self._waiting:
                writer.transport.abort()
                return
            longest = next(iter(self._waiting))
            del self._waiting[longest]
            longest.transport.abort()  # who asks goes before who only holds a line
        self._open.add(task)
        writer.transport.set_write_buffer_limits(high=0)  # so that `drain` waits for the receiver
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            pass  # browsers cancel tiles that they no longer need
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._open.discard(task)
            self._waiting.pop(writer, None)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Reads a request and sends the response. Returns whether another one may follow."""
        self._waiting[writer] = None
        try:
            async with asyncio.timeout(IDLE_S):
                begin = await reader.readexactly(1)
            async with asyncio.timeout(HEAD_S):
                head = begin + await reader.readuntil(b"\r\n\r\n")
            request = request_of(head, self._hosts)
        except RefusedError as error:
            return await self._send(writer, Request("GET", "", stays=False), error.status, str(error))
        except asyncio.LimitOverrunError:
            return await self._send(writer, Request("GET", "", stays=False), 431, "too long a request")
        finally:
            self._waiting.pop(writer, None)
        try:
            async with asyncio.timeout(ANSWER_S):
                status, found = await self._loop.run_in_executor(self._pool, self._answered, request.target, reader)
        except TimeoutError:
            status, found = 503, "busy; ask again later"
        return await self._send(writer, request, status, found)

    def _answered(self, target: str, reader: asyncio.StreamReader) -> tuple[int, Answer | str]:
        """Answers a request, in a thread."""
        if reader.at_eof():  # nobody waits for it any more
            return 503, "gone"
        try:
            found = self._answer(target)
        except ValueError as error:
            return 400, shown_in(str(error))
        except Exception as error:  # a file that is gone, no memory: it must not end the server
            print(
                f"note: {target[:80]} is not answered: {shown_in(' '.join(str(error).split()))[:300]}", file=sys.stderr
            )
            return 500, "a file cannot be read any more"
        return (200, found) if found else (404, "nothing here")

    async def _send(self, writer: asyncio.StreamWriter, request: Request, status: int, found: Answer | str) -> bool:
        kind, body = ("text/plain; charset=utf-8", found.encode()) if isinstance(found, str) else found
        lines = [f"HTTP/1.1 {status} {_REASONS[status]}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {text}" for name, text in self._headers]
        lines += [] if request.stays else ["Connection: close"]
        lines += ["Allow: GET, HEAD"] if status == 405 else []
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        try:
            async with asyncio.timeout(SEND_S):
                writer.write(head if request.method == "HEAD" else head + body)
                await writer.drain()
        except TimeoutError:
            writer.transport.abort()
            raise
        return request.stays


_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
