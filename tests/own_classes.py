"""Folders of simulated tiles with labels of classes of their own."""

import dataclasses
from pathlib import Path

import numpy as np
import rasterio
from conftest import write_folder
from drawn_networks import SMALL_PRESETS

from specsar_jax.config import Model
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import DynamicWorldPlusConfig, bands
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles.labelling.class_table import write_classes

FOUR = bands.Classes(("blé d'hiver", "forêt dense", "Wasser", "alte Stadt"), ("e8c547", "1b5e20", "2e6fdb", "c0392b"))
"""Four classes whose names have spaces, accents and an apostrophe."""


def relabelled(folder: Path, tiles_per_split: dict[str, int], classes: bands.Classes) -> Path:
    """Writes simulated tiles, labelled by other classes, most of which occur: their ids follow from Dynamic World's and the place."""
    write_folder(folder, tiles_per_split)
    for path in sorted((folder / "label").glob("*.tif")):
        with rasterio.open(path, "r+") as raster:
            codes = raster.read(1)
            row, column = np.indices(codes.shape) // 8
            ids = (codes - 1 + 8 * (row % 8) + column % 8) % len(classes)
            raster.write(np.where(codes, ids + 1, 0).astype(np.uint8), 1)
    write_classes(folder, classes)
    return folder


def dataset_of(folder: Path, classes: bands.Classes, name: str = "own") -> Path:
    """Prepares the data set `name` of such tiles under `folder`/data; returns `folder`."""
    tiles = relabelled(folder / f"{name}_tiles", {"train": 4, "validation": 2, "test": 2}, classes)
    prepare(DynamicWorldPlusConfig(name=name, tiles=tiles, tile_size_px=64), folder / "data")
    return folder


def small() -> Model:
    """A small network."""
    return SMALL_PRESETS["specsar_former"]


def with_names(trained: Trained) -> Trained:
    """The same, with the names of its bands in its config, as `resolve` puts them there, and crops of these tiles."""
    data = dataclasses.replace(trained.config.data, s2_bands=bands.S2_BANDS, crop_px=64)
    return dataclasses.replace(trained, config=dataclasses.replace(trained.config, data=data))
