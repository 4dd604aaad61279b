"""Two maps: where they agree, on any grids and legends, and which are refused; maps of other legends by themselves."""

import io

import numpy as np
import pytest
import rasterio
from PIL import Image
from shown_maps import FIRST, WORLDCOVER, opened, write_codes
from shown_maps import both as both
from shown_maps import made as made

from specsar_jax.viewer.agreement import AGREE, DIFFER
from specsar_jax.viewer.mercator import tile_bounds, to_mercator
from specsar_jax.viewer.shown import Drawing
from tfds_dwplus import bands

# rasterio 1.4 multiplies transforms in a way that affine 3 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


def colours(shown, layer: str, drawing: Drawing | None = None) -> dict[str, int]:
    """Number of pixels of each colour in a layer at its largest scale, with opacity; nothing is as ''."""
    z = shown.zooms[1] - 5
    left, bottom, right, top = to_mercator(shown.bounds)
    first, side = tile_bounds(z, 0, 0), tile_bounds(z, 0, 0)[2] - tile_bounds(z, 0, 0)[0]
    pixels = []
    for x in range(int((left - first[0]) / side), int((right - first[0]) / side) + 1):
        for y in range(int((first[3] - top) / side), int((first[3] - bottom) / side) + 1):
            pixels.append(
                np.asarray(Image.open(io.BytesIO(shown.tile(layer, (z, x, y), drawing or Drawing())))).reshape(-1, 4)
            )
    found, counts = np.unique(np.concatenate(pixels), axis=0, return_counts=True)
    return {
        f"#{bytes(rgba[:3]).hex()}{'' if rgba[3] == 255 else ' faint'}" if rgba[3] else "": int(count)
        for rgba, count in zip(found, counts, strict=True)
    }


def test_where_two_dates_agree(both):
    """Of 35 mapped rows the last five differ, built before and water later; the first five are of no class, and not compared."""
    found = both.areas(both.bounds)["agreement"]
    assert found["shares"] == [pytest.approx(100 * 30 / 35, abs=0.3), pytest.approx(100 * 5 / 35, abs=0.3)]
    assert sum(found["shares"]) == 100
    [change] = found["changes"]
    assert (change["from"], change["to"]) == ("built", "water")
    assert change["area"] == pytest.approx(5 * 30 * 0.010008, rel=0.02) == found["differ"]
    drawn = colours(both, "agreement")
    assert drawn.keys() == {"", AGREE, DIFFER}
    assert drawn[DIFFER] / drawn[AGREE] == pytest.approx(5 / 30, rel=0.1)


def test_both_maps_tell_of_a_pixel(both):
    west, south, east, north = both.bounds
    found = both.pixel((west + east) / 2, south + 0.05 * (north - south))
    assert found["class"] == 6 and found["compared"] == {"class": 0, "outside": False}


def test_maps_of_one_file_name_are_told_apart(made, tmp_path):
    for folder in ("june", "august"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / FIRST).write_bytes((made / FIRST).read_bytes())
    for other, names in (("august", ["june/map.tif", "august/map.tif"]), ("june", ["map.tif (1)", "map.tif (2)"])):
        with opened(tmp_path / "june", FIRST, compare=f"{tmp_path}/{other}/{FIRST}") as shown:
            assert [of["name"] for of in shown.about()["maps"]] == names == list(shown.layers.values())[:2]


def test_a_map_of_another_legend_and_grid(made):
    """WorldCover's codes in its words; 'tree cover' is trees, and grassland is not built."""
    with opened(made, FIRST, compare=WORLDCOVER, compare_legend="worldcover") as shown:
        assert shown.maps[1].classes.names[0] == "tree cover"
        found = shown.areas(shown.bounds)
        told = dict(zip(shown.maps[1].classes.names, found["maps"][1]["areas"], strict=True))
        assert {name for name, area in told.items() if area} == {"tree cover", "grassland"}
        assert told["tree cover"] == pytest.approx(20 * 30 * 0.010008, rel=0.02)
        assert found["maps"][1]["nodata"] == pytest.approx(0, abs=0.02)
        assert found["agreement"]["shares"][0] == pytest.approx(100 * 15 / 35, abs=0.3)
        assert found["agreement"]["changes"][0]["to"] == "grass"
        assert "map.tif has no class" not in " ".join(shown.agreement.lacking)


def test_colours_of_a_legend(tmp_path, made):
    """Those of our classes in shades; or those of the file's table; or of codes.csv."""
    with opened(made, WORLDCOVER, legend="worldcover") as shown:
        of = dict(zip(shown.maps[0].classes.names, shown.maps[0].classes.colours, strict=True))
        ours = dict(zip(bands.CLASSES, bands.CLASS_COLOURS, strict=True))
        assert of["tree cover"] == ours["trees"] and of["mangroves"] != of["herbaceous wetland"]
        assert colours(shown, "map").keys() == {"", f"#{of['tree cover']}", f"#{of['grassland']}"}
    path = write_codes(tmp_path / "own.tif", np.array([[10, 30]], np.uint8).repeat(20, 1).repeat(20, 0))
    with rasterio.open(path, "r+") as raster:
        raster.write_colormap(1, {code: (code, 100, 5, 255) for code in range(0, 101, 5)})
    with opened(tmp_path, "own.tif", legend="worldcover") as shown:
        assert shown.maps[0].classes.colours[:2] == ("0a6405", "146405")
    (tmp_path / "codes.csv").write_text("value,name,colour\n10,Wald <b>,00aa11\n30,Feld,#ffcc00\n31,Feld,\n")
    with opened(tmp_path, "own.tif", legend=str(tmp_path / "codes.csv")) as shown:
        assert shown.maps[0].classes == bands.Classes(("Wald <b>", "Feld"), ("00aa11", "ffcc00"))
        assert shown.areas(shown.bounds)["maps"][0]["shares"] == [50, 50, 0]


@pytest.mark.parametrize(("codes", "number"), [((24, 44), 44), ((312, 523), 44)])
def test_corine_in_both_its_codes(tmp_path, codes, number):
    write_codes(tmp_path / "clc.tif", np.array([codes], np.uint16).repeat(20, 1).repeat(20, 0))
    with opened(tmp_path, "clc.tif", legend="corine") as shown:
        assert len(shown.maps[0].classes) == number == len(set(shown.maps[0].classes.names))
        found = shown.areas(shown.bounds)["maps"][0]["areas"]
        there = [name for name, area in zip(shown.maps[0].classes.names, found, strict=True) if area]
        assert there == ["coniferous forest", "sea and ocean"]


def test_an_own_name_for_a_class_of_ours_agrees(tmp_path, made):
    (tmp_path / "codes.csv").write_text("value,name\n10,Trees\n30,something else\n")
    with opened(made, FIRST, compare=WORLDCOVER, compare_legend=str(tmp_path / "codes.csv")) as shown:
        assert shown.areas(shown.bounds)["agreement"]["shares"][0] == pytest.approx(100 * 15 / 35, abs=0.3)
        assert shown.agreement.lacking[0].startswith("worldcover.tif has no class water, grass")


REFUSED = {
    "a code that the legend lacks": (
        {"legend": "esri", "map_": WORLDCOVER},
        r"worldcover.tif holds the code 30, which legend esri does not have",
    ),
    "of the second map": (
        {"map_": FIRST, "compare": WORLDCOVER, "compare_legend": "esri"},
        r"the code 30, which legend esri does not have.*Give another --compare_legend",
    ),
    "no legend": (
        {"map_": FIRST, "compare": WORLDCOVER},
        r"worldcover.tif holds uint8 with nodata None, .*; of another kind of map give --compare_legend",
    ),
    "elsewhere": ({"map_": FIRST, "compare": "far.tif", "compare_legend": "worldcover"}, "lies elsewhere than"),
    "without a place": (
        {"map_": FIRST, "compare": "bare.tif", "compare_legend": "worldcover"},
        "bare.tif has no place on earth, so that it cannot be laid over the other map",
    ),
    "no class in common": (
        {"map_": FIRST, "compare": WORLDCOVER, "compare_legend": "rocks.csv"},
        "none of which .*map.tif has.*give --compare_legend codes.csv",
    ),
    "a colour that is none": (
        {"map_": WORLDCOVER, "legend": "blue.csv"},
        "value 10 has the colour 'blue', expected one such",
    ),
    "no table": ({"map_": WORLDCOVER, "legend": "none.csv"}, "--legend: table of a legend .*none.csv: No such file"),
    "no codes": ({"map_": "empty.tif", "legend": "worldcover"}, "empty.tif holds no code of legend worldcover"),
    "shares": ({"map_": "shares.tif", "legend": "worldcover"}, "shares.tif has the bands water, .*expected map"),
    "fractions": ({"map_": "half.tif", "legend": "worldcover"}, "half.tif holds 0.5, expected codes"),
    "a class as nodata": (
        {"map_": "declared.tif", "legend": "worldcover"},
        "declares 10 as nodata, which is tree cover in legend worldcover",
    ),
}


@pytest.fixture(scope="module")
def odd(made):
    """More files beside the maps."""
    codes = np.full((20, 15), 10, np.uint8)
    write_codes(made / "empty.tif", codes * 0)
    write_codes(made / "half.tif", np.full((20, 15), 0.5, np.float32))
    write_codes(made / "declared.tif", codes, nodata=10)
    write_codes(made / "far.tif", codes, crs="EPSG:32733")
    with rasterio.open(made / "bare.tif", "w", driver="GTiff", height=20, width=15, count=1, dtype="uint8") as raster:
        raster.write(codes, 1)
    (made / "rocks.csv").write_text("value,name\n10,granite\n30,slate\n")
    (made / "blue.csv").write_text("value,name,colour\n10,granite,blue\n30,slate,\n")
    return made


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_others_are_refused_in_a_line(odd, case):
    given, message = REFUSED[case]
    given = {key: str(odd / text) if text.endswith(".csv") else text for key, text in given.items()}
    with pytest.raises(ValueError, match=message) as error, opened(odd, **given):
        pass
    assert "\n" not in str(error.value)
