"""Files of weights of all types that safetensors knows, from strangers."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from specsar_jax.network.weight_files import read_tensors


def stored(kind: str, content: bytes, shape: list[int]) -> bytes:
    header = json.dumps({"a": {"dtype": kind, "shape": shape, "data_offsets": [0, len(content)]}}).encode()
    return len(header).to_bytes(8, "little") + header + content


def test_bfloat16_is_read(tmp_path):
    values = np.array([1.5, -2.0], jnp.bfloat16)
    (tmp_path / "a.safetensors").write_bytes(stored("BF16", values.tobytes(), [2]))
    (found,) = read_tensors(tmp_path / "a.safetensors").values()
    assert found.dtype == jnp.bfloat16 and found.astype(np.float32).tolist() == [1.5, -2.0]
    (tmp_path / "b.safetensors").write_bytes(safetensors.numpy.save({"a": np.float32([[3.0]])}))
    assert read_tensors(tmp_path / "b.safetensors")["a"].tolist() == [[3.0]]


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2"])
def test_float8_is_refused_by_name(tmp_path, kind):
    (tmp_path / "a.safetensors").write_bytes(stored(kind, b"\0\0", [2]))
    with pytest.raises(ValueError, match=f"tensor a is of type {kind}, expected F32"):
        read_tensors(tmp_path / "a.safetensors")
