"""Label codes, shares in bytes and counts: by hand, and as properties of any probabilities."""

import numpy as np
import pytest

from tfds_dwplus import bands
from tfds_dwplus.tiles.labelling.pixels import WHOLE, Counts, counted, label_codes, shares


def probabilities(*tops: tuple[int, float]) -> np.ndarray:
    """One row of pixels: the class and its probability, the rest shared by the others."""
    row = np.array([[(1 - top) / 8] * 9 for _, top in tops], np.float32)
    for pixel, (class_id, top) in enumerate(tops):
        row[pixel, class_id] = top
    return row[None]


def test_codes():
    row = probabilities((0, 0.9), (8, 0.35), (3, 0.3), (6, 1.0))
    seen = np.array([[True, True, True, False]])
    assert label_codes(row, seen, 0.35).tolist() == [[1, 9, 0, 0]]
    assert label_codes(row, seen, 0.0).tolist() == [[1, 9, 4, 0]]
    assert label_codes(row, seen, 1.0).tolist() == [[0, 0, 0, 0]]
    assert label_codes(np.full((1, 1, 9), np.nan, np.float32), np.ones((1, 1), bool), 0.0).tolist() == [[0]]


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 30.0])
def test_shares_sum_to_255_and_keep_the_order(sharpness):
    logits = sharpness * np.random.default_rng(0).normal(size=(50, 60, 9))
    given = np.exp(logits - logits.max(axis=-1, keepdims=True))
    given = (given / given.sum(axis=-1, keepdims=True)).astype(np.float32)
    seen = np.random.default_rng(1).random((50, 60)) < 0.9
    stored = shares(given, seen)
    assert (stored[seen].sum(axis=-1, dtype=int) == WHOLE).all() and not stored[~seen].any()
    assert np.abs(stored[seen] / WHOLE - given[seen]).max() < 1 / WHOLE
    ordered = np.take_along_axis(stored, given.argsort(axis=-1), axis=-1)[seen].astype(int)
    assert (np.diff(ordered, axis=-1) >= 0).all()
    assert shares(probabilities((2, 1.0)), np.ones((1, 1), bool)).tolist() == [[[0, 0, 255, 0, 0, 0, 0, 0, 0]]]


def test_counts():
    codes = np.array([[1, 1, 9, 0], [0, 0, 0, 0]], np.uint8)
    valid = np.array([[True] * 4, [True, True, True, False]])
    cloud = np.array([[False] * 4, [True, False, False, True]])
    counts = counted(codes, valid, cloud, 9)
    assert (counts.nodata, counts.cloud, counts.unsure, counts.labelled, counts.pixels) == (1, 1, 3, 3, 8)
    assert sum([counts, counts], Counts()).classes == (4, *(0,) * 7, 2)
    text = counts.text(0.35, bands.CLASSES)
    assert text.startswith("8 pixels: 37.5 % labelled, 37.5 % unsure (below 0.35), 12.5 % cloud, 12.5 % without data")
    assert f"{bands.CLASSES[0]} 66.7 %" in text
    assert "0 pixels: 0.0 % labelled" in Counts().text(0.0, bands.CLASSES)
