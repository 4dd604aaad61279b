"""The settings that all blocks of a region share, and what follows from them: the tags of its maps, the id of its collection."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import shapely

from specsar_jax.regions import stac_files
from specsar_jax.regions.composites import Composite, Recipe, interval
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus.files.addresses import compared_tree, shown_in
from tfds_dwplus.imagery.stac_api import StacArchive

FILTER_TAGS = ("filter", "filter_every", "filter_stay", "filter_transitions_sha256", "filter_cover")
"""Tags of a map that was filtered in time, which tell how."""


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
    probabilities: bool = False
    """Whether the probability of each class is kept."""
    license: str = "other"
    """Of the map, for its collection: an identifier of SPDX, or `other`."""


def settings(job: Job) -> dict[str, str]:
    """Returns what all blocks have in common, as tags: the network, and which imagery was wanted."""
    recipe, wanted = job.recipe, job.recipe.wanted
    tags = dict(job.tags)
    for sensor in recipe.sensors:
        tags[f"{sensor}_window"] = interval(getattr(recipe, f"{sensor}_dates"))
        tags[f"{sensor}_collection"] = getattr(job.archive, sensor).name
    if "s2" in recipe.sensors:
        tags["s2_level"] = wanted.s2_level
    if "s1" in recipe.sensors:
        quantity = job.archive.s1_quantity
        tags |= {
            "s1_quantity": quantity,
            "s1_unit": f"{quantity} dB",
            "s1_orbit": wanted.s1_orbit,
            "s1_mean": wanted.s1_mean,
        }
    return tags


def tags_of(job: Job, made: Composite | None) -> dict[str, str]:
    """Returns the tags of a block's map: the settings, what it was made of, and how that was read."""
    tags = settings(job)
    for sensor in job.recipe.sensors:
        for what in ("items", "dates"):
            tags[f"{sensor}_{what}"] = " ".join(getattr(made, what).get(sensor, ())) if made else ""
    if made and made.s2_read:
        offsets, baselines = zip(*made.s2_read.values(), strict=True)
        tags |= {"s2_offset": _each(offsets), "s2_baseline": _each(baselines)}
    if made and made.doubts:
        tags["notes"] = shown_in(" | ".join(made.doubts))
    return tags


def collection_id(job: Job) -> str:
    """Returns the id of a region's collection: the same wherever its folder lies, and another one for another map."""
    # Of two orbit directions one is taken later, when the archive was asked.
    wanted = dataclasses.replace(job.recipe.wanted, s1_orbit="")
    recipe = dataclasses.asdict(dataclasses.replace(job.recipe, wanted=wanted))
    archives = [dataclasses.asdict(getattr(job.archive, sensor)) for sensor in job.recipe.sensors]
    stored = [job.archive.s1_unit, job.archive.s1_quantity] if "s1" in job.recipe.sensors else []
    made_by = {name: job.tags.get(name, "") for name in ("weights_sha256", *FILTER_TAGS)}
    overlap = job.trained.config.predict.overlap
    about = [job.region.wkb_hex, recipe, archives, stored, made_by, overlap]
    return f"land_cover_{stac_files.digest(compared_tree(about))}"


def _each(texts: Sequence[str]) -> str:
    """Returns the different texts, sorted: '0, 1000'."""
    return ", ".join(sorted(set(filter(None, texts))))
