"""Command: trains a SpecSAR-Former; without an argument, the quickstart on simulated tiles.

    python -m specsar_jax.train
    python -m specsar_jax.train --config configs/ben_mini.py --workdir runs/a --config.optimizer.learning_rate=3e-4

Started again on the same workdir, it resumes from the last checkpoint, with the same result as an uninterrupted run.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from specsar_jax import config as configs
from specsar_jax.config.files import QUICKSTART, config_file
from specsar_jax.devices.compilation import keep_compiled_programs
from specsar_jax.devices.sharding import start_devices, start_processes
from specsar_jax.training.checkpoints import MAY_CHANGE_IF_ASKED
from specsar_jax.training.loop import train
from tfds_dwplus.command_line import Parser, path, run


def main(argv: list[str]) -> None:
    """Parses the arguments, trains, and scores the test split."""
    parser = run_parser(
        "Trains a SpecSAR-Former.", "python -m specsar_jax.train --config configs/quickstart.py --config.train.seed=1"
    )
    parser.add_argument(
        "--change",
        action="store_true",
        help=f"go on, on a workdir, with another {' or '.join(MAY_CHANGE_IF_ASKED)} than before",
    )
    args, assignments = run_arguments(parser, argv)
    file = args.config or QUICKSTART
    config = configs.override(configs.load(file), assignments)
    join_processes(args)
    start_devices()
    keep_compiled_programs()
    train(config, args.workdir or Path("runs") / file.stem, args.change)


def run_parser(description: str, example: str) -> Parser:
    """Returns a parser of the arguments that say which run is meant and which processes it has, with all settings in its --help."""
    parser = _Parser(
        f"{description} Any field of the config can be set: --config.section.field=value. --config.model=PRESET "
        f"replaces the whole network by a preset: {', '.join(configs.PRESETS)}.",
        example,
    )
    parser.add_argument(
        "--config",
        type=config_file,
        help="Python file with get_config(), or the name of one of configs/; quickstart if not given",
    )
    parser.add_argument("--workdir", type=path, help="folder of the run; runs/<name of the config> if not given")
    parser.add_argument(
        "--distributed", action="store_true", help="join the other processes of the run on a TPU pod or under SLURM"
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="join the run whose first process has this address")
    parser.add_argument("--processes", type=int, help="number of processes of the run, with --coordinator")
    parser.add_argument("--process_id", type=int, help="number of this process, from 0, with --coordinator")
    return parser


def run_arguments(parser: Parser, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parses the arguments of a command by its `run_parser`; also returns the assignments of settings, as `configs.override` takes them."""
    args, rest = parser.parse_known_args(argv)
    named = (args.coordinator, args.processes, args.process_id)
    if any(part is not None for part in named) and None in named:
        parser.error("--coordinator, --processes and --process_id go together")
    return args, list(_assignments(parser, rest))


def join_processes(args: argparse.Namespace) -> None:
    """Joins the other processes of the run, if the arguments say that there are some."""
    if args.distributed or args.coordinator:
        start_processes(args.coordinator, args.processes, args.process_id)


class _Parser(Parser):
    """Ends --help with all settings."""

    def format_help(self) -> str:
        return f"{super().format_help()}\n{configs.help_text()}\n"


def _assignments(parser: Parser, rest: list[str]) -> Iterator[str]:
    """Yields the assignments of the flags: '--config.a.b=c' and '--config.a.b c' -> 'a.b=c'."""
    rest = list(rest)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--config."):
            parser.error(f"unknown argument {flag}")
        if "=" not in flag and rest and not rest[0].startswith("--"):
            flag += "=" + rest.pop(0)
        yield flag.removeprefix("--config.")


if __name__ == "__main__":
    run(main)
