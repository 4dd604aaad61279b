"""SegFormer files as the hub has them, with random tensors, and variables of ours that are read from them."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy

from specsar_jax.config import Model
from specsar_jax.network import model
from specsar_jax.network.segformer import Carried, load_segformer
from tfds_dwplus import bands

STACKED = Model(
    branches="stacked",
    widths=(16, 32, 40, 64),
    blocks=(1, 2, 1, 1),
    heads=(1, 2, 5, 8),
    reductions=(8, 4, 2, 1),
    decoder_width=24,
    layer_norm_epsilon=1e-5,
)
BOTH = dataclasses.replace(STACKED, branches="both")


def hub_tensors(config: Model, channels: int = 11, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors of a SegFormer of these sizes, under the names of files on the hub. No scale is one, no bias zero."""
    rng = np.random.default_rng(seed)
    tensors = {}

    def weight(name: str, *shape: int) -> None:
        tensors[f"{name}.weight"] = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        tensors[f"{name}.bias"] = rng.normal(0, 0.3, shape[0]).astype(np.float32)

    def norm(name: str, width: int) -> None:
        tensors[f"{name}.weight"] = rng.uniform(0.5, 1.5, width).astype(np.float32)
        tensors[f"{name}.bias"] = rng.normal(0, 0.3, width).astype(np.float32)

    for i, width in enumerate(config.widths):
        patch, before = (7, channels) if i == 0 else (3, config.widths[i - 1])
        weight(f"segformer.encoder.patch_embeddings.{i}.proj", width, before, patch, patch)
        norm(f"segformer.encoder.patch_embeddings.{i}.layer_norm", width)
        for block in range(config.blocks[i]):
            at, reduction = f"segformer.encoder.block.{i}.{block}", config.reductions[i]
            norm(f"{at}.layer_norm_1", width)
            norm(f"{at}.layer_norm_2", width)
            for name in ("self.query", "self.key", "self.value", "output.dense"):
                weight(f"{at}.attention.{name}", width, width)
            if reduction > 1:
                weight(f"{at}.attention.self.sr", width, width, reduction, reduction)
                norm(f"{at}.attention.self.layer_norm", width)
            weight(f"{at}.mlp.dense1", 4 * width, width)
            weight(f"{at}.mlp.dwconv.dwconv", 4 * width, 1, 3, 3)
            weight(f"{at}.mlp.dense2", width, 4 * width)
        norm(f"segformer.encoder.layer_norm.{i}", width)
        weight(f"decode_head.linear_c.{i}.proj", config.decoder_width, width)
    weight("decode_head.linear_fuse", config.decoder_width, len(config.widths) * config.decoder_width, 1, 1)
    del tensors["decode_head.linear_fuse.bias"]
    norm("decode_head.batch_norm", config.decoder_width)
    tensors["decode_head.batch_norm.running_mean"] = rng.normal(size=config.decoder_width).astype(np.float32)
    tensors["decode_head.batch_norm.running_var"] = rng.uniform(0.5, 2, config.decoder_width).astype(np.float32)
    tensors["decode_head.batch_norm.num_batches_tracked"] = np.array(7)
    weight("decode_head.classifier", config.classes, config.decoder_width, 1, 1)
    return tensors


TENSORS = hub_tensors(STACKED)
RGB_TENSORS = hub_tensors(STACKED, channels=3)


@functools.cache
def drawn(config: Model) -> model.Variables:
    return model.init_params(config, jax.random.key(0))


def load(
    path: Path, tensors: dict[str, np.ndarray], config: Model, s2: tuple[str, ...] = bands.S2_BANDS
) -> tuple[dict, Carried]:
    """Variables from a safetensors file with these tensors, drawn ones where it has none."""
    path.write_bytes(safetensors.numpy.save(tensors))
    return load_segformer(path, drawn(config), config, s2)


def equal(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=0)
