"""The run log on a disk that is full."""

import contextlib
import threading
from pathlib import Path

import pytest

from specsar_jax.training.run_log import RunLog
from tfds_dwplus import command_line


def test_a_run_goes_on_when_the_thread_of_tensorboard_has_ended(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(threading, "excepthook", command_line._report_thread_error)
    log = RunLog(tmp_path, 0, 100)

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log._board._events()._ev_writer, "write_event", full)

    def train() -> None:
        for step in range(1, 101):
            log.write(step, "train", {"loss": 1.0})
        log.close()

    run = threading.Thread(target=train, daemon=True)
    run.start()
    run.join(20)
    assert not run.is_alive()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 100
    assert "note: [Errno 28] No space left on device" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_names_the_file(tmp_path):
    with contextlib.suppress(OSError), RunLog(tmp_path, 0, 2) as log:
        log._file.close()
        log._file = Path("/dev/full").open("a", buffering=1)  # noqa: SIM115
        with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
            log.write(1, "train", {"loss": 1.0})
