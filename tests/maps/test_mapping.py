"""The windows of a scene, read ahead by another thread."""

import contextlib
import threading
import time

import numpy as np
import pytest

from specsar_jax.maps import mapping, windows
from tfds_dwplus import bands
from tfds_dwplus.command_line import progress


@pytest.mark.parametrize("where", ["network", "caller"])
def test_nothing_reads_on_after_an_error(where):
    """As a signal is one: the scene is closed next, and GDAL crashes if another thread reads it then. The error keeps its frames."""
    rows, columns = windows.plan(64, 32, 0.0), windows.plan(32, 32, 0.0)
    reading, twice = [], threading.Event()

    def read(rows, columns):
        reading.append(rows)
        if rows.start:
            twice.set()
            time.sleep(0.2)
        shape = rows.stop - rows.start, columns.stop - columns.start
        reading.pop()
        return np.ones((*shape, 9), np.uint16), np.zeros((*shape, 2), np.float32), np.ones(shape, bool)

    def network(s2, s1):
        if where == "network":
            stopped()
        return np.full((*s2.shape[:3], 9), 1 / 9, np.float32)

    def stopped():
        twice.wait(10)
        raise SystemExit(143)

    with pytest.raises(SystemExit) as error:
        blocks = mapping.probability_blocks(
            read, network, rows, columns, 1, range(2), progress(disable=True), bands.DYNAMIC_WORLD
        )
        with contextlib.closing(blocks):
            for _ in blocks:
                stopped()
    assert twice.is_set()
    assert not reading, error
