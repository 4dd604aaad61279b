"""Places in buckets when servers fail, processes end, and others write meanwhile; and what is kept of what was read."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bucket_objects import MANY, another, bucket_of, elsewhere, loopback, names, place, put, served  # noqa: F401 (fixtures)
from conftest import REPOSITORY
from local_buckets import Fault

from tfds_dwplus.command_line import local_path
from tfds_dwplus.files import buckets
from tfds_dwplus.files.buckets import mirror, servers
from tfds_dwplus.files.outputs import write_whole
from tfds_dwplus.files.workplaces import folder_written_whole


@pytest.mark.parametrize("kind", [503, 429, "cut", "refused"])
def test_what_passes_is_tried_again(place, kind, loopback, capsys):
    run = buckets.here(f"{place}/run")
    run.mkdir()
    write_whole(run / "large", os.urandom(MANY))
    content = (run / "large").read_bytes()
    fault = Fault("POST|PUT|GET", "uploadType=multipart|/run/large|run%2Flarge", kind, times=2)
    proxy = loopback.proxy(place[:2])
    proxy.faults.append(fault)
    buckets.flush()
    if kind != "cut":  # an upload has been received by then
        assert fault.times == 0 and "trying again" in capsys.readouterr().err
    fault.times = 2
    assert (elsewhere(f"{place}/run") / "large").read_bytes() == content
    assert fault.times == 0


@pytest.mark.parametrize(
    ("code", "body", "number", "said"),
    [
        (403, "caller does not have storage.objects.create access", errno.EACCES, "no permission"),
        (403, "QuotaExceeded: the quota of the bucket is used up", errno.ENOSPC, "no room"),
        (507, "Insufficient Storage", errno.ENOSPC, "no room"),
        (404, "no such bucket", errno.ENOENT, "no such bucket or object"),
    ],
)
def test_what_does_not_pass_is_one_line_and_nothing_is_lost(
    place, code, body, number, said, loopback, capsys, tmp_path
):
    run = buckets.here(f"{place}/run")
    run.mkdir()
    write_whole(run / "a", "a")
    told = (
        f"<Error><Code>{body.split(':')[0].split()[0]}</Code><Message>{body}</Message></Error>"
        if place[:2] == "s3"
        else body
    )
    loopback.proxy(place[:2]).faults.append(Fault("POST|PUT", "", code, body=told))
    with pytest.raises(OSError, match=said) as failed:
        buckets.flush()
    assert failed.value.errno == number and failed.value.filename.startswith(place)
    assert "\n" not in str(failed.value) and "Traceback" not in capsys.readouterr().err
    # As on a full disk, nothing more is written then.
    with pytest.raises(OSError, match=said):
        write_whole(run / "b", "b")
    buckets.close()
    (kept,) = [
        path for path in (tmp_path / "cache" / f"buckets-{os.geteuid()}" / "unsent").rglob("*") if path.is_file()
    ]
    assert kept.read_text() == "a" and str(kept).endswith(f"{tmp_path.name}/run/a")
    assert str(kept)[: str(kept).index("/gs/" if place[:2] == "gs" else "/s3/")] in capsys.readouterr().err


def test_a_bucket_that_cannot_be_read_is_one_line(place, loopback):
    loopback.proxy(place[:2]).faults.append(Fault("GET", "", 403))
    with pytest.raises(OSError, match="no permission") as failed:
        local_path(f"{place}/run")
    assert failed.value.filename == f"{place}/run"


def test_a_download_that_was_altered_on_the_way_is_refused(place, monkeypatch):
    run = buckets.here(f"{place}/run")
    run.mkdir()
    write_whole(run / "large", bytes(MANY))
    buckets.flush()
    kind = servers.Google if place.startswith("gs") else servers.S3
    right = kind.get

    def altered(self, name: str, to: Path) -> None:
        right(self, name, to)
        with to.open("r+b") as file:
            file.seek(MANY // 2)
            file.write(b"x")

    monkeypatch.setattr(kind, "get", altered)
    buckets.close()
    with pytest.raises(OSError, match="another checksum"):
        buckets.here(f"{place}/run")


def test_large_objects_are_downloaded_once_and_an_altered_copy_is_not_used(place, loopback, tmp_path):
    run = buckets.here(f"{place}/run")
    run.mkdir()
    write_whole(run / "large", os.urandom(MANY))
    content = (run / "large").read_bytes()
    buckets.flush()
    elsewhere(f"{place}/run")
    proxy = loopback.proxy(place[:2])

    def downloads() -> int:
        return sum("GET" in line and ("/download/" in line or line.endswith("run/large")) for line in proxy.requests)

    first = downloads()
    assert first and (elsewhere(f"{place}/run") / "large").read_bytes() == content
    assert downloads() == first
    (kept,) = (tmp_path / "cache" / f"buckets-{os.geteuid()}" / "store").iterdir()
    buckets.close()
    with kept.open("r+b") as file:
        file.write(b"altered")
    assert (elsewhere(f"{place}/run") / "large").read_bytes() == content
    assert downloads() > first


def test_the_store_stays_as_small_as_it_is_told(place, monkeypatch, tmp_path):
    run = buckets.here(f"{place}/run")
    for name in ("a", "b"):
        (run / name).mkdir(parents=True)
        write_whole(run / name / "large", os.urandom(MANY))
    buckets.flush()
    monkeypatch.setenv("SPECSAR_CACHE_GB", "0.003")
    for name in ("a", "b"):
        elsewhere(f"{place}/run/{name}")
        assert len(list((tmp_path / "cache" / f"buckets-{os.geteuid()}" / "store").iterdir())) == 1
    with pytest.raises(ValueError, match=r"holds 0.00419 GB to read, the cache .* takes 0.003; set SPECSAR_CACHE_GB"):
        elsewhere(f"{place}/run")
    monkeypatch.setenv("SPECSAR_CACHE_GB", "a lot")
    with pytest.raises(ValueError, match="expected a number of gigabytes"):
        elsewhere(f"{place}/run")


@pytest.mark.parametrize(("scheme", "module"), [("gs", "google.cloud"), ("s3", "boto3")])
def test_a_missing_client_is_told_in_one_line(scheme, module, loopback, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"{scheme}://box needs .* pip install 'specsar_jax\[buckets\]'"):
        local_path(f"{scheme}://box/run")


def test_the_thread_sends_by_itself_and_folders_of_killed_processes_go(place, tmp_path):
    buckets.close()
    script = (
        "mirror.EVERY_S = 0.1\n"
        "run = buckets.here(sys.argv[1])\n"
        "run.mkdir()\n"
        "outputs.write_whole(run / 'a', 'a')\n"
        "time.sleep(60)"
    )
    child = another(script, f"{place}/run")
    try:
        for _ in range(300):
            if names(place) == {"run/a"}:
                break
            time.sleep(0.1)
    finally:
        child.kill()
        child.wait()
    work = tmp_path / "cache" / f"buckets-{os.geteuid()}" / "work"
    (left,) = work.iterdir()
    assert (buckets.here(f"{place}/run") / "a").read_text() == "a"
    (own,) = work.iterdir()
    assert own != left


def test_a_folder_that_is_closed_removes_nothing_from_the_bucket(place, monkeypatch):
    buckets.close()
    monkeypatch.setattr(mirror, "EVERY_S", 0.001)  # the thread looks all the time
    for number in range(5):
        run = buckets.here(f"{place}/run{number}")
        run.mkdir()
        for name in range(20):
            (run / str(name)).touch()
        buckets.flush()
        current = buckets._current
        buckets.close()
        assert not current._send()
    assert len(names(place)) == 100


def test_a_large_object_in_parts_is_checked(tmp_path):
    content = os.urandom(11 << 20)
    (tmp_path / "a").write_bytes(content)
    parts = [content[:8388608], content[8388608:]]
    told = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest() + "-2"
    with (tmp_path / "a").open("rb") as file:
        assert servers.is_md5(told, file, len(content))
        file.seek(0)
        assert not servers.is_md5("0" * 32 + "-2", file, len(content))


def test_a_folder_that_goes_while_it_is_sent_is_not_left_in_part(place, monkeypatch):
    run = buckets.here(f"{place}/run")
    run.mkdir()
    with folder_written_whole(run / "5", "--output") as folder:
        for number in range(6):
            (folder / str(number)).write_text(str(number))
    right, sent = servers.upload, []

    def and_gone(server, content, size, name):
        if name.endswith("/5/3") and not sent:
            sent.append(name)
            shutil.rmtree(run / "5")
        return right(server, content, size, name)

    monkeypatch.setattr(mirror, "upload", and_gone)
    buckets.flush()
    assert sent and names(f"{place}/run") == set()


def test_ctrl_c_while_the_last_is_sent_loses_nothing(place, monkeypatch, capsys, tmp_path):
    run = buckets.here(f"{place}/run")
    run.mkdir()
    write_whole(run / "a", "a")

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(mirror, "upload", stopped)
    with pytest.raises(KeyboardInterrupt):
        buckets.flush()
    buckets.close()
    (kept,) = [path for path in tmp_path.rglob("unsent/**/*") if path.is_file()]
    assert kept.read_text() == "a" and "1 files were not sent" in capsys.readouterr().err


def test_a_program_that_just_ends_has_sent_all(place, loopback, tmp_path):
    script = (
        "import sys; from tfds_dwplus.files import buckets, workplaces\n"
        "run = buckets.here(sys.argv[1]); run.mkdir()\n"
        "with workplaces.folder_written_whole(run / 'out', '--output') as folder:\n"
        "    [(folder / str(number)).write_text('a') for number in range(5)]\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", script, f"{place}/run"], env=environment, cwd=tmp_path, check=True)
    assert names(place) == {f"run/out/{number}" for number in range(5)}


def test_a_reading_that_failed_brings_nothing_old_back(place, monkeypatch, tmp_path):
    server, folder = servers.connect(*bucket_of(place)), place.partition("://box/")[2]
    (tmp_path / "old").write_text("old")
    (tmp_path / "new").write_text("newer")
    for name in ("a", "b"):
        put(server, tmp_path / "old", f"{folder}/run/{name}")
    right = mirror.download

    def failing(of, name, entry, to):
        if name.endswith("/b"):
            raise BrokenPipeError("cut")
        return right(of, name, entry, to)

    monkeypatch.setattr(mirror, "download", failing)
    with pytest.raises(OSError, match="cut"):
        buckets.here(f"{place}/run")
    put(server, tmp_path / "new", f"{folder}/run/a")
    buckets.flush()
    found = server.list(f"{folder}/run/a", 1)[f"{folder}/run/a"]
    assert found.size == len("newer")


def test_what_grows_or_goes_while_it_is_read(place, monkeypatch, tmp_path):
    server, folder = servers.connect(*bucket_of(place)), place.partition("://box/")[2]
    (tmp_path / "one").write_text("1\n")
    (tmp_path / "two").write_text("1\n2\n")
    for name in ("metrics.jsonl", "gone", "stays"):
        put(server, tmp_path / "one", f"{folder}/run/{name}")
    right, done = mirror.listed, []

    def changed_meanwhile(*given):
        found = right(*given)
        if not done:
            done.append(1)
            put(server, tmp_path / "two", f"{folder}/run/metrics.jsonl")
            server.remove(f"{folder}/run/gone")
        return found

    monkeypatch.setattr(mirror, "listed", changed_meanwhile)
    run = buckets.here(f"{place}/run")
    assert {path.name: path.read_text() for path in run.iterdir()} == {"metrics.jsonl": "1\n2\n", "stays": "1\n"}


def test_what_is_wanted_is_not_thrown_out_of_the_store(place, loopback, monkeypatch):
    run = buckets.here(f"{place}/run")
    run.mkdir()
    write_whole(run / "large", os.urandom(MANY))
    buckets.flush()
    monkeypatch.setenv("SPECSAR_CACHE_GB", "0.003")
    elsewhere(f"{place}/run")
    proxy = loopback.proxy(place[:2])
    done = len(proxy.requests)
    elsewhere(f"{place}/run")
    assert not any(
        "/download/" in line or line == f"GET /box/{place.partition('box/')[2]}/run/large"
        for line in proxy.requests[done:]
    )


def test_a_reading_that_is_stopped_between_two_steps_removes_nothing(place, monkeypatch):
    run = buckets.here(f"{place}/run")
    run.mkdir()
    write_whole(run / "a", "a")
    buckets.flush()
    buckets.close()

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", stopped)
        buckets.here(f"{place}/run")
    buckets.flush()
    assert names(place) == {"run/a"}
