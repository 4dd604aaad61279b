"""The network in PyTorch, with the weights of an exported bundle: to run it, or to go on training it.

    network = torch_model.load("specsar.safetensors")      # an nn.Module, in eval mode
    logits = network(s2, s1)                               # digital numbers and dB in, [batch, band, height, width]
    probabilities = network.probabilities(s2, s1)          # at the calibrated temperature
    network.train(); ...; torch_model.save(network, "tuned.safetensors")

This one file needs torch, numpy and safetensors, but neither JAX nor the rest of this package: it may be copied
elsewhere. The network is that of `specsar_jax/network`, module by module and under the names of the bundle.
`network.bands` are its bands in their order, `network.classes` the names of its classes. In `train()`, BatchNorm uses
the moments of the batch, and dropout and stochastic depth are as in the config of the bundle (`network.config`).

Inside, maps are [batch, row, column, channel]; permuted, PyTorch's convolutions take them as they are (channels_last).
"""

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

FORMATS = ("specsar_jax bundle 2", "specsar_jax bundle 1")
"""Formats of bundles that `load` reads; `save` writes the first."""

SMALLEST_SIZE_PX = 32
"""Smallest height and width of a tile."""
_MOST_BLOCKS = 64


def load(path: str | os.PathLike[str]) -> "SpecSARFormer":
    """Reads the network of a bundle.

    Args:
        path: safetensors file of `specsar_jax.export`, or a folder with it as `model.safetensors`.

    Returns:
        the module in eval mode, float32, on the CPU.

    Raises:
        ValueError: the file is cut short or altered, or not a bundle.
    """
    path = Path(path, "model.safetensors") if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise ValueError(f"no bundle {path}; expected a file of specsar_jax.export, or a folder with model.safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") not in FORMATS:
                raise ValueError(f"its format is {str(metadata.get('format'))[:40]!r}, expected {FORMATS[0]!r}")
            # On the meta device weights take no memory, however large the sizes in the config are.
            with torch.device("meta"):
                network = SpecSARFormer(metadata)
            _fill(network, file)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, RuntimeError, OSError) as error:
        reason = " ".join((f"no {error}" if isinstance(error, KeyError) else str(error)).split())[:300]
        raise ValueError(f"{path} is not a whole bundle of specsar_jax.export ({reason})") from None
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from None
    if metadata["format"] == FORMATS[0] and metadata.get("weights_sha256") != _sha256(_named_weights(network)):
        raise ValueError(f"{path} is broken: its weights are not those that were written")
    return network.eval()


def save(network: "SpecSARFormer", path: str | os.PathLike[str]) -> None:
    """Writes the network as a bundle for `specsar_jax` and `load`; the file appears only when it is complete.

    The temperature is `network.temperature`. Set it to 1.0 after more training, unless you calibrate again.
    """
    path, weights = Path(path), _named_weights(network)
    facts = {name: value for name, value in network.metadata.items() if name != "metadata_sha256"} | {
        "format": FORMATS[0],
        "dtype": "float32",
        "temperature": repr(float(network.temperature)),
        "config": json.dumps(network.config),
        "weights_sha256": _sha256(weights),
    }
    facts["metadata_sha256"] = hashlib.sha256(json.dumps(sorted(facts.items())).encode()).hexdigest()
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")  # as `written_whole`, which this file cannot import
    try:
        with partial.open("xb") as file:
            file.write(safetensors.torch.save(weights, metadata=facts))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class SpecSARFormer(nn.Module):
    """The network that the metadata of a bundle describes: digital numbers and decibels in, logits out."""

    def __init__(self, metadata: dict[str, str]) -> None:
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
            of_branches = (spectral, width - spectral) if model["branches"] == "both" else (width,)
            widths = dict(zip(self.branch_names, of_branches, strict=True))
            own_rates, rates = rates[: model["blocks"][stage]], rates[model["blocks"][stage] :]
            self.add_module(f"stage{stage + 1}", Stage(model, stage, channels, widths, own_rates))
            if len(widths) == 2:
                self.add_module(f"mmam{stage + 1}", Aggregation(model, widths))
            channels = of_branches
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
        """Calibrated probabilities [batch, class, height, width]; arguments as for `forward`."""
        return (self(s2, s1) / self.temperature).softmax(dim=1)

    def _standardised(self, sensor: str, values: Tensor | None) -> Tensor:
        """Clipped to the percentiles of the band, minus its mean, divided by its standard deviation; 0 without data."""
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


def _bundle_names(network: SpecSARFormer) -> dict[str, list[str]]:
    """For each tensor of a bundle, its weights by their names in `state_dict`: one for each block that it stacks."""
    names: dict[str, list[str]] = {}
    for key in network.state_dict():
        *parts, attribute = key.split(".")
        if attribute == "num_batches_tracked":
            continue
        normalises = parts[-1].endswith("norm")
        parts = [part for part in parts if not part.isdigit()]  # without the number of the block
        collection = "batch_stats" if attribute.startswith("running_") else "params"
        leaf = {"weight": "scale" if normalises else "kernel"}.get(attribute, attribute.removeprefix("running_"))
        joint = "_" if parts[0] == "decoder" and not normalises else "."
        names.setdefault(f"{collection}.{'.'.join(parts)}{joint}{leaf}", []).append(key)
    return names


def _in_bundle(weight: Tensor, name: str) -> Tensor:
    """A weight with its axes in the order of the bundle: kernels are [row, column, channel in, channel out]."""
    permuted = weight.permute({1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}[weight.ndim])
    return permuted.squeeze(2) if name.endswith(".depthwise.kernel") else permuted  # it has no axis of channels in


def _fill(network: SpecSARFormer, file: Any) -> None:
    """Puts the weights of a bundle into a network on the meta device. Raises ValueError if they do not fit."""
    wanted, empty = _bundle_names(network), network.state_dict()
    names = set(file.keys())
    if names != wanted.keys():
        raise ValueError(f"tensor {min(names ^ wanted.keys())[:80]!r} is missing, or none of this network's")
    filled = {"decoder.norm.num_batches_tracked": torch.zeros((), dtype=torch.long)}
    for name, keys in wanted.items():
        stacked = ".blocks." in name
        shape = (len(keys),) * stacked + tuple(_in_bundle(empty[keys[0]], name).shape)
        found = tuple(file.get_slice(name).get_shape())
        if found != shape:
            raise ValueError(f"tensor {name} should have shape {shape}, found {found}")
        stored = file.get_tensor(name).to(torch.float32)
        if not stored.isfinite().all():
            raise ValueError(f"tensor {name} holds numbers that are not finite")
        for key, own in zip(keys, stored if stacked else [stored], strict=True):
            own = own.unsqueeze(2) if name.endswith(".depthwise.kernel") else own
            filled[key] = own.permute({1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[own.ndim]).contiguous()
    network.load_state_dict(filled, assign=True)


def _named_weights(network: SpecSARFormer) -> dict[str, Tensor]:
    """The weights under their names in a bundle, float32; those of the blocks of a stage are one tensor."""
    state, weights = network.state_dict(), {}
    for name, keys in _bundle_names(network).items():
        own = [_in_bundle(state[key].to("cpu", torch.float32), name).contiguous() for key in keys]
        weights[name] = torch.stack(own) if ".blocks." in name else own[0]
    return weights


def _sha256(weights: dict[str, Tensor]) -> str:
    """SHA-256 of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for _, tensor in sorted(weights.items(), key=lambda item: item[0].split(".")):
        digest.update(tensor.numpy())
    return digest.hexdigest()
