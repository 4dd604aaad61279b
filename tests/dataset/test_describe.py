"""Tables of a data set: sums that can be counted by hand, and what is not known said so."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import command, refused, write_folder

from tfds_dwplus import DynamicWorldPlusConfig, bands, describe
from tfds_dwplus.files import outputs
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles import contents, tile_files
from tfds_dwplus.tiles.prepared import open_dataset


class Recorded(tfds.core.GeneratorBasedBuilder):
    """Six tiles of 4 x 4 pixels, the last one of them padded by a row, with all that a record may tell."""

    VERSION = tfds.core.Version("1.0.0")
    TILES = (
        # split, biome, hemisphere, annotator, scenes, class id of the upper half
        ("train", 1, "WH", "expert", 30, 1),
        ("train", 13, "EH", "expert", 28, 7),
        ("train", 13, "EH", "non_expert", 60, 7),
        ("train", 2, "EH", "non_expert", 29, 1),
        ("train", 0, "", "", 0, 0),
        ("test", 1, "WH", "held_out", 12, 8),
    )

    FACTS = {
        "annotator": tfds.features.Text(),
        "hemisphere": tfds.features.Text(),
        "biome": tfds.features.Scalar(np.int32),
        "s1_scenes": tfds.features.Scalar(np.int32),
    }

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "s2": tfds.features.Tensor(shape=(4, 4, 2), dtype=np.uint16),
                    "s1": tfds.features.Tensor(shape=(4, 4, 2), dtype=np.float32),
                    "label": tfds.features.Tensor(shape=(4, 4), dtype=np.uint8),
                }
                | self.FACTS
            ),
            metadata=tfds.core.MetadataDict(origin={"source": "a test"}),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, wanted):
        for key, (split, biome, hemisphere, annotator, scenes, class_id) in enumerate(self.TILES):
            if split == wanted:
                label = np.full((4, 4), bands.IGNORE, np.uint8)
                label[:2] = class_id
                s2, s1 = np.ones((4, 4, 2), np.uint16), np.zeros((4, 4, 2), np.float32)
                if split == "test":
                    s2[3], s1[3] = bands.S2_NODATA, np.nan
                facts = {"annotator": annotator, "hemisphere": hemisphere, "biome": biome, "s1_scenes": scenes}
                yield key, {"s2": s2, "s1": s1, "label": label} | {name: facts[name] for name in self.FACTS}


class Bare(Recorded):
    """The same, as from a builder that kept the annotator only."""

    FACTS = {"annotator": tfds.features.Text()}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> contents.Description:
    builder = Recorded(data_dir=tmp_path_factory.mktemp("recorded"), file_format="array_record")
    builder.download_and_prepare()
    return contents.describe(builder)


def test_sums_by_group(recorded):
    tiles = {name: {value: sums.tiles for value, sums in group.items()} for name, group in recorded.groups.items()}
    assert tiles == {
        "split": {"train": 5, "test": 1},
        "biome": {
            "1 tropical moist broadleaf forests": 2,
            "13 deserts and xeric shrublands": 2,
            "2 tropical dry broadleaf forests": 1,
            "unknown": 1,
        },
        "hemisphere": {"WH": 2, "EH": 3, "unknown": 1},
        "annotator": {"expert": 2, "non_expert": 2, "unknown": 1, "held_out": 1},
    }
    for group in recorded.groups.values():
        assert sum(sums.pixels for sums in group.values()) == 5 * 16 + 12  # a padded row is no pixel
        assert sum(sums.class_pixels for sums in group.values()).tolist() == [8, 16, 0, 0, 0, 0, 0, 16, 8]
    wh = recorded.groups["hemisphere"]["WH"]
    assert (wh.pixels, wh.class_pixels.tolist()) == (28, [0, 8, 0, 0, 0, 0, 0, 0, 8])


def test_a_pixel_counts_that_any_band_saw_or_somebody_marked():
    label = np.array([[0, bands.IGNORE, bands.IGNORE, bands.IGNORE]], np.uint8)
    s2 = np.array([[[0, 0], [0, 5], [0, 0], [0, 0]]], np.uint16)
    s1 = np.array([[[np.nan] * 2, [np.nan] * 2, [np.nan, -9], [np.nan] * 2]], np.float32)
    assert contents.record_sums({"label": label, "s2": s2, "s1": s1}, 9).pixels == 3
    assert contents.record_sums({"label": label, "s2": s2, "s1": s1[..., :0]}, 9).pixels == 2


def test_scenes(recorded):
    summaries = recorded.to_json()["s1_scenes"]
    assert summaries["train"] == {"tiles": 4, "unknown": 1, "min": 28, "median": 29.5, "max": 60}
    assert summaries["test"] == {"tiles": 1, "unknown": 0, "min": 12, "median": 12, "max": 12}
    assert contents.scene_summary({3: 2, 9: 1})["median"] == 3
    assert contents.scene_summary({0: 7}) == {"tiles": 0, "unknown": 7, "min": None, "median": None, "max": None}


def test_tables(recorded):
    text = describe.tables(recorded)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert ["train", "5", "80", "40", "50.0 %"] in rows
    assert ["all", "6", "92", "48", "47.8 %"] in rows
    assert ["trees", "16", "0", "16", "33.3 %"] in rows
    assert ["WH", "2", "16", "42.9 %", "0.0", "50.0", "0.0", "0.0", "0.0", "0.0", "0.0", "0.0", "50.0"] in rows
    assert ["train", "4", "28", "29.5", "60", "1"] in rows
    biomes = [row[0] for row in rows if row[0][:1].isdigit()]
    assert [name.split()[0] for name in biomes] == ["1", "2", "13"]
    first_unknown = next(place for place, row in enumerate(rows) if row[0] == "unknown")
    assert rows[first_unknown - 1][0] == "13 deserts and xeric shrublands"
    assert "do not have" not in text


def test_a_data_set_without_those_features(recorded, tmp_path):
    builder = Bare(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    bare = contents.describe(builder)
    assert bare.absent() == ["biome", "hemisphere", "s1_scenes"]
    assert {value: sums.tiles for value, sums in bare.groups["annotator"].items()} == {
        value: sums.tiles for value, sums in recorded.groups["annotator"].items()
    }
    text = describe.tables(bare)
    assert text.endswith("The records do not have: biome, hemisphere, s1_scenes.")
    assert "## By biome" not in text and "## Sentinel-1 scenes" not in text


def test_what_is_known_of_no_tile_has_no_table(recorded):
    unknown = {"unknown": recorded.groups["split"]["train"]}
    groups = recorded.groups | {"biome": unknown, "annotator": {}}
    text = describe.tables(dataclasses.replace(recorded, groups=groups, scenes={"train": {0: 5}, "test": {0: 1}}))
    assert text.endswith("\n\nKnown of no tile: biome, annotator, s1_scenes.")
    assert [line for line in text.splitlines() if line.startswith("## ")][2:] == ["## By hemisphere"]
    # One tile of which it is known is enough.
    text = describe.tables(dataclasses.replace(recorded, groups=groups, scenes={"train": {0: 5}, "test": {3: 1}}))
    assert "## Sentinel-1 scenes" in text and text.endswith("Known of no tile: biome, annotator.")


def test_command(tile_folder, tmp_path):
    config = DynamicWorldPlusConfig(name="mine", tiles=tile_folder, tile_size_px=80)
    prepare(config, tmp_path / "data")
    arguments = ("--data_dir", tmp_path / "data", "--name", "mine", "--json", tmp_path / "mine.json")
    result = command("tfds_dwplus.describe", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    written = json.loads((tmp_path / "mine.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"tiles", "data", "mine.json"}
    assert (
        written["dataset"] == "dynamic_world_plus/mine/1.0.0"
        and written["groups"]["annotator"]["simulator"]["tiles"] == 6
    )
    expected = np.zeros(len(bands.CLASSES), int)
    records = [record for record in tile_files.list_tiles(tile_folder) if record.split == "train"]
    for record in records:
        label = tile_files.read_tile(tile_folder, record, bands.S2_BANDS).label
        expected += [(label == class_id).sum() for class_id in range(len(bands.CLASSES))]
    train = written["groups"]["split"]["train"]
    assert train["class_pixels"] == expected.tolist() and train["labelled_pixels"] == expected.sum()
    assert (train["tiles"], train["pixels"]) == (4, 4 * 64 * 64)  # of the tiles, not of the 80 x 80 records
    assert f"{expected[1]:,}" in result.stdout


def test_refused(tmp_path):
    write_folder(tmp_path / "tiles", {"train": 1}, size_px=32)
    prepare(DynamicWorldPlusConfig(name="mine", tiles=tmp_path / "tiles", tile_size_px=32), tmp_path / "data")

    def error(*arguments: object) -> str:
        return refused(command("tfds_dwplus.describe", "--data_dir", tmp_path / "data", *arguments, cwd=tmp_path))

    assert "no data set dynamic_world_plus/yours" in error("--name", "yours")
    with pytest.raises(ValueError, match=r"no data set .* \(found: mine\)"):
        open_dataset(tmp_path / "data", "yours")
    with pytest.raises(ValueError, match="is a folder"):
        outputs.check_output(tmp_path, "--json")
    assert "no folder" in error("--name", "mine", "--json", tmp_path / "none" / "x.json")
