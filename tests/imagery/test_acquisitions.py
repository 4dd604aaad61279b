"""Imagery out of a STAC API against composites computed here, pixel by pixel."""

import contextlib
import dataclasses
import datetime
import http.server
import socket
import threading

import numpy as np
import pytest
import rasterio
import requests
from local_archive import (
    Archive,
    add_backscatter,
    add_pakistan,
    add_simulated,
    files_served,
    sampled,
    stac,
    stac_served,
    tile,
)

from tfds_dwplus import bands
from tfds_dwplus.imagery import stac_api
from tfds_dwplus.imagery.acquisitions import (
    ArchiveError,
    NoImageryError,
    SceneMetadata,
    Wanted,
    ranked_takes,
)
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.items.footprints import covered_share
from tfds_dwplus.imagery.stac import stac_imagery
from tfds_dwplus.imagery.stac_api import Collection, check_collections

PAKISTAN = Grid.parse("EPSG:32643", (10.0, 0.0, 336100.0, 0.0, -10.0, 3372000.0), 300, 300)
NORTH = Grid.parse("EPSG:32633", (10.0, 0.0, 705000.0, 0.0, -10.0, 4700000.0), 128, 128)
SOUTH = Grid.parse("EPSG:32755", (10.0, 0.0, 500000.0, 0.0, -10.0, 6100000.0), 128, 128)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(stac_api, "BACK_OFF_S", (0.0, 0.0))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    with files_served(folder, tmp_path_factory.mktemp("control")) as files:
        yield Archive(folder, files)


@pytest.fixture(scope="module")
def pakistan(archive, real, tmp_path_factory):
    add_pakistan(archive, real)
    with stac_served(archive.items, tmp_path_factory.mktemp("api")) as url:
        yield archive, url


@pytest.fixture(scope="module")
def simulated(archive, tmp_path_factory):
    """Scenes about `NORTH` and `SOUTH`. Of the north, one pass is on the next zone's grid, and one is in two slices."""
    add_simulated(archive, 0, NORTH.crs, 704900.0, 4700100.0, **{"s2:processing_baseline": "02.08"})
    add_simulated(archive, 1, SOUTH.crs, 499900.0, 6100100.0, **{"s2:processing_baseline": "02.08"})
    (x,), (y,) = rasterio.warp.transform(NORTH.crs, "EPSG:32634", [705640.0], [4699360.0])
    left, top = round(x, -1) - 1000, round(y, -1) + 1000
    add_backscatter(archive, "pass_a", "2019-05-01T05:00:00Z", NORTH.crs, 704903.0, 4700104.0)
    add_backscatter(archive, "pass_b", "2019-05-13T05:00:00Z", "EPSG:32634", left, top)
    for name, minute, rows in (("slice_1c", 0, slice(0, 90)), ("slice_2c", 1, slice(80, 200))):
        add_backscatter(archive, name, f"2019-05-25T05:0{minute}:00Z", NORTH.crs, 704900.0, 4700100.0, rows)
    up = {"sat:orbit_state": "ascending"}
    add_backscatter(archive, "pass_d", "2019-05-02T17:00:00Z", NORTH.crs, 704900.0, 4700100.0, **up)
    add_backscatter(archive, "late_e", "2019-12-30T05:00:00Z", NORTH.crs, 704900.0, 4700100.0)
    add_backscatter(
        archive, "wide_f", "2019-05-03T05:00:00Z", NORTH.crs, 704900.0, 4700100.0, **{"sar:instrument_mode": "EW"}
    )
    add_backscatter(archive, "south_g", "2019-05-03T05:00:00Z", SOUTH.crs, 499900.0, 6100100.0)
    with stac_served(archive.items, tmp_path_factory.mktemp("api")) as url:
        yield archive, stac(url, "simulated-s2", "simulated-s1", "power")


def composite(archive, collection, names, grid, to_linear, mean="dB"):
    """The mean of scenes, each a tuple of slices of which the first that has a pixel gives it; and where it must be valid."""
    scenes = []
    for slices in names:
        scene = np.full((grid.height, grid.width, 2), np.nan)
        for name in slices:
            for place, key in enumerate(("VV", "VH")):
                found = (archive.folder / collection / name / f"{key}.tif").exists()
                values, transform, crs = archive.raster(collection, name, key if found else key.lower())
                power, _ = sampled(to_linear(values), transform, crs, grid)
                scene[..., place] = np.where(np.isnan(scene[..., place]), power, scene[..., place])
        scenes.append(scene)
    values = 10 * np.log10(scenes) if mean == "dB" else np.array(scenes)
    whole = np.isfinite(values).all(axis=0)
    values = values.mean(axis=0)
    return values if mean == "dB" else 10 * np.log10(values), whole


@pytest.mark.parametrize(
    ("level", "name"),
    [("L1C", "20200604T054639_20200604T054831_T43RCP"), ("L2A", "20200604T054639_20200604T054831_T43RCP")],
)
def test_real_scene_equals_the_composite_of_its_files(pakistan, level, name):
    archive, url = pakistan
    collection = f"s2_{level.lower()}"
    place = tile("2020-06-04", PAKISTAN, product="S2B_MSIL2A_20200604T054639_N0214_R048_T43RCP_20200604T094332")
    result = stac_imagery(place, PAKISTAN, Wanted(s2_level=level), stac(url, collection, "s1", "db"))
    for index, band in enumerate(bands.S2_BANDS):
        expected, inside = sampled(*archive.raster(collection, name, band), PAKISTAN)
        assert inside.mean() > 0.5
        assert np.abs(result.s2[..., index][inside] - expected[inside]).max() <= 1
    descending = "S1A_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904_03CFBA_D457"
    expected, whole = composite(archive, "s1", [(descending,)], PAKISTAN, lambda db: 10 ** (db / 10))
    assert whole.mean() > 0.5
    assert np.abs(result.s1[whole] - expected[whole]).max() < 0.01
    assert result.columns == {
        "s2_item": name,
        "s2_baseline": {"L1C": "02.09", "L2A": "02.14"}[level],
        "s2_offset": "0",
        "s2_date": "2020-06-04",
        "s2_level": level,
        "s1_source": "s1 sigma0",
        "s1_unit": "sigma0 dB",
        "s1_orbit": "descending",
        "s1_mean": "dB",
        "s1_scenes": "1",
        "s1_dates": "2020-06-07",
        "s1_items": descending,
    }
    assert not result.warnings


@pytest.mark.parametrize("mean", ["dB", "power"])
def test_both_orbits_of_the_real_scene(pakistan, mean):
    archive, url = pakistan
    result = stac_imagery(
        tile("2020-06-04", PAKISTAN), PAKISTAN, Wanted(s1_orbit="both", s1_mean=mean), stac(url, "s2_l1c", "s1", "db")
    )
    names = sorted(path.name for path in (archive.folder / "s1").iterdir())
    expected, whole = composite(archive, "s1", [(n,) for n in names], PAKISTAN, lambda db: 10 ** (db / 10), mean)
    assert np.abs(result.s1[whole] - expected[whole]).max() < 0.01
    assert result.columns["s1_dates"] == "2020-06-07 2020-09-03" and result.columns["s1_mean"] == mean


def test_ascending_alone_and_a_window_without_a_scene(pakistan):
    _, url = pakistan
    place, archive = tile("2020-06-04", PAKISTAN), stac(url, "s2_l1c", "s1", "db")
    assert stac_imagery(place, PAKISTAN, Wanted(s1_orbit="ascending"), archive).columns["s1_dates"] == "2020-09-03"
    with pytest.raises(NoImageryError, match="0 descending Sentinel-1 scenes of s1 within 2 days of 2020-06-04"):
        stac_imagery(place, PAKISTAN, Wanted(s1_window_days=2), archive)
    with pytest.raises(NoImageryError, match=r"no Sentinel-2 scene within 0 days of 2020-06-05 .*--s2_window_days"):
        stac_imagery(tile("2020-06-05", PAKISTAN), PAKISTAN, Wanted(), archive)


def test_clearest_scene_of_a_window(pakistan):
    """At L2A the later date is the clearer one (1.9 against 4.2 % cloud)."""
    _, url = pakistan
    place, wanted = tile("2020-06-10", PAKISTAN), Wanted(s2_window_days=90)
    chosen = stac_imagery(place, PAKISTAN, wanted, stac(url, "s2_l2a", "s1", "db")).columns["s2_item"]
    assert chosen == "20200813T054639_20200813T054952_T43RCP"
    known = dataclasses.replace(place, s2_product_id="S2B_MSIL2A_20200604T054639_N0214_R048_T43RCP_20200604T094332")
    chosen = stac_imagery(known, PAKISTAN, wanted, stac(url, "s2_l2a", "s1", "db")).columns["s2_item"]
    assert chosen == "20200604T054639_20200604T054831_T43RCP"


def test_passes_of_two_zones_and_in_slices(simulated):
    archive, where = simulated
    result = stac_imagery(tile("2019-05-05", NORTH), NORTH, Wanted(), where)
    assert result.columns["s1_dates"] == "2019-05-01 2019-05-13 2019-05-25"
    names = [("pass_a",), ("pass_b",), ("slice_1c", "slice_2c")]
    expected, whole = composite(archive, "simulated-s1", names, NORTH, lambda power: np.where(power > 0, power, np.nan))
    assert whole.mean() > 0.8
    assert np.abs(result.s1[whole] - expected[whole]).max() < 0.01
    for index, band in enumerate(bands.S2_BANDS):
        key = f"B{int(band[1:]):02d}"
        expected, inside = sampled(*archive.raster("simulated-s2", "S2A_0", key), NORTH)
        clear = inside & (result.s2[..., index] > 0)
        assert clear.mean() > 0.8
        # Where a pixel without data is near, the others share its weight; elsewhere, all four count.
        near_nodata = np.abs(result.s2[..., index][clear] - expected[clear]) > 1
        assert near_nodata.mean() < 0.01


def test_planetary_computers_signature_leaves_other_archives_alone(simulated):
    """Only that its library takes our items: what it signs cannot be reached from a test."""
    pytest.importorskip("planetary_computer", reason="the extra acquire is not installed")
    where = simulated[1]
    signed = dataclasses.replace(where.s2, signed=True, url=where.s2.url + "/")
    place = tile("2019-05-05", SOUTH)
    result = stac_imagery(place, SOUTH, Wanted(), dataclasses.replace(where, s2=signed))
    np.testing.assert_array_equal(result.s2, stac_imagery(place, SOUTH, Wanted(), where).s2)


def test_the_offset_of_baseline_04_is_taken_off_by_metadata(archive, simulated, tmp_path):
    twin = next(item for item in archive.items if item["id"] == "S2A_1")
    plus = Archive(archive.folder, archive.files)
    rasters = {}
    for key in twin["assets"]:
        values, transform, crs = archive.raster("simulated-s2", "S2A_1", key)
        rasters[key] = (np.where(values > 0, values + 1000, 0).astype(np.uint16), transform, crs, 0)
    told = {"s2:processing_baseline": "04.00", "eo:cloud_cover": 0.0}
    plus.add("plus", "told", "2019-05-05T10:00:00Z", rasters, **told)
    plus.add("untold", "untold", "2019-05-05T10:00:00Z", rasters)
    s1 = [item for item in archive.items if item["id"] == "south_g"]
    place, without = tile("2019-05-05", SOUTH), stac_imagery(tile("2019-05-05", SOUTH), SOUTH, Wanted(), simulated[1])
    with stac_served(plus.items + s1, tmp_path) as url:
        result = stac_imagery(place, SOUTH, Wanted(), stac(url, "plus", "simulated-s1", "power"))
        np.testing.assert_array_equal(result.s2, without.s2)
        untold = stac_imagery(place, SOUTH, Wanted(), stac(url, "untold", "simulated-s1", "power"))
        assert "--s2_offset_in_doubt 1000" in untold.warnings[0]
        assert (untold.s2.astype(int) - without.s2)[without.s2 > 1].min() == 1000
        for said in (Wanted(s2_offset=1000), Wanted(s2_offset_in_doubt=1000)):
            known = stac_imagery(place, SOUTH, said, stac(url, "untold", "simulated-s1", "power"))
            np.testing.assert_array_equal(known.s2, without.s2)
            assert known.columns["s2_offset"] == "1000"


def test_faults_of_an_archive_are_told_in_a_line(archive, simulated, tmp_path):
    _, where = simulated
    place = tile("2019-05-05", NORTH)
    archive.files.set(refused="simulated-s1")
    with pytest.raises(ArchiveError, match=r"pass_a/vv\.tif: .*403.*signature has expired") as refused:
        stac_imagery(place, NORTH, Wanted(), where)
    archive.files.set()
    assert "SECRET" not in str(refused.value) and "\n" not in str(refused.value)
    stac_imagery(place, NORTH, Wanted(), where)  # and no refusal is remembered
    with pytest.raises(ValueError, match=r"holds values from .* --s1_unit power"):
        stac_imagery(place, NORTH, Wanted(), dataclasses.replace(where, s1_unit="db"))
    with pytest.raises(ValueError, match="no asset for band B10; it has B02, B03"):
        stac_imagery(place, NORTH, Wanted(s2_bands=("B2", "B10")), where)
    mapped = dataclasses.replace(where, s2=dataclasses.replace(where.s2, assets=(("B2", "B8"), ("B3", "nothing"))))
    with pytest.raises(ValueError, match="no asset nothing"):
        stac_imagery(place, NORTH, Wanted(s2_bands=("B3",)), mapped)
    with pytest.raises(ValueError, match="has no collection 'sentinel-9'"):
        check_collections(dataclasses.replace(where, s1=Collection(where.s1.url, "sentinel-9")))


def test_an_api_that_is_not_there_or_says_nothing(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ValueError, match=rf"no STAC API answers at {url}: .*timed out.*--stac_url"):
            check_collections(stac(url, "a", "b", "db", timeout_s=0.5))
    with pytest.raises(ValueError, match=r"no STAC API answers at .*refused"):
        check_collections(stac(url, "a", "b", "db", timeout_s=0.5))


@contextlib.contextmanager
def stumbling(url: str, refused: str, answer: bytes | None):
    """The API at `url` behind a server that answers requests of a path with an error page, other bytes or, if None, nothing."""
    enough = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.partition("?")[0] != refused:
                found = requests.request(self.command, url + self.path, data=self.body(), headers=JSON)
                self.answer(200, found.content.replace(url.encode(), self.server.url.encode()))
            elif answer is None:
                enough.wait()
            else:
                self.answer(500 if answer.startswith(b"<") else 200, answer)

        def do_POST(self):
            self.do_GET()

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.url
        finally:
            enough.set()
            server.shutdown()
            thread.join()


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("path", "answer", "message"),
    [
        ("/search", b"<!DOCTYPE HTML><h1>Error</h1>", "the search of .* failed: HTTP 500: a page of HTML$"),
        ("/search", b"busy", "the search of .* failed: its answer is not JSON"),
        ("/search", None, "the search of .* failed: timed out$"),
        ("/collections/simulated-s2", None, "does not answer: timed out; try again later$"),
    ],
)
def test_an_api_that_stumbles_in_the_middle(simulated, path, answer, message):
    with stumbling(simulated[1].s2.url, path, answer) as url:
        where = stac(url, "simulated-s2", "simulated-s1", "power", timeout_s=0.5)
        with pytest.raises(ArchiveError if path == "/search" else ValueError, match=message):
            check_collections(where)
            stac_imagery(tile("2019-05-05", NORTH), NORTH, Wanted(), where)


def test_a_scene_that_covers_the_tile_goes_before_a_clearer_one():
    time = datetime.datetime(2020, 6, 4, 5, tzinfo=datetime.UTC)

    def box(west, east):
        return {"type": "Polygon", "coordinates": [[[west, 30], [east, 30], [east, 31], [west, 31], [west, 30]]]}

    half = tile("2020-06-04", PAKISTAN).lon
    assert covered_share(box(73, 74), PAKISTAN) == 1 and covered_share(None, PAKISTAN) == 1
    assert covered_share(box(73, half), PAKISTAN) == pytest.approx(0.5, abs=0.03)
    assert covered_share(box(72, 73), PAKISTAN) == 0
    scenes = [
        SceneMetadata("a", time, 0.0, box(73, half)),
        SceneMetadata("b", time, 9.0, box(73, 74)),
        SceneMetadata("c", time, 8.0, box(73, 74)),
    ]
    assert ranked_takes(scenes, tile("2020-06-04", PAKISTAN), PAKISTAN, 0)[0][0] == 2
    with pytest.raises(NoImageryError):
        ranked_takes([SceneMetadata("far", time, 0.0, box(72, 73))], tile("2020-06-04", PAKISTAN), PAKISTAN, 0)
