"""Every command that writes refuses an output that another process is at work on, in one line, and leaves it as it is.

Of `predict` see tests/maps/test_map_files.py, of `acquire` tests/dataset/test_acquire.py, of `map_region` tests/regions/test_block_maps.py.
"""

import subprocess
import sys

import pytest
from conftest import REPOSITORY, small_flags
from drawn_labels import checkered
from small_scenes import files_of, scene

from specsar_jax import evaluate, export, report, sweep, train
from tfds_dwplus import cut, describe, look, prepare

HOLDS = """
import contextlib, sys, time
from pathlib import Path
from tfds_dwplus.files.outputs import locked, output_claimed
from tfds_dwplus.files.workplaces import beside, workplace

folder = Path(sys.argv[1])
with contextlib.ExitStack() as stack:
    for name in ("run.json", "maps.json", "r.html", "l.png", "d.json"):
        (folder / name).write_text("older")
        stack.enter_context(output_claimed(folder / name, "--output"))
    for name in ("maps", "b.safetensors", "bundle", "tiles"):
        stack.enter_context(workplace(beside(folder / name), folder / name, "--output"))
    for name in ("sweep", "run", "data/dynamic_world_plus"):
        (folder / name).mkdir(parents=True)
    for name in ("sweep", "run"):
        stack.enter_context(locked(folder / name / ".lock", name))
    stack.enter_context(workplace(folder / "data/dynamic_world_plus/.preparing_x", folder / "data/dynamic_world_plus/x/1.0.0"))
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A folder in which another process is at work on everything."""
    folder = tmp_path_factory.mktemp("held")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    with process.stdout:
        try:
            assert process.stdout.readline() == "ready\n"
            yield folder
        finally:
            process.kill()
            process.wait()


def test_a_second_process_is_refused(held, small_run):
    run, data, tiles = small_run / "run", small_run / "data", small_run / "tiles"
    of_data = ["--data_dir", data, "--name", "mine"]
    quickstart = ["--config", REPOSITORY / "configs" / "quickstart.py", *small_flags(small_run)]
    of_map = [
        "--prediction",
        tiles / "label",
        "--legend",
        "dynamic_world_labels",
        "--data_dir",
        data,
        "--dataset",
        "mine",
    ]
    scene(held, 40, 40)
    (s2,), _ = files_of(held)
    labels = checkered(s2, held / "l.geojson", ("water", "trees"))
    commands = {
        "cut": (cut, ["--s2", s2, "--labels", labels, "--field", "class", "--output", held / "tiles"]),
        "evaluate": (evaluate, ["--workdir", run, "--output", held / "run.json"]),
        "evaluate --maps": (evaluate, ["--workdir", run, "--output", held / "m.json", "--maps", held / "maps"]),
        "evaluate --prediction": (evaluate, [*of_map, "--output", held / "maps.json"]),
        "report": (report, ["--workdir", run, "--output", held / "r.html", "--tiles", 0]),
        "look": (look, [*of_data, "--output", held / "l.png"]),
        "describe": (describe, [*of_data, "--json", held / "d.json"]),
        "export": (export, ["--workdir", run, "--format", "safetensors", "--output", held / "b.safetensors"]),
        "export to a folder": (export, ["--workdir", run, "--format", "folder", "--output", held / "bundle"]),
        "prepare": (prepare, ["--simulated", "--name", "x", "--data_dir", held / "data"]),
        "train": (train, [*quickstart, "--workdir", held / "run"]),
        "sweep": (sweep, [*quickstart, "--workdir", held / "sweep"]),
    }
    before = {path: path.stat().st_mtime_ns for path in held.rglob("*") if path.is_file()}
    for name, (command, arguments) in commands.items():
        with pytest.raises(ValueError, match=r"^another process is at work on .*; wait for it, or "):
            command.main([*map(str, arguments)])
            pytest.fail(name)
    assert {path: path.stat().st_mtime_ns for path in held.rglob("*") if path.is_file()} == before
