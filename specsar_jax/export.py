"""Command: exports a trained network to a file for this package or other runtimes.

    python -m specsar_jax.export --workdir runs/quickstart --format safetensors --output specsar.safetensors

| --format | writes | used by |
|---|---|---|
| safetensors | one file, `specsar_jax.trained.bundle` | all commands in place of a workdir, `specsar_jax.load` |
| folder | such a file, `config.json` and a card, as model hubs have them | the same; `hub:owner/name` after `--push owner/name` |
| stablehlo | one file, `specsar_jax.exports.stablehlo` | JAX, without this package |
| saved_model | a folder, `specsar_jax.exports.saved_model` | TensorFlow |
| onnx | one file, `specsar_jax.exports.onnx_graph` | any ONNX runtime |

A model card in Markdown is written beside the file or into the folder: bands, classes, use, and the scores found in the workdir.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from specsar_jax.accuracy.evaluation_files import read_figures
from specsar_jax.exports.model_card import card
from specsar_jax.trained import hub
from specsar_jax.trained.bundle import DTYPES, as_stored, write_bundle
from specsar_jax.trained.loading import load_trained
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus.command_line import Parser, path, run
from tfds_dwplus.files.outputs import check_output, write_json, write_whole
from tfds_dwplus.files.workplaces import check_new_folder, files_written_together, folder_written_whole

FORMATS = ("safetensors", "folder", "stablehlo", "saved_model", "onnx")

_ONLY_OF = {
    "dtype": ("safetensors", "folder"),
    "push": ("folder",),
    "weights": ("stablehlo",),
    "quantise": ("onnx",),
}


def main(argv: list[str]) -> None:
    """Parses the arguments and writes the files."""
    parser = Parser(
        "Exports a trained network.",
        "python -m specsar_jax.export --workdir runs/quickstart --format safetensors --output specsar.safetensors",
    )
    parser.add_argument("--workdir", type=hub.network, required=True, help="workdir of a run, or an exported bundle")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", type=path, required=True, help="file, or for saved_model and folder a new folder")
    parser.add_argument("--checkpoint", choices=("best", "latest"), default="best")
    parser.add_argument("--licence", help="licence of the weights, such as CC-BY-4.0; if not given, that of the bundle")
    parser.add_argument("--origin", help="who made the weights, in a line; if not given, that of the bundle")
    parser.add_argument("--dtype", choices=DTYPES, help="type of the stored weights; float32 if not given")
    parser.add_argument("--weights", choices=("inside", "beside"), help="place of stablehlo's weights; default inside")
    parser.add_argument("--quantise", action="store_true", default=None, help="store large matrices of onnx as int8")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload the folder to a hub; a new repository is private")
    args = parser.parse_args(argv)
    for flag, formats in _ONLY_OF.items():
        if getattr(args, flag) is not None and args.format not in formats:
            parser.error(f"--{flag} is of --format {' and '.join(formats)}, not of {args.format}")
    check = check_new_folder if args.format in ("folder", "saved_model") else check_output
    check(args.output, "--output")
    if args.push is not None:
        hub.check_name(args.push)

    trained = load_trained(args.workdir, args.checkpoint)
    given = {name: getattr(args, name) for name in ("licence", "origin")}
    trained = dataclasses.replace(trained, **{name: text for name, text in given.items() if text is not None})
    figures = evaluations(args.workdir, trained)
    trained = as_stored(trained, args.dtype or "float32")
    written = _write(args, trained, figures)
    read = [name for names in trained.bands.values() for name in names]
    print(f"wrote {' and '.join(map(str, written))}: step {trained.step}, bands {', '.join(read)}")
    if args.push is not None:
        print(f"pushed to {hub.push(args.output, args.push)}")


def evaluations(workdir: Path, trained: Trained) -> list[dict[str, Any]]:
    """Reads the evaluations of these weights from a workdir or beside a bundle. Raises ValueError if one is damaged."""
    if hub.is_address(workdir):
        return []
    folder, prefix = (workdir, "") if workdir.is_dir() else (workdir.parent, f"{workdir.stem}.")
    found = []
    for file in sorted(file for file in folder.iterdir() if file.name.startswith(f"{prefix}evaluation_")):
        if file.suffix != ".json":
            continue
        try:
            figures = read_figures(file)
            if figures["step"] == trained.step and figures.get("weights_sha256", trained.sha256) == trained.sha256:
                card("", trained, [figures], "", "float32")  # raises if the card lacks a figure
                found.append(figures)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{file} is no evaluation ({reason}); remove it, or evaluate again") from None
    return found


def _write(args: Any, trained: Trained, figures: list[dict[str, Any]]) -> list[Path]:
    """Writes the files of the format, all of them or none; returns their paths."""
    output, dtype = args.output, args.dtype or "float32"
    stored_as = "int8" if args.quantise else dtype

    def describe(path: Path) -> None:
        use = _USE[f"{args.format} beside" if args.weights == "beside" else args.format].format(
            name=output.name,
            weights=output.with_suffix(".safetensors").name,
            address=f"hub:{args.push}" if args.push else output,
            arrays=", ".join(trained.bands),
            named=", ".join(f"{sensor}={sensor}" for sensor in trained.bands),
            pairs=", ".join(f'"{sensor}": {sensor}' for sensor in trained.bands),
            files=" ".join(f"--{sensor} {sensor}.tif" for sensor in trained.bands),
        )
        write_whole(path, card(output.stem, trained, figures, use, stored_as))

    if args.format == "folder":
        with folder_written_whole(output, "--output") as part:
            metadata = write_bundle(trained, part / hub.BUNDLE_NAME, dtype=dtype)
            write_json(part / "config.json", {key: _value(text) for key, text in metadata.items()})
            describe(part / "README.md")
        return [output]
    if args.format == "saved_model":
        from specsar_jax.exports.saved_model import write_saved_model  # here, as it loads TensorFlow

        with folder_written_whole(output, "--output") as part:
            write_saved_model(trained, part)
            describe(part / "README.md")
        return [output]
    output = output.resolve() if output.is_symlink() else output
    weights, beside = output.with_suffix(".safetensors"), output.with_name(f"{output.name}.md")
    written = [output, weights, beside] if args.weights == "beside" else [output, beside]
    with files_written_together(written, "--output") as part:
        if args.format == "safetensors":
            write_bundle(trained, part / output.name, dtype=dtype)
        elif args.format == "stablehlo":
            from specsar_jax.exports.stablehlo import write_stablehlo

            if args.weights == "beside":
                write_bundle(trained, part / weights.name)
            write_stablehlo(trained, part / output.name, weights_inside=args.weights != "beside")
        else:
            try:
                from specsar_jax.exports.onnx_graph import write_onnx
            except ModuleNotFoundError as error:
                raise ValueError(f"an ONNX file needs {error.name}: pip install 'specsar_jax[onnx]'") from None
            write_onnx(trained, part / output.name, quantise=bool(args.quantise))
        describe(part / beside.name)
    return written


def _value(text: str) -> Any:
    """Parses a text of the metadata if it is JSON; else returns the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


_RUN = """\
    import jax, numpy as np
    from pathlib import Path

    program = jax.export.deserialize(bytearray(Path("{name}").read_bytes()))
"""

_ANY = """\
The arguments are the pixels of each sensor above, in that order, [batch, height, width, band], of any batch size, and any height
and width from 32 pixels. The results are `probabilities`, float32 [batch, height, width, class], and `classes`, uint8, 255
where there is no data. Normalisation is part of the program."""

_USE = {
    "safetensors": """\
    import specsar_jax
    network = specsar_jax.load("{name}")     # with the extra `xarray`; then network.predict({named})

or in place of a workdir: `python -m specsar_jax.predict --workdir {name} {files} --output map.tif`.""",
    "folder": """\
    import specsar_jax
    network = specsar_jax.load("{address}")     # with the extra `xarray`; then network.predict({named})

or in place of a workdir: `python -m specsar_jax.predict --workdir {address} {files} --output map.tif`. All is read
from `model.safetensors`; `config.json` only repeats its settings for people.""",
    "stablehlo": _RUN + "    probabilities, classes = program.call({arrays})\n\n" + _ANY,
    "stablehlo beside": _RUN
    + """\
    weights = safetensors.numpy.load_file("{weights}")
    probabilities, classes = program.call(weights, {arrays})

"""
    + _ANY,
    "saved_model": """\
    import tensorflow as tf
    network = tf.saved_model.load("{name}")
    maps = network.signatures["serving_default"]({named})     # maps["probabilities"], maps["classes"]

"""
    + _ANY
    + " Names and colours of the classes stand in `assets.extra/classes.json` too.",
    "onnx": """\
    import onnxruntime
    session = onnxruntime.InferenceSession("{name}")
    probabilities, classes = session.run(["probabilities", "classes"], {{{pairs}}})

"""
    + _ANY,
}


if __name__ == "__main__":
    run(main)
