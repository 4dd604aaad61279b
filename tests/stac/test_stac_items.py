"""What is read from the metadata of STAC items, in the spellings of many archives."""

import datetime
import json

import pytest
from conftest import REPOSITORY

from tfds_dwplus import bands
from tfds_dwplus.imagery.acquisitions import ItemError
from tfds_dwplus.imagery.items.stac_items import (
    asset_of,
    baseline_note,
    direction,
    known,
    passes,
    platform,
    scene_metadata,
    usable,
)
from tfds_dwplus.imagery.stac_api import Collection

pystac = pytest.importorskip("pystac", reason="the extra acquire is not installed")
HERE = Collection("http://x", "c")
PROPERTIES = {"sat:orbit_state": "descending", "platform": "sentinel-1a"}


def item(name="x", properties=(), assets=("VV", "VH"), when="2019-06-05T10:00:00", link="http://x/c/items/x"):
    """An item; assets are keys, or keys and their fields."""
    made = pystac.Item(name, None, None, datetime.datetime.fromisoformat(when), dict(properties))
    for key, fields in assets.items() if isinstance(assets, dict) else ((key, {}) for key in assets):
        made.add_asset(key, pystac.Asset.from_dict({"href": f"http://x/{key}.tif"} | fields))
    if link:
        made.add_link(pystac.Link("self", link))
    return made


def test_a_field_is_found_under_any_prefix_and_null_is_nothing():
    fields = {"eo:cloud_cover": None, "s2:cloudCover": 3.0, "PROJ:EPSG": 32633}
    assert known(fields, "cloudcover") == 3.0 and known(fields, "epsg") == 32633
    assert known(fields, "gsd", "epsg") == 32633 and known(fields, "gsd") is None


@pytest.mark.parametrize(
    ("properties", "name", "baseline", "noted"),
    [
        ({"processing:version": "N0510"}, "x", 5.1, False),
        ({"processing:version": 5.1}, "x", 5.1, False),
        ({"processing:version": "05.11"}, "x", 5.11, False),
        ({"sentinel:processing_baseline": "02.12"}, "x", 2.12, False),
        ({"s2:processing_baseline": None, "processing:version": "04.00"}, "x", 4.0, False),
        ({}, "S2A_MSIL2A_20240205T100031_N0510_R122_T33TVG_20240205T123456", 5.1, False),
        ({"processing:version": "V210"}, "S2A_MSIL2A_20240205T100031_N0510_R122_T33TVG_20240205T123456", 5.1, False),
        ({"processing:version": "99.05"}, "x", None, True),
        ({"processing:version": "V210"}, "x", None, True),
        ({"processing:version": "Sen2Cor_02.11.00"}, "x", None, True),
        ({"processing:version": "1.0.0"}, "x", None, True),
        ({"version": "04.00"}, "x", None, False),  # of the item
        ({}, "x", None, False),
    ],
)
def test_processing_baseline(properties, name, baseline, noted):
    found = item(name, properties)
    assert scene_metadata(found).baseline == baseline
    assert bool(baseline_note(found)) is noted


@pytest.mark.parametrize("said", ["sentinel-2a", "Sentinel-2A", "SENTINEL2A", "s2a", "S2A", None])
def test_a_satellite_has_one_name(said):
    assert platform(item("S2A_33TVG_20190605_0_L2A", {"platform": said})) == "sentinel-2a"


@pytest.mark.parametrize(
    ("name", "properties", "code"),
    [
        ("x", {"proj:code": "EPSG:32733", "grid:code": "MGRS-33TVG"}, 32733),
        ("x", {"proj:epsg": 32633}, 32633),
        ("x", {"proj:epsg": None, "grid:code": "MGRS-33TVG"}, 32633),
        ("S2A_1KAB_20230821_0_L2A", {}, 32701),
        ("x", {}, None),
    ],
)
def test_zone_of_a_scene(name, properties, code):
    assert scene_metadata(item(name, properties)).epsg == code


@pytest.mark.parametrize(
    ("assets", "found"),
    [
        # Copernicus Data Space: the finest of three
        ({"B02_20m": {}, "B02_10m": {}, "B02_60m": {}, "TCI_10m": {}}, "B02_10m"),
        # stactools: the resolution of the first is told by gsd
        ({"blue_20m": {"eo:bands": [{"name": "B02"}], "proj:transform": [20.0, 0, 0, 0, -20.0, 0]}, "blue": {"gsd": 10}}, "blue"),
        # Earth Search v1, with a JPEG 2000 beside, and a picture
        ({"blue-jp2": {"eo:bands": [{"name": "blue"}]}, "visual": {"eo:bands": [{"name": "blue"}, {"name": "red"}]}, "blue": {}}, "blue"),
        ({"a": {"bands": [{"name": "B02"}]}, "b": {}}, "a"),
        ({"a": {"title": "Band 2 - Blue - 10m"}, "b": {"title": "Band 12"}}, "a"),
        ({"B02": {"type": "application/xml"}, "b": {"bands": [{"name": "blue"}]}}, "b"),
        # one file of all bands
        ({"stack": {"bands": [{"name": "B02"}, {"name": "B03"}]}, "visual": {"bands": [{"name": "B02"}, {"name": "B03"}]}}, "stack"),
    ],
)  # fmt: skip
def test_the_asset_of_a_band(assets, found):
    assert asset_of(item(assets=assets), "B2", HERE)[0] == found


def test_assets_by_mapping_or_not_at_all():
    mapped = Collection("http://x", "c", (("B2", "Blau"),))
    assert asset_of(item(assets=("blau", "blue")), "B2", mapped)[0] == "blau"
    with pytest.raises(ItemError, match="item x of c has no asset Blau; it has B02, B03; name assets by --s2_assets"):
        asset_of(item(assets=("B02", "B03")), "B2", mapped)
    assert asset_of(item(assets=("SCL_60m", "SCL_20m", "B02")), "SCL", HERE)[0] == "SCL_20m"
    assert asset_of(item(assets=("noise-vv", "vv", "vh")), "VV", HERE)[0] == "vv"
    assert asset_of(item(assets=("gamma0_vh", "gamma0_vv")), "VV", HERE)[0] == "gamma0_vv"


def address(href, link="http://x/c/items/x", **fields):
    return asset_of(item(assets={"B02": {"href": href} | fields}, link=link), "B2", HERE)[1].href


def test_addresses_are_resolved_and_those_of_this_machine_refused(monkeypatch, tmp_path):
    assert address("/etc/passwd") == "http://x/etc/passwd"
    assert address("HTTPS://x/B02.tif") == "https://x/B02.tif"
    assert address("./R10m/B02.jp2") == "http://x/c/items/R10m/B02.jp2"
    assert address("../B02.tif", "https://x/a/b/item.json") == "https://x/a/B02.tif"
    assert address("B02.tif", "s3://bucket/a/item.json") == "s3://bucket/a/B02.tif"
    hrefs = (
        "file:///etc/passwd",
        "/vsicurl/http://x",
        "/vsizip//home/me/a.zip",
        "ftp://x/B02.tif",
        "vrt://a.tif",
        "http:///a",
    )
    for href in (*hrefs, "<VRTDataset/>", "https://x/a\nb.tif", "https://<VRTDataset>"):
        with pytest.raises(ItemError, match="expected one that begins with http"):
            address(href)
    with pytest.raises(ItemError, match=r"relative address \./B02\.tif"):
        address("./B02.tif", link=None)
    alternate = {"alternate": {"https": {"href": "https://x/B02.jp2"}}}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_NO_SIGN_REQUEST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert address("s3://eodata/B02.jp2", **alternate) == "https://x/B02.jp2"
    assert address("s3://eodata/B02.jp2") == "s3://eodata/B02.jp2"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    assert address("s3://eodata/B02.jp2", **alternate) == "s3://eodata/B02.jp2"


def test_sentinel1_items_that_lack_something_are_left_out_and_told():
    good = item("good", PROPERTIES | {"sar:polarizations": ["vv", "vh"], "sar:instrument_mode": "iw"}, ("vv", "vh"))
    null = item("null", PROPERTIES | {"sar:polarizations": None, "sat:orbit_state": "DESCENDING"})
    alone = item("alone", PROPERTIES, ("vv",))
    lost = [item(name, {"sat:orbit_state": None}) for name in ("lost", "lost2")]
    others = [item("one", PROPERTIES | {"sar:polarizations": ["VV"]}), item("wide", {"sar:instrument_mode": "EW"})]
    chosen, notes = usable([good, null, alone, *lost, *others], "descending", HERE)
    assert [one.id for one in chosen] == ["good", "null"]
    assert len(notes) == 2
    assert "not used (an asset is missing): item alone of c has no asset for band VH" in notes[0]
    assert "item lost of c tells no orbit direction" in notes[1] and "1 more like it" in notes[1]
    chosen, notes = usable([good, *lost], "both", HERE)
    assert len(chosen) == 3 and not notes
    assert direction(item(properties={"orbitDirection": "ASCENDING"})) == "ascending"


def test_passes_about_midnight_processed_twice_and_spelt_in_two_ways():
    def at(name, when, **more):
        return item(name, PROPERTIES | more, when=when)

    items = [
        at("a", "2024-05-05T23:59:50"),
        at("b", "2024-05-06T00:00:15", platform="SENTINEL-1A"),
        at("a2", "2024-05-05T23:59:50", platform="S1A"),
        at("other", "2024-05-05T23:59:50", platform="sentinel-1b"),
        at("next", "2024-05-06T01:38:00"),
        at("up", "2024-05-06T12:00:00", **{"sat:orbit_state": "ascending"}),
    ]
    found = [(date, {one.id for one in slices}) for date, slices in passes(items, "descending")]
    assert found == [("2024-05-05", {"a", "a2", "b"}), ("2024-05-05", {"other"}), ("2024-05-06", {"next"})]
    assert len(passes(items, "both")) == 4


REAL = REPOSITORY.parent / "shared" / "field" / "acquire" / "files"
"""Items as Earth Search (old and new), Planetary Computer and stactools wrote them; their README names the sources."""


@pytest.mark.skipif(not REAL.is_dir(), reason="the field test's files are not here")
@pytest.mark.parametrize(
    ("name", "platform_", "zone", "baseline", "take"),
    [
        ("answer_earth_search_l1c_27VWK", "sentinel-2b", 32627, 5.1, "GS2B_20240206T131259_036143"),
        ("item_earth_search_v0_28QCH", "sentinel-2a", 32628, 2.14, ""),
        ("item_planetary_computer_T06VVN", "sentinel-2b", 32606, 2.12, "GS2B_20190629T212529_012081"),
        ("item_stactools_T01WCP_N0509_antimeridian", "sentinel-2a", 32601, 5.09, "GS2A_20230625T234621_041826"),
    ],
)
def test_real_items(name, platform_, zone, baseline, take):
    tree = json.loads((REAL / f"{name}.json").read_bytes())
    real = pystac.Item.from_dict(tree["features"][0] if "features" in tree else tree)
    if "stactools" in name:  # it is not of an API, so has no link to itself
        real.add_link(pystac.Link("self", "http://x/c/items/x"))
    scene = scene_metadata(real)
    assert (scene.platform, scene.epsg, scene.baseline, scene.datatake) == (platform_, zone, baseline, take)
    for band in bands.S2_BANDS:
        assert f"B{int(band[1:]):02d}" in asset_of(real, band, HERE)[1].href
