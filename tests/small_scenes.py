"""Small scenes as files, what is read of them, networks that read them, and their maps."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
import rasterio
from conftest import SMALL

from specsar_jax import config as configs
from specsar_jax.batches.preprocess import SensorStatistics, Statistics
from specsar_jax.config import Config, Predict
from specsar_jax.maps import scene_map
from specsar_jax.maps.map_files import Outputs
from specsar_jax.network import model
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.scenes import Reading, open_scene
from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.tiles.tile_files import Tile, write_tile

SIZE = 24
"""Side of a `ramp`, in pixels."""
UTM = rasterio.Affine(10, 0, 500000, 0, -10, 4200000)
GRID = Grid(rasterio.CRS.from_epsg(32630), rasterio.Affine(10, 0, 500000, 0, -10, 4200000), 40, 30)


def scene(folder, height: int, width: int) -> Tile:
    """Writes a scene of any shape, cut from a simulated one; with a corner without data."""
    tile = simulated_tile(9, "scene", 0, max(height, width))
    cut = {name: getattr(tile, name)[:height, :width].copy() for name in ("s2", "s1", "label")}
    cut["s2"][: height // 4, : width // 4] = 0
    tile = dataclasses.replace(tile, **cut)
    write_tile(folder, tile, bands.S2_BANDS)
    return tile


def files_of(folder) -> tuple[list, list]:
    return list((folder / "s2").glob("*.tif")), list((folder / "s1").glob("*.tif"))


def write(path: Path, values: np.ndarray, transform=UTM, crs="EPSG:32630", names=(), **profile) -> Path:
    """A raster of [band, row, column] or [row, column]."""
    values = values if values.ndim == 3 else values[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "crs": crs, "transform": transform, "dtype": values.dtype} | profile
    with rasterio.open(
        path, "w", count=len(values), height=values.shape[1], width=values.shape[2], **profile
    ) as raster:
        raster.write(values)
        if names:
            raster.descriptions = names
    return path


def network(preset: str = "tiny", s2_bands: tuple[str, ...] = bands.S2_BANDS) -> Trained:
    """An untrained network, small."""
    flags = [flag.removeprefix("--config.") for flag in SMALL]
    config = configs.override(Config(), [f"model={preset}", *flags, f"model.s2_channels={len(s2_bands)}"])

    def of(names: tuple[str, ...], mean: float, std: float, unit: str) -> SensorStatistics:
        each = [(float(value),) * len(names) for value in (mean, std, mean - 3 * std, mean + 3 * std)]
        return SensorStatistics(names, *each, unit, (1,) * len(names))

    statistics = Statistics(of(s2_bands, 2000, 900, bands.S2_UNIT), of(bands.S1_BANDS, -14, 5, bands.S1_UNIT), (1,) * 9)
    return Trained(config, statistics, model.init_params(config.model, jax.random.key(0)), 0)


def mapped(trained: Trained, s2, s1, folder: Path, **reading) -> tuple[np.ndarray, rasterio.profiles.Profile]:
    output = folder / "map.tif"
    scene_map.map_scene(trained, s2, s1, Outputs(output), Predict(), Reading(**reading))
    with rasterio.open(output) as raster:
        return raster.read(1), raster.profile


def read(s2, s1=(), s2_bands=("B2",), s1_bands=(), **reading):
    """All of a scene: digital numbers, dB, validity, as [row, column, band]."""
    with open_scene(list(s2), list(s1), s2_bands, s1_bands, Reading(**reading)) as scene:
        return scene.read(slice(0, scene.grid.height), slice(0, scene.grid.width))


def refusal(*arguments, **reading) -> str:
    with pytest.raises(ValueError) as error:
        read(*arguments, **reading)
    return str(error.value)


def ramp(size: int = SIZE, low: int = 300) -> np.ndarray:
    return (low + np.arange(size * size).reshape(size, size) % 5000).astype(np.uint16)
