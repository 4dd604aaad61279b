"""Nodes and constants of an ONNX graph, and the operators that the network is made of.

Enters: names of values in the graph and arrays of weights. Leaves: new nodes in the graph, and the names of their
results. Maps are [batch, channel, row, column]; tokens are the pixels of a map as a matrix [pixel, channel].
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

QUANTISED_FROM = 4096
"""Smallest number of elements for which a matrix is worth storing as int8; nearly all weights are in such matrices."""

Weights = Mapping[str, Any]
"""A part of the tree of weights: arrays by name, or further parts."""


class Graph:
    """Collects nodes and constants in the order of the computation. Values are known by their names."""

    def __init__(self, quantise: bool) -> None:
        self.quantise = quantise
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        name = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any, kind: type = np.float32) -> str:
        """Adds a constant and returns its name."""
        self.constants.append(
            onnx.numpy_helper.from_array(np.array(value, kind, order="C"), f"constant_{len(self.constants)}")
        )
        return self.constants[-1].name

    def weight(self, kernel: np.ndarray, axis: int) -> str:
        """Adds a float32 kernel; a large one in a quantised graph as int8, with a scale for each index along `axis`.

        A cast and a product are computed once, when the file is opened. With DequantizeLinear in their place,
        onnxruntime 1.32 used a slower matrix product.
        """
        if not self.quantise or kernel.size < QUANTISED_FROM:
            return self.constant(kernel)
        others = tuple(i for i in range(kernel.ndim) if i != axis)
        scale = np.abs(kernel).max(axis=others, keepdims=True) / 127
        scale = np.where(scale > 0, scale, 1.0)
        return self("Mul", self.to_float(self.constant(np.rint(kernel / scale), np.int8)), self.constant(scale))

    def to_float(self, value: str) -> str:
        """A value cast to float32."""
        return self("Cast", value, to=TensorProto.FLOAT)

    def sizes(self, *parts: str | int) -> str:
        """A vector of sizes, from numbers and from names of such vectors."""
        named = [part if isinstance(part, str) else self.constant([part], np.int64) for part in parts]
        return self("Concat", *named, axis=0)

    def size(self, sizes: str, axis: int | list[int]) -> str:
        """One of a vector of sizes: a scalar, or a vector where `axis` is a list."""
        return self("Gather", sizes, self.constant(axis, np.int64))

    def flat(self, values: str, channels: int) -> str:
        """[..., channel] as tokens."""
        return self("Reshape", values, self.constant([-1, channels], np.int64))

    def to_tokens(self, maps: str, channels: int) -> str:
        """Maps as tokens."""
        return self.flat(self("Transpose", maps, perm=[0, 2, 3, 1]), channels)

    def to_maps(self, tokens: str, shape: str) -> str:
        """Tokens as maps; `shape` is a vector [batch, row, column, -1]."""
        return self("Transpose", self("Reshape", tokens, shape), perm=[0, 3, 1, 2])

    def dense(self, tokens: str, own: Weights) -> str:
        """Tokens times the kernel, plus the bias."""
        return self("Gemm", tokens, self.weight(own["kernel"], 1), self.constant(own["bias"]))

    def convolve(self, maps: str, own: Weights, **attributes: Any) -> str:
        """A convolution of maps, with the kernel [row, column, channel in, channel out]."""
        kernel = np.transpose(own["kernel"], (3, 2, 0, 1))
        return self("Conv", maps, self.weight(kernel, 0), self.constant(own["bias"]), **attributes)

    def layer_norm(self, tokens: str, own: Weights, epsilon: float) -> str:
        """LayerNorm of each token."""
        scale, bias = self.constant(own["scale"]), self.constant(own["bias"])
        return self("LayerNormalization", tokens, scale, bias, axis=-1, epsilon=epsilon)

    def resizing_matrix(self, given: str, wanted: str) -> str:
        """The matrix [wanted, given] that resizes a line of `given` pixels: bilinear, half-pixel centres.

        Pixel j has the share 1 - |c - j|, where positive, in new pixel i, whose centre is c = (i + 0.5) given / wanted
        - 0.5. Computed in whole numbers up to the last division, as in `network.resizing`.
        """
        zero, one, two = (self.constant(number, np.int64) for number in (0, 1, 2))
        unit = self("Mul", two, wanted)  # centres and distances are in units of 1 / (2 * wanted)
        odd = self("Add", self("Mul", self("Range", zero, wanted, one), two), one)
        last = self("Mul", unit, self("Sub", given, one))
        centre = self("Min", self("Max", self("Sub", self("Mul", odd, given), wanted), zero), last)
        places = self("Mul", self("Range", zero, given, one), unit)
        distance = self("Abs", self("Sub", self("Unsqueeze", centre, self.constant([1], np.int64)), places))
        return self("Relu", self("Sub", self.constant(1.0), self("Div", self.to_float(distance), self.to_float(unit))))
