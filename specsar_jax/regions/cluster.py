"""Distributes the blocks of a region over the workers of a Dask cluster.

Enters: blocks and the `Job` that they belong to. Leaves: an entry for each block, in the order in which they finish. The job, with
its network, is sent to each worker once. If a worker dies, another one does its block.
"""

import contextlib
import itertools
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import dask
import distributed
from distributed.comm import CommClosedError

from specsar_jax.devices.compilation import keep_compiled_programs
from specsar_jax.maps.compiled import make_probabilities
from specsar_jax.regions.block_maps import map_block
from specsar_jax.regions.local_cluster import local_cluster
from specsar_jax.regions.region_files import Job
from tfds_dwplus.files.addresses import shown, shown_in
from tfds_dwplus.places.blocks import Block

BACK_OFF_S = 2.0
"""Seconds to wait before failed blocks are tried again; doubled after each attempt."""

START_S = 60.0
"""Seconds to wait for a scheduler or for its first worker."""


@contextlib.contextmanager
def connected(scheduler: str, workers: int) -> Iterator[distributed.Client]:
    """Yields the client of a cluster: the one at an address, or a new one of processes on this machine.

    Args:
        scheduler: address such as tcp://10.0.0.1:8786, or a scheduler file; "" for this machine.
        workers: number of processes on this machine, among which the cores are shared.

    Raises:
        ValueError: the scheduler does not answer, or has no worker.
    """
    if scheduler.endswith(".json") and not Path(scheduler).is_file():  # distributed would wait for it forever
        raise ValueError(
            f"no scheduler file {scheduler}; give that of 'dask scheduler --scheduler-file', or an address"
        )
    for name in ("distributed", *(name for name in logging.root.manager.loggerDict if name.startswith("distributed."))):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are reported by the entries
    security: dict[str, Any] = {}  # of a scheduler elsewhere: as Dask's own configuration says
    with contextlib.ExitStack() as stack:
        if not scheduler:
            environ = "distributed.nanny.pre-spawn-environ"
            stack.enter_context(
                dask.config.set({f"{environ}.{name}": text for name, text in _environ(workers).items()})
            )
            cluster = stack.enter_context(local_cluster(workers))
            scheduler, security = cluster.scheduler_address, {"security": cluster.security}
        where = {"scheduler_file": scheduler} if scheduler.endswith(".json") else {"address": scheduler}
        try:
            client = stack.enter_context(distributed.Client(**where, **security, timeout=START_S / 6))
            client.wait_for_workers(1, timeout=START_S)
        except (
            OSError,
            TimeoutError,
            ValueError,
            KeyError,
            AssertionError,
            TypeError,
        ) as error:  # the last three come from a scheduler file without an address, and a tls:// one without certificates
            raise ValueError(
                f"no Dask scheduler with a worker answers at {shown(scheduler)} ({shown_in(' '.join(str(error).split()))[:200]}); "
                "start one by 'dask scheduler' and 'dask worker ADDRESS', or leave --scheduler out"
            ) from None
        yield client


def entries(client: distributed.Client, job: Job, todo: Sequence[Block], attempts: int) -> Iterator[dict[str, Any]]:
    """Yields the entry of each block, as from `block_maps.map_block`, in the order in which they finish. Failed blocks for which
    another attempt may help are repeated after all others.

    Raises:
        ValueError: the connection to the scheduler is lost, or workers cannot load the job.
    """
    plugin = _Job(job)
    try:
        client.register_plugin(plugin)
    except Exception as fault:  # the type of a worker's exception is lost in transfer
        raise ValueError(
            f"the workers cannot load the job ({_line(fault)}); are they running, with this version of specsar_jax?"
        ) from None
    try:
        for attempt in range(attempts):
            again = []
            for block, entry in _round(client, plugin.name, todo, attempt):
                if entry["status"] == "failed" and entry["again"] and attempt + 1 < attempts:
                    again.append(block)
                else:
                    yield entry
            if not again:
                return
            time.sleep(BACK_OFF_S * 2**attempt)
            todo = again
    except (CancelledError, CommClosedError, TimeoutError) as error:
        raise ValueError(
            f"the Dask scheduler went away ({type(error).__name__}); what is done is kept: run the same command again"
        ) from None
    finally:
        with contextlib.suppress(Exception):  # the scheduler may be gone
            client.unregister_worker_plugin(plugin.name)


def _environ(workers: int) -> dict[str, str]:
    """Returns a local worker's environment: its share of the cores for XLA, GPU memory taken on demand, no log messages."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = str(max(cores // workers, 1))
    return {"NPROC": share, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "DASK_LOGGING__DISTRIBUTED": "critical"}


class _Job(distributed.WorkerPlugin):
    """Holds the job on a worker, and its network, which is compiled when the first block arrives."""

    def __init__(self, job: Job) -> None:
        self.name = f"specsar_jax-{uuid.uuid4().hex}"
        self._job, self._network = job, None

    def setup(self, worker: distributed.Worker) -> None:
        """Prepares a worker; Dask calls it when a worker joins."""
        self._starting = threading.Lock()

    def map(self, block: Block) -> dict[str, Any]:
        """Maps a block and returns its entry."""
        with self._starting:
            if self._network is None:
                keep_compiled_programs()
                self._network = make_probabilities(self._job.trained)
        return map_block(block, self._job, self._network)


def _map_on_worker(block: Block, name: str) -> dict[str, Any]:
    return distributed.get_worker().plugins[name].map(block)


def _round(
    client: distributed.Client, name: str, todo: Sequence[Block], attempt: int
) -> Iterator[tuple[Block, dict[str, Any]]]:
    """Yields each block with its entry. Few blocks are submitted at a time, whatever the size of the region."""
    waiting = iter(todo)
    running: dict[str, Block] = {}

    def submitted() -> list[distributed.Future]:
        room = max(2 * sum(client.nthreads().values()), 2) - len(running)
        futures = []
        for block in itertools.islice(waiting, max(room, 0)):
            key = f"{block.name}-{attempt}-{name}"
            running[key] = block
            futures.append(client.submit(_map_on_worker, block, name, key=key, pure=False))
        return futures

    finished = distributed.as_completed(submitted())
    try:
        for future in finished:
            block = running.pop(future.key)
            try:
                entry = future.result()
            except distributed.KilledWorker:
                reason = "every worker that began it died; is there enough memory for blocks of this --block_px?"
                entry = _failed(block, reason, again=False)
            except (CancelledError, CommClosedError, TimeoutError):
                raise  # the scheduler is gone
            except Exception as fault:  # not from `map_block`: the worker lacks the job or has another version
                entry = _failed(
                    block, f"a worker cannot map ({_line(fault)}); has it this version of specsar_jax?", again=True
                )
            future.release()
            yield block, entry
            finished.update(submitted())
    finally:
        with contextlib.suppress(Exception):  # the scheduler may be gone
            client.cancel(list(running), force=True)


def _failed(block: Block, reason: str, *, again: bool) -> dict[str, Any]:
    kind = "a worker failed"
    return {"block": block.name, "status": "failed", "reason": reason, "kind": kind, "again": again, "doubts": ()}


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {shown_in(' '.join(str(error).split()))[:300]}"
