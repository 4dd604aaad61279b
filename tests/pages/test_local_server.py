"""The web server of view: requests that are answered, and strange ones that are refused."""

import gc
import socket
import threading

import pytest

from specsar_jax.pages import local_server

HOSTS = ("127.0.0.1", "localhost")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET / HTTP/1.1\r\nHost: [", 400),
        ("GET / HTTP/1.1\r\nHost: ", 403),
        ("GET / HTTP/1.1\r\nHost: evil.example", 403),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1@evil.example", 400),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil", 400),
        ("GET / HTTP/1.1\r\nAccept: */*", 400),
        ("GET http://evil/ HTTP/1.1\r\nHost: 127.0.0.1", 403),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4", 400),
        ("POST / HTTP/1.1\r\nHost: 127.0.0.1", 405),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n folded", 400),
        ("\x16\x03\x01", 400),
    ],
)
def test_a_strange_request_is_refused(head, status):
    with pytest.raises(local_server.RefusedError) as refusal:
        local_server.request_of(f"{head}\r\n\r\n".encode("latin-1"), HOSTS)
    assert refusal.value.status == status


def test_a_request():
    for first in ("GET /a?b=1 HTTP/1.1", "GET http://LOCALHOST:9/a?b=1 HTTP/1.1"):
        head = f"{first}\r\nHost: Localhost:8617\r\n\r\n".encode()
        assert local_server.request_of(head, HOSTS) == ("GET", "/a?b=1", True)


def test_connections_that_come_while_it_ends_are_closed():
    """Pytest fails on what is left open: asyncio forgets those that it has accepted and not yet handed over."""
    for _ in range(20):
        with local_server.LocalServer(lambda _: None, "127.0.0.1", 0) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            address = "127.0.0.1", server.server_port
            with socket.create_connection(address) as asked:
                asked.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert asked.recv(100)
            held = [socket.create_connection(address) for _ in range(20)]
            server.shutdown()
            thread.join()
        for connection in held:
            connection.close()
    gc.collect()
