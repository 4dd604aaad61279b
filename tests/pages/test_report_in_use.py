"""The report in the hands of readers: by keyboard, by pointer, in other colours, one class at a time, without scripts, with little motion."""

import base64
import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
from browsers import started, violations
from conftest import write_folder
from drawn_networks import SMALL_PRESETS, drawn
from PIL import Image

from specsar_jax import evaluate, report
from specsar_jax.pages import palettes
from specsar_jax.trained.bundle import write_bundle
from tfds_dwplus import DynamicWorldPlusConfig, bands
from tfds_dwplus.prepare import prepare

TREES = bands.CLASSES.index("trees")


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """The report on a network that was never trained, scored on seven tiles, of which it shows two of each kind."""
    folder = tmp_path_factory.mktemp("in_use")
    tiles = write_folder(folder / "tiles", {"train": 1, "test": 7})
    prepare(DynamicWorldPlusConfig(name="seven", tiles=tiles, tile_size_px=64), folder / "data")
    trained = drawn(SMALL_PRESETS["specsar_former"])
    data = dataclasses.replace(trained.config.data, name="seven", s2_bands=bands.S2_BANDS, crop_px=64)
    write_bundle(
        dataclasses.replace(trained, config=dataclasses.replace(trained.config, data=data)), folder / "a.safetensors"
    )
    where = ["--workdir", str(folder / "a.safetensors"), "--data_dir", str(folder / "data"), "--dataset", "seven"]
    evaluate.main([*where, "--split", "test"])
    report.main([*where, "--output", str(folder / "page.html"), "--tiles", "2"])
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; skips where it or its driver is not installed."""
    with started() as browser:
        yield browser


@pytest.fixture
def page(browser, path):
    """The report, opened; fails if a script does."""
    troubles = []
    page = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto(path.as_uri())
    yield page
    page.close()
    assert not troubles


def test_every_control_is_reached_by_keyboard(page):
    stops = []
    for _ in range(60):
        page.keyboard.press("Tab")
        if (stop := page.evaluate(STOP)) is None:
            break
        stops.append(stop)
    assert [stop for stop in stops if not stop["seen"]] == []
    names = [stop["name"] for stop in stops]
    # One stop for each group of pictures, classes, places and numbers, however many there are.
    once = (".skip", ".typical", ".classes", "#legend fieldset", ".switch", "article", "svg.map")
    assert [names.count(name) for name in once] == [1] * len(once)
    assert names[0] == ".skip" and names.count("nav") == page.locator("nav a").count()
    assert page.locator(".pictures button").count() > 30


STOP = """() => {
  const stop = document.activeElement;
  if (stop === document.body) return null;
  const kinds = [".skip", "nav", ".classes", "#legend fieldset", ".typical", "article", "svg.map", ".switch", ".scroll", ".fold", "main"];
  const drawn = stop.matches("svg a") ? stop.firstElementChild : stop.matches(".switch input") ? stop.nextElementSibling : stop;
  const {outlineStyle, strokeWidth} = getComputedStyle(drawn);
  return {name: kinds.find((kind) => stop.closest(kind)), seen: outlineStyle !== "none" || strokeWidth === "3.5px"};
}"""
"""Where the keyboard is, and whether that is seen; null at the end of the page."""


def test_the_skip_link_leads_to_the_figures(page):
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_arrows_move_between_pictures_and_enter_enlarges(page):
    rows = page.locator("article.tile").all()
    first = rows[0].locator("button")
    first.first.focus()

    def at() -> list[int]:
        return page.evaluate(
            "[[...document.querySelectorAll('article.tile')].indexOf(document.activeElement.closest('article')),"
            " [...document.activeElement.closest('.pictures').querySelectorAll('button')].indexOf(document.activeElement)]"
        )

    for key, place in (
        *(("ArrowLeft", [0, 0]), ("ArrowRight", [0, 1]), ("ArrowRight", [0, 2]), ("ArrowDown", [1, 2])),
        *(
            ("ArrowUp", [0, 2]),
            ("ArrowUp", [0, 2]),
            ("End", [len(rows) - 1, 5]),
            ("Home", [0, 0]),
            ("ArrowRight", [0, 1]),
        ),
    ):
        page.keyboard.press(key)
        assert at() == place, key
    page.keyboard.press("Enter")
    assert page.locator("#viewer").is_visible() and violations(page) == []
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible() and at() == [0, 2]  # where the reader was
    assert page.locator("article.tile button[tabindex='0']").count() == 1


def test_one_class_only(page, path):
    label, drawn_map = ids_of(path, "label"), ids_of(path, "map")
    page.locator("#legend button").nth(TREES).click()
    assert page.locator("#legend button[aria-pressed=true]").inner_text() == "trees"
    trees = (*bytes.fromhex(bands.CLASS_COLOURS[TREES]), 255)
    for kind, ids in (("label", label), ("map", drawn_map)):
        shown = canvas(page, kind)
        np.testing.assert_array_equal((shown == trees).all(axis=-1), ids == TREES)
        np.testing.assert_array_equal(shown[..., 3] == 0, ids == bands.IGNORE)
        assert len(np.unique(shown[shown[..., 3] > 0], axis=0)) <= 2
    judged = (label != bands.IGNORE) & (drawn_map != bands.IGNORE)
    errors = canvas(page, "errors")
    wrong = judged & (label != drawn_map) & ((label == TREES) | (drawn_map == TREES))
    np.testing.assert_array_equal((errors == (0xD1, 0x43, 0x2B, 255)).all(axis=-1), wrong)
    assert violations(page) == []
    page.get_by_text("Show all").click()
    assert page.locator(".pane canvas").count() == 0 and page.locator("#legend [aria-pressed=true]").count() == 0
    assert page.evaluate("document.activeElement.textContent.trim()") == "trees"


def test_second_colours(page, path):
    page.get_by_label("for colour-blind readers").check()
    safe = palettes.safe_colours(bands.DYNAMIC_WORLD)
    shown = page.locator("#legend .swatch").evaluate_all("all => all.map(e => getComputedStyle(e).backgroundColor)")
    assert shown == [f"rgb({', '.join(map(str, bytes.fromhex(colour)))})" for colour in safe]
    ids = ids_of(path, "label")
    for class_id in np.unique(ids[ids != bands.IGNORE]):
        colour = (*bytes.fromhex(safe[class_id]), 255)
        np.testing.assert_array_equal((canvas(page, "label") == colour).all(axis=-1), ids == class_id)
    page.get_by_label("of the data set").check()
    assert page.locator(".pane canvas").count() == 0


def test_the_class_under_the_pointer_is_named(page, path):
    label, drawn_map = ids_of(path, "label"), ids_of(path, "map")
    row, column = np.argwhere((label != drawn_map) & (label != bands.IGNORE) & (drawn_map != bands.IGNORE))[9]
    pane = page.locator(".typical .pane[data-kind=map]")
    box = pane.bounding_box()
    place = {"x": (column + 0.5) / 64 * box["width"], "y": (row + 0.5) / 64 * box["height"]}
    pane.hover(position=place)
    names = [bands.CLASSES[ids[row, column]].replace("_", " ") for ids in (label, drawn_map)]
    assert page.locator("#reading").inner_text() == f"Label: {names[0]}\nMap: {names[1]}"
    assert page.locator("#legend button.under").inner_text() == names[1]
    page.locator(".typical .pane[data-kind=photo]").hover(position=place)  # of any picture of the tile
    assert page.locator("#reading").inner_text() == f"Label: {names[0]}\nMap: {names[1]}"
    page.locator("h1").hover()
    assert page.locator("#reading").inner_text() == "" and page.locator("#legend button.under").count() == 0


@pytest.mark.parametrize("width", [1280, 400])
def test_the_legend_stays_in_sight(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    for place in ("#accuracy", "#tiles", "#card"):
        page.evaluate(f"document.querySelector('{place}').scrollIntoView()")
        box = page.locator("#legend").bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 900
        assert page.locator(f"{place} h2").bounding_box()["y"] >= (box["height"] if width == 400 else 0)  # not below it


def test_wide_tables_at_400_pixels(page):
    page.set_viewport_size({"width": 400, "height": 900})
    boxes = page.locator(".scroll").evaluate_all(
        "all => all.map(e => [e.scrollWidth - e.clientWidth > 1, e.tabIndex === 0, e.getAttribute('aria-label')])"
    )
    assert any(wide for wide, *_ in boxes) and all(wide == stop for wide, stop, _ in boxes)  # a stop where it scrolls
    assert all(name for *_, name in boxes)
    table = page.locator("#classes .scroll")
    table.evaluate("box => { box.scrollLeft = 80; }")
    assert table.locator("tbody th").first.bounding_box()["x"] == table.bounding_box()["x"]  # the names stay
    # All nine classes of the matrix are in sight.
    last = page.locator(".matrix tbody tr td:nth-child(10)").first.bounding_box()
    assert last["x"] + last["width"] <= 400


def test_nothing_sticks_out_at_320_pixels(page):
    """Which is what 400 % of 1280 pixels leave (WCAG 2.2, 1.4.10)."""
    page.set_viewport_size({"width": 320, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_without_scripts_all_is_there(browser, path):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(path.as_uri())
    assert page.locator(".pane img").count() > 30 and page.locator("#legend button:disabled").count() == 9
    page.get_by_label("for colour-blind readers").check()
    assert (
        page.locator("#legend .swatch").first.evaluate("e => getComputedStyle(e).backgroundColor")
        == "rgb(48, 103, 182)"
    )


def test_nothing_moves_for_who_asks_for_little_motion(page, browser, path):
    moving = """() => [...document.querySelectorAll('*')].filter(e => {
      const style = getComputedStyle(e);
      return style.scrollBehavior === 'smooth' || style.transitionDuration !== '0s' || style.animationName !== 'none';
    }).length"""
    assert page.evaluate(moving) == 0
    other = browser.new_page(reduced_motion="no-preference")
    other.goto(path.as_uri())
    assert other.evaluate(moving) == 1  # the page itself, where links lead within it


def ids_of(path: Path, kind: str) -> np.ndarray:
    """Class ids of a picture of the typical tile, by the colours of the classes; 255 where it is transparent."""
    typical = path.read_text().partition('class="typical tile"')[2]
    encoded = re.search(rf'data-kind="{kind}".*?base64,([^"]+)"', typical)[1]
    rgba = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA"))
    ids = np.full(rgba.shape[:2], bands.IGNORE, np.uint8)
    for class_id, rgb in enumerate(bands.DYNAMIC_WORLD.rgb()):
        ids[(rgba == (*rgb, 255)).all(axis=-1)] = class_id
    assert ((ids == bands.IGNORE) == (rgba[..., 3] == 0)).all()
    return ids


def canvas(page, kind: str) -> np.ndarray:
    """What is drawn over a picture of the typical tile: red, green, blue, alpha."""
    pixels = page.locator(f".typical .pane[data-kind={kind}] canvas").evaluate(
        "e => [e.height, e.width, [...e.getContext('2d').getImageData(0, 0, e.width, e.height).data]]"
    )
    return np.array(pixels[2], np.uint8).reshape(pixels[0], pixels[1], 4)
