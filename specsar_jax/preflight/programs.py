"""The compiled programs of a run, of shapes alone, and what they need of the memory of a device.

Enters: a `Plan` and a mesh, of devices that are there or that are only described. Leaves: bytes of each device, by what holds them.
"""

import dataclasses
import math
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from specsar_jax.config import Config
from specsar_jax.devices import sharding
from specsar_jax.devices.compilation import compile_ahead
from specsar_jax.network.model import for_inference
from specsar_jax.preflight.planned import Plan
from specsar_jax.training.evaluation import pass_programs, score_step
from specsar_jax.training.train_state import init_state, make_program

LEAST_TOLD = 0.9
"""Share of the arguments' bytes that XLA tells of, at least, where it tells the truth: it leaves out those that are not used."""

_ALL = r"Used ([\d.]+)([KMGT]?)i?B? of"
_TEMPORARIES = r"temporaries \(([\d.]+)([KMGT]?)i?B?\)"
"""What XLA says for a TPU: 'Used 20.28G of 15.75G hbm', 'the total memory required for HLO temporaries (19.53G) exceeds ...'."""

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a part of a run holds in the memory of one device at its fullest, bytes."""

    weights: int
    """With moments of norms, the moving average, and a teacher's."""
    optimizer: int
    batches: int
    """That at work and the next one, with what the device's layouts add, and the results."""
    temporaries: int
    """Activations, gradients and all else that the compiler puts there while a program runs; and the programs themselves."""
    total: int
    """Their sum."""
    seconds: float
    """That compiling took."""
    gave_up: str = ""
    """What the compiler said, if it gave up because it is too much: then `temporaries` and `total` are what it told of them, or 0."""
    told: bool = True
    """Whether XLA told what the programs need."""


def abstract_batch(
    mesh: jax.sharding.Mesh, size: int, side_px: int, *, s2: int, s1: int, probabilities: int = 0
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes, types and places of a batch of the pipeline on the devices: `size` tiles of so many bands, and with shares of
    so many classes if there are any.
    """
    by_tile, shape = sharding.by_tile(mesh), (size, side_px, side_px)

    def array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=by_tile)

    shares = {"probability": array((*shape, probabilities), jnp.uint8)} if probabilities else {}
    return shares | {
        "s2": array((*shape, s2), jnp.uint16),
        "s1": array((*shape, s1), jnp.float32),
        "label": array(shape, jnp.uint8),
        "expert": array(shape[:1], jnp.bool_),
    }


def placed(tree: Any, shardings: Any) -> Any:
    """Returns a tree of shapes with the sharding of each."""
    return jax.tree.map(lambda leaf, of: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=of), tree, shardings)


def abstract_state(config: Config, mesh: jax.sharding.Mesh) -> tuple[Any, Any]:
    """Returns shapes, types and places of the state of a run, and its shardings."""
    abstract = jax.eval_shape(lambda: init_state(config))
    shardings = sharding.of_state(abstract, mesh, config.mesh)
    return placed(abstract, shardings), shardings


def bytes_of(tree: Any) -> int:
    """Returns what one device holds of a tree of placed shapes."""
    held = (math.prod(of.sharding.shard_shape(of.shape)) * of.dtype.itemsize for of in jax.tree.leaves(tree))
    return sum(held)


def needs(plan: Plan, mesh: jax.sharding.Mesh, tell: Callable[[str], None]) -> dict[str, Needs]:
    """Compiles the training step and the evaluation of a run as the run will, and returns what each needs: 'training', 'evaluation'.

    Args:
        plan: of the run; its batch can be split over the mesh.
        mesh: devices.
        tell: is told what is compiled.
    """
    config, model = plan.config, plan.config.model
    state, shardings = abstract_state(config, mesh)
    teaching, variables = _teaching(plan, mesh), state.variables(config)
    weights = bytes_of((state.params, state.batch_stats, state.averaged_params, teaching))
    optimizer = bytes_of((state, teaching)) - weights

    channels = {"s2": model.s2_channels, "s1": model.s1_channels}
    read = {sensor: count if sensor in model.sensors else 0 for sensor, count in channels.items()}
    learnt = read | ({"s2": len(plan.teacher.s2_bands)} if plan.teacher and read["s2"] else {})
    shares = model.classes if config.loss.name == "soft" and not plan.teacher else 0
    batch = abstract_batch(mesh, config.train.batch_size, config.data.crop_px, **learnt, probabilities=shares)
    size, _ = sharding.shared_batch(config.train.eval_batch_size, mesh)
    tiles = abstract_batch(mesh, size, plan.tile_px, **read)
    shape = (size, plan.tile_px, plan.tile_px, model.classes)
    log_p = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding.by_tile(mesh))

    step = make_program(config, plan.statistics, mesh, shardings, plan.teacher)
    network, sums = pass_programs(
        config, plan.statistics, mesh, score_step(config, plan.statistics), shardings.variables(config)
    )
    tell("compiling the training step, the longest wait")
    training = _compiled([(step, (state, batch, *teaching))])
    tell("compiling the evaluation")
    evaluation = _compiled([(network, (variables, tiles["s2"], tiles["s1"])), (sums, (tiles, log_p))])

    # Of each kind of batch one is at work while the next one is put on the devices; the next one of training waits for the evaluation
    # to end. Log-probabilities are kept until those of the next batch are there.
    code = training.code + evaluation.code  # all programs stay on the devices
    return {
        "training": _needs(training, weights, optimizer, 2 * bytes_of(batch), code),
        "evaluation": _needs(evaluation, weights, optimizer, bytes_of(batch) + 2 * bytes_of((tiles, log_p)), code),
    }


def _needs(found: "_Found", weights: int, optimizer: int, batches: int, code: int) -> Needs:
    """What was found of some programs, with what is there beside them."""
    batches += found.padding
    temporaries = found.temporaries + code
    total = weights + optimizer + batches + temporaries
    if found.gave_up:
        temporaries = found.temporaries
        total = found.used or (total if temporaries else 0)
    return Needs(weights, optimizer, batches, temporaries, total, found.seconds, found.gave_up, found.told)


class _Found(NamedTuple):
    """Of programs that run one after the other, bytes."""

    padding: int
    """What layouts add to the arguments."""
    temporaries: int
    """With results that do not lie where an argument did; of the program with most."""
    code: int
    seconds: float
    gave_up: str = ""
    used: int = 0
    """In all, if the compiler gave up and told."""
    told: bool = True


def _compiled(programs: list[tuple[Any, tuple[Any, ...]]]) -> _Found:
    """Compiles programs, each with its arguments."""
    began, padding, temporaries, code = time.monotonic(), 0, 0, 0
    for program, arguments in programs:
        try:
            memory = compile_ahead(program, *arguments).memory_analysis()
        except jax.errors.JaxRuntimeError as error:
            reason = " ".join(str(error).split())
            if "RESOURCE_EXHAUSTED" not in reason and "out of memory" not in reason.lower():
                raise ValueError(f"XLA does not compile it: {reason[:300]}") from None
            return _Found(
                0, _told(_TEMPORARIES, reason), 0, time.monotonic() - began, reason[:300], _told(_ALL, reason)
            )
        given = bytes_of(arguments)
        if memory is None or memory.argument_size_in_bytes < given * LEAST_TOLD:
            return _Found(0, 0, 0, time.monotonic() - began, told=False)
        padding = max(padding, memory.argument_size_in_bytes - given)
        results = max(memory.output_size_in_bytes - memory.alias_size_in_bytes, 0)
        temporaries = max(temporaries, memory.temp_size_in_bytes + results)
        code += memory.generated_code_size_in_bytes
    return _Found(padding, temporaries, code, time.monotonic() - began)


def _told(pattern: str, reason: str) -> int:
    """The bytes that a program needs, of XLA's words why it gave up; 0 if it does not tell."""
    found = re.search(pattern, reason)
    return int(float(found[1]) * UNITS[found[2]]) if found else 0


def _teaching(plan: Plan, mesh: jax.sharding.Mesh) -> tuple[Any, ...]:
    """The variables of the teacher, as the step is given them."""
    if plan.teacher is None:
        return ()
    trained = plan.teacher.trained
    abstract = jax.eval_shape(lambda: for_inference(trained.variables, trained.config.model))
    return (placed(abstract, jax.tree.map(lambda _: sharding.replicated(mesh), abstract)),)
