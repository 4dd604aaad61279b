"""Draws tiles in a region by lot: places that are spread over it, days that are spread over the seasons, splits by ground.

Enters: polygons, a `Choice`, a number of tiles. Leaves: a `Lot` of `DrawnTile`s. Pure functions: the same choice gives the same tiles,
and of more tiles the first ones are those of fewer, so that a folder can grow.

Tiles are squares of a fixed lattice of each UTM zone (those of `blocks`), so no two of them overlap and their pixels are those of
Sentinel-2. A tile never reaches over the border of its zone.

Places: the squares are put in the order of a Hilbert curve over an equal-area map, along which neighbours are near. Along it they
are taken in the order of van der Corput's sequence from a random start, which fills gaps first: half, quarters, eighths of the
curve. Each square is as likely as any other, and any number of them is spread evenly. Source of the idea: Stevens and Olsen 2004,
Spatially balanced sampling of natural resources.

Splits: larger squares of the lattice are drawn in the same manner, for one split after another. Squares that touch ground of another
split, also at a corner, are left free.
"""

import dataclasses
import datetime
import math
from collections.abc import Mapping

import numpy as np
import shapely
from jaxtyping import Float64, Int64, UInt8
from scipy.spatial import cKDTree

from tfds_dwplus.labels.published import hemisphere_of
from tfds_dwplus.places import blocks
from tfds_dwplus.places.blocks import PIXEL_M, Block
from tfds_dwplus.places.drawn_tile import DATES, Choice, DrawnTile

MOST_SQUARES = 2_000_000
"""Of a region: at 510 px a third of all land."""

FREE = 255
"""Split of squares that touch ground of two splits."""

MOST_SIDE = 10
"""Tiles on a side of the squares in which ground of splits is drawn."""

ENOUGH = 0.7
"""Share of the tiles of a region that can be drawn in the wanted shares; where fewer can, larger squares are tried."""

_EARTH_RADIUS_M = 6.371e6

_GOLDEN = (math.sqrt(5) - 1) / 2
"""Steps of this share of a range fall into its largest gaps."""


@dataclasses.dataclass(frozen=True)
class Squares:
    """Squares of the lattices of zones, in the order of a curve on which neighbours are near."""

    zone: np.ndarray
    """Names of zones, [square]."""
    x: Int64[np.ndarray, " square"]
    """Column in the zone's lattice."""
    y: Int64[np.ndarray, " square"]
    """Row."""
    lon: Float64[np.ndarray, " square"]
    """Of the middle, degrees."""
    lat: Float64[np.ndarray, " square"]

    def __len__(self) -> int:
        """Returns the number of squares."""
        return len(self.x)


@dataclasses.dataclass(frozen=True)
class Lot:
    """What was drawn."""

    tiles: tuple[DrawnTile, ...]
    """In the order of the lot."""
    fit: int
    """Number of tiles that the region holds."""
    free: int
    """Number of those that are not drawn, because they touch ground of two splits."""


def draw(region: shapely.Geometry, count: int, choice: Choice) -> Lot:
    """Draws tiles of a region: `count`, or as many as it holds.

    Raises:
        ValueError: the region holds no tile, too many, or too few for the splits.
    """
    squares = squares_of(region, choice.size_px, choice.inside)
    if not len(squares):
        raise ValueError(
            f"the region holds no tile of {choice.size_px} px ({choice.size_px * PIXEL_M / 1000:g} km) of which {choice.inside:.0%} lie in "
            "it and all in one UTM zone; give a smaller --tile_size_px, or a smaller --inside"
        )
    names, shares = [name for name, _ in choice.splits], dict(choice.splits)
    ground = ground_splits(squares, shares, choice.seed, choice.size_px)
    free = int((ground == FREE).sum())
    lacking = [name for number, name in enumerate(names) if not (ground == number).any()]
    if lacking or count < len(names):
        held = f"the region holds {len(squares)} tiles of {choice.size_px} px" if lacking else f"--tiles is {count}"
        raise ValueError(
            f"{held}, too few to keep {', '.join(names)} apart; give --splits {names[0]}=1"
            + (", a smaller --tile_size_px, or a larger region" if lacking else f", or --tiles {len(names)} at least")
        )
    left = {
        name: iter(
            np.flatnonzero(ground == number)[spread_order(int((ground == number).sum()), [choice.seed, 0, number])]
        )
        for number, name in enumerate(names)
    }
    drawn: dict[str, int] = dict.fromkeys(names, 0)
    tiles: list[DrawnTile] = []
    while len(tiles) < count and left:
        split = max(left, key=lambda name: (not drawn[name], shares[name] * (len(tiles) + 1) - drawn[name]))
        place = next(left[split], None)
        if place is None:
            del left[split]
            continue
        dates = days([choice.seed, 2, names.index(split)], drawn[split], choice.dates)
        tiles.append(_tile(squares, int(place), split, choice.size_px, dates))
        drawn[split] += 1
    return Lot(tuple(tiles), len(squares), free)


def squares_of(region: shapely.Geometry, size_px: int, inside: float = 1.0) -> Squares:
    """Returns the squares of which a share, at least `inside`, lies in a region, and which lie in one zone.

    Raises:
        ValueError: there may be more than `MOST_SQUARES`.
    """
    side = size_px * PIXEL_M
    if blocks.region_hectares(region) * 1e4 / side**2 > MOST_SQUARES:
        raise _too_many(size_px)
    zones, columns, rows = [np.empty(0, "U3")], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for zone, part in blocks.zone_parts(region):
        x, y = _squares_of_part(part, size_px)
        here = shapely.box(x * side, y * side, (x + 1) * side, (y + 1) * side)
        kept = shapely.covers(part, here)
        if inside < 1:
            partly = np.flatnonzero(~kept)  # few: an intersection takes much longer
            shares = shapely.area(shapely.intersection(part, here[partly])) / side**2
            kept[partly] = (shares >= inside) & shapely.covers(blocks.zone_outline(zone), here[partly])
        zones.append(np.full(kept.sum(), zone))
        columns.append(x[kept])
        rows.append(y[kept])
    zone, x, y = map(np.concatenate, (zones, columns, rows))
    lon, lat = np.empty(len(x)), np.empty(len(x))
    for name in np.unique(zone):
        here = zone == name
        crs = Block(str(name), 0, 0, size_px).crs
        lon[here], lat[here] = blocks.degrees_of(crs, (x[here] + 0.5) * side, (y[here] + 0.5) * side)
    order = _curve_order(lon, lat)
    return Squares(zone[order], x[order], y[order], lon[order], lat[order])


def ground_splits(
    squares: Squares, shares: Mapping[str, float], seed: int, size_px: int
) -> UInt8[np.ndarray, " square"]:
    """Gives each square the number of its split in `shares`, or `FREE` if it touches ground of another split.

    The first split has what the others leave. Of two squares that touch, that of the split with the lower number is free. Ground is
    drawn in squares of up to ten tiles a side: so small that there are 40 of them, or larger ones if otherwise too much is free.
    """
    if len(shares) == 1 or not len(squares):
        return np.zeros(len(squares), np.uint8)
    pairs = _touching(squares, size_px)
    best, most = None, -1.0
    for side in range(int(np.clip(math.sqrt(len(squares) / 40), 1, MOST_SIDE)), MOST_SIDE + 1):
        found = _ground_of(squares, shares, seed, side)
        one, other = found[pairs].T
        lower = np.where(one < other, pairs[:, 0], pairs[:, 1])[one != other]
        found[lower] = FREE
        # So many tiles can be drawn until the first split has no more.
        drawn = min(float((found == number).sum()) / share for number, share in enumerate(shares.values()))
        if drawn > most:
            best, most = found, drawn
        if most >= ENOUGH * len(squares):
            break
    return best


def _ground_of(squares: Squares, shares: Mapping[str, float], seed: int, side: int) -> UInt8[np.ndarray, " square"]:
    """Gives each square the number of a split, so that those in a larger square, `side` of them a side, have the same."""
    found = np.zeros(len(squares), np.uint8)
    keys = list(zip(squares.zone.tolist(), (squares.x // side).tolist(), (squares.y // side).tolist(), strict=True))
    numbers: dict[tuple, int] = {}
    larger = np.array([numbers.setdefault(key, len(numbers)) for key in keys])  # in the order of the curve
    sizes = np.bincount(larger)
    order = iter(spread_order(len(sizes), [seed, 1]))
    for number, share in list(enumerate(shares.values()))[1:]:
        wanted, got = share * len(squares), 0
        for one in order:
            found[larger == one] = number
            got += int(sizes[one])
            if got + sizes.mean() / 2 >= wanted:
                break
    return found


def spread_order(count: int, seed: list[int]) -> Int64[np.ndarray, " count"]:
    """Returns the numbers below `count` in an order in which the first ones, however many, are spread evenly. Van der Corput's sequence."""
    bits = max(count - 1, 0).bit_length()
    places = np.arange(1 << bits, dtype=np.int64)
    reverse = np.zeros_like(places)
    for bit in range(bits):
        reverse |= ((places >> bit) & 1) << (bits - 1 - bit)
    start = np.random.default_rng(seed).random()
    numbers = np.floor((reverse / (1 << bits) + start) % 1.0 * count).astype(np.int64)
    numbers = np.concatenate(
        [np.minimum(numbers, count - 1), np.arange(count)]
    )  # should rounding pass one by, it comes last
    _, first = np.unique(numbers, return_index=True)
    return numbers[np.sort(first)]


def days(seed: list[int], place: int, dates: tuple[str, str]) -> tuple[str, ...]:
    """Returns the days of the tile at a place of the lot, spread over a range of dates; each further one is far from those before."""
    first, last = (datetime.date.fromisoformat(date).toordinal() for date in dates)
    at = np.random.default_rng(seed).random() + _GOLDEN * place
    drawn = [first + int((at + more) % 1.0 * (last - first + 1)) for more in (0.0, 0.5, 0.25, 0.75)[:DATES]]
    return tuple(dict.fromkeys(datetime.date.fromordinal(day).isoformat() for day in drawn))


def _tile(squares: Squares, place: int, split: str, size_px: int, dates: tuple[str, ...]) -> DrawnTile:
    block = Block(str(squares.zone[place]), int(squares.x[place]), int(squares.y[place]), size_px)
    lon, lat = round(float(squares.lon[place]), 6), round(float(squares.lat[place]), 6)
    return DrawnTile(
        tile_id=block.name,
        split=split,
        annotator="",
        hemisphere=hemisphere_of(lon),
        biome=None,
        lon=lon,
        lat=lat,
        date=dates[0],
        s2_product_id="",
        files=(),
        crs=block.crs.to_string(),
        left=block.columns.start * PIXEL_M,
        top=-block.rows.start * PIXEL_M,
        size_px=size_px,
        dates=dates,
    )


def _too_many(size_px: int) -> ValueError:
    return ValueError(
        f"the region holds more than {MOST_SQUARES:,} tiles of {size_px} px; give a larger --tile_size_px, or parts of the region"
    )


def _squares_of_part(
    part: shapely.Geometry, size_px: int
) -> tuple[Int64[np.ndarray, " square"], Int64[np.ndarray, " square"]]:
    """Returns columns and rows of the squares that touch a part of a zone: from large squares to small ones, none of what it does not touch."""
    side = size_px * PIXEL_M
    shapely.prepare(part)
    left, bottom, right, top = (math.floor(v / side) for v in part.bounds)
    step = 1 << max(right - left, top - bottom).bit_length()
    x, y = np.array([left]), np.array([bottom])
    while True:
        here = shapely.box(x * side, y * side, (x + step) * side, (y + step) * side)
        touched = shapely.intersects(part, here)
        x, y = x[touched], y[touched]
        if len(x) > MOST_SQUARES:
            raise _too_many(size_px)
        if step == 1:
            return x, y
        step //= 2
        x, y = np.concatenate([x, x + step, x, x + step]), np.concatenate([y, y, y + step, y + step])


def _curve_order(
    lon: Float64[np.ndarray, " square"], lat: Float64[np.ndarray, " square"]
) -> Int64[np.ndarray, " square"]:
    """Returns the order of places along a Hilbert curve over an equal-area map, which begins at the widest gap of longitudes."""
    if not len(lon):
        return np.empty(0, np.int64)
    sorted_lon = np.sort(lon)
    gaps = np.diff(sorted_lon, append=sorted_lon[0] + 360)
    west = sorted_lon[(gaps.argmax() + 1) % len(sorted_lon)]
    east, north = np.radians((lon - west) % 360), np.sin(np.radians(lat))
    size = max(np.ptp(east), np.ptp(north), 1e-9)
    x, y = ((np.minimum((v - v.min()) / size, 1) * 65535).astype(np.int64) for v in (east, north))
    return np.lexsort((lat, lon, _along_curve(x, y)))


def _along_curve(x: Int64[np.ndarray, " square"], y: Int64[np.ndarray, " square"]) -> Int64[np.ndarray, " square"]:
    """Returns the distance along a Hilbert curve of points of a lattice of 65,536 a side."""
    along = np.zeros_like(x)
    step = 1 << 15
    while step:
        right, upper = (x & step) > 0, (y & step) > 0
        along += step * step * ((3 * right) ^ upper)
        # Each quarter of the curve is the whole one, turned so that it begins where the one before ends.
        turned = right & ~upper
        x, y = np.where(turned, 65535 - x, x), np.where(turned, 65535 - y, y)
        x, y = np.where(upper, x, y), np.where(upper, y, x)
        step >>= 1
    return along


def _touching(squares: Squares, size_px: int) -> np.ndarray:
    """Returns pairs of squares that touch, at a side or corner; of two zones also those nearly so. [pair, 2]."""
    lon, lat = np.radians(squares.lon), np.radians(squares.lat)
    middle = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    # The middles of squares that touch at a corner are 1.41 sides apart; UTM stretches by up to 0.1 %, the ellipsoid by 0.4 %.
    return cKDTree(middle).query_pairs(1.45 * size_px * PIXEL_M / _EARTH_RADIUS_M, output_type="ndarray")
