"""The TFDS builder `dynamic_world_plus`: tiles of Sentinel-2, Sentinel-1 and Dynamic World labels as ArrayRecord.

Enters: a folder of tiles in the layout of `tile_files`, or a simulation. Leaves: one record a tile, of one fixed size
(smaller tiles are padded with nodata at the right and the bottom), physical values only; statistics of the train split
and the origin of the tiles in `builder.info.metadata`. Tiles of one sensor give records in which the other has no bands;
`sensors` in the metadata says so.

    builder = tfds.builder("dynamic_world_plus/simulated", data_dir="data", file_format="array_record")
    builder.download_and_prepare()
    source = builder.as_data_source("train")
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tfds_dwplus import bands
from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.statistics import TileStatistics
from tfds_dwplus.tile_files import Tile, TileRecord, list_tiles, read_tile, s2_band_names, sensors

SIMULATION_VERSION = 1
"""Counts up with every change of `simulate` that changes a pixel."""


@dataclasses.dataclass
class DynamicWorldPlusConfig(tfds.core.BuilderConfig):
    """Where the tiles come from: exactly one of `tiles` and `simulated_tiles`."""

    tile_size_px: int = 510
    tiles: Path | None = None
    """Folder of tiles."""
    s2_bands: tuple[str, ...] = ()
    """Sentinel-2 bands to keep, in this order; () keeps those of the first tile, if the tiles have Sentinel-2 at all."""
    simulated_tiles: tuple[tuple[str, int], ...] = ()
    """Pairs of split and number of tiles."""
    simulation_seed: int = 0

    def origin(self) -> dict[str, Any]:
        """What the records are made from; equal origins give equal data sets.

        Raises:
            ValueError: the folder of tiles is not one.
        """
        common = {"tile_size_px": self.tile_size_px, "s2_bands": list(self.s2_bands)}
        if self.tiles is None:
            return common | {
                "source": "SIMULATED landscapes, no measured pixel",
                "simulation_version": SIMULATION_VERSION,
                "simulated_tiles": dict(self.simulated_tiles),
                "simulation_seed": self.simulation_seed,
            }
        records = list_tiles(self.tiles)
        digest = hashlib.sha256((self.tiles / "tiles.csv").read_bytes())
        for record in records:
            for kind in ("s2", "s1", "label"):
                path = self.tiles / kind / f"{record.tile_id}.tif"
                if path.is_file():  # a missing one is refused when it is read
                    digest.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
        return common | {"source": str(self.tiles.resolve()), "fingerprint": digest.hexdigest()}


class Builder(tfds.core.GeneratorBasedBuilder):
    """Land-cover tiles of Dynamic World+ or in its layout."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        DynamicWorldPlusConfig(
            name="simulated",
            description="Procedural landscapes, SIMULATED: for trying things out without a download.",
            tile_size_px=128,
            simulated_tiles=(("train", 64), ("validation", 16), ("test", 16)),
        )
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.tile_size_px
        s2_bands, s1_bands = self._bands()

        def tensor(shape: tuple[int, ...], dtype: type) -> tfds.features.Tensor:
            # 'bytes' reads five times faster than TFDS's default, which goes through a list of int64, and keeps
            # float64, which the default rounds to float32: metres, in a UTM northing.
            return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")

        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "s2": tensor((size, size, len(s2_bands)), np.uint16),
                    "s1": tensor((size, size, len(s1_bands)), np.float32),
                    "label": tensor((size, size), np.uint8),
                    "tile_id": tfds.features.Text(),
                    "lon": tensor((), np.float64),
                    "lat": tensor((), np.float64),
                    "date": tfds.features.Text(),
                    "annotator": tfds.features.Text(),
                    "crs": tfds.features.Text(),
                    "transform": tensor((6,), np.float64),
                }
            ),
            homepage="https://doi.org/10.1594/PANGAEA.933475",
            metadata=tfds.core.MetadataDict(self._contents(), classes=list(bands.CLASSES)),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[str, Any]]]:
        del dl_manager  # tiles are local files; `tfds_dwplus.acquire` is what downloads
        records: dict[str, list[TileRecord]] = {}
        config = self.builder_config
        if config.tiles is None:
            for split, count in config.simulated_tiles:
                records[split] = [TileRecord(str(index), split) for index in range(count)]
        else:
            for record in list_tiles(config.tiles):
                records.setdefault(record.split, []).append(record)
        # All of it anew: where a data set is overwritten, the old one's metadata stand here.
        self.info.metadata.update(self._contents(), origin=config.origin(), statistics=None)
        return {split: self._generate_examples(split, chosen) for split, chosen in records.items()}

    def _generate_examples(self, split: str, records: list[TileRecord]) -> Iterator[tuple[str, dict[str, Any]]]:
        config = self.builder_config
        s2_bands, s1_bands = self._bands()
        statistics = TileStatistics(s2_bands, s1_bands)
        for index, record in enumerate(records):
            if config.tiles is None:
                tile = simulated_tile(config.simulation_seed, split, index, config.tile_size_px)
                tile = dataclasses.replace(tile, s2=tile.s2[..., [bands.S2_BANDS.index(name) for name in s2_bands]])
            else:
                tile = read_tile(config.tiles, record, s2_bands, s1_bands)
            if split == "train":
                statistics.update(tile.s2, tile.s1, tile.label)
            yield tile.record.tile_id, example(tile, config.tile_size_px)
        if split == "train":
            self.info.metadata["statistics"] = statistics.summary()

    def _bands(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Bands of Sentinel-2 and of Sentinel-1; () of a sensor that the tiles do not have."""
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

    def _contents(self) -> dict[str, list[str]]:
        """What the metadata say of the records."""
        s2_bands, s1_bands = self._bands()
        there = [sensor for sensor, names in (("s2", s2_bands), ("s1", s1_bands)) if names]
        return {"sensors": there, "s2_bands": list(s2_bands), "s1_bands": list(s1_bands)}


def example(tile: Tile, size_px: int) -> dict[str, Any]:
    """A tile as features, padded with nodata to `size_px`. Raises ValueError if the tile is larger."""
    height, width = tile.label.shape
    if max(height, width) > size_px:
        raise ValueError(
            f"tile {tile.record.tile_id!r} is {height} x {width} pixels, larger than the data set's tile size of "
            f"{size_px}; give --tile_size_px {max(height, width)} or cut the tile"
        )
    pad = ((0, size_px - height), (0, size_px - width))
    return {
        "s2": np.pad(tile.s2, (*pad, (0, 0)), constant_values=bands.S2_NODATA),
        "s1": np.pad(tile.s1, (*pad, (0, 0)), constant_values=np.nan),
        "label": np.pad(tile.label, pad, constant_values=bands.IGNORE),
        "tile_id": tile.record.tile_id,
        "lon": np.float64(tile.record.lon),
        "lat": np.float64(tile.record.lat),
        "date": tile.record.date,
        "annotator": tile.record.annotator,
        "crs": tile.crs,
        "transform": np.asarray(tile.transform, np.float64),
    }
