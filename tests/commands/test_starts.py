"""What a start costs: a bundle is loaded, and a command begins, without what they do not need yet; a second start traces nothing."""

import json
import subprocess
import sys
import weakref
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
import rasterio
from conftest import REPOSITORY, command, refused
from small_scenes import files_of, scene

from specsar_jax.config import Predict
from specsar_jax.maps import compiled, scene_map
from specsar_jax.maps.map_files import Outputs
from specsar_jax.maps.mapping import MadeAhead
from specsar_jax.trained.loading import load_trained

BUNDLE = Path(__file__).parents[1] / "bundles" / "bundle_1.safetensors"
SENSORS = {"s2": np.uint16, "s1": np.float32}
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


def test_a_network_made_in_another_thread_is_traced_by_the_settings_of_the_one_that_calls(tmp_path, monkeypatch):
    trained, traced = load_trained(BUNDLE), []
    batch = (1, 64, 64)
    given = [np.ones((*batch, len(trained.bands.get(sensor, ()))), dtype) for sensor, dtype in SENSORS.items()]
    whole = compiled.log_probabilities

    def noted(*arguments, **named):
        traced.append(jax.config.jax_default_matmul_precision)
        return whole(*arguments, **named)

    monkeypatch.setattr(compiled, "log_probabilities", noted)
    for precision in (None, "highest"):
        with ThreadPoolExecutor(1) as thread, jax.default_matmul_precision(precision):
            thread.submit(compiled.make_probabilities, trained, None, batch).result()(*given)
    assert traced[-1] == "highest"


def test_a_network_made_ahead_is_cut_and_turned_as_asked_for(monkeypatch):
    made, one = [], jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: one)
    monkeypatch.setattr(compiled, "make_probabilities", lambda trained, *_: made.append(trained.config.predict) or str)
    compiled.made_ahead(load_trained(BUNDLE), asked := Predict(average_turns=True, overlap=0.5))
    assert made == [asked]


def test_weights_made_ahead_are_let_go_where_the_scene_is_narrower(tmp_path):
    scene(tmp_path, 40, 40)
    trained, ahead = load_trained(BUNDLE), Future()
    side = trained.config.data.crop_px

    def network(s2, s1):
        raise AssertionError("of another size")

    ahead.set_result(MadeAhead((2, side, side), network))
    there = weakref.ref(network)
    del network
    assert scene_map.map_scene(trained, *files_of(tmp_path), Outputs(tmp_path / "map.tif"), Predict(), ahead=ahead)
    assert there() is None and ahead.result() is not None


def test_devices_that_cannot_start_are_told_on_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nosuch")
    done = command("specsar_jax.predict", "--workdir", BUNDLE, "--s2", "a.tif", "--output", "map.tif", cwd=tmp_path)
    assert "JAX cannot start its devices, JAX_PLATFORMS=nosuch: " in refused(done)


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


@pytest.mark.parametrize(
    "before",
    [
        "import importlib; importlib.reload(tfds_dwplus)",
        # A copy of the hook that is not known, as of a second copy of the package.
        "sys.meta_path.insert(0, type('Other', (type(sys.meta_path[0]),), {})())",
    ],
)
def test_hooks_do_not_ask_each_other_for_ever(before):
    program = (
        f"import sys, tfds_dwplus; {before}; import tensorflow_datasets as tfds;"
        "print('dynamic_world_plus' in tfds.list_builders(with_community_datasets=False), tfds.__spec__.loader)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True <_frozen_importlib_external.SourceFileLoader")


def test_a_loader_that_others_share_stays_as_it_is(tmp_path):
    """As that of a zip file, whose one loader is of all that is in it."""
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("tensorflow_datasets/__init__.py", "loader = __loader__")
        archive.writestr("another.py", "loader = __loader__")
    program = (
        f"import sys, tfds_dwplus; sys.path.insert(0, {str(tmp_path / 'all.zip')!r});"
        "tfds_dwplus._BUILDER = 'json'; import tensorflow_datasets as tfds, another;"
        "print(type(tfds.loader).__name__, vars(tfds.loader).get('exec_module'), another.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["zipimporter", "None", "another"]
