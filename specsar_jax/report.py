"""Command: writes one HTML page about a run, or several runs side by side: accuracy, uncertainty, errors and settings.

    python -m specsar_jax.report --workdir runs/quickstart
    python -m specsar_jax.report --workdir runs/a --workdir runs/b --output compared.html

Enters: workdirs, or exported bundles, with an evaluation of the split, and the data set for the pictures. Leaves: a self-contained page. Figures come
from `evaluation_<split>.json` and the sums in `tiles_<split>.npz`, which are written first if missing; apart from that, the network
is run only on the tiles that are shown.
"""

import sys

from specsar_jax import evaluate
from specsar_jax.devices.compilation import keep_compiled_programs
from specsar_jax.devices.sharding import start_devices
from specsar_jax.pages.report_page import render
from specsar_jax.pages.runs import mixtures, read_runs, without_sums
from tfds_dwplus.command_line import Parser, data_folder, path
from tfds_dwplus.command_line import run as run_command
from tfds_dwplus.files.addresses import shown_in
from tfds_dwplus.files.outputs import check_output, output_claimed, write_whole


def main(argv: list[str]) -> None:
    """Parses the arguments and writes the page."""
    parser = Parser(
        "Writes one self-contained HTML page about a run, or several runs side by side.",
        "python -m specsar_jax.report --workdir runs/quickstart",
    )
    parser.add_argument(
        "--workdir",
        type=path,
        action="append",
        required=True,
        help="workdir of a run, or an exported bundle; repeatable",
    )
    parser.add_argument("--split", default="test", help="split that was evaluated, in TFDS notation")
    parser.add_argument(
        "--output", type=path, help="HTML file; if not given, report.html in the first workdir, or beside the bundle"
    )
    parser.add_argument(
        "--data_dir", type=data_folder, help="folder of prepared data sets; if not given, that of the run's config"
    )
    parser.add_argument(
        "--dataset", default="", help="NAME of the data set that was evaluated; if not given, each run's own"
    )
    parser.add_argument(
        "--tiles", type=int, default=6, help="number of worst, of best and of random tiles to show; 0 for none"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random tiles")
    args = parser.parse_args(argv)
    if not 0 <= args.tiles <= 24:
        raise ValueError(f"--tiles is {args.tiles}, expected 0 to 24")
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}, expected 0 or a positive number")
    if args.output:
        check_output(args.output, "--output")
    start_devices()
    keep_compiled_programs()
    for tiles, arguments in without_sums(args.workdir, args.split, args.data_dir, args.dataset):
        print(f"{tiles.parent} has no {tiles.name}: the network is run over {args.split} again", file=sys.stderr)
        evaluate.main(arguments)
    runs = read_runs(args.workdir, args.split, args.data_dir, args.dataset)
    for line in mixtures(runs):
        print(f"note: {line}", file=sys.stderr)
    first = args.workdir[0]
    output = args.output or (first / "report.html" if first.is_dir() else first.with_name(f"{first.stem}.report.html"))
    with output_claimed(output, "--output") as final:
        page = render(
            runs,
            args.split,
            args.tiles,
            args.seed,
            command=["python", "-m", "specsar_jax.report", *map(shown_in, argv)],
        )
        write_whole(final, page)
    print(f"{output}: {len(page.encode()) / 1e6:.1f} MB, open it in a browser")


if __name__ == "__main__":
    run_command(main)
