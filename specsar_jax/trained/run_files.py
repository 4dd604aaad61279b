"""Reads the files of a run: config, checkpoints and calibration.

A workdir holds `config.json`, `statistics.json`, `metrics.jsonl` (the run log), `checkpoints/` (Orbax: the two latest, and the best
on the validation split) and `calibration.json`, the temperature of the probabilities. Checkpoints that a run could not read lie in
`damaged/`.
"""

import math
import re
import sys
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from specsar_jax import config as configs
from specsar_jax.config import Config
from specsar_jax.devices.sharding import is_first, wait_for_all
from tfds_dwplus.files.strangers import a_number, a_text, an_object, parse_json, read_json, read_object

DAMAGED = "damaged"
"""Folder of a workdir for checkpoints that cannot be read."""


def read_config(workdir: Path) -> Config:
    """Reads the config of a workdir. Raises ValueError if the folder is not a workdir, or its network fits no memory."""
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"{workdir} is not a workdir of specsar_jax.train: it has no config.json")
    tree = read_json(path, finite=False, unpaired=True)
    try:
        config = configs.from_dict(tree, checked=False)
        configs.check_bounded(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return config


def open_checkpoints(workdir: Path, *, clean_up: bool) -> ocp.CheckpointManager:
    """Opens the checkpoints of a workdir, to save the two latest and the best.

    Args:
        workdir: folder of a run.
        clean_up: removes unfinished checkpoints of a killed run, and sets aside those whose score cannot be read. Only for the
            run itself: another process cannot tell them from a checkpoint that is being saved.

    Raises:
        ValueError: there are checkpoints, and no score of them can be read.
    """
    if clean_up:
        scores = saved_scores(workdir)
        damaged = {step: "its score cannot be read" for step, of in scores.items() if of is None}
        if damaged and len(damaged) == len(scores):
            raise ValueError(none_whole(workdir, damaged))
        set_aside(workdir, damaged)

    def score(saved: dict[str, float]) -> float:
        return comparable(saved["score"])

    return ocp.CheckpointManager(
        (workdir / "checkpoints").resolve(),
        options=ocp.CheckpointManagerOptions(
            best_fn=score,
            best_mode="max",
            cleanup_tmp_directories=clean_up,
            enable_async_checkpointing=True,
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(
                [
                    ocp.checkpoint_managers.LatestN(2),
                    ocp.checkpoint_managers.BestN(get_metric_fn=score, reverse=False, n=1),
                ]
            ),
        ),
    )


def any_saved(workdir: Path) -> bool:
    """Returns whether the workdir holds a complete checkpoint."""
    return bool(saved_steps(workdir))


def saved_steps(workdir: Path) -> list[int]:
    """Returns the steps of the complete checkpoints of a workdir, in their order."""
    names = (path.name for path in checkpoint_folder(workdir).glob("*"))
    return sorted(int(name) for name in names if re.fullmatch(r"\d{1,18}", name, re.ASCII))


def saved_scores(workdir: Path) -> dict[int, float | None]:
    """Returns the score of each complete checkpoint by its step, in their order; None where it cannot be read."""
    scores: dict[int, float | None] = {}
    for step in saved_steps(workdir):
        try:
            saved = read_object(checkpoint_folder(workdir, step) / "metrics" / "metrics", finite=False)
            scores[step] = comparable(float(saved["score"]))
        except (OSError, ValueError, KeyError, TypeError):
            scores[step] = None
    return scores


def comparable(score: float) -> float:
    """Returns a score, -inf for one that is not finite: it is worse than any other, and sorts, which NaN does not."""
    return score if math.isfinite(score) else -math.inf


def checkpoint_folder(workdir: Path, step: int | None = None) -> Path:
    """Returns the folder of all checkpoints of a workdir, or of that of a step.

    Raises:
        ValueError: Orbax would save there, but could not read it back: it takes `[1]` in the whole path for a pattern, and a
            backslash for the beginning of another sign.
    """
    folder = (workdir / "checkpoints").resolve()
    if re.search(r"\[.*\]|\\|[\ud800-\udfff]", str(folder), re.DOTALL):
        raise ValueError(
            f"checkpoints cannot be kept in {ascii(str(folder))[1:-1]}: nowhere in its path may stand [ ], \\ or a byte that is not text; "
            "give another --workdir, or rename the folder"
        )
    return folder if step is None else folder / str(step)


def read_part(folder: Path, target: Any) -> Any:
    """Reads the part of the state that `target`, a tree of shapes, names from the folder of a checkpoint."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.restore(
            folder / "default",
            args=ocp.args.PyTreeRestore(
                item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
            ),
        )


def set_aside(workdir: Path, damaged: dict[int, str]) -> None:
    """Moves damaged checkpoints of the run, each with the reason, into WORKDIR/damaged, and says so. To be called by all processes."""
    if not damaged:
        return
    wait_for_all("damaged looked at")
    if is_first():
        for step, reason in damaged.items():
            target = workdir / DAMAGED / str(step)
            while target.exists():
                target = target.with_name(f"{target.name}_")
            target.parent.mkdir(exist_ok=True)
            checkpoint_folder(workdir, step).rename(target)
            print(f"note: checkpoint {step} of {workdir} is damaged ({reason}); it is now {target}", file=sys.stderr)
    wait_for_all("damaged set aside")


def none_whole(workdir: Path, damaged: dict[int, str]) -> str:
    """Returns the line that no checkpoint of a workdir can be read, with the reason by step."""
    told = "; ".join(f"step {step}: {reason}" for step, reason in damaged.items())
    return (
        f"no checkpoint of {workdir} can be read, for they are damaged or of another network or version ({told}); "
        f"train in another --workdir, or remove {workdir / 'checkpoints'} to start from the first step"
    )


def why(error: BaseException) -> str:
    """Returns what an error says, in one line that is not too long, or else its kind.

    Raises:
        SystemExit, KeyboardInterrupt: this is its cause. Orbax makes an error of a file of whatever comes while it reads, of a signal too.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SystemExit | KeyboardInterrupt):
            raise cause
        cause = cause.__cause__  # not its context: a save that fails after Ctrl-C is an error of its own
    said = str(error).partition("See full TensorStore details")[0]  # pages of settings
    return " ".join(said.split()).rstrip(". ")[:200] or type(error).__name__


def read_calibration(workdir: Path, step: int) -> dict[str, Any] | None:
    """Reads the calibration of the weights of a step; None if the file is missing or is of another step. Raises ValueError if it
    is damaged.
    """
    path = workdir / "calibration.json"
    if not path.is_file():
        return None
    try:
        calibration = read_object(path, finite=False)
        if not 1e-3 <= a_number(calibration["temperature"], "temperature") <= 1e3:
            raise ValueError("a temperature that is not 0.001 to 1000")
        for key in ("nll_before", "nll_after"):
            if calibration.get(key) is not None:
                a_number(calibration[key], key)
        return calibration if calibration["step"] == step else None
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} holds no temperature of probabilities ({type(error).__name__}: {error}); remove it, and "
            "specsar_jax.train, started again, fits it again"
        ) from None


def log_event(line: str) -> dict[str, Any] | None:
    """Returns the event of a line of the run log, which has a `kind` and a finite `step`; None for a line that was cut short."""
    try:
        event = an_object(parse_json(line, "a line", finite=False), "a line")
        a_text(event.get("kind"), "kind")
        a_number(event.get("step"), "step")
    except ValueError:
        return None
    return event


def split_file(what: str, split: str, ending: str) -> str:
    """Returns the name of a file about a split, 'evaluation_test.json'; every character but letters and digits becomes '_'."""
    return f"{what}_{''.join(c if c.isalnum() else '_' for c in split)}.{ending}"
