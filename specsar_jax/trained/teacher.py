"""A trained network as the teacher of another one: it labels each training crop as it is after augmentation.

So what is learnt of a crop under another light is what the teacher says of that, not of the crop before: the student sees how the
teacher's answers change with what they depend on, and follows it to land that no training tile shows (Beyer et al. 2022, "Knowledge
distillation: a good teacher is patient and consistent"). What comes of it agrees with the teacher, its faults included.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from specsar_jax.batches.preprocess import Statistics, standardise
from specsar_jax.config import Config
from specsar_jax.network.model import Variables
from specsar_jax.network.probabilities import log_probabilities
from specsar_jax.trained import hub
from specsar_jax.trained.loading import load_trained
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands
from tfds_dwplus.files.strangers import one_line
from tfds_dwplus.tiles.labelling import annotators


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A network that labels the batches of a run."""

    trained: Trained
    s2_bands: tuple[str, ...]
    """Of the batches: first those that the student reads, then those that only the teacher does."""
    s2_places: tuple[int, ...]
    """Of each Sentinel-2 band that the teacher reads, the place among those of the batches."""
    student_bands: int
    """How many bands of the batches the student reads."""
    confidence: float
    """Least probability of the class of a labelled pixel."""

    @property
    def name(self) -> str:
        """Returns the annotator of the labels, as tiles.csv names it."""
        return f"{annotators.NETWORK}{self.trained.name}"

    def label(self, variables: Variables, batch: dict[str, Array], sensors: tuple[str, ...]) -> dict[str, Array]:
        """Labels a batch: pure, to run inside a compiled step.

        Args:
            variables: of the teacher; given apart, so that they are no constants of the program.
            batch: `s2` of `s2_bands` and `s1`, physical values, and `label`. Water of these labels stays water, since what is dark enough
                to be nothing else Dynamic World's network takes for trees, or is unsure of (`tfds_dwplus.tiles.labelling.water`).
                Clouds are labelled as the teacher sees them.
            sensors: that the student reads.

        Returns:
            the batch with `s2` of the student's bands; other `label` uint8, 255 where the teacher is not sure enough, or a band that it or
            the student reads has no data; and `probability` float32 [batch, height, width, class].
        """
        config, statistics = self.trained.config, self.trained.statistics
        s2, s1 = batch["s2"][..., np.asarray(self.s2_places, int)], batch["s1"]
        scaled = standardise(s2, s1, statistics, config.data.scaling, config.may_miss)
        log_p = log_probabilities(variables, *scaled, config=config.model, temperature=self.trained.temperature)
        probability = jnp.exp(log_p)
        sure = probability.max(axis=-1) >= self.confidence
        if "s2" in {*sensors, *config.model.sensors}:
            sure &= (batch["s2"] != bands.S2_NODATA).all(axis=-1)
        if "s1" in {*sensors, *config.model.sensors}:
            sure &= jnp.isfinite(s1).all(axis=-1)
        label = jnp.where(sure, probability.argmax(axis=-1).astype(jnp.uint8), jnp.uint8(bands.IGNORE))
        if statistics.classes == bands.DYNAMIC_WORLD:
            water = bands.CLASSES.index("water")
            known = batch["label"] == water
            label = jnp.where(known, jnp.uint8(water), label)
            probability = jnp.where(known[..., None], jnp.eye(len(statistics.classes))[water], probability)
        return batch | {
            "s2": batch["s2"][..., : self.student_bands],
            "label": label,
            "probability": jax.lax.stop_gradient(probability),
        }


def load_teacher(path: Path | str, config: Config, statistics: Statistics, s2_held: tuple[str, ...]) -> Teacher:
    """Loads the teacher of a run. It may read bands of the data set that the student does not.

    Args:
        path: workdir of a run, exported bundle, or its address on a hub.
        config: of the run, as `resolve` gives it.
        statistics: of its bands.
        s2_held: Sentinel-2 bands of the data set.

    Raises:
        ValueError: it is none of these, reads a band that the data set lacks or a sensor that the student does not read, or has other
            classes.
    """
    trained = load_trained(hub.place_of(path))
    shown = one_line(str(path), 200)
    if trained.classes.names != statistics.classes.names:
        raise ValueError(
            f"train.teacher {shown} has the classes {one_line(', '.join(trained.classes.names), 200)}, the data set has "
            f"{one_line(', '.join(statistics.classes.names), 200)}; take a teacher of the same classes"
        )
    if lacking := [sensor for sensor in trained.config.model.sensors if sensor not in config.model.sensors]:
        raise ValueError(
            f"train.teacher {shown} reads {' and '.join(lacking)}, which the network to be trained does not read; take a teacher of "
            f"{' and '.join(config.model.sensors)}, or label the tiles before: python -m tfds_dwplus.label"
        )
    held = {bands.canonical_band(name): name for name in s2_held}
    read = [bands.canonical_band(name) for name in trained.bands.get("s2", ())]
    if missing := [name for name in read if name not in held]:
        raise ValueError(
            f"train.teacher {shown} reads {', '.join(missing)}, which the data set lacks ({', '.join(s2_held)}); take another teacher, or "
            "a data set with those bands"
        )
    if "s1" in trained.bands and trained.bands["s1"] != statistics.s1.bands:
        raise ValueError(
            f"train.teacher {shown} reads {', '.join(trained.bands['s1'])} of Sentinel-1, the data set holds "
            f"{', '.join(statistics.s1.bands)}; take another teacher"
        )
    own = config.data.s2_bands
    batches = (*own, *(held[name] for name in read if held[name] not in own))
    places = tuple(batches.index(held[name]) for name in read)
    return Teacher(trained, batches, places, len(own), config.train.teacher_confidence)
