"""Variables of a SavedModel: whole files are read; cut, altered and hostile ones are refused in one line."""

import shutil
import struct

import numpy as np
import pytest

from specsar_jax.config import model_preset
from specsar_jax.network import dynamic_world
from specsar_jax.trained.saved_variables import crc32c, read_variables, unpack_snappy

SHAPES = [shape for _, _, shape in dynamic_world.variables_in_order(model_preset("dynamic_world"))]
INDEX, DATA = "variables.index", "variables.data-00000-of-00001"


@pytest.fixture
def saved(real, tmp_path):
    shutil.copytree(real / "dynamic_world_model", tmp_path / "saved")
    return tmp_path / "saved"


def refusal(folder, shapes=SHAPES):
    with pytest.raises(ValueError) as refused:
        read_variables(folder, shapes)
    said = str(refused.value)
    assert "\n" not in said and len(said) < 500
    return said


def test_whole(saved):
    arrays = read_variables(saved, SHAPES)
    assert [array.shape for array in arrays] == SHAPES
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays)


def test_known_checksum_and_packing():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720
    assert unpack_snappy(bytes([6, 4, 97, 98, 1, 2])) == b"ababab"


@pytest.mark.parametrize(
    "packed",
    [
        b"\xff\xff\xff\xff\x0f" + bytes(10),  # 4 GiB
        b"\xff" * 12,
        bytes([4, 252, 255, 255, 255, 255, 1]),  # a literal of 4 GiB
        bytes([6, 4, 97, 98, 1, 9]),  # a copy from before the beginning
        bytes([6, 4, 97, 98, 1, 0]),
        bytes([60, 4, 97, 98, 1, 2]),  # shorter than it says
        bytes([1, 4, 97, 98, 1, 2]),  # longer
        bytes([6, 4, 97]),
    ],
)
def test_hostile_packing(packed):
    with pytest.raises((ValueError, IndexError)):
        unpack_snappy(packed)


def test_other_network(saved):
    assert "another network" in refusal(saved, SHAPES[:-1])
    assert "another network" in refusal(saved, [*SHAPES[:-1], (8,)])


def test_no_saved_model(tmp_path):
    assert "expected the folder of a SavedModel" in refusal(tmp_path)


@pytest.mark.parametrize("name", [INDEX, DATA])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.999])
def test_cut_short(saved, name, kept):
    path = saved / "variables" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    refusal(saved)


def test_altered(saved):
    path = saved / "variables" / DATA
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "not what was written" in refusal(saved)


def test_garbage(saved):
    rng = np.random.default_rng(0)
    path = saved / "variables" / INDEX
    whole = path.read_bytes()
    for _ in range(40):
        content = bytearray(whole)
        for place in rng.integers(0, len(content), 3):
            content[place] = rng.integers(256)
        if bytes(content) != whole:
            path.write_bytes(content)
            refusal(saved)
    path.write_bytes(rng.bytes(1000) + bytes(40) + struct.pack("<Q", 0xDB4775248B80FB57))
    refusal(saved)
