"""Reads and writes the folder of a region's map.

    region.json               the settings; a folder accepts no map with other settings
    blocks/<zone>_<x>_<y>.tif   the map of a block, as `map_files` writes it; nodata outside of the region and of the zone
    blocks/<zone>_<x>_<y>.json  its STAC item, with the area of each class; written last, so a block that has one is finished
    mosaic_<zone>.vrt         all blocks of a UTM zone as one raster; one per zone, as a VRT has one CRS
    summary.json              area of each class in hectares, and the blocks that failed or have no imagery

A file appears under its name only when it is complete.
"""

import contextlib
import dataclasses
import fcntl
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pystac
import shapely
from jaxtyping import Float, Float32

from specsar_jax.maps import qgis
from specsar_jax.maps.map_files import Outputs, write_map
from specsar_jax.regions import blocks
from specsar_jax.regions.blocks import Block
from specsar_jax.regions.composites import Composite, Recipe, interval
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands
from tfds_dwplus.command_line import written_whole
from tfds_dwplus.imagery.stac_api import StacArchive


@dataclasses.dataclass(frozen=True)
class Job:
    """The settings that all blocks of a region share."""

    region: shapely.Geometry
    """Polygons in degrees, from `blocks.box` or `blocks.from_geojson`."""
    recipe: Recipe
    archive: StacArchive
    trained: Trained
    tags: dict[str, str]
    """Tags to write into every map."""
    output: Path


@contextlib.contextmanager
def opened(output: Path, asked: dict[str, Any]) -> Iterator[None]:
    """Creates the folder, or checks that it belongs to this region and these settings; locks it for this process.

    Raises:
        ValueError: it is a file, holds a map with other settings, or another process is at work on it.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file, expected a folder to write to; give another --output")
    (output / "blocks").mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another map_region is at work on {output}; wait for it, or give another --output"
            ) from None
        _check_asked(output / "region.json", json.loads(json.dumps(asked)), bool(_items(output)))
        for part in (output / "blocks").glob(".*"):  # unfinished files of workers of an earlier run
            shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)
        yield


def is_done(output: Path, block: Block) -> bool:
    """Returns whether the files of a block are complete."""
    return all((output / "blocks" / f"{block.name}.{kind}").is_file() for kind in ("json", "tif"))


def write_block(
    block: Block,
    job: Job,
    probability: Float32[np.ndarray, "size size class"],
    made: Composite | None,
    hectares: Float[np.ndarray, "256"],
) -> None:
    """Writes the map of a block, then its STAC item.

    Args:
        block: block of the region's grid.
        job: settings of the region.
        probability: class probabilities, NaN where nothing is mapped.
        made: composite that it was mapped from; None if no pixel of the block is in the region.
        hectares: area of the region in this block by class id, the last one nodata.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = job.output / "blocks"
    tags = job.tags | {"s2_window": interval(job.recipe.s2_dates), "s1_window": interval(job.recipe.s1_dates)}
    for sensor in job.recipe.sensors:
        for what in ("items", "dates"):
            tags[f"{sensor}_{what}"] = " ".join(getattr(made, what).get(sensor, ())) if made else ""
    item = _item(block, job, made, hectares)
    # One folder per attempt: a worker that lost its scheduler may still be writing this block while another one does so too.
    with tempfile.TemporaryDirectory(prefix=f".{block.name}.", dir=folder, ignore_cleanup_errors=True) as own:
        write_map(block.grid, Outputs(Path(own) / f"{block.name}.tif"), tags, probability)
        for kind in (".tif.aux.xml", ".qml", ".tif"):
            Path(own, block.name + kind).replace(folder / (block.name + kind))
        with written_whole(folder / f"{block.name}.json") as part:
            part.write_text(json.dumps(item, indent=1) + "\n", encoding="utf-8")


def write_mosaics(output: Path, done: Sequence[Block]) -> list[Path]:
    """Writes a VRT of the finished blocks of each zone, with a style for QGIS beside it; returns the paths of the VRTs."""
    paths = []
    for zone in sorted({block.zone for block in done}):
        path = output / f"mosaic_{zone}.vrt"
        for name, text in (
            (path, _mosaic([b for b in done if b.zone == zone])),
            (path.with_suffix(".qml"), qgis.style()),
        ):
            with written_whole(name) as part:
                part.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def write_summary(output: Path, job: Job, todo: Sequence[Block], failed: dict[str, str]) -> dict[str, Any]:
    """Adds up the areas of the finished blocks, in hectares, writes summary.json and returns its content."""
    classes = dict.fromkeys(bands.CLASSES, 0.0)
    without, empty, missing = 0.0, [], []
    for block in todo:
        if not is_done(output, block):
            missing.append(block.name)
            continue
        known = json.loads((output / "blocks" / f"{block.name}.json").read_bytes())["properties"]
        for name, area in known["specsar:hectares"].items():
            classes[name] += area
        without += known["specsar:no_data_hectares"]
        if known["specsar:no_data_hectares"] and not any(known["specsar:hectares"].values()):
            empty.append(block.name)
    summary = {
        "region_hectares": blocks.region_hectares(job.region),
        "hectares": classes,
        "no_data_hectares": without,
        "blocks": len(todo),
        "blocks_without_imagery": empty,
        "blocks_missing": {name: failed.get(name, "not yet tried") for name in missing},
        **job.tags,
    }
    with written_whole(output / "summary.json") as part:
        part.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def table(summary: dict[str, Any]) -> str:
    """Formats the areas of a summary as text: hectares, and percent of the mapped area."""
    mapped = sum(summary["hectares"].values())
    share = 100 / mapped if mapped else 0.0
    rows = [f"{name:<20} {area:>16,.1f} ha {area * share:>6.1f} %" for name, area in summary["hectares"].items()]
    rows.append(f"{'mapped':<20} {mapped:>16,.1f} ha")
    if summary["no_data_hectares"]:
        rows.append(f"{'without imagery':<20} {summary['no_data_hectares']:>16,.1f} ha")
    rows.append(f"{'the region':<20} {summary['region_hectares']:>16,.1f} ha")
    return "\n".join(rows)


def _items(output: Path) -> list[Path]:
    return list((output / "blocks").glob("*.json"))


def _check_asked(path: Path, asked: dict[str, Any], holds_blocks: bool) -> None:
    if path.exists() and holds_blocks:
        try:
            found = json.loads(path.read_bytes())
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"{path} is damaged; give another --output")
        for name in sorted(asked.keys() | found.keys()):
            if asked.get(name) != found.get(name):
                was, now = (json.dumps(tree.get(name))[:100] for tree in (found, asked))
                raise ValueError(
                    f"{path.parent} was made with {name} {was}, and is now to be with {now}; "
                    "one folder holds one map: take the same settings or another --output"
                )
    elif holds_blocks:
        raise ValueError(f"{path.parent} holds blocks but no {path.name}; give another --output")
    else:
        with written_whole(path) as part:
            part.write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")


def _item(block: Block, job: Job, made: Composite | None, hectares: Float[np.ndarray, "256"]) -> dict[str, Any]:
    """Returns the STAC 1.1 item of a block, with the extensions projection 2 and classification 2, and own fields specsar:*."""
    place = blocks.footprint(block, job.region)
    days = sorted(day for sensor in job.recipe.sensors for day in getattr(job.recipe, f"{sensor}_dates"))
    grid = block.grid
    item = pystac.Item(
        block.name,
        None if place.is_empty else shapely.geometry.mapping(place),
        None if place.is_empty else list(place.bounds),
        None,
        {
            "start_datetime": f"{days[0]}T00:00:00Z",
            "end_datetime": f"{days[-1]}T23:59:59Z",
            "proj:code": grid.crs.to_string(),
            "proj:shape": list(grid.shape),
            "proj:transform": list(grid.transform)[:6],
            "specsar:hectares": {name: float(hectares[place]) for place, name in enumerate(bands.CLASSES)},
            "specsar:no_data_hectares": float(hectares[bands.IGNORE]),
            "specsar:items": {sensor: list(names) for sensor, names in made.items.items()} if made else {},
            "specsar:doubts": list(made.doubts) if made else [],
            **{f"specsar:{name}": text for name, text in job.tags.items()},
        },
        stac_extensions=[
            "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
            "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
        ],
    )
    kinds = [
        {"value": value, "name": name, "color_hint": colour}
        for value, (name, colour) in enumerate(zip(bands.CLASSES, bands.CLASS_COLOURS, strict=True))
    ]
    more = {"data_type": "uint8", "nodata": bands.IGNORE, "classification:classes": kinds}
    item.add_asset("map", pystac.Asset(f"./{block.name}.tif", "land cover", None, pystac.MediaType.COG, ["data"], more))
    return item.to_dict(include_self_link=False)


def _mosaic(done: Sequence[Block]) -> str:
    """Returns the XML of a GDAL virtual raster (VRT) of the blocks of one zone.

    Source: https://gdal.org/en/stable/drivers/raster/vrt.html
    """
    top, left = min(block.rows.start for block in done), min(block.columns.start for block in done)
    height, width = max(block.rows.stop for block in done) - top, max(block.columns.stop for block in done) - left
    grid = done[0].part(range(top, top + height), range(left, left + width))
    colours = "".join('<Entry c1="{}" c2="{}" c3="{}" c4="255"/>'.format(*rgb) for rgb in bands.class_rgb())
    names = "".join(f"<Category>{escape(name)}</Category>" for name in bands.CLASSES)
    sources = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="1">blocks/{block.name}.tif</SourceFilename><SourceBand>1</SourceBand>'
        f'<SourceProperties RasterXSize="{block.size_px}" RasterYSize="{block.size_px}" DataType="Byte" BlockXSize="512" '
        f'BlockYSize="512"/><SrcRect xOff="0" yOff="0" xSize="{block.size_px}" ySize="{block.size_px}"/>'
        f'<DstRect xOff="{block.columns.start - left}" yOff="{block.rows.start - top}" xSize="{block.size_px}" '
        f'ySize="{block.size_px}"/></SimpleSource>'
        for block in sorted(done)
    )
    return (
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>{escape(grid.crs.to_wkt())}</SRS>'
        f"<GeoTransform>{', '.join(map(repr, grid.transform.to_gdal()))}</GeoTransform>"
        f'<VRTRasterBand dataType="Byte" band="1"><Description>land cover</Description><NoDataValue>{bands.IGNORE}</NoDataValue>'
        f"<ColorInterp>Palette</ColorInterp><ColorTable>{colours}</ColorTable><CategoryNames>{names}</CategoryNames>"
        f"{sources}</VRTRasterBand></VRTDataset>"
    )
