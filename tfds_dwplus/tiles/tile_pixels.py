"""Read the pixels of a tile's rasters, by the rules of `imagery.decoder`, as everywhere.

Enters: an opened raster of a tile, and the bands that are wanted. Leaves: digital numbers, dB or label codes, and notes on
what was decided. What does not fit is a ValueError that names the file.
"""

import dataclasses
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Float32, Num, Shaped, UInt8, UInt16
from rasterio.errors import RasterioError

from tfds_dwplus import bands
from tfds_dwplus.imagery.decoder.backscatter import check_unit, told, without_border_noise
from tfds_dwplus.imagery.decoder.band_names import names_of
from tfds_dwplus.imagery.decoder.declared import Declared, of_tags
from tfds_dwplus.imagery.decoder.reflectance import Linear, dark_where_others_have_data, decide
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.rasters import Layer, Quantity, alpha_band, sentinel1, sentinel2


def label_codes(
    path: Path, raster: rasterio.DatasetReader, classes: bands.Classes
) -> UInt8[np.ndarray, "height width"]:
    """Reads label codes: 0 to the number of classes, and 10, cloud, of Dynamic World's. Raises a ValueError if there are others."""
    codes = read_bands(path, raster, (1,))[..., 0]
    own = classes != bands.DYNAMIC_WORLD
    most = len(classes) if own else max(bands.LABEL_CODES)
    if codes.max() > most:
        told = (
            ", as classes.csv of its folder has them; add a class, or write 0 for a pixel without a label"
            if own
            else ""
        )
        raise ValueError(f"{path} holds label code {codes.max()}, expected 0 to {most}{told}")
    return codes


def digital_numbers(
    path: Path, raster: rasterio.DatasetReader, names: tuple[str, ...], *, final: bool
) -> tuple[UInt16[np.ndarray, "height width s2_band"], tuple[str, ...]]:
    """Reads digital numbers by the rules of `imagery.decoder`; also gives notes.

    With `final` they are digital numbers already, as `acquire` writes them: nothing is subtracted.
    """
    layers = _layers(path, raster, names, sentinel2(Linear()))
    if final:
        layers = [dataclasses.replace(layer, declared=Declared(offset=0.0)) for layer in layers]
    pixels = [layer.stored() for layer in layers]
    samples = _samples(path, layers, pixels, names)
    advice = "if it is, write scale 0.0001 and offset -0.1 into the tags of the files, if not, 0 into the column s2_offset of tiles.csv"
    decision = decide(names, [layer.declared for layer in layers], samples, advice=advice)
    decoded = [
        dataclasses.replace(layer, quantity=sentinel2(linear)).decoded(*each)
        for layer, linear, each in zip(layers, decision.linear, pixels, strict=True)
    ]
    numbers = np.stack([values for values, _ in decoded], axis=-1)
    return dark_where_others_have_data(numbers, [zero for _, zero in decoded]), decision.notes


def decibels(
    path: Path, raster: rasterio.DatasetReader, names: tuple[str, ...]
) -> tuple[Float32[np.ndarray, "height width s1_band"], tuple[str, ...]]:
    """Reads backscatter in dB by the rules of `imagery.decoder`; also gives notes."""
    dropped: dict[str, int] = {}
    layers = _layers(path, raster, names, sentinel1("db", dropped))
    pixels = [layer.stored() for layer in layers]
    for sample in _samples(path, layers, pixels, names):
        check_unit(str(path), sample, "db", "convert linear power by 10 log10, and nodata to NaN")
    values = np.stack([layer.decoded(*each)[0] for layer, each in zip(layers, pixels, strict=True)], axis=-1)
    values = without_border_noise(names, values, dropped)
    _check_has_data(path, np.isfinite(values).any(axis=(0, 1)).tolist(), names)
    return values, tuple(told(dropped))


def _samples(
    path: Path, layers: list[Layer], pixels: list[tuple[np.ndarray, np.ndarray]], names: tuple[str, ...]
) -> list[Num[np.ndarray, " _"]]:
    """Stored numbers of each band that have data, of rows and columns all over the tile. Raises a ValueError if a band has none at all."""
    step = max(min(pixels[0][0].shape) // 64, 1)  # some thousand pixels are enough to decide, of a small tile all
    samples = [
        layer.with_data(*(array[::step, ::step] for array in each)) for layer, each in zip(layers, pixels, strict=True)
    ]
    some = [
        bool(sample.size or layer.with_data(*each).size)
        for sample, layer, each in zip(samples, layers, pixels, strict=True)
    ]
    _check_has_data(path, some, names)
    return samples


def _layers(path: Path, raster: rasterio.DatasetReader, names: tuple[str, ...], quantity: Quantity) -> list[Layer]:
    layers = []
    for index in band_indexes(path, descriptions_of(raster), names):
        tags = raster.tags(index), raster.tags()
        declared = of_tags(*tags, scale=raster.scales[index - 1], offset=raster.offsets[index - 1])
        layers.append(Layer(str(path), raster, index, quantity, declared))
    return layers


def read_bands(
    path: Path, raster: rasterio.DatasetReader, indexes: tuple[int, ...]
) -> Shaped[np.ndarray, "height width band"]:
    """Reads some bands (counted from 1). Raises a ValueError that names the file if it is cut short."""
    try:
        return np.moveaxis(raster.read(list(indexes)), 0, -1)
    except RasterioError as error:
        raise ValueError(
            f"cannot read the pixels of {path}; is the file cut short? ({error.__cause__ or error})"
        ) from None


def descriptions_of(raster: rasterio.DatasetReader) -> tuple[str | None, ...]:
    """The descriptions of the bands; an alpha band is called alpha."""
    alpha = alpha_band(raster)
    return tuple("alpha" if index == alpha else text for index, text in enumerate(raster.descriptions, start=1))


def named_bands(path: Path, descriptions: tuple[str | None, ...]) -> tuple[str, ...]:
    """Standard band names of a raster's descriptions. Raises a ValueError if one is missing or repeated."""
    if not all(descriptions):
        raise ValueError(
            f"{path} has bands without a name; expected band descriptions such as {', '.join(bands.S2_BANDS)}"
        )
    known = names_of([str(text) for text in descriptions])
    names = tuple(name or bands.canonical_band(text) for name, text in zip(known, descriptions, strict=True))
    if len(set(names)) != len(names):
        raise ValueError(f"{path} has two bands of one name: {', '.join(names)}")
    return names


def band_indexes(path: Path, descriptions: tuple[str | None, ...], wanted: tuple[str, ...]) -> tuple[int, ...]:
    """Indexes (from 1) of the `wanted` bands. Raises a ValueError that lists the bands of the file."""
    names = named_bands(path, descriptions)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(
            f"{path} has no band {', '.join(missing)}; it has {', '.join(names)}, expected {', '.join(wanted)}"
        )
    return tuple(names.index(name) + 1 for name in wanted)


def check_same_grid(
    path: Path, raster: rasterio.DatasetReader, reference_path: Path, reference: rasterio.DatasetReader
) -> None:
    """Raises a ValueError unless two rasters have the same size, CRS and transform."""
    if Grid.of(raster).same(Grid.of(reference)):
        return
    for what, given, expected in (
        ("size", raster.shape, reference.shape),
        ("CRS", raster.crs, reference.crs),
        ("transform", tuple(raster.transform)[:6], tuple(reference.transform)[:6]),
    ):
        if given != expected:
            raise ValueError(f"{path} has {what} {given}, but {reference_path} has {expected}; resample one of them")


def _check_has_data(path: Path, some: list[bool], names: tuple[str, ...]) -> None:
    """Raises a ValueError if a band has no valid pixel."""
    empty = [name for name, any_valid in zip(names, some, strict=True) if not any_valid]
    if empty:
        raise ValueError(f"{path} is all nodata in band {', '.join(empty)}")
