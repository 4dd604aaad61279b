"""Defines the rasters of a block: its map, and what may lie beside it in folders of their own.

Enters: pixels. Leaves: the same with their names, the assets that a STAC item tells of them, and one of them as the bytes of a file.
"""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from tfds_dwplus import bands
from tfds_dwplus.files.raster_files import geotiff
from tfds_dwplus.places.blocks import Block

SEEN, PROBABILITIES, CHANGED = "seen", "probabilities", "changed"
"""Folders of the rasters beside the maps: the sensors that each pixel was seen by, the probabilities, the month of the last change."""

ASSETS = {
    SEEN: ("sensors_seen", "sensors seen: 1 Sentinel-2, 2 Sentinel-1, 3 both"),
    PROBABILITIES: ("probabilities", "probability of each class, in steps of 0.004"),
    CHANGED: ("changed", "month of the last change, 1 to 12; 0 where there is none"),
}
"""Name and title of the asset of each of them."""


@dataclasses.dataclass(frozen=True)
class Rasters:
    """The pixels of a block, nodata 255."""

    class_id: UInt8[np.ndarray, "size size"]
    seen: UInt8[np.ndarray, "size size"] | None = None
    """The sensors that each pixel was seen by, `bands.seen_pixels`; None if the network needs all of them."""
    share: UInt8[np.ndarray, "size size class"] | None = None
    """The class probabilities, as `map_files.scaled` has them; None to keep none."""
    changed: UInt8[np.ndarray, "size size"] | None = None
    """The month of the last change, 1 to 12, and 0 where there is none; None for a map of one time."""

    @property
    def beside(self) -> tuple[str, ...]:
        """Returns the folders of the rasters that there are beside the map."""
        named = {SEEN: self.seen, PROBABILITIES: self.share, CHANGED: self.changed}
        return tuple(folder for folder, values in named.items() if values is not None)


def months_cog(block: Block, changed: UInt8[np.ndarray, "size size"], tags: dict[str, str]) -> bytes:
    """Encodes the months of the last change as a cloud-optimised GeoTIFF."""
    place = {"crs": block.crs, "transform": block.grid.transform, "nodata": bands.IGNORE}
    how = {"driver": "COG", "compress": "deflate", "overview_resampling": "nearest"}
    return geotiff(changed[None], descriptions=("month of the last change",), tags=tags, **place, **how)
