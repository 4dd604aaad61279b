"""Writes a trained network as a TensorFlow SavedModel, which TensorFlow loads and runs without JAX.

    network = tf.saved_model.load("specsar_saved_model")
    network(s2=s2, s1=s1)["classes"]

Enters: a `Trained` network. Leaves: a folder. Its signature `serving_default` has the inputs and outputs of the program
of `specsar_jax.exports.stablehlo`, for any batch, height and width; the weights are variables. TensorFlow calls the
StableHLO program as it is (XlaCallModule, as in jax2tf). JAX writes a version of StableHLO that is too new for
TensorFlow, so the program is converted to an older version. `assets.extra/classes.json` has names and colours of the
classes, as `classes` and `class_colours`.

Needs the extra `tensorflow`.
"""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from specsar_jax.exports.stablehlo import export_program, program
from specsar_jax.trained.trained_network import Trained, named_weights
from tfds_dwplus.files.outputs import write_json

STABLEHLO_VERSION = "1.8.0"
"""Version of StableHLO of the program: old enough for TensorFlow 2.21, new enough for all operations of the network."""

EXTRA = "assets.extra"
"""Folder of a SavedModel for files that TensorFlow does not read. Source: its README, "SavedModel format"."""


def write_saved_model(trained: Trained, folder: Path) -> None:
    """Writes the network into `folder`.

    Raises:
        ValueError: TensorFlow is not installed, or cannot run such programs.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # otherwise it prints notes on the processor
    try:
        import tensorflow as tf
        from tensorflow.compiler.tf2xla.python import xla
    except ModuleNotFoundError as error:
        raise ValueError(
            f"a SavedModel needs {error.name}: pip install 'specsar_jax[tensorflow]'; "
            "--format onnx and --format stablehlo do not"
        ) from None

    weights = named_weights(trained.variables)
    exported = export_program(program(trained), trained, jax.tree.map(jax.typeof, weights))
    newest = xla.call_module_maximum_supported_version()
    if exported.calling_convention_version > newest:
        raise ValueError(
            f"TensorFlow {tf.__version__} runs programs of JAX up to calling convention {newest}, JAX {jax.__version__} "
            f"writes {exported.calling_convention_version}; use a newer TensorFlow, --format onnx or --format stablehlo"
        )
    content = older_stablehlo(exported)
    any_size = [None, None, None]
    class_count = exported.out_avals[0].shape[-1]

    class Network(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = [tf.Variable(np.asarray(weights[name]), name=name) for name in sorted(weights)]

        @tf.function(
            autograph=False,
            input_signature=[
                tf.TensorSpec([*any_size, aval.shape[-1]], aval.dtype.name, sensor)
                for sensor, aval in zip(trained.bands, exported.in_avals[len(weights) :], strict=True)
            ],
        )
        def __call__(self, *pixels: Any) -> dict[str, Any]:
            arguments = [*map(tf.convert_to_tensor, self.weights), *pixels]
            outputs = xla.call_module(
                [arguments[place] for place in exported.module_kept_var_idx],
                version=exported.calling_convention_version,
                module=content,
                Tout=[tf.float32, tf.uint8],
                Sout=[[*any_size, class_count], any_size],
                platforms=[platform.upper() for platform in exported.platforms],
            )
            return dict(zip(("probabilities", "classes"), outputs, strict=True))

    network = Network()
    tf.saved_model.save(network, str(folder), signatures={"serving_default": network.__call__})
    classes = trained.classes
    (folder / EXTRA).mkdir(exist_ok=True)
    write_json(folder / EXTRA / "classes.json", {"classes": classes.names, "class_colours": classes.colours})


def older_stablehlo(exported: export.Exported) -> bytes:
    """The program of an export, converted to `STABLEHLO_VERSION`."""
    from jax.extend.mlir import ir, passmanager
    from jax.extend.mlir.dialects import stablehlo

    stablehlo.register_stablehlo_passes()
    with ir.Context() as context:
        stablehlo.register_dialect(context)
        module = stablehlo.deserialize_portable_artifact(context, exported.mlir_module_serialized)
        # JAX 0.12 wraps erfc in a composite, whose shape TensorFlow cannot infer.
        passes = "builtin.module(func.func(stablehlo-legalize-composite-to-call))"
        passmanager.PassManager.parse(passes).run(module.operation)
        return stablehlo.serialize_portable_artifact_str(str(module), STABLEHLO_VERSION)
