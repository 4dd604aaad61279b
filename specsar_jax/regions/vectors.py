"""Polygons of a region's map, and its mosaics with small patches joined to others.

    generalised/<zone>.tif    the mosaic of a UTM zone with small patches joined, as a map of `predict`

Enters: the mosaics of a region whose blocks are done. Leaves: what is asked of them. Patches go on over blocks; they end where a UTM zone ends, as
mosaics do, and each place lies in one of them.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from specsar_jax.maps import final_files, publishing
from specsar_jax.patches.asked import Asked
from specsar_jax.regions.region_files import Job
from tfds_dwplus.command_line import progress
from tfds_dwplus.files.outputs import output_claimed
from tfds_dwplus.files.workplaces import beside, workplace

GENERALISED = "generalised"
"""Folder of the rasters with small patches joined, in that of the region."""


@contextlib.contextmanager
def claimed(asked: Asked, region: Path | None = None) -> Iterator[Asked]:
    """Keeps other processes from writing the polygons of a region; yields what is asked, with links followed.

    Args:
        asked: is to be claimed before the region is mapped, so that what is wrong with it is told then.
        region: file that the region was read from.

    Raises:
        ValueError: nothing can be written there, another process does, or it is the file of the region.
    """
    with contextlib.ExitStack() as stack:
        if asked.polygons:
            if region and asked.polygons.resolve() == region.resolve():
                raise ValueError(f"--polygons {asked.polygons} is the file of --geojson; give another name to write to")
            final = stack.enter_context(output_claimed(asked.polygons, "--polygons"))
            asked = dataclasses.replace(asked, polygons=final)
        yield asked


def write_vectors(job: Job, mosaics: Sequence[Path], asked: Asked) -> list[Path]:
    """Writes what is asked of a region's mosaics; returns the paths.

    Args:
        job: of the region; its folder must be held by `region_files.opened`.
        mosaics: of its UTM zones.
        asked: `generalised` is a folder.

    Raises:
        ValueError: a mosaic cannot be read.
        OSError: the disk is full, or cannot be written for another reason.
    """
    if not asked.paths:
        return []
    from specsar_jax.patches.class_rasters import grid_of  # the packages of an extra
    from specsar_jax.patches.vector_files import Source, write_polygons

    written, sources, pixels = [], [], 0
    with _keeping(), workplace(beside(job.output / GENERALISED), job.output) as folder:
        for mosaic in mosaics:
            zone = mosaic.stem.removeprefix("mosaic_")
            (folder / zone).mkdir()
            work = final_files.Work(folder / zone, grid_of(mosaic), job.trained.classes, job.tags)
            joined = final_files.joined(work, mosaic, asked.minimum_area_ha)
            if asked.generalised:
                asked.generalised.mkdir(exist_ok=True)
                written.append(asked.generalised / f"{zone}.tif")
                final_files.write_generalised(work, joined, written[-1], asked.minimum_area_ha)
            sources.append(Source(joined, zone))
            pixels += work.grid.height * work.grid.width
        if asked.polygons:
            ending = asked.polygons.suffix.lower()
            whole = folder / f"polygons{ending}"
            with progress(total=pixels, desc="polygons", unit="px", unit_scale=True, leave=False) as bar:
                write_polygons(whole, ending, sources, job.trained.classes, done=bar.update)
            publishing.publish_file(whole, asked.polygons)
            written.append(asked.polygons)
    return written


@contextlib.contextmanager
def _keeping() -> Iterator[None]:
    """Says that the blocks are kept if something stops what is made of them."""
    try:
        yield
    except BaseException:
        print("note: all blocks of the map are kept: the same command goes on from there", file=sys.stderr)
        raise
