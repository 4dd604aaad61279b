"""Colour pictures of the rasters of a tile.

Enters: bands or class ids. Leaves: red, green, blue for each pixel. Pure functions.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Num, UInt8

from tfds_dwplus import bands
from tfds_dwplus.tiles.contents import used_pixels
from tfds_dwplus.tiles.labelling.annotators import NETWORK

_LEAST_SPAN_DN = 400.0
"""Smallest range of values that is stretched from black to white, so that the noise of calm water stays dark."""

_LEAST_SPAN_DB = 8.0


def sample_tiles(count: int, most: int, seed: int) -> list[int]:
    """Draws at most `most` of `count` tiles at random; gives their indexes, sorted."""
    return sorted(np.random.default_rng(seed).permutation(count)[:most].tolist())


def panels(
    record: dict[str, Any], s2_bands: tuple[str, ...], classes: bands.Classes
) -> dict[str, Num[np.ndarray, "height width 3"]]:
    """Makes a picture of each raster of a record, by title, without the padding."""
    inside = _without_padding(record)
    record = {kind: record[kind][inside] for kind in ("s2", "s1", "label")}
    pictures = {}
    if record["s2"].size:
        pictures["Sentinel-2, true colour"] = true_colour(record["s2"], s2_bands)
    if record["s1"].size:
        pictures["Sentinel-1, VV VH VV"] = sar_colour(record["s1"])
    return pictures | {"label": class_colour(record["label"], classes)}


def caption(record: dict[str, Any]) -> str:
    """Tile id, date and annotator of a record, as one line; of a network without who made it, for there is little room."""
    texts = [record[name].decode() for name in ("tile_id", "date", "annotator")]
    if texts[-1].startswith(NETWORK):
        texts[-1] = texts[-1].partition(" (")[0]
    return " · ".join(text for text in texts if text)


def true_colour(
    s2: Num[np.ndarray, "height width band"], names: tuple[str, ...]
) -> Float[np.ndarray, "height width 3"]:
    """True colour of Sentinel-2, 0..1, stretched from the 2nd to the 98th percentile, with a gamma of 2.

    If red, green or blue is missing, the first three bands are used.
    """
    chosen = [names.index(name) if name in names else None for name in ("B4", "B3", "B2")]
    places = chosen if None not in chosen else [min(place, s2.shape[-1] - 1) for place in range(3)]
    return np.sqrt(_stretch(s2[..., places].astype(np.float32), (s2 != bands.S2_NODATA).all(axis=-1), _LEAST_SPAN_DN))


def sar_colour(s1: Float[np.ndarray, "height width 2"]) -> Float[np.ndarray, "height width 3"]:
    """False colour of Sentinel-1, 0..1: VV, VH, VV as red, green, blue, with the same stretch."""
    return _stretch(s1[..., [0, 1, 0]], np.isfinite(s1).all(axis=-1), _LEAST_SPAN_DB)


def class_colour(
    class_id: UInt8[np.ndarray, "height width"], classes: bands.Classes
) -> UInt8[np.ndarray, "height width 3"]:
    """Colours of the classes, 0..255; white for pixels without a class."""
    palette = np.full((256, 3), 255, np.uint8)
    palette[: len(classes)] = classes.rgb()
    return palette[class_id]


@contextlib.contextmanager
def any_letters() -> Iterator[None]:
    """Lets matplotlib draw names of classes in any script: a box for each letter that its font lacks, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"Glyph \d+ .*missing from|Matplotlib currently does not support", UserWarning
        )
        yield


def drawn_name(name: str) -> str:
    """A class name that matplotlib draws as it is: it takes `$` for mathematics, and leaves `_name` out of a legend."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def _stretch(
    values: Float[np.ndarray, "height width channel"], valid: Bool[np.ndarray, "height width"], least_span: float
) -> Float[np.ndarray, "height width channel"]:
    if not valid.any():
        return np.zeros(values.shape, np.float32)
    low, high = np.percentile(values[valid], (2, 98), axis=0)
    stretched = np.clip((values - low) / np.maximum(high - low, least_span), 0, 1)
    return np.where(valid[..., None], stretched, 0).astype(np.float32)


def _without_padding(record: dict[str, Any]) -> tuple[slice, slice]:
    """Rows and columns up to the last used pixel. Padding is at the right and at the bottom."""
    used = used_pixels(record)
    rows, columns = np.flatnonzero(used.any(axis=1)), np.flatnonzero(used.any(axis=0))
    return (slice(0, rows[-1] + 1), slice(0, columns[-1] + 1)) if rows.size else (slice(None), slice(None))
