"""Accuracy figures, computed from integer sums that add up over tiles, batches and hosts.

Enters: labels and class probabilities of tiles, on the devices. Leaves: integer sums of each tile, and figures of any total of
them, divided once, at the end, on the host, in float64.

All sums are sums of integers: a probability is split into digits, and each digit is summed by itself. So the figures depend neither
on the order of adding, nor on the device, nor on the number of processes, and no precision is lost.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Num, Shaped

from tfds_dwplus import bands
from tfds_dwplus.tiles.labelling.annotators import not_accuracy
from tfds_dwplus.tiles.labelling.class_table import colours_of

BINS = 15
"""Number of confidence bins of the calibration error. Source: Guo et al. 2017, section 5."""

BOUNDARY_SHARE = 0.02
"""Width of the boundary band as a share of the tile's diagonal. Source: Cheng et al. 2021, section 5.1."""

LARGEST_NLL = 127.0
"""Upper limit of -log of the probability of a pixel, nats; the smallest positive float32 is about exp(-104)."""

_DIGIT = 512
_DIGITS = 4

HEADLINE = ("mean_iou", "overall_accuracy", "macro_f1", "weighted_f1", "kappa")


def tile_sums(
    label: Integer[Array, "tile height width"],
    log_p: Float[Array, "tile height width class"],
    valid: Bool[Array, "tile height width"],
) -> dict[str, Int[Array, "tile ..."]]:
    """Returns the sums of each tile, int32; `on_host` converts them into the arrays of a `Tally`.

    The prediction is the most probable class, and its probability is the confidence. Probabilities are float32; they are binned,
    [0, 1/15), [1/15, 2/15) ... [14/15, 1], and summed without rounding. Tiles may have up to 2000 x 2000 pixels.

    Args:
        label: class ids; pixels of 255 are left out.
        log_p: logarithms of the class probabilities, float32.
        valid: where the sensors have data.
    """
    labelled = label != bands.IGNORE
    log_p = finite(log_p)
    prediction, confidence = jnp.argmax(log_p, axis=-1), jnp.exp(log_p.max(axis=-1))
    # One class at a time: on a CPU, XLA is slow in summing over a short last axis.
    brier = sum(jnp.square(jnp.exp(log_p[..., i]) - (label == i)) for i in range(log_p.shape[-1]))
    # The barrier makes XLA compute them once, not again for each sum that uses them.
    prediction, confidence, brier = jax.lax.optimization_barrier((prediction, confidence, brier))
    edges = np.linspace(0.0, 1.0, BINS + 1)[1:-1].astype(np.float32)
    place = sum((confidence >= edge).astype(jnp.int32) for edge in edges)
    ids = jnp.where(labelled, label, 0).astype(jnp.int32)
    nll = jnp.clip(-of_class(log_p, ids), 0.0, LARGEST_NLL)
    right = _counts(place, labelled & (prediction == label), BINS)
    return map_sums(label, prediction, valid, log_p.shape[-1]) | {
        "reliability": jnp.stack([_counts(place, labelled, BINS), right], axis=-1),
        "confidence": jnp.stack([_counts(place, labelled, BINS, digit) for digit in _digits(confidence)], axis=-1),
        "brier": _digit_sums(brier, labelled),
        "nll": _digit_sums(nll, labelled),
    }


def of_class(values: Float[Array, "*values class"], ids: Integer[Array, "*pixels"]) -> Float[Array, "*pixels"]:
    """Returns the value of each pixel's class, from the pixel's own values or from one table [class] for all pixels.

    On a GPU or TPU each id is compared with all classes: a gather on a TPU, and its gradient on both, handle one element at a time.
    """

    def gathered(values: Array, ids: Array) -> Array:
        return values[ids] if values.ndim == 1 else jnp.take_along_axis(values, ids[..., None], axis=-1)[..., 0]

    def compared(values: Array, ids: Array) -> Array:
        return jnp.where(ids[..., None] == jnp.arange(values.shape[-1], dtype=ids.dtype), values, 0).sum(axis=-1)

    return jax.lax.platform_dependent(values, ids, cpu=gathered, default=compared)


def finite(log_p: Float[Array, "*n class"]) -> Float[Array, "*n class"]:
    """Replaces NaN and -inf among logarithms of probabilities by `-LARGEST_NLL`, so that a network that has diverged still gives
    figures and a map.
    """
    return jnp.nan_to_num(log_p, nan=-LARGEST_NLL, neginf=-LARGEST_NLL)


def map_sums(
    label: Integer[Array | np.ndarray, "tile height width"],
    prediction: Integer[Array | np.ndarray, "tile height width"],
    valid: Bool[Array | np.ndarray, "tile height width"],
    classes: int,
) -> dict[str, Int[Array, "tile ..."]]:
    """Returns the sums of a map without probabilities: 'confusion', 'mapped' and 'boundary' of a `Tally`, int32. Pixels whose
    prediction is not a class id, below the number of `classes`, count as not labelled.
    """
    label, prediction = jnp.asarray(label), jnp.asarray(prediction, jnp.int32)
    pair = label.astype(jnp.int32) * classes + prediction
    confusion = _counts(pair, (label != bands.IGNORE) & (prediction < classes), classes**2)
    return {
        "confusion": confusion.reshape(-1, classes, classes),
        "mapped": _counts(prediction, valid, classes),
        "boundary": boundary_sums(label, prediction, classes),
    }


def boundary_sums(
    label: Integer[Array | np.ndarray, "tile height width"],
    prediction: Integer[Array | np.ndarray, "tile height width"],
    classes: int,
) -> Int[Array, "tile class 2"]:
    """Counts the pixels in the intersection and in the union of the boundary bands of label and prediction, by class, int32.

    The boundary band of a class is those of its pixels that have a pixel of another class within d rows and d columns. d is two
    hundredths of the tile's diagonal, rounded, and at least 1: 14 pixels for 510 x 510. The diagonal is that of the stored tile:
    the padding of a smaller tile counts, and makes the band wider. Intersection over union of the bands is Boundary IoU (Cheng et
    al. 2021, equation 2; the square neighbourhood is taken from the authors' program).

    Two things differ from the paper. It scores the objects of an image one by one; here the counts of a class are summed over all
    tiles, as for IoU. Its program treats the outside of an image as background, so that an object has a boundary along the border
    of the image; here the outside is unknown. Unlabelled pixels, which the paper does not have, are unknown too, in label
    and prediction alike: they belong to no band and make no boundary.

    Args:
        label: class ids; 255 where there is no label.
        prediction: class ids; pixels of any other value count as not labelled.
        classes: their number.
    """
    label, prediction = jnp.asarray(label), jnp.asarray(prediction)
    labelled = (label != bands.IGNORE) & (prediction < classes)
    distance = max(1, round(BOUNDARY_SHARE * math.hypot(*label.shape[1:])))
    maps = jnp.stack([label.astype(jnp.uint8), prediction.astype(jnp.uint8)])
    # One maximum filter gives the largest and, from the reversed ids, the smallest id around a pixel; 0 is 'unknown' in both.
    ids = jnp.stack([jnp.where(labelled, maps + 1, 0), jnp.where(labelled, classes - maps, 0)])
    largest, smallest = _largest_around(ids, distance)
    of_label, of_prediction = labelled & (largest + smallest != classes + 1)
    shared = _counts(label, of_label & of_prediction & (label == prediction), classes)
    either = _counts(label, of_label, classes) + _counts(prediction, of_prediction, classes) - shared
    return jnp.stack([shared, either], axis=-1)


def on_host(sums: dict[str, Shaped[np.ndarray, "tile ..."]]) -> dict[str, np.ndarray]:
    """Converts the result of `tile_sums` or `map_sums` to the arrays of a `Tally`: int64, and float64 where digits were summed."""
    counts = {name: sums[name].astype(np.int64) for name in ("confusion", "mapped", "boundary")}
    if "reliability" not in sums:
        return counts
    pixels, right = np.moveaxis(sums["reliability"].astype(np.float64), -1, 0)
    reliability = np.stack([pixels, _from_digits(sums["confidence"]), right], axis=-1)
    return counts | {"reliability": reliability, "brier": _from_digits(sums["brier"]), "nll": _from_digits(sums["nll"])}


def headline(confusion: Num[np.ndarray, "*n label prediction"]) -> dict[str, Float[np.ndarray, "*n"]]:
    """Returns the `HEADLINE` figures of each of several confusion matrices, float64; NaN where the denominator is 0.

    IoU = TP / (TP + FP + FN); F1 = 2 TP / (2 TP + FP + FN). Means are taken over the classes that occur in labels or predictions.
    Weighted F1 weights each class by its labelled pixels. Kappa is Cohen's (1960).
    """
    matrix, by_class = np.asarray(confusion, np.float64), class_figures(confusion)
    hits, labels, predictions = _margins(matrix)
    total = labels.sum(axis=-1)
    agreement = ratio(hits.sum(axis=-1), total)
    chance = ratio((labels * predictions).sum(axis=-1), total**2)
    return {
        "mean_iou": mean(by_class["iou"]),
        "overall_accuracy": agreement,
        "macro_f1": mean(by_class["f1"]),
        "weighted_f1": ratio((np.nan_to_num(by_class["f1"]) * labels).sum(axis=-1), total),
        "kappa": ratio(agreement - chance, 1 - chance),
    }


def class_figures(confusion: Num[np.ndarray, "*n label prediction"]) -> dict[str, Float[np.ndarray, "*n class"]]:
    """Returns `iou`, `f1`, `precision` (user's accuracy) and `recall` (producer's) by class; NaN where the denominator is 0."""
    hits, labels, predictions = _margins(np.asarray(confusion, np.float64))
    return {
        "iou": ratio(hits, labels + predictions - hits),
        "f1": ratio(2 * hits, labels + predictions),
        "precision": ratio(hits, predictions),
        "recall": ratio(hits, labels),
    }


def boundary_iou(boundary: Num[np.ndarray, "*n class 2"]) -> Float[np.ndarray, "*n class"]:
    """Returns the Boundary IoU of each class from the counts of `boundary_sums`; NaN for a class without a boundary."""
    return ratio(boundary[..., 0], boundary[..., 1])


def mean(of_class: Float[np.ndarray, "*n class"]) -> Float[np.ndarray, "*n"]:
    """Returns the mean over the classes whose figure is not NaN; NaN if there is none."""
    return ratio(np.nansum(of_class, axis=-1), np.isfinite(of_class).sum(axis=-1))


def summarise(confusion: Int[np.ndarray, "label prediction"], classes: bands.Classes) -> dict[str, Any]:
    """Returns the figures of one confusion matrix under the keys of `evaluation_<split>.json`; None where the denominator is 0.

    Colours of the classes are among them only where the classes are not Dynamic World's.
    """
    by_class = class_figures(confusion)
    labels = np.asarray(confusion).sum(axis=1)
    return {
        "labelled_pixels": int(labels.sum()),
        **{name: plain(value) for name, value in headline(confusion).items()},
        "classes": list(classes.names),
        **colours_of(classes),
        "confusion_matrix": np.asarray(confusion).astype(int).tolist(),
        "per_class": {
            name: {figure: plain(values[i]) for figure, values in by_class.items()} | {"pixels": int(labels[i])}
            for i, name in enumerate(classes.names)
        },
    }


def grouped(
    confusion: Int[np.ndarray, "tile label prediction"], values: Shaped[np.ndarray, " tile"], column: str = ""
) -> dict[str, dict[str, Any]]:
    """Returns the headline figures of each group of tiles that share a column's value, by that value as text.

    The values '', NaN and, for biomes, 0 become 'unknown'.
    """
    nothing = ("", "nan", "0") if column == "biome" else ("", "nan")
    texts = np.array(["unknown" if str(value) in nothing else str(value) for value in values.tolist()])
    groups = {}
    for place in np.unique(values, return_index=True)[1]:  # sorted as values, not as texts
        there = texts == texts[place]
        chosen = confusion[there].sum(axis=0)
        figures = {name: plain(figure) for name, figure in headline(chosen).items()}
        groups[str(texts[place])] = {"tiles": int(there.sum()), "labelled_pixels": int(chosen.sum())} | figures
    return groups


def table(figures: dict[str, Any]) -> str:
    """Formats the figures of an evaluation as text, in percent: one line per class, figure (with its interval) and group."""

    def percent(value: float | None) -> str:
        return "    -" if value is None else f"{100 * value:5.1f}"

    limits = figures.get("intervals", {})
    width = max(20, *map(len, figures["per_class"]))

    def line(name: str, value: float | None, path: str) -> str:
        interval = " to ".join(percent(limit).strip() for limit in limits.get(path, ()))
        return f"{name:{width}s} {percent(value)}" + (f"  ({interval})" if interval else "")

    columns = {"iou": "  IoU", "f1": "   F1", "precision": "prec.", "recall": " rec."}
    if "boundary_iou" in figures:
        columns["boundary_iou"] = "bound."
    lines = [f"{'class':{width}s} {' '.join(f'{head:>5s}' for head in columns.values())}      pixels"]
    for name, row in figures["per_class"].items():
        shares = " ".join(f"{percent(row[key]):>{len(head)}s}" for key, head in columns.items())
        lines.append(f"{name:{width}s} {shares} {row['pixels']:11,d}")
    names = {"mean_iou": "mIoU", "macro_f1": "macro F1", "weighted_f1": "weighted F1", "boundary_iou": "boundary IoU"}
    lines += [""] + ([f"{'':{width}s}     %  (95 % interval, bootstrap over tiles)"] if limits else [])
    lines += [
        line(names.get(key, key.replace("_", " ")), figures[key], key)
        for key in (*HEADLINE, "boundary_iou")
        if key in figures
    ]
    if calibration := figures.get("calibration"):
        lines.append(line("calibration error", calibration["ece"], "calibration.ece"))
    for column, groups in figures.get("groups", {}).items():
        lines += ["", f"{column:{width}s}  mIoU     OA    F1  tiles"]
        for value, row in groups.items():
            shares = f"{percent(row['mean_iou'])}  {percent(row['overall_accuracy'])} {percent(row['macro_f1'])}"
            lines.append(f"{value:{width}s} {shares} {row['tiles']:6d}{_biome(column, value)}")
    if said := not_accuracy(figures.get("labelled_by", {})):
        lines += ["", said]
    return "\n".join(lines)


def ratio(above: Any, below: Any) -> Float[np.ndarray, "*n"]:
    """Divides in float64; NaN where the denominator is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below != 0)


def plain(value: Any) -> float | None:
    """Converts a number for JSON: None for NaN."""
    return None if np.isnan(value) else float(value)


def _biome(column: str, value: str) -> str:
    known = column == "biome" and value.isdigit() and 1 <= int(value) <= len(bands.BIOMES)
    return f"  {bands.BIOMES[int(value) - 1]}" if known else ""


def _counts(
    ids: Integer[Array | np.ndarray, "tile height width"],
    where: Bool[Array | np.ndarray, "tile height width"],
    length: int,
    weights: Int[Array, "tile height width"] | None = None,
) -> Int[Array, "tile id"]:
    """Counts the pixels of each id below `length` in each tile, or sums their weights."""
    added = jnp.where(where, 1 if weights is None else weights, 0)
    ids = jnp.where(where, ids, 0).astype(jnp.int32)
    rows = [values.reshape(len(values), -1) for values in (ids, added)]

    def one_by_one(ids: Array, added: Array) -> Array:
        return jax.vmap(lambda ids, added: jnp.zeros(length, jnp.int32).at[ids].add(added))(ids, added)

    def compared(ids: Array, added: Array) -> Array:
        """For accelerators: a TPU scatters one element at a time, and a GPU's threads wait for each other where ids are few."""
        return jnp.where(ids[:, None] == jnp.arange(length)[:, None], added[:, None], 0).sum(axis=-1)

    return jax.lax.platform_dependent(*rows, cpu=one_by_one, default=compared)


def _largest_around(values: Shaped[Array, "*n height width"], distance: int) -> Shaped[Array, "*n height width"]:
    """Returns the largest value within `distance` rows and columns of each pixel; beyond the border all values are 0."""
    window = 2 * distance + 1
    for axis in (-2, -1):
        axis %= values.ndim
        values = jnp.pad(values, [(distance, distance) if i == axis else (0, 0) for i in range(values.ndim)])
        reach = 1
        while reach < window:  # the largest of 1, 2, 4 ... values: five steps for a window of 29
            step, length = min(reach, window - reach), values.shape[axis]
            here = jax.lax.slice_in_dim(values, 0, length - step, axis=axis)
            values = jnp.maximum(here, jax.lax.slice_in_dim(values, step, length, axis=axis))
            reach += step
    return values


def _digits(values: Float[Array, "*n"]) -> Sequence[Int[Array, "*n"]]:
    """Splits numbers from 0 to 127 into their integer part and three digits in base 512, exact to 2^-28."""
    digits = []
    for place in range(_DIGITS):
        whole = jnp.floor(values) if place < _DIGITS - 1 else jnp.round(values)
        digits.append(whole.astype(jnp.int32))
        values = (values - whole) * _DIGIT
    return digits


def _digit_sums(
    values: Float[Array, "tile height width"], where: Bool[Array, "tile height width"]
) -> Int[Array, "tile digit"]:
    return jnp.stack([jnp.sum(digit, axis=(1, 2), where=where) for digit in _digits(values)], axis=-1)


def _from_digits(sums: Int[np.ndarray, "*n digit"]) -> Float[np.ndarray, "*n"]:
    return sums.astype(np.float64) @ (float(_DIGIT) ** -np.arange(_DIGITS))


def _margins(matrix: Float[np.ndarray, "*n label prediction"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the diagonal, the row sums and the column sums of confusion matrices."""
    return np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(axis=-1), matrix.sum(axis=-2)
