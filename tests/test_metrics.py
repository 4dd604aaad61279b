"""Figures against scikit-learn, on random and on degenerate matrices."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as reference

from specsar_jax import metrics


def test_against_scikit_learn():
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, 9, 4000), rng.integers(0, 9, 4000)
    prediction = np.where(rng.random(4000) < 0.6, label, prediction)
    confusion = np.asarray(metrics.confusion_matrix(jnp.asarray(label), jnp.asarray(prediction)))
    np.testing.assert_array_equal(confusion, reference.confusion_matrix(label, prediction))
    figures = metrics.summarise(confusion)
    expected = {
        "overall_accuracy": reference.accuracy_score(label, prediction),
        "mean_iou": reference.jaccard_score(label, prediction, average="macro"),
        "macro_f1": reference.f1_score(label, prediction, average="macro"),
        "kappa": reference.cohen_kappa_score(label, prediction),
    }
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, abs=1e-12), name
    water = figures["per_class"]["water"]
    assert water["precision"] == pytest.approx(reference.precision_score(label, prediction, average=None)[0], abs=1e-12)
    assert water["recall"] == pytest.approx(reference.recall_score(label, prediction, average=None)[0], abs=1e-12)
    assert water["pixels"] == (label == 0).sum()


def test_absent_classes_are_null_and_do_not_count():
    confusion = np.zeros((9, 9), np.int64)
    confusion[0, 0], confusion[0, 1], confusion[2, 2] = 6, 2, 4
    figures = metrics.summarise(confusion)
    assert figures["per_class"]["built"] == {"iou": None, "f1": None, "precision": None, "recall": None, "pixels": 0}
    assert figures["per_class"]["trees"]["iou"] == 0.0 and figures["per_class"]["trees"]["recall"] is None
    assert figures["mean_iou"] == pytest.approx((6 / 8 + 0 + 1) / 3)
    assert figures["labelled_pixels"] == 12
    assert "mIoU 58.3" in metrics.table(figures)


def test_nothing_labelled_has_no_figure():
    figures = metrics.summarise(np.zeros((9, 9), np.int64))
    assert [figures[key] for key in ("mean_iou", "overall_accuracy", "macro_f1", "kappa")] == [None] * 4
    assert "mIoU -" in metrics.table(figures)


def test_ignored_pixels_are_not_counted():
    label = jnp.array([0, 255, 8, 255], jnp.uint8)
    confusion = metrics.confusion_matrix(label, jnp.array([0, 1, 7, 8]))
    assert confusion.sum() == 2 and confusion[0, 0] == 1 and confusion[8, 7] == 1
