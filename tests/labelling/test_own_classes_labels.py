"""A network of classes of its own labels tiles: codes, shares, colours, classes.csv; folders whose labels mean something else."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import command, refused, write_folder
from drawn_networks import drawn
from own_classes import FOUR, small, with_names

from specsar_jax.trained.bundle import write_bundle
from tfds_dwplus import DynamicWorldPlusConfig, bands, label
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles.labelling import folder as folders
from tfds_dwplus.tiles.labelling.class_table import NAME, read_classes, write_classes
from tfds_dwplus.tiles.prepared import dataset_classes, open_dataset, read_split

ALL = ("--confidence", "0", "--keep_clouds", "--probabilities")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """An untrained network of `FOUR`."""
    path = tmp_path_factory.mktemp("bundle") / "network.safetensors"
    write_bundle(with_names(drawn(small(), classes=FOUR)), path)
    return path


@pytest.fixture
def tiles(tmp_path) -> Path:
    """Two tiles without labels or annotators."""
    folder = write_folder(tmp_path / "tiles", {"train": 1, "test": 1})
    shutil.rmtree(folder / "label")
    (folder / "tiles.csv").write_text((folder / "tiles.csv").read_text().replace("simulated,64", ",64"))
    return folder


def run(bundle: Path, tiles: Path, *more: str) -> None:
    label.main(["--network", str(bundle), "--tiles", str(tiles), *more])


def test_labels_classes_and_the_data_set(bundle, tiles, tmp_path, capsys):
    run(bundle, tiles, *ALL)
    told = capsys.readouterr().out
    assert all(name in told for name in FOUR.names) and "darkness" not in told
    assert read_classes(tiles) == FOUR
    for path in (tiles / "label").glob("*.tif"):
        with rasterio.open(path) as raster, rasterio.open(tiles / "probability" / path.name) as shares:
            codes, colours = raster.read(1), raster.colormap(1)
            assert shares.descriptions == FOUR.names
        assert codes.min() >= 1 and codes.max() <= 4 and [colours[code][:3] for code in range(1, 5)] == FOUR.rgb()
        facts = folders.read_facts(path)
        assert facts.counts.classes == tuple(np.bincount(codes.ravel(), minlength=5)[1:])
        assert facts.settings["dark_water"] == "kept" and folders.is_of_a_network(path)
    before = {path: path.stat().st_mtime_ns for path in tiles.rglob("*.tif")}
    run(bundle, tiles, *ALL)
    assert "0 tiles labelled" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in tiles.rglob("*.tif")}
    prepare(DynamicWorldPlusConfig(name="own", tiles=tiles, tile_size_px=64), tmp_path / "data")
    builder = open_dataset(tmp_path / "data", "own")
    assert dataset_classes(builder) == FOUR and read_split(builder, "test")[0]["probability"].shape == (64, 64, 4)


def test_a_class_called_cloud_is_one(tmp_path, tiles):
    classes = bands.Classes(("cloud", "nodata", "unsure", "classes"), FOUR.colours)
    write_bundle(with_names(drawn(small(), classes=classes)), tmp_path / "n.safetensors")
    run(tmp_path / "n.safetensors", tiles, *ALL)
    counts = [folders.read_facts(path).counts for path in (tiles / "label").glob("*.tif")]
    assert all(of.cloud == of.nodata == of.unsure == 0 and sum(of.classes) == 64**2 for of in counts)


def test_a_folder_of_other_classes_is_refused(bundle, tiles):
    others = bands.Classes((*FOUR.names[:3], "ville"), FOUR.colours)
    write_classes(tiles, others)
    line = refused(command("tfds_dwplus.label", "--network", bundle, "--tiles", tiles, cwd=tiles))
    assert ", ".join(others.names) in line and ", ".join(FOUR.names) in line and NAME in line
    assert not (tiles / "label").exists() and read_classes(tiles) == others
    (tiles / NAME).unlink()  # as it says: a copy without it
    run(bundle, tiles)
    assert read_classes(tiles) == FOUR


def test_labels_of_dynamic_worlds_classes_are_not_mixed_with_others(bundle, tiles):
    (tiles / "label").mkdir()
    shutil.copy(next((tiles / "s1").glob("*.tif")), tiles / "label")
    with pytest.raises(ValueError, match="has labels of the classes water, trees") as refusal:
        run(bundle, tiles, "--only_unlabelled")
    assert f"move {tiles / 'label'} away" in str(refusal.value) and not (tiles / NAME).exists()
    (tiles / "label").rename(tiles / "labels_before")
    run(bundle, tiles)
    assert read_classes(tiles) == FOUR


def test_a_network_of_dynamic_worlds_does_not_label_a_folder_of_others(tmp_path, tiles):
    write_bundle(with_names(drawn(small())), tmp_path / "n.safetensors")
    write_classes(tiles, FOUR)
    with pytest.raises(ValueError, match=r"classes.csv has the classes blé d'hiver, .*, the network has water, trees"):
        run(tmp_path / "n.safetensors", tiles)
