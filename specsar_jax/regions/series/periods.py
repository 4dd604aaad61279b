"""Divides a range of days into months, quarters or years of the calendar. Pure functions."""

import dataclasses
import datetime
from collections.abc import Sequence

MONTHS = {"month": 1, "quarter": 3, "year": 12}
"""Months of a period, by its kind."""

MOST_PERIODS = 240
"""Of a series: twenty years of months. A filter holds all of them for the pixels of a window."""


@dataclasses.dataclass(frozen=True)
class Period:
    """A month, quarter or year, cut to the days of its series."""

    name: str
    """Such as 2024-03, 2024-Q1 or 2024."""
    first: str
    """First day, YYYY-MM-DD."""
    last: str

    @property
    def year(self) -> int:
        """Returns its year."""
        return int(self.first[:4])

    @property
    def month(self) -> int:
        """Returns the month of its first day, 1 to 12."""
        return int(self.first[5:7])


def periods(dates: tuple[str, str], every: str) -> list[Period]:
    """Returns the periods of the kind `every` from the first day to the last; both ends are cut to these days.

    Raises:
        ValueError: there are too many.
    """
    first, last = map(datetime.date.fromisoformat, dates)
    step, found = MONTHS[every], []
    start = datetime.date(first.year, (first.month - 1) // step * step + 1, 1)
    while start <= last:
        months = start.year * 12 + start.month - 1 + step
        after = datetime.date(months // 12, months % 12 + 1, 1)
        ends = max(start, first), min(after - datetime.timedelta(days=1), last)
        found.append(Period(_name(start, every), *map(str, ends)))
        start = after
        if len(found) > MOST_PERIODS:
            raise ValueError(
                f"--dates {first} {last} has more than {MOST_PERIODS} periods of a {every}, expected that many at most; "
                "take fewer years, or --every year"
            )
    return found


def years(of: Sequence[Period]) -> dict[int, slice]:
    """Returns the places of the periods of each year."""
    found = sorted({period.year for period in of})
    all_of = [period.year for period in of]
    return {year: slice(all_of.index(year), all_of.index(year) + all_of.count(year)) for year in found}


def _name(start: datetime.date, every: str) -> str:
    return {
        "month": f"{start:%Y-%m}",
        "quarter": f"{start.year:04d}-Q{(start.month + 2) // 3}",
        "year": f"{start.year:04d}",
    }[every]
