"""What makes an input another one: files behind VRTs, in zips, beside rasters and on servers. What does not."""

import contextlib
import http.server
import os
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from small_scenes import write

from tfds_dwplus.imagery.inputs import fingerprints
from tfds_dwplus.imagery.inputs.fingerprints import changed, fingerprint
from tfds_dwplus.imagery.inputs.source_files import check_not_overwritten

VRT = (
    '<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
    '<SourceFilename relativeToVRT="{relative}">{source}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
)


def vrt(path: Path, source: str | Path, relative: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(VRT.format(source=source, relative=relative))
    return path


def numbers(value: int) -> np.ndarray:
    return np.full((4, 4), value, np.uint16)


def zipped(path: Path, raster: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(raster, "inner.tif")
    return path


def product(folder: Path, offset: int) -> Path:
    write(folder / "GRANULE/L2A/IMG_DATA/T30_B02_10m.tif", numbers(1))
    (folder / "MTD_MSIL2A.xml").write_text(
        f"<a><BOA_QUANTIFICATION_VALUE>10000</BOA_QUANTIFICATION_VALUE>{' ' * offset}</a>"
    )
    return folder


def later(path: Path) -> None:
    """A file that was written again within the clock's step has another time all the same."""
    os.utime(path, ns=(time.time_ns(), time.time_ns() + 10**9))


CHANGES = {
    "a file": lambda at: (at / "a.tif", lambda: later(write(at / "a.tif", numbers(2)))),
    "behind a VRT": lambda at: (vrt(at / "a.vrt", at / "a.tif", 0), lambda: later(write(at / "a.tif", numbers(2)))),
    "from the root, though relative": lambda at: (vrt(at / "a.vrt", at / "a.tif", 1), lambda: later(write(at / "a.tif", numbers(2)))),
    "relative to a VRT": lambda at: (vrt(at / "b/a.vrt", "../a.tif", 1), lambda: later(write(at / "a.tif", numbers(2)))),
    "behind two VRTs": lambda at: (
        vrt(at / "b.vrt", vrt(at / "sub/a.vrt", "../a.tif", 1).relative_to(at), 1),
        lambda: later(write(at / "a.tif", numbers(2))),
    ),
    "a zip behind a VRT": lambda at: (
        vrt(at / "a.vrt", f"/vsizip/{zipped(at / 'a.zip', at / 'a.tif')}/inner.tif", 0),
        lambda: later(zipped(at / "a.zip", write(at / "b.tif", numbers(2)))),
    ),
    "in a zip": lambda at: (
        f"/vsizip/{zipped(at / 'a.zip', at / 'a.tif')}/inner.tif",
        lambda: later(zipped(at / "a.zip", write(at / "b.tif", numbers(2)))),
    ),
    "a VRT": lambda at: (vrt(at / "a.vrt", at / "a.tif", 0), lambda: vrt(at / "a.vrt", write(at / "b.tif", numbers(2)), 0)),
    "a link": lambda at: (
        (at / "link.tif", (at / "link.tif").symlink_to(at / "a.tif"))[0],
        lambda: ((at / "link.tif").unlink(), (at / "link.tif").symlink_to(write(at / "b.tif", numbers(2)[:3]))),
    ),
    "a mask beside it": lambda at: (at / "a.tif", lambda: write(at / "a.tif.msk", np.zeros((4, 4), np.uint8))),
    "an offset beside it": lambda at: (
        at / "a.tif",
        lambda: (at / "a.tif.aux.xml").write_text('<PAMDataset><PAMRasterBand band="1"><Offset>-1</Offset></PAMRasterBand></PAMDataset>'),
    ),
    "metadata of a product": lambda at: (product(at / "p.SAFE", 0), lambda: later(product(at / "p.SAFE", 1) / "MTD_MSIL2A.xml")),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_seen(tmp_path, change):
    write(tmp_path / "a.tif", numbers(1))
    path, change_it = CHANGES[change](tmp_path)
    before = fingerprint([path])
    assert changed(before, fingerprint([path])) == []
    change_it()
    assert changed(before, fingerprint([path]))


def test_what_viewers_write_is_no_change(tmp_path):
    path = write(tmp_path / "a.tif", numbers(1))
    before = fingerprint([path, vrt(tmp_path / "a.vrt", path, 0)])
    write(tmp_path / "a.tif.ovr", numbers(1)[:2, :2])
    counts = '<Histograms><HistItem/></Histograms><Metadata><MDI key="STATISTICS_MEAN">1</MDI></Metadata>'
    (tmp_path / "a.tif.aux.xml").write_text(
        f'<PAMDataset><PAMRasterBand band="1">{counts}</PAMRasterBand></PAMDataset>'
    )
    (tmp_path / "a.vrt").write_text(
        (tmp_path / "a.vrt").read_text().replace("</VRTRasterBand>", f"{counts}</VRTRasterBand>")
    )
    assert changed(before, fingerprint([path, tmp_path / "a.vrt"])) == []


def test_other_inputs_and_damaged_records(tmp_path):
    paths = [write(tmp_path / name, numbers(1)) for name in ("a.tif", "b.tif")]
    assert changed(fingerprint(paths[:1]), fingerprint(paths[1:])) is None
    assert changed(fingerprint(paths), fingerprint(paths[::-1])) is None  # bands may be named by position
    for damaged in (None, [], [["a", []]], {"a": 1}, [1], "no"):
        assert changed(damaged, fingerprint(paths)) is None


class Server:
    """Files on a server: path -> answer. Keeps what was asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self.refuses: dict[str, int] = {}
        self.ranges, self.asked, self.sent = True, [], 0
        served = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.answer(self)

            def do_HEAD(self) -> None:
                served.answer(self)

            def log_message(self, *_: object) -> None: ...

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, asked: http.server.BaseHTTPRequestHandler) -> None:
        path = asked.path.partition("?")[0]
        self.asked.append((asked.command, path))
        if asked.command in self.refuses:
            return asked.send_error(self.refuses[asked.command])
        if path not in self.files:
            return asked.send_error(404)
        body = self.files[path]
        first, last = 0, len(body) - 1
        if self.ranges and (span := asked.headers.get("Range")):
            first, last = (int(text) for text in span.removeprefix("bytes=").split("-"))
            asked.send_response_only(206)
            asked.send_header("Content-Range", f"bytes {first}-{min(last, len(body) - 1)}/{len(body)}")
        else:
            asked.send_response_only(200)
        part = body[first : last + 1]
        for name, text in {"Content-Length": str(len(part)), **self.headers}.items():
            asked.send_header(name, text)
        asked.end_headers()
        if asked.command == "GET":
            with contextlib.suppress(ConnectionError):
                asked.wfile.write(part)
                self.sent += len(part)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fingerprints, "WAITS_S", (0, 0))
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.files["/a.tif"] = bytes(300_000)
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.mark.parametrize(
    "fact",
    [{"ETag": '"1"'}, {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, {}],
    ids=["etag", "time", "nothing told"],
)
def test_changes_on_a_server(server, fact, tmp_path):
    """Whole files differ in their last bytes only, which is seen where the server tells nothing of them."""
    server.headers = fact
    address = f"{server.url}/a.tif?sig=1"
    before = fingerprint([address])
    assert "sig" not in str(before)
    for same in (address, f"{server.url}/a.tif?sig=renewed"):
        assert changed(before, fingerprint([same])) == []
    server.headers = {name: text.replace("1", "2") for name, text in fact.items()}
    server.files["/a.tif"] = bytes(299_999) + b"1"
    assert changed(before, fingerprint([address])) == [f"{server.url}/a.tif"]
    virtual = vrt(tmp_path / "a.vrt", f"/vsicurl/{address}", 0)
    before = fingerprint([virtual])
    vrt(tmp_path / "a.vrt", f"/vsicurl/{server.url}/a.tif?sig=renewed", 0)
    assert changed(before, fingerprint([virtual])) == []
    server.files["/a.tif"] = bytes(9)
    assert changed(before, fingerprint([virtual])) == [f"{server.url}/a.tif"]


def test_little_is_asked(server):
    """Some servers refuse HEAD, as an address may be signed for GET; some know no ranges. No file is read whole."""
    server.files["/a.tif"] = bytes(50_000_000)
    for server.ranges in (True, False):
        for server.refuses in ({"HEAD": 405}, {"GET": 403}):
            assert fingerprint([f"{server.url}/a.tif"])[0][1][f"{server.url}/a.tif"]["size"] == 50_000_000
    assert server.sent < 20_000_000
    assert all(path in ("/a.tif", "/a.tif.msk", "/a.tif.aux.xml") for _, path in server.asked)


def test_a_server_that_refuses_does_not_change_a_file(server, monkeypatch):
    monkeypatch.setattr(fingerprints, "_told_by_gdal", lambda _: {})
    before = fingerprint([f"{server.url}/a.tif"])
    for refused in (403, 429, 500):
        server.refuses = {"GET": refused, "HEAD": refused}
        unknown = fingerprint([f"{server.url}/a.tif"])
        assert unknown[0][1][f"{server.url}/a.tif"] == {}
        assert changed(before, unknown) == [] and changed(unknown, before) == []
    server.refuses = {}
    server.files["/a.tif.msk"] = b"mask"
    assert changed(before, fingerprint([f"{server.url}/a.tif"])) == [f"{server.url}/a.tif.msk"]
    server.headers = {"Content-Type": "text/html"}  # a page in place of the mask: there is none
    assert changed(before, fingerprint([f"{server.url}/a.tif"])) == []


def test_where_only_gdal_can_read(tmp_path):
    """As from a bucket that asks for an account: by where the blocks lie."""
    noise = np.random.default_rng(0).integers(0, 9, (64, 64), np.uint16)
    one = fingerprints._told_by_gdal(str(write(tmp_path / "a.tif", noise, compress="deflate")))
    assert one == fingerprints._told_by_gdal(str(write(tmp_path / "a.tif", noise, compress="deflate")))
    assert one != fingerprints._told_by_gdal(str(write(tmp_path / "a.tif", noise * 7, compress="deflate")))


def test_no_file_of_an_input_is_written_over(tmp_path):
    path = write(tmp_path / "a.tif", numbers(1))
    virtual = vrt(tmp_path / "a.vrt", "a.tif", 1)
    with pytest.raises(ValueError, match=r"a.tif is an input \(a file of .*a.vrt\), and would be overwritten"):
        check_not_overwritten([path], [virtual])
    mask = write(tmp_path / "map.tif.msk", np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"reads .*map.tif.msk as a part of .*map.tif, so that it would be removed"):
        check_not_overwritten([tmp_path / "map.tif"], [path, mask])
    check_not_overwritten([tmp_path / "map.tif", tmp_path / "sure.tif"], [virtual, "https://nowhere.example/a.tif"])
