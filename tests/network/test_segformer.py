"""Weights of public SegFormer files: the same function as theirs, shares of branches."""

import dataclasses
import functools
import json
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import erf
from segformer_files import BOTH, RGB_TENSORS, STACKED, TENSORS, drawn, equal, hub_tensors, load

from specsar_jax.config import Model
from specsar_jax.network import model
from specsar_jax.network.segformer import load_segformer
from tfds_dwplus.bands import S2_BANDS as S2


@functools.partial(jax.jit, static_argnames="config")
def logits_of(variables: model.Variables, s2: jax.Array, s1: jax.Array, config: Model = STACKED) -> jax.Array:
    return model.apply(variables, s2, s1, config=config)


def names_of(variables: model.Variables) -> dict[str, np.ndarray]:
    return {
        ".".join(key.key for key in place[1:]): np.asarray(leaf) for place, leaf in jax.tree.leaves_with_path(variables)
    }


class PlainSegFormer:
    """SegFormer from its paper's text, in float64, channels first, one tile: shares no line with `specsar_jax.network.model`."""

    def __init__(self, tensors: dict[str, np.ndarray], heads: tuple[int, ...]) -> None:
        self.tensors = {name: value.astype(np.float64) for name, value in tensors.items()}
        self.heads = heads

    def logits(self, x: np.ndarray) -> np.ndarray:
        features = []
        for i, heads in enumerate(self.heads):
            at = f"segformer.encoder.patch_embeddings.{i}"
            x = self.norm(self.conv(x, f"{at}.proj", *((4, 3) if i == 0 else (2, 1))), f"{at}.layer_norm")
            block = 0
            while f"segformer.encoder.block.{i}.{block}.layer_norm_1.weight" in self.tensors:
                at = f"segformer.encoder.block.{i}.{block}"
                x = x + self.attention(self.norm(x, f"{at}.layer_norm_1"), f"{at}.attention", heads)
                x = x + self.mix_ffn(self.norm(x, f"{at}.layer_norm_2"), f"{at}.mlp")
                block += 1
            x = self.norm(x, f"segformer.encoder.layer_norm.{i}")
            features.append(x)
        size = features[0].shape[1:]
        projected = [resized(self.dense(f, f"decode_head.linear_c.{i}.proj"), size) for i, f in enumerate(features)]
        joined = self.dense(np.concatenate(projected[::-1]), "decode_head.linear_fuse")
        mean, var, scale, bias = (
            self.tensors[f"decode_head.batch_norm.{name}"][:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        hidden = np.maximum((joined - mean) / np.sqrt(var + 1e-5) * scale + bias, 0)
        return self.dense(hidden, "decode_head.classifier")

    def dense(self, x: np.ndarray, name: str) -> np.ndarray:
        weight = self.tensors[f"{name}.weight"]
        bias = self.tensors.get(f"{name}.bias", np.zeros(len(weight)))
        return np.tensordot(weight.reshape(len(weight), -1), x, 1) + bias.reshape(-1, *[1] * (x.ndim - 1))

    def conv(self, x: np.ndarray, name: str, stride: int, padding: int) -> np.ndarray:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
        patches = sliding_window_view(x, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
        if weight.shape[1] == 1:
            return np.einsum("chwij,cij->chw", patches, weight[:, 0]) + bias[:, None, None]
        return np.einsum("chwij,ocij->ohw", patches, weight, optimize=True) + bias[:, None, None]

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
        scale, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return x * scale[:, None, None] + bias[:, None, None]

    def attention(self, x: np.ndarray, name: str, heads: int) -> np.ndarray:
        context = x
        if f"{name}.self.sr.weight" in self.tensors:
            reduction = self.tensors[f"{name}.self.sr.weight"].shape[-1]
            context = self.norm(self.conv(x, f"{name}.self.sr", reduction, 0), f"{name}.self.layer_norm")
        query, key, value = (
            self.dense(of, f"{name}.self.{kind}").reshape(heads, len(x) // heads, -1)
            for of, kind in ((x, "query"), (context, "key"), (context, "value"))
        )
        scores = np.einsum("hcq,hck->hqk", query, key) / np.sqrt(len(x) // heads)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = scores / scores.sum(axis=-1, keepdims=True)
        return self.dense(np.einsum("hqk,hck->hcq", weights, value).reshape(x.shape), f"{name}.output.dense")

    def mix_ffn(self, x: np.ndarray, name: str) -> np.ndarray:
        hidden = self.conv(self.dense(x, f"{name}.dense1"), f"{name}.dwconv.dwconv", 1, 1)
        return self.dense(hidden * (1 + erf(hidden / np.sqrt(2))) / 2, f"{name}.dense2")


def resized(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, half-pixel centres: a matrix for the rows, one for the columns."""
    matrices = []
    for old, new in zip(x.shape[1:], size, strict=True):
        place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        matrices.append(np.maximum(1 - np.abs(place[:, None] - np.arange(old)), 0))
    return np.einsum("chw,yh,xw->cyx", x, *matrices)


SIZES = pytest.mark.parametrize(("height", "width"), [(64, 96), (70, 61)])


@SIZES
def test_computes_what_a_plain_segformer_computes(tmp_path, height, width):
    variables, _ = load(tmp_path / "a.safetensors", TENSORS, STACKED)
    tile = np.random.default_rng(1).normal(size=(height, width, 11)).astype(np.float32)
    plain = PlainSegFormer(TENSORS, STACKED.heads).logits(tile.transpose(2, 0, 1).astype(np.float64))
    wanted = resized(plain, (height, width)).transpose(1, 2, 0)
    assert wanted.std() > 0.1
    np.testing.assert_allclose(logits_of(variables, tile[None, ..., :9], tile[None, ..., 9:])[0], wanted, atol=1e-4)


@SIZES
@pytest.mark.filterwarnings("ignore")  # theirs, on import
def test_computes_what_transformers_computes(tmp_path, height, width):
    torch = pytest.importorskip("torch", reason="torch comes with the extra 'bench'")
    transformers = pytest.importorskip("transformers", reason="transformers comes with the extra 'bench'")
    theirs = transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(
            num_channels=11,
            hidden_sizes=STACKED.widths,
            depths=STACKED.blocks,
            num_attention_heads=STACKED.heads,
            sr_ratios=STACKED.reductions,
            decoder_hidden_size=STACKED.decoder_width,
            num_labels=STACKED.classes,
        )
    ).eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in theirs.state_dict().items():
        if value.is_floating_point():
            spread = 0.3 if value.ndim == 1 else value[0].numel() ** -0.5
            value.normal_(0, spread, generator=generator).add_(float("norm" in name and name.endswith("weight")))
            value.abs_() if name.endswith("running_var") else None
    theirs.save_pretrained(tmp_path)
    variables, carried = load_segformer(tmp_path, drawn(STACKED), STACKED, S2)
    assert carried.drawn == () and carried.unused == ("decode_head.batch_norm.num_batches_tracked",)
    tile = torch.randn(1, 11, height, width, generator=generator)
    with torch.no_grad():
        quarter = theirs(tile).logits
        wanted = torch.nn.functional.interpolate(quarter, (height, width), mode="bilinear", align_corners=False)
    tile = tile.permute(0, 2, 3, 1).numpy()
    assert wanted.std() > 0.1
    found = logits_of(variables, tile[..., :9], tile[..., 9:])
    np.testing.assert_allclose(found, wanted.permute(0, 2, 3, 1).numpy(), atol=1e-4)
    network = model.SpecSARFormer(STACKED)
    np.testing.assert_allclose(
        jax.jit(network.apply)(variables, tile[..., :9], tile[..., 9:]), quarter.permute(0, 2, 3, 1).numpy(), atol=1e-4
    )


def test_two_branches_split_the_channels_of_the_file_head_by_head(tmp_path):
    weights = names_of(load(tmp_path / "a.safetensors", RGB_TENSORS, BOTH)[0])
    # The third stage: 40 channels in 5 heads of 8; spectral 30, 6 of each head; 24 of 32 before it.
    block = "segformer.encoder.block.2.0"
    query = RGB_TENSORS[f"{block}.attention.self.query.weight"].reshape(5, 8, 40)
    output = RGB_TENSORS[f"{block}.attention.output.dense.weight"].reshape(40, 5, 8)
    bias = RGB_TENSORS[f"{block}.attention.self.value.bias"].reshape(5, 8)
    reduce = RGB_TENSORS[f"{block}.attention.self.sr.weight"]
    expand, project = (RGB_TENSORS[f"{block}.mlp.dense{i}.weight"] for i in (1, 2))
    depthwise = RGB_TENSORS[f"{block}.mlp.dwconv.dwconv.weight"]
    embed = RGB_TENSORS["segformer.encoder.patch_embeddings.2.proj.weight"]
    for branch, own, of_head, hidden, before in (
        ("spectral", slice(30), slice(6), slice(120), slice(24)),
        ("sar", slice(30, 40), slice(6, 8), slice(120, 160), slice(24, 32)),
    ):
        width = own.stop - (own.start or 0)
        at = f"stage3.blocks.{branch}"
        equal(weights[f"{at}_self.query.kernel"][0], query[:, of_head, own].reshape(width, width).T)
        equal(weights[f"{at}_self.output.kernel"][0], output[own, :, of_head].reshape(width, width).T)
        equal(np.split(weights[f"{at}_self.key_value.bias"][0], 2)[1], bias[:, of_head].ravel())
        equal(weights[f"{at}_self.reduce.kernel"][0], reduce[own, own].transpose(2, 3, 1, 0))
        equal(weights[f"{at}_ffn.expand.kernel"][0], expand[hidden, own].T)
        equal(weights[f"{at}_ffn.project.kernel"][0], project[own, hidden].T)
        equal(weights[f"{at}_ffn.depthwise.kernel"][0], depthwise[hidden, 0].transpose(1, 2, 0))
        equal(weights[f"stage3.{branch}_embed.kernel"], embed[own, before].transpose(2, 3, 1, 0))
        equal(weights[f"stage3.{branch}_norm.scale"], RGB_TENSORS["segformer.encoder.layer_norm.2.weight"][own])


def test_branches_too_wide_to_split_a_file_both_take_its_first_channels(tmp_path):
    config = dataclasses.replace(BOTH, widths=(24, 48, 60, 96), spectral_share=0.5)
    weights = names_of(load(tmp_path / "a.safetensors", RGB_TENSORS, config)[0])
    query = RGB_TENSORS["segformer.encoder.block.2.0.attention.self.query.weight"].reshape(5, 8, 40)
    expand = RGB_TENSORS["segformer.encoder.block.2.0.mlp.dense1.weight"]
    for branch in ("spectral", "sar"):
        equal(weights[f"stage3.blocks.{branch}_self.query.kernel"][0], query[:, :6, :30].reshape(30, 30).T)
        equal(weights[f"stage3.blocks.{branch}_ffn.expand.kernel"][0], expand[:120, :30].T)


def test_a_first_convolution_of_colours_is_adapted_to_the_bands(tmp_path):
    names = ("nir", "B2", "green", "B04", "B5")
    config = dataclasses.replace(BOTH, s2_channels=5)
    weights = names_of(load(tmp_path / "a.safetensors", RGB_TENSORS, config, names)[0])
    source = RGB_TENSORS["segformer.encoder.patch_embeddings.0.proj.weight"].transpose(2, 3, 1, 0)
    red, green, blue = np.moveaxis(source[..., :12], 2, 0)
    grey = source.mean(axis=2)
    wanted = np.stack([grey[..., :12], blue, green, red, grey[..., :12]], axis=2) * 3 / 5
    np.testing.assert_allclose(weights["stage1.spectral_embed.kernel"], wanted, rtol=1e-5, atol=1e-7)
    wanted = np.stack([grey[..., 12:]] * 2, axis=2) * 3 / 2
    np.testing.assert_allclose(weights["stage1.sar_embed.kernel"], wanted, rtol=1e-5, atol=1e-7)
    visible = dataclasses.replace(STACKED, branches="spectral", s2_channels=3)
    weights = names_of(load(tmp_path / "a.safetensors", RGB_TENSORS, visible, ("B2", "B3", "B4"))[0])
    equal(weights["stage1.spectral_embed.kernel"], source[:, :, ::-1])
    weights = names_of(load(tmp_path / "a.safetensors", RGB_TENSORS, visible, ("B8", "B11", "B12"))[0])
    equal(weights["stage1.spectral_embed.kernel"], source)


@pytest.mark.parametrize(
    ("config", "blocks"),
    [
        (BOTH, BOTH.blocks),
        (BOTH, (2, 1, 3, 1)),
        (BOTH, (1, 2, 0, 1)),
        (dataclasses.replace(BOTH, cross_attention=False, channel_reweighting=False, classes=4), BOTH.blocks),
        (dataclasses.replace(STACKED, branches="sar", decoder_width=16), BOTH.blocks),
        (dataclasses.replace(BOTH, widths=(16, 32), blocks=(1, 2), heads=(1, 2), reductions=(8, 4)), BOTH.blocks),
    ],
)
def test_every_tensor_and_every_weight_is_accounted_for(tmp_path, config, blocks):
    tensors = hub_tensors(
        SimpleNamespace(**vars(STACKED) | {"blocks": blocks}), channels=3
    )  # a stage may be empty there
    tensors["classifier.weight"] = np.zeros((10, 64), np.float32)
    before = names_of(drawn(config))
    variables, carried = load(tmp_path / "a.safetensors", tensors, config)
    after = names_of(variables)
    assert sorted([*carried.used, *carried.unused]) == sorted(tensors)
    assert "classifier.weight" in carried.unused
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (variables, drawn(config))]
    assert shapes[0] == shapes[1]
    kept = {}
    for text in carried.drawn:
        name, first, last = re.fullmatch(r"([^[]+)(?:\[(\d+):(\d+)\])?", text).groups()
        kept[name] = slice(int(first), int(last)) if first else slice(None)
    for name, value in after.items():
        changed = value != before[name]
        if name in kept:
            assert not changed[kept[name]].any(), name
            if kept[name] != slice(None):
                assert kept[name].stop == len(value) and changed[: kept[name].start].all(), name
        else:
            assert changed.any(), name
    assert any("cross" in name for name in kept) == (config.branches == "both" and config.cross_attention)
    for stage, (ours, theirs) in enumerate(zip(config.blocks, blocks, strict=False), start=1):
        name = f"stage{stage}.blocks.sar_ffn.expand.kernel"
        partly = f"{name}[{theirs}:{ours}]" if theirs else name
        assert (partly in carried.drawn) == (theirs < ours)
        assert any(f"block.{stage - 1}.{ours}." in name for name in carried.unused) == (theirs > ours)
    assert json.loads(json.dumps(carried.to_dict())) == {k: list(v) for k, v in dataclasses.asdict(carried).items()}
    lines = carried.summary().splitlines()
    assert [re.search(r"\d+", line)[0] for line in lines] == [str(len(v)) for v in carried.to_dict().values()]


def test_a_decoder_is_taken_where_its_shapes_are_ours(tmp_path):
    tensors = hub_tensors(dataclasses.replace(STACKED, classes=4), channels=3)
    variables, carried = load(tmp_path / "a.safetensors", tensors, BOTH)
    decoder = [name for name in carried.drawn if name.startswith("decoder")]
    assert decoder == ["decoder.classify_bias", "decoder.classify_kernel"]
    moments = variables["batch_stats"]["decoder"]["norm"]
    equal(moments["var"], tensors["decode_head.batch_norm.running_var"])
