"""The sums of each tile of a split, from which every accuracy figure is computed.

Enters: counts of a tile, from a network or from a third-party map. Leaves: the same for any choice of tiles, as arrays with
one row per tile. Sums are added over tiles and hosts; `metrics` and `figures` divide them once, at the end.
"""

import dataclasses
import functools
import hashlib
import io
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from tfds_dwplus.files.archives import read_arrays
from tfds_dwplus.files.outputs import write_whole
from tfds_dwplus.files.strangers import one_line

MOST_BYTES = 8 << 30
"""Of the arrays of a file: some 3 kB a tile, and two million tiles."""

MOST_PIXELS = 1 << 40
"""Of a count of a tile."""


@dataclasses.dataclass(frozen=True)
class Tally:
    """Sums of tiles, one row per tile; all arrays are on the host."""

    tile_id: Shaped[np.ndarray, " tile"]
    """Names of the tiles, text."""
    columns: dict[str, Shaped[np.ndarray, " tile"]]
    """Metadata of the tiles by column: 'lon', 'lat', 'date', 'annotator', 'hemisphere', 'biome' and any other of the data set."""
    confusion: Int[np.ndarray, "tile label prediction"]
    """Confusion matrix of each tile: labelled pixels by class id of label and prediction, int64."""
    mapped: Int[np.ndarray, "tile class"]
    """Predicted pixels of each class where the sensors have data, labelled or not, int64."""
    boundary: Int[np.ndarray, "tile class 2"]
    """Intersection and union of the boundary bands of label and prediction, int64; see `metrics.boundary_sums`."""
    reliability: Float[np.ndarray, "tile bin 3"] | None = None
    """float64: number of labelled pixels, sum of their confidence and number of correct ones, by bin of confidence. None for a
    map without probabilities."""
    brier: Float[np.ndarray, " tile"] | None = None
    """float64: sum over labelled pixels of the squared distance between probabilities and label (Brier 1950: 0 to 2)."""
    nll: Float[np.ndarray, " tile"] | None = None
    """float64: sum over labelled pixels of -log of the probability of the label."""

    def __len__(self) -> int:
        return len(self.tile_id)

    @functools.cached_property
    def sha256(self) -> str:
        """The SHA-256 of all arrays, with their names, types and shapes; it identifies the evaluation, whatever file it lies in."""
        digest = hashlib.sha256()
        for name, array in sorted(self._stored().items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()

    def choose(self, tiles: Bool[np.ndarray, " tile"] | Int[np.ndarray, " chosen"]) -> "Tally":
        """Returns a tally of the chosen tiles only."""
        chosen = {name: None if array is None else array[tiles] for name, array in self._arrays().items()}
        return Tally(columns={name: array[tiles] for name, array in self.columns.items()}, **chosen)

    def write(self, path: Path) -> None:
        """Writes the tally to an .npz file, which appears complete or not at all."""
        write_whole(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Returns the content of the .npz file, the same bytes for the same tally: columns come from a set, in another order each time."""
        file = io.BytesIO()
        np.savez_compressed(file, **dict(sorted(self._stored().items())))
        return file.getvalue()

    @classmethod
    def read(cls, path: Path) -> "Tally":
        """Reads a file that `write` wrote. Raises ValueError if it is not such a file."""
        try:
            arrays = read_arrays(path, MOST_BYTES)
            columns = {name.removeprefix("column_"): of for name, of in arrays.items() if name.startswith("column_")}
            tally = cls(columns=columns, **{name: of for name, of in arrays.items() if not name.startswith("column_")})
            tally._check()
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} does not hold the sums of tiles ({one_line(error, 120)}); write it again with specsar_jax.evaluate"
            ) from None
        return tally

    def _check(self) -> None:
        """Raises ValueError unless the arrays are of the types and shapes of their fields, and the counts can be added."""
        tiles, classes, bins = self.tile_id.size, np.shape(self.confusion)[-1:], np.shape(self.reliability)[1:2]
        expected = {
            "tile_id": ("U", (tiles,)),
            "confusion": ("iu", (tiles, *classes, *classes)),
            "mapped": ("iu", (tiles, *classes)),
            "boundary": ("iu", (tiles, *classes, 2)),
            "reliability": ("f", (tiles, *bins, 3)),
            "brier": ("f", (tiles,)),
            "nll": ("f", (tiles,)),
        }
        for name, array in self._arrays().items():
            kinds, shape = expected[name]
            if array is not None and (array.dtype.kind not in kinds or array.shape != shape):
                raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, expected {shape}")
            if kinds == "iu" and array.size and not 0 <= array.min() <= array.max() <= MOST_PIXELS:
                raise ValueError(f"{name} holds something else than numbers of pixels")
            if kinds == "f" and array is not None and not np.isfinite(array[np.isfinite(array)].sum()):
                raise ValueError(f"{name} cannot be added")
        for name, array in self.columns.items():
            if array.dtype.kind not in "biufU" or array.shape != (tiles,):
                raise ValueError(
                    f"column {one_line(name, 60)} is {array.dtype} of shape {array.shape}, expected ({tiles},)"
                )

    def _stored(self) -> dict[str, np.ndarray]:
        """The arrays by their names in a file."""
        arrays = {name: array for name, array in self._arrays().items() if array is not None}
        return arrays | {f"column_{name}": array for name, array in self.columns.items()}

    def _arrays(self) -> dict[str, np.ndarray | None]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "columns"}
