"""Compiling: a cache on disk, compiling ahead of the first call, and garbage collection during and after it."""

import contextlib
import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from specsar_jax.devices.sharding import wait_for_all


def keep_compiled_programs() -> None:
    """Turns on JAX's compilation cache on disk, in the user's cache folder unless JAX_COMPILATION_CACHE_DIR names another one.

    Where there is no home folder, or the folder cannot be written, or others can write it and so decide what is run, programs are compiled
    each time, and a note says so.
    """
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    if "://" in named:  # JAX's own affair
        return
    try:
        cache = Path(named or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "specsar_jax" / "xla")
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = cache.stat()
        # A group may write it: with a umask of 002, usual where each user has a group of his own, folders of his are so. One that is made here is
        # 0700; whoever names one that a real group shares trusts that group.
        if found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o002:
            raise PermissionError(
                f"{cache} belongs to another user, or anybody can write it; name a folder of your own"
            )
        with tempfile.TemporaryFile(dir=cache):
            pass
    except (OSError, RuntimeError) as error:  # the latter if there is no home
        print(f"note: compiled programs are not kept, so each start compiles anew: {error}", file=sys.stderr)
        jax.config.update("jax_enable_compilation_cache", False)
        return
    jax.config.update("jax_compilation_cache_dir", str(cache))


def cache_folder() -> Path | None:
    """Returns the folder on this machine's disk that JAX keeps compiled programs in; None if it keeps none, or elsewhere."""
    named = jax.config.jax_compilation_cache_dir
    if not named or "://" in named or not jax.config.jax_enable_compilation_cache:
        return None
    return Path(named)


def compile_ahead(program: Any, *arguments: Any) -> Any:
    """Compiles a `jax.jit` function for arguments of these shapes, types and shardings, in all processes of the run.

    Python's garbage collector is off meanwhile: it would go through the millions of objects of a traced gradient many times.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        compiled = program.lower(*arguments).compile()
    finally:
        if collects:
            gc.enable()
    wait_for_all("compiled")  # no process may start to communicate while another one still compiles
    return compiled


@contextlib.contextmanager
def collector_spared() -> Iterator[None]:
    """Excludes all existing objects from garbage collection while the block runs: with the many objects of a traced gradient, each
    full collection would pause training for a third of a second.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
