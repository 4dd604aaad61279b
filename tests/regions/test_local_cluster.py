"""The cluster that map_region starts on this machine is closed to others."""

import socket
import ssl

import pytest

pytest.importorskip("distributed", reason="extra 'region'")
pytest.importorskip("cryptography", reason="extra 'region'")

from specsar_jax.regions.local_cluster import local_cluster


def test_a_stranger_does_not_get_in():
    with local_cluster(0) as cluster:
        host, port = cluster.scheduler_address.removeprefix("tls://").split(":")
        stranger = ssl.create_default_context()
        stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
        # In TLS 1.3 a client learns that its certificate is missing when it reads.
        with (
            socket.create_connection((host, int(port)), timeout=10) as raw,
            pytest.raises((ssl.SSLError, ConnectionError)),
            stranger.wrap_socket(raw) as closed,
        ):
            assert closed.recv(1) == b"", "the scheduler speaks to a stranger"
            raise ConnectionError("closed")
        assert not hasattr(cluster.scheduler, "http_server")
