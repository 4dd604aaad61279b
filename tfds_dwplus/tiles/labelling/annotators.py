"""Who labelled tiles: people, or a network, against whose labels a figure is no accuracy. Pure.

Enters: the annotators of tiles. Leaves: counts, and sentences for pages and tables.
"""

import collections
from collections.abc import Iterable, Mapping
from typing import Any

from tfds_dwplus.files.strangers import a_count, an_object, one_line

NETWORK = "network: "
"""What the annotator of a tile begins with that a network labelled; after it the network's name."""

UNKNOWN = "unknown"
"""Annotator of tiles of which nobody told it."""

MOST_ANNOTATORS = 50
"""Annotators that are counted by name; the rarer ones of more are counted together."""

OTHERS = "others"

_MOST_SIGNS = 300


def count(annotators: Iterable[str]) -> dict[str, int]:
    """Counts tiles by annotator, the most frequent first; '' counts as 'unknown'."""
    counts = collections.Counter(one_line(text, _MOST_SIGNS) or UNKNOWN for text in annotators)
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    if len(ordered) > MOST_ANNOTATORS:
        # A network is never lost among the others.
        ordered.sort(key=lambda pair: not pair[0].startswith(NETWORK))
        kept, rest = ordered[: MOST_ANNOTATORS - 1], ordered[MOST_ANNOTATORS - 1 :]
        ordered = [*kept, (OTHERS, sum(number for _, number in rest))]
    return dict(ordered)


def checked(tree: Any, what: str) -> dict[str, int]:
    """Returns counts as `count` makes them, read from a file. Raises ValueError if they are of another type or too many."""
    counts = an_object(tree, what)
    if len(counts) > MOST_ANNOTATORS:
        raise ValueError(f"{what} has {len(counts)} annotators, expected {MOST_ANNOTATORS} at most")
    for name, number in counts.items():
        a_count(number, f"{what} of {one_line(name, 40)}")
        if not name.isprintable() or not 0 < len(name) <= _MOST_SIGNS:
            raise ValueError(f"{what} names an annotator of {len(name)} characters, expected a line of {_MOST_SIGNS}")
    return dict(counts)


def networks(labelled_by: Mapping[str, int]) -> dict[str, int]:
    """Returns the networks among the annotators by name, with their tiles."""
    return {name.removeprefix(NETWORK): tiles for name, tiles in labelled_by.items() if name.startswith(NETWORK)}


def taught(labelled_by: Mapping[str, int]) -> str:
    """Says of a network which other ones labelled the tiles that it learned from, in a sentence; '' if people made all labels."""
    found, total = networks(labelled_by), sum(labelled_by.values())
    if not found:
        return ""
    number = sum(found.values())
    tiles = "All" if number == total else f"{number:,} of the"
    return (
        f"{tiles} {total:,} tiles that it learned from were labelled by network{'s' * (len(found) > 1)} {'; '.join(found)}: it has learned "
        "their labels, with their faults."
    )


def not_accuracy(labelled_by: Mapping[str, int]) -> str:
    """Says that figures against labels of networks are no accuracy, in a sentence; '' if people made all labels."""
    found, total = networks(labelled_by), sum(labelled_by.values())
    if not found:
        return ""
    number = sum(found.values())
    tiles, them = ("All", "them") if number == total else (f"{number:,} of the", "those")
    return (
        f"{tiles} {total:,} tiles are labelled by network{'s' * (len(found) > 1)} {'; '.join(found)}: figures against {them} are agreement "
        "with it, not accuracy."
    )


def listed(labelled_by: Mapping[str, int]) -> str:
    """Lists all annotators in a line: 'expert (12 tiles), network: a (3 tiles)'."""
    return ", ".join(f"{name} ({tiles:,} tile{'s' * (tiles != 1)})" for name, tiles in labelled_by.items())
