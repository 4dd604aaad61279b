"""The cluster that map_region starts on this machine is closed to others."""

import socket
import ssl

import pytest

pytest.importorskip("distributed", reason="extra 'region'")
pytest.importorskip("cryptography", reason="extra 'region'")

from distributed.security import Security

from specsar_jax.regions.local_cluster import local_cluster


@pytest.mark.parametrize("has_key", [False, True])
def test_a_stranger_does_not_get_in(has_key):
    with local_cluster(0) as cluster:
        host, port = cluster.scheduler_address.removeprefix("tls://").split(":")
        stranger = ssl.create_default_context()
        if has_key:
            stranger = Security.temporary().get_connection_args("client")["ssl_context"]
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
