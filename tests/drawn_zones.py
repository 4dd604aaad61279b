"""Class maps and vector files of zones for the tests of areas."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tfds_dwplus import bands

pytest.importorskip("exactextract", reason="extra 'areas'")
pyogrio = pytest.importorskip("pyogrio", reason="extra 'areas'")
shapely = pytest.importorskip("shapely", reason="extra 'areas'")

UTM = rasterio.Affine(10, 0, 300000, 0, -10, 3400000)


def write_map(
    path: Path,
    ids: np.ndarray,
    crs: str = "EPSG:32643",
    transform=UTM,
    classes: bands.Classes = bands.DYNAMIC_WORLD,
    **tags,
) -> Path:
    """Writes a class map as `predict` does."""
    size = {"height": ids.shape[0], "width": ids.shape[1], "count": 1, "dtype": "uint8"}
    tiles = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    placed = {"crs": crs, "transform": transform} if crs else {}
    with rasterio.open(path, "w", driver="GTiff", nodata=bands.IGNORE, **placed, **size, **tiles) as raster:
        raster.write(ids, 1)
        raster.write_colormap(1, {place: (*colour, 255) for place, colour in enumerate(classes.rgb())})
        raster.update_tags(**{f"class_{place}": name for place, name in enumerate(classes.names)}, **tags)
    return path


def write_zones(
    path: Path, zones: Sequence, names: Sequence = (), crs: str | None = "EPSG:32643", kind="Polygon"
) -> Path:
    """Writes polygons with the field `name`."""
    wkb = np.array([None if zone is None else shapely.to_wkb(zone) for zone in zones], object)
    values = np.array(names or [f"zone {place}" for place in range(len(zones))], object)
    pyogrio.raw.write(
        path,
        wkb,
        [values],
        ["name"],
        geometry_type=kind,
        crs=crs,
        driver=None if path.suffix != ".shp" else "ESRI Shapefile",
    )
    return path


def box(left: float, top: float, right: float, bottom: float, transform=UTM):
    """A box whose corners are given in pixels of the map."""
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return shapely.Polygon([transform @ corner for corner in corners])
