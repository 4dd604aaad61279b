"""The state of a run and the pure steps on it: (state, batch) -> (state, sums)."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from specsar_jax.batches.preprocess import Statistics, standardise
from specsar_jax.config import Config
from specsar_jax.devices import sharding
from specsar_jax.devices.sharding import by_tile, for_mesh, replicated
from specsar_jax.network import model
from specsar_jax.trained.teacher import Teacher
from specsar_jax.trained.trained_network import chosen_weights
from specsar_jax.training import losses
from specsar_jax.training.optimizer import fixed_layers, gradient_norm, make_optimizer, trainable
from tfds_dwplus import bands


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a training step changes."""

    step: Any
    """int32 []: steps done. An array, or its shape where the state is abstract."""
    params: Any
    batch_stats: Any
    averaged_params: Any
    """Moving average of `params`; None where `train.ema_decay` is 0."""
    optimizer_state: optax.OptState
    skipped: Any
    """int32 []: steps so far that were skipped because loss or gradient was not finite."""
    skipped_in_a_row: Any
    """int32 []: how many skipped steps in a row came last."""

    def variables(self, config: Config) -> model.Variables:
        """Returns the variables that are evaluated and exported."""
        return {"params": getattr(self, chosen_weights(config)), "batch_stats": self.batch_stats}


def init_state(config: Config, variables: model.Variables | None = None) -> TrainState:
    """Returns the state before the first step: from `variables` if given, else random from `train.seed`."""
    if variables is None:
        variables = model.init_params(config.model, jax.random.key(config.train.seed))
    params = variables["params"]
    step, skipped, skipped_in_a_row = (jnp.zeros((), jnp.int32) for _ in range(3))  # to be donated: no two are one
    return TrainState(
        step=step,
        params=params,
        batch_stats=variables["batch_stats"],
        averaged_params=jax.tree.map(jnp.array, params) if config.train.ema_decay else None,
        # Compiled as one program: as they stand, its few zeros wait for 373 small ones.
        optimizer_state=jax.jit(_optimizer(config).init)(params),
        skipped=skipped,
        skipped_in_a_row=skipped_in_a_row,
    )


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    teaching: model.Variables | None = None,
    *,
    config: Config,
    statistics: Statistics,
    alpha: tuple[float, ...],
    teacher: Teacher | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """Does one optimizer step. If loss or gradient are not finite, it changes nothing but the counts.

    Args:
        state: before the step.
        batch: `s2`, `s1`, `label`, `expert` as the pipeline gives them, and for the soft loss `probability`.
        teaching: variables of the teacher, if there is one.
        config: of the run.
        statistics: of the batch's bands.
        alpha: weight of each class in the loss.
        teacher: labels the batch instead.

    Returns:
        the state after the step, and scalars: float32 `loss` and `gradient_norm`, int32 `skipped` and `skipped_in_a_row`.
    """
    rng = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
    if teacher is not None:
        batch = teacher.label(teaching, batch, config.model.sensors)
    loss, batch_stats, gradient = _loss_and_gradient(state, batch, rng, config, statistics, alpha)
    norm = gradient_norm(gradient, config.mesh)
    updates, optimizer_state = _optimizer(config).update(gradient, state.optimizer_state, state.params)
    params = optax.apply_updates(state.params, updates)
    averaged = state.averaged_params
    if averaged is not None:
        # Early on the average follows closely, so that it does not remember the random start.
        decay = jnp.minimum(config.train.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        moved = optax.incremental_update(params, averaged, 1.0 - decay)
        # The mean of a weight that stays is that weight, but not to the last bit.
        learning = trainable(params, config.train.trainable)
        averaged = jax.tree.map(lambda new, old, learns: new if learns else old, moved, averaged, learning)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    new, old = (params, batch_stats, averaged, optimizer_state), (
        state.params, state.batch_stats, state.averaged_params, state.optimizer_state,
    )  # fmt: skip
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
    in_a_row = jnp.where(finite, 0, state.skipped_in_a_row + 1)
    state = TrainState(state.step + 1, *kept, state.skipped + ~finite, in_a_row)
    return state, {
        "loss": loss,
        "gradient_norm": norm,
        "skipped": state.skipped,
        "skipped_in_a_row": state.skipped_in_a_row,
    }


def _loss_and_gradient(
    state: TrainState,
    batch: dict[str, Array],
    rng: Array,
    config: Config,
    statistics: Statistics,
    alpha: tuple[float, ...],
) -> tuple[Float[Array, ""], Any, Any]:
    """Mean loss over the batch's labelled pixels, moments of BatchNorm, and gradient; in `train.accumulate` parts."""
    parts = config.train.accumulate
    learning = trainable(state.params, config.train.trainable)
    fixed = fixed_layers(state.batch_stats, config.train.trainable)
    pixels = jnp.maximum((batch["label"] != bands.IGNORE).sum(), 1)

    def loss_of(params: Any, batch_stats: Any, part: dict[str, Array], rng: Array) -> tuple[Float[Array, ""], Any]:
        params, part = sharding.for_computing(params, part, config.mesh)
        s2, s1 = standardise(part["s2"], part["s1"], statistics, config.data.scaling, config.may_miss)
        # Of what does not learn no gradient is computed.
        params = jax.tree.map(lambda leaf, learns: leaf if learns else jax.lax.stop_gradient(leaf), params, learning)
        variables = {"params": params, "batch_stats": batch_stats}
        logits, batch_stats = model.apply_train(variables, s2, s1, config=config.model, rng=rng, fixed=fixed)
        how = {"config": config.loss, "expert": part["expert"], "probability": part.get("probability")}
        loss = losses.pixel_loss(logits, part["label"], alpha, pixels=pixels, **how)
        return loss, batch_stats

    if parts == 1:
        (loss, batch_stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            state.params, state.batch_stats, batch, rng
        )
        return loss, batch_stats, gradient

    def add(carried: Any, of: Any) -> tuple[Any, None]:
        loss, batch_stats, gradient = carried
        (more, batch_stats), gradient_more = jax.value_and_grad(loss_of, has_aux=True)(state.params, batch_stats, *of)
        return (loss + more, batch_stats, jax.tree.map(jnp.add, gradient, gradient_more)), None

    # Every part has tiles of every device: tile i goes to part i modulo their number.
    split = {name: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1) for name, x in batch.items()}
    start = (jnp.zeros(()), state.batch_stats, jax.tree.map(jnp.zeros_like, state.params))
    return jax.lax.scan(add, start, (split, jax.random.split(rng, parts)))[0]


def _optimizer(config: Config) -> optax.GradientTransformation:
    blocks, learning = tuple(config.model.blocks), config.train.trainable
    return make_optimizer(config.optimizer, config.mesh, steps=config.train.steps, blocks=blocks, learning=learning)


def make_program(
    config: Config, statistics: Statistics, mesh: jax.sharding.Mesh, shardings: Any, teacher: Teacher | None = None
) -> Any:
    """Returns `train_step` as a `jax.jit`: (state, batch) -> (state, sums), with the teacher's variables as a third argument if there is
    one. The state passed in is donated, so it cannot be used again.

    Args:
        config: as `resolve` gives it.
        statistics: of the batch's bands.
        mesh: devices; the batch is split over them by tile.
        shardings: where the state lies, of `sharding.of_state`.
        teacher: of `train.teacher`.
    """
    alpha = losses.class_alpha(statistics.label_pixels, config.loss, taught=teacher is not None)
    step = functools.partial(train_step, config=config, statistics=statistics, alpha=alpha, teacher=teacher)
    return jax.jit(
        for_mesh(step, mesh),
        in_shardings=(shardings, by_tile(mesh), *([replicated(mesh)] if teacher else [])),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def placed_state(config: Config, variables: model.Variables | None, shardings: Any) -> TrainState:
    """Returns the state before the first step, placed on the devices as `shardings` say."""
    if jax.process_count() == 1 and config.mesh.parameters == "replicated":
        return jax.device_put(init_state(config, variables), shardings)  # compiles next to nothing
    # No device ever holds it whole.
    variables = jax.tree.map(np.asarray, variables)
    return jax.jit(functools.partial(init_state, config), out_shardings=shardings)(variables)
