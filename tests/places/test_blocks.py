"""Regions cut into blocks: a grid that does not depend on the region, each place in one block, areas, what is no region."""

import json
import math

import numpy as np
import pytest

pytest.importorskip("shapely", reason="extra 'acquire' or 'region'")

import shapely
from rasterio.warp import transform as transform_coordinates

from tfds_dwplus.places import blocks
from tfds_dwplus.places.blocks import Block

SQUARE = [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]


def box(*sides: float) -> shapely.Geometry:
    return blocks.box(*map(float, sides))


def polygon(*rings) -> str:
    return json.dumps({"type": "Polygon", "coordinates": rings})


def test_the_grid_does_not_depend_on_the_region():
    one, other = box(17.6, 42.0, 18.3, 42.3), box(17.9, 42.1, 18.6, 42.5)
    ids = [{block for block in blocks.blocks_of(region, 512)} for region in (one, other)]
    both = set(blocks.blocks_of(shapely.intersection(one, other), 512))
    # Blocks at its border are wanted by both, and by it; of the inner ones both know the same.
    assert both <= ids[0] & ids[1] and len(both) > 40
    assert {block.zone for block in both} == {"33N", "34N"}
    block = min(both)
    assert block.grid.transform.c == block.x * 5120 and block.grid.transform.f == (block.y + 1) * 5120
    inner = max(both, key=lambda block: blocks.inside(block, one).sum() + blocks.inside(block, other).sum())
    assert blocks.inside(inner, one).all() and blocks.inside(inner, other).all()


@pytest.mark.parametrize(
    "sides", [(17.97, 42.39, 18.03, 42.41), (179.97, -0.02, -179.97, 0.02)], ids=["two zones", "four zones"]
)
def test_each_place_is_in_one_block(sides):
    """Random places fall on a pixel of the region in one block; the areas of those pixels are the region's."""
    region = box(*sides)
    rng = np.random.default_rng(0)
    west, south, east, north = sides
    lon = (west + rng.random(5000) * ((east - west) % 360) + 180) % 360 - 180
    lat = rng.uniform(south, north, 5000)
    times, hectares, zones = np.zeros(5000, np.int64), 0.0, set()
    for block in blocks.blocks_of(region, 256):
        inside = blocks.inside(block, region)
        hectares += blocks.pixel_hectares(block)[inside].sum()
        zones.add(block.zone)
        x, y = (np.array(part) for part in transform_coordinates("EPSG:4326", block.crs, lon, lat))
        column, row = np.floor(~block.grid.transform @ (x, y)).astype(int)
        there = (row >= 0) & (row < 256) & (column >= 0) & (column < 256)
        times[there] += inside[row[there], column[there]]
    # At the border of a zone a pixel belongs to where its middle lies, so places less than 7 m from it may be in two or none.
    assert (times == 1).mean() > 0.99 and times.max() <= 2
    assert len(zones) == (2 if south > 0 else 4)
    # On the equator rows lie along the edges, so one of 4 or 6 km may be wrong by half a pixel from end to end.
    assert hectares == pytest.approx(blocks.region_hectares(region), rel=5e-4 if south > 0 else 4e-3)


def test_areas_are_those_of_the_ellipsoid():
    # A degree at the equator: 110.574 km along the meridian, 111.320 km along the equator.
    assert blocks.region_hectares(box(10, 0, 11, 1)) == pytest.approx(1230900, rel=2e-4)
    assert blocks.region_hectares(box(179, 0, -179, 1)) == pytest.approx(2 * 1230900, rel=2e-4)
    # UTM's scale is 0.9996 in the middle of a zone and 1.00098 at its border on the equator.
    middle, border = Block("33N", 24, 0, 2048), Block("33N", 40, 0, 2048)
    for block, scale in ((middle, 0.9996), (border, 1 + 0.9996 * (834e3 - 5e5) ** 2 / 2 / 6378137**2 - 4e-4)):
        assert blocks.pixel_hectares(block)[1024, 1024] == pytest.approx(0.01 / scale**2, rel=1e-4)


@pytest.mark.parametrize(
    "rings",
    [
        (
            [[170, 0], [-170, 0], [-170, 10], [170, 10], [170, 0]],
            [[-176, 2], [-174, 2], [-174, 4], [-176, 4], [-176, 2]],
        ),
        ([[170, 0], [190, 0], [190, 10], [170, 10], [170, 0]], [[184, 2], [186, 2], [186, 4], [184, 4], [184, 2]]),
        ([[-170, 0], [-170, 10], [170, 10], [170, 0], [-170, 0]], [[174, 2], [176, 2], [176, 4], [174, 4], [174, 2]]),
    ],
    ids=["short way", "beyond 180", "from the east"],
)
def test_a_polygon_over_the_antimeridian_keeps_its_hole(rings):
    region = blocks.from_geojson(polygon(*rings), "a")
    assert region.area == pytest.approx(20 * 10 - 2 * 2)
    assert region.bounds == (-180, 0, 180, 10)
    assert blocks.search_bounds(region) == (170, 0, -170, 10)


def test_bounds_to_search():
    assert blocks.search_bounds(box(17, 42, 18, 43)) == (17, 42, 18, 43)
    assert blocks.search_bounds(box(179.9, -1, -179.9, 1)) == pytest.approx((179.9, -1, -179.9, 1))
    assert blocks.search_bounds(box(-180, -60, 180, 60)) == (-180, -60, 180, 60)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not GeoJSON"),
        ('{"type": []}', "is not GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "holds no polygon"),
        ('{"type": "Feature", "geometry": null}', "holds no polygon"),
        ('{"type": "Point", "coordinates": [0, 0]}', "holds a Point"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [NaN, 1], [1, 1], [0, 0]]]}', "NaN is no number"),
        (polygon([[0, 0], [1, 1]]), "a polygon that is none"),
        (polygon([[0, 0], [1, 1], [2, 2], [0, 0]]), "has no area"),
        (polygon([[5e5, 4e6], [5e5, 4.1e6], [6e5, 4e6], [5e5, 4e6]]), "reproject"),
        (polygon([[0, 70], [90, 70], [180, 70], [-90, 70], [0, 70]]), "goes around a pole"),
        (polygon([[0, 85], [1, 85], [1, 86], [0, 85]]), "UTM"),
        ('{"crs": {"properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}, ' + polygon(SQUARE)[1:], "another CRS"),
    ],
)
def test_what_is_no_region(text, message):
    with pytest.raises(ValueError, match=message):
        blocks.from_geojson(text, "a")


@pytest.mark.parametrize("sides", [(1, 0, 1, 1), (0, 1, 1, 0), (0, 0, 181, 1), (math.nan, 0, 1, 1), (0, 83, 1, 85)])
def test_what_is_no_box(sides):
    with pytest.raises(ValueError, match=r"the box|the region"):
        box(*sides)
