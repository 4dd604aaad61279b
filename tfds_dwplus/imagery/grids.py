"""Pixel grids (CRS, transform, size), and resampling of values from one grid to another.

Enters: values that may be interpolated (reflectance; linear power, never dB), NaN where there is no value. Leaves: the
same values on another grid, in any CRS.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import rasterio
from jaxtyping import Float32
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds


@dataclasses.dataclass(frozen=True)
class Grid:
    """Position and size of the pixels of a raster."""

    crs: CRS | None
    transform: rasterio.Affine
    """From column and row to coordinates of the CRS."""
    height: int
    width: int

    @classmethod
    def of(cls, raster: rasterio.DatasetReader) -> "Grid":
        """The grid of an opened raster."""
        return cls(raster.crs, raster.transform, raster.height, raster.width)

    @classmethod
    def parse(cls, crs: str, transform: Sequence[float], height: int, width: int) -> "Grid":
        """The grid of a CRS as text ("" for none) and affine coefficients a, b, c, d, e, f."""
        return cls(CRS.from_user_input(crs) if crs else None, rasterio.Affine(*transform), height, width)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.height, self.width

    @property
    def placed(self) -> bool:
        """Whether its place on earth is known."""
        return bool(self.crs) and not self.transform.is_identity

    @property
    def first_pixel(self) -> tuple[int, int]:
        """Row and column of the first pixel, counted from the origin of the CRS. 0 and 0 for a rotated grid.

        Grids that share pixels give consistent numbers. The upper left corner lies on a multiple of the pixel size, or
        most often half-way between two. Adding 0.3 before the fraction is cut off keeps both cases away from the next
        whole number, so that rounding errors of coordinates do not matter.
        """
        step_x, rotation_x, x, rotation_y, step_y, y = self.transform[:6]
        if rotation_x or rotation_y:
            return 0, 0
        return math.floor(y / step_y + 0.3), math.floor(x / step_x + 0.3)

    @property
    def corners(self) -> list[tuple[float, float]]:
        """Upper left, upper right, lower right, lower left, in the CRS."""
        return [self.transform @ at for at in ((0, 0), (self.width, 0), (self.width, self.height), (0, self.height))]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top, in the CRS."""
        x, y = zip(*self.corners, strict=True)
        return min(x), min(y), max(x), max(y)

    def window(self, rows: slice, columns: slice) -> "Grid":
        """The grid of some rows and columns."""
        moved = self.transform @ rasterio.Affine.translation(columns.start, rows.start)
        return Grid(self.crs, moved, rows.stop - rows.start, columns.stop - columns.start)

    def same(self, other: "Grid") -> bool:
        """Whether both grids have the same pixels, to a hundredth of a pixel."""
        if self.shape != other.shape or self.crs != other.crs:
            return False
        back = ~self.transform
        pairs = zip(
            (back @ corner for corner in other.corners), (back @ corner for corner in self.corners), strict=True
        )
        return all(math.dist(one, two) < 0.01 for one, two in pairs)

    def bounds_in(self, crs: CRS | None) -> tuple[float, float, float, float] | None:
        """Left, bottom, right, top in another CRS; left > right across the antimeridian. None if it cannot be projected."""
        if self.crs == crs:
            return self.bounds
        try:
            bounds = transform_bounds(self.crs, crs, *self.bounds, densify_pts=21)
        except (CRSError, RasterioError):
            return None
        return bounds if all(map(math.isfinite, bounds)) else None

    def part_for(self, target: "Grid") -> tuple[slice, slice] | None:
        """Rows and columns that are needed to resample to a target grid, with a margin of 3 pixels. None if there are none."""
        bounds = target.bounds_in(self.crs)
        if bounds is None:
            return None
        left, bottom, right, top = bounds
        places = [~self.transform @ (x, y) for x in (left, right) for y in (bottom, top)]
        (first, last), (upper, lower) = ((min(axis), max(axis)) for axis in zip(*places, strict=True))
        if left > right:  # across the antimeridian: both ends of the source are needed
            first, last = 0, self.width
        columns = slice(max(math.floor(first) - 3, 0), min(math.floor(last) + 4, self.width))
        rows = slice(max(math.floor(upper) - 3, 0), min(math.floor(lower) + 4, self.height))
        return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def warp(
    values: Float32[np.ndarray, "h w"], source: Grid, target: Grid, resampling: Resampling = Resampling.bilinear
) -> Float32[np.ndarray, "height width"]:
    """Resamples values from a source grid to a target grid. NaN is no value, before and after."""
    profile = {"height": source.height, "width": source.width, "count": 1, "dtype": "float32", "nodata": np.nan}
    wanted = {"crs": target.crs, "transform": target.transform, "height": target.height, "width": target.width}
    # GDAL widens its kernel as soon as source pixels are slightly smaller than target pixels, which blurs 10 m data on a
    # 10 m grid. So the kernel is fixed unless source pixels are much smaller. GDAL's default tolerance is 1/8 pixel.
    scales = {"XSCALE": 1, "YSCALE": 1} if _relative_pixel_size(source, target) > 0.75 else {}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", crs=source.crs, transform=source.transform, **profile) as raster:
            raster.write(values, 1)
        with (
            memory.open() as raster,
            WarpedVRT(raster, **wanted, nodata=np.nan, resampling=resampling, tolerance=1e-4, **scales) as vrt,
        ):
            return vrt.read(1)


def _relative_pixel_size(source: Grid, target: Grid) -> float:
    """Side of a source pixel in target pixels, roughly."""
    left, bottom, right, top = target.bounds_in(source.crs) or source.bounds
    return math.sqrt(
        abs(source.transform.determinant) / max((right - left) * (top - bottom), 1e-30) * target.height * target.width
    )
