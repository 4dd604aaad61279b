"""Files of patches: three kinds, in any CRS, areas as `specsar_jax.areas` measures them; and what stops on the way."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import REPOSITORY
from drawn_patches import NODATA, joined_one_by_one
from rasterio.features import rasterize

pytest.importorskip("shapely", reason="extra 'polygons'")
pytest.importorskip("pyogrio", reason="extra 'polygons'")
pytest.importorskip("pyarrow", reason="extra 'polygons'")

import pyogrio
import shapely
from pyarrow import parquet

from specsar_jax.patches import class_rasters, vector_files
from specsar_jax.patches.asked import KINDS
from specsar_jax.patches.class_rasters import generalise
from specsar_jax.patches.pixel_areas import PixelHectares
from specsar_jax.patches.vector_files import Source, write_polygons
from tfds_dwplus import bands
from tfds_dwplus.places.true_areas import pixel_hectares
from tfds_dwplus.vectors.vector_files import read_vectors

UTM = ("EPSG:32643", rasterio.Affine(10, 0, 300000, 0, -10, 3400000))
MERCATOR = ("EPSG:3857", rasterio.Affine(10, 0, 1500000, 0, -10, 8400000))
DEGREES = ("EPSG:4326", rasterio.Affine(1e-4, 0, 15, 0, -1e-4, 60))
ACROSS = ("EPSG:32601", rasterio.Affine(10, 0, 300000, 0, -10, 6700000))
UP = ("EPSG:32643", rasterio.Affine(10, 0, 300000, 0, 10, 3400000))


def ids_drawn(height: int = 90, width: int = 70) -> np.ndarray:
    ids = np.random.default_rng(3).integers(0, 4, (height // 5, width // 5)).astype(np.uint8).repeat(5, 0).repeat(5, 1)
    ids[np.random.default_rng(4).random(ids.shape) < 0.05] = 8
    ids[:20, :15] = NODATA
    return ids


def a_raster(path: Path, ids: np.ndarray, crs: str = UTM[0], transform=UTM[1]) -> Path:
    size = {"height": ids.shape[0], "width": ids.shape[1], "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, nodata=255, **size) as raster:
        raster.write(ids, 1)
    return path


def read(path: Path, layer: str = "") -> tuple[np.ndarray, np.ndarray, dict]:
    """Polygons, and the values of fields by name."""
    vectors, lines = read_vectors(path, layer, "hectares")
    assert not lines
    if path.suffix == ".parquet":
        fields = parquet.read_table(path).to_pydict()
    else:
        meta, _, _, columns = pyogrio.raw.read(path, layer=layer or None)
        fields = dict(zip(meta["fields"], [column.tolist() for column in columns], strict=True))
    return shapely.from_wkb(vectors.wkb), vectors.crs, fields


@pytest.mark.parametrize("ending", KINDS)
@pytest.mark.parametrize("place", [UTM, MERCATOR, DEGREES, UP], ids=["UTM", "Mercator", "degrees", "rows that go up"])
def test_every_kind_in_every_place(tmp_path, ending, place):
    ids = ids_drawn()
    source = a_raster(tmp_path / "map.tif", ids, *place)
    path = tmp_path / f"map{ending}"
    number = write_polygons(path, ending, [Source(source)], bands.DYNAMIC_WORLD)
    geometries, crs, fields = read(path)
    assert number == len(geometries) and [*fields][:4] == ["class_id", "class", "hectares", "pixels"]
    assert crs == rasterio.CRS.from_string("EPSG:4326" if ending == ".geojson" else place[0])
    assert shapely.is_valid(geometries).all() and shapely.coverage_is_valid(geometries)
    assert fields["class"] == [bands.CLASSES[kind] for kind in fields["class_id"]]
    assert np.bincount(fields["class_id"], fields["pixels"]).tolist() == np.bincount(ids[ids != NODATA]).tolist()
    areas = pixel_hectares(class_rasters.grid_of(source), range(90), range(70))
    for kind in np.unique(ids[ids != NODATA]):
        mine = np.array(fields["class_id"]) == kind
        assert np.sum(np.array(fields["hectares"])[mine]) == pytest.approx(areas[ids == kind].sum(), rel=1e-4)
    if crs == rasterio.CRS.from_string(place[0]):
        pixels = shapely.transform(geometries, lambda xy: np.stack(~place[1] @ (xy[:, 0], xy[:, 1]), axis=1))
        burnt = rasterize(zip(pixels, fields["class_id"], strict=True), ids.shape, NODATA, dtype="uint8")
        np.testing.assert_array_equal(burnt, ids)
    outer = shapely.get_exterior_ring(geometries)
    assert ending == ".gpkg" or shapely.is_ccw(outer).all()
    again, others = (tmp_path / f"{name}{ending}" for name in ("again", "others"))
    write_polygons(again, ending, [Source(source)], bands.DYNAMIC_WORLD)
    assert again.read_bytes() == path.read_bytes()
    write_polygons(others, ending, [Source(source)], bands.DYNAMIC_WORLD, rows=7)
    assert shapely.to_wkb(read(others)[0]).tolist() == shapely.to_wkb(geometries).tolist()
    assert read(others)[2]["hectares"] == fields["hectares"]


def test_areas_are_those_of_the_command(tmp_path):
    """The sum over polygons of a class, and the class in a zone about the map."""
    pytest.importorskip("exactextract", reason="extra 'areas'")
    from specsar_jax.zones import counting
    from specsar_jax.zones.map_parts import Mapped, Part
    from specsar_jax.zones.polygons import Zones

    source = a_raster(tmp_path / "map.tif", ids_drawn(), *MERCATOR)
    write_polygons(tmp_path / "map.gpkg", ".gpkg", [Source(source)], bands.DYNAMIC_WORLD)
    geometries, crs, fields = read(tmp_path / "map.gpkg")
    mapped = Mapped(source, (Part(source, class_rasters.grid_of(source), ""),), bands.DYNAMIC_WORLD, "", False)
    zones = Zones(("all",), np.array([shapely.multipolygons([shapely.box(*shapely.total_bounds(geometries))])]), crs)
    counted = counting.count(mapped, zones)[1]
    found = np.bincount(fields["class_id"], fields["hectares"], 9)
    np.testing.assert_allclose(found, counted.classes[0], rtol=1e-3)


def test_minimum_in_pixels_and_in_true_areas(tmp_path):
    """A pixel of 10 m is 0.01 ha in UTM; in web Mercator at 60 degrees it is a quarter of that."""
    ids = ids_drawn(70, 30)
    true = PixelHectares(class_rasters.grid_of(a_raster(tmp_path / "m.tif", ids, *MERCATOR)))(range(70))
    assert 0.2 < true.mean() / 0.01 < 0.3
    for name, place, minimum, areas in (("u", UTM, 30.0, None), ("m", MERCATOR, 0.1, true)):
        source = a_raster(tmp_path / f"{name}.tif", ids, *place)
        hectares = minimum * 0.01 if areas is None else minimum
        for rows in (0, 11):
            generalise(source, tmp_path / "out.tif", hectares, rows)
            with rasterio.open(tmp_path / "out.tif") as raster:
                np.testing.assert_array_equal(raster.read(1), joined_one_by_one(ids, minimum, areas))


def test_geojson_is_cut_at_the_antimeridian(tmp_path):
    source = a_raster(tmp_path / "map.tif", np.zeros((50, 9000), np.uint8), *ACROSS)
    write_polygons(tmp_path / "map.geojson", ".geojson", [Source(source)], bands.DYNAMIC_WORLD)
    tree = json.loads((tmp_path / "map.geojson").read_text())
    (feature,) = tree["features"]
    shape = shapely.geometry.shape(feature["geometry"])
    assert feature["geometry"]["type"] == "MultiPolygon" and shape.is_valid
    west, _, east, _ = shape.bounds
    assert (west, east) == (-180, 180) and shape.area < 1


def test_zones_of_a_region(tmp_path):
    sources = []
    for zone, (crs, transform) in (("33N", ("EPSG:32633", UTM[1])), ("34N", ("EPSG:32634", UTM[1]))):
        sources.append(Source(a_raster(tmp_path / f"{zone}.tif", ids_drawn(), crs, transform), zone))
    numbers = [write_polygons(tmp_path / f"map{ending}", ending, sources, bands.DYNAMIC_WORLD) for ending in KINDS]
    assert len(set(numbers)) == 1
    assert pyogrio.list_layers(tmp_path / "map.gpkg")[:, 0].tolist() == ["land_cover_33N", "land_cover_34N"]
    for zone in ("33N", "34N"):
        assert read(tmp_path / "map.gpkg", f"land_cover_{zone}")[1].to_epsg() == 32600 + int(zone[:2])
    for ending in (".parquet", ".geojson"):
        geometries, crs, fields = read(tmp_path / f"map{ending}")
        assert crs.to_epsg() == 4326 and fields["zone"] == sorted(fields["zone"]) and len({*fields["zone"]}) == 2
        assert shapely.is_valid(geometries).all()
        assert len(geometries) == numbers[0]


@pytest.mark.parametrize("ending", KINDS)
def test_what_stops_the_reading_is_told_as_it_is(tmp_path, ending, monkeypatch):
    source = a_raster(tmp_path / "map.tif", ids_drawn())

    def broken(*_):
        yield ids_drawn()[:40]
        raise ValueError("cannot read map.tif")

    monkeypatch.setattr(vector_files, "strips", broken)
    with pytest.raises(ValueError, match=r"^cannot read map\.tif$"):
        write_polygons(tmp_path / f"map{ending}", ending, [Source(source)], bands.DYNAMIC_WORLD)


def _within(limit: int, path: Path, ending: str, source: Path) -> subprocess.CompletedProcess:
    """Writes polygons where no file can be larger than some bytes."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from specsar_jax.patches.vector_files import *\n"
        "from tfds_dwplus import bands; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); limit = int(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "try: write_polygons(Path(sys.argv[2]), sys.argv[3], [Source(Path(sys.argv[4]))], bands.DYNAMIC_WORLD)\n"
        "except OSError as error: print(error)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(limit), path, ending, source],
        capture_output=True, text=True, cwd=REPOSITORY, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("ending", KINDS)
def test_a_full_disk_is_told(tmp_path, ending):
    """A limit on the size of files stands for it."""
    ids = np.random.default_rng(0).integers(0, 9, (300, 300)).astype(np.uint8)
    source = a_raster(tmp_path / "map.tif", ids)
    result = _within(200_000, tmp_path / f"out{ending}", ending, source)
    assert "cannot write the polygons in" in result.stdout and "is the disk full?" in result.stdout, result.stderr
    assert len(result.stdout.splitlines()) == 1


@pytest.mark.parametrize("ending", KINDS)
def test_a_disk_that_is_full_at_the_end_is_told(tmp_path, ending):
    """GDAL says nothing of what it writes when it closes a file: the index of a GeoPackage, the last brackets of GeoJSON."""
    source = a_raster(tmp_path / "map.tif", np.random.default_rng(0).integers(0, 9, (90, 90)).astype(np.uint8))
    write_polygons(tmp_path / f"whole{ending}", ending, [Source(source)], bands.DYNAMIC_WORLD)
    size = (tmp_path / f"whole{ending}").stat().st_size
    limit = size - 5 if ending != ".gpkg" else size - 100_000
    result = _within(limit, tmp_path / f"out{ending}", ending, source)
    assert "cannot write the polygons in" in result.stdout and "is the disk full?" in result.stdout, result.stderr


def test_a_disk_that_is_full_at_the_end_of_a_raster_is_told(tmp_path):
    """GDAL writes the end when the file is closed, and does not say that it could not."""
    ids = np.random.default_rng(0).integers(0, 9, (90, 300)).astype(np.uint8).repeat(3, 0)
    source = a_raster(tmp_path / "map.tif", ids)
    generalise(source, tmp_path / "whole.tif", 0.03)
    size = (tmp_path / "whole.tif").stat().st_size
    code = (
        "import resource, signal, sys; from pathlib import Path; from specsar_jax.patches.class_rasters import generalise\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); source, final, *limits = sys.argv[1:]\n"
        "for limit in map(int, limits):\n"
        "  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "  try: generalise(Path(source), Path(final), 0.03)\n"
        "  except OSError as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, source, tmp_path / "out.tif", str(size - 1), str(size - 300), str(size // 2)],
        capture_output=True, text=True, cwd=REPOSITORY, check=True,
    )  # fmt: skip
    told = result.stdout.splitlines()
    assert len(told) == 3 and all("cannot write in" in line and "is the disk full?" in line for line in told)
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_memory_does_not_grow_with_the_height_of_a_map(tmp_path):
    """Of a map, and of one four times as high: 12,000 rows of smoothed noise, in which patches are of all sizes."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    fields = [sum(gaussian_filter(rng.standard_normal((3000, 2000), np.float32), size) * size for size in (1.5, 6, 25)) for _ in range(9)]  # fmt: skip
    ids = np.argmax(fields, axis=0).astype(np.uint8)
    code = (
        "import resource, sys; from pathlib import Path; from specsar_jax.patches.vector_files import *\n"
        "from specsar_jax.patches.class_rasters import generalise; from tfds_dwplus import bands\n"
        "whole, small, out = map(Path, sys.argv[1:]); generalise(whole, small, 0.5)\n"
        "write_polygons(out, out.suffix, [Source(small)], bands.DYNAMIC_WORLD)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
    )
    peaks = []
    for times in (1, 4):
        source = a_raster(tmp_path / f"{times}.tif", np.tile(ids, (times, 1)))
        paths = source, tmp_path / f"small_{times}.tif", tmp_path / f"{times}.gpkg"
        found = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, cwd=REPOSITORY, check=True)  # fmt: skip
        peaks.append(float(found.stdout))
    assert peaks[1] < 1.3 * peaks[0], peaks
