"""Puts batches on the devices while the step before them runs, and notes which steps were skipped."""

import time
from collections.abc import Iterator

import jax

from specsar_jax.batches.pipeline import Batch
from specsar_jax.devices.sharding import put


class Feed:
    """The batch of the next step, on the devices, and the steps whose results have not been looked at yet."""

    def __init__(self, batches: Iterator[Batch], mesh: jax.sharding.Mesh) -> None:
        self._batches, self._mesh = batches, mesh
        self._unsettled: list[tuple[int, list[str], dict[str, jax.Array]]] = []
        self.batch: dict[str, jax.Array] = {}
        """On the devices, for the next step."""
        self.waited_s = 0.0
        """Seconds in which the devices waited for a batch. An upper bound: a fetch counts as a whole once the step that ran
        meanwhile has ended."""

    def fetch(self) -> None:
        """Reads the next batch and puts it on the devices."""
        began = time.monotonic()
        batch = next(self._batches)
        self._tiles = [name.decode() for name in batch["tile_id"]]
        self.batch = put(batch, self._mesh)
        if not self._unsettled or self._unsettled[-1][-1]["loss"].is_ready():
            self.waited_s += time.monotonic() - began

    def follow(self, step: int, sums: dict[str, jax.Array]) -> None:
        """Notes that a step has started on the current batch."""
        self._unsettled.append((step, self._tiles, sums))

    def settle(self, *, all_steps: bool) -> Iterator[tuple[int, list[str], dict[str, float]]]:
        """Waits for all steps but the last, or for all; yields those that were skipped: step, tile ids, figures.

        So the host is never more than one step ahead of the devices.
        """
        while len(self._unsettled) > (0 if all_steps else 1):
            step, tiles, sums = self._unsettled.pop(0)
            if int(sums["skipped_in_a_row"]):
                yield step, tiles, {name: value.item() for name, value in jax.device_get(sums).items()}
