"""Where pixels lie, and how they come onto another grid.

Enters: values that may be interpolated (reflectance; linear power, never dB), NaN where there is none. Leaves: the same on
another grid, in any CRS.
"""

import dataclasses
import math

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
    """Where pixels lie."""

    crs: CRS | None
    transform: rasterio.Affine
    height: int
    width: int

    @classmethod
    def of(cls, raster: rasterio.DatasetReader) -> "Grid":
        """The grid of an opened raster."""
        return cls(raster.crs, raster.transform, raster.height, raster.width)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.height, self.width

    @property
    def placed(self) -> bool:
        """Whether it is known where on earth it lies."""
        return bool(self.crs) and not self.transform.is_identity

    @property
    def first_pixel(self) -> tuple[int, int]:
        """Row and column of its first pixel, counted from the origin of the CRS; 0 and 0 where north is not up or down.

        Grids whose pixels lie on one another's count alike. Pixels may begin between two multiples of their size, most often half-way;
        the fraction is cut off a little above, where rounding errors of coordinates do not tip it.
        """
        step_x, turn_x, x, turn_y, step_y, y = self.transform[:6]
        if turn_x or turn_y:
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
        """The grid of a part."""
        moved = self.transform @ rasterio.Affine.translation(columns.start, rows.start)
        return Grid(self.crs, moved, rows.stop - rows.start, columns.stop - columns.start)

    def same(self, other: "Grid") -> bool:
        """Whether pixels lie on pixels, to a hundredth of one."""
        if self.shape != other.shape or self.crs != other.crs:
            return False
        back = ~self.transform
        pairs = zip(
            (back @ corner for corner in other.corners), (back @ corner for corner in self.corners), strict=True
        )
        return all(math.dist(one, two) < 0.01 for one, two in pairs)

    def bounds_in(self, crs: CRS | None) -> tuple[float, float, float, float] | None:
        """Left, bottom, right, top in another CRS; left > right across the antimeridian. None where it cannot be seen there."""
        if self.crs == crs:
            return self.bounds
        try:
            bounds = transform_bounds(self.crs, crs, *self.bounds, densify_pts=21)
        except (CRSError, RasterioError):
            return None
        return bounds if all(map(math.isfinite, bounds)) else None


def warp(
    values: Float32[np.ndarray, "h w"], grid: Grid, onto: Grid, resampling: Resampling = Resampling.bilinear
) -> Float32[np.ndarray, "height width"]:
    """Values on another grid; NaN is no value, before and after."""
    profile = {"height": grid.height, "width": grid.width, "count": 1, "dtype": "float32", "nodata": np.nan}
    target = {"crs": onto.crs, "transform": onto.transform, "height": onto.height, "width": onto.width}
    # GDAL widens its kernel as soon as source pixels are a little smaller than the target's, which blurs what is at 10 m on
    # both sides; where they are much smaller it should. Its own tolerance is an eighth of a pixel.
    scales = {"XSCALE": 1, "YSCALE": 1} if _pixel_share(grid, onto) > 0.75 else {}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", crs=grid.crs, transform=grid.transform, **profile) as raster:
            raster.write(values, 1)
        with (
            memory.open() as raster,
            WarpedVRT(raster, **target, nodata=np.nan, resampling=resampling, tolerance=1e-4, **scales) as vrt,
        ):
            return vrt.read(1)


def _pixel_share(source: Grid, target: Grid) -> float:
    """Side of a pixel of the source, in pixels of the target, roughly."""
    left, bottom, right, top = target.bounds_in(source.crs) or source.bounds
    return math.sqrt(
        abs(source.transform.determinant) / max((right - left) * (top - bottom), 1e-30) * target.height * target.width
    )
