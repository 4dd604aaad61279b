"""What all commands share: how errors are told."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import rasterio._err
import rasterio.errors
from conftest import REPOSITORY

from tfds_dwplus import command_line


@pytest.mark.parametrize(
    ("error", "told"), [(PermissionError(13, "Permission denied", "a.tif"), "note: "), (KeyError("x"), "Traceback")]
)
def test_an_error_of_a_thread(monkeypatch, capsys, error, told):
    monkeypatch.setattr(threading, "excepthook", command_line._report_thread_error)

    def fail() -> None:
        raise error

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    said = capsys.readouterr().err
    assert told in said and str(error) in said
    assert ("Traceback" in said) == (told == "Traceback")


FAILS = """
import asyncio, gc, logging, threading, sys
from tfds_dwplus.command_line import run

def main(_):
    logging.getLogger("absl").error("Save failed", exc_info=ValueError("in a library"))
    def called_back():  # as TensorStore prints what is raised in its own threads
        sys.excepthook(RuntimeError, RuntimeError("Event loop is closed"), None)
    thread = threading.Thread(target=called_back)
    thread.start()
    thread.join()
    async def saves():  # as Orbax does: the first task that fails is raised, and nobody asks the others
        async def fail():
            raise ValueError("RESOURCE_EXHAUSTED")
        asyncio.create_task(fail())
        await asyncio.sleep(0)
    asyncio.run(saves())
    gc.collect()
    raise OSError(28, "No space left on device", "run/metrics.jsonl")

run(main)
"""


def test_a_full_disk_is_told_in_one_line_with_the_path():
    done = subprocess.run([sys.executable, "-c", FAILS], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: No space left on device: run/metrics.jsonl\n"


TERMINATED_LATE = """
import os, signal, sys
from tfds_dwplus.command_line import run

class Last:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGTERM):
        kill(process, number)

sys.last = Last()  # deleted when Python has given up its handlers
run(lambda _: None)
"""


def test_a_signal_that_comes_when_all_is_done_changes_no_exit_code():
    done = subprocess.run([sys.executable, "-c", TERMINATED_LATE], cwd=REPOSITORY, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        ("CPLE_AppDefinedError(3, 513, 'cannot write map.tif: No space left')", "cannot write map.tif: No space left"),
        ("CPLE_FileIOError(3, 3, 'map.tif: Write error')", "map.tif: Write error"),
        ("RasterioError('map.tif is not there')", "map.tif is not there"),
        ("WarpOperationError('Chunk and warp failed')", "Chunk and warp failed"),
        ("RasterBlockError('no block')", "no block"),
    ],
)
def test_errors_of_gdal_are_one_line(raised, line, monkeypatch, capsys):
    """Of any class, also where a thread raised them."""
    monkeypatch.setattr(sys, "argv", ["predict"])
    for name in ("excepthook", "unraisablehook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(command_line.signal, "signal", lambda *_: None)
    classes = vars(rasterio._err) | vars(rasterio.errors)

    def main(_: list[str]) -> None:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(fail).result()

    def fail() -> None:
        raise eval(raised, classes)

    with pytest.raises(SystemExit) as ended:
        command_line.run(main)
    assert ended.value.code == 2 and capsys.readouterr().err == f"error: {line}\n"
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert capsys.readouterr().err == f"note: {line}\n"


def test_other_errors_keep_their_traceback(capsys):
    command_line._report_error(RuntimeError, RuntimeError("of ours"), None)
    assert "RuntimeError: of ours" in capsys.readouterr().err


STOPPED_WHILE_GARBAGE_IS_COLLECTED = """
import gc, os, signal, sys, time
from tfds_dwplus.command_line import run

def collected(phase, _):
    gc.callbacks.remove(collected)
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    time.sleep(0)  # the handler is called here at the latest

signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where the tests run in the background

def main(_):
    gc.callbacks.append(collected)
    gc.collect()
    time.sleep(20)
    print("went on")

run(main)
"""


STOPPED_WHILE_XLA_COMPILES = """
import os, signal, sys, threading

import jax
import jax.numpy as jnp

from tfds_dwplus.command_line import run

def grows(x):
    for step in range(400):
        x = jnp.sin(x @ x) + jnp.cumsum(x, axis=step % 2)
    return x

signal.signal(signal.SIGINT, signal.default_int_handler)

def main(_):
    lowered = jax.jit(grows).lower(jnp.ones((8, 8)))
    threading.Timer(0.3, os.kill, (os.getpid(), getattr(signal, sys.argv[1]))).start()
    lowered.compile()
    print("compiled")

run(main)
"""


STOPPED_IN_A_DESTRUCTOR = """
import os, signal, sys, time
from tfds_dwplus.command_line import run

class Deleted:
    def __del__(self):
        for _ in range(2):  # twice, as an impatient scheduler
            os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        time.sleep(0)

signal.signal(signal.SIGINT, signal.default_int_handler)

def main(_):
    Deleted()
    time.sleep(20)
    print("went on")

run(main)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.parametrize(
    "program", [STOPPED_WHILE_GARBAGE_IS_COLLECTED, STOPPED_IN_A_DESTRUCTOR, STOPPED_WHILE_XLA_COMPILES]
)
def test_a_signal_where_it_would_be_lost_or_crash(program, name, code):
    """Python drops what is raised in callbacks and destructors. XLA compiles on, in a thread of its own, while Python ends: that was a
    segmentation fault.
    """
    command = [sys.executable, "-c", program, name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert not done.stdout
    assert done.stderr == ("stopped\n" if name == "SIGINT" else "")
