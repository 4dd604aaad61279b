"""Command: a folder of tiles, or simulated landscapes, to the ArrayRecord data set `dynamic_world_plus/NAME`.

python -m tfds_dwplus.prepare --tiles tiles/ --name mine --data_dir data
python -m tfds_dwplus.prepare --simulated --name simulated --data_dir data
"""

import contextlib
import io
import re
import tempfile
from pathlib import Path

import tensorflow_datasets as tfds

from tfds_dwplus.command_line import Parser, run
from tfds_dwplus.dynamic_world_plus_dataset_builder import Builder, DynamicWorldPlusConfig


def main(argv: list[str]) -> None:
    """Parses the arguments and prepares the data set."""
    parser = Parser(
        "Packs tiles into a data set.", "python -m tfds_dwplus.prepare --tiles tiles/ --name mine --data_dir data"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--tiles", type=Path, help="folder with s2/, s1/ (or one of the two), label/ and tiles.csv")
    source.add_argument("--simulated", action="store_true", help="make up landscapes instead")
    parser.add_argument("--name", required=True, help="the data set becomes dynamic_world_plus/NAME")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of prepared data sets")
    parser.add_argument(
        "--tile_size_px", type=int, help="smaller tiles are padded; 510 for --tiles, 128 for --simulated"
    )
    parser.add_argument("--s2_bands", default="", help="bands to keep, as B2,B3,B4; all of the first tile if not given")
    parser.add_argument("--tiles_per_split", default="train=64,validation=16,test=16", help="with --simulated")
    parser.add_argument("--seed", type=int, default=0, help="with --simulated")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set of this name")
    args = parser.parse_args(argv)
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", args.name):
        raise ValueError(f"--name is {args.name!r}, expected letters, digits, '_', '-' and '.' only")
    size = args.tile_size_px or (128 if args.simulated else 510)
    if size < 1:
        raise ValueError(f"--tile_size_px is {size}, expected a positive number of pixels")
    config = DynamicWorldPlusConfig(
        name=args.name,
        description="SIMULATED landscapes, no measured pixel." if args.simulated else f"Tiles of {args.tiles}.",
        tile_size_px=size,
        tiles=args.tiles,
        s2_bands=tuple(name for name in args.s2_bands.split(",") if name),
        simulated_tiles=_tiles_per_split(args.tiles_per_split) if args.simulated else (),
        simulation_seed=args.seed,
    )
    prepare(config, args.data_dir, overwrite=args.overwrite)


def prepare(config: DynamicWorldPlusConfig, data_dir: Path, *, overwrite: bool = False) -> None:
    """Writes the data set of `config` under `data_dir`, whole or not at all; leaves an equal one as it is.

    Raises:
        ValueError: a tile is not as it should be, or another data set has the name.
    """
    origin = config.origin()
    builder = Builder(config=config, data_dir=data_dir, file_format="array_record")
    if builder.data_path.exists() and not overwrite:
        found = builder.info.metadata.get("origin")
        if found != origin:
            raise ValueError(
                f"{builder.data_path} holds another data set (made from {found}); give another --name, or --overwrite"
            )
        print(f"{builder.data_path} is prepared already")
        return
    mode = tfds.GenerateMode.REUSE_CACHE_IF_EXISTS if overwrite else tfds.GenerateMode.REUSE_DATASET_IF_EXISTS
    print(f"packing {builder.data_path}")
    try:
        # TFDS says that it downloads, and wants a folder for that: it does not, and needs none.
        with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                download_dir=downloads, download_config=tfds.download.DownloadConfig(download_mode=mode)
            )
    except BaseException:
        for folder in Path(builder.data_path).parents[:2]:
            with contextlib.suppress(OSError):  # not there, or in use by other data sets
                folder.rmdir()
        raise
    sizes = ", ".join(f"{split} {info.num_examples}" for split, info in builder.info.splits.items())
    held = builder.info.metadata["sensors"]
    print(
        f"{builder.data_path}: {sizes} tiles" + (f", {held[0]} only: the tiles have no other" if len(held) == 1 else "")
    )


def _tiles_per_split(text: str) -> tuple[tuple[str, int], ...]:
    """'train=64,test=16' -> (("train", 64), ("test", 16))."""
    pairs = [part.partition("=") for part in text.split(",")]
    for split, _, count in pairs:
        if not re.fullmatch(r"\w+", split) or not count.isdigit() or int(count) < 1:
            raise ValueError(f"--tiles_per_split is {text!r}, expected positive counts as in train=64,test=16")
    return tuple((split, int(count)) for split, _, count in pairs)


if __name__ == "__main__":
    run(main)
