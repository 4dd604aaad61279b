"""One prepared folder, read by TensorFlow Datasets as tf.data and as a data source, and TFDS's own checks of the builder."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import REPOSITORY, write_folder

from tfds_dwplus import Builder, DynamicWorldPlusConfig
from tfds_dwplus.prepare import prepare

tf = pytest.importorskip("tensorflow", reason="the TensorFlow side of TFDS needs TensorFlow", exc_type=ImportError)

# TensorFlow's and Beam's own.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Folder with a data set `mine` of five train tiles and two test tiles."""
    folder = tmp_path_factory.mktemp("tfds")
    tiles = write_folder(folder / "tiles", {"train": 5, "test": 2}, size_px=32)
    prepare(DynamicWorldPlusConfig(name="mine", tiles=tiles, tile_size_px=40), folder / "data")
    return folder / "data"


@pytest.mark.parametrize("name", ["dynamic_world_plus/mine", "dynamic_world_plus/mine:1.0.0"])
def test_tf_data_equals_the_data_source(data_dir, name):
    dataset, info = tfds.load(name, data_dir=data_dir, split="train", with_info=True)
    source = tfds.data_source(name, data_dir=data_dir, split="train")
    assert int(dataset.cardinality()) == len(source) == 5 and info.metadata["sensors"] == ["s2", "s1"]
    assert dataset.element_spec["s2"] == tf.TensorSpec((40, 40, 9), tf.uint16)
    for one, two in zip(dataset, source, strict=True):
        assert one.keys() == two.keys()
        for key, value in two.items():
            np.testing.assert_array_equal(one[key].numpy(), value)
            assert isinstance(value, bytes) or one[key].numpy().dtype == value.dtype


def test_splits_slices_batches_and_decoders(data_dir):
    def load(**settings):
        return tfds.load("dynamic_world_plus/mine", data_dir=data_dir, **settings)

    ids = [r["tile_id"] for r in tfds.data_source("dynamic_world_plus/mine", data_dir=data_dir, split="train")]
    assert [r["tile_id"].numpy() for r in load(split="train[1:3]")] == ids[1:3]
    both = load(shuffle_files=True, batch_size=2)
    assert {name: [len(batch["label"]) for batch in split] for name, split in both.items()} == {
        "train": [2, 2, 1],
        "test": [2],
    }
    assert load(split="test", batch_size=-1)["s1"].shape == (2, 40, 40, 2)
    skipped = next(iter(load(split="test", decoders={"s2": tfds.decode.SkipDecoding()})))
    assert skipped["s2"].dtype == tf.string and skipped["label"].shape == (40, 40)
    with pytest.raises(ValueError, match="as_supervised"):
        load(split="test", as_supervised=True)
    again = list(load(split="test").repeat(2))
    assert len(again) == 4


def test_a_fresh_process_loads_by_name(data_dir):
    program = (
        "import tfds_dwplus, tensorflow_datasets as tfds;"
        f"d = tfds.load('dynamic_world_plus/mine', data_dir={str(data_dir)!r}, split='test');"
        "print(type(d).__mro__[-3].__name__, [r['s2'].shape.as_list() for r in d])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True
    )
    assert "[[40, 40, 9], [40, 40, 9]]" in done.stdout


if importlib.util.find_spec("dill"):

    class TestBuilder(tfds.testing.DatasetBuilderTestCase):
        """TFDS's own checks, on the config 'full' with a folder of tiles as its manual download."""

        DATASET_CLASS = Builder
        SPLITS = {"train": 3, "test": 2}
        BUILDER_CONFIG_NAMES_TO_TEST = [DynamicWorldPlusConfig(name="full", tile_size_px=32)]

        @classmethod
        def setUpClass(cls):
            cls.EXAMPLE_DIR = write_folder(
                REPOSITORY / ".pytest_cache" / "dummy_data", {"train": 3, "test": 2}, size_px=32
            )
            super().setUpClass()


@pytest.mark.slow
def test_tfds_build(tmp_path):
    for package in ("apache_beam", "mlcroissant"):
        pytest.importorskip(package, reason="the command tfds build imports it")
    tiles = write_folder(tmp_path / "tiles", {"train": 2, "test": 1}, size_px=32)
    command = [sys.executable, "-m", "tensorflow_datasets.scripts.cli.main", "build", "dynamic_world_plus/full"]
    command += ["--imports", "tfds_dwplus", "--manual_dir", tiles, "--data_dir", tmp_path / "data"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    built = tfds.data_source("dynamic_world_plus", data_dir=tmp_path / "data", split="train")
    assert len(built) == 2 and built[0]["s2"].shape == (510, 510, 9)
