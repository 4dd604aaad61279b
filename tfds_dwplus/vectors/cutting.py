"""Cut tiles with labels out of scenes, block by block of ground.

Enters: acquisitions, labels with their classes, and how to cut. Leaves: a folder of tiles in the layout of `tiles.tile_files`, and a
`Summary`. Scenes are gone through twice. `survey` burns the labels alone, and finds out what is wrong before a pixel is read; `cut` reads
a tile at a time, so memory does not grow with a scene.
"""

import collections
import csv
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely
from jaxtyping import Int64, UInt8
from tqdm import tqdm

from tfds_dwplus import bands
from tfds_dwplus.imagery.decoder.backscatter import told
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.rasters import Scene
from tfds_dwplus.tiles.labelling.class_table import write_classes
from tfds_dwplus.tiles.tile_files import COLUMNS, Tile, TileRecord, provenance, tile_contents
from tfds_dwplus.vectors.acquisitions import Acquisition
from tfds_dwplus.vectors.burning import Burner, Overlaps
from tfds_dwplus.vectors.geometries import Shapes, bounds_told, grid_told, on_grid
from tfds_dwplus.vectors.split_blocks import Block, Bounds, Lattice, assign, middle_of


@dataclasses.dataclass(frozen=True)
class Labels:
    """Shapes with a class."""

    shapes: Shapes
    class_id: Int64[np.ndarray, " shape"]
    classes: bands.Classes
    radius_m: float = 0.0
    """Of the circles that points become."""


@dataclasses.dataclass(frozen=True)
class Cutting:
    """How tiles are cut and given to splits."""

    tile_size_px: int
    """Largest side of a tile."""
    block_m: float
    """Side of the squares of ground that are of one split, metres."""
    gap_m: float
    """Ground between two of them that is in no tile."""
    shares: tuple[tuple[str, float], ...]
    """Splits, and the shares of the labelled pixels that they should have."""
    seed: int
    annotator: str
    s2_bands: tuple[str, ...]


@dataclasses.dataclass
class Survey:
    """What is burnt, before the scenes are read."""

    windows: list[list[tuple[Block, slice, slice]]]
    """Of each acquisition: tiles that may have labels, in the order of rows and columns."""
    pixels: dict[Block, Int64[np.ndarray, " class"]]
    """Labelled pixels by block, of all dates together."""
    middles: dict[Block, tuple[float, float]]
    """Longitude and latitude."""
    seen: set[int] = dataclasses.field(default_factory=set)
    """Shapes that have a part in a scene."""
    in_gaps: int = 0
    """Labelled pixels between blocks."""
    overlaps: Overlaps = dataclasses.field(default_factory=collections.Counter)
    overlap_m2: float = 0.0
    without_pixel: int = 0


@dataclasses.dataclass(frozen=True)
class Summary:
    """What was cut."""

    records: list[TileRecord]
    pixels: dict[str, Int64[np.ndarray, " class"]]
    """Labelled pixels of each class by split."""
    blocks: dict[str, int]
    """Number of blocks by split."""
    largest_px: int
    """Largest side of a tile."""
    unseen: int
    """Labelled pixels that no sensor saw, or clouded ones."""
    left_out: int
    """Tiles in which a band of a sensor has no data."""
    notes: list[str]
    """What was met while pixels were read."""


def survey(
    acquisitions: Sequence[Acquisition], labels: Labels, cutting: Cutting, tell: Callable[[str], None]
) -> Survey:
    """Finds the windows of tiles, and what of the labels lies in them.

    Raises:
        ValueError: a scene cannot be read, no label lies in one, a block is smaller than a tile, labels are of one class, or lie in fewer
            blocks than there are splits.
    """
    found, records = Survey([], {}, {}), []
    for acquisition in acquisitions:
        with acquisition.opened(cutting.s2_bands, tell) as scene:
            burner, seen = _burner(labels, scene.grid)
            found.seen |= seen
            if not seen:
                tell(f"scene {acquisition.number}: no label lies in it, {grid_told(scene.grid)}")
            _check_block(cutting, scene.grid)
            found.windows.append(list(_surveyed(found, scene.grid, burner, cutting, len(labels.classes))))
            found.without_pixel = max(found.without_pixel, burner.without_pixel())
            grid = scene.grid
            records.append(TileRecord(f"of scene {acquisition.number}", "", **acquisition.columns(scene)))
    if not found.seen:
        raise ValueError(
            f"no label lies in a scene: labels have {bounds_told(labels.shapes)}, the last scene {grid_told(grid)}; give scenes of the "
            "place, or the right CRS of the labels as --labels_crs"
        )
    provenance(records)
    _check_enough(found, labels, cutting, grid)
    return found


def cut(
    acquisitions: Sequence[Acquisition], labels: Labels, cutting: Cutting, found: Survey, folder: Path, bar: tqdm
) -> Summary:
    """Reads the tiles of a survey, writes them, and tiles.csv and classes.csv when all are there.

    Raises:
        ValueError: pixels cannot be read, or too few labels lie where there are data.
    """
    kept: list[_Kept] = []
    pixels: dict[Block, np.ndarray] = {}
    unseen = left_out = 0
    notes: list[str] = []
    for acquisition, windows in zip(acquisitions, found.windows, strict=True):
        if not windows:
            continue
        with acquisition.opened(cutting.s2_bands, lambda _: None) as scene:
            burner, _ = _burner(labels, scene.grid)
            common = acquisition.columns(scene)
            for block, rows, columns in windows:
                codes, _ = burner.codes(rows, columns)
                tile, whole = _read(scene, rows, columns, codes)
                bar.update()
                counts = np.bincount(tile.label[tile.label != bands.IGNORE], minlength=len(labels.classes))
                unseen += int((codes > 0).sum() - (counts.sum() if whole else 0))
                if counts.any() and whole:
                    record = _record(acquisition, cutting, scene.grid, rows, columns, common)
                    _write(folder, dataclasses.replace(tile, record=record), cutting.s2_bands if acquisition.s2 else ())
                    kept.append(_Kept(record, block, tile.label.shape))
                    pixels[block] = pixels.get(block, 0) + counts
                left_out += bool(counts.any() and not whole)
            notes += [f"scene {acquisition.number}: {line}" for line in told(scene.dropped)]
    if not kept:
        raise ValueError(
            f"none of {unseen:,} labelled pixels has data and no cloud in the scenes; give other scenes, or another --cloud_mask"
        )
    if len(pixels) < len(cutting.shares):
        raise ValueError(
            f"labels with data lie in {len(pixels)} blocks of {cutting.block_m:g} m, {len(cutting.shares)} splits are asked for; "
            "give a smaller --block_m, or other scenes"
        )
    middles = {block: found.middles[block] for block in pixels}
    split = assign(pixels, middles, cutting.shares, cutting.block_m + cutting.gap_m, cutting.seed)
    records = _write_table(folder, kept, split)
    write_classes(folder, labels.classes)
    none = np.zeros(len(labels.classes), np.int64)
    blocks = {name: [block for block in pixels if split[block] == name] for name, _ in cutting.shares}
    return Summary(
        records,
        {name: sum((pixels[block] for block in there), none) for name, there in blocks.items()},
        {name: len(there) for name, there in blocks.items()},
        max(max(one.size) for one in kept),
        unseen,
        left_out,
        notes,
    )


class _Kept(NamedTuple):
    """A tile that is written."""

    record: TileRecord
    """Without its split."""
    block: Block
    size: tuple[int, int]


def _burner(labels: Labels, grid: Grid) -> tuple[Burner, set[int]]:
    """Returns the labels on the grid of a scene, and which of the shapes lie in it."""
    shapes, places = on_grid(labels.shapes, grid, labels.radius_m)
    return Burner(shapes, labels.class_id[places]), set(places.tolist())


def _check_block(cutting: Cutting, grid: Grid) -> None:
    (_, (left, bottom, right, top), _), *_ = Lattice(grid.crs, cutting.block_m, cutting.gap_m).blocks(grid.bounds)
    sides = (right - left) / abs(grid.transform.a), (top - bottom) / abs(grid.transform.e)
    side = math.ceil(min(sides) - 1e-6)  # blocks of 32.7 pixels have 33, or 32
    if side < cutting.tile_size_px:
        raise ValueError(
            f"--block_m {cutting.block_m:g} is {side} pixels of the scene, less than a tile of --tile_size_px {cutting.tile_size_px}; give "
            f"--tile_size_px {max(side, 1)}, or larger blocks"
        )


def _surveyed(
    found: Survey, grid: Grid, burner: Burner, cutting: Cutting, classes: int
) -> Iterator[tuple[Block, slice, slice]]:
    """Burns the blocks of a scene, adds to what is found, and yields the windows that have labels, in the order of rows."""
    windows = []
    pixel_m2 = _pixel_m2(grid)
    for block, square, whole in _touched(grid, burner, cutting):
        rows, columns = _window(grid, whole)
        if not _size(rows, columns) or not burner.touches(rows, columns):
            continue
        codes, overlaps = burner.codes(rows, columns)
        found.overlaps += overlaps
        found.overlap_m2 += sum(overlaps.values()) * pixel_m2
        inner = _window(grid, square)
        counts = np.zeros(classes, np.int64)
        for tile in _tiles(*inner, cutting.tile_size_px):
            part = codes[_within(tile[0], rows), _within(tile[1], columns)]
            if part.any():
                counts += np.bincount(part[part > 0] - 1, minlength=classes)
                windows.append((block, *tile))
        found.in_gaps += int((codes > 0).sum() - counts.sum())
        if counts.any():
            found.pixels[block] = found.pixels.get(block, 0) + counts
            found.middles[block] = middle_of(grid.crs, square)
    yield from sorted(windows, key=lambda window: (window[1].start, window[2].start))


def _touched(grid: Grid, burner: Burner, cutting: Cutting) -> Iterator[tuple[Block, Bounds, Bounds]]:
    """Yields each block once that is about a shape."""
    lattice, known = Lattice(grid.crs, cutting.block_m, cutting.gap_m), set()
    scene = shapely.box(0, 0, grid.width, grid.height)
    for left, top, right, bottom in shapely.bounds(
        shapely.envelope(shapely.intersection(shapely.envelope(burner.shapes), scene))
    ):
        corners = grid.transform @ (left, top), grid.transform @ (right, bottom)
        (x, other_x), (y, other_y) = zip(*corners, strict=True)
        for block in lattice.blocks((min(x, other_x), min(y, other_y), max(x, other_x), max(y, other_y))):
            if block[0] not in known:
                known.add(block[0])
                yield block


def _window(grid: Grid, bounds: Bounds) -> tuple[slice, slice]:
    """Rows and columns of the pixels of a scene whose centres lie in some bounds."""
    left, bottom, right, top = bounds
    corners = ~grid.transform @ (left, top), ~grid.transform @ (right, bottom)
    window = []
    for (one, other), size in zip(zip(*corners, strict=True), (grid.width, grid.height), strict=True):
        # A centre that rounding has moved by a millionth of a pixel stays in the block that it is in.
        start, stop = (math.ceil(edge - 0.5 - 1e-6) for edge in sorted((one, other)))
        window.append(slice(min(max(start, 0), size), min(max(stop, 0), size)))
    return window[1], window[0]


def _tiles(rows: slice, columns: slice, most_px: int) -> Iterator[tuple[slice, slice]]:
    """Divides a window evenly into tiles of `most_px` at most."""
    for upper in _pieces(rows, most_px):
        for left in _pieces(columns, most_px):
            yield upper, left


def _pieces(whole: slice, most_px: int) -> list[slice]:
    length = whole.stop - whole.start
    edges = np.linspace(whole.start, whole.stop, max(math.ceil(length / most_px), 1) + 1).round().astype(int).tolist()
    return [slice(one, other) for one, other in itertools.pairwise(edges) if other > one]


def _within(part: slice, whole: slice) -> slice:
    return slice(part.start - whole.start, part.stop - whole.start)


def _size(rows: slice, columns: slice) -> int:
    return (rows.stop - rows.start) * (columns.stop - columns.start)


def _pixel_m2(grid: Grid) -> float:
    """Area of a pixel in the middle of a scene, roughly."""
    if not grid.crs.is_geographic:
        return abs(grid.transform.determinant) * grid.crs.linear_units_factor[1] ** 2
    _, bottom, _, top = grid.bounds
    return abs(grid.transform.determinant) * 111_195.0**2 * math.cos(math.radians((bottom + top) / 2))


def _read(scene: Scene, rows: slice, columns: slice, codes: UInt8[np.ndarray, "rows columns"]) -> tuple[Tile, bool]:
    """Reads a tile, and whether each band of it has data. Where no sensor sees the ground there is no label; cloud is nodata of Sentinel-2."""
    s2, s1 = scene.pixels(rows, columns)
    if scene.s2:
        s2 = np.where(scene.clouded(rows, columns)[..., None], np.uint16(bands.S2_NODATA), s2)
    there = tuple(sensor for sensor, of in (("s2", scene.s2), ("s1", scene.s1)) if of)
    seen = bands.valid_pixels(s2, s1, there, may_miss=there)
    label = np.where(seen & (codes > 0), codes - 1, bands.IGNORE).astype(np.uint8)
    whole = (s2 != bands.S2_NODATA).any(axis=(0, 1)).all() and np.isfinite(s1).any(axis=(0, 1)).all()
    grid = scene.grid.window(rows, columns)
    return Tile(TileRecord("", ""), s2, s1, label, grid.crs.to_string(), tuple(grid.transform)[:6]), bool(whole)


def _record(
    acquisition: Acquisition, cutting: Cutting, grid: Grid, rows: slice, columns: slice, common: dict[str, Any]
) -> TileRecord:
    lon, lat = middle_of(grid.crs, grid.window(rows, columns).bounds)
    name = f"{acquisition.name}_{rows.start}_{columns.start}"
    return TileRecord(name, "", lon=lon, lat=lat, annotator=cutting.annotator, **common)


def _write(folder: Path, tile: Tile, s2_bands: tuple[str, ...]) -> None:
    for place, content in tile_contents(tile, s2_bands).items():
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_bytes(content)  # synced with all others when the folder is whole


def _check_enough(found: Survey, labels: Labels, cutting: Cutting, grid: Grid) -> None:
    """Raises a ValueError if labels are of fewer than two classes, or in fewer blocks than there are splits."""
    if not found.pixels:
        raise ValueError(
            "no label covers the centre of a pixel in a block"
            + (f", {found.in_gaps} pixels lie in the gaps between; give a smaller --gap_m" if found.in_gaps else "")
            + (": pixels of two classes have none" if found.overlaps else "")
        )
    counts = sum(found.pixels.values())
    there = [name for name, count in zip(labels.classes.names, counts, strict=True) if count]
    if len(there) < 2:
        raise ValueError(
            f"all labels in the scenes are of one class, {there[0]}; a network learns to tell two at least: label others too"
        )
    if len(found.pixels) < len(cutting.shares):
        raise ValueError(
            f"labels lie in {len(found.pixels)} blocks of {cutting.block_m:g} m, and {len(cutting.shares)} splits are asked for; "
            f"give {_smaller(labels, grid, cutting)}"
        )


def _smaller(labels: Labels, grid: Grid, cutting: Cutting) -> str:
    """Proposes smaller blocks, an eighth of the side that the labels of a scene reach over."""
    shapes, _ = on_grid(labels.shapes, grid, labels.radius_m)
    left, top, right, bottom = np.clip(shapely.total_bounds(shapes), 0, [grid.width, grid.height] * 2)
    side = max(right - left, bottom - top)
    metres = side * math.sqrt(_pixel_m2(grid)) / 8
    if not metres > 8 * math.sqrt(_pixel_m2(grid)):
        return "labels of more places"
    tile = min(cutting.tile_size_px, math.floor(0.9 * side / 8))
    return f"--block_m {metres:.0f} --gap_m {min(cutting.gap_m, metres / 20):.0f} --tile_size_px {tile}, or labels of more places"


def _write_table(folder: Path, kept: list[_Kept], split: dict[Block, str]) -> list[TileRecord]:
    """Writes tiles.csv, sorted by tile id, and returns its records."""
    unknown = {field.name: field.default for field in dataclasses.fields(TileRecord)}
    columns = (*COLUMNS, *(name for name in unknown if name not in COLUMNS))
    records = []
    with (folder / "tiles.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for one in sorted(kept, key=lambda one: one.record.tile_id):
            records.append(dataclasses.replace(one.record, split=split[one.block]))
            known = {name: value for name, value in dataclasses.asdict(records[-1]).items() if value != unknown[name]}
            writer.writerow(known | dict(zip(("height", "width"), one.size, strict=True)))
    return records
