"""Hectares of classes in zones, against geodesics, exactextract on an equal-area grid, and maps whose answer is seen at a glance."""

import numpy as np
import pytest
import rasterio
from drawn_zones import box, shapely, write_map
from exactextract import exact_extract
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points

from specsar_jax.zones import counting
from specsar_jax.zones.map_parts import read_parts
from specsar_jax.zones.polygons import Zones
from tfds_dwplus import bands
from tfds_dwplus.places.true_areas import polygon_hectares

DEGREES = CRS.from_epsg(4326)

GRIDS = {
    "UTM": ("EPSG:32633", rasterio.Affine(20, 0, 600000, 0, -20, 6700000)),
    "web Mercator at 60 degrees": ("EPSG:3857", rasterio.Affine(40, 0, 1500000, 0, -40, 8400000)),
    "degrees": ("EPSG:4326", rasterio.Affine(2e-4, 0, 15, 0, -2e-4, 60)),
    "large pixels in degrees": ("EPSG:4326", rasterio.Affine(0.05, 0, -60, 0, -0.05, 70)),
    "across the antimeridian": ("EPSG:32601", rasterio.Affine(20, 0, 190000, 0, -20, 6700000)),
    "about the pole": ("EPSG:3413", rasterio.Affine(500, 0, -300000, 0, -500, 300000)),
    "feet": ("EPSG:2263", rasterio.Affine(100, 0, 900000, 0, -100, 250000)),
    "turned": (
        "EPSG:32633",
        rasterio.Affine.translation(6e5, 67e5) @ rasterio.Affine.rotation(30) @ rasterio.Affine.scale(20, -20),
    ),
}


def zones_of(polygons: list, crs: CRS) -> Zones:
    shapes = np.empty(len(polygons), object)
    shapes[:] = [shapely.multipolygons(shapely.get_parts(polygon)) for polygon in polygons]
    return Zones(tuple(map(str, range(len(polygons)))), shapes, crs)


def degrees_of(polygon, crs: CRS):
    return shapely.transform(polygon, lambda xy: np.stack(transform_points(crs, DEGREES, xy[:, 0], xy[:, 1]), axis=-1))


def geodesic_hectares(polygon, crs: CRS, step: float) -> float:
    fine = degrees_of(shapely.segmentize(polygon, step), crs)
    return sum(abs(Geod(ellps="WGS84").geometry_area_perimeter(part)[0]) for part in shapely.get_parts(fine)) / 1e4


@pytest.mark.parametrize("name", GRIDS)
def test_areas_are_those_of_geodesics(name, tmp_path):
    """Two discs, each wholly inside one class; one in the CRS of the map, and both in degrees."""
    crs, transform = GRIDS[name]
    ids = np.full((600, 1300), 1, np.uint8)
    ids[:, 650:] = 4
    mapped = read_parts(write_map(tmp_path / "map.tif", ids, crs, transform))
    radius = 200 * np.hypot(transform.a, transform.d)
    discs = [shapely.Point(transform @ at).buffer(radius, quad_segs=20) for at in ((310.3, 290.7), (990, 300))]
    crs = CRS.from_string(crs)
    step = radius / 2000
    expected = [geodesic_hectares(disc, crs, step) for disc in discs]
    small = shapely.Point(transform @ (640, 590)).buffer(radius / 80)  # some pixels in a corner of the map
    counted, together = counting.count(mapped, zones_of([*discs, small], crs))
    assert counted.classes[2, 1] == pytest.approx(geodesic_hectares(small, crs, step), rel=1e-4)
    assert counted.classes[0, 1] == pytest.approx(expected[0], rel=1e-6)
    assert counted.classes[1, 4] == pytest.approx(expected[1], rel=1e-6)
    assert (np.count_nonzero(counted.classes, axis=1) == 1).all() and not counted.nodata.any()
    assert not counted.outside.any()
    assert together.classes[0] == pytest.approx(counted.classes.sum(axis=0))
    if name not in ("across the antimeridian", "about the pole"):  # where polygons in degrees are others
        fine = zones_of([degrees_of(shapely.segmentize(disc, step * 20), crs) for disc in discs], DEGREES)
        assert counting.count(mapped, fine)[0].mapped == pytest.approx(expected, rel=1e-4)


def test_areas_are_those_of_exactextract_on_an_equal_area_grid(tmp_path):
    transform = rasterio.Affine(10, 0, 1_000_000, 0, -10, 5_000_000)
    ids = np.random.default_rng(0).choice([*range(9), bands.IGNORE], (700, 1100)).astype(np.uint8)
    path = write_map(tmp_path / "map.tif", ids, "EPSG:6933", transform)
    zones = [
        box(3.3, 4.4, 1055.5, 655.7, transform),
        shapely.Point(transform @ (600, 350)).buffer(1234.5),
        box(511.5, 511.5, 512.5, 512.5, transform),
        box(20, 20, 20.25, 20.5, transform),
        box(0, 0, 1100, 700, transform).difference(shapely.Point(transform @ (512, 512)).buffer(777)),
    ]
    features = [{"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(zone)} for zone in zones]
    with rasterio.open(path, driver="GTiff") as raster:
        whole = raster.read(1)
    from exactextract.raster import NumPyRasterSource

    left, bottom, right, top = rasterio.transform.array_bounds(*ids.shape, transform)
    found = exact_extract(NumPyRasterSource(whole, left, bottom, right, top), features, ["unique", "frac", "count"])
    counted, _ = counting.count(read_parts(path), zones_of(zones, CRS.from_epsg(6933)))
    for place, feature in enumerate(found):
        of = feature["properties"]
        expected = np.zeros(256)
        expected[of["unique"].astype(int)] = of["frac"] * of["count"] * 0.01
        assert counted.classes[place] == pytest.approx(expected[:9], rel=1e-6, abs=1e-9)
        assert counted.nodata[place] == pytest.approx(expected[255], rel=1e-6, abs=1e-9)
        assert counted.total[place] == pytest.approx(zones[place].area / 1e4, rel=1e-6)


def test_parts_of_pixels_nodata_and_what_is_outside(tmp_path):
    ids = np.full((4, 4), 2, np.uint8)
    ids[:, 2:] = 6
    ids[3] = bands.IGNORE
    mapped = read_parts(write_map(tmp_path / "map.tif", ids))
    zones = [box(1.5, 0.5, 2.25, 1), box(-2, 2, 2, 4), box(10, 10, 12, 12)]
    counted, together = counting.count(mapped, zones_of(zones, CRS.from_epsg(32643)))
    one = counted.total[0] / (0.75 * 0.5)
    assert one == pytest.approx(0.01, rel=2e-3) and abs(one - 0.01) > 1e-6  # a pixel of UTM is not of its nominal size
    assert counted.classes[0, [2, 6]] == pytest.approx([0.25 * one, 0.125 * one], rel=1e-4)
    assert (counted.classes[1, 2], counted.nodata[1], counted.outside[1]) == pytest.approx(
        (2 * one, 2 * one, 4 * one), rel=1e-4
    )
    assert (counted.mapped[2], counted.nodata[2], counted.outside[2]) == pytest.approx((0, 0, 4 * one), rel=1e-4)
    assert together.total[0] == pytest.approx(counted.total.sum())


def test_zones_that_overlap_count_each_and_together_once(tmp_path):
    mapped = read_parts(write_map(tmp_path / "map.tif", np.full((100, 100), 3, np.uint8)))
    counted, together = counting.count(
        mapped, zones_of([box(0, 0, 60, 60), box(30, 30, 90, 90), box(30, 30, 60, 60)], CRS.from_epsg(32643))
    )
    one = counted.mapped[2] / 900
    assert counted.mapped == pytest.approx([3600 * one, 3600 * one, 900 * one], rel=1e-5)
    assert together.mapped[0] == pytest.approx(6300 * one, rel=1e-5)


def test_each_window_is_read_once_and_only_where_zones_are(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "LEAF_PX", 64)
    ids = np.random.default_rng(3).integers(0, 9, (300, 500)).astype(np.uint8)
    mapped = read_parts(write_map(tmp_path / "map.tif", ids))
    zones = zones_of([box(10, 10, 200, 90), box(20, 5, 210, 70), box(100, 50, 101, 51)], CRS.from_epsg(32643))
    read, done = [], []
    check = counting.check_ids
    monkeypatch.setattr(counting, "check_ids", lambda ids, *rest: (read.append(ids.shape), check(ids, *rest)))
    counted, _ = counting.count(mapped, zones, done.append)
    assert sum(done) == ids.size
    assert 0 < len(read) <= 4 * 2 and max(max(shape) for shape in read) <= 64
    monkeypatch.setattr(counting, "LEAF_PX", 512)
    whole, _ = counting.count(mapped, zones)
    assert counted.classes == pytest.approx(whole.classes, rel=1e-6)


def test_codes_of_no_class_are_refused(tmp_path):
    ids = np.zeros((3000, 30), np.uint8)
    path = write_map(tmp_path / "map.tif", ids)
    mapped = read_parts(path)
    ids[2001, 7] = 77
    write_map(path, ids)
    with pytest.raises(ValueError, match="holds 77, expected ids of its 9 classes, 0 to 8, and nodata 255"):
        counting.count(mapped, zones_of([box(0, 0, 30, 3000)], CRS.from_epsg(32643)))


def test_a_million_edges_from_pole_to_pole_take_no_memory(monkeypatch):
    """Points put into the edges of a comb are bounded: one a hundredth of a degree would be 7 million here, billions for a larger one."""
    x = np.linspace(-170, 170, 400)
    comb = shapely.Polygon([*zip(x, np.where(np.arange(400) % 2, 85, -85), strict=True), (170, -89), (-170, -89)])
    assert comb.is_valid and comb.length > 60_000
    inserted = []
    segmentize = shapely.segmentize
    monkeypatch.setattr(shapely, "segmentize", lambda *given: inserted.append(segmentize(*given)) or inserted[-1])
    assert polygon_hectares(np.array([comb], object), DEGREES)[0] == pytest.approx(25.5e9, rel=0.1)
    assert shapely.get_num_coordinates(inserted[0]) < 2_100_000
