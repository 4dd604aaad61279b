"""Wrong runs, evaluations and files of weights: each is read and shown, or refused by a line."""

import io
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import strategies as st
from mutations import TIMES, bytes_like, json_like, tree_like, tried, zip_like

from specsar_jax.accuracy.tally import Tally
from specsar_jax.batches.preprocess import Statistics
from specsar_jax.export import evaluations
from specsar_jax.network.weight_files import read_tensors
from specsar_jax.pages import runs
from specsar_jax.pages.report_page import render
from specsar_jax.trained.bundle import read_bundle
from specsar_jax.trained.run_files import read_calibration, read_config, saved_scores
from specsar_jax.trained.trained_network import Trained


@pytest.fixture
def run(before, tmp_path):
    """A copy of the run of an older version, without its data set."""
    return shutil.copytree(before / "run", tmp_path / "run")


def report(workdir) -> None:
    """Reads a run and writes its page, without pictures."""
    (of,) = runs.read_runs([workdir], "test")
    render([of], "test", 0, 0)


@TIMES
def test_evaluation_in_a_report(run, times):
    path = run / "evaluation_test.json"
    tree = json.loads(path.read_text())

    def read(content: bytes) -> None:
        path.write_bytes(content)
        report(run)

    tried(read, json_like(tree), 40, times)


@TIMES
def test_evaluation_on_a_card(run, before, times):
    path = run / "evaluation_test.json"
    tree = json.loads(path.read_text())
    bundle = read_bundle(before / "bundle.safetensors")
    trained = Trained(bundle.config, bundle.statistics, bundle.variables, tree["step"])

    def read(content: bytes) -> None:
        path.write_bytes(content)
        evaluations(run, trained)

    tried(read, json_like({name: of for name, of in tree.items() if name != "weights_sha256"}), 60, times)


@TIMES
def test_sums_of_tiles(run, times):
    path = run / "tiles_test.npz"
    with np.load(path) as file:
        arrays = dict(file)
    members = {}
    for name, array in arrays.items():
        with io.BytesIO() as part:
            np.save(part, array)
            members[f"{name}.npy"] = part.getvalue()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        Tally.read(path)
        report(run)

    tried(read, zip_like(members, names=False) | bytes_like(path.read_bytes()), 25, times)


@TIMES
def test_arrays_of_other_shapes_and_types(run, times):
    path = run / "tiles_test.npz"
    with np.load(path) as file:
        arrays = dict(file)
    others = [
        *(np.zeros(0), np.zeros((2, 3)), np.array("x"), np.array(["a"] * 2), np.full((2, 9, 9), -1), np.full((2, 9, 9), 2**62)),
        *(np.full(2, np.nan), np.full(2, 1e308), np.zeros((2, 9, 9), "M8[s]"), np.zeros(2, [("a", "f4")]), np.zeros((2, 9), bool)),
    ]  # fmt: skip

    def read(pair: tuple[str, int]) -> None:
        np.savez(path, **(arrays | {pair[0]: others[pair[1]]}))
        report(run)

    names = st.sampled_from([*sorted(arrays), "column_x", "strange"])
    tried(read, st.tuples(names, st.integers(0, len(others) - 1)), 30, times)


@TIMES
@pytest.mark.parametrize("name", ["config.json", "statistics.json", "run.json", "calibration.json"])
def test_files_of_a_workdir(run, name, times):
    tree = json.loads((run / name).read_text())

    def read(content: bytes) -> None:
        (run / name).write_bytes(content)
        read_config(run)
        Statistics.read(run / "statistics.json")
        read_calibration(run, json.loads((run / "evaluation_test.json").read_text())["step"])
        if name == "run.json":
            report(run)

    tried(read, json_like(tree), 15, times)


@TIMES
def test_run_log(run, times):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][:20]

    def read(content: bytes) -> None:
        (run / "metrics.jsonl").write_bytes(content)
        journal = runs.read_journal(run / "metrics.jsonl")
        assert all(np.isfinite(list(event.values())).all() for events in journal.values() for event in events)

    wrong = tree_like(lines).map(
        lambda tree: "".join(f"{json.dumps(of)}\n" for of in (tree if isinstance(tree, list) else [tree])).encode()
    )
    right = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    tried(read, wrong | bytes_like(right), 80, times)


@TIMES
def test_scores_of_checkpoints(run, times):
    folder = run / "checkpoints" / "2" / "metrics"
    folder.mkdir(parents=True, exist_ok=True)

    def read(content: bytes) -> None:
        (folder / "metrics").write_bytes(content)
        saved_scores(run)

    tried(read, json_like({"score": 0.5}), 60, times)


@TIMES
def test_bundle(before, tmp_path, times):
    """Bytes, and the header: `tests/trained/test_bundle.py` goes into its settings."""
    whole = (before / "bundle.safetensors").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]

    def together(content: bytes) -> bytes:
        return len(content).to_bytes(8, "little") + content + data

    def read(content: bytes) -> None:
        (tmp_path / "a.safetensors").write_bytes(content)
        assert all(
            np.isfinite(leaf).all() for leaf in jax.tree.leaves(read_bundle(tmp_path / "a.safetensors").variables)
        )

    tried(read, json_like(header).map(together) | bytes_like(whole), 60, times)


@TIMES
def test_pretrained_weights(tmp_path, times):
    whole = safetensors.numpy.save({"a": np.zeros((2, 3), np.float32), "b.c": np.zeros(4, np.float16)})
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    kinds = ["F8_E4M3", "F8_E5M2", "BF16", "F64", "I64", "BOOL", "C64", "F4", "x", None]

    def together(content: bytes) -> bytes:
        return len(content).to_bytes(8, "little") + content + data

    def read(content: bytes) -> None:
        (tmp_path / "a.safetensors").write_bytes(content)
        read_tensors(tmp_path / "a.safetensors")

    typed = st.sampled_from(kinds).map(lambda kind: json.dumps(header | {"a": header["a"] | {"dtype": kind}}).encode())
    tried(read, (json_like(header) | typed).map(together) | bytes_like(whole), 100, times)
