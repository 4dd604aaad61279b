"""How sure a figure of accuracy is: area-adjusted estimates, intervals by tile, and whether two maps differ.

Enters: confusion matrices and a `Tally`. Leaves: plain numbers for `evaluation_<split>.json`. An estimate is
`{"value", "standard_error", "interval": [low, high]}`; what cannot be computed is None. Intervals are of 95 %.

Two kinds of interval stand side by side. Those of `area_estimates` are the published ones of a stratified random sample of
pixels; the pixels of a tile resemble each other, so of tiles they are too narrow. Those of `intervals` draw whole tiles: they are the
ones to quote.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from scipy import stats

from specsar_jax import metrics
from specsar_jax.metrics import ratio
from specsar_jax.tally import Tally
from tfds_dwplus import bands

PIXEL_AREA = "pixel_area_ha"
"""Column of a tally: hectares of a pixel of the tile, NaN where they are not known."""

Z_95 = 1.96
"""Standard errors to either side of an estimate. Source: Olofsson et al. 2014, section 5."""

EXACT_BELOW = 25
"""McNemar's test is the exact one where fewer pixels differ. Source: Fleiss et al. 2003, section 13.1."""


def area_estimates(
    confusion: Shaped[np.ndarray, "label prediction"],
    mapped: Shaped[np.ndarray, " prediction"],
    pixel_area_ha: float | None = 0.01,
    classes: Sequence[str] = bands.CLASSES,
) -> dict[str, Any]:
    """Accuracy weighted by mapped area, and the area of each class corrected for the errors of the map.

    A map's own areas are biased by its errors, and the accuracy of the labelled pixels by which pixels were labelled; both are
    corrected by the shares that the map gives its classes. Sampling unit: the labelled pixel; strata: the classes of the map.
    Sampled is a stratum with two labelled pixels or more; the estimates are of the area that the map gives to those, and
    `unsampled_share` is the part of the map beyond it. Intervals are not cut at 0 or 1: one that reaches beyond says that
    the sample is too small for its class.

    Source: Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57: equations 4 (shares), 5 to 7 (variances of overall,
    user's and producer's accuracy), 8 to 11 (areas). There rows are map classes; here rows are labels, as everywhere.

    Args:
        confusion: labelled pixels.
        mapped: pixels of the whole map by class, labelled or not; where pixels differ in size, their area in a unit of your own.
        pixel_area_ha: of a pixel or of that unit; 0.01 is 10 m x 10 m. None if it is not known: there are shares then, no areas.
        classes: their names.

    Returns:
        `overall_accuracy`; `per_class`, by name: `mapped_ha` and `mapped_share` of the whole map, `area_ha` and `area_share` of
        what is estimated, `users_accuracy`, `producers_accuracy`; `sampling_unit`, `unsampled_share`, `mapped_ha`, and
        `shares_of`, what a share is one of. No area of a class in neither map nor labels, no user's accuracy of one that the map has
        not or that no two labels sampled, no producer's of one that the labels have not.
    """
    figures = _area_points(confusion, mapped)
    errors = _area_standard_errors(confusion, mapped)
    pixel_ha = np.nan if pixel_area_ha is None else pixel_area_ha
    total_ha = float(figures["total"] * pixel_ha)
    of_map = np.asarray(mapped, np.float64)
    known = (of_map > 0) | (np.asarray(confusion).sum(axis=1) > 0)
    mapped_share = ratio(of_map, of_map.sum())
    return {
        "sampling_unit": "labelled pixel, strata: classes of the map",
        "shares_of": "pixels, for their size is not known of every tile" if pixel_area_ha is None else "area",
        "mapped_ha": metrics.plain(of_map.sum() * pixel_ha),
        "unsampled_share": metrics.plain(figures["unsampled_share"]),
        "overall_accuracy": _estimate(figures["overall_accuracy"], errors["overall_accuracy"]),
        "per_class": {
            name: {
                "mapped_ha": metrics.plain(of_map[i] * pixel_ha),
                "mapped_share": metrics.plain(mapped_share[i]),
                "area_ha": _estimate(figures["share"][i], errors["share"][i], total_ha) if known[i] else None,
                "area_share": _estimate(figures["share"][i], errors["share"][i]) if known[i] else None,
                "users_accuracy": _estimate(figures["users_accuracy"][i], errors["users_accuracy"][i]),
                "producers_accuracy": _estimate(figures["producers_accuracy"][i], errors["producers_accuracy"][i]),
            }
            for i, name in enumerate(classes)
        },
    }


def mapped_by_tile(tally: Tally) -> tuple[Shaped[np.ndarray, "tile class"], float | None]:
    """What the map gives each class, tile by tile, and the hectares of one of it, as `area_estimates` takes them: hectares where
    the size of a pixel is known of every tile, else pixels.
    """
    size = np.asarray(tally.columns.get(PIXEL_AREA, np.full(len(tally), np.nan)), np.float64)
    return (tally.mapped * size[:, None], 1.0) if np.isfinite(size).all() else (tally.mapped, None)


def intervals(tally: Tally, rounds: int = 1000, seed: int = 0) -> dict[str, list[float]]:
    """Percentile bootstrap over tiles: [low, high] of a figure by its dotted path in `evaluation_<split>.json`.

    Each round draws as many tiles as there are, with replacement, adds up their sums and divides: 'mean_iou',
    'per_class.water.iou', 'boundary_iou', 'calibration.ece', 'area.overall_accuracy', 'area.per_class.water.area_share' and
    so on. A round in which a figure has no denominator does not count for it. Of fewer than two labelled tiles there is no interval,
    nor is there one of a class's figure that a single tile decides, such as the recall of a class labelled in one tile
    alone: every draw would give the same, as if it were certain.

    Source: Efron and Tibshirani 1993, section 13.3; drawing clusters, Davison and Hinkley 1997, section 3.8.

    Args:
        tally: of the tiles.
        rounds: draws.
        seed: of the draws; the same seed gives the same intervals.
    """
    if tally.confusion.any(axis=(1, 2)).sum() < 2:
        return {}
    names = ("confusion", "boundary", "reliability", "brier", "nll")
    mapped, pixel_area_ha = mapped_by_tile(tally)
    of_tiles = {"mapped": mapped} | {name: of for name in names if (of := getattr(tally, name)) is not None}
    weights = _weights(len(tally), rounds, seed)
    draws = _figures({name: _added(weights, of) for name, of in of_tiles.items()}, pixel_area_ha)
    having = {name: np.isfinite(values).sum() for name, values in _figures(of_tiles, pixel_area_ha).items()}
    return {
        name: interval
        for name, values in draws.items()
        if (having[name] > 1 or "per_class" not in name) and (interval := _percentiles(values))
    }


def mcnemar(only_a_right: int, only_b_right: int) -> dict[str, Any]:
    """Whether two maps are right on equally many pixels, from those where one of the two is.

    The test takes pixels as independent, which neighbours are not: a small p says less than it seems to, and the
    interval of `paired_difference` is the one to trust.

    Source: McNemar 1947; exact where few pixels differ, else with the correction of Edwards 1948.

    Returns:
        `only_a_right`, `only_b_right`, `test` ('exact binomial' or 'chi-squared, continuity-corrected'), `statistic` (None of
        the exact test) and `p_value`, two-sided.
    """
    differ = only_a_right + only_b_right
    counts = {"only_a_right": only_a_right, "only_b_right": only_b_right}
    if differ < EXACT_BELOW:
        p_value = stats.binomtest(only_a_right, differ).pvalue if differ else 1.0
        return counts | {"test": "exact binomial", "statistic": None, "p_value": float(p_value)}
    # Two maps that differ on equally many pixels are as alike as can be: the correction must not make them differ.
    statistic = max(abs(only_a_right - only_b_right) - 1, 0) ** 2 / differ
    p_value = float(stats.chi2.sf(statistic, 1))
    return counts | {"test": "chi-squared, continuity-corrected", "statistic": statistic, "p_value": p_value}


def paired_difference(tally_a: Tally, tally_b: Tally, rounds: int = 1000, seed: int = 0) -> dict[str, Any]:
    """How far two maps of the same tiles are apart: each round draws the same tiles for both.

    Args:
        tally_a: of one map.
        tally_b: of the other; tiles that are in one tally only do not count.
        rounds: draws.
        seed: of the draws.

    Returns:
        `tiles`, that both have; `labelled_pixels`, of a and of b, which differ where a map has no data; `figures`, by name of
        `metrics.headline`: `a`, `b`, `difference` (a - b), its `interval` and `p_value`, two-sided: twice the share of rounds
        on the other side of 0. None of what has no denominator, and no interval of fewer than two tiles.

    Raises:
        ValueError: no tile is in both.
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
        apart = drawn_a[name] - drawn_b[name] if len(places_a) > 1 else np.empty(0)
        apart = apart[np.isfinite(apart)]
        beyond = min(np.sum(apart <= 0), np.sum(apart >= 0))
        figures[name] = {
            "a": metrics.plain(a[name]),
            "b": metrics.plain(b[name]),
            "difference": metrics.plain(a[name] - b[name]),
            "interval": _percentiles(apart),
            "p_value": min(1.0, 2 * float(beyond + 1) / (len(apart) + 1)) if len(apart) else None,
        }
    labelled = [int(confusion.sum()) for confusion in confusions]
    return {"tiles": len(places_a), "labelled_pixels": dict(zip("ab", labelled, strict=True)), "figures": figures}


def _figures(sums: dict[str, np.ndarray], pixel_area_ha: float | None) -> dict[str, Float[np.ndarray, " round"]]:
    """Figures by dotted path, of sums with a row a round."""
    confusion, boundary = sums["confusion"], sums["boundary"]
    figures, by_class = dict(metrics.headline(confusion)), dict(metrics.class_figures(confusion))
    if boundary.any():
        by_class["boundary_iou"] = metrics.boundary_iou(boundary)
        figures["boundary_iou"] = metrics.mean(by_class["boundary_iou"])
    figures |= _named("per_class", by_class)
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
    return figures | _named("area.per_class", by_class)


def _named(path: str, by_class: dict[str, Float[np.ndarray, "round class"]]) -> dict[str, Float[np.ndarray, " round"]]:
    return {
        f"{path}.{name}.{figure}": values[..., i]
        for i, name in enumerate(bands.CLASSES)
        for figure, values in by_class.items()
    }


def _area_points(
    confusion: Shaped[np.ndarray, "*round label prediction"], mapped: Shaped[np.ndarray, "*round prediction"]
) -> dict[str, np.ndarray | np.float64]:
    """Shares of the sampled strata's area and accuracies; NaN where there is no denominator."""
    matrix = np.swapaxes(np.asarray(confusion, np.float64), -1, -2)  # rows = map from here on, as in the paper
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
    """Square roots of the variances of `_area_points`: V(O), V(U) and V(P) after equations 5, 6 and 7, S(p) after 10."""
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
    """How often each tile is drawn in each round."""
    return np.random.default_rng(seed).multinomial(tiles, np.full(tiles, 1 / tiles), size=rounds).astype(np.float64)


def _added(
    weights: Float[np.ndarray, "round tile"], sums: Shaped[np.ndarray, "tile *rest"]
) -> Float[np.ndarray, "round *rest"]:
    # Counts as floats: whole numbers below 2^53 are exact, and only floats have a fast product of matrices.
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
