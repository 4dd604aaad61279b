"""A STAC API and its files on loopback: `rustac` serves the items, a web server that knows ranges the rasters. Both are real."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import portpicker
import pytest
import rasterio
from rasterio.warp import transform as transform_coordinates
from rasterio.warp import transform_bounds
from scipy import ndimage

from tfds_dwplus import bands
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.stac_api import Collection, StacArchive
from tfds_dwplus.labels.published import LabelTile
from tfds_dwplus.simulate import simulated_tile

pytest.importorskip("pystac_client", reason="the extra acquire is not installed")
pytest.importorskip("RangeHTTPServer", reason="rangehttpserver is not installed")
SERVER = Path(__file__).parent / "range_server.py"
RUSTAC = shutil.which("rustac", path=str(Path(sys.executable).parent)) or shutil.which("rustac")
if RUSTAC is None:
    pytest.skip("rustac is not installed", allow_module_level=True)


class Files:
    """A web server over a folder, in a process of its own: GDAL may hold the interpreter while it waits for an answer."""

    def __init__(self, folder: Path, control: Path) -> None:
        port = portpicker.pick_unused_port()
        self.url, self._control = f"http://127.0.0.1:{port}", control
        self.set()
        self.process = subprocess.Popen([sys.executable, str(SERVER), str(port), str(folder), str(control)])
        wait_for_port(port, self.process)

    def set(self, refused: str = "", wait_s: float = 0.0, status: int = 403, one_in: int = 1) -> None:
        """From now on, paths with `refused` in them are answered with a status, 403 as an expired signature is; all after a while.

        With `one_in`, only every so many of such requests are.
        """
        partial = self._control / "next"
        partial.write_text(json.dumps([refused, wait_s, status, one_in]))
        partial.replace(self._control / "now")

    @property
    def requests(self) -> list[str]:
        """Paths asked for so far, each with the bytes of the answer."""
        log = self._control / "requests"
        return log.read_text().splitlines() if log.exists() else []


class Archive:
    """Scenes on disk under `folder`, and their items."""

    def __init__(self, folder: Path, files: Files) -> None:
        self.folder, self.files, self.items = folder, files, []

    def add(self, collection: str, name: str, when: str, rasters: dict[str, tuple], **properties) -> None:
        """Writes a scene: asset -> (values, transform, crs, nodata)."""
        assets = {}
        for key, (values, transform, crs, nodata) in rasters.items():
            path = self.folder / collection / name / f"{key}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            height, width = values.shape
            profile = {
                "height": height,
                "width": width,
                "count": 1,
                "dtype": values.dtype,
                "crs": crs,
                "nodata": nodata,
            }
            with rasterio.open(path, "w", driver="COG", transform=transform, compress="deflate", **profile) as raster:
                raster.write(values, 1)
                bounds = transform_bounds(crs, "EPSG:4326", *raster.bounds)
            # As a signed archive has it: what stands behind the question mark is not to be seen in any message.
            href = f"{self.files.url}/{collection}/{name}/{key}.tif?sig=SECRET"
            assets[key] = {"href": href, "type": "image/tiff; application=geotiff; profile=cloud-optimized"}
        west, south, east, north = bounds
        parts = (
            [(west, east)] if west < east else [(west, 180.0), (-180.0, east)]
        )  # cut at the antimeridian, as RFC 7946 wants it
        rings = [[[[w, south], [e, south], [e, north], [w, north], [w, south]]] for w, e in parts]
        self.items.append(
            {
                "type": "Feature",
                "stac_version": "1.0.0",
                "id": name,
                "collection": collection,
                "bbox": [west, south, east, north],
                "geometry": {"type": "MultiPolygon", "coordinates": rings}
                if rings[1:]
                else {"type": "Polygon", "coordinates": rings[0]},
                "properties": {"datetime": when, **properties},
                "links": [],
                "assets": assets,
            }
        )

    def raster(self, collection: str, name: str, key: str) -> tuple[np.ndarray, rasterio.Affine, str]:
        """Pixels, transform and CRS of an asset, read from disk."""
        with rasterio.open(self.folder / collection / name / f"{key}.tif") as raster:
            return raster.read(1).astype(np.float64), raster.transform, raster.crs


@contextlib.contextmanager
def files_served(folder: Path, control: Path) -> Iterator[Files]:
    files = Files(folder, control)
    yield files
    files.process.kill()
    files.process.wait()


@contextlib.contextmanager
def stac_served(items: list[dict], folder: Path) -> Iterator[str]:
    """URL of an API over the items."""
    path = folder / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    port = portpicker.pick_unused_port()
    address = f"127.0.0.1:{port}"
    arguments = [RUSTAC, "serve", "--create-collections", "--addr", address, str(path)]
    server = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    try:
        wait_for_port(port, server)
        yield f"http://{address}"
    finally:
        server.kill()
        server.wait()


def wait_for_port(port: int, server: subprocess.Popen) -> None:
    for _ in range(400):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            return
        assert server.poll() is None, f"{server.args} ended"
        time.sleep(0.05)
    raise AssertionError(f"{server.args} does not answer")


def stac(url: str, s2: str, s1: str, unit: str, timeout_s: float = 20.0) -> StacArchive:
    return StacArchive(Collection(url, s2), Collection(url, s1), unit, "sigma0", timeout_s)


def add_pakistan(archive: Archive, real: Path) -> None:
    """The real scene: Sentinel-2 at both levels, and in dB a descending and an ascending pass on another grid."""
    for folder in sorted((real / "scene_pakistan").glob("*/*")):
        known = json.loads((folder / "metadata.json").read_text())
        rasters = {}
        for path in sorted(folder.glob("*.tif")):
            with rasterio.open(path) as raster:
                rasters[path.stem] = (raster.read(1), raster.transform, raster.crs, None)
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(known["system:time_start"] / 1000))
        if folder.parent.name == "s1":
            more = {"sat:orbit_state": known["orbitProperties_pass"].lower(), "sar:instrument_mode": "IW"}
        else:
            more = {
                "eo:cloud_cover": known["CLOUDY_PIXEL_PERCENTAGE"],
                "s2:processing_baseline": known["PROCESSING_BASELINE"],
                "s2:product_uri": known["PRODUCT_ID"],
            }
        archive.add(folder.parent.name, folder.name, when, rasters, platform=folder.name[:3], **more)


def add_simulated(archive: Archive, index: int, crs: str, left: float, top: float, **properties) -> np.ndarray:
    """A landscape of 2 km as Sentinel-2 sees it, the bands beyond 10 m at 20 m, in the collection `simulated-s2`."""
    s2 = simulated_tile(3, "scene", index, 200).s2
    rasters = {}
    for place, band in enumerate(bands.S2_BANDS):
        step = 1 if band in ("B2", "B3", "B4", "B8") else 2
        transform = rasterio.Affine(10 * step, 0, left, 0, -10 * step, top)
        rasters[f"B{int(band[1:]):02d}"] = (np.ascontiguousarray(s2[::step, ::step, place]), transform, crs, 0)
    archive.add(
        "simulated-s2", f"S2A_{index}", "2019-05-05T10:00:00Z", rasters, **({"eo:cloud_cover": 3.0} | properties)
    )
    return s2


def add_backscatter(
    archive: Archive, name: str, when: str, crs: str, left: float, top: float, rows: slice = slice(None), **properties
) -> None:
    """A Sentinel-1 scene in linear power with a nodata frame, some rows of it, in the collection `simulated-s1`."""
    power = 10 ** (simulated_tile(4, name[-1], 0, 200).s1 / 10)
    power[:5], power[:, -5:] = -32768, -32768
    top -= 10 * (rows.start or 0)
    transform = rasterio.Affine(10, 0, left, 0, -10, top)
    rasters = {
        key: (np.ascontiguousarray(power[rows, :, place]).astype(np.float32), transform, crs, -32768)
        for place, key in enumerate(("vv", "vh"))
    }
    defaults = {"sat:orbit_state": "descending", "sar:instrument_mode": "IW", "platform": "sentinel-1a"}
    archive.add("simulated-s1", name, when, rasters, **(defaults | properties))


def tile(date: str, grid: Grid, tile_id: str = "dw_x", path: str = "", product: str = "") -> LabelTile:
    left, bottom, right, top = transform_bounds(grid.crs, "EPSG:4326", *grid.bounds)
    lon, lat = (left + right) / 2, (bottom + top) / 2
    return LabelTile(tile_id, "train", "expert", "EH", 7, lon, lat, date, product, (("", path),))


def sampled(values: np.ndarray, transform: rasterio.Affine, crs: str, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear by the book, for checking: the exact place of each pixel of the grid in the raster, and the mean of the four
    pixels about it. NaN in one of them is NaN. Also where the place lies well inside of the raster.
    """
    columns, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    a, b, c, d, e, f = grid.transform[:6]
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    x, y = (np.reshape(part, columns.shape) for part in transform_coordinates(grid.crs, crs, x.ravel(), y.ravel()))
    column, row = (x - transform.c) / transform.a - 0.5, (y - transform.f) / transform.e - 0.5  # north up
    inside = (row >= 0) & (row <= values.shape[0] - 1) & (column >= 0) & (column <= values.shape[1] - 1)
    result = ndimage.map_coordinates(values, [row, column], order=1, mode="constant", cval=np.nan)
    return np.where(inside, result, np.nan), inside
