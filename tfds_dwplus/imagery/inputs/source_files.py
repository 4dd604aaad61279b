"""Which files the pixels of an input come from: also behind a VRT, in a zip, on a server, and what lies beside them.

Enters: paths, addresses, folders and products, as `scene_files` reads them. Leaves: paths of local files, addresses of others.
"""

import contextlib
import os
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from tfds_dwplus.files.addresses import is_remote, shown
from tfds_dwplus.files.strangers import MOST_XML_BYTES, parse_xml
from tfds_dwplus.imagery.inputs.sidecars import sidecars
from tfds_dwplus.imagery.scene_files import list_rasters, open_raster

BESIDE_REMOTE = (".msk", ".aux.xml")
"""Sidecars that a raster on a server may have."""

_ARCHIVE = r"\.(?:zip|tar|tgz|tar\.gz|gz|7z|rar|kmz)"


def check_not_overwritten(outputs: Sequence[Path], inputs: Sequence[str | Path], *, anywhere: bool = False) -> None:
    """Raises a ValueError if writing an output would overwrite or remove a file of an input, or another output."""
    read: dict[Path, str] = {}
    for path in map(str, inputs):
        for file in (*files_behind(path, online=False, anywhere=anywhere), path):
            if is_file(file):
                read[Path(file).resolve()] = path
    for place, output in enumerate(outputs):
        final = output.resolve()
        others = {other.resolve() for other in (*outputs[:place], *outputs[place + 1 :])}
        if final in read:
            behind = "" if Path(read[final]).resolve() == final else f" (a file of {read[final]})"
            raise ValueError(f"{output} is an input{behind}, and would be overwritten; give another name to write to")
        if final in others:
            raise ValueError(f"{output} is to be written twice; give two names")
        for path in {*sidecars(output), *sidecars(final)}:
            if path.resolve() in {*read, *others}:
                raise ValueError(
                    f"GDAL reads {path} as a part of {output}, so that it would be removed; give another name"
                )


def files_behind(path: str, *, online: bool = True, anywhere: bool = False) -> list[str]:
    """Finds the files that the pixels of an input come from, and those that tell what they mean.

    Args:
        path: input, as `list_rasters` takes it.
        online: whether VRTs on servers are looked into.
        anywhere: as `opening.open_raster`.

    Returns:
        Absolute paths of local files, whole addresses of others.
    """
    found: dict[str, None] = {}
    product = path.rpartition("/")[0] or "." if re.search(r"(^|/)MTD_\w+\.xml$", path) else path
    if os.path.isdir(product):  # noqa: PTH112 (Path raises an OSError if a name is too long)
        found |= dict.fromkeys(map(absolute, sorted(Path(product).rglob("MTD*.xml"))))
    given = [address for address, _ in list_rasters(path)]
    waiting, seen = list(given), set()
    for address in waiting:  # grows
        if address in seen:
            continue
        seen.add(address)
        file, inside = file_of(address)
        found[file] = None
        vrt = _vrt(address, file, inside=inside, online=online, anywhere=anywhere)
        if vrt is not None:
            waiting += _sources(vrt, address if inside or not is_file(file) else file)
        if inside:
            continue
        if on_server(file) and address in given:
            place, sign, query = file.partition("?")
            found |= dict.fromkeys(f"{place}{kind}{sign}{query}" for kind in BESIDE_REMOTE)
        elif is_file(file):
            found |= dict.fromkeys(map(str, sidecars(Path(file), overviews=False)))
        if vrt is None and address in given and not is_remote(address):
            found |= dict.fromkeys(_of_driver(address, anywhere))
    return list(found)


def file_of(address: str) -> tuple[str, bool]:
    """Returns the file that holds an address of GDAL or rasterio, and whether the address is of something inside that file.

    '/vsizip//data/a.zip/B2.tif', 'zip:///data/a.zip!B2.tif' -> '/data/a.zip'; '/vsicurl/https://x/a.tif' -> 'https://x/a.tif'.
    """
    inside = False
    while found := re.match(
        r"/?vsi(?:(?P<archive>zip|tar|gzip|7z|rar)/|subfile/[^,]*,|curl(?:_streaming)?/|cached/)"
        r"|(?P<packed>zip|tar|gzip)(?:\+|:/{2})|(?:file|vrt):/{2}",
        address,
    ):
        inside |= bool(found["archive"] or found["packed"])
        rest = address[found.end() :].partition("!")[0] if found["packed"] else address[found.end() :]
        address = rest.partition("?")[0] if found[0].startswith("vrt") and "://" not in rest else rest
        if found["archive"] and address.startswith("{"):
            address = address[1:].partition("}")[0]
    if asked := re.match(r"/vsicurl\?(.*)", address):
        address = urllib.parse.parse_qs(asked[1]).get("url", [address])[0]
    if on_server(address):
        archive = re.match(rf"[^?]*?{_ARCHIVE}(?=/|\?|$)", address) if inside else None
        query = address.partition("?")[1:] if archive else ()
        return (archive[0] + "".join(query) if archive else address), inside
    # 'NETCDF:"/data/a.nc":B2'
    named = re.findall(r'[^:"]+', address) if re.match(r"[A-Z][A-Z0-9_]{2,}:", address) else ()
    for text in (
        address,
        *(named if not is_file(address) else ()),
        *(map(str, Path(address).parents) if inside else ()),
    ):
        if is_file(text):
            return absolute(text), inside
    return address, inside


def _vrt(address: str, file: str, *, inside: bool, online: bool, anywhere: bool) -> ElementTree.Element | None:
    """Reads a virtual raster; None if it is another raster, or cannot be read."""
    if is_file(file) and not inside:
        with Path(file).open("rb") as opened:
            text = opened.read(1024)
            if not text.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<") or b"<VRTDataset" not in text:
                return None
            text += opened.read(MOST_XML_BYTES)
    else:
        if not shown(address).lower().endswith(".vrt") or (is_remote(address) and not online):
            return None
        try:
            with open_raster(address, anywhere=anywhere) as raster:
                text = raster.tags(ns="xml:VRT").get("xml:VRT", "")
        except ValueError:
            return None
    try:
        return parse_xml(text if isinstance(text, bytes) else text.encode(), address)
    except ValueError:
        return None


def _sources(vrt: ElementTree.Element, address: str) -> Iterator[str]:
    """Yields the addresses of the rasters in a virtual raster at an address."""
    for element in vrt.iter():
        text = (element.text or "").strip()
        if element.tag not in ("SourceFilename", "SourceDataset") or not text:
            continue
        if text.startswith("<VRTDataset"):
            with contextlib.suppress(ValueError):
                yield from _sources(parse_xml(text.encode(), address), address)
        elif element.get("relativeToVRT") == "1" and not text.startswith("/"):
            folder = shown(address).rpartition("/")[0]
            yield f"{folder}/{text}"
            if os.path.islink(address):  # noqa: PTH114 (an address); GDAL counts from where the link leads to
                yield str(Path(address).resolve().parent / text)
        else:
            yield text


def _of_driver(address: str, anywhere: bool) -> list[str]:
    """Returns the local files that GDAL's driver says a raster consists of, such as the header of an ENVI file."""
    try:
        with open_raster(address, anywhere=anywhere) as raster:
            return [absolute(file) for file in raster.files if is_file(file) and not file.lower().endswith(".ovr")]
    except ValueError:  # will be told where the pixels are read
        return []


def on_server(file: str) -> bool:
    """Returns whether a file of `file_of` is on a web server."""
    return file.startswith(("http://", "https://"))


def is_file(path: str) -> bool:
    """Returns whether there is a local file; False too if the path is too long for one, as a signed address may be."""
    return os.path.isfile(path)  # noqa: PTH113 (Path raises an OSError then)


def absolute(path: str | Path) -> str:
    """Returns a path from the root, without '..'."""
    return os.path.abspath(path)  # noqa: PTH100 (Path keeps "..")
