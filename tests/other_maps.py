"""A small prepared data set, and maps of it that were made elsewhere."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from sklearn.metrics import confusion_matrix

from specsar_jax import evaluate
from tfds_dwplus import DynamicWorldPlusConfig, bands
from tfds_dwplus.prepare import prepare
from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.tiles.tile_files import COLUMNS, Tile, write_tile

OUR_CODES = np.arange(9, dtype=np.uint8)
WORLDCOVER_OF = np.array([80, 10, 30, 90, 40, 20, 50, 60, 70], np.uint8)


@dataclasses.dataclass
class World:
    """A prepared data set and what is in it."""

    data: Path
    tiles: list[Tile]

    def flags(self, name: str = "mine") -> list[str]:
        return ["--data_dir", str(self.data), "--dataset", name, "--split", "test"]


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """Three test tiles of 64 x 64 with a corner unmarked; and 'placeless', the same of 48 x 48 and nobody knows where, padded to 64."""
    folder = tmp_path_factory.mktemp("world")
    tiles = [simulated_tile(7, "test", index, 64) for index in range(3)]
    for tile in tiles:
        tile.label[:9, :9] = bands.IGNORE
    placeless = [
        dataclasses.replace(tile, s2=tile.s2[:48, :48], s1=tile.s1[:48, :48], label=tile.label[:48, :48], crs="")
        for tile in tiles
    ]
    for name, of in (("mine", tiles), ("placeless", placeless)):
        rows = []
        for split, tile in [
            ("train", simulated_tile(7, "train", 0, len(of[0].label))),
            *(("test", tile) for tile in of),
        ]:
            write_tile(folder / name, tile, bands.S2_BANDS)
            record = tile.record
            place = (record.lon, record.lat) if tile.crs else ("", "")
            rows.append((record.tile_id, split, *place, record.date, record.annotator, *tile.label.shape))
        with (folder / name / "tiles.csv").open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        prepare(DynamicWorldPlusConfig(name=name, tiles=folder / name, tile_size_px=64), folder / "data")
    return World(folder / "data", tiles)


def write(path: Path, values: np.ndarray, crs: str | None, transform, names=(), **profile) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    layers = values[None] if values.ndim == 2 else values
    size = {"height": layers.shape[1], "width": layers.shape[2], "count": len(layers), "dtype": layers.dtype}
    with rasterio.open(
        path, "w", driver="GTiff", crs=crs, transform=rasterio.Affine(*tuple(transform)[:6]), **size, **profile
    ) as raster:
        raster.write(layers)
        if names:
            raster.descriptions = names
    return path


def predicted(tile: Tile, seed: int, right: float = 0.7) -> np.ndarray:
    """A map that is right on a share of the pixels, also where nobody marked them."""
    rng = np.random.default_rng(seed)
    truth = simulated_tile(7, "test", int(tile.record.tile_id.rsplit("_", 1)[-1]), 64).label
    truth = np.where(truth == bands.IGNORE, 1, truth)
    return np.where(rng.random(truth.shape) < right, truth, rng.integers(0, 9, truth.shape)).astype(np.uint8)


def folder_of(world: World, folder: Path, seed: int, right: float = 0.7, codes=OUR_CODES, **profile) -> Path:
    for tile in world.tiles:
        write(
            folder / f"{tile.record.tile_id}.tif",
            codes[predicted(tile, seed, right)],
            tile.crs,
            tile.transform,
            **profile,
        )
    return folder


def run(*arguments: object) -> dict:
    """The command, in this process; gives its JSON file."""
    argv = [str(argument) for argument in arguments]
    evaluate.main(argv)
    first = Path(argv[argv.index("--prediction") + 1])
    return json.loads(((first if first.is_dir() else first.parent) / "comparison_test.json").read_text())


def expected_confusion(world: World, seed: int, right: float = 0.7, only=slice(None)) -> np.ndarray:
    label = np.stack([tile.label for tile in world.tiles])[only].ravel()
    prediction = np.stack([predicted(tile, seed, right) for tile in world.tiles])[only].ravel()
    return confusion_matrix(label[label != 255], prediction[label != 255], labels=np.arange(9))
