"""Reads files of pretrained weights, which strangers made: safetensors, and PyTorch's state dicts without running their code.

Enters: a path. Leaves: arrays by name, no larger than the file.
"""

import pickle
import re
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors

from tfds_dwplus.files.strangers import one_line


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file, or of the file of weights in a folder, in their own types.

    Raises:
        ValueError: the file is missing, incomplete or of another kind, holds other objects than tensors, or tensors of types that
            numpy does not have.
    """
    if path.is_dir():
        found = [file for file in (path / "model.safetensors", path / "pytorch_model.bin") if file.is_file()]
        if not found:
            raise ValueError(f"folder {path} has neither model.safetensors nor pytorch_model.bin")
        path = found[0]
    if not path.is_file():
        raise ValueError(f"no file of pretrained weights {path}")
    if path.suffix in (".bin", ".pt", ".pth"):
        return _read_torch(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is not a .safetensors, .bin, .pt or .pth file")
    return _read_safetensors(path)


_STORED = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
"""Types of safetensors that have one in numpy; float8 and smaller ones have not."""


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Reads all tensors. The library checks the header, and that the tensors neither overlap nor leave gaps."""
    try:
        stored = safetensors.deserialize(path.read_bytes())
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({one_line(error)})") from None
    tensors = {}
    for name, tensor in stored:
        if tensor["dtype"] not in _STORED:
            raise ValueError(
                f"{path}: tensor {one_line(name, 80)} is of type {tensor['dtype']}, expected F32, F16 or BF16; convert the file"
            )
        tensors[name] = np.frombuffer(tensor["data"], _STORED[tensor["dtype"]]).reshape(tensor["shape"])
    return tensors


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise ValueError(f"{path} needs torch (pip install torch), or convert it to safetensors") from None
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < (2, 10):
        raise ValueError(
            f"{path} is not read with torch {torch.__version__}, in which a file of weights can corrupt memory (CVE-2026-24747); "
            "expected torch 2.10 or later: pip install 'torch>=2.10', or convert the file to safetensors"
        )
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:  # its own message advises to run the code in the file
        raise ValueError(f"{path} is no PyTorch file, or holds objects other than tensors: not loaded") from None
    except Exception as error:  # broken files raise RuntimeError, EOFError, OSError and others
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is not a whole PyTorch file ({reason})") from None
    for key in ("state_dict", "model"):
        if isinstance(tree, dict) and isinstance(tree.get(key), dict):
            tree = tree[key]
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds a {type(tree).__name__}, expected a state dict")
    tensors = {name: value.detach() for name, value in tree.items() if isinstance(value, torch.Tensor)}
    most = path.stat().st_size
    found = {}
    for name, tensor in tensors.items():
        # A tensor may repeat one number over any shape.
        if not isinstance(name, str) or tensor.numel() * tensor.element_size() > most:
            raise ValueError(
                f"{path}: tensor {one_line(name, 80)} claims the shape {tuple(tensor.shape)}, more than the file"
            )
        try:
            found[name] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        except (RuntimeError, TypeError) as error:  # sparse, quantised, on no device
            raise ValueError(
                f"{path}: tensor {one_line(name, 80)} is no plain array ({one_line(error, 100)})"
            ) from None
    return found
