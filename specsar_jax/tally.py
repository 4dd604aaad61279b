"""Sums of each tile of a split: what every accuracy figure is computed from.

Enters: counts of a tile, from a network or from a map made elsewhere. Leaves: the same for any choice of tiles, as arrays
with one row a tile. Sums add over tiles and hosts; figures are divided once, at the end, by `metrics` and `accuracy`.
"""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from tfds_dwplus.command_line import written_whole


@dataclasses.dataclass(frozen=True)
class Tally:
    """Sums of tiles, one row a tile; all arrays on the host."""

    tile_id: Shaped[np.ndarray, " tile"]
    """Text."""
    columns: dict[str, Shaped[np.ndarray, " tile"]]
    """What the data set says of a tile: 'lon', 'lat', 'date', 'annotator', 'hemisphere', 'biome' and any other of its columns."""
    confusion: Int[np.ndarray, "tile label prediction"]
    """int64, labelled pixels by class id of label and prediction."""
    mapped: Int[np.ndarray, "tile class"]
    """int64, predicted pixels of each class where the sensors have data, with a label or without."""
    boundary: Int[np.ndarray, "tile class 2"]
    """int64, intersection and union of the boundary bands of label and prediction; see `metrics.boundary_sums`."""
    reliability: Float[np.ndarray, "tile bin 3"] | None = None
    """float64: labelled pixels, sum of their confidence, and how many of them are right, by bin of confidence. None of a
    map without probabilities."""
    brier: Float[np.ndarray, " tile"] | None = None
    """float64: sum over labelled pixels of the squared distance between probabilities and label (Brier 1950: 0 to 2)."""
    nll: Float[np.ndarray, " tile"] | None = None
    """float64: sum over labelled pixels of -log of the probability of the label."""

    def __len__(self) -> int:
        return len(self.tile_id)

    def choose(self, tiles: Bool[np.ndarray, " tile"] | Int[np.ndarray, " chosen"]) -> "Tally":
        """The rows of some tiles."""
        chosen = {name: None if of is None else of[tiles] for name, of in self._arrays().items()}
        return Tally(columns={name: of[tiles] for name, of in self.columns.items()}, **chosen)

    def write(self, path: Path) -> None:
        """Writes an .npz file, whole or not at all."""
        arrays = {name: of for name, of in self._arrays().items() if of is not None}
        with written_whole(path) as part, part.open("wb") as file:
            np.savez_compressed(file, **arrays, **{f"column_{name}": of for name, of in self.columns.items()})

    @classmethod
    def read(cls, path: Path) -> "Tally":
        """Reads what `write` wrote. Raises ValueError if the file is not one of these."""
        try:
            with np.load(path, allow_pickle=False) as file:
                columns = {name.removeprefix("column_"): file[name] for name in file if name.startswith("column_")}
                return cls(columns=columns, **{name: file[name] for name in file if not name.startswith("column_")})
        except (OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} does not hold the sums of tiles ({type(error).__name__}); write it again with specsar_jax.evaluate"
            ) from None

    def _arrays(self) -> dict[str, np.ndarray | None]:
        return {of.name: getattr(self, of.name) for of in dataclasses.fields(self) if of.name != "columns"}
