"""Simulate landscapes as Sentinel-2 and Sentinel-1 see them. SIMULATED: no pixel is a measurement.

Enters: a seed and a size. Leaves: a `Tile` of class ids, digital numbers and backscatter.

A landscape is drawn in layers: forest, shrub and grass along noise contours; farmland in parcels; wetland; rock and snow by
height; rivers, lakes and sea; settlements of blocks and streets; roads. Every patch (a parcel, a block, a stand of trees)
deviates from the mean of its class, so that brightness alone is not enough. One sensor is not enough either:

- bare and built have the same shapes (lots in a town), and in some patches the same spectra; radar separates them by double
  bounce;
- flooded vegetation has spectra like trees and like grass; radar separates it from trees, and the spectrum from water;
- crops, grass and shrub are similar in radar; the spectrum separates them, and also water, bare and snow.

Source of the class means: all labelled pixels of five real tiles (Sentinel-2 L1C and Sentinel-1 GRD samples of TerraMesh and
Sen1Floods11), with classes of the published Dynamic World model.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage
from scipy.spatial import cKDTree

from tfds_dwplus import bands
from tfds_dwplus.tiles.tile_files import Tile, TileRecord

WATER, TREES, GRASS, FLOODED, CROPS, SHRUB, BUILT, BARE, SNOW = range(9)

# Rows: classes in order. Columns: B2 B3 B4 B5 B6 B7 B8 B11 B12, top-of-atmosphere reflectance.
CLASS_REFLECTANCE = np.array([
    [0.110, 0.100, 0.090, 0.091, 0.076, 0.084, 0.071, 0.038, 0.023],
    [0.092, 0.075, 0.053, 0.079, 0.174, 0.215, 0.212, 0.114, 0.053],
    [0.118, 0.118, 0.113, 0.143, 0.197, 0.229, 0.221, 0.165, 0.097],
    [0.105, 0.094, 0.083, 0.101, 0.122, 0.141, 0.128, 0.082, 0.046],
    [0.126, 0.127, 0.134, 0.158, 0.216, 0.251, 0.239, 0.242, 0.155],
    [0.127, 0.131, 0.159, 0.182, 0.223, 0.254, 0.247, 0.343, 0.242],
    [0.147, 0.146, 0.156, 0.170, 0.217, 0.248, 0.231, 0.236, 0.169],
    [0.207, 0.221, 0.248, 0.257, 0.277, 0.302, 0.287, 0.324, 0.246],
    [0.548, 0.433, 0.483, 0.516, 0.535, 0.538, 0.519, 0.092, 0.090],
])  # fmt: skip

# Columns: VV, VH, sigma0 in dB.
CLASS_BACKSCATTER_DB = np.array([
    [-17.4, -24.7], [-9.2, -15.1], [-13.3, -20.1], [-11.8, -19.8], [-11.3, -18.0],
    [-12.3, -17.4], [-7.5, -15.7], [-15.3, -21.2], [-14.4, -21.7],
])  # fmt: skip

# Patches of these classes deviate towards the spectrum of another class: (class, other class, standard deviation as a
# share of the difference). Symmetric, so that the class means stay those of the table.
SPECTRAL_TWINS = (
    (BUILT, BARE, 0.8),
    (BARE, BUILT, 0.8),
    (FLOODED, TREES, 0.6),
    (TREES, FLOODED, 0.6),
    (FLOODED, GRASS, 0.4),
    (GRASS, FLOODED, 0.4),
)

LOOKS = 12.0
"""Equivalent number of looks of the mean: a GRD scene has about 4.4 (Sentinel-1 product definition), times a few scenes."""

PIXEL_SIZE_M = 10.0


def simulated_tile(seed: int, split: str, index: int, size_px: int) -> Tile:
    """Simulates one tile. The same arguments give the same tile.

    Args:
        seed: seed of the data set.
        split: name of the split.
        index: index of the tile in its split, from 0.
        size_px: height and width.
    """
    rng = np.random.default_rng([seed, index, *split.encode()])
    classes, patches = landscape(size_px, rng)
    s2 = _sentinel2(classes, patches, rng)
    s1 = _sentinel1(classes, patches, rng)
    label = _annotate(classes, rng)
    _cloud_and_swath_edge(s2, s1, label, rng)
    lon, lat = rng.uniform(-179.0, 179.0), rng.uniform(-60.0, 70.0)
    zone = int((lon + 180.0) // 6.0) + 1
    crs = f"EPSG:{32600 + zone if lat >= 0 else 32700 + zone}"
    # A random place in the UTM zone of that longitude; it does not match longitude and latitude exactly.
    easting, northing = rng.integers(300, 700) * 1000.0, rng.integers(1000, 7000) * 1000.0
    record = TileRecord(f"simulated_{seed}_{split}_{index:05d}", split, lon, lat, "2020-07-01", "simulator")
    return Tile(record, s2, s1, label, crs, (PIXEL_SIZE_M, 0.0, easting, 0.0, -PIXEL_SIZE_M, northing))


def landscape(size_px: int, rng: np.random.Generator) -> tuple[Int[np.ndarray, "h w"], Int[np.ndarray, "h w"]]:
    """Draws a landscape: the class id of each pixel, and the id of its patch."""
    height = _noise(size_px, 60.0, rng)
    moisture = _noise(size_px, 35.0, rng)
    cover = _noise(size_px, 22.0, rng)
    rows, columns = np.mgrid[:size_px, :size_px].astype(np.float64)
    patches = _stands(size_px, rng)

    # Forest, shrub and grass along the contours of one noise field: forest edges with a belt of shrub.
    dense, sparse = np.quantile(cover, rng.uniform(0.55, 0.75)), np.quantile(cover, rng.uniform(0.2, 0.4))
    classes = np.where(cover > dense, TREES, np.where(cover > sparse, SHRUB, GRASS))

    if rng.random() < 0.7:
        _farmland(classes, patches, _noise(size_px, 45.0, rng) > rng.uniform(-0.3, 0.8), rows, columns, rng)
    water = _water(height, rows, columns, rng)
    if rng.random() < 0.75:
        shore = ndimage.distance_transform_edt(~water) if water.any() else np.full(height.shape, np.inf)
        wetland = (shore < rng.uniform(4, 16)) | (moisture > rng.uniform(0.9, 1.6))
        classes[wetland & (cover > np.quantile(cover, 0.15))] = FLOODED
    if rng.random() < 0.5:
        rock = height > np.quantile(height, rng.uniform(0.72, 0.9))
        classes[rock] = BARE
        if rng.random() < 0.8:
            snow_line = height + 0.25 * _noise(size_px, 6.0, rng)
            classes[rock & (snow_line > np.quantile(snow_line, rng.uniform(0.75, 0.9)))] = SNOW
    classes[water] = WATER
    if water.any() and rng.random() < 0.5:
        beach = ndimage.binary_dilation(water, iterations=int(rng.integers(1, 5))) & ~water & (moisture < 0.3)
        classes[beach] = BARE
    for _ in range(rng.integers(0, 3)):
        _settlement(classes, patches, water, rows, columns, rng)
    for _ in range(rng.integers(0, 3)):
        _road(classes, rows, columns, rng)
    return classes, patches


def _noise(size_px: int, scale_px: float, rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Smooth noise with mean 0 and deviation 1, of structures of about `scale_px` and finer ones."""
    total = np.zeros((size_px, size_px))
    for octave in range(4):
        scale = scale_px / 2**octave
        # Drawn beyond the border and cut, so that the filter's treatment of borders does not show.
        margin = int(2 * scale) + 1
        white = rng.standard_normal((size_px + 2 * margin,) * 2)
        smooth = ndimage.gaussian_filter(white, scale / 2, truncate=3.0)[margin:-margin, margin:-margin]
        total += smooth * scale * 0.55**octave
    return (total - total.mean()) / total.std()


def _stands(size_px: int, rng: np.random.Generator) -> Int[np.ndarray, "h w"]:
    """Patches of natural land: cells around random points, with borders distorted by noise."""
    points = rng.uniform(0, size_px, (max(size_px**2 // 260, 4), 2))
    rows, columns = np.mgrid[:size_px, :size_px]
    bent = np.stack([rows + 3 * _noise(size_px, 8.0, rng), columns + 3 * _noise(size_px, 8.0, rng)], axis=-1)
    return cKDTree(points).query(bent.reshape(-1, 2))[1].reshape(size_px, size_px).astype(np.int64)


def _rotated(rows: np.ndarray, columns: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotates pixel coordinates: along and across a direction."""
    return rows * np.cos(angle) + columns * np.sin(angle), -rows * np.sin(angle) + columns * np.cos(angle)


def _lots(along: np.ndarray, across: np.ndarray, length: float, width: float, rng: np.random.Generator) -> np.ndarray:
    """Ids of rectangular lots: parallel strips, each cut at its own places."""
    strip = np.floor(across / width).astype(np.int64)
    strip -= strip.min()
    offset = rng.uniform(0, length, strip.max() + 1)
    lot = np.floor((along + offset[strip]) / length).astype(np.int64)
    lot -= lot.min()
    return strip * (lot.max() + 1) + lot


def _assign(
    classes: np.ndarray,
    patches: np.ndarray,
    where: np.ndarray,
    lots: np.ndarray,
    choices: dict[int, float],
    rng: np.random.Generator,
) -> None:
    """Draws a class for each lot from `choices` (class: probability), and makes each lot a patch. In place."""
    drawn = rng.choice(list(choices), size=lots.max() + 1, p=list(choices.values()))
    classes[where] = drawn[lots[where]]
    patches[where] = patches.max() + 1 + lots[where]


def _farmland(
    classes: np.ndarray,
    patches: np.ndarray,
    where: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    rng: np.random.Generator,
) -> None:
    along, across = _rotated(rows, columns, rng.uniform(0, np.pi))
    lots = _lots(along, across, rng.uniform(18, 45), rng.uniform(9, 22), rng)
    _assign(classes, patches, where, lots, {CROPS: 0.72, GRASS: 0.14, BARE: 0.08, SHRUB: 0.06}, rng)


def _water(height: np.ndarray, rows: np.ndarray, columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Marks water: sea or lakes on low ground, or a winding river."""
    water = np.zeros(height.shape, bool)
    if rng.random() < 0.5:
        water |= height < np.quantile(height, rng.uniform(0.05, 0.35))
    if rng.random() < 0.5:
        along, across = _rotated(rows, columns, rng.uniform(0, np.pi))
        size = height.shape[0]
        wave = rng.uniform(40, 90)
        course = rng.uniform(-0.3, 0.3) * size + rng.uniform(5, 14) * np.sin(
            along / wave * 2 * np.pi + rng.uniform(0, 6)
        )
        course += 2.5 * np.sin(along / (wave * 0.55) * 2 * np.pi + rng.uniform(0, 6))
        water |= np.abs(across - across.mean() - course) < rng.uniform(1.2, 4.5)
    return water


def _settlement(
    classes: np.ndarray,
    patches: np.ndarray,
    water: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Draws a settlement in place: streets, and lots of houses, bare ground or grass."""
    size = classes.shape[0]
    centre = rng.uniform(0, size, 2)
    radius = rng.uniform(14, 40)
    distance = np.hypot(rows - centre[0], columns - centre[1]) + 5 * _noise(size, 14.0, rng)
    town = (distance < radius) & ~water
    along, across = _rotated(rows, columns, rng.uniform(0, np.pi))
    length, width = rng.uniform(9, 16), rng.uniform(6, 10)
    _assign(
        classes, patches, town, _lots(along, across, length, width, rng), {BUILT: 0.62, BARE: 0.3, GRASS: 0.08}, rng
    )
    classes[town & (np.mod(across, width) < 1.2)] = BUILT


def _road(classes: np.ndarray, rows: np.ndarray, columns: np.ndarray, rng: np.random.Generator) -> None:
    """Draws a road of 10 to 20 m width across the tile, in place."""
    along, across = _rotated(rows, columns, rng.uniform(0, np.pi))
    bend = 6 * np.sin(along / rng.uniform(60, 150) * 2 * np.pi + rng.uniform(0, 6))
    place = rng.uniform(-0.35, 0.35) * classes.shape[0]
    classes[np.abs(across - across.mean() - bend - place) < rng.uniform(0.6, 1.1)] = BUILT


def _sentinel2(classes: np.ndarray, patches: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Simulates digital numbers: spectrum of the class, deviation of the patch, mixed pixels, haze, noise."""
    count = patches.max() + 1
    spectrum = CLASS_REFLECTANCE[classes]
    for own, other, deviation in SPECTRAL_TWINS:
        stray = deviation * rng.standard_normal(count)[patches] * (classes == own)
        spectrum = spectrum + stray[..., None] * (CLASS_REFLECTANCE[other] - CLASS_REFLECTANCE[own])
    spectrum = spectrum * np.exp(0.10 * rng.standard_normal(count))[patches][..., None]
    spectrum = spectrum * (1 + 0.05 * rng.standard_normal((count, spectrum.shape[-1]))[patches])
    for band, name in enumerate(bands.S2_BANDS):
        # The point spread function mixes neighbours, in 20 m bands more than in 10 m bands.
        blur = 0.5 if name in ("B2", "B3", "B4", "B8") else 0.9
        spectrum[..., band] = ndimage.gaussian_filter(spectrum[..., band], blur)
    wavelength_um = np.array([0.49, 0.56, 0.665, 0.705, 0.74, 0.783, 0.842, 1.61, 2.19])
    haze = rng.normal(0.0, 0.006) * (0.49 / wavelength_um) ** 2
    spectrum = spectrum * np.exp(rng.normal(0.0, 0.04)) + haze
    spectrum = spectrum * (1 + 0.02 * rng.standard_normal(spectrum.shape)) + 0.003 * rng.standard_normal(spectrum.shape)
    return np.rint(spectrum * 10000).clip(1, 65535).astype(np.uint16)


def _sentinel1(classes: np.ndarray, patches: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Simulates backscatter in dB: mean of the class, deviation of the patch, mixed pixels, gamma speckle of `LOOKS` looks."""
    count = patches.max() + 1
    backscatter_db = CLASS_BACKSCATTER_DB[classes] + 0.7 * rng.standard_normal(count)[patches][..., None]
    backscatter_db += rng.normal(0.0, 0.3)
    # Walls and corners make backscatter of towns vary from pixel to pixel.
    backscatter_db += (classes == BUILT)[..., None] * rng.normal(0.0, 1.5, (*classes.shape, 1))
    power = 10 ** (backscatter_db / 10)
    power = np.stack([ndimage.gaussian_filter(power[..., band], 0.6) for band in range(power.shape[-1])], axis=-1)
    power *= rng.gamma(LOOKS, 1 / LOOKS, power.shape)
    return (10 * np.log10(power)).astype(np.float32)


def _annotate(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Makes labels with a tenth of the tile unlabelled, in connected areas."""
    unmarked = _noise(classes.shape[0], 18.0, rng)
    return np.where(unmarked > np.quantile(unmarked, 0.9), bands.IGNORE, classes).astype(np.uint8)


def _cloud_and_swath_edge(s2: np.ndarray, s1: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> None:
    """Adds in some tiles a cloud (bright, without label) or a strip without data at the edge of a swath. In place."""
    size = label.shape[0]
    if rng.random() < 0.08:
        cloud = _noise(size, 30.0, rng)
        cloud = cloud > np.quantile(cloud, rng.uniform(0.85, 0.97))
        s2[cloud] = (s2[cloud] * 0.2 + rng.uniform(4000, 7000)).astype(np.uint16)
        label[cloud] = bands.IGNORE
    if rng.random() < 0.08:
        rows, columns = np.mgrid[:size, :size]
        along, _ = _rotated(rows, columns, rng.uniform(-0.3, 0.3))
        outside = along < np.quantile(along, rng.uniform(0.03, 0.2))
        if rng.random() < 0.5:
            s2[outside] = bands.S2_NODATA
        else:
            s1[outside] = np.nan
        label[outside] = bands.IGNORE
