"""Class maps with patches of all shapes, and the rule of how they join, followed literally."""

import itertools
from collections.abc import Iterator

import numpy as np

NODATA = 255


def drawn_map(rng: np.random.Generator, most_px: int = 14, kinds: int = 4) -> np.ndarray:
    """A map of random classes: of single pixels or of blocks, with or without holes."""
    shape = rng.integers(1, most_px, 2)
    ids = rng.integers(0, rng.integers(1, kinds + 1), shape).astype(np.uint8)
    if rng.random() < 0.5:
        ids = ids.repeat(rng.integers(1, 4), axis=0).repeat(rng.integers(1, 4), axis=1)
    if rng.random() < 0.5:
        ids[rng.random(ids.shape) < 0.2] = NODATA
    return ids


def strips_of(ids: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """A map in strips of some rows."""
    return (ids[top : top + rows] for top in range(0, len(ids), rows))


def patches_of(ids: np.ndarray) -> np.ndarray:
    """The number of each pixel's patch, by first pixels row by row; -1 without a class."""
    height, width = ids.shape
    numbers = np.full(ids.shape, -1)
    found = itertools.count()
    for row, column in itertools.product(range(height), range(width)):
        if ids[row, column] == NODATA or numbers[row, column] >= 0:
            continue
        number, waiting = next(found), [(row, column)]
        while waiting:
            y, x = waiting.pop()
            if 0 <= y < height and 0 <= x < width and numbers[y, x] < 0 and ids[y, x] == ids[row, column]:
                numbers[y, x] = number
                waiting += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return numbers


def joined_one_by_one(ids: np.ndarray, minimum: float, areas: np.ndarray | None = None) -> np.ndarray:
    """The rule of `joining`: the smallest patch joins the neighbour with the longest border, until none is below the minimum."""
    height, width = ids.shape
    areas = np.ones(ids.shape) if areas is None else areas
    numbers = patches_of(ids)
    known = range(numbers.max() + 1)
    first = {number: int(np.argmax(numbers.ravel() == number)) for number in known}
    class_id = {number: ids.flat[first[number]] for number in known}
    area = {number: areas[numbers == number].sum() for number in known}
    alone = set()
    while small := [number for number in area if area[number] < minimum and number not in alone]:
        mine = min(small, key=lambda number: (area[number], first[number]))
        length, begins = dict.fromkeys(area, 0), {}
        for row, column in itertools.product(range(height), range(width)):
            for y, x in ((row, column + 1), (row + 1, column)):
                pair = (numbers[row, column], numbers[y, x]) if y < height and x < width else (-1, -1)
                if mine in pair and -1 not in pair and pair[0] != pair[1]:
                    other = pair[1] if pair[0] == mine else pair[0]
                    length[other] += 1
                    begins.setdefault(other, (row, column, y > row))
        if not begins:
            alone.add(mine)
            continue
        target = min(begins, key=lambda other: (-length[other], begins[other]))
        numbers[numbers == mine] = target
        area[target] += area.pop(mine)
        first[target] = min(first[target], first[mine])
    return np.array([[class_id[n] if n >= 0 else NODATA for n in row] for row in numbers.tolist()], np.uint8)
