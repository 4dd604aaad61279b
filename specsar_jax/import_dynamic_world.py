"""Command: makes a bundle of Google's published Dynamic World network.

    git clone https://github.com/google/dynamicworld
    python -m specsar_jax.import_dynamic_world --saved_model dynamicworld/model/forward --output dynamic_world.safetensors

Enters: the SavedModel, whose variables are read without TensorFlow. Leaves: a bundle as `specsar_jax.export` writes it, which predict,
evaluate, map_region, view, report, export and `specsar_jax.load` take in place of a workdir.
"""

import dataclasses
import sys
from pathlib import Path

from specsar_jax.batches.preprocess import SensorStatistics, Statistics
from specsar_jax.config import Config, Data, Loss, Predict, Train, model_preset
from specsar_jax.network import dynamic_world
from specsar_jax.trained.bundle import write_bundle
from specsar_jax.trained.saved_variables import read_variables
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands
from tfds_dwplus.command_line import Parser, path, run
from tfds_dwplus.files.outputs import output_claimed

ORIGIN = (
    "Dynamic World (Brown et al. 2022, Scientific Data 9, 251), Google in partnership with the World Resources Institute; "
    "SavedModel model/forward of github.com/google/dynamicworld"
)
LICENCE = "Apache-2.0"

PUBLISHED_SHA256 = "d5dc280bb645da7b4be144a69e4c26c11bb8f38c5402869739c8ac8acd3faf4b"
"""Of the published weights, as `Trained.sha256` gives it: of others, nobody knows the authors."""

WINDOW_PX = 512
"""Side of the windows of a scene, pixels. Smaller ones compute more of it twice; larger ones take more memory, 0.6 GB at 1024."""


def main(argv: list[str]) -> None:
    """Parses the arguments and writes the bundle."""
    parser = Parser(
        "Makes a bundle of Google's published Dynamic World network, which all commands take in place of a workdir.",
        "python -m specsar_jax.import_dynamic_world --saved_model dynamicworld/model/forward --output dynamic_world.safetensors",
    )
    parser.add_argument(
        "--saved_model", type=path, required=True, metavar="DIR", help="model/forward of github.com/google/dynamicworld"
    )
    parser.add_argument("--output", type=path, required=True, help="bundle to write, .safetensors")
    args = parser.parse_args(argv)
    with output_claimed(args.output, "--output") as final:
        trained = read_published(args.saved_model)
        write_bundle(trained, final)
    print(f"wrote {args.output}")
    if trained.origin:
        print(f"weights: {trained.origin}; {trained.licence}")
    else:
        print(
            "note: these are not the published weights, so the bundle names no authors and no licence", file=sys.stderr
        )


def read_published(folder: Path) -> Trained:
    """Returns the network of a SavedModel with the variables of Dynamic World; its authors and licence if they are the published ones.

    Raises:
        ValueError: the folder is none, or of another network.
    """
    config = Config(
        data=Data(name="dynamic_world", s2_bands=bands.S2_BANDS, scaling="log", crop_px=WINDOW_PX),
        model=model_preset("dynamic_world", s1_channels=0),
        loss=Loss(name="cross_entropy", alpha=(1.0,) * len(bands.CLASSES)),
        train=Train(eval_batch_size=1),  # fastest on a CPU
        predict=Predict(overlap=2 * dynamic_world.MARGIN_PX / WINDOW_PX),
    )
    shapes = [shape for _, _, shape in dynamic_world.variables_in_order(config.model)]
    variables = dynamic_world.from_saved(read_variables(folder, shapes), config.model)
    trained = Trained(config, _no_statistics(), variables, 0)
    if trained.sha256 != PUBLISHED_SHA256:
        return trained
    return dataclasses.replace(trained, licence=LICENCE, origin=ORIGIN)


def _no_statistics() -> Statistics:
    """Numbers that change nothing: the scaling of this network does not read them, and on how many pixels it was trained is not known."""
    count = len(bands.S2_BANDS)
    s2 = SensorStatistics(
        bands=bands.S2_BANDS,
        mean=(0.0,) * count,
        std=(1.0,) * count,
        p1=(1.0,) * count,
        p99=(65535.0,) * count,
        unit=bands.S2_UNIT,
        pixels=(0,) * count,
    )
    s1 = SensorStatistics((), (), (), (), (), bands.S1_UNIT, ())
    return Statistics(s2=s2, s1=s1, label_pixels=(0,) * len(bands.CLASSES))


if __name__ == "__main__":
    run(main)
