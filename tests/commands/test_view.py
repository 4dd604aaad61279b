"""The command of view: what it refuses in a line, and how it stops."""

import re
import signal
import socket
import subprocess
import sys

import pytest
from conftest import REPOSITORY, command, refused
from shown_maps import made as made

from specsar_jax import view
from specsar_jax.pages import local_server

# rasterio 1.4 multiplies transforms in a way that affine 3 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.tif"], "no.tif"),
        (["s2.tif"], "s2.tif holds 3 bands, expected a class map of specsar_jax.predict"),
        (["worldcover.tif"], "of another kind of map give --legend"),
        (["map.tif", "--probabilities", "map.tif"], "map.tif"),
        (
            ["map.tif", "--confidence", "s2.tif"],
            "s2.tif holds 3 bands, expected one, of the mapped class's probability",
        ),
        (["map.tif", "--port", "99999"], "expected 0 to 65535"),
        (["map.tif", "--legend", "worldwide"], "--legend: no legend 'worldwide', expected one of dynamic_world"),
        (
            ["map.tif", "--compare_legend", "esri"],
            "--compare_legend esri is of a second map; give that too, --compare PATH",
        ),
    ],
)
def test_wrong_arguments_are_refused(made, arguments, message, monkeypatch):
    monkeypatch.chdir(made)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        view.main(arguments)
    assert "\n" not in str(error.value)


def test_an_error_is_a_line(made):
    assert "s2.tif holds 3 bands" in refused(command("specsar_jax.view", "s2.tif", cwd=made))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_stops_while_connections_are_open(made, number, code):
    """More connections than it holds: the ones that say nothing give way. No thread is at work in GDAL when Python ends."""
    flags = [sys.executable, "-m", "specsar_jax.view", str(made / "map.tif"), "--port", "0"]
    running = subprocess.Popen(flags, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    port = int(re.search(r":(\d+)/", running.stdout.readline())[1])
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(local_server.MOST_CONNECTIONS + 20)]
    with socket.create_connection(("127.0.0.1", port), timeout=30) as asked:
        asked.sendall(b"GET /areas.json?west=-180&south=-85&east=180&north=85 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert asked.recv(100).startswith(b"HTTP/1.1 200 OK")
        asked.sendall(b"GET /map/0/12/1/1.png HTTP/1.1\r\nHost: localhost\r\n\r\n")
        running.send_signal(number)
        stderr = running.communicate(timeout=30)[1]
    assert running.returncode == code and "Traceback" not in stderr, stderr
    for connection in held:
        connection.close()
