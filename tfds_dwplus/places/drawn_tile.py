"""A tile whose place and dates were drawn by lot: what `acquire --region` fetches, where `--labels` has a labelled tile."""

import dataclasses

from rasterio import Affine

from tfds_dwplus.imagery.grids import Grid, parse_crs
from tfds_dwplus.labels.published import LabelTile

DATES = 4
"""Days that are drawn for a tile: where no scene is clear about the first one, the next is tried."""


@dataclasses.dataclass(frozen=True)
class DrawnTile(LabelTile):
    """A place in a region, and the days about which a clear scene of it is looked for.

    It has no label and no annotator; `date` is the first of `dates`.
    """

    crs: str
    """Authority code of a UTM zone."""
    left: int
    """Easting of the left border, metres, a multiple of 10: pixels are those of Sentinel-2 in this zone."""
    top: int
    """Northing of the upper border, likewise."""
    size_px: int
    """Height and width, pixels of 10 m."""
    dates: tuple[str, ...]
    """Days, YYYY-MM-DD; the next one is for a tile without a clear scene about the ones before."""

    @property
    def grid(self) -> Grid:
        """Returns the grid of its pixels."""
        return Grid(parse_crs(self.crs), Affine(10, 0, self.left, 0, -10, self.top), self.size_px, self.size_px)


@dataclasses.dataclass(frozen=True)
class Choice:
    """Everything that decides where and when tiles are drawn, and which of their scenes are clear; the same for a whole folder."""

    region_sha256: str
    """Of the region's polygons."""
    seed: int
    size_px: int
    """Height and width of a tile, pixels of 10 m."""
    inside: float
    """Share of a tile that lies in the region, at least."""
    splits: tuple[tuple[str, float], ...]
    """Pairs of a split and its share of the tiles."""
    dates: tuple[str, str]
    """First and last day of a Sentinel-2 scene."""
    window_days: int
    """Days between a drawn day and a scene, at most."""
    max_cloud: float
    """Share of a tile's pixels under cloud or its shadow, by the scene classification, at most."""
    max_nodata: float
    """Share of a tile's pixels that a sensor does not see, at most."""
    sensors: tuple[str, ...]
    """s2, or s2 and s1."""
