"""Folders of unfinished work are of our user alone, and a folder that replaces another is never lost, whatever ends the process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from tfds_dwplus.files import workplaces
from tfds_dwplus.files.workplaces import beside, private_folder, workplace


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_private_folder(tmp_path, monkeypatch):
    folder = tmp_path / ".work"
    private_folder(folder)
    (folder / "strip").write_text("kept")
    folder.chmod(0o777)  # as an older version made it
    private_folder(folder)
    assert mode(folder) == 0o700 and (folder / "strip").exists()
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ValueError, match=r"link is a link, expected a folder of unfinished work of our own"):
        private_folder(tmp_path / "link")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file is no folder"):
        private_folder(tmp_path / "file")
    us = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: us + 1)
    private_folder(folder)  # a share that gives all files to one user
    monkeypatch.setattr(workplaces, "_owner_given_to_us", lambda _: us + 1)
    with pytest.raises(ValueError, match=r"belongs to user .*\(--shard\), by processes of one user only: remove the"):
        private_folder(folder)


def test_one_process_at_a_time(tmp_path):
    target = tmp_path / "maps"
    with workplace(beside(target), target, "--maps") as work:
        assert mode(work.parent) == 0o700 and list(work.iterdir()) == []
        with (
            pytest.raises(
                ValueError, match=r"another process is at work on .*maps; wait for it, or give another --maps"
            ),
            workplace(beside(target), target, "--maps"),
        ):
            pass
        assert work.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_new_folder(tmp_path):
    path = tmp_path / "bundle"
    with pytest.raises(KeyError), workplaces.folder_written_whole(path, "--output") as part:
        (part / "a").write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with workplaces.folder_written_whole(path, "--output") as part:
        (part / "a").write_text("whole")
    assert (path / "a").read_text() == "whole" and mode(path) == 0o777 & ~os.umask(os.umask(0o22))
    with (
        pytest.raises(ValueError, match="is there already; remove it"),
        workplaces.folder_written_whole(path, "--output"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_files_that_belong_together(tmp_path):
    paths = [tmp_path / "a.onnx", tmp_path / "a.onnx.md"]
    for path in paths:
        path.write_text("older")
    with pytest.raises(OSError) as failed, workplaces.files_written_together(paths, "--output") as part:
        (part / "a.onnx").write_text("new")
        raise OSError(28, "No space left on device", str(part / "a.onnx.md"))
    assert failed.value.filename == str(paths[0])
    assert [path.read_text() for path in paths] == ["older"] * 2
    with workplaces.files_written_together(paths, "--output") as part:
        for path in paths:
            (part / path.name).write_text("new")
    assert [path.read_text() for path in paths] == ["new"] * 2 and len(list(tmp_path.iterdir())) == 2


# In a process of its own, for it forks: each child replaces a folder, and ends before its n-th step, by a kill or by SIGTERM.
REPLACES = """
import os, shutil, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tfds_dwplus.files import workplaces
from tfds_dwplus.files.workplaces import beside, recover, take_place, workplace

top, in_one_step = Path(sys.argv[2]), sys.argv[3] == "True"
target = top / "mine"
exchanged = workplaces._exchanged
workplaces._exchanged = lambda *paths: in_one_step and exchanged(*paths)

def counted(step, end, left=[0]):
    def take(*arguments, **named):
        if counted.left == 0:
            counted.left = -1
            end()
        counted.left -= 1
        return step(*arguments, **named)
    return take

def made(folder, text):
    for name in "ab":
        (folder / name).write_text(text)

def replace(text):
    with workplace(beside(target), target) as work:
        new = work / "deep" / "mine"
        new.mkdir(parents=True)
        made(new, text)
        take_place(new, target, work)

def there():
    found = {(target / name).read_text() for name in "ab"}
    assert len(found) == 1, found
    return found.pop()

def killed():
    os._exit(9)

def terminated():
    sys.exit(143)

for end in (killed, terminated):
    seen = []
    for steps in range(200):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        made(target, "old")
        child = os.fork()
        if not child:
            counted.left = steps
            for name in ("rename", "mkdir", "unlink", "rmdir", "fsync", "open"):
                setattr(os, name, counted(getattr(os, name), end))
            workplaces._exchanged = counted(workplaces._exchanged, end)
            try:
                replace("new")
            except SystemExit as status:
                os._exit(status.code)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            break
        assert status in (9, 143), status
        if end is terminated:
            assert target.exists(), steps
        recover(beside(target), top)
        assert os.listdir(top) == ["mine"], os.listdir(top)
        seen.append(there())
        replace("newer")
        assert there() == "newer" and os.listdir(top) == ["mine"], os.listdir(top)
    assert seen == sorted(seen, reverse=True) and seen[0] == "old" and len(seen) > 20, seen
    assert ("new" in seen), seen
print("all")
"""


@pytest.mark.parametrize("in_one_step", [True, False])
def test_nothing_is_lost_whenever_it_ends(tmp_path, in_one_step):
    """Before each step of the system, one after the other; where two folders can be exchanged, and where they cannot."""
    command = [sys.executable, "-c", REPLACES, str(REPOSITORY), str(tmp_path), str(in_one_step)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout == "all\n", done.stderr
