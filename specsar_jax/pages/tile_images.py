"""Encodes rasters of a tile as pictures of an HTML page.

Enters: rasters. Leaves: WebP as data URIs, and words that stand for them. Pixels of class maps are those of the raster, in colours by which the
page's script knows the classes again.
"""

import base64
import io
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Num, UInt8
from PIL import Image

from tfds_dwplus.bands import Classes

CONFIDENCE_RAMP = tuple(
    matplotlib.colors.to_hex(matplotlib.colormaps["cividis"](level)) for level in (0.0, 0.25, 0.5, 0.75, 1.0)
)
"""Colours of `confidence_map`, from the lowest possible confidence to 1."""

WRONG, RIGHT = "d1432b", "c3ccd3"
"""Colours of `error_map`. Both are opaque, so that hatching behind the picture marks what was not scored."""

_CONFIDENCE_LEVELS = 32


def drawn_colours(classes: Classes) -> tuple[str, ...]:
    """Returns a colour of its own for each class: the class's, or where another class has it already, the next one that is free."""
    taken: list[int] = []
    for colour in classes.colours:
        value = int(colour, 16)
        while value in taken:
            value = (value + 1) % 2**24  # a step of blue, which nobody sees
        taken.append(value)
    return tuple(f"{value:06x}" for value in taken)


def shares_in_words(class_id: UInt8[np.ndarray, "height width"], classes: Classes) -> str:
    """Returns the three largest classes with their shares, as text."""
    pixels = np.bincount(class_id.ravel(), minlength=256)[: len(classes)]
    largest = [place for place in np.argsort(-pixels, kind="stable")[:3] if pixels[place]]
    return (
        ", ".join(f"{100 * pixels[i] / pixels.sum():.0f} % {classes.names[i].replace('_', ' ')}" for i in largest)
        or "no class"
    )


def photograph(colour: Num[np.ndarray, "height width 3"], side: int) -> str:
    """Encodes a colour picture with values 0..1 as WebP; a larger one is reduced to `side` pixels by averaging."""
    picture = Image.fromarray(np.rint(255 * np.clip(colour, 0.0, 1.0)).astype(np.uint8))
    if max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.BOX)
    return _data_uri(picture, quality=82, method=4)


def class_map(class_id: UInt8[np.ndarray, "height width"], classes: Classes, side: int) -> str:
    """Encodes a class map in `drawn_colours`, transparent where there is no class."""
    palette = np.zeros((256, 4), np.uint8)
    palette[: len(classes)] = [_opaque(colour) for colour in drawn_colours(classes)]
    return _drawing(palette[smaller(class_id, side)])


def confidence_map(
    confidence: Float[np.ndarray, "height width"], mapped: Bool[np.ndarray, "height width"], classes: int, side: int
) -> str:
    """Encodes a map of the confidence, from the lowest possible value, 1 / number of `classes`, to 1."""
    lowest = 1.0 / classes
    level = np.clip((confidence - lowest) / (1.0 - lowest), 0.0, 1.0)
    level = np.rint(level * (_CONFIDENCE_LEVELS - 1)) / (_CONFIDENCE_LEVELS - 1)  # few colours keep the file small
    rgba = matplotlib.colormaps["cividis"](smaller(level, side), bytes=True)
    return _drawing(np.where(smaller(mapped, side)[..., None], rgba, 0).astype(np.uint8))


def error_map(judged: Bool[np.ndarray, "height width"], wrong: Bool[np.ndarray, "height width"], side: int) -> str:
    """Encodes a map of the errors: WRONG or RIGHT, transparent where nothing was scored."""
    palette = np.array([(0, 0, 0, 0), _opaque(RIGHT), _opaque(WRONG)], np.uint8)
    return _drawing(palette[smaller(judged.astype(np.uint8) + wrong, side)])


def smaller(values: Any, side: int) -> Any:
    """Resamples a raster to at most `side` pixels by nearest neighbour, so that no new values arise."""
    height, width = values.shape
    largest = max(height, width)
    if largest <= side:
        return values
    rows, columns = (((np.arange(size * side // largest) + 0.5) * largest / side).astype(int) for size in values.shape)
    return values[rows.clip(0, height - 1)][:, columns.clip(0, width - 1)]


def _opaque(colour: str) -> tuple[int, ...]:
    return (*bytes.fromhex(colour), 255)


def _drawing(rgba: UInt8[np.ndarray, "height width 4"]) -> str:
    return _data_uri(Image.fromarray(rgba), lossless=True, quality=60, method=4)


def _data_uri(picture: Image.Image, **how: Any) -> str:
    file = io.BytesIO()
    picture.save(file, "WEBP", **how)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
