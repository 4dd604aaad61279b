"""Vector files of labels that tests draw, over scenes that they make and over a real one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

SQUARE_PX = 6
"""Side of the polygons that are drawn over the real scene."""

FOUR_CLASSES = (
    "value,name,colour\n1,green field,2e8b57\n2,sparse field,c9b458\n3,bare soil,b5651d\n4,dark ground,30456b\n"
)


def feature(kind: str, coordinates: Any, **properties: Any) -> dict[str, Any]:
    geometry = None if coordinates is None else {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def square(left: float, top: float, width: float, height: float | None = None, **properties: Any) -> dict[str, Any]:
    """A rectangle by its upper left corner."""
    right, bottom = left + width, top - (width if height is None else height)
    return feature("Polygon", [[[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]], **properties)


def geojson(path: Path, features: Sequence[dict[str, Any]], epsg: int | None = None) -> Path:
    tree: dict[str, Any] = {"type": "FeatureCollection", "features": list(features)}
    if epsg:
        tree["crs"] = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{epsg}"}}
    path.write_text(json.dumps(tree))
    return path


def checkered(raster: Path, path: Path, values: Sequence[object], side_px: int = 10) -> Path:
    """Draws squares all over a raster, of which a fifth of the side is left free, with the field `class`."""
    with rasterio.open(raster) as opened:
        (left, top), side = opened.transform @ (0.2, 0.2), opened.transform.a * side_px
        rows, columns, epsg = opened.height // side_px, opened.width // side_px, opened.crs.to_epsg()
    places = [(row, column) for row in range(rows) for column in range(columns)]
    kinds = [values[(row // 2 + column) % len(values)] for row, column in places]
    squares = [
        square(left + side * column, top - side * row, 0.8 * side, **{"class": kind})
        for (row, column), kind in zip(places, kinds, strict=True)
    ]
    return geojson(path, squares, epsg)


def draw_over(scene: Path, path: Path) -> Path:
    """Draws squares over even ground of a scene of Sentinel-2, by its greenness and brightness, with the field `cover` of 1 to 4."""
    bands = {}
    for name in ("B4", "B8"):
        with rasterio.open(scene / f"{name}.tif") as raster:
            bands[name], transform = raster.read(1).astype(np.float64), raster.transform
    green = (bands["B8"] - bands["B4"]) / (bands["B8"] + bands["B4"])
    bright = bands["B4"] + bands["B8"]
    features = []
    for row in range(0, green.shape[0] - SQUARE_PX, SQUARE_PX):
        for column in range(0, green.shape[1] - SQUARE_PX, SQUARE_PX):
            part = slice(row, row + SQUARE_PX), slice(column, column + SQUARE_PX)
            if green[part].std() > 0.08:
                continue
            if bright[part].mean() < 3300:
                cover = 4
            else:
                cover = 1 if green[part].mean() > 0.55 else 2 if green[part].mean() > 0.35 else 3
            corners = [(0, 0), (SQUARE_PX, 0), (SQUARE_PX, SQUARE_PX), (0, SQUARE_PX), (0, 0)]
            ring = [list(transform @ (column + x, row + y)) for x, y in corners]
            features.append(feature("Polygon", [ring], cover=cover))
    return geojson(path, features)
