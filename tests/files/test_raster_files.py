"""A raster that was cut short, or of which GDAL wrote a part, is noticed."""

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from tfds_dwplus.files.raster_files import check_whole, geotiff

PLACE = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)}


def test_a_geotiff_in_memory(tmp_path):
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    content = geotiff(values, descriptions=["a", "b"], tags={"made": "here"}, nodata=255, compress="deflate", **PLACE)
    (tmp_path / "a.tif").write_bytes(content)
    with rasterio.open(tmp_path / "a.tif") as raster:
        assert (raster.read() == values).all() and raster.descriptions == ("a", "b")
        assert raster.tags()["made"] == "here" and raster.nodata == 255 and raster.transform == PLACE["transform"]


def test_a_raster_that_is_cut_short(tmp_path):
    values = np.random.default_rng(0).integers(0, 9, (1, 1100, 600), np.uint8)
    (tmp_path / "a.tif").write_bytes(geotiff(values, nodata=255, **PLACE))
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "b.tif", driver="COG", compress="deflate")
    check_whole(tmp_path / "b.tif")
    content = (tmp_path / "b.tif").read_bytes()
    for size in (0, 100, len(content) // 4, len(content) // 2, len(content) - 600):
        (tmp_path / "b.tif").write_bytes(content[:size])
        with pytest.raises(OSError, match="written, but not whole: ") as found:
            check_whole(tmp_path / "b.tif")
        assert found.value.filename == str(tmp_path / "b.tif")


def test_a_block_that_was_never_written(tmp_path):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=64, width=64, count=1, dtype="uint8", sparse_ok=True, **PLACE
    ):
        pass
    with pytest.raises(OSError, match="no block 0, 0"):
        check_whole(tmp_path / "a.tif")
