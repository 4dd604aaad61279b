"""The contact sheet: pictures show what the rasters hold, and the file appears whole."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from conftest import command, refused, squares, write_folder

from tfds_dwplus import DynamicWorldPlusConfig, bands, look
from tfds_dwplus.files.outputs import written_whole
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles import contents, tile_pictures
from tfds_dwplus.tiles.prepared import open_dataset, read_split


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder of a data set `mine`: five train tiles of 64 x 64 pixels, padded to 80 x 80, and two test tiles."""
    folder = tmp_path_factory.mktemp("look")
    tiles = write_folder(folder / "tiles", {"train": 5, "test": 2})
    prepare(DynamicWorldPlusConfig(name="mine", tiles=tiles, tile_size_px=80), folder / "data")
    return folder / "data"


def test_class_colours():
    picture = tile_pictures.class_colour(
        np.where(squares(4) == 6, np.uint8(bands.IGNORE), squares(4)), bands.DYNAMIC_WORLD
    )
    assert [picture[row, column].tolist() for row, column in ((0, 0), (0, 3), (3, 0), (3, 3))] == [
        [0x41, 0x9B, 0xDF],
        [0x39, 0x7D, 0x49],
        [0xE4, 0x96, 0x35],
        [255, 255, 255],
    ]


def test_true_colour_takes_red_green_blue_by_name():
    s2 = np.full((2, 8, 3), 1000, np.uint16)
    s2[:, 4:, 2] = 3000  # B4 is bright at the right
    s2[0, 0] = bands.S2_NODATA
    picture = tile_pictures.true_colour(s2, ("B2", "B3", "B4"))
    np.testing.assert_allclose(picture[1, 5], (1, 0, 0))
    np.testing.assert_array_equal(picture[0, 0], 0)


def test_sar_colour_is_vv_vh_vv_and_calm_water_stays_dark():
    s1 = np.full((2, 100, 2), -20.0, np.float32)
    s1[:, 50:, 0] = -5
    np.testing.assert_allclose(tile_pictures.sar_colour(s1)[0, 60], (1, 0, 1))
    noise = -20 + 0.1 * np.random.default_rng(0).standard_normal((50, 50, 2)).astype(np.float32)
    assert tile_pictures.sar_colour(noise).max() < 0.1


def test_panels_show_the_tile_without_its_padding(data):
    builder = open_dataset(data, "mine")
    record = read_split(builder, "train")[0]
    pictures = tile_pictures.panels(record, bands.S2_BANDS, bands.DYNAMIC_WORLD)
    assert {title: picture.shape for title, picture in pictures.items()} == {
        "Sentinel-2, true colour": (64, 64, 3),
        "Sentinel-1, VV VH VV": (64, 64, 3),
        "label": (64, 64, 3),
    }
    np.testing.assert_array_equal(
        pictures["label"], tile_pictures.class_colour(record["label"][:64, :64], bands.DYNAMIC_WORLD)
    )
    one_sensor = tile_pictures.panels(record | {"s1": record["s1"][..., :0]}, bands.S2_BANDS, bands.DYNAMIC_WORLD)
    assert list(one_sensor) == ["Sentinel-2, true colour", "label"]


def test_tiles_are_drawn_by_lot_and_again_alike():
    assert (
        tile_pictures.sample_tiles(1000, 12, 0)
        == tile_pictures.sample_tiles(1000, 12, 0)
        != tile_pictures.sample_tiles(1000, 12, 1)
    )
    assert len(set(tile_pictures.sample_tiles(1000, 12, 0))) == 12
    assert tile_pictures.sample_tiles(3, 12, 0) == [0, 1, 2]


def test_histogram_of_the_statistics_is_that_of_the_pixels(data):
    builder = open_dataset(data, "mine")
    stored = contents.class_pixels(builder, "train", read_split(builder, "train"))
    counted = contents.class_pixels(builder, "train[:100%]", read_split(builder, "train[:100%]"))
    assert stored.sum() > 0
    np.testing.assert_array_equal(stored, counted)
    test = read_split(builder, "test")
    expected = [sum((record["label"] == class_id).sum() for record in test) for class_id in range(len(bands.CLASSES))]
    np.testing.assert_array_equal(contents.class_pixels(builder, "test", test), expected)


def test_command_writes_a_png(data, tmp_path):
    output = tmp_path / "sheet.png"
    arguments = ("--data_dir", data, "--name", "mine", "--tiles", 3, "--output", output)
    result = command("tfds_dwplus.look", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "3 of the 5 tiles of train" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    picture = matplotlib.image.imread(output)[..., :3]
    assert picture.shape[0] > 600 and picture.shape[1] > 1500
    # The classes that the tiles hold are there in their colours: in the panels, and in the bars.
    builder = open_dataset(data, "mine")
    pixels = contents.class_pixels(builder, "train", read_split(builder, "train"))
    largest = np.array(bands.DYNAMIC_WORLD.rgb()[int(pixels.argmax())]) / 255
    assert (np.abs(picture - largest).max(axis=-1) < 0.01).sum() > 5000


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "sheet.png"
    with written_whole(path) as partial:
        partial.write_text("old")
    with pytest.raises(OSError, match="No space left on device") as full, written_whole(path) as partial:
        partial.write_text("half")
        Path("/dev/full").write_text("more")  # a disk that is full
    assert full.value.filename == str(path)
    assert [left.read_text() for left in tmp_path.iterdir()] == ["old"]


def test_refused(data, tmp_path):
    def error(*arguments: object) -> str:
        with pytest.raises(ValueError) as caught:
            look.main(["--data_dir", str(data), *map(str, arguments)])
        assert not list(tmp_path.iterdir())
        return str(caught.value)

    sheet = ("--output", tmp_path / "x.png")
    assert "no data set dynamic_world_plus/yours" in error("--name", "yours", *sheet)
    assert "split 'testing' of dynamic_world_plus/mine" in error("--name", "mine", "--split", "testing", *sheet)
    assert "--tiles is 0, expected 1 to 100" in error("--name", "mine", "--tiles", 0, *sheet)
    assert "--seed is -1" in error("--name", "mine", "--seed", -1, *sheet)
    assert "no folder" in error("--name", "mine", "--output", tmp_path / "none" / "x.png")
    assert "is a folder" in error("--name", "mine", "--output", tmp_path)
    result = command("tfds_dwplus.look", "--data_dir", data, "--name", "mine", cwd=tmp_path)
    assert "--output" in refused(result)
