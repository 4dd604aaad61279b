"""How a map was made: the tags that predict writes, and what is made of them."""

import dataclasses

import numpy as np
import pytest
import rasterio
from small_scenes import files_of, network, scene, write

from specsar_jax.config import Predict
from specsar_jax.maps import scene_map
from specsar_jax.maps.map_files import Outputs
from specsar_jax.viewer import origin
from tfds_dwplus.imagery.scenes import Reading


def test_what_predict_said_goes_with_the_map(tmp_path, capsys):
    """Files are named without their folders, which are nobody's business."""
    scene(tmp_path, 64, 64)
    s2, s1 = files_of(tmp_path)
    with rasterio.open(s2[0]) as raster:
        mask = np.zeros(raster.shape, np.uint8)
        mask[:, :20] = 1
        write(tmp_path / "clouds.tif", mask, raster.transform, raster.crs)
    trained = network()
    config = dataclasses.replace(
        trained.config, train=dataclasses.replace(trained.config.train, teacher="runs/big one/")
    )
    outputs = Outputs(tmp_path / "map.tif")
    reading = Reading(cloud_mask=str(tmp_path / "clouds.tif"))
    assert scene_map.map_scene(dataclasses.replace(trained, config=config), s2, s1, outputs, Predict(), reading)
    with rasterio.open(outputs.map) as raster:
        tags = raster.tags()
    assert tags["cloud_mask"] == "clouds.tif" and tags["teacher"] == "big one"
    said = [line.removeprefix("note: ") for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    kept = tags["notes"].splitlines()
    assert "pixels of clouds.tif that are not 0 are cloud and left out (--cloud_values)" in kept
    assert [line.replace(f"{tmp_path}/", "") for line in said][: len(kept)] == kept and str(tmp_path) not in tags[
        "notes"
    ]


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({}, []),
        ({"trained_on": "mine", "labels_of_training": "expert (12 tiles)"}, []),
        ({"trained_on": "simulated"}, ["Trained on simulated tiles"]),
        ({"labels_of_training": "expert (1 tile), network: a (3 tiles)"}, ["labels of another network"]),
        ({"trained_on": "simulated", "teacher": "big"}, ["Trained on simulated tiles", "with its faults (big)"]),
    ],
)
def test_what_to_beware_of(tags, said):
    found = origin.warnings(tags)
    assert len(found) == len(said) and all(text in line for text, line in zip(said, found, strict=True))


def test_tags_are_told_in_order_and_none_is_left_out():
    told = origin.told({"software": "x", "s2_offset": "0", "of_a_stranger": "<b>", "trained_on": "mine"}, 0.25)
    assert [name for name, _ in told] == [
        *("Trained on", "Subtracted from Sentinel-2 numbers", "Software", "of a stranger", "Without a class")
    ]
    assert told[-1] == ("Without a class", "25.0 % of the pixels") and ("of a stranger", "<b>") in told
    assert origin.told({}, 0.0) == [("Without a class", "none of the pixels")]
