"""Defines a trained network: weights, config, statistics and temperature. Imports no JAX, as whoever only looks at one needs none."""

import dataclasses
import functools
import hashlib
import re
import textwrap
from collections.abc import Collection
from typing import Any

import numpy as np
from jaxtyping import Shaped

from specsar_jax.batches.statistics import Statistics
from specsar_jax.config import Config
from specsar_jax.trained.weights import named_weights as named_weights
from specsar_jax.trained.weights import unnamed as unnamed
from specsar_jax.version import __version__
from tfds_dwplus.bands import Classes, with_missing
from tfds_dwplus.files.strangers import one_line
from tfds_dwplus.tiles.labelling import annotators

_MOST_NAME = 80


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network and everything needed to use it."""

    config: Config
    statistics: Statistics
    variables: dict[str, Any]
    """As `network.model.init_params` makes them; numpy arrays where they were read from a bundle, as JAX takes both."""
    step: int
    """Number of training steps of the weights."""
    temperature: float = 1.0
    """Temperature of the probabilities, fitted on the validation split; see `specsar_jax.accuracy.calibration`."""
    licence: str = ""
    """Licence of the weights as text; '' if none was given."""
    origin: str = ""
    """Who made the weights, and where they come from, in one line; '' if nobody said."""

    @functools.cached_property
    def sha256(self) -> str:
        """Returns the SHA-256 of the weights, in float32 and in the order of the tree; it identifies the network."""
        digest = hashlib.sha256()
        for leaf in named_weights(self.variables).values():
            digest.update(np.ascontiguousarray(leaf, np.float32))
        return digest.hexdigest()

    @property
    def name(self) -> str:
        """Returns a line that names the network: its architecture, the first 12 digits of its SHA-256, and who made it."""
        told = re.sub(r"\s*\([^()]*\)", "", self.origin.partition(";")[0])
        told = textwrap.shorten(one_line(told), _MOST_NAME, placeholder=" ...") or f"trained on {self.config.data.name}"
        return f"{self.config.model.architecture} {self.sha256[:12]} ({told})"

    @property
    def classes(self) -> Classes:
        """Returns the classes of the network, those of the data set that it learned from."""
        return self.statistics.classes

    @property
    def bands(self) -> dict[str, tuple[str, ...]]:
        """Returns the names of the bands that the network reads, in order, by sensor, 's2' before 's1'."""
        return {sensor: getattr(self.statistics, sensor).bands for sensor in self.config.model.sensors}

    def check_sensor(self, sensor: str, there: Collection[str], said: str) -> None:
        """Raises a ValueError if the network reads a sensor that is not among those that are there, and does not work without it; the
        message has `said`.
        """
        sensors, may_miss = self.config.model.sensors, self.config.may_miss
        if sensor not in sensors or sensor in there:
            return
        if sensor not in may_miss:
            raise ValueError(
                f"the network reads {' and '.join(sensors)}, but {said}"
                + ("; one that is trained with data.sensor_drop works without" if len(sensors) > 1 else "")
            )
        if not set(there) & set(sensors):
            raise ValueError(f"the network reads {' or '.join(sensors)}, but {said}, and the other neither")

    def with_missing(
        self, s2: Shaped[np.ndarray, "*shape s2_band"], s1: Shaped[np.ndarray, "*shape s1_band"]
    ) -> tuple[Shaped[np.ndarray, "*shape s2_channel"], Shaped[np.ndarray, "*shape s1_channel"]]:
        """Gives a sensor that has no bands, and that the network may miss, its bands without data."""
        counts = len(self.statistics.s2.bands), len(self.statistics.s1.bands)
        return with_missing(s2, s1, counts, self.config.may_miss)

    def provenance(self) -> dict[str, str]:
        """Returns software, weights and training as tags for the files of a map."""
        tags = {
            "software": f"specsar_jax {__version__}",
            "weights_sha256": self.sha256,
            "trained_on": self.config.data.name,
            "trained_steps": str(self.step),
        }
        given = {
            "weights_origin": self.origin,
            "weights_licence": self.licence,
            "labels_of_training": annotators.listed(self.statistics.labelled_by),
            "teacher": re.split(r"[/\\]", self.config.train.teacher.rstrip("/\\"))[-1],
        }
        return tags | {name: text for name, text in given.items() if text}


def chosen_weights(config: Config) -> str:
    """Returns the field of the training state to evaluate and export: the averaged weights if kept and wanted, else the weights."""
    return "averaged_params" if config.train.ema_decay and config.train.use_average else "params"
