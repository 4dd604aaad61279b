"""Find the raster files of a scene: single files, folders, and Sentinel-2 SAFE products as folder or zip.

Enters: a path, a URL or a GDAL path (`/vsi...`). Leaves: the rasters that it stands for, each with the offsets that its
product's metadata give; opened rasters; band names and dates found in file names.
"""

import re
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from tfds_dwplus import bands

_COMMON_NAMES = {
    "coastal": "B1", "rededge1": "B5", "rededge2": "B6", "rededge3": "B7", "nir8": "B8A", "nir9": "B9", "cirrus": "B10",
    "swir16": "B11", "swir22": "B12",
}  # fmt: skip
"""Band names of STAC's eo:common_name and of Earth Search that `bands.canonical_band` does not know."""


def check_not_overwritten(outputs: Sequence[Path], inputs: Sequence[str | Path]) -> None:
    """Raises a ValueError if an output file is also an input, or if two outputs are the same file."""
    read = {Path(address).resolve() for path in inputs for address, _ in list_rasters(str(path))}
    read |= {Path(path).resolve() for path in inputs}
    for place, output in enumerate(outputs):
        if output.resolve() in read:
            raise ValueError(f"{output} is an input, and would be overwritten; give another name to write to")
        if output.resolve() in {other.resolve() for other in outputs[:place]}:
            raise ValueError(f"{output} is to be written twice; give two names")


def fingerprint(path: str | Path) -> list:
    """Identifies an input: its address, and sizes and modification times of its local files."""
    places = [Path(address) for address in (str(path), *(address for address, _ in list_rasters(str(path))))]
    stats = [place.stat() for place in places if place.is_file()]
    return [shown(str(path)), [[stat.st_size, stat.st_mtime_ns] for stat in stats]]


def acquisition_dates(names: Sequence[str]) -> list[str]:
    """Acquisition dates, YYYY-MM-DD, found in product names: the first date in each."""
    found = (re.search(r"(?<!\d)(20\d\d)([01]\d)([0-3]\d)(T\d{6})?(?!\d)", name) for name in names)
    return sorted({"-".join(match.groups()[:3]) for match in found if match})


def band_name(text: str, *, last: bool = False) -> str | None:
    """Finds the band in a band description or file name: the first one, or with `last` the last one. None if there is none.

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


def list_rasters(path: str) -> list[tuple[str, dict[str, int]]]:
    """Lists the rasters that a path stands for, each with the offset of each band in its product's metadata ({} if none)."""
    if is_remote(path) or path.startswith("/vsi"):
        return [(path, {})]
    place = Path(path)
    if place.suffix.lower() == ".zip" and place.is_file():
        try:
            with zipfile.ZipFile(place) as archive:
                names = archive.namelist()
                return _rasters_among(path, names, lambda name: f"/vsizip/{place.resolve()}/{name}", archive.read)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is not a whole zip file ({error})") from None
    if re.fullmatch(r"MTD_MSIL(1C|2A)\.xml", place.name) and place.is_file():
        place = place.parent
    if not place.is_dir():
        return [(path, {})]
    names = sorted(file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file())
    return _rasters_among(path, names, lambda name: str(place / name), lambda name: (place / name).read_bytes())


def _rasters_among(
    path: str, names: list[str], address: Callable[[str], str], read: Callable[[str], bytes]
) -> list[tuple[str, dict[str, int]]]:
    """Chooses the images of a SAFE product, or if it is not a product, the uppermost rasters of a folder or zip."""
    images = [name for name in names if re.search(r"/IMG_DATA/.*\.(jp2|tiff?)$", f"/{name}")]
    metadata = [name for name in names if re.search(r"(^|/)MTD_MSIL(1C|2A)\.xml$", name)]
    if not images:
        rasters = [name for name in names if re.search(r"\.(tiff?|jp2|vrt)$", name.lower())]
        top = min((name.count("/") for name in rasters), default=0)
        rasters = [name for name in rasters if name.count("/") == top]
        images = [name for name in rasters if band_name(Path(name).stem, last=True)] or rasters
    if not images:
        raise ValueError(f"{path} holds no Sentinel-2 SAFE product and no .tif, .jp2 or .vrt file")
    offsets = _product_offsets(f"{path}: {metadata[0]}", read(metadata[0])) if metadata else {}
    return [(address(name), offsets) for name in images]


def _product_offsets(name: str, xml: bytes) -> dict[str, int]:
    """Reads the digital numbers to subtract from each band out of product metadata. 0 before processing baseline 04.00."""
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


def open_raster(path: str | Path) -> rasterio.DatasetReader:
    """Opens a raster. Raises a ValueError that names the file if it does not exist or GDAL cannot read it."""
    address = str(path)
    with warnings.catch_warnings():
        # Images without georeference (BigEarthNet samples) are accepted.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            return rasterio.open(address)
        except RasterioError as error:
            local = not (is_remote(address) or address.startswith("/vsi"))
            reason = f"not a raster that GDAL reads ({str(error).replace(address, shown(address))})"
            if local and not Path(address).exists():
                reason = "no such file"
            raise ValueError(f"cannot open {shown(address)}: {reason}") from None


def is_remote(address: str) -> bool:
    """Whether an address is read over the network."""
    return "://" in address or bool(re.match(r"/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)", address))


def remote_settings(all_remote: bool) -> dict[str, str | int]:
    """GDAL settings for remote files: retry if a server is busy, give up if it is silent, and do not list folders."""
    settings = {"GDAL_HTTP_MAX_RETRY": 3, "GDAL_HTTP_RETRY_DELAY": 1, "GDAL_HTTP_CONNECTTIMEOUT": 30}
    settings |= {"GDAL_HTTP_LOW_SPEED_TIME": 60, "GDAL_HTTP_LOW_SPEED_LIMIT": 1}
    return settings | ({"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"} if all_remote else {})


def shown(address: str) -> str:
    """An address for messages, without its signature, which is secret."""
    return address.partition("?")[0] if is_remote(address) else address
