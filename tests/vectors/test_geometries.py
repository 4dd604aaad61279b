"""Geometries of strangers are checked, and land on the pixels that they lie on."""

import struct

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.crs import CRS
from rasterio.warp import transform

from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.vectors.burning import Burner
from tfds_dwplus.vectors.geometries import on_grid, shapes_of

DEGREES, UTM = CRS.from_epsg(4326), CRS.from_epsg(32643)
GRID = Grid(UTM, rasterio.Affine(10, 0, 300000, 0, -10, 3400000), 400, 500)
BOW = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])


def shapes(*geometries, crs=UTM, **how):
    wkb = np.empty(len(geometries), object)
    wkb[:] = [
        one if one is None or isinstance(one, bytes) else shapely.to_wkb(one, **how.pop("wkb", {}))
        for one in geometries
    ]
    return shapes_of(wkb, np.arange(len(wkb)), crs, "a.gpkg", **how)


def test_each_flavour_of_wkb_is_read():
    polygon = shapely.from_wkt("POLYGON Z ((0 0 5, 9 0 5, 9 9 5, 0 0 5), (6 1 5, 8 1 5, 8 3 5, 6 1 5))")
    many = shapely.MultiPolygon([shapely.box(20, 0, 21, 1), shapely.box(30, 0, 31, 1)])
    for geometry in (polygon, many, shapely.Point(3, 4), shapely.MultiPoint([(1, 2), (3, 4)])):
        for order in (0, 1):
            for flavor in ("iso", "extended"):
                content = shapely.to_wkb(
                    shapely.set_srid(geometry, 4326), byte_order=order, flavor=flavor, include_srid=flavor == "extended"
                )
                (read,) = shapes(content)[0].geometries
                assert shapely.equals(read, shapely.force_2d(geometry)), (geometry, order, flavor)


def test_what_cannot_be_burnt_is_counted():
    line = shapely.LineString([(0, 0), (1, 1)])
    found, lines = shapes(None, shapely.Polygon(), shapely.Point(), line, line, shapely.box(0, 0, 1, 1))
    assert found.feature.tolist() == [5]
    assert lines == [
        "3 of 6 features of a.gpkg have no geometry",
        "2 of 6 features of a.gpkg are of the type LineString, and left out: polygons and points are taken",
    ]
    with pytest.raises(ValueError, match=r"a\.gpkg has no polygon and no point with a class"):
        shapes(line)


NESTED = struct.pack("<BII", 1, 7, 1) * 100_000 + struct.pack("<BII", 1, 7, 0)
WRONG = {
    "cut short": (shapely.to_wkb(shapely.box(0, 0, 1, 1))[:-3], "cut short"),
    "many rings": (struct.pack("<BII", 1, 3, 2**32 - 1), "cut short"),
    "many points": (struct.pack("<BIII", 1, 3, 1, 2**31), "cut short"),
    "no WKB": (b"\7abcdefgh", "no WKB"),
    "empty": (b"", "cut short"),
    "a member of another kind": (struct.pack("<BII", 1, 6, 1) + NESTED, "a GeometryCollection in a MultiPolygon"),
    "no number": (struct.pack("<BI2d", 1, 1, 1, np.nan), "a coordinate that is no number"),
    "infinite": (struct.pack("<BI2d", 1, 1, 1, np.inf), "a coordinate that is no number"),
    "far": (struct.pack("<BI2d", 1, 1, 1, 1e12), "expected less than 1e"),
    "two points": (struct.pack("<BIII4d", 1, 3, 1, 2, 0, 0, 1, 1), "a ring of 2 points"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wkb_of_a_stranger(name):
    content, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as error:
        shapes(shapely.box(0, 0, 1, 1), content)
    assert str(error.value).startswith("a.gpkg: feature 2 of 2 has ")


def test_collections_without_end_are_not_gone_into():
    assert "type GeometryCollection" in shapes(NESTED, shapely.box(0, 0, 1, 1))[1][0]


def test_metres_that_are_said_to_be_degrees():
    with pytest.raises(
        ValueError, match=r"has the coordinates 300010 .* of degrees; give the right one as --labels_crs"
    ):
        shapes(shapely.box(300000, 3400000, 300010, 3400010), crs=DEGREES)


def test_polygons_that_are_not_valid_are_refused_or_mended():
    with pytest.raises(
        ValueError, match=r"1 of 2 features are not valid, the first one number 2, Self-intersection.*--mend"
    ):
        shapes(shapely.box(0, 0, 1, 1), BOW)
    found, lines = shapes(BOW, mend=True)
    assert found.geometries[0].area == pytest.approx(2)
    assert lines == ["1 polygons of a.gpkg were not valid, and are mended"]


def burnt(found, grid=GRID, radius_m=0.0) -> np.ndarray:
    pixels, places = on_grid(found, grid, float(radius_m))
    return Burner(pixels, np.zeros(len(places), np.int64)).codes(slice(0, grid.height), slice(0, grid.width))[0]


def centres(grid: Grid, crs: CRS) -> tuple[np.ndarray, np.ndarray]:
    column, row = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    x, y = grid.transform @ (column.ravel(), row.ravel())
    x, y = transform(grid.crs, crs, x, y)
    return np.reshape(x, grid.shape), np.reshape(y, grid.shape)


@pytest.mark.parametrize("crs", [DEGREES, CRS.from_epsg(32644), CRS.from_epsg(3857)])
def test_a_polygon_of_another_crs_is_the_pixels_whose_centres_it_holds(crs):
    """Its edges are straight in its own CRS, and one of degrees along a parallel bends in UTM."""
    x, y = centres(GRID, crs)
    left, right, bottom, top = np.min(x), np.max(x), np.min(y), np.max(y)
    wide = shapely.box(left - 50 * (right - left), (bottom + top) / 2, right + 50 * (right - left), top)  # 200 km
    near = shapely.Polygon([(left, bottom), (right, (bottom + top) / 2), ((left + right) / 2, top)])
    for polygon in (wide, near):
        held = shapely.contains_xy(polygon, x, y)
        assert 1000 < held.sum() < held.size - 1000
        assert (burnt(shapes(polygon, crs=crs)[0]) != held).sum() <= 2  # centres that lie on an edge, but for rounding


@pytest.mark.parametrize("grid", [GRID, Grid(DEGREES, rasterio.Affine(1e-4, 0, 73, 0, -9e-5, 30.5), 300, 300)])
@pytest.mark.parametrize("crs", [DEGREES, CRS.from_epsg(3857)])
def test_a_circle_is_of_metres_on_the_ground(grid, crs):
    (x,), (y,) = transform(grid.crs, crs, *zip(grid.transform @ (150.3, 140.6), strict=True))
    pixel_m2 = 100 if grid is GRID else 1e-4 * 9e-5 * 111320 * np.cos(np.radians(30.49)) * 110850
    found = burnt(shapes(shapely.Point(x, y), crs=crs)[0], grid, 300)
    assert found.sum() * pixel_m2 == pytest.approx(np.pi * 300**2, rel=0.01)
    rows, columns = np.nonzero(found)
    assert rows.mean() + 0.5 == pytest.approx(140.6, abs=0.1) and columns.mean() + 0.5 == pytest.approx(150.3, abs=0.1)


def test_a_point_is_the_pixel_that_it_lies_in():
    point = shapely.MultiPoint([GRID.transform @ (7.1, 3.9), GRID.transform @ (9.0, 4.0)])
    for radius in (0, 1):
        assert np.argwhere(burnt(shapes(point)[0], radius_m=radius)).tolist() == [[3, 7], [4, 9]]


def test_labels_elsewhere_are_in_no_scene():
    found, _ = shapes(shapely.box(0, 0, 10, 10), shapely.box(300000, 3399000, 300100, 3399100))
    assert on_grid(found, GRID)[1].tolist() == [1]
    assert len(on_grid(shapes(shapely.box(-80, -40, -79, -39), crs=DEGREES)[0], GRID)[1]) == 0
