"""Pairs of maps for the tests of change, with probabilities and evaluations, and what its tables hold."""

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
from drawn_zones import UTM, write_map

from specsar_jax import change
from tfds_dwplus import bands

NUMBER = len(bands.CLASSES)
WATER, TREES, CROPS, BUILT, NONE = 0, 1, 4, 6, bands.IGNORE


def run(*arguments: object) -> None:
    change.main([str(argument) for argument in arguments])


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def matrix_of(path: Path, column: str = "hectares", zone: str | None = None) -> np.ndarray:
    """A table as a matrix [before, after]."""
    found = np.zeros((NUMBER, NUMBER))
    for row in rows_of(path):
        if row.get("zone") == zone:
            found[bands.CLASSES.index(row["before"]), bands.CLASSES.index(row["after"])] = float(row[column])
    return found


def codes_of(path: Path) -> np.ndarray:
    with rasterio.open(path, driver="GTiff") as raster:
        return raster.read(1)


def entries_of(path: Path) -> list[dict[str, str]]:
    """The entries of a style for QGIS."""
    return [entry.attrib for entry in ElementTree.parse(path).getroot().findall(".//paletteEntry")]


def random_ids(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """A map of squares of ten pixels, some of no class."""
    squares = np.random.default_rng(seed).choice([*range(9), NONE], (-(-shape[0] // 10), -(-shape[1] // 10)))
    return squares.repeat(10, axis=0).repeat(10, axis=1)[: shape[0], : shape[1]].astype(np.uint8)


def write_shares(path: Path, probability: np.ndarray, transform=UTM, *, names=(), scale: float = 0.004, **tags) -> Path:
    """Writes probabilities [band, row, column] as `predict` does; NaN where there is none."""
    steps = np.where(np.isnan(probability), NONE, np.rint(np.nan_to_num(probability) / 0.004)).astype(np.uint8)
    count, height, width = steps.shape
    size = {"count": count, "height": height, "width": width, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", nodata=NONE, crs="EPSG:32643", transform=transform, **size) as raster:
        raster.write(steps)
        raster.scales = [scale] * count
        raster.descriptions = names or [None] * count
        raster.update_tags(**tags)
    return path


def evaluation(path: Path, confusion: np.ndarray, classes: bands.Classes = bands.DYNAMIC_WORLD, **more) -> Path:
    tree = {"classes": list(classes.names), "class_colours": list(classes.colours)}
    path.write_text(json.dumps(tree | {"confusion_matrix": confusion.tolist()} | more))
    return path


def small_pair(folder: Path) -> Path:
    """Two maps of 3 x 4 pixels of UTM: water stays, trees become crops and built, and corners are without a class."""
    before = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [6, NONE, 1, 1]], np.uint8)
    after = np.array([[0, 0, 4, 6], [0, NONE, 4, 1], [6, 4, 1, 1]], np.uint8)
    write_map(folder / "before.tif", before, weights_sha256="ab" * 32, s2_dates="2020-06-04")
    write_map(folder / "after.tif", after, weights_sha256="ab" * 32, s2_dates="2021-06-04")
    return folder
