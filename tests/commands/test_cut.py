"""`cut`: from scenes and a vector file to tiles that `prepare` packs; and what it refuses."""

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from conftest import command, refused
from drawn_labels import feature, geojson, square
from small_scenes import UTM, files_of, scene, write

from tfds_dwplus import bands, cut
from tfds_dwplus.imagery.rasters import Scene
from tfds_dwplus.imagery.scenes import open_scene
from tfds_dwplus.prepare import DynamicWorldPlusConfig, prepare
from tfds_dwplus.tiles.labelling.class_table import read_classes
from tfds_dwplus.tiles.prepared import open_dataset, read_split
from tfds_dwplus.tiles.tile_files import list_tiles, read_tile

SIZE = 200
CLASSES = "value,name,colour\n1,field,88b053\n2,wood,397d49\n3,water,419bdf\n"
SMALL = ("--block_m", 470, "--gap_m", 20, "--tile_size_px", 47)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a scene of 2 km in s2/ and s1/, fields over all of it in fields.geojson, and classes.csv."""
    folder = tmp_path_factory.mktemp("made")
    scene(folder, SIZE, SIZE)
    (left, top), epsg = corner(folder)
    squares = [(x, y) for x in range(0, SIZE, 10) for y in range(0, SIZE, 10)]
    fields = [square(left + 10 * x + 2, top - 10 * y - 2, 80, crop=1 + (x // 10 + y // 20) % 3) for x, y in squares]
    geojson(folder / "fields.geojson", fields, epsg)
    (folder / "classes.csv").write_text(CLASSES)
    return folder


def corner(folder: Path) -> tuple[tuple[float, float], int]:
    with rasterio.open(files_of(folder)[0][0]) as raster:
        return raster.transform @ (0, 0), raster.crs.to_epsg()


def run(
    made: Path, output: Path, *more: object, labels: str = "fields.geojson", sensors=("s2", "s1"), small=SMALL
) -> Path:
    scenes = [
        part
        for name, (file,) in zip(("s2", "s1"), files_of(made), strict=True)
        if name in sensors
        for part in (f"--{name}", file)
    ]
    table = () if "--classes" in more else ("--classes", made / "classes.csv")
    arguments = (*scenes, "--labels", made / labels, "--field", "crop", *table, "--output", output, *small, *more)
    cut.main([*map(str, arguments)])
    return output


def tiles_of(folder: Path, s2_bands=bands.S2_BANDS, s1_bands=bands.S1_BANDS) -> list:
    classes = read_classes(folder)
    return [read_tile(folder, record, s2_bands, s1_bands, classes=classes) for record in list_tiles(folder)]


def ground(tile) -> shapely.Geometry:
    corners = [rasterio.Affine(*tile.transform) @ (x, y) for x, y in ((0, 0), tile.label.shape[::-1])]
    return shapely.box(*corners[0], *corners[1])


def test_tiles_are_the_scene_and_the_labels_and_prepare_packs_them(made, tmp_path, capsys):
    output = run(made, tmp_path / "tiles", "--annotator", "expert", "--date", "2023-06-30")
    said = capsys.readouterr()
    (s2,), (s1,) = files_of(made)
    with open_scene([s2], [s1], bands.S2_BANDS, bands.S1_BANDS, tell=str) as whole:
        all_s2, all_s1, _ = whole.read(slice(0, SIZE), slice(0, SIZE))
    labelled = 0
    for tile in (tiles := tiles_of(output)):
        _, _, row, column = tile.record.tile_id.split("_")
        part = tuple(
            slice(int(start), int(start) + size) for start, size in zip((row, column), tile.label.shape, strict=True)
        )
        np.testing.assert_array_equal(tile.s2, all_s2[part])
        np.testing.assert_array_equal(tile.s1, all_s1[part])
        rows, columns = np.mgrid[part]
        drawn = (rows % 10 <= 7) & (columns % 10 <= 7)
        seen = (all_s2[part] != 0).all(axis=-1) | np.isfinite(all_s1[part]).all(axis=-1)
        wanted = np.where(drawn & seen, (columns // 10 + rows // 20) % 3, bands.IGNORE)
        np.testing.assert_array_equal(tile.label, wanted)
        labelled += int((tile.label != bands.IGNORE).sum())
        assert tile.record.annotator == "expert" and tile.record.date == "2023-06-30" and tile.record.s2_offset
        assert -180 <= tile.record.lon <= 180
    assert {tile.record.split for tile in tiles} == {"train", "validation", "test"}
    assert f"{labelled:,} |" in said.out and "| class | train | validation | test | all |" in said.out
    assert "lie between blocks, and are in no tile (--gap_m 20)" in said.err
    for one, other in itertools.combinations(tiles, 2):
        if one.record.split != other.record.split:
            assert shapely.distance(ground(one), ground(other)) >= 20
    prepare(DynamicWorldPlusConfig(name="own", tiles=output, tile_size_px=47), tmp_path / "data")
    builder = open_dataset(tmp_path / "data", "own")
    assert builder.info.metadata["classes"] == ["field", "wood", "water"]
    for split in ("train", "test"):
        found = set(np.unique([np.asarray(record["label"]) for record in read_split(builder, split)]))
        assert found == {0, 1, 2, bands.IGNORE}


def test_the_same_ground_of_two_dates_is_of_one_split(made, tmp_path):
    (s2,), (s1,) = files_of(made)
    more = ("--s2", s2, "--s1", s1, "--date", "2023-06-30", "--date", "2023-09-01")
    tiles = tiles_of(run(made, tmp_path / "tiles", *more))
    by_place = {}
    for tile in tiles:
        by_place.setdefault(tile.transform, []).append(tile.record)
    assert all(len(records) == 2 and len({record.split for record in records}) == 1 for records in by_place.values())
    assert {record.date for records in by_place.values() for record in records} == {"2023-06-30", "2023-09-01"}


def test_the_same_seed_gives_the_same_tiles(made, tmp_path):
    one, other, third = (run(made, tmp_path / name, "--seed", seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert all(file.read_bytes() == (other / file.relative_to(one)).read_bytes() for file in one.rglob("*.*"))
    assert (one / "tiles.csv").read_bytes() != (third / "tiles.csv").read_bytes()


def test_one_sensor_alone(made, tmp_path):
    for sensor, held, more in (("s2", (("B8", "B4"), ()), ("--keep_bands", "B8,B4")), ("s1", ((), bands.S1_BANDS), ())):
        output = run(made, tmp_path / sensor, *more, sensors=(sensor,))
        assert sorted(path.name for path in output.iterdir()) == ["classes.csv", "label", sensor, "tiles.csv"]
        assert len(tiles_of(output, *held)) > 10


def test_under_cloud_sentinel1_keeps_the_label_and_sentinel2_has_no_data(made, tmp_path, capsys):
    cloud = np.zeros((SIZE, SIZE), np.uint8)
    cloud[:, 5:105] = 1
    (left, top), epsg = corner(made)
    mask = write(tmp_path / "cloud.tif", cloud, rasterio.Affine(10, 0, left, 0, -10, top), f"EPSG:{epsg}")
    clear, clouded = (
        {tile.record.tile_id: tile for tile in tiles_of(run(made, tmp_path / name, *more))}
        for name, more in (("a", ()), ("b", ("--cloud_mask", mask)))
    )
    assert clouded.keys() < clear.keys()
    assert "tiles are left out, in which a band has no data at all" in capsys.readouterr().err
    for name, tile in clouded.items():
        column = int(name.split("_")[-1])
        under = (np.arange(column, column + tile.label.shape[1]) >= 5) & (
            np.arange(column, column + tile.label.shape[1]) < 105
        )
        assert (tile.s2[:, under] == 0).all() and (tile.s2[:, ~under] == clear[name].s2[:, ~under]).all()
        np.testing.assert_array_equal(tile.label, clear[name].label)
    alone = tiles_of(run(made, tmp_path / "c", "--cloud_mask", mask, sensors=("s2",)), s1_bands=())
    assert all((tile.label[(tile.s2 == 0).any(axis=-1)] == bands.IGNORE).all() for tile in alone)
    assert "seen by no sensor or clouded" in capsys.readouterr().err


def test_dynamic_worlds_names_need_no_table(made, tmp_path):
    (left, top), epsg = corner(made)
    names = ("Water", "shrub and scrub", None, "TREES")
    squares = [square(left + 100 * x, top - 100 * y, 80, crop=names[(x + y) % 4]) for x in range(20) for y in range(20)]
    made = shutil.copytree(made, tmp_path / "made")
    geojson(made / "named.geojson", squares, epsg)
    (s2,), (s1,) = files_of(made)
    cut.main(
        [
            *map(
                str,
                (
                    "--s2",
                    s2,
                    "--s1",
                    s1,
                    "--labels",
                    made / "named.geojson",
                    "--field",
                    "crop",
                    "--output",
                    tmp_path / "tiles",
                    *SMALL,
                ),
            )
        ]
    )
    assert not (tmp_path / "tiles" / "classes.csv").exists()
    found = np.unique([np.unique(tile.label).tolist()[0] for tile in tiles_of(tmp_path / "tiles")])
    assert set(found) <= {0, 1, 5, bands.IGNORE}


def test_points_and_what_is_told_of_labels(made, tmp_path, capsys):
    (left, top), epsg = corner(made)
    points = [
        feature("Point", [left + 60 * x + 5, top - 60 * y - 5], crop=1 + (x + y) % 2)
        for x in range(33)
        for y in range(33)
    ]
    odd = [
        feature("LineString", [[left, top], [left + 9, top]], crop=1),
        feature("", None, crop=1),
        square(left - 9000, top, 10, crop=1),
        square(left + 1011, top - 1011, 2, crop=1),
        square(left + 800, top - 800, 200, crop=3),
    ]
    geojson(tmp_path / "points.geojson", [*points, *odd], epsg)
    (tmp_path / "classes.csv").write_text(CLASSES)
    for name in ("s1", "s2"):
        (tmp_path / name).symlink_to(made / name)
    alone = run(tmp_path, tmp_path / "a", labels="points.geojson")
    said = capsys.readouterr().err
    for line in (
        "1 of 1094 features of",
        "are of the type LineString",
        "1 of 1092 features with a class lie outside",
        "ha, are of two classes, most of them of",
        "1 features are so small",
    ):
        assert line in said, said
    circles = run(tmp_path, tmp_path / "b", "--radius_m", 22.0, labels="points.geojson")
    pixels = [sum(int((tile.label < 2).sum()) for tile in tiles_of(folder)) for folder in (alone, circles)]
    assert pixels[1] / pixels[0] == pytest.approx(13, rel=0.05)  # those whose centres are within 2.2 pixels of one


def test_a_scene_is_read_by_tiles_only(made, tmp_path, monkeypatch):
    sizes = []
    read = Scene.pixels
    monkeypatch.setattr(
        Scene,
        "pixels",
        lambda self, rows, columns: (
            sizes.append((rows.stop - rows.start, columns.stop - columns.start)) or read(self, rows, columns)
        ),
    )
    run(made, tmp_path / "tiles")
    assert sizes and max(map(max, sizes)) <= 47


def test_a_table_is_drawn_up_and_then_edited(made, tmp_path, capsys):
    drawn = tmp_path / "drawn.csv"
    arguments = ("--labels", made / "fields.geojson", "--field", "crop", "--write_classes", drawn)
    cut.main([*map(str, arguments)])
    assert [line[:4] for line in drawn.read_text().splitlines()] == ["valu", "1,1,", "2,2,", "3,3,"]
    assert read_classes(run(made, tmp_path / "tiles", "--classes", drawn)).names == ("1", "2", "3")
    with pytest.raises(ValueError, match=r"drawn.csv is there already; remove it, or give another --write_classes"):
        cut.main([*map(str, arguments)])


BOW = feature("Polygon", [[[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]], crop=1)

REFUSED = {
    "no field": (("--field", "crops"), r"has no field 'crops'; did you mean 'crop'\? Its fields are crop"),
    "no layer": (("--layer", "a"), "has no layer 'a'; its layers are fields"),
    "no class of Dynamic World": (("--classes", ""), "an empty text is no path"),
    "an invalid geometry": (("--labels", "bow.geojson"), "1 of 1 features are not valid, the first one number 1, Self-intersection"),
    "elsewhere": (("--labels", "far.geojson"), "no label lies in a scene: labels have longitude"),
    "one class": (("--labels", "one.geojson"), "all labels in the scenes are of one class, field"),
    "no vector file": (("--labels", "classes.csv"), "is not a vector file that is known"),
    "a class without a colour": (("--classes", "bare.csv"), "class 'wood' of the value '2' has no colour"),
    "blocks": (("--block_m", 5120, "--tile_size_px", 256), "labels lie in .* blocks of 5120 m, and 3 splits are asked for; give --block_m"),
    "a block smaller than a tile": (("--block_m", 200), r"--block_m 200 is 20 pixels of the scene, less than a tile of --tile_size_px 47; give --tile_size_px 20"),
    "splits": (("--splits", "train=0.7,test=0.2"), "--splits is 'train=0.7,test=0.2', expected shares"),
    "no train": (("--splits", "test=1"), "has no train"),
    "a radius of polygons": (("--radius_m", 5), "--radius_m is of points"),
    "a date": (("--date", "June"), "--date is 'June', expected a day as 2023-06-30"),
    "too many dates": (("--date", "2023-06-30", "--date", "2023-06-30"), "--date is given 2 times for 1 scenes"),
    "a band": (("--keep_bands", "B9"), "scene 1 has no band B9 for --keep_bands"),
    "a number": (("--gap_m", "nan"), "--gap_m is nan, expected 0 to"),
    "an output that is there": (("--output", "."), "is there already; remove it, or give another --output"),
    "no folder": (("--output", "none/tiles"), "no folder"),
    "another value": (("--classes", "two.csv"), "1 values that are no row of two.csv: '3'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_a_line_and_leaves_nothing(made, tmp_path, name, monkeypatch):
    more, message = REFUSED[name]
    here = shutil.copytree(made, tmp_path / "here")
    (left, top), epsg = corner(made)
    geojson(here / "bow.geojson", [BOW], epsg)
    geojson(here / "far.geojson", [square(left - 90000, top, 50, crop=1)], epsg)
    geojson(here / "one.geojson", [square(left, top, 1900, crop=1)], epsg)
    (here / "bare.csv").write_text(CLASSES.replace("397d49", ""))
    (here / "two.csv").write_text(CLASSES[: CLASSES.index("3,")])
    monkeypatch.chdir(here)
    before = sorted(here.rglob("*"))
    (s2,), (s1,) = files_of(Path())
    arguments = (
        "--s2",
        s2,
        "--s1",
        s1,
        "--labels",
        "fields.geojson",
        "--field",
        "crop",
        "--classes",
        "classes.csv",
        "--output",
        "tiles",
        *SMALL,
    )
    if name == "no field":  # as a user sees it
        assert re.search(message, refused(command("tfds_dwplus.cut", *arguments, *more, cwd=here)))
    else:
        with pytest.raises((ValueError, SystemExit), match="2" if name.startswith("no class of") else message) as error:
            cut.main([*map(str, (*arguments, *more))])
        assert "\n" not in str(error.value)
    assert sorted(here.rglob("*")) == before


def test_the_blocks_that_are_proposed_will_do(made, tmp_path):
    with pytest.raises(ValueError) as error:
        run(made, tmp_path / "tiles", small=())
    advice = str(error.value).partition("; give ")[2].partition(", or ")[0]
    assert (
        len(
            {
                record.split
                for record in list_tiles(run(made, tmp_path / "tiles", small=advice.split(), sensors=("s2",)))
            }
        )
        == 3
    )


def test_scenes_that_do_not_go_together(made, tmp_path):
    (s2,), _ = files_of(made)
    with pytest.raises(
        ValueError, match="--s1 is given 1 times for 2 scenes; give it once for each, in their order, or not at all"
    ):
        run(made, tmp_path / "tiles", "--s2", s2)
    with pytest.raises(ValueError, match="no scene is given"):
        run(made, tmp_path / "tiles", sensors=())
    other = write(tmp_path / "plain" / "B2_B3.tif", np.full((2, 50, 50), 300, np.uint16), UTM, None, names=("B2", "B3"))
    with pytest.raises(ValueError, match="has no CRS and transform, by which labels find their place"):
        run(made, tmp_path / "tiles", "--s2", other, sensors=())
