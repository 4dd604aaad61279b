"""Open the files of a scene: find each band, and the unit and offset of its numbers.

Enters: rasters by path or URL (one multi-band file, or one file per band, at 10, 20 or 60 m; VRT; http(s), s3 and GDAL's
/vsi paths), folders of such files, Sentinel-2 SAFE products as folder or zip. Leaves: a `rasters.Scene` on the grid of the
finest band. Settings that come from metadata and not from the user are printed on stderr. Missing ones are not guessed.
"""

import contextlib
import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import rasterio

from tfds_dwplus import bands
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.rasters import (
    CLASSES_OF_A_MASK,
    S1_UNITS,
    Layer,
    Scene,
    Sensor,
    check_unit,
    sentinel1,
    sentinel2,
)
from tfds_dwplus.imagery.scene_files import band_name, is_remote, list_rasters, open_raster, remote_settings, shown

CLOUD_CLASSES = (3, 8, 9, 10)
"""Values of the scene classification SCL: cloud shadow, cloud of medium and of high probability, thin cirrus."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the user tells about the files, because they do not."""

    s2_offset: int | None = None
    """Digital numbers to subtract from Sentinel-2. None: use the metadata of the product."""
    s1_unit: str = "db"
    """One of `rasters.S1_UNITS`."""
    s2_bands: tuple[str, ...] = ()
    """Names of the bands in the order of the files, for files without band names."""
    s1_bands: tuple[str, ...] = ()
    cloud_mask: str = ""
    """Raster on any grid, or a SAFE product, whose scene classification is used."""
    cloud_values: tuple[int, ...] = ()
    """Values of the mask that are not mapped. (): `CLOUD_CLASSES` if the file name has SCL, else all but 0."""


AS_FILES_SAY = Reading()


@dataclasses.dataclass(frozen=True)
class _File:
    """An opened raster, and what its product's metadata tell."""

    address: str
    raster: rasterio.DatasetReader
    offsets: dict[str, int]
    """Digital numbers to subtract, for the bands in the metadata."""


@contextlib.contextmanager
def open_scene(
    s2: Sequence[str | Path],
    s1: Sequence[str | Path],
    s2_bands: tuple[str, ...],
    s1_bands: tuple[str, ...],
    reading: Reading = AS_FILES_SAY,
) -> Iterator[Scene]:
    """Opens the files of a scene, on the grid of its finest Sentinel-2 band (or Sentinel-1 band, if only that is read).

    Args:
        s2: files, folders, products or URLs of Sentinel-2.
        s1: the same for Sentinel-1.
        s2_bands: names of the bands that `Scene.read` returns, in its order; () if the sensor is not read.
        s1_bands: the same for Sentinel-1.
        reading: what the files do not tell.

    Raises:
        ValueError: a file cannot be read, or a band is missing, unnamed, empty, found twice, of another type or unit, or
            of another place.
    """
    with contextlib.ExitStack() as files:
        addresses = [str(path) for path in (*s2, *s1, reading.cloud_mask)]
        if any(is_remote(address) for address in addresses):
            files.enter_context(rasterio.Env(**remote_settings(all(map(is_remote, filter(None, addresses))))))
        sensors, grids = [], []
        for paths, names, given, quantity in (
            (s2, s2_bands, reading.s2_bands, sentinel2(0)),
            (s1, s1_bands, reading.s1_bands, sentinel1("db")),
        ):
            if not names:
                sensors.append(None)
                continue
            opened = [
                _File(address, files.enter_context(open_raster(address)), offsets)
                for path in paths
                for address, offsets in list_rasters(str(path))
            ]
            places = _places(opened, bands.S2_ALL_BANDS if names is s2_bands else bands.S1_BANDS, given)
            missing = [name for name in names if name not in places]
            if missing:
                raise ValueError(
                    f"no band {', '.join(missing)} in {', '.join(shown(str(path)) for path in paths)}; found "
                    f"{', '.join(places) or 'none'}, the network was trained on {', '.join(names)}"
                )
            if not grids:
                grids.append(_finest(places))
            layers = [
                Layer(shown(file.address), file.raster, index, quantity) for file, index in map(places.get, names)
            ]
            if empty := [(name, layer) for name, layer in zip(names, layers, strict=True) if not layer.has_data()]:
                raise ValueError(f"{empty[0][1].address} is all nodata in band {', '.join(name for name, _ in empty)}")
            if names is s2_bands:
                layers = _without_offset(layers, [places[name][0].offsets.get(name) for name in names], reading)
            else:
                layers = [_in_unit(layer, reading.s1_unit) for layer in layers]
            sensors.append(Sensor(layers))
        cloud = _cloud_layer(reading.cloud_mask, files) if reading.cloud_mask else None
        values = reading.cloud_values
        if cloud:
            values = values or (CLOUD_CLASSES if re.search(r"(?<![a-z])scl(?![a-z])", cloud.address.lower()) else ())
            said = f"of {', '.join(map(str, values))}" if values else "that are not 0"
            _note(f"pixels of {cloud.address} {said} are cloud and not mapped (--cloud_values)")
        (grid,) = grids
        if not grid.placed:
            _note(
                "the scene has no CRS and transform, so its map has none; files of equal size are assumed to have the same pixels"
            )
        yield Scene(grid, *sensors, cloud, values)


def _places(files: list[_File], known: tuple[str, ...], given: tuple[str, ...]) -> dict[str, tuple[_File, int]]:
    """Finds the file and index (from 1) of each band. If a band occurs several times, the finest is used."""
    slots = [(file, index) for file in files for index in file.raster.indexes]
    if given:
        names = [bands.canonical_band(name) for name in given]
        if len(names) != len(slots) or set(names) - set(known) or len(set(names)) != len(names):
            raise ValueError(
                f"{len(slots)} bands in {', '.join(shown(f.address) for f in files)}, named {', '.join(given)}; expected as "
                f"many different names of {', '.join(known)}"
            )
        order = ", ".join(f"{name} = {shown(f.address)} band {i}" for name, (f, i) in zip(names, slots, strict=True))
        _note(f"bands are assigned by position, as given: {order}")
    else:
        names = [name for file in files for name in _names(file)]
    places: dict[str, tuple[_File, int]] = {}
    for name, (file, index) in zip(names, slots, strict=True):
        if name not in known:
            continue
        if name in places:
            other = places[name][0]
            here, there = (abs(f.raster.transform.determinant) for f in (file, other))
            if here == there or file.raster.crs != other.raster.crs:
                raise ValueError(f"band {name} is in {shown(other.address)} and again in {shown(file.address)}")
            if here > there:
                continue
        places[name] = (file, index)
    return places


def _names(file: _File) -> list[str | None]:
    """Reads band names from descriptions, or for a file of one band from its name ('..._B02_10m.tif', 'VH.tif')."""
    described = file.raster.descriptions
    if file.raster.count == 1:
        return [band_name(described[0] or "") or band_name(Path(shown(file.address)).stem, last=True)]
    if not any(described):
        raise ValueError(
            f"{shown(file.address)} has bands without a name; expected band descriptions such as "
            f"{', '.join(bands.S2_BANDS)}, or say what they are: --s2_bands or --s1_bands with a name for each"
        )
    return [band_name(text or "") for text in described]


def _finest(places: dict[str, tuple[_File, int]]) -> Grid:
    files = [file for file, _ in places.values()]
    for file in files:
        if file.raster.crs != files[0].raster.crs:
            raise ValueError(
                f"{shown(file.address)} has CRS {file.raster.crs}, but {shown(files[0].address)} has "
                f"{files[0].raster.crs}; the bands that make the grid of the map need one CRS"
            )
    return Grid.of(min(files, key=lambda file: abs(file.raster.transform.determinant)).raster)


def _without_offset(layers: list[Layer], told: list[int | None], reading: Reading) -> list[Layer]:
    """Subtracts the offset of Sentinel-2 layers, as given by the user, the product, the file or its name."""
    for layer in layers:
        kind = layer.raster.dtypes[layer.index - 1]
        if kind not in ("uint16", "int16", "uint32", "int32"):
            raise ValueError(f"{layer.address} is {kind}, expected uint16 digital numbers, reflectance x 10000")
    if reading.s2_offset is not None:
        return [dataclasses.replace(layer, quantity=sentinel2(reading.s2_offset)) for layer in layers]
    offsets = [_offset_of_file(layer) if known is None else known for layer, known in zip(layers, told, strict=True)]
    darkest = []
    for layer, offset in zip(layers, offsets, strict=True):
        valid = layer.sample[layer.sample != bands.S2_NODATA]
        if valid.size:
            darkest.append(valid.min())
        # A dark scene has a few numbers below the offset. If most are, the offset was subtracted before.
        if offset and valid.size and np.median(valid) < offset - 100:
            raise ValueError(
                f"{layer.address} has a processing baseline that adds {offset} to digital numbers, but half of them are below "
                f"{np.median(valid):g}; was it subtracted already? Say --s2_offset 0 (or {offset})"
            )
    if None in offsets and darkest and min(darkest) >= bands.OFFSET_DN:
        _note(
            f"no digital number of Sentinel-2 is below {bands.OFFSET_DN}, and nothing says whether the offset of processing baseline "
            f"04.00 is in them; they are left as they are: say --s2_offset {bands.OFFSET_DN} or --s2_offset 0"
        )
    if any(offsets):
        said = ", ".join(map(str, sorted({offset for offset in offsets if offset})))
        _note(f"{said} is subtracted from the digital numbers of Sentinel-2, as the product says (--s2_offset)")
    return [dataclasses.replace(layer, quantity=sentinel2(o or 0)) for layer, o in zip(layers, offsets, strict=True)]


def _offset_of_file(layer: Layer) -> int | None:
    """Finds the offset in the file's own offset and scale, or by the baseline in its name ('..._N0400_...'). None if unknown."""
    offset, scale = layer.raster.offsets[layer.index - 1], layer.raster.scales[layer.index - 1]
    if offset:
        return round(-offset / scale)
    baseline = re.search(r"S2[A-D]_MSIL(?:1C|2A)_\w+?_N(\d{2})\d{2}_", layer.address)
    # Baseline 99.99 is a product that a user processed, or a trial of ESA.
    return None if not baseline or baseline[1] == "99" else bands.OFFSET_DN if int(baseline[1]) >= 4 else 0


def _in_unit(layer: Layer, unit: str) -> Layer:
    """Sets the unit of a Sentinel-1 layer. Raises a ValueError if its values are not in that unit."""
    if layer.raster.gcps[0] and not layer.raster.crs:
        raise ValueError(f"{layer.address} is in radar geometry; give a terrain-corrected product on a map grid")
    kind = layer.raster.dtypes[layer.index - 1]
    if kind not in ("float32", "float64", *(("uint16", "int16", "uint8") if unit in ("amplitude", "scaled") else ())):
        raise ValueError(f"{layer.address} is {kind}, expected float32 backscatter (--s1_unit {', '.join(S1_UNITS)})")
    check_unit(layer.address, layer.sample, unit)
    return dataclasses.replace(layer, quantity=sentinel1(unit))


def _cloud_layer(path: str, files: contextlib.ExitStack) -> Layer:
    addresses = [address for address, _ in list_rasters(path)]
    classified = [address for address in addresses if "_SCL_" in address]
    if len(addresses) > 1 and not classified:
        raise ValueError(f"{path} holds no scene classification (SCL); --cloud_mask takes a raster or an L2A product")
    address = (classified or addresses)[0]
    raster = files.enter_context(open_raster(address))
    if raster.count != 1:
        raise ValueError(f"{shown(address)} has {raster.count} bands, expected a mask of one")
    return Layer(shown(address), raster, 1, CLASSES_OF_A_MASK)


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
