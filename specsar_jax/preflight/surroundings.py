"""What JAX finds: versions, processes, devices and their memory, and where compiled programs are kept."""

import collections
import importlib.metadata
import importlib.util
import os
import platform
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from specsar_jax.devices.accelerators import Device
from specsar_jax.devices.memory import device_memory_bytes, free_ram_bytes
from specsar_jax.devices.sharding import of_all, start_devices
from specsar_jax.version import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")

PLUGINS = {
    "tpu": ("libtpu",),
    "cuda": ("jax-cuda12-plugin", "jax-cuda13-plugin"),
    "rocm": ("jax-rocm7-plugin", "jax-rocm60-plugin"),
}
"""Packages that bring JAX a kind of device."""

NODES = {"cuda": ("nvidia[0-9]*",), "tpu": ("accel[0-9]*", "vfio/[0-9]*")}
"""In /dev, what the driver of a kind of device puts there: first what no other one does."""

BUCKETS = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}
"""Packages by which JAX, through etils and fsspec, reaches a bucket."""

EXTRAS = {"cuda": "cuda", "tpu": "tpu"}
"""Of this package, which bring the plugin."""


def versions() -> dict[str, str]:
    """Returns the versions of Python, this package and those that it computes with; plugins for accelerators where they are installed."""
    plugins = [name for names in PLUGINS.values() for name in names]
    found = {name: number for name in (*PACKAGES, *plugins) if (number := installed(name))}
    return {"python": platform.python_version(), "specsar_jax": __version__} | found


def installed(package: str) -> str:
    """Returns the version of an installed package, "" if it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def processes() -> list[dict[str, Any]]:
    """Returns what each process of the run has: `process`, `host`, `devices`, their number, `platform`, `kind`, `driver`, `memory_bytes` of
    the device with least, None if it is not told, and `free_ram_bytes` of the host.

    Raises:
        ValueError: JAX cannot start its devices.
    """
    devices = start_devices()
    memory = [device_memory_bytes(device) for device in devices]
    driver = " ".join(getattr(devices[0].client, "platform_version", "").split())
    kinds = collections.Counter(device.device_kind for device in devices)
    here = {
        "process": jax.process_index(),
        "host": socket.gethostname(),
        "devices": len(devices),
        "platform": devices[0].platform,
        "kind": ", ".join(kinds),
        "driver": "" if driver == devices[0].platform else driver[:120],
        "memory_bytes": min(memory) if all(memory) else None,
        "free_ram_bytes": free_ram_bytes(),
    }
    return of_all([here])


def described_process(name: str, device: Device, devices: Sequence[Any]) -> dict[str, Any]:
    """Returns the same for devices that are not here, by what is known of them."""
    return {
        "process": 0,
        "host": f"described as {name}, not here",
        "devices": len(devices),
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "driver": "",
        "memory_bytes": device.usable_bytes,
        "free_ram_bytes": None,
    }


def available_bytes(processes: Sequence[dict[str, Any]]) -> int | None:
    """Returns what each device may have, of the one with least: its memory, or its share of the RAM that is free, which CPU devices of a
    host have in common. None where neither is told.
    """
    on_host = collections.Counter[str]()
    for of in processes:
        on_host[of["host"]] += of["devices"]
    least: list[int] = []
    for of in processes:
        shared = of["platform"] == "cpu" and of["free_ram_bytes"] is not None
        known = of["free_ram_bytes"] // on_host[of["host"]] if shared else of["memory_bytes"]
        if known is None:
            return None
        least.append(known)
    return min(least)


def cache() -> dict[str, Any]:
    """Returns where compiled programs are kept: `place`, None if they are not, `programs` and `bytes` there, None where it is a bucket.

    To be called after `keep_compiled_programs`.
    """
    place = jax.config.jax_compilation_cache_dir if jax.config.jax_enable_compilation_cache else None
    if not place or "://" in place:
        return {"place": place, "programs": None, "bytes": None}
    sizes = [file.stat().st_size for file in Path(place).glob("*-cache")]
    return {"place": place, "programs": len(sizes), "bytes": sum(sizes)}


def doubts(platforms: Sequence[str], dev: Path = Path("/dev")) -> list[str]:
    """Returns what looks wrong about how JAX was started: a line for each.

    Args:
        platforms: of the devices that JAX found.
        dev: where drivers put their devices.
    """
    lines = []
    seen = {"cuda" if name in ("gpu", "cuda") else name for name in platforms}
    asked = os.environ.get("JAX_PLATFORMS", "")
    for kind, patterns in NODES.items():
        if kind in seen:
            continue
        plugin = next((name for name in PLUGINS[kind] if installed(name)), "")
        there = any(any(dev.glob(pattern)) for pattern in patterns)
        if plugin and asked and kind not in asked.replace("gpu", "cuda").split(","):
            if there:
                lines.append(
                    f"JAX_PLATFORMS={asked} keeps JAX from the {kind.upper()} devices of this machine; unset it"
                )
        elif plugin and there:
            holder = (
                "another process may hold it"
                if kind == "tpu"
                else "its driver may be too old for the plugin (nvidia-smi)"
            )
            lines.append(
                f"{plugin} is installed and there is a device in {dev}, but JAX sees none: {holder}; JAX's log says why"
            )
        elif plugin:
            lines.append(
                f"{plugin} is installed, but JAX sees no {kind.upper()} device, and there is none in {dev}: is this the machine?"
            )
        elif any(dev.glob(patterns[0])):
            lines.append(
                f"there is a {kind.upper()} device in {dev}, but no plugin for it: pip install 'specsar_jax[{EXTRAS[kind]}]'"
            )
    place = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    reader = BUCKETS.get(place.partition("://")[0]) if "://" in place else None
    if reader and importlib.util.find_spec(reader) is None:
        lines.append(
            f"compiled programs are not kept: JAX reaches {place} by {reader}, which is not installed: pip install {reader}"
        )
    tasks = os.environ.get("SLURM_NTASKS", "1") if "SLURM_STEP_ID" in os.environ else "1"
    if jax.process_count() == 1 and tasks not in ("", "1"):
        lines.append(f"SLURM started {tasks} tasks, but each is a run of its own: give --distributed")
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        lines.append(
            f"{jax.process_count()} hosts share these devices, but the processes do not know each other: give --distributed"
        )
    return lines
