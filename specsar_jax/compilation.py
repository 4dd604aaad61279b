"""Compiled programs kept on disk, so that a command waits for the compiler once."""

import os
from pathlib import Path

import jax


def keep_compiled_programs() -> None:
    """Turns on JAX's persistent compilation cache in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR says where."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "specsar_jax" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))
