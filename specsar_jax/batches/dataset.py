"""What a prepared data set holds, and the settings of a run that follow from it: bands, channels, splits, crop, statistics."""

import dataclasses
from pathlib import Path

import tensorflow_datasets as tfds

from specsar_jax.batches.preprocess import Statistics
from specsar_jax.config import Config, Data
from specsar_jax.devices.sharding import is_first, wait_for_all
from tfds_dwplus import Builder
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles.prepared import open_dataset


def open_or_simulate(data: Data) -> tfds.core.DatasetBuilder:
    """Opens the data set of the config; makes the simulated one on first use."""
    default = Builder.BUILDER_CONFIGS[0]
    folder = Path(data.data_dir)
    if data.name == default.name and not (folder / "dynamic_world_plus" / default.name).exists() and is_first():
        print("making the SIMULATED data set, on first use")
        prepare(default, folder)
    wait_for_all("data set")
    return open_dataset(data.data_dir, data.name)


def resolve(config: Config, builder: tfds.core.DatasetBuilder) -> tuple[Config, Statistics]:
    """Fills in bands, channels, splits and crop as the data set has them; also returns the statistics of those bands.

    Raises:
        ValueError: a sensor or a band that the data set lacks.
    """
    sensors = config.model.sensors
    check_sensors(builder, sensors)
    statistics = dataset_statistics(builder)
    s2_bands = ("s2" in sensors and config.data.s2_bands) or dataset_bands(builder)
    statistics = dataclasses.replace(statistics, s2=statistics.s2.choose(s2_bands))
    data = choose_splits(builder, config.data)
    crop_px = data.crop_px or builder.info.features["label"].shape[0]
    return dataclasses.replace(
        config,
        data=dataclasses.replace(data, s2_bands=s2_bands, crop_px=crop_px),
        model=dataclasses.replace(config.model, s2_channels=len(s2_bands), s1_channels=len(statistics.s1.bands)),
    ), statistics


def choose_splits(builder: tfds.core.DatasetBuilder, data: Data) -> Data:
    """Names a validation split: the data set's own, or else the last tenth of the train split."""
    if data.validation_split:
        return data
    splits = builder.info.splits
    if "validation" in splits:
        return dataclasses.replace(data, validation_split="validation")
    if data.train_split not in splits or splits[data.train_split].num_examples < 2:
        return data  # `read_split` says what is wrong with the train split
    held_out = max(1, splits[data.train_split].num_examples // 10)
    return dataclasses.replace(
        data, validation_split=f"{data.train_split}[-{held_out}:]", train_split=f"{data.train_split}[:-{held_out}]"
    )


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
    return Statistics.from_dict(stored)


def check_sensors(builder: tfds.core.DatasetBuilder, sensors: tuple[str, ...]) -> None:
    """Raises a ValueError if the data set lacks one of the `sensors` that a network reads."""
    presets = {"s2": "spectral_only", "s1": "sar_only"}
    held = builder.info.metadata.get("sensors", list(presets))  # data sets made before tiles of one sensor hold both
    for sensor in sensors:
        if sensor not in held:
            raise ValueError(
                f"{builder.info.full_name} holds {' and '.join(held)} only, but the network reads {' and '.join(sensors)}; "
                f"train one that does not read {sensor}, --config.model={presets[held[0]]}, or take another data set"
            )
