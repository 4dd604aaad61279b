"""Compiled programs on disk, found by what they were made from: a warm start loads one without tracing the network.

JAX's own cache finds a program by its text, which has to be traced and lowered first; that takes longer than to load it. Here the text is
not needed: a program is found by the digest of all that it follows from, the sources that trace it, versions, settings of JAX and XLA,
the processor, the shapes of its arguments, and what the caller says of the network. If one of them differs, it is compiled anew.

Two things the digest does not know. Constants of our modules that a program changes while it runs, as tests do: turn the cache off then.
And when XLA_FLAGS were set: after JAX has started its devices XLA does not read them any more, but the digest does, and the program is kept as
one of those flags. Set them before JAX is imported.

**A program is machine code, and whoever can write it runs code as the user who loads it.** So it is read only from a folder that nobody
but our own user can write, `programs` in the cache of `compilation`, and only if the file too is our user's alone. Nothing of a stranger, no
bundle and no workdir, ever holds one. Programs of one CPU device are kept, on Linux, where the processor says what it is.
"""

import contextlib
import hashlib
import io
import os
import platform
import secrets
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import serialize_executable

from specsar_jax.devices import compilation
from tfds_dwplus.files.outputs import remove_partials, written_whole
from tfds_dwplus.files.workplaces import private_folder

MOST_FILES = 24
"""Programs that stay, of 1 to 10 MB each; of more, those used longest ago are removed."""

_setting = threading.Lock()
"""Held while a setting of JAX that all threads share is another one: two at once would take each other's for what it was before."""

_ROOMS = ("batches", "config", "devices", "maps", "network")
_MADE_BY = ("jax", "jaxlib", "flax", "numpy", "ml_dtypes")


class KeptProgram:
    """The place of one program on disk."""

    def __init__(self, made_from: str, arguments: tuple, devices: Sequence[jax.Device]) -> None:
        """Finds the place; there is none if programs are not kept.

        Args:
            made_from: all that the function to be compiled closes over, such as sizes of the network and statistics.
            arguments: of the program, arrays or their shapes, with their shardings.
            devices: that it runs on.
        """
        self._made_from, self._arguments, self._devices, self._file = made_from, arguments, devices, None
        cache = compilation.cache_folder()
        one_cpu = len(devices) == 1 and devices[0].platform == "cpu" and jax.process_count() == 1
        if cache is None or not one_cpu or sys.platform != "linux" or not _is_as_imported():
            return
        try:
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)  # where JAX has not yet made it
            private_folder(cache / "programs")
            _check_own((cache / "programs").stat(), cache / "programs")
            self._file = cache / "programs" / f"{self._digest()}.program"
        except (OSError, ValueError) as error:
            _say(error)

    def load(self) -> jax.stages.Compiled | None:
        """Returns the program, None if there is none that can be trusted and loaded."""
        try:
            content = _read_own(self._file) if self._file else None
            if content == b"":  # as `_keep` leaves it
                self._file = None
            if not content or hashlib.sha256(content[32:]).digest() != content[:32]:
                return None
            return self._loaded(content[32:])
        except Exception as error:  # whatever it is, there is another way: to compile
            _say(error)
            return None

    def is_of_now(self) -> bool:
        """Whether all that the program follows from is still so, in this thread: some of JAX's settings are of a thread. And no source was
        edited since it was imported.
        """
        return self._file is None or (_is_as_imported() and self._file.stem == self._digest())

    def compile(self, function: Callable[..., Any]) -> jax.stages.Compiled:
        """Compiles a function of the arguments, and keeps the program, unless it is of other settings than its place."""
        if not self.is_of_now():
            self._file = None
        if self._file is None:
            return compilation.compile_ahead(jax.jit(function), *self._arguments)
        # What JAX's cache gives can be written again, but not run then; so JAX, which finds a program by its name too, must not know it.
        function.__name__ += f"_{secrets.token_hex(8)}"
        with _setting:
            least = jax.config.jax_persistent_cache_min_compile_time_secs
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
            try:
                compiled = compilation.compile_ahead(jax.jit(function), *self._arguments)
            finally:
                jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
        return self._keep(compiled)

    def _keep(self, compiled: jax.stages.Compiled) -> jax.stages.Compiled:
        """Writes a program, and returns it as it is loaded from what was written, once it has run; the given one if it cannot be kept. Then
        the file is left empty, and JAX's cache keeps the program from the next time on.
        """
        content = b""
        try:
            program, *_ = serialize_executable.serialize(compiled)
            loaded = self._loaded(program)
            jax.block_until_ready(loaded(*jax.tree.map(_zeros, self._arguments)))
            compiled, content = loaded, hashlib.sha256(program).digest() + program
        except Exception as error:  # as above
            _say(error)
        with contextlib.suppress(OSError):
            self._write(content)
            try:
                _read_own(self._file)
            except ValueError as error:  # a file system with owners or modes of its own
                _say(error)
                self._write(b"")
            remove_partials(self._file.parent)
            for old in sorted(self._file.parent.glob("*.program"), key=lambda path: -path.stat().st_mtime)[MOST_FILES:]:
                old.unlink(missing_ok=True)
        return compiled

    def _digest(self) -> str:
        return _digest(self._made_from, self._arguments, self._devices[0])

    def _write(self, content: bytes) -> None:
        with written_whole(self._file) as partial:
            with contextlib.suppress(PermissionError):  # as above
                partial.chmod(0o600)  # whatever the umask
            partial.write_bytes(content)

    def _loaded(self, program: bytes) -> jax.stages.Compiled:
        trees = jax.tree.structure((self._arguments, {})), jax.tree.structure(0)
        devices = list(self._devices)
        return serialize_executable.deserialize_and_load(program, *trees, devices[0].client, execution_devices=devices)


def _zeros(leaf: Any) -> Any:
    """An array as a leaf, which is one or its shape."""
    if isinstance(leaf, jax.Array):
        return leaf
    return jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)  # those of JAX are a program of each shape


def _read_own(path: Path) -> bytes | None:
    """Reads a file that our user alone can write, in a folder that he alone can write; None if there is none. An empty one may be anybody's.

    Raises:
        ValueError: others can write there.
    """
    with contextlib.ExitStack() as stack:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, folder)
        _check_own(os.fstat(folder), path.parent)
        try:
            file = stack.enter_context(_opened(path.name, folder))
        except FileNotFoundError:
            return None
        found = os.fstat(file.fileno())
        if not found.st_size:
            return b""
        _check_own(found, path)
        os.utime(file.fileno())
        return file.read()


def _opened(name: str, folder: int) -> io.BufferedReader:
    return os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder), "rb")


def _check_own(found: os.stat_result, path: Path) -> None:
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise ValueError(f"{path} can be written by others than our user, so no program is loaded from it")


def _digest(made_from: str, arguments: tuple, device: jax.Device) -> str:
    leaves, structure = jax.tree.flatten(arguments)
    facts = [made_from, str(structure), *(f"{leaf.shape} {leaf.dtype}" for leaf in leaves)]
    facts += [f"{name} {version(name)}" for name in _MADE_BY]
    facts += [sys.version, platform.platform(), device.client.platform_version, str(len(os.sched_getaffinity(0)))]
    facts += sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(("XLA_", "TF_XLA_")))
    # The cache's folder is no part of a program; what `jax.config` has of a thread counts, as it does in tracing.
    settings = sorted(name for name in jax.config.values if "cache" not in name)
    facts += [f"{name}={getattr(jax.config, name, jax.config.values[name])}" for name in settings]
    digest = hashlib.sha256()
    for fact in (*facts, *_processor(), _SOURCES[1]):
        digest.update(len(fact).to_bytes(8, "little") + fact.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _processor() -> Iterator[str]:
    """Lines that tell what the first processor can do. Raises OSError where there is no such file."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if not line.strip():
            return
        if line.startswith(("model name", "flags", "Features", "CPU ", "cpu family", "model")):
            yield line


def _sources() -> list[Path]:
    """The modules that a program is traced by."""
    package = Path(__file__).parents[1]
    data = package.parent / "tfds_dwplus" / "bands.py"
    return [*sorted(path for room in _ROOMS for path in (package / room).glob("*.py")), data]


def _stamps() -> list[tuple[int, ...]]:
    """What changes when a source does."""
    return [(found.st_mtime_ns, found.st_size, found.st_ino) for found in map(Path.stat, _sources())]


def _as_imported() -> tuple[list[tuple[int, ...]], str] | None:
    """Stamps and digest of the sources; None where there are none."""
    try:
        return _stamps(), "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in _sources())
    except OSError:
        return None


def _is_as_imported() -> bool:
    try:
        return _SOURCES is not None and _SOURCES[0] == _stamps()
    except OSError:  # one was removed
        return False


_SOURCES = _as_imported()
"""Read now, when they are imported: those of an edit after it are not what runs, so from then on no program is loaded or kept."""


def _say(error: Exception) -> None:
    reason = " ".join(str(error).split())[:200]
    print(f"note: a compiled program could not be kept or loaded ({type(error).__name__}: {reason})", file=sys.stderr)
