"""Dynamic World's network as published, and one trained with its scaling: what each format makes of them, beside `apply`."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from drawn_networks import drawn, expected, real_tile, tiles

from specsar_jax import config as configs
from specsar_jax import export
from specsar_jax.batches.preprocess import Statistics
from specsar_jax.exports import stablehlo
from specsar_jax.exports.model_card import card
from specsar_jax.import_dynamic_world import LICENCE, ORIGIN, read_published
from specsar_jax.network import model
from specsar_jax.trained.bundle import read_bundle, write_bundle
from specsar_jax.trained.trained_network import Trained, named_weights
from tfds_dwplus import bands

Case = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def published(real) -> Trained:
    """Google's network."""
    folder = real / "dynamic_world_model"
    if not folder.is_dir():
        pytest.skip(f"no published network at {folder}")
    return read_published(folder)


@pytest.fixture(scope="module")
def four_bands() -> Trained:
    """A network as `--config.model=dynamic_world` trains it, of four bands of its own, one of which Dynamic World does not read."""
    names = ("B8A", "B4", "B3", "B2")
    config = configs.model_preset("dynamic_world", s2_channels=4)
    nine = drawn(configs.model_preset("dynamic_world"))
    statistics = Statistics(
        dataclasses.replace(nine.statistics.s2.choose(("B8", "B4", "B3", "B2")), bands=names),
        nine.statistics.s1,
        (1,) * 9,
    )
    variables = model.init_params(config, jax.random.key(1))
    config = configs.Config(model=config, data=configs.Data(scaling="log", s2_bands=names))
    return Trained(config, statistics, variables, 7, 0.8)


@pytest.fixture(scope="module", params=["published", "four_bands"])
def network(request, real) -> tuple[Trained, Path, list[tuple[Case, Case]]]:
    """One of both, its bundle, and parts of a real tile, of even and of odd sides, without data in places; with what `apply` says."""
    trained: Trained = request.getfixturevalue(request.param)
    s2, s1 = real_tile(real)
    s2 = s2[..., : len(trained.bands["s2"])]
    parts = [s2[:, :128, :96], np.array(s2[:, 200:301, 90:165])]
    parts[1][:, 40:50, 20:31], parts[1][:, 60, 60, 3] = 0, 0
    bundle = request.getfixturevalue("tmp_path_factory").mktemp("bundles") / "dw.safetensors"
    write_bundle(trained, bundle)
    s1 = s1[..., : len(trained.statistics.s1.bands)]
    return trained, bundle, [(part, expected(trained, part, s1[:, : part.shape[1], : part.shape[2]])) for part in parts]


def check(found: Case, wanted: Case) -> None:
    """Probabilities to 1e-5, also of pixels beside nodata; classes on 99.99 % of pixels; nodata in the same places."""
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-5, rtol=0)
    assert (found[1] == wanted[1]).mean() >= 0.9999
    np.testing.assert_array_equal(found[1] == bands.IGNORE, wanted[1] == bands.IGNORE)


def test_stablehlo(network):
    trained, _, cases = network
    weights = named_weights(trained.variables)
    exported = stablehlo.export_program(stablehlo.program(trained), trained, jax.tree.map(jax.typeof, weights))
    program = jax.export.deserialize(exported.serialize())
    for s2, wanted in cases:
        check(tuple(map(np.asarray, program.call(weights, s2))), wanted)


def test_onnx(network, tmp_path):
    pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    trained, bundle, cases = network
    for name, more in {"plain": [], "int8": ["--quantise"]}.items():
        output = tmp_path / f"{name}.onnx"
        export.main(["--workdir", str(bundle), "--format", "onnx", "--output", str(output), *more])
        session = ort.InferenceSession(output)
        assert [given.name for given in session.get_inputs()] == ["s2"]
        for s2, wanted in cases:
            found = session.run(None, {"s2": s2})
            if name == "plain":
                check(found, wanted)
            assert (found[1] == wanted[1]).mean() > 0.9
        told = session.get_modelmeta().custom_metadata_map
        assert (told["origin"], told["licence"]) == (trained.origin, trained.licence)
    page = (tmp_path / "plain.onnx.md").read_text()
    assert '{"s2": s2})' in page and "s1" not in page


def test_pytorch(network):
    torch = pytest.importorskip("torch")
    from specsar_jax.exports import torch_model

    _, bundle, cases = network
    module = torch_model.load(bundle)
    for s2, wanted in cases:
        with torch.inference_mode():
            found = module.probabilities(torch.from_numpy(s2).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(found, wanted[0], atol=1e-5, rtol=0)


def test_saved_model(network, tmp_path):
    tf = pytest.importorskip("tensorflow")
    _, bundle, cases = network
    export.main(["--workdir", str(bundle), "--format", "saved_model", "--output", str(tmp_path / "dw")])
    signature = tf.saved_model.load(tmp_path / "dw").signatures["serving_default"]
    for s2, wanted in cases:
        maps = signature(s2=tf.constant(s2))
        check((maps["probabilities"].numpy(), maps["classes"].numpy()), wanted)


def test_the_card_names_authors_licence_and_scaling(published, tmp_path):
    write_bundle(published, tmp_path / "dw.safetensors")
    output = tmp_path / "folder"
    export.main(["--workdir", str(tmp_path / "dw.safetensors"), "--format", "folder", "--output", str(output)])
    page = (output / "README.md").read_text()
    for told in (
        ORIGIN,
        "Dynamic World's network",
        '\nlicense: "apache-2.0"\n',
        "low 1.74173, high 2.0233",
        "exp(5 (x",
    ):
        assert told in page, told
    for untold in ("SpecSAR-Former", "Sentinel-1", "step 0", "labelled pixels", "trained on tiles", "--s1"):
        assert untold not in page, untold
    facts = json.loads((output / "config.json").read_text())
    assert (facts["origin"], facts["licence"]) == (ORIGIN, LICENCE)
    assert read_bundle(output / "model.safetensors").sha256 == published.sha256


def test_the_card_says_that_a_network_made_the_labels():
    trained = drawn(configs.model_preset("dynamic_world"))
    taught = dataclasses.replace(trained.statistics, labelled_by={"network: dynamic_world 1a2b3c4d5e6f (Google)": 5})
    page = card("x", dataclasses.replace(trained, statistics=taught), [], "", "float32")
    assert "labelled by network dynamic\\_world 1a2b3c4d5e6f (Google)" in page


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_trained_one_of_its_own_bands(four_bands, tmp_path, dtype):
    write_bundle(four_bands, tmp_path / "own.safetensors")
    output = tmp_path / "stored.safetensors"
    arguments = ["--format", "safetensors", "--dtype", dtype, "--origin", "Me", "--output", str(output)]
    export.main(["--workdir", str(tmp_path / "own.safetensors"), *arguments])
    back = read_bundle(output)
    assert (back.bands, back.origin, back.config) == ({"s2": ("B8A", "B4", "B3", "B2")}, "Me", four_bands.config)
    s2, s1 = tiles(1, 48, 33)
    wanted, found = (expected(of, s2[..., :4], s1)[0] for of in (four_bands, back))
    np.testing.assert_allclose(found, wanted, atol={"float32": 0, "float16": 5e-3, "bfloat16": 5e-2}[dtype])
    page = Path(f"{output}.md").read_text()
    assert "**Weights by**: Me." in page and "| Sentinel-2 | 0 | B8A | low 2.38289, high 2.75783 |" in page
