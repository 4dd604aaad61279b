"""What `specsar_jax.devices` does as a command: its arguments, its report, its exit code."""

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from specsar_jax import config as configs
from specsar_jax.config import Config
from specsar_jax.config.files import QUICKSTART
from specsar_jax.devices import accelerators
from specsar_jax.devices.accelerators import DEVICES
from specsar_jax.devices.compilation import keep_compiled_programs
from specsar_jax.devices.sharding import is_first, say
from specsar_jax.preflight import report as reports
from specsar_jax.preflight import surroundings
from specsar_jax.train import join_processes, run_arguments, run_parser
from specsar_jax.trained.run_files import read_config

DOES_NOT_FIT = 1
"""Exit code where the run would not start on these devices, or does not fit."""


def main(argv: list[str]) -> None:
    """Parses the arguments and prints the report; exits with code 1 if the run would not start, or does not fit."""
    parser = run_parser(
        "Tells what devices there are and, with a config, whether a run would fit on them: its programs are compiled for their shapes, "
        "nothing is trained, and nothing is written but compiled programs, into the cache, where the run finds them. Exit code 0 if it "
        "fits or that is not known, 1 if it does not fit or would not start, 2 for wrong input. --workdir without --config looks at the "
        "config of a run.",
        "python -m specsar_jax.devices --config configs/quickstart.py --config.train.batch_size=16",
    )
    if Path(sys.argv[0]).name == "__main__.py":
        parser.prog = "python -m specsar_jax.devices"
    parser.add_argument(
        "--device",
        type=_device,
        metavar="NAME[:COUNT]",
        help=f"compile for devices that are not here, up to 8 of a machine: {', '.join(DEVICES)}; needs the extra 'aot'",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON, in bytes")
    args, assignments = run_arguments(parser, argv)
    own_output = _output_for_the_report()
    config, name = _config(args, assignments)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a run beside this one keeps its memory
    if args.device:
        if args.distributed or args.coordinator:
            parser.error(
                "--device asks for devices that are not here, --distributed and --coordinator for those of a run"
            )
        devices, processes = _described(*args.device)
        doubts: list[str] = []
    else:
        join_processes(args)
        keep_compiled_programs()
        devices, processes = None, surroundings.processes()
        doubts = surroundings.doubts([of["platform"] for of in processes])
    report = reports.surroundings_report(processes, doubts)
    if config is not None:
        report = reports.with_run(report, config, name, devices, _tell)
    with own_output():
        say(json.dumps(report, indent=1) if args.json else reports.text(report))
    if not reports.passes(report):
        sys.exit(DOES_NOT_FIT)


def _config(args: argparse.Namespace, assignments: list[str]) -> tuple[Config | None, str]:
    """The config that is meant and its name; None if none is."""
    if args.config is None and args.workdir is not None and (args.workdir / "config.json").is_file():
        return configs.override(read_config(args.workdir), assignments), str(args.workdir / "config.json")
    if args.config is None and not (assignments or args.device or args.workdir):
        return None, ""
    file = args.config or QUICKSTART
    return configs.override(configs.load(file), assignments), " ".join([file.stem, *assignments])


def _device(text: str) -> tuple[str, int]:
    """Parses --device: 'h100', 'v5e:8'."""
    found = re.fullmatch(r"(\w+)(?::([1-8]))?", text)
    if not found or found[1] not in DEVICES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not one of {', '.join(DEVICES)}, or of these with :COUNT, 1 to 8"
        )
    return found[1], int(found[2] or 1)


def _described(name: str, count: int) -> tuple[list[Any], list[dict[str, Any]]]:
    """Devices that are not here, and what they are as a process of a run."""
    if accelerators.without_compiler([name]):
        raise ValueError(f"no compiler for {name} is installed: pip install 'specsar_jax[aot]'")
    accelerators.prepare_environment()
    devices = accelerators.described(name, count)
    return devices, [surroundings.described_process(name, DEVICES[name], devices)]


def _output_for_the_report() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Sends what libraries print to stderr from here on, as Gloo does of its connections, and returns what lends the output again."""
    try:
        real = sys.stdout.fileno()
    except OSError:  # in a notebook or a test there is none
        return contextlib.nullcontext
    kept = os.dup(real)
    os.dup2(sys.stderr.fileno(), real)

    @contextlib.contextmanager
    def lent() -> Iterator[None]:
        os.dup2(kept, real)
        yield
        sys.stdout.flush()
        os.dup2(sys.stderr.fileno(), real)  # what C++ holds back is written when the process ends

    return lent


def _tell(what: str) -> None:
    if is_first():
        print(f"{what} ...", file=sys.stderr, flush=True)
