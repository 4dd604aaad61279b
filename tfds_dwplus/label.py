"""Command: label tiles by a trained network, where it is sure enough.

python -m specsar_jax.import_dynamic_world --saved_model dynamicworld/model/forward --output dynamic_world.safetensors
python -m tfds_dwplus.label --network dynamic_world.safetensors --tiles tiles/ --probabilities

Enters: a workdir or bundle of a network, and a folder of tiles in the layout of `tiles.tile_files`, with the sensors and bands that the
network reads, and without labels. Leaves: `label/`, with the top class where its probability is at least the confidence, and 0
elsewhere, where a band has no data and where there are clouds; what is as dark as only water can be is water, of Dynamic World's
classes; `probability/` on request; the network's name as annotator in tiles.csv; and `classes.csv` for a network of other classes.
Started again, it does what is missing. What is trained on such labels learns the network, with its faults: figures against them are
agreement with it, not accuracy.

A network that works without a sensor (`Config.may_miss`) takes tiles without that sensor's folder, and labels a pixel that the other
one saw. Clouds stay without a label also where Sentinel-1 saw the ground: what learns from the tile would see the cloud.

It is the one command of this package that needs `specsar_jax`, whose maps it makes tile by tile: it has no network of its own.
"""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.errors import NotGeoreferencedWarning

from specsar_jax.devices.compilation import keep_compiled_programs
from specsar_jax.devices.sharding import start_devices
from specsar_jax.maps import windows
from specsar_jax.maps.compiled import make_probabilities
from specsar_jax.maps.mapping import Probabilities, ahead, probability_blocks, windows_at_once
from specsar_jax.network import model
from specsar_jax.trained import hub
from specsar_jax.trained.loading import load_trained
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands
from tfds_dwplus.command_line import Parser, path, progress, run
from tfds_dwplus.dynamic_world_plus_dataset_builder import summary_of_notes
from tfds_dwplus.imagery.decoder.backscatter import other_quantity, quantity_named
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.tiles.labelling import clouds, water
from tfds_dwplus.tiles.labelling.annotators import NETWORK
from tfds_dwplus.tiles.labelling.class_table import read_classes, write_classes
from tfds_dwplus.tiles.labelling.folder import (
    CLOUD,
    check_folder_classes,
    clouds_of,
    folder_claimed,
    plan,
    water_of,
    write_annotators,
    write_labels,
)
from tfds_dwplus.tiles.labelling.pixels import Counts, counted, label_codes, shares
from tfds_dwplus.tiles.tile_files import Tile, TileRecord, list_tiles, read_tile, s1_unit, s2_band_names, sensors

CLOUD_RULE = 1
"""To be increased when a change of `tiles.labelling.clouds` changes a pixel."""

WATER_RULE = 1
"""Likewise, of `tiles.labelling.water`."""

_WATER = bands.CLASSES.index("water") + 1


def main(argv: list[str]) -> None:
    """Parses the arguments and labels the tiles."""
    parser = Parser(
        "Labels tiles by a trained network where it is sure enough. Started again, it does what is missing.",
        "python -m tfds_dwplus.label --network dynamic_world.safetensors --tiles tiles/ --probabilities",
    )
    parser.add_argument("--network", type=hub.network, required=True, help="workdir of a run, or an exported bundle")
    parser.add_argument(
        "--tiles", type=path, required=True, help="folder with s2/, s1/ (or one of the two) and tiles.csv"
    )
    parser.add_argument(
        "--confidence", type=float, default=0.35, help="least probability of the class of a labelled pixel, 0 to 1"
    )
    parser.add_argument(
        "--probabilities", action="store_true", help="keep all probabilities in probability/, for loss.name=soft"
    )
    parser.add_argument(
        "--keep_clouds", action="store_true", help="do not look for clouds; the network gives them a class"
    )
    parser.add_argument(
        "--keep_dark_water",
        action="store_true",
        help="leave what only water can be to the network, which may see trees",
    )
    parser.add_argument(
        "--only_unlabelled", action="store_true", help="leave tiles with labels made by people as they are"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="label again what networks labelled; never what people did"
    )
    args = parser.parse_args(argv)
    if not 0 <= args.confidence <= 1:
        raise ValueError(f"--confidence is {args.confidence:g}, expected a probability from 0 to 1")
    if (Path(args.network) / "saved_model.pb").is_file():
        raise ValueError(
            f"{args.network} is a SavedModel, expected a workdir or a bundle; make one of Dynamic World's with "
            "python -m specsar_jax.import_dynamic_world"
        )
    records = list_tiles(args.tiles)
    start_devices()
    keep_compiled_programs()
    trained = load_trained(args.network)
    s2_bands = _check_bands(args.tiles, records[0], trained)
    settings = {
        "weights_sha256": trained.sha256,
        "confidence": args.confidence,
        "probabilities": args.probabilities,
        "clouds": "kept" if args.keep_clouds else f"rule {CLOUD_RULE}",
        "dark_water": "kept"
        if args.keep_dark_water or trained.classes.names != bands.CLASSES
        else f"rule {WATER_RULE}",
        "temperature": trained.temperature,
        "average_turns": trained.config.predict.average_turns,
        "window_px": trained.config.data.crop_px,
        "overlap": trained.config.predict.overlap,
    }
    if trained.config.may_miss:  # with the other sensor added later, the labels would be others
        settings["sensors"] = " and ".join(_sensors_read(args.tiles, trained))
    with folder_claimed(args.tiles):
        check_folder_classes(args.tiles, trained.classes)
        records = list_tiles(args.tiles)
        name = f"{NETWORK}{trained.name}"
        found = plan(
            args.tiles, records, name, settings, overwrite=args.overwrite, only_unlabelled=args.only_unlabelled
        )
        if found.todo:
            for line in _doubts(args.tiles, found.todo, trained, s2_bands, keep_clouds=args.keep_clouds):
                print(f"note: {line}", file=sys.stderr)
        if found.todo and read_classes(args.tiles).names != trained.classes.names:
            write_classes(args.tiles, trained.classes)
        # Before the first label: so no label of a network ever stands beside the name of nobody.
        there = {record.tile_id for record in found.todo}
        write_annotators(args.tiles, there, name)
        total = sum((done.counts for done in found.done), Counts())
        notes: list[str] = []
        both = len(found.todo) + len(found.done)
        # Warnings are filtered here for both threads: one that restores its own filter would undo the other's.
        with (
            warnings.catch_warnings(),
            progress(total=both, initial=len(found.done), desc="labelling", unit="tile") as bar,
        ):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            for counts in _label(args.tiles, found.todo, trained, s2_bands, name, settings, notes):
                total += counts
                bar.update()
    for line in summary_of_notes(notes, len(found.todo)):
        print(f"note: {line}", file=sys.stderr)
    kept = f", {found.kept} with labels of people left as they are" if found.kept else ""
    print(f"{len(found.todo)} tiles labelled by {name}, {len(found.done)} were already{kept}")
    print(total.text(args.confidence, trained.classes.names))
    print(f"to pack them: python -m tfds_dwplus.prepare --tiles {args.tiles} --name NAME --data_dir data")


def label_tile(
    tile: Tile,
    cloud: np.ndarray,
    dark_water: np.ndarray,
    trained: Trained,
    network: Probabilities,
    confidence: float,
    *,
    probabilities: bool,
) -> tuple[np.ndarray, np.ndarray | None, Counts]:
    """Labels a tile as a map of it would show it.

    Args:
        tile: with the bands that the network reads, and no others; without any of a sensor that it may miss, if there are none.
        cloud: bool [height, width], pixels that are left unlabelled.
        dark_water: likewise, pixels that are water, whatever the network says.
        trained: the network.
        network: the same, of `make_probabilities`.
        confidence: least probability of a label.
        probabilities: whether the shares are wanted.

    Returns:
        Label codes uint8 [height, width]; shares uint8 [height, width, class] as of `pixels.shares`, or None; and the counts of pixels.
    """
    config = trained.config
    s2, s1 = trained.with_missing(tile.s2, tile.s1)
    valid = bands.valid_pixels(s2, s1, config.model.sensors, config.may_miss)
    grid = Grid.parse(tile.crs, tile.transform, *valid.shape)
    origin = grid.first_pixel if grid.placed else (0, 0)
    rows, columns = (
        windows.plan(size, config.data.crop_px, config.predict.overlap, first, **model.stride_and_margin(config.model))
        for size, first in zip(valid.shape, origin, strict=True)
    )

    def read(rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return s2[rows, columns], s1[rows, columns], valid[rows, columns]

    codes = np.zeros(valid.shape, np.uint8)
    classes = len(trained.classes)
    stored = np.zeros((*valid.shape, classes), np.uint8) if probabilities else None
    at_once = windows_at_once(columns, config.predict.window_px)
    strips, silent = range(len(rows.starts)), progress(disable=True)
    with contextlib.closing(
        probability_blocks(read, network, rows, columns, at_once, strips, silent, trained.classes)
    ) as blocks:
        for block in blocks:
            place = block.rows, block.columns
            seen = block.seen & ~cloud[place]
            codes[place] = label_codes(block.probability, seen, confidence)
            if stored is not None:
                stored[place] = shares(block.probability, seen)
    corrected = dark_water & valid & ~cloud & (codes != _WATER)
    codes[corrected] = _WATER
    return codes, stored, counted(codes, valid, cloud, classes, int(corrected.sum()))


def _label(
    folder: Path,
    records: list[TileRecord],
    trained: Trained,
    s2_bands: tuple[str, ...],
    name: str,
    settings: dict[str, Any],
    notes: list[str],
) -> Iterator[Counts]:
    """Labels tiles, and yields the counts of each once it is written. The next tile is read meanwhile. Adds to the notes on tiles."""
    of = {sensor: trained.bands[sensor] for sensor in _sensors_read(folder, trained)}
    places = [s2_bands.index(band) for band in of.get("s2", ())]
    network = make_probabilities(trained)

    def read(record: TileRecord) -> tuple[Tile, np.ndarray, np.ndarray]:
        tile = read_tile(folder, record, s2_bands, of.get("s1", ()), labels="")
        none = np.zeros(tile.label.shape, bool)
        cloud = none if settings["clouds"] == "kept" else clouds_of(folder, tile, s2_bands)
        return tile, cloud, none if settings["dark_water"] == "kept" else water_of(tile, s2_bands)

    with contextlib.closing(ahead(read, ((record,) for record in records))) as tiles:
        for tile, cloud, dark_water in tiles:
            notes += [f"tile {tile.record.tile_id}: {note}" for note in tile.notes]
            chosen = Tile(tile.record, tile.s2[..., places], tile.s1, tile.label, tile.crs, tile.transform)
            how = {"probabilities": settings["probabilities"]}
            codes, stored, counts = label_tile(
                chosen, cloud, dark_water, trained, network, settings["confidence"], **how
            )
            write_labels(folder, tile, codes, stored, name, settings, counts, trained.classes)
            yield counts


def _check_bands(folder: Path, record: TileRecord, trained: Trained) -> tuple[str, ...]:
    """Returns the bands of Sentinel-2 to read: those of the network, and others of the first tile that tell clouds and water.

    Raises:
        ValueError: the tiles lack a sensor that the network reads and cannot do without, or a band.
    """
    for sensor in trained.config.model.sensors:
        trained.check_sensor(
            sensor,
            sensors(folder),
            f"{folder} has no {sensor}/; add it to the tiles, or take a network that does not read {sensor}",
        )
    if "s2" not in _sensors_read(folder, trained):
        return ()
    held = s2_band_names(folder, record)
    read = trained.bands["s2"]
    if missing := [name for name in read if name not in held]:
        raise ValueError(
            f"the network reads {', '.join(read)}, but tile {record.tile_id} of {folder} has {', '.join(held)} only; take a network of "
            f"these bands, or add {', '.join(missing)} to the tiles"
        )
    more = dict.fromkeys((*clouds.USED, *water.USED))
    return (*read, *(name for name in more if name in held and name not in read))


def _sensors_read(folder: Path, trained: Trained) -> tuple[str, ...]:
    """Returns the sensors that the network reads and the folder has."""
    there = sensors(folder)
    return tuple(sensor for sensor in trained.config.model.sensors if sensor in there)


def _doubts(
    folder: Path, records: list[TileRecord], trained: Trained, s2_bands: tuple[str, ...], *, keep_clouds: bool
) -> list[str]:
    """Returns lines on what the labels may suffer from."""
    lines, read = [], _sensors_read(folder, trained)
    if "s1" in read:
        unit = records[0].s1_unit or s1_unit(folder, records[0])
        lines.append(other_quantity(quantity_named([unit]), trained.statistics.s1.unit))
    masked = all((folder / CLOUD / f"{record.tile_id}.tif").is_file() for record in records)
    if "s2" in read and not keep_clouds and not masked:
        lines.append(clouds.in_doubt(s2_bands))
    return [line for line in lines if line]


if __name__ == "__main__":
    run(main)
