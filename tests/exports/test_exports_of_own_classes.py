"""Exports of networks with classes of their own: names, order and colours travel, and the outputs are as many and as `apply` says."""

import dataclasses
import functools
import importlib.util
import json
import re

import numpy as np
import pytest
from conftest import command
from consumed_files import consumed
from drawn_networks import OWN, SMALL_PRESETS, drawn, expected, gaps, many, tiles
from jax import export as jax_export

from specsar_jax import export
from specsar_jax.exports import stablehlo
from specsar_jax.exports.model_card import card
from specsar_jax.trained.bundle import read_bundle, write_bundle
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands

NUMBERS = {2: many(2), 4: OWN, 64: many(64)}


@functools.cache
def network(count: int) -> Trained:
    return drawn(SMALL_PRESETS["specsar_former"], classes=NUMBERS[count])


@pytest.fixture(params=NUMBERS)
def trained(request) -> Trained:
    return network(request.param)


def test_onnx(trained, tmp_path):
    ort, onnx_graph = (
        pytest.importorskip(name, reason="extra 'onnx'") for name in ("onnxruntime", "specsar_jax.exports.onnx_graph")
    )
    for quantise in (False, True):
        onnx_graph.write_onnx(trained, tmp_path / "a.onnx", quantise=quantise)
        session = ort.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
        told = session.get_modelmeta().custom_metadata_map
        assert tuple(json.loads(told["classes"])) == trained.classes.names
        assert tuple(json.loads(told["class_colours"])) == trained.classes.colours
        assert session.get_outputs()[0].shape[-1] == len(trained.classes)
    onnx_graph.write_onnx(trained, tmp_path / "a.onnx")
    session = ort.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    s2, s1 = tiles(1, 64, 48)
    check(session.run(["probabilities", "classes"], {"s2": s2, "s1": s1}), trained, s2, s1)


def test_stablehlo(tmp_path):
    trained = network(4)
    pytest.importorskip("flatbuffers", reason="extra 'stablehlo'")
    stablehlo.write_stablehlo(trained, tmp_path / "a.stablehlo")
    program = jax_export.deserialize(bytearray((tmp_path / "a.stablehlo").read_bytes()))
    s2, s1 = tiles(1, 64, 48)
    check(program.call(s2, s1), trained, s2, s1)


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed")
@pytest.mark.parametrize(("number", "sensor_drop"), [(4, ()), (64, (0.3, 0.3))])
def test_saved_model(number, sensor_drop, tmp_path):
    trained = drawn(SMALL_PRESETS["specsar_former"], classes=NUMBERS[number], sensor_drop=sensor_drop)
    write_bundle(trained, tmp_path / "a.safetensors")
    arguments = ("--workdir", "a.safetensors", "--format", "saved_model", "--output", "saved")
    done = command("specsar_jax.export", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "saved" / "assets.extra" / "classes.json").read_text())
    assert bands.Classes(tuple(told["classes"]), tuple(told["class_colours"])) == trained.classes
    page = (tmp_path / "saved" / "README.md").read_text()
    assert all(f"`#{colour}`" in page for colour in trained.classes.colours)
    s2, s1 = tiles(1, 64, 48)
    s2, s1 = gaps(s2, s1) if sensor_drop else (s2, s1)
    sizes = {"odd": {"s2": s2[:, :33, :41], "s1": s1[:, :33, :41]}, "even": {"s2": s2, "s1": s1}}
    found = consumed("consume_saved_model.py", [tmp_path / "saved"], tmp_path, sizes, ("jax", "jaxlib"))
    for size, given in sizes.items():
        check(found[size], trained, given["s2"], given["s1"])


def test_torch(trained, tmp_path):
    torch = pytest.importorskip("torch", reason="extra 'torch'")
    from specsar_jax.exports import torch_model

    write_bundle(trained, tmp_path / "a.safetensors")
    loaded = torch_model.load(tmp_path / "a.safetensors")
    assert (loaded.classes, loaded.class_colours) == (trained.classes.names, trained.classes.colours)
    s2, s1 = tiles(1, 64, 48)
    with torch.inference_mode():
        found = loaded.probabilities(*(torch.from_numpy(x).permute(0, 3, 1, 2) for x in (s2, s1)))
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected(trained, s2, s1)[0], atol=1e-4)
    torch_model.save(loaded, tmp_path / "b.safetensors")
    assert read_bundle(tmp_path / "b.safetensors").classes == trained.classes


def check(found, trained: Trained, s2: np.ndarray, s1: np.ndarray) -> None:
    probabilities, classes = map(np.asarray, found)
    wanted, wanted_classes = expected(trained, s2, s1)
    assert probabilities.shape == wanted.shape == (*s2.shape[:3], len(trained.classes))
    np.testing.assert_allclose(probabilities, wanted, atol=1e-4)
    assert (classes == wanted_classes).mean() >= 0.999
    assert len(np.unique(wanted_classes[wanted_classes != bands.IGNORE])) >= 2


def test_a_folder_and_its_card(trained, tmp_path):
    write_bundle(trained, tmp_path / "a.safetensors")
    arguments = ["--workdir", str(tmp_path / "a.safetensors"), "--format", "folder", "--output", str(tmp_path / "out")]
    export.main(arguments)
    told = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (told["classes"], told["class_colours"]) == (list(trained.classes.names), list(trained.classes.colours))
    assert read_bundle(tmp_path / "out" / "model.safetensors").classes == trained.classes
    page = (tmp_path / "out" / "README.md").read_text()
    for class_id, colour in enumerate(trained.classes.colours):
        assert re.search(rf"^\| {class_id} \| .+ \| `#{colour}` \| 1 \|$", page, re.MULTILINE)
    assert page.count("| `#") == len(trained.classes)


def test_names_are_texts_in_a_card():
    names = ("wheat & <b>", "a|b", "`x`", "_y_", "shrub_and_scrub")
    own = dataclasses.replace(many(5), names=names)
    per_class = {name: {"iou": 0.5, "f1": 0.5, "pixels": 1} for name in names}
    figures = {"split": "test", "dataset": "d", "tiles": 1, "per_class": per_class}
    of = network(2)
    of = dataclasses.replace(of, statistics=dataclasses.replace(of.statistics, label_pixels=(1,) * 5, classes=own))
    page = card("x", of, [figures], "", "float32")
    for shown in (r"wheat \& \<b\>", r"a\|b", r"\`x\`", r"\_y\_", "shrub_and_scrub"):
        assert page.count(f"| {shown} |") == 2
    assert "<b>" not in page.replace(r"\<b\>", "")
