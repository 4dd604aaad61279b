"""Bundles of `specsar_jax.export`: a network of one out, a tuned one back into one.

A bundle's tensors have the names of the modules here, without the numbers of blocks: those of a stage are stacked.
"""

import hashlib
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .dynamic_world import DynamicWorld
from .pixels import PixelNetwork
from .specsar_former import SpecSARFormer

FORMATS = ("specsar_jax bundle 2", "specsar_jax bundle 1")
"""Formats of bundles that `load` reads; `save` writes the first."""

ARCHITECTURES = {"specsar_former": SpecSARFormer, "dynamic_world": DynamicWorld}

_DEPTHWISE = re.compile(r"\.depth(wise|[123]?)\.kernel$")


def load(path: str | os.PathLike[str]) -> PixelNetwork:
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
                network = _network(metadata)
            _fill(network, file)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, RuntimeError, OSError) as error:
        reason = " ".join((f"no {error}" if isinstance(error, KeyError) else str(error)).split())[:300]
        raise ValueError(f"{path} is not a whole bundle of specsar_jax.export ({reason})") from None
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from None
    if metadata["format"] == FORMATS[0] and metadata.get("weights_sha256") != _sha256(_named_weights(network)):
        raise ValueError(f"{path} is broken: its weights are not those that were written")
    return network.eval()


def save(network: PixelNetwork, path: str | os.PathLike[str]) -> None:
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


def _network(metadata: dict[str, str]) -> PixelNetwork:
    """The network that the metadata of a bundle describe, without weights."""
    name = json.loads(metadata["config"])["model"].get("architecture", "specsar_former")  # older ones do not say it
    if name not in ARCHITECTURES:
        raise ValueError(f"its architecture is {str(name)[:40]!r}, expected {' or '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name](metadata)


def _bundle_names(network: PixelNetwork) -> dict[str, list[str]]:
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
    """A weight with its axes as in the bundle: kernels are [row, column, channel in, channel out], of depthwise
    convolutions without the channel in, of pointwise ones without row and column.
    """
    permuted = weight.permute({1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}[weight.ndim])
    if _DEPTHWISE.search(name):
        return permuted.squeeze(2)
    return permuted[0, 0] if permuted.shape[:-2] == (1, 1) else permuted


def _of_bundle(stored: Tensor, name: str, ndim: int) -> Tensor:
    """The inverse of `_in_bundle`, for a weight of `ndim` axes."""
    if _DEPTHWISE.search(name):
        stored = stored.unsqueeze(2)
    elif stored.ndim < ndim:
        stored = stored[None, None]
    return stored.permute({1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[ndim]).contiguous()


def _fill(network: PixelNetwork, file: Any) -> None:
    """Puts the weights of a bundle into a network on the meta device. Raises ValueError if they do not fit."""
    wanted, empty = _bundle_names(network), network.state_dict()
    names = set(file.keys())
    if names != wanted.keys():
        raise ValueError(f"tensor {min(names ^ wanted.keys())[:80]!r} is missing, or none of this network's")
    filled = {key: torch.zeros((), dtype=torch.long) for key in empty if key.endswith("num_batches_tracked")}
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
            filled[key] = _of_bundle(own, name, empty[key].ndim)
    network.load_state_dict(filled, assign=True)


def _named_weights(network: PixelNetwork) -> dict[str, Tensor]:
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
