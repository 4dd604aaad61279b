"""Maps xarray data by a Python call.

    network = specsar_jax.load("runs/quickstart")
    scene = network.predict(s2, s1)            # xarray.Dataset with `label` and `probability`, and `sensors_seen` if wanted
    scene.label.rio.to_raster("map.tif")       # with rioxarray

Enters: `xarray.DataArray` with dimensions band, y, x, as `rioxarray.open_rasterio`, stackstac or odc-stac return it. What its numbers
mean is read in `array_scenes`, by the same rules as for files. Leaves: a Dataset on the grid of Sentinel-2, with its coordinates and CRS. With
chunked (dask) input the result is lazy, one task per chunk. A task reads all windows that its pixels lie in, so there are no seams
between chunks.
"""

import dataclasses
import functools
import itertools
import warnings
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float32, UInt8, UInt16

from specsar_jax.maps import array_scenes, windows
from specsar_jax.maps.array_scenes import Decoding, Stored
from specsar_jax.maps.loaded import Network
from specsar_jax.maps.mapping import map_pixels
from specsar_jax.network import model
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands
from tfds_dwplus.imagery.decoder.backscatter import UNITS, other_quantity
from tfds_dwplus.imagery.decoder.reflectance import Linear


def predict(
    network: Network,
    s2: xr.DataArray | xr.Dataset | None,
    s1: xr.DataArray | xr.Dataset | None,
    *,
    s2_offset: int | None,
    s1_unit: str,
    overlap: float | None,
    sensors_seen: bool,
) -> xr.Dataset:
    """As `Network.predict`, which is the only one to call it: warnings name the line that called that."""
    trained = network.trained
    if s1_unit not in UNITS:
        raise ValueError(f"s1_unit is {s1_unit!r}, expected one of {', '.join(UNITS)}")
    given = {
        sensor: array
        for sensor, array in (("s2", s2), ("s1", s1))
        if array is not None and sensor in trained.config.model.sensors
    }
    for sensor in ("s2", "s1"):
        trained.check_sensor(sensor, given, f"{sensor} is not given")
    optical = array_scenes.stored(s2, trained.statistics.s2.bands, "s2") if "s2" in given else None
    radar = array_scenes.stored(s1, trained.statistics.s1.bands, "s1") if "s1" in given else None
    like = optical or radar
    decoding, radar, tags = _decoding(trained, optical, radar, s2_offset, s1_unit)
    overlap = trained.config.predict.overlap if overlap is None else overlap
    rows, columns = (
        windows.plan(
            size,
            trained.config.data.crop_px,
            overlap,
            first,
            **model.stride_and_margin(trained.config.model),
        )
        for size, first in zip(like.grid.shape, like.grid.first_pixel, strict=True)
    )
    work = functools.partial(_probabilities, decoding=decoding)
    by = functools.partial(_seen, decoding=decoding)
    values = [None if each is None else each.array.data for each in (optical, radar)]
    if not like.lazy and not (radar and radar.lazy):
        whole = slice(0, rows.size), slice(0, columns.size)
        probability = work(network, *values, rows, columns, *whole)
        seen = by(network, *values) if sensors_seen else None
    else:
        probability = _lazily(network, work, values, rows, columns, like.array)
        seen = _seen_lazily(network, by, values, probability) if sensors_seen else None
    return _dataset(probability, seen, like, trained.classes, tags | trained.provenance())


def _decoding(
    trained: Trained, optical: Stored | None, radar: Stored | None, s2_offset: int | None, s1_unit: str
) -> tuple[Decoding, Stored | None, dict[str, str]]:
    """Decides how to decode a scene; also gives Sentinel-1 on the grid of Sentinel-2, and what was decided."""
    linear: tuple[Linear, ...] = ()
    tags: dict[str, str] = {}
    scales: tuple[tuple[float, float], ...] = ()
    if optical:
        decision = array_scenes.decided(optical, s2_offset)
        linear, tags = decision.linear, decision.tags
        for note in decision.notes:
            warnings.warn(note, stacklevel=4)
    if radar:
        scales = array_scenes.checked_scales(radar, s1_unit)
        if other := other_quantity(array_scenes.quantity(radar), trained.statistics.s1.unit):
            warnings.warn(other, stacklevel=4)
        if optical and (warped := array_scenes.on_grid(radar, s1_unit, scales, optical.grid)):
            radar, s1_unit, scales = warped, "db", ((1.0, 0.0),) * len(scales)
    decoding = Decoding(
        linear,
        optical.nodata if optical else (),
        radar.names if radar else (),
        radar.nodata if radar else (),
        s1_unit,
        scales,
    )
    return decoding, radar, tags


def _probabilities(
    network: Network,
    s2: np.ndarray | None,
    s1: np.ndarray | None,
    rows: windows.Axis,
    columns: windows.Axis,
    inner_rows: slice,
    inner_columns: slice,
    *,
    decoding: Decoding,
) -> Float32[np.ndarray, "class y x"]:
    """Computes class probabilities of the inner part of arrays of stored values that hold all windows which touch this part."""
    trained = network.trained
    whole = map_pixels(
        network.compiled,
        *_decoded(trained, s2, s1, decoding),
        rows,
        columns,
        trained.config.predict.window_px,
        trained.classes,
    )
    return np.moveaxis(whole[inner_rows, inner_columns], -1, 0)


def _seen(
    network: Network, s2: np.ndarray | None, s1: np.ndarray | None, *, decoding: Decoding
) -> UInt8[np.ndarray, "y x"]:
    """Tells by which sensors the pixels of arrays of stored values were seen, 255 for none."""
    *_, seen = _decoded(network.trained, s2, s1, decoding)
    return np.where(seen, seen, np.uint8(bands.IGNORE))


def _decoded(
    trained: Trained, s2: np.ndarray | None, s1: np.ndarray | None, decoding: Decoding
) -> tuple[UInt16[np.ndarray, "y x s2_band"], Float32[np.ndarray, "y x s1_band"], UInt8[np.ndarray, "y x"]]:
    """Decodes stored values to digital numbers and dB, without data of a sensor that is not given, and `bands.seen_pixels` of them."""
    nothing = np.empty((*(s1 if s2 is None else s2).shape[1:], 0))
    dn = nothing.astype(np.uint16) if s2 is None else decoding.sentinel2(s2)
    decibel = nothing.astype(np.float32) if s1 is None else decoding.sentinel1(s1)
    dn, decibel = trained.with_missing(dn, decibel)
    return dn, decibel, bands.seen_pixels(dn, decibel, trained.config.model.sensors, trained.config.may_miss)


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
            shape = (len(network.trained.classes), bottom - top, right - left)
            blocks[-1].append(da.from_delayed(task(network.sent, *part, down, across, *inner), shape, np.float32))
    return da.block([blocks])


def _seen_lazily(network: Network, work: functools.partial, values: list[Any], like: Any) -> Any:
    """Returns what `_seen` gives as a dask array with the chunks of the probabilities; the network is not computed for it."""
    import dask
    import dask.array as da

    task = dask.delayed(work, traverse=False)
    edges = [np.cumsum([0, *chunks]).tolist() for chunks in like.chunks[-2:]]
    blocks = []
    for top, bottom in itertools.pairwise(edges[0]):
        blocks.append([])
        for left, right in itertools.pairwise(edges[1]):
            part = [None if array is None else array[:, top:bottom, left:right] for array in values]
            blocks[-1].append(da.from_delayed(task(network.sent, *part), (bottom - top, right - left), np.uint8))
    return da.block(blocks)


def _within(axis: windows.Axis, start: int, stop: int) -> tuple[windows.Axis, int]:
    """Returns the windows of an axis that touch pixels `start` to `stop`, as an axis of their own, and its first pixel.

    Of the windows [0, 512)  [384, 896)  [588, 1100), the last two touch pixels 700 to 810: an axis from 384 with starts 0, 204.
    """
    starts = [at for at in axis.starts if at < stop and at + axis.window > start]
    end = min(starts[-1] + axis.window, axis.size)
    moved = tuple(at - starts[0] for at in starts)
    return dataclasses.replace(axis, size=end - starts[0], starts=moved), starts[0]


def _dataset(probability: Any, seen: Any, scene: Stored, classes: bands.Classes, tags: dict[str, str]) -> xr.Dataset:
    """Builds the dataset of label and probability, and of the sensors seen if they are given, with the coordinates of the scene."""
    like = scene.array
    coords = {name: c for name, c in like.coords.items() if "band" not in c.dims and name != "band"}
    if scene.grid.crs and not any("crs_wkt" in c.attrs or "spatial_ref" in c.attrs for c in coords.values()):
        wkt = scene.grid.crs.to_wkt()  # in the form that rioxarray reads; stackstac has another
        coords["spatial_ref"] = xr.DataArray(0, attrs={"crs_wkt": wkt, "spatial_ref": wkt})
    known = xr.DataArray(probability, dims=("class", "y", "x"), coords={**coords, "class": list(classes.names)})
    label = (
        known.copy(data=known.data)
        .argmax("class", skipna=False)
        .where(known.isel({"class": 0}).notnull(), bands.IGNORE)
    )
    label = label.astype(np.uint8).drop_vars("class", errors="ignore")
    label.attrs = {
        "long_name": "land cover",
        "flag_values": np.arange(len(classes), dtype=np.uint8),
        "flag_meanings": " ".join(classes.words()),
        "_FillValue": np.uint8(bands.IGNORE),
    }
    known.attrs = {"long_name": "probability of the class"}
    mapping = like.encoding.get("grid_mapping") or like.attrs.get("grid_mapping")
    made = {"label": label, "probability": known}
    if seen is not None:
        made["sensors_seen"] = label.copy(data=seen)
        made["sensors_seen"].attrs = {
            "long_name": "sensors that the pixel was seen by",
            "flag_values": np.arange(1, len(bands.SEEN_BY), dtype=np.uint8),
            "flag_meanings": " ".join(bands.SEEN_BY[1:]),
            "_FillValue": np.uint8(bands.IGNORE),
        }
    for array in made.values():
        array.encoding |= {"grid_mapping": mapping} if mapping else {}
    return xr.Dataset(made, attrs=tags)
