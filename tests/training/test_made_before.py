"""What version 0.1.0 wrote before the package was divided into rooms still works: a data set, a run with its checkpoints, a bundle.

`tests/bundles/before_rooms.tar.gz` was written at commit 19218eb: `tfds_dwplus.prepare --simulated`, two steps of `specsar_jax.train` on a
small `tiny`, `specsar_jax.export`.
"""

import dataclasses
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import REPOSITORY
from finished_runs import journal, losses

from specsar_jax import evaluate
from specsar_jax.trained import loading, run_files
from specsar_jax.training import loop

ARCHIVE = Path(__file__).parents[1] / "bundles" / "before_rooms.tar.gz"


@pytest.fixture
def before(tmp_path) -> Path:
    """Folder with `datasets`, `run` and `bundle.safetensors`."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_run_bundle_and_data_set_give_the_figures_they_gave(before):
    figures = json.loads((before / "run" / "evaluation_test.json").read_text())
    for network in (before / "run", before / "bundle.safetensors"):
        output = before / "again.json"
        evaluate.main(["--workdir", str(network), "--data_dir", str(before / "datasets"), "--output", str(output)])
        again = json.loads(output.read_text())
        assert again.keys() == figures.keys() | {"data_sha256", "weights_sha256", "tiles_sha256"}
        assert again["labelled_pixels"] == figures["labelled_pixels"]
        np.testing.assert_allclose(again["loss"], figures["loss"], rtol=1e-4)
        np.testing.assert_allclose(again["confusion_matrix"], figures["confusion_matrix"], atol=2)
    assert loading.load_trained(before / "run").sha256 == loading.load_trained(before / "bundle.safetensors").sha256


def test_the_data_set_is_read_by_tfds_alone(before):
    """Without an import of our package: TFDS finds it by the names in `features.json`."""
    code = "import sys, tensorflow_datasets as tfds; print(len(tfds.builder_from_directory(sys.argv[1]).as_data_source('train')))"
    folder = before / "datasets" / "dynamic_world_plus" / "before" / "1.0.0"
    done = subprocess.run(
        [sys.executable, "-c", code, folder], check=True, capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.stdout.strip() == "3"


def test_a_run_goes_on_from_its_checkpoint(before, monkeypatch):
    monkeypatch.chdir(before)
    expected = losses(before / "run")
    shutil.rmtree(before / "run" / "checkpoints" / "2")
    config = run_files.read_config(before / "run")
    axes = (jax.sharding.AxisType.Auto,) * 2
    one = jax.make_mesh((1, 1), ("data", "model"), axis_types=axes, devices=jax.devices()[:1])
    monkeypatch.setattr(loop, "make_mesh", lambda _: one)  # batches of two tiles
    assert dataclasses.astuple(config.data)[:2] == ("before", "datasets")
    loop.train(config, before / "run")
    assert [line["step"] for line in journal(before / "run") if line["kind"] == "eval"] == [1, 2]
    np.testing.assert_allclose(losses(before / "run"), expected, rtol=1e-4)
