"""Writes a trained network as an ONNX file: digital numbers and dB in, probabilities and classes out.

Enters: a `Trained` network. Leaves: a graph of standard operators (`OPSET`), built from the weights module by module as
in `specsar_jax.network`. It has an input for each sensor that the network reads,

    s2  uint16 [batch, height, width, band]   digital numbers (reflectance x 10000), 0 without data
    s1  float32 [batch, height, width, band]  sigma0 in dB, NaN without data

and two outputs,

    probabilities  float32 [batch, height, width, class]   at the calibrated temperature; undefined without data
    classes        uint8 [batch, height, width]            the most probable class; 255 where a band has no data

for any batch, and any height and width from 32 pixels up. The graph contains the statistics of the bands. Bands in
their order, classes, colours, config and provenance are JSON in the `metadata_props` of the file.

Between the blocks a branch is a matrix of tokens [batch x height x width, channel], the input of Gemm and
LayerNormalization. Convolutions transpose it to [batch, channel, height, width] and back; runtimes fuse that with the
convolution. BatchNorm and the scale of the attention are part of the weights. The graph is one pass of the network,
without the mean over flips and rotations (`predict.average_turns`).

Needs the extra `onnx`.
"""

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
from onnx import TensorProto

from specsar_jax import config as configs
from specsar_jax.batches.preprocess import SensorStatistics
from specsar_jax.config import Model
from specsar_jax.exports.onnx_nodes import Graph, Weights
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
        OSError: the file cannot be written.
    """
    model = build(trained, quantise=quantise)
    write_whole(path, model.SerializeToString())


def build(trained: Trained, *, quantise: bool = False) -> onnx.ModelProto:
    """Builds the graph that `write_onnx` writes, and checks it."""
    config, graph = trained.config.model, Graph(quantise)
    inputs, standardised, complete = [], [], []
    for sensor in config.sensors:
        of: SensorStatistics = getattr(trained.statistics, sensor)
        kind = TensorProto.UINT16 if sensor == "s2" else TensorProto.FLOAT
        inputs.append(onnx.helper.make_tensor_value_info(sensor, kind, ["batch", "height", "width", len(of.bands)]))
        values, has_data = _standardise(graph, sensor, of)
        standardised.append(values)
        complete.append(has_data)

    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), trained.variables)
    logits = _network(graph, standardised, config, weights)
    _classify(graph, logits, inputs[0].name, complete, trained.temperature)

    shape = ["batch", "height", "width"]
    outputs = [
        onnx.helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [*shape, config.classes]),
        onnx.helper.make_tensor_value_info("classes", TensorProto.UINT8, shape),
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "specsar_former", inputs, outputs, graph.constants),
        producer_name="specsar_jax",
        producer_version=__version__,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    for key, value in _metadata(trained, quantise).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    return model


def _standardise(graph: Graph, sensor: str, of: SensorStatistics) -> tuple[str, str]:
    """Standardises as `preprocess.standardise`, to [batch, band, height, width]; also tells where every band has data (1, else 0).

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
    values = graph("Min", graph("Max", values, by_band(of.p1)), by_band(of.p99))
    values = graph("Div", graph("Sub", values, by_band(of.mean)), by_band(np.maximum(of.std, 1e-6)))
    complete = graph("ReduceMin", has_data, graph.constant([1], np.int64), keepdims=0)
    return graph("Mul", values, has_data), complete


def _network(graph: Graph, maps: list[str], config: Model, weights: Weights) -> str:
    """As `model.SpecSARFormer`: standardised maps [batch, band, height, width] to logits [batch, rows, columns, class]."""
    params = weights["params"]
    if config.branches == "stacked":
        maps = [graph("Concat", *maps, axis=1)]
    features, sizes = [], []
    for stage in range(len(config.widths)):
        part = params[f"stage{stage + 1}"]
        maps, size = _embed(graph, maps, config, stage, part)
        for block in range(config.blocks[stage]):
            own = jax.tree.map(lambda leaf, block=block: leaf[block], part["blocks"])
            maps = _dmem_block(graph, maps, size, config, stage, own)
        maps = _norms(graph, maps, "norm", config, part)
        features.append(_aggregate(graph, maps, size, config, params.get(f"mmam{stage + 1}", {})))
        sizes.append(size)
        maps = [graph.to_maps(tokens, size) for tokens in maps]
    return _decode(graph, features, sizes, config, params["decoder"], weights["batch_stats"]["decoder"]["norm"])


def _embed(graph: Graph, maps: list[str], config: Model, stage: int, part: Weights) -> tuple[list[str], str]:
    """Patch embedding of each branch: its tokens, and the vector [batch, rows, columns, -1] that reshapes them to a map."""
    kernel, stride = (7, 4) if stage == 0 else (3, 2)
    size, embedded = "", []
    for name, branch in zip(config.branch_names, maps, strict=True):
        own = part[f"{name}_embed"]
        turned = graph.convolve(branch, own, strides=[stride] * 2, pads=[kernel // 2] * 4)
        size = size or graph.sizes(graph("Shape", turned, end=1), graph("Shape", turned, start=2), -1)
        embedded.append(graph.to_tokens(turned, own["bias"].size))
    return _norms(graph, embedded, "embed_norm", config, part), size


def _dmem_block(graph: Graph, maps: list[str], size: str, config: Model, stage: int, own: Weights) -> list[str]:
    """As `encoder.DMEMBlock`, on tokens."""

    def attend(kind: str, queries: list[str], contexts: list[str]) -> list[str]:
        return [
            _attention(graph, query, context, size, config, stage, own[f"{name}_{kind}"])
            for name, query, context in zip(config.branch_names, queries, contexts, strict=True)
        ]

    normed = _norms(graph, maps, "self_norm", config, own)
    maps = _add(graph, maps, attend("self", normed, normed))
    if len(maps) == 2 and config.cross_attention:
        normed = _norms(graph, maps, "cross_norm", config, own)
        maps = _add(graph, maps, attend("cross", normed, normed[::-1]))
    normed = _norms(graph, maps, "ffn_norm", config, own)
    mixed = [
        _mix_ffn(graph, tokens, size, own[f"{name}_ffn"])
        for name, tokens in zip(config.branch_names, normed, strict=True)
    ]
    return _add(graph, maps, mixed)


def _attention(graph: Graph, query: str, context: str, size: str, config: Model, stage: int, own: Weights) -> str:
    """As `encoder.Attention`, on tokens."""
    heads, side = config.heads[stage], config.reductions[stage]
    channels = own["query"]["bias"].size
    if side > 1:
        reduced = graph.convolve(graph.to_maps(context, size), own["reduce"], strides=[side] * 2)
        context = graph.to_tokens(reduced, own["reduce"]["bias"].size)
        context = graph.layer_norm(context, own["reduce_norm"], config.layer_norm_epsilon)
    split_shape = graph.sizes(graph.size(size, [0]), -1, heads, channels // heads)

    def by_head(tokens: str, order: list[int]) -> str:
        return graph("Transpose", graph("Reshape", tokens, split_shape), perm=order)

    scale = np.float32(math.sqrt(heads / channels))
    query = graph.dense(query, {name: array * scale for name, array in own["query"].items()})
    key, value = (
        graph.dense(context, {name: np.split(array, 2, axis=-1)[half] for name, array in own["key_value"].items()})
        for half in (0, 1)
    )
    logits = graph("MatMul", by_head(query, [0, 2, 1, 3]), by_head(key, [0, 2, 3, 1]))
    attended = graph("MatMul", graph("Softmax", logits, axis=-1), by_head(value, [0, 2, 1, 3]))
    return graph.dense(graph.flat(graph("Transpose", attended, perm=[0, 2, 1, 3]), channels), own["output"])


def _mix_ffn(graph: Graph, tokens: str, size: str, own: Weights) -> str:
    """As `encoder.MixFFN`, on tokens."""
    hidden = own["depthwise"]["bias"].size
    wide = graph.to_maps(graph.dense(tokens, own["expand"]), size)
    kernel = own["depthwise"]["kernel"][:, :, None, :]
    mixed = graph.convolve(wide, own["depthwise"] | {"kernel": kernel}, pads=[1] * 4, group=hidden)
    return graph.dense(graph("Gelu", graph.to_tokens(mixed, hidden)), own["project"])


def _aggregate(graph: Graph, maps: list[str], size: str, config: Model, own: Weights) -> str:
    """As `encoder.Aggregation`: joins the tokens of the branches to one matrix of tokens."""
    if len(maps) == 1:
        return maps[0]
    if config.channel_reweighting:
        maps = [graph("Reshape", tokens, size) for tokens in maps]
        pixels = graph.constant([1, 2], np.int64)
        means = graph("Concat", *(graph("ReduceMean", m, pixels, keepdims=0) for m in maps), axis=1)
        gated = []
        for name, branch in zip(config.branch_names, maps, strict=True):
            hidden = graph("Relu", graph.dense(means, own[f"{name}_squeeze"]))
            gate = graph("Sigmoid", graph.dense(hidden, own[f"{name}_gate"]))
            weighted = graph("Mul", branch, graph("Unsqueeze", gate, pixels))
            gated.append(graph.flat(weighted, own[f"{name}_gate"]["bias"].size))
        maps = gated
    return graph.dense(graph("Concat", *maps, axis=1), own["join"])


def _decode(graph: Graph, features: list[str], sizes: list[str], config: Model, own: Weights, moments: Weights) -> str:
    """As `decoder.Decoder`: tokens of each stage to logits [batch, rows, columns, class] of the size of the first stage.

    A resize is a matrix of rows times the map times a matrix of columns. The stages share the product of rows, as in
    `resizing.sum_resized`.
    """
    wide = {name: array.astype(np.float64) for name, array in own.items() if name != "norm"}
    factor = own["norm"]["scale"] / np.sqrt(moments["var"].astype(np.float64) + config.batch_norm_epsilon)
    bias = own["norm"]["bias"] - moments["mean"] * factor
    kernels = []
    for stage in range(1, len(features) + 1):
        join = wide[f"join{stage}_kernel"] * factor
        kernels.append(graph.weight(wide[f"project{stage}_kernel"] @ join, 1))
        bias = bias + wide[f"project{stage}_bias"] @ join

    def sides(size: str, axis: int) -> tuple[str, str]:
        """A side of a map, and the side to resize it to."""
        return graph.size(size, axis), graph.size(sizes[0], axis)

    # The shares of a resize sum to one, so the bias may be added before resizing.
    added = graph.constant(bias)
    if len(features) > 1:
        *between, smallest = zip(features[1:], kernels[1:], strict=True)
        maps = [*(graph("MatMul", *pair) for pair in between), graph("Gemm", *smallest, added)]
        stretched = [
            graph("MatMul", graph.resizing_matrix(*sides(size, 2)), graph("Reshape", tokens, size))
            for tokens, size in zip(maps, sizes[1:], strict=True)
        ]
        lines = graph("Reshape", graph("Concat", *stretched, axis=1), graph.constant([0, 0, -1], np.int64))
        rows = graph("Concat", *(graph.resizing_matrix(*sides(size, 1)) for size in sizes[1:]), axis=1)
        added = graph.flat(graph("MatMul", rows, lines), config.decoder_width)
    joined = graph("Gemm", features[0], kernels[0], added)
    logits = graph.dense(graph("Relu", joined), {"kernel": own["classify_kernel"], "bias": own["classify_bias"]})
    return graph("Reshape", logits, sizes[0])


def _classify(graph: Graph, logits: str, sensor: str, complete: list[str], temperature: float) -> None:
    """Adds the outputs: probabilities and classes of the logits, at the size of the input `sensor`."""
    given, wanted = graph("Shape", logits), graph("Shape", sensor)
    rows, columns = (graph.resizing_matrix(*(graph.size(size, axis) for size in (given, wanted))) for axis in (1, 2))
    logits = graph("Transpose", graph("Mul", logits, graph.constant(1.0 / temperature)), perm=[0, 3, 1, 2])
    logits = graph("MatMul", graph("MatMul", rows, logits), graph("Transpose", columns, perm=[1, 0]))
    logits = graph("Transpose", logits, perm=[0, 2, 3, 1])
    graph("Softmax", logits, axis=-1, output="probabilities")
    likeliest = graph("Cast", graph("ArgMax", logits, axis=-1, keepdims=0), to=TensorProto.UINT8)
    valid = graph("Cast", graph("Min", *complete), to=TensorProto.BOOL)
    graph("Where", valid, likeliest, graph.constant(bands.IGNORE, np.uint8), output="classes")


def _norms(graph: Graph, maps: list[str], kind: str, config: Model, part: Weights) -> list[str]:
    """A LayerNorm of each branch."""
    names = config.branch_names
    return [
        graph.layer_norm(tokens, part[f"{name}_{kind}"], config.layer_norm_epsilon)
        for name, tokens in zip(names, maps, strict=True)
    ]


def _add(graph: Graph, maps: list[str], residuals: list[str]) -> list[str]:
    return [graph("Add", tokens, residual) for tokens, residual in zip(maps, residuals, strict=True)]


def _metadata(trained: Trained, quantise: bool) -> dict[str, str]:
    return {
        "format": FORMAT,
        "software": f"specsar_jax {__version__}",
        "dataset": trained.config.data.name,
        "step": str(trained.step),
        "dtype": "int8" if quantise else "float32",
        "licence": trained.licence,
        "temperature": repr(float(trained.temperature)),
        "bands": json.dumps(trained.bands),
        "units": json.dumps({"s2": bands.S2_UNIT, "s1": bands.S1_UNIT}),
        "classes": json.dumps(bands.CLASSES),
        "class_colours": json.dumps(bands.CLASS_COLOURS),
        "nodata": str(bands.IGNORE),
        "config": json.dumps(configs.to_dict(trained.config)),
        "statistics": json.dumps(trained.statistics.to_dict()),
        "weights_sha256": trained.sha256,
    }
