r"""Command: trains a grid of settings, or the paper's ablations, over seeds, into one table with mean and spread.

    python -m specsar_jax.sweep --config configs/quickstart.py --workdir runs/sweep --seeds 0,1,2 \
        --over model=specsar_former,tiny --over optimizer.learning_rate=1e-4,5e-4
    python -m specsar_jax.sweep --config configs/ben_mini.py --workdir runs/ablations --seeds 0,1,2 --ablations

A run is a `specsar_jax.train` in WORKDIR/SETTING/seed_N, with seed_N.log beside; one that fails stops no other. After each,
WORKDIR/table.md (per cent) and table.csv (fractions) are new. Started again, the sweep does what is not finished.
"""

import csv
import hashlib
import itertools
import json
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
from specsar_jax.checkpoints import MAY_CHANGE
from specsar_jax.config import Config
from specsar_jax.evaluate import split_file
from tfds_dwplus.command_line import Parser, progress, run, written_whole

ABLATIONS = ("specsar_former", "spectral_only", "sar_only", "no_dmem", "no_mmam", "equal_split", "early_fusion")
"""Rows of the paper's tables: presets, each taken in the sizes of the config."""

COLUMNS = ("mean_iou", "overall_accuracy", "macro_f1", "validation")
"""As `evaluation_<split>.json` calls them; the last is a score of the same checkpoint on the validation split."""

HEADINGS = ("setting", "seeds", "mIoU", "overall accuracy", "macro F1", "validation", "state")


class Run(NamedTuple):
    """A setting with a seed, the flags that tell `specsar_jax.train` of it, and the file that it ends with."""

    setting: str
    seed: int
    config: Config
    flags: tuple[str, ...]
    workdir: Path
    evaluation: Path


def main(argv: list[str]) -> None:
    """Parses the arguments, trains what is to be trained, prints the table."""
    parser = Parser(
        "Trains a grid of settings over seeds. --config.section.field=value holds for all of them.",
        "python -m specsar_jax.sweep --config configs/quickstart.py --workdir runs/sweep --ablations --seeds 0,1,2",
    )
    parser.add_argument("--config", type=Path, action="append", required=True, help="Python file; again for more rows")
    parser.add_argument("--workdir", type=Path, required=True, help="gets the table, and a folder for each setting")
    parser.add_argument("--over", action="append", default=[], metavar="FIELD=A,B", help="section.field, or model")
    parser.add_argument("--ablations", action="store_true", help="the paper's tables, in the sizes of the config")
    parser.add_argument("--seeds", default="0", help="values of train.seed, separated by commas")
    parser.add_argument("--together", type=int, default=1, help="runs at a time, each on a GPU or TPU chip of its own")
    args, rest = parser.parse_known_args(argv)
    if strange := [flag for flag in rest if not re.match(r"--config\.[^=]+=", flag)]:
        parser.error(f"unknown argument {strange[0]}; a setting is given as --config.section.field=value")
    fixed, over = [flag.removeprefix("--config.") for flag in rest], [f"train.seed={args.seeds}", *args.over]
    sweep(grid(args.config, fixed, over, args.ablations, args.workdir), args.workdir, args.together)


def grid(files: list[Path], fixed: list[str], over: list[str], ablations: bool, workdir: Path) -> list[Run]:
    """All combinations of the values in `over` ('section.field=a,b', 'model=a,b'), configs and ablations.

    Raises:
        ValueError: what `configs.override` refuses; a field given twice; no test split; two runs that are the same.
    """
    swept = [values_of(text) for text in over]
    fields = [field for field, _ in swept] + list({text.partition("=")[0] for text in fixed})
    if twice := [field for field in fields if fields.count(field) > 1]:
        raise ValueError(f"{twice[0]} is given twice; give it once, by --over or --config.{twice[0]}= (seeds: --seeds)")
    axes = [[f"{field}={value}" for value in values] for field, values in swept]
    bases = {file: configs.load(file) for file in files}
    runs: list[Run] = []
    for *chosen, file, ablation in itertools.product(*axes, bases, ABLATIONS if ablations else [""]):
        # A preset is a whole network: it goes before the fields that change it.
        changes = sorted([*fixed, *chosen], key=lambda text: not text.startswith("model=")) + ablation_changes(ablation)
        config = configs.override(bases[file], changes)
        name = ",".join(it for it in (file.stem, *chosen, ablation) if it and not it.startswith("train.seed="))
        seed, split = config.train.seed, config.data.test_split
        if not split:
            raise ValueError("data.test_split is '', but it is what runs are compared on; 'validation' spares the test")
        if same := [one.setting for one in runs if config == one.config or (name, seed) == one[:2]]:
            raise ValueError(
                f"{same[0]} and {name}, seed {seed}, are the same run, or their config files have one name"
            )
        # What the name does not tell, of --config.section.field=value and of the file, is in the digest at its end.
        own = [it for it in configs.differences(Config(), config) if not it.startswith(("train.seed:", *MAY_CHANGE))]
        readable, digest = re.sub(r"[^\w.=,+-]", "_", name)[:100], hashlib.sha256(repr(own).encode()).hexdigest()[:8]
        place = workdir / f"{readable}-{digest}" / f"seed_{seed}"
        flags = ("--config", str(file), *(f"--config.{text}" for text in changes), "--workdir", str(place))
        runs.append(Run(name, seed, config, flags, place, place / split_file("evaluation", split, "json")))
    return runs


def values_of(text: str) -> tuple[str, list[str]]:
    """'a.b=1,(2,3)' -> ('a.b', ['1', '(2,3)']). Raises ValueError for another form, or a bracket or quote left open."""
    value = r"""(?:\([^()]*\)|\[[^][]*\]|'[^']*'|"[^"]*"|[^],()['"])*"""
    if not re.fullmatch(f"[^=,]+={value}(,{value})*", text):
        raise ValueError(f"--over {text} is not of the form --over section.field=value,value; are its brackets closed?")
    field, _, values = text.partition("=")
    return field, [found.strip() for found in re.findall(f"(?:^|,)({value})", values)]


def ablation_changes(name: str) -> list[str]:
    """What turns a network into this ablation: the fields that its preset has other than 'specsar_former' has."""
    full, other = (vars(configs.PRESETS[one]) for one in ("specsar_former", name or "specsar_former"))
    return [f"model.{field}={other[field]}" for field in full if other[field] != full[field]]


def sweep(runs: Sequence[Run], workdir: Path, together: int = 1) -> None:
    """Trains what is not finished, `together` at a time, and prints the table.

    Raises:
        ValueError: fewer devices than `together`; when all others are done, runs that failed.
        SystemExit: 130 or 143 after Ctrl-C or SIGTERM, when all runs have saved and ended.
    """
    free = devices(together)
    waiting, running, failed = [one for one in runs if not one.evaluation.exists()], [], {}
    asked, told = [], 0
    before = {it: signal.signal(it, lambda it, _: asked.append(it)) for it in (signal.SIGINT, signal.SIGTERM)}
    bar = progress(total=len(runs), initial=len(runs) - len(waiting), desc="sweep", unit="run")
    try:
        while running or (waiting and not asked):
            # The first run may have to make the data set: the others begin when it has been opened.
            if waiting and free and not asked and (not running or any(one.workdir.exists() for one, *_ in running)):
                one, device = waiting.pop(0), free.pop(0)
                running.append((one, device, _start(one, device)))
                bar.set_postfix_str("; ".join(f"{one.setting} {one.workdir.name}" for one, *_ in running))
            for number in asked[told:]:
                told += 1
                for *_, process in running:
                    process.send_signal(number)
            time.sleep(0.1)
            for one, device, process in [it for it in running if it[-1].poll() is not None]:
                running.remove((one, device, process))
                free.append(device)
                if not one.evaluation.exists() and not asked:
                    failed[one] = _reason(one, process.returncode)
                    bar.write(f"{one.setting} {failed[one]}")
                bar.update(one.evaluation.exists())
                write_table(runs, failed, workdir)
    finally:
        for end in (subprocess.Popen.terminate, subprocess.Popen.wait):
            for *_, process in running:
                end(process)
        for number, handler in before.items():
            signal.signal(number, handler)
        bar.close()
    print(write_table(runs, failed, workdir), end="")
    if asked:
        print(f"stopped; the same command goes on from here on {workdir}", file=sys.stderr)
        sys.exit(128 + asked[0])
    if failed:
        raise ValueError(f"{len(failed)} of {len(runs)} runs failed, see {workdir}/table.md; start again to try again")


def devices(together: int) -> list[dict[str, str]]:
    """Variables that give each of the runs at a time its own GPU or TPU chip; none where there are only CPUs."""
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
    """Writes table.csv and table.md, a row a setting, and gives the latter. Deviation: of a sample, '-' for one seed."""
    rows: list[dict[str, Any]] = []
    table = [HEADINGS, ["---"] * len(HEADINGS)]
    for setting in dict.fromkeys(one.setting for one in runs):
        own = [one for one in runs if one.setting == setting]
        data, train = own[0].config.data, own[0].config.train
        score = "mean_iou" if train.best_by == "loss" else train.best_by  # a loss is no percentage
        done = [_figures(one, score) for one in own if one.evaluation.exists()]
        row = {"setting": setting, "dataset": data.name, "split": data.test_split, "steps": train.steps}
        row |= {"score": score, "seeds": len(own), "done": len(done)}
        for key in COLUMNS:
            values = [figures[key] for figures in done if figures[key] is not None]
            row |= {key: float(np.mean(values)) if values else "-"}
            row |= {f"{key}_sd": float(np.std(values, ddof=1)) if len(values) > 1 else "-"}
        reasons = "; ".join(failed[one] for one in own if one in failed)
        rows.append(row | {"state": reasons or ("done" if len(done) == len(own) else "unfinished")})
        pairs = [(row[key], row[f"{key}_sd"]) for key in COLUMNS]
        cells = [" ± ".join(it if it == "-" else f"{100 * it:.1f}" for it in pair) for pair in pairs]
        table.append([setting, f"{len(done)} of {len(own)}", *cells, rows[-1]["state"]])
    named = [", ".join({str(row[key]): "" for row in rows}) for key in ("dataset", "split", "steps", "score")]
    text = "Data set {}, split {}, {} steps. Per cent, mean ± spread over seeds; validation: {}.\n\n".format(*named)
    text += "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n" for cells in table)
    workdir.mkdir(parents=True, exist_ok=True)
    with written_whole(workdir / "table.csv") as part, part.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([list(rows[0]), *(row.values() for row in rows)])
    with written_whole(workdir / "table.md") as part:
        part.write_text(text)
    return text


def _figures(one: Run, score: str) -> dict[str, Any]:
    tested = json.loads(one.evaluation.read_text())
    looks = map(json.loads, (one.workdir / "metrics.jsonl").read_text().splitlines())
    chosen = [look[score] for look in looks if look["kind"] == "eval" and look["step"] == tested["step"]]
    return tested | {"validation": chosen[-1] if chosen else None}


def _start(one: Run, device: Mapping[str, str]) -> subprocess.Popen:
    """In a group of processes of its own: the sweep hands Ctrl-C on, the terminal shall not."""
    one.workdir.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "specsar_jax.train", *one.flags]
    with one.workdir.with_suffix(".log").open("w") as log:
        return subprocess.Popen(command, env=os.environ | device, stdout=log, stderr=log, process_group=0)


def _reason(one: Run, status: int) -> str:
    """The error line of a run that failed; its last line if it has none."""
    log = one.workdir.with_suffix(".log")
    text = log.read_text(errors="replace").strip()
    line = (re.findall(r"^error: (.+)", text, re.MULTILINE) or re.split(r"[\r\n]+", text))[-1]
    return f"{one.workdir.name} failed: {line} (exit status {status}, {log})"


if __name__ == "__main__":
    run(main)
