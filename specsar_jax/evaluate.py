"""Command: scores a trained network on a split; writes `evaluation_<split>.json` and the sums of each tile, `tiles_<split>.npz`.

python -m specsar_jax.evaluate --workdir runs/quickstart --split test
"""

import argparse
from pathlib import Path

from specsar_jax.accuracy import comparison, metrics
from specsar_jax.accuracy.figures import GROUPS, check_groups, figures_of
from specsar_jax.accuracy.legends import LEGENDS
from specsar_jax.devices.compilation import keep_compiled_programs
from specsar_jax.maps.tile_maps import whole_folder
from specsar_jax.trained import hub
from specsar_jax.trained.loading import load_trained
from specsar_jax.trained.run_files import split_file
from specsar_jax.training.evaluation import score_tiles
from tfds_dwplus.command_line import Parser, check_output, run, write_json
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
        )
    if args.workdir is None or args.legend or args.labels:
        parser.error("give --workdir, or --prediction with --legend")
    if args.output is None and hub.is_address(args.workdir):
        parser.error("nothing can be written beside a network on a hub: give --output")
    return _score_network(args)


def _score_network(args: argparse.Namespace) -> None:
    """Scores a trained network on a split of a data set; prints a table and writes the figures and the sums of the tiles."""
    trained = load_trained(args.workdir, args.checkpoint)
    data_dir = args.data_dir if args.data_dir is not None else trained.config.data.data_dir
    dataset = args.dataset or trained.config.data.name
    check_groups(open_dataset(data_dir, dataset), args.groups)
    with whole_folder(args.maps) as maps:
        tally, loss, named = score_tiles(trained, data_dir, dataset, args.split, maps)
        if not tally.confusion.any():
            raise ValueError(
                f"no labelled pixel where the sensors have data in the {len(tally)} tiles of split {args.split!r} of "
                f"{named['dataset']}, so there is nothing to score; give another --split or --dataset"
            )
    figures = named | {"loss": loss} | figures_of(tally, trained.temperature, args.groups)
    figures_path, tiles_path = _output_paths(args.workdir, args.split, args.output)
    tally.write(tiles_path)
    write_json(figures_path, figures)
    print(metrics.table(figures))


def _output_paths(workdir: Path, split: str, output: Path | None) -> tuple[Path, Path]:
    """Returns the paths of figures and tile sums: `output` and beside it, else in the workdir or beside the bundle."""
    figures, tiles = split_file("evaluation", split, "json"), split_file("tiles", split, "npz")
    if output is not None:
        return output, output.with_name(f"{output.stem}.{tiles}")
    if workdir.is_dir():
        return workdir / figures, workdir / tiles
    return workdir.with_name(f"{workdir.stem}.{figures}"), workdir.with_name(f"{workdir.stem}.{tiles}")


def _parser() -> Parser:
    parser = Parser(
        "Scores a trained network, or third-party maps.",
        "python -m specsar_jax.evaluate --workdir runs/quickstart --split test",
    )
    parser.add_argument("--workdir", type=Path, help="workdir of a run, or an exported bundle")
    parser.add_argument("--split", default="test", help="split of the data set to score, in TFDS notation")
    parser.add_argument("--data_dir", help="folder of prepared data sets; if not given, that of the run's config")
    parser.add_argument("--dataset", help="NAME of dynamic_world_plus/NAME; if not given, that of the run's config")
    parser.add_argument("--checkpoint", choices=("best", "latest"), default="best")
    parser.add_argument("--groups", nargs="*", default=GROUPS, help="columns of the data set to group accuracy by")
    parser.add_argument(
        "--output",
        type=Path,
        help="JSON file; by default in the workdir, or beside the bundle or the first --prediction. Tile sums go beside it",
    )
    parser.add_argument(
        "--prediction",
        type=Path,
        action="append",
        default=[],
        help="score this map: a raster that covers the tiles, or a folder of <tile_id>.tif; may be repeated. A --workdir given "
        "too must have been scored on the split before; to compare it pixel by pixel, give its --maps as --prediction",
    )
    parser.add_argument(
        "--maps",
        type=Path,
        help="folder to write the network's class map of each tile to, <tile_id>.tif; created if missing",
    )
    parser.add_argument(
        "--legend", action="append", default=[], help=f"legend of the --prediction's codes: {', '.join(LEGENDS)}"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        nargs="+",
        default=[],
        help="score the --prediction against published label tiles, by vote of their experts: zips or folders of PANGAEA 933475 "
        "or Zenodo 4766508",
    )
    return parser


if __name__ == "__main__":
    run(main)
