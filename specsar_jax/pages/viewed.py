"""Reads a map for the viewer: picture tiles, the pixel at a place, and the areas of the classes in a view.

Enters: a class map of `specsar_jax.predict`; optionally the scene it was made from and its class probabilities. Leaves: PNG tiles
in web Mercator, and figures. Needs the extra `view`.

A map that is not georeferenced is shown as if its pixels of 10 m lay on the equator; its areas are in pixels.
"""

import contextlib
import dataclasses
import io
import math
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import transform
from rasterio.windows import Window

from specsar_jax.pages.viewed_classes import check_probabilities, classes_of_map
from specsar_jax.pages.viewed_rasters import MERCATOR, TILE_PX, on_earth, placed_grid, reopened, with_overviews
from tfds_dwplus import bands
from tfds_dwplus.files.addresses import shown as plain
from tfds_dwplus.files.addresses import shown_in
from tfds_dwplus.files.opening import open_raster
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.rasters import Layer, check_can_be_warped
from tfds_dwplus.imagery.scenes import Reading, open_scene

MOST_SAMPLES = 1536
"""Largest number of rows and columns in which the classes of a view are counted."""

EARTH_M, FLATTENING = 6378137.0, 1 / 298.257223563
"""Equatorial radius of WGS 84, which is also the radius of web Mercator's sphere, and flattening of WGS 84."""

WGS84 = CRS.from_epsg(4326)

Bounds = tuple[float, float, float, float]
"""Left, bottom, right, top."""


@dataclasses.dataclass(frozen=True)
class Channel:
    """A band of the imagery with its contrast stretch."""

    address: str
    index: int
    low: float
    """Digital number shown as black."""
    high: float
    """Digital number shown as white."""


@dataclasses.dataclass(frozen=True)
class OpenMap:
    """A map with its imagery and probabilities; methods may be called from any thread."""

    name: str
    address: str
    grid: Grid
    placed: bool
    """Whether the map is georeferenced; if not, `grid` is at the equator."""
    tags: dict[str, str]
    classes: bands.Classes
    """In the order of its class ids."""
    imagery: tuple[Channel, ...] = ()
    """Red, green and blue; empty if there is no imagery."""
    probabilities: str | None = None
    anywhere: bool = False
    """Whether its files may take their pixels from anywhere; as `opening.open_raster`."""

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

    def about(self) -> dict[str, Any]:
        """Returns the facts about the map that the page loads first."""
        crs = self.grid.crs.to_string() if self.placed else ""
        return {
            "name": self.name,
            "bounds": self.bounds,
            "placed": self.placed,
            "crs": crs if len(crs) < 40 else self.grid.crs.to_dict().get("proj", "a CRS of its own"),
            "size": [self.grid.width, self.grid.height],
            "zooms": list(self.zooms),
            "classes": [
                {"name": name.replace("_", " "), "colour": f"#{colour}"}
                for name, colour in zip(self.classes.names, self.classes.colours, strict=True)
            ],
            "imagery": bool(self.imagery),
            "probabilities": bool(self.probabilities),
            "tags": self.tags,
        }

    def map_tile(self, z: int, x: int, y: int, hidden: int = 0) -> bytes:
        """Returns a tile of the class map as PNG, transparent where there is no class.

        Args:
            z: zoom level; level 0 shows the world in one tile.
            x: column of the tile.
            y: row of the tile.
            hidden: bit mask of the classes not to draw.
        """
        [class_id] = _part(self.address, [1], tile_bounds(z, x, y), TILE_PX, TILE_PX, self.anywhere)
        palette = np.zeros((256, 4), np.uint8)
        for place, rgb in enumerate(self.classes.rgb()):
            palette[place] = (*rgb, 0 if hidden >> place & 1 else 255)
        return _png(palette[class_id.filled(bands.IGNORE)])

    def imagery_tile(self, z: int, x: int, y: int) -> bytes:
        """Returns a tile of the imagery as PNG, transparent where it has no data."""
        bounds = tile_bounds(z, x, y)
        read = {}
        for address in {channel.address for channel in self.imagery}:
            indexes = [channel.index for channel in self.imagery if channel.address == address]
            part = _part(address, indexes, bounds, TILE_PX, TILE_PX, self.anywhere)
            read |= {(address, index): band for index, band in zip(indexes, part, strict=True)}
        numbers = [(channel, read[channel.address, channel.index]) for channel in self.imagery]
        seen = np.all([~np.ma.getmaskarray(n) & (n.data != bands.S2_NODATA) for _, n in numbers], axis=0)
        light = [np.clip((n.data.astype(np.float32) - c.low) / (c.high - c.low), 0, 1) for c, n in numbers]
        # The square root brightens dark pixels, as in `tfds_dwplus.look`.
        return _png((np.stack([*np.sqrt(light), seen], axis=-1) * 255).astype(np.uint8))

    def point(self, lon: float, lat: float) -> dict[str, Any] | None:
        """Returns class and probabilities of the pixel at a place in degrees; None outside of the map."""
        with reopened(self.address, self.anywhere) as raster:
            try:
                (x,), (y,) = transform(WGS84, raster.crs, [lon], [lat])
            except Exception:  # PROJ's error for a place outside of the CRS; rasterio has no public name for it
                return None
            if not (math.isfinite(x) and math.isfinite(y)):
                return None
            column, row = (math.floor(v) for v in ~raster.transform @ (x, y))
            if not (0 <= row < raster.height and 0 <= column < raster.width):
                return None
            window = Window(column, row, 1, 1)
            class_id = int(raster.read(1, window=window)[0, 0])
        found = {"row": row, "column": column, "class": class_id if class_id < len(self.classes) else None}
        if self.probabilities and found["class"] is not None:
            with reopened(self.probabilities, self.anywhere) as raster:
                shares = raster.read(window=window, masked=True)[:, 0, 0] * raster.scales
            found["probabilities"] = [round(float(share), 4) for share in shares.filled(0)]
        return found

    def areas(self, view: Bounds) -> dict[str, Any]:
        """Returns the area of each class within a view.

        The view is sampled in web Mercator, at half the pixel size of the map, or more coarsely if that takes more than
        `MOST_SAMPLES` rows or columns. Each sample counts with the area that it covers on the ellipsoid.

        Args:
            view: west, south, east, north of the view in degrees.

        Returns:
            `areas`, in the order of the classes; their `unit`, ha or pixels; `step_px`, distance of the samples in map pixels.
        """
        whole = self.bounds
        low = [max(a, b) for a, b in zip(whole[:2], view[:2], strict=True)]
        high = [min(a, b) for a, b in zip(whole[2:], view[2:], strict=True)]
        unit = "ha" if self.placed else "pixels"
        if low[0] >= high[0] or low[1] >= high[1]:
            return {"areas": [0.0] * len(self.classes), "unit": unit, "step_px": 0.5}
        left, bottom, right, top = bounds = to_mercator((*low, *high))
        width, height = (
            min(math.ceil(2 * extent / self.pixel_m), MOST_SAMPLES) for extent in (right - left, top - bottom)
        )
        [class_id] = _part(self.address, [1], bounds, height, width, self.anywhere)
        class_id = class_id.filled(bands.IGNORE)
        if self.placed:
            area = row_areas_m2(bottom, top, height, (right - left) / width) / 1e4
        else:
            area = np.full(height, (right - left) * (top - bottom) / (width * height) / self.pixel_m**2)
        sums = np.bincount(class_id.ravel(), np.repeat(area, width), minlength=256)[: len(self.classes)]
        step = max((right - left) / width, (top - bottom) / height) / self.pixel_m
        return {"areas": sums.tolist(), "unit": unit, "step_px": round(step, 2)}


@contextlib.contextmanager
def open_map(
    path: str,
    s2: Sequence[str] = (),
    probabilities: str | None = None,
    s2_bands: tuple[str, ...] = (),
    *,
    any_vrt_source: bool = False,
) -> Iterator[OpenMap]:
    """Opens a map with its imagery and probabilities. If a large file has no overviews, they are made in a temporary folder.

    Args:
        path: class map of `specsar_jax.predict`.
        s2: files, folders or products of Sentinel-2.
        probabilities: raster of the map's class probabilities, one band per class.
        s2_bands: names of the bands of `s2`, for files without band names.
        any_vrt_source: whether a VRT may take its pixels from anywhere; as `anywhere` of `opening.open_raster`.

    Raises:
        ValueError: a file cannot be read, has the wrong content, or does not cover the map.
    """
    with open_raster(path, anywhere=any_vrt_source) as raster:
        classes = classes_of_map(plain(path), raster)
        grid = Grid.of(raster)
        tags = {
            key: shown_in(text) for key, text in raster.tags().items() if not re.match(r"AREA_OR_POINT|class_\d+$", key)
        }
        address = on_earth(raster, path)
    path = plain(path)
    shown = OpenMap(Path(path).name, address, placed_grid(grid), grid.placed, tags, classes, anywhere=any_vrt_source)
    if not grid.placed:
        print(f"note: {path} has no CRS and transform; it is shown without a place, areas in pixels", file=sys.stderr)
    elif shown.grid.bounds_in(WGS84) is None:
        raise ValueError(f"{path} has CRS {grid.crs.to_string()[:80]}, which has no longitude and latitude")
    if probabilities:
        with open_raster(probabilities, anywhere=any_vrt_source) as raster:
            check_probabilities(plain(probabilities), raster, path, grid, classes)
        shown = dataclasses.replace(shown, probabilities=str(probabilities))
    if s2:
        reading = Reading(s2_bands=s2_bands, any_vrt_source=any_vrt_source)
        shown = dataclasses.replace(shown, imagery=_channels(s2, reading, grid))
    with tempfile.TemporaryDirectory(prefix="specsar_jax_view_", ignore_cleanup_errors=True) as folder:
        address, _ = with_overviews(
            shown.address, any_vrt_source, [1], Resampling.nearest, Path(folder, "map.vrt"), path
        )
        imagery = list(shown.imagery)
        for number, scene in enumerate(dict.fromkeys(channel.address for channel in imagery)):
            bands_of = [channel.index for channel in imagery if channel.address == scene]
            smaller, places = with_overviews(
                *(scene, any_vrt_source, bands_of, Resampling.average),
                *(Path(folder, f"s2_{number}.vrt"), Path(plain(scene)).name),
            )
            imagery = [
                dataclasses.replace(c, address=smaller, index=places[c.index]) if c.address == scene else c
                for c in imagery
            ]
        yield dataclasses.replace(shown, address=address, imagery=tuple(imagery))


def to_mercator(bounds: Bounds) -> Bounds:
    """Converts west, south, east, north from degrees to metres of web Mercator."""
    west, south, east, north = map(math.radians, bounds)
    return EARTH_M * west, EARTH_M * math.asinh(math.tan(south)), EARTH_M * east, EARTH_M * math.asinh(math.tan(north))


def tile_bounds(z: int, x: int, y: int) -> Bounds:
    """Returns the bounds of a tile in metres of web Mercator."""
    half = math.pi * EARTH_M
    side = 2 * half / 2**z
    return x * side - half, half - (y + 1) * side, (x + 1) * side - half, half - y * side


def overlap_px(
    raster: Bounds | None, view: Bounds, height: int, width: int
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Returns the first and the end of the rows, and of the columns, of a view that a raster reaches; None if there are none.

    Args:
        raster: bounds in metres of web Mercator; left is greater than right across the antimeridian. None: not known, so all.
        view: bounds in metres of web Mercator.
        height: rows of the view.
        width: columns of the view.
    """
    if raster is None or not all(map(math.isfinite, raster)):
        return (0, height), (0, width)
    left, bottom, right, top = raster
    half = math.pi * EARTH_M
    sides = [(left, right)] if left <= right else [(left, half), (-half, right)]
    sides = [
        (a + turn, b + turn) for a, b in sides for turn in (-2 * half, 0.0, 2 * half)
    ]  # views reach beyond 180 degrees
    sides = [(max(a, view[0]), min(b, view[2])) for a, b in sides if a < view[2] and b > view[0]]
    if not sides or bottom >= view[3] or top <= view[1]:
        return None

    def pixels(first: float, last: float, start: float, extent: float, size: int) -> tuple[int, int]:
        # A pixel more, as bounds are those of the corners and edges
        low, high = (first - start) / extent * size, (last - start) / extent * size
        return max(math.floor(low) - 1, 0), min(math.ceil(high) + 1, size)

    rows = pixels(view[3] - top, view[3] - bottom, 0.0, view[3] - view[1], height)
    columns = pixels(min(a for a, _ in sides), max(b for _, b in sides), view[0], view[2] - view[0], width)
    return rows, columns


def row_areas_m2(bottom: float, top: float, rows: int, column_m: float) -> Float64[np.ndarray, " rows"]:
    """Returns the area on the ellipsoid of a pixel in each row of a raster in web Mercator, from the top.

    Args:
        bottom: lower edge of the raster, metres of web Mercator.
        top: upper edge of the raster, metres of web Mercator.
        rows: number of rows.
        column_m: width of a pixel, metres of web Mercator.

    Source: Snyder 1987, Map Projections, a Working Manual, equation 3-12: area between the equator and a parallel.
    """
    sine = np.tanh(np.linspace(top, bottom, rows + 1) / EARTH_M)  # sine of the latitude
    eccentricity = math.sqrt(FLATTENING * (2 - FLATTENING))
    polar = EARTH_M * (1 - FLATTENING)
    to_equator = sine / (1 - (eccentricity * sine) ** 2) + np.arctanh(eccentricity * sine) / eccentricity
    return -np.diff(to_equator) * polar**2 / 2 * column_m / EARTH_M


def _part(
    address: str, indexes: list[int], bounds: Bounds, height: int, width: int, anywhere: bool = False
) -> np.ma.MaskedArray:
    """Reads some bands of a raster, resampled to a rectangle of web Mercator."""
    from rio_tiler import reader

    with reopened(address, anywhere) as raster:
        found = np.ma.array(np.zeros((len(indexes), height, width), raster.dtypes[indexes[0] - 1]), mask=True)
        # Beyond its edge nothing is read: GDAL would warp nothing for minutes, at the resolution of the file.
        if (window := overlap_px(Grid.of(raster).bounds_in(MERCATOR), bounds, height, width)) is None:
            return found
        (top, bottom), (left, right) = window
        x_px, y_px = (bounds[2] - bounds[0]) / width, (bounds[3] - bounds[1]) / height
        inside = (bounds[0] + left * x_px, bounds[3] - bottom * y_px, bounds[0] + right * x_px, bounds[3] - top * y_px)
        size = bottom - top, right - left
        part = reader.part(raster, inside, *size, dst_crs=MERCATOR, bounds_crs=MERCATOR, indexes=indexes)
        found[:, top:bottom, left:right] = part.array
        return found


def _png(picture: UInt8[np.ndarray, "height width 4"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png", compress_level=1)
    return file.getvalue()


def _channels(s2: Sequence[str], reading: Reading, grid: Grid) -> tuple[Channel, ...]:
    """Returns red, green and blue of a scene that covers a part of the grid."""
    # What is decided of scale and offset does not matter, as the contrast stretch removes both.
    with open_scene(s2, (), ("B4", "B3", "B2"), (), reading, tell=lambda _: None) as scene:
        channels = []
        for layer in scene.s2.layers:
            check_can_be_warped(layer.address, layer.grid, grid)
            low, high = _stretch(layer)
            channels.append(Channel(on_earth(layer.raster, layer.raster.name), layer.index, low, high))
    return tuple(channels)


def _stretch(layer: Layer) -> tuple[float, float]:
    """Returns the stored numbers to show as black and white: 96 % of the pixels lie between them."""
    values = layer.sample
    if not values.size:  # the sample holds no data
        return 0.0, 3000.0
    low, high = np.percentile(values, (2, 98))
    return float(low), float(max(high, low + 1))
