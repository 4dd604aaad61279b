"""Programs that are kept: loaded without tracing, only for what they were made from, and only where nobody else could write them."""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specsar_jax.devices import kept_programs
from specsar_jax.devices.kept_programs import KeptProgram

SHAPES = {"weight": jax.ShapeDtypeStruct((3,), np.float32)}, jax.ShapeDtypeStruct((4, 3), np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path / "programs"
    jax.config.update("jax_compilation_cache_dir", before)


def arguments(*shapes):
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device), shapes or SHAPES)


def program(made_from="a network", given=None):
    return KeptProgram(made_from, given or arguments(), jax.local_devices()[:1])


def kept(cache):
    """The file of a program that was kept."""

    def function(tree, x):
        return jnp.sin(x * tree["weight"])

    program().compile(function)
    (file,) = cache.glob("*.program")
    return file


def test_a_kept_program_is_loaded_without_tracing_and_gives_the_same(cache):
    given = {"weight": jnp.arange(3.0)}, jnp.linspace(0, 1, 12).reshape(4, 3)
    assert program().load() is None
    kept(cache)
    expected = jax.jit(lambda tree, x: jnp.sin(x * tree["weight"]))(*given)
    np.testing.assert_array_equal(program().load()(*given), expected)
    assert cache.stat().st_mode & 0o777 == 0o700
    assert not [path for path in cache.parent.iterdir() if "function" in path.name]  # JAX keeps no second one


def test_a_program_is_loaded_under_an_open_umask(cache):
    before = os.umask(0o002)
    try:
        file = kept(cache)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600 and program().load() is not None


def test_where_files_have_modes_of_their_own_programs_are_left_to_the_cache_of_jax(cache, monkeypatch, capsys):
    chmod = Path.chmod
    monkeypatch.setattr(Path, "chmod", lambda path, _: chmod(path, 0o777))
    file = kept(cache)
    assert file.read_bytes() == b"" and "can be written by others" in capsys.readouterr().err
    again = program()
    assert again.load() is None and again._file is None and capsys.readouterr().err == ""


def test_in_a_folder_with_modes_of_its_own_nothing_is_looked_for(cache, monkeypatch, capsys):
    monkeypatch.setattr(kept_programs, "private_folder", lambda path: (path.mkdir(), path.chmod(0o777)))
    assert program()._file is None and "can be written by others" in capsys.readouterr().err


def test_a_program_is_tried_without_compiling_others(cache):
    compiled = []

    def note(name, *_, **__):
        compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        program(given=arguments({"weight": jax.ShapeDtypeStruct((7,), np.float32)})).compile(
            lambda tree: tree["weight"] * 2
        )
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert sum("backend_compile" in name for name in compiled) == 1 and len(list(cache.glob("*.program"))) == 1


def test_another_network_size_setting_or_source_has_another_program(cache, monkeypatch):
    kept(cache)
    assert program("another").load() is None
    assert program(given=arguments(SHAPES[0], jax.ShapeDtypeStruct((5, 3), np.float32))).load() is None
    with jax.default_matmul_precision("highest"):
        assert program().load() is None
    with monkeypatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
        assert program().load() is None
    with monkeypatch.context() as patch:
        patch.setattr(kept_programs, "_SOURCES", (kept_programs._stamps(), "changed"))
        assert program().load() is None
    with monkeypatch.context() as patch:
        patch.setattr(kept_programs, "_processor", lambda: iter(["flags : other"]))
        assert program().load() is None
    assert program().load() is not None


def test_a_setting_of_the_thread_that_traces_is_told_from_that_of_the_thread_that_loads(cache):
    with ThreadPoolExecutor(1) as thread, jax.default_matmul_precision("highest"):
        found = thread.submit(program).result()
        assert not found.is_of_now()
        found.compile(lambda tree, x: x)
    assert not list(cache.iterdir())
    assert program().is_of_now()


def test_after_an_edit_of_a_source_nothing_is_loaded_or_kept(cache, monkeypatch, tmp_path):
    source = tmp_path / "model.py"
    source.write_text("as imported")
    monkeypatch.setattr(kept_programs, "_sources", lambda: [source])
    monkeypatch.setattr(kept_programs, "_SOURCES", kept_programs._as_imported())
    file, found = kept(cache), program("another")
    assert program().load() is not None
    source.write_text("edited since")
    assert program().load() is None
    found.compile(lambda tree, x: x)
    assert list(cache.iterdir()) == [file]


def test_on_a_system_that_does_not_tell_its_processor_nothing_is_said(cache, monkeypatch, capsys):
    monkeypatch.setattr(kept_programs.sys, "platform", "darwin")
    monkeypatch.delattr(os, "sched_getaffinity")
    assert program()._file is None and capsys.readouterr().err == ""


def test_a_cache_that_jax_has_not_made_yet_is_made(cache, capsys):
    jax.config.update("jax_compilation_cache_dir", str(cache / "xdg" / "xla"))
    kept(cache / "xdg" / "xla" / "programs")
    assert program().load() is not None and capsys.readouterr().err == ""
    assert (cache / "xdg" / "xla").stat().st_mode & 0o777 == 0o700


def test_what_a_killed_process_left_of_a_program_is_removed(cache):
    left = kept(cache).parent / ".another.program.123456.partial"
    left.write_bytes(b"half")
    program("another").compile(lambda tree, x: x)
    assert not left.exists()


def test_two_threads_do_not_change_the_setting_of_jax_at_once(cache, monkeypatch):
    least, both, met = jax.config.jax_persistent_cache_min_compile_time_secs, Barrier(2), []
    whole = kept_programs.compilation.compile_ahead

    def compile_ahead(*given):
        with contextlib.suppress(BrokenBarrierError):
            both.wait(0.5)
            met.append(True)
        return whole(*given)

    monkeypatch.setattr(kept_programs.compilation, "compile_ahead", compile_ahead)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda name: program(name).compile(lambda tree, x: x), "ab"))
    assert met == [] and jax.config.jax_persistent_cache_min_compile_time_secs == least


def writable(file):
    file.chmod(0o622)


def linked(file):
    file.rename(file.parent.parent / "elsewhere")
    file.symlink_to(file.parent.parent / "elsewhere")


def of_another(file):
    if os.geteuid():
        pytest.skip("only root gives files away")
    os.chown(file, 12345, 12345)


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-1])


def altered(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("change", [writable, linked, of_another, cut_short, altered])
def test_what_others_could_have_written_or_is_damaged_is_not_loaded_but_written_again(cache, change):
    file = kept(cache)
    change(file)
    assert program().load() is None
    kept(cache)
    assert program().load() is not None and not file.is_symlink() and file.stat().st_uid == os.geteuid()


def test_a_folder_of_another_is_not_used(cache, capsys):
    if os.geteuid():
        pytest.skip("only root gives folders away")
    file = kept(cache)
    os.chown(cache, 12345, 12345)
    of_other = program()
    assert of_other.load() is None and "note: a compiled program could not be kept" in capsys.readouterr().err
    of_other.compile(lambda tree, x: x)
    assert list(cache.iterdir()) == [file]


def test_what_cannot_be_kept_is_left_to_the_cache_of_jax(cache, monkeypatch, capsys):
    def refuse(_):
        raise NotImplementedError("no")

    with monkeypatch.context() as patch:
        patch.setattr(kept_programs.serialize_executable, "serialize", refuse)
        file = kept(cache)
    assert file.read_bytes() == b"" and "(NotImplementedError: no)" in capsys.readouterr().err
    again = program()
    assert again.load() is None and again._file is None
    given = {"weight": jnp.ones(3)}, jnp.ones((4, 3))
    np.testing.assert_array_equal(again.compile(lambda tree, x: x * 2)(*given), 2)
    assert file.read_bytes() == b"" and capsys.readouterr().err == ""


def test_only_the_latest_stay(cache, monkeypatch):
    monkeypatch.setattr(kept_programs, "MOST_FILES", 2)
    for name in "abc":
        program(name).compile(lambda tree, x: x)
    assert [program(name).load() is not None for name in "abc"] == [False, True, True]
