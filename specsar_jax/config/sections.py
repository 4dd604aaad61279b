"""The sections of a config, frozen dataclasses: of each field its default, what it means and what it takes."""

import dataclasses
from typing import Any, Literal

import numpy as np

from specsar_jax.config.learning import COUNT, FROM_0, RATE, SHARE, Loss, Optimizer, Train
from specsar_jax.config.settings import Range, Section, Text, field_types, setting
from tfds_dwplus import bands

SMALLEST_SIZE_PX = 32
"""Smallest height and width of a tile: the fourth stage has one pixel for 32."""

MOST_PARAMETERS = 500_000_000
"""Weights of a network; the largest SegFormer has 85 million."""

MOST_ATTENTION = 1 << 31
"""Numbers in the largest attention map of a window, 8 GiB; the paper's network has 4 million."""

_OF_DYNAMIC_WORLD = (
    "architecture", "s2_channels", "s1_channels", "classes", "branches", "batch_norm_epsilon", "compute_dtype",
)  # fmt: skip
"""Fields of `Model` that architecture dynamic_world has."""


@dataclasses.dataclass(frozen=True)
class Data(Section):
    """The tiles to use, and how they are cropped and augmented for training."""

    name: str = setting(
        "simulated",
        "data set dynamic_world_plus/NAME",
        Text("[A-Za-z0-9_][A-Za-z0-9_.-]*", "letters, digits, '_', '-' and '.' only, not '.' or '-' first"),
    )
    data_dir: str = setting("data", "folder of prepared data sets")
    s2_bands: tuple[str, ...] = setting((), "bands to use, in this order; () means all of the data set")
    scaling: Literal["standard", "log"] = setting(
        "standard",
        "of Sentinel-2 before the network: 'standard' by mean and deviation of the data set; 'log' as Dynamic World's, the same everywhere",
    )
    train_split: str = setting("train", "in TFDS notation: 'train', 'train[:80%]'")
    validation_split: str = setting(
        "", "chooses the best checkpoint; '' takes 'validation' or 'val', or else a tenth of train"
    )
    test_split: str = setting("test", "scored once, when training ends; '' for none")
    crop_px: int = setting(
        128,
        "side of a training crop and of the network's windows in a scene, pixels; 0 for whole tiles",
        Range(SMALLEST_SIZE_PX, 2**14, or_zero=True),
    )
    flips: bool = setting(True, "random flips and rotations by 90 degrees")
    zoom: float = setting(
        1.0,
        "largest factor by which crops are randomly taken smaller or larger, then resized; 1 or 0 for none",
        Range(0, 16),
    )
    brightness: float = setting(
        0.0,
        "standard deviation of the logarithm of a random gain, the same for all Sentinel-2 bands of a tile",
        Range(0, 10),
    )
    band_jitter: float = setting(
        0.0, "standard deviation of the logarithm of a random gain of each Sentinel-2 band of a tile", Range(0, 10)
    )
    tilt: float = setting(
        0.0,
        "standard deviation of the logarithm of a random gain of Sentinel-2 that changes smoothly with wavelength",
        Range(0, 10),
    )
    contrast: float = setting(
        0.0,
        "standard deviation of the logarithm of a random factor of how far Sentinel-2 lies from the mean of the crop",
        Range(0, 10),
    )
    haze: float = setting(
        0.0,
        "largest random offset of B2 in digital numbers, up or down as between L1C and L2A; less of it in longer waves",
        Range(0, 10000),
    )
    unchanged_light: float = setting(
        0.0, "share of the crops that brightness, band_jitter, tilt, contrast and haze leave as they are", SHARE
    )
    mosaic: float = setting(
        0.0, "probability that patches of a training crop are of another tile, labels and all", SHARE
    )
    speckle_looks: float = setting(0.0, "number of looks of the speckle added to Sentinel-1; 0 for none", FROM_0)
    band_drop: float = setting(
        0.0, "probability that a band of a training tile is removed; never all bands of a sensor", RATE
    )
    sensor_drop: tuple[float, ...] = setting(
        (),
        "probability that a training tile lacks Sentinel-2, and Sentinel-1, as 0.3,0.1; never both; () for none",
        Range(0, 1, counts=(0, 2)),
    )
    sensor_gaps: tuple[float, ...] = setting(
        (),
        "probability that Sentinel-2, and Sentinel-1, of a training tile has gaps, as clouds leave them; as sensor_drop",
        Range(0, 1, counts=(0, 2)),
    )
    read_threads: int = setting(
        1, "threads that read and decode, 0 for the one that trains; more where steps wait for data", Range(0, 1024)
    )
    corrupt_records: Literal["stop", "skip"] = setting(
        "stop", "what to do at an unreadable record; it is reported either way"
    )

    def check_together(self) -> None:
        """Raises a ValueError if a tile could lose more than all its sensors, or a band is named twice."""
        for field in ("sensor_drop", "sensor_gaps"):
            if sum(getattr(self, field)) > 1.0:
                raise ValueError(f"config field data.{field} is {getattr(self, field)}, expected a sum up to 1")
        if len(set(self.s2_bands)) < len(self.s2_bands):
            raise ValueError(f"config field data.s2_bands is {self.s2_bands}, expected each band once")


@dataclasses.dataclass(frozen=True)
class Mesh(Section):
    """How devices share the work. A run may be resumed with another mesh; results differ only by rounding."""

    data: int = setting(
        0, 'devices along "data", over which batches are split; 0 for all devices / `model`', Range(0, 2**20)
    )
    model: int = setting(
        1, 'devices along "model", over which the channels of the weights are split; 1 for none', Range(1, 2**20)
    )
    parameters: Literal["replicated", "sharded"] = setting(
        "replicated", "'sharded': weights and moments split over \"data\" (FSDP)"
    )
    devices: int = setting(
        0, "how many devices to use, the first ones; 0 for all; several processes use all", Range(0, 2**20)
    )


@dataclasses.dataclass(frozen=True)
class Model(Section):
    """Sizes of the network; a tuple has one entry for each stage."""

    architecture: Literal["specsar_former", "dynamic_world"] = setting(
        "specsar_former",
        "dynamic_world: Dynamic World's, of one size; take it by --config.model=dynamic_world, or dynamic_world_sar for both sensors",
    )
    s2_channels: int = setting(len(bands.S2_BANDS), "set from the data set when a run starts", Range(0, 64))
    s1_channels: int = setting(len(bands.S1_BANDS), "set from the data set when a run starts", Range(0, 64))
    classes: int = setting(len(bands.CLASSES), "set from the data set when a run starts", Range(1, bands.IGNORE))
    branches: Literal["both", "spectral", "sar", "stacked"] = setting(
        "both", "what the network reads; 'stacked': one branch over all bands"
    )
    spectral_share: float = setting(0.75, "the spectral branch's share of a stage's width, with both branches", SHARE)
    widths: tuple[int, ...] = setting((64, 128, 320, 512), "channels of both branches together", Range(1, 4096))
    blocks: tuple[int, ...] = setting((3, 4, 6, 3), "blocks of each stage, 64 at most in all", Range(1, 64))
    heads: tuple[int, ...] = setting(
        (1, 2, 5, 8), "attention heads of each branch; they divide its channels", Range(1, 64)
    )
    reductions: tuple[int, ...] = setting(
        (8, 4, 2, 1), "side of the patch that becomes one key and value; 8, 4, 2, 1 at most", Range(1, 8)
    )
    mlp_ratio: int = setting(4, "hidden width of Mix-FFN / width of the branch", Range(1, 16))
    mmam_ratio: int = setting(2, "hidden width of MMAM / width of the stage", Range(1, 16))
    decoder_width: int = setting(768, "channels of the decoder", Range(1, 4096))
    cross_attention: bool = setting(True, "DMEM: the branches attend to each other")
    channel_reweighting: bool = setting(True, "MMAM's gates")
    drop_path: float = setting(
        0.0, "stochastic depth of the last block, growing from 0 at the first; training only", RATE
    )
    dropout: float = setting(0.0, "dropout rate before the classifier; training only", RATE)
    layer_norm_epsilon: float = setting(1e-6, "added to the variance", Range(1e-12, 1))
    batch_norm_epsilon: float = setting(1e-5, "added to the variance", Range(1e-12, 1))
    rematerialise: bool = setting(
        False, "recompute the inside of blocks in the backward pass: less memory, slower steps"
    )
    loop_blocks_from: int = setting(
        6,
        "a stage with at least this many blocks is compiled as a loop: compiles much faster, runs slightly slower; "
        "0 for none",
        COUNT,
    )
    compute_dtype: Literal["float32", "bfloat16"] = setting("float32", "parameters and loss stay float32")

    def check_together(self) -> None:
        """Raises a ValueError unless the stages fit each other and the network is of a size that can be built."""
        if self.architecture == "dynamic_world":
            return self._check_dynamic_world()
        stages = len(self.widths)
        if not 2 <= stages <= 4 or {len(self.blocks), len(self.heads), len(self.reductions)} != {stages}:
            raise ValueError(
                f"config fields model.widths {self.widths}, blocks {self.blocks}, heads {self.heads} and reductions "
                f"{self.reductions} are not of 2 to 4 stages each, as many in one as in the others"
            )
        for sensor in self.sensors:
            if not getattr(self, f"{sensor}_channels"):
                raise ValueError(f"config field model.{sensor}_channels is 0, but the network reads {sensor}")
        for stage, (reduction, heads) in enumerate(zip(self.reductions, self.heads, strict=True)):
            if reduction > 8 >> stage:
                raise ValueError(
                    f"config field model.reductions is {self.reductions}, expected 1 to {8 >> stage} in stage {stage + 1}"
                )
            for width in self.branch_widths(stage):
                if width < 1 or width % heads:
                    raise ValueError(
                        f"config fields model.widths and model.heads make a branch of {width} channels and {heads} heads in "
                        f"stage {stage + 1}, expected heads that divide the channels ({self._widths_in_words(stage)})"
                    )
        if sum(self.blocks) > 64:
            raise ValueError(f"config field model.blocks is {self.blocks}, expected 64 at most in all")
        if self.parameters > MOST_PARAMETERS:
            raise ValueError(f"a network of {self.parameters:,} weights, expected {MOST_PARAMETERS:,} at most")

    def _check_dynamic_world(self) -> None:
        """Raises a ValueError if a field is set that Dynamic World's network does not have."""
        if self.branches not in ("spectral", "both") or not self.s2_channels:
            raise ValueError(
                f"config field model.branches is {self.branches!r} with {self.s2_channels} bands, but dynamic_world reads Sentinel-2, "
                "alone or with Sentinel-1; take --config.model=dynamic_world or dynamic_world_sar"
            )
        if self.branches == "both" and not self.s1_channels:
            raise ValueError("config field model.s1_channels is 0, but the network reads s1")
        for field in dataclasses.fields(self):
            if field.name not in _OF_DYNAMIC_WORLD and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"config field model.{field.name} is {getattr(self, field.name)!r}, which dynamic_world does not have; leave it "
                    f"at {field.default!r}"
                )

    @property
    def parameters(self) -> int:
        """Returns about how many weights the network has."""
        if self.architecture == "dynamic_world":
            return 220_329 + 576 * self.s2_channels  # of nine classes
        return len(self.widths) * self.decoder_width**2 + sum(
            blocks * width**2 * (2 * self.mlp_ratio + 4 + reduction**2)
            for stage, (blocks, reduction) in enumerate(zip(self.blocks, self.reductions, strict=True))
            for width in self.branch_widths(stage)
        )

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

    def _widths_in_words(self, stage: int) -> str:
        if self.branches != "both":
            return f"of width {self.widths[stage]}"
        return f"width {self.widths[stage]}, of which the spectral branch has {self.spectral_share:g}"


@dataclasses.dataclass(frozen=True)
class Predict(Section):
    """How a scene is cut into windows to be mapped.

    The network always sees windows of the size that it was trained on: attention over a larger area than in training
    moves classes near borders, and makes the map worse.
    """

    window_px: int = setting(
        510,
        "pixels of a row that go through the network at once; affects memory and speed, not the map",
        Range(1, 2**14),
    )
    overlap: float = setting(
        0.25,
        "share of a window that it has in common with the next; they are blended smoothly there",
        Range(0, 0.75),
    )
    average_turns: bool = setting(False, "mean probability over the eight flips and rotations, here and in evaluation")


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run."""

    data: Data = Data()
    model: Model = Model()
    loss: Loss = Loss()  # noqa: RUF009 -- frozen
    optimizer: Optimizer = Optimizer()  # noqa: RUF009
    train: Train = Train()  # noqa: RUF009
    predict: Predict = Predict()
    mesh: Mesh = Mesh()

    @property
    def may_miss(self) -> tuple[str, ...]:
        """Returns the sensors without which a network of both works: those that some of its training tiles lacked."""
        if self.model.branches not in ("both", "stacked"):
            return ()
        return tuple(sensor for sensor, share in zip(("s2", "s1"), self.data.sensor_drop, strict=False) if share)

    def __post_init__(self) -> None:
        """Raises a ValueError unless the sections are sections, and the network fits the crops."""
        for name, kind in field_types(Config).items():
            if not isinstance(given := getattr(self, name), kind):
                raise ValueError(f"config section {name} is of type {type(given).__name__}, expected {kind.__name__}")
        if self.train.teacher and (self.data.band_drop or sum((*self.data.sensor_drop, *self.data.sensor_gaps))):
            raise ValueError(
                "config fields data.band_drop and data.sensor_drop take data away from train.teacher too, which then labels nothing; "
                "leave them, and data.sensor_gaps, at 0, or label the tiles before: python -m tfds_dwplus.label"
            )
        if self.model.architecture == "dynamic_world":
            if self.optimizer.layer_decay != 1.0:
                raise ValueError(
                    f"config field optimizer.layer_decay is {self.optimizer.layer_decay}, but dynamic_world has no stages; leave it at 1"
                )
            if self.train.pretrained:
                raise ValueError(
                    "config field train.pretrained is of SegFormer; dynamic_world starts from train.finetune"
                )
            return
        crop_px = self.data.crop_px
        for stage, (reduction, heads) in enumerate(zip(self.model.reductions, self.model.heads, strict=True)):
            side = max(crop_px, SMALLEST_SIZE_PX) // (4 << stage) + 1
            if heads * side**2 * (side // reduction) ** 2 > MOST_ATTENTION:
                raise ValueError(
                    f"config field data.crop_px is {crop_px}, too large for the attention of stage {stage + 1}; "
                    "take smaller crops, or larger model.reductions"
                )
