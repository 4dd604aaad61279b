"""Dynamic World's network, that of `specsar_jax/network/dynamic_world.py`. Maps are [batch, channel, row, column]."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .pixels import PixelNetwork

STEM, BLOCKS, LOW = 64, (96, 144, 144), 48
"""Channels: of the first convolution, of each block, and of the features that pass by the first two blocks."""


SAR_MEAN_PX = 15
"""Side of the square over which backscatter is averaged."""


class DynamicWorld(PixelNetwork):
    """The network that the metadata of a bundle describes: digital numbers in, logits out."""

    def __init__(self, metadata: dict[str, str]) -> None:
        super().__init__(metadata)
        model = self.config["model"]
        if "s2" not in self.sensors:
            raise ValueError(f"it reads {' and '.join(self.sensors)}, but dynamic_world reads s2, alone or with s1")
        epsilon = model["batch_norm_epsilon"]
        self.stem = Layer(len(self.bands["s2"]), STEM, epsilon, 3)
        self.block1 = Block(STEM, BLOCKS[0], epsilon)
        self.block2 = Block(BLOCKS[0], BLOCKS[1], epsilon)
        self.low = nn.ModuleDict({"point": Layer(STEM, LOW, epsilon), "depth": Layer(LOW, LOW, epsilon, 3, groups=LOW)})
        self.block3 = Block(BLOCKS[1] + LOW, BLOCKS[2], epsilon)
        self.classify = nn.Conv2d(BLOCKS[2], model["classes"], 1)
        self.sar = nn.Conv2d(len(self.bands["s1"]), model["classes"], 1) if "s1" in self.sensors else None

    def scaled_logits(self, maps: list[Tensor]) -> Tensor:
        """Logits [batch, class, height, width] of the scaled maps [batch, band, height, width] of the sensors, float32."""
        size = maps[0].shape[2:]
        full = self.stem(maps[0].to(self.classify.weight.dtype))
        half = functional.interpolate(full, (size[0] // 2, size[1] // 2), mode="bilinear", antialias=True)
        deep = self.block2(self.block1(half))
        low = self.low["depth"](self.low["point"](half))
        features = self.block3(torch.cat([deep, low], dim=1))
        wide = functional.interpolate(features, size, mode="bilinear", align_corners=False)
        logits = self.classify(functional.normalize(wide, dim=1, eps=1e-6))
        if self.sar is None:
            return logits
        around = {"padding": SAR_MEAN_PX // 2, "count_include_pad": False}
        return logits + self.sar(functional.avg_pool2d(maps[1].to(logits.dtype), SAR_MEAN_PX, 1, **around))


class Block(nn.ModuleDict):
    """Three pairs of a pointwise and a depthwise convolution, beside which a pointwise one takes a short way."""

    def __init__(self, given: int, width: int, epsilon: float) -> None:
        super().__init__()
        for pair in (1, 2, 3):
            self[f"point{pair}"] = Layer(given if pair == 1 else width, width, epsilon)
            self[f"depth{pair}"] = Layer(width, width, epsilon, 3, groups=width)
        self["skip"] = Layer(given, width, epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same size."""
        deep = x
        for pair in (1, 2, 3):
            deep = self[f"depth{pair}"](self[f"point{pair}"](deep))
        return deep + self["skip"](x)


class Layer(nn.Conv2d):
    """A convolution with zeros around the map, BatchNorm, Mish."""

    def __init__(self, given: int, width: int, epsilon: float, side: int = 1, groups: int = 1) -> None:
        super().__init__(given, width, side, padding=side // 2, groups=groups)
        self.norm = nn.BatchNorm2d(width, epsilon, momentum=0.1)

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same size."""
        return functional.mish(self.norm(super().forward(x)))
