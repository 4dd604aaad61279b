"""Runs of a benchmark, each kept as a line of JSON once it is scored, so that a benchmark that was stopped goes on where it stopped."""

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """The runs that are done."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(path: Path, run: dict[str, Any]) -> None:
    """Adds a run, which another process may do to the same file, with the machine that it ran on."""
    with path.open("a") as file:
        file.write(json.dumps(run | {"machine": machine()}) + "\n")


def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Returns a parser of an argument that names some rows, as `plain,taught`."""

    def parsed(text: str) -> list[str]:
        if unknown := [name for name in text.split(",") if name not in known]:
            raise argparse.ArgumentTypeError(f"no row {unknown[0]!r}, expected some of {','.join(known)}")
        return text.split(",")

    return parsed


def machine() -> str:
    """Where the figures come from."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "specsar_jax"))
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {versions}"


def machines(runs: list[dict[str, Any]]) -> str:
    """The machines of some runs, to stand below their table."""
    return "; ".join(sorted({run["machine"] for run in runs}))
