"""Grids: where pixels lie, counted from the origin of the CRS; which part of a raster a target needs; planes stay planes."""

import math

import numpy as np
import pytest
import rasterio
from rasterio import Affine

from tfds_dwplus.imagery.grids import Grid, warp


@pytest.mark.parametrize(
    ("pixel", "corner"),
    [
        (10.0, (600000.0, 4200000.0)),
        (10.0, (600005.0, 4200015.0)),
        (0.1 / 1113, (73.0123, 31.4567)),
        (10.0, (0.0, -50.0)),
    ],
)
def test_a_part_counts_on(pixel, corner):
    """Whatever is cut out, and wherever a pixel begins, the numbers are those of the whole."""
    x, y = corner
    whole = Grid(rasterio.CRS.from_epsg(32643), rasterio.Affine(pixel, 0, x, 0, -pixel, y), 3000, 3000)
    row, column = whole.first_pixel
    assert abs(row + y / pixel) < 1 and abs(column - x / pixel) < 1
    for down, right in ((0, 1), (1, 0), (1000, 999), (2999, 7)):
        part = whole.window(slice(down, 3000), slice(right, 3000))
        assert part.first_pixel == (row + down, column + right)


def test_a_turned_grid_has_no_place_on_a_lattice():
    turned = (
        rasterio.Affine.translation(600000, 4200000) @ rasterio.Affine.rotation(30) @ rasterio.Affine.scale(10, -10)
    )
    assert Grid(rasterio.CRS.from_epsg(32643), turned, 10, 10).first_pixel == (0, 0)
    assert Grid(None, rasterio.Affine.identity(), 10, 10).first_pixel == (0, 0)


# A sphere on which a degree is 100 km along the equator and along meridians, so that places are worked out by hand:
# projected about longitude L, x = 100000 (longitude - L) and y = 100000 latitude.
RADIUS = 100000 * 180 / math.pi
DEGREES = rasterio.CRS.from_proj4(f"+proj=longlat +R={RADIUS!r} +no_defs")


def metres(about):
    return rasterio.CRS.from_proj4(f"+proj=eqc +lon_0={about} +R={RADIUS!r} +units=m +no_defs")


def in_degrees(west, width=1000):
    """Pixels of 0.01 degrees, from 5 degrees north to 5 degrees south."""
    return Grid(DEGREES, Affine(0.01, 0, west, 0, -0.01, 5), 1000, width)


def in_metres(about, size=100):
    """Pixels of 1000 m = 0.01 degrees, half a degree to the west and east of a longitude, and to the north and south of 0."""
    return Grid(metres(about), Affine(1000, 0, -500 * size, 0, -1000, 500 * size), size, size)


MIDDLE = slice(447, 553)
"""Half a degree on both sides of pixel 500, and a margin of 3."""


@pytest.mark.parametrize(
    ("source", "target", "rows", "columns"),
    [
        *((in_degrees(west), in_metres(-52), MIDDLE, MIDDLE) for west in (-57, 303, 663)),  # longitudes as one likes
        *((in_degrees(-57), Grid(DEGREES, Affine(0.01, 0, w, 0, -0.01, 0.5), 100, 100), MIDDLE, MIDDLE) for w in (-52.5, 307.5)),
        *((in_degrees(west), in_metres(180), MIDDLE, MIDDLE) for west in (175, -185)),  # one raster across the antimeridian
        (in_degrees(170), in_metres(180), MIDDLE, slice(947, 1000)),  # two that end there
        (in_degrees(-180), in_metres(180), MIDDLE, slice(0, 53)),
        (in_degrees(180), in_metres(180), MIDDLE, slice(0, 53)),
        (in_degrees(-180, 36000), in_metres(180), MIDDLE, slice(0, 36000)),  # round the earth: both ends of it
        (in_degrees(0, 36000), in_metres(0), MIDDLE, slice(0, 36000)),
        (in_degrees(0, 36000), in_metres(-52), MIDDLE, slice(30747, 30853)),
        (in_metres(180, 1000), Grid(DEGREES, Affine(0.01, 0, -180.5, 0, -0.01, 0.5), 100, 100), MIDDLE, MIDDLE),
        (in_metres(-52, 1000), Grid(DEGREES, Affine(0.01, 0, 307.5, 0, -0.01, 0.5), 100, 100), MIDDLE, MIDDLE),
        # rows from south to north; columns from north to south and rows from east to west
        (Grid(DEGREES, Affine(0.01, 0, -57, 0, 0.01, -3), 1000, 1000), in_metres(-52), slice(247, 353), MIDDLE),
        (Grid(DEGREES, Affine(0, -0.01, -47, -0.01, 0, 3), 1000, 1000), in_metres(-52), MIDDLE, slice(247, 353)),
        # pixels of a tenth: a margin of 30 of them
        (Grid(DEGREES, Affine(0.001, 0, -53, 0, -0.001, 1), 2000, 2000), in_metres(-52), slice(470, 1530), slice(470, 1530)),
    ],
)  # fmt: skip
def test_the_part_that_a_target_needs(source, target, rows, columns):
    assert source.part_for(target) == (rows, columns)
    assert source.overlaps(target)


def test_grids_that_do_not_overlap():
    # At the other side of the earth, where the target reaches over this source's longitudes of -180 and 180.
    assert in_degrees(-5).part_for(in_metres(180)) is None and not in_degrees(-5).overlaps(in_metres(180))
    assert in_degrees(-5).part_for(in_metres(20)) is None
    # Side by side: a margin, but no ground.
    beside = Grid(DEGREES, Affine(0.01, 0, -47, 0, -0.01, 0.5), 100, 100)
    assert in_degrees(-57).part_for(beside) == (MIDDLE, slice(997, 1000)) and not in_degrees(-57).overlaps(beside)


def test_a_target_that_cannot_be_projected():
    globe = Grid(
        rasterio.CRS.from_proj4(f"+proj=ortho +R={RADIUS!r}"), Affine(1000, 0, -50000, 0, -1000, 50000), 100, 100
    )
    assert globe.part_for(in_degrees(175)) is None  # behind the globe
    field = Grid(rasterio.CRS.from_wkt('LOCAL_CS["a field",UNIT["metre",1]]'), Affine(1, 0, 5, 0, -1, 5), 10, 10)
    assert field.part_for(globe) is None and not field.overlaps(globe)
    # Beyond the edge of the globe, which is at 90 degrees: only what can be seen counts.
    wide = Grid(DEGREES, Affine(1, 0, -100, 0, -1, 0.5), 1, 200)
    assert globe.part_for(wide) is not None


def test_a_target_round_a_pole_needs_all_longitudes_up_to_it():
    cap = rasterio.CRS.from_proj4(f"+proj=laea +lat_0=90 +R={RADIUS!r}")
    world = Grid(DEGREES, Affine(1, 0, -180, 0, -1, 90), 180, 360)
    rows, columns = world.part_for(Grid(cap, Affine(1000, 0, -500000, 0, -1000, 500000), 1000, 1000))
    assert (rows.start, columns) == (0, slice(0, 360))
    assert rows.stop in (11, 12, 13)  # 707 km to the corners: 7.1 degrees, and a margin


def test_grids_a_full_turn_apart_have_the_same_pixels():
    assert in_degrees(-52).same(in_degrees(308)) and not in_degrees(-52).same(in_degrees(307))
    paris = rasterio.CRS.from_epsg(4807)  # in grads: a full turn is 400
    here, there = (Grid(paris, Affine(0.1, 0, x, 0, -0.1, 50), 10, 10) for x in (2, 402))
    assert here.same(there) and here.part_for(there) == (slice(0, 10), slice(0, 10))
    assert not here.overlaps(Grid(paris, Affine(0.1, 0, 362, 0, -0.1, 50), 10, 10))


def longitudes_and_latitudes(grid, about):
    column, row = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    x, y = grid.transform @ (column, row)
    return (x, y) if grid.crs == DEGREES else (about + x / 100000, y / 100000)


def plane(grid, about):
    """100 a degree to the east of a longitude, 200 a degree to the north: 1 and 2 a pixel."""
    longitude, latitude = longitudes_and_latitudes(grid, about)
    return (100 * ((longitude - about + 180) % 360 - 180) + 200 * latitude).astype(np.float32)


def placed(crs, x, pixel, how):
    """300 x 300 pixels about a place, a part of a pixel aside."""
    turn = {"turned": 30, "quarter": 90}.get(how, 0)
    scale = Affine.scale(-pixel if how == "mirrored" else pixel, pixel if how == "south up" else -pixel)
    return Grid(crs, Affine.translation(x, 0) @ Affine.rotation(turn) @ scale @ Affine.translation(-150.2, -149.7), 300, 300)  # fmt: skip


@pytest.mark.parametrize("about", [-52, 180])
@pytest.mark.parametrize("how", ["north up", "south up", "turned", "quarter", "mirrored"])
@pytest.mark.parametrize("turn", [-360.0, 0.0, 360.0])
def test_a_plane_stays_a_plane(about, how, turn):
    """Whatever way pixels are laid, and longitudes are counted: from degrees to metres, to degrees, and from metres to degrees."""
    degrees, projected = placed(DEGREES, about + turn, 0.01, how), placed(metres(about), 0, 1000, how)
    some = Grid(DEGREES, Affine(0.01, 0, about - 0.3, 0, -0.01, 0.3), 60, 60)
    for source, target in (
        (degrees, in_metres(about, 60)),
        (degrees, some),
        (projected, some.moved(turn)),
        (projected, in_metres(about, 60)),
        (degrees, Grid(metres(about), Affine(1000, 0, -30000, 0, 1000, -30000), 60, 60)),
        (degrees, placed(metres(about), 0, 1000, "turned").window(slice(120, 180), slice(120, 180))),
    ):
        part = source.part_for(target)
        got = warp(plane(source, about)[part], source.window(*part), target)
        np.testing.assert_allclose(got, plane(target, about), atol=2e-3)


@pytest.mark.parametrize("west", [-180, 0])
def test_a_raster_round_the_earth_has_no_seam(west):
    """Between its last column and its first one, values are interpolated as anywhere: at half a pixel from both, their mean."""
    world = Grid(DEGREES, Affine(1, 0, west, 0, -1, 5), 10, 360)
    values = np.tile(np.linspace(0, 1, 360, dtype=np.float32), (10, 1))
    across = Grid(metres(west), Affine(100000, 0, -100000, 0, -100000, 100000), 2, 2).window(slice(0, 2), slice(0, 2))
    middle = Grid(metres(west), Affine(1000, 0, -500, 0, -1000, 500), 1, 1)
    np.testing.assert_allclose(warp(values, world, across)[0], [1, 0], atol=1e-6)
    np.testing.assert_allclose(warp(values, world, middle), [[0.5]], atol=1e-6)


def test_pixels_of_one_size_are_not_blurred_by_a_turn():
    """A target turned by 45 degrees about the middle of a pixel has that pixel's value there."""
    values = np.zeros((101, 101), np.float32)
    values[50, 50] = 1
    source = Grid(metres(0), Affine(1000, 0, -50500, 0, -1000, 50500), 101, 101)
    target = Grid(metres(0), Affine.rotation(45) @ Affine(1000, 0, -5500, 0, -1000, 5500), 11, 11)
    np.testing.assert_allclose(warp(values, source, target)[5, 5], 1, atol=1e-4)


def test_no_value_stays_no_value_across_the_antimeridian():
    source = in_degrees(175)
    values = np.ones(source.shape, np.float32)
    values[:, 498:502] = np.nan
    got = warp(values, source, in_metres(180))
    assert np.isnan(got[:, 48:52]).all() and (got[:, :48] == 1).all() and (got[:, 52:] == 1).all()
