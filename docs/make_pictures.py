"""Makes the pictures of the README and the site, in docs/pictures.

    pip install -e '.[docs,view,areas,bench]' playwright && python docs/make_pictures.py
    python docs/make_pictures.py hero viewer

Runs the commands of the pages, in build/pictures, and draws or photographs what they leave. What is done there already is not done
again. Real land is read from the folder `--real`, which is not part of the project: tiles of Sen1Floods11 and TerraMesh, a scene of
SSL4EO-S12, Google's network. Screenshots are of Chromium.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import rasterio
from matplotlib import patches as shapes
from matplotlib import pyplot
from PIL import Image, ImageDraw, ImageFont

from tfds_dwplus.bands import DYNAMIC_WORLD

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
WORK = REPOSITORY / "build" / "pictures"
CHROMIUM = "/usr/bin/chromium"

TILE = "Spain_7370579"
"""The plain of the Segura after the floods of September 2019, from Sen1Floods11."""

DATES = ("20200604T054639_20200604T054831_T43RCP", "20200813T054639_20200813T054952_T43RCP")
"""Two acquisitions of the same fields in the Punjab, from SSL4EO-S12: June and August."""

DARK, LIGHT = "#1f2933", "#ffffff"

SIDE, GAP, HEAD = 510, 12, 40
"""Of panels that stand side by side: their side, what is between them, and the room for their titles, pixels."""


def main() -> None:
    """Makes the pictures that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}; all if none is given")
    parser.add_argument("--real", type=Path, default=REPOSITORY.parent / "shared" / "real", help="folder of real tiles")
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    for name in args.names or PICTURES:
        if name not in PICTURES:
            parser.error(f"no picture {name!r}; expected {', '.join(PICTURES)}")
        PICTURES[name](args.real.resolve())
        print(f"made {name}")


def hero(real: Path) -> None:
    """Draws a real tile side by side: Sentinel-2, Sentinel-1, and its map."""
    shares = _spain(real)
    with rasterio.open(real / "dwplus_mini" / "s2" / f"{TILE}.tif") as raster:
        names = list(raster.descriptions)
        rgb = np.stack([raster.read(names.index(name) + 1).astype(float) for name in ("B4", "B3", "B2")], axis=-1)
    low, high = np.percentile(rgb, (1, 98.5))
    optical = np.clip((rgb - low) / (high - low), 0, 1) ** 0.8
    with rasterio.open(real / "dwplus_mini" / "s1" / f"{TILE}.tif") as raster:
        vv, vh = np.nan_to_num(raster.read(), nan=-30.0)
    radar = np.stack([_stretched(vv, -20, -2), _stretched(vh, -26, -9), _stretched(vv - vh, 2, 14)], axis=-1)
    with rasterio.open(shares.with_name("spain.tif")) as raster:
        ids = raster.read(1)
    table = np.array([_rgb(colour) for colour in DYNAMIC_WORLD.colours] + [(0, 0, 0)] * 247, np.uint8)
    panels = [(optical * 255).astype(np.uint8), (radar * 255).astype(np.uint8), table[ids]]
    titles = ("Sentinel-2", "Sentinel-1: VV, VH, VV - VH", "map, 10 m")
    canvas = _side_by_side(panels, titles, foot=54)
    draw, left, low = ImageDraw.Draw(canvas), GAP, HEAD + SIDE
    for name, colour in zip(DYNAMIC_WORLD.names, DYNAMIC_WORLD.colours, strict=True):
        draw.rectangle((left, low + 18, left + 20, low + 38), fill=f"#{colour}")
        text = name.replace("_", " ")
        draw.text((left + 27, low + 16), text, fill=DARK, font=_font(18))
        left += 27 + round(draw.textlength(text, font=_font(18))) + 24
    _save(canvas, "hero")


def viewer(real: Path) -> None:
    """Photographs the viewer over that tile."""
    shares = _spain(real)
    scene = real / "dwplus_mini" / "s2" / f"{TILE}.tif"
    command = _python(
        "specsar_jax.view", shares.with_name("spain.tif"), "--s2", scene, "--probabilities", shares, "--port", 0
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=WORK) as server:
        try:
            address = re.search(r"http://\S+", server.stdout.readline())[0]
            _screenshot(address, "viewer", clicked=(430, 420))
        finally:
            server.terminate()


def examples(real: Path) -> None:
    """Shows the examples that the quickstart draws."""
    with Image.open(_quickstart() / "examples_test.png") as image:
        _save(_narrow(image.convert("RGB"), 1400), "examples")


def report(real: Path) -> None:
    """Photographs the head of the quickstart's report."""
    page = WORK / "report.html"
    _run("specsar_jax.report", "--workdir", _quickstart(), "--output", page, made=page)
    _screenshot(page.as_uri(), "report")


def look(real: Path) -> None:
    """Shows real tiles as `look` draws them."""
    sheet = WORK / "look.png"
    prepared = WORK / "data" / "dynamic_world_plus" / "dwplus_mini"
    _run(
        "tfds_dwplus.prepare",
        "--tiles",
        real / "dwplus_mini",
        "--name",
        "dwplus_mini",
        "--data_dir",
        WORK / "data",
        made=prepared,
    )
    _run(
        "tfds_dwplus.look",
        "--data_dir",
        WORK / "data",
        "--name",
        "dwplus_mini",
        "--tiles",
        4,
        "--output",
        sheet,
        made=sheet,
    )
    with Image.open(sheet) as image:
        _save(_narrow(image.convert("RGB"), 1400), "look")


def change(real: Path) -> None:
    """Draws two dates of a scene, and which class became which between them."""
    scenes = [real / "scene_pakistan" / "s2_l2a" / date for date in DATES]
    maps = [WORK / f"{month}.tif" for month in ("june", "august")]
    for scene, path in zip(scenes, maps, strict=True):
        _run("specsar_jax.predict", "--workdir", _dynamic_world(real), "--s2", scene, "--output", path, made=path)
    changed = WORK / "change.tif"
    _run("specsar_jax.change", *maps, "--output", changed, made=changed)
    panels = []
    for scene in scenes:
        bands = []
        for band in ("B4", "B3", "B2"):
            with rasterio.open(scene / f"{band}.tif") as raster:
                bands.append(raster.read(1).astype(float))
        rgb = np.stack(bands, axis=-1)
        panels.append((_stretched(rgb, *np.percentile(rgb, (1, 98.5))) ** 0.8 * 255).astype(np.uint8))
    with rasterio.open(changed) as raster:
        table = np.array([raster.colormap(1)[code][:3] for code in range(255)] + [(255, 255, 255)], np.uint8)
        panels.append(table[raster.read(1)])
    _save(
        _side_by_side(panels, ("4 June 2020", "13 August 2020", "change, pale where there is none"), foot=12), "change"
    )


def network(real: Path) -> None:
    """Draws the network: two branches of four stages, what joins them, and the decoder."""
    figure, axes = _sheet(10, 4.6)
    widths = ((48, 16), (96, 32), (240, 80), (384, 128))
    _box(axes, 0.1, 3.0, 1.3, 0.9, "Sentinel-2\n9 bands", "#cfe3f7")
    _box(axes, 0.1, 0.9, 1.3, 0.9, "Sentinel-1\nVV, VH", "#f7e3c4")
    for stage, (spectral, sar) in enumerate(widths):
        left = 2.0 + 1.75 * stage
        _box(axes, left, 3.0, 1.35, 0.9, f"stage {stage + 1}\n{spectral} channels", "#cfe3f7")
        _box(axes, left, 0.9, 1.35, 0.9, f"stage {stage + 1}\n{sar} channels", "#f7e3c4")
        _box(axes, left + 0.22, 2.08, 0.9, 0.62, "DMEM", "#ffffff")
        for low, high in ((1.8, 2.08), (2.7, 3.0)):
            axes.annotate("", (left + 0.67, high), (left + 0.67, low), arrowprops={"arrowstyle": "<->", "color": DARK})
        for row in (3.45, 1.35):
            start = 1.4 if stage == 0 else left - 0.4
            axes.annotate("", (left, row), (start, row), arrowprops={"arrowstyle": "->", "color": DARK})
        axes.text(left + 0.67, 4.02, f"1/{4 * 2**stage}", ha="center", va="bottom", fontsize=10, color=DARK)
        axes.annotate("", (left + 0.67, 0.5), (left + 0.67, 0.9), arrowprops={"arrowstyle": "->", "color": DARK})
    _box(
        axes,
        2.0,
        0.0,
        6.6,
        0.5,
        "MMAM of each stage, then the all-MLP decoder: logits at 1/4",
        "#d9ead3",
    )
    _save_drawing(figure, "network")


def exports(real: Path) -> None:
    """Draws what a network is exported to, and who reads it."""
    figure, axes = _sheet(10, 3.6)
    _box(axes, 0.1, 1.3, 2.1, 1.0, "a run, or a bundle\nruns/a", "#cfe3f7")
    rows = (
        ("safetensors, folder", "specsar_jax, PyTorch, model hubs"),
        ("stablehlo", "JAX, without this package"),
        ("onnx", "ONNX runtimes"),
        ("saved_model", "TensorFlow"),
    )
    for place, (form, reader) in enumerate(rows):
        low = 2.85 - 0.9 * place
        _box(axes, 3.5, low, 2.2, 0.6, form, "#f7e3c4")
        _box(axes, 6.7, low, 3.2, 0.6, reader, "#d9ead3")
        axes.annotate("", (3.5, low + 0.3), (2.2, 1.8), arrowprops={"arrowstyle": "->", "color": DARK})
        axes.annotate("", (6.7, low + 0.3), (5.7, low + 0.3), arrowprops={"arrowstyle": "->", "color": DARK})
    _save_drawing(figure, "exports")


PICTURES: dict[str, Callable[[Path], None]] = {
    function.__name__: function for function in (hero, viewer, examples, report, look, change, network, exports)
}
"""What makes each picture, by its name."""


def _spain(real: Path) -> Path:
    """Maps the tile with Google's network; returns the raster of its probabilities, which `spain.tif` lies beside."""
    bundle, shares = _dynamic_world(real), WORK / "shares.tif"
    scene = real / "dwplus_mini" / "s2" / f"{TILE}.tif"
    outputs = ("--output", WORK / "spain.tif", "--probabilities", shares, "--confidence", WORK / "sure.tif")
    _run("specsar_jax.predict", "--workdir", bundle, "--s2", scene, *outputs, made=WORK / "spain.tif")
    return shares


def _dynamic_world(real: Path) -> Path:
    """Reads Google's network; returns its bundle."""
    bundle, source = WORK / "dynamic_world.safetensors", real / "dynamic_world_model"
    _run("specsar_jax.import_dynamic_world", "--saved_model", source, "--output", bundle, made=bundle)
    return bundle


def _quickstart() -> Path:
    """Trains the quickstart; returns its workdir."""
    workdir = WORK / "runs" / "quickstart"
    _run("specsar_jax.train", made=workdir / "examples_test.png")
    return workdir


def _run(module: str, *arguments: object, made: Path) -> None:
    """Runs a command, unless what it makes is there."""
    if not made.exists():
        subprocess.run(_python(module, *arguments), check=True, cwd=WORK)


def _python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


def _side_by_side(panels: Sequence[np.ndarray], titles: Sequence[str], foot: int) -> Image.Image:
    """Returns a white sheet with square panels [row, column, colour], each below its title, and room for a legend at the foot."""
    canvas = Image.new("RGB", (len(panels) * (SIDE + GAP) + GAP, HEAD + SIDE + foot), LIGHT)
    draw = ImageDraw.Draw(canvas)
    for place, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        left = GAP + place * (SIDE + GAP)
        canvas.paste(Image.fromarray(panel).resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, HEAD))
        draw.text((left, 8), title, fill=DARK, font=_font(20))
    return canvas


def _screenshot(address: str, name: str, clicked: tuple[int, int] | None = None) -> None:
    """Photographs a page of 1280 x 800 px, after a click on it."""
    from playwright.sync_api import sync_playwright

    picture = WORK / f"{name}.png"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light", reduced_motion="reduce")
        page.goto(address)
        page.wait_for_load_state("networkidle")
        if clicked:
            page.mouse.click(*clicked)
            page.wait_for_load_state("networkidle")
        page.wait_for_timeout(1000)
        page.screenshot(path=picture)
        browser.close()
    with Image.open(picture) as image:
        _save(image.convert("RGB"), name)


def _save(image: Image.Image, name: str) -> None:
    image.save(HERE / "pictures" / f"{name}.webp", quality=86, method=6)


def _narrow(image: Image.Image, width: int) -> Image.Image:
    """Returns an image of at most this width."""
    if image.width <= width:
        return image
    return image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)


def _stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((values - low) / (high - low), 0, 1)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour))


def _font(size: int) -> ImageFont.FreeTypeFont:
    folder = Path(pyplot.matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / "DejaVuSans.ttf"), size)


def _sheet(width: float, height: float) -> tuple[pyplot.Figure, pyplot.Axes]:
    """Returns a white sheet without axes, of that many units."""
    figure, axes = pyplot.subplots(figsize=(width, height))
    axes.set(xlim=(0, width), ylim=(-0.1, height), aspect="equal")
    axes.axis("off")
    return figure, axes


def _box(axes: pyplot.Axes, left: float, low: float, width: float, height: float, text: str, colour: str) -> None:
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(shapes.FancyBboxPatch((left, low), width, height, style, fc=colour, ec=DARK, lw=1))
    axes.text(left + width / 2, low + height / 2, text, ha="center", va="center", fontsize=9, color=DARK)


def _save_drawing(figure: pyplot.Figure, name: str) -> None:
    pyplot.rcParams["svg.hashsalt"] = name  # same drawing, same file
    pyplot.rcParams["svg.fonttype"] = "path"
    figure.savefig(HERE / "pictures" / f"{name}.svg", bbox_inches="tight", facecolor=LIGHT, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
