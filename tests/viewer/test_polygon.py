"""Areas in a drawn polygon are those of `specsar_jax.areas` of the same polygon; others are refused in a line."""

import csv
import json

import numpy as np
import pytest
import rasterio
from shown_maps import FIRST, WORLDCOVER, opened, write_codes
from shown_maps import both as both
from shown_maps import made as made
from small_scenes import GRID

from specsar_jax import areas
from specsar_jax.viewer.polygon import MOST_CORNERS

# rasterio 1.4 multiplies transforms in a way that affine 3 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


def corners(shown, *places: tuple[float, float]) -> list[tuple[float, float]]:
    """Places in shares of the map's width and height, from the south-west."""
    west, south, east, north = shown.bounds
    return [(round(west + x * (east - west), 7), round(south + y * (north - south), 7)) for x, y in places]


def test_as_the_command_measures(both, made, tmp_path):
    """With nodata in the north, and a corner beyond the map."""
    pytest.importorskip("pyogrio", reason="extra 'areas'")
    places = corners(both, (0.1, 0.2), (1.3, 0.4), (0.5, 0.97), (0.2, 0.9))
    found = both.in_polygon(places)["maps"][0]
    polygon = {"type": "Polygon", "coordinates": [[*places, places[0]]]}
    (tmp_path / "p.geojson").write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": polygon}))
    areas.main([str(made / FIRST), "--zones", str(tmp_path / "p.geojson"), "--output", str(tmp_path / "a.csv")])
    [row] = csv.DictReader((tmp_path / "a.csv").read_text().splitlines())
    told = {**dict(zip(both.maps[0].classes.names, found["areas"], strict=True)), "nodata": found["nodata"]}
    told["outside"] = found["outside"]
    for name, area in told.items():
        assert area == pytest.approx(float(next(v for k, v in row.items() if k.startswith(name))), abs=1e-4), name
    assert found["outside"] > 0.1 and found["nodata"] > 0.05
    assert round(sum(found["shares"]), 6) == 100


def test_of_a_map_of_another_legend(made):
    with opened(made, WORLDCOVER, legend="worldcover") as shown:
        found = shown.in_polygon(corners(shown, (0, 0), (1, 0), (1, 1), (0, 1)))["maps"][0]
        told = dict(zip(shown.maps[0].classes.names, found["areas"], strict=True))
        assert told["tree cover"] == pytest.approx(20 * 30 * 0.010008, rel=0.01)
        assert told["grassland"] == pytest.approx(20 * 30 * 0.010008, rel=0.01)


def test_over_the_antimeridian(tmp_path):
    """The page counts longitudes on, to the east or to the west; a geodesic area says what it must be."""
    pyproj = pytest.importorskip("pyproj")
    write_codes(
        tmp_path / "map.tif",
        np.ones((800, 800), np.uint8),
        nodata=255,
        crs="EPSG:32760",
        transform=rasterio.Affine(10, 0, 816000, 0, -10, 8142000),
    )
    with opened(tmp_path, "map.tif") as shown:
        for turn in (0, -360):
            places = [(lon + turn, lat) for lon, lat in corners(shown, (0.2, 0.2), (0.8, 0.3), (0.6, 0.8))]
            found = shown.in_polygon(places)
            area, _ = pyproj.Geod(ellps="WGS84").polygon_area_perimeter(*zip(*places, strict=True))
            assert found["maps"][0]["areas"][1] == pytest.approx(abs(area) / 1e4, rel=1e-4)
            assert found["maps"][0]["outside"] == 0
            lons = [lon for part in found["geometry"]["coordinates"] for lon, _ in part[0]]
            assert len(found["geometry"]["coordinates"]) == 2 and max(map(abs, lons)) == 180


def test_beside_one_of_two_maps(made, tmp_path):
    """All of it lies outside of that one."""
    write_codes(
        tmp_path / "south.tif",
        np.full((20, 30), 10, np.uint8),
        transform=GRID.transform @ rasterio.Affine.translation(0, 30),
    )
    with opened(made, FIRST, compare=str(tmp_path / "south.tif"), compare_legend="worldcover") as shown:
        first, second = shown.in_polygon(corners(shown, (0.1, 0.5), (0.9, 0.5), (0.9, 0.8)))["maps"]
        assert first["outside"] == 0 and second["outside"] == pytest.approx(
            sum(first["areas"]) + first["nodata"], rel=1e-5
        )
        assert sum(second["areas"]) == 0 and second["shares"][-1] == 100


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([(0.1, 0.1), (0.2, 0.2)], "a polygon of 2 corners, expected 3 to"),
        ([(0.1, 0.1), (0.9, 0.9), (0.9, 0.1), (0.1, 0.9)], "the lines of the polygon cross"),
        ([(0.1, 0.1), (0.5, 0.5), (0.1, 0.1)], "cross or touch"),
        ([(5.0, 5.0), (6.0, 5.0), (6.0, 6.0)], "the polygon lies outside of map.tif"),
        ([(0.0, 1e9), (6.0, 5.0), (6.0, 6.0)], "expected latitude and longitude in degrees"),
        ([(x / 999, (x % 2) / 9) for x in range(MOST_CORNERS + 1)], "expected 3 to 200"),
    ],
)
def test_other_polygons_are_refused(both, places, message):
    with pytest.raises(ValueError, match=message) as error:
        both.in_polygon(corners(both, *places))
    assert "\n" not in str(error.value)
