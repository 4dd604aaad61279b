"""Reads xarray arrays as scenes: finds bands, place, nodata, scale and offset, by the same rules as for files.

Enters: `xarray.DataArray` or `Dataset` as rioxarray, stackstac or odc-stac give it. Leaves: a `Stored`: the stored numbers as
[band, y, x], possibly lazy, and how to turn them into digital numbers or dB.
"""

import dataclasses
from typing import Any

import numpy as np
import rasterio
import xarray as xr
from jaxtyping import Float32, Num, UInt16
from rasterio.errors import CRSError

from tfds_dwplus.imagery.decoder.backscatter import check_unit, decibels, quantity_named, without_border_noise
from tfds_dwplus.imagery.decoder.band_names import names_of
from tfds_dwplus.imagery.decoder.declared import Declared, of_array
from tfds_dwplus.imagery.decoder.reflectance import Decision, Linear, decide, numbers_of_bands
from tfds_dwplus.imagery.grids import Grid, parse_crs, warp
from tfds_dwplus.imagery.rasters import check_can_be_warped, sentinel1

UNEVEN = 0.05
"""Share of a pixel by which the distance of two neighbours on an axis may differ from the mean."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """The bands of one sensor as an array holds them, and how to decode them."""

    array: xr.DataArray
    """[band, y, x], only the bands that the network reads, in its order."""
    names: tuple[str, ...]
    declared: tuple[Declared, ...]
    grid: Grid

    @property
    def nodata(self) -> tuple[float | None, ...]:
        """The declared nodata value of each band."""
        return tuple(each.nodata for each in self.declared)

    @property
    def lazy(self) -> bool:
        """Whether the numbers are computed chunk by chunk."""
        return self.array.chunks is not None

    def samples(self) -> list[Num[np.ndarray, " pixels"]]:
        """Stored numbers of each band that have data, from all over the array. Of a lazy array nine small windows are computed."""
        _, height, width = self.array.shape
        if self.lazy:
            import dask

            rows, columns = (np.linspace(0, max(size - 32, 0), 3).astype(int) for size in (height, width))
            windows = [self.array.data[:, top : top + 32, left : left + 32] for top in rows for left in columns]
            parts = dask.compute(*windows)
            values = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        else:
            down, across = (max(size // 512, 1) for size in (height, width))
            values = self.array.values[:, ::down, ::across]
        chosen = []
        for band, fill in zip(values, self.nodata, strict=True):
            valid = np.isfinite(band) & (band != 0) & ((band != fill) if fill is not None else True)
            chosen.append(band[valid])
        return chosen


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How to decode the stored numbers of both sensors; sent to the workers of a cluster."""

    linear: tuple[Linear, ...]
    s2_nodata: tuple[float | None, ...]
    s1_names: tuple[str, ...]
    s1_nodata: tuple[float | None, ...]
    s1_unit: str
    s1_scales: tuple[tuple[float, float], ...]

    def sentinel2(self, stored: Num[np.ndarray, "band y x"]) -> UInt16[np.ndarray, "y x band"]:
        """Digital numbers, 0 where there is no data."""
        return numbers_of_bands(list(stored), self.s2_nodata, self.linear)

    def sentinel1(self, stored: Num[np.ndarray, "band y x"]) -> Float32[np.ndarray, "y x band"]:
        """Backscatter in dB, NaN where there is no data."""
        values = []
        for band, fill, (scale, offset) in zip(stored, self.s1_nodata, self.s1_scales, strict=True):
            valid = np.ones(band.shape, bool) if fill is None else band != fill
            values.append(decibels(band * np.float32(scale) + np.float32(offset), valid, self.s1_unit))
        return without_border_noise(self.s1_names, np.stack(values, axis=-1))


def stored(given: Any, names: tuple[str, ...], what: str) -> Stored:
    """Finds the bands `names` of an array.

    Args:
        given: a DataArray with band, y, x, or a Dataset with a variable [y, x] for each band; further axes have one entry.
        names: bands that the network reads, in its order.
        what: 's2' or 's1', for messages.

    Raises:
        ValueError: it is no xarray object, has other axes, lacks a band, or lies on uneven axes.
    """
    whole, attributes = _as_array(given, what)
    texts = _texts(whole)
    found = names_of(texts) if texts else []
    if len(found) != whole.sizes["band"] or not any(found):
        raise ValueError(
            f"{what} has {whole.sizes['band']} bands without names; name them: assign_coords(band=[{', '.join(map(repr, names))}])"
        )
    missing = [name for name in names if name not in found]
    if missing:
        known = ", ".join(name for name in found if name)
        raise ValueError(f"no band {', '.join(missing)} in {what}; found {known}, expected {', '.join(names)}")
    twice = [name for name in names if found.count(name) > 1]
    if twice:
        raise ValueError(f"band {', '.join(twice)} is in {what} twice; give each band once")
    places = [found.index(name) for name in names]
    declared = tuple(of_array(attributes[at], whole.encoding, _coordinates(whole, at), at) for at in places)
    if whole.dtype.kind in "iu":  # a fill value in the encoding of whole numbers was not applied
        kept = of_array(whole.encoding, {}, {}, 0).nodata
        declared = tuple(
            each if each.nodata is not None else dataclasses.replace(each, nodata=kept) for each in declared
        )
    return Stored(whole.isel(band=places), names, declared, _grid(whole, what))


def decided(s2: Stored, offset: int | None) -> Decision:
    """Decides scale and offset of Sentinel-2 over all bands."""
    kind = s2.array.dtype
    if kind.kind not in "iuf" or kind.itemsize < 2:
        raise ValueError(
            f"s2 is {kind}, expected uint16 digital numbers, reflectance x 10000, or reflectance as float32"
        )
    return decide(s2.names, s2.declared, s2.samples(), offset=offset, advice="give s2_offset=1000 or s2_offset=0")


def checked_scales(s1: Stored, unit: str) -> tuple[tuple[float, float], ...]:
    """Gives the declared scale and offset of each band. Raises a ValueError if the median of a band is not in the unit."""
    scales = tuple((each.scale or 1.0, each.offset or 0.0) for each in s1.declared)
    for name, sample, (scale, offset) in zip(s1.names, s1.samples(), scales, strict=True):
        check_unit(f"s1 {name}", sample * scale + offset, unit)
    return scales


def quantity(s1: Stored) -> str:
    """Whether backscatter is sigma0 or gamma0; "" if the array does not tell."""
    array = s1.array
    texts = [str(array.name), *map(str, array.coords["band"].values if "band" in array.coords else ())]
    return quantity_named([*texts, *(f"{key} {value}" for key, value in array.attrs.items())])


def on_grid(s1: Stored, unit: str, scales: tuple[tuple[float, float], ...], target: Grid) -> Stored | None:
    """Sentinel-1 on the grid of Sentinel-2, in dB if it had to be resampled; None if it is on it.

    Raises:
        ValueError: it cannot be placed on that grid, or is lazy and on another one.
    """
    here = s1.grid
    if here.same(target):
        return None
    unplaced = dataclasses.replace(here, crs=None), dataclasses.replace(target, crs=None)
    if not (here.placed and target.placed):
        nowhere = any(grid.transform.is_identity for grid in unplaced)
        if here.shape == target.shape and (nowhere or unplaced[0].same(unplaced[1])):
            return None
        if not nowhere:
            lost = " and ".join(name for name, grid in (("s1", here), ("s2", target)) if not grid.crs)
            raise ValueError(
                f"s1 and s2 have different x and y, and no CRS is known of {lost} to resample by; give one: rio.write_crs(...)"
            )
    check_can_be_warped("s1", here, target)
    if s1.lazy:
        raise ValueError(
            "s1 is chunked and on another grid than s2; warp it (odc-stac, rio.reproject_match) or compute() it"
        )
    warped = []
    for band, fill, (scale, offset) in zip(s1.array.values, s1.nodata, scales, strict=True):
        quantity = sentinel1(unit, None, scale, offset)
        valid = np.ones(band.shape, bool) if fill is None else band != fill
        linear = quantity.to_linear(quantity.values(band, valid, ()))
        warped.append(quantity.from_linear(warp(linear, here, target)))
    array = xr.DataArray(np.stack(warped), dims=("band", "y", "x"), coords={"band": s1.array.band.values})
    return Stored(array, s1.names, tuple(Declared() for _ in s1.names), target)


def _as_array(given: Any, what: str) -> tuple[xr.DataArray, list[dict[str, Any]]]:
    """Gives an array [band, y, x], and the attributes of each band."""
    if isinstance(given, xr.Dataset):
        chosen = {name: each for name, each in given.data_vars.items() if {"y", "x"} <= set(each.dims)}
        if not chosen:
            raise ValueError(f"{what} is a Dataset without a variable of y and x; expected one for each band")
        attributes = [dict(each.attrs) for each in chosen.values()]
        array = xr.Dataset(chosen, attrs=given.attrs).to_dataarray("band").assign_attrs(given.attrs)
        first = next(iter(chosen.values()))
        array.encoding = dict(first.encoding)
    elif isinstance(given, xr.DataArray):
        array = given
        attributes = [dict(given.attrs)] * given.sizes.get("band", 0)
    else:
        raise ValueError(f"{what} is a {type(given).__name__}, expected an xarray.DataArray with band, y, x")
    encoding = array.encoding
    array = array.squeeze([name for name in array.dims if name not in ("band", "y", "x") and array.sizes[name] == 1])
    if set(array.dims) != {"band", "y", "x"}:
        raise ValueError(
            f"{what} has dimensions {', '.join(map(str, array.dims))}, expected band, y, x; rename or select"
        )
    array = array.transpose("band", "y", "x")
    array.encoding = dict(encoding)
    return array, attributes


def _texts(array: xr.DataArray) -> list[str]:
    """The texts that name the bands: the coordinate `band`, or else the attribute `long_name`."""
    texts = [str(text) for text in (array.band.values if "band" in array.coords else ())]
    if not any(names_of(texts) if texts else ()):
        described = array.attrs.get("long_name", ())
        texts = [described] if isinstance(described, str) else [str(text) for text in described]
    return texts


def _coordinates(array: xr.DataArray, band: int) -> dict[str, Any]:
    """Values of the scalar coordinates, and of those along the bands, by name."""
    found = {}
    for name, coordinate in array.coords.items():
        if coordinate.ndim == 0 or coordinate.dims == ("band",):
            found[str(name)] = (coordinate if coordinate.ndim == 0 else coordinate[band]).values.item()
    return {name: value for name, value in found.items() if isinstance(value, str | int | float | bool)}


def _grid(array: xr.DataArray, what: str) -> Grid:
    """Finds the grid of an array: from its coordinates x and y (pixel centres), and its CRS."""
    _, height, width = array.shape
    crs = _crs(array, what)
    if not {"x", "y"} <= set(array.coords):
        return Grid(crs, rasterio.Affine.identity(), height, width)
    written = _written_transform(array)
    if min(height, width) < 2 and written is None:
        return Grid(crs, rasterio.Affine.identity(), height, width)
    steps = written.a if written else 0.0, written.e if written else 0.0
    x, dx = _axis(array.x.values, steps[0], f"{what}.x")
    y, dy = _axis(array.y.values, steps[1], f"{what}.y")
    return Grid(crs, rasterio.Affine(dx, 0.0, x - dx / 2, 0.0, dy, y - dy / 2), height, width)


def _axis(centres: np.ndarray, step: float, what: str) -> tuple[float, float]:
    """The first centre of an axis, and its step; `step` is used for an axis of one pixel."""
    centres = np.asarray(centres, np.float64)
    if centres.size < 2:
        return float(centres[0]), step
    mean = (centres[-1] - centres[0]) / (centres.size - 1)
    worst = np.abs(np.diff(centres) - mean).max()
    if not worst <= UNEVEN * abs(mean) or not mean:
        raise ValueError(
            f"{what} is uneven: its steps are from {np.diff(centres).min():g} to {np.diff(centres).max():g}; expected equal steps, "
            "so fill the gaps (reindex) or give a part without them"
        )
    return float(centres[0]), float(mean)


def _written_transform(array: xr.DataArray) -> rasterio.Affine | None:
    """The transform that rioxarray keeps in the attributes of the CRS coordinate."""
    for coordinate in array.coords.values():
        text = coordinate.attrs.get("GeoTransform")
        if text:
            return rasterio.Affine.from_gdal(*map(float, str(text).split()))
    return None


def _crs(array: xr.DataArray, what: str) -> rasterio.CRS | None:
    """Finds the CRS: in the coordinate of rioxarray or CF, as `epsg` or `proj:...` of stackstac, or in the attributes."""
    known = [c.attrs.get("crs_wkt") or c.attrs.get("spatial_ref") for c in array.coords.values()]
    scalars = _coordinates(array, 0)
    for place in (scalars, array.attrs):
        for name in ("proj:code", "proj:epsg", "epsg", "crs", "crs_wkt", "spatial_ref", "proj:wkt2"):
            known.append(place.get(name) if not (name == "spatial_ref" and place.get(name) == 0) else None)
    text = next((text for text in known if text not in (None, "")), None)
    if text is None:
        return None
    try:
        if str(text).isdigit():
            return rasterio.CRS.from_epsg(int(text))
        return parse_crs(text) if isinstance(text, str) else rasterio.CRS.from_user_input(text)
    except (CRSError, ValueError, TypeError):
        raise ValueError(f"{what} has the CRS {str(text)[:60]!r}, which is none; give an EPSG code or WKT") from None
