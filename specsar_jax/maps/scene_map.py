"""Maps a scene from files to files, strip by strip; continues a map that was interrupted.

Enters: paths of Sentinel-2 and Sentinel-1 files, and a trained network. Leaves: the files of the map.
"""

import contextlib
import ctypes
import dataclasses
import itertools
import re
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jaxtyping import UInt8

from specsar_jax.config import Predict
from specsar_jax.maps import windows
from specsar_jax.maps.map_files import Outputs, UnfinishedMap, class_ids, scaled
from specsar_jax.maps.mapping import (
    Block,
    Probabilities,
    Read,
    count_windows,
    probability_blocks,
    windows_at_once,
)
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands
from tfds_dwplus.command_line import note, progress
from tfds_dwplus.files.addresses import shown, shown_in
from tfds_dwplus.imagery.decoder.backscatter import other_quantity, told
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.inputs.fingerprints import fingerprint
from tfds_dwplus.imagery.inputs.source_files import check_not_overwritten
from tfds_dwplus.imagery.rasters import Scene
from tfds_dwplus.imagery.scene_files import acquisition_dates
from tfds_dwplus.imagery.scenes import AS_FILES_SAY, Reading, open_scene

SMALLEST_CACHE = 128 * 2**20
"""Least size of GDAL's block cache, bytes. Its default, a twentieth of the memory, would be filled by a large scene."""


def map_scene(
    trained: Trained,
    s2: Sequence[str | Path],
    s1: Sequence[str | Path],
    outputs: Outputs,
    cutting: Predict,
    reading: Reading = AS_FILES_SAY,
    shard: tuple[int, int] = (1, 1),
    ahead: Future | None = None,
) -> bool:
    """Maps a scene of any size, or continues a map that was interrupted.

    Args:
        trained: the network.
        s2: files, folders, products or web addresses of Sentinel-2; empty if the network does not read it.
        s1: the same of Sentinel-1.
        outputs: paths of the files to write.
        cutting: settings of the windows.
        reading: what the files do not tell, such as units and offsets.
        shard: part of the map to do, and number of parts, (1, 1) for all.
        ahead: what `compiled.made_ahead` will return of this network and cutting; None if that was not begun.

    Returns:
        Whether the map is finished; False while other parts are missing.

    Raises:
        ValueError: the network cannot use the files, bands, types, units or grids; nothing is written then. Or pixels cannot be
            read; the strips that are finished are kept then.
    """
    started = time.perf_counter()
    if cutting.window_px < 1:
        raise ValueError(f"a window of {cutting.window_px} pixels, expected a positive number")
    given, notes = {"s2": s2, "s1": s1}, _Notes()
    inputs = _inputs_read(trained, given, reading, outputs, notes)
    bands_read = [trained.bands.get(sensor, ()) if paths else () for sensor, paths in given.items()]
    with open_scene(s2, s1, *bands_read, reading, notes) as scene, rasterio.Env(GDAL_CACHEMAX=cache_bytes(scene)):
        if other := other_quantity(scene.tags.get("s1_quantity", ""), trained.statistics.s1.unit):
            notes(other)
        if outputs.asked.paths:
            from specsar_jax.patches.pixel_areas import check_place  # the packages of an extra

            check_place(scene.grid, f"--{next(iter(outputs.asked.paths))}")
        import jax  # here, and what is built on it, for whoever imports them while the scene is opened

        from specsar_jax.devices.memory import peak_memory_gb
        from specsar_jax.maps import compiled
        from specsar_jax.network import model

        crop_px, how = trained.config.data.crop_px, model.stride_and_margin(trained.config.model)
        rows, columns = (
            windows.plan(size, crop_px, cutting.overlap, first, **how)
            for size, first in zip(scene.grid.shape, scene.grid.first_pixel, strict=True)
        )
        devices = jax.local_devices()[: len(columns.starts)]
        at_once = windows_at_once(columns, cutting.window_px, len(devices))
        settings = {
            "inputs": fingerprint(inputs, anywhere=reading.any_vrt_source),
            "reading": _reading_kept(reading),
            "windows": [at_once, columns.window, columns.starts],
        }
        tags = (
            provenance(trained, given)
            | {"overlap": str(cutting.overlap)}
            | scene.tags
            | _tags_of_mask(reading)
            | notes.tags(inputs)
        )
        cut = dataclasses.replace(trained, config=dataclasses.replace(trained.config, predict=cutting))
        unfinished = UnfinishedMap(scene.grid, outputs, trained.classes, tags, rows.starts, settings)
        with unfinished.held(f"part_{shard[0]}_of_{shard[1]}", wait=False):
            batch = (at_once, rows.window, columns.window)

            def make(batch: tuple[int, int, int]) -> Probabilities:
                made = ahead.result() if ahead else None
                taken = made.taken(batch) if made else None  # there is one of one device only
                return taken or compiled.make_probabilities(cut, devices, batch)

            with (
                _keeping(unfinished),
                ThreadPoolExecutor(1) as thread,
                compiled.Timed(_when_made(thread.submit(make, batch))) as network,
            ):
                read = reader(scene, trained)
                mapped = _map_strips(read, network, rows, columns, at_once, unfinished, shard)
            _check_not_empty(unfinished, scene.grid, reading)
        for line in told(scene.dropped):
            print(f"note: {line}", file=sys.stderr)
    with _keeping(unfinished):
        finished = unfinished.finish()
    if mapped:
        seconds = time.perf_counter() - started
        print(f"note: {speed(scene.grid, mapped, seconds, network.seconds, peak_memory_gb())}", file=sys.stderr)
    return finished


def _when_made(making: "Future[Probabilities]") -> Probabilities:
    """A network that another thread is making: it is loaded while the first windows are read."""
    return lambda s2, s1: making.result()(s2, s1)


class _Notes:
    """What the command says of a scene before it is mapped; it goes with the map, which is read by others."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        """Prints a note and keeps it."""
        note(line)
        self.lines.append(line)

    def tags(self, inputs: Sequence[str | Path]) -> dict[str, str]:
        """Returns the lines as a tag, in which inputs are called by their names, without their folders."""
        text = shown_in("\n".join(self.lines))
        for path in sorted((shown(str(path)).rstrip("/\\") for path in inputs), key=len, reverse=True):
            text = text.replace(path, re.split(r"[/\\]", path)[-1])
        return {"notes": text} if text else {}


def _inputs_read(
    trained: Trained, given: dict[str, Sequence[str | Path]], reading: Reading, outputs: Outputs, notes: "_Notes"
) -> list[str | Path]:
    """Returns the inputs that the network needs, checked before anything is opened. Raises ValueError if one is missing, or would be
    overwritten.
    """
    sensors, there = trained.config.model.sensors, [sensor for sensor, paths in given.items() if paths]
    inputs: list[str | Path] = []
    for sensor, paths in given.items():
        if sensor in sensors:
            trained.check_sensor(sensor, there, f"no --{sensor} is given")
            if not paths:
                notes(f"no --{sensor} is given; the network maps without it")
            inputs += paths
        elif paths:
            notes(f"the network does not read {sensor}; --{sensor} is not used")
    inputs += filter(None, [reading.cloud_mask])
    outputs.check()
    paths = [*itertools.chain(*given.values()), *inputs]
    check_not_overwritten(list(outputs.paths.values()), paths, anywhere=reading.any_vrt_source)
    return inputs


def _tags_of_mask(reading: Reading) -> dict[str, str]:
    """Returns the name of the cloud mask, and the values of it that the user gave."""
    if not reading.cloud_mask:
        return {}
    name = re.split(r"[/\\]", shown(reading.cloud_mask).rstrip("/\\"))[-1]
    values = f" (values {', '.join(map(str, reading.cloud_values))})" if reading.cloud_values else ""
    return {"cloud_mask": f"{name}{values}"}


def _reading_kept(reading: Reading) -> dict[str, Any]:
    """Returns what a map that goes on must be read by: all but the mask, which is one of the inputs, and what may be read at all."""
    kept = dataclasses.asdict(dataclasses.replace(reading, cloud_mask=""))
    return {name: value for name, value in kept.items() if name != "any_vrt_source"}


@contextlib.contextmanager
def _keeping(unfinished: UnfinishedMap) -> Iterator[None]:
    """Says which strips are kept if something stops the map: at the end of a ValueError's message, else in a note."""
    try:
        yield
    except BaseException as error:
        kept = unfinished.keep()
        if kept and isinstance(error, ValueError):
            raise ValueError(f"{error}; {kept}") from error
        if kept:
            print(f"note: {kept}", file=sys.stderr)
        raise


def _check_not_empty(unfinished: UnfinishedMap, grid: Grid, reading: Reading) -> None:
    """Raises a ValueError if all strips are finished and none has a pixel with a class; they are removed then."""
    if not unfinished.missing and unfinished.empty:
        unfinished.remove()
        raise ValueError(
            f"no pixel to map: in none of {grid.height} x {grid.width} have all bands data"
            + (" and no cloud; look at --cloud_mask" if reading.cloud_mask else "")
        )


def speed(grid: Grid, rows: int, seconds: float, network_s: float, memory_gb: float) -> str:
    """Formats area, time and memory that mapping some rows took; in square kilometres if the CRS is projected, else megapixels."""
    metres = grid.placed and grid.crs.is_projected
    area = rows * grid.width * (abs(grid.transform.determinant) * grid.crs.linear_units_factor[1] ** 2 if metres else 1)
    unit = "km2" if metres else "megapixels"
    return (
        f"{area / 1e6:,.2f} {unit} in {seconds:,.1f} s, {area / 1e6 / seconds:,.2f} {unit}/s; the network was at work "
        f"{network_s / seconds:.0%} of the time; {memory_gb:.2f} GB of memory at most"
    )


def cache_bytes(scene: Scene) -> int:
    """Returns the size of GDAL's block cache, bytes: a little more than one row of blocks, so that few blocks are decoded twice."""
    return max(SMALLEST_CACHE, scene.row_of_blocks * 21 // 20)


def provenance(trained: Trained, inputs: dict[str, Sequence[str | Path]]) -> dict[str, str]:
    """Returns the origin of a map as tags for its files: software, weights, and names and dates of the inputs, by sensor."""
    tags = trained.provenance()
    for sensor in trained.config.model.sensors:
        if not inputs[sensor]:
            continue
        names = [shown(str(path)) for path in inputs[sensor]]
        tags[f"{sensor}_files"] = " ".join(re.split(r"[/\\]", name.rstrip("/\\"))[-1] for name in names)
        if dates := acquisition_dates(names):
            tags[f"{sensor}_dates"] = " ".join(dates)
    return tags


def reader(scene: Scene, trained: Trained) -> Read:
    """Returns what reads parts of a scene for a network: with `bands.seen_pixels` as the mask of what is to be mapped.

    If the network may miss Sentinel-2, clouds hide that sensor alone; a sensor that the scene lacks has no data anywhere.
    """
    sensors, may_miss = trained.config.model.sensors, trained.config.may_miss
    all_of = np.uint8(sum({"s2": bands.S2_SEEN, "s1": bands.S1_SEEN}[sensor] for sensor in sensors))

    def read(rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray, UInt8[np.ndarray, "rows columns"]]:
        if not may_miss:
            s2, s1, valid = scene.read(rows, columns)
            return s2, s1, np.where(valid, all_of, np.uint8(0))
        s2, s1 = trained.with_missing(*scene.pixels(rows, columns))
        cloud = scene.clouded(rows, columns)
        if "s2" in may_miss:
            s2[cloud] = bands.S2_NODATA
        seen = bands.seen_pixels(s2, s1, sensors, may_miss)
        return s2, s1, seen if "s2" in may_miss else np.where(cloud, np.uint8(0), seen)

    return read


def _map_strips(
    read: Read,
    network: Probabilities,
    rows: windows.Axis,
    columns: windows.Axis,
    at_once: int,
    unfinished: UnfinishedMap,
    shard: tuple[int, int],
) -> int:
    """Maps the missing strips of a part, and writes each while the next is computed. Returns the number of mapped rows."""
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
            blocks = probability_blocks(read, network, rows, columns, at_once, strips, bar, unfinished.classes)
            with contextlib.closing(blocks):
                for block in blocks:
                    if block.columns.start == 0:
                        strip = _new_strip(block, columns.size, unfinished)
                    strip["class_id"][:, block.columns] = class_ids(block.probability, block.seen)
                    if "share" in strip:
                        strip["share"][:, block.columns] = scaled(block.probability, block.seen)
                    if "seen" in strip:
                        strip["seen"][:, block.columns] = block.seen
                    if block.columns.stop == columns.size:
                        if written:
                            written.result()
                        written = thread.submit(_write, unfinished, block.strip, strip)
        if written:
            written.result()
    return sum(rows.counts[strip] for strips in todo for strip in strips)


def _new_strip(block: Block, width: int, unfinished: UnfinishedMap) -> dict[str, np.ndarray]:
    shape, outputs = (block.rows.stop - block.rows.start, width), unfinished.outputs
    shapes = {"class_id": shape}
    if outputs.of_shares:
        shapes["share"] = (*shape, len(unfinished.classes))
    if outputs.sensors_seen:
        shapes["seen"] = shape
    return {name: np.empty(of, np.uint8) for name, of in shapes.items()}


def _write(unfinished: UnfinishedMap, strip: int, layers: dict[str, np.ndarray]) -> None:
    """Writes a strip, then makes glibc's allocator return the memory of freed arrays to the system: a sixth of the total."""
    unfinished.write(strip, *(layers.get(name) for name in ("class_id", "share", "seen")))
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(ctypes.c_size_t(0))
