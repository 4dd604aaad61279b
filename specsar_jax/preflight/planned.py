"""A run as its data set makes it, or as it may be assumed where the data set is not there yet.

Enters: a config. Leaves: a `Plan`, with all that shapes of batches, weights and programs depend on. No record is read but one.
"""

import dataclasses
import math

import jax

from specsar_jax.batches import pipeline
from specsar_jax.batches.dataset import dataset_bands, resolve
from specsar_jax.batches.preprocess import SensorStatistics, Statistics
from specsar_jax.config import Config, check_alpha
from specsar_jax.network.model import abstract_params
from specsar_jax.trained.teacher import Teacher, load_teacher
from specsar_jax.training.optimizer import check_names
from specsar_jax.training.trackers import check_tracker
from tfds_dwplus import Builder, DynamicWorldPlusConfig, bands
from tfds_dwplus.tiles.prepared import open_dataset, read_split


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run's programs depend on."""

    config: Config
    """As `resolve` gives it: with bands, classes and crop."""
    statistics: Statistics
    tile_px: int
    """Side of the tiles that are evaluated; crops are of `config.data.crop_px`."""
    teacher: Teacher | None
    parameters: int
    """Weights of the network."""
    data: str
    """The data set, or what is assumed in its place and why."""


def plan(config: Config) -> Plan:
    """Looks at the data set of a config.

    Raises:
        ValueError: config, data set and teacher do not fit each other; that there is no such data set is no error.
    """
    check_tracker(config.train.tracker)
    try:
        builder = open_dataset(config.data.data_dir, config.data.name)
    except ValueError as error:
        config, statistics, tile_px, held = _assumed(config)
        data = f"assumed: tiles of {tile_px} x {tile_px} px, {_bands(config, statistics)}, for {error}"
    else:
        config, statistics = resolve(config, builder)
        tile_px, held = builder.info.features["label"].shape[0], dataset_bands(builder)
        pipeline.check_crop(read_split(builder, config.data.train_split), config.data)
        data = f"{builder.info.full_name}: tiles of {tile_px} x {tile_px} px, {_bands(config, statistics)}"
    params = abstract_params(config.model)["params"]
    check_names(params, config.optimizer, tuple(config.model.blocks), config.train.trainable)
    teacher = load_teacher(config.train.teacher, config, statistics, held) if config.train.teacher else None
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    return Plan(config, statistics, tile_px, teacher, parameters, data)


def assumed_statistics(s2_bands: tuple[str, ...], classes: int = len(bands.CLASSES)) -> Statistics:
    """Returns statistics of a data set that is not there: of some Sentinel-2 bands and both of Sentinel-1, made up."""

    def sensor(names: tuple[str, ...], low: float, high: float) -> SensorStatistics:
        mean, std = (low + high) / 2, (high - low) / 4
        return SensorStatistics(
            names, *((value,) * len(names) for value in (mean, std, low, high)), "", (1,) * len(names)
        )

    return Statistics(sensor(s2_bands, 1.0, 10_000.0), sensor(bands.S1_BANDS, -30.0, 0.0), (1,) * classes)


def _assumed(config: Config) -> tuple[Config, Statistics, int, tuple[str, ...]]:
    """As `resolve`, with the side of the tiles and the Sentinel-2 bands of the data set, of one that `prepare` would make as it stands."""
    simulated = Builder.BUILDER_CONFIGS[0]
    made = simulated if config.data.name == simulated.name else DynamicWorldPlusConfig(name=config.data.name)
    chosen = ("s2" in config.model.sensors and config.data.s2_bands) or bands.S2_BANDS
    crop_px = config.data.crop_px or made.tile_size_px
    statistics = assumed_statistics(chosen)
    check_alpha(config.loss, len(bands.CLASSES))
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, s2_bands=chosen, crop_px=crop_px),
        model=dataclasses.replace(
            config.model, s2_channels=len(chosen), s1_channels=len(bands.S1_BANDS), classes=len(bands.CLASSES)
        ),
    )
    return config, statistics, max(made.tile_size_px, crop_px), tuple(dict.fromkeys((*bands.S2_BANDS, *chosen)))


def _bands(config: Config, statistics: Statistics) -> str:
    sensors = {"s2": f"{len(statistics.s2.bands)} bands", "s1": " and ".join(statistics.s1.bands)}
    read = ", ".join(sensors[sensor] for sensor in config.model.sensors)
    return f"{read}, {len(statistics.classes)} classes"
