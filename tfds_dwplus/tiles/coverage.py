"""Count the scenes that an archive has for label tiles or drawn ones, before anything is fetched.

Enters: tiles, and a `Task`. Leaves: text. The archive's metadata are asked, no pixel is read and nothing is written.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tfds_dwplus.command_line import progress
from tfds_dwplus.imagery.acquisitions import ArchiveError
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.items.stac_items import directions
from tfds_dwplus.imagery.stac import Coverage, coverage
from tfds_dwplus.imagery.stac_api import StacArchive
from tfds_dwplus.labels.label_files import read_label
from tfds_dwplus.labels.published import LabelTile
from tfds_dwplus.places.clear_imagery import drawn_coverage
from tfds_dwplus.places.drawn_tile import DATES, DrawnTile
from tfds_dwplus.tiles.acquiring import Task, check_archive, with_retries


def describe_coverage(tiles: Sequence[LabelTile], task: Task, *, workers: int = 1) -> str:
    """Describes how many scenes the tiles have, by sensor and orbit direction, and how many tiles have none.

    Raises:
        ValueError: the archive is not a STAC API, or does not answer.
    """
    archive, wanted = task.archive, task.wanted
    if not isinstance(archive, StacArchive):
        raise ValueError("--dry_run asks STAC APIs only; leave it out for --source earthengine")
    check_archive(task)

    def counted(tile: LabelTile) -> Coverage | str:
        try:
            if isinstance(tile, DrawnTile):
                return with_retries(task, lambda: drawn_coverage(tile, wanted, task.choice, archive))
            label = read_label(tile)
            grid = Grid.parse(label.crs, label.transform, *label.codes.shape)
            return with_retries(task, lambda: coverage(tile, grid, wanted, archive))
        except (ValueError, ArchiveError) as error:
            return f"{tile.tile_id}: {error}"

    with ThreadPoolExecutor(workers) as pool:
        found = list(progress(iterable=pool.map(counted, tiles), total=len(tiles), unit="tile"))
    faults = [one for one in found if isinstance(one, str)]
    known = [one for one in found if isinstance(one, Coverage)]
    lines = [f"{len(tiles)} tiles; nothing is fetched, and this is what the archive has by its metadata:"]
    if faults:
        lines.append(f"{len(faults)} could not be looked up, the first one {faults[0]}")
    days = f"within {wanted.s2_window_days} days"
    if task.choice:
        days += f" of one of the {DATES} days that are drawn for a tile, or else within --dates"
    lines.append(_line(f"Sentinel-2, {archive.s2.name}, {days}", [one.s2 for one in known]))
    labelled = [one.labelled for one in known if one.labelled is not None]
    if labelled:
        lines.append(f"  the labelled product is there for {sum(labelled)} of the {len(labelled)} tiles that name one")
    if "s1" not in task.sensors:
        return "\n".join(lines)
    for orbit in ("descending", "ascending", "both"):
        what = f"Sentinel-1, {archive.s1.name}, within {wanted.s1_window_days} days, {orbit}"
        lines.append(_line(what, [one.s1[orbit] for one in known]))
    whole = [one.s2 > 0 and any(one.s1[orbit] for orbit in directions(wanted.s1_orbit)) for one in known]
    lines.append(f"both sensors, with --s1_orbit {wanted.s1_orbit}: {sum(whole)} of {len(tiles)} tiles")
    return "\n".join(lines)


def _line(what: str, counts: Sequence[int]) -> str:
    some = f"; scenes a tile: {min(counts)} to {max(counts)}, mean {np.mean(counts):.1f}" if counts else ""
    return f"{what}: {sum(count > 0 for count in counts)} tiles have scenes, {sum(count == 0 for count in counts)} have none{some}"
