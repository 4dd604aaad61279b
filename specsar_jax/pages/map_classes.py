"""The classes of a map: from its tags and colour table, or from the legend of another map. Pure but for a look at the pixels.

Enters: the open raster of a map, or of class probabilities. Leaves: the classes, and which code is of which; a ValueError if it is another
kind of raster.
"""

import dataclasses
import re

import numpy as np
import rasterio
from jaxtyping import Bool, Int64, Shaped, UInt8
from rasterio.errors import RasterioError

from specsar_jax.accuracy.legends import Legend, told_unknown
from tfds_dwplus import bands
from tfds_dwplus.files.strangers import one_line
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.vectors.value_table import colour_at

_LOOK_PX = 1024
"""Rows and columns in which the codes of a map are looked at."""

_LEFT_OUT = "8f8f8f"
"""Colour of codes that no class of ours stands for."""


@dataclasses.dataclass(frozen=True)
class Coding:
    """The classes of a map, and which of them each code is."""

    classes: bands.Classes
    codes: Int64[np.ndarray, " code"]
    """Ascending."""
    places: UInt8[np.ndarray, " code"]
    """Class id of each code."""
    stands_for: tuple[str, ...]
    """Name by which each class is compared with those of another map; '' for one that is not."""
    merged: tuple[tuple[str, str], ...] = ()
    """As `Legend.merged`, of the names in `stands_for`."""

    def ids(self, codes: Shaped[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
        """Returns the class ids of codes, 255 for those of no class."""
        at = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.where(self.codes[at] == codes, self.places[at], np.uint8(bands.IGNORE))

    def known(self, codes: Shaped[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
        """Returns which codes are of a class."""
        return self.ids(codes) != bands.IGNORE


def coding_of_ids(classes: bands.Classes) -> Coding:
    """Returns the coding of a map of `specsar_jax.predict`, whose codes are class ids."""
    places = np.arange(len(classes), dtype=np.uint8)
    return Coding(classes, places.astype(np.int64), places, classes.names)


def classes_of_map(path: str, raster: rasterio.DatasetReader) -> bands.Classes:
    """Returns the classes of a map, Dynamic World's where its tags name none. Raises ValueError if it is no class map."""
    expected = "expected a class map of specsar_jax.predict: one band of uint8, class ids and nodata 255"
    if raster.count != 1 or raster.dtypes[0] != "uint8" or raster.nodata != bands.IGNORE:
        kind = f"{raster.count} bands" if raster.count != 1 else f"{raster.dtypes[0]} with nodata {raster.nodata}"
        raise ValueError(f"{path} holds {kind}, {expected}")
    try:
        classes = _named(raster)
    except ValueError as error:
        if raster.tags().get("codes", "").startswith("class before x"):
            raise ValueError(
                f"{path} is a raster of specsar_jax.change with more codes than a class map can have; look at it in QGIS, or give one of the "
                "two maps that it is of"
            ) from None
        raise ValueError(f"{path}: {error}; give the map as specsar_jax.predict wrote it") from None
    other = np.setdiff1d(look(path, raster, 1), [*range(len(classes)), bands.IGNORE])
    if other.size:
        found, most = ", ".join(map(str, other[:5])), len(classes) - 1
        raise ValueError(
            f"{path} holds {found}, expected ids of its {len(classes)} classes, 0 to {most}, and nodata 255"
        )
    return classes


def coding_of_legend(path: str, raster: rasterio.DatasetReader, index: int, legend: Legend) -> Coding:
    """Returns the coding of a map by a legend: names of the legend; colours of it, of the file's colour table, or of our classes.

    Args:
        path: of the raster, for messages.
        raster: the map.
        index: of the band of classes, from 1.
        legend: its own codes are the classes; those of one name are one class.

    Raises:
        ValueError: it holds codes that the legend lacks, or none that it has; its nodata is a class of the legend.
    """
    declared = raster.nodatavals[index - 1]
    found = np.unique(look(path, raster, index))
    found = found[np.isfinite(found)] if found.dtype.kind == "f" else found
    if (found != np.rint(found)).any():
        raise ValueError(f"{path} holds {found[found != np.rint(found)][0]:g}, expected codes of legend {legend.name}")
    found = np.setdiff1d(found.astype(np.int64), [*legend.nodata, *([int(declared)] if _is_code(declared) else [])])
    called = {code.code: code for code in legend.codes}
    if declared in called:
        raise ValueError(
            f"{path} declares {declared:g} as nodata, which is {called[int(declared)].called} in legend {legend.name}; give the file another "
            "nodata (gdal_edit.py -unsetnodata, if it has none) or another --legend"
        )
    if unknown := [code for code in found.tolist() if code not in called]:
        raise ValueError(f"{path} holds {told_unknown(unknown, legend)}")
    if not found.size:
        raise ValueError(f"{path} holds no code of legend {legend.name}; give another --legend")
    codes = _spoken(legend, found)
    names = tuple(dict.fromkeys(code.called for code in codes))
    first = [next(code for code in codes if code.called == name) for name in names]
    try:
        classes = bands.Classes(names, _colours(first, raster, index))
    except ValueError as error:
        raise ValueError(f"legend {legend.name}: {error}") from None
    places = np.array([names.index(code.called) for code in codes], np.uint8)
    return Coding(
        classes, np.array([code.code for code in codes]), places, tuple(code.becomes for code in first), legend.merged
    )


def look(path: str, raster: rasterio.DatasetReader, index: int) -> np.ndarray:
    """Reads the pixels of a band, or some of them if they are many. Raises a ValueError if they cannot be read."""
    try:
        return raster.read(index, out_shape=tuple(min(size, _LOOK_PX) for size in raster.shape))
    except RasterioError as error:
        raise ValueError(f"cannot read the pixels of {path}; is the file cut short? ({error})") from None


def check_probabilities(
    path: str, raster: rasterio.DatasetReader, map_path: str, grid: Grid, classes: bands.Classes
) -> None:
    """Raises a ValueError unless a raster holds the probabilities of the classes of a map, on its grid."""
    names = [text or name for text, name in zip(raster.descriptions, classes.names, strict=False)]
    if raster.count != len(classes) or names != list(classes.names):
        raise ValueError(
            f"{path} holds {raster.count} bands ({one_line(', '.join(names), 200)}), expected the probabilities of the classes of "
            f"{map_path}, {one_line(', '.join(classes.names), 200)}"
        )
    if not Grid.of(raster).same(grid):
        raise ValueError(f"{path} is not on the grid of {map_path}; give the probabilities that were written with it")


def _named(raster: rasterio.DatasetReader) -> bands.Classes:
    """Returns the classes that the tags class_0, class_1 and so on name, with the colours of the colour table."""
    named = {int(key[6:]): text for key, text in raster.tags().items() if re.fullmatch(r"class_\d{1,3}", key)}
    if not named:
        return bands.DYNAMIC_WORLD
    names = tuple(text for _, text in sorted(named.items()))
    try:
        table = raster.colormap(1)
    except ValueError:  # rasterio's, of a file without one
        if names == bands.CLASSES:
            return bands.DYNAMIC_WORLD
        raise ValueError("its tags name classes of its own, but it has no colour table") from None
    if lacking := [place for place in range(len(named)) if not (place in named and place in table)]:
        raise ValueError(f"class {lacking[0]} of {len(named)} has no name among its tags, or no colour")
    return bands.Classes(names, tuple(bytes(table[place][:3]).hex() for place in range(len(named))))


def _is_code(declared: float | None) -> bool:
    return declared is not None and bool(np.isfinite(declared))


def _spoken(legend: Legend, found: Int64[np.ndarray, " code"]) -> list:
    """Returns the codes of a legend, ascending: of CORINE's, which has two for each class, those of the kind that the map holds."""
    codes = sorted(legend.codes, key=lambda code: code.code)
    if len({code.called for code in codes}) == len(codes) or legend.name.endswith(".csv"):
        return codes
    low = found.max() < codes[len(codes) // 2].code
    return [code for place, code in enumerate(codes) if (place < len(codes) // 2) == low]


def _colours(codes: list, raster: rasterio.DatasetReader, index: int) -> tuple[str, ...]:
    """Returns the colour of each code: the legend's own, the file's, that of our class in shades, or one that is drawn."""
    try:
        table = raster.colormap(index)
    except ValueError:  # rasterio's, of a file without one
        table = {}
    own = [bytes(table[code.code][:3]).hex() if code.code in table else "" for code in codes]
    if len(set(own)) > len(own) // 2:
        return tuple(code.colour or colour or _LEFT_OUT for code, colour in zip(codes, own, strict=True))
    of_ours = dict(zip(bands.CLASSES, bands.CLASS_COLOURS, strict=True))
    base = [
        of_ours.get(code.becomes, colour_at(place) if code.becomes else _LEFT_OUT) for place, code in enumerate(codes)
    ]
    return tuple(
        code.colour or _shade(colour, base[:place].count(colour), base.count(colour))
        for place, (code, colour) in enumerate(zip(codes, base, strict=True))
    )


def _shade(colour: str, place: int, number: int) -> str:
    """Returns one of several shades of a colour, from darker to lighter; the colour itself of one alone."""
    if number == 1:
        return colour
    share = -0.35 + 0.9 * place / (number - 1)
    to = 255 if share > 0 else 0
    return bytes(round(part + abs(share) * (to - part)) for part in bytes.fromhex(colour)).hex()
