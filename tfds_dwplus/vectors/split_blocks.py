"""Give ground to splits by blocks, so that ground of one split does not touch that of another. Pure.

Enters: the CRS of the scenes, labelled pixels of each class by block. Leaves: squares of ground with a gap between them, and the split of
each block. The lattice of a CRS does not depend on the scenes, so ground of several dates is in one block; where scenes of two CRSs
meet, blocks that touch go to one split together.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int64
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

_EARTH_RADIUS_M = 6.371e6
_DEGREE_M = _EARTH_RADIUS_M * math.pi / 180

Block = tuple[str, int, int]
"""CRS as text, column and row of the lattice, counted eastwards and northwards from its origin."""

Bounds = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Lattice:
    """Squares of `block_m` metres, `gap_m` apart, all over a CRS. In degrees each row of them has a width of its own."""

    crs: CRS
    block_m: float
    gap_m: float

    def blocks(self, bounds: Bounds) -> Iterator[tuple[Block, Bounds, Bounds]]:
        """Yields the blocks about some bounds: each one's square, and the square with half of the gap all round.

        Bounds are left, bottom, right, top in the CRS.
        """
        left, bottom, right, top = bounds
        name = self.crs.to_string()
        height = (self.block_m + self.gap_m) / self._metres(0.0)[1]
        for row in range(math.floor(bottom / height), math.floor(top / height) + 1):
            width = (self.block_m + self.gap_m) / self._metres((row + 0.5) * height)[0]
            share = self.gap_m / 2 / (self.block_m + self.gap_m)
            for column in range(math.floor(left / width), math.floor(right / width) + 1):
                whole = column * width, row * height, (column + 1) * width, (row + 1) * height
                inset = share * width, share * height, -share * width, -share * height
                yield (name, column, row), tuple(map(sum, zip(whole, inset, strict=True))), whole

    def _metres(self, y: float) -> tuple[float, float]:
        """Metres of a unit of the CRS, eastwards and northwards."""
        if self.crs.is_geographic:
            return _DEGREE_M * max(math.cos(math.radians(min(abs(y), 90))), 1e-3), _DEGREE_M
        return (self.crs.linear_units_factor[1],) * 2


def assign(
    pixels: Mapping[Block, Int64[np.ndarray, " class"]],
    middles: Mapping[Block, tuple[float, float]],
    shares: Sequence[tuple[str, float]],
    block_m: float,
    seed: int,
) -> dict[Block, str]:
    """Gives each block a split: every class to train, then to test, then to the others if it can be; shares as near as can be.

    Args:
        pixels: labelled pixels of each class.
        middles: longitude and latitude of the middle of each block.
        shares: names of the splits and the shares of the pixels that they should have.
        block_m: side of a block, with the gap.
        seed: of the order in which blocks are taken.
    """
    blocks = sorted(pixels)
    group = _together(blocks, [middles[block] for block in blocks], block_m)
    counts = np.zeros((max(group) + 1, len(pixels[blocks[0]])))
    np.add.at(counts, group, np.array([pixels[block] for block in blocks], np.float64))
    split = _chosen(counts, [share for _, share in shares], _order([name for name, _ in shares]), seed)
    return {block: shares[split[number]][0] for block, number in zip(blocks, group, strict=True)}


def _chosen(
    counts: Float64[np.ndarray, "block class"], wanted: list[float], needy: list[int], seed: int
) -> Int64[np.ndarray, " block"]:
    """Chooses the split of each block: first so that no split lacks a class, then the largest blocks first to where they fit best."""
    of_class = counts[:, counts.sum(axis=0) > 0]
    relative = of_class / of_class.sum(axis=0)
    shares = np.array(wanted)[:, None]
    draws = np.random.default_rng(seed)
    split = np.full(len(counts), -1)
    held = np.zeros((len(wanted), relative.shape[1]))

    def give(block: int, number: int) -> None:
        split[block] = number
        held[number] += relative[block]

    for number in needy:
        for place in np.argsort((relative > 0).sum(axis=0), kind="stable"):  # the classes of fewest blocks first
            free = np.flatnonzero((split < 0) & (relative[:, place] > 0))
            if held[number, place] or not len(free):
                continue
            # Not the one that takes a class away from all others, if there is another one, and one of about the wanted size.
            off = np.abs(held[number] + relative[free] - shares[number]).sum(axis=1) * draws.uniform(
                0.9, 1.1, len(free)
            )
            give(int(free[np.argmin(off)]), number)
    rest = np.flatnonzero(split < 0)
    sizes = relative[rest].max(axis=1) * draws.uniform(0.8, 1.25, len(rest))
    for block in rest[np.argsort(-sizes, kind="stable")]:
        more = ((held + relative[block] - shares) ** 2 - (held - shares) ** 2).sum(axis=1)
        give(int(block), int(np.argmin(more)))
    return split


def _order(names: list[str]) -> list[int]:
    """Places of the splits in the order in which they are given each class: train, test, then the others."""
    rank = {"train": 0, "test": 1}
    return sorted(range(len(names)), key=lambda place: (rank.get(names[place], 2), place))


def _together(blocks: list[Block], middles: list[tuple[float, float]], block_m: float) -> list[int]:
    """Numbers of groups of blocks: each alone, but that those of two CRSs which touch, or may, are together."""
    if len({crs for crs, _, _ in blocks}) == 1:
        return list(range(len(blocks)))
    lon, lat = np.radians(middles).T
    places = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    # Squares that touch, however they are turned, have middles that are 1.41 sides apart at most.
    pairs = cKDTree(places).query_pairs(1.45 * block_m / _EARTH_RADIUS_M, output_type="ndarray")
    apart = np.array([blocks[one][0] != blocks[other][0] for one, other in pairs], bool)
    first, second = pairs[apart].T
    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(blocks),) * 2)
    return connected_components(links, directed=False)[1].tolist()


def middle_of(crs: CRS, bounds: Bounds) -> tuple[float, float]:
    """Longitude and latitude of the middle of some bounds."""
    left, bottom, right, top = bounds
    (lon,), (lat,) = transform_points(crs, CRS.from_epsg(4326), [(left + right) / 2], [(bottom + top) / 2])
    return lon, lat
