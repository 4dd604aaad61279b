"""The figures of an evaluation, with the keys of `evaluation_<split>.json`.

Enters: a `Tally`, of a network or of a third-party map. Leaves: plain numbers for JSON and for tables. `check_types` checks what was
read from a file, which a stranger may have made.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from rasterio.errors import CRSError

from specsar_jax.accuracy import calibration, intervals, metrics
from specsar_jax.accuracy.tally import Tally
from tfds_dwplus import bands
from tfds_dwplus.files.strangers import a_count, a_list, a_text, an_object, one_line
from tfds_dwplus.imagery.grids import parse_crs
from tfds_dwplus.tiles.labelling import annotators
from tfds_dwplus.tiles.labelling.class_table import classes_from

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


def figures_of(
    tally: Tally, classes: bands.Classes, temperature: float = 1.0, groups: Sequence[str] = GROUPS
) -> dict[str, Any]:
    """Returns the figures of some tiles, with the keys of `evaluation_<split>.json`.

    Args:
        tally: sums of the tiles.
        classes: the classes of the tally.
        temperature: temperature that the probabilities were computed with.
        groups: columns of the tally to group by; a column that is missing or has only one value is left out.
    """
    confusion = tally.confusion.sum(axis=0)
    figures = metrics.summarise(confusion, classes)
    boundary_iou = metrics.boundary_iou(tally.boundary.sum(axis=0))
    for name, value in zip(classes.names, boundary_iou, strict=True):
        figures["per_class"][name]["boundary_iou"] = metrics.plain(value)
    held = [name for name in groups if name in tally.columns]
    by_column = {name: metrics.grouped(tally.confusion, tally.columns[name], name) for name in held}
    calibrated = calibration.summarise(tally, temperature)
    mapped, pixel_area_ha = intervals.mapped_by_tile(tally)
    labelled_by = _labelled_by(tally)
    return figures | {
        **(
            {"labelled_by": labelled_by} if annotators.networks(labelled_by) else {}
        ),  # with people's labels all is as ever
        "boundary_iou": metrics.plain(metrics.mean(boundary_iou)),
        **({"calibration": calibrated} if calibrated else {}),
        "groups": {name: rows for name, rows in by_column.items() if len(rows) > 1},
        "area": intervals.area_estimates(confusion, mapped.sum(axis=0), pixel_area_ha, classes),
        "intervals": intervals.intervals(tally, classes),
    }


def _labelled_by(tally: Tally) -> dict[str, int]:
    """Counts the tiles with a scored pixel by annotator; empty where the annotator is not known."""
    if "annotator" not in tally.columns:
        return {}
    scored = tally.confusion.any(axis=(1, 2))
    return annotators.count(map(str, np.asarray(tally.columns["annotator"])[scored].tolist()))


def classes_of(figures: dict[str, Any]) -> bands.Classes:
    """Returns the classes of an evaluation: Dynamic World's where it names none, or those and no colours.

    Raises:
        ValueError: other classes than Dynamic World's without colours, or none that `bands.Classes` takes.
    """
    return classes_from(figures.get("classes", list(bands.CLASSES)), figures.get("class_colours"), "the evaluation")


def check_types(figures: dict[str, Any]) -> None:
    """Checks the types of the figures that are there, of an evaluation that was read from a file; any of them may be missing.

    Raises:
        ValueError: a figure is of another type than `figures_of` gives, or does not fit the classes.
    """
    for key in ("dataset", "split", "data_sha256", "weights_sha256", "tiles_sha256", "checkpoint", "sampling_unit"):
        if key in figures:
            a_text(figures[key], key)
    for key in ("step", "tiles", "labelled_pixels"):
        if key in figures:
            a_count(figures[key], key)
    annotators.checked(figures.get("labelled_by", {}), "labelled_by")
    for key in ("loss", "mean_iou", "overall_accuracy", "macro_f1", "weighted_f1", "kappa", "boundary_iou"):
        _figure(figures.get(key), key)
    classes_of(figures)
    for row in a_list(figures.get("confusion_matrix", []), "confusion_matrix"):
        if len(a_list(row, "a row of confusion_matrix")) != len(figures["confusion_matrix"]):
            raise ValueError("confusion_matrix is not square")
        for count in row:
            a_count(count, "a number of confusion_matrix")
    for name, row in an_object(figures.get("per_class", {}), "per_class").items():
        _figures(row, f"per_class.{name}", counts=("pixels",))
    for column, values in an_object(figures.get("groups") or {}, "groups").items():
        for value, row in an_object(values, f"groups.{column}").items():
            _figures(row, f"groups.{column}.{value}", counts=("tiles", "labelled_pixels"), needed=("tiles",))
    for path, limits in an_object(figures.get("intervals") or {}, "intervals").items():
        _interval(limits, f"intervals.{path}")
    if figures.get("calibration") is not None:
        _check_calibration(an_object(figures["calibration"], "calibration"))
    if figures.get("area") is not None:
        _check_area(an_object(figures["area"], "area"))


_ESTIMATED = ("overall_accuracy", "users_accuracy", "producers_accuracy", "area_ha", "area_share")
"""Figures of areas that are estimates, with an interval, or null."""


def _check_calibration(tree: dict[str, Any]) -> None:
    _figures({name: value for name, value in tree.items() if name != "bins"}, "calibration")
    for part in a_list(tree.get("bins"), "calibration.bins"):
        names = ("low", "high", "pixels", "confidence", "accuracy")
        _figures(part, "a bin of calibration", counts=("pixels",), needed=names)
        if part["low"] is None or part["high"] is None:
            raise ValueError("a bin of calibration has no edges")


def _check_area(tree: dict[str, Any]) -> None:
    """Checks estimates of areas: that all are there, numbers, and of each estimate its `value`, `standard_error` and `interval`."""
    _complete(tree, "area", ("sampling_unit", "mapped_ha", "overall_accuracy", "per_class"))
    for name, value in tree.items():
        if name in ("sampling_unit", "shares_of"):
            a_text(value, f"area.{name}")
        elif name == "per_class":
            for class_name, row in an_object(value, "area.per_class").items():
                what = f"area.per_class.{class_name}"
                _complete(an_object(row, what), what, ("mapped_ha", "mapped_share", *_ESTIMATED[1:]))
                for figure, estimate in row.items():
                    _estimate(estimate, f"area.per_class.{class_name}.{figure}")
        else:
            _estimate(value, f"area.{name}")


def _estimate(value: Any, what: str) -> None:
    if not isinstance(value, dict):
        if value is not None and what.rpartition(".")[2] in _ESTIMATED:
            an_object(value, one_line(what, 80))
        return _figure(value, what)
    _figures({name: of for name, of in value.items() if name != "interval"}, what, needed=("value", "standard_error"))
    if value["value"] is None or value.get("interval") is None:
        raise ValueError(f"{one_line(what, 80)} has no value and interval")
    return _interval(value["interval"], what)


def _figures(row: Any, what: str, *, counts: Sequence[str] = (), needed: Sequence[str] = ()) -> None:
    """Raises ValueError unless `row` is an object of figures, of which some are counts, and some must be there."""
    row = an_object(row, one_line(what, 80))
    _complete(row, what, needed)
    for name, value in row.items():
        if name in counts:
            a_count(value, f"{one_line(what, 80)}.{name}")
        else:
            _figure(value, f"{what}.{name}")


def _complete(row: dict[str, Any], what: str, needed: Sequence[str]) -> None:
    """Raises ValueError unless all these are there, be they None."""
    if missing := [name for name in needed if name not in row]:
        raise ValueError(f"{one_line(what, 80)} has no {', '.join(missing)}")


def _figure(value: Any, what: str) -> None:
    """Raises ValueError unless `value` is a number, NaN too, as older versions wrote, or None."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and not abs(value) > 1e300):
        raise ValueError(f"{one_line(what, 80)} is {one_line(repr(value), 60)}, expected a number")


def _interval(limits: Any, what: str) -> None:
    """Raises ValueError unless `limits` are two numbers, or None."""
    if limits is not None:
        if len(a_list(limits, one_line(what, 80))) != 2 or None in limits:
            raise ValueError(f"{one_line(what, 80)} has no lower and upper limit")
        for limit in limits:
            _figure(limit, what)


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
        parsed = parse_crs(crs) if crs else None
    except CRSError:
        parsed = None
    if parsed is None or not parsed.is_projected or parsed.to_epsg() in _MERCATOR:
        return float("nan")
    return float(parsed.linear_units_factor[1])
