"""Holds the folder of a series of maps.

series.json       the settings, without the days: a series may be continued, and each map's own region.json has its days
2024-01/ ...      a map for each month, quarter or year: the folder of a region, as `region_files` describes it; none for a
period without imagery
hmm_2024/ ...     the map of each year that a filter made of them, `mode_2024` of the other one: likewise, and with the month of
the last change in `changed/`
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from specsar_jax.regions.region_files import (
    OTHER_OUTPUT,
    SERIES,
    TAKEN_ORBIT,
    Job,
    is_mapped,
    told_differences,
)
from specsar_jax.regions.series.periods import Period, periods
from specsar_jax.regions.series.transitions import Filter
from tfds_dwplus.files.addresses import compared_tree
from tfds_dwplus.files.outputs import locked, remove_partials, write_json
from tfds_dwplus.files.strangers import read_object


@dataclasses.dataclass(frozen=True)
class Series:
    """The settings of a series."""

    job: Job
    """Of all its days; its output is the folder of the series."""
    every: str
    """'month', 'quarter' or 'year'."""
    block_px: int
    filter: Filter | None
    """How yearly maps are made of the maps; None for none."""
    settings: Callable[[Job], dict[str, Any]]
    """Gives all settings that affect a map, ready for JSON."""

    def __post_init__(self) -> None:
        """Raises a ValueError if there are too many periods."""
        periods(self._days, self.every)

    def maps(self) -> dict[Period, Job]:
        """Returns the job of each map, in the order of time."""
        return {period: self.part(period.name, period.first, period.last) for period in periods(self._days, self.every)}

    def part(self, folder: str, first: str, last: str) -> Job:
        """Returns the job of some days, in a folder of its own."""
        recipe = dataclasses.replace(self.job.recipe, s2_dates=(first, last), s1_dates=(first, last))
        keep = self.filter is not None and self.filter.needs_probabilities
        return dataclasses.replace(self.job, recipe=recipe, output=self.job.output / folder, probabilities=keep)

    def asked(self) -> dict[str, Any]:
        """Returns the settings of the series, ready for JSON."""
        settings = {name: of for name, of in self.settings(self.job).items() if name not in ("s2_dates", "s1_dates")}
        return settings | {"every": self.every}

    @property
    def _days(self) -> tuple[str, str]:
        return self.job.recipe.s2_dates


@contextlib.contextmanager
def opened(output: Path, asked: dict[str, Any]) -> Iterator[None]:
    """Creates the folder of a series, or checks that it belongs to these settings; locks it for this process.

    One in which no block has a class may take other settings, as that of a region.

    Raises:
        ValueError: it is a file, holds a region or a series with other settings, or another process is at work on it.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file, expected a folder to write to; give another --output")
    if (output / "region.json").exists() or any((output / "blocks").glob("*.json")):
        raise ValueError(
            f"{output} holds the map of a region, not a series; leave --every out, or give another --output"
        )
    output.mkdir(parents=True, exist_ok=True)
    with locked(output / ".lock", output, advice="wait for it, or give another --output"):
        remove_partials(output)
        asked = compared_tree(json.loads(json.dumps(asked)))
        items = list(output.glob("*/blocks/*.json"))
        kept = _read(output) if items else {}
        different = told_differences({name: of for name, of in kept.items() if name != TAKEN_ORBIT}, asked)
        if different and any(map(is_mapped, items)):
            raise ValueError(f"{output} was made with {different}; {OTHER_OUTPUT.replace('map', 'series')}")
        if different:
            write_json(output / SERIES, asked)
        yield


def taken_orbit(output: Path) -> str:
    """Returns the orbit direction that the maps of a series were made with; "" if there are none."""
    return _read(output).get(TAKEN_ORBIT, "")


def keep_orbit(output: Path, orbit: str) -> None:
    """Keeps the orbit direction, so that maps that are made later are of the same one."""
    write_json(output / SERIES, _read(output) | {TAKEN_ORBIT: orbit})


def _read(output: Path) -> dict[str, Any]:
    path = output / SERIES
    if not path.exists():
        raise ValueError(f"{output} holds maps but no {SERIES}; give another --output")
    try:
        return read_object(path, finite=False)
    except ValueError:
        raise ValueError(f"{path} is damaged; give another --output") from None
