"""Command: a scene to a map of land-cover classes.

    python -m specsar_jax.predict --workdir runs/quickstart --s2 s2.tif --s1 s1.tif --output map.tif

Enters: Sentinel-2 and Sentinel-1 in whatever files and on whatever grids (`specsar_jax.scenes`). Leaves: a GeoTIFF on the grid
of the finest Sentinel-2 band. The scene goes through the network in squares of the size that it was trained on; overlapping
squares are blended before the class is chosen. Finished rows of squares are kept beside the map, so that a command that was
stopped goes on when it is given again.
"""

import argparse
import ctypes
import dataclasses
import re
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import rasterio

import specsar_jax
from specsar_jax import windows
from specsar_jax.checkpoints import Trained, load_trained
from specsar_jax.compilation import keep_compiled_programs
from specsar_jax.config import Predict
from specsar_jax.journal import peak_memory_gb
from specsar_jax.map_files import Outputs, UnfinishedMap, class_ids, scaled
from specsar_jax.mapping import (
    Block,
    Probabilities,
    Timed,
    count_windows,
    make_probabilities,
    probability_blocks,
    windows_at_once,
)
from specsar_jax.rasters import S1_UNITS, Grid, Scene
from specsar_jax.scenes import AS_FILES_SAY, Reading, check_not_overwritten, identity, open_scene, taken
from tfds_dwplus import bands
from tfds_dwplus.command_line import Parser, progress, run

SMALLEST_CACHE = 128 * 2**20
"""Bytes of decoded blocks that GDAL keeps: its own default is a twentieth of the memory, which a large scene fills."""


def main(argv: list[str]) -> None:
    """Parses the arguments and writes the map."""
    parser = Parser(
        "Maps a scene. Stopped and given again, it goes on.",
        "python -m specsar_jax.predict --workdir runs/quickstart --s2 s2.tif --s1 s1.tif --output map.tif",
    )
    parser.add_argument("--workdir", type=Path, required=True, help="of specsar_jax.train, or an exported bundle")
    parser.add_argument(
        "--s2", nargs="+", default=[], metavar="PATH", help="files, one or one a band; a SAFE folder or zip; addresses"
    )
    parser.add_argument(
        "--s1", nargs="+", default=[], metavar="PATH", help="VV and VH, in one file or two, on any grid"
    )
    parser.add_argument("--output", type=Path, required=True, help="class map to write")
    parser.add_argument("--probabilities", type=Path, help="class probabilities to write")
    parser.add_argument("--confidence", type=Path, help="probability of the map's class to write")
    parser.add_argument(
        "--s2_offset",
        type=int,
        help="digital numbers to subtract, 1000 from baseline 04.00 on; else as the product says",
    )
    parser.add_argument(
        "--s1_unit", choices=S1_UNITS, default="db", help="of Sentinel-1; scaled: dB = 20 log10(DN) - 83"
    )
    parser.add_argument(
        "--s2_bands", type=_names, default=(), help="names of the bands, of files that do not tell: B2,B3"
    )
    parser.add_argument("--s1_bands", type=_names, default=(), help="the same of Sentinel-1")
    parser.add_argument("--cloud_mask", default="", help="raster of any grid, or a SAFE product, for its SCL")
    parser.add_argument(
        "--cloud_values", type=_numbers, default=(), help="of it; not given: 3,8,9,10 of an SCL, else all but 0"
    )
    parser.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="do part I of N; all parts write one map"
    )
    parser.add_argument("--window_px", type=int, help="how much of a row to map at once; the map does not depend on it")
    parser.add_argument("--overlap", type=float, help="of neighbouring squares, 0 to 0.75; the run's if not given")
    parser.add_argument("--checkpoint", choices=("best", "latest"), default="best")
    args = parser.parse_args(argv)
    keep_compiled_programs()
    trained = load_trained(args.workdir, args.checkpoint)
    given = {"window_px": args.window_px, "overlap": args.overlap}
    cutting = dataclasses.replace(trained.config.predict, **{k: v for k, v in given.items() if v is not None})
    reading = Reading(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Reading)})
    outputs = Outputs(args.output, args.probabilities, args.confidence)
    if predict(trained, args.s2, args.s1, outputs, cutting, reading, args.shard):
        print(f"wrote {', '.join(map(str, outputs.paths.values()))}")
    else:
        print(f"did part {args.shard[0]} of {args.shard[1]}; the map is written when the other parts are done")


def predict(
    trained: Trained,
    s2: Sequence[str | Path],
    s1: Sequence[str | Path],
    outputs: Outputs,
    cutting: Predict,
    reading: Reading = AS_FILES_SAY,
    shard: tuple[int, int] = (1, 1),
) -> bool:
    """Maps a scene of any size, or goes on with a map that was begun.

    Args:
        trained: the network.
        s2: files, folders, products, addresses; none where the network does not read them.
        s1: the same of Sentinel-1.
        outputs: the files to write.
        cutting: of the scene into squares.
        reading: what the files do not say.
        shard: which part of how many to do, from 1.

    Returns:
        whether the map is finished: not, while other parts of it are missing.

    Raises:
        ValueError: files, bands, types, units or places are not as the network needs them; nothing is written then.
    """
    started, sensors = time.perf_counter(), trained.config.model.sensors
    if cutting.window_px < 1:
        raise ValueError(f"a window of {cutting.window_px} pixels, expected a positive number")
    for sensor, paths in (("s2", s2), ("s1", s1)):
        if sensor in sensors and not paths:
            raise ValueError(f"the network reads {' and '.join(sensors)}, but no --{sensor} is given")
        if sensor not in sensors and paths:
            print(f"note: the network does not read {sensor}; --{sensor} is not used", file=sys.stderr)
    inputs = [*(s2 if "s2" in sensors else ()), *(s1 if "s1" in sensors else ()), *filter(None, [reading.cloud_mask])]
    check_not_overwritten(list(outputs.paths.values()), [*s2, *s1, *inputs])
    outputs.check()
    s2_bands, s1_bands = (getattr(trained.statistics, name).bands if name in sensors else () for name in ("s2", "s1"))
    with open_scene(s2, s1, s2_bands, s1_bands, reading) as scene, rasterio.Env(GDAL_CACHEMAX=cache_bytes(scene)):
        rows, columns = (
            windows.plan(size, trained.config.data.crop_px, cutting.overlap, first)
            for size, first in zip(scene.grid.shape, scene.grid.first_pixel, strict=True)
        )
        devices = jax.local_devices()[: len(columns.starts)]
        config = dataclasses.replace(trained.config, predict=cutting)
        at_once = windows_at_once(columns, config, len(devices))
        settings = {
            "inputs": [identity(path) for path in inputs],
            "reading": dataclasses.asdict(reading),
            "windows": [at_once, columns.window, columns.starts],
        }
        tags = provenance(trained, {"s2": s2, "s1": s1}) | {"overlap": str(cutting.overlap)}
        unfinished = UnfinishedMap(scene.grid, outputs, tags, rows.starts, settings)
        with unfinished.held(f"part_{shard[0]}_of_{shard[1]}", wait=False):
            try:
                with Timed(make_probabilities(dataclasses.replace(trained, config=config), devices)) as network:
                    mapped = _do_strips(scene, network, rows, columns, at_once, unfinished, shard)
                if not unfinished.missing and unfinished.empty:
                    raise ValueError(
                        f"no pixel to map: in none of {scene.grid.height} x {scene.grid.width} have all bands data"
                        + (" and no cloud; look at --cloud_mask" if reading.cloud_mask else "")
                    )
            except ValueError:
                unfinished.remove()  # with other files it would be another map
                raise
    finished = unfinished.finish()
    if mapped:
        seconds = time.perf_counter() - started
        print(f"note: {speed(scene.grid, mapped, seconds, network.seconds, peak_memory_gb())}", file=sys.stderr)
    return finished


def speed(grid: Grid, rows: int, seconds: float, network_s: float, memory_gb: float) -> str:
    """What a map took, for people; of rows of a grid, in square kilometres where its CRS has metres, else in megapixels."""
    metres = grid.placed and grid.crs.is_projected
    area = rows * grid.width * (abs(grid.transform.determinant) * grid.crs.linear_units_factor[1] ** 2 if metres else 1)
    unit = "km2" if metres else "megapixels"
    return (
        f"{area / 1e6:,.2f} {unit} in {seconds:,.1f} s, {area / 1e6 / seconds:,.2f} {unit}/s; the network was at work "
        f"{network_s / seconds:.0%} of the time; {memory_gb:.2f} GB of memory at most"
    )


def cache_bytes(scene: Scene) -> int:
    """How much GDAL is to keep so that blocks are decoded once, but where windows lie across two rows of them; and no more."""
    return max(SMALLEST_CACHE, scene.row_of_blocks * 21 // 20)


def provenance(trained: Trained, inputs: dict[str, Sequence[str | Path]]) -> dict[str, str]:
    """What made a map, as tags of its files: software, weights, and the names and dates of what was read, by sensor."""
    tags = {
        "software": f"specsar_jax {specsar_jax.__version__}",
        "weights_sha256": trained.sha256,
        "trained_on": trained.config.data.name,
        "trained_steps": str(trained.step),
    }
    for sensor in trained.config.model.sensors:
        names = [str(path).partition("?")[0] for path in inputs[sensor]]
        tags[f"{sensor}_files"] = " ".join(re.split(r"[/\\]", name.rstrip("/\\"))[-1] for name in names)
        if dates := taken(names):
            tags[f"{sensor}_dates"] = " ".join(dates)
    return tags


def _do_strips(
    scene: Scene,
    network: Probabilities,
    rows: windows.Axis,
    columns: windows.Axis,
    at_once: int,
    unfinished: UnfinishedMap,
    shard: tuple[int, int],
) -> int:
    """Maps those strips of a part that are missing; a strip is written while the next one is mapped. Returns how many rows."""
    mine, missing = windows.share_of(len(rows.starts), *shard), unfinished.missing
    if len(missing) < len(rows.starts):
        done = len(rows.starts) - len(missing)
        print(f"note: going on; {done} of {len(rows.starts)} strips of the map are there", file=sys.stderr)
    todo = list(windows.runs(strip for strip in mine if strip in missing))
    bar = progress(
        total=sum(count_windows(rows, columns, run) for run in todo), desc="mapping", unit="window", leave=False
    )
    written: Future | None = None
    with bar, ThreadPoolExecutor(1) as thread:
        for strips in todo:
            for block in probability_blocks(scene.read, network, rows, columns, at_once, strips, bar):
                if block.columns.start == 0:
                    strip = _new_strip(block, columns.size, shares=unfinished.outputs.of_shares)
                for whole, made_of in zip(strip, (class_ids, scaled), strict=False):
                    whole[:, block.columns] = made_of(block.probability, block.valid)
                if block.columns.stop == columns.size:
                    if written:
                        written.result()
                    written = thread.submit(_write, unfinished, block.strip, strip)
        if written:
            written.result()
    return sum(rows.counts[strip] for strips in todo for strip in strips)


def _new_strip(block: Block, width: int, *, shares: bool) -> list[np.ndarray]:
    shape = block.rows.stop - block.rows.start, width
    return [np.empty(shape, np.uint8)] + [np.empty((*shape, len(bands.CLASSES)), np.uint8)] * shares


def _write(unfinished: UnfinishedMap, strip: int, layers: list[np.ndarray]) -> None:
    """Writes a strip; then glibc's allocator, which keeps the room that large arrays left, gives it back: a sixth of the memory."""
    unfinished.write(strip, *layers)
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(ctypes.c_size_t(0))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 3,8,9,10") from None


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part such as 1/4, 2/4, 3/4 or 4/4")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    run(main)
