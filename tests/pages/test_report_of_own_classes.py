"""A report on a network with classes of its own: their names and colours, whatever they are called."""

import base64
import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
from browsers import started, violations
from drawn_networks import SMALL_PRESETS, drawn
from own_classes import dataset_of
from PIL import Image

from specsar_jax import evaluate, report
from specsar_jax.trained.bundle import write_bundle
from tfds_dwplus import bands

HOSTILE = bands.Classes(
    ("<img src=x onerror=\"document.title='taken'\">", "forêt & 'bois'", "a.b: {{ 7 * 6 }}", "</script><b>"),
    ("e8c547", "1b5e20", "2e6fdb", "c0392b"),
)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The report on a network that was never trained, scored on tiles of such classes."""
    folder = dataset_of(tmp_path_factory.mktemp("report"), HOSTILE)
    trained = drawn(SMALL_PRESETS["specsar_former"], classes=HOSTILE)
    data = dataclasses.replace(trained.config.data, name="own", data_dir=str(folder / "data"), s2_bands=bands.S2_BANDS)
    trained = dataclasses.replace(trained, config=dataclasses.replace(trained.config, data=data))
    write_bundle(trained, folder / "a.safetensors")
    where = ["--workdir", str(folder / "a.safetensors"), "--data_dir", str(folder / "data"), "--dataset", "own"]
    evaluate.main([*where, "--split", "test"])
    report.main([*where, "--output", str(folder / "page.html"), "--tiles", "1"])
    return folder / "page.html"


def test_names_and_colours(page):
    text = page.read_text()
    for place, (name, colour) in enumerate(zip(HOSTILE.names, HOSTILE.colours, strict=True)):
        assert not (set(name) & set("<&'") and name in text)
        assert text.count(f'class="swatch" style="background:var(--c{place})"') >= 5
        assert f"--c{place}: #{colour}; " in text
    assert "water" not in text and "419bdf" not in text.replace("fill='%23419bdf'", "")
    label = re.search(r'src="data:image/webp;base64,([^"]+)" alt="Label of tile', text)[1]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(label))).convert("RGBA"))
    drawn_colours = {tuple(rgb) for rgb in pixels[pixels[..., 3] > 0][:, :3].tolist()}
    assert drawn_colours and drawn_colours <= set(HOSTILE.rgb())


def test_opens_in_a_browser(page):
    with started() as browser:
        said: list[str] = []
        for width in (1280, 400):
            opened = browser.new_page(viewport={"width": width, "height": 900})
            opened.on("console", lambda message: said.append(message.text))
            opened.on("pageerror", lambda error: said.append(str(error)))
            opened.goto(page.as_uri())
            assert said == [] and opened.title() != "taken"
            text = opened.inner_text("body")
            assert all(text.count(name) >= 4 for name in HOSTILE.names)
            assert opened.evaluate("document.documentElement.scrollWidth") <= width
            assert violations(opened) == []
