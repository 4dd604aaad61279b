"""Command: write a contact sheet of a prepared data set as PNG.

python -m tfds_dwplus.look --data_dir data --name mine --split train --output sheet.png

Enters: a prepared data set. Leaves: a picture of randomly chosen tiles and a histogram of the classes of their split.
`tiles.contact_sheet` draws it.
"""

from tfds_dwplus.command_line import Parser, data_folder, path, run
from tfds_dwplus.files.outputs import output_claimed, written_whole
from tfds_dwplus.tiles.contact_sheet import contact_sheet
from tfds_dwplus.tiles.prepared import open_dataset, read_split
from tfds_dwplus.tiles.tile_pictures import any_letters, sample_tiles

_DOTS_PER_INCH = 150
_MOST_TILES = 100


def main(argv: list[str]) -> None:
    """Parses the arguments and draws the sheet."""
    parser = Parser(
        "Draws some tiles of a prepared data set, and the histogram of its classes.",
        "python -m tfds_dwplus.look --data_dir data --name mine --split train --output sheet.png",
    )
    parser.add_argument("--data_dir", type=data_folder, required=True, help="folder of prepared data sets")
    parser.add_argument("--name", required=True, help="name of the data set dynamic_world_plus/NAME")
    parser.add_argument("--split", default="train", help="split, or part of a split, such as train[:10%%]")
    parser.add_argument("--output", type=path, required=True, help="PNG to write")
    parser.add_argument("--tiles", type=int, default=12, help=f"number of tiles to draw, 1 to {_MOST_TILES}")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the choice of tiles")
    args = parser.parse_args(argv)
    if not 1 <= args.tiles <= _MOST_TILES:
        raise ValueError(f"--tiles is {args.tiles}, expected 1 to {_MOST_TILES}")
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}, expected 0 or a positive number")
    with output_claimed(args.output, "--output") as final:
        builder = open_dataset(args.data_dir, args.name)
        source = read_split(builder, args.split)
        figure = contact_sheet(builder, args.split, source, sample_tiles(len(source), args.tiles, args.seed))
        with written_whole(final) as partial, any_letters():
            figure.savefig(partial, dpi=_DOTS_PER_INCH, format="png")
    print(f"{args.output}: {min(args.tiles, len(source))} of the {len(source)} tiles of {args.split}")


if __name__ == "__main__":
    run(main)
