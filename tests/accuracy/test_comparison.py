"""`specsar_jax.evaluate --prediction`: beside a network, by groups, and with arguments that do not fit."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import rasterio
from conftest import REPOSITORY, command, refused
from other_maps import folder_of, run, write

from specsar_jax import evaluate
from specsar_jax.accuracy import legends
from specsar_jax.accuracy.class_maps import Map
from specsar_jax.accuracy.map_scores import dataset_targets, score
from tfds_dwplus import DynamicWorldPlusConfig, bands
from tfds_dwplus.files.outputs import write_json
from tfds_dwplus.imagery.scene_files import open_raster
from tfds_dwplus.prepare import prepare
from tfds_dwplus.simulate import simulated_tile
from tfds_dwplus.tiles.prepared import open_dataset, read_split
from tfds_dwplus.tiles.tile_files import write_tile


def test_a_workdir_beside_a_raster(world, tmp_path):
    network, workdir = folder_of(world, tmp_path / "network", 5, 0.9), tmp_path / "run"
    workdir.mkdir()
    figures = run("--prediction", network, "--legend", "dynamic_world", *world.flags())["maps"]["network"]["labels"][
        "label"
    ]
    # What a network leaves, here counted from a map: the same sums, the tiles in another order.
    scored = score(
        [Map(network, legends.DYNAMIC_WORLD)],
        dataset_targets(read_split(open_dataset(world.data, "mine"), "test")),
        bands.DYNAMIC_WORLD,
    )
    scored.tallies["network"]["label"].choose(np.array([2, 0, 1])).write(workdir / "tiles_test.npz")
    scored_on = {
        "dataset": "dynamic_world_plus/mine/1.0.0",
        "split": "test",
        "calibration": {"temperature": 1.5, "bins": []},
    }
    write_json(workdir / "evaluation_test.json", figures | scored_on)
    raster = folder_of(world, tmp_path / "raster", 6, 0.5, np.array([1, 2, 11, 4, 5, 11, 7, 8, 9], np.uint8))
    both = ("--prediction", raster, "--legend", "esri", "--workdir", workdir)
    found = run(*both, *world.flags())
    assert list(found["maps"]) == ["run", "raster"] and found["maps"]["run"]["path"] is None
    confusion = np.array(found["maps"]["run"]["labels"]["label"]["confusion_matrix"])
    assert confusion[5].sum() == confusion[:, 5].sum() == 0 and confusion.sum() == figures["labelled_pixels"]
    (pair,) = found["pairs"]
    assert pair["difference"]["label"]["figures"]["overall_accuracy"]["difference"] > 0.2
    assert "mcnemar" not in pair and "agreement_matrix" not in pair
    other = {"dataset": "dynamic_world_plus/other/1.0.0", "split": "test"}
    (workdir / "evaluation_test.json").write_text(json.dumps(other))
    with pytest.raises(
        ValueError, match=r"is of data set other, not mine; run python -m specsar_jax.evaluate --workdir"
    ):
        run(*both, *world.flags())
    (workdir / "evaluation_test.json").write_text(json.dumps(scored_on | {"split": "test[:2]"}))
    with pytest.raises(ValueError, match=r"is of split 'test\[:2\]', not 'test'"):
        run(*both, *world.flags())
    with pytest.raises(ValueError, match=r"no workdir or bundle .*nowhere"):
        run("--prediction", raster, "--legend", "esri", "--workdir", tmp_path / "nowhere", *world.flags())
    (workdir / "tiles_test.npz").unlink()
    with pytest.raises(ValueError, match=r"no .*tiles_test.npz; run python -m specsar_jax.evaluate"):
        run(*both, *world.flags())


@pytest.mark.parametrize("name", ["mine", "placeless"])
def test_the_maps_of_a_network_score_as_the_network_does(world, small_run, tmp_path, name):
    tile_ids = [tile.record.tile_id for tile in world.tiles]
    of_network = ("--workdir", small_run / "run", *world.flags(name), "--output", tmp_path / "of_network.json")
    evaluate.main([*map(str, of_network), "--maps", str(tmp_path / "ours")])
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == sorted(f"{of}.tif" for of in tile_ids)
    expected = json.loads((tmp_path / "of_network.json").read_text())
    with open_raster(tmp_path / "ours" / f"{tile_ids[2]}.tif") as raster:
        assert raster.profile["dtype"] == "uint8" and raster.nodata == 255
        if name == "mine":
            assert raster.crs == world.tiles[2].crs and tuple(raster.transform)[:6] == world.tiles[2].transform
        else:
            assert raster.crs is None and (raster.read(1)[48:] == 255).all() and (raster.read(1)[:48, :48] < 9).all()
    theirs = folder_of(world, tmp_path / "theirs", 3)
    if name == "placeless":
        for path in theirs.iterdir():  # of tiles that nobody knows where they are
            with rasterio.open(path) as raster:
                values = raster.read(1)
            write(path, values[:48, :48], None, (10, 0, 0, 0, -10, 0))
    both = ("--prediction", tmp_path / "ours", "--prediction", theirs, "--legend", "dynamic_world")
    found = run(*both, *world.flags(name))
    figures = found["maps"]["ours"]["labels"]["label"]
    for key in ("confusion_matrix", "labelled_pixels", "mean_iou", "boundary_iou"):
        assert figures[key] == expected[key]
    assert (figures["area"]["mapped_ha"] is None) == (name == "placeless")
    assert found["pairs"][0]["mcnemar"]["label"]["p_value"] <= 1


def test_no_labelled_pixel_is_nothing_to_score(world, small_run, tmp_path):
    empty = dataclasses.replace(world.tiles[0], label=np.full_like(world.tiles[0].label, 255))
    write_tile(tmp_path / "tiles", empty, bands.S2_BANDS)
    write_tile(tmp_path / "tiles", train_tile := simulated_tile(7, "train", 0, 64), bands.S2_BANDS)
    rows = [(train_tile.record.tile_id, "train"), (empty.record.tile_id, "test")]
    with (tmp_path / "tiles/tiles.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("tile_id", "split"), *rows])
    prepare(DynamicWorldPlusConfig(name="empty", tiles=tmp_path / "tiles", tile_size_px=64), tmp_path / "data")
    arguments = ("--workdir", small_run / "run", "--data_dir", tmp_path / "data", "--dataset", "empty")
    with pytest.raises(
        ValueError, match="no labelled pixel where the sensors have data in the 1 tiles of split 'test'"
    ):
        evaluate.main([*map(str, arguments), "--output", str(tmp_path / "x.json"), "--maps", str(tmp_path / "maps")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "tiles"]


def test_groups_of_maps(world, tmp_path):
    path = folder_of(world, tmp_path / "map", 1)
    prediction = ("--prediction", path, "--legend", "dynamic_world", *world.flags(), "--groups")
    groups = run(*prediction, "lon")["maps"]["map"]["labels"]["label"]["groups"]
    assert list(groups) == ["lon"] and [row["tiles"] for row in groups["lon"].values()] == [1, 1, 1]
    with pytest.raises(ValueError, match=r"no column label in .* to group by; it has"):
        run(*prediction, "label")


def test_arguments_that_do_not_fit(world, small_run, tmp_path, capsys):
    path = folder_of(world, tmp_path / "map", 1)
    for arguments, message in (
        (("--legend", "dynamic_world", "--split", "test"), "no labels: give --data_dir and --dataset"),
        (("--legend", "dynamic_world", *world.flags()[:-1], "nosplit"), "split 'nosplit' of .* is unknown or empty"),
        ((*world.flags(),), "1 --prediction and 0 --legend"),
        (("--prediction", path, "--legend", "dynamic_world", *world.flags()), "two --prediction are called map"),
        (("--labels", path, "--legend", "dynamic_world", *world.flags()), "--labels takes the place of"),
        (
            ("--legend", "dynamic_world", "--output", tmp_path / "no/x.json", *world.flags()),
            "no folder .*no for --output x.json",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run("--prediction", path, *arguments)
    for maps, message in ((path / "no" / "maps", "no folder"), (next(path.iterdir()), "is a file")):
        with pytest.raises(ValueError, match=f"{message}.* --maps|--maps .* {message}"):
            evaluate.main(["--workdir", str(small_run / "run"), "--maps", str(maps)])
    with pytest.raises(SystemExit) as exit_:
        run("--prediction", path, "--legend", "dynamic_world", *world.flags(), "--maps", tmp_path)
    assert exit_.value.code == 2 and "error: --maps are of a network" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        evaluate.main(["--legend", "esri"])
    assert exit_.value.code == 2 and "error: give --workdir, or --prediction" in capsys.readouterr().err


def test_exit_code(world, tmp_path):
    path = folder_of(world, tmp_path / "map", 1)
    line = refused(
        command("specsar_jax.evaluate", "--prediction", path, "--legend", "nlcd", *world.flags(), cwd=REPOSITORY)
    )
    assert "which legend nlcd does not have" in line and "/map/" in line
