"""A region's folder as `map_region` leaves it, of blocks whose classes are drawn; no network, no archive."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("shapely", reason="extra 'region'")
pytest.importorskip("distributed", reason="extra 'region'")

from specsar_jax.batches.preprocess import SensorStatistics, Statistics
from specsar_jax.config import Config
from specsar_jax.regions import region_files, region_map
from specsar_jax.regions.block_rasters import Rasters
from specsar_jax.regions.composites import Composite, Recipe
from specsar_jax.regions.region_files import Job
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands
from tfds_dwplus.imagery.acquisitions import Wanted
from tfds_dwplus.imagery.stac_api import Collection, StacArchive
from tfds_dwplus.places import blocks

BOX = (17.995, 42.398, 18.005, 42.402)
"""About 0.8 by 0.4 km over the meridian between zones 33 and 34."""

PLAIN = Config()

SIZE = 128


def job_over(
    folder: Path, box=BOX, dates=("2024-05-01", "2024-05-31"), classes=bands.DYNAMIC_WORLD, config=PLAIN, **more
) -> Job:
    s2, s1 = (
        SensorStatistics(names, *((0.0,) * len(names),) * 4, "", (1,) * len(names))
        for names in (bands.S2_BANDS, bands.S1_BANDS)
    )
    trained = Trained(config, Statistics(s2, s1, (1,) * len(classes), classes=classes), {}, 0)
    archive = StacArchive(
        Collection("http://127.0.0.1:9", "s2"), Collection("http://127.0.0.1:9", "s1"), "power", "sigma0"
    )
    tags = {"software": "specsar_jax 0.0.1", "weights_sha256": "0" * 64, "trained_on": "drawn"}
    recipe = Recipe(("s2", "s1"), Wanted(), dates, dates)
    return Job(blocks.box(*box), recipe, archive, trained, tags, folder, **more)


def finish(job: Job) -> None:
    """Writes the blocks that are missing, in stripes of 20 pixels of all classes, and then what `map_region` writes last."""
    (job.output / "blocks").mkdir(parents=True, exist_ok=True)
    kinds = len(job.trained.classes)
    nothing = np.zeros((1, 1, 0), np.uint16), np.zeros((1, 1, 0), np.float32)
    made = Composite(*nothing, {"s2": ("a",), "s1": ("b",)}, {"s2": ("2024-05-05",), "s1": ("2024-05-06",)}, ())
    for block in blocks.blocks_of(job.region, SIZE):
        if region_files.is_done(job.output, block):
            continue
        wanted = blocks.inside(block, job.region)
        ids = np.broadcast_to(np.array(block.columns) // 20 % kinds, wanted.shape)
        hectares = np.bincount(ids[wanted], blocks.pixel_hectares(block)[wanted], minlength=256)
        seen = np.where(wanted, np.uint8(3), np.uint8(0)) if job.trained.config.may_miss else None
        class_id = np.where(wanted, ids, bands.IGNORE).astype(np.uint8)
        region_files.write_block(block, job, Rasters(class_id, seen), made, hectares)
    region_map.map_region(job, SIZE, "", 1, 1)
