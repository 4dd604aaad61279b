"""Shares that add up to 100, as a reader adds them up. Pure."""

from collections.abc import Sequence


def percentages(parts: Sequence[float]) -> list[float]:
    """Returns the share of each part of their sum in percent, to a tenth, so that the shares add up to 100.0.

    Each is rounded down; then the parts that lost most get a tenth more (Hamilton's method of largest remainders).
    """
    total = sum(parts)
    if total <= 0:
        return [0.0] * len(parts)
    exact = [1000 * part / total for part in parts]
    tenths = [int(share) for share in exact]
    by_remainder = sorted(range(len(parts)), key=lambda place: tenths[place] - exact[place])
    for place in by_remainder[: 1000 - sum(tenths)]:
        tenths[place] += 1
    return [tenth / 10 for tenth in tenths]
