"""The sections of a config that say how a network learns: loss, optimizer, training. `sections` has the others."""

import dataclasses
from typing import Literal

from specsar_jax.config.settings import Range, Section, Text, setting

FROM_0, SHARE, RATE = Range(0), Range(0, 1), Range(0, 1, below=True)
COUNT, SOME = Range(0, 2**31 - 1), Range(1, 2**31 - 1)
"""Numbers of steps and the like: with 0 for none, or at least one."""

BATCH = Range(1, 2**16)


@dataclasses.dataclass(frozen=True)
class Loss(Section):
    """The loss of a pixel."""

    name: Literal["focal", "cross_entropy", "soft"] = setting(
        "focal", "which loss; soft: cross-entropy with the probabilities of the network that labelled the tiles"
    )
    gamma: float = setting(2.0, "focusing exponent of the focal loss", Range(0, 100))
    alpha_power: float = setting(
        0.5, "alpha of a class = (mean count / its count) ** alpha_power; 0 weights all classes alike", Range(0, 4)
    )
    alpha: tuple[float, ...] = setting((), "alpha of each class, instead of that from the counts", FROM_0)
    sharpness: float = setting(
        1.0,
        "soft: power of the probabilities, normalised again; above 1 the likely classes count more",
        Range(0.01, 100),
    )
    smoothing_expert: float = setting(
        0.0, "label smoothing on tiles that an expert labelled; Dynamic World used 0.2", RATE
    )
    smoothing_non_expert: float = setting(0.0, "label smoothing on all other tiles; Dynamic World used 0.3", RATE)

    def check_together(self) -> None:
        """Raises a ValueError if all classes have the weight 0."""
        if self.alpha and not any(self.alpha):
            raise ValueError(f"config field loss.alpha is {self.alpha}, expected a weight above 0 for some class")


@dataclasses.dataclass(frozen=True)
class Optimizer(Section):
    """AdamW with a learning rate schedule and warm-up."""

    learning_rate: float = setting(5e-4, "peak of the schedule", FROM_0)
    schedule: Literal["cosine", "polynomial", "constant"] = setting("cosine", "how the rate falls after the warm-up")
    power: float = setting(1.0, "exponent of the polynomial schedule", FROM_0)
    warmup_steps: int = setting(50, "steps in which the rate rises to the peak; 0 for none", COUNT)
    final_fraction: float = setting(0.01, "learning rate at the last step / peak", SHARE)
    group_rates: tuple[str, ...] = setting(
        (),
        "'decoder=10': factor of the learning rate of weights whose path has this part",
        Text(r"[^=]+=(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", "NAME=FACTOR, such as decoder=10"),
    )
    layer_decay: float = setting(
        1.0, "the learning rate of a block is multiplied by this once for each block after it", SHARE
    )
    weight_decay: float = setting(0.01, "applies to matrices and convolutions only; 0 for none", FROM_0)
    clip_norm: float = setting(1.0, "largest norm of the whole gradient; 0 for no clipping", FROM_0)


@dataclasses.dataclass(frozen=True)
class Train(Section):
    """How long to train, how many tiles at once, how often to evaluate and save."""

    seed: int = setting(0, "of the first weights, the order of the tiles and the augmentation", Range(0, 2**32 - 1))
    pretrained: str = setting(
        "", "SegFormer or MiT weights to start from: a file, or a folder as on the Hugging Face hub"
    )
    finetune: str = setting("", "a workdir or an exported bundle to start from; bands and classes may differ")
    teacher: str = setting(
        "",
        "a workdir or an exported bundle whose network labels each training crop after augmentation, in place of the labels; '' for none",
    )
    teacher_confidence: float = setting(
        0.35, "least probability of the teacher's class of a pixel that is learnt; 0 for all pixels with data", SHARE
    )
    trainable: tuple[str, ...] = setting(
        (),
        "parts of the network that learn, by names in their weights' paths, such as classify or decoder; all else, moments of norms too, "
        "stays as it is; () for all",
        Text("[a-z0-9_]+", "names of parts of weights' paths, such as decoder or classify"),
    )
    steps: int = setting(600, "steps of the whole run", SOME)
    epochs: int = setting(0, "passes over the tiles of the train split, in place of `steps`; 0 takes `steps`", COUNT)
    batch_size: int = setting(8, "tiles per step, over all devices", BATCH)
    accumulate: int = setting(
        1, "number of parts of a batch whose gradients are computed one after the other, to save memory", BATCH
    )
    log_every: int = setting(10, "steps between two lines of the run log; 0 for none", COUNT)
    eval_every: int = setting(
        100,
        "steps between two evaluations on the validation split, each followed by a checkpoint; 0 for the last step only",
        COUNT,
    )
    save_every: int = setting(0, "steps between two further checkpoints; 0 for none", COUNT)
    save_every_minutes: float = setting(0.0, "minutes between two further checkpoints; 0 for none", FROM_0)
    eval_batch_size: int = setting(8, "tiles at once in an evaluation; the figures do not depend on it", BATCH)
    ema_decay: float = setting(0.0, "decay of the moving average of the weights; 0 for none", RATE)
    use_average: bool = setting(True, "whether to evaluate and export the moving average, if there is one")
    best_by: Literal["mean_iou", "overall_accuracy", "macro_f1", "kappa", "loss"] = setting(
        "mean_iou", "figure on the validation split that chooses the best checkpoint"
    )
    patience: int = setting(0, "evaluations without improvement after which the run ends early; 0 for never", COUNT)
    most_skipped: int = setting(
        10, "successive steps with a loss or gradient that is not finite at which the run ends", SOME
    )
    profile_steps: int = setting(0, "steps to profile, from the third on, into WORKDIR/profile; 0 for none", COUNT)
    tracker: Literal["none", "wandb", "mlflow"] = setting(
        "none", "tracker of experiments that is given the figures of the run log too"
    )
