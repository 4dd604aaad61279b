"""What commands leave behind when they are hindered: a full disk, SIGTERM, kill -9, outputs that may not be written.

The matrix is of every command that writes and each of these. At every instant each output is what it was before, or what an undisturbed
run writes, byte by byte; the exit code is told, faults take one line; and the command, given again, ends as if nothing had been.
`describe` and `view` write nothing and are not here. One command at a time: two on one output are in `tests/files`.
"""

import contextlib
import fnmatch
import itertools
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
from conftest import small_flags
from drawn_labels import checkered
from forked_commands import Commands, Ended, Running
from small_scenes import files_of, scene, write


class World(NamedTuple):
    """What all share."""

    commands: Commands
    small: Path
    """Of the fixture `small_run`."""
    folder: Path
    """Where commands run. Outputs are in its folder `out`."""
    places: dict[str, str]
    """Addresses of the servers, for those that ask some."""

    @property
    def out(self) -> Path:
        return self.folder / "out"


class Job(NamedTuple):
    """A command, and what is asked of its outputs."""

    module: str
    arguments: Callable[[World], tuple[object, ...]]
    replaces: bool = True
    """Whether it is run over older files."""
    before: tuple[object, ...] = ()
    """Arguments of a run that makes the older state; without, each older file is a line of text."""
    whole: tuple[str, ...] = ("*",)
    """Names of outputs that are old or new at every instant; other outputs grow, and are looked at in the end."""
    ends_equal: tuple[str, ...] = ("*",)
    """Names of outputs that are those of an undisturbed run in the end."""
    hides: bool = False
    """Whether it has hidden files of its own, such as a lock, when it has ended."""
    server: str = ""
    """Name of the fixture that serves what it reads, if it reads from a server."""


def _export(kind: str, output: str) -> Job:
    def arguments(world: World) -> tuple[object, ...]:
        return ("--workdir", world.small / "run", "--format", kind, "--output", f"out/{output}")

    return Job("specsar_jax.export", arguments, replaces=kind != "folder")


def _predict(world: World) -> tuple[object, ...]:
    (s2,), (s1,) = files_of(world.folder)
    outputs = "--output out/map.tif --probabilities out/shares.tif"
    return ("--workdir", world.small / "run", "--s2", s2, "--s1", s1, *outputs.split())


def _of_run(outputs: str) -> Callable[[World], tuple[object, ...]]:
    return lambda world: ("--workdir", world.small / "run", "--data_dir", world.small / "data", *outputs.split())


def _prepare(world: World) -> tuple[object, ...]:
    return ("--tiles", world.small / "tiles", *["--name", "mine", "--data_dir", "out", "--tile_size_px", "64"])


def _cut(world: World) -> tuple[object, ...]:
    (s2,), (s1,) = files_of(world.folder)
    how = "--field class --output out/tiles --block_m 200 --gap_m 20 --tile_size_px 20 --splits train=0.5,test=0.5"
    return ("--s2", s2, "--s1", s1, "--labels", world.folder / "labels.geojson", *how.split())


def _sweep(world: World) -> tuple[object, ...]:
    steps = ("--config.train.steps=2", "--over", "train.accumulate=1,2")
    return ("--config", "quickstart", "--workdir", "out", *small_flags(world.small), *steps)


def _map_region(world: World) -> tuple[object, ...]:
    from region_archive import arguments

    box = ("--bbox", 17.988, 42.391, 18.0, 42.4)
    return arguments(world.small / "run", world.places["region"], Path("out"), *box, "--retries", 0)


def _acquire(world: World) -> tuple[object, ...]:
    s1 = "--s1_collection simulated-s1 --s1_unit power --s1_quantity sigma0 --retries 0 --workers 1 --output out"
    places = ("--labels", world.folder / "labels", "--stac_url", world.places["tiles"])
    return (*places, "--s2_collection", "simulated-s2", *s1.split())


SIMULATED = tuple(
    [
        "--simulated",
        "--name",
        "mine",
        "--data_dir",
        "out",
        "--tiles_per_split",
        "train=2,test=1",
        "--tile_size_px",
        "64",
    ]
)

OF_A_RUN = ("*/config.json", "*/statistics.json", "*/evaluation_*", "*/tiles_*", "*/calibration.json")

JOBS = {
    "safetensors": _export("safetensors", "a.safetensors"),
    "folder": _export("folder", "a"),
    "stablehlo": _export("stablehlo", "a.stablehlo"),
    "onnx": _export("onnx", "a.onnx"),
    "evaluate": Job("specsar_jax.evaluate", _of_run("--maps out/maps --output out/e.json")),
    "predict": Job("specsar_jax.predict", _predict),
    "report": Job("specsar_jax.report", _of_run("--output out/r.html")),
    "look": Job(
        "tfds_dwplus.look",
        lambda world: ("--data_dir", world.small / "data", "--name", "mine", "--output", "out/l.png"),
    ),
    "cut": Job("tfds_dwplus.cut", _cut, replaces=False),
    "prepare": Job("tfds_dwplus.prepare", _prepare, replaces=False),
    "overwrite": Job("tfds_dwplus.prepare", lambda _: (*SIMULATED, "--seed", 1, "--overwrite"), before=SIMULATED),
    "train": Job(
        "specsar_jax.train",
        lambda world: ("--workdir", "out/run", *small_flags(world.small)),
        *(False, (), OF_A_RUN, OF_A_RUN, True),
    ),
    "sweep": Job("specsar_jax.sweep", _sweep, False, (), OF_A_RUN, ("table.*", *OF_A_RUN), True),
    "map_region": Job("specsar_jax.map_region", _map_region, False, (), ("blocks/*",), ("*",), True, "region"),
    "acquire": Job("tfds_dwplus.acquire", _acquire, False, (), ("*.tif",), ("*.tif", "tiles.csv"), True, "tiles"),
}

FAST = ("safetensors", "evaluate", "predict", "prepare", "overwrite")
"""Jobs of the tests that run every time; the others are slow, or like one of these."""


@pytest.fixture(scope="module")
def region(tmp_path_factory) -> Iterator[str]:
    """A STAC API with scenes of a region."""
    from region_archive import served

    with served(tmp_path_factory.mktemp("region"), ("EPSG:32633", 18.0, 42.4)) as (url, _):
        yield url


@pytest.fixture(scope="module")
def tiles(world, tmp_path_factory) -> Iterator[str]:
    """A STAC API with scenes of two label tiles, which are written."""
    from local_archive import Archive, add_backscatter, add_simulated, files_served, stac_served

    folder, left, top = tmp_path_factory.mktemp("tiles"), 704000.0, 4701000.0
    for place, name in enumerate(("dw_17.5_42.4-20190505", "dw_17.51_42.41-20190505")):
        transform = rasterio.Affine(10, 0, left + 200 * place, 0, -10, top)
        label = np.full((510, 510), 1 + place, np.uint8)
        write(world.folder / "labels/Experts/EH/4" / f"{name}.tif", label, transform, "EPSG:32633")
    with files_served(folder, tmp_path_factory.mktemp("control")) as files:
        scenes = Archive(folder, files)
        add_simulated(scenes, 0, "EPSG:32633", left + 1500, top - 1500, **{"s2:processing_baseline": "02.08"})
        add_backscatter(scenes, "pass_a", "2019-05-14T05:00:00Z", "EPSG:32633", left + 1503, top - 1498)
        with stac_served(scenes.items, tmp_path_factory.mktemp("api")) as url:
            yield url


@pytest.fixture(scope="module")
def world(small_run, tmp_path_factory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("faults")
    scene(folder, 90, 140)
    checkered(files_of(folder)[0][0], folder / "labels.geojson", ("water", "trees"))
    commands = Commands(folder, sorted({job.module for job in JOBS.values()}))
    yield World(commands, small_run, folder, {})
    commands.close()


@pytest.fixture(scope="module")
def undisturbed(world, request) -> Callable[[str], tuple[dict[str, bytes], dict[str, bytes], float]]:
    """Of a job: the older files, the new ones, and the seconds that it takes."""
    known: dict[str, tuple[dict[str, bytes], dict[str, bytes], float]] = {}

    def of(name: str) -> tuple[dict[str, bytes], dict[str, bytes], float]:
        if name not in known:
            job, older = JOBS[name], {}
            if job.server:
                world.places[job.server] = request.getfixturevalue(job.server)
            with _ordinary(world):
                if job.before:
                    assert _start(world, job, arguments=job.before).wait().code == 0
                    older = _outputs(world.out)
                ended = _start(world, job).wait()
                assert ended.code == 0, ended.said
                new = _outputs(world.out)
            if job.replaces and not job.before:
                older = {file: f"older than {file}\n".encode() for file in new}
            known[name] = (older, new, ended.seconds)
        return known[name]

    return of


def _slow_unless(*fast: str, of: Iterable[str] = JOBS) -> list[Any]:
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in of]


@pytest.mark.parametrize("name", _slow_unless(*FAST))
def test_files_that_may_not_grow(world, undisturbed, name):
    """The limit of a process stands for a full disk, which takes root to make: EFBIG for ENOSPC. The largest file does not fit; logs may
    end early, with a note.
    """
    older, new, _ = undisturbed(name)
    with _ordinary(world, older):
        sizes = map(len, _named(new, JOBS[name].whole).values())
        ended = _start(world, JOBS[name], most_bytes=max(sizes) // 2).wait()
        _told(ended, 2)
        _check_standing(world, JOBS[name], older, new, ended)
        _check_after(world, JOBS[name], older, new)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", JOBS)
def test_a_full_disk(world, undisturbed, name, share):
    older, new, _ = undisturbed(name)
    pages = sum(len(content) // 4096 + 2 for content in new.values())
    least = 1  # page: a size of 0 is no limit
    room = sum(len(content) // 4096 + 4 for content in older.values())
    with _mounted(world, f"size={4 * (max(int(share * pages), least) + room)}k", older) as remount:
        ended = _start(world, JOBS[name]).wait()
        if ended.code:
            _told(ended, 2)
        _check_standing(world, JOBS[name], older, new, ended)
        remount("size=200m")
        _check_after(world, JOBS[name], older, new)


@pytest.mark.parametrize("name", _slow_unless(*FAST))
def test_outputs_that_may_not_be_written(world, undisturbed, name):
    older, _, _ = undisturbed(name)
    with _ordinary(world, older) if os.geteuid() else _mounted(world, "size=50m", older) as remount:
        if remount:
            remount("ro")
        else:
            _allow(world.out, write=False)
        before = _outputs(world.out, hidden=True)
        try:
            _told(_start(world, JOBS[name]).wait(), 2)
            assert _outputs(world.out, hidden=True) == before
        finally:
            if not remount:
                _allow(world.out, write=True)


@pytest.mark.parametrize("name", _slow_unless("overwrite", of=[name for name, job in JOBS.items() if not job.hides]))
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_signals_about_each_rename(world, undisturbed, name, number):
    """Before and after each, in turn, until one run has fewer. Those that rename all along are hit at any instant, below."""
    older, new, _ = undisturbed(name)
    for at in itertools.count():
        with _ordinary(world, older):
            ended = _start(world, JOBS[name], hit=(number, at)).wait()
            if ended.code == 0:
                break
            _told(ended, _code(number))
            _check_standing(world, JOBS[name], older, new, ended)
            _check_after(world, JOBS[name], older, new)
    assert at >= 2  # it was hit before and after a rename at least


@pytest.mark.parametrize("name", _slow_unless("predict"))
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_signals_at_any_instant(world, undisturbed, name, number, request):
    """Spread over the time that the command takes; each time it goes on from what the one before left."""
    older, new, seconds = undisturbed(name)
    slow = request.config.option.markexpr != "not slow"
    draws = random.Random(f"{name} {number}")
    with _ordinary(world, older):
        for _ in range(6 if slow else 2):
            running = _start(world, JOBS[name])
            running.send(number, draws.uniform(0.1, 1.0) * seconds)
            ended = running.wait()
            if not JOBS[name].replaces and (not ended.code or "is there already" in ended.said):
                break  # it has ended, and refuses to do it again
            if ended.code:
                _told(ended, _code(number))
            _check_standing(world, JOBS[name], older, new, ended)
        _check_after(world, JOBS[name], older, new)


def _start(world: World, job: Job, arguments: tuple[object, ...] = (), **hindrance: Any) -> Running:
    return world.commands.start(job.module, *(arguments or job.arguments(world)), cwd=world.folder, **hindrance)


def _outputs(out: Path, *, hidden: bool = False) -> dict[str, bytes]:
    """Files by name, those that begin with a dot, or lie in such a folder, only if asked for."""
    files = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if hidden or not _is_hidden(name)}


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _named(files: dict[str, bytes], patterns: tuple[str, ...]) -> dict[str, bytes]:
    return {
        name: content for name, content in files.items() if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    }


def _code(number: int) -> int:
    return 143 if number == signal.SIGTERM else -number


def _told(ended: Ended, code: int) -> None:
    """The exit code is as promised, and what is said is a line, if it is an error."""
    assert ended.code == code, ended.said
    assert "Traceback" not in ended.said, ended.said
    errors = [line for line in ended.said.splitlines() if line.startswith("error: ")]
    assert len(errors) == (code == 2), ended.said


def _check_standing(world: World, job: Job, older: dict[str, bytes], new: dict[str, bytes], ended: Ended) -> None:
    """Each output is old or new; all are new if the command said so."""
    found = _named(_outputs(world.out), job.whole)
    for name, content in found.items():
        assert content in (older.get(name), new.get(name)), f"{name} has {len(content)} bytes: {ended.said}"
    # GDAL would read an older map's names and statistics with the new one, so these go first.
    missing = {name for name in older.keys() & new.keys() - found.keys() if not name.endswith(".aux.xml")}
    assert not missing, f"{missing}: {ended.said}"
    if ended.code == 0:
        assert found == _named(new, job.whole)


def _check_after(world: World, job: Job, older: dict[str, bytes], new: dict[str, bytes]) -> None:
    """What was left is as promised; given again, the command writes what it does undisturbed, and leaves nothing else."""
    again = _start(world, job).wait()
    if again.code and not job.replaces:
        # The one before had ended, but for its exit code: a new name is asked for.
        assert "already" in again.said, again.said
        _told(again, 2)
    else:
        assert again.code == 0, again.said
    found = _outputs(world.out, hidden=True)
    assert _named(_outputs(world.out), job.ends_equal) == _named(new, job.ends_equal)
    assert job.hides or again.code or not [name for name in found if _is_hidden(name)]


@contextlib.contextmanager
def _ordinary(world: World, older: dict[str, bytes] | None = None) -> Iterator[None]:
    """An empty folder `out`, with older files."""
    try:
        _write(world.out, older or {})
        yield None
    finally:
        shutil.rmtree(world.out)


@contextlib.contextmanager
def _mounted(world: World, options: str, older: dict[str, bytes]) -> Iterator[Callable[[str], None]]:
    """The same on a file system of its own, in memory. Yields what changes its options. Skips where it cannot be mounted."""
    world.out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(world.out)]
    try:
        if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("only root can mount a disk of a small size")
        try:
            _write(world.out, older)
            yield lambda more: subprocess.run(["mount", "-o", f"remount,{more}", str(world.out)], check=True)
        finally:
            subprocess.run(["umount", str(world.out)], check=True)
    finally:
        world.out.rmdir()


def _write(out: Path, files: dict[str, bytes]) -> None:
    out.mkdir(exist_ok=True)
    for name, content in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)


def _allow(out: Path, *, write: bool) -> None:
    for path in (out, *out.rglob("*")):
        path.chmod((0o700 if write else 0o500) if path.is_dir() else (0o600 if write else 0o400))
