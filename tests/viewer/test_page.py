"""The page in a browser: what it shows and answers, by mouse and by keys; its address; and that nobody is kept from it."""

import csv
import json
import re
from pathlib import Path

import pytest
from browsers import started, viewed, violations
from shown_maps import FIRST, opened
from shown_maps import both as both
from shown_maps import made as made
from shown_maps import shown as shown

from specsar_jax.viewer import map_server
from tfds_dwplus import bands

# rasterio 1.4 multiplies transforms in a way that affine 3 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

PAGE = Path(map_server.__file__).parent / "page"

PHONE = {"viewport": {"width": 400, "height": 800}}


@pytest.fixture(scope="module")
def browser():
    with started() as browser:
        yield browser


def resting(page):
    """Waits until the page has written its address, and told the areas in view."""
    page.wait_for_timeout(350)
    page.locator("table[aria-busy]").first.wait_for(state="detached")


def at(page, x: float, y: float) -> tuple[float, float]:
    """A place of the map in shares of its width and height, in pixels of the page."""
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def test_the_page_gives_leaflet_no_text():
    """A text in a pop-up, tooltip, icon or attribution is HTML to Leaflet (CVE-2025-69993, all versions); an element's `textContent` is not."""
    for script in PAGE.glob("*.js"):
        found = re.search(
            r"setContent|bind(Popup|Tooltip)|L\.(popup|tooltip)|divIcon|(inner|outer)HTML|insertAdjacentHTML|attribution:|document\.write|eval\(",
            script.read_text(),
        )
        assert not found, (script.name, found)


def contrast(one: str, other: str) -> float:
    """Of two colours, WCAG 2.2."""

    def light(colour: str) -> float:
        parts = [part / 255 for part in bytes.fromhex(colour)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_contrast_where_axe_cannot_tell(scheme):
    """Texts on bars and over the map, and the edges of controls: AA."""
    blocks = re.findall(r":root \{(.*?)\}", (PAGE / "page.css").read_text(), re.DOTALL)
    of = dict(re.findall(r"--([a-z-]+): #([0-9a-f]{6})", blocks[0]))
    of |= dict(re.findall(r"--([a-z-]+): #([0-9a-f]{6})", blocks[scheme]))
    for text, under in (
        ("ink", "paper"),
        ("soft", "paper"),
        ("ink", "bar-ink"),
        ("warn-ink", "warn"),
        ("ink", "faint"),
    ):
        assert contrast(of[text], of[under]) >= 4.5, (text, under)
    for edge in ("edge", "accent"):
        assert contrast(of[edge], of["paper"]) >= 3, edge


def test_a_map_over_its_scene(browser, shown):
    with viewed(browser, shown) as (page, asked):
        page.locator("#tables tbody", has_text="built").wait_for()
        text = page.inner_text("body")
        assert all(name.replace("_", " ") in text for name in bands.CLASSES) and "map.tif" in text
        assert "Network: <i>Ada</i>. Licence: MIT." in text
        assert "Subtracted from Sentinel-2 numbers1000" in page.locator("#origin dl").text_content()
        shares = page.locator("#tables tbody td:last-child, #tables tfoot td:last-child").all_inner_texts()
        assert round(sum(float(share) for share in shares[:-1] if share), 6) == 100 == float(shares[-1])
        page.mouse.click(*at(page, 0.48, 0.65))  # below the middle, in the west: built, 80 % sure
        page.locator("#pixel h3", has_text="built").wait_for()
        assert "80.0" in page.inner_text("#pixel") and "others" in page.inner_text("#pixel")
        assert page.locator("#map path").count() == 4  # the pixel and a ring, light and dark
        page.keyboard.press("Escape")
        assert page.locator("#pixel").is_hidden() and page.locator("#map path").count() == 0
    assert any("/tiles/imagery/" in url for url in asked)


def test_the_card_is_never_under_the_buttons(browser, shown):
    """Nor over the pixel: on a phone it is docked below, and the map moves."""
    for context in ({}, PHONE):
        with viewed(browser, shown, **context) as (page, _):
            assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
            page.mouse.click(*at(page, 0.5, 0.65))
            page.locator("#pixel h3").first.wait_for()
            resting(page)
            card, ring = page.locator("#pixel").bounding_box(), page.locator("#map path").last.bounding_box()
            for other in (page.locator(".leaflet-control-zoom").bounding_box(), ring):
                apart = (
                    other["x"] + other["width"] <= card["x"]
                    or other["y"] + other["height"] <= card["y"]
                    or other["y"] >= card["y"] + card["height"]
                    or other["x"] >= card["x"] + card["width"]
                )
                assert apart, (context, card, other)
            if context:
                assert card["width"] == 400 and card["y"] + card["height"] == pytest.approx(at(page, 0, 1)[1], abs=1)


def test_the_swipe_line_by_mouse_and_by_keys(browser, both):
    with viewed(browser, both) as (page, _):
        line, left = page.get_by_role("slider", name="Swipe line"), page.locator(".leaflet-left-pane")
        assert line.get_attribute("aria-valuenow") == "50"
        page.mouse.move(*at(page, 0.5, 0.5))
        page.mouse.down()
        page.mouse.move(*at(page, 0.25, 0.5))
        page.mouse.up()
        assert line.get_attribute("aria-valuenow") == "25"
        width = page.locator("#map").bounding_box()["width"]
        assert re.search(r"rect\(.*?px,? ([\d.]+)px", left.evaluate("e => e.style.clip"))[1] == str(round(width / 4))
        line.focus()
        for key, value in (("ArrowRight", "27"), ("PageUp", "37"), ("Home", "0"), ("End", "100"), ("ArrowLeft", "98")):
            page.keyboard.press(key)
            assert line.get_attribute("aria-valuenow") == value
        assert "map.tif left, later.tif right" in line.get_attribute("aria-valuetext")
        resting(page)
        assert "line=98" in page.url
        page.locator("#swipe").uncheck()
        assert line.is_hidden() and left.evaluate("e => e.style.clip") == ""


def test_an_address_opens_the_same_view(browser, both):
    with viewed(browser, both) as (page, _):
        page.locator("#left").select_option("agreement")
        page.locator("#right").select_option("heat")
        page.locator("#heat").select_option("6")
        page.locator("#colours").select_option("safe")
        page.locator("#tables tbody button").first.click()
        page.locator("#sure").fill("60")
        page.locator("#opacity").fill("45")
        page.mouse.click(*at(page, 0.45, 0.6))
        page.locator("#pixel h3").first.wait_for()
        page.locator(".leaflet-control-zoom-in").click()
        resting(page)
        address, text = page.url.partition("#")[2], page.inner_text("#panel") + page.inner_text("#pixel")
    assert re.match(r"\d+/-?[\d.]+/-?[\d.]+\?", address) and "hidden=1&" in address + "&"
    with viewed(browser, both, f"#{address}") as (page, asked):
        resting(page)
        assert page.url.partition("#")[2] == address
        assert page.inner_text("#panel") + page.inner_text("#pixel") == text
        assert any("/tiles/heat/" in url and "class=6" in url for url in asked)
        page.evaluate("location.hash = '#nonsense/?left=nobody&sure=1e9&hidden=-1&polygon=1,2;a'")
        resting(page)
        assert page.locator("#left").input_value() == "map" and page.locator("#trouble").is_hidden()


def test_fading_and_where_two_maps_agree_are_told(browser, both):
    with viewed(browser, both, "#15/0/0?sure=50") as (page, _):
        page.locator("#whole").click()
        resting(page)
        assert re.search(
            r"28\.\d % of the area that map.tif maps in view is less sure than 50 %", page.inner_text("#unsure")
        )
        said = page.inner_text("#agreement")
        assert re.search(r"85\.\d % of the area .* has the same class; 14\.\d % differs", said)
        assert re.search(r"built\s+water\s+1\.5", said)
        page.get_by_role("button", name="Show on the map").click()
        assert page.locator("#left").input_value() == "agreement" and not page.locator("#swipe").is_checked()


def test_swatches_have_the_colours_of_the_map(browser, shown):
    """At any opacity, over what is below."""
    with viewed(browser, shown) as (page, _):
        colour = "document.querySelectorAll('#tables .swatch')[6]"
        seen = []
        for opacity, backdrop in ((100, True), (40, True), (40, False), (0, False)):
            page.locator("#opacity").fill(str(opacity))
            page.locator("#backdrop").set_checked(backdrop)
            resting(page)
            told = page.evaluate(f"getComputedStyle({colour}).backgroundColor")
            rgb = [float(part) for part in re.findall(r"[\d.]+", told.replace("color(srgb", ""))[:3]]
            seen.append([round(255 * part) for part in rgb] if "srgb" in told else [round(part) for part in rgb])
        mean, built, wash = bytes.fromhex(shown.imagery.mean[1:]), bytes.fromhex("c4281b"), bytes.fromhex("e3e9ec")
        mixed = [[round(0.4 * a + 0.6 * b) for a, b in zip(built, under, strict=True)] for under in (mean, wash)]
        for found, expected in zip(seen, [list(built), *mixed, list(wash)], strict=True):
            assert found == pytest.approx(expected, abs=1)


def test_tables_sort_and_are_saved(browser, shown, tmp_path):
    with viewed(browser, shown) as (page, _):
        table = page.locator("#tables table")
        names = table.locator("tbody th")
        first = names.all_inner_texts()
        hectares = table.get_by_role("columnheader", name="Hectares")
        for order, top in (("descending", "built"), ("ascending", "water"), (None, "water")):
            hectares.get_by_role("button").click()
            assert hectares.get_attribute("aria-sort") == order and names.first.inner_text() == top
        table.get_by_role("columnheader", name="Class").get_by_role("button").press("Enter")
        assert names.all_inner_texts() == sorted(first)
        with page.expect_download() as saved:
            page.get_by_role("button", name="Save as CSV").click()
        saved.value.save_as(tmp_path / "a.csv")
    rows = list(csv.reader((tmp_path / "a.csv").read_text().splitlines()))
    assert rows[0] == ["class", "hectares", "percent"] and [row[0] for row in rows[1:-1]] == first
    assert rows[-1][0] == "(without a class)" and round(sum(float(row[2]) for row in rows[1:]), 6) == 100


def test_a_polygon_by_mouse_keys_and_coordinates(browser, shown, tmp_path):
    with viewed(browser, shown) as (page, _):
        page.locator("#draw").click()
        for x, y in ((0.45, 0.45), (0.55, 0.45), (0.55, 0.6), (0.45, 0.6), (0.45, 0.6)):
            page.mouse.click(*at(page, x, y))
        page.locator("#measured table").first.wait_for()
        told = page.inner_text("#polygon-said")
        assert re.fullmatch(r"4 corners, [\d.]+ hectares\.", told)
        assert page.locator("#measured tfoot tr").all_inner_texts()[-1].split()[-1] == "100.0"
        with page.expect_download() as saved:
            page.locator("#geojson").click()
        saved.value.save_as(tmp_path / "p.geojson")
        resting(page)
        corners = json.loads((tmp_path / "p.geojson").read_text())["features"][0]["geometry"]["coordinates"][0][0]
        found = shown.in_polygon([tuple(corner) for corner in corners[:-1]])["maps"][0]
        assert f"{sum(found['areas']) + found['nodata'] + found['outside']:.2f}".rstrip("0") in told
        # By coordinates, as the polygon has filled them in.
        assert page.locator("#corners").input_value().count("\n") == 3 and "polygon=" in page.url
        page.locator("#remove").click()
        page.get_by_text("By coordinates").click()
        page.locator("#corners").fill("\n".join(f"{lat}, {lon}" for lon, lat in corners[:-1]))
        page.locator("#measure").click()
        page.locator("#measured table").first.wait_for()
        resting(page)
        assert page.inner_text("#polygon-said") == told
        page.locator("#corners").fill("30, 73\nhere\n")
        page.locator("#measure").click()
        assert "Line 2: expected latitude, longitude" in page.inner_text("#polygon-said")
        page.locator("#corners").fill("0, 0\n1, 1\n0, 1\n1, 0")
        page.locator("#measure").click()
        page.locator("#polygon-said", has_text="Not measured: the lines of the polygon cross").wait_for()
        # By keys alone: Enter sets a corner in the middle, and again there finishes.
        page.locator("#whole").click()
        page.locator("#draw").focus()
        page.keyboard.press("Enter")
        page.locator("#map").focus()
        for key in ("ArrowLeft", "ArrowUp", "ArrowRight"):
            page.keyboard.press("Enter")
            page.keyboard.press(key)
            page.wait_for_timeout(400)
        page.keyboard.press("Backspace")
        assert page.inner_text("#drawing-said") == "2 corners."
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        page.locator("#measured table").first.wait_for()
        resting(page)
        assert page.inner_text("#polygon-said").startswith("3 corners, ")


def test_keys_reach_every_control(browser, both):
    """Tab goes through all of them, in the order of the page, and each says what it is; the map by arrows, Enter asks for a pixel."""
    with viewed(browser, both) as (page, _):
        wanted = page.evaluate(
            "[...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex=\"0\"]')]"
            ".filter(e => e.checkVisibility() && !e.disabled).length"
        )
        reached = set()
        for _ in range(wanted + 5):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
            name = page.evaluate(
                "(e => (e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent).trim())(document.activeElement)"
            )
            assert name or page.evaluate("document.activeElement === document.body")
        assert len(reached - {page.evaluate("[...document.querySelectorAll('*')].indexOf(document.body)")}) == wanted
        page.locator("#map").focus()
        page.keyboard.press("Enter")
        page.locator("#pixel h3").first.wait_for()
        page.get_by_role("button", name="Close").press("Enter")
        assert page.locator("#pixel").is_hidden() and page.evaluate("document.activeElement.id") == "map"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_axe_finds_nothing(browser, both, scheme, width):
    """With every part of the page open: two maps, a swipe line, a pixel, a polygon being drawn and one that is measured."""
    view = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    with viewed(browser, both, "#15/0/0?left=heat&sure=50", **view) as (page, _):
        page.locator("#whole").click()
        for summary in page.locator("summary").all():
            summary.click()
        page.locator("#tables thead button").nth(1).click()
        page.locator("#draw").click()
        for x, y in ((0.4, 0.3), (0.6, 0.3), (0.6, 0.4)):
            page.mouse.click(*at(page, x, y))
        resting(page)
        assert violations(page) == []
        page.locator("#finish").click()
        page.locator("#measured table").first.wait_for()
        page.mouse.click(*at(page, 0.4, 0.35))
        page.locator("#pixel h3").first.wait_for()
        resting(page)
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_nothing_moves_for_readers_who_want_that(browser, shown):
    with viewed(browser, shown) as (page, _):
        page.locator(".leaflet-control-zoom-in").click()
        assert page.locator(".leaflet-zoom-anim").count() == 0
        moving = page.evaluate(
            "[...document.querySelectorAll('*')].filter(e => parseFloat(getComputedStyle(e).transitionDuration) > 0)"
            ".map(e => e.className)"
        )
        assert moving == []


def test_beware_of_simulated_tiles_and_teachers(browser, made, tmp_path):
    import rasterio

    path = tmp_path / FIRST
    path.write_bytes((made / FIRST).read_bytes())
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        raster.update_tags(trained_on="simulated", labels_of_training="network: <b>DW</b> (8 tiles)")
    with opened(tmp_path, FIRST) as shown, viewed(browser, shown) as (page, _):
        said = page.inner_text("#warnings")
        assert "Trained on simulated tiles" in said
        assert "labels of another network, with its faults (network: <b>DW</b> (8 tiles))" in said
        assert violations(page) == []


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_without_a_place(browser, tmp_path):
    """Areas are in pixels, and there are no hectares of a polygon."""
    import numpy as np
    import rasterio

    with rasterio.open(
        tmp_path / "m.tif", "w", driver="GTiff", height=20, width=30, count=1, dtype="uint8", nodata=255
    ) as raster:
        raster.write(np.full((20, 30), 4, np.uint8), 1)
    with opened(tmp_path, "m.tif") as shown, viewed(browser, shown) as (page, _):
        assert "Pixels" in page.inner_text("#tables") and "600" in page.inner_text("#tables")
        assert page.locator("#polygon").is_hidden() and page.locator(".leaflet-control-scale").count() == 0
        page.mouse.click(*at(page, 0.5, 0.5))
        page.locator("#pixel h3", has_text="crops").wait_for()
