"""A trained network as a TensorFlow SavedModel, which TensorFlow alone loads and runs.

    network = tf.saved_model.load("specsar_saved_model")
    network(s2=s2, s1=s1)["classes"]

Enters: a `Trained` network. Leaves: a folder; `serving_default` takes and gives what the program of `specsar_jax.stablehlo` does,
for any batch, height and width, and the weights are variables. TensorFlow calls the StableHLO as it is (XlaCallModule, as jax2tf
does). The newest JAX writes one that is too new for TensorFlow, so it is written again in an older version of StableHLO.

Needs the extra `tensorflow`.
"""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from specsar_jax.bundle import Trained, named_weights
from specsar_jax.stablehlo import export_program, program

STABLEHLO_VERSION = "1.8.0"
"""That the program is written in: old enough for TensorFlow 2.21, and it has all that the network needs."""


def write_saved_model(trained: Trained, folder: Path) -> None:
    """Writes the network into `folder`.

    Raises:
        ValueError: TensorFlow is not installed, or cannot run such programs.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # else it prints what it thinks of the processor
    try:
        import tensorflow as tf
        from tensorflow.compiler.tf2xla.python import xla
    except ModuleNotFoundError as error:
        raise ValueError(
            f"a SavedModel needs {error.name}: pip install 'specsar_jax[tensorflow]'; --format onnx and --format stablehlo do not"
        ) from None

    weights = named_weights(trained.variables)
    exported = export_program(program(trained), trained, jax.tree.map(jax.typeof, weights))
    newest = xla.call_module_maximum_supported_version()
    if exported.calling_convention_version > newest:
        raise ValueError(
            f"TensorFlow {tf.__version__} runs programs of JAX up to convention {newest}, JAX {jax.__version__} writes "
            f"{exported.calling_convention_version}; take a newer TensorFlow, --format onnx or --format stablehlo"
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


def older_stablehlo(exported: export.Exported) -> bytes:
    """The program of an export as `STABLEHLO_VERSION` has it."""
    from jax.extend.mlir import ir, passmanager
    from jax.extend.mlir.dialects import stablehlo

    stablehlo.register_stablehlo_passes()
    with ir.Context() as context:
        stablehlo.register_dialect(context)
        module = stablehlo.deserialize_portable_artifact(context, exported.mlir_module_serialized)
        # JAX 0.12 wraps erfc in a composite, which TensorFlow cannot give a shape.
        passes = "builtin.module(func.func(stablehlo-legalize-composite-to-call))"
        passmanager.PassManager.parse(passes).run(module.operation)
        return stablehlo.serialize_portable_artifact_str(str(module), STABLEHLO_VERSION)
