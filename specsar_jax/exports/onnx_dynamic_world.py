"""Dynamic World's network as nodes of an ONNX graph, layer by layer as in `specsar_jax.network.dynamic_world`.

Maps are [batch, channel, row, column]. BatchNorm and the temperature are part of the weights. Resize of opset 18 halves as the
network does, for even and odd sides, if it excludes what lies outside the map.
"""

import dataclasses

import numpy as np

from specsar_jax.config import Model
from specsar_jax.exports.onnx_nodes import Graph, Weights
from specsar_jax.network import dynamic_world as dynamic_world_network
from specsar_jax.network import model


def dynamic_world(graph: Graph, maps: list[str], config: Model, variables: Weights, temperature: float) -> str:
    """As `dynamic_world.apply`: the scaled maps [batch, band, height, width] of the sensors to logits / temperature
    [batch, class, height, width].
    """
    # Here the weights are float32, whatever type the network computes in.
    params = model.for_inference(variables, dataclasses.replace(config, compute_dtype="float32"))["params"]
    size = graph("Shape", maps[0], start=2)
    half = _resize(graph, _layer(graph, maps[0], params["stem"]), graph("Div", size, graph.constant([2], np.int64)), 1)
    deep = _block(graph, _block(graph, half, params["block1"]), params["block2"])
    low = _layer(graph, _layer(graph, half, params["low"]["point"]), params["low"]["depth"])
    features = _block(graph, graph("Concat", deep, low, axis=1), params["block3"])
    wide = _resize(graph, features, size, 0)
    squares = graph("ReduceSumSquare", wide, graph.constant([1], np.int64))
    length = graph("Sqrt", graph("Max", squares, graph.constant(1e-12)))
    kernel, bias = (np.asarray(params["classify"][name]) / np.float32(temperature) for name in ("kernel", "bias"))
    # The length divides nine logits rather than all features.
    logits = graph.convolve(wide, {"kernel": kernel[None, None], "bias": np.zeros_like(bias)})
    logits = graph("Add", graph("Div", logits, length), graph.constant(bias[:, None, None]))
    if "s1" not in config.sensors:
        return logits
    side, around = dynamic_world_network.SAR_MEAN_PX, dynamic_world_network.SAR_MEAN_PX // 2
    mean = graph("AveragePool", maps[1], kernel_shape=[side] * 2, pads=[around] * 4, count_include_pad=0)
    kernel, bias = (np.asarray(params["sar"][name]) / np.float32(temperature) for name in ("kernel", "bias"))
    return graph("Add", logits, graph.convolve(mean, {"kernel": kernel[None, None], "bias": bias}))


def _block(graph: Graph, x: str, own: Weights) -> str:
    deep = x
    for pair in (1, 2, 3):
        deep = _layer(graph, _layer(graph, deep, own[f"point{pair}"]), own[f"depth{pair}"])
    return graph("Add", deep, _layer(graph, x, own["skip"]))


def _layer(graph: Graph, x: str, own: Weights) -> str:
    """A convolution with zeros around the map, and Mish."""
    kernel, bias = np.asarray(own["kernel"]), np.asarray(own["bias"])
    if kernel.ndim == 2:
        x = graph.convolve(x, {"kernel": kernel[None, None], "bias": bias})
    elif kernel.ndim == 3:
        x = graph.convolve(x, {"kernel": kernel[:, :, None], "bias": bias}, pads=[1] * 4, group=bias.size)
    else:
        x = graph.convolve(x, {"kernel": kernel, "bias": bias}, pads=[1] * 4)
    # As `layers.mish`: of the operator Mish, onnxruntime 1.32 takes half as long again.
    two = graph.constant(2.0)
    e = graph("Exp", graph("Min", x, graph.constant(20.0)))
    n = graph("Mul", e, graph("Add", e, two))
    return graph("Mul", x, graph("Div", n, graph("Add", n, two)))


def _resize(graph: Graph, x: str, size: str, antialias: int) -> str:
    """A map resized to a vector of rows and columns: bilinear, half-pixel centres."""
    shape = graph("Concat", graph("Shape", x, end=2), size, axis=0)
    centres = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    return graph("Resize", x, "", "", shape, antialias=antialias, exclude_outside=antialias, **centres)
