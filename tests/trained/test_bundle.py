"""Bundles: what travels comes back; files of older formats load for ever; what is cut short, altered or hostile is refused at once."""

import dataclasses
import hashlib
import json
import resource
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from drawn_networks import OWN, SMALL_PRESETS, drawn, many
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specsar_jax.trained import bundle, loading
from specsar_jax.trained.bundle import read_bundle, write_bundle
from specsar_jax.trained.trained_network import Trained

OLD = Path(__file__).parents[1] / "bundles"
SETTINGS = settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def trained() -> Trained:
    return read_bundle(OLD / "bundle_1.safetensors")


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("bundle") / "b.safetensors"
    write_bundle(trained, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> bytes:
    """A bundle of four classes of its own."""
    path = tmp_path_factory.mktemp("bundle") / "b.safetensors"
    write_bundle(drawn(SMALL_PRESETS["specsar_former"], classes=OWN), path)
    return path.read_bytes()


def header_of(content: bytes) -> tuple[dict, bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def put_together(header: dict, data: bytes) -> bytes:
    """A file of a forger: its checksum of the metadata is right."""
    header["__metadata__"]["metadata_sha256"] = bundle._digest(header["__metadata__"])
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def forged(content: bytes, section: str, **changes: object) -> bytes:
    """The file with other values in the metadata's JSON of `section`, as 'config.model' or 'statistics.s2'."""
    header, data = header_of(content)
    name, _, part = section.partition(".")
    tree = json.loads(header["__metadata__"][name])
    (tree[part] if part else tree).update(changes)
    header["__metadata__"][name] = json.dumps(tree)
    return put_together(header, data)


def refusal(content: bytes, folder: Path) -> str:
    """The line with which a file is refused; fails if it is not, or not soon, or with memory taken."""
    path = folder / "given.safetensors"
    path.write_bytes(content)
    start, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError) as error:
        read_bundle(path)
    assert time.monotonic() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 1 << 19  # KiB
    line = str(error.value)
    assert line.startswith(str(path)) and line.isprintable() and len(line) < 600
    return line


@pytest.mark.parametrize("path", sorted(OLD.glob("*.safetensors")), ids=lambda path: path.name)
def test_bundles_of_all_formats_load(path):
    trained = read_bundle(path)
    assert trained.sha256 == "76fadb7d046f8fd142b88cd34cdf32f6eb06d8ab6e101d3354c5d81753b9ab56"
    assert (trained.step, trained.temperature) == (18, pytest.approx(0.125))
    assert trained.bands == {"s2": ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B11", "B12"), "s1": ("VV", "VH")}
    assert trained.config.model.widths == (8, 16)
    assert trained.statistics.s1.mean[0] == pytest.approx(-12.5, abs=3)


@pytest.mark.parametrize("dtype", bundle.DTYPES)
def test_what_travels_comes_back(trained, tmp_path, dtype):
    given = dataclasses.replace(trained, licence="CC-BY-4.0", step=7)
    metadata = write_bundle(given, tmp_path / "b.safetensors", dtype=dtype)
    back = read_bundle(tmp_path / "b.safetensors")
    none = {"variables": {}}
    assert dataclasses.replace(back, **none) == dataclasses.replace(given, **none)
    assert back.sha256 == metadata["weights_sha256"] == bundle.as_stored(given, dtype).sha256
    near = {"float32": 0.0, "bfloat16": 2**-8, "float16": 2**-11}[dtype]
    for (place, one), two in zip(
        jax.tree.leaves_with_path(given.variables), jax.tree.leaves(back.variables), strict=True
    ):
        assert two.dtype == np.float32
        # BatchNorm's moments are not rounded.
        np.testing.assert_allclose(two, one, rtol=near if place[0].key == "params" else 0, atol=1e-7)
    if dtype != "float32":
        assert (tmp_path / "b.safetensors").stat().st_size < 0.7 * len(write_and_read(given, tmp_path))


@pytest.mark.parametrize("classes", [many(2), OWN, many(64)], ids=len)
def test_own_classes_travel(classes, tmp_path):
    given = drawn(SMALL_PRESETS["specsar_former"], classes=classes)
    metadata = write_bundle(given, tmp_path / "b.safetensors")
    back = read_bundle(tmp_path / "b.safetensors")
    assert back.classes == classes and back.statistics == given.statistics and back.sha256 == given.sha256
    assert json.loads(metadata["classes"]) == list(classes.names)
    assert json.loads(metadata["class_colours"]) == list(classes.colours)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("config.model", {"classes": 5}, "its network has 5 classes, its statistics have 4"),
        ("statistics", {"class_colours": ["419bdf"]}, "1 colours for 4 classes"),
        ("statistics", {"class_colours": ["419bdf"] * 4}, "its class colours are"),
        ("statistics", {"class_colours": ["red"] * 4}, "has the colour 'red'"),
        ("statistics", {"class_colours": 7}, "class_colours"),
        ("statistics", {"label_pixels": {"one": 1}}, "1 classes, expected 2 to 64"),
        ("statistics", {"label_pixels": {"a": 1, "A": 1, "b": 1, "c": 1}}, "two classes are named 'A'"),
        ("statistics", {"label_pixels": {"a": 1, "b": 1, "c": 1, "d\x1b[2J": 1}}, "a class is named"),
        ("statistics", {"label_pixels": {"a": 1, "b": 1, "c": 1, "d": 1}}, "its classes are"),
    ],
)
def test_classes_that_do_not_go_together(own, section, changes, message, tmp_path):
    assert message in refusal(forged(own, section, **changes), tmp_path)


def write_and_read(trained: Trained, folder: Path) -> bytes:
    write_bundle(trained, folder / "whole.safetensors")
    return (folder / "whole.safetensors").read_bytes()


def test_anyone_reads_the_weights_and_what_they_are(trained, tmp_path):
    write_bundle(trained, tmp_path / "b.safetensors")
    with safetensors.safe_open(tmp_path / "b.safetensors", framework="numpy") as file:
        metadata = file.metadata()
        kernel = file.get_tensor("params.stage1.spectral_embed.kernel")
    assert kernel.shape == (7, 7, 9, 6)
    assert json.loads(metadata["bands"])["s1"] == ["VV", "VH"]
    assert json.loads(metadata["classes"])[0] == "water" and json.loads(metadata["class_colours"])[0] == "419bdf"
    assert metadata["software"].startswith("specsar_jax ") and metadata["step"] == "18"


def test_what_does_not_fit_is_not_written(trained, tmp_path):
    huge = dataclasses.replace(trained, variables=jax.tree.map(lambda leaf: leaf + 1e6, trained.variables))
    with pytest.raises(ValueError, match=r"not finite in float16; try float32 or bfloat16"):
        write_bundle(huge, tmp_path / "b.safetensors", dtype="float16")
    with pytest.raises(ValueError, match="characters"):
        write_bundle(dataclasses.replace(trained, licence="x" * 3000), tmp_path / "b.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.01, 0.2, 0.999999])
def test_a_file_cut_short(whole, tmp_path, share):
    assert "not a whole safetensors file" in refusal(whole[: int(share * len(whole))], tmp_path)
    assert "not a whole safetensors file" in refusal(whole + b"\0" * 7, tmp_path)


def test_altered_files(whole, tmp_path):
    assert "weights are not those" in refusal(whole[:-100] + bytes(4) + whole[-96:], tmp_path)
    longer = whole.replace(b'"step":"18"', b'"step":"19"')
    assert "metadata is not what was written" in refusal(longer, tmp_path)
    header, data = header_of(whole)
    names = ["params.decoder.norm.bias", "params.decoder.norm.scale"]
    header[names[0]], header[names[1]] = header[names[1]], header[names[0]]
    assert "weights are not those" in refusal(put_together(header, data), tmp_path)


HOSTILE = {
    "wide": ("config.model", {"widths": [10**6, 10**6]}, "widths"),
    "wider than numbers go": ("config.model", {"decoder_width": 10**30}, "decoder_width"),
    "deep": ("config.model", {"blocks": [10**9, 1]}, "blocks"),
    "no stage": ("config.model", {"widths": [], "blocks": [], "heads": [], "reductions": []}, "2 to 4 stages"),
    "uneven": ("config.model", {"blocks": [1]}, "2 to 4 stages"),
    "negative": ("config.model", {"heads": [-1, 1]}, "heads"),
    "heads that do not divide": ("config.model", {"heads": [5, 1]}, "channels and 5 heads"),
    "patches larger than the map": ("config.model", {"reductions": [64, 2]}, "reductions"),
    "many bands": ("config.model", {"s2_channels": 10**6}, "channels"),
    "other classes": ("config.model", {"classes": 10**6}, "classes"),
    "no share": ("config.model", {"spectral_share": 1e308}, "spectral_share"),
    "not a number": ("config.model", {"layer_norm_epsilon": float("nan")}, "finite"),
    "huge squares": ("config.data", {"crop_px": 10**9}, "crop_px"),
    "squares whose attention is huge": ("config.data", {"crop_px": 12000}, "attention"),
    "huge windows": ("config.predict", {"window_px": 10**12}, "window_px"),
    "an unknown field": ("config.model", {"code": "import os"}, "no config field"),
    "a text for a number": ("config.model", {"mlp_ratio": "4"}, "mlp_ratio"),
    "a section that is none": ("config", {"model": 5}, "broken bundle"),
    "another network": ("config.model", {"widths": [8, 8]}, "should have shape"),
    "more blocks than weights": ("config.model", {"blocks": [60, 1]}, "should have shape"),
    "band statistics of fewer": ("statistics.s2", {"mean": [1.0]}, "statistics"),
    "statistics of text": ("statistics.s2", {"std": ["a"] * 9}, "broken bundle"),
    "statistics not finite": ("statistics.s1", {"p99": [float("inf")] * 2}, "finite numbers"),
    "names with control signs": ("statistics.s1", {"bands": ["VV\x1b[2J", "VH"]}, "names"),
    "names twice": ("statistics.s1", {"bands": ["VV", "VV"]}, "statistics"),
    "no pixels": ("statistics", {"label_pixels": {}}, "broken bundle"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_settings(whole, tmp_path, what):
    section, changes, message = HOSTILE[what]
    line = refusal(forged(whole, section, **changes), tmp_path)
    assert message in line and "broken bundle" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((2**63).to_bytes(8, "little") + b"{}", "cut short"),
        ((5 << 20).to_bytes(8, "little") + b" " * (5 << 20), "header has 5242880 bytes"),
        (b"\x02" + bytes(7) + b"[]", "not a whole safetensors file"),
        (b"\x02" + bytes(7) + b"{}", "its format is 'None'"),
        ((200_000).to_bytes(8, "little") + b"[" * 200_000, "not a whole safetensors file"),
        ((200_002).to_bytes(8, "little") + b'{"a":' + b"1" * 199_996 + b"}", "not a whole safetensors file"),
        (b"PK\x03\x04" * 40, "not a whole safetensors file"),
        (b"\x80\x04cos\nsystem\n(S'true'\ntR." * 9, "not a whole safetensors file"),
    ],
)
def test_what_is_no_bundle(tmp_path, content, message):
    assert message in refusal(content, tmp_path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 0]}, "its tensors need"),
        ({"dtype": "F32", "shape": [10**19] * 20_000, "data_offsets": [0, 0]}, "no shape"),
        ({"dtype": "\x1b[2J", "shape": [0], "data_offsets": [0, 0]}, "of type"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}, "no shape"),
        ({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "none of this network's"),
        ({"dtype": "I64", "shape": [0], "data_offsets": [0, 0]}, "of type 'I64'"),
        ({"shape": [0]}, "no 'dtype'"),
        (7, "not a whole safetensors file"),
    ],
)
def test_a_tensor_too_many(whole, tmp_path, entry, message):
    header, data = header_of(whole)
    header["params.more"] = entry
    assert message in refusal(put_together(header, data), tmp_path)


def test_tensors_that_overlap_or_are_not_finite(whole, tmp_path):
    header, data = header_of(whole)
    names = ["params.decoder.norm.bias", "params.decoder.norm.scale"]
    header[names[0]]["data_offsets"] = header[names[1]]["data_offsets"]
    assert f"tensor {names[0]} takes bytes" in refusal(put_together(header, data), tmp_path)
    for place, message in (
        ([0, 2**64], "no place"),
        ([4.0, 8.0], "no place"),
        ([0], "no place"),
        ([8, 4], "takes bytes"),
    ):
        header, data = header_of(whole)
        header[names[0]]["data_offsets"] = place
        assert message in refusal(put_together(header, data), tmp_path)
    header, data = header_of(whole)
    data = np.full(len(data) // 4, np.nan, np.float32).tobytes()
    assert "not finite" in refusal(put_together(header, data), tmp_path)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 10**400, float("nan"), float("inf"), -0.0, 1e-320, "", "B2", "\x00", []])
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def survives(content: bytes, folder: Path) -> None:
    """It loads as a network that can be used, or is refused with a line; nothing else."""
    path = folder / "fuzzed.safetensors"
    path.write_bytes(content)
    start = time.monotonic()
    try:
        trained = read_bundle(path)
    except ValueError as error:
        assert str(error).startswith(str(path)) and str(error).isprintable()
    else:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained.variables))
        write_bundle(trained, path)
    assert time.monotonic() - start < 20


@SETTINGS
@given(st.data())
def test_bytes_changed_anywhere(whole, tmp_path, data):
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1) | st.integers(0, 12_000))
        changed[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.just(len(changed)) | st.integers(0, len(changed)))
    survives(bytes(changed[:end]), tmp_path)


@SETTINGS
@given(st.data())
def test_any_value_anywhere_in_the_metadata(whole, tmp_path, data):
    header, tensors = header_of(whole)
    metadata = header["__metadata__"]
    for name in data.draw(st.lists(st.sampled_from(sorted(metadata)), min_size=1, max_size=3, unique=True)):
        value = data.draw(json_values)
        if name in ("config", "statistics") and data.draw(st.booleans()) | data.draw(st.booleans()):
            tree = json.loads(metadata[name])
            inner = data.draw(st.sampled_from(sorted(tree) or [""]))
            if isinstance(tree.get(inner), dict) and tree[inner]:
                tree[inner][data.draw(st.sampled_from(sorted(tree[inner])))] = value
            else:
                tree[inner] = value
            metadata[name] = json.dumps(tree)
        else:
            metadata[name] = value if data.draw(st.booleans()) else json.dumps(value)
    if all(isinstance(text, str) for text in metadata.values()):
        content = put_together(header, tensors)
    else:
        text = json.dumps(header).encode()
        content = len(text).to_bytes(8, "little") + text + tensors
    survives(content, tmp_path)


@SETTINGS
@given(st.data())
def test_any_value_anywhere_in_the_table_of_tensors(whole, tmp_path, data):
    header, tensors = header_of(whole)
    names = sorted(header.keys() - {"__metadata__"})
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(names))
        entry = header[name]
        if not isinstance(entry, dict) or data.draw(st.integers(0, 5)) == 0:
            header[name] = data.draw(json_values)
        else:
            entry[data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = data.draw(
                json_values | st.lists(st.integers(-2, 2**65), max_size=5) | st.sampled_from(["F16", "F64", "BF16"])
            )
    survives(put_together(header, tensors), tmp_path)


def test_a_workdir_that_is_a_bundle_folder_or_nothing(whole, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").write_bytes(whole)
    expected = hashlib.sha256(whole).hexdigest()
    assert hashlib.sha256(loading.find_bundle(tmp_path / "folder").read_bytes()).hexdigest() == expected
    assert loading.config_of(tmp_path / "folder") == loading.load_trained(tmp_path / "folder").config
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no config\.json"):
        loading.load_trained(tmp_path / "empty")
