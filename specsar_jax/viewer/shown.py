"""All that the page shows, and what it asks for: pictures of tiles, a pixel, areas in the view and in a drawn polygon.

Enters: opened maps, imagery and shares. Leaves: PNG, and figures for JSON. Its methods may be called from any thread.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import shapely

from specsar_jax.viewer import confidence, origin, polygon
from specsar_jax.viewer.agreement import AGREE, DIFFER, Agreement
from specsar_jax.viewer.class_map import ClassMap, Sampled
from specsar_jax.viewer.imagery import Imagery
from specsar_jax.viewer.mercator import TILE_PX, Bounds, tile_bounds
from specsar_jax.viewer.rasters import png
from specsar_jax.viewer.shares import percentages
from tfds_dwplus import bands

MOST_SHARES = 5
"""Classes of a pixel that are told by name; the rest are others."""


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How the tiles of a layer are drawn."""

    hidden: int = 0
    """Bit mask of the classes that are not drawn."""
    sure: float = 0.0
    """Pixels of less confidence are faded, 0 to 1."""
    safe: bool = False
    """Whether in the second colours."""
    class_id: int = 0
    """Of the heat map."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """What the page shows."""

    maps: tuple[ClassMap, ...]
    """One or two."""
    agreement: Agreement | None = None
    """Of two maps."""
    imagery: Imagery | None = None
    sureness: confidence.Shares | None = None
    """Confidences of the first map, or probabilities, of which the largest is taken; None if neither is given."""
    probabilities: confidence.Shares | None = None
    """Of all classes of the first map."""

    @property
    def bounds(self) -> Bounds:
        """Returns west, south, east, north of the first map in degrees."""
        return self.maps[0].bounds

    @property
    def zooms(self) -> tuple[int, int]:
        """Returns the first and the last zoom level."""
        return self.maps[0].zooms

    @property
    def layers(self) -> dict[str, str]:
        """Returns the names of the layers by the words that addresses have for them."""
        names = dict(zip(("map", "compared"), (shown.name for shown in self.maps), strict=False))
        names |= {"agreement": "Where the maps agree"} if self.agreement else {}
        of = f", {self.maps[0].name}" if len(self.maps) > 1 else ""
        names |= {"heat": f"Probability of a class{of}"} if self.probabilities else {}
        return names | ({"imagery": "Sentinel-2, natural colour"} if self.imagery else {})

    def about(self) -> dict[str, Any]:
        """Returns the facts that the page loads first."""
        return {
            "bounds": self.bounds,
            "placed": self.maps[0].placed,
            "zooms": list(self.zooms),
            "layers": self.layers,
            "maps": [
                shown.about()
                | {"origin": origin.told(shown.tags, shown.nodata_share), "warnings": origin.warnings(shown.tags)}
                for shown in self.maps
            ],
            "weights": {key: self.maps[0].tags.get(f"weights_{key}", "") for key in ("origin", "licence")},
            "backdrop": self.imagery.mean if self.imagery else "",
            "sureness": self.sureness is not None,
            "ramp": list(confidence.RAMP),
            "agreement": {"colours": [AGREE, DIFFER], "lacking": self.agreement.lacking} if self.agreement else None,
            "most_corners": polygon.MOST_CORNERS,
        }

    def tile(self, layer: str, place: tuple[int, int, int], drawing: Drawing) -> bytes | None:
        """Returns a tile of a layer as PNG; None if there is no such layer, or no such tile of it.

        Args:
            layer: one of `layers`.
            place: zoom level, column and row.
            drawing: how it is drawn.
        """
        z, x, y = place
        low, high = self.zooms
        if layer not in self.layers or not low <= z <= high or max(x, y) >= 2**z:
            return None
        if layer == "imagery":
            return png(self.imagery.tile(place))
        if layer == "agreement":
            return png(self.agreement.tile(place))
        if layer == "heat":
            if not 0 <= drawing.class_id < len(self.maps[0].classes):
                return None
            return png(self.probabilities.heat_tile(place, drawing.class_id))
        shown, unsure = self.maps[layer == "compared"], None
        if layer == "map" and self.sureness and drawing.sure:
            unsure = self.sureness.below(drawing.sure, tile_bounds(*place), (TILE_PX, TILE_PX))
        return png(shown.tile(place, drawing.hidden, unsure, safe=drawing.safe))

    def pixel(self, lon: float, lat: float) -> dict[str, Any] | None:
        """Returns the pixels of the maps at a place in degrees; None outside of the first map."""
        pixel = self.maps[0].pixel_at(lon, lat)
        if pixel is None:
            return None
        found = {"class": self.maps[0].class_at(pixel), "row": pixel.row, "column": pixel.column}
        if found["class"] is not None and self.probabilities:
            found["shares"], found["others"] = _largest(self.probabilities.at(pixel))
        elif found["class"] is not None and self.sureness:
            found["confidence"] = round(100 * self.sureness.at(pixel)[0], 1)
        compared = {}
        if self.agreement:
            other = self.maps[1].pixel_at(lon, lat)
            compared = {
                "compared": {"class": None if other is None else self.maps[1].class_at(other), "outside": other is None}
            }
        return found | compared | {"outline": self.maps[0].outline(pixel, lon)}

    def areas(self, view: Bounds, sure: float = 0.0) -> dict[str, Any]:
        """Returns the area of each class within a view.

        Args:
            view: west, south, east, north of the view in degrees.
            sure: confidence below which pixels are faded, 0 to 1.

        Returns:
            `maps`: of each its `areas`, in the order of the classes, `nodata`, and the `shares` of these in percent, nodata last;
            `unit`; `step_px`, distance of the samples in pixels of the first map; `unsure`, share of the mapped area that is faded, in
            percent, None if none is; `agreement`, None for one map.
        """
        sampled = [shown.sampled(view) for shown in self.maps]
        unsure = None
        if self.sureness and sure and sampled[0] is not None:
            below = self.sureness.below(sure, sampled[0].bounds, sampled[0].class_id.shape)
            mapped = sampled[0].class_id != bands.IGNORE
            weights = sampled[0].areas[:, None] * mapped
            unsure = float(100 * (weights * below).sum() / max(weights.sum(), 1e-12))
        return {
            "maps": [_areas(shown, found) for shown, found in zip(self.maps, sampled, strict=True)],
            "unit": self.maps[0].unit,
            "step_px": round(sampled[0].step_px, 2) if sampled[0] else 0.0,
            "unsure": unsure,
            "agreement": self.agreement.areas(view, sampled[0]) if self.agreement else None,
        }

    def in_polygon(self, corners: Sequence[tuple[float, float]]) -> dict[str, Any]:
        """Returns the areas of the maps in a polygon of corners, longitude and latitude in degrees.

        Raises:
            ValueError: as `polygon.drawn`; it lies outside of the maps, or these have no place.
        """
        if not self.maps[0].placed:
            raise ValueError("the map has no place on earth, so that there are no hectares")
        zones = polygon.drawn(corners)
        measured = [polygon.areas(shown, zones) for shown in self.maps]
        if not any(sum(found["areas"]) + found["nodata"] for found in measured):
            raise ValueError(f"the polygon lies outside of {' and '.join(shown.name for shown in self.maps)}")
        return {"maps": measured, "unit": "ha", "geometry": shapely.geometry.mapping(zones.geometries[0])}


def _areas(shown: ClassMap, sampled: Sampled | None) -> dict[str, Any]:
    number = len(shown.classes)
    if sampled is None:
        return {"areas": [0.0] * number, "nodata": 0.0, "shares": [0.0] * (number + 1)}
    sums = sampled.sums(sampled.class_id, number)
    nodata = float((sampled.areas[:, None] * (sampled.inside & (sampled.class_id == bands.IGNORE))).sum())
    return {"areas": sums, "nodata": nodata, "shares": percentages([*sums, nodata])}


def _largest(shares: Sequence[float]) -> tuple[list[tuple[int, float]], float | None]:
    """Returns class ids and percentages of the largest shares, and the percentage of all others together; None if all are told."""
    order = sorted(range(len(shares)), key=lambda place: (-shares[place], place))
    named = order if len(order) <= MOST_SHARES + 1 else order[:MOST_SHARES]
    told = [round(100 * shares[place], 1) for place in named]
    others = round(100 - sum(told), 1)
    if len(named) < len(order) and others >= 0:
        return list(zip(named, told, strict=True)), others
    # Stored shares are rounded, so that all of them need not add up.
    return list(zip(named, percentages([shares[place] for place in named]), strict=True)), None
