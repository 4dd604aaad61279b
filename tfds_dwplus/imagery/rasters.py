"""Read windows of a scene: bands of any grid, unit and nodata value become pixels of one grid.

Enters: the opened bands of one scene. Leaves: pixels of a window on the scene's grid, as digital numbers and dB, and a mask
of valid pixels.

A band on another grid is read window by window. Its valid pixels are converted to a quantity that may be interpolated
(reflectance; linear power, never dB), resampled, and converted back.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import rasterio
import rasterio.shutil
from jaxtyping import Bool, Float32, Num, Shaped, UInt16
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window

from tfds_dwplus import bands
from tfds_dwplus.imagery.grids import Grid, warp

S1_UNITS = ("db", "power", "amplitude", "scaled")
"""Units in which files store backscatter: dB; linear power; its square root; integers with dB = 20 log10(DN) - 83 (the
convention of WorldCereal and of JAXA's PALSAR).
"""

FILL = -9999
"""Stored by some archives where there is no data, besides 0, NaN, 65535 and the file's own nodata value."""


@dataclasses.dataclass(frozen=True)
class Quantity:
    """How to convert the stored numbers of a sensor to values, and values to numbers that may be interpolated."""

    values: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """From stored numbers, and a mask of those that are not the file's nodata, to values with the nodata of `bands`."""
    to_linear: Callable[[np.ndarray], Float32[np.ndarray, "rows columns"]]
    """From values to numbers that may be interpolated, NaN where there is no data."""
    from_linear: Callable[[Float32[np.ndarray, "rows columns"]], np.ndarray]
    resampling: Resampling = Resampling.bilinear


def digital_numbers(
    stored: Num[np.ndarray, "*shape"], valid: Bool[np.ndarray, "*shape"], offset: int
) -> UInt16[np.ndarray, "*shape"]:
    """Sentinel-2 reflectance x 10000, with the offset subtracted. 0 where there is no data (0, 65535, negative, NaN)."""
    with np.errstate(invalid="ignore"):
        valid = valid & (stored > bands.S2_NODATA) & (stored < 65535)
        if not offset and stored.dtype == np.uint16:
            return np.where(valid, stored, np.uint16(bands.S2_NODATA))
        # A value below the offset is dark, not missing.
        number = np.clip(np.rint(np.where(valid, stored, 0).astype(np.float32) - offset), 1, 65534)
    return np.where(valid, number, bands.S2_NODATA).astype(np.uint16)


def decibels(
    stored: Num[np.ndarray, "*shape"], valid: Bool[np.ndarray, "*shape"], unit: str
) -> Float32[np.ndarray, "*shape"]:
    """Backscatter in dB. NaN where there is no data (0, NaN, -9999, -inf, and power below -60 dB, which is below noise)."""
    valid = valid & np.isfinite(stored) & (stored != FILL) & (stored != 0)
    stored = np.where(valid, stored, np.nan).astype(np.float32)
    if unit == "db":
        return stored
    with np.errstate(invalid="ignore"):
        decibel = (10 if unit == "power" else 20) * np.log10(stored) - (83 if unit == "scaled" else 0)
        return np.where(decibel < bands.S1_DB_RANGE[0], np.nan, decibel).astype(np.float32)


def sentinel2(offset: int) -> Quantity:
    """Digital numbers of Sentinel-2, with an offset to subtract."""
    nodata = bands.S2_NODATA
    return Quantity(
        lambda stored, valid: digital_numbers(stored, valid, offset),
        lambda number: np.where(number == nodata, np.nan, number).astype(np.float32),
        lambda number: np.where(np.isnan(number), nodata, np.clip(np.rint(number), 1, 65534)).astype(np.uint16),
    )


def sentinel1(unit: str) -> Quantity:
    """Backscatter stored in one of `S1_UNITS`."""
    return Quantity(
        lambda stored, valid: decibels(stored, valid, unit),
        lambda decibel: (10 ** (decibel / 10)).astype(np.float32),
        lambda power: (10 * np.log10(power)).astype(np.float32),
    )


CLASSES_OF_A_MASK = Quantity(
    lambda stored, valid: np.where(valid, stored, np.nan).astype(np.float32),
    lambda value: value,
    lambda value: value,
    Resampling.nearest,
)
"""Classes, such as those of a scene classification, which are not interpolated. NaN where there is no data."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """A band of an opened file."""

    address: str
    """Path or URL for messages."""
    raster: rasterio.DatasetReader
    index: int
    quantity: Quantity

    @property
    def grid(self) -> Grid:
        """The grid of the file."""
        return Grid.of(self.raster)

    def read(self, grid: Grid, rows: slice, columns: slice) -> np.ndarray:
        """Reads a window of `grid`; resamples if the file is on another grid."""
        if self.grid.same(grid):
            return self.values(Window.from_slices(rows, columns))
        part = grid.window(rows, columns)
        needed = self.grid.part_for(part)
        if needed is None:
            return self.quantity.from_linear(np.full(part.shape, np.nan, np.float32))
        linear = self.quantity.to_linear(self.values(Window.from_slices(*needed)))
        return self.quantity.from_linear(warp(linear, self.grid.window(*needed), part, self.quantity.resampling))

    def values(self, window: Window | None = None, shape: tuple[int, int] | None = None) -> np.ndarray:
        """Reads values on the file's own grid. With `shape` they are subsampled to that size.

        Raises:
            ValueError: the file is cut short.
        """
        try:
            stored = self.raster.read(self.index, window=window, out_shape=shape)
            flags = set(self.raster.mask_flag_enums[self.index - 1])
            if flags & {MaskFlags.per_dataset, MaskFlags.alpha}:
                valid = self.raster.read_masks(self.index, window=window, out_shape=shape) > 0
            elif self.raster.nodata is not None:
                valid = stored != self.raster.nodata
            else:
                valid = np.ones(stored.shape, bool)
        except RasterioError as error:
            reason = error.__cause__ or error
            raise ValueError(f"cannot read the pixels of {self.address}; is the file cut short? ({reason})") from None
        return self.quantity.values(stored, valid)

    @functools.cached_property
    def sample(self) -> np.ndarray:
        """Some values from all over the file, for checks. Reads only a small part of a large file."""
        height, width = self.raster.shape
        if height * width <= 1024**2 or self.raster.overviews(self.index):
            return self.values(shape=(min(height, 256), min(width, 256)))
        sides = [np.linspace(0, max(size - 64, 0), 4).astype(int) for size in (height, width)]
        return np.stack([self.values(Window(left, top, 64, 64)) for top in sides[0] for left in sides[1]])

    def has_data(self) -> bool:
        """Whether any pixel is valid. Reads until it finds one."""
        if has_values(self.sample):
            return True
        height, width = self.raster.shape
        tops = range(0, height, 512)
        return any(has_values(self.values(Window(0, top, width, min(512, height - top)))) for top in tops)


def has_values(values: Shaped[np.ndarray, "*shape"]) -> bool:
    """Whether any value is valid: not 0 for Sentinel-2 (uint16), finite otherwise."""
    return bool((values != bands.S2_NODATA).any() if values.dtype == np.uint16 else np.isfinite(values).any())


@dataclasses.dataclass(frozen=True)
class Sensor:
    """The bands of one sensor in a scene, in the order of `read`."""

    layers: list[Layer]

    def read(self, grid: Grid, rows: slice, columns: slice) -> Shaped[np.ndarray, "rows columns band"]:
        """Reads a window of `grid`."""
        return np.stack([layer.read(grid, rows, columns) for layer in self.layers], axis=-1)


class Scene:
    """Sentinel-2 and Sentinel-1 of one place on one grid. A sensor is None if the network does not use it."""

    def __init__(
        self, grid: Grid, s2: Sensor | None, s1: Sensor | None, cloud: Layer | None = None, cloud_values: tuple = ()
    ) -> None:
        """Checks that every band can be resampled to `grid`.

        A pixel is masked if its value in `cloud` is one of `cloud_values`, or any value but 0 if none are given.

        Raises:
            ValueError: a band does not overlap the grid, or has no known place.
        """
        self.grid, self.s2, self.s1, self.cloud, self.cloud_values = grid, s2, s1, cloud, cloud_values
        for layer in [*(s2.layers if s2 else ()), *(s1.layers if s1 else ()), *([cloud] if cloud else ())]:
            check_can_be_warped(layer.address, layer.grid, grid)

    @property
    def row_of_blocks(self) -> int:
        """Bytes of one row of decoded blocks of all files. A GDAL cache of this size decodes each block once."""
        layers = [*(self.s2.layers if self.s2 else ()), *(self.s1.layers if self.s1 else ())]
        heights = [layer.raster.block_shapes[layer.index - 1][0] for layer in layers]
        sizes = [np.dtype(layer.raster.dtypes[layer.index - 1]).itemsize for layer in layers]
        return sum(h * layer.raster.width * size for h, layer, size in zip(heights, layers, sizes, strict=True))

    def read(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray, Bool[np.ndarray, "rows columns"]]:
        """Reads digital numbers and dB of a window, and a mask of pixels to map. A sensor that is None has no bands."""
        nothing = (rows.stop - rows.start, columns.stop - columns.start, 0)
        s2 = self.s2.read(self.grid, rows, columns) if self.s2 else np.empty(nothing, np.uint16)
        s1 = self.s1.read(self.grid, rows, columns) if self.s1 else np.empty(nothing, np.float32)
        if self.s1:
            check_backscatter(self.s1.layers[0].address, s1)
        valid = bands.valid_pixels(s2, s1, ("s2", "s1"))
        if self.cloud:
            mask = self.cloud.read(self.grid, rows, columns)
            valid &= ~(np.isin(mask, self.cloud_values) if self.cloud_values else np.nan_to_num(mask) != 0)
        return s2, s1, valid


def check_can_be_warped(name: str, grid: Grid, target: Grid) -> None:
    """Raises a ValueError if pixels of `grid` cannot be resampled to `target`."""
    if grid.same(target):
        return
    if not (grid.placed and target.placed):
        size, wanted = (f"{g.height} x {g.width} pixels" for g in (grid, target))
        which = "it" if not grid.placed else "the scene"
        raise ValueError(
            f"{name} has size {size}, the scene {wanted}, and {which} has no CRS and transform to place it by; "
            "give georeferenced files, or files of one grid"
        )
    bounds, wanted = grid.bounds_in(target.crs), target.bounds
    if bounds is None or not _overlap(bounds, wanted):
        where, there = (", ".join(f"{v:.7g}" for v in b) if b else "nowhere" for b in (bounds, wanted))
        raise ValueError(
            f"{name} does not overlap the scene: it covers {where}, the scene {there} (left, bottom, right, top in "
            f"{target.crs.to_string()[:60]}); give files of one place"
        )


_OTHER_UNIT = f"is its unit another one? Say --s1_unit {', '.join(S1_UNITS[1:])}; set nodata to NaN"


def check_backscatter(name: str, s1: Float32[np.ndarray, "*shape"], remedy: str = _OTHER_UNIT) -> None:
    """Raises a ValueError if a valid value is not plausible backscatter in dB. `remedy` ends the message."""
    low, high = bands.S1_DB_RANGE
    finite = s1[np.isfinite(s1)]
    if finite.size and (finite.min() < low or finite.max() > high):
        raise ValueError(
            f"{name} holds values from {finite.min():g} to {finite.max():g}, expected backscatter in dB "
            f"({low:g} to {high:g}); {remedy}"
        )


def check_unit(name: str, stored: np.ndarray, unit: str) -> None:
    """Raises a ValueError if stored backscatter (NaN: no data) is not in the given unit."""
    given = stored[np.isfinite(stored)]
    if given.size < 100:
        return
    decibel = decibels(given, np.ones(given.shape, bool), unit)
    if unit != "db" and np.median(given) < 0:
        other = "db"
    # A city centre may have a median above 0 dB, but it has values below -1 dB too.
    elif np.isfinite(decibel).any() and np.nanmedian(decibel) >= 0 and np.nanmean(decibel < -1) < 0.01:
        other = " or ".join(name for name in S1_UNITS if name != unit)
    else:
        return
    raise ValueError(
        f"{name} holds values from {given.min():g} to {given.max():g}, half of them below {np.median(given):g}; as {unit} this is "
        f"not Sentinel-1, expected backscatter in dB that is mostly below 0; is its unit another one? Say --s1_unit {other}"
    )


def _overlap(one: tuple[float, ...], two: tuple[float, ...]) -> bool:
    across = one[0] > one[2]  # the antimeridian
    beside = (one[0] < two[2] or two[0] < one[2]) if across else (one[0] < two[2] and two[0] < one[2])
    return beside and one[1] < two[3] and two[1] < one[3]
