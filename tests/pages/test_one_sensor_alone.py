"""A network that works without a sensor is scored, reported and drawn on data sets that lack it, and its map by radar alone is shown."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import command, refused, write_folder
from drawn_networks import SMALL_PRESETS, drawn
from own_classes import with_names

from specsar_jax import evaluate, report
from specsar_jax.config import Predict
from specsar_jax.maps import scene_map
from specsar_jax.maps.compiled import make_probabilities
from specsar_jax.maps.map_files import Outputs
from specsar_jax.pages.pictures import draw_examples
from specsar_jax.trained.bundle import write_bundle
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import DynamicWorldPlusConfig, bands
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles.prepared import open_dataset, read_split

NAMES = {"s1": "optical", "s2": "radar"}
"""Of the data set that lacks a sensor."""


@pytest.fixture(scope="module")
def trained() -> Trained:
    return with_names(drawn(SMALL_PRESETS["specsar_former"], sensor_drop=(0.3, 0.3)))


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory) -> Path:
    """The network as a bundle, and tiles and data sets of either sensor alone."""
    folder = tmp_path_factory.mktemp("one_sensor")
    write_bundle(trained, folder / "a.safetensors")
    for lost, name in NAMES.items():
        tiles = write_folder(folder / name, {"train": 2, "test": 2})
        shutil.rmtree(tiles / lost)
        prepare(DynamicWorldPlusConfig(name=name, tiles=tiles, tile_size_px=64), folder / "data")
    return folder


@pytest.mark.parametrize("lost", NAMES)
def test_scores_and_report(trained, folder, lost, tmp_path):
    name = NAMES[lost]
    where = ["--workdir", str(folder / "a.safetensors"), "--data_dir", str(folder / "data"), "--dataset", name]
    evaluate.main([*where, "--maps", str(tmp_path / "maps")])
    (written,) = folder.glob(f"a.evaluation_test*{name}*.json")
    builder = open_dataset(folder / "data", name)
    right = wrong = mapped = 0
    for record in read_split(builder, "test"):
        s2, s1 = trained.with_missing(record["s2"], record["s1"])
        class_id = np.asarray(make_probabilities(trained)(s2[None], s1[None]))[0].argmax(axis=-1)
        seen = bands.s2_seen(s2) | bands.s1_seen(s1)
        with rasterio.open(tmp_path / "maps" / f"{record['tile_id'].decode()}.tif") as raster:
            np.testing.assert_array_equal(raster.read(1), np.where(seen, class_id, bands.IGNORE))
        judged = seen & (record["label"] != bands.IGNORE)
        right += (judged & (class_id == record["label"])).sum()
        wrong += (judged & (class_id != record["label"])).sum()
        mapped += seen.sum()
    assert right and json.loads(written.read_text())["overall_accuracy"] == pytest.approx(right / (right + wrong))
    with np.load(next(folder.glob(f"a.tiles_test*{name}*.npz"))) as tally:
        assert tally["mapped"].sum() == mapped
    report.main([*where, "--output", str(tmp_path / "page.html"), "--tiles", "1"])
    page = (tmp_path / "page.html").read_text()
    pictures = {"s1": "Sentinel-1", "s2": "Sentinel-2"}
    assert f'alt="{pictures[lost]}' not in page and page.count('alt="Map of tile') >= 2
    draw_examples(trained, builder, "test", tmp_path / "examples.png")
    assert (tmp_path / "examples.png").stat().st_size > 1000


def test_others_are_refused_in_a_line(folder, tmp_path):
    write_bundle(with_names(drawn(SMALL_PRESETS["specsar_former"], sensor_drop=(0.3, 0.0))), tmp_path / "b.safetensors")
    arguments = ("--workdir", "b.safetensors", "--data_dir", folder / "data", "--dataset", "optical")
    line = refused(command("specsar_jax.evaluate", *arguments, cwd=tmp_path))
    assert "holds s2 only, but the network reads s2 and s1" in line


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_a_map_by_radar_alone_is_shown(trained, folder, tmp_path):
    """Over nothing, or over a scene of another day."""
    pytest.importorskip("rio_tiler", reason="extra 'view'")
    from specsar_jax.viewer.opening import Given, open_shown

    s1 = sorted((folder / "radar" / "s1").glob("*.tif"))[0]
    outputs = Outputs(tmp_path / "map.tif", tmp_path / "shares.tif", None, tmp_path / "seen.tif")
    assert scene_map.map_scene(trained, [], [s1], outputs, Predict())
    with rasterio.open(outputs.map) as raster:
        class_id = raster.read(1)
    # Of the same place: as the simulated tiles of both folders are.
    s2 = folder / "optical" / "s2" / s1.name
    for imagery in ([], [str(s2)]):
        given = Given(str(outputs.map), s2=imagery, probabilities=str(outputs.probabilities))
        with open_shown(given) as shown:
            assert ("imagery" in shown.layers) == bool(imagery) and "s2_files" not in shown.maps[0].tags
            assert shown.maps[0].tags["notes"] == "no --s2 is given; the network maps without it"
            west, south, east, north = shown.bounds
            found = shown.pixel((west + east) / 2, (south + north) / 2)
            assert found["class"] in class_id[31:33, 31:33] and len(found["shares"]) == 5
