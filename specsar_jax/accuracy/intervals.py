"""Uncertainty of accuracy figures: area-adjusted estimates, bootstrap intervals over tiles, and tests whether two maps differ.

Enters: confusion matrices and a `Tally`. Leaves: plain numbers for `evaluation_<split>.json`. An estimate is
`{"value", "standard_error", "interval": [low, high]}`; one that cannot be computed is None. All intervals are 95 % intervals.

There are two kinds of interval. Those of `area_estimates` use the published formulas for a stratified random sample of pixels; they
are too narrow for labelled tiles, whose pixels resemble each other. Quote those of `intervals`, which resample whole tiles.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from scipy import stats

from specsar_jax.accuracy import metrics
from specsar_jax.accuracy.metrics import ratio
from specsar_jax.accuracy.tally import Tally
from tfds_dwplus import bands

PIXEL_AREA = "pixel_area_ha"
"""Column of a tally: area of a pixel of the tile in hectares, NaN where it is unknown."""

Z_95 = 1.96
"""Half width of a 95 % interval in standard errors. Source: Olofsson et al. 2014, section 5."""

EXACT_BELOW = 25
"""McNemar's test is exact if fewer pixels than this differ. Source: Fleiss et al. 2003, section 13.1."""


def area_estimates(
    confusion: Shaped[np.ndarray, "label prediction"],
    mapped: Shaped[np.ndarray, " prediction"],
    pixel_area_ha: float | None,
    classes: bands.Classes,
) -> dict[str, Any]:
    """Estimates accuracy weighted by mapped area, and the area of each class corrected for the errors of the map.

    A map's own areas are biased by its errors, and the accuracy on labelled pixels by the choice of these pixels. Both are
    corrected with the shares of the classes in the map. Sampling unit: the labelled pixel; strata: the classes of the map. A
    stratum is sampled if it has two or more labelled pixels. The estimates hold for the area of the sampled strata;
    `unsampled_share` is the rest of the map. Intervals are not clipped to 0 and 1: one that reaches beyond shows that the
    sample of its class is too small.

    Source: Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57: equations 4 (shares), 5 to 7 (variances of overall,
    user's and producer's accuracy), 8 to 11 (areas). There rows are map classes; here rows are labels, as everywhere.

    Args:
        confusion: confusion matrix of the labelled pixels.
        mapped: pixels of the whole map by class, labelled or not; if pixels differ in size, their areas in any unit.
        pixel_area_ha: hectares of a pixel or of that unit; 0.01 is 10 m x 10 m. None if unknown: then areas are None, not shares.
        classes: the classes of the matrix.

    Returns:
        `overall_accuracy`; `per_class`, by name: `mapped_ha` and `mapped_share` of the whole map, the estimates `area_ha` and
        `area_share`, `users_accuracy` and `producers_accuracy`; `sampling_unit`, `unsampled_share`, `mapped_ha`, and `shares_of`,
        the quantity that shares are shares of. None are: the area of a class in neither map nor labels, the user's accuracy of a
        class that is not mapped or not sampled, the producer's accuracy of a class without labels.
    """
    figures = _area_points(confusion, mapped)
    errors = _area_standard_errors(confusion, mapped)
    pixel_ha = np.nan if pixel_area_ha is None else pixel_area_ha
    total_ha = float(figures["total"] * pixel_ha)
    mapped = np.asarray(mapped, np.float64)
    known = (mapped > 0) | (np.asarray(confusion).sum(axis=1) > 0)
    mapped_share = ratio(mapped, mapped.sum())
    return {
        "sampling_unit": "labelled pixel, strata: classes of the map",
        "shares_of": "pixels, for their size is not known of every tile" if pixel_area_ha is None else "area",
        "mapped_ha": metrics.plain(mapped.sum() * pixel_ha),
        "unsampled_share": metrics.plain(figures["unsampled_share"]),
        "overall_accuracy": _estimate(figures["overall_accuracy"], errors["overall_accuracy"]),
        "per_class": {
            name: {
                "mapped_ha": metrics.plain(mapped[i] * pixel_ha),
                "mapped_share": metrics.plain(mapped_share[i]),
                "area_ha": _estimate(figures["share"][i], errors["share"][i], total_ha) if known[i] else None,
                "area_share": _estimate(figures["share"][i], errors["share"][i]) if known[i] else None,
                "users_accuracy": _estimate(figures["users_accuracy"][i], errors["users_accuracy"][i]),
                "producers_accuracy": _estimate(figures["producers_accuracy"][i], errors["producers_accuracy"][i]),
            }
            for i, name in enumerate(classes.names)
        },
    }


def mapped_by_tile(tally: Tally) -> tuple[Shaped[np.ndarray, "tile class"], float | None]:
    """Returns the mapped area of each class by tile, and its unit in hectares: pixels and None if a pixel's area is unknown."""
    size = np.asarray(tally.columns.get(PIXEL_AREA, np.full(len(tally), np.nan)), np.float64)
    return (tally.mapped * size[:, None], 1.0) if np.isfinite(size).all() else (tally.mapped, None)


def intervals(tally: Tally, classes: bands.Classes, rounds: int = 1000, seed: int = 0) -> dict[str, list[float]]:
    """Returns bootstrap intervals over tiles: [low, high] of each figure, by its dotted path in `evaluation_<split>.json`.

    Each round draws as many tiles as there are, with replacement, adds up their sums and computes the figures: 'mean_iou',
    'per_class.water.iou', 'boundary_iou', 'calibration.ece', 'area.overall_accuracy', 'area.per_class.water.area_share' and
    so on. Limits are percentiles of the rounds, without those in which the figure's denominator is 0. With fewer than two
    labelled tiles there is no interval. Nor is there one for a class's figure that depends on a single tile, such as the recall
    of a class labelled in only one tile: every round would give the same value, as if it were certain.

    Source: Efron and Tibshirani 1993, section 13.3; resampling of clusters, Davison and Hinkley 1997, section 3.8.

    Args:
        tally: sums of the tiles.
        classes: the classes of the tally.
        rounds: number of bootstrap rounds.
        seed: seed of the draws; the same seed gives the same intervals.
    """
    if tally.confusion.any(axis=(1, 2)).sum() < 2:
        return {}
    names = ("confusion", "boundary", "reliability", "brier", "nll")
    mapped, pixel_area_ha = mapped_by_tile(tally)
    sums = {"mapped": mapped} | {name: array for name in names if (array := getattr(tally, name)) is not None}
    weights = _weights(len(tally), rounds, seed)
    draws = _figures({name: _added(weights, array) for name, array in sums.items()}, pixel_area_ha, classes)
    tiles_with = {name: np.isfinite(values).sum() for name, values in _figures(sums, pixel_area_ha, classes).items()}
    return {
        name: interval
        for name, values in draws.items()
        if (tiles_with[name] > 1 or "per_class" not in name) and (interval := _percentiles(values))
    }


def mcnemar(only_a_right: int, only_b_right: int) -> dict[str, Any]:
    """Tests whether two maps are right on equally many pixels, from the counts of pixels where only one of them is right.

    The test assumes independent pixels, which neighbours are not: its p-values are too small. Rely on the interval of
    `paired_difference` instead.

    Source: McNemar 1947; exact where few pixels differ, else with the correction of Edwards 1948.

    Returns:
        `only_a_right`, `only_b_right`, `test` ('exact binomial' or 'chi-squared, continuity-corrected'), `statistic` (None for
        the exact test) and the two-sided `p_value`.
    """
    differ = only_a_right + only_b_right
    counts = {"only_a_right": only_a_right, "only_b_right": only_b_right}
    if differ < EXACT_BELOW:
        p_value = stats.binomtest(only_a_right, differ).pvalue if differ else 1.0
        return counts | {"test": "exact binomial", "statistic": None, "p_value": float(p_value)}
    # Without the maximum, the correction would make two maps differ that are right on equally many pixels.
    statistic = max(abs(only_a_right - only_b_right) - 1, 0) ** 2 / differ
    p_value = float(stats.chi2.sf(statistic, 1))
    return counts | {"test": "chi-squared, continuity-corrected", "statistic": statistic, "p_value": p_value}


def paired_difference(tally_a: Tally, tally_b: Tally, rounds: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Compares the accuracy of two maps by a paired bootstrap: each round draws the same tiles for both maps.

    Args:
        tally_a: sums of map a.
        tally_b: sums of map b; tiles that only one of the tallies has are left out.
        rounds: number of bootstrap rounds.
        seed: seed of the draws.

    Returns:
        `tiles`, number of tiles in both; `labelled_pixels`, of a and of b, which differ where a map has no data; `figures`, by name
        as in `metrics.headline`: `a`, `b`, `difference` (a - b), its `interval` and its two-sided `p_value`: twice the share of
        rounds on the other side of 0. A figure whose denominator is 0 is None, and so are intervals of fewer than two tiles.

    Raises:
        ValueError: no tile is in both tallies.
    """
    _, places_a, places_b = np.intersect1d(tally_a.tile_id, tally_b.tile_id, return_indices=True)
    if not len(places_a):
        raise ValueError(
            f"no tile is in both ({_first(tally_a)} and {_first(tally_b)} are their first ones); score both maps on one split"
        )
    confusions = [tally_a.confusion[places_a], tally_b.confusion[places_b]]
    a, b = (metrics.headline(confusion.sum(axis=0)) for confusion in confusions)
    weights = _weights(len(places_a), rounds, seed)
    drawn_a, drawn_b = (metrics.headline(_added(weights, confusion)) for confusion in confusions)
    figures = {}
    for name in a:
        differences = drawn_a[name] - drawn_b[name] if len(places_a) > 1 else np.empty(0)
        differences = differences[np.isfinite(differences)]
        beyond = min(np.sum(differences <= 0), np.sum(differences >= 0))
        figures[name] = {
            "a": metrics.plain(a[name]),
            "b": metrics.plain(b[name]),
            "difference": metrics.plain(a[name] - b[name]),
            "interval": _percentiles(differences),
            "p_value": min(1.0, 2 * float(beyond + 1) / (len(differences) + 1)) if len(differences) else None,
        }
    labelled = [int(confusion.sum()) for confusion in confusions]
    return {"tiles": len(places_a), "labelled_pixels": dict(zip("ab", labelled, strict=True)), "figures": figures}


def _figures(
    sums: dict[str, np.ndarray], pixel_area_ha: float | None, classes: bands.Classes
) -> dict[str, Float[np.ndarray, " round"]]:
    """Computes all figures, by dotted path, from sums with one row per round (or per tile)."""
    confusion, boundary = sums["confusion"], sums["boundary"]
    figures, by_class = dict(metrics.headline(confusion)), dict(metrics.class_figures(confusion))
    if boundary.any():
        by_class["boundary_iou"] = metrics.boundary_iou(boundary)
        figures["boundary_iou"] = metrics.mean(by_class["boundary_iou"])
    figures |= _named("per_class", by_class, classes)
    labels = confusion.sum(axis=-1)
    labelled = labels.sum(axis=-1)
    if "reliability" in sums:
        apart = np.abs(sums["reliability"][..., 2] - sums["reliability"][..., 1])
        figures["calibration.ece"] = ratio(apart.sum(axis=-1), labelled)
    for name in ("brier", "nll"):
        if name in sums:
            figures[f"calibration.{name}"] = ratio(sums[name], labelled)
    areas = _area_points(confusion, sums["mapped"])
    figures["area.overall_accuracy"] = areas["overall_accuracy"]
    known = (labels + sums["mapped"]).any(axis=0)
    share = np.where(known, areas["share"], np.nan)
    by_class = {
        "area_ha": share * areas["total"][..., None] * (np.nan if pixel_area_ha is None else pixel_area_ha),
        "area_share": share,
        "users_accuracy": areas["users_accuracy"],
        "producers_accuracy": areas["producers_accuracy"],
    }
    return figures | _named("area.per_class", by_class, classes)


def _named(
    path: str, by_class: dict[str, Float[np.ndarray, "round class"]], classes: bands.Classes
) -> dict[str, Float[np.ndarray, " round"]]:
    return {
        f"{path}.{name}.{figure}": values[..., i]
        for i, name in enumerate(classes.names)
        for figure, values in by_class.items()
    }


def _area_points(
    confusion: Shaped[np.ndarray, "*round label prediction"], mapped: Shaped[np.ndarray, "*round prediction"]
) -> dict[str, np.ndarray | np.float64]:
    """Returns the estimates of `area_estimates` without their errors: areas as shares of the sampled strata, and accuracies."""
    matrix = np.swapaxes(
        np.asarray(confusion, np.float64), -1, -2
    )  # from here on rows are map classes, as in the paper
    sample, mapped = matrix.sum(axis=-1), np.asarray(mapped, np.float64)
    strata = np.where(sample >= 2, mapped, 0.0)
    total = strata.sum(axis=-1)
    weight = ratio(strata, total[..., None])
    rows = np.nan_to_num(ratio(matrix, sample[..., None]))
    shares = weight[..., None] * rows
    hits, share = np.diagonal(shares, axis1=-2, axis2=-1), shares.sum(axis=-2)
    users = np.where((strata > 0) & (sample >= 2), np.diagonal(rows, axis1=-2, axis2=-1), np.nan)
    return {
        "total": total,
        "unsampled_share": ratio(mapped.sum(axis=-1) - total, mapped.sum(axis=-1)),
        "weight": weight,
        "rows": rows,
        "share": share,
        "overall_accuracy": hits.sum(axis=-1),
        "users_accuracy": users,
        "producers_accuracy": ratio(hits, share),
    }


def _area_standard_errors(
    confusion: Shaped[np.ndarray, "label prediction"], mapped: Shaped[np.ndarray, " prediction"]
) -> dict[str, np.ndarray | np.float64]:
    """Returns the standard errors of `_area_points`: roots of V(O), V(U) and V(P), equations 5 to 7, and S(p), equation 10."""
    points = _area_points(confusion, mapped)
    weight, rows, share = points["weight"], points["rows"], points["share"]
    sample = np.asarray(confusion, np.float64).sum(axis=0)
    users, producers = points["users_accuracy"], points["producers_accuracy"]
    spread = ratio(rows * (1 - rows), np.maximum(sample - 1, 0)[:, None])
    spread = np.where((sample >= 2)[:, None], spread, 0.0)
    own = np.diagonal(spread)
    from_strata = weight[:, None] ** 2 * spread
    others = from_strata.sum(axis=0) - np.diagonal(from_strata)
    producers_variance = ratio(weight**2 * (1 - producers) ** 2 * own + producers**2 * others, share**2)
    return {
        "overall_accuracy": np.sqrt((weight**2 * own).sum()),
        "users_accuracy": np.where(np.isfinite(users), np.sqrt(own), np.nan),
        "producers_accuracy": np.sqrt(producers_variance),
        "share": np.sqrt(from_strata.sum(axis=0)),
    }


def _weights(tiles: int, rounds: int, seed: int) -> Float[np.ndarray, "round tile"]:
    """Draws how often each tile occurs in each round."""
    return np.random.default_rng(seed).multinomial(tiles, np.full(tiles, 1 / tiles), size=rounds).astype(np.float64)


def _added(
    weights: Float[np.ndarray, "round tile"], sums: Shaped[np.ndarray, " tile *rest"]
) -> Float[np.ndarray, " round *rest"]:
    # Floats hold integers below 2^53 exactly, and only floats have a fast matrix product.
    flat = np.asarray(sums, np.float64).reshape(len(sums), -1)
    return (weights @ flat).reshape(len(weights), *sums.shape[1:])


def _percentiles(values: Float[np.ndarray, " round"]) -> list[float] | None:
    finite = values[np.isfinite(values)]
    return [float(limit) for limit in np.percentile(finite, (2.5, 97.5))] if len(finite) else None


def _estimate(value: Any, standard_error: Any, scale: float = 1.0) -> dict[str, Any] | None:
    value, error = float(value) * scale, float(standard_error) * scale
    if np.isnan(value):
        return None
    return {"value": value, "standard_error": error, "interval": [value - Z_95 * error, value + Z_95 * error]}


def _first(tally: Tally) -> str:
    return repr(str(tally.tile_id[0])) if len(tally) else "no tile"
