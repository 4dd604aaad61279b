"""Figures against scikit-learn, on random and on degenerate inputs; boundaries pixel by pixel; the tiles of a split, each once."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from scored_tiles import tally_of, tiles
from sklearn import metrics as reference

from specsar_jax import evaluate
from specsar_jax.accuracy import calibration, metrics
from specsar_jax.accuracy.tally import Tally
from specsar_jax.config import Loss, override
from specsar_jax.trained.loading import load_trained
from specsar_jax.training import evaluation
from specsar_jax.training.evaluation import evaluation_step
from tfds_dwplus import bands
from tfds_dwplus.tiles.prepared import open_dataset, read_split

KEYS = {
    "overall_accuracy": reference.accuracy_score,
    "mean_iou": lambda *pair: reference.jaccard_score(*pair, average="macro"),
    "macro_f1": lambda *pair: reference.f1_score(*pair, average="macro"),
    "weighted_f1": lambda *pair: reference.f1_score(*pair, average="weighted"),
    "kappa": reference.cohen_kappa_score,
}


@pytest.mark.parametrize("case", [{}, {"classes": (0, 2, 3, 8)}, {"share": 0.0}, {"share": 1.0}, {"labelled": 0.01}])
def test_against_scikit_learn(case):
    label, log_p = tiles(**case)
    tally = tally_of(label, log_p)
    for place in (0, 1, 2, slice(None)):  # a tile, and all of them
        marked = label[place] != bands.IGNORE
        pair = label[place][marked], log_p[place].argmax(axis=-1)[marked]
        confusion = tally.confusion[place] if isinstance(place, int) else tally.confusion.sum(axis=0)
        np.testing.assert_array_equal(confusion, reference.confusion_matrix(*pair, labels=range(9)))
        figures = metrics.summarise(confusion, bands.DYNAMIC_WORLD)
        for name, of in KEYS.items():
            assert figures[name] == pytest.approx(of(*pair), abs=1e-12), name
            assert metrics.headline(tally.confusion)[name].shape == (3,)
        by_class = {"iou": reference.jaccard_score, "f1": reference.f1_score, "precision": reference.precision_score,
                    "recall": reference.recall_score}  # fmt: skip
        for name, of in by_class.items():
            ours = [row[name] for row in figures["per_class"].values()]
            expected = of(*pair, average=None, labels=range(9), zero_division=0)
            known = {"precision": np.isin(range(9), pair[1]), "recall": np.isin(range(9), pair[0])}
            there = known.get(name, known["precision"] | known["recall"])
            assert [value is not None for value in ours] == there.tolist()
            np.testing.assert_allclose([value or 0.0 for value in ours], expected, atol=1e-12, err_msg=name)


def test_one_matrix_or_many():
    tally = tally_of(*tiles())
    for name, values in metrics.headline(tally.confusion).items():
        np.testing.assert_array_equal(
            values, [metrics.summarise(tile, bands.DYNAMIC_WORLD)[name] for tile in tally.confusion]
        )


def test_absent_classes_are_null_and_do_not_count():
    confusion = np.zeros((9, 9), np.int64)
    confusion[0, 0], confusion[0, 1], confusion[2, 2] = 6, 2, 4
    figures = metrics.summarise(confusion, bands.DYNAMIC_WORLD)
    assert figures["per_class"]["built"] == {"iou": None, "f1": None, "precision": None, "recall": None, "pixels": 0}
    assert figures["per_class"]["trees"]["iou"] == 0.0 and figures["per_class"]["trees"]["recall"] is None
    assert figures["mean_iou"] == pytest.approx((6 / 8 + 0 + 1) / 3)
    assert figures["labelled_pixels"] == 12


def test_one_class_only_has_no_kappa():
    confusion = np.zeros((9, 9), np.int64)
    confusion[4, 4] = 7
    figures = metrics.summarise(confusion, bands.DYNAMIC_WORLD)
    assert [figures[name] for name in metrics.HEADLINE] == [1.0, 1.0, 1.0, 1.0, None]


def test_nothing_labelled_has_no_figure():
    label, log_p = tiles(labelled=0.0)
    tally = tally_of(label, log_p)
    figures = metrics.summarise(tally.confusion.sum(axis=0), bands.DYNAMIC_WORLD)
    assert [figures[name] for name in metrics.HEADLINE] == [None] * 5
    assert not tally.boundary.any() and not tally.reliability.any()
    calibrated = calibration.summarise(tally)
    assert (calibrated["ece"], calibrated["brier"], calibrated["nll"]) == (None, None, None)
    assert tally.mapped.sum() == label.size  # mapped it is all the same


def test_mapped_is_where_the_sensors_have_data():
    label, log_p = tiles()
    valid = np.random.default_rng(1).random(label.shape) < 0.5
    expected = [np.bincount(log_p[i].argmax(axis=-1)[valid[i]], minlength=9) for i in range(3)]
    np.testing.assert_array_equal(tally_of(label, log_p, valid).mapped, expected)


def band_by_hand(ids: np.ndarray, known: np.ndarray, distance: int) -> np.ndarray:
    """Where a known pixel has one of another class near it, looked up pixel by pixel."""
    band = np.zeros(ids.shape, bool)
    for row, column in np.argwhere(known):
        near = np.s_[max(row - distance, 0) : row + distance + 1, max(column - distance, 0) : column + distance + 1]
        band[row, column] = (ids[near][known[near]] != ids[row, column]).any()
    return band


@pytest.mark.parametrize(("shape", "distance"), [((64, 48), 2), ((7, 9), 1), ((120, 160), 4)])
def test_boundary_bands_pixel_by_pixel(shape, distance):
    rng = np.random.default_rng(3)
    label, prediction = (
        ndimage.zoom(rng.integers(0, 9, (-(-shape[0] // 6), -(-shape[1] // 6))), 6, order=0)[: shape[0], : shape[1]]
        for _ in range(2)
    )
    prediction = np.where(rng.random(shape) < 0.7, label, prediction)
    label = np.where(rng.random(shape) < 0.1, bands.IGNORE, label)
    known = label != bands.IGNORE
    assert max(1, round(0.02 * math.hypot(*shape))) == distance
    of_label, of_prediction = (band_by_hand(ids, known, distance) for ids in (label, prediction))
    ours = np.asarray(
        metrics.boundary_sums(jnp.asarray(label)[None].astype(jnp.uint8), jnp.asarray(prediction)[None], 9)
    )
    for i in range(9):
        one, two = of_label & (label == i), of_prediction & (prediction == i)
        assert ours[0, i].tolist() == [(one & two).sum(), (one | two).sum()]


def test_a_perfect_map_has_perfect_boundaries_and_a_shifted_one_has_not():
    label = np.zeros((1, 50, 50), np.uint8)
    label[:, :, 25:] = 4
    label[:, 10:20, 10:20] = bands.IGNORE
    perfect = metrics.boundary_iou(np.asarray(metrics.boundary_sums(label, label, 9)).sum(axis=0))
    assert perfect[[0, 4]].tolist() == [1.0, 1.0] and np.isnan(perfect[1])
    shifted = metrics.boundary_iou(np.asarray(metrics.boundary_sums(label, np.roll(label, 1, axis=2), 9)).sum(axis=0))
    assert (shifted[[0, 4]] < 0.6).all()
    # Distance of 50 x 50 is 1: one column to either side of the border.
    assert np.asarray(metrics.boundary_sums(label, label, 9))[0, 4].tolist() == [50, 50]


def test_sums_are_exact_and_do_not_depend_on_the_batch():
    label, log_p = tiles(size=160)
    together = tally_of(label, log_p)
    for i in range(3):
        alone = tally_of(label[i : i + 1], log_p[i : i + 1])
        for name in ("confusion", "mapped", "boundary", "reliability", "brier", "nll"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[i])
    nll = [-np.float64(log_p[i][np.nonzero(label[i] != 255)])[np.arange((label[i] != 255).sum()), label[i][label[i] != 255]].sum()
           for i in range(3)]  # fmt: skip
    np.testing.assert_allclose(together.nll, nll, rtol=1e-11)


def test_a_network_that_diverged_has_figures_still():
    label, log_p = tiles()
    tally = tally_of(label, np.full_like(log_p, np.nan))
    assert np.isfinite(tally.nll).all() and tally.confusion[:, :, 0].sum() == (label != bands.IGNORE).sum()
    assert metrics.summarise(tally.confusion.sum(axis=0), bands.DYNAMIC_WORLD)["overall_accuracy"] < 0.2


def test_the_map_is_the_one_that_is_counted():
    label, log_p = tiles(labelled=1.0)
    log_p = np.where(np.arange(40)[:, None, None] < 5, np.float32(np.nan), log_p)  # diverged
    s2 = np.ones((*label.shape, 2), np.uint16)
    s2[:, 30:, :, 0] = bands.S2_NODATA
    label[:, 30:] = bands.IGNORE
    batch = {"s2": s2, "s1": np.zeros((*label.shape, 0), np.float32), "label": label, "expert": np.ones(3, bool)}
    config = Loss(name="cross_entropy")
    sums = jax.jit(functools.partial(evaluation_step, config=config, alpha=(1.0,) * 9, temperature=2.0, maps=True))(
        batch, log_p
    )
    class_id, marked = np.asarray(sums["class_id"]), label != bands.IGNORE
    assert class_id.dtype == np.uint8 and ((class_id == bands.IGNORE) == ~marked).all()
    expected = reference.confusion_matrix(label[marked], class_id[marked], labels=range(9))
    np.testing.assert_array_equal(sums["confusion"].sum(axis=0), expected)


def test_table_has_a_line_a_figure_with_its_interval_and_a_line_a_group():
    confusion = np.zeros((3, 9, 9), np.int64)
    confusion[:, 0, 0], confusion[:, 0, 1], confusion[:, 2, 2] = 6, 2, (4, 0, 0)
    figures = metrics.summarise(confusion.sum(axis=0), bands.DYNAMIC_WORLD)
    assert "mIoU                  58.3\n" in metrics.table(figures)
    groups = {"biome": metrics.grouped(confusion, np.array([4, 4, 0]), "biome")}
    assert list(groups["biome"]) == ["unknown", "4"] and groups["biome"]["4"]["tiles"] == 2
    assert list(metrics.grouped(confusion, np.array([10, 9, 0]), "s1_scenes")) == ["0", "9", "10"]
    merged = metrics.grouped(confusion, np.array(["", "unknown", "expert"]), "annotator")
    assert {name: row["tiles"] for name, row in merged.items()} == {"unknown": 2, "expert": 1}
    assert metrics.grouped(confusion, np.array([np.nan, 3.5, np.nan]), "lon")["unknown"]["tiles"] == 2
    text = metrics.table(figures | {"intervals": {"mean_iou": [0.5, 0.625]}, "groups": groups})
    assert "mIoU                  58.3  (50.0 to 62.5)\n" in text
    assert "temperate broadleaf and mixed forests" in text and "unknown" in text
    assert "mIoU                     -\n" in metrics.table(
        metrics.summarise(np.zeros((9, 9), np.int64), bands.DYNAMIC_WORLD)
    )


def test_each_tile_of_a_split_is_there_once_with_what_is_known_of_it(small_run, tmp_path, capsys):
    arguments = ["--workdir", str(small_run / "run"), "--split", "train[:3]", "--output", str(tmp_path / "x.json")]
    evaluate.main([*arguments, "--groups", "date", "annotator"])
    tally = Tally.read(tmp_path / "x.tiles_train__3_.npz")
    figures = json.loads((tmp_path / "x.json").read_text())
    records = list(read_split(open_dataset(small_run / "data", "mine"), "train[:3]"))
    assert tally.tile_id.tolist() == [record["tile_id"].decode() for record in records]  # the batch had eight rows
    assert tally.columns["lon"].tolist() == [record["lon"] for record in records]
    assert tally.columns["annotator"].tolist() == [record["annotator"].decode() for record in records]
    for row, record in zip(tally.confusion, records, strict=True):
        known = (record["label"] != 255) & (record["s2"] != 0).all(axis=-1) & np.isfinite(record["s1"]).all(axis=-1)
        np.testing.assert_array_equal(row.sum(axis=1), np.bincount(record["label"][known], minlength=9))
    assert (tally.mapped.sum(axis=1) >= tally.confusion.sum(axis=(1, 2))).all() and figures["tiles"] == 3
    assert figures["confusion_matrix"] == tally.confusion.sum(axis=0).tolist()
    assert figures["groups"] == {}  # one date, one annotator
    assert figures["intervals"]["mean_iou"][0] <= figures["mean_iou"] <= figures["intervals"]["mean_iou"][1]
    assert "mIoU" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"no column s2 in .*/mine/.* to group by; it has .*lon"):
        evaluate.main([*arguments, "--groups", "s2"])


def test_a_record_that_cannot_be_read_is_no_tile(corrupt, small_run):
    trained = load_trained(small_run / "run")
    trained = dataclasses.replace(trained, config=override(trained.config, ["data.corrupt_records=skip"]))
    tally, _, named = evaluation.score_tiles(trained, str(corrupt / "data"), "mine", "train")
    whole, _, _ = evaluation.score_tiles(trained, str(small_run / "data"), "mine", "train")
    assert (named["tiles"], len(tally), len(whole)) == (7, 7, 8)
    kept = whole.choose(np.isin(whole.tile_id, tally.tile_id))
    np.testing.assert_array_equal(tally.confusion, kept.confusion)


def test_against_torchmetrics():
    torch = pytest.importorskip("torch")
    of = pytest.importorskip("torchmetrics.functional.classification")
    label, log_p = tiles(size=160)
    known = label != bands.IGNORE
    p = torch.from_numpy(np.asarray(jnp.exp(log_p))[known].astype(np.float64))
    target = torch.from_numpy(label[known].astype(np.int64))
    tally = tally_of(label, log_p)
    figures = metrics.summarise(tally.confusion.sum(axis=0), bands.DYNAMIC_WORLD)
    settings = {"num_classes": 9, "average": "macro"}
    # It counts in float32; to 1e-9 see scikit-learn, above, and test_calibration.
    assert figures["mean_iou"] == pytest.approx(of.multiclass_jaccard_index(p, target, **settings).item(), abs=1e-6)
    assert figures["macro_f1"] == pytest.approx(of.multiclass_f1_score(p, target, **settings).item(), abs=1e-6)
    expected = of.multiclass_calibration_error(p, target, 9, n_bins=15).item()
    assert calibration.summarise(tally)["ece"] == pytest.approx(expected, abs=1e-6)
