"""Describes the folder of a region's map as STAC 1.1, so that it can be read where it lies: on a disk, a web server or in a bucket.

    collection.json             the region: extent, classes, how it was made, its blocks; its assets are the mosaics and summary.json
    blocks/<zone>_<x>_<y>.json  a block: an item of that collection

and beside the folders of a series of maps one more collection.json, whose children they are.

Enters: what is known of a block; the items of finished blocks; the collections of a series. Leaves: these files. All addresses in them
are relative. Only that of the series leads out of a region's folder, so that a folder can be moved, with its series or without.

Sources: STAC 1.1 (https://github.com/radiantearth/stac-spec) and its extensions below. As its best practices want it, an asset of one
band has the fields of the band itself, without `bands`.
"""

import dataclasses
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pystac
import shapely

from specsar_jax.regions import mosaics
from tfds_dwplus import bands
from tfds_dwplus.bands import Classes
from tfds_dwplus.files.outputs import write_json
from tfds_dwplus.files.strangers import one_line, read_object
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.places import blocks
from tfds_dwplus.places.blocks import Block

NAME = "collection.json"

EXTENSIONS = [
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "https://stac-extensions.github.io/render/v2.0.0/schema.json",
]

VRT = "application/x-gdal-vrt"
"""Media type of a mosaic. None is registered; this one is in use."""

_LISTED = ("proj:code", "processing:level", "processing:lineage", "processing:software")
"""Properties of items whose different values a collection lists."""

_PARENT = pystac.Link("parent", f"../{NAME}", pystac.MediaType.JSON)
"""From the collection of a map to that of its series."""


def check_license(text: str) -> None:
    """Raises a ValueError if a licence is not in the form that STAC has for it: an identifier of SPDX, or `other`."""
    if not re.fullmatch(r"[A-Za-z0-9.+-]+", text):
        raise ValueError(
            f"--license is {one_line(repr(text), 60)}, expected an identifier of SPDX such as CC-BY-4.0, or other"
        )


def digest(about: Any) -> str:
    """Returns a few signs that stand for what can be written as JSON."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:10]


def item(
    block: Block,
    place: shapely.Geometry,
    classes: Classes,
    days: tuple[str, str],
    own: dict[str, Any],
    collection: str,
    beside: Mapping[str, tuple[str, str]],
) -> dict[str, Any]:
    """Returns the item of a block, to be written beside its map.

    Args:
        block: block of the region's grid.
        place: part of the region that lies in it, degrees; empty if there is none.
        classes: of the map.
        days: first and last day of the imagery, YYYY-MM-DD.
        own: properties of ours, `specsar:*`, from which those of processing follow; others in it go before these.
        collection: id of the region's collection.
        beside: folders of the rasters beside the map, with the name and the title of their assets.
    """
    band = {"data_type": "uint8", "nodata": bands.IGNORE}
    band |= {"raster:spatial_resolution": blocks.PIXEL_M, "raster:sampling": "area"}
    kinds = [
        {"value": value, "name": word, "color_hint": colour} | ({} if word == name else {"title": name})
        for value, (word, name, colour) in enumerate(zip(classes.words(), classes.names, classes.colours, strict=True))
    ]
    of_map = band | {"classification:classes": kinds}
    parts = shapely.get_parts(place)
    outline = parts[0] if len(parts) == 1 else place  # some readers, such as those of MosaicJSON, know polygons only
    made = pystac.Item(
        block.name,
        None if place.is_empty else shapely.geometry.mapping(outline),
        None if place.is_empty else list(place.bounds),
        None,
        {
            "start_datetime": f"{days[0]}T00:00:00Z",
            "end_datetime": f"{days[1]}T23:59:59Z",
            **_placed(block.grid),
            **_processing(own),
            "renders": _renders(of_map),
            **own,
        },
        stac_extensions=EXTENSIONS,
        collection=collection,
    )
    for relation in ("root", "parent", "collection"):
        made.add_link(pystac.Link(relation, f"../{NAME}", pystac.MediaType.JSON))
    made.add_asset(
        "map", pystac.Asset(f"./{block.name}.tif", "land cover", None, pystac.MediaType.COG, ["data"], of_map)
    )
    for folder, (name, title) in beside.items():
        href = f"../{folder}/{block.name}.tif"
        made.add_asset(name, pystac.Asset(href, title, None, pystac.MediaType.COG, ["metadata"], band))
    return made.to_dict(include_self_link=False)


def is_current(tree: dict[str, Any], collection: str) -> bool:
    """Returns whether an item is as `item` makes it now; those of older folders know of no collection."""
    return tree.get("collection") == collection and tree.get("stac_extensions") == EXTENSIONS


def write_collection(
    output: Path, region: shapely.Geometry, done: Sequence[Block], collection: str, license: str
) -> Path | None:
    """Writes the collection of a region, after its blocks, mosaics and summary.

    Args:
        output: folder of the region.
        region: polygons in degrees.
        done: finished blocks, whose items are current.
        collection: its id.
        license: of the map; an identifier of SPDX, or `other`.

    Returns:
        Its path; None if no block has a place, so that there is nothing to describe.

    Raises:
        ValueError: an item is damaged.
    """
    places, known, described = [], [], {}
    for block in sorted(done):
        path = output / "blocks" / f"{block.name}.json"
        try:
            tree = read_object(path, finite=False)
            if not tree["geometry"]:
                continue
            known.append({name: tree["properties"][name] for name in (*_LISTED, "start_datetime", "end_datetime")})
            described |= {key: _without(asset, "href") for key, asset in tree["assets"].items()}
            _renders(described["map"])
            places.append(block)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is damaged ({one_line(error, 120)}); remove it, and its block is mapped again"
            ) from None
    if not places:
        return None
    made = _collection(
        collection,
        blocks.search_bounds(region),
        [(each["start_datetime"], each["end_datetime"]) for each in known],
        license,
        {name: _each_once(each[name] for each in known) for name in _LISTED},
        described,
    )
    for zone, of_zone in itertools.groupby(sorted(done), key=lambda block: block.zone):
        fields = _without(described["map"], "title", "type", "roles") | _placed(mosaics.grid(list(of_zone)))
        title = f"land cover, all blocks of UTM zone {zone}"
        made.add_asset(f"mosaic_{zone}", pystac.Asset(f"./mosaic_{zone}.vrt", title, None, VRT, ["data"], fields))
    title = "hectares of each class"
    made.add_asset("summary", pystac.Asset("./summary.json", title, None, pystac.MediaType.JSON, ["metadata"]))
    if output.name in _children(output.parent):
        made.add_link(_PARENT)
    for block in places:
        made.add_link(pystac.Link("item", f"./blocks/{block.name}.json", pystac.MediaType.GEOJSON))
    write_json(output / NAME, made.to_dict(include_self_link=False))
    return output / NAME


def write_series(folder: Path, children: Sequence[str]) -> Path:
    """Writes the collection of a series of maps. Its children are the collections of its folders, which get a link to it.

    Those that it had before stay, if they are there: a series is continued, and filtered once more by another filter.

    Args:
        folder: folder of the series.
        children: names of the folders of its maps.

    Returns:
        Its path.

    Raises:
        ValueError: there is no folder, or one has no collection, or a damaged one.
    """
    if not children:
        raise ValueError(f"{folder} holds no map, expected one or more of specsar_jax.map_region")
    kept = [name for name in _children(folder) if (folder / name / "blocks").is_dir()]  # no collections of strangers
    maps = {name: _read(folder / name) for name in sorted({*children, *kept})}
    licenses = {child.license for child in maps.values()}
    made = _collection(
        f"land_cover_series_{digest([child.id for child in maps.values()])}",
        blocks.search_bounds(shapely.union_all([blocks.box(*child.box) for child in maps.values()])),
        [child.times for child in maps.values()],
        licenses.pop() if len(licenses) == 1 else "other",
        {name: _each_once(value for child in maps.values() for value in child.summaries[name]) for name in _LISTED},
        {key: asset for child in maps.values() for key, asset in child.described.items()},
    )
    made.title = f"{made.title}, {len(maps)} maps"
    for name, child in maps.items():
        made.add_link(pystac.Link("child", _address(name), pystac.MediaType.JSON, child.title))
    write_json(folder / NAME, made.to_dict(include_self_link=False))
    parent = _PARENT.to_dict()
    for name, child in maps.items():
        if parent not in child.tree["links"]:
            root, *others = child.tree["links"]
            write_json(folder / name / NAME, child.tree | {"links": [root, parent, *others]})
    return folder / NAME


@dataclasses.dataclass(frozen=True)
class _Child:
    """What a series takes of the collection of one of its maps."""

    tree: dict[str, Any]
    id: str
    title: str
    license: str
    box: Sequence[float]
    times: tuple[str, str]
    summaries: dict[str, list[Any]]
    described: dict[str, dict[str, Any]]


def _address(name: str) -> str:
    return f"./{name}/{NAME}"


def _children(folder: Path) -> list[str]:
    """Returns the folders that the collection of a series names; none if there is no such file, or it is damaged."""
    try:
        links = read_object(folder / NAME)["links"]
        hrefs = [link["href"] for link in links if link["rel"] == "child"]
        names = [Path(href).parent.name for href in hrefs]
        return [name for name, href in zip(names, hrefs, strict=True) if name != ".." and href == _address(name)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _read(folder: Path) -> _Child:
    """Reads a collection that `write_collection` wrote."""
    try:
        tree = read_object(folder / NAME, finite=False)
        (box,), (times,) = tree["extent"]["spatial"]["bbox"], tree["extent"]["temporal"]["interval"]
        first, last = times
        _renders(tree["item_assets"]["map"])
        summaries = {name: tree["summaries"][name] for name in _LISTED}
        return _Child(
            tree, tree["id"], tree["title"], tree["license"], box, (first, last), summaries, tree["item_assets"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} has no {NAME} of a map ({one_line(error, 120)}); run the command that mapped it again"
        ) from None


def _placed(grid: Grid) -> dict[str, Any]:
    """Returns the fields of the extension projection."""
    return {
        "proj:code": grid.crs.to_string(),
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform)[:6],
        "proj:bbox": list(grid.bounds),
    }


def _processing(own: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of the extension processing; without the time, so that a block that is mapped again is the same."""
    name, _, version = own.get("specsar:software", "specsar_jax").partition(" ")
    imagery = []
    for key, sensor, what in (("s2", "Sentinel-2", "level"), ("s1", "Sentinel-1", "quantity")):
        if f"specsar:{key}_window" in own:
            first, last = (time[:10] for time in own[f"specsar:{key}_window"].split("/"))
            imagery.append(
                f"{sensor} {own[f'specsar:{key}_{what}']} of {first} to {last} ({own[f'specsar:{key}_collection']})"
            )
    trained = [
        f"{word} {own[f'specsar:{key}']}"
        for word, key in (("trained on", "trained_on"), ("weights", "weights_sha256"), ("of", "weights_origin"))
        if f"specsar:{key}" in own
    ]
    lineage = f"Composite of {' and '.join(imagery)}, classified by a network {', '.join(trained)}".rstrip()
    if "specsar:filter" in own:
        lineage += f"; maps of each {own['specsar:filter_every']}, filtered in time ({own['specsar:filter']})"
    return {"processing:level": "L4", "processing:lineage": lineage, "processing:software": {name: version}}


def _renders(asset: dict[str, Any]) -> dict[str, Any]:
    """Returns the field of the extension render: the colours of the classes, which TiTiler does not read from the files of an item."""
    colours = {str(kind["value"]): f"#{kind['color_hint']}" for kind in asset["classification:classes"]}
    how = {"assets": ["map"], "nodata": asset["nodata"], "resampling": "nearest", "colormap": colours}
    return {"land_cover": {"title": "land cover", **how}}


def _collection(
    identity: str,
    box: Sequence[float],
    times: Sequence[tuple[str, str]],
    license: str,
    summaries: dict[str, list[Any]],
    described: dict[str, dict[str, Any]],
) -> pystac.Collection:
    """Returns a collection that is its own root, so that a map of a series can be read without the others."""
    first, last = min(time[0] for time in times), max(time[1] for time in times)
    days, years = (" to ".join(dict.fromkeys(time[:digits] for time in (first, last))) for digits in (10, 4))
    made = pystac.Collection(
        identity,
        # The second sentence is what the terms of the imagery ask of those who pass on what they made of it.
        f"Class of land cover of each pixel of 10 m. Contains modified Copernicus Sentinel data {years}.",
        pystac.Extent(
            pystac.SpatialExtent([list(box)]),
            pystac.TemporalExtent([[pystac.utils.str_to_datetime(time) for time in (first, last)]]),
        ),
        f"Land cover, {days}",
        EXTENSIONS,
        license=license,
        summaries=pystac.Summaries(summaries, maxcount=sys.maxsize),
        extra_fields={"item_assets": described, "renders": _renders(described["map"])},
    )
    made.remove_links("root")
    made.add_link(pystac.Link("root", f"./{NAME}", pystac.MediaType.JSON))
    return made


def _without(asset: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in asset.items() if name not in names}


def _each_once(values: Iterable[Any]) -> list[Any]:
    """Returns the different values, in the order of their first."""
    return [json.loads(text) for text in dict.fromkeys(map(json.dumps, values))]
