"""Command: scores a trained network on a split; writes `evaluation_<split>.json` and the sums of each tile, `tiles_<split>.npz`.

python -m specsar_jax.evaluate --workdir runs/quickstart --split test

These are of the run's own data set and best checkpoint. A score on another data set, or of another checkpoint, gets files of its
own, `evaluation_<split>-<data set>-<checkpoint>.json`.
"""

import argparse

import tensorflow_datasets as tfds

from specsar_jax.accuracy import comparison, evaluation_files, metrics
from specsar_jax.accuracy.evaluation_files import Files, files_of, name_of
from specsar_jax.accuracy.figures import GROUPS, check_groups, figures_of
from specsar_jax.accuracy.legends import LEGENDS, OWN
from specsar_jax.devices.compilation import keep_compiled_programs
from specsar_jax.devices.sharding import start_devices
from specsar_jax.maps.tile_maps import whole_folder
from specsar_jax.trained import hub
from specsar_jax.trained.loading import find_bundle, load_trained
from specsar_jax.trained.run_files import split_file
from specsar_jax.trained.trained_network import Trained
from specsar_jax.training.evaluation import score_tiles
from tfds_dwplus.command_line import Parser, data_folder, path, run
from tfds_dwplus.files.opening import FLAG, FLAG_HELP
from tfds_dwplus.files.outputs import check_output, output_claimed
from tfds_dwplus.tiles.prepared import open_dataset


def main(argv: list[str]) -> None:
    """Parses the arguments, scores, prints a table and writes the files."""
    parser = _parser()
    args = parser.parse_args(argv)
    keep_compiled_programs()
    if args.output is not None:
        check_output(args.output, "--output")
    if args.prediction:
        if args.maps:
            parser.error("--maps are of a network: give --workdir alone")
        return comparison.command(
            args.prediction,
            args.legend,
            split=args.split,
            data_dir=args.data_dir,
            dataset=args.dataset,
            labels=args.labels,
            workdir=args.workdir,
            output=args.output,
            groups=args.groups,
            any_vrt_source=args.any_vrt_source,
        )
    if args.workdir is None or args.legend or args.labels:
        parser.error("give --workdir, or --prediction with --legend")
    if args.output is None and hub.is_address(args.workdir):
        parser.error("nothing can be written beside a network on a hub: give --output")
    return _score_network(args)


def _score_network(args: argparse.Namespace) -> None:
    """Scores a trained network on a split of a data set; prints a table and writes the figures and the sums of the tiles."""
    start_devices()
    trained = load_trained(args.workdir, args.checkpoint)
    data_dir = args.data_dir if args.data_dir is not None else trained.config.data.data_dir
    builder = open_dataset(data_dir, args.dataset or trained.config.data.name)
    check_groups(builder, args.groups)
    files = _files(args, trained, builder)
    if args.output is None:
        evaluation_files.check_free(files.figures, args.split)
    with output_claimed(files.figures, "--output") as final:
        with whole_folder(args.maps) as maps:
            tally, loss, named = score_tiles(trained, data_dir, name_of(builder.info.full_name), args.split, maps)
            if not tally.confusion.any():
                raise ValueError(
                    f"no labelled pixel where the sensors have data in the {len(tally)} tiles of split {args.split!r} of "
                    f"{named['dataset']}, so there is nothing to score; give another --split or --dataset"
                )
        figures = named | {"loss": loss} | figures_of(tally, trained.classes, trained.temperature, args.groups)
        evaluation_files.write(Files(final, files.tiles), figures, tally)
    print(metrics.table(figures))
    if args.output is None and files != (own := files_of(args.workdir, args.split)):
        left = f", {own.figures.name} is left as it is" if own.figures.is_file() else ""
        print(f"not the run's own data set and best checkpoint: written to {files.figures}{left}")


def _files(args: argparse.Namespace, trained: Trained, builder: tfds.core.DatasetBuilder) -> Files:
    """Returns the files to write: `output` and one beside it, else those in the workdir or beside the bundle."""
    if args.output is not None:
        tiles = split_file("tiles", args.split, "npz")
        return Files(args.output, args.output.with_name(f"{args.output.stem}.{tiles}"))
    checkpoint = "" if find_bundle(args.workdir) is not None else args.checkpoint
    best = not checkpoint or trained.step == evaluation_files.best_step(args.workdir)
    if best and evaluation_files.is_own_dataset(trained.config, trained.statistics, builder):
        return files_of(args.workdir, args.split)
    return files_of(args.workdir, args.split, name_of(builder.info.full_name), checkpoint)


def _parser() -> Parser:
    parser = Parser(
        "Scores a trained network, or third-party maps.",
        "python -m specsar_jax.evaluate --workdir runs/quickstart --split test",
    )
    parser.add_argument("--workdir", type=hub.network, help="workdir of a run, or an exported bundle")
    parser.add_argument("--split", default="test", help="split of the data set to score, in TFDS notation")
    parser.add_argument(
        "--data_dir", type=data_folder, help="folder of prepared data sets; if not given, that of the run's config"
    )
    parser.add_argument("--dataset", help="NAME of dynamic_world_plus/NAME; if not given, that of the run's config")
    parser.add_argument("--checkpoint", choices=("best", "latest"), default="best")
    parser.add_argument("--groups", nargs="*", default=GROUPS, help="columns of the data set to group accuracy by")
    parser.add_argument(
        "--output",
        type=path,
        help="JSON file; by default in the workdir, or beside the bundle or the first --prediction, under a name of its own for another "
        "data set or checkpoint than the run's. Tile sums go beside it",
    )
    parser.add_argument(
        "--prediction",
        type=path,
        action="append",
        default=[],
        help="score this map: a raster that covers the tiles, or a folder of <tile_id>.tif; may be repeated. A --workdir given "
        "too must have been scored on the split before; to compare it pixel by pixel, give its --maps as --prediction",
    )
    parser.add_argument(
        "--maps",
        type=path,
        help="folder to write the network's class map of each tile to, <tile_id>.tif; created if missing",
    )
    parser.add_argument(
        "--legend",
        action="append",
        default=[],
        help=f"legend of the --prediction's codes: {', '.join(LEGENDS)}, which are of Dynamic World's classes; {OWN}, a map of a network of "
        "the labels' classes; or a table of codes, codes.csv with the columns value,name, for labels of any classes",
    )
    parser.add_argument(
        "--labels",
        type=path,
        nargs="+",
        default=[],
        help="score the --prediction against published label tiles, by vote of their experts: zips or folders of PANGAEA 933475 "
        "or Zenodo 4766508",
    )
    parser.add_argument(FLAG, action="store_true", help=FLAG_HELP)
    return parser


if __name__ == "__main__":
    run(main)
