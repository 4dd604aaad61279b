"""Command: a trained network as files for elsewhere.

    python -m specsar_jax.export --workdir runs/quickstart --format safetensors --output specsar.safetensors

| --format | leaves | is used by |
|---|---|---|
| safetensors | one file, `specsar_jax.bundle` | all commands in place of a workdir, `specsar_jax.load` |
| folder | such a file, `config.json` and a card, as model hubs have them | the same; `hub:owner/name` after `--push owner/name` |
| stablehlo | one file, `specsar_jax.stablehlo` | JAX, without this package |
| saved_model | a folder, `specsar_jax.saved_model` | TensorFlow |
| onnx | one file, `specsar_jax.onnx_graph` | any ONNX runtime |

Beside or in each stands a model card in Markdown: bands and classes, how to use the file, scores as far as the workdir has them.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from specsar_jax import hub
from specsar_jax.bundle import DTYPES, Trained, as_stored, write_bundle
from specsar_jax.checkpoints import load_trained, write_json
from specsar_jax.model_card import card
from tfds_dwplus.command_line import Parser, run, written_whole

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
    parser.add_argument("--workdir", type=Path, required=True, help="of specsar_jax.train, or an exported bundle")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", type=Path, required=True, help="file; of saved_model and folder, a new folder")
    parser.add_argument("--checkpoint", choices=("best", "latest"), default="best")
    parser.add_argument("--licence", help="of the weights, such as CC-BY-4.0; that of the bundle if not given")
    parser.add_argument("--dtype", choices=DTYPES, help="of stored weights; float32 if not given")
    parser.add_argument("--weights", choices=("inside", "beside"), help="of stablehlo; inside if not given")
    parser.add_argument("--quantise", action="store_true", default=None, help="large matrices of onnx as int8")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload the folder to a hub; a new repository is private")
    args = parser.parse_args(argv)
    for flag, formats in _ONLY_OF.items():
        if getattr(args, flag) is not None and args.format not in formats:
            parser.error(f"--{flag} is of --format {' and '.join(formats)}, not of {args.format}")
    if not args.output.parent.is_dir():
        raise ValueError(f"no folder {args.output.parent.resolve()} to write {args.output.name} to")
    if args.push is not None:
        hub.check_name(args.push)
    if args.format in ("folder", "saved_model") and args.output.exists():
        raise ValueError(f"{args.output} is there already; remove it, or give another --output")
    if args.format not in ("folder", "saved_model") and args.output.is_dir():
        raise ValueError(f"{args.output} is a folder; --format {args.format} writes a file, give its name")

    trained = load_trained(args.workdir, args.checkpoint)
    if args.licence is not None:
        trained = dataclasses.replace(trained, licence=args.licence)
    trained = as_stored(trained, args.dtype or "float32")
    figures = evaluations(args.workdir, trained)
    written = _write(args, trained, figures)
    read = [name for names in trained.bands.values() for name in names]
    print(f"wrote {' and '.join(map(str, written))}: step {trained.step}, bands {', '.join(read)}")
    if args.push is not None:
        print(f"pushed to {hub.push(args.output, args.push)}")


def evaluations(workdir: Path, trained: Trained) -> list[dict[str, Any]]:
    """What `specsar_jax.evaluate` left of these weights in a workdir or beside a bundle. Raises ValueError if it is broken."""
    if hub.is_address(workdir):
        return []
    folder, prefix = (workdir, "") if workdir.is_dir() else (workdir.parent, f"{workdir.stem}.")
    found = []
    for path in sorted(path for path in folder.iterdir() if path.name.startswith(f"{prefix}evaluation_")):
        if path.suffix != ".json":
            continue
        try:
            figures = json.loads(path.read_text())
            if figures["step"] == trained.step:
                card("", trained, [figures], "", "float32")  # it has what a card tells
                found.append(figures)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{path} is no evaluation ({reason}); remove it, or evaluate again") from None
    return found


def _write(args: Any, trained: Trained, figures: list[dict[str, Any]]) -> list[Path]:
    """Writes what the format has; the paths."""
    output, dtype = args.output, args.dtype or "float32"
    beside = output.with_name(f"{output.name}.md")
    stored_as = "int8" if args.quantise else dtype

    def describe(path: Path) -> None:
        use = _USE[f"{args.format} beside" if args.weights == "beside" else args.format].format(
            name=output.name,
            weights=output.with_suffix(".safetensors").name,
            address=f"hub:{args.push}" if args.push else output,
        )
        with written_whole(path) as part:
            part.write_text(card(output.stem, trained, figures, use, stored_as))

    if args.format == "folder":
        with _folder_written_whole(output) as part:
            metadata = write_bundle(trained, part / hub.BUNDLE_NAME, dtype=dtype)
            write_json(part / "config.json", {key: _value(text) for key, text in metadata.items()})
            describe(part / "README.md")
        return [output]
    if args.format == "saved_model":
        from specsar_jax.saved_model import write_saved_model  # TensorFlow is loaded where it is asked for

        with _folder_written_whole(output) as part:
            write_saved_model(trained, part)
            describe(part / "README.md")
        return [output]
    written = [output, beside]
    if args.format == "safetensors":
        write_bundle(trained, output, dtype=dtype)
    elif args.format == "stablehlo":
        from specsar_jax.stablehlo import write_stablehlo

        if args.weights == "beside":
            written.insert(1, output.with_suffix(".safetensors"))
            write_bundle(trained, written[1])
        write_stablehlo(trained, output, weights_inside=args.weights != "beside")
    else:
        try:
            from specsar_jax.onnx_graph import write_onnx
        except ModuleNotFoundError as error:
            raise ValueError(f"an ONNX file needs {error.name}: pip install 'specsar_jax[onnx]'") from None
        write_onnx(trained, output, quantise=bool(args.quantise))
    describe(beside)
    return written


def _value(text: str) -> Any:
    """What a text of the metadata means, where it is JSON; else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@contextlib.contextmanager
def _folder_written_whole(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write to; it takes that name once all is written, and is gone where that fails."""
    part = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        part.mkdir()
        yield part
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


_RUN = """\
    import jax, numpy as np
    from pathlib import Path

    program = jax.export.deserialize(bytearray(Path("{name}").read_bytes()))
"""

_ANY = """\
The arguments are the pixels of each sensor above, in that order, [batch, height, width, band]; batch, height and width are free, from
32 pixels up. Out come `probabilities`, float32 [batch, height, width, class], and `classes`, uint8, 255 where there is no data.
Normalisation is inside."""

_USE = {
    "safetensors": """\
    import specsar_jax
    network = specsar_jax.load("{name}")     # with the extra `xarray`; then network.predict(s2, s1)

or in place of a workdir: `python -m specsar_jax.predict --workdir {name} --s2 s2.tif --s1 s1.tif --output map.tif`.""",
    "folder": """\
    import specsar_jax
    network = specsar_jax.load("{address}")     # with the extra `xarray`; then network.predict(s2, s1)

or in place of a workdir: `python -m specsar_jax.predict --workdir {address} --s2 s2.tif --s1 s1.tif --output map.tif`. The weights
and all that belongs to them are in `model.safetensors`; `config.json` repeats what it says, for readers, and is not read.""",
    "stablehlo": _RUN + "    probabilities, classes = program.call(s2, s1)\n\n" + _ANY,
    "stablehlo beside": _RUN
    + """\
    weights = safetensors.numpy.load_file("{weights}")
    probabilities, classes = program.call(weights, s2, s1)

"""
    + _ANY,
    "saved_model": """\
    import tensorflow as tf
    network = tf.saved_model.load("{name}")
    maps = network.signatures["serving_default"](s2=s2, s1=s1)     # maps["probabilities"], maps["classes"]

"""
    + _ANY,
    "onnx": """\
    import onnxruntime
    session = onnxruntime.InferenceSession("{name}")
    probabilities, classes = session.run(["probabilities", "classes"], {{"s2": s2, "s1": s1}})

"""
    + _ANY,
}


if __name__ == "__main__":
    run(main)
