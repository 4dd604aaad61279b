"""The workdir of a run, held for that run alone, and its checkpoints: saved in the background, restored onto the devices."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from specsar_jax import config as configs
from specsar_jax.batches.preprocess import Statistics
from specsar_jax.config import Config
from specsar_jax.devices.sharding import is_first, largest_of_all, wait_for_all
from specsar_jax.trained.run_files import none_whole, read_config, read_part, set_aside, why
from specsar_jax.training.train_state import TrainState
from tfds_dwplus.bands import Classes
from tfds_dwplus.files import buckets
from tfds_dwplus.files.outputs import locked, remove_partials, write_json
from tfds_dwplus.files.strangers import one_line

NOT_EVALUATED = -1e9
"""Score of a checkpoint that was saved between two evaluations, and so was not evaluated."""

MAY_CHANGE = (
    # where the same data lie, how they are read, and what is scored in the end
    "data.data_dir", "data.read_threads", "data.corrupt_records", "data.test_split", "train.eval_batch_size",
    # devices
    "mesh.data", "mesh.devices",
    # how long, and how often it is looked at, saved and told
    "train.steps", "train.epochs", "train.patience", "train.most_skipped", "train.eval_every", "train.save_every",
    "train.save_every_minutes", "train.log_every", "train.profile_steps", "train.tracker",
    # of maps alone
    "predict.window_px", "predict.overlap",
)  # fmt: skip
"""Settings that may differ when a run goes on: they do not change what a step does. (The learning rate falls until the last step, so
other steps bend its schedule.)"""

MAY_CHANGE_IF_ASKED = ("optimizer.learning_rate", "optimizer.clip_norm")
"""Settings that change what a step does, and are wanted after a failure: with `--change`."""


@contextlib.contextmanager
def claimed(
    workdir: Path, config: Config, statistics: Statistics, change: bool = False
) -> Iterator[list[dict[str, Any]]]:
    """Creates the workdir of a run, or checks that it belongs to this run; locks it while the run works on it.

    Args:
        workdir: of the run.
        config: as `resolve` gives it.
        statistics: of its bands.
        change: whether settings of MAY_CHANGE_IF_ASKED may differ from those before.

    Yields:
        the settings that differ from those before, each with `setting`, `before` and `after`; `keep_changes` makes them last.

    Raises:
        ValueError: it belongs to a run of another config or other statistics, or another run is working on it.
    """
    if (address := buckets.given(workdir)) != str(workdir) and jax.process_count() > 1:
        raise ValueError(
            f"--workdir {address}: {jax.process_count()} processes write one checkpoint together, which takes a folder that all see; mount "
            "the bucket as a folder, on every machine under the same path"
        )
    if is_first():
        workdir.mkdir(parents=True, exist_ok=True)
    with _locked(workdir) if is_first() else contextlib.nullcontext():
        changes = _taken(workdir, config, statistics, change)
        buckets.flush()  # a bucket that cannot be written is told now
        yield changes


def _taken(workdir: Path, config: Config, statistics: Statistics, change: bool) -> list[dict[str, Any]]:
    """Writes the config of a new run, or checks that of an older one; see `claimed`."""
    path = workdir / "config.json"
    changes: list[dict[str, Any]] = []
    wait_for_all("workdir looked at")
    if path.exists():
        before = read_config(workdir)
        learnt = Statistics.read(workdir / "statistics.json")
        _check_classes(workdir, learnt.classes, statistics.classes)  # before model.classes, which nobody gave
        changes = [_change(text.partition(":")[0], before, config) for text in configs.differences(before, config)]
        refused = [of for of in changes if of["setting"] not in MAY_CHANGE]
        if others := [of for of in refused if not (change and of["setting"] in MAY_CHANGE_IF_ASKED)]:
            told = "; ".join(f"{of['setting']}: {of['before']!r}, {of['after']!r}" for of in others)
            asked = all(of["setting"] in MAY_CHANGE_IF_ASKED for of in others)
            raise ValueError(
                f"{workdir} belongs to a run of another config ({told}, there and here); give another --workdir, "
                f"or the config it was started with{', or go on with this one: --change' if asked else ''}"
            )
        if learnt != statistics:
            raise ValueError(f"{workdir} was trained on a data set of other statistics; give another --workdir")
    elif is_first():
        write_json(workdir / "statistics.json", statistics.to_dict())
        write_json(path, configs.to_dict(config))
    wait_for_all("workdir claimed")
    return changes


def _check_classes(workdir: Path, learnt: Classes, given: Classes) -> None:
    """Raises a ValueError if a run learns other classes than those of the data set that it is given."""
    if learnt == given:
        return
    told = f"the classes {one_line(', '.join(learnt.names), 200)}, the data set has {one_line(', '.join(given.names), 200)}"
    if learnt.names == given.names:
        told = f"the colours {', '.join(learnt.colours)} of its classes, the data set has {', '.join(given.colours)}"
    raise ValueError(
        f"{workdir} belongs to a run with {told}; give another --workdir, and start from this one with --config.train.finetune={workdir}"
    )


def keep_changes(workdir: Path, config: Config, changes: list[dict[str, Any]]) -> None:
    """Writes the config of a run again if settings have changed; `run.json` has the changes by then."""
    if changes and is_first():
        write_json(workdir / "config.json", configs.to_dict(config))


def _change(setting: str, before: Config, after: Config) -> dict[str, Any]:
    section, _, field = setting.partition(".")
    then, now = (getattr(getattr(config, section), field) for config in (before, after))
    return {"setting": setting, "before": then, "after": now}


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    """Keeps a second run out. The lock ends with the process, even if that is killed."""
    with locked(workdir / ".lock", workdir, advice="wait for it, or give another --workdir"):
        remove_partials(workdir)
        yield


def save(manager: ocp.CheckpointManager, state: TrainState, score: float) -> None:
    """Saves the state under its step, in the background. Waits for the save before it.

    Args:
        manager: of the workdir.
        state: to be saved; all of it, wherever its parts lie.
        score: the larger, the better; NOT_EVALUATED without an evaluation.

    The first one of a workdir is waited for and read back, so that no run works for days on what cannot be read.

    Raises:
        ValueError: this save or the one before it failed, for the disk is full or the workdir cannot be written; or the first
            one cannot be read.
    """
    step = int(state.step)
    buckets.check(Path(manager.directory))
    with _told(manager):
        manager.wait_until_finished()
        steps = manager.all_steps()
        if step not in steps:
            manager.save(step, args=ocp.args.StandardSave(_tree(state)), metrics={"score": score})
    if not steps:
        finish(manager)
        _read_back(manager, state)


def finish(manager: ocp.CheckpointManager) -> None:
    """Returns when the last save is on disk. Raises ValueError if it failed."""
    with _told(manager):
        manager.wait_until_finished()


def _read_back(manager: ocp.CheckpointManager, state: TrainState) -> None:
    """Raises a ValueError unless the checkpoint of a state names all its arrays, and the step can be read from it."""
    step, folder = int(state.step), Path(manager.directory)
    try:
        found = manager.item_metadata(step)
        found_shapes, shapes = (
            sorted(tuple(leaf.shape) for leaf in jax.tree.leaves(of)) for of in (found, _tree(state))
        )
        if found_shapes != shapes:
            raise ValueError(f"it holds {len(found_shapes)} arrays of {len(shapes)}")
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = {"step": jax.ShapeDtypeStruct((), state.step.dtype, sharding=device)}
        if int(read_part(folder / str(step), target)["step"]) != step:
            raise ValueError("it holds another step")
    except Exception as error:  # of the system, of TensorStore, of Orbax, each in its own words
        raise ValueError(
            f"checkpoint {step} was written to {folder} but cannot be read from there ({why(error)}); "
            "give a --workdir on another disk, or of letters and digits alone"
        ) from None


@contextlib.contextmanager
def closing(manager: ocp.CheckpointManager) -> Iterator[None]:
    """Closes the manager at the end. Raises ValueError if a save that is under way then fails."""
    try:
        yield
    finally:
        with _told(manager):
            manager.close()


@contextlib.contextmanager
def _told(manager: ocp.CheckpointManager) -> Iterator[None]:
    """Turns whatever is raised when a save fails into a ValueError of one line."""
    try:
        yield
    except Exception as error:  # of the system, of TensorStore, of Orbax, each in its own words
        reason = why(error)
        whole = [int(path.name) for path in Path(manager.directory).glob("*") if path.name.isdigit()]
        kept = f"the last whole one is of step {max(whole)}" if whole else "there is none yet"
        raise ValueError(f"a checkpoint could not be written to {manager.directory} ({reason}); {kept}") from None


def restore(manager: ocp.CheckpointManager, abstract: TrainState, shardings: TrainState) -> TrainState | None:
    """Returns the latest state, placed as `shardings` say; None if there is no checkpoint yet.

    If the latest cannot be read, it is set aside with a note, and the one before is taken.

    Raises:
        ValueError: none can be read.
    """
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        _tree(abstract),
        _tree(shardings),
    )
    workdir, damaged = Path(manager.directory).parent, dict[int, str]()
    for step in sorted(manager.all_steps(), reverse=True):
        state, reason = None, "another process could not read it"
        try:
            state = TrainState(**manager.restore(step, args=ocp.args.StandardRestore(target)))
        except Exception as error:  # of the system, of TensorStore, of Orbax, each in its own words
            reason = why(error)
        if not largest_of_all(int(state is None)):
            set_aside(workdir, damaged)
            if damaged:
                manager.reload()
            return state
        damaged[step] = reason
    if damaged:
        raise ValueError(none_whole(workdir, damaged))
    return None


def _tree(state: TrainState) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
