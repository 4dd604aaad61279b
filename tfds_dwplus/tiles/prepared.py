"""Open a prepared data set by its name.

Enters: the folder of prepared data sets, and a name. Leaves: the TFDS builder, and the records of a split.
"""

from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from tfds_dwplus.command_line import local_path


def open_dataset(data_dir: Path | str, name: str) -> tfds.core.DatasetBuilder:
    """Opens the latest version of the data set `dynamic_world_plus/NAME` under `data_dir`.

    Raises:
        ValueError: it does not exist, the message lists the data sets that do; or `data_dir` is not a path.
    """
    folder = local_path(data_dir) / "dynamic_world_plus"
    versions = sorted((folder / name).glob("*/dataset_info.json")) if name else []
    if not versions:
        found = sorted({path.parts[-3] for path in folder.glob("*/*/dataset_info.json")})
        raise ValueError(
            f"no data set dynamic_world_plus/{name} under {folder.parent.resolve()} (found: {', '.join(found) or 'none'}); "
            "make it with python -m tfds_dwplus.prepare"
        )
    return tfds.builder_from_directory(versions[-1].parent)


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
