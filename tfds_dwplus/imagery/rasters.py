"""Read windows of a scene: bands of any grid, unit and nodata value become pixels of one grid.

Enters: the opened bands of one scene, and how to decode their numbers. Leaves: pixels of a window on the scene's grid, as
digital numbers and dB, and a mask of valid pixels.

Which pixels have data: the file's own mask, alpha band or nodata value counts. Where nothing else is declared, a Sentinel-2
pixel has no data where all its bands are 0; where only some are, they are dark. That holds too if the declared value is 0
itself: archives declare it on each file, and Sen2Cor before baseline 04.00 cut dark water off at 0.

A band on another grid is read window by window. Its valid pixels are converted to a quantity that may be interpolated
(reflectance; linear power, never dB), resampled, and converted back.
"""

import dataclasses
import functools
from collections.abc import Callable, MutableMapping

import numpy as np
import rasterio
from jaxtyping import Bool, Float32, Num, Shaped
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window

from tfds_dwplus import bands
from tfds_dwplus.files.addresses import shown_in
from tfds_dwplus.imagery.decoder import backscatter, reflectance
from tfds_dwplus.imagery.decoder.declared import NOTHING, Declared
from tfds_dwplus.imagery.decoder.reflectance import Linear
from tfds_dwplus.imagery.grids import Grid, warp

Counted = tuple[slice, ...]
"""Part of a window that was not read before; pixels there are counted."""


class PixelsError(ValueError):
    """The pixels of a file cannot be read."""

    def __init__(self, message: str, address: str) -> None:
        """Keeps the address of the file beside the message."""
        super().__init__(shown_in(message))
        self.address = address


@dataclasses.dataclass(frozen=True)
class Quantity:
    """How to convert the stored numbers of a sensor to values, and values to numbers that may be interpolated."""

    values: Callable[[np.ndarray, np.ndarray, Counted], np.ndarray]
    """From stored numbers, a mask of those that have data, and the part to count, to values with the nodata of `bands`."""
    to_linear: Callable[[np.ndarray], Float32[np.ndarray, "rows columns"]]
    """From values to numbers that may be interpolated, NaN where there is no data."""
    from_linear: Callable[[Float32[np.ndarray, "rows columns"]], np.ndarray]
    resampling: Resampling = Resampling.bilinear
    zero_may_be_dark: bool = False
    """Whether a stored 0 is nodata only where the other bands have none either."""


def sentinel2(linear: Linear) -> Quantity:
    """Digital numbers of Sentinel-2 from numbers stored with a gain and a shift."""
    nodata = bands.S2_NODATA
    return Quantity(
        lambda stored, valid, _: reflectance.digital_numbers(stored, valid, linear),
        lambda number: np.where(number == nodata, np.nan, number).astype(np.float32),
        lambda number: np.where(np.isnan(number), nodata, np.clip(np.rint(number), 1, 65534)).astype(np.uint16),
        zero_may_be_dark=True,
    )


def sentinel1(
    unit: str, dropped: MutableMapping[str, int] | None = None, scale: float = 1.0, offset: float = 0.0
) -> Quantity:
    """Backscatter stored in one of `backscatter.UNITS`, or as integers with a declared scale and offset in that unit.

    Pixels that are no backscatter are counted in `dropped`.
    """

    def values(stored: np.ndarray, valid: np.ndarray, counted: Counted) -> np.ndarray:
        if scale != 1 or offset:
            stored = stored * np.float32(scale) + np.float32(offset)
        return backscatter.decibels(stored, valid, unit, dropped, counted)

    return Quantity(
        values,
        lambda decibel: (10 ** (decibel / 10)).astype(np.float32),
        lambda power: (10 * np.log10(power)).astype(np.float32),
    )


CLASSES_OF_A_MASK = Quantity(
    lambda stored, valid, _: np.where(valid, stored, np.nan).astype(np.float32),
    lambda value: value,
    lambda value: value,
    Resampling.nearest,
)
"""Classes, such as those of a scene classification, which are not interpolated. NaN where there is no data."""


class Unread:
    """Tells which part of a window was not in an earlier one, for windows that come row by row, as a scene is mapped."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._top = self._above = self._row_end = self._right = 0

    def part(self, rows: slice, columns: slice) -> Counted:
        """The rows and columns of a window, counted from its corner, that are new."""
        if rows.start != self._top or columns.start == 0:
            self._above, self._right = self._row_end, 0
        self._top, self._row_end = rows.start, rows.stop
        new = slice(max(self._above - rows.start, 0), None), slice(max(self._right - columns.start, 0), None)
        self._right = max(self._right, columns.stop)
        return new


def alpha_band(raster: rasterio.DatasetReader) -> int | None:
    """Index of the band that marks pixels with data, by its colour interpretation, or its name alpha or dataMask. None if there is none.

    GDAL makes no mask of it in a file of more than four bands.
    """
    for index, (kind, text) in enumerate(zip(raster.colorinterp, raster.descriptions, strict=True), start=1):
        if kind == ColorInterp.alpha or (text or "").strip().lower() in ("alpha", "datamask"):
            return index
    return None


@dataclasses.dataclass(frozen=True)
class Layer:
    """A band of an opened file."""

    address: str
    """Path or URL for messages."""
    raster: rasterio.DatasetReader
    index: int
    quantity: Quantity
    declared: Declared = NOTHING
    """What metadata outside of the file say; its nodata value counts where the file has none."""
    mask: rasterio.DatasetReader | None = None
    """A mask that lies beside a remote file, 0 where there is no data."""
    unread: Unread = dataclasses.field(default_factory=Unread, compare=False)

    @functools.cached_property
    def grid(self) -> Grid:
        """The grid of the file."""
        return Grid.of(self.raster)

    @functools.cached_property
    def nodata(self) -> float | None:
        """The declared nodata value."""
        own = self.raster.nodatavals[self.index - 1]
        return self.declared.nodata if own is None else own

    @functools.cached_property
    def alpha(self) -> int | None:
        """Index of the file's alpha band."""
        return alpha_band(self.raster)

    @functools.cached_property
    def masked(self) -> bool:
        """Whether the file has a mask, internal, beside it, or as an alpha band."""
        flags = set(self.raster.mask_flag_enums[self.index - 1])
        return bool(self.alpha or self.mask or flags & {MaskFlags.per_dataset, MaskFlags.alpha})

    @functools.cached_property
    def zero_may_be_nodata(self) -> bool:
        """Whether a 0 means nodata where all bands have it: nothing else is declared."""
        return not self.masked and reflectance.zero_may_be_nodata(self.nodata)

    def read(
        self, grid: Grid, rows: slice, columns: slice
    ) -> tuple[np.ndarray, Bool[np.ndarray, "rows columns"] | None]:
        """Reads values of a window of `grid`, and a mask of zeros that may be dark, None if there are none.

        Resamples if the file is on another grid.
        """
        if self.grid.same(grid):
            return self._values(Window.from_slices(rows, columns))
        part = grid.window(rows, columns)
        needed = self.grid.part_for(part)
        if needed is None:
            return self.quantity.from_linear(np.full(part.shape, np.nan, np.float32)), None
        values, zero = self._values(Window.from_slices(*needed))
        here = self.grid.window(*needed)
        linear = warp(self.quantity.to_linear(values), here, part, self.quantity.resampling)
        if zero is not None:
            zero = warp(zero.astype(np.float32), here, part, Resampling.nearest) == 1
        return self.quantity.from_linear(linear), zero

    def stored(
        self, window: Window | None = None, shape: tuple[int, int] | None = None
    ) -> tuple[Num[np.ndarray, "rows columns"], Bool[np.ndarray, "rows columns"]]:
        """Reads stored numbers, and a mask of those that nothing declares to be nodata. With `shape` they are subsampled.

        Raises:
            PixelsError: the file is cut short, or its server does not answer.
        """
        try:
            stored = self.raster.read(self.index, window=window, out_shape=shape)
            if self.mask:
                valid = self.mask.read(1, window=window, out_shape=shape) > 0
            elif self.alpha:
                valid = self.raster.read(self.alpha, window=window, out_shape=shape) > 0
            elif self.masked:
                valid = self.raster.read_masks(self.index, window=window, out_shape=shape) > 0
            elif self.nodata is None:
                valid = np.ones(stored.shape, bool)
            else:
                valid = stored != self.nodata
        except RasterioError as error:
            reason = shown_in(str(error.__cause__ or error))
            raise PixelsError(
                f"cannot read the pixels of {self.address}; is the file cut short? ({reason})", self.address
            ) from None
        return stored, valid

    def _values(self, window: Window) -> tuple[np.ndarray, Bool[np.ndarray, "rows columns"] | None]:
        rows, columns = window.toslices()
        return self.decoded(*self.stored(window), self.unread.part(rows, columns))

    def decoded(
        self, stored: Num[np.ndarray, "rows columns"], valid: Bool[np.ndarray, "rows columns"], counted: Counted = ()
    ) -> tuple[np.ndarray, Bool[np.ndarray, "rows columns"] | None]:
        """Converts stored numbers to values, and gives a mask of zeros that may be dark, None if there are none."""
        zero = None
        if self.quantity.zero_may_be_dark and self.zero_may_be_nodata:
            valid, zero = reflectance.zeros_apart(stored, valid)
        return self.quantity.values(stored, valid, counted), zero

    @functools.cached_property
    def sample(self) -> Num[np.ndarray, " pixels"]:
        """Stored numbers that have data, from all over the file, for checks. Reads only a small part of a large file."""
        height, width = self.raster.shape
        if height * width <= 1024**2 or self.raster.overviews(self.index):
            return self.with_data(*self.stored(shape=(min(height, 256), min(width, 256))))
        sides = [np.linspace(0, max(size - 64, 0), 4).astype(int) for size in (height, width)]
        parts = [self.stored(Window(left, top, 64, 64)) for top in sides[0] for left in sides[1]]
        return np.concatenate([self.with_data(*part) for part in parts])

    def has_data(self) -> bool:
        """Whether any pixel has data. Reads until it finds one."""
        if self.sample.size:
            return True
        height, width = self.raster.shape
        windows = (Window(0, top, width, min(512, height - top)) for top in range(0, height, 512))
        return any(self.with_data(*self.stored(window)).size for window in windows)

    def with_data(
        self, stored: Num[np.ndarray, "rows columns"], valid: Bool[np.ndarray, "rows columns"]
    ) -> Num[np.ndarray, " pixels"]:
        """The stored numbers of pixels that have data."""
        if self.zero_may_be_nodata:
            valid = valid & (stored != 0)
        chosen = stored[valid]
        return chosen[np.isfinite(chosen) & (chosen != reflectance.FILL[0])]


@dataclasses.dataclass(frozen=True)
class Sensor:
    """The bands of one sensor in a scene, in the order of `read`."""

    layers: list[Layer]
    names: tuple[str, ...]
    dropped: MutableMapping[str, int] = dataclasses.field(default_factory=dict)
    """Number of pixels of Sentinel-1 that were no backscatter, by reason; grows while windows are read."""
    unread: Unread = dataclasses.field(default_factory=Unread, compare=False)

    def read(self, grid: Grid, rows: slice, columns: slice) -> Shaped[np.ndarray, "rows columns band"]:
        """Reads a window of `grid`."""
        parts = [layer.read(grid, rows, columns) for layer in self.layers]
        values = np.stack([value for value, _ in parts], axis=-1)
        if values.dtype == np.uint16:
            return reflectance.dark_where_others_have_data(values, [zero for _, zero in parts])
        return backscatter.without_border_noise(self.names, values, self.dropped, self.unread.part(rows, columns))


class Scene:
    """Sentinel-2 and Sentinel-1 of one place on one grid. A sensor is None if the network does not use it."""

    def __init__(
        self,
        grid: Grid,
        s2: Sensor | None,
        s1: Sensor | None,
        cloud: Layer | None = None,
        cloud_values: tuple = (),
        tags: dict[str, str] | None = None,
    ) -> None:
        """Checks that every band can be resampled to `grid`.

        A pixel is masked if its value in `cloud` is one of `cloud_values`, or any value but 0 if none are given. `tags` tell how
        the numbers were read: s2_offset, s2_scale, s1_quantity.

        Raises:
            ValueError: a band does not overlap the grid, or has no known place.
        """
        self.grid, self.s2, self.s1, self.cloud, self.cloud_values = grid, s2, s1, cloud, cloud_values
        self.tags = tags or {}
        for layer in [*(s2.layers if s2 else ()), *(s1.layers if s1 else ()), *([cloud] if cloud else ())]:
            check_can_be_warped(layer.address, layer.grid, grid)

    @property
    def dropped(self) -> MutableMapping[str, int]:
        """Number of pixels of Sentinel-1 that were no backscatter so far, by reason."""
        return self.s1.dropped if self.s1 else {}

    @property
    def row_of_blocks(self) -> int:
        """Bytes of one row of decoded blocks of all files. A GDAL cache of this size decodes each block once."""
        layers = [*(self.s2.layers if self.s2 else ()), *(self.s1.layers if self.s1 else ())]
        heights = [layer.raster.block_shapes[layer.index - 1][0] for layer in layers]
        sizes = [np.dtype(layer.raster.dtypes[layer.index - 1]).itemsize for layer in layers]
        return sum(h * layer.raster.width * size for h, layer, size in zip(heights, layers, sizes, strict=True))

    def read(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray, Bool[np.ndarray, "rows columns"]]:
        """Reads digital numbers and dB of a window, and a mask of pixels to map. A sensor that is None has no bands."""
        s2, s1 = self.pixels(rows, columns)
        valid = bands.valid_pixels(s2, s1, ("s2", "s1"))
        if self.cloud:
            valid &= ~self.clouded(rows, columns)
        return s2, s1, valid

    def pixels(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Reads digital numbers and dB of a window, also of clouds. A sensor that is None has no bands."""
        nothing = (rows.stop - rows.start, columns.stop - columns.start, 0)
        s2 = self.s2.read(self.grid, rows, columns) if self.s2 else np.empty(nothing, np.uint16)
        s1 = self.s1.read(self.grid, rows, columns) if self.s1 else np.empty(nothing, np.float32)
        return s2, s1

    def clouded(self, rows: slice, columns: slice) -> Bool[np.ndarray, "rows columns"]:
        """Reads a mask of pixels of a window that are cloud; of none without a cloud mask."""
        if not self.cloud:
            return np.zeros((rows.stop - rows.start, columns.stop - columns.start), bool)
        mask, _ = self.cloud.read(self.grid, rows, columns)
        return np.isin(mask, self.cloud_values) if self.cloud_values else np.nan_to_num(mask) != 0


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
    if not grid.overlaps(target):
        bounds, wanted = grid.bounds_in(target.crs), target.bounds
        where, there = (", ".join(f"{v:.7g}" for v in b) if b else "nowhere" for b in (bounds, wanted))
        raise ValueError(
            f"{name} does not overlap the scene: it covers {where}, the scene {there} (left, bottom, right, top in "
            f"{target.crs.to_string()[:60]}); give files of one place"
        )
