"""The mesh of devices ("data", "model"), in one process or many, and the sharding of batches and weights over it.

Batches are split over "data". Weights are replicated, or split: their channels over "model" and, fully sharded (FSDP), one
more axis over "data". XLA's partitioner inserts the communication; split weights are gathered before they are used.
"""

import functools
import itertools
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from specsar_jax import config as configs
from specsar_jax.network.layers import tile_axes
from tfds_dwplus.files.strangers import one_line

BARRIER_TIMEOUT_MS = 3_600_000
"""Longest wait of a process for the others, which may simulate a data set or compile for minutes."""

SMALLEST_SPLIT = 2**12
"""Weights with fewer elements are never split, as little memory would be saved."""

_barriers = itertools.count()  # numbers the barriers: a key works only once, and all processes must use the same keys


def start_devices() -> list[jax.Device]:
    """Starts JAX's devices, and returns those of this process. Raises a ValueError if it cannot."""
    try:
        return jax.local_devices()
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # the latter, without a word, if JAX_PLATFORMS names what is not installed
        asked = f", JAX_PLATFORMS={os.environ['JAX_PLATFORMS']}" if os.environ.get("JAX_PLATFORMS") else ""
        raise ValueError(f"JAX cannot start its devices{asked}: {one_line(error) or 'there are none'}") from None


def make_mesh(config: configs.Mesh | None = None, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """Arranges the devices of all processes, or the first `mesh.devices`, as a mesh ("data", "model"); without a config, all along "data".

    `devices` are others, to compile for.

    Raises:
        ValueError: the product of the axes is not the number of devices, or there are not so many devices.
    """
    config = config or configs.Mesh()
    devices = jax.devices() if devices is None else list(devices)
    there, count = len(devices), config.devices or len(devices)
    if count > there or (count < there and jax.process_count() > 1):
        several = f" of {jax.process_count()} processes, which use all" if jax.process_count() > 1 else ""
        raise ValueError(f"mesh.devices={count}, but JAX finds {there} of them{several}; 0 uses all")
    data = config.data or count // config.model
    if data * config.model != count or not data:
        used = "used" if config.devices else "there are"
        fewer = ""
        if not config.devices and 0 < (product := max(config.data, 1) * config.model) < there:
            fewer = f", or mesh.devices={product} use the first ones"
        raise ValueError(
            f"mesh.data={config.data}, mesh.model={config.model} do not make up the {count} devices {used}; "
            f"their product must, or mesh.data be 0 and mesh.model a divisor{fewer}"
        )
    return jax.make_mesh(
        (data, config.model), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices[:count]
    )


def evaluation_mesh(config: configs.Mesh) -> jax.sharding.Mesh:
    """Arranges all devices along "data"; the first `mesh.devices` of them where there are more and one process has them."""
    fewer = config.devices if config.devices < jax.device_count() and jax.process_count() == 1 else 0
    return make_mesh(configs.Mesh(devices=fewer))


def start_processes(
    coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> None:
    """Connects this process with the others of the run; must be called before JAX uses a device.

    Args:
        coordinator: HOST:PORT of the first process; None lets JAX find the cluster (TPU pod, SLURM, Open MPI, Kubernetes).
        processes: number of processes.
        process_id: number of this process, from 0.

    Raises:
        ValueError: no cluster is found, or the coordinator does not answer.
    """
    try:
        jax.distributed.initialize(coordinator, processes, process_id)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        where = coordinator or "no --coordinator given and no cluster found"
        raise ValueError(f"could not join the processes of the run ({where}): {reason}") from None


def is_first() -> bool:
    """Returns whether this is the process that writes the run's metrics, reports and pictures."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints in the first process only."""
    if is_first():
        print(text)


def wait_for_all(name: str) -> None:
    """Waits until every process has called this; returns at once if there is only one.

    It waits through the coordinator, not through the devices: their communication (Gloo) times out while a process still compiles.
    """
    if jax.process_count() > 1:
        import orbax.checkpoint as ocp  # here, because it takes long, and one process needs none

        ocp.multihost.get_barrier_sync_fn()(key=f"{name} {next(_barriers)}", timeout_ms=BARRIER_TIMEOUT_MS)


def largest_of_all(value: int) -> int:
    """Returns the largest `value` of all processes."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.process_allgather(np.int32(value)).max())


def of_all(items: list[Any]) -> list[Any]:
    """Joins lists of what JSON can hold, of all processes, in their order."""
    if jax.process_count() == 1:
        return items
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(items).encode(), np.uint8)
    padded = np.pad(text, (0, largest_of_all(len(text)) - len(text)), constant_values=ord(" "))
    return [item for part in multihost_utils.process_allgather(padded) for item in json.loads(part.tobytes())]


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Returns the sharding that puts the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_tile(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Returns the sharding that splits the first axis of an array over "data"."""
    return NamedSharding(mesh, PartitionSpec("data"))


def of_state(state: Any, mesh: jax.sharding.Mesh, config: configs.Mesh) -> Any:
    """Returns the sharding of each array of a state, as a tree like `state`; its leaves need only a shape."""

    def of_leaf(path: Any, leaf: Any) -> NamedSharding:
        split: list[str | None] = [None] * len(leaf.shape)
        if int(np.prod(leaf.shape)) >= SMALLEST_SPLIT:
            name = str(getattr(path[-1], "key", ""))
            if name.endswith("kernel") and mesh.shape["model"] > 1 and leaf.shape[-1] % mesh.shape["model"] == 0:
                split[-1] = "model"
            if config.parameters == "sharded":
                free = [i for i, axis in enumerate(split) if axis is None and leaf.shape[i] % mesh.shape["data"] == 0]
                if free:
                    split[max(free, key=lambda i: leaf.shape[i])] = "data"
        return NamedSharding(mesh, PartitionSpec(*split))

    return jax.tree_util.tree_map_with_path(of_leaf, state)


def for_computing(params: Any, batch: Any, config: configs.Mesh) -> tuple[Any, Any]:
    """Gathers split weights on each device, and splits the tiles of a batch over all devices, along "model" too if there are enough
    tiles. To be called in a function that is traced by `for_mesh`.

    This costs one collective for each weight and one for its gradient. Without it, XLA's partitioner would split matrix products by
    the weights and move feature maps, which are much larger.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or (config.parameters == "replicated" and config.model == 1):
        return params, batch
    size = jax.tree.leaves(batch)[0].shape[0]
    return jax.lax.with_sharding_constraint((params, batch), (PartitionSpec(), PartitionSpec(tile_axes(mesh, size))))


def check_batch_size(size: int, mesh: jax.sharding.Mesh, name: str, parts: int = 1) -> None:
    """Raises a ValueError unless each of `parts` of a batch can be split evenly over the devices."""
    if size < 1 or parts < 1 or size % (mesh.shape["data"] * parts):
        times = f" times the {parts} parts of train.accumulate" if parts != 1 else ""
        raise ValueError(f"{name} is {size}, expected a positive multiple of the {mesh.shape['data']} devices{times}")


def rows_here(size: int, mesh: jax.sharding.Mesh) -> Sequence[int]:
    """Returns the rows of a batch of `size` that this process has to read, for its own devices."""
    held = by_tile(mesh).addressable_devices_indices_map((size,)).values()
    return sorted({row for (part,) in held for row in range(size)[part]})


def shared_batch(size: int, mesh: jax.sharding.Mesh) -> tuple[int, Sequence[int]]:
    """Returns the batch size rounded up to a multiple of the devices, and the rows that this process reads; for padded batches."""
    size = -(-size // mesh.shape["data"]) * mesh.shape["data"]
    return size, rows_here(size, mesh)


def for_mesh(program: Callable[..., Any], mesh: jax.sharding.Mesh) -> Callable[..., Any]:
    """Wraps a function to be compiled so that the mesh is known while it is traced; `layers.attend` chooses its form by it."""

    @functools.wraps(program)
    def traced(*arguments: Any, **named: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return program(*arguments, **named)

    return traced


def put(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Puts this process's rows of a batch onto its devices; text columns are left out."""
    return {
        name: jax.make_array_from_process_local_data(by_tile(mesh), values)
        for name, values in batch.items()
        if values.dtype.kind != "S"
    }
