"""Scenes in and maps out: bands of any grid read on one, class maps with colours, names and nodata.

Enters: opened bands of one scene, whatever their grid, unit and nodata. Leaves: pixels of a window on the map's grid as digital
numbers and dB; a class map and, on request, class probabilities, written beside and renamed when whole.

A band on another grid is read a window at a time, turned into a quantity that may be interpolated (reflectance; linear power,
never dB) with its invalid pixels left out, and warped.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
import rasterio
import rasterio.shutil
from jaxtyping import Bool, Float32, Num, Shaped, UInt16
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window

from specsar_jax.preprocess import valid_pixels
from tfds_dwplus import bands
from tfds_dwplus.grids import Grid, warp

S1_UNITS = ("db", "power", "amplitude", "scaled")
"""dB; linear power; its root; integers with dB = 20 log10(DN) - 83 (WorldCereal, JAXA's PALSAR convention)."""

FILL = -9999
"""What archives store where there is nothing, besides 0, NaN, 65535 and the nodata value of the file."""


@dataclasses.dataclass(frozen=True)
class Quantity:
    """What the numbers of a sensor are."""

    values: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """From stored numbers, and where they are not the file's nodata, to values with the nodata of `bands`."""
    to_linear: Callable[[np.ndarray], Float32[np.ndarray, "rows columns"]]
    """To what may be interpolated, NaN where there is nothing."""
    from_linear: Callable[[Float32[np.ndarray, "rows columns"]], np.ndarray]
    resampling: Resampling = Resampling.bilinear


def digital_numbers(
    stored: Num[np.ndarray, "*shape"], valid: Bool[np.ndarray, "*shape"], offset: int
) -> UInt16[np.ndarray, "*shape"]:
    """Reflectance x 10000 of Sentinel-2 without its offset; 0 where there is none (0, 65535, negative, NaN)."""
    with np.errstate(invalid="ignore"):
        valid = valid & (stored > bands.S2_NODATA) & (stored < 65535)
        if not offset and stored.dtype == np.uint16:
            return np.where(valid, stored, np.uint16(bands.S2_NODATA))
        # What is darker than the offset is dark, not missing.
        number = np.clip(np.rint(np.where(valid, stored, 0).astype(np.float32) - offset), 1, 65534)
    return np.where(valid, number, bands.S2_NODATA).astype(np.uint16)


def decibels(
    stored: Num[np.ndarray, "*shape"], valid: Bool[np.ndarray, "*shape"], unit: str
) -> Float32[np.ndarray, "*shape"]:
    """Backscatter in dB; NaN where there is none (0, NaN, -9999, -inf; of power below -60 dB, which is below any noise)."""
    valid = valid & np.isfinite(stored) & (stored != FILL) & (stored != 0)
    stored = np.where(valid, stored, np.nan).astype(np.float32)
    if unit == "db":
        return stored
    with np.errstate(invalid="ignore"):
        decibel = (10 if unit == "power" else 20) * np.log10(stored) - (83 if unit == "scaled" else 0)
        return np.where(decibel < bands.S1_DB_RANGE[0], np.nan, decibel).astype(np.float32)


def sentinel2(offset: int) -> Quantity:
    """Digital numbers, with an offset to subtract."""
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
"""Numbers that mean kinds, such as those of a scene classification; NaN where there is none."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """A band of an opened file."""

    address: str
    """As it was given, for messages."""
    raster: rasterio.DatasetReader
    index: int
    quantity: Quantity

    @property
    def grid(self) -> Grid:
        """That of the file."""
        return Grid.of(self.raster)

    def read(self, grid: Grid, rows: slice, columns: slice) -> np.ndarray:
        """A window of `grid`: as stored where the file is on that grid, else warped."""
        if self.grid.same(grid):
            return self.values(Window.from_slices(rows, columns))
        part = grid.window(rows, columns)
        window = _reach(self.grid, part)
        if window is None:
            return self.quantity.from_linear(np.full(part.shape, np.nan, np.float32))
        here = self.grid.window(*window.toslices())
        linear = self.quantity.to_linear(self.values(window))
        return self.quantity.from_linear(warp(linear, here, part, self.quantity.resampling))

    def values(self, window: Window | None = None, shape: tuple[int, int] | None = None) -> np.ndarray:
        """Values on the file's own grid; with `shape`, some of them, for a look.

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
    def look(self) -> np.ndarray:
        """Some values from all over the file, without reading most of it."""
        height, width = self.raster.shape
        if height * width <= 1024**2 or self.raster.overviews(self.index):
            return self.values(shape=(min(height, 256), min(width, 256)))
        sides = [np.linspace(0, max(size - 64, 0), 4).astype(int) for size in (height, width)]
        return np.stack([self.values(Window(left, top, 64, 64)) for top in sides[0] for left in sides[1]])

    def has_data(self) -> bool:
        """Whether any pixel is valid. Reads until it has seen one."""
        if has_values(self.look):
            return True
        height, width = self.raster.shape
        tops = range(0, height, 512)
        return any(has_values(self.values(Window(0, top, width, min(512, height - top)))) for top in tops)


def has_values(values: Shaped[np.ndarray, "*shape"]) -> bool:
    """Whether any pixel is neither the nodata of Sentinel-2 nor that of Sentinel-1."""
    return bool((values != bands.S2_NODATA).any() if values.dtype == np.uint16 else np.isfinite(values).any())


@dataclasses.dataclass(frozen=True)
class Sensor:
    """The bands of one sensor over a scene, in the order in which `read` gives them."""

    layers: list[Layer]

    def read(self, grid: Grid, rows: slice, columns: slice) -> Shaped[np.ndarray, "rows columns band"]:
        """Pixels of a window of `grid`."""
        return np.stack([layer.read(grid, rows, columns) for layer in self.layers], axis=-1)


class Scene:
    """Sentinel-2 and Sentinel-1 over one place, on one grid; either may be None where the network does not read it."""

    def __init__(
        self, grid: Grid, s2: Sensor | None, s1: Sensor | None, cloud: Layer | None = None, cloud_values: tuple = ()
    ) -> None:
        """Pixels whose value in `cloud` is one of `cloud_values`, or with none given is not 0, are not mapped.

        Raises:
            ValueError: a band is nowhere on the grid, or its own place is not known.
        """
        self.grid, self.s2, self.s1, self.cloud, self.cloud_values = grid, s2, s1, cloud, cloud_values
        for layer in [*(s2.layers if s2 else ()), *(s1.layers if s1 else ()), *([cloud] if cloud else ())]:
            check_can_be_warped(layer.address, layer.grid, grid)

    @property
    def row_of_blocks(self) -> int:
        """Bytes of the decoded blocks of all files beside each other: what is decoded once if so much is kept."""
        layers = [*(self.s2.layers if self.s2 else ()), *(self.s1.layers if self.s1 else ())]
        heights = [layer.raster.block_shapes[layer.index - 1][0] for layer in layers]
        sizes = [np.dtype(layer.raster.dtypes[layer.index - 1]).itemsize for layer in layers]
        return sum(h * layer.raster.width * size for h, layer, size in zip(heights, layers, sizes, strict=True))

    def read(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray, Bool[np.ndarray, "rows columns"]]:
        """Digital numbers and dB of a window, and which pixels are to be mapped. A sensor that is not there has no channels."""
        nothing = (rows.stop - rows.start, columns.stop - columns.start, 0)
        s2 = self.s2.read(self.grid, rows, columns) if self.s2 else np.empty(nothing, np.uint16)
        s1 = self.s1.read(self.grid, rows, columns) if self.s1 else np.empty(nothing, np.float32)
        if self.s1:
            check_backscatter(self.s1.layers[0].address, s1)
        valid = valid_pixels(s2, s1, ("s2", "s1"))
        if self.cloud:
            mask = self.cloud.read(self.grid, rows, columns)
            valid &= ~(np.isin(mask, self.cloud_values) if self.cloud_values else np.nan_to_num(mask) != 0)
        return s2, s1, valid


def check_can_be_warped(name: str, grid: Grid, onto: Grid) -> None:
    """Raises a ValueError if pixels of `grid` cannot be brought onto `onto`."""
    if grid.same(onto):
        return
    if not (grid.placed and onto.placed):
        size, wanted = (f"{g.height} x {g.width} pixels" for g in (grid, onto))
        which = "it" if not grid.placed else "the scene"
        raise ValueError(
            f"{name} has size {size}, the scene {wanted}, and {which} has no CRS and transform to place it by; "
            "give georeferenced files, or files of one grid"
        )
    bounds, wanted = grid.bounds_in(onto.crs), onto.bounds
    if bounds is None or not _meet(bounds, wanted):
        where, there = (", ".join(f"{v:.7g}" for v in b) if b else "nowhere" for b in (bounds, wanted))
        raise ValueError(
            f"{name} does not overlap the scene: it covers {where}, the scene {there} (left, bottom, right, top in "
            f"{onto.crs.to_string()[:60]}); give files of one place"
        )


def check_backscatter(name: str, s1: Float32[np.ndarray, "*shape"]) -> None:
    """Raises a ValueError if a valid value cannot be backscatter."""
    low, high = bands.S1_DB_RANGE
    finite = s1[np.isfinite(s1)]
    if finite.size and (finite.min() < low or finite.max() > high):
        raise ValueError(
            f"{name} holds {finite.min():g} to {finite.max():g} dB, expected backscatter in dB ({low:g} to {high:g}); "
            f"is its unit another one? Say --s1_unit {', '.join(S1_UNITS[1:])}; set nodata to NaN"
        )


def _meet(one: tuple[float, ...], two: tuple[float, ...]) -> bool:
    across = one[0] > one[2]  # the antimeridian
    beside = (one[0] < two[2] or two[0] < one[2]) if across else (one[0] < two[2] and two[0] < one[2])
    return beside and one[1] < two[3] and two[1] < one[3]


def _reach(source: Grid, target: Grid) -> Window | None:
    """The part of the source that a target grid reaches, with room for the kernel; None if there is none."""
    bounds = target.bounds_in(source.crs)
    if bounds is None:
        return None
    left, bottom, right, top = bounds
    places = [~source.transform @ (x, y) for x in (left, right) for y in (bottom, top)]
    (first, last), (upper, lower) = ((min(axis), max(axis)) for axis in zip(*places, strict=True))
    if left > right:  # over the antimeridian: both ends of the source
        first, last = 0, source.width
    columns = (max(math.floor(first) - 3, 0), min(math.ceil(last) + 3, source.width))
    rows = (max(math.floor(upper) - 3, 0), min(math.ceil(lower) + 3, source.height))
    if rows[0] >= rows[1] or columns[0] >= columns[1]:
        return None
    return Window.from_slices(rows, columns)
