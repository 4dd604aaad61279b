"""Count what a prepared data set holds: tiles and pixels by split, class, biome, hemisphere and annotator.

Enters: the records of a data set, one in memory at a time. Leaves: a `Description`: sums by group, and the number of
Sentinel-1 scenes of each tile. A pixel counts if a sensor has data or somebody labelled it; padding does not. Features that
the records lack are listed as absent.
"""

import collections
import dataclasses
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Int64

from tfds_dwplus import bands
from tfds_dwplus.command_line import progress
from tfds_dwplus.tiles.labelling.class_table import colours_of
from tfds_dwplus.tiles.prepared import dataset_classes

GROUPS = ("biome", "hemisphere", "annotator")
"""Features by which tiles are grouped, besides the split."""


@dataclasses.dataclass
class Sums:
    """Counts over a group of tiles."""

    tiles: int = 0
    pixels: int = 0
    """Pixels with data of a sensor, or with a label."""
    class_pixels: Int64[np.ndarray, " class"] | int = 0
    """Labelled pixels by class; 0 of no tile."""

    def add(self, other: "Sums") -> None:
        """Adds the counts of another group."""
        self.tiles += other.tiles
        self.pixels += other.pixels
        self.class_pixels = self.class_pixels + other.class_pixels


@dataclasses.dataclass
class Description:
    """The contents of a data set."""

    dataset: str
    source: str
    """Origin of the tiles, as stored in the data set; empty if unknown."""
    groups: dict[str, dict[str, Sums]]
    """Sums by `split` and by each of GROUPS in the records, then by value. An empty value is called 'unknown'."""
    scenes: dict[str, dict[int, int]]
    """For each split, how many tiles have a given number of Sentinel-1 scenes (0: not known). Empty if the records lack it."""
    classes: bands.Classes

    @property
    def labelled_by(self) -> dict[str, int]:
        """Tiles by annotator; empty if the records lack it."""
        return {name: sums.tiles for name, sums in self.groups.get("annotator", {}).items()}

    def absent(self) -> list[str]:
        """Features that the records lack."""
        return [name for name in GROUPS if name not in self.groups] + ([] if self.scenes else ["s1_scenes"])

    def to_json(self) -> dict[str, Any]:
        """The description as plain numbers. `class_pixels` is in the order of `classes`."""
        return {
            "dataset": self.dataset,
            "source": self.source,
            "labelled_by": self.labelled_by,
            "classes": list(self.classes.names),
            **colours_of(self.classes),
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


def describe(builder: tfds.core.DatasetBuilder) -> Description:
    """Counts all records of all splits in one pass. The size of the result does not depend on the number of tiles."""
    features = builder.info.features
    names = [name for name in GROUPS if name in features]
    origin = builder.info.metadata.get("origin") or {}
    classes = dataset_classes(builder)
    description = Description(builder.info.full_name, str(origin.get("source", "")), {"split": {}}, {}, classes)
    description.groups |= {name: {} for name in names}
    splits = {split: info.num_examples for split, info in builder.info.splits.items() if info.num_examples}
    with progress(total=sum(splits.values()), desc="reading", unit="tile") as line:
        for split, count in splits.items():
            scenes = collections.Counter()
            source = builder.as_data_source(split)
            for place in range(count):
                record = source[place]
                sums = record_sums(record, len(classes))
                for name, group in description.groups.items():
                    value = split if name == "split" else group_value(name, record[name])
                    group.setdefault(value, Sums()).add(sums)
                if "s1_scenes" in features:
                    scenes[max(0, int(record["s1_scenes"]))] += 1
                line.update()
            if scenes:
                description.scenes[split] = dict(sorted(scenes.items()))
    return description


def record_sums(record: dict[str, Any], classes: int) -> Sums:
    """Counts one record, whose labels are of a number of `classes`."""
    class_pixels = np.bincount(record["label"].ravel(), minlength=256)[:classes].astype(np.int64)
    return Sums(1, int(used_pixels(record).sum()), class_pixels)


def used_pixels(record: dict[str, Any]) -> Bool[np.ndarray, "height width"]:
    """Marks the pixels of a record with a label, or with data in any band. Padding has neither."""
    used = (record["label"] != bands.IGNORE) | (record["s2"] != bands.S2_NODATA).any(axis=-1)
    return used | np.isfinite(record["s1"]).any(axis=-1)


def class_pixels(builder: tfds.core.DatasetBuilder, split: str, source: Any) -> Int64[np.ndarray, " class"]:
    """Labelled pixels of a split by class: from the stored statistics for the train split, otherwise counted."""
    stored = builder.info.metadata.get("statistics") if split == "train" else None
    names = dataset_classes(builder).names
    if stored:
        return np.array([stored["label_pixels"][name] for name in names], np.int64)
    total = np.zeros(len(names), np.int64)
    with progress(total=len(source), desc="counting", unit="tile") as line:
        for place in range(len(source)):
            total += record_sums(source[place], len(names)).class_pixels
            line.update()
    return total


def group_value(name: str, value: Any) -> str:
    """Name of a record's group: a biome with its number, 'unknown' for an empty value."""
    if name == "biome":
        number = int(value)
        return f"{number} {bands.BIOMES[number - 1]}" if 1 <= number <= len(bands.BIOMES) else "unknown"
    return (value.decode() if isinstance(value, bytes) else str(value)) or "unknown"


def scene_summary(tiles_by_scenes: dict[int, int]) -> dict[str, float | int | None]:
    """Minimum, median and maximum of scenes per tile, over tiles where the number is known; None if there are none."""
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
