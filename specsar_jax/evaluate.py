"""Command: scores a trained network on a split and writes `evaluation_<split>.json`.

python -m specsar_jax.evaluate --workdir runs/quickstart --split test
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from specsar_jax import losses, metrics, pipeline
from specsar_jax.checkpoints import Trained, load_trained, write_json
from specsar_jax.compilation import compile_ahead, keep_compiled_programs
from specsar_jax.config import Config
from specsar_jax.model import Variables
from specsar_jax.pipeline import Batch
from specsar_jax.preprocess import Statistics
from specsar_jax.sharding import by_tile, is_first, make_mesh, put, replicated, shared_batch
from specsar_jax.train_state import evaluation_step
from tfds_dwplus import bands
from tfds_dwplus.command_line import Parser, progress, run
from tfds_dwplus.prepared import open_dataset, read_split

Score = Callable[..., dict[str, Any]]
"""(variables, batches, called after each batch) -> figures."""


def main(argv: list[str]) -> None:
    """Parses the arguments, scores, prints a table and writes the JSON file."""
    parser = Parser(
        "Scores a trained network.", "python -m specsar_jax.evaluate --workdir runs/quickstart --split test"
    )
    parser.add_argument("--workdir", type=Path, required=True, help="of specsar_jax.train, or an exported bundle")
    parser.add_argument("--split", default="test", help="of the data set, in TFDS's notation")
    parser.add_argument("--data_dir", help="folder of prepared data sets; the run's own if not given")
    parser.add_argument("--dataset", help="NAME of dynamic_world_plus/NAME; the run's own if not given")
    parser.add_argument("--checkpoint", choices=("best", "latest"), default="best")
    parser.add_argument("--output", type=Path, help="JSON file; in the workdir, or beside the bundle, if not given")
    args = parser.parse_args(argv)
    keep_compiled_programs()
    trained = load_trained(args.workdir, args.checkpoint)
    data_dir = args.data_dir if args.data_dir is not None else trained.config.data.data_dir
    figures = evaluate(trained, data_dir, args.dataset or trained.config.data.name, args.split)
    name = split_file("evaluation", args.split, "json")
    beside = args.workdir / name if args.workdir.is_dir() else args.workdir.with_name(f"{args.workdir.stem}.{name}")
    write_json(args.output or beside, figures)
    print(metrics.table(figures))


def split_file(what: str, split: str, ending: str) -> str:
    """Name of a file about a split: 'evaluation_test.json'; what a file name does not bear becomes '_'."""
    return f"{what}_{''.join(c if c.isalnum() else '_' for c in split)}.{ending}"


def evaluate(trained: Trained, data_dir: str, dataset: str, split: str) -> dict[str, Any]:
    """Figures of a network on a split, with the keys that `evaluation_<split>.json` has.

    Raises:
        ValueError: no such data set or split, or a sensor or bands that the network needs and the data set lacks.
    """
    builder = open_dataset(data_dir, dataset)
    pipeline.check_sensors(builder, trained.config.model.sensors)
    source = read_split(builder, split)
    mesh = make_mesh()
    config = trained.config
    rasters = pipeline.select(config.data.s2_bands, pipeline.dataset_bands(builder), config.model.sensors)
    batch_size, rows = shared_batch(config.train.eval_batch_size, mesh)
    batches = pipeline.evaluation_batches(source, rasters, config, batch_size, rows)
    total = -(-len(source) // batch_size)
    variables = jax.device_put(jax.tree.map(np.asarray, trained.variables), replicated(mesh))
    with progress(
        total=total, desc=f"evaluating {split}", unit="batch", leave=False, disable=not is_first() or None
    ) as bar:
        figures = make_score(config, trained.statistics, mesh)(variables, batches, bar.update)
    named = {"dataset": builder.info.full_name, "split": split, "step": trained.step, "tiles": len(source)}
    return named | figures


def make_score(config: Config, statistics: Statistics, mesh: Mesh, shardings: Any = None) -> Score:
    """A function from variables and batches to figures; compiled once, to be called at every evaluation.

    `shardings` says where the variables lie; on every device if not given.
    """
    alpha = losses.class_alpha(statistics.label_pixels, config.loss)
    step = jax.jit(
        functools.partial(evaluation_step, config=config, statistics=statistics, alpha=alpha),
        in_shardings=(shardings or replicated(mesh), by_tile(mesh)),
        out_shardings=replicated(mesh),
    )

    compiled = None

    def score(
        variables: Variables, batches: Iterator[Batch], advance: Callable[[], Any] = lambda: None
    ) -> dict[str, Any]:
        nonlocal compiled
        confusion, loss = np.zeros((len(bands.CLASSES),) * 2, np.int64), 0.0
        for batch in batches:
            batch = put(batch, mesh)
            compiled = compiled or compile_ahead(step, variables, batch)
            sums = jax.device_get(compiled(variables, batch))
            confusion += sums["confusion"]
            loss += float(sums["loss"])
            advance()
        return {"loss": loss / max(int(confusion.sum()), 1)} | metrics.summarise(confusion)

    return score


if __name__ == "__main__":
    run(main)
