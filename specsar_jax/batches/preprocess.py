"""Standardises physical values for the network, and augments training tiles.

`standardise` runs inside the compiled step, the same for training, evaluation and prediction. `augment` runs on the host, in numpy, on
the three rasters of a tile together.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from specsar_jax.batches import light
from specsar_jax.batches.statistics import SensorStatistics as SensorStatistics
from specsar_jax.batches.statistics import Statistics as Statistics
from specsar_jax.config import Data
from tfds_dwplus import bands
from tfds_dwplus.files.strangers import one_line

Part = tuple[slice, slice]
"""Rows and columns of a raster."""


def standardise(
    s2: Num[Array | np.ndarray, "*batch height width s2_band"],
    s1: Num[Array | np.ndarray, "*batch height width s1_band"],
    statistics: Statistics,
    scaling: str = "standard",
    may_miss: tuple[str, ...] = (),
) -> tuple[Float[Array, "*batch height width s2_band"], Float[Array, "*batch height width s1_band"]]:
    """Clips each band to its 1st and 99th percentile, subtracts its mean, divides by its deviation; nodata becomes 0.

    Zero is the mean of the band, so a pixel without data says nothing. Source: the normalisation of Yu et al. 2024.

    Args:
        s2: digital numbers, 0 where there is no data.
        s1: backscatter in dB, NaN where there is no data. Either may have no channels, where the network does not read it.
        statistics: of the same bands in the same order.
        scaling: `data.scaling`; with another than "standard", Sentinel-2 is scaled as it says instead.
        may_miss: `Config.may_miss`; where such a sensor lacks one band, none of its bands counts.

    Returns:
        float32 arrays of the same shapes.
    """
    s2, s1 = jnp.asarray(s2), jnp.asarray(s1)
    if "s2" in may_miss:
        s2 = jnp.where((s2 != bands.S2_NODATA).all(-1, keepdims=True), s2, bands.S2_NODATA)
    if "s1" in may_miss:
        s1 = jnp.where(jnp.isfinite(s1).all(-1, keepdims=True), s1, jnp.nan)

    def one(values: Array, valid: Array, of: SensorStatistics) -> Array:
        if not values.shape[-1]:
            return values.astype(jnp.float32)
        mean, std, low, high = (jnp.asarray(v, jnp.float32) for v in (of.mean, of.std, of.p1, of.p99))
        clipped = jnp.clip(values.astype(jnp.float32), low, high)
        # A band that never varies carries nothing; do not divide by zero for it.
        return jnp.where(valid, (clipped - mean) / jnp.maximum(std, 1e-6), 0.0)

    s1 = one(s1, jnp.isfinite(s1), statistics.s1)
    if scaling == "log":
        return log_scaled(s2, statistics.s2.bands), s1
    return one(s2, s2 != bands.S2_NODATA, statistics.s2), s1


LOG_LOW_HIGH = {
    "B2": (1.7417268007636313, 2.023298706048351),
    "B3": (1.7261204997060209, 2.038905204308012),
    "B4": (1.6798346251414997, 2.179592821212937),
    "B5": (1.7734969472909623, 2.2890068333026603),
    "B6": (2.289154079164943, 2.6171674549378166),
    "B7": (2.382939712192371, 2.773418590375327),
    "B8": (2.3828939530384052, 2.7578332604178284),
    "B11": (2.1952484264967844, 2.789092484314204),
    "B12": (1.554812948247501, 2.4140534947492487),
}
"""Of each band of Dynamic World: the 30th and the 70th percentile of log(0.005 DN + 1). Source: the example notebook of
google/dynamicworld on GitHub; Brown et al. 2022.
"""

LOG_NEIGHBOUR = {"B1": "B2", "B8A": "B8", "B9": "B8", "B10": "B11"}
"""Whose numbers the bands have that Dynamic World does not read: those of the nearest band in wavelength that it does."""


def log_low_high(names: tuple[str, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns low and high of each band for `log_scaled`. Raises ValueError for a name that is no band of Sentinel-2."""
    places = [LOG_NEIGHBOUR.get(bands.canonical_band(name), bands.canonical_band(name)) for name in names]
    if unknown := [name for name, place in zip(names, places, strict=True) if place not in LOG_LOW_HIGH]:
        raise ValueError(
            f"band {one_line(unknown[0], 80)} has no numbers for data.scaling=log, expected bands of {', '.join(bands.S2_ALL_BANDS)}; "
            "choose them by data.s2_bands, or take data.scaling=standard"
        )
    low, high = zip(*(LOG_LOW_HIGH[place] for place in places), strict=True) if places else ((), ())
    return low, high


def log_scaled(
    s2: Num[Array | np.ndarray, "*batch height width s2_band"], names: tuple[str, ...]
) -> Float[Array, "*batch height width s2_band"]:
    """Returns digital numbers scaled as Dynamic World does, to between 0 and 1.

        x = (log(0.005 DN + 1) - low) / high;  x = exp(5 x - 1);  x / (x + 1)

    A pixel without data goes through it as the DN 0, as in the original, and becomes about 0.005.
    """
    low, high = (np.asarray(numbers, np.float32) for numbers in log_low_high(names))
    x = (jnp.log(jnp.asarray(s2).astype(jnp.float32) * np.float32(0.005) + 1.0) - low) / high
    x = jnp.exp(5.0 * x - 1.0)
    return x / (x + 1.0)


def augment(tile: dict[str, np.ndarray], config: Data, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Changes a training tile at random: zoom and crop, flip and rotate, and change values as `config` says.

    Args:
        tile: `s2` uint16 [height, width, band], digital numbers, 0 without data; `s1` float32 [height, width, 2], dB, NaN
            without data; `label` uint8 [height, width].
        config: what is done, and how much of it.
        rng: the only source of randomness.
    """
    part = draw_crop(labelled_box(tile["label"]), tile["label"].shape, config, rng)
    return augment_crop({name: values[part] for name, values in tile.items()}, config, rng)


def draw_crop(box: Part, shape: tuple[int, ...], config: Data, rng: np.random.Generator) -> Part:
    """Draws the crop of a tile of `shape`, labelled inside `box`: how large it is before it is resampled, and its place."""
    zoom = np.exp(rng.uniform(-1.0, 1.0) * np.log(config.zoom)) if config.zoom not in (0.0, 1.0) else 1.0
    return draw_place(box, shape, min(max(round(config.crop_px * zoom), 1), min(shape[:2])), rng)


def augment_crop(tile: dict[str, np.ndarray], config: Data, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What `augment` does once the tile is cut."""
    tile = resize_nearest(tile, config.crop_px)
    if config.flips:
        tile = flip_and_rotate(tile, rng)
    if light.changes(config):
        tile["s2"] = light.change_light(tile["s2"], config.s2_bands, config, rng)
    if config.speckle_looks:
        looks = config.speckle_looks
        # Fully developed speckle of L looks multiplies the power by a gamma variate of mean 1 and variance 1/L
        # (Goodman 1976); in dB it is added.
        speckle = rng.gamma(looks, 1.0 / looks, tile["s1"].shape)
        tile["s1"] = (tile["s1"] + 10.0 * np.log10(np.maximum(speckle, 1e-6))).astype(np.float32)
    if config.band_drop:
        for sensor, nodata in (("s2", bands.S2_NODATA), ("s1", np.nan)):
            dropped = rng.random(tile[sensor].shape[-1]) < config.band_drop
            if dropped.any() and not dropped.all():
                tile[sensor] = np.where(dropped, np.asarray(nodata, tile[sensor].dtype), tile[sensor])
    for shares, in_patches in ((config.sensor_drop, False), (config.sensor_gaps, True)):
        if shares and tile["s2"].shape[-1] and tile["s1"].shape[-1]:
            # One draw for both, so that never both are dropped. Labels stay: the other sensor has to explain them.
            drawn = rng.random()
            if drawn >= sum(shares):
                continue
            sensor, nodata = ("s2", bands.S2_NODATA) if drawn < shares[0] else ("s1", np.nan)
            size_px = tile["label"].shape[0]
            lost = random_patches(size_px, rng)[..., None] if in_patches else np.True_
            # A pixel of which the other sensor has nothing either, as that was dropped before, has nothing to explain its label.
            tile[sensor] = np.where(
                lost & _has_other(tile, sensor), np.asarray(nodata, tile[sensor].dtype), tile[sensor]
            )
    return tile


def _has_other(tile: dict[str, np.ndarray], sensor: str) -> np.ndarray:
    """Marks pixels [height, width, 1] where the other sensor than `sensor` has data."""
    seen = bands.s1_seen(tile["s1"]) if sensor == "s2" else bands.s2_seen(tile["s2"])
    return seen[..., None]


def mosaic(
    tile: dict[str, np.ndarray], other: dict[str, np.ndarray], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Puts patches of another crop of the same size into a crop, labels and all.

    So a network cannot tell the classes by the look of the whole crop, and learns what a few pixels look like.
    """
    patches = random_patches(tile["label"].shape[0], rng)
    return {
        name: np.where(patches.reshape(*patches.shape, *[1] * (mine.ndim - 2)), other[name], mine)
        for name, mine in tile.items()
    }


def random_patches(size_px: int, rng: np.random.Generator) -> Bool[np.ndarray, "height width"]:
    """Marks patches of a square: where a random field, smooth over an eighth to a half of it, is above a random level."""
    values = rng.normal(0.0, 1.0, (int(rng.integers(2, 9)),) * 2)
    places, knots = np.linspace(0, len(values) - 1, size_px), np.arange(len(values))
    rows = np.stack([np.interp(places, knots, column) for column in values.T], axis=1)
    field = np.stack([np.interp(places, knots, row) for row in rows])
    return field > rng.normal(0.0, 0.3)


def resize_nearest(tile: dict[str, np.ndarray], size_px: int) -> dict[str, np.ndarray]:
    """Resamples square rasters to another size by the nearest pixel, so that labels and nodata stay what they are."""
    given = tile["label"].shape[0]
    if given == size_px:
        return dict(tile)
    places = np.minimum(((np.arange(size_px) + 0.5) * given / size_px).astype(int), given - 1)
    return {name: values[places][:, places] for name, values in tile.items()}


def labelled_box(label: np.ndarray) -> Part:
    """The smallest box around all labels of a raster (height, width); all of it if there are none."""
    labelled, box = label != bands.IGNORE, []
    for axis in (0, 1):
        places = np.flatnonzero(labelled.any(axis=1 - axis))
        box.append(slice(int(places[0]), int(places[-1]) + 1) if places.size else slice(0, label.shape[axis]))
    return box[0], box[1]


def draw_place(box: Part, shape: tuple[int, ...], size_px: int, rng: np.random.Generator) -> Part:
    """Draws a square of `size_px` of a raster, inside `box` where there is room.

    A tile that was padded to the data set's size has labels in one corner only: a square drawn anywhere would be empty.
    """
    part = []
    for inside, length in zip(box, shape[:2], strict=True):
        most = length - size_px
        low, high = sorted((min(inside.start, most), min(max(inside.stop - size_px, 0), most)))
        start = int(rng.integers(low, high + 1))
        part.append(slice(start, start + size_px))
    return part[0], part[1]


def flip_and_rotate(tile: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Applies one of the eight flips and rotations of a square, the same to all three rasters."""
    quarters, flip = int(rng.integers(4)), bool(rng.integers(2))
    rotated = {name: np.rot90(values, quarters) for name, values in tile.items()}
    return {name: np.ascontiguousarray(values[:, ::-1] if flip else values) for name, values in rotated.items()}
