"""Open rasters as what their name says, so that a file that a stranger made leads GDAL to no other file and no other host.

Enters: paths and addresses. Leaves: opened rasters; or one line of why there is none.

GDAL finds out what a file is by its content: a virtual raster (VRT) that is called `.tif` would take its pixels from any file or host,
and a WMS would write a cache to a path that it names. So a `.tif` and a `.jp2` are opened by the drivers of these formats alone. What
lies beside a raster (`.ovr`, `.msk`) GDAL opens by content too, and a tag of the file itself may name its overviews; tried with GDAL
3.10. These are checked before a pixel is read.
"""

import contextlib
import functools
import itertools
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import rasterio
from rasterio.env import ensure_env_with_credentials
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.io import DatasetReader

from tfds_dwplus.files import archives
from tfds_dwplus.files.addresses import is_remote, shown, shown_in
from tfds_dwplus.files.any_source import FLAG as FLAG
from tfds_dwplus.files.any_source import FLAG_HELP as FLAG_HELP
from tfds_dwplus.files.buckets.servers import point_gdal_to_servers
from tfds_dwplus.files.strangers import fault_of_blocks
from tfds_dwplus.files.virtual_rasters import check_members, is_image, is_virtual, is_vrt

PIXELS = ("GTiff", "JP2OpenJPEG")
"""Drivers of a stranger's raster: GeoTIFF (also cloud-optimised) and JPEG 2000."""

_NAMES = (".tif", ".tiff", ".gtiff", ".geotiff", ".jp2", ".j2k", ".jpf", ".jpx", ".ovr", ".msk")
"""Endings that say so."""

_SELF_CONTAINED = (
    *PIXELS,
    *("ENVI", "EHdr", "HFA", "netCDF", "HDF5", "HDF5Image", "HDF4", "HDF4Image", "PNG", "JPEG", "WEBP", "GIF", "BMP", "PNM"),
    *("PCIDSK", "NITF", "KEA", "SAGA", "RST", "RRASTER", "ERS", "ILWIS", "AAIGrid", "GSBG", "GS7BG", "GRIB", "PCRaster", "Zarr"),
)  # fmt: skip
"""Drivers of a raster that the user names with another ending: formats that hold their pixels, in the file or in those beside it. Not
those that name other files or hosts: VRT, GTI, WMS, WMTS, WCS, STACIT, MRF and the like."""

_BESIDE = (".ovr", ".msk", ".ovr.aux.xml", ".msk.aux.xml")
"""Endings of files beside a raster that GDAL opens whatever they are, and of what tells where their overviews are."""

_ASKED = (".ovr", ".OVR", ".msk", ".MSK", ".aux.xml")
"""Names that GDAL asks for in a folder of many files."""

_UNKNOWN = "not recognized as being in a supported"
"""What GDAL says of a file of another format."""

_MOST_LISTED = 5000
"""Names of a folder that are looked at. GDAL looks at 1000, or else for the exact names, as is done here too."""


class RefusedError(RasterioIOError):
    """A raster is not what it is called, or leads to other files."""


def open_raster(path: str | Path, *, anywhere: bool = False) -> DatasetReader:
    """Opens a raster to read.

    `.tif` and `.jp2` are what they are called. A `.vrt` is checked: its members must be such files in its own folder. A file with
    another ending may be of any format that holds its pixels.

    Args:
        path: path, address or GDAL path (`/vsi...`).
        anywhere: whether the user allows rasters that take their pixels from anywhere (`FLAG`).

    Raises:
        ValueError: there is no such file, it cannot be read, is not what it is called, or leads elsewhere. The line names it.
    """
    address = str(path)
    local = local_file(address)
    ending = _ending(address)
    try:
        if address.lstrip().startswith("<"):
            raise ValueError("expected a path or an address, not XML")
        if address.startswith("vrt://"):
            return _opened_vrt_address(address, anywhere=anywhere)
        if ending == ".vrt":
            return _opened_vrt(address, local, anywhere=anywhere)
        drivers = PIXELS if ending in _NAMES else None if anywhere else _SELF_CONTAINED
        return opened(str(local or address), drivers)
    except RasterioError as error:
        if local is not None and not os.path.exists(local):  # noqa: PTH110 (Path raises an OSError if the name is too long)
            reason = "no such file"
        else:
            reason = shown_in(str(error).replace(address, shown(address)))
            if not isinstance(error, RefusedError):
                reason = f"not a raster that GDAL reads ({reason})"
        raise ValueError(f"cannot open {shown(address)}: {reason}") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"cannot open {shown(address)}: {error}") from None


@ensure_env_with_credentials
def opened(
    address: str, drivers: Sequence[str] | None = PIXELS, known: dict[Path, list[str]] | None = None
) -> DatasetReader:
    """Opens a raster by some drivers, and checks that neither the file nor what lies beside it names others. No warning is raised of
    one without a place.

    Beside a file on a server nothing is read, and nothing beside one in an archive that is no zip.

    Args:
        address: as GDAL takes it.
        drivers: names of the drivers; None: all, without checks.
        known: what lies beside rasters by their folder, if many are opened; is added to.

    Raises:
        RasterioError: GDAL cannot open it, or it leads to other files.
    """
    local = local_file(address)
    if local is None:
        point_gdal_to_servers()
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        # Images without georeference (BigEarthNet samples) are accepted.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            if local is not None:
                names = _listed(local) if known is None else _known(local, known)
                _check_beside(local.name, names, lambda name: str(local.with_name(name)))
            elif (place := _in_zip(address)) is not None:
                folder, name, names = place
                _check_beside(name, names, lambda beside: f"{folder}{beside}")
            else:
                stack.enter_context(rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"))
        except (ValueError, OSError) as error:
            raise RefusedError(str(error)) from None
        try:
            raster = DatasetReader(address, driver=None if drivers is None else list(drivers))
        except RasterioIOError as error:
            if _UNKNOWN not in str(error):
                raise
            raise RefusedError(_not_what_it_is_called(local, _ending(address))) from None
    if drivers is not None and "OVERVIEW_FILE" in raster.tags(ns="OVERVIEWS"):
        raster.close()
        raise RefusedError("its tag OVERVIEW_FILE takes its overviews from another file; remove the tag")
    if fault := fault_of_blocks(raster):
        raster.close()
        raise RefusedError(fault)
    return raster


def local_file(address: str) -> Path | None:
    """Returns the path of a file of this machine; None for an address and for a GDAL path."""
    address = address.removeprefix("file://")
    if is_remote(address) or address.startswith(("/vsi", "<")):
        return None
    return Path(address)


def _opened_vrt(address: str, local: Path | None, *, anywhere: bool) -> DatasetReader:
    """Opens a virtual raster whose members were checked. Raises ValueError if one is elsewhere or no image, or RasterioError."""
    if anywhere:
        return opened(str(local or address), None)
    if local is not None and not local.exists():
        raise ValueError("no such file")
    if local is None:
        raise ValueError(
            f"a VRT on a server or in an archive may take its pixels from anywhere; say {FLAG} if it is to be trusted"
        )
    if is_image(local):
        raise ValueError("it is called .vrt but is an image; name it .tif or .jp2")
    if not is_virtual(local):
        raise ValueError("it is called .vrt but is no virtual raster (VRT)")
    stat = local.stat()
    _check_vrt(local.absolute(), stat.st_size, stat.st_mtime_ns)
    return opened(str(local), ("VRT",))


@functools.lru_cache(maxsize=256)
def _check_vrt(path: Path, size: int, modified: int) -> None:
    """Checks the members of a VRT. Size and time tell whether it was checked before: a mosaic is opened once a tile."""
    known: dict[Path, list[str]] = {}
    for member in check_members(path, FLAG):
        try:
            opened(str(member), PIXELS, known).close()
        except RasterioError as error:
            raise ValueError(f"its member {member} cannot be read ({error})") from None


def _opened_vrt_address(address: str, *, anywhere: bool) -> DatasetReader:
    """Opens `vrt://PATH?...`, a raster of this machine with settings. Raises ValueError or RasterioError."""
    inner = address.removeprefix("vrt://").partition("?")[0]
    if not anywhere:
        if local_file(inner) is None:
            raise ValueError(
                f"expected vrt:// and the path of a file of this machine; say {FLAG} if it is to be trusted"
            )
        opened(inner).close()
    return opened(address, None if anywhere else ("VRT",))


def _ending(address: str) -> str:
    return PurePosixPath(shown(address).rstrip("/")).suffix.lower()


def _not_what_it_is_called(local: Path | None, ending: str) -> str:
    """Says of a file what it is not."""
    if ending not in _NAMES:
        made_of_others = f"; one that is made of others, such as GTI or WMS, is read by {FLAG} alone" if ending else ""
        return f"not a raster that GDAL reads{made_of_others}"
    what = f"not {'recognized' if local is None else 'a raster'}: it is called {ending} but is no {'JPEG 2000 file' if ending.startswith('.j') else 'GeoTIFF'}"
    if local is None or not is_virtual(local):
        return what
    if not is_vrt(local):
        return f"{what}, it takes its pixels from elsewhere"
    return f"{what}, it is a VRT, which takes its pixels from other files; name it .vrt if it is your own"


def _check_beside(name: str, names: Sequence[str], address: Callable[[str], str]) -> None:
    """Checks the overviews and masks beside a raster, which GDAL would open whatever they are.

    Args:
        name: of the raster.
        names: of the files of its folder.
        address: makes an address of a name.

    Raises:
        ValueError: one is no GeoTIFF, or names other files.
    """
    start = f"{name}.".casefold()
    for beside in names:
        if beside.casefold().startswith(start) and beside.casefold().endswith((".ovr", ".msk")):
            with contextlib.ExitStack() as stack, warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                stack.enter_context(rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"))
                try:
                    raster = stack.enter_context(DatasetReader(address(beside), driver=["GTiff"]))
                except RasterioError:
                    raise ValueError(
                        f"{beside} beside it is no GeoTIFF, as overviews and masks are; remove it"
                    ) from None
                leads = "OVERVIEW_FILE" in raster.tags(ns="OVERVIEWS")
            if leads or any(
                _names_overviews(one, address) for one in names if one.casefold() == f"{beside}.aux.xml".casefold()
            ):
                raise ValueError(f"{beside} beside it takes its overviews from another file; remove it")


def _names_overviews(name: str, address: Callable[[str], str]) -> bool:
    """Whether a sidecar `.aux.xml` of an overview or mask names a file of overviews."""
    place = address(name)
    if place.startswith("/vsizip/"):
        return True  # nobody needs it there
    with Path(place).open("rb") as file:
        return b"OVERVIEW" in file.read(1 << 20).upper()


def _known(raster: Path, known: dict[Path, list[str]]) -> list[str]:
    if raster.parent not in known:
        known[raster.parent] = _listed(raster)
    return known[raster.parent]


def _listed(raster: Path) -> list[str]:
    """Returns the names of overviews and masks in the folder of a raster; of a large folder, those that GDAL would ask for."""
    names: list[str] = []
    with contextlib.suppress(OSError), os.scandir(raster.parent) as entries:
        for entry in itertools.islice(entries, _MOST_LISTED):
            if entry.name.lower().endswith(_BESIDE):
                names.append(entry.name)
    asked = [raster.name]
    for name in asked:  # grows
        if len(name) < 255:
            asked += [name + kind for kind in _ASKED if os.path.lexists(raster.with_name(name + kind))]
    return list(dict.fromkeys([*names, *asked[1:]]))


def _in_zip(address: str) -> tuple[str, str, Sequence[str]] | None:
    """Returns the folder of a raster in a zip of this machine as GDAL's path, its name, and the names beside it; None for others."""
    if not address.startswith("/vsizip/"):
        return None
    inside = PurePosixPath(address.removeprefix("/vsizip/"))
    archive = next(
        (Path(place) for place in inside.parents if place.suffix.lower() == ".zip" and Path(place).is_file()), None
    )
    if archive is None:
        return None
    stat = archive.stat()
    beside = _beside_in_zip(archive, stat.st_size, stat.st_mtime_ns)
    return address.removesuffix(inside.name), inside.name, beside.get(str(inside.relative_to(archive).parent), ())


@functools.lru_cache(maxsize=16)
def _beside_in_zip(archive: Path, size: int, modified: int) -> dict[str, list[str]]:
    """Returns the names of overviews and masks in a zip by their folder. Size and time tell whether it is still the same zip."""
    found: dict[str, list[str]] = {}
    with archives.opened(archive) as opened_:
        for name in opened_.namelist():
            if name.lower().endswith(_BESIDE):
                found.setdefault(str(PurePosixPath(name).parent), []).append(PurePosixPath(name).name)
    return found
