"""Maps made elsewhere against labels: what is counted, by vote, and of two maps together."""

import csv

import numpy as np
import pytest
from other_maps import WORLDCOVER_OF, expected_confusion, folder_of, predicted, run, write
from sklearn.metrics import confusion_matrix

from specsar_jax.accuracy import intervals, metrics
from specsar_jax.accuracy.map_scores import merge_tally
from specsar_jax.accuracy.tally import Tally
from tfds_dwplus import DynamicWorldPlusConfig, bands
from tfds_dwplus.labels.label_files import votes
from tfds_dwplus.prepare import prepare
from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.tiles.tile_files import COLUMNS, write_tile

DATE_PLACE = "dw_-63.3512901800_-3.9093045532-20190812"


def test_a_folder_of_tiles(world, tmp_path, capsys):
    found = run("--prediction", folder_of(world, tmp_path / "map", 1), "--legend", "dynamic_world", *world.flags())
    row = found["maps"]["map"]
    figures = row["labels"]["label"]
    confusion = expected_confusion(world, 1)
    np.testing.assert_array_equal(figures["confusion_matrix"], confusion)
    assert figures["mean_iou"] == metrics.summarise(confusion, bands.DYNAMIC_WORLD)["mean_iou"]
    assert figures["tiles"] == 3 and figures["labelled_pixels"] == found["labelled_pixels"]["label"] == confusion.sum()
    low, high = figures["intervals"]["overall_accuracy"]
    assert low <= figures["overall_accuracy"] <= high
    assert row["warped_tiles"] == 0 and row["tiles_without"] == []
    assert found["dataset"] == "dynamic_world_plus/mine/1.0.0" and found["pairs"] == [] and "published" not in found
    mapped = sum(np.bincount(predicted(tile, 1).ravel(), minlength=9) for tile in world.tiles)
    assert figures["area"]["per_class"]["water"]["mapped_ha"] == pytest.approx(mapped[0] / 100)
    printed = capsys.readouterr().out
    assert "Dynamic World product, or a map of ours, read as:" in printed and "warped" not in printed


def test_two_maps_are_scored_on_the_pixels_that_both_have(world, tmp_path, capsys):
    first = folder_of(world, tmp_path / "first", 1, 0.8)
    second = folder_of(world, tmp_path / "second", 2, 0.6, WORLDCOVER_OF)
    gap = second / f"{world.tiles[1].record.tile_id}.tif"
    codes = WORLDCOVER_OF[predicted(world.tiles[1], 2, 0.6)]
    codes[30:] = 100  # moss, which is left out
    write(gap, codes, world.tiles[1].crs, world.tiles[1].transform)
    (second / f"{world.tiles[2].record.tile_id}.tif").unlink()
    found = run(
        "--prediction",
        first,
        "--legend",
        "dynamic_world",
        "--prediction",
        second,
        "--legend",
        "worldcover",
        *world.flags(),
    )
    label = np.concatenate([world.tiles[0].label, world.tiles[1].label[:30]]).ravel()
    a = np.concatenate([predicted(world.tiles[0], 1, 0.8), predicted(world.tiles[1], 1, 0.8)[:30]]).ravel()
    b = np.concatenate([predicted(world.tiles[0], 2, 0.6), predicted(world.tiles[1], 2, 0.6)[:30]]).ravel()
    labelled = label != 255
    for name, prediction in (("first", a), ("second", b)):
        figures = found["maps"][name]["labels"]["label"]
        np.testing.assert_array_equal(
            figures["confusion_matrix"], confusion_matrix(label[labelled], prediction[labelled], labels=np.arange(9))
        )
        assert figures["tiles"] == 2
    (pair,) = found["pairs"]
    np.testing.assert_array_equal(pair["agreement_matrix"], confusion_matrix(a, b, labels=np.arange(9)))
    assert pair["agreement"] == pytest.approx((a == b).mean())
    only_a, only_b = (int((of[0] == label)[labelled & (of[1] != label)].sum()) for of in ((a, b), (b, a)))
    assert pair["mcnemar"]["label"] == intervals.mcnemar(only_a, only_b)
    difference = pair["difference"]["label"]["figures"]["overall_accuracy"]
    assert difference["difference"] == pytest.approx((a == label)[labelled].mean() - (b == label)[labelled].mean())
    printed = capsys.readouterr().out
    assert "McNemar, chi-squared" in printed and "a = first, b = second: one class on" in printed


def test_rangeland_makes_grass_and_shrub_one_class_for_all(world, tmp_path):
    esri = np.array([1, 2, 11, 4, 5, 11, 7, 8, 9], np.uint8)
    ours = folder_of(world, tmp_path / "ours", 1)
    theirs = folder_of(world, tmp_path / "theirs", 1, codes=esri)
    found = run(
        "--prediction", ours, "--legend", "dynamic_world", "--prediction", theirs, "--legend", "esri", *world.flags()
    )
    assert found["merged"] == [["grass", "shrub_and_scrub"]]
    a, b = (found["maps"][name]["labels"]["label"] for name in ("ours", "theirs"))
    assert a == b and a["per_class"]["shrub_and_scrub"]["iou"] is None
    separate = expected_confusion(world, 1)
    merged = separate.copy()
    merged[2] += merged[5]
    merged[:, 2] += merged[:, 5]
    merged[5], merged[:, 5] = 0, 0
    np.testing.assert_array_equal(a["confusion_matrix"], merged)
    (pair,) = found["pairs"]
    assert pair["agreement"] == 1 and pair["mcnemar"]["label"]["p_value"] == 1


def test_no_labelled_pixel(world, tmp_path):
    tile = world.tiles[0]
    corner = write(tmp_path / "corner.tif", np.ones((9, 9), np.uint8), tile.crs, tile.transform)
    with pytest.raises(ValueError, match="no labelled pixel where corner has a class: the labels of the 3 tiles"):
        run("--prediction", corner, "--legend", "dynamic_world", *world.flags())


def held_out(seed: int, size_px: int = 510) -> np.ndarray:
    """Codes of one markup, 0 to 10."""
    rng = np.random.default_rng(seed)
    truth = np.tile(simulated_tile(3, "train", 0, 64).label, (8, 8))[:size_px, :size_px] + 1
    codes = np.where(rng.random(truth.shape) < 0.8, truth, rng.integers(1, 10, truth.shape))
    codes = np.where(rng.random(truth.shape) < 0.2, 0, codes)
    codes[:5, :50] = 10
    return codes.astype(np.uint8)


def test_votes_of_experts(tmp_path, capsys):
    markups = [held_out(seed) for seed in range(3)]
    grid = ("EPSG:32720", (10, 0, 460000, 0, -10, 9570000))
    for expert, codes in zip("ABC", markups, strict=True):
        write(tmp_path / f"validation/Expert_{expert}/WH/1/{DATE_PLACE}.tif", codes, *grid)
    ids = np.maximum(held_out(9), 1) - 1
    ids = np.where(ids > 8, 8, ids).astype(np.uint8)
    path = write(tmp_path / "map" / f"{DATE_PLACE}.tif", ids, *grid, names=("label",))
    found = run("--prediction", path.parent, "--legend", "dynamic_world", "--labels", tmp_path / "validation")
    by_vote = found["maps"]["map"]["labels"]
    assert list(by_vote) == list(bands.VOTES)
    for vote, codes in votes(np.stack(markups)).items():
        marked = (codes >= 1) & (codes <= 9)
        expected = confusion_matrix(codes[marked] - 1, ids[marked], labels=np.arange(9))
        np.testing.assert_array_equal(by_vote[vote]["confusion_matrix"], expected)
        assert found["labelled_pixels"][vote] == marked.sum()
    assert found["published"]["by_vote"]["consensus"] == {
        "overall_accuracy": 0.738,
        "mean_iou": 0.536,
        "macro_f1": 0.67,
    }
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if "|" in line}
    assert lines["strict"].split("|")[1].split() == ["68.5", "88.4", "79.1"]
    assert lines["consensus"].split("|")[1].split() == ["53.6", "73.8", "67.0"]
    assert lines["majority"].split("|")[1].split() == ["51.9", "71.3", "65.7"]
    assert lines["simple_majority"].split("|")[1].split() == ["-", "-", "-"]
    assert lines["strict"].split("|")[0].split()[1] == f"{100 * by_vote['strict']['mean_iou']:.1f}"


@pytest.mark.parametrize(
    ("annotator", "vote", "label"), [(bands.HELD_OUT, "strict", "strict"), ("expert", "", "label")]
)
def test_a_data_set_of_one_vote_stands_beside_the_published_figures(world, tmp_path, capsys, annotator, vote, label):
    tiles, rows = tmp_path / "tiles", []
    for tile in world.tiles:
        write_tile(tiles, tile, bands.S2_BANDS)
        record = tile.record
        rows.append((record.tile_id, "test", record.lon, record.lat, record.date, annotator, 64, 64))
    if vote:
        (tiles / "label").rename(tiles / f"label_{vote}")
    with (tiles / "tiles.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    prepare(DynamicWorldPlusConfig(name="x", tiles=tiles, tile_size_px=64, vote=vote), tmp_path / "data")
    path = folder_of(world, tmp_path / "map", 1)
    found = run("--prediction", path, "--legend", "dynamic_world", "--data_dir", tmp_path / "data", "--dataset", "x")
    assert list(found["labelled_pixels"]) == [label] and ("published" in found) == (vote == "strict")
    assert ("published:  mIoU" in capsys.readouterr().out) == (vote == "strict")


def test_zenodo_layout(tmp_path):
    """512 x 512; `lulc` counts from 1, `label` from 0; where no probability is finite, `label` is 0 and means nothing."""
    lulc, model = held_out(0, 512), np.maximum(held_out(1, 512), 1).clip(1, 9) - 1
    shares = np.full((9, 512, 512), 1 / 9, np.float32)
    shares[:, 100:140, 100:300] = np.nan
    shares[4, 300, 300:310] = np.inf
    model[~np.isfinite(shares).all(axis=0)] = 0
    grid = ("EPSG:32720", (10, 0, 460000, 0, -10, 9570000))
    folder = tmp_path / "dw_test"
    write(folder / f"label_{DATE_PLACE}.tif", np.stack([model, lulc]).astype(np.int16), *grid, names=("label", "lulc"))
    write(folder / f"probs_{DATE_PLACE}.tif", shares, *grid)
    found = run("--prediction", folder, "--legend", "dynamic_world", "--labels", folder)
    marked = (lulc >= 1) & (lulc <= 9) & np.isfinite(shares).all(axis=0)
    figures = found["maps"]["dw_test"]["labels"]["consensus"]
    np.testing.assert_array_equal(
        figures["confusion_matrix"], confusion_matrix(lulc[marked] - 1, model[marked], labels=np.arange(9))
    )
    assert found["maps"]["dw_test"]["codes"]["255"]["pixels"] == 40 * 200 + 10
    with pytest.raises(ValueError, match="no label tile of split 'train'"):
        run("--prediction", folder, "--legend", "dynamic_world", "--labels", folder, "--split", "train")
    # The experts' own band, read as a map: all right, and only where they marked.
    own = run("--prediction", folder, "--legend", "dynamic_world_labels", "--labels", folder)
    assert own["maps"]["dw_test"]["labels"]["consensus"]["overall_accuracy"] == 1


def test_zenodo_beside_published_tiles(tmp_path):
    """PANGAEA's 510 x 510 lie within Zenodo's 512 x 512, a pixel from each side: nothing is resampled but places."""
    lulc, model = held_out(0, 512), (np.maximum(held_out(1, 512), 1).clip(1, 9) - 1).astype(np.uint8)
    outer, inner = (10, 0, 460000, 0, -10, 9570000), (10, 0, 460010, 0, -10, 9569990)
    for expert in "ABC":
        write(tmp_path / f"validation/{expert}/WH/1/{DATE_PLACE}.tif", lulc[1:-1, 1:-1], "EPSG:32720", inner)
    folder = tmp_path / "dw_test"
    write(folder / f"label_{DATE_PLACE}.tif", np.stack([lulc, model]), "EPSG:32720", outer, names=("lulc", "label"))
    found = run("--prediction", folder, "--legend", "dynamic_world", "--labels", tmp_path / "validation")
    marked = ((lulc >= 1) & (lulc <= 9))[1:-1, 1:-1]
    expected = confusion_matrix(lulc[1:-1, 1:-1][marked] - 1, model[1:-1, 1:-1][marked], labels=np.arange(9))
    np.testing.assert_array_equal(found["maps"]["dw_test"]["labels"]["strict"]["confusion_matrix"], expected)


def test_merging_takes_away_what_cannot_be_merged():
    confusion = np.arange(81).reshape(1, 9, 9)
    tally = Tally(
        np.array(["a"]),
        {},
        confusion,
        confusion.sum(axis=1),
        np.ones((1, 9, 2), np.int64),
        np.ones((1, 15, 3)),
        np.ones(1),
        np.ones(1),
    )
    merged = merge_tally(tally, [("grass", "shrub_and_scrub")], bands.DYNAMIC_WORLD)
    assert (
        merged.confusion.sum() == confusion.sum()
        and merged.confusion[0, 2, 2] == confusion[0][np.ix_([2, 5], [2, 5])].sum()
    )
    np.testing.assert_array_equal(merged.mapped, merged.confusion.sum(axis=1))
    assert merged.reliability is None and not merged.boundary.any()
    assert merge_tally(tally, [], bands.DYNAMIC_WORLD) is tally and tally.confusion[0, 5, 5] == 50
