"""The TFDS builder `dynamic_world_plus`: tiles of Sentinel-2, Sentinel-1 and Dynamic World labels as ArrayRecord.

Enters: a folder of tiles in the layout of `tiles.tile_files`, or a simulation. Leaves: one record per tile, all of one size
(smaller tiles are padded with nodata at the right and bottom, larger ones are cut on request), with physical values;
statistics of the train split and the origin of the tiles in `builder.info.metadata`. If the tiles have one sensor only,
the other has zero bands in the records; `sensors` in the metadata lists the sensors.

    builder = tfds.builder("dynamic_world_plus/simulated", data_dir="data")
    builder.download_and_prepare()
    source = builder.as_data_source("train")        dataset = builder.as_dataset("train")

Shards are written one by one, in this process or by workers of Apache Beam. The tiles of each shard and their order are
decided before the first tile is read. So both ways give the same files, and memory holds one tile and the statistics only.
Workers on other machines must see the tiles and the data set under the same paths.
"""

import dataclasses
import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from tfds_dwplus import bands
from tfds_dwplus.command_line import progress
from tfds_dwplus.files import buckets
from tfds_dwplus.files.outputs import written_whole
from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.tiles import prepared  # as modules: one of the two may be what imported TFDS, and is not finished then
from tfds_dwplus.tiles import records as tile_records
from tfds_dwplus.tiles.labelling.annotators import count
from tfds_dwplus.tiles.labelling.class_table import colours_of, read_classes
from tfds_dwplus.tiles.splits import cut_validation, shuffled, subset
from tfds_dwplus.tiles.statistics import TileStatistics
from tfds_dwplus.tiles.tile_files import (
    PROBABILITY,
    TileRecord,
    list_tiles,
    provenance,
    read_tile,
    s1_unit,
    s2_band_names,
    sensors,
)

SIMULATION_VERSION = 1
"""To be increased when a change of `simulate` changes a pixel."""

SHARD_BYTES = 450_000_000
"""Size of a shard before compression: 64 tiles of 510 x 510 pixels with all bands."""


@dataclasses.dataclass
class DynamicWorldPlusConfig(tfds.core.BuilderConfig):
    """Source and choice of tiles. The source is `tiles`, `simulated_tiles`, or else TFDS's folder of manual downloads."""

    tile_size_px: int = 510
    """Height and width of a record."""
    cut: bool = False
    """Whether larger tiles are cut into squares of `tile_size_px` that do not overlap; otherwise they are refused."""
    tiles: Path | None = None
    """Folder of tiles."""
    s2_bands: tuple[str, ...] = ()
    """Sentinel-2 bands to keep, in this order. () keeps all bands of the first tile, or none without Sentinel-2."""
    vote: str = ""
    """Vote for the label of held-out tiles, one of `VOTES`. "" uses `label/`, to which `acquire` writes the consensus."""
    annotators: tuple[str, ...] = ()
    """Annotators of the tiles to keep. () keeps all. Held-out tiles are kept in any case."""
    hemispheres: tuple[str, ...] = ()
    """Hemispheres of the tiles to keep; () keeps all."""
    biomes: tuple[int, ...] = ()
    """Biomes of the tiles to keep; () keeps all."""
    validation_fraction: float = 0.0
    """Share of the split 'train' that becomes 'validation', by location."""
    split_seed: int = 0
    simulated_tiles: tuple[tuple[str, int], ...] = ()
    """Pairs of a split and its number of simulated tiles."""
    simulation_seed: int = 0

    def origin(self) -> dict[str, Any]:
        """Describes what the records are made from. Equal origins give equal data sets.

        Raises:
            ValueError: the folder of tiles does not exist or is not valid.
        """
        common = {"tile_size_px": self.tile_size_px, "s2_bands": list(self.s2_bands)}
        if self.simulated_tiles:
            return common | {
                "source": "SIMULATED landscapes, no measured pixel",
                "simulation_version": SIMULATION_VERSION,
                "simulated_tiles": dict(self.simulated_tiles),
                "simulation_seed": self.simulation_seed,
            }
        classes = self.classes()
        digest = hashlib.sha256((self.tiles / "tiles.csv").read_bytes() if list_tiles(self.tiles) else b"")
        for record in list_tiles(self.tiles):
            for kind in ("s2", "s1", _label_folder(self, record), PROBABILITY):
                path = self.tiles / kind / f"{record.tile_id}.tif"
                if path.is_file():  # a missing file is reported when it is read
                    digest.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
        return common | {
            "source": buckets.given(self.tiles.resolve()),
            "fingerprint": digest.hexdigest(),
            "cut": self.cut,
            "vote": self.vote,
            "annotators": list(self.annotators),
            "hemispheres": list(self.hemispheres),
            "biomes": list(self.biomes),
            "validation_fraction": self.validation_fraction,
            "split_seed": self.split_seed,
            **({"classes": list(classes.names)} | colours if (colours := colours_of(classes)) else {}),
        }

    def classes(self) -> bands.Classes:
        """Classes of the labels: Dynamic World's unless the folder of tiles has others. Raises a ValueError as `read_classes`."""
        return bands.DYNAMIC_WORLD if self.tiles is None else read_classes(self.tiles)


class Builder(FileReaderBuilder):
    """Builder of a data set of land-cover tiles: Dynamic World+, or other tiles in its layout."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        DynamicWorldPlusConfig(
            name="simulated",
            description="Procedural landscapes, SIMULATED: for trying things out without a download.",
            tile_size_px=128,
            simulated_tiles=(("train", 64), ("validation", 16), ("test", 16)),
        ),
        DynamicWorldPlusConfig(name="full", description="Dynamic World+ in its published splits, rebuilt."),
    ]
    DEFAULT_BUILDER_CONFIG_NAME = "full"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "No download of Dynamic World+ is public. Make a folder of tiles with python -m tfds_dwplus.acquire, and from it "
        "the data set with python -m tfds_dwplus.prepare --tiles FOLDER --name full --data_dir DATA, or give the folder "
        "to TFDS as --manual_dir. The config 'simulated' needs neither."
    )

    def __init__(self, *, file_format: str | None = None, **settings: Any) -> None:
        """As every TFDS builder, but the default file format is ArrayRecord."""
        super().__init__(file_format=file_format or "array_record", **settings)

    def _create_builder_config(self, builder_config: Any, version: Any) -> tfds.core.BuilderConfig | None:
        # TFDS refuses a new config with one of the names above, but `prepare --name full` makes one.
        if isinstance(builder_config, DynamicWorldPlusConfig):
            return builder_config
        return super()._create_builder_config(builder_config, version=version)

    def _info(self) -> tfds.core.DatasetInfo:
        if (self.data_path / "features.json").exists():  # a prepared data set has its own description
            prepared.check_folder(Path(self.data_path))
            features, metadata = tfds.features.FeaturesDict.from_config(self.data_path), None
        else:
            s2_bands, s1_bands = self._bands()
            classes = self.builder_config.classes()
            features = _features(self.builder_config, s2_bands, s1_bands, classes)
            metadata = tfds.core.MetadataDict(_contents(s2_bands, s1_bands, classes))
        return self.dataset_info_from_configs(
            features=features,
            homepage="https://doi.org/10.1594/PANGAEA.933475",
            license="labels CC-BY-4.0; contains modified Copernicus Sentinel data",
            metadata=metadata,
        )

    def _download_and_prepare(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig | None = None
    ) -> None:
        """Writes all shards. Nothing is downloaded: the tiles are local files, which `tfds_dwplus.acquire` makes."""
        config = self.builder_config
        if not config.simulated_tiles and config.tiles is None:
            config = dataclasses.replace(config, tiles=Path(dl_manager.manual_dir))
        if self.info.file_format.value != "array_record":
            raise ValueError(f"file format {self.info.file_format.value!r} is given, expected array_record")
        (s2_bands, s1_bands), classes = self._bands(), config.classes()
        if self.info.features.to_json() != _features(config, s2_bands, s1_bands, classes).to_json():
            raise ValueError(f"{self.name}/{config.name} was prepared with other features; remove its folder first")
        records, common = choose_tiles(config)
        shards = []
        for split, chosen in records.items():
            chosen = shuffled(chosen, split)
            template = self._get_filename_template(split)
            per_shard = _tiles_per_shard(config.tile_size_px, len(s2_bands), len(s1_bands))
            starts = range(0, len(chosen), per_shard)
            for index, start in enumerate(starts):
                path = Path(template.sharded_filepath(shard_index=index, num_shards=len(starts)))
                part = tuple(chosen[start : start + per_shard])
                shards.append(Shard(config, s2_bands, s1_bands, classes, split, part, path))
        if download_config and (download_config.beam_runner or download_config.beam_options):
            _write_with_beam(shards, download_config)
        else:
            with progress(total=sum(len(shard.records) for shard in shards), desc="packing", unit="tile") as bar:
                for shard in shards:
                    write_shard(shard)
                    bar.update(len(shard.records))

        statistics = TileStatistics(s2_bands, s1_bands, classes)
        lengths: dict[str, list[int]] = {split: [] for split in records}
        notes: list[str] = []
        annotators: dict[str, list[str]] = {split: [] for split in records}
        for shard in shards:
            with shard.part.open("rb") as file, np.load(file) as part:
                if "error" in part:
                    raise ValueError(str(part["error"]))
                lengths[shard.split].append(int(part["count"]))
                notes += part["notes"].tolist()
                annotators[shard.split] += part["annotators"].tolist()
                if shard.split == "train":
                    statistics.add_arrays(part)
            shard.part.unlink()
        for line in summary_of_notes(notes, sum(map(len, records.values()))):
            print(f"note: {line}", file=sys.stderr)
        self.info.set_splits(
            tfds.core.SplitDict(
                [
                    tfds.core.SplitInfo(
                        name=split,
                        shard_lengths=lengths[split],
                        num_bytes=sum(shard.path.stat().st_size for shard in shards if shard.split == split),
                        filename_template=self._get_filename_template(split),
                    )
                    for split in records
                ]
            )
        )
        if s1_bands and config.tiles and not common["s1_unit"]:
            common["s1_unit"] = s1_unit(config.tiles, next(iter(records.values()))[0])
        common["s1_unit"] = common["s1_unit"] or bands.S1_UNIT
        self.info.metadata.update(
            _contents(s2_bands, s1_bands, classes) | common,
            origin=config.origin(),
            labelled_by={split: count(names) for split, names in annotators.items()},
            statistics=statistics.summary(common["s1_unit"]) if "train" in records else None,
        )

    def _bands(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Bands of Sentinel-2 and of Sentinel-1; () for a missing sensor."""
        config = self.builder_config
        if config.tiles is None:
            unknown = [name for name in config.s2_bands if name not in bands.S2_BANDS]
            if unknown:
                raise ValueError(f"no simulated band {', '.join(unknown)}; expected of {', '.join(bands.S2_BANDS)}")
            return config.s2_bands or bands.S2_BANDS, bands.S1_BANDS
        there = sensors(config.tiles)
        s2_bands = config.s2_bands
        if "s2" in there and not s2_bands:
            s2_bands = s2_band_names(config.tiles, list_tiles(config.tiles)[0])
        return s2_bands, bands.S1_BANDS if "s1" in there else ()


@dataclasses.dataclass(frozen=True)
class Shard:
    """What a worker needs to write one file of records."""

    config: DynamicWorldPlusConfig
    s2_bands: tuple[str, ...]
    s1_bands: tuple[str, ...]
    classes: bands.Classes
    split: str
    records: tuple[TileRecord, ...]
    path: Path

    @property
    def part(self) -> Path:
        """Temporary file beside the shard, with its number of records and its statistics, or with an error message."""
        return self.path.with_name(f"{self.path.name}.part.npz")


def write_shard(shard: Shard) -> None:
    """Writes a shard and its part file. Raises a ValueError for an invalid tile."""
    statistics = TileStatistics(shard.s2_bands, shard.s1_bands, shard.classes)
    features = _features(shard.config, shard.s2_bands, shard.s1_bands, shard.classes)
    notes: list[str] = []
    annotators: list[str] = []
    written = tile_records.write_records(shard.path, _examples(shard, statistics, notes, annotators), features)
    arrays = statistics.arrays() if shard.split == "train" else {}
    told = {"notes": np.array(notes, str), "annotators": np.array(annotators, str)}
    _write_part(shard, count=written, **told, **arrays)


def choose_tiles(config: DynamicWorldPlusConfig) -> tuple[dict[str, list[TileRecord]], dict[str, str]]:
    """Chooses the tiles of each split; also gives the values that they have in common.

    Raises:
        ValueError: the options leave no tile, or tiles that must not be mixed.
    """
    if config.simulated_tiles:
        made = {split: [TileRecord(str(n), split) for n in range(count)] for split, count in config.simulated_tiles}
        return made, provenance([]) | {"vote": ""}
    records = list_tiles(config.tiles)
    validation = (
        cut_validation(records, config.validation_fraction, config.split_seed) if config.validation_fraction else {}
    )
    records = subset(records, config.annotators, config.hemispheres, config.biomes)
    held_out = any(record.annotator == bands.HELD_OUT for record in records)
    if config.vote and config.vote not in bands.VOTES:
        raise ValueError(f"--vote is {config.vote!r}, expected one of {', '.join(bands.VOTES)}")
    if config.vote and not held_out:
        raise ValueError(f"--vote {config.vote} is given, but no tile in tiles.csv has the annotator {bands.HELD_OUT}")
    splits: dict[str, list[TileRecord]] = {}
    for record in records:
        splits.setdefault(validation.get(record.tile_id, record.split), []).append(record)
    return splits, provenance(records) | {"vote": config.vote or ("as in label/" if held_out else "")}


def _examples(
    shard: Shard, statistics: TileStatistics, notes: list[str], annotators: list[str]
) -> Iterator[dict[str, Any]]:
    """Gives the records of a shard; adds to the statistics, to the notes on its tiles, and to the annotators of its records."""
    config = shard.config
    with_shares = _with_shares(config)
    for record in shard.records:
        if config.simulated_tiles:
            tile = simulated_tile(config.simulation_seed, shard.split, int(record.tile_id), config.tile_size_px)
            tile = dataclasses.replace(tile, s2=tile.s2[..., [bands.S2_BANDS.index(name) for name in shard.s2_bands]])
        else:
            labels = _label_folder(config, record)
            most_px = None if config.cut else config.tile_size_px
            how = {"labels": labels, "probabilities": with_shares, "most_px": most_px, "classes": shard.classes}
            tile = read_tile(config.tiles, record, shard.s2_bands, shard.s1_bands, **how)
            notes += [f"tile {record.tile_id}: {note}" for note in tile.notes]
        if shard.split == "train":
            statistics.update(tile.s2, tile.s1, tile.label)
        larger = max(tile.label.shape) > config.tile_size_px
        for part in tile_records.squares(tile, config.tile_size_px) if config.cut and larger else (tile,):
            annotators.append(part.record.annotator)
            yield tile_records.example(part, config.tile_size_px)


def summary_of_notes(notes: Sequence[str], tiles: int) -> list[str]:
    """One line for each kind of note: how many of the tiles have it, and the first one.

    That an offset may be in the numbers of a tile is told only if it may be so in most: a few tiles of snow or sand are bright.
    """
    kinds: dict[str, list[str]] = {}
    for note in notes:
        kinds.setdefault(re.sub(r"[\d.,]+", "", note.partition(": ")[2]), []).append(note)
    return [
        f"{len(all_of)} of {tiles} tiles: {all_of[0]}"
        for all_of in kinds.values()
        if "nothing says whether the offset" not in all_of[0] or 2 * len(all_of) > tiles
    ]


def _write_with_beam(shards: list[Shard], download_config: tfds.download.DownloadConfig) -> None:
    try:
        import apache_beam as beam
    except ImportError:
        raise ValueError("Apache Beam is not installed; pip install 'specsar_jax[beam]'") from None
    try:
        with beam.Pipeline(runner=download_config.beam_runner, options=download_config.beam_options) as pipeline:
            _ = pipeline | beam.Create(shards) | beam.Reshuffle() | beam.Map(_write_or_store_error)
    except Exception as error:  # Beam gives a worker's error as text, after several tracebacks
        raise ValueError(f"Apache Beam failed: {str(error).strip().splitlines()[-1]}") from error


def _write_or_store_error(shard: Shard) -> None:
    """Writes a shard, or stores the error in its part file. Beam would retry four times after an exception."""
    try:
        write_shard(shard)
    except (ValueError, OSError) as error:
        _write_part(shard, error=str(error))


def _write_part(shard: Shard, **arrays: Any) -> None:
    with written_whole(shard.part) as part, part.open("wb") as file:
        np.savez(file, **arrays)


def _label_folder(config: DynamicWorldPlusConfig, record: TileRecord) -> str:
    return f"label_{config.vote}" if config.vote and record.annotator == bands.HELD_OUT else "label"


def _with_shares(config: DynamicWorldPlusConfig) -> bool:
    """Whether the records hold the shares of the classes that a network gave."""
    return config.tiles is not None and (config.tiles / PROBABILITY).is_dir()


def _features(
    config: DynamicWorldPlusConfig, s2_bands: tuple[str, ...], s1_bands: tuple[str, ...], classes: bands.Classes
) -> "tile_records.Record":
    shares = len(classes) if _with_shares(config) else 0
    return tile_records.record_features(config.tile_size_px, len(s2_bands), len(s1_bands), shares=shares)


def _contents(s2_bands: tuple[str, ...], s1_bands: tuple[str, ...], classes: bands.Classes) -> dict[str, Any]:
    """Metadata that describe the records."""
    there = [sensor for sensor, names in (("s2", s2_bands), ("s1", s1_bands)) if names]
    held = {"sensors": there, "s2_bands": list(s2_bands), "s1_bands": list(s1_bands), "classes": list(classes.names)}
    return held | colours_of(classes)


def _tiles_per_shard(size_px: int, s2_bands: int, s1_bands: int) -> int:
    return max(1, round(SHARD_BYTES / (size_px**2 * (2 * s2_bands + 4 * s1_bands + 1))))
