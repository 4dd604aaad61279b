"""The page of view: what it is told, what it refuses, and, in a browser, what it shows."""

import io
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from browsers import viewed
from conftest import REPOSITORY, command, refused
from PIL import Image
from small_scenes import GRID

from specsar_jax.maps import map_files
from specsar_jax.maps.map_files import Outputs
from specsar_jax.pages import local_server, map_server
from tfds_dwplus import bands

# rasterio 1.4 multiplies transforms in a way that affine 3 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
pytest.importorskip("rio_tiler", reason="extra 'view'")
pytest.importorskip("xstatic.pkg.leaflet", reason="extra 'view'")


TAGS = {"made": "<b>here</b>", "s2_offset": "1000", "weights_licence": "MIT", "weights_origin": "<i>Ada</i>"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A map of 40 x 30 pixels: half trees, half built, the first rows without data; with its probabilities and a scene."""
    folder = tmp_path_factory.mktemp("view")
    probability = np.full((40, 30, 9), 0.025, np.float32)
    probability[:20, :, 1], probability[20:, :, 6] = 0.8, 0.8
    probability[:5] = np.nan
    map_files.write_map(
        GRID, Outputs(folder / "map.tif", folder / "shares.tif"), bands.DYNAMIC_WORLD, TAGS, probability
    )
    profile = {"driver": "GTiff", "crs": GRID.crs, "transform": GRID.transform, "height": 40, "width": 30}
    with rasterio.open(folder / "s2.tif", "w", count=3, dtype="uint16", **profile) as raster:
        raster.write(np.random.default_rng(0).integers(200, 3000, (3, 40, 30), np.uint16))
        raster.descriptions = ("B2", "B3", "B4")
    return folder


@pytest.fixture(scope="module")
def shown(made):
    from specsar_jax.pages.viewed import open_map

    with open_map(str(made / "map.tif"), [str(made / "s2.tif")], str(made / "shares.tif")) as shown:
        yield shown


def test_page_gives_leaflet_elements_and_no_text():
    """A text in a pop-up, tooltip, icon or attribution is HTML to Leaflet (CVE-2025-69993, all versions); an element's `textContent` is not."""
    page = (Path(map_server.__file__).parent / "view.js").read_text()
    assert re.findall(r"setContent\((\w+)", page) == ["told"]  # which returns an element
    assert not re.search(
        r"bind(Popup|Tooltip)|L\.tooltip|divIcon|(inner|outer)HTML|insertAdjacentHTML|attribution:", page
    )


def test_areas_are_true(shown):
    areas = shown.areas(shown.bounds)
    assert areas["unit"] == "ha"
    # UTM's scale at its central meridian is 0.9996: a pixel of 100 m2 on the map is 100.08 m2 of ground.
    expected = np.zeros(9)
    expected[1], expected[6] = 15 * 30 * 0.010008, 20 * 30 * 0.010008
    np.testing.assert_allclose(areas["areas"], expected, rtol=0.02, atol=0.02)
    assert sum(shown.areas((0.0, 0.0, 1.0, 1.0))["areas"]) == 0


def test_how_the_map_was_made_is_shown(shown):
    assert shown.about()["tags"] == TAGS


def test_a_large_map_without_overviews_gets_some(tmp_path, capsys):
    """For as long as it is shown; the files stay as they are. Near zooms show the same as without."""
    from specsar_jax.pages import viewed

    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "crs": GRID.crs, "transform": GRID.transform, "height": 700, "width": 2100}
    with rasterio.open(tmp_path / "map.tif", "w", count=1, dtype="uint8", nodata=255, **profile) as raster:
        raster.write(np.kron(rng.integers(0, 9, (10, 30), np.uint8), np.ones((70, 70), np.uint8)), 1)
    with rasterio.open(tmp_path / "s2.tif", "w", count=4, dtype="uint16", nodata=0, **profile) as raster:
        raster.write(np.full((4, 700, 2100), np.array([9, 400, 800, 1200], np.uint16)[:, None, None]))
        raster.descriptions = ("B1", "B2", "B3", "B4")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with viewed.open_map(str(tmp_path / "map.tif"), [str(tmp_path / "s2.tif")]) as shown:
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 2 and all("has no overviews; makes them in a temporary folder" in line for line in told)
        # Of the scene, its three bands that are looked at.
        addresses = {shown.address: 1, **{channel.address: 3 for channel in shown.imagery}}
        assert len(addresses) == 2
        for address, count in addresses.items():
            with rasterio.open(address) as raster:
                assert raster.count == count and all(raster.overviews(band) for band in range(1, count + 1))
        folder = Path(shown.address).parent
        assert folder.exists()
        west, south, east, north = viewed.to_mercator(shown.bounds)
        middle = (west + east) / 2, (south + north) / 2
        near = (middle[0] - 1000, middle[1] - 1000, middle[0] + 1000, middle[1] + 1000)
        one, other = (
            viewed._part(address, [1], near, 256, 256) for address in (shown.address, str(tmp_path / "map.tif"))
        )
        np.testing.assert_array_equal(one, other)
        light = np.array([viewed._part(c.address, [c.index], near, 8, 8).data[0, 4, 4] for c in shown.imagery])
        assert light.tolist() == [1200, 800, 400]
        # All of the map in one tile, and the areas of its classes.
        areas = shown.areas(shown.bounds)["areas"]
        with rasterio.open(tmp_path / "map.tif") as raster:
            counts = np.bincount(raster.read(1).ravel(), minlength=9)
        np.testing.assert_allclose(np.divide(areas, sum(areas)), counts / counts.sum(), atol=2e-3)
    assert not folder.exists()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_pixel(shown):
    west, south, east, north = shown.bounds
    found = shown.point((west + east) / 2, south + (north - south) * 0.1)
    assert found["class"] == 6 and found["row"] == pytest.approx(36, abs=1)
    assert found["probabilities"][6] == pytest.approx(0.8)
    assert shown.point(west - 1, south) is None
    assert shown.point(1e308, south) is None and shown.point(west, 1e308) is None


def test_a_map_over_the_antimeridian(tmp_path):
    """Its tiles, areas and pixels are there on both sides, whichever way a longitude is counted."""
    from specsar_jax.pages.viewed import open_map, tile_bounds, to_mercator

    place = {"crs": "EPSG:32760", "transform": rasterio.Affine(10, 0, 816000, 0, -10, 8142000)}
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 255, "height": 800, "width": 800, **place}
    with rasterio.open(tmp_path / "map.tif", "w", **profile) as raster:
        raster.write(np.ones((1, 800, 800), np.uint8))
    with open_map(str(tmp_path / "map.tif")) as shown:
        west, south, east, north = shown.bounds
        assert 179.9 < west < 180 < east < 180.1
        # 8 by 8 km; UTM's scale is 1.0009 there.
        assert sum(shown.areas(shown.bounds)["areas"]) == pytest.approx(6400 / 1.0009**2, rel=1e-3)
        for lon, x in (((west + 180) / 2, 4095), ((180 + east) / 2, 0)):
            lat = (south + north) / 2
            assert shown.point(lon, lat) == shown.point(lon - 360, lat) and shown.point(lon, lat)["class"] == 1
            [y] = [
                y
                for y in range(4096)
                if tile_bounds(12, x, y)[1] <= to_mercator((0.0, lat, 0.0, lat))[1] < tile_bounds(12, x, y)[3]
            ]
            seen = np.asarray(Image.open(io.BytesIO(shown.map_tile(12, x, y))))[..., 3] > 0
            assert 0.1 < seen.mean() < 0.5


def test_the_server_gives_nothing_else(shown):

    files = map_server.page_files()
    assert json.loads(map_server.answer(shown, files, "/about.json")[1])["size"] == [30, 40]
    for target in (
        "/../setup.cfg",
        "/%2e%2e/setup.cfg",
        "/map.tif",
        "/etc/passwd",
        "/map/0/99/0/0.png",
        "/map/0/3/9/0.png",
    ):
        assert map_server.answer(shown, files, target) is None
    for target in ("/point.json?lon=a&lat=1", "/point.json", "/areas.json?west=nan&south=0&east=1&north=1"):
        with pytest.raises(ValueError, match=r"expected|number|float"):
            map_server.answer(shown, files, target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.tif"], "no.tif"),
        (["s2.tif"], "s2.tif"),
        (["map.tif", "--probabilities", "map.tif"], "map.tif"),
        (["map.tif", "--port", "99999"], "expected 0 to 65535"),
    ],
)
def test_wrong_files_are_refused(made, arguments, message):
    assert message in refused(command("specsar_jax.view", *arguments, cwd=made))


def test_gdal_may_keep_what_a_page_of_tiles_needs():

    # GDAL takes megabytes, rasterio bytes: 256 of them were once what was left of the cache.
    assert map_server.CACHE_BYTES > 100e6


def test_in_a_browser(shown):
    with viewed(shown) as (page, asked):
        # Not wait_for_function: it evaluates a string time and again, which the page's own policy forbids.
        page.locator("tbody", has_text="built").wait_for()
        page.wait_for_load_state("networkidle")
        text = page.inner_text("body")
        assert all(name.replace("_", " ") in text for name in bands.CLASSES) and "map.tif" in text
        assert "Network: <i>Ada</i>. Licence: MIT." in text
        assert "s2 offset1000" in page.locator("dl").text_content()
        box = page.locator("#map").bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.6)  # below the middle: built
        page.wait_for_selector(".leaflet-popup-content")
        assert "80.0" in page.inner_text(".leaflet-popup-content")
        page.set_viewport_size({"width": 400, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert any("/imagery/" in url for url in asked)


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


def test_far_away_nothing_is_read(shown):
    """GDAL would warp nothing for minutes."""
    low, _ = shown.zooms
    picture = np.asarray(Image.open(io.BytesIO(shown.imagery_tile(low, 0, 0))))
    assert not picture.any()
    assert map_server.answer(shown, {}, f"/imagery/{low - 1}/0/0.png") is None


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
