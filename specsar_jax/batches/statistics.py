"""Statistics of the bands of a train split, as `preprocess` standardises by them, and as files keep them. Imports no JAX."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfds_dwplus import bands
from tfds_dwplus.files.strangers import a_count, a_list, a_text, an_object, one_line, read_object, texts
from tfds_dwplus.tiles.labelling import annotators
from tfds_dwplus.tiles.labelling.class_table import classes_from, colours_of


@dataclasses.dataclass(frozen=True)
class SensorStatistics:
    """Statistics of the bands of one sensor over valid pixels of a train split, in the sensor's unit."""

    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    p1: tuple[float, ...]
    p99: tuple[float, ...]
    unit: str
    pixels: tuple[int, ...]

    def choose(self, names: tuple[str, ...]) -> "SensorStatistics":
        """The statistics of some bands, in the order of `names`. Raises ValueError for a band that is not there."""
        missing = [name for name in names if name not in self.bands]
        if missing:
            raise ValueError(f"no band {', '.join(missing)} in the data set; it has {', '.join(self.bands)}")
        places = [self.bands.index(name) for name in names]
        rows = {
            name: tuple(getattr(self, name)[place] for place in places)
            for name in ("mean", "std", "p1", "p99", "pixels")
        }
        return SensorStatistics(bands=names, unit=self.unit, **rows)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What standardisation and class weights need to know of a train split."""

    s2: SensorStatistics
    s1: SensorStatistics
    label_pixels: tuple[int, ...]
    """Labelled pixels of each class."""
    classes: bands.Classes = bands.DYNAMIC_WORLD
    """In the order of `label_pixels`."""
    labelled_by: Mapping[str, int] = dataclasses.field(default_factory=dict, compare=False)
    """Tiles by annotator, of whom some may be networks, see `tfds_dwplus.tiles.labelling.annotators`; empty if it was not counted."""

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Statistics":
        """From the JSON form, which is also what the data set stores.

        Raises:
            ValueError: a field is missing or unknown, of a wrong type, or has not one number for each band.
        """
        pixels = an_object(tree.get("label_pixels"), "label_pixels")
        own = "class_colours" in tree
        classes = classes_from(list(pixels), tree["class_colours"], "statistics") if own else bands.DYNAMIC_WORLD
        counts = tuple(a_count(pixels.get(name), f"statistics: label_pixels of {name}") for name in classes.names)
        return cls(
            **{sensor: _of_sensor(tree.get(sensor), f"statistics of {sensor}") for sensor in ("s2", "s1")},
            label_pixels=counts,
            classes=classes,
            labelled_by=annotators.checked(tree.get("labelled_by", {}), "statistics: labelled_by"),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: band statistics as lists, pixels by class name, and colours unless the classes are Dynamic World's."""
        tree = dataclasses.asdict(self)
        tree["label_pixels"] = dict(zip(self.classes.names, self.label_pixels, strict=True))
        del tree["classes"]
        tree |= colours_of(self.classes)
        if not self.labelled_by:  # as in the files of before
            del tree["labelled_by"]
        return tree

    @classmethod
    def read(cls, path: Path) -> "Statistics":
        """Reads `statistics.json`. Raises ValueError if it is not one."""
        try:
            return cls.from_dict(read_object(path, finite=False))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is not a statistics file ({type(error).__name__}: {error})") from None


def _of_sensor(tree: Any, what: str) -> SensorStatistics:
    fields = [field.name for field in dataclasses.fields(SensorStatistics)]
    if differ := sorted(set(fields).symmetric_difference(an_object(tree, what))):
        raise ValueError(
            f"{what}: the fields {one_line(', '.join(tree))}, expected {', '.join(fields)} ({differ[0]!r})"
        )
    names = texts(tree["bands"], f"{what}: bands")
    for field in ("mean", "std", "p1", "p99", "pixels"):
        values = a_list(tree[field], f"{what}: {field}")
        if len(values) != len(names):
            raise ValueError(f"{what}: {field} has {len(values)} numbers for {len(names)} bands")
        for value in values:
            if field == "pixels":
                a_count(value, f"{what}: {field}")
            # A band without a valid pixel has NaN.
            if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > 1e300:
                raise ValueError(f"{what}: {field} holds {one_line(repr(value), 60)}, expected finite numbers")
    a_text(tree["unit"], f"{what}: unit")
    return SensorStatistics(**{k: tuple(v) if isinstance(v, list) else v for k, v in tree.items()})
