"""Places in buckets: what is sent and read, in which order, and what is left to others."""

import re
import shutil

import pytest
from bucket_objects import MANY, another, bucket_of, elsewhere, loopback, names, place, put, served  # noqa: F401 (fixtures)
from local_buckets import Fault

from tfds_dwplus.command_line import local_path
from tfds_dwplus.files import buckets
from tfds_dwplus.files.buckets import servers
from tfds_dwplus.files.outputs import is_locked, locked, write_json, write_whole
from tfds_dwplus.files.workplaces import folder_written_whole


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
    server, name = servers.connect(*bucket_of(place)), place.partition("://box/")[2]
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
    server, folder = servers.connect(*bucket_of(place)), place.partition("://box/")[2]
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


def test_names_that_lead_elsewhere_are_not_read(place, capsys, tmp_path):
    server, folder = servers.connect(*bucket_of(place)), place.partition("://box/")[2]
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


def test_what_is_never_sent_is_not_read_and_not_removed(place, tmp_path):
    server, folder = servers.connect(*bucket_of(place)), place.partition("://box/")[2]
    (tmp_path / "a").write_text("a")
    theirs = {"poetry.lock", "5.orbax-checkpoint-tmp-1/x", ".y.partial", "good"}
    for name in theirs:
        put(server, tmp_path / "a", f"{folder}/run/{name}")
    run = buckets.here(f"{place}/run")
    assert [path.name for path in run.rglob("*")] == ["good"]
    buckets.flush()
    assert names(f"{place}/run") == theirs


def test_a_mark_of_another_process_on_a_shared_folder_removes_nothing(place, tmp_path):
    server, folder = servers.connect(*bucket_of(place)), place.partition("://box/")[2]
    (tmp_path / "a").write_text("a")
    for name in (".sending", "of_another.tif", "one/a"):
        put(server, tmp_path / "a", f"{folder}/maps/{name}")
    maps = buckets.here(f"{place}/maps", whole=False)
    (maps / "two").mkdir(parents=True)
    write_whole(maps / "mine.tif", "mine")
    write_whole(maps / "two" / "b", "b")
    buckets.flush()
    assert {"of_another.tif", "one/a", "mine.tif", "two/b"} <= names(f"{place}/maps")


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
    server, folder = servers.connect(*bucket_of(place)), place.partition("://box/")[2]
    if place.startswith("gs"):
        pytest.skip("the emulator keeps objects as files")
    (tmp_path / "a").write_text("a")
    for name in ("run/a", "run/a/b"):
        put(server, tmp_path / "a", f"{folder}/{name}")
    run = buckets.here(f"{place}/run")
    assert (run / "a" / "b").read_text() == "a" and "is a folder too; 1 such objects" in capsys.readouterr().err


def test_a_map_that_another_process_works_on_is_left_alone(place):
    folder = buckets.here(f"{place}/map.tif").parent / ".map.tif.unfinished"
    folder.mkdir()
    locks = buckets.lock_path(folder / "any.lock").parent
    with locked(folder / "part_1_of_2.lock", "map"):
        assert [path.name for path in locks.glob("*.lock")] == ["part_1_of_2.lock"]
        assert is_locked(locks / "part_1_of_2.lock")


@pytest.mark.parametrize("name", [".exp/work/run", "a.lock/run", "x/5.orbax-checkpoint-tmp-1"])
def test_a_place_from_which_nothing_would_be_sent_is_refused(name, place):
    with pytest.raises(ValueError, match="kept for locks and unfinished work; give another name"):
        local_path(f"{place}/{name}")
