"""Accuracy from a confusion matrix. Matrices add over tiles, batches and hosts; figures are divided once, at the end."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from tfds_dwplus import bands


def confusion_matrix(
    label: Integer[Array, "*batch"], prediction: Integer[Array, "*batch"]
) -> Int[Array, "label prediction"]:
    """Labelled pixels by class id of the label (rows) and of the prediction (columns). int32: one batch at a time."""
    classes = len(bands.CLASSES)
    labelled = label != bands.IGNORE
    pair = jnp.where(labelled, label.astype(jnp.int32) * classes + prediction.astype(jnp.int32), classes**2)
    return jnp.bincount(pair.ravel(), length=classes**2 + 1)[:-1].reshape(classes, classes)


def summarise(confusion: Int[np.ndarray, "label prediction"]) -> dict[str, Any]:
    """Figures of a confusion matrix, with the keys of `evaluation_<split>.json`.

    IoU = TP / (TP + FP + FN); precision is user's accuracy, recall producer's accuracy; kappa after Cohen 1960. Means
    are over the classes that occur in the labels or in the predictions. A figure without a denominator is None.

    Args:
        confusion: pixels, rows = label, columns = prediction.
    """
    matrix = np.asarray(confusion, np.float64)
    hits, labels, predictions, total = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0), matrix.sum()
    iou = _ratio(hits, labels + predictions - hits)
    f1 = _ratio(2 * hits, labels + predictions)
    agreement, chance = _ratio(hits.sum(), total), _ratio((labels * predictions).sum(), total**2)
    return {
        "labelled_pixels": int(total),
        "mean_iou": _mean(iou),
        "overall_accuracy": _plain(agreement),
        "macro_f1": _mean(f1),
        "kappa": _plain(_ratio(agreement - chance, 1 - chance)),
        "classes": list(bands.CLASSES),
        "confusion_matrix": np.asarray(confusion).astype(int).tolist(),
        "per_class": {
            name: {
                "iou": _plain(iou[i]),
                "f1": _plain(f1[i]),
                "precision": _plain(_ratio(hits[i], predictions[i])),
                "recall": _plain(_ratio(hits[i], labels[i])),
                "pixels": int(labels[i]),
            }
            for i, name in enumerate(bands.CLASSES)
        },
    }


def table(figures: dict[str, Any]) -> str:
    """The figures of `summarise` as text, a line a class, then the means."""

    def percent(value: float | None) -> str:
        return "    -" if value is None else f"{100 * value:5.1f}"

    lines = [f"{'class':20s}   IoU    F1  prec.  rec.      pixels"]
    for name, row in figures["per_class"].items():
        shares = " ".join(percent(row[key]) for key in ("iou", "f1", "precision", "recall"))
        lines.append(f"{name:20s} {shares} {row['pixels']:11,d}")
    means = {"mIoU": "mean_iou", "overall accuracy": "overall_accuracy", "macro F1": "macro_f1", "kappa": "kappa"}
    lines.append("  ".join(f"{name} {percent(figures[key]).strip()}" for name, key in means.items()))
    return "\n".join(lines)


def _ratio(above: Float[np.ndarray, "*n"] | float, below: Float[np.ndarray, "*n"] | float) -> Float[np.ndarray, "*n"]:
    """NaN where the denominator is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below != 0)


def _mean(values: Float[np.ndarray, " class"]) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))


def _plain(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
