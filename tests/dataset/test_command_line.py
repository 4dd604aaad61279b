"""What all commands share: how errors are told."""

import subprocess
import sys
import threading

import pytest
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
import logging, threading, sys
from tfds_dwplus.command_line import run

def main(_):
    logging.getLogger("absl").error("Save failed", exc_info=ValueError("in a library"))
    def called_back():  # as TensorStore prints what is raised in its own threads
        sys.excepthook(RuntimeError, RuntimeError("Event loop is closed"), None)
    thread = threading.Thread(target=called_back)
    thread.start()
    thread.join()
    raise OSError(28, "No space left on device", "run/metrics.jsonl")

run(main)
"""


def test_a_full_disk_is_told_in_one_line_with_the_path():
    done = subprocess.run([sys.executable, "-c", FAILS], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: No space left on device: run/metrics.jsonl\n"


def test_other_errors_keep_their_traceback(capsys):
    command_line._report_error(RuntimeError, RuntimeError("of ours"), None)
    assert "RuntimeError: of ours" in capsys.readouterr().err
