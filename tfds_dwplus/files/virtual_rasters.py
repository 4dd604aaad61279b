"""Check what a virtual raster (VRT) takes its pixels from, before GDAL opens it.

Enters: a `.vrt` file. Leaves: its members, GeoTIFF or JPEG 2000 files of its own folder; or one line of what else it names.

GDAL reads XML in its own way: it takes an attribute for an element, and a name in any case. So not what is dangerous is looked for,
but all that is not known is refused.

Source: https://gdal.org/en/stable/drivers/raster/vrt.html and gdalvrt.xsd of GDAL 3.10.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from tfds_dwplus.files.strangers import MOST_XML_BYTES, one_line, parse_xml, read_bytes

_IMAGES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
"""How files of TIFF, BigTIFF and JPEG 2000 begin."""

_MOST_NESTED = 8
"""Virtual rasters inside one another."""

_ELEMENTS = frozenset(re.findall(r"\w+", """
    VRTDataset SRS GeoTransform GCPList GCP Metadata MDI OverviewList BlockXSize BlockYSize MaskBand VRTRasterBand Description UnitType
    Offset Scale CategoryNames Category ColorInterp ColorTable Entry NoDataValue NodataValue HideNoDataValue Histograms HistItem HistMin
    HistMax BucketCount IncludeOutOfRange Approximate HistCounts Overview

    SimpleSource ComplexSource AveragedSource KernelFilteredSource NoDataFromMaskSource SourceFilename SourceBand SourceProperties SrcRect
    DstRect NODATA ScaleOffset ScaleRatio LUT ColorTableComponent Exponent SrcMin SrcMax DstMin DstMax Clamp UseMaskBand
    MaskValueThreshold RemapValue Kernel Size Coefs PixelFunctionType PixelFunctionArguments SourceTransferType
    SkipNonContributingSources

    GDALWarpOptions WarpMemoryLimit ResampleAlg WorkingDataType Option SourceDataset Transformer ApproxTransformer MaxError
    BaseTransformer GenImgProjTransformer SrcGeoTransform SrcInvGeoTransform DstGeoTransform DstInvGeoTransform ReprojectTransformer
    ReprojectionTransformer SourceSRS TargetSRS BandList BandMapping SrcNoDataReal SrcNoDataImag DstNoDataReal DstNoDataImag SrcAlphaBand
    DstAlphaBand
"""))  # fmt: skip
"""Elements of a raster and its bands; of its members; and of what gdalwarp writes."""

_ATTRIBUTES = frozenset(re.findall(r"\w+", """
    rasterXSize rasterYSize RasterXSize RasterYSize subClass dataType DataType band blockXSize blockYSize BlockXSize BlockYSize
    dataAxisToSRSAxisMapping coordinateEpoch key domain format relativeToVRT shared resampling name xOff yOff xSize ySize c1 c2 c3 c4
    normalized src dst Projection Id Info Pixel Line X Y Z
"""))  # fmt: skip

_SUBCLASSES = ("VRTSourcedRasterBand", "VRTDerivedRasterBand", "VRTWarpedDataset", "VRTWarpedRasterBand")


def is_image(path: Path) -> bool:
    """Whether a file begins as a TIFF or JPEG 2000 does."""
    return path.is_file() and read_start(path).startswith(_IMAGES)


def is_virtual(path: Path) -> bool:
    """Whether a file begins with XML, as rasters do that are made of others."""
    return path.is_file() and read_start(path).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<")


def is_vrt(path: Path) -> bool:
    """Whether a file is a VRT, by its first bytes."""
    return path.is_file() and b"<VRTDataset" in read_start(path)


def read_start(path: Path) -> bytes:
    """Returns the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(256)


def check_members(path: Path, flag: str) -> list[Path]:
    """Checks a virtual raster, and those that it is made of.

    Args:
        path: the file.
        flag: the option that allows others, for messages.

    Returns:
        Its members, each once.

    Raises:
        ValueError: it names something else than GeoTIFF and JPEG 2000 files in its own folder and below; or it is no such XML.
        OSError: it cannot be read.
    """
    home = path.resolve().parent  # GDAL counts from where a link leads to
    found: dict[Path, None] = {}
    waiting, seen = [(path.resolve(), 0)], set()
    for virtual, depth in waiting:  # grows
        if virtual in seen:
            continue
        seen.add(virtual)
        for text, relative in _sources(virtual, flag):
            place, member = _member(virtual, text, relative, home, flag)
            if is_image(member):
                found[place] = None
            elif member.suffix.lower() == ".vrt" and is_virtual(member) and depth < _MOST_NESTED and member not in seen:
                waiting.append((member, depth + 1))
            else:
                raise ValueError(
                    f"its member {one_line(text, 100)} is no GeoTIFF or JPEG 2000 file; say {flag} if it is to be trusted"
                )
    return list(found)


def _sources(path: Path, flag: str) -> Iterator[tuple[str, bool]]:
    """Yields the text of each member of a virtual raster, and whether it is relative to the VRT."""
    content = read_bytes(path, MOST_XML_BYTES)
    head = re.match(rb"(?:\xef\xbb\xbf)?\s*(<\?xml\s[^?<>]*\?>)?\s*<VRTDataset[\s>]", content)
    encoded = head and re.search(rb"encoding\s*=\s*[\"']([^\"']*)", head[1] or b"")
    if not head or (encoded and encoded[1].lower() not in (b"utf-8", b"us-ascii", b"ascii")):
        raise ValueError("expected a VRT, XML in UTF-8 that begins with <VRTDataset")
    rest = content[head.end() :]
    if b"<!" in rest or b"<?" in rest or b"\0" in content:
        raise ValueError("its XML has comments, CDATA or declarations, which GDAL may read in another way; remove them")
    tree = parse_xml(content, str(path))
    waiting = [tree]
    for element in waiting:  # grows
        fault = _fault(element)
        if fault:
            raise ValueError(f"its {fault} may take pixels from anywhere; say {flag} if it is to be trusted")
        if element.tag in ("SourceFilename", "SourceDataset"):
            yield element.text or "", element.get("relativeToVRT", "0") == "1"
        if not (element.tag == "Metadata" and element.get("format") == "xml"):  # kept as text
            waiting += element


def _fault(element: ElementTree.Element) -> str:
    """Returns what of an element is not known to be harmless; "" if nothing."""
    if element.tag not in _ELEMENTS:
        return f"element {one_line(element.tag, 60)}"
    free = element.tag == "PixelFunctionArguments"
    odd = [name for name in element.attrib if name not in _ATTRIBUTES and not free]
    if odd:
        return f"attribute {one_line(odd[0], 60)} of {element.tag}"
    if element.get("subClass", _SUBCLASSES[0]) not in _SUBCLASSES:
        return f"band {one_line(element.get('subClass'), 60)}"
    if element.get("relativeToVRT", "0") not in ("0", "1"):
        return f"attribute relativeToVRT {one_line(element.get('relativeToVRT'), 20)}"
    if element.tag in ("SourceFilename", "SourceDataset", "SRS", "SourceSRS", "TargetSRS") and len(element):
        return f"{element.tag} with elements in it"
    if element.tag in ("SRS", "SourceSRS", "TargetSRS") and re.match(
        r"\s*(https?:|/|\.|file:)", element.text or "", re.IGNORECASE
    ):
        return element.tag
    if re.match(r"\s*(https?:|/|\.|file:)", element.get("Projection", ""), re.IGNORECASE):
        return "Projection"
    return ""


def _member(virtual: Path, text: str, relative: bool, home: Path, flag: str) -> tuple[Path, Path]:
    """Returns the path of a member, and where it leads to if it is a link. Raises a ValueError if it is none in `home` or below."""
    named = one_line(text, 100)
    if not text.isprintable() or text != text.strip() or re.match(r"[A-Za-z][\w+.-]*:|/vsi|[<{\"']", text) or not text:
        raise ValueError(f"its member {named!r} is no path of a file in its folder; say {flag} if it is to be trusted")
    place = (virtual.parent if relative else Path.cwd()) / text
    real = Path(os.path.realpath(place))
    if not real.is_relative_to(home):
        raise ValueError(f"its member {named} lies outside of its folder {home}; say {flag} if it is to be trusted")
    if not real.is_file():
        raise ValueError(f"its member {named} is missing")
    return place, real
