"""Class maps made elsewhere, as rasters of any grid and legend, laid over the labels of a tile.

Enters: a raster, or a folder of a raster a tile. Leaves: class ids on the tile's own grid, and what was found on the way. A raster on
another grid than the label is warped to it by nearest neighbour; labels are never resampled.
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

from specsar_jax import legends
from specsar_jax.legends import Legend
from tfds_dwplus import bands
from tfds_dwplus.imagery import Grid
from tfds_dwplus.tile_files import open_raster


@dataclasses.dataclass(frozen=True)
class Map:
    """Rasters to score."""

    path: Path
    """A raster that covers the tiles, or a folder of `<tile_id>.tif`, in folders or not; `label_<tile_id>.tif` counts as such."""
    legend: Legend

    @property
    def name(self) -> str:
        """What the map is called in tables."""
        return self.path.resolve().stem


@dataclasses.dataclass(frozen=True)
class Target:
    """The labels of a tile."""

    tile_id: str
    grid: Grid
    """Its CRS is empty where nobody knows the place."""
    labels: dict[str, UInt8[np.ndarray, "height width"]]
    """Class ids by vote; 255 where there is no label."""
    columns: dict[str, Any]


@dataclasses.dataclass
class Raw:
    """What is known of a map besides its score."""

    codes: Counter = dataclasses.field(default_factory=Counter)
    """How often each code occurs."""
    warped: int = 0
    """Tiles whose raster is on another grid."""
    without: list[str] = dataclasses.field(default_factory=list)
    """Tiles of which it has no pixel."""
    joint: Int[np.ndarray, "code label"] = dataclasses.field(default_factory=lambda: np.zeros((11, 9), np.int64))
    """Labelled pixels by code, 0 to 10, and class of the label; of files that do not say what their codes are."""


def tile_files(path: Path) -> dict[str, Path]:
    """Rasters of a folder by tile id; none of a file."""
    if not path.exists():
        raise ValueError(f"no file or folder {path}; expected a raster, or a folder of <tile_id>.tif")
    if not path.is_dir():
        with open_raster(path) as raster:
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


def read_map(of: Map, files: dict[str, Path], target: Target, raw: Raw) -> UInt8[np.ndarray, "height width"] | None:
    """Class ids of a map at a tile, counted in `raw`; None if it has no pixel there."""
    path = files.get(target.tile_id) if of.path.is_dir() else of.path
    if path == of.path and not target.grid.crs:
        raise ValueError(
            f"tile {target.tile_id} has no place, so that {path} cannot be laid over it; give a folder of <tile_id>.tif"
        )
    codes, warped = (None, False) if path is None else read_codes(path, of.legend, target.grid, target.tile_id)
    if codes is None:
        raw.without.append(target.tile_id)
        return None
    _check_size(path, target)
    ids = legends.class_ids(codes, of.legend, str(path))
    raw.warped += warped
    found, counts = np.unique(codes, return_counts=True)
    raw.codes.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    if not (of.legend is legends.DYNAMIC_WORLD and _names_its_codes(path)):
        label = target.labels.get("consensus", next(iter(target.labels.values())))
        counted = (label != bands.IGNORE) & (codes <= 10)
        raw.joint += np.bincount(codes[counted] * 9 + label[counted], minlength=99).reshape(11, 9)
    return ids


def read_codes(
    path: Path, legend: Legend, grid: Grid, tile_id: str = "the tile"
) -> tuple[Integer[np.ndarray, "height width"] | None, bool]:
    """Codes of a raster on a tile's grid, and whether it had to be warped; None if it has no pixel there.

    What the file declares as nodata, what lies beyond it, and what a neighbouring file of Zenodo's has non-finite probabilities for,
    becomes the legend's nodata.

    Raises:
        ValueError: not a raster, cut short, several bands of which none is the one meant, values that are no whole numbers, nodata
            that is a class, a raster or a tile without a place and of another size.
    """
    with open_raster(path) as raster:
        index = _band(path, raster, legend)
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
        # Where the model gave none, the band of its classes holds one all the same.
        with open_raster(probabilities) as raster:
            shares, known, _ = _on_grid(probabilities, raster, list(raster.indexes), grid, tile_id)
        valid &= known & np.isfinite(shares).all(axis=0)
    return (np.where(valid, values, legend.nodata[0]).astype(np.int64), warped) if valid.any() else (None, warped)


def _names_its_codes(path: Path) -> bool:
    """Whether the file says that 0 is water, as maps of ours do: from what number it counts need not be guessed then."""
    with open_raster(path) as raster:
        return raster.tags().get("class_0") == bands.CLASSES[0]


def _check_size(path: Path, target: Target) -> None:
    """Raises a ValueError if a raster without a place is smaller than the labelled part of its tile, which may be padded."""
    with open_raster(path) as raster:
        height, width, placed = *raster.shape, bool(raster.crs and target.grid.crs)
    beyond = any(
        (label[height:] != bands.IGNORE).any() or (label[:, width:] != bands.IGNORE).any()
        for label in target.labels.values()
    )
    if beyond and not placed:
        raise ValueError(
            f"{path} is of {height} x {width} pixels and tile {target.tile_id} is labelled beyond; without a place both must be of one size"
        )


def _band(path: Path, raster: rasterio.DatasetReader, legend: Legend) -> int:
    """The band of classes, counted from 1."""
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


def _on_grid(
    path: Path, raster: rasterio.DatasetReader, indexes: list[int], grid: Grid, tile_id: str
) -> tuple[Shaped[np.ndarray, "band height width"], Bool[np.ndarray, "height width"], bool]:
    """Pixels on a grid, where there are any, and whether the raster had to be warped."""
    height, width = grid.height, grid.width
    crs = rasterio.CRS.from_user_input(grid.crs) if grid.crs else None
    placed = raster.crs is not None and crs is not None
    transform = rasterio.Affine(*grid.transform)
    if not placed and max(raster.height - height, raster.width - width) > 0:
        lacking = path if raster.crs is None else f"tile {tile_id}"
        raise ValueError(
            f"{lacking} has no place, and {path} is of {raster.height} x {raster.width} pixels, tile {tile_id} of {height} x {width}; "
            "without a place both must be of one size"
        )
    try:
        if not placed or (raster.crs == crs and raster.transform.almost_equals(transform, precision=1e-6)):
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
            add_alpha=True,  # else what lies beyond the raster reads as 0, which is water
            tolerance=0.01,  # pixels of the raster
        ) as warped:
            # Not its dataset_mask: of other types than uint8 and uint16 GDAL takes no alpha, and all for valid.
            values, valid = warped.read(indexes), warped.read(warped.count) > 0
        for index, of_band in zip(indexes, values, strict=True):
            if raster.nodatavals[index - 1] is not None:
                valid &= of_band != raster.nodatavals[index - 1]
        return values, valid, True
    except RasterioError as error:
        raise ValueError(
            f"cannot read the pixels of {path} at tile {tile_id}; is the file cut short? ({error.__cause__ or error})"
        ) from None
