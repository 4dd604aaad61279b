"""Whether a run fits on its devices, and what to do where it does not: pure functions of what was found."""

from specsar_jax.config import Config
from specsar_jax.devices.accelerators import gpu_share
from specsar_jax.preflight.programs import Needs

TIGHT = 0.9
"""Share of the memory from which on fragments, and what else a device holds, may be too much."""

MORE_OF_A_GPU = 0.95
"""Share of a GPU that JAX may be allowed to take at most."""


def fits(needs: dict[str, Needs], available: int | None) -> bool | None:
    """Returns whether all parts of a run fit into the memory of a device; None if that is not known."""
    if any(of.gave_up or (available is not None and of.told and of.total > available) for of in needs.values()):
        return False
    return True if available is not None and all(of.told for of in needs.values()) else None


def advice(config: Config, needs: dict[str, Needs], available: int | None, platform: str, data: int) -> list[str]:
    """Returns what to do, a line each; nothing where all is well.

    Args:
        config: of the run, as it was planned.
        needs: of its parts.
        available: bytes that a device may have; None if that is not known.
        platform: of the devices.
        data: devices along "data".
    """
    lines = []
    if not all(of.told for of in needs.values()):
        lines.append(
            "the compiler does not tell what a program from the cache needs; JAX_ENABLE_COMPILATION_CACHE=false compiles it anew"
        )
    if available is None:
        lines.append("neither the devices nor the system tell how much memory there is; compare for yourself")
        return lines
    over = [name for name, of in needs.items() if of.gave_up or (of.told and of.total > available)]
    if "training" in over:
        lines.append(_smaller_step(config, needs["training"], available, platform, data))
    if "evaluation" in over:
        lines.append(_smaller_evaluation(config, needs, available, data))
    if over and platform in ("gpu", "cuda") and gpu_share() < MORE_OF_A_GPU:
        most = available / gpu_share() * MORE_OF_A_GPU
        if all(0 < needs[name].total <= most for name in over):
            lines.append(f"XLA_CLIENT_MEM_FRACTION={MORE_OF_A_GPU} lets JAX take more of the GPU, and it would fit")
    if not over and any(of.total > TIGHT * available for of in needs.values()):
        lines.append(f"it fits, but takes more than {TIGHT:.0%} of the memory; what else is held there may be too much")
    return lines


def near_batch(size: int, unit: int) -> int:
    """Returns the multiple of `unit` next to a batch size, not a larger one unless there is no smaller one."""
    return max(size // unit, 1) * unit


def _smaller_step(config: Config, needs: Needs, available: int, platform: str, data: int) -> str:
    """What makes a training step smaller, in the order of what it costs."""
    train, state = config.train, needs.weights + needs.optimizer
    room, unit = available - state, data * train.accumulate
    ways = []
    if room > 0:
        grows = needs.total - state
        # About: what a step takes beside the state grows with the tiles of a device.
        batch = int(train.batch_size * room * TIGHT / grows) // unit * unit if grows > 0 else 0
        if unit <= batch < train.batch_size:
            ways.append(f"--config.train.batch_size={batch} (about)")
        parts = [
            n for n in range(train.accumulate + 1, train.batch_size // data + 1) if train.batch_size % (data * n) == 0
        ]
        if grows > 0:
            parts = [n for n in parts if grows * train.accumulate / n <= room * TIGHT]
        if parts:
            ways.append(f"the same batch in parts, --config.train.accumulate={parts[0]}")
    if data > 1 and config.mesh.parameters == "replicated" and state > available / 4:
        ways.append("weights split over the devices, --config.mesh.parameters=sharded")
    if config.model.compute_dtype == "float32" and platform != "cpu":
        ways.append("mixed precision, --config.model.compute_dtype=bfloat16")
    if config.model.architecture == "specsar_former" and not config.model.rematerialise:
        ways.append("rematerialisation, --config.model.rematerialise=true")
    if config.data.crop_px > 128:
        ways.append("smaller crops, --config.data.crop_px")
    return f"the training step does not fit: {'; '.join(ways) or 'take a smaller network, or devices with more memory'}"


def _smaller_evaluation(config: Config, needs: dict[str, Needs], available: int, data: int) -> str:
    of = needs["evaluation"]
    state, size = of.weights + of.optimizer, near_batch(config.train.eval_batch_size + data - 1, data)
    batch = int(size * (available - state) * TIGHT / (of.total - state)) // data * data if of.total > state else 0
    if data <= batch < size:
        return f"the evaluation does not fit: --config.train.eval_batch_size={batch} (about)"
    if size > data:
        return f"the evaluation does not fit: --config.train.eval_batch_size={data}, one tile a device"
    return "the evaluation does not fit, with one tile a device: prepare smaller tiles (tfds_dwplus.prepare --tile_size_px --cut)"
