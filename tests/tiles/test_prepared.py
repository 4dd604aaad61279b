"""A data set from a stranger is checked before TFDS reads it."""

import json
import shutil
import sys

import pytest
import rasterio

from tfds_dwplus.tiles.prepared import open_dataset
from tfds_dwplus.tiles.tile_files import TileRecord, list_tiles, read_tile


@pytest.fixture
def given(small_run, tmp_path):
    """A copy of a data set, and a function that changes one of its files."""
    shutil.copytree(small_run / "data", tmp_path / "data")

    def change(name, edit) -> str:
        (path,) = (tmp_path / "data").rglob(name)
        tree = json.loads(path.read_text())
        edit(tree)
        path.chmod(0o644)
        path.write_text(json.dumps(tree))
        with pytest.raises(ValueError) as caught:
            open_dataset(tmp_path / "data", "mine")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return change


def _label(tree):
    return tree["featuresDict"]["features"]["label"]


@pytest.mark.parametrize("of", [lambda tree: tree, _label], ids=["of the record", "of a feature"])
def test_code_that_features_name_is_not_run(given, tmp_path, monkeypatch, of):
    """TFDS imports the modules of `pythonClassName`, at any depth."""
    (tmp_path / "evil_features.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    said = given("features.json", lambda tree: of(tree).update(pythonClassName="evil_features.Record"))
    assert "names the type 'evil_features.Record'" in said and "evil_features" not in sys.modules


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        (
            "dataset_info.json",
            lambda tree: tree["splits"][0].update(filepathTemplate="../../{SPLIT}"),
            "names in its folder",
        ),
        ("dataset_info.json", lambda tree: tree["splits"][0].update(name="../a"), "begins with a dot"),
        ("dataset_info.json", lambda tree: tree["splits"][0].update(shardLengths=["9" * 30]), "no lengths"),
        ("dataset_info.json", lambda tree: tree.update(fileFormat="tfrecord"), "array_record"),
        ("features.json", lambda tree: tree["featuresDict"]["features"].pop("s2"), "no raster 's2'"),
        (
            "features.json",
            lambda tree: tree["featuresDict"]["features"]["label"]["tensor"]["shape"].update(
                dimensions=["999999", "999999"]
            ),
            "bytes a record",
        ),
        ("metadata.json", lambda tree: tree.update(s2_bands=7), "s2_bands"),
    ],
)
def test_descriptions_that_are_refused(given, name, edit, message):
    assert message in given(name, edit)


def test_a_name_is_no_path(small_run):
    with pytest.raises(ValueError, match="no data set"):
        open_dataset(small_run / "data", "../dynamic_world_plus/mine")


@pytest.mark.parametrize("tile_id", ["../../etc/hostname", "/etc/hostname", "a/b", ".hidden", "a\x1b[2J"])
def test_a_tile_id_is_no_path(tmp_path, tile_id):
    (tmp_path / "tiles.csv").write_text(f'tile_id,split\n"{tile_id}",train\n')
    with pytest.raises(ValueError, match="a name, not a path"):
        list_tiles(tmp_path)


def test_a_tile_that_claims_60000_pixels_is_refused_by_its_header(tmp_path):
    """Its file has some kB; read, it would take 60 GB."""
    for kind, dtype, names in (("s2", "uint16", ("B2", "B3")), ("label", "uint8", ("label",))):
        (tmp_path / kind).mkdir()
        with rasterio.open(
            tmp_path / kind / "a.tif", "w", driver="GTiff", width=60_000, height=60_000, count=len(names), dtype=dtype,
            crs="EPSG:32630", transform=rasterio.Affine(10, 0, 0, 0, -10, 0), sparse_ok=True, tiled=True, blockxsize=4096, blockysize=4096,
        ) as raster:  # fmt: skip
            raster.descriptions = names
    for most_px in (None, 510):
        with pytest.raises(ValueError, match="60000 x 60000 pixels"):
            read_tile(tmp_path, TileRecord("a", "train"), ("B2", "B3"), (), most_px=most_px)
