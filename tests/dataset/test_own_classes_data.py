"""Data sets of classes of their own: from a folder with classes.csv to metadata, statistics, tables and pictures."""

import json
import shutil

import numpy as np
import pytest
import rasterio
from conftest import command, refused
from drawn_networks import many
from own_classes import FOUR, dataset_of, relabelled

from specsar_jax.batches.dataset import dataset_statistics
from tfds_dwplus import DynamicWorldPlusConfig, bands, describe, look
from tfds_dwplus.imagery.acquisitions import Wanted
from tfds_dwplus.imagery.earth_engine import EarthEngineArchive
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles import contents, tile_pictures
from tfds_dwplus.tiles.acquiring import Task, acquire
from tfds_dwplus.tiles.labelling.class_table import NAME, read_classes
from tfds_dwplus.tiles.prepared import dataset_classes, open_dataset, read_split
from tfds_dwplus.tiles.tile_files import PROBABILITY, list_tiles, read_tile


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Folder with a data set `own` of `FOUR` under `data`. To be read only."""
    return dataset_of(tmp_path_factory.mktemp("four"), FOUR)


@pytest.mark.parametrize("classes", [many(2), FOUR, many(64)], ids=len)
def test_records_metadata_and_statistics(classes, tmp_path):
    tiles = relabelled(tmp_path / "tiles", {"train": 2, "test": 1}, classes)
    prepare(DynamicWorldPlusConfig(name="own", tiles=tiles, tile_size_px=64), tmp_path / "data")
    builder = open_dataset(tmp_path / "data", "own")
    assert dataset_classes(builder) == classes
    assert builder.info.metadata["class_colours"] == list(classes.colours)
    labels = [record["label"] for record in read_split(builder, "train")]
    counts = np.bincount(np.stack(labels).ravel(), minlength=256)
    assert np.count_nonzero(counts[: len(classes)]) > 0.8 * len(classes) and not counts[len(classes) : 255].any()
    statistics = dataset_statistics(builder)
    assert statistics.classes == classes and statistics.label_pixels == tuple(counts[: len(classes)].tolist())
    assert type(statistics).from_dict(statistics.to_dict()) == statistics


def test_another_table_is_another_data_set(four, tmp_path, capsys):
    tiles = shutil.copytree(four / "own_tiles", tmp_path / "tiles")
    config = DynamicWorldPlusConfig(name="mine", tiles=tiles, tile_size_px=64)
    prepare(config, tmp_path)
    assert "4 classes of its own: blé d'hiver, forêt dense, Wasser, alte Stadt" in capsys.readouterr().out
    prepare(config, tmp_path)
    assert "is prepared already" in capsys.readouterr().out
    table = (tiles / NAME).read_text()
    (tiles / NAME).write_text(table.replace("Wasser", "See"))
    with pytest.raises(ValueError, match="holds another data set"):
        prepare(config, tmp_path)


def test_tables_and_pictures(four, tmp_path, capsys):
    describe.main(["--data_dir", str(four / "data"), "--name", "own", "--json", str(tmp_path / "own.json")])
    text, told = capsys.readouterr().out, json.loads((tmp_path / "own.json").read_text())
    assert all(f"| {name}" in text for name in FOUR.names) and "water" not in text
    assert told["classes"] == list(FOUR.names) and told["class_colours"] == list(FOUR.colours)
    assert len(told["groups"]["split"]["test"]["class_pixels"]) == 4
    record = read_split(open_dataset(four / "data", "own"), "test")[0]
    picture = tile_pictures.panels(record, bands.S2_BANDS, FOUR)["label"]
    np.testing.assert_array_equal(picture, np.array([*FOUR.rgb(), *[(255, 255, 255)] * 252])[record["label"]])
    look.main(["--data_dir", str(four / "data"), "--name", "own", "--output", str(tmp_path / "sheet.png")])
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


def test_a_sheet_of_many_classes(tmp_path):
    strange = ("$x_1$ and $y$", "_hidden", "a b", "a_b", "土地利用")
    names = (*strange, *(f"a long name of class number {i}" for i in range(59)))
    tiles = relabelled(tmp_path / "tiles", {"train": 1}, bands.Classes(names, many(64).colours))
    prepare(DynamicWorldPlusConfig(name="own", tiles=tiles, tile_size_px=64), tmp_path / "data")
    look.main(["--data_dir", str(tmp_path / "data"), "--name", "own", "--output", str(tmp_path / "sheet.png")])
    assert contents.class_pixels(open_dataset(tmp_path / "data", "own"), "train", None).shape == (64,)


def test_shares_are_of_these_classes(tmp_path):
    tiles = relabelled(tmp_path / "tiles", {"train": 1}, FOUR)
    (record,) = list_tiles(tiles)
    (tiles / PROBABILITY).mkdir()
    label = read_tile(tiles, record, (), classes=FOUR).label

    def write(names: tuple[str, ...]) -> None:
        shares = np.zeros((len(names), 64, 64), np.uint8)
        for place in range(4):
            shares[place][label == place] = 255
        with rasterio.open(
            tiles / PROBABILITY / f"{record.tile_id}.tif", "w", driver="GTiff", height=64, width=64, count=len(names),
            dtype="uint8", crs=(like := rasterio.open(tiles / "label" / f"{record.tile_id}.tif")).crs, transform=like.transform,
        ) as raster:  # fmt: skip
            raster.write(shares)
            raster.descriptions = names

    write(FOUR.names)
    prepare(DynamicWorldPlusConfig(name="own", tiles=tiles, tile_size_px=64), tmp_path / "data")
    (held,) = read_split(open_dataset(tmp_path / "data", "own"), "train")
    assert held["probability"].shape == (64, 64, 4)
    np.testing.assert_array_equal(held["probability"].argmax(-1)[label < 4], label[label < 4])
    for names in (FOUR.names[::-1], (*FOUR.names, "more")):
        write(names)
        with pytest.raises(ValueError, match="expected the shares of blé d'hiver, forêt dense, Wasser, alte Stadt"):
            read_tile(tiles, record, (), probabilities=True, classes=FOUR)


BROKEN = {
    "one class": ("code,name,colour\n1,a,ffffff\n", "1 classes, expected 2 to 64"),
    "65 classes": (
        "code,name,colour\n" + "".join(f"{i},c{i},ffffff\n" for i in range(1, 66)),
        "65 classes, expected 2 to 64",
    ),
    "two alike": ("code,name,colour\n1,Acker,ffffff\n2,acker,000000\n", "two classes are named 'acker'"),
    "no colour": ("code,name,colour\n1,a,ffffff\n2,b,\n", "class 'b' has the colour ''"),
    "a word": (
        "code,name,colour\n1,a,red\n2,b,000000\n",
        "class 'a' has the colour 'red', expected one such as 419bdf",
    ),
    "a short row": ("code,name,colour\n1,a,ffffff\n2,b\n", "row 2 is 2,b, expected 2,name,colour"),
    "other columns": ("value,name\n1,a\n2,b\n", "its columns are value,name, expected code,name,colour"),
    "from zero": ("code,name,colour\n0,a,ffffff\n1,b,000000\n", "row 1 is 0,a,ffffff, expected 1,name,colour"),
    "two lines": ('code,name,colour\n1,"a\rb",ffffff\n2,b,000000\n', "expected"),
    "empty": ("", "its columns are , expected code,name,colour"),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_table_is_refused(text, message, tmp_path):
    tiles = relabelled(tmp_path / "tiles", {"train": 1}, bands.DYNAMIC_WORLD)
    (tiles / NAME).write_text(text)
    with pytest.raises(ValueError) as refusal:
        prepare(DynamicWorldPlusConfig(name="own", tiles=tiles, tile_size_px=64), tmp_path / "data")
    assert message in str(refusal.value) and NAME in str(refusal.value) and "\n" not in str(refusal.value)
    assert not (tmp_path / "data" / "dynamic_world_plus").exists()


def test_a_code_of_no_class_is_refused(tmp_path):
    tiles = relabelled(tmp_path / "tiles", {"train": 1}, many(10))  # 10 would be cloud of Dynamic World's
    assert read_tile(tiles, list_tiles(tiles)[0], (), classes=many(10)).label.max() in (9, 255)
    (tiles / NAME).write_text("".join((tiles / NAME).read_text().splitlines(keepends=True)[:10]))
    assert len(read_classes(tiles)) == 9
    line = refused(
        command("tfds_dwplus.prepare", "--tiles", tiles, "--name", "own", "--data_dir", tmp_path, "--tile_size_px", 64, cwd=tmp_path)
    )  # fmt: skip
    assert "holds label code 10, expected 0 to 9, as classes.csv of its folder has them" in line


def test_cloud_is_a_code_of_dynamic_worlds_alone(tile_folder):
    first, second = sorted((tile_folder / "label").glob("*.tif"))[:2]
    with rasterio.open(first, "r+") as raster:
        raster.write(np.full((1, 64, 64), 10, np.uint8))
    records = {record.tile_id: record for record in list_tiles(tile_folder)}
    assert (read_tile(tile_folder, records[first.stem], ()).label == bands.IGNORE).all()
    assert read_classes(tile_folder) == bands.DYNAMIC_WORLD
    assert (read_tile(tile_folder, records[first.stem], (), classes=many(64)).label == 9).all()
    assert (read_tile(tile_folder, records[second.stem], ()).label != 9).all()


def test_published_labels_are_not_acquired_into_a_folder_of_other_classes(tmp_path):
    (tmp_path / NAME).write_text("code,name,colour\n1,a,ffffff\n2,b,000000\n")
    with pytest.raises(ValueError, match=r"classes\.csv has other classes than Dynamic World's"):
        acquire([], Task(EarthEngineArchive(), Wanted()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


STRANGE = {
    "one class": {"classes": ["a"], "class_colours": ["ffffff"]},
    "no colours": {"class_colours": None},
    "colours of fewer": {"class_colours": ["ffffff"]},
    "a number": {"classes": [1, 2, 3, 4]},
    "no list": {"classes": {"a": 1}},
    "two lines": {"classes": ["a", "b\nc", "d", "e"]},
    "others than the statistics": {"classes": ["a", "b", "c", "d"]},
    "other colours than the statistics": {"class_colours": ["000000", "000001", "000002", "000003"]},
    "many": {"classes": [f"c{i}" for i in range(10**4)], "class_colours": ["ffffff"] * 10**4},
}


@pytest.mark.parametrize("changes", STRANGE.values(), ids=STRANGE)
def test_strange_metadata_are_refused(changes, four, tmp_path):
    shutil.copytree(four / "data", tmp_path / "data")
    (path,) = (tmp_path / "data").rglob("metadata.json")
    path.chmod(0o644)
    tree = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in tree.items() if value is not None}))
    with pytest.raises(ValueError, match=r"is no data set of tfds_dwplus.prepare") as refusal:
        open_dataset(tmp_path / "data", "own")
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 700
