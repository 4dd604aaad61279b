"""Blocks over a Dask cluster whose parts are killed: by SIGKILL, in the middle of a region of 4 x 4 blocks over two UTM zones."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import portpicker
import pytest
import rasterio
from conftest import REPOSITORY, refused

pytest.importorskip("shapely", reason="extra 'region'")
pytest.importorskip("distributed", reason="extra 'region'")

from local_archive import wait_for_port
from region_archive import arguments, box_hectares, mapped, served, times_mapped

from tfds_dwplus.places import blocks

pytestmark = pytest.mark.slow

BOX = (17.978, 42.388, 18.022, 42.42)
"""Of blocks of 1 km, two columns in zone 33 and two in zone 34, four rows."""

BLOCKS = {block.name for block in blocks.blocks_of(blocks.box(*BOX), 100)}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with served(tmp_path_factory.mktemp("archive"), ("EPSG:32633", 18.0, 42.404)) as (url, _):
        yield url


@contextlib.contextmanager
def cluster(folder: Path, workers: int, **more: str) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """Address of a scheduler, and its process with those of its workers; nobody starts again what is killed."""
    port = portpicker.pick_unused_port()
    address, started = f"tcp://127.0.0.1:{port}", []
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY), "DASK_LOGGING__DISTRIBUTED": "critical", "NPROC": "1"} | more

    def start(*what: object) -> None:
        command = [sys.executable, "-m", "dask", *map(str, what)]
        started.append(subprocess.Popen(command, cwd=folder, env=environ, stderr=subprocess.DEVNULL))

    try:
        start("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
        wait_for_port(port, started[0])
        for _ in range(workers):
            start("worker", address, "--nthreads", 1, "--no-nanny", "--no-dashboard", "--local-directory", folder)
        yield address, started
    finally:
        for process in started:
            process.kill()
            process.wait()


def killed_half_way(small_run, url: str, out: Path, address: str, victim: subprocess.Popen, after: int):
    """Runs the command, and kills a process once some blocks are there."""
    flags = arguments(small_run / "run", url, out, "--bbox", *BOX, "--block_px", 100, "--scheduler", address)
    running = subprocess.Popen(
        [sys.executable, "-m", "specsar_jax.map_region", *map(str, flags)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(list((out / "blocks").glob("*.json"))) < after:
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)
    victim.kill()
    there = len(list((out / "blocks").glob("*.json")))
    assert there < len(BLOCKS)
    stdout, stderr = running.communicate(timeout=300)
    return subprocess.CompletedProcess(flags, running.returncode, stdout, stderr)


def test_a_worker_is_killed_half_way(small_run, url, tmp_path):
    assert len(BLOCKS) == 16
    out, whole = tmp_path / "out", tmp_path / "whole"
    with cluster(tmp_path, 2) as (address, (_, victim, _)):
        result = killed_half_way(small_run, url, out, address, victim, 6)
    assert result.returncode == 0, result.stderr
    # None is lost, none is there twice, nothing is left over.
    summary = json.loads((out / "summary.json").read_text())
    assert {path.stem for path in (out / "blocks").glob("*.tif")} == BLOCKS
    kinds = (".json", ".qml", ".tif", ".tif.aux.xml")
    left = {path.name for path in (out / "blocks").iterdir()} - {name + kind for name in BLOCKS for kind in kinds}
    assert all(name.startswith(".") for name in left)  # of the one that was killed, its begun files
    assert summary["blocks"] == 16 and not summary["blocks_missing"]
    times = times_mapped(out, BOX)
    assert (times == 1).mean() > 0.985 and times.max() <= 2
    # Areas of the classes add up to the region's, which is known from a formula.
    assert summary["region_hectares"] == pytest.approx(box_hectares(*BOX), rel=1e-6)
    assert summary["no_data_hectares"] == pytest.approx(20 * 20 * 0.01, rel=0.01)  # under clouds on both days
    known = sum(summary["hectares"].values()) + summary["no_data_hectares"]
    assert known == pytest.approx(box_hectares(*BOX), rel=1e-3)
    # The map is that of a run in which nobody died, and which cut the region otherwise: blocks have no seams.
    again = mapped(small_run / "run", url, whole, "--bbox", *BOX, "--block_px", 400)
    assert again.returncode == 0, again.stderr
    for zone in ("33N", "34N"):
        with rasterio.open(out / f"mosaic_{zone}.vrt") as one, rasterio.open(whole / f"mosaic_{zone}.vrt") as other:
            pixels = one.read(1)
            np.testing.assert_array_equal(pixels, other.read(1, window=other.window(*one.bounds)))
            assert (pixels != 255).sum() > 60_000
    assert json.loads((whole / "summary.json").read_text())["hectares"] == pytest.approx(summary["hectares"])


def test_the_scheduler_is_killed_half_way(small_run, url, tmp_path):
    out = tmp_path / "out"
    with cluster(tmp_path, 1) as (address, (scheduler, _)):
        result = killed_half_way(small_run, url, out, address, scheduler, 3)
    assert "the Dask scheduler went away" in refused(result)
    there = {path: path.stat().st_mtime_ns for path in (out / "blocks").glob("*.json")}
    result = mapped(small_run / "run", url, out, "--bbox", *BOX, "--block_px", 100)
    assert result.returncode == 0, result.stderr
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert {path.stem for path in (out / "blocks").glob("*.tif")} == BLOCKS


def test_workers_of_another_version(small_run, url, tmp_path):
    """A worker that cannot import the package stands for one with an older version."""
    (tmp_path / "old" / "specsar_jax").mkdir(parents=True)
    (tmp_path / "old" / "specsar_jax" / "__init__.py").write_text("raise ImportError('too old')")
    with cluster(tmp_path, 1, PYTHONPATH=str(tmp_path / "old")) as (address, _):
        flags = "--bbox", *BOX, "--block_px", 100, "--scheduler", address, "--retries", 0
        assert "version of specsar_jax" in refused(mapped(small_run / "run", url, tmp_path / "out", *flags))
