"""Maps of xarray data: the same as of files, with its CRS, and lazy where the input is."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from small_scenes import UTM, mapped, network, write

import specsar_jax
from specsar_jax.trained import bundle as bundles
from tfds_dwplus import bands
from tfds_dwplus.simulate import simulated_tile

xr = pytest.importorskip("xarray", reason="the extra xarray is not installed")
from specsar_jax.maps import array_scenes, arrays  # noqa: E402

HEIGHT, WIDTH = 150, 180


@pytest.fixture(scope="module")
def trained():
    return network()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Files of a scene with a corner without data, and the same as arrays."""
    folder, tile = tmp_path_factory.mktemp("scene"), simulated_tile(3, "scene", 0, WIDTH)
    s2 = np.moveaxis(tile.s2, -1, 0)[:, :HEIGHT].copy()
    s1 = np.moveaxis(tile.s1, -1, 0)[:, :HEIGHT].copy()
    s2[:, :40, :50] = 0
    s1[1, 100:, 170:] = np.nan
    files = write(folder / "s2.tif", s2, names=bands.S2_BANDS), write(folder / "s1.tif", s1, names=bands.S1_BANDS)
    return files, (array(s2, bands.S2_BANDS), array(s1, bands.S1_BANDS))


def array(values, names, transform=UTM, crs="EPSG:32630"):
    _, height, width = values.shape
    x, _ = transform @ (np.arange(width) + 0.5, np.zeros(width))
    _, y = transform @ (np.zeros(height), np.arange(height) + 0.5)
    place = xr.DataArray(0, attrs={"crs_wkt": rasterio.CRS.from_user_input(crs).to_wkt()})
    return xr.DataArray(
        values, dims=("band", "y", "x"), coords={"band": list(names), "y": y, "x": x, "spatial_ref": place}
    )


def test_arrays_are_mapped_as_files_are(trained, scene, tmp_path):
    files, (s2, s1) = scene
    ids, _ = mapped(trained, [files[0]], [files[1]], tmp_path)
    found = arrays.Network(trained).predict(s2, s1)
    assert (found.label.dims, found.label.dtype) == (("y", "x"), np.uint8)
    assert found.probability.dims == ("class", "y", "x") and tuple(found["class"].values) == bands.CLASSES
    np.testing.assert_array_equal(found.label == 255, ids == 255)
    assert (ids == 255).any() and (found.label.values == ids).mean() > 0.99  # batches of another size
    valid = ids != 255
    np.testing.assert_allclose(found.probability.sum("class").values[valid], 1, atol=1e-5)
    assert np.isnan(found.probability.values[:, ~valid]).all()
    np.testing.assert_array_equal(found.probability.values.argmax(0)[valid], found.label.values[valid])
    np.testing.assert_array_equal(found.x, s2.x)
    assert found.spatial_ref.attrs == s2.spatial_ref.attrs


def test_chunks_are_lazy_and_leave_no_seam(trained, scene):
    dask = pytest.importorskip("dask", reason="dask is not installed")
    s2, s1 = scene[1]
    model = arrays.Network(trained)
    whole = model.predict(s2, s1)
    chunks = {"y": 70, "x": (100, 80)}
    lazy = model.predict(s2.chunk(chunks), s1.chunk({"y": 31}))
    assert dask.is_dask_collection(lazy.label) and lazy.probability.chunks[1:] == ((70, 70, 10), (100, 80))
    with dask.config.set(scheduler="synchronous"):
        found = lazy.compute()
    np.testing.assert_allclose(found.probability, whole.probability, atol=1e-5)
    assert (found.label == whole.label).mean() > 0.999
    # One chunk asks for the windows about it only.
    asked = []
    spy = s2.copy(
        data=dask.array.map_blocks(
            lambda b, block_info: asked.append(block_info[0]["chunk-location"]) or b,
            dask.array.from_array(s2.values, (9, 30, 30)),
            dtype=s2.dtype,
            meta=np.empty((0, 0, 0), s2.dtype),
        )
    )
    with dask.config.set(scheduler="synchronous"):
        lazily = model.predict(spy, s1)  # looks at a sample of all chunks, to decide what the numbers mean
        asked.clear()
        lazily.label[:30, :30].compute()
    assert 0 < len(set(asked)) <= 9


def test_one_chunked_sensor_is_enough(trained, scene):
    dask = pytest.importorskip("dask", reason="dask is not installed")
    s2, s1 = (a[:, :64, 60:124] for a in scene[1])
    model = arrays.Network(trained)
    for given in ((s2.chunk(), s1), (s2, s1.chunk())):
        found = model.predict(*given)
        assert dask.is_dask_collection(found.label)
        xr.testing.assert_equal(found.compute(), model.predict(s2, s1))


def test_a_chunk_asks_for_its_windows_only():
    axis = arrays.windows.plan(1100, 510, 0.25)  # windows from 0, 384 and 588
    part, first = arrays._within(axis, 700, 810)
    assert (first, part) == (384, arrays.windows.Axis(716, 512, axis.overlap, (0, 204)))


def test_a_network_travels(trained, scene):
    s2, s1 = (a[:, :64, 60:124] for a in scene[1])
    model = arrays.Network(trained)
    before = model.predict(s2, s1)
    after = pickle.loads(pickle.dumps(model)).predict(s2, s1)
    xr.testing.assert_equal(before, after)


def test_sentinel1_on_another_grid_is_warped(trained, scene):
    s2, s1 = scene[1]
    aside = array(np.full((2, 80, 80), 0.02, np.float32), ("VV", "VH"), UTM @ rasterio.Affine.scale(2), "EPSG:32630")
    same = s1.copy(data=np.full(s1.shape, 10 * np.log10(0.02), np.float32))
    one, two = (
        arrays.Network(trained).predict(s2, *given, s1_unit=unit)
        for given, unit in (([aside], "power"), ([same], "db"))
    )
    inside = (slice(0, 120), slice(0, 120))
    assert (one.label.values == 255)[:, 161:].all()
    np.testing.assert_array_equal(one.label.values[:80, :100], two.label.values[:80, :100])
    assert (one.label.values[inside] != 255).sum() == 120 * 120 - 40 * 50
    with pytest.raises(ValueError, match="does not overlap"):
        arrays.Network(trained).predict(s2, aside.assign_coords(x=aside.x + 1e6), s1_unit="power")


def test_names_floats_and_offsets(trained, scene):
    s2, s1 = (a[:, :64, 60:124] for a in scene[1])
    plain = arrays.Network(trained).predict(s2, s1)
    unnamed = s2.assign_coords(band=range(1, 10)).assign_attrs(
        long_name=tuple(f"Sentinel-2 B{int(n[1:]):02d}" for n in bands.S2_BANDS)
    )
    raised = (s2.where(s2 > 0) + 1000).astype(np.float32)
    for other, more in ((unnamed, {}), (s2[::-1], {}), (raised, {"s2_offset": 1000})):
        xr.testing.assert_equal(arrays.Network(trained).predict(other, s1, **more).label, plain.label)
    filled = s2.assign_attrs(_FillValue=int(s2[0, 0, 0]))
    assert arrays.Network(trained).predict(filled, s1).label[0, 0] == 255


def test_attributes_say_what_the_numbers_mean(trained, scene):
    """Scale and offset in attributes, or applied by xarray; reflectance; a CRS as stackstac keeps it; a Dataset; one time."""
    s2, s1 = (a[:, :64, 60:124] for a in scene[1])
    model = arrays.Network(trained)
    plain = model.predict(s2, s1)
    stored = s2.astype(np.int32).where(s2 == 0, (s2.astype(np.int32) + 1000) * 2).astype(np.uint16)
    packed = stored.assign_attrs(scale_factor=5e-5, add_offset=-0.1, _FillValue=0)
    decoded = (s2 / 10000).where(s2 > 0).astype(np.float32)
    decoded.encoding |= {"scale_factor": 5e-5, "add_offset": -0.1}
    stackstac = [a.drop_vars("spatial_ref").assign_coords(epsg=32630) for a in (s2, s1)]
    dataset = s2.to_dataset("band")
    timed = s2.expand_dims(time=[np.datetime64("2024-01-01")])
    for other, radar in ((packed, s1), (decoded, s1), stackstac, (dataset, s1), (timed, s1)):
        xr.testing.assert_equal(
            model.predict(other, radar).label.drop_vars(["time", "epsg", "spatial_ref"], errors="ignore"),
            plain.label.drop_vars("spatial_ref"),
        )
    assert model.predict(*stackstac).label.spatial_ref.attrs["crs_wkt"] == rasterio.CRS.from_epsg(32630).to_wkt()
    told = {"s2_offset": "1000", "s2_scale": "5e-05"} | model.trained.provenance()
    assert model.predict(packed, s1).attrs == told and "weights_sha256" in told
    glint = (s2 / 10000).astype(np.float32)
    glint[0, 5, 5] = 2.01
    with pytest.warns(UserWarning, match="taken as reflectance of 0 to 1"):
        found = model.predict(glint, s1).label
    assert (found == plain.label).mean() > 0.99
    with pytest.warns(UserWarning, match="network was trained on sigma0"):
        model.predict(s2, s1.assign_attrs(long_name="gamma0"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s2, s1: (s2, None), "s1 is not given"),
        (lambda s2, s1: (s2[1:], s1), "no band B2 in s2"),
        (lambda s2, s1: (s2.assign_coords(band=range(9)), s1), "9 bands without names"),
        (lambda s2, s1: (s2.rename(y="lat"), s1), "expected band, y, x"),
        (lambda s2, s1: (s2.astype(np.uint8), s1), "s2 is uint8"),
        (lambda s2, s1: (s2.isel(x=[*range(50), *range(80, WIDTH)]), s1), "s2.x is uneven"),
        (
            lambda s2, s1: (s2, s1.assign_coords(x=s1.x + 320).drop_vars("spatial_ref")),
            "different x and y, and no CRS is known of s1",
        ),
        (lambda s2, s1: (s2, 10 ** (s1 / 10)), "--s1_unit power"),
        (lambda s2, s1: (s2, s1[:, :20].drop_vars("spatial_ref")), "no CRS is known of s1"),
    ],
)
def test_wrong_arrays_are_refused(trained, scene, change, message):
    with pytest.raises(ValueError, match=message):
        arrays.Network(trained).predict(*change(*scene[1]))


def test_numpy_is_refused(scene):
    with pytest.raises(ValueError, match=r"s2 is a ndarray, expected an xarray.DataArray"):
        array_scenes.stored(scene[1][0].values, bands.S2_BANDS, "s2")


def test_load_takes_a_workdir_or_a_bundle(trained, scene, tmp_path):
    bundle = tmp_path / "b.safetensors"
    bundles.write_bundle(trained, bundle)
    s2, s1 = (a[:, :64, 60:124] for a in scene[1])
    xr.testing.assert_equal(specsar_jax.load(bundle).predict(s2, s1), arrays.Network(trained).predict(s2, s1))
    with pytest.raises(ValueError, match="no workdir or bundle"):
        specsar_jax.load(str(tmp_path / "none"))


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rioxarray 0.19 under affine 3
def test_rioxarray_opens_and_writes(trained, scene, tmp_path):
    rioxarray = pytest.importorskip("rioxarray", reason="rioxarray is not installed")
    s2, s1 = (rioxarray.open_rasterio(path) for path in scene[0])
    found = arrays.Network(trained).predict(s2, s1)
    np.testing.assert_array_equal(found.label, arrays.Network(trained).predict(*scene[1]).label)
    assert found.rio.crs == "EPSG:32630"
    found.label.rio.to_raster(tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as raster:
        assert (raster.nodata, raster.transform, raster.crs.to_string()) == (255, UTM, "EPSG:32630")
        np.testing.assert_array_equal(raster.read(1), found.label)


def test_import_is_cheap():
    code = "import sys, specsar_jax; print(sorted({'jax', 'numpy', 'xarray', 'rasterio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
