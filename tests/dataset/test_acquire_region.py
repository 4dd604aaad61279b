"""The command `acquire --region` against an archive on loopback: clear scenes of all seasons, resumed, grown, refused."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import REPOSITORY

pytest.importorskip("shapely", reason="extra 'acquire' or 'region'")

from seasons_archive import LEFT, SCENES, SIZE_PX, TOP, arguments, region_file, served

from tfds_dwplus import acquire, bands
from tfds_dwplus.command_line import run
from tfds_dwplus.tiles.labelling.folder import write_labels
from tfds_dwplus.tiles.labelling.pixels import counted
from tfds_dwplus.tiles.tile_files import list_tiles, read_tile


@pytest.fixture(scope="module")
def seasons(tmp_path_factory):
    with served(tmp_path_factory.mktemp("seasons")) as archive:
        yield archive


@pytest.fixture(scope="module")
def finished(seasons, tmp_path_factory) -> Path:
    """A folder made by one worker."""
    output = tmp_path_factory.mktemp("finished")
    acquire.main(arguments(seasons, output, "--workers", 1))
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".tif", ".csv")
    }


def manifest(folder: Path) -> dict[str, dict]:
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    return {line["tile_id"]: line for line in lines if "tile_id" in line}


def test_each_tile_is_of_one_clear_scene(seasons, finished):
    records = list_tiles(finished)
    assert len(records) == 10 and {record.split for record in records} == {"train", "test"}
    assert {record.s2_date[:7] for record in records} == {"2023-02", "2023-05", "2023-08"}
    assert not (finished / "label").exists() and {record.annotator for record in records} == {""}
    for record in records:
        tile = read_tile(finished, record, ("B2", "B3", "B4"), labels="")
        column, row = int(tile.transform[2] - LEFT) // 10, int(TOP - tile.transform[5]) // 10
        place = np.s_[row : row + 24, column : column + 24]
        assert tile.s2.shape == (24, 24, 3) and tile.crs == "EPSG:32633"
        assert 0 <= row <= SIZE_PX - 24 and 0 <= column <= SIZE_PX - 24
        assert record.date == record.s2_date and record.s1_scenes == 2
        # Not resampled: the tile's pixels are those of the archive.
        values, _, _ = seasons.scenes.raster("s2", f"S2A_{record.s2_date}", "B03")
        np.testing.assert_array_equal(tile.s2[..., 1], values[place])
        cloud = np.zeros((SIZE_PX, SIZE_PX), bool)
        cloud[:, SCENES[record.s2_date][1]] = True
        assert cloud[place].mean() <= 0.1
        with rasterio.open(finished / "cloud" / f"{record.tile_id}.tif") as mask:
            np.testing.assert_array_equal(mask.read(1) != 0, cloud[place])
    with (finished / "tiles.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert row["s2_item"] == f"S2A_{row['date']}" and row["s1_dates"] == "2023-04-01 2023-06-01"


def test_workers_do_not_matter_and_more_tiles_keep_the_first(seasons, finished, tmp_path, capsys):
    acquire.main(arguments(seasons, tmp_path / "two", "--workers", 2))
    assert contents(tmp_path / "two") == contents(finished)
    assert "10 are drawn: 7 train, 3 test" in capsys.readouterr().out
    before = len(seasons.files.requests)
    acquire.main(arguments(seasons, tmp_path / "two"))
    assert len(seasons.files.requests) == before
    acquire.main(arguments(seasons, tmp_path / "two", "--tiles", 14))
    grown, first = contents(tmp_path / "two"), contents(finished)
    assert len(list_tiles(tmp_path / "two")) == 14
    assert all(grown[name] == content for name, content in first.items() if name.endswith(".tif"))


def test_killed_and_run_again(seasons, finished, tmp_path):
    output = tmp_path / "tiles"
    seasons.files.set(wait_s=0.02)
    command = [sys.executable, "-m", "tfds_dwplus.acquire", *arguments(seasons, output, "--workers", 1)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, stdout=-3, stderr=-3)
    try:
        deadline = time.monotonic() + 120
        while len(list(output.glob("s*/*.tif"))) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        seasons.files.set()
    assert len(list(output.glob("s2/*.tif"))) < 10
    acquire.main(arguments(seasons, output))
    assert contents(output) == contents(finished)
    assert not [path for path in output.rglob("*") if "partial" in path.name]


def test_labels_stay_unless_a_network_made_them_of_other_pixels(seasons, finished, tmp_path):
    output = shutil.copytree(finished, tmp_path / "tiles")
    named = "network: one 1a2b3c (me)"
    table = (output / "tiles.csv").read_text().splitlines()
    place = table[0].split(",").index("annotator")
    rows = [table[0], *(",".join([*row.split(",")[:place], named, *row.split(",")[place + 1 :]]) for row in table[1:])]
    (output / "tiles.csv").write_text("\n".join(rows) + "\n")
    for record in list_tiles(output):
        tile = read_tile(output, record, ("B2", "B3", "B4"), labels="")
        codes = np.full(tile.label.shape, 2, np.uint8)
        counts = counted(codes, codes > 0, codes > 9, 9)
        write_labels(output, tile, codes, None, named, {}, counts, bands.DYNAMIC_WORLD)
    lost, corrected = sorted(output.glob("s2/*.tif"))[:2]
    with rasterio.open(output / "label" / corrected.name, "r+") as raster:
        raster.write(np.full((24, 24), 5, np.uint8), 1)
    lost.unlink()
    corrected.unlink()
    acquire.main(arguments(seasons, output))
    assert {record.tile_id: record.annotator for record in list_tiles(output)} == {
        path.stem: named if path != lost else "" for path in sorted(finished.glob("s2/*.tif"), key=lambda p: p.stem)
    } | {lost.stem: ""}
    assert not (output / "label" / lost.name).exists() and len(list(output.glob("label/*"))) == 9


def test_sentinel2_alone(seasons, tmp_path, capsys):
    output = tmp_path / "tiles"
    acquire.main(arguments(seasons, output, "--sensors", "s2", "--s1_collection", "", "--tiles", 4))
    assert sorted(path.name for path in output.iterdir()) == ["cloud", "manifest.jsonl", "s2", "tiles.csv"]
    assert all(record.s1_scenes == 0 and record.s1_orbit == "" for record in list_tiles(output))
    assert "4 done" in capsys.readouterr().out


def test_clouds_refuse_a_scene_and_then_a_tile(seasons, tmp_path, capsys):
    """In winter the least cloudy scene by its metadata is all cloud here; in November there is no other."""
    acquire.main(arguments(seasons, tmp_path / "winter", "--dates", "2023-02-01", "2023-02-20", "--tiles", 3))
    assert {record.date for record in list_tiles(tmp_path / "winter")} == {"2023-02-03"}
    capsys.readouterr()
    with pytest.raises(
        ValueError, match=r"^no tile of 3 has imagery, .*2023-11-05, has 100% cloud, more than 10%; widen --dates"
    ):
        acquire.main(arguments(seasons, tmp_path / "autumn", "--dates", "2023-11-01", "2023-11-20", "--tiles", 3))
    assert "3 skipped, too much cloud" in capsys.readouterr().out
    cloudy = arguments(seasons, tmp_path / "cloudy", "--dates", "2023-11-01", "2023-11-20", "--max_cloud_percent", 100)
    acquire.main([*cloudy, "--tiles", "3"])
    assert len(list_tiles(tmp_path / "cloudy")) == 3


def test_nodata_and_ground_without_imagery(seasons, tmp_path):
    """The region reaches 600 m beyond the scenes: tiles there are skipped, with their reason."""
    wide = region_file(tmp_path / "wide.geojson", -600)
    acquire.main(arguments(seasons, tmp_path / "tiles", "--region", wide, "--tiles", 25))
    entries = manifest(tmp_path / "tiles")
    skipped = [entry for entry in entries.values() if entry["status"] == "skipped"]
    assert len(skipped) > 5 and len(list_tiles(tmp_path / "tiles")) == 25 - len(skipped)
    assert {entry["kind"] for entry in skipped} <= {
        "no Sentinel-2 scene",
        "too much nodata",
        "too much nodata of Sentinel-1",
    }
    for record in list_tiles(tmp_path / "tiles"):
        tile = read_tile(tmp_path / "tiles", record, ("B2", "B3", "B4"), labels="")
        assert (tile.s2[..., 0] == 0).mean() <= 0.1 and np.isnan(tile.s1[..., 0]).mean() <= 0.1


def test_dry_run_tells_what_there_is(seasons, tmp_path, capsys):
    acquire.main(arguments(seasons, tmp_path / "tiles", "--dry_run"))
    said = capsys.readouterr().out
    assert "10 are drawn: 7 train, 3 test" in said and "Sentinel-2, s2, within 15 days of one of the 4 days" in said
    assert (
        "10 tiles have scenes, 0 have none" in said
        and "both sensors, with --s1_orbit descending: 10 of 10 tiles" in said
    )
    assert not (tmp_path / "tiles").exists()


def test_a_folder_of_other_settings_is_refused(seasons, finished, tmp_path):
    for more, message in (
        (("--seed", 1), r"region\.seed 0, and is now to be with 1"),
        (("--tile_size_px", 40), r"region\.size_px 24"),
        (("--dates", "2023-02-01", "2023-12-31"), r"region\.dates \['2023-01-01'"),
        (("--region", region_file(tmp_path / "other.geojson", 90)), r"region\.region_sha256"),
    ):
        with pytest.raises(ValueError, match=message):
            acquire.main(arguments(seasons, finished, *more))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--labels", "pangaea"], "not allowed with argument --region"),
        (["--tiles", "0"], "--tiles is 0, expected 1 to 1000000"),
        (["--dates", "2023-12-31", "2023-01-01"], "expected the first day first"),
        (["--dates", "2023-12-31", "spring"], "expected two days such as"),
        (["--tile_size_px", "5"], "--tile_size_px is 5, expected 16 to"),
        (["--splits", "train=0.5,test=0.4"], "expected shares above 0 that make 1 together"),
        (["--splits", "train"], "expected shares above 0 that make 1 together"),
        (["--inside", "0"], "--inside is 0, expected a share above 0"),
        (["--max_cloud_percent", "-1"], "--max_cloud_percent is -1, expected 0 to 100"),
        (["--max_cloud_percent", "nan"], "--max_cloud_percent is nan, expected 0 to 100"),
        (["--sensors", "s1"], "invalid choice: 's1'"),
        (["--source", "earthengine"], "--region takes STAC APIs only"),
        (["--workbook", "a.xlsx"], "--workbook goes with --labels"),
        (["--tile_size_px", "4000"], "the region holds no tile of 4000 px (40 km)"),
        (["--tile_size_px", "80"], "too few to keep train, test apart; give --splits train=1"),
    ],
)
def test_arguments_are_refused_in_a_line(seasons, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.setattr("sys.argv", ["acquire", *arguments(seasons, tmp_path / "tiles", *more)])
    with pytest.raises(SystemExit) as exit_:
        run(acquire.main)
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert exit_.value.code == 2 and len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "tiles").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ('{"type": "Point", "coordinates": [0, 0]}', "holds a Point, expected Polygon or MultiPolygon"),
        ('{"type": "Polygon", "coordinates": [[[5e5, 4e6], [5e5, 4.1e6], [6e5, 4e6], [5e5, 4e6]]]}', "reproject it"),
        (None, "No such file or directory"),
    ],
)
def test_what_is_no_region_is_refused_in_a_line(seasons, tmp_path, monkeypatch, capsys, content, message):
    path = tmp_path / "area.geojson"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr("sys.argv", ["acquire", *arguments(seasons, tmp_path / "tiles", "--region", path)])
    with pytest.raises(SystemExit):
        run(acquire.main)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert message in line and "area.geojson" in line


def test_options_of_a_region_need_one(tmp_path):
    common = ["--output", str(tmp_path / "tiles"), "--labels", str(tmp_path)]
    with pytest.raises(ValueError, match="--tiles goes with --region, but --labels is given"):
        acquire.main([*common, "--tiles", "5"])
    (tmp_path / "a.geojson").write_text("{}")
    with pytest.raises(ValueError, match="--region needs --dates, as --tiles 500 --dates 2023"):
        acquire.main(["--output", str(tmp_path / "tiles"), "--region", str(tmp_path / "a.geojson"), "--tiles", "5"])
