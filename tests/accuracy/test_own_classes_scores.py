"""Figures of classes of their own: of networks, of maps by a table of their codes, and what does not go together."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import command, refused
from drawn_networks import drawn, many
from other_maps import write
from own_classes import FOUR, dataset_of, small, with_names

from specsar_jax import evaluate
from specsar_jax.accuracy import figures, legends, metrics
from specsar_jax.accuracy.evaluation_files import read_figures
from specsar_jax.trained.bundle import write_bundle
from specsar_jax.training import evaluation
from tfds_dwplus import bands
from tfds_dwplus.tiles.prepared import open_dataset, read_split


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> Path:
    """Folder with a data set `own` of `FOUR` under `data`, and maps of its test tiles, each right on most pixels. To be read only."""
    folder = dataset_of(tmp_path_factory.mktemp("four"), FOUR)
    rng = np.random.default_rng(3)
    for record in read_split(open_dataset(folder / "data", "own"), "test"):
        label = np.where(record["label"] == bands.IGNORE, 0, record["label"])
        ids = np.where(rng.random(label.shape) < 0.7, label, rng.integers(0, 4, label.shape)).astype(np.uint8)
        place = record["crs"].decode(), record["transform"], ("land cover",)
        name = f"{record['tile_id'].decode()}.tif"
        write(folder / "ours" / name, ids, *place)
        write(folder / "theirs" / name, np.array([10, 30, 80, 50], np.uint8)[ids], *place)
        write(folder / "worse" / name, np.where(rng.random(ids.shape) < 0.5, ids, 0).astype(np.uint8), *place)
    (folder / "codes.csv").write_text("value,name\n80,wasser\n10,blé d'hiver\n30,Forêt dense\n50,alte Stadt\n90,\n")
    return folder


@pytest.mark.parametrize("classes", [many(2), FOUR, many(64)], ids=len)
def test_the_figures_of_a_network(classes, tmp_path):
    dataset_of(tmp_path, classes)
    trained = with_names(drawn(small(), classes=classes))
    found = evaluation.evaluate(trained, tmp_path / "data", "own", "test", files := evaluate.files_of(tmp_path, "test"))
    assert found["classes"] == list(classes.names) and found["class_colours"] == list(classes.colours)
    labels = np.stack([record["label"] for record in read_split(open_dataset(tmp_path / "data", "own"), "test")])
    counts = np.bincount(labels.ravel(), minlength=256)[: len(classes)]
    confusion = np.array(found["confusion_matrix"])
    assert confusion.shape == (len(classes),) * 2
    np.testing.assert_array_equal(confusion.sum(axis=1), counts)
    assert found["overall_accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())
    assert list(found["per_class"]) == list(found["area"]["per_class"]) == list(classes.names)
    assert f"per_class.{classes.names[0]}.iou" in found["intervals"] or len(classes) > 9
    assert figures.classes_of(read_figures(files.figures)) == classes
    lines = metrics.table(found).splitlines()
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in classes.names)


def test_maps_by_a_table_and_a_network_of_the_same_classes(four, tmp_path, capsys):
    given = [
        "--prediction",
        four / "ours",
        "--legend",
        "own",
        "--prediction",
        four / "theirs",
        "--legend",
        four / "codes.csv",
    ]
    given += ["--prediction", four / "worse", "--legend", "own", "--data_dir", four / "data", "--dataset", "own"]
    evaluate.main([*map(str, given), "--output", str(tmp_path / "c.json")])
    told, found = capsys.readouterr().out, json.loads((tmp_path / "c.json").read_text())
    ours, theirs, worse = (found["maps"][name]["labels"]["label"] for name in ("ours", "theirs", "worse"))
    assert ours == theirs and ours["overall_accuracy"] == pytest.approx(0.77, abs=0.03)
    assert worse["overall_accuracy"] < 0.6
    assert ours["classes"] == list(FOUR.names) and ours["class_colours"] == list(FOUR.colours)
    assert found["maps"]["theirs"]["legend"] == "codes.csv"
    assert found["maps"]["theirs"]["codes"]["30"]["becomes"] == "forêt dense"
    assert np.array(found["pairs"][0]["agreement_matrix"]).shape == (4, 4) and found["pairs"][0]["agreement"] == 1.0
    assert "Map with the codes of codes.csv, read as:" in told and "forêt dense" in told


def test_built_in_legends_are_of_dynamic_worlds_classes(four):
    for name in legends.LEGENDS:
        with pytest.raises(
            ValueError, match=f"legend {name} is of Dynamic World's classes, the labels have blé d'hiver"
        ):
            legends.find(name, FOUR)
    assert legends.find("own", bands.DYNAMIC_WORLD) is legends.DYNAMIC_WORLD
    given = ["--prediction", four / "theirs", "--legend", "worldcover", "--data_dir", four / "data", "--dataset", "own"]
    line = refused(command("specsar_jax.evaluate", *given, "--output", "c.json", cwd=four))
    assert "--legend codes.csv with the columns value,name" in line and not (four / "c.json").exists()


TABLES = {
    "no file": (None, "No such file"),
    "other columns": ("code,name\n1,Wasser\n", "its columns are code,name, expected value,name"),
    "empty": ("", "its columns are , expected value,name"),
    "no number": ("value,name\none,Wasser\n", "row one,Wasser, expected a whole number"),
    "twice": ("value,name\n1,Wasser\n1,alte Stadt\n", "row 1,alte Stadt, expected a whole number, each once"),
    "another class": ("value,name\n1,water\n", "'water' is no class of the labels; they have blé d'hiver"),
    "a third column": ("value,name\n1,Wasser,2e6fdb\n", "row 1,Wasser,2e6fdb, expected"),
    "none": ("value,name\n1,\n", "no value stands for a class"),
}


@pytest.mark.parametrize(("text", "message"), TABLES.values(), ids=TABLES)
def test_a_table_that_is_none(text, message, tmp_path):
    path = tmp_path / "codes.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError) as refusal:
        legends.find(str(path), FOUR)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_table_for_dynamic_worlds_classes_and_codes_it_lacks(tmp_path):
    (tmp_path / "codes.csv").write_text("value,name\n255,Water\n-1,trees\n7,\n")
    legend = legends.find(str(tmp_path / "codes.csv"), bands.DYNAMIC_WORLD)
    assert legend.nodata == (-2,)
    codes = np.array([[255, -1], [7, -2]], np.int64)
    assert legends.class_ids(codes, legend, bands.DYNAMIC_WORLD).tolist() == [[0, 1], [255, 255]]
    with pytest.raises(
        ValueError, match=r"the codes 2, 3, 11, 259, .* add them to it \(without a name they are left out\)"
    ):
        legends.class_ids(codes + 4, legend, bands.DYNAMIC_WORLD)


def test_a_map_whose_tags_name_other_classes(four, tmp_path):
    for path in (four / "ours").iterdir():
        with rasterio.open(path) as raster:
            write(tmp_path / "map" / path.name, raster.read(1), raster.crs, raster.transform)
        with rasterio.open(tmp_path / "map" / path.name, "r+") as raster:
            raster.update_tags(**{f"class_{i}": name for i, name in enumerate(FOUR.names[::-1])})
    given = ["--prediction", tmp_path / "map", "--legend", "own", "--data_dir", four / "data", "--dataset", "own"]
    with pytest.raises(
        ValueError, match="has the classes alte Stadt, Wasser, forêt dense, blé d'hiver, the labels have blé"
    ):
        evaluate.main([*map(str, given), "--output", str(tmp_path / "c.json")])


def test_a_network_of_other_classes_is_refused(four, world, tmp_path):
    write_bundle(with_names(drawn(small())), tmp_path / "nine.safetensors")
    line = refused(
        command("specsar_jax.evaluate", "--workdir", "nine.safetensors", "--data_dir", four / "data", "--dataset", "own", cwd=tmp_path)
    )  # fmt: skip
    assert ", ".join(FOUR.names) in line and ", ".join(bands.CLASSES) in line and "--config.train.finetune" in line
    assert not list(tmp_path.glob("*.json"))
    trained = with_names(drawn(small(), classes=FOUR))
    with pytest.raises(ValueError, match=r"has the classes water, .*, the network has blé d'hiver"):
        evaluation.score_tiles(trained, world.data, "mine", "test")


STRANGE = {
    "no colours": {"class_colours": None},
    "a colour too few": {"class_colours": list(FOUR.colours[:3])},
    "two alike": {"classes": ["a", "A", "b", "c"]},
    "two lines": {"classes": ["a", "b\nc", "d", "e"]},
    "one": {"classes": ["a"], "class_colours": ["ffffff"]},
    "numbers": {"classes": [1, 2, 3, 4]},
}


@pytest.mark.parametrize("changes", STRANGE.values(), ids=STRANGE)
def test_strange_classes_of_an_evaluation_are_refused(changes, tmp_path):
    whole = metrics.summarise(np.eye(4, dtype=np.int64), FOUR)
    (tmp_path / "e.json").write_text(json.dumps(whole))
    assert figures.classes_of(read_figures(tmp_path / "e.json")) == FOUR
    tree = {name: value for name, value in (whole | changes).items() if value is not None}
    (tmp_path / "e.json").write_text(json.dumps(tree))
    with pytest.raises(ValueError, match="is no evaluation") as refusal:
        read_figures(tmp_path / "e.json")
    assert "\n" not in str(refusal.value)


def test_an_evaluation_without_colours_is_of_dynamic_worlds():
    nine = metrics.summarise(np.eye(9, dtype=np.int64), bands.DYNAMIC_WORLD)
    assert "class_colours" not in nine and figures.classes_of(nine) == figures.classes_of({}) == bands.DYNAMIC_WORLD
