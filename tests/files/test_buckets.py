"""Places in buckets: what is sent and when, what is read, and what servers do to both."""

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY
from local_buckets import Fault, serving

from tfds_dwplus.command_line import local_path
from tfds_dwplus.files import buckets
from tfds_dwplus.files.buckets import mirror, servers
from tfds_dwplus.files.outputs import is_locked, locked, write_json, write_whole
from tfds_dwplus.files.workplaces import folder_written_whole

pytest.importorskip("google.cloud.storage")
pytest.importorskip("boto3")

MANY = 1 << 21
"""Bytes of a file that is kept in the store."""


@pytest.fixture(scope="module")
def served():
    """Both servers."""
    with serving() as both:
        yield both


@pytest.fixture
def loopback(served, monkeypatch, tmp_path):
    """Both servers, found by the clients; nothing is sent but by `flush`."""
    for name, value in served.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SPECSAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(servers, "WAITS_S", (0.01, 0.01))
    monkeypatch.setattr(mirror, "EVERY_S", 3600)
    yield served
    for proxy in (served.google, served.s3):
        proxy.faults.clear()
    buckets.close()


@pytest.fixture(params=["gs", "s3"])
def place(request, loopback, tmp_path) -> str:
    """A folder in a bucket, with nothing in it."""
    return f"{request.param}://box/{tmp_path.name}"


def names(address: str) -> set[str]:
    """Names of all objects below an address, as the server tells."""
    scheme, _, rest = address.partition("://")
    bucket, _, folder = rest.partition("/")
    return {name.removeprefix(f"{folder}/") for name in servers.connect(scheme, bucket).list(f"{folder}/")}


def put(server: servers.Server, path: Path, name: str) -> None:
    """Puts a file into a bucket, as somebody else does."""
    with path.open("rb") as file:
        servers.upload(server, file, path.stat().st_size, name)


def elsewhere(address: str) -> Path:
    """What another machine reads at an address."""
    buckets.close()
    return buckets.here(address)


def test_what_is_written_is_there_for_another_machine(place):
    run = buckets.here(f"{place}/run")
    assert not run.exists() and buckets.given(run / "a") == f"{place}/run/a"
    run.mkdir()
    write_json(run / "config.json", {"a": 1})
    (run / "deep" / "er").mkdir(parents=True)
    write_whole(run / "deep" / "er" / "large", bytes(range(256)) * (MANY // 256))
    buckets.flush()
    assert names(place) == {"run/config.json", "run/deep/er/large"}
    again = elsewhere(f"{place}/run")
    assert again != run and not run.exists()
    assert (again / "config.json").read_text() == '{\n "a": 1\n}\n'
    assert (again / "deep" / "er" / "large").read_bytes() == bytes(range(256)) * (MANY // 256)
    assert buckets.here(f"{place}/run/config.json").read_text() == '{\n "a": 1\n}\n'


def test_a_text_names_the_address_and_no_path_of_this_process(place, tmp_path):
    run = buckets.here(f"{place}/run")
    run.mkdir()
    write_whole(run / "card.md", f"predict --workdir {run}, {run}/a and {tmp_path}")
    assert (run / "card.md").read_text() == f"predict --workdir {place}/run, {place}/run/a and {tmp_path}"


def test_a_renamed_and_a_removed_file_are_so_in_the_bucket(place):
    run = buckets.here(f"{place}/run")
    run.mkdir()
    for name in ("a", "b", "c"):
        write_whole(run / name, name)
    buckets.flush()
    (run / "a").rename(run / "d")
    (run / "b").unlink()
    write_whole(run / "c", "other")
    buckets.flush()
    assert names(place) == {"run/c", "run/d"}
    assert (elsewhere(f"{place}/run") / "c").read_text() == "other"


def test_locks_and_unfinished_files_are_not_sent(place):
    run = buckets.here(f"{place}/run")
    run.mkdir()
    with locked(run / ".lock", "run"), folder_written_whole(run / "out", "--output") as folder:
        (folder / "a").touch()
        (run / ".a.0123456789abcdef.partial").touch()
        (run / "5.orbax-checkpoint-tmp-1").mkdir()
        (run / "5.orbax-checkpoint-tmp-1" / "a").touch()
        (run / ".map.tif.unfinished").mkdir()
        write_whole(run / ".map.tif.unfinished" / "map_00000.tif", "strip")
        buckets.flush()
        assert names(place) == {"run/.map.tif.unfinished/map_00000.tif"}
    buckets.flush()
    assert "run/out/a" in names(place)
    assert (elsewhere(f"{place}/run/map.tif").parent / ".map.tif.unfinished" / "map_00000.tif").read_text() == "strip"


def test_a_new_folder_is_read_when_it_is_whole(place, loopback):
    run = buckets.here(f"{place}/run")
    run.mkdir()
    write_whole(run / "a", "a")
    buckets.flush()
    with folder_written_whole(run / "checkpoint", "--output") as folder:
        for number in range(5):
            (folder / f"part{number}").touch()
    proxy = loopback.proxy(place[:2])
    proxy.faults.append(Fault("DELETE", "checkpoint", 400))  # all but the end of the mark
    with pytest.raises(OSError, match=f"{re.escape(place)}/run/checkpoint"):
        buckets.flush()
    proxy.faults.clear()
    assert not (elsewhere(f"{place}/run") / "checkpoint").exists()
    buckets.close()
    run = buckets.here(f"{place}/run")
    # As if the process was killed after the mark and a part.
    server, name = servers.connect(*_of(place)), place.partition("://box/")[2]
    (run.parent / "one").write_text("half")
    for part in (".sending", "part0"):
        put(server, run.parent / "one", f"{name}/run/checkpoint/{part}")
    (run.parent / "one").unlink()
    again = elsewhere(f"{place}/run")
    assert (again / "a").exists() and not (again / "checkpoint").exists()
    with folder_written_whole(again / "checkpoint", "--output") as folder:
        (folder / "other").touch()
    buckets.flush()
    assert names(place) == {"run/a", "run/checkpoint/other"}


def _of(address: str) -> tuple[str, str]:
    scheme, _, rest = address.partition("://")
    return scheme, rest.partition("/")[0]


def test_a_folder_that_took_the_place_of_another_leaves_nothing_of_it(place):
    data = buckets.here(f"{place}/data")
    (data / "one").mkdir(parents=True)
    for name in ("a", "b"):
        write_whole(data / "one" / name, name)
    buckets.flush()
    (data / "new").mkdir()
    write_whole(data / "new" / "c", "c")
    shutil.rmtree(data / "one")
    (data / "new").rename(data / "one")
    buckets.flush()
    assert names(place) == {"data/one/c"}


def test_what_others_keep_beside_it_stays(place):
    others = buckets.here(f"{place}/data")
    (others / "one").mkdir(parents=True)
    write_whole(others / "one" / "a", "a")
    buckets.flush()
    buckets.close()
    data = buckets.here(f"{place}/data", whole=False)
    assert not data.exists()
    (data / "two").mkdir(parents=True)
    write_whole(data / "two" / "b", "b")
    write_whole(buckets.here(f"{place}/data/map.tif", whole=False), "map")
    buckets.flush()
    assert names(place) == {"data/one/a", "data/two/b", "data/map.tif"}
    buckets.fetch(data / "one")
    assert (data / "one" / "a").read_text() == "a"


def test_files_beside_a_file_come_with_it_and_no_others(place):
    maps = buckets.here(f"{place}/maps")
    (maps / "map.d").mkdir(parents=True)
    for name in ("map.tif", "map.tif.aux.xml", "map.qml", "mapped.tif", "map.d/a"):
        write_whole(maps / name, name)
    buckets.flush()
    folder = elsewhere(f"{place}/maps/map.tif").parent
    assert {path.name for path in folder.iterdir()} == {"map.tif", "map.tif.aux.xml", "map.qml"}


def test_what_changed_in_the_bucket_is_read_again_but_not_over_own_work(place):
    run = buckets.here(f"{place}/run")
    run.mkdir()
    for name in ("a", "b", "c"):
        write_whole(run / name, "old")
    buckets.flush()
    server, folder = servers.connect(*_of(place)), place.partition("://box/")[2]
    (run.parent / "new").write_text("theirs")
    for name in ("a", "b"):
        put(server, run.parent / "new", f"{folder}/run/{name}")
    server.remove(f"{folder}/run/c")
    (run.parent / "new").unlink()
    write_whole(run / "b", "ours")
    buckets.fetch(run)
    assert (run / "a").read_text() == "theirs" and (run / "b").read_text() == "ours" and not (run / "c").exists()


def test_a_log_is_sent_as_far_as_it_went_and_before_what_comes_later(place, loopback):
    run = buckets.here(f"{place}/run")
    run.mkdir()
    log = run / "metrics.jsonl"
    log.write_text("1\n")
    buckets.flush()
    with log.open("a") as file:
        file.write("2\n")
    write_whole(run / "later.json", "{}")
    with log.open("a") as file:
        file.write("3\n")
    proxy = loopback.proxy(place[:2])
    done = len(proxy.requests)
    buckets.flush()
    if place.startswith("s3"):
        sent = [name.rpartition("/")[2] for name in proxy.requests[done:] if name.startswith("PUT")]
        assert sent == ["metrics.jsonl", "later.json"]
    assert (elsewhere(f"{place}/run") / "metrics.jsonl").read_text() == "1\n2\n3\n"


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


def test_names_that_lead_elsewhere_are_not_read(place, capsys, tmp_path):
    server, folder = servers.connect(*_of(place)), place.partition("://box/")[2]
    (tmp_path / "a").write_text("a")
    odd = ["a//b"] if place.startswith("gs") else ["a//b", "x/../../../bad"]  # for which the emulator has no place
    for name in ("good", *odd):
        put(server, tmp_path / "a", f"{folder}/run/{name}")
    run = buckets.here(f"{place}/run")
    assert [path.name for path in run.rglob("*")] == ["good"]
    assert f"{len(odd)} such objects are not read" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["gs://", "gs:///a", "s3://BOX/a", "gs://box/a/../b", "s3://b/a", "gs://box/a\nb"])
def test_an_address_that_is_none_is_refused(given, loopback):
    with pytest.raises(ValueError, match=r"expected (gs|s3)://BUCKET/FOLDER") as refused:
        local_path(given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("scheme", "module"), [("gs", "google.cloud"), ("s3", "boto3")])
def test_a_missing_client_is_told_in_one_line(scheme, module, loopback, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"{scheme}://box needs .* pip install 'specsar_jax\[buckets\]'"):
        local_path(f"{scheme}://box/run")


def another(script: str, *arguments: str) -> subprocess.Popen:
    """Another process, that runs a script."""
    before = "import sys, time\nfrom tfds_dwplus.files import buckets, outputs\nfrom tfds_dwplus.files.buckets import mirror\n"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen([sys.executable, "-c", before + script, *arguments], env=environment)


def test_a_second_process_of_this_machine_is_refused(place):
    run = buckets.here(f"{place}/run")
    run.mkdir()
    script = (
        "run = buckets.here(sys.argv[1])\n"
        "run.mkdir()\n"
        "try:\n"
        "    with outputs.locked(run / '.lock', run):\n"
        "        code = 3\n"
        "except ValueError as error:\n"
        "    code = 4 if 'another process is at work' in str(error) else 5\n"
        "sys.exit(code)"
    )
    with locked(run / ".lock", run):
        assert another(script, f"{place}/run").wait() == 4
    assert another(script, f"{place}/run").wait() == 3


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


def test_what_is_never_sent_is_not_read_and_not_removed(place, tmp_path):
    server, folder = servers.connect(*_of(place)), place.partition("://box/")[2]
    (tmp_path / "a").write_text("a")
    theirs = {"poetry.lock", "5.orbax-checkpoint-tmp-1/x", ".y.partial", "good"}
    for name in theirs:
        put(server, tmp_path / "a", f"{folder}/run/{name}")
    run = buckets.here(f"{place}/run")
    assert [path.name for path in run.rglob("*")] == ["good"]
    buckets.flush()
    assert names(f"{place}/run") == theirs


def test_a_mark_of_another_process_on_a_shared_folder_removes_nothing(place, tmp_path):
    server, folder = servers.connect(*_of(place)), place.partition("://box/")[2]
    (tmp_path / "a").write_text("a")
    for name in (".sending", "of_another.tif", "one/a"):
        put(server, tmp_path / "a", f"{folder}/maps/{name}")
    maps = buckets.here(f"{place}/maps", whole=False)
    (maps / "two").mkdir(parents=True)
    write_whole(maps / "mine.tif", "mine")
    write_whole(maps / "two" / "b", "b")
    buckets.flush()
    assert {"of_another.tif", "one/a", "mine.tif", "two/b"} <= names(f"{place}/maps")


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
    server, folder = servers.connect(*_of(place)), place.partition("://box/")[2]
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
    server, folder = servers.connect(*_of(place)), place.partition("://box/")[2]
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


def test_the_folder_of_the_cache_stays_as_it_was(place, monkeypatch, tmp_path):
    buckets.close()
    (tmp_path / "disk").mkdir(mode=0o755)
    (tmp_path / "disk").chmod(0o1777)
    monkeypatch.setenv("SPECSAR_CACHE", str(tmp_path / "disk"))
    buckets.here(f"{place}/run")
    assert (tmp_path / "disk").stat().st_mode & 0o7777 == 0o1777
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "disk").iterdir()] == [0o700]


def test_a_whole_bucket_is_a_folder(place, tmp_path):
    box = buckets.here(f"{place[:2]}://box", whole=False)
    write_whole(box / f"{tmp_path.name}.txt", "a")
    buckets.flush()
    assert (elsewhere(f"{place[:2]}://box/{tmp_path.name}.txt")).read_text() == "a"


def test_an_object_that_is_a_folder_too_is_not_read(place, capsys, tmp_path):
    server, folder = servers.connect(*_of(place)), place.partition("://box/")[2]
    if place.startswith("gs"):
        pytest.skip("the emulator keeps objects as files")
    (tmp_path / "a").write_text("a")
    for name in ("run/a", "run/a/b"):
        put(server, tmp_path / "a", f"{folder}/{name}")
    run = buckets.here(f"{place}/run")
    assert (run / "a" / "b").read_text() == "a" and "is a folder too; 1 such objects" in capsys.readouterr().err


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


def test_a_map_that_another_process_works_on_is_left_alone(place):
    folder = buckets.here(f"{place}/map.tif").parent / ".map.tif.unfinished"
    folder.mkdir()
    locks = buckets.lock_path(folder / "any.lock").parent
    with locked(folder / "part_1_of_2.lock", "map"):
        assert [path.name for path in locks.glob("*.lock")] == ["part_1_of_2.lock"]
        assert is_locked(locks / "part_1_of_2.lock")
