"""Vector files of each kind say the same, and what is none is told in a line."""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyogrio
import pytest
import shapely
from drawn_labels import feature, geojson, square
from pyarrow import parquet
from rasterio.crs import CRS

from tfds_dwplus.vectors.vector_files import read_vectors, text_of

SQUARES = shapely.to_wkb([shapely.box(x, 0, x + 1, 1) for x in range(3)])
VALUES = np.array(["wheat", None, "maize"], object)


def write(path: Path, layer: str = "", driver: str | None = None, crs: str | None = "EPSG:32643", **columns) -> Path:
    columns = columns or {"crop": VALUES}
    more = {"layer": layer} if layer else {}
    pyogrio.raw.write(
        path, SQUARES, list(columns.values()), list(columns), geometry_type="Polygon", crs=crs, driver=driver, append=path.exists(), **more
    )  # fmt: skip
    return path


def write_parquet(path: Path, **geo) -> Path:
    column = {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": None} | geo
    column = {name: value for name, value in column.items() if value != "absent"}
    tree = {"version": "1.1.0", "primary_column": "place", "columns": {"place": column}}
    table = pyarrow.table({"crop": list(VALUES), "place": list(SQUARES)})
    parquet.write_table(table.replace_schema_metadata({"geo": json.dumps(tree)}), path)
    return path


@pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.geojson", "a.fgb", "a.parquet"])
def test_each_kind_says_the_same(name, tmp_path):
    crs = "EPSG:4326" if name in ("a.geojson", "a.parquet") else "EPSG:32643"
    path = write_parquet(tmp_path / name, crs="absent") if name == "a.parquet" else write(tmp_path / name, crs=crs)
    vectors, notes = read_vectors(path, "", "crop")
    assert sorted(vectors.values) == ["", "maize", "wheat"]
    assert vectors.crs in (CRS.from_string(crs), CRS.from_user_input("OGC:CRS84"))
    found = [vectors.wkb[vectors.values.index(value)] for value in ("wheat", "", "maize")]
    assert shapely.equals(shapely.from_wkb(found), shapely.from_wkb(SQUARES)).all()
    assert not notes


def test_numbers_are_text_without_a_point(tmp_path):
    path = write(tmp_path / "a.gpkg", code=np.array([1.0, 2.5, np.nan]), number=np.array([1, 20, 3], np.int64))
    assert read_vectors(path, "", "code")[0].values == ["1", "2.5", ""]
    assert read_vectors(path, "", "number")[0].values == ["1", "20", "3"]
    assert [text_of(value) for value in (True, " a \n b ", "", np.datetime64("NaT"), 1e300)] == [
        "true",
        "a b",
        "",
        "",
        "1e+300",
    ]


def test_a_layer_is_chosen_by_name(tmp_path):
    path = write(write(tmp_path / "a.gpkg", "fields"), "trees")
    assert len(read_vectors(path, "trees", "crop")[0].values) == 3
    with pytest.raises(ValueError, match="has 2 layers; give --layer with one of fields, trees"):
        read_vectors(path, "", "crop")
    with pytest.raises(ValueError, match=r"has no layer 'field'; did you mean 'fields'\? Its layers are fields, trees"):
        read_vectors(path, "field", "crop")
    with pytest.raises(ValueError, match=r"has no field 'Crops'; did you mean 'crop'\? Its fields are crop"):
        read_vectors(path, "trees", "Crops")


def test_a_crs_is_asked_for_and_goes_before_the_files_own(tmp_path):
    path = write(tmp_path / "a.shp", crs="EPSG:32643")
    vectors, notes = read_vectors(path, "", "crop", "EPSG:32644")
    assert vectors.crs == CRS.from_epsg(32644)
    assert len(notes) == 1 and "is taken to be in EPSG:32644, as given" in notes[0]
    path.with_suffix(".prj").unlink()
    with pytest.raises(ValueError, match="does not say its CRS; give it: --labels_crs EPSG:4326 if"):
        read_vectors(path, "", "crop")
    assert read_vectors(path, "", "crop", "EPSG:32643")[0].crs == CRS.from_epsg(32643)
    for given in ("EPSG:999999", "/etc/passwd", "http://a.b/c"):
        with pytest.raises(ValueError, match=r"--labels_crs .* is no CRS"):
            read_vectors(path, "", "crop", given)


VRT = b'<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>/etc/hosts</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>'

NONE = {
    "a.gpkg": (b"", "is not a vector file that is known"),
    "b.gpkg": (b"SQLite format 3\0" + bytes(200), "cannot be read"),
    "a.txt": (b"crop\nwheat\n", "is not a vector file that is known"),
    "a.vrt": (VRT, "is not a vector file that is known"),
    "vrt.geojson": (VRT, "is not a vector file that is known"),
    "a.gdalg.json": (b'{"type": "gdal_streamed_alg", "command_line": "gdal vector pipeline ! read x"}', "'gdal_streamed_alg', expected GeoJSON"),
    "a.geojson": (b'{"type": "FeatureCollection", "features": [', "is not JSON"),
    "deep.geojson": (b'{"type": "Polygon", "coordinates": ' + b"[" * 90 + b"]" * 90 + b"}", "nested too deeply"),
    "empty.geojson": (b'{"type": "FeatureCollection", "features": []}', "no field|no feature|no layer"),
    "a.zip": (b"PK\3\4", "is a zip"),
    "a.shp": (b"\0\0\x27\x0a" + bytes(96), "cannot be read"),
    "a.parquet": (b"PAR1 and no more", "cannot be read"),
    "a.dbf": (b"\3", "the .shp beside a.dbf"),
}  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_vector_file_is_told_in_a_line(name, tmp_path):
    content, message = NONE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_vectors(tmp_path / name, "", "crop")
    assert "\n" not in str(error.value) and name in str(error.value)


def test_other_kinds_are_read_when_told_to(tmp_path):
    path = write(tmp_path / "a.gml", driver="GML")
    with pytest.raises(ValueError, match="--any_vector_file reads what else GDAL knows"):
        read_vectors(path, "", "crop")
    assert len(read_vectors(path, "", "crop", anything=True)[0].values) == 3
    with pytest.raises(ValueError, match="no file"):
        read_vectors(tmp_path / "b.gpkg", "", "crop")
    with pytest.raises(ValueError, match="is a folder"):
        read_vectors(tmp_path, "", "crop")


def test_geoparquet_of_other_kinds_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    for geo, message in (
        ({"encoding": "polygon"}, "geometries encoded as 'polygon', expected WKB"),
        ({"crs": None}, "does not say its CRS"),
        ({"crs": {"type": "nothing"}}, "its CRS .* is no CRS"),
        ({"crs": "EPSG:4326"}, "crs is 'EPSG:4326', expected an object"),
    ):
        with pytest.raises(ValueError, match=message):
            read_vectors(write_parquet(path, **geo), "", "crop")
    with pytest.raises(ValueError, match=r"no field 'cro'; did you mean 'crop'"):
        read_vectors(write_parquet(path, crs="absent"), "", "cro")
    with pytest.raises(ValueError, match="has no layers"):
        read_vectors(path, "a", "crop")
    parquet.write_table(pyarrow.table({"crop": ["a"]}), path)
    with pytest.raises(ValueError, match="no GeoParquet"):
        read_vectors(path, "", "crop")


def test_geometries_of_a_geojson_may_be_missing(tmp_path):
    path = geojson(tmp_path / "a.geojson", [square(0, 1, 1, crop="a"), feature("", None, crop="b")])
    assert [wkb is None for wkb in read_vectors(path, "", "crop")[0].wkb] == [False, True]
