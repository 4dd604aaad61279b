"""The zones of a vector file: their polygons, and what they are called.

Enters: a vector file that anyone may have made. Leaves: valid polygons in its CRS; or one line of what is wrong with it.
"""

import collections
import dataclasses
from pathlib import Path

import numpy as np
import shapely
from rasterio.crs import CRS

from tfds_dwplus.files.strangers import one_line
from tfds_dwplus.vectors import geometries
from tfds_dwplus.vectors.geometries import Shapes
from tfds_dwplus.vectors.vector_files import read_vectors

MOST_ZONES = 100_000
"""Of a file: a row of areas for each is kept in memory."""

_NAME = 200
"""Signs of a zone's name; the rest is cut off."""


@dataclasses.dataclass(frozen=True)
class Zones:
    """The zones of a file, in its order."""

    names: tuple[str, ...]
    """Value of the field of each zone, or its number in the file, from 1."""
    geometries: np.ndarray
    """MultiPolygons, valid, [zone], objects."""
    crs: CRS

    def with_union(self) -> Shapes:
        """Returns the zones and, as the last one, all of them together, each place once."""
        together = shapely.multipolygons(shapely.get_parts(shapely.union_all(self.geometries)))
        shapes = np.empty(len(self.names) + 1, object)
        shapes[:] = [*self.geometries, together]
        return Shapes(shapes, np.arange(len(shapes)), self.crs)


@dataclasses.dataclass(frozen=True)
class Options:
    """How a vector file is read."""

    layer: str = ""
    field: str = ""
    """The field of the zones' names; '' numbers them."""
    crs: str = ""
    """Goes before what the file says."""
    mend: bool = False
    """Whether polygons that are not valid are mended rather than refused."""
    anything: bool = False
    """Whether a file is read whatever it is that GDAL reads."""


def read_zones(path: Path, options: Options) -> tuple[Zones, list[str]]:
    """Reads zones; returns them, and lines that the user should read.

    Raises:
        ValueError: as `read_vectors` and `shapes_of`; a zone is a point; there are too many.
    """
    vectors, lines = read_vectors(
        path, options.layer, options.field, options.crs, anything=options.anything, option="--zones"
    )
    if len(vectors.wkb) > MOST_ZONES:
        raise ValueError(
            f"{path} has {len(vectors.wkb):,} zones, expected {MOST_ZONES:,} at most; cut it into smaller files"
        )
    shapes, more = geometries.shapes_of(
        vectors.wkb,
        np.arange(len(vectors.wkb)),
        vectors.crs,
        str(path),
        mend=options.mend,
        option="--zones",
        wanted="polygon",
    )
    if shapes.has_points:
        raise ValueError(f"{path} has points, expected polygons; give the areas about them, --zones buffers.gpkg")
    names = [
        one_line(vectors.values[place], _NAME) if options.field else str(place + 1) for place in shapes.feature.tolist()
    ]
    if options.field:
        lines += _alike(names, path, options.field)
    return Zones(tuple(names), shapes.geometries, vectors.crs), [*lines, *more]


def _alike(names: list[str], path: Path, field: str) -> list[str]:
    """Tells of zones that are called alike, which stay rows of their own, and of those without a name."""
    counts = collections.Counter(names)
    without = counts.pop("", 0)
    twice = [name for name, count in counts.items() if count > 1]
    lines = [f"{without} of {len(names)} zones of {path} have no {field}"] * bool(without)
    return lines + [
        f"{len(twice)} values of {field} are there several times, {one_line(twice[0], 60)} {counts[twice[0]]} times; each feature is a "
        "row of its own"
        for _ in twice[:1]
    ]
