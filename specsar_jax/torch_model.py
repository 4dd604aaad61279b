"""The network for PyTorch, with the weights of an exported bundle: for those who use it, or go on training it, there.

    network = torch_model.load("specsar.safetensors")      # an nn.Module, in eval mode
    logits = network(s2, s1)                               # digital numbers and dB in, [batch, band, height, width]
    probabilities = network.probabilities(s2, s1)          # at the temperature of the calibration
    network.train(); ...; torch_model.save(network, "tuned.safetensors")

This one file needs torch, numpy and safetensors, and neither JAX nor the rest of this package: it may be copied elsewhere. The
network is that of `model.py`, block by block and under the names of the bundle; `network.bands` are its bands in their order,
`network.classes` the names of its classes. In `train()`, BatchNorm takes the batch's moments, and dropout and stochastic depth are
as the config in the bundle has them (`network.config`).

Maps are [batch, row, column, channel] inside, which PyTorch's convolutions take, turned, as they are (channels_last).
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

FORMATS = ("specsar_jax bundle 2", "specsar_jax bundle 1")
"""Of bundles; the first is what `save` writes."""

SMALLEST_SIZE_PX = 32

_MOST_BLOCKS = 64


def load(path: str | os.PathLike[str]) -> "SpecSARFormer":
    """The network of a bundle.

    Args:
        path: safetensors file of `specsar_jax.export`, or a folder with it as `model.safetensors`.

    Returns:
        the module in eval mode, float32, on the CPU.

    Raises:
        ValueError: the file is cut short or altered, or not a bundle.
    """
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"no bundle {path}; expected a file of specsar_jax.export, or a folder with model.safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") not in FORMATS:
                raise ValueError(f"its format is {str(metadata.get('format'))[:40]!r}, expected {FORMATS[0]!r}")
            # Without memory for weights, whatever sizes the config tells.
            with torch.device("meta"):
                network = SpecSARFormer(metadata)
            _fill(network, file)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, RuntimeError, OSError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path} is not a whole bundle of specsar_jax.export ({' '.join(reason.split())[:300]})"
        ) from None
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from None
    told = metadata.get("weights_sha256")
    if metadata["format"] == FORMATS[0] and told != _sha256(_named_weights(network)):
        raise ValueError(f"{path} is broken: its weights are not those that were written")
    return network.eval()


def save(network: "SpecSARFormer", path: str | os.PathLike[str]) -> None:
    """Writes the network as a bundle, which `specsar_jax` and `load` take; whole or not at all.

    The temperature is `network.temperature`: after more training, 1.0 unless it was fitted anew.
    """
    path = Path(path)
    weights = _named_weights(network)
    facts = network.metadata | {
        "format": FORMATS[0],
        "dtype": "float32",
        "temperature": repr(float(network.temperature)),
        "config": json.dumps(network.config),
        "weights_sha256": _sha256(weights),
    }
    facts.pop("metadata_sha256", None)
    facts["metadata_sha256"] = hashlib.sha256(json.dumps(sorted(facts.items())).encode()).hexdigest()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(safetensors.torch.save(weights, metadata=facts))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class SpecSARFormer(nn.Module):
    """Digital numbers and decibels in, logits out."""

    def __init__(self, metadata: dict[str, str]) -> None:
        """The network that a bundle's metadata tells of, with weights as PyTorch draws them."""
        super().__init__()
        self.metadata = dict(metadata)
        self.config: dict[str, Any] = json.loads(metadata["config"])
        self.temperature = float(metadata.get("temperature", 1.0))
        self.classes: tuple[str, ...] = tuple(json.loads(metadata["classes"]))
        model = self.config["model"]
        if sum(model["blocks"]) > _MOST_BLOCKS or not 1 <= len(model["widths"]) <= 4:
            raise ValueError(f"{sum(model['blocks'])} blocks in {len(model['widths'])} stages are no network")
        self.sensors = {"spectral": ("s2",), "sar": ("s1",)}.get(model["branches"], ("s2", "s1"))
        self.branch_names = ("spectral", "sar") if model["branches"] == "both" else (model["branches"],)
        statistics = json.loads(metadata["statistics"])
        self.bands = {sensor: tuple(statistics[sensor]["bands"]) for sensor in self.sensors}
        for sensor in self.sensors:
            for name in ("mean", "std", "p1", "p99"):
                numbers = torch.tensor(statistics[sensor][name], dtype=torch.float32, device="cpu")
                self.register_buffer(f"{sensor}_{name}", numbers[:, None, None], persistent=False)
        rates = np.linspace(0.0, model["drop_path"], sum(model["blocks"]), dtype=np.float32).tolist()
        channels = tuple(len(self.bands[sensor]) for sensor in self.sensors)
        channels = (sum(channels),) if model["branches"] == "stacked" else channels
        for stage, width in enumerate(model["widths"]):
            spectral = round(width * model["spectral_share"])
            widths = (spectral, width - spectral) if len(self.branch_names) == 2 else (width,)
            own_rates, rates = rates[: model["blocks"][stage]], rates[model["blocks"][stage] :]
            self.add_module(f"stage{stage + 1}", Stage(model, self.branch_names, stage, channels, widths, own_rates))
            if len(widths) == 2:
                self.add_module(f"mmam{stage + 1}", Aggregation(model, self.branch_names, stage, widths))
            channels = widths
        self.decoder = Decoder(model)

    def forward(self, s2: Tensor | None = None, s1: Tensor | None = None) -> Tensor:
        """Logits.

        Args:
            s2: digital numbers (reflectance x 10000), 0 without data; any type, [batch, band, height, width].
            s1: sigma0 in dB, NaN without data; likewise. A sensor that the network does not read may be None.

        Returns:
            float32 [batch, class, height, width].

        Raises:
            ValueError: a sensor in use is missing, has other bands or another size, or a side is under 32 pixels.
        """
        given = {"s2": s2, "s1": s1}
        maps = [self._standardised(sensor, given[sensor]) for sensor in self.sensors]
        size = maps[0].shape[2:]
        if any(m.shape[0] != maps[0].shape[0] or m.shape[2:] != size for m in maps):
            raise ValueError(f"s2 has shape {tuple(s2.shape)} and s1 {tuple(s1.shape)}: batch and size must agree")
        if len(self.branch_names) < len(maps):
            maps = [torch.cat(maps, dim=1)]
        maps = [m.permute(0, 2, 3, 1) for m in maps]
        features = []
        for stage in range(1, len(self.config["model"]["widths"]) + 1):
            maps = self.get_submodule(f"stage{stage}")(maps)
            features.append(maps[0] if len(maps) == 1 else self.get_submodule(f"mmam{stage}")(maps))
        return _resized(self.decoder(features), size)

    def probabilities(self, s2: Tensor | None = None, s1: Tensor | None = None) -> Tensor:
        """Calibrated probabilities, [batch, class, height, width]; arguments as of `forward`."""
        return (self(s2, s1) / self.temperature).softmax(dim=1)

    def _standardised(self, sensor: str, values: Tensor | None) -> Tensor:
        """Clipped to the band's percentiles, less its mean, over its deviation; 0 without data."""
        shape, count = (None if values is None else tuple(values.shape)), len(self.bands[sensor])
        if shape is None or len(shape) != 4 or shape[1] != count or min(shape[2:]) < SMALLEST_SIZE_PX:
            raise ValueError(
                f"{sensor} has shape {shape}, expected [batch, {count}, height, width] "
                f"with height and width of at least {SMALLEST_SIZE_PX} pixels"
            )
        mean, std, low, high = (getattr(self, f"{sensor}_{name}") for name in ("mean", "std", "p1", "p99"))
        values = values.to(torch.float32)
        valid = values != 0 if sensor == "s2" else values.isfinite()
        standardised = (torch.minimum(torch.maximum(values, low), high) - mean) / std.clamp(min=1e-6)
        return torch.where(valid, standardised, 0.0).to(self.decoder["classify"].weight.dtype)


class Stage(nn.ModuleDict):
    """Patch embedding of each branch, then DMEM blocks, then a LayerNorm of each branch."""

    def __init__(
        self,
        model: dict[str, Any],
        names: tuple[str, ...],
        stage: int,
        channels: tuple[int, ...],
        widths: tuple[int, ...],
        drop_path_rates: list[float],
    ) -> None:
        """`channels` of each branch come in, `widths` go out."""
        super().__init__()
        self.names = names
        patch, stride = (7, 4) if stage == 0 else (3, 2)
        for name, before, width in zip(names, channels, widths, strict=True):
            self[f"{name}_embed"] = nn.Conv2d(before, width, patch, stride, patch // 2)
            self[f"{name}_embed_norm"] = nn.LayerNorm(width, model["layer_norm_epsilon"])
            self[f"{name}_norm"] = nn.LayerNorm(width, model["layer_norm_epsilon"])
        self["blocks"] = nn.ModuleList(DMEMBlock(model, names, stage, widths, rate) for rate in drop_path_rates)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of the branches to maps of a half or a quarter of the size."""
        maps = [_convolved(self[f"{name}_embed"], m) for name, m in zip(self.names, maps, strict=True)]
        maps = _each(self, "embed_norm", maps)
        for block in self["blocks"]:
            maps = block(maps)
        return _each(self, "norm", maps)


class DMEMBlock(nn.ModuleDict):
    """Self-attention in each branch, attention of each branch to the other, Mix-FFN; residual around each."""

    def __init__(
        self, model: dict[str, Any], names: tuple[str, ...], stage: int, widths: tuple[int, ...], drop_path: float
    ) -> None:
        """`widths` of the branches."""
        super().__init__()
        self.names, self.drop_path = names, drop_path
        kinds = ("self", "cross") if len(names) == 2 and model["cross_attention"] else ("self",)
        heads, reduction, epsilon = model["heads"][stage], model["reductions"][stage], model["layer_norm_epsilon"]
        for place, (name, width) in enumerate(zip(names, widths, strict=True)):
            for kind in kinds:
                context = width if kind == "self" else widths[1 - place]
                self[f"{name}_{kind}_norm"] = nn.LayerNorm(width, epsilon)
                self[f"{name}_{kind}"] = Attention(width, context, heads, reduction, epsilon)
            self[f"{name}_ffn_norm"] = nn.LayerNorm(width, epsilon)
            self[f"{name}_ffn"] = MixFFN(width, model["mlp_ratio"])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of the branches, of the same shapes."""
        for kind in ("self", "cross", "ffn"):
            if f"{self.names[0]}_{kind}" not in self:
                continue
            normed = _each(self, f"{kind}_norm", maps)
            inputs = {"self": zip(normed, normed, strict=True), "cross": zip(normed, normed[::-1], strict=True)}
            residuals = (
                self[f"{name}_{kind}"](*pair)
                for name, pair in zip(self.names, inputs.get(kind, zip(normed, strict=True)), strict=True)
            )
            maps = [m + self._dropped(residual) for m, residual in zip(maps, residuals, strict=True)]
        return maps

    def _dropped(self, residual: Tensor) -> Tensor:
        """Stochastic depth: in training, the residual of a whole tile is left out with probability `drop_path`."""
        if not self.training or self.drop_path == 0.0:
            return residual
        keep = torch.rand(residual.shape[0], 1, 1, 1, device=residual.device) >= self.drop_path
        return torch.where(keep, residual / (1.0 - self.drop_path), 0.0)


class Attention(nn.ModuleDict):
    """Multi-head attention of every pixel of one map to a spatially reduced other one."""

    def __init__(self, width: int, context_width: int, heads: int, reduction: int, epsilon: float) -> None:
        """From `width` channels to as many; keys and values of `context_width`."""
        super().__init__()
        self.heads = heads
        self["query"] = nn.Linear(width, width)
        self["key_value"] = nn.Linear(context_width, 2 * width)
        self["output"] = nn.Linear(width, width)
        if reduction > 1:
            self["reduce"] = nn.Conv2d(context_width, context_width, reduction, reduction)
            self["reduce_norm"] = nn.LayerNorm(context_width, epsilon)

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """A map of the shape of `query`."""
        if "reduce" in self:
            context = self["reduce_norm"](_convolved(self["reduce"], context))

        def by_head(x: Tensor) -> Tensor:
            return x.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)

        key, value = self["key_value"](context).chunk(2, dim=-1)
        attended = functional.scaled_dot_product_attention(*map(by_head, (self["query"](query), key, value)))
        return self["output"](attended.transpose(1, 2).reshape(query.shape))


class MixFFN(nn.ModuleDict):
    """Dense, depthwise 3x3, GELU, Dense."""

    def __init__(self, width: int, ratio: int) -> None:
        """`ratio` times as wide inside."""
        super().__init__()
        self["expand"] = nn.Linear(width, ratio * width)
        self["depthwise"] = nn.Conv2d(ratio * width, ratio * width, 3, padding=1, groups=ratio * width)
        self["project"] = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape."""
        return self["project"](functional.gelu(_convolved(self["depthwise"], self["expand"](x))))


class Aggregation(nn.ModuleDict):
    """MMAM: weighs the channels of both branches by what the whole tile holds, then joins the branches."""

    def __init__(self, model: dict[str, Any], names: tuple[str, ...], stage: int, widths: tuple[int, ...]) -> None:
        """`widths` of the branches; their sum goes out."""
        super().__init__()
        self.names, self.reweighted = names, model["channel_reweighting"]
        width = sum(widths)
        hidden = model["mmam_ratio"] * model["widths"][stage]
        for name, channels in zip(names, widths, strict=True) if self.reweighted else ():
            self[f"{name}_squeeze"] = nn.Linear(width, hidden)
            self[f"{name}_gate"] = nn.Linear(hidden, channels)
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
    """All-MLP decoder in its factored form: the matrices of a stage are multiplied before they meet a map (`model.Decoder`)."""

    def __init__(self, model: dict[str, Any]) -> None:
        """From all stages to the classes."""
        super().__init__()
        width = model["decoder_width"]
        for stage, channels in enumerate(model["widths"], start=1):
            self[f"project{stage}"] = nn.Linear(channels, width)
            self[f"join{stage}"] = nn.Linear(width, width, bias=False)
        self["norm"] = nn.BatchNorm2d(width, model["batch_norm_epsilon"], momentum=0.1)
        self["classify"] = nn.Linear(width, model["classes"])
        self.dropout = model["dropout"]

    def forward(self, features: list[Tensor]) -> Tensor:
        """Maps of the stages to logits [batch, class, row, column] of the size of the first."""
        joined = torch.zeros(())
        for stage, feature in enumerate(features, start=1):
            project, join = self[f"project{stage}"], self[f"join{stage}"]
            small = functional.linear(feature, join.weight @ project.weight, join.weight @ project.bias)
            joined = joined + _resized(small.permute(0, 3, 1, 2), features[0].shape[1:3])
        hidden = functional.dropout(functional.relu(self["norm"](joined)), self.dropout, self.training)
        return self["classify"](hidden.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _each(modules: nn.ModuleDict, kind: str, maps: list[Tensor]) -> list[Tensor]:
    """Each branch's map through the branch's own module of a kind."""
    return [modules[f"{name}_{kind}"](m) for name, m in zip(modules.names, maps, strict=True)]


def _convolved(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    return convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear, half-pixel centres, no antialias; [batch, channel, row, column]."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def _places(network: SpecSARFormer) -> Iterator[tuple[nn.Module, str, str, int | None]]:
    """Where each weight of a bundle belongs: module, its attribute, name in the bundle, and which of the stacked blocks."""
    attributes = {"scale": "weight", "kernel": "weight", "bias": "bias"}
    for path, module in network.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm | nn.BatchNorm2d):
            continue
        parts = path.split(".")
        block = int(parts.pop(2)) if "blocks" in parts else None
        normalises = isinstance(module, nn.LayerNorm | nn.BatchNorm2d)
        # In the decoder, dense layers are no modules of their own there.
        joint = "_" if parts[0] == "decoder" and not normalises else "."
        for name in ("scale" if normalises else "kernel", "bias"):
            if getattr(module, attributes[name]) is not None:
                yield module, attributes[name], f"params.{'.'.join(parts)}{joint}{name}", block
        if isinstance(module, nn.BatchNorm2d):
            for name in ("mean", "var"):
                yield module, f"running_{name}", f"batch_stats.{'.'.join(parts)}.{name}", None


def _order(module: nn.Module, attribute: str) -> tuple[int, ...]:
    """Axes of PyTorch's weight, in the order in which the bundle has them: kernels end in channels in, channels out."""
    if attribute == "weight" and isinstance(module, nn.Linear):
        return (1, 0)
    if attribute == "weight" and isinstance(module, nn.Conv2d):
        return (2, 3, 1, 0)
    return (0,)


def _fill(network: SpecSARFormer, file: Any) -> None:
    """Puts the bundle's weights into a network on no device. Raises ValueError if they do not fit."""
    wanted: dict[str, list[tuple[nn.Module, str, int | None]]] = {}
    for module, attribute, name, block in _places(network):
        wanted.setdefault(name, []).append((module, attribute, block))
    names = set(file.keys())
    if names != wanted.keys():
        raise ValueError(f"tensor {min(names ^ wanted.keys())[:80]!r} is missing, or none of this network's")
    for name, places in wanted.items():
        module, attribute, block = places[0]
        shape = _in_bundle(getattr(module, attribute), module, attribute).shape
        shape = (len(places), *shape) if block is not None else tuple(shape)
        found = tuple(file.get_slice(name).get_shape())
        if found != shape:
            raise ValueError(f"tensor {name} should have shape {shape}, found {found}")
        stored = file.get_tensor(name).to(torch.float32)
        if not stored.isfinite().all():
            raise ValueError(f"tensor {name} holds numbers that are not finite")
        for module, attribute, block in places:
            own = stored if block is None else stored[block]
            empty = getattr(module, attribute)
            order = _order(module, attribute)
            if own.ndim == 3 and len(order) == 4:
                own = own.unsqueeze(2)  # depthwise kernels have no axis of channels in
            own = own.permute(np.argsort(order).tolist()).contiguous()
            setattr(module, attribute, nn.Parameter(own) if isinstance(empty, nn.Parameter) else own)
    network.decoder["norm"].num_batches_tracked = torch.zeros((), dtype=torch.long)


def _in_bundle(weight: Tensor, module: nn.Module, attribute: str) -> Tensor:
    """A weight with its axes as the bundle has them."""
    turned = weight.permute(_order(module, attribute))
    return turned.squeeze(2) if isinstance(module, nn.Conv2d) and module.groups > 1 and turned.ndim == 4 else turned


def _named_weights(network: SpecSARFormer) -> dict[str, Tensor]:
    """The weights by their names in a bundle, float32; those of the blocks of a stage are one tensor."""
    found: dict[str, Tensor | list[Tensor]] = {}
    for module, attribute, name, block in _places(network):
        own = _in_bundle(getattr(module, attribute).detach().to("cpu", torch.float32), module, attribute).contiguous()
        if block is None:
            found[name] = own
        else:
            found.setdefault(name, []).append(own)
    return {name: torch.stack(own) if isinstance(own, list) else own for name, own in found.items()}


def _sha256(weights: dict[str, Tensor]) -> str:
    """Of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for _, tensor in sorted(weights.items(), key=lambda item: item[0].split(".")):
        digest.update(tensor.numpy())
    return digest.hexdigest()
