"""Strangers' files are refused by a line, before memory is taken."""

import json
import tracemalloc
import zipfile

import numpy as np
import pytest
import rasterio

from tfds_dwplus.files import archives
from tfds_dwplus.files.opening import open_raster
from tfds_dwplus.files.shapes import rings_of
from tfds_dwplus.files.strangers import fault_of_name, one_line, parse_json, parse_xml, read_bytes, read_csv


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e999", "out of range"),
        ("[NaN]", "no number"),
        ("9" * 5000, "out of range"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 65 + "]" * 65, "nested too deeply"),
        (json.dumps("\ud800"), "surrogate"),
        ('{"a": 1, "a": 2}', "twice"),
        (b"\xff", "not text"),
        ("{", "not JSON"),
    ],
)
def test_json_that_is_refused(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(text, "a.json")
    assert str(caught.value).startswith("a.json is") and "\n" not in str(caught.value)


def test_json_that_is_read():
    assert parse_json('{"a": [1, 1.5, "\N{EURO SIGN}", null, -9223372036854775808]}', "a") == {
        "a": [1, 1.5, "\N{EURO SIGN}", None, -(2**63)]
    }
    assert parse_json(str(10**30), "a") == 1e30 and isinstance(parse_json(str(10**30), "a"), float)
    assert np.isinf(parse_json("1e999", "a", finite=False)) and parse_json(json.dumps("\ud800"), "a", unpaired=True)
    assert parse_json(b"\xef\xbb\xbf[]", "a") == []


@pytest.mark.parametrize(
    "name",
    ["", " ", "..", "../a", "/a", "a/b", "a\\b", ".a", "a\0", "a\nb", "a\x1b[2J", "a\ud800", "x" * 201, "\N{SNOWMAN}" * 67, "con", "NUL.b"],
)  # fmt: skip
def test_names_that_are_none(name):
    assert fault_of_name(name)


@pytest.mark.parametrize(
    "name", ["dw_-1.5_2-20190101", "S2A_T33", "a b", "\N{SNOWMAN}", "x" * 200, "console", "a..b", "-a"]
)
def test_names_of_tiles(name):
    assert not fault_of_name(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1," + b"x" * 70_000, "no line of a table"),
        (b"a,b\n1," + b"x" * 2_000_000, "characters, expected"),
        (b"a,b\n1,2,3\n", "line 2 has 3 fields"),
        (b"a,b\n\xff\n", "UTF-8"),
    ],
)
def test_tables_that_are_refused(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_csv(tmp_path / "a.csv")


def test_files_that_do_not_end(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", 5) == b"12345"
    for path, most in ((tmp_path / "a", 4), (tmp_path, 4)):
        with pytest.raises((ValueError, OSError)):
            read_bytes(path, most)


LAUGHS = b'<!DOCTYPE l [<!ENTITY a "' + b"x" * 1000 + b'"><!ENTITY b "&a;&a;">]><r>&b;</r>'


@pytest.mark.parametrize(
    "content",
    [
        LAUGHS,
        b'<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/passwd">]><r>&a;</r>',
        b"<a>" * 200 + b"</a>" * 200,
        b'<?xml version="1.0" encoding="none"?><a/>',
        b"",
        b"<a><b></a>",
    ],
)
def test_xml_that_is_refused(content):
    with pytest.raises(ValueError, match="is not XML") as caught:
        parse_xml(content, "a.xml")
    assert "\n" not in str(caught.value)


def test_xml_is_read_as_by_python():
    root = parse_xml(b'<!DOCTYPE qgis><n:r xmlns:n="u" n:a="1">x<b c="&lt;"/>y</n:r>', "a.xml")
    assert (root.tag, root.attrib, root.text, root[0].attrib["c"], root[0].tail) == (
        "{u}r",
        {"{u}a": "1"},
        "x",
        "<",
        "y",
    )


def test_a_member_of_gigabytes_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file, file.open("a", "w") as member:
        for _ in range(64):
            member.write(b" " * (1 << 20))
    tracemalloc.start()
    with (
        archives.opened(tmp_path / "a.zip") as archive,
        pytest.raises(ValueError, match="67108864 bytes, expected 1000"),
    ):
        archives.read_member(archive, "a", 1000)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_a_member_that_is_larger_than_it_says(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", b" " * 100_000)
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace((100_000).to_bytes(4, "little"), (500).to_bytes(4, "little")))
    with archives.opened(tmp_path / "a.zip") as archive, pytest.raises(ValueError, match=r"a of .*a\.zip"):
        archives.read_member(archive, "a", 1000)


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "C:/a", "a\\..\\b"])
def test_members_that_lead_out_of_their_zip(name):
    assert "leads out" in archives.fault_of_member(zipfile.ZipInfo(name))


def test_arrays_that_claim_more_than_they_hold(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros((3, 2)), b=np.array(["x"]))
    read = archives.read_arrays(tmp_path / "a.npz", 10_000)
    assert read["a"].shape == (3, 2) and read["b"].tolist() == ["x"]
    with pytest.raises(ValueError, match="more than 10 bytes"):
        archives.read_arrays(tmp_path / "a.npz", 10)
    with zipfile.ZipFile(tmp_path / "a.npz") as file:
        content = file.read("a.npy")
    for place, header in enumerate((b"(99, 2)", b"(9**9, )", b"((((((", b"(-3, -2)", b"(3, 2.5)")):
        with zipfile.ZipFile(tmp_path / "b.npz", "w") as file:
            padding = b" " * (len(header) - len(b"(3, 2)"))
            file.writestr(f"{place}.npy", content.replace(b"(3, 2)", header).replace(padding + b"\n", b"\n"))
        with pytest.raises(ValueError, match="damaged"):
            archives.read_arrays(tmp_path / "b.npz", 10_000)
    np.savez(tmp_path / "c.npz", a=np.array([{}], object))
    with pytest.raises(ValueError, match="damaged"):
        archives.read_arrays(tmp_path / "c.npz", 10_000)


@pytest.mark.parametrize(
    "geometry",
    [
        None,
        [],
        {"type": "Polygon", "coordinates": [["x"]]},
        {"type": "Polygon", "coordinates": [[None]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1e308, 1]]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1]]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [True, 0], [1, 1]]]},
        {"type": ["Polygon"], "coordinates": []},
        {"type": "Polygon", "coordinates": [[[0, 0]] * 1001]},
    ],
)
def test_geometries_that_are_none(geometry):
    with pytest.raises(ValueError) as caught:
        rings_of(geometry, 1000)
    assert "\n" not in str(caught.value)


def test_a_block_of_gigabytes_is_not_read(tmp_path):
    """The raster has 16 pixels; GDAL would take the memory of a whole block."""
    block = {"tiled": True, "blockxsize": 32768, "blockysize": 32768, "sparse_ok": True}
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=4, height=4, count=1, dtype="float32", transform=rasterio.Affine(10, 0, 0, 0, -10, 0), **block
    ):  # fmt: skip
        pass
    with pytest.raises(ValueError, match="its blocks have 32768 x 32768 pixels"):
        open_raster(tmp_path / "a.tif")


def test_a_line_is_one():
    assert one_line("a\n b\x1b[2J") == "a b?[2J" and len(one_line("x" * 10_000)) == 300
