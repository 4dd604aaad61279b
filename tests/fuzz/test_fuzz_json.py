"""Wrong regions, STAC items, settings, manifests and descriptions of data sets: each is read, or refused by a line."""

import copy
import json
import shutil

import pystac
import pytest
import shapely
from hypothesis import strategies as st
from mutations import TIMES, bytes_like, json_like, tree_like, tried

from specsar_jax import config as configs
from specsar_jax.config import Config
from specsar_jax.regions import composites
from tfds_dwplus.files.strangers import parse_json
from tfds_dwplus.imagery.acquisitions import ItemError, NoImageryError, by_take, ranked_takes
from tfds_dwplus.imagery.decoder.declared import of_item
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.items import stac_items
from tfds_dwplus.imagery.stac_api import Collection, parsed_item
from tfds_dwplus.labels.published import LabelTile
from tfds_dwplus.places import blocks
from tfds_dwplus.tiles.manifest import open_manifest, write_table
from tfds_dwplus.tiles.prepared import open_dataset, read_split

REGION = {
    "type": "FeatureCollection",
    "crs": None,
    "features": [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [
                    [[10, 10], [10.1, 10], [10.1, 10.1], [10, 10]],
                    [[10.01, 10.01], [10.02, 10.01], [10.02, 10.02], [10.01, 10.01]],
                ],
            },
        },
        {
            "type": "Feature",
            "geometry": {"type": "MultiPolygon", "coordinates": [[[[179, 1], [-179, 1], [-179, 2], [179, 1]]]]},
        },
    ],
}

ITEM = {
    "type": "Feature",
    "stac_version": "1.0.0",
    "id": "S2A_MSIL2A_20200604T054639_N0400_R048_T43RCP_2",
    "geometry": {"type": "Polygon", "coordinates": [[[-4, 36], [-3, 36], [-3, 37], [-4, 37], [-4, 36]]]},
    "bbox": [-4, 36, -3, 37],
    "properties": {
        "datetime": "2020-06-04T05:46:39Z",
        "eo:cloud_cover": 3.0,
        "s2:processing_baseline": "04.00",
        "s2:datatake_id": "GS2A_20200604T054639_025858_N04.00",
        "s2:generation_time": "2020-06-04T09:00:00Z",
        "sat:orbit_state": "descending",
        "sar:instrument_mode": "IW",
        "sar:polarizations": ["VV", "VH"],
        "platform": "x",
        "proj:epsg": 32643,
    },
    "links": [{"rel": "self", "href": "https://example.com/items/a.json"}],
    "assets": {
        "B02": {
            "href": "https://example.com/B02.tif?sig=s",
            "raster:bands": [{"offset": -0.1, "scale": 0.0001, "nodata": 0, "spatial_resolution": 10}],
            "eo:bands": [{"name": "B02", "common_name": "blue"}],
            "alternate": {"s3": {"href": "s3://a/b"}},
            "title": "Blue",
            "type": "image/tiff",
            "roles": ["data"],
            "proj:transform": [10, 0, 0, 0, -10, 0],
        },
        "vv": {"href": "https://example.com/vv.tif", "sar:polarizations": ["VV"]},
        "vh": {"href": "https://example.com/vh.tif"},
    },
    "stac_extensions": [],
    "collection": "c",
}

GRID = Grid.parse("EPSG:32630", (10.0, 0.0, 5e5, 0.0, -10.0, 4e6), 510, 510)
TILE = LabelTile("a", "train", "expert", "EH", 1, -3.5, 36.1, "2020-06-04", ITEM["id"], ())


@TIMES
def test_geojson(times):
    def read(content: bytes) -> None:
        region = blocks.from_geojson(content, "a.json")
        assert shapely.is_valid(region) and region.area
        blocks.search_bounds(region)

    tried(read, json_like(REGION), 150, times)


@TIMES
def test_stac_item(times):
    """What `search` lets through is read without an error of Python, whichever field is wrong."""
    collection = Collection("https://example.com", "c")

    def read(tree: object) -> None:
        item = parsed_item(copy.deepcopy(tree))
        whole = pystac.Item.from_dict(json.loads(json.dumps(ITEM)))
        scenes = [stac_items.scene_metadata(one) for one in (item, whole)]
        by_take(scenes)
        for used in (lambda: ranked_takes(scenes, TILE, GRID, 5), lambda: stac_items.asset_of(item, "B2", collection)):
            try:
                used()
            except (ItemError, NoImageryError) as error:
                assert "\n" not in str(error)
        stac_items.baseline_note(item)
        for orbit in ("descending", "both"):
            usable, _ = stac_items.usable([item, whole], orbit, collection)
            stac_items.passes(usable, orbit)
        for asset in item.assets.values():
            of_item(item.properties, asset.to_dict(), item.id)
        composites._touches(item.geometry, GRID)
        composites._in_order([item, whole], 80.0)
        blocks.footprint_of(item.geometry)

    tried(read, tree_like(ITEM), 120, times)


@TIMES
def test_overrides(times):
    tree = configs.to_dict(Config())
    fields = [f"{section}.{field}" for section in tree for field in tree[section]]
    values = ["1", "(1,2)", "a,b", "3e-4", "True", "[1]", "'a'", '"a', "nan", "{1:2}"]
    whole = st.tuples(st.sampled_from(fields), st.sampled_from(values)).map(
        lambda pair: f"{pair[0]}={pair[1]}".encode()
    )
    given = whole.flatmap(bytes_like).map(lambda content: content.decode("utf-8", "replace"))
    tried(lambda texts: configs.override(Config(), texts), st.lists(given, min_size=1, max_size=2), 200, times)


@TIMES
def test_manifest(tmp_path, times):
    settings = {"source": "x", "wanted": {"s1_orbit": "descending"}}
    columns = {"tile_id": "a", "split": "train", "s1_scenes": "3", "s1_orbit": "descending"}
    lines = [
        {"settings": settings},
        {"tile_id": "a", "status": "done", "columns": columns, "warnings": ["w"]},
        {"tile_id": "b", "status": "failed", "kind": "k", "reason": "r"},
    ]
    (tmp_path / "s2").mkdir()
    (tmp_path / "s2/a.tif").touch()
    wrong = tree_like(lines).map(
        lambda tree: "".join(json.dumps(line) + "\n" for line in (tree if isinstance(tree, list) else [tree]))
    )

    def read(content: bytes | str) -> None:
        (tmp_path / "manifest.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
        with open_manifest(tmp_path, settings) as (entries, _):
            write_table(tmp_path, list(entries.values()), "descending_or_ascending")

    right = "".join(json.dumps(line) + "\n" for line in lines).encode()
    tried(read, wrong | bytes_like(right), 80, times)


@TIMES
@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", "metadata.json"])
def test_description_of_a_data_set(before, tmp_path, name, times):
    """Of a data set that was made by an older version."""
    shutil.copytree(before / "datasets", tmp_path / "data")
    (path,) = (tmp_path / "data").rglob(name)
    tree = json.loads(path.read_bytes())

    def read(content: bytes) -> None:
        path.write_bytes(content)
        builder = open_dataset(tmp_path / "data", "before")
        read_split(builder, "test")
        assert isinstance(builder.info.metadata, dict)

    tried(read, json_like(tree), 50, times)


@TIMES
def test_any_json(times):
    """The reader below all of them: it never meets the end of Python's stack."""
    tried(lambda content: parse_json(content, "a"), json_like({"a": [1, {"b": "c"}], "d": 1.5}), 150, times)
