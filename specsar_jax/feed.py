"""Batches on the devices, fetched while the step before runs; how long steps waited for them; which steps were skipped."""

import time
from collections.abc import Iterator

import jax

from specsar_jax.pipeline import Batch
from specsar_jax.sharding import put


class Feed:
    """Batches on the devices, fetched while the step before runs; how long steps waited for them; which steps were skipped."""

    def __init__(self, batches: Iterator[Batch], mesh: jax.sharding.Mesh) -> None:
        self._batches, self._mesh = batches, mesh
        self._unsettled: list[tuple[int, list[str], dict[str, jax.Array]]] = []
        self.batch: dict[str, jax.Array] = {}
        """On the devices, for the next step."""
        self.waited_s = 0.0
        """Time in which the devices had nothing to do, for the next batch was not there. At most: it counts a fetch as a whole
        once the step that ran meanwhile has ended."""

    def fetch(self) -> None:
        """Takes the next batch."""
        began = time.monotonic()
        batch = next(self._batches)
        self._tiles = [name.decode() for name in batch["tile_id"]]
        self.batch = put(batch, self._mesh)
        if not self._unsettled or self._unsettled[-1][-1]["loss"].is_ready():
            self.waited_s += time.monotonic() - began

    def follow(self, step: int, sums: dict[str, jax.Array]) -> None:
        """Remembers a step that has been set off on the batch at hand."""
        self._unsettled.append((step, self._tiles, sums))

    def settle(self, *, all_steps: bool) -> Iterator[tuple[int, list[str], dict[str, float]]]:
        """Waits for the steps before the last, or for all; gives those that were skipped, with their tiles and figures.

        So the host is never more than one step ahead of the devices.
        """
        while len(self._unsettled) > (0 if all_steps else 1):
            step, tiles, sums = self._unsettled.pop(0)
            if int(sums["skipped_in_a_row"]):
                yield step, tiles, {name: value.item() for name, value in jax.device_get(sums).items()}
