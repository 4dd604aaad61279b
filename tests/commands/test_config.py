"""Configs: overrides, JSON, and what a wrong key or value gets."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from specsar_jax import config as configs
from specsar_jax.config import Config
from specsar_jax.network import model

FILES = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


def test_override_keeps_the_rest_and_converts():
    config = configs.override(
        Config(), ["optimizer.learning_rate=1", "model.widths=(8,16,24,32)", "data.s2_bands=B2,B3", "data.flips=false"]
    )
    assert config.optimizer.learning_rate == 1.0 and isinstance(config.optimizer.learning_rate, float)
    assert config.model.widths == (8, 16, 24, 32)
    assert config.data.s2_bands == ("B2", "B3") and config.data.flips is False
    for text in ("(B2,B3)", "('B2','B3')", "(B2, B3,)"):
        assert configs.override(Config(), [f"data.s2_bands={text}"]).data.s2_bands == ("B2", "B3")
    assert configs.override(Config(), ["data.s2_bands=(B2)"]).data.s2_bands == ("B2",)
    assert config.train == Config().train


def test_a_preset_is_a_whole_network_and_later_assignments_change_it():
    config = configs.override(Config(), ["model.widths=(8,16)", "model=tiny", "model.dropout=0.1"])
    assert config == dataclasses.replace(Config(), model=configs.model_preset("tiny", dropout=0.1))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.learning_rat=1", "did you mean 'learning_rate'"),
        ("optimiser.learning_rate=1", "did you mean 'optimizer'"),
        ("optimizer.learning_rate=fast", "expected float"),
        ("train.steps=1.5", "expected int"),
        ("train.steps=True", "expected int"),
        ("model.widths=64", "expected tuple"),
        ("loss.name=focale", "expected one of focal, cross_entropy"),
        ("train", "section.field=value"),
        ("model", "section.field=value"),
        ("model=specsar_fromer", "did you mean 'specsar_former'"),
    ],
)
def test_wrong_override_is_named(assignment, message):
    with pytest.raises(ValueError, match=message):
        configs.override(Config(), [assignment])


def test_json_round_trip():
    config = configs.override(Config(), ["data.name=a", "model.branches=sar"])
    assert configs.from_dict(json.loads(json.dumps(configs.to_dict(config)))) == config
    assert configs.differences(Config(), config) == ["data.name: 'simulated', 'a'", "model.branches: 'both', 'sar'"]


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'specsar_former'"):
        configs.model_preset("specsar_fromer")


@pytest.mark.parametrize("text", ["", "def get_config(): return 1", "def get_config(:", "import no_such_module"])
def test_config_file_that_is_none(tmp_path, text):
    path = tmp_path / "wrong.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"wrong\.py"):
        configs.load(path)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_config_loads_and_builds_its_network(path):
    config = configs.load(path)
    assert jax.tree.leaves(model.abstract_params(config.model))
