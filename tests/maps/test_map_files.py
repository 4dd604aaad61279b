"""Maps that are stopped, go on, and are made in parts: bit for bit the same file, and nothing under its name before it is whole."""

import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import rasterio
from conftest import command, refused
from small_scenes import GRID, files_of, scene

from specsar_jax.config import Predict
from specsar_jax.maps import compiled, map_files, mapping, scene_map, windows
from specsar_jax.maps.map_files import Outputs, UnfinishedMap
from specsar_jax.trained.loading import load_trained
from tfds_dwplus import bands
from tfds_dwplus.command_line import progress
from tfds_dwplus.imagery.grids import Grid


def outputs_in(folder) -> Outputs:
    folder.mkdir(exist_ok=True)
    return Outputs(folder / "map.tif", folder / "shares.tif", folder / "sure.tif")


def bytes_of(outputs: Outputs) -> list[bytes]:
    return [path.read_bytes() for path in outputs.paths.values()]


def test_tags_and_confidence(small_run, tmp_path):
    scene(tmp_path, 90, 70)
    trained, outputs = load_trained(small_run / "run"), outputs_in(tmp_path / "out")
    assert scene_map.map_scene(trained, *files_of(tmp_path), outputs, Predict())
    with rasterio.open(outputs.map) as map_, rasterio.open(outputs.confidence) as sure:
        tags, ids, confidence = map_.tags(), map_.read(1), sure.read(1)
        assert (sure.scales, sure.nodata, sure.tags()["software"]) == ((0.004,), 255, tags["software"])
    with rasterio.open(outputs.probabilities) as raster:
        np.testing.assert_array_equal(confidence, raster.read().max(axis=0))
    assert (tags["weights_sha256"], tags["s2_files"]) == (trained.sha256, files_of(tmp_path)[0][0].name)
    assert ((confidence == 255) == (ids == 255)).all()


def test_a_stopped_map_goes_on_to_the_same_file(small_run, tmp_path, monkeypatch, capsys):
    scene(tmp_path, 300, 90)
    trained, files = load_trained(small_run / "run"), files_of(tmp_path)
    whole, other = outputs_in(tmp_path / "whole"), outputs_in(tmp_path / "other")
    scene_map.map_scene(trained, *files, whole, Predict(overlap=0.6))
    write, written = UnfinishedMap.write, []

    def stop_at_the_fourth(unfinished, strip, *values):
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(strip)
        write(unfinished, strip, *values)

    monkeypatch.setattr(UnfinishedMap, "write", stop_at_the_fourth)
    with pytest.raises(OSError, match="No space"):
        scene_map.map_scene(trained, *files, other, Predict(overlap=0.6))
    assert [path.name for path in other.map.parent.iterdir()] == [".map.tif.unfinished"]
    with pytest.raises(ValueError, match=r"begun with other settings \(tags, tops\); finish .* or remove"):
        scene_map.map_scene(trained, *files, other, Predict(overlap=0.0))
    monkeypatch.setattr(UnfinishedMap, "write", lambda *args: (written.append(args[1]), write(*args)))
    scene_map.map_scene(trained, *files, other, Predict(overlap=0.6))
    assert "going on; 3 of" in capsys.readouterr().err
    assert sorted(written) == list(range(len(written)))  # none twice
    assert bytes_of(whole) == bytes_of(other)


def test_parts_make_the_same_file(small_run, tmp_path):
    scene(tmp_path, 300, 90)
    trained, files = load_trained(small_run / "run"), files_of(tmp_path)
    whole, other = outputs_in(tmp_path / "whole"), outputs_in(tmp_path / "other")
    scene_map.map_scene(trained, *files, whole, Predict())
    finished = [scene_map.map_scene(trained, *files, other, Predict(), shard=(part, 3)) for part in (3, 1, 2)]
    assert finished == [False, False, True]
    assert bytes_of(whole) == bytes_of(other)


def test_a_part_is_done_by_one_process(small_run, tmp_path):
    outputs = Outputs(tmp_path / "map.tif")
    one, two = (UnfinishedMap(GRID, outputs, bands.DYNAMIC_WORLD, {}, [0], {}) for _ in range(2))
    with (
        one.held("part_1_of_2", wait=False),
        two.held("part_2_of_2", wait=False),
        pytest.raises(ValueError, match=r"another process is at work on .*map.tif; wait"),
        two.held("part_1_of_2", wait=False),
    ):
        pass


def test_several_devices_make_the_same_map(small_run):
    assert jax.local_device_count() == 8
    trained, rng = load_trained(small_run / "run"), np.random.default_rng(0)
    rows, columns = windows.plan(60, 64, 0.25), windows.plan(250, 64, 0.25)
    s2 = rng.integers(1, 5000, (60, 250, 9), np.uint16)
    s1 = rng.normal(-12, 4, (60, 250, 2)).astype(np.float32)
    maps = []

    def read(r: slice, c: slice):
        return s2[r, c], s1[r, c], s2[r, c, 0] > 0

    for devices in (jax.local_devices()[:1], jax.local_devices()):
        at_once = mapping.windows_at_once(columns, trained.config.predict.window_px, len(devices))
        network, bar = compiled.make_probabilities(trained, devices), progress(disable=True)
        blocks = mapping.probability_blocks(read, network, rows, columns, at_once, range(1), bar, bands.DYNAMIC_WORLD)
        maps.append(np.concatenate([block.probability for block in blocks], axis=1))
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-5)


def test_a_constant_network_makes_a_constant_map():
    rows = windows.plan(500, 96, 0.4)
    share = np.linspace(0.0, 0.2, 9, dtype=np.float32)
    blocks = mapping.probability_blocks(
        lambda r, c: (
            (np.ones((r.stop - r.start, c.stop - c.start, 1)),) * 2
            + (np.ones((r.stop - r.start, c.stop - c.start), bool),)
        ),
        lambda s2, _: np.broadcast_to(share, (*s2.shape[:3], 9)),
        rows,
        rows,
        2,
        range(len(rows.starts)),
        progress(disable=True),
        bands.DYNAMIC_WORLD,
    )
    assert max(np.abs(block.probability - share).max() for block in blocks) < 1e-6


def test_windows_without_a_pixel_are_not_mapped():
    """The left half holds no data: nothing there is asked of the network, and the map of the right half stays."""
    axis, asked = windows.plan(256, 64, 0.25), []

    def read(r: slice, c: slice):
        valid = np.broadcast_to(np.arange(c.start, c.stop) >= 128, (r.stop - r.start, c.stop - c.start))
        return np.zeros((*valid.shape, 1)), np.zeros((*valid.shape, 1)), valid

    def network(s2, _):
        asked.append(len(s2))
        return np.full((*s2.shape[:3], 9), 1 / 9, np.float32)

    for block in mapping.probability_blocks(
        read, network, axis, axis, 1, range(2), progress(disable=True), bands.DYNAMIC_WORLD
    ):
        np.testing.assert_allclose(block.probability[block.seen > 0], 1 / 9, atol=1e-6)
    reached = sum(start + 64 > 128 for start in axis.starts)
    assert len(asked) == 2 * reached < 2 * len(axis.starts)


def test_a_map_of_one_strip(tmp_path):
    probability = np.zeros((40, 30, 9), np.float32)
    probability[:20, :, 3], probability[20:, :, 4] = 0.8, 0.6
    probability[:5] = np.nan
    map_files.write_map(
        GRID, Outputs(tmp_path / "map.tif"), bands.DYNAMIC_WORLD, {"made": "<by> & 'hand'"}, probability
    )
    with rasterio.open(tmp_path / "map.tif") as raster:
        assert Grid.of(raster) == GRID and raster.tags()["made"] == "<by> & 'hand'"
        assert [raster.read(1)[row, 0] for row in (4, 5, 19, 20)] == [255, 3, 3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.qml", "map.tif", "map.tif.aux.xml"]


def test_a_full_disk_at_the_end_keeps_the_strips(tmp_path, monkeypatch):
    outputs = Outputs(tmp_path / "map.tif")
    unfinished = UnfinishedMap(GRID, outputs, bands.DYNAMIC_WORLD, {}, [0], {})
    unfinished.write(0, np.zeros((40, 30), np.uint8), np.zeros((40, 30, 9), np.uint8))

    def fail(*_, **__):
        raise rasterio.errors.RasterioIOError("write failed")

    monkeypatch.setattr(rasterio.shutil, "copy", fail)
    with pytest.raises(OSError, match=r"cannot write map.tif in .*write failed.*is the disk full\?$"):
        unfinished.finish()
    monkeypatch.undo()
    assert UnfinishedMap(GRID, outputs, bands.DYNAMIC_WORLD, {}, [0], {}).finish()


def test_command_refuses_shards(small_run, tmp_path):
    scene(tmp_path, 40, 40)
    s2, s1 = files_of(tmp_path)
    common = ("--workdir", small_run / "run", "--s2", *s2, "--s1", *s1, "--output", tmp_path / "map.tif")
    assert "'5/4' is not a part such as 1/4" in refused(
        command("specsar_jax.predict", *common, "--shard", "5/4", cwd=tmp_path)
    )


@pytest.mark.slow
def test_killed_ten_times(small_run, tmp_path):
    """Kill -9 at ten random moments, each followed by the same command: the file of a map that was never stopped."""
    scene(tmp_path, 1500, 700)
    files = files_of(tmp_path)
    arguments = ["--workdir", small_run / "run", "--s2", *files[0], "--s1", *files[1], "--overlap", "0.5"]

    def run(outputs: Outputs) -> subprocess.Popen:
        more = ["--output", outputs.map, "--probabilities", outputs.probabilities, "--confidence", outputs.confidence]
        command_line = [sys.executable, "-m", "specsar_jax.predict", *map(str, [*arguments, *more])]
        return subprocess.Popen(command_line, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    whole, other = outputs_in(tmp_path / "whole"), outputs_in(tmp_path / "other")
    began = time.monotonic()
    assert run(whole).wait() == 0
    took, rng, killed = time.monotonic() - began, np.random.default_rng(0), 0
    folder = other.map.with_name(".map.tif.unfinished")
    while killed < 10:
        process = run(other)
        time.sleep(took * rng.uniform(0.3, 0.9))
        if process.poll() is not None:  # it was done before: again from the start
            for path in other.paths.values():
                path.unlink()
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
        for path in other.paths.values():
            if path.exists():  # whole, by the time it has its name
                with rasterio.open(path) as raster:
                    raster.read()
    assert run(other).wait() == 0
    assert bytes_of(whole) == bytes_of(other)
    assert not folder.exists()
