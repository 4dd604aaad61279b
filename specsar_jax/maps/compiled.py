"""A trained network as a compiled function of batches of a scene.

Enters: a `Trained` network. Leaves: what `mapping` calls for each batch. This is where JAX and the network are imported.
"""

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
from specsar_jax.devices import sharding
from specsar_jax.devices.kept_programs import KeptProgram
from specsar_jax.maps.mapping import Probabilities
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

    function, by_tile = sharding.for_mesh(probabilities, mesh), sharding.by_tile(mesh)
    # The tree is cut up by numpy: a slice of JAX's is a program of its own, and a hundred shapes took seconds to compile.
    variables = jax.tree.map(np.asarray, trained.variables)
    variables = jax.device_put(model.for_inference(variables, config.model), sharding.replicated(mesh))
    if batch is None:
        compiled = jax.jit(function)
        return lambda s2, s1: compiled(variables, *jax.device_put((s2, s1), by_tile))
    of_sensors = ((trained.bands.get("s2", ()), np.uint16), (trained.bands.get("s1", ()), np.float32))
    expected = [jax.ShapeDtypeStruct((*batch, len(names)), dtype, sharding=by_tile) for names, dtype in of_sensors]
    facts = (trained.temperature, trained.statistics.s2, trained.statistics.s1, config.data.scaling, config.may_miss)
    made_from = repr((config.model, config.predict.average_turns, *facts))
    program = KeptProgram(made_from, (variables, *expected), devices)
    loaded = [program.load()]

    def of_batch(s2: np.ndarray, s1: np.ndarray) -> Array:
        if loaded[0] is None:
            loaded[0] = program.compile(function)
        return loaded[0](variables, *jax.device_put((s2, s1), by_tile))

    return of_batch


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
