"""A trained network as an ONNX file: digital numbers and decibels in, probabilities and classes out, with nothing but a runtime.

Enters: a `Trained` network. Leaves: a graph of standard operators (`OPSET`), written from the weights block by block as
`model.py` has them. Its inputs are those of the sensors that the network reads,

    s2  uint16 [batch, height, width, band]   digital numbers (reflectance x 10000), 0 without data
    s1  float32 [batch, height, width, band]  sigma0 in dB, NaN without data

and its outputs

    probabilities  float32 [batch, height, width, class]   at the temperature of the calibration; without meaning where a band has no data
    classes        uint8 [batch, height, width]            the likeliest class; 255 where a band has no data

for any batch, and any height and width from 32 pixels up. Statistics are inside. Bands in their order, classes, colours, config and
provenance stand as JSON in the file's `metadata_props`.

Between the blocks a branch is a matrix of [batch x height x width, channel], what Gemm and LayerNormalization take as it is;
convolutions turn it to [batch, channel, height, width] and back, which runtimes do with the convolution. BatchNorm, and the scale
of the attention, are in the weights. `predict.average_turns` is not: the graph is one pass of the network.

Needs the extra `onnx`.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
from onnx import TensorProto

import specsar_jax
from specsar_jax import config as configs
from specsar_jax.bundle import Trained
from specsar_jax.config import Model
from specsar_jax.preprocess import SensorStatistics
from tfds_dwplus import bands
from tfds_dwplus.command_line import written_whole

OPSET = 20
"""Of the standard operators: the first with Gelu."""

IR_VERSION = 9
"""Of the file format: the one that came with this opset, so that no reader of the opset is locked out."""

FORMAT = "specsar_jax onnx 1"

QUANTISED_FROM = 4096
"""Numbers in a matrix that is worth to be int8: nearly all weights are in such ones."""

Weights = Mapping[str, Any]
"""A part of the tree of weights: arrays by name, or further parts."""


def write_onnx(trained: Trained, path: Path, *, quantise: bool = False) -> None:
    """Writes the network to `path`, whole or not at all.

    Args:
        trained: the network.
        path: to be written.
        quantise: large matrices as int8 with a scale for each of their columns, which the runtime turns back to float32 when it
            opens the file: a quarter of the size and no slower; BENCHMARKS.md has how many pixels change their class.

    Raises:
        OSError: the file cannot be written.
    """
    model = build(trained, quantise=quantise)
    with written_whole(path) as part:
        part.write_bytes(model.SerializeToString())


def build(trained: Trained, *, quantise: bool = False) -> onnx.ModelProto:
    """What `write_onnx` writes, checked."""
    config, graph = trained.config.model, Graph(quantise)
    inputs, standardised, whole = [], [], []
    for sensor in config.sensors:
        of: SensorStatistics = getattr(trained.statistics, sensor)
        kind = TensorProto.UINT16 if sensor == "s2" else TensorProto.FLOAT
        inputs.append(onnx.helper.make_tensor_value_info(sensor, kind, ["batch", "height", "width", len(of.bands)]))
        values, has_data = _standardise(graph, sensor, of)
        standardised.append(values)
        whole.append(has_data)

    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), trained.variables)
    logits = _network(graph, standardised, config, weights)
    _classify(graph, logits, inputs[0].name, whole, trained.temperature)

    shape = ["batch", "height", "width"]
    outputs = [
        onnx.helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [*shape, config.classes]),
        onnx.helper.make_tensor_value_info("classes", TensorProto.UINT8, shape),
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "specsar_former", inputs, outputs, graph.constants),
        producer_name="specsar_jax",
        producer_version=specsar_jax.__version__,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    for key, value in _metadata(trained, quantise).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    return model


class Graph:
    """Nodes and constants, collected in the order of the computation. Values are known by their names."""

    def __init__(self, quantise: bool) -> None:
        self.quantise = quantise
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Adds a node; the name of its output."""
        name = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any, kind: type = np.float32) -> str:
        """The name of a new constant."""
        self.constants.append(
            onnx.numpy_helper.from_array(np.array(value, kind, order="C"), f"constant_{len(self.constants)}")
        )
        return self.constants[-1].name

    def weight(self, kernel: np.ndarray, axis: int) -> str:
        """A constant float32 kernel; where the graph is to be quantised and it is large, int8 with a scale along `axis`.

        A cast and a product are worked out once, when the file is opened. DequantizeLinear in their place had onnxruntime 1.32 take
        a product of matrices that was slower.
        """
        if not self.quantise or kernel.size < QUANTISED_FROM:
            return self.constant(kernel)
        others = tuple(i for i in range(kernel.ndim) if i != axis)
        scale = np.abs(kernel).max(axis=others, keepdims=True) / 127
        scale = np.where(scale > 0, scale, 1.0)
        return self("Mul", _float(self, self.constant(np.rint(kernel / scale), np.int8)), self.constant(scale))

    def sizes(self, *parts: str | int) -> str:
        """A vector of sizes, of names of such vectors and of numbers."""
        named = [part if isinstance(part, str) else self.constant([part], np.int64) for part in parts]
        return self("Concat", *named, axis=0)


def _standardise(graph: Graph, sensor: str, of: SensorStatistics) -> tuple[str, str]:
    """As `preprocess.standardise`, to [batch, band, height, width]; and 1 where every band has data, else 0.

    Turned first: a runtime's arithmetic is fast along the last axis, and that should not be the bands.
    """

    def by_band(numbers: Any) -> str:
        return graph.constant(np.asarray(numbers, np.float32)[:, None, None])

    values = graph("Transpose", sensor, perm=[0, 3, 1, 2])
    if sensor == "s2":
        values = _float(graph, values)
        has_data = graph("Min", values, graph.constant(1.0))  # of whole numbers from 0 up
    else:
        missing = graph("Or", graph("IsNaN", values), graph("IsInf", values))
        has_data = _float(graph, graph("Not", missing))
        values = graph("Where", missing, graph.constant(0.0), values)
    values = graph("Min", graph("Max", values, by_band(of.p1)), by_band(of.p99))
    values = graph("Div", graph("Sub", values, by_band(of.mean)), by_band(np.maximum(of.std, 1e-6)))
    whole = graph("ReduceMin", has_data, graph.constant([1], np.int64), keepdims=0)
    return graph("Mul", values, has_data), whole


def _network(graph: Graph, maps: list[str], config: Model, weights: Weights) -> str:
    """`model.SpecSARFormer`: standardised maps [batch, band, height, width] to logits [batch, rows, columns, class]."""
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
        maps = [_turned(graph, tokens, size) for tokens in maps]
    return _decode(graph, features, sizes, config, params["decoder"], weights["batch_stats"]["decoder"]["norm"])


def _embed(graph: Graph, maps: list[str], config: Model, stage: int, part: Weights) -> tuple[list[str], str]:
    """Patch embedding of each branch: its tokens, and the shape [batch, rows, columns, -1] that makes maps of them."""
    kernel, stride = (7, 4) if stage == 0 else (3, 2)
    size, embedded = "", []
    for name, branch in zip(config.branch_names, maps, strict=True):
        own = part[f"{name}_embed"]
        turned = _convolve(graph, branch, own, strides=[stride] * 2, pads=[kernel // 2] * 4)
        size = size or graph.sizes(graph("Shape", turned, end=1), graph("Shape", turned, start=2), -1)
        embedded.append(_tokens(graph, turned, own["bias"].size))
    return _norms(graph, embedded, "embed_norm", config, part), size


def _dmem_block(graph: Graph, maps: list[str], size: str, config: Model, stage: int, own: Weights) -> list[str]:
    """`model.DMEMBlock` on tokens [pixel, channel]."""

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
    """`model.Attention` of tokens to tokens."""
    heads, side = config.heads[stage], config.reductions[stage]
    channels = own["query"]["bias"].size
    if side > 1:
        reduced = _convolve(graph, _turned(graph, context, size), own["reduce"], strides=[side] * 2)
        context = _norm(graph, _tokens(graph, reduced, own["reduce"]["bias"].size), config, own["reduce_norm"])
    split_shape = graph.sizes(_batch(graph, size), -1, heads, channels // heads)

    def by_head(tokens: str, order: list[int]) -> str:
        split = graph("Reshape", tokens, split_shape)
        return graph("Transpose", split, perm=order)

    scale = np.float32(math.sqrt(heads / channels))
    query = _dense(graph, query, {name: array * scale for name, array in own["query"].items()})
    key, value = (
        _dense(graph, context, {name: np.split(array, 2, axis=-1)[half] for name, array in own["key_value"].items()})
        for half in (0, 1)
    )
    logits = graph("MatMul", by_head(query, [0, 2, 1, 3]), by_head(key, [0, 2, 3, 1]))
    attended = graph("MatMul", graph("Softmax", logits, axis=-1), by_head(value, [0, 2, 1, 3]))
    return _dense(graph, _flat(graph, graph("Transpose", attended, perm=[0, 2, 1, 3]), channels), own["output"])


def _mix_ffn(graph: Graph, tokens: str, size: str, own: Weights) -> str:
    """`model.MixFFN` on tokens."""
    hidden = own["depthwise"]["bias"].size
    wide = _turned(graph, _dense(graph, tokens, own["expand"]), size)
    kernel = own["depthwise"]["kernel"][:, :, None, :]
    mixed = _convolve(graph, wide, own["depthwise"] | {"kernel": kernel}, pads=[1] * 4, group=hidden)
    return _dense(graph, graph("Gelu", _tokens(graph, mixed, hidden)), own["project"])


def _aggregate(graph: Graph, maps: list[str], size: str, config: Model, own: Weights) -> str:
    """`model.Aggregation`: the tokens of a stage's branches become one matrix of tokens."""
    if len(maps) == 1:
        return maps[0]
    if config.channel_reweighting:
        maps = [graph("Reshape", tokens, size) for tokens in maps]
        pixels = graph.constant([1, 2], np.int64)
        means = graph("Concat", *(graph("ReduceMean", m, pixels, keepdims=0) for m in maps), axis=1)
        gated = []
        for name, branch in zip(config.branch_names, maps, strict=True):
            hidden = graph("Relu", _dense(graph, means, own[f"{name}_squeeze"]))
            gate = graph("Sigmoid", _dense(graph, hidden, own[f"{name}_gate"]))
            weighted = graph("Mul", branch, graph("Unsqueeze", gate, pixels))
            gated.append(_flat(graph, weighted, own[f"{name}_gate"]["bias"].size))
        maps = gated
    return _dense(graph, graph("Concat", *maps, axis=1), own["join"])


def _decode(graph: Graph, features: list[str], sizes: list[str], config: Model, own: Weights, moments: Weights) -> str:
    """`model.Decoder`: tokens of each stage to logits [batch, rows, columns, class] at the size of the first.

    Resizing is a matrix of rows times the map times a matrix of columns; the stages share the product of rows, as in
    `layers.sum_resized`.
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
        """A map's side, and the one that it is to have."""
        return _side(graph, size, axis), _side(graph, sizes[0], axis)

    # The shares of a resize sum to one, so what is added to a pixel may be added before.
    added = graph.constant(bias)
    if len(features) > 1:
        *between, smallest = zip(features[1:], kernels[1:], strict=True)
        maps = [*(graph("MatMul", *pair) for pair in between), graph("Gemm", *smallest, added)]
        stretched = [
            graph("MatMul", _resizing(graph, *sides(size, 2)), graph("Reshape", tokens, size))
            for tokens, size in zip(maps, sizes[1:], strict=True)
        ]
        lines = graph("Reshape", graph("Concat", *stretched, axis=1), graph.constant([0, 0, -1], np.int64))
        rows = graph("Concat", *(_resizing(graph, *sides(size, 1)) for size in sizes[1:]), axis=1)
        added = _flat(graph, graph("MatMul", rows, lines), config.decoder_width)
    joined = graph("Gemm", features[0], kernels[0], added)
    logits = _dense(graph, graph("Relu", joined), {"kernel": own["classify_kernel"], "bias": own["classify_bias"]})
    return graph("Reshape", logits, sizes[0])


def _resizing(graph: Graph, given: str, wanted: str) -> str:
    """The matrix [wanted, given] that resizes a line of `given` pixels: bilinear, half-pixel centres.

    The share of place j in the pixel centred at c = (i + 0.5) given / wanted - 0.5 is 1 - |c - j|, where that is positive. In whole
    numbers up to the last division, as `layers._bilinear`.
    """
    zero, one, two = (graph.constant(number, np.int64) for number in (0, 1, 2))
    unit = graph("Mul", two, wanted)  # twice `wanted`: what all below is in
    odd = graph("Add", graph("Mul", graph("Range", zero, wanted, one), two), one)
    last = graph("Mul", unit, graph("Sub", given, one))
    centre = graph("Min", graph("Max", graph("Sub", graph("Mul", odd, given), wanted), zero), last)
    places = graph("Mul", graph("Range", zero, given, one), unit)
    distance = graph("Abs", graph("Sub", graph("Unsqueeze", centre, graph.constant([1], np.int64)), places))
    return graph("Relu", graph("Sub", graph.constant(1.0), graph("Div", _float(graph, distance), _float(graph, unit))))


def _classify(graph: Graph, logits: str, sensor: str, whole: list[str], temperature: float) -> None:
    """Logits [batch, rows, columns, class] to the outputs, at the size of the input `sensor`."""
    given, wanted = graph("Shape", logits), graph("Shape", sensor)
    rows, columns = (_resizing(graph, *(_side(graph, size, axis) for size in (given, wanted))) for axis in (1, 2))
    logits = graph("Transpose", graph("Mul", logits, graph.constant(1.0 / temperature)), perm=[0, 3, 1, 2])
    logits = graph("MatMul", graph("MatMul", rows, logits), graph("Transpose", columns, perm=[1, 0]))
    logits = graph("Transpose", logits, perm=[0, 2, 3, 1])
    graph("Softmax", logits, axis=-1, output="probabilities")
    likeliest = graph("Cast", graph("ArgMax", logits, axis=-1, keepdims=0), to=TensorProto.UINT8)
    valid = graph("Cast", graph("Min", *whole), to=TensorProto.BOOL)
    graph("Where", valid, likeliest, graph.constant(bands.IGNORE, np.uint8), output="classes")


def _convolve(graph: Graph, maps: str, own: Weights, **attributes: Any) -> str:
    """A convolution of [batch, channel, row, column]; the kernel as flax has it."""
    kernel = np.transpose(own["kernel"], (3, 2, 0, 1))
    return graph("Conv", maps, graph.weight(kernel, 0), graph.constant(own["bias"]), **attributes)


def _side(graph: Graph, size: str, axis: int) -> str:
    return graph("Gather", size, graph.constant(axis, np.int64))


def _batch(graph: Graph, size: str) -> str:
    return graph("Gather", size, graph.constant([0], np.int64))


def _turned(graph: Graph, tokens: str, size: str) -> str:
    """[pixel, channel] to [batch, channel, row, column]."""
    return graph("Transpose", graph("Reshape", tokens, size), perm=[0, 3, 1, 2])


def _tokens(graph: Graph, turned: str, channels: int) -> str:
    """[batch, channel, row, column] to [pixel, channel]."""
    return _flat(graph, graph("Transpose", turned, perm=[0, 2, 3, 1]), channels)


def _flat(graph: Graph, maps: str, channels: int) -> str:
    return graph("Reshape", maps, graph.constant([-1, channels], np.int64))


def _dense(graph: Graph, tokens: str, own: Weights) -> str:
    return graph("Gemm", tokens, graph.weight(own["kernel"], 1), graph.constant(own["bias"]))


def _norms(graph: Graph, maps: list[str], kind: str, config: Model, part: Weights) -> list[str]:
    names = config.branch_names
    return [_norm(graph, tokens, config, part[f"{name}_{kind}"]) for name, tokens in zip(names, maps, strict=True)]


def _norm(graph: Graph, tokens: str, config: Model, own: Weights) -> str:
    scale, bias = graph.constant(own["scale"]), graph.constant(own["bias"])
    return graph("LayerNormalization", tokens, scale, bias, axis=-1, epsilon=config.layer_norm_epsilon)


def _add(graph: Graph, maps: list[str], residuals: list[str]) -> list[str]:
    return [graph("Add", tokens, residual) for tokens, residual in zip(maps, residuals, strict=True)]


def _float(graph: Graph, value: str) -> str:
    return graph("Cast", value, to=TensorProto.FLOAT)


def _metadata(trained: Trained, quantise: bool) -> dict[str, str]:
    return {
        "format": FORMAT,
        "software": f"specsar_jax {specsar_jax.__version__}",
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
