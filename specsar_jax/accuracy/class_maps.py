"""Reads third-party class maps, rasters of any grid and legend, on the grid of a labelled tile.

Enters: a raster, or a folder with one raster per tile. Leaves: class ids on the tile's grid, and counts of the codes found.
A raster on another grid is resampled to the tile's grid by nearest neighbour; labels are never resampled.
"""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jaxtyping import Bool, Int, Integer, Shaped, UInt8
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from specsar_jax.accuracy import legends
from specsar_jax.accuracy.legends import Legend
from tfds_dwplus import bands
from tfds_dwplus.files.strangers import one_line
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.scene_files import open_raster


@dataclasses.dataclass(frozen=True)
class Map:
    """A map to score, in one raster or many."""

    path: Path
    """A raster that covers the tiles, or a folder of `<tile_id>.tif` or `label_<tile_id>.tif`, with or without subfolders."""
    legend: Legend
    any_vrt_source: bool = False
    """Whether a VRT may take its pixels from anywhere; as `anywhere` of `opening.open_raster`."""

    @property
    def name(self) -> str:
        """Returns the name of the map in tables."""
        return self.path.resolve().stem


@dataclasses.dataclass(frozen=True)
class Target:
    """The labels of a tile."""

    tile_id: str
    grid: Grid
    """The tile's grid; without a CRS if the tile is not georeferenced."""
    labels: dict[str, UInt8[np.ndarray, "height width"]]
    """Class ids by vote; 255 where there is no label."""
    columns: dict[str, Any]


@dataclasses.dataclass
class Raw:
    """Counts of a map's raw codes, before they become classes."""

    codes: Counter = dataclasses.field(default_factory=Counter)
    """Number of pixels of each code."""
    warped: int = 0
    """Number of tiles whose raster is on another grid."""
    without: list[str] = dataclasses.field(default_factory=list)
    """Ids of the tiles where the map has no pixel."""
    joint: Int[np.ndarray, "code label"] = dataclasses.field(default_factory=lambda: np.zeros((11, 9), np.int64))
    """Labelled pixels by code, 0 to 10, and class of the label; only of files whose tags do not name the codes."""


def tile_files(path: Path, *, anywhere: bool = False) -> dict[str, Path]:
    """Finds the rasters of a folder, by tile id; returns an empty dictionary if `path` is a file."""
    if not path.exists():
        raise ValueError(f"no file or folder {path}; expected a raster, or a folder of <tile_id>.tif")
    if not path.is_dir():
        with open_raster(path, anywhere=anywhere) as raster:
            if not raster.crs:
                raise ValueError(
                    f"{path} has no CRS, so that nobody knows which tiles it covers; give a folder of <tile_id>.tif"
                )
        return {}
    found: dict[str, Path] = {}
    for file in sorted(file for file in path.rglob("*") if file.suffix.lower() in (".tif", ".tiff")):
        if file.name.startswith("probs_"):
            continue
        tile_id = file.stem.removeprefix("label_")
        if tile_id in found:
            raise ValueError(f"{found[tile_id]} and {file} are both of tile {tile_id}; give one of their folders")
        found[tile_id] = file
    if not found:
        raise ValueError(f"no raster in {path}; expected files <tile_id>.tif")
    return found


def read_map(
    scored: Map, files: dict[str, Path], target: Target, raw: Raw, classes: bands.Classes
) -> UInt8[np.ndarray, "height width"] | None:
    """Reads the class ids of a map at a tile and adds their counts to `raw`; None if the map has no pixel there.

    Raises:
        ValueError: as `read_codes`; a code that the legend lacks, or tags that name other classes than `classes`, of the labels.
    """
    path = files.get(target.tile_id) if scored.path.is_dir() else scored.path
    if path == scored.path and not target.grid.crs:
        raise ValueError(
            f"tile {target.tile_id} has no place, so that {path} cannot be laid over it; give a folder of <tile_id>.tif"
        )
    codes, warped = (
        (None, False)
        if path is None
        else read_codes(path, scored.legend, target.grid, target.tile_id, anywhere=scored.any_vrt_source)
    )
    if codes is None:
        raw.without.append(target.tile_id)
        return None
    _check_size(path, target, scored.any_vrt_source)
    named = scored.legend.of_ids and _names_its_codes(path, classes, scored.any_vrt_source)
    ids = legends.class_ids(codes, scored.legend, classes, str(path))
    raw.warped += warped
    found, counts = np.unique(codes, return_counts=True)
    raw.codes.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    if scored.legend in legends.OF_DYNAMIC_WORLD and not named:
        label = target.labels.get("consensus", next(iter(target.labels.values())))
        counted = (label != bands.IGNORE) & (codes <= 10)
        raw.joint += np.bincount(codes[counted] * 9 + label[counted], minlength=99).reshape(11, 9)
    return ids


def read_codes(
    path: Path, legend: Legend, grid: Grid, tile_id: str = "the tile", *, anywhere: bool = False
) -> tuple[Integer[np.ndarray, "height width"] | None, bool]:
    """Reads the codes of a raster on a tile's grid; returns them (None if it has no pixel there) and whether it was resampled.

    Set to the legend's nodata are: the nodata of the file, pixels outside of it, and, for a `label_` file of Dynamic World on
    Zenodo, pixels whose probabilities in the `probs_` file beside it are not finite.

    Raises:
        ValueError: not a raster, a truncated file, several bands of which none has a name of the legend, values that are not whole
            numbers, a nodata value that is a class, or a raster and a tile of different size of which one is not georeferenced.
    """
    with open_raster(path, anywhere=anywhere) as raster:
        index = class_band(path, raster, legend)
        values, valid, warped = _on_grid(path, raster, [index], grid, tile_id)
        declared = raster.nodatavals[index - 1]
    values = values[0]
    if declared is not None and any(code.code == declared and code.becomes for code in legend.codes):
        called = next(code.called for code in legend.codes if code.code == declared)
        raise ValueError(
            f"{path} declares {declared:g} as nodata, which is {called} in legend {legend.name}; give the file another nodata "
            f"(gdal_edit.py -unsetnodata, if it has none) or another --legend"
        )
    if values.dtype.kind == "f":
        valid &= np.isfinite(values)
        values = np.where(valid, values, 0)
        if (values != np.rint(values)).any():
            raise ValueError(
                f"{path} holds {values[values != np.rint(values)][0]:g}, expected codes of legend {legend.name}; are these "
                "probabilities? Give the band of classes"
            )
    probabilities = path.with_name(path.name.replace("label_", "probs_", 1))
    if path.name.startswith("label_") and legend is legends.DYNAMIC_WORLD and probabilities.exists():
        # The label band holds a class even where the model gave no probabilities.
        with open_raster(probabilities) as raster:
            shares, known, _ = _on_grid(probabilities, raster, list(raster.indexes), grid, tile_id)
        valid &= known & np.isfinite(shares).all(axis=0)
    return (np.where(valid, values, legend.nodata[0]).astype(np.int64), warped) if valid.any() else (None, warped)


def class_band(path: Path | str, raster: rasterio.DatasetReader, legend: Legend) -> int:
    """Returns the number of the band that holds the classes, from 1."""
    names = [(name or "").strip().lower() for name in raster.descriptions]
    for name in legend.band_names:
        if name in names:
            return names.index(name) + 1
    if raster.count > 1:
        wanted = " or ".join(legend.band_names) or "one alone"
        raise ValueError(
            f"{path} has the bands {', '.join(name or '?' for name in names)}, expected {wanted} for legend {legend.name}"
        )
    return 1


def _names_its_codes(path: Path, classes: bands.Classes, anywhere: bool) -> bool:
    """Returns whether the file's tags name the class of each code, as in our own maps; if so, the base of its codes is not guessed.

    Raises:
        ValueError: they name other classes than `classes`.
    """
    with open_raster(path, anywhere=anywhere) as raster:
        tags = raster.tags()
    named = [tags[f"class_{place}"] for place in range(bands.MOST_CLASSES) if f"class_{place}" in tags]
    if named and [name.casefold() for name in named] != [name.casefold() for name in classes.names]:
        raise ValueError(
            f"{path} has the classes {one_line(', '.join(named), 200)}, the labels have {one_line(', '.join(classes.names), 200)}; give a "
            "table of its codes, --legend codes.csv with the columns value,name"
        )
    return bool(named)


def _check_size(path: Path, target: Target, anywhere: bool) -> None:
    """Raises a ValueError if a raster that is not georeferenced is smaller than the labelled part of its tile."""
    with open_raster(path, anywhere=anywhere) as raster:
        height, width, placed = *raster.shape, bool(raster.crs and target.grid.crs)
    beyond = any(
        (label[height:] != bands.IGNORE).any() or (label[:, width:] != bands.IGNORE).any()
        for label in target.labels.values()
    )
    if beyond and not placed:
        raise ValueError(
            f"{path} is of {height} x {width} pixels and tile {target.tile_id} is labelled beyond; without a place both must be of one size"
        )


def _on_grid(
    path: Path, raster: rasterio.DatasetReader, indexes: list[int], grid: Grid, tile_id: str
) -> tuple[Shaped[np.ndarray, "band height width"], Bool[np.ndarray, "height width"], bool]:
    """Returns the pixels of a raster on a grid, a mask of those that have data, and whether the raster was resampled."""
    height, width = grid.height, grid.width
    crs, transform = grid.crs, grid.transform
    placed = raster.crs is not None and crs is not None
    if not placed and max(raster.height - height, raster.width - width) > 0:
        lacking = path if raster.crs is None else f"tile {tile_id}"
        raise ValueError(
            f"{lacking} has no place, and {path} is of {raster.height} x {raster.width} pixels, tile {tile_id} of {height} x {width}; "
            "without a place both must be of one size"
        )
    try:
        # Of a tile that was padded, the raster may have a part only.
        if not placed or Grid(raster.crs, raster.transform, height, width).same(grid):
            # A tile may have been padded to the size of the data set, below and to the right.
            window = Window(0, 0, min(width, raster.width), min(height, raster.height))
            pad = ((0, height - window.height), (0, width - window.width))
            values = np.pad(raster.read(indexes, window=window), ((0, 0), *pad))
            valid = np.pad(np.all(raster.read_masks(indexes, window=window), axis=0), pad)
            return values, valid, False
        with WarpedVRT(
            raster,
            crs=crs,
            transform=transform,
            height=height,
            width=width,
            resampling=Resampling.nearest,
            add_alpha=True,  # otherwise pixels outside of the raster would read as 0, which is water
            tolerance=0.01,  # pixels of the raster
        ) as warped:
            # Not by dataset_mask: GDAL ignores the alpha band unless it is uint8 or uint16, and calls all pixels valid.
            values, valid = warped.read(indexes), warped.read(warped.count) > 0
        for index, of_band in zip(indexes, values, strict=True):
            if raster.nodatavals[index - 1] is not None:
                valid &= of_band != raster.nodatavals[index - 1]
        return values, valid, True
    except RasterioError as error:
        raise ValueError(
            f"cannot read the pixels of {path} at tile {tile_id}; is the file cut short? ({error.__cause__ or error})"
        ) from None
