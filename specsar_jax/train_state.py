"""The state of a run and the pure steps on it: (state, batch) -> (state, sums)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from specsar_jax import losses, metrics, model
from specsar_jax.config import Config
from specsar_jax.optimizer import make_optimizer
from specsar_jax.preprocess import Statistics, standardise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step changes."""

    step: Any
    """int32 []: steps done. An array, or its shape where the state is abstract."""
    params: Any
    batch_stats: Any
    averaged_params: Any
    """Moving average of `params`; None where `train.ema_decay` is 0."""
    optimizer_state: optax.OptState

    def variables(self) -> model.Variables:
        """What is evaluated and exported: the averaged weights where there are some."""
        params = self.params if self.averaged_params is None else self.averaged_params
        return {"params": params, "batch_stats": self.batch_stats}


def init_state(config: Config, variables: model.Variables | None = None) -> TrainState:
    """The state before the first step: from `variables` if given, else a function of `train.seed` alone."""
    if variables is None:
        variables = model.init_params(config.model, jax.random.key(config.train.seed))
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        averaged_params=jax.tree.map(jnp.array, params) if config.train.ema_decay else None,
        # Compiled as one program: as they stand, its few zeros wait for 373 small ones.
        optimizer_state=jax.jit(make_optimizer(config.optimizer, config.train.steps).init)(params),
    )


def train_step(
    state: TrainState, batch: dict[str, Array], *, config: Config, statistics: Statistics, alpha: tuple[float, ...]
) -> tuple[TrainState, dict[str, Array]]:
    """One step of the optimizer.

    Args:
        state: before the step.
        batch: `s2`, `s1`, `label` as the pipeline gives them.
        config: of the run.
        statistics: of the batch's bands.
        alpha: weight of each class.

    Returns:
        the state after the step, and float32 scalars `loss` and `gradient_norm`.
    """
    s2, s1 = standardise(batch["s2"], batch["s1"], statistics)
    rng = jax.random.fold_in(jax.random.key(config.train.seed), state.step)

    def loss_of(params: Any) -> tuple[Float[Array, ""], Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, batch_stats = model.apply_train(variables, s2, s1, config=config.model, rng=rng)
        return losses.pixel_loss(logits, batch["label"], alpha, config=config.loss), batch_stats

    (loss, batch_stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
    params = optax.apply_updates(state.params, updates)
    averaged = state.averaged_params
    if averaged is not None:
        # Early on the average follows closely, so that it does not remember the random start.
        decay = jnp.minimum(config.train.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        averaged = optax.incremental_update(params, averaged, 1.0 - decay)
    state = TrainState(state.step + 1, params, batch_stats, averaged, optimizer_state)
    return state, {"loss": loss, "gradient_norm": jnp.linalg.norm(ravel_pytree(gradient)[0])}


def evaluation_step(
    variables: model.Variables,
    batch: dict[str, Array],
    *,
    config: Config,
    statistics: Statistics,
    alpha: tuple[float, ...],
) -> dict[str, Array]:
    """Sums over a batch: `confusion` int32 [label, prediction], and `loss` times labelled pixels, float32."""
    s2, s1 = standardise(batch["s2"], batch["s1"], statistics)
    logits = model.apply(variables, s2, s1, config=config.model)
    confusion = metrics.confusion_matrix(batch["label"], jnp.argmax(logits, axis=-1))
    loss = losses.pixel_loss(logits, batch["label"], alpha, config=config.loss)
    return {"confusion": confusion, "loss": loss * confusion.sum()}
