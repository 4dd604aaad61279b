"""The network for PyTorch: its outputs, its training and its files beside this package's own."""

import dataclasses
import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from drawn_networks import SIZES, SMALL_PRESETS, TWO_SENSORS, drawn, expected, gaps, real_tile, tiles

from specsar_jax.batches import preprocess
from specsar_jax.config import Model
from specsar_jax.network import model
from specsar_jax.trained.bundle import read_bundle, write_bundle
from specsar_jax.trained.trained_network import Trained, named_weights

torch = pytest.importorskip("torch")

from specsar_jax.exports import torch_model  # noqa: E402 (where torch is)
from specsar_jax.exports.torch_model import bundle_files, pixels  # noqa: E402

CONSUMER = """
import sys, numpy as np, torch, torch_model
for path in sys.argv[1:]:
    network = torch_model.load(path + ".safetensors")
    case = np.load(path + ".npz")
    outputs = {}
    for number in range(len(case.files) // 2):
        s2, s1 = (torch.from_numpy(case[f"{sensor}_{number}"]).permute(0, 3, 1, 2) for sensor in ("s2", "s1"))
        with torch.inference_mode():
            outputs[str(number)] = network.probabilities(s2, s1).permute(0, 2, 3, 1).numpy()
    np.savez(path + ".out.npz", **outputs)
assert not {"jax", "specsar_jax", "tfds_dwplus"} & sys.modules.keys()
"""


def consumed(folder: Path, networks: dict[str, tuple[Trained, list[tuple[np.ndarray, np.ndarray]]]]) -> None:
    """Writes bundles, has a process that holds a copy of the folder alone run them, compares with `model.apply`."""
    shutil.copytree(Path(torch_model.__file__).parent, folder / "torch_model", dirs_exist_ok=True)
    for name, (trained, cases) in networks.items():
        write_bundle(trained, folder / f"{name}.safetensors")
        arrays = {
            f"{sensor}_{i}": x for i, case in enumerate(cases) for sensor, x in zip(("s2", "s1"), case, strict=True)
        }
        np.savez(folder / f"{name}.npz", **arrays)
    paths = [str(folder / name) for name in networks]
    subprocess.run([sys.executable, "-c", CONSUMER, *paths], check=True, cwd=folder, timeout=300)
    for name, (trained, cases) in networks.items():
        outputs = np.load(folder / f"{name}.out.npz")
        for number, case in enumerate(cases):
            wanted, _ = expected(trained, *case)
            np.testing.assert_allclose(outputs[str(number)], wanted, atol=1e-4, rtol=0, err_msg=f"{name} {number}")
            agree = outputs[str(number)].argmax(-1) == wanted.argmax(-1)
            assert agree.mean() >= 0.9999, (name, number)


def test_every_preset_at_any_size_from_the_one_folder(tmp_path):
    networks = {name: (drawn(config), [tiles(2, 64, 49)]) for name, config in SMALL_PRESETS.items()}
    for preset in ("specsar_former", "dynamic_world"):
        networks[preset][1].extend([tiles(3, 47, 33), tiles(1, 32, 90)])
        networks[f"{preset}_log"] = (drawn(SMALL_PRESETS[preset], scaling="log"), [tiles(1, 64, 49)])
    consumed(tmp_path, networks)


def test_pixels_that_one_sensor_alone_has_seen(tmp_path):
    any_sensor = {"scaling": "log", "sensor_drop": (0.3, 0.3)}
    networks = {name: (drawn(SMALL_PRESETS[name], **any_sensor), [gaps(*tiles(2, 64, 49))]) for name in TWO_SENSORS}
    consumed(tmp_path, networks)


def test_a_real_tile(real, tmp_path):
    s2, s1 = real_tile(real)
    cases = [(s2, s1), (s2[:, :333, :257], s1[:, :333, :257])]
    former, world = drawn(SMALL_PRESETS["specsar_former"]), drawn(SMALL_PRESETS["dynamic_world"], scaling="log")
    consumed(tmp_path, {"former": (former, cases), "world": (world, cases[1:])})


@pytest.fixture
def pair(tmp_path) -> tuple[Trained, "torch_model.SpecSARFormer", Path]:
    """A network, the same in PyTorch, and its bundle."""
    trained = drawn(Model(**SIZES))
    write_bundle(trained, tmp_path / "net.safetensors")
    return trained, torch_model.load(tmp_path / "net.safetensors"), tmp_path / "net.safetensors"


def as_torch(s2: np.ndarray, s1: np.ndarray) -> tuple["torch.Tensor", "torch.Tensor"]:
    return tuple(torch.from_numpy(x).permute(0, 3, 1, 2) for x in (s2, s1))


@pytest.mark.parametrize("preset", ["specsar_former", "dynamic_world", "dynamic_world_sar"])
def test_a_training_pass_is_that_of_this_package(preset, tmp_path):
    trained = drawn(SMALL_PRESETS[preset])
    write_bundle(trained, tmp_path / "net.safetensors")
    network = torch_model.load(tmp_path / "net.safetensors")
    s2, s1 = tiles(2, 64, 49)
    standardised = preprocess.standardise(s2, s1, trained.statistics)

    def loss(params: dict) -> tuple[jax.Array, tuple]:
        variables = trained.variables | {"params": params}
        logits, moments = model.apply_train(
            variables, *standardised, config=trained.config.model, rng=jax.random.key(0)
        )
        return (logits**2).mean(), (logits, moments)

    (_, (logits, moments)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(trained.variables["params"])
    network.train()
    found = network(*as_torch(s2, s1))
    np.testing.assert_allclose(found.detach().permute(0, 2, 3, 1), logits, atol=1e-5 * np.abs(logits).max())
    found.square().mean().backward()
    for name, values in named_weights(moments).items():
        of = network.get_submodule(name.rpartition(".")[0])
        if name.endswith(".mean"):
            np.testing.assert_allclose(of.running_mean, values, atol=1e-4 * np.abs(values).max())
        else:  # PyTorch averages the unbiased variance
            np.testing.assert_allclose(of.running_var, values, rtol=1e-3)
    theirs = named_weights({"params": gradient})
    largest = max(np.abs(values).max() for values in theirs.values())
    parameters = dict(network.named_parameters())
    # What is added to all pixels alike, BatchNorm takes away again: that gradient is nothing but rounding.
    nothing = r"project\d_bias|join\.bias|^params\.(stem|(block\d|low)\.\w+)\.bias"
    for name, keys in bundle_files._bundle_names(network).items():
        if name.startswith("batch_stats") or re.search(nothing, name):
            continue
        for block, key in enumerate(keys):
            ours = bundle_files._in_bundle(parameters[key].grad, name)
            wanted = theirs[name][block] if ".blocks." in name else theirs[name]
            atol = max(1e-3 * np.abs(wanted).max(), 1e-6 * largest)
            np.testing.assert_allclose(ours, wanted, atol=atol, err_msg=name)


def test_chance_is_for_training_only(tmp_path):
    trained = drawn(Model(**SIZES, drop_path=0.5, dropout=0.5))
    write_bundle(trained, tmp_path / "net.safetensors")
    network = torch_model.load(tmp_path / "net.safetensors")
    inputs = as_torch(*tiles(2, 64, 64))
    with torch.no_grad():
        assert torch.equal(network(*inputs), network(*inputs))
        network.train()
        assert not torch.allclose(network(*inputs), network(*inputs), atol=1e-2)
    assert [block.drop_path for stage in (1, 2) for block in network.get_submodule(f"stage{stage}")["blocks"]] == [
        0.0,
        0.25,
        0.5,
    ]


@pytest.mark.parametrize("preset", ["specsar_former", "dynamic_world"])
def test_it_learns_and_comes_back(preset, tmp_path):
    trained = dataclasses.replace(drawn(SMALL_PRESETS[preset]), origin="Someone")
    write_bundle(trained, tmp_path / "net.safetensors")
    network = torch_model.load(tmp_path / "net.safetensors")
    inputs = as_torch(*tiles(2, 48, 33))
    label = torch.arange(48 * 33).reshape(1, 48, 33).expand(2, -1, -1) * 9 // (48 * 33)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(10):
        loss = torch.nn.functional.cross_entropy(network(*inputs), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    network.eval()
    network.temperature = 0.7
    torch_model.save(network, tmp_path / "tuned.safetensors")
    back = read_bundle(tmp_path / "tuned.safetensors")
    assert (back.temperature, back.step) == (0.7, trained.step)
    assert (back.licence, back.origin) == (trained.licence, "Someone")
    wanted, _ = expected(back, *tiles(2, 48, 33))
    with torch.inference_mode():
        np.testing.assert_allclose(network.probabilities(*inputs).permute(0, 2, 3, 1), wanted, atol=1e-4)
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_types_and_folders(pair, tmp_path, dtype):
    trained, *_ = pair
    (tmp_path / "folder").mkdir()
    write_bundle(trained, tmp_path / "folder" / "model.safetensors", dtype=dtype)
    network = torch_model.load(tmp_path / "folder")
    kernel = trained.variables["params"]["stage1"]["spectral_embed"]["kernel"].astype(dtype).astype(np.float32)
    assert np.array_equal(network.stage1["spectral_embed"].weight.detach().permute(2, 3, 1, 0), kernel)


def test_the_numbers_of_log_are_those_of_this_package():
    assert pixels.LOG_LOW_HIGH == preprocess.LOG_LOW_HIGH
    assert pixels.LOG_NEIGHBOUR == preprocess.LOG_NEIGHBOUR


def test_the_first_format_is_read_for_ever():
    network = torch_model.load(Path(__file__).parents[1] / "bundles" / "bundle_1.safetensors")
    trained = read_bundle(Path(__file__).parents[1] / "bundles" / "bundle_1.safetensors")
    s2, s1 = tiles(1, 64, 64)
    s2 = s2[..., : trained.config.model.s2_channels]
    with torch.inference_mode():
        found = network.probabilities(*as_torch(s2, s1)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected(trained, s2, s1)[0], atol=1e-4)


def test_tiles_that_do_not_fit_are_refused(pair):
    _, network, _ = pair
    s2, s1 = as_torch(*tiles(1, 64, 64))
    with pytest.raises(ValueError, match=r"s2 has shape \(1, 8, 64, 64\), expected \[batch, 9, height, width\]"):
        network(s2[:, :8], s1)
    with pytest.raises(ValueError, match="s1 has shape None"):
        network(s2)
    with pytest.raises(ValueError, match="at least 32 pixels"):
        network(s2[..., :31], s1[..., :31])
    with pytest.raises(ValueError, match="must agree"):
        network(s2, s1[..., :40])


def altered(content: bytes, change: object) -> bytes:
    """A bundle with another header."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def with_data(**fields: object) -> object:
    """A change of the config of the data in a header."""
    return with_config("data", **fields)


def with_config(section: str = "model", **fields: object) -> object:
    """A change of a section of the config in a header."""

    def change(header: dict) -> None:
        config = json.loads(header["__metadata__"]["config"])
        config[section] |= fields
        header["__metadata__"]["config"] = json.dumps(config)

    return change


def test_broken_and_hostile_files_are_refused(pair):
    *_, path = pair
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    cases = {
        "weights are not those": bytes(flipped),
        "whole safetensors file": whole[:-9],
        "its format is 'other'": altered(whole, lambda header: header["__metadata__"].update(format="other")),
        "no 'config'": altered(whole, lambda header: header["__metadata__"].pop("config")),
        "no network": altered(whole, with_config(blocks=[10**9, 1])),
        "should have shape": altered(whole, with_config(widths=[10**6, 32])),
        "should have shape .* found": altered(whole, with_config(decoder_width=10**6)),
        "not a whole bundle": altered(whole, with_config(heads="two")),
        "is missing, or none": altered(whole, with_config(cross_attention=False)),
        "its architecture is 'unet', expected": altered(whole, with_config(architecture="unet")),
        "dynamic_world reads s2, alone or with s1": altered(
            whole, with_config(architecture="dynamic_world", branches="sar")
        ),
        "its scaling is 'cubic', expected": altered(whole, with_data(scaling="cubic")),
    }
    for line, content in cases.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=line) as caught:
            torch_model.load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="no bundle"):
        torch_model.load(path.parent / "nowhere")
