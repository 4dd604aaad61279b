"""One run however it is spread: over devices, processes, parts of a batch; and the same again after a stop."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import portpicker
import pytest
from conftest import REPOSITORY, small_config, small_flags
from finished_runs import journal, losses

from specsar_jax import config as configs
from specsar_jax.batches.preprocess import Statistics
from specsar_jax.devices import sharding
from specsar_jax.trained import run_files
from specsar_jax.training import loop, run_log, train_state
from tfds_dwplus import bands


@pytest.mark.parametrize(
    "settings",
    [
        ("mesh.data=2", "mesh.model=4", "mesh.parameters=sharded"),
        pytest.param(("mesh.parameters=sharded",), marks=pytest.mark.slow),
        pytest.param(("mesh.model=2",), marks=pytest.mark.slow),
    ],
)
def test_split_weights_have_the_losses_of_whole_ones(small_run, tmp_path, settings):
    loop.train(small_config(small_run, *settings), tmp_path)
    np.testing.assert_allclose(losses(tmp_path), losses(small_run / "run"), rtol=1e-4)


def test_weights_and_moments_are_split_not_copied():
    config = configs.override(configs.Config(), ["model=tiny", "mesh.model=2", "mesh.parameters=sharded"])
    mesh = sharding.make_mesh(config.mesh)
    abstract = jax.eval_shape(lambda: train_state.init_state(config))
    split = sharding.of_state(abstract, mesh, config.mesh)
    held = whole = 0
    for leaf, of in zip(jax.tree.leaves(abstract), jax.tree.leaves(split), strict=True):
        held += np.prod(of.shard_shape(leaf.shape))
        whole += np.prod(leaf.shape)
    assert held < 0.2 * whole  # of 8 devices; small ones and odd ones are copied


@pytest.mark.parametrize(("data", "model"), [(3, 1), (0, 3), (8, 2)])
def test_a_mesh_of_other_devices_than_there_are_is_refused(data, model):
    with pytest.raises(ValueError, match="8 devices"):
        sharding.make_mesh(configs.Mesh(data, model))


def test_the_first_devices_are_used():
    assert list(sharding.make_mesh(configs.Mesh(devices=2)).devices.flat) == jax.devices()[:2]
    assert dict(sharding.make_mesh(configs.Mesh(devices=6, model=2)).shape) == {"data": 3, "model": 2}
    assert list(sharding.evaluation_mesh(configs.Mesh(devices=1)).devices.flat) == jax.devices()[:1]
    assert sharding.evaluation_mesh(configs.Mesh(devices=64)).size == 8  # trained on a larger machine
    with pytest.raises(ValueError, match=r"mesh.devices=9, but JAX finds 8"):
        sharding.make_mesh(configs.Mesh(devices=9))
    with pytest.raises(ValueError, match=r"or mesh.devices=3 use the first ones"):
        sharding.make_mesh(configs.Mesh(data=3))


def test_goes_on_with_other_devices_and_readers(small_run, tmp_path, monkeypatch):
    """Three steps on eight devices, weights split, the rest on two."""
    settings = ("mesh.parameters=sharded", "train.save_every=3")
    ended = run_log.RunLog.write

    def killed(self, step, kind, figures):
        ended(self, step, kind, figures)
        if step == 4:
            raise ZeroDivisionError

    monkeypatch.setattr(run_log.RunLog, "write", killed)
    with pytest.raises(ZeroDivisionError):
        loop.train(small_config(small_run, *settings), tmp_path)
    monkeypatch.undo()
    axes = (jax.sharding.AxisType.Auto,) * 2
    two = jax.make_mesh((2, 1), ("data", "model"), axis_types=axes, devices=jax.devices()[:2])
    monkeypatch.setattr(loop, "make_mesh", lambda _: two)
    loop.train(small_config(small_run, *settings, "data.read_threads=1", "mesh.data=2"), tmp_path)
    assert [line["step"] for line in journal(tmp_path) if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(losses(tmp_path), losses(small_run / "run"), rtol=1e-4)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(small_run, tmp_path):
    address = f"localhost:{portpicker.pick_unused_port()}"
    flags = ["--workdir", str(tmp_path / "run"), "--coordinator", address, "--processes", "2", *small_flags(small_run)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "specsar_jax.train", *flags, "--process_id", str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_NUM_CPU_DEVICES": "2"},
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert ["overall accuracy" in out for out, _ in outputs] == [True, False]  # one of them tells
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(small_run / "run"), rtol=1e-4)
    assert (tmp_path / "run" / "evaluation_test.json").exists()


def batch_of(seeds: list[int], size: int = 32) -> dict[str, jax.Array]:
    """Tiles of noise, the same for the same seed."""
    tiles = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        tiles.append(
            {
                "s2": rng.integers(1, 5000, (size, size, 9)).astype(np.uint16),
                "s1": rng.uniform(-25, 0, (size, size, 2)).astype(np.float32),
                "label": rng.integers(0, 9, (size, size)).astype(np.uint8),
                "expert": np.bool_(seed % 2),
            }
        )
        tiles[-1]["label"][: 4 * seed] = bands.IGNORE
    return {name: jnp.stack([tile[name] for tile in tiles]) for name in tiles[0]}


@pytest.fixture(scope="module")
def one_step(small_run):
    """A function from settings and a batch to the state before a step, the state after it, and its sums."""
    statistics = Statistics.read(small_run / "run" / "statistics.json")

    def step(*settings: str, batch: dict[str, jax.Array], alpha: float = 1.0):
        config = small_config(small_run, *settings)

        def run(batch: dict[str, jax.Array]):
            state = train_state.init_state(config)
            how = {"config": config, "statistics": statistics, "alpha": (alpha,) * 9}
            return state, *train_state.train_step(state, batch, **how)

        return jax.jit(run)(batch)

    return step


def test_a_batch_in_parts_has_the_gradient_of_the_whole(one_step):
    batch = batch_of([1, 1, 2, 2])  # so that BatchNorm sees the same moments in each of two parts
    *_, whole = one_step(batch=batch)
    *_, parts = one_step("train.accumulate=2", batch=batch)
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-4)


def test_a_step_that_is_not_finite_changes_nothing_but_counts(one_step):
    before, state, sums = one_step(batch=batch_of([1, 2]), alpha=np.inf)
    assert not np.isfinite(sums["loss"])
    assert (int(state.step), int(state.skipped), int(state.skipped_in_a_row)) == (1, 1, 1)
    for name in ("params", "batch_stats", "averaged_params", "optimizer_state"):
        for one, two in zip(jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(before, name)), strict=True):
            np.testing.assert_array_equal(one, two)


def test_too_many_such_steps_end_the_run_with_the_tiles_names(small_run, tmp_path):
    config = small_config(
        small_run, "loss.alpha=(1e38,1e38,1e38,1e38,1e38,1e38,1e38,1e38,1e38)", "train.most_skipped=3"
    )
    with pytest.raises(
        ValueError,
        match=r"3 steps in a row, the last of them 3, .*last batch: \S+_train_.*; no checkpoint is left. Start",
    ):
        loop.train(config, tmp_path)
    skipped = [line for line in journal(tmp_path) if line["kind"] == "skipped"]
    assert [line["step"] for line in skipped] == [1, 2, 3] and len(skipped[0]["tile_ids"]) == 8
    assert not run_files.any_saved(tmp_path) and (tmp_path / "damaged" / "2").is_dir()
    assert not re.search(r": -?(NaN|Infinity)", (tmp_path / "metrics.jsonl").read_text())  # no JSON


def test_the_advice_after_too_many_such_steps_works(small_run, tmp_path):
    settings = "train.most_skipped=3", "optimizer.clip_norm=0", "optimizer.warmup_steps=0", "train.steps=8"
    with pytest.raises(ValueError, match="a lower rate, --change"):
        loop.train(small_config(small_run, *settings, "optimizer.learning_rate=1e30"), tmp_path)
    loop.train(small_config(small_run, *settings, "optimizer.learning_rate=1e-4"), tmp_path, change=True)
    assert run_files.saved_steps(tmp_path)[-1] == 8
