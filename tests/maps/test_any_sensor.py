"""A network of both sensors that was trained with `data.sensor_drop` maps with one of them, pixel by pixel; others refuse."""

import dataclasses

import numpy as np
import pytest
import rasterio
import xarray as xr
from drawn_networks import SMALL_PRESETS, drawn
from small_scenes import files_of, scene, write

from specsar_jax.config import Predict
from specsar_jax.exports.model_card import card
from specsar_jax.maps import scene_map
from specsar_jax.maps.arrays import Network
from specsar_jax.maps.compiled import make_probabilities
from specsar_jax.maps.map_files import Outputs
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands
from tfds_dwplus.imagery.scenes import Reading

SIZE = 64
BOTH_SEEN = bands.S2_SEEN + bands.S1_SEEN


@pytest.fixture(scope="module")
def any_sensor() -> Trained:
    return drawn(SMALL_PRESETS["specsar_former"], sensor_drop=(0.3, 0.3))


def with_crop(trained: Trained) -> Trained:
    """As trained on crops of the size of the scene, so that a map is one window."""
    config = dataclasses.replace(trained.config, data=dataclasses.replace(trained.config.data, crop_px=SIZE))
    return dataclasses.replace(trained, config=config)


def mapped(trained: Trained, folder, s2: list, s1: list, **reading) -> tuple[np.ndarray, np.ndarray, dict]:
    outputs = Outputs(folder / "map.tif", sensors_seen=folder / "seen.tif")
    assert scene_map.map_scene(trained, s2, s1, outputs, Predict(), Reading(**reading))
    with rasterio.open(outputs.map) as raster, rasterio.open(outputs.sensors_seen) as seen:
        assert seen.nodata == bands.IGNORE and seen.profile["width"] == raster.width
        return raster.read(1), seen.read(1), raster.tags()


def by_network(trained: Trained, s2: np.ndarray, s1: np.ndarray) -> np.ndarray:
    """Classes of one tile in which pixels lack a sensor."""
    return np.asarray(make_probabilities(trained)(s2[None], s1[None]))[0].argmax(axis=-1)


def test_one_sensor_alone(any_sensor, tmp_path):
    tile, trained = scene(tmp_path, SIZE, SIZE), with_crop(any_sensor)
    s2_files, s1_files = files_of(tmp_path)
    no_s2, no_s1 = np.zeros_like(tile.s2), np.full_like(tile.s1, np.nan)
    for s2, s1, files, number in (
        (tile.s2, no_s1, (s2_files, []), bands.S2_SEEN),
        (no_s2, tile.s1, ([], s1_files), bands.S1_SEEN),
    ):
        found, seen, tags = mapped(trained, tmp_path, *files)
        valid = bands.s2_seen(s2) if files[0] else bands.s1_seen(s1)
        assert valid.any()
        np.testing.assert_array_equal(seen, np.where(valid, number, bands.IGNORE))
        np.testing.assert_array_equal(found, np.where(valid, by_network(trained, s2, s1), bands.IGNORE))
        assert ("s2_files" in tags, "s1_files" in tags) == (bool(files[0]), bool(files[1]))


def test_under_clouds_and_outside_the_swath_the_other_sensor_decides(any_sensor, tmp_path):
    tile, trained = scene(tmp_path, SIZE, SIZE), with_crop(any_sensor)
    (s2_file,), (s1_file,) = files_of(tmp_path)
    s1 = tile.s1.copy()
    s1[:, 50:] = np.nan
    with rasterio.open(s1_file) as raster:
        place = raster.transform, raster.crs
    radar = write(tmp_path / "swath.tif", np.moveaxis(s1, -1, 0), *place, names=bands.S1_BANDS, nodata=np.nan)
    cloud = np.zeros((SIZE, SIZE), np.uint8)
    cloud[20:40, 30:] = 1
    mask = write(tmp_path / "cloud.tif", cloud, *place)
    found, seen, _ = mapped(trained, tmp_path, [s2_file], [radar], cloud_mask=str(mask))
    s2 = np.where(cloud[..., None] == 1, np.uint16(0), tile.s2)
    wanted = bands.seen_pixels(s2, s1, ("s2", "s1"), ("s2", "s1"))
    assert set(np.unique(wanted)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(seen, np.where(wanted, wanted, bands.IGNORE))
    np.testing.assert_array_equal(found, np.where(wanted, by_network(trained, s2, s1), bands.IGNORE))
    # One that was not trained so maps what both see.
    strict = with_crop(drawn(SMALL_PRESETS["specsar_former"]))
    found, seen, _ = mapped(strict, tmp_path, [s2_file], [radar], cloud_mask=str(mask))
    np.testing.assert_array_equal(found != bands.IGNORE, wanted == BOTH_SEEN)
    assert set(np.unique(seen)) == {BOTH_SEEN, bands.IGNORE}


def arrays(tile) -> tuple[xr.DataArray, xr.DataArray]:
    return tuple(
        xr.DataArray(np.moveaxis(values, -1, 0), dims=("band", "y", "x"), coords={"band": list(names)})
        for values, names in ((tile.s2, bands.S2_BANDS), (tile.s1, bands.S1_BANDS))
    )


def test_arrays_of_one_sensor(any_sensor, tmp_path):
    tile, trained = scene(tmp_path, SIZE, SIZE), with_crop(any_sensor)
    s2, s1 = arrays(tile)
    no_s2, no_s1 = np.zeros_like(tile.s2), np.full_like(tile.s1, np.nan)
    for given, pair in (({"s2": s2}, (tile.s2, no_s1)), ({"s1": s1}, (no_s2, tile.s1))):
        found = Network(trained).predict(**given, sensors_seen=True)
        valid = bands.seen_pixels(*pair, ("s2", "s1"), ("s2", "s1"))
        np.testing.assert_array_equal(found.label, np.where(valid, by_network(trained, *pair), bands.IGNORE))
        np.testing.assert_array_equal(found.sensors_seen, np.where(valid, valid, bands.IGNORE))


def test_arrays_tell_by_which_sensors_a_pixel_was_seen(any_sensor, tmp_path, monkeypatch):
    """As the raster of `predict --sensors_seen`, in chunks too, where no network is needed for it; and only if it is wanted."""
    dask = pytest.importorskip("dask", reason="dask is not installed")
    tile = scene(tmp_path, SIZE, SIZE)
    tile.s2[:, 30:40], tile.s1[:, 36:] = 0, np.nan
    s2, s1 = arrays(tile)
    wanted = bands.seen_pixels(tile.s2, tile.s1, ("s2", "s1"), ("s2", "s1"))
    assert set(np.unique(wanted)) == {0, 1, 2, 3}
    network = Network(with_crop(any_sensor))
    assert set(network.predict(s2, s1)) == {"label", "probability"}
    seen = network.predict(s2, s1, sensors_seen=True).sensors_seen
    assert (seen.dims, seen.dtype, seen.attrs["_FillValue"]) == (("y", "x"), np.uint8, bands.IGNORE)
    named = dict(zip(seen.attrs["flag_values"].tolist(), seen.attrs["flag_meanings"].split(), strict=True))
    assert named == {bands.S2_SEEN: "Sentinel-2", bands.S1_SEEN: "Sentinel-1", BOTH_SEEN: "both"}
    np.testing.assert_array_equal(seen, np.where(wanted, wanted, bands.IGNORE))
    chunks = {"y": 30, "x": (24, 40)}
    for given in ((s2.chunk(chunks), s1.chunk({"y": 31})), (s2, s1.chunk())):
        lazy = network.predict(*given, sensors_seen=True)
        assert dask.is_dask_collection(lazy.sensors_seen) and lazy.sensors_seen.chunks == lazy.label.chunks
        with monkeypatch.context() as patched, dask.config.set(scheduler="synchronous"):
            patched.setattr("specsar_jax.maps.arrays.map_pixels", None)
            np.testing.assert_array_equal(lazy.sensors_seen.compute(), seen)
    # A network that needs both has seen by both whatever it maps.
    strict = Network(with_crop(drawn(SMALL_PRESETS["specsar_former"]))).predict(s2, s1, sensors_seen=True)
    np.testing.assert_array_equal(strict.sensors_seen, np.where(wanted == BOTH_SEEN, BOTH_SEEN, bands.IGNORE))


@pytest.mark.parametrize(
    ("sensor_drop", "given", "said"),
    [
        ((), "s2", "reads s2 and s1, but no --s1 is given; one that is trained with data.sensor_drop works without"),
        ((0.3, 0.0), "s2", "but no --s1 is given"),
        ((0.3, 0.3), "", "and the other neither"),
    ],
)
def test_others_refuse(sensor_drop, given, said, tmp_path):
    tile = scene(tmp_path, SIZE, SIZE)
    trained = with_crop(drawn(SMALL_PRESETS["specsar_former"], sensor_drop=sensor_drop))
    s2, s1 = files_of(tmp_path)
    with pytest.raises(ValueError, match=said):
        mapped(trained, tmp_path, s2 if given == "s2" else [], s1 if given == "s1" else [])
    with pytest.raises(ValueError, match=said.replace("no --s1 is given", "s1 is not given")):
        Network(trained).predict(**({"s2": arrays(tile)[0]} if given else {}))
    assert not (tmp_path / "map.tif").exists()


def test_the_only_sensor_of_a_network_is_asked_for_without_advice_that_does_not_work(tmp_path):
    scene(tmp_path, SIZE, SIZE)
    trained = with_crop(drawn(SMALL_PRESETS["spectral_only"], sensor_drop=(0.3, 0.3)))
    with pytest.raises(ValueError, match=r"the network reads s2, but no --s2 is given$"):
        mapped(trained, tmp_path, [], files_of(tmp_path)[1])


def test_the_card_says_which_sensor_it_may_miss(any_sensor):
    assert "lack `s2` or `s1`: nodata" in card("net", any_sensor, [], "use", "float32")
    assert "nodata then stands" not in card("net", drawn(SMALL_PRESETS["specsar_former"]), [], "use", "float32")


def test_one_that_may_miss_sentinel_1_alone(tmp_path):
    """Beside the swath Sentinel-2 decides; under clouds nothing is mapped."""
    tile = scene(tmp_path, SIZE, SIZE)
    trained = with_crop(drawn(SMALL_PRESETS["specsar_former"], sensor_drop=(0.0, 0.3)))
    (s2_file,), (s1_file,) = files_of(tmp_path)
    with rasterio.open(s1_file) as raster:
        place = raster.transform, raster.crs
    s1 = tile.s1.copy()
    s1[:, 50:] = np.nan
    radar = write(tmp_path / "swath.tif", np.moveaxis(s1, -1, 0), *place, names=bands.S1_BANDS, nodata=np.nan)
    cloud = np.zeros((SIZE, SIZE), np.uint8)
    cloud[20:40, 30:] = 1
    mask = write(tmp_path / "cloud.tif", cloud, *place)
    _, seen, _ = mapped(trained, tmp_path, [s2_file], [radar], cloud_mask=str(mask))
    wanted = np.where(cloud == 1, 0, bands.seen_pixels(tile.s2, s1, ("s2", "s1"), ("s1",)))
    np.testing.assert_array_equal(seen, np.where(wanted, wanted, bands.IGNORE))
    assert set(np.unique(wanted)) == {0, bands.S2_SEEN, BOTH_SEEN}
