"""Command: scores a trained network on a split; writes `evaluation_<split>.json` and the sums of each tile, `tiles_<split>.npz`.

python -m specsar_jax.evaluate --workdir runs/quickstart --split test
"""

import contextlib
import functools
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rasterio
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, UInt8
from rasterio.errors import NotGeoreferencedWarning

from specsar_jax import calibration, compare, hub, losses, metrics, pipeline
from specsar_jax.accuracy import PIXEL_AREA
from specsar_jax.checkpoints import Trained, load_trained, write_json
from specsar_jax.compilation import compile_ahead, keep_compiled_programs
from specsar_jax.config import Config
from specsar_jax.figures import GROUPS, check_groups, figures_of, pixel_area_ha, split_file
from specsar_jax.inference import log_probabilities
from specsar_jax.legends import LEGENDS
from specsar_jax.model import Variables
from specsar_jax.pipeline import Batch
from specsar_jax.preprocess import Statistics, standardise
from specsar_jax.sharding import by_tile, for_mesh, is_first, largest_of_all, make_mesh, put, replicated, shared_batch
from specsar_jax.tally import Tally
from specsar_jax.train_state import evaluation_step
from tfds_dwplus import bands
from tfds_dwplus.command_line import Parser, progress, run
from tfds_dwplus.describe import check_output
from tfds_dwplus.prepared import open_dataset, read_split

Look = Callable[[Batch, Array], None]
"""What is done with the first batch and the log-probabilities of it, for the eye."""

Score = Callable[[Variables, Iterator[Batch], Look], dict[str, Any]]
"""(variables, batches, look) -> figures."""

Sums = dict[str, np.ndarray]
"""Arrays with a row a tile."""


def main(argv: list[str]) -> None:
    """Parses the arguments, scores, prints a table and writes the files."""
    parser = Parser(
        "Scores a trained network, or maps made elsewhere.",
        "python -m specsar_jax.evaluate --workdir runs/quickstart --split test",
    )
    parser.add_argument("--workdir", type=Path, help="of specsar_jax.train, or an exported bundle")
    parser.add_argument("--split", default="test", help="of the data set, in TFDS's notation")
    parser.add_argument("--data_dir", help="folder of prepared data sets; the run's own if not given")
    parser.add_argument("--dataset", help="NAME of dynamic_world_plus/NAME; the run's own if not given")
    parser.add_argument("--checkpoint", choices=("best", "latest"), default="best")
    parser.add_argument("--groups", nargs="*", default=GROUPS, help="columns of the data set to tell accuracy by")
    parser.add_argument(
        "--output",
        type=Path,
        help="JSON file; in the workdir, or beside the bundle or the first --prediction, if not given. The sums of each tile go beside it",
    )
    parser.add_argument(
        "--prediction",
        type=Path,
        action="append",
        default=[],
        help="score this map: a raster that covers the tiles, or a folder of <tile_id>.tif; may be given again. A --workdir beside "
        "it must have been scored on the split before; to compare pixel by pixel, give the --maps that were written then",
    )
    parser.add_argument(
        "--maps",
        type=Path,
        help="folder to write the class map of each tile to, <tile_id>.tif; made if it is not there",
    )
    parser.add_argument(
        "--legend", action="append", default=[], help=f"what the map's numbers mean: {', '.join(LEGENDS)}"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        nargs="+",
        default=[],
        help="score the maps against published label tiles, by the votes of their experts: zips or folders of PANGAEA 933475 or "
        "Zenodo 4766508",
    )
    args = parser.parse_args(argv)
    keep_compiled_programs()
    if args.output is not None:
        check_output(args.output, "--output")
    if args.prediction:
        if args.maps:
            parser.error("--maps are of a network: give --workdir alone")
        return compare.command(
            args.prediction,
            args.legend,
            split=args.split,
            data_dir=args.data_dir,
            dataset=args.dataset,
            labels=args.labels,
            workdir=args.workdir,
            output=args.output,
            groups=args.groups,
        )
    if args.workdir is None or args.legend or args.labels:
        parser.error("give --workdir, or --prediction with --legend")
    if args.output is None and hub.is_address(args.workdir):
        parser.error("nothing can be written beside a network on a hub: give --output")
    trained = load_trained(args.workdir, args.checkpoint)
    data_dir = args.data_dir if args.data_dir is not None else trained.config.data.data_dir
    dataset = args.dataset or trained.config.data.name
    check_groups(open_dataset(data_dir, dataset), args.groups)
    with _appearing_at_the_end(args.maps) as maps:
        tally, loss, named = score_tiles(trained, data_dir, dataset, args.split, maps)
        if not tally.confusion.any():
            raise ValueError(
                f"no labelled pixel where the sensors have data in the {len(tally)} tiles of split {args.split!r} of {named['dataset']}, "
                "so there is nothing to score; give another --split or --dataset"
            )
    figures = named | {"loss": loss} | figures_of(tally, trained.temperature, args.groups)
    names = (split_file("evaluation", args.split, "json"), split_file("tiles", args.split, "npz"))
    if args.output is not None:
        paths = (args.output, args.output.with_name(f"{args.output.stem}.{names[1]}"))
    elif args.workdir.is_dir():
        paths = tuple(args.workdir / name for name in names)
    else:
        paths = tuple(args.workdir.with_name(f"{args.workdir.stem}.{name}") for name in names)
    tally.write(paths[1])
    write_json(paths[0], figures)
    print(metrics.table(figures))


def evaluate(trained: Trained, data_dir: str, dataset: str, split: str, tiles: Path | None = None) -> dict[str, Any]:
    """Figures of a network on a split, with the keys that `evaluation_<split>.json` has.

    Args:
        trained: the network.
        data_dir: folder of prepared data sets.
        dataset: NAME of dynamic_world_plus/NAME.
        split: in TFDS's notation.
        tiles: where the first process writes the sums of each tile, if anywhere.

    Raises:
        ValueError: no such data set or split, or a sensor or bands that the network needs and the data set lacks.
    """
    tally, loss, named = score_tiles(trained, data_dir, dataset, split)
    if tiles is not None and is_first():
        tally.write(tiles)
    return named | {"loss": loss} | figures_of(tally, trained.temperature)


def score_tiles(
    trained: Trained, data_dir: str, dataset: str, split: str, maps: Path | None = None
) -> tuple[Tally, float | None, dict[str, Any]]:
    """The sums of each tile of a split, the mean loss of a labelled pixel, and what was scored: `dataset`, `split`, `step`,
    `tiles`. Tiles whose record cannot be read are left out where the config says so. Raises as `evaluate`.

    `maps` is a folder for the class maps that are counted, `<tile_id>.tif`, on the grid of the tile's record.
    """
    alpha = losses.class_alpha(trained.statistics.label_pixels, trained.config.loss)
    how = {"config": trained.config, "alpha": alpha, "temperature": trained.temperature, "maps": maps is not None}
    step = functools.partial(evaluation_step, **how)
    sums, about, full_name = _pass(trained, data_dir, dataset, split, step, f"evaluating {split}", maps)
    columns = {
        name: np.array([tile[name] for tile in about])
        for name in about[0]
        if name not in ("index", "tile_id", "transform")
    }
    columns[PIXEL_AREA] = np.array([pixel_area_ha(tile.get("crs", ""), tuple(tile["transform"])) for tile in about])
    tile_id = np.array([tile["tile_id"] for tile in about])
    tally = Tally(tile_id=tile_id, columns=columns, **metrics.on_host(sums))
    loss = metrics.plain(sums["loss"].astype(np.float64).sum() / max(int(tally.confusion.sum()), 1))
    return tally, loss, {"dataset": full_name, "split": split, "step": trained.step, "tiles": len(tally)}


def calibrate(trained: Trained, data_dir: str, dataset: str, split: str) -> dict[str, Any]:
    """The temperature of a network's probabilities, fitted on a split: what `WORKDIR/calibration.json` holds.

    Returns:
        the keys of `calibration.best_temperature`, with `dataset`, `split`, `step` of the weights and `labelled_pixels`.

    Raises:
        ValueError: as `evaluate`.
    """

    def step(batch: dict[str, Array], log_p: Array) -> dict[str, Array]:
        return calibration.temperature_sums(batch["label"], log_p)

    sums, _, full_name = _pass(trained, data_dir, dataset, split, step, f"calibrating on {split}")
    pixels = int(sums["pixels"].sum())
    nll, slope = (sums[name].sum(axis=(0, 2), dtype=np.float64) for name in ("nll", "slope"))
    named = {"dataset": full_name, "split": split, "step": trained.step, "labelled_pixels": pixels}
    return named | calibration.best_temperature(pixels, nll, slope)


def make_score(config: Config, statistics: Statistics, mesh: Mesh, shardings: Any = None) -> Score:
    """A function from variables and batches to the figures of one confusion matrix and the loss; compiled once, to be called
    at every evaluation of a run.

    `shardings` says where the variables lie; on every device if not given.
    """
    alpha = losses.class_alpha(statistics.label_pixels, config.loss)
    step = functools.partial(evaluation_step, config=config, alpha=alpha)
    run_over = make_pass(config, statistics, mesh, step, shardings)

    def score(variables: Variables, batches: Iterator[Batch], look: Look = lambda *_: None) -> dict[str, Any]:
        confusion, loss = np.zeros((len(bands.CLASSES),) * 2, np.int64), 0.0
        for sums in run_over(variables, batches, look):
            confusion += sums["confusion"].sum(axis=0, dtype=np.int64)
            loss += float(sums["loss"].sum(dtype=np.float64))
        return {"loss": loss / max(int(confusion.sum()), 1)} | metrics.summarise(confusion)

    return score


def make_pass(
    config: Config,
    statistics: Statistics,
    mesh: Mesh,
    of: Callable[[dict[str, Array], Array], dict[str, Array]],
    shardings: Any = None,
) -> Callable[..., Iterator[Sums]]:
    """A function from variables, batches and a `Look` to what `of` makes of each batch and its log-probabilities, on the host
    of every process. The network is a program of its own, the same whatever becomes of its output: compiled, it is kept for all.
    """
    network = jax.jit(
        for_mesh(
            lambda variables, s2, s1: log_probabilities(variables, *standardise(s2, s1, statistics), config=config),
            mesh,
        ),
        in_shardings=(shardings or replicated(mesh), by_tile(mesh), by_tile(mesh)),
        out_shardings=by_tile(mesh),
    )
    sums = jax.jit(of, in_shardings=(by_tile(mesh), by_tile(mesh)), out_shardings=replicated(mesh))
    compiled: list[Any] = []

    def run_over(variables: Variables, batches: Iterator[Batch], look: Look = lambda *_: None) -> Iterator[Sums]:
        running = None
        for batch in batches:  # read, and put on the devices, while they compute
            on_device = put(batch, mesh)
            if running is not None:
                yield jax.device_get(running)
            arguments = variables, on_device["s2"], on_device["s1"]
            if not compiled:
                compiled.append(compile_ahead(network, *arguments))
            log_p = compiled[0](*arguments)
            if len(compiled) < 2:
                compiled.append(compile_ahead(sums, on_device, log_p))
            if running is None:
                look(batch, log_p)
            running = compiled[1](on_device, log_p)
        if running is not None:
            yield jax.device_get(running)

    return run_over


def _pass(
    trained: Trained,
    data_dir: str,
    dataset: str,
    split: str,
    of: Callable[..., dict[str, Array]],
    doing: str,
    maps: Path | None = None,
) -> tuple[Sums, list[dict[str, Any]], str]:
    """What `of` makes of each tile of a split, what the data set says of each, and the data set's full name. Its `class_id` goes to
    the folder `maps`, batch by batch.
    """
    builder = open_dataset(data_dir, dataset)
    config = trained.config
    pipeline.check_sensors(builder, config.model.sensors)
    source = read_split(builder, split)
    mesh = make_mesh()
    rasters = pipeline.select(config.data.s2_bands, pipeline.dataset_bands(builder), config.model.sensors)
    batch_size, rows = shared_batch(config.train.eval_batch_size, mesh)
    variables = jax.device_put(jax.tree.map(np.asarray, trained.variables), replicated(mesh))
    run_over = make_pass(config, trained.statistics, mesh, of)
    about: list[dict[str, Any]] = []

    def batches() -> Iterator[Batch]:
        for batch in pipeline.evaluation_batches(source, rasters, config, batch_size, rows):
            about.extend(json.loads(text) for text in batch["about"] if text)
            yield batch

    parts = []
    with progress(
        total=-(-len(source) // batch_size), desc=doing, unit="batch", leave=False, disable=not is_first() or None
    ) as bar:
        for number, sums in enumerate(run_over(variables, batches())):
            if maps is not None:
                class_id = sums.pop("class_id")
                for tile in about[-2 * batch_size :]:  # of this batch, and of the one that was read meanwhile
                    if tile["index"] // batch_size == number:
                        _write_map(maps, tile, class_id[tile["index"] % batch_size])
            parts.append(sums)
            bar.update()
    about = sorted(_of_all(about), key=lambda tile: tile["index"])
    tiles = [tile["index"] for tile in about]
    sums = {name: np.concatenate([part[name] for part in parts])[tiles] for name in parts[0]}
    return sums, about, builder.info.full_name


@contextlib.contextmanager
def _appearing_at_the_end(folder: Path | None) -> Iterator[Path | None]:
    """A folder to write to, whose files go to `folder` when all went well, and nowhere else; None of None.

    Raises:
        ValueError: `folder` is a file, or cannot be made.
    """
    if folder is None:
        yield None
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--maps {folder} is a file, expected a folder to write <tile_id>.tif to")
    if not folder.absolute().parent.is_dir():
        raise ValueError(f"no folder {folder.absolute().parent} for --maps {folder.name}; make it first")
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.absolute().parent) as unfinished:
        yield Path(unfinished)
        folder.mkdir(exist_ok=True)
        for path in Path(unfinished).iterdir():
            path.replace(folder / path.name)


def _write_map(folder: Path, tile: dict[str, Any], class_id: UInt8[np.ndarray, "height width"]) -> None:
    """Writes `<tile_id>.tif`, in Dynamic World's colours, 255 nodata; without a place where the record has none."""
    if "/" in tile["tile_id"]:
        raise ValueError(
            f"tile id {tile['tile_id']!r} is no name of a file, so its map cannot be written; leave out --maps"
        )
    height, width = class_id.shape
    place = {"crs": tile["crs"], "transform": rasterio.Affine(*tile["transform"])} if tile.get("crs") else {}
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": "uint8",
        "nodata": bands.IGNORE,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(folder / f"{tile['tile_id']}.tif", "w", compress="deflate", **profile, **place) as raster:
            raster.write(class_id, 1)
            raster.write_colormap(1, {i: (*rgb, 255) for i, rgb in enumerate(bands.class_rgb())})
            raster.set_band_description(1, "land cover")
            raster.update_tags(**{f"class_{i}": name for i, name in enumerate(bands.CLASSES)})


def _of_all(about: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lists of all processes, one after the other."""
    if jax.process_count() == 1:
        return about
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    padded = np.pad(text, (0, largest_of_all(len(text)) - len(text)), constant_values=ord(" "))
    return [tile for part in multihost_utils.process_allgather(padded) for tile in json.loads(part.tobytes())]


if __name__ == "__main__":
    run(main)
