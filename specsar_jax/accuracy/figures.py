"""The figures of an evaluation, with the keys of `evaluation_<split>.json`.

Enters: a `Tally`, of a network or of a third-party map. Leaves: plain numbers for JSON and for tables.
"""

import functools
from collections.abc import Sequence
from typing import Any

import rasterio
import tensorflow_datasets as tfds
from rasterio.errors import CRSError

from specsar_jax.accuracy import calibration, intervals, metrics
from specsar_jax.accuracy.tally import Tally
from tfds_dwplus import bands

GROUPS = ("biome", "hemisphere", "annotator")
"""Columns of the data set by which an evaluation groups accuracy, unless told otherwise."""

_MERCATOR = (3395, 3857)
"""EPSG codes of Mercator projections of the world, whose areas are wrong: four times too large at 60 degrees."""


def check_groups(builder: tfds.core.DatasetBuilder, groups: Sequence[str]) -> None:
    """Raises a ValueError if a column to group by is neither in the data set nor one of `GROUPS`."""
    features = builder.info.features
    held = [name for name in features if features[name].shape == () and name not in ("tile_id", "s1_dates")]
    if unknown := [name for name in groups if name not in (*held, *GROUPS)]:
        raise ValueError(
            f"no column {', '.join(unknown)} in {builder.info.full_name} to group by; it has {', '.join(held)}"
        )


def figures_of(tally: Tally, temperature: float = 1.0, groups: Sequence[str] = GROUPS) -> dict[str, Any]:
    """Returns the figures of some tiles, with the keys of `evaluation_<split>.json`.

    Args:
        tally: sums of the tiles.
        temperature: temperature that the probabilities were computed with.
        groups: columns of the tally to group by; a column that is missing or has only one value is left out.
    """
    confusion = tally.confusion.sum(axis=0)
    figures = metrics.summarise(confusion)
    boundary_iou = metrics.boundary_iou(tally.boundary.sum(axis=0))
    for name, value in zip(bands.CLASSES, boundary_iou, strict=True):
        figures["per_class"][name]["boundary_iou"] = metrics.plain(value)
    held = [name for name in groups if name in tally.columns]
    by_column = {name: metrics.grouped(tally.confusion, tally.columns[name], name) for name in held}
    calibrated = calibration.summarise(tally, temperature)
    mapped, pixel_area_ha = intervals.mapped_by_tile(tally)
    return figures | {
        "boundary_iou": metrics.plain(metrics.mean(boundary_iou)),
        **({"calibration": calibrated} if calibrated else {}),
        "groups": {name: rows for name, rows in by_column.items() if len(rows) > 1},
        "area": intervals.area_estimates(confusion, mapped.sum(axis=0), pixel_area_ha),
        "intervals": intervals.intervals(tally),
    }


def pixel_area_ha(crs: str, transform: tuple[float, ...]) -> float:
    """Returns the area of a pixel in hectares; NaN without a CRS, and for a CRS in degrees or a Mercator projection of the world.

    Args:
        crs: CRS in any notation that rasterio reads; empty if it is unknown.
        transform: affine transform from pixel to CRS, six numbers in rasterio's order.
    """
    a, b, _, d, e, _ = transform[:6]
    return abs(a * e - b * d) * _metres(crs) ** 2 / 1e4


@functools.cache
def _metres(crs: str) -> float:
    """Returns the metres in a CRS's unit of length; NaN if areas cannot be computed in it."""
    try:
        parsed = rasterio.CRS.from_user_input(crs) if crs else None
    except CRSError:
        parsed = None
    if parsed is None or not parsed.is_projected or parsed.to_epsg() in _MERCATOR:
        return float("nan")
    return float(parsed.linear_units_factor[1])
