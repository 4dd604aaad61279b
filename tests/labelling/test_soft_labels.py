"""The shares of a network from the tile folder to the loss: packed, cropped and turned with the label, and learned."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rasterio
import tensorflow_datasets as tfds
from conftest import small_config, write_folder

from specsar_jax.batches import dataset, pipeline, preprocess
from specsar_jax.config import Data, Loss
from specsar_jax.training import losses
from specsar_jax.training.loop import train
from tfds_dwplus import DynamicWorldPlusConfig, bands
from tfds_dwplus.prepare import prepare
from tfds_dwplus.tiles.labelling.pixels import shares
from tfds_dwplus.tiles.prepared import open_dataset, read_split
from tfds_dwplus.tiles.records import lazily
from tfds_dwplus.tiles.tile_files import list_tiles, read_tile


def _stored(label: np.ndarray) -> np.ndarray:
    """Shares whose largest is that of the label, different in each pixel."""
    random = np.random.default_rng(0).dirichlet(np.ones(9), label.shape).astype(np.float32)
    hot = np.eye(9, dtype=np.float32)[np.where(label == bands.IGNORE, 0, label)]
    return shares(0.45 * random + 0.55 * hot, np.ones(label.shape, bool))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data set `mine`, whose tiles have shares, but for the first of them."""
    folder = tmp_path_factory.mktemp("soft")
    tiles = write_folder(folder / "tiles", {"train": 8, "validation": 2, "test": 2})
    (tiles / "probability").mkdir()
    for record in list_tiles(tiles)[1:]:
        label = read_tile(tiles, record, ()).label
        with rasterio.open(tiles / "label" / f"{record.tile_id}.tif") as raster:
            profile = raster.profile
        with rasterio.open(
            tiles / "probability" / f"{record.tile_id}.tif", "w", **profile | {"count": 9, "interleave": "band"}
        ) as raster:
            raster.write(np.moveaxis(_stored(label), -1, 0))
    prepare(DynamicWorldPlusConfig(name="mine", tiles=tiles, tile_size_px=64), folder / "data")
    return folder


def test_records_hold_the_shares(folder):
    builder = open_dataset(folder / "data", "mine")
    for source in (
        read_split(builder, "train"),
        tfds.data_source("dynamic_world_plus/mine", data_dir=folder / "data")["train"],
    ):
        known = 0
        for place in range(len(source)):
            record = source[place]
            assert record["probability"].shape == (64, 64, 9) and record["probability"].dtype == np.uint8
            known += record["probability"].any()
            if record["probability"].any():
                np.testing.assert_array_equal(record["probability"], _stored(record["label"]))
        assert known == 7


def test_cut_and_padded(folder, tmp_path):
    for name, size in (("cut", 40), ("padded", 300)):  # the latter in blocks
        config = DynamicWorldPlusConfig(name=name, tiles=folder / "tiles", tile_size_px=size, cut=name == "cut")
        prepare(config, tmp_path)
        source = lazily(read_split(open_dataset(tmp_path, name), "train"))
        record = next(source[place] for place in range(len(source)) if source[place]["probability"][0:8, 0:8].any())
        label, stored = record["label"][0:size, 0:size], record["probability"][0:size, 0:size]
        labelled = label != bands.IGNORE
        assert (stored.argmax(axis=-1) == label)[labelled].all()
        assert name == "cut" or not stored[64:].any()


def test_crops_flips_and_zoom_move_shares_with_the_label(folder):
    builder = open_dataset(folder / "data", "mine")
    rasters = pipeline.select(bands.S2_BANDS, dataset.dataset_bands(builder), ("s2", "s1"), probabilities=True)
    data = Data(name="mine", crop_px=32, zoom=1.5, brightness=0.1)
    batches = pipeline.train_batches(read_split(builder, "train"), rasters, data, batch_size=4, seed=0)
    plain = pipeline.select(bands.S2_BANDS, dataset.dataset_bands(builder), ("s2", "s1"))
    others = pipeline.train_batches(read_split(builder, "train"), plain, data, batch_size=4, seed=0)
    for _ in range(4):
        batch, other = next(batches), next(others)
        assert batch["probability"].shape == (4, 32, 32, 9) and "probability" not in other
        for name in other:  # crops and noise do not depend on it
            np.testing.assert_array_equal(batch[name], other[name])
        there = (batch["label"] != bands.IGNORE) & batch["probability"].any(axis=-1)
        assert there.any() and (batch["probability"].argmax(axis=-1) == batch["label"])[there].all()
    tile = {name: batch[name][0] for name in ("s2", "s1", "label", "probability")}
    assert preprocess.augment(tile, data, np.random.default_rng(0))["probability"].shape == (32, 32, 9)


def test_the_loss_by_hand():
    logits = jax.random.normal(jax.random.key(0), (1, 4, 9))
    label = jnp.array([[1, 3, 255, 2]], jnp.uint8)
    stored = np.zeros((1, 4, 9), np.uint8)
    stored[0, 0, :3] = 55, 150, 50
    stored[0, 1, 3] = 255
    stored[0, 2, 0] = 255  # below the confidence: no label, so it teaches nothing
    alpha = tuple(np.linspace(0.5, 2, 9).tolist())
    log_p = np.asarray(jax.nn.log_softmax(logits))[0]
    hard = [alpha[3] * log_p[1, 3], alpha[2] * log_p[3, 2]]  # the last one has no shares
    soft = sum(share / 255 * alpha[i] * log_p[0, i] for i, share in enumerate((55, 150, 50)))
    config = Loss(name="soft")
    given = losses.pixel_loss(logits, label, alpha, config=config, probability=jnp.asarray(stored))
    np.testing.assert_allclose(given, -(soft * 255 / 255 + sum(hard)) / 3, rtol=1e-5)
    cross_entropy = losses.pixel_loss(logits, label, alpha, config=Loss(name="cross_entropy"))
    np.testing.assert_allclose(losses.pixel_loss(logits, label, alpha, config=config), cross_entropy, rtol=1e-6)
    gradient = jax.grad(lambda x: losses.pixel_loss(x, label, alpha, config=config, probability=jnp.asarray(stored)))(
        logits
    )
    assert not gradient[0, 2].any() and gradient[0, [0, 1, 3]].all()


def test_its_least_is_at_the_shares():
    shares_ = jnp.array([[[155, 60, 40, 0, 0, 0, 0, 0, 0]]], jnp.uint8)

    def loss(logits):
        return losses.pixel_loss(
            logits, jnp.zeros((1, 1), jnp.uint8), (1.0,) * 9, config=Loss(name="soft"), probability=shares_
        )

    gradient = jax.grad(loss)(jnp.log(shares_ / 255 + 1e-9))
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_training(folder, tmp_path):
    config = small_config(folder, "loss.name=soft", "train.accumulate=2", "train.batch_size=16", "train.steps=2")
    figures = train(config, tmp_path / "run")
    assert figures["tiles"] == 2 and np.isfinite(figures["loss"])


def test_without_shares_it_is_refused(small_run, tmp_path):
    with pytest.raises(
        ValueError, match=r"loss\.name is soft, but .*mine.* holds no probabilities.*--probabilities"
    ) as error:
        train(small_config(small_run, "loss.name=soft"), tmp_path / "run")
    assert "\n" not in str(error.value)


def test_wrong_shares_are_refused_and_corrected_labels_win(folder):
    tiles = folder / "tiles"
    record = list_tiles(tiles)[1]
    tile = read_tile(tiles, record, (), probabilities=True)
    assert dataclasses.replace(tile).probability.any()
    path = tiles / "probability" / f"{record.tile_id}.tif"
    with rasterio.open(path) as raster:
        pixels, profile = raster.read(), raster.profile
    before = path.read_bytes()
    try:
        with rasterio.open(path, "w", **profile) as raster:
            raster.write(pixels[::-1].copy())  # of other classes than the labels
        found = read_tile(tiles, record, (), probabilities=True)
        assert not found.probability[(found.label != bands.IGNORE) & (found.label != 4)].any()
        with rasterio.open(path, "w", **profile) as raster:
            raster.write(pixels // 2)
        with pytest.raises(ValueError, match=r"holds shares that sum to \d+, expected 255"):
            read_tile(tiles, record, (), probabilities=True)
        with rasterio.open(path, "w", **profile | {"count": 2}) as raster:
            raster.write(pixels[:2])
        with pytest.raises(ValueError, match="has 2 bands, expected the shares of water"):
            read_tile(tiles, record, (), probabilities=True)
    finally:
        path.write_bytes(before)
