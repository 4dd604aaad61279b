"""ONNX files: what onnxruntime makes of them, in a process without JAX and without this package, beside `model.apply`."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn_networks import SMALL_PRESETS, TWO_SENSORS, drawn, expected, gaps, real_tile, tiles

from specsar_jax.batches.preprocess import Statistics
from specsar_jax.config import model_preset
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from specsar_jax.exports import onnx_graph  # noqa: E402 (where onnx is)

CONSUMER = """
import sys, numpy as np, onnxruntime
for path in sys.argv[1:]:
    session = onnxruntime.InferenceSession(path + ".onnx", providers=["CPUExecutionProvider"])
    case = np.load(path + ".npz")
    outputs = {}
    for number in range(len(case.files) // 2):
        feed = {wanted.name: case[f"{wanted.name}_{number}"] for wanted in session.get_inputs()}
        outputs[f"probabilities_{number}"], outputs[f"classes_{number}"] = session.run(None, feed)
    np.savez(path + ".out.npz", **outputs)
assert not {"jax", "specsar_jax", "tfds_dwplus", "onnx"} & sys.modules.keys()
"""


def consumed(folder: Path, networks: dict[str, tuple[Trained, list[tuple[np.ndarray, np.ndarray]]]]) -> None:
    """Writes the networks, has a process of its own run them, compares with what `model.apply` says."""
    for name, (trained, cases) in networks.items():
        onnx_graph.write_onnx(trained, folder / f"{name}.onnx")
        arrays = {
            f"{sensor}_{i}": x for i, case in enumerate(cases) for sensor, x in zip(("s2", "s1"), case, strict=True)
        }
        np.savez(folder / f"{name}.npz", **arrays)
    paths = [str(folder / name) for name in networks]
    subprocess.run([sys.executable, "-c", CONSUMER, *paths], check=True, cwd=folder, timeout=300)
    for name, (trained, cases) in networks.items():
        outputs = np.load(folder / f"{name}.out.npz")
        for number, case in enumerate(cases):
            probabilities, classes = outputs[f"probabilities_{number}"], outputs[f"classes_{number}"]
            wanted, wanted_classes = expected(trained, *case)
            assert (probabilities.dtype, classes.dtype) == (np.float32, np.uint8)
            np.testing.assert_allclose(probabilities, wanted, atol=1e-4, rtol=0, err_msg=f"{name} {number}")
            assert (classes == wanted_classes).mean() >= 0.9999, (name, number)
            assert len(np.unique(wanted_classes)) > 4  # else the maps say little
            assert np.array_equal(classes == bands.IGNORE, wanted_classes == bands.IGNORE)


def test_every_preset_at_any_size_without_this_package(tmp_path):
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
    former, world = drawn(SMALL_PRESETS["specsar_former"]), drawn(SMALL_PRESETS["dynamic_world"], scaling="log")
    s2, s1 = real_tile(real)
    odd = (s2[:, :333, :257], s1[:, :333, :257])
    three = tuple(np.concatenate([x[:, i : i + 101, i : i + 70] for i in (0, 90, 400)]) for x in (s2, s1))
    consumed(tmp_path, {"former": (former, [(s2, s1), odd, three]), "world": (world, [odd, three])})


def test_the_smallest_tile_of_four_stages(tmp_path):
    trained = drawn(model_preset("tiny"))
    consumed(tmp_path, {"tiny": (trained, [tiles(2, 32, 33)])})


def test_inputs_are_of_the_sensors_that_the_network_reads():
    shapes = {
        "spectral_only": {"s2": 9},
        "dynamic_world": {"s2": 9},
        "sar_only": {"s1": 2},
        "early_fusion": {"s2": 9, "s1": 2},
    }
    for preset, wanted in shapes.items():
        graph = onnx_graph.build(drawn(SMALL_PRESETS[preset])).graph
        shape = {i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in graph.input}
        assert shape == {sensor: ["batch", "height", "width", count] for sensor, count in wanted.items()}


def test_what_the_file_says_of_itself():
    trained = dataclasses.replace(drawn(SMALL_PRESETS["specsar_former"]), origin="Someone")
    built = onnx_graph.build(trained)
    assert [(opset.domain, opset.version) for opset in built.opset_import] == [("", onnx_graph.OPSET)]
    told = {entry.key: entry.value for entry in built.metadata_props}
    assert json.loads(told["bands"]) == {"s2": list(bands.S2_BANDS), "s1": list(bands.S1_BANDS)}
    assert json.loads(told["classes"]) == list(bands.CLASSES)
    assert json.loads(told["class_colours"]) == list(bands.CLASS_COLOURS)
    assert json.loads(told["config"])["model"]["widths"] == [16, 32]
    assert Statistics.from_dict(json.loads(told["statistics"])) == trained.statistics
    assert (told["temperature"], told["step"], told["licence"], told["origin"]) == ("1.5", "7", "CC-BY-4.0", "Someone")
    assert told["weights_sha256"] == trained.sha256


def test_tiles_that_do_not_fit_are_refused():
    session = ort.InferenceSession(onnx_graph.build(drawn(SMALL_PRESETS["specsar_former"])).SerializeToString())
    s2, s1 = tiles(1, 64, 64)
    with pytest.raises(Exception, match=r"(?s)s2.*Got: 8 Expected: 9"):
        session.run(None, {"s2": s2[..., :8], "s1": s1})
    with pytest.raises(Exception, match="float"):
        session.run(None, {"s2": s2.astype(np.float32), "s1": s1})


@pytest.mark.parametrize("preset", ["tiny", "dynamic_world"])
def test_int8_is_a_third_of_the_size_and_close(preset):
    trained = drawn(model_preset(preset))
    plain, small = (onnx_graph.build(trained, quantise=quantise).SerializeToString() for quantise in (False, True))
    assert len(small) < 0.4 * len(plain)
    s2, s1 = tiles(2, 64, 49)
    wanted, classes = expected(trained, s2, s1)
    given = {sensor: pixels for sensor, pixels in (("s2", s2), ("s1", s1)) if sensor in trained.config.model.sensors}
    probabilities, found = ort.InferenceSession(small).run(None, given)
    assert (found == classes).mean() > 0.9
    assert 1e-5 < np.abs(probabilities - wanted).max() < 0.1
