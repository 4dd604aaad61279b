"""Parts of the report by themselves: charts, the choice of tiles, a journal cut short."""

import dataclasses
import shutil

import matplotlib.path
import numpy as np
import pytest

from specsar_jax import report
from specsar_jax.accuracy import metrics
from specsar_jax.accuracy.evaluation_files import files_of
from specsar_jax.accuracy.tally import Tally
from specsar_jax.pages import charts, place_maps, runs, tile_cards, tile_images
from specsar_jax.trained.bundle import write_bundle
from specsar_jax.trained.loading import load_trained
from tfds_dwplus import bands


def test_larger_tiles_are_made_smaller():
    values = np.arange(510 * 500).reshape(510, 500)
    small = tile_images.smaller(values, 255)
    assert small.shape == (255, 250) and np.isin(small, values).all()
    assert tile_images.smaller(values, 510) is values


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
    assert chosen["typical"] == [8]  # of the 18 from 0 to 17, the lower one in the middle
    assert len(set(chosen["sample"])) == 3
    assert chosen["sample"] == tile_cards.choose_tiles(tally, scores, 3, seed=0)["sample"]
    few = tally.choose(np.arange(3))
    of_few = {"worst": [0], "best": [2], "sample": [0, 1, 2], "typical": [1]}
    assert tile_cards.choose_tiles(few, scores[:3], 6, seed=0) == of_few
    assert tile_cards.choose_tiles(few, scores[:3], 0, seed=0) == {key: [] for key in of_few}
    nothing = tally.choose(np.array([19]))
    assert tile_cards.choose_tiles(nothing, scores[19:], 6, seed=0) == {
        "worst": [],
        "best": [],
        "sample": [0],
        "typical": [],
    }


def test_classes_of_one_colour_are_drawn_in_colours_of_their_own():
    classes = bands.Classes(("a", "b", "c", "d"), ("ffffff", "ffffff", "000000", "ffffff"))
    assert tile_images.drawn_colours(classes) == ("ffffff", "000000", "000001", "000002")
    assert tile_images.drawn_colours(bands.DYNAMIC_WORLD) == bands.CLASS_COLOURS


@pytest.mark.parametrize(
    ("scores", "steps"),
    [
        (np.arange(10) / 10, [("s0", 0, 0.1), ("s1", 0.2, 0.3), ("s2", 0.4, 0.5), ("s3", 0.6, 0.7), ("s4", 0.8, 0.9)]),
        (np.array([0.5, 0.5, 0.5]), [("s2", 0.5, 0.5)]),
        (np.array([0.9, 0.2]), [("s0", 0.2, 0.2), ("s4", 0.9, 0.9)]),
        (np.repeat([0.1, 0.2, 0.3], [30, 1, 1]), [("s0", 0.1, 0.1), ("s4", 0.2, 0.3)]),
    ],
)
def test_places_are_coloured_by_quantiles(scores, steps):
    found = place_maps.score_steps(scores)
    assert [step.colour for step in found] == [colour for colour, *_ in steps]
    np.testing.assert_allclose([step[1:] for step in found], [step[1:] for step in steps])


def test_land_is_drawn_where_its_outlines_are_good_enough():
    cairo = place_maps.Place("Cairo", 31.2, 30.0, 0.5)
    world = place_maps.places([cairo, place_maps.Place("Quito", -78.5, -0.2, 0.9, target="tile-1")], "two")
    assert 'class="land"' in world.drawn and world.locator is None
    assert 'role="group"' in world.drawn and 'href="#tile-1"' in world.drawn
    town = place_maps.places([cairo, cairo._replace(lon=31.3, score=0.7)], "two")
    assert 'class="land"' not in town.drawn and 'role="img"' in town.drawn
    assert 'aria-label="The map is at 30°N 31.2°E"' in town.locator


def test_land_is_where_it_is():
    """Points on land are inside of an odd number of its rings."""
    rings = place_maps._rings()
    places = {
        "Chad": (18, 15, 1),
        "Kansas": (-98, 38, 1),
        "Pole": (0, -88, 1),
        "Pacific": (-150, 10, 0),
        "Caspian": (51, 42, 0),
    }
    for name, (lon, lat, inside) in places.items():
        assert sum(matplotlib.path.Path(ring).contains_point((lon, lat)) for ring in rings) % 2 == inside, name


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
