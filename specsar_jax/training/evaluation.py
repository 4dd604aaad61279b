"""Scores a network on labelled tiles: the network's pass over a split, the sums of each tile, and the temperature that calibrates it.

Enters: a trained network and a prepared data set. Leaves: a `Tally` and the figures of `evaluation_<split>.json`.
"""

import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from jax.sharding import Mesh
from jaxtyping import Array, Float

from specsar_jax.accuracy import calibration, evaluation_files, metrics
from specsar_jax.accuracy.evaluation_files import Files
from specsar_jax.accuracy.figures import figures_of, pixel_area_ha
from specsar_jax.accuracy.intervals import PIXEL_AREA
from specsar_jax.accuracy.tally import Tally
from specsar_jax.batches import dataset as datasets
from specsar_jax.batches import pipeline
from specsar_jax.batches.pipeline import Batch
from specsar_jax.batches.preprocess import Statistics, standardise
from specsar_jax.config import Config, Loss
from specsar_jax.devices.compilation import compile_ahead
from specsar_jax.devices.sharding import (
    by_tile,
    evaluation_mesh,
    for_mesh,
    is_first,
    of_all,
    put,
    replicated,
    shared_batch,
)
from specsar_jax.maps.tile_maps import write_tile_map
from specsar_jax.network.model import Variables
from specsar_jax.network.probabilities import log_probabilities, tempered
from specsar_jax.trained.trained_network import Trained
from specsar_jax.training import losses
from tfds_dwplus import bands
from tfds_dwplus.command_line import progress
from tfds_dwplus.tiles.prepared import open_dataset, read_split

Look = Callable[[Batch, Array], None]
"""Called with the first batch and its log-probabilities, to draw a few tiles."""

Sums = dict[str, np.ndarray]
"""Arrays with a row for each tile."""


def evaluate(
    trained: Trained, data_dir: Path | str, dataset: str, split: str, files: Files | None = None
) -> dict[str, Any]:
    """Returns the figures of a network on a split, with the keys of `evaluation_<split>.json`.

    Args:
        trained: the network.
        data_dir: folder of prepared data sets.
        dataset: NAME of dynamic_world_plus/NAME.
        split: in TFDS's notation.
        files: where the first process writes the figures and the sums of each tile, if anywhere.

    Raises:
        ValueError: no such data set or split, a sensor or bands that the network needs and the data set lacks, or other classes.
    """
    tally, loss, named = score_tiles(trained, data_dir, dataset, split)
    figures = named | {"loss": loss} | figures_of(tally, trained.classes, trained.temperature)
    if files is not None and is_first():
        evaluation_files.write(files, figures, tally)
    return figures


def score_tiles(
    trained: Trained, data_dir: Path | str, dataset: str, split: str, maps: Path | None = None
) -> tuple[Tally, float | None, dict[str, Any]]:
    """Returns the sums of each tile of a split, the mean loss of a labelled pixel, and what was scored: `dataset`, `split`, `step`,
    `tiles`, and the digests `data_sha256`, `weights_sha256` and `tiles_sha256`. Tiles whose record cannot be read are left out where
    the config says so. Raises as `evaluate`.

    `maps` is a folder for the class maps that are counted, `<tile_id>.tif`, on the grid of the tile's record.
    """
    alpha = losses.class_alpha(trained.statistics.label_pixels, trained.config.loss)
    how = {"config": trained.config.loss, "alpha": alpha, "temperature": trained.temperature, "maps": maps is not None}
    step = functools.partial(evaluation_step, **how, may_miss=trained.config.may_miss)
    sums, about, builder = _pass(trained, data_dir, dataset, split, step, f"evaluating {split}", maps)
    columns = {
        name: np.array([tile[name] for tile in about])
        for name in about[0]
        if name not in ("index", "tile_id", "transform")
    }
    columns[PIXEL_AREA] = np.array([pixel_area_ha(tile.get("crs", ""), tuple(tile["transform"])) for tile in about])
    tile_id = np.array([tile["tile_id"] for tile in about])
    tally = Tally(tile_id=tile_id, columns=columns, **metrics.on_host(sums))
    loss = metrics.plain(sums["loss"].astype(np.float64).sum() / max(int(tally.confusion.sum()), 1))
    named = {"dataset": builder.info.full_name, "split": split, "step": trained.step, "tiles": len(tally)}
    digests = {"data": datasets.data_sha256(builder), "weights": trained.sha256, "tiles": tally.sha256}
    return tally, loss, named | {f"{of}_sha256": digest for of, digest in digests.items()}


def calibrate(trained: Trained, data_dir: Path | str, dataset: str, split: str) -> dict[str, Any]:
    """Fits the temperature of a network's probabilities on a split; returns what `WORKDIR/calibration.json` holds.

    Returns:
        the keys of `calibration.best_temperature`, with `dataset`, `split`, `step` of the weights and `labelled_pixels`.

    Raises:
        ValueError: as `evaluate`.
    """

    def step(batch: dict[str, Array], log_p: Array) -> dict[str, Array]:
        return calibration.temperature_sums(batch["label"], log_p)

    sums, _, builder = _pass(trained, data_dir, dataset, split, step, f"calibrating on {split}")
    pixels = int(sums["pixels"].sum())
    nll, slope = (sums[name].sum(axis=(0, 2), dtype=np.float64) for name in ("nll", "slope"))
    named = {"dataset": builder.info.full_name, "split": split, "step": trained.step, "labelled_pixels": pixels}
    return named | calibration.best_temperature(pixels, nll, slope)


def make_score(
    config: Config, statistics: Statistics, mesh: Mesh, shardings: Any = None
) -> Callable[..., dict[str, Any]]:
    """Returns a function from variables and batches to the figures of their confusion matrix and the loss. It compiles once and
    serves every evaluation of a run.

    `shardings` says where the variables lie; on every device if not given.
    """
    run_over = make_pass(config, statistics, mesh, score_step(config, statistics), shardings)

    def score(variables: Variables, batches: Iterator[Batch], look: Look = lambda *_: None) -> dict[str, Any]:
        confusion, loss = np.zeros((len(statistics.classes),) * 2, np.int64), 0.0
        for sums in run_over(variables, batches, look):
            confusion += sums["confusion"].sum(axis=0, dtype=np.int64)
            loss += float(sums["loss"].sum(dtype=np.float64))
        return {"loss": loss / max(int(confusion.sum()), 1)} | metrics.summarise(confusion, statistics.classes)

    return score


def score_step(config: Config, statistics: Statistics) -> Callable[[dict[str, Array], Array], dict[str, Array]]:
    """Returns what `make_score` computes of a batch and its log-probabilities."""
    alpha = losses.class_alpha(statistics.label_pixels, config.loss)
    return functools.partial(evaluation_step, config=config.loss, alpha=alpha, may_miss=config.may_miss)


def make_pass(
    config: Config,
    statistics: Statistics,
    mesh: Mesh,
    of: Callable[[dict[str, Array], Array], dict[str, Array]],
    shardings: Any = None,
) -> Callable[..., Iterator[Sums]]:
    """Returns a function that runs the network over batches and yields what `of` makes of each batch and its log-probabilities, on
    the host of every process.
    """
    network, sums = pass_programs(config, statistics, mesh, of, shardings)
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


def pass_programs(
    config: Config,
    statistics: Statistics,
    mesh: Mesh,
    of: Callable[[dict[str, Array], Array], dict[str, Array]],
    shardings: Any = None,
) -> tuple[Any, Any]:
    """Returns the programs of `make_pass`, each a `jax.jit`: (variables, s2, s1) -> log-probabilities, and `of` of batch and
    log-probabilities.

    The network is a program of its own: so the same compiled program serves scores, calibration and validation.
    """
    network = jax.jit(
        for_mesh(
            lambda variables, s2, s1: log_probabilities(
                variables,
                *standardise(s2, s1, statistics, config.data.scaling, config.may_miss),
                config=config.model,
                average_turns=config.predict.average_turns,
            ),
            mesh,
        ),
        in_shardings=(shardings or replicated(mesh), by_tile(mesh), by_tile(mesh)),
        out_shardings=by_tile(mesh),
    )
    return network, jax.jit(of, in_shardings=(by_tile(mesh), by_tile(mesh)), out_shardings=replicated(mesh))


def _pass(
    trained: Trained,
    data_dir: Path | str,
    dataset: str,
    split: str,
    of: Callable[..., dict[str, Array]],
    doing: str,
    maps: Path | None = None,
) -> tuple[Sums, list[dict[str, Any]], tfds.core.DatasetBuilder]:
    """Runs the network over a split. Returns what `of` makes of each tile, what the data set says of each, and the data set.
    The `class_id` of each tile is written to the folder `maps`, batch by batch.
    """
    builder = open_dataset(data_dir, dataset)
    config = trained.config
    datasets.check_sensors(builder, config.model.sensors, config.may_miss)
    datasets.check_classes(builder, trained.classes)
    if is_first() and (note := datasets.other_backscatter(builder, trained.statistics, config.model.sensors)):
        print(f"note: {note}", file=sys.stderr)
    source = read_split(builder, split)
    mesh = evaluation_mesh(config.mesh)
    held = datasets.dataset_bands(builder)
    rasters = pipeline.select(config.data.s2_bands, held, config.model.sensors, may_miss=config.may_miss)
    batch_size, rows = shared_batch(config.train.eval_batch_size, mesh)
    variables = jax.device_put(jax.tree.map(np.asarray, trained.variables), replicated(mesh))
    run_over = make_pass(config, trained.statistics, mesh, of)
    about: list[dict[str, Any]] = []

    def batches() -> Iterator[Batch]:
        for batch in pipeline.evaluation_batches(source, rasters, config.data, batch_size, rows):
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
                        write_tile_map(maps, tile, class_id[tile["index"] % batch_size], trained.classes)
            parts.append(sums)
            bar.update()
    about = sorted(of_all(about), key=lambda tile: tile["index"])
    tiles = [tile["index"] for tile in about]
    sums = {name: np.concatenate([part[name] for part in parts])[tiles] for name in parts[0]}
    return sums, about, builder


def evaluation_step(
    batch: dict[str, Array],
    log_p: Float[Array, "batch height width class"],
    *,
    config: Loss,
    alpha: tuple[float, ...],
    temperature: float = 1.0,
    maps: bool = False,
    may_miss: tuple[str, ...] = (),
) -> dict[str, Array]:
    """Returns the sums of each tile of a batch: those of `metrics.tile_sums`, of the probabilities at a temperature, and `loss`, float32,
    summed over labelled pixels, of the network as it was trained. With `maps` also `class_id`, uint8 [batch, height, width], the
    prediction that is counted, 255 where a sensor has no data, or all sensors that the network may miss.

    Args:
        batch: `s2`, `s1`, `label`, `expert` as the pipeline gives them.
        log_p: logarithms of the class probabilities.
        config: of the loss.
        alpha: weight of each class.
        temperature: of `specsar_jax.accuracy.calibration`.
        maps: whether the class maps are wanted too.
        may_miss: `Config.may_miss`.
    """

    def loss(log_p: Array, label: Array, expert: Array) -> Array:
        one = jnp.ones((), jnp.int32)
        return losses.pixel_loss(log_p[None], label[None], alpha, config=config, expert=expert[None], pixels=one)

    seen = {"s2": (batch["s2"] != bands.S2_NODATA).all(axis=-1), "s1": jnp.isfinite(batch["s1"]).all(axis=-1)}
    needed = [mask for sensor, mask in seen.items() if sensor not in may_miss]
    valid = functools.reduce(jnp.logical_and, needed) if needed else seen["s2"] | seen["s1"]
    calibrated = tempered(log_p, temperature)
    sums = metrics.tile_sums(batch["label"], calibrated, valid)
    sums["loss"] = jax.vmap(loss)(log_p, batch["label"], batch["expert"])
    if maps:
        class_id = jnp.argmax(metrics.finite(calibrated), axis=-1).astype(jnp.uint8)
        sums["class_id"] = jnp.where(valid, class_id, jnp.uint8(bands.IGNORE))
    return sums
