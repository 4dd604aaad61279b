"""A block of a region and the folder of its map, with a network and an archive whose answers are known."""

import contextlib
import dataclasses
import json
import threading
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from drawn_networks import OWN, many

from specsar_jax import map_region
from specsar_jax.regions import region_map

pytest.importorskip("shapely", reason="extra 'region'")
pytest.importorskip("distributed", reason="extra 'region'")

from specsar_jax.batches.preprocess import SensorStatistics, Statistics
from specsar_jax.config import Config, Data, Model
from specsar_jax.maps import qgis, windows
from specsar_jax.pages import map_classes
from specsar_jax.regions import block_maps, composites, mosaics, region_files
from specsar_jax.regions.composites import Composite, Recipe
from specsar_jax.regions.region_files import Job
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands
from tfds_dwplus.imagery.acquisitions import ArchiveError, ItemError, Wanted
from tfds_dwplus.imagery.stac_api import Collection, StacArchive
from tfds_dwplus.places import blocks

BOX = (15.0, 42.4, 15.01, 42.41)
SIZE = 100
BLOCKS = list(blocks.blocks_of(blocks.box(*BOX), SIZE))


@pytest.fixture
def job(tmp_path):
    """Over a box of about 0.8 by 1.1 km in the middle of zone 33."""
    (tmp_path / "blocks").mkdir()
    s2, s1 = (
        SensorStatistics(names, *((0.0,) * len(names),) * 4, "", (1,) * len(names))
        for names in (bands.S2_BANDS, bands.S1_BANDS)
    )
    trained = Trained(Config(data=Data(crop_px=64)), Statistics(s2, s1, (1,) * 9), {}, 0)
    dates = ("2024-05-01", "2024-05-31")
    archive = StacArchive(Collection("http://x", "s2"), Collection("http://x", "s1"), "power", "sigma0")
    return Job(
        blocks.box(*BOX), Recipe(("s2", "s1"), Wanted(), dates, dates), archive, trained, {"software": "x"}, tmp_path
    )


@pytest.fixture
def ground(monkeypatch):
    """An archive whose first band is a class and one: stripes of 20 pixels of the zone, every fifth without data."""

    def composite(grid, recipe, archive, may_miss=()):
        first = round(grid.transform.c / 10)
        stripe = np.arange(first, first + grid.width) // 20 % 5
        s2 = np.broadcast_to(np.where(stripe == 4, 0, stripe + 1)[:, None], (*grid.shape, len(bands.S2_BANDS)))
        s1 = np.full((*grid.shape, 2), -12, np.float32)
        items = {"s2": ("a",), "s1": ("b",)}
        return Composite(s2.astype(np.uint16), s1, items, {"s2": ("2024-05-05",), "s1": ("2024-05-06",)}, ())

    monkeypatch.setattr(composites, "composite", composite)


def network(s2: np.ndarray, s1: np.ndarray) -> np.ndarray:
    """Says the class that stands in the first band."""
    return np.eye(10, 9, dtype=np.float32)[s2[..., 0].astype(int) - 1]


def test_areas_of_classes_are_those_of_their_pixels(job, ground):
    entries = [block_maps.map_block(block, job, network) for block in BLOCKS]
    assert {entry["status"] for entry in entries} <= {"done", "empty"}, entries
    expected, known = np.zeros(256), np.zeros(256)
    for block in BLOCKS:
        wanted = blocks.inside(block, job.region)
        stripe = np.array(block.columns) // 20 % 5
        truth = np.where(wanted, np.where(stripe == 4, 255, stripe), 255)
        with rasterio.open(job.output / "blocks" / f"{block.name}.tif") as raster:
            np.testing.assert_array_equal(raster.read(1), truth)
        expected += np.bincount(truth[wanted], blocks.pixel_hectares(block)[wanted], minlength=256)
        item = json.loads((job.output / "blocks" / f"{block.name}.json").read_text())["properties"]
        known[:9] += list(item["specsar:hectares"].values())
        known[255] += item["specsar:no_data_hectares"]
    np.testing.assert_allclose(known, expected, rtol=1e-9)
    assert np.count_nonzero(expected) == 5
    summary = region_files.write_summary(job.output, job, BLOCKS, {})
    assert known.sum() == pytest.approx(summary["region_hectares"], rel=0.01)
    # A block that holds no pixel of the region lacks no imagery.
    without = {
        e["block"]
        for e, block in zip(entries, BLOCKS, strict=True)
        if e["status"] == "empty" and blocks.inside(block, job.region).any()
    }
    assert set(summary["blocks_without_imagery"]) == without


def test_pixels_that_one_sensor_alone_saw(job, ground):
    """Every fifth stripe has no Sentinel-2: its class is what the network says of Sentinel-1."""
    config = dataclasses.replace(job.trained.config, data=Data(crop_px=64, sensor_drop=(0.3, 0.3)))
    job = dataclasses.replace(job, trained=dataclasses.replace(job.trained, config=config))

    def of_both(s2: np.ndarray, s1: np.ndarray) -> np.ndarray:
        return np.eye(9, dtype=np.float32)[np.where(s2[..., 0] == 0, 8, s2[..., 0].astype(int) - 1)]

    for block in BLOCKS:
        assert block_maps.map_block(block, job, of_both)["status"] in ("done", "empty")
        wanted, stripe = blocks.inside(block, job.region), np.array(block.columns) // 20 % 5
        with rasterio.open(job.output / "blocks" / f"{block.name}.tif") as raster:
            np.testing.assert_array_equal(raster.read(1), np.where(wanted, np.where(stripe == 4, 8, stripe), 255))
        item = json.loads((job.output / "blocks" / f"{block.name}.json").read_text())
        with rasterio.open(job.output / "blocks" / item["assets"]["sensors_seen"]["href"]) as raster:
            np.testing.assert_array_equal(raster.read(1), np.where(wanted, np.where(stripe == 4, 2, 3), 255))


def test_a_region_of_own_classes(job, ground):
    statistics = dataclasses.replace(job.trained.statistics, label_pixels=(1,) * 4, classes=OWN)
    config = dataclasses.replace(job.trained.config, model=Model(classes=4))
    job = dataclasses.replace(job, trained=dataclasses.replace(job.trained, config=config, statistics=statistics))
    for block in BLOCKS:
        entry = block_maps.map_block(
            block, job, lambda s2, _: np.eye(5, 4, dtype=np.float32)[s2[..., 0].astype(int) - 1]
        )
        assert entry["status"] in ("done", "empty"), entry
    summary = region_files.write_summary(job.output, job, BLOCKS, {})
    assert list(summary["hectares"]) == list(OWN.names) and min(summary["hectares"].values()) > 0
    assert f"{OWN.names[0]:<20} " in region_files.table(summary)
    pystac = pytest.importorskip("pystac", reason="extra 'region'")
    item = pystac.Item.from_file(str(job.output / "blocks" / f"{BLOCKS[0].name}.json"))
    kinds = item.assets["map"].extra_fields["classification:classes"]
    assert [kind["title"] for kind in kinds] == list(OWN.names)
    assert [kind["name"] for kind in kinds] == ["wheat_barley", "foret_dense", "the_old_town", "desert_s_edge"]
    assert [(kind["value"], kind["color_hint"]) for kind in kinds] == list(enumerate(OWN.colours))
    for path in mosaics.write_mosaics(job.output, BLOCKS, OWN):
        with rasterio.open(path) as raster:
            assert [raster.colormap(1)[i][:3] for i in range(4)] == OWN.rgb()
            assert set(np.unique(raster.read(1))) <= {0, 1, 2, 3, 255}
            assert map_classes.classes_of_map(str(path), raster) == OWN
        names = ElementTree.parse(path).getroot().findall(".//Category")
        assert [name.text for name in names] == list(OWN.names)
        assert qgis.style(OWN) == path.with_suffix(".qml").read_text()


def test_a_folder_is_of_one_networks_classes(job, ground):
    own = dataclasses.replace(job.trained.statistics, classes=many(9))
    tags = {"weights_sha256": "same"}
    nine, other = (
        map_region._asked(
            dataclasses.replace(job, tags=tags, trained=dataclasses.replace(job.trained, statistics=of)), 100
        )
        for of in (job.trained.statistics, own)
    )
    assert "classes" not in nine
    with region_files.opened(job.output, nine):
        block_maps.map_block(BLOCKS[0], job, network)
    with (
        pytest.raises(
            ValueError, match=r"was made with classes null, and is now to be with .*class 0.*another --output"
        ),
        region_files.opened(job.output, other),
    ):
        pass


def test_two_workers_at_one_block(job, ground):
    """One whose scheduler lost it goes on, beside the one that was given its block: both end well, nothing is left over."""
    together = threading.Barrier(2)

    def slow(s2: np.ndarray, s1: np.ndarray) -> np.ndarray:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(5)
        return network(s2, s1)

    block = max(BLOCKS, key=lambda block: blocks.inside(block, job.region).sum())
    ends: list[dict] = []
    threads = [threading.Thread(target=lambda: ends.append(block_maps.map_block(block, job, slow))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry["status"] for entry in ends] == ["done", "done"], ends
    kinds = (".json", ".qml", ".tif", ".tif.aux.xml")
    assert sorted(path.name for path in (job.output / "blocks").iterdir()) == [block.name + kind for kind in kinds]


@pytest.mark.parametrize(
    ("fault", "kind", "again"),
    [
        (ArchiveError("no answer"), "the archive does not answer", True),
        (ItemError("lost", "a file is missing"), "a file is missing", False),
        (ValueError("no band"), "it cannot be mapped", False),
        (OSError(28, "full"), "a file of this machine", True),
        (KeyError("x"), "an unexpected error", True),
    ],
)
def test_faults_are_entries(job, monkeypatch, fault, kind, again):
    def composite(*_):
        raise fault

    monkeypatch.setattr(composites, "composite", composite)
    entry = block_maps.map_block(max(BLOCKS, key=lambda block: blocks.inside(block, job.region).sum()), job, network)
    assert entry["status"] == "failed" and entry["kind"] == kind and entry["again"] == again
    assert not list((job.output / "blocks").iterdir())


def test_squares_lie_on_one_lattice():
    """The squares that touch a pixel are the same in whichever block it is, and so are their weights."""
    whole, axis = block_maps.windows_over(range(-500, 900), 64, 0.25)
    weights = windows.blend_weights(axis)
    known = {whole.start + start: weight for start, weight in zip(axis.starts, weights, strict=True)}
    for part in (range(-500, -399), range(-17, 3), range(1, 2), range(500, 900)):
        reach, axis = block_maps.windows_over(part, 64, 0.25)
        starts = [reach.start + start for start in axis.starts]
        assert starts == [start for start in known if start < part.stop and start + axis.window > part.start]
        for start, weight in zip(starts, windows.blend_weights(axis), strict=True):
            inside = slice(max(part.start - start, 0), part.stop - start)
            np.testing.assert_array_equal(weight[inside], known[start][inside])


def test_workers_that_write_elsewhere_are_found_out(job, monkeypatch):
    """Such as those of other machines that do not share the disk."""

    @contextlib.contextmanager
    def connected(*_):
        yield None

    done = [{"block": block.name, "status": "done", "doubts": ()} for block in BLOCKS]
    monkeypatch.setattr(region_map.cluster, "connected", connected)
    monkeypatch.setattr(region_map.cluster, "entries", lambda *_: iter(done))
    monkeypatch.setattr(region_map, "_with_coverage", lambda job: job)
    (job.output / "region.json").write_text("{}")
    with pytest.raises(ValueError, match="do the workers see that folder"):
        region_map.map_region(job, SIZE, "tcp://x:1", 1, 1)
    missing = json.loads((job.output / "summary.json").read_text())["blocks_missing"]
    assert missing.keys() == {block.name for block in BLOCKS}


@pytest.mark.parametrize("text", ["[]", "{", "\udcff"])
def test_a_damaged_folder_is_refused(tmp_path, text):
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "33N_0_0.json").write_text("{}")
    (tmp_path / "region.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match="is damaged"), region_files.opened(tmp_path, {}):
        pass


def test_a_folder_is_held_by_one(tmp_path):
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / ".33N_0_0.x").mkdir()  # of a worker that was killed
    with region_files.opened(tmp_path, {"region": 1}):
        assert not list((tmp_path / "blocks").iterdir())
        with pytest.raises(ValueError, match="another process is at work"), region_files.opened(tmp_path, {}):
            pass


def block_item(tmp_path, name: str, hectares: float) -> None:
    (tmp_path / "blocks").mkdir(exist_ok=True)
    item = {"properties": {"specsar:hectares": {"water": 0.0, "trees": hectares}, "specsar:no_data_hectares": 1.0}}
    (tmp_path / "blocks" / f"{name}.json").write_text(json.dumps(item))
    (tmp_path / "blocks" / f"{name}.tif").write_text("")


def test_a_folder_without_a_map_takes_other_settings(tmp_path):
    asked = {"wanted": {"s1_orbit": "descending", "s1_mean": "dB"}}
    other = {"wanted": {"s1_orbit": "ascending", "s1_mean": "dB"}}
    block_item(tmp_path, "33N_0_0", 0.0)
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen" / "33N_0_0.tif").write_text("")
    (tmp_path / "region.json").write_text(json.dumps(asked))
    with region_files.opened(tmp_path, asked):
        assert len(list((tmp_path / "blocks").iterdir())) == 2  # the same settings: what is empty stays so
    with region_files.opened(tmp_path, other):
        assert not [*(tmp_path / "blocks").iterdir(), *(tmp_path / "seen").iterdir()]
    block_item(tmp_path, "33N_0_0", 0.0)
    block_item(tmp_path, "33N_0_1", 2.5)
    with (
        pytest.raises(
            ValueError, match=r'with wanted\.s1_orbit "ascending", and is now to be with "descending"; one folder'
        ),
        region_files.opened(tmp_path, asked),
    ):
        pass
    assert len(list((tmp_path / "blocks").iterdir())) == 4


def test_the_one_field_that_differs_is_shown_where_it_differs(tmp_path):
    block_item(tmp_path, "33N_0_0", 2.5)
    ring = [[round(15 + at / 1000, 3), 42.0] for at in range(50)]
    asked = {"region": {"type": "Polygon", "coordinates": [ring]}, "block_px": 128}
    (tmp_path / "region.json").write_text(json.dumps(asked))
    ring[-1][1] = 42.5
    with pytest.raises(ValueError, match=r"with region\.coordinates") as error, region_files.opened(tmp_path, asked):
        pass
    assert (
        "15.049, 42.0]]]," in str(error.value)
        and "15.049, 42.5]]];" in str(error.value)
        and len(str(error.value)) < 450
    )
    both = r"with block_px 128, .* 256 \(and with other region\.coordinates\)"
    with pytest.raises(ValueError, match=both), region_files.opened(tmp_path, asked | {"block_px": 256}):
        pass


def test_blocks_that_come_later_are_of_the_same_orbit(tmp_path):
    asked = {"wanted": {"s1_orbit": "descending_or_ascending"}}
    with region_files.opened(tmp_path, asked):
        region_files.keep_orbit(tmp_path, "ascending")
    assert region_files.taken_orbit(tmp_path) == ""  # no block is made of it
    block_item(tmp_path, "33N_0_0", 2.5)
    with region_files.opened(tmp_path, asked):
        assert region_files.taken_orbit(tmp_path) == "ascending"


def test_a_summary_tells_what_was_left_out(job, ground, monkeypatch):
    """A scene that two blocks leave out is one scene; pixels add up. Where from and how is in the tags of each map."""
    made = composites.composite

    def composite(*arguments):
        notes = ("not used (a file is missing): S2_0: cannot read x: HTTP 404", "something else")
        read = {"a": ("1000", "05.10"), "c": ("0", "02.12")}
        return dataclasses.replace(made(*arguments), doubts=notes, s2_read=read, s1_pixels={"above 40 dB": 3})

    monkeypatch.setattr(composites, "composite", composite)
    entries = [block_maps.map_block(block, job, network) for block in BLOCKS]
    read = [block for block in BLOCKS if blocks.inside(block, job.region).any()]
    assert len(read) > 1 and all(entry["status"] != "failed" for entry in entries)
    summary = region_files.write_summary(job.output, job, BLOCKS, {})
    assert region_files.left_out(summary) == [
        "1 scene left out: a file is missing, as S2_0",
        f"{3 * len(read)} pixels of Sentinel-1 above 40 dB are taken as no data",
    ]
    assert summary["scenes_used"] == {"s2": 1, "s1": 1}
    with rasterio.open(job.output / "blocks" / f"{read[0].name}.tif") as raster:
        tags = raster.tags()
    assert tags["s2_offset"] == "0, 1000" and tags["s2_baseline"] == "02.12, 05.10" and tags["s2_items"] == "a"
    assert tags["s1_unit"] == "sigma0 dB" and tags["s1_orbit"] == "descending" and "HTTP 404" in tags["notes"]
