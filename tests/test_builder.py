"""The TFDS builder: records hold what the tiles hold, and statistics travel with them."""

import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import write_folder

from tfds_dwplus import DynamicWorldPlusConfig, bands, tile_files
from tfds_dwplus.prepare import prepare
from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.statistics import TileStatistics


def test_records_equal_the_tiles(tile_folder, tmp_path):
    prepare(DynamicWorldPlusConfig(name="mine", tiles=tile_folder, tile_size_px=80), tmp_path / "data")
    builder = tfds.builder_from_directory(tmp_path / "data" / "dynamic_world_plus" / "mine" / "1.0.0")
    source = builder.as_data_source("train")
    records = {record["tile_id"].decode(): record for record in source}
    tiles = {r.tile_id: r for r in tile_files.list_tiles(tile_folder) if r.split == "train"}
    assert records.keys() == tiles.keys()
    statistics = TileStatistics(bands.S2_BANDS, bands.S1_BANDS)
    for tile_id, record in records.items():
        tile = tile_files.read_tile(tile_folder, tiles[tile_id], bands.S2_BANDS)
        statistics.update(tile.s2, tile.s1, tile.label)
        assert record["s2"].shape == (80, 80, 9)
        np.testing.assert_array_equal(record["s2"][:64, :64], tile.s2)
        np.testing.assert_array_equal(record["s1"][:64, :64], tile.s1)
        np.testing.assert_array_equal(record["label"][:64, :64], tile.label)
        # Padding says nothing: no data, no label.
        assert not record["s2"][64:].any() and np.isnan(record["s1"][64:]).all()
        assert (record["label"][64:] == bands.IGNORE).all()
        np.testing.assert_array_equal(record["transform"], tile.transform)
        assert (record["lon"], record["lat"]) == (tile.record.lon, tile.record.lat)
        assert record["crs"].decode() == tile.crs
        assert record["annotator"] == b"simulator" and record["date"] == b"2020-07-01"
    stored = builder.info.metadata["statistics"]
    for sensor in ("s2", "s1"):
        for key, values in statistics.summary()[sensor].items():
            if key not in ("bands", "unit"):
                np.testing.assert_allclose(stored[sensor][key], values, rtol=1e-12)


@pytest.mark.parametrize(
    ("sensor", "other", "channels"), [("s2", "s1", {"s2": 9, "s1": 0}), ("s1", "s2", {"s2": 0, "s1": 2})]
)
def test_tiles_of_one_sensor(tile_folder, tmp_path, capsys, sensor, other, channels):
    record = tile_files.list_tiles(tile_folder)[0]
    whole = tile_files.read_tile(tile_folder, record, bands.S2_BANDS)
    shutil.rmtree(tile_folder / other)
    prepare(DynamicWorldPlusConfig(name="one", tiles=tile_folder, tile_size_px=80), tmp_path / "data")
    assert f"{sensor} only" in capsys.readouterr().out
    builder = tfds.builder_from_directory(tmp_path / "data" / "dynamic_world_plus" / "one" / "1.0.0")
    first = next(r for r in builder.as_data_source("train") if r["tile_id"].decode() == record.tile_id)
    assert {kind: first[kind].shape for kind in channels} == {kind: (80, 80, n) for kind, n in channels.items()}
    np.testing.assert_array_equal(first[sensor][:64, :64], getattr(whole, sensor))
    assert first["crs"].decode() == whole.crs and tuple(first["transform"]) == whole.transform
    metadata = builder.info.metadata
    assert metadata["sensors"] == [sensor] and metadata[f"{other}_bands"] == []
    assert {kind: len(metadata["statistics"][kind]["mean"]) for kind in channels} == channels


def test_simulated_data_set_says_so(tmp_path):
    config = DynamicWorldPlusConfig(name="made_up", tile_size_px=48, simulated_tiles=(("train", 2), ("test", 1)))
    prepare(config, tmp_path)
    builder = tfds.builder_from_directory(tmp_path / "dynamic_world_plus" / "made_up" / "1.0.0")
    assert builder.info.metadata["origin"]["source"].startswith("SIMULATED")
    record = builder.as_data_source("test")[0]
    assert record["annotator"] == b"simulator" and record["tile_id"].startswith(b"simulated_")
    np.testing.assert_array_equal(record["label"], simulated_tile(0, "test", 0, 48).label)


def test_simulated_bands_are_chosen_and_unknown_ones_refused(tmp_path):
    def config(*names: str) -> DynamicWorldPlusConfig:
        some = DynamicWorldPlusConfig(name="some", s2_bands=names, tile_size_px=32, simulated_tiles=(("train", 1),))
        some.description = "two bands"
        return some

    prepare(config("B8", "B2"), tmp_path)
    record = tfds.builder_from_directory(tmp_path / "dynamic_world_plus/some/1.0.0").as_data_source("train")[0]
    whole = simulated_tile(0, "train", 0, 32).s2
    places = [bands.S2_BANDS.index(name) for name in ("B8", "B2")]
    np.testing.assert_array_equal(record["s2"], whole[..., places])
    with pytest.raises(ValueError, match="no simulated band B10"):
        prepare(config("B10"), tmp_path / "other")


def test_registered_name(tmp_path):
    builder = tfds.builder("dynamic_world_plus/simulated", data_dir=tmp_path, file_format="array_record")
    assert builder.info.features["s2"].shape == (128, 128, 9)


def test_prepared_again_is_left_alone_and_another_one_is_refused(tile_folder, tmp_path, capsys):
    config = DynamicWorldPlusConfig(name="mine", tiles=tile_folder, tile_size_px=64)
    prepare(config, tmp_path / "data")
    prepare(config, tmp_path / "data")
    assert "already" in capsys.readouterr().out
    write_folder(tile_folder, {"test": 1}, size_px=32)
    config = DynamicWorldPlusConfig(name="mine", tiles=tile_folder, tile_size_px=32, s2_bands=("B3", "B2"))
    with pytest.raises(ValueError, match="--overwrite"):
        prepare(config, tmp_path / "data")
    prepare(config, tmp_path / "data", overwrite=True)
    builder = tfds.builder_from_directory(tmp_path / "data" / "dynamic_world_plus" / "mine" / "1.0.0")
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"test": 1}
    assert builder.as_data_source("test")[0]["s2"].shape == (32, 32, 2)
    assert builder.info.metadata["s2_bands"] == ["B3", "B2"] and builder.info.metadata["statistics"] is None
