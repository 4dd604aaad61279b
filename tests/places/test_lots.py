"""Tiles drawn by lot: inside the region, on Sentinel-2's pixels, none over another, spread; splits that do not touch; days of all seasons."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("shapely", reason="extra 'acquire' or 'region'")

import shapely
from rasterio.warp import transform as transform_coordinates
from scipy.spatial import cKDTree

from tfds_dwplus.places import blocks, lots
from tfds_dwplus.places.drawn_tile import Choice, DrawnTile

THREE = (("train", 0.8), ("validation", 0.1), ("test", 0.1))
ALL = (("train", 1.0),)


def choice(size_px: int = 128, splits=THREE, **more) -> Choice:
    known = {"region_sha256": "", "seed": 0, "inside": 1.0, "dates": ("2023-01-01", "2023-12-31")}
    known |= {"window_days": 15, "max_cloud": 0.1, "max_nodata": 0.1, "sensors": ("s2", "s1")}
    return Choice(size_px=size_px, splits=splits, **(known | more))


def box(*sides: float) -> shapely.Geometry:
    return blocks.box(*map(float, sides))


def in_degrees(tile: DrawnTile, middle: float = 0.0) -> shapely.Polygon:
    """Outline of a tile, with longitudes near to `middle`."""
    x, y = zip(*tile.grid.corners, strict=True)
    lon, lat = transform_coordinates(tile.grid.crs, "EPSG:4326", x, y)
    return shapely.Polygon(np.stack([(np.array(lon) - middle + 180) % 360 - 180 + middle, lat], axis=-1))


@pytest.mark.parametrize(
    ("sides", "zones"),
    [
        ((17.9, 42.3, 18.1, 42.4), {"EPSG:32633", "EPSG:32634"}),
        ((179.95, -0.05, -179.95, 0.05), {"EPSG:32601", "EPSG:32660", "EPSG:32701", "EPSG:32760"}),
    ],
    ids=["two zones", "antimeridian and equator"],
)
def test_tiles_lie_in_the_region_on_the_pixels_of_their_zone_and_not_on_each_other(sides, zones):
    lot = lots.draw(box(*sides), 10_000, choice(splits=ALL))
    assert len(lot.tiles) == lot.fit > 30 and lot.free == 0
    assert {tile.crs for tile in lot.tiles} == zones
    west, south, east, north = sides
    outlines = [in_degrees(tile, west) for tile in lot.tiles]
    region = shapely.box(west, south, west + (east - west) % 360, north).buffer(1e-5)
    assert all(region.covers(outline) for outline in outlines)
    assert all(tile.left % 10 == tile.top % 10 == 0 and tile.size_px == 128 for tile in lot.tiles)
    one, other = shapely.STRtree(outlines).query(outlines, predicate="intersects")
    shared = [outlines[a].intersection(outlines[b]).area for a, b in zip(one, other, strict=True) if a < b]
    assert max(shared) < 1e-3 * outlines[0].area  # sides of tiles are bent in degrees


def test_holes_islands_and_shares_of_a_tile():
    ring = shapely.difference(box(15, 42, 15.3, 42.2), box(15.1, 42.05, 15.2, 42.15))
    region = shapely.union(ring, box(15.13, 42.08, 15.17, 42.12))  # an island in the lake
    whole = lots.draw(region, 10_000, choice(splits=ALL)).tiles
    assert all(region.buffer(1e-5).covers(in_degrees(tile)) for tile in whole)
    assert any(shapely.box(15.1, 42.05, 15.2, 42.15).covers(in_degrees(tile)) for tile in whole)
    half = lots.draw(region, 10_000, choice(splits=ALL, inside=0.5)).tiles
    shares = [region.intersection(in_degrees(tile)).area / in_degrees(tile).area for tile in half]
    assert {tile.tile_id for tile in whole} < {tile.tile_id for tile in half}
    assert 0.49 < min(shares) < 0.75


def test_the_lot_is_seeded_spread_and_grows():
    region = box(6, 46, 8, 47)
    tiles = lots.draw(region, 300, choice()).tiles
    assert lots.draw(region, 300, choice()).tiles == tiles
    assert lots.draw(region, 120, choice()).tiles == tiles[:120]
    other = lots.draw(region, 300, choice(seed=1)).tiles
    assert len({tile.tile_id for tile in tiles} & {tile.tile_id for tile in other}) < 60
    # Of tiles by plain chance, the number in a twentieth of the region varies as much as its mean.
    places = lots.squares_of(region, 128)
    for count in (100, 200, 300):
        some = lots.spread_order(len(places), [0, 0, 0])[:count]
        here, _, _ = np.histogram2d(places.lon[some], places.lat[some], bins=(5, 4))
        assert here.var() / here.mean() < 0.5
    assert sorted(lots.spread_order(1000, [3]).tolist()) == list(range(1000))


@pytest.mark.parametrize("sides", [(6, 46, 7, 46.5), (17.7, 42.3, 18.3, 42.6)], ids=["one zone", "two zones"])
def test_ground_of_two_splits_does_not_touch(sides):
    lot = lots.draw(box(*sides), 10_000, choice())
    counts = Counter(tile.split for tile in lot.tiles)
    assert sum(counts.values()) + lot.free == lot.fit
    assert 0.05 < counts["test"] / lot.fit < 0.16 and 0.05 < counts["validation"] / lot.fit < 0.16
    metres = {name: [] for name, _ in THREE}
    for tile in lot.tiles:
        x, y = transform_coordinates("EPSG:4326", "EPSG:32633", [tile.lon], [tile.lat])
        metres[tile.split].append((x[0], y[0]) if sides[0] > 10 else (tile.left, tile.top))
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        nearest = cKDTree(metres[one]).query(metres[other])[0].min()
        assert nearest > 1.45 * 1280


def test_each_split_gets_its_share_of_any_number():
    tiles = lots.draw(box(6, 46, 8, 47), 500, choice()).tiles
    for count in (3, 10, 100, 500):
        counts = Counter(tile.split for tile in tiles[:count])
        assert all(abs(counts[name] - max(share * count, 1)) <= 1.5 for name, share in THREE), counts


def test_days_are_of_all_seasons_and_the_next_one_is_far():
    tiles = lots.draw(box(6, 46, 8, 47), 240, choice()).tiles
    for name, least in (("train", 12), ("test", 1)):
        months = Counter(tile.date[5:7] for tile in tiles if tile.split == name)
        assert len(months) == 12 and min(months.values()) >= least
    days = [np.array(tile.dates, "M8[D]") for tile in tiles]
    assert all(
        first.min() >= np.datetime64("2023-01-01") and first.max() <= np.datetime64("2023-12-31") for first in days
    )
    assert all(abs((one[1] - one[0]).astype(int)) in (182, 183) for one in days)
    assert lots.days([0], 5, ("2023-06-01", "2023-06-01")) == ("2023-06-01",)


@pytest.mark.parametrize(
    ("sides", "settings", "count", "message"),
    [
        ((15, 42, 15.01, 42.01), {}, 5, r"holds no tile of 128 px \(1\.28 km\).*smaller --tile_size_px"),
        ((15, 42, 15.04, 42.03), {}, 5, r"the region holds \d tiles of 128 px, too few to keep .*--splits train=1"),
        ((15, 42, 16, 43), {}, 2, r"--tiles is 2, too few to keep train, validation, test apart; .*--tiles 3 at least"),
        ((0, 0, 90, 60), {"size_px": 16}, 5, r"more than 2,000,000 tiles of 16 px; give a larger --tile_size_px"),
    ],
)
def test_too_small_too_few_too_many(sides, settings, count, message):
    with pytest.raises(ValueError, match=message):
        lots.draw(box(*sides), count, dataclasses.replace(choice(), **settings))


def test_fewer_than_asked_are_all_there_are():
    lot = lots.draw(box(15, 42, 15.1, 42.05), 500, choice(splits=ALL))
    assert len(lot.tiles) == lot.fit < 40
