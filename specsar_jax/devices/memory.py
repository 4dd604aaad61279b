"""Measures the peak memory of a process."""

import resource
import sys

import jax


def peak_memory_gb() -> float:
    """Returns the peak memory of the process's first device, or on a CPU of the process itself, in gigabytes."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e9 / 1024)
