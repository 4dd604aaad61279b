"""Command: maps the land-cover classes of a scene.

    python -m specsar_jax.predict --workdir runs/quickstart --s2 s2.tif --s1 s1.tif --output map.tif

Enters: Sentinel-2 and Sentinel-1 in the file formats and grids of `tfds_dwplus.imagery.scenes`. Leaves: a GeoTIFF on the grid
of the finest Sentinel-2 band. The scene goes through the network in windows of the size that it was trained on; overlapping
windows are blended before the class is chosen. Finished rows of windows are kept beside the map: if the command is
interrupted, the same command continues.
"""

import argparse
import contextlib
import dataclasses
import gc
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from specsar_jax.config import Predict
from specsar_jax.patches import asked
from specsar_jax.trained import hub
from specsar_jax.trained.loading import load_trained
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus.command_line import Parser, path, path_or_address, run, whole_numbers
from tfds_dwplus.files.any_source import FLAG, FLAG_HELP
from tfds_dwplus.imagery.decoder.backscatter import UNITS


def main(argv: list[str]) -> None:
    """Parses the arguments and writes the map."""
    parser = Parser(
        "Maps the land-cover classes of a scene. If interrupted, the same command continues.",
        "python -m specsar_jax.predict --workdir runs/quickstart --s2 s2.tif --s1 s1.tif --output map.tif",
    )
    parser.add_argument("--workdir", type=hub.network, required=True, help="workdir of a run, or an exported bundle")
    parser.add_argument(
        "--s2",
        type=path_or_address,
        nargs="+",
        default=[],
        metavar="PATH",
        help="Sentinel-2 file, or one per band; SAFE folder or zip; URL",
    )
    parser.add_argument(
        "--s1",
        type=path_or_address,
        nargs="+",
        default=[],
        metavar="PATH",
        help="Sentinel-1: VV and VH, in one or two files, on any grid",
    )
    parser.add_argument("--output", type=path, required=True, help="class map to write")
    parser.add_argument("--probabilities", type=path, help="raster of the class probabilities to write")
    parser.add_argument("--confidence", type=path, help="raster of the mapped class's probability to write")
    parser.add_argument(
        "--sensors_seen",
        type=path,
        help="raster to write of the sensors that each pixel was seen by: 1 Sentinel-2, 2 Sentinel-1, 3 both",
    )
    parser.add_argument(
        "--generalised",
        type=path,
        help="raster to write of the map with patches below --minimum_area_ha joined to others",
    )
    asked.add_options(parser)
    parser.add_argument(
        "--s2_offset",
        type=int,
        help="digital numbers to subtract, 1000 for baseline 04.00 and later; if not given, from the product's metadata",
    )
    parser.add_argument(
        "--s1_unit", choices=UNITS, default="db", help="unit of Sentinel-1; scaled: dB = 20 log10(DN) - 83"
    )
    parser.add_argument(
        "--s2_bands",
        type=_names,
        default=(),
        help="names of the bands of --s2, for files without names: B2,B3,-,B4; - skips a band",
    )
    parser.add_argument("--s1_bands", type=_names, default=(), help="names of the bands of --s1, likewise: VV,VH")
    parser.add_argument(
        "--cloud_mask",
        type=path_or_address,
        default="",
        help="cloud mask: a raster on any grid, or a SAFE product with SCL",
    )
    parser.add_argument(
        "--cloud_values",
        type=whole_numbers,
        default=(),
        help="values of cloud; default 3,8,9,10 for SCL, else all but 0",
    )
    parser.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="map only part I of N; all parts write one map"
    )
    parser.add_argument("--window_px", type=int, help="pixels of a row to map at once; the map does not depend on it")
    parser.add_argument("--overlap", type=float, help="overlap of windows, 0 to 0.75; the run's if not given")
    parser.add_argument("--checkpoint", choices=("best", "latest"), default="best")
    parser.add_argument(FLAG, action="store_true", help=FLAG_HELP)
    args = parser.parse_args(argv)
    wanted = asked.Asked(args.polygons, args.generalised, args.minimum_area_ha)
    wanted.check()
    with _collector_off() as collector_on, ThreadPoolExecutor(1) as thread:
        started = thread.submit(_start_network)
        trained = load_trained(args.workdir, args.checkpoint)
        if trained.config.data.name == "simulated":
            print("note: the network was trained on SIMULATED tiles: its map says little about land", file=sys.stderr)
        given = {"window_px": args.window_px, "overlap": args.overlap}
        cutting = dataclasses.replace(trained.config.predict, **{k: v for k, v in given.items() if v is not None})
        started.result()
        # Loading a program keeps one core busy, and not Python's lock: what reads is imported, and the scene opened, meanwhile.
        made = thread.submit(_make_network, trained, cutting)
        made.add_done_callback(collector_on)
        from specsar_jax.maps.map_files import Outputs
        from specsar_jax.maps.scene_map import map_scene
        from tfds_dwplus.imagery.scenes import Reading

        reading = Reading(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Reading)})
        outputs = Outputs(args.output, args.probabilities, args.confidence, args.sensors_seen, wanted)
        finished = map_scene(trained, args.s2, args.s1, outputs, cutting, reading, args.shard, made)
    if finished:
        print(f"wrote {', '.join(map(str, outputs.paths.values()))}")
    else:
        print(f"did part {args.shard[0]} of {args.shard[1]}; the map is written when the other parts are done")


def _start_network() -> None:
    """Imports JAX and the network, which takes half a second, and starts JAX's devices. Raises a ValueError if there are none."""
    from specsar_jax.devices.compilation import keep_compiled_programs
    from specsar_jax.devices.sharding import start_devices
    from specsar_jax.maps import compiled  # noqa: F401

    keep_compiled_programs()
    start_devices()


def _make_network(trained: Trained, cutting: Predict) -> Any:
    """Makes the network for the batches of a large scene, before it is known how large the scene is."""
    from specsar_jax.maps import compiled

    return compiled.made_ahead(trained, cutting)


@contextlib.contextmanager
def _collector_off() -> Iterator[Callable[[object], None]]:
    """Keeps Python's garbage collector off what a start makes, modules and the shapes of a thousand weights, which all stay: it would go through
    them again and again, for a sixth of the time until the first window. Yields what turns it on again, to spare them from then on.
    """
    collects = gc.isenabled()
    gc.disable()

    def on(_: object) -> None:
        gc.freeze()
        if collects:
            gc.enable()

    try:
        yield on
    finally:
        gc.unfreeze()
        if collects:
            gc.enable()


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part such as 1/4, 2/4, 3/4 or 4/4")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    run(main)
