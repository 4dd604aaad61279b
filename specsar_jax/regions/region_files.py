"""Reads and writes the folder of a region's map.

    region.json               the settings; a folder accepts no map with other settings
    blocks/<zone>_<x>_<y>.tif   the map of a block, as `map_files` writes it; nodata outside of the region and of the zone
    blocks/<zone>_<x>_<y>.json  its STAC item, with the area of each class; written last, so a block that has one is finished
    seen/<zone>_<x>_<y>.tif     by which sensors each pixel was seen, if the network works without one of them
    probabilities/...tif      likewise the probability of each class, if a filter in time is to read it
    changed/...tif            likewise the month of the last change, of a map that was filtered in time
    mosaic_<zone>.vrt         all blocks of a UTM zone as one raster, of `mosaics`
    summary.json              area of each class in hectares, the blocks that failed or have no imagery, the scenes left out, by reason
    collection.json           the STAC collection of the items, of `stac_files`; written last

A file appears under its name only when it is complete.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rasterio
from jaxtyping import Float

from specsar_jax.maps import publishing, qgis
from specsar_jax.maps.map_files import Outputs, write_classes
from specsar_jax.regions import stac_files
from specsar_jax.regions.block_rasters import ASSETS, CHANGED, PROBABILITIES, SEEN, Rasters, months_cog
from specsar_jax.regions.composites import Composite
from specsar_jax.regions.jobs import Job, collection_id, settings, tags_of
from tfds_dwplus import bands
from tfds_dwplus.bands import Classes
from tfds_dwplus.files.addresses import compared_tree, shown_in
from tfds_dwplus.files.outputs import locked, remove_partials, write_json, write_whole
from tfds_dwplus.files.strangers import a_count, a_number, an_object, one_line, read_object, texts
from tfds_dwplus.imagery.decoder import backscatter
from tfds_dwplus.imagery.items.stac_assets import kind_of_note
from tfds_dwplus.places import blocks
from tfds_dwplus.places.blocks import Block

OTHER_OUTPUT = "one folder holds one map: take the same settings or another --output"

SERIES = "series.json"
"""File of the settings of a series of maps, in whose folder each has a folder of its own."""

TAKEN_ORBIT = "s1_orbit_taken"
"""Field of region.json beside what was asked: the orbit direction that was taken, where two were to be tried."""


@contextlib.contextmanager
def opened(output: Path, asked: dict[str, Any], advice: str = OTHER_OUTPUT) -> Iterator[None]:
    """Creates the folder, or checks that it belongs to this region and these settings; locks it for this process.

    A folder in which no block has a class may take other settings; what it holds is removed.

    Args:
        output: the folder.
        asked: the settings, for JSON.
        advice: end of the message if it holds a map with other settings.

    Raises:
        ValueError: it is a file, holds a map with other settings or a series, or another process is at work on it.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file, expected a folder to write to; give another --output")
    if (output / SERIES).exists():
        raise ValueError(f"{output} holds a series of maps; give its --every, or another --output")
    (output / "blocks").mkdir(parents=True, exist_ok=True)
    with locked(output / ".lock", output, advice="wait for it, or give another --output"):
        remove_partials(output)
        _take(output / "region.json", compared_tree(json.loads(json.dumps(asked))), advice)
        for part in (output / "blocks").glob(".*"):  # unfinished files of workers of an earlier run
            shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)
        yield


def taken_orbit(output: Path) -> str:
    """Returns the orbit direction that a region's finished blocks were made with; "" if there are none."""
    return read_object(output / "region.json", finite=False).get(TAKEN_ORBIT, "") if _items(output) else ""


def keep_orbit(output: Path, orbit: str) -> None:
    """Keeps the orbit direction, so that blocks that are mapped later are of the same one."""
    asked = read_object(output / "region.json", finite=False)
    _write_asked(output / "region.json", asked | {TAKEN_ORBIT: orbit})


def is_done(output: Path, block: Block, *, probabilities: bool = False) -> bool:
    """Returns whether the files of a block are complete, with its probabilities if they are wanted."""
    files = [output / "blocks" / f"{block.name}.{kind}" for kind in ("json", "tif")]
    files += [output / PROBABILITIES / f"{block.name}.tif"] * probabilities
    return all(file.is_file() for file in files)


def write_block(
    block: Block,
    job: Job,
    rasters: Rasters,
    made: Composite | None,
    hectares: Float[np.ndarray, "256"],
) -> None:
    """Writes the map of a block and the rasters beside it, then its STAC item.

    Args:
        block: block of the region's grid.
        job: settings of the region.
        rasters: its pixels.
        made: composite that it was mapped from; None if no pixel of the block is in the region.
        hectares: area of the region in this block by class id, the last one nodata.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = job.output / "blocks"
    tags, classes = tags_of(job, made), job.trained.classes
    item = _item(block, job, _known(block, job, made, hectares), rasters.beside)
    beside = {name: job.output / name / f"{block.name}.tif" for name in rasters.beside}
    for path in beside.values():
        path.parent.mkdir(exist_ok=True)
    if rasters.changed is not None:
        write_whole(beside[CHANGED], months_cog(block, rasters.changed, tags))
    # One folder per attempt: a worker that lost its scheduler may still be writing this block while another one does so too.
    with tempfile.TemporaryDirectory(prefix=f".{block.name}.", dir=folder, ignore_cleanup_errors=True) as own:
        outputs = Outputs(Path(own) / f"{block.name}.tif", beside.get(PROBABILITIES), sensors_seen=beside.get(SEEN))
        write_classes(block.grid, outputs, classes, tags, rasters.class_id, rasters.share, rasters.seen)
        publishing.publish(Path(own) / f"{block.name}.tif", folder / f"{block.name}.tif", qgis.style(classes))
        write_json(folder / f"{block.name}.json", item)


def write_summary(output: Path, job: Job, todo: Sequence[Block], failed: dict[str, str]) -> dict[str, Any]:
    """Adds up the areas of the finished blocks, in hectares, writes summary.json and returns its content."""
    classes = dict.fromkeys(job.trained.classes.names, 0.0)
    without, empty, missing = 0.0, [], []
    left_out: dict[str, dict[str, str]] = {}
    pixels: dict[str, int] = {}
    scenes: dict[str, set[str]] = {sensor: set() for sensor in job.recipe.sensors}
    for block in todo:
        if not is_done(output, block):
            missing.append(block.name)
            continue
        known = _told(output / "blocks" / f"{block.name}.json", job.trained.classes)
        for name, area in known["specsar:hectares"].items():
            classes[name] += area
        without += known["specsar:no_data_hectares"]
        if known["specsar:no_data_hectares"] and not any(known["specsar:hectares"].values()):
            empty.append(block.name)
        for note in known["specsar:doubts"]:
            if kind := kind_of_note(note):
                left_out.setdefault(kind[0], {})[kind[1]] = note
        for reason, number in known.get("specsar:s1_pixels_left_out", {}).items():
            pixels[reason] = pixels.get(reason, 0) + number
        for sensor, names in known["specsar:items"].items():
            scenes[sensor].update(names)
    summary = {
        "region_hectares": blocks.region_hectares(job.region),
        "hectares": classes,
        "no_data_hectares": without,
        "blocks": len(todo),
        "blocks_without_imagery": empty,
        "blocks_missing": {name: failed.get(name, "not yet tried") for name in missing},
        "scenes_used": {sensor: len(names) for sensor, names in scenes.items()},
        "scenes_left_out": left_out,
        "s1_pixels_left_out": pixels,
        **job.tags,
    }
    write_json(output / "summary.json", summary)
    return summary


def write_collection(output: Path, job: Job, done: Sequence[Block]) -> None:
    """Writes the STAC collection of the finished blocks; the items of an older folder become what items are now, and those of which a raster
    beside the map was removed, such as the probabilities, do not lead to it any more.
    """
    for block in done:
        path = output / "blocks" / f"{block.name}.json"
        tree = read_object(path, finite=False)
        try:
            beside = [name for name in ASSETS if (output / name / f"{block.name}.tif").is_file()]
            beside = [name for name in beside if ASSETS[name][0] in tree["assets"]]
            if stac_files.is_current(tree, collection_id(job)) and len(tree["assets"]) == 1 + len(beside):
                continue
            kept = ("specsar:", "processing:software")
            own = {name: value for name, value in tree["properties"].items() if name.startswith(kept)}
            renewed = _item(block, job, own, beside)
        except (KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, error) from None
        write_json(path, renewed)
    stac_files.write_collection(output, job.region, done, collection_id(job), job.license)


def table(summary: dict[str, Any]) -> str:
    """Formats the areas of a summary as text: hectares, and percent of the mapped area."""
    mapped = sum(summary["hectares"].values())
    share = 100 / mapped if mapped else 0.0
    wide = max(20, *map(len, summary["hectares"]))
    rows = [f"{name:<{wide}} {area:>16,.1f} ha {area * share:>6.1f} %" for name, area in summary["hectares"].items()]
    rows.append(f"{'mapped':<{wide}} {mapped:>16,.1f} ha")
    if summary["no_data_hectares"]:
        rows.append(f"{'without imagery':<{wide}} {summary['no_data_hectares']:>16,.1f} ha")
    rows.append(f"{'the region':<{wide}} {summary['region_hectares']:>16,.1f} ha")
    return "\n".join(rows)


def left_out(summary: dict[str, Any]) -> list[str]:
    """Returns what a summary tells of scenes and pixels that were left out, a line for each reason."""
    told = [
        f"{len(scenes)} scene{'' if len(scenes) == 1 else 's'} left out: {kind}, as {next(iter(scenes))}"
        for kind, scenes in sorted(summary["scenes_left_out"].items())
    ]
    return told + backscatter.told(summary["s1_pixels_left_out"])


def _told(item: Path, classes: Classes) -> dict[str, Any]:
    """Reads what the STAC item of a block tells of it. Raises a ValueError if it is not what `write_block` writes."""
    try:
        known = an_object(read_object(item, finite=False).get("properties"), "properties")
        for name, area in an_object(known.get("specsar:hectares"), "hectares").items():
            if name not in classes.names:
                raise ValueError(f"hectares of {one_line(name, 40)}")
            a_number(area, "hectares")
        a_number(known.get("specsar:no_data_hectares"), "no_data_hectares")
        texts(known.get("specsar:doubts"), "doubts")
        for number in an_object(known.get("specsar:s1_pixels_left_out", {}), "s1_pixels_left_out").values():
            a_count(number, "s1_pixels_left_out")
        for sensor, names in an_object(known.get("specsar:items"), "items").items():
            if sensor not in ("s2", "s1"):
                raise ValueError(f"items of {one_line(sensor, 40)}")
            texts(names, "items")
    except ValueError as error:
        raise _damaged(item, error) from None
    return known


def _damaged(item: Path, error: Exception) -> ValueError:
    return ValueError(f"{item} is damaged ({one_line(error, 120)}); remove it, and its block is mapped again")


def _items(output: Path) -> list[Path]:
    return list((output / "blocks").glob("*.json"))


def _take(path: Path, asked: dict[str, Any], advice: str) -> None:
    """Writes what is asked for, or checks that the folder's blocks were made with it. Blocks without a class do not count."""
    items = _items(path.parent)
    if not items:
        return _write_asked(path, asked)
    if not path.exists():
        raise ValueError(f"{path.parent} holds blocks but no {path.name}; give another --output")
    try:
        found = read_object(path, finite=False)
    except ValueError:
        raise ValueError(f"{path} is damaged; give another --output") from None
    kept = compared_tree(found)  # older folders have whole addresses
    if kept != found:
        _write_asked(path, kept)
    found = {name: of for name, of in kept.items() if name != TAKEN_ORBIT}
    if not (different := told_differences(found, asked)):
        return None
    if not any(map(is_mapped, items)):
        for item in items:
            for part in list(path.parent.glob(f"*/{item.stem}.*")):
                part.unlink()
        (path.parent / stac_files.NAME).unlink(missing_ok=True)
        return _write_asked(path, asked)
    raise ValueError(f"{path.parent} was made with {different}; {advice}")


def told_differences(found: dict[str, Any], asked: dict[str, Any]) -> str:
    """Says in what the settings of a folder differ from what is asked, 'block_px 128, and is now to be with 256'; "" if in nothing."""
    different = list(_differences(found, asked))
    if not different:
        return ""
    (name, was, now), *others = different
    more = f" (and with other {', '.join(name for name, *_ in others)})" if others else ""
    return f"{name} {was}, and is now to be with {now}{more}"


def _write_asked(path: Path, asked: dict[str, Any]) -> None:
    write_json(path, asked)


def is_mapped(item: Path) -> bool:
    """Returns whether a block has a pixel with a class; also if its item cannot be read."""
    try:
        return any(read_object(item, finite=False)["properties"]["specsar:hectares"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return True


def _differences(found: Any, asked: Any, name: str = "") -> Iterator[tuple[str, str, str]]:
    """Yields each field that differs: its name, such as 'wanted.s1_orbit', and both values, from about where they differ."""
    if isinstance(found, dict) and isinstance(asked, dict):
        for key in sorted(found.keys() | asked.keys()):
            yield from _differences(found.get(key), asked.get(key), f"{name}.{key}" if name else key)
    elif found != asked:
        texts = [json.dumps(value) for value in (found, asked)]
        same = next(
            (at for at, (one, other) in enumerate(zip(*texts, strict=False)) if one != other), min(map(len, texts))
        )
        start = max(same - 20, 0) if max(map(len, texts)) > 80 else 0
        yield name, *(("..." if start else "") + text[start : start + 80] for text in texts)


def _known(block: Block, job: Job, made: Composite | None, hectares: Float[np.ndarray, "256"]) -> dict[str, Any]:
    """Returns what is known of a block, as properties of its item: fields of our own, and the versions of what made the map."""
    name, _, version = job.tags["software"].partition(" ")
    return {
        "processing:software": {name: version, "jax": jax.__version__, "GDAL": rasterio.__gdal_version__},
        "specsar:hectares": {name: float(hectares[place]) for place, name in enumerate(job.trained.classes.names)},
        "specsar:no_data_hectares": float(hectares[bands.IGNORE]),
        "specsar:items": {sensor: list(names) for sensor, names in made.items.items()} if made else {},
        "specsar:s2_offsets": {name: offset for name, (offset, _) in made.s2_read.items()} if made else {},
        "specsar:s2_baselines": {name: baseline for name, (_, baseline) in made.s2_read.items()} if made else {},
        "specsar:s1_pixels_left_out": dict(made.s1_pixels) if made else {},
        "specsar:doubts": list(map(shown_in, made.doubts)) if made else [],
        **{f"specsar:{name}": text for name, text in settings(job).items()},
    }


def _item(block: Block, job: Job, known: dict[str, Any], beside: Sequence[str]) -> dict[str, Any]:
    """Returns the STAC item of a block with rasters in some folders beside its map."""
    days = sorted(day for sensor in job.recipe.sensors for day in getattr(job.recipe, f"{sensor}_dates"))
    return stac_files.item(
        block,
        blocks.footprint(block, job.region),
        job.trained.classes,
        (days[0], days[-1]),
        known,
        collection_id(job),
        {folder: ASSETS[folder] for folder in beside},
    )
