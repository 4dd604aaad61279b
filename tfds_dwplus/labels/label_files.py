"""Read the pixels of a published label tile.

Enters: a `LabelTile`, with the paths of its files. Leaves: a `Label`: codes 0 to 10 on a 10 m UTM grid, and for a
held-out tile one raster for each way of merging its experts' labels. GDAL reads inside zip files; nothing is unpacked.
"""

import dataclasses

import numpy as np
import rasterio
from jaxtyping import Bool, Shaped, UInt8
from rasterio.errors import RasterioError

from tfds_dwplus import bands
from tfds_dwplus.files.opening import opened
from tfds_dwplus.labels.published import LabelTile

SIZES_PX = {510: "PANGAEA", 512: "Zenodo"}
"""Height and width of a label tile, and the archive that publishes it."""


@dataclasses.dataclass(frozen=True)
class Label:
    """The pixels of a label tile."""

    codes: UInt8[np.ndarray, "height width"]
    """0 unmarked, 1 to 9 the classes, 10 cloud. For a held-out tile with votes, the consensus."""
    crs: str
    """Authority code of a UTM zone, or WKT."""
    transform: tuple[float, ...]
    """Affine coefficients a, b, c, d, e, f, metres."""
    votes: dict[str, UInt8[np.ndarray, "height width"]]
    """Codes by vote; empty for a train tile."""


def read_label(tile: LabelTile) -> Label:
    """Reads the pixels of a tile. Labels of three single experts are merged by `votes`.

    Raises:
        ValueError: a file is missing or cut short, is not 510 or 512 pixels wide and high, is not north up on a 10 m UTM
            grid, has codes other than 0 to 10, or has several bands and none named `lulc`; the files of a held-out tile
            are on different grids, hold votes without the consensus, or are neither one nor three experts' labels.
    """
    rasters = [(vote, path, *_read(path)) for vote, path in tile.files]
    _, first_path, first, crs, transform = rasters[0]
    for _, path, codes, other_crs, other_transform in rasters[1:]:
        if (codes.shape, other_crs, other_transform) != (first.shape, crs, transform):
            raise ValueError(
                f"label {path} is on another grid than {first_path}; expected one grid for tile {tile.tile_id}"
            )
    by_vote = {vote: codes for vote, _, codes, _, _ in rasters if vote}
    if not by_vote and len(rasters) > 1:
        if len(rasters) != 3:
            raise ValueError(f"tile {tile.tile_id} has {len(rasters)} experts' markups, expected 3 of them, or votes")
        by_vote = votes(np.stack([codes for _, _, codes, _, _ in rasters]))
    if by_vote and "consensus" not in by_vote:
        raise ValueError(
            f"tile {tile.tile_id} has the votes {', '.join(by_vote)}, expected consensus among them; give its folder too"
        )
    return Label(by_vote.get("consensus", first), crs, transform, by_vote)


def votes(markups: UInt8[np.ndarray, "3 height width"]) -> dict[str, UInt8[np.ndarray, "height width"]]:
    """Merges three experts' codes in four ways. A pixel is 0 where the rule gives no result. Cloud (10) counts like a class.

    strict: all three marked the pixel and agree. consensus: all who marked it agree, whether three, two or one.
    simple_majority: at least two agree. majority: at least two agree, or only one marked it.

    Source: Brown et al. 2022, Technical Validation, text. The captions of its tables 7 and 9 define the votes
    differently, but their pixel counts (27.8 M strict, 57.7 M simple majority, 68.1 M consensus, 78.9 M majority) fit
    the text only.
    """
    marked = (markups > 0).sum(axis=0)
    winner = np.zeros(markups.shape[1:], np.uint8)
    agreeing = np.zeros(markups.shape[1:], np.int64)
    for code in bands.LABEL_CODES[1:]:
        count = (markups == code).sum(axis=0)
        winner = np.where(count > agreeing, np.uint8(code), winner)
        agreeing = np.maximum(agreeing, count)

    def where(valid: Bool[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
        return np.where(valid, winner, np.uint8(0))

    return {
        "strict": where(agreeing == 3),
        "consensus": where(agreeing == marked),
        "simple_majority": where(agreeing >= 2),
        "majority": where((agreeing >= 2) | (marked == 1)),
    }


def _read(path: str) -> tuple[UInt8[np.ndarray, "height width"], str, tuple[float, ...]]:
    """Reads the codes, CRS and transform of a label file."""
    try:
        with opened(path) as raster:
            _check_grid(path, raster)
            values = raster.read(_band(path, raster))
            crs, transform = raster.crs.to_string(), tuple(map(float, tuple(raster.transform)[:6]))
    except RasterioError as error:
        raise ValueError(
            f"cannot read label {path}; is the file or its zip cut short? ({error.__cause__ or error})"
        ) from None
    return _codes(path, values), crs, transform


def _check_grid(path: str, raster: rasterio.DatasetReader) -> None:
    if raster.height != raster.width or raster.height not in SIZES_PX:
        sizes = " or ".join(f"{size} x {size} ({whose})" for size, whose in SIZES_PX.items())
        raise ValueError(f"label {path} is {raster.height} x {raster.width} pixels, expected {sizes}")
    if not raster.crs or raster.crs.to_dict().get("proj") != "utm":
        raise ValueError(f"label {path} has CRS {raster.crs}, expected a UTM zone; use the file as published")
    pixel = tuple(raster.transform)
    if not np.allclose((*pixel[:2], *pixel[3:5]), (10, 0, 0, -10), rtol=0, atol=1e-6):
        raise ValueError(f"label {path} has transform {pixel[:6]}, expected pixels of 10 m, north up")


def _band(path: str, raster: rasterio.DatasetReader) -> int:
    """Finds the band of annotators' codes: `lulc` if it exists. Zenodo's files also hold the model's classes, from 0."""
    names = [(name or "").strip().lower() for name in raster.descriptions]
    if "lulc" in names:
        return names.index("lulc") + 1
    if raster.count > 1:
        raise ValueError(
            f"label {path} has the bands {', '.join(name or '?' for name in names)}, expected one named lulc"
        )
    return 1


def _codes(path: str, values: Shaped[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    valid = np.isin(values, bands.LABEL_CODES)
    if not valid.all():
        raise ValueError(f"label {path} holds the code {values[~valid][0]}, expected 0 to {max(bands.LABEL_CODES)}")
    return values.astype(np.uint8)
