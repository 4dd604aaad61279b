"""Maps to look at: two dates on one grid, a map of WorldCover's codes on another one, a scene, probabilities and confidences."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from small_scenes import GRID

from specsar_jax.maps import map_files
from specsar_jax.maps.map_files import Outputs
from tfds_dwplus import bands

TAGS = {"made": "<b>here</b>", "s2_offset": "1000", "weights_licence": "MIT", "weights_origin": "<i>Ada</i>"}

FIRST, SECOND, WORLDCOVER = "map.tif", "later.tif", "worldcover.tif"


def write_maps(folder: Path) -> Path:
    """Writes maps of 40 x 30 pixels of 10 m: the first rows without data, then trees, in the lower half built. In the later one the last five
    rows are water. WorldCover's, of 20 m, is trees above and grass below.
    """
    probability = np.full((40, 30, 9), 0.025, np.float32)
    probability[:20, :, 1], probability[20:, :, 6] = 0.8, 0.8
    probability[20:, 15:] = 1 / 9  # not sure at all, in the east
    probability[20:, 15:, 6] += 1e-3
    probability[:5] = np.nan
    outputs = Outputs(folder / FIRST, folder / "shares.tif", folder / "confidence.tif")
    map_files.write_map(GRID, outputs, bands.DYNAMIC_WORLD, TAGS, probability)
    probability[35:] = np.eye(9)[0]
    map_files.write_map(GRID, Outputs(folder / SECOND), bands.DYNAMIC_WORLD, {}, probability)
    place = {"driver": "GTiff", "crs": GRID.crs}
    with rasterio.open(
        folder / "s2.tif", "w", count=3, dtype="uint16", transform=GRID.transform, height=40, width=30, **place
    ) as raster:
        raster.write(np.random.default_rng(0).integers(200, 3000, (3, 40, 30), np.uint16))
        raster.descriptions = ("B2", "B3", "B4")
    codes = np.where(np.arange(20)[:, None] < 10, 10, 30) * np.ones((1, 15), int)
    write_codes(folder / WORLDCOVER, codes.astype(np.uint8), 20)
    return folder


def write_codes(path: Path, codes: np.ndarray, pixel_m: float = 10, **more) -> Path:
    """Writes a raster of codes, [row, column] or [band, row, column], with its upper left corner where that of the maps is."""
    codes = codes if codes.ndim == 3 else codes[None]
    transform = GRID.transform @ rasterio.Affine.scale(pixel_m / 10)
    profile = {"driver": "GTiff", "crs": GRID.crs, "transform": transform, "dtype": codes.dtype} | more
    height, width = codes.shape[1:]
    with rasterio.open(path, "w", count=len(codes), height=height, width=width, **profile) as raster:
        raster.write(codes)
    return path


@contextlib.contextmanager
def opened(folder: Path, map_: str, **given):
    """Opens files of a folder for the viewer; options that name files are names in it."""
    from specsar_jax.viewer.opening import Given, open_shown

    def place(value):
        return tuple(map(place, value)) if isinstance(value, tuple) else str(folder / value)

    files = {"compare", "s2", "probabilities", "confidence"}
    placed = {option: place(value) if option in files else value for option, value in given.items()}
    with open_shown(Given(str(folder / map_), **placed)) as shown:
        yield shown


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """Folder of `write_maps`. To be read only."""
    for needed in ("rio_tiler", "xstatic.pkg.leaflet", "exactextract", "shapely"):
        pytest.importorskip(needed, reason="extra 'view'")
    return write_maps(tmp_path_factory.mktemp("view"))


@pytest.fixture(scope="session")
def shown(made):
    """One map over its scene, with probabilities."""
    with opened(made, FIRST, s2=("s2.tif",), probabilities="shares.tif") as shown:
        yield shown


@pytest.fixture(scope="session")
def both(made):
    """Two dates, with all that there is."""
    given = {"compare": SECOND, "s2": ("s2.tif",), "probabilities": "shares.tif", "confidence": "confidence.tif"}
    with opened(made, FIRST, **given) as shown:
        yield shown
