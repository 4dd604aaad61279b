"""Each command that README and site show is run, as it is written, in a folder that holds what the page speaks of.

Training is cut short and small by arguments that are added. What cannot run here, because it installs, asks the network or never ends,
is in a list, with the file in which it is run another way.
"""

import importlib
import itertools
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from conftest import REPOSITORY, SMALL, write_folder
from drawn_networks import SMALL_PRESETS, drawn
from shown_pages import PAGES, commands, name
from small_scenes import UTM, write

from specsar_jax import predict
from specsar_jax.commands import COMMANDS
from specsar_jax.trained.bundle import write_bundle
from tfds_dwplus import DynamicWorldPlusConfig, bands
from tfds_dwplus.prepare import prepare
from tfds_dwplus.simulate import simulated_tile

ELSEWHERE = {
    r"pip install|pytest|git clone|sphinx-build|-m venv|\. \.venv": ".ci/run",
    r"\.acquire ": "tests/dataset/test_acquire_region.py",
    r"\.map_region ": "tests/commands/test_map_region.py",
    r"\.view ": "tests/commands/test_view.py",
    r"\.sweep ": "tests/commands/test_sweep.py",
    r"hub:|--push": "tests/exports/test_export.py",
    r"gs://|s3://": "tests/commands/test_in_buckets.py",
    r"--saved_model dynamicworld": "tests/commands/test_import_dynamic_world.py",
    r"--labels pangaea/": "tests/accuracy/test_comparison.py",
    r"make_pictures\.py|benchmarks/": "docs/make_pictures.py",
}
"""Commands that are not run here, and where they are run."""

ADDED = {
    "specsar_jax.train": [*SMALL, "--config.mesh.devices=1", "--config.train.steps=2", "--config.train.eval_every=2"],
    "specsar_jax.devices": SMALL,
    "tfds_dwplus.cut": ["--block_m", "320", "--gap_m", "20", "--tile_size_px", "32"],
}
"""Arguments that make a command small enough for a test."""

SIZE = 128
"""Side of the scenes, pixels."""


def test_each_exception_is_run_somewhere():
    assert all((REPOSITORY / file).exists() for file in ELSEWHERE.values())


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page) and page.name != "launch.md"], ids=name)
def test_the_commands_of_a_page_run(page, world, tmp_path, monkeypatch):
    """launch.md has a test of its own."""
    folder = tmp_path / "reader"
    shutil.copytree(world, folder, symlinks=True)
    monkeypatch.chdir(folder)
    for written in commands(page):
        for part in written.split(" && "):
            if not any(re.search(pattern, part) for pattern in ELSEWHERE):
                run(part)


def run(written: str) -> None:
    """Runs a command in this process, with what makes it small."""
    words = shlex.split(written, comments=True)
    if words[0] == "specsar":
        words = ["python", "-m", f"{COMMANDS[words[1]][0]}.{words[1]}", *words[2:]] if words[1:] else words
    if words == ["specsar"]:
        return
    assert words[:2] == ["python", "-m"], f"who runs {written!r}?"
    module, arguments = words[2], words[3:]
    for path in _not_there_yet(module, arguments):
        shutil.rmtree(path, ignore_errors=True)
    inner = "specsar_jax.preflight.command" if module == "specsar_jax.devices" else module
    importlib.import_module(inner).main(
        [*arguments, *ADDED.get(module, [])] if "--write_classes" not in arguments else arguments
    )


def _not_there_yet(module: str, arguments: list[str]) -> list[str]:
    """What a reader who has come so far does not have yet, and other pages begin with."""
    following = dict(itertools.pairwise(arguments))
    return {
        "specsar_jax.train": [following.get("--workdir", "runs/quickstart")],
        "tfds_dwplus.label": ["tiles/label"],
        "tfds_dwplus.prepare": [f"data/dynamic_world_plus/{following.get('--name')}"],
    }.get(module, [])


@pytest.fixture(scope="module")
def world(small_run, tmp_path_factory) -> Path:
    """A reader's folder: scenes, tiles, data sets, finished runs, maps, vector files."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    scene(folder)
    codes = np.random.default_rng(0).choice(np.array([10, 20, 30, 40, 50, 60, 80], np.uint8), (1800, 3600))
    write(folder / "worldcover.tif", codes, rasterio.Affine(0.1, 0, -180, 0, -0.1, 90), "EPSG:4326")
    write_folder(folder / "tiles", {"train": 8, "validation": 2, "test": 2})
    for dataset in ("simulated", "mine"):
        prepare(DynamicWorldPlusConfig(name=dataset, tiles=folder / "tiles", tile_size_px=64), folder / "data")
    for run_name in ("a", "b", "quickstart"):
        shutil.copytree(small_run / "run", folder / "runs" / run_name)
    write_bundle(drawn(SMALL_PRESETS["dynamic_world"]), folder / "dynamic_world.safetensors")
    scene_files = ["--s2", str(folder / "s2.tif"), "--s1", str(folder / "s1.tif")]
    for file in ("map", "before", "after"):
        predict.main(["--workdir", str(folder / "runs" / "a"), *scene_files, "--output", str(folder / f"{file}.tif")])
    return folder


def scene(folder: Path) -> None:
    """Writes a scene in the forms that the pages name, and vector files over it."""
    tile = simulated_tile(5, "scene", 0, SIZE)
    s2, s1 = np.moveaxis(tile.s2, -1, 0), np.moveaxis(tile.s1, -1, 0)
    write(folder / "s2.tif", s2, names=bands.S2_BANDS)
    write(folder / "s1.tif", s1, names=bands.S1_BANDS)
    for where in ("scene", "june"):
        for band, values in zip(bands.S2_BANDS, s2, strict=True):
            write(folder / where / f"{band}.tif", values)
    for band, values in zip(bands.S1_BANDS, s1, strict=True):
        write(folder / "june_s1" / f"{band}.tif", values)
    left, top = UTM.c, UTM.f
    halves = [shapely.box(left + 640 * i, top - 1280, left + 640 * (i + 1), top) for i in range(2)]
    _vectors(folder / "districts.gpkg", halves, "name", ["West", "East"])
    corners = [(left + 160 * column, top - 160 * row) for row in range(8) for column in range(8)]
    fields = [shapely.box(x, y - 120, x + 120, y) for x, y in corners]
    _vectors(folder / "fields.gpkg", fields, "crop", [("maize", "wheat", "fallow")[i % 3] for i in range(len(fields))])


def _vectors(path: Path, polygons: list, field: str, values: list[str]) -> None:
    wkb, columns = np.array(shapely.to_wkb(polygons), object), [np.array(values, object)]
    pyogrio.raw.write(path, wkb, columns, [field], geometry_type="Polygon", crs="EPSG:32630")
