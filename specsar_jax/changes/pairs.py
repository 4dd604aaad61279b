"""Two maps laid over each other: on the grid of the earlier one, to which the later one is resampled by nearest neighbour if it is another.

Enters: two class maps, each a file or a region's folder, and if asked the rasters of their probabilities. Leaves: a reader of class ids
of both, window by window, and of which changes are sure enough; or one line of why the maps cannot be compared.

A change from class i to class j has the probability p_before(i) x p_after(j): that both maps are right, if their errors at a pixel have
nothing to do with each other. It is that of this change, not of any: 1 - sum over k of p_before(k) x p_after(k) would also count that
the pixel became something else. And it takes the probability of the mapped class alone, which both rasters of `predict` have.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Bool, UInt8
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from specsar_jax.changes import codes
from specsar_jax.maps.final_files import SCALE
from specsar_jax.pages.map_classes import check_probabilities
from specsar_jax.zones.counting import Codes, Reader, check_ids
from specsar_jax.zones.map_parts import Mapped, Part
from tfds_dwplus import bands
from tfds_dwplus.bands import Classes
from tfds_dwplus.files.opening import open_raster
from tfds_dwplus.files.raster_files import GDAL_ERRORS
from tfds_dwplus.files.strangers import one_line
from tfds_dwplus.imagery.grids import Grid, turned
from tfds_dwplus.vectors.geometries import grid_told

_STEPS = round(1 / SCALE)
"""A probability of 1 in the steps of a raster."""

_MADE_OF = ("weights_sha256", "s2_files", "s1_files", "s2_dates", "s1_dates")
"""Tags by which a map and its probabilities are known to belong together."""

_WARP = {"resampling": Resampling.nearest, "nodata": bands.IGNORE, "tolerance": 0.01}  # pixels of the raster

Ids = UInt8[np.ndarray, "rows columns"]
Pixels = Callable[[range, range], tuple[Ids, Ids, Bool[np.ndarray, "rows columns"] | None]]
"""Returns of some rows and columns the class ids of before and of after, and which changes are sure enough, if that is asked."""


@dataclasses.dataclass(frozen=True)
class Sure:
    """How sure a change must be to be told, and the rasters that say so: probabilities, or confidences, of `predict`."""

    least: float
    before: Path
    after: Path


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two maps of the same classes that have ground in common."""

    before: Mapped
    after: Mapped
    parts: tuple[Part, ...]
    """The rasters of `before` that `after` has ground of: what is compared lies on their grids."""
    sure: Sure | None

    @property
    def classes(self) -> Classes:
        """The classes of both maps, in the colours of the earlier one."""
        return self.before.classes

    @property
    def kinds(self) -> int:
        """Number of codes that are counted."""
        return codes.kinds(len(self.classes), unsure=self.sure is not None)

    @property
    def codes(self) -> Codes:
        """Codes of the changes, to be counted in zones."""
        return Codes(self.before.path, self.parts, self.kinds, self._opened_codes)

    @contextlib.contextmanager
    def opened(self, part: Part) -> Iterator[Pixels]:
        """Opens both maps on the grid of a raster of `before`, and gives what reads pixels of them.

        Raises:
            ValueError: a raster cannot be read or put on that grid, or has codes of no class; also when pixels are read.
        """
        with contextlib.ExitStack() as stack:

            def on_grid(path: Path, own: Grid, mapped: Mapped) -> _Bands:
                return stack.enter_context(_on_grid(path, own, part.grid, anywhere=mapped.anywhere))

            first = on_grid(part.path, part.grid, self.before)
            others = [on_grid(other.path, other.grid, self.after) for other in _partners(part, self.after)]
            shares = []
            if self.sure:
                shares = [on_grid(self.sure.before, part.grid, self.before)]
                shares.append(on_grid(self.sure.after, self.after.parts[0].grid, self.after))

            def read(rows: range, columns: range) -> tuple[Ids, Ids, Bool[np.ndarray, "rows columns"] | None]:
                before = first(rows, columns)[0]
                check_ids(before, self.classes, part.path)
                after = np.full_like(before, bands.IGNORE)
                for other in others:
                    found = other(rows, columns)[0]
                    check_ids(found, self.classes, self.after.path)
                    after = np.where(after == bands.IGNORE, found, after)
                if not self.sure:
                    return before, after, None
                one, two = (
                    _of_class(share(rows, columns), ids) for share, ids in zip(shares, (before, after), strict=True)
                )
                return before, after, one * two >= self.sure.least * _STEPS**2 - 1e-6

            yield read

    @contextlib.contextmanager
    def _opened_codes(self, part: Part) -> Iterator[Reader]:
        with self.opened(part) as read:
            yield lambda rows, columns: codes.coded(*read(rows, columns), len(self.classes))


def paired(before: Mapped, after: Mapped, sure: Sure | None) -> tuple[Pair, list[str]]:
    """Lays two maps over each other; returns them, and lines that the user should read.

    Raises:
        ValueError: they are of other classes or have no ground in common; or the rasters of `sure` are not those of the maps.
    """
    if before.classes.names != after.classes.names:
        raise ValueError(
            f"{before.path} is of the classes {one_line(', '.join(before.classes.names), 200)}, {after.path} of "
            f"{one_line(', '.join(after.classes.names), 200)}; give two maps of the same classes in one order"
        )
    parts = tuple(part for part in before.parts if _partners(part, after))
    if not parts:
        raise ValueError(
            f"{before.path} and {after.path} have no ground in common: {grid_told(before.parts[0].grid)}, and "
            f"{grid_told(after.parts[0].grid)}; give two maps of one place"
        )
    met = {other.path for part in parts for other in _partners(part, after)}
    lines = [
        f"{part.path} has no ground in common with {there}, and is not compared"
        for part, there in (
            *((part, after.path) for part in before.parts if part not in parts),
            *((part, before.path) for part in after.parts if part.path not in met),
        )
    ]
    moved = [(a, b) for a in parts for b in _partners(a, after) if _is_resampled(b.grid, a.grid)]
    lines += [
        f"{other.path} is on another grid than {part.path}, to which it is resampled by nearest neighbour: edges of classes may read as change"
        for part, other in moved
    ]
    if before.weights_sha256 and after.weights_sha256 and before.weights_sha256 != after.weights_sha256:
        lines.append(
            "the maps are of different weights (weights_sha256): part of the change may be that of the network"
        )
    if sure:
        _check_shares(sure.before, before, "--before_probabilities", anywhere=before.anywhere)
        _check_shares(sure.after, after, "--after_probabilities", anywhere=after.anywhere)
    return Pair(before, after, parts, sure), lines


def _partners(part: Part, after: Mapped) -> list[Part]:
    """Returns the rasters of a map that may have ground of a raster; of two regions, that of the same UTM zone."""
    return [
        other
        for other in after.parts
        if not (part.utm_zone and other.utm_zone and part.utm_zone != other.utm_zone) and other.grid.overlaps(part.grid)
    ]


def _is_resampled(own: Grid, grid: Grid) -> bool:
    return any(_offset(grid, placed) is None for placed in turned(own, grid))


def _check_shares(path: Path, mapped: Mapped, option: str, *, anywhere: bool) -> None:
    """Raises a ValueError unless a raster holds the probabilities of the classes of a map, or of the mapped class."""
    if len(mapped.parts) > 1:
        raise ValueError(
            f"{option} {path} is one raster, {mapped.path} has {len(mapped.parts)}; give maps that are one raster each, or no --confidence"
        )
    wanted = f"expected what predict --probabilities or --confidence wrote with {mapped.path}"
    (part,) = mapped.parts
    with open_raster(path, anywhere=anywhere) as raster, open_raster(part.path, anywhere=anywhere) as its_map:
        steps = {*zip(raster.dtypes, raster.nodatavals, raster.scales, strict=True)}
        if steps != {("uint8", bands.IGNORE, SCALE)}:
            raise ValueError(f"{option} {path} is not uint8 in steps of {SCALE:g} with nodata {bands.IGNORE}, {wanted}")
        if raster.count > 1:
            check_probabilities(f"{option} {path}", raster, str(mapped.path), part.grid, mapped.classes)
        elif not Grid.of(raster).same(part.grid):
            raise ValueError(f"{option} {path} is not on the grid of {mapped.path}, {wanted}")
        tags, own = raster.tags(), its_map.tags()
    for tag in _MADE_OF:
        if tag in tags and tag in own and tags[tag] != own[tag]:
            raise ValueError(
                f"{option} {path} is of another map: its {tag} is {one_line(tags[tag], 80)}, that of {mapped.path} "
                f"{one_line(own[tag], 80)}; {wanted}"
            )


_Bands = Callable[[range, range], UInt8[np.ndarray, "band rows columns"]]


@contextlib.contextmanager
def _on_grid(path: Path, own: Grid, grid: Grid, *, anywhere: bool) -> Iterator[_Bands]:
    """Opens a raster on its `own` grid to read it on another one; 255 where it has no pixel.

    In degrees a full turn is the same place, so that of two maps across the antimeridian one may lie at 181 and the other at -179.
    """
    with contextlib.ExitStack() as stack:
        raster = stack.enter_context(open_raster(path, anywhere=anywhere))
        found = []
        for placed in turned(own, grid):
            offset = _offset(grid, placed)
            try:
                if offset is None:
                    how = {"crs": grid.crs, "transform": grid.transform, "height": grid.height, "width": grid.width}
                    how |= {} if placed == own else {"src_crs": placed.crs, "src_transform": placed.transform}
                    found.append((stack.enter_context(WarpedVRT(raster, **how, **_WARP)), (0, 0)))
                else:
                    found.append((raster, offset))
            except GDAL_ERRORS as error:
                raise ValueError(
                    f"{path} cannot be put on the grid of the earlier map ({one_line(error.__cause__ or error)}); reproject it"
                ) from None

        def read(rows: range, columns: range) -> UInt8[np.ndarray, "band rows columns"]:
            values, *others = (
                _part(opened, path, _moved(rows, down), _moved(columns, right)) for opened, (down, right) in found
            )
            for other in others:
                values = np.where(values == bands.IGNORE, other, values)
            return values

        yield read


def _offset(grid: Grid, own: Grid) -> tuple[int, int] | None:
    """Returns which row and column of a raster's own grid is the first of another one with the same pixels; None if others are there.

    Of a raster that is moved by whole pixels, such as the mosaic of a larger region, nothing is resampled.
    """
    if grid.crs != own.crs:
        return None
    column, row = ~own.transform @ grid.transform @ (0, 0)
    moved = Grid(grid.crs, own.transform @ rasterio.Affine.translation(round(column), round(row)), *grid.shape)
    return (round(row), round(column)) if moved.same(grid) else None


def _moved(pixels: range, by: int) -> range:
    return range(pixels.start + by, pixels.stop + by)


def _part(
    raster: rasterio.DatasetReader | WarpedVRT, path: Path, rows: range, columns: range
) -> UInt8[np.ndarray, "band rows columns"]:
    """Reads a window that may reach beyond a raster; 255 there."""
    inside = [
        range(min(max(pixels.start, 0), size), max(min(pixels.stop, size), 0))
        for pixels, size in ((rows, raster.height), (columns, raster.width))
    ]
    values = np.full((raster.count, len(rows), len(columns)), bands.IGNORE, np.uint8)
    if not all(map(len, inside)):
        return values
    upper, left = inside[0].start - rows.start, inside[1].start - columns.start
    window = Window(inside[1].start, inside[0].start, len(inside[1]), len(inside[0]))
    try:
        values[:, upper : upper + len(inside[0]), left : left + len(inside[1])] = raster.read(window=window)
    except GDAL_ERRORS as error:
        raise ValueError(
            f"cannot read the pixels of {path}; is the file cut short? ({one_line(error.__cause__ or error)})"
        ) from None
    return values


def _of_class(shares: UInt8[np.ndarray, "band rows columns"], ids: Ids) -> np.ndarray:
    """Returns the probability of the mapped class in steps, 0 where it is not known."""
    if len(shares) > 1:
        shares = np.take_along_axis(shares, np.where(ids == bands.IGNORE, 0, ids)[None].astype(np.intp), axis=0)
    return np.where(shares[0] == bands.IGNORE, 0, shares[0]).astype(np.int32)
