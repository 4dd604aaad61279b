"""The STAC files of a region and of a series: two validators take them, and what they say of the rasters is so; on a disk, moved,
on a web server.
"""

import dataclasses
import json
import shutil

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from drawn_networks import OWN
from finished_region import BOX, SIZE, finish, job_over
from local_archive import files_served
from stac_schemas import faults

from specsar_jax.config import Config, Data
from specsar_jax.regions import region_files, stac_files
from specsar_jax.regions.series.transitions import Filter
from tfds_dwplus import bands
from tfds_dwplus.places import blocks

ACROSS = (179.996, -16.802, -179.996, -16.798)
"""Over the antimeridian, near Fiji."""

JUNE = ("2024-06-01", "2024-06-30")


SMALL = (15.0, 42.4, 15.005, 42.405)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a region over two zones. To be read only."""
    job = job_over(tmp_path_factory.mktemp("finished") / "map", license="CC-BY-4.0")
    finish(job)
    return job.output


@pytest.fixture
def region(finished, tmp_path):
    """A copy of it, elsewhere."""
    return shutil.copytree(finished, tmp_path / "elsewhere" / "map")


def rewrite(path, change) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def test_what_stands_in_a_collection_is_so(region, tmp_path):
    assert faults(region / "collection.json", tmp_path / "schemas") == []
    collection = pystac.Collection.from_file(region / "collection.json")
    names = {block.name for block in blocks.blocks_of(blocks.box(*BOX), SIZE)}
    items = list(collection.get_items())
    assert {item.id for item in items} == names and len(items) == len(names)
    for item in items:
        assert item.get_collection() is collection and item.collection_id == collection.id
        told = item.properties
        assert item.geometry["type"] == "Polygon" and shapely.geometry.shape(item.geometry).within(
            shapely.box(*BOX).buffer(1e-9)
        )
        with rasterio.open(item.assets["map"].get_absolute_href()) as raster:
            assert (raster.crs.to_string(), list(raster.shape)) == (told["proj:code"], told["proj:shape"])
            assert list(raster.transform)[:6] == told["proj:transform"] and list(raster.bounds) == told["proj:bbox"]
            check_raster(raster, item.assets["map"].extra_fields)
        assert told["processing:software"]["specsar_jax"] == "0.0.1" and told["processing:level"] == "L4"
        assert "Sentinel-2 L2A of 2024-05-01 to 2024-05-31 (s2) and Sentinel-1 sigma0" in told["processing:lineage"]
    mosaics = {name: asset for name, asset in collection.assets.items() if name.startswith("mosaic_")}
    assert list(mosaics) == ["mosaic_33N", "mosaic_34N"]
    for asset in mosaics.values():
        with rasterio.open(asset.get_absolute_href()) as raster:
            told = asset.extra_fields
            assert (raster.crs.to_string(), list(raster.shape)) == (told["proj:code"], told["proj:shape"])
            assert list(raster.transform)[:6] == told["proj:transform"] and list(raster.bounds) == told["proj:bbox"]
            check_raster(raster, told)
    tree = collection.to_dict()
    assert tree["extent"]["spatial"]["bbox"] == [list(BOX)]
    assert tree["extent"]["temporal"]["interval"] == [["2024-05-01T00:00:00Z", "2024-05-31T23:59:59Z"]]
    assert tree["summaries"]["proj:code"] == ["EPSG:32633", "EPSG:32634"] and tree["license"] == "CC-BY-4.0"
    assert set(tree["item_assets"]) == {"map"} and "Copernicus Sentinel data 2024" in tree["description"]
    assert not [asset for asset in collection.assets.values() if not (region / asset.href).is_file()]


def check_raster(raster, told) -> None:
    """Classes, colours, nodata, type and pixel of a raster, as its asset tells them."""
    assert (raster.dtypes[0], raster.nodata, raster.res) == (told["data_type"], told["nodata"], (10, 10))
    assert told["raster:spatial_resolution"] == 10
    for kind in told["classification:classes"]:
        assert tuple(bytes.fromhex(kind["color_hint"])) == raster.colormap(1)[kind["value"]][:3]
    assert [kind["name"] for kind in told["classification:classes"]] == list(bands.CLASSES)


def test_all_addresses_are_relative_and_lead_somewhere(region):
    for path in (region / "collection.json", *(region / "blocks").glob("*.json")):
        tree = json.loads(path.read_text())
        hrefs = [link["href"] for link in tree["links"]] + [asset["href"] for asset in tree["assets"].values()]
        assert hrefs and all(href.startswith(".") and (path.parent / href).is_file() for href in hrefs), path


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("item", lambda tree: tree["properties"].update({"proj:shape": [128.5, 128]})),
        ("item", lambda tree: tree["assets"]["map"]["classification:classes"][0].update(color_hint="#419bdf")),
        ("item", lambda tree: tree["properties"].update({"proj:epsg": 32633})),
        ("item", lambda tree: tree.pop("collection")),
        ("collection", lambda tree: tree.update(license="CC BY 4.0")),
        ("collection", lambda tree: tree["extent"]["temporal"].update(interval=[["2024-05-01", None]])),
    ],
)
def test_the_validators_see_what_is_wrong(region, tmp_path, where, change):
    item = min((region / "blocks").glob("*.json"))
    rewrite(item if where == "item" else region / "collection.json", change)
    assert faults(region / "collection.json", tmp_path / "schemas")


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rio-tiler under affine 3
def test_a_folder_on_a_web_server(region, tmp_path):
    """Pixels are read in parts over the network, of blocks and of the mosaics that hold them."""
    readers = pytest.importorskip("rio_tiler.io", reason="extra 'view'")
    (tmp_path / "control").mkdir()
    with files_served(region.parent, tmp_path / "control") as files:
        collection = pystac.Collection.from_file(f"{files.url}/map/collection.json")
        for item in collection.get_items():
            with rasterio.open(item.assets["map"].get_absolute_href()) as raster:
                assert raster.name.startswith("http") or "/vsicurl/" in raster.name
                with rasterio.open(region / "blocks" / f"{item.id}.tif") as here:
                    np.testing.assert_array_equal(raster.read(), here.read())
        for name in ("mosaic_33N", "mosaic_34N"):
            with rasterio.open(collection.assets[name].get_absolute_href()) as raster:
                with rasterio.open(region / f"{name}.vrt") as here:
                    np.testing.assert_array_equal(raster.read(), here.read())
                assert len(np.unique(raster.read())) > 2
        with readers.STACReader(f"{files.url}/map/blocks/{item.id}.json") as read:
            assert read.assets == ["map"] and read.crs == rasterio.CRS.from_string(item.properties["proj:code"])
            drawn = item.properties["renders"]["land_cover"]
            tile = read.preview(assets=drawn["assets"], nodata=drawn["nodata"]).data
            with rasterio.open(region / "blocks" / f"{item.id}.tif") as here:
                assert drawn["colormap"] == {
                    str(place): "#{:02x}{:02x}{:02x}".format(*here.colormap(1)[place]) for place in range(9)
                }
                np.testing.assert_array_equal(tile, here.read())


def test_a_folder_of_an_older_version_gets_its_collection(region, finished):
    """Its items have no links, no collection and fewer fields; the archive is not asked, and no map is written again."""
    (region / "collection.json").unlink()
    for path in (region / "blocks").glob("*.json"):
        rewrite(path, older)
    maps = {path: path.stat().st_mtime_ns for path in (region / "blocks").glob("*.tif")}
    finish(job_over(region, license="CC-BY-4.0"))
    assert maps == {path: path.stat().st_mtime_ns for path in maps}
    for path in (region / "collection.json", *(region / "blocks").glob("*.json")):
        as_new = json.loads((finished / path.relative_to(region)).read_text())
        known = {"specsar_jax": "0.0.1"}  # all that the older one tells
        if path.name == "collection.json":
            as_new["summaries"]["processing:software"] = [known]
        else:
            as_new["properties"]["processing:software"] = known
        assert json.loads(path.read_text()) == as_new


def test_an_item_of_another_collection_becomes_one_of_this_one(region, finished):
    for path in (region / "blocks").glob("*.json"):
        rewrite(path, lambda tree: tree.update(collection="land_cover_0"))
    finish(job_over(region, license="CC-BY-4.0"))
    for path in region.rglob("*.json"):
        assert json.loads(path.read_text()) == json.loads((finished / path.relative_to(region)).read_text())


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree["properties"].update({"specsar:s2_window": 5}),
        lambda tree: tree["properties"].pop("specsar:s2_level"),
    ],
)
def test_an_older_item_that_is_damaged_is_named(region, change):
    path = sorted((region / "blocks").glob("*.json"))[0]
    rewrite(path, lambda tree: (tree.pop("collection"), change(tree)))
    line = one_line(lambda: finish(job_over(region, license="CC-BY-4.0")))
    assert f"{path} is damaged" in line and "remove it, and its block is mapped again" in line


def older(tree) -> None:
    tree["links"] = []
    del tree["collection"]
    tree["stac_extensions"] = [uri for uri in tree["stac_extensions"] if "projection" in uri or "classif" in uri]
    own = ("specsar:", "proj:code", "proj:shape", "proj:transform", "start_datetime", "end_datetime", "datetime")
    tree["properties"] = {name: value for name, value in tree["properties"].items() if name.startswith(own)}
    for name in ("raster:spatial_resolution", "raster:sampling"):
        del tree["assets"]["map"][name]


def test_a_region_over_the_antimeridian(tmp_path):
    job = job_over(tmp_path / "map", ACROSS)
    finish(job)
    assert faults(job.output / "collection.json", tmp_path / "schemas") == []
    assert json.loads((job.output / "collection.json").read_text())["extent"]["spatial"]["bbox"] == [list(ACROSS)]


def test_a_region_of_own_classes(tmp_path):
    job = job_over(tmp_path / "map", SMALL, classes=OWN)
    finish(job)
    assert faults(job.output / "collection.json", tmp_path / "schemas") == []
    told = json.loads((job.output / "collection.json").read_text())["item_assets"]["map"]["classification:classes"]
    assert [kind["title"] for kind in told] == list(OWN.names)


def test_the_sensors_that_saw_each_pixel(tmp_path):
    config = Config(data=Data(sensor_drop=(0.3, 0.3)))
    job = job_over(tmp_path / "map", SMALL, config=config)
    finish(job)
    assert faults(job.output / "collection.json", tmp_path / "schemas") == []
    for item in pystac.Collection.from_file(job.output / "collection.json").get_items():
        with rasterio.open(item.assets["sensors_seen"].get_absolute_href()) as raster:
            assert list(raster.bounds) == item.properties["proj:bbox"] and set(np.unique(raster.read())) <= {3, 255}
    shutil.rmtree(job.output / "seen")  # which the items forget
    finish(job)
    for item in pystac.Collection.from_file(job.output / "collection.json").get_items():
        assert item.assets.keys() == {"map"}


def test_the_id_is_of_the_map_not_of_its_folder(tmp_path):
    here, there = job_over(tmp_path / "a"), job_over(tmp_path / "b", license="CC0-1.0")
    assert region_files.collection_id(here) == region_files.collection_id(there)
    elsewhere = dataclasses.replace(here.archive, s2=dataclasses.replace(here.archive.s2, url="http://elsewhere"))
    others = [
        *(job_over(tmp_path, ACROSS), job_over(tmp_path, dates=JUNE)),
        *(dataclasses.replace(here, archive=elsewhere), dataclasses.replace(here, tags=here.tags | {"filter": "mode"})),
        *(dataclasses.replace(here, tags=here.tags | by.tags()) for by in filters_that_stay_alike()),
    ]
    assert len({region_files.collection_id(job) for job in (here, *others)}) == 1 + len(others)


def filters_that_stay_alike() -> list[Filter]:
    """Two filters whose classes stay as probably, but become others."""
    evenly = np.full((9, 9), 0.0025) + np.eye(9) * 0.9775
    to_the_next = np.eye(9) * 0.98 + np.roll(np.eye(9), 1, axis=1) * 0.02
    return [Filter("hmm", tuple(map(tuple, matrix.tolist()))) for matrix in (evenly, to_the_next)]


def test_a_series_of_maps(tmp_path):
    for name, box, dates in (("2024-05", BOX, ("2024-05-01", "2024-05-31")), ("2024-06", ACROSS, JUNE)):
        finish(job_over(tmp_path / "series" / name, box, dates, license="CC-BY-4.0"))
    path = stac_files.write_series(tmp_path / "series", ["2024-05", "2024-06"])
    assert faults(path, tmp_path / "schemas") == []
    series = pystac.Collection.from_file(path)
    assert [child.title for child in series.get_children()] == [
        "Land cover, 2024-05-01 to 2024-05-31",
        "Land cover, 2024-06-01 to 2024-06-30",
    ]
    assert len(list(series.get_items(recursive=True))) == len(list((tmp_path / "series").glob("*/blocks/*.json")))
    tree = series.to_dict()
    assert tree["extent"]["temporal"]["interval"] == [["2024-05-01T00:00:00Z", "2024-06-30T23:59:59Z"]]
    assert tree["extent"]["spatial"]["bbox"] == [[BOX[0], ACROSS[1], ACROSS[2], BOX[3]]]
    assert tree["summaries"]["proj:code"] == ["EPSG:32633", "EPSG:32634", "EPSG:32701", "EPSG:32760"]
    assert tree["license"] == "CC-BY-4.0" and "Copernicus Sentinel data 2024." in tree["description"]

    # A map of it that is looked at again stays in it; the same bytes.
    child = tmp_path / "series" / "2024-06"
    before = (child / "collection.json").read_bytes()
    assert pystac.Collection.from_file(child / "collection.json").get_parent().id == series.id
    finish(job_over(child, ACROSS, JUNE, license="CC-BY-4.0"))
    assert (child / "collection.json").read_bytes() == before

    # It stays a child when the series is continued by others alone.
    whole = path.read_bytes()
    stac_files.write_series(tmp_path / "series", ["2024-05"])
    assert path.read_bytes() == whole

    # One that is taken out of it can be read without it, and forgets it when it is looked at again; the series forgets it too.
    child.rename(tmp_path / "alone")
    assert faults(tmp_path / "alone" / "collection.json", tmp_path / "schemas") == []
    finish(job_over(tmp_path / "alone", ACROSS, JUNE, license="CC-BY-4.0"))
    assert not [
        link
        for link in json.loads((tmp_path / "alone" / "collection.json").read_text())["links"]
        if link["rel"] == "parent"
    ]
    stac_files.write_series(tmp_path / "series", ["2024-05"])
    assert len(list(pystac.Collection.from_file(path).get_children())) == 1


def one_line(work) -> str:
    with pytest.raises(ValueError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [(None, "No such file"), ("{", "is not JSON"), ("{}", "'extent'"), ('{"extent": {"spatial": 1}}', "subscriptable")],
)
def test_a_series_of_what_is_no_map(tmp_path, text, told):
    (tmp_path / "2024-05").mkdir()
    if text is not None:
        (tmp_path / "2024-05" / "collection.json").write_text(text)
    assert "holds no map" in one_line(lambda: stac_files.write_series(tmp_path, []))
    line = one_line(lambda: stac_files.write_series(tmp_path, ["2024-05"]))
    assert f"{tmp_path / '2024-05'} has no collection.json of a map" in line and told in line
    assert not (tmp_path / "collection.json").exists()


def test_a_damaged_item_is_named(region):
    damaged = min((region / "blocks").glob("*.json"))
    rewrite(damaged, lambda tree: tree.pop("assets"))
    before = (region / "collection.json").read_bytes()
    line = one_line(lambda: finish(job_over(region)))
    assert f"{damaged} is damaged ('assets'); remove it, and its block is mapped again" in line
    assert (region / "collection.json").read_bytes() == before


@pytest.mark.parametrize("text", ["CC BY 4.0", "", "a\nb", "Lizenz ä"])
def test_a_licence_that_stac_has_no_form_for(text):
    assert "expected an identifier of SPDX such as CC-BY-4.0, or other" in one_line(
        lambda: stac_files.check_license(text)
    )
