"""The published Dynamic World network as a bundle: imported, it maps a scene, names its authors, scores tiles and is fine-tuned."""

import json

import numpy as np
import pytest
import rasterio
from conftest import command, refused, write_folder

from specsar_jax import evaluate, import_dynamic_world, predict
from specsar_jax.config import Config, override
from specsar_jax.trained.loading import load_trained
from specsar_jax.training.loop import train
from tfds_dwplus import bands, prepare


@pytest.fixture(scope="module")
def bundle(real, tmp_path_factory):
    path = tmp_path_factory.mktemp("imported") / "dynamic_world.safetensors"
    import_dynamic_world.main(["--saved_model", str(real / "dynamic_world_model"), "--output", str(path)])
    return path


def test_bundle_names_its_authors(bundle):
    trained = load_trained(bundle)
    assert trained.licence == "Apache-2.0" and "Google" in trained.origin
    assert trained.bands == {"s2": bands.S2_BANDS}
    assert trained.config.data.scaling == "log" and trained.config.model.architecture == "dynamic_world"
    assert trained.provenance()["weights_origin"] == trained.origin


def test_predict(bundle, tmp_path):
    dn = np.random.default_rng(0).integers(1, 3000, (9, 64, 60)).astype(np.uint16)
    dn[:, :5] = 0
    dn[2, 10, 10] = 0
    profile = {"driver": "GTiff", "dtype": "uint16", "count": 9, "height": 64, "width": 60, "nodata": 0}
    place = {"crs": "EPSG:32630", "transform": rasterio.Affine(10, 0, 300000, 0, -10, 4000000)}
    with rasterio.open(tmp_path / "s2.tif", "w", **profile, **place) as raster:
        raster.write(dn)
        raster.descriptions = bands.S2_BANDS
    predict.main(["--workdir", str(bundle), "--s2", str(tmp_path / "s2.tif"), "--output", str(tmp_path / "map.tif")])
    with rasterio.open(tmp_path / "map.tif") as raster:
        given, tags = raster.read(1), raster.tags()
    assert (given[:5] == 255).all()
    assert (given == 255).sum() == 5 * 60  # 0 in one band alone is dark
    assert "Google" in tags["weights_origin"] and tags["weights_licence"] == "Apache-2.0"


def test_evaluate_and_finetune(bundle, tmp_path):
    tiles = write_folder(tmp_path / "tiles", {"train": 8, "validation": 1, "test": 1})
    prepare.main(["--tiles", str(tiles), "--name", "few", "--data_dir", str(tmp_path)])
    few = ["--data_dir", str(tmp_path), "--dataset", "few", "--split", "test"]
    evaluate.main(["--workdir", str(bundle), *few, "--output", str(tmp_path / "figures.json")])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["tiles"] == 1 and figures["weights_sha256"] == load_trained(bundle).sha256

    flags = [f"data.data_dir={tmp_path}", "data.name=few", "model=dynamic_world", "data.scaling=log"]
    flags += [
        "data.s2_bands=B4,B3,B2,B8",
        "data.crop_px=64",
        "train.steps=1",
        "train.batch_size=8",
        "optimizer.warmup_steps=0",
    ]
    train(override(Config(), [*flags, f"train.finetune={bundle}"]), tmp_path / "run")
    carried = json.loads((tmp_path / "run" / "pretrained.json").read_text())
    assert not carried["unused"] and not carried["drawn"]
    before, after = load_trained(bundle).variables, load_trained(tmp_path / "run").variables
    kernels = [np.asarray(variables["params"]["stem"]["kernel"]) for variables in (before, after)]
    assert kernels[1].shape == (3, 3, 4, 64)
    assert 0 < np.abs(kernels[1] - kernels[0][:, :, [2, 1, 0, 6]]).max() < 0.01  # B4, B3, B2, B8


@pytest.mark.parametrize(
    "field, said",
    [
        ("model.widths=(8,16)", "model.widths"),
        ("model.branches=stacked", "model.branches"),
        ("optimizer.layer_decay=0.9", "optimizer.layer_decay"),
        ("train.pretrained=b0.safetensors", "train.finetune"),
        ("model.dropout=0.1", "model.dropout"),
    ],
)
def test_fields_that_it_does_not_have(field, said):
    with pytest.raises(ValueError, match=said):
        override(Config(), ["model=dynamic_world", field])


def test_no_saved_model(tmp_path):
    said = refused(
        command(
            "specsar_jax.import_dynamic_world", "--saved_model", tmp_path, "--output", "dw.safetensors", cwd=tmp_path
        )
    )
    assert "SavedModel" in said
    assert not list(tmp_path.glob("dw*"))
