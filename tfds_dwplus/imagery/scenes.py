"""Open the files of a scene: find each band, and the unit and offset of its numbers.

Enters: rasters by path or URL (one multi-band file, or one file per band, at 10, 20 or 60 m; VRT; http(s), s3 and GDAL's
/vsi paths), folders of such files, Sentinel-2 SAFE products as folder or zip. Leaves: a `rasters.Scene` on the grid of the
finest band. What the numbers mean is decided in `decoder`, once for the scene; what is decided is told.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import MaskFlags
from rasterio.warp import transform

from tfds_dwplus import bands
from tfds_dwplus.command_line import note
from tfds_dwplus.files.addresses import is_remote, shown
from tfds_dwplus.imagery.decoder.backscatter import UNITS, check_unit, quantity_named
from tfds_dwplus.imagery.decoder.band_names import is_no_band, names_of
from tfds_dwplus.imagery.decoder.declared import NOTHING, Declared, of_tags
from tfds_dwplus.imagery.decoder.reflectance import Decision, Linear, decide
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.rasters import (
    CLASSES_OF_A_MASK,
    Layer,
    Quantity,
    Scene,
    Sensor,
    alpha_band,
    sentinel1,
    sentinel2,
)
from tfds_dwplus.imagery.scene_files import list_rasters, mask_beside, open_raster, remote_settings

SCL_CLASSES = range(12)
"""Values of the scene classification SCL. Source: Sentinel-2 Products Specification."""

CLOUD_CLASSES = (3, 8, 9, 10)
"""Values of the scene classification SCL: cloud shadow, cloud of medium and of high probability, thin cirrus."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the user tells about the files, because they do not."""

    s2_offset: int | None = None
    """Digital numbers to subtract from Sentinel-2. None: use the metadata of the product."""
    s1_unit: str = "db"
    """One of `backscatter.UNITS`."""
    s2_bands: tuple[str, ...] = ()
    """Names of the bands in the order of the files, for files without band names; "-" for a band that is not used."""
    s1_bands: tuple[str, ...] = ()
    cloud_mask: str = ""
    """Raster on any grid, or a SAFE product, whose scene classification is used."""
    cloud_values: tuple[int, ...] = ()
    """Values of the mask that are not mapped. (): `CLOUD_CLASSES` if the file name has SCL, else all but 0."""
    any_vrt_source: bool = False
    """Whether a VRT may take its pixels from anywhere; as `anywhere` of `opening.open_raster`."""


AS_FILES_SAY = Reading()


@dataclasses.dataclass(frozen=True)
class _File:
    """An opened raster, and what its product's metadata declare of each band."""

    address: str
    raster: rasterio.DatasetReader
    product: dict[str, Declared]
    mask: rasterio.DatasetReader | None

    @property
    def shown(self) -> str:
        """The address for messages."""
        return shown(self.address)

    def layer(self, index: int, name: str, quantity: Quantity) -> Layer:
        """A band of the file."""
        # Tags of the file are more direct than the metadata of its product.
        tags = self.raster.tags(index), self.raster.tags()
        scale, offset = self.raster.scales[index - 1], self.raster.offsets[index - 1]
        # A product's metadata are ESA's own, so its name adds nothing.
        declared = of_tags(*tags, scale=scale, offset=offset, name="" if self.product else self.shown)
        declared = declared.with_defaults(self.product.get(name, NOTHING))
        return Layer(self.shown, self.raster, index, quantity, declared, self.mask)


@contextlib.contextmanager
def open_scene(
    s2: Sequence[str | Path],
    s1: Sequence[str | Path],
    s2_bands: tuple[str, ...],
    s1_bands: tuple[str, ...],
    reading: Reading = AS_FILES_SAY,
    tell: Callable[[str], None] = note,
) -> Iterator[Scene]:
    """Opens the files of a scene, on the grid of its finest Sentinel-2 band (or Sentinel-1 band, if only that is read).

    Args:
        s2: files, folders, products or URLs of Sentinel-2.
        s1: the same for Sentinel-1.
        s2_bands: names of the bands that `Scene.read` returns, in its order; () if the sensor is not read.
        s1_bands: the same for Sentinel-1.
        reading: what the files do not tell.
        tell: is given each line that the user should read.

    Raises:
        ValueError: a file cannot be read, or a band is missing, unnamed, empty, found twice, of another type or unit, or
            of another place.
    """
    with contextlib.ExitStack() as stack:
        addresses = [str(path) for path in (*s2, *s1, reading.cloud_mask)]
        if any(is_remote(address) for address in addresses):
            stack.enter_context(rasterio.Env(**remote_settings(all(map(is_remote, filter(None, addresses))))))
        sensors: dict[str, Sensor | None] = {"s2": None, "s1": None}
        grid, tags = None, {}
        if s2_bands:
            files = _opened(s2, stack, reading.any_vrt_source)
            places = _places(files, s2, bands.S2_ALL_BANDS, s2_bands, reading.s2_bands, tell)
            grid = _finest(places)
            sensors["s2"], decision = _sentinel2(places, s2_bands, reading.s2_offset)
            tags |= decision.tags
            said = decision.said if reading.s2_offset is None else ""  # the user knows what he gave
            for line in filter(None, (said, *decision.notes)):
                tell(line)
        if s1_bands:
            files = _opened(s1, stack, reading.any_vrt_source)
            places = _places(files, s1, bands.S1_BANDS, s1_bands, reading.s1_bands, tell)
            grid = grid or _finest(places)
            sensors["s1"] = _sentinel1(places, s1_bands, reading.s1_unit)
            if quantity := _quantity([places[name] for name in s1_bands]):
                tags["s1_quantity"] = quantity
        cloud, values = None, reading.cloud_values
        if reading.cloud_mask:
            cloud = _cloud_layer(reading.cloud_mask, stack, reading.any_vrt_source)
            values = _cloud_values(cloud, values, tell)
        if not grid.placed:
            tell(
                "the scene has no CRS and transform, so its map has none; files of equal size are assumed to have the same pixels"
            )
        scene = Scene(grid, *sensors.values(), cloud, values, tags)
        if cloud:
            _tell_where_unknown(cloud, grid, tell)
        yield scene


def s2_bands_of(s2: Sequence[str | Path], reading: Reading = AS_FILES_SAY) -> tuple[str, ...]:
    """Finds which bands of Sentinel-2 the files of a scene hold, in the order of `bands.S2_ALL_BANDS`.

    Raises:
        ValueError: as `open_scene`.
    """
    addresses = [str(path) for path in s2]
    with contextlib.ExitStack() as stack:
        if any(map(is_remote, addresses)):
            stack.enter_context(rasterio.Env(**remote_settings(all(map(is_remote, addresses)))))
        files = _opened(s2, stack, reading.any_vrt_source)
        places = _places(files, s2, bands.S2_ALL_BANDS, (), reading.s2_bands, lambda _: None)
    return tuple(name for name in bands.S2_ALL_BANDS if name in places)


def _opened(paths: Sequence[str | Path], stack: contextlib.ExitStack, anywhere: bool) -> list[_File]:
    files = []
    for path in paths:
        for address, product in list_rasters(str(path)):
            raster = stack.enter_context(open_raster(address, anywhere=anywhere))
            mask = (
                mask_beside(address) if is_remote(address) and raster.driver == "GTiff" and _unmasked(raster) else None
            )
            files.append(_File(address, raster, product, stack.enter_context(mask) if mask else None))
    return files


def _unmasked(raster: rasterio.DatasetReader) -> bool:
    return not any(MaskFlags.per_dataset in flags for flags in raster.mask_flag_enums)


def _places(
    files: list[_File],
    paths: Sequence[str | Path],
    known: tuple[str, ...],
    wanted: tuple[str, ...],
    given: tuple[str, ...],
    tell: Callable[[str], None],
) -> dict[str, tuple[_File, int]]:
    """Finds the file and index (from 1) of each band. If a band occurs several times, the finest is used."""
    slots = [(file, index) for file in files for index in file.raster.indexes]
    names = _given_names(slots, known, given, tell) if given else _found_names(files)
    places: dict[str, tuple[_File, int]] = {}
    for name, (file, index) in zip(names, slots, strict=True):
        if name not in known:
            continue
        if name in places:
            other = places[name][0]
            here, there = (abs(f.raster.transform.determinant) for f in (file, other))
            if here == there or file.raster.crs != other.raster.crs:
                raise ValueError(f"band {name} is in {other.shown} and again in {file.shown}; give each band once")
            if here > there:
                continue
        places[name] = (file, index)
    missing = [name for name in wanted if name not in places]
    if missing:
        raise ValueError(
            f"no band {', '.join(missing)} in {', '.join(shown(str(path)) for path in paths)}; found "
            f"{', '.join(places) or 'none'}, expected {', '.join(wanted)}"
        )
    return places


def _given_names(
    slots: list[tuple[_File, int]], known: tuple[str, ...], given: tuple[str, ...], tell: Callable[[str], None]
) -> list[str]:
    names = [bands.canonical_band(name) for name in given]
    used = [name for name in names if name != "-"]
    if len(names) != len(slots) or set(used) - set(known) or len(set(used)) != len(used):
        files = ", ".join(dict.fromkeys(file.shown for file, _ in slots))
        raise ValueError(
            f"{len(slots)} bands in {files}, named {', '.join(given)}; expected as many different names of "
            f"{', '.join(known)}, and - for a band that is not used"
        )
    order = ", ".join(f"{n} = {f.shown} band {i}" for n, (f, i) in zip(names, slots, strict=True) if n != "-")
    tell(f"bands are assigned by position, as given: {order}")
    return names


def _found_names(files: list[_File]) -> list[str | None]:
    """Reads the names of all bands of a sensor: from descriptions, or for a file of one band from its name.

    All names of one kind are read at once, because some mean one thing here and another there ('NIR' of FORCE is B8A).
    """
    described: list[tuple[int, str]] = []
    from_files: list[tuple[int, str]] = []
    names: list[str | None] = []
    for file in files:
        stem = Path(file.shown).stem
        alpha = alpha_band(file.raster)
        texts = [
            None if index == alpha else (text or "") for index, text in enumerate(file.raster.descriptions, start=1)
        ]
        if is_no_band(stem) and not any(names_of([text for text in texts if text])):
            texts = [None] * len(texts)
        alone = sum(text is not None for text in texts) == 1
        if not alone and not any(texts) and any(text is not None for text in texts):
            raise ValueError(
                f"{file.shown} has bands without a name; expected band descriptions such as "
                f"{', '.join(bands.S2_BANDS)}, or say what they are: --s2_bands or --s1_bands with a name for each"
            )
        for text in texts:
            place = len(names)
            names.append(None)
            if text and not (alone and names_of([text])[0] is None):
                described.append((place, text))
            elif text is not None and alone:
                from_files.append((place, stem))
    for texts, last in ((described, False), (from_files, True)):
        for (place, _), name in zip(texts, names_of([text for _, text in texts], last=last), strict=True):
            names[place] = name
    return names


def _finest(places: dict[str, tuple[_File, int]]) -> Grid:
    files = [file for file, _ in places.values()]
    for file in files:
        if file.raster.crs != files[0].raster.crs:
            raise ValueError(
                f"{file.shown} has CRS {file.raster.crs}, but {files[0].shown} has "
                f"{files[0].raster.crs}; the bands that make the grid of the map need one CRS"
            )
    return Grid.of(min(files, key=lambda file: abs(file.raster.transform.determinant)).raster)


def _checked(layers: list[Layer], names: tuple[str, ...]) -> list[Layer]:
    """Raises a ValueError if a file is not on a map grid, or a band holds no data."""
    for layer in layers:
        if layer.raster.gcps[0] and not layer.raster.crs:
            what = "in radar geometry" if names[0] in bands.S1_BANDS else "not on a map grid"
            raise ValueError(
                f"{layer.address} is {what} (placed by ground control points alone); give a terrain-corrected "
                "product on a map grid, as gdalwarp makes one"
            )
    if empty := [(name, layer) for name, layer in zip(names, layers, strict=True) if not layer.has_data()]:
        raise ValueError(f"{empty[0][1].address} is all nodata in band {', '.join(name for name, _ in empty)}")
    return layers


def _sentinel2(
    places: dict[str, tuple[_File, int]], names: tuple[str, ...], offset: int | None
) -> tuple[Sensor, Decision]:
    """Opens the bands of Sentinel-2, and decides scale and offset of the scene over all of them."""
    layers = [places[name][0].layer(places[name][1], name, sentinel2(Linear())) for name in names]
    for layer in _checked(layers, names):
        kind = layer.raster.dtypes[layer.index - 1]
        whole = ("uint16", "int16", "uint32", "int32", "float32", "float64")
        if kind not in whole and not (layer.declared.scale and kind in ("uint8", "int8")):
            raise ValueError(
                f"{layer.address} is {kind}, expected uint16 digital numbers, reflectance x 10000, or reflectance as float32"
            )
    decision = decide(names, [layer.declared for layer in layers], [layer.sample for layer in layers], offset=offset)
    layers = [
        dataclasses.replace(layer, quantity=sentinel2(linear))
        for layer, linear in zip(layers, decision.linear, strict=True)
    ]
    return Sensor(layers, names), decision


def _sentinel1(places: dict[str, tuple[_File, int]], names: tuple[str, ...], unit: str) -> Sensor:
    """Opens the bands of Sentinel-1. Raises a ValueError if the median of one is not in that unit."""
    dropped: dict[str, int] = {}
    layers = []
    for name in names:
        file, index = places[name]
        layer = file.layer(index, name, CLASSES_OF_A_MASK)
        scale, offset = layer.declared.scale or 1.0, layer.declared.offset or 0.0
        layers.append(dataclasses.replace(layer, quantity=sentinel1(unit, dropped, scale, offset)))
    for layer in _checked(layers, names):
        kind = layer.raster.dtypes[layer.index - 1]
        integers = ("uint16", "int16", "uint8") if unit in ("amplitude", "scaled") or layer.declared.scale else ()
        if kind not in ("float32", "float64", *integers):
            raise ValueError(f"{layer.address} is {kind}, expected float32 backscatter (--s1_unit {', '.join(UNITS)})")
        scale, offset = layer.declared.scale or 1.0, layer.declared.offset or 0.0
        check_unit(layer.address, layer.sample * scale + offset, unit)
    return Sensor(layers, names, dropped)


def _quantity(places: list[tuple[_File, int]]) -> str:
    """Finds whether backscatter is sigma0 or gamma0, in names and tags; "" if they do not tell."""
    texts = []
    for file, index in places:
        texts += [Path(file.shown).name, file.raster.descriptions[index - 1] or ""]
        texts += [f"{key} {value}" for key, value in (file.raster.tags() | file.raster.tags(index)).items()]
    return quantity_named(texts)


def _cloud_layer(path: str, stack: contextlib.ExitStack, anywhere: bool) -> Layer:
    addresses = [address for address, _ in list_rasters(path)]
    classified = [address for address in addresses if "_SCL_" in address]
    if len(addresses) > 1 and not classified:
        raise ValueError(f"{path} holds no scene classification (SCL); --cloud_mask takes a raster or an L2A product")
    address = (classified or addresses)[0]
    raster = stack.enter_context(open_raster(address, anywhere=anywhere))
    if raster.count != 1:
        raise ValueError(f"{shown(address)} has {raster.count} bands, expected a mask of one")
    return Layer(shown(address), raster, 1, CLASSES_OF_A_MASK)


def _cloud_values(cloud: Layer, given: tuple[int, ...], tell: Callable[[str], None]) -> tuple[int, ...]:
    """Chooses the values of a mask that are cloud: those of an SCL only if the file is called so and holds its classes."""
    values = given
    if not given and re.search(r"(?<![a-z])scl(?![a-z])", Path(cloud.address).stem.lower()):
        held = np.unique(cloud.sample)
        if held.size and held.max() > 1 and np.isin(held, np.arange(len(SCL_CLASSES))).all():
            values = CLOUD_CLASSES
    said = f"of {', '.join(map(str, values))}" if values else "that are not 0"
    tell(f"pixels of {cloud.address} {said} are cloud and left out (--cloud_values)")
    return values


def _tell_where_unknown(cloud: Layer, grid: Grid, tell: Callable[[str], None]) -> None:
    """Tells that pixels of the scene without a value in the mask are taken as clear."""
    if cloud.nodata is not None:
        tell(f"{cloud.address} has nodata {cloud.nodata:g}; pixels of that value are taken as clear")
    if cloud.grid.placed and grid.placed and not _covers(cloud.grid, grid):
        tell(f"{cloud.address} covers only a part of the scene; what is outside is taken as clear")


def _covers(grid: Grid, target: Grid) -> bool:
    """Whether all corners of a target lie on a grid, to half a pixel."""
    x, y = transform(target.crs, grid.crs, *zip(*target.corners, strict=True))
    places = [~grid.transform @ corner for corner in zip(x, y, strict=True)]
    return all(-0.5 < column < grid.width + 0.5 and -0.5 < row < grid.height + 0.5 for column, row in places)
