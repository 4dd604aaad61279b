"""Schedules, learning rates by group and by depth, weight decay on kernels only."""

import jax
import numpy as np
import optax
import pytest

from specsar_jax import config as configs
from specsar_jax.config import Optimizer
from specsar_jax.network import model
from specsar_jax.training import optimizer


@pytest.mark.parametrize("schedule", ["cosine", "polynomial", "constant"])
def test_schedules_warm_up_and_end_where_they_say(schedule):
    rate = optimizer.learning_rate(
        Optimizer(learning_rate=1.0, schedule=schedule, warmup_steps=10, final_fraction=0.1, power=2.0), 110
    )
    assert rate(0) == 0.0 and rate(5) == pytest.approx(0.5) and rate(10) == pytest.approx(1.0)
    middle = {"cosine": 0.55, "polynomial": 0.9 * 0.5**2 + 0.1, "constant": 1.0}[schedule]
    assert rate(60) == pytest.approx(middle)
    assert rate(110) == pytest.approx(1.0 if schedule == "constant" else 0.1)


def changed(*settings: str) -> configs.Config:
    return configs.override(configs.Config(), ["model=tiny", *settings])


def test_layer_decay_counts_blocks_from_the_decoder_back():
    config = changed("optimizer.layer_decay=0.5", "optimizer.group_rates=('decoder=10','query=3')")
    params = model.abstract_params(config.model)["params"]
    factors = optimizer.rate_factors(params, config.optimizer, config.model.blocks)
    # tiny has 1, 1, 2, 1 blocks: the fifth is the last one.
    assert factors["decoder"]["classify_kernel"] == 10.0
    assert factors["stage1"]["spectral_embed"]["kernel"] == 0.5**5
    assert factors["stage1"]["spectral_norm"]["scale"] == 0.5**4
    blocks = factors["stage3"]["blocks"]["sar_ffn"]["expand"]["kernel"]
    np.testing.assert_array_equal(blocks.ravel(), [0.5**3, 0.5**2])
    np.testing.assert_array_equal(factors["stage4"]["blocks"]["sar_self"]["query"]["kernel"].ravel(), [0.5 * 3])
    for leaf, factor in zip(jax.tree.leaves(params), jax.tree.leaves(factors), strict=True):
        np.broadcast_to(factor, leaf.shape)


def test_unknown_groups_are_refused():
    config = changed("optimizer.group_rates=('decodr=2',)")
    with pytest.raises(ValueError, match=r"names decodr.*decoder"):
        optimizer.rate_factors(model.abstract_params(config.model)["params"], config.optimizer, config.model.blocks)


def test_no_clipping_is_a_norm_without_bound():
    """Adam's first step is the sign of the gradient, its second depends on the gradients' sizes, which clipping would make alike."""
    params = {"a": {"kernel": np.ones((1, 1), np.float32)}}
    gradients = [{"a": {"kernel": np.full((1, 1), size, np.float32)}} for size in (1.0, 100.0)]
    moved = {}
    for norm in ("0", "1", "1e9"):
        config = changed("optimizer.schedule=constant", "optimizer.warmup_steps=0", f"optimizer.clip_norm={norm}")
        made = optimizer.make_optimizer(
            config.optimizer, config.mesh, steps=config.train.steps, blocks=config.model.blocks
        )
        state = made.init(params)
        for gradient in gradients:
            update, state = made.update(gradient, state, params)
        moved[norm] = update["a"]["kernel"].item()
    assert moved["0"] == moved["1e9"] != moved["1"]


def test_a_step_is_optaxs_adamw_whether_moments_are_one_vector_or_not():
    params = {"a": {"kernel": np.ones((3, 2), np.float32), "bias": np.ones(2, np.float32)}}
    gradient = jax.tree.map(
        lambda leaf: 0.1 * np.arange(1, leaf.size + 1, dtype=np.float32).reshape(leaf.shape), params
    )
    for parameters in ("replicated", "sharded"):
        config = changed("optimizer.schedule=constant", "optimizer.warmup_steps=1", f"mesh.parameters={parameters}")
        ours = optimizer.make_optimizer(
            config.optimizer, config.mesh, steps=config.train.steps, blocks=config.model.blocks
        )
        theirs = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adamw(
                optimizer.learning_rate(config.optimizer, config.train.steps), weight_decay=0.01, mask=optimizer.kernels
            ),
        )
        one, two = params, params
        state_one, state_two = ours.init(one), theirs.init(two)
        for _ in range(3):
            update, state_one = ours.update(gradient, state_one, one)
            one = optax.apply_updates(one, update)
            update, state_two = theirs.update(gradient, state_two, two)
            two = optax.apply_updates(two, update)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        assert (one["a"]["kernel"] != params["a"]["kernel"]).all()
