"""The figures of an evaluation, as `evaluation_<split>.json` has them.

Enters: a `Tally`, of a network or of a map made elsewhere. Leaves: plain numbers, for JSON and for people.
"""

import functools
from collections.abc import Sequence
from typing import Any

import rasterio
import tensorflow_datasets as tfds
from rasterio.errors import CRSError

from specsar_jax import accuracy, calibration, metrics
from specsar_jax.tally import Tally
from tfds_dwplus import bands

GROUPS = ("biome", "hemisphere", "annotator")
"""Columns of the data set by whose values an evaluation tells accuracy."""

_MERCATOR = (3395, 3857)
"""EPSG codes of projections whose metres are none: at 60 degrees they make an area four times as large."""


def split_file(what: str, split: str, ending: str) -> str:
    """Name of a file about a split: 'evaluation_test.json'; what a file name does not bear becomes '_'."""
    return f"{what}_{''.join(c if c.isalnum() else '_' for c in split)}.{ending}"


def check_groups(builder: tfds.core.DatasetBuilder, groups: Sequence[str]) -> None:
    """Raises a ValueError if the records of a data set have no such column, unless it is one of `GROUPS`."""
    features = builder.info.features
    held = [name for name in features if features[name].shape == () and name not in ("tile_id", "s1_dates")]
    if unknown := [name for name in groups if name not in (*held, *GROUPS)]:
        raise ValueError(
            f"no column {', '.join(unknown)} in {builder.info.full_name} to group by; it has {', '.join(held)}"
        )


def figures_of(tally: Tally, temperature: float = 1.0, groups: Sequence[str] = GROUPS) -> dict[str, Any]:
    """The figures of some tiles, with the keys that `evaluation_<split>.json` has.

    Args:
        tally: of the tiles.
        temperature: that the probabilities were made with.
        groups: columns of the tally; one that it lacks, or that has one value only, is left out.
    """
    confusion = tally.confusion.sum(axis=0)
    figures = metrics.summarise(confusion)
    of_class = metrics.boundary_iou(tally.boundary.sum(axis=0))
    for name, value in zip(bands.CLASSES, of_class, strict=True):
        figures["per_class"][name]["boundary_iou"] = metrics.plain(value)
    held = [name for name in groups if name in tally.columns]
    by_column = {name: metrics.grouped(tally.confusion, tally.columns[name], name) for name in held}
    calibrated = calibration.summarise(tally, temperature)
    mapped, pixel_area_ha = accuracy.mapped_by_tile(tally)
    return figures | {
        "boundary_iou": metrics.plain(metrics.mean(of_class)),
        **({"calibration": calibrated} if calibrated else {}),
        "groups": {name: rows for name, rows in by_column.items() if len(rows) > 1},
        "area": accuracy.area_estimates(confusion, mapped.sum(axis=0), pixel_area_ha),
        "intervals": accuracy.intervals(tally),
    }


def pixel_area_ha(crs: str, transform: tuple[float, ...]) -> float:
    """Hectares of a pixel; NaN where they cannot be told: no CRS, one in degrees, or a Mercator projection of the world.

    Args:
        crs: in any notation that rasterio knows; empty where nobody knows the place.
        transform: pixel to CRS, six numbers in rasterio's order.
    """
    a, b, _, d, e, _ = transform[:6]
    return abs(a * e - b * d) * _metres(crs) ** 2 / 1e4


@functools.cache
def _metres(crs: str) -> float:
    """Of the unit of a CRS; NaN where a pixel has no area in it."""
    try:
        of = rasterio.CRS.from_user_input(crs) if crs else None
    except CRSError:
        of = None
    if of is None or not of.is_projected or of.to_epsg() in _MERCATOR:
        return float("nan")
    return float(of.linear_units_factor[1])
