"""Find the raster files of a scene: single files, folders, and Sentinel-2 SAFE products as folder or zip.

Enters: a path, a URL or a GDAL path (`/vsi...`). Leaves: the rasters that it stands for, each with the offsets that its
product's metadata give; opened rasters; dates found in file names.
"""

import logging
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import rasterio
from rasterio.errors import RasterioError

from tfds_dwplus.files import archives
from tfds_dwplus.files.addresses import is_remote, shown_in
from tfds_dwplus.files.opening import open_raster as open_raster
from tfds_dwplus.files.opening import opened
from tfds_dwplus.files.strangers import read_bytes
from tfds_dwplus.imagery.decoder.band_names import band_name
from tfds_dwplus.imagery.decoder.declared import Declared, of_product

MOST_METADATA_BYTES = 64 << 20
"""Of the XML file of a product; those of Sentinel-2 have less than 1 MB."""


def acquisition_dates(names: Sequence[str]) -> list[str]:
    """Acquisition dates, YYYY-MM-DD, found in product names: the first date in each."""
    found = (re.search(r"(?<!\d)(20\d\d)([01]\d)([0-3]\d)(T\d{6})?(?!\d)", name) for name in names)
    return sorted({"-".join(match.groups()[:3]) for match in found if match})


def list_rasters(path: str) -> list[tuple[str, dict[str, Declared]]]:
    """Lists the rasters that a path stands for, each with what its product's metadata declare of each band ({} if nothing)."""
    if is_remote(path) or path.startswith("/vsi"):
        return [(path, {})]
    place = Path(path)
    if place.suffix.lower() == ".zip" and place.is_file():
        with archives.opened(place) as archive:
            names = [member.filename for member in archive.infolist() if not archives.fault_of_member(member)]
            return _rasters_among(
                path,
                names,
                lambda name: f"/vsizip/{place.resolve()}/{name}",
                lambda name: archives.read_member(archive, name, MOST_METADATA_BYTES),
            )
    if re.fullmatch(r"MTD_MSIL(1C|2A)\.xml", place.name) and place.is_file():
        place = place.parent
    if not place.is_dir():
        return [(path, {})]
    names = sorted(file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file())
    return _rasters_among(
        path, names, lambda name: str(place / name), lambda name: read_bytes(place / name, MOST_METADATA_BYTES)
    )


def _rasters_among(
    path: str, names: list[str], address: Callable[[str], str], read: Callable[[str], bytes]
) -> list[tuple[str, dict[str, Declared]]]:
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
    declared = of_product(f"{path}: {metadata[0]}", read(metadata[0])) if metadata else {}
    return [(address(name), declared) for name in images]


def mask_beside(address: str) -> rasterio.DatasetReader | None:
    """Opens the mask `.msk` that lies beside a remote raster, which GDAL does not look for; None if there is none.

    The query of an address, such as a signature, is kept.
    """
    place, sign, query = address.partition("?")
    try:
        return opened(f"{place}.msk{sign}{query}", ("GTiff",))
    except RasterioError:
        return None


def remote_settings(all_remote: bool, timeout_s: float | None = None) -> dict[str, str | int | float]:
    """GDAL settings for remote files, the one place for them.

    A busy or faulty server is asked again after 0.5, 1, 2 and 4 s, a silent one is given up, folders are not listed, and a whole
    COG header comes with the first request. What the environment sets is left out, for it would not count any more.

    Args:
        all_remote: whether all files are remote. If one is not, the files beside it (`.msk`, `.aux.xml`) must be found.
        timeout_s: how long a request may take; None: as long as bytes come.
    """
    settings: dict[str, str | int | float] = {
        "GDAL_HTTP_MAX_RETRY": 4,
        "GDAL_HTTP_RETRY_DELAY": 0.5,  # doubled each time
        "GDAL_HTTP_RETRY_CODES": "408,429,500,502,503,504",
        "GDAL_HTTP_CONNECTTIMEOUT": 30 if timeout_s is None else math.ceil(min(timeout_s, 30)),
        "GDAL_HTTP_LOW_SPEED_TIME": 60,
        "GDAL_HTTP_LOW_SPEED_LIMIT": 1,
        "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    }
    if timeout_s is not None:
        settings["GDAL_HTTP_TIMEOUT"] = math.ceil(timeout_s)
    if all_remote:
        settings["GDAL_DISABLE_READDIR_ON_OPEN"] = "EMPTY_DIR"
    return {name: value for name, value in settings.items() if name not in os.environ}


def _without_signatures(record: logging.LogRecord) -> bool:
    """Takes signatures out of what GDAL logs, and leaves out the answers after which it asks again, or an error is told."""
    said = record.getMessage()
    record.msg, record.args = shown_in(said), None
    return not re.search(r"Retrying again|failed with response_code", said)


for _logger in ("rasterio._env", "rasterio._err"):
    logging.getLogger(_logger).addFilter(_without_signatures)
