"""Read the metadata of a STAC item: its time, names, baseline, footprint, orbit, and the asset of a band.

Enters: items of a search. Leaves: `SceneMetadata`, passes of Sentinel-1, the asset of a band and its address. No pixel is read.

Archives spell fields in their own ways: under prefixes of extensions or without, in capitals, with null for what they do not
know. `known` reads them all.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfds_dwplus import bands
from tfds_dwplus.files.addresses import shown
from tfds_dwplus.imagery.acquisitions import (
    ItemError,
    SceneMetadata,
    by_take,
    mgrs_epsg,
    mgrs_tile,
    not_used,
    platform_of,
)
from tfds_dwplus.imagery.decoder.band_names import names_of
from tfds_dwplus.imagery.decoder.declared import of_item
from tfds_dwplus.imagery.stac_api import Collection, item_time

SCHEMES = ("http", "https", "s3", "gs", "az")
"""Of addresses that are opened. An archive does not choose among the files of this machine."""


def known(fields: Mapping[str, Any], *names: str) -> Any:
    """The first of some fields that is there and not null, under any prefix and in any spelling.

    Args:
        fields: properties of an item, or fields of an asset.
        names: in small letters without separators: 'cloudcover' finds 'eo:cloud_cover' and 'cloudCover'.
    """
    plain: dict[str, Any] = {}
    for key, value in fields.items():
        if value is not None:
            plain.setdefault(re.sub(r"[^a-z0-9]", "", key.lower().rpartition(":")[2]), value)
    return next((plain[name] for name in names if name in plain), None)


def scene_metadata(item: Any) -> SceneMetadata:
    """Reads the metadata of an item. Without a cloud cover it counts as fully cloudy."""
    fields = item.properties
    title = names(item)
    take = str(known(fields, "datataketid", "datatakeid", "datatakeidentifier") or "")
    made = str(known(fields, "generationtime", "processingdatetime") or "")
    digits = re.sub(r"\D", "", made.partition(".")[0]) or max(re.findall(r"\d{8}T\d{6}", title), default="").replace(
        "T", ""
    )
    return SceneMetadata(
        title,
        item_time(item),
        _number(known(fields, "cloudcover", "cloudypixelpercentage", "cloudcoverage"), 100.0),
        item.geometry,
        platform(item),
        re.sub(r"_N\d\d\.?\d\d$", "", take),
        epsg(item),
        processing_baseline(item),
        digits[:14],
    )


def names(item: Any) -> str:
    """Joins an item's id and the names of its product by spaces."""
    keys = ("producturi", "productid", "productname", "productidentifier", "granuleid", "tileid", "mgrstile", "title")
    found = [known(item.properties, key) for key in keys] + [item.properties.get("grid:code")]
    return " ".join([item.id, *(str(name) for name in found if name is not None)])


def platform(item: Any) -> str:
    """Satellite, as 'sentinel-2a', from the properties or else the names; the text of the property if it is another one."""
    said = str(known(item.properties, "platform", "platformserialidentifier", "spacecraftname") or "")
    return platform_of(said) or platform_of(names(item)) or said.lower()


def epsg(item: Any) -> int | None:
    """CRS of the pixels, from the item, its assets or its tile of the military grid. None if it is not known."""
    for fields in (item.properties, *(asset.extra_fields for asset in item.assets.values())):
        for key in ("proj:code", "proj:epsg"):
            code = re.fullmatch(r"(?:EPSG:)?(\d{4,6})", str(fields.get(key)), re.IGNORECASE)
            if code:
                return int(code[1])
    return mgrs_epsg(mgrs_tile(names(item)))


def processing_baseline(item: Any, href: str = "") -> float | None:
    """Reads the processing baseline of a Sentinel-2 item, 5.09 for N0509, from its properties or names. None if neither tells."""
    return of_item(item.properties, {}, f"{names(item)} {href.partition('?')[0]}").baseline


def baseline_note(item: Any) -> str:
    """A warning where the field of the baseline holds something else, as the version of a processor. Empty if all is well."""
    said = known(item.properties, "processingbaseline", "baseline")
    if said is None:
        said = next((value for key, value in item.properties.items() if key.lower() == "processing:version"), None)
    if said is None or processing_baseline(item) is not None:
        return ""
    return f"{item.id} tells the processing version {str(said)!r}, which is no processing baseline of Sentinel-2"


def usable(items: Sequence[Any], orbit: str, collection: Collection) -> tuple[list[Any], list[str]]:
    """Chooses the Sentinel-1 items of mode IW with both polarisations, and a known orbit direction if one is wanted.

    Returns:
        The items, and a warning for each kind that is left out for what it lacks. Other modes and single polarisations are left
        out without one, as they are what the archive has beside.
    """
    chosen: list[Any] = []
    lacking: dict[str, list[ItemError]] = {}
    for item in items:
        mode = known(item.properties, "instrumentmode", "sensormode", "operationalmode") or "IW"
        if str(mode).upper() != "IW" or not set(bands.S1_BANDS) <= _polarisations(item):
            continue
        try:
            for band in bands.S1_BANDS:
                asset_of(item, band, collection)
            if orbit != "both" and not direction(item):
                raise ItemError(
                    f"item {item.id} of {collection.name} tells no orbit direction (sat:orbit_state); --s1_orbit both takes it",
                    "its orbit is not known",
                )
        except ItemError as error:
            lacking.setdefault(error.kind, []).append(error)
        else:
            chosen.append(item)
    notes = [
        not_used(errors[0]) + (f" (and {len(errors) - 1} more like it)" if errors[1:] else "")
        for errors in lacking.values()
    ]
    return chosen, notes


def directions(orbit: str) -> tuple[str, ...]:
    """Orbit directions to try, the first one first: 'descending_or_ascending' is both, one after the other."""
    return tuple(orbit.split("_or_"))


def direction(item: Any) -> str:
    """Orbit direction of an item, 'ascending' or 'descending'; empty if it is not known."""
    said = str(known(item.properties, "orbitstate", "orbitdirection", "passdirection") or "").lower()
    return next((one for one in ("descending", "ascending") if said.startswith(one[:3])), "")


def passes(items: Sequence[Any], orbit: str) -> list[tuple[str, list[Any]]]:
    """Groups Sentinel-1 items of an orbit direction, or of both, by pass, sorted by time. Gives the date and the slices of each.

    A pass that was processed twice is one pass, and so is one about midnight.
    """
    chosen = [item for item in items if orbit == "both" or direction(item) == orbit]
    grouped = by_take([scene_metadata(item) for item in chosen])
    found = [sorted((chosen[place] for place in take), key=lambda item: (item_time(item), item.id)) for take in grouped]
    found.sort(key=lambda slices: (item_time(slices[0]), slices[0].id))
    return [(item_time(slices[0]).date().isoformat(), slices) for slices in found]


def asset_of(item: Any, band: str, collection: Collection) -> tuple[str, Any]:
    """Finds the asset of a band, with the address to read it from.

    By the collection's mapping, or else by its key, its band's name or its title; of several, the one with the finest pixels.

    Args:
        item: of the collection.
        band: standard name of a band, or 'SCL'.
        collection: names assets that are not named like their band.

    Raises:
        ItemError: the item has no such asset, or one that cannot be addressed.
    """
    wanted = dict(collection.assets).get(band)
    if wanted is not None:
        ranked = [key for key in item.assets if key.lower() == wanted.lower()]
        ranked.sort(key=lambda key: key != wanted)
    else:
        ranked = _assets(item, band)
    if not ranked:
        raise ItemError(
            f"item {item.id} of {collection.name} has no asset {wanted or f'for band {band}'}; it has {', '.join(sorted(item.assets))}; "
            "name assets by --s2_assets or --s1_assets",
            "an asset is missing",
        )
    asset = item.assets[ranked[0]].clone()
    asset.href = _address(item, item.assets[ranked[0]])
    return ranked[0], asset


def _assets(item: Any, band: str) -> list[str]:
    """Keys of the assets of a band, the best one first."""
    rasters = {key: asset for key, asset in item.assets.items() if _is_data(asset)}
    found = []
    name = names_of if band in bands.S2_ALL_BANDS else _plain_names
    by_key = dict(zip(rasters, name([_without_resolution(key) for key in rasters]), strict=True))
    loosely = dict(zip(rasters, names_of(list(rasters)), strict=True))  # 'gamma0_vv'
    inner = {
        key: asset.extra_fields.get("eo:bands") or asset.extra_fields.get("bands") or []
        for key, asset in rasters.items()
    }
    single = {key: fields[0] for key, fields in inner.items() if len(fields) == 1 and isinstance(fields[0], dict)}
    by_name = dict(zip(single, name([str(known(one, "name", "commonname")) for one in single.values()]), strict=True))
    for key, asset in rasters.items():
        titled = re.match(r"b(?:and)?\s*0?(\d{1,2}A?)\b", asset.title or "", re.IGNORECASE)
        signs = (
            by_key[key],
            by_name.get(key),
            f"B{titled[1].upper()}" if titled else None,
            *_polarised(asset),
            loosely[key],
        )
        if band in signs and (by_key[key] == band or len(inner[key]) < 2):
            rank = signs.index(band)
        elif band in name(
            [str(known(one, "name", "commonname")) for one in inner[key] if isinstance(one, dict)]
        ) and not _is_picture(key, asset):
            rank = len(signs)  # one of several bands of a file
        else:
            continue
        # JPEG 2000 is slow to read in parts.
        found.append((rank, _pixel_size(key, asset), "jp2" in f"{key} {asset.media_type}".lower(), key))
    return [key for *_, key in sorted(found, key=lambda one: one[:3])]


def _plain_names(texts: Sequence[str]) -> list[str]:
    return [bands.canonical_band(text) for text in texts]


def _without_resolution(key: str) -> str:
    return re.sub(r"[_-]?\d0m$", "", key, flags=re.IGNORECASE)


def _is_data(asset: Any) -> bool:
    """Whether an asset may be a raster of measurements."""
    kind, roles = str(asset.media_type or "").lower(), {str(role).lower() for role in asset.roles or ()}
    return not (
        roles & {"metadata", "thumbnail", "overview"} or re.search(r"png|jpeg|xml|json|html|pdf|text|zip", kind)
    )


def _is_picture(key: str, asset: Any) -> bool:
    """Whether an asset is made to be looked at, as the true-colour image of three bands."""
    words = " ".join([key, asset.title or "", *map(str, asset.roles or ())]).lower()
    return bool(re.search(r"visual|tci|colou?r|preview|overview|thumbnail|rgb", words))


def _polarised(asset: Any) -> tuple[str, ...]:
    """The polarisation of an asset that tells a single one."""
    said = known(asset.extra_fields, "polarizations") or ()
    return (str(said[0]).upper(),) if not isinstance(said, str) and len(said) == 1 else ()


def _polarisations(item: Any) -> set[str]:
    """Polarisations of an item; those that are wanted, if it does not tell."""
    said = known(item.properties, "polarizations", "polarisations", "polarisationchannels", "polarizationchannels")
    if not said:
        return set(bands.S1_BANDS)
    several = said if isinstance(said, list) else re.split(r"[^A-Za-z]+", str(said))
    words = [str(one).upper() for one in several]
    return {*words, *(bands.S1_BANDS if "DV" in words else ())}


def _pixel_size(key: str, asset: Any) -> float:
    """Side of a pixel in metres; infinite if it is not known."""
    raster = next((one for one in asset.extra_fields.get("raster:bands") or () if isinstance(one, dict)), {})
    placed = known(asset.extra_fields, "transform")
    named = re.search(r"(?<!\d)(\d{2})m(?![a-z0-9])", f"{key} {asset.href.partition('?')[0]}", re.IGNORECASE)
    for said in (
        known(asset.extra_fields, "spatialresolution"),
        known(raster, "spatialresolution"),
        placed[0] if isinstance(placed, list) and placed else None,
        named and named[1],
        known(asset.extra_fields, "gsd"),
    ):
        if size := _number(said, 0.0):
            return abs(size)
    return math.inf


def _address(item: Any, asset: Any) -> str:
    """Address of an asset: absolute, and one that can be read without an account if there is such a one.

    Raises:
        ItemError: it is relative and the item does not tell its own address, or it is no address in the network.
    """
    href = _absolute(item, asset.href)
    if href.startswith("s3://") and not _has_s3_credentials():
        others = [
            one.get("href") for one in (known(asset.extra_fields, "alternate") or {}).values() if isinstance(one, dict)
        ]
        href = next((one for one in others if str(one).startswith(("http://", "https://"))), href)
    scheme, sign, rest = href.partition("://")
    if scheme.lower() not in SCHEMES or not sign or not rest.isprintable() or re.match(r"/|[^?]*[<>]", rest):
        raise ItemError(
            f"item {item.id} has the address {shown(href)}, expected one that begins with {', '.join(SCHEMES)}",
            "an asset has no address",
        )
    return f"{scheme.lower()}://{rest}"


def _absolute(item: Any, href: str) -> str:
    """Resolves an address against that of the item."""
    from pystac.utils import make_absolute_href

    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|/vsi", href):
        return href
    own = next(
        (
            link.href
            for kind in ("self", "canonical")
            for link in item.links
            if link.rel == kind and "://" in str(link.href)
        ),
        "",
    )
    if not own:
        raise ItemError(
            f"item {item.id} has the relative address {href}, and no link that tells its own", "an asset has no address"
        )
    return make_absolute_href(href, own)


def _has_s3_credentials() -> bool:
    """Whether GDAL finds an account for buckets, or is told to ask without one. The role of a machine in a cloud is not seen."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_NO_SIGN_REQUEST", "AWS_ROLE_ARN")
    names += (
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    )
    files = (
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        os.environ.get("AWS_CONFIG_FILE", "~/.aws/config"),
    )
    return any(os.environ.get(name) for name in names) or any(Path(file).expanduser().is_file() for file in files)


def _number(said: Any, otherwise: float) -> float:
    try:
        number = float(said)
    except (TypeError, ValueError, OverflowError):
        return otherwise
    return number if math.isfinite(number) else otherwise
