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
import time
import xml.etree.ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from jaxtyping import Float64, UInt8
from PIL import Image
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.warp import transform
from rasterio.windows import Window

from tfds_dwplus import bands
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.rasters import Layer, check_can_be_warped
from tfds_dwplus.imagery.scene_files import open_raster
from tfds_dwplus.imagery.scenes import Reading, open_scene

TILE_PX = 256

LARGE_PX = 2048
"""Rasters with more rows or columns get overviews if they have none; without, a zoomed-out tile would read the whole file."""

MOST_SAMPLES = 1536
"""Largest number of rows and columns in which the classes of a view are counted."""

EARTH_M, FLATTENING = 6378137.0, 1 / 298.257223563
"""Equatorial radius of WGS 84, which is also the radius of web Mercator's sphere, and flattening of WGS 84."""

WGS84, MERCATOR = CRS.from_epsg(4326), CRS.from_epsg(3857)

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
    imagery: tuple[Channel, ...] = ()
    """Red, green and blue; empty if there is no imagery."""
    probabilities: str | None = None

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

    def about(self) -> dict[str, Any]:
        """Returns the facts about the map that the page loads first."""
        zoom = math.log2(2 * math.pi * EARTH_M / TILE_PX / self.pixel_m)
        crs = self.grid.crs.to_string() if self.placed else ""
        return {
            "name": self.name,
            "bounds": self.bounds,
            "placed": self.placed,
            "crs": crs if len(crs) < 40 else self.grid.crs.to_dict().get("proj", "a CRS of its own"),
            "size": [self.grid.width, self.grid.height],
            "zooms": [max(math.floor(zoom) - 9, 0), min(math.ceil(zoom) + 5, 24)],
            "classes": [
                {"name": name.replace("_", " "), "colour": f"#{colour}"}
                for name, colour in zip(bands.CLASSES, bands.CLASS_COLOURS, strict=True)
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
        [class_id] = _part(self.address, [1], tile_bounds(z, x, y), TILE_PX, TILE_PX)
        palette = np.zeros((256, 4), np.uint8)
        for place, rgb in enumerate(bands.class_rgb()):
            palette[place] = (*rgb, 0 if hidden >> place & 1 else 255)
        return _png(palette[class_id.filled(bands.IGNORE)])

    def imagery_tile(self, z: int, x: int, y: int) -> bytes:
        """Returns a tile of the imagery as PNG, transparent where it has no data."""
        bounds = tile_bounds(z, x, y)
        read = {}
        for address in {channel.address for channel in self.imagery}:
            indexes = [channel.index for channel in self.imagery if channel.address == address]
            part = _part(address, indexes, bounds, TILE_PX, TILE_PX)
            read |= {(address, index): band for index, band in zip(indexes, part, strict=True)}
        numbers = [(channel, read[channel.address, channel.index]) for channel in self.imagery]
        seen = np.all([~np.ma.getmaskarray(n) & (n.data != bands.S2_NODATA) for _, n in numbers], axis=0)
        light = [np.clip((n.data.astype(np.float32) - c.low) / (c.high - c.low), 0, 1) for c, n in numbers]
        # The square root brightens dark pixels, as in `tfds_dwplus.look`.
        return _png((np.stack([*np.sqrt(light), seen], axis=-1) * 255).astype(np.uint8))

    def point(self, lon: float, lat: float) -> dict[str, Any] | None:
        """Returns class and probabilities of the pixel at a place in degrees; None outside of the map."""
        with rasterio.open(self.address) as raster:
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
        found = {"row": row, "column": column, "class": class_id if class_id != bands.IGNORE else None}
        if self.probabilities and class_id != bands.IGNORE:
            with rasterio.open(self.probabilities) as raster:
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
            return {"areas": [0.0] * len(bands.CLASSES), "unit": unit, "step_px": 0.5}
        left, bottom, right, top = bounds = to_mercator((*low, *high))
        width, height = (
            min(math.ceil(2 * extent / self.pixel_m), MOST_SAMPLES) for extent in (right - left, top - bottom)
        )
        [class_id] = _part(self.address, [1], bounds, height, width)
        class_id = class_id.filled(bands.IGNORE)
        if self.placed:
            area = row_areas_m2(bottom, top, height, (right - left) / width) / 1e4
        else:
            area = np.full(height, (right - left) * (top - bottom) / (width * height) / self.pixel_m**2)
        sums = np.bincount(class_id.ravel(), np.repeat(area, width), minlength=256)[: len(bands.CLASSES)]
        step = max((right - left) / width, (top - bottom) / height) / self.pixel_m
        return {"areas": sums.tolist(), "unit": unit, "step_px": round(step, 2)}


@contextlib.contextmanager
def open_map(
    path: str, s2: Sequence[str] = (), probabilities: str | None = None, s2_bands: tuple[str, ...] = ()
) -> Iterator[OpenMap]:
    """Opens a map with its imagery and probabilities. If a large file has no overviews, they are made in a temporary folder.

    Args:
        path: class map of `specsar_jax.predict`.
        s2: files, folders or products of Sentinel-2.
        probabilities: raster of the map's class probabilities, one band per class.
        s2_bands: names of the bands of `s2`, for files without band names.

    Raises:
        ValueError: a file cannot be read, has the wrong content, or does not cover the map.
    """
    with open_raster(path) as raster:
        _check_map(path, raster)
        grid = Grid.of(raster)
        tags = {key: text for key, text in raster.tags().items() if not re.match(r"AREA_OR_POINT|class_\d+$", key)}
    shown = OpenMap(Path(path).name, _on_earth(path, grid), _placed(grid), grid.placed, tags)
    if not grid.placed:
        print(f"note: {path} has no CRS and transform; it is shown without a place, areas in pixels", file=sys.stderr)
    elif shown.grid.bounds_in(WGS84) is None:
        raise ValueError(f"{path} has CRS {grid.crs.to_string()[:80]}, which has no longitude and latitude")
    if probabilities:
        with open_raster(probabilities) as raster:
            _check_probabilities(probabilities, raster, path, grid)
        shown = dataclasses.replace(shown, probabilities=str(probabilities))
    if s2:
        shown = dataclasses.replace(shown, imagery=_channels(s2, s2_bands, grid))
    with tempfile.TemporaryDirectory(prefix="specsar_jax_view_", ignore_cleanup_errors=True) as folder:
        address, _ = _with_overviews(shown.address, [1], Resampling.nearest, Path(folder, "map.vrt"), path)
        imagery = list(shown.imagery)
        for number, scene in enumerate(dict.fromkeys(channel.address for channel in imagery)):
            bands_of = [channel.index for channel in imagery if channel.address == scene]
            smaller, places = _with_overviews(
                scene, bands_of, Resampling.average, Path(folder, f"s2_{number}.vrt"), Path(scene).name
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


def _part(address: str, indexes: list[int], bounds: Bounds, height: int, width: int) -> np.ma.MaskedArray:
    """Reads some bands of a raster, resampled to a rectangle of web Mercator."""
    from rio_tiler import reader

    with rasterio.open(address) as raster:
        part = reader.part(raster, bounds, height, width, dst_crs=MERCATOR, bounds_crs=MERCATOR, indexes=indexes)
        return part.array


def _png(picture: UInt8[np.ndarray, "height width 4"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png", compress_level=1)
    return file.getvalue()


def _check_map(path: str, raster: rasterio.DatasetReader) -> None:
    expected = "expected a class map of specsar_jax.predict: one band of uint8, 0 to 8, nodata 255"
    if raster.count != 1 or raster.dtypes[0] != "uint8" or raster.nodata != bands.IGNORE:
        kind = f"{raster.count} bands" if raster.count != 1 else f"{raster.dtypes[0]} with nodata {raster.nodata}"
        raise ValueError(f"{path} holds {kind}, {expected}")
    names = [raster.tags().get(f"class_{place}", name) for place, name in enumerate(bands.CLASSES)]
    if names != list(bands.CLASSES):
        raise ValueError(f"{path} has other classes ({', '.join(names)}), expected {', '.join(bands.CLASSES)}")
    try:
        look = raster.read(1, out_shape=tuple(min(size, 1024) for size in raster.shape))
    except RasterioError as error:
        raise ValueError(f"cannot read the pixels of {path}; is the file cut short? ({error})") from None
    other = np.setdiff1d(look, [*range(len(bands.CLASSES)), bands.IGNORE])
    if other.size:
        raise ValueError(f"{path} holds {', '.join(map(str, other[:5]))}, {expected}")


def _check_probabilities(path: str, raster: rasterio.DatasetReader, map_path: str, grid: Grid) -> None:
    names = [text or name for text, name in zip(raster.descriptions, bands.CLASSES, strict=False)]
    if raster.count != len(bands.CLASSES) or names != list(bands.CLASSES):
        raise ValueError(
            f"{path} holds {raster.count} bands ({', '.join(names)}), expected the probabilities of {', '.join(bands.CLASSES)}"
        )
    if not Grid.of(raster).same(grid):
        raise ValueError(f"{path} is not on the grid of {map_path}; give the probabilities that were written with it")


def _channels(s2: Sequence[str], names: tuple[str, ...], grid: Grid) -> tuple[Channel, ...]:
    """Returns red, green and blue of a scene that covers a part of the grid."""
    # What is decided of scale and offset does not matter, as the contrast stretch removes both.
    with open_scene(s2, (), ("B4", "B3", "B2"), (), Reading(s2_bands=names), tell=lambda _: None) as scene:
        channels = []
        for layer in scene.s2.layers:
            check_can_be_warped(layer.address, layer.grid, grid)
            low, high = _stretch(layer)
            channels.append(Channel(_on_earth(layer.raster.name, layer.grid), layer.index, low, high))
    return tuple(channels)


def _stretch(layer: Layer) -> tuple[float, float]:
    """Returns the stored numbers to show as black and white: 96 % of the pixels lie between them."""
    values = layer.sample
    if not values.size:  # the sample holds no data
        return 0.0, 3000.0
    low, high = np.percentile(values, (2, 98))
    return float(low), float(max(high, low + 1))


def _placed(grid: Grid) -> Grid:
    """Returns the grid, or if it is not georeferenced one of its size at the equator."""
    if grid.placed:
        return grid
    at = rasterio.Affine(10, 0, -5 * grid.width, 0, -10, 5 * grid.height)
    return Grid(MERCATOR, at, grid.height, grid.width)


def _on_earth(path: str, grid: Grid) -> str:
    """Returns the address of a raster with the grid of `_placed`: its own, or that of a VRT in memory."""
    if grid.placed:
        return str(path)
    address = f"/vsimem/specsar_jax_view/{abs(hash(str(path)))}.vrt"
    rasterio.shutil.copy(str(path), address, driver="VRT")
    with rasterio.open(address, "r+") as raster:
        raster.crs, raster.transform = (placed := _placed(grid)).crs, placed.transform
    return address


def _with_overviews(
    address: str, indexes: Sequence[int], how: Resampling, path: Path, name: str
) -> tuple[str, dict[int, int]]:
    """Returns the address of some bands of a raster, and the numbers that the bands have there. That is the raster itself if it has
    overviews or is small, else a VRT of it at `path`, whose overviews are made here.
    """
    with rasterio.open(address) as raster:
        size = max(raster.shape)
        if size <= LARGE_PX or raster.overviews(indexes[0]):
            return address, {index: index for index in indexes}
    print(f"note: {name} has no overviews; makes them in a temporary folder", end="", file=sys.stderr, flush=True)
    started = time.perf_counter()
    rasterio.shutil.copy(address, path, driver="VRT")
    tree = xml.etree.ElementTree.parse(path)
    root = tree.getroot()
    places = {index: place for place, index in enumerate(dict.fromkeys(indexes), start=1)}
    found = {int(band.attrib["band"]): band for band in root.findall("VRTRasterBand")}
    for band in found.values():
        root.remove(band)
    for index, place in places.items():
        found[index].set("band", str(place))
        root.append(found[index])
    tree.write(path)
    # An overview of half the size would cost most of the time and disk space and save little: a tile reads 512 x 512 pixels.
    factors = [2**power for power in range(2, size.bit_length()) if size >> power >= TILE_PX // 2]
    settings = {"COMPRESS_OVERVIEW": "DEFLATE", "BIGTIFF_OVERVIEW": "IF_SAFER", "GDAL_NUM_THREADS": "ALL_CPUS"}
    with rasterio.Env(**settings), rasterio.open(path, "r+") as raster:
        raster.build_overviews(factors, how)
    print(f": {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return str(path), places
