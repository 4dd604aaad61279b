"""Legends code by code; unknown codes, and the two Dynamic World numberings."""

import numpy as np
import pytest

from specsar_jax.accuracy import legends
from tfds_dwplus import bands

WATER, TREES, GRASS, FLOODED, CROPS, SHRUB, BUILT, BARE, SNOW = range(9)
OUT = bands.IGNORE

EXPECTED = {
    "dynamic_world": {code: code for code in range(9)} | {255: OUT},
    "dynamic_world_labels": {code: code - 1 for code in range(1, 10)} | {0: OUT, 10: OUT, 255: OUT},
    "worldcover": {
        0: OUT, 10: TREES, 20: SHRUB, 30: GRASS, 40: CROPS, 50: BUILT, 60: BARE, 70: SNOW, 80: WATER, 90: FLOODED, 95: FLOODED,
        100: OUT, 255: OUT,
    },
    "esri": {0: OUT, 1: WATER, 2: TREES, 4: FLOODED, 5: CROPS, 7: BUILT, 8: BARE, 9: SNOW, 10: OUT, 11: GRASS, 255: OUT},
    "esri_2020": {
        0: OUT, 1: WATER, 2: TREES, 3: GRASS, 4: FLOODED, 5: CROPS, 6: SHRUB, 7: BUILT, 8: BARE, 9: SNOW, 10: OUT, 255: OUT,
    },
    "nlcd": {
        0: OUT, 11: WATER, 12: SNOW, 21: OUT, 22: BUILT, 23: BUILT, 24: BUILT, 31: BARE, 41: TREES, 42: TREES, 43: TREES, 51: SHRUB,
        52: SHRUB, 71: GRASS, 72: GRASS, 73: OUT, 74: OUT, 81: OUT, 82: CROPS, 90: OUT, 95: FLOODED, 127: OUT, 250: OUT, 255: OUT,
    },
}  # fmt: skip

CORINE = {
    111: BUILT, 112: BUILT, 121: BUILT, 122: BUILT, 123: BUILT, 124: OUT, 131: BARE, 132: OUT, 133: OUT, 141: OUT, 142: OUT,
    211: CROPS, 212: CROPS, 213: OUT, 221: CROPS, 222: OUT, 223: OUT, 231: OUT, 241: CROPS, 242: CROPS, 243: OUT, 244: OUT,
    311: TREES, 312: TREES, 313: TREES, 321: GRASS, 322: SHRUB, 323: SHRUB, 324: SHRUB, 331: BARE, 332: BARE, 333: OUT, 334: OUT,
    335: SNOW, 411: FLOODED, 412: FLOODED, 421: FLOODED, 422: OUT, 423: OUT, 511: WATER, 512: WATER, 521: WATER, 522: WATER,
    523: WATER,
}  # fmt: skip
EXPECTED["corine"] = (
    CORINE
    | dict(zip(range(1, 45), CORINE.values(), strict=True))
    | dict.fromkeys((0, 48, 49, 50, 128, 255, 990, 995, 999), OUT)
)


@pytest.mark.parametrize("name", legends.LEGENDS)
def test_every_code(name):
    legend = legends.find(name, bands.DYNAMIC_WORLD)
    assert {code.code for code in legend.codes} | set(legend.nodata) == set(EXPECTED[name])
    for code, expected in EXPECTED[name].items():
        ids = legends.class_ids(np.full((2, 3), code, np.uint16), legend, bands.DYNAMIC_WORLD)
        assert ids.dtype == np.uint8 and (ids == expected).all(), code
    for code in legend.codes:
        assert code.becomes or code.reason, f"{code.called} is left out without a reason"


@pytest.mark.parametrize("name", legends.LEGENDS)
def test_every_other_code_is_refused(name):
    legend = legends.find(name, bands.DYNAMIC_WORLD)
    for code in set(range(-2, 1100)) - set(EXPECTED[name]):
        with pytest.raises(ValueError, match=rf"^x.tif holds the code {code}, which legend {name} does not have"):
            legends.class_ids(np.array([[legend.codes[0].code, code]], np.int32), legend, bands.DYNAMIC_WORLD, "x.tif")


def test_pixels_keep_their_places():
    codes = np.array([[80, 10, 0], [100, 95, 30]], np.uint8)
    np.testing.assert_array_equal(
        legends.class_ids(codes, legends.WORLDCOVER, bands.DYNAMIC_WORLD), [[0, 1, 255], [255, 3, 2]]
    )


def test_only_rangeland_merges_classes():
    assert {name: legend.merged for name, legend in legends.LEGENDS.items() if legend.merged} == {
        "esri": (("grass", "shrub_and_scrub"),)
    }


def test_unknown_codes_are_named_in_one_line():
    codes = np.arange(60, dtype=np.uint8).reshape(6, 10)
    with pytest.raises(
        ValueError, match=r"codes 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\., which .* it has 10, 20, .*100"
    ) as error:
        legends.class_ids(codes, legends.WORLDCOVER, bands.DYNAMIC_WORLD)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no legend 'modis', expected one of dynamic_world, "):
        legends.find("modis", bands.DYNAMIC_WORLD)


def test_label_codes_in_a_product_are_refused():
    with pytest.raises(ValueError, match=r"code 9.*count from 1: give --legend dynamic_world_labels"):
        legends.class_ids(np.array([[1, 9]], np.uint8), legends.DYNAMIC_WORLD, bands.DYNAMIC_WORLD)
    with pytest.raises(ValueError, match=r"codes 9, 10.*count from 1"):
        legends.class_ids(np.array([[10, 9]], np.uint8), legends.DYNAMIC_WORLD, bands.DYNAMIC_WORLD)
    with pytest.raises(ValueError, match=r"code 30.*another --legend"):
        legends.class_ids(np.array([[1, 30]], np.uint8), legends.DYNAMIC_WORLD, bands.DYNAMIC_WORLD)


def joint_of(codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    joint = np.zeros((11, 9), np.int64)
    np.add.at(joint, (codes, labels), 1)
    return joint


def test_numbering_that_codes_alone_do_not_tell():
    labels = np.repeat(np.arange(8), 10)  # no snow, so that no code 9 would tell
    map_ids = labels.copy()
    map_ids[::4] = 7
    from_0, from_1 = joint_of(map_ids, labels), joint_of(map_ids + 1, labels)
    legends.check_base(from_0, legends.DYNAMIC_WORLD, "x")
    legends.check_base(from_1, legends.DYNAMIC_WORLD_LABELS, "x")
    with pytest.raises(
        ValueError, match=r"without code 0 \(water\).*62 labelled pixels.*give --legend dynamic_world_labels"
    ):
        legends.check_base(from_1, legends.DYNAMIC_WORLD, "x")
    with pytest.raises(ValueError, match=r"without codes 9 and 10.*62 labelled pixels.*give --legend dynamic_world$"):
        legends.check_base(from_0, legends.DYNAMIC_WORLD_LABELS, "x")
    legends.check_base(from_1, legends.ESRI_2020, "x")  # others have gaps or other numbers


def test_numbering_is_not_suspected_without_ground():
    labels = np.repeat(np.arange(1, 9), 10)  # no water anywhere: no zero is no wonder
    legends.check_base(joint_of(labels - 1, labels), legends.DYNAMIC_WORLD, "a bad map, which has zeros")
    legends.check_base(
        joint_of(np.maximum(labels - 1, 1), labels), legends.DYNAMIC_WORLD, "a bad map of a place without water"
    )
    water = np.repeat(np.arange(8), 10)
    legends.check_base(
        joint_of(np.where(water == 0, 7, water), water), legends.DYNAMIC_WORLD, "a map that misses the water"
    )


def test_table_says_what_occurs():
    text = legends.table(legends.ESRI, {2: 60, 10: 20, 11: 10, 0: 10})
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["2", "10", "11", "no", "grass"]
    assert "60.0 %" in text and "(left out)" in text and "counted as one class, grass" in text
    assert "crops" not in text
