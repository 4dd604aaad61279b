"""Files that GDAL reads with a raster because of their names: a mask, overviews, statistics, class names, a place.

Enters: the path of a raster. Leaves: the paths of such files that are there.

Source: https://gdal.org/en/stable/drivers/raster/gtiff.html; which names are read was tried with GDAL 3.10.
"""

import os
import re
from pathlib import Path

from tfds_dwplus.files.outputs import NAME_BYTES

_OF_NAME = (
    ".msk", ".aux.xml", ".ovr", ".msk.ovr", ".msk.aux.xml", ".ovr.aux.xml", ".ovr.msk", ".vat.dbf", ".vat.cpg", ".aux",
)  # fmt: skip
"""Behind the whole name: `map.tif.msk`. The tables of classes, `.vat.*`, are read by GDAL 3.11 and later."""

_OF_STEM = (".wld", ".tab", ".aux", ".rrd", ".rpb", "_rpc.txt")
"""In place of the ending: `map.wld`. Files of other programs, or of another raster of the same stem, may be called so too."""

_PICTURES = (".tif", ".tiff", ".jp2", ".jpg", ".jpeg", ".png", ".gif", ".bmp", ".img", ".ecw", ".sid", ".ntf")


def sidecars(raster: Path, *, overviews: bool = True) -> list[Path]:
    """Returns the files that are sidecars of a raster, and of no other raster or program; the raster itself need not be there.

    Args:
        raster: path of the raster.
        overviews: whether to return overviews too; they hold nothing that is not in the raster.
    """
    found = [path for path, of_name in _beside(raster).items() if _is_of(path, raster, of_name=of_name)]
    return [path for path in found if overviews or not re.search(r"\.(ovr|rrd)(\.|$)", path.name.lower())]


def _beside(raster: Path) -> dict[Path, bool]:
    """Returns the files that are there, and of each whether it has the whole name of the raster."""
    ending = raster.suffix
    stem = raster.name.removesuffix(ending)
    # World files: map.tfw and map.tifw of map.tif.
    world = (f"{ending[:2]}{ending[-1]}w", f"{ending}w") if len(ending) > 2 else ()
    kinds = [(stem + kind, False) for kind in (*world, *_OF_STEM)] + [(raster.name + kind, True) for kind in _OF_NAME]
    found = {}
    for name, of_name in kinds:
        kind_at = len(raster.name if of_name else stem)
        for spelt in (name, name[:kind_at] + name[kind_at:].upper()):  # GDAL looks for these two
            path = raster.with_name(spelt)
            if len(os.fsencode(spelt)) <= NAME_BYTES and (path.is_file() or path.is_symlink()):
                found[path] = of_name
    return found


def _is_of(path: Path, raster: Path, *, of_name: bool) -> bool:
    kind = path.name[len(raster.name if of_name else raster.stem) :].lower()
    if kind in (".aux", ".rrd", ".tab"):  # of TeX and MapInfo too
        if not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(4096).lower()
        if kind == ".tab":
            return f'"{raster.name}"'.lower().encode() in start and b'"raster"' in start
        if not start.startswith(b"ehfa_header_tag"):
            return False
    return of_name or kind.endswith("w") or not _others(raster)


def _others(raster: Path) -> list[Path]:
    """Returns the pictures beside a raster that have its stem."""
    alike = (path for path in raster.parent.iterdir() if path.stem == raster.stem and path.name != raster.name)
    return [path for path in alike if path.suffix.lower() in _PICTURES]
