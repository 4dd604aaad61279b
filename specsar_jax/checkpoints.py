"""What a run leaves on disk, and trained networks back from it.

A workdir holds `config.json`, `statistics.json`, `metrics.jsonl` and `checkpoints/` (Orbax: the two latest, and the best
on the validation split), and `calibration.json`, the temperature of its probabilities. From it, or from an exported bundle, comes a
`Trained` network, which carries all that evaluation and prediction need.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from specsar_jax import config as configs
from specsar_jax import hub, model
from specsar_jax.bundle import Trained, read_bundle
from specsar_jax.config import Config
from specsar_jax.preprocess import Statistics
from specsar_jax.sharding import is_first, wait_for_all
from specsar_jax.train_state import TrainState, chosen_weights
from tfds_dwplus.command_line import written_whole

NOT_EVALUATED = -1e9
"""Score of a checkpoint that was saved between two evaluations."""

MAY_CHANGE = ("data.read_threads", "mesh.data", "train.profile_steps")
"""Settings that a run may go on with another value of: they do not touch the result."""


@contextlib.contextmanager
def claimed(workdir: Path, config: Config, statistics: Statistics) -> Iterator[None]:
    """Makes the workdir of a run, or finds that it is this very run's; holds it for this run alone.

    Raises:
        ValueError: it belongs to a run of another config or other statistics, or a run is at work on it.
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
    """Keeps a second run out; the lock ends with the process, however that ends."""
    with (workdir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is at work on {workdir}; wait for it, or give another --workdir") from None
        except OSError as error:  # a file system without locks
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield


def read_config(workdir: Path) -> Config:
    """The config of a workdir. Raises ValueError if it is not one."""
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"{workdir} is not a workdir of specsar_jax.train: it has no config.json")
    try:
        return configs.from_dict(json.loads(path.read_text()))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Writes JSON whole or not at all."""
    with written_whole(path) as part:
        part.write_text(json.dumps(tree, indent=1) + "\n")


def open_checkpoints(workdir: Path, *, clean_up: bool) -> ocp.CheckpointManager:
    """The checkpoints of a workdir: the two latest and the best.

    Args:
        workdir: of a run.
        clean_up: remove what a killed run left half-saved. For the run itself only: to a reader, a save that is going on
            looks just the same.
    """

    def score(saved: dict[str, float]) -> float:
        return saved["score"]

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
    """Whether a run in `workdir` has got as far as a whole checkpoint."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))


def save(manager: ocp.CheckpointManager, state: TrainState, score: float) -> None:
    """Saves the state under its step, in the background. Waits for the save before it.

    Args:
        manager: of the workdir.
        state: to be saved; all of it, wherever its parts lie.
        score: the larger, the better; NOT_EVALUATED where nobody has looked.

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
    """Turns what Orbax and what it writes with raise when a save fails into a line."""
    try:
        yield
    except Exception as error:  # of the system, of TensorStore, of Orbax, each in its own words
        reason = " ".join(str(error).split())[:300]
        whole = [int(path.name) for path in Path(manager.directory).glob("*") if path.name.isdigit()]
        kept = f"the last whole one is of step {max(whole)}" if whole else "there is none yet"
        raise ValueError(f"a checkpoint could not be written to {manager.directory} ({reason}); {kept}") from None


def restore(manager: ocp.CheckpointManager, abstract: TrainState, shardings: TrainState) -> TrainState | None:
    """The latest state, placed as `shardings` say; None if there is none yet."""
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


def load_trained(path: Path, which: str = "best") -> Trained:
    """A trained network from a workdir or from an exported bundle.

    Args:
        path: folder of a run; exported file, folder with one, or its address on a hub, 'hub:owner/name'.
        which: 'best' on the validation split, or 'latest'; of a workdir only.

    Raises:
        ValueError: none of these, no checkpoint yet, or a bundle cut short, altered or of something else.
    """
    if (bundle := find_bundle(path)) is not None:
        return read_bundle(bundle)
    config = read_config(path)
    statistics = Statistics.read(path / "statistics.json")
    with open_checkpoints(path, clean_up=False) as manager:
        step = manager.best_step() if which == "best" else manager.latest_step()
        if step is None:
            raise ValueError(f"{path} has no checkpoint yet; let specsar_jax.train run until its first evaluation")
        weights = chosen_weights(config)
        abstract = model.abstract_params(config.model)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            {weights: abstract["params"], "batch_stats": abstract["batch_stats"]},
        )
        restored = manager.restore(
            step,
            args=ocp.args.PyTreeRestore(
                item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
            ),
        )
    for (place, leaf), wanted in zip(jax.tree.leaves_with_path(restored), jax.tree.leaves(target), strict=True):
        if not isinstance(leaf, jax.Array) or leaf.shape != wanted.shape:
            found = leaf.shape if isinstance(leaf, jax.Array) else "nothing"
            name = ".".join(key.key for key in place)
            raise ValueError(
                f"checkpoint {step} of {path}: tensor {name} should have shape {wanted.shape}, found {found}; "
                "was it written by another version of specsar_jax?"
            )
    variables = {"params": restored[weights], "batch_stats": restored["batch_stats"]}
    calibration = read_calibration(path, step)
    return Trained(config, statistics, variables, step, 1.0 if calibration is None else calibration["temperature"])


def find_bundle(path: Path) -> Path | None:
    """The bundle that `path` is, holds, or, as an address on a hub, names; None of a workdir. Raises ValueError if it is nothing."""
    if hub.is_address(path):
        return hub.pull(path)
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f"no workdir or bundle {path}")
        return path
    inside = path / hub.BUNDLE_NAME
    return inside if inside.is_file() else None


def config_of(path: Path) -> Config:
    """The config of a workdir or bundle. Raises ValueError if it is neither."""
    bundle = find_bundle(path)
    return read_config(path) if bundle is None else read_bundle(bundle).config


def read_calibration(workdir: Path, step: int) -> dict[str, Any] | None:
    """What `evaluate.calibrate` found for the weights of a step; None if nobody has looked. Raises ValueError if the file is
    not one of these.
    """
    path = workdir / "calibration.json"
    if not path.is_file():
        return None
    try:
        calibration = json.loads(path.read_text())
        if not float(calibration["temperature"]) > 0.0:
            raise ValueError("a temperature that is not positive")
        return calibration if calibration["step"] == step else None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} holds no temperature of probabilities ({type(error).__name__}: {error}); remove it, and "
            "specsar_jax.train, started again, fits it again"
        ) from None


def _tree(state: TrainState) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
