"""Writes and reads a trained network as one file, the bundle: the weights and everything needed to use them.

Enters: a `Trained` network, or a file from an untrusted source. Leaves: a safetensors file with the weights by name and, in its
metadata, as text and JSON, config, bands, statistics, classes, temperature, provenance, licence and origin; or the network back. Reading
runs no code from the file. Sizes, shapes and settings are checked before memory is allocated; every fault is a one-line ValueError.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from specsar_jax import config as configs
from specsar_jax.batches.statistics import SensorStatistics, Statistics
from specsar_jax.config import Config
from specsar_jax.trained.trained_network import Trained
from specsar_jax.trained.weights import Shape, named_weights, shapes, unnamed
from specsar_jax.version import __version__
from tfds_dwplus import bands
from tfds_dwplus.files.outputs import write_whole
from tfds_dwplus.files.strangers import a_list, an_object, parse_json

BUNDLE_FORMAT = "specsar_jax bundle 2"

OLDER_FORMATS = ("specsar_jax bundle 1",)
"""Older formats that are read too; they have no checksums and no licence. `tests/bundles` holds one of each."""

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}
"""Types in which weights may be stored; they are read back as float32."""

_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}

_MOST_HEADER_BYTES = 1 << 20
_MOST_AXES = 5  # the stacked kernels of a looped stage
_MOST_SIGNS = 2000


def write_bundle(trained: Trained, path: Path, *, dtype: str = "float32") -> dict[str, str]:
    """Writes a network as one safetensors file.

    Args:
        trained: the network.
        path: path of the file.
        dtype: type of the stored weights, of `DTYPES`. BatchNorm's moments stay float32: a small variance would be 0 in float16.

    Returns:
        The metadata.

    Raises:
        ValueError: a weight is not finite, or is out of the type's range.
    """
    stored = as_stored(trained, dtype)
    weights = {
        name: np.asarray(values) if name.startswith("batch_stats.") else np.asarray(values).astype(DTYPES[dtype])
        for name, values in named_weights(stored.variables).items()
    }
    metadata = _metadata(stored, dtype)
    _described(metadata)  # raises if `read_bundle` would not accept it
    write_whole(path, safetensors.numpy.save(weights, metadata=metadata))
    return metadata


def as_stored(trained: Trained, dtype: str) -> Trained:
    """Returns the network as read back from a bundle of this type, with rounded float32 weights. Raises as `write_bundle`."""
    _check_line(trained.licence, "a licence", "give its name or address")
    _check_line(trained.origin, "an origin", "say who made the weights")

    def rounded(name: str, leaf: Any) -> np.ndarray:
        values = np.asarray(leaf, np.float32)
        if name.startswith("params."):
            with np.errstate(over="ignore"):  # checked below
                values = values.astype(DTYPES[dtype]).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"tensor {name} holds numbers that are not finite in {dtype}; try float32 or bfloat16")
        return values

    weights = {name: rounded(name, leaf) for name, leaf in named_weights(trained.variables).items()}
    return dataclasses.replace(trained, variables=unnamed(weights, trained.config.model))


def read_bundle(path: Path) -> Trained:
    """Reads a bundle of this format or an older one.

    Raises:
        ValueError: the file is truncated or altered, was not written by `write_bundle`, or its network is invalid or too large.
    """
    with path.open("rb") as file:
        with _naming(f"{path} is not a whole safetensors file"):
            found, metadata = _header(file)
        if metadata.get("format") not in (BUNDLE_FORMAT, *OLDER_FORMATS):
            given = f"{str(metadata.get('format'))[:40]!r}, expected {BUNDLE_FORMAT!r}"
            raise ValueError(f"{path} is not a bundle of specsar_jax.export: its format is {given} or an older one")
        with _naming(f"{path} is a broken bundle"):
            described = _described(metadata)
            _check_tensors(shapes(described.config.model), found)
            # Now it is safe to allocate memory: the file is as large as its network, whose size was checked.
            weights = _weights(file, found)
            trained = dataclasses.replace(described, variables=unnamed(weights, described.config.model))
            if metadata["format"] == BUNDLE_FORMAT and trained.sha256 != metadata.get("weights_sha256"):
                raise ValueError("its weights are not those that were written; they were altered")
    return trained


def _metadata(trained: Trained, dtype: str) -> dict[str, str]:
    facts = {
        "format": BUNDLE_FORMAT,
        "software": f"specsar_jax {__version__}",
        "dataset": trained.config.data.name,
        "step": str(trained.step),
        "dtype": dtype,
        "licence": trained.licence,
        "origin": trained.origin,
        "temperature": repr(float(trained.temperature)),
        "bands": json.dumps(trained.bands),
        "config": json.dumps(configs.to_dict(trained.config)),
        "statistics": json.dumps(trained.statistics.to_dict()),
        "classes": json.dumps(trained.classes.names),
        "class_colours": json.dumps(trained.classes.colours),
        "weights_sha256": trained.sha256,
    }
    return facts | {"metadata_sha256": _digest(facts)}


def _digest(metadata: Mapping[str, str]) -> str:
    """Returns the SHA-256 of all metadata except the digest itself."""
    digested = sorted((key, text) for key, text in metadata.items() if key != "metadata_sha256")
    return hashlib.sha256(json.dumps(digested).encode()).hexdigest()


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    """Turns any error from reading a broken file into a ValueError that begins with `what`."""
    try:
        yield
    # Raised by json, the constructors of config and statistics, safetensors and numpy if a value has the wrong type.
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        RecursionError,
        safetensors.SafetensorError,
    ) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        # Control characters are replaced: a terminal would execute them.
        shown = "".join(char if char.isprintable() else "?" for char in " ".join(reason.split())[:300])
        raise ValueError(f"{what} ({shown})") from None


class _Tensor(NamedTuple):
    """A tensor of a file: its type, its shape, and the bytes behind the header that it takes, from `start` to before `end`."""

    dtype: np.dtype
    shape: Shape
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes that its type and shape need."""
        return math.prod(self.shape) * self.dtype.itemsize


def _header(file: BinaryIO) -> tuple[dict[str, _Tensor], dict[str, str]]:
    """Reads the header: the tensors, in the order of their bytes, and the metadata; the file is then where the first tensor begins.

    Raises ValueError unless the tensors lie one behind the other, without gaps, and end where the file does.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise ValueError(f"it has {size} bytes; was it cut short?")
    if length > _MOST_HEADER_BYTES:
        raise ValueError(f"its header has {length} bytes, expected {_MOST_HEADER_BYTES} at most")
    header = an_object(parse_json(file.read(length), "its header"), "its header")
    metadata = an_object(header.pop("__metadata__", {}), "its metadata")
    if not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata holds something else than text")
    tensors = {name: _tensor(name, entry) for name, entry in header.items()}
    total = sum(tensor.size for tensor in tensors.values())
    if size != 8 + length + total:
        raise ValueError(f"it has {size} bytes, its tensors need {8 + length + total}; was it cut short?")
    tensors = dict(sorted(tensors.items(), key=lambda pair: pair[1][2:]))
    reached = 0
    for name, tensor in tensors.items():
        if (tensor.start, tensor.end) != (reached, reached + tensor.size):
            expected = f"expected {reached} to {reached + tensor.size}, by its shape and behind the tensor before"
            raise ValueError(f"tensor {name[:80]} takes bytes {tensor.start} to {tensor.end}, {expected}")
        reached = tensor.end
    return tensors, metadata


def _tensor(name: str, entry: Any) -> _Tensor:
    if entry["dtype"] not in _STORED:
        raise ValueError(f"tensor {name[:80]} is of type {entry['dtype']!r}, expected {', '.join(_STORED)}")
    shape, place = tuple(entry["shape"]), tuple(entry["data_offsets"])
    if len(shape) > _MOST_AXES or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"tensor {name[:80]} has no shape")
    if len(place) != 2 or not all(type(byte) is int and 0 <= byte < 2**63 for byte in place):
        raise ValueError(f"tensor {name[:80]} has no place in the file")
    return _Tensor(DTYPES[_STORED[entry["dtype"]]], shape, *place)


def _described(metadata: Mapping[str, str]) -> Trained:
    """Returns the network that the metadata describe, without weights. Raises ValueError if a setting is out of bounds."""
    if metadata["format"] == BUNDLE_FORMAT and metadata.get("metadata_sha256") != _digest(metadata):
        raise ValueError("its metadata is not what was written; it was altered")
    config = configs.from_dict(parse_json(metadata["config"], "its config", finite=False), checked=False)
    configs.check_usable(config)
    statistics = Statistics.from_dict(
        an_object(parse_json(metadata["statistics"], "its statistics", finite=False), "its statistics")
    )
    _check_statistics(config, statistics)
    _check_classes(config, statistics.classes, metadata)
    temperature = float(metadata.get("temperature", 1.0))  # the oldest bundles have none
    if not 1e-3 <= temperature <= 1e3:
        raise ValueError(f"a temperature of {temperature}, expected 0.001 to 1000")
    step = int(metadata["step"])
    licence, origin = (metadata.get(key, "") for key in ("licence", "origin"))
    _check_line(licence, "a licence", "give its name or address")
    _check_line(origin, "an origin", "say who made the weights")
    if not 0 <= step < 2**63:
        raise ValueError("a step below 0, or above what a run has")
    return Trained(config, statistics, {}, step, temperature, licence, origin)


def _check_line(text: str, what: str, advice: str) -> None:
    if len(text) > _MOST_SIGNS or not text.isprintable():
        raise ValueError(f"{what} of {len(text)} characters, expected a line of {_MOST_SIGNS} at most; {advice}")


def _check_classes(config: Config, classes: bands.Classes, metadata: Mapping[str, str]) -> None:
    """Raises ValueError unless network, statistics, and names and colours beside them are of the same classes."""
    for key, expected in (("classes", classes.names), ("class_colours", classes.colours)):
        what = f"its {key.replace('_', ' ')}"
        if tuple(a_list(parse_json(metadata[key], what), what)) != expected:
            raise ValueError(
                f"{what} are {metadata[key][:200]}, expected those of its statistics, {', '.join(expected)}"
            )
    if config.model.classes != len(classes):
        raise ValueError(f"its network has {config.model.classes} classes, its statistics have {len(classes)}")


def _check_statistics(config: Config, statistics: Statistics) -> None:
    """Raises ValueError unless the statistics have numbers for every band and class, and a name for every band."""
    for sensor, channels in (("s2", config.model.s2_channels), ("s1", config.model.s1_channels)):
        given: SensorStatistics = getattr(statistics, sensor)
        if sensor not in config.model.sensors:
            continue
        rows = (given.bands, given.mean, given.std, given.p1, given.p99)
        if any(type(row) is not tuple or len(row) != channels for row in rows) or len(set(given.bands)) != channels:
            raise ValueError(f"its statistics are not of the {channels} {sensor} bands of its config")
        if not all(isinstance(name, str) and name.isprintable() and 0 < len(name) <= 64 for name in given.bands):
            raise ValueError(f"its {sensor} bands have no names")
        if not all(isinstance(x, int | float) and math.isfinite(x) for row in rows[1:] for x in row):
            raise ValueError(f"its {sensor} statistics hold something else than finite numbers")
    if not all(isinstance(count, int) and count >= 0 for count in statistics.label_pixels):
        raise ValueError("its statistics hold no counts of labelled pixels")


def _check_tensors(wanted: Mapping[str, Shape], found: Mapping[str, _Tensor]) -> None:
    for name, shape in wanted.items():
        if name not in found or found[name].shape != shape:
            given = found[name].shape if name in found else "nothing"
            raise ValueError(f"tensor {name} should have shape {shape}, found {given}")
    if more := found.keys() - wanted.keys():
        raise ValueError(f"tensor {min(more)[:80]!r} is none of this network's")


def _weights(file: BinaryIO, tensors: Mapping[str, _Tensor]) -> dict[str, np.ndarray]:
    """Reads the float32 weights by name. They are parts of one array, and cannot be written to: who holds a network trusts its SHA-256."""
    content = np.empty(sum(tensor.size for tensor in tensors.values()), np.uint8)
    if file.readinto(content) != content.size:
        raise ValueError(f"it ended before {content.size} bytes of tensors; was it cut short?")
    weights = {}
    for name, tensor in tensors.items():
        values = content[tensor.start : tensor.end].view(tensor.dtype).reshape(tensor.shape)
        if not np.isfinite(values).all():
            raise ValueError(f"tensor {name} holds numbers that are not finite")
        weights[name] = values.astype(np.float32, copy=False)
        weights[name].flags.writeable = False
    return weights
