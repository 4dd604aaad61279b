"""What a prepared data set holds, and the settings of a run that follow from it: bands, channels, splits, crop, statistics."""

import dataclasses
import hashlib
import json
import shlex

import tensorflow_datasets as tfds

from specsar_jax.batches.preprocess import Statistics
from specsar_jax.config import Config, Data, Train, check_alpha
from specsar_jax.devices.sharding import is_first, wait_for_all
from tfds_dwplus import Builder
from tfds_dwplus.bands import Classes
from tfds_dwplus.command_line import local_path
from tfds_dwplus.files import buckets
from tfds_dwplus.files.strangers import one_line
from tfds_dwplus.imagery.decoder.backscatter import other_quantity, quantity_named
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles.prepared import dataset_classes, open_dataset, read_split

VALIDATION = ("validation", "val", "valid")
"""Names of the split that checkpoints are chosen by, the first first."""


def open_or_simulate(data: Data) -> tfds.core.DatasetBuilder:
    """Opens the data set of the config; makes the simulated one on first use."""
    default = Builder.BUILDER_CONFIGS[0]
    folder = local_path(data.data_dir, whole=False)
    if data.name == default.name:
        buckets.fetch(folder / "dynamic_world_plus" / default.name)
    if data.name == default.name and not (folder / "dynamic_world_plus" / default.name).exists() and is_first():
        print("making the SIMULATED data set, on first use")
        prepare(default, folder)
        buckets.flush()  # other processes read it from there
    wait_for_all("data set")
    return open_dataset(data.data_dir, data.name)


def resolve(config: Config, builder: tfds.core.DatasetBuilder) -> tuple[Config, Statistics]:
    """Fills in bands, channels, classes, splits, crop and steps as the data set has them; also returns the statistics of those bands.

    Raises:
        ValueError: a sensor, a band or a split that the data set lacks, or weights of more or fewer classes than it has.
    """
    sensors = config.model.sensors
    classes = len(dataset_classes(builder))
    check_alpha(config.loss, classes)
    check_sensors(builder, sensors)
    if config.loss.name == "soft" and not config.train.teacher:
        check_shares(builder)
    statistics = dataset_statistics(builder)
    s2_bands = ("s2" in sensors and config.data.s2_bands) or dataset_bands(builder)
    statistics = dataclasses.replace(statistics, s2=statistics.s2.choose(s2_bands))
    data = choose_splits(builder, config.data)
    crop_px = data.crop_px or builder.info.features["label"].shape[0]
    return dataclasses.replace(
        config,
        data=dataclasses.replace(data, s2_bands=s2_bands, crop_px=crop_px),
        train=with_steps(config.train, builder, data.train_split) if config.train.epochs else config.train,
        model=dataclasses.replace(
            config.model, s2_channels=len(s2_bands), s1_channels=len(statistics.s1.bands), classes=classes
        ),
    ), statistics


def choose_splits(builder: tfds.core.DatasetBuilder, data: Data) -> Data:
    """Names a validation split: the data set's own, or else the last tenth of the train split.

    Raises:
        ValueError: the train split is unknown or empty, or it is too small, or a part itself, to hold some of it out.
    """
    if data.validation_split:
        return data
    splits = builder.info.splits
    if own := [name for name in VALIDATION if name in splits]:
        return dataclasses.replace(data, validation_split=own[0])
    tiles = len(read_split(builder, data.train_split))
    if tiles < 2 or data.train_split not in splits:
        what = "one tile" if tiles == 1 else f"{tiles} tiles"
        raise ValueError(
            f"{builder.info.full_name} has no split {', '.join(VALIDATION)}, and none is held out of the {what} of "
            f"{data.train_split!r}; name one, or choose the checkpoint by the tiles that it learns from: "
            f"--config.data.validation_split={shlex.quote(data.train_split)}"
        )
    held_out = max(1, tiles // 10)
    return dataclasses.replace(
        data, validation_split=f"{data.train_split}[-{held_out}:]", train_split=f"{data.train_split}[:-{held_out}]"
    )


def with_steps(config: Train, builder: tfds.core.DatasetBuilder, split: str) -> Train:
    """Returns the settings with the steps of their epochs, each of which sees all tiles of a split; the last batch may begin one more."""
    tiles = len(read_split(builder, split))
    steps = -(-config.epochs * tiles // config.batch_size)
    try:
        return dataclasses.replace(config, steps=steps)
    except ValueError as error:
        raise ValueError(f"train.epochs={config.epochs} of {tiles} tiles: {error}") from None


def has_test_split(builder: tfds.core.DatasetBuilder, data: Data) -> bool:
    """Whether there is a test split to score: False if the config names none, or its default 'test' is not there."""
    return bool(data.test_split) and (data.test_split != "test" or "test" in builder.info.splits)


def dataset_bands(builder: tfds.core.DatasetBuilder) -> tuple[str, ...]:
    """Sentinel-2 bands of the records, in their order."""
    return tuple(builder.info.metadata["s2_bands"])


def dataset_statistics(builder: tfds.core.DatasetBuilder) -> Statistics:
    """Statistics of the train split. Raises ValueError if the data set was prepared without one."""
    stored = builder.info.metadata.get("statistics")
    if stored is None:
        raise ValueError(f"{builder.info.full_name} has no split 'train', so no statistics to train with")
    return Statistics.from_dict(stored | {"labelled_by": labelled_by(builder, "train")})


def labelled_by(builder: tfds.core.DatasetBuilder, split: str) -> dict[str, int]:
    """Returns the tiles of a split by annotator; empty for data sets that were made before they were counted."""
    return dict((builder.info.metadata.get("labelled_by") or {}).get(split, {}))


def check_shares(builder: tfds.core.DatasetBuilder) -> None:
    """Raises a ValueError if the records do not hold the shares of a network, which loss.name=soft learns."""
    if "probability" not in builder.info.features:
        raise ValueError(
            f"loss.name is soft, but {builder.info.full_name} holds no probabilities of a network; label its tiles with "
            "python -m tfds_dwplus.label --probabilities and prepare them again, or take loss.name=cross_entropy"
        )


def data_sha256(builder: tfds.core.DatasetBuilder) -> str:
    """Returns a digest of a data set's name, sizes of splits and statistics: two folders may hold other data sets of one name."""
    sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
    told = [builder.info.full_name, sizes, builder.info.metadata.get("statistics")]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def other_backscatter(builder: tfds.core.DatasetBuilder, trained: Statistics, sensors: tuple[str, ...]) -> str:
    """Returns a line if a data set holds another backscatter, sigma0 or gamma0, than a network was trained on; "" if not, or not known.

    Args:
        builder: of the data set.
        trained: statistics that the network was trained with.
        sensors: that the network reads.
    """
    stored = builder.info.metadata.get("statistics") or {}
    unit = builder.info.metadata.get("s1_unit") or stored.get("s1", {}).get("unit", "")
    return other_quantity(quantity_named([unit]), trained.s1.unit) if "s1" in sensors else ""


def check_classes(builder: tfds.core.DatasetBuilder, classes: Classes) -> None:
    """Raises a ValueError if the data set has other `classes`, or in another order, than a network; their colours may differ."""
    held = dataset_classes(builder).names
    if held != classes.names:
        raise ValueError(
            f"{builder.info.full_name} has the classes {one_line(', '.join(held), 200)}, the network has "
            f"{one_line(', '.join(classes.names), 200)}; fine-tune it on that data set (python -m specsar_jax.train "
            "--config.train.finetune=NETWORK), or take a network or a data set of the same classes"
        )


def check_sensors(builder: tfds.core.DatasetBuilder, sensors: tuple[str, ...], may_miss: tuple[str, ...] = ()) -> None:
    """Raises a ValueError if the data set lacks one of the `sensors` that a network reads, and not one that it `may_miss`."""
    presets = {"s2": "spectral_only", "s1": "sar_only"}
    held = builder.info.metadata.get("sensors", list(presets))  # data sets made before tiles of one sensor hold both
    for sensor in sensors:
        if sensor not in (*held, *may_miss):
            raise ValueError(
                f"{builder.info.full_name} holds {' and '.join(held)} only, but the network reads {' and '.join(sensors)}; "
                f"train one that does not read {sensor}, --config.model={presets[held[0]]}, or take another data set"
            )
