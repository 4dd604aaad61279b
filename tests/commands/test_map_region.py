"""Regions out of an archive on loopback: over two UTM zones and over the antimeridian each place once, areas that add up, a rerun that
does what is missing, and what is refused.
"""

import json

import numpy as np
import pytest
import rasterio
from conftest import command, refused

pytest.importorskip("shapely", reason="extra 'region'")
pytest.importorskip("distributed", reason="extra 'region'")

import shapely
from local_buckets import serving
from region_archive import arguments, box_hectares, mapped, served, times_mapped

from tfds_dwplus.files import buckets
from tfds_dwplus.places import blocks

BOX = (17.988, 42.391, 18.012, 42.409)
"""About 2 by 2 km over the meridian between zones 33 and 34."""

ACROSS = (179.99, -16.809, -179.99, -16.791)
"""The same over the antimeridian, near Fiji."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Address of a STAC API with scenes about both, and the server of their files."""
    places = ("EPSG:32633", 18.0, 42.4), ("EPSG:32760", 180.0, -16.8)
    with served(tmp_path_factory.mktemp("archive"), *places) as both:
        yield both


def test_a_region_over_two_zones(small_run, archive, tmp_path):
    url, _ = archive
    out = tmp_path / "out"
    result = mapped(small_run / "run", url, out, "--bbox", *BOX)
    assert result.returncode == 0, result.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert sorted(path.name for path in out.glob("mosaic_*.vrt")) == ["mosaic_33N.vrt", "mosaic_34N.vrt"]
    maps = sorted((out / "blocks").glob("*.tif"))
    assert {path.stem for path in maps} == {block.name for block in blocks.blocks_of(blocks.box(*BOX), 128)}
    # Each with its names, style and item, and nothing else is left.
    assert len(list((out / "blocks").iterdir())) == 4 * len(maps)
    for path in maps:
        with rasterio.open(path) as raster:
            assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and raster.nodata == 255
            assert {"weights_sha256", "software"} <= raster.tags().keys()
    assert summary["region_hectares"] == pytest.approx(box_hectares(*BOX), rel=1e-6)
    known = sum(summary["hectares"].values()) + summary["no_data_hectares"]
    assert known == pytest.approx(summary["region_hectares"], rel=1e-3)
    assert summary["blocks"] == len(maps) and not summary["blocks_missing"]
    links = json.loads((out / "collection.json").read_text())["links"]
    assert [link["href"] for link in links if link["rel"] == "item"] == [f"./blocks/{path.stem}.json" for path in maps]
    # A pixel of 14 m diagonal may lie on either side of the border between zones.
    times = times_mapped(out, BOX)
    assert (times == 1).mean() > 0.98 and times.max() <= 2

    # Once more: what is there stays as it is, a block without its item is mapped again.
    before = {path: path.stat().st_mtime_ns for path in maps}
    maps[0].with_suffix(".json").unlink()
    again = mapped(small_run / "run", url, out, "--bbox", *BOX)
    assert again.returncode == 0, again.stderr
    assert [path for path in maps if path.stat().st_mtime_ns != before[path]] == maps[:1]
    assert json.loads((out / "summary.json").read_text())["hectares"] == pytest.approx(summary["hectares"])
    others = "--bbox", *BOX, "--s1_dates", "2024-05-01", "2024-05-29"
    line = refused(mapped(small_run / "run", url, out, *others))
    assert (
        'was made with s1_dates ["2024-05-01", "2024-05-31"], and is now to be with ["2024-05-01", "2024-05-29"];'
        in line
    )


def test_patches_of_a_region(small_run, archive, tmp_path):
    """Asked with the map, and again of the blocks that are there, in another kind of file. Patches go on over blocks."""
    pyogrio = pytest.importorskip("pyogrio", reason="extra 'polygons'")
    parquet = pytest.importorskip("pyarrow.parquet", reason="extra 'polygons'")
    out = tmp_path / "out"
    asked = "--bbox", *BOX, "--minimum_area_ha", 0.3
    result = mapped(small_run / "run", archive[0], out, *asked, "--polygons", out / "patches.gpkg", "--generalised")
    assert result.returncode == 0, result.stderr
    assert [path.name for path in sorted((out / "generalised").glob("*.tif"))] == ["33N.tif", "34N.tif"]
    assert not list(out.glob(".*.unfinished"))
    number, pixels = 0, 0
    for zone in ("33N", "34N"):
        with (
            rasterio.open(out / f"mosaic_{zone}.vrt") as one,
            rasterio.open(out / "generalised" / f"{zone}.tif") as other,
        ):
            before, after = one.read(1), other.read(1)
            assert (one.crs, one.transform, one.shape) == (other.crs, other.transform, other.shape)
            assert other.colormap(1)[4] == one.colormap(1)[4] and other.tags()["minimum_area_ha"] == "0.3"
        assert ((before == 255) == (after == 255)).all()
        meta, _, wkb, (kinds, _, hectares, sizes, zones) = pyogrio.raw.read(
            out / "patches.gpkg", layer=f"land_cover_{zone}"
        )
        geometries = shapely.from_wkb(wkb)
        assert meta["crs"] == f"EPSG:{32600 + int(zone[:2])}" and set(zones) == {zone}
        assert shapely.is_valid(geometries).all() and shapely.coverage_is_valid(geometries)
        assert np.bincount(kinds, sizes, 9).tolist() == np.bincount(after[after != 255], minlength=9).tolist()
        assert shapely.area(geometries).tolist() == (100 * sizes).tolist()
        assert hectares == pytest.approx(sizes / 100, rel=2e-3)
        # What is below the minimum has no neighbour: of a few pixels at the border of the zones.
        assert (sizes < 30).sum() <= 3
        number, pixels = number + len(sizes), pixels + sizes.sum()
    times = {path: path.stat().st_mtime_ns for path in (out / "blocks").iterdir()}
    again = mapped(small_run / "run", archive[0], out, *asked, "--polygons", "patches.parquet")
    assert again.returncode == 0 and "patches.parquet" in again.stdout, again.stderr
    assert times == {path: path.stat().st_mtime_ns for path in (out / "blocks").iterdir()}
    table = parquet.read_table(tmp_path / "patches.parquet").to_pydict()
    geometries = shapely.from_wkb(table["geometry"])
    assert len(geometries) == number and sum(table["pixels"]) == pixels and set(table["zone"]) == {"33N", "34N"}
    assert shapely.is_valid(geometries).all()
    west, south, east, north = shapely.total_bounds(geometries)
    assert (west, south, east, north) == pytest.approx(BOX, abs=3e-4)
    assert shapely.union_all(geometries).area == pytest.approx(
        shapely.area(geometries).sum(), rel=2e-3
    )  # half pixels at the border


def test_what_there_is_is_told_before_anything_is_read(small_run, archive, tmp_path):
    """All passes are descending; a network of sigma0 is to read gamma0."""
    url, files = archive
    before = len(files.requests)
    flags = "--bbox", *BOX, "--s1_quantity", "gamma0"
    told = mapped(small_run / "run", url, tmp_path / "out", *flags, "--dry_run")
    assert told.returncode == 0, told.stderr
    assert (
        "Sentinel-2 of region-s2: 2 scenes on 2 days, 2024-05-05 to 2024-05-15, over 100 % of the region; cloud 3 to 13 %"
        in told.stdout
    )
    assert "Sentinel-1 of region-s1, descending: 2 scenes on 2 days, 2024-05-03 to 2024-05-27" in told.stdout
    assert "warning: the network was trained on sigma0, but region-s1 holds gamma0" in told.stderr
    line = refused(mapped(small_run / "run", url, tmp_path / "out", *flags, "--s1_orbit", "ascending"))
    assert "has no ascending pass" in line and "2 scenes of descending orbit; say --s1_orbit descending" in line
    assert len(files.requests) == before and not list((tmp_path / "out" / "blocks").iterdir())


@pytest.mark.slow
def test_a_region_whose_maps_go_to_a_bucket(small_run, archive, tmp_path, monkeypatch):
    pytest.importorskip("google.cloud.storage")
    monkeypatch.setenv("SPECSAR_CACHE", str(tmp_path / "cache"))
    with serving() as both:
        for name, value in both.environment.items():
            monkeypatch.setenv(name, value)
        for out in ("gs://box/maps/out", tmp_path / "out"):
            asked = arguments(small_run / "run", archive[0], out, "--bbox", *BOX)
            result = command("specsar_jax.map_region", *asked, cwd=tmp_path)
            assert result.returncode == 0, result.stderr
            assert str(tmp_path / "cache") not in result.stdout + result.stderr
        there = buckets.here("gs://box/maps/out")
        files = {path.relative_to(there) for path in there.rglob("*") if path.is_file()}
        on_disk = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()}
        assert files == {path for path in on_disk if not path.name.endswith(".lock")}
        for path in (path for path in files if path.suffix in (".tif", ".vrt")):
            assert (there / path).read_bytes() == (tmp_path / "out" / path).read_bytes()
        assert not any(str(tmp_path / "cache").encode() in (there / path).read_bytes() for path in files)
        asked = arguments(small_run / "run", archive[0], "gs://box/maps/out", "--bbox", *BOX)
        line = refused(command("specsar_jax.map_region", *asked, "--scheduler", "tcp://127.0.0.1:1", cwd=tmp_path))
        assert "need a folder that all see" in line
        buckets.close()


@pytest.mark.slow
def test_a_region_over_the_antimeridian(small_run, archive, tmp_path):
    out = tmp_path / "out"
    result = mapped(small_run / "run", archive[0], out, "--bbox", *ACROSS)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in out.glob("mosaic_*.vrt")) == ["mosaic_01S.vrt", "mosaic_60S.vrt"]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["region_hectares"] == pytest.approx(box_hectares(*ACROSS), rel=1e-6)
    known = sum(summary["hectares"].values()) + summary["no_data_hectares"]
    assert known == pytest.approx(summary["region_hectares"], rel=1e-3)
    assert summary["no_data_hectares"] == 0
    times = times_mapped(out, ACROSS)
    assert (times == 1).mean() > 0.98 and times.max() <= 2
    for path in (out / "blocks").glob("*.json"):
        west, _, east, _ = json.loads(path.read_text())["bbox"]
        assert (179.9 < west < east <= 180) if path.name.startswith("60S") else (-180 <= west < east < -179.9)


@pytest.mark.slow
def test_blocks_that_fail_are_listed_and_tried_again(small_run, archive, tmp_path):
    """The archive refuses a scene of Sentinel-1, which only some blocks want; then it does not."""
    url, files = archive
    out = tmp_path / "out"
    files.set(refused="vh.tif")
    try:
        line = refused(mapped(small_run / "run", url, out, "--bbox", *BOX, "--retries", 1))
    finally:
        files.set()
    total = len(list(blocks.blocks_of(blocks.box(*BOX), 128)))
    assert f"{total} of {total} blocks failed ({total}: a file is refused)" in line and "SECRET" not in line
    missing = json.loads((out / "summary.json").read_text())["blocks_missing"]
    assert len(missing) == total and all("vh.tif" in reason for reason in missing.values())
    assert not list((out / "blocks").iterdir())
    result = mapped(small_run / "run", url, out, "--bbox", *BOX)
    assert result.returncode == 0, result.stderr
    assert not json.loads((out / "summary.json").read_text())["blocks_missing"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--dates", "2024-05-31", "2024-05-01"), "2024-05"),
        (("--dates", "2024-05-31", "May"), "expected two days"),
        (("--bbox", 10.0, 42.0, 10.01, 42.01), "has no item in the region from 2024-05-01"),
        (("--bbox", 179.98, 42.391, -179.98, 42.409), "has no item in the region"),  # as far east as BOX is it not
        (("--bbox", 10.0, 42.0, 10.01, 41.0), "41"),
        (("--bbox", "nan", 42.0, 10.01, 43.0), "nan"),
        (("--scheduler", "nowhere.json"), "no scheduler file nowhere.json"),
        (("--scheduler", "broken.json"), "no Dask scheduler"),
        (("--scheduler", "tcp://127.0.0.1:9"), "no Dask scheduler"),
        (("--scheduler", "x://y"), "no Dask scheduler"),
        (("--license", "CC BY"), "--license is 'CC BY', expected an identifier of SPDX such as CC-BY-4.0, or other"),
        (("--max_cloud_percent", 1), "have more cloud than --max_cloud_percent 1, the clearest 3 %"),
    ],
)
def test_what_is_refused(small_run, archive, tmp_path, flags, message):
    (tmp_path / "broken.json").write_text("{}")
    assert message in refused(mapped(small_run / "run", archive[0], tmp_path / "out", "--bbox", *BOX, *flags))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "Point", "coordinates": [18, 42.4]}', "holds a Point"),
        ('{"type": []}', "is not GeoJSON"),
        ("\udcff", "not text in UTF-8"),
    ],
)
def test_a_file_that_is_no_polygon(small_run, tmp_path, text, message):
    (tmp_path / "a.json").write_bytes(text.encode(errors="surrogateescape"))
    flags = arguments(small_run / "run", "http://127.0.0.1:9", tmp_path / "out", "--geojson", "a.json")
    assert message in refused(command("specsar_jax.map_region", *flags, cwd=tmp_path))


def test_without_the_extra(small_run, tmp_path):
    """A folder that hides distributed stands for an environment without it."""
    (tmp_path / "distributed.py").write_text("raise ModuleNotFoundError(name='distributed')")
    flags = arguments(small_run / "run", "http://127.0.0.1:9", tmp_path / "out", "--bbox", *BOX)
    assert "specsar_jax[region]" in refused(command("specsar_jax.map_region", *flags, cwd=tmp_path))
