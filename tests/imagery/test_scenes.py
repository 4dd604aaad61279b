"""Scenes as archives give them: bands by name, grids, units, nodata. Answers known beforehand."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy.ndimage import map_coordinates
from small_scenes import SIZE, UTM, mapped, network, ramp, read, refusal, write

from specsar_jax.config import Predict
from specsar_jax.maps import scene_map
from specsar_jax.maps.map_files import Outputs
from tfds_dwplus import bands
from tfds_dwplus.imagery.scenes import Reading, open_scene


def test_bands_are_found_by_name_in_any_order(tmp_path):
    values = np.stack([ramp(low=low) for low in (100, 200, 300)])
    path = write(tmp_path / "s2.tif", values, names=("B08", "red", "cloud probability"))
    blue = write(tmp_path / "x_blue.tif", ramp(low=400))
    s2, _, valid = read([path, str(blue)], s2_bands=("B2", "B4", "B8"))
    np.testing.assert_array_equal(s2[0, 0], [400, 200, 100])
    assert valid.all()


def test_a_stack_may_have_the_name_of_a_mask(tmp_path):
    values = np.stack([ramp(low=low) for low in (7, 100, 200)])
    s2, _, _ = read([write(tmp_path / "scl_study.tif", values, names=("SCL", "B2", "B4"))], s2_bands=("B2", "B4"))
    assert s2[0, 0].tolist() == [100, 200]


def test_bands_by_position_only_when_told_and_said(tmp_path, capsys):
    path = write(tmp_path / "s2.tif", np.stack([ramp(low=100), ramp(low=200)]))
    assert "without a name" in refusal([path], s2_bands=("B4", "B2"))
    told = Reading(s2_bands=("blue", "B04"))
    with open_scene([path], [], ("B4", "B2"), (), told) as scene:
        s2, _, _ = scene.read(slice(0, SIZE), slice(0, SIZE))
    np.testing.assert_array_equal(s2[0, 0], [200, 100])
    assert f"by position, as given: B2 = {path} band 1, B4 = {path} band 2" in capsys.readouterr().err
    told = Reading(s2_bands=("B2",))
    with pytest.raises(ValueError, match=r"2 bands in .*, named B2"), open_scene([path], [], ("B2",), (), told):
        pass


def test_the_finest_of_a_band_makes_the_grid(tmp_path):
    fine = write(tmp_path / "T30_B02_10m.tif", ramp())
    coarse = write(tmp_path / "T30_B02_20m.tif", ramp(SIZE // 2), UTM @ rasterio.Affine.scale(2))
    np.testing.assert_array_equal(read([coarse, fine])[0][..., 0], ramp())
    twice = write(tmp_path / "again_B02.tif", ramp())
    assert "band B2 is in" in refusal([fine, twice])


def test_coarse_bands_are_interpolated_to_ten_metres(tmp_path):
    """A slope of 16 a pixel at 20 m is one of 8 at 10 m, and nodata does not bleed into it."""
    slope = np.broadcast_to(1000 + 16 * np.arange(SIZE // 2, dtype=np.uint16), (SIZE // 2, SIZE // 2)).copy()
    slope[5, 5] = 9
    coarse = write(tmp_path / "B11.tif", slope, UTM @ rasterio.Affine.scale(2), nodata=9)
    paths = [write(tmp_path / "B2.tif", ramp()), coarse]
    s2, _, _ = read(paths, s2_bands=("B2", "B11"))
    at_10m = 1000 + 8 * np.arange(SIZE) - 4
    np.testing.assert_array_equal(s2[0, 1:-1, 1], at_10m[1:-1])
    hole = np.zeros((SIZE, SIZE), bool)
    hole[10:12, 10:12] = True
    np.testing.assert_array_equal(s2[..., 1] == 0, hole)
    assert np.abs(s2[..., 1] - at_10m)[~hole].max() <= 5


def test_backscatter_is_interpolated_in_power(tmp_path):
    """Half a pixel aside, between 0 dB and -20 dB lie -2.97 dB, not -10."""
    s2 = write(tmp_path / "B2.tif", ramp())
    columns = np.where(np.arange(SIZE) % 2, -20, -0.001).astype(np.float32)
    aside = UTM @ rasterio.Affine.translation(0.5, 0)
    s1 = write(tmp_path / "VV.tif", np.broadcast_to(columns, (SIZE, SIZE)), aside)
    decibel = read([s2], [s1], s1_bands=("VV",))[1][:, 1:, 0]
    np.testing.assert_allclose(decibel, 10 * np.log10((10**-0.0001 + 0.01) / 2), atol=1e-3)


def test_another_crs(tmp_path):
    """Power that is a plane in longitude and latitude stays that plane on the UTM grid, window by window."""
    s2 = write(tmp_path / "B2.tif", ramp())
    step, (west, north) = 1e-4, (-3.0010, 37.9500)
    lon, lat = west + step * (np.arange(60) + 0.5), north - step * (np.arange(60) + 0.5)

    def plane(lon, lat):
        return 0.05 + 20 * (lon - west) + 10 * (north - lat)

    power = plane(lon[None], lat[:, None]).astype(np.float32)
    place = rasterio.Affine(step, 0, west, 0, -step, north)
    s1 = write(tmp_path / "VV.tif", power, place, "EPSG:4326")
    x, y = 500005 + 10 * np.arange(SIZE), 4199995 - 10 * np.arange(SIZE)
    grid = [axis.ravel() for axis in np.meshgrid(x, y)]
    wanted = plane(*map(np.array, rasterio.warp.transform("EPSG:32630", "EPSG:4326", *grid))).reshape(SIZE, SIZE)
    with open_scene([s2], [s1], ("B2",), ("VV",), Reading(s1_unit="power")) as scene:
        whole = scene.read(slice(0, SIZE), slice(0, SIZE))[1][..., 0]
        part = scene.read(slice(7, 19), slice(3, 20))[1][..., 0]
    inside = np.isfinite(whole)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(10 ** (whole[inside] / 10), wanted[inside], rtol=1e-4)
    np.testing.assert_allclose(part, whole[7:19, 3:20], atol=1e-4)


@pytest.mark.parametrize("west", [179.99, -180.0])
def test_across_the_antimeridian(tmp_path, west):
    """A scene with the 180th meridian through it, and Sentinel-1 of one side: it is found there, and only there."""
    (x,), (y,) = rasterio.warp.transform("EPSG:4326", "EPSG:32760", [180.0], [-17.0])
    s2 = write(tmp_path / "B2.tif", ramp(), rasterio.Affine(10, 0, x - 120, 0, -10, y + 120), "EPSG:32760")
    place = rasterio.Affine(1e-4, 0, west, 0, -1e-4, -16.99)
    s1 = write(tmp_path / "VV.tif", np.full((200, 100), -12, np.float32), place, "EPSG:4326")
    decibel = read([s2], [s1], s1_bands=("VV",))[1][..., 0]
    east = np.isfinite(decibel[:, 13:]).mean(), np.isfinite(decibel[:, :11]).mean()
    assert east == ((0, 1) if west > 0 else (1, 0))


def test_bright_towns_are_not_linear_power(tmp_path):
    s2 = write(tmp_path / "B2.tif", ramp())
    town = np.random.default_rng(0).normal(1.0, 4.0, (SIZE, SIZE)).astype(np.float32)
    s1 = write(tmp_path / "VV.tif", town)
    np.testing.assert_array_equal(read([s2], [s1], s1_bands=("VV",))[1][..., 0], town)
    noisy_power = np.random.default_rng(0).normal(0.1, 0.05, (SIZE, SIZE)).astype(np.float32)
    assert "--s1_unit power" in refusal([s2], [write(tmp_path / "p" / "VV.tif", noisy_power)], s1_bands=("VV",))


def test_a_map_beside_its_scene_is_no_band_of_it(tmp_path):
    write(tmp_path / "B2.tif", ramp(32))
    for _ in range(2):
        mapped(network("spectral_only", ("B2",)), [tmp_path], [], tmp_path)


@pytest.mark.parametrize("fill", [np.nan, -9999.0, 0.0, -np.inf, -3.0])
def test_nodata_of_backscatter_is_left_out(tmp_path, fill):
    s2 = write(tmp_path / "B2.tif", ramp())
    values = np.full((SIZE, SIZE), -12, np.float32)
    values[:, : SIZE // 2] = fill
    aside = UTM @ rasterio.Affine.translation(0.25, 0)
    s1 = write(tmp_path / "VV.tif", values, aside, nodata=-3.0 if fill == -3.0 else None)
    _, decibel, valid = read([s2], [s1], s1_bands=("VV",))
    np.testing.assert_allclose(decibel[np.isfinite(decibel)], -12, atol=1e-4)
    assert valid[:, SIZE // 2 + 1 :].all() and not valid[:, : SIZE // 2 - 1].any()


def test_nodata_of_sentinel2(tmp_path):
    values = ramp()
    values[0, 0], values[0, 1], values[0, 2] = 0, 65535, 777
    s2, _, valid = read([write(tmp_path / "B2.tif", values, nodata=777)])
    assert s2[0, :3, 0].tolist() == [1, 0, 0]  # another number is declared, so 0 is dark
    assert valid[0, :4].tolist() == [True, False, False, True]
    signed = values.astype(np.int16)
    signed[0, :3] = -9999
    assert not read([write(tmp_path / "b" / "B2.tif", signed)])[2][0, :3].any()
    path = write(tmp_path / "c" / "B2.tif", ramp())
    with rasterio.open(path, "r+") as raster:
        raster.write_mask(np.arange(SIZE * SIZE).reshape(SIZE, SIZE) > 9)
    assert (read([path])[2] == (np.arange(SIZE * SIZE).reshape(SIZE, SIZE) > 9)).all()


@pytest.mark.parametrize(
    ("unit", "stored"),
    [("power", 0.02), ("amplitude", 0.02**0.5), ("scaled", 10 ** ((10 * np.log10(0.02) + 83) / 20))],
)
def test_units_of_backscatter(tmp_path, unit, stored):
    s2 = write(tmp_path / "B2.tif", ramp())
    kind = np.uint16 if unit == "scaled" else np.float32
    s1 = write(tmp_path / "VV.tif", np.full((SIZE, SIZE), stored).astype(kind))
    decibel = read([s2], [s1], s1_bands=("VV",), s1_unit=unit)[1]
    np.testing.assert_allclose(decibel, 10 * np.log10(0.02), atol=0.01)
    assert "--s1_unit" in refusal([s2], [s1], s1_bands=("VV",))


def test_decibels_as_power_are_refused(tmp_path):
    s2 = write(tmp_path / "B2.tif", ramp())
    s1 = write(tmp_path / "VV.tif", np.full((SIZE, SIZE), -12, np.float32))
    assert "Say --s1_unit db" in refusal([s2], [s1], s1_bands=("VV",), s1_unit="power")


def test_scene_over_http(tmp_path):
    from local_archive import files_served  # skips where its servers are not installed

    (tmp_path / "files").mkdir()
    (tmp_path / "control").mkdir()
    write(tmp_path / "files" / "B2.tif", ramp())
    with files_served(tmp_path / "files", tmp_path / "control") as files:
        for address in (f"{files.url}/B2.tif", f"/vsicurl/{files.url}/B2.tif", f"{files.url}/B2.tif?sig=secret"):
            np.testing.assert_array_equal(read([address])[0][..., 0], ramp())
        line = refusal([f"{files.url}/none_B2.tif?sig=secret"])
        assert "cannot open http" in line and "secret" not in line


def test_vrt(tmp_path):
    write(tmp_path / "a.tif", ramp())
    (tmp_path / "s2.vrt").write_text(
        f'<VRTDataset rasterXSize="{SIZE}" rasterYSize="{SIZE}"><SRS>EPSG:32630</SRS>'
        "<GeoTransform>500000, 10, 0, 4200000, 0, -10</GeoTransform>"
        '<VRTRasterBand dataType="UInt16" band="1"><Description>blue</Description><SimpleSource>'
        '<SourceFilename relativeToVRT="1">a.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
    )
    np.testing.assert_array_equal(read([tmp_path / "s2.vrt"])[0][..., 0], ramp())


def test_no_output_over_an_input(tmp_path):
    trained = network("spectral_only", ("B2",))
    s2 = write(tmp_path / "B2.tif", ramp(32))
    before = s2.read_bytes()
    (tmp_path / "link.tif").symlink_to(s2)
    for output in (s2, tmp_path / "link.tif"):
        for given in (s2, tmp_path):
            with pytest.raises(ValueError, match="is an input"):
                scene_map.map_scene(trained, [given], [], Outputs(output), Predict())
    with pytest.raises(ValueError, match="written twice"):
        scene_map.map_scene(trained, [s2], [], Outputs(tmp_path / "x.tif", tmp_path / "x.tif"), Predict())
    assert s2.read_bytes() == before


def test_a_scene_without_a_place_is_mapped_and_said(tmp_path, capsys):
    trained = network("tiny", ("B2",))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        s2 = write(tmp_path / "B2.tif", ramp(32), None, None)
        s1 = write(tmp_path / "s1.tif", np.full((2, 32, 32), -12, np.float32), None, None, ("VV", "VH"))
    ids, profile = mapped(trained, [s2], [s1], tmp_path)
    assert (ids != 255).all() and profile["crs"] is None
    assert "has no CRS and transform" in capsys.readouterr().err


def sampled(path: Path, grid: rasterio.DatasetReader, power: bool = False) -> np.ndarray:
    """Bilinear values of a raster at the pixels of another in the same CRS, by scipy."""
    with rasterio.open(path) as raster:
        values, there = raster.read(1).astype(np.float64), ~raster.transform
    x, y = grid.transform @ np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    column, row = there @ (x, y)
    values = 10 ** (values / 10) if power else values
    found = map_coordinates(values, [row - 0.5, column - 0.5], order=1, cval=np.nan)
    return 10 * np.log10(found) if power else found


@pytest.mark.parametrize("level", ["s2_l1c", "s2_l2a"])
def test_scene_pakistan_from_its_raw_files(real, tmp_path, level):
    """Ten, twenty and sixty metres, and Sentinel-1 on a grid of its own: the map lies on the 10 m grid of Sentinel-2."""
    place = real / "scene_pakistan"
    s2 = next((place / level).glob("20200604*"))
    s1 = next((place / "s1").glob("*20200607*"))
    names = ("B1", *bands.S2_BANDS)
    ids, profile = mapped(network("tiny", names), [s2], [s1], tmp_path)
    with rasterio.open(s2 / "B2.tif") as grid, open_scene([s2], [s1], names, bands.S1_BANDS) as scene:
        assert (profile["crs"], profile["transform"], ids.shape) == (grid.crs, grid.transform, grid.shape)
        numbers, decibel, valid = scene.read(slice(0, 264), slice(0, 264))
        assert ((ids != 255) == valid).all() and valid.mean() > 0.97  # Sentinel-1 ends some pixels earlier
        for band, found in [
            *zip(names, np.moveaxis(numbers, -1, 0), strict=True),
            *zip(("VV", "VH"), np.moveaxis(decibel, -1, 0), strict=True),
        ]:
            power = band in bands.S1_BANDS
            wanted = sampled((s1 if power else s2) / f"{band}.tif", grid, power)
            both = np.isfinite(wanted) & valid
            assert both.mean() > 0.9
            np.testing.assert_allclose(found[both], wanted[both], atol=0.01 if power else 1.0)


def test_scene_laos_with_a_spectral_network(real, tmp_path):
    """No Sentinel-1, bands at 10, 20 and 60 m, a cloud mask of its own: a part of the scene."""
    scene = next((real / "scene_laos").iterdir())
    for path in scene.glob("*.tif"):
        with rasterio.open(path) as raster:
            size = 240 * 10 // round(raster.res[0])
            window = rasterio.windows.Window(0, 0, size, size)
            kept = raster.read(window=window)
            write(tmp_path / path.name, kept, raster.transform, raster.crs)
    (tmp_path / "out").mkdir()
    trained = network("spectral_only")
    ids, profile = mapped(trained, [tmp_path], [], tmp_path / "out", cloud_mask=str(tmp_path / "cloud_mask.tif"))
    with rasterio.open(tmp_path / "B02.tif") as grid:
        assert (profile["crs"], profile["transform"], ids.shape) == (grid.crs, grid.transform, (240, 240))
    assert (ids != 255).mean() > 0.98


def test_gamma0_for_a_network_of_sigma0_is_told(tmp_path, capsys):
    s2 = write(tmp_path / "B2.tif", ramp(32))
    s1 = write(tmp_path / "s1.tif", np.full((2, 32, 32), -12, np.float32), names=("Gamma0_VV_db", "Gamma0_VH_db"))
    mapped(network("tiny", ("B2",)), [s2], [s1], tmp_path)
    assert "is gamma0, but the network was trained on sigma0" in capsys.readouterr().err
    with rasterio.open(tmp_path / "map.tif") as raster:
        assert raster.tags()["s1_quantity"] == "gamma0"


def test_odd_backscatter_is_no_data_and_is_counted(tmp_path, capsys):
    """One pixel above 40 dB and one of border noise, in a scene that is read in overlapping windows: each is counted once."""
    s2 = write(tmp_path / "B2.tif", ramp(96))
    values = np.full((2, 96, 96), -12, np.float32)
    values[1, 50, 50], values[0, 20, 20] = 41, -45
    s1 = write(tmp_path / "s1.tif", values, names=("VV", "VH"))
    ids, _ = mapped(network("tiny", ("B2",)), [s2], [s1], tmp_path)
    assert (ids == 255).sum() == 2 and ids[50, 50] == ids[20, 20] == 255
    said = capsys.readouterr().err
    assert "1 pixel of Sentinel-1 above 40 dB" in said and "1 pixel of Sentinel-1 below -40 dB in VV" in said


def test_a_band_is_skipped_and_no_band_is_left_out(tmp_path):
    values = np.stack([ramp(low=low) for low in (100, 200, 300)])
    path = write(tmp_path / "s2.tif", values)
    told = Reading(s2_bands=("-", "B2", "B4"))
    with open_scene([path], [], ("B2", "B4"), (), told) as scene:
        s2 = scene.read(slice(0, SIZE), slice(0, SIZE))[0]
    np.testing.assert_array_equal(s2[0, 0], [200, 300])
    scl_first = write(tmp_path / "scl_first.tif", values, names=("SCL", "B2", "B4"))
    np.testing.assert_array_equal(read([scl_first], s2_bands=("B2", "B4"))[0][0, 0], [200, 300])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_ground_control_points_alone_are_a_line(tmp_path):
    path = write(tmp_path / "B2.tif", ramp(), None, None)
    at = [(0, 0), (9, 9), (0, 9)]
    corners = [rasterio.control.GroundControlPoint(row, column, 1 + column, 2 - row) for row, column in at]
    with rasterio.open(path, "r+") as raster:
        raster.gcps = corners, rasterio.CRS.from_epsg(4326)
    assert "ground control points alone" in refusal([path])


@pytest.mark.parametrize(
    ("name", "values", "cloudy"),
    [
        ("scl_study/clouds.tif", (0, 1), "that are not 0"),
        ("clouds_SCL.tif", (0, 1), "that are not 0"),
        ("T43RCP_SCL_20m.tif", (4, 9), "of 3, 8, 9, 10"),
    ],
)
def test_a_mask_is_an_scl_by_its_name_and_its_values(tmp_path, capsys, name, values, cloudy):
    s2 = write(tmp_path / "B2.tif", ramp())
    mask = np.full((SIZE, SIZE // 2), values[0], np.uint8)
    mask[:6] = values[1]
    valid = read([s2], cloud_mask=str(write(tmp_path / name, mask, nodata=255)))[2]
    np.testing.assert_array_equal(valid[:6], np.arange(SIZE)[None] >= SIZE // 2 + np.zeros((6, 1)))
    said = capsys.readouterr().err
    assert cloudy in said and "covers only a part" in said and "has nodata 255" in said
