"""Composites of scenes whose answer is seen at a glance, out of arrays and out of an archive on loopback."""

import datetime

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform as transform_coordinates

pytest.importorskip("shapely", reason="extra 'region'")
pytest.importorskip("distributed", reason="extra 'region'")

from local_archive import stac
from region_archive import CLOUDS, DAYS, PASSES, served

from specsar_jax.regions import composites
from specsar_jax.regions.composites import Median, Recipe
from tfds_dwplus import bands
from tfds_dwplus.imagery.acquisitions import ItemError, Wanted
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.items.stac_assets import kind_of_note
from tfds_dwplus.imagery.stac_reading import ReadScene
from tfds_dwplus.simulate import simulated_tile

PLACE = ("EPSG:32633", 15.0, 42.4)
SIZE = 200


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with served(tmp_path_factory.mktemp("archive"), PLACE) as (url, _):
        yield url


@pytest.fixture(scope="module")
def grid():
    """The upper left corner of the scenes, 200 of 400 pixels, and 10 beyond their left and upper edge."""
    crs, lon, lat = PLACE
    (x,), (y,) = transform_coordinates("EPSG:4326", crs, [lon], [lat])
    left, top = round(x, -1) - 2000 - 100, round(y, -1) + 2000 + 100
    return Grid(rasterio.crs.CRS.from_user_input(crs), rasterio.Affine(10, 0, left, 0, -10, top), SIZE, SIZE)


def recipe(**changes) -> Recipe:
    wanted = Wanted(s2_bands=("B2", "B3", "B4", "B8"), s1_mean=changes.pop("s1_mean", "dB"))
    dates = ("2024-05-01", "2024-05-31")
    return Recipe(("s2", "s1"), wanted, dates, dates, **changes)


def made(url, grid, **changes):
    return composites.composite(grid, recipe(**changes), stac(url, "region-s2", "region-s1", "power"))


def truth(day: int) -> np.ndarray:
    """Digital numbers of a day on the grid, without cloud; 0 beyond the scene."""
    s2 = np.maximum(simulated_tile(3, "scene", 0, 400).s2, 1) + np.uint16(300 * day)
    places = [bands.S2_BANDS.index(name) for name in ("B2", "B3", "B4", "B8")]
    return np.pad(s2[: SIZE - 10, : SIZE - 10, places], ((10, 0), (10, 0), (0, 0)))


def cloudy(day: int) -> np.ndarray:
    mask = np.zeros((400, 400), bool)
    mask[CLOUDS[day]] = True
    return np.pad(mask[: SIZE - 10, : SIZE - 10], ((10, 0), (10, 0)))


def test_median_by_hand():
    median = Median((1, 4), 1, 3)
    clear = np.array([[True, True, True, False]])
    for numbers in ((10, 10, 0, 10), (20, 30, 7, 20), (90, 0, 0, 30), (11, 31, 9, 40)):
        median.add(np.array(numbers, np.uint16).reshape(1, 4, 1), clear)
    # Three are enough for the first; the second has 10, 30, 31, the third 7 and 9, whose mean is 8; the last is never clear.
    assert median.result()[..., 0].tolist() == [[20, 30, 8, 0]]
    assert median.missing.tolist() == [[False, False, True, True]]


def test_a_pixel_without_one_band_is_not_taken():
    median = Median((1, 1), 2, 1)
    assert not median.add(np.array([[[5, 0]]], np.uint16), np.array([[True]])).any()
    assert median.add(np.array([[[6, 7]]], np.uint16), np.array([[True]])).all()
    assert median.result().tolist() == [[[6, 7]]]


def test_least_cloudy_takes_the_clearest_day_where_it_is_clear(url, grid):
    found = made(url, grid, s2_scenes=1)
    expected = np.where(cloudy(0)[..., None], truth(1), truth(0))
    expected[cloudy(0) & cloudy(1)] = 0
    # Where a 20 m pixel of the scene classification is cut by the grid there is no such thing here: clouds lie on even pixels.
    np.testing.assert_array_equal(found.s2, expected)
    assert not found.s2[:10].any() and not found.s2[:, :10].any()  # beyond the scenes
    assert found.dates["s2"] == DAYS and len(found.items["s2"]) == 2 and not found.doubts


def test_median_of_two_days_is_their_mean(url, grid):
    found = made(url, grid, s2_scenes=5).s2
    clear = [~cloudy(day) for day in (0, 1)]
    both = clear[0] & clear[1] & truth(0).any(axis=-1)
    np.testing.assert_array_equal(found[both], truth(0)[both] + 150)
    np.testing.assert_array_equal(found[~clear[0] & clear[1]], truth(1)[~clear[0] & clear[1]])
    assert not found[~clear[0] & ~clear[1]].any()


def test_without_a_cloud_mask_and_with_a_limit(url, grid):
    found = made(url, grid, s2_scenes=1, cloud_mask=False)
    assert (found.s2[cloudy(0)] == 9000).all()
    # The second day has 13 percent of cloud by its metadata.
    assert made(url, grid, max_cloud_percent=5.0).dates["s2"] == DAYS[:1]
    assert not made(url, grid, max_cloud_percent=1.0).s2.any()


@pytest.mark.parametrize(("how", "more"), [("dB", 0.5), ("power", 10 * np.log10((1 + 10**0.1) / 2))])
def test_mean_of_two_passes(url, grid, how, more):
    """The second pass is 1 dB brighter: the mean of decibels is 0.5 dB above the first, that of power a little more."""
    found = made(url, grid, s1_mean=how)
    assert found.dates["s1"] == PASSES
    assert np.isnan(found.s1[:9]).all() and np.isnan(found.s1[:, :9]).all()
    first = made_of_first(url, grid)
    np.testing.assert_allclose((found.s1 - first)[11:, 11:], more, atol=1e-3)


def made_of_first(url, grid) -> np.ndarray:
    one = Recipe(("s1",), recipe().wanted, ("2024-05-01",) * 2, ("2024-05-01", "2024-05-10"))
    found = composites.composite(grid, one, stac(url, "region-s2", "region-s1", "power"))
    assert found.dates == {"s1": PASSES[:1]} and found.s2.shape == (SIZE, SIZE, 0)
    return found.s1


def test_a_part_of_the_grid_has_the_same_pixels(url, grid):
    """What makes blocks fit together."""
    whole = made(url, grid)
    rows, columns = slice(30, 111), slice(55, 160)
    part = made(url, grid.window(rows, columns))
    np.testing.assert_array_equal(part.s2, whole.s2[rows, columns])
    np.testing.assert_array_equal(part.s1, whole.s1[rows, columns])


class Item:
    """As much of a STAC item as the choice of scenes looks at."""

    def __init__(
        self, name: str, platform: str = "s2a", cloud: float | None = 1.0, geometry=None, minute=0, **known
    ) -> None:
        self.id, self.geometry, self.bbox, self.assets = name, geometry, None, {}
        self.datetime = datetime.datetime(2024, 5, 5, 10, tzinfo=datetime.UTC) + datetime.timedelta(minutes=minute)
        self.properties = {"eo:cloud_cover": cloud, "platform": platform, **known}


def chosen(monkeypatch, grid, items, numbers) -> composites.Composite:
    """A composite of made-up scenes that are one number all over, or have numbers in their left half, or cannot be read."""

    def read_sentinel2(items, *_):
        (item,) = items
        if isinstance(numbers[item.id], Exception):
            raise numbers[item.id]
        s2 = np.zeros((*grid.shape, 4), np.uint16)
        s2[:, :100] = abs(numbers[item.id])
        s2[:, 100:] = max(numbers[item.id], 0)
        return ReadScene(s2, "0", (), (item,))

    monkeypatch.setattr(composites.stac_api, "search", lambda *_: items)
    monkeypatch.setattr(composites.stac_reading, "read_sentinel2", read_sentinel2)
    only = Recipe(("s2",), recipe().wanted, *(("2024-05-01", "2024-05-31"),) * 2, cloud_mask=False)
    return composites.composite(grid, only, stac("http://x", "region-s2", "", ""))


def test_a_take_counts_once(monkeypatch, grid):
    """Neighbouring tiles of the satellite's grid hold the same take twice where they overlap."""
    tiles = [{"s2:mgrs_tile": name} for name in ("33TVG", "33TWG", "33TVG")]
    items = [
        Item("a", "s2a", 1.0, **tiles[0]),
        Item("b", "Sentinel-2A", 2.0, **tiles[1]),
        Item("c", "s2b", 3.0, **tiles[2]),
    ]
    found = chosen(monkeypatch, grid, items, {"a": 100, "b": 120, "c": 300})
    assert found.items["s2"] == ("a", "c") and (found.s2 == 200).all()


def test_a_satellite_that_comes_again_the_same_day_sees_anew(monkeypatch, grid):
    items = [Item("a"), Item("b", cloud=2.0, minute=99)]
    found = chosen(monkeypatch, grid, items, {"a": 100, "b": 300})
    assert found.items["s2"] == ("a", "b") and (found.s2 == 200).all()


def test_the_newest_baseline_of_a_take_is_used(monkeypatch, grid):
    """The older one, though clearer, only where the newer one has no data, or cannot be read."""
    old = Item("old", cloud=1.0, **{"s2:processing_baseline": "02.12"})
    new = Item("new", cloud=2.0, **{"s2:processing_baseline": "05.10"})
    found = chosen(monkeypatch, grid, [old, new], {"old": 100, "new": 110})
    assert found.items["s2"] == ("new",) and (found.s2 == 110).all() and found.s2_read == {"new": ("0", "05.10")}
    found = chosen(monkeypatch, grid, [old, new], {"old": 100, "new": -110})
    assert found.items["s2"] == ("new", "old") and (found.s2[:, :100] == 110).all() and (found.s2[:, 100:] == 100).all()
    lost = ItemError("new: cannot read x: HTTP 404", "a file is missing")
    found = chosen(monkeypatch, grid, [old, new], {"old": 100, "new": lost})
    assert found.items["s2"] == ("old",) and (found.s2 == 100).all()
    assert found.doubts == ("not used (a file is missing): new: cannot read x: HTTP 404",)


def test_a_block_fails_if_no_scene_is_left(monkeypatch, grid):
    lost = {name: ItemError(f"{name}: gone", "a file is missing") for name in "ab"}
    with pytest.raises(ItemError, match=r"no scene of Sentinel-2 is left: a: gone \(and 1 other scenes"):
        chosen(monkeypatch, grid, [Item("a"), Item("b", "s2b", 2.0)], lost)
    assert not chosen(monkeypatch, grid, [], {}).s2.any()  # there was none: no failure


def test_scenes_that_do_not_tell_their_cloud_come_last(monkeypatch, grid):
    items = [Item("untold", "s2a", None), Item("told", "s2b", 50.0), Item("cloudy", "s2c", 81.0)]
    found = chosen(monkeypatch, grid, items, {"untold": 100, "told": 300, "cloudy": 500})
    assert found.items["s2"] == ("told", "untold")


def test_a_scene_that_holds_a_corner_is_looked_at(monkeypatch, grid):
    """However small the corner: the block beside this one takes it, and so must this one, or there is a seam."""
    left, _, _, top = grid.bounds
    lon, lat = transform_coordinates(
        grid.crs, "EPSG:4326", [left - 50, left + 80, left - 50], [top + 50, top + 50, top - 80]
    )
    corner = {"type": "Polygon", "coordinates": [[*zip(lon, lat, strict=True), (lon[0], lat[0])]]}
    lon = [value - 0.01 for value in lon]
    beside = {"type": "Polygon", "coordinates": [[*zip(lon, lat, strict=True), (lon[0], lat[0])]]}
    items = [Item("corner", "s2a", 1.0, corner), Item("beside", "s2b", 2.0, beside)]
    assert chosen(monkeypatch, grid, items, {"corner": 100, "beside": 300}).items["s2"] == ("corner",)


def test_a_strip_beyond_the_antimeridian_is_not_looked_at(monkeypatch):
    """The footprint is cut at 180 degrees, as GeoJSON wants it; its box seems to go around the earth."""
    grid = Grid(rasterio.crs.CRS.from_epsg(32760), rasterio.Affine(10, 0, 800000, 0, -10, 8140000), 200, 200)
    (lon,), _ = transform_coordinates(grid.crs, "EPSG:4326", [801000], [8139000])
    assert 179.8 < lon < 179.9

    def cut(west: float, east: float) -> dict:
        halves = ((west, 180.0), (-180.0, east))
        rings = [[[w, -17.5], [e, -17.5], [e, -16.0], [w, -16.0], [w, -17.5]] for w, e in halves]
        return {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}

    items = [Item("strip", "s2a", 1.0, cut(179.95, -179.0)), Item("over", "s2b", 2.0, cut(179.0, -179.95))]
    assert chosen(monkeypatch, grid, items, {"strip": 100, "over": 300}).items["s2"] == ("over",)


def test_an_item_without_classes_is_left_out(url, grid, monkeypatch):
    """Of two days one has lost its scene classification; the other one is used."""
    search = composites.stac_api.search

    def without_classes(*arguments):
        found = search(*arguments)
        for item in found:
            if item.id.endswith(DAYS[0]):
                item.assets.pop("SCL")
        return found

    monkeypatch.setattr(composites.stac_api, "search", without_classes)
    found = made(url, grid)
    assert found.dates["s2"] == DAYS[1:]
    assert [kind_of_note(note)[0] for note in found.doubts] == ["an asset is missing"]
