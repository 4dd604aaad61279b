"""Scenes of a few kilometres on loopback, for composites and regions: two dates of Sentinel-2 with clouds, two passes of Sentinel-1."""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import rasterio
import rasterio.warp
from conftest import command
from local_archive import Archive, Files, files_served, stac_served
from rasterio.warp import transform as transform_coordinates

from tfds_dwplus import bands
from tfds_dwplus.simulate import simulated_tile

DAYS = ("2024-05-05", "2024-05-15")
"""Of Sentinel-2; the first one is clearer by its metadata."""

PASSES = ("2024-05-03", "2024-05-27")

CLOUDS = ((slice(0, 60), slice(0, 60)), (slice(40, 120), slice(40, 120)))
"""Rows and columns of the cloud of each day; the two share a corner."""


@contextlib.contextmanager
def served(
    folder: Path, *places: tuple[str, float, float], days: Sequence[str] = DAYS, passes: Sequence[str] = PASSES
) -> Iterator[tuple[str, Files]]:
    """URL of a STAC API over scenes about some places, each on the grid of a CRS, and the server of their files."""
    folders = [folder / name for name in ("files", "control", "api")]
    for one in folders:
        one.mkdir()
    with files_served(*folders[:2]) as files:
        made = Archive(folders[0], files)
        for place in places:
            add_place(made, *place, days=days, passes=passes)
        with stac_served(made.items, folders[2]) as url:
            yield url, files


def arguments(run: Path, url: str, output: Path, *more: object) -> tuple[object, ...]:
    """Of `map_region` over that archive; later flags win."""
    return (
        *("--workdir", run, "--stac_url", url, "--output", output, "--workers", 1, "--s2_collection", "region-s2"),
        *("--s1_collection", "region-s1", "--s1_unit", "power", "--s1_quantity", "sigma0"),
        *("--dates", "2024-05-01", "2024-05-31", "--block_px", 128),
        *more,
    )


def mapped(run: Path, url: str, output: Path, *more: object):
    """Runs the command."""
    return command("specsar_jax.map_region", *arguments(run, url, output, *more), cwd=output.parent)


def add_place(
    archive: Archive,
    crs: str,
    lon: float,
    lat: float,
    size_px: int = 400,
    *,
    days: Sequence[str] = DAYS,
    passes: Sequence[str] = PASSES,
) -> tuple[float, float]:
    """Adds all scenes about a place, on the grid of one zone; gives their left and top.

    On each day all is 300 brighter than on the day before. Under a cloud, pixels are 9000; the clouds of the days take turns.
    Sentinel-1 is 3 m beside the grid of Sentinel-2.
    """
    (x,), (y,) = transform_coordinates("EPSG:4326", crs, [lon], [lat])
    left, top = round(x, -1) - 5 * size_px, round(y, -1) + 5 * size_px
    tile = simulated_tile(3, "scene", 0, size_px)
    for day, (date, cloud) in enumerate(zip(days, itertools.cycle(CLOUDS), strict=False)):
        s2 = np.maximum(tile.s2, 1) + np.uint16(300 * day)
        s2[cloud] = 9000
        classes = np.full(s2.shape[:2], 4, np.uint8)
        classes[cloud] = 9
        rasters = {"SCL": (classes[::2, ::2].copy(), rasterio.Affine(20, 0, left, 0, -20, top), crs, 0)}
        for place, band in enumerate(bands.S2_BANDS):
            step = 1 if band in ("B2", "B3", "B4", "B8") else 2
            values = np.ascontiguousarray(s2[::step, ::step, place])
            rasters[f"B{int(band[1:]):02d}"] = values, rasterio.Affine(10 * step, 0, left, 0, -10 * step, top), crs, 0
        known = {"eo:cloud_cover": 3.0 + 10 * day, "s2:processing_baseline": "02.08"}
        archive.add("region-s2", f"S2A_{crs[-5:]}_{date}", f"{date}T10:00:00Z", rasters, **known)
    for place, date in enumerate(passes):
        power = 10 ** ((np.nan_to_num(tile.s1, nan=-12.0) + place) / 10)
        grid = rasterio.Affine(10, 0, left + 3, 0, -10, top - 3)
        rasters = {key: (power[..., i].astype(np.float32), grid, crs, -32768) for i, key in enumerate(("vv", "vh"))}
        known = {"sat:orbit_state": "descending", "sar:instrument_mode": "IW", "platform": "sentinel-1a"}
        archive.add("region-s1", f"S1A_{crs[-5:]}_{date}", f"{date}T05:00:00Z", rasters, **known)
    return left, top


def box_hectares(west: float, south: float, east: float, north: float) -> float:
    """Area of a box on WGS 84. Source: Snyder 1987, Map Projections, a Working Manual, equation 3-12."""
    axis, eccentricity2 = 6378137.0, 0.0066943799901413165
    eccentricity = math.sqrt(eccentricity2)

    def zone(latitude: float) -> float:
        sine = math.sin(math.radians(latitude))
        return (1 - eccentricity2) * (
            sine / (1 - eccentricity2 * sine**2) + math.atanh(eccentricity * sine) / eccentricity
        )

    return axis**2 * math.radians((east - west) % 360) * (zone(north) - zone(south)) / 2 / 1e4


def times_mapped(output, box: tuple[float, float, float, float]) -> np.ndarray:
    """Of random places in a box, in how many maps of blocks each has a class."""
    rng = np.random.default_rng(0)
    west, south, east, north = box
    lon = (west + rng.random(4000) * ((east - west) % 360) + 180) % 360 - 180
    lat = rng.uniform(south, north, 4000)
    times = np.zeros(4000, np.int64)
    for path in (output / "blocks").glob("*.tif"):
        with rasterio.open(path) as raster:
            x, y = rasterio.warp.transform("EPSG:4326", raster.crs, lon, lat)
            times += [values[0] != 255 for values in raster.sample(zip(x, y, strict=True))]
    return times
