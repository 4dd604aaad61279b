"""Read the pixels of STAC items on a grid: digital numbers of a Sentinel-2 acquisition, mean backscatter of Sentinel-1.

Enters: items, with the hrefs of their assets. Leaves: pixels on a 10 m grid, bilinear: Sentinel-2 as digital numbers
(reflectance x 10000), Sentinel-1 as dB, and lines that tell what was left out or decided.

Scale and offset of a Sentinel-2 scene are decided once for the scene, from a sample of all of it: were they decided for the
window that is read, the blocks of a region could differ. A scene that cannot be read costs that scene alone.
"""

import dataclasses
from collections.abc import MutableMapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt16

from tfds_dwplus import bands
from tfds_dwplus.imagery.acquisitions import ItemError, Wanted, not_used
from tfds_dwplus.imagery.decoder import backscatter, reflectance
from tfds_dwplus.imagery.decoder.reflectance import Decision, OffsetError
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.items.stac_assets import Remembered, with_layers
from tfds_dwplus.imagery.rasters import Counted, Layer, Quantity, Sensor, sentinel1, sentinel2
from tfds_dwplus.imagery.stac_api import Collection, StacArchive

S1 = tuple[Float32[np.ndarray, "height width 2"], dict[str, int]]


@dataclasses.dataclass(frozen=True)
class ReadScene:
    """One acquisition of Sentinel-2 on a grid."""

    s2: UInt16[np.ndarray, "height width s2_band"]
    """Digital numbers; a pixel has data in all bands, or is 0 in all."""
    offset: str
    """What was subtracted from the digital numbers, "1000" or "0", and the scale if it is not 0.0001: "1000 scale 2e-05"."""
    notes: tuple[str, ...]
    """Warnings, one line each, that name the item."""
    items: tuple[Any, ...]
    """Items that gave a pixel."""


def read_sentinel2(items: Sequence[Any], grid: Grid, wanted: Wanted, archive: StacArchive) -> ReadScene:
    """Reads one acquisition, of which items may hold parts. The first item that has a pixel gives it.

    Args:
        items: the parts, the best first. No more of them are read than the grid needs.
        grid: the target.
        wanted: bands and offset.
        archive: where the items come from.

    Raises:
        ItemError: no part can be read; of one that cannot while others can, a note tells.
        ArchiveError: the server does not answer, or is busy.
    """
    s2 = np.zeros((*grid.shape, len(wanted.s2_bands)), np.uint16)
    notes, used, offsets = [], [], []
    failed: list[ItemError] = []
    for item in items:
        missing = s2[..., 0] == bands.S2_NODATA
        if not missing.any():
            break
        try:
            numbers, decision = _scene(item, grid, wanted, archive)
        except ItemError as error:
            failed.append(error)
            continue
        notes += [f"{item.id}: {note}" for note in decision.notes]
        taken = missing & (numbers != bands.S2_NODATA).all(axis=-1)
        if taken.any():
            s2[taken] = numbers[taken]
            used.append(item)
            offsets.append(_told(decision))
    if failed and not used:
        raise failed[0]
    notes += map(not_used, failed)
    return ReadScene(s2, "; ".join(dict.fromkeys(offsets)), tuple(notes), tuple(used))


def scene_classes(item: Any, grid: Grid, archive: StacArchive) -> Float32[np.ndarray, "height width"]:
    """Reads the scene classification (SCL) of a Sentinel-2 scene on a grid, nearest neighbour; NaN where it has no data.

    Raises:
        ItemError: the item has none, or it cannot be read.
        ArchiveError: the server does not answer, or is busy.
    """
    whole = slice(0, grid.height), slice(0, grid.width)
    classes = with_layers(item, ("SCL",), archive.s2, archive.timeout_s, lambda layers: layers[0].read(grid, *whole)[0])
    return np.where(classes == 0, np.nan, classes).astype(np.float32)


def mean_backscatter(
    passes: Sequence[tuple[str, list[Any]]],
    grid: Grid,
    wanted: Wanted,
    archive: StacArchive,
    pixels: MutableMapping[str, int] | None = None,
) -> tuple[Float32[np.ndarray, "height width 2"], list[tuple[str, list[Any]]], tuple[str, ...]]:
    """Averages Sentinel-1 passes on a grid.

    Args:
        passes: date and slices of each pass.
        grid: the target.
        wanted: how to average.
        archive: where the items come from, and the unit of their backscatter.
        pixels: takes the number of pixels that are no backscatter, by reason. If it is not given, notes tell it.

    Returns:
        The mean in dB, NaN where there is no data; the passes that gave a pixel; warnings, one line each.

    Raises:
        ItemError: items cannot be read, or are in another unit, and no other one gives a pixel.
        ArchiveError: the server does not answer, or is busy.
    """
    total = np.zeros((*grid.shape, len(bands.S1_BANDS)))
    count = np.zeros(total.shape, np.int64)
    counted: dict[str, int] = {}
    used, failed = [], []
    for date, slices in passes:
        decibel = np.full(total.shape, np.nan, np.float32)
        given = []
        for item in slices:
            if not np.isnan(decibel).any():
                break
            try:
                more, odd = _slice(item, grid, archive)
            except ItemError as error:
                failed.append(error)
                continue
            for reason, number in odd.items():
                counted[reason] = counted.get(reason, 0) + number
            taken = np.isnan(decibel) & ~np.isnan(more)
            if taken.any():
                decibel[taken] = more[taken]
                given.append(item)
        if given:
            used.append((date, given))
            valid = ~np.isnan(decibel)
            values = decibel if wanted.s1_mean == "dB" else 10 ** (decibel.astype(np.float64) / 10)
            total += np.where(valid, values, 0.0)
            count += valid
    if failed and not used:
        more = f" (and {len(failed) - 1} other scenes cannot be used)" if failed[1:] else ""
        raise ItemError(f"{failed[0]}{more}", failed[0].kind)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / count
        mean = mean if wanted.s1_mean == "dB" else 10 * np.log10(mean)
    if pixels is not None:
        for reason, number in counted.items():
            pixels[reason] = pixels.get(reason, 0) + number
        counted = {}
    return mean.astype(np.float32), used, (*map(not_used, failed), *backscatter.told(counted))


_decisions = Remembered(2048)


def _scene(item: Any, grid: Grid, wanted: Wanted, archive: StacArchive) -> tuple[np.ndarray, Decision]:
    """Digital numbers of one item on a grid, and how its stored numbers were read."""
    settings = wanted.s2_bands, wanted.s2_offset, wanted.s2_offset_in_doubt
    key = (_place(archive.s2), item.id, *settings)

    def read(layers: list[Layer]) -> tuple[np.ndarray, Decision]:
        decision = _decisions.get(key)
        if decision is None:
            samples = [layer.sample if _is_open(layer, wanted) else np.empty(0, np.uint16) for layer in layers]
            decision = _decision(item, layers, samples, wanted)
            _decisions.put(key, decision)
        layers = [
            dataclasses.replace(layer, quantity=sentinel2(linear))
            for layer, linear in zip(layers, decision.linear, strict=True)
        ]
        sensor = Sensor(layers, wanted.s2_bands)
        return sensor.read(grid, slice(0, grid.height), slice(0, grid.width)), decision

    return with_layers(item, wanted.s2_bands, archive.s2, archive.timeout_s, read)


def _is_open(layer: Layer, wanted: Wanted) -> bool:
    """Whether scale and offset of a band are not settled by what is declared, so that its pixels must be looked at."""
    known = layer.declared
    if np.dtype(layer.raster.dtypes[layer.index - 1]).kind == "f" or (known.scale or 1) not in (1, 0.0001):
        return True
    if wanted.s2_offset is not None or known.offset_applied:
        return False
    said = known.offset, known.offset_applied, known.baseline
    nothing_added = not known.offset and known.offset_applied is None and (known.baseline or 0) < 4
    return said == (None, None, None) or not nothing_added


def _decision(item: Any, layers: list[Layer], samples: list[np.ndarray], wanted: Wanted) -> Decision:
    try:
        return reflectance.decide(
            wanted.s2_bands,
            [layer.declared for layer in layers],
            samples,
            offset=wanted.s2_offset,
            in_doubt=wanted.s2_offset_in_doubt,
            advice=f"say --s2_offset_in_doubt 0 or --s2_offset_in_doubt {bands.OFFSET_DN}",
        )
    except OffsetError as error:
        raise ItemError(f"{item.id}: {error}", "its offset is in doubt") from None
    except ValueError as error:
        raise ItemError(f"{item.id}: {error}", "its numbers are no reflectance") from None


def _told(decision: Decision) -> str:
    tags = decision.tags
    return tags["s2_offset"] + ("" if tags["s2_scale"] == "0.0001" else f" scale {tags['s2_scale']}")


_units = Remembered(8192)


def _slice(item: Any, grid: Grid, archive: StacArchive) -> S1:
    """Backscatter of one item on a grid in dB, and the number of pixels that are none, by reason."""
    dropped: dict[str, int] = {}

    def read(layers: list[Layer]) -> S1:
        stored: list[list[np.ndarray]] = [[] for _ in layers]
        kept = [
            dataclasses.replace(layer, quantity=_kept(_quantity(layer, archive.s1_unit, dropped), into))
            for layer, into in zip(layers, stored, strict=True)
        ]
        dropped.clear()  # of an attempt that failed
        sensor = Sensor(kept, bands.S1_BANDS, dropped)
        decibel = sensor.read(grid, slice(0, grid.height), slice(0, grid.width))
        for layer, parts in zip(layers, stored, strict=True):
            if parts:
                _check_unit(item, layer, np.concatenate(parts), archive)
        return decibel, dropped

    return with_layers(item, bands.S1_BANDS, archive.s1, archive.timeout_s, read)


def _quantity(layer: Layer, unit: str, dropped: dict[str, int]) -> Quantity:
    return sentinel1(unit, dropped, layer.declared.scale or 1.0, layer.declared.offset or 0.0)


def _kept(quantity: Quantity, into: list[np.ndarray]) -> Quantity:
    """The same quantity, which keeps the stored numbers that it converts."""

    def values(stored: np.ndarray, valid: np.ndarray, counted: Counted) -> np.ndarray:
        into.append(stored[valid])
        return quantity.values(stored, valid, counted)

    return dataclasses.replace(quantity, values=values)


def _check_unit(item: Any, layer: Layer, stored: np.ndarray, archive: StacArchive) -> None:
    """Raises an ItemError if a scene is in another unit: one whose window looks odd, or is small, by a sample of all of it."""
    scale, offset = layer.declared.scale or 1.0, layer.declared.offset or 0.0

    def wrong(numbers: np.ndarray) -> str:
        try:
            backscatter.check_unit(item.id, numbers * scale + offset, archive.s1_unit)
        except ValueError as error:
            return str(error)
        return ""

    if not stored.size or (stored.size >= 1000 and not wrong(stored)):
        return
    key = _place(archive.s1), item.id, layer.address, archive.s1_unit
    said = _units.get(key)
    if said is None:
        said = wrong(layer.sample)
        _units.put(key, said)
    if said:
        raise ItemError(said, "another unit")


def _place(collection: Collection) -> tuple[str, str, tuple]:
    return collection.url, collection.name, collection.assets
