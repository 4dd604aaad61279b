"""Wrong tables, workbooks, zips of labels and product metadata: each is read, or refused by a line."""

import csv
import io
import zipfile

import openpyxl
import pytest
from mutations import TIMES, bytes_like, tried, zip_like

from tfds_dwplus.imagery.decoder.declared import of_product
from tfds_dwplus.imagery.scene_files import list_rasters
from tfds_dwplus.labels.published import survey
from tfds_dwplus.labels.workbook import workbook_rows
from tfds_dwplus.tiles.tile_files import COLUMNS, PROVENANCE, list_tiles, provenance

METADATA = (
    b'<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/x.xsd"><n1:General_Info><PROCESSING_BASELINE>05.09'
    b"</PROCESSING_BASELINE><QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit='none'>10000</BOA_QUANTIFICATION_VALUE>"
    b'</QUANTIFICATION_VALUES_LIST><L><BOA_ADD_OFFSET band_id="0">-1000</BOA_ADD_OFFSET><BOA_ADD_OFFSET band_id="12">-1000'
    b"</BOA_ADD_OFFSET></L></n1:General_Info></n1:Level-2A_User_Product>"
)


def table() -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*COLUMNS, "biome", "s1_scenes", *PROVENANCE])
    for place in range(4):
        row = [f"tile_{place}", "train", 1.5, 42.25, "2019-06-01", "expert", 510, 510, 4, 12]
        writer.writerow([*row, "L2A", "sentinel-1-rtc gamma0", "gamma0 dB", "descending", "dB"])
    return text.getvalue().encode()


@TIMES
def test_tiles_csv(tmp_path, times):
    def read(content: bytes) -> None:
        (tmp_path / "tiles.csv").write_bytes(content)
        provenance(list_tiles(tmp_path))

    tried(read, bytes_like(table()), 150, times)


@pytest.fixture(scope="module")
def workbook(tmp_path_factory) -> dict[str, bytes]:
    """The parts of a workbook."""
    path = tmp_path_factory.mktemp("workbook") / "a.xlsx"
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name in ("expert", "non_expert"):
        sheet = book.create_sheet(name)
        sheet.append(["dw_id", "hemisphere", "biome", "S2_product_id"])
        for place in range(4):
            product = "S2A_MSIL2A_20190101T054639_N0214_R048_T43RCP_20190101T000000"
            sheet.append([f"dw_{place}.5_3.25-20190101", "EH", place + 1, product])
    book.save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@TIMES
def test_workbook(tmp_path, workbook, times):
    def read(content: bytes) -> None:
        (tmp_path / "a.xlsx").write_bytes(content)
        workbook_rows(tmp_path / "a.xlsx")

    tried(read, zip_like(workbook), 60, times)


@TIMES
def test_labels_in_a_zip(tmp_path, times):
    names = (
        *("Experts/EH/1/dw_1.5_2.5-20190101.tif", "validation/consensus/dw_-1_2-20200229.tif"),
        *("dw_test/label_dw_9_9-20190101.tif", "Non_expert/WH/14/dw_3_4-20190102.tiff"),
    )

    def read(content: bytes) -> None:
        (tmp_path / "labels.zip").write_bytes(content)
        for tile in survey([tmp_path / "labels.zip"]).tiles:
            assert "/" not in tile.tile_id and ".." not in tile.tile_id and tile.tile_id.isprintable()

    tried(read, zip_like({name: b"II*\0" for name in names}), 150, times)


@TIMES
def test_product_metadata(times):
    tried(lambda content: of_product("MTD_MSIL2A.xml", content), bytes_like(METADATA), 200, times)


@TIMES
def test_product_in_a_zip(tmp_path, times):
    members = {"S2A.SAFE/MTD_MSIL2A.xml": METADATA, "S2A.SAFE/GRANULE/L2A/IMG_DATA/R10m/T43RCP_B02_10m.jp2": b"x"}

    def read(content: bytes) -> None:
        (tmp_path / "product.zip").write_bytes(content)
        for address, _ in list_rasters(str(tmp_path / "product.zip")):
            assert "/../" not in address

    tried(read, zip_like(members), 100, times)
