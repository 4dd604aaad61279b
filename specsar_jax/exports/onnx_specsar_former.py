"""SpecSAR-Former as nodes of an ONNX graph, built from the weights module by module as in `specsar_jax.network`.

Between the blocks a branch is a matrix of tokens [batch x height x width, channel], the input of Gemm and
LayerNormalization. Convolutions transpose it to [batch, channel, height, width] and back; runtimes fuse that with the
convolution. BatchNorm, the scale of the attention and the temperature are part of the weights.
"""

import math

import jax
import numpy as np

from specsar_jax.config import Model
from specsar_jax.exports.onnx_nodes import Graph, Weights


def specsar_former(graph: Graph, maps: list[str], config: Model, variables: Weights, temperature: float) -> str:
    """As `model.SpecSARFormer`, resized: scaled maps [batch, band, height, width] of each sensor to logits / temperature
    [batch, class, height, width].
    """
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), variables)
    given = graph("Shape", maps[0])
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
    moments = weights["batch_stats"]["decoder"]["norm"]
    logits = _decode(graph, features, sizes, config, params["decoder"], moments, temperature)
    sides = ((graph.size(sizes[0], axis), graph.size(given, axis + 1)) for axis in (1, 2))
    rows, columns = (graph.resizing_matrix(*pair) for pair in sides)
    return graph("MatMul", graph("MatMul", rows, logits), graph("Transpose", columns, perm=[1, 0]))


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


def _decode(
    graph: Graph,
    features: list[str],
    sizes: list[str],
    config: Model,
    own: Weights,
    moments: Weights,
    temperature: float,
) -> str:
    """As `decoder.Decoder`: tokens of each stage to logits / temperature [batch, class, rows, columns] of the size of the
    first stage.

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
    classify = {name: own[f"classify_{name}"] / np.float32(temperature) for name in ("kernel", "bias")}
    return graph.to_maps(graph.dense(graph("Relu", joined), classify), sizes[0])


def _norms(graph: Graph, maps: list[str], kind: str, config: Model, part: Weights) -> list[str]:
    """A LayerNorm of each branch."""
    names = config.branch_names
    return [
        graph.layer_norm(tokens, part[f"{name}_{kind}"], config.layer_norm_epsilon)
        for name, tokens in zip(names, maps, strict=True)
    ]


def _add(graph: Graph, maps: list[str], residuals: list[str]) -> list[str]:
    return [graph("Add", tokens, residual) for tokens, residual in zip(maps, residuals, strict=True)]
