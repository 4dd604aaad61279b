"""Areas in a drawn polygon are those of `specsar_jax.areas` of the same polygon; others are refused in a line."""

import csv
import json

import pytest
from shown_maps import FIRST, WORLDCOVER, opened
from shown_maps import both as both
from shown_maps import made as made

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
