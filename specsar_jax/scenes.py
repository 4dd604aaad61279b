"""A scene as an archive gives it, opened: which band is where, and what its numbers are.

Enters: rasters by path or address (one multi-band file, one file a band, any of 10, 20 and 60 m; VRT; http(s), s3 and GDAL's own
/vsi paths), folders of such files, Sentinel-2 SAFE products as folder or zip. Leaves: a `rasters.Scene` on the grid of the
finest band. What is taken as said by metadata, and not by the user, is told on stderr; what nobody says is not guessed.
"""

import contextlib
import dataclasses
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from specsar_jax.rasters import CLASSES_OF_A_MASK, S1_UNITS, Grid, Layer, Scene, Sensor, decibels, sentinel1, sentinel2
from tfds_dwplus import bands
from tfds_dwplus.tile_files import check_has_data

OFFSET_DN = 1000
"""Added to every digital number from processing baseline 04.00 on. Source: Sentinel-2 Products Specification."""

CLOUD_CLASSES = (3, 8, 9, 10)
"""Of the scene classification SCL: cloud shadow, cloud of medium and of high probability, thin cirrus."""

_COMMON_NAMES = {
    "coastal": "B1", "rededge1": "B5", "rededge2": "B6", "rededge3": "B7", "nir8": "B8A", "nir9": "B9", "cirrus": "B10",
    "swir16": "B11", "swir22": "B12",
}  # fmt: skip
"""What STAC's eo:common_name and Earth Search call bands, besides the names that `bands` knows."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the files do not say themselves."""

    s2_offset: int | None = None
    """Digital numbers to subtract from Sentinel-2; None: by the metadata of the product."""
    s1_unit: str = "db"
    """One of `rasters.S1_UNITS`."""
    s2_bands: tuple[str, ...] = ()
    """Names of the bands in the order of the files, for files without names."""
    s1_bands: tuple[str, ...] = ()
    cloud_mask: str = ""
    """Raster of any grid; a SAFE product stands for its scene classification."""
    cloud_values: tuple[int, ...] = ()
    """Which of its values are not mapped; (): `CLOUD_CLASSES` where the file's name says SCL, else all but 0."""


AS_FILES_SAY = Reading()


@dataclasses.dataclass(frozen=True)
class _File:
    """A raster, with what its product says of it."""

    address: str
    raster: rasterio.DatasetReader
    offsets: dict[str, int]
    """Digital numbers to subtract, of the bands of which a product's metadata tell."""


@contextlib.contextmanager
def open_scene(
    s2: Sequence[str | Path],
    s1: Sequence[str | Path],
    s2_bands: tuple[str, ...],
    s1_bands: tuple[str, ...],
    reading: Reading = AS_FILES_SAY,
) -> Iterator[Scene]:
    """Opens the files of a scene on the grid of its finest Sentinel-2 band, or Sentinel-1 band where only that is read.

    Args:
        s2: files, folders, products, addresses.
        s1: the same of Sentinel-1.
        s2_bands: names of the bands that `Scene.read` gives, in its order; () where the sensor is not read.
        s1_bands: the same of Sentinel-1.
        reading: what the files do not say.

    Raises:
        ValueError: a file cannot be read, a band is missing, without a name, without data, there twice, of another type or
            unit, or not of this place.
    """
    with contextlib.ExitStack() as files:
        addresses = [str(path) for path in (*s2, *s1, reading.cloud_mask)]
        if any(_is_remote(address) for address in addresses):
            files.enter_context(rasterio.Env(**_remote_settings(all(map(_is_remote, filter(None, addresses))))))
        sensors, grids = [], []
        for paths, names, given, quantity in (
            (s2, s2_bands, reading.s2_bands, sentinel2(0)),
            (s1, s1_bands, reading.s1_bands, sentinel1("db")),
        ):
            if not names:
                sensors.append(None)
                continue
            opened = [
                _File(address, files.enter_context(_open(address)), offsets)
                for path in paths
                for address, offsets in _members(str(path))
            ]
            known = bands.S2_ALL_BANDS if names is s2_bands else bands.S1_BANDS
            places = _places(opened, known, given)
            missing = [name for name in names if name not in places]
            if missing:
                raise ValueError(
                    f"no band {', '.join(missing)} in {', '.join(_shown(str(path)) for path in paths)}; found "
                    f"{', '.join(places) or 'none'}, the network was trained on {', '.join(names)}"
                )
            if not grids:
                grids.append(_finest(places))
            layers = [
                Layer(_shown(file.address), file.raster, index, quantity) for file, index in map(places.get, names)
            ]
            empty = ~np.array([layer.has_data() for layer in layers])
            if empty.any():
                check_has_data(Path(layers[int(empty.argmax())].address), ~empty[None, None], names)
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
            _note("the scene has no CRS and transform; neither has its map, and pixels are taken to lie on pixels")
        yield Scene(grid, *sensors, cloud, values)


def check_not_overwritten(outputs: Sequence[Path], inputs: Sequence[str | Path]) -> None:
    """Raises a ValueError if a file to write is one of those to read, or two are one."""
    read = {Path(address).resolve() for path in inputs for address, _ in _members(str(path))}
    read |= {Path(path).resolve() for path in inputs}
    for place, output in enumerate(outputs):
        if output.resolve() in read:
            raise ValueError(f"{output} is an input, and would be overwritten; give another name to write to")
        if output.resolve() in {other.resolve() for other in outputs[:place]}:
            raise ValueError(f"{output} is to be written twice; give two names")


def identity(path: str | Path) -> list:
    """What tells an input from another: its address, and of local files the sizes and times of change."""
    places = [Path(address) for address in (str(path), *(address for address, _ in _members(str(path))))]
    stats = [place.stat() for place in places if place.is_file()]
    return [_shown(str(path)), [[stat.st_size, stat.st_mtime_ns] for stat in stats]]


def taken(names: Sequence[str]) -> list[str]:
    """Days on which scenes were taken, YYYY-MM-DD, as far as the names of their products tell: the first time in each."""
    found = (re.search(r"(?<!\d)(20\d\d)([01]\d)([0-3]\d)(T\d{6})?(?!\d)", name) for name in names)
    return sorted({"-".join(match.groups()[:3]) for match in found if match})


def band_name(text: str, *, last: bool = False) -> str | None:
    """The band that a description or a file's name tells of, the first or the last if several; None if none.

    'B02_10m', 'blue', 'B2, central wavelength 490 nm' -> 'B2'; 'Sigma0_VV_db' -> 'VV'; 'red edge 1' -> 'B5', not 'B4'.
    """
    text = re.sub(r"red[\s_-]*edge", "rededge", text.lower())
    text = re.sub(r"narrow[\s_-]*nir|nir[\s_-]*narrow", "nir8", text)
    text = re.sub(r"(rededge|nir|swir)[\s_-]*0*(\d{1,2})(?![0-9a-z])", r"\1\2", text)
    words = re.split(r"[^a-z0-9]+", text)
    for word in reversed(words) if last else words:
        name = _COMMON_NAMES.get(word) or bands.canonical_band(word)
        if name in (*bands.S2_ALL_BANDS, *bands.S1_BANDS):
            return name
    return None


def _places(files: list[_File], known: tuple[str, ...], given: tuple[str, ...]) -> dict[str, tuple[_File, int]]:
    """File and index (from 1) of each band; where there are several of one, of the finest."""
    slots = [(file, index) for file in files for index in file.raster.indexes]
    if given:
        names = [bands.canonical_band(name) for name in given]
        if len(names) != len(slots) or set(names) - set(known) or len(set(names)) != len(names):
            raise ValueError(
                f"{len(slots)} bands in {', '.join(_shown(f.address) for f in files)}, named {', '.join(given)}; expected as "
                f"many different ones of {', '.join(known)}"
            )
        order = ", ".join(f"{name} = {_shown(f.address)} band {i}" for name, (f, i) in zip(names, slots, strict=True))
        _note(f"bands are taken by position, as told: {order}")
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
                raise ValueError(f"band {name} is in {_shown(other.address)} and again in {_shown(file.address)}")
            if here > there:
                continue
        places[name] = (file, index)
    return places


def _names(file: _File) -> list[str | None]:
    """Band names from the descriptions; of a file of one band, else from the file's name ('..._B02_10m.tif', 'VH.tif')."""
    described = file.raster.descriptions
    if file.raster.count == 1:
        return [band_name(described[0] or "") or band_name(Path(_shown(file.address)).stem, last=True)]
    if not any(described):
        raise ValueError(
            f"{_shown(file.address)} has bands without a name; expected band descriptions such as "
            f"{', '.join(bands.S2_BANDS)}, or say what they are: --s2_bands or --s1_bands with a name for each"
        )
    return [band_name(text or "") for text in described]


def _finest(places: dict[str, tuple[_File, int]]) -> Grid:
    files = [file for file, _ in places.values()]
    for file in files:
        if file.raster.crs != files[0].raster.crs:
            raise ValueError(
                f"{_shown(file.address)} has CRS {file.raster.crs}, but {_shown(files[0].address)} has "
                f"{files[0].raster.crs}; the bands that make the grid of the map need one CRS"
            )
    return Grid.of(min(files, key=lambda file: abs(file.raster.transform.determinant)).raster)


def _without_offset(layers: list[Layer], told: list[int | None], reading: Reading) -> list[Layer]:
    """Layers of Sentinel-2 with the offset that the user, the product, the file or its name tells of."""
    for layer in layers:
        kind = layer.raster.dtypes[layer.index - 1]
        if kind not in ("uint16", "int16", "uint32", "int32"):
            raise ValueError(f"{layer.address} is {kind}, expected uint16 digital numbers, reflectance x 10000")
    if reading.s2_offset is not None:
        return [dataclasses.replace(layer, quantity=sentinel2(reading.s2_offset)) for layer in layers]
    offsets = [_offset_of_file(layer) if known is None else known for layer, known in zip(layers, told, strict=True)]
    darkest = []
    for layer, offset in zip(layers, offsets, strict=True):
        valid = layer.look[layer.look != bands.S2_NODATA]
        if valid.size:
            darkest.append(valid.min())
        # A dark scene has a few numbers below the offset, not most of them: then it was taken off already.
        if offset and valid.size and np.median(valid) < offset - 100:
            raise ValueError(
                f"{layer.address} is of a processing that adds {offset} to digital numbers, but half of them are below "
                f"{np.median(valid):g}; was it taken off? Say --s2_offset 0 (or {offset})"
            )
    if None in offsets and darkest and min(darkest) >= OFFSET_DN:
        _note(
            f"no digital number of Sentinel-2 is below {OFFSET_DN}, and nothing says whether the offset of processing baseline "
            f"04.00 is in them; they are left as they are: say --s2_offset {OFFSET_DN} or --s2_offset 0"
        )
    if any(offsets):
        said = ", ".join(map(str, sorted({offset for offset in offsets if offset})))
        _note(f"{said} is subtracted from the digital numbers of Sentinel-2, as the product says (--s2_offset)")
    return [dataclasses.replace(layer, quantity=sentinel2(o or 0)) for layer, o in zip(layers, offsets, strict=True)]


def _offset_of_file(layer: Layer) -> int | None:
    """By the file's own offset and scale, else by the baseline in a product's name ('..._N0400_...'); None if neither tells."""
    offset, scale = layer.raster.offsets[layer.index - 1], layer.raster.scales[layer.index - 1]
    if offset:
        return round(-offset / scale)
    baseline = re.search(r"S2[A-D]_MSIL(?:1C|2A)_\w+?_N(\d{2})\d{2}_", layer.address)
    # Products that users processed themselves, and ESA's own trials, are of baseline 99.99.
    return None if not baseline or baseline[1] == "99" else OFFSET_DN if int(baseline[1]) >= 4 else 0


def _in_unit(layer: Layer, unit: str) -> Layer:
    """A layer of Sentinel-1 in its unit. Raises ValueError if its values are not of that unit."""
    if layer.raster.gcps[0] and not layer.raster.crs:
        raise ValueError(f"{layer.address} is in radar geometry; give a terrain-corrected product on a map grid")
    kind = layer.raster.dtypes[layer.index - 1]
    if kind not in ("float32", "float64", *(("uint16", "int16", "uint8") if unit in ("amplitude", "scaled") else ())):
        raise ValueError(f"{layer.address} is {kind}, expected float32 backscatter (--s1_unit {', '.join(S1_UNITS)})")
    check_unit(layer.address, layer.look, unit)
    return dataclasses.replace(layer, quantity=sentinel1(unit))


def check_unit(name: str, stored: np.ndarray, unit: str) -> None:
    """Raises a ValueError if stored backscatter, NaN where there is none, is not of a unit."""
    given = stored[np.isfinite(stored)]
    if given.size < 100:
        return
    decibel = decibels(given, np.ones(given.shape, bool), unit)
    if unit != "db" and np.median(given) < 0:
        other = "db"
    elif (
        np.isfinite(decibel).any() and np.nanmedian(decibel) >= 0 and np.nanmean(decibel < -1) < 0.01
    ):  # not a city centre
        other = " or ".join(name for name in S1_UNITS if name != unit)
    else:
        return
    raise ValueError(
        f"{name} holds values from {given.min():g} to {given.max():g}, half of them below {np.median(given):g}; as {unit} this is "
        f"not Sentinel-1, expected backscatter in dB that is mostly below 0; is its unit another one? Say --s1_unit {other}"
    )


def _cloud_layer(path: str, files: contextlib.ExitStack) -> Layer:
    addresses = [address for address, _ in _members(path)]
    classified = [address for address in addresses if "_SCL_" in address]
    if len(addresses) > 1 and not classified:
        raise ValueError(f"{path} holds no scene classification (SCL); --cloud_mask takes a raster or an L2A product")
    address = (classified or addresses)[0]
    raster = files.enter_context(_open(address))
    if raster.count != 1:
        raise ValueError(f"{_shown(address)} has {raster.count} bands, expected a mask of one")
    return Layer(_shown(address), raster, 1, CLASSES_OF_A_MASK)


def _members(path: str) -> list[tuple[str, dict[str, int]]]:
    """Rasters that a path stands for, each with what its product says of the bands' offsets."""
    if _is_remote(path) or path.startswith("/vsi"):
        return [(path, {})]
    place = Path(path)
    if place.suffix.lower() == ".zip" and place.is_file():
        try:
            with zipfile.ZipFile(place) as archive:
                names = archive.namelist()
                return _product(path, names, lambda name: f"/vsizip/{place.resolve()}/{name}", archive.read)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is not a whole zip file ({error})") from None
    if re.fullmatch(r"MTD_MSIL(1C|2A)\.xml", place.name) and place.is_file():
        place = place.parent
    if not place.is_dir():
        return [(path, {})]
    names = sorted(file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file())
    return _product(path, names, lambda name: str(place / name), lambda name: (place / name).read_bytes())


def _product(
    path: str, names: list[str], address: Callable[[str], str], read: Callable[[str], bytes]
) -> list[tuple[str, dict[str, int]]]:
    """The images of a SAFE product, or, where it is none, the rasters that lie beside each other in a folder or zip."""
    images = [name for name in names if re.search(r"/IMG_DATA/.*\.(jp2|tiff?)$", f"/{name}")]
    metadata = [name for name in names if re.search(r"(^|/)MTD_MSIL(1C|2A)\.xml$", name)]
    if not images:
        rasters = [name for name in names if re.search(r"\.(tiff?|jp2|vrt)$", name.lower())]
        top = min((name.count("/") for name in rasters), default=0)
        rasters = [name for name in rasters if name.count("/") == top]
        images = [name for name in rasters if band_name(Path(name).stem, last=True)] or rasters
    if not images:
        raise ValueError(f"{path} holds no Sentinel-2 SAFE product and no .tif, .jp2 or .vrt file")
    offsets = _offsets(f"{path}: {metadata[0]}", read(metadata[0])) if metadata else {}
    return [(address(name), offsets) for name in images]


def _offsets(name: str, xml: bytes) -> dict[str, int]:
    """Digital numbers to subtract from each band, by a product's metadata; 0 of products from before baseline 04.00."""
    try:
        tree = ElementTree.fromstring(xml)
        added = {
            bands.S2_ALL_BANDS[int(element.attrib["band_id"])]: -int(float(element.text or ""))
            for element in tree.iter()
            if element.tag.rpartition("}")[2] in ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET")
        }
        quantum = [
            e.text
            for e in tree.iter()
            if e.tag.rpartition("}")[2] in ("QUANTIFICATION_VALUE", "BOA_QUANTIFICATION_VALUE")
        ]
    except (ElementTree.ParseError, KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{name} is not the metadata of a Sentinel-2 product ({error})") from None
    if any(float(text or 0) != 10000 for text in quantum):
        raise ValueError(f"{name} has digital numbers of reflectance x {quantum[0]}, expected x 10000")
    return dict.fromkeys(bands.S2_ALL_BANDS, 0) | added


def _open(address: str) -> rasterio.DatasetReader:
    with warnings.catch_warnings():
        # Chips without a place (BigEarthNet samples) are welcome.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            return rasterio.open(address)
        except RasterioError as error:
            local = not (_is_remote(address) or address.startswith("/vsi"))
            reason = f"not a raster that GDAL reads ({str(error).replace(address, _shown(address))})"
            if local and not Path(address).exists():
                reason = "no such file"
            raise ValueError(f"cannot open {_shown(address)}: {reason}") from None


def _is_remote(address: str) -> bool:
    return "://" in address or bool(re.match(r"/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)", address))


def _remote_settings(all_remote: bool) -> dict[str, str | int]:
    """Of GDAL: another try where a server is busy, an end where it is silent, no listing of folders it does not have."""
    settings = {"GDAL_HTTP_MAX_RETRY": 3, "GDAL_HTTP_RETRY_DELAY": 1, "GDAL_HTTP_CONNECTTIMEOUT": 30}
    settings |= {"GDAL_HTTP_LOW_SPEED_TIME": 60, "GDAL_HTTP_LOW_SPEED_LIMIT": 1}
    return settings | ({"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"} if all_remote else {})


def _shown(address: str) -> str:
    """Without a signature, which is secret."""
    return address.partition("?")[0] if _is_remote(address) else address


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
