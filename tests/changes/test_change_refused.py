"""What the command of change refuses in a line, and that a failure leaves nothing behind."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from compared_maps import (
    NONE,
    codes_of,
    evaluation,
    run,
    small_pair,
    write_shares,
)
from conftest import command, refused
from drawn_zones import UTM, box, shapely, write_map, write_zones
from rasterio.errors import RasterioIOError

from specsar_jax import areas, change
from tfds_dwplus import bands
from tfds_dwplus.files.outputs import locked
from tfds_dwplus.files.workplaces import beside, private_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """To be read only."""
    return small_pair(tmp_path_factory.mktemp("change"))


def test_a_full_disk_leaves_the_older_files_as_they_are(folder, tmp_path, monkeypatch):
    given = (folder / "before.tif", folder / "after.tif", "--output", tmp_path / "c.tif")
    run(*given)
    older = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_, **__):
        raise RasterioIOError("No space left on device")

    monkeypatch.setattr(rasterio.shutil, "copy", fail)
    with pytest.raises(
        OSError, match=r"cannot write the raster of changes .No space left on device.: is the disk full"
    ):
        run(folder / "after.tif", *given[1:])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == older


def test_without_the_libraries_or_with_too_many_zones(folder, tmp_path, monkeypatch):
    given = (folder / "before.tif", folder / "after.tif", "--output", tmp_path / "c.tif", "--zones")
    zones = write_zones(tmp_path / "zones.gpkg", [box(0, 0, 4, 1), box(0, 1, 4, 3)])
    monkeypatch.setattr(change, "_MOST_SUMS", 100)
    with pytest.raises(ValueError, match=r"zones.gpkg has 2 zones, each of 81 kinds of change; give 1 zones at most"):
        run(*given, zones)
    monkeypatch.setitem(sys.modules, "exactextract", None)
    with pytest.raises(ValueError, match=r"this command needs exactextract: pip install 'specsar_jax.areas.'"):
        run(*given, zones)
    run(*given[:-1])


def test_what_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, after, out = folder / "before.tif", folder / "after.tif", tmp_path / "c.tif"
    flat = np.full((1, 3, 4), 0.5)
    good = write_shares(tmp_path / "p.tif", flat)
    wide = write_shares(tmp_path / "wide.tif", np.full((1, 3, 5), 0.5))
    coarse = write_shares(tmp_path / "coarse.tif", flat, scale=0.01)
    named = write_shares(tmp_path / "named.tif", flat.repeat(9, axis=0), names=[f"x{k}" for k in range(9)])
    others = write_shares(tmp_path / "others.tif", flat, weights_sha256="cd" * 32)
    away = write_map(
        tmp_path / "away.tif", np.zeros((4, 4), np.uint8), transform=UTM @ rasterio.Affine.translation(900, 0)
    )
    two = bands.Classes(("wet", "dry"), ("0000ff", "ffff00"))
    unlike = write_map(tmp_path / "unlike.tif", np.zeros((3, 4), np.uint8), classes=two)
    empty = write_map(tmp_path / "empty.tif", np.full((3, 4), NONE, np.uint8))
    codes = np.zeros((3000, 4), np.uint8)
    codes[2001, 3] = 77
    strange = write_map(tmp_path / "strange.tif", codes)
    with warnings.catch_warnings(action="ignore"):
        unplaced = write_map(tmp_path / "unplaced.tif", np.zeros((4, 4), np.uint8), "")
    far = write_zones(tmp_path / "far.gpkg", [box(5000, 5000, 6000, 6000)])
    bow = write_zones(tmp_path / "bow.gpkg", [shapely.Polygon([UTM @ at for at in ((0, 0), (4, 3), (4, 0), (0, 3))])])
    other = evaluation(tmp_path / "other.json", np.eye(2, dtype=np.int64), two)
    mine = evaluation(tmp_path / "mine.json", np.eye(9, dtype=np.int64))
    (tmp_path / "there").mkdir()
    sure, at = ("--confidence", 0.8), ("--before_probabilities", good, "--after_probabilities")
    for given, message in (
        ((before, away), "have no ground in common: longitude .*, and longitude .*; give two maps of one place"),
        ((before, empty), "no pixel has a class in both"),
        ((before, unlike), "is of the classes water, trees.* of wet, dry; give two maps of the same classes"),
        ((strange, before), "strange.tif holds 77, expected ids of its 9 classes"),
        ((before, unplaced), "has no place on earth"),
        ((before, good), "holds 125, expected ids"),
        ((before, tmp_path / "x.tif"), "cannot open .*x.tif: no such file"),
        ((before, tmp_path / "there"), "has no mosaic_<zone>.vrt"),
        ((before, after, "--confidence", 1.5), "--confidence 1.5 is no probability, expected 0 to 1"),
        ((before, after, "--confidence", "nan"), "--confidence nan is no probability"),
        ((before, after, *sure), "give --before_probabilities and --after_probabilities"),
        ((before, after, *at, good), "probabilities are used with --confidence alone"),
        ((before, after, *sure, *at, wide), "--after_probabilities .*wide.tif is not on the grid of .*after.tif"),
        ((before, after, *sure, *at, coarse), "coarse.tif is not uint8 in steps of 0.004"),
        ((before, after, *sure, *at, after), "after.tif is not uint8 in steps of 0.004"),
        ((before, after, *sure, *at, named), "named.tif holds 9 bands .x0, x1"),
        ((before, after, *sure, *at, others), "others.tif is of another map: its weights_sha256 is cdcd"),
        ((before, after, "--zones", far), "no zone has a part in the map: the zones lie at"),
        ((before, after, "--zones", bow), "1 of 1 features are not valid"),
        ((before, after, "--zone_field", "name"), "--zone_field is of --zones, which are not given"),
        ((before, after, "--mend"), "--mend is of --zones, which are not given"),
        ((before, after, "--before_evaluation", mine), "one evaluation alone says nothing of change"),
        (
            (before, after, "--before_evaluation", mine, "--after_evaluation", other),
            "--after_evaluation .*other.json is of the classes wet, dry, the map has water, trees",
        ),
    ):
        with pytest.raises(ValueError, match=message) as error:
            run(*given, "--output", out)
        assert "\n" not in str(error.value) and not list(tmp_path.glob("c.*"))
    for name, message in (
        ("c.png", "ends in '.png', expected change.tif, or a folder"),
        ("no/c.tif", "no folder"),
        ("there", "is there already; remove it"),
        ("there/../there.tif/x.tif", "no folder"),
    ):
        with pytest.raises(ValueError, match=message):
            run(before, after, "--output", tmp_path / name)
    own = write_map(tmp_path / "own.tif", codes_of(before))
    with pytest.raises(ValueError, match=r"own.tif is read, and --output .* would write it; give another name"):
        run(own, after, "--output", own)
    with pytest.raises(ValueError, match=r"mine.json is read, and --output .*mine.tif would write it"):
        evaluated = ("--before_evaluation", mine, "--after_evaluation", mine)
        run(before, after, *evaluated, "--output", tmp_path / "mine.tif")
    (tmp_path / "taken.csv").mkdir()
    with pytest.raises(ValueError, match=r"taken.csv is a folder, expected a file to write"):
        run(before, after, "--output", tmp_path / "taken.tif")
    private_folder(beside(out))
    with locked(beside(out) / "lock", out), pytest.raises(ValueError, match="another process is at work"):
        run(before, after, "--output", out)
    assert not list(tmp_path.glob("c.*"))
    assert "expected 0 to 1" in refused(
        command("specsar_jax.change", before, after, "--confidence", -1, "--output", "c.tif", cwd=tmp_path)
    )


def test_a_change_of_nine_classes_is_no_class_map(folder, tmp_path):
    run(folder / "before.tif", folder / "after.tif", "--output", tmp_path / "change.tif")
    zones = write_zones(tmp_path / "zones.gpkg", [box(0, 0, 20, 20)])
    with pytest.raises(ValueError, match=r"is a raster of specsar_jax.change .* look at it in QGIS"):
        areas.main([str(tmp_path / "change.tif"), "--zones", str(zones), "--output", str(tmp_path / "a.csv")])
