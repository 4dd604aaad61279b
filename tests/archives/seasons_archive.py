"""A place of 2 km on loopback over a year: scenes of Sentinel-2 with more or less cloud, by season, and passes of Sentinel-1."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
from local_archive import Archive, Files, files_served, stac_served
from rasterio.warp import transform as transform_coordinates

from tfds_dwplus.simulate import simulated_tile

CRS, LEFT, TOP, SIZE_PX = "EPSG:32633", 700000.0, 4700000.0, 200

BANDS = ("B2", "B3", "B4")

SCENES = {
    "2023-02-03": (5.0, slice(0, 0)),
    "2023-02-10": (1.0, slice(0, SIZE_PX)),
    "2023-05-05": (2.0, slice(0, 100)),
    "2023-05-12": (30.0, slice(0, 0)),
    "2023-08-05": (3.0, slice(0, 0)),
    "2023-11-05": (3.0, slice(0, SIZE_PX)),
}
"""Cloud of the whole scene in percent, and the columns that are cloud here: the one tells little of the other. In November all is."""

PASSES = ("2023-04-01", "2023-06-01")


@dataclasses.dataclass(frozen=True)
class Seasons:
    """The archive, and a region inside of it."""

    url: str
    files: Files
    region: Path
    scenes: Archive


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Seasons]:
    folders = [folder / name for name in ("files", "control", "api")]
    for one in folders:
        one.mkdir()
    with files_served(*folders[:2]) as files:
        scenes = Archive(folders[0], files)
        for index, (date, (percent, columns)) in enumerate(SCENES.items()):
            _sentinel2(scenes, index, date, percent, columns)
        for date in PASSES:
            power = (10 ** (simulated_tile(4, "pass", 0, SIZE_PX).s1 / 10)).astype(np.float32)
            place = rasterio.Affine(10, 0, LEFT + 3, 0, -10, TOP - 2), CRS, -32768
            rasters = {key: (np.ascontiguousarray(power[..., i]), *place) for i, key in enumerate(("vv", "vh"))}
            known = {"sat:orbit_state": "descending", "platform": "sentinel-1a"}
            scenes.add("s1", f"S1A_{date}", f"{date}T05:00:00Z", rasters, **known)
        with stac_served(scenes.items, folders[2]) as url:
            yield Seasons(url, files, region_file(folder / "area.geojson"), scenes)


def region_file(path: Path, margin_m: float = 100.0) -> Path:
    """Writes the ground of the scenes as a region, without a margin; one below 0 reaches beyond them."""
    ends = LEFT + margin_m, LEFT + 10 * SIZE_PX - margin_m, TOP - 10 * SIZE_PX + margin_m, TOP - margin_m
    west, east, south, north = ends
    lon, lat = transform_coordinates(
        CRS, "EPSG:4326", [west, east, east, west, west], [south, south, north, north, south]
    )
    ring = [list(point) for point in zip(lon, lat, strict=True)]
    path.write_text(json.dumps({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}))
    return path


def arguments(seasons: Seasons, output: Path, *more: object) -> list[str]:
    """Of `acquire` for tiles of 24 px; later options win."""
    s1 = ("--s1_collection", "s1", "--s1_unit", "power", "--s1_quantity", "sigma0")
    lot = ("--tiles", 10, "--dates", "2023-01-01", "2023-12-31", "--tile_size_px", 24, "--splits", "train=0.7,test=0.3")
    where = ("--region", seasons.region, "--stac_url", seasons.url, "--s2_collection", "s2", "--output", output)
    return [str(part) for part in (*where, *s1, *lot, "--s2_bands", ",".join(BANDS), "--retries", 0, *more)]


def _sentinel2(scenes: Archive, index: int, date: str, percent: float, columns: slice) -> None:
    s2 = np.maximum(simulated_tile(3, "scene", index, SIZE_PX).s2[..., : len(BANDS)], 1)
    classes = np.full((SIZE_PX, SIZE_PX), 4, np.uint8)
    classes[:, columns] = 9
    place = rasterio.Affine(10, 0, LEFT, 0, -10, TOP), CRS, 0
    rasters = {f"B0{band[1:]}": (np.ascontiguousarray(s2[..., i]), *place) for i, band in enumerate(BANDS)}
    half = rasterio.Affine(20, 0, LEFT, 0, -20, TOP), CRS, 0
    known = {"eo:cloud_cover": percent, "platform": "sentinel-2a", "s2:processing_baseline": "02.12"}
    rasters["SCL"] = (np.ascontiguousarray(classes[::2, ::2]), *half)
    scenes.add("s2", f"S2A_{date}", f"{date}T10:00:00Z", rasters, **known)
