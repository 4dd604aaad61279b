"""Exports: each format gives what `apply` gives, in a process without us; cards tell facts; a hub gives back what it got."""

import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import local_hub
import numpy as np
import pytest
import rasterio
from conftest import REPOSITORY, SMALL, command, refused
from consumed_files import consumed
from drawn_networks import gaps
from scored_tiles import tally_of, tiles

from specsar_jax import config as configs
from specsar_jax import export
from specsar_jax.accuracy.figures import figures_of
from specsar_jax.batches import preprocess
from specsar_jax.exports import saved_model, stablehlo
from specsar_jax.exports.model_card import card
from specsar_jax.network import model
from specsar_jax.trained import bundle, loading, trained_network
from specsar_jax.trained.trained_network import Trained
from tfds_dwplus import bands

BUNDLE = Path(__file__).parents[1] / "bundles" / "bundle_1.safetensors"


@pytest.fixture(scope="module")
def trained() -> Trained:
    return bundle.read_bundle(BUNDLE)


def pixels(height: int, width: int, batch: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Digital numbers and dB of which some are missing."""
    rng = np.random.default_rng(height)
    s2 = rng.integers(200, 5000, (batch, height, width, 9)).astype(np.uint16)
    s1 = rng.normal(-13.0, 5.0, (batch, height, width, 2)).astype(np.float32)
    s2[:, 3, 4, 5], s1[:, 7, 8, 1], s1[:, 9, 9] = 0, np.nan, np.inf
    return s2, s1


def real_pixels(real: Path) -> tuple[np.ndarray, np.ndarray]:
    """The test tile of `dwplus_mini`, 510 x 510."""
    rows = (real / "dwplus_mini" / "tiles.csv").read_text().splitlines()
    tile_id = next(row.split(",")[0] for row in rows if ",test," in row)
    read = []
    for sensor in ("s2", "s1"):
        with rasterio.open(real / "dwplus_mini" / sensor / f"{tile_id}.tif") as raster:
            read.append(np.moveaxis(raster.read(), 0, -1)[None])
    return read[0], read[1]


def expected(trained: Trained, s2: np.ndarray, s1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and classes by `apply`, said once more."""
    may_miss = trained.config.may_miss
    given = preprocess.standardise(s2, s1, trained.statistics, trained.config.data.scaling, may_miss)
    logits = jax.jit(functools.partial(model.apply, config=trained.config.model))(trained.variables, *given)
    valid = bands.valid_pixels(s2, s1, trained.config.model.sensors, may_miss)
    probabilities = np.asarray(jax.nn.softmax(logits / trained.temperature))
    return probabilities, np.where(valid, probabilities.argmax(axis=-1), bands.IGNORE)


def check(found: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray]) -> None:
    """Probabilities to 1e-4; classes alike, but where two are as likely: these networks are hardly trained."""
    assert (found[0].dtype, found[1].dtype) == (np.float32, np.uint8)
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-4)
    np.testing.assert_array_equal(found[1] == bands.IGNORE, wanted[1] == bands.IGNORE)
    place = np.minimum(found[1], found[0].shape[-1] - 1)[..., None]
    of_class = np.take_along_axis(wanted[0], place, axis=-1)[..., 0]
    likely = wanted[0].max(axis=-1) - of_class < 1e-5
    assert likely[wanted[1] != bands.IGNORE].all()


def check_consumer(
    trained: Trained, script: str, exported: list[Path], folder: Path, sizes: dict, without: tuple[str, ...] = ()
) -> None:
    """Runs a consumer on pixels of two sizes, as `consumed`; compares with `apply`."""
    for size, found in consumed(script, exported, folder, sizes, without).items():
        check(found, expected(trained, sizes[size]["s2"], sizes[size]["s1"]))


def sizes_of(s2: np.ndarray, s1: np.ndarray, odd: tuple[int, int]) -> dict[str, dict[str, np.ndarray]]:
    height, width = odd
    return {"odd": {"s2": s2[:, :height, :width], "s1": s1[:, :height, :width]}, "even": {"s2": s2, "s1": s1}}


def test_stablehlo_in_a_process_with_jax_alone(trained, tmp_path):
    written = tmp_path / "a.stablehlo"
    export.main(["--workdir", str(BUNDLE), "--format", "stablehlo", "--output", str(written)])
    check_consumer(trained, "consume_stablehlo.py", [written], tmp_path, sizes_of(*pixels(64, 96, 2), (33, 57)))


def test_stablehlo_of_pixels_that_one_sensor_alone_has_seen(trained, tmp_path):
    config = dataclasses.replace(trained.config, data=dataclasses.replace(trained.config.data, sensor_drop=(0.3, 0.3)))
    trained = dataclasses.replace(trained, config=config)
    s2, s1 = gaps(*pixels(64, 96, 2))
    given = trained_network.named_weights(trained.variables), *map(jnp.asarray, (s2, s1))
    found = [np.asarray(x) for x in stablehlo.program(trained)(*given)]
    check(tuple(found), expected(trained, s2, s1))
    seen = (s2 != 0).all(-1) | np.isfinite(s1).all(-1)
    np.testing.assert_array_equal(found[1] != bands.IGNORE, seen)


def test_stablehlo_of_a_real_tile_with_its_weights_beside(trained, real, tmp_path):
    written = tmp_path / "a.stablehlo"
    arguments = ["--format", "stablehlo", "--weights", "beside", "--output", str(written)]
    export.main(["--workdir", str(BUNDLE), *arguments])
    weights = tmp_path / "a.safetensors"
    assert loading.load_trained(weights).sha256 == trained.sha256
    check_consumer(
        trained, "consume_stablehlo.py", [written, weights], tmp_path, sizes_of(*real_pixels(real), (333, 257))
    )


def drawn(preset: str) -> Trained:
    """A network of a preset, as small, with weights as drawn and a band for each place."""
    flags = [flag.removeprefix("--config.") for flag in SMALL]
    flags = [
        flag for flag in flags if not preset.startswith("dynamic_world") or not flag.startswith("model.")
    ]  # it has one size
    config = configs.override(configs.Config(), [f"model={preset}", *flags])
    of = bundle.read_bundle(BUNDLE)
    return dataclasses.replace(of, config=config, variables=model.init_params(config.model, jax.random.key(0)))


@pytest.mark.parametrize(
    "preset",
    [
        pytest.param(
            preset,
            marks=()
            if preset in ("sar_only", "spectral_only", "dynamic_world", "dynamic_world_sar")
            else pytest.mark.slow,
        )
        for preset in configs.PRESETS
    ],
)
def test_every_preset_as_stablehlo(preset):
    trained = drawn(preset)
    exported = stablehlo.export_program(
        stablehlo.program(trained), trained, trained_network.named_weights(trained.variables)
    )
    s2, s1 = pixels(40, 33)
    given = [array for name, array in (("s2", s2), ("s1", s1)) if name in trained.config.model.sensors]
    probabilities, classes = exported.call(trained_network.named_weights(trained.variables), *given)
    check((np.asarray(probabilities), np.asarray(classes)), expected(trained, s2, s1))


def test_stablehlo_for_older_readers(trained):
    weights = trained_network.named_weights(trained.variables)
    exported = stablehlo.export_program(stablehlo.program(trained), trained, jax.tree.map(jax.typeof, weights))
    older = saved_model.older_stablehlo(exported)
    assert f"StableHLO_v{saved_model.STABLEHLO_VERSION}".encode() in older[:64]
    assert b"composite" not in older


def test_average_turns_is_not_exported(trained):
    turning = dataclasses.replace(trained, config=configs.override(trained.config, ["predict.average_turns=true"]))
    given = trained_network.named_weights(trained.variables), *map(jnp.asarray, pixels(32, 32))
    one, two = (stablehlo.program(of)(*given)[0] for of in (trained, turning))
    np.testing.assert_allclose(one, two, atol=1e-6)


needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
)


@needs_tensorflow
def test_saved_model_in_a_process_with_tensorflow_alone(trained, real, tmp_path):
    folder = tmp_path / "saved"
    done = command(
        "specsar_jax.export", "--workdir", BUNDLE, "--format", "saved_model", "--output", folder, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "README.md").read_text().count("serving_default") == 1
    sizes = sizes_of(*real_pixels(real), (333, 257))
    check_consumer(trained, "consume_saved_model.py", [folder], tmp_path, sizes, without=("jax", "jaxlib"))


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_saved_model_without_tensorflow_says_what_else_there_is(tmp_path):
    with pytest.raises(ValueError, match=r"pip install 'specsar_jax\[tensorflow\]'; --format onnx and"):
        export.main(["--workdir", str(BUNDLE), "--format", "saved_model", "--output", str(tmp_path / "s")])
    assert not list(tmp_path.iterdir())


def test_card_tells_the_scores_of_these_weights_only(trained, tmp_path):
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(BUNDLE.read_bytes())
    label, log_p = tiles()
    figures = figures_of(tally_of(label, log_p), bands.DYNAMIC_WORLD) | {
        "dataset": "d/mine",
        "split": "test",
        "step": 18,
        "tiles": 3,
    }
    (tmp_path / "mine.evaluation_test.json").write_text(json.dumps(figures))
    (tmp_path / "mine.evaluation_train.json").write_text(json.dumps(figures | {"step": 12, "split": "train"}))
    output = tmp_path / "b.safetensors"
    licence = "Ask first: someone@example.org"
    arguments = ["--format", "safetensors", "--dtype", "float16", "--licence", licence, "--output", str(output)]
    export.main(["--workdir", str(mine), *arguments])
    page = (tmp_path / "b.safetensors.md").read_text()
    assert f"| mIoU | {100 * figures['mean_iou']:.1f} |" in page and "`train`" not in page
    assert "scores are those of the float32 weights; in this file they are float16" in page
    assert '\nlicense: "other"\n' in page and f'\nlicense_name: "{licence}"\n' in page and page.endswith(f"{licence}\n")
    stored = bundle.read_bundle(output)
    assert stored.sha256 in page and stored.licence == licence
    places = [page.index(f"| {place} | {name} |") for place, name in enumerate(trained.statistics.s2.bands)]
    assert places == sorted(places)
    # Exported again, the licence stays.
    export.main(["--workdir", str(output), "--format", "safetensors", "--output", str(tmp_path / "c.safetensors")])
    again = (tmp_path / "c.safetensors.md").read_text()
    assert licence in again and "No evaluation of these weights" in again
    (tmp_path / "mine.evaluation_test.json").write_text('{"step": 18}')
    with pytest.raises(ValueError, match=r"evaluation_test\.json is no evaluation"):
        export.main(["--workdir", str(mine), "--format", "safetensors", "--output", str(tmp_path / "d")])


def test_card_says_that_simulated_tiles_are(trained):
    assert "simulated tiles" not in card("x", trained, [], "", "float32")
    simulated = dataclasses.replace(trained, config=configs.override(trained.config, ["data.name=simulated"]))
    assert "**Trained on simulated tiles**" in card("x", simulated, [], "", "float32")


def test_a_hub_gives_back_what_it_got(trained, tmp_path, monkeypatch):
    for name, value in {"HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": "hf_owner"}.items():
        monkeypatch.setenv(name, value)
    load = "import specsar_jax; network = specsar_jax.load('hub:owner/net').trained; print(network.sha256, network.licence)"

    def loaded() -> str:
        done = subprocess.run(
            [sys.executable, "-c", load], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def exported(*arguments: str):
        arguments = ("--workdir", BUNDLE, "--licence", "MIT", *arguments)
        return command("specsar_jax.export", "--format", "folder", *arguments, cwd=tmp_path)

    with local_hub.served() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        done = exported("--output", "net", "--push", "owner/net")
        assert done.returncode == 0, done.stderr
        assert "pushed to hub:owner/net@" in done.stdout and hub.private == {"owner/net": True}
        pushed = hub.repositories["owner/net"]
        assert pushed == {path.name: path.read_bytes() for path in (tmp_path / "net").iterdir()}
        assert pushed.keys() == {"README.md", "config.json", "model.safetensors"}
        assert pushed["README.md"].startswith(b"---\n") and b'load("hub:owner/net")' in pushed["README.md"]
        assert json.loads(pushed["config.json"])["config"]["model"]["widths"] == [8, 16]
        assert loading.load_trained(tmp_path / "net").sha256 == trained.sha256
        hub.asked.clear()
        assert loaded() == f"{trained.sha256} MIT\n"
        assert "GET /owner/net/resolve/main/model.safetensors" in hub.asked
        hub.asked.clear()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert loaded() == f"{trained.sha256} MIT\n"
        assert not hub.asked
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setenv("HF_TOKEN", "hf_other")
        line = refused(exported("--output", "other", "--push", "owner/net"))
        assert "other cannot be pushed to owner/net" in line and "401" in line
        line = refused(command("specsar_jax.evaluate", "--workdir", "hub:owner/no", "--output", "x", cwd=tmp_path))
        assert "hub:owner/no cannot be had" in line and "Repository Not Found" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "safetensors", "--output", "x", "--weights", "beside"], "--weights is of --format stablehlo"),
        (["--format", "stablehlo", "--output", "x", "--dtype", "float16"], "--dtype is of --format safetensors and"),
        (["--format", "safetensors", "--output", "x", "--push", "a/b"], "--push is of --format folder"),
        (["--format", "folder", "--output", "x", "--push", "a"], "'a' is no name of a repository"),
        (["--format", "folder", "--output", "there"], "there is there already"),
        (["--format", "safetensors", "--output", "there"], "there is a folder"),
        (["--format", "safetensors", "--output", "none/x"], "no folder"),
        (["--format", "safetensors", "--output", "x", "--licence", "x" * 3000], "expected a line of 2000 at most"),
        (
            ["--format", "safetensors", "--output", "x", "--origin", "a\nb"],
            "an origin of 3 characters, expected a line",
        ),
        (["--format", "pickle", "--output", "x"], "invalid choice"),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises((ValueError, SystemExit)) as stopped:
        export.main(["--workdir", str(BUNDLE), *arguments])
    assert message in (capsys.readouterr().err if stopped.type is SystemExit else str(stopped.value))
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_stablehlo_without_flatbuffers_is_one_line(trained, tmp_path, monkeypatch):
    def serialize(_):
        raise ImportError("Please install 'flatbuffers' in order to use Exported serialization")  # what JAX says

    monkeypatch.setattr(jax.export.Exported, "serialize", serialize)
    with pytest.raises(ValueError, match=r"needs flatbuffers: pip install 'specsar_jax\[stablehlo\]'"):
        stablehlo.write_stablehlo(trained, tmp_path / "x.stablehlo")
    assert not list(tmp_path.iterdir())
