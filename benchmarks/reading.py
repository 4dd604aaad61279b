"""Speed of reading tiles: this data set beside rasterio on the same tiles as GeoTIFF, and the codecs that were tried.

    python benchmarks/reading.py [--real ../shared/real] [--tiles 16] [--rounds 5] [--threads 2] [--codecs | --crops] [--json FILE]

Tiles of 510 x 510 pixels, nine bands uint16, two float32 and the label uint8: 7.02 MB in memory. Simulated ones, and the
real one of `dwplus_mini` that has this size, in as many files: its 20 m bands and its radar are resampled by nearest
neighbour, which every codec likes. All fit into the page cache and are read once before the first round; in each round
every reader takes its turn. About three minutes on two cores.
"""

import argparse
import contextlib
import csv
import dataclasses
import io
import itertools
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grain.python as grain
import numpy as np
import rasterio
import tensorflow_datasets as tfds
from array_record.python import array_record_data_source, array_record_module
from network import machine
from numcodecs import blosc

from specsar_jax.batches import dataset, pipeline, preprocess
from specsar_jax.config import Config, Data
from tfds_dwplus import DynamicWorldPlusConfig, bands
from tfds_dwplus.prepare import prepare
from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.tiles.layout import blocks
from tfds_dwplus.tiles.layout.blocks import CODEC
from tfds_dwplus.tiles.prepared import open_dataset, read_split
from tfds_dwplus.tiles.records import lazily
from tfds_dwplus.tiles.tile_files import COLUMNS, Tile, TileRecord, list_tiles, read_tile, write_tile

SIZE_PX = 510
RASTERS = ("s2", "s1", "label")
PASS_S = 1.5
"""A reader reads for about so long in a round."""


def simulated(count: int) -> Iterator[Tile]:
    """Made-up tiles."""
    for index in range(count):
        yield simulated_tile(0, "train", index, SIZE_PX)


def real(folder: Path, count: int) -> Iterator[Tile]:
    """The tiles of `dwplus_mini` that are large enough, over and over: what continued a smaller one would compress too well."""
    tiles = [read_tile(folder, record, bands.S2_BANDS) for record in list_tiles(folder)]
    tiles = [tile for tile in tiles if tile.label.shape == (SIZE_PX, SIZE_PX)]
    for index in range(count):
        yield dataclasses.replace(tiles[index % len(tiles)], record=TileRecord(f"real_{index}", "train"))


def write_folder(folder: Path, tiles: Iterable[Tile]) -> Path:
    """Tiles as deflated GeoTIFFs, in the layout that `prepare` reads."""
    rows = []
    for tile in tiles:
        write_tile(folder, tile, bands.S2_BANDS)
        rows.append((tile.record.tile_id, "train", *[""] * (len(COLUMNS) - 2)))
    with (folder / "tiles.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return folder


class GeoTiffs:
    """The plain way: three files a tile, opened and read by rasterio, and nothing checked."""

    def __init__(self, folder: Path) -> None:
        self.paths = [[folder / kind / f"{record.tile_id}.tif" for kind in RASTERS] for record in list_tiles(folder)]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        tile = {}
        for kind, path in zip(RASTERS, self.paths[index], strict=True):
            with rasterio.open(path) as raster:
                tile[kind] = raster.read()
        return tile


def in_order(source: Any) -> Iterator[Any]:
    """One tile after the other, in this thread, without end."""
    return (source[index % len(source)] for index in itertools.count())


def by_threads(source: Any, threads: int) -> Iterator[Any]:
    """The same by Grain's threads."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.source(source).repeat().to_iter_dataset(options))


def in_batches(source: Any, threads: int, builder: tfds.core.DatasetBuilder) -> Iterator[None]:
    """As `specsar_jax` evaluates: whole tiles, pixels without data not labelled, batches of four; once for each tile."""
    rasters = pipeline.select(bands.S2_BANDS, dataset.dataset_bands(builder), ("s2", "s1"))
    config = Config(data=Data(read_threads=threads))
    while True:
        for batch in pipeline.evaluation_batches(source, rasters, config.data, 4):
            for _ in range(len(batch["label"])):
                yield None


def tiles_a_second(tiles: Iterator[Any]) -> float:
    """Of an endless reader, after its first tile."""
    next(tiles)
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < PASS_S:
        next(tiles)
        count += 1
    with contextlib.suppress(AttributeError):
        tiles.close()
    return count / elapsed


def readers(folder: Path, tiles: Iterable[Tile], name: str, threads: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Endless readers of a set of tiles by their name, and megabytes a tile on disk of GeoTIFF and of the data set."""
    tifs = write_folder(folder / name, tiles)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        prepare(DynamicWorldPlusConfig(name=name, tiles=tifs, tile_size_px=SIZE_PX), folder / "data")
    builder = open_dataset(str(folder / "data"), name)
    source, plain = read_split(builder, "train"), GeoTiffs(tifs)
    first = {record["tile_id"].decode(): record for record in source}[plain.paths[0][0].stem]
    np.testing.assert_array_equal(np.moveaxis(plain[0]["s2"], 0, -1), first["s2"])
    many = f"{threads} threads"
    chosen: dict[str, Callable[[], Iterator[Any]]] = {
        "rasterio, GeoTIFF | 1 thread": lambda: in_order(plain),
        f"rasterio, GeoTIFF | {many}": lambda: by_threads(plain, threads),
        "as_data_source | 1 thread": lambda: in_order(source),
        f"as_data_source, Grain | {many}": lambda: by_threads(source, threads),
        f"specsar_jax.batches.pipeline | {many}": lambda: in_batches(source, threads, builder),
    }
    on_disk = {
        "rasterio": sum(path.stat().st_size for paths in plain.paths for path in paths),
        "records": sum(path.stat().st_size for path in Path(builder.data_dir).glob("*array_record*")),
    }
    return chosen, {key: size / len(plain) / 1e6 for key, size in on_disk.items()}


def codec_rows(folder: Path, name: str, tiles: list[Tile]) -> list[list[str]]:
    """CPU milliseconds and megabytes a tile of ways to store it."""
    rows = []
    path = folder / "codec.array_record"
    settings = {
        "Blosc lz4hc 5, by pixel (kept)": ("pixel", CODEC),
        "Blosc lz4hc 5, by value": ("value", CODEC),
        "Blosc lz4 5, by pixel": ("pixel", CODEC | {"cname": "lz4"}),
        "Blosc zstd 1, by pixel": ("pixel", CODEC | {"cname": "zstd", "clevel": 1}),
        "Blosc zstd 5, by pixel": ("pixel", CODEC | {"cname": "zstd"}),
        "Blosc zstd 1, bits by value": ("value", CODEC | {"cname": "zstd", "clevel": 1, "shuffle": blosc.BITSHUFFLE}),
        "bytes, ArrayRecord uncompressed": ("", "uncompressed"),
        "bytes, ArrayRecord snappy": ("", "snappy"),
        "bytes, ArrayRecord zstd 3": ("", "zstd:3"),
        "bytes, ArrayRecord brotli 3": ("", "brotli:3"),
    }
    arrays = [[np.ascontiguousarray(getattr(tile, kind)) for kind in RASTERS] for tile in tiles]
    for label, (item, codec) in settings.items():
        started = time.process_time()
        writer = array_record_module.ArrayRecordWriter(str(path), f"group_size:1,{'uncompressed' if item else codec}")
        lengths = []
        for rasters in arrays:
            if item:
                packer = blosc.Blosc(**codec)
                units = [item_of(values, item) for values in rasters]
                stored = [
                    bytes(packer.encode(values.reshape(-1).view(unit)))
                    for values, unit in zip(rasters, units, strict=True)
                ]
            else:
                stored = [values.tobytes() for values in rasters]
            lengths.append([len(part) for part in stored])
            writer.write(b"".join(stored))
        writer.close()
        written_ms = (time.process_time() - started) / len(tiles) * 1e3
        source = array_record_data_source.ArrayRecordDataSource([str(path)])

        read_ms = []
        for _ in range(5):
            started = time.process_time()
            for index, sizes in enumerate(lengths):
                unpack(source[index], arrays[index], sizes, compressed=bool(item))
            read_ms.append((time.process_time() - started) / len(tiles) * 1e3)
        size = path.stat().st_size / len(tiles) / 1e6
        rows.append([name, label, f"{size:.2f}", f"{np.median(read_ms):.1f}", f"{written_ms:.0f}"])
    return rows


def unpack(record: bytes, like: list[np.ndarray], sizes: list[int], *, compressed: bool) -> None:
    """The rasters of a record, one after the other, into new memory where they are compressed."""
    view, place = memoryview(record), 0
    for values, size in zip(like, sizes, strict=True):
        part = view[place : place + size]
        if compressed:
            blosc.decompress(part, np.empty(values.shape, values.dtype))
        else:
            np.frombuffer(part, values.dtype).reshape(values.shape)
        place += size


def item_of(values: np.ndarray, item: str) -> np.dtype:
    """What Blosc takes for one item: a value, or all bands of a pixel."""
    return np.dtype((np.void, values.itemsize * (values.shape[2] if item == "pixel" and values.ndim == 3 else 1)))


def table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * 2 + ["---:"] * (len(header) - 2), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def crop_rows(folder: Path, name: str, tiles: list[Tile], rounds: int, crop_px: int = 128) -> list[list[str]]:
    """CPU milliseconds of a training tile and of a whole one, in turns, by the side of the blocks of a record."""
    tifs = write_folder(folder / f"{name}_crops", tiles)
    rasters = pipeline.select(bands.S2_BANDS, bands.S2_BANDS, ("s2", "s1"))
    sources, crops, on_disk = {}, {}, {}
    default = blocks.BLOCK_PX
    for side in (None, 32, 64, 86, 128):
        label = "one buffer" if side is None else f"blocks of {side} px{' (kept)' if side == default else ''}"
        blocks.BLOCK_PX = side or default
        smallest, blocks.SMALLEST_SIZE_PX = blocks.SMALLEST_SIZE_PX, SIZE_PX + 1 if side is None else SIZE_PX
        config = DynamicWorldPlusConfig(name=f"{name}_{side}", tiles=tifs, tile_size_px=SIZE_PX)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            prepare(config, folder / "crops")
        blocks.SMALLEST_SIZE_PX, blocks.BLOCK_PX = smallest, default
        builder = open_dataset(str(folder / "crops"), config.name)
        on_disk[label] = sum(path.stat().st_size for path in Path(builder.data_dir).glob("*array_record*"))
        sources[label] = read_split(builder, "train")
        crops[label] = crops_of(sources[label], rasters, Data(crop_px=crop_px))
    spent: dict[str, list[list[float]]] = {label: [] for label in sources}
    for _ in range(rounds + 1):  # the first one warms up
        for label, source in sources.items():
            passes = (itertools.islice(crops[label], 2 * len(tiles)), (source[index] for index in range(len(tiles))))
            spent[label].append([])
            for one, count in zip(passes, (2 * len(tiles), len(tiles)), strict=True):
                started = time.process_time()
                for _ in one:
                    pass
                spent[label][-1].append((time.process_time() - started) / count * 1e3)
    medians = {label: np.median(values[1:], axis=0) for label, values in spent.items()}
    return [
        [name, label, f"{on_disk[label] / len(tiles) / 1e6:.2f}", *(f"{value:.2f}" for value in medians[label])]
        for label in sources
    ]


def crops_of(source: Any, rasters: Callable[..., Any], data: Data) -> Iterator[Any]:
    """Training tiles without end, as `train_batches` makes them, in this thread; without Grain, whose shuffle is slow on few tiles."""
    lazy, rng = lazily(source), np.random.default_rng(0)
    for index in itertools.count():
        record = lazy[index % len(lazy)]
        box = pipeline.labelled_box(record, rasters)
        tile = rasters(record, preprocess.draw_crop(box, record["label"].shape, data, rng))
        yield preprocess.augment_crop({name: tile[name] for name in RASTERS}, data, rng)


NOTES = """
Tiles/s: median over {rounds} rounds (slowest-fastest) of {seconds} s each, cache warm. x rasterio: over rasterio with as many
threads in the same round, median. MB: a tile on disk; {memory:.2f} in memory.
"""


def main() -> None:
    """Measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=Path(__file__).parents[2] / "shared" / "real")
    parser.add_argument("--tiles", type=int, default=16, help="of each kind")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--codecs", action="store_true", help="instead compare ways of storing a tile")
    parser.add_argument("--crops", action="store_true", help="instead compare layouts of which training reads crops")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    args = parser.parse_args()
    if args.json and not args.json.parent.is_dir():  # told now, not after the measurement
        parser.error(f"no folder {args.json.parent.resolve()} to write {args.json.name} to")
    kinds: dict[str, Callable[[int], Iterator[Tile]]] = {"simulated": simulated}
    if (args.real / "dwplus_mini").is_dir():
        kinds["real"] = lambda count: real(args.real / "dwplus_mini", count)
    else:
        print(f"no real tiles at {args.real / 'dwplus_mini'}")
    names = ("array_record", "grain", "numcodecs", "numpy", "rasterio", "tensorflow-datasets")
    print(f"\n{machine()}, Python {platform.python_version()}  ")
    print(", ".join(f"{name} {version(name)}" for name in names) + f"; {SIZE_PX} x {SIZE_PX} px\n")
    with tempfile.TemporaryDirectory() as folder:
        if args.codecs:
            rows = [
                row
                for name, make in kinds.items()
                for row in codec_rows(Path(folder), name, list(make(min(5, args.tiles))))
            ]
            print(table(["tiles", "stored as", "MB", "read, CPU ms", "write, CPU ms"], rows))
            return
        if args.crops:
            header = ["tiles", "stored as", "MB", "crop of 128 px, CPU ms", "whole, CPU ms"]
            made = ((name, list(make(args.tiles))) for name, make in kinds.items())
            rows = [row for name, tiles in made for row in crop_rows(Path(folder), name, tiles, args.rounds)]
            print(table(header, rows))
            return
        rows, figures = [], []
        for name, make in kinds.items():
            chosen, on_disk = readers(Path(folder), make(args.tiles), name, args.threads)
            rates: dict[str, list[float]] = {label: [] for label in chosen}
            for start in chosen.values():
                tiles_a_second(start())
            for _, (label, start) in itertools.product(range(args.rounds), chosen.items()):
                rates[label].append(tiles_a_second(start()))
            for label, values in rates.items():
                reader, threads = label.split(" | ")
                ratio = np.median(np.divide(values, rates[f"rasterio, GeoTIFF | {threads}"]))
                size = on_disk["rasterio" if reader.startswith("rasterio") else "records"]
                spread = f"{np.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"
                rows.append([name, f"{reader}, {threads}", spread, f"{ratio:.1f}", f"{size:.2f}"])
                figures.append({"tiles": name, "reader": reader, "threads": threads, "rates": values, "mb": size})
    print(table(["tiles", "read by", "tiles/s", "x rasterio", "MB"], rows))
    memory = SIZE_PX**2 * (9 * 2 + 2 * 4 + 1) / 1e6
    print(NOTES.format(rounds=args.rounds, seconds=PASS_S, memory=memory))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
