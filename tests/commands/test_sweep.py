"""Sweeps: what a command line means, and four small runs into one table that numpy agrees with."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, command, refused, small_flags

from specsar_jax import config as configs
from specsar_jax import sweep
from specsar_jax.config import Config

QUICKSTART = REPOSITORY / "configs" / "quickstart.py"


def arguments(folder: Path, workdir: Path, *more: str) -> list[str]:
    """Of a sweep over runs of two steps; later flags win."""
    return [
        "--config",
        str(QUICKSTART),
        "--workdir",
        str(workdir),
        *small_flags(folder),
        "--config.train.steps=2",
        *more,
    ]


def grid(*over, fixed=(), ablations=False, files=(QUICKSTART,), seeds="0"):
    return sweep.grid(list(files), list(fixed), [f"train.seed={seeds}", *over], ablations, Path("w"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model=specsar_former,tiny", ["specsar_former", "tiny"]),
        ("a.b=1e-4, 5e-4", ["1e-4", "5e-4"]),
        ("model.widths=(8,16),(16,32)", ["(8,16)", "(16,32)"]),
        ("data.s2_bands=('B2','B3'),[\"B4\",'B8'],()", ["('B2','B3')", "[\"B4\",'B8']", "()"]),
        ("train.finetune='a,b',runs/c=d", ["'a,b'", "runs/c=d"]),
        ("train.finetune=,runs/a", ["", "runs/a"]),
    ],
)
def test_commas_in_brackets_and_quotes_stay(text, expected):
    assert sweep.values_of(text) == (text.partition("=")[0], expected)


@pytest.mark.parametrize("text", ["model", "=1,2", "a.b=(1,2", "a.b=1)", "a.b='x,y", "a.b=[1,2),3"])
def test_other_forms_are_refused(text):
    with pytest.raises(ValueError, match=r"section\.field=value"):
        sweep.values_of(text)


def test_a_grid_is_every_combination_and_train_is_told_exactly_of_it():
    runs = grid(
        "model=specsar_former,tiny", "optimizer.learning_rate=1e-4,5e-4", fixed=["model.dropout=0.1"], seeds="0,7"
    )
    assert len(runs) == 8 and len({one.workdir for one in runs}) == 8 and len({one.config for one in runs}) == 8
    assert [one.setting for one in runs[:2]] == [
        "quickstart,model=specsar_former,optimizer.learning_rate=1e-4",
        "quickstart,model=specsar_former,optimizer.learning_rate=5e-4",
    ]
    for one in runs:
        file, workdir = (one.flags[one.flags.index(name) + 1] for name in ("--config", "--workdir"))
        told = [flag.removeprefix("--config.") for flag in one.flags if flag.startswith("--config.")]
        assert configs.override(configs.load(Path(file)), told) == one.config
        assert workdir == str(one.workdir)
        assert one.config.model.dropout == 0.1  # the preset does not undo what holds for all
    last = runs[-1].config
    assert last.model == configs.model_preset("tiny", dropout=0.1)
    assert (last.optimizer.learning_rate, last.train.seed) == (5e-4, 7)


def test_folders_tell_settings_apart_and_forget_what_does_not_matter():
    (one,), (other,), (same,) = grid(), grid(fixed=["train.steps=7"]), grid(fixed=["data.read_threads=5"])
    assert one.workdir != other.workdir and one.workdir == same.workdir
    (odd,) = grid("model.widths=(8, 16, 24, 32)")
    assert set(odd.workdir.parent.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.=,-")
    assert len({one.workdir.parent for one in grid("train.steps=5", seeds="0,1,2")}) == 1


@pytest.mark.parametrize("preset", ["specsar_former", "tiny"])
def test_ablations_are_the_presets_in_the_sizes_of_the_config(preset):
    runs = grid(fixed=[f"model={preset}"], ablations=True)
    assert [one.setting for one in runs] == [f"quickstart,{name}" for name in sweep.ABLATIONS]
    base = runs[0].config.model
    assert base == configs.PRESETS[preset]
    found = [configs.differences(Config(model=base), Config(model=one.config.model)) for one in runs]
    assert found == [
        [],
        ["model.branches: 'both', 'spectral'"],
        ["model.branches: 'both', 'sar'"],
        ["model.cross_attention: True, False"],
        ["model.channel_reweighting: True, False"],
        ["model.spectral_share: 0.75, 0.5"],
        ["model.branches: 'both', 'stacked'"],
    ]


@pytest.mark.parametrize(
    ("over", "fixed", "message"),
    [
        (["optimizer.learning_rat=1,2"], [], "did you mean 'learning_rate'"),
        (["model=specsar_former,tinny"], [], "did you mean 'tiny'"),
        (["train.steps=1,fast"], [], "expected int"),
        (["train.seed=1,2"], [], "train.seed is given twice"),
        ([], ["train.seed=1"], "train.seed is given twice"),
        (["train.steps=1,2"], ["train.steps=3"], "train.steps is given twice"),
        (["train.steps=1,2", "train.steps=3"], [], "train.steps is given twice"),
        (["optimizer.learning_rate=1e-4,0.0001"], [], "are the same run"),
        ([], ["data.test_split="], "test_split"),
    ],
)
def test_a_wrong_grid_is_refused_as_a_whole(over, fixed, message):
    with pytest.raises(ValueError, match=message):
        grid(*over, fixed=fixed)


def test_config_files_are_rows_and_must_have_names_of_their_own(tmp_path):
    other = tmp_path / "other.py"
    other.write_text(
        QUICKSTART.read_text() + "\n\nbase = get_config\n\n\ndef get_config():\n"
        "    import dataclasses\n    return dataclasses.replace(base(), predict=type(base().predict)(overlap=0.5))\n"
    )
    assert [one.setting for one in grid("train.steps=5,6", files=(QUICKSTART, other))] == [
        "quickstart,train.steps=5", "other,train.steps=5", "quickstart,train.steps=6", "other,train.steps=6",
    ]  # fmt: skip
    namesake = other.rename(tmp_path / "quickstart.py")
    with pytest.raises(ValueError, match="config files have one name"):
        grid(files=(QUICKSTART, namesake))


def test_each_run_at_a_time_gets_a_device_of_its_own(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert sweep.devices(2) == [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    assert sweep.devices(1) == [{}]
    with pytest.raises(ValueError, match="there are 2"):
        sweep.devices(3)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert sweep.devices(3) == [{}, {}, {}]
    with pytest.raises(ValueError, match="--together 0"):
        sweep.devices(0)


def rows_of(workdir: Path) -> list[dict[str, str]]:
    with (workdir / "table.csv").open() as file:
        return list(csv.DictReader(file))


def check_against_numpy(runs: list[sweep.Run], row: dict[str, str], text: str) -> None:
    """The row of a setting, and its line in table.md, against the files of its runs."""
    figures = [json.loads(one.evaluation.read_text()) for one in runs]
    shown = []
    for key in ("mean_iou", "overall_accuracy", "macro_f1"):
        values = [each[key] for each in figures]
        np.testing.assert_allclose(float(row[key]), np.mean(values), rtol=1e-12)
        np.testing.assert_allclose(float(row[f"{key}_sd"]), np.std(values, ddof=1), rtol=1e-12)
        shown.append(f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}")
    best = []
    for one in runs:
        looks = map(json.loads, (one.workdir / "metrics.jsonl").read_text().splitlines())
        best.append(max(look["mean_iou"] for look in looks if look["kind"] == "eval"))
    np.testing.assert_allclose(float(row["validation"]), np.mean(best), rtol=1e-12)
    assert f"| {row['setting']} | {len(runs)} of {len(runs)} | {' | '.join(shown)} | " in text


def test_finished_runs_stay_and_one_that_fails_is_named(small_run, tmp_path):
    """The first setting is there, from `small_run` with other figures a seed; the second asks for a band that is not."""
    over, fixed = "data.s2_bands=(),('B2','B99')", [flag.removeprefix("--config.") for flag in small_flags(small_run)]
    runs = sweep.grid([QUICKSTART], [*fixed, "train.steps=2"], ["train.seed=0,1", over], False, tmp_path)
    finished = [one for one in runs if not one.config.data.s2_bands]
    for one in finished:
        shutil.copytree(small_run / "run", one.workdir)
        figures = json.loads(one.evaluation.read_text())
        figures |= {"mean_iou": 0.3 + 0.1 * one.seed, "macro_f1": 0.25}
        one.evaluation.write_text(json.dumps(figures))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("seed_*/*")}
    result = command(
        "specsar_jax.sweep", *arguments(small_run, tmp_path, "--over", over, "--seeds", "0,1"), cwd=tmp_path
    )
    assert "2 of 4 runs failed" in refused(result)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("seed_*/*")} == before
    good, bad = rows_of(tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert text in result.stdout and text.startswith("Data set mine, split test, 2 steps.")
    check_against_numpy(finished, good, text)
    assert (good["mean_iou"], good["macro_f1_sd"], good["state"]) == ("0.35", "0.0", "done")
    assert bad["done"] == "0" and bad["mean_iou"] == bad["mean_iou_sd"] == "-"
    assert "seed_0 failed: " in bad["state"] and "seed_1 failed: " in bad["state"] and "B99" in bad["state"]


def test_one_seed_has_no_deviation(small_run, tmp_path):
    (one,) = grid()
    one = one._replace(workdir=small_run / "run", evaluation=small_run / "run" / "evaluation_test.json")
    text = sweep.write_table([one], {}, tmp_path)
    (row,) = rows_of(tmp_path)
    assert float(row["mean_iou"]) == json.loads(one.evaluation.read_text())["mean_iou"] and row["mean_iou_sd"] == "-"
    assert f"| 1 of 1 | {100 * float(row['mean_iou']):.1f} ± - |" in text


def copies(small_run: Path, folder: Path, seeds: int) -> list[sweep.Run]:
    """A sweep of finished runs: copies of `small_run`."""
    fixed = [flag.removeprefix("--config.") for flag in small_flags(small_run)]
    runs = sweep.grid([QUICKSTART], fixed, [f"train.seed={','.join(map(str, range(seeds)))}"], False, folder)
    for one in runs:
        shutil.copytree(small_run / "run", one.workdir)
    return runs


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dataset": "dynamic_world_plus/other/1.0.0"}, "is of data set other, not mine"),
        ({"split": "validation"}, "is of split 'validation', not 'test'"),
        ({"step": 1}, "is of step 1, but the best checkpoint is of step"),
        ({"tiles": 7}, "is of other data than"),
    ],
)
def test_the_score_of_something_else_is_left_out_and_named(small_run, tmp_path, change, told):
    runs = copies(small_run, tmp_path, 3)
    figures = json.loads(runs[1].evaluation.read_text())
    runs[1].evaluation.write_text(json.dumps(figures | {"mean_iou": 0.99} | change))
    with pytest.raises(ValueError, match=r"1 of 3 runs are left out of .*table\.md: ") as caught:
        sweep.sweep(runs, tmp_path)
    assert told in str(caught.value) and str(runs[1].workdir) in str(caught.value)
    (row,) = rows_of(tmp_path)
    assert row["done"] == "2" and told in row["state"]
    np.testing.assert_allclose(float(row["mean_iou"]), figures["mean_iou"], rtol=1e-12)


def test_an_evaluation_by_hand_of_a_run_that_was_stopped_does_not_end_it(small_run, tmp_path):
    """It goes on at the next call, for its latest checkpoint is before its last step."""
    (one,) = copies(small_run, tmp_path, 1)
    assert sweep.ended(one)
    config = json.loads((one.workdir / "config.json").read_text())
    config["train"]["steps"] = 8
    (one.workdir / "config.json").write_text(json.dumps(config))
    assert not sweep.ended(one) and "| 0 of 1 |" in sweep.write_table([one], {}, tmp_path)
    shutil.rmtree(one.workdir / "checkpoints")  # to spare the disk: then it cannot go on
    assert sweep.ended(one) and "| 1 of 1 |" in sweep.write_table([one], {}, tmp_path)


@pytest.mark.slow
def test_four_runs_two_at_a_time_make_a_table_and_a_second_call_runs_nothing(small_run, tmp_path):
    over = ("--over", "model.branches=both,spectral", "--seeds", "0,1", "--together", "2")
    first = command("specsar_jax.sweep", *arguments(small_run, tmp_path, *over), cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    fixed = [flag.removeprefix("--config.") for flag in small_flags(small_run)]
    runs = sweep.grid([QUICKSTART], [*fixed, "train.steps=2"], ["train.seed=0,1", over[1]], False, tmp_path)
    rows, text = rows_of(tmp_path), (tmp_path / "table.md").read_text()
    assert len(rows) == 2 and text in first.stdout
    for row in rows:
        check_against_numpy([one for one in runs if one.setting == row["setting"]], row, text)
    for one in runs:
        written = configs.from_dict(json.loads((one.workdir / "config.json").read_text()))
        changed = {text.partition(":")[0] for text in configs.differences(one.config, written)}
        assert changed <= {"data.s2_bands", "data.validation_split"}  # which train takes from the data set

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("seed_*/*")}
    second = command("specsar_jax.sweep", *arguments(small_run, tmp_path, *over), cwd=tmp_path)
    assert second.returncode == 0 and text in second.stdout
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("seed_*/*")} == before


def test_a_typo_starts_nothing(tmp_path):
    result = command(
        "specsar_jax.sweep", "--config", QUICKSTART, "--workdir", "w", "--over", "train.step=1,2", cwd=tmp_path
    )
    assert "did you mean 'steps'" in refused(result) and not (tmp_path / "w").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_the_runs_save_and_it_says_so(small_run, tmp_path, number, code):
    workdir = tmp_path / "sweep"
    endless = ("--config.train.steps=100000", "--config.train.eval_every=100000", "--seeds", "0,1", "--together", "2")
    process = subprocess.Popen(
        [sys.executable, "-m", "specsar_jax.sweep", *arguments(small_run, workdir, *endless)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    deadline = time.monotonic() + 200
    while sum(path.stat().st_size > 0 for path in workdir.glob("*/seed_*/metrics.jsonl")) < 2:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == code, errors
    assert "Traceback" not in errors and "the same command goes on" in errors
    (row,) = rows_of(workdir)
    assert (row["done"], row["state"]) == ("0", "unfinished")
    for seed in (0, 1):
        (log,) = workdir.glob(f"*/seed_{seed}.log")
        assert "stopped at step" in log.read_text()
