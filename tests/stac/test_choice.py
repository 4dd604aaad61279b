"""Which Sentinel-2 scenes a label gets, by their metadata."""

import dataclasses
import datetime

import pytest
from rasterio.warp import transform

from tfds_dwplus.imagery.acquisitions import (
    NoImageryError,
    SceneMetadata,
    by_take,
    is_of_product,
    mgrs_epsg,
    mgrs_tile,
    parse_product,
    platform_of,
    ranked_takes,
)
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.labels.published import LabelTile

GRID = Grid.parse("EPSG:32633", (10.0, 0.0, 500000.0, 0.0, -10.0, 4700000.0), 510, 510)
WEST, EAST = (lon for lon in transform("EPSG:32633", "EPSG:4326", [500000.0, 505100.0], [4697500.0] * 2)[0])
PRODUCT = "S2A_MSIL2A_20190605T100031_N0212_R122_T33TVG_20190605T123456"
TILE = LabelTile("t", "train", "expert", "EH", 4, 15.03, 42.4, "2019-06-05", "", (("", ""),))
LABELLED = dataclasses.replace(TILE, s2_product_id=PRODUCT)


def scene(name, when="2019-06-05T10:00:31", cloud=5.0, share=(0.0, 1.0), **more):
    """A scene that covers a part of the tile, from west to east."""
    west, east = (WEST + part * (EAST - WEST) for part in share)
    west, east = west - (share[0] == 0), east + (share[1] == 1)
    ring = [[west, 42], [east, 42], [east, 43], [west, 43], [west, 42]]
    time = datetime.datetime.fromisoformat(when).replace(tzinfo=datetime.UTC)
    return SceneMetadata(
        name, time, cloud, {"type": "Polygon", "coordinates": [ring]}, **({"platform": "sentinel-2a"} | more)
    )


def ranked(*scenes, tile=TILE, days=0):
    return [[scenes[place].names for place in take] for take in ranked_takes(scenes, tile, GRID, days)]


def test_cover_then_cloud_then_time():
    found = ranked(
        scene("cloudy", "2019-06-06T10:00:00", 9.0),
        scene("strip", "2019-06-03T10:00:00", 0.0, (0, 0.2)),
        scene("far", "2019-06-09T10:00:00", 5.0),
        scene("near", "2019-06-04T10:00:00", 5.0),
        scene("beside", "2019-06-05T10:00:00", 0.0, (1.1, 1.2)),
        scene("later", "2019-06-15T10:00:00", 0.0),
        days=5,
    )
    assert found == [["near"], ["far"], ["cloudy"], ["strip"]]


def test_parts_of_a_take_count_together():
    halves = [scene("left", share=(0, 0.55)), scene("right", share=(0.45, 1))]
    other = scene("other", "2019-06-07T10:00:00", 0.0, (0, 0.8))
    assert ranked(other, *halves, days=3) == [["left", "right"], ["other"]]


def test_own_zone_then_newest_baseline_where_the_cover_is_equal():
    scenes = [
        scene("other_zone", cloud=0.0, epsg=32634, baseline=5.1),
        scene("S2A_34TBM_20190605", cloud=0.0, baseline=5.1),  # the other zone by its name
        scene("old", cloud=1.0, epsg=32633, baseline=2.12),
        scene("new", cloud=2.0, epsg=32633, baseline=5.0),
        scene("newest", cloud=2.0, epsg=32633, baseline=5.0, made="20240101"),
        scene("undated", cloud=0.0, epsg=32633, baseline=5.0),
        scene("half", cloud=0.0, share=(0, 0.5), epsg=32633, baseline=5.1),
    ]
    assert ranked(*scenes) == [["newest", "undated", "new", "old", "S2A_34TBM_20190605", "other_zone", "half"]]


@pytest.mark.parametrize("date", ["2019-06-04", "2019-06-05", "2019-06-06"])
def test_the_labelled_product_is_found_whatever_day_the_label_is_filed_under(date):
    scenes = [
        scene("S2A_33TVG_20190605_0_L2A", "2019-06-05T10:08:00", 90.0, (0, 0.5)),
        scene("S2A_34TBM_20190605_0_L2A", "2019-06-05T10:08:00", 0.0),
        scene("S2B_33TVG_20190605_0_L2A", "2019-06-05T10:08:00", 0.0, platform="sentinel-2b"),
        scene("S2A_33TVG_20190604_0_L2A", "2019-06-04T10:00:00", 0.0),
    ]
    tile = dataclasses.replace(LABELLED, date=date)
    # The tile of the next zone is of the same take, and has what the labelled one lacks.
    assert ranked(*scenes, tile=tile)[0] == ["S2A_34TBM_20190605_0_L2A", "S2A_33TVG_20190605_0_L2A"]
    assert ranked(*scenes[:1], *scenes[2:], tile=tile)[0] == ["S2A_33TVG_20190605_0_L2A"]


def test_two_orbits_of_one_satellite_on_a_day_and_a_take_about_midnight():
    names = "S2A_33XVG_20190605"
    first, second = scene(f"{names}_0", "2019-06-05T10:01:00"), scene(f"{names}_1", "2019-06-05T11:40:00", 0.0)
    product = dataclasses.replace(LABELLED, s2_product_id=PRODUCT.replace("T33TVG", "T33XVG"))
    assert ranked(second, first, tile=product) == [[f"{names}_0"], [f"{names}_1"]]
    before, after = scene("a", "2019-06-05T23:58:00"), scene("b", "2019-06-06T00:03:00")
    assert by_take([before, after, first, second]) == [[2], [3], [0, 1]]


def test_a_datatake_counts_more_than_the_time():
    long = [scene("a", datatake="GS2A_1"), scene("b", "2019-06-05T10:20:00", datatake="GS2A_1")]
    assert by_take(long) == [[0, 1]]
    days = [scene("a", "2019-06-05T00:00:00", datatake="GS2A_1"), scene("b", "2019-06-05T00:00:00", datatake="GS2A_2")]
    assert by_take(days) == [[0], [1]]
    assert by_take([scene("a"), scene("b", platform="sentinel-2b")]) == [[0], [1]]


@pytest.mark.parametrize(
    ("names", "when", "same"),
    [
        ("S2A_MSIL2A_20190605T100031_N0500_R122_T33TVG_20230701T000000", "2019-06-05T10:00:31", True),
        ("S2A_MSIL2A_20190605T100031_R122_T33TVG_20200905T101112", "2019-06-05T10:00:31", True),
        ("20190605T100031_20190605T100258_T33TVG", "2019-06-05T10:02:58", True),
        ("S2A_33TVG_20190605_0_L2A", "2019-06-05T10:08:12", True),
        ("S2A_33TVG_20190605_0_L2A", "2019-06-05T00:00:00", True),  # no time of day
        ("S2A_33TVG_20190606_0_L2A", "2019-06-06T00:00:00", False),
        ("S2A_33TVH_20190605_0_L2A", "2019-06-05T10:08:12", False),
        ("S2A_33TVG_20190605_1_L2A", "2019-06-05T11:40:00", False),
        ("S2B_33TVG_20190605_0_L2A", "2019-06-05T10:08:12", False),
        ("a name of its own", "2019-06-05T10:08:12", True),
    ],
)
def test_a_scene_is_known_as_the_labelled_one(names, when, same):
    platform = "sentinel-2b" if names.startswith("S2B") else "sentinel-2a"
    assert is_of_product(scene(names, when, platform=platform), parse_product(PRODUCT)) is same


def test_ids_of_products():
    old = parse_product("S2A_OPER_PRD_MSIL1C_PDMC_20160318T145513_R008_V20160318T103109_20160318T103109")
    assert old.time == datetime.datetime(2016, 3, 18, 10, 31, 9, tzinfo=datetime.UTC) and not old.place
    assert parse_product(f"{PRODUCT}.SAFE") == parse_product(PRODUCT)
    assert parse_product(PRODUCT).place == "33TVG" and parse_product(PRODUCT).platform == "sentinel-2a"
    for text in ("", "n/a", "S2A_MSIL2A_20191305T100031_N0212_R122_T33TVG_20190605T123456", "S1A_IW_20190605T100031"):
        assert parse_product(text) is None
    assert mgrs_tile("S2A_1KAB_20230821_0_L2A") == "01KAB" and mgrs_epsg("01KAB") == 32701
    assert mgrs_tile("S2A_MSIL2A_20190605T100031_N0212_R122") == "" and mgrs_epsg("") is None
    assert platform_of("GRD S1C_IW") == "sentinel-1c" and platform_of("landsat-8") == ""


def test_no_scene_is_told_with_the_product():
    with pytest.raises(NoImageryError, match=r"^no Sentinel-2 scene within 0 days of 2019-06-05 .*--s2_window_days"):
        ranked(scene("later", "2019-06-07T10:00:00"))
    with pytest.raises(NoImageryError, match=rf"^neither the labelled product {PRODUCT} nor another .* within 0 days"):
        ranked(scene("later", "2019-06-07T10:00:00"), tile=LABELLED)
    assert ranked_takes([scene("later", "2019-06-07T10:00:00")], LABELLED, GRID, 2)[0][0] == 0
