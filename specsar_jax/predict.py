"""Command: a scene to a map of land-cover classes.

    python -m specsar_jax.predict --workdir runs/quickstart --s2 s2.tif --s1 s1.tif --output map.tif

Enters: Sentinel-2 (uint16 digital numbers) and Sentinel-1 (float32 dB) on one grid. Leaves: a GeoTIFF on that grid. The
scene is read, mapped and written a row of squares at a time, each of the size that the network was trained on; overlapping
squares are blended before the class is chosen.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

import specsar_jax
from specsar_jax import model, preprocess, windows
from specsar_jax.checkpoints import Trained, load_trained
from specsar_jax.compilation import keep_compiled_programs
from specsar_jax.config import Predict
from specsar_jax.inference import log_probabilities
from specsar_jax.rasters import MapWriter, Scene, Sensor
from tfds_dwplus import bands
from tfds_dwplus.command_line import Parser, progress, run

Probabilities = Callable[[np.ndarray, np.ndarray], Float[Array, "batch height width class"]]


def main(argv: list[str]) -> None:
    """Parses the arguments and writes the map."""
    parser = Parser(
        "Maps a scene.",
        "python -m specsar_jax.predict --workdir runs/quickstart --s2 s2.tif --s1 s1.tif --output map.tif",
    )
    parser.add_argument("--workdir", type=Path, required=True, help="of specsar_jax.train, or an exported bundle")
    parser.add_argument("--s2", type=Path, nargs="+", default=[], help="one multi-band file, or one file a band")
    parser.add_argument("--s1", type=Path, nargs="+", default=[], help="VV and VH in dB, in one file or in two")
    parser.add_argument("--output", type=Path, required=True, help="class map to write")
    parser.add_argument("--probabilities", type=Path, help="class probabilities to write")
    parser.add_argument("--window_px", type=int, help="how much of a row to map at once; the map does not depend on it")
    parser.add_argument("--overlap", type=float, help="of neighbouring squares, 0 to 0.75; the run's if not given")
    parser.add_argument("--checkpoint", choices=("best", "latest"), default="best")
    args = parser.parse_args(argv)
    keep_compiled_programs()
    trained = load_trained(args.workdir, args.checkpoint)
    given = {"window_px": args.window_px, "overlap": args.overlap}
    cutting = dataclasses.replace(trained.config.predict, **{k: v for k, v in given.items() if v is not None})
    predict(trained, args.s2, args.s1, args.output, args.probabilities, cutting)
    print(f"wrote {args.output}" + (f" and {args.probabilities}" if args.probabilities else ""))


def predict(
    trained: Trained, s2: list[Path], s1: list[Path], output: Path, probabilities: Path | None, cutting: Predict
) -> None:
    """Maps a scene of any size to `output` and, if given, `probabilities`.

    Raises:
        ValueError: files, bands, types or grids are not as the network needs them; nothing is written then.
    """
    sensors = trained.config.model.sensors
    if cutting.window_px < 1:
        raise ValueError(f"a window of {cutting.window_px} pixels, expected a positive number")
    for sensor, paths in (("s2", s2), ("s1", s1)):
        if sensor in sensors and not paths:
            raise ValueError(f"the network reads {' and '.join(sensors)}, but no --{sensor} is given")
        if sensor not in sensors and paths:
            print(f"note: the network does not read {sensor}; --{sensor} is not used", file=sys.stderr)
    tags = {
        "software": f"specsar_jax {specsar_jax.__version__}",
        "trained_on": trained.config.data.name,
        "trained_steps": str(trained.step),
    }
    with (
        _open(s2, trained.statistics.s2.bands, "uint16", "s2" in sensors) as s2_files,
        _open(s1, trained.statistics.s1.bands, "float32", "s1" in sensors) as s1_files,
    ):
        scene = Scene(s2_files, s1_files)
        square_px = trained.config.data.crop_px
        rows, columns = (windows.plan(size, square_px, cutting.overlap) for size in scene.grid.shape)
        at_once = max(cutting.window_px // columns.window, 1)
        network = make_probabilities(trained)
        with MapWriter(scene.grid, output, probabilities, tags) as writer:
            bar = progress(total=len(rows.starts) * len(columns.starts), desc="mapping", unit="window", leave=False)
            for row, strip, valid in probability_strips(scene, network, rows, columns, at_once, sensors, bar):
                class_id = np.where(valid, strip.argmax(axis=-1), bands.IGNORE).astype(np.uint8)
                writer.write(row, class_id, strip)
            bar.close()
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
    scene: Scene,
    network: Probabilities,
    rows: windows.Axis,
    columns: windows.Axis,
    batch_size: int,
    sensors: tuple[str, ...],
    bar: tqdm,
) -> Iterator[tuple[int, Float[np.ndarray, "rows columns class"], np.ndarray]]:
    """Blended class probabilities of the scene, from top to bottom, as strips of whole rows.

    Yields:
        the strip's first row, its probabilities, and where all sensors in use have data.
    """
    blend = np.outer(windows.blend_weights(rows), windows.blend_weights(columns))[..., None]
    total = np.zeros((rows.window, columns.starts[-1] + columns.window, len(bands.CLASSES)), np.float32)
    share = np.zeros((*total.shape[:2], 1), np.float32)
    for start, count in windows.strips(rows):
        stop = min(start + rows.window, rows.size)
        s2, s1 = scene.read(slice(start, stop), slice(0, columns.size))
        valid = preprocess.valid_pixels(s2, s1, sensors)
        mirrored = [windows.read_mirrored(pixels, rows.window, total.shape[1]) for pixels in (s2, s1)]
        for first in range(0, len(columns.starts), batch_size):
            lefts = columns.starts[first : first + batch_size]
            batch = [np.stack([pixels[:, left : left + columns.window] for left in lefts]) for pixels in mirrored]
            for left, probability in zip(lefts, np.asarray(network(*batch)), strict=True):
                total[:, left : left + columns.window] += probability * blend
                share[:, left : left + columns.window] += blend
            bar.update(len(lefts))
        yield start, (total[:count] / share[:count])[:, : columns.size], valid[:count]
        # Rows that the next windows reach move to the top of the buffer.
        total = np.concatenate([total[count:], np.zeros_like(total[:count])])
        share = np.concatenate([share[count:], np.zeros_like(share[:count])])


def _open(paths: list[Path], wanted: tuple[str, ...], dtype: str, needed: bool) -> contextlib.AbstractContextManager:
    return Sensor(paths, wanted, dtype) if needed else contextlib.nullcontext()


if __name__ == "__main__":
    run(main)
