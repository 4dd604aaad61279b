"""Files of public SegFormer weights: all schemes of names, what is read of PyTorch's, what is refused."""

import dataclasses
import functools
import importlib.util
import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from segformer_files import BOTH, RGB_TENSORS, STACKED, TENSORS, drawn, equal, hub_tensors, load

from specsar_jax.config import Model
from specsar_jax.network import model
from specsar_jax.network.segformer import load_segformer
from tfds_dwplus.bands import S2_BANDS as S2

needs_torch = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch comes with the extra 'bench'")


def renamed(tensors: dict[str, np.ndarray], *rows: tuple[str, str]) -> dict[str, np.ndarray]:
    def rename(name: str) -> str:
        return functools.reduce(lambda name, row: re.sub(*row, name), rows, name)

    return {rename(name): value for name, value in tensors.items()}


def as_transformers_5(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return renamed(
        tensors,
        (r"encoder\.patch_embeddings\.(\d)", r"stages.\1.patch_embeddings"),
        (r"encoder\.block\.(\d)", r"stages.\1.blocks"),
        (r"encoder\.layer_norm\.(\d)", r"stages.\1.layer_norm"),
        ("layer_norm_1", "layernorm_before"),
        ("layer_norm_2", "layernorm_after"),
        ("self.query", "q_proj"),
        ("self.key", "k_proj"),
        ("self.value", "v_proj"),
        ("output.dense", "o_proj"),
        ("self.sr", "sequence_reduction.sequence_reduction"),
        ("self.layer_norm", "sequence_reduction.layer_norm"),
        ("mlp.dense", "mlp.fc"),
        ("linear_c", "linear_projections"),
    )


def as_nvlabs(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for stage in (3, 2, 1, 0):  # from the last: the new names count from one
        tensors = renamed(
            tensors,
            (rf"^segformer\.encoder\.patch_embeddings\.{stage}\.layer_norm", f"backbone.patch_embed{stage + 1}.norm"),
            (rf"^segformer\.encoder\.patch_embeddings\.{stage}", f"backbone.patch_embed{stage + 1}"),
            (rf"^segformer\.encoder\.block\.{stage}", f"backbone.block{stage + 1}"),
            (rf"^segformer\.encoder\.layer_norm\.{stage}", f"backbone.norm{stage + 1}"),
            (rf"linear_c\.{stage}", f"linear_c{stage + 1}"),
        )
    tensors = renamed(
        tensors,
        ("layer_norm_", "norm"),
        ("attention.self.query", "attn.q"),
        ("attention.self.layer_norm", "attn.norm"),
        ("attention.self.sr", "attn.sr"),
        ("attention.output.dense", "attn.proj"),
        ("mlp.dense", "mlp.fc"),
        ("linear_fuse", "linear_fuse.conv"),
        ("batch_norm", "linear_fuse.bn"),
        ("head.classifier", "head.linear_pred"),
    )
    for key in [name for name in tensors if "self.key" in name]:
        both = tensors.pop(key), tensors.pop(key.replace("key", "value"))
        tensors[key.replace("attention.self.key", "attn.kv")] = np.concatenate(both)
    return tensors


@pytest.mark.parametrize("config", [STACKED, BOTH], ids=["stacked", "both"])
def test_names_of_all_schemes_give_the_same_variables(tmp_path, config):
    tensors = RGB_TENSORS
    wanted, carried = load(tmp_path / "hub.safetensors", tensors, config)
    bare = renamed(tensors, (r"^segformer\.", ""))
    plain = renamed(as_nvlabs(tensors), (r"^backbone\.", ""))
    for scheme in (as_transformers_5(tensors), as_nvlabs(tensors), bare, plain):
        found, others = load(tmp_path / "other.safetensors", scheme, config)
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
        assert set(others.used) | set(others.unused) == set(scheme)
        assert others.drawn == carried.drawn
    assert len({*tensors, *as_transformers_5(tensors), *as_nvlabs(tensors)} - {*tensors}) > 100


@needs_torch
@pytest.mark.filterwarnings("ignore")
def test_pytorch_files_of_tensors_alone_are_read(tmp_path):
    import torch

    wanted, _ = load(tmp_path / "a.safetensors", TENSORS, STACKED)
    tree = {name: torch.from_numpy(value) for name, value in TENSORS.items()}
    torch.save(tree, tmp_path / "pytorch_model.bin")
    torch.save({"state_dict": tree, "meta": {"epoch": 3}}, tmp_path / "wrapped.pth")
    torch.save({"model": tree}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for file in (tmp_path, tmp_path / "wrapped.pth", tmp_path / "old.pt"):
        found, _ = load_segformer(file, drawn(STACKED), STACKED, S2)
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    torch.save({"model": tree, "args": Path("x")}, tmp_path / "objects.pth")
    whole = (tmp_path / "wrapped.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").touch()
    torch.save([1], tmp_path / "list.pth")
    for name, said in (("objects", "objects other"), ("cut", "whole"), ("empty", "whole"), ("list", "state dict")):
        with pytest.raises(ValueError, match=rf"^\S*{name}\.pth .*{said}[^\n]*$"):
            load_segformer(tmp_path / f"{name}.pth", drawn(STACKED), STACKED, S2)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_floats_are_read_as_float32(tmp_path, dtype):
    variables, _ = load(tmp_path / "a.safetensors", {k: v.astype(dtype) for k, v in TENSORS.items()}, STACKED)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    wanted = TENSORS["segformer.encoder.layer_norm.0.weight"].astype(dtype).astype(np.float32)
    equal(variables["params"]["stage1"]["stacked_norm"]["scale"], wanted)


def without(part: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in TENSORS.items() if part not in name}


def changed(name: str, change: object) -> dict[str, np.ndarray]:
    assert name in TENSORS
    return TENSORS | {name: np.ascontiguousarray(change(TENSORS[name]))}


EMBED = "segformer.encoder.patch_embeddings.0.proj.weight"
NORM = "segformer.encoder.layer_norm.1.weight"
REDUCE = "segformer.encoder.block.1.0.attention.self.sr.weight"
MIT_B0 = Model(widths=(32, 64, 160, 256), blocks=(2, 2, 2, 2), decoder_width=256)


@pytest.mark.parametrize(
    ("tensors", "config", "said"),
    [
        (
            lambda: hub_tensors(MIT_B0, channels=3),
            Model(),
            "tensor segformer.encoder.patch_embeddings.0.proj.bias has shape (32,), expected (>= 48,)",
        ),
        (
            lambda: changed(EMBED, lambda v: v[:8]),
            STACKED,
            f"{EMBED} has shape (8, 11, 7, 7), expected (>= 16, 11 or 3, 7",
        ),
        (lambda: changed(EMBED, lambda v: v[:, :5]), STACKED, "shape (16, 5, 7, 7), expected (>= 16, 11 or 3, 7, 7)"),
        (
            lambda: changed(EMBED, lambda v: v[..., 2:, 2:]),
            STACKED,
            "shape (16, 11, 5, 5), expected (>= 16, 11 or 3, 7, 7)",
        ),
        (lambda: changed(EMBED, lambda v: v[..., 0]), STACKED, "shape (16, 11, 7), expected (>= 16, 11 or 3, 7, 7)"),
        (
            lambda: changed(REDUCE, lambda v: v[..., :2, :2]),
            STACKED,
            f"{REDUCE} has shape (32, 32, 2, 2), expected (>= 32, >= 32, 4, 4)",
        ),
        (lambda: TENSORS, dataclasses.replace(STACKED, reductions=(8, 1, 2, 1)), "expected none"),
        (
            lambda: without("block.1.0.attention.self.sr"),
            STACKED,
            "no tensor stages.1.blocks.0.attention.sequence_reduction",
        ),
        (
            lambda: TENSORS,
            dataclasses.replace(STACKED, mlp_ratio=5),
            "mlp.dwconv.dwconv.bias has shape (64,), expected (>= 80,)",
        ),
        (lambda: without("patch_embeddings.3"), STACKED, "has 3 stages, expected at least 4"),
        (lambda: changed(NORM, lambda v: v * np.nan), STACKED, f"{NORM} holds NaN"),
        (lambda: changed(NORM, lambda v: v.astype(np.int32)), STACKED, f"{NORM} is of int32, expected floats"),
        (lambda: {"layer1.0.conv1.weight": np.zeros(3)}, STACKED, "not a SegFormer or MiT encoder"),
        (lambda: {}, STACKED, "not a SegFormer or MiT encoder"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_tensor(tmp_path, tensors, config, said):
    file = tmp_path / "a.safetensors"
    file.write_bytes(safetensors.numpy.save(tensors()))
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        load_segformer(file, model.abstract_params(config), config, S2)
    assert str(raised.value).startswith(str(file)) and "\n" not in str(raised.value)


def test_broken_files_are_refused_by_name(tmp_path, monkeypatch):
    whole = safetensors.numpy.save(TENSORS)
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "weights.npz").touch()
    (tmp_path / "weights.pth").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.setitem(sys.modules, "torch", None)
    for name, said in (
        ("cut.safetensors", "not a whole safetensors file"),
        ("empty.safetensors", "not a whole safetensors file"),
        ("missing.safetensors", "no file"),
        ("weights.npz", "not a .safetensors, .bin, .pt or .pth file"),
        ("weights.pth", "pip install torch"),
        ("folder", "neither model.safetensors nor pytorch_model.bin"),
    ):
        with pytest.raises(ValueError, match=said) as raised:
            load_segformer(tmp_path / name, drawn(STACKED), STACKED, S2)
        assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value)


def test_bands_must_be_as_many_as_the_network_reads(tmp_path):
    with pytest.raises(ValueError, match="s2_bands has 1 names"):
        load_segformer(tmp_path, drawn(STACKED), STACKED, ("B2",))


@pytest.mark.parametrize("version", ["2.6.0", "2.9.1+cpu", "1.13.1"])
def test_torch_older_than_what_reads_safely_is_refused(monkeypatch, tmp_path, version):
    """CVE-2026-24747: before 2.10, `weights_only=True` is not enough. The file is not opened."""
    (tmp_path / "weights.pth").write_bytes(b"never read")
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__=version))
    with pytest.raises(ValueError, match=r"torch 2\.10 or later"):
        load_segformer(tmp_path / "weights.pth", drawn(STACKED), STACKED, S2)
