"""Devices as a mesh ("data", "model"): batches are split over "data", the state is on every device."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh() -> Mesh:
    """All devices along "data", one along "model"."""
    return jax.make_mesh((jax.device_count(), 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_tile(mesh: Mesh) -> NamedSharding:
    """The first axis of an array split over "data"."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(size: int, mesh: Mesh, name: str) -> None:
    """Raises a ValueError unless a batch can be split over the devices."""
    if size < 1 or size % mesh.shape["data"]:
        raise ValueError(f"{name} is {size}, expected a positive multiple of the {mesh.shape['data']} devices")


def divisible(size: int, mesh: Mesh) -> int:
    """The batch size, rounded up to what the devices can share. For batches that are padded anyway."""
    return -(-size // mesh.shape["data"]) * mesh.shape["data"]


def put(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
    """This process's share of a batch, onto its devices."""
    return {name: jax.make_array_from_process_local_data(by_tile(mesh), values) for name, values in batch.items()}
