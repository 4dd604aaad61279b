"""Accelerators that need not be there: what their makers say of them, and how XLA is told to compile for them."""

import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

GPU_SHARE = 0.75
"""Of a GPU's memory, what JAX takes unless XLA_CLIENT_MEM_FRACTION says otherwise."""


@dataclasses.dataclass(frozen=True)
class Device:
    """An accelerator: how XLA calls it, and what its maker says of it."""

    topologies: dict[int, str]
    """By number of devices: for a TPU the name of a slice that has as many."""
    memory_gb: float
    gb_per_s: float
    tflop_per_s: dict[str, float]
    """Of matrix products, dense, by the type of the computation. Of float32 as JAX multiplies it by default: TF32 on a GPU, one
    pass of bfloat16 on a TPU."""
    description: str = ""
    """Of a GPU, for XLA; numbers of cores, registers and shared memory as the CUDA runtime tells them."""

    @property
    def usable_bytes(self) -> int:
        """Memory that a program may have, bytes: of a GPU the share that JAX takes."""
        return int(self.memory_gb * 1e9 * (gpu_share() if self.description else 1))


_GPU = """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 shared_memory_per_block: 49152
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 %s }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } device_description_str: "%s" """

# Memory, bandwidth and peaks: NVIDIA's data sheets of H100 SXM and A100 SXM 80 GB; Google Cloud's pages of the TPU versions.
DEVICES = {
    "h100": Device(
        {1: "1x1x1", 8: "1x1x8"}, 80.0, 3352.0, {"bfloat16": 989.0, "float32": 494.0},
        _GPU % (
            "core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 memory_bandwidth: 3352320000000 l2_cache_size: 52428800 "
            "device_memory_size: 84942979072 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448 "
            "cuda_compute_capability { major: 9 minor: 0 }", "NVIDIA H100 80GB HBM3",
        ),
    ),
    "a100": Device(
        {1: "1x1x1", 8: "1x1x8"}, 80.0, 2039.0, {"bfloat16": 312.0, "float32": 156.0},
        _GPU % (
            "core_count: 108 fpus_per_core: 64 clock_rate_ghz: 1.41 memory_bandwidth: 2039040000000 l2_cache_size: 41943040 "
            "device_memory_size: 85100068864 shared_memory_per_core: 167936 shared_memory_per_block_optin: 166912 "
            "cuda_compute_capability { major: 8 minor: 0 }", "NVIDIA A100-SXM4-80GB",
        ),
    ),
    "v5e": Device({1: "v5e:2x2", 8: "v5e:2x4"}, 16.0, 819.0, {"bfloat16": 197.0, "float32": 197.0}),
    "v6e": Device({1: "v6e:2x2", 8: "v6e:2x4"}, 32.0, 1640.0, {"bfloat16": 918.0, "float32": 918.0}),
    "v4": Device({1: "v4:2x2x1", 8: "v4:2x2x2"}, 32.0, 1228.0, {"bfloat16": 275.0, "float32": 275.0}),
    "v5p": Device({1: "v5p:2x2x1", 8: "v5p:2x2x2"}, 95.0, 2765.0, {"bfloat16": 459.0, "float32": 459.0}),
}  # fmt: skip


def gpu_share() -> float:
    """Returns the share of a GPU's memory that JAX takes."""
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        try:
            return float(os.environ[name])
        except (KeyError, ValueError):
            continue
    return GPU_SHARE


def without_compiler(names: list[str]) -> list[str]:
    """Those of some devices that XLA cannot compile for, because its part for them is not installed."""
    needed = {name: "jax_cuda12_plugin" if device.description else "libtpu" for name, device in DEVICES.items()}
    return [name for name in names if importlib.util.find_spec(needed[name]) is None]


def prepare_environment() -> None:
    """What JAX, libtpu and the CUDA plugin must be told before JAX starts a device, where there is none that is compiled for."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several jobs: nothing is at hand that they could fight for
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    nvidia = importlib.util.find_spec("nvidia")
    for folder in nvidia.submodule_search_locations if nvidia else ():
        compiler = Path(folder) / "cuda_nvcc"
        if compiler.is_dir():
            os.environ["PATH"] = f"{compiler / 'bin'}:{os.environ['PATH']}"
            # Nothing can be tried out on a device that is not there, and without trials Triton products find no tiles.
            flags = f"--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false --xla_gpu_cuda_data_dir={compiler}"
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"


def described(name: str, count: int) -> list[Any]:
    """Returns descriptions of so many devices, to compile for; `prepare_environment` comes before.

    Raises:
        ValueError: no machine of so many is described.
    """
    device = DEVICES[name]
    if not 1 <= count <= max(device.topologies):
        raise ValueError(f"{count} devices of {name}, expected 1 to {max(device.topologies)}")
    shape = device.topologies[min(size for size in device.topologies if size >= count)]
    if device.description:
        found = topologies.get_topology_desc(name, "cuda", target_config=device.description, topology=shape).devices
    else:
        found = topologies.get_topology_desc(topology_name=shape, platform="tpu").devices
    return list(found)[:count]
