"""A map takes its name: without what GDAL kept beside an older file, through links, under long names, whenever it is killed."""

import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from small_scenes import GRID, write

from specsar_jax.maps import map_files, publishing
from specsar_jax.maps.map_files import Outputs
from tfds_dwplus import bands
from tfds_dwplus.files.outputs import hidden_name
from tfds_dwplus.imagery.inputs.sidecars import sidecars

PLACE = "20\n0\n0\n-20\n100\n200\n"


def older(path: Path) -> Path:
    """A raster of 7 whose first 10 rows are masked, with overviews of 8, statistics and a world file; all of it beside it."""
    write(path, np.full((40, 30), 7, np.uint8), nodata=255)
    mask = np.repeat(np.uint8([0, 255, 255, 255]), 10)[:, None] * np.ones((1, 30), np.uint8)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as raster:
        raster.write_mask(mask)
    write(path.with_name(path.name + ".ovr"), np.full((20, 15), 8, np.uint8))
    write(path.with_name(path.name + ".msk.ovr"), mask[::2, ::2])
    path.with_name(path.name + ".aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">7</MDI></Metadata></PAMRasterBand></PAMDataset>'
    )
    for suffix in (".tfw", ".TFW", ".tifw", ".wld"):
        path.with_suffix(suffix).write_text(PLACE)
    return path


def write_map(output: Path, class_id: int = 3, confidence: Path | None = None) -> None:
    probability = np.zeros((40, 30, 9), np.float32)
    probability[..., class_id] = 1
    map_files.write_map(GRID, Outputs(output, confidence=confidence), bands.DYNAMIC_WORLD, {}, probability)


def is_new(path: Path) -> bool:
    """Whether the new map has the name; then nothing of the older one is to be seen in it."""
    with rasterio.open(path) as raster:
        small, ids = raster.read(1, out_shape=(10, 8)), raster.read(1)
        if (ids == 7).all():
            return False
        assert (ids == ids[0, 0]).all() and (small == ids[0, 0]).all()
        assert (raster.read_masks(1) == 255).all() and raster.overviews(1) == []
        assert raster.transform == GRID.transform and "STATISTICS_MEAN" not in raster.tags(1)
        assert set(map(Path, raster.files)) <= {path, path.with_name(path.name + ".aux.xml")}
    return True


def test_what_lies_beside_an_older_map_goes(tmp_path):
    map_, sure = older(tmp_path / "m.tif"), older(tmp_path / "sure.tif")
    assert not is_new(map_)
    with rasterio.open(map_) as raster:  # the older one is as it should be
        assert (raster.read_masks(1) == 0).sum() == 300 and raster.overviews(1) == [2]
    for kept in ("m.tif.txt", "m.shp", "n.tif.msk", "m.v2.wld"):
        (tmp_path / kept).write_text("")
    write_map(map_, confidence=sure)
    assert is_new(map_) and is_new(sure)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"m.tif", "m.tif.aux.xml", "m.qml", "sure.tif", "m.tif.txt", "m.shp", "n.tif.msk", "m.v2.wld"}
    assert "<Category>trees</Category>" in (tmp_path / "m.tif.aux.xml").read_text()


def test_files_of_others_stay(tmp_path):
    """A world file of a picture, a MapInfo table and LaTeX's .aux have the stem of a map, but are not of it."""
    path = tmp_path / "m.tif"
    (tmp_path / "m.tab").write_text('!table\nDefinition Table\n File "m.TIF"\n Type "RASTER"\n')
    (tmp_path / "m.aux").write_bytes(b"EHFA_HEADER_TAG\0")
    (tmp_path / "m.wld").write_text(PLACE)
    assert {found.name for found in sidecars(path)} == {"m.tab", "m.aux", "m.wld"}
    (tmp_path / "m.jpg").write_text("")
    (tmp_path / "m.tab").write_text("!table\nDefinition Table\n Type NATIVE\n")
    (tmp_path / "m.aux").write_text("\\relax")
    assert sidecars(path) == []


def test_a_kill_leaves_no_new_map_with_old_files(tmp_path, monkeypatch):
    """Stopped before each of its steps, one after the other: an older map, or a new one without anything of the older."""

    class Killed(BaseException):
        pass

    def counted(step):
        def take(*arguments, **named):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return step(*arguments, **named)

        return take

    seen, left = [], [-1]
    for owner, name in ((Path, "unlink"), (Path, "replace"), (shutil, "move"), (Path, "write_bytes")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    for steps in range(50):
        left[0] = -1
        path, whole = older(tmp_path / f"{steps}/m.tif"), tmp_path / f"{steps}/work/w.tif"
        write(whole, np.full((40, 30), 3, np.uint8), nodata=255)
        (whole.parent / "w.tif.aux.xml").write_text("<PAMDataset/>")
        left[0] = steps
        try:
            publishing.publish(whole, path, "<qgis/>")
        except Killed:
            seen.append(is_new(path))
            continue
        break
    assert len(seen) > 10 and seen == sorted(seen)
    left[0] = -1
    assert is_new(path)


def test_a_link_stays_and_its_target_is_written(tmp_path):
    target = older(tmp_path / "there/real.tif")
    link = tmp_path / "link.tif"
    middle = tmp_path / "middle.tif"
    middle.symlink_to("there/real.tif")
    link.symlink_to(middle)
    write(tmp_path / "link.tif.msk", np.zeros((40, 30), np.uint8))
    write_map(link)
    assert link.is_symlink() and middle.is_symlink() and not target.is_symlink()
    assert is_new(target) and is_new(link)
    assert sorted(path.name for path in target.parent.iterdir()) == ["real.qml", "real.tif", "real.tif.aux.xml"]
    assert (tmp_path / "link.tif.aux.xml").exists() and (tmp_path / "link.qml").exists()


def test_links_to_nowhere(tmp_path):
    link = tmp_path / "link.tif"
    link.symlink_to(tmp_path / "new.tif")
    write_map(link)
    assert link.is_symlink() and is_new(tmp_path / "new.tif")
    for where, line in (
        (tmp_path / "no/new.tif", "link.tif is a link to .*no/new.tif, but there is no folder .*no; make it"),
        (link, "leads back to itself"),
        (tmp_path, "is a folder"),
        ("/dev/null", "is a device"),
    ):
        link.unlink()
        link.symlink_to(where)
        with pytest.raises(ValueError, match=line):
            Outputs(link).check()


@pytest.mark.parametrize("name", ["m" * 245 + ".tif", "地" * 83 + ".tif", "m" * 255, "m" * 243 + ".tif"])
def test_long_names(tmp_path, name, capsys):
    assert 247 <= len(os.fsencode(name)) <= 255
    write_map(tmp_path / name)
    assert is_new(tmp_path / name)
    beside = (tmp_path / (name + ".aux.xml")).exists() if len(os.fsencode(name)) <= 247 else None
    assert beside in (None, True) and ("too long" in capsys.readouterr().err) == (beside is None)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_names_that_no_file_system_takes(tmp_path):
    with pytest.raises(ValueError, match=r"mmm\.\.\. is a name of 256 bytes, expected 255 at most"):
        Outputs(tmp_path / ("m" * 256)).check()
    assert hidden_name("map.tif", ".part") == ".map.tif.part"
    assert len(os.fsencode(hidden_name("é" * 125, ".part"))) < 50
    assert hidden_name("m" * 250, ".part") != hidden_name("m" * 249 + "n", ".part")


@pytest.mark.parametrize("kb", [1, 2, 3])
def test_a_disk_that_is_full_at_the_end(tmp_path, kb):
    """GDAL raises errors of several classes, or none: the older map stays, and the strips."""
    path = older(tmp_path / "m.tif")
    random = np.random.default_rng(0).integers(0, 9, (40, 30))
    unfinished = map_files.UnfinishedMap(GRID, Outputs(path), bands.DYNAMIC_WORLD, {}, [0], {})
    unfinished.write(0, random.astype(np.uint8))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kb * 256, before[1]))
    try:
        with pytest.raises(OSError, match=r"m\.tif|disk full"):
            unfinished.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not is_new(path) and unfinished.missing == []
    assert unfinished.finish() and [path.name for path in tmp_path.glob(".*")] == []


def test_what_a_killed_process_left_of_sidecars_goes(tmp_path):
    output = tmp_path / "map.tif"
    left = [tmp_path / hidden_name(name, f".{'0' * 16}.partial") for name in ("map.tif", "map.qml", "map.tif.aux.xml")]
    for path in left:
        path.touch()
    write_map(output)
    assert is_new(output) and not [path for path in left if path.exists()]
