"""Writes a trained network as an ONNX file: digital numbers and dB in, probabilities and classes out.

Enters: a `Trained` network. Leaves: a graph of standard operators (`OPSET`). It has an input for each sensor that the
network reads,

    s2  uint16 [batch, height, width, band]   digital numbers (reflectance x 10000), 0 without data
    s1  float32 [batch, height, width, band]  sigma0 in dB, NaN without data

and two outputs,

    probabilities  float32 [batch, height, width, class]   at the calibrated temperature; undefined without data
    classes        uint8 [batch, height, width]            the most probable class; 255 where a band has no data

for any batch, and any height and width from 32 pixels up. The graph contains the statistics of the bands. Bands in
their order, classes, colours, config and provenance are JSON in the `metadata_props` of the file.

The graph is one pass of the network, without the mean over flips and rotations (`predict.average_turns`).

Needs the extra `onnx`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from specsar_jax import config as configs
from specsar_jax.batches import preprocess
from specsar_jax.batches.preprocess import SensorStatistics
from specsar_jax.exports.onnx_dynamic_world import dynamic_world
from specsar_jax.exports.onnx_nodes import Graph
from specsar_jax.exports.onnx_specsar_former import specsar_former
from specsar_jax.trained.trained_network import Trained
from specsar_jax.version import __version__
from tfds_dwplus import bands
from tfds_dwplus.files.outputs import write_whole

OPSET = 20
"""Version of the standard operators: the first with Gelu."""

IR_VERSION = 9
"""Version of the file format: the one released with `OPSET`, so that every reader of the opset can read the file."""

FORMAT = "specsar_jax onnx 1"


def write_onnx(trained: Trained, path: Path, *, quantise: bool = False) -> None:
    """Writes the network to `path`; the file appears only when it is complete.

    Args:
        trained: the network.
        path: the file to write.
        quantise: whether to store large matrices as int8 with a scale for each column. The runtime converts them to
            float32 when it opens the file. The file has a quarter of the size and is no slower; BENCHMARKS.md says how
            many pixels change class.

    Raises:
        ValueError: the network has a scaling that ONNX files lack.
        OSError: the file cannot be written.
    """
    model = build(trained, quantise=quantise)
    write_whole(path, model.SerializeToString())


def build(trained: Trained, *, quantise: bool = False) -> onnx.ModelProto:
    """Builds the graph that `write_onnx` writes, and checks it."""
    config, graph = trained.config.model, Graph(quantise)
    inputs, scaled, complete = [], [], []
    for sensor in config.sensors:
        of: SensorStatistics = getattr(trained.statistics, sensor)
        kind = TensorProto.UINT16 if sensor == "s2" else TensorProto.FLOAT
        inputs.append(onnx.helper.make_tensor_value_info(sensor, kind, ["batch", "height", "width", len(of.bands)]))
        values, has_data = _scale(graph, sensor, of, trained.config.data.scaling, sensor in trained.config.may_miss)
        scaled.append(values)
        complete.append(has_data)
    if needed := [
        seen for sensor, seen in zip(config.sensors, complete, strict=True) if sensor not in trained.config.may_miss
    ]:
        complete = needed
    else:
        complete = [graph("Max", *complete)]

    network = {"specsar_former": specsar_former, "dynamic_world": dynamic_world}[config.architecture]
    _classify(graph, network(graph, scaled, config, trained.variables, trained.temperature), complete)

    shape = ["batch", "height", "width"]
    outputs = [
        onnx.helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [*shape, config.classes]),
        onnx.helper.make_tensor_value_info("classes", TensorProto.UINT8, shape),
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, config.architecture, inputs, outputs, graph.constants),
        producer_name="specsar_jax",
        producer_version=__version__,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    for key, value in _metadata(trained, quantise).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    return model


def _scale(graph: Graph, sensor: str, of: SensorStatistics, scaling: str, may_miss: bool) -> tuple[str, str]:
    """Scales as `preprocess.standardise`, to [batch, band, height, width]; also tells where every band has data (1, else 0).
    Of a sensor that the network may miss, no band counts elsewhere.

    The transpose comes first, because runtimes compute fastest along the last axis, which should not be the short one
    of the bands.
    """

    def by_band(numbers: Any) -> str:
        return graph.constant(np.asarray(numbers, np.float32)[:, None, None])

    values = graph("Transpose", sensor, perm=[0, 3, 1, 2])
    if sensor == "s2":
        values = graph.to_float(values)
        has_data = graph("Min", values, graph.constant(1.0))  # 0 or 1, because values are whole numbers from 0 up
    else:
        missing = graph("Or", graph("IsNaN", values), graph("IsInf", values))
        has_data = graph.to_float(graph("Not", missing))
        values = graph("Where", missing, graph.constant(0.0), values)
    complete = graph("ReduceMin", has_data, graph.constant([1], np.int64), keepdims=0)
    if may_miss:
        has_data = graph("ReduceMin", has_data, graph.constant([1], np.int64), keepdims=1)
        values = graph("Mul", values, has_data)
    if sensor == "s2" and scaling == "log":
        # Exponentials e as e / (1 + e): the sigmoid of the exponent 5 (log(0.005 DN + 1) - low) / high - 1.
        low, high = (np.asarray(numbers) for numbers in preprocess.log_low_high(of.bands))
        logarithm = graph("Log", graph("Add", graph("Mul", values, graph.constant(0.005)), graph.constant(1.0)))
        exponent = graph("Sub", graph("Mul", logarithm, by_band(5.0 / high)), by_band(5.0 * low / high + 1.0))
        return graph("Sigmoid", exponent), complete
    if sensor == "s2" and scaling != "standard":
        raise ValueError(f"an ONNX file has no data.scaling={scaling}; take --format stablehlo")
    values = graph("Min", graph("Max", values, by_band(of.p1)), by_band(of.p99))
    values = graph("Div", graph("Sub", values, by_band(of.mean)), by_band(np.maximum(of.std, 1e-6)))
    return graph("Mul", values, has_data), complete


def _classify(graph: Graph, logits: str, complete: list[str]) -> None:
    """Adds the outputs: probabilities and classes of the logits [batch, class, height, width]."""
    logits = graph("Transpose", logits, perm=[0, 2, 3, 1])
    graph("Softmax", logits, axis=-1, output="probabilities")
    likeliest = graph("Cast", graph("ArgMax", logits, axis=-1, keepdims=0), to=TensorProto.UINT8)
    valid = graph("Cast", graph("Min", *complete), to=TensorProto.BOOL)
    graph("Where", valid, likeliest, graph.constant(bands.IGNORE, np.uint8), output="classes")


def _metadata(trained: Trained, quantise: bool) -> dict[str, str]:
    return {
        "format": FORMAT,
        "software": f"specsar_jax {__version__}",
        "dataset": trained.config.data.name,
        "step": str(trained.step),
        "dtype": "int8" if quantise else "float32",
        "licence": trained.licence,
        "origin": trained.origin,
        "temperature": repr(float(trained.temperature)),
        "bands": json.dumps(trained.bands),
        "units": json.dumps({"s2": bands.S2_UNIT, "s1": bands.S1_UNIT}),
        "classes": json.dumps(trained.classes.names),
        "class_colours": json.dumps(trained.classes.colours),
        "nodata": str(bands.IGNORE),
        "config": json.dumps(configs.to_dict(trained.config)),
        "statistics": json.dumps(trained.statistics.to_dict()),
        "weights_sha256": trained.sha256,
    }
