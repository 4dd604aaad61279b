"""Records of a prepared data set to batches, as one Grain chain.

Enters: `dynamic_world_plus/NAME` as ArrayRecord. Leaves: batches of physical values on the host,
`{"s2": uint16, "s1": float32, "label": uint8, "expert": bool, "tile_id": bytes}`, labels ignored wherever a sensor in use has
no data; a sensor that the network does not read has no channels. Tile i of batch n, its crop and all that is done to it
are a function of the seed, n and i alone. So the step is all the state there is: a run is resumed by asking for the
batches from a step on, with any number of readers, and processes share a batch by asking for some of its rows.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain.python as grain
import numpy as np
import tensorflow_datasets as tfds

from specsar_jax import preprocess
from specsar_jax.config import Config
from specsar_jax.model import SMALLEST_SIZE_PX
from specsar_jax.preprocess import Statistics
from tfds_dwplus import bands

Batch = dict[str, np.ndarray]
"""`s2` uint16 [batch, height, width, band], `s1` float32 [batch, height, width, 2 or 0], `label` uint8 [batch, height, width],
`expert` bool [batch], whether experts labelled the tile, `tile_id` bytes [batch]."""

RASTERS = ("s2", "s1", "label")


def choose_splits(builder: tfds.core.DatasetBuilder, config: Config) -> Config:
    """The config with a validation split: the data set's own, or else the last tenth of the train split."""
    data = config.data
    if data.validation_split:
        return config
    splits = builder.info.splits
    if "validation" in splits:
        return _with(config, validation_split="validation")
    if data.train_split not in splits or splits[data.train_split].num_examples < 2:
        return config  # `read_split` says what is wrong with the train split
    held_out = max(1, splits[data.train_split].num_examples // 10)
    return _with(
        config, validation_split=f"{data.train_split}[-{held_out}:]", train_split=f"{data.train_split}[:-{held_out}]"
    )


def dataset_bands(builder: tfds.core.DatasetBuilder) -> tuple[str, ...]:
    """Sentinel-2 bands of the records, in their order."""
    return tuple(builder.info.metadata["s2_bands"])


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


def dataset_statistics(builder: tfds.core.DatasetBuilder) -> Statistics:
    """Statistics of the train split. Raises ValueError if the data set was prepared without one."""
    stored = builder.info.metadata.get("statistics")
    if stored is None:
        raise ValueError(f"{builder.info.full_name} has no split 'train', so no statistics to train with")
    return Statistics.from_dict(stored)


def columns(record: dict[str, Any]) -> dict[str, Any]:
    """Numbers and short texts of a record, by name."""
    return {
        name: value.decode() if isinstance(value, bytes) else np.asarray(value).item()
        for name, value in record.items()
        if np.ndim(value) == 0 and name != "s1_dates"  # those of a year of scenes
    }


def select(
    s2_bands: tuple[str, ...], held: tuple[str, ...], sensors: tuple[str, ...]
) -> Callable[[dict[str, Any]], Batch]:
    """A function from a record to what the network learns from: bands in the order of `s2_bands`, no channels of a sensor
    that is not among `sensors`, pixels without data not labelled.

    Raises:
        ValueError: a band that the records do not hold.
    """
    s2_bands = s2_bands if "s2" in sensors else ()
    missing = [name for name in s2_bands if name not in held]
    if missing:
        raise ValueError(f"no band {', '.join(missing)} in the data set; it has {', '.join(held)}")
    places = [held.index(name) for name in s2_bands]

    def rasters(record: dict[str, Any]) -> Batch:
        s2 = record["s2"] if places == list(range(len(held))) else record["s2"][..., places]
        s1 = record["s1"] if "s1" in sensors else record["s1"][..., :0]
        valid = preprocess.valid_pixels(s2, s1, sensors)
        return {
            "s2": s2,
            "s1": s1,
            "label": np.where(valid, record["label"], np.uint8(bands.IGNORE)),
            "expert": np.bool_(record["annotator"] in (b"expert", bands.HELD_OUT.encode())),
            "tile_id": np.bytes_(record["tile_id"]),
        }

    return rasters


def check_crop(source: Any, config: Config) -> None:
    """Raises a ValueError unless the crops of `data.crop_px` fit into the tiles and the network into the crops, and the
    settings of the augmentation make sense.
    """
    tile_px, crop_px = source[0]["label"].shape[0], config.data.crop_px
    if not SMALLEST_SIZE_PX <= crop_px <= tile_px:
        raise ValueError(
            f"data.crop_px is {crop_px}, expected 0 (whole tiles) or {SMALLEST_SIZE_PX} to {tile_px}, the size of the tiles"
        )
    spreads = ("brightness", "band_jitter", "speckle_looks", "band_drop")
    if config.data.zoom <= 0.0 or min(getattr(config.data, name) for name in spreads) < 0.0:
        raise ValueError(f"data.zoom must be positive (1 for none), {', '.join(spreads)} not negative")
    drop = config.data.sensor_drop
    if drop and (len(drop) != 2 or min(drop) < 0.0 or sum(drop) > 1.0):
        raise ValueError(
            f"data.sensor_drop is {drop}, expected the probabilities of losing Sentinel-2 and Sentinel-1, such as (0.3, 0.1), "
            "of a sum up to 1; or () for none"
        )


def train_batches(
    source: Any,
    rasters: Callable[[dict[str, Any]], Batch],
    config: Config,
    start_step: int,
    rows: Sequence[int] | None = None,
) -> grain.DatasetIterator:
    """Endless training batches, from the one of `start_step` on; of each the `rows`, or all."""

    def augment(tile: Batch, rng: np.random.Generator) -> Batch:
        return tile | preprocess.augment({name: tile[name] for name in RASTERS}, config.data, rng)

    size = config.train.batch_size
    rows = range(size) if rows is None else rows
    tiles = (
        grain.MapDataset.source(Readable(source, config.data.corrupt_records))
        .seed(config.train.seed)
        .shuffle()
        .repeat()
        .map(rasters)
        .random_map(augment)
    )
    share = grain.MapDataset.source(_Share(tiles, size, rows)).batch(len(rows), drop_remainder=True)
    return iter(share[start_step:].to_iter_dataset(_read_options(config)))


def evaluation_batches(
    source: Any,
    rasters: Callable[[dict[str, Any]], Batch],
    config: Config,
    size: int,
    rows: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Every tile once, in order, in batches of `size`; of each the `rows`, or all. The last batch is filled up with tiles
    without a label: none is dropped or counted twice.

    They also hold `about`, JSON in bytes [batch]: `index`, the tile's place in the split, its `transform`, and the `columns` of its
    record. It is empty in a row that is no tile: one that fills up, or whose record cannot be read.
    """
    rows = range(size) if rows is None else rows
    readable = Readable(source, config.data.corrupt_records)
    count = len(source)

    def tile(index: int) -> Batch:
        record = readable[min(index, count - 1)]
        about = {"index": index, "transform": record["transform"].tolist()} | columns(record)
        record = rasters(record)
        if index < count and not readable.was_corrupt(index):
            return record | {"about": np.bytes_(json.dumps(about).encode())}
        return record | {
            "about": np.bytes_(b""),
            "s2": np.full_like(record["s2"], bands.S2_NODATA),
            "s1": np.full_like(record["s1"], np.nan),
            "label": np.full_like(record["label"], bands.IGNORE),
        }

    tiles = grain.MapDataset.range(-(-count // size) * size).map(tile)
    share = grain.MapDataset.source(_Share(tiles, size, rows)).batch(len(rows), drop_remainder=True)
    return iter(share.to_iter_dataset(_read_options(config)))


class _Share:
    """The `rows` of each batch of `size` tiles, one after the other, as a source of their own."""

    def __init__(self, tiles: Any, size: int, rows: Sequence[int]) -> None:
        self._tiles, self._size, self._rows = tiles, size, rows

    def __len__(self) -> int:
        return len(self._tiles) // self._size * len(self._rows)

    def __getitem__(self, index: int) -> Batch:
        batch, place = divmod(index, len(self._rows))
        return self._tiles[batch * self._size + self._rows[place]]


class Readable:
    """A source that names a record it cannot read, and then either ends the run or gives the next one in its place."""

    def __init__(self, source: Any, corrupt_records: str) -> None:
        self._source, self._skips, self._corrupt = source, corrupt_records == "skip", set[int]()

    def __len__(self) -> int:
        return len(self._source)

    def was_corrupt(self, index: int) -> bool:
        """Whether record `index`, once asked for, could not be read."""
        return index in self._corrupt

    def __getitem__(self, index: int) -> dict[str, Any]:
        for tried in range(len(self)):
            place = (index + tried) % len(self)
            try:
                return self._source[place]
            except Exception as error:  # of the file, of protobuf, of the codec, each in its own words
                what = f"record {place} of {len(self)} of the split cannot be read ({type(error).__name__}: {error})"
                if not self._skips:
                    raise ValueError(
                        f"{what}; prepare the data set again, or leave it out: data.corrupt_records=skip"
                    ) from None
                if place not in self._corrupt:
                    self._corrupt.add(place)
                    print(f"{what}; skipped", file=sys.stderr)
        raise ValueError("no record of the split can be read; prepare the data set again")


def _read_options(config: Config) -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=config.data.read_threads, prefetch_buffer_size=4)


def _with(config: Config, **data: Any) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **data))
