"""Grids: where pixels lie, counted from the origin of the CRS."""

import pytest
import rasterio

from tfds_dwplus.imagery.grids import Grid


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
