"""What labelled the tiles is told from tiles.csv to the pages, so that nobody takes a teacher's agreement for accuracy."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import small_config, write_folder

from specsar_jax import evaluate, export, report
from specsar_jax.batches.dataset import data_sha256, dataset_statistics
from specsar_jax.batches.preprocess import Statistics
from specsar_jax.trained.loading import load_trained
from specsar_jax.training.loop import train
from tfds_dwplus import DynamicWorldPlusConfig, describe
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles.labelling import annotators
from tfds_dwplus.tiles.prepared import check_folder, open_dataset
from tfds_dwplus.tiles.splits import subset
from tfds_dwplus.tiles.tile_files import list_tiles

NETWORK = "network: dynamic_world 1a2b3c4d5e6f (Google, Dynamic <World>)"


def _annotate(folder, of: dict[str, str]) -> None:
    """Sets the annotator of the tiles of each split."""
    with (folder / "tiles.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "tiles.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(row | {"annotator": of.get(row["split"], row["annotator"])} for row in rows)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A run on tiles that a network labelled, but for those of validation; with a bundle of it."""
    folder = tmp_path_factory.mktemp("taught")
    tiles = write_folder(folder / "tiles", {"train": 8, "validation": 2, "test": 2})
    _annotate(tiles, {"train": NETWORK, "test": NETWORK, "validation": "expert"})
    prepare(DynamicWorldPlusConfig(name="mine", tiles=tiles, tile_size_px=64), folder / "data")
    train(small_config(folder), folder / "run")  # the same program as that of `small_run`
    export.main(
        ["--workdir", str(folder / "run"), "--format", "safetensors", "--output", str(folder / "b.safetensors")]
    )
    return folder


def test_counts_and_sentences():
    assert annotators.count(["a", "", "a"]) == {"a": 2, "unknown": 1}
    many = annotators.count([*(f"x{i}" for i in range(99)), *(f"x{i}" for i in range(99)), NETWORK])
    assert len(many) == annotators.MOST_ANNOTATORS and sum(many.values()) == 199 and many[NETWORK] == 1
    assert annotators.not_accuracy({"expert": 5}) == annotators.not_accuracy({}) == ""
    assert annotators.not_accuracy({"network: a": 2}) == (
        "All 2 tiles are labelled by network a: figures against them are agreement with it, not accuracy."
    )
    assert annotators.not_accuracy({"network: a": 2, "b": 1}).startswith(
        "2 of the 3 tiles are labelled by network a: figures against those"
    )
    assert annotators.taught({"network: a": 2}).startswith(
        "All 2 tiles that it learned from were labelled by network a: "
    )
    assert annotators.listed({"network: a": 2, "b": 1}) == "network: a (2 tiles), b (1 tile)"


@pytest.mark.parametrize("tree", [[], {"a": -1}, {"a": "1"}, {"a\n": 1}, {"": 1}, {f"x{i}": 1 for i in range(51)}])
def test_counts_of_strangers_are_refused(tree):
    with pytest.raises(ValueError):
        annotators.checked(tree, "labelled_by")


def test_the_data_set_tells(taught, capsys):
    builder = open_dataset(taught / "data", "mine")
    told = builder.info.metadata["labelled_by"]
    assert told == {"train": {NETWORK: 8}, "validation": {"expert": 2}, "test": {NETWORK: 2}}
    assert dataset_statistics(builder).labelled_by == {NETWORK: 8}
    describe.main(["--data_dir", str(taught / "data"), "--name", "mine", "--json", str(taught / "d.json")])
    assert f"10 of the 12 tiles are labelled by network {NETWORK[9:]}" in capsys.readouterr().out
    assert json.loads((taught / "d.json").read_text())["labelled_by"] == {NETWORK: 10, "expert": 2}
    assert len(subset(list_tiles(taught / "tiles"), ["network"], (), ())) == 10
    assert len(subset(list_tiles(taught / "tiles"), [NETWORK], (), ())) == 10
    with pytest.raises(ValueError, match="no tile has it"):
        subset([record for record in list_tiles(taught / "tiles") if record.split == "validation"], ["network"], (), ())


def test_run_bundle_and_map_tell(taught, small_run):
    for network in (taught / "run", taught / "b.safetensors"):
        trained = load_trained(network)
        assert trained.statistics.labelled_by == {NETWORK: 8}
        assert trained.provenance()["labels_of_training"] == f"{NETWORK} (8 tiles)"
    card = (taught / "b.safetensors.md").read_text()
    assert (
        "**All 8 tiles that it learned from were labelled by network dynamic\\_world 1a2b3c4d5e6f" in card
        and "<World>" not in card
    )
    assert "**All 2 tiles are labelled by network" in card
    assert load_trained(small_run / "run").provenance()["labels_of_training"] == "simulator (8 tiles)"


def test_an_evaluation_tells(taught, small_run, tmp_path, capsys):
    figures = json.loads((taught / "run" / "evaluation_test.json").read_text())
    assert figures["labelled_by"] == {NETWORK: 2}
    evaluate.main(["--workdir", str(taught / "run"), "--output", str(tmp_path / "e.json")])
    assert "agreement with it, not accuracy." in capsys.readouterr().out.splitlines()[-1]
    for split in ("validation", "all"):
        evaluate.main(["--workdir", str(taught / "run"), "--split", split, "--output", str(tmp_path / f"{split}.json")])
    printed = capsys.readouterr().out
    assert "labelled_by" not in json.loads((tmp_path / "validation.json").read_text())
    assert "10 of the 12 tiles are labelled by network" in printed and "against those" in printed
    assert "labelled_by" not in json.loads((small_run / "run" / "evaluation_test.json").read_text())


def test_the_report_tells(taught, small_run, tmp_path):
    for workdir, expected in ((taught / "run", True), (small_run / "run", False)):
        report.main(["--workdir", str(workdir), "--tiles", "0", "--output", str(tmp_path / "r.html")])
        page = (tmp_path / "r.html").read_text()
        assert ("agreement with it, not accuracy" in page) == expected
        assert (
            "All 8 tiles that it learned from were labelled by network" in page
        ) == expected and "<World>" not in page


def test_what_was_made_before_has_none(before):
    builder = open_dataset(before / "datasets", "before")
    assert dataset_statistics(builder).labelled_by == {}
    for network in (before / "run", before / "bundle.safetensors"):
        trained = load_trained(network)
        assert trained.statistics.labelled_by == {} and "labels_of_training" not in trained.provenance()
        assert "labelled_by" not in trained.statistics.to_dict()


def test_it_changes_neither_equality_nor_digests(taught, tmp_path):
    statistics = Statistics.read(taught / "run" / "statistics.json")
    tree = statistics.to_dict()
    del tree["labelled_by"]
    assert Statistics.from_dict(tree) == statistics and hash(Statistics.from_dict(tree)) == hash(statistics)
    _annotate(taught / "tiles", {"train": "expert"})
    try:
        prepare(DynamicWorldPlusConfig(name="mine", tiles=taught / "tiles", tile_size_px=64), tmp_path)
    finally:
        _annotate(taught / "tiles", {"train": NETWORK})
    assert data_sha256(open_dataset(tmp_path, "mine")) == data_sha256(open_dataset(taught / "data", "mine"))
    metadata = Path(open_dataset(tmp_path, "mine").data_path) / "metadata.json"
    tree = json.loads(metadata.read_text())
    metadata.write_text(json.dumps(tree | {"labelled_by": {"train": {"a": "many"}}}))
    with pytest.raises(ValueError, match=r"labelled_by\.train of metadata\.json of a is 'many'"):
        check_folder(metadata.parent)
    assert np.isfinite(statistics.s2.mean).all()
