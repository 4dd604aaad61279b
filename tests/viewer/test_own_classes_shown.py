"""The page of view, of maps with classes of their own: their names, colours, areas and probabilities; and what is refused."""

import dataclasses
import io
import json

import numpy as np
import pytest
import rasterio
from browsers import started, viewed
from drawn_networks import OWN, many
from PIL import Image
from shown_maps import opened
from small_scenes import GRID

from specsar_jax.maps import map_files
from specsar_jax.maps.map_files import Outputs
from specsar_jax.viewer.mercator import tile_bounds, to_mercator
from tfds_dwplus import bands

# rasterio 1.4 multiplies transforms in a way that affine 3 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
for needed in ("rio_tiler", "xstatic.pkg.leaflet", "exactextract", "shapely"):
    pytest.importorskip(needed, reason="extra 'view'")

from specsar_jax.viewer import map_server  # noqa: E402 (where these are)

NUMBERS = {2: many(2), 4: OWN, 64: many(64)}


def written(folder, classes: bands.Classes) -> tuple[str, str]:
    """A map of which the upper half is of the first class, the lower of the last; with its probabilities."""
    probability = np.full((40, 30, len(classes)), 0.2 / len(classes), np.float32)
    probability[:20, :, 0] += 0.8
    probability[20:, :, -1] += 0.8
    map_files.write_map(GRID, Outputs(folder / "map.tif", folder / "shares.tif"), classes, {}, probability)
    return str(folder / "map.tif"), str(folder / "shares.tif")


@pytest.mark.parametrize("number", NUMBERS)
def test_what_the_page_is_told(number, tmp_path):
    classes = NUMBERS[number]
    written(tmp_path, classes)
    with opened(tmp_path, "map.tif", probabilities="shares.tif") as shown:
        [told] = json.loads(map_server.answer(shown, {}, "/about.json")[1])["maps"]
        assert [of["name"] for of in told["classes"]] == [name.replace("_", " ") for name in classes.names]
        assert [of["colour"][1:] for of in told["classes"]] == list(classes.colours)
        areas = shown.areas(shown.bounds)["maps"][0]["areas"]
        assert len(areas) == number and areas[0] == pytest.approx(20 * 30 * 0.010008, rel=0.02)
        assert areas[-1] == pytest.approx(areas[0], rel=0.05)
        west, south, east, north = shown.bounds
        found = shown.pixel((west + east) / 2, south + 0.25 * (north - south))
        assert found["class"] == number - 1 and len(found["shares"]) == min(number, 5)
        assert found["shares"][0] == (number - 1, pytest.approx(100 * (0.8 + 0.2 / number), abs=0.6))
        # Colours of both halves; the last class can be hidden, also if its bit is the 64th.
        zoom = shown.zooms[1] - 5
        for hidden, last in ((0, 255), (1 << number - 1, 0)):
            answers = (
                map_server.answer(shown, {}, f"/tiles/map/{zoom}/{x}/{y}.png?hidden={hidden}")
                for x, y in tiles_at(shown, zoom)
            )
            pixels = np.concatenate([np.asarray(Image.open(io.BytesIO(of[1]))).reshape(-1, 4) for of in answers])
            colours = {tuple(row) for row in np.unique(pixels, axis=0).tolist()}
            assert (*classes.rgb()[0], 255) in colours and (*classes.rgb()[-1], last) in colours


def tiles_at(shown, zoom: int) -> list[tuple[int, int]]:
    """Column and row of all tiles over a map."""
    left, bottom, right, top = to_mercator(shown.bounds)
    corner = tile_bounds(zoom, 0, 0)
    side = corner[2] - corner[0]
    columns = range(int((left - corner[0]) / side), int((right - corner[0]) / side) + 1)
    rows = range(int((corner[3] - top) / side), int((corner[3] - bottom) / side) + 1)
    return [(x, y) for x in columns for y in rows]


def test_probabilities_of_other_classes_are_refused(tmp_path):
    for name, classes in (("own", OWN), ("other", dataclasses.replace(OWN, names=OWN.names[::-1])), ("two", many(2))):
        (tmp_path / name).mkdir()
        written(tmp_path / name, classes)
    for other in ("other", "two"):
        with (
            pytest.raises(
                ValueError,
                match=r"shares.tif holds \d bands \(.*expected the probabilities of the classes of .*map.tif, wheat",
            ),
            opened(tmp_path / "own", "map.tif", probabilities=f"../{other}/shares.tif"),
        ):
            pass


@pytest.mark.parametrize(
    ("tags", "colours", "message"),
    [
        ({"class_0": "a", "class_1": "b"}, None, "has no colour table; give the map as"),
        ({"class_0": "a", "class_2": "b"}, many(3).rgb(), "class 1 of 2 has no name among its tags"),
        ({"class_0": "a", "class_1": "A"}, many(3).rgb(), "two classes are named 'A'"),
        ({"class_0": "a"}, many(3).rgb(), "1 classes, expected 2 to 64"),
        ({f"class_{i}": str(i) for i in range(65)}, [*many(64).rgb(), (1, 2, 3)], "65 classes, expected 2 to 64"),
        ({"class_0": "a", "class_1": "b"}, many(3).rgb(), "holds 2, expected ids of its 2 classes, 0 to 1"),
    ],
)
def test_maps_that_are_none(tags, colours, message, tmp_path):
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 255, "height": 40, "width": 30}
    with rasterio.open(tmp_path / "m.tif", "w", crs=GRID.crs, transform=GRID.transform, **profile) as raster:
        raster.write(np.full((1, 40, 30), 2, np.uint8))
        raster.update_tags(**tags)
        if colours:
            raster.write_colormap(1, dict(enumerate(colours)))
    with pytest.raises(ValueError, match=message) as error, opened(tmp_path, "m.tif"):
        pass
    assert "\n" not in str(error.value)


def test_a_map_without_tags_is_of_nine_classes(tmp_path):
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 255, "height": 40, "width": 30}
    with rasterio.open(tmp_path / "m.tif", "w", crs=GRID.crs, transform=GRID.transform, **profile) as raster:
        raster.write(np.full((1, 40, 30), 8, np.uint8))
    with opened(tmp_path, "m.tif") as shown:
        assert shown.maps[0].classes == bands.DYNAMIC_WORLD


def test_in_a_browser(tmp_path):
    names = ("<img src=x onerror=alert(1)>", 'forêt & "bois"', *(f"class {i}" for i in range(38)))
    written(tmp_path, dataclasses.replace(many(40), names=names))
    with (
        opened(tmp_path, "map.tif", probabilities="shares.tif") as shown,
        started() as browser,
        viewed(browser, shown) as (page, asked),
    ):
        page.locator("tbody", has_text="class 37").wait_for()
        page.wait_for_load_state("networkidle")
        assert page.locator("#tables tbody th").all_inner_texts() == list(names)
        page.locator("#tables tbody button").last.click()  # its bit is beyond those of JavaScript's numbers
        page.wait_for_timeout(300)
        page.wait_for_load_state("networkidle")
        assert page.locator("#tables tbody button").last.get_attribute("aria-pressed") == "false"
        assert page.locator("#tables tbody button").nth(7).get_attribute("aria-pressed") == "true"
        assert any(f"hidden={1 << 39}&" in url for url in asked)
        box = page.locator("#map").bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.3)
        page.locator("#pixel h3").wait_for()
        assert page.inner_text("#pixel h3") == names[0]
        assert page.locator("#pixel").bounding_box()["height"] < 420  # and not of all forty rows
        assert page.evaluate("document.querySelector('#panel').scrollWidth") <= 372
        page.set_viewport_size({"width": 400, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
