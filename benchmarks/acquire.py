"""What acquiring a tile costs, measured over loopback, and from that what all of Dynamic World+ takes. Prints a table.

python benchmarks/acquire.py [--tiles 8] [--passes 30] [--wait_ms 50]

A real STAC API and a real web server serve Cloud-Optimised GeoTIFFs of noise, which deflates as little as speckle does: one
Sentinel-2 scene, 30 Sentinel-1 passes (half a year at 12 days is 30). Every request waits as a far archive's would.
Needs the extras acquire and test.
"""

import argparse
import datetime
import math
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "archives"))
from local_archive import Archive, files_served, stac, stac_served

from tfds_dwplus import bands
from tfds_dwplus.imagery.acquisitions import Wanted
from tfds_dwplus.labels.published import survey
from tfds_dwplus.tiles.acquiring import Task, acquire

TILES = 17_192
"""16,893 of the train split and 299 of the test split."""

SCENE_PX = 2048
LEFT, TOP, CRS = 700_000.0, 4_700_000.0, "EPSG:32633"


def main() -> None:
    """Builds the archive, acquires from it and prints what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=8)
    parser.add_argument("--passes", type=int, default=30)
    parser.add_argument("--wait_ms", type=float, default=50.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("archive", "control", "api"):
            (folder / part).mkdir()
        with files_served(folder / "archive", folder / "control") as files:
            archive = Archive(folder / "archive", files)
            fill(archive, args.passes)
            write_labels(folder / "Experts", args.tiles)
            with stac_served(archive.items, folder / "api") as url:
                measure(folder, files, url, args)


def fill(archive: Archive, passes: int) -> None:
    """The scenes: digital numbers at 10 and 20 m, and backscatter in linear power."""
    rng = np.random.default_rng(0)
    rasters = {}
    for band in bands.S2_BANDS:
        step = 1 if band in ("B2", "B3", "B4", "B8") else 2
        noise = rng.normal(1500, 300, (SCENE_PX // step, SCENE_PX // step)).clip(1).astype(np.uint16)
        rasters[band] = (noise, rasterio.Affine(10 * step, 0, LEFT, 0, -10 * step, TOP), CRS, 0)
    archive.add("s2", "S2A", "2019-05-05T10:00:00Z", rasters, **{"s2:processing_baseline": "02.08"})
    for index in range(passes):
        date = datetime.date(2019, 5, 5) + datetime.timedelta(days=round((index - passes / 2) * 360 / passes))
        rasters = {
            key: (
                rng.gamma(4, 0.02, (SCENE_PX, SCENE_PX)).astype(np.float32),
                rasterio.Affine(10, 0, LEFT, 0, -10, TOP),
                CRS,
                None,
            )
            for key in ("vv", "vh")
        }
        archive.add("s1", f"S1A_{index}", f"{date}T05:00:00Z", rasters, **{"sat:orbit_state": "descending"})


def write_labels(folder: Path, count: int) -> None:
    """Label tiles of 510 x 510 pixels, here and there in the scene."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for index in range(count):
        column, row = rng.integers(0, SCENE_PX - 510, 2)
        transform = rasterio.Affine(10, 0, LEFT + 10 * column, 0, -10, TOP - 10 * row)
        profile = {"height": 510, "width": 510, "count": 1, "dtype": "uint8", "crs": CRS, "transform": transform}
        with rasterio.open(folder / f"dw_17.{index:05d}_42.0-20190505.tif", "w", driver="GTiff", **profile) as raster:
            raster.write(rng.integers(0, 11, (510, 510)).astype(np.uint8), 1)


def measure(folder: Path, files: object, url: str, args: argparse.Namespace) -> None:
    """Acquires with several numbers of workers, and prints a line each; then the plan by the cost of a tile."""
    tiles = survey([folder / "Experts"]).tiles
    task = Task(stac(url, "s2", "s1", "power"), Wanted())
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, rasterio {rasterio.__version__}"
    )
    print(f"{len(tiles)} tiles of {args.passes} passes; {args.wait_ms:g} ms before each answer of the files")
    print("workers  seconds a tile  CPU seconds a tile  requests a tile  MB read a tile  MB written a tile")
    files.set(wait_s=args.wait_ms / 1000)
    for workers in (1, 4, 16):
        before, cpu, start = len(files.requests), time.process_time(), time.perf_counter()
        output = folder / f"tiles_{workers}"
        acquire(tiles, task, output, workers=workers)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        answers = [int(line.rsplit(" ", 1)[1]) for line in files.requests[before:]]
        written = sum(path.stat().st_size for path in output.rglob("*.tif"))
        per_tile = [value / len(tiles) for value in (seconds, cpu, len(answers), sum(answers) / 1e6, written / 1e6)]
        print("{:7d}  {:14.2f}  {:18.2f}  {:15.0f}  {:14.1f}  {:17.1f}".format(workers, *per_tile))
        if workers == 1:
            alone = per_tile
    seconds, cpu, requests, read, kept = alone
    print(
        f"\nAll {TILES:,} tiles: {TILES * requests / 1e6:.1f} million requests, {TILES * read / 1e6:.1f} TB read, {TILES * kept / 1e3:.0f} GB kept"
    )
    for workers in (1, 50):
        hours = TILES * seconds / workers / 3600
        cores = math.ceil(workers * cpu / seconds)
        rate = read * 8 * workers / seconds
        print(f"{workers} worker(s): {hours:,.0f} hours, {rate:,.0f} Mbit/s, {cores} core(s) busy")


if __name__ == "__main__":
    main()
