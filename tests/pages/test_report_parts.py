"""Parts of the report by themselves: charts, the choice of tiles, a journal cut short."""

import dataclasses
import shutil

import numpy as np
import pytest

from specsar_jax import report
from specsar_jax.accuracy import metrics
from specsar_jax.accuracy.evaluation_files import files_of
from specsar_jax.accuracy.tally import Tally
from specsar_jax.pages import charts, runs, tile_cards
from specsar_jax.trained.bundle import write_bundle
from specsar_jax.trained.loading import load_trained


def test_larger_tiles_are_made_smaller():
    values = np.arange(510 * 500).reshape(510, 500)
    small = charts.smaller(values, 255)
    assert small.shape == (255, 250) and np.isin(small, values).all()
    assert charts.smaller(values, 510) is values


def test_tiles_are_chosen_by_accuracy_and_by_lot():
    confusion = np.zeros((20, 9, 9), np.int64)
    confusion[:, 0, 0], confusion[:, 0, 1] = np.arange(20) * 5, 100 - np.arange(20) * 5
    confusion[19] = 0  # no labelled pixel
    confusion[18] //= 50  # next to none
    scores = metrics.headline(confusion)["overall_accuracy"]
    none = np.zeros((20, 9), np.int64)
    tally = Tally(np.arange(20).astype(str), {}, confusion, none, np.stack([none, none], axis=-1))
    chosen = tile_cards.choose_tiles(tally, scores, 3, seed=0)
    assert (chosen["worst"], chosen["best"]) == ([0, 1, 2], [17, 16, 15])
    assert len(set(chosen["sample"])) == 3
    assert chosen["sample"] == tile_cards.choose_tiles(tally, scores, 3, seed=0)["sample"]
    few = tally.choose(np.arange(3))
    assert tile_cards.choose_tiles(few, scores[:3], 6, seed=0) == {"worst": [0], "best": [2], "sample": [0, 1, 2]}
    nothing = tally.choose(np.array([19]))
    assert tile_cards.choose_tiles(nothing, scores[19:], 6, seed=0) == {"worst": [], "best": [], "sample": [0]}


def test_a_journal_cut_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "kind": "train", "loss": null, "x": "y"}\n[1]\n{"step": 2, "kind": "train", "loss": 0.5}\n{"st'
    )
    assert runs.read_journal(path)["train"] == [{"step": 1.0}, {"step": 2.0, "loss": 0.5}]
    assert runs.read_journal(tmp_path / "none")["eval"] == []


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.0, 0.0005, ["0", "0.0001", "0.0002", "0.0003", "0.0004", "0.0005"]),
        (0.62, 1.61, ["0.6", "0.8", "1.0", "1.2", "1.4", "1.6", "1.8"]),
        (0.0, 20000.0, ["0", "5,000", "10,000", "15,000", "20,000"]),
        (3.0, 3.0, ["1", "2", "3", "4", "5"]),
    ],
)
def test_ticks_are_round(low, high, texts):
    assert charts._texts(charts.ticks(low, high, 5), percent=False) == texts


def test_a_long_curve_is_thinned_to_means():
    steps = [float(step) for step in range(1, 1001)]
    of = charts.thinned(steps, [2.0 * step for step in steps], most=100)
    assert len(of) == 100 and of[0] == (5.5, 11.0)
    assert charts.thinned([1.0, 2.0], [3.0, 4.0]) == [(1.0, 3.0), (2.0, 4.0)]


def test_texts_of_charts_are_escaped():
    hostile = "<img src=x onerror=\"document.title='taken'\">"
    drawn = charts.lines([charts.Line(hostile, 0, [1.0, 2.0], [1.0, 2.0])], hostile)
    assert hostile not in drawn and "&lt;img" in drawn


def test_a_report_on_a_bundle(small_run, tmp_path):
    """As on a run, with who made the weights; its evaluation lies beside it."""
    bundle = tmp_path / "network.safetensors"
    trained = load_trained(small_run / "run")
    write_bundle(dataclasses.replace(trained, origin="The makers", licence="CC-BY-4.0"), bundle)
    for there, here in zip(files_of(small_run / "run", "test"), files_of(bundle, "test"), strict=True):
        shutil.copy(there, here)
    report.main(["--workdir", str(bundle), "--tiles", "0", "--data_dir", str(small_run / "data")])
    page = (tmp_path / "network.report.html").read_text()
    assert "The makers" in page and "Of the weights: CC-BY-4.0." in page
