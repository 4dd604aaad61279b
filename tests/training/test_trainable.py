"""`train.trainable`: what is not named keeps its weights, its average and the moments of its norms, in a step and in a whole run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config
from drawn_networks import SMALL_PRESETS

from specsar_jax.batches.preprocess import Statistics
from specsar_jax.config import Config, Optimizer, Train
from specsar_jax.trained.loading import load_trained
from specsar_jax.training import loop
from specsar_jax.training.train_state import init_state, train_step


def moved(before, after) -> set[str]:
    """Paths of the leaves that differ."""
    differ = jax.tree.map(lambda one, two: not np.array_equal(one, two), before, after)
    return {".".join(key.key for key in path) for path, changed in jax.tree.leaves_with_path(differ) if changed}


def belongs(path: str, name: str) -> bool:
    return any(part == name or part.startswith(f"{name}_") for part in path.split("."))


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "s2": jnp.asarray(rng.integers(1, 4000, (2, 32, 32, 9)), jnp.uint16),
        "s1": jnp.asarray(rng.normal(-12, 3, (2, 32, 32, 2)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, 9, (2, 32, 32)), jnp.uint8),
        "expert": jnp.zeros(2, bool),
    }


@pytest.mark.parametrize(
    ("preset", "learning"),
    [
        ("dynamic_world", ("classify",)),
        ("dynamic_world", ("stem", "block3")),
        ("dynamic_world_sar", ("sar",)),
        ("specsar_former", ("classify", "sar_embed")),
        ("specsar_former", ("sar",)),
        ("specsar_former", ("decoder",)),
        ("specsar_former", ()),
    ],
)
def test_a_step_moves_what_learns_and_nothing_else(preset, learning, batch, small_run):
    train = Train(trainable=learning, steps=10, ema_decay=0.9)
    config = Config(model=SMALL_PRESETS[preset], train=train, optimizer=Optimizer(warmup_steps=0, weight_decay=0.1))
    statistics = Statistics.read(small_run / "run" / "statistics.json")
    before = init_state(config)
    step = functools.partial(train_step, config=config, statistics=statistics, alpha=(1.0,) * 9)
    after, _ = jax.jit(step)(before, batch)
    paths = moved(before.params, after.params)
    assert paths and moved(before.averaged_params, after.averaged_params) == paths
    for path in [*paths, *moved(before.batch_stats, after.batch_stats)]:
        assert not learning or any(belongs(path, name) for name in learning), path
    # Each of them moves, and of a layer with a norm its moments do.
    assert {name for name in learning if any(belongs(path, name) for path in paths)} == set(learning)
    norms = {"stem", "block3", "decoder"} & set(learning) if learning else {"decoder"}
    assert {path.split(".")[0] for path in moved(before.batch_stats, after.batch_stats)} == norms


def test_a_run_from_another_one_keeps_what_does_not_learn(small_run, tmp_path):
    settings = f"train.finetune={small_run / 'run'}", "train.steps=2", "train.trainable=(classify,)"
    loop.train(small_config(small_run, *settings), tmp_path / "run")
    before, after = (load_trained(run).variables for run in (small_run / "run", tmp_path / "run"))
    assert moved(before, after) == {"params.decoder.classify_kernel", "params.decoder.classify_bias"}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "train.trainable=(clasify,)",
            r"train\.trainable names clasify, of which there are no weights; parts .*classify_kernel",
        ),
        ("train.trainable=(class,)", r"train\.trainable names class, of which"),
        ("train.trainable=(decoder,sars)", r"train\.trainable names sars, of which"),
        ("optimizer.group_rates=('decodr=2',)", r"optimizer\.group_rates names decodr, of which"),
    ],
)
def test_a_wrong_name_is_told_before_anything_is_written(setting, said, small_run, tmp_path):
    with pytest.raises(ValueError, match=said):
        loop.train(small_config(small_run, setting), tmp_path / "run")
    assert not (tmp_path / "run").exists()
