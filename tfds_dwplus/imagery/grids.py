"""Pixel grids (CRS, transform, size), and resampling of values from one grid to another.

Enters: values that may be interpolated (reflectance; linear power, never dB), NaN where there is no value. Leaves: the
same values on another grid, in any CRS.

A grid may be turned or have its rows from south to north. One in degrees may count longitudes from -180 or from 0, and may
reach across the antimeridian: longitudes that differ by a full turn are one place.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np
import rasterio
from jaxtyping import Float32, Float64
from rasterio._err import CPLE_AppDefinedError, CPLE_BaseError  # raised by `rasterio.warp`, without public names
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_bounds


def parse_crs(text: str) -> CRS:
    """Parses a CRS: an authority code, WKT, PROJ's notation or PROJJSON.

    Raises:
        CRSError: it is none. GDAL takes anything else for a file or an address, which it would open.
    """
    known = r"\s*(?:[A-Za-z]\w*:[\w+.:-]+|[A-Z]\w*\s*\[.*|(?!.*(?:://|/vsi))\+?(?:proj|init)=.*|\{.*)\s*"
    if not re.fullmatch(known, text, re.DOTALL):
        raise CRSError(f"the CRS is {text[:60]!r}, expected an EPSG code or WKT")
    return CRS.from_user_input(text)


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
        return cls(parse_crs(crs) if crs else None, rasterio.Affine(*transform), height, width)

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
        if turn := _full_turn(self.crs):
            other = other.moved(round((self.transform.c - other.transform.c) / turn) * turn)
        back = ~self.transform
        pairs = zip(
            (back @ corner for corner in other.corners), (back @ corner for corner in self.corners), strict=True
        )
        return all(math.dist(one, two) < 0.01 for one, two in pairs)

    def moved(self, x: float) -> "Grid":
        """The grid at other coordinates, `x` more in the unit of the CRS."""
        return dataclasses.replace(self, transform=rasterio.Affine.translation(x, 0) @ self.transform) if x else self

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
        """Rows and columns that are needed to resample to a target grid. None if there are none.

        With a margin of 3 pixels, or more of them where they are smaller than those of the target.
        """
        outlines = self._outlines(target)
        margin = math.ceil(3 * max(1.0, round(_pixels_in(outlines, target), 1)))
        return self._inside(outlines, margin)

    def overlaps(self, target: "Grid") -> bool:
        """Whether a target grid has some ground of this grid, or may have: of a turned one the box about it is looked at."""
        return self._inside(self._outlines(target), 0) is not None

    def _inside(self, outlines: "list[_Outline]", margin: int) -> tuple[slice, slice] | None:
        """Rows and columns of this grid in the boxes about some outlines."""
        parts = []
        for columns, rows in outlines:
            # A thousandth of a pixel is a rounding error, where grids only touch.
            upper, lower = math.floor(rows.min() + 1e-3) - margin, math.ceil(rows.max() - 1e-3) + margin
            left, right = math.floor(columns.min() + 1e-3) - margin, math.ceil(columns.max() - 1e-3) + margin
            part = max(upper, 0), min(lower, self.height), max(left, 0), min(right, self.width)
            if part[0] < part[1] and part[2] < part[3]:
                parts.append(part)
        if not parts:
            return None
        upper, lower, left, right = zip(*parts, strict=True)
        return slice(min(upper), max(lower)), slice(min(left), max(right))

    def _outlines(self, target: "Grid") -> "list[_Outline]":
        """Columns and rows, in pixels of this grid, along the border of a target grid. Empty if it has no place in this CRS.

        In degrees there are three: at the longitude nearest to this grid, and a full turn to the west and to the east, because
        either grid may reach over more than half of the earth.
        """
        x, y = target._border_in(self.crs)
        if not x.size:
            return []
        moves = [0.0]
        if turn := _full_turn(self.crs):
            if self.crs != target.crs:
                x = np.unwrap(x, period=turn)
                if abs(x[-1] - x[0]) > turn / 2:  # the border goes round a pole, which is inside
                    pole = math.copysign(turn / 4, y.mean())
                    x, y = np.append(x, x[[-1, 0, 0]]), np.append(y, [pole, pole, y[0]])
            nearest = round((self._middle_x - (x.min() + x.max()) / 2) / turn)
            moves = [(nearest + more) * turn for more in (0, -1, 1)]
        back = ~self.transform
        return [back @ (x + move, y) for move in moves]

    @property
    def _middle_x(self) -> float:
        return (self.transform @ (self.width / 2, self.height / 2))[0]

    def _border_in(self, crs: CRS | None) -> "_Outline":
        """Coordinates x and y in a CRS of 21 points on each edge, all round and back to the first one.

        Points that cannot be projected are left out. Longitudes are those that GDAL gives. In the grid's own CRS the four corners
        are enough.
        """
        along = np.linspace(0, 1, 1 if self.crs == crs else 20, endpoint=False)
        zero, one = np.zeros_like(along), np.ones_like(along)
        columns = np.concatenate([along, one, 1 - along, zero, [0.0]]) * self.width
        rows = np.concatenate([zero, along, one, 1 - along, [0.0]]) * self.height
        x, y = self.transform @ (columns, rows)
        if self.crs != crs:
            x, y = _projected(self.crs, crs, x, y)
        finite = np.isfinite(x) & np.isfinite(y)
        return x[finite], y[finite]


_Outline = tuple[Float64[np.ndarray, " point"], Float64[np.ndarray, " point"]]
"""Coordinates x and y, or columns and rows, along the border of a grid."""


def _projected(crs: CRS | None, to: CRS | None, x: np.ndarray, y: np.ndarray) -> _Outline:
    """Coordinates in another CRS; NaN for a point that has none there."""
    nowhere = np.full(x.size, np.nan)
    try:
        return tuple(map(np.asarray, transform_points(crs, to, x, y)))
    except CPLE_AppDefinedError:  # one point is outside of a projection's domain
        if x.size == 1:
            return nowhere, nowhere
    except (CRSError, RasterioError, CPLE_BaseError):
        return nowhere, nowhere
    halves = [_projected(crs, to, *half) for half in zip(np.array_split(x, 2), np.array_split(y, 2), strict=True)]
    return tuple(map(np.concatenate, zip(*halves, strict=True)))


def _full_turn(crs: CRS | None) -> float:
    """360 degrees in the unit of a geographic CRS; 0 for any other CRS."""
    return round(2 * math.pi / crs.units_factor[1], 9) if crs and crs.is_geographic else 0.0


def warp(
    values: Float32[np.ndarray, "h w"], source: Grid, target: Grid, resampling: Resampling = Resampling.bilinear
) -> Float32[np.ndarray, "height width"]:
    """Resamples values from a source grid to a target grid. NaN is no value, before and after."""
    turn, step = _full_turn(source.crs), abs(source.transform.a)
    if turn and abs(source.width * step - turn) < 0.01 * step:
        # All round the earth: the last column is beside the first one.
        values = np.pad(values, ((0, 0), (2, 2)), "wrap")
        source = source.window(slice(0, source.height), slice(-2, source.width + 2))
    profile = {"height": source.height, "width": source.width, "count": 1, "dtype": "float32", "nodata": np.nan}
    wanted = {"crs": target.crs, "transform": target.transform, "height": target.height, "width": target.width}
    # GDAL widens its kernel as soon as source pixels are slightly smaller than target pixels, which blurs 10 m data on a
    # 10 m grid. So the kernel is fixed unless source pixels are much smaller. GDAL's default tolerance is 1/8 pixel.
    scales = {"XSCALE": 1, "YSCALE": 1} if _pixels_in(source._outlines(target), target) < 1 / 0.75 else {}
    how = {"nodata": np.nan, "resampling": resampling, "tolerance": 1e-4, **scales}
    result = None
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", transform=source.transform, **profile) as raster:
            raster.write(values, 1)
        with memory.open() as raster:
            for placed in turned(source, target):
                at = {"src_crs": placed.crs, "src_transform": placed.transform}
                with WarpedVRT(raster, **at, **wanted, **how) as vrt:
                    more = vrt.read(1)
                result = more if result is None else np.where(np.isnan(result), more, result)
    return result


def turned(source: Grid, target: Grid) -> list[Grid]:
    """The source grid at the longitudes where GDAL looks for pixels of the target, a full turn apart if there are several.

    GDAL looks from -180 to 180 degrees if the target is projected, and at the target's own longitudes if both have one CRS. A
    source across the antimeridian is needed on both sides of it. (GDAL's option CENTER_LONG is not for `WarpedVRT`.)
    """
    turn = _full_turn(source.crs)
    x, _ = target._border_in(source.crs) if turn else (np.empty(0), None)
    if not x.size:
        return [source]
    turns = np.rint((x - source._middle_x) / turn)
    return [source.moved(number * turn) for number in range(int(turns.min()), int(turns.max()) + 1)]


def _pixels_in(outlines: list[_Outline], target: Grid) -> float:
    """Side of a target pixel in pixels of the grid that the target's outlines are in, roughly."""
    if not outlines:
        return 1.0
    columns, rows = outlines[0]
    area = abs(np.sum(columns[:-1] * rows[1:] - columns[1:] * rows[:-1])) / 2
    return math.sqrt(area / (target.height * target.width))
