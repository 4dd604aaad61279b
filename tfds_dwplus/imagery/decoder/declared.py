"""What metadata say of a band's stored numbers: scale, offset, nodata, processing baseline.

Enters: tags of a raster, fields of a STAC item and asset, attributes of an xarray array, or the XML of a Sentinel-2
product. Leaves: a `Declared`. Names are read in any spelling (`scale_factor`, `SCALE`, `raster:scale`) and under any prefix
of a STAC extension (`s2:processing_baseline`, `earthsearch:boa_offset_applied`).
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tfds_dwplus import bands
from tfds_dwplus.files.strangers import one_line, parse_xml

_SCALE = ("scale", "scalefactor", "scales")
_OFFSET = ("offset", "addoffset", "offsets", "boaaddoffset", "radioaddoffset")
_NODATA = ("nodata", "fillvalue", "missingvalue", "nodatavals")
_BASELINE = ("processingbaseline", "baseline", "baselineversion", "productbaseline", "processingversion")
_APPLIED = ("boaoffsetapplied", "offsetapplied", "harmonized", "harmonised")
MOST_OFFSET_DN = 65535
"""Largest size of an offset of digital numbers, which are of 16 bits."""

_QUANTIFICATION = ("quantificationvalue", "boaquantificationvalue")


@dataclasses.dataclass(frozen=True)
class Declared:
    """What metadata say of the stored numbers of one band. None: they do not say it."""

    scale: float | None = None
    """reflectance = stored x scale + offset."""
    offset: float | None = None
    """In reflectance, or where its size is above 2 in stored numbers, as BOA_ADD_OFFSET is."""
    nodata: float | None = None
    baseline: float | None = None
    """Processing baseline of Sentinel-2, such as 5.11."""
    offset_applied: bool | None = None
    """Whether a flag says that the offset of baseline 04.00 is taken off already."""
    decoded: bool = False
    """Whether scale and offset were applied when the array was read, as xarray's `mask_and_scale` does."""

    def with_defaults(self, other: "Declared") -> "Declared":
        """What this says, and where it says nothing, what `other` says."""
        mine = {name: value for name, value in _fields(self).items() if value not in (None, False)}
        return Declared(
            **{**_fields(other), **mine, **({"offset_applied": False} if self.offset_applied is False else {})}
        )


NOTHING = Declared()


def of_tags(*tags: Mapping[str, Any], scale: float = 1.0, offset: float = 0.0, name: str = "") -> Declared:
    """Reads the tags of a raster and of its band, the more specific first.

    Args:
        tags: dictionaries of texts.
        scale: the format's own scale of the band; 1 with offset 0 is GDAL's way to say nothing.
        offset: the format's own offset of the band.
        name: file or product name, in which `_N0510_` is a baseline.
    """
    said = _read([dict(one) for one in tags])
    quantification = _first(said, _QUANTIFICATION)
    declared = Declared(
        _scale(said) or (1 / quantification if quantification else None),
        _first(said, _OFFSET),
        None,
        _baseline(said, name),
        _flag(said),
    )
    own = Declared(scale if scale != 1 and scale else None, offset or None)
    return own.with_defaults(declared)


def of_item(properties: Mapping[str, Any], asset: Mapping[str, Any], name: str = "", band: int = 0) -> Declared:
    """Reads the fields of a STAC asset (of 1.0 or 1.1, band by band or for all), and the properties of its item.

    Args:
        properties: those of the item.
        asset: all fields of the asset, as `Asset.to_dict()` gives them.
        name: names of the item and the product, in which `_N0510_` is a baseline.
        band: index of the band in the asset, from 0.
    """
    levels = []
    for key, value in asset.items():
        if _plain(key) == "bands" and isinstance(value, list | tuple) and len(value) > band:
            levels += [value[band]] if isinstance(value[band], Mapping) else []
    said = _read([*levels, asset])
    of_scene = _read([properties])
    applied = _flag(said)
    return Declared(
        _scale(said),
        _first(said, _OFFSET),
        _first(said, _NODATA),
        _baseline(said, "") or _baseline(of_scene, name),
        _flag(of_scene) if applied is None else applied,
    )


def of_array(
    attributes: Mapping[str, Any], encoding: Mapping[str, Any], coordinates: Mapping[str, Any], band: int
) -> Declared:
    """Reads an xarray array: its attributes, the encoding it was read with, and its scalar coordinates.

    Args:
        attributes: `array.attrs`.
        encoding: `array.encoding`; a scale or offset in it was applied when the array was read.
        coordinates: values of coordinates by name, as stackstac keeps the properties of an item.
        band: index of the band, from 0, for attributes with a value for each band.
    """

    def of_band(level: Mapping[str, Any]) -> dict[str, Any]:
        def chosen(value: Any) -> Any:
            several = isinstance(value, list | tuple) or (hasattr(value, "ndim") and getattr(value, "ndim", 0) == 1)
            return value[band] if several and len(value) > band else value

        return {name: chosen(value) for name, value in level.items()}

    said, kept, of_scene = (_read([of_band(level)]) for level in (attributes, encoding, coordinates))
    scale, offset = _scale(said), _first(said, _OFFSET)
    if scale == 1 and not offset:  # rioxarray writes 1 and 0 where a file says nothing
        scale = offset = None
    kept_scale, kept_offset = _scale(kept), _first(kept, _OFFSET)
    return Declared(
        scale,
        offset,
        _first(said, _NODATA),
        _baseline(said, "") or _baseline(of_scene, ""),
        _flag(said) if _flag(said) is not None else _flag(of_scene),
        scale is None and offset is None and (kept_scale not in (None, 1.0) or bool(kept_offset)),
    )


def of_product(name: str, xml: bytes) -> dict[str, Declared]:
    """Reads MTD_MSIL1C.xml or MTD_MSIL2A.xml; gives what it says of each band.

    Source: Sentinel-2 Products Specification: reflectance = (DN + RADIO_ADD_OFFSET) / QUANTIFICATION_VALUE, at level 2A
    BOA_ADD_OFFSET; band_id counts the 13 bands. A product without an offset is older than baseline 04.00.

    Raises:
        ValueError: it is not the metadata of a Sentinel-2 product.
    """
    try:
        texts = [(element.tag.rpartition("}")[2], element) for element in parse_xml(xml, "it").iter()]
        added = {
            bands.S2_ALL_BANDS[_place(element.attrib["band_id"])]: float(element.text or "")
            for tag, element in texts
            if tag in ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET")
        }
        if odd := [value for value in added.values() if not abs(value) <= MOST_OFFSET_DN]:
            raise ValueError(f"an offset of {odd[0]:g}, expected -1000 or a number like it")
        quantum = {
            float(element.text or "")
            for tag, element in texts
            if tag in ("QUANTIFICATION_VALUE", "BOA_QUANTIFICATION_VALUE")
        }
        baseline = next((parse_baseline(element.text) for tag, element in texts if tag == "PROCESSING_BASELINE"), None)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{name} is not the metadata of a Sentinel-2 product ({one_line(error)})") from None
    if len(quantum) > 1 or not all(1 <= value <= 1e9 for value in quantum):
        raise ValueError(
            f"{name} has the quantification values {one_line(sorted(quantum), 80)}, expected one number of 1 or more, such as 10000"
        )
    scale = 1 / (quantum or {10000.0}).pop()
    return {band: Declared(scale, added.get(band, 0.0) * scale, None, baseline) for band in bands.S2_ALL_BANDS}


def _place(band_id: str) -> int:
    """Index of a band, 0 to 12."""
    if not re.fullmatch(r"\d{1,2}", band_id, re.ASCII):
        raise ValueError(f"the band_id {band_id[:40]!r}, expected 0 to 12")
    return int(band_id)


def parse_baseline(text: Any) -> float | None:
    """Reads a processing baseline of Sentinel-2: 'N0510', '05.10', '0510' and 5.1 are 5.1.

    None for what is no baseline ('V210', 'Sen2Cor_02.11.00', '1.0.0'), and for 99.xx, which is a trial of ESA or a
    product that a user processed.
    """
    found = re.fullmatch(r"[Nn]?(\d{2})[._]?(\d{2})|(\d{1,2}\.\d{1,2})|(\d{1,2})", str(text).strip())
    if not found:
        return None
    number = float(f"{found[1]}.{found[2]}") if found[1] else float(found[3] or found[4])
    return number if 0 < number < 90 else None


def baseline_in_name(name: str) -> float | None:
    """Finds the baseline in product names: 'S2A_MSIL2A_..._N0510_...' is 5.1. None if there is none."""
    found = re.search(r"MSIL(?:1C|2A)_\w*?_N(\d{4})_|_N(0\d{3})(?=[_.\s]|$)", name)
    return parse_baseline(found[1] or found[2]) if found else None


def _fields(declared: Declared) -> dict[str, Any]:
    return {field.name: getattr(declared, field.name) for field in dataclasses.fields(declared)}


def _plain(key: str) -> str:
    """'raster:scale', 'SCALE_FACTOR', 's2:processing_baseline' -> 'scale', 'scalefactor', 'processingbaseline'."""
    whole = re.sub(r"[^a-z]", "", str(key).lower())
    if whole.endswith("processingversion"):  # a `version` alone is that of the item
        return "processingversion"
    return re.sub(r"[^a-z]", "", str(key).lower().rpartition(":")[2])


def _read(levels: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Collects values by plain name; the first level that has one counts. Null is nothing."""
    said: dict[str, Any] = {}
    for level in levels:
        for key, value in level.items():
            if value is not None:
                said.setdefault(_plain(key), value)
    return said


def _scale(said: Mapping[str, Any]) -> float | None:
    """The scale, or a divisor such as 10000. Other numbers are of another thing: Earth Engine calls the size of a pixel so."""
    number = _first(said, _SCALE)
    return number if number is not None and (0 < number <= 1 or number >= 1000) else None


def _first(said: Mapping[str, Any], names: Iterable[str]) -> float | None:
    for name in names:
        if name in said:
            try:
                number = float(said[name])
            except (TypeError, ValueError, OverflowError):
                continue
            if math.isfinite(number) or name in _NODATA:
                return number
    return None


def _baseline(said: Mapping[str, Any], name: str) -> float | None:
    known = (parse_baseline(said[key]) for key in _BASELINE if key in said)
    return next((number for number in known if number is not None), None) or baseline_in_name(name)


def _flag(said: Mapping[str, Any]) -> bool | None:
    for name in _APPLIED:
        text = str(said.get(name, "")).strip().lower()
        if text in ("true", "1", "yes"):
            return True
        if text in ("false", "0", "no"):
            return False
    return None
