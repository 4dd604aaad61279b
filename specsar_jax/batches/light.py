"""Changes light and air over a training crop of Sentinel-2 at random: gains, colour, contrast, haze.

What the same land looks like under another sun, through more air or less (reflectance at the top of the atmosphere or at the surface),
in another season, on another sensor. In numpy, on the host; the generator is the only source of randomness. A pixel without data stays
one, and no other becomes one.
"""

import numpy as np
from jaxtyping import Float, UInt16

from specsar_jax.config import Data
from tfds_dwplus import bands
from tfds_dwplus.files.strangers import one_line

WAVELENGTH_NM = {
    "B1": 443.0,
    "B2": 492.0,
    "B3": 560.0,
    "B4": 665.0,
    "B5": 704.0,
    "B6": 741.0,
    "B7": 783.0,
    "B8": 833.0,
    "B8A": 865.0,
    "B9": 945.0,
    "B10": 1374.0,
    "B11": 1614.0,
    "B12": 2202.0,
}
"""Centre of each band. Source: Copernicus S2 Products Specification, Sentinel-2A, rounded."""

HAZE_POWER = (1.0, 4.0)
"""Of the wavelength, with which haze falls: 1 for smoke and dust, 4 for clear air (Rayleigh)."""


def changes(config: Data) -> bool:
    """Whether `change_light` changes anything."""
    return any((config.brightness, config.band_jitter, config.tilt, config.contrast, config.haze))


def change_light(
    s2: UInt16[np.ndarray, "height width band"], names: tuple[str, ...], config: Data, rng: np.random.Generator
) -> UInt16[np.ndarray, "height width band"]:
    """Changes a crop as `config` says: contrast around the mean of each band, then a gain, then haze.

    Args:
        s2: digital numbers, 0 without data.
        names: of its bands; of a tile without Sentinel-2, any.
        config: how much of what; see the fields of `Data`.
        rng: draws only for what is above 0, so that what a config draws does not depend on fields that it leaves at 0.

    Raises:
        ValueError: tilt or haze, and a band of no known wavelength.
    """
    valid = s2 != bands.S2_NODATA
    names = names if s2.shape[-1] else ()
    # Sun, slope and haze change all bands together; season and sensor change each band by itself.
    log_gain = (rng.normal(0.0, config.brightness) if config.brightness else 0.0) + (
        rng.normal(0.0, config.band_jitter, s2.shape[-1]) if config.band_jitter else 0.0
    )
    if config.tilt:
        log_gain = log_gain + rng.normal(0.0, config.tilt, 3) @ _curves(_wavelengths(names))
    log_contrast = rng.normal(0.0, config.contrast) if config.contrast else 0.0
    haze: np.ndarray | float = 0.0
    if config.haze:
        power = rng.uniform(*HAZE_POWER)
        haze = rng.uniform(-config.haze, config.haze) * (WAVELENGTH_NM["B2"] / _wavelengths(names)) ** power
    if not s2.shape[-1] or (config.unchanged_light and rng.random() < config.unchanged_light):
        return s2
    mean: np.ndarray | float = 0.0
    if log_contrast:
        mean = np.where(valid, s2, 0).sum(axis=(0, 1)) / np.maximum(valid.sum(axis=(0, 1)), 1)
    values = (mean + (s2 - mean) * np.exp(log_contrast)) * np.exp(log_gain) + haze
    return np.where(valid, np.clip(np.rint(values), 1, 65535), bands.S2_NODATA).astype(np.uint16)


def _wavelengths(names: tuple[str, ...]) -> Float[np.ndarray, " band"]:
    """Wavelength of each band in nm."""
    known = [WAVELENGTH_NM.get(bands.canonical_band(name)) for name in names]
    if None in known:
        raise ValueError(
            f"band {one_line(names[known.index(None)], 80)} has no known wavelength, which data.tilt and data.haze need; "
            f"expected bands of {', '.join(WAVELENGTH_NM)}, or 0 for both"
        )
    return np.asarray(known)


def _curves(wavelengths: Float[np.ndarray, " band"]) -> Float[np.ndarray, "3 band"]:
    """Three smooth curves over the logarithm of the wavelength, B2 to B12: a slope, a bow, and one half as large that turns twice."""
    first, last = WAVELENGTH_NM["B2"], WAVELENGTH_NM["B12"]
    place = 2.0 * np.log(wavelengths / first) / np.log(last / first) - 1.0
    # Chebyshev polynomials; less of what varies faster.
    return np.stack([place, 0.6 * (2.0 * place**2 - 1.0), 0.4 * (4.0 * place**3 - 3.0 * place)])
