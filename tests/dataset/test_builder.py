"""The TFDS builder: records hold what the tiles hold, and statistics travel with them."""

import csv
import dataclasses
import fcntl
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tensorflow_datasets as tfds
from conftest import REPOSITORY, refused, write_folder

from tfds_dwplus import DynamicWorldPlusConfig, bands, dynamic_world_plus_dataset_builder
from tfds_dwplus.files import workplaces
from tfds_dwplus.prepare import main, prepare
from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.tiles import tile_files
from tfds_dwplus.tiles.prepared import open_dataset
from tfds_dwplus.tiles.records import squares
from tfds_dwplus.tiles.statistics import TileStatistics


def test_records_equal_the_tiles(tile_folder, tmp_path):
    prepare(DynamicWorldPlusConfig(name="mine", tiles=tile_folder, tile_size_px=80), tmp_path / "data")
    builder = tfds.builder_from_directory(tmp_path / "data" / "dynamic_world_plus" / "mine" / "1.0.0")
    source = builder.as_data_source("train")
    records = {record["tile_id"].decode(): record for record in source}
    tiles = {r.tile_id: r for r in tile_files.list_tiles(tile_folder) if r.split == "train"}
    assert records.keys() == tiles.keys()
    statistics = TileStatistics(bands.S2_BANDS, bands.S1_BANDS, bands.DYNAMIC_WORLD)
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


def acquired(folder: Path, rows: list[dict[str, str]]) -> Path:
    """A folder of one tile a row, with some of the columns that `acquire` writes."""
    write_folder(folder, {"train": len(rows)}, size_px=32)
    names = sorted(path.stem for path in (folder / "label").iterdir())
    with (folder / "tiles.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in dataclasses.fields(tile_files.TileRecord)])
        table.writeheader()
        table.writerows({"tile_id": name, "split": "train"} | row for name, row in zip(names, rows, strict=True))
    return folder


def records_of(data_dir: Path, name: str, split: str) -> dict[str, dict]:
    builder = tfds.builder_from_directory(data_dir / "dynamic_world_plus" / name / "1.0.0")
    return {record["tile_id"].decode(): record for record in builder.as_data_source(split)}


FROM_EAST = {"hemisphere": "EH", "biome": "4", "annotator": "expert", "s2_item": "S2A_x", "s1_scenes": "31"}
PLACE = {"lon": "10.5", "lat": "50.5", "s1_dates": "2019-01-01 2019-01-13", "s1_unit": "gamma0 dB", "s2_level": "L2A"}


def test_what_acquire_knows_travels_with_the_record(tmp_path):
    tiles = acquired(tmp_path / "tiles", [FROM_EAST | PLACE, FROM_EAST | PLACE | {"biome": "", "s1_scenes": ""}])
    prepare(DynamicWorldPlusConfig(name="mine", tiles=tiles, tile_size_px=32), tmp_path)
    one, other = (record for _, record in sorted(records_of(tmp_path, "mine", "train").items()))
    assert (one["hemisphere"], one["s2_item"], one["s1_dates"]) == (b"EH", b"S2A_x", b"2019-01-01 2019-01-13")
    assert (one["biome"], one["s1_scenes"], one["lon"]) == (4, 31, 10.5)
    assert (other["biome"], other["s1_scenes"]) == (0, 0)
    builder = tfds.builder_from_directory(tmp_path / "dynamic_world_plus" / "mine" / "1.0.0")
    said = {column: builder.info.metadata[column] for column in tile_files.PROVENANCE}
    assert said == {"s2_level": "L2A", "s1_source": "", "s1_unit": "gamma0 dB", "s1_orbit": "", "s1_mean": ""}
    assert builder.info.metadata["statistics"]["s1"]["unit"] == "gamma0 dB"


@pytest.mark.parametrize("column", tile_files.PROVENANCE)
def test_what_cannot_be_mixed_is_refused(tmp_path, column):
    tiles = acquired(tmp_path / "tiles", [{column: "one"}, {column: "other"}])
    with pytest.raises(ValueError, match=f"mixes {column} 'one' .* and 'other' .*one data set holds one"):
        prepare(DynamicWorldPlusConfig(name="mine", tiles=tiles, tile_size_px=32), tmp_path / "data")
    assert not (tmp_path / "data" / "dynamic_world_plus").exists()


def test_splits_votes_and_subsets(tmp_path):
    rows = [{"lon": f"{7 * n}.5", "lat": "0.5", "annotator": "expert" if n % 3 else "non_expert"} for n in range(12)]
    rows += [{"split": "test", "annotator": "held_out", "lon": "1", "lat": "1"}] * 2
    tiles = acquired(tmp_path / "tiles", rows)
    shutil.copytree(tiles / "label", tiles / "label_strict")
    for path in (tiles / "label_strict").iterdir():
        with rasterio.open(path, "r+") as raster:
            raster.write(np.full((1, 32, 32), 9, np.uint8))

    def packed(name: str, **options) -> dict[str, dict[str, dict]]:
        prepare(DynamicWorldPlusConfig(name=name, tiles=tiles, tile_size_px=32, **options), tmp_path)
        builder = tfds.builder_from_directory(tmp_path / "dynamic_world_plus" / name / "1.0.0")
        return {split: records_of(tmp_path, name, split) for split in builder.info.splits}

    plain, cut = packed("plain"), packed("cut", validation_fraction=0.4, vote="strict", annotators=("expert",))
    assert {split: len(records) for split, records in plain.items()} == {"train": 12, "test": 2}
    assert len(cut["train"]) + len(cut["validation"]) == 8 and len(cut["test"]) == 2
    assert all(record["annotator"] == b"expert" for split in ("train", "validation") for record in cut[split].values())
    for tile_id, record in cut["test"].items():
        assert (record["label"] == 8).all() and not (plain["test"][tile_id]["label"] == 8).all()
    for tile_id, record in cut["train"].items():
        np.testing.assert_array_equal(record["label"], plain["train"][tile_id]["label"])
    with pytest.raises(ValueError, match=r"label_majority.*no such file"):
        packed("no_such_vote", vote="majority")


def test_larger_tiles_are_cut_into_squares_that_lie_where_they_lay(tile_folder, tmp_path):
    prepare(DynamicWorldPlusConfig(name="cut", tiles=tile_folder, tile_size_px=40, cut=True), tmp_path / "data")
    records = records_of(tmp_path / "data", "cut", "test")
    assert len(records) == 2 * 4
    for whole in tile_files.list_tiles(tile_folder):
        if whole.split != "test":
            continue
        tile = tile_files.read_tile(tile_folder, whole, bands.S2_BANDS)
        last = records[f"{whole.tile_id}_1_1"]
        np.testing.assert_array_equal(last["s2"][:24, :24], tile.s2[40:, 40:])
        np.testing.assert_array_equal(records[f"{whole.tile_id}_0_1"]["label"][:40, :24], tile.label[:40, 40:])
        assert not last["s2"][24:].any() and (last["label"][:, 24:] == bands.IGNORE).all()
        x, y = rasterio.transform.xy(rasterio.Affine(*tile.transform), 40, 40, offset="ul")
        assert (last["transform"][2], last["transform"][5]) == (x, y)


def test_squares_cover_a_tile_once():
    tile = dataclasses.replace(simulated_tile(0, "train", 0, 50), label=np.zeros((50, 50), np.uint8))
    parts = list(squares(tile, 20))
    assert len(parts) == 9 and sum(part.label.size for part in parts) == 2500


def test_many_shards_give_the_statistics_of_the_whole(tile_folder, tmp_path, monkeypatch):
    config = DynamicWorldPlusConfig(name="mine", tiles=tile_folder, tile_size_px=64)
    prepare(config, tmp_path / "one")
    monkeypatch.setattr(dynamic_world_plus_dataset_builder, "SHARD_BYTES", 1)
    prepare(config, tmp_path / "many")
    one, many = (
        tfds.builder_from_directory(tmp_path / folder / "dynamic_world_plus" / "mine" / "1.0.0")
        for folder in ("one", "many")
    )
    assert (one.info.splits["train"].num_shards, many.info.splits["train"].num_shards) == (1, 4)
    for sensor in ("s2", "s1"):
        for key in ("mean", "std", "p1", "p99", "pixels"):
            np.testing.assert_allclose(
                many.info.metadata["statistics"][sensor][key], one.info.metadata["statistics"][sensor][key], rtol=1e-9
            )
    for left, right in zip(one.as_data_source("train"), many.as_data_source("train"), strict=True):
        assert left["tile_id"] == right["tile_id"]
        np.testing.assert_array_equal(left["s1"], right["s1"])


def test_memory_does_not_grow_with_the_tiles(tmp_path):
    """Twelve more tiles are 84 MB of pixels; the first few take some for good."""
    one = write_folder(tmp_path / "one", {"train": 1}, size_px=510)
    (tile_id,) = (path.stem for path in (one / "label").iterdir())
    header, row = (one / "tiles.csv").read_text().splitlines()
    peaks_kb = []
    for count in (4, 16):
        tiles = tmp_path / f"tiles_{count}"
        for kind in ("s2", "s1", "label"):
            (tiles / kind).mkdir(parents=True)
            for index in range(count):
                (tiles / kind / f"t{index}.tif").hardlink_to(one / kind / f"{tile_id}.tif")
        rows = (row.replace(tile_id, f"t{index}", 1) for index in range(count))
        (tiles / "tiles.csv").write_text("\n".join([header, *rows]))
        arguments = ["--tiles", str(tiles), "--name", f"of_{count}", "--data_dir", str(tmp_path / "data")]
        code = f"from tfds_dwplus.prepare import main; main({arguments}); print(open('/proc/self/status').read())"
        done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
        peaks_kb.append(int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1]))
    assert peaks_kb[1] < peaks_kb[0] + 30_000, peaks_kb


def test_prepare_killed_half_way_leaves_nothing_that_loads_and_runs_again(tmp_path):
    arguments = ["--simulated", "--name", "mine", "--data_dir", str(tmp_path / "data"), "--tile_size_px", "128"]
    arguments += ["--tiles_per_split", "train=4,test=500"]
    command = [sys.executable, "-m", "tfds_dwplus.prepare", *arguments]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = tmp_path / "data" / "dynamic_world_plus"
    for _ in range(600):
        if list(folder.glob("**/*.part.npz")):  # one shard is done, the next is not
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert [path.name for path in folder.iterdir()] == [".preparing_mine"]
    with pytest.raises(Exception, match="mine"):
        tfds.data_source("dynamic_world_plus/mine", data_dir=tmp_path / "data", split="train")
    prepare(DynamicWorldPlusConfig(name="mine", tile_size_px=32, simulated_tiles=(("train", 2),)), tmp_path / "data")
    assert [path.name for path in folder.iterdir()] == ["mine"]
    assert len(tfds.data_source("dynamic_world_plus/mine", data_dir=tmp_path / "data", split="train")) == 2


def test_a_failed_overwrite_keeps_what_was_there(tile_folder, tmp_path):
    config = DynamicWorldPlusConfig(name="mine", tiles=tile_folder, tile_size_px=64)
    prepare(config, tmp_path / "data")
    before = records_of(tmp_path / "data", "mine", "test")
    sorted((tile_folder / "s1").iterdir())[0].unlink()
    with pytest.raises(ValueError, match="no such file"):
        prepare(config, tmp_path / "data", overwrite=True)
    assert records_of(tmp_path / "data", "mine", "test").keys() == before.keys()
    assert [path.name for path in (tmp_path / "data" / "dynamic_world_plus").iterdir()] == ["mine"]


def test_a_full_disk_is_told_in_one_line(tmp_path):
    """A limit on the size of files stands for the end of the disk."""
    arguments = f"--simulated --name mine --data_dir {tmp_path} --tile_size_px 128 --tiles_per_split train=2"
    command = f"ulimit -f 100; {sys.executable} -m tfds_dwplus.prepare {arguments}"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    line = refused(done)
    assert "cannot write" in line and "File too large" in line
    assert not list(tmp_path.iterdir())


def test_one_process_at_a_time(tmp_path):
    config = DynamicWorldPlusConfig(name="mine", tile_size_px=32, simulated_tiles=(("train", 1),))
    folder = tmp_path / "dynamic_world_plus" / ".preparing_mine"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"another process is at work on .*mine"):
            prepare(config, tmp_path)
        assert (folder / "lock").exists()
    prepare(config, tmp_path)
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--validation_fraction", "1"], "--validation_fraction is 1, expected a share"),
        (["--validation_fraction", "0.5"], "only; give another fraction or --seed"),
        (["--biomes", "tundra"], "--biomes is 'tundra', expected numbers"),
        (["--biomes", "3"], "whose biomes are: none given"),
        (["--annotators", "me"], "--annotators me: no tile has it in tiles.csv, whose annotators are: simulator"),
        (["--vote", "strict"], "no tile in tiles.csv has the annotator held_out"),
        (["--tile_size_px", "0"], "--tile_size_px is 0, expected a positive number"),
        (["--tile_size_px", "40"], "give --tile_size_px 64, or --cut"),
        (["--name", ".x"], "--name is '.x', expected"),
    ],
)
def test_options_that_do_not_fit_are_refused(tile_folder, tmp_path, arguments, message):
    with (tile_folder / "tiles.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (tile_folder / "tiles.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(row | {"lon": "1", "lat": "1"} for row in rows)
    common = ["--tiles", str(tile_folder), "--name", "mine", "--data_dir", str(tmp_path / "data")]
    with pytest.raises(ValueError, match=re.escape(message)):
        main([*common, *arguments])
    assert not list((tmp_path / "data").glob("*"))


def test_beam_that_is_not_there_is_named(tile_folder, tmp_path):
    if importlib.util.find_spec("apache_beam"):
        pytest.skip("Apache Beam is there")
    with pytest.raises(ValueError, match=r"pip install 'specsar_jax\[beam\]'"):
        prepare(DynamicWorldPlusConfig(name="mine", tiles=tile_folder), tmp_path, beam_args="--runner=DirectRunner")


@pytest.mark.filterwarnings("ignore")  # Beam's own
def test_beam_gives_the_same_files_and_tells_of_a_bad_tile(tile_folder, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="the extra beam")
    monkeypatch.setattr(dynamic_world_plus_dataset_builder, "SHARD_BYTES", 1)
    config = DynamicWorldPlusConfig(name="mine", tiles=tile_folder, tile_size_px=64)
    prepare(config, tmp_path / "here")
    prepare(config, tmp_path / "beam", beam_args="--runner=DirectRunner")
    here = sorted(path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*") if path.is_file())
    there = sorted(path.relative_to(tmp_path / "beam") for path in (tmp_path / "beam").rglob("*") if path.is_file())
    assert here == there and sum("train" in path.name for path in here) == 4
    for path in here:
        assert (tmp_path / "here" / path).read_bytes() == (tmp_path / "beam" / path).read_bytes(), path
    sorted((tile_folder / "s1").iterdir())[0].unlink()
    with pytest.raises(ValueError, match="no such file"):
        prepare(config, tmp_path / "other", beam_args="--runner=DirectRunner")
    assert not list((tmp_path / "other").rglob("*.json"))


def test_a_killed_overwrite_is_found_again(tmp_path, monkeypatch):
    """Where folders cannot be exchanged in one step: killed between the two renames. Whoever reads the data set puts it back."""

    class Killed(BaseException):
        pass

    config = DynamicWorldPlusConfig(name="mine", tile_size_px=32, simulated_tiles=(("train", 1),))
    prepare(config, tmp_path)
    before = records_of(tmp_path, "mine", "train")
    other = dataclasses.replace(config, simulation_seed=1)
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        done = rename(path, target)
        if target.parent.name == workplaces.ASIDE:
            raise Killed
        return done

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(workplaces, "_exchanged", lambda *_: False)
        patch.setattr(workplaces, "_clear", lambda *_: None)  # a killed process clears nothing
        patch.setattr(Path, "rename", killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        prepare(other, tmp_path, overwrite=True)
    folder = tmp_path / "dynamic_world_plus"
    assert not list(folder.glob("mine/*"))
    assert open_dataset(tmp_path, "mine").info.splits["train"].num_examples == 1
    assert records_of(tmp_path, "mine", "train").keys() == before.keys()
    prepare(other, tmp_path, overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["mine"]
    assert open_dataset(tmp_path, "mine").info.metadata["origin"] == other.origin()
