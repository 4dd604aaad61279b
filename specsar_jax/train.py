"""Command: trains a SpecSAR-Former; without an argument, the quickstart on simulated tiles.

    python -m specsar_jax.train
    python -m specsar_jax.train --config configs/ben_mini.py --workdir runs/a --config.optimizer.learning_rate=3e-4

Started again on the same workdir it goes on where it stopped, and ends as if it had never been stopped.
"""

import contextlib
import dataclasses
import functools
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds

from specsar_jax import checkpoints, losses, metrics, model, pictures, pipeline, preprocess
from specsar_jax import config as configs
from specsar_jax.compilation import collector_spared, compile_ahead, keep_compiled_programs
from specsar_jax.config import Config
from specsar_jax.evaluate import calibrate, evaluate, make_score, split_file
from specsar_jax.feed import Feed
from specsar_jax.finetune import load_finetuned
from specsar_jax.journal import Journal, Stopwatch, peak_memory_gb, write_start
from specsar_jax.optimizer import learning_rate
from specsar_jax.preprocess import Statistics
from specsar_jax.pretrained import Carried, load_segformer
from specsar_jax.sharding import (
    by_tile,
    check_batch_size,
    for_mesh,
    is_first,
    largest_of_all,
    make_mesh,
    of_state,
    replicated,
    rows_here,
    shared_batch,
    start_processes,
    wait_for_all,
)
from specsar_jax.train_state import TrainState, init_state, train_step
from tfds_dwplus import Builder, bands
from tfds_dwplus.command_line import Parser, run
from tfds_dwplus.prepare import prepare
from tfds_dwplus.prepared import open_dataset, read_split

TILES_SHOWN = 3
"""Of the validation split, on TensorBoard."""

QUICKSTART = Path(__file__).parent.parent / "configs" / "quickstart.py"


def main(argv: list[str]) -> None:
    """Parses the arguments, trains, and scores the test split."""
    parser = Parser(
        "Trains a SpecSAR-Former. Any field of the config can be set: --config.section.field=value. --config.model=PRESET "
        f"takes a whole network, PRESET being one of {', '.join(configs.PRESETS)}.",
        "python -m specsar_jax.train --config configs/quickstart.py --config.train.seed=1",
    )
    parser.add_argument("--config", type=Path, help="Python file with get_config(); configs/quickstart.py if not given")
    parser.add_argument("--workdir", type=Path, help="runs/<name of the config> if not given")
    parser.add_argument(
        "--distributed", action="store_true", help="join the other processes that TPU pod or SLURM started"
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="join other processes, the first of which is there")
    parser.add_argument("--processes", type=int, help="how many there are, with --coordinator")
    parser.add_argument("--process_id", type=int, help="which of them this is, from 0, with --coordinator")
    args, rest = parser.parse_known_args(argv)
    named = (args.coordinator, args.processes, args.process_id)
    if any(part is not None for part in named) and None in named:
        parser.error("--coordinator, --processes and --process_id go together")
    file = args.config or QUICKSTART
    config = configs.override(configs.load(file), _assignments(parser, rest))
    if args.distributed or args.coordinator:
        start_processes(*named)
    keep_compiled_programs()
    train(config, args.workdir or Path("runs") / file.stem)


def _assignments(parser: Parser, rest: list[str]) -> Iterator[str]:
    """'--config.a.b=c' and '--config.a.b c' -> 'a.b=c'."""
    rest = list(rest)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--config."):
            parser.error(f"unknown argument {flag}")
        if "=" not in flag and rest and not rest[0].startswith("--"):
            flag += "=" + rest.pop(0)
        yield flag.removeprefix("--config.")


def train(config: Config, workdir: Path) -> dict[str, Any] | None:
    """Trains in `workdir` until `train.steps`, then scores the best checkpoint on the test split.

    Returns:
        the figures of the test split; None where the data set has none.

    Raises:
        ValueError: config, data set and workdir do not fit each other, a checkpoint cannot be written, or too many steps in
            a row were not finite.
    """
    # Data: what is asked for, and what it takes the network to read it.
    builder = open_or_simulate(config)
    config, statistics = resolve(config, builder)
    mesh = make_mesh(config.mesh)
    check_batch_size(config.train.batch_size, mesh, "train.batch_size", config.train.accumulate)
    train_source = read_split(builder, config.data.train_split)
    validation_source = read_split(builder, config.data.validation_split)
    pipeline.check_crop(train_source, config)
    if _has_test_split(config, builder):
        read_split(builder, config.data.test_split)  # a wrong one is told now, not after the training
    variables, carried = _given_weights(config, workdir)
    with checkpoints.claimed(workdir, config, statistics):
        if carried is not None and is_first():
            checkpoints.write_json(workdir / "pretrained.json", carried.to_dict())
        _say(
            f"{builder.info.full_name}: {len(train_source)} tiles of {config.data.train_split} to learn from, "
            f"{len(validation_source)} of {config.data.validation_split} to choose the checkpoint by; workdir {workdir}"
        )
        _optimise(config, statistics, builder, train_source, validation_source, variables, mesh, workdir)
        return _score_test(config, builder, workdir)


def make_program(config: Config, statistics: Statistics, mesh: jax.sharding.Mesh, shardings: Any) -> Any:
    """`train_state.train_step` to be compiled: (state, batch) -> (state, sums). The state that it is given is gone.

    Args:
        config: as `resolve` gives it.
        statistics: of the batch's bands.
        mesh: devices; the batch is split over them by tile.
        shardings: where the state lies, of `sharding.of_state`.
    """
    alpha = losses.class_alpha(statistics.label_pixels, config.loss)
    return jax.jit(
        for_mesh(functools.partial(train_step, config=config, statistics=statistics, alpha=alpha), mesh),
        in_shardings=(shardings, by_tile(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def _optimise(
    config: Config,
    statistics: Statistics,
    builder: tfds.core.DatasetBuilder,
    train_source: Any,
    validation_source: Any,
    variables: model.Variables | None,
    mesh: jax.sharding.Mesh,
    workdir: Path,
) -> None:
    """The loop: from `variables`, or as the seed has them, or from the last checkpoint, to the last step."""
    # State: fresh, or where the last run stopped.
    manager = checkpoints.open_checkpoints(workdir, clean_up=True)
    abstract = jax.eval_shape(lambda: init_state(config))
    shardings = of_state(abstract, mesh, config.mesh)
    state = checkpoints.restore(manager, abstract, shardings)
    if state is None:
        state = _fresh_state(config, variables, shardings)
    start = int(state.step)
    if start:
        _say(f"going on from step {start}")
    if is_first():
        write_start(workdir, start)

    # Programs: one step, one evaluation.
    program = make_program(config, statistics, mesh, shardings)
    score = make_score(config, statistics, mesh, shardings.variables(config))
    rasters = pipeline.select(config.data.s2_bands, pipeline.dataset_bands(builder), config.model.sensors)
    rows = rows_here(config.train.batch_size, mesh)

    # Loop.
    with (
        manager,
        Journal(workdir, start, config.train.steps, mute=not is_first()) as journal,
        StopRequest() as stop,
        contextlib.closing(pipeline.train_batches(train_source, rasters, config, start, rows)) as batches,
        contextlib.ExitStack() as at_the_end,
    ):
        feed, spent = Feed(batches, mesh), Stopwatch()
        schedule = jax.jit(learning_rate(config.optimizer, config.train.steps))
        journal.show(compiling="(kept for the next run)")
        clock, logged, waited_s = time.monotonic(), start, 0.0
        profiled = range(start + 3, min(start + 3 + config.train.profile_steps, config.train.steps + 1))
        for step in range(start + 1, config.train.steps + 1):
            if out_of_patience(journal.evaluations, config):
                _say(f"no better evaluation in {config.train.patience}: the run ends at step {step - 1}")
                break
            if step == start + 1:
                feed.fetch()
                with spent("compile"):
                    program = compile_ahead(program, state, feed.batch)
                    schedule(start)
                    at_the_end.enter_context(collector_spared())
                clock, waited_s = time.monotonic(), feed.waited_s
                journal.show(compiling="")
            if step in profiled[:1]:
                jax.profiler.start_trace(workdir / "profile")
            state, sums = program(state, feed.batch)
            feed.follow(step, sums)
            journal.advance()
            due_to_log = step % config.train.log_every == 0
            due_to_score = step % config.train.eval_every == 0 or step == config.train.steps
            due_to_save = bool(config.train.save_every) and step % config.train.save_every == 0
            stopping = stop.agreed(step, config.train.log_every)
            if step < config.train.steps:
                feed.fetch()  # while the devices compute
            for skipped in feed.settle(all_steps=due_to_log or due_to_score or due_to_save or bool(stopping)):
                _note_skipped(skipped, journal, config)
            if step in profiled[-1:]:
                jax.block_until_ready(state)
                jax.profiler.stop_trace()
                journal.say(f"profile of {len(profiled)} steps: {workdir / 'profile'}")
            if due_to_log:
                seconds = time.monotonic() - clock
                figures = {name: value.item() for name, value in jax.device_get(sums).items()} | {
                    "learning_rate": float(schedule(step - 1)),
                    "tiles_per_second": config.train.batch_size * (step - logged) / seconds,
                    "data_wait_share": min((feed.waited_s - waited_s) / seconds, 1.0),
                    "memory_gb": peak_memory_gb(),
                }
                journal.write(step, "train", figures)
                journal.show(
                    loss=f"{figures['loss']:.3f}",
                    tiles=f"{figures['tiles_per_second']:.1f}/s",
                    data=f"{figures['data_wait_share']:.0%}",
                    memory=f"{figures['memory_gb']:.1f} GB",
                )
                clock, logged, waited_s = time.monotonic(), step, feed.waited_s
            if due_to_score:
                held_out = pipeline.evaluation_batches(
                    validation_source, rasters, config, *shared_batch(config.train.eval_batch_size, mesh)
                )
                with spent("evaluate"):
                    figures = score(state.variables(config), held_out, functools.partial(_show, step, config, journal))
                named = {"dataset": builder.info.full_name, "split": config.data.validation_split}
                journal.write(step, "eval", named | {"tiles": len(validation_source)} | figures)
                with spent("checkpoint"):
                    checkpoints.save(manager, state, _score_of(figures, config))
                journal.show_picture(
                    step, "confusion", pictures.pixels(pictures.confusion(np.array(figures["confusion_matrix"])))
                )
                journal.say(f"step {step}: validation {_headline(figures)}")
                journal.show(mIoU="-" if figures["mean_iou"] is None else f"{100 * figures['mean_iou']:.1f} %")
                clock, logged, waited_s = time.monotonic(), step, feed.waited_s
            elif due_to_save or stopping:
                with spent("checkpoint"):
                    checkpoints.save(manager, state, checkpoints.NOT_EVALUATED)
                if stopping:
                    checkpoints.finish(manager)  # before saying so
                    journal.close()
                    if is_first():
                        print(f"stopped at step {step}, saved; start again on {workdir} to go on", file=sys.stderr)
                    sys.exit(128 + stopping)
        with spent("checkpoint"):
            checkpoints.finish(manager)
        if (step := int(state.step)) > start:
            journal.write(step, "time", spent.figures() | {"data_s": feed.waited_s})


def _score_test(config: Config, builder: tfds.core.DatasetBuilder, workdir: Path) -> dict[str, Any] | None:
    """The end: the best checkpoint, its probabilities calibrated on the validation split; its figures and pictures on tiles that
    had no say in anything, None if there are none.
    """
    trained = _calibrated(config, workdir)
    split = config.data.test_split
    if not _has_test_split(config, builder):
        _say(f"no split {split!r} in {builder.info.full_name}: nothing to score on")
        return None
    tiles = workdir / split_file("tiles", split, "npz")
    figures = evaluate(trained, config.data.data_dir, config.data.name, split, tiles)
    if is_first():
        checkpoints.write_json(workdir / split_file("evaluation", split, "json"), figures)
        picture = workdir / split_file("examples", split, "png")
        pictures.draw_examples(trained, builder, split, picture)
        print(
            f"best checkpoint, step {trained.step}, on {figures['tiles']} tiles of {figures['dataset']} {figures['split']}:"
        )
        print(metrics.table(figures))
        print(f"pictures: {picture}")
    return figures


def _calibrated(config: Config, workdir: Path) -> checkpoints.Trained:
    """The best checkpoint, with the temperature of its probabilities; fitted, if that has not been done yet."""
    trained = checkpoints.load_trained(workdir)
    if checkpoints.read_calibration(workdir, trained.step) is not None:
        return trained
    calibration = calibrate(trained, config.data.data_dir, config.data.name, config.data.validation_split)
    if is_first():
        checkpoints.write_json(workdir / "calibration.json", calibration)
    return dataclasses.replace(trained, temperature=calibration["temperature"])


def _show(step: int, config: Config, journal: Journal, batch: pipeline.Batch, log_p: jax.Array) -> None:
    """Puts the first tiles of an evaluation onto TensorBoard, as far as this process holds them."""
    if not is_first():
        return
    parts = {part.index[0].start or 0: part.data for part in log_p.addressable_shards}
    predictions = np.concatenate([np.asarray(parts[start]) for start in sorted(parts)]).argmax(axis=-1).astype(np.uint8)
    rows = []
    for tile, prediction in enumerate(predictions[:TILES_SHOWN]):
        if batch["about"][tile]:
            record = {name: batch[name][tile] for name in pipeline.RASTERS}
            valid = preprocess.valid_pixels(record["s2"], record["s1"], config.model.sensors)
            prediction = np.where(valid, prediction, np.uint8(bands.IGNORE))
            rows.append((batch["tile_id"][tile].decode(), pictures.panels(record, config.data.s2_bands, prediction)))
    if rows:
        journal.show_picture(step, "tiles", pictures.pixels(pictures.examples(rows, f"validation, step {step}")))


def _note_skipped(skipped: tuple[int, list[str], dict[str, Any]], journal: Journal, config: Config) -> None:
    """Writes a skipped step into the journal. Raises a ValueError if it is one too many."""
    step, tiles, figures = skipped
    journal.write(
        step,
        "skipped",
        {"tile_ids": tiles, "loss": str(figures["loss"]), "gradient_norm": str(figures["gradient_norm"])},
    )
    journal.show(skipped=str(figures["skipped"]))
    if figures["skipped_in_a_row"] >= config.train.most_skipped:
        raise ValueError(
            f"{figures['skipped_in_a_row']} steps in a row, the last of them {step}, had a loss of {figures['loss']} and a "
            f"gradient norm of {figures['gradient_norm']}; tiles of the last batch: {', '.join(tiles)}. The last checkpoint "
            "is kept; lower optimizer.learning_rate, or look at these tiles"
        )


def _given_weights(config: Config, workdir: Path) -> tuple[Any, Carried | None]:
    """Weights to start from and what was carried over; nothing where there are none, or the run has begun before."""
    if config.train.pretrained and config.train.finetune:
        raise ValueError("both train.pretrained and train.finetune are given; a run starts from one of them")
    if not (config.train.pretrained or config.train.finetune) or checkpoints.any_saved(workdir):
        return None, None
    drawn = model.init_params(config.model, jax.random.key(config.train.seed))
    if config.train.pretrained:
        given = load_segformer(Path(config.train.pretrained), drawn, config.model, config.data.s2_bands)
    else:
        given = load_finetuned(Path(config.train.finetune), drawn, config)
    _say(given[1].summary())
    return given


def _fresh_state(config: Config, variables: Any, shardings: Any) -> TrainState:
    """The state before the first step, on the mesh."""
    if jax.process_count() == 1 and config.mesh.parameters == "replicated":
        return jax.device_put(init_state(config, variables), shardings)  # compiles next to nothing
    # No device ever holds it whole.
    variables = jax.tree.map(np.asarray, variables)
    return jax.jit(functools.partial(init_state, config), out_shardings=shardings)(variables)


def _score_of(figures: dict[str, Any], config: Config) -> float:
    """What the best checkpoint is chosen by: the larger, the better."""
    value = figures[config.train.best_by]
    if value is None:
        return 0.0  # without a labelled pixel, one is as good as the other
    return -value if config.train.best_by == "loss" else value


def out_of_patience(evaluations: list[dict[str, Any]], config: Config) -> bool:
    """Whether `train.patience` evaluations have gone by since the best one."""
    scores = [_score_of(figures, config) for figures in evaluations]
    return bool(config.train.patience and scores) and len(scores) - 1 - int(np.argmax(scores)) >= config.train.patience


def _say(text: str) -> None:
    """Prints once a run, not once a process."""
    if is_first():
        print(text)


def open_or_simulate(config: Config) -> tfds.core.DatasetBuilder:
    """The data set of the config; the simulated one is made on first use."""
    default = Builder.BUILDER_CONFIGS[0]
    if (
        config.data.name == default.name
        and not (Path(config.data.data_dir) / "dynamic_world_plus" / default.name).exists()
        and is_first()
    ):
        print("making the SIMULATED data set, on first use")
        prepare(default, Path(config.data.data_dir))
    wait_for_all("data set")
    return open_dataset(config.data.data_dir, config.data.name)


def resolve(config: Config, builder: tfds.core.DatasetBuilder) -> tuple[Config, Statistics]:
    """The config with bands, channels, splits and crop as the data set has them, and the statistics of those bands.

    Raises:
        ValueError: a sensor or a band that the data set lacks.
    """
    sensors = config.model.sensors
    pipeline.check_sensors(builder, sensors)
    statistics = pipeline.dataset_statistics(builder)
    s2_bands = ("s2" in sensors and config.data.s2_bands) or pipeline.dataset_bands(builder)
    statistics = dataclasses.replace(statistics, s2=statistics.s2.choose(s2_bands))
    config = pipeline.choose_splits(builder, config)
    crop_px = config.data.crop_px or builder.info.features["label"].shape[0]
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, s2_bands=s2_bands, crop_px=crop_px),
        model=dataclasses.replace(config.model, s2_channels=len(s2_bands), s1_channels=len(statistics.s1.bands)),
    ), statistics


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a wish, `signal`, that the loop grants between two steps. A second Ctrl-C ends at once."""

    signal = 0

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self, step: int, every: int) -> int:
        """The signal that any process of the run has got; among several, asked for every so many steps, lest it slow them."""
        if jax.process_count() > 1 and step % every:
            return 0
        return largest_of_all(self.signal)

    def _ask(self, number: int, _: object) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number


def _has_test_split(config: Config, builder: tfds.core.DatasetBuilder) -> bool:
    """False if the config wants no test, or its default 'test' is not there."""
    return bool(config.data.test_split) and (config.data.test_split != "test" or "test" in builder.info.splits)


def _headline(figures: dict[str, Any]) -> str:
    shown = {"mIoU": figures["mean_iou"], "overall accuracy": figures["overall_accuracy"]}
    return ", ".join(f"{name} {'-' if value is None else f'{100 * value:.1f} %'}" for name, value in shown.items())


if __name__ == "__main__":
    run(main)
