"""What is asked of a finished map: polygons and a generalised raster, of a scene and of its parts, and after a failure."""

import sqlite3
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from conftest import REPOSITORY, command, refused
from small_scenes import GRID, files_of, scene, write

pytest.importorskip("pyogrio", reason="extra 'polygons'")
pytest.importorskip("pyarrow", reason="extra 'polygons'")
pytest.importorskip("shapely", reason="extra 'polygons'")

import pyogrio
import shapely

from specsar_jax import map_region, predict
from specsar_jax.config import Predict
from specsar_jax.maps import final_files, scene_map
from specsar_jax.maps.map_files import Outputs, UnfinishedMap
from specsar_jax.patches import vector_files
from specsar_jax.patches.asked import KINDS, Asked
from specsar_jax.trained.loading import load_trained
from tfds_dwplus import bands
from tfds_dwplus.imagery.scenes import Reading

BUNDLE = REPOSITORY / "tests" / "bundles" / "bundle_1.safetensors"


def outputs(folder, kind: str = ".gpkg", minimum: float | None = 0.05) -> Outputs:
    generalised = None if minimum is None else folder / "general.tif"
    return Outputs(folder / "map.tif", asked=Asked(folder / f"map{kind}", generalised, minimum))


def unfinished(of: Outputs) -> UnfinishedMap:
    """A map of 40 x 30 pixels in strips of 15 and 25 rows, with specks, a patch over the seam of the strips, and no data in a corner."""
    ids = np.zeros((40, 30), np.uint8)
    ids[10:20, 5:12] = 4
    ids[15:18, 7:9] = 6
    ids[25, ::3] = 1
    ids[:3, :3] = bands.IGNORE
    started = UnfinishedMap(GRID, of, bands.DYNAMIC_WORLD, {"weights_sha256": "ab"}, [0, 15], {})
    for strip in started.missing:
        started.write(strip, ids[[slice(0, 15), slice(15, 40)][strip]])
    return started


def polygons(path) -> tuple[np.ndarray, list[str]]:
    _, _, wkb, (_, names, _, _) = pyogrio.raw.read(path)
    return shapely.from_wkb(wkb), names.tolist()


def test_a_map_and_what_is_made_of_it(tmp_path):
    of = outputs(tmp_path)
    assert unfinished(of).finish()
    with rasterio.open(of.map) as one, rasterio.open(of.asked.generalised) as other:
        before, after = one.read(1), other.read(1)
        assert one.profile == other.profile and one.colormap(1) == other.colormap(1)
        assert other.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and other.descriptions == ("land cover",)
        assert other.tags() == one.tags() | {"minimum_area_ha": "0.05"}
    assert set(np.unique(before)) == {0, 1, 4, 6, 255} and set(np.unique(after)) == {0, 4, 6, 255}
    assert ((before == 255) == (after == 255)).all()
    geometries, names = polygons(of.asked.polygons)
    assert sorted(names) == ["built", "crops", "water"]
    assert shapely.coverage_is_valid(geometries) and shapely.area(geometries).sum() == 100 * (before != 255).sum()
    names = ["general.qml", "general.tif", "general.tif.aux.xml", "map.gpkg", "map.qml", "map.tif", "map.tif.aux.xml"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_without_a_minimum_all_patches_are_there(tmp_path):
    of = outputs(tmp_path, minimum=None)
    unfinished(of).finish()
    assert len(polygons(of.asked.polygons)[0]) == 13
    assert not (tmp_path / "general.tif").exists()


def test_a_failure_keeps_the_strips(tmp_path, monkeypatch):
    of = outputs(tmp_path)
    of.asked.polygons.write_text("an older file")
    started = unfinished(of)

    def full(*_, **__):
        raise OSError("cannot write the polygons: is the disk full?")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(vector_files, "write_polygons", full)
        started.finish()
    assert started.keep().startswith("2 of 2 strips") and of.asked.polygons.read_text() == "an older file"
    assert not of.map.exists()
    with pytest.raises(ValueError, match=r"begun with other settings \(minimum_area_ha\); finish it with those"):
        unfinished(outputs(tmp_path, minimum=0.1))
    assert unfinished(of).finish() and len(polygons(of.asked.polygons)[0]) == 3


def test_changes_of_an_older_geopackage_are_not_taken_for_those_of_the_new_one(tmp_path):
    """A program that had the older one open, such as QGIS, was killed: its changes lie beside it."""
    of = outputs(tmp_path)
    unfinished(of).finish()
    expected = of.asked.polygons.read_bytes()
    code = (
        "import os, signal, sqlite3, sys; file = sqlite3.connect(sys.argv[1]); file.execute('pragma journal_mode = wal')\n"
        "file.execute('create table other (a)'); file.commit(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, of.asked.polygons], check=False)
    assert (tmp_path / "map.gpkg-wal").stat().st_size
    unfinished(of).finish()
    assert of.asked.polygons.read_bytes() == expected and not list(tmp_path.glob("map.gpkg-*"))
    with sqlite3.connect(of.asked.polygons) as file:
        assert file.execute("pragma integrity_check").fetchall() == [("ok",)]
    file.close()
    assert pyogrio.list_layers(of.asked.polygons)[:, 0].tolist() == ["land_cover"]


def test_parts_of_a_scene_make_the_same_files(small_run, tmp_path):
    scene(tmp_path, 300, 90)
    trained, files = load_trained(small_run / "run"), files_of(tmp_path)
    contents = []
    for name, shards in (("whole", [(1, 1)]), ("parts", [(2, 2), (1, 2)])):
        (tmp_path / name).mkdir()
        of = outputs(tmp_path / name, minimum=0.3)
        done = [scene_map.map_scene(trained, *files, of, Predict(), shard=shard) for shard in shards]
        assert done[-1] and not any(done[:-1])
        contents.append({path.name: path.read_bytes() for path in of.paths.values()})
    assert contents[0] == contents[1]


@pytest.mark.parametrize(("s2", "s1"), [("20200604*", "*_20200607T*"), ("20200813*", "*_20200903T*")])
def test_both_dates_of_a_real_scene(real, tmp_path, s2, s1):
    """In degrees, so that areas are true ones."""
    place = real / "scene_pakistan"
    files = [next((place / "s2_l2a").glob(s2))], [next((place / "s1").glob(s1))]
    of = outputs(tmp_path, ".parquet", 0.5)
    scene_map.map_scene(load_trained(BUNDLE), *files, of, Predict(), Reading())
    from pyarrow import parquet

    table = parquet.read_table(of.asked.polygons).to_pydict()
    geometries = shapely.from_wkb(table["geometry"])
    with rasterio.open(of.asked.generalised) as raster:
        after = raster.read(1)
        cut = [shapely.covers(shapely.box(*raster.bounds), geometries).all(), raster.crs.to_epsg()]
    assert cut == [True, 4326] and shapely.is_valid(geometries).all() and shapely.coverage_is_valid(geometries)
    assert np.bincount(table["class_id"], table["pixels"], 256).tolist() == [
        *np.bincount(after.ravel(), minlength=256)[:255],
        0,
    ]
    assert min(table["hectares"]) >= 0.5 and sum(table["pixels"]) == (after != 255).sum()


def test_a_scene_without_a_place_is_refused_before_it_is_mapped(small_run, tmp_path):
    rng = np.random.default_rng(0)
    s2 = write(
        tmp_path / "s2.tif", rng.integers(500, 3000, (9, 64, 64)).astype(np.uint16), crs=None, names=bands.S2_BANDS
    )
    s1 = write(tmp_path / "s1.tif", np.full((2, 64, 64), -12, np.float32), crs=None, names=bands.S1_BANDS)
    with pytest.raises(ValueError, match=r"^--polygons needs a map with a place on earth; the imagery has no CRS"):
        scene_map.map_scene(load_trained(small_run / "run"), [s2], [s1], outputs(tmp_path), Predict())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s1.tif", "s2.tif"]


WRONG = [
    (("--polygons", "a.shp"), r"--polygons a.shp ends in '.shp', expected one of .gpkg \(GeoPackage\), .parquet"),
    (("--polygons", "a"), "ends in 'nothing', expected one of .gpkg"),
    (("--polygons", "a.gpkg", "--minimum_area_ha", "0"), "--minimum_area_ha is 0, expected hectares, a number above 0"),
    (("--polygons", "a.gpkg", "--minimum_area_ha", "-1"), "--minimum_area_ha is -1, expected hectares"),
    (("--polygons", "a.gpkg", "--minimum_area_ha", "nan"), "--minimum_area_ha is nan, expected hectares"),
    (("--polygons", "a.gpkg", "--minimum_area_ha", "inf"), "--minimum_area_ha is inf, expected hectares"),
    (("--minimum_area_ha", "1"), "alone changes nothing, for the map stays as it is; give --polygons or --generalised"),
]


@pytest.mark.parametrize(("flags", "message"), WRONG)
def test_what_does_not_fit_is_refused_before_anything_is_read(flags, message):
    scene_flags = ("--workdir", "nowhere", "--output", "map.tif")
    region = ("--bbox", "1", "2", "3", "4", "--dates", "2024-01-01", "2024-02-01")
    for main, more in ((predict.main, scene_flags), (map_region.main, (*scene_flags, *region))):
        with pytest.raises(ValueError, match=message) as error:
            main([*more, *flags])
        assert "\n" not in str(error.value)


def test_generalised_needs_a_minimum():
    with pytest.raises(ValueError, match="--generalised needs --minimum_area_ha, the area in hectares below which"):
        predict.main(["--workdir", "nowhere", "--output", "map.tif", "--generalised", "g.tif"])


def test_a_folder_or_an_input_is_no_place_for_polygons(small_run, tmp_path):
    scene(tmp_path, 64, 64)
    s2, s1 = files_of(tmp_path)
    flags = ("--workdir", small_run / "run", "--s2", *s2, "--s1", *s1, "--output", "map.tif")
    for wrong, message in (("none/a.gpkg", "no folder"), ("map.tif.gpkg/", "is a folder")):
        (tmp_path / "map.tif.gpkg").mkdir(exist_ok=True)
        line = refused(command("specsar_jax.predict", *flags, "--polygons", wrong, cwd=tmp_path))
        assert message in line and "--polygons" in line


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyogrio", None)
    for kind in KINDS:
        with pytest.raises(
            ValueError, match=r"^--polygons: pyogrio is missing: pip install 'specsar_jax\[polygons\]'$"
        ):
            predict.main(["--workdir", "nowhere", "--output", "map.tif", "--polygons", f"map{kind}"])


def test_a_map_of_which_nothing_is_asked_needs_no_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(final_files, "joined", None)
    assert unfinished(Outputs(tmp_path / "map.tif")).finish()
