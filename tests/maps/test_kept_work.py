"""Finished strips of a map stay whatever stops it, and it goes on only with the inputs and settings that they were made with."""

import errno
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from small_scenes import GRID, files_of, scene, write

from specsar_jax.config import Predict
from specsar_jax.maps import scene_map
from specsar_jax.maps.map_files import Outputs, UnfinishedMap
from specsar_jax.trained.loading import load_trained
from tfds_dwplus import bands
from tfds_dwplus.imagery.rasters import Scene
from tfds_dwplus.imagery.scenes import Reading

KEPT = r"\d+ of \d+ strips of the map are kept: the same command goes on from there$"


@pytest.fixture
def trained(small_run):
    return load_trained(small_run / "run")


@pytest.fixture
def tall(tmp_path):
    """Files of a scene of several strips."""
    scene(tmp_path, 300, 90)
    return files_of(tmp_path)


def broken(monkeypatch: pytest.MonkeyPatch, error: BaseException, first_row: int) -> None:
    """From a row on, no pixel can be read."""
    read = Scene.read

    def fail(opened: Scene, rows: slice, columns: slice):
        if rows.stop > first_row:
            raise error
        return read(opened, rows, columns)

    monkeypatch.setattr(Scene, "read", fail)


def map_of(trained, files, output: Path, **more) -> None:
    scene_map.map_scene(trained, *files, Outputs(output), Predict(overlap=0.6), **more)


def strips(output: Path) -> int:
    return len(list(output.with_name(f".{output.name}.unfinished").glob("map_*.tif")))


def test_what_stops_a_map_keeps_its_strips(trained, tall, tmp_path, monkeypatch, capsys):
    whole, output = tmp_path / "whole.tif", tmp_path / "map.tif"
    map_of(trained, tall, whole)
    capsys.readouterr()
    refused = ValueError("cannot read the pixels of s1.tif (HTTP 403)")
    for row, error in ((150, refused), (200, KeyboardInterrupt()), (250, OSError(errno.ENOSPC, "disk full"))):
        before = strips(output)
        with monkeypatch.context() as patch, pytest.raises(type(error)) as stopped:
            broken(patch, error, row)
            map_of(trained, tall, output)
        assert strips(output) > before
        # An OSError and Ctrl-C have messages of their own.
        line = str(stopped.value) if error is refused else capsys.readouterr().err.splitlines()[-1]
        assert re.search(KEPT, line) and line.startswith("cannot read the pixels" if error is refused else "note: ")
    kept = strips(output)
    map_of(trained, tall, output)
    assert f"going on; {kept} of " in capsys.readouterr().err
    assert output.read_bytes() == whole.read_bytes()


def test_a_failure_at_the_end_keeps_all_strips(trained, tall, tmp_path, monkeypatch, capsys):
    output = tmp_path / "map.tif"
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(Path, "replace", full_for(output))
        map_of(trained, tall, output)
    assert re.search(KEPT, capsys.readouterr().err) and not output.exists()
    map_of(trained, tall, output)
    assert output.exists() and strips(output) == 0


def full_for(output: Path):
    replace = Path.replace

    def fail(path: Path, final: Path) -> Path:
        if final == output:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(path, final)

    return fail


def test_where_nothing_is_finished_nothing_is_left(trained, tall, tmp_path, monkeypatch):
    output = tmp_path / "map.tif"
    folder = tmp_path / ".map.tif.unfinished"
    broken(monkeypatch, ValueError("no"), 0)
    with pytest.raises(ValueError, match=r"^no$"):
        map_of(trained, tall, output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["label", "s1", "s2"]
    # Another part is at work, and has not finished a strip yet.
    seen = []
    monkeypatch.setattr(scene_map, "_map_strips", lambda *of: seen.append(of[5]) or 0)
    map_of(trained, tall, output, shard=(2, 2))
    monkeypatch.undo()
    broken(monkeypatch, ValueError("no"), 0)
    with seen[0].held("part_2_of_2", wait=False), pytest.raises(ValueError, match=r"^no$"):
        map_of(trained, tall, output, shard=(1, 2))
    assert folder.exists()
    with pytest.raises(ValueError, match=r"^no$"):
        map_of(trained, tall, output, shard=(1, 2))
    assert not folder.exists()


def test_a_map_without_a_pixel_goes(trained, tall, tmp_path):
    """Even if a part of it was kept: none of its strips can be used."""
    cloud = write(tmp_path / "clouds.tif", np.ones((300, 90), np.uint8), **place_of(tall[0][0]))
    with pytest.raises(ValueError, match=r"no pixel to map: .* look at --cloud_mask"):
        map_of(trained, tall, tmp_path / "map.tif", reading=Reading(cloud_mask=str(cloud)))
    assert not (tmp_path / ".map.tif.unfinished").exists()


def place_of(path: Path) -> dict:
    with rasterio.open(path) as raster:
        return {"crs": raster.crs, "transform": raster.transform}


def test_a_file_behind_a_vrt_changes(trained, tall, tmp_path, monkeypatch):
    s2, output = tmp_path / "s2.vrt", tmp_path / "map.tif"
    rasterio.shutil.copy(tall[0][0], s2, driver="VRT")
    files = [[s2], tall[1]]
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=KEPT):
        broken(patch, ValueError("no"), 150)
        map_of(trained, files, output)
    with rasterio.open(tall[0][0], "r+") as raster:
        raster.write(np.maximum(raster.read() // 3, 1))  # another scene under the same name
    line = rf"begun with other inputs: {re.escape(str(tall[0][0]))} changed since; give another --output, or remove the folder"
    with pytest.raises(ValueError, match=line):
        map_of(trained, files, output)
    assert strips(output)
    map_of(trained, files, tmp_path / "other.tif")


def test_settings_are_kept_with_strips_alone(tmp_path):
    """A folder in which nothing is finished takes the settings of the next map; one with a strip, or at work, does not."""
    outputs = Outputs(tmp_path / "map.tif")
    UnfinishedMap(GRID, outputs, bands.DYNAMIC_WORLD, {}, [0], {"a": 1})
    unfinished = UnfinishedMap(GRID, outputs, bands.DYNAMIC_WORLD, {}, [0], {"a": 2})
    with unfinished.held("part_1_of_1", wait=False), pytest.raises(ValueError, match=r"other settings \(a\); finish"):
        UnfinishedMap(GRID, outputs, bands.DYNAMIC_WORLD, {}, [0], {"a": 1})
    unfinished.write(0, np.zeros((40, 30), np.uint8))
    with pytest.raises(ValueError, match=r"other settings \(a\); finish it with those, or remove the folder"):
        UnfinishedMap(GRID, outputs, bands.DYNAMIC_WORLD, {}, [0], {"a": 1})
    for content in ("{", "3", None):
        path = unfinished.folder / "settings.json"
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(
            ValueError, match=r"nobody knows, for .*settings.json( is damaged)?; give another --output, or"
        ):
            UnfinishedMap(GRID, outputs, bands.DYNAMIC_WORLD, {}, [0], {"a": 2})


def test_strips_are_removed_at_once(tmp_path, monkeypatch):
    """Killed while it removes the folder: what is left of it is not taken for strips of the next map."""
    outputs = Outputs(tmp_path / "map.tif")
    unfinished = UnfinishedMap(GRID, outputs, bands.DYNAMIC_WORLD, {}, [0, 20], {"a": 1})
    for strip in (0, 1):
        unfinished.write(strip, np.zeros((20, 30), np.uint8))

    def killed(folder: Path, **_: object) -> None:
        if folder.exists():
            (folder / "settings.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        unfinished.remove()
    again = UnfinishedMap(GRID, outputs, bands.DYNAMIC_WORLD, {}, [0, 20], {"a": 2})
    assert again.missing == [0, 1]
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_was_read_is_told(trained, tall, tmp_path, monkeypatch, capsys):
    """What was subtracted, in the tags and the settings; pixels that are no backscatter, in a note. No address of a mask, which may
    be signed, is in the settings.
    """
    output, cloud = (
        tmp_path / "map.tif",
        write(tmp_path / "clouds.tif", np.zeros((300, 90), np.uint8), **place_of(tall[0][0])),
    )
    reading = Reading(cloud_mask=str(cloud))
    with rasterio.open(tall[1][0], "r+") as raster:
        values = raster.read()
        values[0, 299, 80] = 41.0  # a ship, in the last strip
        raster.write(values)
    map_of(trained, tall, output, reading=reading)
    assert re.search(r"note: 1 pixel of Sentinel-1 above 40 dB", capsys.readouterr().err)
    with rasterio.open(output) as raster:
        assert raster.read(1)[299, 80] == 255 != raster.read(1)[298, 80]
    __init__ = Scene.__init__
    monkeypatch.setattr(
        Scene,
        "__init__",
        lambda opened, *of, **named: (__init__(opened, *of, **named), opened.tags.update(s2_offset="1000"))[0],
    )
    other = tmp_path / "other.tif"
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=KEPT):
        broken(patch, ValueError("no"), 150)
        map_of(trained, tall, other, reading=reading)
    settings = json.loads((tmp_path / ".other.tif.unfinished/settings.json").read_text())
    assert settings["tags"]["s2_offset"] == "1000" and settings["reading"]["cloud_mask"] == ""
    map_of(trained, tall, other, reading=reading)
    with rasterio.open(other) as raster:
        assert raster.tags()["s2_offset"] == "1000"


def test_a_folder_that_somebody_else_made(tmp_path):
    """Where anybody may write, anybody could make the folder of the strips first, with links in it to files of ours."""
    victim = tmp_path / "victim"
    victim.write_text("years of work")
    folder = tmp_path / ".map.tif.unfinished"
    folder.mkdir(mode=0o777)
    (folder / "part_1_of_1.lock").symlink_to(victim)
    with pytest.raises(ValueError, match="is a link, expected a file of our own"):
        UnfinishedMap(GRID, Outputs(tmp_path / "map.tif"), bands.DYNAMIC_WORLD, {}, [0], {})
    assert victim.read_text() == "years of work" and folder.stat().st_mode & 0o777 == 0o700
    (folder / "part_1_of_1.lock").unlink()
    folder.rename(tmp_path / "real")
    folder.symlink_to(tmp_path / "real")
    with pytest.raises(ValueError, match=r"unfinished is a link, expected a folder"):
        UnfinishedMap(GRID, Outputs(tmp_path / "map.tif"), bands.DYNAMIC_WORLD, {}, [0], {})


def test_the_folder_is_removed_before_the_end(tmp_path):
    outputs = Outputs(tmp_path / "map.tif")
    unfinished = UnfinishedMap(GRID, outputs, bands.DYNAMIC_WORLD, {}, [0], {})
    unfinished.write(0, np.zeros((40, 30), np.uint8))
    shutil.rmtree(unfinished.folder)
    with pytest.raises(ValueError, match="unfinished was removed before the map was whole; map again"):
        unfinished.finish()


def test_a_map_goes_on_with_renewed_signatures(trained, tall, tmp_path):
    from local_archive import files_served  # skips where its servers are not installed

    (tmp_path / "control").mkdir()
    (s2,), s1 = tall
    output = tmp_path / "map.tif"
    with files_served(s2.parent, tmp_path / "control") as files:

        def part(number: int, query: str) -> bool:
            return scene_map.map_scene(
                trained, [f"{files.url}/{s2.name}?{query}"], s1, Outputs(output), Predict(), shard=(number, 2)
            )

        assert not part(1, "sig=ONE")
        with pytest.raises(ValueError, match="other") as refused:
            part(2, "layer=2&sig=ONE")  # this may choose another file
        kept = (output.with_name(f".{output.name}.unfinished") / "settings.json").read_text()
        assert "ONE" not in str(refused.value) + kept
        assert part(2, "sig=TWO")
