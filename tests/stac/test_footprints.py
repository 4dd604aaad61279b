"""How much of a tile a footprint covers, in all the ways in which archives write footprints."""

import pytest
from rasterio.warp import transform

from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.items.footprints import covered_share

FIJI = Grid.parse("EPSG:32701", (10.0, 0.0, 220000.0, 0.0, -10.0, 8145000.0), 510, 510)
"""5.1 km, from 179.627 to 179.579 degrees west."""

STRIP = transform(FIJI.crs, "EPSG:4326", [220510.0], [8142500.0])[0][0]
"""Longitude a tenth of the way through it."""


def ring(west, east):
    return [[[west, -17.3], [east, -17.3], [east, -16.2], [west, -16.2], [west, -17.3]]]


def polygon(west, east):
    return {"type": "Polygon", "coordinates": ring(west, east)}


def parts(*boxes):
    return {"type": "MultiPolygon", "coordinates": [ring(*box) for box in boxes]}


@pytest.mark.parametrize(
    ("geometry", "share"),
    [
        (parts((179.2, 180), (-180, STRIP)), 0.1),  # on both sides, as stactools writes T01KAB
        (parts((179.2, 180), (-180, -179)), 1),
        (polygon(179.2, 181), 1),  # going on beyond 180
        (polygon(179.2, 360 + STRIP), 0.1),
        (polygon(-180.8, STRIP), 0.1),
        (polygon(179.2, STRIP), 0.1),  # its edge seems to run round the earth
        (parts((179.2, 180), (-180, STRIP), (-180, -180)), 0.1),  # with a part without area, left over from a cut
        (polygon(178, 179.5), 0),
        (polygon(10, 11), 0),
        # not known:
        (polygon(-180, 180), 1),
        (None, 1),
        ({}, 1),
        ({"type": "Point", "coordinates": [10, 0]}, 1),
        ({"type": "Polygon", "coordinates": []}, 1),
        ({"type": "Polygon", "coordinates": [[[10, 0], [11, 0]]]}, 1),
        ({"type": "Polygon", "coordinates": [[[0, 10], [0, 100], [10, 100], [10, 10]]]}, 1),  # latitude first
        (polygon(10, float("nan")), 1),
        (polygon("10", None), 1),
        ({"type": "Polygon", "coordinates": [[[10, 0], [11, 1], [10, 1], [11, 0], [10, 0]]]}, 1),  # corners in a wrong order
        ({"type": "Polygon", "coordinates": [[[0, 85], [90, 85], [180, 85], [-90, 85], [0, 85]]]}, 1),  # round the pole
    ],
)  # fmt: skip
def test_share_of_a_tile_at_the_antimeridian(geometry, share):
    assert covered_share(geometry, FIJI) == pytest.approx(share, abs=0.03)


def test_a_hole_and_a_small_knot():
    west, east = STRIP - 0.1, STRIP + 0.1
    hole = {"type": "Polygon", "coordinates": [*ring(west, east), *ring(STRIP, east - 0.01)]}
    assert covered_share(hole, FIJI) == pytest.approx(0.1, abs=0.03)
    outer = ring(west, east)[0]
    knotted = [*outer[:2], [east + 0.001, -16.9], [east - 0.001, -16.8], [east + 0.001, -16.85], *outer[2:]]
    assert covered_share({"type": "Polygon", "coordinates": [knotted]}, FIJI) == 1


def test_a_grid_in_degrees_that_counts_from_0():
    grid = Grid.parse("EPSG:4326", (0.0001, 0.0, 180.375, 0.0, -0.0001, -16.7), 500, 500)
    assert covered_share(polygon(-180, -179.6), grid) == pytest.approx(0.5, abs=0.03)
    assert covered_share(polygon(170, 171), grid) == 0
