"""Training on classes of their own: the run, its files and its figures; going on, fine-tuning and a teacher of other classes."""

import dataclasses
import json
from pathlib import Path

import pytest
from conftest import small_config
from drawn_networks import drawn, many
from own_classes import FOUR, dataset_of, small, with_names

from specsar_jax import evaluate
from specsar_jax.accuracy.evaluation_files import is_own_dataset
from specsar_jax.batches.dataset import resolve
from specsar_jax.batches.preprocess import Statistics
from specsar_jax.config import Config
from specsar_jax.trained.bundle import write_bundle
from specsar_jax.trained.loading import load_trained
from specsar_jax.trained.run_files import read_config
from specsar_jax.trained.teacher import load_teacher
from specsar_jax.training import loop
from tfds_dwplus import bands
from tfds_dwplus.tiles.prepared import open_dataset

RENAMED = bands.Classes(("Stadt", *FOUR.names[:3]), ("000000", *FOUR.colours[:3]))
"""Three of `FOUR`, all at other places, and a new one."""


def own_config(folder: Path, *more: str, name: str = "own") -> Config:
    """The config of a small run on the data set of classes of its own."""
    return small_config(folder, f"data.name={name}", "train.steps=2", "train.ema_decay=0.0", *more)


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> Path:
    """Folder with the data sets `own` of `FOUR`, `renamed` and `nine` under `data`, and a finished run of `own`. To be read only."""
    folder = dataset_of(tmp_path_factory.mktemp("four"), FOUR)
    dataset_of(folder, RENAMED, "renamed")
    dataset_of(folder, bands.DYNAMIC_WORLD, "nine")
    loop.train(own_config(folder, "loss.alpha=(1,2,3,4)"), folder / "run")
    return folder


def test_the_files_of_a_run(four):
    run = four / "run"
    statistics, trained = Statistics.read(run / "statistics.json"), load_trained(run)
    assert read_config(run).model.classes == 4 and statistics.classes == trained.classes == FOUR
    assert trained.variables["params"]["decoder"]["classify_kernel"].shape[-1] == 4
    figures = json.loads((run / "evaluation_test.json").read_text())
    assert figures["classes"] == list(FOUR.names) and figures["class_colours"] == list(FOUR.colours)
    assert len(figures["confusion_matrix"]) == 4 and (run / "examples_test.png").stat().st_size > 10_000
    assert is_own_dataset(trained.config, statistics, open_dataset(four / "data", "own"))
    assert not is_own_dataset(trained.config, statistics, open_dataset(four / "data", "renamed"))


def test_the_run_is_evaluated_again_and_goes_on(four, tmp_path, capsys):
    evaluate.main(["--workdir", str(four / "run"), "--split", "validation", "--output", str(tmp_path / "v.json")])
    told = capsys.readouterr().out
    assert all(f"\n{name} " in told for name in FOUR.names)
    assert json.loads((tmp_path / "v.json").read_text())["class_colours"] == list(FOUR.colours)
    loop.train(own_config(four, "loss.alpha=(1,2,3,4)"), four / "run")  # finished: scores again
    assert "going on from step 2" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["renamed", "nine"])
def test_a_run_does_not_go_on_with_other_classes(four, name):
    before = (four / "run" / "config.json").read_bytes()
    with pytest.raises(ValueError, match="belongs to a run with the classes blé d'hiver") as refusal:
        loop.train(own_config(four, name=name), four / "run")
    message = str(refusal.value)
    assert ("Stadt" if name == "renamed" else "water") in message and "\n" not in message
    assert f"--config.train.finetune={four / 'run'}" in message
    assert (four / "run" / "config.json").read_bytes() == before


def test_a_run_of_other_classes_starts_from_it(four, tmp_path, capsys):
    settings = (f"train.finetune={four / 'run'}", "train.steps=1", "data.test_split=")
    loop.train(own_config(four, *settings, name="renamed"), tmp_path / "run")
    told = capsys.readouterr().out
    assert "note: 3 of 4 classes are known: blé d'hiver, forêt dense, Wasser; new: Stadt\n" in told
    assert load_trained(tmp_path / "run").classes == RENAMED


def test_weights_of_classes_are_as_many_as_those(four):
    builder = open_dataset(four / "data", "own")
    for alpha in ("(1,1,1,1,1,1,1,1,1)", "(1,1)"):
        with pytest.raises(ValueError, match="weights, expected one for each of the 4 classes of the data set"):
            resolve(own_config(four, f"loss.alpha={alpha}"), builder)
    assert resolve(own_config(four, "model.classes=9"), builder)[0].model.classes == 4  # as channels, whatever is given


def test_a_teacher_has_the_same_classes(four, tmp_path):
    config, statistics = resolve(own_config(four), open_dataset(four / "data", "own"))
    write_bundle(with_names(drawn(small(), classes=FOUR)), tmp_path / "same.safetensors")
    assert load_teacher(tmp_path / "same.safetensors", config, statistics, config.data.s2_bands).trained.classes == FOUR
    for classes in (bands.DYNAMIC_WORLD, RENAMED):
        write_bundle(with_names(drawn(small(), classes=classes)), tmp_path / "other.safetensors")
        with pytest.raises(ValueError, match=r"has the classes .*, the data set has blé d'hiver, .*; take a teacher"):
            load_teacher(tmp_path / "other.safetensors", config, statistics, config.data.s2_bands)


def test_files_that_are_not_of_one_run(four, tmp_path):
    (tmp_path / "config.json").write_bytes((four / "run" / "config.json").read_bytes())
    statistics = Statistics.read(four / "run" / "statistics.json")
    nine = dataclasses.replace(statistics, label_pixels=(1,) * 9, classes=bands.DYNAMIC_WORLD)
    (tmp_path / "statistics.json").write_text(json.dumps(nine.to_dict()))
    with pytest.raises(ValueError, match=r"the network of config.json has 4 classes, statistics.json 9"):
        load_trained(tmp_path)


@pytest.mark.parametrize("classes", [many(2), many(64)], ids=len)
def test_two_classes_and_sixty_four(classes, tmp_path):
    dataset_of(tmp_path, classes)
    loop.train(own_config(tmp_path, "train.steps=1", "data.test_split="), tmp_path / "run")
    (line,) = (line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if '"eval"' in line)
    figures = json.loads(line)
    assert figures["classes"] == list(classes.names) and len(figures["confusion_matrix"]) == len(classes)
    assert load_trained(tmp_path / "run").classes == classes
