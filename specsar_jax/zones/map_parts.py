"""The rasters of a map: one file, or the mosaics of a region's folder, one for each UTM zone.

Enters: a path. Leaves: the rasters, and the classes that all of them have. No pixel but a small look is read.
"""

import dataclasses
import re
from pathlib import Path

from specsar_jax.pages.map_classes import Coding, classes_of_map
from tfds_dwplus import bands
from tfds_dwplus.files.opening import open_raster
from tfds_dwplus.files.strangers import one_line
from tfds_dwplus.imagery.grids import Grid


@dataclasses.dataclass(frozen=True)
class Part:
    """A raster of a map."""

    path: Path | str
    grid: Grid
    utm_zone: str
    """Zone of a region's mosaic, as '33N': it covers ground in that zone only, beyond the border the next mosaic does. '' for a file."""


@dataclasses.dataclass(frozen=True)
class Mapped:
    """A map in one raster or several."""

    path: Path | str
    parts: tuple[Part, ...]
    classes: bands.Classes
    weights_sha256: str
    """Digest of the weights that made it, as its tags have it; '' if they do not."""
    anywhere: bool
    """Whether a VRT may take its pixels from anywhere."""
    coding: Coding | None = None
    """Of a map of another legend; None if codes are class ids, and another one is an error."""
    band: int = 1
    """Of the classes."""


def read_parts(path: Path, *, anywhere: bool = False) -> Mapped:
    """Finds the rasters of a map and reads their classes.

    Args:
        path: a class map of `predict`, a mosaic of `map_region`, or the folder of one of its regions.
        anywhere: whether a VRT may take its pixels from anywhere.

    Raises:
        ValueError: there is none, it is no class map or has no place, or the mosaics of a folder have different classes.
    """
    parts, found, digests = [], [], set()
    for file, zone in _files(path):
        with open_raster(file, anywhere=anywhere) as raster:
            found.append(classes_of_map(str(file), raster))
            grid = Grid.of(raster)
            if not grid.placed:
                raise ValueError(
                    f"{file} has no place on earth, so that its pixels have no area; give a map with a CRS"
                )
            digests.add(raster.tags().get("weights_sha256", ""))
        if found[-1] != found[0]:
            raise ValueError(f"{parts[0].path} and {file} are of different classes; give a folder of one region")
        parts.append(Part(file, grid, zone))
    digest = digests.pop() if len(digests) == 1 else ""
    return Mapped(path, tuple(parts), found[0], one_line(digest, 64), anywhere)


def _files(path: Path) -> list[tuple[Path, str]]:
    if not path.is_dir():
        return [(path, "")]
    named = ((file, re.fullmatch(r"mosaic_(\d\d[NS])\.vrt", file.name)) for file in sorted(path.iterdir()))
    found = [(file, name[1]) for file, name in named if name]
    if not found:
        raise ValueError(
            f"{path} has no mosaic_<zone>.vrt; expected a class map, or the folder of a region of specsar_jax.map_region"
        )
    return found
