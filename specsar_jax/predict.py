"""Command: a scene to a map of land-cover classes.

    python -m specsar_jax.predict --workdir runs/quickstart --s2 s2.tif --s1 s1.tif --output map.tif

Enters: Sentinel-2 and Sentinel-1 in whatever files and on whatever grids (`specsar_jax.scenes`). Leaves: a GeoTIFF on the grid
of the finest Sentinel-2 band. The scene is read, mapped and written a row of squares at a time, each of the size that the
network was trained on; overlapping squares are blended before the class is chosen.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from tqdm import tqdm

import specsar_jax
from specsar_jax import model, preprocess, windows
from specsar_jax.checkpoints import Trained, load_trained
from specsar_jax.compilation import keep_compiled_programs
from specsar_jax.config import Predict
from specsar_jax.inference import log_probabilities
from specsar_jax.rasters import S1_UNITS, MapWriter
from specsar_jax.scenes import AS_FILES_SAY, Reading, check_not_overwritten, open_scene
from tfds_dwplus import bands
from tfds_dwplus.command_line import Parser, progress, run

Probabilities = Callable[[np.ndarray, np.ndarray], Float[Array, "batch height width class"]]
Read = Callable[[slice, slice], tuple[np.ndarray, np.ndarray, Bool[np.ndarray, "rows columns"]]]
"""Digital numbers, dB, and which pixels are to be mapped, of some rows and columns of a scene."""


def main(argv: list[str]) -> None:
    """Parses the arguments and writes the map."""
    parser = Parser(
        "Maps a scene.",
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
    parser.add_argument("--window_px", type=int, help="how much of a row to map at once; the map does not depend on it")
    parser.add_argument("--overlap", type=float, help="of neighbouring squares, 0 to 0.75; the run's if not given")
    parser.add_argument("--checkpoint", choices=("best", "latest"), default="best")
    args = parser.parse_args(argv)
    keep_compiled_programs()
    trained = load_trained(args.workdir, args.checkpoint)
    given = {"window_px": args.window_px, "overlap": args.overlap}
    cutting = dataclasses.replace(trained.config.predict, **{k: v for k, v in given.items() if v is not None})
    reading = Reading(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Reading)})
    predict(trained, args.s2, args.s1, args.output, args.probabilities, cutting, reading)
    print(f"wrote {args.output}" + (f" and {args.probabilities}" if args.probabilities else ""))


def predict(
    trained: Trained,
    s2: Sequence[str | Path],
    s1: Sequence[str | Path],
    output: Path,
    probabilities: Path | None,
    cutting: Predict,
    reading: Reading = AS_FILES_SAY,
) -> None:
    """Maps a scene of any size to `output` and, if given, `probabilities`.

    Raises:
        ValueError: files, bands, types, units or places are not as the network needs them; nothing is written then.
    """
    sensors = trained.config.model.sensors
    if cutting.window_px < 1:
        raise ValueError(f"a window of {cutting.window_px} pixels, expected a positive number")
    for sensor, paths in (("s2", s2), ("s1", s1)):
        if sensor in sensors and not paths:
            raise ValueError(f"the network reads {' and '.join(sensors)}, but no --{sensor} is given")
        if sensor not in sensors and paths:
            print(f"note: the network does not read {sensor}; --{sensor} is not used", file=sys.stderr)
    check_not_overwritten(
        [path for path in (output, probabilities) if path], [*s2, *s1, *filter(None, [reading.cloud_mask])]
    )
    tags = {
        "software": f"specsar_jax {specsar_jax.__version__}",
        "trained_on": trained.config.data.name,
        "trained_steps": str(trained.step),
    }
    s2_bands, s1_bands = (getattr(trained.statistics, name).bands if name in sensors else () for name in ("s2", "s1"))
    with open_scene(s2, s1, s2_bands, s1_bands, reading) as scene:
        square_px = trained.config.data.crop_px
        rows, columns = (windows.plan(size, square_px, cutting.overlap) for size in scene.grid.shape)
        at_once = max(cutting.window_px // columns.window, 1)
        network = make_probabilities(trained)
        any_valid = False
        with MapWriter(scene.grid, output, probabilities, tags) as writer:
            bar = progress(total=len(rows.starts) * len(columns.starts), desc="mapping", unit="window", leave=False)
            for row, strip, valid in probability_strips(scene.read, network, rows, columns, at_once, bar):
                class_id = np.where(valid, strip.argmax(axis=-1), bands.IGNORE).astype(np.uint8)
                writer.write(row, class_id, strip)
                any_valid |= bool(valid.any())
            bar.close()
            if not any_valid:
                raise ValueError(
                    f"no pixel to map: in none of {scene.grid.height} x {scene.grid.width} have all bands data"
                    + (" and no cloud; look at --cloud_mask" if reading.cloud_mask else "")
                )
            writer.finish()


def make_probabilities(trained: Trained) -> Probabilities:
    """The network as a compiled function from physical values to calibrated class probabilities, float32."""

    @jax.jit
    def compiled(variables: model.Variables, s2: Array, s1: Array) -> Array:
        s2, s1 = preprocess.standardise(s2, s1, trained.statistics)
        return jnp.exp(log_probabilities(variables, s2, s1, config=trained.config, temperature=trained.temperature))

    variables = jax.device_put(trained.variables)
    return lambda s2, s1: compiled(variables, s2, s1)


def probability_strips(
    read: Read,
    network: Probabilities,
    rows: windows.Axis,
    columns: windows.Axis,
    batch_size: int,
    bar: tqdm,
) -> Iterator[tuple[int, Float[np.ndarray, "rows columns class"], np.ndarray]]:
    """Blended class probabilities of the scene, from top to bottom, as strips of whole rows.

    Yields:
        the strip's first row, its probabilities, and which of its pixels are to be mapped.
    """
    blend = np.outer(windows.blend_weights(rows), windows.blend_weights(columns))[..., None]
    total = np.zeros((rows.window, columns.starts[-1] + columns.window, len(bands.CLASSES)), np.float32)
    share = np.zeros((*total.shape[:2], 1), np.float32)
    for start, count in windows.strips(rows):
        stop = min(start + rows.window, rows.size)
        s2, s1, valid = read(slice(start, stop), slice(0, columns.size))
        mirrored = [windows.read_mirrored(pixels, rows.window, total.shape[1]) for pixels in (s2, s1)]
        # Where nothing is to be mapped, no pixel asks what these windows say.
        needed = columns.starts if valid.any() else ()
        for first in range(0, len(needed), batch_size):
            lefts = needed[first : first + batch_size]
            batch = [np.stack([pixels[:, left : left + columns.window] for left in lefts]) for pixels in mirrored]
            for left, probability in zip(lefts, np.asarray(network(*batch)), strict=True):
                total[:, left : left + columns.window] += probability * blend
                share[:, left : left + columns.window] += blend
            bar.update(len(lefts))
        bar.update(len(columns.starts) - len(needed))
        yield start, (total[:count] / np.maximum(share[:count], 1e-30))[:, : columns.size], valid[:count]
        # Rows that the next windows reach move to the top of the buffer.
        total = np.concatenate([total[count:], np.zeros_like(total[:count])])
        share = np.concatenate([share[count:], np.zeros_like(share[:count])])


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 3,8,9,10") from None


if __name__ == "__main__":
    run(main)
