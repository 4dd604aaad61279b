"""Command: a trained network as one file for elsewhere.

    python -m specsar_jax.export --workdir runs/quickstart --format safetensors --output specsar.safetensors

The file holds the weights by name, float32, and as metadata the config, the statistics, the temperature of the probabilities, and
class names and colours, all JSON. `evaluate` and `predict` take it in place of a workdir.
"""

from pathlib import Path

from specsar_jax.checkpoints import load_trained, write_bundle
from tfds_dwplus.command_line import Parser, run


def main(argv: list[str]) -> None:
    """Parses the arguments and writes the file."""
    parser = Parser(
        "Exports a trained network.",
        "python -m specsar_jax.export --workdir runs/quickstart --format safetensors --output specsar.safetensors",
    )
    parser.add_argument("--workdir", type=Path, required=True, help="of specsar_jax.train, or an exported bundle")
    parser.add_argument("--format", choices=("safetensors",), required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--checkpoint", choices=("best", "latest"), default="best")
    args = parser.parse_args(argv)
    trained = load_trained(args.workdir, args.checkpoint)
    if not args.output.parent.is_dir():
        raise ValueError(f"no folder {args.output.parent.resolve()} to write {args.output.name} to")
    write_bundle(trained, args.output)
    read = [name for sensor in trained.config.model.sensors for name in getattr(trained.statistics, sensor).bands]
    print(f"wrote {args.output}: step {trained.step}, bands {', '.join(read)}")


if __name__ == "__main__":
    run(main)
