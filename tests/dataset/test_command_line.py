"""What all commands share: how an error in a thread of its own is told."""

import threading

import pytest

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
