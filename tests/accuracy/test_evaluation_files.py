"""A score of another data set, checkpoint or split never takes the place of the run's own, and what is read belongs together."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import write_folder
from scored_tiles import tally_of, tiles

from specsar_jax import evaluate, export, report
from specsar_jax.accuracy import evaluation_files
from specsar_jax.accuracy.comparison import read_workdir
from specsar_jax.accuracy.evaluation_files import Files, files_of
from specsar_jax.accuracy.tally import Tally
from specsar_jax.trained.run_files import saved_steps
from tfds_dwplus import DynamicWorldPlusConfig
from tfds_dwplus.files.outputs import hidden_name
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles.prepared import open_dataset


@pytest.fixture(scope="module")
def scored(small_run, tmp_path_factory) -> Path:
    """A copy of the run of `small_run`, whose best checkpoint is made to be not the latest. To be read only."""
    workdir = tmp_path_factory.mktemp("scored") / "run"
    shutil.copytree(small_run / "run", workdir)
    for step in saved_steps(workdir):
        score = 0.9 if step == saved_steps(workdir)[0] else 0.1
        (workdir / "checkpoints" / str(step) / "metrics" / "metrics").write_text(json.dumps({"score": score}))
    evaluate.main(["--workdir", str(workdir)])
    return workdir


@pytest.fixture
def run(scored, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(scored, tmp_path / "run"))


def other_data(folder: Path, name: str, unit: str = "", tiles: int = 1) -> Path:
    """A data set of a few tiles, and one to train on; returns the folder of data sets."""
    table = write_folder(folder / f"tiles_{name}", {"train": 1, "test": tiles}) / "tiles.csv"
    if unit:
        head, *rows = table.read_text().splitlines()
        table.write_text("\n".join([f"{head},s1_unit", *(f"{row},{unit}" for row in rows)]) + "\n")
    prepare(DynamicWorldPlusConfig(name=name, tiles=table.parent, tile_size_px=64), folder / "data")
    return folder / "data"


def own(workdir: Path) -> list[bytes]:
    return [path.read_bytes() for path in files_of(workdir, "test")]


def error_of(main, *arguments: object) -> str:
    with pytest.raises(ValueError) as caught:
        main([*map(str, arguments)])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["other", "mine"])
def test_a_score_of_another_data_set_has_files_of_its_own(run, small_run, tmp_path, capsys, name):
    """Also of one that has the same name, in another folder; a copy of the run's own is its own."""
    before, data = own(run), other_data(tmp_path, name)
    evaluate.main(["--workdir", str(run), "--data_dir", str(data), "--dataset", name])
    written = files_of(run, "test", name, "best")
    assert (
        written.figures.name == f"evaluation_test-{name}-best.json" and str(written.figures) in capsys.readouterr().out
    )
    assert json.loads(written.figures.read_text())["tiles"] == len(Tally.read(written.tiles)) == 1
    assert own(run) == before
    shutil.copytree(small_run / "data", tmp_path / "copy")
    evaluate.main(["--workdir", str(run), "--data_dir", str(tmp_path / "copy")])
    assert own(run) == before and "evaluation_test" not in capsys.readouterr().out
    # Readers take the one that was asked for.
    assert len(read_workdir(run, "test", open_dataset(data, name)).tally) == 1
    assert len(read_workdir(run, "test", open_dataset(small_run / "data", "mine")).tally) == 2
    third = other_data(tmp_path / "third", name, tiles=2)
    with pytest.raises(ValueError, match=r"-best\.json is of other data than .*third.* holds; run python -m"):
        read_workdir(run, "test", open_dataset(third, name))


def test_a_score_of_another_checkpoint_has_files_of_its_own(run):
    first, *_, latest = saved_steps(run)
    before = own(run)
    assert first != latest and json.loads(before[0])["step"] == first
    evaluate.main(["--workdir", str(run), "--checkpoint", "latest"])
    assert json.loads(files_of(run, "test", "mine", "latest").figures.read_text())["step"] == latest
    assert own(run) == before


def test_a_bundle_keeps_its_own_score(run, tmp_path):
    bundle = tmp_path / "b.safetensors"
    export.main(["--workdir", str(run), "--format", "safetensors", "--output", str(bundle)])
    evaluate.main(["--workdir", str(bundle)])
    before = own(bundle)
    evaluate.main(["--workdir", str(bundle), "--data_dir", str(other_data(tmp_path, "other")), "--dataset", "other"])
    assert own(bundle) == before and (tmp_path / "b.evaluation_test-other.json").is_file()
    # Another network of this name and step: the old score is not its own.
    figures = json.loads(before[0])
    files_of(bundle, "test").figures.write_text(json.dumps(figures | {"weights_sha256": "0" * 64}))
    with pytest.raises(
        ValueError, match=r"b\.evaluation_test\.json is of other weights than those of .*b\.safetensors; run"
    ):
        read_workdir(bundle, "test", open_dataset(figures_folder(run), "mine"))
    card = tmp_path / "again"
    export.main(["--workdir", str(bundle), "--format", "folder", "--output", str(card)])
    told = (card / "README.md").read_text()
    assert "Split `test` of `dynamic_world_plus/other/1.0.0`" in told and "dynamic_world_plus/mine/" not in told


def figures_folder(workdir: Path) -> str:
    return json.loads((workdir / "config.json").read_text())["data"]["data_dir"]


def test_another_split_of_the_same_file_name_is_not_written_over(run):
    evaluate.main(["--workdir", str(run), "--split", "train[:5%]+test"])
    line = error_of(evaluate.main, "--workdir", run, "--split", "train[-5:]+test")
    assert "evaluation_train__5___test.json is of split 'train[:5%]+test', whose file has the same name" in line


def test_sums_of_another_evaluation_are_refused(run, small_run, tmp_path):
    """Of as many pixels, which the figures alone do not tell."""
    files = files_of(run, "test")
    tally = Tally.read(files.tiles)
    assert json.loads(files.figures.read_text())["tiles_sha256"] == tally.sha256
    dataclasses.replace(tally, confusion=tally.confusion[:, :, ::-1]).write(files.tiles)
    said = "evaluation_test.json and tiles_test.npz are not of one evaluation (the sums are not those"
    assert said in error_of(report.main, "--workdir", run)
    with pytest.raises(ValueError, match=r"are not of one evaluation"):
        read_workdir(run, "test", open_dataset(small_run / "data", "mine"))
    # Evaluations made before name no digest.
    figures = json.loads(files.figures.read_text())
    files.figures.write_text(json.dumps({key: x for key, x in figures.items() if not key.endswith("sha256")}))
    report.main(["--workdir", str(run), "--tiles", "0", "--output", str(tmp_path / "old.html")])


def test_a_report_of_another_data_set_is_asked_for_by_name(run, tmp_path):
    files, data = files_of(run, "test"), other_data(tmp_path, "other")
    assert "evaluate --workdir" in error_of(report.main, "--workdir", run, "--data_dir", data, "--dataset", "other")
    evaluate.main(["--workdir", str(run), "--data_dir", str(data), "--dataset", "other"])
    asked = ["--workdir", str(run), "--data_dir", str(data), "--dataset", "other", "--tiles", "0"]
    report.main([*asked, "--output", str(tmp_path / "x.html")])
    assert "dynamic_world_plus/other/1.0.0" in (tmp_path / "x.html").read_text()
    # As evaluate wrote it before: the other data set's score under the name of the run's own.
    files_of(run, "test", "other", "best").figures.replace(files.figures)
    said = (
        f"{files.figures} is of data set other, not mine; write it again with python -m specsar_jax.evaluate --workdir"
    )
    assert said in error_of(report.main, "--workdir", run)


def test_the_digest_is_of_what_the_arrays_hold_wherever_they_lie(tmp_path):
    tally = tally_of(*tiles())
    tally.write(tmp_path / "t.npz")
    assert Tally.read(tmp_path / "t.npz").sha256 == tally.sha256
    others = [
        dataclasses.replace(tally, mapped=tally.mapped + 1),
        dataclasses.replace(tally, columns={"biome": np.zeros(3)}),
        dataclasses.replace(tally, brier=None),
        tally.choose(np.array([1, 0, 2])),
    ]
    assert len({tally.sha256, *(other.sha256 for other in others)}) == 5


def test_backscatter_of_another_kind_is_told(run, tmp_path, capsys):
    """The run learnt sigma0."""
    data = other_data(tmp_path, "gamma", "gamma0 dB")
    evaluate.main(["--workdir", str(run)])
    assert "sigma0" not in capsys.readouterr().err
    evaluate.main(["--workdir", str(run), "--data_dir", str(data), "--dataset", "gamma"])
    assert "note: Sentinel-1 is gamma0, but the network was trained on sigma0" in capsys.readouterr().err


def test_the_best_step_is_the_later_of_two_alike(tmp_path):
    for step, score in ((2, 0.5), (4, 0.5), (6, 0.25), (8, float("nan"))):
        (tmp_path / "checkpoints" / str(step) / "metrics").mkdir(parents=True)
        (tmp_path / "checkpoints" / str(step) / "metrics" / "metrics").write_text(json.dumps({"score": score}))
    assert evaluation_files.best_step(tmp_path) == 4
    assert evaluation_files.best_step(tmp_path / "nothing") is None


def test_the_same_tally_is_the_same_bytes_in_whatever_order_its_columns_come(scored):
    tally = Tally.read(scored / "tiles_test.npz")
    turned = dataclasses.replace(tally, columns=dict(reversed(tally.columns.items())))
    assert len(tally.columns) > 1 and turned.to_bytes() == tally.to_bytes() == (scored / "tiles_test.npz").read_bytes()


def test_what_a_killed_process_left_goes(tmp_path):
    files, tally = Files(tmp_path / "e.json", tmp_path / "e.npz"), tally_of(*tiles())
    left = [tmp_path / hidden_name(path.name, f".{'0' * 16}.partial") for path in files]
    for path in left:
        path.touch()
    evaluation_files.write(files, {}, tally)
    assert files.tiles.exists() and not [path for path in left if path.exists()]
