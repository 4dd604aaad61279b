"""What of Earth Engine needs no account: filters, requests, answers, errors. The service itself is not asked."""

import datetime

import numpy as np
import pytest

from tfds_dwplus.imagery.acquisitions import ArchiveError
from tfds_dwplus.imagery.earth_engine import NODATA, arrays, explained, passes, request, scenes, window
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.items.footprints import covered_share


def test_a_window_ends_before_its_last_day():
    assert window("2020-06-04", 0) == ("2020-06-04", "2020-06-05")
    assert window("2020-06-04", 180) == ("2019-12-07", "2020-12-02")
    product = datetime.datetime(2020, 6, 7, 5, 46, tzinfo=datetime.UTC)
    assert window("2020-06-04", 0, product) == ("2020-06-04", "2020-06-09")


def test_slices_of_a_pass_are_one_scene():
    at = [
        datetime.datetime(2020, 6, day, 1, 8, second, tzinfo=datetime.UTC) for day, second in ((7, 0), (7, 25), (1, 0))
    ]
    known = {
        "system:index": ["S1A_IW_a", "S1A_IW_b", "S1B_IW_c"],
        "system:time_start": [1000 * time.timestamp() for time in at],
        "orbitProperties_pass": ["DESCENDING"] * 3,
    }
    assert passes(known, "descending") == ("descending", ["2020-06-01", "2020-06-07"])
    assert passes(known, "both") == ("both", ["2020-06-01", "2020-06-07"])
    assert passes(known, "ascending_or_descending")[0] == "descending"
    assert passes(known, "ascending") == ("ascending", [])


def test_footprints_become_polygons():
    ring = [[73, 30], [74, 30], [74, 31], [73, 31], [73, 30]]
    (scene,) = scenes(
        {
            "system:index": ["20200604T054639_20200604T054831_T43RCP"],
            "PRODUCT_ID": ["S2B_MSIL1C_20200604T054639_N0209_R048_T43RCP_20200604T083537"],
            "system:time_start": [1591250441044],
            "CLOUDY_PIXEL_PERCENTAGE": [0.8],
            "system:footprint": [{"type": "LinearRing", "coordinates": ring}],
        }
    )
    grid = Grid.parse("EPSG:32643", (10.0, 0.0, 336100.0, 0.0, -10.0, 3372000.0), 300, 300)
    assert covered_share(scene.geometry, grid) == 1 and scene.time.date().isoformat() == "2020-06-04"


def test_a_request_names_the_grid_of_the_label():
    grid = Grid.parse("EPSG:32643", (10.0, 0.0, 336100.0, 0.0, -10.0, 3372000.0), 510, 512)
    asked = request("an image", grid, ("VV", "VH"))
    assert asked["grid"] == {
        "dimensions": {"width": 512, "height": 510},
        "affineTransform": {
            "scaleX": 10.0, "shearX": 0.0, "translateX": 336100.0, "shearY": 0.0, "scaleY": -10.0, "translateY": 3372000.0,
        },
        "crsCode": "EPSG:32643",
    }  # fmt: skip
    assert asked["bandIds"] == ["VV", "VH"] and asked["expression"] == "an image"


def test_answers_become_arrays_with_our_nodata():
    """A pixel that is masked in a band, one of reflectance 0 in a band, one of 0 in all, one that is saturated in a band."""
    pixels = [[(NODATA, 1200.0), (1234.4, 0.0), (0.0, 0.0), (900.0, 70000.0)]]
    s2 = np.array(pixels, [("B2", "f4"), ("B3", "f4")])
    pixels = [[(NODATA, -20.0), (-12.5, NODATA), (-12.5, 0.0), (-45.0, -20.0)]]
    s1 = np.array(pixels, [("VV", "f4"), ("VH", "f4")])
    digital, decibel, notes = arrays(s2, s1, ("B3", "B2"))
    np.testing.assert_array_equal(digital, [[[0, 0], [1, 1234], [0, 0], [0, 0]]])
    nan = np.nan
    np.testing.assert_array_equal(decibel, np.float32([[[nan, -20.0], [-12.5, nan], [-12.5, nan], [nan, nan]]]))
    assert len(notes) == 2 and "1 pixel" in notes[0] and "of exactly 0 dB" in notes[0] and "border noise" in notes[1]


@pytest.mark.parametrize(
    ("message", "kind", "advice"),
    [
        ("Too many concurrent aggregations.", ArchiveError, "--workers"),
        ("Quota exceeded for quota metric 'Earth Engine compute'", ArchiveError, "--workers"),
        (
            "Please authorize access to your Earth Engine account by running\n\nearthengine authenticate",
            ValueError,
            "run: earthengine",
        ),
        ("ee.Initialize: no project found.", ValueError, "--earth_engine_project"),
        ("Computation timed out.", ArchiveError, "did not answer"),
    ],
)
def test_errors_say_what_to_do(message, kind, advice):
    error = explained(message)
    assert type(error) is kind and advice in str(error) and "\n" not in str(error)
