"""A map: its class ids in any rectangle of web Mercator, picture tiles, the pixel at a place, and the areas of its classes in a view.

Enters: an opened map of `opening`. Leaves: pictures and figures. A map that is not georeferenced is shown as if its pixels of 10 m lay on
the equator; its areas are in pixels.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from rasterio.warp import transform
from rasterio.windows import Window

from specsar_jax.pages.map_classes import Coding
from specsar_jax.viewer.mercator import EARTH_M, TILE_PX, WGS84, Bounds, row_areas_m2, tile_bounds, to_mercator
from specsar_jax.viewer.rasters import part, reopened
from tfds_dwplus import bands
from tfds_dwplus.imagery.grids import Grid

FEWEST_SAMPLES, MOST_SAMPLES = 768, 1536
"""Rows or columns, whichever are more, in which the classes of a view are counted: few pixels are sampled often, so that edges are true."""

FADED = 40
"""Opacity of a pixel that the network was not sure enough of, of 255."""


class Pixel(NamedTuple):
    """A pixel of a map, from 0."""

    row: int
    column: int


class Sampled(NamedTuple):
    """The classes of a view, sample by sample."""

    class_id: UInt8[np.ndarray, "rows columns"]
    """255 where there is no class."""
    inside: Bool[np.ndarray, "rows columns"]
    """Where there is a pixel of the map, with a class or without."""
    areas: Float64[np.ndarray, " rows"]
    """Of a sample in each row, hectares or pixels."""
    bounds: Bounds
    """Metres of web Mercator."""
    step_px: float
    """Distance of the samples, pixels of the map."""

    def sums(self, ids: UInt8[np.ndarray, "rows columns"], number: int) -> list[float]:
        """Returns the area of each id below a number."""
        weights = np.repeat(self.areas, ids.shape[1])
        return np.bincount(ids.ravel(), weights, minlength=256)[:number].tolist()


@dataclasses.dataclass(frozen=True)
class ClassMap:
    """A map; methods may be called from any thread."""

    name: str
    source: str
    """Where the file is, as it was given."""
    address: str
    """To open by `rasters.reopened`."""
    band: int
    """Of the classes at the address, from 1."""
    source_band: int
    """Of the classes in the file, from 1."""
    free: float
    """A number that none of its pixels has."""
    grid: Grid
    """At the equator if the map is not georeferenced."""
    file_grid: Grid
    """As the file has it."""
    tags: dict[str, str]
    coding: Coding
    safe: tuple[str, ...]
    """Second colours of the classes, `pages.palettes`."""
    nodata_share: float = 0.0
    """Share of its pixels without a class, of those that were looked at."""
    anywhere: bool = False
    """Whether its files may take their pixels from anywhere; as `opening.open_raster`."""

    @property
    def classes(self) -> bands.Classes:
        """Returns the classes in the order of their ids."""
        return self.coding.classes

    @property
    def placed(self) -> bool:
        """Returns whether the map is georeferenced."""
        return self.file_grid.placed

    @property
    def bounds(self) -> Bounds:
        """Returns west, south, east, north in degrees; east is beyond 180 where the map crosses the antimeridian."""
        west, south, east, north = self.grid.bounds_in(WGS84)
        return west, max(south, -85.0), east + 360 * (east < west), min(north, 85.0)

    @property
    def pixel_m(self) -> float:
        """Returns the side of a pixel of the map, in metres of web Mercator."""
        left, _, right, _ = to_mercator(self.bounds)
        return (right - left) / self.grid.width

    @property
    def zooms(self) -> tuple[int, int]:
        """Returns the first and the last zoom level that there are tiles of; a tile of lower ones would be a dot."""
        zoom = math.log2(2 * math.pi * EARTH_M / TILE_PX / self.pixel_m)
        return max(math.floor(zoom) - 9, 0), min(math.ceil(zoom) + 5, 24)

    @property
    def unit(self) -> str:
        """Returns the unit of its areas."""
        return "ha" if self.placed else "pixels"

    @property
    def crs(self) -> str:
        """Returns a short name of its CRS; "" if it has no place."""
        told = self.grid.crs.to_string() if self.placed else ""
        return told if len(told) < 40 else self.grid.crs.to_dict().get("proj", "a CRS of its own")

    def read(
        self, bounds: Bounds, size: tuple[int, int]
    ) -> tuple[UInt8[np.ndarray, "rows columns"], Bool[np.ndarray, "rows columns"]]:
        """Reads a rectangle of web Mercator: class ids, 255 where there is none, and where the map has a pixel."""
        [codes] = part(self.address, [self.band], bounds, size, self.anywhere, self.free)
        inside = ~np.ma.getmaskarray(codes)
        return np.where(inside, self.coding.ids(codes.data), np.uint8(bands.IGNORE)), inside

    def tile(
        self,
        place: tuple[int, int, int],
        hidden: int = 0,
        unsure: Bool[np.ndarray, "height width"] | None = None,
        *,
        safe: bool = False,
    ) -> UInt8[np.ndarray, "height width 4"]:
        """Returns a picture of a tile, transparent where there is no class.

        Args:
            place: zoom level, column and row of the tile; level 0 shows the world in one tile.
            hidden: bit mask of the classes not to draw.
            unsure: pixels to fade; None for none.
            safe: whether in the second colours.
        """
        class_id, _ = self.read(tile_bounds(*place), (TILE_PX, TILE_PX))
        palette = np.zeros((256, 4), np.uint8)
        colours = self.safe if safe else self.classes.colours
        for number, colour in enumerate(colours):
            palette[number] = (*bytes.fromhex(colour), 0 if hidden >> number & 1 else 255)
        picture = palette[class_id]
        if unsure is not None:
            picture[..., 3] = np.where(unsure, np.minimum(picture[..., 3], FADED), picture[..., 3])
        return picture

    def pixel_at(self, lon: float, lat: float) -> Pixel | None:
        """Returns the pixel at a place in degrees; None outside of the map."""
        try:
            (x,), (y,) = transform(WGS84, self.grid.crs, [lon], [lat])
        except Exception:  # PROJ's error for a place outside of the CRS; rasterio has no public name for it
            return None
        if not (math.isfinite(x) and math.isfinite(y)):
            return None
        column, row = (math.floor(v) for v in ~self.grid.transform @ (x, y))
        return Pixel(row, column) if 0 <= row < self.grid.height and 0 <= column < self.grid.width else None

    def class_at(self, pixel: Pixel) -> int | None:
        """Returns the class id of a pixel; None if it has none."""
        with reopened(self.address, self.anywhere) as raster:
            codes = raster.read(self.band, window=Window(pixel.column, pixel.row, 1, 1))
        class_id = int(self.coding.ids(codes)[0, 0])
        return class_id if class_id < len(self.classes) else None

    def outline(self, pixel: Pixel, lon: float) -> list[list[float]]:
        """Returns the corners of a pixel in degrees, latitude first, as Leaflet counts; near a longitude, also beyond 180."""
        corners = [
            self.grid.transform @ (pixel.column + right, pixel.row + down)
            for right, down in ((0, 0), (1, 0), (1, 1), (0, 1))
        ]
        lons, lats = transform(self.grid.crs, WGS84, *map(list, zip(*corners, strict=True)))
        return [[lat, x + 360 * round((lon - x) / 360)] for x, lat in zip(lons, lats, strict=True)]

    def sampled(self, view: Bounds) -> Sampled | None:
        """Samples a view in web Mercator, at half the pixel size of the map or finer, but coarser if that takes more than `MOST_SAMPLES` rows or
        columns. Each sample counts with the area that it covers on the ellipsoid.

        Args:
            view: west, south, east, north in degrees.

        Returns:
            The samples of the map's part in the view; None if it has none.
        """
        whole = self.bounds
        low = [max(a, b) for a, b in zip(whole[:2], view[:2], strict=True)]
        high = [min(a, b) for a, b in zip(whole[2:], view[2:], strict=True)]
        if low[0] >= high[0] or low[1] >= high[1]:
            return None
        left, bottom, right, top = bounds = to_mercator((*low, *high))
        extents_px = (right - left) / self.pixel_m, (top - bottom) / self.pixel_m
        often = max(2.0, FEWEST_SAMPLES / max(extents_px))
        width, height = (min(math.ceil(often * extent), MOST_SAMPLES) for extent in extents_px)
        class_id, inside = self.read(bounds, (height, width))
        if self.placed:
            areas = row_areas_m2(bottom, top, height, (right - left) / width) / 1e4
        else:
            areas = np.full(height, (right - left) * (top - bottom) / (width * height) / self.pixel_m**2)
        step = max((right - left) / width, (top - bottom) / height) / self.pixel_m
        return Sampled(class_id, inside, areas, bounds, step)

    def about(self) -> dict[str, Any]:
        """Returns the facts about the map that the page loads first."""
        return {
            "name": self.name,
            "crs": self.crs,
            "size": [self.grid.width, self.grid.height],
            "classes": [
                {"name": name.replace("_", " "), "colour": f"#{colour}", "safe": f"#{safe}"}
                for name, colour, safe in zip(self.classes.names, self.classes.colours, self.safe, strict=True)
            ],
        }
