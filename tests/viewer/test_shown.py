"""What the page is told of a map: areas, a pixel, pictures; and that the server gives nothing else."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from shown_maps import TAGS, opened
from shown_maps import made as made
from shown_maps import shown as shown
from small_scenes import GRID

from specsar_jax.viewer import map_server, shares
from specsar_jax.viewer.mercator import tile_bounds, to_mercator
from specsar_jax.viewer.rasters import part
from specsar_jax.viewer.shown import Drawing

# rasterio 1.4 multiplies transforms in a way that affine 3 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


def areas_of(shown, view=None):
    return shown.areas(view or shown.bounds)["maps"][0]


def picture(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_areas_are_true_and_shares_add_up(shown):
    found = areas_of(shown)
    # UTM's scale at its central meridian is 0.9996: a pixel of 100 m2 on the map is 100.08 m2 of ground.
    expected = np.zeros(9)
    expected[1], expected[6] = 15 * 30 * 0.010008, 20 * 30 * 0.010008
    np.testing.assert_allclose(found["areas"], expected, rtol=0.02, atol=0.02)
    assert found["nodata"] == pytest.approx(5 * 30 * 0.010008, rel=0.02)
    assert len(found["shares"]) == 10 and round(sum(found["shares"]), 6) == 100
    assert sum(areas_of(shown, (0.0, 0.0, 1.0, 1.0))["areas"]) == 0


@pytest.mark.parametrize(
    "parts", [[1.0] * 3, [1e-9, 5.0, 1.0], [2.0] * 7, [0.0, 3.0], [1 / 3] * 6 + [1e-12], [0.0] * 2]
)
def test_percentages_add_up(parts):
    found = shares.percentages(parts)
    assert round(sum(found), 6) == (100 if sum(parts) else 0)
    assert all(abs(share - 100 * part / (sum(parts) or 1)) < 0.1 for share, part in zip(found, parts, strict=True))


def test_how_the_map_was_made_is_told(shown):
    told = shown.about()["maps"][0]["origin"]
    assert ["made", TAGS["made"]] in [list(line) for line in told]
    assert ("Subtracted from Sentinel-2 numbers", "1000") in told and (
        "Without a class",
        "12.5 % of the pixels",
    ) in told


def test_a_pixel(shown):
    west, south, east, north = shown.bounds
    found = shown.pixel((3 * west + east) / 4, south + (north - south) * 0.1)
    assert found["class"] == 6 and found["row"] == pytest.approx(36, abs=1)
    (first, share), *rest = found["shares"]
    assert first == 6 and share == 80 and len(rest) == 4
    assert round(share + sum(of for _, of in rest) + found["others"], 6) == 100
    lats, lons = zip(*found["outline"], strict=True)
    assert min(lons) <= (3 * west + east) / 4 <= max(lons) and max(lats) - min(lats) == pytest.approx(9e-5, rel=0.05)
    assert shown.pixel(west - 1, south) is None
    assert shown.pixel(1e308, south) is None and shown.pixel(west, 1e308) is None


def test_a_large_map_without_overviews_gets_some(tmp_path, capsys):
    """For as long as it is shown; the files stay as they are. Near zooms show the same as without."""
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "crs": GRID.crs, "transform": GRID.transform, "height": 700, "width": 2100}
    with rasterio.open(tmp_path / "map.tif", "w", count=1, dtype="uint8", nodata=255, **profile) as raster:
        raster.write(np.kron(rng.integers(0, 9, (10, 30), np.uint8), np.ones((70, 70), np.uint8)), 1)
    with rasterio.open(tmp_path / "s2.tif", "w", count=4, dtype="uint16", nodata=0, **profile) as raster:
        raster.write(np.full((4, 700, 2100), np.array([9, 400, 800, 1200], np.uint16)[:, None, None]))
        raster.descriptions = ("B1", "B2", "B3", "B4")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with opened(tmp_path, "map.tif", s2=("s2.tif",)) as shown:
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 2 and all("has no overviews; makes them in a temporary folder" in line for line in told)
        # Of the scene, its three bands that are looked at.
        address, channels = shown.maps[0].address, shown.imagery.channels
        addresses = {address: 1, **{channel.address: 3 for channel in channels}}
        assert len(addresses) == 2
        for one, count in addresses.items():
            with rasterio.open(one) as raster:
                assert raster.count == count and all(raster.overviews(band) for band in range(1, count + 1))
        folder = Path(address).parent
        assert folder.exists()
        west, south, east, north = to_mercator(shown.bounds)
        middle = (west + east) / 2, (south + north) / 2
        near = (middle[0] - 1000, middle[1] - 1000, middle[0] + 1000, middle[1] + 1000)
        one, other = (part(of, [1], near, (256, 256)) for of in (address, str(tmp_path / "map.tif")))
        np.testing.assert_array_equal(one, other)
        light = np.array([part(c.address, [c.index], near, (8, 8)).data[0, 4, 4] for c in channels])
        assert light.tolist() == [1200, 800, 400]
        # All of the map in one tile, and the areas of its classes.
        areas = areas_of(shown)["areas"]
        with rasterio.open(tmp_path / "map.tif") as raster:
            counts = np.bincount(raster.read(1).ravel(), minlength=9)
        np.testing.assert_allclose(np.divide(areas, sum(areas)), counts / counts.sum(), atol=2e-3)
    assert not folder.exists()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_map_over_the_antimeridian(tmp_path):
    """Its tiles, areas and pixels are there on both sides, whichever way a longitude is counted."""
    place = {"crs": "EPSG:32760", "transform": rasterio.Affine(10, 0, 816000, 0, -10, 8142000)}
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 255, "height": 800, "width": 800, **place}
    with rasterio.open(tmp_path / "map.tif", "w", **profile) as raster:
        raster.write(np.ones((1, 800, 800), np.uint8))
    with opened(tmp_path, "map.tif") as shown:
        west, south, east, north = shown.bounds
        assert 179.9 < west < 180 < east < 180.1
        # 8 by 8 km; UTM's scale is 1.0009 there.
        assert sum(areas_of(shown)["areas"]) == pytest.approx(6400 / 1.0009**2, rel=1e-3)
        for lon, x in (((west + 180) / 2, 4095), ((180 + east) / 2, 0)):
            lat = (south + north) / 2
            found, turned = shown.pixel(lon, lat), shown.pixel(lon - 360, lat)
            assert found["class"] == 1 and found["row"] == turned["row"] and found["column"] == turned["column"]
            assert abs(found["outline"][0][1] - lon) < 0.01 and abs(turned["outline"][0][1] - lon + 360) < 0.01
            [y] = [
                y
                for y in range(4096)
                if tile_bounds(12, x, y)[1] <= to_mercator((0.0, lat, 0.0, lat))[1] < tile_bounds(12, x, y)[3]
            ]
            seen = picture(shown.tile("map", (12, x, y), Drawing()))[..., 3] > 0
            assert 0.1 < seen.mean() < 0.5


def test_the_server_gives_nothing_else(shown):
    files = map_server.page_files()
    assert json.loads(map_server.answer(shown, files, "/about.json")[1])["maps"][0]["size"] == [30, 40]
    for target in (
        "/../setup.cfg",
        "/%2e%2e/setup.cfg",
        "/map.tif",
        "/etc/passwd",
        "/tiles/map/99/0/0.png",
        "/tiles/map/3/9/0.png",
        "/tiles/compared/12/1/1.png",
        "/tiles/heat/12/1/1.png?class=9",
    ):
        assert map_server.answer(shown, files, target) is None


@pytest.mark.parametrize(
    "target",
    [
        "/pixel.json?lon=a&lat=1",
        "/pixel.json",
        "/areas.json?west=nan&south=0&east=1&north=1",
        "/tiles/map/12/1/1.png?hidden=-1",
        "/tiles/map/12/1/1.png?sure=inf",
        "/polygon.json?corners=1,2,3",
        "/polygon.json?corners=1,2;a,b;3,4",
    ],
)
def test_a_malformed_query_is_refused(shown, target):
    with pytest.raises(ValueError, match=r"expected|number|float"):
        map_server.answer(shown, {}, target)


def test_far_away_nothing_is_read(shown):
    """GDAL would warp nothing for minutes."""
    low, _ = shown.zooms
    assert not picture(shown.tile("imagery", (low, 0, 0), Drawing())).any()
    assert map_server.answer(shown, {}, f"/tiles/imagery/{low - 1}/0/0.png") is None


def test_gdal_may_keep_what_a_page_of_tiles_needs():
    # GDAL takes megabytes, rasterio bytes: 256 of them were once what was left of the cache.
    assert map_server.CACHE_BYTES > 100e6
