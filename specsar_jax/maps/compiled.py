"""A trained network as a compiled function of batches of a scene.

Enters: a `Trained` network. Leaves: what `mapping` calls for each batch. This is where JAX and the network are imported.
"""

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from jaxtyping import Array

from specsar_jax.batches import preprocess
from specsar_jax.config import Predict
from specsar_jax.devices import sharding
from specsar_jax.devices.kept_programs import KeptProgram
from specsar_jax.maps import windows
from specsar_jax.maps.mapping import MadeAhead, Probabilities
from specsar_jax.network import model
from specsar_jax.network.probabilities import log_probabilities
from specsar_jax.trained.trained_network import Trained


def make_probabilities(
    trained: Trained, devices: Sequence[jax.Device] | None = None, batch: tuple[int, int, int] | None = None
) -> Probabilities:
    """Returns the network as a compiled function from physical values to calibrated class probabilities, float32.

    Args:
        trained: the network.
        devices: devices to split a batch over, whose size must be a multiple of their number; None takes one device.
        batch: windows, height and width of the batches, if all are of one size. Then the program is loaded here if an earlier process kept
            it, without tracing, else compiled, and kept, by the first call. Without it each size is compiled when it comes.
    """
    devices = devices or jax.local_devices()[:1]
    mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
    config = trained.config

    def probabilities(variables: model.Variables, s2: Array, s1: Array) -> Array:
        s2, s1 = preprocess.standardise(s2, s1, trained.statistics, config.data.scaling, config.may_miss)
        return jnp.exp(
            log_probabilities(
                variables,
                s2,
                s1,
                config=config.model,
                average_turns=config.predict.average_turns,
                temperature=trained.temperature,
            )
        )

    function, by_tile, everywhere = (
        sharding.for_mesh(probabilities, mesh),
        sharding.by_tile(mesh),
        sharding.replicated(mesh),
    )
    # The tree is cut up by numpy: a slice of JAX's is a program of its own, and a hundred shapes took seconds to compile.
    variables = model.for_inference(jax.tree.map(np.asarray, trained.variables), config.model)
    if batch is None:
        compiled, variables = jax.jit(function), jax.device_put(variables, everywhere)
        return lambda s2, s1: compiled(variables, *jax.device_put((s2, s1), by_tile))
    facts = (trained.temperature, trained.statistics.s2, trained.statistics.s1, config.data.scaling, config.may_miss)
    made_from = repr((config.model, config.predict.average_turns, *facts))
    arguments = [
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), variables)
    ]
    for sensor, dtype in (("s2", np.uint16), ("s1", np.float32)):
        shape = (*batch, len(trained.bands.get(sensor, ())))
        arguments.append(jax.ShapeDtypeStruct(shape, dtype, sharding=by_tile))
    program = KeptProgram(made_from, tuple(arguments), devices)
    with ThreadPoolExecutor(1) as thread:
        loading = thread.submit(program.load)
        variables = jax.device_put(variables, everywhere)
        loaded, ready = loading.result(), []

    def of_batch(s2: np.ndarray, s1: np.ndarray) -> Array:
        if not ready:
            fits = loaded is not None and program.is_of_now()  # in the thread that would trace it
            ready.append(loaded if fits else program.compile(function))
        return ready[0](variables, *jax.device_put((s2, s1), by_tile))

    return of_batch


def made_ahead(trained: Trained, cutting: Predict) -> MadeAhead | None:
    """Makes the network for the batches of a scene that is not known yet, if it is wider and higher than a window, on one device; None on
    several, where the batches depend on the width of the scene.
    """
    if len(jax.local_devices()) > 1:
        return None
    how = model.stride_and_margin(trained.config.model)
    side, _ = windows.side_and_step(trained.config.data.crop_px, cutting.overlap, how["stride_px"])
    batch = (max(cutting.window_px // side, 1), side, side)
    cut = dataclasses.replace(trained, config=dataclasses.replace(trained.config, predict=cutting))
    return MadeAhead(batch, make_probabilities(cut, None, batch))


class Timed:
    """A network that measures its own computing time, which is complete once the `with` block is left."""

    def __init__(self, network: Probabilities) -> None:
        self.seconds = 0.0
        """Sum over all batches, each from its call, or the end of the batch before it, until its results are ready."""
        self._network, self._done, self._waiting = network, 0.0, ThreadPoolExecutor(1)

    def __call__(self, s2: Any, s1: Any) -> Any:
        """Calls the network."""
        computed = self._network(s2, s1)
        # The time counts from here, as the first call compiles before it returns.
        self._waiting.submit(self._wait, computed, time.perf_counter())
        return computed

    def __enter__(self) -> "Timed":
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.shutdown()

    def _wait(self, computed: Any, given: float) -> None:
        jax.block_until_ready(computed)
        done = time.perf_counter()
        self.seconds += done - max(given, self._done)
        self._done = done
