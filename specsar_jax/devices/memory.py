"""Measures the memory of a process: its peak, and what there is."""

import os
import resource
import sys
from pathlib import Path

import jax


def peak_memory_gb() -> float:
    """Returns the peak memory of the process's first device, or on a CPU of the process itself, in gigabytes."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e9 / 1024)


def device_memory_bytes(device: jax.Device) -> int | None:
    """Returns how much memory programs may have on a device of this process, in bytes; None where its backend does not tell, as a CPU's."""
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit") or stats.get("bytes_reservable_limit") or None


def free_ram_bytes(root: Path = Path("/")) -> int | None:
    """Returns how much RAM this process may still take, in bytes: what the machine has free, or less by the limits of its cgroups, as
    containers and SLURM set them. None where the system does not tell.

    `root` is where `proc` and `sys` are looked for.
    """
    free = []
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except (OSError, ValueError, IndexError):
        groups = []
    for _, controllers, path in groups:
        if controllers not in ("", "memory"):
            continue
        base = root / "sys/fs/cgroup" / controllers
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        inside = Path(path.lstrip("/"))
        for folder in (base / inside, *(base / parent for parent in inside.parents)):  # a limit above holds below
            try:
                limit, used = (int((folder / name).read_text()) for name in names)
            except (OSError, ValueError):  # not there, or 'max'
                continue
            free.append(max(limit - used, 0))
    if not free and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))  # macOS tells only what it has in all
    return min(free, default=None)
