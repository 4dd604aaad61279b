"""The scenes that tiles are cut from: which files belong together, of which day, and what tiles.csv says of them.

Enters: the files of each acquisition. Leaves: opened scenes, and columns of tiles.csv.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import rasterio

from tfds_dwplus import bands
from tfds_dwplus.files.addresses import shown
from tfds_dwplus.files.strangers import one_line
from tfds_dwplus.imagery.rasters import Scene
from tfds_dwplus.imagery.scene_files import acquisition_dates
from tfds_dwplus.imagery.scenes import Reading, open_scene, s2_bands_of

SMALLEST_CACHE = 128 << 20
"""Of GDAL's blocks, bytes, as where scenes are mapped: its default, a twentieth of the memory, would be filled by a large scene."""


@dataclasses.dataclass(frozen=True)
class Acquisition:
    """One day's files of a place; of Sentinel-2, of Sentinel-1, or of both."""

    number: int
    """Counted from 1, for messages and names of tiles."""
    s2: tuple[str, ...]
    s1: tuple[str, ...]
    reading: Reading
    given_date: str = ""
    """YYYY-MM-DD; '' if names of files are to tell."""

    @property
    def date(self) -> str:
        """Returns the day of Sentinel-2, or of Sentinel-1 alone, YYYY-MM-DD; '' if it is not known."""
        return self.given_date or next(iter(_dates(self.s2) or _dates(self.s1)), "")

    @property
    def name(self) -> str:
        """Returns what the names of its tiles begin with."""
        return f"{self.number}_{self.date.replace('-', '')}" if self.date else str(self.number)

    @contextlib.contextmanager
    def opened(self, s2_bands: tuple[str, ...], tell: Callable[[str], None]) -> Iterator[Scene]:
        """Opens the scene.

        Raises:
            ValueError: as `scenes.open_scene`; or it is not placed on a map, or turned.
        """
        s1_bands = bands.S1_BANDS if self.s1 else ()

        def told(line: str) -> None:
            tell(f"scene {self.number}: {line}")

        with open_scene(self.s2, self.s1, s2_bands if self.s2 else (), s1_bands, self.reading, told) as scene:
            grid, what = scene.grid, one_line(shown(str((*self.s2, *self.s1)[0])), 100)
            if not grid.placed:
                raise ValueError(
                    f"{what} has no CRS and transform, by which labels find their place; give georeferenced files"
                )
            if grid.transform.b or grid.transform.d:
                raise ValueError(
                    f"{what} has a turned grid, expected rows from west to east; warp it, as gdalwarp does"
                )
            with rasterio.Env(GDAL_CACHEMAX=max(SMALLEST_CACHE, scene.row_of_blocks * 21 // 20)):
                yield scene

    def columns(self, scene: Scene) -> dict[str, Any]:
        """Returns the fields of `TileRecord` that all of its tiles have in common."""
        found: dict[str, Any] = {"date": self.date}
        if self.s2:
            offset, scale = (scene.tags.get(f"s2_{what}", "") for what in ("offset", "scale"))
            found["s2_offset"] = (offset or "0") + ("" if scale in ("", "0.0001") else f" scale {scale}")
            found["s2_date"] = self.given_date or next(iter(_dates(self.s2)), "")
            names = " ".join(shown(str(path)) for path in self.s2)
            found["s2_level"] = _common(r"MSI(L1C|L2A)(?![A-Za-z0-9])", names)
            found["s2_baseline"] = re.sub(r"(\d\d)(\d\d)", r"\1.\2", _common(r"_N(\d{4})_", names))
        if self.s1:
            quantity = scene.tags.get("s1_quantity", "")
            found["s1_unit"] = f"{quantity} dB" if quantity else ""
            found["s1_dates"] = " ".join(_dates(self.s1))
        return found


def paired(
    s2: list[list[str]], s1: list[list[str]], masks: list[str], dates: list[str], reading: Reading
) -> list[Acquisition]:
    """Pairs what was given for each sensor, in its order.

    Raises:
        ValueError: nothing is given, or one sensor more often than the other.
    """
    count = max(len(s2), len(s1))
    if not count:
        raise ValueError("no scene is given; expected --s2, --s1 or both")
    for option, given in (("--s2", s2), ("--s1", s1), ("--cloud_mask", masks), ("--date", dates)):
        if given and len(given) != count:
            raise ValueError(
                f"{option} is given {len(given)} times for {count} scenes; give it once for each, in their order, or not at all"
            )
    if masks and not s2:
        raise ValueError("--cloud_mask is of Sentinel-2, and no --s2 is given; leave it out")
    for date in dates:
        if not re.fullmatch(r"\d{4}-[01]\d-[0-3]\d", date):
            raise ValueError(f"--date is {one_line(date, 40)!r}, expected a day as 2023-06-30")
    return [
        Acquisition(
            place + 1,
            tuple(s2[place] if s2 else ()),
            tuple(s1[place] if s1 else ()),
            dataclasses.replace(reading, cloud_mask=masks[place] if masks else ""),
            dates[place] if dates else "",
        )
        for place in range(count)
    ]


def chosen_bands(acquisitions: list[Acquisition], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the bands of Sentinel-2 that are cut: the wanted ones, or of `bands.S2_BANDS` those that all scenes have.

    Raises:
        ValueError: a scene lacks one that is wanted, or there is none that all have.
    """
    held = [(one, s2_bands_of(one.s2, one.reading)) for one in acquisitions if one.s2]
    if not held:
        if wanted:
            raise ValueError("--keep_bands is of Sentinel-2, and no --s2 is given; leave it out")
        return ()
    for one, names in held:
        if missing := [name for name in wanted if name not in names]:
            raise ValueError(
                f"scene {one.number} has no band {', '.join(missing)} for --keep_bands; it has {', '.join(names) or 'none with a name'}"
            )
    common = [name for name in bands.S2_BANDS if all(name in names for _, names in held)]
    if not (wanted or common):
        found = "; ".join(f"scene {one.number} has {', '.join(names) or 'none'}" for one, names in held[:3])
        raise ValueError(f"the scenes have no band of Sentinel-2 in common: {found}; name the bands by --s2_bands")
    return wanted or tuple(common)


def _dates(paths: tuple[str, ...]) -> list[str]:
    return acquisition_dates([shown(str(path)) for path in paths])


def _common(pattern: str, names: str) -> str:
    """What a pattern finds in names, '' if nothing or several."""
    found = set(re.findall(pattern, names))
    return found.pop() if len(found) == 1 else ""
