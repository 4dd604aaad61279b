"""Outputs are whole or absent, one process writes them at a time, and nothing that somebody else planted is followed."""

import contextlib
import os
import resource
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY

from tfds_dwplus.files import outputs

AT_WORK = "another process is at work on .*; wait for it"


@contextlib.contextmanager
def disk_of(size: int):
    """A limit on the size of files stands for the end of the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def another_process(code: str, *arguments: object):
    """Runs code in another process until it says that it is ready, and kills it at the end."""
    lines = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\nfrom pathlib import Path\n{code}"
    process = subprocess.Popen(
        [sys.executable, "-c", lines, *map(str, arguments)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_full_disk_keeps_the_older_files(tmp_path):
    paths = {tmp_path / "a.json": b"new", tmp_path / "b.npz": bytes(5000)}
    for path in paths:
        path.write_text("older")
    with disk_of(1000), pytest.raises(OSError, match="File too large") as failed:
        outputs.write_together(paths)
    assert failed.value.filename == str(tmp_path / "b.npz")
    with disk_of(1000), pytest.raises(OSError), outputs.written_whole(tmp_path / "b.npz") as part:
        part.write_bytes(bytes(5000))
    assert names(tmp_path) == ["a.json", "b.npz"] and {path.read_text() for path in paths} == {"older"}
    outputs.write_together(paths)
    assert {path: path.read_bytes() for path in paths} == paths


def test_a_write_that_the_disk_refuses_at_the_end(tmp_path, monkeypatch):
    """Network shares say at the sync only that they are full; some file systems cannot sync a folder, which is no fault."""
    path, fsync = tmp_path / "a.json", os.fsync

    def refuse(number: int):
        def fail(file: int) -> None:
            if stat.S_ISREG(os.fstat(file).st_mode) or number == 22:
                raise OSError(number, os.strerror(number))
            fsync(file)

        return fail

    outputs.write_json(path, {"a": 1})
    monkeypatch.setattr(os, "fsync", refuse(28))
    with pytest.raises(OSError, match="No space") as failed:
        outputs.write_json(path, {"a": 2})
    assert failed.value.filename == str(path) and path.read_text() == '{\n "a": 1\n}\n'
    monkeypatch.setattr(os, "fsync", refuse(22))
    outputs.write_json(path, {"a": 3})
    assert "3" in path.read_text() and names(tmp_path) == ["a.json"]


def test_no_link_is_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("years of work")
    for name in ("out.txt", ".lock", "run.log"):
        (tmp_path / name).symlink_to(victim)
    outputs.write_whole(tmp_path / "out.txt", "ours")
    assert not (tmp_path / "out.txt").is_symlink()
    with (
        pytest.raises(ValueError, match=r"\.lock is a link, expected a file of our own"),
        outputs.locked(tmp_path / ".lock", "it"),
    ):
        pass
    os.close(outputs.open_log(tmp_path / "run.log"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is no file"), outputs.locked(tmp_path / "pipe", "it"):
        pass
    assert victim.read_text() == "years of work"


def test_locks(tmp_path):
    path = tmp_path / "lock"
    path.write_text("of an older version")
    with outputs.locked(path, "it"):
        assert outputs.is_locked(path)
        with pytest.raises(ValueError, match=AT_WORK), outputs.locked(path, "it"):
            pass
    assert not outputs.is_locked(path) and path.read_text() == "of an older version"
    with outputs.locked(path, "it", temporary=True):
        pass
    assert names(tmp_path) == []
    with pytest.raises(FileNotFoundError), outputs.locked(tmp_path / "none" / "lock", "it"):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(outputs.fcntl, "flock", refuse)
    with outputs.locked(tmp_path / "lock", "it"):
        outputs.write_whole(tmp_path / "a", "whole")
    assert "has no locks" in capsys.readouterr().err and (tmp_path / "a").read_text() == "whole"


CLAIMS = """
from tfds_dwplus.files.outputs import output_claimed, written_whole
with output_claimed(Path(sys.argv[1]), "--output") as path, written_whole(path) as part:
    part.write_text("half")
    print("ready", flush=True)
    __import__("time").sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_leaves_nothing(tmp_path):
    path = tmp_path / "r.html"
    path.write_text("older")
    refused = pytest.raises(ValueError, match=AT_WORK + ", or give another --output")
    with another_process(CLAIMS, path):
        with refused, outputs.output_claimed(path, "--output"):
            pass
        outputs.remove_partials(tmp_path, "r.html")
        assert len(names(tmp_path)) == 3  # the file, what is half written, and the lock
    assert path.read_text() == "older" and len(names(tmp_path)) == 3
    with outputs.output_claimed(path, "--output") as final:
        outputs.write_whole(final, "new")
    assert path.read_text() == "new" and names(tmp_path) == ["r.html"]


def test_what_killed_processes_left(tmp_path):
    left = [".a.tif.77.partial", ".a.tif.0123456789abcdef.partial"]  # the first of an older version
    kept = [".a.tif.unfinished", ".b.a.tif.77.partial", "a.tif", ".a.tif.lock", ".partial"]
    for name in (*left, *kept):
        (tmp_path / name).write_text("")
    outputs.remove_partials(tmp_path, "a.tif")
    assert names(tmp_path) == sorted(kept)
    outputs.remove_partials(tmp_path)
    assert names(tmp_path) == sorted({*kept} - {".b.a.tif.77.partial"})


def test_where_an_output_may_be(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "page.html")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    (tmp_path / "nowhere").symlink_to(tmp_path / "none" / "x")
    for path, line in {
        tmp_path / "folder": "--output .*folder is a folder, expected a file",
        tmp_path / "none" / "x": "no folder .*none for --output x; make it first",
        tmp_path / ("n" * 256): r"--output nnn.*\.\.\. is a name of 256 bytes, expected 255",
        tmp_path / "round": "leads back to itself",
        tmp_path / "nowhere": "there is no folder .*none; make it",
        Path("/dev/null"): "is a device",
    }.items():
        with pytest.raises(ValueError, match=line), outputs.output_claimed(path, "--output"):
            pass
    for path in (tmp_path / "link", tmp_path / ("n" * 255)):
        with outputs.output_claimed(path, "--output") as final:
            outputs.write_whole(final, "page")
        assert path.read_text() == "page"
    assert (tmp_path / "link").is_symlink() and names(tmp_path / "real") == ["page.html"]


def test_the_folder_goes_meanwhile(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with (
        pytest.raises(OSError, match="No such file") as failed,
        outputs.output_claimed(folder / "a", "--output") as final,
        outputs.written_whole(final) as part,
    ):
        part.write_text("whole")
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    assert failed.value.filename == str(folder / "a")


WRITES = """
from tfds_dwplus.files.outputs import write_whole
print("ready", flush=True)
for letter in "ab" * 300:
    write_whole(Path(sys.argv[1]), letter * 100_000)
"""


def test_two_processes_without_a_claim(tmp_path):
    """The last one wins, and at every instant a reader finds a whole file."""
    path = tmp_path / "a.txt"
    outputs.write_whole(path, "c" * 100_000)
    seen = set()
    with another_process(WRITES, path), another_process(WRITES, path):
        until = time.monotonic() + 1
        while time.monotonic() < until:
            text = path.read_text()
            assert len(text) == 100_000 and len(set(text)) == 1
            seen.add(text[0])
    assert seen >= {"a", "b"}
