"""Turns the records of a prepared data set into batches, as one Grain chain.

Enters: `dynamic_world_plus/NAME` as ArrayRecord. Leaves: batches of physical values on the host,
`{"s2": uint16, "s1": float32, "label": uint8, "expert": bool, "tile_id": bytes}`, with `"probability": uint8` for the soft loss.
Labels are ignored wherever a sensor in use has no data; a sensor that the network does not read has no channels.

Tile i of batch n, its crop and its augmentation depend on the seed, n and i alone. So the step is the only state: a run resumes by
asking for the batches from a step on, with any number of readers, and processes share a batch by asking for some of its rows.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain.python as grain
import numpy as np

from specsar_jax.batches import preprocess
from specsar_jax.config import Data
from specsar_jax.network.model import SMALLEST_SIZE_PX
from tfds_dwplus import bands
from tfds_dwplus.tiles.records import lazily

Batch = dict[str, np.ndarray]
"""`s2` uint16 [batch, height, width, band], `s1` float32 [batch, height, width, 2 or 0], `label` uint8 [batch, height, width],
`expert` bool [batch], whether experts labelled the tile, `tile_id` bytes [batch]; for the soft loss `probability` uint8 [batch, height,
width, class], shares of the classes that sum to 255, or to 0 where they are not known."""

RASTERS = ("s2", "s1", "label")
PROBABILITY = "probability"
WHOLE = (slice(None), slice(None))


def columns(record: dict[str, Any]) -> dict[str, Any]:
    """Numbers and short texts of a record, by name."""
    return {
        name: value.decode() if isinstance(value, bytes) else np.asarray(value).item()
        for name, value in record.items()
        if np.ndim(value) == 0 and name != "s1_dates"  # those of a year of scenes
    }


def select(
    s2_bands: tuple[str, ...],
    held: tuple[str, ...],
    sensors: tuple[str, ...],
    *,
    probabilities: bool = False,
    may_miss: tuple[str, ...] = (),
) -> Callable[..., Batch]:
    """Returns a function that takes from a record what the network learns from: bands in the order of `s2_bands`, no channels
    of a sensor that is not among `sensors`, no label where a pixel has no data, and the shares of the classes on request. It may be
    given a part of the tile to take. A sensor of `may_miss` (`Config.may_miss`) may lack data, or be none of the records'.

    Raises:
        ValueError: a band that the records do not hold.
    """
    s2_bands = s2_bands if "s2" in sensors else ()
    read = s2_bands if held or "s2" not in may_miss else ()
    missing = [name for name in read if name not in held]
    if missing:
        raise ValueError(f"no band {', '.join(missing)} in the data set; it has {', '.join(held)}")
    places = [held.index(name) for name in read]

    def rasters(record: dict[str, Any], part: preprocess.Part = WHOLE) -> Batch:
        label = record["label"][part]
        s2 = record["s2"][part] if places else np.empty((*label.shape, 0), np.uint16)
        s2 = s2 if places in ([], list(range(len(held)))) else s2[..., places]
        s1 = record["s1"][part] if "s1" in sensors else np.empty((*label.shape, 0), np.float32)
        s2, s1 = bands.with_missing(s2, s1, (len(s2_bands), len(bands.S1_BANDS)), may_miss)
        valid = bands.valid_pixels(s2, s1, sensors, may_miss)
        shares = {PROBABILITY: record[PROBABILITY][part]} if probabilities else {}
        return shares | {
            "s2": s2,
            "s1": s1,
            "label": np.where(valid, label, np.uint8(bands.IGNORE)),
            "expert": np.bool_(record["annotator"] in (b"expert", bands.HELD_OUT.encode())),
            "tile_id": np.bytes_(record["tile_id"]),
        }

    return rasters


def check_crop(source: Any, data: Data) -> None:
    """Raises a ValueError unless crops of `data.crop_px` fit into the tiles and the network into the crops."""
    tile_px = source[0]["label"].shape[0]
    if not SMALLEST_SIZE_PX <= data.crop_px <= tile_px:
        raise ValueError(
            f"data.crop_px is {data.crop_px}, expected 0 (whole tiles) or {SMALLEST_SIZE_PX} to {tile_px}, the size of the tiles"
        )


def train_batches(
    source: Any,
    rasters: Callable[[dict[str, Any]], Batch],
    data: Data,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    rows: Sequence[int] | None = None,
) -> grain.DatasetIterator:
    """Yields training batches without end.

    Args:
        source: records of the train split.
        rasters: of `select`. Of each record only the crop is decoded, where the record's layout allows.
        data: augmentation, and how records are read.
        batch_size: tiles of a batch, over all processes.
        seed: of the order of the tiles and of the augmentation.
        start_step: how many batches were used before.
        rows: of each batch, those that this process reads; all if not given.
    """
    readable = Readable(lazily(source), data.corrupt_records)
    boxes: dict[int, preprocess.Part] = {}

    def cropped(index: int, rng: np.random.Generator) -> Batch:
        drawn = rng.bit_generator.state

        def crop(place: int, record: dict[str, Any]) -> Batch:
            rng.bit_generator.state = drawn  # a record that takes the place of another one is cut as if it were alone
            if place not in boxes:
                boxes[place] = labelled_box(record, rasters)
            return rasters(record, preprocess.draw_crop(boxes[place], record["label"].shape, data, rng))

        cut = readable.read(index, crop)
        changed = [name for name in (*RASTERS, PROBABILITY) if name in cut]
        return cut | preprocess.augment_crop({name: cut[name] for name in changed}, data, rng)

    def tile(index: int, rng: np.random.Generator) -> Batch:
        whole = cropped(index, rng)
        if data.mosaic and rng.random() < data.mosaic:
            other = cropped(int(rng.integers(len(source))), rng)
            changed = [name for name in (*RASTERS, PROBABILITY) if name in whole]
            whole |= preprocess.mosaic(*({name: of[name] for name in changed} for of in (whole, other)), rng)
        return whole

    rows = range(batch_size) if rows is None else rows
    tiles = (
        grain.MapDataset.source(range(len(source)))
        .seed(seed)
        .shuffle()
        .repeat()
        .map(int)  # Grain derives the seed of each stage from its number: one less, and other crops would be drawn
        .random_map(tile)
    )
    share = grain.MapDataset.source(_Share(tiles, batch_size, rows)).batch(len(rows), drop_remainder=True)
    return iter(share[start_step:].to_iter_dataset(_read_options(data)))


def evaluation_batches(
    source: Any,
    rasters: Callable[[dict[str, Any]], Batch],
    data: Data,
    batch_size: int,
    rows: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Yields every tile once, in order; fills up the last batch with tiles without a label, so that none is dropped or counted twice.

    Batches also hold `about`, JSON in bytes [batch]: `index`, the tile's place in the split, its `transform`, and the `columns` of
    its record. It is empty in a row that is no tile: one that fills up, or whose record cannot be read.

    Args:
        source: records of a split.
        rasters: of `select`.
        data: how records are read.
        batch_size: tiles of a batch, over all processes.
        rows: of each batch, those that this process reads; all if not given.
    """
    rows = range(batch_size) if rows is None else rows
    readable = Readable(source, data.corrupt_records)
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

    tiles = grain.MapDataset.range(-(-count // batch_size) * batch_size).map(tile)
    share = grain.MapDataset.source(_Share(tiles, batch_size, rows)).batch(len(rows), drop_remainder=True)
    return iter(share.to_iter_dataset(_read_options(data)))


def labelled_box(record: dict[str, Any], rasters: Callable[..., Batch]) -> preprocess.Part:
    """The smallest box around the labels that `rasters` leaves of a tile; decodes little of a record that is in blocks.

    A block whose every value is there keeps its labels. One that lacks some is decoded only if it has labels outside of the
    box around the labels that are certain: inside, it changes nothing.
    """
    if isinstance(record["label"], np.ndarray):
        return preprocess.labelled_box(rasters(record)["label"])
    label = record["label"][WHOLE]
    parts = [
        part
        for sensor in ("s2", "s1")
        if not isinstance(record[sensor], np.ndarray)  # a sensor that the data set lacks
        for part in record[sensor].incomplete()
    ]
    if parts:
        given = label.copy()
        for part in parts:
            label[part] = bands.IGNORE
        outside = given != bands.IGNORE
        if (label != bands.IGNORE).any():
            outside[preprocess.labelled_box(label)] = False
        for part in parts:
            if outside[part].any():
                label[part] = rasters(record, part)["label"]
                outside[part] = False
    return preprocess.labelled_box(label)


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
        return self.read(index, lambda _, record: record)

    def read(self, index: int, decode: Callable[[int, dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """What `decode` makes of record `index` and its place. That it fails counts as if the record could not be read."""
        for tried in range(len(self)):
            place = (index + tried) % len(self)
            try:
                return decode(place, self._source[place])
            except Exception as error:  # of the file, of protobuf, of the codec, each in its own words
                what = f"record {place} of {len(self)} of the split cannot be read ({type(error).__name__}: {error})"
                if not self._skips:
                    raise ValueError(
                        f"{what}; prepare the data set again, or leave it out: --config.data.corrupt_records=skip"
                    ) from None
                if place not in self._corrupt:
                    self._corrupt.add(place)
                    print(f"{what}; skipped", file=sys.stderr)
        raise ValueError("no record of the split can be read; prepare the data set again")


def _read_options(data: Data) -> grain.ReadOptions:
    # A reader without a place in the buffer would wait for another one to be emptied.
    return grain.ReadOptions(num_threads=data.read_threads, prefetch_buffer_size=max(4, data.read_threads))
