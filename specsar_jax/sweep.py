r"""Command: trains a grid of settings, or the paper's ablations, with several seeds; writes a table of mean and spread.

    python -m specsar_jax.sweep --config configs/quickstart.py --workdir runs/sweep --seeds 0,1,2 \
        --over model=specsar_former,tiny --over optimizer.learning_rate=1e-4,5e-4
    python -m specsar_jax.sweep --config configs/ben_mini.py --workdir runs/ablations --seeds 0,1,2 --ablations

Each run is a `specsar_jax.train` in WORKDIR/SETTING/seed_N, with seed_N.log beside it; a run that fails does not stop the others.
After each run, WORKDIR/table.md (percent) and table.csv (fractions) are rewritten. Started again, the sweep does unfinished runs.
A run whose evaluation is not of its own data set and best checkpoint, or of other data than that of the others, is left out and named.
"""

import csv
import hashlib
import io
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from specsar_jax import config as configs
from specsar_jax.accuracy.evaluation_files import again, best_step, other_than, read_figures
from specsar_jax.batches.preprocess import Statistics
from specsar_jax.config import Config
from specsar_jax.config.files import config_file
from specsar_jax.trained.run_files import checkpoint_folder, log_event, read_config, saved_steps, split_file
from specsar_jax.training.stopping import out_of_patience
from tfds_dwplus.command_line import Parser, path, progress, run
from tfds_dwplus.files import buckets
from tfds_dwplus.files.outputs import locked, open_log, remove_partials, write_whole

ABLATIONS = ("specsar_former", "spectral_only", "sar_only", "no_dmem", "no_mmam", "equal_split", "early_fusion")
"""Rows of the paper's tables, as presets; their differences are applied to the network of the config."""

COLUMNS = ("mean_iou", "overall_accuracy", "macro_f1", "validation")
"""Keys of `evaluation_<split>.json`; the last one is the score of the same checkpoint on the validation split."""

NOT_IN_THE_NAME = ("data.read_threads", "mesh.data", "train.profile_steps")
"""Settings that do not change the result, and so do not stand in the name of a folder."""

HEADINGS = ("setting", "seeds", "mIoU", "overall accuracy", "macro F1", "validation", "state")


class Run(NamedTuple):
    """A run of the sweep: setting, seed, config, flags for `specsar_jax.train`, workdir, and the file written at its end."""

    setting: str
    seed: int
    config: Config
    flags: tuple[str, ...]
    workdir: Path
    evaluation: Path


def main(argv: list[str]) -> None:
    """Parses the arguments, trains the unfinished runs and prints the table."""
    parser = Parser(
        "Trains a grid of settings with several seeds. --config.section.field=value applies to all runs.",
        "python -m specsar_jax.sweep --config configs/quickstart.py --workdir runs/sweep --ablations --seeds 0,1,2",
    )
    parser.add_argument(
        "--config",
        type=config_file,
        action="append",
        required=True,
        help="config file, or the name of one of configs/; repeat for more rows",
    )
    parser.add_argument("--workdir", type=path, required=True, help="folder for the table and a folder of each setting")
    parser.add_argument("--over", action="append", default=[], metavar="FIELD=A,B", help="values of a section.field")
    parser.add_argument("--ablations", action="store_true", help="the paper's ablations of the config's network")
    parser.add_argument("--seeds", default="0", help="values of train.seed, separated by commas")
    parser.add_argument("--together", type=int, default=1, help="runs at a time, each on its own GPU or TPU chip")
    args, rest = parser.parse_known_args(argv)
    if unknown := [flag for flag in rest if not re.match(r"--config\.[^=]+=", flag)]:
        parser.error(f"unknown argument {unknown[0]}; a setting is given as --config.section.field=value")
    checkpoint_folder(args.workdir)  # raises where none could be kept
    fixed, over = [flag.removeprefix("--config.") for flag in rest], [f"train.seed={args.seeds}", *args.over]
    runs = grid(args.config, fixed, over, args.ablations, args.workdir)
    args.workdir.mkdir(parents=True, exist_ok=True)
    with locked(args.workdir / ".lock", args.workdir, advice="wait for it, or give another --workdir"):
        remove_partials(args.workdir)
        sweep(runs, args.workdir, args.together)


def grid(files: list[Path], fixed: list[str], over: list[str], ablations: bool, workdir: Path) -> list[Run]:
    """Returns a run for each combination of the values in `over` ('section.field=a,b', 'model=a,b'), configs and ablations.

    Raises:
        ValueError: as `configs.override`; a field is given twice; there is no test split; two runs are the same.
    """
    swept = [values_of(text) for text in over]
    fields = [field for field, _ in swept] + list({text.partition("=")[0] for text in fixed})
    if twice := [field for field in fields if fields.count(field) > 1]:
        raise ValueError(f"{twice[0]} is given twice; give it once, by --over or --config.{twice[0]}= (seeds: --seeds)")
    axes = [[f"{field}={value}" for value in values] for field, values in swept]
    bases = {file: configs.load(file) for file in files}
    runs: list[Run] = []
    for *chosen, file, ablation in itertools.product(*axes, bases, ABLATIONS if ablations else [""]):
        # A preset replaces the whole network, so it is applied before single fields.
        changes = sorted([*fixed, *chosen], key=lambda text: not text.startswith("model=")) + ablation_changes(ablation)
        config = configs.override(bases[file], changes)
        name = ",".join(part for part in (file.stem, *chosen, ablation) if part and not part.startswith("train.seed="))
        seed, split = config.train.seed, config.data.test_split
        if not split:
            raise ValueError("data.test_split is '', but it is what runs are compared on; 'validation' spares the test")
        if same := [other.setting for other in runs if config == other.config or (name, seed) == other[:2]]:
            raise ValueError(
                f"{same[0]} and {name}, seed {seed}, are the same run, or their config files have one name"
            )
        # The digest at the end of the folder's name stands for all settings, also those that the name does not show.
        own = [x for x in configs.differences(Config(), config) if not x.startswith(("train.seed:", *NOT_IN_THE_NAME))]
        readable, digest = re.sub(r"[^\w.=,+-]", "_", name)[:100], hashlib.sha256(repr(own).encode()).hexdigest()[:8]
        place = workdir / f"{readable}-{digest}" / f"seed_{seed}"
        flags = ("--config", str(file), *(f"--config.{text}" for text in changes), "--workdir", buckets.given(place))
        runs.append(Run(name, seed, config, flags, place, place / split_file("evaluation", split, "json")))
    return runs


def values_of(text: str) -> tuple[str, list[str]]:
    """Splits field and values: 'a.b=1,(2,3)' -> ('a.b', ['1', '(2,3)']). Raises ValueError if the text has another form."""
    value = r"""(?:\([^()]*\)|\[[^][]*\]|'[^']*'|"[^"]*"|[^],()['"])*"""
    if not re.fullmatch(f"[^=,]+={value}(,{value})*", text):
        raise ValueError(f"--over {text} is not of the form --over section.field=value,value; are its brackets closed?")
    field, _, values = text.partition("=")
    return field, [found.strip() for found in re.findall(f"(?:^|,)({value})", values)]


def ablation_changes(name: str) -> list[str]:
    """Returns the assignments that turn a network into this ablation: where its preset differs from 'specsar_former'."""
    full, other = (vars(configs.PRESETS[preset]) for preset in ("specsar_former", name or "specsar_former"))
    return [f"model.{field}={other[field]}" for field in full if other[field] != full[field]]


def sweep(runs: Sequence[Run], workdir: Path, together: int = 1) -> None:
    """Trains the unfinished runs, `together` at a time, and prints the table.

    Raises:
        ValueError: there are fewer devices than `together`; or runs failed, or their evaluations do not belong into one table (raised
            after all others are done).
        SystemExit: 130 or 143 after Ctrl-C or SIGTERM, when all runs have saved and ended.
    """
    free = devices(together)
    waiting, running, failed = [trial for trial in runs if not ended(trial)], [], {}
    signals, passed_on = [], 0
    stops = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: signals.append(number)) for number in stops}
    bar = progress(total=len(runs), initial=len(runs) - len(waiting), desc="sweep", unit="run")
    try:
        while running or (waiting and not signals):
            # The first run may simulate the data set; once its workdir exists, it has, and the others may start.
            ready = not running or any(trial.workdir.exists() for trial, *_ in running)
            if waiting and free and ready and not signals:
                trial, device = waiting.pop(0), free.pop(0)
                running.append((trial, device, _start(trial, device)))
                bar.set_postfix_str("; ".join(f"{trial.setting} {trial.workdir.name}" for trial, *_ in running))
            for number in signals[passed_on:]:
                passed_on += 1
                for *_, process in running:
                    process.send_signal(number)
            time.sleep(0.1)
            for trial, device, process in [entry for entry in running if entry[-1].poll() is not None]:
                running.remove((trial, device, process))
                free.append(device)
                buckets.fetch(trial.workdir)  # where it has sent what it made
                done = process.returncode == 0 and trial.evaluation.exists()
                if not done and not signals:
                    failed[trial] = _reason(trial, process.returncode)
                    bar.write(f"{trial.setting} {failed[trial]}")
                bar.update(done)
                write_table(runs, failed, workdir)
    finally:
        for end in (subprocess.Popen.terminate, subprocess.Popen.wait):
            for *_, process in running:
                end(process)
        for number, handler in before.items():
            signal.signal(number, handler)
        bar.close()
    print(write_table(runs, failed, workdir), end="")
    if signals:
        print(f"stopped; the same command goes on from here on {workdir}", file=sys.stderr)
        sys.exit(128 + signals[0])
    if failed:
        raise ValueError(f"{len(failed)} of {len(runs)} runs failed, see {workdir}/table.md; start again to try again")
    if mixed := mixtures(runs):
        raise ValueError(
            f"{len(mixed)} of {len(runs)} runs are left out of {workdir}/table.md: {next(iter(mixed.values()))}"
        )


def ended(trial: Run) -> bool:
    """Returns whether a run came to its end and was evaluated: an evaluation alone may be one by hand, of a run that was stopped."""
    if not trial.evaluation.exists():
        return False
    train, steps = read_config(trial.workdir).train, saved_steps(trial.workdir)
    if not steps or steps[-1] >= train.steps:  # without checkpoints it cannot go on
        return True
    return bool(train.patience) and out_of_patience(_validations(trial), train)


def mixtures(runs: Sequence[Run]) -> dict[Run, str]:
    """Returns what is wrong with the evaluations that do not belong into the table: of another data set, split or checkpoint than
    the run's own, or of data that were made again after other runs of the table had been evaluated on them.
    """
    found: dict[Run, str] = {}
    firsts: dict[tuple[str, str, str], tuple[Run, dict[str, Any]]] = {}
    for trial in filter(ended, runs):
        data, figures = read_config(trial.workdir).data, read_figures(trial.evaluation)
        if other := other_than(figures, dataset=data.name, split=data.test_split, step=best_step(trial.workdir)):
            found[trial] = f"{trial.evaluation} is {other}; write it again: {again(trial.workdir, data.test_split)}"
            continue
        pixels = sum(Statistics.read(trial.workdir / "statistics.json").label_pixels)
        judged = {"data set": figures["dataset"], "tiles": figures["tiles"], "labelled pixels to train on": pixels}
        judged |= {"digest of the data": figures["data_sha256"]} if "data_sha256" in figures else {}
        first, of_first = firsts.setdefault((data.data_dir, data.name, data.test_split), (trial, judged))
        both = [key for key in judged if key in of_first]
        differ = [f"{key} {judged[key]}, not {of_first[key]}" for key in both if judged[key] != of_first[key]]
        if differ:
            found[trial] = (
                f"{trial.workdir} is of other data than {first.workdir} ({', '.join(differ)}); remove the older"
            )
    return found


def devices(together: int) -> list[dict[str, str]]:
    """Returns environment variables for `together` runs that give each its own GPU or TPU chip; empty ones on CPUs."""
    nvidia, accel, vfio = (len(list(Path("/dev").glob(name + "[0-9]*"))) for name in ("nvidia", "accel", "vfio/"))
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(nvidia))))
    alone = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    found = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus.split(",") if gpu]
    found = found or [alone | {"TPU_VISIBLE_CHIPS": str(chip)} for chip in range(accel or vfio)]
    if together == 1 or not found or os.environ.get("JAX_PLATFORMS") == "cpu":
        found = [{} for _ in range(together)]
    if not 1 <= together <= len(found):
        raise ValueError(f"--together {together}, but each run takes one GPU or TPU chip, and there are {len(found)}")
    return found[:together]


def write_table(runs: Sequence[Run], failed: Mapping[Run, str], workdir: Path) -> str:
    """Writes table.csv and table.md, one row per setting; returns the latter. Spread is the sample standard deviation."""
    mixed = mixtures(runs)
    rows: list[dict[str, Any]] = []
    table = [HEADINGS, ["---"] * len(HEADINGS)]
    for setting in dict.fromkeys(trial.setting for trial in runs):
        own = [trial for trial in runs if trial.setting == setting]
        data, train = own[0].config.data, own[0].config.train
        score = "mean_iou" if train.best_by == "loss" else train.best_by  # a loss is not a percentage
        done = [_figures(trial, score) for trial in own if ended(trial) and trial not in mixed]
        row = {"setting": setting, "dataset": data.name, "split": data.test_split, "steps": _steps(own)}
        row |= {"score": score, "seeds": len(own), "done": len(done)}
        for key in COLUMNS:
            values = [figures[key] for figures in done if figures[key] is not None]
            row |= {key: float(np.mean(values)) if values else "-"}
            row |= {f"{key}_sd": float(np.std(values, ddof=1)) if len(values) > 1 else "-"}
        reasons = "; ".join(of[trial] for trial in own for of in (failed, mixed) if trial in of)
        rows.append(row | {"state": reasons or ("done" if len(done) == len(own) else "unfinished")})
        pairs = [(row[key], row[f"{key}_sd"]) for key in COLUMNS]
        cells = [" ± ".join(value if value == "-" else f"{100 * value:.1f}" for value in pair) for pair in pairs]
        table.append([setting, f"{len(done)} of {len(own)}", *cells, rows[-1]["state"]])
    named = [", ".join({str(row[key]): "" for row in rows}) for key in ("dataset", "split", "steps", "score")]
    text = "Data set {}, split {}, {} steps. Percent, mean ± spread over seeds; validation: {}.\n\n".format(*named)
    text += "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n" for cells in table)
    workdir.mkdir(parents=True, exist_ok=True)
    table_csv = io.StringIO(newline="")
    csv.writer(table_csv, lineterminator="\n").writerows([list(rows[0]), *(row.values() for row in rows)])
    write_whole(workdir / "table.csv", table_csv.getvalue())
    write_whole(workdir / "table.md", text)
    return text


def _steps(of_a_setting: Sequence[Run]) -> int | str:
    """Returns the steps of the runs of a setting; where epochs are given, they are known once a run has found its data set."""
    train = of_a_setting[0].config.train
    known = [read_config(trial.workdir).train.steps for trial in of_a_setting if ended(trial)]
    return train.steps if not train.epochs else known[0] if known else "-"


def _figures(trial: Run, score: str) -> dict[str, Any]:
    tested = read_figures(trial.evaluation)
    chosen = [event[score] for event in _validations(trial) if event["step"] == tested["step"]]
    return tested | {"validation": chosen[-1] if chosen else None}


def _validations(trial: Run) -> list[dict[str, Any]]:
    """Returns the evaluations of a run's log, oldest first."""
    events = filter(None, map(log_event, (trial.workdir / "metrics.jsonl").read_text().splitlines()))
    return [event for event in events if event["kind"] == "eval"]


def _start(trial: Run, device: Mapping[str, str]) -> subprocess.Popen:
    """Starts a run in its own process group, so that Ctrl-C reaches it once, from the sweep, not from the terminal too."""
    trial.workdir.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "specsar_jax.train", *trial.flags]
    with os.fdopen(open_log(trial.workdir.with_suffix(".log")), "w") as log:
        return subprocess.Popen(command, env=os.environ | device, stdout=log, stderr=log, process_group=0)


def _reason(trial: Run, status: int) -> str:
    """Returns the error line of a run that failed, or the last line of its log if there is none."""
    log = trial.workdir.with_suffix(".log")
    text = log.read_text(errors="replace").strip()
    line = (re.findall(r"^error: (.+)", text, re.MULTILINE) or re.split(r"[\r\n]+", text))[-1]
    return f"{trial.workdir.name} failed: {line} (exit status {status}, {log})"


if __name__ == "__main__":
    run(main)
