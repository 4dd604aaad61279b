"""Maps xarray data by a Python call.

    network = specsar_jax.load("runs/quickstart")
    scene = network.predict(s2, s1)            # xarray.Dataset with `label` and `probability`
    scene.label.rio.to_raster("map.tif")       # with rioxarray

Enters: `xarray.DataArray` with dimensions band, y, x, as `rioxarray.open_rasterio` or odc-stac return it: Sentinel-2 as digital
numbers, Sentinel-1 in dB or another given unit. Leaves: a Dataset on the grid of Sentinel-2, with its coordinates and CRS. With
chunked (dask) input the result is lazy, one task per chunk. A task reads all windows that its pixels lie in, so there are no seams
between chunks.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray as xr
from jaxtyping import Bool, Float32, Shaped

from specsar_jax.maps import windows
from specsar_jax.maps.mapping import Probabilities, make_probabilities, map_pixels
from specsar_jax.trained.loading import load_trained
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands
from tfds_dwplus.imagery.grids import Grid, warp
from tfds_dwplus.imagery.rasters import (
    S1_UNITS,
    Quantity,
    check_backscatter,
    check_can_be_warped,
    check_unit,
    sentinel1,
    sentinel2,
)
from tfds_dwplus.imagery.scene_files import band_name


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network that maps arrays. It can be pickled, for the workers of a cluster."""

    trained: Trained

    def predict(
        self,
        s2: xr.DataArray | None = None,
        s1: xr.DataArray | None = None,
        *,
        s2_offset: int = 0,
        s1_unit: str = "db",
        overlap: float | None = None,
    ) -> xr.Dataset:
        """Maps the land cover of a scene.

        Args:
            s2: [band, y, x], digital numbers (reflectance x 10000); 0, 65535, NaN and `_FillValue` are nodata. The coordinate
                `band` or the attribute `long_name` names the bands.
            s1: [band, y, x], backscatter; 0, -9999, NaN and `_FillValue` are nodata. Resampled if it has another grid or CRS.
            s2_offset: digital numbers to subtract: 1000 for processing baseline 04.00 and later, unless already subtracted.
            s1_unit: unit of `s1`, one of `rasters.S1_UNITS`.
            overlap: share of a window that it has in common with the next, 0 to 0.75; if not given, as in the run's config.

        Returns:
            `label` [y, x], uint8, 255 where there is no data; `probability` [class, y, x], float32, NaN where there is no data.

        Raises:
            ValueError: the network cannot use the arrays, bands, units or grids; the message says what it needs.
        """
        if s1_unit not in S1_UNITS:
            raise ValueError(f"s1_unit is {s1_unit!r}, expected one of {', '.join(S1_UNITS)}")
        sensors = self.trained.config.model.sensors
        for name, given in (("s2", s2), ("s1", s1)):
            if name in sensors and given is None:
                raise ValueError(f"the network reads {' and '.join(sensors)}, but {name} is not given")
        s2 = _chosen(s2, self.trained.statistics.s2.bands, "s2") if "s2" in sensors else None
        s1 = _chosen(s1, self.trained.statistics.s1.bands, "s1") if "s1" in sensors else None
        if s2 is not None and s1 is not None:
            s1, s1_unit = _on_grid(s1, s2, s1_unit)
        like = s1 if s2 is None else s2
        overlap = self.trained.config.predict.overlap if overlap is None else overlap
        grid = _grid(like)
        rows, columns = (
            windows.plan(size, self.trained.config.data.crop_px, overlap, first)
            for size, first in zip(grid.shape, grid.first_pixel, strict=True)
        )
        work = functools.partial(
            _probabilities,
            s2_quantity=sentinel2(s2_offset),
            s1_unit=s1_unit,
            s2_fill=_fill(s2),
            s1_fill=_fill(s1),
        )
        values = [None if array is None else array.data for array in (s2, s1)]
        if like.chunks is None and (s1 is None or s1.chunks is None):
            whole = slice(0, rows.size), slice(0, columns.size)
            probability = work(self, *values, rows, columns, *whole)
        else:
            probability = _lazily(self, work, values, rows, columns, like)
        return _dataset(probability, like)

    @functools.cached_property
    def compiled(self) -> Probabilities:
        """Returns the network as a compiled function of batches of physical values."""
        return make_probabilities(self.trained)

    def __getstate__(self) -> dict[str, Any]:
        return {"trained": self.trained}  # the compiled program is not pickled


def load(workdir_or_bundle: str | Path, checkpoint: str = "best") -> Network:
    """Loads a trained network from an exported bundle or from the 'best' or 'latest' checkpoint of a workdir.

    Raises:
        ValueError: the path is neither a bundle nor a workdir, or there is no checkpoint yet.
    """
    if checkpoint not in ("best", "latest"):
        raise ValueError(f"checkpoint is {checkpoint!r}, expected 'best' or 'latest'")
    return Network(load_trained(Path(workdir_or_bundle), checkpoint))


def _probabilities(
    network: Network,
    s2: np.ndarray | None,
    s1: np.ndarray | None,
    rows: windows.Axis,
    columns: windows.Axis,
    inner_rows: slice,
    inner_columns: slice,
    *,
    s2_quantity: Quantity,
    s1_unit: str,
    s2_fill: float | None,
    s1_fill: float | None,
) -> Float32[np.ndarray, "class y x"]:
    """Computes class probabilities of the inner part of arrays of stored values that hold all windows which touch this part."""
    nothing = np.empty((rows.size, columns.size, 0))
    dn, decibel = nothing.astype(np.uint16), nothing.astype(np.float32)
    if s2 is not None:
        if s2.dtype.kind == "f" and np.nanmax(s2, initial=0.0) <= 2.0 and (np.nan_to_num(s2) > 0).any():
            raise ValueError(
                f"s2 holds values up to {np.nanmax(s2):g}, which is reflectance; expected digital numbers, "
                "reflectance x 10000: multiply by 10000"
            )
        dn = np.moveaxis(s2_quantity.values(s2, _is_valid(s2, s2_fill)), 0, -1)
    if s1 is not None:
        for name, band in zip(network.trained.statistics.s1.bands, s1, strict=True):
            check_unit(f"s1 {name}", sentinel1("db").values(band, _is_valid(band, s1_fill)), s1_unit)
        decibel = np.moveaxis(sentinel1(s1_unit).values(s1, _is_valid(s1, s1_fill)), 0, -1)
        check_backscatter("s1", decibel)
    config = network.trained.config
    whole = map_pixels(network.compiled, dn, decibel, rows, columns, config.model.sensors, config.predict.window_px)
    return np.moveaxis(whole[inner_rows, inner_columns], -1, 0)


def _lazily(
    network: Network,
    work: functools.partial,
    values: list[Any],
    rows: windows.Axis,
    columns: windows.Axis,
    like: xr.DataArray,
) -> Any:
    """Returns the probabilities as a dask array with the chunks of the input."""
    import dask
    import dask.array as da

    sent = dask.delayed(network, traverse=False)  # sent once, not with each task
    task = dask.delayed(work, traverse=False)
    chunked = like.chunks or ((rows.size,), (columns.size,))
    edges = [np.cumsum([0, *chunks]).tolist() for chunks in chunked[-2:]]
    blocks = []
    for top, bottom in zip(edges[0], edges[0][1:], strict=False):
        blocks.append([])
        for left, right in zip(edges[1], edges[1][1:], strict=False):
            (down, first_row), (across, first_column) = _within(rows, top, bottom), _within(columns, left, right)
            here = slice(first_row, first_row + down.size), slice(first_column, first_column + across.size)
            part = [None if array is None else array[:, *here] for array in values]
            inner = slice(top - first_row, bottom - first_row), slice(left - first_column, right - first_column)
            shape = (len(bands.CLASSES), bottom - top, right - left)
            blocks[-1].append(da.from_delayed(task(sent, *part, down, across, *inner), shape, np.float32))
    return da.block([blocks])


def _within(axis: windows.Axis, start: int, stop: int) -> tuple[windows.Axis, int]:
    """Returns the windows of an axis that touch pixels `start` to `stop`, as an axis of their own, and its first pixel.

    Of the windows [0, 512)  [384, 896)  [588, 1100), the last two touch pixels 700 to 810: an axis from 384 with starts 0, 204.
    """
    starts = [at for at in axis.starts if at < stop and at + axis.window > start]
    end = min(starts[-1] + axis.window, axis.size)
    moved = tuple(at - starts[0] for at in starts)
    return windows.Axis(end - starts[0], axis.window, axis.overlap, moved), starts[0]


def _chosen(array: xr.DataArray, names: tuple[str, ...], what: str) -> xr.DataArray:
    """Selects the bands `names` of an array, in that order, as [band, y, x]."""
    if set(array.dims) != {"band", "y", "x"}:
        raise ValueError(
            f"{what} has dimensions {', '.join(map(str, array.dims))}, expected band, y, x; rename or select"
        )
    array = array.transpose("band", "y", "x")
    given = [band_name(str(text)) for text in (array.band.values if "band" in array.coords else ())]
    if not any(given):
        described = array.attrs.get("long_name", ())
        given = [band_name(str(text)) for text in ([described] if isinstance(described, str) else described)]
    if len(given) != array.sizes["band"] or not any(given):
        raise ValueError(
            f"{what} has {array.sizes['band']} bands without names; name them: assign_coords(band=[{', '.join(map(repr, names))}])"
        )
    missing = [name for name in names if name not in given]
    if missing:
        found = ", ".join(name for name in given if name)
        raise ValueError(f"no band {', '.join(missing)} in {what}; found {found}, expected {', '.join(names)}")
    twice = [name for name in names if given.count(name) > 1]
    if twice:
        raise ValueError(f"band {', '.join(twice)} is in {what} twice")
    places = [given.index(name) for name in names]
    return array.isel(band=places)


def _on_grid(s1: xr.DataArray, s2: xr.DataArray, unit: str) -> tuple[xr.DataArray, str]:
    """Returns Sentinel-1 on the grid of Sentinel-2, and its unit, which is dB if it had to be resampled."""
    here, there = _grid(s1), _grid(s2)
    if here.same(there) or (here.shape == there.shape and not (here.placed and there.placed)):
        return s1, unit
    check_can_be_warped("s1", here, there)
    if s1.chunks is not None:
        raise ValueError(
            "s1 is chunked and on another grid than s2; warp it (odc-stac, rio.reproject_match) or compute() it"
        )
    quantity = sentinel1(unit)
    warped = []
    for name, band in zip(s1.band.values, s1.values, strict=True):
        valid = _is_valid(band, _fill(s1))
        check_unit(f"s1 {name}", sentinel1("db").values(band, valid), unit)
        linear = quantity.to_linear(quantity.values(band, valid))
        warped.append(quantity.from_linear(warp(linear, here, there)))
    return xr.DataArray(np.stack(warped), dims=("band", "y", "x"), coords={"band": s1.band.values}), "db"


def _grid(array: xr.DataArray) -> Grid:
    """Returns the grid of an array, from its coordinates x and y (pixel centres) and the CRS coordinate of rioxarray or CF."""
    _, height, width = array.shape
    wkt = next(
        (text for c in array.coords.values() if (text := c.attrs.get("crs_wkt") or c.attrs.get("spatial_ref"))), None
    )
    crs = rasterio.CRS.from_wkt(wkt) if wkt else None
    if not {"x", "y"} <= set(array.coords) or min(height, width) < 2:
        return Grid(crs, rasterio.Affine.identity(), height, width)
    (x, dx), (y, dy) = (
        (float(axis[0]), float(axis[-1] - axis[0]) / (axis.size - 1)) for axis in (array.x.values, array.y.values)
    )
    return Grid(crs, rasterio.Affine(dx, 0.0, x - dx / 2, 0.0, dy, y - dy / 2), height, width)


def _fill(array: xr.DataArray | None) -> float | None:
    fill = None if array is None else array.attrs.get("_FillValue", array.attrs.get("nodata"))
    return None if fill is None else float(fill)


def _is_valid(stored: Shaped[np.ndarray, "*shape"], fill: float | None) -> Bool[np.ndarray, "*shape"]:
    return np.ones(stored.shape, bool) if fill is None else stored != fill


def _dataset(probability: Any, like: xr.DataArray) -> xr.Dataset:
    """Builds the dataset of label and probability, with the coordinates of the scene."""
    coords = {name: c for name, c in like.coords.items() if "band" not in c.dims and name != "band"}
    known = xr.DataArray(probability, dims=("class", "y", "x"), coords={**coords, "class": list(bands.CLASSES)})
    label = (
        known.copy(data=known.data)
        .argmax("class", skipna=False)
        .where(known.isel({"class": 0}).notnull(), bands.IGNORE)
    )
    label = label.astype(np.uint8).drop_vars("class", errors="ignore")
    label.attrs = {
        "long_name": "land cover",
        "flag_values": np.arange(len(bands.CLASSES), dtype=np.uint8),
        "flag_meanings": " ".join(bands.CLASSES),
        "_FillValue": np.uint8(bands.IGNORE),
    }
    known.attrs = {"long_name": "probability of the class"}
    mapping = like.encoding.get("grid_mapping") or like.attrs.get("grid_mapping")
    for array in (label, known):
        array.encoding |= {"grid_mapping": mapping} if mapping else {}
    return xr.Dataset({"label": label, "probability": known})
