"""Tiles on disk: what is written is read, what does not fit is refused by name."""

import dataclasses

import numpy as np
import pytest
import rasterio

from tfds_dwplus import bands
from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.tiles import tile_files


def test_round_trip(tmp_path):
    tile = simulated_tile(0, "train", 1, 40)
    tile_files.write_tile(tmp_path, tile, bands.S2_BANDS)
    back = tile_files.read_tile(tmp_path, tile.record, bands.S2_BANDS)
    for name in ("s2", "s1", "label"):
        np.testing.assert_array_equal(getattr(back, name), getattr(tile, name))
    assert (back.crs, back.transform, back.record) == (tile.crs, tile.transform, tile.record)


def test_bands_come_by_name_not_by_place(tmp_path):
    tile = simulated_tile(0, "train", 0, 40)
    turned = dataclasses.replace(tile, s2=tile.s2[..., ::-1].copy())
    tile_files.write_tile(
        tmp_path, turned, tuple(f"B{int(b[1:]):02d}" for b in bands.S2_BANDS[::-1])
    )  # B12, B11, B08, ...
    back = tile_files.read_tile(tmp_path, tile.record, ("B2", "B8"))
    np.testing.assert_array_equal(back.s2, tile.s2[..., [0, 6]])


def test_codes_to_class_ids():
    codes = np.array([[0, 1, 9, 10]], np.uint8)
    np.testing.assert_array_equal(tile_files.class_ids(codes, bands.DYNAMIC_WORLD), [[255, 0, 8, 255]])


def test_place_is_taken_from_the_raster_where_the_table_has_none(tmp_path):
    tile = simulated_tile(0, "train", 0, 40)
    tile = dataclasses.replace(tile, crs="EPSG:32631", transform=(10.0, 0.0, 500000.0, 0.0, -10.0, 4649776.0))
    tile_files.write_tile(tmp_path, tile, bands.S2_BANDS)
    back = tile_files.read_tile(tmp_path, tile_files.TileRecord(tile.record.tile_id, "train"), bands.S2_BANDS)
    # 500 km east in zone 31 is its central meridian, 3 degrees east; 4649776 m north is 42 degrees.
    np.testing.assert_allclose((back.record.lon, back.record.lat), (3.0024, 41.998), atol=2e-3)


def test_real_tiles_read(real):
    folder = real / "dwplus_mini"
    records = tile_files.list_tiles(folder)
    assert {record.split for record in records} == {"train", "test"}
    tile = tile_files.read_tile(folder, records[-1], tile_files.s2_band_names(folder, records[-1]))
    with rasterio.open(folder / "label" / f"{records[-1].tile_id}.tif") as raster:
        codes = raster.read(1)
    assert tile.s2.shape == (510, 510, 9)
    assert (tile.label[codes == 0] == bands.IGNORE).all()
    assert (tile.label[codes > 0] == codes[codes > 0] - 1).all()


def test_columns_of_acquire_and_what_is_wrong_in_them(tmp_path):
    def row(**values: str) -> tile_files.TileRecord:
        (tmp_path / "tiles.csv").write_text(f"tile_id,split,{','.join(values)}\na,train,{','.join(values.values())}\n")
        return tile_files.list_tiles(tmp_path)[0]

    assert row(biome="7", s1_scenes="", hemisphere="WH").biome == 7
    assert (row(biome="").biome, row(lon="").annotator, row(s1_scenes="12").s1_scenes) == (0, "", 12)
    with pytest.raises(ValueError, match="biome of tile 'a' is 'tundra', expected a whole number"):
        row(biome="tundra")
    with pytest.raises(ValueError, match="lon of tile 'a' is 'east', expected degrees"):
        row(lon="east")


def test_the_rules_of_the_decoder_hold_for_tiles(tmp_path):
    """A 0 in one band is dark, in all bands nodata; scale and offset of the file count; odd backscatter is no data, and is told."""
    tile = simulated_tile(0, "train", 1, 40)
    s2, s1 = tile.s2.copy(), tile.s1.copy()
    s2[0, :3], s2[1, :3, -1] = 0, 0
    s1[0, 0, 0], s1[0, 1, 1], s1[0, 2, 0] = 41.0, 0.0, -45.0
    tile_files.write_tile(tmp_path, dataclasses.replace(tile, s2=s2, s1=s1), bands.S2_BANDS)
    back = tile_files.read_tile(tmp_path, tile.record, bands.S2_BANDS)
    s2[1, :3, -1] = 1
    np.testing.assert_array_equal(back.s2, s2)
    np.testing.assert_array_equal(np.isnan(back.s1[0, :3]), [[True, False], [False, True], [True, True]])
    assert [note.partition(" pixel ")[0] for note in back.notes] == ["1", "1", "1"]
    path = tmp_path / "s2" / f"{tile.record.tile_id}.tif"
    with rasterio.open(path, "r+") as raster:
        raster.write(np.moveaxis(np.where(s2, s2 + 1000, 0).astype(np.uint16), -1, 0))
        raster.scales, raster.offsets = (1e-4,) * 9, (-0.1,) * 9
    np.testing.assert_array_equal(tile_files.read_tile(tmp_path, tile.record, bands.S2_BANDS).s2, s2)


@pytest.mark.parametrize(("sensor", "nodata"), [("s1", 0.0), ("s1", -9999.0), ("s2", 65535)])
def test_what_a_file_calls_nodata_is_none(tmp_path, sensor, nodata):
    """0 dB and reflectance 6.5 would be learnt otherwise; `predict` leaves them out too."""
    tile = simulated_tile(0, "train", 1, 40)
    tile_files.write_tile(tmp_path, tile, bands.S2_BANDS)
    path = tmp_path / sensor / f"{tile.record.tile_id}.tif"
    with rasterio.open(path) as raster:
        values, profile, names = raster.read(), dict(raster.profile), raster.descriptions
    values[:, :20] = nodata
    with rasterio.open(path, "w", **profile | {"nodata": nodata}) as raster:
        raster.write(values)
        raster.descriptions = names
    back = tile_files.read_tile(tmp_path, tile.record, bands.S2_BANDS)
    none, whole = np.isnan(back.s1).all(axis=-1), (back.s2 == bands.S2_NODATA).all(axis=-1)
    none, whole = (none, whole) if sensor == "s1" else (whole, none)
    assert none[:20].all() and not none[20:].any() and not whole.any()


def test_gamma0_is_told_from_sigma0(tmp_path):
    tile = simulated_tile(0, "train", 1, 40)
    tile_files.write_tile(tmp_path, tile, bands.S2_BANDS)
    assert tile_files.s1_unit(tmp_path, tile.record) == "sigma0 dB"
    with rasterio.open(tmp_path / "s1" / f"{tile.record.tile_id}.tif", "r+") as raster:
        raster.descriptions = ("Gamma0_VV_db", "Gamma0_VH_db")
    assert tile_files.s1_unit(tmp_path, tile.record) == "gamma0 dB"
    np.testing.assert_array_equal(tile_files.read_tile(tmp_path, tile.record, bands.S2_BANDS).s1, tile.s1)
