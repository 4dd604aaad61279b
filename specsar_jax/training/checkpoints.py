"""The workdir of a run, held for that run alone, and its checkpoints: saved in the background, restored onto the devices."""

import contextlib
import dataclasses
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from specsar_jax import config as configs
from specsar_jax.batches.preprocess import Statistics
from specsar_jax.config import Config
from specsar_jax.devices.sharding import is_first, wait_for_all
from specsar_jax.trained.run_files import read_config
from specsar_jax.training.train_state import TrainState
from tfds_dwplus.command_line import write_json

NOT_EVALUATED = -1e9
"""Score of a checkpoint that was saved between two evaluations, and so was not evaluated."""

MAY_CHANGE = ("data.read_threads", "mesh.data", "train.profile_steps")
"""Settings that may differ when a run goes on: they do not change the result."""


@contextlib.contextmanager
def claimed(workdir: Path, config: Config, statistics: Statistics) -> Iterator[None]:
    """Creates the workdir of a run, or checks that it belongs to this run; locks it while the run works on it.

    Raises:
        ValueError: it belongs to a run of another config or other statistics, or another run is working on it.
    """
    path = workdir / "config.json"
    wait_for_all("workdir looked at")
    if path.exists():
        changed = configs.differences(read_config(workdir), config)
        changed = [text for text in changed if not text.startswith(tuple(f"{field}:" for field in MAY_CHANGE))]
        if changed:
            raise ValueError(
                f"{workdir} belongs to a run of another config ({'; '.join(changed)}, there and here); "
                "give another --workdir, or the config it was started with"
            )
        if Statistics.read(workdir / "statistics.json") != statistics:
            raise ValueError(f"{workdir} was trained on a data set of other statistics; give another --workdir")
    elif is_first():
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "statistics.json", statistics.to_dict())
        write_json(path, configs.to_dict(config))
    wait_for_all("workdir claimed")
    with _locked(workdir) if is_first() else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    """Keeps a second run out. The lock ends with the process, even if that is killed."""
    with (workdir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is at work on {workdir}; wait for it, or give another --workdir") from None
        except OSError as error:  # a file system without locks
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield


def save(manager: ocp.CheckpointManager, state: TrainState, score: float) -> None:
    """Saves the state under its step, in the background. Waits for the save before it.

    Args:
        manager: of the workdir.
        state: to be saved; all of it, wherever its parts lie.
        score: the larger, the better; NOT_EVALUATED without an evaluation.

    Raises:
        ValueError: this save or the one before it failed, for the disk is full or the workdir cannot be written.
    """
    step = int(state.step)
    with _told(manager):
        manager.wait_until_finished()
        if step not in manager.all_steps():
            manager.save(step, args=ocp.args.StandardSave(_tree(state)), metrics={"score": score})


def finish(manager: ocp.CheckpointManager) -> None:
    """Returns when the last save is on disk. Raises ValueError if it failed."""
    with _told(manager):
        manager.wait_until_finished()


@contextlib.contextmanager
def _told(manager: ocp.CheckpointManager) -> Iterator[None]:
    """Turns whatever is raised when a save fails into a ValueError of one line."""
    try:
        yield
    except Exception as error:  # of the system, of TensorStore, of Orbax, each in its own words
        reason = " ".join(str(error).split())[:300]
        whole = [int(path.name) for path in Path(manager.directory).glob("*") if path.name.isdigit()]
        kept = f"the last whole one is of step {max(whole)}" if whole else "there is none yet"
        raise ValueError(f"a checkpoint could not be written to {manager.directory} ({reason}); {kept}") from None


def restore(manager: ocp.CheckpointManager, abstract: TrainState, shardings: TrainState) -> TrainState | None:
    """Returns the latest state, placed as `shardings` say; None if there is no checkpoint yet."""
    step = manager.latest_step()
    if step is None:
        return None
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        _tree(abstract),
        _tree(shardings),
    )
    try:
        return TrainState(**manager.restore(step, args=ocp.args.StandardRestore(target)))
    except (ValueError, KeyError) as error:
        reason = str(error).partition(":")[0]
        raise ValueError(
            f"checkpoint {step} of {manager.directory} is not one of this network and version ({reason}); "
            "give another --workdir"
        ) from None


def _tree(state: TrainState) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
