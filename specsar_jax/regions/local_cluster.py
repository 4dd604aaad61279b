"""A Dask cluster of processes on this machine, to which nobody else can connect.

Enters: a number of workers. Leaves: the cluster, started. Each worker imports this module before it starts, so it imports little.
"""

from typing import Any

import distributed
import distributed.security


class _NoWebServer:
    """Takes from a scheduler or a worker the web server that Dask starts even without its dashboard, open to all users of this machine."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Starts nothing."""


class _Scheduler(_NoWebServer, distributed.Scheduler):
    pass


class _Worker(_NoWebServer, distributed.Worker):
    pass


def local_cluster(workers: int) -> distributed.SpecCluster:
    """Returns a cluster of processes on this machine, to which nobody else can connect: who reaches a scheduler runs code as its owner.

    Every connection is TLS, by a key that is made here and given to the workers, and which no file holds.
    """
    try:
        security = distributed.security.Security.temporary()
    except ImportError:
        raise ValueError(
            "map_region needs cryptography: pip install 'specsar_jax[region]', or give --scheduler"
        ) from None
    common = {"host": "127.0.0.1", "protocol": "tls://", "security": security, "dashboard": False}
    worker = {
        "nthreads": 1,
        "memory_limit": 0,  # Dask would pause a worker near its limit; its memory is set by --block_px
        "worker_class": _Worker,
    }
    # Nannies spawn their workers, as JAX does not work in forked processes.
    nanny = {"cls": distributed.Nanny, "options": common | worker}
    scheduler = {"cls": _Scheduler, "options": common | {"port": 0, "dashboard_address": None}}
    return distributed.SpecCluster(dict.fromkeys(range(workers), nanny), scheduler, security=security)
