"""Command: trains a SpecSAR-Former; without an argument, the quickstart on simulated tiles.

    python -m specsar_jax.train
    python -m specsar_jax.train --config configs/ben_mini.py --workdir runs/a --config.optimizer.learning_rate=3e-4

Started again on the same workdir it goes on where it stopped, and ends as if it had never been stopped.
"""

import contextlib
import dataclasses
import functools
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import tensorflow_datasets as tfds
from tensorboardX import SummaryWriter

from specsar_jax import checkpoints, losses, metrics, model, pictures, pipeline
from specsar_jax import config as configs
from specsar_jax.compilation import compile_ahead, keep_compiled_programs
from specsar_jax.config import Config
from specsar_jax.evaluate import evaluate, make_score, split_file
from specsar_jax.optimizer import learning_rate
from specsar_jax.preprocess import Statistics
from specsar_jax.pretrained import load_segformer
from specsar_jax.sharding import by_tile, check_batch_size, divisible, make_mesh, put, replicated
from specsar_jax.train_state import init_state, train_step
from tfds_dwplus import Builder
from tfds_dwplus.command_line import Parser, progress, run
from tfds_dwplus.prepare import prepare
from tfds_dwplus.prepared import open_dataset, read_split

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
    args, rest = parser.parse_known_args(argv)
    file = args.config or QUICKSTART
    config = configs.override(configs.load(file), _assignments(parser, rest))
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
        ValueError: config, data set and workdir do not fit each other.
    """
    # Data: what is asked for, and what it takes the network to read it.
    builder = open_or_simulate(config)
    config, statistics = resolve(config, builder)
    mesh = make_mesh()
    check_batch_size(config.train.batch_size, mesh, "train.batch_size")
    train_source = read_split(builder, config.data.train_split)
    validation_source = read_split(builder, config.data.validation_split)
    rasters = pipeline.select(config.data.s2_bands, pipeline.dataset_bands(builder), config.model.sensors)
    pipeline.check_crop(train_source, config)
    if _has_test_split(config, builder):
        read_split(builder, config.data.test_split)  # a wrong one is told now, not after the training
    variables = None
    if config.train.pretrained and not checkpoints.any_saved(workdir):
        drawn = model.init_params(config.model, jax.random.key(config.train.seed))
        variables, carried = load_segformer(Path(config.train.pretrained), drawn, config.model, config.data.s2_bands)
        print(carried.summary())
    checkpoints.claim_workdir(workdir, config, statistics)
    if variables is not None:
        checkpoints.write_json(workdir / "pretrained.json", carried.to_dict())
    print(
        f"{builder.info.full_name}: {len(train_source)} tiles of {config.data.train_split} to learn from, "
        f"{len(validation_source)} of {config.data.validation_split} to choose the checkpoint by; workdir {workdir}"
    )

    # State: fresh, or where the last run stopped.
    manager = checkpoints.open_checkpoints(workdir, clean_up=True)
    state = checkpoints.restore(manager, jax.eval_shape(lambda: init_state(config)), mesh)
    if state is None:
        state = jax.device_put(init_state(config, variables), replicated(mesh))
    start = int(state.step)
    if start:
        print(f"going on from step {start}")

    # Programs: one step, one evaluation.
    alpha = losses.class_alpha(statistics.label_pixels, config.loss.alpha_power)
    step_program = jax.jit(
        functools.partial(train_step, config=config, statistics=statistics, alpha=alpha),
        in_shardings=(replicated(mesh), by_tile(mesh)),
        out_shardings=replicated(mesh),
        donate_argnums=0,
    )
    score = make_score(config, statistics, mesh)
    eval_batch_size = divisible(config.train.eval_batch_size, mesh)

    # Loop.
    with (
        manager,
        Journal(workdir, start) as journal,
        StopRequest() as stop,
        contextlib.closing(pipeline.train_batches(train_source, rasters, config, start)) as batches,
    ):
        bar = progress(total=config.train.steps, initial=start, desc="training", unit="step", smoothing=0.1)
        schedule = learning_rate(config.optimizer, config.train.steps)
        bar.set_postfix_str("compiling; kept for the next run")
        clock, logged = time.monotonic(), start
        for step in range(start + 1, config.train.steps + 1):
            batch = put(next(batches), mesh)
            if step == start + 1:
                step_program = compile_ahead(step_program, state, batch)
            state, sums = step_program(state, batch)
            bar.update()
            if step % config.train.log_every == 0:
                sums = {name: float(value) for name, value in jax.device_get(sums).items()}
                speed = config.train.batch_size * (step - logged) / (time.monotonic() - clock)
                clock, logged = time.monotonic(), step
                journal.write(
                    step, "train", sums | {"learning_rate": float(schedule(step - 1)), "tiles_per_second": speed}
                )
                bar.set_postfix_str(f"loss {sums['loss']:.3f}, {speed:.1f} tiles/s")
            if step % config.train.eval_every == 0 or step == config.train.steps:
                held_out = pipeline.evaluation_batches(validation_source, rasters, config, eval_batch_size)
                figures = score(state.variables(), held_out)
                named = {"dataset": builder.info.full_name, "split": config.data.validation_split}
                journal.write(step, "eval", named | {"tiles": len(validation_source)} | figures)
                # An all-unlabelled validation split has no mIoU; its checkpoints are as good as each other.
                checkpoints.save(manager, state, figures["mean_iou"] or 0.0)
                bar.write(f"step {step}: validation {_headline(figures)}")
                clock, logged = time.monotonic(), step
            elif step == start + 1 and step % config.train.log_every:
                jax.block_until_ready(sums)  # compiled by now: what follows is speed
                clock, logged = time.monotonic(), step
            if stop.signal:
                checkpoints.save(manager, state, checkpoints.NOT_EVALUATED)
                manager.wait_until_finished()  # before saying so
                bar.close()
                print(f"stopped at step {step}, saved; start again on {workdir} to go on", file=sys.stderr)
                sys.exit(128 + stop.signal)
        bar.close()

    # The end: the best checkpoint, on tiles that had no say in anything.
    split = config.data.test_split
    if not _has_test_split(config, builder):
        print(f"no split {split!r} in {builder.info.full_name}: nothing to score on")
        return None
    trained = checkpoints.load_trained(workdir)
    figures = evaluate(trained, config.data.data_dir, config.data.name, split)
    checkpoints.write_json(workdir / split_file("evaluation", split, "json"), figures)
    picture = workdir / split_file("examples", split, "png")
    pictures.draw_examples(trained, builder, split, picture)
    print(
        f"best checkpoint, step {trained.step}, on {figures['tiles']} tiles of {figures['dataset']} {figures['split']}:"
    )
    print(metrics.table(figures))
    print(f"pictures: {picture}")
    return figures


def open_or_simulate(config: Config) -> tfds.core.DatasetBuilder:
    """The data set of the config; the simulated one is made on first use."""
    default = Builder.BUILDER_CONFIGS[0]
    if (
        config.data.name == default.name
        and not (Path(config.data.data_dir) / "dynamic_world_plus" / default.name).exists()
    ):
        print("making the SIMULATED data set, on first use")
        prepare(default, Path(config.data.data_dir))
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


class Journal:
    """`metrics.jsonl` and TensorBoard: one line, or one point a figure, for each event."""

    def __init__(self, workdir: Path, start: int) -> None:
        """Drops lines of steps after `start`: the run did them, was killed before the next checkpoint, and does them again."""
        path = workdir / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= start]
            path.write_text("".join(line + "\n" for line in kept))
        self._file = path.open("a", buffering=1)
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1 if start else None)

    def write(self, step: int, kind: str, figures: dict[str, Any]) -> None:
        """Writes the figures of a step; `kind` is 'train' or 'eval'."""
        self._file.write(json.dumps({"step": step, "kind": kind} | figures) + "\n")
        for name, value in figures.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._board.close()


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a wish, `signal`, that the loop grants between two steps. A second Ctrl-C ends at once."""

    signal = 0

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number


def _has_test_split(config: Config, builder: tfds.core.DatasetBuilder) -> bool:
    """False if the config wants no test, or its default 'test' is not there."""
    return bool(config.data.test_split) and (config.data.test_split != "test" or "test" in builder.info.splits)


def _step_of(line: str) -> float:
    """The step of a line of `metrics.jsonl`; infinite for a line that was cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")


def _headline(figures: dict[str, Any]) -> str:
    shown = {"mIoU": figures["mean_iou"], "overall accuracy": figures["overall_accuracy"]}
    return ", ".join(f"{name} {'-' if value is None else f'{100 * value:.1f} %'}" for name, value in shown.items())


if __name__ == "__main__":
    run(main)
