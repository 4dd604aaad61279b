"""A network that works without a sensor labels tiles of one sensor, and pixels that one sensor saw; others as before."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import command, refused, write_folder
from drawn_networks import SMALL_PRESETS, drawn
from own_classes import with_names

from specsar_jax.maps.compiled import make_probabilities
from specsar_jax.trained.bundle import write_bundle
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import DynamicWorldPlusConfig, bands, label
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles.labelling import folder as folders
from tfds_dwplus.tiles.prepared import open_dataset, read_split
from tfds_dwplus.tiles.tile_files import list_tiles, read_tile

SIZE = 64
ALL = ("--confidence", "0", "--keep_clouds", "--keep_dark_water")
GAPS = {"s2": np.s_[..., :20, :], "s1": np.s_[..., :, 40:]}
"""Rows and columns that a sensor did not see."""


def network(sensor_drop: tuple[float, ...]) -> Trained:
    return with_names(drawn(SMALL_PRESETS["specsar_former"], sensor_drop=sensor_drop))


@pytest.fixture(scope="module")
def any_sensor() -> Trained:
    return network((0.3, 0.3))


@pytest.fixture(scope="module")
def bundle(any_sensor, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "network.safetensors"
    write_bundle(any_sensor, path)
    return path


@pytest.fixture
def tiles(tmp_path) -> Path:
    """Two tiles without labels, parts of which one sensor or both did not see."""
    folder = write_folder(tmp_path / "tiles", {"train": 1, "test": 1}, size_px=SIZE)
    shutil.rmtree(folder / "label")
    (folder / "tiles.csv").write_text((folder / "tiles.csv").read_text().replace("simulated,64", ",64"))
    for sensor, part in GAPS.items():
        for path in (folder / sensor).glob("*.tif"):
            with rasterio.open(path, "r+") as raster:
                pixels = raster.read()
                pixels[part] = 0 if sensor == "s2" else np.nan
                raster.write(pixels)
    return folder


def run(bundle: Path, tiles: Path, *more: str) -> None:
    label.main(["--network", str(bundle), "--tiles", str(tiles), *more])


def codes(tiles: Path, tile_id: str) -> np.ndarray:
    with rasterio.open(tiles / "label" / f"{tile_id}.tif") as raster:
        return raster.read(1)


def wanted(trained: Trained, tiles: Path, record) -> tuple[np.ndarray, np.ndarray]:
    """Label codes of a tile, and by which sensors its pixels were seen."""
    given = {sensor: names if (tiles / sensor).is_dir() else () for sensor, names in trained.bands.items()}
    tile = read_tile(tiles, record, given["s2"], given["s1"], labels="")
    s2, s1 = trained.with_missing(tile.s2, tile.s1)
    seen = bands.seen_pixels(s2, s1, ("s2", "s1"), trained.config.may_miss)
    class_id = np.asarray(make_probabilities(trained)(s2[None], s1[None]))[0].argmax(axis=-1)
    return np.where(seen, class_id + 1, 0), seen


@pytest.mark.parametrize("lost", ["", "s1", "s2"])
def test_what_a_sensor_saw_is_labelled(any_sensor, bundle, tiles, tmp_path, lost, capsys):
    if lost:
        shutil.rmtree(tiles / lost)
    how = [*ALL, "--probabilities"]
    if lost == "s2":
        how.remove("--keep_clouds")  # of Sentinel-1 alone there are none, and no doubts on them
    run(bundle, tiles, *how)
    for record in list_tiles(tiles):
        expected, seen = wanted(any_sensor, tiles, record)
        assert set(np.unique(seen)) == {"": {0, 1, 2, 3}, "s1": {0, bands.S2_SEEN}, "s2": {0, bands.S1_SEEN}}[lost]
        np.testing.assert_array_equal(codes(tiles, record.tile_id), expected)
        facts = folders.read_facts(tiles / "label" / f"{record.tile_id}.tif")
        assert facts.counts.nodata == (seen == 0).sum()
        assert facts.settings["sensors"] == " and ".join(sensor for sensor in ("s2", "s1") if sensor != lost)
    assert "clouds" not in capsys.readouterr().err
    run(bundle, tiles, *how)
    assert "0 tiles labelled" in capsys.readouterr().out
    # And they go into a data set, of the sensors that are there.
    prepare(DynamicWorldPlusConfig(name="one", tiles=tiles, tile_size_px=SIZE), tmp_path / "data")
    record = read_split(open_dataset(tmp_path / "data", "one"), "test")[0]
    assert (record["s2"].shape[-1], record["s1"].shape[-1]) == (9 * (lost != "s2"), 2 * (lost != "s1"))
    assert (record["label"] != bands.IGNORE).any()


def test_clouds_stay_without_a_label(bundle, tiles):
    first = list_tiles(tiles)[0].tile_id
    with rasterio.open(tiles / "s1" / f"{first}.tif") as raster:
        profile = raster.profile | {"count": 1, "dtype": "uint8", "nodata": None}
    (tiles / "cloud").mkdir()
    cloud = np.zeros((SIZE, SIZE), np.uint8)
    cloud[30, 10] = 1
    with rasterio.open(tiles / "cloud" / f"{first}.tif", "w", **profile) as raster:
        raster.write(cloud, 1)
    run(bundle, tiles, "--confidence", "0")
    assert not codes(tiles, first)[30, 10] and codes(tiles, first)[10, 10]


def test_a_sensor_that_comes_later_makes_other_labels(bundle, tiles, tmp_path):
    shutil.move(tiles / "s1", tmp_path / "s1")
    run(bundle, tiles, *ALL)
    shutil.move(tmp_path / "s1", tiles / "s1")
    with pytest.raises(ValueError, match=r"2 of 2 tiles are labelled already.*sensors 's2' and now 's2 and s1'"):
        run(bundle, tiles, *ALL)
    run(bundle, tiles, *ALL, "--overwrite")


@pytest.mark.parametrize(("sensor_drop", "lost"), [((), "s1"), ((), "s2"), ((0.3, 0.0), "s1"), ((0.0, 0.3), "s2")])
def test_others_refuse_and_label_what_they_can(sensor_drop, lost, tiles, tmp_path):
    trained = network(sensor_drop)
    write_bundle(trained, tmp_path / "n.safetensors")
    shutil.move(tiles / lost, tmp_path / lost)
    with pytest.raises(ValueError, match=rf"the network reads s2 and s1, but .* has no {lost}/; add it .*sensor_drop"):
        run(tmp_path / "n.safetensors", tiles, *ALL)
    assert not (tiles / "label").exists()
    shutil.move(tmp_path / lost, tiles / lost)
    run(tmp_path / "n.safetensors", tiles, *ALL)
    record = list_tiles(tiles)[0]
    expected, seen = wanted(trained, tiles, record)
    np.testing.assert_array_equal(codes(tiles, record.tile_id), expected)
    assert set(np.unique(seen)) == {0, 3, *((bands.S1_SEEN,) if sensor_drop[:1] == (0.3,) else ())} | (
        {bands.S2_SEEN} if sensor_drop == (0.0, 0.3) else set()
    )


def test_a_tile_without_its_file_is_refused_in_a_line(bundle, tiles):
    """A folder is of one sensor as a whole, or of both: as `prepare` takes it."""
    (tiles / "s1" / f"{list_tiles(tiles)[0].tile_id}.tif").unlink()
    assert "s1" in refused(command("tfds_dwplus.label", "--network", bundle, "--tiles", tiles, cwd=tiles))
