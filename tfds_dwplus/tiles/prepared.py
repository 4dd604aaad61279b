"""Open a prepared data set by its name.

Enters: the folder of prepared data sets, and a name. Leaves: the TFDS builder, and the records of a split. A data set from a stranger
is checked before TFDS reads it: TFDS imports what `features.json` names, which would run its code. `tfds.load` and
`tfds.builder_from_directory`, called by a user himself, are not guarded.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tfds_dwplus.bands import CLASSES, Classes
from tfds_dwplus.command_line import local_path
from tfds_dwplus.files import buckets
from tfds_dwplus.files.strangers import a_count, a_list, a_name, a_text, an_object, fault_of_name, one_line, read_object
from tfds_dwplus.files.workplaces import recover
from tfds_dwplus.tiles.labelling.annotators import checked
from tfds_dwplus.tiles.labelling.class_table import classes_from

_TFDS = "tensorflow_datasets.core.features"

FEATURES = (
    *(f"tfds_dwplus.{module}.{kind}" for module in ("tiles.records", "records") for kind in ("Record", "Raster")),
    *(f"{_TFDS}.{module}" for module in ("features_dict.FeaturesDict", "tensor_feature.Tensor", "text_feature.Text")),
    f"{_TFDS}.scalar.Scalar",
)
"""Types that `features.json` may name; the second module of ours is its old name."""

_DTYPES = (
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float32",
    "float64",
    "bool",
    "string",
)

MOST_RECORD_BYTES = 8 << 30
"""Of a feature of a record. A whole granule of Sentinel-2 in 13 bands is 3 GB."""

_MOST_SHARDS = 1_000_000
_MOST_RECORDS = 1 << 40


def open_dataset(data_dir: Path | str, name: str) -> tfds.core.DatasetBuilder:
    """Opens the latest version of the data set `dynamic_world_plus/NAME` under `data_dir`.

    Raises:
        ValueError: it does not exist, the message lists the data sets that do; it was not written by this package; or `data_dir` is
            not a path.
    """
    folder = local_path(data_dir, whole=False) / "dynamic_world_plus"
    if not fault_of_name(name):
        buckets.fetch(folder / name)
    if name:
        recover(workplace_of(folder, name), folder / name)
    versions = [] if fault_of_name(name) else sorted((folder / name).glob("*/dataset_info.json"))
    if not versions:
        buckets.fetch(folder, only=r"[^/]+/[^/]+/dataset_info\.json")
        found = sorted({path.parts[-3] for path in folder.glob("*/*/dataset_info.json")})
        raise ValueError(
            f"no data set dynamic_world_plus/{one_line(name)} under {buckets.given(folder.parent.resolve())} (found: {', '.join(found) or 'none'}); "
            "make it with python -m tfds_dwplus.prepare"
        )
    check_folder(versions[-1].parent)
    try:
        return tfds.builder_from_directory(versions[-1].parent)
    except Exception as error:  # of protobuf and of TFDS, asserts too
        raise ValueError(f"{versions[-1].parent} is no data set that TFDS reads ({one_line(error)})") from None


def dataset_classes(builder: tfds.core.DatasetBuilder) -> Classes:
    """Classes of the labels of a prepared data set, in the order of their ids."""
    return _classes(builder.info.metadata)


def check_folder(folder: Path) -> None:
    """Checks the JSON files of a prepared data set, which TFDS believes.

    Raises:
        ValueError: they name types that are not of `FEATURES`, files outside of the folder, sizes that no memory holds, or are no JSON.
    """
    try:
        features = read_object(folder / "features.json")
        _check_features(features)
        _check_info(read_object(folder / "dataset_info.json"))
        if (folder / "metadata.json").is_file():
            metadata = read_object(folder / "metadata.json", finite=False)
            _check_metadata(metadata)
            _check_shares(features, _classes(metadata))
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder} is no data set of tfds_dwplus.prepare: {one_line(error)}") from None


def _check_features(tree: dict[str, Any]) -> None:
    """Checks all types that a tree of features names, and the shapes; TFDS reads two spellings of a tree."""
    named = [tree]
    while named:
        node = named.pop()
        for key, value in node.items():
            if key in ("pythonClassName", "python_class_name", "type", "proto_cls", "protoCls"):
                kind = a_text(value, f"{key} of features.json")
                if kind not in FEATURES and not (key in ("proto_cls", "protoCls") and not kind):
                    raise ValueError(
                        f"features.json names the type {kind[:80]!r}, which would be imported; expected one of tfds_dwplus.tiles.records, "
                        "or text and tensor of tensorflow_datasets"
                    )
            named += [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict)]
    features = an_object(an_object(tree.get("featuresDict"), "featuresDict").get("features"), "its features")
    for name, feature in features.items():
        if "tensor" in an_object(feature, f"feature {name[:40]!r}"):
            _check_tensor(name, an_object(feature["tensor"], f"tensor of feature {name[:40]!r}"))
    for name, axes in (
        ("s2", 3),
        ("s1", 3),
        ("label", 2),
        *([("probability", 3)] if "probability" in features else []),
    ):
        tensor = features.get(name, {}).get("tensor", {})
        if len(tensor.get("shape", {}).get("dimensions", ())) != axes:
            raise ValueError(f"features.json has no raster {name!r} of {axes} axes")


def _check_tensor(name: str, tensor: dict[str, Any]) -> None:
    what = f"feature {name[:40]!r}"
    dtype = a_text(tensor.get("dtype"), f"type of {what}")
    if dtype not in _DTYPES:
        raise ValueError(f"{what} is of type {dtype[:40]!r}, expected one of {', '.join(_DTYPES)}")
    sides = a_list(an_object(tensor.get("shape", {}), f"shape of {what}").get("dimensions", []), f"shape of {what}")
    if len(sides) > 4 or not all(
        re.fullmatch(r"\d{1,10}", str(side)) for side in sides
    ):  # int64 is text in protobuf's JSON
        raise ValueError(f"{what} has the shape {one_line(sides, 80)}, expected up to 4 numbers")
    size = math.prod(map(int, sides)) * (np.dtype(dtype).itemsize if dtype != "string" else 1)
    if size > MOST_RECORD_BYTES:
        raise ValueError(
            f"{what} has the shape {one_line(sides, 80)}, {size} bytes a record; expected {MOST_RECORD_BYTES} at most"
        )


def _check_info(tree: dict[str, Any]) -> None:
    if tree.get("name") != "dynamic_world_plus":
        raise ValueError(f"dataset_info.json is of {one_line(repr(tree.get('name')), 60)}, expected dynamic_world_plus")
    kind = tree.get("fileFormat", tree.get("file_format"))
    if kind != "array_record":
        raise ValueError(f"dataset_info.json tells the file format {one_line(repr(kind), 60)}, expected array_record")
    for split in a_list(tree.get("splits", []), "splits of dataset_info.json"):
        name = a_name(an_object(split, "a split").get("name"), "the name of a split")
        template = a_text(
            split.get("filepathTemplate", split.get("filepath_template", "")), f"file names of split {name}"
        )
        if template and (re.search(r"[/\\]", template) or fault_of_name(template)):
            raise ValueError(f"split {name} has the file names {one_line(template, 80)}, expected names in its folder")
        lengths = a_list(split.get("shardLengths", split.get("shard_lengths", [])), f"shard lengths of split {name}")
        if len(lengths) > _MOST_SHARDS or not all(re.fullmatch(r"\d{1,13}", str(length)) for length in lengths):
            raise ValueError(f"split {name} has no lengths of files")
        if sum(map(int, lengths)) > _MOST_RECORDS:
            raise ValueError(f"split {name} claims {sum(map(int, lengths))} records")


def _check_metadata(tree: dict[str, Any]) -> None:
    """Checks the types of what is read of metadata.json."""
    for key in ("sensors", "s2_bands", "s1_bands", "classes"):
        for item in a_list(tree.get(key, []), f"{key} of metadata.json"):
            a_text(item, f"{key} of metadata.json")
    for key in ("origin", "statistics"):
        if tree.get(key) is not None:
            an_object(tree[key], f"{key} of metadata.json")
    for key in ("s1_unit", "vote"):
        a_text(tree.get(key, ""), f"{key} of metadata.json")
    for split, counts in an_object(tree.get("labelled_by", {}), "labelled_by of metadata.json").items():
        checked(counts, f"labelled_by.{one_line(split, 40)} of metadata.json")
    stored = tree.get("statistics") or {}
    pixels = an_object(stored.get("label_pixels", {}), "label_pixels of metadata.json")
    for name, count in pixels.items():
        a_count(count, f"labelled pixels of {name[:40]}")
    classes = _classes(tree)
    if stored and (lacking := [name for name in classes.names if name not in pixels]):
        raise ValueError(f"label_pixels of metadata.json lack the class {one_line(lacking[0], 60)}")
    if stored and stored.get("class_colours") != tree.get("class_colours"):
        raise ValueError("the classes of metadata.json are not those of its statistics")


def _classes(tree: Mapping[str, Any]) -> Classes:
    """The classes that the metadata of a data set name; those of the oldest name none."""
    return classes_from(tree.get("classes") or list(CLASSES), tree.get("class_colours"), "metadata.json")


def _check_shares(tree: dict[str, Any], classes: Classes) -> None:
    """Raises a ValueError if the records hold shares of another number of classes."""
    shares = tree["featuresDict"]["features"].get("probability")
    if shares is not None and int(shares["tensor"]["shape"]["dimensions"][-1]) != len(classes):
        raise ValueError(f"features.json has not the shares of {len(classes)} classes, as metadata.json names")


def workplace_of(folder: Path, name: str) -> Path:
    """Returns the folder in which the data set NAME is made, beside its place in `folder`."""
    return folder / f".preparing_{name}"


def read_split(builder: tfds.core.DatasetBuilder, split: str) -> Any:
    """Opens the records of a split for random access. Raises a ValueError if the split is unknown or empty."""
    sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
    try:
        source = builder.as_data_source(split) if split else []
    except (ValueError, KeyError, AssertionError):
        source = []
    if not len(source):
        raise ValueError(f"split {split!r} of {builder.info.full_name} is unknown or empty; the data set has {sizes}")
    return source
