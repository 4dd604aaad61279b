"""Trains a network: from the data set of the config to the figures of its test split.

Enters: a config and a workdir. Leaves, in the workdir: checkpoints, the run log, and in the end the evaluation of the best checkpoint.
A run that was stopped goes on where it stopped, and ends as if it had never been stopped.
"""

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Any, NoReturn

import jax
import orbax.checkpoint as ocp
import tensorflow_datasets as tfds

from specsar_jax.accuracy import metrics
from specsar_jax.accuracy.evaluation_files import files_of
from specsar_jax.batches import pipeline
from specsar_jax.batches.dataset import dataset_bands, has_test_split, open_or_simulate, resolve
from specsar_jax.batches.preprocess import Statistics
from specsar_jax.config import Config
from specsar_jax.devices.compilation import collector_spared, compile_ahead
from specsar_jax.devices.sharding import (
    check_batch_size,
    is_first,
    largest_of_all,
    make_mesh,
    of_state,
    replicated,
    rows_here,
    say,
)
from specsar_jax.network.model import Variables, abstract_params, for_inference
from specsar_jax.pages import pictures
from specsar_jax.trained import hub
from specsar_jax.trained.loading import load_trained
from specsar_jax.trained.run_files import (
    checkpoint_folder,
    open_checkpoints,
    read_calibration,
    set_aside,
    split_file,
)
from specsar_jax.trained.teacher import Teacher, load_teacher
from specsar_jax.trained.trained_network import Trained
from specsar_jax.training import checkpoints
from specsar_jax.training.evaluation import calibrate, evaluate
from specsar_jax.training.feed import Feed
from specsar_jax.training.initial_weights import initial_weights
from specsar_jax.training.optimizer import check_names, learning_rate
from specsar_jax.training.run_log import RunLog, write_start
from specsar_jax.training.stopping import Agreement, StopRequest, Timer, out_of_patience, score_of
from specsar_jax.training.trackers import Tracker, check_tracker
from specsar_jax.training.train_state import init_state, make_program, placed_state
from specsar_jax.training.validation import Validation
from tfds_dwplus.command_line import local_path
from tfds_dwplus.files.outputs import write_json
from tfds_dwplus.tiles.labelling import annotators
from tfds_dwplus.tiles.prepared import read_split


def train(config: Config, workdir: Path, change: bool = False) -> dict[str, Any] | None:
    """Trains in `workdir` until `train.steps`, then scores the best checkpoint on the test split.

    Args:
        config: all settings.
        workdir: folder of the run, new or of the same run.
        change: takes another learning rate or clipping than the run had so far.

    Returns:
        the figures of the test split; None where the data set has none.

    Raises:
        ValueError: config, data set and workdir do not fit each other, a checkpoint cannot be written, or too many steps in
            a row were not finite.
    """
    workdir = local_path(workdir)
    checkpoint_folder(workdir)  # raises where none could be kept
    for source in filter(None, (config.train.pretrained, config.train.finetune, config.train.teacher)):
        hub.place_of(source)
    check_tracker(config.train.tracker)
    builder = open_or_simulate(config.data)
    config, statistics = resolve(config, builder)
    params = abstract_params(config.model)["params"]
    check_names(params, config.optimizer, tuple(config.model.blocks), config.train.trainable)
    mesh = make_mesh(config.mesh)
    check_batch_size(config.train.batch_size, mesh, "train.batch_size", config.train.accumulate)
    train_source = read_split(builder, config.data.train_split)
    validation_source = read_split(builder, config.data.validation_split)
    pipeline.check_crop(train_source, config.data)
    if has_test_split(builder, config.data):
        read_split(builder, config.data.test_split)  # a wrong one is told now, not after the training
    teacher = (
        load_teacher(config.train.teacher, config, statistics, dataset_bands(builder)) if config.train.teacher else None
    )
    if teacher is not None:
        statistics = dataclasses.replace(statistics, labelled_by={teacher.name: len(train_source)})
    variables, carried = initial_weights(config, workdir, statistics.classes, statistics.s1.unit)
    with checkpoints.claimed(workdir, config, statistics, change) as changes:
        if carried is not None and is_first():
            write_json(workdir / "pretrained.json", carried.to_dict())
        say(
            f"{builder.info.full_name}: {len(train_source)} tiles of {config.data.train_split} to learn from, "
            f"{len(validation_source)} of {config.data.validation_split} to choose the checkpoint by; workdir {workdir}"
        )
        if said := annotators.not_accuracy(statistics.labelled_by):
            say(f"note: {said}")
        _optimise(
            config, statistics, builder, train_source, validation_source, variables, teacher, mesh, workdir, changes
        )
        trained = _calibrated(workdir, config)
        if not has_test_split(builder, config.data):
            why = f"{builder.info.full_name} has no split 'test'" if config.data.test_split else "data.test_split is ''"
            say(f"{why}: nothing is scored")
            return None
        return _score_test(trained, builder, workdir)


def _optimise(
    config: Config,
    statistics: Statistics,
    builder: tfds.core.DatasetBuilder,
    train_source: Any,
    validation_source: Any,
    variables: Variables | None,
    teacher: Teacher | None,
    mesh: jax.sharding.Mesh,
    workdir: Path,
    changes: list[dict[str, Any]],
) -> None:
    """Trains from `variables`, random weights or the last checkpoint, until the last step, by the labels of the tiles or of a teacher.
    Keeps `changes` of the settings.
    """
    settings = config.train

    # State: new, or where the last start of this run stopped.
    manager = open_checkpoints(workdir, clean_up=True)
    abstract = jax.eval_shape(lambda: init_state(config))
    shardings = of_state(abstract, mesh, config.mesh)
    state = checkpoints.restore(manager, abstract, shardings)
    if state is None:
        state = placed_state(config, variables, shardings)
    start = int(state.step)
    if start:
        say(f"going on from step {start}")
    if changes:
        told = (f"{of['setting']} from {of['before']!r} to {of['after']!r}" for of in changes)
        say(f"from step {start} on, changed: {', '.join(told)}")
    if is_first():
        write_start(workdir, start, changes)
        checkpoints.keep_changes(workdir, config, changes)

    # What runs: the step, the batches it is given, and the validation.
    held, sensors = dataset_bands(builder), config.model.sensors
    rasters = pipeline.select(config.data.s2_bands, held, sensors, may_miss=config.may_miss)
    learnt = dataclasses.replace(config.data, s2_bands=teacher.s2_bands) if teacher else config.data
    shares = config.loss.name == "soft" and not teacher
    program = make_program(config, statistics, mesh, shardings, teacher)
    teaching = (
        (jax.device_put(for_inference(teacher.trained.variables, teacher.trained.config.model), replicated(mesh)),)
        if teacher
        else ()
    )
    of_variables, name = shardings.variables(config), builder.info.full_name
    validation = Validation(validation_source, rasters, config, statistics, mesh, of_variables, name)
    schedule = jax.jit(learning_rate(config.optimizer, settings.steps))
    batches = pipeline.train_batches(
        train_source,
        pipeline.select(learnt.s2_bands, held, sensors, probabilities=shares, may_miss=config.may_miss),
        learnt,
        batch_size=settings.batch_size,
        seed=settings.seed,
        start_step=start,
        rows=rows_here(settings.batch_size, mesh),
    )
    tracker = Tracker(config, workdir) if is_first() and settings.tracker != "none" and start < settings.steps else None
    with (
        StopRequest() as stop,
        checkpoints.closing(manager),
        RunLog(workdir, start, settings.steps, mute=not is_first(), tracker=tracker) as log,
        contextlib.closing(batches),
        contextlib.ExitStack() as at_the_end,
    ):
        agreement, saves = Agreement(start), Timer(settings.save_every_minutes)
        feed, profile = Feed(batches, mesh), _Profile(start, settings.steps, settings.profile_steps, workdir)
        for step in range(start + 1, settings.steps + 1):
            if out_of_patience(log.evaluations, settings):
                say(f"no better evaluation in {settings.patience}: the run ends at step {step - 1}")
                break
            if step == start + 1:
                log.show(compiling="(kept for the next run)")
                feed.fetch()
                with log.spent("compile"):
                    program = compile_ahead(program, state, feed.batch, *teaching)
                    schedule(start)
                    at_the_end.enter_context(collector_spared())
                log.restart_pace(start, feed.waited_s)
                log.show(compiling="")

            profile.begin(step)
            state, sums = program(state, feed.batch, *teaching)
            feed.follow(step, sums)
            log.advance()
            due_to_log = due(step, settings.log_every)
            due_to_score = due(step, settings.eval_every) or step == settings.steps
            due_to_save = due(step, settings.save_every)
            stopping, saved_long_ago = agreement.largest(step, stop.signal, int(is_first() and saves.due()))
            due_to_save = due_to_save or saved_long_ago
            if step < settings.steps:
                feed.fetch()  # while the devices compute
            for skipped in feed.settle(all_steps=bool(due_to_log or due_to_score or due_to_save or stopping)):
                _note_skipped(*skipped, log, config, manager)
            profile.end(step, state, log)

            if due_to_log:
                figures = {name: value.item() for name, value in jax.device_get(sums).items()}
                figures["learning_rate"] = float(schedule(step - 1))
                log.write_train(step, figures, settings.batch_size, feed.waited_s)
            if due_to_score:
                figures = validation.score(step, state.variables(config), log)
                with log.spent("checkpoint"):
                    checkpoints.save(manager, state, score_of(figures, settings.best_by))
                validation.show(step, figures, log)  # while the checkpoint is written
                log.restart_pace(step, feed.waited_s)
                saves.restart()
            elif due_to_save or stopping:
                with log.spent("checkpoint"):
                    checkpoints.save(manager, state, checkpoints.NOT_EVALUATED)
                saves.restart()
            if stopping:
                _end_stopped(stopping, step, manager, log, workdir)
        with log.spent("checkpoint"):
            checkpoints.finish(manager)
        if (step := int(state.step)) > start:
            log.write(step, "time", log.spent.figures() | {"data_s": feed.waited_s})
        if stopping := largest_of_all(stop.signal):  # while the last step was scored
            _end_stopped(stopping, step, manager, log, workdir)


def _end_stopped(signal: int, step: int, manager: ocp.CheckpointManager, log: RunLog, workdir: Path) -> NoReturn:
    """Ends the process with the exit code of a signal, once the last checkpoint is on disk."""
    checkpoints.finish(manager)
    log.close()
    if is_first():
        print(f"stopped at step {step}, saved; start again on {workdir} to go on", file=sys.stderr)
    sys.exit(128 + signal)


def due(step: int, every: int) -> bool:
    """Returns whether something that is done `every` so many steps, 0 for never, is done after this one."""
    return bool(every) and step % every == 0


class _Profile:
    """Profiles some steps of a run, from the third on, when the devices are warm; none if none are asked for."""

    def __init__(self, start: int, steps: int, count: int, workdir: Path) -> None:
        self._steps = range(start + 3, min(start + 3 + count, steps + 1))
        self._folder = workdir / "profile"

    def begin(self, step: int) -> None:
        if step in self._steps[:1]:
            jax.profiler.start_trace(self._folder)

    def end(self, step: int, state: Any, log: RunLog) -> None:
        if step in self._steps[-1:]:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            log.say(f"profile of {len(self._steps)} steps: {self._folder}")


def _note_skipped(
    step: int, tiles: list[str], figures: dict[str, Any], log: RunLog, config: Config, manager: ocp.CheckpointManager
) -> None:
    """Writes a skipped step into the run log. Raises a ValueError if `train.most_skipped` in a row were skipped.

    Then the weights are at fault, which no skipped step has changed: checkpoints that hold them are set aside, so that the run can
    go on from the one before.
    """
    loss, norm, in_a_row = figures["loss"], figures["gradient_norm"], figures["skipped_in_a_row"]
    log.write(step, "skipped", {"tile_ids": tiles, "loss": str(loss), "gradient_norm": str(norm)})
    log.show(skipped=str(figures["skipped"]))
    if in_a_row >= config.train.most_skipped:
        checkpoints.finish(manager)
        workdir, steps = Path(manager.directory).parent, manager.all_steps()
        set_aside(workdir, {of: "its weights give no finite loss" for of in steps if of >= step - in_a_row})
        left = [of for of in steps if of < step - in_a_row]
        raise ValueError(
            f"{in_a_row} steps in a row, the last of them {step}, had a loss of {loss} and a "
            f"gradient norm of {norm}; tiles of the last batch: {', '.join(tiles)}; "
            f"{f'checkpoint {max(left)} is kept' if left else 'no checkpoint is left'}. "
            f"Start again with a lower rate, --change --config.optimizer.learning_rate={config.optimizer.learning_rate / 10:g}, "
            "or look at these tiles"
        )


def _calibrated(workdir: Path, config: Config) -> Trained:
    """The best checkpoint, with the temperature of its probabilities, fitted on the validation split if that is not done yet."""
    trained = load_trained(workdir)
    if read_calibration(workdir, trained.step) is not None:
        return trained
    calibration = calibrate(trained, config.data.data_dir, config.data.name, config.data.validation_split)
    if is_first():
        write_json(workdir / "calibration.json", calibration)
    return dataclasses.replace(trained, temperature=calibration["temperature"])


def _score_test(trained: Trained, builder: tfds.core.DatasetBuilder, workdir: Path) -> dict[str, Any]:
    """Scores the test split, writes figures, sums of tiles and pictures into the workdir, prints a table, returns the figures."""
    data = trained.config.data
    split = data.test_split
    figures = evaluate(trained, data.data_dir, data.name, split, files_of(workdir, split))
    if is_first():
        picture = workdir / split_file("examples", split, "png")
        pictures.draw_examples(trained, builder, split, picture)
        print(
            f"best checkpoint, step {trained.step}, on {figures['tiles']} tiles of {figures['dataset']} {figures['split']}:"
        )
        print(metrics.table(figures))
        print(f"pictures: {picture}")
    return figures
