"""One scene, given in every way and stored in every way, has the same pixels.

The scene: bands B2 and B4, in which a block has no data, and in B4 a row of dark pixels that are not missing.
"""

import datetime
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.enums import ColorInterp
from small_scenes import SIZE, UTM, ramp, read, write

from tfds_dwplus.imagery.acquisitions import Wanted
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.scene_files import open_raster

NAMES = ("B2", "B4")
WAYS = ("file", "folder", "safe", "vrt", "http", "stac", "xarray", "dask", "prepare")
STORED = {
    # how numbers are stored: (from digital numbers to stored ones, scale, offset, nodata)
    "plain": (lambda dn: dn, None, None, 0),
    "nothing declared": (lambda dn: dn, None, None, None),
    "offset": (lambda dn: np.where(dn, dn + 1000, 0), 1e-4, -0.1, 0),
    "scale": (lambda dn: np.where(dn, dn * 5, 0), 2e-5, None, 0),
    "scale and offset": (lambda dn: np.where(dn, (dn + 2000) * 4, 0), 2.5e-5, -0.2, 0),
    "float": (lambda dn: np.where(dn, dn / 10000, np.nan).astype(np.float32), None, None, None),
    "another nodata": (lambda dn: np.where(dn, dn, -9999).astype(np.int16), None, None, -9999),
    "dark is 0": (lambda dn: np.where(dn == 1, 0, dn), None, None, None),
    "mask inside": (lambda dn: dn, None, None, "inside"),
    "mask beside": (lambda dn: dn, None, None, "beside"),
    "alpha": (lambda dn: dn, None, None, "alpha"),
    "band called alpha": (lambda dn: dn, None, None, "alpha by name"),
}
"""Dark pixels are at 1, or what becomes 1."""


def scene() -> np.ndarray:
    """Digital numbers [band, row, column], 0 where there is no data."""
    values = np.stack([ramp(low=600), ramp(low=700)[::-1].copy()])
    values[1, 12] = 1
    values[:, 2:7, 3:9] = 0
    return values


def stored(how: str) -> tuple[np.ndarray, dict]:
    convert, scale, offset, nodata = STORED[how]
    values = convert(scene().astype(np.int32))
    values = values.astype(np.uint16) if values.dtype == np.int32 else values
    return values, {"scale": scale, "offset": offset, "nodata": nodata}


def put(path: Path, values: np.ndarray, names=(), *, scale=None, offset=None, nodata=None, **profile) -> Path:
    """A raster that declares what is given."""
    masked = isinstance(nodata, str)
    if masked and nodata.startswith("alpha"):
        values = values if values.ndim == 3 else values[None]
        values = np.concatenate([values, np.where(scene()[:1] > 0, 65535, 0).astype(np.uint16)])
        by_name = nodata == "alpha by name"
        write(path, values, names=(*(names or [""]), "alpha") if by_name else (*names, "") if names else (), **profile)
        if not by_name:
            with rasterio.open(path, "r+") as raster:
                raster.colorinterp = [*raster.colorinterp[:-1], ColorInterp.alpha]
        return path
    write(path, values, names=names, nodata=None if masked else nodata, **profile)
    if scale or offset or masked:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=nodata == "inside"), rasterio.open(path, "r+") as raster:
            if scale:
                raster.scales = (scale,) * raster.count
            if offset:
                raster.offsets = (offset,) * raster.count
            if masked:
                raster.write_mask(scene()[0] > 0)
    return path


def product(folder: Path, how: str) -> Path:
    """A SAFE product; what it declares stands in its metadata."""
    values, said = stored(how)
    root = folder / "S2A_MSIL2A_20190604T054641_N0500_R120_T43RCP_20190604T091217.SAFE"
    images = root / "GRANULE" / "L2A_T43RCP_A041514_20190604T054941" / "IMG_DATA" / "R10m"
    lossless = {"driver": "JP2OpenJPEG", "quality": "100", "reversible": "yes"}
    for name, band in zip(("B02", "B04"), values, strict=True):
        write(images / f"T43RCP_20190604T054641_{name}_10m.jp2", band, **lossless)
    picture = np.full((3, SIZE, SIZE), 99, np.uint8)
    write(images / "T43RCP_20190604T054641_TCI_10m.jp2", picture, **lossless)
    scale = said["scale"] or 1e-4
    added = round((said["offset"] or 0) / scale)
    offsets = "".join(f'<BOA_ADD_OFFSET band_id="{band}">{added}</BOA_ADD_OFFSET>' for band in range(13))
    (root / "MTD_MSIL2A.xml").write_text(
        f"<P><I>{offsets}<BOA_QUANTIFICATION_VALUE>{round(1 / scale)}</BOA_QUANTIFICATION_VALUE></I></P>"
    )
    return root


def from_archive(folder: Path, how: str, url: str) -> np.ndarray:
    pystac = pytest.importorskip("pystac", reason="the extra acquire is not installed")
    from tfds_dwplus.imagery.stac_api import Collection, StacArchive
    from tfds_dwplus.imagery.stac_reading import read_sentinel2

    values, said = stored(how)
    in_file = {"nodata": said.pop("nodata")}
    item = pystac.Item(f"S2A_{how.replace(' ', '_')}", None, None, datetime.datetime(2019, 6, 5, 10), {})
    for name, band in zip(("B02", "B04"), values, strict=True):
        put(folder / f"{name}.tif", band, **in_file)
        declared = {key: value for key, value in said.items() if value}
        fields = {"raster:bands": [declared]} if declared else {}
        item.add_asset(name, pystac.Asset(f"{url}/{name}.tif", extra_fields=fields))
    archive = StacArchive(Collection("http://none", "s2"), Collection("http://none", "s1"), "db", "sigma0")
    grid = Grid(rasterio.CRS.from_epsg(32630), UTM, SIZE, SIZE)
    return read_sentinel2([item], grid, Wanted(s2_bands=NAMES), archive).s2


def from_array(folder: Path, how: str, chunks) -> np.ndarray:
    rioxarray = pytest.importorskip("rioxarray", reason="the extra xarray is not installed")
    from specsar_jax.maps import array_scenes

    values, said = stored(how)
    array = rioxarray.open_rasterio(put(folder / "s2.tif", values, NAMES, **said), chunks=chunks)
    if isinstance(STORED[how][3], str):  # xarray does not read masks: rioxarray's own way is to set NaN
        array = array.where(scene() > 0)
    given = array_scenes.stored(array, NAMES, "s2")
    decision = array_scenes.decided(given, None)
    decoding = array_scenes.Decoding(decision.linear, given.nodata, (), (), "db", ())
    return decoding.sentinel2(given.array.values)


def from_tiles(folder: Path, how: str) -> np.ndarray:
    from tfds_dwplus.tiles.tile_files import TileRecord, read_tile

    values, said = stored(how)
    put(folder / "s2" / "a.tif", values, NAMES, **said)
    write(folder / "label" / "a.tif", np.ones((SIZE, SIZE), np.uint8))
    return read_tile(folder, TileRecord("a", "train"), NAMES, ()).s2


def read_as(way: str, how: str, folder: Path) -> np.ndarray:
    values, said = stored(how)
    if way == "safe":
        return read([product(folder, how)], s2_bands=NAMES)[0]
    if way in ("xarray", "dask"):
        return from_array(folder, how, {"x": 7, "y": 11} if way == "dask" else None)
    if way == "prepare":
        return from_tiles(folder, how)
    if way in ("http", "stac"):
        from local_archive import files_served  # skips where its servers are not installed

        (folder / "control").mkdir()
        (folder / "files").mkdir()
        with files_served(folder / "files", folder / "control") as files:
            if way == "stac":
                return from_archive(folder / "files", how, files.url)
            put(folder / "files" / "s2.tif", values, NAMES, **said)
            return read([f"{files.url}/s2.tif"], s2_bands=NAMES)[0]
    if way == "folder":
        for name, band in zip(NAMES, values, strict=True):
            put(folder / "bands" / f"T43RCP_{name}.tif", band, **said)
        return read([folder / "bands"], s2_bands=NAMES)[0]
    path = put(folder / "s2.tif", values, NAMES, **said)
    if way == "vrt":
        with open_raster(path) as raster:
            rasterio.shutil.copy(raster, folder / "scene.vrt", driver="VRT")
        path = folder / "scene.vrt"
    return read([path], s2_bands=NAMES)[0]


@pytest.mark.parametrize("how", STORED)
@pytest.mark.parametrize("way", WAYS)
def test_the_same_pixels(way, how, tmp_path):
    if way == "safe" and how in ("float", "another nodata", "mask inside", "mask beside", "alpha", "band called alpha"):
        pytest.skip("a SAFE product cannot be stored so")
    if way in ("xarray", "dask") and "alpha" in how:
        pytest.skip("rioxarray reads an alpha band as one more band")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # rioxarray 0.19 under affine 3
        found = read_as(way, how, tmp_path)
    np.testing.assert_array_equal(np.moveaxis(found, -1, 0), scene())
