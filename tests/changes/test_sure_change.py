"""How sure change is: by probabilities of both maps, and by their evaluations."""

import json
from pathlib import Path

import numpy as np
import pytest
from compared_maps import (
    BUILT,
    CROPS,
    NONE,
    TREES,
    codes_of,
    evaluation,
    matrix_of,
    rows_of,
    run,
    small_pair,
    write_shares,
)
from drawn_zones import box, write_zones

from tfds_dwplus import bands


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """To be read only."""
    return small_pair(tmp_path_factory.mktemp("change"))


def test_changes_that_are_not_sure_are_left_out_and_counted(folder, tmp_path, capsys):
    """Trees to crops: 0.9 x 0.9 and 0.9 x 0.8; trees to built: not known of one map."""
    sure, after = np.full((1, 3, 4), 0.9), np.full((1, 3, 4), 0.9)
    after[0, 1, 2], after[0, 0, 3], after[0, 0, 0] = 0.8, np.nan, 0.1
    shares = (
        *("--before_probabilities", write_shares(tmp_path / "p.tif", sure, s2_dates="2020-06-04")),
        *("--after_probabilities", write_shares(tmp_path / "q.tif", after, s2_dates="2021-06-04")),
    )
    given = (folder / "before.tif", folder / "after.tif", *shares, "--output")
    run(*given, tmp_path / "a.tif", "--confidence", 0.8)
    np.testing.assert_array_equal(codes_of(tmp_path / "a.tif"), [[0, 0, 13, 81], [0, 255, 81, 10], [60, 255, 10, 10]])
    told, left_out = (matrix_of(tmp_path / "a.csv", column) for column in ("hectares", "unsure_hectares"))
    pixel = told[TREES, CROPS]
    assert pixel and left_out[TREES, CROPS] == pytest.approx(pixel, rel=1e-4) == pytest.approx(left_out[TREES, BUILT])
    assert np.count_nonzero(left_out) == 2
    run(folder / "before.tif", folder / "after.tif", "--output", tmp_path / "all.tif")
    assert told + left_out == pytest.approx(matrix_of(tmp_path / "all.csv"), abs=2e-6)
    out = capsys.readouterr().out
    assert "+ 0.0 not sure" in out and "of a probability below 0.8" in out
    # A threshold that a probability has to the digit leaves it in: 0.9 x 0.8.
    for least, count in ((0.72, 1), (0.7201, 2), (0, 0), (1, 3)):
        run(*given, tmp_path / "b.tif", "--confidence", least)
        assert (codes_of(tmp_path / "b.tif") == 81).sum() == count
    assert "no change is as sure as --confidence 1:" in capsys.readouterr().err
    tree = json.loads((tmp_path / "b.json").read_text())
    assert tree["unsure_change_hectares"] == pytest.approx(3 * pixel, rel=1e-3) and tree["confidence"] == 1
    # By zone it is counted too, and the style names it.
    zones = write_zones(tmp_path / "zones.gpkg", [box(0, 0, 4, 1), box(0, 1, 4, 3)])
    run(*given, tmp_path / "c.tif", "--confidence", 0.8, "--zones", zones)
    first, second = (matrix_of(tmp_path / "c.zones.csv", "unsure_hectares", zone) for zone in "12")
    assert first + second == pytest.approx(left_out, abs=2e-6) and first[TREES, BUILT] and not first[TREES, CROPS]
    assert 'value="81"' in (tmp_path / "c.qml").read_text()


def test_probabilities_of_all_classes_say_what_confidences_say(folder, tmp_path):
    rng = np.random.default_rng(5)
    shares = [rng.dirichlet(np.full(9, 0.3), (3, 4)).transpose(2, 0, 1) for _ in range(2)]
    ids = [codes_of(folder / name) for name in ("before.tif", "after.tif")]
    paths, products = {"all": [], "one": []}, np.ones((3, 4))
    for number, (share, id_) in enumerate(zip(shares, ids, strict=True)):
        paths["all"].append(write_shares(tmp_path / f"all{number}.tif", share, names=bands.CLASSES))
        own = np.take_along_axis(share, np.where(id_ == NONE, 0, id_)[None].astype(int), axis=0)
        paths["one"].append(write_shares(tmp_path / f"one{number}.tif", own))
        products *= own[0]
    least = np.median(products[[0, 1, 0], [2, 2, 3]])
    for name, (one, two) in paths.items():
        given = (
            folder / "before.tif",
            folder / "after.tif",
            "--before_probabilities",
            one,
            "--after_probabilities",
            two,
        )
        run(*given, "--confidence", least + 0.001, "--output", tmp_path / f"{name}.change.tif")
    codes = codes_of(tmp_path / "all.change.tif")
    assert (codes == 81).sum() == 2
    np.testing.assert_array_equal(codes, codes_of(tmp_path / "one.change.tif"))


def test_evaluations_of_both_maps_give_intervals(folder, tmp_path, capsys):
    """A perfect score gives the mapped areas; errors at both dates make change of ground that did not."""
    given = (folder / "before.tif", folder / "after.tif", "--output", tmp_path / "c.tif")
    perfect = evaluation(tmp_path / "perfect.json", 20 * np.eye(9, dtype=np.int64))
    run(*given, "--before_evaluation", perfect, "--after_evaluation", perfect)
    for row in rows_of(tmp_path / "c.csv"):
        assert row["hectares"] == row["estimated_hectares"] == row["low"] == row["high"] and not float(
            row["standard_error"]
        )
    told = capsys.readouterr()
    assert "take the errors of the two maps for independent" in told.err and "changed, estimated" in told.out
    confusion = 20 * np.eye(9, dtype=np.int64) + 1
    confusion[:, BUILT] = 0
    less = evaluation(tmp_path / "less.json", confusion, data_sha256="cd" * 32, split="test")
    other = evaluation(tmp_path / "other.json", confusion, data_sha256="cd" * 32, split="test", step=7)
    run(*given, "--before_evaluation", less, "--after_evaluation", other)
    tree = json.loads((tmp_path / "c.json").read_text())
    areas = matrix_of(tmp_path / "c.csv")
    left_out = areas[BUILT].sum() + areas[:, BUILT].sum() - areas[BUILT, BUILT]
    assert tree["estimated"]["unsampled_share"] == pytest.approx(left_out / areas.sum(), rel=1e-4)
    kept = np.delete(np.delete(areas, BUILT, 0), BUILT, 1)
    assert matrix_of(tmp_path / "c.csv", "estimated_hectares").sum() == pytest.approx(kept.sum(), abs=1e-4)
    told = capsys.readouterr().err
    assert "both evaluations are of the same labels" in told and "of the compared area is not in the estimates" in told
    assert any("independent" in note for note in tree["notes"])
