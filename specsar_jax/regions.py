"""One block of a region: composite, network, files.

Enters: a `Block` and the `Job` that it is a part of. Leaves: its map and its STAC item on disk, and an entry of what became of it.

Blocks have no seams. The squares that the network sees lie on a lattice of the whole zone, so a pixel is blended of the same squares
whichever block it is mapped in; a block reads as much ground about itself as those squares reach: less than one of them on each side.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool

from specsar_jax import blocks, composites, region_files, windows
from specsar_jax.blocks import Block
from specsar_jax.map_files import class_ids
from specsar_jax.mapping import Probabilities, map_pixels
from specsar_jax.region_files import Job
from tfds_dwplus import bands
from tfds_dwplus.imagery import ArchiveError


def map_block(block: Block, job: Job, network: Probabilities) -> dict[str, Any]:
    """Maps a block and writes its files. No fault of an archive or a library is raised.

    Args:
        block: of the region's grid.
        job: what is wanted.
        network: of `mapping.make_probabilities`.

    Returns:
        `block`, its name; `status`: done, empty (no pixel with all bands: the map is all nodata) or failed; of the last, `reason` and
        `again`, whether another try may help; `doubts`, lines to warn of.
    """
    entry = {"block": block.name, "status": "done", "doubts": ()}
    try:
        return entry | _map_block(block, job, network)
    except ValueError as reason:
        return entry | {"status": "failed", "reason": _line(reason), "again": False}
    except (ArchiveError, OSError) as reason:
        return entry | {"status": "failed", "reason": _line(reason), "again": True}
    except Exception as fault:  # whatever a library throws at one block, the others go on
        return entry | {"status": "failed", "reason": _line(f"{type(fault).__name__}: {fault}"), "again": True}


def squares(size: range, square_px: int, overlap: float) -> tuple[range, windows.Axis]:
    """The squares of the lattice that touch some pixels of an axis.

    Args:
        size: the pixels, counted from the origin of the zone.
        square_px: side of a square, rounded up as `windows.lattice` does.
        overlap: share of it that it has in common with the next.

    Returns:
        the pixels that those squares reach, and the squares among them.
    """
    window, step = windows.lattice(square_px, overlap)
    first = (size.start - window) // step * step + step
    last = (size.stop - 1) // step * step
    reach = range(first, last + window)
    return reach, windows.plan(len(reach), window, overlap, first)


def _map_block(block: Block, job: Job, network: Probabilities) -> dict[str, Any]:
    wanted = blocks.inside(block, job.region)
    probability = np.full((*wanted.shape, len(bands.CLASSES)), np.nan, np.float32)
    made = None
    if wanted.any():
        rows, columns = _extent(wanted)
        config = job.trained.config
        (row_reach, row_axis), (column_reach, column_axis) = (
            squares(axis[part], config.data.crop_px, config.predict.overlap)
            for axis, part in ((block.rows, rows), (block.columns, columns))
        )
        made = composites.composite(block.part(row_reach, column_reach), job.recipe, job.archive)
        mapped = map_pixels(network, made.s2, made.s1, row_axis, column_axis, config)
        top, left = block.rows[rows].start - row_reach.start, block.columns[columns].start - column_reach.start
        height, width = rows.stop - rows.start, columns.stop - columns.start
        probability[rows, columns] = mapped[top : top + height, left : left + width]
        probability[~wanted] = np.nan
    class_id = class_ids(probability, ~np.isnan(probability[..., 0]))
    area = blocks.pixel_hectares(block)
    hectares = np.bincount(class_id[wanted], area[wanted], minlength=bands.IGNORE + 1)
    region_files.write_block(block, job, probability, made, hectares)
    empty = not hectares[: len(bands.CLASSES)].any()
    return {"status": "empty" if empty else "done", "doubts": made.doubts if made else ()}


def _extent(mask: Bool[np.ndarray, "height width"]) -> tuple[slice, slice]:
    """Rows and columns from the first to the last that have a pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _line(reason: object) -> str:
    return " ".join(str(reason).split())[:500]
