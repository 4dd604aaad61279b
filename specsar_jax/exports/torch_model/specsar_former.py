"""SpecSAR-Former, that of `specsar_jax/network`. Inside, maps are [batch, row, column, channel]; permuted, PyTorch's
convolutions take them as they are (channels_last).
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .pixels import PixelNetwork

_MOST_BLOCKS = 64


class SpecSARFormer(PixelNetwork):
    """The network that the metadata of a bundle describes: digital numbers and decibels in, logits out."""

    def __init__(self, metadata: dict[str, str]) -> None:
        super().__init__(metadata)
        model = self.config["model"]
        if sum(model["blocks"]) > _MOST_BLOCKS or not 1 <= len(model["widths"]) <= 4:
            raise ValueError(f"{sum(model['blocks'])} blocks in {len(model['widths'])} stages are no network")
        self.branch_names = ("spectral", "sar") if model["branches"] == "both" else (model["branches"],)
        rates = np.linspace(0.0, model["drop_path"], sum(model["blocks"]), dtype=np.float32).tolist()
        channels = tuple(len(self.bands[sensor]) for sensor in self.sensors)
        channels = (sum(channels),) if model["branches"] == "stacked" else channels
        for stage, width in enumerate(model["widths"]):
            spectral = round(width * model["spectral_share"])
            of_branches = (spectral, width - spectral) if model["branches"] == "both" else (width,)
            widths = dict(zip(self.branch_names, of_branches, strict=True))
            own_rates, rates = rates[: model["blocks"][stage]], rates[model["blocks"][stage] :]
            self.add_module(f"stage{stage + 1}", Stage(model, stage, channels, widths, own_rates))
            if len(widths) == 2:
                self.add_module(f"mmam{stage + 1}", Aggregation(model, widths))
            channels = of_branches
        self.decoder = Decoder(model)

    def scaled_logits(self, maps: list[Tensor]) -> Tensor:
        """Logits [batch, class, height, width] of the scaled maps [batch, band, height, width] of each sensor, float32."""
        size = maps[0].shape[2:]
        if len(self.branch_names) < len(maps):
            maps = [torch.cat(maps, dim=1)]
        maps = [m.permute(0, 2, 3, 1).to(self.decoder["classify"].weight.dtype) for m in maps]
        features = []
        for stage in range(1, len(self.config["model"]["widths"]) + 1):
            maps = self.get_submodule(f"stage{stage}")(maps)
            features.append(maps[0] if len(maps) == 1 else self.get_submodule(f"mmam{stage}")(maps))
        return _resized(self.decoder(features), size)


class Stage(nn.ModuleDict):
    """Patch embedding of each branch, then DMEM blocks, then a LayerNorm of each branch.

    `channels` of each branch come in, `widths` go out; each block has its own of the stochastic-depth `rates`.
    """

    def __init__(
        self, model: dict, stage: int, channels: tuple[int, ...], widths: dict[str, int], rates: list[float]
    ) -> None:
        super().__init__()
        self.names = tuple(widths)
        patch, stride = (7, 4) if stage == 0 else (3, 2)
        for before, (name, width) in zip(channels, widths.items(), strict=True):
            self[f"{name}_embed"] = Convolution(before, width, patch, stride, patch // 2)
            self[f"{name}_embed_norm"] = nn.LayerNorm(width, model["layer_norm_epsilon"])
            self[f"{name}_norm"] = nn.LayerNorm(width, model["layer_norm_epsilon"])
        self["blocks"] = nn.ModuleList(DMEMBlock(model, stage, widths, rate) for rate in rates)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of the branches to maps of a half or a quarter of the size."""
        maps = _each(self, "embed_norm", _each(self, "embed", maps))
        for block in self["blocks"]:
            maps = block(maps)
        return _each(self, "norm", maps)


class DMEMBlock(nn.ModuleDict):
    """Self-attention in each branch, attention of each branch to the other, Mix-FFN; each with a residual connection."""

    def __init__(self, model: dict, stage: int, widths: dict[str, int], drop_path: float) -> None:
        super().__init__()
        self.names, self.drop_path = tuple(widths), drop_path
        heads, reduction, epsilon = model["heads"][stage], model["reductions"][stage], model["layer_norm_epsilon"]
        kinds = ("self", "cross") if len(widths) == 2 and model["cross_attention"] else ("self",)
        for name, width in widths.items():
            for kind in kinds:
                context_width = width if kind == "self" else sum(widths.values()) - width
                self[f"{name}_{kind}_norm"] = nn.LayerNorm(width, epsilon)
                self[f"{name}_{kind}"] = Attention(width, context_width, heads, reduction, epsilon)
            self[f"{name}_ffn_norm"] = nn.LayerNorm(width, epsilon)
            self[f"{name}_ffn"] = MixFFN(width, model["mlp_ratio"])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of the branches, of the same shapes."""
        normed = _each(self, "self_norm", maps)
        maps = self._add(maps, _each(self, "self", normed, normed))
        if f"{self.names[0]}_cross" in self:
            normed = _each(self, "cross_norm", maps)
            maps = self._add(maps, _each(self, "cross", normed, normed[::-1]))
        return self._add(maps, _each(self, "ffn", _each(self, "ffn_norm", maps)))

    def _add(self, maps: list[Tensor], residuals: list[Tensor]) -> list[Tensor]:
        """Adds residuals to maps; in training, drops those of a whole tile at random (stochastic depth)."""
        if self.training and self.drop_path > 0.0:
            keep = [torch.rand(r.shape[0], 1, 1, 1, device=r.device) >= self.drop_path for r in residuals]
            residuals = [torch.where(k, r / (1.0 - self.drop_path), 0.0) for k, r in zip(keep, residuals, strict=True)]
        return [m + r for m, r in zip(maps, residuals, strict=True)]


class Attention(nn.ModuleDict):
    """Multi-head attention of every pixel of a map to a spatially reduced context, from `width` channels to as many."""

    def __init__(self, width: int, context_width: int, heads: int, reduction: int, epsilon: float) -> None:
        super().__init__()
        self.heads = heads
        self["query"] = nn.Linear(width, width)
        self["key_value"] = nn.Linear(context_width, 2 * width)
        self["output"] = nn.Linear(width, width)
        if reduction > 1:
            self["reduce"] = Convolution(context_width, context_width, reduction, reduction)
            self["reduce_norm"] = nn.LayerNorm(context_width, epsilon)

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """A map of the shape of `query`."""
        if "reduce" in self:
            context = self["reduce_norm"](self["reduce"](context))

        def by_head(x: Tensor) -> Tensor:
            return x.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)

        key, value = self["key_value"](context).chunk(2, dim=-1)
        attended = functional.scaled_dot_product_attention(*map(by_head, (self["query"](query), key, value)))
        return self["output"](attended.transpose(1, 2).reshape(query.shape))


class MixFFN(nn.ModuleDict):
    """Dense, depthwise 3x3, GELU, Dense; `ratio` times as wide inside."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self["expand"] = nn.Linear(width, ratio * width)
        self["depthwise"] = Convolution(ratio * width, ratio * width, 3, padding=1, groups=ratio * width)
        self["project"] = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        return self["project"](functional.gelu(self["depthwise"](self["expand"](x))))


class Aggregation(nn.ModuleDict):
    """MMAM: weighs the channels of both branches by their means over the whole tile, then joins the branches."""

    def __init__(self, model: dict, widths: dict[str, int]) -> None:
        super().__init__()
        self.names, self.reweighted = tuple(widths), model["channel_reweighting"]
        width = sum(widths.values())
        for name, channels in widths.items() if self.reweighted else ():
            self[f"{name}_squeeze"] = nn.Linear(width, model["mmam_ratio"] * width)
            self[f"{name}_gate"] = nn.Linear(model["mmam_ratio"] * width, channels)
        self["join"] = nn.Linear(width, width)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """One map of both branches."""
        if self.reweighted:
            means = torch.cat([m.mean(dim=(1, 2), keepdim=True) for m in maps], dim=-1)
            hidden = _each(self, "squeeze", [means] * len(maps))
            gates = _each(self, "gate", [functional.relu(h) for h in hidden])
            maps = [m * gate.sigmoid() for m, gate in zip(maps, gates, strict=True)]
        return self["join"](torch.cat(maps, dim=-1))


class Decoder(nn.ModuleDict):
    """All-MLP decoder; multiplies the two matrices of a stage before it applies them (`specsar_jax.network.decoder`)."""

    def __init__(self, model: dict) -> None:
        super().__init__()
        width = model["decoder_width"]
        for stage, channels in enumerate(model["widths"], start=1):
            self[f"project{stage}"] = nn.Linear(channels, width)
            self[f"join{stage}"] = nn.Linear(width, width, bias=False)
        self["norm"] = nn.BatchNorm2d(width, model["batch_norm_epsilon"], momentum=0.1)
        self["classify"] = nn.Linear(width, model["classes"])
        self.dropout = model["dropout"]

    def forward(self, features: list[Tensor]) -> Tensor:
        """Maps of the stages to logits [batch, class, row, column] of the size of the first map."""
        joined = torch.zeros(())
        for stage, feature in enumerate(features, start=1):
            project, join = self[f"project{stage}"], self[f"join{stage}"]
            small = functional.linear(feature, join.weight @ project.weight, join.weight @ project.bias)
            joined = joined + _resized(small.permute(0, 3, 1, 2), features[0].shape[1:3])
        hidden = functional.dropout(functional.relu(self["norm"](joined)), self.dropout, self.training)
        return self["classify"](hidden.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Convolution(nn.Conv2d):
    """A convolution of [batch, row, column, channel]."""

    def forward(self, x: Tensor) -> Tensor:
        """A map in the same layout."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _each(modules: nn.ModuleDict, kind: str, *inputs: list[Tensor]) -> list[Tensor]:
    """For each branch, its module of a kind applied to its map of each of the inputs."""
    return [modules[f"{name}_{kind}"](*maps) for name, *maps in zip(modules.names, *inputs, strict=True)]


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """[batch, channel, row, column] resized: bilinear, half-pixel centres, no antialias."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
