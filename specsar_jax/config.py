"""All settings of a run, as frozen dataclasses with a comment for each field.

A config file is a Python file with a function `get_config() -> Config`. `load` reads one, `override` applies
`section.field=value` and `model=PRESET`, `to_dict` and `from_dict` convert a config for JSON. A wrong key or type raises
a ValueError that names the nearest valid key.
"""

import ast
import dataclasses
import difflib
import importlib.util
import json
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tfds_dwplus import bands


@dataclasses.dataclass(frozen=True)
class Data:
    """The tiles to use, and how they are cropped and augmented for training."""

    name: str = "simulated"  # data set dynamic_world_plus/NAME
    data_dir: str = "data"  # folder of prepared data sets
    s2_bands: tuple[str, ...] = ()  # bands to use, in this order; () means all of the data set
    train_split: str = "train"  # in TFDS notation: 'train', 'train[:80%]'
    validation_split: str = ""  # chooses the best checkpoint; '' takes 'validation', or else a tenth of train
    test_split: str = "test"  # scored once, when training ends; '' for none
    crop_px: int = 128  # side of a training crop and of the network's windows in a scene; 0 for whole tiles
    flips: bool = True  # random flips and rotations by 90 degrees
    zoom: float = 1.0  # largest factor by which crops are randomly taken smaller or larger, then resized; 1 for none
    brightness: float = (
        0.0  # standard deviation of the logarithm of a random gain, the same for all Sentinel-2 bands of a tile
    )
    band_jitter: float = 0.0  # standard deviation of the logarithm of a random gain of each Sentinel-2 band of a tile
    speckle_looks: float = 0.0  # number of looks of the speckle added to Sentinel-1; 0 for none
    band_drop: float = 0.0  # probability that a band of a training tile is removed; never all bands of a sensor
    sensor_drop: tuple[float, ...] = ()  # probability that a training tile lacks Sentinel-2, and Sentinel-1; never both
    read_threads: int = 2  # threads that read and decode; the result does not depend on it
    corrupt_records: Literal["stop", "skip"] = "stop"  # what to do at an unreadable record; it is reported either way


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How devices share the work. A run may be resumed with another mesh; results differ only by rounding."""

    data: int = 0  # devices along "data", over which batches are split; 0 for all devices / `model`
    model: int = 1  # devices along "model", over which the channels of the weights are split
    parameters: Literal["replicated", "sharded"] = (
        "replicated"  # 'sharded': weights and moments split over "data" (FSDP)
    )


@dataclasses.dataclass(frozen=True)
class Model:
    """Sizes of the network; a tuple has one entry for each stage."""

    s2_channels: int = len(bands.S2_BANDS)  # set from the data set when a run starts
    s1_channels: int = len(bands.S1_BANDS)
    classes: int = len(bands.CLASSES)
    branches: Literal["both", "spectral", "sar", "stacked"] = "both"  # 'stacked': one branch over all bands
    spectral_share: float = 0.75  # the spectral branch's share of a stage's width, with both branches
    widths: tuple[int, ...] = (64, 128, 320, 512)  # channels of both branches together
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    heads: tuple[int, ...] = (1, 2, 5, 8)  # attention heads of each branch
    reductions: tuple[int, ...] = (8, 4, 2, 1)  # side of the patch that becomes one key and value
    mlp_ratio: int = 4  # hidden width of Mix-FFN / width of the branch
    mmam_ratio: int = 2  # hidden width of MMAM / width of the stage
    decoder_width: int = 768
    cross_attention: bool = True  # DMEM: the branches attend to each other
    channel_reweighting: bool = True  # MMAM's gates
    drop_path: float = 0.0  # stochastic depth of the last block, growing from 0 at the first; training only
    dropout: float = 0.0  # dropout rate before the classifier; training only
    layer_norm_epsilon: float = 1e-6
    batch_norm_epsilon: float = 1e-5
    rematerialise: bool = False  # recompute the inside of blocks in the backward pass: less memory, slower steps
    loop_blocks_from: int = (
        6  # a stage with at least this many blocks is compiled as a loop: compiles much faster, runs slightly slower
    )
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # parameters and loss stay float32

    @property
    def branch_names(self) -> tuple[str, ...]:
        """Returns the names of the branches in the tree of weights."""
        return ("spectral", "sar") if self.branches == "both" else (self.branches,)

    @property
    def sensors(self) -> tuple[str, ...]:
        """Returns the sensors that the network reads, of 's2' and 's1'."""
        return {"spectral": ("s2",), "sar": ("s1",)}.get(self.branches, ("s2", "s1"))

    def branch_widths(self, stage: int) -> tuple[int, ...]:
        """Returns the number of channels of each branch in a stage."""
        width = self.widths[stage]
        if self.branches != "both":
            return (width,)
        spectral = round(width * self.spectral_share)
        return (spectral, width - spectral)

    def drop_path_rates(self, stage: int) -> Any:
        """Returns the stochastic depth of each block in a stage, float32 [block]; it grows linearly over the network."""
        rates = np.linspace(0.0, self.drop_path, sum(self.blocks), dtype=np.float32)
        first = sum(self.blocks[:stage])
        return rates[first : first + self.blocks[stage]]


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss of a pixel."""

    name: Literal["focal", "cross_entropy"] = "focal"
    gamma: float = 2.0  # focusing exponent of the focal loss
    alpha_power: float = 0.5  # alpha of a class = (mean count / its count) ** alpha_power; 0 weights all classes alike
    alpha: tuple[float, ...] = ()  # alpha of each class, instead of that from the counts
    smoothing_expert: float = 0.0  # label smoothing on tiles that an expert labelled; Dynamic World used 0.2
    smoothing_non_expert: float = 0.0  # label smoothing on all other tiles; Dynamic World used 0.3


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW with a learning rate schedule and warm-up."""

    learning_rate: float = 5e-4  # peak of the schedule
    schedule: Literal["cosine", "polynomial", "constant"] = "cosine"  # how the rate falls after the warm-up
    power: float = 1.0  # exponent of the polynomial schedule
    warmup_steps: int = 50
    final_fraction: float = 0.01  # learning rate at the last step / peak
    group_rates: tuple[str, ...] = ()  # 'decoder=10': factor of the learning rate of weights whose path has this part
    layer_decay: float = 1.0  # the learning rate of a block is multiplied by this once for each block after it
    weight_decay: float = 0.01  # applies to matrices and convolutions only
    clip_norm: float = 1.0  # largest norm of the whole gradient


@dataclasses.dataclass(frozen=True)
class Train:
    """How long to train, how many tiles at once, how often to evaluate and save."""

    seed: int = 0
    pretrained: str = ""  # SegFormer or MiT weights to start from: a file, or a folder as on the Hugging Face hub
    finetune: str = ""  # a workdir or an exported bundle to start from; bands and classes may differ
    steps: int = 600
    batch_size: int = 8  # tiles per step, over all devices
    accumulate: int = 1  # number of parts of a batch whose gradients are computed one after the other, to save memory
    log_every: int = 10  # steps between two lines of the run log
    eval_every: int = 100  # steps between two evaluations on the validation split, each followed by a checkpoint
    save_every: int = 0  # steps between two further checkpoints; 0 for none
    eval_batch_size: int = 8
    ema_decay: float = 0.0  # decay of the moving average of the weights; 0 for none
    use_average: bool = True  # whether to evaluate and export the moving average, if there is one
    best_by: Literal["mean_iou", "overall_accuracy", "macro_f1", "kappa", "loss"] = (
        "mean_iou"  # figure on the validation split that chooses the best checkpoint
    )
    patience: int = 0  # evaluations without improvement after which the run ends early; 0 for never
    most_skipped: int = 10  # successive steps with a loss or gradient that is not finite before the run ends
    profile_steps: int = 0  # steps to profile, from the third on, into WORKDIR/profile


@dataclasses.dataclass(frozen=True)
class Predict:
    """How a scene is cut into windows to be mapped.

    The network always sees windows of the size that it was trained on: attention over a larger area than in training
    moves classes near borders, and makes the map worse.
    """

    window_px: int = 510  # pixels of a row that go through the network at once; affects memory and speed, not the map
    overlap: float = 0.25  # share of a window that it has in common with the next; they are blended smoothly there
    average_turns: bool = False  # mean probability over the eight flips and rotations, here and in evaluation


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run."""

    data: Data = Data()
    model: Model = Model()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    predict: Predict = Predict()
    mesh: Mesh = Mesh()


PRESETS: dict[str, Model] = {
    "specsar_former": Model(),
    "tiny": Model(widths=(32, 64, 96, 128), blocks=(1, 1, 2, 1), heads=(1, 2, 3, 4), decoder_width=128),
    "spectral_only": Model(branches="spectral"),
    "sar_only": Model(branches="sar"),
    "no_dmem": Model(cross_attention=False),
    "no_mmam": Model(channel_reweighting=False),
    "equal_split": Model(spectral_share=0.5),
    "early_fusion": Model(branches="stacked"),
}
"""The paper's network, a small one for tests and laptops, and the ablations of the paper's tables."""


def model_preset(name: str, **changes: Any) -> Model:
    """Returns the preset `name`, with some fields changed. Raises ValueError for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}{_nearest(name, PRESETS)}; presets: {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[name], **changes)


def load(path: Path) -> Config:
    """Reads the config that `get_config()` of a Python file returns.

    Raises:
        ValueError: no such file, not Python, no `get_config`, or fields of a wrong type.
    """
    if not path.is_file():
        raise ValueError(f"no config file {path}; expected a Python file with get_config(), as in configs/")
    spec = importlib.util.spec_from_file_location("specsar_config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"config file {path} is not a .py file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:  # the user's file may raise anything; the message names the file and the reason
        raise ValueError(f"config file {path}: {type(error).__name__}: {error}") from None
    if not isinstance(config, Config):
        raise ValueError(f"config file {path}: get_config() returned {type(config).__name__}, expected a Config")
    return from_dict(to_dict(config))


def override(config: Config, assignments: Iterable[str]) -> Config:
    """Applies assignments in order, such as 'optimizer.learning_rate=3e-4' or 'model.widths=(16,32,64,96)'; 'model=tiny'
    replaces the whole section by a preset.

    Raises:
        ValueError: no such field or preset (the message suggests the nearest one), or a value of the wrong type.
    """
    tree = to_dict(config)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if equals and key == "model":
            tree["model"] = dataclasses.asdict(model_preset(text))
            continue
        section, dot, field = key.partition(".")
        if not (equals and dot and section and field):
            raise ValueError(f"--config.{assignment} is not of the form --config.section.field=value")
        if section not in tree:
            raise ValueError(f"no config section {section!r}{_nearest(section, tree)}")
        tree[section][field] = _parse(text)
    return from_dict(tree)


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Returns the config as nested dictionaries, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(tree: dict[str, Any]) -> Config:
    """Builds a config from nested dictionaries; fields that are not given keep their defaults. Raises ValueError for unknown
    keys and for values of the wrong type.
    """
    return _build(Config, tree, "")


def differences(first: Config, second: Config) -> list[str]:
    """Returns the fields in which two configs differ, each as 'section.field: first, second'."""
    a, b = (json.loads(json.dumps(to_dict(config))) for config in (first, second))
    return [
        f"{section}.{field}: {a[section][field]!r}, {b[section][field]!r}"
        for section in a
        for field in a[section]
        if a[section][field] != b[section][field]
    ]


def _build(kind: type, tree: dict[str, Any], path: str) -> Any:
    fields = typing.get_type_hints(kind)
    for key in tree:
        if key not in fields:
            raise ValueError(f"no config field {path + key!r}{_nearest(key, fields)}")
    values = {}
    for key, value in tree.items():
        if dataclasses.is_dataclass(fields[key]):
            values[key] = _build(fields[key], value, f"{path}{key}.")
        else:
            values[key] = _typed(fields[key], value, path + key)
    return kind(**values)


def _typed(kind: Any, value: Any, name: str) -> Any:
    """Returns `value` as type `kind`: whole numbers become floats and lists tuples, nothing else is converted."""
    if typing.get_origin(kind) is Literal:
        if isinstance(value, str) and value in typing.get_args(kind):
            return value
        raise ValueError(
            f"config field {name} is {value!r}, expected one of {', '.join(map(str, typing.get_args(kind)))}"
        )
    if typing.get_origin(kind) is tuple:
        (item_kind, _) = typing.get_args(kind)
        if isinstance(value, tuple | list):
            return tuple(_typed(item_kind, item, name) for item in value)
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif type(value) is kind:
        return value
    expected = str(kind) if isinstance(kind, types.GenericAlias) else kind.__name__
    raise ValueError(f"config field {name} is {value!r} ({type(value).__name__}), expected {expected}")


def _parse(text: str) -> Any:
    """Reads a Python literal or plain text: '3e-4' -> 0.0003, 'focal' -> 'focal', 'B2,B3' or '(B2,B3)' -> ('B2', 'B3')."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1].rstrip(",") + ","
    return tuple(part.strip() for part in text.split(",") if part.strip()) if "," in text else text


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else ""
