"""A loaded network, ready to map arrays: what `specsar_jax.load` returns.

Enters: a bundle, a workdir, or an address on a hub. Leaves: a `Network`. JAX, xarray and all that maps are imported when something is
mapped: they take a second, a bundle a fifth of one.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from specsar_jax.trained.loading import load_trained
from specsar_jax.trained.trained_network import Trained


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network that maps arrays. It can be pickled, for the workers of a cluster."""

    trained: Trained

    def predict(
        self,
        s2: Any = None,
        s1: Any = None,
        *,
        s2_offset: int | None = None,
        s1_unit: str = "db",
        overlap: float | None = None,
        sensors_seen: bool = False,
    ) -> Any:
        """Maps the land cover of a scene.

        What is decided of the scene's numbers, and what is in doubt, is told by `warnings.warn`.

        Args:
            s2: `xarray.DataArray` [band, y, x], digital numbers (reflectance x 10000), reflectance, or numbers whose attributes `scale_factor` and
                `add_offset` say how they are stored. NaN and the declared nodata value (`_FillValue`, `nodata`) are nodata; if none
                is declared, pixels that are 0 in all bands. The coordinate `band` or the attribute `long_name` names the bands. A
                Dataset has one variable [y, x] a band.
            s1: the same of backscatter; NaN, 0 and the declared nodata value are nodata, and so is what is outside -60 to 40 dB.
                Resampled if it has another grid or CRS.
            s2_offset: digital numbers to subtract; if not given, as the metadata and the numbers say, else none.
            s1_unit: unit of `s1`, one of `backscatter.UNITS`.
            overlap: share of a window that it has in common with the next, 0 to 0.75; if not given, as in the run's config.
            sensors_seen: whether to give back by which sensors each pixel was seen, as `predict --sensors_seen` writes it.

        Returns:
            `label` [y, x], uint8, 255 where there is no data; `probability` [class, y, x], float32, NaN where there is no data. A pixel has
            data if all bands have, or, of a network that works without a sensor, all bands of one sensor. With `sensors_seen` also
            `sensors_seen` [y, x], uint8: 1 Sentinel-2, 2 Sentinel-1, 3 both, 255 where there is no data. The attributes tell what was
            subtracted (`s2_offset`), the scale of the stored numbers (`s2_scale`) and, as tags of a map do, whose weights they are.

        Raises:
            ValueError: the network cannot use the arrays, bands, units or grids; the message says what it needs.
        """
        from specsar_jax.maps import arrays

        given = {"s2_offset": s2_offset, "s1_unit": s1_unit, "overlap": overlap, "sensors_seen": sensors_seen}
        return arrays.predict(self, s2, s1, **given)

    @functools.cached_property
    def compiled(self) -> Any:
        """Returns the network as a compiled function of batches of physical values."""
        from specsar_jax.maps.compiled import make_probabilities

        return make_probabilities(self.trained)

    @functools.cached_property
    def sent(self) -> Any:
        """Returns the network as an argument of dask's tasks: sent once, not with each task."""
        import dask

        return dask.delayed(self, traverse=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"trained": self.trained}  # what is made of it here is not pickled


def load(workdir_or_bundle: str | Path, checkpoint: str = "best") -> Network:
    """Loads a trained network from an exported bundle or from the 'best' or 'latest' checkpoint of a workdir.

    Raises:
        ValueError: the path is neither a bundle nor a workdir, or there is no checkpoint yet.
    """
    if checkpoint not in ("best", "latest"):
        raise ValueError(f"checkpoint is {checkpoint!r}, expected 'best' or 'latest'")
    return Network(load_trained(Path(workdir_or_bundle), checkpoint))
