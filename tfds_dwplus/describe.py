"""Command: what a prepared data set holds, as Markdown tables and, if wanted, JSON.

python -m tfds_dwplus.describe --data_dir data --name mine --json mine.json

Enters: the records of all splits, read once, one in memory at a time. Leaves: sums of tiles and pixels by split, class, biome,
hemisphere and annotator, and the number of Sentinel-1 scenes behind a tile. A pixel counts if a sensor has data there or
somebody marked it, so padding does not. What a data set was prepared without is said, not made up.
"""

import collections
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int64

from tfds_dwplus import bands
from tfds_dwplus.command_line import Parser, progress, run, written_whole
from tfds_dwplus.prepared import open_dataset

GROUPS = ("biome", "hemisphere", "annotator")
"""Features by which tiles are grouped, beside the split."""


@dataclasses.dataclass
class Sums:
    """Of a group of tiles."""

    tiles: int = 0
    pixels: int = 0
    """That a sensor saw or somebody marked."""
    class_pixels: Int64[np.ndarray, "9"] = dataclasses.field(
        default_factory=lambda: np.zeros(len(bands.CLASSES), np.int64)
    )
    """Labelled pixels by class."""

    def add(self, other: "Sums") -> None:
        """Adds what `other` has counted."""
        self.tiles += other.tiles
        self.pixels += other.pixels
        self.class_pixels = self.class_pixels + other.class_pixels


@dataclasses.dataclass
class Description:
    """Sums over a data set."""

    dataset: str
    source: str
    """Where the tiles come from, as the data set says."""
    groups: dict[str, dict[str, Sums]]
    """Sums by `split` and by each of GROUPS that the records have, then by value; an empty value is 'unknown'."""
    scenes: dict[str, dict[int, int]]
    """By split, the number of tiles by their number of Sentinel-1 scenes; 0 where that is not known. Empty if the records
    do not have it.
    """

    def absent(self) -> list[str]:
        """Features that the records do not have."""
        return [name for name in GROUPS if name not in self.groups] + ([] if self.scenes else ["s1_scenes"])

    def to_json(self) -> dict[str, Any]:
        """The same as plain numbers; pixels of a group by class in the order of `classes`."""
        return {
            "dataset": self.dataset,
            "source": self.source,
            "classes": list(bands.CLASSES),
            "absent": self.absent(),
            "groups": {
                name: {
                    value: {
                        "tiles": sums.tiles,
                        "pixels": sums.pixels,
                        "labelled_pixels": int(sums.class_pixels.sum()),
                        "class_pixels": sums.class_pixels.tolist(),
                    }
                    for value, sums in group.items()
                }
                for name, group in self.groups.items()
            },
            "s1_scenes": {split: scene_summary(counts) for split, counts in self.scenes.items()},
        }


def main(argv: list[str]) -> None:
    """Parses the arguments, reads the data set and prints its tables."""
    parser = Parser(
        "Tables of what a prepared data set holds.",
        "python -m tfds_dwplus.describe --data_dir data --name mine --json mine.json",
    )
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of prepared data sets")
    parser.add_argument("--name", required=True, help="of the data set dynamic_world_plus/NAME")
    parser.add_argument("--json", type=Path, help="write the sums to this file too")
    args = parser.parse_args(argv)
    if args.json:
        check_output(args.json, "--json")
    builder = open_dataset(args.data_dir, args.name)
    description = describe(builder)
    print(tables(description))
    if args.json:
        with written_whole(args.json) as partial:
            partial.write_text(json.dumps(description.to_json(), indent=1) + "\n")


def check_output(path: Path, option: str) -> None:
    """Raises a ValueError if no file can be written at `path`, before the work is done."""
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder, expected a file to write")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"no folder {path.absolute().parent} for {option} {path.name}; make it first")


def describe(builder: tfds.core.DatasetBuilder) -> Description:
    """Reads all records of all splits once. The result does not grow with the number of tiles."""
    features = builder.info.features
    names = [name for name in GROUPS if name in features]
    origin = builder.info.metadata.get("origin") or {}
    description = Description(builder.info.full_name, str(origin.get("source", "")), {"split": {}}, {})
    description.groups |= {name: {} for name in names}
    splits = {split: info.num_examples for split, info in builder.info.splits.items() if info.num_examples}
    with progress(total=sum(splits.values()), desc="reading", unit="tile") as line:
        for split, count in splits.items():
            scenes = collections.Counter()
            source = builder.as_data_source(split)
            for place in range(count):
                record = source[place]
                sums = record_sums(record)
                for name, group in description.groups.items():
                    value = split if name == "split" else group_value(name, record[name])
                    group.setdefault(value, Sums()).add(sums)
                if "s1_scenes" in features:
                    scenes[max(0, int(record["s1_scenes"]))] += 1
                line.update()
            if scenes:
                description.scenes[split] = dict(sorted(scenes.items()))
    return description


def record_sums(record: dict[str, Any]) -> Sums:
    """The sums of one record."""
    label = record["label"]
    seen = label != bands.IGNORE
    class_pixels = np.bincount(label.ravel(), minlength=256)[: len(bands.CLASSES)].astype(np.int64)
    for sensor, valid in (("s2", lambda values: values != bands.S2_NODATA), ("s1", np.isfinite)):
        if record[sensor].size:
            seen = seen | valid(record[sensor]).any(axis=-1)
    return Sums(1, int(seen.sum()), class_pixels)


def group_value(name: str, value: Any) -> str:
    """A record's value as a row's name: a biome with its number, 'unknown' for an empty one."""
    if name == "biome":
        number = int(value)
        return f"{number} {bands.BIOMES[number - 1]}" if 1 <= number <= len(bands.BIOMES) else "unknown"
    return (value.decode() if isinstance(value, bytes) else str(value)) or "unknown"


def scene_summary(tiles_by_scenes: dict[int, int]) -> dict[str, float | int | None]:
    """Least, median and most scenes a tile, of the tiles where they are known; None if of none."""
    known = sorted((scenes, tiles) for scenes, tiles in tiles_by_scenes.items() if scenes)
    count = sum(tiles for _, tiles in known)
    ends = np.cumsum([tiles for _, tiles in known])
    middle = [known[np.searchsorted(ends, place, side="right")][0] for place in {(count - 1) // 2, count // 2} if known]
    return {
        "tiles": count,
        "unknown": tiles_by_scenes.get(0, 0),
        "min": known[0][0] if known else None,
        "median": sum(middle) / len(middle) if known else None,
        "max": known[-1][0] if known else None,
    }


def tables(description: Description) -> str:
    """The description as Markdown."""
    splits = description.groups["split"]
    whole = Sums()
    for sums in splits.values():
        whole.add(sums)
    columns = splits | {"all": whole}
    parts = [
        f"# {description.dataset}\n\nTiles: {description.source or 'of unknown origin'}",
        "## Tiles and pixels by split\n\n"
        + _table(
            ("split", "tiles", "pixels", "labelled", "unlabelled"),
            [
                (split, f"{s.tiles:,}", f"{s.pixels:,}", f"{_labelled(s):,}", _unlabelled(s))
                for split, s in columns.items()
            ],
        ),
        "## Labelled pixels by class\n\n"
        + _table(
            ("class", *columns, "share"),
            [
                (name, *(f"{s.class_pixels[place]:,}" for s in columns.values()), _share(whole, place))
                for place, name in enumerate(bands.CLASSES)
            ],
        ),
    ]
    for name in GROUPS:
        if name in description.groups:
            heading = f"## By {name}\n\nClasses in percent of the labelled pixels.\n\n"
            parts.append(heading + _group_table(name, description.groups[name]))
    if description.scenes:
        summaries = {split: scene_summary(counts) for split, counts in description.scenes.items()}
        header = ("split", "tiles", "min", "median", "max", "unknown")
        rows = [
            (split, *("-" if s[k] is None else f"{s[k]:g}" for k in ("tiles", "min", "median", "max", "unknown")))
            for split, s in summaries.items()
        ]
        parts.append("## Sentinel-1 scenes per tile\n\n" + _table(header, rows))
    if description.absent():
        parts.append(f"The records do not have: {', '.join(description.absent())}.")
    return "\n\n".join(parts)


def _group_table(name: str, group: dict[str, Sums]) -> str:
    def order(value: str) -> tuple[bool, int, str]:
        first = value.split()[0]
        return value == "unknown", int(first) if first.isdigit() else 0, value

    header = (name, "tiles", "labelled", "unlabelled", *(f"{class_} %" for class_ in bands.CLASSES))
    rows = []
    for value in sorted(group, key=order):
        sums = group[value]
        shares = (_share(sums, place).removesuffix(" %") for place in range(len(bands.CLASSES)))
        rows.append((value, f"{sums.tiles:,}", f"{_labelled(sums):,}", _unlabelled(sums), *shares))
    return _table(header, rows)


def _labelled(sums: Sums) -> int:
    return int(sums.class_pixels.sum())


def _unlabelled(sums: Sums) -> str:
    return f"{100 * (1 - _labelled(sums) / sums.pixels):.1f} %" if sums.pixels else "-"


def _share(sums: Sums, place: int) -> str:
    return f"{100 * sums.class_pixels[place] / _labelled(sums):.1f} %" if _labelled(sums) else "-"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table that is also read well as text: the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def align(text: str, place: int) -> str:
        return text.rjust(widths[place]) if place else text.ljust(widths[place])

    lines = ["| " + " | ".join(align(text, place) for place, text in enumerate(row)) + " |" for row in (header, *rows)]
    rule = "| " + " | ".join(
        "-" * width if place == 0 else "-" * (width - 1) + ":" for place, width in enumerate(widths)
    )
    return "\n".join([lines[0], rule + " |", *lines[1:]])


if __name__ == "__main__":
    run(main)
