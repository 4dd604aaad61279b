"""Open the assets of a STAC item as layers, and find out why one cannot be read.

Enters: an item and names of bands. Leaves: whatever a reader makes of the layers; or an `ItemError`, which costs that item, or
an `ArchiveError`, if the server is busy or silent and trying again may help.
"""

import contextlib
import dataclasses
import http.client
import itertools
import re
import threading
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import rasterio
from rasterio.errors import RasterioError

from tfds_dwplus.files import hosts
from tfds_dwplus.files.addresses import is_remote, shown
from tfds_dwplus.files.opening import opened
from tfds_dwplus.imagery.acquisitions import ArchiveError, ItemError, causes, first_line
from tfds_dwplus.imagery.decoder.band_names import names_of
from tfds_dwplus.imagery.decoder.declared import of_item, of_tags
from tfds_dwplus.imagery.items.stac_items import asset_of, names
from tfds_dwplus.imagery.rasters import CLASSES_OF_A_MASK, Layer, PixelsError, alpha_band
from tfds_dwplus.imagery.scene_files import mask_beside, remote_settings
from tfds_dwplus.imagery.stac_api import Collection

Read = TypeVar("Read")

REFUSED_KIND = "a file is refused"
"""Kind of the `ItemError` of a file that needs a signature or an account. Another search may bring new signatures."""

REFUSED = (401, 403, 409)
"""Statuses of a file that needs a signature or an account; Azure says 409 of an unsigned address."""


class Remembered:
    """The last `most` results by key, for all threads."""

    def __init__(self, most: int) -> None:
        """Nothing is known yet."""
        self._known: OrderedDict[Hashable, Any] = OrderedDict()
        self._most, self._lock = most, threading.Lock()

    def get(self, key: Hashable) -> Any | None:
        """What is known of a key; None if nothing."""
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)

    def put(self, key: Hashable, value: Any) -> None:
        """Keeps a result, and forgets the one that was not asked for longest."""
        with self._lock:
            self._known[key] = value
            self._known.move_to_end(key)
            while len(self._known) > self._most:
                self._known.popitem(last=False)


def with_layers(
    item: Any, bands_: Sequence[str], collection: Collection, timeout_s: float, read: Callable[[list[Layer]], Read]
) -> Read:
    """Opens the assets of some bands and gives what `read` makes of them.

    A read that fails is done once more where that may help: with a new signature, or where the server gives the file after all.
    What a busy server refuses is asked again by GDAL before, see `scene_files.remote_settings`.

    Args:
        item: a STAC item.
        bands_: names of bands, or SCL.
        collection: the collection of the item.
        timeout_s: how long a request may take.
        read: takes the layers of the bands, in their order. Their quantity is that of a mask.

    Raises:
        ItemError: an asset is missing, gone, refused, broken, not on a map grid, or without that band.
        ArchiveError: the server does not answer, or is busy. If that is so of the same file at the next attempt, it costs the item.
    """
    found = [asset_of(item, band, collection)[1] for band in bands_]
    hrefs = {asset.href: asset.href for asset in found}
    for href in hrefs:
        try:
            hosts.check_not_inward(href, collection.url)
        except ValueError as error:
            raise ItemError(f"{item.id}: {error}", "an asset has no address") from None
    for last in (False, True):
        opening = ""
        try:
            with contextlib.ExitStack() as stack:
                all_remote = all(map(is_remote, hrefs.values()))
                stack.enter_context(rasterio.Env(**remote_settings(all_remote, timeout_s)))
                rasters: dict[str, rasterio.DatasetReader] = {}
                for opening in hrefs:
                    rasters[opening] = stack.enter_context(opened(_address(hrefs[opening])))
                opening = ""
                layers = [
                    _layer(item, band, asset, rasters[asset.href], hrefs[asset.href], stack)
                    for band, asset in zip(bands_, found, strict=True)
                ]
                result = read(layers)
            for href in hrefs:
                if _busy.get(shown(href)):
                    _busy.put(shown(href), False)
            return result
        except (RasterioError, PixelsError) as error:
            if not opening and not isinstance(error, PixelsError):
                raise ItemError(f"{item.id}: {first_line(error)}", "it cannot be resampled") from None
            href = opening or next(href for href in hrefs if shown(href) == error.address)
            status = _status(error, hrefs[href], timeout_s)
            if not last and status in REFUSED and collection.signed:
                hrefs = {known: _signed_anew(known) for known in hrefs}
            elif last or status is None or not 200 <= status < 300:
                raise _failure(item, shown(href), _said(error, hrefs[href]), status, collection) from None
    raise AssertionError("the loop ends by itself")


_busy = Remembered(4096)
"""Files that were not given when they were last asked for, though the server may have been busy: True."""

_request_numbers = itertools.count()


def _address(href: str, *, count: bool = True) -> str:
    """The address for GDAL. It caches a URL's answer, even a refusal; a fragment is not sent, and makes every URL new to GDAL."""
    if not href.startswith(("http://", "https://")):
        return href
    return f"/vsicurl/{href}" + (f"#{next(_request_numbers)}" if count else "")


_without_mask = Remembered(4096)


def _layer(
    item: Any, band: str, asset: Any, raster: rasterio.DatasetReader, href: str, stack: contextlib.ExitStack
) -> Layer:
    place, fields = shown(asset.href), asset.to_dict()
    if not raster.crs:
        points = raster.gcps[0]
        what = "is in radar geometry: it has ground control points alone" if points else "has no map grid"
        raise ItemError(
            f"{item.id}: {place} {what}; use a collection of terrain-corrected scenes", "it is not on a map grid"
        )
    index = _index(item, band, fields, raster, place)
    # Tags of the file are more direct than the fields of its item.
    tags = of_tags(
        raster.tags(index), raster.tags(), scale=raster.scales[index - 1], offset=raster.offsets[index - 1], name=place
    )
    declared = tags.with_defaults(
        of_item(item.properties, fields, f"{names(item)} {place}", index - 1 if raster.count > 1 else 0)
    )
    layer = Layer(place, raster, index, CLASSES_OF_A_MASK, declared)
    silent = layer.nodata is None and not layer.masked and raster.driver == "GTiff"
    if silent and band != "SCL" and is_remote(href) and not _without_mask.get(place):
        mask = mask_beside(_address(href, count=False))
        if mask is None:
            _without_mask.put(place, True)
        else:
            layer = dataclasses.replace(layer, mask=stack.enter_context(mask))
    return layer


def _index(item: Any, band: str, fields: dict[str, Any], raster: rasterio.DatasetReader, place: str) -> int:
    """The index, from 1, of a band in an asset; by the names that the item or the file gives, if it holds several."""
    if raster.count == 1:
        return 1
    listed = fields.get("eo:bands") or fields.get("bands") or fields.get("raster:bands") or []
    known = [entry if isinstance(entry, dict) else {} for entry in listed]
    said = [str(entry.get("name") or entry.get("description") or "") for entry in known]
    common = [str(entry.get("common_name") or entry.get("eo:common_name") or "") for entry in known]
    for texts in (said, common, [text or "" for text in raster.descriptions]):
        if len(texts) == raster.count and any(texts):
            found = names_of(texts)
            if band in found:
                return found.index(band) + 1
    real = [index for index in raster.indexes if index != alpha_band(raster)]
    if len(real) == 1:
        return real[0]
    raise ItemError(
        f"{item.id}: {place} has {raster.count} bands, and neither it nor the item says which one is {band}; "
        "expected one band, or names in eo:bands: name other assets by --s2_assets or --s1_assets",
        "an asset has several bands",
    )


def _said(error: Exception, href: str) -> str:
    """What GDAL says, in one line, without the address, whose signature is secret."""
    cause = error.__context__ if isinstance(error, PixelsError) and error.__context__ else error
    text = re.sub(rf"(/vsicurl/)?{re.escape(href)}(#\d+)?", "", first_line(cause))
    return " ".join(text.split()).strip("'` :")


def _status(error: Exception, href: str, timeout_s: float) -> int | None:
    """HTTP status of a file that could not be read; 200 for one that the server gives, or that is local; None if there is no answer.

    GDAL tells it only of the first request for a file: a refused read looks to it like a broken file, so the server is asked.
    """
    told = re.search(r"HTTP response code: (\d+)", " ".join(map(str, causes(error))))
    if told and int(told[1]):
        return int(told[1])
    if not href.startswith(("http://", "https://")):
        return 200
    request = urllib.request.Request(href, headers={"Range": "bytes=0-15"})
    try:
        with hosts.urlopen(request, min(timeout_s, 20)) as answer:
            return answer.status
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code
    except (OSError, ValueError, http.client.HTTPException):
        return None


def _failure(item: Any, place: str, said: str, status: int | None, collection: Collection) -> ItemError | ArchiveError:
    what = "no answer" if status is None else f"HTTP {status}" if status >= 300 else said
    text = f"cannot read {place}: {what}"
    if status is None or status in (408, 425, 429) or status >= 500:
        # The next attempt finds out whether the server is busy, or has lost this file.
        if status == 429 or not _busy.get(place):
            _busy.put(place, True)
            return ArchiveError(text)
        return ItemError(f"{item.id}: {text}, again", "a file is not given")
    if status in REFUSED:
        hint = "its signature has expired or the archive needs an account (Planetary Computer: PC_SDK_SUBSCRIPTION_KEY)"
        if collection.signed:
            hint += ", also with a new signature"
        return ItemError(f"{item.id}: {text}; {hint}", REFUSED_KIND)
    missing = status in (404, 410) or "No such file" in said
    return ItemError(f"{item.id}: {text}", "a file is missing" if missing else "a file is broken")


def _signed_anew(href: str) -> str:
    """The address with a new signature; unchanged if it gets none."""
    import planetary_computer

    try:
        return planetary_computer.sign_url(href.partition("?")[0])
    except Exception:  # many types: no network, no answer, an unknown account; the refusal is told
        return href


def kind_of_note(note: str) -> tuple[str, str] | None:
    """The kind of reason of a line of `acquisitions.not_used`, and the scene; None for other lines."""
    found = re.match(r"not used \(([^)]*)\): (?:item )?([^\s:]+)", note)
    return (found[1], found[2]) if found else None
