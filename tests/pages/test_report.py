"""The report: what stands in the files stands on the page, in a real browser, whatever tiles and runs are called."""

import base64
import csv
import dataclasses
import html
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from browsers import started, violations
from conftest import command, refused, write_folder
from PIL import Image

from specsar_jax import evaluate, report
from specsar_jax.accuracy import metrics
from specsar_jax.accuracy.evaluation_files import files_of
from specsar_jax.accuracy.tally import Tally
from specsar_jax.pages import place_maps, report_page, runs, tile_cards
from specsar_jax.trained.run_files import split_file
from tfds_dwplus import DynamicWorldPlusConfig, bands
from tfds_dwplus.prepare import prepare

HOSTILE = "<img src=x onerror=\"document.title='taken'\">"
"""A tile id, and a part of the name of a run."""

FIGURES, SUMS = "evaluation_test-places-best.json", "tiles_test-places-best.npz"
"""Files of an evaluation on a data set that is not the run's own."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_run) -> Path:
    """A folder with a data set `places` of eight test tiles, one of them HOSTILE, under `data`, and a run evaluated on it."""
    folder = tmp_path_factory.mktemp("report")
    tiles = write_folder(folder / "tiles", {"test": 8})
    with (tiles / "tiles.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    for path in tiles.glob(f"*/{rows[3][0]}.tif"):
        path.rename(path.with_name(f"{HOSTILE}.tif"))
    rows[3][0] = HOSTILE
    with (tiles / "tiles.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    prepare(DynamicWorldPlusConfig(name="places", tiles=tiles, tile_size_px=80), folder / "data")
    workdir = folder / f"run {HOSTILE}"
    shutil.copytree(small_run / "run", workdir)
    score(folder, workdir)
    return folder


@pytest.fixture(scope="module")
def workdir(folder) -> Path:
    """The run of `folder`. To be read only."""
    return folder / f"run {HOSTILE}"


@pytest.fixture(scope="module")
def page(folder, workdir) -> Path:
    """Its report."""
    return write(folder, "page.html", "--workdir", workdir)


@pytest.fixture(scope="module")
def compared(folder, workdir) -> Path:
    """The report of two runs; the second is the first under another name, with a figure and half of the tiles less."""
    other = folder / "other"
    shutil.copytree(workdir, other)
    tally = Tally.read(other / SUMS).choose(np.arange(4))
    tally.write(other / SUMS)
    edit(other / FIGURES, labelled_pixels=int(tally.confusion.sum()), tiles_sha256=tally.sha256, weighted_f1=None)
    return write(folder, "compared.html", "--workdir", workdir, "--workdir", other)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; skips where it or its driver is not installed."""
    with started() as browser:
        yield browser


@pytest.mark.parametrize("name", ["page", "compared"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_opens_in_a_browser(browser, page, compared, name, scheme, width):
    path = {"page": page, "compared": compared}[name]
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    pictures = page.evaluate("[...document.images].map(image => [image.complete, image.naturalWidth, image.alt])")
    assert len(pictures) > 30
    assert all(complete and natural > 0 for complete, natural, _ in pictures)
    assert all(alt for *_, alt in pictures[:-1])  # the last one is the viewer's, not shown yet
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Nothing sticks out but what scrolls in a box of its own.
    assert (
        page.evaluate(
            "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
            " && !e.closest('.scroll, .classes, pre')).map(e => e.outerHTML.slice(0, 80))"
        )
        == []
    )
    assert page.evaluate(CONTRAST) == []
    # Nor in a matrix of other shares: from none to the full colour.
    for share in (0, 0.3, 1):
        page.evaluate(
            f"document.querySelectorAll('.matrix td').forEach(cell => cell.style.setProperty('--r', {share}))"
        )
        assert page.evaluate(CONTRAST) == []
    assert violations(page) == []
    assert page.title() != "taken" and HOSTILE in page.inner_text("body")
    page.close()


CONTRAST = """() => {
  const context = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d", {willReadFrequently: true});
  const over = (colour, below) => {
    context.fillStyle = `rgb(${below})`; context.fillRect(0, 0, 1, 1);
    context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((c) => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const ground = (e) => over(getComputedStyle(e).backgroundColor, e.parentElement ? ground(e.parentElement) : [255, 255, 255]);
  return [...document.querySelectorAll("body *")]
    .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) && e.checkVisibility({opacityProperty: true})
      && !["TITLE", "SCRIPT", "OPTION"].includes(e.tagName.toUpperCase()) && !e.closest("td.nil"))
    .map((e) => {
      const style = getComputedStyle(e), below = ground(e);
      const [a, b] = [light(over(e.closest("svg") ? style.fill : style.color, below)), light(below)];
      return [e.outerHTML.slice(0, 60), Math.round(100 * (Math.max(a, b) + .05) / (Math.min(a, b) + .05)) / 100];
    }).filter(([, ratio]) => ratio < 4.5);
}"""
"""Texts whose contrast with what is behind them is below 4.5 (WCAG 2.2, 1.4.3)."""


def test_pictures_are_enlarged_and_leafed_through(browser, page):
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.goto(page.as_uri())
    labels = opened.locator("article.tile").first.locator("img")
    assert not opened.locator("#viewer").is_visible()
    labels.nth(2).click()
    assert opened.locator("#viewer p").inner_text() == labels.nth(2).get_attribute("alt")
    opened.keyboard.press("ArrowRight")
    assert opened.locator("#viewer p").inner_text() == labels.nth(3).get_attribute("alt")
    opened.keyboard.press("Escape")
    assert not opened.locator("#viewer").is_visible()
    # The matrix shows one kind of number at a time.
    cell = opened.locator(".matrix td").first
    confusion = json.loads((page.parent / f"run {HOSTILE}" / FIGURES).read_text())["confusion_matrix"]
    assert cell.inner_text() == report_page.percent(confusion[0][0] / sum(confusion[0]))
    opened.get_by_text("pixels", exact=True).click()
    assert cell.inner_text() == f"{confusion[0][0]:,}"
    opened.close()


def test_figures_are_those_of_the_files(page, workdir):
    text, figures = read_text(page), json.loads((workdir / FIGURES).read_text())
    for name in report_page.HEADLINE:
        low, high = figures["intervals"][name]
        assert (
            f"{report_page.percent(figures[name])}{report_page.percent(low)} to {report_page.percent(high)}"
            in text.replace("\n", "")
        )
    assert f"Labelled pixels\n{figures['labelled_pixels']:,}" in text
    area = figures["area"]["per_class"]["water"]
    assert report_page.area(area["mapped_ha"]) in text and report_page.area(area["area_ha"]["value"]) in text
    assert f"{100 * figures['calibration']['ece']:.2f}" in text and f"{figures['calibration']['brier']:.4f}" in text
    tally = Tally.read(workdir / SUMS)
    for name, accuracy in zip(tally.tile_id, metrics.headline(tally.confusion)["overall_accuracy"], strict=True):
        assert re.search(rf"{re.escape(name)}[^%]*accuracy\s+{report_page.percent(accuracy)} %", text), name
    started = json.loads((workdir / "run.json").read_text())
    assert started["versions"]["jax"] in text and started["devices"] in text
    assert "model.widths\n[64, 128, 320, 512]\n[8, 16]" in text


def test_pictures_show_what_was_counted(folder, workdir):
    [run] = runs.read_runs([workdir], "test", str(folder / "data"), "places")
    place = int(np.flatnonzero(run.tally.tile_id == HOSTILE)[0])
    cards, notes = tile_cards.tile_cards([run], "test", [place])
    assert notes == []
    pictures = {picture.title: decoded(picture.uri) for picture in cards[place].pictures}
    assert list(pictures) == [
        "Sentinel-2, true colour",
        "Sentinel-1, VV VH VV",
        "Label",
        "Map",
        "Confidence",
        "Errors",
    ]
    assert {picture.shape for picture in pictures.values()} == {(64, 64, 4)}  # without the padding to 80
    confusion, mapped = run.tally.confusion[place], run.tally.mapped[place]
    # Not the same program as the evaluation's: a pixel between two classes may fall to the other side.
    close = {"atol": 8}
    np.testing.assert_allclose(by_class(pictures["Label"]), confusion.sum(axis=1))
    np.testing.assert_allclose(by_class(pictures["Map"]), mapped, **close)
    wrong = (pictures["Errors"][..., 0] > 200).sum()
    np.testing.assert_allclose(wrong, confusion.sum() - confusion.trace(), **close)
    assert (pictures["Label"][..., 3] == 0).sum() == 64 * 64 - confusion.sum()
    # Hatching shows where a picture is transparent: of the errors where there is no label, and nowhere else.
    assert set(np.unique(pictures["Errors"][..., 3])) == {0, 255}
    np.testing.assert_array_equal(pictures["Errors"][..., 3], pictures["Label"][..., 3])


def test_two_runs_side_by_side(compared):
    text = read_text(compared)
    assert "Differences" in text and "other less" in text and "4 tiles" in text
    assert "They were not judged on the same pixels" not in text
    assert text.count("All settings of") == 2


def test_runs_that_cannot_be_compared(folder, workdir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(workdir, other)
    text = (other / FIGURES).read_text()
    (other / FIGURES).write_text(text.replace('"built"', '"houses"'))
    edit(other / FIGURES, class_colours=list(bands.CLASS_COLOURS))
    with pytest.raises(ValueError, match=r"have different classes .*houses.* report on each by itself"):
        write(folder, "x.html", "--workdir", workdir, "--workdir", other)
    with pytest.raises(ValueError, match="is given twice"):
        write(folder, "x.html", "--workdir", workdir, "--workdir", workdir)
    # Of other tiles: side by side, but without a difference.
    shutil.copy(workdir / FIGURES, other)
    tally = Tally.read(other / SUMS)
    tally = dataclasses.replace(tally, tile_id=np.char.add(tally.tile_id, "x"))
    tally.write(other / SUMS)
    edit(other / FIGURES, tiles_sha256=tally.sha256)
    text = read_text(write(folder, "y.html", "--workdir", workdir, "--workdir", other, "--tiles", 0))
    assert "other: not compared, for no tile is in both" in text
    assert "No pictures were asked for" in text


def test_tiles_of_one_name_in_another_data_set_are_not_the_same(folder, workdir):
    """As simulated data sets of two seeds have them."""
    [run] = runs.read_runs([workdir], "test", str(folder / "data"), "places")
    others = [
        dataclasses.replace(run, name=name, figures=run.figures | change)
        for name, change in (("b", {"dataset": "dynamic_world_plus/other/1.0.0"}), ("c", {"data_sha256": "0" * 64}))
    ]
    said = runs.mixtures([run, *others])
    assert [line.partition(" was evaluated on ")[0] for line in said] == ["b", "c"]
    assert all("not to be compared" in line for line in said) and runs.mixtures([run, run]) == []
    page = report_page.render([run, *others], "test", 0, 0)
    for name in "bc":
        assert f"{name}: not compared, for it was evaluated on another data set" in page


def test_refused(folder, workdir, tmp_path):
    result = command("specsar_jax.report", "--workdir", tmp_path, cwd=tmp_path)
    assert "is not a workdir" in refused(result)

    def error(*arguments: object) -> str:
        with pytest.raises(ValueError) as caught:
            report.main([*map(str, arguments)])
        assert "\n" not in str(caught.value)
        return str(caught.value)

    said = error("--workdir", workdir, "--split", "validation")
    assert f"has no evaluation of split 'validation' (found: {FIGURES}, evaluation_test.json)" in said
    assert "specsar_jax.evaluate" in said
    places = ("--dataset", "places")
    assert "no data set dynamic_world_plus/places" in error("--workdir", workdir, *places, "--data_dir", tmp_path)
    assert "--tiles is -1" in error("--workdir", workdir, "--tiles", -1)
    assert "--seed is -1" in error("--workdir", workdir, "--seed", -1)
    assert "no folder" in error("--workdir", workdir, "--output", tmp_path / "none" / "x.html")
    broken = tmp_path / "broken"
    shutil.copytree(workdir, broken)
    own = broken / "evaluation_test.json"
    edit(own, labelled_pixels=1)
    assert "are not of one evaluation" in error("--workdir", broken)
    edit(own, labelled_pixels=0)
    assert "has no labelled pixel" in error("--workdir", broken)
    edit(own, split="test[-5:]")
    own.rename(broken / split_file("evaluation", "test[:5%]", "json"))
    assert "is of split 'test[-5:]', not 'test[:5%]'" in error("--workdir", broken, "--split", "test[:5%]")
    for text, expected in (("{", "is not JSON"), ("[]", "is a list, expected an object"), ("{}", "has no dataset")):
        own.write_text(text)
        assert expected in error("--workdir", broken)
    assert not list(broken.glob("*report*")) and not list(tmp_path.glob("*.html"))


def test_without_the_data_set_the_rest_is_told(workdir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    report.main(
        ["--workdir", str(copy), "--dataset", "places"]
    )  # the config's data set is there, the evaluation's is not
    text = read_text(copy / "report.html")
    assert "Pictures are missing of copy: no data set dynamic_world_plus/places" in text
    assert "Mean IoU" in text and "Model card" in text


def test_without_its_checkpoint_no_prediction_is_shown(folder, workdir, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    edit(copy / FIGURES, step=99)
    page = write(folder, "gone.html", "--workdir", copy)
    said = "copy was evaluated at step 99, but its best checkpoint is of step"
    assert said in capsys.readouterr().err and said in read_text(page) and "the best by" not in read_text(page)
    assert "the checkpoint of step 99, which was evaluated, is gone" in read_text(page)
    assert "Label of tile" in page.read_text() and "Map of tile" not in page.read_text()


def test_sums_that_are_missing_are_made_again(folder, workdir, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    (copy / SUMS).unlink()
    (copy / "metrics.jsonl").unlink()
    text = read_text(write(folder, "again.html", "--workdir", copy, "--tiles", 0))
    assert f"has no {SUMS}: the network is run over test again" in capsys.readouterr().err
    assert len(Tally.read(copy / SUMS)) == 8
    assert "There is no run log" in text


@pytest.mark.parametrize(
    ("split", "used"),
    [("test", False), ("test[:3]", False), ("train[-20%:]", True), ("test[5%:]+validation", True), ("all", True)],
)
def test_a_split_that_the_training_used(folder, workdir, split, used):
    [run] = runs.read_runs([workdir], "test", str(folder / "data"), "places")
    assert not report_page.used_in_training(run)
    figures = run.figures | {"split": split}
    assert not report_page.used_in_training(dataclasses.replace(run, figures=figures))  # of another data set
    of_own = dataclasses.replace(run, figures=figures | {"dataset": "dynamic_world_plus/mine/1.0.0"})
    assert report_page.used_in_training(of_own) == used
    assert any("that the training used were judged" in said for said in report_page.limits(of_own)) == used


def test_a_split_that_the_training_used_is_told(folder, workdir, page, tmp_path):
    assert "the split test had no part in it" in read_text(page)
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    config = json.loads((copy / "config.json").read_text())
    edit(copy / "config.json", data=config["data"] | {"name": "places"})
    files = files_of(copy, "train[:50%]", "places", "best")
    for name, path in zip((FIGURES, SUMS), files, strict=True):
        (copy / name).rename(path)
    edit(files.figures, split="train[:50%]")
    text = read_text(write(folder, "train.html", "--workdir", copy, "--split", "train[:50%]", "--tiles", 0))
    assert "is of a part of the data set that the training used" in text


def test_many_places_are_put_together(folder, workdir):
    [run] = runs.read_runs([workdir], "test", str(folder / "data"), "places")
    tally = run.tally.choose(np.arange(5000) % 8)
    rng = np.random.default_rng(0)
    tally.columns["lon"], tally.columns["lat"] = rng.uniform(-170, 170, 5000), rng.uniform(-60, 60, 5000)
    scores = metrics.headline(tally.confusion)["overall_accuracy"]
    found = place_maps.map_of_places(tally, scores, {})
    assert 500 < found.drawn.count("<circle") <= place_maps.MOST_PLACES
    tally.columns["lon"][:] = np.nan
    assert place_maps.map_of_places(tally, scores, {}) is None


def score(folder: Path, workdir: Path) -> None:
    """Evaluates a run on the data set `places`."""
    of = ("--data_dir", str(folder / "data"), "--dataset", "places", "--split", "test")
    evaluate.main(["--workdir", str(workdir), *of])


def write(folder: Path, name: str, *arguments: object) -> Path:
    """Makes a report with the data set `places`."""
    output = folder / name
    places = ("--data_dir", str(folder / "data"), "--dataset", "places")
    report.main([*map(str, arguments), *places, "--output", str(output)])
    return output


def edit(path: Path, **changes: object) -> None:
    """Changes keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def read_text(path: Path) -> str:
    """What a reader of the page sees, tags as line breaks."""
    text = re.sub(r"<(style|script|svg).*?</\1>", "", path.read_text(), flags=re.DOTALL)
    text = re.sub(r"</?(b|i|span|code|a)\b[^>]*>", "", text)
    text = re.sub(r"<[^>]+>", "\n", text)
    text = html.unescape(text).replace("\xa0", " ")
    return re.sub(r"[ \t]*\n\s*", "\n", text)


def decoded(uri: str) -> np.ndarray:
    """The pixels of a picture of the page."""
    return np.array(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA"))


def by_class(picture: np.ndarray) -> list[int]:
    """Pixels of each class's colour."""
    return [int((picture == (*rgb, 255)).all(axis=-1).sum()) for rgb in bands.DYNAMIC_WORLD.rgb()]
