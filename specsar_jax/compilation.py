"""Compiling: kept on disk, so that a command waits for it once, and ahead of the first call; and the objects it leaves."""

import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from specsar_jax.sharding import wait_for_all


def keep_compiled_programs() -> None:
    """Turns on JAX's persistent compilation cache in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR says where."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "specsar_jax" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))


def compile_ahead(program: Any, *arguments: Any) -> Any:
    """`program`, a `jax.jit`, compiled for arguments of these shapes, types and shardings, by all processes of the run.

    Python's collector rests meanwhile: it would walk again and again through the millions of objects of a traced gradient.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        compiled = program.lower(*arguments).compile()
    finally:
        if collects:
            gc.enable()
    wait_for_all("compiled")  # before the first of them starts to communicate
    return compiled


@contextlib.contextmanager
def collector_spared() -> Iterator[None]:
    """Takes the objects that there are out of the sight of Python's collector, until the end: those of a traced gradient are so
    many that each of its full rounds would stop a run's steps for a third of a second.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
