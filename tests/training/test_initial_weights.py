"""Fine-tuning: what fits goes over by name, bands by theirs, and the rest is said."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import small_config
from drawn_networks import OWN, SMALL_PRESETS, drawn
from own_classes import with_names

from specsar_jax.config import override
from specsar_jax.network import model
from specsar_jax.trained.loading import load_trained
from specsar_jax.training import initial_weights, loop
from specsar_jax.training.initial_weights import load_finetuned
from tfds_dwplus import bands


def test_bands_go_by_name_and_the_rest_as_it_is(small_run):
    trained = load_trained(small_run / "run")
    config = small_config(small_run, "data.s2_bands=('B8','B2','B99')", "model.s2_channels=3", "model.classes=4")
    random = model.init_params(config.model, jax.random.key(5))
    given, carried = load_finetuned(small_run / "run", random, config, OWN)
    theirs = trained.variables["params"]["stage1"]["spectral_embed"]["kernel"]
    ours = given["params"]["stage1"]["spectral_embed"]["kernel"]
    held = trained.config.data.s2_bands
    np.testing.assert_array_equal(ours[:, :, :2], theirs[:, :, [held.index("B8"), held.index("B2")]])
    np.testing.assert_array_equal(ours[:, :, 2], random["params"]["stage1"]["spectral_embed"]["kernel"][:, :, 2])
    for stage in ("stage1", "stage2"):
        np.testing.assert_array_equal(
            given["params"][stage]["sar_embed"]["kernel"], trained.variables["params"][stage]["sar_embed"]["kernel"]
        )
    assert set(carried.drawn) == {
        "params.stage1.spectral_embed.kernel[B99]", "params.decoder.classify_kernel", "params.decoder.classify_bias"
    }  # fmt: skip
    assert set(carried.unused) == {"params.decoder.classify_kernel", "params.decoder.classify_bias"}


@pytest.mark.parametrize(
    ("before", "now", "shared"), [("spectral_only", "early_fusion", 9), ("early_fusion", "sar_only", 2)]
)
def test_one_branch_goes_on_as_another_one(before, now, shared, monkeypatch):
    """What Sentinel-2 alone has taught goes on with both sensors in one branch, channels by their bands; and the other way round."""
    theirs = with_names(drawn(SMALL_PRESETS[before]))
    monkeypatch.setattr(initial_weights, "load_trained", lambda path: theirs)
    config = dataclasses.replace(theirs.config, model=SMALL_PRESETS[now])
    random = model.init_params(config.model, jax.random.key(5))
    given, carried = load_finetuned(Path("theirs"), random, config, theirs.classes)
    branch, other = config.model.branch_names[0], theirs.config.model.branch_names[0]
    ours, known = given["params"]["stage1"], theirs.variables["params"]["stage1"]
    kernels = ours[f"{branch}_embed"]["kernel"], known[f"{other}_embed"]["kernel"]
    np.testing.assert_array_equal(
        kernels[0][:, :, :shared], kernels[1][:, :, -2:] if now == "sar_only" else kernels[1][:, :, :shared]
    )
    np.testing.assert_array_equal(
        ours["blocks"][f"{branch}_ffn"]["expand"]["kernel"], known["blocks"][f"{other}_ffn"]["expand"]["kernel"]
    )
    assert carried.drawn == (("params.stage1.stacked_embed.kernel[VV, VH]",) if now == "early_fusion" else ())


@pytest.mark.parametrize(
    ("preset", "unit", "told"),
    [
        ("specsar_former", "gamma0 dB", True),
        ("specsar_former", "sigma0 dB", False),
        ("specsar_former", "", False),
        ("spectral_only", "gamma0 dB", False),
    ],
)
def test_backscatter_of_another_kind_is_told(small_run, capsys, preset, unit, told):
    """The network learnt sigma0."""
    config = small_config(small_run, preset=preset)
    load_finetuned(
        small_run / "run", model.init_params(config.model, jax.random.key(0)), config, bands.DYNAMIC_WORLD, unit
    )
    assert ("Sentinel-1 is gamma0, but the network was trained on sigma0" in capsys.readouterr().out) == told


KNOWN = bands.Classes(("Grass", "forêt", "water", "sand dune"), ("88b053", "1b5e20", "419bdf", "d7ccc8"))
"""Two of Dynamic World's classes at other places, one written otherwise, and two new ones."""


@pytest.mark.parametrize("preset", ["specsar_former", "dynamic_world"])
def test_classes_go_by_name(preset, monkeypatch, capsys):
    theirs = with_names(drawn(SMALL_PRESETS[preset]))
    monkeypatch.setattr(initial_weights, "load_trained", lambda path: theirs)
    config = dataclasses.replace(theirs.config, model=dataclasses.replace(SMALL_PRESETS[preset], classes=4))
    random = model.init_params(config.model, jax.random.key(5))
    given, carried = load_finetuned(Path("theirs"), random, config, KNOWN)
    assert capsys.readouterr().out == "note: 2 of 4 classes are known: Grass, water; new: forêt, sand dune\n"
    places = ("classify", "kernel"), ("classify", "bias")
    if preset != "dynamic_world":
        places = ("decoder", "classify_kernel"), ("decoder", "classify_bias")
    for place in places:
        ours, before, new = (np.asarray(of["params"][place[0]][place[1]]) for of in (given, theirs.variables, random))
        np.testing.assert_array_equal(ours[..., [0, 2]], before[..., [2, 0]])
        np.testing.assert_array_equal(ours[..., [1, 3]], new[..., [1, 3]])
    assert set(carried.drawn) == {f"params.{'.'.join(place)}[forêt, sand dune]" for place in places}
    assert not carried.unused and all(f"params.{'.'.join(place)}" in carried.used for place in places)


def test_other_classes_of_the_same_number_are_drawn_anew(monkeypatch, capsys):
    theirs = with_names(drawn(SMALL_PRESETS["specsar_former"], classes=OWN))
    monkeypatch.setattr(initial_weights, "load_trained", lambda path: theirs)
    config = theirs.config
    random = model.init_params(config.model, jax.random.key(5))
    others = bands.Classes(("a", "b", "c", "d"), OWN.colours)
    given, carried = load_finetuned(Path("theirs"), random, config, others)
    assert "none of the 4 classes is known" in capsys.readouterr().out
    assert set(carried.drawn) == {"params.decoder.classify_kernel", "params.decoder.classify_bias"}
    for name in ("classify_kernel", "classify_bias"):
        np.testing.assert_array_equal(given["params"]["decoder"][name], random["params"]["decoder"][name])
    load_finetuned(Path("theirs"), random, config, OWN)
    assert capsys.readouterr().out == ""


def test_a_run_starts_from_another_one(small_run, tmp_path, capsys):
    settings = ("train.steps=1", "train.eval_every=1", f"train.finetune={small_run / 'run'}", "train.ema_decay=0.0")
    loop.train(small_config(small_run, *settings), tmp_path / "run")
    assert "weights that keep their initial values: 0" in capsys.readouterr().out
    before = load_trained(small_run / "run").variables["params"]
    after = load_trained(tmp_path / "run").variables["params"]
    for one, two in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-3)  # one step of AdamW


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("train.finetune=nowhere",), "no workdir or bundle nowhere"),
        (("train.finetune=nowhere", "train.pretrained=elsewhere"), "starts from one of them"),
    ],
)
def test_what_is_refused(small_run, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        loop.train(override(small_config(small_run), settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()
