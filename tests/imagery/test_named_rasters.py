"""A raster is what its name says: nothing that a stranger's file names is opened, and no host is asked."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from tfds_dwplus import bands
from tfds_dwplus.files import hosts
from tfds_dwplus.files.opening import FLAG, open_raster
from tfds_dwplus.imagery.grids import parse_crs
from tfds_dwplus.imagery.scene_files import mask_beside

SECRET = 4242
PLACE = {"crs": "EPSG:32630", "transform": rasterio.Affine(10, 0, 500000, 0, -10, 4000000)}


def tif(path: Path, value: int = 1, **tags) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", driver="GTiff", height=64, width=64, count=1, dtype="uint16", **PLACE) as raster:
        raster.write(np.full((1, 64, 64), value, np.uint16))
        if tags:
            raster.update_tags(ns="OVERVIEWS", **tags)
    return path


def vrt(
    source: object, relative: int = 0, *, inside: str = "", attributes: str = "", extra: str = "", size: int = 64
) -> str:
    return (
        f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}"><SRS>EPSG:32630</SRS><GeoTransform>500000,10,0,4000000,0,-10'
        f'</GeoTransform>{extra}<VRTRasterBand dataType="UInt16" band="1"{attributes}>{inside}<SimpleSource>'
        f'<SourceFilename relativeToVRT="{relative}">{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )


@pytest.fixture
def secret(tmp_path):
    return tif(tmp_path / "elsewhere/secret.tif", SECRET)


@pytest.fixture
def given(tmp_path):
    return tif(tmp_path / "given/a.tif").parent


def refusal(path, **how) -> str:
    """The line that refuses a raster, of which all is read that may lead elsewhere."""
    with pytest.raises(ValueError) as error:
        look(path, **how)
    line = str(error.value)
    assert "\n" not in line and str(path).removeprefix("/vsizip/") in line
    return line


def look(path, **how) -> set[int]:
    with open_raster(path, **how) as raster:
        values = [raster.read(1), raster.read(1, out_shape=(8, 8)), np.array(raster.overviews(1))]
        raster.read_masks(1)
        return set(np.concatenate([part.ravel() for part in values[:2]]).tolist())


WMS = "<GDAL_WMS><Service name='TMS'><ServerUrl>{}/${{z}}</ServerUrl></Service></GDAL_WMS>"


@pytest.mark.parametrize(
    "content", [vrt("{}"), WMS, "<WMTS>{}</WMTS>", "no raster {}", '{{"type": "FeatureCollection"}}']
)
def test_a_tif_that_is_none(given, secret, content):
    path = given / "b.tif"
    path.write_text(content.format(secret))
    assert "is called .tif but is no GeoTIFF" in refusal(path)
    path = path.rename(given / "b.jp2")
    assert "is called .jp2 but is no JPEG 2000 file" in refusal(path)
    with zipfile.ZipFile(given / "b.zip", "w") as archive:
        archive.write(path, "in/b.tif")
    assert "is called .tif but is no GeoTIFF" in refusal(f"/vsizip/{given}/b.zip/in/b.tif")
    assert "is no GeoTIFF" in refusal(path.rename(given / "b.tif"), anywhere=True)  # the name counts


@pytest.mark.parametrize("name", ["a.tif.ovr", "A.TIF.Ovr", "a.tif.msk", "a.tif.msk.ovr"])
def test_what_lies_beside_is_a_geotiff(given, secret, name):
    if name == "a.tif.msk.ovr":
        tif(given / "mask.tif").rename(given / "a.tif.msk")
    (given / name).write_text(
        vrt(secret, extra='<Metadata><MDI key="INTERNAL_MASK_FLAGS_1">2</MDI></Metadata>', size=32)
    )
    assert "beside it is no GeoTIFF" in refusal(given / "a.tif")
    with zipfile.ZipFile(given / "a.zip", "w") as archive:
        for file in given.glob("[aA].*"):
            if file.suffix != ".zip":
                archive.write(file, f"in/{file.name}")
    assert "beside it is no GeoTIFF" in refusal(f"/vsizip/{given}/a.zip/in/a.tif")


def test_overviews_and_masks_of_its_own_are_read(given):
    with rasterio.open(given / "a.tif", "r+") as raster:
        raster.build_overviews([2], rasterio.enums.Resampling.nearest)
    tif(given / "b.tif").rename(given / "a.tif.msk")
    tif(given / "b.tif").rename(given / "a.tif.ovr")
    assert look(given / "a.tif") == {1}


def test_tags_name_no_overviews(given, secret):
    assert "OVERVIEW_FILE" in refusal(tif(given / "b.tif", OVERVIEW_FILE=str(secret)))
    (given / "a.tif.aux.xml").write_text(
        f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{secret}</MDI></Metadata></PAMDataset>'
    )
    assert "OVERVIEW_FILE" in refusal(given / "a.tif")
    tif(given / "c.tif")
    tif(given / "d.tif", OVERVIEW_FILE=str(secret)).rename(given / "c.tif.msk")
    assert "takes its overviews from another file" in refusal(given / "c.tif")


def test_a_vrt_of_files_in_its_folder(given, secret):
    tif(given / "below/b.tif", 2)
    for source, relative in (("a.tif", 1), (given / "a.tif", 0), ("below/../a.tif", 1)):
        (given / "a.vrt").write_text(vrt(source, relative))
        assert look(given / "a.vrt") == {1}
    (given / "nested.vrt").write_text(vrt("a.vrt", 1))
    assert look(given / "nested.vrt") == {1}
    with open_raster(given / "below/b.tif") as raster:
        rasterio.shutil.copy(raster, given / "below/b.vrt", driver="VRT")
    assert look(given / "below/b.vrt") == {2}
    (given.parent / "link.vrt").symlink_to(given / "a.vrt")
    assert look(given.parent / "link.vrt") == {1}  # GDAL counts from where the link leads to


FOREIGN = {
    "a path": lambda at, secret: vrt(secret),
    "..": lambda at, secret: vrt("../elsewhere/secret.tif", 1),
    "a link": lambda at, secret: (at / "l.tif").symlink_to(secret) or vrt("l.tif", 1),
    "a folder that is a link": lambda at, secret: (at / "l").symlink_to(secret.parent) or vrt("l/secret.tif", 1),
    "http": lambda at, secret: vrt("http://127.0.0.1:9/a.tif"),
    "vsicurl": lambda at, secret: vrt("/vsicurl/http://127.0.0.1:9/a.tif"),
    "a zip": lambda at, secret: vrt("/vsizip/a.zip/a.tif"),
    "a connection": lambda at, secret: vrt(f"GTIFF_DIR:1:{secret}"),
    "a connection, relative": lambda at, secret: vrt("HDF5:../elsewhere/secret.tif", 1),
    "vrt://": lambda at, secret: vrt(f"vrt://{secret}?bands=1"),
    "XML": lambda at, secret: vrt(vrt(secret).replace("<", "&lt;")),
    "a file called tif": lambda at, secret: (at / "b.tif").write_text(vrt(secret)) and vrt("b.tif", 1),
    "a nested VRT": lambda at, secret: (at / "b.vrt").write_text(vrt(secret)) and vrt("b.vrt", 1),
    "overviews of a member": lambda at, secret: (at / "a.tif.ovr").write_text(vrt(secret, size=32)) and vrt("a.tif", 1),
    "overviews in a tag of a member": lambda at, secret: (
        tif(at / "b.tif", OVERVIEW_FILE=str(secret)) and vrt("b.tif", 1)
    ),
    "overviews in a tag": lambda at, secret: vrt(
        "a.tif", 1, extra=f'<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{secret}</MDI></Metadata>'
    ),
    "an attribute": lambda at, secret: vrt("a.tif", 1).replace(
        "<SimpleSource>", f'<SimpleSource SourceFilename="{secret}">'
    ),
    "another case": lambda at, secret: vrt("a.tif", 1).replace(
        "<SimpleSource>", f"<SimpleSource><sourcefilename>{secret}</sourcefilename>"
    ),
    "a comment": lambda at, secret: vrt("a.tif", 1).replace("a.tif", f"{secret}<!-- -->"),
    "an entity": lambda at, secret: f'<!DOCTYPE v [<!ENTITY e "{secret}">]>' + vrt("&e;"),
    "raw numbers": lambda at, secret: vrt("a.tif", 1, attributes=' subClass="VRTRawRasterBand"'),
    "code": lambda at, secret: vrt(
        "a.tif",
        1,
        attributes=' subClass="VRTDerivedRasterBand"',
        inside="<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>"
        "<PixelFunctionCode>import os</PixelFunctionCode>",
    ),
    "options": lambda at, secret: vrt("a.tif", 1).replace("<SourceBand>", "<OpenOptions/><SourceBand>"),
    "itself": lambda at, secret: vrt("x.vrt", 1),
    "nothing": lambda at, secret: "no XML",
    "a place on a server": lambda at, secret: vrt("a.tif", 1).replace("EPSG:32630", "http://127.0.0.1:9/epsg"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_vrt_of_anything_else(given, secret, kind):
    (given / "x.vrt").write_text(FOREIGN[kind](given, secret))
    refusal(given / "x.vrt")
    with zipfile.ZipFile(given / "x.zip", "w") as archive:
        archive.write(given / "x.vrt", "x.vrt")
    assert FLAG in refusal(f"/vsizip/{given}/x.zip/x.vrt")


def test_the_flag_allows_others(given, secret):
    (given / "x.vrt").write_text(vrt(secret))
    assert FLAG in refusal(given / "x.vrt")
    assert look(given / "x.vrt", anywhere=True) == {SECRET}
    assert look(f"vrt://{secret}?bands=1") == {SECRET}  # named by the user
    (given / "wms.xml").write_text(WMS.format("http://127.0.0.1:9"))
    assert FLAG in refusal(given / "wms.xml")


@pytest.mark.parametrize(("driver", "name"), [("PNG", "a.png"), ("ENVI", "a.dat"), ("HFA", "a.img")])
def test_formats_that_the_user_names(given, driver, name):
    with rasterio.open(given / "a.tif") as raster:
        rasterio.shutil.copy(raster, given / name, driver=driver)
    assert look(given / name) == {1}
    assert refusal(given / "none.png").endswith("no such file")


def test_xml_is_no_path(secret):
    with pytest.raises(ValueError, match="expected a path or an address, not XML"):
        open_raster(vrt(secret))


def test_what_lies_beside_on_a_server_is_not_read(given, tmp_path, secret):
    from local_archive import files_served  # skips where its servers are not installed

    (tmp_path / "control").mkdir()
    for kind in (".ovr", ".aux.xml"):
        (given / f"a.tif{kind}").write_text(vrt(secret, size=32))
    for name in ("b.tif.msk", "b.tif", "b.vrt"):
        (given / name).write_text(vrt(secret))
    with files_served(given, tmp_path / "control") as files:
        assert look(f"{files.url}/a.tif") == {1}
        assert mask_beside(f"/vsicurl/{files.url}/b.tif") is None
        assert "is no GeoTIFF" in refusal(f"{files.url}/b.tif")
        assert FLAG in refusal(f"{files.url}/b.vrt")
    assert not {"/a.tif.ovr", "/a.tif.msk"} & {
        line.split()[0] for line in (tmp_path / "control/requests").read_text().splitlines()
    }


def test_a_crs_is_no_address():
    for text in ("http://127.0.0.1:9/crs", "/vsicurl/http://127.0.0.1:9/crs", "/etc/passwd", "crs.txt"):
        with pytest.raises(ValueError, match="expected an EPSG code or WKT"):
            parse_crs(text)
    for text in ("EPSG:32630", rasterio.CRS.from_epsg(32630).to_wkt(), "+proj=utm +zone=30", "ESRI:54009", "OGC:CRS84"):
        assert parse_crs(text)


def test_the_internet_does_not_lead_inward(monkeypatch):
    names = {
        "public.example": "93.184.216.34",
        "inside.example": "10.0.0.7",
        "127.0.0.1": "127.0.0.1",
        "169.254.169.254": "169.254.169.254",
    }

    def look_up(host, *_, **__):
        if host not in names:
            raise OSError
        return [(2, 1, 6, "", (names[host], 0))]

    monkeypatch.setattr(hosts.socket, "getaddrinfo", look_up)
    hosts._is_global.cache_clear()
    for there in ("http://127.0.0.1/a", "http://169.254.169.254/latest", "https://inside.example/a"):
        with pytest.raises(ValueError, match="it is not asked"):
            hosts.check_not_inward(there, "https://public.example/stac")
        hosts.check_not_inward(there, "http://inside.example/stac")  # an archive of one's own network
        hosts.check_not_inward(there, "https://unknown.example/stac")  # behind a proxy
    hosts.check_not_inward("https://other.example/a", "https://public.example/stac")
    hosts._is_global.cache_clear()


def test_a_mosaic_of_map_region_is_read(tmp_path):
    pytest.importorskip("shapely")
    from specsar_jax.regions import mosaics
    from tfds_dwplus.places import blocks

    made = list(blocks.blocks_of(blocks.box(15.0, 50.0, 15.03, 50.02), 128))
    for block in made:
        tif(tmp_path / "blocks" / f"{block.name}.tif")
    (tmp_path / "mosaic.vrt").write_text(mosaics._mosaic(made, bands.DYNAMIC_WORLD))
    with open_raster(tmp_path / "mosaic.vrt") as raster:
        assert raster.driver == "VRT" and len(raster.files) == 1 + len(made)
