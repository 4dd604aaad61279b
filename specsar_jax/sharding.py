"""Devices as a mesh ("data", "model"), over one process or many, and which of them hold what.

Batches are split over "data". Weights are on every device, or split: their channels over "model", and, fully sharded
(FSDP), one more axis over "data". XLA's partitioner puts in the communication; what is split is put together before it is used.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from specsar_jax import config as configs
from specsar_jax.layers import tile_axes

BARRIER_TIMEOUT_MS = 3_600_000
"""How long a process waits for the others: simulating a data set or compiling may take them minutes."""

SMALLEST_SPLIT = 2**12
"""Weights of fewer elements are on every device: there is little to save."""


_barriers = itertools.count()  # a key serves once; all processes come by the same ones


def make_mesh(config: configs.Mesh | None = None) -> jax.sharding.Mesh:
    """The devices of all processes as ("data", "model"); all along "data" without a config.

    Raises:
        ValueError: the counts do not make up the devices there are.
    """
    config = config or configs.Mesh()
    count = jax.device_count()
    data = config.data or count // max(config.model, 1)
    if min(data, config.model) < 1 or data * config.model != count:
        raise ValueError(
            f"mesh.data={config.data}, mesh.model={config.model} do not make up the {count} devices there are; "
            "their product must, or mesh.data be 0 and mesh.model a divisor"
        )
    return jax.make_mesh((data, config.model), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def start_processes(
    coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins this process to the others of the run, before JAX has touched a device.

    Args:
        coordinator: HOST:PORT of the first process; None lets JAX ask the cluster (TPU pod, SLURM, Open MPI, Kubernetes).
        processes: how many there are.
        process_id: which one this is, from 0.

    Raises:
        ValueError: no cluster is found, or the coordinator is not reached.
    """
    try:
        jax.distributed.initialize(coordinator, processes, process_id)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        where = coordinator or "no --coordinator given and no cluster found"
        raise ValueError(f"could not join the processes of the run ({where}): {reason}") from None


def is_first() -> bool:
    """Whether this is the process that writes what is there once a run: metrics, reports, pictures."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has come here; at once where there is only one.

    By the coordinator, not by the devices: their communication gives up (Gloo does) on a process that still compiles.
    """
    if jax.process_count() > 1:
        ocp.multihost.get_barrier_sync_fn()(key=f"{name} {next(_barriers)}", timeout_ms=BARRIER_TIMEOUT_MS)


def largest_of_all(value: int) -> int:
    """The largest `value` of all processes."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.process_allgather(np.int32(value)).max())


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_tile(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The first axis of an array split over "data"."""
    return NamedSharding(mesh, PartitionSpec("data"))


def of_state(state: Any, mesh: jax.sharding.Mesh, config: configs.Mesh) -> Any:
    """The sharding of each array of a state, as a tree like `state`, whose leaves need a shape only."""

    def one(path: Any, leaf: Any) -> NamedSharding:
        split: list[str | None] = [None] * len(leaf.shape)
        if int(np.prod(leaf.shape)) >= SMALLEST_SPLIT:
            name = str(getattr(path[-1], "key", ""))
            if name.endswith("kernel") and mesh.shape["model"] > 1 and leaf.shape[-1] % mesh.shape["model"] == 0:
                split[-1] = "model"
            if config.parameters == "sharded":
                free = [i for i, of in enumerate(split) if of is None and leaf.shape[i] % mesh.shape["data"] == 0]
                if free:
                    split[max(free, key=lambda i: leaf.shape[i])] = "data"
        return NamedSharding(mesh, PartitionSpec(*split))

    return jax.tree_util.tree_map_with_path(one, state)


def for_computing(params: Any, batch: Any, config: configs.Mesh) -> tuple[Any, Any]:
    """Within a program of `for_mesh`: weights that are split put together on each device, and the tiles of a batch spread over all
    devices, those along "model" too if there are tiles enough.

    That is one collective a weight, and one for its gradient. Left to itself, XLA's partitioner splits products by the weights, and
    moves maps about, of which there is far more.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or (config.parameters == "replicated" and config.model == 1):
        return params, batch
    size = jax.tree.leaves(batch)[0].shape[0]
    return jax.lax.with_sharding_constraint((params, batch), (PartitionSpec(), PartitionSpec(tile_axes(mesh, size))))


def check_batch_size(size: int, mesh: jax.sharding.Mesh, name: str, parts: int = 1) -> None:
    """Raises a ValueError unless a batch, in `parts`, can be split over the devices."""
    if size < 1 or parts < 1 or size % (mesh.shape["data"] * parts):
        times = f" times the {parts} parts of train.accumulate" if parts != 1 else ""
        raise ValueError(f"{name} is {size}, expected a positive multiple of the {mesh.shape['data']} devices{times}")


def rows_here(size: int, mesh: jax.sharding.Mesh) -> Sequence[int]:
    """The rows of a batch of `size` that this process's devices hold: what it has to read."""
    held = by_tile(mesh).addressable_devices_indices_map((size,)).values()
    return sorted({row for (part,) in held for row in range(size)[part]})


def shared_batch(size: int, mesh: jax.sharding.Mesh) -> tuple[int, Sequence[int]]:
    """The batch size, rounded up to what the devices can share, and the rows that this process reads. For batches that are
    padded anyway.
    """
    size = -(-size // mesh.shape["data"]) * mesh.shape["data"]
    return size, rows_here(size, mesh)


def for_mesh(program: Callable[..., Any], mesh: jax.sharding.Mesh) -> Callable[..., Any]:
    """`program`, to be compiled, with the devices told to what is traced in it: `layers.attend` chooses its form by them."""

    @functools.wraps(program)
    def traced(*arguments: Any, **named: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return program(*arguments, **named)

    return traced


def put(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch, onto its devices; text stays behind."""
    return {
        name: jax.make_array_from_process_local_data(by_tile(mesh), values)
        for name, values in batch.items()
        if values.dtype.kind != "S"
    }
