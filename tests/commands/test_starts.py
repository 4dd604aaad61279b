"""What a start costs: a bundle is loaded, and a command begins, without what they do not need yet; a second start traces nothing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import REPOSITORY
from small_scenes import files_of, scene

from specsar_jax.config import Predict
from specsar_jax.maps import compiled, scene_map
from specsar_jax.maps.map_files import Outputs
from specsar_jax.trained.loading import load_trained

BUNDLE = Path(__file__).parents[1] / "bundles" / "bundle_1.safetensors"
HEAVY = ["jax", "flax", "orbax", "grain", "tensorflow_datasets", "xarray", "rasterio", "scipy", "dask", "matplotlib"]


def imported_by(code: str) -> list[str]:
    """Which of `HEAVY` a fresh process imports."""
    told = f"import json, sys; print(json.dumps(sorted({HEAVY!r} & sys.modules.keys())))".replace("[", "{").replace(
        "]", "}"
    )
    done = subprocess.run([sys.executable, "-c", f"{code}\n{told}"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_bundle_is_loaded_without_what_maps():
    assert imported_by(f"import specsar_jax; specsar_jax.load({str(BUNDLE)!r}).trained.sha256") == []


def test_commands_begin_without_what_maps():
    assert imported_by("import specsar_jax.predict, specsar_jax.trained.loading, tfds_dwplus.bands") == []


def test_a_second_start_traces_nothing(tmp_path, monkeypatch):
    scene(tmp_path, 150, 60)  # one window wide, and so of one device
    trained, maps = load_trained(BUNDLE), []

    def refuse(*_, **__):
        raise AssertionError("traced")

    for name in ("one.tif", "two.tif"):
        output = tmp_path / name
        assert scene_map.map_scene(trained, *files_of(tmp_path), Outputs(output), Predict())
        with rasterio.open(output) as raster:
            maps.append(raster.read(1))
        monkeypatch.setattr(compiled, "log_probabilities", refuse)
    np.testing.assert_array_equal(*maps)


@pytest.mark.parametrize(
    "first",
    [
        "tfds_dwplus",
        "tfds_dwplus.bands",
        "tfds_dwplus.tiles.records",
        "tfds_dwplus.tiles.prepared",
        "tensorflow_datasets",
    ],
)
def test_the_builder_is_registered_whatever_is_imported_first(first):
    """It comes with TFDS, which a part of the package may import in the middle of its own import."""
    program = (
        f"import {first}, sys; light = '{first}'.startswith('tfds_dwplus') and 'tiles' not in '{first}';"
        "assert light == ('tensorflow_datasets' not in sys.modules);"
        "import tensorflow_datasets as tfds, tfds_dwplus;"
        "print('dynamic_world_plus' in tfds.list_builders(with_community_datasets=False), tfds_dwplus.Builder.name);"
        "print([finder for finder in sys.meta_path if 'tfds' in repr(finder)])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True dynamic_world_plus", "[]"]
