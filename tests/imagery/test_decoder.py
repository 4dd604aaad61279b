"""What stored numbers mean: scale, offset, unit and nodata, with the right values worked out by hand."""

import numpy as np
import pytest

from tfds_dwplus.imagery.decoder import backscatter, declared, reflectance
from tfds_dwplus.imagery.decoder.declared import NOTHING, Declared
from tfds_dwplus.imagery.decoder.reflectance import Linear

rng = np.random.default_rng(0)


def about(*middles: float, spread: float = 40.0, size: int = 4000) -> np.ndarray:
    """A sample about some values in equal parts."""
    return np.concatenate([rng.normal(middle, spread, size // len(middles)) for middle in middles]).round()


IN = Declared(offset=-0.1, scale=1e-4, baseline=5.11)
FLAG_SAYS_IN = Declared(offset=-0.1, scale=1e-4, baseline=5.11, offset_applied=False)
OLD = Declared(baseline=2.12)

DECISIONS = {
    # what: (declared, samples of the bands, gain, shift, part of a note)
    "declared and in": ([IN], [about(1300, 3500)], 1, -1000, ""),
    "baseline alone": ([Declared(baseline=4.0)], [about(1300, 3500)], 1, -1000, ""),
    "before 04.00": ([OLD], [about(1600)], 1, 0, ""),
    "a flag says in, and the pixels are fields of 0.04": ([FLAG_SAYS_IN], [about(400)], 1, 0, "subtracted before"),
    "fields one half, bright soil the other": ([FLAG_SAYS_IN], [about(300, 2600)], 1, 0, "subtracted before"),
    "a flag says in, and is right": ([FLAG_SAYS_IN], [about(1600, spread=1)], 1, -1000, "often wrong"),
    "SWIR of water is over-corrected": ([IN] * 2, [about(1400), about(880, spread=30)], 1, -1000, ""),
    "one pixel of a dark scene is bright": ([IN], [np.append(about(400), 60000)], 1, 0, "subtracted before"),
    "one pixel of a scene is dark": ([IN], [np.append(about(1300, 3500), 3)], 1, -1000, ""),
    "flag says off, item has the offset": (
        [Declared(offset=-0.1, scale=1e-4, baseline=5.0, offset_applied=True)], [about(1500)], 1, 0, "",
    ),
    "the archive says 0, the baseline 04.00, pixels have it": (
        [Declared(offset=0.0, scale=1e-4, baseline=5.0)], [about(1050, 2500)], 1, -1000, "disagree",
    ),
    "the archive says 0, the baseline 04.00, pixels do not tell": (
        [Declared(offset=0.0, scale=1e-4, baseline=5.0)], [about(2500)], 1, 0, "disagree",
    ),
    "Landsat's way": ([Declared(0.0000275, -0.2)], [about(12727)], 0.275, -2000, ""),
    "another scale": ([Declared(0.00005, 0.0, baseline=2.12)], [about(3000)], 0.5, 0, ""),
    "offset as a number of digital numbers": ([Declared(1e-4, -1000.0)], [about(1300, 3500)], 1, -1000, ""),
    "a quantification value": ([Declared(10000.0)], [about(300, 2500)], 1, 0, ""),
    "packed with a positive offset": ([Declared(1e-4, 0.2)], [about(-1500)], 1, 2000, ""),
    "float 0 to 1": ([NOTHING], [about(0.15, 0.4, spread=0) + 0.003], 10000, 0, "reflectance of 0 to 1"),
    "float 0 to 1, scale 1 in the item": ([Declared(1.0, 0.0)], [np.full(999, 0.15)], 10000, 0, ""),
    "float 0 to 1 and one glint": ([NOTHING], [np.append(np.full(999, 0.153), 2.01)], 10000, 0, "reflectance"),
    "float 0 to 1 and fill": ([NOTHING], [np.append(np.full(999, 0.153), np.full(3000, 65535))], 10000, 0, "0 to 1"),
    "float 0 to 1, one band all 1": ([NOTHING] * 2, [np.full(999, 0.153), np.ones(999)], 10000, 0, "0 to 1"),
    "percent": ([NOTHING], [rng.uniform(1, 40, 999)], 100, 0, "percent"),
    "floating digital numbers": ([NOTHING], [rng.uniform(200, 3000, 999)], 1, 0, ""),
    "scale in the tags, but reflectance": ([Declared(1e-4)], [rng.uniform(0.02, 0.4, 999)], 10000, 0, "already"),
    "xarray has decoded it": ([Declared(decoded=True, baseline=5.0)], [rng.uniform(0.02, 0.4, 999)], 10000, 0, ""),
    "nothing said, bright": ([NOTHING], [about(1100, 3500)], 1, 0, "nothing says whether the offset"),
    "nothing said, one dark pixel": ([NOTHING], [np.append(about(1100, 3500), 990)], 1, 0, "nothing says whether"),
    "nothing said, dark": ([NOTHING], [about(300, 2500)], 1, 0, ""),
    "no pixel": ([IN], [np.empty(0)], 1, -1000, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", DECISIONS)
def test_decisions(case):
    said, samples, gain, shift, note = DECISIONS[case]
    found = reflectance.decide([f"B{n}" for n in range(len(said))], said, samples)
    for linear in found.linear:
        assert (linear.gain, linear.shift) == (pytest.approx(gain, rel=1e-6), pytest.approx(shift, abs=0.01))
    assert note in " ".join(found.notes) and bool(note) == bool(found.notes)


def test_a_scene_in_doubt_is_refused_unless_told():
    with pytest.raises(reflectance.OffsetError, match="too bright to tell"):
        reflectance.decide(["B4"], [FLAG_SAYS_IN], [about(2500)])
    found = reflectance.decide(["B4"], [FLAG_SAYS_IN], [about(2500)], in_doubt=0)
    assert found.linear == (Linear(1.0, 0.0),) and "in doubt, as given" in found.notes[0]
    forced = reflectance.decide(["B4"], [FLAG_SAYS_IN], [about(400)], offset=0)
    assert forced.linear[0].shift == 0 and "though the metadata say 1000" in forced.notes[0]


def test_a_scale_that_makes_no_reflectance_is_refused():
    with pytest.raises(ValueError, match="has scale"):
        reflectance.decide(["B4"], [Declared(0.01)], [about(9000)])


def test_a_scale_that_makes_everything_bright_is_told():
    found = reflectance.decide(["B4"], [Declared(1e-3, 0.0)], [about(1400)])
    assert "a reflectance above 1.4 of half" in found.notes[0]


def test_what_was_done_is_told():
    found = reflectance.decide(["B4"], [IN], [about(1300, 3500)])
    assert found.said.startswith("1000 is subtracted")
    assert found.tags == {"s2_offset": "1000", "s2_scale": "0.0001"}


@pytest.mark.parametrize(
    ("stored", "nodata", "linear", "right"),
    [
        # a pixel with a 0 in one band alone is dark; one with 0 in all bands has no data
        (np.array([[0, 0, 7], [0, 300, 0]], np.uint16), (None, None), Linear(), [[0, 1, 7], [0, 300, 1]]),
        (np.array([[0, 0, 7], [0, 300, 0]], np.uint16), (0.0, 0.0), Linear(), [[0, 1, 7], [0, 300, 1]]),
        # another number is declared, so 0 is dark
        (np.array([[0, 65535], [0, 300]], np.uint16), (65535.0, 65535.0), Linear(), [[1, 0], [1, 300]]),
        (np.array([[-20, -9999], [5, -9999]], np.int16), (-9999.0, -9999.0), Linear(), [[1, 0], [5, 0]]),
        (np.array([[-20, -9999], [5, 40]], np.int16), (None, None), Linear(), [[1, 0], [5, 40]]),
        # below the offset is dark; nothing is below nothing
        (np.array([[880, 0], [1400, 0]], np.uint16), (0.0, 0.0), Linear(1.0, -1000.0), [[1, 0], [400, 0]]),
        (np.array([[0.15, np.nan], [0.4, 0.2]], np.float32), (None, None), Linear(10000.0), [[1500, 0], [4000, 2000]]),
        (np.array([[12727], [0]], np.uint16), (0.0, 0.0), Linear(0.275, -2000.0), [[1500], [1]]),
        # packed numbers below 0 are dark pixels of a file that declares its nodata
        (
            np.array([[-1900, -32768], [0, 500]], np.int16),
            (-32768.0,) * 2,
            Linear(1.0, 2000.0),
            [[100, 0], [2000, 2500]],
        ),
    ],
)
def test_pixels_of_sentinel2(stored, nodata, linear, right):
    found = reflectance.numbers_of_bands(list(stored), nodata, [linear] * len(stored))
    np.testing.assert_array_equal(np.moveaxis(found, -1, 0), right)


@pytest.mark.parametrize(
    ("unit", "stored", "right", "reason"),
    [
        ("db", [-12.0, 0.0], [-12.0, np.nan], "of exactly 0 dB"),
        ("db", [-12.0, 41.0], [-12.0, np.nan], "above 40 dB"),
        ("db", [-12.0, -100.0], [-12.0, np.nan], "below -60 dB"),
        ("power", [0.1, 20000.0], [-10.0, np.nan], "above 40 dB"),
        ("power", [0.1, -0.0003], [-10.0, np.nan], "of power below 0"),
        ("power", [0.1, 0.0], [-10.0, np.nan], ""),
        ("power", [0.1, np.inf], [-10.0, np.nan], ""),
        ("amplitude", [0.1, -9999.0], [-20.0, np.nan], ""),
        ("scaled", [4467.0, 0.0], [-10.0, np.nan], ""),
    ],
)
def test_pixels_of_sentinel1(unit, stored, right, reason):
    dropped: dict[str, int] = {}
    found = backscatter.decibels(np.array(stored, np.float32), True, unit, dropped)
    np.testing.assert_allclose(found, right, atol=1e-3)
    assert dropped == ({reason: 1} if reason else {})


def test_border_noise_is_taken_out_of_both_bands():
    dropped: dict[str, int] = {}
    values = np.array([[-12.0, -20.0], [-45.0, -30.0], [-14.0, -47.0]], np.float32)
    found = backscatter.without_border_noise(("VV", "VH"), values, dropped)
    np.testing.assert_array_equal(np.isnan(found), [[False, False], [True, True], [False, False]])
    assert list(dropped.values()) == [1]


@pytest.mark.parametrize(
    ("unit", "stored", "other"),
    [
        ("db", 0.05, "power"),
        ("power", -12.0, "db"),
        ("db", 4000.0, "power or amplitude or scaled"),
        ("power", 4000.0, "db or amplitude or scaled"),
        ("scaled", 0.1, "db or power or amplitude"),
    ],
)
def test_a_median_that_cannot_be_the_unit_is_refused(unit, stored, other):
    with pytest.raises(ValueError, match=other):
        backscatter.check_unit("s1.tif", np.full(200, stored) * rng.uniform(0.9, 1.1, 200), unit)
    backscatter.check_unit("s1.tif", np.append(np.full(200, -12.0), [4000.0, -500.0]), "db")  # two odd pixels


def test_sigma_and_gamma_are_told_apart():
    assert backscatter.quantity_named(["Sigma0_VV_db"]) == "sigma0"
    assert backscatter.quantity_named(["S1A_IW_RTC10_gamma0", "VV"]) == "gamma0"
    assert backscatter.quantity_named(["VV"]) == backscatter.quantity_named(["sigma0 and gamma0"]) == ""
    assert "trained on sigma0" in backscatter.other_quantity("gamma0", "sigma0 dB")
    assert not backscatter.other_quantity("", "sigma0 dB") and not backscatter.other_quantity("sigma0", "sigma0 dB")


@pytest.mark.parametrize(
    ("text", "baseline"),
    [
        ("N0510", 5.1), ("05.10", 5.1), ("0510", 5.1), (5.1, 5.1), ("05.11", 5.11), ("02.14", 2.14), ("5", 5.0),
        ("99.05", None), ("99.99", None), ("V210", None), ("Sen2Cor_02.11.00", None), ("1.0.0", None), (None, None),
    ],
)  # fmt: skip
def test_baselines(text, baseline):
    assert declared.parse_baseline(text) == baseline


def test_names_under_any_prefix_and_spelling():
    asset = {"href": "x", "raster:bands": [{"scale": 0.0001, "offset": -0.1, "nodata": 0}]}
    item = {"s2:processing_baseline": "05.11", "earthsearch:boa_offset_applied": False, "version": "2"}
    assert declared.of_item(item, asset) == Declared(1e-4, -0.1, 0.0, 5.11, False)
    stac_1_1 = {"raster:scale": 0.0001, "raster:offset": -0.1, "nodata": 0, "bands": [{"name": "B02"}]}
    assert declared.of_item({"processing:version": "05.11"}, stac_1_1) == Declared(1e-4, -0.1, 0.0, 5.11)
    in_bands = {"bands": [{"raster:scale": 2e-5, "nodata": -999}]}
    assert declared.of_item({"processing:version": "V210"}, in_bands) == Declared(2e-5, None, -999.0)
    name = "S2A_MSIL2A_20190605T100031_N0511_R122_T33TVG_20190605T123456"
    assert declared.of_item({}, {}, name).baseline == 5.11
    assert declared.of_item({}, {}, "map_N3510_E0200").baseline is None
    assert declared.of_tags({"SCALE_FACTOR": "0.0001"}, {"PROCESSING_BASELINE": "05.09"}) == Declared(
        1e-4, baseline=5.09
    )
    assert declared.of_tags({}, scale=2e-5) == Declared(2e-5)
    assert declared.of_tags({"scale": "10", "offset": "none"}) == NOTHING  # the size of a pixel
    assert declared.of_tags({"QUANTIFICATION_VALUE": "10000", "BOA_ADD_OFFSET": "-1000"}) == Declared(1e-4, -1000.0)


def test_attributes_of_arrays():
    plain = declared.of_array({"scale_factor": 1.0, "add_offset": 0.0, "_FillValue": 0}, {}, {}, 0)
    assert plain == Declared(nodata=0.0)
    listed = declared.of_array({"scales": (1e-4, 2e-5), "offsets": (-0.1, 0.0)}, {}, {}, 1)
    assert (listed.scale, listed.offset) == (2e-5, 0.0)
    assert declared.of_array({"scale": 10}, {}, {}, 0) == NOTHING
    decoded = declared.of_array({}, {"scale_factor": 1e-4, "add_offset": -0.1}, {"s2:processing_baseline": "05.09"}, 0)
    assert decoded.decoded and decoded.baseline == 5.09 and decoded.scale is None
