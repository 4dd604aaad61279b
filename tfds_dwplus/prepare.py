"""Command: pack a folder of tiles, or simulated landscapes, into the ArrayRecord data set `dynamic_world_plus/NAME`.

python -m tfds_dwplus.prepare --tiles tiles/ --name mine --data_dir data
python -m tfds_dwplus.prepare --simulated --name simulated --data_dir data

The data set is written to a temporary folder `.preparing_NAME` and moved when it is complete. An older one of the name, with
--overwrite, stands until then. What a killed run left is put right by the next one, and by whatever reads the data set.
"""

import collections
import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from tfds_dwplus import bands
from tfds_dwplus.command_line import Parser, data_folder, local_path, path, run
from tfds_dwplus.dynamic_world_plus_dataset_builder import Builder, DynamicWorldPlusConfig
from tfds_dwplus.files import buckets
from tfds_dwplus.files.workplaces import recover, take_place, workplace
from tfds_dwplus.tiles.labelling.annotators import not_accuracy
from tfds_dwplus.tiles.prepared import workplace_of


def main(argv: list[str]) -> None:
    """Parses the arguments and prepares the data set."""
    parser = Parser(
        "Packs tiles into a data set.", "python -m tfds_dwplus.prepare --tiles tiles/ --name mine --data_dir data"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--tiles",
        type=path,
        help="folder with s2/, s1/ (or one of the two), label/ and tiles.csv; probability/ is packed too if it is there, and classes.csv "
        "(code,name,colour) has the classes if they are not Dynamic World's",
    )
    source.add_argument("--simulated", action="store_true", help="simulate landscapes instead")
    parser.add_argument("--name", required=True, help="the data set becomes dynamic_world_plus/NAME")
    parser.add_argument("--data_dir", type=data_folder, required=True, help="folder of prepared data sets")
    parser.add_argument(
        "--tile_size_px", type=int, help="smaller tiles are padded; 510 for --tiles, 128 for --simulated"
    )
    parser.add_argument("--cut", action="store_true", help="cut larger tiles into squares of this size, ID_ROW_COLUMN")
    parser.add_argument("--s2_bands", default="", help="bands to keep, as B2,B3,B4; all of the first tile if not given")
    parser.add_argument(
        "--vote", choices=bands.VOTES, help="vote for the label of held-out tiles; if not given, label/"
    )
    parser.add_argument(
        "--annotators",
        default="",
        help="keep train tiles of these annotators only, as expert,non_expert; network is any network",
    )
    parser.add_argument("--hemispheres", default="", help="keep tiles of these hemispheres only, EH or WH")
    parser.add_argument("--biomes", default="", help="keep tiles of these biomes only, as 1,4,14")
    parser.add_argument(
        "--validation_fraction", type=float, help="cut this share out of train, by location, as split 'validation'"
    )
    parser.add_argument(
        "--tiles_per_split", default="train=64,validation=16,test=16", help="number of tiles for --simulated"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of --simulated and --validation_fraction")
    parser.add_argument("--beam_args", help="run on Apache Beam, as --beam_args='--runner=FlinkRunner ...'")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set of this name")
    args = parser.parse_args(argv)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", args.name):
        raise ValueError(
            f"--name is {args.name!r}, expected letters, digits, '_', '-' and '.' only, not '.' or '-' first"
        )
    size = args.tile_size_px if args.tile_size_px is not None else (128 if args.simulated else 510)
    if size < 1:
        raise ValueError(f"--tile_size_px is {size}, expected a positive number of pixels")
    if args.validation_fraction is not None and not 0 < args.validation_fraction < 1:
        raise ValueError(f"--validation_fraction is {args.validation_fraction:g}, expected a share between 0 and 1")
    biomes = _names(args.biomes)
    if not all(biome.isdigit() for biome in biomes):
        raise ValueError(f"--biomes is {args.biomes!r}, expected numbers as in 1,4,14")
    config = DynamicWorldPlusConfig(
        name=args.name,
        description="SIMULATED landscapes, no measured pixel."
        if args.simulated
        else f"Tiles of {buckets.given(args.tiles)}.",
        tile_size_px=size,
        cut=args.cut,
        tiles=args.tiles,
        s2_bands=_names(args.s2_bands),
        vote=args.vote or "",
        annotators=_names(args.annotators),
        hemispheres=_names(args.hemispheres),
        biomes=tuple(map(int, biomes)),
        validation_fraction=args.validation_fraction or 0.0,
        split_seed=args.seed,
        simulated_tiles=_tiles_per_split(args.tiles_per_split) if args.simulated else (),
        simulation_seed=args.seed,
    )
    prepare(config, args.data_dir, overwrite=args.overwrite, beam_args=args.beam_args)


def prepare(
    config: DynamicWorldPlusConfig, data_dir: Path, *, overwrite: bool = False, beam_args: str | None = None
) -> None:
    """Writes the data set of `config` under `data_dir`, completely or not at all. An equal data set is left as it is.

    Raises:
        ValueError: a tile is invalid, or another data set has the name.
    """
    data_dir = local_path(data_dir, whole=False)
    origin = config.origin()
    place = data_dir / "dynamic_world_plus"
    buckets.fetch(place / config.name)
    recover(workplace_of(place, config.name), place / config.name)
    there = Builder(config=config, data_dir=data_dir)
    target = Path(there.data_path)
    if target.exists() and not overwrite:
        found = there.info.metadata.get("origin")
        if found != origin:
            raise ValueError(
                f"{target} holds another data set (made from {found}); give another --name, or --overwrite"
            )
        print(f"{target} is prepared already")
        return
    beam = _beam_options(beam_args) if beam_args is not None else {}
    print(f"packing {target}")
    place.mkdir(parents=True, exist_ok=True)
    try:
        with workplace(workplace_of(place, config.name), target) as work:
            builder = Builder(config=config, data_dir=work)
            with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints that it downloads, but it does not
                builder.download_and_prepare(
                    download_dir=work / "downloads", download_config=tfds.download.DownloadConfig(**beam)
                )
            take_place(Path(builder.data_path), target, work)
    finally:
        for parent in (target.parent, place):
            with contextlib.suppress(OSError):  # not empty: other data sets use it
                parent.rmdir()
    sizes = ", ".join(f"{split} {info.num_examples}" for split, info in builder.info.splits.items())
    held = builder.info.metadata["sensors"]
    print(f"{target}: {sizes} tiles" + (f", {held[0]} only: the tiles have no other sensor" if len(held) == 1 else ""))
    if (classes := config.classes()) != bands.DYNAMIC_WORLD:
        print(f"{len(classes)} classes of its own: {', '.join(classes.names)}")
    labelled_by: collections.Counter[str] = collections.Counter()
    for counts in builder.info.metadata["labelled_by"].values():
        labelled_by.update(counts)
    if said := not_accuracy(labelled_by):
        print(f"note: {said}")


def _beam_options(text: str) -> dict[str, Any]:
    """Parses Beam's options into settings of TFDS's DownloadConfig."""
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise ValueError("--beam_args needs Apache Beam; pip install 'specsar_jax[beam]'") from None
    return {"beam_options": PipelineOptions(shlex.split(text))}


def _names(text: str) -> tuple[str, ...]:
    """'a,b' -> ("a", "b")."""
    return tuple(name for name in text.split(",") if name)


def _tiles_per_split(text: str) -> tuple[tuple[str, int], ...]:
    """'train=64,test=16' -> (("train", 64), ("test", 16))."""
    pairs = [part.partition("=") for part in text.split(",")]
    for split, _, count in pairs:
        if not re.fullmatch(r"\w+", split) or not count.isdigit() or int(count) < 1:
            raise ValueError(f"--tiles_per_split is {text!r}, expected positive counts as in train=64,test=16")
    return tuple((split, int(count)) for split, _, count in pairs)


if __name__ == "__main__":
    run(main)
