"""Blocks over the workers of a Dask cluster.

Enters: blocks and the `Job` that they are parts of. Leaves: an entry a block, as they come. Each worker is given the job, with the
network in it, once; a block is then a name. A worker that dies loses nothing but its time: another one does its block.
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

from specsar_jax.blocks import Block
from specsar_jax.compilation import keep_compiled_programs
from specsar_jax.mapping import make_probabilities
from specsar_jax.regions import Job, map_block

BACK_OFF_S = 2.0
"""Wait before failed blocks are tried again; it doubles with each time."""

START_S = 60.0
"""How long to wait for a scheduler or for its first worker."""


@contextlib.contextmanager
def connected(scheduler: str, workers: int) -> Iterator[distributed.Client]:
    """A client of a cluster: of the one at an address, or of processes of this machine.

    Args:
        scheduler: as tcp://10.0.0.1:8786, or a scheduler file; "" for this machine.
        workers: processes of this machine, each with its share of the cores.

    Raises:
        ValueError: the scheduler does not answer, or has no worker.
    """
    if scheduler.endswith(".json") and not Path(scheduler).is_file():  # distributed would wait for it for ever
        raise ValueError(
            f"no scheduler file {scheduler}; give that of 'dask scheduler --scheduler-file', or an address"
        )
    for name in ("distributed", *(name for name in logging.root.manager.loggerDict if name.startswith("distributed."))):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is said by the entries
    with contextlib.ExitStack() as stack:
        if not scheduler:
            environ = "distributed.nanny.pre-spawn-environ"
            stack.enter_context(
                dask.config.set({f"{environ}.{name}": text for name, text in _environ(workers).items()})
            )
            cluster = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,  # spawned: JAX and forks do not go together
                memory_limit=0,  # Dask would stop a worker that has most of its share, which --block_px decides on
                dashboard_address=None,
            )
            stack.enter_context(cluster)
            scheduler = cluster.scheduler_address
        where = {"scheduler_file": scheduler} if scheduler.endswith(".json") else {"address": scheduler}
        try:
            client = stack.enter_context(distributed.Client(**where, timeout=START_S / 6))
            client.wait_for_workers(1, timeout=START_S)
        except (
            OSError,
            TimeoutError,
            ValueError,
            KeyError,
            AssertionError,
        ) as error:  # the last two of a file that tells no address
            raise ValueError(
                f"no Dask scheduler with a worker answers at {scheduler} ({' '.join(str(error).split())[:200]}); "
                "start one by 'dask scheduler' and 'dask worker ADDRESS', or leave --scheduler out"
            ) from None
        yield client


def entries(client: distributed.Client, job: Job, todo: Sequence[Block], attempts: int) -> Iterator[dict[str, Any]]:
    """What became of each block, as `regions.map_block` says, in the order in which they end. Those that failed where another try
    may help are done again when all others are.

    Raises:
        ValueError: the scheduler went away, or workers cannot take the job.
    """
    give = _Job(job)
    try:
        client.register_plugin(give)
    except Exception as fault:  # what a worker raised has lost its type on the way
        raise ValueError(
            f"the workers do not take the job ({_line(fault)}); are they there, with this version of specsar_jax?"
        ) from None
    try:
        for attempt in range(attempts):
            again = []
            for block, entry in _round(client, give.name, todo, attempt):
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
        with contextlib.suppress(Exception):  # of a scheduler that went away
            client.unregister_worker_plugin(give.name)


def _environ(workers: int) -> dict[str, str]:
    """Of a worker of this machine: its share of the cores for XLA, no GPU filled by the first of several, no chatter."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = str(max(cores // workers, 1))
    return {"NPROC": share, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "DASK_LOGGING__DISTRIBUTED": "critical"}


class _Job(distributed.WorkerPlugin):
    """The job on a worker, and its network, built when the first block comes."""

    def __init__(self, job: Job) -> None:
        self.name = f"specsar_jax-{uuid.uuid4().hex}"
        self._job, self._network = job, None

    def setup(self, worker: distributed.Worker) -> None:
        """Called on each worker when it joins."""
        self._starting = threading.Lock()

    def map(self, block: Block) -> dict[str, Any]:
        """The entry of a block."""
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
    """Each block and its entry. Only a few wait at the scheduler, whatever the size of the region."""
    waiting = iter(todo)
    flying: dict[str, Block] = {}

    def submitted() -> list[distributed.Future]:
        room = max(2 * sum(client.nthreads().values()), 2) - len(flying)
        futures = []
        for block in itertools.islice(waiting, max(room, 0)):
            key = f"{block.name}-{attempt}-{name}"
            flying[key] = block
            futures.append(client.submit(_map_on_worker, block, name, key=key, pure=False))
        return futures

    landing = distributed.as_completed(submitted())
    try:
        for future in landing:
            block = flying.pop(future.key)
            try:
                entry = future.result()
            except distributed.KilledWorker:
                reason = "every worker that began it died; is there enough memory for blocks of this --block_px?"
                entry = _failed(block, reason, again=False)
            except (CancelledError, CommClosedError, TimeoutError):
                raise  # the scheduler went away
            except (
                Exception
            ) as fault:  # `map_block` raises none: a worker that has the job not, or is not as this process
                entry = _failed(
                    block, f"a worker cannot map ({_line(fault)}); has it this version of specsar_jax?", again=True
                )
            future.release()
            yield block, entry
            landing.update(submitted())
    finally:
        with contextlib.suppress(Exception):  # of a scheduler that went away
            client.cancel(list(flying), force=True)


def _failed(block: Block, reason: str, *, again: bool) -> dict[str, Any]:
    return {"block": block.name, "status": "failed", "reason": reason, "again": again, "doubts": ()}


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
