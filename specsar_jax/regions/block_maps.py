"""Maps one block of a region: reads the composite, runs the network and writes the files.

Enters: a `Block` and the `Job` that it belongs to. Leaves: its map and its STAC item on disk, and an entry with its status.

There are no seams between blocks. The network's windows lie on a fixed grid of the whole zone, so a pixel is blended from the same
windows in whichever block it is mapped. A block reads the margin that its windows need: less than one window on each side.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool

from specsar_jax.maps import windows
from specsar_jax.maps.map_files import class_ids, scaled
from specsar_jax.maps.mapping import Probabilities, map_pixels
from specsar_jax.network import model
from specsar_jax.regions import composites, region_files
from specsar_jax.regions.block_rasters import Rasters
from specsar_jax.regions.region_files import Job
from tfds_dwplus import bands
from tfds_dwplus.files.addresses import shown_in
from tfds_dwplus.imagery.acquisitions import ArchiveError, ItemError
from tfds_dwplus.places import blocks
from tfds_dwplus.places.blocks import Block


def map_block(block: Block, job: Job, network: Probabilities) -> dict[str, Any]:
    """Maps a block and writes its files. Errors of an archive or a library are returned, not raised.

    Args:
        block: block of the region's grid.
        job: settings of the region.
        network: result of `compiled.make_probabilities`.

    Returns:
        `block`, its name; `status`: done, empty (no pixel has all bands, so the map is all nodata) or failed; if failed, `reason`,
        its `kind`, the same for many blocks, and `again`, whether another attempt may help; `doubts`, lines to print as warnings.
    """
    entry = {"block": block.name, "status": "done", "doubts": ()}
    try:
        return entry | _map_block(block, job, network)
    except ValueError as reason:
        kind = reason.kind if isinstance(reason, ItemError) else "it cannot be mapped"
        return entry | {"status": "failed", "reason": _line(reason), "kind": kind, "again": False}
    except ArchiveError as reason:
        return entry | {
            "status": "failed",
            "reason": _line(reason),
            "kind": "the archive does not answer",
            "again": True,
        }
    except OSError as reason:
        return entry | {"status": "failed", "reason": _line(reason), "kind": "a file of this machine", "again": True}
    except Exception as fault:  # an unexpected error in one block must not stop the others
        reason = _line(f"{type(fault).__name__}: {fault}")
        return entry | {"status": "failed", "reason": reason, "kind": "an unexpected error", "again": True}


def windows_over(
    size: range, window_px: int, overlap: float, *, stride_px: int = windows.STRIDE_PX, margin_px: int = 0
) -> tuple[range, windows.Axis]:
    """Returns the windows of the zone's fixed grid that touch some pixels of an axis.

    Args:
        size: the pixels, counted from the origin of the zone.
        window_px: side of a window, rounded up as in `windows.side_and_step`.
        overlap: share of a window that it has in common with the next.
        stride_px: as `windows.plan` takes it.
        margin_px: likewise.

    Returns:
        The range of pixels that those windows cover, and the windows in it.
    """
    window, step = windows.side_and_step(window_px, overlap, stride_px)
    first = (size.start - window) // step * step + step
    last = (size.stop - 1) // step * step
    reach = range(first, last + window)
    return reach, windows.plan(len(reach), window, overlap, first, stride_px=stride_px, margin_px=margin_px)


def _map_block(block: Block, job: Job, network: Probabilities) -> dict[str, Any]:
    wanted = blocks.inside(block, job.region)
    probability = np.full((*wanted.shape, len(job.trained.classes)), np.nan, np.float32)
    made, seen = None, np.zeros(wanted.shape, np.uint8)
    if wanted.any():
        rows, columns = _extent(wanted)
        config = job.trained.config
        (row_reach, row_axis), (column_reach, column_axis) = (
            windows_over(
                axis[part], config.data.crop_px, config.predict.overlap, **model.stride_and_margin(config.model)
            )
            for axis, part in ((block.rows, rows), (block.columns, columns))
        )
        reach = block.part(row_reach, column_reach)
        made = composites.composite(reach, job.recipe, job.archive, config.may_miss)
        s2, s1 = job.trained.with_missing(made.s2, made.s1)
        by = bands.seen_pixels(s2, s1, config.model.sensors, config.may_miss)
        axes = row_axis, column_axis
        mapped = map_pixels(network, s2, s1, by, *axes, config.predict.window_px, job.trained.classes)
        top, left = block.rows[rows].start - row_reach.start, block.columns[columns].start - column_reach.start
        height, width = rows.stop - rows.start, columns.stop - columns.start
        probability[rows, columns] = mapped[top : top + height, left : left + width]
        probability[~wanted] = np.nan
        seen[rows, columns] = by[top : top + height, left : left + width]
        seen[~wanted] = 0
    class_id = class_ids(probability, ~np.isnan(probability[..., 0]))
    area = blocks.pixel_hectares(block)
    hectares = np.bincount(class_id[wanted], area[wanted], minlength=bands.IGNORE + 1)
    rasters = Rasters(
        class_id,
        seen if job.trained.config.may_miss else None,
        scaled(probability, ~np.isnan(probability[..., 0])) if job.probabilities else None,
    )
    region_files.write_block(block, job, rasters, made, hectares)
    empty = not hectares[: len(job.trained.classes)].any()
    return {"status": "empty" if empty else "done", "doubts": made.doubts if made else ()}


def _extent(mask: Bool[np.ndarray, "height width"]) -> tuple[slice, slice]:
    """Returns the smallest ranges of rows and columns that hold all pixels of a mask."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _line(reason: object) -> str:
    return shown_in(" ".join(str(reason).split()))[:500]
