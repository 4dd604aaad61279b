"""Command: trains a SpecSAR-Former; without an argument, the quickstart on simulated tiles.

    python -m specsar_jax.train
    python -m specsar_jax.train --config configs/ben_mini.py --workdir runs/a --config.optimizer.learning_rate=3e-4

Started again on the same workdir, it resumes from the last checkpoint, with the same result as an uninterrupted run.
"""

from collections.abc import Iterator
from pathlib import Path

from specsar_jax import config as configs
from specsar_jax.config.files import QUICKSTART, config_file
from specsar_jax.devices.compilation import keep_compiled_programs
from specsar_jax.devices.sharding import start_processes
from specsar_jax.training.checkpoints import MAY_CHANGE_IF_ASKED
from specsar_jax.training.loop import train
from tfds_dwplus.command_line import Parser, path, run


def main(argv: list[str]) -> None:
    """Parses the arguments, trains, and scores the test split."""
    parser = _Parser(
        "Trains a SpecSAR-Former. Any field of the config can be set: --config.section.field=value. --config.model=PRESET "
        f"replaces the whole network by a preset: {', '.join(configs.PRESETS)}.",
        "python -m specsar_jax.train --config configs/quickstart.py --config.train.seed=1",
    )
    parser.add_argument(
        "--config",
        type=config_file,
        help="Python file with get_config(), or the name of one of configs/; quickstart if not given",
    )
    parser.add_argument("--workdir", type=path, help="folder of the run; runs/<name of the config> if not given")
    parser.add_argument(
        "--change",
        action="store_true",
        help=f"go on, on a workdir, with another {' or '.join(MAY_CHANGE_IF_ASKED)} than before",
    )
    parser.add_argument(
        "--distributed", action="store_true", help="join the other processes of the run on a TPU pod or under SLURM"
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="join the run whose first process has this address")
    parser.add_argument("--processes", type=int, help="number of processes of the run, with --coordinator")
    parser.add_argument("--process_id", type=int, help="number of this process, from 0, with --coordinator")
    args, rest = parser.parse_known_args(argv)
    named = (args.coordinator, args.processes, args.process_id)
    if any(part is not None for part in named) and None in named:
        parser.error("--coordinator, --processes and --process_id go together")
    file = args.config or QUICKSTART
    config = configs.override(configs.load(file), _assignments(parser, rest))
    if args.distributed or args.coordinator:
        start_processes(*named)
    keep_compiled_programs()
    train(config, args.workdir or Path("runs") / file.stem, args.change)


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
