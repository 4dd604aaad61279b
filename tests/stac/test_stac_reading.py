"""Pixels of STAC items, worked out by hand from how the files were made: offset and scale, dark and missing, parts, lost files."""

import contextlib
import datetime
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio

pytest.importorskip("pystac", reason="the extra acquire is not installed")

import pystac
from local_archive import Files, files_served

from tfds_dwplus.imagery.acquisitions import ArchiveError, ItemError, Wanted
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.items import stac_assets
from tfds_dwplus.imagery.items.stac_assets import kind_of_note
from tfds_dwplus.imagery.stac_api import Collection, StacArchive
from tfds_dwplus.imagery.stac_reading import mean_backscatter, read_sentinel2, scene_classes

CRS, LEFT, TOP, SIZE = "EPSG:32633", 500000, 4700000, 40
GRID = Grid(rasterio.CRS.from_string(CRS), rasterio.Affine(10, 0, LEFT, 0, -10, TOP), SIZE, SIZE)
AS_STORED = rasterio.Affine(10, 0, LEFT, 0, -10, TOP)
ARCHIVE = StacArchive(Collection("http://x", "s2"), Collection("http://x", "s1"), "power", "gamma0", 20.0)
SETTLED = {"s2:processing_baseline": "02.12"}
ADDED = {"s2:processing_baseline": "05.10"}


class Place:
    """A folder behind a web server, and scenes in it."""

    def __init__(self, folder: Path, files: Files) -> None:
        self.folder, self.files = folder, files

    def item(self, name: str, rasters: dict, fields: dict | None = None, transform=AS_STORED, **properties):
        """Writes rasters, each a number or [row, column] or [band, row, column]; gives the item."""
        item = pystac.Item(name, None, None, datetime.datetime(2022, 6, 5, 10, tzinfo=datetime.UTC), properties)
        for key, (values, nodata) in rasters.items():
            values = np.atleast_3d(values) if values.ndim == 3 else values[None]
            profile = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
            path = self.folder / name / f"{key}.tif"
            path.parent.mkdir(exist_ok=True)
            with rasterio.open(path, "w", crs=CRS, transform=transform, nodata=nodata, **profile) as raster:
                raster.write(values)
            href = f"{self.files.url}/{name}/{key}.tif?sig=SECRET"
            item.add_asset(key, pystac.Asset(href, extra_fields=(fields or {}).get(key, (fields or {}).get("*", {}))))
        return item

    def path(self, name: str, key: str) -> Path:
        return self.folder / name / f"{key}.tif"

    def requests(self, what: str) -> int:
        return sum(what in line for line in self.files.requests)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder, control = (tmp_path_factory.mktemp(name) for name in ("files", "control"))
    with files_served(folder, control) as files:
        yield Place(folder, files)


@pytest.fixture
def place(server, caplog):
    """The server, as it should be at the start and the end of a test. No signature may get into a log."""
    yield server
    server.files.set()
    assert not [line for line in map(logging.LogRecord.getMessage, caplog.get_records("call")) if "SECRET" in line]


def flat(value: float, dtype=np.uint16) -> np.ndarray:
    return np.full((SIZE, SIZE), value, dtype)


def halves(left: float, right: float, dtype=np.uint16) -> np.ndarray:
    values = flat(left, dtype)
    values[:, SIZE // 2 :] = right
    return values


@contextlib.contextmanager
def unplaced(path: Path, dtype: str):
    """A new raster without a place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", width=SIZE, height=SIZE, count=1, dtype=dtype) as raster:
            yield raster


def wanted(*names: str, **settings) -> Wanted:
    return Wanted(s2_bands=names or ("B2",), **settings)


def read(items, *names: str, grid=GRID, archive=ARCHIVE, **settings):
    return read_sentinel2(items if isinstance(items, list) else [items], grid, wanted(*names, **settings), archive)


def raster_bands(**said) -> dict:
    return {"*": {"raster:bands": [said]}}


@pytest.mark.parametrize(
    ("name", "values", "nodata", "fields", "number", "offset"),
    [
        ("float", flat(0.15, np.float32), None, raster_bands(scale=1, offset=0), 1500, "0 scale 1"),
        ("landsat", flat(12727), 0, raster_bands(scale=0.0000275, offset=-0.2), 1500, "2000 scale 2.75e-05"),
        ("fine", flat(3000), 0, raster_bands(scale=0.00005, offset=0), 1500, "0 scale 5e-05"),
        ("added", flat(2500), 0, raster_bands(scale=0.0001, offset=-0.1), 1500, "1000"),
    ],
)
def test_numbers_are_stored_times_scale_plus_offset(place, name, values, nodata, fields, number, offset):
    scene = read(place.item(f"scale_{name}", {"B02": (values, nodata)}, fields))
    assert (scene.s2 == number).all() and scene.offset == offset and not scene.notes


def test_the_files_own_tags_are_read(place):
    item = place.item("tags", {"B02": (flat(2500), 0)})
    with rasterio.open(place.path("tags", "B02"), "r+") as raster:
        raster.scales, raster.offsets = (0.0001,), (-0.1,)
    assert (read(item).s2 == 1500).all()


def test_nodata_may_be_in_the_item_alone(place):
    item = place.item("own", {"B02": (halves(-999, 1500, np.int16), None)}, raster_bands(nodata=-999, scale=0.0001))
    assert (read(item, s2_offset=0).s2[0, [0, -1], 0] == (0, 1500)).all()


def test_a_flag_that_the_pixels_contradict(place):
    """Earth Search: the offset was subtracted, and the item says that it was not (Element84/earth-search 66)."""
    said = {"earthsearch:boa_offset_applied": False, **ADDED}
    fields = raster_bands(scale=0.0001, offset=-0.1)
    fields_dark = place.item("flag_fields", {"B02": (halves(300, 2600), 0)}, fields, **said)
    scene = read(fields_dark)
    assert (scene.s2[0, [0, -1], 0] == (300, 2600)).all() and scene.offset == "0"
    assert len(scene.notes) == 1 and scene.notes[0].startswith("flag_fields: the metadata say that 1000 was added")
    # The right half alone would not tell; it is decided for the scene, so that blocks of a region have no seams.
    for which in (slice(0, 20), slice(20, 40)):
        part = read(fields_dark, grid=GRID.window(slice(0, 40), which))
        np.testing.assert_array_equal(part.s2, scene.s2[:, which])
    desert = place.item("flag_desert", {"B02": (flat(2500), 0)}, fields, **said)
    with pytest.raises(ItemError, match=r"^flag_desert: .*too bright to tell.*--s2_offset_in_doubt 0") as doubt:
        read(desert)
    assert doubt.value.kind == "its offset is in doubt"
    assert (read(desert, s2_offset_in_doubt=0).s2 == 2500).all()
    assert (read(desert, s2_offset_in_doubt=1000).s2 == 1500).all()
    # A flag that it was subtracted is no doubt.
    off = place.item("flag_off", {"B02": (flat(2500), 0)}, fields, **(said | {"earthsearch:boa_offset_applied": True}))
    scene = read(off, s2_offset_in_doubt=1000)
    assert (scene.s2 == 2500).all() and not scene.notes


def test_a_decision_is_made_once(place):
    """The sample is read from overviews, the window from the file; the second time the window alone."""
    values = np.full((2048, 2048), 2500, np.uint16)
    values[:1024] += 300
    item = place.item("once", {"B02": (values, 0)}, **ADDED)
    path = place.path("once", "B02")
    with rasterio.open(path) as raster:
        profile = raster.profile | {"tiled": True, "blockxsize": 256, "blockysize": 256}
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(np.random.default_rng(0).integers(2000, 3000, (2048, 2048)).astype(np.uint16), 1)
        raster.build_overviews([2, 4, 8])
    before = place.requests("once/")
    first = read(item)
    between = place.requests("once/")
    again = read(item)
    np.testing.assert_array_equal(first.s2, again.s2)
    assert place.requests("once/") - between < between - before


def test_dark_is_dark_and_missing_is_missing(place):
    """Water of 0 in B12 alone is mapped; a pixel of 0 in all bands is not, nor one that a band lacks."""
    b12 = halves(0, 700)
    b2 = flat(1500)
    b2[:5], b12[:5] = 0, 0
    b2[5], b12[5] = 65535, 700
    scene = read(place.item("dark", {"B02": (b2, 0), "B12": (b12, 0)}, **SETTLED), "B2", "B12")
    assert not scene.s2[:6].any()
    assert (scene.s2[6:, 0] == (1500, 1)).all() and (scene.s2[6:, -1] == (1500, 700)).all()


def test_parts_are_put_together(place):
    left = place.item("part_left", {"B02": (halves(1000, 0), 0)}, **SETTLED)
    right = place.item("part_right", {"B02": (flat(2000), 0)}, **SETTLED)
    whole = place.item("part_whole", {"B02": (flat(3000), 0)}, **SETTLED)
    scene = read([left, right, whole])
    assert (scene.s2[0, [0, -1], 0] == (1000, 2000)).all()
    assert [item.id for item in scene.items] == ["part_left", "part_right"] and scene.offset == "0"
    assert not place.requests("part_whole")


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ("gone", "a file is missing", "HTTP 404"),
        ("html", "a file is broken", "not recognized"),
        ("short", "a file is broken", r"got \d+ bytes, expected \d+"),
        ("refused", "a file is refused", "HTTP 403; its signature has expired"),
        ("asset", "an asset is missing", "has no asset for band B3; it has B02"),
        ("radar", "it is not on a map grid", "radar geometry: it has ground control points alone"),
        ("nowhere", "it is not on a map grid", "has no map grid"),
        ("bands", "an asset has several bands", "2 bands"),
    ],
)
def test_a_scene_that_cannot_be_read_costs_that_scene(place, how, kind, said):
    name = f"lost_{how}"
    lost = place.item(
        name, {"B02": (flat(1000), 0), "B03": (np.arange(1600, dtype=np.uint16).reshape(40, 40), 0)}, **SETTLED
    )
    path = place.path(name, "B03")
    if how == "gone":
        path.unlink()
    elif how == "html":
        path.write_text("<html>please log in</html>" * 99)
    elif how == "short":
        path.write_bytes(path.read_bytes()[:-2000])
    elif how == "refused":
        place.files.set(refused=f"{name}/B03")
    elif how == "asset":
        del lost.assets["B03"]
    elif how in ("radar", "nowhere"):
        points = [
            rasterio.control.GroundControlPoint(r, c, 15 + c / 1e4, 42 - r / 1e4) for r in (0, 40) for c in (0, 40)
        ]
        with unplaced(path, "uint16") as raster:
            if how == "radar":
                raster.gcps = points, rasterio.CRS.from_epsg(4326)
    else:
        lost = place.item(name, {"B02": (flat(1000), 0), "B03": (np.stack([flat(1), flat(2)]), 0)}, **SETTLED)
    with pytest.raises(ItemError, match=f"{name}.*{said}") as error:
        read(lost, "B2", "B3")
    assert error.value.kind == kind and "SECRET" not in str(error.value) and "\n" not in str(error.value)
    other = place.item(f"{name}_other", {"B02": (flat(1000), 0), "B03": (flat(7), 0)}, **SETTLED)
    scene = read([lost, other], "B2", "B3")
    assert (scene.s2 == (1000, 7)).all() and len(scene.notes) == 1
    assert kind_of_note(scene.notes[0]) == (kind, name) and "SECRET" not in scene.notes[0]


def test_a_band_of_several_is_found_by_its_name(place):
    both = np.stack([flat(1000), flat(2000)])
    listed = {"*": {"eo:bands": [{"name": "B03"}, {"name": "B02"}]}}
    item = place.item("several", {"data": (both, 0)}, listed, **SETTLED)
    archive = StacArchive(
        Collection("http://x", "s2", (("B2", "data"), ("B3", "data"))), ARCHIVE.s1, "power", "gamma0", 20.0
    )
    assert (read(item, "B2", "B3", archive=archive).s2 == (2000, 1000)).all()


def test_a_server_that_is_busy_now_and_then(place, monkeypatch):
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.05")
    item = place.item("busy", {"B02": (flat(1000), 0), "B03": (flat(2000), 0)}, **SETTLED)
    for status in (429, 500, 503):
        place.files.set(refused="busy/", status=status, one_in=2)
        assert (read(item, "B2", "B3").s2 == (1000, 2000)).all()


def test_a_file_that_is_never_given(place, monkeypatch):
    """The first time the server may be busy, so that another attempt may help; the next time it costs the scene."""
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    item = place.item("never", {"B02": (flat(1000), 0)}, **SETTLED)
    place.files.set(refused="never/", status=500)
    with pytest.raises(ArchiveError, match=r"cannot read .*never/B02\.tif: HTTP 500$"):
        read(item)
    with pytest.raises(ItemError, match=r"never: .*HTTP 500, again"):
        read(item)
    place.files.set()
    assert (read(item).s2 == 1000).all()
    place.files.set(refused="never/", status=500)
    with pytest.raises(ArchiveError):  # it was there in between
        read(item)
    # A refusal of a read, after the header was given, looks to GDAL like a broken file.
    place.files.set(refused="never/", status=429, one_in=2)
    with pytest.raises(ArchiveError, match="HTTP 429"):
        for _ in range(4):
            read(item)


def test_a_signature_that_ran_out_is_made_anew(place, monkeypatch):
    item = place.item("signed", {"B02": (flat(1000), 0)}, **SETTLED)
    place.item("anew", {"B02": (flat(1000), 0)})
    place.files.set(refused="signed/")
    monkeypatch.setattr(stac_assets, "_signed_anew", lambda href: href.replace("signed/", "anew/"))
    archive = StacArchive(Collection("http://x", "s2", (), signed=True), ARCHIVE.s1, "power", "gamma0", 20.0)
    assert (read(item, archive=archive).s2 == 1000).all()
    with pytest.raises(ItemError, match="HTTP 403"):
        read(item)


def test_a_mask_beside_a_file_is_looked_for_where_nothing_is_declared(place):
    silent = place.item("mask_silent", {"B02": (flat(1500), None)}, **SETTLED)
    mask = place.path("mask_silent", "B02").with_name("B02.tif.msk")
    with unplaced(mask, "uint8") as raster:
        raster.write(halves(0, 255, np.uint8), 1)
    assert (read(silent).s2[0, [0, -1], 0] == (0, 1500)).all()
    bare, said = (place.item(f"mask_{nodata}", {"B02": (flat(1500), nodata)}, **SETTLED) for nodata in (None, 0))
    for _ in range(2):
        assert (read(bare).s2 == 1500).all() and (read(said).s2 == 1500).all()
    assert place.requests("mask_None/B02.tif.msk") == 1 and place.requests("mask_0/B02.tif.msk") == 0


def test_scene_classes(place):
    item = place.item("scl", {"SCL": (halves(0, 9, np.uint8), 0)})
    classes = scene_classes(item, GRID, ARCHIVE)
    assert np.isnan(classes[:, :20]).all() and (classes[:, 20:] == 9).all()


def take(place, name: str, vv, vh=None, nodata=None, **changes):
    vv = flat(vv, np.float32) if np.isscalar(vv) else vv.astype(np.float32)
    vh = vv if vh is None else flat(vh, np.float32) if np.isscalar(vh) else vh.astype(np.float32)
    return place.item(name, {"vv": (vv, nodata), "vh": (vh, nodata)}, **changes)


def mean(passes, unit="power", how="dB", pixels=None):
    archive = StacArchive(ARCHIVE.s2, ARCHIVE.s1, unit, "gamma0", 20.0)
    return mean_backscatter([(str(i), one) for i, one in enumerate(passes)], GRID, Wanted(s1_mean=how), archive, pixels)


def test_what_is_no_backscatter_is_left_out(place):
    """0 dB, out of range, below 0 in power, border noise: -45 dB in VV takes VH with it. One pixel never costs a scene."""
    odd = flat(-12.0, np.float32)
    odd[:, :10], odd[0, 20], odd[0, 21] = 0, 41, -100
    whole = take(place, "db_whole", -10.0)
    result, used, notes = mean([[take(place, "db_odd", odd)], [whole]], "db")
    assert np.allclose(result[:, :10], -10, atol=1e-5) and np.allclose(result[1:, 10:], -11, atol=1e-5)
    assert np.allclose(result[0, 20:22], -10, atol=1e-5) and len(used) == 2
    assert len(notes) == 3
    for reason in ("above 40 dB", "below -60 dB", "of exactly 0 dB"):
        assert any(reason in note for note in notes)
    noise, negative = flat(0.1, np.float32), flat(0.1, np.float32)
    noise[:, :10], negative[3, 30] = 10**-4.5, -0.0003
    pixels: dict[str, int] = {}
    result, _, notes = mean(
        [[take(place, "p_noise", noise, 0.01)], [take(place, "p_negative", negative, 0.01)]], pixels=pixels
    )
    assert np.allclose(result, (-10, -20), atol=1e-5) and not notes
    assert pixels["below -40 dB in VV (border noise)"] == 400 and pixels["of power below 0"] == 1


def test_units_agree(place):
    """-20 and -10 dB as power, amplitude and integers: 20 log10(1413) - 83 is -20.0, 20 log10(4467) - 83 is -10.0."""
    db = mean([[take(place, "u_db", halves(-20, -10, np.float32))]], "db")[0]
    assert np.allclose(db[0, [0, -1], 0], (-20, -10), atol=1e-5)
    np.testing.assert_allclose(mean([[take(place, "u_power", halves(0.01, 0.1, np.float32))]])[0], db, atol=1e-4)
    scaled = place.item("u_scaled", dict.fromkeys(("vv", "vh"), (halves(1413, 4467), 0)))
    np.testing.assert_allclose(mean([[scaled]], "scaled")[0], db, atol=0.01)


def test_power_is_interpolated_not_decibels(place):
    """Half-way between 0 and -20 dB lies a power of 0.505, -2.97 dB."""
    shifted = rasterio.Affine(10, 0, LEFT + 5, 0, -10, TOP)
    values = flat(-0.001, np.float32)
    values[:, 1::2] = -20
    item = place.item("half", dict.fromkeys(("vv", "vh"), (values, None)), transform=shifted)
    result, _, _ = mean([[item]], "db")
    assert np.allclose(result[5, 5:30], 10 * np.log10(0.505), atol=0.01)


def test_slices_of_a_pass_count_once(place):
    left, right = halves(0.1, 0, np.float32), halves(0.001, 0.1, np.float32)
    again = take(place, "slice_c", 1.0)
    result, used, _ = mean([[take(place, "slice_a", left), take(place, "slice_b", right), again]])
    assert np.allclose(result, -10, atol=1e-5)
    assert [item.id for item in used[0][1]] == ["slice_a", "slice_b"] and not place.requests("slice_c")


@pytest.mark.parametrize(("how", "expected"), [("dB", -15.0), ("power", 10 * np.log10((0.1 + 0.01) / 2))])
def test_means(place, how, expected):
    result, used, notes = mean([[take(place, f"m{how}1", 0.1)], [take(place, f"m{how}2", 0.01)]], how=how)
    assert np.allclose(result, expected, atol=1e-5) and len(used) == 2 and not notes


def test_lost_scenes_and_scenes_of_another_unit_are_told(place):
    good = take(place, "s1_good", 0.1)
    lost, decibels = take(place, "s1_lost", 0.1), take(place, "s1_decibels", -12.0)
    place.path("s1_lost", "vh").unlink()
    result, used, notes = mean([[lost], [decibels], [good]])
    assert np.allclose(result, -10, atol=1e-5) and [items[0].id for _, items in used] == ["s1_good"]
    assert [kind_of_note(note) for note in notes] == [("a file is missing", "s1_lost"), ("another unit", "s1_decibels")]
    assert "--s1_unit db" in notes[1]
    with pytest.raises(
        ItemError, match=r"s1_decibels holds values from -12 .*--s1_unit db \(and 1 other scenes cannot"
    ):
        mean([[decibels], [lost]])
