"""Loads initial weights of a network from a public SegFormer or MiT (Mix Transformer) encoder file.

Enters: a file of PyTorch tensors and randomly drawn variables. Leaves: the same variables, with every weight that has a
counterpart in the file taken from it, and lists of the tensors and weights that were used and not used. No file is
downloaded.

The stages of this network are those of SegFormer with narrower branches: each branch takes a share of the file's
channels. Attention between the branches and MMAM have no counterpart in the file and keep their drawn values.

Sources: Xie et al. 2021, SegFormer (NeurIPS); the files of its authors (github.com/NVlabs/SegFormer) and those of
nvidia/mit-b0 to b5 and nvidia/segformer-b0 to b5 on the Hugging Face hub; names of `transformers` 4 and 5.
"""

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from specsar_jax.config import Model
from specsar_jax.network import model
from specsar_jax.network.weight_files import read_tensors
from tfds_dwplus import bands


@dataclasses.dataclass(frozen=True)
class Carried:
    """Which tensors of a file were used as weights, and which weights of the network kept their initial values."""

    used: tuple[str, ...]
    """Tensors that were used, by their names in the file."""
    unused: tuple[str, ...]
    """Tensors that were not used, by their names in the file."""
    drawn: tuple[str, ...]
    """Weights that kept their values, dotted; 'stage3.blocks.sar_ffn.expand.kernel[4:6]' where only some blocks did."""

    def summary(self) -> str:
        """Three lines for a terminal: how many, and in which parts ('*' stands for any stage)."""
        lines = (
            ("tensors of the file used", [_place(name) for name in self.used]),
            ("tensors of the file not used", [_place(name) for name in self.unused]),
            ("weights that keep their initial values", list(self.drawn)),
        )
        return "\n".join(f"{what}: {len(names)}{_counts(names)}" for what, names in lines)

    def to_dict(self) -> dict[str, list[str]]:
        """The three lists, ready for JSON."""
        return {"used": list(self.used), "unused": list(self.unused), "drawn": list(self.drawn)}


def load_segformer(
    path: Path, variables: model.Variables, config: Model, s2_bands: tuple[str, ...]
) -> tuple[model.Variables, Carried]:
    """Replaces each weight that has a counterpart in a SegFormer file by that counterpart.

    Channels: two branches that fit side by side into the file's width split it, the spectral branch first. Branches
    that do not fit, and a single branch, take its first channels. Queries, keys and values are split in the same way
    within each head. The file does not state its number of heads; the config's number is assumed if it divides the
    file's width.

    Blocks: if the file has more blocks in a stage than the config, the first ones are used. If it has fewer, the last
    blocks of the network keep their values.

    First convolution: it is used unchanged if the file has as many input channels as the branch has bands. If the file
    has three (red, green, blue), B4, B3 and B2 get theirs and every other band, SAR too, gets their mean. All are
    multiplied by 3 / number of bands: bands are correlated, so this keeps the size of their sum relative to the bias.
    In a branch with exactly the bands B4, B3 and B2, in any order, each gets its own channel.

    Decoder: a tensor is used if its shape is exactly that of our weight. This includes the classifier, whatever its
    classes mean.

    To reproduce `transformers`, set `model.layer_norm_epsilon=1e-5`: its LayerNorms have PyTorch's default; ours is
    1e-6.

    Args:
        path: a .safetensors file; a PyTorch state dict (.bin, .pt, .pth; needs torch), also under 'state_dict' or
            'model'; or a folder with model.safetensors or pytorch_model.bin, as on the Hugging Face hub.
        variables: float32, as `model.init_params(config, ...)` draws them. They are not changed.
        config: sizes of the network.
        s2_bands: names of the bands of `s2`, in their order: 'B4' or 'red'.

    Returns:
        variables of the same shapes, float32, and which weights came from the file.

    Raises:
        ValueError: the file is missing, incomplete or not a SegFormer; or a tensor is too narrow, has another patch or
            reduction size, or does not hold finite floats. The message names the tensor, its shape and the expected
            shape.
    """
    if len(s2_bands) != config.s2_channels:
        raise ValueError(f"s2_bands has {len(s2_bands)} names, config field model.s2_channels is {config.s2_channels}")
    file = _File(path, config)
    values: dict[str, np.ndarray] = {}
    drawn = []
    leaves = [(_dotted(place), leaf) for place, leaf in jax.tree.leaves_with_path(variables)]
    for name, leaf in sorted(leaves, key=lambda item: ".blocks." in item[0]):  # errors name embeddings first
        if name.startswith("decoder."):
            value = _decoder_weight(file, name, leaf.shape)
        else:
            value = _encoder_weight(file, name, leaf.shape, s2_bands)
        if value is None:
            drawn.append(name)
            continue
        if value.shape != leaf.shape:  # fewer blocks than ours
            drawn.append(f"{name}[{len(value)}:{len(leaf)}]")
            value = np.concatenate([value, np.asarray(leaf)[len(value) :]])
        values[name] = value
    file.check_left_over()

    def filled(place: Any, leaf: Any) -> Any:
        return jnp.asarray(values[_dotted(place)]) if _dotted(place) in values else leaf

    used = tuple(name for name in file.tensors if name in file.used)
    unused = tuple(name for name in file.tensors if name not in file.used)
    return jax.tree.map_with_path(filled, variables), Carried(used, unused, tuple(drawn))


_STAGE_PARTS = {"patch_embed": "patch_embeddings", "block": "blocks", "norm": "layer_norm"}

_RENAMES = (
    (r"^((module|model|segformer|backbone)\.)+", ""),
    # Files on the hub count stages from 0. Files of NVlabs count from 1, and join key and value to one tensor, `kv`.
    (r"^encoder\.(patch_embeddings|block|layer_norm)\.(\d+)\.", r"stages.\2.\1."),
    (r"^(stages\.\d+)\.block\.", r"\1.blocks."),
    (r"^(patch_embed|block|norm)(\d)\.", lambda m: f"stages.{int(m[2]) - 1}.{_STAGE_PARTS[m[1]]}."),
    (r"\.patch_embeddings\.norm\.", ".patch_embeddings.layer_norm."),
    (r"\.(layer_norm_1|norm1)\.", ".layernorm_before."),
    (r"\.(layer_norm_2|norm2)\.", ".layernorm_after."),
    (r"\.(attention\.self|attn)\.(q|kv|k|v)(uery|ey|alue)?\.", r".attention.\2_proj."),
    (r"\.(attention\.self|attn)\.sr\.", ".attention.sequence_reduction.sequence_reduction."),
    (r"\.(attention\.self\.layer_norm|attn\.norm)\.", ".attention.sequence_reduction.layer_norm."),
    (r"\.(attention\.output\.dense|attn\.proj)\.", ".attention.o_proj."),
    (r"\.mlp\.dense(\d)\.", r".mlp.fc\1."),
    (r"\.linear_c\.(\d+)\.", r".linear_projections.\1."),
    (r"\.linear_c(\d)\.", lambda m: f".linear_projections.{int(m[1]) - 1}."),
    (r"\.linear_fuse\.conv\.", ".linear_fuse."),
    (r"\.linear_fuse\.bn\.", ".batch_norm."),
    (r"\.linear_pred\.", ".classifier."),
)
"""Patterns that turn any name of a tensor into its name in transformers 5, here called its place."""

_ENCODER = {
    "embed": ("patch_embeddings.proj", "channel input exact exact"),
    "embed_norm": ("patch_embeddings.layer_norm", "channel"),
    "blocks.self_norm": ("layernorm_before", "channel"),
    "blocks.self.query": ("attention.q_proj", "head channel"),
    "blocks.self.reduce": ("attention.sequence_reduction.sequence_reduction", "channel channel exact exact"),
    "blocks.self.reduce_norm": ("attention.sequence_reduction.layer_norm", "channel"),
    "blocks.self.key_value": ("attention.k_proj attention.v_proj", "head channel"),
    "blocks.self.output": ("attention.o_proj", "channel head"),
    "blocks.ffn_norm": ("layernorm_after", "channel"),
    "blocks.ffn.expand": ("mlp.fc1", "hidden channel"),
    "blocks.ffn.depthwise": ("mlp.dwconv.dwconv", "hidden exact exact exact"),
    "blocks.ffn.project": ("mlp.fc2", "channel hidden"),
    "norm": ("layer_norm", "channel"),
}
"""By the name of our module, without its branch: the module in the file, and the meaning of each axis of its weight, in
PyTorch's order. Several modules lie side by side along our last axis. A bias has the first axis only."""

_DECODER = {
    "norm.scale": "batch_norm.weight",
    "norm.bias": "batch_norm.bias",
    "norm.mean": "batch_norm.running_mean",
    "norm.var": "batch_norm.running_var",
    "classify_kernel": "classifier.weight",
    "classify_bias": "classifier.bias",
}


def _encoder_weight(file: "_File", name: str, shape: tuple[int, ...], s2_bands: tuple[str, ...]) -> np.ndarray | None:
    """Our weight `name` from the file; of stacked blocks those that the file has. None without a counterpart."""
    match = re.fullmatch(r"stage(\d+)\.((?:blocks\.)?)(spectral|sar|stacked)_(.+)\.(kernel|scale|bias)", name)
    if match is None or match[2] + match[4] not in _ENCODER:
        return None
    config = file.config
    stage, branch = int(match[1]) - 1, config.branch_names.index(match[3])
    modules, axes = (text.split() for text in _ENCODER[match[2] + match[4]])
    kind = "bias" if match[5] == "bias" else "weight"
    if kind == "bias":
        axes = axes[:1]
    elif match[4] == "embed" and stage == 0:
        axes[1] = "band"
    radar = bands.S1_BANDS[: config.s1_channels]
    names = {"spectral": s2_bands, "sar": radar, "stacked": s2_bands + radar}[match[3]]

    def one(place: str, shape: tuple[int, ...]) -> np.ndarray:
        value = file.take(place, axes, _pytorch_shape(shape, len(axes)))
        for number, axis in enumerate(axes):
            if axis == "band":
                value = _for_bands(value, names)
            elif axis != "exact":
                value = value.take(_share(axis, value.shape[number], config, stage, branch), axis=number)
        return (value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T).reshape(shape)

    def all_modules(prefix: str, shape: tuple[int, ...]) -> np.ndarray:
        shape = (*shape[:-1], shape[-1] // len(modules))
        return np.concatenate([one(f"stages.{stage}.{prefix}{m}.{kind}", shape) for m in modules], axis=-1)

    if not match[2]:
        return all_modules("", shape)
    blocks = range(min(file.blocks(stage), config.blocks[stage]))
    return np.stack([all_modules(f"blocks.{block}.", shape[1:]) for block in blocks]) if blocks else None


def _pytorch_shape(shape: tuple[int, ...], axes: int) -> tuple[int, ...]:
    """The shape of our weight in PyTorch, where a depthwise kernel [row, column, channel] has four axes."""
    if axes < 4:
        return shape[::-1]
    rows, columns, *between, channels = shape
    return (channels, *(between or [1]), rows, columns)


def _share(axis: str, size: int, config: Model, stage: int, branch: int) -> np.ndarray:
    """Indices of the channels, of `size` in the file, that a branch takes.

    Two heads of 4 channels split 3 to 1: the first branch takes 0 1 2 . 4 5 6 . and the second . . . 3 . . . 7.
    """
    widths = config.branch_widths(stage - 1 if axis == "input" else stage)
    if axis == "hidden":
        widths = tuple(config.mlp_ratio * width for width in widths)
    heads = config.heads[stage] if axis == "head" and size % config.heads[stage] == 0 else 1
    start = sum(widths[:branch]) if sum(widths) <= size else 0
    of_a_head = start // heads + np.arange(widths[branch] // heads)
    return (np.arange(heads)[:, None] * (size // heads) + of_a_head).ravel()


def _for_bands(kernel: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Adapts the first convolution [channel, band, row, column] to the bands of a branch, as `load_segformer` says."""
    colours = {"B4": 0, "B3": 1, "B2": 2}
    names = tuple(bands.canonical_band(name) for name in names)
    if kernel.shape[1] == len(names) and set(names) != set(colours):
        return kernel
    mean = kernel.mean(axis=1)
    each = [kernel[:, colours[name]] if name in colours else mean for name in names]
    return np.stack(each, axis=1) * np.float32(3 / len(names))


def _decoder_weight(file: "_File", name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """Our weight `name` from the decoder of the file; None unless the file has it in exactly our shape."""
    part, wanted = name.removeprefix("decoder."), shape[::-1]
    join = re.fullmatch(r"join(\d+)_kernel", part)
    if join:
        place, wanted = "linear_fuse.weight", (shape[1], len(file.config.widths) * shape[0])
    elif match := re.fullmatch(r"project(\d+)_(kernel|bias)", part):
        place = f"linear_projections.{int(match[1]) - 1}.proj.{'weight' if match[2] == 'kernel' else 'bias'}"
    else:
        place = _DECODER[part]
    place = f"decode_head.{place}"
    found = file.tensors_at[place][1].shape if place in file.tensors_at else None
    if found not in (wanted, (*wanted, 1, 1)):  # a Dense, or a convolution of one pixel
        return None
    value = file.take(place, ["exact"] * len(found), found).reshape(wanted).T
    if join:  # SegFormer joins the last stage first
        value = np.split(value, len(file.config.widths))[-int(join[1])]
    return value


class _File:
    """The tensors of a file, and which were used. Raises ValueError unless it is an encoder with enough stages."""

    def __init__(self, path: Path, config: Model) -> None:
        self.path, self.config = path, config
        self.tensors = read_tensors(path)
        self.used: set[str] = set()
        self.tensors_at: dict[str, tuple[str, np.ndarray]] = {}
        for name, value in self.tensors.items():
            if ".kv_proj." in (place := _place(name)) and value.ndim:
                half = value.shape[0] // 2
                self.tensors_at[place.replace(".kv_", ".k_")] = (f"{name}[:{half}]", value[:half])
                self.tensors_at[place.replace(".kv_", ".v_")] = (f"{name}[{half}:]", value[half:])
            else:
                self.tensors_at.setdefault(place, (name, value))
        stages = 0
        while f"stages.{stages}.patch_embeddings.proj.weight" in self.tensors_at:
            stages += 1
        if stages == 0:
            some = ", ".join([*self.tensors][:3])
            raise ValueError(f"{path} is not a SegFormer or MiT encoder: its tensors are {some or 'none'} ...")
        if stages < len(config.widths):
            raise ValueError(f"{path} has {stages} stages, expected at least {len(config.widths)} (model.widths)")

    def blocks(self, stage: int) -> int:
        """Number of blocks in a stage of the file."""
        found = (re.match(rf"stages\.{stage}\.blocks\.(\d+)\.", place) for place in self.tensors_at)
        return max((int(match[1]) + 1 for match in found if match), default=0)

    def take(self, place: str, axes: list[str], wanted: tuple[int, ...]) -> np.ndarray:
        """The tensor at `place`, float32: at least as large as `wanted`, exactly as large along axes named 'exact'.

        Raises:
            ValueError: it is missing, too small, or does not hold finite floats.
        """
        bounds = {"exact": "{}", "band": "{} or 3"}
        sizes = [bounds.get(axis, ">= {}").format(size) for axis, size in zip(axes, wanted, strict=True)]
        expected = f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"
        if place not in self.tensors_at:
            raise ValueError(f"{self.path} has no tensor {place}, expected one of shape {expected}")
        name, value = self.tensors_at[place]

        def fits(axis: str, size: int, least: int) -> bool:
            return size == least or (size == 3 if axis == "band" else size > least and axis != "exact")

        if value.ndim != len(axes) or not all(map(fits, axes, value.shape, wanted)):
            raise ValueError(f"{self.path}: tensor {name} has shape {value.shape}, expected {expected}")
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(f"{self.path}: tensor {name} is of {value.dtype}, expected floats")
        value = value.astype(np.float32)
        if not np.isfinite(value).all():
            raise ValueError(f"{self.path}: tensor {name} holds NaN or infinity")
        self.used.add(name.partition("[")[0])
        return value

    def check_left_over(self) -> None:
        """Raises ValueError if a tensor of a used block was not used: without it the block computes something else."""
        for place, (name, value) in self.tensors_at.items():
            match = re.match(r"stages\.(\d+)\.(?:blocks\.(\d+)\.)?", place)
            if match is None or name.partition("[")[0] in self.used or int(match[1]) >= len(self.config.widths):
                continue
            if int(match[2] or 0) < self.config.blocks[int(match[1])]:
                raise ValueError(
                    f"{self.path}: tensor {name} has shape {value.shape}, expected none: the network has no such weight "
                    f"(model.reductions is {self.config.reductions})"
                )


def _place(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _dotted(place: tuple[Any, ...]) -> str:
    """The dotted name of our weight, without 'params' or 'batch_stats'."""
    return ".".join(key.key for key in place[1:])


def _counts(names: list[str]) -> str:
    """The number of names in each part of the network: ' (stages.0 16, decode_head 4)'."""
    parts = [re.match(r"stages\.\d+|stage\d+\.(blocks\.)?\w+|[^.]+", name) for name in names]
    counts = Counter(re.sub(r"^(stage|mmam)\d+", r"\1*", part[0]) for part in parts if part)
    return f" ({', '.join(f'{part} {count}' for part, count in counts.items())})" if counts else ""
