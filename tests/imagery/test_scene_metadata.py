"""What is known of a scene of an archive before its pixels count: unit of its backscatter, offset, product, geometry."""

import datetime
import warnings

import numpy as np
import pytest
import rasterio

from tfds_dwplus.imagery.acquisitions import is_product, read_on_grid, to_power
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.stac import baseline_offset

NORTH = Grid.parse("EPSG:32633", (10.0, 0.0, 705000.0, 0.0, -10.0, 4700000.0), 128, 128)


@pytest.mark.parametrize(
    ("unit", "values", "message"),
    [
        ("power", [-12.0, -8.0], "holds values from -12 to -8, expected linear power"),
        ("db", [0.05, 0.2], "in the middle below 0"),
        ("db", [-9999.0, -12.0], "-60 to 40 dB"),
        ("scaled", [0.05, 0.2], "20 log10"),
        ("scaled", [1e6, 2e6], "-60 to 40 dB"),
        ("power", [2e4, 3e4], "-60 to 40 dB"),
    ],
)
def test_backscatter_of_another_unit_is_refused(unit, values, message):
    with pytest.raises(ValueError, match=f"{message}.*--s1_unit"):
        to_power(
            np.full((20, 20), values[1], np.float32) - np.eye(20, dtype=np.float32) * (values[1] - values[0]),
            unit,
            None,
            "s",
        )


def test_units_agree_and_nodata_is_no_power():
    db = np.array([[-20.0, -10.0, np.nan]])
    power = to_power(db, "db", None, "s")
    np.testing.assert_allclose(power, [[0.01, 0.1, np.nan]], rtol=1e-6)
    np.testing.assert_array_equal(to_power(power, "power", None, "s"), power)
    scaled = to_power(np.array([[1413, 4467, 0]], np.uint16), "scaled", None, "s")
    np.testing.assert_allclose(scaled, power, rtol=1e-3)
    assert np.isnan(to_power(np.array([[0.1, -32768.0, 0.0, 1e-9]]), "power", -32768.0, "s")[0, 1:]).all()


def item_with(properties=(), name="S2_item", **asset):
    pystac = pytest.importorskip("pystac", reason="the extra acquire is not installed")
    item = pystac.Item(name, None, None, datetime.datetime(2022, 5, 5), dict(properties))
    item.add_asset("B2", pystac.Asset("http://x/B2.tif", extra_fields=asset))
    return item, item.assets["B2"]


@pytest.mark.parametrize(
    ("properties", "name", "asset", "offset"),
    [
        ({}, "x", {}, None),
        ({"s2:processing_baseline": "03.01"}, "x", {}, 0),
        ({"s2:processing_baseline": "04.00"}, "x", {}, 1000),
        ({"processing:version": "05.09"}, "x", {}, 1000),
        ({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True}, "x", {}, 0),
        ({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": False}, "x", {}, 1000),
        ({}, "S2B_MSIL1C_20220604T054639_N0400_R048_T43RCP_20220604T083537", {}, 1000),
        ({"s2:product_uri": "S2B_MSIL1C_20200604T054639_N0209_R048_T43RCP_20200604T083537.SAFE"}, "x", {}, 0),
        ({}, "x", {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}, 1000),
        ({}, "x", {"bands": [{"raster:scale": 0.0001, "raster:offset": -0.1}]}, 1000),
        ({"s2:processing_baseline": "05.00"}, "x", {"raster:bands": [{"scale": 0.0001, "offset": 0}]}, 0),
        ({"s2:processing_baseline": "02.14"}, "x", {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}, 0),
    ],
)
def test_offset_by_metadata(properties, name, asset, offset):
    assert baseline_offset(*item_with(properties, name, **asset)) == offset


@pytest.mark.parametrize(
    ("names", "same"),
    [
        ("S2B_MSIL2A_20200604T054639_N0214_R048_T43RCP_20200604T094332", True),
        ("S2B_MSIL2A_20200604T054639_R048_T43RCP_20200905T101112", True),
        ("20200604T054639_20200604T054831_T43RCP", True),
        ("S2B_43RCP_20200604_0_L2A", True),
        ("S2B_43RCQ_20200604_0_L2A", False),
        ("S2A_43RCP_20200604_0_L2A", False),
        ("S2B_43RCP_20200605_0_L2A", False),
        ("S2B_MSIL2A_20200604T054639_N0214_R048_T43RCQ_20200604T094332", False),
    ],
)
def test_a_product_is_known_by_its_names(names, same):
    assert is_product(names, "S2B_MSIL2A_20200604T054639_N0214_R048_T43RCP_20200604T094332") is same
    assert not is_product(names, "")


def test_a_scene_in_radar_geometry_is_refused(tmp_path):
    path = tmp_path / "vv.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", height=64, width=64, count=1, dtype="float32") as raster:
            raster.write(np.full((64, 64), 0.1, np.float32), 1)
    with pytest.raises(ValueError, match="radar geometry"):
        read_on_grid(str(path), NORTH, lambda stored, nodata: stored)
