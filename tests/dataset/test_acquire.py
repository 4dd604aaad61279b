"""The command `acquire` from labels on disk and an archive on loopback: what is written, resumed, retried, refused."""

import csv
import dataclasses
import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import REPOSITORY
from local_archive import Archive, add_backscatter, add_simulated, files_served, stac, stac_served

from tfds_dwplus import acquire, bands
from tfds_dwplus.command_line import run
from tfds_dwplus.imagery.acquisitions import Wanted
from tfds_dwplus.imagery.grids import Grid
from tfds_dwplus.imagery.stac import stac_imagery
from tfds_dwplus.labels.published import survey
from tfds_dwplus.tiles import acquiring
from tfds_dwplus.tiles.manifest import open_manifest
from tfds_dwplus.tiles.tile_files import list_tiles, read_tile

NAMES = {
    "north": "Experts/EH/4/dw_17.5_42.4-20190505.tif",
    "south": "Non_expert/WorkForce/EH/12/dw_147.0_-35.2-20190505.tif",
    "held": "validation/consensus/dw_17.51_42.41-20190505.tif",
    "lonely": "Experts/EH/4/dw_18.9_42.4-20190505.tif",
}
"""Two tiles in two zones, a held-out one, and one without a Sentinel-1 scene."""

IDS = ["dw_147.0_-35.2-20190505_non_expert", "dw_17.51_42.41-20190505", "dw_17.5_42.4-20190505"]
"""Of those that can be acquired, sorted."""

PLACES = {
    "north": ("EPSG:32633", 704000.0, 4701000.0),
    "south": ("EPSG:32755", 499000.0, 6101000.0),
    "held": ("EPSG:32633", 704500.0, 4701500.0),
    "lonely": ("EPSG:32633", 804000.0, 4701000.0),
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The archive, its API's URL, and a finished folder, made by one worker."""
    folder = tmp_path_factory.mktemp("archive")
    labels = tmp_path_factory.mktemp("labels") / "source"
    for name in NAMES:
        write_label(labels, name)
    for vote in ("strict", "majority"):
        write_label(labels, "held", f"validation/{vote}/dw_17.51_42.41-20190505.tif")
    with files_served(folder, tmp_path_factory.mktemp("control")) as files:
        scenes = Archive(folder, files)
        baseline = {"s2:processing_baseline": "02.08"}
        for index, (crs, left, top) in enumerate(PLACES[name] for name in ("north", "south", "lonely")):
            add_simulated(scenes, index, crs, left + 1500, top - 1500, **baseline)
        for place in ("north", "south"):
            crs, left, top = PLACES[place]
            for date in ("2019-04-20", "2019-05-14"):
                add_backscatter(scenes, f"{place}_{date}_a", f"{date}T05:00:00Z", crs, left + 1503, top - 1498)
        with stac_served(scenes.items, tmp_path_factory.mktemp("api")) as url:
            finished = tmp_path_factory.mktemp("finished")
            acquire.main([*arguments(labels, url), "--output", str(finished), "--workers", "1"])
            yield dataclasses.make_dataclass("Local", ["labels", "url", "files", "finished"])(
                labels, url, files, finished
            )


def write_label(labels: Path, place: str, name: str = "") -> None:
    crs, left, top = PLACES[place]
    path = labels / (name or NAMES[place])
    path.parent.mkdir(parents=True, exist_ok=True)
    codes = np.random.default_rng(5).integers(0, 11, (510, 510)).astype(np.uint8)
    transform = rasterio.Affine(10, 0, left, 0, -10, top)
    with rasterio.open(
        path, "w", driver="GTiff", height=510, width=510, count=1, dtype="uint8", crs=crs, transform=transform
    ) as raster:
        raster.write(codes, 1)


def arguments(labels: Path, url: str) -> list[str]:
    s1 = ["--s1_collection", "simulated-s1", "--s1_unit", "power", "--s1_quantity", "sigma0"]
    return ["--labels", str(labels), "--stac_url", url, "--s2_collection", "simulated-s2", *s1, "--retries", "0"]


def rasters(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.tif")}


def manifest(folder: Path) -> dict[str, dict]:
    """The last entry of each tile."""
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    return {line["tile_id"]: line for line in lines[1:]}


def check_as_finished(folder: Path, finished: Path) -> None:
    assert rasters(folder) == rasters(finished)
    assert (folder / "tiles.csv").read_bytes() == (finished / "tiles.csv").read_bytes()
    assert {tile: e["status"] for tile, e in manifest(folder).items()} == {
        tile: e["status"] for tile, e in manifest(finished).items()
    }
    assert sorted(path.name for path in folder.rglob("*")) == sorted(path.name for path in finished.rglob("*"))


def started(archive, output: Path, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tfds_dwplus.acquire",
            *arguments(archive.labels, archive.url),
            "--output",
            str(output),
            *more,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_folder_is_one_of_tiles_with_imagery(archive):
    folder = archive.finished
    records = {record.tile_id: record for record in list_tiles(folder)}
    assert list(records) == IDS
    labels = {label.tile_id: label for label in survey([archive.labels]).tiles}
    for name, tile_id in zip(("south", "held", "north"), IDS, strict=True):
        crs, left, top = PLACES[name]
        grid = Grid.parse(crs, (10.0, 0.0, left, 0.0, -10.0, top), 510, 510)
        tile = read_tile(folder, records[tile_id], bands.S2_BANDS)
        expected = stac_imagery(
            labels[tile_id], grid, Wanted(), stac(archive.url, "simulated-s2", "simulated-s1", "power")
        )
        np.testing.assert_array_equal(tile.s2, expected.s2)
        np.testing.assert_array_equal(tile.s1, expected.s1)
        assert (tile.crs, tile.transform) == (crs, tuple(grid.transform)[:6])
        with (
            rasterio.open(archive.labels / NAMES[name]) as raster,
            rasterio.open(folder / f"label/{tile_id}.tif") as copy,
        ):
            np.testing.assert_array_equal(copy.read(1), raster.read(1))
    assert sorted(path.parent.name for path in folder.glob("label_*/*")) == [
        "label_consensus",
        "label_majority",
        "label_strict",
    ]


def test_table_and_manifest_say_what_it_is_made_from(archive):
    with (archive.finished / "tiles.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[2] == {
        "tile_id": "dw_17.5_42.4-20190505",
        "split": "train",
        "lon": "17.5",
        "lat": "42.4",
        "date": "2019-05-05",
        "annotator": "expert",
        "height": "510",
        "width": "510",
        "hemisphere": "EH",
        "biome": "4",
        "s2_item": "S2A_0",
        "s2_baseline": "02.08",
        "s2_offset": "0",
        "s2_date": "2019-05-05",
        "s2_level": "L2A",
        "s1_source": "simulated-s1 sigma0",
        "s1_unit": "sigma0 dB",
        "s1_orbit": "descending",
        "s1_mean": "dB",
        "s1_scenes": "2",
        "s1_dates": "2019-04-20 2019-05-14",
        "s1_items": "north_2019-04-20_a north_2019-05-14_a",
    }
    assert [(row["split"], row["annotator"]) for row in rows[:2]] == [("train", "non_expert"), ("test", "held_out")]
    lonely = manifest(archive.finished)["dw_18.9_42.4-20190505"]
    assert lonely["status"] == "skipped" and "0 descending Sentinel-1 scenes" in lonely["reason"]


def test_two_workers_make_the_same_folder(archive, tmp_path, capsys):
    acquire.main([*arguments(archive.labels, archive.url), "--output", str(tmp_path / "two"), "--workers", "2"])
    check_as_finished(tmp_path / "two", archive.finished)
    assert "4 tiles: 3 done, 1 skipped, 0 failed" in capsys.readouterr().out
    before = len(archive.files.requests)
    acquire.main([*arguments(archive.labels, archive.url), "--output", str(tmp_path / "two")])
    assert (
        len(archive.files.requests) == before
    )  # the skipped tile is asked for again, but the metadata tell that it lacks a sensor
    assert "(3 from before)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("how", "rasters_before"), [(signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGKILL, 3), (signal.SIGTERM, 3)]
)
def test_stopped_in_the_middle_and_run_again(archive, tmp_path, how, rasters_before):
    """Before the first raster, among those of a tile, between tiles."""
    output = tmp_path / "tiles"
    archive.files.set(wait_s=0.03)
    process = started(archive, output, "--workers", "1")
    try:
        wait_for(lambda: (output / "manifest.jsonl").exists() and len(rasters(output)) >= rasters_before)
        if rasters_before != 1:
            time.sleep(0.2)  # into the next tile
    finally:
        process.send_signal(how)
        process.communicate(timeout=60)
        archive.files.set()
    done = rasters(output)
    assert rasters_before <= len(done) < len(rasters(archive.finished))
    if how == signal.SIGTERM:
        assert process.returncode == 143
        assert 1 <= len(list_tiles(output)) < 3  # what is done can be used
    acquire.main([*arguments(archive.labels, archive.url), "--output", str(output)])
    check_as_finished(output, archive.finished)


def test_a_torn_manifest_and_left_over_files(archive, tmp_path):
    output = shutil.copytree(archive.finished, tmp_path / "tiles")
    lines = (output / "manifest.jsonl").read_text()
    (output / "manifest.jsonl").write_text(lines[:-20])
    (output / "s1" / f".{IDS[0]}.tif.99.partial").write_text("half")
    (output / "s2" / f"{IDS[1]}.tif").unlink()
    (output / "tiles.csv").unlink()
    acquire.main([*arguments(archive.labels, archive.url), "--output", str(output)])
    check_as_finished(output, archive.finished)


def test_a_bad_tile_stops_no_other_and_is_tried_again(archive, tmp_path, capsys):
    labels = shutil.copytree(archive.labels, tmp_path / "source")
    label = labels / NAMES["north"]
    whole = label.read_bytes()
    label.write_bytes(whole[: len(whole) // 2])
    archive.files.set(refused="S2A_1")
    output = tmp_path / "tiles"
    with pytest.raises(
        ValueError, match=r"^2 of 4 tiles failed, the first one .*manifest\.jsonl.*run the same command again"
    ):
        acquire.main([*arguments(labels, archive.url), "--output", str(output)])
    archive.files.set()
    assert "1 done, 1 skipped, 2 failed" in capsys.readouterr().out
    assert [record.tile_id for record in list_tiles(output)] == [IDS[1]]
    failed = {tile: entry["reason"] for tile, entry in manifest(output).items() if entry["status"] == "failed"}
    assert "cut short" in failed[IDS[2]]
    assert "403" in failed[IDS[0]] and "signature has expired" in failed[IDS[0]] and "SECRET" not in failed[IDS[0]]
    label.write_bytes(whole)
    acquire.main([*arguments(labels, archive.url), "--output", str(output)])
    check_as_finished(output, archive.finished)


def test_a_refusal_that_passes_is_retried(archive, tmp_path):
    archive.files.set(refused="S2A_0/B02")
    output = tmp_path / "tiles"

    def relent() -> None:
        wait_for(lambda: any("S2A_0/B02" in path for path in archive.files.requests[before:]))
        archive.files.set()

    before = len(archive.files.requests)
    helper = threading.Thread(target=relent)
    helper.start()
    task = acquiring.Task(
        stac(archive.url, "simulated-s2", "simulated-s1", "power"), Wanted(), attempts=3, back_off_s=0.3
    )
    chosen = [label for label in survey([archive.labels]).tiles if label.tile_id == IDS[2]]
    acquiring.acquire(chosen, task, output)
    helper.join()
    assert rasters(output) == {name: pixels for name, pixels in rasters(archive.finished).items() if IDS[2] in name}


def test_a_folder_of_another_kind_or_in_use_is_refused(archive, tmp_path):
    common = arguments(archive.labels, archive.url)
    output = shutil.copytree(archive.finished, tmp_path / "tiles")
    with pytest.raises(ValueError, match=r"wanted\.s1_mean 'dB', and is now to be with 'power'.*another --output"):
        acquire.main([*common, "--output", str(output), "--s1_mean", "power"])
    with pytest.raises(ValueError, match=r"archive\.s1_quantity 'sigma0', and is now to be with 'gamma0'"):
        acquire.main([*common, "--output", str(output), "--s1_quantity", "gamma0"])
    settings = acquiring.Task(stac(archive.url, "simulated-s2", "simulated-s1", "power"), Wanted())
    with (
        open_manifest(output, acquiring._settings(settings)),
        pytest.raises(ValueError, match="another process is at work"),
    ):
        acquire.main([*common, "--output", str(output)])
    (output / "manifest.jsonl").unlink()
    with pytest.raises(ValueError, match="holds tiles but no manifest"):
        acquire.main([*common, "--output", str(output)])
    check = {path for path in output.iterdir() if path.name != "manifest.jsonl"}
    assert check == {output / path.name for path in archive.finished.iterdir() if path.name != "manifest.jsonl"}


def test_a_folder_without_a_tile_is_bound_to_no_settings(archive, tmp_path):
    """A first try with a wrong address or unit is not what the second one has to live with; an equal one keeps what it knows."""
    output, common = tmp_path / "tiles", arguments(archive.labels, archive.url)
    with pytest.raises(ValueError, match="no STAC API answers"):
        acquire.main([*common, "--output", str(output), "--stac_url", "http://127.0.0.1:9"])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^3 of 4 tiles failed.*--s1_unit"):
            acquire.main([*common, "--output", str(output), "--s1_unit", "scaled"])
    lines = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    assert [line.get("status") for line in lines].count("skipped") == 2 and len(lines) == 9
    acquire.main([*common, "--output", str(output), "--stac_url", f"{archive.url}/"])
    check_as_finished(output, archive.finished)


def test_a_disk_that_takes_no_more_ends_the_run_in_a_line(archive, tmp_path):
    """As a full disk: no file may grow beyond 100 kB, and a Sentinel-2 tile is larger."""
    output = tmp_path / "tiles"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        process = started(archive, output)
        _, said = process.communicate(timeout=120)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert process.returncode == 2 and "Traceback" not in said, said
    assert [line for line in said.splitlines() if line.startswith(f"error: File too large: {output}/s2/")], said
    assert not [path for path in output.rglob("*") if path.suffix in (".tif", ".partial")]
    acquire.main([*arguments(archive.labels, archive.url), "--output", str(output)])
    check_as_finished(output, archive.finished)


def test_a_folder_that_cannot_be_written(archive, tmp_path):
    (tmp_path / "tiles").write_text("a file")
    with pytest.raises(OSError, match="tiles"):
        acquire.main([*arguments(archive.labels, archive.url), "--output", str(tmp_path / "tiles")])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--stac_url", "earth_search"], "earth_search has no Sentinel-1 that can be used"),
        (["--stac_url", "planetary_computer", "--s2_level", "L1C"], "no --s2_collection is given for L1C of planetary_computer: it serves L2A"),
        (["--stac_url", "http://127.0.0.1:9/", "--s2_collection", "a", "--s1_collection", "b"], "--s1_unit and --s1_quantity of"),
        (["--stac_url", "planetary"], "expected a URL or one of planetary_computer, earth_search"),
        (["--s2_bands", "B2,B10"], "B10, which Sentinel-2 has at level L1C only"),
        (["--s2_bands", "B2,red2"], "expected some of B1,B2"),
        (["--s2_assets", "blue"], "expected pairs as in B2=blue"),
        (["--workers", "0"], "--workers and --limit are positive"),
        (["--stac_url", "http://127.0.0.1:9/", "--s2_collection", "a", "--s1_collection", "b", "--s1_unit", "db", "--s1_quantity", "sigma0"], "no STAC API answers at"),
    ],
)  # fmt: skip
def test_arguments_are_refused_in_a_line(archive, tmp_path, monkeypatch, capsys, more, message):
    common = ["--labels", archive.labels, "--output", tmp_path / "tiles"]
    monkeypatch.setattr("sys.argv", ["acquire", *map(str, common), *more])
    with pytest.raises(SystemExit) as exit_:
        run(acquire.main)
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert exit_.value.code == 2 and len(lines) == 1 and message in lines[0]
    assert not list(tmp_path.glob("tiles/s*"))


@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="the extra beam is not installed")
def test_beam_makes_the_same_folder(archive, tmp_path):
    """In a process of its own, as Google's libraries warn when they are imported."""
    process = started(archive, tmp_path / "tiles", "--runner", "beam", "--beam_args=--direct_num_workers=1")
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "4 tiles: 3 done, 1 skipped, 0 failed" in said
    check_as_finished(tmp_path / "tiles", archive.finished)
